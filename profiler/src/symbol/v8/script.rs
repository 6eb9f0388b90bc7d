//! Scripts: where their lines end.

use std::sync::Arc;

use super::heap::{Address, Chunk, Heap, small_integer, untag};

/// Longest source that is read for its lines, in UTF-16 units.
const MAX_SOURCE: u64 = 1 << 26;
/// Longest name of a script.
const MAX_NAME: u64 = 4096;

const LINE_FEED: u16 = 0x0a;
const CARRIAGE_RETURN: u16 = 0x0d;
/// What ECMAScript takes for the end of a line besides.
const LINE_SEPARATOR: u16 = 0x2028;
const PARAGRAPH_SEPARATOR: u16 = 0x2029;

/// A script, as far as positions in it need it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// Path or URL; `None` for what was never in a file.
    pub(super) file: Option<Arc<str>>,
    /// Where each line ends, in UTF-16 units; empty when that is not known.
    line_ends: Vec<u32>,
    /// What its first line is told to be, less one.
    line_offset: i32,
}

impl Script {
    pub(super) fn read(heap: &Heap, script: Address) -> Option<Self> {
        let layout = &heap.layout.script;
        let name = heap.pointer(script + layout.name).filter(|name| heap.is_string(*name));
        let file = match name {
            Some(name) => Some(path(&heap.text(name, MAX_NAME)?)).filter(|name| !name.is_empty()),
            None => None,
        };
        Some(Self {
            file: file.map(Arc::from),
            line_ends: line_ends(heap, script).unwrap_or_default(),
            line_offset: heap.integer(script + layout.line_offset).unwrap_or(0),
        })
    }

    /// The line of a character, counted from 1.
    pub(super) fn line(&self, character: u32) -> Option<u32> {
        let index = self.line_ends.partition_point(|end| *end < character);
        if index >= self.line_ends.len() {
            return None;
        }
        u32::try_from(i64::try_from(index).ok()? + i64::from(self.line_offset) + 1).ok()
    }
}

/// What V8 knows already, or else the source tells.
fn line_ends(heap: &Heap, script: Address) -> Option<Vec<u32>> {
    let layout = &heap.layout.script;
    let known = heap.word(script + layout.line_ends)?;
    if let Some(ends) = untag(known).and_then(|array| heap.whole_array(array)) {
        let ends: Option<Vec<u32>> =
            ends.into_iter().map(|end| u32::try_from(small_integer(end)?).ok()).collect();
        if let Some(ends) = ends.filter(|ends| !ends.is_empty() && ends.is_sorted()) {
            return Some(ends);
        }
    }
    let mut lines = Lines::default();
    heap.read_string(heap.pointer(script + layout.source)?, MAX_SOURCE, |chunk| match chunk {
        Chunk::OneByte(bytes) => lines.one_byte(bytes),
        Chunk::TwoByte(bytes) => {
            bytes.as_chunks().0.iter().for_each(|unit| lines.unit(u16::from_le_bytes(*unit)));
        }
    })?;
    Some(lines.finish())
}

#[derive(Default)]
struct Lines {
    ends: Vec<u32>,
    next: u32,
    after_carriage_return: bool,
}

impl Lines {
    fn one_byte(&mut self, bytes: &[u8]) {
        let mut from = 0;
        for at in memchr::memchr2_iter(b'\n', b'\r', bytes) {
            self.skip(at - from);
            self.unit(bytes[at].into());
            from = at + 1;
        }
        self.skip(bytes.len() - from);
    }

    fn skip(&mut self, count: usize) {
        if count > 0 {
            self.after_carriage_return = false;
            self.next = self.next.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn unit(&mut self, unit: u16) {
        match unit {
            // The two together end one line, at the second.
            LINE_FEED if self.after_carriage_return => {
                if let Some(end) = self.ends.last_mut() {
                    *end = self.next;
                }
            }
            LINE_FEED | CARRIAGE_RETURN | LINE_SEPARATOR | PARAGRAPH_SEPARATOR => self.ends.push(self.next),
            _ => {}
        }
        self.after_carriage_return = unit == CARRIAGE_RETURN;
        self.next = self.next.saturating_add(1);
    }

    fn finish(mut self) -> Vec<u32> {
        self.ends.push(self.next);
        self.ends
    }
}

/// A path in place of the URL of a file; other names as they are.
fn path(name: &str) -> String {
    let Some(encoded) = name.strip_prefix("file://").filter(|path| path.starts_with('/')) else {
        return name.to_owned();
    };
    // A query makes Node load a module once more; it is no part of the path.
    let encoded = encoded.split(['?', '#']).next().unwrap_or_default().as_bytes();
    let digit = |at: usize| encoded.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut bytes, mut at) = (Vec::with_capacity(encoded.len()), 0);
    while let Some(byte) = encoded.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that ECMAScript takes for the end of a line ends one, in both sorts of strings.
    #[test]
    fn lines_end() {
        let mut lines = Lines::default();
        lines.one_byte(b"a\nbc\r");
        lines.one_byte(b"\nd\r\re");
        assert_eq!(lines.finish(), [1, 5, 7, 8, 10]);
        let mut lines = Lines::default();
        "é\u{2028}b\r\nc".encode_utf16().for_each(|unit| lines.unit(unit));
        let script = Script { file: None, line_ends: lines.finish(), line_offset: 0 };
        assert_eq!(script.line_ends, [1, 4, 6]);
        let of: Vec<_> = (0..8).map(|character| script.line(character)).collect();
        assert_eq!(of, [Some(1), Some(1), Some(2), Some(2), Some(2), Some(3), Some(3), None]);
        assert_eq!(Script { line_offset: 10, ..script }.line(0), Some(11));
    }

    /// URLs of files are paths, whatever is in them.
    #[test]
    fn urls_become_paths() {
        assert_eq!(path("file:///srv/a%20b/%C3%A9.mjs?v=1"), "/srv/a b/é.mjs");
        assert_eq!(path("file:///100%"), "/100%");
        assert_eq!(path("node:internal/timers"), "node:internal/timers");
        assert_eq!(path("/srv/a%20b.js"), "/srv/a%20b.js");
    }
}
