//! The memory of a watched process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads the memory of one program run by one process: of another program that takes its place, it reads nothing. What is paged
/// out is paged in again.
#[derive(Debug)]
pub(crate) struct TargetMemory(File);

const PAGE_BYTES: u64 = 4096;

impl TargetMemory {
    /// The memory that the process has now. Needs the right to trace it.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Ok(Self(File::open(format!("/proc/{pid}/mem"))?))
    }

    /// Fills `bytes` from an address; `None` when not all of it can be read.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Option<()> {
        self.0.read_exact_at(bytes, address).ok()
    }

    /// The word at an address.
    pub(crate) fn read_u64(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Some(u64::from_le_bytes(word))
    }

    /// As many bytes as can be read from an address on, page by page.
    pub(crate) fn read_up_to(&self, address: u64, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        let mut length = 0;
        while length < limit {
            let start = address.wrapping_add(length as u64);
            let step = ((PAGE_BYTES - start % PAGE_BYTES) as usize).min(limit - length);
            if self.read(start, &mut bytes[length..length + step]).is_none() {
                break;
            }
            length += step;
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own memory is read as it is, and what is not mapped is not.
    #[test]
    fn reads_memory() {
        let memory = TargetMemory::open(std::process::id()).unwrap();
        let text = *b"twenty bytes of text";
        let address = text.as_ptr() as u64;
        assert_eq!(memory.read_up_to(address, text.len()), text);
        assert_eq!(memory.read_u64(address), Some(u64::from_le_bytes(*b"twenty b")));
        assert_eq!(memory.read_u64(8), None);
        assert!(memory.read_up_to(u64::MAX - 3, 16).is_empty());
    }
}
