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

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Command;

    use nix::pty::openpty;
    use nix::sys::termios::{LocalFlags, tcgetattr};

    use super::*;

    /// What the test below runs on a terminal of its own.
    #[test]
    #[ignore = "takes the terminal: `a_panic_gives_the_terminal_back` runs it"]
    fn panics_on_a_terminal() {
        let screen = Screen::enter().unwrap();
        let panicked = std::thread::spawn(|| panic!("as it was asked to")).join();
        assert!(panicked.is_err());
        std::mem::forget(screen); // so that nobody else gives it back
    }

    /// A panic of any thread gives the terminal back before it says what happened.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        let pair = openpty(None, None).unwrap();
        let theirs = || pair.slave.try_clone().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::top::screen::tests::panics_on_a_terminal", "--ignored", "--nocapture"])
            .env("RUST_BACKTRACE", "0")
            .stdin(theirs())
            .stdout(theirs())
            .stderr(theirs())
            .status()
            .unwrap();
        let flags = tcgetattr(&pair.slave).unwrap().local_flags;
        drop(pair.slave);
        // It ends with an error once nobody holds the other side.
        let mut output = Vec::new();
        let _ = std::fs::File::from(pair.master).read_to_end(&mut output);
        let output = String::from_utf8_lossy(&output);
        assert!(status.success(), "{output}");
        let entered = output.find("\x1b[?1049h").expect("the screen was taken");
        let left = output.find("\x1b[?1049l").expect("the screen is left");
        let said = output.find("as it was asked to").expect("the panic is told");
        assert!(entered < left && left < said, "{output:?}");
        assert!(flags.contains(LocalFlags::ICANON | LocalFlags::ECHO), "{flags:?}");
    }
}
