//! Machine code that V8 made: which of its objects an instruction belongs to, and which functions were inlined there.

use std::sync::Arc;

use super::function::{Function, bytecode};
use super::heap::{Address, Heap, small_integer, untag};
use super::positions::{
    self, BaselineStretch, Position, SourcePosition, baseline_stretches, source_positions,
};
use crate::symbol::Name;

/// Instructions start on multiples of this (`kCodeAlignment` on x86-64).
const ALIGNMENT: u64 = 64;
/// How far before an instruction its object is looked for.
const MAX_CODE_BYTES: u64 = 1 << 20;
/// Memory is searched backwards in pieces of this size.
const SEARCH_BYTES: u64 = 1 << 14;
const PAGE_BYTES: u64 = 1 << 12;
/// Most functions inlined into one.
const MAX_INLINED: u64 = 1 << 12;
/// Calls within calls.
const MAX_INLINE_DEPTH: usize = 64;
/// The kind of regular expressions in V8 10, whose frames have no marker (`src/objects/code-kind.h`).
const REGULAR_EXPRESSION_KIND: u32 = 3;
/// A call that was inlined: its position, the function's number, padding.
const INLINING_BYTES: usize = 16;

/// `push rbp; mov rbp, rsp`: from here on a function has a frame.
const FRAME_SET_UP: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];
/// `mov rsp, rbp; pop rbp`: from here on it has none, until it returns.
const FRAME_LEFT: [u8; 4] = [0x48, 0x8b, 0xe5, 0x5d];
/// What returns start with.
const RETURN: [u8; 2] = [0xc2, 0xc3];
/// A function returns soon after it has left its frame.
const MAX_EPILOGUE_BYTES: u64 = 32;
/// Functions set up their frame soon, or not at all.
const MAX_PROLOGUE_BYTES: usize = 128;

/// A piece of machine code.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) start: Address,
    pub(super) end: Address,
    /// Tells this piece from others that were at the same place.
    pub(super) serial: u64,
    fingerprint: Fingerprint,
    pub(super) content: Content,
    /// Offset of the instruction with which the function has its frame.
    frame_set_up: Option<u32>,
}

/// What it was made from.
#[derive(Debug)]
pub(super) enum Content {
    /// A regular expression.
    RegularExpression,
    /// A function's bytecode, one after the other.
    Baseline { bytecode: Option<Address>, stretches: Vec<BaselineStretch> },
    /// A function, with others inlined.
    Optimized(Optimized),
    /// Something without positions.
    Other,
}

/// Optimized code.
#[derive(Debug)]
pub(super) struct Optimized {
    pub(super) function: Arc<Function>,
    positions: Vec<Position>,
    /// The functions that are inlined somewhere in it.
    inlined: Vec<Option<Arc<Function>>>,
    calls: Vec<InlinedCall>,
}

/// A call whose callee was inlined (`InliningPosition` in `src/codegen/source-position.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InlinedCall {
    position: SourcePosition,
    /// Index of the callee; `None`: the outermost function calls itself.
    callee: Option<usize>,
}

/// What changes when another object takes the place of a piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    flags: u32,
    size: u32,
    deoptimization: u64,
    positions: u64,
}

impl Fingerprint {
    fn read(heap: &Heap, code: Address) -> Option<Self> {
        let layout = &heap.layout.code;
        // They are close to each other: one read instead of four, for each piece of code each second.
        let offsets = [layout.flags, layout.size, layout.deoptimization, layout.positions];
        let start = *offsets.iter().min()?;
        let length = offsets.iter().max()? + 8 - start;
        let bytes = heap.bytes(code + start, usize::try_from(length).ok()?)?;
        let word = |offset: u64| {
            let at = (offset - start) as usize;
            Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        Some(Self {
            flags: word(layout.flags)? as u32,
            size: word(layout.size)? as u32,
            deoptimization: word(layout.deoptimization)?,
            positions: word(layout.positions)?,
        })
    }
}

impl Code {
    /// The code that an instruction belongs to. `function` reads the function of a `SharedFunctionInfo`.
    pub(super) fn find(
        heap: &Heap,
        address: Address,
        serial: u64,
        mut function: impl FnMut(Address) -> Option<Arc<Function>>,
    ) -> Option<Self> {
        let (start, code) = search(heap, address)?;
        let layout = &heap.layout.code;
        let fingerprint = Fingerprint::read(heap, code)?;
        let end = start + u64::from(fingerprint.size);
        let kind = fingerprint.flags & layout.kind_mask;
        let content = if kind == layout.baseline_kind {
            baseline(heap, code)
        } else if kind > layout.baseline_kind {
            Content::Optimized(optimized(heap, code, fingerprint.size, &mut function)?)
        } else if kind == REGULAR_EXPRESSION_KIND && heap.layout.regular_expression_frame.is_none() {
            Content::RegularExpression
        } else {
            Content::Other
        };
        let frame_set_up = frame_set_up(heap, start, end);
        Some(Self { start, end, serial, fingerprint, content, frame_set_up })
    }

    /// Whether the same code is still there.
    pub(super) fn is_current(&self, heap: &Heap) -> bool {
        object_at(heap, self.start).and_then(|code| Fingerprint::read(heap, code)) == Some(self.fingerprint)
    }

    /// Whether it was made for this function.
    pub(super) fn is_made_for(&self, function: &Function) -> bool {
        match &self.content {
            Content::Optimized(optimized) => optimized.function.identity == function.identity,
            Content::Baseline { bytecode, .. } => bytecode.is_some() && *bytecode == function.bytecode,
            Content::RegularExpression | Content::Other => false,
        }
    }

    /// Whether the function has its own frame at an address, and not still or again its caller's.
    pub(super) fn has_frame(&self, heap: &Heap, address: Address) -> bool {
        if self.frame_set_up.is_some_and(|offset| address < self.start + u64::from(offset)) {
            return false;
        }
        let from = address.saturating_sub(MAX_EPILOGUE_BYTES).max(self.start);
        let before =
            heap.bytes(from, usize::try_from(address - from).unwrap_or_default()).unwrap_or_default();
        let Some(left) = memchr::memmem::rfind(&before, &FRAME_LEFT) else { return true };
        // Behind a return is other code.
        memchr::memchr2(RETURN[0], RETURN[1], &before[left + FRAME_LEFT.len()..]).is_some()
    }

    /// The functions at an address, outermost first; `function` is the one that the code was made for.
    pub(super) fn functions(&self, function: &Function, address: Address) -> Vec<Name> {
        let offset = address.saturating_sub(self.start);
        match &self.content {
            Content::Baseline { stretches, .. } => {
                let offset = u32::try_from(offset).ok();
                match offset.and_then(|offset| positions::bytecode_offset(stretches, offset)) {
                    Some(offset) => vec![function.at_bytecode(offset)],
                    None => vec![function.at(None)],
                }
            }
            Content::Optimized(optimized) => optimized.functions(function, offset),
            Content::RegularExpression | Content::Other => vec![function.at(None)],
        }
    }
}

impl Optimized {
    fn functions(&self, outermost: &Function, offset: u64) -> Vec<Name> {
        let found = i32::try_from(offset).ok().and_then(|offset| positions::find(&self.positions, offset));
        let Some(mut position) = found else { return vec![outermost.at(None)] };
        let mut names = Vec::new();
        while let Some(index) = position.inlining {
            let call = self.calls.get(index);
            let callee = call.and_then(|call| match call.callee {
                Some(callee) => self.inlined.get(callee)?.as_deref(),
                None => Some(outermost),
            });
            let (Some(call), Some(callee)) = (call, callee) else { return vec![outermost.at(None)] };
            if names.len() >= MAX_INLINE_DEPTH {
                return vec![outermost.at(None)];
            }
            names.push(callee.at(position.character));
            position = call.position;
        }
        names.push(outermost.at(position.character));
        names.reverse();
        names
    }
}

/// Looks for the start of the code that an instruction belongs to: the object with instructions points to the one that
/// describes them, and that one back to the instructions.
fn search(heap: &Heap, address: Address) -> Option<(Address, Address)> {
    let header = heap.layout.code.header;
    // Behind the last place where the code can start.
    let mut end = (address & !(ALIGNMENT - 1)).checked_add(ALIGNMENT)?;
    for _ in 0..MAX_CODE_BYTES / SEARCH_BYTES {
        let whole = end.checked_sub(SEARCH_BYTES + header)?;
        // Where memory begins there may be less of it: then the part in the last page.
        let parts = [whole, (end - 1) & !(PAGE_BYTES - 1)];
        let (from, bytes) = parts
            .into_iter()
            .find_map(|from| Some((from, heap.bytes(from, usize::try_from(end - from).ok()?)?)))?;
        let mut start = end.checked_sub(ALIGNMENT)?;
        while start >= from + header {
            let object = usize::try_from(start - header - from).ok()?;
            let is_pointer = |offset: usize| {
                let word = bytes.get(object + offset..).and_then(|bytes| bytes.first_chunk());
                word.is_some_and(|word| untag(u64::from_le_bytes(*word)).is_some())
            };
            if is_pointer(0)
                && is_pointer(8)
                && let Some(code) = object_at(heap, start)
            {
                let size = heap.half(code + heap.layout.code.size)?;
                return (address < start.checked_add(u64::from(size))?).then_some((start, code));
            }
            start = start.checked_sub(ALIGNMENT)?;
        }
        let next =
            if from == whole { end - SEARCH_BYTES } else { (from + header).next_multiple_of(ALIGNMENT) };
        if next >= end {
            return None;
        }
        end = next;
    }
    None
}

/// The object that describes the instructions that start here, if any do.
fn object_at(heap: &Heap, start: Address) -> Option<Address> {
    let layout = &heap.layout.code;
    let object = start.checked_sub(layout.header)?;
    let Some(field) = layout.start else {
        return heap.is(object, heap.layout.types.code).then_some(object);
    };
    let code = heap.typed(object + 8, heap.layout.types.code)?;
    (heap.word(code + field)? == start).then_some(code)
}

fn baseline(heap: &Heap, code: Address) -> Content {
    let layout = &heap.layout;
    let bytecode = bytecode(heap, heap.pointer(code + layout.code.deoptimization));
    let stretches = || -> Option<Vec<BaselineStretch>> {
        let table = heap.byte_array(heap.pointer(code + layout.code.positions)?)?;
        let length = usize::try_from(heap.integer(bytecode? + layout.array.length)?).ok()?;
        const MAX_BYTECODE_BYTES: usize = 1 << 22;
        let code = heap.bytes(bytecode? + layout.bytecode.data, length.min(MAX_BYTECODE_BYTES))?;
        baseline_stretches(&table, &code, &layout.bytecode.sizes)
    };
    Content::Baseline { bytecode, stretches: stretches().unwrap_or_default() }
}

fn optimized(
    heap: &Heap,
    code: Address,
    size: u32,
    function: &mut impl FnMut(Address) -> Option<Arc<Function>>,
) -> Option<Optimized> {
    let layout = &heap.layout;
    let inlining = &layout.inlining;
    let data = heap.pointer(code + layout.code.deoptimization)?;
    let data = heap.array(data, inlining.positions + 1)?;
    let field = |index: u64| data.get(usize::try_from(index).ok()?).copied();
    let shared = untag(field(inlining.shared)?)?;
    let shared = match inlining.shared_in_wrapper {
        Some(offset) if heap.is(shared, layout.types.shared_wrapper) => heap.pointer(shared + offset)?,
        _ => shared,
    };
    let count = u64::try_from(small_integer(field(inlining.function_count)?)?).ok()?;
    let literals = untag(field(inlining.literals)?);
    let inlined = match literals {
        Some(literals) if count > 0 => heap.array(literals, count.min(MAX_INLINED))?,
        _ => Vec::new(),
    };
    let calls = untag(field(inlining.positions)?).and_then(|calls| heap.byte_array(calls));
    let positions = heap.pointer(code + layout.code.positions).and_then(|table| heap.byte_array(table));
    let positions = positions.and_then(|table| source_positions(&table, layout.bytecode.encoding, size));
    Some(Optimized {
        function: function(shared)?,
        positions: positions.unwrap_or_default(),
        inlined: inlined.into_iter().map(|word| function(untag(word)?)).collect(),
        calls: inlined_calls(&calls.unwrap_or_default()),
    })
}

fn inlined_calls(bytes: &[u8]) -> Vec<InlinedCall> {
    let (calls, _) = bytes.as_chunks::<INLINING_BYTES>();
    calls
        .iter()
        .map(|call| {
            let (words, _) = call.as_chunks();
            let callee = i32::from_le_bytes([call[8], call[9], call[10], call[11]]);
            let position = SourcePosition::unpack(u64::from_le_bytes(words[0]));
            InlinedCall { position, callee: usize::try_from(callee).ok() }
        })
        .collect()
}

fn frame_set_up(heap: &Heap, start: Address, end: Address) -> Option<u32> {
    let length = MAX_PROLOGUE_BYTES.min(usize::try_from(end - start).ok()?);
    let bytes = heap.bytes(start, length)?;
    let at = memchr::memmem::find(&bytes, &FRAME_SET_UP)?;
    u32::try_from(at + FRAME_SET_UP.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls have a position and a callee; a part of one at the end is none.
    #[test]
    fn inlined_calls_are_read() {
        let mut bytes = (59_u64 << 1 | 1 << 31).to_le_bytes().to_vec();
        bytes.extend(2_i32.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend((-1_i32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend([1, 2, 3]);
        let calls = inlined_calls(&bytes);
        assert_eq!(calls.len(), 2);
        let position = SourcePosition { character: Some(58), inlining: Some(0) };
        assert_eq!(calls[0], InlinedCall { position, callee: Some(2) });
        assert_eq!(calls[1].callee, None);
    }
}
