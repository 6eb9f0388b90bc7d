//! Where functions start in a file whose symbols were stripped: each has an entry in `.eh_frame`, found through the sorted
//! table of `.eh_frame_hdr` (Linux Standard Base, "DWARF Extensions").

use std::fs::File;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, UnwindSection};
use object::read::{Object, ObjectSection, ReadCache};

use super::table::{ElfFile, MAX_SECTION_BYTES};

/// For each address in the file's own address space: where the function starts that it belongs to. `None` when the file
/// does not tell.
pub fn function_starts(file: &File, addresses: &[u64]) -> Vec<Option<u64>> {
    let cache = ReadCache::new(file);
    let object = object::File::parse(&cache).ok();
    let described = object.as_ref().and_then(Described::read);
    let start = |&address: &u64| described.as_ref()?.at(address).map(|(start, _)| start);
    addresses.iter().map(start).collect()
}

/// The functions, and parts of functions, that a file has unwind information of.
pub(super) struct Described<'data> {
    header: gimli::ParsedEhFrameHdr<EndianSlice<'data, LittleEndian>>,
    frames: EhFrame<EndianSlice<'data, LittleEndian>>,
    frames_address: u64,
    bases: BaseAddresses,
}

impl<'data> Described<'data> {
    pub(super) fn read(object: &ElfFile<'data>) -> Option<Self> {
        let section = |name: &str| {
            let section =
                object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES)?;
            Some((section.address(), section.data().ok()?))
        };
        let (header_address, header) = section(".eh_frame_hdr")?;
        let (frames_address, frames) = section(".eh_frame")?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header_address).set_eh_frame(frames_address);
        let header = EhFrameHdr::new(header, LittleEndian).parse(&bases, 8).ok()?;
        let mut frames = EhFrame::new(frames, LittleEndian);
        frames.set_address_size(8);
        Some(Self { header, frames, frames_address, bases })
    }

    /// Start and end of the one at an address.
    pub(super) fn at(&self, address: u64) -> Option<(u64, u64)> {
        let pointer = self.header.table()?.lookup(address, &self.bases).ok()?.direct().ok()?;
        // gimli's own `fde_for_address` believes that this can't be less.
        let offset = usize::try_from(pointer.checked_sub(self.frames_address)?).ok()?;
        let entry = self.frames.fde_from_offset(&self.bases, offset.into(), EhFrame::cie_from_offset).ok()?;
        let (start, end) = (entry.initial_address(), entry.initial_address().checked_add(entry.len())?);
        (start..end).contains(&address).then_some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn here() -> u64 {
        std::hint::black_box(1)
    }

    /// Addresses within a function of this test's own binary lead to its start; one outside of all code leads nowhere.
    #[test]
    fn finds_starts() {
        let function = here as fn() -> u64 as usize as u64;
        let file = File::open("/proc/self/exe").unwrap();
        let address = function - crate::symbol::own_start();
        assert_eq!(function_starts(&file, &[address, address + 1, 1]), [Some(address), Some(address), None]);
        let other = tempfile::tempfile().unwrap();
        assert_eq!(function_starts(&other, &[1, 2]), [None, None]);
    }
}
