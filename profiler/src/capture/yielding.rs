//! The thread that writes the recording works when the machine has nothing else to do: a server that answers tens of thousands of
//! calls a second needs the CPU that decoding them takes. It has the kernel's idle policy (sched(7)) for as long as it keeps up.
//! On a machine without idle time it falls behind, and names are to be read before runtimes move or free what they are of: then it
//! has the usual policy for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::unistd::{Pid, gettid};

/// Batches that wait when it is behind: the one before the last was not written within a tick.
const MANY_BATCHES: u64 = 2;
/// How long it gives way to nobody then.
const HURRY: Duration = Duration::from_secs(10);

/// Batches that were sent and are not written yet. Shared by sender and writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Backlog(Arc<AtomicU64>);

impl Backlog {
    pub(super) fn sent(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn written(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread, and whether it gives way now.
#[derive(Debug)]
pub(super) struct Yielding {
    thread: Pid,
    is_idle: bool,
    /// Not before that.
    idle_from: Instant,
}

impl Yielding {
    /// The current thread, which does not give way yet. `None` without the capability to call it back from that.
    pub(super) fn current() -> Option<Self> {
        let may_return = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_NICE);
        may_return.unwrap_or(false).then(|| Self {
            thread: gettid(),
            is_idle: false,
            idle_from: Instant::now(),
        })
    }

    /// Sets the policy that the backlog asks for.
    pub(super) fn adapt(&mut self, backlog: &Backlog, now: Instant) {
        let waiting = backlog.0.load(Ordering::Relaxed);
        if waiting >= MANY_BATCHES {
            self.idle_from = now + HURRY;
            self.hurry();
        } else if !self.is_idle && waiting == 0 && now >= self.idle_from {
            self.is_idle = self.set(libc::SCHED_IDLE);
        }
    }

    /// Gives way to nobody.
    pub(super) fn hurry(&mut self) {
        self.is_idle = self.is_idle && !self.set(libc::SCHED_OTHER);
    }

    /// Whether the kernel agreed. If it does not, all goes on as it is.
    fn set(&self, policy: i32) -> bool {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is good for the call, which takes the ID of a thread of this process.
        unsafe { libc::sched_setscheduler(self.thread.as_raw(), policy, &raw const parameters) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy follows the backlog, both ways.
    #[test]
    fn policy_follows_the_backlog() {
        // SAFETY: takes the ID of a thread of this process.
        let policy = || unsafe { libc::sched_getscheduler(gettid().as_raw()) };
        let mut yielding = Yielding::current().unwrap();
        let (backlog, mut now) = (Backlog::default(), Instant::now());
        yielding.adapt(&backlog, now);
        assert_eq!(policy(), libc::SCHED_IDLE);
        (0..MANY_BATCHES).for_each(|_| backlog.sent());
        yielding.adapt(&backlog, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
        (0..MANY_BATCHES).for_each(|_| backlog.written());
        yielding.adapt(&backlog, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
        now += HURRY;
        yielding.adapt(&backlog, now);
        assert_eq!(policy(), libc::SCHED_IDLE);
        yielding.hurry();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
