//! `${NAME}` in client configurations.

use std::path::PathBuf;

/// What placeholders stand for.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Home folder of the user whose configurations are read.
    pub home: PathBuf,
    /// The folder that the profiler runs in: project configurations are looked for here and above.
    pub directory: PathBuf,
    /// Environment.
    pub variables: std::collections::BTreeMap<String, String>,
}

/// A text of a configuration with its placeholders replaced as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// Literal pieces. Between two neighbours stood a placeholder that is not known.
    pieces: Vec<String>,
    /// Those placeholders, as they stood: one fewer than pieces.
    unknown: Vec<String>,
}

impl Expanded {
    /// A text without placeholders.
    pub fn literal(text: &str) -> Self {
        Self { pieces: vec![text.to_owned()], unknown: Vec::new() }
    }

    /// Replaces `${NAME}`, `${NAME:-default}`, `${env:NAME}`, `${userHome}` and `${workspaceFolder}`, which is the given folder.
    /// Others, like `${input:token}`, stay unknown.
    pub fn parse(text: &str, surroundings: &Surroundings, workspace: &std::path::Path) -> Self {
        let mut expanded = Self { pieces: vec![String::new()], unknown: Vec::new() };
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((inner, following)) = after.split_once('}') else { break };
            expanded.push(before);
            match value(inner, surroundings, workspace) {
                Some(value) => expanded.push(&value),
                None => {
                    expanded.unknown.push(format!("${{{inner}}}"));
                    expanded.pieces.push(String::new());
                }
            }
            rest = following;
        }
        expanded.push(rest);
        expanded
    }

    fn push(&mut self, text: &str) {
        if let Some(last) = self.pieces.last_mut() {
            last.push_str(text);
        }
    }

    /// Placeholders that are not known.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The text, with unknown placeholders as they stood.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (index, piece) in self.pieces.iter().enumerate() {
            text.push_str(piece);
            text.push_str(self.unknown.get(index).map_or("", String::as_str));
        }
        text
    }

    /// True when the text is this one; an unknown placeholder may stand for anything.
    pub fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.pieces.as_slice() else {
            return self.pieces.first().is_some_and(|piece| piece == text);
        };
        let Some(rest) = text.strip_prefix(first.as_str()) else { return false };
        let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
        for piece in middle {
            let Some(start) = rest.find(piece.as_str()) else { return false };
            rest = &rest[start + piece.len()..];
        }
        true
    }
}

fn value(inner: &str, surroundings: &Surroundings, workspace: &std::path::Path) -> Option<String> {
    let variable = |name: &str| surroundings.variables.get(name).cloned();
    match inner {
        "userHome" => return surroundings.home.to_str().map(str::to_owned),
        "workspaceFolder" | "workspaceRoot" => return workspace.to_str().map(str::to_owned),
        "workspaceFolderBasename" => return workspace.file_name()?.to_str().map(str::to_owned),
        "pathSeparator" | "/" => return Some("/".to_owned()),
        _ => {}
    }
    if let Some(name) = inner.strip_prefix("env:") {
        return variable(name);
    }
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return None;
    }
    // As in a shell, `:-` also replaces an empty value.
    variable(name)
        .filter(|value| default.is_none() || !value.is_empty())
        .or_else(|| default.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Expanded {
        let surroundings = Surroundings {
            home: "/home/ann".into(),
            directory: "/srv/project".into(),
            variables: [("KEY".to_owned(), "secret".to_owned()), ("EMPTY".to_owned(), String::new())].into(),
        };
        Expanded::parse(text, &surroundings, "/srv/project".as_ref())
    }

    /// Each form of placeholder.
    #[test]
    fn placeholders_are_replaced() {
        assert_eq!(parse("a-${KEY}-b").text(), "a-secret-b");
        assert_eq!(parse("${NONE:-x}${KEY:-y}${EMPTY:-z}").text(), "xsecretz");
        assert_eq!(parse("${env:KEY}").text(), "secret");
        assert_eq!(parse("${workspaceFolder}/s.js ${userHome}").text(), "/srv/project/s.js /home/ann");
        assert_eq!(parse("$KEY $${x").text(), "$KEY $${x");
    }

    /// What is not known stays as it stood, is named, and matches anything in its place.
    #[test]
    fn unknown_placeholders_match_anything() {
        let expanded = parse("--token=${input:token};${NONE}.");
        assert_eq!(expanded.unknown(), ["${input:token}", "${NONE}"]);
        assert_eq!(expanded.text(), "--token=${input:token};${NONE}.");
        assert!(expanded.matches("--token=abc;def."));
        assert!(!expanded.matches("--token=abc."));
        assert!(!expanded.matches("--port=abc;def."));
        assert!(parse("x").matches("x") && !parse("x").matches("xx"));
        // The pieces before and after may not share letters of the text.
        assert!(!parse("aba${NONE}aba").matches("aba"));
    }

    proptest! {
        /// Any text without a placeholder stays as it is, and any text at all is survived.
        #[test]
        fn any_text_is_survived(text in ".{0,40}") {
            let expanded = parse(&text);
            if !text.contains("${") {
                prop_assert_eq!(expanded.text(), text.clone());
            }
            if expanded.unknown().is_empty() {
                prop_assert!(expanded.matches(&expanded.text()));
            }
        }
    }
}
