//! What watched processes read and write, where it may be MCP: taken when the system call returns, from the process's
//! own buffers. Streams are known by the inode of their pipe or socket: file descriptors are moved and copied.
//!
//! [`clients`] takes the times at which their clients wrote, [`tls`] what goes through OpenSSL.

pub(crate) mod clients;
mod descriptor;
mod streams;
pub(crate) mod tls;
mod transfer;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::BtfTracePointContext;
use profiler_common::{EventKind, WireEvent, WireFlag};

use crate::output::header;
use crate::targets::{self, Current};
use descriptor::Descriptor;
use streams::Judgement;
use transfer::{Buffers, Scratch};

/// `BPF_NOEXIST` of `include/uapi/linux/bpf.h`.
const IF_ABSENT: u64 = 1;

/// A part of a transfer while it is put together. Tracepoints run without preemption: one a CPU is enough.
#[map]
static WIRE_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// System calls of interest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// It moves bytes between a descriptor and the process's own memory.
    Moves { buffers: Buffers, is_write: bool },
    /// It moves bytes that are not looked at: they never come to the process's memory, or as several messages.
    MovesUnseen,
    /// It serves an `io_uring`, by which a process reads and writes without system calls.
    IoUring,
}

impl Call {
    /// By the number (`arch/x86/entry/syscalls/syscall_64.tbl`). Comes first in programs that run for every process of the
    /// host: most of their system calls end here, without a helper.
    #[inline(always)]
    fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 | 45 => Self::Moves { buffers: Buffers::Plain, is_write: false }, // read, recvfrom
            1 | 44 => Self::Moves { buffers: Buffers::Plain, is_write: true },  // write, sendto
            19 | 327 => Self::Moves { buffers: Buffers::Vectors, is_write: false }, // readv, preadv2
            20 | 328 => Self::Moves { buffers: Buffers::Vectors, is_write: true }, // writev, pwritev2
            47 => Self::Moves { buffers: Buffers::Message, is_write: false },   // recvmsg
            46 => Self::Moves { buffers: Buffers::Message, is_write: true },    // sendmsg
            // sendfile, splice, tee, vmsplice, recvmmsg, sendmmsg
            SENDFILE | SPLICE | TEE | 278 | 299 | 307 => Self::MovesUnseen,
            425 | 426 => Self::IoUring, // io_uring_setup, io_uring_enter
            _ => return None,
        })
    }
}

const SENDFILE: u64 = 40;
const SPLICE: u64 = 275;
const TEE: u64 = 276;
/// Where a system call's registers are in `struct pt_regs` of x86-64 (`arch/x86/include/asm/ptrace.h`).
const FOURTH_ARGUMENT: usize = 56;
const THIRD_ARGUMENT: usize = 96;
const SECOND_ARGUMENT: usize = 104;
const FIRST_ARGUMENT: usize = 112;
const NUMBER: usize = 120;
/// Two results of system calls on a stream whose other end is gone (`include/uapi/asm-generic/errno.h`).
const EPIPE: i64 = 32;
const ECONNRESET: i64 = 104;
/// `MSG_PEEK` and `MSG_ERRQUEUE` (`include/linux/socket.h`): what such calls get is not taken from the stream.
const PEEK: u64 = 0x2 | 0x2000;

/// The registers of a thread that made a system call.
#[derive(Clone, Copy)]
struct Registers(*const u8);

impl Registers {
    #[inline(always)]
    fn get(self, offset: usize) -> u64 {
        // SAFETY: the verifier knows the tracepoint's argument as a `struct pt_regs` and checks the offset.
        unsafe { self.0.add(offset).cast::<u64>().read_volatile() }
    }
}

/// `sys_exit(registers, return value)`.
#[inline(always)]
pub(crate) fn returned(context: &BtfTracePointContext) {
    let registers = Registers(context.arg(0));
    let number = registers.get(NUMBER);
    let Some(call) = Call::of(number) else { return };
    let result: i64 = context.arg(1);
    let thread = bpf_get_current_pid_tgid();
    if let Call::Moves { is_write: true, .. } = call {
        clients::returned(registers, thread, result);
    }
    let is_reset = result == -ECONNRESET || result == -EPIPE;
    if result < 0 && !is_reset {
        return;
    }
    let Some(current) = targets::of(thread) else { return };
    match call {
        Call::Moves { buffers, is_write } => moved(registers, result, buffers, is_write, &current),
        Call::MovesUnseen if result > 0 => {
            streams::skipped(registers.get(FIRST_ARGUMENT));
            match number {
                SPLICE => streams::skipped(registers.get(THIRD_ARGUMENT)),
                SENDFILE | TEE => streams::skipped(registers.get(SECOND_ARGUMENT)),
                _ => {}
            }
        }
        Call::IoUring if result >= 0 && streams::is_first(streams::of_process(current.pid)) => {
            transfer::tell(&event(&current, 0, 0, WireFlag::IoUring as u32));
        }
        Call::MovesUnseen | Call::IoUring => {}
    }
}

#[inline(always)]
fn moved(registers: Registers, result: i64, buffers: Buffers, is_write: bool, current: &Current) {
    let is_reset = result < 0;
    let count = registers.get(THIRD_ARGUMENT);
    // The third argument of `recvmsg` is no length.
    let is_wanted = count > 0 || buffers == Buffers::Message;
    let is_ended = is_reset || (result == 0 && !is_write && is_wanted);
    if result <= 0 && !is_ended {
        return;
    }
    // Whether a receiving call left in the stream what it got.
    let flags = match registers.get(NUMBER) {
        45 => registers.get(FOURTH_ARGUMENT),
        47 => count,
        _ => 0,
    };
    if flags & PEEK != 0 {
        return;
    }
    let descriptor = registers.get(FIRST_ARGUMENT);
    let Some(Descriptor { stream, is_socket }) = descriptor::look_up(descriptor) else { return };
    let rule = streams::rule(stream);
    if streams::is_ignored(rule, is_ended) {
        return;
    }
    let Some(scratch) = WIRE_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the slot is this CPU's own while the program runs.
    let scratch = unsafe { &mut *scratch };
    if !scratch.transfer.set(buffers, registers.get(SECOND_ARGUMENT), count) {
        return;
    }
    let mut flags = u32::from(is_write) * WireFlag::Written as u32
        | u32::from(is_socket) * WireFlag::Socket as u32
        | u32::from(is_ended) * WireFlag::Ended as u32;
    let total = if is_ended { 0 } else { result as u64 };
    let start = streams::Start {
        buffer: scratch.transfer.buffer,
        length: scratch.transfer.first_length,
        is_written: is_write,
    };
    match streams::judge(stream, rule, start) {
        Judgement::Take(rule) => {
            scratch.event = event(current, stream, descriptor as u32, flags);
            transfer::send(scratch, rule, total);
        }
        Judgement::Encrypted => {
            flags |= WireFlag::Encrypted as u32;
            transfer::tell(&event(current, stream, descriptor as u32, flags));
        }
        Judgement::Leave => {}
    }
}

#[inline(always)]
fn event(current: &Current, stream: u64, descriptor: u32, flags: u32) -> WireEvent {
    WireEvent {
        header: header(EventKind::Wire, current.pid),
        stream,
        tid: current.tid,
        total: 0,
        offset: 0,
        length: 0,
        flags,
        descriptor,
    }
}
