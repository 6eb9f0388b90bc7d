//! Hot paths: the shortest call paths that together say where the time goes.
//!
//! A hot path runs from the outermost function down to the deepest one that still holds the threshold's share
//! of all time. Nodes are judged from the leaves up: a node holds its total time less what hot paths below it
//! have told already, and it ends a hot path when what it holds reaches the threshold:
//!
//! ```text
//! held(n) = total(n) - sum of held(h) over the hot paths h below n
//! n is reported when held(n) >= threshold * total(root)
//! ```
//!
//! So no time is told twice, and each path is as short as it can be while it still says where time goes.

use super::call_tree::{CallTree, NodeIndex, NodeKey, ROOT};
use super::functions::FunctionIndex;
use super::ratio;

/// The threshold when the user gives none.
pub const DEFAULT_THRESHOLD: f64 = 0.05;

/// A call path that holds much of the time.
#[derive(Clone, Debug, PartialEq)]
pub struct HotPath {
    /// Its innermost node.
    pub node: NodeIndex,
    /// Its functions, outermost first.
    pub functions: Vec<FunctionIndex>,
    /// Time on this path that no longer hot path tells, in nanoseconds.
    pub held_ns: u64,
    /// `held_ns` as a share of the tree's time, 0 to 1.
    pub held_ratio: f64,
    /// All time on this path, in nanoseconds.
    pub total_ns: u64,
    /// `total_ns` as a share of the tree's time, 0 to 1.
    pub total_ratio: f64,
}

/// The hot paths of a tree, by the time they hold, the most first. `threshold` is a share of the tree's time, 0 to 1.
pub fn hot_paths(tree: &CallTree, threshold: f64) -> Vec<HotPath> {
    let nodes = tree.nodes();
    let least = threshold * tree.total_ns() as f64;
    let mut held = vec![0_u64; nodes.len()];
    let mut paths = Vec::new();
    // Callers come before what they call, so backwards is from the leaves up.
    for (index, node) in nodes.iter().enumerate().rev() {
        let held_ns = held[index].saturating_add(node.self_ns);
        if matches!(node.key, NodeKey::Function(_)) && held_ns > 0 && held_ns as f64 >= least {
            paths.push(HotPath {
                node: index,
                functions: tree.path(index),
                held_ns,
                held_ratio: ratio(held_ns, tree.total_ns()),
                total_ns: node.total_ns,
                total_ratio: tree.total_ratio(index),
            });
        } else {
            let parent = node.parent.unwrap_or(ROOT);
            held[parent] = held[parent].saturating_add(held_ns);
        }
    }
    paths.sort_by_key(|path| (std::cmp::Reverse(path.held_ns), path.node));
    paths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::call_tree::{Filter, Grouping};
    use crate::analysis::functions::Functions;
    use crate::analysis::testing::{Builder, PERIOD_NS, deep, recordings};
    use crate::recording::Recording;

    fn paths_of(recording: &Recording, threshold: f64) -> (Vec<HotPath>, Functions, CallTree) {
        let functions = Functions::new(recording);
        let tree = CallTree::new(recording, &functions, Filter::All, Grouping::None);
        (hot_paths(&tree, threshold), functions, tree)
    }

    fn rows(recording: &Recording, threshold: f64) -> Vec<(String, u64, u64)> {
        let (paths, functions, _) = paths_of(recording, threshold);
        let rows = paths.iter().map(|path| {
            let names: Vec<_> = path.functions.iter().map(|at| &*functions.get(*at).name).collect();
            (names.join(">"), path.held_ns / PERIOD_NS, path.total_ns / PERIOD_NS)
        });
        rows.collect()
    }

    /// Small callees are gathered where together they reach the threshold; big ones are told by themselves.
    #[test]
    fn known_answer() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["main", "work", "big"], 60);
        builder.run(thread, &["main", "work", "small"], 6);
        builder.run(thread, &["main", "work", "smaller"], 4);
        builder.run(thread, &["main", "work"], 3);
        builder.run(thread, &["main", "rest", "x"], 9);
        builder.run(thread, &["main", "rest", "y"], 9);
        builder.run(thread, &["other"], 9);
        let row = |path: &str, held, total| (path.to_owned(), held, total);
        assert_eq!(
            rows(&builder.recording, 0.1),
            [row("main>work>big", 60, 60), row("main>rest", 18, 18), row("main>work", 13, 73)]
        );
    }

    /// The threshold itself is enough, and nothing is hot in an empty recording.
    #[test]
    fn limits() {
        let mut builder = Builder::new();
        assert!(rows(&builder.recording, 0.0).is_empty());
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["a"], 1);
        builder.run(thread, &["b"], 3);
        assert_eq!(rows(&builder.recording, 0.25).len(), 2);
        assert!(rows(&builder.recording, 1.5).is_empty());
        assert!(rows(&builder.recording, f64::NAN).is_empty());
    }

    /// A recursive stack of any depth is one path.
    #[test]
    fn deep_stacks() {
        let (paths, ..) = paths_of(&deep(100_000), DEFAULT_THRESHOLD);
        assert_eq!(paths.iter().map(|path| path.functions.len()).collect::<Vec<_>>(), [100_000]);
    }

    proptest! {
        /// Paths never tell more time than there is, each holds the threshold, and what is left below none of
        /// them would have: less than the threshold remains below each outermost function.
        #[test]
        fn no_time_is_told_twice(recording in recordings(), threshold in 0.0..0.6_f64) {
            let (paths, _, tree) = paths_of(&recording, threshold);
            let least = threshold * tree.total_ns() as f64;
            let held: u64 = paths.iter().map(|path| path.held_ns).sum();
            prop_assert!(held <= tree.total_ns());
            prop_assert!(paths.iter().all(|path| path.held_ns as f64 >= least && path.held_ns <= path.total_ns));
            for &outermost in tree.children(ROOT) {
                let start = tree.path(outermost);
                let told: u64 = paths.iter().filter(|path| path.functions.starts_with(&start)).map(|path| path.held_ns).sum();
                let left = tree.nodes()[outermost].total_ns - told;
                prop_assert!(left == 0 || (left as f64) < least);
            }
        }
    }
}
