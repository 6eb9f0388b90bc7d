//! The functions of a recording, each told once.
//!
//! A function is its name, its module and its source file: `parse` of two libraries, or two static
//! functions of one name, stay apart. An address without a name is a function of its own, called
//! `module+0xoffset`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::package::{Origin, Projects, is_rust_name};
use crate::recording::{Frame, FrameIndex, FrameKind, Recording};

/// Index of a [`Function`] in [`Functions`].
pub type FunctionIndex = usize;

/// Stands for the stack of a sample in which not one frame was found.
pub const NO_STACK: FunctionIndex = 0;

/// A function, as views show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Demangled name, or `module+0xoffset`.
    pub name: Arc<str>,
    /// Path of the file it comes from, or `[kernel]`, `[vdso]`, `[jit]`, `[unknown]`.
    pub module: Arc<str>,
    /// Source file, when known.
    pub file: Option<Arc<str>>,
    /// The line of it that holds the most time, when known.
    pub line: Option<u32>,
    /// What sort of code it is.
    pub kind: FrameKind,
    /// It was only ever seen inlined into another function.
    pub inlined: bool,
    /// The package that it belongs to: `node_modules/@scope/x`, `site-packages/y`, `python3.11 stdlib`, a crate, a Go module,
    /// `libc.so.6`, a file of the project.
    pub package: Arc<str>,
    /// Its source file, or else its module, as people read it: from the package's name on, within the project, or the last two parts.
    pub place: Arc<str>,
}

/// What stands for one frame of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Folding {
    /// A function.
    #[default]
    Function,
    /// All functions of a package that call each other: the package.
    Package,
    /// A function, and what an event loop runs starts where the loop runs it: its own callers are left out, and tasks that wait for
    /// a task stand below it.
    Task,
}

/// A function at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFunction {
    /// The function.
    pub function: FunctionIndex,
    /// The line of it at this address, when known.
    pub line: Option<u32>,
    /// It was inlined into the function before it.
    pub inlined: bool,
}

/// The functions of a recording, and which of them each frame stands for.
#[derive(Clone, Debug)]
pub struct Functions {
    functions: Vec<Function>,
    frames: Vec<Vec<FrameFunction>>,
    folding: Folding,
    /// Packages in which some function is in Python.
    in_python: HashSet<FunctionIndex>,
    has_waiting_tasks: bool,
}

impl Functions {
    /// Tells the functions of a recording apart.
    pub fn new(recording: &Recording) -> Self {
        Self::unfolded(recording, Folding::Function)
    }

    fn unfolded(recording: &Recording, folding: Folding) -> Self {
        let mut interner = Interner::default();
        let no_stack = Identity { name: "[no stack]".into(), module: "[unknown]".into(), file: None };
        interner.intern(no_stack, FrameKind::Native, None, false);
        let is_waiting = |frame: &Frame| frame.kind == FrameKind::PythonWaiting;
        let frame = |frame: &Frame| match folding {
            Folding::Function | Folding::Package if is_waiting(frame) => Vec::new(),
            _ => interner.frame(frame),
        };
        let frames: Vec<_> = recording.frames.iter().map(frame).collect();
        let has_waiting_tasks = recording.frames.iter().any(is_waiting);
        let mut functions = interner.functions;
        for (function, line) in most_sampled_lines(recording, &frames) {
            functions[function].line = Some(line);
        }
        find_packages(&mut functions, &Projects::new(recording));
        Self { functions, frames, folding, has_waiting_tasks, in_python: HashSet::new() }
    }

    /// What the frames of a recording stand for: its functions, or their packages.
    pub fn folded(recording: &Recording, folding: Folding) -> Self {
        let functions = Self::unfolded(recording, folding);
        if folding == Folding::Package { functions.by_package() } else { functions }
    }

    /// With a package in the place of each function.
    fn by_package(self) -> Self {
        let mut packages: Vec<Function> = vec![self.functions[NO_STACK].clone()];
        let mut known: HashMap<Arc<str>, FunctionIndex> = HashMap::new();
        let mut in_python = HashSet::new();
        let package_of = |(index, function): (usize, &Function)| {
            if index == NO_STACK {
                return NO_STACK;
            }
            let package = *known.entry(Arc::clone(&function.package)).or_insert_with_key(|package| {
                packages.push(Function {
                    name: Arc::clone(package),
                    module: Arc::clone(package),
                    file: None,
                    line: None,
                    kind: FrameKind::Native,
                    inlined: false,
                    package: Arc::clone(package),
                    place: Arc::clone(package),
                });
                packages.len() - 1
            });
            if function.kind == FrameKind::Python {
                in_python.insert(package);
            }
            package
        };
        let of_function: Vec<FunctionIndex> = self.functions.iter().enumerate().map(package_of).collect();
        let frames = self.frames.into_iter().map(|functions| {
            let mut packages: Vec<FrameFunction> = functions
                .into_iter()
                .map(|at| FrameFunction { function: of_function[at.function], line: None, inlined: false })
                .collect();
            packages.dedup();
            packages
        });
        Self { frames: frames.collect(), functions: packages, in_python, ..self }
    }

    /// Whether packages stand in the place of functions: then a frame below one of the same package is the same frame.
    pub(crate) fn are_packages(&self) -> bool {
        self.folding == Folding::Package
    }

    /// Whether a package is what CPython itself is made of: between two functions in Python, that is how the one calls the other.
    pub(crate) fn is_interpreter(&self, package: FunctionIndex) -> bool {
        self.are_packages() && is_python_program(&self.get(package).name)
    }

    /// Whether some function of a package is in Python.
    pub(crate) fn has_python(&self, package: FunctionIndex) -> bool {
        self.in_python.contains(&package)
    }

    /// Whether stacks start with this function, where one has it: in the view by tasks, the function of asyncio that runs what is due
    /// (`Lib/asyncio/events.py` of CPython), or that of uvloop (`uvloop/cbhandles.pyx`). Until 3.10 its class is not told.
    pub(crate) fn starts_task(&self, function: FunctionIndex) -> bool {
        let is_handle = |function: &Function| {
            matches!(&*function.name, "Handle._run" | "_run")
                && function.kind == FrameKind::Python
                && function.file.as_ref().is_some_and(|file| file.ends_with("/asyncio/events.py"))
        };
        self.folding == Folding::Task && (is_handle(self.get(function)) || self.is_uvloop(function))
    }

    fn is_uvloop(&self, function: FunctionIndex) -> bool {
        &*self.get(function).name == "__pyx_f_6uvloop_4loop_6Handle__run"
    }

    /// Whether tasks ran under uvloop, and of none it could be told who waits for it.
    pub fn has_only_tasks_of_uvloop(&self) -> bool {
        !self.has_waiting_tasks && (0..self.functions.len()).any(|function| self.is_uvloop(function))
    }

    /// Whether a view by tasks is another one than a view by functions.
    pub fn has_tasks(&self) -> bool {
        self.has_waiting_tasks || (0..self.functions.len()).any(|function| self.starts_task(function))
    }

    /// All functions. Index 0 is [`NO_STACK`].
    pub fn all(&self) -> &[Function] {
        &self.functions
    }

    /// A function; [`NO_STACK`] for an index that is not one of these functions'.
    pub fn get(&self, function: FunctionIndex) -> &Function {
        self.functions.get(function).unwrap_or(&self.functions[NO_STACK])
    }

    /// The functions at the address of a frame, outermost first: one, or more where calls were inlined.
    /// Empty for tasks that wait, unless the view is by tasks, and for an index that is not one of the recording's.
    pub fn of_frame(&self, frame: FrameIndex) -> &[FrameFunction] {
        self.frames.get(frame).map_or(&[], Vec::as_slice)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    name: Arc<str>,
    module: Arc<str>,
    file: Option<Arc<str>>,
}

#[derive(Default)]
struct Interner {
    functions: Vec<Function>,
    known: HashMap<Identity, FunctionIndex>,
}

impl Interner {
    fn frame(&mut self, frame: &Frame) -> Vec<FrameFunction> {
        let kind = if frame.kind == FrameKind::PythonWaiting { FrameKind::Python } else { frame.kind };
        if frame.lines.is_empty() {
            let name = format!("{}+{:#x}", basename(&frame.module), frame.offset).into();
            let identity = Identity { name, module: frame.module.clone(), file: None };
            return vec![self.intern(identity, kind, None, false)];
        }
        let lines = frame.lines.iter().enumerate().map(|(depth, line)| {
            // A script is what its functions come from, also when they were inlined into another one's.
            let script = line.file.as_ref().filter(|_| frame.kind == FrameKind::JavaScript);
            let identity = Identity {
                name: line.function.clone(),
                module: script.unwrap_or(&frame.module).clone(),
                file: line.file.clone(),
            };
            self.intern(identity, kind, line.line, depth > 0)
        });
        lines.collect()
    }

    fn intern(
        &mut self,
        identity: Identity,
        kind: FrameKind,
        line: Option<u32>,
        inlined: bool,
    ) -> FrameFunction {
        let function = *self.known.entry(identity).or_insert_with_key(|identity| {
            let Identity { name, module, file } = identity.clone();
            // Told apart from each other first: their packages depend on what else is in their modules.
            let (package, place) = (Arc::clone(&module), Arc::clone(&module));
            self.functions.push(Function { name, module, file, line, kind, inlined, package, place });
            self.functions.len() - 1
        });
        self.functions[function].inlined &= inlined;
        FrameFunction { function, line, inlined }
    }
}

fn find_packages(functions: &mut [Function], projects: &Projects) {
    let rust_modules: HashSet<Arc<str>> = functions
        .iter()
        .filter(|function| function.kind == FrameKind::Native && is_rust_name(&function.name))
        .map(|function| Arc::clone(&function.module))
        .collect();
    for function in functions {
        let origin = Origin {
            kind: function.kind,
            name: &function.name,
            module: &function.module,
            file: function.file.as_deref(),
            is_rust: rust_modules.contains(&function.module),
        };
        function.package = projects.package(origin).into();
        function.place = projects.short(function.file.as_deref().unwrap_or(&function.module)).into();
    }
}

/// `python3.11`, `libpython3.11.so.1.0`: the file of CPython's own machine code.
fn is_python_program(package: &str) -> bool {
    let rest = package.strip_prefix("lib").unwrap_or(package).strip_prefix("python");
    rest.is_some_and(|rest| {
        let version = rest.split(".so").next().unwrap_or(rest);
        version.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b't' | b'd'))
    })
}

/// The last part of a path.
pub(crate) fn basename(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// For each function with sampled lines: the line through which the most time went; of equal ones the first.
fn most_sampled_lines(recording: &Recording, frames: &[Vec<FrameFunction>]) -> HashMap<FunctionIndex, u32> {
    let mut weights: HashMap<(FunctionIndex, u32), u64> = HashMap::new();
    for (frame, weight) in frame_weights(recording).into_iter().enumerate() {
        for at in frames.get(frame).into_iter().flatten() {
            if let (Some(line), true) = (at.line, weight > 0) {
                let sum = weights.entry((at.function, line)).or_default();
                *sum = sum.saturating_add(weight);
            }
        }
    }
    let mut best: HashMap<FunctionIndex, (u64, u32)> = HashMap::new();
    for ((function, line), weight) in weights {
        let leader = best.entry(function).or_insert((weight, line));
        if weight > leader.0 || (weight == leader.0 && line < leader.1) {
            *leader = (weight, line);
        }
    }
    best.into_iter().map(|(function, (_, line))| (function, line)).collect()
}

/// Time of the samples that hold each frame, in nanoseconds. Linear, as a parent precedes its children in the trie.
fn frame_weights(recording: &Recording) -> Vec<u64> {
    let mut nodes = vec![0_u64; recording.stacks.len()];
    for sample in &recording.samples {
        if let Some(weight) = sample.stack.and_then(|stack| nodes.get_mut(stack)) {
            *weight = weight.saturating_add(sample.weight_ns);
        }
    }
    let mut frames = vec![0_u64; recording.frames.len()];
    for (index, node) in recording.stacks.iter().enumerate().rev() {
        let weight = nodes[index];
        if let Some(sum) = frames.get_mut(node.frame) {
            *sum = sum.saturating_add(weight);
        }
        if let Some(parent) = node.parent.filter(|parent| *parent < index) {
            nodes[parent] = nodes[parent].saturating_add(weight);
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, line};

    /// One name in two modules is two functions; two addresses of one function are one.
    #[test]
    fn identity_is_name_module_and_file() {
        let mut builder = Builder::new();
        let first = builder.frame(FrameKind::Native, "/lib/one.so", 0x10, vec![line("parse", None, None)]);
        let again = builder.frame(FrameKind::Native, "/lib/one.so", 0x20, vec![line("parse", None, None)]);
        let other = builder.frame(FrameKind::Native, "/lib/two.so", 0x10, vec![line("parse", None, None)]);
        let file =
            builder.frame(FrameKind::Native, "/lib/two.so", 0x30, vec![line("parse", Some("p.c"), None)]);
        let functions = Functions::new(&builder.recording);
        let of = |frame| functions.of_frame(frame)[0].function;
        assert_eq!(of(first), of(again));
        assert_ne!(of(first), of(other));
        assert_ne!(of(other), of(file));
        assert_eq!(functions.all().len(), 4);
    }

    /// Addresses without a name are called by module and offset, the kernel's too.
    #[test]
    fn unnamed_addresses_show_module_and_offset() {
        let mut builder = Builder::new();
        let user = builder.frame(FrameKind::Native, "/usr/lib/libc.so.6", 0x2a1f0, Vec::new());
        let kernel = builder.frame(FrameKind::Kernel, "[kernel]", 0xffff_ffff_8100_0000, Vec::new());
        let functions = Functions::new(&builder.recording);
        let name = |frame| functions.get(functions.of_frame(frame)[0].function).name.to_string();
        assert_eq!(name(user), "libc.so.6+0x2a1f0");
        assert_eq!(name(kernel), "[kernel]+0xffffffff81000000");
    }

    /// Inlined functions follow the one they were inlined into; a function that also stands alone is not "inlined".
    #[test]
    fn inlined_functions_are_marked() {
        let mut builder = Builder::new();
        let frame = builder.frame(
            FrameKind::Native,
            "/bin/server",
            1,
            vec![line("outer", None, Some(3)), line("small", None, Some(9)), line("tiny", None, None)],
        );
        builder.frame(FrameKind::Native, "/bin/server", 2, vec![line("small", None, Some(10))]);
        let functions = Functions::new(&builder.recording);
        let at = functions.of_frame(frame);
        let marks: Vec<_> = at.iter().map(|at| (at.inlined, functions.get(at.function).inlined)).collect();
        assert_eq!(marks, [(false, false), (true, false), (true, true)]);
        assert_eq!(at[1].line, Some(9));
    }

    /// A package takes the place of its functions; a library in which only Rust was found names crates.
    #[test]
    fn packages_take_the_place_of_functions() {
        let mut builder = Builder::new();
        builder.recording.processes[0].project = Some("/app".into());
        let python = |file: &'static str| (file, vec![line("f", Some(file), Some(1))]);
        let mut offset = 0;
        let mut frame = |(module, lines), kind| {
            offset += 1;
            builder.frame(kind, module, offset, lines)
        };
        let frames = [
            frame(python("/app/tools/search.py"), FrameKind::Python),
            frame(python("/v/lib/python3.11/site-packages/mcp/a.py"), FrameKind::Python),
            frame(python("/v/lib/python3.11/site-packages/mcp/b.py"), FrameKind::Python),
            frame(("/app/fast.so", vec![line("core::fmt::write", None, None)]), FrameKind::Native),
            frame(
                ("/app/fast.so", vec![line("<regex::Regex as Clone>::clone", None, None)]),
                FrameKind::Native,
            ),
            frame(("/usr/lib/libc.so.6", Vec::new()), FrameKind::Native),
        ];
        let functions = Functions::folded(&builder.recording, Folding::Package);
        let name = |frame: FrameIndex| functions.get(functions.of_frame(frame)[0].function).name.to_string();
        let expected =
            ["tools/search.py", "site-packages/mcp", "site-packages/mcp", "core", "regex", "libc.so.6"];
        assert_eq!(frames.map(name), expected);
        assert_eq!(functions.all().len(), 6);
        let places: Vec<String> = Functions::new(&builder.recording)
            .all()
            .iter()
            .map(|function| function.place.to_string())
            .collect();
        assert!(
            places.contains(&"tools/search.py".to_owned()) && places.contains(&"lib/libc.so.6".to_owned())
        );
    }

    /// The line shown for a function is the one that most time went through.
    #[test]
    fn line_is_the_most_sampled_one() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "server");
        for (offset, number, count) in [(1, 10, 1), (2, 20, 5), (3, 30, 2)] {
            let frame = builder.frame(
                FrameKind::Native,
                "/bin/server",
                offset,
                vec![line("work", Some("w.c"), Some(number))],
            );
            let stack = builder.node(None, frame);
            builder.samples(thread, Some(stack), count);
        }
        let functions = Functions::new(&builder.recording);
        assert_eq!(functions.get(functions.of_frame(0)[0].function).line, Some(20));
    }

    /// Indices that are not the recording's give the placeholder, not a panic.
    #[test]
    fn foreign_indices_are_harmless() {
        let functions = Functions::new(&Recording::default());
        assert_eq!(&*functions.get(77).name, "[no stack]");
        assert!(functions.of_frame(77).is_empty());
    }
}
