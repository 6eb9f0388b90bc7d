//! `mcp-profiler list`: the MCP servers of this machine, configured and running.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::terminal::{Format, print};
use crate::output::style::printable;
use crate::target::config::{Configurations, Entry, Surroundings, Transport};
use crate::target::process::{Process, ProcessError, ProcessTable, command_line};
use crate::target::resolve::{Server, refuse_foreign_namespace, running_servers};
use crate::target::{listening, runtime};

/// Ports that Node's debugger listens on: they say nothing of how a server is reached.
const DEBUGGER_PORTS: std::ops::RangeInclusive<u16> = 9229..=9239;
/// Width of the text, in columns.
const COLUMNS: usize = 80;
/// Width of the first column.
const NAME_COLUMNS: usize = 24;

/// List the MCP servers of this machine, configured and running
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  mcp-profiler list
  mcp-profiler list --config ./mcp.json --format json

A server is found by the client configuration that names it (Claude Code, Claude
Desktop, VS Code, Cursor, Windsurf, Gemini CLI), or, when none does, by `mcp` or
`modelcontextprotocol` as a word of its program, script, module or package.
npx, uvx, `sh -c` and alike are not listed: the process that works is.
With sudo, servers of other users show their runtime and transport too.")]
pub(super) struct ListArguments {
    /// Also read this client configuration (JSON, of any client's shape)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to print the list
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// A server in the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Absent when it does not run, like all that only a running server has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    pids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<RuntimeColumn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<TransportColumn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configured: Option<Configured>,
    /// True when it belongs to another user and could not be looked into.
    denied: bool,
}

#[derive(Debug, Serialize)]
struct RuntimeColumn {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum TransportColumn {
    Stdio,
    Http { port: u16 },
    Unix,
    Remote { url: String },
}

#[derive(Debug, Serialize)]
struct Configured {
    client: &'static str,
    file: PathBuf,
}

#[derive(Serialize)]
struct List<'list> {
    schema_version: u32,
    servers: &'list [Row],
    warnings: Vec<WarningColumn<'list>>,
}

#[derive(Serialize)]
struct WarningColumn<'list> {
    file: &'list Path,
    what: &'list str,
}

/// Prints the list.
///
/// # Errors
/// When the named configuration or `/proc` cannot be read, or the list cannot be written.
pub(super) fn run(arguments: &ListArguments) -> anyhow::Result<()> {
    let surroundings = Surroundings::of_this_process();
    let configurations = Configurations::read(arguments.config.as_deref(), &surroundings)?;
    let rows = rows(&configurations).context("cannot read /proc")?;
    let text = match arguments.format {
        Format::Json => {
            let warnings = configurations.warnings.iter();
            let warnings =
                warnings.map(|warning| WarningColumn { file: &warning.file, what: &warning.what }).collect();
            let mut json =
                serde_json::to_string_pretty(&List { schema_version: 1, servers: &rows, warnings })?;
            json.push('\n');
            json
        }
        Format::Text => {
            for warning in &configurations.warnings {
                eprintln!("warning: {}", printable(&warning.to_string()));
            }
            if let Err(error) = refuse_foreign_namespace() {
                eprintln!("warning: only the servers of this container are seen: {error}");
            }
            render(&rows, &surroundings.home)
        }
    };
    print(|out| out.write_all(text.as_bytes()))?;
    let denied = rows.iter().filter(|row| row.denied).count();
    if denied > 0 && arguments.format == Format::Text {
        eprintln!("{denied} of them belong to other users: `sudo mcp-profiler list` shows more of those");
    }
    Ok(())
}

/// Running servers, configured ones first, then those that do not run.
fn rows(configurations: &Configurations) -> io::Result<Vec<Row>> {
    let table = ProcessTable::read()?;
    let ports = listening::listening_ports()?;
    let unix_sockets = listening::listening_unix_sockets();
    let mut rows = Vec::new();
    let mut running = BTreeSet::new();
    for (server, index) in running_servers(&table, configurations) {
        running.extend(index);
        let entry = index.map(|index| &configurations.entries[index]);
        // One that ended since the table was read is not listed.
        rows.extend(running_row(&server, entry, &table, &ports, &unix_sockets).ok());
    }
    let resting = configurations.entries.iter().enumerate().filter(|(index, _)| !running.contains(index));
    rows.extend(resting.map(|(_, entry)| resting_row(entry)));
    Ok(rows)
}

fn running_row(
    server: &Server,
    entry: Option<&Entry>,
    table: &ProcessTable,
    ports: &BTreeMap<u64, u16>,
    unix_sockets: &BTreeSet<u64>,
) -> Result<Row, ProcessError> {
    let process = Process::open(server.pid)?;
    let stat = process.stat()?;
    let runtime = match runtime::detect(&process) {
        Err(ProcessError::Ended(pid)) => return Err(ProcessError::Ended(pid)),
        other => other,
    };
    let denied = matches!(runtime, Err(ProcessError::Denied { .. }));
    let transport = match entry.map(|entry| &entry.transport) {
        Some(Transport::Stdio { .. }) => Some(TransportColumn::Stdio),
        Some(Transport::Url(url)) => Some(url_transport(&url.text())),
        None if denied => None,
        None => Some(observed_transport(server, ports, unix_sockets)),
    };
    Ok(Row {
        name: server.name.clone(),
        pid: Some(server.pid),
        pids: server.pids.clone(),
        runtime: runtime.ok().map(|runtime| RuntimeColumn { name: runtime.name, version: runtime.version }),
        transport,
        uptime_seconds: Some(stat.uptime().as_secs()),
        rss_bytes: Some(stat.rss_bytes),
        command: Some(command_line(table.arguments(server.pid))),
        configured: entry.map(configured),
        denied,
    })
}

fn resting_row(entry: &Entry) -> Row {
    Row {
        name: entry.name.clone(),
        pid: None,
        pids: Vec::new(),
        runtime: None,
        transport: Some(match &entry.transport {
            Transport::Stdio { .. } => TransportColumn::Stdio,
            Transport::Url(url) => url_transport(&url.text()),
        }),
        uptime_seconds: None,
        rss_bytes: None,
        command: None,
        configured: Some(configured(entry)),
        denied: false,
    }
}

fn configured(entry: &Entry) -> Configured {
    Configured { client: entry.client, file: entry.file.clone() }
}

fn url_transport(url: &str) -> TransportColumn {
    match listening::host_and_port(url) {
        Some((host, port)) if listening::is_local(&host) => TransportColumn::Http { port },
        _ => TransportColumn::Remote { url: url.to_owned() },
    }
}

/// By what its processes listen on. A server that listens on nothing is talked to over its standard input and output.
fn observed_transport(
    server: &Server,
    ports: &BTreeMap<u64, u16>,
    unix_sockets: &BTreeSet<u64>,
) -> TransportColumn {
    let processes: Vec<Process> = server.pids.iter().filter_map(|pid| Process::open(*pid).ok()).collect();
    let mut listened = processes.iter().flat_map(|process| listening::ports_of(process, ports));
    if let Some(port) = listened.find(|port| !DEBUGGER_PORTS.contains(port)) {
        return TransportColumn::Http { port };
    }
    let mut sockets =
        processes.iter().flat_map(|process| process.sockets().unwrap_or_default().into_values());
    if sockets.any(|inode| unix_sockets.contains(&inode)) {
        TransportColumn::Unix
    } else {
        TransportColumn::Stdio
    }
}

fn render(rows: &[Row], home: &Path) -> String {
    if rows.is_empty() {
        return "No MCP server is configured or running.\n\
                Profile any process with `mcp-profiler profile --pid PID`.\n"
            .to_owned();
    }
    let mut text = line(&["NAME", "PID", "RUNTIME", "TRANSPORT", "UPTIME", "RSS"].map(str::to_owned));
    for row in rows {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        text.push_str(&line(&[
            printable(&row.name).into_owned(),
            or_dash(row.pid.map(|pid| pid.to_string())),
            or_dash(row.runtime.as_ref().map(runtime_text)),
            or_dash(row.transport.as_ref().map(transport_text)),
            or_dash(row.uptime_seconds.map(uptime_text)),
            or_dash(row.rss_bytes.map(bytes_text)),
        ]));
        if let (None, Some(configured)) = (row.pid, &row.configured) {
            let file = match configured.file.strip_prefix(home) {
                Ok(rest) if !home.as_os_str().is_empty() => Path::new("~").join(rest),
                _ => configured.file.clone(),
            };
            let place = format!("not running: {}, {}", configured.client, file.display());
            text.push_str(&format!("  {}\n", shorten(&printable(&place), COLUMNS - 2)));
        }
    }
    text
}

/// One line of the table; a name that is too long stands on a line of its own, whole, so that it can be copied.
fn line(columns: &[String; 6]) -> String {
    let [name, pid, runtime, transport, uptime, rss] = columns;
    let rest = format!("{pid:>7}  {runtime:<16.16} {transport:<11.11} {uptime:>7} {rss:>9}",);
    if name.chars().count() > NAME_COLUMNS {
        format!("{name}\n{:NAME_COLUMNS$}{rest}\n", "")
    } else {
        format!("{name:<NAME_COLUMNS$}{rest}\n")
    }
}

fn runtime_text(runtime: &RuntimeColumn) -> String {
    match &runtime.version {
        Some(version) => format!("{} {version}", runtime.name),
        None => runtime.name.clone(),
    }
}

fn transport_text(transport: &TransportColumn) -> String {
    match transport {
        TransportColumn::Stdio => "stdio".to_owned(),
        TransportColumn::Http { port } => format!("http :{port}"),
        TransportColumn::Unix => "unix".to_owned(),
        TransportColumn::Remote { .. } => "remote".to_owned(),
    }
}

/// The two largest units.
fn uptime_text(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

fn bytes_text(bytes: u64) -> String {
    let mebibytes = bytes as f64 / 1024.0 / 1024.0;
    if mebibytes < 1000.0 { format!("{mebibytes:.1} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

/// Cuts the middle out of a long text: a path's start and end tell most.
fn shorten(text: &str, columns: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= columns {
        return text.to_owned();
    }
    let head = columns / 2;
    let tail = columns - head - 3;
    let part = |letters: &[char]| letters.iter().collect::<String>();
    format!("{}...{}", part(&letters[..head]), part(&letters[letters.len() - tail..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(name: &str, runtime: &str, version: &str, transport: TransportColumn) -> Row {
        Row {
            name: name.to_owned(),
            pid: Some(12759),
            pids: vec![12759],
            runtime: Some(RuntimeColumn { name: runtime.to_owned(), version: Some(version.to_owned()) }),
            transport: Some(transport),
            uptime_seconds: Some(7384),
            rss_bytes: Some(89_400_000),
            command: Some("node s.js".to_owned()),
            configured: None,
            denied: false,
        }
    }

    fn resting(name: &str, file: &str, transport: TransportColumn) -> Row {
        Row {
            pid: None,
            runtime: None,
            uptime_seconds: None,
            rss_bytes: None,
            configured: Some(Configured { client: "Cursor (user)", file: file.into() }),
            ..running(name, "", "", transport)
        }
    }

    /// The table, with a name that is too long, a hostile one, and servers that do not run.
    #[test]
    fn table() {
        let long_path = format!("/srv/{}/mcp.json", "very-long-folder/".repeat(8));
        let rows = [
            running("everything", "node", "20.20.2", TransportColumn::Stdio),
            running(
                "a-server-with-a-name-that-goes-on-and-on",
                "python",
                "3.14.0rc1",
                TransportColumn::Http { port: 65535 },
            ),
            running("evil\u{1b}[2J", "native", "1", TransportColumn::Unix),
            resting("clock", "/home/ann/.cursor/mcp.json", TransportColumn::Stdio),
            resting("web", &long_path, TransportColumn::Remote { url: "https://example.com".to_owned() }),
        ];
        let text = render(&rows, Path::new("/home/ann"));
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        insta::assert_snapshot!(text, @r"
        NAME                        PID  RUNTIME          TRANSPORT    UPTIME       RSS
        everything                12759  node 20.20.2     stdio         2h 3m  85.3 MiB
        a-server-with-a-name-that-goes-on-and-on
                                  12759  python 3.14.0rc1 http :65535   2h 3m  85.3 MiB
        evil�[2J                  12759  native 1         unix          2h 3m  85.3 MiB
        clock                         -  -                stdio             -         -
          not running: Cursor (user), ~/.cursor/mcp.json
        web                           -  -                remote            -         -
          not running: Cursor (user), /srv/very-l...ng-folder/very-long-folder//mcp.json
        ");
    }

    /// With nothing to show, the user learns what to do.
    #[test]
    fn empty() {
        insta::assert_snapshot!(render(&[], Path::new("/")), @r"
        No MCP server is configured or running.
        Profile any process with `mcp-profiler profile --pid PID`.
        ");
    }

    /// Two units at most.
    #[test]
    fn uptimes() {
        assert_eq!([5, 65, 3700, 90_000].map(uptime_text), ["5s", "1m 5s", "1h 1m", "1d 1h"]);
    }

    /// Debuggers' ports and addresses of other machines are told apart from a server's own.
    #[test]
    fn transports() {
        assert_eq!(url_transport("http://127.0.0.1:8931/mcp"), TransportColumn::Http { port: 8931 });
        assert!(matches!(url_transport("https://example.com/mcp"), TransportColumn::Remote { .. }));
    }

    /// This test's own process has a listening socket: it is seen as an HTTP server.
    #[test]
    fn observed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = std::process::id();
        let server = Server { name: "test".to_owned(), pid, root: pid, pids: vec![pid] };
        let only_ours: BTreeMap<u64, u16> = listening::listening_ports()
            .unwrap()
            .into_iter()
            .filter(|(_, listened)| *listened == port)
            .collect();
        assert_eq!(observed_transport(&server, &only_ours, &BTreeSet::new()), TransportColumn::Http { port });
        assert_eq!(observed_transport(&server, &BTreeMap::new(), &BTreeSet::new()), TransportColumn::Stdio);
    }
}
