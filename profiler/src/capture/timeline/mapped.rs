//! What processes have mapped: told to the kernel half, and kept for the addresses of samples.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};

use super::Timeline;
use crate::capture::mappings::{FileIdentity, FoundMapping, Mapped, MappingEvent, NewMapping, read_maps};
use crate::symbol::{Image, ModuleId};

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
            self.map(pid, &found.mapping);
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

    pub(super) fn map(&mut self, pid: u32, new: &NewMapping) {
        if !self.processes.contains_key(&pid) {
            return;
        }
        let module = self.resolve(pid, new);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let NewMapping { start, end, file_offset, .. } = *new;
        let mapped = Mapped { start, end, file_offset, module };
        if process.space.find(start) == Some(mapped) {
            self.code.told_again(module);
            return;
        }
        let change = process.space.insert(mapped);
        for gone in &change.gone {
            let module = self.modules.get(gone.module).expect("a mapping has a module");
            self.code.erase(pid, module, gone);
        }
        self.map_code(pid, &change.new, false);
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

    /// Lets the kernel half walk code that was mapped just now. What an address means is decided later, in order.
    pub(in crate::capture) fn announce(&mut self, mappings: &[MappingEvent]) {
        for event in mappings {
            let MappingEvent::Mapped { pid, mapping, .. } = event else { continue };
            if !self.processes.contains_key(pid) {
                continue; // its fork is not settled yet
            }
            let NewMapping { start, end, file_offset, .. } = *mapping;
            let module = self.resolve(*pid, mapping);
            let mapped = Mapped { start, end, file_offset, module };
            let module = self.modules.get(module).expect("just resolved");
            self.code.announce(*pid, module, &mapped);
        }
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
            let events: Vec<MappingEvent> = found.iter().map(FoundMapping::event).collect();
            self.announce(&events);
            self.found.add(found);
        }
    }

    /// What was found by reading and takes its place among these records, all of which are from before `settled_ns`.
    pub(super) fn settle_found(&mut self, records: &[MappingEvent], settled_ns: u64) -> Vec<MappingEvent> {
        for FoundMapping { pid, mapping, .. } in self.found.take_doubtful(records) {
            // It may have been announced.
            let module = self.resolve(pid, &mapping);
            self.code.told_again(module);
        }
        self.found.take_settled(settled_ns).iter().map(FoundMapping::event).collect()
    }

    fn resolve(&mut self, pid: u32, mapping: &NewMapping) -> ModuleId {
        self.modules.resolve(pid, mapping.file, &mapping.path, mapping.start, mapping.end)
    }

    pub(super) fn unmap(&mut self, pid: u32, gone: &[Mapped]) {
        for gone in gone {
            let module = self.modules.get(gone.module).expect("a mapping has a module");
            self.code.unmap(pid, module, gone);
        }
    }
}
