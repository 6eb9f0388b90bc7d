//! How the stacks of a process are made, in words: what is true of its runtime unless something better is found out. Java and
//! .NET speak for themselves in [`asking`](super::asking).

use crate::recording::{Runtime, Unwinding};
use crate::unwind::v8::V8;

/// What holds for any process of a runtime.
pub(super) fn of_runtime(runtime: &Runtime) -> Unwinding {
    let (language, advice) = match runtime.name.as_str() {
        "ruby" => interpreted("Ruby"),
        "php" => interpreted("PHP"),
        // Says better itself once its frames are found.
        "python" => interpreted("Python"),
        // Until its V8 was looked at: see `of_v8`.
        "node" => compiled("JavaScript", NODE_PERF_MAP),
        "deno" => compiled(
            "JavaScript",
            "start Deno with --v8-flags=--perf-basic-prof,--interpreted-frames-native-stack to have its functions named",
        ),
        "bun" => (Some("JavaScript functions are not named: Bun writes no perf map".to_owned()), None),
        _ => (None, None),
    };
    let native = "by unwind information, code without it by frame pointers".to_owned();
    Unwinding { native, language, advice }
}

/// What holds for a process of a runtime whose perf map named some of its code; `None` where more is known otherwise.
pub(super) fn of_perf_map(runtime: &str) -> Option<String> {
    let language = match runtime {
        "deno" | "bun" => "JavaScript code",
        "native" | "rust" | "go" => "code made while it runs",
        _ => return None,
    };
    Some(format!("{language} by frame pointers, named by its perf map"))
}

const NODE_PERF_MAP: &str =
    "start Node with --perf-basic-prof and --interpreted-frames-native-stack to have its functions named";

/// What holds for a process that runs a V8 with symbols for debuggers.
pub(super) fn of_v8(v8: &V8) -> (String, Option<String>) {
    let [major, minor, build] = v8.version;
    let version = format!("V8 {major}.{minor}.{build}");
    if v8.layout.is_none() {
        let text = format!("JavaScript functions are not read: {version} has a layout that is not known");
        return (text, Some(NODE_PERF_MAP.to_owned()));
    }
    if v8.builtins.is_empty() {
        let text = format!("interpreted JavaScript functions are not shown: {version} has no symbol table");
        return (text, Some("use a Node that was not stripped, as nodejs.org and npm have it".to_owned()));
    }
    (format!("JavaScript functions by the frames of {version}, read while the process runs"), None)
}

fn interpreted(language: &str) -> (Option<String>, Option<String>) {
    let text = format!("{language} functions are not shown: these are the stacks of their interpreter");
    (Some(text), None)
}

fn compiled(language: &str, advice: &str) -> (Option<String>, Option<String>) {
    let text = format!("{language} code by frame pointers, named only if a perf map is there");
    (Some(text), Some(advice.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not shown is said, and nothing of languages that are machine code.
    #[test]
    fn runtimes_are_marked() {
        let of = |name: &str| of_runtime(&Runtime { name: name.to_owned(), version: None });
        assert!(of("ruby").language.unwrap().starts_with("Ruby functions are not shown"));
        assert!(of("php").language.unwrap().starts_with("PHP functions are not shown"));
        assert!(of("bun").language.unwrap().contains("not named"));
        assert!(of("deno").advice.unwrap().contains("--perf-basic-prof"));
        assert_eq!((of("rust").language, of("").advice), (None, None));
    }
}
