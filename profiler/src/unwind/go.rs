//! Go's own table of how far the stack pointer is from the return address, as rows: exact for every instruction, also in
//! prologues and in assembly that has no frame.
//!
//! Conventions: `src/runtime/asm_amd64.s`, `src/runtime/traceback.go` and `src/cmd/internal/obj/x86/obj6.go` of Go 1.19 and 1.25.

use profiler_common::{CfaKind, Rule};

use super::table::Builder;
use crate::symbol::GoTable;

/// Where the return address is, behind what a function has put on the stack.
const RETURN_ADDRESS: i32 = 8;
/// A function with a frame saves the frame pointer just below its return address.
const SAVED_FRAME_POINTER: u32 = 16;
/// Bytes that Go's assembly saves the registers of C in (`PUSH_REGS_HOST_TO_ABI0` of `runtime/cgo/abi_amd64.h`), and where
/// among them the frame pointer is, below the caller's frame.
const REGISTERS_OF_C: i32 = 232;
const FRAME_POINTER_OF_C: u32 = 224;

/// What is special about a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usual,
    /// Nothing called it: goroutines and threads start here, or it has left its goroutine for good.
    Start,
    /// It goes to another stack. The frame pointer still leads to its caller.
    SwitchesStack,
    /// C calls it, so it saves C's registers.
    CalledFromC,
    /// The kernel returns to it behind a signal handler.
    SignalReturn,
}

/// Takes in the rows of all functions.
pub(super) fn read(table: &GoTable<'_>, builder: &mut Builder) {
    for function in table.functions() {
        if builder.is_full() {
            return;
        }
        let kind = kind(table.name(function).unwrap_or_default(), table.writes_stack_pointer(function));
        let mut push = |start, end, rule: Option<Rule>| {
            builder.push(start, end, rule.and_then(Rule::pack).unwrap_or(CfaKind::Unknown as u32));
        };
        match kind {
            Kind::Start => push(function.start, function.end, Some(Rule::plain(CfaKind::EndOfStack))),
            Kind::SignalReturn => {
                // It is looked up one byte before, like every return address, but nothing has called it.
                let rule = Rule::plain(CfaKind::SignalFrame);
                push(function.start.saturating_sub(1), function.end, Some(rule));
            }
            Kind::Usual | Kind::CalledFromC | Kind::SwitchesStack => {
                let has_frame = table.stack_bytes(function).any(|(_, _, bytes)| bytes > 0);
                for (start, end, bytes) in table.stack_bytes(function) {
                    push(start, end, rule(kind, bytes, has_frame));
                }
            }
        }
    }
}

fn kind(name: &[u8], writes_stack_pointer: bool) -> Kind {
    match name {
        b"runtime.goexit" | b"runtime.mstart" | b"runtime.rt0_go" | b"_rt0_amd64" | b"_rt0_amd64_linux"
        | b"runtime.mcall" | b"runtime.morestack" => Kind::Start,
        b"runtime.sigreturn" | b"runtime.sigreturn__sigaction" => Kind::SignalReturn,
        b"runtime.sigtramp" | b"runtime.cgoSigtramp" | b"crosscall2" => Kind::CalledFromC,
        b"runtime.systemstack"
        | b"runtime.asmcgocall"
        | b"runtime.asmcgocall_no_g"
        | b"runtime.cgocallback" => Kind::SwitchesStack,
        _ if writes_stack_pointer => Kind::SwitchesStack,
        _ => Kind::Usual,
    }
}

fn rule(kind: Kind, stack_bytes: i32, has_frame: bool) -> Option<Rule> {
    if stack_bytes < 0 {
        return None;
    }
    // Before its frame is there, a function is still on the stack that it was called on.
    if kind == Kind::SwitchesStack && (stack_bytes > 0 || !has_frame) {
        return Some(Rule { register: 1, ..super::FRAME_POINTER_CHAIN });
    }
    let frame_pointer_below_cfa = match stack_bytes {
        REGISTERS_OF_C.. if kind == Kind::CalledFromC => FRAME_POINTER_OF_C,
        RETURN_ADDRESS.. if kind == Kind::Usual => SAVED_FRAME_POINTER,
        _ => 0,
    };
    let cfa_offset = stack_bytes.checked_add(RETURN_ADDRESS)?;
    Some(Rule { cfa: CfaKind::StackPointer, cfa_offset, frame_pointer_below_cfa, register: 0 })
}
