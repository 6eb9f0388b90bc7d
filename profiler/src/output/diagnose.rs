//! What `diagnose` finds, as text.

use std::io::{self, Write};

use super::calls::name;
use super::style::{Paint, Style, cut_end, printable, wrap};
use super::text::path_lines;
use super::units::{count, duration, percent, plural};
use crate::analysis::errors::{ErrorAnalysis, ErrorGroup, Errors, Stretch};
use crate::analysis::excess::ExcessPath;
use crate::analysis::slow::{
    Cause, Finding, Hanging, LEAST_EXCESS_MS, LEAST_RATIO, SlowRequest, SlowResponses, SlowTool,
};

/// Columns before the text of a finding.
const INDENT: usize = 4;
/// Before what a function mostly called.
const BELOW: &str = "mostly in ";
/// Rows of the table of errors over time.
const MAX_ROWS: usize = 12;
/// Tools, groups of errors and slow calls of a tool that are shown.
const MAX_SHOWN: usize = 20;

/// Writes why calls were slow.
///
/// # Errors
/// Those of the writer.
pub fn write_slow(mut out: impl Write, slow: &SlowResponses, style: Style) -> io::Result<()> {
    if slow.incomplete {
        paragraph(&mut out, style, Paint::Warning, 0, "Some calls could not be recorded, or their ends.")?;
    }
    for hanging in slow.hanging.iter().take(MAX_SHOWN) {
        paragraph(&mut out, style, Paint::Hot, 0, &hangs(hanging))?;
    }
    if !slow.hanging.is_empty() {
        writeln!(out)?;
    }
    let (told, even): (Vec<&SlowTool>, Vec<&SlowTool>) =
        slow.tools.iter().partition(|tool| !tool.findings.is_empty());
    for (position, tool) in told.iter().take(MAX_SHOWN).enumerate() {
        if position > 0 {
            writeln!(out)?;
        }
        write_tool(&mut out, tool, style)?;
    }
    if told.is_empty() {
        let text = if slow.tools.is_empty() {
            "There are too few calls to tell slow ones from others."
        } else {
            "No slow calls to explain."
        };
        writeln!(out, "{}", style.paint(Paint::Heading, text))?;
    }
    let mut rest = Vec::new();
    if told.len() > MAX_SHOWN {
        rest.push(format!("{} more tools have slow calls: see --format json.", told.len() - MAX_SHOWN));
    }
    for tool in even.iter().take(MAX_SHOWN) {
        rest.push(format!("{}: {}.", heading(tool), not_slow(tool)));
    }
    if !slow.too_few_calls.is_empty() {
        let few: Vec<String> = slow
            .too_few_calls
            .iter()
            .take(MAX_SHOWN)
            .map(|(name, calls)| format!("{} ({})", printable(name), count(*calls)))
            .collect();
        rest.push(format!("Too few calls to compare: {}.", few.join(", ")));
    }
    if slow.unanswered > 0 {
        rest.push(format!(
            "{} without an answer: see `calls --outcome unfinished`.",
            plural(slow.unanswered, "call", "calls")
        ));
    }
    if !rest.is_empty() {
        writeln!(out)?;
    }
    rest.iter().try_for_each(|text| paragraph(&mut out, style, Paint::Dim, 0, text))
}

/// What may never end.
fn hangs(hanging: &Hanging) -> String {
    let Hanging { method, tool, calls, longest_ms, longest_answered_ms, .. } = hanging;
    let examples: Vec<String> = hanging.examples.iter().map(ToString::to_string).collect();
    format!(
        "{}: {} had not ended when the recording did, after {}{}; {}. See `trace {}`{}.",
        title(method, tool.as_deref()),
        plural(*calls, "call", "calls"),
        if *calls == 1 { "" } else { "up to " },
        duration(longest_ms / 1e3),
        longest_answered_ms.map_or_else(
            || "none was answered".to_owned(),
            |longest| format!("the longest that was answered took {}", duration(longest / 1e3))
        ),
        examples.first().map_or("", String::as_str),
        examples
            .get(1..)
            .filter(|more| !more.is_empty())
            .map_or_else(String::new, |more| format!(", also of {}", more.join(", ")))
    )
}

fn title(method: &str, tool: Option<&str>) -> String {
    printable(&name(method, tool, false)).into_owned()
}

/// How long the slow calls of a tool took: means of many, not the slowest of all.
fn heading(tool: &SlowTool) -> String {
    format!(
        "{}: the slowest {} of {} took {}{}, a typical one {}",
        title(&tool.method, tool.tool.as_deref()),
        if tool.slow.calls == 1 { "call".to_owned() } else { count(tool.slow.calls) },
        plural(tool.calls, "call", "calls"),
        duration(tool.slow.duration_ms / 1e3),
        if tool.slow.calls == 1 { "" } else { " on average" },
        duration(tool.typical.duration_ms / 1e3)
    )
}

/// Why nothing is told of slow calls.
fn not_slow(tool: &SlowTool) -> String {
    let (slow, typical) = (tool.slow.duration_ms, tool.typical.duration_ms);
    if slow < LEAST_RATIO * typical {
        "that is hardly longer".to_owned()
    } else if slow - typical < LEAST_EXCESS_MS {
        format!("that is less than {} longer, and not looked into", duration(LEAST_EXCESS_MS / 1e3))
    } else {
        "no part of it stands out from chance".to_owned()
    }
}

fn write_tool(out: &mut impl Write, tool: &SlowTool, style: Style) -> io::Result<()> {
    paragraph(out, style, Paint::Heading, 0, &heading(tool))?;
    for (position, finding) in tool.findings.iter().enumerate() {
        let paint = if position == 0 { Paint::Hot } else { Paint::Plain };
        paragraph(out, style, paint, 2, &finding_text(finding))?;
        let examples: Vec<String> = finding.examples.iter().map(u64::to_string).collect();
        let figures = format!(
            "{} a call, {} in typical ones; such as call {}",
            duration(finding.slow_ms / 1e3),
            duration(finding.typical_ms / 1e3),
            examples.join(", ")
        );
        paragraph(out, style, Paint::Dim, INDENT, &figures)?;
        if finding.cause == Cause::OnCpu {
            write_paths(
                out,
                &tool.stacks,
                "More CPU time a call than other calls of the tool, by share of theirs:",
                style,
            )?;
        }
    }
    let in_flight = format!(
        "Other calls in flight: {:.1} at a time, {:.1} in typical ones",
        tool.slow.others_in_flight, tool.typical.others_in_flight
    );
    paragraph(out, style, Paint::Dim, 2, &in_flight)?;
    for note in &tool.notes {
        paragraph(out, style, Paint::Plain, 2, &format!("Also: {note}"))?;
    }
    for doubt in &tool.doubts {
        paragraph(out, style, Paint::Warning, 2, &format!("Doubt: {doubt}"))?;
    }
    for request in tool.requests.iter().take(MAX_SHOWN) {
        write_request(out, request, style)?;
    }
    if tool.requests.len() > MAX_SHOWN {
        let more = format!("… {} more slow calls: see --format json", tool.requests.len() - MAX_SHOWN);
        paragraph(out, style, Paint::Dim, 2, &more)?;
    }
    Ok(())
}

fn finding_text(finding: &Finding) -> String {
    let share = percent(finding.share);
    let behind: Vec<String> = finding
        .behind
        .iter()
        .map(|behind| {
            format!(
                "{} ({}, such as call {})",
                printable(&behind.name),
                plural(behind.calls, "time", "times"),
                behind.example
            )
        })
        .collect();
    match finding.cause {
        Cause::Queued => format!("{share} queued behind other calls: {}", behind.join(", ")),
        Cause::OnCpu => format!("{share} on a CPU: the server ran longer for them"),
        Cause::Waiting => format!(
            "{share} waiting, off the CPU: for a timer, I/O, a lock, another process or a free CPU. What for is not recorded"
        ),
        Cause::OnCpuOrWaiting => format!("{share} on a CPU or waiting: too few samples to tell"),
        Cause::Receiving => format!("{share} receiving: their requests came in slowly"),
        Cause::Sending => {
            format!("{share} sending: from the first byte of their responses to the last one")
        }
    }
}

fn write_request(out: &mut impl Write, request: &SlowRequest, style: Style) -> io::Result<()> {
    let title = format!(
        "call {}  +{}  {}",
        request.call,
        duration(request.start_seconds),
        duration(request.duration_ms / 1e3)
    );
    writeln!(out, "  {}", style.paint(Paint::Heading, &title))?;
    for stretch in &request.timeline {
        let behind = stretch.behind.map_or_else(String::new, |call| format!(", behind call {call}"));
        let cpu = match stretch.what {
            _ if stretch.on_cpu_ms > 0.0 => format!(", {} of it on a CPU", duration(stretch.on_cpu_ms / 1e3)),
            "working" => ", not sampled on a CPU".to_owned(),
            _ => String::new(),
        };
        writeln!(
            out,
            "    {:>8} to {:>8}  {}{behind}{cpu}",
            duration(stretch.from_ms / 1e3),
            duration(stretch.to_ms / 1e3),
            stretch.what
        )?;
    }
    Ok(())
}

fn write_paths(out: &mut impl Write, paths: &[ExcessPath], title: &str, style: Style) -> io::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    paragraph(out, style, Paint::Dim, INDENT, title)?;
    for path in paths {
        let figures = format!("{:>9} {:>9}  ", percent(path.ratio), duration(path.more_ms / 1e3));
        let columns = style.columns() - INDENT - figures.len();
        for (index, line) in path_lines(&path.path, columns).iter().enumerate() {
            let before = if index == 0 { figures.clone() } else { " ".repeat(figures.len()) };
            writeln!(out, "{}{before}{line}", " ".repeat(INDENT))?;
        }
        if !path.below.is_empty() {
            let below = path_lines(&path.below, columns - BELOW.len());
            for (index, line) in below.iter().enumerate() {
                let before = if index == 0 { BELOW.to_owned() } else { " ".repeat(BELOW.len()) };
                let line = format!("{}{before}{line}", " ".repeat(INDENT + figures.len()));
                writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
            }
        }
    }
    Ok(())
}

/// Writes errors and, where it was asked for, what they have in common.
///
/// # Errors
/// Those of the writer.
pub fn write_errors(mut out: impl Write, errors: &Errors, style: Style) -> io::Result<()> {
    if errors.incomplete {
        paragraph(&mut out, style, Paint::Warning, 0, "Some calls could not be recorded, or their ends.")?;
    }
    let unfinished: String =
        errors.unfinished.iter().map(|(name, calls)| format!(", {} {name}", count(*calls))).collect();
    if errors.errors == 0 {
        let text = format!("Errors: none in {}{unfinished}", plural(errors.calls, "call", "calls"));
        return writeln!(out, "{}", style.paint(Paint::Heading, &text));
    }
    let share = errors.errors as f64 / errors.calls.max(1) as f64;
    let text = format!(
        "Errors: {} of {} ({}){unfinished}",
        count(errors.errors),
        plural(errors.calls, "call", "calls"),
        percent(share)
    );
    writeln!(out, "{}", style.paint(Paint::Heading, &text))?;
    let over_time: Vec<u64> = errors.over_time.iter().map(|stretch| stretch.errors).collect();
    let most = over_time.iter().max().copied().unwrap_or(0);
    let scale = format!(
        "{}  a column is {}, the highest one {}",
        sparkline(&over_time),
        duration(errors.stretch_seconds),
        plural(most, "error", "errors")
    );
    writeln!(out, "{scale}")?;
    for group in errors.groups.iter().take(MAX_SHOWN) {
        writeln!(out)?;
        write_group(&mut out, group, style)?;
    }
    if errors.groups.len() > MAX_SHOWN {
        let more = format!("… {} more sorts of errors: see --format json", errors.groups.len() - MAX_SHOWN);
        writeln!(out, "\n{}", style.paint(Paint::Dim, &more))?;
    }
    if errors.groups.iter().any(|group| group.analysis.is_some()) {
        writeln!(out)?;
        write_rates(&mut out, &errors.over_time, errors.stretch_seconds, style)?;
    }
    Ok(())
}

fn write_group(out: &mut impl Write, group: &ErrorGroup, style: Style) -> io::Result<()> {
    let code = group.error_code.map_or_else(String::new, |code| format!(" {code}"));
    let message = group.message_shape.as_ref().map_or_else(String::new, |shape| format!(": {shape}"));
    let title = format!("{}  {}{code}{message}", title(&group.method, group.tool.as_deref()), group.outcome);
    paragraph(out, style, Paint::Hot, 0, &title)?;
    let examples: Vec<String> = group.examples.iter().map(u64::to_string).collect();
    let facts = format!(
        "{}, {} of its calls, from +{} to +{}; such as call {}",
        plural(group.count, "time", "times"),
        percent(group.ratio),
        duration(group.first_seconds),
        duration(group.last_seconds),
        examples.join(", ")
    );
    paragraph(out, style, Paint::Plain, 2, &facts)?;
    writeln!(out, "  {}", sparkline(&group.over_time))?;
    group.analysis.as_ref().map_or(Ok(()), |analysis| write_analysis(out, analysis, style))
}

fn write_analysis(out: &mut impl Write, analysis: &ErrorAnalysis, style: Style) -> io::Result<()> {
    let (failing, good) = (&analysis.failing, analysis.good.as_ref());
    for before in &analysis.before {
        let text = format!(
            "Before: {} ({}) ended just before {} of them, and before {} of the good calls",
            printable(&before.name),
            before.outcome,
            percent(before.failing_ratio),
            percent(before.good_ratio)
        );
        paragraph(out, style, Paint::Plain, 2, &text)?;
    }
    let against =
        |value: Option<String>| value.map_or_else(String::new, |good| format!(", good calls {good}"));
    let time = |milliseconds: f64| duration(milliseconds / 1e3);
    let text = format!(
        "Time: {} a call{}",
        time(failing.duration_ms),
        against(good.map(|good| time(good.duration_ms)))
    );
    paragraph(out, style, Paint::Plain, 2, &text)?;
    let cpu = failing.cpu_ms.map_or_else(
        || "CPU: too few samples to tell".to_owned(),
        |cpu| format!("CPU: {} a call{}", time(cpu), against(good.and_then(|good| good.cpu_ms).map(time))),
    );
    paragraph(out, style, Paint::Plain, 2, &cpu)?;
    if good.is_none() {
        paragraph(
            out,
            style,
            Paint::Dim,
            2,
            "No call of this tool ended well: there is nothing to compare with.",
        )?;
    }
    let title = if good.is_some() {
        "More CPU time a call than good ones, by share of theirs:"
    } else {
        "CPU time a call, by share of theirs:"
    };
    write_paths(out, &analysis.stacks, title, style)
}

fn write_rates(out: &mut impl Write, stretches: &[Stretch], seconds: f64, style: Style) -> io::Result<()> {
    let joined = stretches.len().div_ceil(MAX_ROWS).max(1);
    writeln!(out, "{}", style.paint(Paint::Dim, "       from   calls  errors    rate"))?;
    for (row, stretches) in stretches.chunks(joined).enumerate() {
        let calls: u64 = stretches.iter().map(|stretch| stretch.calls).sum();
        let errors: u64 = stretches.iter().map(|stretch| stretch.errors).sum();
        let rate = if calls == 0 { "-".to_owned() } else { percent(errors as f64 / calls as f64) };
        let from = format!("+{}", duration((row * joined) as f64 * seconds));
        writeln!(out, "  {from:>9} {:>7} {:>7} {rate:>7}", count(calls), count(errors))?;
    }
    Ok(())
}

/// A row of columns, the highest of them as high as can be. Nothing is a dot.
fn sparkline(values: &[u64]) -> String {
    const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().max().copied().unwrap_or(0).max(1);
    let column = |value: &u64| match value {
        0 => '·',
        value => COLUMNS[((u128::from(*value) * 8).div_ceil(u128::from(most)) as usize).clamp(1, 8) - 1],
    };
    values.iter().map(column).collect()
}

fn paragraph(out: &mut impl Write, style: Style, paint: Paint, indent: usize, text: &str) -> io::Result<()> {
    let text = printable(text);
    for (position, line) in wrap(&text, style.columns() - indent - 2).iter().enumerate() {
        let hang = if position > 0 { 2 } else { 0 };
        let line = cut_end(line, style.columns() - indent - hang);
        writeln!(out, "{}{}", " ".repeat(indent + hang), style.paint(paint, &line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::attribution::Attribution;
    use crate::analysis::slow::Question;
    use crate::analysis::testing::Builder;
    use crate::recording::{Recording, Sample, StackEnd};
    use crate::wire::calls::Ended;

    const MS: u64 = 1_000_000;

    /// 100 short calls, two that burn, and one behind each of these; every tenth call fails.
    fn recording() -> Recording {
        let mut builder = Builder::new();
        let start = builder.recording.meta.start_ns;
        let thread = builder.thread(0, 100, "main");
        let stack = builder.stack(&["main", "handle", "burn"]);
        let call = |builder: &mut Builder, tool: &str, from: u64, to: u64| {
            builder.call(0, tool, start + from * MS, start + to * MS);
        };
        for number in 0..100 {
            let from = number * 90;
            call(&mut builder, "work", from, from + 5);
            if number % 50 == 25 {
                call(&mut builder, "work", from + 10, from + 80);
                call(&mut builder, "quick", from + 11, from + 81);
                for at in 10..80 {
                    builder.recording.samples.push(Sample {
                        timestamp_ns: start + (from + at) * MS,
                        thread,
                        stack: Some(stack),
                        weight_ns: MS,
                        stack_end: StackEnd::ChainEnd,
                    });
                }
            } else {
                call(&mut builder, "quick", from + 40, from + 41);
            }
            if number % 10 == 0 {
                let message = Some("no such file: <path>\x1b[1m".into());
                builder.recording.calls.last_mut().unwrap().call.ended =
                    Ended::Error { code: Some(-32602), message };
            }
        }
        builder.recording.meta.frequency_hz = 1000;
        builder.recording
    }

    fn shown(write: impl FnOnce(&mut Vec<u8>, Style) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out, Style::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        Style::default().assert_fits(&text);
        text
    }

    /// Causes with their figures, stacks and examples; each call over its time.
    #[test]
    fn slow_calls_are_explained() {
        let recording = recording();
        let question = Question { tools: Vec::new(), percentile: 98.5, with_requests: true };
        let slow = SlowResponses::new(&recording, &Attribution::new(&recording), &question);
        insta::assert_snapshot!(shown(|out, style| write_slow(out, &slow, style)), @r"
        quick: the slowest 2 of 100 calls took 70.0 ms on average, a typical one 1.0
          ms
          100.0 % queued behind other calls: work (2 times, such as call 52)
            69.0 ms a call, 0 s in typical ones; such as call 53, 154
          Other calls in flight: 1.0 at a time, 0.0 in typical ones
          call 53  +2.26 s  70.0 ms
                 0 s to  69.0 ms  queued, behind call 52, 69.0 ms of it on a CPU
             69.0 ms to  70.0 ms  working, not sampled on a CPU
          call 154  +6.76 s  70.0 ms
                 0 s to  69.0 ms  queued, behind call 153, 69.0 ms of it on a CPU
             69.0 ms to  70.0 ms  working, not sampled on a CPU

        work: the slowest 2 of 102 calls took 70.0 ms on average, a typical one 5.0 ms
          100.0 % on a CPU: the server ran longer for them
            70.0 ms a call, 0 s in typical ones; such as call 52, 153
            More CPU time a call than other calls of the tool, by share of theirs:
              100.0 %   70.0 ms  main > handle > burn
          Other calls in flight: 1.0 at a time, 0.0 in typical ones
          call 52  +2.26 s  70.0 ms
                 0 s to  70.0 ms  working, 70.0 ms of it on a CPU
          call 153  +6.76 s  70.0 ms
                 0 s to  70.0 ms  working, 70.0 ms of it on a CPU
        ");
    }

    /// What has not ended is told before what is slow.
    #[test]
    fn calls_that_hang_come_first() {
        let mut recording = recording();
        recording.calls[3].call.ended = Ended::InFlight;
        let question = Question { tools: Vec::new(), percentile: 98.5, with_requests: false };
        recording.calls[3].call.end_ns = recording.calls[3].call.start_ns + 4000 * MS;
        let slow = SlowResponses::new(&recording, &Attribution::new(&recording), &question);
        let text = shown(|out, style| write_slow(out, &slow, style));
        insta::assert_snapshot!(text.split("\n\n").next().unwrap(), @r"
        quick: 1 call had not ended when the recording did, after 4.00 s; the longest
          that was answered took 70.0 ms. See `trace 4`.
        ");
    }

    /// Why nothing is told of the slowest calls: many times as long as others is never called hardly longer.
    #[test]
    fn calls_that_are_not_slow() {
        let told = |slow_us: u64| {
            let mut builder = Builder::new();
            let start = builder.recording.meta.start_ns;
            for number in 0..100 {
                let from = start + number * 10 * MS;
                let length_us = if number == 50 { slow_us } else { 50 };
                builder.call(0, "quick", from, from + length_us * 1000);
            }
            let question = Question { tools: Vec::new(), percentile: 99.0, with_requests: false };
            let attribution = Attribution::new(&builder.recording);
            let slow = SlowResponses::new(&builder.recording, &attribution, &question);
            shown(|out, style| write_slow(out, &slow, style))
        };
        let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = flat(told(900));
        assert!(text.contains("the slowest call of 100 calls took 900 µs, a typical one 50 µs: that is less than 1.0 ms longer"), "{text}");
        let text = flat(told(60));
        assert!(text.contains("took 60 µs, a typical one 50 µs: that is hardly longer."), "{text}");
    }

    /// Where no call ended well, nothing is said to be more than in others.
    #[test]
    fn errors_without_good_calls() {
        let mut recording = recording();
        let failed = Ended::Error { code: Some(1), message: Some("no".into()) };
        recording.calls.iter_mut().for_each(|recorded| recorded.call.ended = failed.clone());
        let errors = Errors::new(&recording, &Attribution::new(&recording), &[], true);
        let text = shown(|out, style| write_errors(out, &errors, style));
        assert!(text.contains("nothing to compare with"), "{text}");
        assert!(text.contains("    CPU time a call, by share of theirs:"), "{text}");
        assert!(!text.contains("than good ones"), "{text}");
    }

    /// Sorts of errors, with what they have in common.
    #[test]
    fn errors_are_explained() {
        let recording = recording();
        let errors = Errors::new(&recording, &Attribution::new(&recording), &[], true);
        insta::assert_snapshot!(shown(|out, style| write_errors(out, &errors, style)), @r"
        Errors: 10 of 202 calls (5.0 %)
        █▄▄▄▄▄▄▄▄·  a column is 1.00 s, the highest one 2 errors

        quick  error -32602: no such file: <text>
          10 times, 10.0 % of its calls, from +41.0 ms to +8.14 s; such as call 2, 22,
            42, 63, 83
          █▄▄▄▄▄▄▄▄·
          Time: 1.0 ms a call, good calls 2.5 ms
          CPU: 0 s a call, good calls 767 µs

               from   calls  errors    rate
               +0 s      23       2   8.7 %
            +1.00 s      22       1   4.5 %
            +2.00 s      23       1   4.3 %
            +3.00 s      22       1   4.5 %
            +4.00 s      23       1   4.3 %
            +5.00 s      22       1   4.5 %
            +6.00 s      23       1   4.3 %
            +7.00 s      22       1   4.5 %
            +8.00 s      22       1   4.5 %
            +9.00 s       0       0       -
        ");
    }

    /// Nothing to tell is told.
    #[test]
    fn nothing_to_tell() {
        let recording = Recording::default();
        let attribution = Attribution::new(&recording);
        let question = Question { tools: Vec::new(), percentile: 99.0, with_requests: false };
        let slow = SlowResponses::new(&recording, &attribution, &question);
        assert_eq!(
            shown(|out, style| write_slow(out, &slow, style)),
            "There are too few calls to tell slow ones from others.\n"
        );
        let errors = Errors::new(&recording, &attribution, &[], true);
        assert_eq!(shown(|out, style| write_errors(out, &errors, style)), "Errors: none in 0 calls\n");
    }
}
