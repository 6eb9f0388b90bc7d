//! Objects in the memory of a process that runs V8. It may be changed, moved or unmapped at any moment, so each read can
//! fail, and nothing that is read is believed: lengths are bounded, types are checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::unwind::v8::Layout;

/// Characters are read in chunks of this many bytes.
const CHUNK_BYTES: u64 = 1 << 16;
/// Parts of one string: V8 builds long ones out of others.
const MAX_PIECES: usize = 1 << 12;
/// The two lowest bits of a pointer: 1, or 3 when it is weak.
const TAG_MASK: u64 = 3;
/// Objects lie on multiples of a word.
const WORD: u64 = 8;
/// Most elements of an array.
const MAX_ELEMENTS: u64 = 1 << 20;

/// Bits of a string's instance type (`src/objects/instance-type.h`).
const ONE_BYTE: u16 = 8;
const UNCACHED: u16 = 16;
const REPRESENTATION: u16 = 7;
const SEQUENTIAL: u16 = 0;
const CONS: u16 = 1;
const EXTERNAL: u16 = 2;
const SLICED: u16 = 3;
const THIN: u16 = 5;

/// Where an object starts.
pub(super) type Address = u64;

/// Memory of a process, and where its V8 keeps what.
#[derive(Debug)]
pub(super) struct Heap {
    memory: File,
    pub(super) layout: Arc<Layout>,
}

/// Characters of a string.
pub(super) enum Chunk<'bytes> {
    /// Latin-1.
    OneByte(&'bytes [u8]),
    /// UTF-16 in little-endian order.
    TwoByte(&'bytes [u8]),
}

impl Heap {
    /// The memory that the process has now. After an exec it reads as empty.
    pub(super) fn open(pid: u32, layout: Arc<Layout>) -> io::Result<Self> {
        Ok(Self { memory: File::open(format!("/proc/{pid}/mem"))?, layout })
    }

    pub(super) fn fill(&self, address: Address, into: &mut [u8]) -> Option<()> {
        // The kernel reads higher ones as negative.
        if address > i64::MAX as u64 {
            return None;
        }
        self.memory.read_exact_at(into, address).ok()
    }

    pub(super) fn bytes(&self, address: Address, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(address, &mut bytes)?;
        Some(bytes)
    }

    pub(super) fn word(&self, address: Address) -> Option<u64> {
        let mut bytes = [0; 8];
        self.fill(address, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    }

    pub(super) fn half(&self, address: Address) -> Option<u32> {
        let mut bytes = [0; 4];
        self.fill(address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    /// The object that a field points to.
    pub(super) fn pointer(&self, field: Address) -> Option<Address> {
        untag(self.word(field)?)
    }

    /// The small integer in a field.
    pub(super) fn integer(&self, field: Address) -> Option<i32> {
        small_integer(self.word(field)?)
    }

    pub(super) fn instance_type(&self, object: Address) -> Option<u16> {
        let map = self.pointer(object)?;
        let mut bytes = [0; 2];
        self.fill(map.checked_add(self.layout.map_instance_type)?, &mut bytes)?;
        Some(u16::from_le_bytes(bytes))
    }

    pub(super) fn is(&self, object: Address, instance_type: u16) -> bool {
        instance_type != 0 && self.instance_type(object) == Some(instance_type)
    }

    /// The object that a field points to, if it is of this type.
    pub(super) fn typed(&self, field: Address, instance_type: u16) -> Option<Address> {
        self.pointer(field).filter(|object| self.is(*object, instance_type))
    }

    /// The words of a fixed array: at most `most` of them.
    pub(super) fn array(&self, object: Address, most: u64) -> Option<Vec<u64>> {
        let instance_type = self.instance_type(object)?;
        if instance_type == 0 || !self.layout.types.arrays.contains(&instance_type) {
            return None;
        }
        let length = u64::try_from(self.integer(object + self.layout.array.length)?).ok()?.min(most);
        let bytes = self.bytes(object + self.layout.array.data, usize::try_from(length * WORD).ok()?)?;
        let (words, _) = bytes.as_chunks();
        Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// All words of a fixed array, unless there are too many.
    pub(super) fn whole_array(&self, object: Address) -> Option<Vec<u64>> {
        self.array(object, MAX_ELEMENTS)
    }

    /// The bytes of a byte array, unless there are too many.
    pub(super) fn byte_array(&self, object: Address) -> Option<Vec<u8>> {
        let instance_type = self.instance_type(object)?;
        if instance_type == 0 || !self.layout.types.byte_arrays.contains(&instance_type) {
            return None;
        }
        let length = u64::try_from(self.integer(object + self.layout.array.length)?).ok()?;
        if length > MAX_ELEMENTS {
            return None;
        }
        self.bytes(object + self.layout.array.data, usize::try_from(length).ok()?)
    }

    pub(super) fn is_string(&self, object: Address) -> bool {
        self.instance_type(object).is_some_and(|kind| kind < self.layout.string.first_other_type)
    }

    /// The text of a string of at most `most` UTF-16 units.
    pub(super) fn text(&self, object: Address, most: u64) -> Option<String> {
        let mut units: Vec<u16> = Vec::new();
        self.read_string(object, most, |chunk| match chunk {
            Chunk::OneByte(bytes) => units.extend(bytes.iter().map(|byte| u16::from(*byte))),
            Chunk::TwoByte(bytes) => {
                units.extend(bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)));
            }
        })?;
        Some(String::from_utf16_lossy(&units))
    }

    /// Hands out the characters of a string of at most `most` UTF-16 units, in order.
    pub(super) fn read_string(
        &self,
        string: Address,
        most: u64,
        mut visit: impl FnMut(Chunk<'_>),
    ) -> Option<()> {
        let layout = &self.layout.string;
        let length = |string: Address| self.half(string + layout.length).map(u64::from);
        let whole = length(string)?;
        if whole > most {
            return None;
        }
        // What is still to be read: a string, its first character, how many.
        let mut rest = vec![(string, 0_u64, whole)];
        for _ in 0..MAX_PIECES {
            let Some((string, from, count)) = rest.pop() else { return Some(()) };
            if count == 0 {
                continue;
            }
            let kind = self.instance_type(string)?;
            if kind >= layout.first_other_type || from + count > length(string)? {
                return None;
            }
            let is_one_byte = kind & ONE_BYTE != 0;
            match kind & REPRESENTATION {
                SEQUENTIAL => self.chunks(string + layout.chars, from, count, is_one_byte, &mut visit)?,
                EXTERNAL if kind & UNCACHED == 0 => {
                    let data = self.word(string + layout.external_data)?;
                    self.chunks(data, from, count, is_one_byte, &mut visit)?;
                }
                CONS => {
                    let (first, second) = (
                        self.pointer(string + layout.cons_first)?,
                        self.pointer(string + layout.cons_second)?,
                    );
                    let in_first = length(first)?;
                    let count_in_first = in_first.saturating_sub(from).min(count);
                    rest.push((second, from.saturating_sub(in_first), count - count_in_first));
                    rest.push((first, from, count_in_first));
                }
                SLICED => {
                    let offset = u64::try_from(self.integer(string + layout.slice_offset)?).ok()?;
                    rest.push((self.pointer(string + layout.slice_parent)?, from + offset, count));
                }
                THIN => rest.push((self.pointer(string + layout.thin_actual)?, from, count)),
                _ => return None,
            }
        }
        None
    }

    fn chunks(
        &self,
        characters: Address,
        from: u64,
        count: u64,
        is_one_byte: bool,
        visit: &mut impl FnMut(Chunk<'_>),
    ) -> Option<()> {
        let width = if is_one_byte { 1 } else { 2 };
        let mut next = characters.checked_add(from * width)?;
        let end = next.checked_add(count * width)?;
        while next < end {
            let bytes = self.bytes(next, CHUNK_BYTES.min(end - next) as usize)?;
            visit(if is_one_byte { Chunk::OneByte(&bytes) } else { Chunk::TwoByte(&bytes) });
            next += bytes.len() as u64;
        }
        Some(())
    }
}

/// The object that a tagged word points to, also when the pointer is weak.
pub(super) fn untag(word: u64) -> Option<Address> {
    let address = word & !TAG_MASK;
    (word & 1 == 1 && address.is_multiple_of(WORD) && address != 0 && address < 1 << 56).then_some(address)
}

/// The value of a word that holds a small integer.
pub(super) fn small_integer(word: u64) -> Option<i32> {
    (word & u64::from(u32::MAX) == 0).then_some((word >> 32) as i32)
}
