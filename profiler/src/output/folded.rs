//! Folded stacks: one line a call path, `process;thread;outermost;...;innermost count`, in samples.
//!
//! Function names end in `_[k]` for kernel code, `_[i]` where they were inlined and `_[j]` for code that a runtime made,
//! as flamegraph.pl and its relatives know them.

use std::io::{self, Write};

use super::OutputError;
use super::style::printable;
use crate::analysis::call_tree::{CallTree, Step};
use crate::analysis::functions::Functions;
use crate::recording::FrameKind;

/// Writes the folded stacks of a call tree, which should be grouped
/// [by process and thread](crate::analysis::call_tree::Grouping::ProcessAndThread).
///
/// # Errors
/// [`OutputError::NoSamples`], and those of the writer.
pub fn write_folded(mut out: impl Write, tree: &CallTree, functions: &Functions) -> Result<(), OutputError> {
    if tree.samples() == 0 {
        return Err(OutputError::NoSamples { recording: "recording" });
    }
    let mut path = Path::default();
    tree.try_walk(
        |_| true,
        |step| match step {
            Step::Enter(index) => {
                let node = &tree.nodes()[index];
                if node.parent.is_some() {
                    let (name, kind) = tree.name(index, functions);
                    path.push(&label(name, kind, node.inlined));
                }
                if node.self_samples > 0 {
                    writeln!(out, "{} {}", path.text, node.self_samples)?;
                }
                Ok::<(), io::Error>(())
            }
            Step::Leave(_) => {
                path.pop();
                Ok(())
            }
        },
    )?;
    Ok(())
}

/// Labels with `;` between them.
#[derive(Default)]
pub(crate) struct Path {
    pub(crate) text: String,
    ends: Vec<usize>,
}

impl Path {
    pub(crate) fn push(&mut self, label: &str) {
        self.ends.push(self.text.len());
        if !self.text.is_empty() {
            self.text.push(';');
        }
        self.text.push_str(label);
    }

    pub(crate) fn pop(&mut self) {
        self.text.truncate(self.ends.pop().unwrap_or(0));
    }
}

/// A name as folded stacks can hold it: no separator, no line end, no last word that reads as a count.
pub(crate) fn label(name: &str, kind: Option<FrameKind>, inlined: bool) -> String {
    let mut label = printable(name.trim()).replace(';', ":");
    let mark = match kind {
        Some(FrameKind::Kernel) => "_[k]",
        Some(_) if inlined => "_[i]",
        Some(FrameKind::Jit) => "_[j]",
        Some(FrameKind::Native | FrameKind::Python | FrameKind::PythonWaiting | FrameKind::JavaScript)
        | None => "",
    };
    if let Some((start, last)) = label.rsplit_once(' ').filter(|_| mark.is_empty())
        && last.chars().all(|c| c.is_ascii_digit() || c == '.')
    {
        label = format!("{start}_{last}");
    }
    // A line that begins so is a comment to some readers.
    if label.starts_with('#') {
        label.insert(0, '_');
    }
    label + mark
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::call_tree::{Filter, Grouping};
    use crate::analysis::testing::{Builder, deep, example, recordings};
    use crate::recording::Recording;

    fn folded(recording: &Recording) -> String {
        let functions = Functions::new(recording);
        let tree = CallTree::new(recording, &functions, Filter::All, Grouping::ProcessAndThread);
        let mut out = Vec::new();
        match write_folded(&mut out, &tree, &functions) {
            Ok(()) | Err(OutputError::NoSamples { .. }) => String::from_utf8(out).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

    /// A known recording, line by line.
    #[test]
    fn known_answer() {
        insta::assert_snapshot!(folded(&example()), @r"
        node;node;_start;main;a 300
        node;node;_start;main;b 60
        node;node;_start;main;b;entry_SYSCALL_64_[k];do_syscall_64_[k] 40
        node;node;_start;main;handleRequest_[j];a;inlinedHelper_[i] 50
        node;libuv-worker;clone3;start_thread;compress 40
        git;git;_start;git+0x10b0 10
        ");
    }

    /// Names that would break the format are changed, and only those.
    #[test]
    fn labels() {
        let native = |name| label(name, Some(FrameKind::Native), false);
        assert_eq!(native("[u8; 8]::hash"), "[u8: 8]::hash");
        assert_eq!(native("a\nb"), "a\u{fffd}b");
        assert_eq!(native("worker 12"), "worker_12");
        assert_eq!(native("operator new"), "operator new");
        assert_eq!(native("# comment"), "_# comment");
        assert_eq!(native(""), "[unnamed]");
        assert_eq!(label("f", Some(FrameKind::Native), true), "f_[i]");
        assert_eq!(label("f", Some(FrameKind::Jit), true), "f_[i]");
        assert_eq!(label("f", Some(FrameKind::Jit), false), "f_[j]");
        assert_eq!(label("f", Some(FrameKind::Kernel), true), "f_[k]");
    }

    /// Deep stacks are written whole; an empty recording is an error.
    #[test]
    fn limits() {
        assert_eq!(folded(&deep(512)).matches("recurse").count(), 512);
        assert_eq!(folded(&deep(100_000)).lines().count(), 1);
        assert_eq!(folded(&Builder::new().recording), "");
    }

    proptest! {
        /// Each sample is in one line, and no path is told twice.
        #[test]
        fn sums_are_conserved(recording in recordings()) {
            let text = folded(&recording);
            let lines: Vec<_> = text.lines().map(|line| line.rsplit_once(' ').unwrap()).collect();
            let sum: usize = lines.iter().map(|(_, count)| count.parse::<usize>().unwrap()).sum();
            prop_assert_eq!(sum, recording.samples.len());
            let paths: std::collections::HashSet<_> = lines.iter().map(|(path, _)| path).collect();
            prop_assert_eq!(paths.len(), lines.len());
        }
    }
}
