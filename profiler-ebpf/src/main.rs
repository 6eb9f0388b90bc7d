//! The kernel half: a table of contents. Each program tests the target set first, and counts what it had to drop.

#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "the macros make public entry points without docs")]

mod cpu;
mod output;
mod targets;
mod unwind;
mod wire;

use aya_ebpf::macros::{btf_tracepoint, perf_event, raw_tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{
    BtfTracePointContext, PerfEventContext, ProbeContext, RawTracePointContext, RetProbeContext,
};

/// A thread is on a CPU: cpu-clock or hardware cycles.
#[perf_event]
pub fn cpu_sample(context: PerfEventContext) -> u32 {
    cpu::sample(&context);
    0
}

/// A process or a thread is being made: `sched_process_fork(parent, child)`.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn target_fork(context: RawTracePointContext) -> i32 {
    targets::fork(&context);
    0
}

/// A process runs another program: `sched_process_exec(task, old_pid, bprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn target_exec(_context: RawTracePointContext) -> i32 {
    targets::exec();
    0
}

/// A thread ends: `sched_process_exit(task)`.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn target_exit(context: RawTracePointContext) -> i32 {
    targets::exit(&context);
    0
}

/// A system call returns: `sys_exit(registers, return value)`.
#[btf_tracepoint(function = "sys_exit")]
pub fn wire_exit(context: BtfTracePointContext) -> i32 {
    wire::returned(&context);
    0
}

/// A system call starts: `sys_enter(registers, number)`. Attached when a watched process has a client on this host.
#[btf_tracepoint(function = "sys_enter")]
pub fn client_enter(context: BtfTracePointContext) -> i32 {
    wire::clients::entered(&context);
    0
}

/// A function of OpenSSL that moves bytes is entered.
#[uprobe]
pub fn tls_enter(context: ProbeContext) -> u32 {
    wire::tls::entered(&context);
    0
}

/// It returns.
#[uretprobe]
pub fn tls_return(context: RetProbeContext) -> u32 {
    wire::tls::returned(&context);
    0
}

/// `SSL_free` is entered.
#[uprobe]
pub fn tls_free(context: ProbeContext) -> u32 {
    wire::tls::freed(&context);
    0
}

// The kernel lends its tracing helpers only to programs with a licence that it knows as compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a program in which this could be reached.
    loop {}
}
