//! Where functions start in a file whose symbols were stripped: each has an entry in `.eh_frame`, found through the sorted
//! table of `.eh_frame_hdr` (Linux Standard Base, "DWARF Extensions").

use std::fs::File;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindSection};
use object::read::{Object, ObjectSection, ReadCache};

use super::table::MAX_SECTION_BYTES;

/// For each address in the file's own address space: where the function starts that it belongs to. `None` when the file
/// does not tell.
pub fn function_starts(file: &File, addresses: &[u64]) -> Vec<Option<u64>> {
    starts(file, addresses).unwrap_or_else(|| vec![None; addresses.len()])
}

fn starts(file: &File, addresses: &[u64]) -> Option<Vec<Option<u64>>> {
    let cache = ReadCache::new(file);
    let object = object::File::parse(&cache).ok()?;
    let section = |name: &str| {
        let section = object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES)?;
        Some((section.address(), section.data().ok()?))
    };
    let ((frame_address, frame), (header_address, header)) =
        (section(".eh_frame")?, section(".eh_frame_hdr")?);
    let bases = BaseAddresses::default().set_eh_frame(frame_address).set_eh_frame_hdr(header_address);
    let header = EhFrameHdr::new(header, LittleEndian).parse(&bases, 8).ok()?;
    let table = header.table()?;
    let mut frames = EhFrame::new(frame, LittleEndian);
    frames.set_address_size(8);
    let start = |&address: &u64| {
        let entry = table.fde_for_address(&frames, &bases, address, EhFrame::cie_from_offset).ok()?;
        Some(entry.initial_address())
    };
    Some(addresses.iter().map(start).collect())
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
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let load = maps.lines().find(|line| line.ends_with(program.to_str().unwrap())).unwrap();
        let load = u64::from_str_radix(load.split('-').next().unwrap(), 16).unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        let address = function - load;
        assert_eq!(function_starts(&file, &[address, address + 1, 1]), [Some(address), Some(address), None]);
        let other = tempfile::tempfile().unwrap();
        assert_eq!(function_starts(&other, &[1, 2]), [None, None]);
    }
}
