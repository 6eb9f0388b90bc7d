//! Go's own table of functions, which is in every Go program, also in a stripped one: `.gopclntab`.
//!
//! Layouts: `debug/gosym/pclntab.go`, `runtime/symtab.go` and `runtime/runtime2.go` of Go 1.15, 1.16, 1.19 and 1.25; what is
//! called 1.2, 1.16, 1.18 and 1.20 here are the versions that introduced them. Whatever a table says is checked: any bytes
//! give some names or none, in a time that its length bounds.

use std::fs::File;

use object::read::{Object, ObjectSection, ReadCache};

use super::namer::Name;

type ElfFile<'data> = object::File<'data, &'data ReadCache<&'data File>>;

/// The largest section that is read.
const MAX_SECTION_BYTES: u64 = 128 << 20;
/// Functions that were inlined into each other at one address.
const MAX_INLINED: usize = 64;
/// Longest name that is kept, in bytes.
const MAX_NAME: usize = 4096;
const PCDATA_INLINE_TREE: u32 = 2;
const FUNCDATA_INLINE_TREE: u32 = 3;
/// `abi.FuncFlagSPWrite`: the function sets the stack pointer in a way that its table does not tell.
const FLAG_WRITES_STACK_POINTER: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Go1_2,
    Go1_16,
    Go1_18,
    Go1_20,
}

/// The table of one file.
pub(crate) struct GoTable<'data> {
    version: Version,
    /// The whole section. Offsets below count from its start.
    data: &'data [u8],
    /// Where offsets of code count from.
    text: u64,
    functions: usize,
    function_table: usize,
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    /// Where trees of inlined functions count from, and the sections that they may be in.
    inline_trees: Option<u64>,
    sections: Vec<(u64, &'data [u8])>,
}

/// A function: its code, and where the table describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoFunction {
    pub(crate) start: u64,
    /// Where the next function starts.
    pub(crate) end: u64,
    description: usize,
}

impl<'data> GoTable<'data> {
    /// The table of a file, if it is a Go program's.
    pub(crate) fn find(object: &ElfFile<'data>) -> Option<Self> {
        let section = |name: &str| {
            let section =
                object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES)?;
            Some((section.address(), section.data().ok()?))
        };
        // The names in executables, in ones that can be moved, and in those that another linker has put together.
        let (address, data) = section(".gopclntab")
            .or_else(|| section(".data.rel.ro.gopclntab"))
            .or_else(|| section(".go.buildinfo").and_then(|_| search(section(".data.rel.ro")?)))?;
        let mut table = Self::parse(data)?;
        let sections: Vec<_> =
            [".go.module", ".noptrdata", ".data", ".data.rel.ro", ".rodata", ".gopclntab", ".go.func"]
                .into_iter()
                .filter_map(section)
                .collect();
        let pointers =
            Pointers { sections: &sections, relocations: section(".rela.dyn").unwrap_or_default().1 };
        if table.version >= Version::Go1_18 {
            if table.text == 0 {
                table.text = pointers.at(address + 24).unwrap_or(0);
            }
            if let Some((text, trees)) = pointers.module(address, table.text, table.version) {
                table.text = text;
                table.inline_trees = Some(trees);
            }
            // Without it no address means anything.
            if table.text == 0 {
                return None;
            }
        }
        table.sections = sections;
        Some(table)
    }

    /// `text` stays what the header says.
    fn parse(data: &'data [u8]) -> Option<Self> {
        let version = version(data)?;
        let word = |index: usize| usize::try_from(number::<8>(data, 8 + index * 8)?).ok();
        let mut table = Self {
            version,
            data,
            text: 0,
            functions: word(0)?,
            function_table: 16,
            names: 0,
            units: 0,
            files: 0,
            values: 0,
            inline_trees: None,
            sections: Vec::new(),
        };
        if version >= Version::Go1_16 {
            let first = if version >= Version::Go1_18 { 3 } else { 2 };
            [table.names, table.units, table.files, table.values, table.function_table] =
                [word(first)?, word(first + 1)?, word(first + 2)?, word(first + 3)?, word(first + 4)?];
        } else {
            // Behind the functions and their end: where the files are.
            let end = table.functions.checked_mul(16)?.checked_add(16 + 8)?;
            table.files = number::<4>(data, end)? as usize;
        }
        if version >= Version::Go1_18 {
            table.text = number::<8>(data, 24)?;
        }
        // The end of the last function is behind the table.
        let length = table.functions.checked_mul(2)?.checked_add(1)?.checked_mul(table.word_bytes())?;
        data.get(table.function_table..)?.get(..length)?;
        Some(table)
    }

    /// All functions, in the order of their code.
    pub(crate) fn functions(&self) -> impl Iterator<Item = GoFunction> {
        (0..self.functions).filter_map(|index| self.function(index))
    }

    /// The function at an address.
    pub(crate) fn function_at(&self, address: u64) -> Option<GoFunction> {
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)? <= address { low = middle + 1 } else { high = middle }
        }
        let found = self.function(low.checked_sub(1)?)?;
        (address < found.end).then_some(found)
    }

    /// As in the source, with its package.
    pub(crate) fn name(&self, function: GoFunction) -> Option<&'data [u8]> {
        self.text_at(self.names, self.field(function, 0)?)
    }

    /// Whether the function sets its stack pointer in a way that its table does not tell. Before Go 1.17 it is not known.
    pub(crate) fn writes_stack_pointer(&self, function: GoFunction) -> bool {
        let at = match self.version {
            Version::Go1_2 => return false,
            Version::Go1_16 | Version::Go1_20 => 41,
            Version::Go1_18 => 37,
        };
        let flags = self.data.get(function.description.saturating_add(at)).copied().unwrap_or(0);
        flags & FLAG_WRITES_STACK_POINTER != 0
    }

    /// How many bytes a function has put on its stack, for each stretch of its code.
    pub(crate) fn stack_bytes(&self, function: GoFunction) -> Values<'data> {
        self.values(function, self.field(function, 3))
    }

    /// The functions at an address, outermost first, the later ones inlined; empty when there is none.
    pub(crate) fn names_at(&self, address: u64) -> Vec<Name> {
        let Some(function) = self.function_at(address) else { return Vec::new() };
        let Some(name) = self.name(function).filter(|name| !name.is_empty()) else { return Vec::new() };
        let mut names = Vec::new();
        let mut at = address;
        for _ in 0..MAX_INLINED {
            let Some((name, parent)) = self.inlined_at(function, at) else { break };
            names.push(self.named(function, at, name));
            at = parent;
        }
        names.push(self.named(function, at, name));
        names.reverse();
        names
    }

    fn named(&self, function: GoFunction, address: u64, name: &[u8]) -> Name {
        let line = self.value_at(function, self.field(function, 5), address).filter(|line| *line > 0);
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_NAME)]).into_owned();
        Name {
            function: text(name),
            file: self.file_at(function, address).map(text),
            line: line.map(i32::cast_unsigned),
        }
    }

    fn file_at(&self, function: GoFunction, address: u64) -> Option<&'data [u8]> {
        let number_of_file = self.value_at(function, self.field(function, 4), address)?;
        let file = u32::try_from(number_of_file).ok()? as usize;
        let offset = if self.version == Version::Go1_2 {
            let entry = self.files.checked_add(file.checked_mul(4)?)?;
            return self.text_at(0, number::<4>(self.data, entry)? as u32).filter(|_| file > 0);
        } else {
            let unit = self.field(function, 7)? as usize;
            let entry = unit.checked_add(file)?.checked_mul(4)?.checked_add(self.units)?;
            number::<4>(self.data, entry)? as u32
        };
        self.text_at(self.files, offset).filter(|name| offset != u32::MAX && !name.is_empty())
    }

    /// The innermost function that was inlined at an address, and the address that stands for its call.
    fn inlined_at(&self, function: GoFunction, address: u64) -> Option<(&'data [u8], u64)> {
        let trees = self.inline_trees?;
        let counts = function.description;
        let (header, count_at) = if self.version == Version::Go1_20 { (44, 43) } else { (40, 39) };
        let value_tables = self.field(function, 6)?;
        let other_tables = u32::from(*self.data.get(counts.checked_add(count_at)?)?);
        if value_tables <= PCDATA_INLINE_TREE || other_tables <= FUNCDATA_INLINE_TREE {
            return None;
        }
        let word = |index: u32| {
            let at = counts.checked_add(header)?.checked_add(index as usize * 4)?;
            Some(number::<4>(self.data, at)? as u32)
        };
        let index = self.value_at(function, word(PCDATA_INLINE_TREE), address)?;
        let index = u64::from(u32::try_from(index).ok()?);
        let tree =
            word(value_tables.checked_add(FUNCDATA_INLINE_TREE)?).filter(|offset| *offset != u32::MAX)?;
        // `inlinedCall`: the offset of its name, and its parent's code, counted from the function's.
        let (length, name_at, parent_at) =
            if self.version == Version::Go1_20 { (16, 4, 8) } else { (20, 12, 16) };
        let entry = trees.checked_add(u64::from(tree))?.checked_add(index.checked_mul(length)?)?;
        let field = |at: u64| {
            bytes_at(&self.sections, entry.checked_add(at)?, 4).and_then(|data| number::<4>(data, 0))
        };
        let name = self.text_at(self.names, field(name_at)? as u32).filter(|name| !name.is_empty())?;
        let parent = function.start.checked_add(field(parent_at)?)?;
        (parent < function.end).then_some((name, parent))
    }

    fn word_bytes(&self) -> usize {
        if self.version >= Version::Go1_18 { 4 } else { 8 }
    }

    fn table_word(&self, index: usize) -> Option<u64> {
        let at = self.function_table.checked_add(index.checked_mul(self.word_bytes())?)?;
        if self.version >= Version::Go1_18 { number::<4>(self.data, at) } else { number::<8>(self.data, at) }
    }

    fn entry(&self, index: usize) -> Option<u64> {
        let entry = self.table_word(index.checked_mul(2)?)?;
        if self.version >= Version::Go1_18 { self.text.checked_add(entry) } else { Some(entry) }
    }

    fn function(&self, index: usize) -> Option<GoFunction> {
        let (start, end) = (self.entry(index)?, self.entry(index + 1)?);
        let offset = usize::try_from(self.table_word(index * 2 + 1)?).ok()?;
        let base = if self.version >= Version::Go1_16 { self.function_table } else { 0 };
        (start < end).then_some(GoFunction { start, end, description: base.checked_add(offset)? })
    }

    /// A field behind the function's entry: 0 is its name, 3 to 5 are the tables of stack bytes, files and lines, 6 is the
    /// number of further tables, 7 its unit.
    fn field(&self, function: GoFunction, index: usize) -> Option<u32> {
        let entry_bytes = self.word_bytes();
        Some(number::<4>(self.data, function.description.checked_add(entry_bytes + index * 4)?)? as u32)
    }

    fn values(&self, function: GoFunction, offset: Option<u32>) -> Values<'data> {
        let bytes = offset
            .filter(|offset| *offset != 0)
            .and_then(|offset| self.data.get(self.values.checked_add(offset as usize)?..));
        Values {
            bytes: bytes.unwrap_or_default(),
            address: function.start,
            end: function.end,
            value: -1,
            is_first: true,
        }
    }

    fn value_at(&self, function: GoFunction, offset: Option<u32>, address: u64) -> Option<i32> {
        self.values(function, offset).find(|(_, end, _)| address < *end).map(|(_, _, value)| value)
    }

    fn text_at(&self, base: usize, offset: u32) -> Option<&'data [u8]> {
        let bytes = self.data.get(base.checked_add(offset as usize)?..)?;
        bytes.get(..memchr::memchr(0, &bytes[..bytes.len().min(1 << 16)])?)
    }
}

/// A value for each stretch of a function's code: start, end, value. The stretches follow each other and are never empty.
pub(crate) struct Values<'data> {
    bytes: &'data [u8],
    address: u64,
    end: u64,
    value: i32,
    is_first: bool,
}

impl Values<'_> {
    fn varint(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Values<'_> {
    type Item = (u64, u64, i32);

    fn next(&mut self) -> Option<Self::Item> {
        let change = self.varint()?;
        if (change == 0 && !self.is_first) || self.address >= self.end {
            return None;
        }
        self.is_first = false;
        let change = (change >> 1).cast_signed() ^ -(change & 1).cast_signed();
        self.value = self.value.wrapping_add(change);
        let length = self.varint().filter(|length| *length > 0)?;
        let start = self.address;
        self.address = start.saturating_add(u64::from(length)).min(self.end);
        Some((start, self.address, self.value))
    }
}

fn version(data: &[u8]) -> Option<Version> {
    // Magic number, two zeros, the smallest instruction (1 on x86-64), the size of a pointer.
    if data.get(4..8)? != [0, 0, 1, 8] {
        return None;
    }
    match number::<4>(data, 0)? {
        0xffff_fffb => Some(Version::Go1_2),
        0xffff_fffa => Some(Version::Go1_16),
        0xffff_fff0 => Some(Version::Go1_18),
        0xffff_fff1 => Some(Version::Go1_20),
        _ => None,
    }
}

/// The table within a section that holds other things too. Linkers align it to 32 bytes.
fn search((address, data): (u64, &[u8])) -> Option<(u64, &[u8])> {
    let skipped = (address.wrapping_neg() % 32) as usize;
    (skipped..data.len()).step_by(32).find_map(|at| {
        let rest = &data[at..];
        version(rest).and_then(|_| GoTable::parse(rest)).map(|_| (address + at as u64, rest))
    })
}

/// Pointers in a file's data, as the dynamic linker makes them.
struct Pointers<'data, 'all> {
    sections: &'all [(u64, &'data [u8])],
    /// `.rela.dyn`.
    relocations: &'data [u8],
}

impl Pointers<'_, '_> {
    /// The pointer at an address.
    fn at(&self, address: u64) -> Option<u64> {
        let in_file = bytes_at(self.sections, address, 8).and_then(|data| number::<8>(data, 0));
        let relocated = || self.relative().find(|(place, _)| *place == address).map(|(_, target)| target);
        in_file.filter(|pointer| *pointer != 0).or_else(relocated)
    }

    /// Where pointers are, and where to, in files that can be moved (`R_X86_64_RELATIVE`).
    fn relative(&self) -> impl Iterator<Item = (u64, u64)> {
        self.relocations.chunks_exact(24).filter_map(|entry| {
            let [place, kind, target] =
                [number::<8>(entry, 0)?, number::<8>(entry, 8)?, number::<8>(entry, 16)?];
            (kind == u64::from(object::elf::R_X86_64_RELATIVE.0)).then_some((place, target))
        })
    }

    /// `runtime.firstmoduledata`, which starts with a pointer to the table: where code starts, and the trees of inlined
    /// functions.
    fn module(&self, table: u64, text: u64, version: Version) -> Option<(u64, u64)> {
        const TEXT: u64 = 176;
        let trees = if version == Version::Go1_20 { 320 } else { 304 };
        let read = |module: u64| {
            let found = self.at(module.checked_add(TEXT)?)?;
            let trees = self.at(module.checked_add(trees)?)?;
            // That a layout is the one we know shows in a pointer to where it should lead.
            ((text == 0 || found == text) && bytes_at(self.sections, trees, 1).is_some())
                .then_some((found, trees))
        };
        let in_file = self.sections.iter().flat_map(|(address, data)| {
            let words = data.chunks_exact(8).enumerate();
            let places = words.filter(move |(_, word)| number::<8>(word, 0) == Some(table));
            places.map(move |(index, _)| address + index as u64 * 8)
        });
        let relocated = self.relative().filter(|(_, target)| *target == table).map(|(place, _)| place);
        in_file.chain(relocated).take(64).find_map(read)
    }
}

/// So many bytes at an address.
fn bytes_at<'data>(sections: &[(u64, &'data [u8])], address: u64, length: usize) -> Option<&'data [u8]> {
    sections.iter().find_map(|(start, data)| {
        let at = usize::try_from(address.checked_sub(*start)?).ok()?;
        data.get(at..at.checked_add(length)?)
    })
}

/// A little-endian number of `BYTES` bytes, at most 8.
fn number<const BYTES: usize>(data: &[u8], at: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[..BYTES].copy_from_slice(data.get(at..at.checked_add(BYTES)?)?);
    Some(u64::from_le_bytes(bytes))
}

/// Names for addresses of a file, from its Go table; none if it has no such table.
pub(super) fn names(file: &File, addresses: &[u64]) -> Vec<Vec<Name>> {
    let cache = ReadCache::new(file);
    let Ok(object) = object::File::parse(&cache) else { return Vec::new() };
    let Some(table) = GoTable::find(&object) else { return Vec::new() };
    addresses.iter().map(|address| table.names_at(*address)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table of the newest version with two functions: `main.outer` at 0x1000 to 0x1040, in which `main.inner` is inlined
    /// from 0x1010 to 0x1020, and `runtime.goexit` up to 0x1050.
    fn table() -> Vec<u8> {
        let word = |value: u64| value.to_le_bytes().to_vec();
        let half = |value: u32| value.to_le_bytes().to_vec();
        let names = b"\0main.outer\0main.inner\0runtime.goexit\0".to_vec();
        // Two files of one unit.
        let files = b"/src/outer.go\0/src/inner.go\0".to_vec();
        let units = [half(0), half(14)].concat();
        // Nothing; the stack: 0 for 4 bytes, then 24; files; lines 11, 21, 12; inlined: none, number 0, none.
        let values = [
            vec![0],
            vec![2, 4, 48, 60, 0],
            vec![2, 16, 2, 16, 1, 32, 0],
            vec![24, 16, 20, 16, 17, 32, 0],
            vec![0, 16, 2, 16, 1, 32, 0],
        ]
        .concat();
        let function = |entry, name, stack, file, line, tables: &[u32], other: &[u32]| {
            let fields = [entry, name, 0, 0, stack, file, line, tables.len() as u32, 0, 1].map(half).concat();
            let rest = [tables, other].concat().into_iter().flat_map(half).collect();
            [fields, vec![0, 0, 0, other.len() as u8], rest].concat()
        };
        let outer = function(0, 1, 1, 6, 13, &[0, 0, 20], &[u32::MAX, u32::MAX, u32::MAX, 0]);
        let goexit = function(0x40, 23, 1, 0, 0, &[], &[]);
        let first = 5 * 4;
        let entries = [0, first, 0x40, first + outer.len() as u32, 0x50].map(half).concat();
        let sections = [names, units, files, values, [entries, outer, goexit].concat()];
        let mut header = [half(0xffff_fff1), vec![0, 0, 1, 8], word(2), word(2), word(0x1000)].concat();
        let mut offset = 72;
        for section in &sections {
            header.extend(word(offset));
            offset += section.len() as u64;
        }
        [header, sections.concat()].concat()
    }

    /// One inlined call: `main.inner`, called at 0x1008.
    const TREE: [u8; 16] = [0, 0, 0, 0, 12, 0, 0, 0, 8, 0, 0, 0, 20, 0, 0, 0];

    fn parsed<'data>(data: &'data [u8], tree: &'data [u8]) -> Option<GoTable<'data>> {
        let table = GoTable::parse(data)?;
        Some(GoTable { inline_trees: Some(0x9000), sections: vec![(0x9000, tree)], ..table })
    }

    /// Functions, files, lines and inlined calls are found, and nothing outside of functions.
    #[test]
    fn names_are_found() {
        let data = table();
        let table = parsed(&data, &TREE).unwrap();
        let names = |address| -> Vec<String> {
            let text = |name: Name| {
                let file = name.file.unwrap_or_default();
                format!("{} {file}:{}", name.function, name.line.unwrap_or(0))
            };
            table.names_at(address).into_iter().map(text).collect()
        };
        assert_eq!(names(0x1000), ["main.outer /src/outer.go:11"]);
        assert_eq!(names(0x1018), ["main.outer /src/outer.go:11", "main.inner /src/inner.go:21"]);
        assert_eq!(names(0x103f), ["main.outer /src/outer.go:12"]);
        assert_eq!(names(0x1044), ["runtime.goexit :0"]);
        assert!(names(0xfff).is_empty() && names(0x1050).is_empty());
        let outer = table.function_at(0x1000).unwrap();
        let stack: Vec<_> = table.stack_bytes(outer).collect();
        assert_eq!(stack, [(0x1000, 0x1004, 0), (0x1004, 0x1040, 24)]);
    }

    proptest! {
        /// Whatever a table says: no panic, and no more stretches than there are bytes of code.
        #[test]
        fn any_table_is_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            length in any::<prop::sample::Index>(),
            address in 0xfff_u64..0x1060,
        ) {
            let mut data = table();
            for (at, byte) in changes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            data.truncate(length.index(data.len() + 1).max(data.len() / 2));
            if let Some(table) = parsed(&data, &TREE) {
                prop_assert!(table.names_at(address).len() <= MAX_INLINED + 1);
                for function in table.functions().take(10) {
                    let mut last = function.start;
                    for (start, end, _) in table.stack_bytes(function).take(1000) {
                        prop_assert!(start == last && end > start && end <= function.end);
                        last = end;
                    }
                }
            }
        }
    }
}
