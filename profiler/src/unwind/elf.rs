//! What several readers need of an ELF file: pieces of it, without all that lies around them. A Node is 100 MB.

use object::LittleEndian;
use object::elf::{SHN_UNDEF, Sym64};
use object::read::{Object, ObjectSection, ObjectSegment, ReadRef};

use super::table::MAX_SECTION_BYTES;

/// A symbol with a place in the file.
pub(super) struct Symbol<'data> {
    /// The table of names from this name on: the name ends at the first zero.
    name: &'data [u8],
    pub(super) address: u64,
    pub(super) size: u64,
}

impl<'data> Symbol<'data> {
    /// Cheaper than to find out where the name ends: most symbols are of no interest, and are told by their first characters.
    pub(super) fn starts_with(&self, prefix: &[u8]) -> bool {
        self.name.starts_with(prefix)
    }

    /// Whether that is the whole name.
    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0))
    }

    /// The name.
    pub(super) fn name(&self) -> &'data [u8] {
        &self.name[..memchr::memchr(0, self.name).unwrap_or(self.name.len())]
    }
}

/// A section as the file has it; `None` for one that is not there or too large.
pub(super) fn section<'data, R: ReadRef<'data>>(
    object: &object::File<'data, R>,
    name: &str,
) -> Option<&'data [u8]> {
    object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES)?.data().ok()
}

/// The defined symbols of a table, with its table of names. Both are read as a whole: asking for one name at a time is slow, and a
/// Node has 130,000.
pub(super) fn symbols<'data>(
    table: &'data [u8],
    names: &'data [u8],
) -> impl Iterator<Item = Symbol<'data>> + use<'data> {
    let count = table.len() / size_of::<Sym64<LittleEndian>>();
    let symbols = object::pod::slice_from_bytes::<Sym64<LittleEndian>>(table, count);
    let symbols = symbols.map(|(symbols, _)| symbols).unwrap_or_default();
    symbols.iter().filter(|symbol| symbol.st_shndx.get(LittleEndian) != SHN_UNDEF).filter_map(|symbol| {
        let name = names.get(symbol.st_name.get(LittleEndian) as usize..)?;
        let (address, size) = (symbol.st_value.get(LittleEndian), symbol.st_size.get(LittleEndian));
        Some(Symbol { name, address, size })
    })
}

/// What the file has at addresses of its own address space. Only that is read, not the segment that it is in.
pub(super) fn bytes<'data, R: ReadRef<'data>>(
    object: &object::File<'data, R>,
    address: u64,
    size: u64,
) -> Option<&'data [u8]> {
    let object::File::Elf64(elf) = object else { return None };
    object.segments().find_map(|segment| {
        let within = address.checked_sub(segment.address())?;
        let (offset, length) = segment.file_range();
        if within.checked_add(size)? > length {
            return None;
        }
        elf.data().read_bytes_at(offset.checked_add(within)?, size).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use object::read::ReadCache;

    use super::*;

    /// A symbol of this test's own binary is found by its whole name, and what is read at its address is its value.
    #[test]
    fn reads_a_symbol() {
        #[unsafe(no_mangle)]
        #[used]
        static VALUE_THAT_A_TEST_LOOKS_FOR: [u8; 8] = *b"here I a";
        let file = File::open("/proc/self/exe").unwrap();
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).unwrap();
        let (table, names) = (section(&object, ".symtab").unwrap(), section(&object, ".strtab").unwrap());
        let find = |name: &[u8]| symbols(table, names).find(|symbol| symbol.is_called(name));
        assert!(find(b"VALUE_THAT_A_TEST_LOOKS_FO").is_none());
        let symbol = find(b"VALUE_THAT_A_TEST_LOOKS_FOR").unwrap();
        assert_eq!(symbol.name(), b"VALUE_THAT_A_TEST_LOOKS_FOR");
        assert_eq!(bytes(&object, symbol.address, symbol.size), Some(&VALUE_THAT_A_TEST_LOOKS_FOR[..]));
        assert_eq!(bytes(&object, u64::MAX, 8), None);
    }
}
