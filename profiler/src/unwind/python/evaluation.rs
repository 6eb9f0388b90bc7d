//! Which code of a file is `_PyEval_EvalFrameDefault`. Compilers put what they take for seldom into a part of its own, away
//! from the rest; of Debian's 3.14 that is nearly all of it. Without symbols it is found by the jumps that lead there.

use std::collections::HashMap;

use super::ElfFile;
use crate::unwind::elf;
use crate::unwind::functions::Described;

/// The largest function that is believed.
const MAX_FUNCTION_BYTES: u64 = 1 << 20;
/// Jumps that must lead into a part. Bytes that look like a jump by chance lead anywhere in the file.
const MIN_JUMPS: usize = 3;

/// The parts of the function at `start`, in order; `size` is what its symbol says, perhaps zero.
pub(super) fn find(object: &ElfFile<'_>, start: u64, size: u64) -> Vec<(u64, u64)> {
    let described = Described::read(object);
    let whole = |(first, end): (u64, u64)| (first == start).then_some(end - first);
    let size = match size {
        0 => described.as_ref().and_then(|described| described.at(start)).and_then(whole).unwrap_or(0),
        size => size,
    };
    if size == 0 || size > MAX_FUNCTION_BYTES {
        return Vec::new();
    }
    let end = start.saturating_add(size);
    let mut parts = vec![(start, end)];
    if let Some(described) = described {
        let mut counts: HashMap<(u64, u64), usize> = HashMap::new();
        for target in jumps(object, start, end).filter(|target| !(start..end).contains(target)) {
            // A jump to a function's first instruction is a call that does not return.
            if let Some(part) = described.at(target).filter(|part| part.0 != target) {
                *counts.entry(part).or_default() += 1;
            }
        }
        let leads_back = |part: (u64, u64)| {
            part.1 - part.0 <= MAX_FUNCTION_BYTES
                && jumps(object, part.0, part.1).any(|target| (start + 1..end).contains(&target))
        };
        parts.extend(
            counts
                .into_iter()
                .filter(|(part, count)| *count >= MIN_JUMPS && leads_back(*part))
                .map(|(part, _)| part),
        );
    }
    parts.sort_unstable();
    parts.dedup_by(|next, last| next.0 < last.1);
    parts
}

/// Where the direct jumps in some code lead: `jmp rel32` and `jcc rel32`. Found without decoding what is between them.
fn jumps(object: &ElfFile<'_>, start: u64, end: u64) -> impl Iterator<Item = u64> {
    let code = elf::bytes(object, start, end - start).unwrap_or_default();
    code.windows(6).enumerate().filter_map(move |(offset, bytes)| {
        let (length, displacement) = match *bytes {
            [0xe9, a, b, c, d, _] => (5, [a, b, c, d]),
            [0x0f, 0x80..=0x8f, a, b, c, d] => (6, [a, b, c, d]),
            _ => return None,
        };
        let next = start + offset as u64 + length;
        Some(next.wrapping_add_signed(i64::from(i32::from_le_bytes(displacement))))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::path::Path;

    use object::read::ReadCache;
    use proptest::prelude::*;

    use super::super::PythonImage;

    /// Debian's python3: the evaluation, and its seldom used part far from it.
    #[test]
    fn finds_the_parts_in_a_stripped_file() {
        let path = std::fs::canonicalize("/usr/bin/python3").unwrap();
        let file = File::open(&path).unwrap();
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).unwrap();
        let image = PythonImage::read(&object, &path).unwrap();
        let sizes: Vec<u64> = image.evaluation.iter().map(|(start, end)| end - start).collect();
        assert_eq!(sizes.len(), 2, "{image:x?}");
        assert!(sizes.iter().sum::<u64>() > 40_000, "{image:x?}");
        assert!(image.minor.is_some(), "{image:x?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// A damaged interpreter has some parts or none, in order and of bounded size, and there is no panic.
        #[test]
        fn damaged_files_are_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..2000),
            headers in prop::collection::vec((0..4096_usize, any::<u8>()), 0..20),
        ) {
            let mut data = std::fs::read("/usr/bin/python3").unwrap();
            for (at, byte) in changes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            headers.into_iter().for_each(|(at, byte)| data[at] = byte);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&data).unwrap();
            let cache = ReadCache::new(&file);
            let image = object::File::parse(&cache)
                .ok()
                .and_then(|object| PythonImage::read(&object, Path::new("/usr/bin/python3.11")));
            for parts in image.iter().flat_map(|image| image.evaluation.windows(2)) {
                prop_assert!(parts[0].1 <= parts[1].0);
            }
        }
    }

    /// Other programs have no interpreter in them.
    #[test]
    fn other_files_have_none() {
        let file = File::open("/bin/true").unwrap();
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).unwrap();
        assert_eq!(PythonImage::read(&object, Path::new("/bin/python3.11")), None);
    }
}
