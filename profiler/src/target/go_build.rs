//! Go's build information: which version of Go built a program.
//!
//! Source of the layout: `debug/buildinfo/buildinfo.go` of the Go distribution. A header of 32 bytes starts with a mark,
//! then the size of a pointer and flags. Since Go 1.18 the version stands right behind the header; before that the header
//! holds pointers to Go strings.

use super::elf::{Elf, Section};

const MARK: &[u8] = b"\xff Go buildinf:";
const HEADER_BYTES: u64 = 32;
/// Where the linker may place the header within the data segment, in bytes: it is first, but for alignment.
const SEARCHED_BYTES: u64 = 64 * 1024;
/// A version is `go1.22.3`, or of a development tree with a commit and a date.
const VERSION_LIMIT: u64 = 256;
const FLAG_BIG_ENDIAN: u8 = 1;
const FLAG_INLINE: u8 = 2;

/// Version of Go that built this program, without the leading `go`. `None` when Go did not build it;
/// an empty text when the version is not told.
pub(crate) fn version(elf: &Elf) -> Option<String> {
    let section: Section = elf.section(".go.buildinfo").or_else(|| elf.data_segment())?;
    let bytes = elf.read(section.offset, section.size.min(SEARCHED_BYTES))?;
    let header = find_header(bytes)?;
    let text = parse(header, |address, length| elf.read_address(address, length).map(<[u8]>::to_vec));
    Some(text.unwrap_or_default())
}

/// The header is aligned to 16 bytes.
fn find_header(bytes: &[u8]) -> Option<&[u8]> {
    (0..bytes.len()).step_by(16).map(|start| &bytes[start..]).find(|rest| rest.starts_with(MARK))
}

/// Version told by a header, given a way to read the program's memory.
fn parse(header: &[u8], read: impl Fn(u64, u64) -> Option<Vec<u8>>) -> Option<String> {
    let pointer_bytes = *header.get(14)?;
    let flags = *header.get(15)?;
    let text = if flags & FLAG_INLINE != 0 {
        let (length, start) = unsigned_varint(header.get(HEADER_BYTES as usize..)?)?;
        let start = HEADER_BYTES as usize + start;
        let length = usize::try_from(length).ok().filter(|length| *length as u64 <= VERSION_LIMIT)?;
        header.get(start..start.checked_add(length)?)?.to_vec()
    } else {
        let pointer = |bytes: &[u8]| -> Option<u64> {
            let big = flags & FLAG_BIG_ENDIAN != 0;
            match pointer_bytes {
                4 => {
                    let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
                    Some(u64::from(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }))
                }
                8 => {
                    let bytes: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
                    Some(if big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
                }
                _ => None,
            }
        };
        let string = read(pointer(header.get(16..)?)?, u64::from(pointer_bytes) * 2)?;
        let length = pointer(string.get(usize::from(pointer_bytes)..)?)?;
        if length > VERSION_LIMIT {
            return None;
        }
        let text = read(pointer(&string)?, length)?;
        (text.len() as u64 == length).then_some(text)?
    };
    let text = String::from_utf8(text).ok()?;
    let version = text.strip_prefix("go").unwrap_or(&text);
    version.chars().all(|letter| letter.is_ascii_graphic() || letter == ' ').then(|| version.to_owned())
}

/// `binary.Uvarint` of Go: seven bits a byte, least first. Gives the value and how many bytes it took.
fn unsigned_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(flags: u8) -> Vec<u8> {
        let mut bytes = MARK.to_vec();
        bytes.extend([8, flags]);
        bytes
    }

    /// The form of Go 1.18 and later: the text follows the header.
    #[test]
    fn inline_form() {
        let mut bytes = header(FLAG_INLINE);
        bytes.resize(32, 0);
        bytes.extend(b"\x08go1.22.3\x05path\n");
        assert_eq!(parse(&bytes, |_, _| None).as_deref(), Some("1.22.3"));
    }

    /// The form before Go 1.18: a pointer to a string's pointer and length.
    #[test]
    fn pointer_form() {
        let mut bytes = header(0);
        bytes.extend(0x1000_u64.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        let read = |address, length| match (address, length) {
            (0x1000, 16) => Some([0x2000_u64.to_le_bytes(), 6_u64.to_le_bytes()].concat()),
            (0x2000, 6) => Some(b"go1.17".to_vec()),
            _ => None,
        };
        assert_eq!(parse(&bytes, read).as_deref(), Some("1.17"));
    }

    /// The header is only taken where it can stand.
    #[test]
    fn header_is_aligned() {
        let mut bytes = vec![0; 16];
        bytes.extend(header(0));
        assert!(find_header(&bytes).is_some());
        assert!(find_header(&bytes[8..]).is_none());
    }

    proptest! {
        /// Hostile headers and hostile memory never panic.
        #[test]
        fn hostile_bytes_are_survived(
            rest in prop::collection::vec(any::<u8>(), 0..128),
            memory in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = MARK.to_vec();
            bytes.extend(rest);
            parse(&bytes, |_, length| memory.get(..usize::try_from(length).ok()?).map(<[u8]>::to_vec));
            find_header(&bytes);
        }
    }
}
