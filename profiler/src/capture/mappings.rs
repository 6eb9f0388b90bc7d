//! Which file is mapped where, at any moment: from `/proc/PID/maps` when a process is first seen, from then on
//! from the kernel's own `MMAP2` and `COMM` (exec) records, which carry timestamps.
//!
//! The records come for the whole host; those of processes that are not watched are dropped here. There is no
//! record for an unmapping: nothing runs there until something else is mapped, and that one replaces it.

use std::collections::BTreeMap;
use std::io;

use perf_event::data::Record;
use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};

use super::session::now_ns;

/// Room for records of one CPU between two drains.
const RING_BYTES: usize = 256 << 10;
/// `PERF_RECORD_MISC_COMM_EXEC` of `include/uapi/linux/perf_event.h`.
const MISC_COMM_EXEC: u16 = 1 << 13;
const PROT_EXEC: u32 = 4;

/// A change of the mappings of some process on this host.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum MappingEvent {
    /// The process mapped executable memory.
    Mapped { timestamp_ns: u64, pid: u32, mapping: NewMapping },
    /// The process starts another program: all its mappings are gone.
    Exec { timestamp_ns: u64, pid: u32 },
    /// The kernel dropped this many records: mappings of any process may be stale.
    Lost { timestamp_ns: u64, count: u64 },
}

impl MappingEvent {
    pub(super) fn timestamp_ns(&self) -> u64 {
        match self {
            Self::Mapped { timestamp_ns, .. }
            | Self::Exec { timestamp_ns, .. }
            | Self::Lost { timestamp_ns, .. } => *timestamp_ns,
        }
    }

    /// Whose mappings change; `None` when it is not known.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Mapped { pid, .. } | Self::Exec { pid, .. } => Some(*pid),
            Self::Lost { .. } => None,
        }
    }
}

/// Executable memory as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewMapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) file_offset: u64,
    pub(crate) file: FileIdentity,
    /// Path as the process sees it, or a label such as `[vdso]` or `//anon`.
    pub(crate) path: String,
}

impl NewMapping {
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// What tells one file from another while both exist. All zero: no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct FileIdentity {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
}

/// The kernel's records of mappings, of all CPUs.
pub(super) struct MappingRecords {
    samplers: Vec<Sampler>,
}

impl MappingRecords {
    pub(super) fn open(cpus: &[u32]) -> io::Result<Self> {
        let open = |&cpu: &u32| {
            let mut counter = Builder::new(Software::DUMMY)
                .any_pid()
                .one_cpu(cpu as usize)
                .mmap(true)
                .mmap2(true)
                .comm(true)
                .comm_exec(true)
                .sample_id_all(true)
                .sample(SampleFlag::TIME)
                .clockid(Clock::MONOTONIC)
                .build()?;
            counter.enable()?;
            counter.sampled(RING_BYTES)
        };
        Ok(Self { samplers: cpus.iter().map(open).collect::<io::Result<_>>()? })
    }

    /// All records so far, in no order. Returns how many could not be understood.
    pub(super) fn drain(&mut self, into: &mut Vec<MappingEvent>) -> u64 {
        let mut undecodable = 0;
        for sampler in &mut self.samplers {
            while let Some(record) = sampler.next_record() {
                // With `SampleFlag::TIME` alone, the trailer of each record is its timestamp.
                let bytes = record.to_contiguous();
                let Some(timestamp_ns) = bytes.last_chunk().map(|time| u64::from_ne_bytes(*time)) else {
                    undecodable += 1;
                    continue;
                };
                let is_exec = record.misc() & MISC_COMM_EXEC != 0;
                match record.parse_record() {
                    Ok(Record::Mmap2(mmap)) if mmap.prot & PROT_EXEC != 0 => {
                        into.push(MappingEvent::Mapped {
                            timestamp_ns,
                            pid: mmap.pid,
                            mapping: NewMapping {
                                start: mmap.addr,
                                end: mmap.addr.saturating_add(mmap.len),
                                file_offset: mmap.pgoff,
                                file: FileIdentity {
                                    major: mmap.maj().unwrap_or(0),
                                    minor: mmap.min().unwrap_or(0),
                                    inode: mmap.ino().unwrap_or(0),
                                },
                                path: text(&mmap.filename),
                            },
                        });
                    }
                    Ok(Record::Comm(comm)) if is_exec => {
                        into.push(MappingEvent::Exec { timestamp_ns, pid: comm.pid });
                    }
                    Ok(Record::Lost(lost)) => {
                        into.push(MappingEvent::Lost { timestamp_ns, count: lost.lost });
                    }
                    Ok(_) => {}
                    Err(_) => undecodable += 1,
                }
            }
        }
        undecodable
    }
}

fn text(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// The executable mappings of a process now.
pub(crate) fn read_maps(pid: u32) -> io::Result<Vec<NewMapping>> {
    let text = std::fs::read(format!("/proc/{pid}/maps"))?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse_maps_line).collect())
}

/// A mapping that was found by reading, and not told by the kernel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundMapping {
    pub(super) pid: u32,
    pub(super) mapping: NewMapping,
    /// When the reading began: what the kernel told of before is part of it.
    pub(super) begun_ns: u64,
    /// When it ended.
    pub(super) ended_ns: u64,
}

impl FoundMapping {
    /// What a process has mapped now.
    pub(super) fn all_of(pid: u32) -> Vec<Self> {
        let begun_ns = now_ns();
        let mappings = read_maps(pid).unwrap_or_default();
        let ended_ns = now_ns();
        mappings.into_iter().map(|mapping| Self { pid, mapping, begun_ns, ended_ns }).collect()
    }

    /// As if the kernel had told of it when the reading ended.
    pub(super) fn event(&self) -> MappingEvent {
        MappingEvent::Mapped { timestamp_ns: self.ended_ns, pid: self.pid, mapping: self.mapping.clone() }
    }

    /// Whether it may be over by the end of the reading, which can take long on a busy machine: a record from meanwhile says
    /// what came to its place, or that a program was started.
    fn is_in_doubt(&self, records: &[MappingEvent]) -> bool {
        records.iter().any(|record| {
            let is_meanwhile = (self.begun_ns..=self.ended_ns).contains(&record.timestamp_ns());
            is_meanwhile
                && match record {
                    MappingEvent::Mapped { pid, mapping, .. } => {
                        *pid == self.pid && mapping.overlaps(&self.mapping)
                    }
                    MappingEvent::Exec { pid, .. } => *pid == self.pid,
                    MappingEvent::Lost { .. } => false,
                }
        })
    }
}

/// Mappings that were found, until their turn among the kernel's records, which come later and out of order.
#[derive(Default)]
pub(super) struct FoundMappings {
    waiting: Vec<FoundMapping>,
}

impl FoundMappings {
    pub(super) fn add(&mut self, found: Vec<FoundMapping>) {
        self.waiting.extend(found);
    }

    /// Takes out what `records` leave in doubt.
    pub(super) fn take_doubtful(&mut self, records: &[MappingEvent]) -> Vec<FoundMapping> {
        self.waiting.extract_if(.., |found| found.is_in_doubt(records)).collect()
    }

    /// Takes out whatever was read until this moment, up to which all records were told.
    pub(super) fn take_settled(&mut self, settled_ns: u64) -> Vec<FoundMapping> {
        self.waiting.extract_if(.., |found| found.ended_ns <= settled_ns).collect()
    }
}

/// A line of `/proc/PID/maps`, when it is about executable memory (`proc_pid_maps(5)`).
fn parse_maps_line(line: &str) -> Option<NewMapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()?.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let file_offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    Some(NewMapping {
        start: hex(start)?,
        end: hex(end)?,
        file_offset,
        file: FileIdentity {
            major: u32::from_str_radix(major, 16).ok()?,
            minor: u32::from_str_radix(minor, 16).ok()?,
            inode,
        },
        path: fields.next().unwrap_or("").trim_start().to_owned(),
    })
}

/// The executable mappings of one process: never overlapping.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressSpace {
    by_start: BTreeMap<u64, Mapped>,
}

/// What putting a mapping in place did to an address space.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) gone: Vec<Mapped>,
    pub(super) new: Vec<Mapped>,
}

/// A mapping that is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) file_offset: u64,
    pub(super) module: crate::symbol::ModuleId,
    /// Since when the kernel half knows of it.
    pub(super) since_ns: u64,
}

impl Mapped {
    /// Whether it puts the same code at the same addresses.
    fn continues(&self, other: &Self) -> bool {
        let base = |mapped: &Self| mapped.start.wrapping_sub(mapped.file_offset);
        self.module == other.module && base(self) == base(other)
    }
}

impl AddressSpace {
    /// Empties it, and returns what was in place.
    pub(super) fn clear(&mut self) -> Vec<Mapped> {
        std::mem::take(&mut self.by_start).into_values().collect()
    }

    /// All mappings in place.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Mapped> {
        self.by_start.values()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Removes and returns what is not among the mappings of a process now. There is no record of an unmapping: a program
    /// that maps ever new addresses would fill all memory.
    pub(super) fn drop_unmapped(&mut self, now: &[NewMapping]) -> Vec<Mapped> {
        let is_mapped = |old: &Mapped| now.iter().any(|new| old.start < new.end && new.start < old.end);
        let (kept, gone) =
            std::mem::take(&mut self.by_start).into_iter().partition(|(_, old)| is_mapped(old));
        self.by_start = kept;
        let gone: BTreeMap<u64, Mapped> = gone;
        gone.into_values().collect()
    }

    /// A mapping, cut where what is in place changes. What continues code that is in place has its `since_ns`, the rest none: a
    /// runtime that makes code enlarges its mapping again and again.
    pub(super) fn parts(&self, new: &Mapped) -> Vec<(Mapped, Option<u64>)> {
        let mut parts: Vec<(Mapped, Option<u64>)> = Vec::new();
        let mut next = new.start;
        while next < new.end {
            let old = self.find(next);
            let end = match old {
                Some(old) => old.end,
                None => self.by_start.range(next..).next().map_or(u64::MAX, |(start, _)| *start),
            };
            let since_ns = old.filter(|old| old.continues(new)).map(|old| old.since_ns);
            let end = end.min(new.end);
            match parts.last_mut().filter(|(_, last_ns)| *last_ns == since_ns) {
                Some((last, _)) => last.end = end,
                None => {
                    let file_offset = new.file_offset + (next - new.start);
                    parts.push((Mapped { start: next, end, file_offset, ..*new }, since_ns));
                }
            }
            next = end;
        }
        parts
    }

    /// Whether all of a mapping is in place, and was told when it says so.
    pub(super) fn has(&self, mapped: &Mapped) -> bool {
        self.parts(mapped).iter().all(|(_, since_ns)| *since_ns == Some(mapped.since_ns))
    }

    pub(super) fn find(&self, address: u64) -> Option<Mapped> {
        let (_, mapped) = self.by_start.range(..=address).next_back()?;
        (address < mapped.end).then_some(*mapped)
    }

    /// Puts a mapping in place; what it covers of earlier ones is gone.
    pub(super) fn insert(&mut self, new: Mapped) -> Change {
        let mut change = Change::default();
        if new.start >= new.end {
            return change;
        }
        let first = self.by_start.range(..new.start).next_back().filter(|(_, old)| old.end > new.start);
        let covered: Vec<Mapped> =
            first.into_iter().chain(self.by_start.range(new.start..new.end)).map(|(_, old)| *old).collect();
        for old in covered {
            self.by_start.remove(&old.start);
            change.gone.push(old);
            if old.start < new.start {
                change.new.push(Mapped { end: new.start, ..old });
            }
            if old.end > new.end {
                let file_offset = old.file_offset + (new.end - old.start);
                change.new.push(Mapped { start: new.end, file_offset, ..old });
            }
        }
        change.new.push(new);
        self.by_start.extend(change.new.iter().map(|mapped| (mapped.start, *mapped)));
        change
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::symbol::ModuleId;

    /// Executable lines are read, with and without a path; others are not.
    #[test]
    fn parses_maps_lines() {
        let mapping =
            parse_maps_line("7f00-7f10 r-xp 00001000 fe:02 77    /usr/lib/a b.so (deleted)").unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.file_offset), (0x7f00, 0x7f10, 0x1000));
        assert_eq!(mapping.file, FileIdentity { major: 0xfe, minor: 2, inode: 77 });
        assert_eq!(mapping.path, "/usr/lib/a b.so (deleted)");
        assert_eq!(parse_maps_line("1000-2000 rwxp 00000000 00:00 0").unwrap().path, "");
        assert_eq!(parse_maps_line("1000-2000 rw-p 00000000 00:00 0"), None);
        assert_eq!(parse_maps_line("nonsense"), None);
    }

    /// What is mapped no longer is dropped, and what is mapped in part stays.
    #[test]
    fn unmapped_code_is_dropped() {
        let mut space = AddressSpace::default();
        let mapped = |start| Mapped {
            start,
            end: start + 0x1000,
            file_offset: 0,
            module: ModuleId::from_index(0),
            since_ns: 0,
        };
        for start in [0x1000, 0x2000, 0x5000] {
            space.insert(mapped(start));
        }
        let now: Vec<_> = ["1000-2000 r-xp 0 00:00 0", "5800-6000 r-xp 0 00:00 0"]
            .into_iter()
            .filter_map(parse_maps_line)
            .collect();
        assert_eq!(space.drop_unmapped(&now), [mapped(0x2000)]);
        assert_eq!((space.len(), space.find(0x2000), space.find(0x5000)), (2, None, Some(mapped(0x5000))));
    }

    /// A reading that took long says nothing about what the kernel told of meanwhile, and it alone tells the rest.
    #[test]
    fn records_overrule_readings() {
        let line = |text| parse_maps_line(text).unwrap();
        let found = |mapping| FoundMapping { pid: 1, mapping, begun_ns: 100, ended_ns: 200 };
        let read: Vec<_> =
            ["1000-3000 r-xp 0 00:00 0", "5000-6000 r-xp 0 00:00 0"].map(line).map(found).into();
        let mapped = |timestamp_ns, pid| {
            vec![MappingEvent::Mapped { timestamp_ns, pid, mapping: line("2000-4000 r-xp 0 00:00 0") }]
        };
        let doubtful = |records: &[MappingEvent]| {
            let mut waiting = FoundMappings::default();
            waiting.add(read.clone());
            waiting.take_doubtful(records)
        };
        for untouching in [mapped(99, 1), mapped(201, 1), mapped(150, 2)] {
            assert_eq!(doubtful(&untouching), []);
        }
        assert_eq!(doubtful(&mapped(150, 1)), read[..1]);
        assert_eq!(doubtful(&[MappingEvent::Exec { timestamp_ns: 100, pid: 1 }]), read);

        let mut waiting = FoundMappings::default();
        waiting.add(read.clone());
        assert_eq!((waiting.take_settled(199), waiting.take_settled(200)), (vec![], read.clone()));
        assert_eq!(read[1].event().timestamp_ns(), 200);
    }

    proptest! {
        /// After any sequence of mappings, an address belongs to the last one that covered it.
        #[test]
        fn the_last_mapping_wins(ranges in proptest::collection::vec((0..100_u64, 1..30_u64), 1..30)) {
            let mut space = AddressSpace::default();
            for (module, &(start, length)) in ranges.iter().enumerate() {
                let module = ModuleId::from_index(module);
                space.insert(Mapped { start, end: start + length, file_offset: start, module, since_ns: 0 });
            }
            for address in 0..140 {
                let expected = ranges.iter().rposition(|&(start, length)| (start..start + length).contains(&address));
                let found = space.find(address);
                prop_assert_eq!(found.map(|found| found.module), expected.map(ModuleId::from_index));
                if let Some(found) = found {
                    prop_assert_eq!(address - found.start + found.file_offset, address);
                }
            }
        }

        /// The parts of a mapping follow each other, and each says what is in place there.
        #[test]
        fn parts_are_what_is_in_place(
            ranges in proptest::collection::vec((0..100_u64, 1..30_u64, 0..3_usize), 1..30),
            (start, length) in (0..120_u64, 1..40_u64),
        ) {
            let mapped = |start, length, module, since_ns| Mapped {
                start, end: start + length, file_offset: start, module: ModuleId::from_index(module), since_ns
            };
            let mut space = AddressSpace::default();
            for (since_ns, &(start, length, module)) in ranges.iter().enumerate() {
                space.insert(mapped(start, length, module, since_ns as u64));
            }
            let new = mapped(start, length, 0, 0);
            let mut next = start;
            for (part, since_ns) in space.parts(&new) {
                prop_assert_eq!((part.start, part.file_offset), (next, next));
                for address in part.start..part.end {
                    let same = space.find(address).filter(|old| old.module == new.module);
                    prop_assert_eq!(same.map(|old| old.since_ns), since_ns);
                }
                next = part.end;
            }
            prop_assert_eq!(next, new.end);
        }

        /// No text makes the parser panic.
        #[test]
        fn survives_any_line(line in ".*") {
            let _ = parse_maps_line(&line);
        }
    }
}
