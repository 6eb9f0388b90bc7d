//! What the drain thread is woken for between two ticks of its clock: new code of watched processes, whose unwind
//! tables should be there before its first sample.

use std::borrow::Borrow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// A starting program maps its libraries one by one: one wakeup is enough for what comes within this time.
const REST: Duration = Duration::from_millis(1);
/// Mapping records come for the whole host. After one that was not of a watched process they wake nobody for this time, and for twice as
/// long after each further one. What a watched process maps meanwhile is found at the next tick.
const FIRST_REST_FROM_STRANGERS: Duration = Duration::from_millis(25);
const LONGEST_REST_FROM_STRANGERS: Duration = Duration::from_millis(800);

/// Wakeups by the kernel.
#[derive(Debug)]
pub struct Wakeups {
    /// The ring of events: the kernel half wakes us when a watched process starts another program.
    events: AsyncFd<OwnedFd>,
    events_from: Option<Instant>,
    /// The rings of mapping records of all CPUs.
    rings: Epoll,
    /// The same while they may wake us: else their records must not even look for somebody to wake.
    mappings: Option<AsyncFd<OwnedFd>>,
    mappings_from: Option<Instant>,
    rest_from_strangers: Duration,
    is_of_mappings: bool,
}

impl Wakeups {
    pub(super) fn new<T: Borrow<MapData>>(
        events: &RingBuf<T>,
        mapping_rings: impl Iterator<Item = RawFd>,
    ) -> io::Result<Self> {
        let rings = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for ring in mapping_rings {
            // SAFETY: the descriptor belongs to the caller, who keeps it open during this call.
            let ring = unsafe { BorrowedFd::borrow_raw(ring) };
            rings.add(ring, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        }
        Ok(Self {
            events: readable(events)?,
            events_from: None,
            mappings: Some(readable(&rings.0)?),
            rings,
            mappings_from: None,
            rest_from_strangers: FIRST_REST_FROM_STRANGERS,
            is_of_mappings: false,
        })
    }

    /// Waits until the kernel has something to tell. Whoever stops waiting loses nothing.
    pub async fn next(&mut self) {
        let mappings = async {
            if self.mappings.is_none() {
                until(self.mappings_from).await;
                // Without descriptors left, the clock alone has to do.
                self.mappings = readable(&self.rings.0).ok();
            }
            woken(self.mappings.as_ref()).await;
        };
        let events = async {
            until(self.events_from).await;
            woken(Some(&self.events)).await;
        };
        self.is_of_mappings = tokio::select! {
            () = events => false,
            () = mappings => true,
        };
    }

    /// The rings have been drained after a wakeup; `has_new_code`: of a watched process.
    pub fn rest(&mut self, has_new_code: bool) {
        // Takes the rings off the list of those that are ready.
        let mut ready = [EpollEvent::empty(); 64];
        while self.rings.wait(&mut ready, EpollTimeout::ZERO) == Ok(ready.len()) {}
        let now = Instant::now();
        self.events_from = Some(now + REST);
        if has_new_code {
            self.mappings = None;
            self.mappings_from = Some(now + REST);
            self.rest_from_strangers = FIRST_REST_FROM_STRANGERS;
        } else if self.is_of_mappings {
            self.mappings = None;
            self.mappings_from = Some(now + self.rest_from_strangers);
            self.rest_from_strangers = (self.rest_from_strangers * 2).min(LONGEST_REST_FROM_STRANGERS);
        }
    }

    /// A watched process has new code, which was seen without a wakeup: there may be more soon.
    pub fn attend(&mut self) {
        self.rest_from_strangers = FIRST_REST_FROM_STRANGERS;
        self.mappings_from = None;
    }
}

fn readable(descriptor: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = descriptor.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open, and the same, for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

async fn until(moment: Option<Instant>) {
    // A timer costs more than to look at the clock.
    if let Some(moment) = moment.filter(|moment| Instant::now() < *moment) {
        sleep_until(moment).await;
    }
}

async fn woken(descriptor: Option<&AsyncFd<OwnedFd>>) {
    match descriptor {
        Some(descriptor) => match descriptor.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is about to end.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
