//! The end of a message whose middle is missing, read backwards.

use super::MAX_TAIL_BYTES;
use super::token::{Key, Token};

/// Keeps the last bytes.
pub(super) fn keep_last(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_TAIL_BYTES)..]);
    let surplus = tail.len().saturating_sub(MAX_TAIL_BYTES);
    tail.drain(..surplus);
}

/// Keys with plain values, read from the end of an object backwards, each with its depth: 1 is the object's own level.
pub(super) fn fields_from_end(tail: &[u8]) -> Vec<(usize, Key, Token)> {
    let mut fields = Vec::new();
    let mut depth = 0_usize;
    // What stands to the right of here on the same level: a value waits for its key.
    let mut value: Option<Token> = None;
    let mut is_key = false;
    // Events end with a line end that is part of their data.
    let mut end = tail.trim_ascii_end().len();
    while end > 0 {
        let byte = tail[end - 1];
        match byte {
            b'}' | b']' => {
                depth += 1;
                (value, is_key) = (None, false);
            }
            b'{' | b'[' => {
                let Some(outer) = depth.checked_sub(1) else { break };
                depth = outer;
                // The value that ends here has brackets: only its key is of interest.
                value = Some(Token::default());
                is_key = false;
            }
            b':' => is_key = true,
            b',' => (value, is_key) = (None, false),
            b'"' => {
                let Some(start) = text_start(tail, end - 1) else { break };
                let bytes = &tail[start + 1..end - 1];
                if is_key {
                    fields.push((depth, Key::of(bytes), value.take().unwrap_or_default()));
                    is_key = false;
                } else {
                    value = Some(Token::of(bytes, true));
                }
                end = start;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let length = tail[..end].iter().rev().take_while(|byte| is_part(byte)).count();
                if length == 0 || length == end {
                    break;
                }
                value = Some(Token::of(&tail[end - length..end], false));
                end -= length;
                continue;
            }
        }
        if depth == 0 && byte != b'}' {
            break;
        }
        end -= 1;
    }
    fields
}

/// Where the string starts whose closing quote is at `end`.
fn text_start(tail: &[u8], end: usize) -> Option<usize> {
    memchr::memrchr_iter(b'"', &tail[..end]).find(|&start| {
        let escapes = tail[..start].iter().rev().take_while(|byte| **byte == b'\\').count();
        // Where backslashes reach the start of what is there, nobody knows.
        escapes % 2 == 0 && escapes < start
    })
}
