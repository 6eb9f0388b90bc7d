//! Where some calls spend more CPU time than others: the functions in which they go another way.
//!
//! Calls that take a hundred times as long have more of everything, so shares are compared: told is the outermost function on a path
//! that has a far greater share of the time of the ones than of the others. Where there is none, they do the same for longer,
//! and their hot paths are told.

use std::collections::HashMap;

use serde::Serialize;

use super::call_tree::{CallTree, Filter, Grouping, NodeIndex, NodeKey, ROOT};
use super::functions::Functions;
use super::hot_paths::hot_paths;
use super::ratio;
use crate::recording::{Recording, Sample};

/// Share of the time that a path must hold to be told.
const LEAST_SHARE: f64 = 0.1;
/// How many times as great as that of other calls.
const LEAST_RATIO: f64 = 4.0;
/// Samples of other calls below which their shares tell nothing.
const FEW_SAMPLES: u64 = 10;
/// What is below a function is told down to the last one with so great a share of it.
const MOSTLY: f64 = 0.5;
/// Paths that are told.
const MAX_PATHS: usize = 5;

/// CPU time of some calls: for each sample what of its weight they pay together, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Paid(Vec<(usize, u64)>);

impl Paid {
    /// Adds what one of them pays of a sample. Those of one sample come one after the other.
    pub(super) fn add(&mut self, sample: usize, part_ns: u64) {
        match self.0.last_mut() {
            Some((last, sum)) if *last == sample => *sum = sum.saturating_add(part_ns),
            _ => self.0.push((sample, part_ns)),
        }
    }

    /// Each sample, and what of its weight they pay.
    pub(super) fn samples(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied()
    }
}

/// A path of functions on which calls spend more CPU time than others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExcessPath {
    /// Outermost first, down to the function in which they go another way.
    pub path: Vec<String>,
    /// What that one mostly called; empty where that has a path of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<String>,
    /// More than one of the others.
    pub more_ms: f64,
    /// Share of their CPU time, 0 to 1.
    pub ratio: f64,
}

/// Where calls spend more than others, the most first. Of both: what was paid for, and the number of calls.
pub(super) fn excess(
    recording: &Recording,
    functions: &Functions,
    own: (&Paid, usize),
    others: (&Paid, usize),
) -> Vec<ExcessPath> {
    let of = |paid: &Paid| {
        let samples = paid.samples().filter_map(|(index, weight_ns)| {
            recording.samples.get(index).map(|sample| Sample { weight_ns, ..*sample })
        });
        let paid = Recording { samples: samples.collect(), ..without_samples(recording) };
        CallTree::new(&paid, functions, Filter::All, Grouping::None)
    };
    let trees = Trees { own: of(own.0), others: of(others.0), functions };
    // Of a node's time, so much is told of it, in nanoseconds.
    let per_call = |node: NodeIndex, other: Option<NodeIndex>, held_ns: u64| {
        let other_ns = other.map_or(0, |other| trees.others.nodes()[other].total_ns);
        let part = ratio(held_ns, trees.own.nodes()[node].total_ns);
        held_ns as f64 / own.1.max(1) as f64 - part * other_ns as f64 / others.1.max(1) as f64
    };
    let counterparts = trees.counterparts();
    let total_ns = |node: NodeIndex| trees.own.nodes()[node].total_ns;
    let partings = trees.partings(&counterparts).into_iter();
    let mut paths: Vec<(f64, NodeIndex, u64)> = partings
        .map(|node| (per_call(node, counterparts[node], total_ns(node)), node, total_ns(node)))
        .collect();
    if paths.is_empty() {
        // The same for longer. The ends of hot paths are nodes of their own.
        let by_path: HashMap<_, NodeIndex> =
            (0..trees.own.nodes().len()).map(|node| (trees.own.path(node), node)).collect();
        let hot = hot_paths(&trees.own, LEAST_SHARE).into_iter();
        let hot = hot.filter_map(|path| Some((*by_path.get(&path.functions)?, path.held_ns)));
        paths =
            hot.map(|(node, held_ns)| (per_call(node, counterparts[node], held_ns), node, held_ns)).collect();
    }
    paths.retain(|(more_ns, ..)| *more_ns > 0.0);
    paths.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    let told = paths.into_iter().take(MAX_PATHS).map(|(more_ns, node, held_ns)| ExcessPath {
        path: trees.names(trees.own.path(node)),
        below: if total_ns(node) == held_ns { trees.below(node) } else { Vec::new() },
        more_ms: more_ns / 1e6,
        ratio: ratio(held_ns, trees.own.total_ns()),
    });
    told.collect()
}

fn without_samples(recording: &Recording) -> Recording {
    Recording {
        meta: recording.meta.clone(),
        processes: recording.processes.clone(),
        threads: recording.threads.clone(),
        frames: recording.frames.clone(),
        stacks: recording.stacks.clone(),
        ..Recording::default()
    }
}

struct Trees<'a> {
    own: CallTree,
    others: CallTree,
    functions: &'a Functions,
}

impl Trees<'_> {
    /// For each own node, the others' one of the same path.
    fn counterparts(&self) -> Vec<Option<NodeIndex>> {
        let known: HashMap<(NodeIndex, &NodeKey), NodeIndex> = self
            .others
            .nodes()
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some(((node.parent?, &node.key), index)))
            .collect();
        let mut counterparts: Vec<Option<NodeIndex>> = Vec::with_capacity(self.own.nodes().len());
        for node in self.own.nodes() {
            counterparts.push(match node.parent {
                None => Some(ROOT),
                Some(parent) => {
                    counterparts[parent].and_then(|parent| known.get(&(parent, &node.key)).copied())
                }
            });
        }
        counterparts
    }

    /// The outermost nodes with a far greater share of the own time.
    fn partings(&self, counterparts: &[Option<NodeIndex>]) -> Vec<NodeIndex> {
        if self.others.samples() < FEW_SAMPLES {
            return Vec::new();
        }
        let mut partings = Vec::new();
        let mut is_below = vec![false; self.own.nodes().len()];
        for (index, node) in self.own.nodes().iter().enumerate() {
            let Some(parent) = node.parent else { continue };
            let (own, other) = (
                self.own.total_ratio(index),
                counterparts[index].map_or(0.0, |other| self.others.total_ratio(other)),
            );
            let parts = own >= LEAST_SHARE && own >= LEAST_RATIO * other;
            if parts && !is_below[parent] {
                partings.push(index);
            }
            is_below[index] = is_below[parent] || parts;
        }
        partings
    }

    fn below(&self, node: NodeIndex) -> Vec<String> {
        let mut path = Vec::new();
        let mut next = node;
        while let Some(&child) = self.own.children(next).first()
            && self.own.total_ratio(child) >= MOSTLY * self.own.total_ratio(node)
        {
            path.push(self.own.name(child, self.functions).0.to_owned());
            next = child;
        }
        path
    }

    fn names(&self, path: Vec<usize>) -> Vec<String> {
        path.into_iter().map(|function| self.functions.get(function).name.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, PERIOD_NS};

    /// The function in which calls go another way is told, not those that they call in it too; and with nothing to compare
    /// with, or no other way, their hot paths.
    #[test]
    fn partings_are_told() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        builder.run(thread, &["main", "usual", "burn"], 20);
        builder.run(thread, &["main", "usual", "burn"], 10);
        builder.run(thread, &["main", "rare", "burn", "clock"], 60);
        builder.run(thread, &["main", "rare", "burn"], 30);
        let functions = Functions::new(&builder.recording);
        let paid = |samples: std::ops::Range<usize>| Paid(samples.map(|index| (index, PERIOD_NS)).collect());
        let told = |own: &Paid, others: &Paid| {
            let told = excess(&builder.recording, &functions, (own, 2), (others, 20));
            told.into_iter()
                .map(|path| (path.path.join(">"), path.below.join(">"), path.more_ms, path.ratio))
                .collect::<Vec<_>>()
        };
        let rare = ("main>rare".to_owned(), "burn>clock".to_owned(), 450.0, 0.9);
        assert_eq!(told(&paid(20..120), &paid(0..20)), [rare]);
        let usual = ("main>usual>burn".to_owned(), String::new(), 40.0, 1.0);
        assert_eq!(told(&paid(20..30), &paid(0..20)), [usual]);
        let alone = told(&paid(30..120), &Paid::default());
        assert_eq!(alone[0].0, "main>rare>burn>clock");
        assert!(told(&Paid::default(), &Paid::default()).is_empty());
    }
}
