//! Perf map files: `/tmp/perf-PID.map`, a line `START SIZE NAME` (both hexadecimal) for each piece of JIT code.
//! Format: `tools/perf/Documentation/jit-interface.txt` of Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::Name;
use crate::target::Process;

/// Most bytes of one file that are read: what is behind that is not named.
const MAX_BYTES: u64 = 64 << 20;
/// Longest name that is kept.
const MAX_NAME: usize = 1024;
/// Longest line that is read at once, in bytes: what is behind that is taken for another line.
const MAX_LINE: u64 = 16 << 10;
/// How often code at one address is written anew, on average, in a map that is believed. One whose entries lie over each other by the
/// thousand is nobody's, and costs time.
const MAX_NAMES_OF_AN_ADDRESS: usize = 64;
const FEW_NAMES: usize = 4096;
/// Times of files and of processes come from clocks that are not read at the same moment.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Names of JIT code, by the addresses that are asked for. A map can be large and is read line by line: nothing of it
/// is kept.
pub fn jit_names(process: &Process, addresses: &[u64]) -> BTreeMap<u64, String> {
    open(process)
        .map(|file| perf_map_names(BufReader::new(file.take(MAX_BYTES)), addresses))
        .unwrap_or_default()
}

/// The map of a process, if there is one that it can have written itself.
fn open(process: &Process) -> Option<File> {
    // The process writes the ID that it has in its own PID namespace into the file's name.
    let namespaced = process.namespaced_pids().ok().and_then(|pids| pids.last().copied());
    let path = PathBuf::from(format!("/tmp/perf-{}.map", namespaced.unwrap_or(process.pid())));
    // Anybody can write to /tmp. What is not its own would give wrong names.
    let file = process.open_own_in_root(&path).ok()?;
    // Nobody removes these files: one that is older than the process is of another that had its ID.
    let modified = file.metadata().ok()?.modified().ok()?;
    let started = SystemTime::now().checked_sub(process.stat().ok()?.uptime() + CLOCK_TOLERANCE)?;
    (modified >= started).then_some(file)
}

/// Names of the addresses in the text of a map. Later lines replace earlier ones: runtimes append when they reuse memory.
pub fn perf_map_names(mut lines: impl BufRead, addresses: &[u64]) -> BTreeMap<u64, String> {
    let wanted: BTreeSet<u64> = addresses.iter().copied().collect();
    let mut names = BTreeMap::new();
    let mut left = wanted.len() * MAX_NAMES_OF_AN_ADDRESS + FEW_NAMES;
    let mut line = Vec::new();
    while lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        if let Some((start, size, name)) = parse_line(line.trim_ascii_end()) {
            for &address in wanted.range(start..start.saturating_add(size)) {
                let Some(rest) = left.checked_sub(1) else { return BTreeMap::new() };
                left = rest;
                names.insert(address, String::from_utf8_lossy(name).into_owned());
            }
        }
        line.clear();
    }
    names
}

/// What the text of an entry says. V8 writes `JS:*name file:line:column`, with a mark for the tier that compiled the code: without it
/// all code of a function has one name. What follows no such form is a name as it is.
/// Format: `CodeEventLogger::NameBuffer` and `ComputeMarker` in V8's `src/logging/log.cc`.
pub fn jit_name(text: &str) -> Name {
    of_v8(text).unwrap_or_else(|| Name { function: text.to_owned(), file: None, line: None })
}

fn of_v8(text: &str) -> Option<Name> {
    let (kind, rest) = text.split_once(':')?;
    if !["Eval", "Function", "JS", "LazyCompile", "Script"].contains(&kind) {
        return None;
    }
    let marks = ["o*", "o+", "~", "^", "+", "*"];
    let rest = marks.iter().find_map(|mark| rest.strip_prefix(mark)).unwrap_or(rest);
    let rest = rest.strip_prefix('\'').unwrap_or(rest);
    let (rest, _column) = number_at_end(rest)?;
    let (rest, line) = number_at_end(rest)?;
    // Names have blanks now and then (`get size`), paths too: what tells them apart is how paths start.
    let starts = [" /", " file:", " node:", " ext:", " http:", " https:", " evalmachine."];
    let blank = starts.iter().filter_map(|start| rest.find(start)).min().or_else(|| rest.rfind(' '))?;
    let (name, file) = (&rest[..blank], &rest[blank + 1..]);
    let function = if name.is_empty() { format!("(anonymous:{line})") } else { name.to_owned() };
    let file = file.strip_prefix("file://").unwrap_or(file);
    Some(Name { function, file: Some(file.to_owned()), line: Some(line) })
}

fn number_at_end(text: &str) -> Option<(&str, u32)> {
    let (rest, number) = text.rsplit_once(':')?;
    Some((rest, number.parse().ok()?))
}

fn parse_line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
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
    Some((start, size, &name[..name.len().min(MAX_NAME)]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An address belongs to the entry around it; later entries win; broken lines are skipped.
    #[test]
    fn finds_names() {
        let map = "7f00 10 old\n0x8000 20 Function:~a b.js:1\nbroken\n7f00 8 new\n9000 0 empty\n";
        let names = perf_map_names(map.as_bytes(), &[0, 0x7f07, 0x7f08, 0x801f, 0x8020, 0x9000]);
        let expected = [(0x7f07, "new"), (0x7f08, "old"), (0x801f, "Function:~a b.js:1")];
        assert_eq!(names, expected.map(|(address, name)| (address, name.to_owned())).into());
    }

    /// Names of V8 are taken apart; all others are names as they are.
    #[test]
    fn names_of_v8_are_taken_apart() {
        let of = |text| {
            let Name { function, file, line } = jit_name(text);
            (function, file, line)
        };
        let named =
            |function: &str, file: &str, line| (function.to_owned(), Some(file.to_owned()), Some(line));
        assert_eq!(of("JS:+'recurse file:///srv/spin.js:2:17"), named("recurse", "/srv/spin.js", 2));
        assert_eq!(of("JS:o*three /srv/spin.js:2:17"), named("three", "/srv/spin.js", 2));
        assert_eq!(of("JS:*get size /srv/a b.js:10:3"), named("get size", "/srv/a b.js", 10));
        assert_eq!(of("Function:~ node:internal/x:7:1"), named("(anonymous:7)", "node:internal/x", 7));
        for plain in ["Builtin:ArrayMap", "JS:half", "[vdso]", "Function:a.js:1", "JS:a b:1:x", "JS:ж:1:2"] {
            assert_eq!(of(plain), (plain.to_owned(), None, None));
        }
    }

    /// A map whose entries all lie over each other names nothing, and costs little.
    #[test]
    fn does_not_believe_in_layers() {
        let map = |lines| "0 ffffffffffffffff x\n".repeat(lines);
        let addresses: Vec<u64> = (0..4000).collect();
        assert!(perf_map_names(map(10_000).as_bytes(), &addresses).is_empty());
        assert_eq!(perf_map_names(map(100).as_bytes(), &[1])[&1], "x");
    }

    /// A map that an earlier process with the same ID left behind names nothing.
    #[test]
    fn ignores_a_map_of_an_earlier_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let path = format!("/tmp/perf-{}.map", child.id());
        let find = |age: Duration| {
            std::fs::write(&path, "1000 10 f\n").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            jit_names(&Process::open(child.id()).unwrap(), &[0x1000]).remove(&0x1000)
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
            let _ = perf_map_names(bytes.as_slice(), &[address, 0, u64::MAX]);
            let _ = jit_name(&format!("JS:{}", String::from_utf8_lossy(&bytes)));
        }
    }
}
