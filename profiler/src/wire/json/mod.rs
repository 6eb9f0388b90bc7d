//! JSON-RPC messages out of bytes that come in pieces, some of them missing. A sans-io state machine with bounded memory:
//! it keeps the few fields of [`Message`] and forgets the rest as it goes.
//!
//! It does not validate: what is no JSON ends as [`Outcome::NotRpc`]. Only the outer levels are followed by their keys;
//! below them brackets are counted, so that nesting without end costs nothing.
//!
//! Where bytes are missing nobody knows what they held. The fields before stand, and those at the message's end are read
//! backwards from its last byte: some servers write `id` last.

mod draft;
mod tail;
mod token;

use super::contents::{Capture, Raw};
use super::message::Message;
use draft::Draft;
use tail::{fields_from_end, keep_last};
use token::{Key, Token};

pub(super) use token::text;

/// Longest key, string or number that is looked at, in bytes; longer ones are cut.
pub const MAX_VALUE_BYTES: usize = 512;
/// Most messages of one batch; JSON-RPC sets no limit.
const MAX_BATCH: usize = 1024;
/// Bytes kept behind a gap, for the fields at a message's end.
const MAX_TAIL_BYTES: usize = 4096;
/// Levels whose keys are followed: message, `params` or `result`, `_meta` or `task` or `content`, an item of that.
const LEVELS: usize = 4;

/// What a text was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing but white space.
    Empty,
    /// No JSON-RPC message.
    NotRpc,
    /// A message, or those of a batch.
    Messages(Vec<Message>),
}

/// Reads one JSON text. Feed it, then [`finish`](Self::finish) it, and it is new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scanner {
    state: State,
    /// How many brackets are open.
    depth: u64,
    /// The text is an array of messages.
    is_batch: bool,
    /// Something stands outside the one value that a text is.
    is_broken: bool,
    has_started: bool,
    /// For each followed level: its key, and whether it has keys at all.
    levels: [Level; LEVELS],
    token: Token,
    draft: Draft,
    messages: Vec<Message>,
    /// Behind a gap: the last bytes.
    tail: Option<Vec<u8>>,
    /// What of arguments and results is kept.
    capture: Capture,
    /// Arguments or a result that are being read, when they are kept.
    raw: Option<Raw>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between tokens.
    #[default]
    Between,
    /// In a string.
    Text,
    /// In a string, behind a backslash.
    Escape,
    /// In a number or a literal.
    Scalar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Level {
    key: Key,
    is_object: bool,
    /// A colon was seen since the last comma: a string is a value.
    is_value: bool,
}

impl Scanner {
    /// A scanner that keeps so much of arguments and results.
    pub fn new(capture: Capture) -> Self {
        Self { capture, ..Self::default() }
    }

    /// Forgets what it has of a text.
    pub fn reset(&mut self) {
        *self = Self::new(self.capture);
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        if let Some(tail) = &mut self.tail {
            keep_last(tail, bytes);
            return;
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            let before = bytes;
            bytes = match self.state {
                State::Between => {
                    self.between(byte);
                    rest
                }
                State::Escape => {
                    self.token.push(&[byte]);
                    self.state = State::Text;
                    rest
                }
                State::Text => self.in_text(bytes),
                State::Scalar => {
                    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                    let length = bytes.iter().take_while(is_part).count();
                    self.token.push(&bytes[..length]);
                    if length < bytes.len() {
                        self.state = State::Between;
                        self.value();
                    }
                    &bytes[length..]
                }
            };
            if self.raw.is_some() {
                self.keep(&before[..before.len() - bytes.len()]);
            }
        }
    }

    /// Keeps what was just read of arguments or of a result.
    fn keep(&mut self, read: &[u8]) {
        let Some(mut raw) = self.raw.take() else { return };
        raw.push(read);
        if self.state == State::Between && self.depth <= raw.depth {
            self.draft.contents(raw);
        } else {
            self.raw = Some(raw);
        }
    }

    /// A value starts here, of whatever sort.
    fn starts_value(&mut self) {
        if self.capture == Capture::default() || self.raw.is_some() {
            return;
        }
        let path = self.path();
        let is_result = match self.level() {
            Some(0) if path[0] == Key::Result => true,
            Some(1) if path[..2] == [Key::Params, Key::Arguments] => false,
            _ => return,
        };
        self.raw = Some(Raw::new(self.capture, self.depth, is_result));
    }

    /// The keys that lead to where we are, outermost first.
    fn path(&self) -> [Key; LEVELS] {
        self.levels.map(|level| if level.is_object { level.key } else { Key::Other })
    }

    /// Some bytes are missing here.
    pub fn gap(&mut self) {
        self.has_started = true;
        self.tail = Some(Vec::new());
        if let Some(raw) = self.raw.take() {
            self.draft.contents(raw);
        }
    }

    /// Whether a text has begun and its brackets are not all closed.
    pub fn is_open(&self) -> bool {
        self.depth > 0 || self.state != State::Between || self.tail.is_some()
    }

    /// Whether a text has begun that is an array of messages.
    pub fn is_batch(&self) -> bool {
        self.is_batch
    }

    /// Whether what was read so far is a whole message, or a whole array of them.
    pub fn is_whole(&self) -> bool {
        !self.is_open() && !self.is_broken && !self.messages.is_empty()
    }

    /// The memory that a text takes while it is read, in bytes. Of the message that is open now it is a guess.
    pub fn held_bytes(&self) -> usize {
        let open = if self.is_open() { size_of::<Self>() } else { 0 };
        let tail = self.tail.as_ref().map_or(0, Vec::capacity);
        let contents = self.raw.as_ref().map_or(0, Raw::held_bytes) + self.draft.held_contents();
        let messages = self.messages.iter().map(Message::held_bytes).sum::<usize>();
        open + self.token.bytes.capacity() + tail + contents + messages
    }

    /// Whether some of the text was missing.
    pub fn has_gap(&self) -> bool {
        self.tail.is_some()
    }

    /// Whether the text can be no message, whatever follows.
    pub fn is_broken(&self) -> bool {
        self.is_broken && self.tail.is_none()
    }

    /// The text ends here.
    pub fn finish(&mut self) -> Outcome {
        if !self.has_started {
            return Outcome::Empty;
        }
        if self.state == State::Scalar {
            self.value();
        }
        // The next text needs the memory again.
        let token = std::mem::take(&mut self.token);
        let mut this = std::mem::replace(self, Self { token, ..Self::new(self.capture) });
        if let Some(tail) = this.tail.take() {
            this.draft_from_end(&tail);
            this.messages.extend(this.draft.message(this.capture));
        } else if this.depth > 0 || this.is_broken {
            return Outcome::NotRpc;
        }
        if this.messages.is_empty() { Outcome::NotRpc } else { Outcome::Messages(this.messages) }
    }

    fn in_text<'bytes>(&mut self, bytes: &'bytes [u8]) -> &'bytes [u8] {
        let Some(end) = memchr::memchr2(b'"', b'\\', bytes) else {
            self.token.push(bytes);
            return &[];
        };
        self.token.push(&bytes[..end]);
        if bytes[end] == b'\\' {
            self.token.has_escapes = true;
            self.token.push(b"\\");
            self.state = State::Escape;
        } else {
            self.state = State::Between;
            self.text();
        }
        &bytes[end + 1..]
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(),
            b'"' => {
                self.starts_value();
                self.state = State::Text;
                self.token.start(true);
            }
            b':' => self.with_level(|level| level.is_value = true),
            b',' => self.with_level(|level| (level.is_value, level.key) = (false, Key::Other)),
            _ => {
                self.starts_value();
                self.state = State::Scalar;
                self.token.start(false);
                self.token.push(&[byte]);
            }
        }
        self.is_broken |= self.depth == 0 && !matches!(byte, b'}' | b']');
        self.has_started = true;
    }

    /// The level that is open, if its keys are followed: 0 is the message's own.
    fn level(&self) -> Option<usize> {
        let level = self.depth.checked_sub(1 + u64::from(self.is_batch))?;
        usize::try_from(level).ok().filter(|level| *level < LEVELS)
    }

    fn with_level(&mut self, change: impl FnOnce(&mut Level)) {
        if let Some(level) = self.level() {
            change(&mut self.levels[level]);
        }
    }

    fn open(&mut self, is_object: bool) {
        self.starts_value();
        if self.depth == 0 {
            // A second value in one text.
            self.is_broken |= self.has_started;
            self.is_batch = !is_object;
        } else if self.level() == Some(0) {
            self.draft.note(self.levels[0].key);
        }
        self.depth += 1;
        self.with_level(|level| *level = Level { is_object, ..Level::default() });
    }

    fn close(&mut self) {
        let was_message = self.level() == Some(0);
        let Some(depth) = self.depth.checked_sub(1) else {
            self.is_broken = true;
            return;
        };
        self.depth = depth;
        if was_message && self.messages.len() < MAX_BATCH {
            let message = std::mem::take(&mut self.draft).message(self.capture);
            // Most texts are one message, and batches make room for more at a time.
            self.messages.reserve_exact(usize::from(message.is_some() && self.messages.is_empty()));
            self.messages.extend(message);
        }
    }

    /// A string has ended: a key or a value.
    fn text(&mut self) {
        let Some(level) = self.level() else { return };
        let level = &mut self.levels[level];
        if level.is_object && !level.is_value {
            level.key = Key::of(&self.token.bytes);
        } else {
            self.value();
        }
    }

    /// A value without brackets has ended.
    fn value(&mut self) {
        let Some(innermost) = self.level() else { return };
        let path = self.path();
        if innermost == 0 {
            self.draft.note(path[0]);
        }
        self.draft.take(&path[..=innermost], &self.token);
    }

    /// The fields that a message's last bytes tell, as far as they are there.
    fn draft_from_end(&mut self, tail: &[u8]) {
        if self.is_batch {
            return;
        }
        for (depth, key, token) in fields_from_end(tail) {
            match (depth, key) {
                (1, key) => {
                    self.draft.note(key);
                    self.draft.take(&[key], &token);
                }
                // Some clients write a tool's arguments before its name.
                (2, Key::Name) => self.draft.take(&[Key::Params, key], &token),
                // Of the fields within, this one stands at the end of results, and nowhere else.
                (2, Key::IsError) => self.draft.take(&[Key::Result, key], &token),
                _ => {}
            }
        }
        // What is gone held a result, if it held no method and no error: it was long. It may have held the version.
        self.draft.has_result |= self.draft.method.is_none() && !self.draft.has_error;
        self.draft.has_version |= self.draft.id.is_some();
    }
}

#[cfg(test)]
mod tests;
