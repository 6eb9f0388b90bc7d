//! Where a thread finds its own state: the thread-specific word of `autoTSSkey`. Which word that is depends on the C library and
//! on who asked for such words first, so it is looked for: the interpreter knows the states of all threads, and the thread
//! pointer of each.

use std::collections::BTreeMap;

use profiler_common::PythonLayout;

use super::{Layout, Refusal};
use crate::target::TargetMemory;

/// Threads that are looked at.
const MAX_THREADS: usize = 64;
/// As much of a thread's descriptor as is looked through: that of glibc has about 2,300 bytes.
const DESCRIPTOR_BYTES: usize = 2048;
/// A block of thread-specific words that a descriptor points to: 128 of musl, 32 pairs of glibc.
const BLOCK_BYTES: usize = 1024;

/// Offset of the word from the thread pointer, and from there if the word there is a pointer only.
pub(super) fn find_slot(layout: &Layout, runtime: u64, memory: &TargetMemory) -> Result<(u32, u32), Refusal> {
    let threads = threads(layout, runtime, memory);
    if threads.is_empty() {
        return Err(Refusal::NotStarted);
    }
    let mut votes: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let descriptors: Vec<_> = threads
        .iter()
        .map(|(state, pointer)| (*state, memory.read_up_to(*pointer, DESCRIPTOR_BYTES)))
        .collect();
    for (state, descriptor) in &descriptors {
        offsets_of(*state, descriptor)
            .for_each(|offset| *votes.entry((offset, PythonLayout::NONE)).or_default() += 1);
    }
    if votes.is_empty() {
        for (state, descriptor) in &descriptors {
            for (index, pointer) in words(descriptor).enumerate().filter(|(_, word)| is_pointer(*word)) {
                let block = memory.read_up_to(pointer, BLOCK_BYTES);
                offsets_of(*state, &block).for_each(|inner| {
                    *votes.entry((index as u32 * 8, inner)).or_default() += 1;
                });
            }
        }
    }
    // A thread that just starts has not set its word. Of two words that say the same, the first.
    let best = votes.iter().max_by_key(|(slot, count)| (**count, std::cmp::Reverse(**slot)));
    // While the first thread starts, it is known before its word is set.
    best.map(|(slot, _)| *slot).ok_or(Refusal::NotStarted)
}

/// The state and the thread pointer of each thread of the first interpreter.
fn threads(layout: &Layout, runtime: u64, memory: &TargetMemory) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let first = || {
        let interpreter = memory.read_u64(runtime.wrapping_add(layout.interpreters_head))?;
        memory.read_u64(interpreter.wrapping_add(layout.threads_head))
    };
    let mut next = first();
    for _ in 0..MAX_THREADS {
        let Some(state) = next.filter(|state| is_pointer(*state)) else { break };
        // The thread pointer points to itself, in glibc as in musl.
        if let Some(pointer) = memory.read_u64(state.wrapping_add(layout.kernel.thread_id.into()))
            && is_pointer(pointer)
            && memory.read_u64(pointer) == Some(pointer)
        {
            found.push((state, pointer));
        }
        next = memory.read_u64(state.wrapping_add(layout.next_thread));
    }
    found
}

fn is_pointer(word: u64) -> bool {
    (4096..1 << 47).contains(&word) && word.is_multiple_of(8)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
}

fn offsets_of(wanted: u64, bytes: &[u8]) -> impl Iterator<Item = u32> {
    words(bytes).enumerate().filter(move |(_, word)| *word == wanted).map(|(index, _)| index as u32 * 8)
}
