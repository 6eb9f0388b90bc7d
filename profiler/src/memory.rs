//! Our own memory: the profiler shares the machine with what it profiles.

/// Gives freed memory back to the system. The allocator keeps what large symbol tables needed for a moment.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
