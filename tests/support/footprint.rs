//! What a process needs of the machine.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::libc;

/// What a process needs at a moment: the profiler, mostly.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Memory of its kernel maps and of the maps in these, as the kernel counts it.
    pub map_bytes: u64,
    /// The part of that which maps in others have: unwind tables.
    pub table_bytes: u64,
    /// The largest of these.
    pub largest_table_bytes: u64,
    /// How many kernel maps it has.
    pub maps: usize,
}

/// `BPF_MAP_TYPE_ARRAY_OF_MAPS` of `include/uapi/linux/bpf.h`.
const ARRAY_OF_MAPS: u64 = 12;

impl Footprint {
    /// Of a process that runs.
    pub fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss_bytes = field(&status, "VmRSS:").context("VmRSS")? * 1024;
        let (mut own, mut inner) = (BTreeMap::new(), BTreeMap::new());
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // It may be closed by now.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
            let Some(id) = field(&text, "map_id:") else { continue };
            let is_new = own.insert(id, field(&text, "memlock:").context("memlock")?).is_none();
            if is_new && field(&text, "map_type:") == Some(ARRAY_OF_MAPS) {
                inner.extend(maps_in(id, field(&text, "max_entries:").context("max_entries")?)?);
            }
        }
        // One that is just being put in place is open, too.
        own.retain(|id, _| !inner.contains_key(id));
        let table_bytes = inner.values().sum();
        Ok(Self {
            rss_bytes,
            map_bytes: own.values().sum::<u64>() + table_bytes,
            table_bytes,
            largest_table_bytes: inner.values().copied().max().unwrap_or(0),
            maps: own.len() + inner.len(),
        })
    }

    /// The lower of each figure.
    #[must_use]
    pub fn least(&self, other: &Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes.min(other.rss_bytes),
            map_bytes: self.map_bytes.min(other.map_bytes),
            table_bytes: self.table_bytes.min(other.table_bytes),
            largest_table_bytes: self.largest_table_bytes.min(other.largest_table_bytes),
            maps: self.maps.min(other.maps),
        }
    }
}

/// Memory of a kernel map that this process has open, as the kernel counts it.
pub fn map_bytes(map: BorrowedFd<'_>) -> Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    field(&info, "memlock:").context("the kernel does not say how much memory a map has")
}

/// The number behind a name, in a file of `/proc`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Memory of the maps in a map of maps, by their IDs. Nobody keeps them open, but the kernel tells their IDs.
fn maps_in(outer: u64, entries: u64) -> Result<BTreeMap<u64, u64>> {
    let outer = open_map(outer)?;
    let mut maps = BTreeMap::new();
    for slot in 0..entries as u32 {
        let Some(id) = look_up(&outer, slot) else { continue };
        // It may be gone by now.
        let Ok(map) = open_map(id.into()) else { continue };
        maps.insert(id.into(), map_bytes(map.as_fd())?);
    }
    Ok(maps)
}

/// `BPF_MAP_GET_FD_BY_ID` of bpf(2).
fn open_map(id: u64) -> Result<OwnedFd> {
    const MAP_GET_FD_BY_ID: libc::c_int = 14;
    let attributes = [id as u32, 0, 0, 0];
    // SAFETY: the structure starts with the ID, and the kernel reads no more than it is told of.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, MAP_GET_FD_BY_ID, attributes.as_ptr(), size_of_val(&attributes))
    };
    ensure!(outcome >= 0, "cannot open the map {id}: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(outcome as libc::c_int) })
}

/// `BPF_MAP_LOOKUP_ELEM` of bpf(2) in a map of maps: the ID of the map in a slot.
fn look_up(outer: &OwnedFd, slot: u32) -> Option<u32> {
    const MAP_LOOKUP_ELEM: libc::c_int = 1;
    let mut id = 0_u32;
    let (key, value) = ((&raw const slot).expose_provenance(), (&raw mut id).expose_provenance());
    let attributes = [outer.as_raw_fd() as u64, key as u64, value as u64, 0];
    // SAFETY: a descriptor, then pointers to a key and a value of four bytes each, and flags.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, MAP_LOOKUP_ELEM, attributes.as_ptr(), size_of_val(&attributes))
    };
    (outcome == 0).then_some(id)
}
