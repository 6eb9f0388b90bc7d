//! `mcp-profiler doctor`: whether this machine can profile, and what to do when it cannot.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::terminal::{Format, print};
use crate::doctor::{Check, Status, examine};
use crate::output::style::printable;
use crate::target::process::Process;
use crate::target::{Request, Target, resolve};

/// Width of the text, in columns.
const COLUMNS: usize = 80;
/// Where the second column starts.
const INDENT: usize = 10;

/// Tell whether this machine can profile, and what mends it when it cannot
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  sudo mcp-profiler doctor
  sudo mcp-profiler doctor --pid 4711

Each line says ok, info, warning (profiling works, but shows less) or fault
(profiling does not work), and for the last two the command that mends it.
The exit code is 1 when there is a fault. Nothing is changed.")]
pub(super) struct DoctorArguments {
    /// Also look at the debug symbols of this process
    #[arg(long, value_name = "PID", conflicts_with = "mcp")]
    pub pid: Option<u32>,
    /// Also look at the debug symbols of this running server
    #[arg(long, value_name = "NAME")]
    pub mcp: Option<String>,
    /// Also read this client configuration (JSON, of any client's shape)
    #[arg(long, value_name = "FILE", requires = "mcp")]
    pub config: Option<PathBuf>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

#[derive(Serialize)]
struct Report<'checks> {
    schema_version: u32,
    healthy: bool,
    checks: &'checks [Check],
}

/// Prints the findings; the exit code is 1 when there is a fault.
///
/// # Errors
/// When the target is unknown, or the findings cannot be written.
pub(super) fn run(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    let process = target(arguments)?;
    let checks = examine(process.as_ref());
    let healthy = checks.iter().all(|check| check.status != Status::Fault);
    let text = match arguments.format {
        Format::Text => render(&checks),
        Format::Json => {
            let mut json =
                serde_json::to_string_pretty(&Report { schema_version: 1, healthy, checks: &checks })?;
            json.push('\n');
            json
        }
    };
    print(|out| out.write_all(text.as_bytes()))?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn target(arguments: &DoctorArguments) -> anyhow::Result<Option<Process>> {
    let request = match (arguments.pid, &arguments.mcp) {
        (Some(pid), _) => Request::Pid(pid),
        (None, Some(name)) => {
            Request::Name { name: name.clone(), config: arguments.config.clone(), launch: false }
        }
        (None, None) => return Ok(None),
    };
    match resolve(&request)? {
        Target::Running(server) => Ok(Some(Process::open(server.pid)?)),
        Target::Launch(_) => Ok(None),
    }
}

fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Info => "info",
            Status::Warning => "warning",
            Status::Fault => "fault",
        };
        text.push_str(&wrapped(&format!("{status:<INDENT$}{}: {}", check.name, printable(&check.finding))));
        for more in check.meaning.iter() {
            text.push_str(&wrapped(&format!("{:INDENT$}{more}", "")));
        }
        // Never broken into lines: it is there to be copied.
        for remedy in check.remedy.iter() {
            text.push_str(&format!("{:INDENT$}-> {remedy}\n", ""));
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    text.push_str(&match (count(Status::Fault), count(Status::Warning)) {
        (0, 0) => "\nThis machine can profile.\n".to_owned(),
        (0, warnings) => format!("\nThis machine can profile, with {}.\n", counted(warnings, "warning")),
        (faults, warnings) => {
            format!(
                "\nThis machine cannot profile: {}, {}.\n",
                counted(faults, "fault"),
                counted(warnings, "warning")
            )
        }
    });
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Breaks a line between words where it gets too long; what follows is indented to the second column.
fn wrapped(line: &str) -> String {
    let mut text = String::new();
    let start = line.find(|letter| letter != ' ').unwrap_or(0);
    let mut columns = start;
    text.push_str(&line[..start]);
    for (index, word) in line[start..].split_inclusive(' ').enumerate() {
        let width = word.trim_end().chars().count();
        if index > 0 && columns + width > COLUMNS {
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.push_str(&" ".repeat(INDENT));
            columns = INDENT;
        }
        text.push_str(word);
        columns += word.chars().count();
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, status: Status, meaning: Option<&str>, remedy: Option<&str>) -> Check {
        Check {
            name: name.to_owned(),
            status,
            finding: "what was found".to_owned(),
            meaning: meaning.map(str::to_owned),
            remedy: remedy.map(str::to_owned),
        }
    }

    /// Each status in its line, long texts wrapped, remedies whole.
    #[test]
    fn findings() {
        let long = "This is what it means for who wants to profile a server, told at such a length that it does not fit.";
        let checks = [
            check("Kernel version", Status::Ok, None, None),
            check("Hardware cycle counter", Status::Info, Some("As in most virtual machines."), None),
            check(
                "BPF JIT compiler",
                Status::Warning,
                Some(long),
                Some("sudo sysctl net.core.bpf_jit_enable=1"),
            ),
            check("CAP_BPF", Status::Fault, Some("It cannot be loaded."), Some("sudo mcp-profiler doctor")),
        ];
        insta::assert_snapshot!(render(&checks), @r"
        ok        Kernel version: what was found
        info      Hardware cycle counter: what was found
                  As in most virtual machines.
        warning   BPF JIT compiler: what was found
                  This is what it means for who wants to profile a server, told at such
                  a length that it does not fit.
                  -> sudo sysctl net.core.bpf_jit_enable=1
        fault     CAP_BPF: what was found
                  It cannot be loaded.
                  -> sudo mcp-profiler doctor

        This machine cannot profile: 1 fault, 1 warning.
        ");
        insta::assert_snapshot!(render(&checks[..1]), @r"
        ok        Kernel version: what was found

        This machine can profile.
        ");
    }
}
