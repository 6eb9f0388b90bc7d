//! The terminal while it is ours, and how it is given back: at the end, on an error, and on a panic of any thread.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, raise};
use ratatui::crossterm::cursor::Hide;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode};

/// Whether the terminal is ours.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// No colours, the screen that was there before, a cursor (`xterm`'s control sequences; the first ones of `console_codes(4)`).
const LEAVE: &[u8] = b"\x1b[0m\x1b[?1049l\x1b[?25h";

/// The terminal is ours until this goes.
#[derive(Debug)]
pub(super) struct Screen(());

impl Screen {
    /// Takes the terminal: a screen of its own, keys as they are typed, no cursor.
    pub(super) fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                previous(panic);
            }));
        });
        // From here on there is something to restore.
        let screen = Self(());
        screen.take()?;
        Ok(screen)
    }

    fn take(&self) -> io::Result<()> {
        IS_TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, Hide)
    }

    /// Gives the terminal back, stops until a shell lets the program go on, and takes it again.
    pub(super) fn suspend(&self) -> io::Result<()> {
        restore();
        raise(Signal::SIGTSTP)?;
        self.take()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, if it is ours. Can be called from any thread, and more than once.
pub(super) fn restore() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        // The mode first: that can't wait for a terminal that takes no output. And not through the buffer of standard
        // output, whose lock a thread that draws may hold.
        let _ = disable_raw_mode();
        let _ = nix::unistd::write(io::stdout(), LEAVE);
    }
}
