//! Calls as text: by tool, one by one, and one alone.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::style::{Paint, Style, printable, wrap};
use super::table::{Align, Table};
use super::units::{count, duration, percent, plural};
use crate::analysis::call_list::{Activity, ListedCall};
use crate::analysis::calls::{Calls, Latency};

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
    let mut headings: Vec<(&'static str, Align)> =
        ["calls", "errors", "p50", "p95", "p99", "max", "CPU", "CPU/call", "exact"]
            .map(|heading| (heading, Align::Right))
            .into();
    let has_queue = calls.tools.iter().any(|tool| tool.queue_ms.is_some());
    if has_queue {
        // There is room for so many columns: one of the percentiles gives way.
        headings.remove(3);
        headings.insert(2, ("queue", Align::Right));
    }
    headings.push(("tool", Align::Left));
    let mut table = Table::new(&headings, headings.len() - 1);
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
            cells.remove(3);
            cells.insert(2, tool.queue_ms.map_or("-".into(), |queue| duration(queue.p99 / 1e3)));
        }
        table.row((tool.errors > 0).then_some(Paint::Hot), cells);
    }
    table.write(&mut out, style)?;
    if has_queue {
        let text = "queue: what 99 % waited at most from the client's write to the server's read, which is in no other time.";
        for line in wrap(text, style.columns()) {
            writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
        }
    }
    let cpu = &calls.cpu;
    let told = match cpu.told_by_function_seconds {
        Some(told) if told > 0.0 => format!("; {} of it told by functions of their tools", duration(told)),
        _ => String::new(),
    };
    let background = match cpu.background_seconds {
        Some(background) => format!(", {} while no call was in flight", duration(background)),
        None => String::new(),
    };
    let text = format!(
        "CPU time: {} certainly of one call, {} split between calls in flight together (an estimate{told}){background}.",
        duration(cpu.exact_seconds),
        duration(cpu.shared_seconds)
    );
    for line in wrap(&text, style.columns()) {
        writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
    }
    if let Some(crowded) = cpu.crowded_seconds {
        let text = format!(
            "For {} of it more than 1,024 calls were in flight: it is split between those that came last, and the others have none of it.",
            duration(crowded)
        );
        for line in wrap(&text, style.columns()) {
            writeln!(out, "{}", style.paint(Paint::Warning, &line))?;
        }
    }
    if calls.incomplete {
        let text =
            "Some of what was said could not be recorded: calls may be missing, and their ends not known.";
        for line in wrap(text, style.columns()) {
            writeln!(out, "{}", style.paint(Paint::Warning, &line))?;
        }
    }
    write_notes(&mut out, calls, style)
}

fn write_notes(mut out: impl Write, calls: &Calls, style: Style) -> io::Result<()> {
    for line in notes(&calls.messages).iter().flat_map(|note| wrap(note, style.columns())) {
        writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
    }
    Ok(())
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
fn sampled(milliseconds: f64) -> String {
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
    Ok(())
}

/// Writes what is known of one call, with its time as a bar.
///
/// # Errors
/// Those of the writer.
pub fn write_call(
    mut out: impl Write,
    call: &ListedCall,
    activity: &[Activity],
    style: Style,
) -> io::Result<()> {
    let title = format!("Call {}: {}", call.call, name(&call.method, call.tool.as_deref(), false));
    writeln!(out, "{}", style.paint(Paint::Heading, &printable(&title)))?;
    let mut fact = |key: &str, value: String| writeln!(out, "{key:<11}{}", printable(&value));
    fact("Start", format!("+{} in process {}", duration(call.start_seconds), call.pid))?;
    if let Some(queue) = call.queue_ms {
        fact("Queue", format!("{} before that, since its client wrote it", duration(queue / 1e3)))?;
    }
    fact("Time", duration(call.duration_ms / 1e3))?;
    if let Some(first) = call.first_response_ms {
        fact("Response", format!("began after {}", duration(first / 1e3)))?;
    }
    let shared = format!("{} shared with other calls (an estimate)", sampled(call.cpu_shared_ms));
    let cpu = match (call.cpu_exact_ms > 0.0, call.cpu_shared_ms > 0.0) {
        (false, false) => "not sampled on one".to_owned(),
        (true, false) => format!("{} its own", sampled(call.cpu_exact_ms)),
        (false, true) => shared,
        (true, true) => format!("{} its own, {shared}", sampled(call.cpu_exact_ms)),
    };
    fact("CPU", cpu)?;
    fact("Request", format!("{} B", count(call.request_bytes)))?;
    fact("Answer", format!("{} B", count(call.response_bytes)))?;
    fact("Outcome", outcome(call))?;
    if let Some(message) = &call.error_message {
        fact("Message", message.clone())?;
    }
    for (name, contents) in [("Arguments", &call.arguments), ("Result", &call.result)] {
        if let Some(contents) = contents {
            fact(name, contents.to_string())?;
        }
    }
    if let Some(trace) = &call.trace_parent {
        fact("Trace", trace.clone())?;
    }
    let bar: String = activity
        .iter()
        .map(|part| match part {
            Activity::OnCpu => '█',
            Activity::Shared => '▒',
            Activity::Unknown => '·',
        })
        .collect();
    writeln!(out)?;
    writeln!(out, "{bar}")?;
    let legend = "█ on a CPU for it   ▒ on a CPU, several calls in flight   · not sampled on a CPU";
    writeln!(out, "{}", style.paint(Paint::Dim, legend))
}

fn cpu(call: &ListedCall) -> String {
    let total = sampled(call.cpu_exact_ms + call.cpu_shared_ms);
    if call.cpu_shared_ms > 0.0 { format!("~{total}") } else { total }
}

fn outcome(call: &ListedCall) -> String {
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
mod tests {
    use super::*;
    use crate::analysis::attribution::Attribution;
    use crate::analysis::call_list::{Selection, activity, select};
    use crate::analysis::testing::Builder;
    use crate::recording::Recording;
    use crate::wire::calls::Ended;

    const MS: u64 = 1_000_000;

    fn recording() -> Recording {
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
          calls  errors   queue      p50      p99      max      CPU  CPU/call   exact  tool
              1       0       -  80.0 ms  80.0 ms  80.0 ms  25.0 ms   25.0 ms  80.0 %  burn
              1       1  3.0 ms   200 ms   200 ms   200 ms  15.0 ms   15.0 ms  66.7 %  sleep
        queue: what 99 % waited at most from the client's write to the server's read,
        which is in no other time.
        CPU time: 30.0 ms certainly of one call, 10.0 ms split between calls in flight
        together (an estimate), 0 s while no call was in flight.
        Some of what was said could not be recorded: calls may be missing, and their
        ends not known.
        2 stretches of its streams lost: they came faster than they could be taken.
        1 line on its streams without a JSON-RPC message.
        ");
    }

    /// Calls in a list, and one with its time; control characters of a message are not printed.
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
        writeln!(out).unwrap();
        write_call(&mut out, &calls[0], &activity(&recording, &attribution, 1, 40), Style::default())
            .unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
          call     start   queue     time       CPU  request  response  outcome       tool
             2  +50.0 ms  3.0 ms   200 ms  ~15.0 ms    100 B     200 B  error -32000  sleep
             1  +10.0 ms       -  80.0 ms  ~25.0 ms    100 B     200 B  ok            burn
        … 3 more

        Call 2: sleep
        Start      +50.0 ms in process 100
        Queue      3.0 ms before that, since its client wrote it
        Time       200 ms
        Response   began after 200 ms
        CPU        10.0 ms its own, 5.0 ms shared with other calls (an estimate)
        Request    100 B
        Answer     200 B
        Outcome    error -32000
        Message    too�[1m late

        ··▒······█······························
        █ on a CPU for it   ▒ on a CPU, several calls in flight   · not sampled on a CPU
        ");
    }
}
