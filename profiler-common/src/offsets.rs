//! Where the running kernel keeps the fields that the kernel half reads.

/// Byte offsets from the kernel's own BTF, set as a global before the programs are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct KernelOffsets {
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `signal_struct.live`: threads of the process that have not ended.
    pub signal_live: u32,
    /// `task_struct.thread`, and in it `thread_struct.fsbase`: the thread pointer of user code.
    pub task_thread_pointer: u32,
}

// SAFETY: `repr(C)`, four `u32` and no padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for KernelOffsets {}
