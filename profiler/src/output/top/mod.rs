//! The live table: its rows and columns, as plain text too. [`state`] is what keys do to it, [`view`] draws it on a terminal.

pub mod state;
pub mod view;

use std::cmp::Ordering;
use std::io::{self, Write};

use super::calls::name;
use super::style::{Paint, Style, cut_end, printable};
use super::table::{Align, Table};
use super::units::{count, duration, percent, plural};
use crate::analysis::calls::Latency;
use crate::analysis::live::{Owner, ServerRow, Snapshot, ToolRow};

/// What is in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Name of the server.
    Server,
    /// Tool, prompt or resource; or the method.
    Tool,
    /// Calls that ended, a second.
    Rate,
    /// Calls that go on.
    InFlight,
    /// Half of the calls took no longer.
    P50,
    /// 99 % of the calls took no longer.
    P99,
    /// Share of the calls that ended with an error.
    Errors,
    /// CPU time by time: 100 % is one CPU.
    Cpu,
    /// CPU time by call.
    CpuPerCall,
    /// Share of the CPU time that is certainly theirs.
    Exact,
}

/// All columns, from left to right.
pub const COLUMNS: [Column; 10] = [
    Column::Server,
    Column::Tool,
    Column::Rate,
    Column::InFlight,
    Column::P50,
    Column::P99,
    Column::Errors,
    Column::Cpu,
    Column::CpuPerCall,
    Column::Exact,
];

/// Where there is no room for all columns, these go first. The others always stay.
const FIRST_TO_GO: [Column; 7] = [
    Column::Exact,
    Column::CpuPerCall,
    Column::P50,
    Column::InFlight,
    Column::Errors,
    Column::Rate,
    Column::Server,
];

impl Column {
    /// Its heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Server => "SERVER",
            Self::Tool => "TOOL",
            Self::Rate => "CALLS/S",
            Self::InFlight => "IN FLIGHT",
            Self::P50 => "P50",
            Self::P99 => "P99",
            Self::Errors => "ERRORS",
            Self::Cpu => "CPU",
            Self::CpuPerCall => "CPU/CALL",
            Self::Exact => "EXACT",
        }
    }

    /// Columns of the terminal that it takes, without the space before it. [`Column::Tool`] takes what is left, and needs this.
    pub fn width(self) -> u16 {
        match self {
            Self::Server => 17,
            Self::Tool => 15,
            Self::InFlight => 10,
            Self::Rate | Self::P50 | Self::P99 | Self::Errors => 8,
            Self::Cpu | Self::Exact => 7,
            Self::CpuPerCall => 9,
        }
    }

    fn align(self) -> Align {
        if matches!(self, Self::Server | Self::Tool) { Align::Left } else { Align::Right }
    }

    /// What a row has in this column; `-` is not measured.
    pub fn cell(self, row: &Row<'_>) -> String {
        let none = || "-".to_owned();
        match self {
            Self::Server => row.server().to_owned(),
            Self::Tool => row.name(),
            Self::Rate => row.tool().map_or_else(none, |tool| rate(tool.calls_per_second)),
            Self::InFlight => row.tool().map_or_else(none, |tool| count(tool.in_flight)),
            Self::P50 => row.latency(|latency| latency.p50).map_or_else(none, milliseconds),
            Self::P99 => row.latency(|latency| latency.p99).map_or_else(none, milliseconds),
            Self::Errors => row.error_ratio().map_or_else(none, percent),
            Self::Cpu => percent(row.cpu_ratio()),
            Self::CpuPerCall => {
                row.tool().and_then(|tool| tool.cpu_ms_per_call).map_or_else(none, milliseconds)
            }
            Self::Exact => row.tool().and_then(|tool| tool.exact_ratio).map_or_else(none, percent),
        }
    }

    /// The order of two rows by this column, the least first; what was not measured is less than anything.
    fn compare(self, one: &Row<'_>, other: &Row<'_>) -> Ordering {
        let by = |value: &dyn Fn(&Row<'_>) -> Option<f64>| {
            let least = |row| value(row).unwrap_or(f64::NEG_INFINITY);
            least(one).total_cmp(&least(other))
        };
        match self {
            Self::Server => one.server().cmp(other.server()),
            Self::Tool => one.name().cmp(&other.name()),
            Self::Rate => by(&|row| Some(row.tool()?.calls_per_second)),
            Self::InFlight => by(&|row| Some(row.tool()?.in_flight as f64)),
            Self::P50 => by(&|row| row.latency(|latency| latency.p50)),
            Self::P99 => by(&|row| row.latency(|latency| latency.p99)),
            Self::Errors => by(&|row| row.error_ratio()),
            Self::Cpu => by(&|row| Some(row.cpu_ratio())),
            Self::CpuPerCall => by(&|row| row.tool()?.cpu_ms_per_call),
            Self::Exact => by(&|row| row.tool()?.exact_ratio),
        }
    }
}

/// The columns that fit, from left to right. The server's is left out early where there is only one.
pub fn columns_that_fit(width: u16, has_servers: bool) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
    if !has_servers {
        columns.retain(|column| *column != Column::Server);
    }
    let taken = |columns: &[Column]| columns.iter().map(|column| column.width() + 1).sum::<u16>();
    for gone in FIRST_TO_GO {
        if taken(&columns) <= width {
            break;
        }
        columns.retain(|column| *column != gone);
    }
    columns
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub enum Row<'snapshot> {
    /// The calls of a tool.
    Tool(&'snapshot ToolRow),
    /// What a server does while no call is in flight.
    Background(usize, &'snapshot ServerRow),
}

impl Row<'_> {
    /// Whose row it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Tool(tool) => Owner::Tool(tool.key.clone()),
            Self::Background(server, _) => Owner::Background(*server),
        }
    }

    /// Name of the server.
    pub fn server(&self) -> &str {
        match self {
            Self::Tool(tool) => &tool.server,
            Self::Background(_, server) => &server.server,
        }
    }

    /// What is called, as people read it.
    pub fn name(&self) -> String {
        match self {
            Self::Tool(tool) => name(&tool.method, tool.tool.as_deref(), tool.asked_by_server),
            Self::Background(..) => "(background)".to_owned(),
        }
    }

    fn tool(&self) -> Option<&ToolRow> {
        match self {
            Self::Tool(tool) => Some(tool),
            Self::Background(..) => None,
        }
    }

    fn latency(&self, value: fn(&Latency) -> f64) -> Option<f64> {
        self.tool()?.latency_ms.as_ref().map(value)
    }

    fn error_ratio(&self) -> Option<f64> {
        let tool = self.tool()?;
        (tool.calls > 0).then(|| tool.errors as f64 / tool.calls as f64)
    }

    fn cpu_ratio(&self) -> f64 {
        match self {
            Self::Tool(tool) => tool.cpu_ratio,
            Self::Background(_, server) => server.background_cpu_ratio,
        }
    }

    /// Whether some of its calls failed.
    pub fn has_errors(&self) -> bool {
        self.tool().is_some_and(|tool| tool.errors > 0)
    }
}

/// Tools, sorted, then the background of each server. Only those with `filter` in the name of their server or tool, in
/// whatever case.
pub fn rows<'snapshot>(
    snapshot: &'snapshot Snapshot,
    sort: Column,
    is_descending: bool,
    filter: &str,
) -> Vec<Row<'snapshot>> {
    let filter = filter.to_lowercase();
    let is_shown =
        |row: &Row<'_>| [row.server(), &row.name()].iter().any(|text| text.to_lowercase().contains(&filter));
    let mut tools: Vec<Row<'_>> = snapshot.tools.iter().map(Row::Tool).filter(is_shown).collect();
    tools.sort_by(|one, other| {
        let order = sort.compare(one, other);
        let order = if is_descending { order.reverse() } else { order };
        order.then_with(|| (one.server(), one.name()).cmp(&(other.server(), other.name())))
    });
    let servers = snapshot.servers.iter().enumerate();
    let background = servers.map(|(index, server)| Row::Background(index, server));
    tools.into_iter().chain(background.filter(is_shown)).collect()
}

/// Calls a second: `0.4`, `12.3`, `7,712`.
fn rate(per_second: f64) -> String {
    if per_second < 99.95 { format!("{per_second:.1}") } else { count(per_second.round() as u64) }
}

fn milliseconds(milliseconds: f64) -> String {
    duration(milliseconds / 1e3)
}

/// What is on all views: since when, of how much time and how many samples, and what was lost.
fn headline(snapshot: &Snapshot) -> String {
    if snapshot.window_seconds <= 0.0 {
        return "waiting for the first second".to_owned();
    }
    format!(
        "running for {}, last {} with {}",
        duration(snapshot.elapsed_seconds.round()),
        duration(snapshot.window_seconds),
        plural(snapshot.samples, "sample", "samples"),
    )
}

/// What makes the figures less than whole.
fn warning(snapshot: &Snapshot) -> Option<String> {
    let causes: Vec<String> =
        snapshot.losses.iter().map(|(cause, lost)| format!("{cause} {}", count(*lost))).collect();
    let lost = (!causes.is_empty()).then(|| format!("lost since the start: {}", causes.join(", ")));
    let missing = snapshot.incomplete.then(|| "calls may be missing".to_owned());
    let texts: Vec<String> = missing.into_iter().chain(lost).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// A server in one line.
fn server_line(server: &ServerRow) -> String {
    let rss = server
        .rss_bytes
        .map_or_else(String::new, |bytes| format!(", {:.1} MiB resident", bytes as f64 / f64::from(1 << 20)));
    let state = if server.ended { "ended; " } else { "" };
    format!("{state}{} calls/s, {} of one CPU{rss}", rate(server.calls_per_second), percent(server.cpu_ratio))
}

/// Writes one look as text.
///
/// # Errors
/// Those of the writer.
pub fn write_snapshot(mut out: impl Write, snapshot: &Snapshot, style: Style) -> io::Result<()> {
    let title = format!("{}  {}", snapshot.time.as_deref().unwrap_or("-"), headline(snapshot));
    writeln!(out, "{}", style.paint(Paint::Heading, &cut_end(&title, style.columns())))?;
    for server in &snapshot.servers {
        let line = format!("{}: {}", printable(&server.server), server_line(server));
        writeln!(out, "{}", cut_end(&line, style.columns()))?;
    }
    if let Some(warning) = warning(snapshot) {
        writeln!(out, "{}", style.paint(Paint::Warning, &cut_end(&warning, style.columns())))?;
    }
    let width = u16::try_from(style.columns()).unwrap_or(u16::MAX);
    let columns = columns_that_fit(width, snapshot.servers.len() > 1);
    let headings: Vec<_> = columns.iter().map(|column| (column.heading(), column.align())).collect();
    let flexible = columns.iter().position(|column| *column == Column::Tool).unwrap_or(0);
    let mut table = Table::new(&headings, flexible);
    for row in rows(snapshot, Column::Cpu, true, "") {
        let cells = columns.iter().map(|column| column.cell(&row)).collect();
        table.row(row.has_errors().then_some(Paint::Hot), cells);
    }
    table.write(&mut out, style)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::analysis::live::ToolKey;

    /// A tool with figures that follow from its rate.
    pub(crate) fn tool(server: usize, tool: &str, calls_per_second: f64, cpu_ratio: f64) -> ToolRow {
        let latency =
            Latency { mean: 1.0, p50: 0.1 * calls_per_second, p95: 0.0, p99: calls_per_second, max: 0.0 };
        let name = (!tool.is_empty()).then(|| tool.to_owned());
        let method = if tool.is_empty() { "tools/list" } else { "tools/call" };
        ToolRow {
            key: ToolKey {
                server,
                method: method.into(),
                tool: name.as_deref().map(Into::into),
                asked_by_server: false,
            },
            server: ["everything", "日本語-files"][server].to_owned(),
            method: method.to_owned(),
            tool: name,
            asked_by_server: false,
            calls: (calls_per_second * 10.0) as u64,
            calls_per_second,
            in_flight: 4,
            errors: if tool == "write_file" { 3 } else { 0 },
            latency_ms: (calls_per_second > 0.0).then_some(latency),
            cpu_ratio,
            cpu_ms_per_call: (calls_per_second > 0.0).then(|| cpu_ratio * 1e3 / calls_per_second),
            exact_ratio: (cpu_ratio > 0.0).then_some(0.25),
        }
    }

    /// Two servers, of which one has ended; something was lost.
    pub(crate) fn snapshot() -> Snapshot {
        let server = |server: &str, ended| ServerRow {
            server: server.to_owned(),
            ended,
            calls_per_second: 512.3,
            cpu_ratio: 0.723,
            sampled_cpu_ratio: Some(0.7),
            background_cpu_ratio: 0.051,
            rss_bytes: (!ended).then_some(109_000_000),
        };
        Snapshot {
            schema_version: 1,
            time: Some("2026-02-02T02:40:00Z".to_owned()),
            unix_ms: 1_770_000_000_000,
            elapsed_seconds: 72.3,
            window_seconds: 10.04,
            samples: 723,
            losses: BTreeMap::from([("sample_ring_full".to_owned(), 1200)]),
            incomplete: false,
            servers: vec![server("everything", false), server("日本語-files", true)],
            tools: vec![
                tool(0, "echo", 500.0, 0.4),
                tool(0, "", 12.25, 0.1),
                tool(1, "read_file", 80.0, 0.3),
                tool(1, "write_file", 0.4, 0.02),
                tool(1, "hang\x1b[2J", 0.0, 0.0),
            ],
        }
    }

    fn text(width: usize) -> String {
        let mut out = Vec::new();
        let style = Style { colour: false, width };
        write_snapshot(&mut out, &snapshot(), style).unwrap();
        let text = String::from_utf8(out).unwrap();
        style.assert_fits(&text);
        format!("\n{text}")
    }

    /// A batch shows all columns that fit.
    #[test]
    fn text_of_a_snapshot() {
        insta::assert_snapshot!(text(120), @r#"
        2026-02-02T02:40:00Z  running for 72.0 s, last 10.0 s with 723 samples
        everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resident
        日本語-files: ended; 512 calls/s, 72.3 % of one CPU
        lost since the start: sample_ring_full 1,200
          SERVER        TOOL          CALLS/S  IN FLIGHT      P50      P99  ERRORS     CPU  CPU/CALL   EXACT
          everything    echo              500          4  50.0 ms   500 ms   0.0 %  40.0 %    800 µs  25.0 %
          日本語-files  read_file        80.0          4   8.0 ms  80.0 ms   0.0 %  30.0 %    3.8 ms  25.0 %
          everything    tools/list       12.2          4   1.2 ms  12.2 ms   0.0 %  10.0 %    8.2 ms  25.0 %
          日本語-files  write_file        0.4          4    40 µs   400 µs  75.0 %   2.0 %   50.0 ms  25.0 %
          日本語-files  hang�[2J          0.0          4        -        -       -   0.0 %         -       -
          everything    (background)        -          -        -        -       -   5.1 %         -       -
          日本語-files  (background)        -          -        -        -       -   5.1 %         -       -
        "#);
        insta::assert_snapshot!(text(60), @r#"
        2026-02-02T02:40:00Z  running for 72.0 s, last 10.0 s with …
        everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resid…
        日本語-files: ended; 512 calls/s, 72.3 % of one CPU
        lost since the start: sample_ring_full 1,200
          SERVER        TOOL          CALLS/S      P99     CPU
          everything    echo              500   500 ms  40.0 %
          日本語-files  read_file        80.0  80.0 ms  30.0 %
          everything    tools/list       12.2  12.2 ms  10.0 %
          日本語-files  write_file        0.4   400 µs   2.0 %
          日本語-files  hang�[2J          0.0        -   0.0 %
          everything    (background)        -        -   5.1 %
          日本語-files  (background)        -        -   5.1 %
        "#);
    }

    /// Each column sorts both ways, background stays last, and what was not measured is the least.
    #[test]
    fn sorting() {
        let snapshot = snapshot();
        let names = |sort, is_descending, filter| -> Vec<String> {
            rows(&snapshot, sort, is_descending, filter)
                .iter()
                .map(|row| row.name().chars().take(5).collect())
                .collect()
        };
        let background = ["(back", "(back"].map(str::to_owned);
        for column in COLUMNS {
            let (mut up, down) = (names(column, false, ""), names(column, true, ""));
            assert_eq!((&up[5..], &down[5..]), (&background[..], &background[..]), "{column:?}");
            up.truncate(5);
            let mut sorted = down[..5].to_vec();
            sorted.sort();
            up.sort();
            assert_eq!(up, sorted);
        }
        assert_eq!(names(Column::P99, false, "")[..2], ["hang\u{1b}", "write"]);
        assert_eq!(names(Column::Rate, true, "EVERY"), ["echo", "tools", "(back"]);
        assert_eq!(names(Column::Rate, true, "file"), ["read_", "write", "hang\u{1b}", "(back"]);
        assert!(names(Column::Rate, true, "nothing").is_empty());
    }

    /// What fits is shown, and never less than the tool, its slowest calls and its CPU time.
    #[test]
    fn columns_go_by_width() {
        assert_eq!(columns_that_fit(200, true), COLUMNS);
        assert_eq!(columns_that_fit(200, false).len(), COLUMNS.len() - 1);
        assert_eq!(columns_that_fit(0, true), [Column::Tool, Column::P99, Column::Cpu]);
        for width in 36..160 {
            let columns = columns_that_fit(width, true);
            assert!(columns.iter().map(|column| column.width() + 1).sum::<u16>() <= width, "{width}");
        }
    }
}
