//! The watched processes at every moment, rebuilt from events in the order of their timestamps, and written down.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use profiler_common::{SampleEvent, StackEnd, V8Frame};

use super::asking::{Answer, Asked};
use super::code::Code;
use super::event::{Event, UserFrame, thread_name};
use super::gauges::Reading;
use super::mappings::{AddressSpace, Mapped, MappingEvent, NewMapping, read_maps};
use super::python::Pythons;
use super::unwinding;
use super::v8::Shown;
use super::wire::Wire;
use crate::asking::remove_perf_map;
use crate::recording::{
    Error, FrameId, FrameKind, GaugeKind, ProcessId, RowId, Runtime, StackId, ThreadId, Unwinding, Writer,
};
use crate::symbol::{ElfImage, Image, Module, ModuleId, Modules, Name, Namer, jit_names};
use crate::target::process::command_line;
use crate::target::{Process, project_folder, runtime};

/// Losses that are known here.
const CODE_REFUSED: &str = "code_tables_full";
const UNDECODABLE: &str = "undecodable_records";
const MAPPING_RECORDS_LOST: &str = "mapping_records_lost";
const MODULE_UNREADABLE: &str = "module_unreadable";
const PYTHON_LAYOUT_UNKNOWN: &str = "python_layout_unknown";
const PYTHON_NAMES_UNREADABLE: &str = "python_names_unreadable";
const JAVASCRIPT_UNREAD: &str = "javascript_unread";
const V8_UNKNOWN: &str = "v8_unknown";

/// Distinct threads of one process that are remembered; one that comes back after that is written again.
const MAX_REMEMBERED_THREADS: usize = 1 << 16;
/// Mappings of executable memory that most processes stay below.
const FEW_MAPPINGS: usize = 4096;
/// Pieces of JIT code of one process that a perf map may still come to name.
const MAX_UNNAMED_JIT: usize = 1 << 18;

/// How long the mappings of a process are not read again after that was done because a walk came to unknown code; twice as long each time.
const FIRST_READING_REST: Duration = Duration::from_millis(200);
const LONGEST_READING_REST: Duration = Duration::from_secs(30);

/// Writes events into a recording, with the names and mappings of the moment at which they happened.
pub(super) struct Timeline {
    writer: Writer,
    code: Code,
    pythons: Pythons,
    wire: Wire,
    modules: Modules,
    module_rows: HashMap<ModuleId, RowId>,
    naming: NamingBudget,
    jit_naming: NamingBudget,
    processes: HashMap<u32, ProcessState>,
    kernel_module: RowId,
    unknown_module: RowId,
    period_ns: u64,
    /// Whether runtimes may be asked for names.
    is_asking: bool,
    unnamed: Unnamed,
    /// Processes that mapped V8, or may have: the report is to say how their JavaScript is had.
    v8_mapped: Vec<u32>,
    mapping_records_lost: u64,
    undecodable: u64,
    /// Samples written.
    pub(super) samples: u64,
    /// Samples whose stack was walked to its end.
    pub(super) whole_stacks: u64,
}

struct ProcessState {
    id: ProcessId,
    first_ns: u64,
    space: AddressSpace,
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

/// Frames that have no name yet, with their addresses, by where names come from.
#[derive(Default)]
struct Unnamed {
    elf: HashMap<ModuleId, Vec<(FrameId, u64)>>,
    jit: HashMap<u32, Vec<(FrameId, u64)>>,
    kernel: Vec<(FrameId, u64)>,
}

impl Timeline {
    pub(super) fn new(
        mut writer: Writer,
        code: Code,
        pythons: Pythons,
        wire: Wire,
        period_ns: u64,
        is_asking: bool,
    ) -> Result<Self, Error> {
        let kernel_module = writer.module("[kernel]", None)?;
        let unknown_module = writer.module("[unknown]", None)?;
        Ok(Self {
            writer,
            code,
            pythons,
            wire,
            modules: Modules::default(),
            module_rows: HashMap::new(),
            naming: NamingBudget::default(),
            jit_naming: NamingBudget::default(),
            processes: HashMap::new(),
            kernel_module,
            unknown_module,
            period_ns,
            is_asking,
            unnamed: Unnamed::default(),
            v8_mapped: Vec::new(),
            mapping_records_lost: 0,
            undecodable: 0,
            samples: 0,
            whole_stacks: 0,
        })
    }

    /// Takes up a process that is already running.
    pub(super) fn adopt(&mut self, pid: u32, parent: Option<u32>, now_ns: u64) -> Result<(), Error> {
        if self.processes.contains_key(&pid) {
            return Ok(());
        }
        let program = Program::of(pid);
        let parent = parent.and_then(|parent| self.processes.get(&parent)).map(|parent| parent.id);
        let id = self.writer.process(pid, parent, &program.command, &program.runtime, now_ns)?;
        self.describe(id, &program)?;
        let state = ProcessState::new(id, now_ns, AddressSpace::default(), program);
        self.processes.insert(pid, state);
        self.code.own(pid);
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

    /// Takes up what a running process has mapped by now.
    pub(super) fn read_mappings(&mut self, pid: u32) {
        for mapping in read_maps(pid).unwrap_or_default() {
            self.map(pid, &mapping);
        }
    }

    fn map(&mut self, pid: u32, new: &NewMapping) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let module = self.modules.resolve(pid, new.file, &new.path, new.start, new.end);
        let NewMapping { start, end, file_offset, .. } = *new;
        let mapped = Mapped { start, end, file_offset, module };
        if process.space.find(start) == Some(mapped) {
            return; // told again
        }
        let change = process.space.insert(mapped);
        for gone in &change.gone {
            let module = self.modules.get(gone.module).expect("a mapping has a module");
            self.code.erase(pid, module, gone);
        }
        self.map_code(pid, &change.new);
        change.gone.iter().for_each(|gone| self.code.release(gone));
        self.drop_unmapped(pid);
    }

    /// Keeps a process that maps ever new addresses from filling our memory.
    fn drop_unmapped(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.space.len() < process.mappings_limit {
            return;
        }
        // One that has ended keeps what it had until its end is told.
        let Ok(now) = read_maps(pid) else { return };
        let gone = process.space.drop_unmapped(&now);
        process.mappings_limit = FEW_MAPPINGS.max(process.space.len() * 2);
        self.unmap(pid, &gone);
    }

    /// Tells the kernel half of what a process has mapped.
    fn map_code(&mut self, pid: u32, mapped: &[Mapped]) {
        let (mut is_news, mut has_v8) = (false, false);
        for mapped in mapped {
            let module = self.modules.get(mapped.module).expect("a mapping has a module");
            has_v8 |= module.v8().is_some();
            is_news |= self.code.map(pid, module, mapped);
            self.pythons.map(pid, module, mapped);
        }
        if let Some(process) = self.processes.get(&pid).filter(|_| is_news) {
            for mapped in process.space.iter() {
                let module = self.modules.get(mapped.module).expect("a mapping has a module");
                if let Image::Jit = module.image {
                    self.code.remap(pid, module, mapped);
                }
            }
        }
        if has_v8 {
            self.v8_mapped.push(pid);
        }
    }

    /// Says how JavaScript frames are had, in a process that runs V8.
    fn describe_v8(&mut self, pid: u32) -> Result<(), Error> {
        let Some(process) = self.processes.get(&pid) else { return Ok(()) };
        let v8 = process.space.iter().find_map(|mapped| self.modules.get(mapped.module)?.v8());
        let Some((language, advice)) = v8.map(unwinding::of_v8) else { return Ok(()) };
        self.language_unwinding(pid, language, advice)
    }

    /// Lets the kernel half walk code that was mapped just now. What an address means is decided later, in order.
    pub(super) fn announce(&mut self, mappings: &[MappingEvent]) {
        for event in mappings {
            let MappingEvent::Mapped { pid, mapping, .. } = event else { continue };
            if !self.processes.contains_key(pid) {
                continue; // its fork is not settled yet
            }
            let NewMapping { start, end, file_offset, .. } = *mapping;
            let module = self.modules.resolve(*pid, mapping.file, &mapping.path, start, end);
            let mapped = Mapped { start, end, file_offset, module };
            let module = self.modules.get(module).expect("just resolved");
            self.code.announce(*pid, module, &mapped);
        }
    }

    /// Writes a batch. Both lists are put in order by their timestamps here.
    pub(super) fn apply(
        &mut self,
        mut events: Vec<Event>,
        mut mappings: Vec<MappingEvent>,
    ) -> Result<(), Error> {
        events.sort_by_key(Event::timestamp_ns);
        mappings.sort_by_key(MappingEvent::timestamp_ns);
        self.pythons.find_layouts();
        let mut mappings = mappings.into_iter().peekable();
        for event in events {
            while let Some(mapping) =
                mappings.next_if(|mapping| mapping.timestamp_ns() <= event.timestamp_ns())
            {
                self.apply_mapping(&mapping)?;
            }
            self.apply_event(event)?;
        }
        for mapping in mappings {
            self.apply_mapping(&mapping)?;
        }
        self.read_unknown_mappings();
        for (pid, language, advice) in self.pythons.news() {
            self.language_unwinding(pid, language, advice)?;
        }
        std::mem::take(&mut self.v8_mapped).into_iter().try_for_each(|pid| self.describe_v8(pid))
    }

    /// Reads the mappings of processes in which a walk came to unknown code: `mremap` moves code without a record, as V8 does with its
    /// builtins.
    fn read_unknown_mappings(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (pid, process) in &mut self.processes {
            if process.met_unknown_code && now >= process.next_reading {
                process.met_unknown_code = false;
                process.next_reading = now + process.rest;
                process.rest = (process.rest * 2).min(LONGEST_READING_REST);
                due.push(*pid);
            }
        }
        due.into_iter().for_each(|pid| self.read_mappings(pid));
    }

    fn apply_mapping(&mut self, event: &MappingEvent) -> Result<(), Error> {
        match event {
            MappingEvent::Mapped { pid, mapping, .. } => self.map(*pid, mapping),
            MappingEvent::Exec { pid, .. } => {
                self.forget_jit(*pid)?;
                self.pythons.forget(*pid);
                if let Some(process) = self.processes.get_mut(pid) {
                    let gone = process.space.clear();
                    process.jit_module = None;
                    self.unmap(*pid, &gone);
                    self.code.v8.remove(*pid);
                }
            }
            MappingEvent::Lost { count, .. } => {
                self.mapping_records_lost += count;
                let pids: Vec<u32> = self.processes.keys().copied().collect();
                for pid in pids {
                    self.read_mappings(pid);
                }
            }
        }
        Ok(())
    }

    fn apply_event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Sample { sample, kernel, user } => self.sample(&sample, &kernel, &user),
            Event::Fork { timestamp_ns, parent, child } => self.fork(timestamp_ns, parent, child),
            Event::Exec { pid, .. } => self.exec(pid),
            Event::Wire { wire, bytes } => {
                self.wire.take(&wire, &bytes);
                Ok(())
            }
            Event::Exit { timestamp_ns, pid } => match self.processes.get(&pid) {
                Some(process) => {
                    self.writer.process_exit(process.id, timestamp_ns)?;
                    for call in self.wire.process_ended(pid, timestamp_ns) {
                        self.writer.call(process.id, &call)?;
                    }
                    self.forget_jit(pid)?;
                    self.forget(pid);
                    Ok(())
                }
                None => Ok(()),
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
        self.forget(child);
        let id =
            self.writer.process(child, Some(parent_id), &program.command, &program.runtime, timestamp_ns)?;
        self.describe(id, &program)?;
        let state = ProcessState::new(id, timestamp_ns, space, program);
        let mapped: Vec<Mapped> = state.space.iter().copied().collect();
        self.processes.insert(child, state);
        self.map_code(child, &mapped);
        self.pythons.fork(parent, child);
        self.code.own(child);
        self.look_for_runtime(child)
    }

    /// The process is gone.
    fn forget(&mut self, pid: u32) {
        self.pythons.forget(pid);
        if let Some(mut process) = self.processes.remove(&pid) {
            self.unmap(pid, &process.space.clear());
            self.code.v8.remove(pid);
        }
    }

    fn unmap(&mut self, pid: u32, gone: &[Mapped]) {
        for gone in gone {
            let module = self.modules.get(gone.module).expect("a mapping has a module");
            self.code.unmap(pid, module, gone);
        }
    }

    fn exec(&mut self, pid: u32) -> Result<(), Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        process.program = Program::of(pid);
        process.asked = None;
        let (id, program) = (process.id, process.program.clone());
        self.writer.process_program(id, &program.command, &program.runtime)?;
        self.describe(id, &program)?;
        self.v8_mapped.push(pid);
        self.look_for_runtime(pid)
    }

    fn sample(&mut self, sample: &SampleEvent, kernel: &[u64], user: &[UserFrame]) -> Result<(), Error> {
        let pid = sample.header.pid;
        if !self.processes.contains_key(&pid) {
            // Its fork event was lost.
            self.adopt(pid, None, sample.header.timestamp_ns)?;
            self.read_mappings(pid);
        }
        let stack_end = StackEnd::from_number(sample.stack_end).unwrap_or(StackEnd::NoUserStack);
        let (user, stack_end) = self.believed(pid, user, stack_end);
        let mut stack: Option<StackId> = None;
        for (depth, frame) in user.iter().enumerate().rev() {
            let is_innermost = depth == 0;
            let frame = match *frame {
                UserFrame::Native(address) if !self.is_code_of_v8(pid, address) => {
                    stack = Some(self.push_native(stack, pid, address, is_innermost)?);
                    continue;
                }
                UserFrame::Native(address) => V8Frame::Marked { frame_type: 0, address },
                UserFrame::JavaScript(frame) => frame,
                UserFrame::Python { code, instruction, fingerprint } => {
                    if let Some(frame) =
                        self.pythons.frame(&mut self.writer, pid, code, instruction, fingerprint)?
                    {
                        stack = Some(self.writer.stack(stack, frame)?);
                    }
                    continue;
                }
            };
            match self.code.v8.show(&mut self.writer, pid, sample.tid, frame, is_innermost)? {
                Shown::Frames(frames) => {
                    for frame in frames.iter() {
                        stack = Some(self.writer.stack(stack, *frame)?);
                    }
                }
                Shown::Native => {
                    if let Some(address) = frame.address() {
                        stack = Some(self.push_native(stack, pid, address, is_innermost)?);
                    }
                }
            }
        }
        for (depth, &address) in kernel.iter().enumerate().rev() {
            let address = if depth == 0 { address } else { address.wrapping_sub(1) };
            let (frame, is_new) = self.writer.frame(FrameKind::Kernel, self.kernel_module, address)?;
            if is_new {
                self.unnamed.kernel.push((frame, address));
            }
            stack = Some(self.writer.stack(stack, frame)?);
        }
        let thread = self.thread(pid, sample)?;
        self.writer.sample(sample.header.timestamp_ns, thread, stack, self.period_ns, stack_end)?;
        if stack_end == StackEnd::NoMapping
            && let Some(process) = self.processes.get_mut(&pid)
        {
            process.met_unknown_code = true;
        }
        self.samples += 1;
        self.whole_stacks += u64::from(matches!(stack_end, StackEnd::Outermost | StackEnd::ChainEnd));
        Ok(())
    }

    /// The innermost frames up to the first whose caller is a guess, since it keeps no frame pointer.
    fn believed<'frames>(
        &self,
        pid: u32,
        user: &'frames [UserFrame],
        stack_end: StackEnd,
    ) -> (&'frames [UserFrame], StackEnd) {
        let Some(process) = self.processes.get(&pid) else { return (user, stack_end) };
        let Some(asked) = &process.asked else { return (user, stack_end) };
        let is_guess = |frame: &UserFrame| match *frame {
            UserFrame::Native(address) if !asked.keeps_frame_pointer(address) => {
                let module = process.space.find(address).and_then(|mapped| self.modules.get(mapped.module));
                module.is_some_and(|module| matches!(module.image, Image::Jit))
            }
            _ => false,
        };
        match user.iter().position(is_guess) {
            Some(last) if last + 1 < user.len() || stack_end == StackEnd::Outermost => {
                (&user[..=last], StackEnd::NotAscending)
            }
            _ => (user, stack_end),
        }
    }

    fn push_native(
        &mut self,
        stack: Option<StackId>,
        pid: u32,
        address: u64,
        is_innermost: bool,
    ) -> Result<StackId, Error> {
        // A return address is behind its call; look up the call itself.
        let address = if is_innermost { address } else { address.wrapping_sub(1) };
        let frame = self.native_frame(pid, address)?;
        self.writer.stack(stack, frame)
    }

    /// Whether V8 made the code at an address.
    fn is_code_of_v8(&self, pid: u32, address: u64) -> bool {
        self.code.v8.contains(pid)
            && self.processes.get(&pid).and_then(|process| process.space.find(address)).is_some_and(
                |mapped| {
                    self.modules.get(mapped.module).is_some_and(|module| matches!(module.image, Image::Jit))
                },
            )
    }

    /// A thread ID that is used again, with another name, is another thread.
    fn thread(&mut self, pid: u32, sample: &SampleEvent) -> Result<ThreadId, Error> {
        let process = self.processes.get_mut(&pid).expect("taken up just before");
        match process.threads.get(&sample.tid) {
            Some((id, comm)) if *comm == sample.comm => Ok(*id),
            _ => {
                let id = self.writer.thread(process.id, sample.tid, &thread_name(&sample.comm))?;
                if process.threads.len() >= MAX_REMEMBERED_THREADS {
                    process.threads.clear();
                }
                process.threads.insert(sample.tid, (id, sample.comm));
                Ok(id)
            }
        }
    }

    fn native_frame(&mut self, pid: u32, address: u64) -> Result<FrameId, Error> {
        let process = self.processes.get_mut(&pid).expect("taken up before its samples");
        let Some(mapped) = process.space.find(address) else {
            return Ok(self.writer.frame(FrameKind::Native, self.unknown_module, address)?.0);
        };
        let module = self.modules.get(mapped.module).expect("a mapping has a module");
        let offset = module.address(address, mapped.start, mapped.file_offset);
        if let Image::Jit = module.image {
            let row = match process.jit_module {
                Some(row) => row,
                None => *process.jit_module.insert(self.writer.module(&module.path, None)?),
            };
            let (frame, is_new) = self.writer.frame(FrameKind::Jit, row, offset)?;
            let unnamed = self.unnamed.jit.entry(pid).or_default();
            if is_new && unnamed.len() < MAX_UNNAMED_JIT {
                unnamed.push((frame, offset));
            }
            return Ok(frame);
        }
        let row = match self.module_rows.get(&mapped.module) {
            Some(row) => *row,
            None => {
                let row = self.writer.module(&module.path, module.build_id())?;
                self.module_rows.insert(mapped.module, row);
                row
            }
        };
        let (frame, is_new) = self.writer.frame(FrameKind::Native, row, offset)?;
        if is_new && matches!(module.image, Image::Elf(_)) {
            self.unnamed.elf.entry(mapped.module).or_default().push((frame, offset));
        }
        Ok(frame)
    }

    /// Names frames that are new, when that is affordable, or in any case when it is the last time.
    pub(super) fn name(&mut self, is_last: bool) -> Result<(), Error> {
        self.name_asked(is_last)?;
        let is_named_here = |pid: &u32| {
            let asked = self.processes.get(pid).and_then(|process| process.asked.as_ref());
            !asked.is_some_and(Asked::gives_names)
        };
        let pids: Vec<u32> = self.unnamed.jit.keys().copied().filter(is_named_here).collect();
        if is_last || self.jit_naming.is_affordable() {
            let begin = Instant::now();
            pids.into_iter().try_for_each(|pid| self.name_jit(pid))?;
            self.jit_naming.spent(begin);
        }
        let is_idle = self.unnamed.elf.is_empty() && self.unnamed.kernel.is_empty();
        if is_idle || !(is_last || self.naming.is_affordable()) {
            return Ok(());
        }
        let begin = Instant::now();
        let outcome = self.name_code();
        self.naming.spent(begin);
        outcome
    }

    fn name_code(&mut self) -> Result<(), Error> {
        for (module, frames) in std::mem::take(&mut self.unnamed.elf) {
            if let Some(Module { path, image: Image::Elf(image) }) = self.modules.get(module) {
                // One at a time: two large symbol tables are not in memory together.
                let mut names = Namer::default().elf(image, &addresses(&frames));
                name_by_start(path, image, &frames, &mut names);
                write_names(&mut self.writer, &frames, &names)?;
            }
        }
        let frames = std::mem::take(&mut self.unnamed.kernel);
        if !frames.is_empty() {
            let names = Namer::default().kernel(&addresses(&frames));
            write_names(&mut self.writer, &frames, &names)?;
        }
        crate::memory::give_back();
        Ok(())
    }

    /// Asks runtimes for names, and writes those that they gave.
    fn name_asked(&mut self, is_last: bool) -> Result<(), Error> {
        let can_be_asked = self.processes.iter().filter(|(_, process)| process.asked.is_some());
        let pids: Vec<u32> = can_be_asked.map(|(pid, _)| *pid).collect();
        for pid in pids {
            self.look_for_runtime(pid)?;
            self.take_names(pid, is_last)?;
            if self.ask(pid, is_last) {
                self.take_names(pid, is_last)?;
            }
        }
        Ok(())
    }

    /// Asks a runtime for the names of what was seen since it was asked before, if it is time for that.
    fn ask(&mut self, pid: u32, is_last: bool) -> bool {
        let Some(process) = self.processes.get_mut(&pid) else { return false };
        let Some(asked) = process.asked.as_mut().filter(|asked| asked.is_due(is_last)) else { return false };
        let is_waiting = self.unnamed.jit.get(&pid).is_some_and(|frames| !frames.is_empty());
        let (true, Ok(open)) = (is_waiting, Process::open(pid)) else { return false };
        // An address may hold other code later: what is seen from now on waits for the next answer.
        process.jit_module = None;
        asked.ask(open, self.unnamed.jit.remove(&pid).unwrap_or_default());
        true
    }

    fn take_names(&mut self, pid: u32, is_last: bool) -> Result<(), Error> {
        let asked = self.processes.get_mut(&pid).and_then(|process| process.asked.as_mut());
        let Some(asked) = asked else { return Ok(()) };
        match asked.answer(is_last) {
            Some(Answer::Map { frames, existed }) => {
                if let Ok(process) = Process::open(pid) {
                    let names = jit_names(&process, &addresses(&frames));
                    if !existed {
                        remove_perf_map(&process);
                    }
                    // What has no name in it is gone: it must not be given the name of what comes to its place.
                    for (frame, address) in frames {
                        if let Some(name) = names.get(&address) {
                            self.writer.line(frame, 0, asked.function_name(name), None, None)?;
                        }
                    }
                }
                self.describe_asked(pid)
            }
            Some(Answer::None { frames }) => {
                self.unnamed.jit.entry(pid).or_default().extend(frames);
                self.describe_asked(pid)
            }
            None => Ok(()),
        }
    }

    /// JIT code that no perf map names yet is asked for again: runtimes write late.
    fn name_jit(&mut self, pid: u32) -> Result<(), Error> {
        let Some(frames) = self.unnamed.jit.get_mut(&pid).filter(|frames| !frames.is_empty()) else {
            return Ok(());
        };
        let Ok(process) = Process::open(pid) else { return Ok(()) };
        let names = jit_names(&process, &addresses(frames));
        if names.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        frames.retain(|&(frame, address)| match names.get(&address) {
            Some(name) if outcome.is_ok() => {
                outcome = self.writer.line(frame, 0, name, None, None);
                false
            }
            _ => true,
        });
        outcome?;
        let runtime = self.processes.get(&pid).map(|process| process.program.runtime.name.as_str());
        match runtime.and_then(unwinding::of_perf_map) {
            Some(language) => self.language_unwinding(pid, language, None),
            None => Ok(()),
        }
    }

    /// A perf map may be gone as soon as its process is: names what can still be named, and gives up on the rest.
    fn forget_jit(&mut self, pid: u32) -> Result<(), Error> {
        self.name_jit(pid)?;
        self.unnamed.jit.remove(&pid);
        Ok(())
    }

    /// Notes what the kernel counted for processes at a moment.
    pub(super) fn gauges(&self, now_ns: u64, readings: &[Reading]) -> Result<(), Error> {
        for reading in readings {
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

    /// Writes the calls that have ended.
    fn calls(&mut self) -> Result<(), Error> {
        for (pid, call) in self.wire.take_calls() {
            if let Some(process) = self.processes.get(&pid) {
                self.writer.call(process.id, &call)?;
            }
        }
        self.wire.counts().try_for_each(|(name, count)| self.writer.messages(name, count))?;
        Ok(())
    }

    /// Makes the batch durable, with all losses so far.
    pub(super) fn commit(&mut self, now_ns: u64, kernel_losses: &[(&'static str, u64)]) -> Result<(), Error> {
        for (cause, count) in self.losses(kernel_losses) {
            self.writer.loss(cause, count)?;
        }
        self.calls()?;
        self.writer.commit_until(now_ns)
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
            (MODULE_UNREADABLE, self.modules.unreadable()),
            (PYTHON_LAYOUT_UNKNOWN, self.pythons.unknown_layouts),
            (PYTHON_NAMES_UNREADABLE, self.pythons.unreadable_names),
            (JAVASCRIPT_UNREAD, self.code.v8.unread),
            (V8_UNKNOWN, self.code.v8.unknown_layouts),
        ];
        kernel_losses.iter().copied().chain(own)
    }

    pub(super) fn finish(mut self, now_ns: u64, reason: &str) -> Result<(), Error> {
        self.wire.finish(now_ns);
        self.calls()?;
        self.writer.finish(now_ns, reason)
    }
}

/// Reading symbol tables is paid for by the host that is profiled: it rests this many times as long as it took.
const NAMING_REST: u32 = 50;

/// When names may be looked up again. Symbol tables are not kept meanwhile.
struct NamingBudget {
    next: Instant,
}

impl Default for NamingBudget {
    fn default() -> Self {
        Self { next: Instant::now() }
    }
}

impl NamingBudget {
    fn is_affordable(&self) -> bool {
        Instant::now() >= self.next
    }

    fn spent(&mut self, begin: Instant) {
        self.next = Instant::now() + begin.elapsed() * NAMING_REST;
    }
}

fn addresses(frames: &[(FrameId, u64)]) -> Vec<u64> {
    frames.iter().map(|(_, address)| *address).collect()
}

/// Where a function has no name, all of it is at least called the same.
fn name_by_start(path: &str, image: &ElfImage, frames: &[(FrameId, u64)], names: &mut [Vec<Name>]) {
    let unnamed: Vec<usize> = (0..frames.len()).filter(|index| names[*index].is_empty()).collect();
    let addresses: Vec<u64> = unnamed.iter().map(|index| frames[*index].1).collect();
    let file = path.rsplit('/').next().unwrap_or(path);
    for (index, start) in unnamed.into_iter().zip(image.function_starts(&addresses)) {
        let name = |start| Name { function: format!("{file}+{start:#x}"), file: None, line: None };
        names[index].extend(start.map(name));
    }
}

fn write_names(writer: &mut Writer, frames: &[(FrameId, u64)], names: &[Vec<Name>]) -> Result<(), Error> {
    for ((frame, _), names) in frames.iter().zip(names) {
        for (position, name) in names.iter().enumerate() {
            writer.line(*frame, position, &name.function, name.file.as_deref(), name.line)?;
        }
    }
    Ok(())
}
