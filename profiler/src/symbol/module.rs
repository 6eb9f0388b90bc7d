//! The files that code came from. Each is opened when it is first seen mapped and kept open, so that it can be
//! read later even if it was deleted or replaced meanwhile.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use object::read::{Object, ObjectSection, ObjectSegment, ReadCache};
use profiler_common::{Interpreter, TlsFunction};

use super::compressed;
use super::go;
use super::namer::Name;
use super::tls;
use crate::capture::FileIdentity;
use crate::target::Process;
use crate::unwind::v8::V8;
use crate::unwind::{AsyncioOffsets, Cache, PythonImage, Table, function_starts, read_table_with};

/// Index of a [`Module`] in [`Modules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(u32);

impl ModuleId {
    /// The ID with this index.
    pub fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Its index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Something that code came from.
#[derive(Debug)]
pub struct Module {
    /// Path as the process saw it, or a label such as `[vdso]`.
    pub path: String,
    /// What can be known of it.
    pub image: Image,
}

/// What a module's code can be named by.
#[derive(Debug)]
pub enum Image {
    /// An ELF file.
    Elf(Box<ElfImage>),
    /// Memory without a file, filled by a runtime: names come from perf maps.
    Jit,
    /// Nothing: the file could not be opened, or is no ELF file.
    Opaque,
}

/// An ELF file, kept open.
#[derive(Debug)]
pub struct ElfImage {
    file: File,
    /// When it was written to last, when it was opened.
    modified: Option<SystemTime>,
    debug_file: Option<File>,
    segments: Vec<LoadSegment>,
    /// Its GNU build ID, in hexadecimal.
    pub build_id: Option<String>,
    interpreters: Vec<InterpreterCode>,
    /// The CPython in it.
    pub(crate) python: Option<Arc<PythonImage>>,
    /// What CPython's `_asyncio` says of itself, if it is in the file.
    pub(crate) asyncio: Option<AsyncioOffsets>,
    /// The V8 in it.
    v8: Option<V8>,
    /// The functions of a TLS library in it, with their offsets in the file.
    tls: Vec<(TlsFunction, u64)>,
    /// Start and end of each linkage table, in the file's own address space.
    linkage: Vec<(u64, u64)>,
    names_path: OnceLock<Option<PathBuf>>,
}

/// Linkage tables of one file that are known: compilers make three at most.
const MAX_LINKAGE_TABLES: usize = 16;

/// Code in which an interpreter runs, in its file's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterpreterCode {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) interpreter: Interpreter,
}

/// What a look into a file tells. Sections that it reads are in memory until it ends, up to megabytes each: looks for different
/// things come one after the other.
fn look_into<T>(
    file: &File,
    look: impl for<'file> FnOnce(&object::File<'file, &'file ReadCache<&'file File>>) -> T,
) -> Option<T> {
    let cache = ReadCache::new(file);
    object::File::parse(&cache).ok().map(|object| look(&object))
}

#[derive(Clone, Copy, Debug)]
struct LoadSegment {
    file_start: u64,
    file_end: u64,
    address: u64,
}

/// Size of a page on x86-64.
const PAGE_SIZE: u64 = 4096;

impl ElfImage {
    /// An ELF file of this host; `None` when it is none.
    pub fn from_file(file: File) -> Option<Self> {
        Self::open(file, std::process::id(), Path::new(""))
    }

    fn open(file: File, pid: u32, path: &Path) -> Option<Self> {
        let cache = ReadCache::new(&file);
        let object = object::File::parse(&cache).ok()?;
        let segments: Vec<LoadSegment> = object
            .segments()
            .filter(|segment| segment.permissions().executable())
            .map(|segment| {
                let (offset, length) = segment.file_range();
                LoadSegment {
                    file_start: offset,
                    file_end: offset.saturating_add(length),
                    address: segment.address(),
                }
            })
            .collect();
        let build_id = object.build_id().ok().flatten().map(<[u8]>::to_vec);
        let debug_file = build_id.as_deref().and_then(|id| find_debug_file(id, pid));
        let is_linkage = |name: &str| name == ".plt" || name.starts_with(".plt.");
        let linkage = object
            .sections()
            .filter(|section| section.name().is_ok_and(is_linkage))
            .map(|section| (section.address(), section.address().saturating_add(section.size())))
            .take(MAX_LINKAGE_TABLES)
            .collect();
        drop(object);
        drop(cache);
        let python = look_into(&file, |object| PythonImage::read(object, path)).flatten().map(Arc::new);
        let asyncio = look_into(&file, AsyncioOffsets::read).flatten();
        #[expect(clippy::redundant_closure, reason = "the function itself is of one lifetime")]
        let v8 = look_into(&file, |object| V8::read(object)).flatten();
        #[expect(clippy::redundant_closure, reason = "the function itself is of one lifetime")]
        let tls = look_into(&file, |object| tls::functions(object)).unwrap_or_default();
        let file_offset = |address: u64| {
            let mut segments = segments.iter();
            segments.find_map(|segment| {
                let offset = segment.file_start.checked_add(address.checked_sub(segment.address)?)?;
                (offset < segment.file_end).then_some(offset)
            })
        };
        let tls = tls
            .into_iter()
            .filter_map(|(function, address)| Some((function, file_offset(address)?)))
            .collect();
        let builtins = v8.as_ref().filter(|v8| v8.layout.is_some() && !v8.builtins.is_empty());
        let builtins = builtins.map(|v8| (v8.builtins.start, v8.builtins.end, Interpreter::V8));
        let evaluation = python.iter().flat_map(|python| &python.evaluation);
        let evaluation = evaluation.map(|&(start, end)| (start, end, Interpreter::Python));
        let mut interpreters: Vec<InterpreterCode> = builtins
            .into_iter()
            .chain(evaluation)
            .map(|(start, end, interpreter)| InterpreterCode { start, end, interpreter })
            .collect();
        interpreters.sort_by_key(|code| code.start);
        Some(Self {
            interpreters,
            python,
            asyncio,
            v8,
            tls,
            linkage,
            names_path: OnceLock::new(),
            debug_file,
            segments,
            build_id: build_id.as_deref().map(hex),
            modified: modified(&file),
            file,
        })
    }

    /// Whether the file has other content now than when it was opened.
    fn was_overwritten(&self) -> bool {
        modified(&self.file) != self.modified
    }

    /// Where an offset in the file is in the file's own address space (`p_vaddr` of its program headers). A mapping
    /// of a segment starts with the page that the segment starts in, at times before the segment itself.
    fn address(&self, file_offset: u64) -> Option<u64> {
        self.segments
            .iter()
            .find(|segment| (segment.file_start & !(PAGE_SIZE - 1)..segment.file_end).contains(&file_offset))
            .map(|segment| segment.address.wrapping_add(file_offset.wrapping_sub(segment.file_start)))
    }

    /// How to unwind its code. Read anew each time, if not from the cache: the kernel half keeps it.
    pub(crate) fn unwind_table(&self, cache: Option<&Cache>) -> Table {
        read_table_with(&self.file, cache.zip(self.build_id.as_deref()))
    }

    /// For each address in the file's own address space its functions, outermost first, when it is a Go program.
    pub(super) fn go_names(&self, addresses: &[u64]) -> Vec<Vec<Name>> {
        go::names(&self.file, addresses)
    }

    /// Whether an address in the file's own address space is in a stub that leads to a function of another file.
    pub(super) fn is_linkage(&self, address: u64) -> bool {
        self.linkage.iter().any(|(start, end)| (*start..*end).contains(&address))
    }

    /// Where the functions start that addresses belong to, for code without names.
    pub(crate) fn function_starts(&self, addresses: &[u64]) -> Vec<Option<u64>> {
        function_starts(&self.file, addresses)
    }

    /// A path under which the best source of names can be opened while this value lives; `None` where reading it
    /// would take too much memory.
    pub fn names_path(&self) -> Option<&Path> {
        let path = self.names_path.get_or_init(|| {
            let file =
                self.debug_file.iter().chain([&self.file]).find(|file| compressed::are_bounded(file))?;
            Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
        });
        path.as_deref()
    }
}

impl Module {
    /// The address by which frames of this module are known: in its file's own address space where there is a
    /// file, else as the process sees it.
    pub fn address(&self, address: u64, mapping_start: u64, file_offset: u64) -> u64 {
        match &self.image {
            Image::Elf(elf) => {
                let in_file = address - mapping_start + file_offset;
                elf.address(in_file).unwrap_or(in_file)
            }
            Image::Jit => address,
            Image::Opaque => address - mapping_start + file_offset,
        }
    }

    /// Where interpreters run in it: in order, without overlap.
    pub(crate) fn interpreters(&self) -> &[InterpreterCode] {
        match &self.image {
            Image::Elf(elf) => &elf.interpreters,
            Image::Jit | Image::Opaque => &[],
        }
    }

    /// The functions of a TLS library in it: their offsets in the file. `None` where there are none.
    pub(crate) fn tls_functions(&self) -> Option<(&File, &[(TlsFunction, u64)])> {
        match &self.image {
            Image::Elf(elf) if !elf.tls.is_empty() => Some((&elf.file, &elf.tls)),
            _ => None,
        }
    }

    /// The V8 in it.
    pub(crate) fn v8(&self) -> Option<&V8> {
        match &self.image {
            Image::Elf(elf) => elf.v8.as_ref(),
            Image::Jit | Image::Opaque => None,
        }
    }

    /// Its GNU build ID, in hexadecimal.
    pub fn build_id(&self) -> Option<&str> {
        match &self.image {
            Image::Elf(elf) => elf.build_id.as_deref(),
            Image::Jit | Image::Opaque => None,
        }
    }
}

/// All modules seen so far.
#[derive(Debug, Default)]
pub struct Modules {
    modules: Vec<Module>,
    by_file: HashMap<FileIdentity, ModuleId>,
    by_label: HashMap<String, ModuleId>,
    unreadable: u64,
}

impl Modules {
    /// The module with this ID.
    pub fn get(&self, id: ModuleId) -> Option<&Module> {
        self.modules.get(id.index())
    }

    /// How many mapped files could not be opened, so that their code has no names.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The module that a process just mapped.
    pub(crate) fn resolve(
        &mut self,
        pid: u32,
        file: FileIdentity,
        path: &str,
        start: u64,
        end: u64,
    ) -> ModuleId {
        if path == "[vdso]" {
            return self.labelled(path, vdso);
        }
        if is_memory_only(path, file) {
            return self.labelled("[jit]", || Image::Jit);
        }
        if file == FileIdentity::default() {
            return self.labelled(path, || Image::Opaque);
        }
        if let Some(id) = self.by_file.get(&file) {
            match self.get(*id).map(|module| &module.image) {
                Some(Image::Elf(elf)) if elf.was_overwritten() => {}
                _ => return *id,
            }
        }
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let opened = open_mapped_file(pid, file, path, start, end);
        self.unreadable += u64::from(opened.is_none());
        // One that could not be opened is tried again when it is next mapped.
        let Some(elf) = opened.and_then(|opened| ElfImage::open(opened, pid, Path::new(path))) else {
            return self.labelled(path, || Image::Opaque);
        };
        let id = self.push(Module { path: path.to_owned(), image: Image::Elf(Box::new(elf)) });
        // While the file is open its inode can't be given to another one.
        self.by_file.insert(file, id);
        id
    }

    fn labelled(&mut self, label: &str, image: impl FnOnce() -> Image) -> ModuleId {
        if let Some(id) = self.by_label.get(label) {
            return *id;
        }
        let id = self.push(Module { path: label.to_owned(), image: image() });
        self.by_label.insert(label.to_owned(), id);
        id
    }

    fn push(&mut self, module: Module) -> ModuleId {
        self.modules.push(module);
        ModuleId::from_index(self.modules.len() - 1)
    }
}

/// When a file was written to last.
fn modified(file: &File) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Anonymous memory, and the kinds of files that runtimes use in its place.
fn is_memory_only(path: &str, file: FileIdentity) -> bool {
    const LABELS: [&str; 8] =
        ["//anon", "/memfd:", "/dev/zero", "/anon_hugepage", "[anon", "[heap]", "[stack", "/SYSV"];
    (path.is_empty() && file == FileIdentity::default()) || LABELS.iter().any(|label| path.starts_with(label))
}

/// The file behind a mapping: through the mapping itself, or by its path while that is still the same file.
fn open_mapped_file(pid: u32, identity: FileIdentity, path: &str, start: u64, end: u64) -> Option<File> {
    // Another file may be mapped there by now. Its inode tells; not its device, which some file systems report
    // differently for a mapping and for a file.
    let same_inode = |file: &File| file.metadata().is_ok_and(|metadata| metadata.ino() == identity.inode);
    let mapped = open_on_host(&format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
    if let Some(file) = mapped.ok().filter(same_inode) {
        return Some(file);
    }
    let same = |file: &File| {
        file.metadata().is_ok_and(|metadata| {
            metadata.ino() == identity.inode
                && nix::sys::stat::major(metadata.dev()) == u64::from(identity.major)
                && nix::sys::stat::minor(metadata.dev()) == u64::from(identity.minor)
        })
    };
    open_in_root(pid, path).ok().filter(same).or_else(|| open_on_host(path).ok().filter(same))
}

fn open_in_root(pid: u32, path: &str) -> io::Result<File> {
    Process::open(pid).map_err(io::Error::other)?.open_in_root(Path::new(path))
}

fn open_on_host(path: &str) -> io::Result<File> {
    // Without blocking: it could be a pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// A separate debug file, where distributions put it.
fn find_debug_file(build_id: &[u8], pid: u32) -> Option<File> {
    let (first, rest) = build_id.split_first()?;
    let path = format!("/usr/lib/debug/.build-id/{}/{}.debug", hex(&[*first]), hex(rest));
    let file = open_in_root(pid, &path).or_else(|_| open_on_host(&path)).ok()?;
    let cache = ReadCache::new(&file);
    let matches = object::File::parse(&cache).ok()?.build_id().ok()? == Some(build_id);
    matches.then_some(file)
}

/// This host's vDSO, which is the same in every process: copied from our own memory.
fn vdso() -> Image {
    // SAFETY: asks for a value of the auxiliary vector, which has no preconditions.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let copy = || -> Option<File> {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
        let (first, last) = line.split(' ').next()?.split_once('-')?;
        let (first, last) = (u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?);
        if first != start {
            return None;
        }
        // SAFETY: the range is a readable mapping of this process, which is never unmapped.
        let bytes = unsafe { std::slice::from_raw_parts(first as *const u8, (last - first) as usize) };
        let memory = nix::sys::memfd::memfd_create(c"vdso", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).ok()?;
        let mut file = File::from(memory);
        file.write_all(bytes).ok()?;
        Some(file)
    };
    copy()
        .and_then(|file| ElfImage::open(file, std::process::id(), Path::new("[vdso]")))
        .map_or(Image::Opaque, |elf| Image::Elf(Box::new(elf)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping that starts before its segment, within a page, belongs to that segment.
    #[test]
    fn mappings_start_with_a_page() {
        let segment = |file_start, file_end, address| LoadSegment { file_start, file_end, address };
        let segments = vec![segment(0xca00, 0x1_5000, 0xda00)];
        let file = File::open("/proc/self/exe").unwrap();
        let image = ElfImage {
            modified: None,
            tls: Vec::new(),
            interpreters: Vec::new(),
            python: None,
            asyncio: None,
            v8: None,
            linkage: vec![(0x1020, 0x1060)],
            names_path: OnceLock::new(),
            file,
            debug_file: None,
            segments,
            build_id: None,
        };
        assert_eq!(image.address(0xc000), Some(0xd000));
        assert_eq!(image.address(0xca10), Some(0xda10));
        assert_eq!(image.address(0xbfff), None);
        assert_eq!(image.address(0x1_5000), None);
        assert_eq!([0x101f, 0x1020, 0x1060].map(|at| image.is_linkage(at)), [false, true, false]);
    }

    /// The vDSO is an ELF file in memory, and its functions can be named.
    #[test]
    fn vdso_is_readable() {
        assert!(matches!(vdso(), Image::Elf(_)));
    }

    /// What runtimes write code into counts as JIT; labels and files do not.
    #[test]
    fn tells_memory_from_files() {
        let none = FileIdentity::default();
        assert!(is_memory_only("", none) && is_memory_only("//anon", none));
        assert!(is_memory_only("/memfd:doublemapper (deleted)", FileIdentity { inode: 5, ..none }));
        assert!(!is_memory_only("/usr/bin/node", FileIdentity { inode: 5, ..none }));
        assert!(!is_memory_only("[vsyscall]", none));
    }

    /// A file without code that is mapped again and again is one module.
    #[test]
    fn opaque_files_do_not_pile_up() {
        let mut modules = Modules::default();
        let file = FileIdentity { inode: u64::MAX, ..FileIdentity::default() };
        let mut map = |path| modules.resolve(std::process::id(), file, path, 0, 1);
        assert_eq!(map("/no/such/file"), map("/no/such/file (deleted)"));
        assert_ne!(map("/no/such/file"), map("/no/other/file"));
        assert_eq!((modules.modules.len(), modules.unreadable()), (2, 4));
    }

    /// This test's own binary is found through its mapping, with its build ID when it has one.
    #[test]
    fn opens_a_mapped_file() {
        let pid = std::process::id();
        let mapping = crate::capture::read_maps(pid)
            .unwrap()
            .into_iter()
            .find(|map| map.path.contains("mcp_profiler"))
            .unwrap();
        let mut modules = Modules::default();
        let id = modules.resolve(pid, mapping.file, &mapping.path, mapping.start, mapping.end);
        assert!(matches!(modules.get(id).unwrap().image, Image::Elf(_)));
        assert_eq!(modules.resolve(pid, mapping.file, &mapping.path, 0, 0), id);
    }
}
