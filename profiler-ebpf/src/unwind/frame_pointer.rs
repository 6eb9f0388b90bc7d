//! The chain of frame pointers: `[rbp]` is the caller's `rbp`, `[rbp + 8]` the return address.

use profiler_common::StackEnd;

use super::{Walker, read};

#[inline(always)]
pub(super) fn step(walker: &mut Walker) -> Result<(), StackEnd> {
    let frame_pointer = walker.frame_pointer;
    if frame_pointer == 0 {
        return Err(StackEnd::ChainEnd);
    }
    if frame_pointer < walker.stack_pointer {
        return Err(StackEnd::NotAscending);
    }
    let [caller_frame_pointer, return_address] = read::<[u64; 2]>(frame_pointer)?;
    walker.return_to(frame_pointer.wrapping_add(16), caller_frame_pointer, return_address)
}
