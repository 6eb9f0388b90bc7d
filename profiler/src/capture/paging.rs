//! Memory that the kernel half could not read since it is paged out: brought in here, where it can be waited for.

use std::collections::HashSet;

use crate::target::TargetMemory;

/// What is brought in from an address on: a stack whose outer frames are paged out is whole after few samples.
const STRETCH_BYTES: usize = 1 << 16;
const PAGE_BITS: u32 = 12;

/// Pages that were asked for. What can't be read by anyone is asked for once between two commits.
#[derive(Default)]
pub(super) struct Paging {
    asked: HashSet<(u32, u64)>,
}

impl Paging {
    /// A process's memory could not be read at an address.
    pub(super) fn bring_in(&mut self, pid: u32, address: u64) {
        if self.asked.insert((pid, address >> PAGE_BITS)) {
            // The process may be gone.
            let _ = TargetMemory::open(pid).map(|memory| memory.read_up_to(address, STRETCH_BYTES));
        }
    }

    /// What is asked for again is paged out again, or still.
    pub(super) fn forget(&mut self) {
        self.asked.clear();
    }
}
