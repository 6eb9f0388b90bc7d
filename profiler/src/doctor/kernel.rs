//! What the kernel is and was built with.

use super::{Check, setting};
use crate::capture::{Error, OBJECT, has_bpf_loop, try_load};
use crate::target::resolve::{ResolveError, refuse_foreign_namespace};

/// First two bytes of BTF data, `BTF_MAGIC` of `include/uapi/linux/btf.h`, as x86 stores them.
const BTF_MAGIC: [u8; 2] = [0x9f, 0xeb];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![architecture(), version(), type_information(), pid_namespace(), lockdown(), jit()];
    checks.extend(programs());
    checks
}

fn architecture() -> Check {
    match setting("/proc/sys/kernel/arch") {
        Some(machine) if machine != "x86_64" => Check::fault(
            "Architecture",
            machine,
            "The kernel half reads registers of x86-64; this machine only emulates it.",
            "Run mcp-profiler on an x86-64 machine",
        ),
        _ => Check::ok("Architecture", "x86-64"),
    }
}

fn version() -> Check {
    const NAME: &str = "Kernel version";
    let release = setting("/proc/sys/kernel/osrelease").unwrap_or_else(|| "not visible".to_owned());
    match has_bpf_loop() {
        Ok(true) => Check::ok(NAME, release),
        Ok(false) => Check::fault(
            NAME,
            release,
            "Linux 5.17 or newer is needed, or 5.14 of RHEL 9.2 or newer: this one lacks bpf_loop.",
            "sudo apt-get install linux-image-amd64 && sudo reboot (Debian 12 or newer; RHEL: sudo dnf upgrade kernel)",
        ),
        Err(_) => Check::info(NAME, release, "Linux 5.17 or newer is needed, or 5.14 of RHEL 9.2 or newer."),
    }
}

/// Has the kernel verify every program, and drops them again. `None` if it is said elsewhere why that can't be.
fn programs() -> Option<Check> {
    const NAME: &str = "Kernel programs (eBPF)";
    match try_load(OBJECT) {
        Ok(count) => Some(Check::ok(NAME, format!("this kernel accepts all {count}"))),
        Err(Error::NoBtf(_) | Error::KernelTooOld { .. }) => None,
        Err(Error::NotPermitted { .. }) => {
            Some(Check::info(NAME, "not tried", "That needs the capabilities below."))
        }
        Err(error) => Some(Check::fault(
            NAME,
            error.to_string(),
            "Nothing can be recorded on this kernel.",
            "mcp-profiler doctor --format json > doctor.json (and report it)",
        )),
    }
}

fn type_information() -> Check {
    use std::io::Read;
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    let mut start = [0_u8; 2];
    let read = std::fs::File::open(PATH).and_then(|mut file| {
        file.read_exact(&mut start)?;
        file.metadata()
    });
    match read {
        Ok(metadata) if start == BTF_MAGIC => {
            Check::ok("Kernel types (BTF)", format!("{PATH}, {} KiB", metadata.len() / 1024))
        }
        Ok(_) => missing_types(format!("{PATH} is not BTF")),
        Err(error) => missing_types(format!("{PATH}: {error}")),
    }
}

fn missing_types(finding: String) -> Check {
    Check::fault(
        "Kernel types (BTF)",
        finding,
        "The layout of the kernel's structures is read from BTF: a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed, \
         and /sys must be mounted.",
        "sudo apt-get install linux-image-amd64 && sudo reboot (in a container: docker run -v /sys:/sys:ro ...)",
    )
}

fn pid_namespace() -> Check {
    match refuse_foreign_namespace() {
        Ok(()) => Check::ok("PID namespace", "the host's"),
        Err(ResolveError::PidNamespace) => Check::fault(
            "PID namespace",
            "a container's own",
            "The host's processes cannot be told apart from inside this container.",
            "docker run --pid=host ...",
        ),
        Err(error) => Check::info("PID namespace", error.to_string(), "/proc must be mounted."),
    }
}

fn lockdown() -> Check {
    const NAME: &str = "Kernel lockdown";
    let Some(modes) = setting("/sys/kernel/security/lockdown") else {
        return Check::info(NAME, "not visible", "Either there is none, or securityfs is not mounted.");
    };
    match active_mode(&modes) {
        Some("confidentiality") => Check::fault(
            NAME,
            "confidentiality",
            "In this mode the kernel lets no one read its memory through BPF. It can only be left at boot.",
            "sudo sed -i 's/lockdown=confidentiality/lockdown=integrity/' /etc/default/grub && sudo update-grub && sudo reboot",
        ),
        Some(mode) => Check::ok(NAME, mode),
        None => Check::info(NAME, modes, "This mode is not known."),
    }
}

/// The mode in brackets of `none [integrity] confidentiality`.
fn active_mode(modes: &str) -> Option<&str> {
    modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

fn jit() -> Check {
    const NAME: &str = "BPF JIT compiler";
    match setting("/proc/sys/net/core/bpf_jit_enable").as_deref() {
        Some("0") => Check::warning(
            NAME,
            "off",
            "BPF programs are interpreted: each sample costs the server several times as much.",
            "sudo sysctl net.core.bpf_jit_enable=1",
        ),
        Some(_) => Check::ok(NAME, "on"),
        None => {
            Check::info(NAME, "not visible", "Only root of the host sees this setting; it is usually on.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The active mode is the one in brackets.
    #[test]
    fn lockdown_modes() {
        assert_eq!(active_mode("none [integrity] confidentiality"), Some("integrity"));
        assert_eq!(active_mode("none"), None);
    }
}
