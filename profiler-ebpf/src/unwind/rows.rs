//! Unwind rows, made by user space from a file's `.eh_frame`: for each stretch of code, where its caller's frame is.

use core::ffi::c_void;

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_task_pt_regs, generated};
use aya_ebpf::macros::btf_map;
use profiler_common::{
    CfaKind, CodeMapping, MAX_PAGES, MAX_TABLES, PageStarts, ROWS_PER_PAGE, RowPage, Rule, StackEnd,
};

use super::{Walker, place_of, read, unreadable};

/// Tables of one outer map may differ in length.
const BPF_F_INNER_MAP: usize = 0x1000;

/// A table for each file: page 0 is the index, the others hold the rows.
#[btf_map]
static UNWIND_TABLES: ArrayOfMaps<Array<RowPage, 1, BPF_F_INNER_MAP>, { MAX_TABLES as usize }> =
    ArrayOfMaps::new();

/// Size of the `ucontext` fields before the registers of a signal frame (`struct rt_sigframe` and `struct sigcontext`
/// of `arch/x86`): from `r8` on, 8 bytes each.
const UCONTEXT_REGISTERS: u64 = 40;
const UCONTEXT_RBP: u64 = UCONTEXT_REGISTERS + 10 * 8;
const UCONTEXT_RSP: u64 = UCONTEXT_REGISTERS + 15 * 8;

/// Room for what lies between a saved frame pointer and the return address: functions save six registers at most.
pub(super) type Saved = [u64; 8];

#[inline(always)]
pub(super) fn step(walker: &mut Walker) -> Result<(), StackEnd> {
    let rule = find(walker).ok_or(StackEnd::NoUnwindRow)?;
    let frame_address = match rule.cfa {
        CfaKind::EndOfStack if rule.register == 0 => return Err(StackEnd::Outermost),
        CfaKind::EndOfStack => {
            if walker.is_innermost == 0 {
                return Err(StackEnd::NoUnwindRow);
            }
            let frame_address = offset(walker.stack_pointer, rule);
            walker.stack_pointer = 0; // the return address is not on the stack, which may be as it was for the caller
            let return_address = innermost_register(rule.register)?;
            return walker.return_to(frame_address, walker.frame_pointer, return_address);
        }
        CfaKind::Unknown => return Err(StackEnd::NoUnwindRow),
        CfaKind::SignalFrame => return interrupted(walker),
        CfaKind::StackPointer => offset(walker.stack_pointer, rule),
        CfaKind::FramePointer => {
            if rule.register != 0 {
                walker.stack_pointer = 0; // the caller's stack may lie anywhere
            }
            offset(walker.frame_pointer, rule)
        }
        CfaKind::FramePointerDeref if rule.register != 0 => {
            let is_indexed = rule.register == Rule::INDEXED;
            if is_indexed && walker.is_innermost == 0 {
                return Err(StackEnd::NoUnwindRow);
            }
            let (index, words) = if is_indexed { (innermost_register(9)?, 1) } else { (0, rule.register) };
            let kept: u64 = read(offset(walker.stack_pointer, rule).wrapping_add(index.wrapping_mul(8)))?;
            kept.wrapping_add(u64::from(words) * 8)
        }
        CfaKind::FramePointerDeref => {
            let frame_address = read(offset(walker.frame_pointer, rule))?;
            return finish(walker, frame_address, walker.frame_pointer);
        }
        CfaKind::Plt => {
            let pushed = if walker.instruction_pointer & 15 >= 11 { 8 } else { 0 };
            walker.stack_pointer.wrapping_add(8 + pushed)
        }
        CfaKind::Register => {
            // Functions leave these to their callers only where both are one piece of assembly, which knows that they
            // are kept. The others may have been saved by any function since.
            const LEFT_TO_CALLERS: u32 = 0b1111_0011_0111;
            let is_kept = walker.is_innermost | u64::from(LEFT_TO_CALLERS >> (rule.register & 15) & 1);
            if walker.is_interrupted != 0 || is_kept == 0 {
                return Err(StackEnd::NoUnwindRow);
            }
            offset(innermost_register(rule.register)?, rule)
        }
    };
    let saved = u64::from(rule.frame_pointer_below_cfa);
    if saved == 0 {
        let return_address = read(frame_address.wrapping_sub(8))?;
        return walker.return_to(frame_address, walker.frame_pointer, return_address);
    }
    if saved <= size_of::<Saved>() as u64 {
        // One read gives both.
        let from = frame_address.wrapping_sub(saved);
        let to = walker.saved.as_mut_ptr();
        // SAFETY: the helper checks the address, and that much fits.
        let outcome =
            unsafe { generated::bpf_probe_read_user(to.cast(), saved as u32, from as *const c_void) };
        if outcome != 0 {
            return Err(unreadable(from));
        }
        let return_address = walker.saved[(saved as usize / 8 - 1) & (walker.saved.len() - 1)];
        return walker.return_to(frame_address, walker.saved[0], return_address);
    }
    finish(walker, frame_address, frame_address.wrapping_sub(saved))
}

/// Goes to the caller, whose frame pointer was saved at an address.
#[inline(always)]
fn finish(walker: &mut Walker, frame_address: u64, saved_at: u64) -> Result<(), StackEnd> {
    let return_address = read(frame_address.wrapping_sub(8))?;
    let frame_pointer = read(saved_at)?;
    walker.return_to(frame_address, frame_pointer, return_address)
}

#[inline(always)]
fn offset(base: u64, rule: Rule) -> u64 {
    base.wrapping_add(i64::from(rule.cfa_offset) as u64)
}

/// Goes on where a signal interrupted the thread.
#[inline(always)]
fn interrupted(walker: &mut Walker) -> Result<(), StackEnd> {
    let context = walker.stack_pointer;
    let frame_pointer = read(context.wrapping_add(UCONTEXT_RBP))?;
    let [stack_pointer, instruction_pointer] = read::<[u64; 2]>(context.wrapping_add(UCONTEXT_RSP))?;
    // Not a call: the address is that of the next instruction. The stack may be another one.
    walker.stack_pointer = stack_pointer;
    walker.frame_pointer = frame_pointer;
    walker.instruction_pointer = instruction_pointer;
    walker.is_return = 0;
    walker.is_innermost = 0;
    walker.is_interrupted = 1;
    Ok(())
}

/// A register of the innermost frame by its DWARF number.
#[inline(always)]
fn innermost_register(number: u32) -> Result<u64, StackEnd> {
    // SAFETY: as in `user_stack`, which found them to be there.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
    if registers.is_null() {
        return Err(StackEnd::NoUserStack);
    }
    // SAFETY: not null, and the verifier knows the layout.
    let registers = unsafe { &*registers };
    Ok(match number {
        0 => registers.rax,
        1 => registers.rdx,
        2 => registers.rcx,
        3 => registers.rbx,
        4 => registers.rsi,
        5 => registers.rdi,
        8 => registers.r8,
        9 => registers.r9,
        10 => registers.r10,
        11 => registers.r11,
        12 => registers.r12,
        13 => registers.r13,
        14 => registers.r14,
        15 => registers.r15,
        _ => return Err(StackEnd::NoUnwindRow),
    })
}

/// Rules that were found before. Samples of a server have most of their return addresses in common, and a search costs more than
/// all else that a step does.
#[repr(C)]
pub(super) struct Found {
    rules: [FoundRule; FOUND_RULES],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct FoundRule {
    /// The table and the address in it. A table's number is not used again, so nothing is ever out of date.
    place: u64,
    rule: u64,
}

const FOUND_BITS: u32 = 9;
const FOUND_RULES: usize = 1 << FOUND_BITS;

/// The rule for the walker's address.
#[inline(always)]
fn find(walker: &mut Walker) -> Option<Rule> {
    let address = (walker.instruction_pointer - walker.is_return).wrapping_add(walker.mapping.to_row);
    if address > u64::from(u32::MAX) {
        return None;
    }
    let table = walker.mapping.table;
    let place = u64::from(table) << 32 | address;
    let slot = place_of(place, FOUND_BITS);
    let found = &mut walker.found.rules[slot & (FOUND_RULES - 1)];
    if found.place != place {
        let rule = search_table(table, address)?;
        // A mapping may be known some milliseconds before its table is in place.
        if rule == 0 {
            return None;
        }
        found.rule = u64::from(rule);
        found.place = place;
    }
    Some(Rule::unpack(found.rule as u32))
}

/// The packed rule of an address: a search in the table's index, then one in the page.
#[inline(always)]
fn search_table(table: u32, address: u64) -> Option<u32> {
    let slot = CodeMapping::table_slot(table);
    let index = UNWIND_TABLES.get_value_ptr_mut(slot, &0)?.cast::<PageStarts>();
    // SAFETY: page 0 of a table, which is as long as an index.
    let index = unsafe { &*index };
    let page = search::<MAX_PAGES>(address, |at| index[at]);
    let rows = UNWIND_TABLES.get_value_ptr_mut(slot, &(page as u32 + 1))?;
    // SAFETY: a page of the table. User space fills a table before it is in the outer map, and never changes it.
    let rows = unsafe { &*rows };
    let row = search::<ROWS_PER_PAGE>(address, |at| rows[at].start);
    let row = rows[row & (ROWS_PER_PAGE - 1)];
    // The table may have been put in place between its index and its page.
    if u64::from(row.start) <= address { Some(row.rule) } else { None }
}

/// The last of `LENGTH` sorted starts that is not behind the address. Without branches: the verifier would follow
/// both sides of each.
#[inline(always)]
fn search<const LENGTH: usize>(address: u64, start: impl Fn(usize) -> u32) -> usize {
    let mut low = 0_usize;
    let mut step = LENGTH / 2;
    while step > 0 {
        let next = (low + step) & (LENGTH - 1);
        // The top bit of the difference: 1 when the start is behind the address.
        let is_behind = (address.wrapping_sub(u64::from(start(next))) >> 63) as usize;
        low += step * (1 - is_behind);
        step /= 2;
    }
    low & (LENGTH - 1)
}
