//! CPython in watched processes: tells the kernel half where its frames are, and gives them names. The user half of
//! `unwind/python.rs` there.

use std::sync::Arc;

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use hashbrown::HashMap;
use profiler_common::{MAX_PYTHON_PROCESSES, PythonLayout};

use super::event::PythonFrame;
use super::mappings::Mapped;
use crate::recording::{Error, FrameId, FrameKind, RowId, Writer};
use crate::symbol::{Image, Module, PythonFunction, read_function};
use crate::target::TargetMemory;
use crate::unwind::{AsyncioOffsets, Layout, PythonImage, Refusal};

/// Where functions without a name are.
const MODULE_WITHOUT_NAME: &str = "[python]";
/// Functions of one family of processes that are remembered.
const MAX_FUNCTIONS_OF_FAMILY: usize = 1 << 16;
/// Distinct functions, and files, that are remembered: those that come back behind that are written again.
const MAX_FUNCTIONS: usize = 1 << 18;

/// All watched processes that have a CPython, and its functions.
pub(super) struct Pythons {
    layouts: BpfHashMap<MapData, u32, PythonLayout>,
    processes: HashMap<u32, Python>,
    /// Of processes that have loaded an `_asyncio` that tells them.
    asyncio: HashMap<u32, AsyncioOffsets>,
    families: HashMap<u32, Family>,
    next_family: u32,
    functions: Vec<Arc<PythonFunction>>,
    known: HashMap<Arc<PythonFunction>, u32>,
    files: HashMap<String, RowId>,
    /// Processes whose frames were found, or given up, since that was last asked for.
    decided: Vec<u32>,
    /// Processes whose CPython is none that we know.
    pub(super) unknown_layouts: u64,
    /// Processes that found no room among those whose functions are read.
    pub(super) without_room: u64,
    /// Frames whose function could not be read.
    pub(super) unreadable_names: u64,
}

/// The CPython of one process.
struct Python {
    image: Arc<PythonImage>,
    /// From an address in its file to one in the process.
    bias: u64,
    stage: Stage,
    memory: Option<TargetMemory>,
    family: u32,
}

/// A process and those that it forked, and so on. Where one has a code object, so have the others, unless its fingerprint is another.
#[derive(Default)]
struct Family {
    /// Those that live, the oldest first.
    members: Vec<u32>,
    /// Index of the function of a code object with a fingerprint; `None` for one that is not shown.
    by_code: HashMap<(u64, u32), Option<u32>>,
}

/// Relatives that are asked for what a process can't tell, since it has ended.
const MAX_RELATIVES: usize = 3;

enum Stage {
    /// The interpreter has no thread yet.
    Starting,
    Known(Box<Layout>),
    /// Its frames can't be read: it is laid out in a way that is not known.
    UnknownLayout,
    /// Its frames are not read: others have all the room that there is.
    NoRoom(Box<Layout>),
}

impl Python {
    fn memory(&mut self, pid: u32) -> Option<&TargetMemory> {
        if self.memory.is_none() {
            self.memory = TargetMemory::open(pid).ok();
        }
        self.memory.as_ref()
    }
}

impl Pythons {
    pub(super) fn new(layouts: Map) -> Result<Self, MapError> {
        Ok(Self {
            layouts: BpfHashMap::try_from(layouts)?,
            processes: HashMap::new(),
            asyncio: HashMap::new(),
            families: HashMap::new(),
            next_family: 0,
            functions: Vec::new(),
            known: HashMap::new(),
            files: HashMap::new(),
            decided: Vec::new(),
            unknown_layouts: 0,
            without_room: 0,
            unreadable_names: 0,
        })
    }

    /// A process has mapped a module's code.
    pub(super) fn map(&mut self, pid: u32, module: &Module, mapped: &Mapped) {
        let Image::Elf(elf) = &module.image else { return };
        if let Some(asyncio) = elf.asyncio
            && self.asyncio.insert(pid, asyncio) != Some(asyncio)
        {
            self.learn_tasks(pid);
        }
        let Some(image) = elf.python.as_ref() else { return };
        let bias = mapped.start.wrapping_sub(module.address(mapped.start, mapped.start, mapped.file_offset));
        if self
            .processes
            .get(&pid)
            .is_some_and(|known| known.bias == bias && Arc::ptr_eq(&known.image, image))
        {
            return;
        }
        self.forget_interpreter(pid);
        let family = self.next_family;
        self.next_family = family.wrapping_add(1);
        self.families.entry(family).or_default().members.push(pid);
        let python = Python { image: Arc::clone(image), bias, stage: Stage::Starting, memory: None, family };
        self.processes.insert(pid, python);
        self.find_layout(pid);
    }

    /// Asks the interpreters that had not started.
    pub(super) fn find_layouts(&mut self) {
        let starting = |python: &Python| matches!(python.stage, Stage::Starting);
        let pids: Vec<u32> =
            self.processes.iter().filter(|(_, python)| starting(python)).map(|(pid, _)| *pid).collect();
        pids.into_iter().for_each(|pid| self.find_layout(pid));
    }

    fn find_layout(&mut self, pid: u32) {
        let Some(python) = self.processes.get_mut(&pid) else { return };
        let (image, bias) = (Arc::clone(&python.image), python.bias);
        // It may have ended.
        let Some(memory) = python.memory(pid) else { return };
        let layout = image.layout(bias, memory).map(Box::new);
        let stage = self.stage(pid, layout);
        if let Some(python) = self.processes.get_mut(&pid) {
            python.stage = stage;
        }
        self.learn_tasks(pid);
    }

    /// Has the functions of a process read, if its layout is known and there is room.
    fn stage(&mut self, pid: u32, layout: Result<Box<Layout>, Refusal>) -> Stage {
        let stage = match layout {
            Ok(layout) if self.layouts.insert(pid, layout.kernel, 0).is_ok() => Stage::Known(layout),
            Ok(layout) => {
                self.without_room += 1;
                Stage::NoRoom(layout)
            }
            Err(Refusal::NotStarted) => return Stage::Starting,
            Err(Refusal::UnknownLayout) => {
                self.unknown_layouts += 1;
                Stage::UnknownLayout
            }
        };
        self.decided.push(pid);
        stage
    }

    /// The interpreter may have been known before its `_asyncio` was loaded.
    fn learn_tasks(&mut self, pid: u32) {
        let Some(asyncio) = self.asyncio.get(&pid) else { return };
        let Some(Python { stage: Stage::Known(layout), .. }) = self.processes.get_mut(&pid) else { return };
        layout.set_tasks(asyncio);
        // It takes the place of the one before, so there is room.
        let _ = self.layouts.insert(pid, layout.kernel, 0);
    }

    /// What has become known since the last time: how the functions of a process are had, and what to do if they are not.
    pub(super) fn news(&mut self) -> Vec<(u32, String, Option<String>)> {
        let news = |pid| {
            let python = self.processes.get(&pid)?;
            let version = python.image.minor.map_or(String::new(), |minor| format!(" 3.{minor}"));
            let not_shown =
                |why: String| format!("Python functions of this CPython{version} are not shown: {why}");
            Some(match python.stage {
                Stage::Known(_) | Stage::Starting => {
                    (pid, format!("CPython{version} functions, read in the kernel"), None)
                }
                Stage::UnknownLayout => {
                    let language = not_shown("it is laid out in a way that is not known".to_owned());
                    let advice =
                        "run it with a release of CPython from 3.9 to 3.14, or look for a newer mcp-profiler";
                    (pid, language, Some(advice.to_owned()))
                }
                Stage::NoRoom(_) => {
                    let why =
                        format!("those of {MAX_PYTHON_PROCESSES} processes are read at most at one time");
                    (pid, not_shown(why), Some("record a part of the processes".to_owned()))
                }
            })
        };
        std::mem::take(&mut self.decided).into_iter().filter_map(news).collect()
    }

    /// A child starts as a copy of its parent: its functions are where its parent's were.
    pub(super) fn fork(&mut self, parent: u32, child: u32) {
        self.forget(child);
        if let Some(asyncio) = self.asyncio.get(&parent) {
            self.asyncio.insert(child, *asyncio);
        }
        let Some(origin) = self.processes.get(&parent) else { return };
        let (image, bias, family) = (Arc::clone(&origin.image), origin.bias, origin.family);
        let layout = match &origin.stage {
            Stage::Known(layout) | Stage::NoRoom(layout) => Ok(layout.clone()),
            Stage::Starting => Err(Refusal::NotStarted),
            Stage::UnknownLayout => Err(Refusal::UnknownLayout),
        };
        let stage = self.stage(child, layout);
        self.families.entry(family).or_default().members.push(child);
        self.processes.insert(child, Python { image, bias, stage, memory: None, family });
    }

    /// The process is gone, or becomes another program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.asyncio.remove(&pid);
        self.forget_interpreter(pid);
    }

    fn forget_interpreter(&mut self, pid: u32) {
        let Some(python) = self.processes.remove(&pid) else { return };
        // It is not there when it was refused.
        let _ = self.layouts.remove(&pid);
        if let Some(family) = self.families.get_mut(&python.family) {
            family.members.retain(|member| *member != pid);
            if family.members.is_empty() {
                self.families.remove(&python.family);
            }
        }
    }

    /// The frame of a function at a line; `None` for one that is the interpreter's own affair.
    pub(super) fn frame(
        &mut self,
        writer: &mut Writer,
        pid: u32,
        kind: FrameKind,
        frame: PythonFrame,
    ) -> Result<Option<FrameId>, Error> {
        match self.function(pid, frame.code, frame.fingerprint) {
            Some(Some(index)) => self.named_frame(writer, kind, index, frame.instruction).map(Some),
            Some(None) => Ok(None),
            None => {
                self.unreadable_names += 1;
                let module = self.file(writer, MODULE_WITHOUT_NAME)?;
                Ok(Some(writer.frame(kind, module, place(kind, frame.code))?.0))
            }
        }
    }

    /// Index of a code object's function; `None` inside for one that is not shown, outside for one that can't be read.
    fn function(&mut self, pid: u32, code: u64, fingerprint: u32) -> Option<Option<u32>> {
        let python = self.processes.get(&pid)?;
        let family = self.families.get(&python.family)?;
        if let Some(known) = family.by_code.get(&(code, fingerprint)) {
            return Some(*known);
        }
        let Stage::Known(layout) = &python.stage else { return None };
        let (layout, family) = (layout.clone(), python.family);
        // Without a fingerprint there is no telling whether a relative has the same.
        let relatives = if fingerprint == 0 { 0 } else { MAX_RELATIVES };
        let others =
            self.families.get(&family)?.members.iter().filter(|member| **member != pid).take(relatives);
        let asked: Vec<u32> = std::iter::once(pid).chain(others.copied()).collect();
        let function = asked.into_iter().find_map(|pid| {
            read_function(self.processes.get_mut(&pid)?.memory(pid)?, &layout, code, fingerprint)
        })?;
        let index = if function.is_hidden() { None } else { Some(self.remember(function)) };
        // Without a fingerprint another one may be there the next time.
        if fingerprint != 0 {
            let by_code = &mut self.families.get_mut(&family)?.by_code;
            if by_code.len() >= MAX_FUNCTIONS_OF_FAMILY {
                by_code.clear();
            }
            by_code.insert((code, fingerprint), index);
        }
        Some(index)
    }

    fn remember(&mut self, function: PythonFunction) -> u32 {
        if self.functions.len() >= MAX_FUNCTIONS {
            self.functions.clear();
            self.known.clear();
            self.files.clear();
            self.families.values_mut().for_each(|family| family.by_code.clear());
        }
        let function = Arc::new(function);
        let next = self.functions.len() as u32;
        let index = *self.known.entry(Arc::clone(&function)).or_insert(next);
        if index == next {
            self.functions.push(function);
        }
        index
    }

    fn named_frame(
        &mut self,
        writer: &mut Writer,
        kind: FrameKind,
        index: u32,
        instruction: u32,
    ) -> Result<FrameId, Error> {
        let function = &self.functions[index as usize];
        let line = function.line(instruction);
        let module = match self.files.get(&function.file) {
            Some(row) => *row,
            None => {
                let row = writer.module(&function.file, None)?;
                self.files.insert(function.file.clone(), row);
                row
            }
        };
        // Within a file, a function and a line are one place.
        let place = place(kind, u64::from(index) << 32 | u64::from(line));
        let (frame, is_new) = writer.frame(kind, module, place)?;
        if is_new {
            writer.line(frame, 0, &function.name, Some(&function.file), Some(line))?;
        }
        Ok(frame)
    }

    fn file(&mut self, writer: &mut Writer, path: &str) -> Result<RowId, Error> {
        if let Some(row) = self.files.get(path) {
            return Ok(*row);
        }
        let row = writer.module(path, None)?;
        self.files.insert(path.to_owned(), row);
        Ok(row)
    }
}

/// Frames of the two kinds are told apart by their places too: a function may run, and wait, in the same line.
fn place(kind: FrameKind, place: u64) -> u64 {
    if kind == FrameKind::PythonWaiting { place | 1 << 62 } else { place }
}
