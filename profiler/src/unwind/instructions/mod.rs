//! Rows for code that nothing describes, from its instructions: musl, which Alpine's images run on, comes without unwind tables.
//!
//! Each function is followed from its start, along all of its branches, with what is known at each instruction: how far the stack
//! pointer and the frame pointer are from the CFA, and where the caller's frame pointer was put. Where two ways to an instruction
//! disagree, that is not known, and gives no row: none is better than a wrong one. A function starts where a symbol says so,
//! where a call leads, and where an address is taken. Behind a jump by a table it is looked at what no branch leads to.

mod function;

use std::collections::{BTreeSet, HashSet};

use function::{Function, immediate};
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, Register};
use object::read::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use profiler_common::CfaKind;

use super::FRAME_POINTER_CHAIN;
use super::elf::bytes as bytes_at;
use super::table::{Builder, ElfFile};

/// Code that is read as a whole.
const MAX_TEXT_BYTES: u64 = 4 << 20;
/// Fewer undescribed bytes than that are not looked for.
const LEAST_BYTES: u64 = 2048;
/// Looks for more functions, and for those that never return.
const MAX_LOOKS: usize = 4;
/// Compilers let functions start at multiples of that.
const FUNCTION_ALIGNMENT: u64 = 16;
/// What lies between functions that are described.
const LONGEST_PADDING_BYTES: u64 = 64;
/// Sections of functions that run before and after all others, of pieces that the linker puts together.
const START_AND_END: [&str; 2] = [".init", ".fini"];
/// What is read of a program's start, or of one of these.
const START_BYTES: u64 = 64;

/// Code of which some is undescribed.
struct Text<'data> {
    /// Where it is in the file's own address space.
    address: u64,
    code: &'data [u8],
    /// Where the program starts. Whoever called that is nobody.
    entry: u64,
    /// What is called in it.
    called: HashSet<u64>,
    /// Functions that never return.
    endless: HashSet<u64>,
}

/// Where functions start.
struct Starts {
    certain: BTreeSet<u64>,
    /// Addresses that are taken: of functions, or of places in them, for jumps.
    taken: BTreeSet<u64>,
}

/// Adds rows for what is not described of a file's code. Whether that was much: of a program's start alone nothing is read but that.
pub(super) fn complete(builder: &mut Builder, object: &ElfFile<'_>) -> bool {
    let Some(section) = object.section_by_name(".text") else { return false };
    let (start, end) = (section.address(), section.address().saturating_add(section.size()));
    let mut stretches = builder.undescribed(start, end);
    let is_nothing_described = stretches == [(start, end)];
    // A file of which nothing is said is walked by frame pointers.
    if !is_nothing_described {
        START_AND_END.into_iter().for_each(|name| describe_section(builder, object, name));
    }
    let is_start = |(start, end): &(u64, u64)| (*start..*end).contains(&object.entry());
    stretches.retain(|stretch| stretch.1 - stretch.0 > LONGEST_PADDING_BYTES || is_start(stretch));
    let bytes: u64 = stretches.iter().map(|(start, end)| end - start).sum();
    if bytes >= LEAST_BYTES && section.size() <= MAX_TEXT_BYTES {
        let Ok(code) = section.data() else { return false };
        let mut text = Text::new(start, code, object.entry());
        let mut starts = text.starts();
        starts.certain.extend(symbols(object));
        let keeps_frame_pointers = text.describe(&stretches, starts, builder);
        if is_nothing_described && keeps_frame_pointers {
            let rule = FRAME_POINTER_CHAIN.pack().unwrap_or(CfaKind::Unknown as u32);
            builder
                .undescribed(start, end)
                .into_iter()
                .for_each(|(start, end)| builder.push(start, end, rule));
        }
        return true;
    }
    if let Some((_, end)) = stretches.iter().find(|stretch| is_start(stretch) && !is_nothing_described) {
        let start = object.entry();
        let length = (end - start).min(START_BYTES);
        let Some(code) = bytes_at(object, start, length) else { return false };
        let mut text = Text::new(start, code, start);
        let starts = text.starts();
        text.describe(&[(start, start + length)], starts, builder);
    }
    false
}

/// Adds rows for a section that is one function.
fn describe_section(builder: &mut Builder, object: &ElfFile<'_>, name: &str) {
    let Some(section) = object.section_by_name(name).filter(|section| section.size() <= START_BYTES) else {
        return;
    };
    let (start, end) = (section.address(), section.address().saturating_add(section.size()));
    let Some(code) = section.data().ok().filter(|_| builder.undescribed(start, end) == [(start, end)]) else {
        return;
    };
    let starts = Starts { certain: BTreeSet::from([start]), taken: BTreeSet::new() };
    Text::new(start, code, object.entry()).describe(&[(start, end)], starts, builder);
}

/// Where functions start by the symbols of a file.
fn symbols(object: &ElfFile<'_>) -> impl Iterator<Item = u64> {
    let symbols = object.symbols().chain(object.dynamic_symbols());
    symbols
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .map(|symbol| symbol.address())
}

impl<'data> Text<'data> {
    fn new(address: u64, code: &'data [u8], entry: u64) -> Self {
        Self { address, code, entry, called: HashSet::new(), endless: HashSet::new() }
    }

    /// Whatever is called in the code, or has its address taken.
    fn starts(&mut self) -> Starts {
        let mut starts = Starts { certain: BTreeSet::from([self.entry]), taken: BTreeSet::new() };
        for instruction in &mut self.decoder(self.address) {
            let is_here = |target: &u64| (self.address..self.end()).contains(target);
            match instruction.code() {
                Code::Call_rel32_64 => {
                    starts.certain.extend(Some(instruction.near_branch_target()).filter(is_here));
                }
                Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
                    starts.taken.extend(Some(instruction.ip_rel_memory_address()).filter(is_here));
                }
                _ => {}
            }
        }
        self.called.extend(starts.certain.iter().copied());
        starts
    }

    /// Rows for the functions that start in stretches of it. Returns whether most of them set up a frame pointer.
    fn describe(&mut self, stretches: &[(u64, u64)], starts: Starts, builder: &mut Builder) -> bool {
        let Starts { mut certain, mut taken } = starts;
        self.look(stretches, &mut certain);
        for function in self.functions(stretches, &certain) {
            let taken_in_it: Vec<u64> = taken.range(function.start..function.end).copied().collect();
            taken_in_it
                .iter()
                .filter(|address| function.has(**address))
                .for_each(|address| _ = taken.remove(address));
        }
        certain.extend(taken);
        self.look(stretches, &mut certain);
        let (mut all, mut with_frame_pointer) = (0_usize, 0_usize);
        for function in self.functions(stretches, &certain) {
            match self.end_of_signal_return(function.start) {
                // The handler returns to its first byte, and what is looked up for a caller is the byte before.
                Some(end) => {
                    builder.push(function.start.saturating_sub(1), end, CfaKind::SignalFrame as u32);
                }
                None => function.push_rows(builder),
            }
            all += 1;
            with_frame_pointer += usize::from(function.has_frame_pointer());
        }
        with_frame_pointer * 2 > all
    }

    /// Finds more functions: those that others end with, and those that never return, since they call such a one.
    fn look(&mut self, stretches: &[(u64, u64)], starts: &mut BTreeSet<u64>) {
        for _ in 0..MAX_LOOKS {
            let known = self.endless.len() + starts.len();
            let (mut endless, mut next) = (Vec::new(), Vec::new());
            for function in self.functions(stretches, starts) {
                next.extend(function.next);
                endless.extend((!function.is_left).then_some(function.start));
            }
            starts.extend(next);
            self.endless.extend(endless);
            if self.endless.len() + starts.len() == known {
                return;
            }
        }
    }

    /// The functions that start in stretches of it, each followed up to where the next one starts.
    fn functions(
        &self,
        stretches: &[(u64, u64)],
        starts: &BTreeSet<u64>,
    ) -> impl Iterator<Item = Function<'_, 'data>> {
        let mut bounds = Vec::new();
        for &(start, end) in stretches {
            let mut starts: Vec<u64> = starts.range(start..end).copied().collect();
            starts.push(end);
            bounds.extend(starts.windows(2).map(|pair| (pair[0], pair[1])));
        }
        bounds.into_iter().map(|bounds| Function::follow(self, bounds))
    }

    /// Whether nothing is done from there up to where the next function may start.
    fn is_padding(&self, address: u64) -> bool {
        let mut decoder = self.decoder(address);
        while !decoder.ip().is_multiple_of(FUNCTION_ALIGNMENT) {
            if !matches!(decoder.decode().mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
                return false;
            }
        }
        decoder.ip() > address
    }

    /// `rt_sigreturn` is all that the stub does to which handlers of signals return (`restore.s` of musl).
    fn end_of_signal_return(&self, start: u64) -> Option<u64> {
        let mut decoder = self.decoder(start);
        let (number, call) = (decoder.decode(), decoder.decode());
        let is_number = number.mnemonic() == Mnemonic::Mov
            && matches!(number.op0_register(), Register::RAX | Register::EAX)
            && immediate(&number) == Some(15);
        (is_number && call.mnemonic() == Mnemonic::Syscall).then(|| call.next_ip())
    }

    fn end(&self) -> u64 {
        self.address.saturating_add(self.code.len() as u64)
    }

    /// Of what is at an address; nothing is outside of the code.
    fn decoder(&self, address: u64) -> Decoder<'data> {
        let from = address.checked_sub(self.address).and_then(|from| usize::try_from(from).ok());
        let code = from.and_then(|from| self.code.get(from..)).unwrap_or_default();
        Decoder::with_ip(64, code, address, DecoderOptions::NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use object::read::ReadCache;
    use proptest::prelude::*;

    use super::*;
    use crate::unwind::{Table, read_table};

    /// The rows of code in which functions start at these places.
    fn table(code: &[u8], starts: &[u64]) -> Table {
        let mut builder = Builder::new(0);
        let mut text = Text::new(0x1000, code, 0);
        let mut found = text.starts();
        found.certain = starts.iter().copied().collect();
        text.describe(&[(text.address, text.end())], found, &mut builder);
        builder.finish()
    }

    fn rules(code: &[u8], starts: &[u64], addresses: &[u64]) -> Vec<(CfaKind, i32, u32)> {
        let table = table(code, starts);
        let rules = addresses.iter().map(|address| table.rule_at(*address));
        rules.map(|rule| (rule.cfa, rule.cfa_offset, rule.frame_pointer_below_cfa)).collect()
    }

    const SP: CfaKind = CfaKind::StackPointer;

    /// A function that saves the frame pointer, makes room, and has two ways to its end.
    #[test]
    fn functions_are_followed() {
        let code = [
            0x53, // 1000 push rbx
            0x55, // 1001 push rbp
            0x48, 0x83, 0xec, 0x18, // 1002 sub rsp, 24
            0x31, 0xed, // 1006 xor ebp, ebp
            0x85, 0xff, // 1008 test edi, edi
            0x74, 0x01, // 100a je 100d
            0x90, // 100c nop
            0x48, 0x83, 0xc4, 0x18, // 100d add rsp, 24
            0x5d, // 1011 pop rbp
            0x5b, // 1012 pop rbx
            0xc3, // 1013 ret
        ];
        let at = rules(&code, &[0x1000], &[0x1000, 0x1001, 0x1002, 0x1006, 0x100d, 0x1011, 0x1012, 0x1013]);
        let expected = [(8, 0), (16, 0), (24, 24), (48, 24), (48, 24), (24, 24), (16, 0), (8, 0)];
        assert_eq!(at, expected.map(|(offset, saved)| (SP, offset, saved)));
    }

    /// A stack that is made larger by what is not known is found by the frame pointer.
    #[test]
    fn frame_pointers_are_used() {
        let code = [
            0x55, // 1000 push rbp
            0x48, 0x89, 0xe5, // 1001 mov rbp, rsp
            0x48, 0x29, 0xfc, // 1004 sub rsp, rdi
            0x90, // 1007 nop
            0xc9, // 1008 leave
            0xc3, // 1009 ret
        ];
        let at = rules(&code, &[0x1000], &[0x1004, 0x1007, 0x1009]);
        assert_eq!(at, [(SP, 16, 16), (CfaKind::FramePointer, 16, 16), (SP, 8, 0)]);
    }

    /// Where two ways to a place disagree, nothing is said of it; and where a function returns with something on its stack, it is not
    /// what it seemed to be, and nothing is said at all.
    #[test]
    fn what_is_not_certain_is_not_said() {
        let code = [
            0x85, 0xff, // 1000 test edi, edi
            0x74, 0x01, // 1002 je 1005
            0x53, // 1004 push rbx
            0x90, // 1005 nop
            0xf4, // 1006 hlt
            0x53, // 1007 push rbx
            0xc3, // 1008 ret
        ];
        let at = rules(&code, &[0x1000, 0x1007], &[0x1002, 0x1004, 0x1005, 0x1007]);
        let unknown = (CfaKind::Unknown, 0, 0);
        assert_eq!(at, [(SP, 8, 0), (SP, 8, 0), unknown, unknown]);
    }

    /// Code behind a call that never returns is another function's: it does not have the caller's stack.
    #[test]
    fn calls_that_never_return() {
        let code = [
            0x53, // 1000 push rbx
            0xe8, 0x02, 0, 0, 0,    // 1001 call 1008
            0x90, // 1006 nop
            0xc3, // 1007 ret, of what nobody calls
            0xf4, // 1008 hlt
        ];
        let at = rules(&code, &[0x1000, 0x1008], &[0x1001, 0x1006]);
        assert_eq!(at, [(SP, 16, 0), (CfaKind::Unknown, 0, 0)]);
    }

    /// What is mapped here from a file of that name.
    fn mapped(name: &str) -> File {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.contains(name)).unwrap();
        File::open(line.split_whitespace().last().unwrap()).unwrap()
    }

    /// Nobody has called the start of the dynamic linker, which goes on behind its first call.
    #[test]
    fn starts_of_programs_are_outermost() {
        let file = mapped("/ld-linux");
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).unwrap();
        let table = read_table(&file);
        let code = bytes_at(&object, object.entry(), START_BYTES).unwrap();
        let mut decoder = Decoder::with_ip(64, code, object.entry(), DecoderOptions::NONE);
        let calls = decoder.iter().filter(|instruction| instruction.mnemonic() == Mnemonic::Call);
        let behind: Vec<u64> = calls.map(|call| call.next_ip()).collect();
        assert!(!behind.is_empty());
        for address in [object.entry()].into_iter().chain(behind) {
            assert_eq!(table.rule_at(address).cfa, CfaKind::EndOfStack, "{address:#x}");
        }
    }

    /// What runs before all else, which nothing describes, has rows.
    #[test]
    fn first_functions_are_followed() {
        let file = File::open("/proc/self/exe").unwrap();
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).unwrap();
        let table = read_table(&file);
        for name in START_AND_END {
            let section = object.section_by_name(name).unwrap();
            let rules = (section.address()..section.address() + section.size()).map(|at| table.rule_at(at));
            let (offsets, kinds): (BTreeSet<_>, Vec<_>) =
                rules.map(|rule| (rule.cfa_offset, rule.cfa)).unzip();
            assert_eq!(offsets, BTreeSet::from([8, 16]), "{name}");
            assert!(kinds.iter().all(|kind| *kind == SP), "{name}");
        }
    }

    /// The C library of this machine has both: what its instructions say is what its compiler wrote down, for most of it. (Four of
    /// its functions push registers, in assembly, without writing that down.)
    #[test]
    fn instructions_say_what_is_described() {
        let file = mapped("/libc.so");
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).unwrap();
        let section = object.section_by_name(".text").unwrap();
        let described = read_table(&file);
        let mut builder = Builder::new(described.base);
        let mut text = Text::new(section.address(), section.data().unwrap(), object.entry());
        let mut starts = text.starts();
        starts.certain.extend(symbols(&object));
        let code = section.address()..text.end();
        text.describe(&[(code.start, code.end)], starts, &mut builder);
        let found = builder.finish();

        let (mut right, mut wrong, mut unknown) = (0, 0, 0);
        for address in code {
            let (told, found) = (described.rule_at(address), found.rule_at(address));
            if matches!(told.cfa, CfaKind::Unknown | CfaKind::EndOfStack | CfaKind::Register) {
                continue;
            }
            // The one may go by the stack pointer and the other by the frame pointer. And compilers do not write down that it was
            // restored from a place that is still there.
            let is_same_place = told.cfa != found.cfa || told.cfa_offset == found.cfa_offset;
            let is_restored =
                found.frame_pointer_below_cfa == 0 && told.frame_pointer_below_cfa as i32 > told.cfa_offset;
            let is_same_saved = told.frame_pointer_below_cfa == found.frame_pointer_below_cfa;
            match found.cfa {
                CfaKind::Unknown => unknown += 1,
                _ if is_same_place && (is_same_saved || is_restored) => right += 1,
                _ => wrong += 1,
            }
        }
        println!("{right} bytes of code as described, {wrong} otherwise, of {unknown} nothing is said");
        assert!(right > 500_000 && unknown * 4 < right, "{right} right, {unknown} unknown");
        assert!(wrong * 1000 < right, "{wrong} of {right}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any bytes are survived, wherever functions are said to start.
        #[test]
        fn any_code_is_survived(
            code in prop::collection::vec(any::<u8>(), 1..4000),
            starts in prop::collection::vec(0x1000..0x2000_u64, 0..40),
        ) {
            let table = table(&code, &starts);
            prop_assert!(table.rows.windows(2).all(|pair| pair[0].start < pair[1].start));
        }
    }
}
