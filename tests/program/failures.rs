//! Bad input: one line that helps, the right exit code, nothing left behind.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tests::{Process, Profiler, SmallDisk, Workload, program, require, wait_until};

/// A short recording of a busy process.
fn recorded(profiler: &Profiler) -> Result<Process> {
    let target = Workload::compile("spin")?.start()?;
    let pid = target.pid().to_string();
    profiler.succeed(&["record", "--pid", &pid, "--duration", "1s", "-o", "good.mcpprof"])?;
    Ok(target)
}

/// What is not there is named.
#[test]
fn unknown_targets_and_files() -> Result<()> {
    let profiler = Profiler::new()?;
    std::fs::write(profiler.path("client.json"), r#"{"mcpServers": {"known": {"command": "true"}}}"#)?;
    // The largest process ID that Linux gives is 4194304.
    let cases: [(&[&str], &str); 8] = [
        (&["record", "--pid", "4194305", "-o", "x.mcpprof"], "4194305"),
        (&["record", "--mcp", "no-such", "--config", "client.json", "-o", "x.mcpprof"], "no-such"),
        (&["record", "--mcp", "known", "--config", "missing.json", "-o", "x.mcpprof"], "missing.json"),
        (&["record", "-o", "x.mcpprof", "--", "/no/such/program"], "/no/such/program"),
        (&["report", "missing.mcpprof"], "missing.mcpprof"),
        (&["call-tree", "missing.mcpprof"], "missing.mcpprof"),
        (&["flame-graph", "missing.mcpprof", "--output", "x.svg"], "missing.mcpprof"),
        (&["export", "missing.mcpprof", "--format", "folded", "--output", "x"], "missing.mcpprof"),
    ];
    for (arguments, name) in cases {
        profiler.run(arguments)?.assert_fails(1, &[name]);
        let left: Vec<_> =
            std::fs::read_dir(profiler.folder())?.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["client.json"], "files left by {arguments:?}");
    }
    Ok(())
}

/// Options without a meaning are wrong usage.
#[test]
fn absurd_options() -> Result<()> {
    let profiler = Profiler::new()?;
    let cases: [&[&str]; 8] = [
        &["--frequency", "0"],
        &["--frequency", "1000000000"],
        &["--frequency", "-1"],
        &["--frequency", "many"],
        &["--duration", "0s"],
        &["--duration", "soon"],
        &["--duration", "99999999999999y"],
        &["--pid", "0"],
    ];
    for options in cases {
        let target: &[&str] = if options[0] == "--pid" { &[] } else { &["--pid", "1"] };
        let arguments = [&["record", "-o", "x.mcpprof"], target, options].concat();
        profiler.run(&arguments)?.assert_fails(2, &[options[0].trim_start_matches('-')]);
        assert!(!profiler.path("x.mcpprof").exists(), "{options:?}");
    }
    profiler.run(&["record", "-o", "x.mcpprof"])?.assert_fails(2, &["--pid"]);
    // A name where an ID belongs: it is told where names belong.
    profiler.run(&["record", "--pid", "server"])?.assert_fails(2, &["--mcp", "list"]);
    Ok(())
}

/// Files that are no recording, or not whole.
#[test]
fn corrupt_recordings() -> Result<()> {
    let profiler = Profiler::new()?;
    let _target = recorded(&profiler)?;
    let good = std::fs::read(profiler.path("good.mcpprof"))?;
    let mut scribbled = good.clone();
    scribbled.iter_mut().skip(100).step_by(7).for_each(|byte| *byte ^= 0x5a);
    let cases: [(&str, &[u8]); 5] = [
        ("empty.mcpprof", b""),
        ("text.mcpprof", b"this is not a recording\n"),
        ("header.mcpprof", &good[..100]),
        ("half.mcpprof", &good[..good.len() / 2]),
        ("scribbled.mcpprof", &scribbled),
    ];
    for (name, bytes) in cases {
        std::fs::write(profiler.path(name), bytes)?;
        profiler.run(&["report", name])?.assert_fails(1, &[name]);
        profiler.run(&["export", name, "--format", "pprof", "--output", "x.pb.gz"])?.assert_fails(1, &[name]);
        assert!(!profiler.path("x.pb.gz").exists(), "{name}");
        assert_eq!(std::fs::read(profiler.path(name))?, bytes, "reading {name} changed it");
    }
    // What to do about a part of a file.
    profiler.run(&["report", "half.mcpprof"])?.assert_fails(1, &["copy it again", "record again"]);
    let calls = [&["calls"][..], &["diagnose", "errors"], &["diagnose", "slow-response"]];
    for view in calls {
        let outcome = profiler.succeed(&[view, &["good.mcpprof"]].concat())?;
        assert!(outcome.stdout.starts_with("Calls: none seen"), "{outcome:#?}");
    }
    Ok(())
}

/// A recording of a later version is not misread.
#[test]
fn newer_recording() -> Result<()> {
    let profiler = Profiler::new()?;
    let _target = recorded(&profiler)?;
    // The file format of SQLite has `user_version` at offset 60, big-endian.
    let file = std::fs::File::options().write(true).open(profiler.path("good.mcpprof"))?;
    file.write_all_at(&9999_u32.to_be_bytes(), 60)?;
    profiler.run(&["report", "good.mcpprof"])?.assert_fails(1, &["good.mcpprof", "newer"]);
    Ok(())
}

/// Another program's SQLite file is no recording.
#[test]
fn foreign_database() -> Result<()> {
    let profiler = Profiler::new()?;
    let script = "import sqlite3; d = sqlite3.connect('foreign.mcpprof'); d.execute('create table meta(a)'); d.commit()";
    let status = Command::new(require("python3", "python3")?)
        .args(["-c", script])
        .current_dir(profiler.folder())
        .status()?;
    assert!(status.success());
    profiler.run(&["report", "foreign.mcpprof"])?.assert_fails(1, &["foreign.mcpprof"]);
    Ok(())
}

/// Results that cannot be written where the user said.
#[test]
fn unwritable_output() -> Result<()> {
    let profiler = Profiler::new()?;
    let target = recorded(&profiler)?;
    let pid = target.pid().to_string();
    std::fs::create_dir(profiler.path("folder"))?;
    for output in ["/proc/recording.mcpprof", "missing/folder/recording.mcpprof", "folder"] {
        let name = Path::new(output).file_name().expect("has a name").to_str().expect("is UTF-8");
        profiler.run(&["record", "--pid", &pid, "--duration", "1s", "-o", output])?.assert_fails(1, &[name]);
        profiler.run(&["flame-graph", "good.mcpprof", "--output", output])?.assert_fails(1, &[name]);
        let export = ["export", "good.mcpprof", "--format", "folded", "--output", output];
        profiler.run(&export)?.assert_fails(1, &[name]);
    }
    Ok(())
}

/// A recording is not silently replaced by another file's contents: what is no recording stays.
#[test]
fn foreign_output_file_is_kept() -> Result<()> {
    let profiler = Profiler::new()?;
    let target = Workload::compile("spin")?.start()?;
    std::fs::write(profiler.path("notes.txt"), "precious")?;
    let pid = target.pid().to_string();
    profiler
        .run(&["record", "--pid", &pid, "--duration", "1s", "-o", "notes.txt"])?
        .assert_fails(1, &["notes.txt"]);
    assert_eq!(std::fs::read_to_string(profiler.path("notes.txt"))?, "precious");
    Ok(())
}

/// A command that can't be run costs nothing: neither an older recording nor a new, empty one is touched.
#[test]
fn a_command_that_cannot_be_run() -> Result<()> {
    let profiler = Profiler::new()?;
    let _target = recorded(&profiler)?;
    let good = std::fs::read(profiler.path("good.mcpprof"))?;
    std::fs::write(profiler.path("text"), "not a program")?;
    for (program, word) in [("./text", "permission"), ("./missing", "no such"), ("no-such-program", "PATH")] {
        profiler.run(&["record", "-o", "good.mcpprof", "--", program])?.assert_fails(1, &[program, word]);
        assert_eq!(std::fs::read(profiler.path("good.mcpprof"))?, good, "{program}");
        profiler.run(&["start", "-o", "new.mcpprof", "--", program])?.assert_fails(1, &[program, word]);
        assert!(!profiler.path("new.mcpprof").exists(), "{program}");
    }
    Ok(())
}

/// A disk that gets full while recording.
#[test]
fn full_disk() -> Result<()> {
    let profiler = Profiler::new()?;
    let small = SmallDisk::mount(&profiler.path("small"))?;
    let target = Workload::compile("churn")?.start()?;
    let (pid, output) = (target.pid().to_string(), small.path().join("recording.mcpprof"));
    let output = output.to_str().expect("is UTF-8");
    let arguments = ["record", "--pid", &pid, "--frequency", "999", "--duration", "10m", "-o", output];
    let running = profiler.start(&arguments)?;
    let works = ["thread_work", "process_work"];
    wait_until("the recording has samples and names", Duration::from_secs(60), || {
        let report = profiler.report(output).ok()?;
        works.iter().any(|work| report.function(work).is_ok()).then_some(())
    })?;
    // Whatever the machine's speed, the rest of the disk goes now.
    let mut rest = std::fs::File::create(small.path().join("rest"))?;
    while rest.write_all(&[0; 4096]).is_ok() {}
    let outcome = running.finish()?;
    outcome.assert_clean();
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    // Besides what every recording says at its start.
    let errors: Vec<&str> = outcome.stderr.lines().filter(|line| !line.starts_with("recording ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("disk is full"), "{outcome:#?}");
    let report = profiler.report(output)?;
    assert!(report.samples() > 0, "what was recorded before is lost");
    report.assert_names_any(&works);
    Ok(())
}

/// Without root the user learns what to do.
#[test]
fn without_permission() -> Result<()> {
    let profiler = Profiler::new()?;
    let target = Workload::compile("spin")?.start()?;
    // The folder of the build may be closed to others.
    let copy = profiler.path("mcp-profiler");
    std::fs::copy(program()?, &copy)?;
    std::fs::set_permissions(profiler.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let output = Command::new(require("setpriv", "util-linux")?)
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .args(["record", "--pid", &target.pid().to_string(), "--duration", "1s", "-o", "x.mcpprof"])
        .current_dir(profiler.folder())
        .output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("sudo") || message.contains("CAP_"), "{message}");
    assert!(!profiler.path("x.mcpprof").exists());
    Ok(())
}
