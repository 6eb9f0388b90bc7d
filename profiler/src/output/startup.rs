//! A start-up as text.

use std::io::{self, Write};

use super::style::{Paint, Style, printable, wrap};
use super::table::{Align, Table};
use super::units::{duration, percent};
use crate::analysis::startup::{Phase, PhaseKind, Startup};

/// Packages of a phase with less than this share of its CPU time are not shown.
const SMALL: f64 = 0.05;

/// Writes the phases, then where the CPU time of the largest one went. `runs`: of how many start-ups these are the medians.
///
/// # Errors
/// Those of the writer.
pub fn write_startup(mut out: impl Write, startup: &Startup, runs: usize, style: Style) -> io::Result<()> {
    let ready = format!(
        "Ready after {}, {} of it on CPUs",
        duration(startup.ready_ms / 1e3),
        duration(startup.ready_cpu_ms / 1e3)
    );
    let ready = if runs > 1 { format!("{ready} (medians of {runs} start-ups)") } else { ready };
    writeln!(out, "{}", style.paint(Paint::Heading, &ready))?;
    let runtime = startup.runtime.as_ref().map_or_else(String::new, |runtime| {
        format!(" ({} {})", runtime.name, runtime.version.as_deref().unwrap_or("of unknown version"))
    });
    for line in wrap(
        &printable(&format!("Server: process {}{runtime}, {}", startup.pid, startup.command)),
        style.columns(),
    ) {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    let mut table = Table::new(
        &[
            ("from", Align::Right),
            ("time", Align::Right),
            ("share", Align::Right),
            ("CPU", Align::Right),
            ("phase", Align::Left),
            ("until", Align::Left),
        ],
        4,
    );
    let slowest = startup.phases.iter().map(|phase| phase.wall_ms).fold(0.0, f64::max);
    let whole: f64 = startup.phases.iter().map(|phase| phase.wall_ms).sum();
    for phase in &startup.phases {
        let mark = if phase.is_estimate { "~" } else { "" };
        table.row(
            (phase.wall_ms >= slowest).then_some(Paint::Hot),
            vec![
                format!("+{}", duration(phase.start_ms / 1e3)),
                format!("{mark}{}", duration(phase.wall_ms / 1e3)),
                percent(if whole > 0.0 { phase.wall_ms / whole } else { 0.0 }),
                if phase.samples == 0 { "-".to_owned() } else { duration(phase.cpu_ms / 1e3) },
                phase.phase.name().to_owned(),
                end(phase.phase).to_owned(),
            ],
        );
    }
    table.write(&mut out, style)?;
    if startup.phases.iter().any(|phase| phase.is_estimate) {
        let text = "~ its start or its end is known from samples only: right to about the time between two.";
        for line in wrap(text, style.columns()) {
            writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
        }
    }
    match startup.phases.iter().max_by(|one, other| one.cpu_ms.total_cmp(&other.cpu_ms)) {
        Some(phase) if phase.samples > 0 => write_packages(out, phase, style),
        _ => Ok(()),
    }
}

fn end(phase: PhaseKind) -> &'static str {
    match phase {
        PhaseKind::Launcher => "the server's process is made",
        PhaseKind::Interpreter => "it runs the server's code",
        PhaseKind::Imports => "the last module is loaded",
        PhaseKind::SetUp | PhaseKind::Start => "it reads its first request",
        PhaseKind::FirstReply => "`initialize` is answered",
        PhaseKind::ToolList => "`tools/list` is answered",
    }
}

fn write_packages(mut out: impl Write, phase: &Phase, style: Style) -> io::Result<()> {
    writeln!(out)?;
    let title = format!("CPU time of the phase \"{}\" by package", phase.phase.name());
    writeln!(out, "{}", style.paint(Paint::Heading, &title))?;
    let mut table =
        Table::new(&[("total", Align::Right), ("self", Align::Right), ("package", Align::Left)], 2);
    for package in phase.packages.iter().filter(|package| package.total_ms >= SMALL * phase.cpu_ms) {
        let time = |milliseconds: f64| duration(milliseconds / 1e3);
        table.row(None, vec![time(package.total_ms), time(package.self_ms), package.package.clone()]);
    }
    table.write(out, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::report::ReportedRuntime;
    use crate::analysis::startup::PhasePackage;

    /// Phases with their times, estimates marked, and the packages of the largest one.
    #[test]
    fn phases_are_shown() {
        let phase = |phase, start_ms, wall_ms, cpu_ms, is_estimate| Phase {
            phase,
            start_ms,
            wall_ms,
            cpu_ms,
            is_estimate,
            samples: cpu_ms as u64,
            packages: vec![PhasePackage {
                package: "site-packages/mcp".into(),
                self_ms: 3.0,
                total_ms: cpu_ms,
            }],
            span_ns: (0, 0),
        };
        let startup = Startup {
            pid: 200,
            command: "python3 server.py".into(),
            runtime: Some(ReportedRuntime { name: "python".into(), version: Some("3.11.2".into()) }),
            ready_ms: 770.0,
            ready_cpu_ms: 500.0,
            phases: vec![
                phase(PhaseKind::Launcher, 0.0, 250.0, 100.0, false),
                phase(PhaseKind::Imports, 250.0, 500.0, 400.0, true),
                phase(PhaseKind::FirstReply, 750.0, 20.0, 0.0, false),
            ],
        };
        let mut out = Vec::new();
        write_startup(&mut out, &startup, 3, Style::default()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        Ready after 770 ms, 500 ms of it on CPUs (medians of 3 start-ups)
        Server: process 200 (python 3.11.2), python3 server.py

             from     time   share     CPU  phase        until
             +0 s   250 ms  32.5 %  100 ms  launcher     the server's process is made
          +250 ms  ~500 ms  64.9 %  400 ms  imports      the last module is loaded
          +750 ms  20.0 ms   2.6 %       -  first reply  `initialize` is answered
        ~ its start or its end is known from samples only: right to about the time
        between two.

        CPU time of the phase "imports" by package
           total    self  package
          400 ms  3.0 ms  site-packages/mcp
        "#);
    }
}
