//! From a file descriptor to the pipe or socket behind it.

use core::mem::size_of;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::targets::KERNEL_OFFSETS;

/// `S_IFMT` and two of its values (`include/uapi/linux/stat.h`).
const TYPE_MASK: u16 = 0o170_000;
const IS_PIPE: u16 = 0o010_000;
const IS_SOCKET: u16 = 0o140_000;

/// So much of an inode's start has both of the fields that are wanted, in most kernels: one read is faster than two.
const INODE_BYTES: usize = 72;

/// A pipe or a socket.
pub(super) struct Descriptor {
    /// Inode number.
    pub(super) stream: u64,
    pub(super) is_socket: bool,
}

/// The pipe or socket behind a descriptor of the current process.
#[inline(always)]
pub(super) fn look_up(descriptor: u64) -> Option<Descriptor> {
    let offsets = KERNEL_OFFSETS.load();
    // SAFETY: the verifier knows the types as far as the table of descriptors, and its loads survive any address; from
    // there on the helper checks each address. The offsets are those of this kernel.
    unsafe {
        let task: *const u8 = bpf_get_current_task_btf().cast_const().cast();
        let files: *const u8 = field(task, offsets.task_files);
        let table: *const u8 = field(files, offsets.files_table);
        let limit: u32 = field(table, offsets.table_limit);
        if descriptor >= u64::from(limit) {
            return None;
        }
        let array: *const u8 = field(table, offsets.table_files);
        let slot = array.add(descriptor as usize * size_of::<u64>());
        let file: *const u8 = bpf_probe_read_kernel(slot.cast()).ok()?;
        let inode = bpf_probe_read_kernel(file.add(offsets.file_inode as usize).cast::<*const u8>()).ok()?;
        let (at_mode, at_number) = (offsets.inode_mode as usize, offsets.inode_number as usize);
        let (mode, stream): (u16, u64);
        if at_mode <= INODE_BYTES - size_of::<u16>() && at_number <= INODE_BYTES - size_of::<u64>() {
            let start: [u64; INODE_BYTES / 8] = bpf_probe_read_kernel(inode.cast()).ok()?;
            let start = start.as_ptr().cast::<u8>();
            mode = field(start, offsets.inode_mode);
            stream = field(start, offsets.inode_number);
        } else {
            mode = bpf_probe_read_kernel(inode.add(at_mode).cast()).ok()?;
            stream = bpf_probe_read_kernel(inode.add(at_number).cast()).ok()?;
        }
        let kind = mode & TYPE_MASK;
        if kind != IS_PIPE && kind != IS_SOCKET {
            return None;
        }
        Some(Descriptor { stream, is_socket: kind == IS_SOCKET })
    }
}

/// A field of a structure whose type the verifier knows, or which was read whole.
#[inline(always)]
unsafe fn field<T>(structure: *const u8, offset: u32) -> T {
    // SAFETY: as the caller says.
    unsafe { structure.add(offset as usize).cast::<T>().read_volatile() }
}
