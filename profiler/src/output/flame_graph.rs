//! Flame graphs as SVG: how wide a function is says how much time it holds.

use std::io::{self, Write};
use std::str::FromStr;

use inferno::flamegraph::color::{BackgroundColor, Palette};
use inferno::flamegraph::{Options, from_lines};

use super::OutputError;
use super::folded::{Path, label};
use super::style::{cut_middle, printable};
use super::units::{duration, percent, plural};
use crate::analysis::call_tree::{CallTree, Step};
use crate::analysis::diff::Diff;
use crate::analysis::functions::Functions;
use crate::recording::Meta;

/// The narrowest function that is drawn, as a share of the width: a tenth of a pixel of the usual 1,200.
/// Time of narrower ones shows as their caller's.
const LEAST_SHARE: f64 = 0.000_1;
/// Characters of a title that fit in 1,200 pixels.
const TITLE_CHARACTERS: usize = 100;
/// Widths are drawn in microseconds and told in milliseconds.
const NANOSECONDS_IN_UNIT: u64 = 1_000;

/// Draws the flame graph of a call tree, which should be grouped
/// [by process and thread](crate::analysis::call_tree::Grouping::ProcessAndThread).
///
/// # Errors
/// [`OutputError::NoSamples`], and those of the writer.
pub fn write_flame_graph(
    out: impl Write,
    tree: &CallTree,
    functions: &Functions,
    meta: &Meta,
) -> Result<(), OutputError> {
    let Some(least_ns) = least_drawn(tree.total_ns()) else {
        return Err(OutputError::NoSamples { recording: "recording" });
    };
    let drawn = |index: usize| tree.nodes().get(index).is_some_and(|node| node.total_ns >= least_ns);
    let mut path = Path::default();
    let mut lines = Vec::new();
    tree.walk(drawn, |step| match step {
        Step::Enter(index) => {
            let node = &tree.nodes()[index];
            let (name, kind) = tree.name(index, functions);
            if node.parent.is_some() {
                path.push(&label(name, kind, node.inlined));
                let below: u64 = tree
                    .children(index)
                    .iter()
                    .filter(|child| drawn(**child))
                    .map(|child| tree.nodes()[*child].total_ns)
                    .fold(0, u64::saturating_add);
                push_line(&mut lines, &path, &[node.total_ns.saturating_sub(below)]);
            }
        }
        Step::Leave(_) => path.pop(),
    });
    let mut options = options();
    options.title = title(&format!("{}: time on CPU", meta.target_name));
    options.subtitle = Some(title(&format!(
        "{} on CPU in {} from {} · {} at {} Hz ({})",
        duration(tree.total_ns() as f64 / 1e9),
        duration(meta.end_ns.saturating_sub(meta.start_ns) as f64 / 1e9),
        start(meta),
        plural(tree.samples(), "sample", "samples"),
        meta.frequency_hz,
        meta.sampling_event,
    )));
    draw(out, &mut options, &lines)
}

/// Draws how a server changed. Widths are the current recording's; red took a larger share of the time than before in itself,
/// blue a smaller one.
///
/// # Errors
/// [`OutputError::NoSamples`] when one of the two is empty, and those of the writer.
pub fn write_diff_flame_graph(
    out: impl Write,
    diff: &Diff,
    baseline: &Meta,
    current: &Meta,
) -> Result<(), OutputError> {
    if diff.baseline_ns == 0 {
        return Err(OutputError::NoSamples { recording: "baseline recording" });
    }
    let Some(least_ns) = least_drawn(diff.current_ns) else {
        return Err(OutputError::NoSamples { recording: "current recording" });
    };
    let lines = diff_lines(diff, least_ns);
    let mut options = options();
    // The scale is not applied to differences, so this graph tells microseconds.
    options.count_name = "µs".into();
    options.factor = 1.0;
    options.title = title(&format!("{} compared with {}", current.target_name, baseline.target_name));
    options.subtitle = Some(title(&format!(
        "red: larger share than before, blue: smaller · {} now, {} before (from {}); {} of that in paths that are gone",
        duration(diff.current_ns as f64 / 1e9),
        duration(diff.baseline_ns as f64 / 1e9),
        start(baseline),
        percent(diff.gone_ratio),
    )));
    draw(out, &mut options, &lines)
}

/// A line for each path that has time of its own, before or now; callers first.
fn diff_lines(diff: &Diff, least_ns: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut path = Path::default();
    let mut open = vec![(0_usize, 0_usize)];
    while let Some((index, next)) = open.last_mut() {
        let node = &diff.nodes[*index];
        match node.children.get(*next) {
            Some(&child) => {
                *next += 1;
                let child_node = &diff.nodes[child];
                if child_node.current_total_ns >= least_ns {
                    path.push(&label(&child_node.name, child_node.kind, child_node.inlined));
                    push_line(&mut lines, &path, &[child_node.baseline_self_ns, child_node.current_self_ns]);
                    open.push((child, 0));
                }
            }
            None => {
                path.pop();
                open.pop();
            }
        }
    }
    lines
}

fn least_drawn(total_ns: u64) -> Option<u64> {
    (total_ns > 0).then(|| ((total_ns as f64 * LEAST_SHARE) as u64).max(1))
}

/// Adds a path where it has time of its own. One without needs no line: the lines below it draw it.
fn push_line(lines: &mut Vec<String>, path: &Path, times_ns: &[u64]) {
    if times_ns.iter().all(|time_ns| *time_ns == 0) {
        return;
    }
    let mut line = path.text.clone();
    for time_ns in times_ns {
        line.push_str(&format!(" {}", time_ns.div_ceil(NANOSECONDS_IN_UNIT)));
    }
    lines.push(line);
}

fn start(meta: &Meta) -> String {
    let start = jiff::Timestamp::from_millisecond(meta.started_unix_ms);
    start.map_or_else(
        |_| "an unknown date".into(),
        |start| start.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

fn title(text: &str) -> String {
    cut_middle(&printable(text), TITLE_CHARACTERS).into_owned()
}

fn options() -> Options<'static> {
    let mut options = Options::default();
    // The palette that knows the marks of kernel, JIT and inlined functions.
    options.colors = Palette::from_str("java").unwrap_or_default();
    options.bgcolors = Some(BackgroundColor::Grey);
    options.deterministic = true;
    options.count_name = "ms".into();
    options.factor = NANOSECONDS_IN_UNIT as f64 / 1e6;
    options.min_width = LEAST_SHARE * 100.0;
    // Lines keep the order of the walk: sorted as text, `f.cold` would come between `f` and what `f` calls.
    options.flame_chart = true;
    options
}

fn draw(out: impl Write, options: &mut Options<'_>, lines: &[String]) -> Result<(), OutputError> {
    let mut out = io::BufWriter::new(out);
    // A flame chart is drawn from its last line on.
    from_lines(options, lines.iter().rev().map(String::as_str), &mut out)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::call_tree::{Filter, Grouping};
    use crate::analysis::testing::{Builder, deep, example};
    use crate::recording::Recording;

    fn tree(recording: &Recording) -> (CallTree, Functions) {
        let functions = Functions::new(recording);
        (CallTree::new(recording, &functions, Filter::All, Grouping::ProcessAndThread), functions)
    }

    fn flame_graph(recording: &Recording) -> Result<String, OutputError> {
        let (tree, functions) = tree(recording);
        let mut out = Vec::new();
        write_flame_graph(&mut out, &tree, &functions, &recording.meta)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn diff_flame_graph(baseline: &Recording, current: &Recording) -> Result<String, OutputError> {
        let (before, now) = (tree(baseline), tree(current));
        let diff = Diff::new((&before.0, &before.1), (&now.0, &now.1));
        let mut out = Vec::new();
        write_diff_flame_graph(&mut out, &diff, &baseline.meta, &current.meta)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn titles(svg: &str) -> Vec<&str> {
        svg.split("<title>").skip(1).map(|part| part.split("</title>").next().unwrap()).collect()
    }

    /// What a reader sees when pointing at each function.
    #[test]
    fn known_answer() {
        let svg = flame_graph(&example()).unwrap();
        insta::assert_snapshot!(titles(&svg).join("\n"), @r"
        a (3,000 ms, 60.00%)
        b (1,000 ms, 20.00%)
        entry_SYSCALL_64 (400 ms, 8.00%)
        do_syscall_64 (400 ms, 8.00%)
        node (4,500 ms, 90.00%)
        _start (4,500 ms, 90.00%)
        main (4,500 ms, 90.00%)
        handleRequest (500 ms, 10.00%)
        a (500 ms, 10.00%)
        inlinedHelper (500 ms, 10.00%)
        node (4,900 ms, 98.00%)
        libuv-worker (400 ms, 8.00%)
        clone3 (400 ms, 8.00%)
        start_thread (400 ms, 8.00%)
        compress (400 ms, 8.00%)
        all (5,000 ms, 100%)
        git (100 ms, 2.00%)
        git (100 ms, 2.00%)
        _start (100 ms, 2.00%)
        git+0x10b0 (100 ms, 2.00%)
        ");
        assert!(svg.contains("everything: time on CPU"));
        assert!(svg.contains(
            "5.00 s on CPU in 10.0 s from 2026-02-02 02:40:00 UTC · 500 samples at 100 Hz (cpu-clock)"
        ));
    }

    /// A sibling whose name begins alike does not tear a function in two.
    #[test]
    fn siblings_with_one_beginning() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["f"], 10);
        builder.run(thread, &["f.cold"], 20);
        builder.run(thread, &["f", "g"], 5);
        let svg = flame_graph(&builder.recording).unwrap();
        assert!(titles(&svg).contains(&"f (150 ms, 42.86%)"), "{:?}", titles(&svg));
    }

    /// Functions too narrow to see are not drawn, and their time stays with their caller.
    #[test]
    fn narrow_functions() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["main"], 20_000);
        builder.run(thread, &["main", "rare"], 1);
        let svg = flame_graph(&builder.recording).unwrap();
        assert!(!svg.contains("rare"));
        assert!(svg.contains("main (200,010 ms, 100.00%)"));
    }

    /// Changes against a baseline of another length, in shares.
    #[test]
    fn differences() {
        let recording = |runs: [(&[&str], usize); 3]| {
            let mut builder = Builder::new();
            let thread = builder.thread(0, 100, "node");
            for (names, count) in runs {
                builder.run(thread, names, count);
            }
            builder.recording
        };
        let baseline = recording([(&["main", "a"], 20), (&["main", "b"], 20), (&["main", "old"], 10)]);
        let current = recording([(&["main", "a"], 75), (&["main", "b"], 20), (&["main", "new"], 5)]);
        let svg = diff_flame_graph(&baseline, &current).unwrap();
        insta::assert_snapshot!(titles(&svg).join("\n"), @r"
        a (750,000 µs, 75.00%; +35.00%)
        b (200,000 µs, 20.00%; -20.00%)
        all (1,000,000 µs, 100%)
        node (1,000,000 µs, 100.00%; 0.00%)
        node (1,000,000 µs, 100.00%; 0.00%)
        main (1,000,000 µs, 100.00%; 0.00%)
        new (50,000 µs, 5.00%; +5.00%)
        ");
        assert!(svg.contains("20.0 % of that in paths that are gone"), "{svg}");
    }

    /// Deep and empty recordings, and names that are no XML.
    #[test]
    fn limits() {
        for depth in [512, 20_000] {
            assert_eq!(flame_graph(&deep(depth)).unwrap().matches("<title>recurse").count(), depth);
            assert!(diff_flame_graph(&deep(depth), &deep(depth)).is_ok());
        }
        let empty = Builder::new().recording;
        assert!(matches!(flame_graph(&empty), Err(OutputError::NoSamples { recording: "recording" })));
        let error = diff_flame_graph(&empty, &deep(2)).unwrap_err();
        assert!(error.to_string().starts_with("the baseline recording holds no samples"), "{error}");
        assert!(diff_flame_graph(&deep(2), &empty).is_err());
        let mut builder = Builder::new();
        builder.recording.meta.target_name = "</text><script>\u{1b}".into();
        let thread = builder.thread(0, 100, "\u{fffe}<&>");
        builder.run(thread, &["<script>alert(1)</script>"], 5);
        let svg = flame_graph(&builder.recording).unwrap();
        assert!(!svg.contains("<script>alert") && !svg.contains('\u{1b}') && !svg.contains('\u{fffe}'));
    }
}
