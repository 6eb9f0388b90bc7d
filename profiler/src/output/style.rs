//! How text looks: colour, and how wide it may be. Names come from the profiled server, which may be hostile,
//! so no control character of theirs ever reaches a terminal.

use std::borrow::Cow;

/// The narrowest layout that views are made for.
const LEAST_WIDTH: usize = 60;

/// How text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether to write ANSI colours.
    pub colour: bool,
    /// Columns of the terminal; less than 60 is taken as 60.
    pub width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self { colour: false, width: 80 }
    }
}

/// What a piece of text is, and so its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// A heading.
    Heading,
    /// The hottest things.
    Hot,
    /// Less important.
    Dim,
    /// Something to worry about.
    Warning,
    /// Like any other text.
    Plain,
}

impl Style {
    /// Columns to fill.
    pub(crate) fn columns(self) -> usize {
        self.width.max(LEAST_WIDTH)
    }

    /// Fails when a line of plain text is wider than it may be.
    #[cfg(test)]
    pub(crate) fn assert_fits(self, text: &str) {
        if !self.colour {
            let widest = text.lines().max_by_key(|line| columns_of(line)).unwrap();
            assert!(columns_of(widest) <= self.columns(), "too wide: {widest}");
        }
    }

    /// Text in a colour, where colours are wanted.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> Cow<'_, str> {
        let code = match paint {
            Paint::Heading => "1",
            Paint::Hot => "31",
            Paint::Dim => "2",
            Paint::Warning => "33",
            Paint::Plain => return text.into(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }
}

/// Text without characters that move the cursor, hide text or turn its direction. Nothing becomes `[unnamed]`.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.is_empty() {
        return "[unnamed]".into();
    }
    let hostile = |c: char| c.is_control() || is_invisible(c);
    if text.contains(hostile) { text.replace(hostile, "\u{fffd}").into() } else { text.into() }
}

/// Marks of direction, line separators, tags, byte order marks and characters that XML does not know.
fn is_invisible(c: char) -> bool {
    matches!(
        c as u32,
        0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xfffe..=0xffff
        | 0xe0000..=0xe007f
    )
}

/// Columns that text takes in a terminal: 2 for East Asian and pictographic characters, 0 for combining ones.
pub(crate) fn columns_of(text: &str) -> usize {
    text.chars().map(columns_of_char).sum()
}

fn columns_of_char(c: char) -> usize {
    match c as u32 {
        0x0300..=0x036f
        | 0x1ab0..=0x1aff
        | 0x1dc0..=0x1dff
        | 0x20d0..=0x20ff
        | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The longest beginning of a text that fits.
fn beginning(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += columns_of_char(*c);
        used > columns
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// The longest end of a text that fits.
fn end(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let start = text.char_indices().rev().find(|(_, c)| {
        used += columns_of_char(*c);
        used > columns
    });
    start.map_or(text, |(start, c)| &text[start + c.len_utf8()..])
}

/// Text that fits: its end is cut where it is too long.
pub(crate) fn cut_end(text: &str, columns: usize) -> Cow<'_, str> {
    if columns_of(text) <= columns {
        return text.into();
    }
    format!("{}…", beginning(text, columns.saturating_sub(1))).into()
}

/// Text that fits: its middle is cut where it is too long.
pub(crate) fn cut_middle(text: &str, columns: usize) -> Cow<'_, str> {
    if columns_of(text) <= columns {
        return text.into();
    }
    let kept = columns.saturating_sub(1);
    format!("{}…{}", beginning(text, kept - kept / 2), end(text, kept / 2)).into()
}

/// A function's name or a path that fits. First its parameter list goes, then its type arguments, then its beginning:
/// what tells functions apart, and files, is the end.
pub(crate) fn cut_name(name: &str, columns: usize) -> Cow<'_, str> {
    if columns_of(name) <= columns {
        return name.into();
    }
    let short = without_parameters(name);
    if columns_of(&short) <= columns {
        return short;
    }
    let short = without_type_arguments(&short).map_or(short, Cow::Owned);
    if columns_of(&short) <= columns {
        return short.into_owned().into();
    }
    let tail = end(&short, columns.saturating_sub(1));
    // A whole last part reads better than half of one more, unless that costs much of the space.
    let part = tail.char_indices().find(|(_, c)| matches!(c, ':' | '/' | '.')).map_or(0, |(start, _)| start);
    let tail = if part <= columns / 3 { &tail[part..] } else { tail };
    format!("…{tail}").into()
}

/// `a<b>::c<d>` as `a<…>::c<…>`. `None` when there are none, or brackets that are something else (`operator<`).
fn without_type_arguments(name: &str) -> Option<String> {
    let mut short = String::new();
    let mut depth = 0_usize;
    let mut previous = ' ';
    for c in name.chars() {
        match c {
            // The bracket of `<T as Trait>::f` opens no arguments: it follows no name.
            '<' if depth > 0 || previous.is_alphanumeric() || "_:".contains(previous) => depth += 1,
            '>' if depth > 0 && previous != '-' => {
                depth -= 1;
                if depth == 0 {
                    short.push_str("<…>");
                }
            }
            _ if depth == 0 => short.push(c),
            _ => {}
        }
        previous = c;
    }
    (depth == 0 && short.len() < name.len()).then_some(short)
}

/// `f(int, char)` as `f(…)`.
fn without_parameters(name: &str) -> Cow<'_, str> {
    let Some(open) = last_parameter_list(name) else { return name.into() };
    format!("{}(…)", &name[..open]).into()
}

/// Where the parentheses open that close at the end of a name, before any qualifier such as `const`.
fn last_parameter_list(name: &str) -> Option<usize> {
    let close = name.rfind(')')?;
    if !matches!(name[close + 1..].trim(), "" | "const" | "&" | "&&") {
        return None;
    }
    let mut depth = 0_usize;
    for (index, c) in name[..=close].char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (index > 0 && close - index > 1).then_some(index);
        }
    }
    None
}

/// Text in lines that fit, broken at spaces. A word that does not fit is cut.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word = cut_middle(word, columns);
        match lines.last_mut().filter(|line| columns_of(line) + 1 + columns_of(&word) <= columns) {
            Some(line) => line.extend([" ", &word]),
            None => lines.push(word.into_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Type arguments are left out as a whole; other angle brackets stay.
    #[test]
    fn type_arguments() {
        let short = |name| without_type_arguments(name).unwrap_or_else(|| name.to_owned());
        assert_eq!(short("a::b<c<d>, e>::f<g>"), "a::b<…>::f<…>");
        assert_eq!(short("<Vec<T> as Trait>::f::<fn() -> u8>"), "<Vec<…> as Trait>::f::<…>");
        assert_eq!(short("operator<(a, b)"), "operator<(a, b)");
        assert_eq!(short("operator->(a)"), "operator->(a)");
    }

    /// Names of several languages keep what tells them apart.
    #[test]
    fn names_keep_their_end() {
        let cut = |name: &str| cut_name(name, 40).into_owned();
        assert_eq!(cut("short"), "short");
        assert_eq!(
            cut("v8::internal::Runtime_GetProperty(int, unsigned long*, v8::internal::Isolate*)"),
            "v8::internal::Runtime_GetProperty(…)"
        );
        assert_eq!(
            cut("core::iter::traits::iterator::Iterator::for_each::call"),
            "…::iterator::Iterator::for_each::call"
        );
        assert_eq!(
            cut("github.com/modelcontextprotocol/go-sdk/mcp.(*Server).handleCall"),
            "…/go-sdk/mcp.(*Server).handleCall"
        );
        assert_eq!(
            cut("/usr/lib/node_modules/server/dist/tools/filesystem.js"),
            "…/server/dist/tools/filesystem.js"
        );
        assert_eq!(cut(&"x".repeat(60)), format!("…{}", "x".repeat(39)));
    }

    /// Wide and combining characters are measured as a terminal draws them.
    #[test]
    fn columns() {
        assert_eq!(columns_of("日本語"), 6);
        assert_eq!(columns_of("e\u{301}"), 1);
        assert_eq!(cut_end("日本語", 5), "日本…");
        assert_eq!(cut_middle("abcdefgh", 5), "ab…gh");
    }

    /// Escape sequences and marks of direction do not reach the terminal.
    #[test]
    fn hostile_names() {
        assert_eq!(printable("a\x1b[2Jb\n\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(printable(""), "[unnamed]");
        assert_eq!(printable("plain"), "plain");
    }

    proptest! {
        /// Whatever is cut fits.
        #[test]
        fn what_is_cut_fits(text in ".{0,80}", columns in 1..60_usize) {
            prop_assert!(columns_of(&cut_end(&text, columns)) <= columns);
            prop_assert!(columns_of(&cut_middle(&text, columns)) <= columns);
            prop_assert!(columns_of(&cut_name(&text, columns)) <= columns);
        }

        /// Wrapped lines fit, and no short word is lost.
        #[test]
        fn wrapped_lines_fit(text in "[a-z ]{0,120}", columns in 10..60_usize) {
            let lines = wrap(&text, columns);
            prop_assert!(lines.iter().all(|line| columns_of(line) <= columns));
            if text.split(' ').all(|word| word.len() <= columns) {
                prop_assert_eq!(lines.join(" "), text);
            }
        }

        /// Parentheses that do not match are harmless.
        #[test]
        fn parentheses(text in "[a()<>:é]{0,30}") {
            without_parameters(&text);
        }
    }
}
