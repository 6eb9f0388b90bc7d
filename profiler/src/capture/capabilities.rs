//! What threads of ours may do: as little as their work needs.

use caps::{CapSet, Capability};

/// Gives up what is not needed any more once everything is attached. What stays: reading the files of targets,
/// the kernel's symbols and our own maps, writing where the user asks, signalling what we launched, talking to runtimes as
/// their users do, and choosing how our own threads are scheduled.
pub(super) fn drop_unneeded() {
    const KEPT: [Capability; 13] = [
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_DAC_READ_SEARCH,
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_CHECKPOINT_RESTORE,
        Capability::CAP_SYSLOG,
        Capability::CAP_KILL,
        Capability::CAP_CHOWN,
        Capability::CAP_FOWNER,
        Capability::CAP_SETGID,
        Capability::CAP_SETUID,
        Capability::CAP_SYS_NICE,
    ];
    let Ok(permitted) = caps::read(None, CapSet::Permitted) else { return };
    // Where the newer, narrower ones are not given, this one stands in for them.
    let is_broad = !permitted.contains(&Capability::CAP_BPF) || !permitted.contains(&Capability::CAP_PERFMON);
    let is_kept = |capability: &Capability| {
        KEPT.contains(capability) || (is_broad && *capability == Capability::CAP_SYS_ADMIN)
    };
    keep(is_kept);
}

/// Gives up all other capabilities of this thread.
pub(super) fn keep(is_kept: impl Fn(&Capability) -> bool) {
    let Ok(permitted) = caps::read(None, CapSet::Permitted) else { return };
    let kept: caps::CapsHashSet = permitted.into_iter().filter(is_kept).collect();
    // Giving up a capability is always permitted; an old kernel that does not know one keeps what it has.
    let _ = caps::set(None, CapSet::Effective, &kept);
    let _ = caps::set(None, CapSet::Permitted, &kept);
}
