//! Arguments and results of calls, where they were asked for: cut to a length, and without what looks secret.
//!
//! What is secret is told by names (`password`, `api_key`) and by forms (`Bearer ...`, keys of well-known services). That is a
//! safety net and no promise: a secret under an innocent name is kept.

use serde_json::{Map, Value};

use super::json::text;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";
/// What stands where something was cut off.
const CUT: &str = "…";
/// Brackets within brackets that are looked into.
const MAX_DEPTH: usize = 32;

/// How much of arguments and results is kept; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Of each, in bytes.
    pub bytes: usize,
}

/// Arguments or a result as they stood in a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw {
    /// Brackets that were open before it.
    pub(super) depth: u64,
    pub(super) is_result: bool,
    limit: usize,
    bytes: Vec<u8>,
}

impl Raw {
    pub(super) fn new(capture: Capture, depth: u64, is_result: bool) -> Self {
        Self { depth, is_result, limit: capture.bytes, bytes: Vec::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The memory that it takes, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// JSON of what was kept. It is whole, whatever was cut off.
pub(super) fn redacted(raw: &Raw) -> String {
    let mut parser = Parser { bytes: &raw.bytes, at: 0 };
    parser.value(0, false).map_or_else(|| "null".to_owned(), |value| value.to_string())
}

/// Reads JSON that may end anywhere.
struct Parser<'bytes> {
    bytes: &'bytes [u8],
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// `None` at the end of what is there.
    fn value(&mut self, depth: usize, is_secret: bool) -> Option<Value> {
        let value = match self.next()? {
            b'{' | b'[' if depth >= MAX_DEPTH => {
                self.skip();
                Value::from(CUT)
            }
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => Value::from(redacted_text(&self.text())),
            _ => self.scalar(),
        };
        Some(if is_secret { Value::from(REDACTED) } else { value })
    }

    fn object(&mut self, depth: usize) -> Value {
        let mut fields = Map::new();
        self.at += 1;
        loop {
            match self.next() {
                Some(b'"') => {
                    let key = self.text();
                    let is_secret = is_secret_name(&key);
                    if self.next() == Some(b':') {
                        self.at += 1;
                    }
                    let value = self.value(depth + 1, is_secret).unwrap_or_else(|| CUT.into());
                    fields.insert(redacted_text(&key), value);
                }
                Some(b'}') => {
                    self.at += 1;
                    return Value::Object(fields);
                }
                Some(_) => self.at += 1,
                None => return Value::Object(fields),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Value {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Value::Array(items);
                }
                // Not JSON: it must not keep us here.
                Some(b'}' | b':') => self.at += 1,
                Some(_) => items.extend(self.value(depth + 1, false)),
                None => return Value::Array(items),
            }
        }
    }

    fn text(&mut self) -> String {
        let start = self.at + 1;
        let mut end = start;
        while let Some(byte) = self.bytes.get(end) {
            match byte {
                b'"' => {
                    self.at = end + 1;
                    return text(&self.bytes[start..end], true).into_string();
                }
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        self.at = self.bytes.len();
        // Half an escape, or half a character, stands for nothing.
        let bytes = &self.bytes[start.min(self.at)..];
        let whole = bytes.iter().rposition(|byte| *byte == b'\\').filter(|at| bytes.len() - at < 6);
        format!("{}{CUT}", text(&bytes[..whole.unwrap_or(bytes.len())], true))
    }

    fn scalar(&mut self) -> Value {
        let rest = &self.bytes[self.at..];
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        self.at += length.max(1);
        serde_json::from_slice(&rest[..length]).unwrap_or_else(|_| CUT.into())
    }

    /// Over brackets and all that is in them.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.next() {
            match byte {
                b'"' => {
                    self.text();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

/// Names of which a part tells that what they hold is secret; without anything but letters and digits.
const SECRET_PARTS: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "sessionid",
    "signature",
    "connectionstring",
];
/// Names that tell it as a whole.
const SECRET_NAMES: [&str; 9] = ["auth", "pass", "pin", "otp", "jwt", "sid", "cvv", "ssn", "key"];

fn is_secret_name(name: &str) -> bool {
    let name: String =
        name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    // A limit on the length of an answer.
    let is_count = name.ends_with("tokens");
    SECRET_NAMES.contains(&name.as_str())
        || SECRET_PARTS.iter().any(|part| name.contains(part) && !(is_count && *part == "token"))
}

/// Beginnings of keys and tokens that services hand out.
const SECRET_STARTS: [&str; 19] = [
    "sk-",
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "pk_live_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "npm_",
    "AKIA",
    "ASIA",
    "AIza",
];

fn is_secret_word(word: &str) -> bool {
    let is_key = word.len() >= 16 && SECRET_STARTS.iter().any(|start| word.starts_with(start));
    // JSON Web Tokens (RFC 7519) start with `{"` in Base64. One that was cut has fewer than three parts.
    is_key || (word.starts_with("eyJ") && word.len() >= 16)
}

/// A text without words that look secret.
pub(super) fn redacted_text(text: &str) -> String {
    if text.contains("-----BEGIN") && text.contains("PRIVATE KEY") {
        return REDACTED.to_owned();
    }
    let mut result = String::with_capacity(text.len());
    let mut is_announced = false;
    for part in text.split_inclusive(char::is_whitespace) {
        let word = part.trim_end_matches(char::is_whitespace);
        let (space, is_last) = (&part[word.len()..], std::mem::take(&mut is_announced));
        if word.is_empty() {
            is_announced = is_last;
            result.push_str(space);
            continue;
        }
        let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric());
        let is_scheme = ["bearer", "basic"].iter().any(|scheme| bare.eq_ignore_ascii_case(scheme));
        if is_scheme {
            is_announced = true;
            result.push_str(word);
        } else if is_last || is_secret_word(bare) {
            result.push_str(REDACTED);
        } else {
            let (shown, announces) = redacted_word(word);
            is_announced = announces;
            result.push_str(&shown);
        }
        result.push_str(space);
    }
    result
}

/// `password=x`, `{"password":"x"}` and `https://user:x@host` without the secret; and whether the next word is one.
fn redacted_word(word: &str) -> (String, bool) {
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((_, host)) =
            rest.split(['/', '?', '#']).next().and_then(|authority| authority.rsplit_once('@'))
    {
        let path = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
        let (path, announces) = redacted_word(path);
        return (format!("{scheme}://{REDACTED}@{host}{path}"), announces);
    }
    // The innermost name before a sign: in `a?x=1&token=y` the last one counts for what follows it.
    let mut shown = String::new();
    let mut rest = word;
    while let Some(sign) = rest.find(['=', ':']) {
        let (name, value) = (&rest[..sign], &rest[sign + 1..]);
        let own = name.rsplit(['&', '?', ',', ';', '{', '"', '\'', '\\']).find(|part| !part.is_empty());
        shown.push_str(&rest[..=sign]);
        if own.is_some_and(|name| is_secret_name(name.trim_start_matches('-'))) {
            if value.trim_matches(['"', '\'', '\\']).is_empty() {
                return (shown + value, true);
            }
            shown.push_str(REDACTED);
            let end = value.find(['&', ',', ';']).unwrap_or(value.len());
            rest = &value[end..];
        } else {
            rest = value;
        }
    }
    (shown + rest, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(text: &str, bytes: usize) -> String {
        let mut raw = Raw::new(Capture { bytes }, 0, false);
        raw.push(text.as_bytes());
        redacted(&raw)
    }

    /// Names that look secret hide what they hold, however deep; the rest stays.
    #[test]
    fn names_hide_values() {
        let text = r#"{"path": "/a b", "n": 1.5, "Api-Key": "k", "max_tokens": 7, "author": "me", "auth": {"user": "u", "x": [1, 2]},
            "list": [{"refreshToken": ["a"], "ok": true}, null], "session_id": 5}"#;
        let expected = serde_json::json!({"path": "/a b", "n": 1.5, "Api-Key": REDACTED, "max_tokens": 7, "author": "me",
            "auth": REDACTED, "list": [{"refreshToken": REDACTED, "ok": true}, null], "session_id": REDACTED});
        assert_eq!(serde_json::from_str::<Value>(&kept(text, 1000)).unwrap(), expected);
    }

    /// Forms of secrets hide themselves in any text.
    #[test]
    fn forms_hide_values() {
        for (text, expected) in [
            ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
            ("use bearer  abc now", "use bearer  [redacted] now"),
            ("curl -u x --password=hunter2 y", "curl -u x --password=[redacted] y"),
            ("https://u:p@host/x?a=1&token=t&b=2", "https://[redacted]@host/x?a=1&token=[redacted]&b=2"),
            ("http://host/x?a=1&token=t&b=2", "http://host/x?a=1&token=[redacted]&b=2"),
            (r#"{"password":"x","b":1}"#, r#"{"password":[redacted],"b":1}"#),
            (r#"{"password": "x", "b": 1}"#, r#"{"password": [redacted] "b": 1}"#),
            ("ghp_0123456789abcdef0123", "[redacted]"),
            ("(eyJhbGciOiJI.eyJzdWIi.c2ln)", "[redacted]"),
            ("a key: value of 12:30", "a key: [redacted] of 12:30"),
            ("nothing secret, e.g. skating", "nothing secret, e.g. skating"),
        ] {
            assert_eq!(redacted_text(text), expected, "{text}");
        }
    }

    /// What is cut off is JSON all the same, and says that it was cut.
    #[test]
    fn cut_contents() {
        assert_eq!(kept(r#"{"a": "some text", "b": 1}"#, 12), r#"{"a":"some …"}"#);
        assert_eq!(kept(r#"{"a": 1, "b": "#, 100), r#"{"a":1,"b":"…"}"#);
        assert_eq!(kept(r#"{"a": "x\u00"#, 100), r#"{"a":"x…"}"#);
        assert_eq!(kept("", 100), "null");
        let deep = "[".repeat(40) + "1" + &"]".repeat(40);
        assert_eq!(kept(&deep, 100), "[".repeat(32) + "\"…\"" + &"]".repeat(32));
    }

    proptest! {
        /// Whatever bytes there are, JSON comes out, and of a secret nothing.
        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}:,\"\\\\a0 \n=&-]{0,80}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                let mut raw = Raw::new(Capture { bytes: 100 }, 0, false);
                raw.push(bytes);
                prop_assert!(serde_json::from_str::<Value>(&redacted(&raw)).is_ok());
            }
        }

        /// However it is cut, a secret stays hidden.
        #[test]
        fn secrets_stay_hidden(limit in 0..80_usize) {
            let text = r#"{"a": [{"password": "hunter2hunter2"}], "t": "Bearer hunter2", "u": "--token hunter2"}"#;
            let text = text.replace("--token hunter2", "--token=hunter2");
            prop_assert!(!kept(&text, limit).contains("hunter"));
        }
    }
}
