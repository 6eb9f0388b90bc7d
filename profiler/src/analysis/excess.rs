//! The stacks that some calls have more of than others, in CPU time by call.

use std::collections::HashMap;

use serde::Serialize;

use super::call_tree::{CallTree, Filter, Grouping};
use super::functions::{FunctionIndex, Functions};
use super::hot_paths::hot_paths;
use crate::recording::{Recording, Sample};

/// Share of the excess that a path must hold to be told.
const LEAST_SHARE: f64 = 0.1;
/// Paths that are told.
const MAX_PATHS: usize = 5;

/// CPU time of calls: for each sample what of its weight they pay, in nanoseconds.
pub(super) type Paid = HashMap<usize, u64>;

/// A path of functions on which calls spend more CPU time than others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExcessPath {
    /// Outermost first.
    pub path: Vec<String>,
    /// More than one of the others.
    pub more_ms: f64,
    /// Share of all that they spend more on a CPU, 0 to 1.
    pub ratio: f64,
}

/// What calls paid for together.
pub(super) fn sum<'paid>(calls: impl Iterator<Item = &'paid Paid>) -> Paid {
    let mut all = Paid::new();
    for (sample, part) in calls.flatten() {
        let sum = all.entry(*sample).or_default();
        *sum = sum.saturating_add(*part);
    }
    all
}

/// What calls spend more of than others, the most first. Of both: what was paid for, and the number of calls.
pub(super) fn excess(
    recording: &Recording,
    functions: &Functions,
    own: (&Paid, usize),
    others: (&Paid, usize),
) -> Vec<ExcessPath> {
    let mut paths: HashMap<Vec<FunctionIndex>, (usize, f64)> = HashMap::new();
    for ((paid, calls), sign) in [(own, 1.0), (others, -1.0)] {
        for (index, paid_ns) in paid {
            let path = path(recording, functions, &recording.samples[*index]);
            let (example, sum) = paths.entry(path).or_insert((*index, 0.0));
            *sum += sign * *paid_ns as f64 / calls.max(1) as f64;
            // One to stand for the path, whatever the order.
            *example = (*example).min(*index);
        }
    }
    let mut more: Vec<(usize, u64)> = paths
        .into_values()
        .map(|(example, sum)| (example, sum as u64))
        .filter(|(_, more_ns)| *more_ns > 0)
        .collect();
    more.sort_unstable();
    let samples =
        more.into_iter().map(|(example, weight_ns)| Sample { weight_ns, ..recording.samples[example] });
    let recording = Recording { samples: samples.collect(), ..recording.clone() };
    let tree = CallTree::new(&recording, functions, Filter::All, Grouping::None);
    let paths = hot_paths(&tree, LEAST_SHARE).into_iter().take(MAX_PATHS);
    let named = paths.map(|path| ExcessPath {
        path: path.functions.iter().map(|at| functions.get(*at).name.to_string()).collect(),
        more_ms: path.held_ns as f64 / 1e6,
        ratio: path.held_ratio,
    });
    named.collect()
}

fn path(recording: &Recording, functions: &Functions, sample: &Sample) -> Vec<FunctionIndex> {
    let mut path = Vec::new();
    let mut next = sample.stack;
    while let Some((index, node)) = next.and_then(|index| Some((index, recording.stacks.get(index)?))) {
        path.extend(functions.of_frame(node.frame).iter().rev().map(|at| at.function));
        next = node.parent.filter(|parent| *parent < index);
    }
    path
}
