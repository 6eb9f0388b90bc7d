//! Where CPython 3.9 to 3.13 keep what tasks are made of.

use aya_ebpf::helpers::generated;
use profiler_common::{InstanceValues, PythonLayout, StackEnd};

use crate::unwind::python::at;
use crate::unwind::{read, unreadable};

/// As much as is read of a callback at once. Never more than the object has: it may be the last of its mapping.
pub(super) type Words = [u64; 16];
/// Of any callback, and of a function, which has its name at 104 in 3.9.
pub(super) const CALLBACK_BYTES: u32 = 32;
pub(super) const FUNCTION_BYTES: u32 = 112;

// Where CPython 3.9 to 3.13 keep things in an object, in bytes: `Modules/_asynciomodule.c` (`FutureObj`, `TaskObj`,
// `TaskStepMethWrapper`, `TaskWakeupMethWrapper`), `Modules/_functoolsmodule.c` (`partialobject`), `Include/cpython/methodobject.h`,
// `classobject.h`, `cellobject.h`, `tupleobject.h`, `listobject.h`, and the slots of `Handle` in `Lib/asyncio/events.py`, which are sorted.
pub(super) const FUTURE_CALLBACK: u32 = 24;
pub(super) const FUTURE_CALLBACKS: u32 = 40;
pub(super) const HANDLE_CALLBACK: u32 = 24;
pub(super) const OBJECT_TYPE: u32 = 8;
pub(super) const WRAPPER_TASK: u32 = 16;
pub(super) const BUILTIN_DEFINITION: u32 = 16;
pub(super) const BUILTIN_SELF: u32 = 24;
pub(super) const METHOD_FUNCTION: u32 = 16;
pub(super) const METHOD_SELF: u32 = 24;
pub(super) const PARTIAL_FUNCTION: u32 = 16;
pub(super) const PARTIAL_ARGUMENTS: u32 = 24;
pub(super) const CELL_CONTENT: u32 = 16;
pub(super) const LIST_SIZE: u32 = 16;
pub(super) const LIST_ITEMS: u32 = 24;
pub(super) const TUPLE_SIZE: u32 = 16;
pub(super) const TUPLE_ITEMS: u32 = 24;
pub(super) const TYPE_SIZE: u32 = 32;
/// An object without slots has less than this, one with slots these and then its slots.
pub(super) const OBJECT_BYTES: u64 = 16;
pub(super) const LARGEST_WITHOUT_SLOTS: u64 = 32;
/// Until 3.10: the dictionary of an object without slots; how many attributes it has, and its values if it shares the keys with
/// others of its class; else where its entries are (`Include/cpython/dictobject.h`, `Objects/dict-common.h`).
const OBJECT_DICTIONARY: u32 = 16;
const DICTIONARY_USED: u32 = 16;
const DICTIONARY_KEYS: u32 = 32;
const DICTIONARY_VALUES: u32 = 40;
const KEYS_SIZE: u32 = 8;
const KEYS_ENTRIES: u32 = 32;
const KEYS_INDICES: u64 = 40;
const ENTRY_VALUE: u64 = 16;
const ENTRY_BYTES: u64 = 24;
/// As long as each index is a byte.
const MAX_KEYS: u64 = 128;
/// `_parent_task` is the fifth attribute that `TaskGroup.__init__` sets (`Lib/asyncio/taskgroups.py` of 3.11 to 3.13).
const PARENT_TASK: u64 = 4 * 8;

/// Pointers to objects: so many bytes from one to the next.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Objects {
    pub(super) first: u64,
    pub(super) stride: u64,
    pub(super) count: u64,
}

#[inline(always)]
pub(super) fn fill(words: &mut Words, bytes: u32, address: u64) -> Result<(), StackEnd> {
    if bytes as usize > size_of::<Words>() {
        return Err(StackEnd::TooDeep); // tells the verifier
    }
    // SAFETY: the helper checks the address, and writes no more than there is room for.
    let outcome =
        unsafe { generated::bpf_probe_read_user(words.as_mut_ptr().cast(), bytes, address as *const _) };
    if outcome == 0 { Ok(()) } else { Err(unreadable(address)) }
}

/// The attributes of an object without slots.
#[inline(always)]
pub(super) fn attributes(layout: &PythonLayout, object: u64) -> Result<Objects, StackEnd> {
    let kind = layout.tasks.instance_values;
    if kind == InstanceValues::Inline as u32 {
        let count = u64::from(read::<u8>(object.wrapping_add(17))?);
        return Ok(Objects { first: object.wrapping_add(24), stride: 8, count });
    }
    if kind == InstanceValues::Dictionary as u32 {
        return attributes_in_dictionary(at(object, OBJECT_DICTIONARY)?);
    }
    let values = if kind == InstanceValues::Pointer as u32 {
        read(object.wrapping_sub(32))?
    } else {
        let tagged: u64 = read(object.wrapping_sub(24))?;
        if tagged & 1 == 0 {
            return Err(StackEnd::Unreadable); // a dictionary
        }
        tagged.wrapping_add(1)
    };
    // Their number is before them (`_PyDictValues_AddToInsertionOrder` of `Include/internal/pycore_dict.h`).
    Ok(Objects { first: values, stride: 8, count: u64::from(read::<u8>(values.wrapping_sub(2))?) })
}

#[inline(always)]
fn attributes_in_dictionary(dictionary: u64) -> Result<Objects, StackEnd> {
    let values = at(dictionary, DICTIONARY_VALUES)?;
    if values != 0 {
        return Ok(Objects { first: values, stride: 8, count: at(dictionary, DICTIONARY_USED)? });
    }
    let keys: u64 = at(dictionary, DICTIONARY_KEYS)?;
    let size: u64 = at(keys, KEYS_SIZE)?;
    if size > MAX_KEYS {
        return Err(StackEnd::TooDeep);
    }
    let first = keys.wrapping_add(KEYS_INDICES + size + ENTRY_VALUE);
    Ok(Objects { first, stride: ENTRY_BYTES, count: at(keys, KEYS_ENTRIES)? })
}

/// The task that a task group of `asyncio` belongs to.
#[inline(always)]
pub(super) fn parent_of(layout: &PythonLayout, group: u64) -> Result<u64, StackEnd> {
    read(attributes(layout, group)?.first.wrapping_add(PARENT_TASK))
}
