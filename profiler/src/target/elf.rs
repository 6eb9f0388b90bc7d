//! The little that is read of a target's program files. They may be hostile and may change while they are read,
//! so they are read through buffers, never mapped, and every read has a bound.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use memchr::memmem::Finder;
use object::elf::{FileHeader64, ProgramHeader64, SHT_DYNSYM, SHT_NOBITS, SectionHeader64, Sym64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{LittleEndian, ReadCache, ReadRef};

/// The most that is read in one piece, in bytes: Node's dynamic string table is 5 MiB.
const PIECE_LIMIT: u64 = 32 * 1024 * 1024;
/// The most of a file that is searched for a text, in bytes.
const SEARCH_LIMIT: u64 = 160 * 1024 * 1024;
/// Bytes that are searched at a time.
const SEARCH_CHUNK: usize = 256 * 1024;

/// A 64-bit little-endian ELF file.
#[derive(Debug)]
pub(crate) struct Elf {
    cache: ReadCache<File>,
    /// The same file, for searches: the cache would keep all that was searched.
    file: File,
}

/// Where a section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) size: u64,
}

/// A reader that refuses pieces of absurd size before memory is taken for them.
#[derive(Clone, Copy, Debug)]
struct Limited<'data>(&'data ReadCache<File>);

impl<'data> ReadRef<'data> for Limited<'data> {
    fn len(self) -> Result<u64, ()> {
        self.0.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'data [u8], ()> {
        if size > PIECE_LIMIT { Err(()) } else { self.0.read_bytes_at(offset, size) }
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'data [u8], ()> {
        self.0.read_bytes_at_until(range, delimiter)
    }
}

impl Elf {
    /// `None` when the file is no 64-bit little-endian ELF file.
    pub(crate) fn open(file: File) -> Option<Self> {
        let elf = Self { cache: ReadCache::new(file.try_clone().ok()?), file };
        elf.header()?;
        Some(elf)
    }

    fn data(&self) -> Limited<'_> {
        Limited(&self.cache)
    }

    fn header(&self) -> Option<&FileHeader64<LittleEndian>> {
        let header = FileHeader64::<LittleEndian>::parse(self.data()).ok()?;
        header.endian().ok().map(|_| header)
    }

    fn sections(&self) -> &[SectionHeader64<LittleEndian>] {
        self.header()
            .and_then(|header| header.section_headers(LittleEndian, self.data()).ok())
            .unwrap_or_default()
    }

    fn segments(&self) -> &[ProgramHeader64<LittleEndian>] {
        self.header()
            .and_then(|header| header.program_headers(LittleEndian, self.data()).ok())
            .unwrap_or_default()
    }

    /// The section of this name, if it has bytes in the file.
    pub(crate) fn section(&self, name: &str) -> Option<Section> {
        let header = self.header()?;
        let names = header.section_strings(LittleEndian, self.data(), self.sections()).ok()?;
        let section = self
            .sections()
            .iter()
            .find(|section| section.name(LittleEndian, names) == Ok(name.as_bytes()))?;
        if section.sh_type(LittleEndian) == SHT_NOBITS {
            return None;
        }
        Some(Section { offset: section.sh_offset(LittleEndian), size: section.sh_size(LittleEndian) })
    }

    /// Bytes of the file; fewer than asked for at its end.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let end = offset.checked_add(length)?.min(self.data().len().ok()?);
        self.data().read_bytes_at(offset, end.checked_sub(offset)?).ok()
    }

    /// Bytes at a virtual address, up to the end of its segment.
    pub(crate) fn read_address(&self, address: u64, length: u64) -> Option<&[u8]> {
        self.segments()
            .iter()
            .filter(|segment| segment.p_type(LittleEndian) == object::elf::PT_LOAD)
            .find_map(|segment| {
                let within = address.checked_sub(segment.p_vaddr(LittleEndian))?;
                let left = segment.p_filesz(LittleEndian).checked_sub(within).filter(|left| *left > 0)?;
                self.read(segment.p_offset(LittleEndian).checked_add(within)?, left.min(length))
            })
    }

    /// The virtual address of an offset in the code of the file. A mapping starts with the page that its segment starts in.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        const PAGE: u64 = 4096;
        let loaded =
            self.segments().iter().filter(|segment| segment.p_type(LittleEndian) == object::elf::PT_LOAD);
        loaded
            .map(|segment| (segment.p_offset(LittleEndian), segment))
            .filter(|(start, segment)| {
                let end = start.saturating_add(segment.p_filesz(LittleEndian));
                (start & !(PAGE - 1)..end).contains(&offset)
                    && segment.p_flags(LittleEndian) & object::elf::PF_X == object::elf::PF_X
            })
            .map(|(start, segment)| segment.p_vaddr(LittleEndian).wrapping_add(offset.wrapping_sub(start)))
            .next()
    }

    /// The first loaded segment that is written to and not run: where Go keeps its build information when there are no sections.
    pub(crate) fn data_segment(&self) -> Option<Section> {
        let wanted = object::elf::PF_W;
        let mask = object::elf::PF_W | object::elf::PF_X;
        self.segments()
            .iter()
            .find(|segment| {
                segment.p_type(LittleEndian) == object::elf::PT_LOAD
                    && segment.p_flags(LittleEndian) & mask == wanted
            })
            .map(|segment| Section {
                offset: segment.p_offset(LittleEndian),
                size: segment.p_filesz(LittleEndian),
            })
    }

    /// Address of an exported symbol.
    pub(crate) fn exported(&self, name: &str) -> Option<u64> {
        let table = self.sections().iter().find(|section| section.sh_type(LittleEndian) == SHT_DYNSYM)?;
        let symbols: &[Sym64<LittleEndian>] = table.data_as_array(LittleEndian, self.data()).ok()?;
        let link = usize::try_from(table.sh_link(LittleEndian)).ok()?;
        let strings = self.sections().get(link)?.data(LittleEndian, self.data()).ok()?;
        symbols
            .iter()
            .find(|symbol| {
                let start = usize::try_from(symbol.st_name(LittleEndian)).unwrap_or(usize::MAX);
                symbol.st_shndx(LittleEndian) != object::elf::SHN_UNDEF
                    && strings
                        .get(start..)
                        .and_then(|rest| rest.strip_prefix(name.as_bytes()))
                        .is_some_and(|rest| rest.first() == Some(&0))
            })
            .map(|symbol| symbol.st_value(LittleEndian))
    }

    /// Searches a section for a text, and gives what follows each occurrence (at most `tail` bytes) to `accept`
    /// until that returns something.
    pub(crate) fn search<T>(
        &self,
        section: Section,
        text: &[u8],
        tail: usize,
        accept: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let finder = Finder::new(text);
        let end = section.offset.checked_add(section.size.min(SEARCH_LIMIT))?;
        let overlap = text.len() + tail;
        let mut buffer = vec![0; SEARCH_CHUNK + overlap];
        let mut offset = section.offset;
        loop {
            let wanted = end.saturating_sub(offset).min(buffer.len() as u64) as usize;
            let filled = read_up_to(&self.file, &mut buffer[..wanted], offset)?;
            let last = filled < buffer.len();
            for start in finder.find_iter(&buffer[..filled]) {
                let after = start + text.len();
                // One too near to the end is seen again, whole, in the next chunk.
                if (last || after + tail <= filled)
                    && let Some(found) = accept(&buffer[after..filled.min(after + tail)])
                {
                    return Some(found);
                }
            }
            if last {
                return None;
            }
            offset += (filled - overlap) as u64;
        }
    }
}

/// Fills the buffer as far as the file goes.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.checked_add(filled as u64)?) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(filled)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A text that lies across the border of two chunks is found, with what follows it.
    #[test]
    fn search_sees_across_chunks() {
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0_u8; SEARCH_CHUNK * 3];
        bytes[SEARCH_CHUNK - 2..SEARCH_CHUNK + 6].copy_from_slice(b"mark/v20");
        file.write_all(&bytes).unwrap();
        let elf = Elf { cache: ReadCache::new(file.try_clone().unwrap()), file };
        let all = Section { offset: 0, size: bytes.len() as u64 };
        assert_eq!(elf.search(all, b"mark/", 3, |rest| Some(rest.to_vec())), Some(b"v20".to_vec()));
        assert_eq!(elf.search(all, b"missing", 3, |_| Some(())), None);
        let cut = Section { offset: 0, size: SEARCH_CHUNK as u64 };
        assert_eq!(elf.search(cut, b"mark/", 3, |_| Some(())), None);
    }

    /// The test's own program is an ELF file with the sections that every program has.
    #[test]
    fn reads_the_running_test() {
        let elf = Elf::open(File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(elf.section(".rodata").unwrap().size > 0);
        assert_eq!(elf.section(".no-such-section"), None);
        assert!(elf.exported("no_such_symbol").is_none());
    }

    proptest::proptest! {
        /// Bytes that only look like an ELF file never panic.
        #[test]
        fn hostile_files_are_survived(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 64..2048)) {
            bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Some(elf) = Elf::open(file) {
                elf.section(".rodata");
                elf.exported("Py_Version");
                elf.data_segment();
                elf.read_address(0x1000, 64);
            }
        }
    }
}
