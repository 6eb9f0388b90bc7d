//! Java servers: asked for the names of their methods while they run, and never harmed.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tests::{Process, Profiler, Report, Workload, assert_share, require, tolerance};

const FREQUENCY: u32 = 999;

/// A recursion has its depth, its leaves their shares, and nothing is left behind.
#[test]
fn methods_have_their_depth_and_shares() -> Result<()> {
    let mut java = Java::start(&["-XX:+PreserveFramePointer"])?;
    let (report, stacks) = java.record(10, &[])?;
    report.assert_complete(0.995);
    let leaves =
        [("Split.three()_[j]", 3.0 / 6.0), ("Split.two()_[j]", 2.0 / 6.0), ("Split.one()_[j]", 1.0 / 6.0)];
    let (mut weights, mut total) = ([0; 3], 0);
    for (frames, weight) in &stacks {
        let Some(leaf) = leaves.iter().position(|(name, _)| frames.iter().any(|frame| frame == name)) else {
            continue;
        };
        let depth = frames.iter().filter(|frame| *frame == "Split.recurse(int)_[j]").count();
        // A sample in the first or last two instructions of a method, which has no frame then, lacks its caller.
        assert!((20..=21).contains(&depth), "{frames:?}");
        assert!(frames.iter().any(|frame| frame == "JavaMain"), "{frames:?}");
        weights[leaf] += weight;
        total += weight;
    }
    let samples = of_program(&stacks);
    assert!(total * 100 > samples * 97, "{total} of {samples} samples are in the leaves: {stacks:?}");
    for ((name, expected), weight) in leaves.into_iter().zip(weights) {
        let share = weight as f64 / total as f64;
        assert_share(name, share, expected, total as f64);
    }
    let unwinding = &report.json["target"]["unwinding"];
    let language = unwinding["language"].as_str().context("target.unwinding.language")?;
    assert!(language.contains("by frame pointers; methods named by the runtime"), "{unwinding}");
    assert_eq!(unwinding.get("advice"), None, "{unwinding}");
    java.assert_unharmed()
}

/// Without frame pointers in its code no caller is guessed, and the report says what to do.
#[test]
fn without_frame_pointers_nothing_is_guessed() -> Result<()> {
    let mut java = Java::start(&["-XX:-PreserveFramePointer"])?;
    let (report, stacks) = java.record(4, &[])?;
    let mut methods = 0;
    for (frames, weight) in &stacks {
        if let Some(at) = frames.iter().position(|frame| frame.starts_with("Split.")) {
            // Below the names of process and thread.
            assert_eq!(at, 2, "{frames:?}");
            methods += weight;
        }
    }
    let samples = of_program(&stacks);
    assert!(methods * 100 > samples * 95, "{methods} of {samples} samples: {stacks:?}");
    let unwinding = &report.json["target"]["unwinding"];
    assert!(
        unwinding["advice"].as_str().is_some_and(|text| text.contains("-XX:+PreserveFramePointer")),
        "{unwinding}"
    );
    let complete = report.json["stacks"]["complete"].as_u64().context("stacks.complete")?;
    assert!(complete + samples * 9 / 10 < report.samples(), "{complete} of {}", report.samples());
    java.assert_unharmed()
}

/// A machine that would end or print its threads when it gets SIGQUIT gets none, nor does one that is only to be watched.
#[test]
fn machines_that_do_not_attach_are_left_alone() -> Result<()> {
    let cases: [(&[&str], &[&str], &str); 2] = [
        (&["-XX:+DisableAttachMechanism", "-XX:+PreserveFramePointer"], &[], "DisableAttachMechanism"),
        (&["-XX:+PreserveFramePointer"], &["--passive"], "--passive"),
    ];
    for (options, arguments, reason) in cases {
        let mut java = Java::start(options)?;
        let (report, stacks) = java.record(4, arguments)?;
        assert!(!stacks.iter().any(|(frames, _)| frames.iter().any(|frame| frame.starts_with("Split."))));
        let unwinding = &report.json["target"]["unwinding"];
        assert!(unwinding["language"].as_str().is_some_and(|text| text.contains(reason)), "{unwinding}");
        assert!(!java.socket().exists());
        java.assert_unharmed()?;
    }
    Ok(())
}

/// With -Xrs SIGQUIT would end the machine: it is asked without one, where it listens anyway.
#[test]
fn machine_without_signals_lives_on() -> Result<()> {
    let mut java = Java::start(&["-Xrs", "-XX:+PreserveFramePointer"])?;
    assert!(java.socket().exists(), "with -Xrs it listens from its start");
    let (report, _) = java.record(4, &[])?;
    report.function("Split.work(long)")?;
    java.assert_unharmed()
}

/// A machine of another user in other PID and mount namespaces, with a /tmp of its own.
#[test]
fn another_user_in_a_container() -> Result<()> {
    let workload = Workload::compile_java("Split")?;
    let hidden = tempfile::tempdir_in("/var/tmp")?;
    let script = r#"cp -r "$1"/. "$2" && chmod 755 "$2" && mount -t tmpfs none /tmp && shift 2 &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@""#;
    let mut words = workload.java(&["-XX:+PreserveFramePointer"])?;
    let path = words.iter().position(|word| word == "-cp").context("a class path")?;
    words[path + 1] = hidden.path().display().to_string();
    let process = Process::start(
        Command::new(require("unshare", "util-linux")?)
            .args(["--pid", "--fork", "--mount-proc", "--mount", "sh", "-c", script, "sh"])
            .arg(workload.path(""))
            .arg(hidden.path())
            .args(&words)
            .current_dir("/")
            .stdout(Stdio::piped()),
    )?
    .ready()?;
    let pid = *process.children()?.first().context("unshare has a child")?;
    let report = Profiler::new()?.record_and_report(3, FREQUENCY, &["--pid", &pid.to_string()])?;
    report.assert_complete(0.99);
    let three = report.function("Split.three()")?;
    // The machine's own threads, and what ran before the names were asked for, take a part.
    let tolerance = tolerance(0.5, report.samples() as f64).max(0.1);
    assert!((three.total_ratio - 0.5).abs() < tolerance, "{three:?}");
    let left: Vec<_> =
        std::fs::read_dir(format!("/proc/{pid}/root/tmp"))?.flatten().map(|file| file.file_name()).collect();
    assert!(left.iter().all(|name| name == "hsperfdata_nobody" || name == ".java_pid1"), "{left:?}");
    Ok(())
}

type Stacks = Vec<(Vec<String>, u64)>;

/// A machine in a user namespace, in which the host's root is nobody.
#[test]
fn another_user_namespace() -> Result<()> {
    let workload = Workload::compile_java("Split")?;
    let process = Process::start(
        Command::new(require("setpriv", "util-linux")?)
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "unshare",
                "--user",
                "--map-root-user",
            ])
            .args(workload.java(&["-XX:+PreserveFramePointer"])?)
            .current_dir("/")
            .stdout(Stdio::piped()),
    )?
    .ready()?;
    let pid = process.pid();
    let report = Profiler::new()?.record_and_report(3, FREQUENCY, &["--pid", &pid.to_string()])?;
    let three = report.function("Split.three()")?;
    // The machine's own threads, and what ran before the names were asked for, take a part.
    let tolerance = tolerance(0.5, report.samples() as f64).max(0.1);
    assert!((three.total_ratio - 0.5).abs() < tolerance, "{three:?}");
    assert!(!Path::new("/tmp").join(format!(".attach_pid{pid}")).exists());
    let _ = std::fs::remove_file(Path::new("/tmp").join(format!(".java_pid{pid}")));
    Ok(())
}

/// Samples of the program's own thread: the machine's others compile and collect, and answer the profiler.
fn of_program(stacks: &Stacks) -> u64 {
    stacks.iter().filter(|(frames, _)| frames[1] == "java").map(|(_, weight)| weight).sum()
}

/// A running Java server.
struct Java {
    process: Process,
    output: std::process::ChildStdout,
    _workload: Workload,
}

impl Java {
    /// Starts it, until it says that it is ready.
    fn start(options: &[&str]) -> Result<Self> {
        let workload = Workload::compile_java("Split")?;
        let words = workload.java(options)?;
        let mut process = Process::start(Command::new(&words[0]).args(&words[1..]).stdout(Stdio::piped()))?;
        let mut output = process.child().stdout.take().context("stdout is a pipe")?;
        let mut ready = [0; 6];
        output.read_exact(&mut ready)?;
        assert_eq!(&ready, b"ready\n");
        Ok(Self { process, output, _workload: workload })
    }

    /// The report, and each stack from the outermost frame on with its weight.
    fn record(&self, seconds: u32, arguments: &[&str]) -> Result<(Report, Stacks)> {
        let profiler = Profiler::new()?;
        let pid = self.process.pid().to_string();
        let target = [arguments, &["--pid", &pid]].concat();
        let report = profiler.record_enough(seconds, FREQUENCY, &target, 300)?;
        assert_eq!(report.lost(), 0);
        let stacks = profiler.folded("recording.mcpprof")?;
        let split = |stack: &str| stack.split(';').map(str::to_owned).collect();
        Ok((report, stacks.iter().map(|(stack, weight)| (split(stack), *weight)).collect()))
    }

    fn socket(&self) -> std::path::PathBuf {
        Path::new("/tmp").join(format!(".java_pid{}", self.process.pid()))
    }

    /// It runs on, has printed nothing, and its folder is as it was but for its own socket.
    fn assert_unharmed(&mut self) -> Result<()> {
        assert!(self.process.runs());
        let pid = self.process.pid();
        for name in [format!(".attach_pid{pid}"), format!("perf-{pid}.map")] {
            assert!(!Path::new("/tmp").join(&name).exists(), "{name} is left");
        }
        self.process.signal(Signal::SIGKILL)?;
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        assert_eq!(rest, "", "it printed something");
        let _ = std::fs::remove_file(self.socket());
        Ok(())
    }
}
