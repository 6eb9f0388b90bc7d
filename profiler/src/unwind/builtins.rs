//! V8's code in Node's own file that has no unwind information. Like all code that V8 makes, it keeps frame pointers
//! (`src/execution/frame-constants.h` and `src/heap/base/asm/x64/push_registers_asm.cc` of V8).

use object::LittleEndian;
use object::elf::Sym64;
use object::read::{Object, ObjectSection};

use super::table::{ElfFile, MAX_SECTION_BYTES};

/// The routine that the garbage collector enters stacks by is written by hand, and its symbol has no size.
const PUSH_REGISTERS: &[u8] = b"PushAllRegistersAndIterateStack\0";
const PUSH_REGISTERS_BYTES: u64 = 33;
/// The builtins, compiled ahead of time, lie in one piece.
const BUILTIN: &[u8] = b"Builtins_";

/// Where it lies.
pub(super) fn code(object: &ElfFile<'_>) -> Vec<(u64, u64)> {
    let section = |name: &str| {
        let section = object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES)?;
        section.data().ok()
    };
    // Both as a whole: asking for one name at a time is slow, and a Node has 130,000.
    let (Some(symbols), Some(names)) = (section(".symtab"), section(".strtab")) else { return Vec::new() };
    let (symbols, _) = object::pod::slice_from_bytes::<Sym64<LittleEndian>>(
        symbols,
        symbols.len() / size_of::<Sym64<LittleEndian>>(),
    )
    .unwrap_or_default();
    let (mut builtins, mut code) = (None::<(u64, u64)>, Vec::new());
    for symbol in symbols {
        let Some(name) = names.get(symbol.st_name.get(LittleEndian) as usize..) else { continue };
        let (start, size) = (symbol.st_value.get(LittleEndian), symbol.st_size.get(LittleEndian));
        if name.starts_with(BUILTIN) {
            let (first, last) = builtins.unwrap_or((start, start));
            builtins = Some((first.min(start), last.max(start.saturating_add(size))));
        } else if name.starts_with(PUSH_REGISTERS) {
            code.push((start, start.saturating_add(PUSH_REGISTERS_BYTES)));
        }
    }
    code.extend(builtins);
    code
}
