//! What the drain thread is woken for between two ticks of its clock: new code of watched processes, whose unwind
//! tables should be there before its first sample.

use std::borrow::Borrow;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// A starting program maps its libraries one by one: one wakeup is enough for what comes within this time.
const REST: Duration = Duration::from_millis(1);
/// Mapping records come for the whole host. After one that was not of a watched process they wake nobody for this
/// time, so that strangers who start all the time cost no more than forty wakeups a second.
const REST_FROM_STRANGERS: Duration = Duration::from_millis(25);

/// Wakeups by the kernel.
#[derive(Debug)]
pub struct Wakeups {
    /// The ring of events: the kernel half wakes us when a watched process starts another program.
    events: AsyncFd<OwnedFd>,
    /// The rings of mapping records of all CPUs.
    mappings: AsyncFd<OwnedFd>,
    mapping_rings: Epoll,
    events_from: Instant,
    mappings_from: Instant,
}

impl Wakeups {
    pub(super) fn new<T: Borrow<MapData>>(
        events: &RingBuf<T>,
        mapping_rings: impl Iterator<Item = RawFd>,
    ) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open, and the same, for as long as it is registered.
        let readable = |descriptor: OwnedFd| unsafe {
            AsyncFd::register_with_interest(descriptor, Interest::READABLE).map_err(io::Error::from)
        };
        let rings = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for ring in mapping_rings {
            // SAFETY: the descriptor belongs to the caller, who keeps it open during this call.
            let ring = unsafe { BorrowedFd::borrow_raw(ring) };
            rings.add(ring, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        }
        let now = Instant::now();
        Ok(Self {
            events: readable(events.as_fd().try_clone_to_owned()?)?,
            mappings: readable(rings.0.as_fd().try_clone_to_owned()?)?,
            mapping_rings: rings,
            events_from: now,
            mappings_from: now,
        })
    }

    /// Waits until the kernel has something to tell. Whoever stops waiting loses nothing.
    pub async fn next(&self) {
        tokio::select! {
            () = woken(&self.events, self.events_from) => {}
            () = woken(&self.mappings, self.mappings_from) => {}
        }
    }

    /// The rings have been drained; `is_idle`: after a wakeup that was for nothing of ours.
    pub fn rest(&mut self, is_idle: bool) {
        // Takes the rings off the list of those that are ready.
        let mut ready = [EpollEvent::empty(); 64];
        while self.mapping_rings.wait(&mut ready, EpollTimeout::ZERO) == Ok(ready.len()) {}
        let now = Instant::now();
        self.events_from = now + REST;
        self.mappings_from = now + if is_idle { REST_FROM_STRANGERS } else { REST };
    }
}

async fn woken(descriptor: &AsyncFd<OwnedFd>, from: Instant) {
    sleep_until(from).await;
    match descriptor.readable().await {
        Ok(mut ready) => ready.clear_ready(),
        // The runtime is about to end.
        Err(_) => std::future::pending().await,
    }
}
