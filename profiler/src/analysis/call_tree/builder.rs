//! From samples to a call tree: each stack gets its node once, below that of its caller's stack.

use std::collections::HashMap;

use super::{CallTree, Grouping, Node, NodeIndex, NodeKey, ROOT, program_name};
use crate::analysis::functions::{FunctionIndex, Functions, NO_STACK};
use crate::recording::{FrameKind, Recording, Sample, StackIndex};

/// A tree that is being built.
pub(super) struct Builder<'a> {
    recording: &'a Recording,
    functions: &'a Functions,
    grouping: Grouping,
    pub(super) nodes: Vec<Node>,
    known: HashMap<(NodeIndex, NodeKey), NodeIndex>,
    /// The node below which a thread's outermost functions stand.
    groups: HashMap<usize, NodeIndex>,
    /// The node of a stack, by group.
    stacks: HashMap<(NodeIndex, StackIndex), NodeIndex>,
    /// Stacks between a sample's and the first known one: kept to be used again.
    pending: Vec<StackIndex>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(recording: &'a Recording, functions: &'a Functions, grouping: Grouping) -> Self {
        let root = new_node(None, NodeKey::Root, false);
        Self {
            recording,
            functions,
            grouping,
            nodes: vec![root],
            known: HashMap::new(),
            groups: HashMap::new(),
            stacks: HashMap::new(),
            pending: Vec::new(),
        }
    }

    pub(super) fn node_of(&mut self, sample: &Sample) -> NodeIndex {
        let group = self.group_of(sample.thread);
        let node = sample.stack.map_or(group, |stack| self.node_of_stack(group, stack));
        if node == group { self.child(group, NodeKey::Function(NO_STACK), false) } else { node }
    }

    fn group_of(&mut self, thread: usize) -> NodeIndex {
        if self.grouping == Grouping::None {
            return ROOT;
        }
        if let Some(group) = self.groups.get(&thread) {
            return *group;
        }
        let known = self.recording.threads.get(thread);
        let process = known.and_then(|thread| self.recording.processes.get(thread.process));
        let process = process.map_or("[unknown]", |process| program_name(&process.command));
        let process = self.child(ROOT, NodeKey::Process(process.into()), false);
        let name = known.map_or("[unknown]", |thread| thread.name.as_str());
        let group = self.child(process, NodeKey::Thread(name.into()), false);
        self.groups.insert(thread, group);
        group
    }

    fn node_of_stack(&mut self, group: NodeIndex, stack: StackIndex) -> NodeIndex {
        self.pending.clear();
        let mut node = group;
        let mut next = Some(stack);
        while let Some(stack) = next {
            if let Some(known) = self.stacks.get(&(group, stack)) {
                node = *known;
                break;
            }
            let Some(trie_node) = self.recording.stacks.get(stack) else { break };
            self.pending.push(stack);
            next = trie_node.parent.filter(|parent| *parent < stack);
        }
        while let Some(stack) = self.pending.pop() {
            let functions = self.functions;
            for at in functions.of_frame(self.recording.stacks[stack].frame) {
                if functions.are_packages() {
                    node = self.folded(node, at.function);
                    if self.nodes[node].key == NodeKey::Function(at.function) {
                        continue;
                    }
                }
                let key = &self.nodes[node].key;
                if functions.starts_task(at.function) {
                    node = group;
                } else if let NodeKey::Function(last) = key
                    && functions.starts_task(*last)
                    && functions.get(at.function).kind == FrameKind::Native
                {
                    continue; // how C gets from the event loop to a task
                }
                node = self.child(node, NodeKey::Function(at.function), at.inlined);
            }
            self.stacks.insert((group, stack), node);
        }
        node
    }

    /// The node below which a package stands: between two functions in Python, what the interpreter does to get from the one
    /// to the other is left out.
    fn folded(&self, node: NodeIndex, package: FunctionIndex) -> NodeIndex {
        let is = |node: NodeIndex, test: fn(&Functions, FunctionIndex) -> bool| matches!(self.nodes[node].key, NodeKey::Function(package) if test(self.functions, package));
        match self.nodes[node].parent {
            Some(caller)
                if self.functions.has_python(package)
                    && is(node, Functions::is_interpreter)
                    && is(caller, Functions::has_python) =>
            {
                caller
            }
            _ => node,
        }
    }

    fn child(&mut self, parent: NodeIndex, key: NodeKey, inlined: bool) -> NodeIndex {
        let next = self.nodes.len();
        let node = *self.known.entry((parent, key)).or_insert_with_key(|(parent, key)| {
            self.nodes.push(new_node(Some(*parent), key.clone(), inlined));
            next
        });
        self.nodes[node].inlined &= inlined;
        node
    }

    pub(super) fn finish(self) -> CallTree {
        let Self { mut nodes, functions, .. } = self;
        let mut counts = vec![0_usize; nodes.len()];
        for index in (0..nodes.len()).rev() {
            let node = &mut nodes[index];
            node.total_ns = node.total_ns.saturating_add(node.self_ns);
            node.total_samples += node.self_samples;
            let (total_ns, total_samples) = (node.total_ns, node.total_samples);
            if let Some(parent) = node.parent {
                counts[parent] += 1;
                let parent = &mut nodes[parent];
                parent.total_ns = parent.total_ns.saturating_add(total_ns);
                parent.total_samples += total_samples;
            }
        }
        let mut end = 0;
        for (node, count) in nodes.iter_mut().zip(counts) {
            node.children = end..end;
            end += count;
        }
        let mut children = vec![ROOT; end];
        for index in 1..nodes.len() {
            let parent = nodes[index].parent.unwrap_or(ROOT);
            let range = &mut nodes[parent].children;
            children[range.end] = index;
            range.end += 1;
        }
        let tree = CallTree { nodes, children: Vec::new() };
        for node in &tree.nodes {
            children[node.children.clone()].sort_by(|&a, &b| {
                let totals = tree.nodes[b].total_ns.cmp(&tree.nodes[a].total_ns);
                totals.then_with(|| tree.name(a, functions).0.cmp(tree.name(b, functions).0)).then(a.cmp(&b))
            });
        }
        CallTree { children, ..tree }
    }
}

fn new_node(parent: Option<NodeIndex>, key: NodeKey, inlined: bool) -> Node {
    Node { key, parent, inlined, self_ns: 0, total_ns: 0, self_samples: 0, total_samples: 0, children: 0..0 }
}
