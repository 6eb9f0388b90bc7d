//! From a thread's registers to its user stack: the walk itself, a frame a step. Where each frame's caller is, is the
//! business of the files here, one a way to unwind.

mod code;
mod frame_pointer;
mod mappings;
mod python;
mod rows;
mod tasks;
mod v8;

use core::ffi::c_void;

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_user, bpf_task_pt_regs};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use profiler_common::{
    CodeMapping, FrameTag, Interpreter, MAX_FRAME_WORDS, MAX_KERNEL_FRAMES, MAX_USER_FRAMES, MAX_USER_WORDS,
    StackEnd,
};

use crate::cpu::Scratch;
pub(crate) use code::code_changes;

/// What a walk gave.
pub(crate) struct Walk {
    /// How many words were written.
    pub(crate) words: u32,
    /// Why it stopped: a [`StackEnd`].
    pub(crate) end: u32,
}

/// The state of a walk. It lives in a map, not on the BPF stack, so that the verifier forgets its values and takes one
/// step of a walk for all of them.
#[repr(C)]
pub(crate) struct Walker {
    instruction_pointer: u64,
    stack_pointer: u64,
    frame_pointer: u64,
    /// 1 when the instruction pointer is a return address: the call is before it.
    is_return: u64,
    /// 1 while the registers are those of the thread itself: in the innermost frame.
    is_innermost: u64,
    /// 1 behind a signal handler: the thread's registers say nothing of these frames.
    is_interrupted: u64,
    /// Where the next frame goes.
    slot: u64,
    /// How many frames there are.
    frames: u64,
    /// Whose code mappings these are.
    owner: u64,
    /// A [`StackEnd`].
    end: u64,
    /// The mapping of the last frame: callers are often in the same file.
    mapping: CodeMapping,
    /// 1 when it is the kernel's own, and not what user space told.
    is_found: u64,
    recent: code::Recent,
    descent: mappings::Descent,
    saved: rows::Saved,
    found: rows::Found,
    chain: python::Chain,
}

const PYTHON: u32 = Interpreter::Python as u32;
const V8: u32 = Interpreter::V8 as u32;

/// A frame takes one turn, and the evaluation of Python functions up to three more. So does who waits for them, once.
const MAX_TURNS: u32 = 4 * MAX_USER_FRAMES as u32 + tasks::MAX_TURNS as u32;

/// Returned by a loop's step: no further step.
const STOP: i64 = 1;

/// Writes the user stack of the current thread into `scratch.words` from index `first`, innermost first.
#[inline(always)]
pub(crate) fn user_stack(scratch: &mut Scratch, first: u32, owner: u32) -> Walk {
    const NOTHING: Walk = Walk { words: 0, end: StackEnd::NoUserStack as u32 };
    // SAFETY: the helper returns the user registers of the current task, saved at its entry into the kernel, or zero.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
    if registers.is_null() {
        return NOTHING;
    }
    // SAFETY: not null, and the verifier knows the layout.
    let (instruction_pointer, frame_pointer, stack_pointer, code_segment) =
        unsafe { ((*registers).rip, (*registers).rbp, (*registers).rsp, (*registers).cs) };
    // The low two bits of the code segment are the privilege level: 3 in user code.
    if code_segment & 3 != 3 || instruction_pointer == 0 || first as usize > MAX_KERNEL_FRAMES {
        return NOTHING;
    }
    // In user code it has one.
    if first > 0 && mappings::is_without_stack() {
        return NOTHING;
    }
    let walker = &mut scratch.walker;
    walker.instruction_pointer = instruction_pointer;
    walker.stack_pointer = stack_pointer;
    walker.frame_pointer = frame_pointer;
    walker.is_return = 0;
    walker.is_innermost = 1;
    walker.is_interrupted = 0;
    walker.slot = u64::from(first);
    walker.frames = 0;
    walker.owner = u64::from(owner);
    walker.end = StackEnd::TooDeep as u64;
    code::begin(walker);
    walker.chain.reset();
    let mut context = core::ptr::from_mut(scratch);
    // SAFETY: `step` has the signature of a loop callback, and the context outlives the call.
    unsafe {
        bpf_loop(MAX_TURNS, step as *mut c_void, core::ptr::from_mut(&mut context).cast(), 0);
    }
    // SAFETY: this CPU's slot, which outlives the walk.
    let walker = unsafe { &(*context).walker };
    let words = walker.slot.wrapping_sub(u64::from(first));
    if words > MAX_USER_WORDS as u64 {
        return NOTHING;
    }
    let is_whole = walker.end == StackEnd::Outermost as u64 || walker.end == StackEnd::ChainEnd as u64;
    let end = if is_whole && walker.chain.is_lost() {
        StackEnd::PythonFramesUnreadable as u32
    } else {
        walker.end as u32
    };
    Walk { words: words as u32, end }
}

/// One frame. Returns [`STOP`] to stop.
unsafe extern "C" fn step(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `bpf_loop` hands back the context that it was given: this CPU's slot.
    let scratch = unsafe { &mut **context };
    // Each turn does one thing: where one could lead into another, the verifier would follow all their ways together.
    let walker = &mut scratch.walker;
    if walker.frames >= MAX_USER_FRAMES as u64 {
        return STOP;
    }
    let slot = walker.slot;
    let mut is_mapped = true;
    let mut interpreter = PYTHON;
    match walker.chain.state() {
        python::State::Showing => {
            python::step(scratch);
            return 0;
        }
        python::State::Left => {
            python::check(scratch);
            return 0;
        }
        python::State::Entered | python::State::Awaited | python::State::Holding | python::State::Waiting => {
            tasks::step(scratch);
            return 0;
        }
        python::State::Leaving => {}
        python::State::Elsewhere => {
            is_mapped = code::find(walker);
            interpreter = if is_mapped { walker.mapping.interpreter } else { Interpreter::None as u32 };
            let word = walker.native_word();
            if interpreter == PYTHON && python::enter(walker, word) {
                return 0;
            }
            if interpreter != V8 {
                emit(scratch, [word]);
            }
        }
    }
    let outcome = match is_mapped {
        _ if interpreter == V8 => v8::step(scratch),
        true if scratch.walker.mapping.table == CodeMapping::NO_TABLE => {
            frame_pointer::step(&mut scratch.walker)
        }
        true => rows::step(&mut scratch.walker),
        false => Err(StackEnd::NoMapping),
    };
    scratch.walker.chain.leave();
    match outcome {
        Ok(()) => {
            // The stub behind a signal handler was not called either: the kernel makes the handler return to its start.
            if slot < (MAX_KERNEL_FRAMES + MAX_USER_WORDS) as u64 {
                scratch.words[slot as usize] += 1 - (scratch.walker.is_return & 1);
            }
            0
        }
        Err(end) => {
            scratch.walker.end = end as u64;
            STOP
        }
    }
}

/// Writes the walker's frame as machine code.
#[inline(always)]
fn emit_native(scratch: &mut Scratch) {
    let word = scratch.walker.native_word();
    emit(scratch, [word]);
}

/// Writes a frame. There is room for as many as a walk may have.
#[inline(always)]
fn emit<const WORDS: usize>(scratch: &mut Scratch, words: [u64; WORDS]) {
    let slot = scratch.walker.slot;
    if slot > (MAX_KERNEL_FRAMES + MAX_USER_WORDS - MAX_FRAME_WORDS) as u64 {
        return; // tells the verifier
    }
    for (offset, word) in words.into_iter().enumerate() {
        scratch.words[slot as usize + offset] = word;
    }
    scratch.walker.slot = slot + WORDS as u64;
    scratch.walker.frames += 1;
}

impl Walker {
    /// The frame that the walker stands in, as machine code.
    #[inline(always)]
    fn native_word(&self) -> u64 {
        // User space looks callers up one byte before their return addresses. Where a signal interrupted, the address is
        // that of an instruction that did not run yet, perhaps a function's first one: one more makes up for it.
        let is_interrupted = 1 - (self.is_return | self.is_innermost) & 1;
        // What was taken for a return address may be anything: it must not look like a frame of another kind.
        let tag = if self.is_found == 0 { FrameTag::Native } else { FrameTag::Found };
        tag.word(self.instruction_pointer.wrapping_add(is_interrupted))
    }

    /// Goes to the caller: its frame address, its frame pointer, and where it is called from.
    #[inline(always)]
    fn return_to(
        &mut self,
        frame_address: u64,
        frame_pointer: u64,
        return_address: u64,
    ) -> Result<(), StackEnd> {
        if frame_address <= self.stack_pointer {
            return Err(StackEnd::NotAscending);
        }
        if return_address == 0 {
            return Err(StackEnd::ChainEnd);
        }
        self.stack_pointer = frame_address;
        self.frame_pointer = frame_pointer;
        self.instruction_pointer = return_address;
        self.is_return = 1;
        self.is_innermost = 0;
        Ok(())
    }
}

/// Where a value belongs in a table of so many bits (Fibonacci hashing).
#[inline(always)]
fn place_of(value: u64, bits: u32) -> usize {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
}

#[inline(always)]
fn read<T>(address: u64) -> Result<T, StackEnd> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const T) }.map_err(|_| unreadable(address))
}

/// Where this CPU's walk could not read last. User space reads there, which pages in what is paged out.
#[map]
static UNREADABLE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Called, not copied to each place that reads.
#[inline(never)]
fn unreadable(address: u64) -> StackEnd {
    if let Some(last) = UNREADABLE.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own while the program runs.
        unsafe { *last = address };
    }
    StackEnd::Unreadable
}

/// Where the walk could not read last; zero when it could read all.
#[inline(always)]
pub(crate) fn take_unreadable() -> u64 {
    // SAFETY: as above.
    UNREADABLE.get_ptr_mut(0).map_or(0, |last| unsafe { core::mem::take(&mut *last) })
}
