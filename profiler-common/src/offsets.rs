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
    /// `task_struct.files`.
    pub task_files: u32,
    /// `files_struct.fdt`.
    pub files_table: u32,
    /// `fdtable.max_fds`.
    pub table_limit: u32,
    /// `fdtable.fd`.
    pub table_files: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `inode.i_mode`.
    pub inode_mode: u32,
    /// `inode.i_ino`.
    pub inode_number: u32,
    /// `backing_file.user_path`, and in it `path.dentry`; zero in kernels that have no such files.
    pub backing_file_entry: u32,
    /// `dentry.d_inode`.
    pub entry_inode: u32,
    /// `inode.i_sb`.
    pub inode_superblock: u32,
    /// `super_block.s_dev`.
    pub superblock_device: u32,
    /// `task_struct.mm`.
    pub task_memory: u32,
    /// `mm_struct.start_code`.
    pub memory_code: u32,
    /// `mm_struct.arg_start`.
    pub memory_arguments: u32,
    /// `mm_struct.arg_end`.
    pub memory_arguments_end: u32,
    /// `mm_struct.mm_mt`, and in it `maple_tree.ma_root`; zero when the kernel does not keep mappings in a tree that the kernel half
    /// can read.
    pub memory_tree: u32,
    /// `vm_area_struct.vm_start`.
    pub mapping_start: u32,
    /// `vm_area_struct.vm_end`.
    pub mapping_end: u32,
    /// `vm_area_struct.vm_pgoff`: in pages.
    pub mapping_offset: u32,
    /// `vm_area_struct.vm_file`.
    pub mapping_file: u32,
}

// SAFETY: `repr(C)`, twenty-four `u32` and no padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for KernelOffsets {}
