//! What was recorded, and whether it can be trusted.

use std::io::{self, Write};

use super::style::{Paint, Style, cut_middle, printable, wrap};
use super::units::{count, duration, percent, plural};
use crate::analysis::report::{Report, ReportedUnwinding};
use crate::recording::StackEnd;

/// Below this share of complete stacks the summary warns.
const FEW_COMPLETE: f64 = 0.9;
/// Below this number of samples the summary warns.
const FEW_SAMPLES: u64 = 100;
/// From this difference between sampled and counted time on the summary warns, if chance does not explain it.
const LARGE_DIFFERENCE: f64 = 0.1;
/// Other processes of which it is told how their frames were had.
const SHOWN_LANGUAGES: usize = 3;
/// Columns of the keys before facts.
const KEY: usize = 13;

/// Writes what was recorded, and whether it can be trusted.
///
/// # Errors
/// Those of the writer.
pub fn write_summary(mut out: impl Write, report: &Report, style: Style) -> io::Result<()> {
    let target = &report.target;
    writeln!(
        out,
        "{}",
        style.paint(Paint::Heading, &cut_middle(printable(&target.name).trim(), style.columns()))
    )?;
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
    if let Some(unwinding) = &target.unwinding {
        fact(&mut out, style, None, "Unwound", &unwound(unwinding))?;
    }
    for text in other_languages(report) {
        fact(&mut out, style, None, "", &text)?;
    }
    if let Some((pid, others)) = target.pids.split_first() {
        let others = match others.len() {
            0 => String::new(),
            1 => " and 1 other process".to_owned(),
            many => format!(" and {} other processes", count(many as u64)),
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
    if !report.operations.is_empty() {
        let text = format!(
            "only what was done for calls of {}: samples, times and shares are of that",
            printable(&report.operations.join(", "))
        );
        fact(&mut out, style, Some(Paint::Hot), "Shown", &text)?;
    }
    if report.interrupted {
        let text = "the recording still goes on, or its profiler was killed";
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
    for advice in advice(report) {
        writeln!(out)?;
        for line in wrap(&advice, style.columns()) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// The language's own frames first, since they are what a reader looks for.
fn unwound(unwinding: &ReportedUnwinding) -> String {
    let native = printable(&unwinding.native);
    match &unwinding.language {
        Some(language) => format!("{}; machine code {native}", printable(language)),
        None => native.into_owned(),
    }
}

/// How frames of other languages than the server's own were had, in the busiest processes.
fn other_languages(report: &Report) -> Vec<String> {
    let own = report.target.unwinding.as_ref().and_then(|unwinding| unwinding.language.as_ref());
    let mut texts = Vec::new();
    for process in report.processes.iter().filter(|process| process.seconds > 0.0) {
        let language = process.unwinding.as_ref().and_then(|unwinding| unwinding.language.as_ref());
        let text = language.filter(|language| own != Some(language));
        let text = text.map(|language| format!("process {}: {}", process.pid, printable(language)));
        texts.extend(text.filter(|_| texts.len() < SHOWN_LANGUAGES));
    }
    texts
}

/// What would make stacks better: of each runtime that was sampled, once.
pub fn advice(report: &Report) -> Vec<String> {
    let mut texts = Vec::new();
    for process in report.processes.iter().filter(|process| process.seconds > 0.0) {
        let advice = process.unwinding.as_ref().and_then(|unwinding| unwinding.advice.as_deref());
        let runtime = process.runtime.as_ref().map_or("process", |runtime| &runtime.name);
        let text = advice
            .map(|advice| format!("For better stacks of {}: {}.", printable(runtime), printable(advice)));
        texts.extend(text.filter(|text| !texts.contains(text)));
    }
    texts
}

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
    let sampled = duration(cpu.sampled_seconds.unwrap_or(cpu.seconds));
    let mut text = match (cpu.kernel_seconds, cpu.sampled_seconds) {
        (Some(kernel), None) => format!("{sampled} sampled, {} counted by the kernel", duration(kernel)),
        (Some(kernel), Some(_)) => {
            format!("{} counted by the kernel; {sampled} sampled, and scaled to that", duration(kernel))
        }
        // Not all processes lived long enough to be counted.
        (None, Some(_)) => {
            format!(
                "{}; {sampled} sampled, and scaled to the kernel's count where there is one",
                duration(cpu.seconds)
            )
        }
        (None, None) => format!("{sampled} sampled"),
    };
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
        let (others, consequence) = if cause == StackEnd::PythonFramesUnreadable.name() {
            ("have frames of the interpreter in place of functions", "Their time is right as a sum.")
        } else {
            ("lack callers", "Self times are right; total times and call paths are cut short.")
        };
        warnings.push(format!(
            "Only {} of the stacks are whole: the others {others}. Main cause: {} ({}). {consequence}",
            percent(ratio),
            explain(cause),
            plural(*samples, "sample", "samples"),
        ));
    }
    if let Some(kernel) = report.cpu.kernel_seconds.filter(|kernel| *kernel > 0.0) {
        let sampled = report.cpu.sampled_seconds.unwrap_or(report.cpu.seconds);
        let difference = (sampled - kernel).abs() / kernel;
        // Three standard deviations of a count of independent samples.
        let chance = 3.0 / (stacks.samples as f64).sqrt();
        if difference > LARGE_DIFFERENCE && difference > chance {
            warnings.push(far_from_the_count(report, sampled < kernel));
        }
    }
    warnings
}

fn far_from_the_count(report: &Report, is_less: bool) -> String {
    let mut text = "Sampled time is far from what the kernel counted.".to_owned();
    text.push_str(match report.cpu.sampled_seconds {
        Some(_) => " Times are scaled to that count, second by second: an estimate.",
        None => " Trust shares, not seconds.",
    });
    if report.losses.by_cause.contains_key("sample_ring_full") {
        text.push_str(" Samples were lost: see what to do about sample_ring_full in docs/numbers.md.");
    } else if is_less && report.cpu.event == "cpu-clock" {
        text.push_str(
            " No sample was lost: cpu-clock misses ticks while a hypervisor has the CPU, and of a server \
             that sleeps and wakes very often.",
        );
    }
    text
}

fn no_samples(report: &Report) -> String {
    let again = "Record again while clients call its tools.";
    if !report.operations.is_empty() {
        return format!("No sample was charged to calls of {}. {again}", report.operations.join(", "));
    }
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
        "unreadable_stack" => "a frame led to memory that could not be read",
        "no_unwind_row" => "code without unwind information",
        "unknown_code" => "code that was not known yet, or whose file could not be read",
        "broken_frame_pointer" => "code without frame pointers used their register for something else",
        "too_deep" => "deeper than the profiler follows",
        "no_user_stack" => "threads that were starting or ending",
        "no_frames" => "not one frame was found",
        "python_frames_unreadable" => "Python functions that could not be read",
        other => return printable(other).into_owned(),
    };
    text.into()
}
