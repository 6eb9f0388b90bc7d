//! The shape of a message: its words as far as they are those that error messages are made of, with a mark in the place of
//! everything else. What a client or a server put into it is not in its shape, so it can be kept where contents are not, and
//! messages of one cause have one shape.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Longest shape, in bytes.
pub const MAX_SHAPE_BYTES: usize = 200;
/// Most of a message that is looked at, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// Words of error messages, and names of errors of systems and languages.
static WORDS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("shape_words.txt").split_whitespace().collect());

/// What stands in the place of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Number,
    Path,
    Id,
    Text,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Self::Number => "<number>",
            Self::Path => "<path>",
            Self::Id => "<id>",
            Self::Text => "<text>",
        }
    }
}

/// The shape of a message. The shape of a shape is itself.
pub fn shape(text: &str) -> String {
    let mut shape = Shape::default();
    let mut rest = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
    while let Some(letter) = rest.chars().next() {
        if shape.text.len() >= MAX_SHAPE_BYTES {
            break;
        }
        rest = if let Some(mark) = marks().into_iter().find(|mark| rest.starts_with(mark.name())) {
            shape.mark(mark);
            &rest[mark.name().len()..]
        } else if letter.is_whitespace() {
            shape.space();
            &rest[letter.len_utf8()..]
        } else if let Some(end) = quoted(rest, shape.text.ends_with(is_word_letter)) {
            shape.mark(Mark::Text);
            &rest[end..]
        } else if is_word_letter(letter) || letter == '/' || letter == '~' {
            // Up to a space: a path holds signs of its own.
            let word = &rest[..rest.find(is_end).unwrap_or(rest.len())];
            if is_path(word) {
                shape.mark(Mark::Path);
                &rest[word.len()..]
            } else if is_word_letter(letter) {
                let word = &rest[..rest.find(|letter| !is_word_letter(letter)).unwrap_or(rest.len())];
                shape.word(word);
                &rest[word.len()..]
            } else {
                shape.sign(letter);
                &rest[letter.len_utf8()..]
            }
        } else {
            shape.sign(letter);
            &rest[letter.len_utf8()..]
        };
    }
    shape.finish()
}

fn marks() -> [Mark; 4] {
    [Mark::Number, Mark::Path, Mark::Id, Mark::Text]
}

fn is_word_letter(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || !(letter.is_ascii() || letter.is_whitespace())
}

fn is_end(letter: char) -> bool {
    letter.is_whitespace() || "'\"`,;()[]{}<>|".contains(letter)
}

/// Where a quoted text ends that starts here. A quote within a word is an apostrophe.
fn quoted(text: &str, is_in_word: bool) -> Option<usize> {
    let quote = text.chars().next().filter(|letter| matches!(letter, '"' | '`' | '\''))?;
    if quote == '\'' && is_in_word {
        return None;
    }
    text[1..].find(quote).map(|end| end + 2)
}

/// `/a/b`, `~/b`, `a/b.c`, `C:\a`, `https://a/b`: and not `and/or`.
fn is_path(word: &str) -> bool {
    let has_slash = word.contains(['/', '\\']) && word.len() > 1;
    has_slash && !word.split(['/', '\\']).all(|part| is_known(part.trim_end_matches([':', '.'])))
}

fn is_known(word: &str) -> bool {
    WORDS.contains(word) || WORDS.contains(word.to_lowercase().as_str())
}

/// A shape that is being made.
#[derive(Default)]
struct Shape {
    text: String,
    /// The last thing was a mark; and what stands behind it.
    last: Option<Mark>,
    behind: String,
}

impl Shape {
    fn mark(&mut self, mark: Mark) {
        // Marks with nothing but signs between them are one: how many parts a name has tells nothing.
        match self.last {
            Some(last) => self.last = Some(if last == mark { mark } else { Mark::Text }),
            None => self.last = Some(mark),
        }
        self.behind.clear();
    }

    fn word(&mut self, word: &str) {
        // A count with its unit.
        let number = word.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty();
        if is_known(word) {
            self.settle();
            self.text.push_str(word);
        } else if is_number && word.len() - number.len() <= 2 {
            self.mark(Mark::Number);
        } else if word.contains(|letter: char| letter.is_ascii_digit()) && word.is_ascii() {
            self.mark(Mark::Id);
        } else if word.contains('_') && word.split('_').all(|part| part.is_empty() || is_known(part)) {
            self.settle();
            self.text.push_str(word);
        } else {
            self.mark(Mark::Text);
        }
    }

    fn sign(&mut self, sign: char) {
        let place = if self.last.is_some() { &mut self.behind } else { &mut self.text };
        place.push(if sign.is_ascii_control() { ' ' } else { sign });
    }

    fn space(&mut self) {
        let is_first = self.last.is_none() && self.text.is_empty();
        let place = if self.last.is_some() { &mut self.behind } else { &mut self.text };
        if !is_first && !place.ends_with(' ') {
            place.push(' ');
        }
    }

    /// Puts down what was only known to be a mark.
    fn settle(&mut self) {
        if let Some(mark) = self.last.take() {
            self.text.push_str(mark.name());
            self.text.push_str(&std::mem::take(&mut self.behind));
        }
    }

    fn finish(mut self) -> String {
        // Signs behind the last mark belong to what it stands for.
        self.behind.clear();
        self.settle();
        let text = self.text.trim_end();
        if text.len() <= MAX_SHAPE_BYTES {
            return text.to_owned();
        }
        // Half a mark would be another shape.
        let cut = &text[..text.floor_char_boundary(MAX_SHAPE_BYTES)];
        let open = cut.rfind('<').filter(|start| !cut[*start..].contains('>'));
        cut[..open.unwrap_or(cut.len())].trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Messages of servers and runtimes keep what tells their cause, and nothing of whom they concern.
    #[test]
    fn known_messages() {
        for (text, expected) in [
            ("Tool read_secret_plans not found", "Tool <text> not found"),
            ("Unknown tool: frobnicate", "Unknown tool: <text>"),
            (
                "ENOENT: no such file or directory, open '/home/alice/x.txt'",
                "ENOENT: no such file or directory, open <text>",
            ),
            (
                "Access denied - path outside allowed directories: /etc/shadow not in /srv",
                "Access denied - path outside allowed directories: <path> not in <path>",
            ),
            ("request 4711 timed out after 30.5s", "request <number> timed out after <number>"),
            ("user 7f9c2ba4-e88f-11d8-9c2b-a4e88f11d85e not found", "user <id> not found"),
            (
                "MCP error -32602: Invalid arguments for tool x: [{\"code\": \"invalid_type\"}]",
                "MCP error -<number>: Invalid arguments for tool <text>",
            ),
            ("can't connect to https://db.example.com:5432/x?password=y", "can't connect to <path>"),
            (
                "Cannot read properties of undefined (reading 'x')",
                "Cannot read properties of undefined (reading <text>",
            ),
            ("KeyError: 'alice'", "KeyError: <text>"),
            ("HTTP status 500", "HTTP status <number>"),
            ("Alice Smith, Bob's wife, 12 Elm Street", "<text>'s <text>"),
            ("错误", "<text>"),
            ("", ""),
        ] {
            let own = shape(text);
            // What stands between marks beyond words is one mark.
            assert_eq!(own, expected, "{text}");
        }
    }

    proptest! {
        /// Bounded, stable, and nothing in it but known words, marks and signs.
        #[test]
        fn holds_nothing_else(text in "(\\PC|[a-z0-9_/'\"<>:. ]){0,400}") {
            let own = shape(&text);
            prop_assert!(own.len() <= MAX_SHAPE_BYTES);
            prop_assert_eq!(shape(&own), own.clone());
            let bare = marks().iter().fold(own, |text, mark| text.replace(mark.name(), " "));
            for word in bare.split(|letter| !is_word_letter(letter)).filter(|word| !word.is_empty()) {
                prop_assert!(word.split('_').all(|part| part.is_empty() || is_known(part)) || is_known(word), "{}", word);
            }
        }
    }
}
