//! The call tree: each function below its caller, with the time spent there.
//!
//! Stacks of a recording share their beginnings, so the tree is built by giving each stack the node of its
//! caller's stack once. Nothing here recurses: a stack can be as deep as memory allows.

mod builder;

use std::ops::Range;
use std::sync::Arc;

use self::builder::Builder;
use super::functions::{FunctionIndex, Functions, basename};
use super::ratio;
use crate::recording::{FrameKind, ProcessIndex, Recording, Sample};

/// Index of a [`Node`] in a [`CallTree`].
pub type NodeIndex = usize;

/// The node that holds all others.
pub const ROOT: NodeIndex = 0;

/// Which samples a call tree is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    #[default]
    All,
    /// Those of one process.
    Process(ProcessIndex),
    /// Those of one thread, an index in [`Recording::threads`].
    Thread(usize),
}

/// What stands above the outermost functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// Nothing: threads are merged.
    #[default]
    None,
    /// The name of the process, and below it that of the thread. Those of one name are merged.
    ProcessAndThread,
}

/// What a node stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeKey {
    /// Everything.
    Root,
    /// All processes of this name.
    Process(Arc<str>),
    /// All threads of this name, in the process above.
    Thread(Arc<str>),
    /// A function, called by the one above.
    Function(FunctionIndex),
}

/// A node of a [`CallTree`].
#[derive(Clone, Debug)]
pub struct Node {
    /// What it stands for.
    pub key: NodeKey,
    /// The caller; `None` for [`ROOT`]. Always a smaller index.
    pub parent: Option<NodeIndex>,
    /// It was inlined into its caller each time.
    pub inlined: bool,
    /// Time in itself, in nanoseconds.
    pub self_ns: u64,
    /// Time in itself and in what it called, in nanoseconds.
    pub total_ns: u64,
    /// Samples in itself.
    pub self_samples: u64,
    /// Samples in itself and in what it called.
    pub total_samples: u64,
    children: Range<usize>,
}

/// Time by call path.
#[derive(Clone, Debug)]
pub struct CallTree {
    nodes: Vec<Node>,
    children: Vec<NodeIndex>,
}

/// The time of a function, over all its places in a call tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FunctionTime {
    /// The function.
    pub function: FunctionIndex,
    /// Time in itself, in nanoseconds.
    pub self_ns: u64,
    /// Time in itself and in what it called, in nanoseconds; told once where it calls itself.
    pub total_ns: u64,
    /// `self_ns` as a share of the tree's time, 0 to 1.
    pub self_ratio: f64,
    /// `total_ns` as a share of the tree's time, 0 to 1.
    pub total_ratio: f64,
}

/// A step of a walk through a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Enter(NodeIndex),
    Leave(NodeIndex),
}

impl CallTree {
    /// Builds the call tree of a recording's samples.
    pub fn new(recording: &Recording, functions: &Functions, filter: Filter, grouping: Grouping) -> Self {
        let mut builder = Builder::new(recording, functions, grouping);
        for sample in recording.samples.iter().filter(|sample| selects(filter, recording, sample)) {
            let node = builder.node_of(sample);
            let node = &mut builder.nodes[node];
            node.self_ns = node.self_ns.saturating_add(sample.weight_ns);
            node.self_samples += 1;
        }
        builder.finish()
    }

    /// All nodes, each after its caller. The first one is [`ROOT`].
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What a node called, by time, the most first. Empty for an index that is not this tree's.
    pub fn children(&self, node: NodeIndex) -> &[NodeIndex] {
        self.nodes.get(node).and_then(|node| self.children.get(node.children.clone())).unwrap_or(&[])
    }

    /// Time of all samples, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.nodes[ROOT].total_ns
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.nodes[ROOT].total_samples
    }

    /// A node's share of the time, 0 to 1.
    pub fn total_ratio(&self, node: NodeIndex) -> f64 {
        self.nodes.get(node).map_or(0.0, |node| ratio(node.total_ns, self.total_ns()))
    }

    /// What a node is called, and what sort of code it is where it is a function.
    pub fn name<'a>(&'a self, node: NodeIndex, functions: &'a Functions) -> (&'a str, Option<FrameKind>) {
        match self.nodes.get(node).map(|node| &node.key) {
            None | Some(NodeKey::Root) => ("all", None),
            Some(NodeKey::Process(name) | NodeKey::Thread(name)) => (name, None),
            Some(NodeKey::Function(function)) => {
                let function = functions.get(*function);
                (&function.name, Some(function.kind))
            }
        }
    }

    /// The functions from the outermost one down to a node.
    pub fn path(&self, node: NodeIndex) -> Vec<FunctionIndex> {
        let mut path = Vec::new();
        let mut next = self.nodes.get(node);
        while let Some(node) = next {
            if let NodeKey::Function(function) = node.key {
                path.push(function);
            }
            next = node.parent.map(|parent| &self.nodes[parent]);
        }
        path.reverse();
        path
    }

    /// Walks depth first through the nodes that `enters` lets in, from [`ROOT`].
    pub(crate) fn walk(&self, enters: impl Fn(NodeIndex) -> bool, mut visit: impl FnMut(Step)) {
        let result = self.try_walk(enters, |step| {
            visit(step);
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = result;
    }

    /// Like [`Self::walk`], and ends at the first error.
    pub(crate) fn try_walk<E>(
        &self,
        enters: impl Fn(NodeIndex) -> bool,
        mut visit: impl FnMut(Step) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut open: Vec<(NodeIndex, std::slice::Iter<'_, NodeIndex>)> = Vec::new();
        visit(Step::Enter(ROOT))?;
        open.push((ROOT, self.children(ROOT).iter()));
        while let Some((node, children)) = open.last_mut() {
            let node = *node;
            match children.find(|child| enters(**child)) {
                Some(&child) => {
                    visit(Step::Enter(child))?;
                    open.push((child, self.children(child).iter()));
                }
                None => {
                    visit(Step::Leave(node))?;
                    open.pop();
                }
            }
        }
        Ok(())
    }

    /// Time by function, by self time, the most first.
    pub fn functions(&self, functions: &Functions) -> Vec<FunctionTime> {
        let mut times: Vec<(u64, u64)> = vec![(0, 0); functions.all().len()];
        let mut seen = vec![false; times.len()];
        let mut open = vec![0_u32; times.len()];
        let function_of = |node: NodeIndex| match self.nodes[node].key {
            NodeKey::Function(function) => Some(function),
            _ => None,
        };
        self.walk(
            |_| true,
            |step| match step {
                Step::Enter(node) => {
                    let Some(function) = function_of(node) else { return };
                    let node = &self.nodes[node];
                    let (self_ns, total_ns) = &mut times[function];
                    *self_ns = self_ns.saturating_add(node.self_ns);
                    // Below a call of the same function its time has been told.
                    if open[function] == 0 {
                        *total_ns = total_ns.saturating_add(node.total_ns);
                    }
                    open[function] += 1;
                    seen[function] = true;
                }
                Step::Leave(node) => {
                    if let Some(function) = function_of(node) {
                        open[function] -= 1;
                    }
                }
            },
        );
        let whole = self.total_ns();
        let times = times.into_iter().zip(seen).enumerate().filter(|(_, (_, seen))| *seen);
        let mut times: Vec<_> = times
            .map(|(function, ((self_ns, total_ns), _))| FunctionTime {
                function,
                self_ns,
                total_ns,
                self_ratio: ratio(self_ns, whole),
                total_ratio: ratio(total_ns, whole),
            })
            .collect();
        times.sort_by(|a, b| {
            let name = |time: &FunctionTime| &functions.get(time.function).name;
            (b.self_ns, b.total_ns).cmp(&(a.self_ns, a.total_ns)).then_with(|| name(a).cmp(name(b)))
        });
        times
    }
}

fn selects(filter: Filter, recording: &Recording, sample: &Sample) -> bool {
    match filter {
        Filter::All => true,
        Filter::Thread(thread) => sample.thread == thread,
        Filter::Process(process) => {
            recording.threads.get(sample.thread).is_some_and(|thread| thread.process == process)
        }
    }
}

/// The program's name, from a command line.
pub(crate) fn program_name(command: &str) -> &str {
    command.split_whitespace().next().map_or("[unknown]", basename)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::functions::Folding;
    use crate::analysis::testing::{Builder, PERIOD_NS, deep, example, line, recordings};
    use crate::recording::StackEnd;

    fn tree_of(recording: &Recording, filter: Filter, grouping: Grouping) -> (CallTree, Functions) {
        let functions = Functions::new(recording);
        (CallTree::new(recording, &functions, filter, grouping), functions)
    }

    fn times_of(recording: &Recording) -> Vec<(String, u64, u64)> {
        let (tree, functions) = tree_of(recording, Filter::All, Grouping::None);
        let times = tree.functions(&functions).into_iter();
        let times = times.map(|time| {
            let name = functions.get(time.function).name.to_string();
            (name, time.self_ns / PERIOD_NS, time.total_ns / PERIOD_NS)
        });
        times.collect()
    }

    /// Three parts in `a` and one in `b` are 75 % and 25 %, and their caller holds both.
    #[test]
    fn known_shares() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["main", "a"], 75);
        builder.run(thread, &["main", "b"], 25);
        let (tree, functions) = tree_of(&builder.recording, Filter::All, Grouping::None);
        let times = tree.functions(&functions);
        let row = |index: usize| {
            let time: &FunctionTime = &times[index];
            (&*functions.get(time.function).name, time.self_ratio, time.total_ratio)
        };
        assert_eq!([row(0), row(1), row(2)], [("a", 0.75, 0.75), ("b", 0.25, 0.25), ("main", 0.0, 1.0)]);
        assert_eq!((tree.samples(), tree.total_ns()), (100, 100 * PERIOD_NS));
    }

    /// A function that calls itself, directly or through another, is counted once in its total.
    #[test]
    fn recursion_is_told_once() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["main", "f", "f", "g", "f"], 3);
        builder.run(thread, &["main", "g", "f"], 2);
        let times = times_of(&builder.recording);
        let expected = [("f", 5, 5), ("main", 0, 5), ("g", 0, 5)];
        let mut expected = expected.map(|(name, own, total)| (name.to_owned(), own, total)).to_vec();
        expected[1..].sort();
        assert_eq!(times, expected);
    }

    /// In the view by tasks, a coroutine stands on the function that runs it, and threads without an event loop are as they are.
    #[test]
    fn tasks_start_where_the_event_loop_runs_them() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "python");
        let events = "/usr/lib/python3.11/asyncio/events.py";
        let mut offset = 0;
        let mut stack = |frames: &[(&str, &'static str, FrameKind)]| {
            frames.iter().fold(None, |parent, (name, file, kind)| {
                offset += 1;
                let frame = builder.frame(*kind, file, offset, vec![line(name, Some(file), Some(1))]);
                Some(builder.node(parent, frame))
            })
        };
        let (python, native) = (FrameKind::Python, FrameKind::Native);
        let task = stack(&[
            ("_start", "python", native),
            ("run_forever", "base_events.py", python),
            ("Handle._run", events, python),
            ("task_step", "python", native),
            ("dispatch", "server.py", FrameKind::PythonWaiting),
            ("tool", "server.py", python),
            ("sorted", "python", native),
        ]);
        let other = stack(&[("_start", "python", native), ("main", "server.py", python)]);
        builder.samples(thread, task, 3);
        builder.samples(thread, other, 1);
        let functions = Functions::folded(&builder.recording, Folding::Task);
        let tree = CallTree::new(&builder.recording, &functions, Filter::All, Grouping::None);
        let path_of = |name: &str| {
            let node = (0..tree.nodes().len()).find(|&node| tree.name(node, &functions).0 == name);
            let path = tree.path(node.expect("it was sampled"));
            path.into_iter().map(|at| functions.get(at).name.to_string()).collect::<Vec<_>>().join(" > ")
        };
        assert_eq!(path_of("sorted"), "Handle._run > dispatch > tool > sorted");
        assert_eq!(path_of("main"), "_start > main");
        assert!(functions.has_tasks());
        // It was not on the stack.
        let functions = Functions::new(&builder.recording);
        assert!(functions.all().iter().all(|function| &*function.name != "dispatch"), "{functions:?}");
        let tree = CallTree::new(&builder.recording, &functions, Filter::All, Grouping::None);
        let own: u64 = tree.nodes().iter().map(|node| node.self_samples).sum();
        assert_eq!(own, 4);
    }

    /// Samples without a stack stay visible under a name of their own.
    #[test]
    fn samples_without_a_stack_are_kept() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.samples(thread, None, 4);
        assert_eq!(times_of(&builder.recording), [("[no stack]".to_owned(), 4, 4)]);
    }

    /// Inlined functions are nodes below the function they were inlined into.
    #[test]
    fn inlined_functions_are_nodes() {
        let (tree, functions) = tree_of(&example(), Filter::All, Grouping::None);
        let helper = (0..tree.nodes().len()).find(|&node| tree.name(node, &functions).0 == "inlinedHelper");
        let helper = helper.expect("it was sampled");
        let path: Vec<_> = tree.path(helper).into_iter().map(|at| &*functions.get(at).name).collect();
        assert_eq!(path, ["_start", "main", "handleRequest", "a", "inlinedHelper"]);
        assert!(tree.nodes()[helper].inlined);
    }

    /// A filter keeps the samples of one process or thread.
    #[test]
    fn filters() {
        let samples = |filter| tree_of(&example(), filter, Grouping::None).0.samples();
        assert_eq!(samples(Filter::All), 500);
        assert_eq!(samples(Filter::Process(0)), 490);
        assert_eq!(samples(Filter::Process(1)), 10);
        assert_eq!(samples(Filter::Thread(1)), 40);
        assert_eq!(samples(Filter::Thread(99)), 0);
    }

    /// Groups stand above functions, and the biggest comes first.
    #[test]
    fn grouping_by_process_and_thread() {
        let (tree, functions) = tree_of(&example(), Filter::All, Grouping::ProcessAndThread);
        let names = |node| -> Vec<_> {
            tree.children(node).iter().map(|child| tree.name(*child, &functions).0).collect()
        };
        assert_eq!(names(ROOT), ["node", "git"]);
        assert_eq!(names(tree.children(ROOT)[0]), ["node", "libuv-worker"]);
    }

    /// Stacks as deep as the profiler takes, and far deeper, need no deep call stack.
    #[test]
    fn deep_stacks() {
        for depth in [512, 100_000] {
            let recording = deep(depth);
            let (tree, functions) = tree_of(&recording, Filter::All, Grouping::ProcessAndThread);
            assert_eq!(tree.nodes().len(), depth + 3);
            let times = tree.functions(&functions);
            assert_eq!((times.len(), times[0].total_ns), (1, PERIOD_NS));
        }
    }

    /// Indices that lead nowhere do not panic, and lose no time.
    #[test]
    fn foreign_indices_are_harmless() {
        let mut builder = Builder::new();
        let frame = builder.frame(FrameKind::Native, "/bin/x", 1, Vec::new());
        let stack = builder.node(Some(7), frame);
        let lost = builder.node(None, 99);
        for stack in [Some(stack), Some(lost), Some(1_000), None] {
            builder.sample(42, stack, u64::MAX / 2, StackEnd::ChainEnd);
        }
        for grouping in [Grouping::None, Grouping::ProcessAndThread] {
            let (tree, functions) = tree_of(&builder.recording, Filter::All, grouping);
            assert_eq!((tree.samples(), tree.total_ns()), (4, u64::MAX));
            assert_eq!(tree.functions(&functions).len(), 2);
        }
    }

    proptest! {
        /// Leaving out event loops loses no time.
        #[test]
        fn tasks_conserve_time(recording in recordings()) {
            let functions = Functions::folded(&recording, Folding::Task);
            let tree = CallTree::new(&recording, &functions, Filter::All, Grouping::None);
            prop_assert_eq!(tree.total_ns(), CallTree::new(&recording, &Functions::new(&recording), Filter::All, Grouping::None).total_ns());
        }

        /// Folding by package loses no time, and no package stands directly below itself.
        #[test]
        fn folding_conserves_time(recording in recordings()) {
            let functions = Functions::folded(&recording, Folding::Package);
            let tree = CallTree::new(&recording, &functions, Filter::All, Grouping::None);
            let expected: u64 = recording.samples.iter().map(|sample| sample.weight_ns).sum();
            prop_assert_eq!(tree.total_ns(), expected);
            for node in tree.nodes().iter().filter(|node| node.parent.is_some_and(|parent| parent != ROOT)) {
                prop_assert_ne!(&node.key, &tree.nodes()[node.parent.unwrap()].key);
            }
        }

        /// No time is lost or told twice: root, self times and each node's parts add up.
        #[test]
        fn sums_are_conserved(recording in recordings()) {
            let weight: u64 = recording.samples.iter().map(|sample| sample.weight_ns).sum();
            for grouping in [Grouping::None, Grouping::ProcessAndThread] {
                let (tree, functions) = tree_of(&recording, Filter::All, grouping);
                prop_assert_eq!(tree.total_ns(), weight);
                prop_assert_eq!(tree.samples(), recording.samples.len() as u64);
                for (index, node) in tree.nodes().iter().enumerate() {
                    let below: u64 = tree.children(index).iter().map(|child| tree.nodes()[*child].total_ns).sum();
                    prop_assert_eq!(node.total_ns, node.self_ns + below);
                }
                let times = tree.functions(&functions);
                prop_assert_eq!(times.iter().map(|time| time.self_ns).sum::<u64>(), weight);
                prop_assert!(times.iter().all(|time| time.self_ns <= time.total_ns && time.total_ns <= weight));
            }
        }

        /// Processes share nothing: their trees add up to the whole.
        #[test]
        fn filters_partition(recording in recordings()) {
            let total = |filter| tree_of(&recording, filter, Grouping::None).0.total_ns();
            prop_assert_eq!(total(Filter::Process(0)) + total(Filter::Process(1)), total(Filter::All));
        }
    }

    /// What the interpreter does between two functions in Python is left out by package, and at the end of a stack it stays.
    #[test]
    fn interpreters_stand_between() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "python3");
        let python = |builder: &mut Builder, file: &'static str, at: u64| {
            builder.frame(FrameKind::Python, "[python]", at, vec![line("f", Some(file), Some(1))])
        };
        let (a, b) = (
            python(&mut builder, "/v/lib/python3.11/site-packages/a/x.py", 1),
            python(&mut builder, "/v/lib/python3.11/site-packages/b/x.py", 2),
        );
        let c =
            builder.frame(FrameKind::Native, "/usr/bin/python3.11", 3, vec![line("PyIter_Send", None, None)]);
        for frames in [vec![c, a, c, a], vec![c, a, c, c, b, c], vec![c, b]] {
            let stack = frames.into_iter().fold(None, |parent, frame| Some(builder.node(parent, frame)));
            builder.samples(thread, stack, 1);
        }
        let functions = Functions::folded(&builder.recording, Folding::Package);
        let tree = CallTree::new(&builder.recording, &functions, Filter::All, Grouping::None);
        let mut paths: Vec<String> = (0..tree.nodes().len())
            .filter(|node| tree.nodes()[*node].self_samples > 0)
            .map(|node| {
                tree.path(node)
                    .iter()
                    .map(|at| functions.get(*at).name.to_string())
                    .collect::<Vec<_>>()
                    .join(">")
            })
            .collect();
        paths.sort();
        let (a, b) = ("site-packages/a", "site-packages/b");
        assert_eq!(
            paths,
            [format!("python3.11>{a}"), format!("python3.11>{a}>{b}>python3.11"), format!("python3.11>{b}")]
        );
    }
}
