//! `.eh_frame` and `.debug_frame` as rows: for each stretch of code, how to find its caller.
//!
//! Formats: the System V ABI for AMD64, "DWARF Extensions" of the LSB, and DWARF 5 section 6.4.

use std::collections::HashMap;
use std::fs::File;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice,
    FrameDescriptionEntry, LittleEndian, Operation, Register, RegisterRule, UnwindContext, UnwindExpression,
    UnwindSection, UnwindTableRow, X86_64,
};
use object::read::{Object, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache};
use profiler_common::{CfaKind, Rule, UnwindRow};

type Slice<'data> = EndianSlice<'data, LittleEndian>;
type ElfFile<'file> = object::File<'file, &'file ReadCache<&'file File>>;

/// The largest section that is read: it is copied into memory, and a file full of holes is cheap to make.
const MAX_SECTION_BYTES: u64 = 128 << 20;
/// The longest common entry that is believed; compilers write some 40 bytes.
const MAX_COMMON_ENTRY_BYTES: usize = 512;
/// Frame descriptions of one file that are read. Node has 100,000.
const MAX_DESCRIPTIONS: usize = 4_000_000;
/// Rows of one file that are kept: 32 MiB.
const MAX_ROWS: usize = 4 << 20;

/// The unwind rows of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Virtual address in the file that rows count from.
    pub base: u64,
    /// Rows in the order of their starts; no two neighbours say the same.
    pub rows: Vec<UnwindRow>,
    /// Rows before neighbours were merged.
    pub unmerged: usize,
    /// Stretches of code whose description we do not understand: their rule is [`CfaKind::Unknown`].
    pub not_understood: usize,
    /// Whether some of the file's descriptions could not be read at all.
    pub damaged: bool,
}

/// Reads the unwind rows of an ELF file. A file without any, or of another kind, gives an empty table.
pub fn read_table(file: &File) -> Table {
    // One after the other: what each needs of the file is not in memory together.
    let v8_code = with_object(file, v8_code).unwrap_or_default();
    with_object(file, |object| read_frames(object, &v8_code)).unwrap_or_default()
}

fn with_object<T>(file: &File, read: impl FnOnce(&ElfFile<'_>) -> T) -> Option<T> {
    let cache = ReadCache::new(file);
    object::File::parse(&cache).ok().map(|object| read(&object))
}

fn read_frames(object: &ElfFile<'_>, v8_code: &[(u64, u64)]) -> Table {
    let base = object.segments().map(|segment| segment.address()).min().unwrap_or(0);
    let mut builder = Builder { base, rows: Vec::new(), not_understood: 0, damaged: false };
    let section = |name: &str| {
        let section = object.section_by_name(name).filter(|section| section.size() <= MAX_SECTION_BYTES)?;
        let data = section.uncompressed_data().ok()?;
        (!data.is_empty()).then(|| (section.address(), data))
    };
    let address = |name: &str| object.section_by_name(name).map_or(0, |section| section.address());
    let bases = BaseAddresses::default().set_text(address(".text")).set_got(address(".got"));
    if let Some((address, data)) = section(".eh_frame") {
        let mut frames = EhFrame::new(&data, LittleEndian);
        frames.set_address_size(8);
        builder.read(&frames, &bases.clone().set_eh_frame(address));
    }
    if let Some((_, data)) = section(".debug_frame") {
        let mut frames = DebugFrame::new(&data, LittleEndian);
        frames.set_address_size(8);
        builder.read(&frames, &bases);
    }
    for &(start, end) in v8_code {
        builder.push(start, end, FRAME_POINTER_CHAIN.pack().unwrap_or(CfaKind::Unknown as u32));
    }
    builder.finish()
}

/// `push rbp; mov rbp, rsp`: what code that keeps frame pointers starts with.
const FRAME_POINTER_CHAIN: Rule =
    Rule { cfa: CfaKind::FramePointer, cfa_offset: 16, frame_pointer_below_cfa: 16, register: 0 };

/// V8's code in Node's own file that has no unwind information. Like all code that V8 makes, it keeps frame pointers
/// (`src/execution/frame-constants.h` and `src/heap/base/asm/x64/push_registers_asm.cc` of V8).
///
/// The builtins, compiled ahead of time, lie in one piece. The routine that the garbage collector enters stacks by is
/// written by hand, and its symbol has no size.
fn v8_code(object: &ElfFile<'_>) -> Vec<(u64, u64)> {
    const PUSH_REGISTERS: &[u8] = b"PushAllRegistersAndIterateStack";
    const PUSH_REGISTERS_BYTES: u64 = 33;
    let is_small =
        |name| object.section_by_name(name).is_none_or(|section| section.size() <= MAX_SECTION_BYTES);
    if !is_small(".symtab") || !is_small(".strtab") {
        return Vec::new();
    }
    let (mut builtins, mut code) = (None::<(u64, u64)>, Vec::new());
    for symbol in object.symbols() {
        let Ok(name) = symbol.name_bytes() else { continue };
        let start = symbol.address();
        if name.starts_with(b"Builtins_") {
            let (first, last) = builtins.unwrap_or((start, start));
            builtins = Some((first.min(start), last.max(start.saturating_add(symbol.size()))));
        } else if name == PUSH_REGISTERS {
            code.push((start, start.saturating_add(PUSH_REGISTERS_BYTES)));
        }
    }
    code.extend(builtins);
    code
}

struct Builder {
    base: u64,
    /// Start, end and rule of each stretch of code.
    rows: Vec<(u32, u32, u32)>,
    not_understood: usize,
    damaged: bool,
}

impl Builder {
    fn read<'data, S>(&mut self, section: &S, bases: &BaseAddresses)
    where
        S: UnwindSection<Slice<'data>>,
        S::Offset: std::hash::Hash + Eq + Copy,
    {
        let mut entries = section.entries(bases);
        let mut common: HashMap<S::Offset, CommonInformationEntry<Slice<'data>>> = HashMap::new();
        let mut context = UnwindContext::new();
        for _ in 0..MAX_DESCRIPTIONS {
            let partial = match entries.next() {
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => return,
                Err(_) => break,
            };
            let description = partial.parse(|section, bases, offset| match common.get(&offset) {
                Some(entry) => Ok(entry.clone()),
                None => {
                    let entry = section.cie_from_offset(bases, offset)?;
                    common.insert(offset, entry.clone());
                    Ok(entry)
                }
            });
            match description {
                Ok(description) => self.describe(&description, section, bases, &mut context),
                Err(_) => self.damaged = true,
            }
            if self.rows.len() >= MAX_ROWS {
                break;
            }
        }
        self.damaged = true;
    }

    fn describe<'data, S: UnwindSection<Slice<'data>>>(
        &mut self,
        description: &FrameDescriptionEntry<Slice<'data>>,
        section: &S,
        bases: &BaseAddresses,
        context: &mut UnwindContext<usize>,
    ) {
        // Each description runs its common entry's instructions anew: a huge one would cost that many times.
        if description.cie().entry_len() > MAX_COMMON_ENTRY_BYTES {
            self.damaged = true;
            return;
        }
        let is_signal = description.is_signal_trampoline();
        let Ok(mut table) = description.rows(section, bases, context) else {
            self.damaged = true;
            return;
        };
        loop {
            match table.next_row() {
                Ok(Some(row)) => {
                    let rule =
                        if is_signal { Some(Rule::plain(CfaKind::SignalFrame)) } else { rule(row, section) };
                    let packed = rule.and_then(Rule::pack);
                    self.not_understood += usize::from(packed.is_none());
                    self.push(
                        row.start_address(),
                        row.end_address(),
                        packed.unwrap_or(CfaKind::Unknown as u32),
                    );
                }
                Ok(None) => return,
                Err(_) => {
                    self.damaged = true;
                    return;
                }
            }
        }
    }

    /// Code that the linker threw away is described at address zero, and what lies outside the file is hostile.
    fn push(&mut self, start: u64, end: u64, rule: u32) {
        let offset =
            |address: u64| address.checked_sub(self.base).and_then(|offset| u32::try_from(offset).ok());
        if let (Some(start), Some(end)) = (offset(start), offset(end))
            && start < end
            && self.rows.len() < MAX_ROWS
        {
            self.rows.push((start, end, rule));
        }
    }

    /// Puts stretches in order, ends each where the next one starts, and says where nothing is known.
    fn finish(mut self) -> Table {
        if self.rows.is_empty() {
            return Table { base: self.base, damaged: self.damaged, ..Table::default() };
        }
        self.rows.sort_unstable();
        let unmerged = self.rows.len();
        let mut rows: Vec<UnwindRow> = Vec::with_capacity(unmerged);
        let mut covered = 0_u32;
        let mut push = |start: u32, rule: u32| match rows.last_mut() {
            Some(last) if last.rule == rule => {}
            Some(last) if last.start == start => last.rule = rule,
            _ => rows.push(UnwindRow { start, rule }),
        };
        for &(start, end, rule) in &self.rows {
            if start < covered {
                continue; // described twice: the first one stays
            }
            if start > covered {
                push(covered, CfaKind::Unknown as u32);
            }
            push(start, rule);
            covered = end;
        }
        push(covered, CfaKind::Unknown as u32);
        rows.shrink_to_fit();
        let Self { base, not_understood, damaged, .. } = self;
        Table { base, rows, unmerged, not_understood, damaged }
    }
}

/// The rule of a row; `None` when it is of a kind that we do not know.
fn rule<'data, S: UnwindSection<Slice<'data>>>(row: &UnwindTableRow<usize>, section: &S) -> Option<Rule> {
    match row.register(X86_64::RA).unwrap_or(RegisterRule::Undefined) {
        RegisterRule::Undefined => return Some(Rule::plain(CfaKind::EndOfStack)),
        // Where the ABI has it. gimli says `Offset(-8)` as compilers always write it out.
        RegisterRule::Offset(-8) => {}
        _ => return None,
    }
    let frame_pointer_below_cfa = match row.register(X86_64::RBP).unwrap_or(RegisterRule::SameValue) {
        RegisterRule::Undefined | RegisterRule::SameValue => 0,
        RegisterRule::Offset(offset) => {
            u32::try_from(offset.checked_neg()?).ok().filter(|below| *below > 0)?
        }
        // Functions that align their stack save it relative to itself; it is where the frame pointer leads.
        RegisterRule::Expression(_) => 0,
        _ => return None,
    };
    let (cfa, offset, register) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let kind = match *register {
                X86_64::RSP => CfaKind::StackPointer,
                X86_64::RBP => CfaKind::FramePointer,
                _ => CfaKind::Register,
            };
            (kind, *offset, *register)
        }
        CfaRule::Expression(expression) => expression_rule(expression, section)?,
    };
    // The kernel half takes the saved frame pointer from where the frame pointer leads, for these alone.
    let saved_by_expression = matches!(row.register(X86_64::RBP), Some(RegisterRule::Expression(_)));
    if (cfa == CfaKind::FramePointerDeref) != saved_by_expression {
        return None;
    }
    Some(Rule {
        cfa,
        cfa_offset: i32::try_from(offset).ok()?,
        frame_pointer_below_cfa,
        register: if cfa == CfaKind::Register { u32::from(register.0) } else { 0 },
    })
}

/// The two expressions that compilers and linkers write.
fn expression_rule<'data, S: UnwindSection<Slice<'data>>>(
    expression: &UnwindExpression<usize>,
    section: &S,
) -> Option<(CfaKind, i64, Register)> {
    let expression = expression.get(section).ok()?;
    let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
    let mut operations = expression.operations(encoding);
    let Operation::RegisterOffset { register, offset, .. } = operations.next().ok()?? else { return None };
    match (register, operations.next().ok()??) {
        (X86_64::RBP, Operation::Deref { .. }) if operations.next().ok()?.is_none() => {
            Some((CfaKind::FramePointerDeref, offset, register))
        }
        // `((rip & 15) >= 11) * 8 + rsp + 8`, written by linkers for `.plt`.
        (X86_64::RSP, Operation::RegisterOffset { register: X86_64::RA, .. }) if offset == 8 => {
            Some((CfaKind::Plt, 8, register))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek as _, SeekFrom, Write as _};

    use gimli::EhFrameHdr;
    use proptest::prelude::*;

    use super::*;

    /// A small program that each Linux has.
    const SMALL: &str = "/bin/true";

    fn rule_at(table: &Table, address: u64) -> Rule {
        let start = u32::try_from(address - table.base).unwrap();
        let next = table.rows.partition_point(|row| row.start <= start);
        Rule::unpack(table.rows[next - 1].rule)
    }

    /// Pseudo-random numbers below `limit`, the same in each run.
    fn numbers(limit: u64) -> impl Iterator<Item = u64> {
        let mut number = 1_u64;
        std::iter::repeat_with(move || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 20) % limit
        })
    }

    fn is_in_order(table: &Table) -> bool {
        table.rows.windows(2).all(|pair| pair[0].start < pair[1].start && pair[0].rule != pair[1].rule)
    }

    /// The table of these tests themselves: large, in order, and nothing of it in doubt.
    #[test]
    fn own_table_is_in_order() {
        let table = read_table(&File::open("/proc/self/exe").unwrap());
        assert!(table.rows.len() > 10_000, "{} rows", table.rows.len());
        assert!(table.rows.len() <= table.unmerged * 2 + 1);
        assert!(is_in_order(&table));
        assert!(!table.damaged);
        assert_eq!(table.not_understood, 0);
    }

    /// What a table says of an address is what gimli finds for it by the linker's own search table.
    #[test]
    fn rows_say_what_gimli_says() {
        let data = std::fs::read("/proc/self/exe").unwrap();
        let object = object::File::parse(&*data).unwrap();
        let table = read_table(&File::open("/proc/self/exe").unwrap());
        let section = |name: &str| {
            let section = object.section_by_name(name).unwrap();
            (section.address(), section.size(), section.data().unwrap())
        };
        let (text, text_size, _) = section(".text");
        let (header_address, _, header) = section(".eh_frame_hdr");
        let (frames_address, _, frames) = section(".eh_frame");
        let bases = BaseAddresses::default()
            .set_text(text)
            .set_eh_frame_hdr(header_address)
            .set_eh_frame(frames_address);
        let header = EhFrameHdr::new(header, LittleEndian).parse(&bases, 8).unwrap();
        let frames = EhFrame::new(frames, LittleEndian);
        let mut context = UnwindContext::new();
        let mut compared = 0;
        for address in numbers(text_size).map(|offset| text + offset).take(2000) {
            let found = header.table().unwrap().unwind_info_for_address(
                &frames,
                &bases,
                &mut context,
                address,
                EhFrame::cie_from_offset,
            );
            let ours = rule_at(&table, address);
            let Ok(row) = found else {
                assert_eq!(ours.cfa, CfaKind::Unknown, "{address:#x}");
                continue;
            };
            if row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
                assert_eq!(ours.cfa, CfaKind::EndOfStack, "{address:#x}");
                continue;
            }
            let base = match ours.cfa {
                CfaKind::StackPointer => X86_64::RSP,
                CfaKind::FramePointer => X86_64::RBP,
                CfaKind::Register => Register(ours.register as u16),
                other => panic!("{address:#x} is {other:?}, not {row:?}"),
            };
            let expected = CfaRule::RegisterAndOffset { register: base, offset: i64::from(ours.cfa_offset) };
            assert_eq!(*row.cfa(), expected, "{address:#x}");
            let saved = match row.register(X86_64::RBP) {
                Some(RegisterRule::Offset(offset)) => -offset,
                _ => 0,
            };
            assert_eq!(i64::from(ours.frame_pointer_below_cfa), saved, "{address:#x}");
            compared += 1;
        }
        assert!(compared > 1500, "{compared} addresses were compared");
    }

    /// Of two descriptions of the same code, the one that starts first stays, to its end.
    #[test]
    fn first_description_stays() {
        let mut builder = Builder { base: 0x1000, rows: Vec::new(), not_understood: 0, damaged: false };
        let packed =
            |offset| Rule { cfa_offset: offset, ..Rule::plain(CfaKind::StackPointer) }.pack().unwrap();
        builder.push(0x1180, 0x1300, packed(24));
        builder.push(0x1100, 0x1200, packed(8));
        builder.push(0x1100, 0x1200, packed(16));
        builder.push(0x1400, 0x1500, packed(32));
        builder.push(0x1500, 0x1600, packed(32));
        // Before the file's first segment, and backwards.
        builder.push(0, 0x100, packed(8));
        builder.push(0x1800, 0x1700, packed(8));
        let table = builder.finish();
        let row = |start, rule| UnwindRow { start, rule };
        assert_eq!(
            table.rows,
            [row(0, 0), row(0x100, packed(8)), row(0x200, 0), row(0x400, packed(32)), row(0x600, 0)]
        );
        assert_eq!(table.unmerged, 5);
    }

    /// What is no ELF file has no rows.
    #[test]
    fn other_files_have_no_rows() {
        assert_eq!(read_table(&File::open("/proc/self/status").unwrap()), Table::default());
        assert_eq!(read_table(&tempfile::tempfile().unwrap()), Table::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Damaged descriptions give fewer or other rows, in order, and no panic.
        #[test]
        fn damaged_descriptions_are_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        ) {
            let mut data = std::fs::read(SMALL).unwrap();
            let range = object::File::parse(&*data).unwrap().section_by_name(".eh_frame").unwrap().file_range();
            let (start, size) = range.unwrap();
            for (at, byte) in changes {
                data[start as usize + at.index(size as usize)] = byte;
            }
            let table = read_table(&file_of(&data));
            prop_assert!(is_in_order(&table));
        }

        /// A file that is cut or changed anywhere gives some table or none, and no panic.
        #[test]
        fn damaged_files_are_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..50),
            length in any::<prop::sample::Index>(),
        ) {
            let mut data = std::fs::read(SMALL).unwrap();
            for (at, byte) in changes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            data.truncate(length.index(data.len() + 1));
            prop_assert!(is_in_order(&read_table(&file_of(&data))));
        }
    }

    fn file_of(data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }
}
