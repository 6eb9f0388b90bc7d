//! From a thread's registers to its user stack. A way to unwind is a file here; this one chooses.

mod frame_pointer;

use profiler_common::StackEnd;

use crate::cpu::Scratch;

/// What a walk gave.
pub(crate) struct Walk {
    /// How many addresses were written.
    pub(crate) frames: u32,
    /// Why it stopped.
    pub(crate) end: StackEnd,
}

/// Writes the user stack of the current thread into `scratch.frames` from index `first`, innermost first.
#[inline(always)]
pub(crate) fn user_stack(scratch: &mut Scratch, first: u32) -> Walk {
    frame_pointer::walk(scratch, first)
}
