//! The report as text, in the order of a night's questions: what is this, can it be trusted, where does the time go.

use std::io::{self, Write};

use super::calls::{write_no_calls, write_tools};
use super::style::{Paint, Style, columns_of, cut_end, cut_middle, cut_name, printable, wrap};
use super::summary::write_summary;
use super::table::{Align, Table};
use super::units::{count, duration, percent, plural};
use crate::analysis::report::Report;

/// Threads and processes that are shown.
const SHOWN_THREADS: usize = 12;
/// Packages that are shown.
const SHOWN_PACKAGES: usize = 10;
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
    if !report.calls_recorded {
        writeln!(out)?;
        writeln!(out, "Calls were not recorded.")?;
    }
    match &report.calls {
        Some(calls) => {
            writeln!(out)?;
            write_tools(&mut out, calls, style)?;
        }
        None if report.calls_recorded => {
            writeln!(out)?;
            write_no_calls(&mut out, style)?;
        }
        None => {}
    }
    if report.stacks.samples == 0 {
        return Ok(());
    }
    writeln!(out)?;
    write_hot_paths(&mut out, report, style)?;
    writeln!(out)?;
    write_functions(&mut out, report, top_functions, style)?;
    writeln!(out)?;
    write_packages(&mut out, report, style)?;
    writeln!(out)?;
    write_threads(&mut out, report, style)?;
    if report.processes.len() > 1 {
        writeln!(out)?;
        write_processes(&mut out, report, style)?;
    }
    Ok(())
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
        for (index, line) in path_lines(&path.path, style.columns() - indent.len()).iter().enumerate() {
            let before = if index == 0 { style.paint(Paint::Hot, &figures) } else { indent.as_str().into() };
            writeln!(out, "{before}{line}")?;
        }
    }
    let told: f64 = report.hot_paths.iter().map(|path| path.ratio).sum();
    if told > 0.9995 {
        return Ok(());
    }
    let rest = format!("The other {} is in paths that hold less than {threshold} each.", percent(1.0 - told));
    for line in wrap(&rest, style.columns()) {
        writeln!(out, "{}", style.paint(Paint::Dim, &line))?;
    }
    Ok(())
}

/// A path in lines that fit, broken between functions.
pub(super) fn path_lines(path: &[String], columns: usize) -> Vec<String> {
    let name = |name: &String| cut_name(&printable(name), PATH_NAME.min(columns - 2)).into_owned();
    let length = path.len();
    let parts: Vec<String> = if length > PATH_START + PATH_END + 1 {
        let hidden = format!("… {} frames …", count((length - PATH_START - PATH_END) as u64));
        let start = path[..PATH_START].iter().map(name);
        start.chain([hidden]).chain(path[length - PATH_END..].iter().map(name)).collect()
    } else {
        path.iter().map(name).collect()
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
    let working = report.cpu.functions.iter().take_while(|function| function.self_seconds > 0.0).count();
    let (shown, hidden) = report.cpu.functions[..working].split_at(top_functions.min(working));
    for function in shown {
        let hot = function.self_ratio >= report.hot_path_threshold;
        table.row(
            hot.then_some(Paint::Hot),
            vec![
                percent(function.self_ratio),
                duration(function.self_seconds),
                percent(function.total_ratio),
                function.function.clone(),
                cut_name(&printable(&function.place), style.columns() * 3 / 10).into_owned(),
            ],
        );
    }
    table.write(&mut out, style)?;
    let rest = hidden.iter().map(|function| function.self_ratio).sum();
    more(&mut out, hidden.len(), ("function", "functions"), rest, style)
}

fn write_packages(mut out: impl Write, report: &Report, style: Style) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Paint::Heading, "Packages"))?;
    let mut table = Table::new(
        &[("self", Align::Right), ("time", Align::Right), ("total", Align::Right), ("package", Align::Left)],
        3,
    );
    let working = report.cpu.packages.iter().take_while(|package| package.self_seconds > 0.0).count();
    let (shown, hidden) = report.cpu.packages[..working].split_at(SHOWN_PACKAGES.min(working));
    for package in shown {
        let cells = vec![
            percent(package.self_ratio),
            duration(package.self_seconds),
            percent(package.total_ratio),
            package.package.clone(),
        ];
        table.row(None, cells);
    }
    table.write(&mut out, style)?;
    let rest = hidden.iter().map(|package| package.self_ratio).sum();
    more(&mut out, hidden.len(), ("package", "packages"), rest, style)
}

fn more(
    mut out: impl Write,
    hidden: usize,
    (one, many): (&str, &str),
    ratio: f64,
    style: Style,
) -> io::Result<()> {
    if hidden == 0 {
        return Ok(());
    }
    let things = plural(hidden as u64, one, many);
    let text = format!("  … and {things} more, with {} of the time", percent(ratio));
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
    more(&mut out, hidden.len(), ("thread", "threads"), rest, style)
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
    more(&mut out, hidden.len(), ("process", "processes"), rest, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, PERIOD_NS, example};
    use crate::recording::{Recording, StackEnd, Unwinding};

    fn text(recording: &Recording, style: Style) -> String {
        let mut out = Vec::new();
        write_report(&mut out, &Report::new(recording, 0.05), 5, style).unwrap();
        let text = String::from_utf8(out).unwrap();
        style.assert_fits(&text);
        text
    }

    /// A good recording.
    #[test]
    fn known_answer() {
        insta::assert_snapshot!(text(&example(), Style::default()), @r"
        everything
        Command      /usr/bin/node server.js
        Runtime      node 22.1.0
        Process      100 and 1 other process
        Recorded     10.0 s from 2026-02-02T02:40:00Z, Linux 6.1.0-44-amd64 with 4 CPUs
        On CPU       5.00 s sampled, 5.06 s counted by the kernel; 50.0 % of one core
        Samples      500 at 100 Hz (cpu-clock)
        Stacks       100.0 % complete
        Lost         nothing

        Calls: none seen
        No client called the server meanwhile; or it is no MCP server; or what it reads
        and writes can't be seen: through io_uring, or in TLS that is not OpenSSL's.

        Hot paths
            share      time  path
           60.0 %    3.00 s  _start > main > a
           12.0 %    600 ms  _start > main > b
           10.0 %    500 ms  _start > main > handleRequest > a > inlinedHelper
            8.0 %    400 ms  _start > main > b > entry_SYSCALL_64 > do_syscall_64
            8.0 %    400 ms  clone3 > start_thread > compress
        The other 2.0 % is in paths that hold less than 5.0 % each.

        Functions
            self    time   total  function       where
          60.0 %  3.00 s  70.0 %  a              bin/node
          12.0 %  600 ms  20.0 %  b              bin/node
          10.0 %  500 ms  10.0 %  inlinedHelper  bin/node
           8.0 %  400 ms   8.0 %  compress       bin/node
           8.0 %  400 ms   8.0 %  do_syscall_64  [kernel]
          … and 1 function more, with 2.0 % of the time

        Packages
            self    time    total  package
          90.0 %  4.50 s  100.0 %  node
           8.0 %  400 ms    8.0 %  [kernel]
           2.0 %  100 ms    2.0 %  git

        Threads
           share    time  thread  process  name
          90.0 %  4.50 s     100      100  node
           8.0 %  400 ms     103      100  libuv-worker
           2.0 %  100 ms     200      200  git

        Processes
           share    time  process  runtime  command
          98.0 %  4.90 s      100  node     /usr/bin/node server.js
           2.0 %  100 ms      200  native   /usr/bin/git status
        ");
    }

    /// Where the interpreter stands for Python functions, that is what is wrong with the stacks, not their callers.
    #[test]
    fn unread_python_functions() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "python3");
        let stack = builder.stack(&["_start", "_PyEval_EvalFrameDefault"]);
        for _ in 0..200 {
            builder.sample(thread, Some(stack), PERIOD_NS, StackEnd::PythonFramesUnreadable);
        }
        let text = text(&builder.recording, Style::default());
        let start = text.find("Only").unwrap();
        insta::assert_snapshot!(text[start..].split("\n\n").next().unwrap(), @r"
        Only 0.0 % of the stacks are whole: the others have frames of the interpreter in
        place of functions. Main cause: Python functions that could not be read (200
        samples). Their time is right as a sum.
        ");
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
        insta::assert_snapshot!(text(&builder.recording, Style::default()), @r"
        a�[31m very long name of a server a�[31m…erver a�[31m very long name of a server
        Command      /usr/bin/node /node_modules/node_…ode_modules/server.js --root /srv
        Runtime      node 22.1.0
        Process      100
        Recorded     10.0 s from 2026-02-02T02:40:00Z, Linux 6.1.0-44-amd64 with 4 CPUs
        Interrupted  the recording still goes on, or its profiler was killed
        On CPU       800 ms sampled, 9.00 s counted by the kernel; 8.0 % of one core
        Samples      80 at 100 Hz (cpu-clock)
        Stacks       0.0 % complete
        Lost         1,201 events: 1,200 sample_ring_full, 1 target_set_full

        Few samples: shares are rough. Record longer, at a higher frequency, or under
        more load.

        Only 0.0 % of the stacks are whole: the others lack callers. Main cause: code
        without frame pointers ended the chain (40 samples). Self times are right; total
        times and call paths are cut short.

        Sampled time is far from what the kernel counted. Trust shares, not seconds.
        Samples were lost: see what to do about sample_ring_full in docs/numbers.md.

        Calls: none seen
        No client called the server meanwhile; or it is no MCP server; or what it reads
        and writes can't be seen: through io_uring, or in TLS that is not OpenSSL's.

        Hot paths
            share      time  path
           50.0 %    400 ms  …closure#0}<alloc::vec::Vec<u8>>(int, char)0
           50.0 %    400 ms  …closure#0}<alloc::vec::Vec<u8>>(int, char)0 >
                             …closure#0}<alloc::vec::Vec<u8>>(int, char)1 >
                             … 22 frames … >
                             …losure#0}<alloc::vec::Vec<u8>>(int, char)24 >
                             …losure#0}<alloc::vec::Vec<u8>>(int, char)25 >
                             …losure#0}<alloc::vec::Vec<u8>>(int, char)26 >
                             …losure#0}<alloc::vec::Vec<u8>>(int, char)27 >
                             …losure#0}<alloc::vec::Vec<u8>>(int, char)28 >
                             …losure#0}<alloc::vec::Vec<u8>>(int, char)29

        Functions
            self    time    total  function                                     where
          50.0 %  400 ms  100.0 %  …losure#0}<alloc::vec::Vec<u8>>(int, char)0  bin/node
          50.0 %  400 ms   50.0 %  …::vec::Vec<u8>>(int, char)29                bin/node

        Packages
             self    time    total  package
          100.0 %  800 ms  100.0 %  node

        Threads
            share    time  thread  process  name
          100.0 %  800 ms     100      100  名前の長いスレッド�
        ");
        text(&builder.recording, Style { colour: false, width: 60 });
        text(&builder.recording, Style { colour: false, width: 200 });
        text(&builder.recording, Style { colour: false, width: 0 });
    }

    /// No samples: what that means and what to do.
    #[test]
    fn no_samples() {
        let mut builder = Builder::new();
        builder.cpu_gauge(0, 7_000_000);
        builder.cpu_gauge(0, 9_000_000);
        insta::assert_snapshot!(text(&builder.recording, Style::default()), @r"
        everything
        Command      /usr/bin/node server.js
        Runtime      node 22.1.0
        Process      100
        Recorded     10.0 s from 2026-02-02T02:40:00Z, Linux 6.1.0-44-amd64 with 4 CPUs
        On CPU       0 s sampled, 2.0 ms counted by the kernel; 0.0 % of one core
        Samples      0 at 100 Hz (cpu-clock)
        Lost         nothing

        No samples: the server waited all the time. The kernel counted 2.0 ms on CPU.
        That is no fault: a server that waits uses no CPU. Record again while clients
        call its tools.

        Calls: none seen
        No client called the server meanwhile; or it is no MCP server; or what it reads
        and writes can't be seen: through io_uring, or in TLS that is not OpenSSL's.
        ");
        builder.cpu_gauge(0, 9_000_000_000);
        assert!(text(&builder.recording, Style::default()).contains("mcp-profiler doctor"));
        text(&Recording::default(), Style { colour: true, width: 80 });
    }

    /// How the stacks were made is told, and what would make them better, once for each runtime.
    #[test]
    fn unwinding_is_told() {
        let mut recording = example();
        let unwinding = |language: Option<&str>, advice: Option<&str>| Unwinding {
            native: "by unwind information, code without it by frame pointers".into(),
            language: language.map(Into::into),
            advice: advice.map(Into::into),
        };
        recording.processes[0].unwinding = Some(unwinding(Some("V8 frames, read in the kernel"), None));
        recording.processes[1].unwinding =
            Some(unwinding(Some("Ruby functions are not shown"), Some("start it with\x1b --frames")));
        recording.processes.push(recording.processes[1].clone());
        let mut out = Vec::new();
        write_summary(&mut out, &Report::new(&recording, 0.05), Style::default()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        everything
        Command      /usr/bin/node server.js
        Runtime      node 22.1.0
        Unwound      V8 frames, read in the kernel; machine code by unwind information,
                     code without it by frame pointers
                     process 200: Ruby functions are not shown
        Process      100 and 1 other process
        Recorded     10.0 s from 2026-02-02T02:40:00Z, Linux 6.1.0-44-amd64 with 4 CPUs
        On CPU       5.00 s sampled; 50.0 % of one core
        Samples      500 at 100 Hz (cpu-clock)
        Stacks       100.0 % complete
        Lost         nothing

        For better stacks of native: start it with� --frames.
        ");
    }

    /// Colours are written only where they are wanted.
    #[test]
    fn colours() {
        assert!(!text(&example(), Style::default()).contains('\x1b'));
        let colourful = text(&example(), Style { colour: true, width: 80 });
        assert!(colourful.contains("\x1b[1mHot paths\x1b[0m"));
    }
}
