//! What the kernel itself counts for a process: the measure that samples can be held against.

use super::session::now_ns;
use crate::target::Process;

/// The kernel's figures for a process at one moment. What could not be read is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) pid: u32,
    /// When its CPU time was read, `CLOCK_MONOTONIC` in nanoseconds.
    pub(super) timestamp_ns: u64,
    pub(super) cpu_time_ns: Option<u64>,
    pub(super) rss_bytes: Option<u64>,
}

impl Reading {
    /// The figures of now.
    pub(super) fn of(pid: u32) -> Self {
        let rss_bytes = Process::open(pid).and_then(|process| process.stat()).map(|stat| stat.rss_bytes);
        Self { pid, timestamp_ns: now_ns(), cpu_time_ns: cpu_time_ns(pid), rss_bytes: rss_bytes.ok() }
    }
}

/// CPU time of a process since its start, from its own CPU clock (`clock_getcpuclockid(3)`).
fn cpu_time_ns(pid: u32) -> Option<u64> {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid.cast_signed())).ok()?;
    let time = nix::time::clock_gettime(clock).ok()?;
    u64::try_from(time.tv_sec()).ok()?.checked_mul(1_000_000_000)?.checked_add(time.tv_nsec().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own CPU time grows, and a process that is not there has no figures.
    #[test]
    fn readings() {
        let own = std::process::id();
        let first = Reading::of(own);
        assert!(first.rss_bytes.unwrap() > 0);
        while Reading::of(own).cpu_time_ns <= first.cpu_time_ns {}
        // The largest process ID that Linux gives is 4194304.
        let nobody = Reading::of(4_194_305);
        assert_eq!((nobody.cpu_time_ns, nobody.rss_bytes), (None, None));
    }
}
