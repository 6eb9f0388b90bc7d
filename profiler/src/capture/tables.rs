//! Puts unwind tables where the kernel half finds them, on a thread of its own: the kernel keeps whoever changes a map
//! of maps waiting until no program can still use the old one (`maybe_wait_bpf_programs` of `kernel/bpf/syscall.c`), for
//! 10 ms and more. The change itself is seen at once.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use aya::maps::{Array, IterableMap as _, MapData};
use profiler_common::RowPage;

/// The content of one table: an index and its pages.
pub(super) type Pages = Array<MapData, RowPage>;

enum Change {
    Put(u32, Pages),
    Clear(u32),
    Barrier(Sender<()>),
}

/// The way to the kernel half's map of tables.
pub(super) struct Tables {
    changes: Sender<Change>,
    cleared: Receiver<u32>,
}

impl Tables {
    /// Starts the thread, with the privileges of the one that calls. `empty` takes the place of what is cleared, since a
    /// map of maps can't be emptied.
    pub(super) fn start(outer: OwnedFd, empty: Pages) -> io::Result<Self> {
        let (changes, receiver) = channel();
        let (sender, cleared) = channel();
        let run = move || {
            while let Ok(first) = receiver.recv() {
                // What came in while the kernel kept us waiting goes in one call, with one wait.
                let waiting: Vec<Change> = std::iter::once(first).chain(receiver.try_iter()).collect();
                apply(&outer, &empty, &waiting);
                for change in waiting {
                    // Nobody may be left to hear of it.
                    let _ = match change {
                        Change::Clear(slot) => sender.send(slot).is_ok(),
                        Change::Barrier(done) => done.send(()).is_ok(),
                        Change::Put(..) => true,
                    };
                }
            }
        };
        std::thread::Builder::new().name("tables".to_owned()).spawn(run)?;
        Ok(Self { changes, cleared })
    }

    /// Puts a table in place, soon.
    pub(super) fn put(&self, slot: u32, pages: Pages) {
        let _ = self.changes.send(Change::Put(slot, pages));
    }

    /// Takes a table away, soon.
    pub(super) fn clear(&self, slot: u32) {
        let _ = self.changes.send(Change::Clear(slot));
    }

    /// Slots that have been cleared since the last time, and can be used again.
    pub(super) fn cleared(&self) -> impl Iterator<Item = u32> {
        self.cleared.try_iter()
    }

    /// Waits until all changes so far are made.
    pub(super) fn settle(&self) {
        let (done, wait) = channel();
        if self.changes.send(Change::Barrier(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

fn apply(outer: &OwnedFd, empty: &Pages, changes: &[Change]) {
    let descriptor = |pages: &Pages| pages.map().fd().as_fd().as_raw_fd().cast_unsigned();
    let (slots, tables): (Vec<u32>, Vec<u32>) = changes
        .iter()
        .filter_map(|change| match change {
            Change::Put(slot, pages) => Some((*slot, descriptor(pages))),
            Change::Clear(slot) => Some((*slot, descriptor(empty))),
            Change::Barrier(_) => None,
        })
        .unzip();
    if slots.is_empty() || update_batch(outer, &slots, &tables) {
        return;
    }
    // A kernel that knows no batches for maps of maps, or one that stopped within.
    for (slot, table) in slots.iter().zip(&tables) {
        // What fails leaves an empty slot: its code has no rows.
        update_batch(outer, &[*slot], &[*table]);
    }
}

/// `BPF_MAP_UPDATE_BATCH`, or for a single entry `BPF_MAP_UPDATE_ELEM`, of bpf(2); false when the kernel refuses it.
fn update_batch(outer: &OwnedFd, slots: &[u32], tables: &[u32]) -> bool {
    const MAP_UPDATE_ELEM: libc::c_int = 2;
    const MAP_UPDATE_BATCH: libc::c_int = 26;
    /// The parts of `union bpf_attr` of `include/uapi/linux/bpf.h` for these two calls.
    #[repr(C)]
    struct Batch {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    #[repr(C)]
    struct Element {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let map_fd = outer.as_raw_fd().cast_unsigned();
    let (keys, values) = (slots.as_ptr() as u64, tables.as_ptr() as u64);
    // SAFETY: both structures are of the layout that the kernel expects, and the arrays they lead to are only read and
    // as long as `count` says.
    let outcome = unsafe {
        if slots.len() == 1 {
            let element = Element { map_fd, padding: 0, key: keys, value: values, flags: 0 };
            libc::syscall(libc::SYS_bpf, MAP_UPDATE_ELEM, &raw const element, size_of::<Element>())
        } else {
            let count = slots.len() as u32;
            let (in_batch, out_batch, elem_flags, flags) = (0, 0, 0, 0);
            let mut batch = Batch { in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags };
            libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, &raw mut batch, size_of::<Batch>())
        }
    };
    outcome == 0
}
