//! What a running HotSpot machine says of itself in its own memory, without being asked.
//!
//! `libjvm.so` exports tables for debuggers that name its types, fields and flags, with their sizes, offsets and addresses:
//! `gHotSpotVMTypes`, `gHotSpotVMStructs` (`src/hotspot/share/runtime/vmStructs.hpp` of OpenJDK; the same in 8 to 25).
//! The target's memory may be hostile: all that is read has a bound.

use std::collections::HashMap;
use std::ops::Range;

use crate::capture::read_maps;
use crate::target::elf::Elf;
use crate::target::{Process, TargetMemory};

/// Entries of the tables that are read: OpenJDK 17 has 788 fields and 1,100 types.
const MAX_ENTRIES: u64 = 8192;
/// Flags that are read: OpenJDK 17 has 1,500.
const MAX_FLAGS: u64 = 8192;
/// Longest name that is read, in bytes.
const MAX_NAME: usize = 64;
/// Most bytes of code of the interpreter that are believed: it has some 200 KiB.
const MAX_INTERPRETER: i32 = 16 << 20;

/// Why nothing can be told of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VmError {
    /// It may still be starting.
    #[error("libjvm.so is not loaded")]
    NotLoaded,
    /// Another implementation, such as OpenJ9.
    #[error("it is no HotSpot virtual machine")]
    NotHotSpot,
    /// A table is not as expected, or the memory can't be read.
    #[error("its tables for debuggers cannot be read")]
    Unreadable,
}

/// What holds for a running HotSpot machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HotSpot {
    /// Feature release: 17.
    pub(crate) major: u32,
    /// `-XX:+PreserveFramePointer`.
    pub(crate) preserves_frame_pointer: bool,
    /// `-XX:+DisableAttachMechanism`.
    pub(crate) disables_attach: bool,
    /// `-Xrs`: it does not handle SIGQUIT.
    pub(crate) reduces_signals: bool,
    /// The interpreter's code, which always keeps frame pointers.
    pub(crate) interpreter: Range<u64>,
    /// Return address of the stub through which native code calls Java, which keeps them too.
    pub(crate) call_stub_return: u64,
}

impl HotSpot {
    /// Reads it from the memory of a process.
    pub(crate) fn read(process: &Process) -> Result<Self, VmError> {
        let maps = read_maps(process.pid()).map_err(|_| VmError::Unreadable)?;
        let is_library = |path: &str| path.rsplit('/').next() == Some("libjvm.so");
        let mapping = maps.iter().find(|mapping| is_library(&mapping.path)).ok_or(VmError::NotLoaded)?;
        let file = process.open_in_root(mapping.path.as_ref()).map_err(|_| VmError::Unreadable)?;
        let library = Elf::open(file).ok_or(VmError::Unreadable)?;
        let address = library.address_of(mapping.file_offset).ok_or(VmError::Unreadable)?;
        let memory = TargetMemory::open(process.pid()).map_err(|_| VmError::Unreadable)?;
        let tables = Tables { library, bias: mapping.start.wrapping_sub(address), memory };
        tables.exported("gHotSpotVMStructs").ok_or(VmError::NotHotSpot)?;
        tables.machine().ok_or(VmError::Unreadable)
    }

    /// Whether code that the machine made keeps a frame pointer at this address.
    pub(crate) fn keeps_frame_pointer(&self, address: u64) -> bool {
        self.preserves_frame_pointer
            || self.interpreter.contains(&address)
            || (address != 0 && address == self.call_stub_return)
    }
}

struct Tables {
    library: Elf,
    bias: u64,
    memory: TargetMemory,
}

/// A field: where it is in its type; where it is at all if it is static.
#[derive(Clone, Copy, Debug)]
struct Field {
    offset: u64,
    address: u64,
}

impl Tables {
    fn small(&self, address: u64) -> Option<i32> {
        let mut bytes = [0; 4];
        self.memory.read(address, &mut bytes)?;
        Some(i32::from_le_bytes(bytes))
    }

    fn is_set(&self, address: u64) -> Option<bool> {
        let mut byte = [0];
        self.memory.read(address, &mut byte)?;
        Some(byte != [0])
    }

    /// The text at an address that is stored at another one; empty where there is none.
    fn text_of(&self, pointer: u64) -> Option<Vec<u8>> {
        let address = self.memory.read_u64(pointer)?;
        let mut text = if address == 0 { Vec::new() } else { self.memory.read_up_to(address, MAX_NAME) };
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        Some(text)
    }

    /// The value of an exported variable of 8 bytes.
    fn exported(&self, name: &str) -> Option<u64> {
        self.memory.read_u64(self.library.exported(name)?.wrapping_add(self.bias))
    }

    fn machine(&self) -> Option<HotSpot> {
        let fields = self.fields()?;
        let field = |name: &str| fields.get(name.as_bytes()).copied();
        let version = field("Abstract_VM_Version::_vm_major_version")?;
        let flags = self.flags(&fields)?;
        let flag = |name: &str| flags.get(name.as_bytes()).copied().unwrap_or(false);
        Some(HotSpot {
            major: u32::try_from(self.small(version.address)?).ok()?,
            preserves_frame_pointer: flag("PreserveFramePointer"),
            disables_attach: flag("DisableAttachMechanism"),
            reduces_signals: flag("ReduceSignalUsage"),
            interpreter: self.interpreter(&fields).unwrap_or_default(),
            call_stub_return: field("StubRoutines::_call_stub_return_address")
                .and_then(|field| self.memory.read_u64(field.address))
                .unwrap_or(0),
        })
    }

    /// The fields of the types that matter, by `Type::field`.
    fn fields(&self) -> Option<HashMap<Vec<u8>, Field>> {
        let table = self.exported("gHotSpotVMStructs")?;
        let stride = self.exported("gHotSpotVMStructEntryArrayStride")?;
        let type_name = self.exported("gHotSpotVMStructEntryTypeNameOffset")?;
        let field_name = self.exported("gHotSpotVMStructEntryFieldNameOffset")?;
        let offset = self.exported("gHotSpotVMStructEntryOffsetOffset")?;
        let address = self.exported("gHotSpotVMStructEntryAddressOffset")?;
        let wanted: [&[u8]; 5] =
            [b"JVMFlag", b"AbstractInterpreter", b"StubQueue", b"StubRoutines", b"Abstract_VM_Version"];
        let mut fields = HashMap::new();
        for index in 0..MAX_ENTRIES {
            let entry = table.wrapping_add(index.wrapping_mul(stride));
            let mut name = self.text_of(entry.wrapping_add(type_name))?;
            if name.is_empty() {
                break;
            }
            if !wanted.contains(&name.as_slice()) {
                continue;
            }
            name.extend_from_slice(b"::");
            name.extend(self.text_of(entry.wrapping_add(field_name))?);
            let field = Field {
                offset: self.memory.read_u64(entry.wrapping_add(offset))?,
                address: self.memory.read_u64(entry.wrapping_add(address))?,
            };
            fields.insert(name, field);
        }
        Some(fields)
    }

    /// Size of a type, in bytes.
    fn size_of(&self, name: &[u8]) -> Option<u64> {
        let table = self.exported("gHotSpotVMTypes")?;
        let stride = self.exported("gHotSpotVMTypeEntryArrayStride")?;
        let type_name = self.exported("gHotSpotVMTypeEntryTypeNameOffset")?;
        let size = self.exported("gHotSpotVMTypeEntrySizeOffset")?;
        for index in 0..MAX_ENTRIES {
            let entry = table.wrapping_add(index.wrapping_mul(stride));
            let found = self.text_of(entry.wrapping_add(type_name))?;
            if found == name {
                return self.memory.read_u64(entry.wrapping_add(size));
            }
            if found.is_empty() {
                break;
            }
        }
        None
    }

    /// The flags that matter, which are all of type `bool`.
    fn flags(&self, fields: &HashMap<Vec<u8>, Field>) -> Option<HashMap<Vec<u8>, bool>> {
        let field = |name: &str| fields.get(name.as_bytes());
        let wanted: [&[u8]; 3] = [b"PreserveFramePointer", b"DisableAttachMechanism", b"ReduceSignalUsage"];
        let size = self.size_of(b"JVMFlag")?;
        let table = self.memory.read_u64(field("JVMFlag::flags")?.address)?;
        let count = self.memory.read_u64(field("JVMFlag::numFlags")?.address)?.min(MAX_FLAGS);
        let (name, address) = (field("JVMFlag::_name")?.offset, field("JVMFlag::_addr")?.offset);
        let mut flags = HashMap::new();
        for index in 0..count {
            let flag = table.wrapping_add(index.wrapping_mul(size));
            let name = self.text_of(flag.wrapping_add(name))?;
            if wanted.contains(&name.as_slice()) {
                let value = self.memory.read_u64(flag.wrapping_add(address))?;
                flags.insert(name, self.is_set(value)?);
            }
            if flags.len() == wanted.len() {
                break;
            }
        }
        (flags.len() == wanted.len()).then_some(flags)
    }

    fn interpreter(&self, fields: &HashMap<Vec<u8>, Field>) -> Option<Range<u64>> {
        let field = |name: &str| fields.get(name.as_bytes());
        let code = self.memory.read_u64(field("AbstractInterpreter::_code")?.address)?;
        let start = self.memory.read_u64(code.checked_add(field("StubQueue::_stub_buffer")?.offset)?)?;
        let length = self.small(code.checked_add(field("StubQueue::_buffer_limit")?.offset)?)?;
        let length = u64::try_from(length.min(MAX_INTERPRETER)).ok()?;
        Some(start..start.checked_add(length)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process without a Java machine says so, and its code is not taken for one's.
    #[test]
    fn other_processes_are_none() {
        let process = Process::open(std::process::id()).unwrap();
        assert_eq!(HotSpot::read(&process), Err(VmError::NotLoaded));
        assert!(!HotSpot::default().keeps_frame_pointer(0));
    }

    /// Without the flag only the interpreter and the stub below it are trusted.
    #[test]
    fn frame_pointers() {
        let machine = HotSpot { interpreter: 100..200, call_stub_return: 300, ..HotSpot::default() };
        let kept: Vec<u64> =
            [99, 100, 199, 200, 300, 301].into_iter().filter(|at| machine.keeps_frame_pointer(*at)).collect();
        assert_eq!(kept, [100, 199, 300]);
        assert!(HotSpot { preserves_frame_pointer: true, ..machine }.keeps_frame_pointer(99));
    }
}
