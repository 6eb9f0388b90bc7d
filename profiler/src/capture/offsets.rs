//! Where the running kernel keeps the fields that the kernel half reads, and whether it has what the kernel half calls,
//! from its own BTF.
//!
//! Layout: `include/uapi/linux/btf.h`. Reads only what is asked for, and never past the end of the data.

use std::path::Path;

use aya::{Btf as AyaBtf, Endianness};
use profiler_common::KernelOffsets;

use super::Error;

/// BTF of the running kernel.
pub(super) const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Whether the running kernel has `bpf_loop`, the newest of the helpers that the kernel half calls. Distributors bring
/// helpers to older kernels, so its version does not tell. Needs no privileges.
///
/// # Errors
/// [`Error::NoBtf`] and [`Error::MalformedBtf`].
pub fn has_bpf_loop() -> Result<bool, Error> {
    Ok(Btf::parse(&kernel_btf()?).ok_or(Error::MalformedBtf)?.lists_bpf_loop())
}

fn kernel_btf() -> Result<Vec<u8>, Error> {
    std::fs::read(Path::new(VMLINUX_BTF)).map_err(Error::NoBtf)
}

/// The offsets of the running kernel. Refuses one that the kernel half can't run on.
pub(super) fn read() -> Result<KernelOffsets, Error> {
    let data = kernel_btf()?;
    let btf = Btf::parse(&data).ok_or(Error::MalformedBtf)?;
    if !btf.lists_bpf_loop() {
        let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
        return Err(Error::KernelTooOld { release: release.unwrap_or_default() });
    }
    let offset = |structure: &'static str, member: &'static str| {
        btf.member_offset(structure, member).ok_or(Error::MissingKernelField { structure, member })
    };
    let tree = btf.mappings_tree().unwrap_or_default();
    Ok(KernelOffsets {
        task_tgid: offset("task_struct", "tgid")?,
        task_signal: offset("task_struct", "signal")?,
        signal_live: offset("signal_struct", "live")?,
        task_thread_pointer: offset("task_struct", "thread")? + offset("thread_struct", "fsbase")?,
        task_files: offset("task_struct", "files")?,
        files_table: offset("files_struct", "fdt")?,
        table_limit: offset("fdtable", "max_fds")?,
        table_files: offset("fdtable", "fd")?,
        file_inode: offset("file", "f_inode")?,
        inode_mode: offset("inode", "i_mode")?,
        inode_number: offset("inode", "i_ino")?,
        // Since Linux 6.5.
        backing_file_entry: match btf.member_offset("backing_file", "user_path") {
            Some(path) => path + offset("path", "dentry")?,
            None => 0,
        },
        entry_inode: offset("dentry", "d_inode")?,
        inode_superblock: offset("inode", "i_sb")?,
        superblock_device: offset("super_block", "s_dev")?,
        task_memory: offset("task_struct", "mm")?,
        memory_code: offset("mm_struct", "start_code")?,
        memory_arguments: offset("mm_struct", "arg_start")?,
        memory_arguments_end: offset("mm_struct", "arg_end")?,
        ..tree
    })
}

/// What aya has to know of the running kernel to load programs for these tracepoints: the IDs of their types. All other types
/// are left blank: reading them as aya does takes more time and memory than the rest of the start.
pub(super) fn tracepoints(names: &[&str]) -> Result<AyaBtf, Error> {
    let data = kernel_btf()?;
    let btf = Btf::parse(&data).ok_or(Error::MalformedBtf)?;
    let ids = names.iter().filter_map(|name| Some((btf.typedef(&format!("btf_trace_{name}"))?, *name)));
    AyaBtf::parse(&blank_except(&mut ids.collect::<Vec<_>>()), Endianness::default())
        .map_err(|_| Error::MalformedBtf)
}

/// BTF in which only these typedefs have names, and their IDs.
fn blank_except(typedefs: &mut [(u32, &str)]) -> Vec<u8> {
    typedefs.sort_unstable();
    let (mut types, mut strings) = (Vec::new(), vec![0]);
    let mut push = |name: u32, kind: u32| {
        [name, kind << 24, 0].into_iter().for_each(|word| types.extend(word.to_ne_bytes()));
    };
    let mut next = 1;
    for (id, name) in typedefs {
        (next..*id).for_each(|_| push(0, KIND_FORWARD));
        push(strings.len() as u32, KIND_TYPEDEF);
        strings.extend_from_slice(format!("btf_trace_{name}\0").as_bytes());
        next = *id + 1;
    }
    let [types_length, strings_length] = [types.len() as u32, strings.len() as u32];
    // `struct btf_header`, with version 1 and no flags.
    let mut data = [MAGIC.as_slice(), &[1, 0]].concat();
    for word in [24, 0, types_length, types_length, strings_length] {
        data.extend(word.to_ne_bytes());
    }
    data.extend(types);
    data.extend(strings);
    data
}

const MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FORWARD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const HIGHEST_KIND: u32 = KIND_ENUM64;

/// Anonymous members are searched this deep.
const MAX_NESTING: u32 = 8;

/// BTF, split into its types and its strings.
struct Btf<'data> {
    types: &'data [u8],
    strings: &'data [u8],
}

/// One type: its common start, and where what follows starts.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    members: u32,
    has_bitfields: bool,
    body: usize,
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'data> Btf<'data> {
    fn parse(data: &'data [u8]) -> Option<Self> {
        if data.get(..2)? != MAGIC {
            return None;
        }
        let field = |index: usize| read_u32(data, 4 + 4 * index).map(|value| value as usize);
        let header = field(0)?;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            data.get(start..start.checked_add(length)?)
        };
        Some(Self { types: section(field(1)?, field(2)?)?, strings: section(field(3)?, field(4)?)? })
    }

    /// The type that starts at `at`, and where the next one starts.
    fn type_at(&self, at: usize) -> Option<(Type, usize)> {
        let info = read_u32(self.types, at + 4)?;
        let (count, kind) = ((info & 0xffff) as usize, (info >> 24) & 0x1f);
        let body = at + 12;
        let body_length = match kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
            KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
            kind if kind <= HIGHEST_KIND => 0,
            _ => return None,
        };
        let name = read_u32(self.types, at)?;
        let ty = Type { name, kind, members: count as u32, has_bitfields: info >> 31 == 1, body };
        Some((ty, body + body_length))
    }

    fn types(&self) -> impl Iterator<Item = Type> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (ty, next) = self.type_at(at)?;
            at = next;
            Some(ty)
        })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        self.strings
            .get(offset as usize..)
            .and_then(|rest| rest.get(..=name.len()))
            .is_some_and(|text| text.split_last() == Some((&0, name.as_bytes())))
    }

    /// Whether the kernel's list of helpers (`enum bpf_func_id` of `include/uapi/linux/bpf.h`) has `bpf_loop`.
    fn lists_bpf_loop(&self) -> bool {
        self.has_enumerator("bpf_func_id", "BPF_FUNC_loop")
    }

    /// The ID of a typedef: they count from 1, as 0 is `void`.
    fn typedef(&self, name: &str) -> Option<u32> {
        let index = self.types().position(|ty| ty.kind == KIND_TYPEDEF && self.is_named(ty.name, name))?;
        u32::try_from(index + 1).ok()
    }

    fn has_enumerator(&self, enumeration: &str, enumerator: &str) -> bool {
        let ty = self.types().find(|ty| ty.kind == KIND_ENUM && self.is_named(ty.name, enumeration));
        ty.is_some_and(|ty| {
            // Each is a name and a value.
            (0..ty.members as usize).any(|index| {
                read_u32(self.types, ty.body + 8 * index).is_some_and(|name| self.is_named(name, enumerator))
            })
        })
    }

    /// Where the kernel keeps a process's mappings, if in a tree of the form that the kernel half reads: `unwind/mappings.rs` there.
    fn mappings_tree(&self) -> Option<KernelOffsets> {
        let places = [
            ("maple_range_64", "pivot", 8),
            ("maple_range_64", "slot", 8 + 15 * 8),
            ("maple_arange_64", "pivot", 8),
            ("maple_arange_64", "slot", 8 + 9 * 8),
        ];
        let is_place = |(node, member, place)| self.member_offset(node, member) == Some(place);
        if !places.into_iter().all(is_place) {
            return None;
        }
        Some(KernelOffsets {
            memory_tree: self.member_offset("mm_struct", "mm_mt")?
                + self.member_offset("maple_tree", "ma_root")?,
            mapping_start: self.member_offset("vm_area_struct", "vm_start")?,
            mapping_end: self.member_offset("vm_area_struct", "vm_end")?,
            mapping_offset: self.member_offset("vm_area_struct", "vm_pgoff")?,
            mapping_file: self.member_offset("vm_area_struct", "vm_file")?,
            ..KernelOffsets::default()
        })
    }

    /// Offset of a member in bytes, through anonymous structures and unions.
    fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let ty = self.types().find(|ty| ty.kind == KIND_STRUCT && self.is_named(ty.name, structure))?;
        Some(self.find_member(ty, member, MAX_NESTING)? / 8)
    }

    /// Offset in bits.
    fn find_member(&self, ty: Type, name: &str, nesting: u32) -> Option<u32> {
        (0..ty.members as usize).find_map(|index| {
            let at = ty.body + 12 * index;
            let member_name = read_u32(self.types, at)?;
            let raw_offset = read_u32(self.types, at + 8)?;
            let offset = if ty.has_bitfields { raw_offset & 0xff_ffff } else { raw_offset };
            if self.is_named(member_name, name) {
                return Some(offset);
            }
            if member_name != 0 || nesting == 0 {
                return None;
            }
            // Type IDs count from 1: 0 is `void`.
            let id = read_u32(self.types, at + 4)?.checked_sub(1)?;
            let inner = self.types().nth(id as usize)?;
            if inner.kind != KIND_STRUCT && inner.kind != KIND_UNION {
                return None;
            }
            offset.checked_add(self.find_member(inner, name, nesting - 1)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// This kernel's BTF names the fields that the kernel half needs.
    #[test]
    fn finds_the_fields_of_the_running_kernel() {
        assert!(has_bpf_loop().unwrap());
        let offsets = read().unwrap();
        assert_ne!(offsets.task_tgid, 0);
        assert_ne!(offsets.task_signal, offsets.task_tgid);
        // From Linux 6.1 on.
        assert_ne!(offsets.memory_tree, 0);
    }

    /// aya finds the tracepoints' types under the IDs that they have in this kernel.
    #[test]
    fn tells_aya_the_tracepoints() {
        use aya_obj::btf::BtfKind;
        let names = ["sys_exit", "sys_enter"];
        let data = kernel_btf().unwrap();
        let kernel = Btf::parse(&data).unwrap();
        let blank = tracepoints(&names).unwrap();
        for name in names.map(|name| format!("btf_trace_{name}")) {
            assert_eq!(blank.id_by_type_name_kind(&name, BtfKind::Typedef).ok(), kernel.typedef(&name));
        }
    }

    /// A member inside an anonymous union is found with the union's offset added.
    #[test]
    fn finds_members_of_anonymous_unions() {
        let strings = b"\0outer\0inner\0";
        let mut types = Vec::new();
        let mut push = |words: &[u32]| words.iter().for_each(|word| types.extend(word.to_ne_bytes()));
        push(&[0, KIND_INT << 24, 4, 32]); // 1: an integer
        push(&[0, KIND_UNION << 24 | 1, 4, 7, 1, 0]); // 2: union { inner }
        push(&[1, KIND_STRUCT << 24 | 2, 8, 0, 2, 64, 0, 1, 0]); // 3: struct outer { union at bit 64; ... }
        let header = [24_u32, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let mut data = vec![];
        data.extend(0xeb9f_u16.to_ne_bytes());
        data.extend([1, 0]);
        header.iter().for_each(|word| data.extend(word.to_ne_bytes()));
        data.extend(&types);
        data.extend(strings);
        assert_eq!(Btf::parse(&data).unwrap().member_offset("outer", "inner"), Some(8));
        assert_eq!(Btf::parse(&data).unwrap().member_offset("outer", "none"), None);
    }

    /// An enumerator counts in its own enumeration only.
    #[test]
    fn finds_enumerators() {
        let strings = b"\0one\0two\0a\0b\0";
        let mut types = Vec::new();
        let mut push = |words: &[u32]| words.iter().for_each(|word| types.extend(word.to_ne_bytes()));
        push(&[1, KIND_ENUM << 24 | 1, 4, 9, 0]); // enum one { a }
        push(&[5, KIND_ENUM << 24 | 2, 4, 9, 0, 11, 1]); // enum two { a, b }
        let btf = Btf { types: &types, strings };
        assert!(btf.has_enumerator("two", "b"));
        assert!(!btf.has_enumerator("one", "b"));
        assert!(!btf.has_enumerator("three", "b"));
    }

    proptest! {
        /// No bytes make the parser panic or run on.
        #[test]
        fn survives_any_bytes(mut data in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(start) = data.first_chunk_mut::<2>() {
                *start = 0xeb9f_u16.to_ne_bytes();
            }
            if let Some(btf) = Btf::parse(&data) {
                let _ = btf.member_offset("a", "b");
                let _ = btf.has_enumerator("a", "b");
            }
        }
    }
}
