//! Two recordings side by side: the same call paths, before and after.
//!
//! Times of the baseline are scaled so that both add up to the same: what shows is where a server spends its time,
//! whatever its load and the length of the recordings. Paths are matched by names and sorts of code, since
//! another build of a server has other files and addresses.

use std::collections::HashMap;
use std::sync::Arc;

use super::call_tree::{CallTree, NodeIndex};
use super::functions::Functions;
use crate::recording::FrameKind;

/// A call path in two recordings.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffNode {
    /// The caller; `None` for the first node, which holds all others. Always a smaller index.
    pub parent: Option<usize>,
    /// Name of the function, or of a process or thread.
    pub name: Arc<str>,
    /// What sort of code it is; `None` for a process or thread.
    pub kind: Option<FrameKind>,
    /// It was inlined into its caller each time.
    pub inlined: bool,
    /// What it called.
    pub children: Vec<usize>,
    /// Time in itself in the baseline, scaled, in nanoseconds.
    pub baseline_self_ns: u64,
    /// Time in itself in the current recording, in nanoseconds.
    pub current_self_ns: u64,
    /// Time in itself and what it called in the current recording, in nanoseconds.
    pub current_total_ns: u64,
}

/// The call paths of two recordings.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// All paths of both, each after its caller.
    pub nodes: Vec<DiffNode>,
    /// Time of the baseline before it was scaled, in nanoseconds.
    pub baseline_ns: u64,
    /// Time of the current recording, in nanoseconds.
    pub current_ns: u64,
    /// The share of the baseline's time that went to paths that the current recording does not have, 0 to 1.
    pub gone_ratio: f64,
}

impl Diff {
    /// Compares two call trees that were built with the same grouping.
    pub fn new(baseline: (&CallTree, &Functions), current: (&CallTree, &Functions)) -> Self {
        let mut merge = Merge::default();
        let current_nodes = merge.add(current);
        for (&node, from) in current_nodes.iter().zip(current.0.nodes()) {
            merge.nodes[node].current_self_ns =
                merge.nodes[node].current_self_ns.saturating_add(from.self_ns);
            merge.nodes[node].current_total_ns =
                merge.nodes[node].current_total_ns.saturating_add(from.total_ns);
        }
        let (baseline_ns, current_ns) = (baseline.0.total_ns(), current.0.total_ns());
        let known = merge.nodes.len();
        let baseline_nodes = merge.add(baseline);
        let mut gone_ns = 0_u64;
        for (&node, from) in baseline_nodes.iter().zip(baseline.0.nodes()) {
            // A product of two 64-bit numbers fits in 128 bits; the quotient is at most `current_ns`.
            let scaled = u128::from(from.self_ns) * u128::from(current_ns) / u128::from(baseline_ns.max(1));
            let scaled = u64::try_from(scaled).unwrap_or(u64::MAX);
            merge.nodes[node].baseline_self_ns = merge.nodes[node].baseline_self_ns.saturating_add(scaled);
            if node >= known {
                gone_ns = gone_ns.saturating_add(from.self_ns);
            }
        }
        let gone_ratio = super::ratio(gone_ns, baseline_ns);
        Self { nodes: merge.nodes, baseline_ns, current_ns, gone_ratio }
    }
}

/// The caller's node, and what it called.
type PathKey = (Option<usize>, Arc<str>, Option<FrameKind>);

#[derive(Default)]
struct Merge {
    nodes: Vec<DiffNode>,
    known: HashMap<PathKey, usize>,
}

impl Merge {
    /// Adds the paths of a tree, and says which node each of its nodes became.
    fn add(&mut self, (tree, functions): (&CallTree, &Functions)) -> Vec<usize> {
        let mut placed: Vec<usize> = Vec::with_capacity(tree.nodes().len());
        for (index, node) in tree.nodes().iter().enumerate() {
            let parent = node.parent.and_then(|parent| placed.get(parent)).copied();
            placed.push(self.place(parent, tree, functions, index));
        }
        placed
    }

    fn place(
        &mut self,
        parent: Option<usize>,
        tree: &CallTree,
        functions: &Functions,
        node: NodeIndex,
    ) -> usize {
        let (name, kind) = tree.name(node, functions);
        let name: Arc<str> = name.into();
        let inlined = tree.nodes()[node].inlined;
        let next = self.nodes.len();
        let place = *self.known.entry((parent, name.clone(), kind)).or_insert(next);
        if place == next {
            self.nodes.push(DiffNode {
                parent,
                name,
                kind,
                inlined,
                children: Vec::new(),
                baseline_self_ns: 0,
                current_self_ns: 0,
                current_total_ns: 0,
            });
            if let Some(parent) = parent {
                self.nodes[parent].children.push(place);
            }
        }
        self.nodes[place].inlined &= inlined;
        place
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::call_tree::{Filter, Grouping};
    use crate::analysis::testing::{Builder, PERIOD_NS, deep, recordings};
    use crate::recording::Recording;

    fn diff(baseline: &Recording, current: &Recording) -> Diff {
        let build = |recording: &Recording| {
            let functions = Functions::new(recording);
            (CallTree::new(recording, &functions, Filter::All, Grouping::None), functions)
        };
        let (baseline, current) = (build(baseline), build(current));
        Diff::new((&baseline.0, &baseline.1), (&current.0, &current.1))
    }

    fn recording(runs: &[(&[&str], usize)]) -> Recording {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        for (names, count) in runs {
            builder.run(thread, names, *count);
        }
        builder.recording
    }

    /// The baseline is scaled to the current total, and paths that went away are told.
    #[test]
    fn known_answer() {
        let baseline = recording(&[(&["main", "a"], 20), (&["main", "b"], 20), (&["main", "old"], 10)]);
        let current = recording(&[(&["main", "a"], 75), (&["main", "b"], 25)]);
        let diff = diff(&baseline, &current);
        let row = |name: &str| {
            let node = diff.nodes.iter().find(|node| &*node.name == name).unwrap();
            (node.baseline_self_ns / PERIOD_NS, node.current_self_ns / PERIOD_NS)
        };
        assert_eq!([row("a"), row("b"), row("old")], [(40, 75), (40, 25), (20, 0)]);
        assert_eq!(
            (diff.gone_ratio, diff.baseline_ns, diff.current_ns),
            (0.2, 50 * PERIOD_NS, 100 * PERIOD_NS)
        );
    }

    /// Deep stacks and empty recordings are harmless.
    #[test]
    fn limits() {
        assert_eq!(diff(&deep(100_000), &deep(100_000)).nodes.len(), 100_001);
        assert_eq!(diff(&Recording::default(), &Recording::default()).nodes.len(), 1);
        assert_eq!(diff(&deep(2), &Recording::default()).gone_ratio, 1.0);
    }

    proptest! {
        /// A recording does not differ from itself, and loses no time.
        #[test]
        fn same_recording(recording in recordings()) {
            let diff = diff(&recording, &recording);
            let weight: u64 = recording.samples.iter().map(|sample| sample.weight_ns).sum();
            prop_assert!(diff.nodes.iter().all(|node| node.baseline_self_ns == node.current_self_ns));
            prop_assert_eq!(diff.nodes.iter().map(|node| node.current_self_ns).sum::<u64>(), weight);
            prop_assert_eq!(diff.nodes[0].current_total_ns, weight);
        }
    }
}
