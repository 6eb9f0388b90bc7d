//! What processes have mapped: told to the kernel half, and kept for the addresses of samples.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};

use super::{Program, Timeline};
use crate::capture::code::Code;
use crate::capture::mappings::{
    Change, FileIdentity, FoundMapping, Mapped, MappingEvent, NewMapping, read_maps,
};
use crate::capture::told::Told;
use crate::symbol::{Image, Modules};

/// Mappings of executable memory that most processes stay below.
pub(super) const FEW_MAPPINGS: usize = 4096;
/// How long the mappings of a process are not read again after that was done because a walk came to unknown code; twice as long each time.
pub(super) const FIRST_READING_REST: Duration = Duration::from_millis(25);
const LONGEST_READING_REST: Duration = Duration::from_secs(30);

impl Timeline {
    /// Takes up what a running process has mapped by now.
    pub(in crate::capture) fn read_mappings(&mut self, pid: u32) {
        let found = FoundMapping::all_of(pid);
        for found in &found {
            self.map(pid, found.ended_ns, &found.mapping);
        }
        // Records from before are still to come, and must not have the last word.
        self.found.add(found);
    }

    /// Makes ready what a process will need as soon as it runs a program: large tables take longer than a short start-up.
    pub(in crate::capture) fn expect(&mut self, pid: u32, program: &Path) {
        let Ok(metadata) = program.metadata() else { return };
        let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        let file = FileIdentity {
            major: number(major(metadata.dev())),
            minor: number(minor(metadata.dev())),
            inode: metadata.ino(),
        };
        let id = self.modules.resolve(pid, file, &program.to_string_lossy(), 0, 0);
        if let Some(module) = self.modules.get(id) {
            self.code.expect(id, module);
        }
    }

    pub(super) fn map(&mut self, pid: u32, timestamp_ns: u64, new: &NewMapping) {
        if !self.processes.contains_key(&pid) {
            return;
        }
        let mapped = self.mapped(pid, new);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let (code, modules) = (&mut self.code, &self.modules);
        let parts =
            process.told.settle(timestamp_ns, mapped, |change| tell_change(code, modules, pid, change));
        for part in parts {
            self.settle_part(pid, part);
        }
        self.know_file(mapped, new);
        self.code.has_settled(mapped.module);
        self.drop_unmapped(pid);
    }

    /// Lets the kernel half know the code in other processes too.
    fn know_file(&mut self, mapped: Mapped, new: &NewMapping) {
        let module = self.modules.get(mapped.module).expect("a mapping has a module");
        self.code.know_file(module, &mapped, new.file);
    }

    fn settle_part(&mut self, pid: u32, part: Mapped) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.space.has(&part)) else {
            return;
        };
        process.newest_code_ns = process.newest_code_ns.max(part.since_ns);
        let change = process.space.insert(part);
        self.map_code(pid, &change.new, false);
        change.gone.iter().for_each(|gone| self.code.release(gone));
    }

    /// Keeps a process that maps ever new addresses from filling our memory.
    fn drop_unmapped(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.space.len() < process.mappings_limit {
            return;
        }
        // One that has ended keeps what it had until its end is told.
        let Ok(now) = read_maps(pid) else { return };
        let (gone, untold) = (process.space.drop_unmapped(&now), process.told.drop_unmapped(&now));
        process.mappings_limit = FEW_MAPPINGS.max(process.space.len() * 2);
        self.unmap(pid, &untold, &gone);
    }

    /// Takes up what a process has mapped.
    pub(super) fn map_code(&mut self, pid: u32, mapped: &[Mapped], is_child: bool) {
        let (mut is_news, mut has_v8) = (false, false);
        for mapped in mapped {
            let module = self.modules.get(mapped.module).expect("a mapping has a module");
            has_v8 |= module.v8().is_some();
            is_news |= self.code.map(pid, module, mapped);
            self.pythons.map(pid, module, mapped);
            self.tls.map(pid, mapped.module, module, is_child);
        }
        if let Some(process) = self.processes.get(&pid).filter(|_| is_news) {
            for mapped in process.told.iter() {
                let module = self.modules.get(mapped.module).expect("a mapping has a module");
                if let Image::Jit = module.image {
                    self.code.tell(pid, module, mapped);
                }
            }
        }
        if has_v8 {
            self.v8_mapped.push(pid);
        }
    }

    /// Lets the kernel half walk code that was mapped just now. What an address means is decided later, in order; what is from before
    /// `settled_ns` is decided.
    pub(in crate::capture) fn announce(&mut self, news: &[MappingEvent], settled_ns: u64) {
        let mut news: Vec<_> = news.iter().filter(|event| event.timestamp_ns() > settled_ns).collect();
        news.sort_by_key(|event| event.timestamp_ns());
        let mut started = Vec::new();
        for event in news {
            let Some(pid) = event.pid() else { continue };
            let timestamp_ns = event.timestamp_ns();
            if let MappingEvent::Mapped { mapping, .. } = event {
                self.tell(pid, mapping, |told, mapped, tell| told.announce(timestamp_ns, mapped, tell));
                continue;
            }
            started.push((pid, timestamp_ns));
            // Its fork may not be settled yet: many run another program at once, and not for long.
            let told = match self.processes.get_mut(&pid) {
                Some(process) => &mut process.told,
                None => self.newborn.entry(pid).or_default(),
            };
            let gone = told.announce_exec(timestamp_ns);
            self.erase(pid, &gone);
        }
        for (pid, timestamp_ns) in started {
            let program = Program::of(pid);
            if !program.command.is_empty() {
                self.started.insert(pid, (timestamp_ns, program));
            }
        }
    }

    /// Tells the kernel half of a mapping that will be settled later.
    fn tell(
        &mut self,
        pid: u32,
        mapping: &NewMapping,
        told: impl FnOnce(&mut Told, Mapped, &mut dyn FnMut(&Change)),
    ) {
        // What a child maps before it runs another program is told once its fork is settled.
        if !self.processes.contains_key(&pid) && !self.newborn.contains_key(&pid) {
            return;
        }
        let mapped = self.mapped(pid, mapping);
        let module = self.modules.get(mapped.module).expect("just resolved");
        self.code.announce(mapped.module, module);
        self.know_file(mapped, mapping);
        let known = self.processes.get_mut(&pid).map(|process| &mut process.told);
        let Some(ahead) = known.or_else(|| self.newborn.get_mut(&pid)) else { return };
        let (code, modules) = (&mut self.code, &self.modules);
        told(ahead, mapped, &mut |change| tell_change(code, modules, pid, change));
    }

    /// Reads the mappings of processes in which a walk came to unknown code: `mremap` moves code without a record, as V8 does with its
    /// builtins.
    pub(super) fn read_unknown_mappings(&mut self) {
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
        self.read_again(&due);
    }

    /// Reads what processes have mapped now. Samples from before this moment are still to come: what is read takes its place among
    /// the kernel's records.
    pub(super) fn read_again(&mut self, pids: &[u32]) {
        for pid in pids {
            let found = FoundMapping::all_of(*pid);
            for FoundMapping { mapping, begun_ns, .. } in &found {
                self.tell(*pid, mapping, |told, mapped, tell| told.find(*begun_ns, mapped, tell));
            }
            self.found.add(found);
        }
    }

    /// What was found by reading and takes its place among these records, all of which are from before `settled_ns`.
    pub(super) fn settle_found(&mut self, records: &[MappingEvent], settled_ns: u64) -> Vec<MappingEvent> {
        for FoundMapping { pid, mapping, .. } in self.found.take_doubtful(records) {
            // It may have been announced.
            let mapped = self.mapped(pid, &mapping);
            self.code.has_settled(mapped.module);
        }
        self.found.take_settled(settled_ns).iter().map(FoundMapping::event).collect()
    }

    /// With its module, and not told to the kernel half.
    fn mapped(&mut self, pid: u32, new: &NewMapping) -> Mapped {
        let NewMapping { start, end, file_offset, .. } = *new;
        let module = self.modules.resolve(pid, new.file, &new.path, start, end);
        let is_memory = self.modules.get(module).is_some_and(|module| matches!(module.image, Image::Jit));
        // The kernel's records and `/proc/PID/maps` differ in the offset of what has no file.
        let file_offset = if is_memory { start } else { file_offset };
        Mapped { start, end, file_offset, module, since_ns: 0 }
    }

    /// Takes mappings from the kernel half, and gives up what the process has no longer.
    pub(super) fn unmap(&mut self, pid: u32, untold: &[Mapped], gone: &[Mapped]) {
        self.erase(pid, untold);
        gone.iter().for_each(|gone| self.code.release(gone));
    }

    /// Takes mappings from the kernel half.
    fn erase(&mut self, pid: u32, gone: &[Mapped]) {
        for gone in gone {
            let module = self.modules.get(gone.module).expect("a mapping has a module");
            self.code.erase(pid, module, gone);
        }
    }
}

/// Tells the kernel half what a mapping changes.
fn tell_change(code: &mut Code, modules: &Modules, pid: u32, change: &Change) {
    let module = |mapped: &Mapped| modules.get(mapped.module).expect("a mapping has a module");
    change.gone.iter().for_each(|gone| code.erase(pid, module(gone), gone));
    change.new.iter().for_each(|new| code.tell(pid, module(new), new));
}
