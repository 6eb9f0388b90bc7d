//! V8's compact tables: source positions, and bytecode offsets of baseline code.

use crate::unwind::v8::PositionEncoding;

/// Where a stretch of code comes from: it holds from its offset to the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Offset in bytecode or in instructions; -1 is the entry of a function.
    pub(super) offset: i32,
    pub(super) source: SourcePosition,
}

/// A place in a script, in a function that may have been inlined (`src/codegen/source-position.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourcePosition {
    /// UTF-16 units from the start of the script.
    pub(super) character: Option<u32>,
    /// Index of the call that inlined the function; `None`: it is the outermost one.
    pub(super) inlining: Option<usize>,
}

impl SourcePosition {
    /// A bit for positions of another sort, 30 bits of offset and 16 bits of inlining, both plus one.
    pub(super) fn unpack(packed: u64) -> Self {
        let is_external = packed & 1 == 1;
        let character = (packed >> 1 & ((1 << 30) - 1)) as u32;
        let inlining = (packed >> 31 & ((1 << 16) - 1)) as usize;
        Self {
            character: if is_external { None } else { character.checked_sub(1) },
            inlining: inlining.checked_sub(1),
        }
    }
}

/// Seven bits a byte, the lowest ones first; the top bit says that more follow.
fn unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = unsigned(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// A table of source positions (`src/codegen/source-position-table.cc`), in order of offsets. `None` when it is damaged,
/// or says something of offsets behind `most`.
pub(super) fn source_positions(
    mut bytes: &[u8],
    encoding: PositionEncoding,
    most: u32,
) -> Option<Vec<Position>> {
    let (mut offset, mut packed) = (-1_i64, 0_i64);
    let mut positions = Vec::new();
    while !bytes.is_empty() {
        let step = match encoding {
            // The sign says whether it is a statement.
            PositionEncoding::Signed => match signed(&mut bytes)? {
                step if step < 0 => -(step + 1),
                step => step,
            },
            PositionEncoding::Flagged => (unsigned(&mut bytes)? >> 2) as i64,
        };
        offset = offset.checked_add(step)?;
        packed = packed.checked_add(signed(&mut bytes)?)?;
        if offset > i64::from(most) {
            return None;
        }
        let source = SourcePosition::unpack(packed as u64);
        positions.push(Position { offset: i32::try_from(offset).ok()?, source });
    }
    Some(positions)
}

/// The last entry that is not behind an offset.
pub(super) fn find(positions: &[Position], offset: i32) -> Option<SourcePosition> {
    let next = positions.partition_point(|position| position.offset <= offset);
    Some(positions[next.checked_sub(1)?].source)
}

/// A stretch of baseline code, which ends at an offset in its instructions, and the bytecode that it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BaselineStretch {
    pub(super) end: u32,
    pub(super) bytecode_offset: i32,
}

/// The stretches of baseline code (`src/baseline/bytecode-offset-iterator.h`): the table has the length of each, the
/// first for the function's entry. `sizes` are those of bytecodes, for each width of operands.
pub(super) fn baseline_stretches(
    mut table: &[u8],
    bytecode: &[u8],
    sizes: &[Vec<u8>; 3],
) -> Option<Vec<BaselineStretch>> {
    let mut stretches = Vec::new();
    let (mut end, mut next, mut bytecode_offset) = (0_u32, 0_usize, -1_i32);
    while !table.is_empty() {
        end = end.checked_add(u32::try_from(unsigned(&mut table)?).ok()?)?;
        stretches.push(BaselineStretch { end, bytecode_offset });
        bytecode_offset = i32::try_from(next).ok()?;
        next = match bytecode_length(bytecode.get(next..)?, sizes) {
            Some(length) => next + length,
            // Only the end of the function may follow its last bytecode.
            None if table.is_empty() => break,
            None => return None,
        };
    }
    Some(stretches)
}

/// The length of the first bytecode with its prefix: 0 and 2 make operands two bytes wide, 1 and 3 four bytes
/// (`Wide`, `ExtraWide` and the same with a breakpoint in `src/interpreter/bytecodes.h`).
fn bytecode_length(bytecode: &[u8], sizes: &[Vec<u8>; 3]) -> Option<usize> {
    let first = *bytecode.first()?;
    let length = |width: usize, code: u8| sizes[width].get(usize::from(code)).map(|size| usize::from(*size));
    let length = match first {
        0 | 2 => 1 + length(1, *bytecode.get(1)?)?,
        1 | 3 => 1 + length(2, *bytecode.get(1)?)?,
        code => length(0, code)?,
    };
    (length > 0).then_some(length)
}

/// The bytecode that an offset in baseline instructions belongs to.
pub(super) fn bytecode_offset(stretches: &[BaselineStretch], offset: u32) -> Option<i32> {
    let index = stretches.partition_point(|stretch| stretch.end <= offset);
    stretches.get(index).map(|stretch| stretch.bytecode_offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(offset: i32, character: u32) -> Position {
        Position { offset, source: SourcePosition { character: Some(character), inlining: None } }
    }

    /// A table of Node 22, of `(n) => new Foo().acc + outer(n)`, as V8 prints it with `--print-bytecode`.
    #[test]
    fn source_positions_of_node_22() {
        let zigzag = |values: &[i64]| -> Vec<u8> { values.iter().flat_map(|value| vlq(*value)).collect() };
        let bytes = zigzag(&[-1, 850, 1, 42, -6, -28, -7, 20, -9, 12, -5, -4, 3, 20]);
        let positions = source_positions(&bytes, PositionEncoding::Signed, 27).unwrap();
        let expected = [(-1, 424), (0, 445), (5, 431), (11, 441), (19, 447), (23, 445), (26, 455)];
        assert_eq!(positions, expected.map(|(offset, character)| entry(offset, character)));
        assert_eq!(find(&positions, 12).unwrap().character, Some(441));
        assert_eq!(find(&positions[1..], -1), None);
        assert_eq!(source_positions(&bytes, PositionEncoding::Signed, 25), None);
    }

    /// The same function in Node 26: flags in the two lowest bits of offsets.
    #[test]
    fn source_positions_of_node_26() {
        let deltas = [(2_u8, 850), (7, 42), (22, -28), (26, 20), (34, 12), (18, -4), (15, 20)];
        let bytes: Vec<u8> =
            deltas.iter().flat_map(|(offset, delta)| std::iter::once(*offset).chain(vlq(*delta))).collect();
        let positions = source_positions(&bytes, PositionEncoding::Flagged, 27).unwrap();
        assert_eq!(positions[6], entry(26, 455));
        assert_eq!(positions[0], entry(-1, 424));
    }

    /// Inlined positions: bits above the offset tell which call.
    #[test]
    fn positions_tell_inlining() {
        let position = SourcePosition::unpack(59 << 1 | 2 << 31);
        assert_eq!(position, SourcePosition { character: Some(58), inlining: Some(1) });
        assert_eq!(SourcePosition::unpack(0), SourcePosition { character: None, inlining: None });
        assert_eq!(SourcePosition::unpack(59 << 1 | 1).character, None);
    }

    /// Stretches of baseline code follow the bytecodes, also wide ones.
    #[test]
    fn baseline_code_is_told_by_bytecodes() {
        let sizes = [vec![1, 1, 1, 1, 2, 3], vec![0, 0, 0, 0, 3, 5], vec![0, 0, 0, 0, 5, 9]];
        let bytecode = [4, 9, 0, 5, 9, 9, 9, 9, 4, 9];
        let table = [10, 20, 0x80, 1, 7];
        let stretches = baseline_stretches(&table, &bytecode, &sizes).unwrap();
        let expected = [(10, -1), (30, 0), (158, 2), (165, 8)];
        assert_eq!(
            stretches,
            expected.map(|(end, bytecode_offset)| BaselineStretch { end, bytecode_offset })
        );
        assert_eq!(bytecode_offset(&stretches, 9), Some(-1));
        assert_eq!(bytecode_offset(&stretches, 30), Some(2));
        assert_eq!(bytecode_offset(&stretches, 165), None);
    }

    fn vlq(value: i64) -> Vec<u8> {
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        let mut bytes = Vec::new();
        loop {
            let more = value > 0x7f;
            bytes.push((value & 0x7f) as u8 | if more { 0x80 } else { 0 });
            value >>= 7;
            if !more {
                return bytes;
            }
        }
    }

    proptest! {
        /// No bytes make a decoder panic, and each entry costs at least two bytes.
        #[test]
        fn any_bytes_decode(bytes: Vec<u8>, bytecode: Vec<u8>, sizes: [Vec<u8>; 3], most: u32) {
            for encoding in [PositionEncoding::Signed, PositionEncoding::Flagged] {
                if let Some(positions) = source_positions(&bytes, encoding, most) {
                    prop_assert!(positions.len() * 2 <= bytes.len());
                    prop_assert!(positions.is_sorted_by_key(|position| position.offset));
                    find(&positions, 7);
                }
            }
            if let Some(stretches) = baseline_stretches(&bytes, &bytecode, &sizes) {
                prop_assert!(stretches.is_sorted_by_key(|stretch| stretch.end));
                bytecode_offset(&stretches, most);
            }
        }

        /// Positions that are written are read.
        #[test]
        fn positions_are_read(entries in proptest::collection::vec((0_i64..100, any::<bool>(), -500_i64..500), 0..50)) {
            let (mut bytes, mut offset, mut packed, mut expected) = (Vec::new(), -1, 1 << 20, Vec::new());
            bytes.extend(vlq(0));
            bytes.extend(vlq(1 << 20));
            expected.push((-1, 1 << 20));
            for (step, is_statement, delta) in entries {
                offset += step;
                packed += delta * 2;
                bytes.extend(vlq(if is_statement { step } else { -step - 1 }));
                bytes.extend(vlq(delta * 2));
                expected.push((offset, packed));
            }
            let positions = source_positions(&bytes, PositionEncoding::Signed, u32::MAX).unwrap();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(offset, packed)| entry(offset as i32, (packed >> 1) as u32 - 1))
                .collect();
            prop_assert_eq!(positions, expected);
        }
    }
}
