//! `cargo xtask kernels`: boots Debian's kernels in qemu, and has the profiler record a C and a Python program on each.

mod download;
mod guest;
mod image;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::command::{find_in_path, workspace};
use crate::{packages, test};
use guest::{Accelerator, Run, Section, last_lines};

/// What to do on a kernel.
#[derive(Clone, Copy, PartialEq)]
enum Expectation {
    /// Say which kernel is needed.
    Refuse,
    /// Load every program and give whole stacks.
    Record,
}

/// Debian's suites have one version of Linux each; `newest` is what its developers work on.
const KERNELS: [(&str, &str, Expectation); 4] = [
    ("5.10", "bullseye", Expectation::Refuse),
    ("6.1", "bookworm", Expectation::Record),
    ("6.12", "trixie", Expectation::Record),
    ("newest", "sid", Expectation::Record),
];

/// How often `recursion.c` and `recursion.py` call themselves, and the first frame again.
const RECURSION_OF_C: usize = 31;
const RECURSION_OF_PYTHON: usize = 21;
/// Of all samples.
const COMPLETE_RATIO: f64 = 0.95;
/// Far fewer than there are, and too many to be there by chance.
const SAMPLES_OF_EACH: u64 = 20;

/// Programs that this task starts, and the packages that they are in.
const TOOLS: [(&str, &str); 5] = [
    ("busybox", "busybox"),
    ("cc", "gcc"),
    ("python3", "python3-minimal"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("strip", "binutils"),
];

/// Options of `cargo xtask kernels`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Versions: 5.10, 6.1, 6.12, newest [default: all]
    #[arg(value_name = "VERSION", value_parser = KERNELS.map(|(version, ..)| version))]
    versions: Vec<String>,
    /// Let the CPU execute the guest. Faster, but in a virtual machine it may not work
    #[arg(long)]
    kvm: bool,
    /// Seconds that one guest may take
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

/// Boots each kernel and checks what the profiler did; fails if one of them is not as it should be.
pub(crate) fn kernels(options: &Options) -> Result<()> {
    let missing = TOOLS.iter().filter(|(program, _)| find_in_path(program).is_none());
    packages::install(&missing.map(|(_, package)| *package).collect::<Vec<_>>())?;
    let folder = workspace().join("target/kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let archive = folder.join("guest.cpio");
    fs::write(&archive, guest::image(&test::build_profiler(false)?)?)?;
    let accelerator = if options.kvm { Accelerator::Kvm } else { Accelerator::Emulation };
    eprintln!("Guests are {}.", if options.kvm { "run with KVM" } else { "emulated (no KVM)" });

    let mut failed = Vec::new();
    let all = options.versions.is_empty();
    for (version, suite, expectation) in KERNELS {
        if !all && !options.versions.iter().any(|wanted| wanted == version) {
            continue;
        }
        let folder = folder.join(version);
        fs::create_dir_all(&folder)?;
        let log = folder.join("console.log");
        let outcome = download::kernel(suite, &folder).and_then(|kernel| {
            let run = guest::boot(&kernel, &archive, &log, accelerator, Duration::from_secs(options.limit))?;
            check(&run, expectation).with_context(|| format!("see {}", log.display()))
        });
        match outcome {
            Ok(summary) => println!("{version}: {summary}"),
            Err(error) => {
                println!("{version}: FAILED: {error:#}");
                failed.push(version);
            }
        }
    }
    ensure!(failed.is_empty(), "not as it should be: Linux {}", failed.join(", "));
    Ok(())
}

/// One line about a guest that did as it should.
fn check(run: &Run, expectation: Expectation) -> Result<String> {
    let found = match expectation {
        Expectation::Refuse => refusal(&run.console),
        Expectation::Record => recording(&run.console),
    };
    let found = found.map_err(|error| anyhow!("{error:#}.{}", last_lines(&run.console)))?;
    let release = Section::find(&run.console, "kernel")?.succeeded("uname")?;
    Ok(format!("{release}: {found} ({:.0} s)", run.took.as_secs_f64()))
}

/// The profiler said which kernel it needs.
fn refusal(console: &str) -> Result<String> {
    let doctor = Section::find(console, "doctor")?;
    ensure!(
        doctor.json("doctor")?["healthy"] == false,
        "`doctor` finds no fault in a kernel that is too old"
    );
    let record = Section::find(console, "record")?;
    ensure!(record.code == 1, "`record` ended with exit code {} and not 1", record.code);
    ensure!(
        record.messages.contains("needs Linux 5.17 or newer"),
        "`record` does not say which kernel it needs, but: {}",
        record.messages
    );
    Ok(format!("refused as it should be, with `{}`", record.messages))
}

/// Every program was loaded, and both targets have whole stacks.
fn recording(console: &str) -> Result<String> {
    let doctor = Section::find(console, "doctor")?.json("doctor")?;
    ensure!(doctor["healthy"] == true, "`doctor` finds a fault: {doctor:#}");
    let checks = doctor["checks"].as_array().context("`doctor` checked nothing")?;
    let programs = checks.iter().find(|check| check["name"] == "Kernel programs (eBPF)");
    let programs = programs.context("`doctor` did not load the kernel programs")?;
    ensure!(programs["status"] == "ok", "kernel programs: {programs}");

    Section::find(console, "record")?.succeeded("record")?;
    let report = Section::find(console, "report")?;
    ensure!(report.code == 0, "`report` failed: {}", report.messages);
    let stacks = &report.json("report")?["stacks"];
    let complete_ratio = stacks["complete_ratio"].as_f64().unwrap_or(0.0);
    ensure!(complete_ratio >= COMPLETE_RATIO, "too few stacks are complete: {stacks}");

    let folded = Section::find(console, "stacks")?.succeeded("export")?;
    let of_c = [["main", "aligned"].as_slice(), &["recurse"; RECURSION_OF_C], &["three"]].concat();
    let of_python =
        [["Py_BytesMain", "<module>"].as_slice(), &["recurse"; RECURSION_OF_PYTHON], &["spin"]].concat();
    let (c, python) = (samples_with(folded, &of_c), samples_with(folded, &of_python));
    ensure!(c >= SAMPLES_OF_EACH, "only {c} samples have the stack of the C target");
    ensure!(python >= SAMPLES_OF_EACH, "only {python} samples have the stack of the Python target");
    Ok(format!(
        "{}; {:.1} % of {} stacks are complete, {c} of C and {python} of Python as expected",
        programs["finding"].as_str().unwrap_or_default(),
        complete_ratio * 100.0,
        stacks["samples"]
    ))
}

/// Samples whose stacks have these frames in this order, and none of them more often.
fn samples_with(folded: &str, wanted: &[&str]) -> u64 {
    let counts = folded.lines().filter_map(|line| {
        let (stack, count) = line.rsplit_once(' ')?;
        let frames = stack.split(';').filter(|frame| wanted.contains(frame));
        if frames.eq(wanted.iter().copied()) { count.parse::<u64>().ok() } else { None }
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other frames may stand between the wanted ones; one more or one less is another stack.
    #[test]
    fn stacks_are_compared() {
        let folded = "c;c;_start;main;f;f;leaf 3\nc;c;main;f;g;f 4\nc;c;main;f 5\nc;c;main;f;f;f 6\nbad";
        assert_eq!(samples_with(folded, &["main", "f", "f"]), 7);
        assert_eq!(samples_with(folded, &["main", "f"]), 5);
        assert_eq!(samples_with(folded, &["x"]), 0);
    }
}
