//! CPython: where its evaluation of bytecode lies in a file, where it keeps its frames, and how a thread finds its own.

mod evaluation;
mod layout;
mod thread;

use std::path::Path;

pub(crate) use layout::{AsyncioOffsets, Layout, LineTableKind, StringLayout};

use super::elf;
use super::table::ElfFile;
use crate::target::TargetMemory;
use crate::target::runtime::python_in_path;

/// The interpreter in a file: a program or a `libpython3.X.so`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PythonImage {
    /// The X of 3.X, when it is known.
    pub(crate) minor: Option<u8>,
    /// Address of `_PyRuntime` in the file.
    runtime: u64,
    /// Address of `PyCode_Type` in the file, if it is known.
    code_type: Option<u64>,
    /// The code of `_PyEval_EvalFrameDefault` in the file: in order, from start to end.
    pub(crate) evaluation: Vec<(u64, u64)>,
}

/// Why the Python frames of a process can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The interpreter has not started its first thread: it can be asked again.
    NotStarted,
    /// The version, or how it was built, is none that we know.
    UnknownLayout,
}

impl PythonImage {
    /// The interpreter in a file, if there is one. The path tells versions that do not tell themselves (until 3.10).
    pub(crate) fn read(object: &ElfFile<'_>, path: &Path) -> Option<Self> {
        let [runtime, function, version, code_type] = symbols(object, path)?;
        let (runtime, function) = (runtime?, function?);
        let minor = match version {
            Some(version) => read_u64(object, version.address).map(minor_of_hex)?,
            None => python_in_path(path).and_then(|text| text.strip_prefix("3.")?.parse().ok()),
        };
        let evaluation = evaluation::find(object, function.address, function.size);
        let code_type = code_type.map(|symbol| symbol.address);
        Some(Self { minor, runtime: runtime.address, code_type, evaluation })
    }

    /// How the frames of a process are read that has loaded the file `bias` behind the file's own addresses.
    pub(crate) fn layout(&self, bias: u64, memory: &TargetMemory) -> Result<Layout, Refusal> {
        let runtime = bias.wrapping_add(self.runtime);
        let minor = self.minor.ok_or(Refusal::UnknownLayout)?;
        let mut layout = match Layout::of_version(minor) {
            Some(layout) => layout,
            None => Layout::published(minor, runtime, memory).ok_or(Refusal::UnknownLayout)?,
        };
        layout.kernel.code_type = self.code_type.map_or(0, |address| bias.wrapping_add(address));
        let slot = thread::find_slot(&layout, runtime, memory)?;
        (layout.kernel.slot, layout.kernel.slot_inner) = slot;
        Ok(layout)
    }
}

#[derive(Clone, Copy)]
struct Symbol {
    address: u64,
    size: u64,
}

type Symbols = [Option<Symbol>; 4];

/// `_PyRuntime`, `_PyEval_EvalFrameDefault`, `Py_Version` and `PyCode_Type`. The interpreter exports them all; only where it was linked
/// into a program that exports nothing are they among its own symbols.
fn symbols(object: &ElfFile<'_>, path: &Path) -> Option<Symbols> {
    const NAMES: [&[u8]; 4] = [b"_PyRuntime", b"_PyEval_EvalFrameDefault", b"Py_Version", b"PyCode_Type"];
    let look = |table: &str, names: &str| -> Option<Symbols> {
        let names = elf::section(object, names)?;
        memchr::memmem::find(names, NAMES[0])?;
        let mut found = [None; 4];
        for symbol in elf::symbols(elf::section(object, table)?, names) {
            if let Some(index) = NAMES.iter().position(|wanted| symbol.is_called(wanted)) {
                found[index] = Some(Symbol { address: symbol.address, size: symbol.size });
            }
        }
        found[0].map(|_| found)
    };
    let is_named_so = || path.file_name().is_some_and(|name| name.to_string_lossy().contains("python"));
    look(".dynsym", ".dynstr").or_else(|| if is_named_so() { look(".symtab", ".strtab") } else { None })
}

/// `PY_VERSION_HEX` of a final release or of a candidate for one; layouts still change before.
fn minor_of_hex(hex: u64) -> Option<u8> {
    let [level, _micro, minor, 3, 0, 0, 0, 0] = hex.to_le_bytes() else { return None };
    (level >> 4 >= 0xc).then_some(minor)
}

fn read_u64(object: &ElfFile<'_>, address: u64) -> Option<u64> {
    let bytes = elf::bytes(object, address, 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version is told by its release; alphas and betas are not known, and neither is Python 2 or 4.
    #[test]
    fn tells_versions() {
        assert_eq!(minor_of_hex(0x030b_02f0), Some(11));
        assert_eq!(minor_of_hex(0x030e_00c1), Some(14));
        assert_eq!(minor_of_hex(0x030e_00b4), None);
        assert_eq!(minor_of_hex(0x0207_12f0), None);
    }
}
