//! What the tools of the demo server do: real work, in functions that keep their names in a profile.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::hint::black_box;
use std::io::{self, Read, Write};

use tempfile::TempDir;

/// Words of the text that `compute` reads: repeated and mixed, so that counting finds duplicates.
const WORDS: [&str; 16] = [
    "server", "client", "tool", "call", "request", "response", "stream", "session", "sample", "stack",
    "frame", "kernel", "symbol", "thread", "memory", "latency",
];
const WORDS_IN_TEXT: usize = 2_000;
const MATRIX_SIDE: usize = 64;
const PAGE_BYTES: usize = 4096;
const BYTES_IN_KIB: usize = 1024;
const BYTES_IN_MIB: usize = 1024 * 1024;

/// Does one round: reads a text, then multiplies two matrices. Returns a number that depends on all of it.
#[inline(never)]
pub(super) fn compute_round(round: u64) -> u64 {
    let text = write_text(round);
    analyse_text(&text) ^ multiply_matrices(round)
}

#[inline(never)]
fn write_text(seed: u64) -> String {
    let mut state = seed;
    let mut text = String::new();
    for _ in 0..WORDS_IN_TEXT {
        state = next_pseudo_random(state);
        text.push_str(WORDS[(state >> 60) as usize]);
        text.push(if state & 7 == 0 { '\n' } else { ' ' });
    }
    text
}

/// A step of the linear congruential generator of Knuth's MMIX. Its high bits are the good ones.
fn next_pseudo_random(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

#[inline(never)]
fn analyse_text(text: &str) -> u64 {
    let mut words = tokenise(text);
    let most = count_words(&words).into_values().max().unwrap_or(0);
    sort_words(&mut words);
    hash_words(&words) ^ most
}

#[inline(never)]
fn tokenise(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_uppercase).collect()
}

#[inline(never)]
fn count_words(words: &[String]) -> HashMap<&str, u64> {
    let mut counts = HashMap::new();
    for word in words {
        *counts.entry(word.as_str()).or_default() += 1;
    }
    counts
}

#[inline(never)]
fn sort_words(words: &mut [String]) {
    words.sort_by_cached_key(|word| word.chars().rev().collect::<String>());
}

#[inline(never)]
fn hash_words(words: &[String]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for word in words {
        hasher.write(word.as_bytes());
    }
    hasher.finish()
}

#[inline(never)]
fn multiply_matrices(seed: u64) -> u64 {
    let left = make_matrix(seed);
    let right = make_matrix(seed ^ 1);
    let mut trace = 0.0;
    for row in 0..MATRIX_SIDE {
        for column in 0..MATRIX_SIDE {
            let cell: f64 =
                (0..MATRIX_SIDE).map(|k| left[row * MATRIX_SIDE + k] * right[k * MATRIX_SIDE + column]).sum();
            if row == column {
                trace += cell;
            } else {
                black_box(cell);
            }
        }
    }
    trace.to_bits()
}

fn make_matrix(seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = next_pseudo_random(state);
        (state >> 40) as f64
    };
    (0..MATRIX_SIDE * MATRIX_SIDE).map(|_| next()).collect()
}

/// Writes `files` files of `kilobytes` KiB each into a new temporary folder, waits for the disk after each
/// one, reads all of them back and removes them. Returns the number of bytes that it read.
///
/// # Errors
/// The file system said no: full, read-only, or broken.
#[inline(never)]
pub(super) fn sync_files(files: u32, kilobytes: u32) -> io::Result<u64> {
    let folder = tempfile::Builder::new().prefix("mcp-profiler-demo-").tempdir()?;
    let content = vec![0x5a; kilobytes as usize * BYTES_IN_KIB];
    for number in 0..files {
        write_and_sync(&folder, number, &content)?;
    }
    let bytes = (0..files).map(|number| read_back(&folder, number)).sum::<io::Result<u64>>()?;
    folder.close()?;
    Ok(bytes)
}

#[inline(never)]
fn write_and_sync(folder: &TempDir, number: u32, content: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).open(folder.path().join(number.to_string()))?;
    file.write_all(content)?;
    file.sync_all()
}

#[inline(never)]
fn read_back(folder: &TempDir, number: u32) -> io::Result<u64> {
    let mut content = Vec::new();
    File::open(folder.path().join(number.to_string()))?.read_to_end(&mut content)?;
    Ok(content.len() as u64)
}

/// Allocates `mebibytes` MiB and writes to every page, so that the kernel has to give the memory.
#[inline(never)]
pub(super) fn allocate_and_touch(mebibytes: u32) -> Vec<u8> {
    let mut memory = vec![0; mebibytes as usize * BYTES_IN_MIB];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    black_box(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same round gives the same number, and the number depends on the round.
    #[test]
    fn compute_is_deterministic() {
        assert_eq!(compute_round(7), compute_round(7));
        assert_ne!(compute_round(7), compute_round(8));
    }

    /// The text holds the promised number of words, of more than a few kinds.
    #[test]
    fn text_has_many_words() {
        let text = write_text(1);
        let words = tokenise(&text);
        assert_eq!(words.len(), WORDS_IN_TEXT);
        assert_eq!(count_words(&words).len(), WORDS.len());
    }

    /// Every byte that was written is read back.
    #[test]
    fn files_are_read_back() {
        assert_eq!(sync_files(3, 2).unwrap(), 3 * 2 * 1024);
    }

    /// Memory has the promised size, and each of its pages was written to.
    #[test]
    fn memory_is_touched() {
        let memory = allocate_and_touch(1);
        assert_eq!(memory.len(), BYTES_IN_MIB);
        assert!(memory.chunks(PAGE_BYTES).all(|page| page[0] == 1));
    }
}
