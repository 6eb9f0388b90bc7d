//! The profiler on a terminal: what a user sees, types, and is left with.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::process::{Process, wait_until};
use crate::profiler::program;

/// Lines of the terminal.
const LINES: NonZeroU16 = NonZeroU16::new(30).expect("is not zero");
/// Columns of the terminal.
const COLUMNS: NonZeroU16 = NonZeroU16::new(120).expect("is not zero");

/// A title of the window, which is not shown.
const END: &str = "\x1b]2;the end\x07";

/// A program that has a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    process: Process,
    ours: File,
    /// Kept open: what it was left as can be asked for when the program is gone.
    theirs: OwnedFd,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts the profiler on a new terminal, with a folder for temporary files.
    pub fn start(arguments: &[&str], temporary: &Path) -> Result<Self> {
        let size = Winsize { ws_row: LINES.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None)?;
        let mut command = Command::new(program()?);
        command
            .args(arguments)
            .env("TERM", "xterm-256color")
            .env("RUST_BACKTRACE", "0")
            .env("TMPDIR", temporary)
            .current_dir(temporary)
            .stdin(pair.slave.try_clone()?)
            .stdout(pair.slave.try_clone()?)
            .stderr(pair.slave.try_clone()?);
        // SAFETY: two system calls between fork and exec, without memory or locks. A new session makes the terminal its own.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let process = Process::start_session(&mut command)?;
        let ours = File::from(pair.master);
        let output = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shared) = (ours.try_clone()?, Arc::clone(&output));
        // Ends when both sides of the terminal are closed.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
            }
        });
        Ok(Self { process, ours, theirs: pair.slave, output })
    }

    /// Types these keys.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        Ok(self.ours.write_all(keys.as_bytes())?)
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// All that was written to the terminal.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        let mut parser = vt100::Parser::new(LINES, COLUMNS, 0);
        parser.process(&self.output.lock().unwrap_or_else(PoisonError::into_inner));
        parser.screen().contents()
    }

    /// Waits until the screen says something.
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        wait_until(what, Duration::from_secs(90), || found(&self.screen())).with_context(|| self.screen())
    }

    /// Waits for a text on the screen.
    pub fn wait_for_text(&self, text: &str) -> Result<()> {
        self.wait_for(text, |screen| screen.contains(text).then_some(()))
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.process.wait(Duration::from_secs(60)).with_context(|| self.screen())?;
        // The last bytes may still be on their way to the reader: what is written now comes behind them.
        File::from(self.theirs.try_clone()?).write_all(END.as_bytes())?;
        self.wait_for("the end of the output", |_| self.output().contains(END).then_some(()))?;
        Ok(status)
    }

    /// The terminal is as a shell wants it: its own screen with a cursor, lines and echo, and no colour left on.
    pub fn assert_restored(&self) -> Result<()> {
        let output = self.output();
        let last = |text: &str| output.rfind(text);
        let (entered, left) = (last("\x1b[?1049h"), last("\x1b[?1049l"));
        assert!(entered.is_some() && left > entered, "the other screen is left: {:?}", self.screen());
        assert!(last("\x1b[?25h") > last("\x1b[?25l"), "the cursor shows");
        let flags = tcgetattr(&self.theirs)?.local_flags;
        let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        assert!(flags.contains(cooked), "terminal {}: {flags:?}", self.theirs.as_raw_fd());
        Ok(())
    }
}
