//! Our own memory: the profiler shares the machine with what it profiles.

/// From this size on, memory goes back to the system as soon as it is freed: symbol tables take so much, and what is moved at
/// each tick does not.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 1 << 20;
/// What may stay with the allocator for the next tick.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 4 << 20;

/// Has the allocator keep little. By itself it keeps ever more as larger tables are freed (mallopt(3)).
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions, and may be called from any thread. Of what it refuses nothing but memory depends.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Gives freed memory back to the system. The allocator keeps what large symbol tables needed for a moment.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
