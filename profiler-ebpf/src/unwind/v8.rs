//! Frames in V8's builtins and in the code that it makes. All of them keep frame pointers. A function's frame holds its
//! `JSFunction`; other frames have a marker in place of their context (`src/execution/frame-constants.h` of V8).

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use profiler_common::{
    CodeMapping, MAX_TARGETS, SCRIPT_TO_FUNCTION_ID, StackEnd, V8Frame, V8Place, V8Process,
};

use super::{Walker, emit, emit_native, frame_pointer, read};
use crate::cpu::Scratch;

/// Memory is used for entries that are there only.
const BPF_F_NO_PREALLOC: u32 = 1;

/// What is known of processes that run V8, by the owner of their mappings.
#[map]
static V8_PROCESSES: HashMap<u32, V8Process> = HashMap::with_max_entries(MAX_TARGETS, BPF_F_NO_PREALLOC);

/// The fixed part of a frame, from 40 bytes below the frame pointer to the return address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Frame {
    /// A small integer in interpreted frames.
    bytecode_offset: u64,
    /// In interpreted and baseline frames.
    bytecode_array: u64,
    arguments: u64,
    function: u64,
    context_or_marker: u64,
    frame_pointer: u64,
    return_address: u64,
}

const FRAME_BELOW: u64 = 40;
const FUNCTION_BELOW: u64 = 16;

/// The two lowest bits of a pointer to an object; a small integer has a zero in the lowest one and its value in the
/// upper half.
const TAG_MASK: u64 = 3;
const TAG: u64 = 1;

/// Writes the frame, and goes to its caller.
#[inline(always)]
pub(super) fn step(scratch: &mut Scratch) -> Result<(), StackEnd> {
    let walker = &scratch.walker;
    let frame_pointer = walker.frame_pointer;
    let frame = read::<Frame>(frame_pointer.wrapping_sub(FRAME_BELOW));
    // SAFETY: values are never changed in place while the map is read; a copy is taken of what is needed.
    let process = unsafe { V8_PROCESSES.get(walker.owner as u32) };
    let (Ok(frame), Some(process)) = (frame, process) else {
        emit_native(scratch);
        return frame_pointer::step(&mut scratch.walker);
    };
    // Unwind rows are for files: what V8 makes while it runs has none.
    let is_builtin = walker.mapping.table != CodeMapping::NO_TABLE;
    let is_innermost = walker.is_innermost == 1;
    // In the innermost frame, what is below the stack pointer was not written yet.
    let written = frame_pointer.wrapping_sub(walker.stack_pointer);
    let is_written = !is_innermost || (written >= FUNCTION_BELOW && written < 1 << 32);
    let is_function = frame.context_or_marker & TAG_MASK == TAG && is_written;
    if is_builtin && is_innermost {
        // A bytecode handler, or another builtin without a frame of its own: the frame is its caller's.
        emit_native(scratch);
    }
    let walker = &scratch.walker;
    let address = walker.instruction_pointer;
    let is_interpreted = is_builtin
        && is_function
        && frame.bytecode_offset as u32 == 0
        && (is_trampoline(walker, process) || is_bytecode(&frame, process));
    let emitted = if is_interpreted {
        V8Place::Bytecode((frame.bytecode_offset >> 32) as u32)
    } else if !is_builtin {
        V8Place::Code(address)
    } else if is_innermost {
        V8Place::Call(read(walker.stack_pointer).unwrap_or(0))
    } else {
        emit_native(scratch);
        return to_caller(&mut scratch.walker, &frame);
    };
    if is_function && let Ok((shared, script, function)) = identify(&frame, process) {
        emit(scratch, V8Frame::Function { shared, script, function, place: emitted }.words());
    } else if !is_builtin && frame.context_or_marker & 1 == 0 && is_written {
        let frame_type = (frame.context_or_marker as u32) >> 1;
        emit(scratch, V8Frame::Marked { frame_type, address }.words());
    } else if !(is_builtin && is_innermost) {
        emit_native(scratch);
    }
    to_caller(&mut scratch.walker, &frame)
}

/// As [`frame_pointer::step`], with the two words that were read already.
#[inline(always)]
fn to_caller(walker: &mut Walker, frame: &Frame) -> Result<(), StackEnd> {
    let frame_pointer = walker.frame_pointer;
    if frame_pointer < walker.stack_pointer {
        return Err(StackEnd::NotAscending);
    }
    walker.return_to(frame_pointer.wrapping_add(16), frame.frame_pointer, frame.return_address)
}

#[inline(always)]
fn is_trampoline(walker: &Walker, process: &V8Process) -> bool {
    let row = (walker.instruction_pointer - walker.is_return).wrapping_add(walker.mapping.to_row);
    row.wrapping_sub(process.trampoline_start) < process.trampoline_bytes && walker.is_innermost == 0
}

/// The slot holds bytecode: its neighbour is the offset in it.
#[inline(always)]
fn is_bytecode(frame: &Frame, process: &V8Process) -> bool {
    instance_type(frame.bytecode_array, process) == Ok(process.bytecode_array_type)
}

#[inline(always)]
fn instance_type(object: u64, process: &V8Process) -> Result<u32, StackEnd> {
    let map = pointer(read(pointer(object)?)?)?;
    Ok(u32::from(read::<u16>(map.wrapping_add(u64::from(process.map_instance_type)))?))
}

/// What a function is known by, for good.
#[inline(always)]
fn identify(frame: &Frame, process: &V8Process) -> Result<(u64, u32, u32), StackEnd> {
    let function = pointer(frame.function)?;
    let shared = pointer(read(function.wrapping_add(u64::from(process.function_shared)))?)?;
    // The script, and the number of the function in it.
    let script: [u32; SCRIPT_TO_FUNCTION_ID / 4 + 1] =
        read(shared.wrapping_add(u64::from(process.shared_script)))?;
    let function = script[SCRIPT_TO_FUNCTION_ID / 4];
    let script = pointer(u64::from(script[0]) | u64::from(script[1]) << 32)?;
    let id: u64 = read(script.wrapping_add(u64::from(process.script_id)))?;
    Ok((shared, (id >> 32) as u32, function))
}

#[inline(always)]
fn pointer(word: u64) -> Result<u64, StackEnd> {
    if word & TAG_MASK == TAG { Ok(word - TAG) } else { Err(StackEnd::Unreadable) }
}
