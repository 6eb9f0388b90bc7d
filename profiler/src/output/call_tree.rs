//! The call tree as text. A function that is the only one shown below its caller stands under it without indent,
//! so that deep stacks fit.

use std::io::{self, Write};

use super::style::{Paint, Style, columns_of, cut_name, printable, wrap};
use super::units::{count, duration, percent, plural};
use crate::analysis::call_tree::{CallTree, NodeIndex, NodeKey, ROOT};
use crate::analysis::functions::Functions;
use crate::recording::FrameKind;

/// What is left out of a call tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CallTreeOptions {
    /// Functions below more callers than this are left out; `None` shows all.
    pub max_depth: Option<usize>,
    /// Functions with a smaller share of the time are left out, 0 to 1.
    pub min_share: f64,
}

impl Default for CallTreeOptions {
    fn default() -> Self {
        Self { max_depth: None, min_share: 0.01 }
    }
}

/// Columns before the tree.
const FIGURES: usize = 32;
/// Columns that a name keeps, however deep it stands.
const LEAST_NAME: usize = 24;

/// Writes a call tree, the most time first, with what was left out.
///
/// # Errors
/// Those of the writer.
pub fn write_call_tree(
    mut out: impl Write,
    tree: &CallTree,
    functions: &Functions,
    options: CallTreeOptions,
    style: Style,
) -> io::Result<()> {
    let heading = format!(
        "Call tree of {} on CPU, {}",
        duration(tree.total_ns() as f64 / 1e9),
        plural(tree.samples(), "sample", "samples")
    );
    writeln!(out, "{}", style.paint(Paint::Heading, &heading))?;
    if tree.samples() == 0 {
        let text = "No samples: the server used no CPU. Record again while clients call its tools.";
        return wrap(text, style.columns()).iter().try_for_each(|line| writeln!(out, "{line}"));
    }
    let what = if functions.are_packages() { "package" } else { "function" };
    let titles = format!("{:>9} {:>9} {:>9}  {what}", "total", "time", "self");
    writeln!(out, "{}", style.paint(Paint::Dim, &titles))?;
    let mut view = View { tree, functions, options, style, small: 0, deep: 0 };
    let mut open = view.rows_below(ROOT, "", 0);
    while let Some(row) = open.pop() {
        view.write_row(&mut out, &row)?;
        if let What::Node(node) = row.what {
            open.extend(view.rows_below(node, &row.below, row.depth + 1));
        }
    }
    view.write_end(&mut out)
}

enum What {
    Node(NodeIndex),
    /// Callees with too small a share: how many, and their time together.
    Small(usize, u64),
}

struct Row {
    what: What,
    /// Lines of the tree before it.
    before: String,
    /// Lines of the tree before what stands below it.
    below: String,
    depth: usize,
}

struct View<'a> {
    tree: &'a CallTree,
    functions: &'a Functions,
    options: CallTreeOptions,
    style: Style,
    /// Functions that were left out because of their share.
    small: usize,
    /// Functions that were left out because of their depth.
    deep: usize,
}

impl View<'_> {
    /// The rows below a node, the last one first.
    fn rows_below(&mut self, node: NodeIndex, prefix: &str, depth: usize) -> Vec<Row> {
        let children = self.tree.children(node);
        if self.options.max_depth.is_some_and(|most| depth >= most) {
            self.deep += children.len();
            return Vec::new();
        }
        let shown =
            children.iter().take_while(|child| self.tree.total_ratio(**child) >= self.options.min_share);
        let mut whats: Vec<What> = shown.map(|child| What::Node(*child)).collect();
        let hidden = &children[whats.len()..];
        self.small += hidden.len();
        let hidden_ns =
            hidden.iter().map(|child| self.tree.nodes()[*child].total_ns).fold(0, u64::saturating_add);
        if hidden_ns as f64 >= self.options.min_share * self.tree.total_ns() as f64 && hidden_ns > 0 {
            whats.push(What::Small(hidden.len(), hidden_ns));
        }
        let last = whats.len().saturating_sub(1);
        let branches = whats.len() > 1;
        let rows = whats.into_iter().enumerate().map(|(index, what)| {
            let (before, below) = match (branches, index == last) {
                (false, _) => ("", ""),
                (true, false) => ("├─ ", "│  "),
                (true, true) => ("└─ ", "   "),
            };
            Row { what, before: format!("{prefix}{before}"), below: format!("{prefix}{below}"), depth }
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.reverse();
        rows
    }

    fn write_row(&self, mut out: impl Write, row: &Row) -> io::Result<()> {
        let whole_ns = self.tree.total_ns().max(1) as f64;
        let (total_ns, self_ns, name) = match row.what {
            What::Node(index) => {
                let node = &self.tree.nodes()[index];
                let (name, kind) = self.tree.name(index, self.functions);
                let mark = match kind {
                    Some(FrameKind::Kernel) => " [kernel]".into(),
                    _ if node.inlined => " [inlined]".into(),
                    Some(FrameKind::Python | FrameKind::JavaScript) => self.entered_package(index),
                    _ => String::new(),
                };
                (node.total_ns, Some(node.self_ns), (printable(name), mark))
            }
            What::Small(callees, total_ns) => (
                total_ns,
                None,
                (
                    format!("… {} below the limit", plural(callees as u64, "callee", "callees")).into(),
                    String::new(),
                ),
            ),
        };
        let share = |time_ns: u64| percent(time_ns as f64 / whole_ns);
        let figures = format!(
            "{:>9} {:>9} {:>9}  ",
            share(total_ns),
            duration(total_ns as f64 / 1e9),
            self_ns.map_or_else(String::new, share)
        );
        let room = self.style.columns().saturating_sub(FIGURES);
        let before = indent(&row.before, room.saturating_sub(LEAST_NAME.min(room / 2)));
        let (name, mark) = name;
        let free = room.saturating_sub(columns_of(&before));
        let mark = if columns_of(&mark) + LEAST_NAME > free { String::new() } else { mark };
        let left = free.saturating_sub(columns_of(&mark));
        let paint = match self_ns {
            None => Paint::Dim,
            Some(self_ns) if self_ns as f64 / whole_ns >= 0.1 => Paint::Hot,
            Some(_) => return writeln!(out, "{figures}{before}{}{mark}", cut_name(&name, left)),
        };
        writeln!(out, "{figures}{before}{}{mark}", self.style.paint(paint, &cut_name(&name, left)))
    }

    /// The package of a function, in brackets, where its caller belongs to another one.
    fn entered_package(&self, node: NodeIndex) -> String {
        let package_of = |node: NodeIndex| match &self.tree.nodes()[node].key {
            NodeKey::Function(function) => Some(&self.functions.get(*function).package),
            _ => None,
        };
        let caller = self.tree.nodes()[node].parent.and_then(package_of);
        match package_of(node).filter(|package| caller != Some(package)) {
            Some(package) => format!(" [{}]", printable(package)),
            None => String::new(),
        }
    }

    fn write_end(&self, mut out: impl Write) -> io::Result<()> {
        let mut parts = Vec::new();
        if self.small > 0 {
            let least = percent(self.options.min_share);
            parts.push(format!(
                "{} with less than {least} of the time, and what they called",
                count(self.small as u64)
            ));
        }
        if let (Some(most), true) = (self.options.max_depth, self.deep > 0) {
            parts.push(format!("{} deeper than {most}, and what they called", count(self.deep as u64)));
        }
        if parts.is_empty() {
            return Ok(());
        }
        for line in wrap(&format!("Left out: {}.", parts.join("; ")), self.style.columns()) {
            writeln!(out, "{}", self.style.paint(Paint::Dim, &line))?;
        }
        Ok(())
    }
}

/// Lines of the tree, without the leftmost ones where they take too much space.
fn indent(lines: &str, columns: usize) -> String {
    let excess = columns_of(lines).saturating_sub(columns);
    if excess == 0 {
        return lines.to_owned();
    }
    format!("…{}", lines.chars().skip(excess + 1).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::call_tree::{Filter, Grouping};
    use crate::analysis::functions::Folding;
    use crate::analysis::testing::{Builder, deep, example, line};
    use crate::recording::Recording;

    fn text(recording: &Recording, options: CallTreeOptions, style: Style) -> String {
        let functions = Functions::new(recording);
        let tree = CallTree::new(recording, &functions, Filter::All, Grouping::None);
        let mut out = Vec::new();
        write_call_tree(&mut out, &tree, &functions, options, style).unwrap();
        let text = String::from_utf8(out).unwrap();
        style.assert_fits(&text);
        text
    }

    /// A known tree.
    #[test]
    fn known_answer() {
        insta::assert_snapshot!(text(&example(), CallTreeOptions::default(), Style::default()), @r"
        Call tree of 5.00 s on CPU, 500 samples
            total      time      self  function
           92.0 %    4.60 s     0.0 %  ├─ _start
           90.0 %    4.50 s     0.0 %  │  ├─ main
           60.0 %    3.00 s    60.0 %  │  │  ├─ a
           20.0 %    1.00 s    12.0 %  │  │  ├─ b
            8.0 %    400 ms     0.0 %  │  │  │  entry_SYSCALL_64 [kernel]
            8.0 %    400 ms     8.0 %  │  │  │  do_syscall_64 [kernel]
           10.0 %    500 ms     0.0 %  │  │  └─ handleRequest
           10.0 %    500 ms     0.0 %  │  │     a
           10.0 %    500 ms    10.0 %  │  │     inlinedHelper [inlined]
            2.0 %    100 ms     2.0 %  │  └─ git+0x10b0
            8.0 %    400 ms     0.0 %  └─ clone3
            8.0 %    400 ms     0.0 %     start_thread
            8.0 %    400 ms     8.0 %     compress
        ");
    }

    /// A server in two languages: a package is told where it is entered, and stands for its functions when folded.
    #[test]
    fn packages() {
        let mut builder = Builder::new();
        builder.recording.processes[0].project = Some("/app".into());
        let thread = builder.thread(0, 100, "python3");
        let mut node = None;
        let frames = [
            (FrameKind::Native, "/usr/bin/python3.11", "_start"),
            (FrameKind::Python, "/app/server.py", "main"),
            (FrameKind::Python, "/v/lib/python3.11/site-packages/mcp/server.py", "run"),
            (FrameKind::Python, "/v/lib/python3.11/site-packages/mcp/session.py", "dispatch"),
            (FrameKind::Python, "/app/server.py", "search"),
            (FrameKind::Python, "/usr/lib/python3.11/json/decoder.py", "decode"),
        ];
        for (offset, (kind, module, function)) in frames.into_iter().enumerate() {
            let frame = builder.frame(kind, module, offset as u64, vec![line(function, Some(module), None)]);
            node = Some(builder.node(node, frame));
        }
        builder.samples(thread, node, 10);
        insta::assert_snapshot!(text(&builder.recording, CallTreeOptions::default(), Style::default()), @r"
        Call tree of 100 ms on CPU, 10 samples
            total      time      self  function
          100.0 %    100 ms     0.0 %  _start
          100.0 %    100 ms     0.0 %  main [server.py]
          100.0 %    100 ms     0.0 %  run [site-packages/mcp]
          100.0 %    100 ms     0.0 %  dispatch
          100.0 %    100 ms     0.0 %  search [server.py]
          100.0 %    100 ms   100.0 %  decode [python3.11 stdlib]
        ");
        let functions = Functions::folded(&builder.recording, Folding::Package);
        let tree = CallTree::new(&builder.recording, &functions, Filter::All, Grouping::None);
        let mut out = Vec::new();
        write_call_tree(&mut out, &tree, &functions, CallTreeOptions::default(), Style::default()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        Call tree of 100 ms on CPU, 10 samples
            total      time      self  package
          100.0 %    100 ms     0.0 %  python3.11
          100.0 %    100 ms     0.0 %  server.py
          100.0 %    100 ms     0.0 %  site-packages/mcp
          100.0 %    100 ms     0.0 %  server.py
          100.0 %    100 ms   100.0 %  python3.11 stdlib
        ");
    }

    /// What is left out is told.
    #[test]
    fn limits_are_told() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["main", "big"], 80);
        for index in 0..20 {
            builder.run(thread, &["main", &format!("small{index}")], 1);
        }
        builder.run(thread, &["main", "big", "rare"], 1);
        builder.run(thread, &["main", "big", "deep", "deeper", "deepest"], 30);
        let options = CallTreeOptions { max_depth: Some(3), min_share: 0.02 };
        insta::assert_snapshot!(text(&builder.recording, options, Style::default()), @r"
        Call tree of 1.31 s on CPU, 131 samples
            total      time      self  function
          100.0 %    1.31 s     0.0 %  main
           84.7 %    1.11 s    61.1 %  ├─ big
           22.9 %    300 ms     0.0 %  │  deep
           15.3 %    200 ms            └─ … 20 callees below the limit
        Left out: 21 with less than 2.0 % of the time, and what they called; 1 deeper
        than 3, and what they called.
        ");
    }

    /// Branches at every level of a deep tree still fit.
    #[test]
    fn deep_branches_fit() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        let names: Vec<String> =
            (0..40).map(|depth| format!("module::with::long::path::function{depth}")).collect();
        for depth in 1..40 {
            let mut stack: Vec<&str> = names[..depth].iter().map(String::as_str).collect();
            builder.run(thread, &stack, 1);
            stack.push("side");
            builder.run(thread, &stack, 1);
        }
        let options = CallTreeOptions { max_depth: None, min_share: 0.0 };
        let text = text(&builder.recording, options, Style::default());
        assert!(text.contains("function38"), "{text}");
    }

    /// Deep stacks, an empty recording and narrow terminals.
    #[test]
    fn extremes() {
        let all = CallTreeOptions { max_depth: None, min_share: 0.0 };
        assert_eq!(text(&deep(100_000), all, Style::default()).matches("recurse").count(), 100_000);
        assert!(text(&Recording::default(), all, Style::default()).contains("No samples"));
        text(&example(), all, Style { colour: true, width: 0 });
        text(&example(), all, Style { colour: false, width: 0 });
    }
}
