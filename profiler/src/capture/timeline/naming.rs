//! Names for frames that have none yet: from symbol tables, from perf maps, and from runtimes that are asked.

use std::time::Instant;

use hashbrown::HashMap;

use super::Timeline;
use crate::asking::remove_perf_map;
use crate::capture::asking::{Answer, Asked};
use crate::capture::unwinding;
use crate::recording::{Error, FrameId, Writer};
use crate::symbol::{ElfImage, Image, Module, ModuleId, Name, Namer, jit_name, jit_names, kernel_names};
use crate::target::Process;

/// Frames that have no name yet, with their addresses, by where names come from.
#[derive(Default)]
pub(super) struct Unnamed {
    pub(super) elf: HashMap<ModuleId, Vec<(FrameId, u64)>>,
    pub(super) jit: HashMap<u32, Vec<(FrameId, u64)>>,
    pub(super) kernel: Vec<(FrameId, u64)>,
}

impl Timeline {
    /// Names frames that are new, when that is affordable, or in any case when it is the last time.
    pub(in crate::capture) fn name(&mut self, is_last: bool) -> Result<(), Error> {
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
        if !self.unnamed.elf.is_empty() && (is_last || self.code_naming.is_affordable()) {
            let begin = Instant::now();
            self.name_code()?;
            self.code_naming.spent(begin);
        }
        if !self.unnamed.kernel.is_empty() && (is_last || self.kernel_naming.is_affordable()) {
            let begin = Instant::now();
            self.name_kernel()?;
            self.kernel_naming.spent(begin);
        }
        Ok(())
    }

    /// Has names looked up soon after new code was seen.
    pub(in crate::capture) fn name_soon(&mut self) {
        self.code_naming.rest = FOLLOWED_FILE_REST;
        self.kernel_naming.rest = FOLLOWED_FILE_REST;
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
        crate::memory::give_back();
        Ok(())
    }

    fn name_kernel(&mut self) -> Result<(), Error> {
        let frames = std::mem::take(&mut self.unnamed.kernel);
        let names = kernel_names(&addresses(&frames));
        write_names(&mut self.writer, &frames, &names)?;
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
            Some(text) if outcome.is_ok() => {
                let name = jit_name(text);
                outcome = self.writer.line(frame, 0, &name.function, name.file.as_deref(), name.line);
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
    pub(super) fn forget_jit(&mut self, pid: u32) -> Result<(), Error> {
        self.name_jit(pid)?;
        self.unnamed.jit.remove(&pid);
        Ok(())
    }
}

/// Reading symbol tables is paid for by the host that is profiled. Files are kept open and the kernel stays, so they can be read at any
/// time: reading rests this many times as long as it took.
const FILE_REST: u32 = 1000;
/// While somebody looks at the recording.
const FOLLOWED_FILE_REST: u32 = 50;
/// A perf map goes with its process.
const PERF_MAP_REST: u32 = 50;

/// When names may be looked up again. Symbol tables are not kept meanwhile.
pub(super) struct NamingBudget {
    rest: u32,
    next: Instant,
}

impl NamingBudget {
    /// For what is read from files.
    pub(super) fn of_files() -> Self {
        Self { rest: FILE_REST, next: Instant::now() }
    }

    /// For perf maps.
    pub(super) fn of_perf_maps() -> Self {
        Self { rest: PERF_MAP_REST, next: Instant::now() }
    }

    fn is_affordable(&self) -> bool {
        Instant::now() >= self.next
    }

    fn spent(&mut self, begin: Instant) {
        self.next = Instant::now() + begin.elapsed() * self.rest;
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
