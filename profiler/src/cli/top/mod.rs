//! `top`: what goes on now, as a live table or as text.

mod feed;
mod screen;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event};

use super::Usage;
use super::files::check_writable;
use super::record::{Recorder, SamplingArguments, Signals, parse_duration, shell_word};
use super::terminal::{Format, note, print, style};
use crate::analysis::live::Snapshot;
use crate::capture::Options;
use crate::output::json;
use crate::output::top::state::{Action, State, WINDOWS};
use crate::output::top::view::{Theme, draw};
use crate::output::top::write_snapshot;
use crate::target::resolve::{refuse_foreign_namespace, running_servers};
use crate::target::{
    Caller, Configurations, LaunchPlan, Launched, ProcessTable, Request, Server, Surroundings, Target,
    resolve,
};
use crate::wire::contents::Capture;
use feed::{Ask, Feed, View};
use screen::Screen;

/// What is kept of a recording that nobody asked for: the longest window, and some for a slow machine.
const KEPT: Duration = Duration::from_secs(75);
/// How long the view may take to leave the terminal.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// How long the last figures may take, within that.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How often keys and figures are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Options of `top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler top                            every server that runs here
  sudo mcp-profiler top --mcp filesystem --mcp github
  sudo mcp-profiler top --pid 4711 --window 30s -o night.mcpprof
  sudo mcp-profiler top --pid 4711 --once          one table, as text
  sudo mcp-profiler top --batch --count 6 --format json

Keys: arrows and Enter show the hot stacks of a tool, s sorts, / filters, p pauses,
h shows all keys, q quits.
Where standard output is no terminal, tables are printed as with --batch.
What is recorded meanwhile is kept for 75 seconds in a temporary file, unless
--output names one. A command after -- has no input, and its output is dropped:
name a stdio server by --mcp or --pid while its client runs it.")]
pub(super) struct Arguments {
    /// Server of this name: from the configuration of your MCP client, or as `list` shows it; can be given several times
    /// [default: all that run]
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    mcp: Vec<String>,
    /// Process with this ID, and its children; can be given several times
    #[arg(long, value_name = "PID", help_heading = "Target", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    /// Also read this client configuration (JSON, of any client's shape)
    #[arg(long, value_name = "FILE", conflicts_with = "pid", help_heading = "Target")]
    config: Option<PathBuf>,
    /// Start the server if it is not running
    #[arg(long, requires = "mcp", help_heading = "Target")]
    launch: bool,
    /// Command to start and watch, as the user who called sudo
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["mcp", "pid", "config"])]
    command: Vec<OsString>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Time that the figures are of: 1s to 60s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_window)]
    window: Duration,
    /// Time between two looks [default: 1s; with --batch the window]
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    interval: Option<Duration>,
    /// Print a table as text at each interval, and one of what is new at the end
    #[arg(long)]
    batch: bool,
    /// End after so many tables; text as with --batch
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One table: --count 1
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// How to print tables; json is one object a line, as with --batch
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Keep the whole recording in this file
    #[arg(short, long, value_name = "FILE", help_heading = "Recording")]
    output: Option<PathBuf>,
}

fn parse_window(text: &str) -> Result<Duration, String> {
    let longest = WINDOWS[WINDOWS.len() - 1];
    let window = parse_duration(text)?;
    if window < Duration::from_secs(1) || window > longest {
        return Err(format!("it must be between 1s and {}s", longest.as_secs()));
    }
    Ok(window)
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        interval if interval < Duration::from_secs(1) => Err("it must be at least 1s".to_owned()),
        interval => Ok(interval),
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Live,
    Batch { format: Format, count: Option<u64> },
}

impl Arguments {
    fn manner(&self) -> Manner {
        let count = if self.once { Some(1) } else { self.count };
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_batch = self.batch || count.is_some() || self.format == Format::Json;
        if is_batch || is_dumb || !io::stdout().is_terminal() {
            Manner::Batch { format: self.format, count }
        } else {
            Manner::Live
        }
    }

    /// What is to be watched, and the command that is to be launched for it.
    fn targets(&self) -> anyhow::Result<(Vec<Server>, Option<LaunchPlan>)> {
        let pids = self.pid.iter().map(|pid| Request::Pid(*pid));
        let names = self.mcp.iter().map(|name| Request::Name {
            name: name.clone(),
            config: self.config.clone(),
            launch: self.launch,
        });
        let command = (!self.command.is_empty()).then(|| Request::Command(self.command.clone()));
        let requests: Vec<Request> = pids.chain(names).chain(command).collect();
        if requests.is_empty() {
            return Ok((self.all_servers()?, None));
        }
        let mut servers: Vec<Server> = Vec::new();
        let mut plan = None;
        for request in &requests {
            match resolve(request)? {
                Target::Running(server) if servers.iter().any(|known| known.pid == server.pid) => {}
                Target::Running(server) => servers.push(server),
                Target::Launch(launch) if requests.len() == 1 => plan = Some(launch),
                Target::Launch(launch) => {
                    let message = format!(
                        "`{}` does not run, and only a single server can be launched: start it first, or name it alone",
                        launch.name
                    );
                    return Err(Usage(message).into());
                }
            }
        }
        Ok((servers, plan))
    }

    fn all_servers(&self) -> anyhow::Result<Vec<Server>> {
        refuse_foreign_namespace()?;
        let configurations = Configurations::read(self.config.as_deref(), &Surroundings::of_this_process())?;
        let table = ProcessTable::read().context("cannot read /proc")?;
        let servers = running_servers(&table, &configurations).into_iter().map(|(server, _)| server);
        // One that can't be profiled, or has just ended, must not keep the others from being seen.
        let servers: Vec<Server> =
            servers.filter(|server| resolve(&Request::Pid(server.pid)).is_ok()).collect();
        if servers.is_empty() {
            bail!(
                "no MCP server runs here that could be watched: start one, or name its process with --pid; \
                 `mcp-profiler list` shows what is configured"
            );
        }
        Ok(servers)
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(output) = &arguments.output
        && !crate::recording::is_recording(output)
    {
        check_writable(output)?;
    }
    let manner = arguments.manner();
    let (mut servers, plan) = arguments.targets()?;
    let is_named = !arguments.mcp.is_empty() || !arguments.pid.is_empty() || plan.is_some();
    let launched = plan.map(|plan| launch(plan, &mut servers)).transpose()?;
    tell_apart(&mut servers);
    // Removed when it goes, however this ends.
    let folder = tempfile::Builder::new()
        .prefix("mcp-profiler-top-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .context("no temporary folder can be made: set TMPDIR")?;
    let options = Options {
        target_name: servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", "),
        pid: servers[0].pid,
        pids: servers.iter().flat_map(|server| server.pids.iter().copied()).collect(),
        frequency_hz: arguments.sampling.frequency,
        // Nobody said that these servers may be touched.
        is_asking: is_named && !arguments.sampling.passive,
        is_reading_calls: !arguments.sampling.no_calls,
        // Nobody reads them but whoever keeps the recording.
        capture: Capture {
            bytes: match (&arguments.output, arguments.sampling.capture_arguments) {
                (Some(_), Some(bytes)) => bytes as usize,
                _ => 0,
            },
        },
        counted: Vec::new(),
        is_launched: launched.is_some(),
        programs: Vec::new(),
        keep: arguments.output.is_none().then_some(KEPT),
        is_followed: true,
        output: arguments.output.clone().unwrap_or_else(|| folder.path().join("recording")),
    };
    let interval = arguments.interval.unwrap_or(match manner {
        Manner::Live => Duration::from_secs(1),
        Manner::Batch { .. } => arguments.window,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // From here on signals end what was begun in an orderly way, also while it attaches.
        let mut signals = Signals::listen()?;
        let mut recorder = Recorder::begin(&options, launched, None)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut view = None;
        let done = async {
            tokio::select! {
                biased;
                _ = signals.next() => return Ok(()),
                () = std::future::ready(()) => {}
            }
            let feed = Feed::start(&options.output, servers, arguments.window, interval)?;
            // Its sender goes with the thread, however that ends.
            let (finished, done) = tokio::sync::oneshot::channel::<()>();
            let (stop, window) = (Arc::clone(&stop), arguments.window);
            let thread = std::thread::Builder::new().name("view".to_owned()).spawn(move || {
                let _finished = finished;
                match manner {
                    Manner::Live => show(&feed, window, interval, &stop),
                    Manner::Batch { format, count } => print_tables(&feed, window, format, count, &stop),
                }
            })?;
            view = Some(thread);
            let _ = done.await;
            anyhow::Ok(())
        };
        let outcome = recorder.run(arguments.sampling.duration, None, done).await;
        stop.store(true, Ordering::Relaxed);
        let shown = view.map_or(Ok(None), end_of);
        // It may hang on a terminal that takes nothing. What is said from here on is to be seen.
        screen::restore();
        let shown = match outcome {
            Ok(outcome) => outcome.transpose().and(shown),
            Err(error) => {
                recorder.discard();
                return Err(error);
            }
        };
        let has_ended = recorder.end_reason() == "target ended";
        if let Ok(Some(snapshot)) = &shown
            && has_ended
            && matches!(manner, Manner::Live)
        {
            print(|out| write_snapshot(out, snapshot, style()))?;
        }
        if arguments.output.is_some() {
            let recorded = recorder.finish()?;
            note(&format!("look at it with: mcp-profiler report {}", shell_word(&recorded.path)));
        } else {
            recorder.discard();
            if has_ended {
                note(&format!("{} ended", options.target_name));
            }
        }
        shown.map(drop)
    })
}

/// Starts the command of a plan, which waits until it is watched, as the only server.
fn launch(mut plan: LaunchPlan, servers: &mut Vec<Server>) -> anyhow::Result<Launched> {
    plan.is_silent = true;
    let caller = Caller::from_sudo();
    plan.check_program(caller.as_ref())?;
    let launched = Launched::spawn(&plan, caller.as_ref())?;
    let pid = launched.pid();
    servers.push(Server { name: plan.name, pid, root: pid, pids: vec![pid] });
    Ok(launched)
}

/// Adds process IDs to names that several servers have.
fn tell_apart(servers: &mut [Server]) {
    let mut times: HashMap<String, usize> = HashMap::new();
    servers.iter().for_each(|server| *times.entry(server.name.clone()).or_default() += 1);
    for server in servers.iter_mut().filter(|server| times[&server.name] > 1) {
        server.name = format!("{} {}", server.name, server.pid);
    }
}

/// What the view says, if it ends within its time.
fn end_of(view: JoinHandle<anyhow::Result<Option<Snapshot>>>) -> anyhow::Result<Option<Snapshot>> {
    let start = Instant::now();
    while !view.is_finished() {
        if start.elapsed() > LEAVE_LIMIT {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    view.join().unwrap_or_else(|_| bail!("the view failed: please report this"))
}

/// The live table, until a key ends it, or `stop`. Returns the last figures.
fn show(
    feed: &Feed,
    window: Duration,
    interval: Duration,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Snapshot>> {
    const GONE: &str = "the terminal can't be drawn on; --batch prints tables as text";
    let screen = Screen::enter().context(GONE)?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout())).context(GONE)?;
    let theme = Theme { has_colour: style().colour };
    let mut state = State::new(window, TimeZone::system());
    let (mut is_stale, mut last_view) = (true, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        if std::mem::take(&mut is_stale) {
            terminal.draw(|frame| draw(frame, &mut state, theme)).context(GONE)?;
        }
        if event::poll(LOOK).context(GONE)? {
            is_stale = true;
            if let Event::Key(key) = event::read().context(GONE)? {
                match state.key(key) {
                    Action::None => {}
                    Action::Quit => break,
                    Action::Suspend => {
                        screen.suspend().context(GONE)?;
                        terminal.clear().context(GONE)?;
                    }
                    Action::Window(window) => feed.ask(Ask::Window(window)),
                    Action::Detail(owner) => feed.ask(Ask::Detail(owner)),
                }
            }
        }
        while let Some(View { snapshot, detail }) = feed.next(Duration::ZERO)? {
            state.take(snapshot, detail);
            last_view = Instant::now();
            is_stale = true;
        }
        is_stale |= state.set_silence(last_view.elapsed().saturating_sub(interval));
    }
    Ok(Some(state.snapshot).filter(|snapshot| snapshot.window_seconds > 0.0))
}

/// Tables as text, until there were `count` of them, nobody reads them any more, or `stop`. What is new at the end is the last one.
fn print_tables(
    feed: &Feed,
    window: Duration,
    format: Format,
    count: Option<u64>,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Snapshot>> {
    let (mut printed, mut until_seconds, mut end) = (0, 0.0, None);
    while count.is_none_or(|count| printed < count) {
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(Instant::now() + LAST_LOOK);
            feed.ask(Ask::Window(window));
        }
        let view = feed.next(LOOK)?;
        let Some(snapshot) = view.map(|view| view.snapshot).filter(|new| new.elapsed_seconds > until_seconds)
        else {
            if end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            continue;
        };
        until_seconds = snapshot.elapsed_seconds;
        let mut out = io::stdout().lock();
        let written = match format {
            Format::Json => json::write_line(&mut out, &snapshot),
            Format::Text => {
                let space = if printed > 0 { "\n" } else { "" };
                out.write_all(space.as_bytes()).and_then(|()| write_snapshot(&mut out, &snapshot, style()))
            }
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            other => other.context("cannot write to standard output")?,
        }
        printed += 1;
        if end.is_some() {
            break;
        }
    }
    if printed == 0 {
        note("it ended before there were any figures: the first come about a second after it has begun");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only servers that could be mixed up carry their process ID.
    #[test]
    fn names_are_told_apart() {
        let server = |name: &str, pid| Server { name: name.to_owned(), pid, root: pid, pids: vec![pid] };
        let mut servers = [server("files", 1), server("git", 2), server("files", 3)];
        tell_apart(&mut servers);
        assert_eq!(servers.map(|server| server.name), ["files 1", "git", "files 3"]);
    }

    /// A window has a length that is kept, an interval one in which something comes.
    #[test]
    fn limits_of_times() {
        assert_eq!(parse_window("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_interval("5m"), Ok(Duration::from_secs(300)));
        for text in ["0s", "500ms", "61s", "soon"] {
            assert!(parse_window(text).is_err(), "{text}");
        }
        assert!(parse_interval("10ms").is_err());
        assert!(KEPT > WINDOWS[WINDOWS.len() - 1]);
    }
}
