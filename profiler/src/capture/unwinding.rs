//! How the stacks of a process are made, in words: what is true of its runtime unless something better is found out. Java and
//! .NET speak for themselves in [`asking`](super::asking).

use crate::recording::{Runtime, Unwinding};

/// What holds for any process of a runtime.
pub(super) fn of_runtime(runtime: &Runtime) -> Unwinding {
    let (language, advice) = match runtime.name.as_str() {
        "ruby" => interpreted("Ruby"),
        "php" => interpreted("PHP"),
        "python" => interpreted("Python"),
        "node" => compiled(
            "JavaScript",
            "start Node with --perf-basic-prof and --interpreted-frames-native-stack to have its functions named",
        ),
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
