//! Functions: their names, and which place in their script bytecode comes from.

use std::sync::Arc;

use super::heap::{Address, Heap, small_integer, untag};
use super::positions::{self, Position};
use super::script::Script;
use crate::symbol::Name;

/// Longest name of a function, in UTF-16 units.
const MAX_NAME: u64 = 1024;
/// Names of this many variables are in a scope itself; more are in a table (`kScopeInfoMaxInlinedLocalNamesSize`).
const MAX_INLINED_NAMES: u64 = 75;
/// Variables of a scope that are believed.
const MAX_VARIABLES: u64 = 1 << 16;
/// Slots behind the variables of a scope, as far as they matter.
const SCOPE_SLOTS: usize = 8;

/// What a function is known by in its isolate: `Script::id`, and its number in the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) script: u32,
    pub(super) function: u32,
}

/// A function of a script.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) identity: Identity,
    name: String,
    script: Arc<Script>,
    /// Where it starts, in UTF-16 units from the script's start.
    start: Option<u32>,
    /// Its bytecode when it was read.
    pub(super) bytecode: Option<Address>,
    positions: Vec<Position>,
}

/// What an object is.
pub(super) enum Shared {
    /// A function of a script, which is this object.
    OfScript(Identity, Address),
    /// A function without a script: one of V8's own, or of Node's in C++.
    Native,
}

/// Tells what a `SharedFunctionInfo` is for; `None` when it is none, or can't be read.
pub(super) fn identify(heap: &Heap, shared: Address) -> Option<Shared> {
    let layout = &heap.layout;
    if !heap.is(shared, layout.types.shared) {
        return None;
    }
    let Some(script) = heap.typed(shared + layout.shared.script, layout.types.script) else {
        return Some(Shared::Native);
    };
    let id = u32::try_from(heap.integer(script + layout.script.id)?).ok()?;
    let function = heap.half(shared + layout.shared.function_id)?;
    Some(Shared::OfScript(Identity { script: id, function }, script))
}

impl Function {
    pub(super) fn read(
        heap: &Heap,
        shared: Address,
        identity: Identity,
        script: Arc<Script>,
    ) -> Option<Self> {
        let (name, start) = name_and_start(heap, shared)?;
        let bytecode = bytecode(heap, heap.pointer(shared + heap.layout.shared.data));
        let positions = bytecode.and_then(|bytecode| bytecode_positions(heap, bytecode));
        let name = match (name.is_empty(), start.and_then(|start| script.line(start))) {
            (false, _) => name,
            // Functions without a name are told apart by where they are.
            (true, Some(line)) => format!("(anonymous:{line})"),
            (true, None) => "(anonymous)".to_owned(),
        };
        Some(Self { identity, name, script, start, bytecode, positions: positions.unwrap_or_default() })
    }

    /// The function at a character of its script; where that is not known, its first line.
    pub(super) fn at(&self, character: Option<u32>) -> Name {
        let line = character.or(self.start).and_then(|character| self.script.line(character));
        let file = self.script.file.as_deref().map(str::to_owned);
        Name { function: self.name.clone(), file, line }
    }

    /// The function at an offset in its bytecode.
    pub(super) fn at_bytecode(&self, offset: i32) -> Name {
        self.at(positions::find(&self.positions, offset).and_then(|position| position.character))
    }
}

/// A function's name, empty when it has none, and where it starts.
fn name_and_start(heap: &Heap, shared: Address) -> Option<(String, Option<u32>)> {
    let field = heap.word(shared + heap.layout.shared.name_or_scope)?;
    let Some(object) = untag(field) else { return Some((String::new(), None)) };
    if heap.is_string(object) {
        return Some((heap.text(object, MAX_NAME)?, None));
    }
    if !heap.is(object, heap.layout.types.scope) {
        return Some((String::new(), None));
    }
    let layout = &heap.layout.scope;
    let count = u64::try_from(heap.integer(object + layout.local_count)?).ok()?;
    if count > MAX_VARIABLES {
        return None;
    }
    // A name and a description of each; or one table of all names, and descriptions.
    let slots = count + if count < MAX_INLINED_NAMES { count } else { 1 };
    let bytes = heap.bytes(object + layout.first_variable + slots * 8, SCOPE_SLOTS * 8)?;
    let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let name = scope_names(heap, &words)?;
    let start = match layout.start {
        Some(start) => heap.integer(object + start),
        None => start_behind_names(&words),
    };
    Some((name, start.and_then(|start| u32::try_from(start).ok())))
}

/// The first name that is not empty: the function's own, or the one that V8 inferred.
fn scope_names(heap: &Heap, slots: &[u64]) -> Option<String> {
    for object in slots.iter().filter_map(|slot| untag(*slot)) {
        if heap.is_string(object) {
            let name = heap.text(object, MAX_NAME)?;
            if !name.is_empty() {
                return Some(name);
            }
        } else if heap.is(object, heap.layout.types.scope) {
            break; // the outer scope follows the names
        }
    }
    Some(String::new())
}

/// Before V8 12.8, start and end are the last two of the small integers that follow each other behind the names.
fn start_behind_names(slots: &[u64]) -> Option<i32> {
    let mut run: Vec<i32> = Vec::new();
    for slot in slots {
        match small_integer(*slot) {
            Some(value) => run.push(value),
            None if run.len() >= 2 => break,
            None => run.clear(),
        }
    }
    match run.as_slice() {
        [.., start, end] if (0..=*end).contains(start) => Some(*start),
        _ => None,
    }
}

/// The bytecode behind a function's data: itself, or what baseline code or a debugger put before it.
pub(super) fn bytecode(heap: &Heap, data: Option<Address>) -> Option<Address> {
    const MAX_STEPS: usize = 4;
    let types = &heap.layout.types;
    let mut object = data?;
    for _ in 0..MAX_STEPS {
        let kind = heap.instance_type(object)?;
        if kind == types.bytecode {
            return Some(object);
        }
        let field = if kind == types.code { heap.layout.code.deoptimization } else { return None };
        object = heap.pointer(object + field)?;
    }
    None
}

fn bytecode_positions(heap: &Heap, bytecode: Address) -> Option<Vec<Position>> {
    let table = heap.byte_array(heap.pointer(bytecode + heap.layout.bytecode.positions)?)?;
    let length = u32::try_from(heap.integer(bytecode + heap.layout.array.length)?).ok()?;
    positions::source_positions(&table, heap.layout.bytecode.encoding, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start and end follow the names, at times behind other small integers.
    #[test]
    fn start_is_found_behind_names() {
        let integer = |value: i32| u64::from(value as u32) << 32;
        let pointer = 0x3da9_f55d_d331;
        let named = [pointer, integer(-1), pointer, integer(154), integer(267), pointer];
        assert_eq!(start_behind_names(&named), Some(154));
        let without_inferred = [integer(7), pointer, integer(-1), integer(154), integer(267), pointer];
        assert_eq!(start_behind_names(&without_inferred), Some(154));
        assert_eq!(start_behind_names(&[pointer, integer(9), integer(3), pointer]), None);
        assert_eq!(start_behind_names(&[]), None);
    }
}
