//! What the terminal is told: results on standard output, progress and advice on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;

use crate::output::style::Style;
use crate::output::units::{count, duration};

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object, for programs.
    Json,
}

/// The style of text on standard output: colour on a terminal only, and not if `NO_COLOR` is set
/// (<https://no-color.org>).
pub(super) fn style() -> Style {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour =
        io::stdout().is_terminal() && !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    Style { colour, ..Style::default() }
}

/// Writes a result to standard output. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    match write(&mut output).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => anyhow::bail!("cannot write to standard output: {error}"),
        Ok(()) => Ok(()),
    }
}

/// One line on standard error.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// One line on standard error that says what went wrong.
pub(super) fn print_error(message: &str) {
    let message: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    note(&format!("error: {}", message.join(" ")));
}

/// A line that is overwritten while a recording goes on; nothing where standard error is no terminal.
pub(super) struct ProgressLine {
    shown: bool,
    is_terminal: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self { shown: false, is_terminal: io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, elapsed: Duration, samples: u64, lost: u64) {
        if !self.is_terminal {
            return;
        }
        self.shown = true;
        let elapsed = duration(elapsed.as_secs() as f64);
        let _ = write!(
            io::stderr(),
            "\r\x1b[2K  {elapsed}  {} samples  {} lost  (Ctrl-C ends it and keeps the data)",
            count(samples),
            count(lost)
        );
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}
