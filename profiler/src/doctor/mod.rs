//! What this machine lacks to profile, and the command that mends it.

mod kernel;
mod privileges;
mod symbols;

use serde::Serialize;

use crate::target::process::Process;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Neither good nor bad, or not visible from here.
    Info,
    /// Profiling works, but shows less.
    Warning,
    /// Profiling does not work.
    Fault,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How bad it is.
    pub status: Status,
    /// What was found.
    pub finding: String,
    /// What that means for profiling; absent when all is well.
    pub meaning: Option<String>,
    /// The command that mends it. Always there for a fault.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &str, finding: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Ok,
            finding: finding.into(),
            meaning: None,
            remedy: None,
        }
    }

    fn info(name: &str, finding: impl Into<String>, meaning: &str) -> Self {
        Self { status: Status::Info, meaning: Some(meaning.to_owned()), ..Self::ok(name, finding) }
    }

    fn warning(name: &str, finding: impl Into<String>, meaning: &str, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { status: Status::Warning, meaning: Some(meaning.to_owned()), remedy, ..Self::ok(name, finding) }
    }

    fn fault(name: &str, finding: impl Into<String>, meaning: &str, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fault, ..Self::warning(name, finding, meaning, remedy) }
    }
}

/// Looks at everything; at the debug symbols of this process too, if one is given. Changes nothing:
/// what it opens to see whether that is allowed, it closes.
pub fn examine(target: Option<&Process>) -> Vec<Check> {
    let mut checks = kernel::checks();
    checks.extend(privileges::checks());
    checks.push(symbols::check(target));
    checks
}

/// How to run again with everything that is needed: `sudo`, unless this is root already.
fn run_as_root() -> String {
    if nix::unistd::Uid::effective().is_root() {
        // Root without capabilities: a container.
        "docker run --privileged --pid=host ... (or: --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE \
         --cap-add DAC_READ_SEARCH --cap-add CHECKPOINT_RESTORE --cap-add SYSLOG)"
            .to_owned()
    } else {
        "sudo mcp-profiler doctor".to_owned()
    }
}

/// A file of `/proc/sys` or `/sys`, without the white space around it.
fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every fault and warning says what it means and what to do, on whatever machine and as whatever user this runs.
    #[test]
    fn every_fault_has_a_remedy() {
        let own = Process::open(std::process::id()).unwrap();
        for check in examine(None).into_iter().chain(examine(Some(&own))) {
            let told =
                check.meaning.is_some() && check.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty());
            assert!(told || check.status < Status::Warning, "{check:?}");
        }
    }
}
