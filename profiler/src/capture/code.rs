//! Tells the kernel half which code is mapped where, and how to unwind it: the user half of `unwind/code.rs` and
//! `unwind/rows.rs` there.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError};
use profiler_common::{
    CodeFile, CodeFileKey, CodeMapping, Interpreter, MAPPING_KEY_BITS, MAX_PAGES, MAX_TABLES, ROWS_PER_PAGE,
    RowPage, UnwindRow, mapping_key,
};

use super::mappings::{FileIdentity, Mapped};
use super::tables::Tables;
use super::v8::V8Frames;
use crate::symbol::{Image, InterpreterCode, Module, ModuleId};
use crate::unwind::{Cache, Table};

/// `BPF_F_INNER_MAP`: tables may differ in length.
const INNER_MAP: u32 = 0x1000;
/// How long a table stays after the last process that had its code, and how many such tables do: servers run the same programs
/// again and again.
const KEPT: Duration = Duration::from_secs(10);
const MOST_KEPT: usize = 64;
/// `BPF_EXIST`: replace, but do not add.
const IF_PRESENT: u64 = 2;
/// What is not used sorts behind everything.
const UNUSED: UnwindRow = UnwindRow { start: u32::MAX, rule: 0 };

/// The kernel half's maps of code, filled from here alone.
pub(super) struct Code {
    mappings: LpmTrie<MapData, [u8; 12], CodeMapping>,
    files: BpfHashMap<MapData, CodeFileKey, CodeFile>,
    changes: Array<MapData, u32>,
    changed: u32,
    /// Programs that are loaded later refer to the map by this very descriptor.
    outer: MapData,
    tables: Option<Tables>,
    owners: BpfHashMap<MapData, u32, u32>,
    by_module: HashMap<ModuleId, Loaded>,
    /// Modules that nobody uses, since when.
    unused: VecDeque<(Instant, ModuleId)>,
    free: Vec<u32>,
    /// Tables that were loaded so far.
    loads: u32,
    /// Tables that were parsed before.
    cache: Option<Cache>,
    /// JavaScript frames, and what the kernel half needs for them.
    pub(super) v8: V8Frames,
    /// Code that the kernel half could not be told of: its maps are full.
    pub(super) refused: u64,
}

/// A module whose table is in the kernel, or that has none.
struct Loaded {
    table: u32,
    /// Where rows count from.
    base: u64,
    /// Mappings of watched processes.
    users: usize,
    /// Mappings that were announced and will be told again.
    announced: usize,
    /// Its parts by which the kernel half knows it.
    files: Vec<CodeFileKey>,
}

impl Loaded {
    fn is_used(&self) -> bool {
        self.users > 0 || self.announced > 0
    }
}

impl Code {
    /// Takes the maps of a loaded object. The target set is shared with its other user.
    pub(super) fn new(
        [mappings, files, changes, tables]: [Map; 4],
        targets: &Map,
        v8: V8Frames,
    ) -> Result<Self, MapError> {
        let Map::HashMap(targets) = targets else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let Map::ArrayOfMaps(tables) = tables else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let shared = targets.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
        let owners = BpfHashMap::try_from(Map::HashMap(MapData::from_fd(shared)?))?;
        Ok(Self {
            mappings: LpmTrie::try_from(mappings)?,
            files: BpfHashMap::try_from(files)?,
            changes: Array::try_from(changes)?,
            changed: 0,
            outer: tables,
            tables: None,
            owners,
            by_module: HashMap::new(),
            unused: VecDeque::new(),
            free: (0..MAX_TABLES).rev().collect(),
            loads: 0,
            cache: Cache::of_user(),
            v8,
            refused: 0,
        })
    }

    /// A module's code will be mapped soon: its table is made ready, and stays.
    pub(super) fn expect(&mut self, id: ModuleId, module: &Module) {
        self.table(id, module);
        if let Some(loaded) = self.by_module.get_mut(&id) {
            loaded.announced += 1;
        }
    }

    /// A process has just mapped a module's code, and [`Self::has_settled`] will be called: its table is made ready, and stays.
    pub(super) fn announce(&mut self, id: ModuleId, module: &Module) {
        if let Image::Elf(_) = module.image {
            self.expect(id, module);
        }
    }

    /// A process has mapped a module's code. Whether it is V8's, and news: then the kernel half has to be told again of what the
    /// process mapped without a file before.
    pub(super) fn map(&mut self, pid: u32, module: &Module, mapped: &Mapped) -> bool {
        let Image::Elf(_) = module.image else { return false };
        let (_, base) = self.table(mapped.module, module);
        if let Some(loaded) = self.by_module.get_mut(&mapped.module) {
            loaded.users += 1;
        }
        // Not before it is certain when: an exec that is told next would take it back.
        module.v8().is_some_and(|v8| self.v8.add(pid, v8, base))
    }

    /// A mapping that was announced is settled.
    pub(super) fn has_settled(&mut self, id: ModuleId) {
        if let Some(loaded) = self.by_module.get_mut(&id) {
            loaded.announced = loaded.announced.saturating_sub(1);
            self.rest(id);
        }
    }

    /// Lets the kernel half know code of a file by itself, wherever it is mapped next. The file is open, so that its inode can't be given
    /// to another one. Files with interpreters are not for that: which parts these are depends on the mapping.
    pub(super) fn know_file(&mut self, module: &Module, mapped: &Mapped, file: FileIdentity) {
        let Image::Elf(_) = module.image else { return };
        let Some(loaded) = self.by_module.get_mut(&mapped.module) else { return };
        let key = CodeFileKey {
            inode: file.inode,
            offset: mapped.file_offset,
            device: file.major << CodeFileKey::MINOR_BITS | file.minor,
            reserved: 0,
        };
        if loaded.files.contains(&key) || !module.interpreters().is_empty() {
            return;
        }
        let first = module.address(mapped.start, mapped.start, mapped.file_offset);
        let known = CodeFile { to_row: first.wrapping_sub(loaded.base), table: loaded.table, reserved: 0 };
        // Without it, the kernel half waits to be told, as for other code.
        if self.files.insert(key, known, 0).is_ok() {
            loaded.files.push(key);
        }
    }

    /// Tells the kernel half of a mapping.
    pub(super) fn tell(&mut self, pid: u32, module: &Module, mapped: &Mapped) {
        let (table, base) = match &module.image {
            Image::Elf(_) => self.table(mapped.module, module),
            // Runtimes keep frame pointers in the code that they make.
            Image::Jit => (CodeMapping::NO_TABLE, 0),
            Image::Opaque => return,
        };
        let makes_code = matches!(module.image, Image::Jit) && self.v8.contains(pid);
        let to_row = module.address(mapped.start, mapped.start, mapped.file_offset).wrapping_sub(base);
        for piece in pieces(module, mapped) {
            let mapping = CodeMapping {
                start: piece.start,
                end: piece.end,
                to_row: to_row.wrapping_sub(mapped.start),
                table,
                interpreter: if makes_code { Interpreter::V8 as u32 } else { piece.interpreter as u32 },
            };
            for (address, bits) in blocks(piece.start, piece.end) {
                if self.mappings.insert(&key(pid, address, bits), mapping, 0).is_err() {
                    self.refused += 1;
                }
            }
        }
        self.has_changed();
    }

    /// The kernel half forgets the mappings that it remembers.
    fn has_changed(&mut self) {
        self.changed = self.changed.wrapping_add(1);
        // An array's only entry can always be set.
        let _ = self.changes.set(0, self.changed, 0);
    }

    /// Takes a mapping from the kernel half.
    pub(super) fn erase(&mut self, pid: u32, module: &Module, mapped: &Mapped) {
        for piece in pieces(module, mapped) {
            for (address, bits) in blocks(piece.start, piece.end) {
                // What was refused before is not there now.
                let _ = self.mappings.remove(&key(pid, address, bits));
            }
        }
        self.has_changed();
    }

    /// A process has the code no longer.
    pub(super) fn release(&mut self, mapped: &Mapped) {
        if let Some(loaded) = self.by_module.get_mut(&mapped.module) {
            loaded.users = loaded.users.saturating_sub(1);
            self.rest(mapped.module);
        }
    }

    /// Notes since when a module is not used, if it is not.
    fn rest(&mut self, id: ModuleId) {
        if self.by_module.get(&id).is_some_and(|loaded| !loaded.is_used()) {
            self.unused.retain(|(_, other)| *other != id);
            self.unused.push_back((Instant::now(), id));
        }
    }

    /// Gives up tables that were not used for a while, and the oldest ones if these are many.
    pub(super) fn give_up_unused(&mut self, now: Instant) {
        while let Some((since, id)) = self.unused.front().copied() {
            if self.unused.len() <= MOST_KEPT && now.saturating_duration_since(since) < KEPT {
                return;
            }
            self.unused.pop_front();
            // It may be used again.
            if self.by_module.get(&id).is_some_and(|loaded| !loaded.is_used()) {
                self.drop_table(id);
            }
        }
    }

    fn drop_table(&mut self, id: ModuleId) {
        let Some(loaded) = self.by_module.remove(&id) else { return };
        for key in &loaded.files {
            // The file may have been overwritten, and have another table.
            if self.files.get(key, 0).is_ok_and(|known| known.table == loaded.table) {
                let _ = self.files.remove(key);
            }
        }
        self.unload(loaded.table);
    }

    /// From now on the process has mappings of its own, not its parent's.
    pub(super) fn own(&mut self, pid: u32) {
        // If it has ended, it is not a target any more.
        let _ = self.owners.insert(pid, pid, IF_PRESENT);
    }

    /// The module's table and what its rows count from; loads it when it is not there.
    fn table(&mut self, id: ModuleId, module: &Module) -> (u32, u64) {
        if let Some(loaded) = self.by_module.get(&id) {
            return (loaded.table, loaded.base);
        }
        let rows = match &module.image {
            Image::Elf(elf) => elf.unwind_table(self.cache.as_ref()),
            Image::Jit | Image::Opaque => Table::default(),
        };
        let table = if rows.rows.is_empty() { None } else { self.load(&rows.rows) };
        let loaded = Loaded {
            table: table.unwrap_or(CodeMapping::NO_TABLE),
            base: rows.base,
            users: 0,
            announced: 0,
            files: Vec::new(),
        };
        let result = (loaded.table, loaded.base);
        self.by_module.insert(id, loaded);
        result
    }

    /// Waits until the kernel half has all tables.
    pub(super) fn settle(&self) {
        if let Some(tables) = &self.tables {
            tables.settle();
        }
    }

    fn load(&mut self, rows: &[UnwindRow]) -> Option<u32> {
        let outcome = self.try_load(rows);
        self.refused += u64::from(outcome.is_none());
        outcome
    }

    fn try_load(&mut self, rows: &[UnwindRow]) -> Option<u32> {
        let table = kernel_table(rows)?;
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => {
                let outer = self.outer.fd().as_fd().try_clone_to_owned().ok()?;
                Tables::start(outer, kernel_table(&[UNUSED])?).ok()?
            }
        };
        self.free.extend(tables.cleared());
        let slot = self.free.pop();
        if let Some(slot) = slot {
            tables.put(slot, table);
        }
        self.tables = Some(tables);
        let loads = self.loads;
        self.loads = loads.wrapping_add(1);
        slot.map(|slot| CodeMapping::table_number(slot, loads))
    }

    fn unload(&mut self, table: u32) {
        if let Some(tables) = self.tables.as_ref().filter(|_| table != CodeMapping::NO_TABLE) {
            tables.clear(CodeMapping::table_slot(table));
        }
    }
}

/// A part of a mapping in which one interpreter runs, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    interpreter: Interpreter,
}

fn pieces(module: &Module, mapped: &Mapped) -> Vec<Piece> {
    let first = module.address(mapped.start, mapped.start, mapped.file_offset);
    cut(mapped, first, module.interpreters())
}

/// A mapping whose code starts with the file's address `first`, cut where interpreters' code starts and ends.
fn cut(mapped: &Mapped, first: u64, interpreters: &[InterpreterCode]) -> Vec<Piece> {
    let last = first.saturating_add(mapped.end - mapped.start);
    let (mut pieces, mut next) = (Vec::new(), first);
    let mut push = |from: u64, to: u64, interpreter| {
        if from < to {
            let (start, end) = (mapped.start + (from - first), mapped.start + (to - first));
            pieces.push(Piece { start, end, interpreter });
        }
    };
    for code in interpreters {
        let (start, end) = (code.start.clamp(next, last), code.end.clamp(next, last));
        push(next, start, Interpreter::None);
        push(start, end, code.interpreter);
        next = end.max(next);
    }
    push(next, last, Interpreter::None);
    pieces
}

/// A table for the kernel half, of rows in the order of their starts: the index, then the pages. `None` when there are too many
/// rows, or the kernel has no room.
pub fn kernel_table(rows: &[UnwindRow]) -> Option<Array<MapData, RowPage>> {
    let count = rows.len().div_ceil(ROWS_PER_PAGE);
    if count > MAX_PAGES {
        return None;
    }
    let mut map = Array::<MapData, RowPage>::create(count as u32 + 1, INNER_MAP).ok()?;
    let mut starts = [u32::MAX; MAX_PAGES];
    for (number, chunk) in rows.chunks(ROWS_PER_PAGE).enumerate() {
        starts[number] = chunk[0].start;
        let mut page = [UNUSED; ROWS_PER_PAGE];
        page[..chunk.len()].copy_from_slice(chunk);
        map.set(number as u32 + 1, page, 0).ok()?;
    }
    let index: RowPage = bytemuck::cast(starts);
    map.set(0, index, 0).ok()?;
    Some(map)
}

fn key(pid: u32, address: u64, bits: u32) -> Key<[u8; 12]> {
    Key::new(bits, mapping_key(pid, address))
}

/// The aligned blocks that make up a range, each with the length of its key: the largest ones that fit.
fn blocks(mut start: u64, end: u64) -> impl Iterator<Item = (u64, u32)> {
    std::iter::from_fn(move || {
        let rest = end.checked_sub(start).filter(|rest| *rest > 0)?;
        let size_bits = start.trailing_zeros().min(rest.ilog2());
        let block = (start, MAPPING_KEY_BITS - size_bits);
        start = start.checked_add(1 << size_bits).unwrap_or(end);
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A range is cut into aligned blocks.
    #[test]
    fn ranges_are_cut_into_blocks() {
        let cut: Vec<_> = blocks(0x3000, 0x9000).collect();
        assert_eq!(cut, [(0x3000, 84), (0x4000, 82), (0x8000, 84)]);
    }

    /// A mapping is cut at interpreters' code, of which only what is mapped counts.
    #[test]
    fn mappings_are_cut_at_interpreters() {
        let mapped = Mapped {
            start: 0x1000,
            end: 0x2000,
            file_offset: 0,
            module: ModuleId::from_index(0),
            since_ns: 0,
        };
        let code = |start, end| InterpreterCode { start, end, interpreter: Interpreter::Python };
        let interpreters = [code(0, 0x10), code(0xf0, 0x110), code(0x300, 0x400), code(0x1080, 0x1200)];
        let cut = cut(&mapped, 0x100, &interpreters);
        let cut: Vec<_> = cut.iter().map(|piece| (piece.start, piece.end, piece.interpreter)).collect();
        let (none, python) = (Interpreter::None, Interpreter::Python);
        let expected = [(0x1000, 0x1010, python), (0x1010, 0x1200, none), (0x1200, 0x1300, python)];
        assert_eq!(cut[..3], expected);
        assert_eq!(cut[3..], [(0x1300, 0x1f80, none), (0x1f80, 0x2000, python)]);
    }

    proptest! {
        /// The blocks follow each other from the start of the range to its end.
        #[test]
        fn blocks_cover_the_range(start in 0..1_u64 << 47, length in 0..1_u64 << 30) {
            let mut next = start;
            for (address, bits) in blocks(start, start + length) {
                prop_assert_eq!(address, next);
                let size = 1_u64 << (MAPPING_KEY_BITS - bits);
                prop_assert_eq!(address % size, 0);
                next += size;
            }
            prop_assert_eq!(next, start + length);
        }
    }
}
