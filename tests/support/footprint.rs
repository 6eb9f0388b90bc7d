//! What a process needs of the machine.

use anyhow::{Context as _, Result};

/// What a process needs at a moment: the profiler, mostly.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Memory of its kernel maps, as the kernel counts it.
    pub map_bytes: u64,
    /// How many kernel maps it has.
    pub maps: usize,
}

impl Footprint {
    /// Of a process that runs.
    pub fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let rss_bytes = field(&status, "VmRSS:").context("VmRSS")? * 1024;
        let (mut map_bytes, mut maps) = (0, 0);
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // It may be closed by now.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
            if field(&text, "map_id:").is_some() {
                map_bytes += field(&text, "memlock:").unwrap_or(0);
                maps += 1;
            }
        }
        Ok(Self { rss_bytes, map_bytes, maps })
    }
}
