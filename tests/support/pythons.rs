//! Every CPython that this machine has to test on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::servers::python_program;
use crate::tools::roots_folder;

/// The versions whose frames are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 9..=14;

/// A CPython.
#[derive(Clone, Debug)]
pub struct Python {
    program: PathBuf,
    /// The root that it runs in, when that is not this one.
    root: Option<PathBuf>,
}

impl Python {
    /// The one of the servers.
    pub fn of_servers() -> Result<Self> {
        Ok(Self { program: python_program()?, root: None })
    }

    /// The one of the servers, Debian's newer ones in roots of their own, and builds of pyenv where there are some.
    pub fn all() -> Result<Vec<Self>> {
        let mut pythons = vec![Self::of_servers()?];
        for root in entries(&roots_folder()?) {
            let program = entries(&root.join("usr/bin")).into_iter().find(|path| minor(path).is_some());
            let program = program.with_context(|| format!("no Python in {}", root.display()))?;
            let program = Path::new("/").join(program.strip_prefix(&root)?);
            pythons.push(Self { program, root: Some(root) });
        }
        ensure!(pythons.len() > 2, "no Debian roots: run `cargo xtask servers`");
        if let Some(home) = std::env::var_os("HOME") {
            for build in entries(&Path::new(&home).join(".pyenv/versions")) {
                let programs = entries(&build.join("bin"));
                let known = |path: &PathBuf| {
                    minor(path).is_some_and(|minor| VERSIONS.contains(&minor)) && path.exists()
                };
                pythons.extend(programs.into_iter().find(known).map(|program| Self { program, root: None }));
            }
        }
        Ok(pythons)
    }

    /// Its file, in its root.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The py-spy that is beside the one of the servers.
    pub fn py_spy() -> Result<PathBuf> {
        let program = python_program()?.with_file_name("py-spy");
        ensure!(program.is_file(), "{} is missing: run `cargo xtask servers`", program.display());
        Ok(program)
    }

    /// A folder with the anyio of the servers, and what that needs; and where this Python finds it.
    pub fn anyio(&self) -> Result<(TempDir, PathBuf)> {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let folder = TempDir::new_in(root.join("tmp"))?;
        let library = python_program()?.with_file_name("../lib");
        let packages = entries(&library).into_iter().find(|path| minor(path).is_some());
        let packages = packages.context("no packages: run `cargo xtask servers`")?.join("site-packages");
        let needed =
            ["anyio", "exceptiongroup", "idna", "typing_extensions.py"].map(|name| packages.join(name));
        let copied = Command::new("cp").arg("-r").args(needed).arg(folder.path()).status()?;
        ensure!(copied.success(), "cp: {copied}");
        let inside = Path::new("/").join(folder.path().strip_prefix(root)?);
        Ok((folder, inside))
    }

    /// Runs `tests/workloads/NAME.py`, with a pipe for standard output.
    pub fn workload(&self, name: &str) -> Result<Command> {
        let workloads = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let mut command = match &self.root {
            None => Command::new(&self.program),
            Some(root) => {
                for name in [name, "burning"] {
                    // Tests run beside each other: the file is never seen half written.
                    let file = tempfile::NamedTempFile::new_in(root.join("tmp"))?;
                    std::fs::copy(workloads.join(name).with_extension("py"), file.path())?;
                    file.persist(root.join("tmp").join(name).with_extension("py"))?;
                }
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.program);
                command
            }
        };
        let folder = if self.root.is_some() { Path::new("/tmp") } else { &workloads };
        // It leaves no compiled files behind.
        command.arg("-B").arg(folder.join(name).with_extension("py"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }
}

/// The 11 of a file `python3.11`.
fn minor(program: &Path) -> Option<u32> {
    program.file_name()?.to_str()?.strip_prefix("python3.")?.parse().ok()
}

/// What is in a folder, in order; nothing where there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
