//! Names and lines of Python functions, from the code objects in a process's memory.

mod lines;

use profiler_common::{PythonLayout, code_fingerprint};

use crate::target::TargetMemory;
use crate::unwind::{Layout, StringLayout};
use lines::LineTable;

/// The longest name that is believed, in characters.
const MAX_NAME: u64 = 4096;
/// The largest table of lines that is read. Some 20,000 lines of code in one function have it.
const MAX_LINE_TABLE_BYTES: u64 = 1 << 20;

/// A Python function: what its code object says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PythonFunction {
    /// `co_qualname`, before 3.11 `co_name`.
    pub(crate) name: String,
    /// `co_filename`.
    pub(crate) file: String,
    /// Line of its `def`.
    pub(crate) first_line: u32,
    lines: LineTable,
}

impl PythonFunction {
    /// The line of an instruction, as the kernel half tells it; the first line when that is not known.
    pub(crate) fn line(&self, instruction: u32) -> u32 {
        let known =
            if instruction == PythonLayout::NO_INSTRUCTION { None } else { self.lines.find(instruction) };
        known.unwrap_or(self.first_line)
    }

    /// From 3.13 on a call of a class has a frame of its own, which no traceback shows either: `_Py_InitCleanup` of
    /// `Python/specialize.c`.
    pub(crate) fn is_hidden(&self) -> bool {
        self.name == "__init__" && self.file == "__init__"
    }
}

/// Reads a code object. `None` when it can't be read, or is not the one that was seen: its fingerprint tells. Zero is the
/// fingerprint of one that could not be read when it was seen.
pub(crate) fn read_function(
    memory: &TargetMemory,
    layout: &Layout,
    code: u64,
    fingerprint: u32,
) -> Option<PythonFunction> {
    let mut object = [0; PythonLayout::MAX_IDENTITY_BYTES];
    memory.read(code, &mut object)?;
    let word = |offset: u64| {
        let bytes = object.get(offset as usize..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let kernel = &layout.kernel;
    let start = u64::from(kernel.code_identity);
    let mut identity = [word(start)?, word(start + 8)?, word(start + 16)?, word(start + 24)?];
    if kernel.code_identity_words < 4 {
        identity[3] = 0;
    }
    let name_hash = memory.read_u64(identity[1].wrapping_add(kernel.string_hash.into()))?;
    if fingerprint != 0 && fingerprint != code_fingerprint(identity, name_hash) {
        return None;
    }
    if !is_code(memory, layout, word(kernel.object_type.into())?) {
        return None;
    }
    let [file, name, then, last] = identity;
    let has_qualified_name = kernel.code_identity_words == 4;
    let (name, table) = if has_qualified_name { (then, last) } else { (name, then) };
    let first_line = word(layout.first_line)? as u32;
    let function = PythonFunction {
        name: read_string(memory, &layout.string, name)?,
        file: read_string(memory, &layout.string, file)?,
        first_line,
        lines: LineTable::new(layout.lines, first_line, read_bytes(memory, layout, table)?),
    };
    // It may have been freed while it was read.
    let mut again = [0; PythonLayout::MAX_IDENTITY_BYTES];
    memory.read(code, &mut again)?;
    let is_same = |start: usize| object[start..start + 24] == again[start..start + 24];
    is_same(start as usize).then_some(function)
}

/// Whether a type is that of code objects.
fn is_code(memory: &TargetMemory, layout: &Layout, ty: u64) -> bool {
    let mut name = [0; 5];
    memory
        .read_u64(ty.wrapping_add(layout.type_name))
        .and_then(|address| memory.read(address, &mut name))
        .is_some_and(|()| &name == b"code\0")
}

fn read_bytes(memory: &TargetMemory, layout: &Layout, object: u64) -> Option<Vec<u8>> {
    let length = memory.read_u64(object.wrapping_add(layout.bytes_size))?;
    let mut bytes =
        vec![0; usize::try_from(Some(length).filter(|length| *length <= MAX_LINE_TABLE_BYTES)?).ok()?];
    memory.read(object.wrapping_add(layout.bytes_data), &mut bytes)?;
    Some(bytes)
}

/// A string object (`Include/cpython/unicodeobject.h`): compact ones, as all names are.
fn read_string(memory: &TargetMemory, layout: &StringLayout, object: u64) -> Option<String> {
    let length = memory.read_u64(object.wrapping_add(layout.length))?;
    let length = usize::try_from(Some(length).filter(|length| *length <= MAX_NAME)?).ok()?;
    let state = memory.read_u64(object.wrapping_add(layout.state))? as u32 >> layout.kind_shift;
    let (kind, is_compact, is_ascii) = (state as usize & 7, state >> 3 & 1 == 1, state >> 4 & 1 == 1);
    if !is_compact || !matches!(kind, 1 | 2 | 4) || (is_ascii && kind != 1) {
        return None;
    }
    let data = if is_ascii { layout.ascii_data } else { layout.compact_data };
    let mut bytes = vec![0; length * kind];
    memory.read(object.wrapping_add(data), &mut bytes)?;
    let character = |bytes: &[u8]| {
        let number = bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    Some(bytes.chunks_exact(kind).map(character).collect())
}
