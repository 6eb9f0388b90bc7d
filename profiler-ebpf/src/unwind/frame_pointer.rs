//! The chain of frame pointers: `[rbp]` is the caller's `rbp`, `[rbp + 8]` the return address.

use core::ffi::c_void;

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_user, bpf_task_pt_regs};
use profiler_common::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES, StackEnd};

use super::Walk;
use crate::cpu::Scratch;

/// The state that `bpf_loop` hands from step to step.
#[repr(C)]
struct Walker {
    scratch: *mut Scratch,
    frame_pointer: u64,
    end: u64,
}

#[inline(always)]
pub(super) fn walk(scratch: &mut Scratch, first: u32) -> Walk {
    // SAFETY: the helper returns the user registers of the current task, saved at its entry into the kernel, or zero.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
    if registers.is_null() {
        return Walk { frames: 0, end: StackEnd::NoUserStack };
    }
    // SAFETY: not null, and the verifier knows the layout.
    let (instruction_pointer, frame_pointer, stack_pointer, code_segment) =
        unsafe { ((*registers).rip, (*registers).rbp, (*registers).rsp, (*registers).cs) };
    // The low two bits of the code segment are the privilege level: 3 in user code.
    if code_segment & 3 != 3 || instruction_pointer == 0 || first as usize >= MAX_KERNEL_FRAMES + 1 {
        return Walk { frames: 0, end: StackEnd::NoUserStack };
    }
    scratch.frames[first as usize] = instruction_pointer;
    scratch.slot = u64::from(first) + 1;
    let mut walker = Walker { scratch, frame_pointer, end: StackEnd::TooDeep as u64 };
    if frame_pointer == 0 {
        walker.end = StackEnd::ChainEnd as u64;
    } else if frame_pointer < stack_pointer {
        walker.end = StackEnd::NotAscending as u64;
    } else {
        // SAFETY: `step` has the signature of a loop callback, and the context outlives the call.
        unsafe {
            bpf_loop(
                MAX_USER_FRAMES as u32 - 1,
                step as *mut c_void,
                core::ptr::from_mut(&mut walker).cast(),
                0,
            );
        }
    }
    let end = match walker.end {
        1 => StackEnd::ChainEnd,
        2 => StackEnd::Unreadable,
        3 => StackEnd::NotAscending,
        _ => StackEnd::TooDeep,
    };
    // SAFETY: the slot that the walker was given.
    let slot = unsafe { (*walker.scratch).slot };
    let frames = slot.wrapping_sub(u64::from(first));
    if frames > MAX_USER_FRAMES as u64 {
        return Walk { frames: 0, end: StackEnd::TooDeep };
    }
    Walk { frames: frames as u32, end }
}

/// One frame. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, walker: *mut Walker) -> i64 {
    const STOP: i64 = 1;
    // SAFETY: `bpf_loop` hands back the context that it was given.
    let walker = unsafe { &mut *walker };
    let frame_pointer = walker.frame_pointer;
    // SAFETY: the helper checks the address.
    let Ok([caller_frame_pointer, return_address]) =
        (unsafe { bpf_probe_read_user(frame_pointer as *const [u64; 2]) })
    else {
        walker.end = StackEnd::Unreadable as u64;
        return STOP;
    };
    if return_address == 0 {
        walker.end = StackEnd::ChainEnd as u64;
        return STOP;
    }
    // SAFETY: this CPU's slot, which outlives the walk.
    let scratch = unsafe { &mut *walker.scratch };
    let slot = scratch.slot;
    if slot >= (MAX_KERNEL_FRAMES + MAX_USER_FRAMES) as u64 {
        return STOP;
    }
    scratch.frames[slot as usize] = return_address;
    scratch.slot = slot + 1;
    if caller_frame_pointer == 0 {
        walker.end = StackEnd::ChainEnd as u64;
        return STOP;
    }
    if caller_frame_pointer <= frame_pointer {
        walker.end = StackEnd::NotAscending as u64;
        return STOP;
    }
    walker.frame_pointer = caller_frame_pointer;
    0
}
