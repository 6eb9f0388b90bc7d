//! Which line an instruction belongs to.

use crate::unwind::LineTableKind;

/// The lines of a code object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LineTable {
    kind: LineTableKind,
    first_line: u32,
    bytes: Vec<u8>,
}

impl LineTable {
    pub(super) fn new(kind: LineTableKind, first_line: u32, bytes: Vec<u8>) -> Self {
        Self { kind, first_line, bytes }
    }

    /// The line of the instruction at an offset: in bytes from the first one, or for 3.10 in instructions.
    pub(super) fn find(&self, offset: u32) -> Option<u32> {
        let line = match self.kind {
            LineTableKind::Lnotab => self.lnotab(offset),
            LineTableKind::Lines => self.lines(offset.checked_mul(2)?),
            LineTableKind::Locations => self.locations(offset),
        }?;
        u32::try_from(line).ok().filter(|line| *line > 0)
    }

    /// `Objects/lnotab_notes.txt` of 3.9: pairs of bytes, how far to go in code (unsigned) and in lines (signed).
    fn lnotab(&self, offset: u32) -> Option<i64> {
        let (mut address, mut line) = (0_u64, i64::from(self.first_line));
        for [code, lines] in self.bytes.as_chunks().0 {
            address += u64::from(*code);
            if address > u64::from(offset) {
                break;
            }
            line += i64::from(lines.cast_signed());
        }
        Some(line)
    }

    /// `Objects/lnotab_notes.txt` of 3.10: pairs of bytes, how long a stretch of code is and how far its line is from the last
    /// one; -128 stands for no line.
    fn lines(&self, offset: u32) -> Option<i64> {
        const NO_LINE: i8 = -128;
        let (mut end, mut line) = (0_u64, i64::from(self.first_line));
        for [code, lines] in self.bytes.as_chunks().0 {
            let lines = lines.cast_signed();
            line += if lines == NO_LINE { 0 } else { i64::from(lines) };
            end += u64::from(*code);
            if end > u64::from(offset) {
                return (lines != NO_LINE).then_some(line);
            }
        }
        None
    }

    /// `Objects/locations.md` of 3.11 (`InternalDocs/code_objects.md` from 3.13 on): each entry starts with a byte whose top bit is
    /// set, a code of four bits, and the length of the stretch in instructions, less one.
    fn locations(&self, offset: u32) -> Option<i64> {
        let (mut end, mut line) = (0_u64, i64::from(self.first_line));
        let mut rest = self.bytes.as_slice();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            let code = first >> 3 & 15;
            let change = match code {
                // No location.
                15 => None,
                // Lines and columns, or lines alone.
                13 | 14 => Some(signed(&mut rest)?),
                // One, two or no lines further.
                10..=12 => Some(i64::from(code) - 10),
                _ => Some(0),
            };
            line = line.checked_add(change.unwrap_or(0))?;
            // What is left of the entry has no top bit.
            rest = &rest[rest.iter().position(|byte| byte & 0x80 != 0).unwrap_or(rest.len())..];
            end += (u64::from(first & 7) + 1) * 2;
            if end > u64::from(offset) {
                return change.map(|_| line);
            }
        }
        None
    }
}

/// A number of any length, six bits a byte, the least first: bit 6 says that more follow. The lowest bit is the sign.
fn signed(rest: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..36).step_by(6) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            let magnitude = (number >> 1).cast_signed();
            return Some(if number & 1 == 1 { -magnitude } else { magnitude });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(kind: LineTableKind, bytes: &[u8]) -> LineTable {
        LineTable::new(kind, 10, bytes.to_vec())
    }

    /// Pairs of 3.9: a line goes to the next pair's address.
    #[test]
    fn reads_lnotab() {
        let table = table(LineTableKind::Lnotab, &[0, 1, 4, 2, 6, 255]);
        let lines: Vec<_> = [0, 2, 4, 8, 10, 100].map(|offset| table.find(offset).unwrap()).into();
        assert_eq!(lines, [11, 11, 13, 13, 12, 12]);
    }

    /// Pairs of 3.10: a length and a line each, with stretches that have no line.
    #[test]
    fn reads_lines() {
        let table = table(LineTableKind::Lines, &[4, 1, 2, 128, 4, 254]);
        let lines: Vec<_> = (0..6).map(|instruction| table.find(instruction)).collect();
        assert_eq!(lines, [Some(11), Some(11), None, Some(9), Some(9), None]);
    }

    /// Entries of 3.11: short ones, one line further with columns, lines alone, long ones, and none.
    #[test]
    fn reads_locations() {
        let entry = |code: u8, instructions: u8| 0x80 | code << 3 | (instructions - 1);
        let bytes = [
            entry(2, 1),
            0x11,
            entry(11, 2),
            1,
            2,
            entry(13, 1),
            3, // one line back
            entry(14, 1),
            0x44,
            2,
            0,
            1,
            1, // 66 lines further
            entry(15, 1),
        ];
        let table = table(LineTableKind::Locations, &bytes);
        let lines: Vec<_> = (0..7).map(|instruction| table.find(instruction * 2)).collect();
        assert_eq!(lines[..4], [Some(10), Some(11), Some(11), Some(10)]);
        assert_eq!(lines[4..], [Some(76), None, None]);
    }

    proptest! {
        /// No table makes a reader panic.
        #[test]
        fn survives_any_table(bytes in prop::collection::vec(any::<u8>(), 0..200), offset: u32) {
            for kind in [LineTableKind::Lnotab, LineTableKind::Lines, LineTableKind::Locations] {
                let _ = table(kind, &bytes).find(offset);
            }
        }
    }
}
