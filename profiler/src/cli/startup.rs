//! `startup`: starts a server as its client would, and says where the time to its first replies went.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;

use super::files::create_folder;
use super::flame_graph;
use super::record::{Recorder, parse_duration};
use super::terminal::{Format, note, print, style};
use crate::analysis::functions::Functions;
use crate::analysis::startup::{Startup, within};
use crate::capture::{FREQUENCY_RANGE_HZ, Options};
use crate::load::{HandshakeError, Introduction, introduce};
use crate::output::json;
use crate::output::startup::write_startup;
use crate::output::units::duration;
use crate::recording::Recording;
use crate::target::{Caller, Launched, Process, Request, Target, resolve};
use crate::wire::contents::Capture;

/// Version of the JSON object's shape.
const SCHEMA_VERSION: u32 = 1;

/// How long what a command started may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Options of `startup`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler startup -- npx -y @modelcontextprotocol/server-everything
  sudo mcp-profiler startup --repeat 5 -- uvx mcp-server-time
  sudo mcp-profiler startup --flame-graphs startup -- python3 server.py

The command runs as the user who called sudo. It gets `initialize` and `tools/list`
on its standard input, as from a client, and is ended when it has answered. What
it writes on standard error is shown.")]
pub(super) struct Arguments {
    /// Samples a second of CPU time
    #[arg(long, value_name = "HZ", default_value_t = 999,
          value_parser = clap::value_parser!(u64).range(*FREQUENCY_RANGE_HZ.start()..=*FREQUENCY_RANGE_HZ.end()))]
    frequency: u64,
    /// How long the server may take to answer
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    /// Start it so often, one after the other, and show medians: caches are warm then
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Folder to write a flame graph of each phase into, of the last start-up
    #[arg(long, value_name = "FOLDER")]
    flame_graphs: Option<PathBuf>,
    /// Where to keep the recording of the last start-up [default: nowhere]
    #[arg(long, value_name = "FILE")]
    recording: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Command that starts the server, which speaks MCP on standard input and output
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed<'all> {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: &'all Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol_version: &'all Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<usize>,
    frequency_hz: u64,
    /// The medians of all.
    startup: &'all Startup,
    /// Each of them, where there are several.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    runs: &'all [Startup],
}

/// One start-up.
struct Run {
    startup: Startup,
    introduction: Introduction,
    recording: Recording,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let kept = arguments.recording.as_deref();
    if let Some(folder) = &arguments.flame_graphs {
        create_folder(folder)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut startups = Vec::new();
    let mut last = None;
    for number in 1..=arguments.repeat {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let is_kept = number == arguments.repeat;
        let file =
            kept.filter(|_| is_kept).map_or_else(|| folder.path().join("startup.mcpprof"), PathBuf::from);
        let run = runtime.block_on(start(arguments, file))?;
        if arguments.repeat > 1 {
            note(&format!("{number}: ready after {}", duration(run.startup.ready_ms / 1e3)));
        }
        startups.push(run.startup.clone());
        last = Some(run);
    }
    let last = last.context("nothing was started")?;
    let medians = Startup::medians(&startups).context("nothing was started")?;
    if let Some(folder) = &arguments.flame_graphs {
        for (number, phase) in last.startup.phases.iter().enumerate().filter(|(_, phase)| phase.samples > 0) {
            let name = phase.phase.name().replace(' ', "-");
            let file = folder.join(format!("{}-{name}.svg", number + 1));
            let own = within(&last.recording, phase.span_ns);
            flame_graph::write(&file, &own, &Functions::new(&own))?;
            note(&format!("flame graph: {}", file.display()));
        }
    }
    print(|out| match arguments.format {
        Format::Text => write_startup(out, &medians, startups.len(), style()),
        Format::Json => json::write_json(
            out,
            &Printed {
                schema_version: SCHEMA_VERSION,
                server: &last.introduction.server,
                protocol_version: &last.introduction.protocol_version,
                tools: last.introduction.tools,
                frequency_hz: arguments.frequency,
                startup: &medians,
                runs: if startups.len() > 1 { &startups } else { &[] },
            },
        ),
    })
}

/// Waits until all that a command started has ended too: the next start-up, and whoever called this, have the machine for themselves.
async fn await_ends(recording: &Recording) {
    let lives = |process: &&crate::recording::Process| {
        process.exit_ns.is_none()
            && Process::open(process.pid).is_ok_and(|open| open.stat().is_ok_and(|stat| !stat.ended()))
    };
    let start = Instant::now();
    loop {
        let left: Vec<String> =
            recording.processes.iter().filter(lives).map(|process| process.pid.to_string()).collect();
        if left.is_empty() {
            return;
        }
        if start.elapsed() > END_LIMIT {
            let left = left.join(", ");
            return note(&format!(
                "warning: still running, although its standard input is closed: process {left}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the command, talks to it, ends it.
async fn start(arguments: &Arguments, output: PathBuf) -> anyhow::Result<Run> {
    let Target::Launch(plan) = resolve(&Request::Command(arguments.command.clone()))? else {
        bail!("a command is to be started, and that is none");
    };
    let caller = Caller::from_sudo();
    plan.check_program(caller.as_ref())?;
    let launched = Launched::spawn_with_pipes(&plan, caller.as_ref())?;
    let pid = launched.pid();
    let options = Options {
        target_name: plan.name.clone(),
        pid,
        pids: vec![pid],
        frequency_hz: arguments.frequency,
        is_asking: false,
        is_reading_calls: true,
        capture: Capture::default(),
        counted: Vec::new(),
        is_launched: true,
        programs: plan.programs(),
        output,
        keep: None,
        is_followed: false,
    };
    let mut recorder = Recorder::begin(&options, Some(launched), None)?;
    let released_ns = recorder.released_ns;
    let (stdin, stdout) = recorder.take_pipes().context("the command has no pipes")?;
    let mut stdin = tokio::process::ChildStdin::from_std(stdin)?;
    let mut stdout = tokio::process::ChildStdout::from_std(stdout)?;
    let introduction =
        recorder.run(Some(arguments.timeout), None, introduce(&mut stdout, &mut stdin)).await?;
    let end = recorder.end_reason();
    // A server ends when its standard input does.
    let recorded = recorder.finish_before(|| drop(stdin), arguments.recording.is_some())?;
    await_ends(&recorded.recording).await;
    let introduction = match introduction {
        Some(Ok(introduction)) => introduction,
        Some(Err(error @ HandshakeError::Refused(..))) => {
            bail!("{error}; is it one that needs no `initialize`?")
        }
        Some(Err(error)) => bail!("{error}; what it wrote on standard error is above"),
        None if end == "target ended" => {
            bail!(
                "the command ended before it answered `initialize`; what it wrote on standard error is above"
            )
        }
        None if end != "time is up" => bail!("{end} before the server answered"),
        None => bail!(
            "the server did not answer `initialize` and `tools/list` within {}: is it one that speaks MCP on standard \
             input and output? --timeout gives it longer",
            duration(arguments.timeout.as_secs_f64())
        ),
    };
    let Some(startup) = Startup::new(&recorded.recording, released_ns) else {
        bail!(
            "the server answered, but its answer was not seen: does it speak by something else than pipes?"
        );
    };
    Ok(Run { startup, introduction, recording: recorded.recording })
}
