//! Files that lie, in a process that runs code from them: bounded work, no panic, all that is missing counted, and the rest as it is.

use std::fs::File;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tests::{Process, Profiler, Report, Workload, wait_until};

/// Most resident memory of the unoptimized profiler, which reads its own debug information.
const MOST_KIB: u64 = 256 << 10;
/// Longer than any file or memory.
const ENDLESS_BYTES: u64 = 1 << 40;

/// What is wrong with a copy of a good program, by what it is.
fn damaged(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        bytes
    };
    let number = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().expect("eight bytes"));
    // Of the header in elf(5): where the section headers are, of 64 bytes each, and how many.
    let (sections, count) = (number(0x28) as usize, usize::from(good[0x3c]));
    let sections_at = |offset: u64, size: u64| {
        changed(&|bytes| {
            for header in bytes[sections..].chunks_exact_mut(64).take(count) {
                header[24..32].copy_from_slice(&offset.to_le_bytes());
                header[32..40].copy_from_slice(&size.to_le_bytes());
            }
        })
    };
    vec![
        ("truncated", good[..0x1800].to_vec()),
        ("no_elf", vec![0; 0x3000]),
        ("magic_only", [b"\x7fELF".as_slice(), &[0xff; 0x3000]].concat()),
        ("sections_behind_the_end", changed(&|bytes| bytes[0x28..0x30].fill(0xff))),
        ("many_sections", changed(&|bytes| bytes[0x3c..0x3e].fill(0xff))),
        // Program headers that describe themselves.
        ("cyclic", changed(&|bytes| bytes[0x20..0x28].fill(0))),
        ("huge_sections", sections_at(0, ENDLESS_BYTES)),
        ("overlapping_sections", sections_at(0x40, good.len() as u64 - 0x40)),
        ("scribbled", changed(&|bytes| bytes[0x40..].iter_mut().step_by(97).for_each(|byte| *byte ^= 0x5a))),
        ("huge", good.to_vec()),
    ]
}

/// Each kind of damage in a file of its own, which the process runs code from: the process's own functions are whole, and what is
/// missing of the others has a cause.
#[test]
fn mapped_files() -> Result<()> {
    let workload = Workload::compile("files")?;
    let folder = tempfile::tempdir()?;
    let mut command = workload.command();
    let files = damaged(&std::fs::read(workload.program())?);
    for (name, bytes) in &files {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes)?;
        if *name == "huge" {
            File::options().write(true).open(&path)?.set_len(ENDLESS_BYTES)?;
        }
        command.arg(path);
    }
    let process = Process::start(&mut command)?.ready()?;
    let profiler = Profiler::new()?;
    let running = profiler.recording(process.pid(), 999)?;
    let of_file = |report: &Report, name: &str| {
        report.functions().iter().any(|function| function.module.ends_with(&format!("/{name}")))
    };
    wait_until("samples in each file", Duration::from_secs(90), || {
        let report = profiler.report("recording.mcpprof").ok()?;
        (report.function("main").is_ok() && files.iter().all(|(name, _)| of_file(&report, name)))
            .then_some(())
    })?;
    let peak_kib = running.peak_kib()?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    outcome.assert_clean();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(peak_kib < MOST_KIB, "{peak_kib} KiB");
    let report = profiler.report("recording.mcpprof")?;
    let stacks = &report.json["stacks"];
    let incomplete = stacks["incomplete"].as_object().context("stacks.incomplete")?;
    let told: u64 = incomplete.values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(stacks["complete"].as_u64().unwrap_or(0) + told, report.samples(), "{stacks:#}");
    for (stack, weight) in profiler.folded("recording.mcpprof")? {
        let user: Vec<&str> = stack.split(';').skip(2).filter(|frame| !frame.ends_with("_[k]")).collect();
        if user.ends_with(&["main"]) {
            assert_eq!(user[0], "_start", "{weight} samples of {stack}");
        }
    }
    profiler.succeed(&["report", "recording.mcpprof"])?;
    Ok(())
}

/// A perf map that is no file, somebody else's, without end or nonsense names nothing, and holds nobody up.
#[test]
fn perf_maps() -> Result<()> {
    let workload = Workload::compile("perf_map")?;
    let folder = tempfile::tempdir()?;
    let everything = "0 7fffffffffff evil\n";
    std::fs::write(folder.path().join("other"), everything)?;
    let random = std::iter::successors(Some(1_u64), |last| {
        Some(last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    });
    let nonsense: Vec<u8> = random.map(|number| (number >> 33) as u8).take(3 << 20).collect();
    type Make<'own> = &'own dyn Fn(&Path) -> Result<()>;
    let kinds: [(&str, Make<'_>); 6] = [
        ("a pipe that nobody writes to", &|path| Ok(mkfifo(path, Mode::S_IRWXU)?)),
        ("a device without end", &|path| Ok(symlink("/dev/zero", path)?)),
        ("a link to the file of another", &|path| Ok(symlink(folder.path().join("other"), path)?)),
        ("another user's", &|path| {
            std::fs::write(path, everything)?;
            Ok(chown(path, Some(65534), None)?)
        }),
        ("one line without end", &|path| Ok(File::create(path)?.set_len(ENDLESS_BYTES)?)),
        ("nonsense", &|path| Ok(std::fs::write(path, &nonsense)?)),
    ];
    for (kind, make) in kinds {
        let process = workload.start()?.ready()?;
        let map = PathBuf::from(format!("/tmp/perf-{}.map", process.pid()));
        std::fs::remove_file(&map)?;
        let made = make(&map);
        let profiler = Profiler::new()?;
        let report = profiler.record_enough(1, 499, &["--pid", &process.pid().to_string()], 20);
        std::fs::remove_file(&map)?;
        made?;
        let functions = report.context(kind)?.functions();
        let is_named =
            |function: &tests::Function| function.module == "[jit]" && !function.name.contains("+0x");
        assert!(
            functions.iter().any(|function| function.name.starts_with("[jit]+0x")),
            "{kind}: {functions:?}"
        );
        assert!(!functions.iter().any(is_named), "{kind}: {functions:?}");
    }
    Ok(())
}
