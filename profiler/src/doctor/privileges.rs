//! What this user may do: capabilities, and whether the kernel really gives what they promise.

use std::io;

use aya::maps::MapData;
use caps::{CapSet, Capability};
use perf_event::Builder;
use perf_event::events::{Hardware, Software};

use super::{Check, Status, run_as_root, setting};

/// `BPF_MAP_TYPE_RINGBUF` of `include/uapi/linux/bpf.h`.
const RING_BUFFER: u32 = 27;
/// Its smallest size: one page.
const RING_BUFFER_BYTES: u32 = 4096;

/// A capability, others that include it, how bad it is to lack it, and what then does not work.
type Need = (Capability, &'static [Capability], Status, &'static str);

const NEEDS: [Need; 6] = [
    (Capability::CAP_BPF, &[Capability::CAP_SYS_ADMIN], Status::Fault, "The kernel half cannot be loaded."),
    (Capability::CAP_PERFMON, &[Capability::CAP_SYS_ADMIN], Status::Fault, "CPU samples cannot be taken."),
    (
        Capability::CAP_SYS_PTRACE,
        &[],
        Status::Fault,
        "Programs and mappings of other users' processes cannot be read.",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        &[Capability::CAP_DAC_OVERRIDE],
        Status::Warning,
        "Functions in files that only their owner may read stay without names.",
    ),
    (
        Capability::CAP_CHECKPOINT_RESTORE,
        &[Capability::CAP_SYS_ADMIN],
        Status::Warning,
        "Functions in libraries that were replaced since the server started stay without names.",
    ),
    (Capability::CAP_SYSLOG, &[], Status::Warning, "Functions of the kernel stay without names."),
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks: Vec<Check> = NEEDS.iter().map(|need| capability(need, held)).collect();
    checks.extend([ring_buffer(), sampling(), hardware(), paranoid(), kernel_names(), restrictions()]);
    checks
}

fn held(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

fn capability((capability, including, lacking, meaning): &Need, held: impl Fn(Capability) -> bool) -> Check {
    let name = capability.to_string();
    if held(*capability) {
        return Check::ok(&name, "held");
    }
    if let Some(other) = including.iter().copied().find(|other| held(*other)) {
        return Check::ok(&name, format!("included in {other}"));
    }
    Check { status: *lacking, ..Check::warning(&name, "missing", meaning, run_as_root()) }
}

/// Makes one, the smallest there is.
fn ring_buffer() -> Check {
    const NAME: &str = "BPF ring buffer";
    let map = aya_obj::Map::new_from_params(RING_BUFFER, 0, 0, RING_BUFFER_BYTES, 0);
    match MapData::create(map, "mcp_doctor", None) {
        Ok(_) => Check::ok(NAME, "can be made"),
        Err(error) => {
            let cause = root_cause(&error);
            let remedy = if held(Capability::CAP_BPF) || held(Capability::CAP_SYS_ADMIN) {
                "docker run --security-opt seccomp=unconfined ... (a seccomp filter or a security module forbids bpf(2))".to_owned()
            } else {
                run_as_root()
            };
            Check::fault(
                NAME,
                format!("cannot be made: {cause}"),
                "Samples reach mcp-profiler through it.",
                remedy,
            )
        }
    }
}

/// What the kernel said, without the layers above.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Opens what a recording opens: the clock of a CPU, for all processes and the kernel.
fn sampling() -> Check {
    const NAME: &str = "CPU samples";
    let mut builder = Builder::new(Software::CPU_CLOCK);
    match builder.any_pid().one_cpu(0).include_kernel().sample_frequency(99).build() {
        Ok(_) => Check::ok(NAME, "cpu-clock can be opened"),
        Err(error) => Check::fault(
            NAME,
            format!("cpu-clock: {error}"),
            "CPU samples cannot be taken.",
            sampling_remedy(&error),
        ),
    }
}

fn sampling_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) if held(Capability::CAP_PERFMON) || held(Capability::CAP_SYS_ADMIN) => {
            "docker run --security-opt seccomp=unconfined ... (a seccomp filter or a security module forbids perf_event_open(2))"
                .to_owned()
        }
        Some(libc::EACCES | libc::EPERM) => run_as_root(),
        _ => "sudo apt-get install linux-image-amd64 && sudo reboot (a kernel with CONFIG_PERF_EVENTS=y)".to_owned(),
    }
}

fn hardware() -> Check {
    const NAME: &str = "Hardware cycle counter";
    let mut builder = Builder::new(Hardware::CPU_CYCLES);
    match builder.any_pid().one_cpu(0).include_kernel().sample_frequency(99).build() {
        Ok(_) => Check::ok(NAME, "present"),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            Check::info(NAME, "not visible", "Only who may take CPU samples can see it.")
        }
        Err(_) => {
            Check::info(NAME, "absent", "As in most virtual machines. The cpu-clock drives samples instead.")
        }
    }
}

fn paranoid() -> Check {
    const NAME: &str = "perf_event_paranoid";
    let Some(level) =
        setting("/proc/sys/kernel/perf_event_paranoid").and_then(|text| text.parse::<i64>().ok())
    else {
        return Check::info(NAME, "not visible", "It matters only without CAP_PERFMON.");
    };
    if held(Capability::CAP_PERFMON) || held(Capability::CAP_SYS_ADMIN) {
        return Check::ok(NAME, format!("{level}, which CAP_PERFMON overrides"));
    }
    if level <= -1 {
        return Check::ok(NAME, level.to_string());
    }
    Check::warning(
        NAME,
        level.to_string(),
        "Without CAP_PERFMON this forbids samples of whole CPUs. Running with sudo overrides it; \
         lowering it opens them to all users.",
        "sudo sysctl kernel.perf_event_paranoid=-1",
    )
}

/// Whether the kernel tells the addresses of its functions: all are zero for who may not see them.
fn kernel_names() -> Check {
    const NAME: &str = "Kernel function names";
    let level = setting("/proc/sys/kernel/kptr_restrict").unwrap_or_else(|| "not visible".to_owned());
    let finding = format!("kptr_restrict is {level}");
    match addresses_are_told() {
        Ok(true) => return Check::ok(NAME, finding),
        Ok(false) => {}
        Err(error) => {
            return Check::info(
                NAME,
                format!("/proc/kallsyms: {error}"),
                "Functions of the kernel stay without names.",
            );
        }
    }
    let remedy = if level == "2" { "sudo sysctl kernel.kptr_restrict=1".to_owned() } else { run_as_root() };
    Check::warning(
        NAME,
        format!("{finding}: addresses are hidden"),
        "Functions of the kernel stay without names.",
        remedy,
    )
}

fn addresses_are_told() -> io::Result<bool> {
    use std::io::{BufRead, BufReader, Read};
    // The first symbols of x86 are per-CPU offsets, the very first of which is zero.
    let lines = BufReader::new(std::fs::File::open("/proc/kallsyms")?.take(64 * 1024)).lines();
    for line in lines {
        let line = line?;
        let address = line.split(' ').next().unwrap_or_default();
        if address.bytes().any(|digit| digit != b'0') {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A seccomp filter, seen from inside: it may forbid the system calls that profiling is made of.
fn restrictions() -> Check {
    const NAME: &str = "Seccomp filter";
    let status = setting("/proc/self/status").unwrap_or_default();
    match status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim) {
        Some("0") => Check::ok(NAME, "none"),
        Some(_) => Check::info(
            NAME,
            "active",
            "It may forbid bpf(2) or perf_event_open(2): see the ring buffer and the CPU samples above.",
        ),
        None => Check::info(NAME, "not visible", "This kernel does not tell."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capability counts when it is held, or when a larger one is; else its lack is as bad as what it is for.
    #[test]
    fn capabilities_that_include_others() {
        let bpf = &NEEDS[0];
        assert_eq!(capability(bpf, |held| held == Capability::CAP_BPF).finding, "held");
        assert_eq!(
            capability(bpf, |held| held == Capability::CAP_SYS_ADMIN).finding,
            "included in CAP_SYS_ADMIN"
        );
        assert_eq!(capability(bpf, |_| false).status, Status::Fault);
        let syslog = &NEEDS[5];
        assert_eq!(capability(syslog, |held| held == Capability::CAP_SYS_ADMIN).status, Status::Warning);
    }

    /// Without the right the remedy is the right; with it, something else stands in the way.
    #[test]
    fn remedies_fit_the_error() {
        let missing = sampling_remedy(&io::Error::from_raw_os_error(libc::ENOENT));
        assert!(missing.contains("CONFIG_PERF_EVENTS"));
        assert!(!sampling_remedy(&io::Error::from_raw_os_error(libc::EACCES)).contains("CONFIG_PERF_EVENTS"));
    }
}
