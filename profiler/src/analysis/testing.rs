//! Synthetic recordings for tests.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::recording::{
    Frame, FrameIndex, FrameKind, Gauge, GaugeKind, Line, Meta, Process, ProcessIndex, RecordedCall,
    Recording, Runtime, Sample, StackEnd, StackIndex, StackNode, Thread,
};

use crate::wire::calls::{Call, Ended, Side};

/// Weight of each sample that [`Builder`] makes: 100 samples a second.
pub(crate) const PERIOD_NS: u64 = 10_000_000;

/// Makes a recording of 10 s at 100 Hz, with one process: `node server.js`, PID 100.
pub(crate) struct Builder {
    pub(crate) recording: Recording,
    nodes: HashMap<(Option<StackIndex>, FrameIndex), StackIndex>,
    named: HashMap<String, FrameIndex>,
}

/// A line of a frame.
pub(crate) fn line(function: &str, file: Option<&str>, line: Option<u32>) -> Line {
    Line { function: function.into(), file: file.map(Arc::from), line }
}

impl Builder {
    pub(crate) fn new() -> Self {
        let meta = Meta {
            profiler_version: "0.1.0".into(),
            target_name: "everything".into(),
            started_unix_ms: 1_770_000_000_000,
            start_ns: 1_000_000_000,
            end_ns: 11_000_000_000,
            end_reason: Some("duration".into()),
            sampling_event: "cpu-clock".into(),
            frequency_hz: 100,
            kernel_release: "6.1.0-44-amd64".into(),
            cpus: 4,
            has_calls: true,
        };
        let recording = Recording { meta, ..Recording::default() };
        let mut builder = Self { recording, nodes: HashMap::new(), named: HashMap::new() };
        builder.process(100, "/usr/bin/node server.js", "node", Some("22.1.0"));
        builder
    }

    pub(crate) fn process(
        &mut self,
        pid: u32,
        command: &str,
        name: &str,
        version: Option<&str>,
    ) -> ProcessIndex {
        let runtime = Runtime { name: name.into(), version: version.map(Into::into) };
        self.recording.processes.push(Process {
            pid,
            command: command.into(),
            runtime,
            ..Process::default()
        });
        self.recording.processes.len() - 1
    }

    pub(crate) fn thread(&mut self, process: ProcessIndex, tid: u32, name: &str) -> usize {
        self.recording.threads.push(Thread { process, tid, name: name.into() });
        self.recording.threads.len() - 1
    }

    pub(crate) fn frame(
        &mut self,
        kind: FrameKind,
        module: &str,
        offset: u64,
        lines: Vec<Line>,
    ) -> FrameIndex {
        self.recording.frames.push(Frame { kind, module: module.into(), offset, lines });
        self.recording.frames.len() - 1
    }

    pub(crate) fn node(&mut self, parent: Option<StackIndex>, frame: FrameIndex) -> StackIndex {
        *self.nodes.entry((parent, frame)).or_insert_with(|| {
            self.recording.stacks.push(StackNode { parent, frame });
            self.recording.stacks.len() - 1
        })
    }

    /// The stack of these functions, outermost first. `k:name` is kernel code, `j:name` JIT code,
    /// `?library` an address without a name, and `a|b` one frame in which `b` was inlined into `a`.
    pub(crate) fn stack(&mut self, names: &[&str]) -> StackIndex {
        let mut node = None;
        for name in names {
            let frame = match self.named.get(*name) {
                Some(frame) => *frame,
                None => {
                    let frame = self.frame_named(name);
                    self.named.insert((*name).to_owned(), frame);
                    frame
                }
            };
            node = Some(self.node(node, frame));
        }
        node.expect("a stack has frames")
    }

    fn frame_named(&mut self, name: &str) -> FrameIndex {
        let offset = 0x1000 + self.recording.frames.len() as u64 * 16;
        let named = |text: &str| text.split('|').map(|function| line(function, None, None)).collect();
        match name.split_at_checked(2) {
            Some(("k:", rest)) => self.frame(FrameKind::Kernel, "[kernel]", offset, named(rest)),
            Some(("j:", rest)) => self.frame(FrameKind::Jit, "[jit]", offset, named(rest)),
            _ if name.starts_with('?') => self.frame(FrameKind::Native, &name[1..], offset, Vec::new()),
            _ => self.frame(FrameKind::Native, "/usr/bin/node", offset, named(name)),
        }
    }

    /// Adds a call of a tool that ended well.
    pub(crate) fn call(&mut self, process: ProcessIndex, tool: &str, start_ns: u64, end_ns: u64) {
        let call = call(tool, start_ns, end_ns);
        self.recording.calls.push(RecordedCall { process, call });
    }

    /// Adds a sample without a stack at a time.
    pub(crate) fn sample_at(&mut self, timestamp_ns: u64, thread: usize, weight_ns: u64) {
        let stack_end = StackEnd::NoUserStack;
        self.recording.samples.push(Sample { timestamp_ns, thread, stack: None, weight_ns, stack_end });
    }

    /// Adds `count` samples of [`PERIOD_NS`] each.
    pub(crate) fn samples(&mut self, thread: usize, stack: Option<StackIndex>, count: usize) {
        for _ in 0..count {
            self.sample(thread, stack, PERIOD_NS, StackEnd::ChainEnd);
        }
    }

    /// Adds `count` samples of the stack of these functions.
    pub(crate) fn run(&mut self, thread: usize, names: &[&str], count: usize) {
        let stack = self.stack(names);
        self.samples(thread, Some(stack), count);
    }

    pub(crate) fn sample(
        &mut self,
        thread: usize,
        stack: Option<StackIndex>,
        weight_ns: u64,
        stack_end: StackEnd,
    ) {
        let timestamp_ns = self.recording.meta.start_ns + self.recording.samples.len() as u64 * 1_000;
        self.recording.samples.push(Sample { timestamp_ns, thread, stack, weight_ns, stack_end });
    }

    pub(crate) fn cpu_gauge(&mut self, process: ProcessIndex, value: u64) {
        let timestamp_ns = self.recording.meta.start_ns + self.recording.gauges.len() as u64;
        self.recording.gauges.push(Gauge { timestamp_ns, process, kind: GaugeKind::CpuTimeNs, value });
    }
}

/// A server with two threads and a child: 3 parts in `a`, 1 part in `b`, some kernel, JIT and inlined code.
pub(crate) fn example() -> Recording {
    let mut builder = Builder::new();
    let main = builder.thread(0, 100, "node");
    let worker = builder.thread(0, 103, "libuv-worker");
    let child = builder.process(200, "/usr/bin/git status", "native", None);
    let child_thread = builder.thread(child, 200, "git");
    builder.run(main, &["_start", "main", "a"], 300);
    builder.run(main, &["_start", "main", "b"], 60);
    builder.run(main, &["_start", "main", "b", "k:entry_SYSCALL_64", "k:do_syscall_64"], 40);
    builder.run(main, &["_start", "main", "j:handleRequest", "a|inlinedHelper"], 50);
    builder.run(worker, &["clone3", "start_thread", "compress"], 40);
    builder.run(child_thread, &["_start", "?/usr/bin/git"], 10);
    builder.cpu_gauge(0, 1_000_000_000);
    builder.cpu_gauge(0, 5_950_000_000);
    builder.cpu_gauge(child, 0);
    builder.cpu_gauge(child, 110_000_000);
    builder.recording
}

/// A stack of `depth` frames of one recursive function, sampled once.
pub(crate) fn deep(depth: usize) -> Recording {
    let mut builder = Builder::new();
    let thread = builder.thread(0, 100, "node");
    let stack = builder.stack(&vec!["recurse"; depth]);
    builder.samples(thread, Some(stack), 1);
    builder.recording
}

/// Random recordings: few functions, so that stacks share prefixes and recurse; several threads in two processes.
pub(crate) fn recordings() -> impl Strategy<Value = Recording> {
    let names = prop::sample::select(vec!["a", "b", "c", "k:sys", "j:js", "a|c", "?/lib/x.so"]);
    let stack = prop::collection::vec(names, 0..12);
    prop::collection::vec((0..3_usize, stack, 1..1_000_000_000_u64), 0..60).prop_map(|samples| {
        let mut builder = Builder::new();
        let child = builder.process(200, "python3 tool.py", "python", None);
        builder.thread(0, 100, "node");
        builder.thread(0, 101, "worker");
        builder.thread(child, 200, "python3");
        for (thread, names, weight_ns) in samples {
            let stack = (!names.is_empty()).then(|| builder.stack(&names));
            builder.sample(thread, stack, weight_ns, StackEnd::ChainEnd);
        }
        builder.recording
    })
}

/// A call of a tool that ended well.
pub(crate) fn call(tool: &str, start_ns: u64, end_ns: u64) -> Call {
    Call {
        session: 0,
        caller: Side::Client,
        method: "tools/call".into(),
        name: Some(tool.into()),
        request_id: None,
        trace_parent: None,
        session_id: None,
        arguments: None,
        result: None,
        start_ns,
        request_end_ns: start_ns,
        response_ns: Some(end_ns),
        end_ns,
        request_thread: 0,
        response_thread: 0,
        request_bytes: 100,
        response_bytes: 200,
        requests: 1,
        queue_ns: None,
        input_wait_ns: 0,
        ended: Ended::Ok,
    }
}
