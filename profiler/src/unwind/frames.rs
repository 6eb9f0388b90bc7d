//! `.eh_frame` and `.debug_frame` as rows: for each stretch of code, how to find its caller.
//!
//! Formats: the System V ABI for AMD64, "DWARF Extensions" of the LSB, and DWARF 5 section 6.4.

use std::collections::HashMap;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, EndianSlice, FrameDescriptionEntry,
    LittleEndian, Operation, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
    UnwindTableRow, X86_64,
};
use profiler_common::{CfaKind, Rule};

use super::table::Builder;

type Slice<'data> = EndianSlice<'data, LittleEndian>;

/// The longest common entry that is believed; compilers write some 40 bytes.
const MAX_COMMON_ENTRY_BYTES: usize = 512;
/// Frame descriptions of one file that are read. Node has 100,000.
const MAX_DESCRIPTIONS: usize = 4_000_000;

impl Builder {
    /// Takes in every description of a section.
    pub(super) fn read<'data, S>(&mut self, section: &S, bases: &BaseAddresses)
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
            if self.is_full() {
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
}

/// The rule of a row; `None` when it is of a kind that we do not know.
fn rule<'data, S: UnwindSection<Slice<'data>>>(row: &UnwindTableRow<usize>, section: &S) -> Option<Rule> {
    match row.register(X86_64::RA).unwrap_or(RegisterRule::Undefined) {
        RegisterRule::Undefined => return Some(Rule::plain(CfaKind::EndOfStack)),
        // Where the ABI has it. gimli says `Offset(-8)` as compilers always write it out.
        RegisterRule::Offset(-8) => {}
        RegisterRule::Register(register) => return in_register(row, register),
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
    let (cfa, offset, further) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let kind = match *register {
                X86_64::RSP => CfaKind::StackPointer,
                X86_64::RBP => CfaKind::FramePointer,
                _ => CfaKind::Register,
            };
            (kind, *offset, if kind == CfaKind::Register { u32::from(register.0) } else { 0 })
        }
        CfaRule::Expression(expression) => expression_rule(expression, section)?,
    };
    // The kernel half takes the saved frame pointer from where the frame pointer leads, for these alone.
    let saved_by_expression = matches!(row.register(X86_64::RBP), Some(RegisterRule::Expression(_)));
    if (cfa == CfaKind::FramePointerDeref && further == 0) != saved_by_expression {
        return None;
    }
    Some(Rule { cfa, cfa_offset: i32::try_from(offset).ok()?, frame_pointer_below_cfa, register: further })
}

/// The rule of a function that keeps its return address in a register, as `vfork` does: the child leaves its frame while the parent still
/// needs it.
fn in_register(row: &UnwindTableRow<usize>, register: Register) -> Option<Rule> {
    let CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } = *row.cfa() else { return None };
    let is_kept = matches!(row.register(X86_64::RBP), None | Some(RegisterRule::SameValue));
    let register = u32::from(register.0);
    // Zero, which is `rax`, stands for none.
    (is_kept && (1..16).contains(&register)).then_some(Rule {
        cfa: CfaKind::EndOfStack,
        cfa_offset: i32::try_from(offset).ok()?,
        frame_pointer_below_cfa: 0,
        register,
    })
}

/// The expressions that compilers and linkers write, and the one of OpenSSL's assembly: kind, offset and [`Rule::register`].
fn expression_rule<'data, S: UnwindSection<Slice<'data>>>(
    expression: &UnwindExpression<usize>,
    section: &S,
) -> Option<(CfaKind, i64, u32)> {
    let expression = expression.get(section).ok()?;
    let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
    let mut operations = expression.operations(encoding);
    let Operation::RegisterOffset { register, offset, .. } = operations.next().ok()?? else { return None };
    match (register, operations.next().ok()??) {
        (X86_64::RBP, Operation::Deref { .. }) if operations.next().ok()?.is_none() => {
            Some((CfaKind::FramePointerDeref, offset, 0))
        }
        // `[rsp + offset] + words`: where the stack pointer was kept before the stack was aligned.
        (X86_64::RSP, Operation::Deref { .. }) => match (operations.next().ok()??, operations.next().ok()?) {
            (Operation::PlusConstant { value }, None) if value > 0 && value % 8 == 0 => {
                let words = u32::try_from(value / 8).ok().filter(|words| *words < Rule::INDEXED)?;
                Some((CfaKind::FramePointerDeref, offset, words))
            }
            _ => None,
        },
        (X86_64::RSP, Operation::RegisterOffset { register: X86_64::R9, offset: 0, .. }) => {
            let mut rest = Vec::new();
            while let Some(operation) = operations.next().ok()?.filter(|_| rest.len() < 8) {
                rest.push(operation);
            }
            let is_known = matches!(
                &rest[..],
                [
                    Operation::UnsignedConstant { value: 8 },
                    Operation::Mul,
                    Operation::Plus,
                    Operation::Deref { .. },
                    Operation::PlusConstant { value: 8 },
                ]
            );
            is_known.then_some((CfaKind::FramePointerDeref, offset, Rule::INDEXED))
        }
        // `((rip & 15) >= 11) * 8 + rsp + 8`, written by linkers for `.plt`.
        (X86_64::RSP, Operation::RegisterOffset { register: X86_64::RA, .. }) if offset == 8 => {
            Some((CfaKind::Plt, 8, 0))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek as _, SeekFrom, Write as _};

    use gimli::{DebugFrame, EhFrame, EhFrameHdr};
    use object::read::{Object, ObjectSection};
    use proptest::prelude::*;

    use super::*;
    use crate::unwind::{Table, read_table};

    /// A small program that each Linux has.
    const SMALL: &str = "/bin/true";

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

    /// The `vfork` of this machine's C library keeps its return address in `rdi`: the child would write over it on the stack.
    #[test]
    fn return_addresses_are_in_registers() {
        use object::read::ObjectSymbol;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.lines().find(|line| line.contains("/libc.so")).unwrap().split_whitespace().last();
        let data = std::fs::read(path.unwrap()).unwrap();
        let object = object::File::parse(&*data).unwrap();
        let vfork = object.dynamic_symbols().find(|symbol| symbol.name() == Ok("vfork")).unwrap();
        let table = read_table(&File::open(path.unwrap()).unwrap());
        let is_kept = |address| {
            let rule = table.rule_at(address);
            rule.cfa == CfaKind::EndOfStack && rule.register == u32::from(X86_64::RDI.0)
        };
        let code = vfork.address()..vfork.address() + vfork.size();
        assert!(code.clone().any(is_kept));
        assert_eq!(table.rule_at(code.start).cfa, CfaKind::StackPointer);
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
            let ours = table.rule_at(address);
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

    /// A `.debug_frame` with a common entry and a function that saves `rbp` at 0x1000.
    const DEBUG_FRAME: [u8; 60] = [
        // Length, mark of a common entry, version 3, no augmentation, alignments 1 and -8, return address in 16.
        20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 3, 0, 1, 0x78, 16, //
        0x0c, 7, 8, 0x90, 1, // CFA is rsp + 8, the return address is at CFA - 8
        0, 0, 0, 0, 0, 0, // padding
        // Length, offset of the common entry, start and length of the function.
        32, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, //
        0x41, 0x0e, 16, 0x86, 2, // behind `push rbp`
        0x43, 0x0d, 6, // behind `mov rbp, rsp`
        0, 0, 0, 0,
    ];

    fn table_of_debug_frame(data: &[u8]) -> Table {
        let mut frames = DebugFrame::new(data, LittleEndian);
        frames.set_address_size(8);
        let mut builder = Builder::new(0);
        builder.read(&frames, &BaseAddresses::default());
        builder.finish()
    }

    /// What `.debug_frame` says of a function is what its rows say.
    #[test]
    fn debug_frames_are_read() {
        let table = table_of_debug_frame(&DEBUG_FRAME);
        assert!(!table.damaged && table.not_understood == 0, "{table:?}");
        let at = |address| {
            let rule = table.rule_at(address);
            (rule.cfa, rule.cfa_offset, rule.frame_pointer_below_cfa)
        };
        assert_eq!(at(0x1000), (CfaKind::StackPointer, 8, 0));
        assert_eq!(at(0x1001), (CfaKind::StackPointer, 16, 16));
        assert_eq!(at(0x103f), (CfaKind::FramePointer, 16, 16));
        assert_eq!(at(0x1040).0, CfaKind::Unknown);
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

        /// The same of `.debug_frame`, also where nothing of it is left.
        #[test]
        fn damaged_debug_frames_are_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            copies in 1..20_usize,
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut data = DEBUG_FRAME.repeat(copies);
            for (at, byte) in changes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            data.extend(&noise);
            prop_assert!(is_in_order(&table_of_debug_frame(&data)));
            prop_assert!(is_in_order(&table_of_debug_frame(&noise)));
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
