//! Failures of the kernel half: one counter a cause, in the per-CPU array `FAILURES`.

/// Something that the kernel half had to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Failure {
    /// A sample did not fit into the ring buffer.
    SampleRingFull = 0,
    /// A fork, exec or exit event did not fit into the ring buffer.
    LifecycleRingFull = 1,
    /// A child process could not be watched: the target set is full.
    TargetSetFull = 2,
    /// A new process could not be identified.
    ForkUnreadable = 3,
    /// The kernel stack of a sample could not be taken; the sample was kept without it.
    KernelStackUnreadable = 4,
    /// What a process read or wrote did not fit into the ring buffer.
    WireRingFull = 5,
    /// It could not be told, or not to the end, who waits for the asyncio task of a sample.
    PythonTasksUnreadable = 6,
    /// Something was moved on a stream that speaks MCP in a way that can't be seen, such as `splice`.
    WireUnseen = 7,
    /// What went through a TLS library could not be taken: too many threads did it at once.
    TlsUnread = 8,
    /// When a client wrote did not fit into its ring buffer: queue times are missing.
    ClientRingFull = 9,
}

impl Failure {
    /// Every cause, in the order of their counters.
    pub const ALL: [Self; 10] = [
        Self::SampleRingFull,
        Self::LifecycleRingFull,
        Self::TargetSetFull,
        Self::ForkUnreadable,
        Self::KernelStackUnreadable,
        Self::WireRingFull,
        Self::PythonTasksUnreadable,
        Self::WireUnseen,
        Self::TlsUnread,
        Self::ClientRingFull,
    ];

    /// The name that recordings and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::SampleRingFull => "sample_ring_full",
            Self::LifecycleRingFull => "lifecycle_ring_full",
            Self::TargetSetFull => "target_set_full",
            Self::ForkUnreadable => "fork_unreadable",
            Self::KernelStackUnreadable => "kernel_stack_unreadable",
            Self::WireRingFull => "wire_ring_full",
            Self::PythonTasksUnreadable => "python_tasks_unreadable",
            Self::WireUnseen => "wire_unseen",
            Self::TlsUnread => "tls_unread",
            Self::ClientRingFull => "client_ring_full",
        }
    }
}
