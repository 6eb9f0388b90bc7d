//! Which file the code at an address comes from. User space keeps this current from the kernel's own records.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LpmTrie;
use aya_ebpf::maps::lpm_trie::Key;
use profiler_common::{CodeMapping, MAPPING_KEY_BITS, mapping_key};

use super::Walker;

/// A mapping has an entry for each of the aligned blocks that it is made of.
const MAX_BLOCKS: u32 = 1 << 18;
/// Memory is used for entries that are there only.
const BPF_F_NO_PREALLOC: u32 = 1;

#[map]
static CODE_MAPPINGS: LpmTrie<[u8; 12], CodeMapping> =
    LpmTrie::with_max_entries(MAX_BLOCKS, BPF_F_NO_PREALLOC);

/// Sets the walker's mapping to that of its address; false when there is none.
#[inline(always)]
pub(super) fn find(walker: &mut Walker) -> bool {
    let address = walker.instruction_pointer - walker.is_return;
    if address >= walker.mapping.start && address < walker.mapping.end {
        return true;
    }
    core::mem::swap(&mut walker.mapping, &mut walker.other_mapping);
    if address >= walker.mapping.start && address < walker.mapping.end {
        return true;
    }
    let key = Key::new(MAPPING_KEY_BITS, mapping_key(walker.owner as u32, address));
    match CODE_MAPPINGS.get(key) {
        Some(mapping) => {
            walker.mapping = *mapping;
            true
        }
        None => false,
    }
}
