//! Perf map files: `/tmp/perf-PID.map`, a line `START SIZE NAME` (both hexadecimal) for each piece of JIT code.
//! Format: `tools/perf/Documentation/jit-interface.txt` of Linux.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::target::Process;

/// Most bytes of one file that are read: what is behind that is not named.
const MAX_BYTES: u64 = 64 << 20;
/// Longest name that is kept.
const MAX_NAME: usize = 1024;
/// Times of files and of processes come from clocks that are not read at the same moment.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// The perf map of one process, read again when it has grown.
#[derive(Debug, Default)]
pub struct PerfMap {
    length: u64,
    entries: BTreeMap<u64, (u64, Box<str>)>,
}

impl PerfMap {
    /// Reads the map of a process if there is one that has changed.
    pub fn refresh(&mut self, process: &Process) {
        // The process writes the ID that it has in its own PID namespace into the file's name.
        let namespaced = process.namespaced_pids().ok().and_then(|pids| pids.last().copied());
        let path = PathBuf::from(format!("/tmp/perf-{}.map", namespaced.unwrap_or(process.pid())));
        let Ok(file) = process.open_in_root(&path) else { return };
        let Ok(metadata) = file.metadata() else { return };
        // Nobody removes these files: one that is older than the process is of another that had its ID.
        let Ok(stat) = process.stat() else { return };
        let started = SystemTime::now().checked_sub(stat.uptime() + CLOCK_TOLERANCE);
        if metadata.modified().ok().zip(started).is_none_or(|(modified, started)| modified < started) {
            return;
        }
        if metadata.len() == self.length {
            return;
        }
        let mut bytes = Vec::new();
        if file.take(MAX_BYTES).read_to_end(&mut bytes).is_ok() {
            self.length = metadata.len();
            self.entries = parse(&bytes);
        }
    }

    /// The name of the code at an address.
    pub fn find(&self, address: u64) -> Option<&str> {
        let (start, (size, name)) = self.entries.range(..=address).next_back()?;
        (address - start < *size).then_some(name)
    }
}

/// Later lines replace earlier ones: runtimes append when they reuse memory.
fn parse(bytes: &[u8]) -> BTreeMap<u64, (u64, Box<str>)> {
    let mut entries = BTreeMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let Some((start, size, name)) = parse_line(line) else { continue };
        entries.insert(start, (size, name.into()));
    }
    entries
}

fn parse_line(line: &[u8]) -> Option<(u64, u64, String)> {
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let mut number = || {
        let text = std::str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim_ascii();
    if name.is_empty() || size == 0 {
        return None;
    }
    Some((start, size, String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]).into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> PerfMap {
        PerfMap { length: 0, entries: parse(text.as_bytes()) }
    }

    /// An address belongs to the entry around it; later entries win; broken lines are skipped.
    #[test]
    fn finds_names() {
        let map = map("7f00 10 old\n0x8000 20 Function:~a b.js:1\nbroken\n7f00 8 new\n9000 0 empty\n");
        assert_eq!(map.find(0x7f07), Some("new"));
        assert_eq!(map.find(0x7f08), None);
        assert_eq!(map.find(0x801f), Some("Function:~a b.js:1"));
        assert_eq!(map.find(0x9000), None);
        assert_eq!(map.find(0), None);
    }

    /// A map that an earlier process with the same ID left behind names nothing.
    #[test]
    fn ignores_a_map_of_an_earlier_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let path = format!("/tmp/perf-{}.map", child.id());
        let find = |age: Duration| {
            std::fs::write(&path, "1000 10 f\n").unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            let mut map = PerfMap::default();
            map.refresh(&Process::open(child.id()).unwrap());
            map.find(0x1000).map(str::to_owned)
        };
        let (old, new) = (find(Duration::from_secs(3600)), find(Duration::ZERO));
        std::fs::remove_file(&path).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((old.as_deref(), new.as_deref()), (None, Some("f")));
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), address: u64) {
            let map = PerfMap { length: 0, entries: parse(&bytes) };
            let _ = map.find(address);
        }
    }
}
