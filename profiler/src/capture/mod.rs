//! Load, attach and drain the kernel half, and write what it says into a recording.
//!
//! [`Session`] holds what is attached and drains it by the clock. Each [`Batch`] goes to a thread of its own, where
//! [`Timeline`] puts events in order, gives them names and writes them: a slow disk or a large symbol table
//! must not keep the ring from being drained.

mod asking;
mod capabilities;
mod clients;
mod code;
mod cpu;
mod event;
mod gauges;
mod kernel;
mod long_calls;
mod mappings;
mod offsets;
mod paging;
mod python;
mod read_streams;
mod records;
mod session;
mod sockets;
mod tables;
mod timeline;
mod tls;
mod told;
mod unwinding;
mod v8;
mod wakeups;
mod wire;
mod yielding;

use std::path::PathBuf;

pub use code::kernel_table;
pub use cpu::has_cycles;
pub use kernel::{OBJECT, try_load};
pub(crate) use mappings::FileIdentity;
pub(crate) use mappings::read_maps;
pub use offsets::has_bpf_loop;
pub(crate) use session::now_ns;
pub use session::{Options, Progress, Session, Summary};
pub use wakeups::Wakeups;

/// The lowest and the highest sampling rate, in samples a second of CPU time.
pub const FREQUENCY_RANGE_HZ: std::ops::RangeInclusive<u64> = 1..=10_000;

/// Capturing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not describe itself.
    #[error(
        "this kernel has no BTF ({path}: {0}): use Linux 5.17 or newer, built with CONFIG_DEBUG_INFO_BTF; \
         `mcp-profiler doctor` shows what is missing",
        path = offsets::VMLINUX_BTF
    )]
    NoBtf(#[source] std::io::Error),
    /// The kernel's description can't be read.
    #[error("{} is malformed", offsets::VMLINUX_BTF)]
    MalformedBtf,
    /// The kernel lacks what stacks are walked with.
    #[error(
        "this kernel is {release}, which is too old: mcp-profiler needs Linux 5.17 or newer, or 5.14 of RHEL 9.2 or newer, \
         for bpf_loop, with which it walks stacks. Boot a newer kernel; `mcp-profiler doctor` says how"
    )]
    KernelTooOld {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// This kernel is laid out in a way that we do not know.
    #[error("this kernel has no field {structure}.{member}: it is too old or too new for this mcp-profiler")]
    MissingKernelField {
        /// The C structure.
        structure: &'static str,
        /// Its member.
        member: &'static str,
    },
    /// We may not load programs or open perf events.
    #[error(
        "not permitted to {what}: run mcp-profiler with sudo; `mcp-profiler doctor` shows which capability is missing"
    )]
    NotPermitted {
        /// What was refused.
        what: &'static str,
    },
    /// The kernel object does not contain what it should.
    #[error("the kernel object has no `{0}`: rebuild it with `cargo xtask ebpf`")]
    MissingInObject(&'static str),
    /// The kernel refused the object.
    #[error("the kernel refused to load the profiler's programs: {0}")]
    Load(#[source] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused a program of the profiler: {0}")]
    Program(#[source] aya::programs::ProgramError),
    /// A map can't be used.
    #[error("a map of the kernel half can't be used: {0}")]
    Map(#[source] aya::maps::MapError),
    /// The CPUs can't be listed.
    #[error("cannot list the online CPUs: {0}")]
    Cpus(#[source] std::io::Error),
    /// Perf events can't be opened.
    #[error(
        "cannot follow memory mappings through perf events: {0}; `mcp-profiler doctor` shows what is missing"
    )]
    Mappings(#[source] std::io::Error),
    /// All targets ended before anything could be recorded.
    #[error("process {0} ended before it could be recorded")]
    TargetEnded(u32),
    /// The recording can't be written.
    #[error(transparent)]
    Recording(#[from] crate::recording::Error),
    /// The thread that writes panicked: a bug.
    #[error("the recorder failed: {0} may be incomplete; please report this")]
    RecorderFailed(PathBuf),
}

impl From<aya::EbpfError> for Error {
    fn from(error: aya::EbpfError) -> Self {
        if is_refusal(&error) { Self::NotPermitted { what: "load eBPF programs" } } else { Self::Load(error) }
    }
}

impl From<aya::programs::ProgramError> for Error {
    fn from(error: aya::programs::ProgramError) -> Self {
        if is_refusal(&error) {
            Self::NotPermitted { what: "load and attach eBPF programs" }
        } else {
            Self::Program(error)
        }
    }
}

impl From<aya::maps::MapError> for Error {
    fn from(error: aya::maps::MapError) -> Self {
        if is_refusal(&error) { Self::NotPermitted { what: "use eBPF maps" } } else { Self::Map(error) }
    }
}

/// Whether the system refused something for want of privileges, at the root of an error.
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}
