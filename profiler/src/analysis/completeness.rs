//! How many stacks reach the start of their process or thread, and why the others do not.

use std::collections::BTreeMap;

use super::functions::Functions;
use super::ratio;
use crate::recording::{FrameKind, Recording, Sample, StackEnd, StackIndex};

/// The cause of a chain that ended before the start of its process or thread: code without frame pointers.
pub const CHAIN_ENDED_EARLY: &str = "chain_ended_early";
/// The cause of a sample in which not one frame was found.
pub const NO_FRAMES: &str = "no_frames";

/// How whole the stacks of a recording are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completeness {
    /// Number of samples.
    pub samples: u64,
    /// Those whose stack reaches the start of its process or thread.
    pub complete: u64,
    /// The others, by cause.
    pub incomplete: BTreeMap<String, u64>,
}

impl Completeness {
    /// Judges each sample of a recording.
    ///
    /// A stack is complete when its chain ended as the ABI asks (a zero frame pointer) and its outermost
    /// function is one that starts a process or a thread, or has no name and calls the one of the C library that starts a
    /// process: the `_start` of a stripped program. A thread that has no user stack is complete
    /// when its kernel stack goes back to the kernel's own start of a thread, or to its entry: it starts another program, or
    /// ends. A stack in which the interpreter stands for
    /// Python functions is not complete, wherever it starts.
    pub fn new(recording: &Recording, functions: &Functions) -> Self {
        let starts = starts_of_stacks(recording);
        let mut result = Self { samples: recording.samples.len() as u64, ..Self::default() };
        for sample in &recording.samples {
            match incomplete_cause(recording, functions, &starts, sample) {
                None => result.complete += 1,
                Some(cause) => *result.incomplete.entry(cause.to_owned()).or_default() += 1,
            }
        }
        result
    }

    /// The share of complete stacks, 0 to 1; `None` without samples.
    pub fn complete_ratio(&self) -> Option<f64> {
        (self.samples > 0).then(|| ratio(self.complete, self.samples))
    }
}

/// Where a stack starts.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// Its outermost node.
    outermost: StackIndex,
    /// The node below that, if there is one.
    next: Option<StackIndex>,
}

/// Where each stack starts.
fn starts_of_stacks(recording: &Recording) -> Vec<Start> {
    let mut starts: Vec<Start> = Vec::with_capacity(recording.stacks.len());
    for (index, node) in recording.stacks.iter().enumerate() {
        let start = match node.parent.and_then(|parent| starts.get(parent)) {
            Some(Start { outermost, next }) => {
                Start { outermost: *outermost, next: Some(next.unwrap_or(index)) }
            }
            None => Start { outermost: index, next: None },
        };
        starts.push(start);
    }
    starts
}

fn incomplete_cause(
    recording: &Recording,
    functions: &Functions,
    starts: &[Start],
    sample: &Sample,
) -> Option<&'static str> {
    let frame_of = |stack: StackIndex| recording.stacks[stack].frame;
    let function_of =
        |stack| functions.of_frame(frame_of(stack)).first().map(|at| functions.get(at.function));
    let ends = sample.stack.and_then(|stack| starts.get(stack));
    let start = ends.and_then(|ends| function_of(ends.outermost));
    // A stripped program's own `_start` has no name, but the function of the C library that it calls has.
    let is_nameless_start = || {
        ends.is_some_and(|ends| {
            let is_nameless = recording.frames[frame_of(ends.outermost)].lines.is_empty();
            let next = ends.next.and_then(function_of);
            is_nameless && next.is_some_and(|next| next.name.starts_with(LIBC_START))
        })
    };
    let is_thread_start = |name: &str| name.starts_with("ret_from_fork");
    // By a system call, or by an interrupt or a fault at which a signal ends the process.
    let is_kernel_entry =
        |name: &str| is_thread_start(name) || name.starts_with("entry_SYSCALL") || name.starts_with("asm_");
    match (sample.stack_end, start) {
        // Proved by the unwind rows of the outermost function.
        (StackEnd::Outermost, Some(_)) => None,
        (StackEnd::Outermost | StackEnd::ChainEnd, None) => Some(NO_FRAMES),
        (StackEnd::ChainEnd, Some(start))
            if start.kind == FrameKind::Kernel && is_thread_start(&start.name) =>
        {
            None
        }
        (StackEnd::NoUserStack, Some(start))
            if start.kind == FrameKind::Kernel && is_kernel_entry(&start.name) =>
        {
            None
        }
        (StackEnd::ChainEnd, Some(start)) if start.kind != FrameKind::Kernel && is_start(&start.name) => None,
        (StackEnd::ChainEnd, Some(_)) if is_nameless_start() => None,
        (StackEnd::ChainEnd, Some(_)) => Some(CHAIN_ENDED_EARLY),
        (end, _) => Some(end.name()),
    }
}

/// How the function of glibc is called that `_start` calls.
const LIBC_START: &str = "__libc_start_main";

/// Whether a process or a thread starts in this function: C libraries, the dynamic linker, Go.
fn is_start(name: &str) -> bool {
    // Debian and others add the symbol's version.
    let name = name.split('@').next().unwrap_or(name);
    const NAMES: [&str; 15] = [
        "_start",
        "_start_c",
        "_dl_start",
        "_dl_start_user",
        "__libc_start_call_main",
        "libc_start_main_stage2",
        "clone",
        "clone3",
        "__clone",
        "__clone3",
        "__clone_internal",
        "start_thread",
        "thread_start",
        "runtime.goexit",
        "runtime.goexit.abi0",
    ];
    const BEGINNINGS: [&str; 5] =
        [LIBC_START, "runtime.mstart", "runtime.rt0_go", "_rt0_amd64", "runtime.clone"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, PERIOD_NS};

    fn cause(names: &[&str], stack_end: StackEnd) -> Option<String> {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        let stack = (!names.is_empty()).then(|| builder.stack(names));
        builder.sample(thread, stack, PERIOD_NS, stack_end);
        let recording = builder.recording;
        let result = Completeness::new(&recording, &Functions::new(&recording));
        assert_eq!(result.complete + result.incomplete.values().sum::<u64>(), result.samples);
        result.incomplete.into_keys().next()
    }

    /// Starts of processes and threads in glibc, musl and Go are known, with symbol versions.
    #[test]
    fn known_starts() {
        let starts = [
            "_start",
            "__libc_start_main_impl",
            "__libc_start_main@@GLIBC_2.34",
            "__libc_start_call_main",
            "clone",
            "__clone3",
            "start_thread",
            "runtime.goexit.abi0",
            "runtime.mstart.abi0",
            "runtime.rt0_go.abi0",
            "_rt0_amd64_linux",
        ];
        for start in starts {
            assert_eq!(cause(&[start, "work", "k:sys"], StackEnd::ChainEnd), None, "{start}");
        }
    }

    /// The start of a stripped program has no name; what it calls tells it. Nothing else without a name is taken for one.
    #[test]
    fn nameless_starts() {
        let of = |names: &[&str]| cause(names, StackEnd::ChainEnd);
        assert_eq!(of(&["?/usr/bin/bun", "__libc_start_main_impl", "?/usr/bin/bun"]), None);
        assert_eq!(of(&["?/usr/bin/bun", "work"]).as_deref(), Some(CHAIN_ENDED_EARLY));
        assert_eq!(of(&["work", "__libc_start_main_impl"]).as_deref(), Some(CHAIN_ENDED_EARLY));
        let broken = cause(&["?/usr/bin/bun", "__libc_start_main_impl"], StackEnd::NotAscending);
        assert_eq!(broken.as_deref(), Some("broken_frame_pointer"));
    }

    /// A chain that ends in any other function is not whole, and neither is one that broke below a start.
    #[test]
    fn causes() {
        assert_eq!(cause(&["main", "work"], StackEnd::ChainEnd).as_deref(), Some(CHAIN_ENDED_EARLY));
        assert_eq!(cause(&["?/lib/libc.so.6"], StackEnd::ChainEnd).as_deref(), Some(CHAIN_ENDED_EARLY));
        assert_eq!(cause(&["k:do_exit"], StackEnd::ChainEnd).as_deref(), Some(CHAIN_ENDED_EARLY));
        assert_eq!(cause(&["_start"], StackEnd::TooDeep).as_deref(), Some("too_deep"));
        assert_eq!(cause(&["_start"], StackEnd::Unreadable).as_deref(), Some("unreadable_stack"));
        assert_eq!(
            cause(&["_start", "_PyEval_EvalFrameDefault"], StackEnd::PythonFramesUnreadable).as_deref(),
            Some("python_frames_unreadable")
        );
        assert_eq!(cause(&["work"], StackEnd::NotAscending).as_deref(), Some("broken_frame_pointer"));
        assert_eq!(cause(&["k:do_exit"], StackEnd::NoUserStack).as_deref(), Some("no_user_stack"));
        assert_eq!(cause(&[], StackEnd::ChainEnd).as_deref(), Some(NO_FRAMES));
        assert_eq!(cause(&[], StackEnd::NoUserStack).as_deref(), Some("no_user_stack"));
    }

    /// A thread that was just made has only a kernel stack, which is whole.
    #[test]
    fn new_threads_are_whole() {
        assert_eq!(cause(&["k:ret_from_fork_asm", "k:schedule_tail"], StackEnd::NoUserStack), None);
        let execve = ["k:entry_SYSCALL_64_after_hwframe", "k:__x64_sys_execve"];
        assert_eq!(cause(&execve, StackEnd::NoUserStack), None);
        assert_eq!(cause(&["k:asm_exc_page_fault", "k:do_exit"], StackEnd::NoUserStack), None);
        assert_eq!(cause(&execve, StackEnd::ChainEnd).as_deref(), Some(CHAIN_ENDED_EARLY));
        assert_eq!(cause(&["ret_from_fork"], StackEnd::ChainEnd).as_deref(), Some(CHAIN_ENDED_EARLY));
    }

    /// Without samples there is no ratio.
    #[test]
    fn nothing_to_judge() {
        let recording = Recording::default();
        let result = Completeness::new(&recording, &Functions::new(&recording));
        assert_eq!((result.samples, result.complete_ratio()), (0, None));
    }
}
