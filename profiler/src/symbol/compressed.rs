//! Whether the compressed sections of an ELF file may be given to blazesym.
//!
//! It asks for as much memory as their headers claim, and inflates them to whatever end: a file made on purpose, or a
//! damaged one, would end the process.

use std::fs::File;
use std::io::Read as _;

use object::elf::SHF_COMPRESSED;
use object::read::ReadCache;
use object::{CompressionFormat, Object as _, ObjectSection as _, SectionFlags};

/// Most that all compressed sections of one file may hold, inflated.
const MAX_INFLATED_BYTES: u64 = 1 << 30;
/// Most bytes that deflate makes of one (zlib's technical details: 1032:1).
const MAX_RATIO: u64 = 1032;

/// Whether its compressed sections claim and hold no more than a bound. A file that is no ELF has none.
pub(super) fn are_bounded(file: &File) -> bool {
    let cache = ReadCache::new(file);
    let Ok(object) = object::File::parse(&cache) else { return true };
    let mut left = MAX_INFLATED_BYTES;
    for section in object.sections() {
        let is_compressed = matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.contains(SHF_COMPRESSED));
        if !is_compressed {
            continue;
        }
        let Ok(range) = section.compressed_file_range() else { return false };
        // No other format is understood, and nothing is inflated then.
        if range.format != CompressionFormat::Zlib {
            continue;
        }
        let inflated = match range.compressed_size.saturating_mul(MAX_RATIO) {
            most if most <= left => most,
            _ => match range.data(&cache) {
                Ok(data) => inflated_bytes(data.data, left),
                Err(_) => return false,
            },
        };
        match left.checked_sub(inflated.max(range.uncompressed_size)) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

/// How many bytes come of a zlib stream, until one more than `limit`.
fn inflated_bytes(data: &[u8], limit: u64) -> u64 {
    let mut decoder = flate2::bufread::ZlibDecoder::new(data).take(limit.saturating_add(1));
    let (mut buffer, mut bytes) = ([0; 64 << 10], 0);
    while let Ok(read @ 1..) = decoder.read(&mut buffer) {
        bytes += read as u64;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};
    use std::process::Command;

    use super::*;

    /// Offset of the section `.debug_info`'s compression header in the file.
    fn header_offset(file: &File) -> u64 {
        let cache = ReadCache::new(file);
        let object = object::File::parse(&cache).unwrap();
        object.section_by_name(".debug_info").unwrap().file_range().unwrap().0
    }

    /// What a compiler writes is taken; a header that claims too much is not.
    #[test]
    fn claims_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (source, path) = (folder.path().join("a.c"), folder.path().join("a.o"));
        std::fs::write(&source, "int main(void) { return 0; }").unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-c", "-g", "-gz=zlib", "-o"]).args([&path, &source]);
        assert!(compiler.status().unwrap().success());
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        assert!(are_bounded(&file));
        // `ch_size` is the second word of `Elf64_Chdr` (elf.h).
        let offset = header_offset(&file) + 8;
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&(1_u64 << 50).to_le_bytes()).unwrap();
        assert!(!are_bounded(&file));
    }

    /// What inflates without end is not inflated beyond the limit.
    #[test]
    fn inflating_ends() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let zeros = encoder.finish().unwrap();
        assert_eq!(inflated_bytes(&zeros, 1 << 20), 1 << 20);
        assert_eq!(inflated_bytes(&zeros, 1000), 1001);
    }
}
