//! Where V8 keeps what: offsets from the symbols `v8dbg_*` that each V8 of Node carries for debuggers
//! (`tools/gen-postmortem-metadata.py` of V8), and what these leave out, by version.
//!
//! Offsets are in bytes from the start of an object, without its tag. Read from V8 10.2 (Node 18), 11.3 (Node 20), 12.4
//! (Node 22), 13.6 (Node 24) and 14.6 (Node 26); what has no symbol was compared with live processes of these.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use object::read::{Object, ObjectSegment, ReadRef};
use profiler_common::{SCRIPT_TO_FUNCTION_ID, V8Process};

use super::elf;

const PREFIX: &[u8] = b"v8dbg_";
/// `v8::internal::Version::major_` and its neighbours.
const VERSION: [&[u8]; 3] = [
    b"_ZN2v88internal7Version6major_E",
    b"_ZN2v88internal7Version6minor_E",
    b"_ZN2v88internal7Version6build_E",
];
/// `v8::internal::interpreter::Bytecodes::kBytecodeSizes`: a byte for each bytecode, thrice: for operands of one, two
/// and four bytes.
const BYTECODE_SIZES: &[u8] = b"_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE";
const TRAMPOLINE: &[u8] = b"Builtins_InterpreterEntryTrampoline";
const BUILTIN: &[u8] = b"Builtins_";
/// What all these start with.
const INTERESTING: [&[u8]; 4] = [PREFIX, BUILTIN, b"_ZN2v88internal7Version6", BYTECODE_SIZES];
/// Names are shorter than this; there are some hundred of them.
const MAX_DEBUG_SYMBOLS: usize = 4096;

/// What a file with V8 in it tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct V8 {
    /// V8's major, minor and build number.
    pub(crate) version: [u32; 3],
    /// V8's builtins, in the file's own address space.
    pub(crate) builtins: Range<u64>,
    /// `InterpreterEntryTrampoline`.
    trampoline: Range<u64>,
    /// `None`: the version is not known, or a symbol is missing.
    pub(crate) layout: Option<Arc<Layout>>,
}

/// Where an object's parts are, and which numbers stand for its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) map_instance_type: u64,
    pub(crate) string: StringLayout,
    pub(crate) function_shared: u64,
    pub(crate) shared: SharedLayout,
    pub(crate) scope: ScopeLayout,
    pub(crate) script: ScriptLayout,
    pub(crate) array: ArrayLayout,
    pub(crate) bytecode: BytecodeLayout,
    pub(crate) code: CodeLayout,
    pub(crate) inlining: InliningLayout,
    pub(crate) types: Types,
    /// Frame type numbers of code that has no function.
    pub(crate) wasm_frames: Vec<u32>,
    pub(crate) regular_expression_frame: Option<u32>,
}

/// `String` and what is derived from it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StringLayout {
    pub(crate) first_other_type: u16,
    pub(crate) length: u64,
    pub(crate) chars: u64,
    pub(crate) cons_first: u64,
    pub(crate) cons_second: u64,
    pub(crate) slice_parent: u64,
    pub(crate) slice_offset: u64,
    pub(crate) thin_actual: u64,
    /// Where an external string caches the address of its characters: behind its resource.
    pub(crate) external_data: u64,
}

/// `SharedFunctionInfo`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SharedLayout {
    pub(crate) data: u64,
    pub(crate) name_or_scope: u64,
    pub(crate) script: u64,
    pub(crate) function_id: u64,
}

/// `ScopeInfo`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScopeLayout {
    pub(crate) local_count: u64,
    /// The first slot behind the fixed ones.
    pub(crate) first_variable: u64,
    /// Where the function starts in its script; `None`: behind the names.
    pub(crate) start: Option<u64>,
}

/// `Script`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScriptLayout {
    pub(crate) source: u64,
    pub(crate) name: u64,
    pub(crate) line_offset: u64,
    pub(crate) line_ends: u64,
    pub(crate) id: u64,
}

/// `FixedArrayBase` and `FixedArray`; byte arrays are the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArrayLayout {
    pub(crate) length: u64,
    pub(crate) data: u64,
}

/// `BytecodeArray`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BytecodeLayout {
    pub(crate) positions: u64,
    pub(crate) data: u64,
    /// Bytes of each bytecode, for operands of one, two and four bytes; empty when they are not known.
    pub(crate) sizes: [Vec<u8>; 3],
    pub(crate) encoding: PositionEncoding,
}

/// How a source position's code offset is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionEncoding {
    /// The sign tells statements from expressions.
    Signed,
    /// The two lowest bits are flags: V8 14.
    Flagged,
}

/// `Code` and `InstructionStream`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodeLayout {
    /// Deoptimization data; bytecode in baseline code.
    pub(crate) deoptimization: u64,
    /// Source positions; the table of bytecode offsets in baseline code.
    pub(crate) positions: u64,
    /// A pointer to the first instruction; `None`: it follows the object's header, at `header`.
    pub(crate) start: Option<u64>,
    pub(crate) flags: u64,
    pub(crate) size: u64,
    /// Bytes before the first instruction, in the object that holds instructions.
    pub(crate) header: u64,
    pub(crate) baseline_kind: u32,
    pub(crate) kind_mask: u32,
}

/// Indexes into a `Code`'s deoptimization data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InliningLayout {
    pub(crate) function_count: u64,
    pub(crate) literals: u64,
    pub(crate) shared: u64,
    /// The function is in a wrapper, at this offset.
    pub(crate) shared_in_wrapper: Option<u64>,
    pub(crate) positions: u64,
}

/// Instance types. Zero stands for one that this version does not have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Types {
    pub(crate) shared: u16,
    pub(crate) scope: u16,
    pub(crate) script: u16,
    pub(crate) bytecode: u16,
    pub(crate) code: u16,
    pub(crate) byte_arrays: [u16; 2],
    pub(crate) arrays: [u16; 6],
    pub(crate) shared_wrapper: u16,
}

/// Symbols of one file.
#[derive(Default)]
struct Symbols {
    debug: BTreeMap<Vec<u8>, u64>,
    version: [Option<u64>; 3],
    bytecode_sizes: Option<(u64, u64)>,
    builtins: Option<Range<u64>>,
    trampoline: Option<Range<u64>>,
}

impl V8 {
    /// Reads a file; `None` when V8 is not in it, or left no trace.
    pub(crate) fn read<'data, R: ReadRef<'data>>(object: &object::File<'data, R>) -> Option<Self> {
        let names = [".dynstr", ".strtab"].map(|name| elf::section(object, name));
        if !names.iter().flatten().any(|names| memchr::memmem::find(names, PREFIX).is_some()) {
            return None;
        }
        let mut symbols = Symbols::default();
        for (table, names) in [".dynsym", ".symtab"].into_iter().zip(names) {
            if let (Some(table), Some(names)) = (elf::section(object, table), names) {
                symbols.add_all(table, names);
            }
        }
        let part = |address: Option<u64>| Some(u32::from_le_bytes(bytes_at(object, address?)?));
        let [major, minor, build] = symbols.version.map(part);
        let version = [major?, minor?, build?];
        let debug = symbols.debug.into_iter();
        let values = debug.filter_map(|(name, at)| Some((name, i32::from_le_bytes(bytes_at(object, at)?))));
        let sizes = symbols.bytecode_sizes.map(|(at, size)| bytecode_sizes(object, at, size));
        let symbol_values = Values { values: values.collect(), version };
        Some(Self {
            version,
            builtins: symbols.builtins.unwrap_or_default(),
            trampoline: symbols.trampoline.unwrap_or_default(),
            layout: symbol_values.layout(sizes.flatten().unwrap_or_default()).map(Arc::new),
        })
    }

    /// What the kernel half needs; `base` is what the file's unwind rows count from.
    pub(crate) fn process(&self, base: u64) -> Option<V8Process> {
        let layout = self.layout.as_ref()?;
        let offset = |offset: u64| u32::try_from(offset).ok();
        Some(V8Process {
            trampoline_start: self.trampoline.start.wrapping_sub(base),
            trampoline_bytes: self.trampoline.end.saturating_sub(self.trampoline.start),
            function_shared: offset(layout.function_shared)?,
            shared_script: offset(layout.shared.script)?,
            script_id: offset(layout.script.id)?,
            map_instance_type: offset(layout.map_instance_type)?,
            bytecode_array_type: layout.types.bytecode.into(),
            reserved: 0,
        })
    }
}

impl Symbols {
    fn add_all(&mut self, table: &[u8], names: &[u8]) {
        for symbol in elf::symbols(table, names) {
            if INTERESTING.iter().any(|prefix| symbol.starts_with(prefix)) {
                self.add(symbol.name(), symbol.address, symbol.size);
            }
        }
    }

    fn add(&mut self, name: &[u8], start: u64, size: u64) {
        let range = start..start.saturating_add(size);
        if let Some(name) = name.strip_prefix(PREFIX) {
            if self.debug.len() < MAX_DEBUG_SYMBOLS {
                self.debug.insert(name.to_vec(), start);
            }
        } else if name.starts_with(BUILTIN) {
            let all = self.builtins.get_or_insert(range.clone());
            *all = all.start.min(range.start)..all.end.max(range.end);
            if name == TRAMPOLINE {
                self.trampoline = Some(range);
            }
        } else if name == BYTECODE_SIZES {
            self.bytecode_sizes = Some((start, size));
        } else if let Some(part) = VERSION.iter().position(|version| *version == name) {
            self.version[part] = Some(start);
        }
    }
}

fn bytes_at<'data, R: ReadRef<'data>, const LENGTH: usize>(
    object: &object::File<'data, R>,
    address: u64,
) -> Option<[u8; LENGTH]> {
    for segment in object.segments() {
        let Some(offset) = address.checked_sub(segment.address()) else { continue };
        if offset < segment.size() {
            // What is behind the file's part of a segment is zero.
            let bytes = elf::bytes(object, address, LENGTH as u64);
            return bytes.map_or(Some([0; LENGTH]), |bytes| bytes.try_into().ok());
        }
    }
    None
}

fn bytecode_sizes<'data, R: ReadRef<'data>>(
    object: &object::File<'data, R>,
    address: u64,
    size: u64,
) -> Option<[Vec<u8>; 3]> {
    const MOST: u64 = 3 * 256;
    if size == 0 || size > MOST || !size.is_multiple_of(3) {
        return None;
    }
    let bytes = elf::bytes(object, address, size)?;
    let mut thirds = bytes.chunks_exact(size as usize / 3).map(<[u8]>::to_vec);
    Some([thirds.next()?, thirds.next()?, thirds.next()?])
}

/// Values of the symbols, and what stands in for those that are not there.
struct Values {
    values: BTreeMap<Vec<u8>, i32>,
    version: [u32; 3],
}

impl Values {
    fn exactly(&self, name: &str) -> Option<i32> {
        self.values.get(name.as_bytes()).copied()
    }

    /// The value of a member: the rest of its symbol is the member's type, which differs between versions.
    fn member(&self, class: &str, member: &str) -> Option<u64> {
        let prefix = format!("class_{class}__{member}__");
        let (name, value) = self.values.range(prefix.as_bytes().to_vec()..).next()?;
        if name.starts_with(prefix.as_bytes()) { (*value).try_into().ok() } else { None }
    }

    fn instance_type(&self, class: &str) -> Option<u16> {
        let prefix = format!("type_{class}__");
        let (name, value) = self.values.range(prefix.as_bytes().to_vec()..).next()?;
        if name.starts_with(prefix.as_bytes()) { (*value).try_into().ok() } else { None }
    }

    fn index(&self, name: &str) -> Option<u64> {
        self.exactly(name)?.try_into().ok()
    }

    fn is_at_least(&self, major: u32, minor: u32) -> bool {
        (self.version[0], self.version[1]) >= (major, minor)
    }

    fn layout(&self, bytecode_sizes: [Vec<u8>; 3]) -> Option<Layout> {
        // Lower ones have another frame; of higher ones nothing is known.
        if !self.is_at_least(10, 2) || self.is_at_least(15, 0) || !self.has_known_frames() {
            return None;
        }
        let script = self
            .member("SharedFunctionInfo", "script")
            .or_else(|| self.member("SharedFunctionInfo", "script_or_debug_info"))?;
        let type_or_none = |class| self.instance_type(class).unwrap_or_default();
        let name_or_scope = self.member("SharedFunctionInfo", "name_or_scope_info");
        let frame_type = |name: &str| self.exactly(name)?.try_into().ok();
        Some(Layout {
            map_instance_type: self.member("Map", "instance_type")?,
            string: self.strings()?,
            function_shared: self.member("JSFunction", "shared")?,
            shared: SharedLayout {
                data: 8,
                name_or_scope: name_or_scope.or(script.checked_sub(16))?,
                script,
                function_id: script + SCRIPT_TO_FUNCTION_ID as u64,
            },
            scope: ScopeLayout {
                local_count: 8 + 8 * self.index("scopeinfo_idx_ncontextlocals")?,
                first_variable: 8 + 8 * self.index("scopeinfo_idx_first_vars")?,
                // `src/objects/scope-info.tq` since 12.8.
                start: self.is_at_least(12, 8).then_some(32),
            },
            script: ScriptLayout {
                source: self.member("Script", "source")?,
                name: self.member("Script", "name")?,
                line_offset: 24,
                line_ends: self.member("Script", "line_ends")?,
                id: 64,
            },
            array: ArrayLayout {
                length: self.member("FixedArrayBase", "length")?,
                data: self.member("FixedArray", "data")?,
            },
            bytecode: BytecodeLayout {
                positions: if self.is_at_least(12, 0) { 24 } else { 32 },
                data: self.member("BytecodeArray", "data")?,
                sizes: bytecode_sizes,
                encoding: match self.is_at_least(14, 0) {
                    true => PositionEncoding::Flagged,
                    false => PositionEncoding::Signed,
                },
            },
            code: self.code()?,
            inlining: InliningLayout {
                function_count: self.index("DeoptimizationDataInlinedFunctionCountIndex").unwrap_or(1),
                literals: self.index("DeoptimizationDataLiteralArrayIndex").unwrap_or(2),
                shared: self
                    .index("DeoptimizationDataWrappedSharedFunctionInfoIndex")
                    .or_else(|| self.index("DeoptimizationDataSharedFunctionInfoIndex"))
                    .unwrap_or(6),
                shared_in_wrapper: self.member("SharedFunctionInfoWrapper", "shared_info"),
                positions: self.index("DeoptimizationDataInliningPositionsIndex").unwrap_or(7),
            },
            types: Types {
                shared: self.instance_type("SharedFunctionInfo")?,
                scope: self.instance_type("ScopeInfo")?,
                script: self.instance_type("Script")?,
                bytecode: self.instance_type("BytecodeArray")?,
                code: self.instance_type("Code")?,
                byte_arrays: [self.instance_type("ByteArray")?, type_or_none("TrustedByteArray")],
                arrays: [
                    self.instance_type("FixedArray")?,
                    self.instance_type("WeakFixedArray")?,
                    type_or_none("TrustedFixedArray"),
                    type_or_none("TrustedWeakFixedArray"),
                    type_or_none("ProtectedFixedArray"),
                    type_or_none("ProtectedWeakFixedArray"),
                ],
                shared_wrapper: type_or_none("SharedFunctionInfoWrapper"),
            },
            wasm_frames: ["WasmFrame", "WasmSegmentStartFrame", "WasmToJsFrame", "WasmToJsFunctionFrame"]
                .iter()
                .chain(["JsToWasmFrame", "WasmDebugBreakFrame", "WasmExitFrame", "CWasmEntryFrame"].iter())
                .filter_map(|name| frame_type(&format!("frametype_{name}")))
                .collect(),
            regular_expression_frame: frame_type("frametype_IrregexpFrame"),
        })
    }

    /// The kernel half reads frames as they are in all these versions.
    fn has_known_frames(&self) -> bool {
        [
            ("off_fp_function", -16),
            ("off_fp_context", -8),
            ("off_fp_bytecode_array", -32),
            ("off_fp_bytecode_offset", -40),
            ("HeapObjectTag", 1),
            ("HeapObjectTagMask", 3),
            ("SmiTag", 0),
            ("SmiTagMask", 1),
            ("SmiShiftSize", 31),
            ("SmiValueShift", 1),
            ("StringEncodingMask", 8),
            ("StringRepresentationMask", 7),
            ("ConsStringTag", 1),
            ("ExternalStringTag", 2),
            ("SlicedStringTag", 3),
            ("ThinStringTag", 5),
        ]
        .iter()
        .all(|(name, value)| self.exactly(name) == Some(*value))
            && self.member("HeapObject", "map") == Some(0)
    }

    fn strings(&self) -> Option<StringLayout> {
        Some(StringLayout {
            first_other_type: self.exactly("FirstNonstringType")?.try_into().ok()?,
            length: self.member("String", "length")?,
            chars: self.member("SeqOneByteString", "chars")?,
            cons_first: self.member("ConsString", "first")?,
            cons_second: self.member("ConsString", "second")?,
            slice_parent: self.member("SlicedString", "parent")?,
            slice_offset: self.member("SlicedString", "offset")?,
            thin_actual: self.member("ThinString", "actual")?,
            external_data: self.member("ExternalString", "resource")? + 8,
        })
    }

    fn code(&self) -> Option<CodeLayout> {
        let (baseline_kind, kind_mask) =
            (self.exactly("CodeKindBaseline")?, self.exactly("CodeKindFieldMask")?);
        let (baseline_kind, kind_mask) = (baseline_kind.try_into().ok()?, kind_mask.try_into().ok()?);
        // 12.0 and later name nearly all.
        if let Some(stream) = self.member("Code", "instruction_stream") {
            return Some(CodeLayout {
                deoptimization: stream.checked_sub(24)?,
                positions: stream.checked_sub(16)?,
                start: Some(self.member("Code", "instruction_start")?),
                flags: self.member("Code", "flags")?,
                size: self.member("Code", "instruction_size")?,
                header: self.member("InstructionStream", "instruction_start")?,
                baseline_kind,
                kind_mask,
            });
        }
        // 11: what the symbols leave out follows the source positions, in this order.
        if let Some(header) = self.member("InstructionStream", "instruction_start") {
            let positions = self.member("Code", "source_position_table")?;
            let flags = positions + 24;
            return Some(CodeLayout {
                deoptimization: positions.checked_sub(8)?,
                positions,
                start: Some(positions + 16),
                flags,
                size: flags + if self.version >= [11, 4, 59] { 4 } else { 8 },
                header,
                baseline_kind,
                kind_mask,
            });
        }
        // 10: the instructions are in the object itself.
        let size = self.member("Code", "instruction_size")?;
        Some(CodeLayout {
            deoptimization: size.checked_sub(24)?,
            positions: size.checked_sub(16)?,
            start: None,
            flags: self.member("Code", "flags")?,
            size,
            header: self.member("Code", "instruction_start")?,
            baseline_kind,
            kind_mask,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The symbols of a Node that matter, as its file has them, and its version.
    fn values(symbols: &str, version: [u32; 3]) -> Values {
        let value = |line: &str| {
            let (name, value) = line.split_once(' ').unwrap();
            (name.as_bytes().to_vec(), value.parse().unwrap())
        };
        Values { values: symbols.lines().map(value).collect(), version }
    }

    impl Layout {
        /// Node 22.23.3.
        pub(crate) fn of_node_22() -> Self {
            values(include_str!("node-22.txt"), [12, 4, 254]).layout(Default::default()).unwrap()
        }
    }

    /// The layouts of all known Nodes, each as found in live processes. 18.20.8, 20.20.2, 22.23.3, 24.21.0 and 26.10.0.
    #[test]
    fn known_layouts() {
        let known = [
            (include_str!("node-18.txt"), [10, 2, 154], [24, 32, 16, 52], [16, 24, 48, 40, 128], 32),
            (include_str!("node-20.txt"), [11, 3, 244], [24, 32, 16, 52], [16, 24, 48, 56, 16], 32),
            (include_str!("node-22.txt"), [12, 4, 254], [32, 32, 16, 52], [8, 16, 48, 52, 32], 24),
            (include_str!("node-24.txt"), [13, 6, 233], [32, 40, 24, 60], [8, 16, 52, 56, 32], 24),
            (include_str!("node-26.txt"), [14, 6, 202], [32, 40, 24, 60], [8, 16, 52, 56, 32], 24),
        ];
        for (symbols, version, function, code, positions) in known {
            let layout = values(symbols, version).layout(Default::default()).unwrap();
            let shared = &layout.shared;
            let found = [layout.function_shared, shared.script, shared.name_or_scope, shared.function_id];
            assert_eq!(found, function, "{version:?}");
            let found = &layout.code;
            let found = [found.deoptimization, found.positions, found.flags, found.size, found.header];
            assert_eq!(found, code, "{version:?}");
            assert_eq!(layout.bytecode.positions, positions, "{version:?}");
        }
    }

    /// What is not known is refused: another version, a missing symbol, another frame.
    #[test]
    fn other_layouts_are_refused() {
        let symbols = include_str!("node-26.txt");
        let layout = |symbols: &str, version| values(symbols, version).layout(Default::default());
        assert_eq!(layout(symbols, [15, 0, 1]), None);
        assert_eq!(layout(symbols, [9, 4, 146]), None);
        for needed in ["off_fp_function", "class_JSFunction__shared", "type_Script", "CodeKindBaseline"] {
            let others: Vec<_> = symbols.lines().filter(|line| !line.starts_with(needed)).collect();
            assert_eq!(layout(&others.join("\n"), [14, 6, 202]), None, "{needed}");
        }
        assert_eq!(layout(&symbols.replace("off_fp_context -8", "off_fp_context -16"), [14, 6, 202]), None);
    }
}
