//! One call as text: what is known of it, and its time.

use std::io::{self, Write};

use super::calls::{name, outcome, sampled};
use super::style::{Paint, Style, columns_of, cut_middle, printable, wrap};
use super::units::{count, duration, plural};
use crate::analysis::call_list::Activity;
use crate::analysis::trace::Trace;

/// Columns of the bars of a timeline.
const BAR: usize = 20;
/// Columns of a command line.
const MAX_COMMAND: usize = 60;
/// Rows of a timeline.
const MAX_ROWS: usize = 30;

/// Writes what is known of one call, with its time as a bar: what it was doing in equal parts of it; and what else there was meanwhile.
///
/// # Errors
/// Those of the writer.
pub fn write_trace(
    mut out: impl Write,
    trace: &Trace,
    activity: &[Activity],
    style: Style,
) -> io::Result<()> {
    let call = &trace.call;
    let title = format!("Call {}: {}", call.call, name(&call.method, call.tool.as_deref(), false));
    writeln!(out, "{}", style.paint(Paint::Heading, &printable(&title)))?;
    let mut fact = |key: &str, value: String| writeln!(out, "{key:<11}{}", printable(&value));
    fact("Start", format!("+{} in process {}", duration(call.start_seconds), call.pid))?;
    if let Some(queue) = call.queue_ms {
        fact("Queue", format!("{} before that, since its client wrote it", duration(queue / 1e3)))?;
    }
    fact("Time", duration(call.duration_ms / 1e3))?;
    let shared = format!("{} shared with other calls (an estimate)", sampled(call.cpu_shared_ms));
    let cpu = match (call.cpu_exact_ms > 0.0, call.cpu_shared_ms > 0.0) {
        (false, false) => "not sampled on one".to_owned(),
        (true, false) => format!("{} its own", sampled(call.cpu_exact_ms)),
        (false, true) => shared,
        (true, true) => format!("{} its own, {shared}", sampled(call.cpu_exact_ms)),
    };
    fact("CPU", cpu)?;
    fact("Request", format!("{} B", count(call.request_bytes)))?;
    let first = call.first_response_ms.map(|first| format!(", the first after {}", duration(first / 1e3)));
    fact("Response", format!("{} B{}", count(call.response_bytes), first.unwrap_or_default()))?;
    let not_yet = if call.outcome == "in_flight" { ": it had not ended when the recording did" } else { "" };
    fact("Outcome", format!("{}{not_yet}", outcome(call)))?;
    if let Some(message) = &call.error_message {
        fact("Message", message.clone())?;
    }
    for (name, contents) in [("Arguments", &call.arguments), ("Result", &call.result)] {
        if let Some(contents) = contents {
            fact(name, contents.to_string())?;
        }
    }
    if let Some(parent) = &call.trace_parent {
        fact("Trace", parent.clone())?;
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
    let end = format!("+{}", duration(call.duration_ms / 1e3));
    let columns = activity.len().saturating_sub(1);
    writeln!(out, "{}", style.paint(Paint::Dim, &format!("0{end:>columns$}")))?;
    let legend = "█ on a CPU for it   ▒ on a CPU, several calls in flight   · not sampled on a CPU";
    writeln!(out, "{}", style.paint(Paint::Dim, legend))?;
    write_timeline(&mut out, trace, style)
}

/// What happened to a call, from when to when in milliseconds since its start.
struct Row {
    from_ms: f64,
    to_ms: f64,
    text: String,
}

/// What happened to the call: its messages, its processes, what was asked meanwhile.
fn write_timeline(out: &mut impl Write, trace: &Trace, style: Style) -> io::Result<()> {
    let mut rows = rows(trace);
    rows.sort_by(|one, other| one.from_ms.total_cmp(&other.from_ms));
    let end_ms = rows.iter().map(|row| row.to_ms).fold(trace.call.duration_ms, f64::max);
    writeln!(out)?;
    writeln!(out, "{}", style.paint(Paint::Heading, "Timeline"))?;
    writeln!(out, "{}", style.paint(Paint::Dim, "     from      time"))?;
    let hidden = rows.len().saturating_sub(MAX_ROWS) as u64 + trace.more_children;
    for Row { from_ms, to_ms, text } in rows.iter().take(MAX_ROWS) {
        let sign = if *from_ms < 0.0 { "-" } else { "+" };
        let figures = format!(
            "{:>9} {:>9}  {}  ",
            format!("{sign}{}", duration(from_ms.abs() / 1e3)),
            duration((to_ms - from_ms) / 1e3),
            bar(*from_ms, *to_ms, end_ms)
        );
        let indent = columns_of(&figures);
        for (index, line) in wrap(text, style.columns().saturating_sub(indent)).iter().enumerate() {
            let before = if index == 0 { figures.clone() } else { " ".repeat(indent) };
            writeln!(out, "{before}{line}")?;
        }
    }
    if hidden > 0 {
        let more = format!("… {} more: see --format json", plural(hidden, "row", "rows"));
        writeln!(out, "{}", style.paint(Paint::Dim, &more))?;
    }
    Ok(())
}

fn rows(trace: &Trace) -> Vec<Row> {
    let call = &trace.call;
    let mut rows = Vec::new();
    let mut row = |from_ms, to_ms, text| rows.push(Row { from_ms, to_ms, text });
    if let Some(queue_ms) = call.queue_ms {
        row(-queue_ms, 0.0, "waits to be read".to_owned());
    }
    row(0.0, trace.received_ms, "request comes in".to_owned());
    if let Some(first_ms) = call.first_response_ms {
        // Behind what it was asked for in between, of which the time of the call knows nothing.
        row(first_ms, first_ms.max(call.duration_ms), "response goes out".to_owned());
    }
    for child in &trace.children {
        let command = printable(&child.command);
        let command = cut_middle(&command, MAX_COMMAND);
        let cpu = if child.cpu_ms > 0.0 {
            format!("{} on a CPU", sampled(child.cpu_ms))
        } else {
            "not sampled on a CPU".to_owned()
        };
        let whose = if child.shared { "; may be another call's" } else { "" };
        let end = if child.to_ms.is_some() { "" } else { "; still lives" };
        let text = format!("process {}: {command}; {cpu}{whose}{end}", child.pid);
        row(child.from_ms, child.to_ms.unwrap_or(call.duration_ms).max(child.from_ms), text);
    }
    for asked in &trace.asked {
        let text = format!("asks its client: {} ({})", printable(&asked.method), asked.outcome);
        row(asked.from_ms, asked.to_ms, text);
    }
    rows
}

/// Where a stretch of time lies within all of it.
fn bar(from_ms: f64, to_ms: f64, end_ms: f64) -> String {
    let place = |time_ms: f64| if end_ms > 0.0 { (time_ms / end_ms * BAR as f64) as usize } else { 0 };
    if to_ms <= 0.0 && from_ms < 0.0 {
        return " ".repeat(BAR);
    }
    let first = place(from_ms.max(0.0)).min(BAR - 1);
    let behind = place(to_ms).clamp(first + 1, BAR);
    let part = |times: usize, with: &str| with.repeat(times);
    format!("{}{}{}", part(first, "·"), part(behind - first, "━"), part(BAR - behind, "·"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::attribution::Attribution;
    use crate::analysis::call_list::activity;
    use crate::output::calls::tests::recording;
    use crate::wire::calls::Side;

    const MS: u64 = 1_000_000;

    /// A call with its time, and what was meanwhile; control characters of a message are not printed.
    #[test]
    fn a_call_is_shown() {
        let mut recording = recording();
        let start_ns = recording.meta.start_ns;
        let mut child = recording.processes[0].clone();
        (child.pid, child.parent, child.command) = (200, Some(0), "git log \x1b[2J--oneline".into());
        (child.first_ns, child.exit_ns) = (start_ns + 100 * MS, Some(start_ns + 150 * MS));
        recording.processes.push(child);
        let mut asked = recording.calls[0].clone();
        (asked.call.caller, asked.call.method) = (Side::Server, "roots/list".into());
        (asked.call.start_ns, asked.call.end_ns) = (start_ns + 60 * MS, start_ns + 70 * MS);
        recording.calls.push(asked);
        let attribution = Attribution::new(&recording);
        let trace = Trace::new(&recording, &attribution, 1).unwrap();
        let mut out = Vec::new();
        write_trace(&mut out, &trace, &activity(&recording, &attribution, 1, 40), Style::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        Style::default().assert_fits(&text);
        insta::assert_snapshot!(text, @r"
        Call 2: sleep
        Start      +50.0 ms in process 100
        Queue      3.0 ms before that, since its client wrote it
        Time       200 ms
        CPU        10.0 ms its own, 5.0 ms shared with other calls (an estimate)
        Request    100 B
        Response   200 B, the first after 200 ms
        Outcome    error -32000
        Message    too�[1m late

        ··▒······█······························
        0                                +200 ms
        █ on a CPU for it   ▒ on a CPU, several calls in flight   · not sampled on a CPU

        Timeline
             from      time
          -3.0 ms    3.0 ms                        waits to be read
             +0 s       0 s  ━···················  request comes in
         +10.0 ms   10.0 ms  ·━··················  asks its client: roots/list (ok)
         +50.0 ms   50.0 ms  ·····━━━━━··········  process 200: git log �[2J--oneline;
                                                   not sampled on a CPU
          +200 ms       0 s  ···················━  response goes out
        ");
    }

    /// Stretches at the ends, and of no length, have a place.
    #[test]
    fn bars() {
        assert_eq!(bar(0.0, 0.0, 0.0).chars().filter(|part| *part == '━').count(), 1);
        assert_eq!(bar(10.0, 10.0, 10.0).chars().next_back(), Some('━'));
        assert_eq!(bar(-1.0, 0.0, 10.0).trim(), "");
        assert_eq!(columns_of(&bar(2.0, 7.0, 10.0)), BAR);
    }
}
