//! What the drain thread is woken for between two ticks of its clock: a walk came to code that is not known, and the kernel's
//! record of it may have come in.

use std::borrow::Borrow;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// A starting program maps its libraries one by one: one wakeup is enough for what comes within this time.
const REST: Duration = Duration::from_millis(1);

/// Wakeups by the kernel half.
#[derive(Debug)]
pub struct Wakeups {
    events: AsyncFd<OwnedFd>,
    from: Option<Instant>,
}

impl Wakeups {
    pub(super) fn new<T: Borrow<MapData>>(events: &RingBuf<T>) -> io::Result<Self> {
        let descriptor = events.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` is open, and the same, for as long as it is registered.
        let events = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        Ok(Self { events, from: None })
    }

    /// Waits until the kernel half has something to tell. Whoever stops waiting loses nothing.
    pub async fn next(&mut self) {
        // A timer costs more than to look at the clock.
        if let Some(from) = self.from.filter(|from| Instant::now() < *from) {
            sleep_until(from).await;
        }
        match self.events.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is about to end.
            Err(_) => std::future::pending().await,
        }
        self.from = Some(Instant::now() + REST);
    }
}
