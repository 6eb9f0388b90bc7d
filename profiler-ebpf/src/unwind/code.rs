//! Which file the code at an address comes from. User space keeps this current from the kernel's own records.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, LpmTrie};
use profiler_common::{CodeMapping, MAPPING_KEY_BITS, mapping_key};

use super::{Walker, mappings, place_of};

/// A mapping has an entry for each of the aligned blocks that it is made of.
const MAX_BLOCKS: u32 = 1 << 18;
/// Memory is used for entries that are there only.
const BPF_F_NO_PREALLOC: u32 = 1;

#[map]
static CODE_MAPPINGS: LpmTrie<[u8; 12], CodeMapping> =
    LpmTrie::with_max_entries(MAX_BLOCKS, BPF_F_NO_PREALLOC);

/// How often the mappings of any process have changed: user space counts, behind each change.
#[map]
static CODE_CHANGES: Array<u32> = Array::with_max_entries(1, 0);

const RECENT_BITS: u32 = 6;
const RECENT: usize = 1 << RECENT_BITS;
const PAGE_BITS: u32 = 12;

/// Mappings that were found before, by the page that was looked for. Samples of a server have most of their return addresses in
/// common, and a search in the trie costs as much as all else that a step does.
#[repr(C)]
pub(super) struct Recent {
    /// The process whose mappings these are, and how often mappings had changed.
    of: u64,
    mappings: [CodeMapping; RECENT],
}

impl Recent {
    /// Changes whenever what was remembered of code and its process may be out of date.
    #[inline(always)]
    pub(super) fn of(&self) -> u64 {
        self.of
    }
}

/// How often the mappings of any process have changed.
#[inline(always)]
pub(crate) fn code_changes() -> u32 {
    CODE_CHANGES.get(0).copied().unwrap_or(0)
}

/// Starts a walk: forgets what may be out of date.
#[inline(always)]
pub(super) fn begin(walker: &mut Walker) {
    walker.mapping.end = 0;
    walker.is_found = 0;
    let of = walker.owner << 32 | u64::from(code_changes());
    if walker.recent.of != of {
        walker.recent.of = of;
        for mapping in &mut walker.recent.mappings {
            mapping.end = 0;
        }
    }
}

/// Sets the walker's mapping to that of its address; false when there is none.
#[inline(always)]
pub(super) fn find(walker: &mut Walker) -> bool {
    let address = walker.instruction_pointer - walker.is_return;
    let has = |mapping: &CodeMapping| address >= mapping.start && address < mapping.end;
    if has(&walker.mapping) {
        return true;
    }
    walker.is_found = 0;
    let slot = place_of(address >> PAGE_BITS, RECENT_BITS);
    let recent = &mut walker.recent.mappings[slot & (RECENT - 1)];
    if !has(recent) {
        let key = Key::new(MAPPING_KEY_BITS, mapping_key(walker.owner as u32, address));
        match CODE_MAPPINGS.get(key) {
            Some(mapping) => *recent = *mapping,
            None => return mappings::find(walker, address),
        }
    }
    walker.mapping = *recent;
    true
}
