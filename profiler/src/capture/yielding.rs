//! The thread that writes the recording works when the machine has nothing else to do: a server that answers tens of thousands of
//! calls a second needs the CPU that decoding them takes. It has the kernel's idle policy (sched(7)) for as long as it keeps up.
//! On a machine without idle time it falls behind, and names are to be read before runtimes move or free what they are of; and a
//! process that has just started is to be unwound at once. Then it has the usual policy for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::unistd::{Pid, gettid};

/// Batches that wait when it is behind: the one before the last was not written within a tick.
const MANY_BATCHES: u64 = 2;
/// How long it gives way to nobody then, and behind new code.
const HURRY: Duration = Duration::from_secs(10);

/// What was sent and is not written yet. Shared by sender and writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Backlog(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    batches: AtomicU64,
    bytes: AtomicU64,
}

impl Backlog {
    /// A batch with records of so many bytes is about to be sent.
    pub(super) fn sent(&self, bytes: u64) {
        self.0.batches.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is written, or was not sent after all.
    pub(super) fn written(&self, bytes: u64) {
        self.0.batches.fetch_sub(1, Ordering::Relaxed);
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of the records that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn batches(&self) -> u64 {
        self.0.batches.load(Ordering::Relaxed)
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

    /// Sets the policy that the backlog asks for, and code that is to be told to the kernel half.
    pub(super) fn adapt(&mut self, backlog: &Backlog, has_new_code: bool, now: Instant) {
        let waiting = backlog.batches();
        if has_new_code || waiting >= MANY_BATCHES {
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
        yielding.adapt(&backlog, false, now);
        assert_eq!(policy(), libc::SCHED_IDLE);
        (0..MANY_BATCHES).for_each(|_| backlog.sent(1));
        yielding.adapt(&backlog, false, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
        (0..MANY_BATCHES).for_each(|_| backlog.written(1));
        yielding.adapt(&backlog, false, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
        now += HURRY;
        yielding.adapt(&backlog, false, now);
        assert_eq!(policy(), libc::SCHED_IDLE);
        yielding.adapt(&backlog, true, now);
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
