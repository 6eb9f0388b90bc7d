//! The machine that a benchmark runs on.

use std::fs::read_to_string;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{output_of, workspace};

/// Others that use the CPUs make every figure worse and noisier: more than this many runnable threads is a warning.
const QUIET_LOAD: f64 = 0.5;

/// Prints what a figure has to be read with, and warns if other programs are busy.
pub(super) fn print() -> Result<()> {
    let cpus = read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism()?;
    let kernel = read_to_string("/proc/sys/kernel/osrelease")?;
    println!("machine   {model}, {cores} CPUs, Linux {}", kernel.trim());
    println!("profiler  {}", version()?);

    let load = read_to_string("/proc/loadavg")?;
    let load: f64 =
        load.split(' ').next().unwrap_or_default().parse().context("cannot read /proc/loadavg")?;
    if load > QUIET_LOAD {
        eprintln!("warning: load average {load}: other programs are busy, so expect noise");
    }
    Ok(())
}

fn version() -> Result<String> {
    let git = |arguments: &[&str]| output_of(Command::new("git").current_dir(workspace()).args(arguments));
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    Ok(format!("commit {}{}", commit.trim(), if changed { ", with changes" } else { "" }))
}
