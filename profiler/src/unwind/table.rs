//! The unwind table of a file: what it is made from, and how stretches of code become rows.

use std::borrow::Cow;
use std::fs::File;

use gimli::{BaseAddresses, DebugFrame, EhFrame, LittleEndian};
use object::read::{Object, ObjectSection, ObjectSegment, ReadCache};
use profiler_common::{CfaKind, UnwindRow};

use super::cache::Cache;
use super::{FRAME_POINTER_CHAIN, builtins, go, instructions};
use crate::symbol::GoTable;

pub(super) type ElfFile<'file> = object::File<'file, &'file ReadCache<&'file File>>;

/// The largest section that is read: it is copied into memory, and a file full of holes is cheap to make.
pub(super) const MAX_SECTION_BYTES: u64 = 128 << 20;
/// Rows of one file that are kept: 32 MiB.
pub(super) const MAX_ROWS: usize = 4 << 20;
/// Smaller sources are parsed as quickly as a file is read.
const WORTH_CACHING_BYTES: usize = 256 << 10;

/// The unwind rows of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Virtual address in the file that rows count from.
    pub base: u64,
    /// Rows in the order of their starts; no two neighbours say the same.
    pub rows: Vec<UnwindRow>,
    /// Rows before neighbours were merged.
    pub unmerged: usize,
    /// Stretches of code whose description we do not understand: their rule is [`CfaKind::Unknown`].
    pub not_understood: usize,
    /// Whether some of the file's descriptions could not be read at all.
    pub damaged: bool,
}

#[cfg(test)]
impl Table {
    /// What it says of an address of the file.
    pub(super) fn rule_at(&self, address: u64) -> profiler_common::Rule {
        let start = u32::try_from(address - self.base).unwrap();
        let next = self.rows.partition_point(|row| row.start <= start);
        let rule = next.checked_sub(1).map_or(CfaKind::Unknown as u32, |last| self.rows[last].rule);
        profiler_common::Rule::unpack(rule)
    }
}

/// Reads the unwind rows of an ELF file. A file without any, or of another kind, gives an empty table.
pub fn read_table(file: &File) -> Table {
    read_table_with(file, None)
}

/// The same; large ones from the cache, and into it, by the file's build ID.
pub fn read_table_with(file: &File, cache: Option<(&Cache, &str)>) -> Table {
    // One after the other: what each needs of the file is not in memory together.
    let v8_code = with_object(file, builtins::code).unwrap_or_default();
    with_object(file, |object| {
        if let Some(table) = GoTable::find(object) {
            return go_table(object, &table);
        }
        let sources = Sources::read(object, v8_code);
        let Some((cache, build_id)) = cache.filter(|_| sources.bytes() >= WORTH_CACHING_BYTES) else {
            return sources.table(object).0;
        };
        let hash = sources.hash(cache);
        cache.load(build_id, hash).unwrap_or_else(|| {
            let (table, has_more) = sources.table(object);
            if !has_more {
                cache.store(build_id, hash, &table);
            }
            table
        })
    })
    .unwrap_or_default()
}

/// The table of a Go program. Its own code is described by its own table, which is right also where a function goes to
/// another stack, unlike `.debug_frame`; C in it by `.eh_frame`.
fn go_table(object: &ElfFile<'_>, table: &GoTable<'_>) -> Table {
    let sources = Sources { debug_frame: Section::default(), ..Sources::read(object, Vec::new()) };
    let mut builder = sources.builder();
    go::read(table, &mut builder);
    builder.finish()
}

fn with_object<T>(file: &File, read: impl FnOnce(&ElfFile<'_>) -> T) -> Option<T> {
    let cache = ReadCache::new(file);
    object::File::parse(&cache).ok().map(|object| read(&object))
}

/// Everything in a file that its table is made from.
struct Sources<'data> {
    base: u64,
    text: u64,
    global_offsets: u64,
    eh_frame: Section<'data>,
    debug_frame: Section<'data>,
    v8_code: Vec<(u64, u64)>,
}

/// A section's address and content; empty when there is none.
#[derive(Default)]
struct Section<'data> {
    address: u64,
    data: Cow<'data, [u8]>,
}

impl<'data> Section<'data> {
    fn read(object: &ElfFile<'data>, name: &str) -> Self {
        let section = object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES);
        let read = |section: object::Section<'data, '_, _>| {
            Some(Self { address: section.address(), data: section.uncompressed_data().ok()? })
        };
        section.and_then(read).unwrap_or_default()
    }
}

impl<'data> Sources<'data> {
    fn read(object: &ElfFile<'data>, v8_code: Vec<(u64, u64)>) -> Self {
        let address = |name: &str| object.section_by_name(name).map_or(0, |section| section.address());
        Self {
            base: object.segments().map(|segment| segment.address()).min().unwrap_or(0),
            text: address(".text"),
            global_offsets: address(".got"),
            eh_frame: Section::read(object, ".eh_frame"),
            debug_frame: Section::read(object, ".debug_frame"),
            v8_code,
        }
    }

    fn bytes(&self) -> usize {
        self.eh_frame.data.len() + self.debug_frame.data.len()
    }

    fn hash(&self, cache: &Cache) -> u64 {
        let numbers = [self.base, self.text, self.global_offsets, self.eh_frame.address];
        let mut places: Vec<u64> = numbers.to_vec();
        places.extend(self.v8_code.iter().flat_map(|(start, end)| [*start, *end]));
        let sources = [bytemuck::cast_slice(&places), &self.eh_frame.data, &self.debug_frame.data];
        cache.hash(sources.into_iter())
    }

    /// The table, and whether more of the file went into it than these sources.
    fn table(&self, object: &ElfFile<'data>) -> (Table, bool) {
        let mut builder = self.builder();
        let has_more = instructions::complete(&mut builder, object);
        (builder.finish(), has_more)
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::new(self.base);
        let bases = BaseAddresses::default().set_text(self.text).set_got(self.global_offsets);
        if !self.eh_frame.data.is_empty() {
            let mut frames = EhFrame::new(&self.eh_frame.data, LittleEndian);
            frames.set_address_size(8);
            builder.read(&frames, &bases.clone().set_eh_frame(self.eh_frame.address));
        }
        if !self.debug_frame.data.is_empty() {
            let mut frames = DebugFrame::new(&self.debug_frame.data, LittleEndian);
            frames.set_address_size(8);
            builder.read(&frames, &bases);
        }
        for &(start, end) in &self.v8_code {
            builder.push(start, end, FRAME_POINTER_CHAIN.pack().unwrap_or(CfaKind::Unknown as u32));
        }
        builder
    }
}

/// Stretches of code in any order, to be put in order at the end.
pub(super) struct Builder {
    base: u64,
    /// Start, end and rule of each stretch of code.
    rows: Vec<(u32, u32, u32)>,
    pub(super) not_understood: usize,
    pub(super) damaged: bool,
}

impl Builder {
    pub(super) fn new(base: u64) -> Self {
        Self { base, rows: Vec::new(), not_understood: 0, damaged: false }
    }

    /// Whether no more rows are taken.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_ROWS
    }

    /// Code that the linker threw away is described at address zero, and what lies outside the file is hostile.
    pub(super) fn push(&mut self, start: u64, end: u64, rule: u32) {
        let offset =
            |address: u64| address.checked_sub(self.base).and_then(|offset| u32::try_from(offset).ok());
        if let (Some(start), Some(end)) = (offset(start), offset(end))
            && start < end
            && !self.is_full()
        {
            self.rows.push((start, end, rule));
        }
    }

    /// The stretches of `start..end` of which nothing is said, the first one first.
    pub(super) fn undescribed(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        self.rows.sort_unstable();
        let (mut stretches, mut next) = (Vec::new(), start);
        for &(row_start, row_end, _) in &self.rows {
            let (row_start, row_end) = (self.base + u64::from(row_start), self.base + u64::from(row_end));
            if row_start >= end {
                break;
            }
            if row_start > next {
                stretches.push((next, row_start));
            }
            next = next.max(row_end);
        }
        if next < end {
            stretches.push((next, end));
        }
        stretches
    }

    /// Puts stretches in order, ends each where the next one starts, and says where nothing is known.
    pub(super) fn finish(mut self) -> Table {
        if self.rows.is_empty() {
            return Table { base: self.base, damaged: self.damaged, ..Table::default() };
        }
        self.rows.sort_unstable();
        let unmerged = self.rows.len();
        let mut rows: Vec<UnwindRow> = Vec::with_capacity(unmerged);
        let mut covered = 0_u32;
        let mut push = |start: u32, rule: u32| match rows.last_mut() {
            Some(last) if last.rule == rule => {}
            Some(last) if last.start == start => last.rule = rule,
            _ => rows.push(UnwindRow { start, rule }),
        };
        for &(start, end, rule) in &self.rows {
            if start < covered {
                continue; // described twice: the first one stays
            }
            if start > covered {
                push(covered, CfaKind::Unknown as u32);
            }
            push(start, rule);
            covered = end;
        }
        push(covered, CfaKind::Unknown as u32);
        rows.shrink_to_fit();
        let Self { base, not_understood, damaged, .. } = self;
        Table { base, rows, unmerged, not_understood, damaged }
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::Rule;

    use super::*;

    /// Of two descriptions of the same code, the one that starts first stays, to its end.
    #[test]
    fn first_description_stays() {
        let mut builder = Builder::new(0x1000);
        let packed =
            |offset| Rule { cfa_offset: offset, ..Rule::plain(CfaKind::StackPointer) }.pack().unwrap();
        builder.push(0x1180, 0x1300, packed(24));
        builder.push(0x1100, 0x1200, packed(8));
        builder.push(0x1100, 0x1200, packed(16));
        builder.push(0x1400, 0x1500, packed(32));
        builder.push(0x1500, 0x1600, packed(32));
        // Before the file's first segment, and backwards.
        builder.push(0, 0x100, packed(8));
        builder.push(0x1800, 0x1700, packed(8));
        let table = builder.finish();
        let row = |start, rule| UnwindRow { start, rule };
        assert_eq!(
            table.rows,
            [row(0, 0), row(0x100, packed(8)), row(0x200, 0), row(0x400, packed(32)), row(0x600, 0)]
        );
        assert_eq!(table.unmerged, 5);
    }
}
