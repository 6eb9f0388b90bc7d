//! The report as text, in the order of a night's questions: what is this, can it be trusted, where does the time go.

use std::io::{self, Write};

use super::style::{Paint, Style, columns_of, cut_end, cut_middle, cut_name, printable};
use super::table::{Align, Table};
use super::units::{count, duration, percent, plural};
use crate::analysis::report::{Report, ReportedPath};

/// Threads and processes that are shown.
const SHOWN_THREADS: usize = 12;
/// Below this share of complete stacks the report warns.
const FEW_COMPLETE: f64 = 0.9;
/// Below this number of samples the report warns.
const FEW_SAMPLES: u64 = 100;
/// From this difference between sampled and counted time on the report warns, if chance does not explain it.
const LARGE_DIFFERENCE: f64 = 0.1;
/// Frames of a hot path that are shown at its two ends, when it is longer than both.
const PATH_START: usize = 2;
const PATH_END: usize = 6;
/// Columns that one function of a hot path may take.
const PATH_NAME: usize = 44;

/// Writes a report. `top_functions` is how many functions it shows.
///
/// # Errors
/// Those of the writer.
pub fn write_report(
    mut out: impl Write,
    report: &Report,
    top_functions: usize,
    style: Style,
) -> io::Result<()> {
    write_summary(&mut out, report, style)?;
    if report.stacks.samples == 0 {
        return Ok(());
    }
    writeln!(out)?;
    write_hot_paths(&mut out, report, style)?;
    writeln!(out)?;
    write_functions(&mut out, report, top_functions, style)?;
    writeln!(out)?;
    write_threads(&mut out, report, style)?;
    if report.processes.len() > 1 {
        writeln!(out)?;
        write_processes(&mut out, report, style)?;
    }
    Ok(())
}

/// Writes what was recorded, and whether it can be trusted.
///
/// # Errors
/// Those of the writer.
pub fn write_summary(mut out: impl Write, report: &Report, style: Style) -> io::Result<()> {
    let target = &report.target;
    writeln!(out, "{}", style.paint(Paint::Heading, &cut_middle(&printable(&target.name), style.columns())))?;
    if let Some(command) = &target.command {
        let command = cut_middle(&printable(command), style.columns() - KEY).into_owned();
        fact(&mut out, style, None, "Command", &command)?;
    }
    if let Some(runtime) = &target.runtime {
        let version = runtime.version.as_deref().unwrap_or("of unknown version");
        fact(
            &mut out,
            style,
            None,
            "Runtime",
            &format!("{} {}", printable(&runtime.name), printable(version)),
        )?;
    }
    if let Some((pid, others)) = target.pids.split_first() {
        let others = match others.len() {
            0 => String::new(),
            1 => " and 1 child process".to_owned(),
            many => format!(" and {} child processes", count(many as u64)),
        };
        fact(&mut out, style, None, "Process", &format!("{pid}{others}"))?;
    }
    let start = report.window.start.as_deref().map_or_else(String::new, |start| format!(" from {start}"));
    let host = format!(
        "{}{start}, Linux {} with {}",
        duration(report.window.seconds),
        printable(&report.host.kernel),
        plural(report.host.cpus, "CPU", "CPUs"),
    );
    fact(&mut out, style, None, "Recorded", &host)?;
    if report.interrupted {
        let text = "the profiler was killed; this is what it had written before";
        fact(&mut out, style, Some(Paint::Warning), "Interrupted", text)?;
    }
    fact(&mut out, style, None, "On CPU", &cpu_time(report))?;
    let samples = format!(
        "{} at {} Hz ({})",
        count(report.stacks.samples),
        report.cpu.frequency_hz,
        printable(&report.cpu.event)
    );
    fact(&mut out, style, None, "Samples", &samples)?;
    if let Some(ratio) = report.stacks.complete_ratio {
        let paint = (ratio < FEW_COMPLETE).then_some(Paint::Warning);
        fact(&mut out, style, paint, "Stacks", &format!("{} complete", percent(ratio)))?;
    }
    let paint = (report.losses.total > 0).then_some(Paint::Warning);
    fact(&mut out, style, paint, "Lost", &losses(report))?;
    for warning in warnings(report) {
        writeln!(out)?;
        for line in wrap(&warning, style.columns()) {
            writeln!(out, "{}", style.paint(Paint::Warning, &line))?;
        }
    }
    Ok(())
}

/// Columns of the keys before facts.
const KEY: usize = 13;

fn fact(mut out: impl Write, style: Style, paint: Option<Paint>, key: &str, value: &str) -> io::Result<()> {
    for (index, line) in wrap(value, style.columns() - KEY).iter().enumerate() {
        let key = format!("{:KEY$}", if index == 0 { key } else { "" });
        let line = paint.map_or_else(|| line.into(), |paint| style.paint(paint, line));
        writeln!(out, "{}{line}", style.paint(Paint::Dim, &key))?;
    }
    Ok(())
}

fn cpu_time(report: &Report) -> String {
    let cpu = &report.cpu;
    let mut text = format!("{} sampled", duration(cpu.seconds));
    if let Some(kernel) = cpu.kernel_seconds {
        text.push_str(&format!(", {} counted by the kernel", duration(kernel)));
    }
    if let Some(cores) = cpu.cores {
        text.push_str(&format!("; {} of one core", percent(cores)));
    }
    text
}

fn losses(report: &Report) -> String {
    if report.losses.total == 0 {
        return "nothing".into();
    }
    let causes: Vec<_> = report
        .losses
        .by_cause
        .iter()
        .map(|(cause, lost)| format!("{} {}", count(*lost), printable(cause)))
        .collect();
    format!("{}: {}", plural(report.losses.total, "event", "events"), causes.join(", "))
}

fn warnings(report: &Report) -> Vec<String> {
    let stacks = &report.stacks;
    if stacks.samples == 0 {
        return vec![no_samples(report)];
    }
    let mut warnings = Vec::new();
    if stacks.samples < FEW_SAMPLES {
        warnings.push(
            "Few samples: shares are rough. Record longer, at a higher frequency, or under more load.".into(),
        );
    }
    let main = stacks.incomplete.iter().max_by_key(|(_, samples)| **samples);
    if let (Some(ratio), Some((cause, samples))) =
        (stacks.complete_ratio.filter(|ratio| *ratio < FEW_COMPLETE), main)
    {
        warnings.push(format!(
            "Only {} of the stacks reach the start of their thread: the others lack callers. \
             Main cause: {} ({}). Self times are right; total times and call paths are cut short.",
            percent(ratio),
            explain(cause),
            plural(*samples, "sample", "samples"),
        ));
    }
    if let Some(kernel) = report.cpu.kernel_seconds.filter(|kernel| *kernel > 0.0) {
        let difference = (report.cpu.seconds - kernel).abs() / kernel;
        // Three standard deviations of a count of independent samples.
        let chance = 3.0 / (stacks.samples as f64).sqrt();
        if difference > LARGE_DIFFERENCE && difference > chance {
            warnings.push(
                "Sampled time is far from what the kernel counted: trust shares, not seconds. \
                 Look at what was lost, and at processes that lived too briefly to be counted."
                    .into(),
            );
        }
    }
    warnings
}

fn no_samples(report: &Report) -> String {
    let again = "Record again while clients call its tools.";
    match report.cpu.kernel_seconds {
        Some(kernel) if kernel * report.cpu.frequency_hz as f64 > 10.0 => format!(
            "No samples, although the kernel counted {} on CPU: sampling did not work. \
             Run `mcp-profiler doctor` to see why.",
            duration(kernel)
        ),
        Some(kernel) => format!(
            "No samples: the server waited all the time. The kernel counted {} on CPU. \
             That is no fault: a server that waits uses no CPU. {again}",
            duration(kernel)
        ),
        None => format!("No samples: as far as can be told, the server used no CPU. {again}"),
    }
}

fn explain(cause: &str) -> String {
    let text = match cause {
        "chain_ended_early" => "code without frame pointers ended the chain",
        "unreadable_frame_pointer" => "a frame pointer led to memory that could not be read",
        "broken_frame_pointer" => "code without frame pointers used their register for something else",
        "too_deep" => "deeper than the profiler follows",
        "no_user_stack" => "threads that were starting or ending",
        "no_frames" => "not one frame was found",
        other => return printable(other).into_owned(),
    };
    text.into()
}

/// Writes the hot paths of a report.
///
/// # Errors
/// Those of the writer.
pub fn write_hot_paths(mut out: impl Write, report: &Report, style: Style) -> io::Result<()> {
    let threshold = percent(report.hot_path_threshold);
    writeln!(out, "{}", style.paint(Paint::Heading, "Hot paths"))?;
    if report.hot_paths.is_empty() {
        let text = format!("No call path holds {threshold} of the time: it is spread over many.");
        for line in wrap(&text, style.columns()) {
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    writeln!(out, "{}", style.paint(Paint::Dim, "    share      time  path"))?;
    for path in &report.hot_paths {
        let figures = format!("{:>9} {:>9}  ", percent(path.ratio), duration(path.seconds));
        let indent = " ".repeat(columns_of(&figures));
        for (index, line) in path_lines(path, style.columns() - indent.len()).iter().enumerate() {
            let before = if index == 0 { style.paint(Paint::Hot, &figures) } else { indent.as_str().into() };
            writeln!(out, "{before}{line}")?;
        }
    }
    let told: f64 = report.hot_paths.iter().map(|path| path.ratio).sum();
    let rest = format!(
        "The other {} is in paths that hold less than {threshold} each.",
        percent((1.0 - told).max(0.0))
    );
    for line in wrap(&rest, style.columns()) {
        writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
    }
    Ok(())
}

/// A path in lines that fit, broken between functions.
fn path_lines(path: &ReportedPath, columns: usize) -> Vec<String> {
    let name = |name: &String| cut_name(&printable(name), PATH_NAME.min(columns - 2)).into_owned();
    let length = path.path.len();
    let parts: Vec<String> = if length > PATH_START + PATH_END + 1 {
        let hidden = format!("… {} frames …", count((length - PATH_START - PATH_END) as u64));
        let start = path.path[..PATH_START].iter().map(name);
        start.chain([hidden]).chain(path.path[length - PATH_END..].iter().map(name)).collect()
    } else {
        path.path.iter().map(name).collect()
    };
    let mut lines: Vec<String> = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let part = if index + 1 < parts.len() { format!("{part} >") } else { part.clone() };
        match lines.last_mut().filter(|line| columns_of(line) + 1 + columns_of(&part) <= columns) {
            Some(line) => line.extend([" ", &part]),
            None => lines.push(part),
        }
    }
    lines
}

/// Writes the functions with the most self time.
///
/// # Errors
/// Those of the writer.
pub fn write_functions(
    mut out: impl Write,
    report: &Report,
    top_functions: usize,
    style: Style,
) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Paint::Heading, "Functions"))?;
    let mut table = Table::new(
        &[
            ("self", Align::Right),
            ("time", Align::Right),
            ("total", Align::Right),
            ("function", Align::Left),
            ("where", Align::Left),
        ],
        3,
    );
    let (shown, hidden) = report.cpu.functions.split_at(top_functions.min(report.cpu.functions.len()));
    for function in shown {
        let place = match (&function.file, function.line) {
            (Some(file), Some(line)) => format!("{}:{line}", last_parts(file)),
            (Some(file), None) => last_parts(file).to_owned(),
            (None, _) => last_parts(&function.module).to_owned(),
        };
        let hot = function.self_ratio >= report.hot_path_threshold;
        table.row(
            hot.then_some(Paint::Hot),
            vec![
                percent(function.self_ratio),
                duration(function.self_seconds),
                percent(function.total_ratio),
                function.function.clone(),
                cut_name(&printable(&place), style.columns() * 3 / 10).into_owned(),
            ],
        );
    }
    table.write(&mut out, style)?;
    let rest = hidden.iter().map(|function| function.self_ratio).sum();
    more(&mut out, hidden.len(), "function", rest, style)
}

/// The last folder and the name of a file.
fn last_parts(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(slash, _)| &path[slash + 1..])
}

fn more(mut out: impl Write, hidden: usize, what: &str, ratio: f64, style: Style) -> io::Result<()> {
    if hidden == 0 {
        return Ok(());
    }
    let things = plural(hidden as u64, what, &format!("{what}s"));
    let text = format!("  … and {things} more, with {} of the time", percent(ratio));
    let text = text.replace("process", "processes").replace("processess", "processes");
    writeln!(out, "{}", style.paint(Paint::Dim, &cut_end(&text, style.columns())))
}

fn write_threads(mut out: impl Write, report: &Report, style: Style) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Paint::Heading, "Threads"))?;
    let mut table = Table::new(
        &[
            ("share", Align::Right),
            ("time", Align::Right),
            ("thread", Align::Right),
            ("process", Align::Right),
            ("name", Align::Left),
        ],
        4,
    );
    let share = |seconds: f64| if report.cpu.seconds > 0.0 { seconds / report.cpu.seconds } else { 0.0 };
    let (shown, hidden) = report.threads.split_at(SHOWN_THREADS.min(report.threads.len()));
    for thread in shown {
        table.row(
            None,
            vec![
                percent(share(thread.seconds)),
                duration(thread.seconds),
                thread.tid.to_string(),
                thread.pid.map_or_else(String::new, |pid| pid.to_string()),
                thread.name.clone(),
            ],
        );
    }
    table.write(&mut out, style)?;
    let rest = hidden.iter().map(|thread| share(thread.seconds)).sum();
    more(&mut out, hidden.len(), "thread", rest, style)
}

fn write_processes(mut out: impl Write, report: &Report, style: Style) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Paint::Heading, "Processes"))?;
    let mut table = Table::new(
        &[
            ("share", Align::Right),
            ("time", Align::Right),
            ("process", Align::Right),
            ("runtime", Align::Left),
            ("command", Align::Left),
        ],
        4,
    );
    let share = |seconds: f64| if report.cpu.seconds > 0.0 { seconds / report.cpu.seconds } else { 0.0 };
    let (shown, hidden) = report.processes.split_at(SHOWN_THREADS.min(report.processes.len()));
    for process in shown {
        let runtime = process.runtime.as_ref().map_or_else(String::new, |runtime| runtime.name.clone());
        let room = style.columns().saturating_sub(40);
        table.row(
            None,
            vec![
                percent(share(process.seconds)),
                duration(process.seconds),
                process.pid.to_string(),
                cut_end(&runtime, 10).into_owned(),
                cut_middle(&printable(&process.command), room).into_owned(),
            ],
        );
    }
    table.write(&mut out, style)?;
    let rest = hidden.iter().map(|process| share(process.seconds)).sum();
    more(&mut out, hidden.len(), "process", rest, style)
}

/// Text in lines that fit, broken at spaces. A word that does not fit is cut.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word = cut_middle(word, columns);
        match lines.last_mut().filter(|line| columns_of(line) + 1 + columns_of(&word) <= columns) {
            Some(line) => line.extend([" ", &word]),
            None => lines.push(word.into_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, PERIOD_NS, example};
    use crate::recording::{Recording, StackEnd};

    fn text(recording: &Recording, style: Style) -> String {
        let mut out = Vec::new();
        write_report(&mut out, &Report::new(recording, 0.05), 5, style).unwrap();
        let text = String::from_utf8(out).unwrap();
        if !style.colour {
            let widest = text.lines().max_by_key(|line| columns_of(line)).unwrap();
            assert!(columns_of(widest) <= style.columns(), "too wide: {widest}");
        }
        text
    }

    /// A good recording.
    #[test]
    fn known_answer() {
        insta::assert_snapshot!(text(&example(), Style::default()), @"");
    }

    /// A bad recording: killed, losses, broken stacks, long and hostile names.
    #[test]
    fn bad_recording() {
        let mut builder = Builder::new();
        builder.recording.meta.end_reason = None;
        builder.recording.meta.target_name = "a\x1b[31m very long name of a server ".repeat(5);
        builder.recording.processes[0].command =
            format!("/usr/bin/node {}/server.js --root /srv", "/node_modules".repeat(9));
        builder.recording.losses =
            [("sample_ring_full".to_owned(), 1_200), ("target_set_full".to_owned(), 1)].into();
        let thread = builder.thread(0, 100, "名前の長いスレッド\n");
        let long = "core::iter::traits::iterator::Iterator::for_each::call::{closure#0}<alloc::vec::Vec<u8>>(int, char)";
        let names: Vec<String> = (0..30).map(|depth| format!("{long}{depth}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let stack = builder.stack(&names);
        for _ in 0..40 {
            builder.sample(thread, Some(stack), PERIOD_NS, StackEnd::ChainEnd);
            builder.sample(thread, Some(0), PERIOD_NS, StackEnd::NotAscending);
        }
        builder.cpu_gauge(0, 0);
        builder.cpu_gauge(0, 9_000_000_000);
        insta::assert_snapshot!(text(&builder.recording, Style::default()), @"");
        text(&builder.recording, Style { colour: false, width: 40 });
        text(&builder.recording, Style { colour: false, width: 200 });
        text(&builder.recording, Style { colour: false, width: 0 });
    }

    /// No samples: what that means and what to do.
    #[test]
    fn no_samples() {
        let mut builder = Builder::new();
        builder.cpu_gauge(0, 7_000_000);
        builder.cpu_gauge(0, 9_000_000);
        insta::assert_snapshot!(text(&builder.recording, Style::default()), @"");
        builder.cpu_gauge(0, 9_000_000_000);
        assert!(text(&builder.recording, Style::default()).contains("mcp-profiler doctor"));
        text(&Recording::default(), Style { colour: true, width: 80 });
    }

    /// Colours are written only where they are wanted.
    #[test]
    fn colours() {
        assert!(!text(&example(), Style::default()).contains('\x1b'));
        let colourful = text(&example(), Style { colour: true, width: 80 });
        assert!(colourful.contains("\x1b[1mHot paths\x1b[0m"));
    }
}
