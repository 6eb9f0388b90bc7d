//! Debian packages.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{find_in_path, output_of, run};

/// Installs what is missing if this is Debian and root; otherwise fails with the command to run.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if find_in_path("apt-get").is_none() {
        bail!(
            "missing: {names}. These are Debian's names; install what your system calls them and run this again"
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing: {names}. Run: sudo apt-get install --no-install-recommends {names}");
    }
    eprintln!("Installing {names}");
    run(apt().args(["update", "--quiet"]))?;
    run(apt().args(["install", "--yes", "--no-install-recommends", "--quiet"]).args(&missing))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_installed(package: &str) -> bool {
    output_of(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status.trim() == "installed")
}
