//! V8's code in Node's own file that has no unwind information. Like all code that V8 makes, it keeps frame pointers
//! (`src/execution/frame-constants.h` and `src/heap/base/asm/x64/push_registers_asm.cc` of V8).

use super::elf;
use super::table::ElfFile;

/// The routine that the garbage collector enters stacks by is written by hand, and its symbol has no size.
const PUSH_REGISTERS: &[u8] = b"PushAllRegistersAndIterateStack";
const PUSH_REGISTERS_BYTES: u64 = 33;
/// The builtins, compiled ahead of time, lie in one piece.
const BUILTIN: &[u8] = b"Builtins_";

/// Where it lies.
pub(super) fn code(object: &ElfFile<'_>) -> Vec<(u64, u64)> {
    let (Some(table), Some(names)) = (elf::section(object, ".symtab"), elf::section(object, ".strtab"))
    else {
        return Vec::new();
    };
    let (mut builtins, mut code) = (None::<(u64, u64)>, Vec::new());
    for symbol in elf::symbols(table, names) {
        if symbol.starts_with(BUILTIN) {
            let (first, last) = builtins.unwrap_or((symbol.address, symbol.address));
            let end = symbol.address.saturating_add(symbol.size);
            builtins = Some((first.min(symbol.address), last.max(end)));
        } else if symbol.is_called(PUSH_REGISTERS) {
            code.push((symbol.address, symbol.address.saturating_add(PUSH_REGISTERS_BYTES)));
        }
    }
    code.extend(builtins);
    code
}
