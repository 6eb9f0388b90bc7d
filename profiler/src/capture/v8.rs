//! JavaScript frames: what the kernel half must know of processes that run V8, and the frames that its words stand for.
//! Twin of `unwind/v8.rs` there.

use std::collections::HashSet;
use std::sync::Arc;

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use hashbrown::HashMap;
use profiler_common::{V8Frame, V8Process};

use crate::recording::{Error, FrameId, FrameKind, RowId, Writer};
use crate::symbol::Name;
use crate::symbol::v8::{JavaScript, Key, Resolved};
use crate::unwind::v8::V8;

/// Where functions belong whose script is in no file.
const MODULE: &str = "[javascript]";
/// A function that could not be read.
const UNREAD: &str = "[unread JavaScript]";
/// Most frames of a process that are remembered.
const MAX_REMEMBERED: usize = 1 << 18;
/// How often a frame is tried to be named.
const MAX_ATTEMPTS: u8 = 8;

/// JavaScript frames of all processes.
pub(super) struct V8Frames {
    facts: BpfHashMap<MapData, u32, V8Process>,
    processes: HashMap<u32, ProcessFrames>,
    module: Option<RowId>,
    by_functions: HashMap<Vec<Name>, FrameId>,
    /// Frames have no address of their own: they are numbered.
    next: u64,
    /// Frames in samples that have no name, because memory could not be read.
    pub(super) unread: u64,
    /// Processes that are watched whose V8 has a layout that is not known.
    unknown: HashSet<u32>,
    /// How many there were.
    pub(super) unknown_layouts: u64,
}

struct ProcessFrames {
    javascript: JavaScript,
    known: HashMap<Key, Known>,
}

#[derive(Clone)]
enum Known {
    Frames(Arc<[FrameId]>),
    /// The machine code has a name.
    Native,
    Unread {
        frame: FrameId,
        attempts: u8,
    },
}

/// What to show for a frame of V8.
pub(super) enum Shown {
    /// These frames, outermost first.
    Frames(Arc<[FrameId]>),
    /// The machine code at its address.
    Native,
}

impl V8Frames {
    pub(super) fn new(facts: Map) -> Result<Self, MapError> {
        Ok(Self {
            facts: BpfHashMap::try_from(facts)?,
            processes: HashMap::new(),
            module: None,
            by_functions: HashMap::new(),
            next: 0,
            unread: 0,
            unknown: HashSet::new(),
            unknown_layouts: 0,
        })
    }

    /// A process has mapped V8; `base` is what the unwind rows of its file count from. Whether that is news: then what
    /// the process mapped without a file may be V8's code.
    pub(super) fn add(&mut self, pid: u32, v8: &V8, base: u64) -> bool {
        if self.processes.contains_key(&pid) {
            return false;
        }
        let (Some(layout), Some(process)) = (&v8.layout, v8.process(base)) else {
            // Its file may be mapped in parts.
            self.unknown_layouts += u64::from(self.unknown.insert(pid));
            return false;
        };
        let Ok(javascript) = JavaScript::open(pid, Arc::clone(layout)) else { return false };
        if self.facts.insert(pid, process, 0).is_err() {
            return false;
        }
        self.processes.insert(pid, ProcessFrames { javascript, known: HashMap::new() });
        true
    }

    /// Whether a process runs V8.
    pub(super) fn contains(&self, pid: u32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// A process is gone, or runs another program.
    pub(super) fn remove(&mut self, pid: u32) {
        self.unknown.remove(&pid);
        if self.processes.remove(&pid).is_some() {
            // It is there as long as the process is known here.
            let _ = self.facts.remove(&pid);
        }
    }

    /// What to show for a frame. `isolate` is its thread: each has an isolate of its own.
    pub(super) fn show(
        &mut self,
        writer: &mut Writer,
        pid: u32,
        isolate: u32,
        frame: V8Frame,
        is_innermost: bool,
    ) -> Result<Shown, Error> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(Shown::Native) };
        let key = process.javascript.key(isolate, frame, is_innermost);
        let known = process.known.get(&key).cloned();
        let attempts = match known {
            Some(Known::Frames(frames)) => return Ok(Shown::Frames(frames)),
            Some(Known::Native) => return Ok(Shown::Native),
            Some(Known::Unread { frame, attempts }) if attempts >= MAX_ATTEMPTS => {
                self.unread += 1;
                return Ok(Shown::Frames([frame].into()));
            }
            Some(Known::Unread { attempts, .. }) => attempts,
            None => 0,
        };
        let resolved = process.javascript.resolve(isolate, frame, is_innermost);
        let module = match self.module {
            Some(module) => module,
            None => *self.module.insert(writer.module(MODULE, None)?),
        };
        let new = match resolved {
            Resolved::Frames(frames) => {
                let ids = frames.into_iter().map(|names| self.frame(writer, module, names));
                Known::Frames(ids.collect::<Result<_, _>>()?)
            }
            Resolved::NoScript => Known::Native,
            Resolved::Unreadable => {
                self.unread += 1;
                let name = Name { function: UNREAD.to_owned(), file: None, line: None };
                Known::Unread { frame: self.frame(writer, module, vec![name])?, attempts: attempts + 1 }
            }
        };
        let shown = match &new {
            Known::Frames(frames) => Shown::Frames(Arc::clone(frames)),
            Known::Native => Shown::Native,
            Known::Unread { frame, .. } => Shown::Frames([*frame].into()),
        };
        if let Some(process) = self.processes.get_mut(&pid) {
            if process.known.len() >= MAX_REMEMBERED {
                process.known.clear();
            }
            process.known.insert(key, new);
        }
        Ok(shown)
    }

    /// The frame of these functions. Equal ones are one frame, wherever they are.
    fn frame(&mut self, writer: &mut Writer, module: RowId, names: Vec<Name>) -> Result<FrameId, Error> {
        if let Some(frame) = self.by_functions.get(&names) {
            return Ok(*frame);
        }
        let (frame, _) = writer.frame(FrameKind::JavaScript, module, self.next)?;
        self.next += 1;
        for (position, name) in names.iter().enumerate() {
            writer.line(frame, position, &name.function, name.file.as_deref(), name.line)?;
        }
        if self.by_functions.len() >= MAX_REMEMBERED {
            self.by_functions.clear();
        }
        self.by_functions.insert(names, frame);
        Ok(frame)
    }
}
