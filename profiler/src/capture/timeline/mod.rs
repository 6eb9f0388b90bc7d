//! The watched processes at every moment, rebuilt from events in the order of their timestamps, and written down.
//!
//! [`mapped`] keeps what each process has mapped, [`sample`] makes a stack of a sample, [`naming`] gives frames their names.

mod mapped;
mod naming;
mod sample;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use profiler_common::WireEvent;

use mapped::{FEW_MAPPINGS, FIRST_READING_REST};
use naming::{NamingBudget, Unnamed};

use super::asking::Asked;
use super::code::Code;
use super::event::Event;
use super::gauges::Reading;
use super::mappings::{AddressSpace, FoundMappings, Mapped, MappingEvent};
use super::paging::Paging;
use super::python::Pythons;
use super::records::Records;
use super::tls::Tls;
use super::told::Told;
use super::unwinding;
use super::wire::Wire;
use crate::recording::{Error, GaugeKind, ProcessId, RowId, Runtime, ThreadId, Unwinding, Writer};
use crate::symbol::{ModuleId, Modules};
use crate::target::process::{command_line, split_arguments};
use crate::target::{Process, project_folder, runtime};
use crate::wire::calls::{Call, Side};

/// Losses that are known here.
const CODE_REFUSED: &str = "code_tables_full";
const UNDECODABLE: &str = "undecodable_records";
const MAPPING_RECORDS_LOST: &str = "mapping_records_lost";
const MESSAGES_TOO_LATE: &str = "messages_too_late";
const MODULE_UNREADABLE: &str = "module_unreadable";
const PYTHON_LAYOUT_UNKNOWN: &str = "python_layout_unknown";
const PYTHON_PROCESSES_FULL: &str = "python_processes_full";
const PYTHON_NAMES_UNREADABLE: &str = "python_names_unreadable";
const JAVASCRIPT_UNREAD: &str = "javascript_unread";
const V8_UNKNOWN: &str = "v8_unknown";

/// How long a process is remembered after its last thread began to end, or its last sample: it gives up its memory meanwhile.
const ENDING_NS: u64 = 2_000_000_000;
/// Most calls in flight that are written down at each commit.
const MAX_IN_FLIGHT: usize = 4096;

/// Writes events into a recording, with the names and mappings of the moment at which they happened.
pub(super) struct Timeline {
    writer: Writer,
    code: Code,
    pythons: Pythons,
    wire: Wire,
    tls: Tls,
    modules: Modules,
    module_rows: HashMap<ModuleId, RowId>,
    code_naming: NamingBudget,
    kernel_naming: NamingBudget,
    jit_naming: NamingBudget,
    processes: HashMap<u32, ProcessState>,
    /// What the kernel half was told of the programs of processes whose forks are not settled.
    newborn: HashMap<u32, Told>,
    /// What processes run, and since when, where its start is not settled: it may be over by then.
    started: HashMap<u32, (u64, Program)>,
    /// Processes that have ended, since when.
    ending: VecDeque<(u64, u32)>,
    kernel_module: RowId,
    unknown_module: RowId,
    period_ns: u64,
    paging: Paging,
    /// Whether runtimes may be asked for names.
    is_asking: bool,
    /// Calls of these tools or methods are counted; of all, when it is empty.
    counted: Vec<String>,
    unnamed: Unnamed,
    /// Processes that mapped V8, or may have: the report is to say how their JavaScript is had.
    v8_mapped: Vec<u32>,
    /// What was read of running processes, each at its moment.
    found: FoundMappings,
    mapping_records_lost: u64,
    messages_too_late: u64,
    undecodable: u64,
    /// Samples written.
    pub(super) samples: u64,
    /// Calls of clients that ended, of those that are counted.
    pub(super) calls: u64,
}

struct ProcessState {
    id: ProcessId,
    first_ns: u64,
    space: AddressSpace,
    told: Told,
    /// When it was sampled last.
    sampled_ns: u64,
    /// Since when the kernel half knows of all code in `space`.
    newest_code_ns: u64,
    threads: HashMap<u32, (ThreadId, [u8; profiler_common::COMM_LEN])>,
    /// Where frames of this process's own JIT code belong.
    jit_module: Option<RowId>,
    program: Program,
    asked: Option<Asked>,
    /// When its mappings may be read again.
    next_reading: Instant,
    rest: Duration,
    /// A walk came to code that is not known.
    met_unknown_code: bool,
    /// From this many mappings on, the ones that are gone are looked for.
    mappings_limit: usize,
}

/// What a process runs.
#[derive(Clone, Default)]
struct Program {
    command: String,
    runtime: Runtime,
    project: Option<String>,
    unwinding: Unwinding,
}

impl Program {
    /// The program that was started with these arguments. What was read of the process may be of a later one, or nothing.
    fn started_as(self, arguments: &[u8]) -> Self {
        let command = command_line(&split_arguments(arguments));
        // Some programs write another title over their arguments.
        let is_it = self.command.starts_with(&command) || !self.runtime.name.is_empty();
        let unwinding = unwinding::of_runtime(&Runtime::default());
        if is_it { self } else { Self { command, unwinding, ..Self::default() } }
    }

    /// Empty when the process is already gone.
    fn of(pid: u32) -> Self {
        let Ok(process) = Process::open(pid) else { return Self::default() };
        let command = process.arguments().map(|arguments| command_line(&arguments)).unwrap_or_default();
        let runtime = runtime::detect(&process).unwrap_or_default();
        let unwinding = unwinding::of_runtime(&runtime);
        Self { command, runtime, project: project_folder(&process), unwinding }
    }
}

impl ProcessState {
    fn new(id: ProcessId, first_ns: u64, space: AddressSpace, program: Program) -> Self {
        Self {
            id,
            first_ns,
            told: Told::of_child(&space),
            sampled_ns: 0,
            newest_code_ns: space.iter().map(|mapped| mapped.since_ns).max().unwrap_or(0),
            space,
            threads: HashMap::new(),
            jit_module: None,
            program,
            asked: None,
            next_reading: Instant::now(),
            rest: FIRST_READING_REST,
            met_unknown_code: false,
            mappings_limit: FEW_MAPPINGS,
        }
    }
}

impl Timeline {
    pub(super) fn new(
        mut writer: Writer,
        code: Code,
        pythons: Pythons,
        (wire, tls): (Wire, Tls),
        period_ns: u64,
        is_asking: bool,
        counted: Vec<String>,
    ) -> Result<Self, Error> {
        let kernel_module = writer.module("[kernel]", None)?;
        let unknown_module = writer.module("[unknown]", None)?;
        Ok(Self {
            writer,
            code,
            pythons,
            wire,
            tls,
            modules: Modules::default(),
            module_rows: HashMap::new(),
            code_naming: NamingBudget::of_files(),
            kernel_naming: NamingBudget::of_files(),
            jit_naming: NamingBudget::of_perf_maps(),
            processes: HashMap::new(),
            newborn: HashMap::new(),
            started: HashMap::new(),
            ending: VecDeque::new(),
            kernel_module,
            unknown_module,
            period_ns,
            paging: Paging::default(),
            is_asking,
            counted,
            calls: 0,
            unnamed: Unnamed::default(),
            v8_mapped: Vec::new(),
            found: FoundMappings::default(),
            mapping_records_lost: 0,
            messages_too_late: 0,
            undecodable: 0,
            samples: 0,
        })
    }

    /// Takes up a process that is already running.
    pub(super) fn adopt(&mut self, pid: u32, parent: Option<u32>, now_ns: u64) -> Result<(), Error> {
        if self.processes.contains_key(&pid) {
            return Ok(());
        }
        self.forget_newborn(pid);
        let program = Program::of(pid);
        let parent = parent.and_then(|parent| self.processes.get(&parent)).map(|parent| parent.id);
        let id = self.writer.process(pid, parent, &program.command, &program.runtime, now_ns)?;
        self.describe(id, &program)?;
        let state = ProcessState::new(id, now_ns, AddressSpace::default(), program);
        self.processes.insert(pid, state);
        self.code.own(pid);
        if has_io_uring(pid) {
            self.wire.has_io_uring(pid);
        }
        self.look_for_runtime(pid)
    }

    /// Takes up a runtime that can be asked for names, or what has become known of it.
    fn look_for_runtime(&mut self, pid: u32) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        let Ok(open) = Process::open(pid) else { return Ok(()) };
        match &mut process.asked {
            Some(asked) => {
                if !asked.look(&open) {
                    return Ok(());
                }
            }
            asked @ None => *asked = Asked::new(&process.program.runtime.name, &open, self.is_asking),
        }
        self.describe_asked(pid)
    }

    fn describe_asked(&mut self, pid: u32) -> Result<(), Error> {
        let asked = self.processes.get(&pid).and_then(|process| process.asked.as_ref());
        let Some((language, advice)) = asked.map(Asked::unwinding) else { return Ok(()) };
        self.language_unwinding(pid, language, advice)
    }

    fn describe(&self, id: ProcessId, program: &Program) -> Result<(), Error> {
        self.writer.process_project(id, program.project.as_deref())?;
        self.writer.process_unwinding(id, &program.unwinding)
    }

    /// Says how the frames of a process's language are had, and what would make them better.
    pub(super) fn language_unwinding(
        &mut self,
        pid: u32,
        language: String,
        advice: Option<String>,
    ) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        let unwinding = &mut process.program.unwinding;
        (unwinding.language, unwinding.advice) = (Some(language), advice);
        self.writer.process_unwinding(process.id, unwinding)
    }

    /// Waits until the kernel half has the unwind tables of all that is mapped.
    pub(super) fn settle(&self) {
        self.code.settle();
    }

    /// Sampling starts.
    pub(super) fn begin(&self, now_ns: u64) -> Result<(), Error> {
        self.writer.begin(now_ns, jiff::Timestamp::now().as_millisecond())
    }

    /// Says how JavaScript frames are had, in a process that runs V8.
    fn describe_v8(&mut self, pid: u32) -> Result<(), Error> {
        let Some(process) = self.processes.get(&pid) else { return Ok(()) };
        let v8 = process.space.iter().find_map(|mapped| self.modules.get(mapped.module)?.v8());
        let Some((language, advice)) = v8.map(unwinding::of_v8) else { return Ok(()) };
        self.language_unwinding(pid, language, advice)
    }

    /// Writes a batch: all that happened until `settled_ns` and was not told before. Mappings are put in order by their timestamps
    /// here.
    pub(super) fn apply(
        &mut self,
        records: &Records,
        mut mappings: Vec<MappingEvent>,
        settled_ns: u64,
    ) -> Result<(), Error> {
        let found = self.settle_found(&mappings, settled_ns);
        mappings.extend(found);
        mappings.sort_by_key(MappingEvent::timestamp_ns);
        self.pythons.find_layouts();
        let mut mappings = mappings.into_iter().peekable();
        for (timestamp_ns, event) in records.events() {
            while let Some(mapping) = mappings.next_if(|mapping| mapping.timestamp_ns() <= timestamp_ns) {
                self.apply_mapping(&mapping)?;
            }
            match event {
                Some(event) => self.apply_event(event)?,
                None => self.count_undecodable(1),
            }
        }
        for mapping in mappings {
            self.apply_mapping(&mapping)?;
        }
        while let Some((_, pid)) =
            self.ending.pop_front_if(|(ended_ns, _)| ended_ns.saturating_add(ENDING_NS) <= settled_ns)
        {
            let sampled_ns = self.processes.get(&pid).map_or(0, |process| process.sampled_ns);
            if sampled_ns.saturating_add(ENDING_NS) <= settled_ns {
                self.forget(pid);
            } else {
                self.ending.push_back((sampled_ns, pid));
            }
        }
        self.wire.settle(settled_ns);
        self.read_unknown_mappings();
        for (pid, language, advice) in self.pythons.news() {
            self.language_unwinding(pid, language, advice)?;
        }
        std::mem::take(&mut self.v8_mapped).into_iter().try_for_each(|pid| self.describe_v8(pid))
    }

    fn apply_mapping(&mut self, event: &MappingEvent) -> Result<(), Error> {
        match event {
            MappingEvent::Mapped { pid, mapping, timestamp_ns } => self.map(*pid, *timestamp_ns, mapping),
            MappingEvent::Exec { pid, timestamp_ns } => {
                self.forget_jit(*pid)?;
                self.pythons.forget(*pid);
                self.tls.forget(*pid);
                if let Some(process) = self.processes.get_mut(pid) {
                    let (gone, untold) = (process.space.clear(), process.told.settle_exec(*timestamp_ns));
                    process.jit_module = None;
                    self.unmap(*pid, &untold, &gone);
                    self.code.v8.remove(*pid);
                }
            }
            MappingEvent::Lost { count, .. } => {
                self.mapping_records_lost += count;
                let pids: Vec<u32> = self.processes.keys().copied().collect();
                self.read_again(&pids);
            }
        }
        Ok(())
    }

    fn apply_event(&mut self, event: Event<'_>) -> Result<(), Error> {
        match event {
            Event::Sample { sample, kernel, user } => self.sample(&sample, &kernel, &user),
            Event::Fork { timestamp_ns, parent, child } => self.fork(timestamp_ns, parent, child),
            Event::Exec { pid, timestamp_ns, arguments } => self.exec(pid, timestamp_ns, arguments),
            Event::Wire { wire, bytes } => self.message(&wire, bytes),
            Event::ClientWrite(write) => {
                self.wire.client_wrote(&write);
                Ok(())
            }
            Event::Exit { timestamp_ns, pid } => match self.processes.get(&pid) {
                Some(process) => {
                    let id = process.id;
                    self.writer.process_exit(id, timestamp_ns)?;
                    let calls = self.wire.process_ended(pid, timestamp_ns);
                    self.ended_calls(id, &calls)?;
                    self.forget_jit(pid)?;
                    self.ending.push_back((timestamp_ns, pid));
                    Ok(())
                }
                None => {
                    self.forget_newborn(pid);
                    Ok(())
                }
            },
        }
    }

    /// A child starts as a copy of its parent.
    fn fork(&mut self, timestamp_ns: u64, parent: u32, child: u32) -> Result<(), Error> {
        if self.processes.get(&child).is_some_and(|known| timestamp_ns <= known.first_ns) {
            return Ok(()); // it was found running when everything started
        }
        let Some(origin) = self.processes.get(&parent) else {
            self.adopt(child, None, timestamp_ns)?;
            self.read_mappings(child);
            return Ok(());
        };
        let (parent_id, space) = (origin.id, origin.space.clone());
        let program = origin.program.clone();
        // The ID may have been one that we know, if its exit was lost.
        self.forget_known(child);
        let id =
            self.writer.process(child, Some(parent_id), &program.command, &program.runtime, timestamp_ns)?;
        self.describe(id, &program)?;
        let mut state = ProcessState::new(id, timestamp_ns, space, program);
        let mapped: Vec<Mapped> = state.space.iter().copied().collect();
        if let Some(newborn) = self.newborn.remove(&child) {
            // It runs another program by now, and has its parent's code no longer.
            state.told = newborn;
        } else {
            for mapped in &mapped {
                let module = self.modules.get(mapped.module).expect("a mapping has a module");
                self.code.tell(child, module, mapped);
            }
        }
        self.processes.insert(child, state);
        self.map_code(child, &mapped, true);
        self.pythons.fork(parent, child);
        self.code.own(child);
        self.look_for_runtime(child)
    }

    /// The process is gone.
    fn forget(&mut self, pid: u32) {
        self.forget_newborn(pid);
        self.forget_known(pid);
    }

    /// The fork of the process was never told.
    fn forget_newborn(&mut self, pid: u32) {
        self.started.remove(&pid);
        if let Some(mut told) = self.newborn.remove(&pid) {
            self.unmap(pid, &told.clear(), &[]);
        }
    }

    fn forget_known(&mut self, pid: u32) {
        self.ending.retain(|(_, ended)| *ended != pid);
        self.pythons.forget(pid);
        self.tls.forget(pid);
        if let Some(mut process) = self.processes.remove(&pid) {
            self.unmap(pid, &process.told.clear(), &process.space.clear());
            self.code.v8.remove(pid);
        }
    }

    fn exec(&mut self, pid: u32, timestamp_ns: u64, arguments: &[u8]) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        // The kernel tells of the program's name before it tells that it runs. What is newer belongs to a later start.
        let started = match self.started.get(&pid) {
            Some((started_ns, program)) if *started_ns > timestamp_ns => Some(program.clone()),
            _ => self.started.remove(&pid).map(|(_, program)| program),
        };
        process.program = started.unwrap_or_else(|| Program::of(pid)).started_as(arguments);
        process.asked = None;
        let (id, program) = (process.id, process.program.clone());
        self.writer.process_program(id, &program.command, &program.runtime)?;
        self.describe(id, &program)?;
        self.v8_mapped.push(pid);
        self.look_for_runtime(pid)
    }

    /// Notes what the kernel counted for processes at a moment.
    pub(super) fn gauges(&self, readings: &[Reading]) -> Result<(), Error> {
        for reading in readings {
            let now_ns = reading.timestamp_ns;
            let Some(process) = self.processes.get(&reading.pid) else { continue };
            if let Some(cpu_time_ns) = reading.cpu_time_ns {
                self.writer.gauge(process.id, GaugeKind::CpuTimeNs, now_ns, cpu_time_ns)?;
            }
            if let Some(rss_bytes) = reading.rss_bytes {
                self.writer.gauge(process.id, GaugeKind::RssBytes, now_ns, rss_bytes)?;
            }
        }
        Ok(())
    }

    /// Counts records that are not of the form that this program knows.
    pub(super) fn count_undecodable(&mut self, count: u64) {
        self.undecodable += count;
    }

    fn message(&mut self, wire: &WireEvent, bytes: &[u8]) -> Result<(), Error> {
        let pid = wire.header.pid;
        let mut id = self.processes.get(&pid).map(|process| process.id);
        if id.is_none() {
            // Its fork event was lost, or it has ended.
            if Process::open(pid).is_err() {
                self.messages_too_late += 1;
                return Ok(());
            }
            self.adopt(pid, None, wire.header.timestamp_ns)?;
            self.read_mappings(pid);
            id = self.processes.get(&pid).map(|process| process.id);
        }
        self.wire.take(wire, bytes);
        match (id, self.wire.take_many_calls(pid)) {
            (Some(id), calls) if !calls.is_empty() => self.ended_calls(id, &calls),
            _ => Ok(()),
        }
    }

    /// Writes the calls that have ended.
    pub(super) fn write_calls(&mut self) -> Result<(), Error> {
        for (pid, calls) in self.wire.take_calls() {
            if let Some(id) = self.processes.get(&pid).map(|process| process.id) {
                self.ended_calls(id, &calls)?;
            }
        }
        Ok(())
    }

    fn ended_calls(&mut self, process: ProcessId, calls: &[Call]) -> Result<(), Error> {
        let is_counted = |call: &&Call| {
            call.caller == Side::Client && (self.counted.is_empty() || call.is_of(&self.counted))
        };
        self.calls += calls.iter().filter(is_counted).count() as u64;
        self.writer.calls(calls.iter().map(|call| (process, call)))
    }

    /// Writes which calls have not ended, and what else was seen of messages.
    fn write_open_calls(&mut self) -> Result<(), Error> {
        let open = self.wire.open_calls();
        let open = open.filter_map(|(pid, call)| Some((self.processes.get(&pid)?.id, call)));
        self.writer.in_flight(open.take(MAX_IN_FLIGHT))?;
        let tls = [("tls_unattached", self.tls.unattached())];
        self.wire.counts().chain(tls).try_for_each(|(name, count)| self.writer.messages(name, count))
    }

    /// Makes the batch durable, with all losses so far.
    pub(super) fn commit(&mut self, now_ns: u64, kernel_losses: &[(&'static str, u64)]) -> Result<(), Error> {
        for (cause, count) in self.losses(kernel_losses) {
            self.writer.loss(cause, count)?;
        }
        self.paging.forget();
        self.code.give_up_unused(Instant::now());
        self.write_calls()?;
        self.write_open_calls()?;
        for (pid, id) in self.tls.ripe() {
            if let Some(module) = self.modules.get(id).filter(|_| self.processes.contains_key(&pid)) {
                self.tls.map(pid, id, module, false);
            }
        }
        self.writer.commit_until(now_ns)
    }

    /// Leaves out of the recording what is over since before this moment.
    pub(super) fn forget_before(&mut self, before_ns: u64) -> Result<(), Error> {
        self.writer.forget_before(before_ns)?;
        // Their rows may be gone.
        self.processes.values_mut().for_each(|process| process.threads.clear());
        Ok(())
    }

    /// All losses so far.
    pub(super) fn losses<'all>(
        &self,
        kernel_losses: &'all [(&'static str, u64)],
    ) -> impl Iterator<Item = (&'static str, u64)> + use<'all> {
        let own = [
            (UNDECODABLE, self.undecodable),
            (CODE_REFUSED, self.code.refused),
            (MAPPING_RECORDS_LOST, self.mapping_records_lost),
            (MESSAGES_TOO_LATE, self.messages_too_late),
            (MODULE_UNREADABLE, self.modules.unreadable()),
            (PYTHON_LAYOUT_UNKNOWN, self.pythons.unknown_layouts),
            (PYTHON_PROCESSES_FULL, self.pythons.without_room),
            (PYTHON_NAMES_UNREADABLE, self.pythons.unreadable_names),
            (JAVASCRIPT_UNREAD, self.code.v8.unread),
            (V8_UNKNOWN, self.code.v8.unknown_layouts),
        ];
        kernel_losses.iter().copied().chain(own)
    }

    pub(super) fn finish(mut self, now_ns: u64, reason: &str) -> Result<(), Error> {
        self.wire.finish(now_ns);
        self.write_calls()?;
        self.write_open_calls()?;
        self.writer.finish(now_ns, reason)
    }
}

/// Whether a process has an `io_uring` already: its start is not seen.
fn has_io_uring(pid: u32) -> bool {
    let held = Process::open(pid).and_then(|process| process.descriptors()).unwrap_or_default();
    held.values().any(|link| link == "anon_inode:[io_uring]")
}
