//! Code that user space has not told of, looked up in the kernel's own tree of the process's mappings.
//!
//! Between a process's start and the moment at which user space has read of it, some milliseconds pass: longer than many a process
//! lives. What it runs are most often files that others run or ran before, so that their tables are here: these are known by
//! their inodes.
//!
//! The tree (`include/linux/maple_tree.h`, since Linux 6.1) is read without its lock. It may change meanwhile, so what is found counts
//! only if it is a mapping that holds the address. `bpf_find_vma` would do for one address of a walk only: it gives the lock back
//! after the interrupt that took the sample, and refuses to take it again before that.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use profiler_common::{CodeFile, CodeFileKey, CodeMapping, Interpreter, MAX_CODE_FILES};

use super::Walker;
use crate::targets::{KERNEL_OFFSETS, field, memory};

/// The files whose tables are here, from user space.
#[map]
static CODE_FILES: HashMap<CodeFileKey, CodeFile> = HashMap::with_max_entries(MAX_CODE_FILES, 0);

/// A node of the tree: the address of its parent, then pivots, then slots.
type Node = [u64; NODE_WORDS];

/// The way down the tree.
#[repr(C)]
pub(super) struct Descent {
    address: u64,
    /// The next node, with its kind.
    next: u64,
    /// 1 when that is the mapping, and no node.
    is_mapping: u64,
    /// Where in the node the way goes on.
    slot: u64,
    node: Node,
}

const NODE_WORDS: usize = 32;
/// Most nodes from the root to a mapping: each has five or more below it, and there are at most 65,530 mappings, usually.
const MAX_LEVELS: u32 = 8;
/// The low bits of a node's address tell its kind.
const NODE_MASK: u64 = 255;
const KIND_SHIFT: u32 = 3;
const KIND_MASK: u64 = 15;
/// `enum maple_type`: leaves are 1, nodes above them 2, or 3 with gaps, which have fewer pivots. Each has a slot more.
const LEAF: u64 = 1;
const RANGES_AND_GAPS: u64 = 3;
const MANY_PIVOTS: usize = 15;
const FEW_PIVOTS: usize = 9;

const PAGE_BITS: u32 = 12;

/// Sets the walker's mapping to the kernel's, where its file is known; false otherwise. Called, not copied: it is seldom needed.
#[inline(never)]
pub(super) fn find(walker: &mut Walker, address: u64) -> bool {
    if KERNEL_OFFSETS.load().memory_tree == 0 {
        return false;
    }
    let Some(mapping) = mapping_of(walker, address) else { return false };
    let Some(found) = described(mapping, address) else { return false };
    walker.mapping = found;
    walker.is_found = 1;
    true
}

/// Whether the process has no user stack: it is ending, or starting another program, and its memory was given up. Until the new program
/// is in place, its registers are still those of the one before.
#[inline(never)]
pub(super) fn is_without_stack() -> bool {
    let code = memory().and_then(|memory| field(memory, KERNEL_OFFSETS.load().memory_code));
    code.unwrap_or(0_u64) == 0
}

/// The `vm_area_struct` that the tree has for an address, if it was not changed meanwhile.
#[inline(always)]
fn mapping_of(walker: &mut Walker, address: u64) -> Option<u64> {
    let root = field(memory()?, KERNEL_OFFSETS.load().memory_tree)?;
    let descent = &mut walker.descent;
    (descent.address, descent.next, descent.is_mapping) = (address, root, 0);
    let mut context = core::ptr::from_mut(&mut walker.descent);
    // SAFETY: `descend` has the signature of a loop callback, and the context outlives the call.
    unsafe {
        bpf_loop(MAX_LEVELS, descend as *mut c_void, core::ptr::from_mut(&mut context).cast(), 0);
    }
    if walker.descent.is_mapping == 0 { None } else { Some(walker.descent.next) }
}

/// Goes from a node to the one below it that an address is in. Returns 1 behind the last. Without branches on the kind and the pivots:
/// the verifier would follow both sides of each.
unsafe extern "C" fn descend(_index: u64, context: *mut *mut Descent) -> i64 {
    // SAFETY: `bpf_loop` hands back the context that it was given.
    let descent = unsafe { &mut **context };
    let kind = descent.next >> KIND_SHIFT & KIND_MASK;
    if !(LEAF..=RANGES_AND_GAPS).contains(&kind) {
        return 1;
    }
    // SAFETY: the helper checks the source, and writes as much as a node has.
    let outcome = unsafe {
        let node = (descent.next & !NODE_MASK) as *const c_void;
        bpf_probe_read_kernel(descent.node.as_mut_ptr().cast(), size_of::<Node>() as u32, node)
    };
    if outcome != 0 {
        return 1;
    }
    let pages = descent.address >> PAGE_BITS;
    // How many pivots in a range of them are below the address.
    let below = |range: core::ops::Range<usize>| {
        let pivots = &descent.node[1 + range.start..1 + range.end];
        pivots.iter().fold(0, |below, pivot| below + is_below(pivot >> PAGE_BITS, pages))
    };
    let is_long = 1 - (kind & kind >> 1);
    descent.slot = 1
        + FEW_PIVOTS as u64
        + below(0..FEW_PIVOTS)
        + is_long * ((MANY_PIVOTS - FEW_PIVOTS) as u64 + below(FEW_PIVOTS..MANY_PIVOTS));
    // SAFETY: the field was written before. The compiler must not know what it can be, and leave out the bound that verifiers need.
    let slot = unsafe { core::ptr::addr_of!(descent.slot).read_volatile() };
    descent.next = descent.node[slot as usize & (NODE_WORDS - 1)];
    descent.is_mapping = kind & !(kind >> 1) & 1;
    descent.is_mapping as i64
}

/// 1 when a pivot is below an address, both in pages, and is used; else 0. A pivot is the last byte that its slot is for, and zero where it is
/// not used.
#[inline(always)]
fn is_below(pivot: u64, address: u64) -> u64 {
    (0_u64.wrapping_sub(pivot) & pivot.wrapping_sub(address)) >> 63
}

/// What is mapped there, if it holds the address and its file is known.
#[inline(always)]
fn described(mapping: u64, address: u64) -> Option<CodeMapping> {
    let offsets = KERNEL_OFFSETS.load();
    let start: u64 = field(mapping, offsets.mapping_start)?;
    let end: u64 = field(mapping, offsets.mapping_end)?;
    if address < start || address >= end {
        return None;
    }
    let file: u64 = field(mapping, offsets.mapping_file)?;
    let first_page: u64 = field(mapping, offsets.mapping_offset)?;
    let offset = first_page << PAGE_BITS;
    let CodeFile { to_row, table, .. } = match file_of(field(file, offsets.file_inode)?, offset) {
        Some(known) => known,
        None => file_of(inode_of_user(file)?, offset)?,
    };
    let to_row = to_row.wrapping_sub(start);
    Some(CodeMapping { start, end, to_row, table, interpreter: Interpreter::None as u32 })
}

/// What is known of a part of a file.
#[inline(always)]
fn file_of(inode: u64, offset: u64) -> Option<CodeFile> {
    let offsets = KERNEL_OFFSETS.load();
    let superblock: u64 = field(inode, offsets.inode_superblock)?;
    let key = CodeFileKey {
        inode: field(inode, offsets.inode_number)?,
        offset,
        device: field(superblock, offsets.superblock_device)?,
        reserved: 0,
    };
    // SAFETY: a copy of a value that is replaced as a whole.
    unsafe { CODE_FILES.get(key) }.copied()
}

/// The inode that user space knows a file of a layered file system by, as containers have: what is mapped is the file below. Which files are
/// such ones is told by a bit that differs between kernels; of another one this reads what is behind it, which leads nowhere, or to no
/// file that is known.
#[inline(always)]
fn inode_of_user(file: u64) -> Option<u64> {
    let offsets = KERNEL_OFFSETS.load();
    if offsets.backing_file_entry == 0 {
        return None;
    }
    let entry: u64 = field(file, offsets.backing_file_entry)?;
    field(entry, offsets.entry_inode)
}
