//! The kernel half, loaded: its programs, its maps and its counters.

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, PerfEvent, RawTracePoint, UProbe};
use aya::{Ebpf, EbpfLoader};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use profiler_common::Failure;

use super::clients::{ClientProbe, Clients};
use super::code::Code;
use super::cpu::Sampling;
use super::python::Pythons;
use super::tls::{Attaching, Starter};
use super::v8::V8Frames;
use super::wire::Wire;
use super::{Error, offsets};

/// The compiled kernel object: `cargo xtask ebpf` makes it from `profiler-ebpf`.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/mcp-profiler.bpf.o");

/// The raw tracepoints that keep the target set current, and their programs.
const LIFECYCLE: [(&str, &str); 3] = [
    ("target_fork", "sched_process_fork"),
    ("target_exec", "sched_process_exec"),
    ("target_exit", "sched_process_exit"),
];
/// The program that reads the wire, and its tracepoint.
const WIRE: (&str, &str) = ("wire_exit", "sys_exit");
/// The program that sees clients write, and its tracepoint.
const CLIENTS: (&str, &str) = ("client_enter", "sys_enter");
/// The programs that read what goes through TLS libraries.
const TLS: [&str; 3] = ["tls_enter", "tls_return", "tls_free"];

/// Maps of what reads the wire.
const WIRE_MAPS: [&str; 7] =
    ["STREAMS", "CLIENTS", "CLIENT_STREAMS", "CLIENT_WRITES", "TLS_CALLS", "TLS_SCRATCH", "TLS_TAKEN"];
/// A page, the least that a ring can have.
const SMALLEST_RING_BYTES: u32 = 4096;

/// The loaded kernel half. Dropping it detaches everything.
pub(super) struct Kernel {
    ebpf: Ebpf,
    pub(super) events: RingBuf<MapData>,
    pub(super) messages: RingBuf<MapData>,
    pub(super) client_events: RingBuf<MapData>,
    targets: HashMap<MapData, u32, u32>,
    failures: PerCpuArray<MapData, u64>,
    code: Option<Code>,
    pythons: Option<Pythons>,
    wire: Option<Wire>,
    client_probe: Arc<ClientProbe>,
    has_clients: bool,
}

impl Kernel {
    /// Loads the object with a ring of `ring_bytes`, and follows the life of targets from now on.
    pub(super) fn load(ring_bytes: u32, is_reading_calls: bool) -> Result<Self, Error> {
        let offsets = offsets::read()?;
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global("KERNEL_OFFSETS", &offsets, true)
            .map_max_entries("EVENTS", ring_bytes);
        if !is_reading_calls {
            // Maps that no program writes to.
            loader.map_max_entries("MESSAGES", SMALLEST_RING_BYTES);
            loader.map_max_entries("CLIENT_EVENTS", SMALLEST_RING_BYTES);
            for name in WIRE_MAPS {
                loader.map_max_entries(name, 1);
            }
        }
        let mut ebpf = loader.load(OBJECT)?;
        #[cfg(feature = "ebpf-log")]
        let _ = aya_log::EbpfLogger::init(&mut ebpf);
        for (name, tracepoint) in LIFECYCLE {
            let program: &mut RawTracePoint = program(&mut ebpf, name)?;
            program.load()?;
            program.attach(tracepoint)?;
        }
        let events = RingBuf::try_from(take_map(&mut ebpf, "EVENTS")?)?;
        let messages = RingBuf::try_from(take_map(&mut ebpf, "MESSAGES")?)?;
        let client_events = RingBuf::try_from(take_map(&mut ebpf, "CLIENT_EVENTS")?)?;
        let targets = take_map(&mut ebpf, "TARGETS")?;
        let names = ["CODE_MAPPINGS", "CODE_FILES", "CODE_CHANGES", "UNWIND_TABLES"];
        let [mappings, files, changes, tables] = names.map(|name| take_map(&mut ebpf, name));
        let v8 = V8Frames::new(take_map(&mut ebpf, "V8_PROCESSES")?)?;
        let code = Code::new([mappings?, files?, changes?, tables?], &targets, v8)?;
        let pythons = Some(Pythons::new(take_map(&mut ebpf, "PYTHON_LAYOUTS")?)?);
        let client_probe = Arc::<ClientProbe>::default();
        let [clients, client_streams] =
            [take_map(&mut ebpf, "CLIENTS")?, take_map(&mut ebpf, "CLIENT_STREAMS")?];
        let clients = Clients::new(clients, client_streams, Arc::clone(&client_probe))?;
        let wire = Some(Wire::new(take_map(&mut ebpf, "STREAMS")?, clients)?);
        let targets = HashMap::try_from(targets)?;
        let failures = PerCpuArray::try_from(take_map(&mut ebpf, "FAILURES")?)?;
        let code = Some(code);
        Ok(Self {
            ebpf,
            events,
            messages,
            client_events,
            targets,
            failures,
            code,
            pythons,
            wire,
            client_probe,
            has_clients: false,
        })
    }

    /// The maps of code, for the thread that knows what is mapped where. They can be taken once.
    pub(super) fn take_code(&mut self) -> Result<Code, Error> {
        self.code.take().ok_or(Error::MissingInObject("CODE_MAPPINGS"))
    }

    /// The map of Python layouts, for the same thread. It can be taken once.
    pub(super) fn take_pythons(&mut self) -> Result<Pythons, Error> {
        self.pythons.take().ok_or(Error::MissingInObject("PYTHON_LAYOUTS"))
    }

    /// The streams of watched processes. They can be taken once.
    pub(super) fn take_wire(&mut self) -> Result<Wire, Error> {
        self.wire.take().ok_or(Error::MissingInObject("STREAMS"))
    }

    /// Watches a process and, from now on, what it forks.
    pub(super) fn watch(&mut self, pid: u32) -> Result<(), Error> {
        Ok(self.targets.insert(pid, pid, 0)?)
    }

    /// Watches a process no longer.
    pub(super) fn forget(&mut self, pid: u32) {
        // It may be gone already.
        let _ = self.targets.remove(&pid);
    }

    /// Whether a process is watched.
    pub(super) fn is_watched(&self, pid: u32) -> bool {
        self.targets.get(&pid, 0).is_ok()
    }

    /// Watched processes that have not ended.
    pub(super) fn watched(&self) -> Vec<u32> {
        self.targets.keys().filter_map(Result::ok).collect()
    }

    /// Has the kernel verify the sampling program, which takes its time: attaching it later does not.
    pub(super) fn load_probes(&mut self, is_reading_calls: bool) -> Result<(), Error> {
        if is_reading_calls {
            load_wire(&mut self.ebpf)?;
        }
        Ok(program::<PerfEvent>(&mut self.ebpf, "cpu_sample")?.load()?)
    }

    /// Samples every CPU, and reads the wire.
    pub(super) fn attach_probes(&mut self, sampling: &Sampling, is_reading_calls: bool) -> Result<(), Error> {
        if is_reading_calls {
            program::<BtfTracePoint>(&mut self.ebpf, WIRE.0)?.attach()?;
        }
        sampling.attach(program(&mut self.ebpf, "cpu_sample")?)
    }

    /// Sees from now on when clients write, if any is known: this costs every system call of the host a little.
    pub(super) fn see_clients(&mut self) {
        if !self.has_clients && self.client_probe.is_wanted.load(Ordering::Relaxed) {
            self.has_clients = true;
            let program = program::<BtfTracePoint>(&mut self.ebpf, CLIENTS.0);
            let is_attached = program.is_ok_and(|program| program.attach().is_ok());
            // Without it, the time that calls waited is not known.
            self.client_probe.is_refused.store(!is_attached, Ordering::Relaxed);
        }
    }

    /// Loads what attaches to TLS libraries, and starts who does it. Where this kernel, or what we may do, does not allow it,
    /// encrypted streams are counted.
    pub(super) fn start_tls(&mut self, starter: Starter) -> Result<Attaching, Error> {
        for name in TLS {
            program::<UProbe>(&mut self.ebpf, name)?.load()?;
        }
        let loaded = |name: &'static str| {
            let program = self.ebpf.program(name).and_then(|program| program.try_into().ok());
            program.ok_or(Error::MissingInObject(name))
        };
        let [enter, leave, free] = TLS;
        Ok(starter.start([loaded(enter)?, loaded(leave)?, loaded(free)?])?)
    }

    /// Ends sampling; the ring can be drained to its end afterwards.
    pub(super) fn detach(&mut self) {
        // What can't be unloaded goes with this value at the latest.
        for (name, _) in LIFECYCLE {
            if let Ok(program) = program::<RawTracePoint>(&mut self.ebpf, name) {
                let _ = program.unload();
            }
        }
        for (name, _) in [WIRE, CLIENTS] {
            if let Ok(program) = program::<BtfTracePoint>(&mut self.ebpf, name) {
                let _ = program.unload();
            }
        }
        if let Ok(program) = program::<PerfEvent>(&mut self.ebpf, "cpu_sample") {
            let _ = program.unload();
        }
        // Probes in TLS libraries go with their own thread. Until then they find nobody to look at.
        for pid in self.watched() {
            self.forget(pid);
        }
    }

    /// Losses counted by the kernel half so far.
    pub(super) fn losses(&self) -> Result<Vec<(Failure, u64)>, Error> {
        Failure::ALL
            .into_iter()
            .map(|failure| Ok((failure, self.failures.get(&(failure as u32), 0)?.iter().sum())))
            .collect()
    }
}

/// Loads every program of an object into the running kernel and drops it again.
///
/// Returns how many programs there were.
///
/// # Errors
/// [`Error`] when the kernel refuses one of them.
pub fn try_load(object: &[u8]) -> Result<usize, Error> {
    let offsets = offsets::read()?;
    let mut ebpf =
        EbpfLoader::new().btf(None).override_global("KERNEL_OFFSETS", &offsets, true).load(object)?;
    for (name, _) in LIFECYCLE {
        program::<RawTracePoint>(&mut ebpf, name)?.load()?;
    }
    load_wire(&mut ebpf)?;
    for name in TLS {
        program::<UProbe>(&mut ebpf, name)?.load()?;
    }
    program::<PerfEvent>(&mut ebpf, "cpu_sample")?.load()?;
    Ok(ebpf.programs().count())
}

fn load_wire(ebpf: &mut Ebpf) -> Result<(), Error> {
    let tracepoints = offsets::tracepoints(&[WIRE.1, CLIENTS.1])?;
    for (name, tracepoint) in [WIRE, CLIENTS] {
        program::<BtfTracePoint>(ebpf, name)?.load(tracepoint, &tracepoints)?;
    }
    Ok(())
}

fn program<'ebpf, P>(ebpf: &'ebpf mut Ebpf, name: &'static str) -> Result<&'ebpf mut P, Error>
where
    &'ebpf mut P: TryFrom<&'ebpf mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    Ok(ebpf.program_mut(name).ok_or(Error::MissingInObject(name))?.try_into()?)
}

fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, Error> {
    ebpf.take_map(name).ok_or(Error::MissingInObject(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The running kernel accepts every program (needs root).
    #[test]
    fn kernel_accepts_the_committed_object() {
        assert_eq!(try_load(OBJECT).unwrap(), LIFECYCLE.len() + TLS.len() + 3);
    }

    /// Where it can't be seen when clients write, it is said (needs root).
    #[test]
    fn refused_probes_are_told() {
        let mut kernel = Kernel::load(1 << 16, true).unwrap();
        let wire = kernel.take_wire().unwrap();
        let told = |wire: &Wire| wire.counts().find(|(name, _)| *name == "clients_unseen").unwrap().1;
        kernel.see_clients();
        assert_eq!(told(&wire), 0, "nobody wants it yet");
        kernel.client_probe.is_wanted.store(true, Ordering::Relaxed);
        // It was not verified, so it can't be attached.
        kernel.see_clients();
        assert_eq!(told(&wire), 1);
    }
}
