//! Unwind rows: how to get from a frame to its caller, for each stretch of machine code.

/// For code from `start` to the next row's `start`: where the caller's frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct UnwindRow {
    /// Virtual address in the module's file, less the address that its table starts from.
    pub start: u32,
    /// A packed [`Rule`].
    pub rule: u32,
}

/// How to find the canonical frame address (CFA): the stack pointer of the caller before its call.
/// The return address is always just below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CfaKind {
    /// Nothing is known of this code.
    Unknown = 0,
    /// The outermost frame: its return address is undefined. With [`Rule::register`], it is in that register of an innermost frame, and the
    /// CFA is the stack pointer plus offset: glibc's `vfork`.
    EndOfStack = 1,
    /// Stack pointer plus offset.
    StackPointer = 2,
    /// Frame pointer plus offset.
    FramePointer = 3,
    /// What `[frame pointer + offset]` holds: functions that align their stack. With [`Rule::register`], what
    /// `[stack pointer + offset]` holds and so many words more: assembly that does.
    FramePointerDeref = 4,
    /// A procedure linkage table: `rsp + 8`, and 8 more from the eleventh byte of each 16-byte entry on.
    Plt = 5,
    /// Another register plus offset: only innermost frames have it.
    Register = 6,
    /// A signal handler's return stub: the interrupted registers are in the `ucontext` at the stack pointer.
    SignalFrame = 7,
}

/// What a row says, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How the CFA is found.
    pub cfa: CfaKind,
    /// Offset of the CFA from its base in bytes: a multiple of 8.
    pub cfa_offset: i32,
    /// Where the caller's frame pointer was saved, in bytes below the CFA: a multiple of 8. Zero: it is unchanged.
    pub frame_pointer_below_cfa: u32,
    /// DWARF number of the register of [`CfaKind::Register`]; with [`CfaKind::FramePointer`], 1 when the caller may be on
    /// another stack; with [`CfaKind::FramePointerDeref`] and [`CfaKind::EndOfStack`], see there.
    pub register: u32,
}

/// Rows in a page of a table.
pub const ROWS_PER_PAGE: usize = 1024;
/// Pages of one table behind its index: the index fills one page of [`PageStarts`].
pub const MAX_PAGES: usize = 2048;
/// Tables at one time: one for each file that code is mapped from.
pub const MAX_TABLES: u32 = 4096;

/// A part of a table: page 0 of a table is its index, [`PageStarts`]. What is not used starts at `u32::MAX`.
pub type RowPage = [UnwindRow; ROWS_PER_PAGE];
/// The first row's start of each further page.
pub type PageStarts = [u32; MAX_PAGES];

/// Length of a [`CodeMapping`]'s key in bits: process ID and address, both big-endian.
pub const MAPPING_KEY_BITS: u32 = 96;

/// The key of a mapping: owner and address.
pub fn mapping_key(owner: u32, address: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&owner.to_be_bytes());
    key[4..].copy_from_slice(&address.to_be_bytes());
    key
}

/// A stretch of a process's address space that holds code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct CodeMapping {
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub end: u64,
    /// Add it (wrapping) to an address to get what the rows of the table count in.
    pub to_row: u64,
    /// Number of the table of its file, of which [`CodeMapping::table_slot`] is the index;
    /// [`CodeMapping::NO_TABLE`] for code that keeps frame pointers.
    pub table: u32,
    /// An [`Interpreter`]: who runs in this code.
    pub interpreter: u32,
}

/// Whose frames stand in place of machine code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Interpreter {
    /// Nobody's: the code is what it is.
    #[default]
    None = 0,
    /// CPython's evaluation loop.
    Python = 1,
    /// V8's builtins, and the code that it makes.
    V8 = 2,
}

impl CodeMapping {
    /// The code has no table: runtimes' own code, and files without unwind rows, are walked by frame pointers.
    pub const NO_TABLE: u32 = u32::MAX;

    /// The number of the table that is the `loads`th to be loaded, into a slot: a slot is used again, its number is not.
    /// (After a million loads it could be; none of the rules that were found with it before is then remembered.)
    pub fn table_number(slot: u32, loads: u32) -> u32 {
        // From one on, since memory starts with zeros, and never all ones.
        let generation = loads % (u32::MAX / MAX_TABLES - 1) + 1;
        (generation * MAX_TABLES) | slot
    }

    /// Where a table is in the map of tables.
    #[inline(always)]
    pub fn table_slot(number: u32) -> u32 {
        number & (MAX_TABLES - 1)
    }
}

/// Files with code whose tables are here at one time.
pub const MAX_CODE_FILES: u32 = 4096;

/// A part of a file that processes map to run it, as the kernel names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct CodeFileKey {
    /// Inode number.
    pub inode: u64,
    /// Where in the file the mapping starts, in bytes.
    pub offset: u64,
    /// `super_block.s_dev`: the major number above [`CodeFileKey::MINOR_BITS`] of the minor one.
    pub device: u32,
    /// Always zero.
    pub reserved: u32,
}

impl CodeFileKey {
    /// `MINORBITS` of `include/linux/kdev_t.h`.
    pub const MINOR_BITS: u32 = 20;
}

/// How to unwind what is mapped from such a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct CodeFile {
    /// Add it (wrapping) to the distance from the start of the mapping to get what the rows of the table count in.
    pub to_row: u64,
    /// As [`CodeMapping::table`].
    pub table: u32,
    /// Always zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, two `u64` and two `u32` without padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CodeFileKey {}
// SAFETY: `repr(C)`, a `u64` and two `u32` without padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CodeFile {}
// SAFETY: `repr(C)`, three `u64` and two `u32` without padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CodeMapping {}
// SAFETY: `repr(C)`, two `u32`: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for UnwindRow {}

const KIND_BITS: u32 = 3;
const OFFSET_BITS: u32 = 16;
const SAVED_BITS: u32 = 9;
const REGISTER_BITS: u32 = 4;
const OFFSET_SHIFT: u32 = KIND_BITS;
const SAVED_SHIFT: u32 = OFFSET_SHIFT + OFFSET_BITS;
const REGISTER_SHIFT: u32 = SAVED_SHIFT + SAVED_BITS;
const WORD: i32 = 8;

impl Rule {
    /// The [`Rule::register`] of OpenSSL's Montgomery multiplication, with [`CfaKind::FramePointerDeref`]: a word more than
    /// what `[stack pointer + 8 * r9 + offset]` holds.
    pub const INDEXED: u32 = 15;

    /// A rule without offsets.
    pub const fn plain(cfa: CfaKind) -> Self {
        Self { cfa, cfa_offset: 0, frame_pointer_below_cfa: 0, register: 0 }
    }

    /// The rule in 32 bits; `None` when a figure does not fit.
    pub fn pack(self) -> Option<u32> {
        let offset = i16::try_from(self.cfa_offset / WORD).ok()?;
        let saved = self.frame_pointer_below_cfa / WORD as u32;
        let fits = self.cfa_offset % WORD == 0
            && self.frame_pointer_below_cfa.is_multiple_of(WORD as u32)
            && saved < 1 << SAVED_BITS
            && self.register < 1 << REGISTER_BITS;
        fits.then_some(
            self.cfa as u32
                | u32::from(offset as u16) << OFFSET_SHIFT
                | saved << SAVED_SHIFT
                | self.register << REGISTER_SHIFT,
        )
    }

    /// The rule of 32 bits.
    #[inline(always)]
    pub fn unpack(packed: u32) -> Self {
        let bits = |shift: u32, count: u32| packed >> shift & ((1 << count) - 1);
        let cfa = match bits(0, KIND_BITS) {
            1 => CfaKind::EndOfStack,
            2 => CfaKind::StackPointer,
            3 => CfaKind::FramePointer,
            4 => CfaKind::FramePointerDeref,
            5 => CfaKind::Plt,
            6 => CfaKind::Register,
            7 => CfaKind::SignalFrame,
            _ => CfaKind::Unknown,
        };
        Self {
            cfa,
            cfa_offset: i32::from(bits(OFFSET_SHIFT, OFFSET_BITS) as u16 as i16) * WORD,
            frame_pointer_below_cfa: bits(SAVED_SHIFT, SAVED_BITS) * WORD as u32,
            register: bits(REGISTER_SHIFT, REGISTER_BITS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of one slot have different numbers, and none is that of no table.
    #[test]
    fn tables_are_numbered() {
        for slot in [0, 1, MAX_TABLES - 1] {
            let numbers = [0, 1, 2, 1_048_573].map(|loads| CodeMapping::table_number(slot, loads));
            for (index, number) in numbers.iter().enumerate() {
                assert_eq!(CodeMapping::table_slot(*number), slot);
                assert!(*number != CodeMapping::NO_TABLE && *number >= MAX_TABLES);
                assert!(!numbers[..index].contains(number), "{numbers:?}");
            }
        }
    }

    /// What fits comes back; what does not fit is refused.
    #[test]
    fn rules_pack() {
        for cfa_offset in [-262_144, -8, 0, 8, 262_136] {
            for frame_pointer_below_cfa in [0, 16, 4088] {
                let rule = Rule { cfa: CfaKind::Register, cfa_offset, frame_pointer_below_cfa, register: 15 };
                assert_eq!(rule.pack().map(Rule::unpack), Some(rule));
            }
        }
        assert_eq!(Rule { cfa_offset: 4, ..Rule::plain(CfaKind::StackPointer) }.pack(), None);
        assert_eq!(Rule { cfa_offset: 262_144, ..Rule::plain(CfaKind::StackPointer) }.pack(), None);
        assert_eq!(Rule { frame_pointer_below_cfa: 4096, ..Rule::plain(CfaKind::StackPointer) }.pack(), None);
    }
}
