//! Calls as text: by tool, and one by one.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::style::{Paint, Style, columns_of, printable, wrap};
use super::table::{Align, Table};
use super::units::{count, duration, percent, plural};
use crate::analysis::attribution::MAX_SHARING;
use crate::analysis::call_list::ListedCall;
use crate::analysis::calls::{CallCpu, Calls, Latency, Tool};

/// From this share of the CPU time of calls on that is shared, it is told what that means.
const MUCH_SHARED: f64 = 0.2;
/// Tools of which it is told how many of their calls have no result.
const SHOWN_UNFINISHED: usize = 5;

/// Writes the calls of a report, by tool.
///
/// # Errors
/// Those of the writer.
pub fn write_tools(mut out: impl Write, calls: &Calls, style: Style) -> io::Result<()> {
    if calls.tools.is_empty() {
        let has_messages = calls.messages.get("messages").is_some_and(|count| *count > 0);
        let text = if has_messages {
            "Calls: none. Messages were seen, but no request."
        } else {
            "Calls: none seen."
        };
        writeln!(out, "{}", style.paint(Paint::Heading, text))?;
        return write_notes(&mut out, calls, style);
    }
    let title = format!(
        "Calls: {}, {}, at most {} in flight",
        count(calls.total),
        plural(calls.errors, "error", "errors"),
        count(calls.peak_in_flight)
    );
    writeln!(out, "{}", style.paint(Paint::Heading, &title))?;
    let has_queue = calls.tools.iter().any(|tool| tool.queue_ms.is_some());
    let mut headings: Vec<(&'static str, Align)> =
        ["calls", "errors", "p50", "p95", "p99", "max", "CPU", "CPU/call", "exact"]
            .map(|heading| (heading, Align::Right))
            .into();
    if has_queue {
        headings.insert(2, ("queue", Align::Right));
    }
    headings.push(("tool", Align::Left));
    // A tool must be known by its name. What gives way for it is said by other columns too, and whole in JSON.
    let mut table = Table::new(&headings, headings.len() - 1).dropping(&["p95", "max", "CPU/call"]);
    for tool in &calls.tools {
        let latency = |value: fn(&Latency) -> f64| {
            tool.latency_ms.as_ref().map_or("-".into(), |latency| duration(value(latency) / 1e3))
        };
        let mut cells = vec![
            count(tool.count),
            count(tool.errors),
            latency(|latency| latency.p50),
            latency(|latency| latency.p95),
            latency(|latency| latency.p99),
            latency(|latency| latency.max),
            sampled(tool.cpu_ms),
            sampled(tool.cpu_ms / tool.count.max(1) as f64),
            tool.exact_ratio.map_or("-".into(), percent),
            name(&tool.method, tool.tool.as_deref(), tool.asked_by_server),
        ];
        if has_queue {
            cells.insert(2, tool.queue_ms.map_or("-".into(), |queue| duration(queue.p99 / 1e3)));
        }
        table.row((tool.errors > 0).then_some(Paint::Hot), cells);
    }
    table.write(&mut out, style)?;
    if has_queue {
        let text = "queue: what 99 % waited at most from the client's write to the server's read, which is in no other time.";
        write_wrapped(&mut out, text, Paint::Dim, style)?;
    }
    if let Some(crowded) = calls.cpu.crowded_seconds {
        let text = format!(
            "For {} of the CPU time that calls shared, more than {} calls were in flight: it is split between those that came last, and the others have none of it.",
            duration(crowded),
            count(MAX_SHARING as u64)
        );
        write_wrapped(&mut out, &text, Paint::Warning, style)?;
    }
    for text in unfinished(&calls.tools) {
        write_wrapped(&mut out, &text, Paint::Warning, style)?;
    }
    if calls.incomplete {
        let text =
            "Some of what was said could not be recorded: calls may be missing, and their ends not known.";
        write_wrapped(&mut out, text, Paint::Warning, style)?;
    }
    write_notes(&mut out, calls, style)?;
    write_cpu(&mut out, &calls.cpu, style)
}

/// What became of the calls that have no result, tool by tool.
fn unfinished(tools: &[Tool]) -> Vec<String> {
    let concerned: Vec<&Tool> = tools.iter().filter(|tool| !tool.unfinished.is_empty()).collect();
    let (shown, hidden) = concerned.split_at(SHOWN_UNFINISHED.min(concerned.len()));
    let of_tool = |tool: &&Tool| {
        let ends: Vec<String> = tool
            .unfinished
            .iter()
            .map(|(outcome, calls)| {
                let text = match *outcome {
                    "in_flight" => "in flight at the end",
                    "cancelled" => "cancelled by the client",
                    "cut_off" => "cut off as the connection was closed",
                    "unanswered" => "without an answer",
                    "lost" => "with an answer that may have been lost here",
                    other => other,
                };
                let since = tool.longest_in_flight_ms.filter(|_| *outcome == "in_flight").map(|longest| {
                    let most = if *calls == 1 { "" } else { "up to " };
                    format!(", for {most}{}", duration(longest / 1e3))
                });
                format!("{} {text}{}", count(*calls), since.unwrap_or_default())
            })
            .collect();
        let name = name(&tool.method, tool.tool.as_deref(), tool.asked_by_server);
        format!("No result from {}: {}.", printable(&name), ends.join("; "))
    };
    let mut texts: Vec<String> = shown.iter().map(of_tool).collect();
    if !hidden.is_empty() {
        let tools = plural(hidden.len() as u64, "tool has", "tools have");
        texts.push(format!("{tools} calls without a result too: see --format json."));
    }
    texts
}

/// What is certain of the CPU time of calls, what is an estimate, and what is no call's; and that this is all of it.
fn write_cpu(out: &mut impl Write, cpu: &CallCpu, style: Style) -> io::Result<()> {
    let total = cpu.exact_seconds + cpu.shared_seconds + cpu.background_seconds.unwrap_or(0.0);
    if total <= 0.0 {
        return Ok(());
    }
    let told = match cpu.told_by_function_seconds {
        Some(told) if told > 0.0 => {
            format!("; {} of it only between calls whose tool's function ran", duration(told))
        }
        _ => String::new(),
    };
    let shared = format!("several calls were in flight: an estimate, split between them{told}");
    let all = if cpu.background_seconds.is_some() {
        "the whole time on CPU"
    } else {
        "the whole time of these calls on CPU"
    };
    writeln!(out)?;
    writeln!(out, "{}", style.paint(Paint::Heading, "Whose CPU time it was"))?;
    let exact = "certainly one call's: it was alone in flight, or had the thread or process to itself";
    let rows = [
        ("exact", Some(cpu.exact_seconds), exact),
        ("shared", Some(cpu.shared_seconds), &shared),
        ("background", cpu.background_seconds, "no call was in flight"),
        ("together", Some(total), all),
    ];
    for (name, seconds, meaning) in rows {
        let Some(seconds) = seconds else { continue };
        let figures = format!("{:>9} {:>9}  {name:<10}  ", percent(seconds / total), duration(seconds));
        let indent = columns_of(&figures);
        for (index, line) in wrap(meaning, style.columns() - indent).iter().enumerate() {
            let line = style.paint(Paint::Dim, line);
            let before = if index == 0 { figures.clone() } else { " ".repeat(indent) };
            writeln!(out, "{before}{line}")?;
        }
    }
    if cpu.shared_seconds > MUCH_SHARED * (cpu.exact_seconds + cpu.shared_seconds) {
        let text = "Shared time is charged in equal parts, also to calls that only waited: to be sure of a tool, call it while no other one runs.";
        write_wrapped(out, text, Paint::Dim, style)?;
    }
    Ok(())
}

/// Says that no call was seen, and what can be the cause.
///
/// # Errors
/// Those of the writer.
pub fn write_no_calls(mut out: impl Write, style: Style) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Paint::Heading, "Calls: none seen"))?;
    let text = "No client called the server meanwhile; or it is no MCP server; or what it reads and writes can't be seen: \
                through io_uring, or in TLS that is not OpenSSL's.";
    write_wrapped(out, text, Paint::Dim, style)
}

/// A text in as many lines as it needs; none for an empty one.
fn write_wrapped(mut out: impl Write, text: &str, paint: Paint, style: Style) -> io::Result<()> {
    let lines = wrap(text, style.columns());
    let mut lines = lines.iter().filter(|line| !line.is_empty());
    lines.try_for_each(|line| writeln!(out, "{}", style.paint(paint, line)))
}

fn write_notes(mut out: impl Write, calls: &Calls, style: Style) -> io::Result<()> {
    notes(&calls.messages).iter().try_for_each(|note| write_wrapped(&mut out, note, Paint::Dim, style))
}

/// What else was seen on the streams, and should not be there.
fn notes(messages: &BTreeMap<String, u64>) -> Vec<String> {
    const NOTES: [(&str, &str, &str, &str); 13] = [
        (
            "lost_stretches",
            "stretch",
            "stretches",
            "of its streams lost: they came faster than they could be taken.",
        ),
        ("cut_messages", "message", "messages", "too long to be taken whole, and not told by the rest."),
        ("given_up", "request", "requests", "given up: too many waited for an answer."),
        (
            "dropped_messages",
            "half-read message",
            "half-read messages",
            "dropped: together they took too much memory.",
        ),
        (
            "unmatched_responses",
            "response",
            "responses",
            "to requests from before the recording, or that were not seen.",
        ),
        ("repeated_ids", "request", "requests", "with the ID of one that still waited."),
        ("skipped_lines", "line", "lines", "on its streams without a JSON-RPC message."),
        (
            "contents_dropped",
            "call",
            "calls",
            "whose arguments were not kept: too many waited for an answer.",
        ),
        ("unreadable_http", "HTTP message", "HTTP messages", "that could not be read."),
        (
            "encrypted_streams",
            "encrypted stream",
            "encrypted streams",
            "that can't be read: calls over TLS are seen where the server uses OpenSSL, not in Go or rustls.",
        ),
        (
            "io_uring_processes",
            "process has",
            "processes have",
            "an io_uring: what is read and written by it is not seen.",
        ),
        (
            "tls_unattached",
            "TLS library",
            "TLS libraries",
            "in processes that the kernel let nobody attach to: calls over TLS may be missing.",
        ),
        (
            "clients_unseen",
            "probe",
            "probes",
            "of clients' writes that the kernel refused: how long requests waited is not known.",
        ),
    ];
    let note = |(name, one, many, text): &(&str, &str, &str, &str)| {
        let count = *messages.get(*name).filter(|count| **count > 0)?;
        Some(format!("{} {text}", plural(count, one, many)))
    };
    NOTES.iter().filter_map(note).collect()
}

/// Sampled time; without a sample nobody knows.
pub(super) fn sampled(milliseconds: f64) -> String {
    if milliseconds > 0.0 { duration(milliseconds / 1e3) } else { "-".to_owned() }
}

/// Writes calls one by one. `hidden` more are not shown.
///
/// # Errors
/// Those of the writer.
pub fn write_calls(mut out: impl Write, calls: &[ListedCall], hidden: usize, style: Style) -> io::Result<()> {
    if calls.is_empty() {
        return writeln!(out, "No such call was recorded.");
    }
    let mut headings: Vec<(&'static str, Align)> =
        ["call", "start", "time", "CPU", "request", "response"].map(|heading| (heading, Align::Right)).into();
    let has_queue = calls.iter().any(|call| call.queue_ms.is_some());
    if has_queue {
        headings.insert(2, ("queue", Align::Right));
    }
    headings.extend([("outcome", Align::Left), ("tool", Align::Left)]);
    let mut table = Table::new(&headings, headings.len() - 1);
    for call in calls {
        let mut cells = vec![
            call.call.to_string(),
            format!("+{}", duration(call.start_seconds)),
            duration(call.duration_ms / 1e3),
            cpu(call),
            format!("{} B", count(call.request_bytes)),
            format!("{} B", count(call.response_bytes)),
            outcome(call),
            name(&call.method, call.tool.as_deref(), false),
        ];
        if has_queue {
            cells.insert(2, call.queue_ms.map_or("-".into(), |queue| duration(queue / 1e3)));
        }
        table.row((call.outcome != "ok").then_some(Paint::Hot), cells);
    }
    table.write(&mut out, style)?;
    if hidden > 0 {
        let more = format!("… {} more", count(hidden as u64));
        writeln!(out, "{}", style.paint(Paint::Dim, &more))?;
    }
    let has_shared = calls.iter().any(|call| call.cpu_shared_ms > 0.0);
    let is_unsampled = calls.iter().any(|call| call.cpu_exact_ms + call.cpu_shared_ms <= 0.0);
    let legend: Vec<&str> = [
        (has_shared, "~: with a part of what several calls in flight used, an estimate."),
        (is_unsampled, "- below CPU: on one for less than the time between two samples."),
    ]
    .into_iter()
    .filter_map(|(is_there, text)| is_there.then_some(text))
    .collect();
    write_wrapped(out, &legend.join(" "), Paint::Dim, style)
}

fn cpu(call: &ListedCall) -> String {
    let total = sampled(call.cpu_exact_ms + call.cpu_shared_ms);
    if call.cpu_shared_ms > 0.0 { format!("~{total}") } else { total }
}

pub(super) fn outcome(call: &ListedCall) -> String {
    match call.error_code {
        Some(code) => format!("{} {code}", call.outcome),
        None => call.outcome.to_owned(),
    }
}

pub(super) fn name(method: &str, tool: Option<&str>, asked_by_server: bool) -> String {
    let name = match tool {
        Some(tool) if method == "tools/call" => tool.to_owned(),
        Some(tool) => format!("{method} {tool}"),
        None => method.to_owned(),
    };
    if asked_by_server { format!("{name} (asked by the server)") } else { name }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::analysis::attribution::Attribution;
    use crate::analysis::call_list::{Selection, select};
    use crate::analysis::report::Report;
    use crate::analysis::testing::Builder;
    use crate::output::text::write_report;
    use crate::recording::Recording;
    use crate::wire::calls::Ended;

    const MS: u64 = 1_000_000;

    pub(crate) fn recording() -> Recording {
        let mut builder = Builder::new();
        let start = builder.recording.meta.start_ns;
        let thread = builder.thread(0, 100, "main");
        builder.call(0, "burn", start + 10 * MS, start + 90 * MS);
        builder.call(0, "sleep", start + 50 * MS, start + 250 * MS);
        builder.recording.calls[1].call.queue_ns = Some(3 * MS);
        builder.recording.calls[1].call.ended =
            Ended::Error { code: Some(-32000), message: Some("too\x1b[1m late".into()) };
        for time in [20, 30, 60, 95] {
            builder.sample_at(start + time * MS, thread, 10 * MS);
        }
        builder.recording
    }

    /// Tools with their figures, and what of them is an estimate.
    #[test]
    fn tools_are_shown() {
        let mut recording = recording();
        let messages =
            [("messages", 9), ("skipped_lines", 1), ("lost_stretches", 2), ("unmatched_responses", 0)];
        recording.messages = messages.map(|(name, count)| (name.to_owned(), count)).into();
        let calls = Calls::new(&recording, &Attribution::new(&recording)).unwrap();
        let mut out = Vec::new();
        write_tools(&mut out, &calls, Style::default()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        Calls: 2, 1 error, at most 2 in flight
          calls  errors   queue      p50      p99      CPU  CPU/call   exact  tool
              1       0       -  80.0 ms  80.0 ms  25.0 ms   25.0 ms  80.0 %  burn
              1       1  3.0 ms   200 ms   200 ms  15.0 ms   15.0 ms  66.7 %  sleep
        queue: what 99 % waited at most from the client's write to the server's read,
        which is in no other time.
        Some of what was said could not be recorded: calls may be missing, and their
        ends not known.
        2 stretches of its streams lost: they came faster than they could be taken.
        1 line on its streams without a JSON-RPC message.

        Whose CPU time it was
           75.0 %   30.0 ms  exact       certainly one call's: it was alone in flight,
                                         or had the thread or process to itself
           25.0 %   10.0 ms  shared      several calls were in flight: an estimate,
                                         split between them
            0.0 %       0 s  background  no call was in flight
          100.0 %   40.0 ms  together    the whole time on CPU
        Shared time is charged in equal parts, also to calls that only waited: to be
        sure of a tool, call it while no other one runs.
        ");
    }

    /// A report of some tools says so, and whose time its figures are.
    #[test]
    fn a_part_is_called_one() {
        let report = Report::of_tools(&recording(), &["burn".to_owned()], 0.05);
        let mut out = Vec::new();
        write_report(&mut out, &report, 5, Style::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Shown        only what was done for calls of burn"), "{text}");
        assert!(text.contains("together    the whole time of these calls on CPU"), "{text}");
        assert!(!text.contains("background"), "{text}");
    }

    /// Calls in a list.
    #[test]
    fn calls_are_shown() {
        let recording = recording();
        let attribution = Attribution::new(&recording);
        let calls: Vec<ListedCall> = select(&recording, &Selection::default())
            .into_iter()
            .filter_map(|index| ListedCall::new(&recording, &attribution, index))
            .collect();
        let mut out = Vec::new();
        write_calls(&mut out, &calls, 3, Style::default()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
          call     start   queue     time       CPU  request  response  outcome       tool
             2  +50.0 ms  3.0 ms   200 ms  ~15.0 ms    100 B     200 B  error -32000  sleep
             1  +10.0 ms       -  80.0 ms  ~25.0 ms    100 B     200 B  ok            burn
        … 3 more
        ~: with a part of what several calls in flight used, an estimate.
        ");
    }
}
