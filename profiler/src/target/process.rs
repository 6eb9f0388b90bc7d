//! Reading `/proc`: what the kernel says of one process, and of all of them.
//!
//! A process may end, or its ID may be reused, between two reads. So [`Process`] holds the directory of one process open:
//! the kernel ties that to the process and not to its number.

mod interior;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// The longest command line that is read, in bytes. The kernel allows 2 MiB and more; no server needs that to be known.
const COMMAND_LINE_LIMIT: u64 = 256 * 1024;
/// The longest `stat`, `status` or `comm` that is read, in bytes.
const STATUS_LIMIT: u64 = 64 * 1024;
/// The longest `maps` that is read, in bytes: about 100,000 mappings.
const MAPS_LIMIT: u64 = 16 * 1024 * 1024;
/// `PF_KTHREAD` of `include/linux/sched.h`: field 9 of `/proc/PID/stat` has it for kernel threads.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No process has this ID.
    #[error("no process has the ID {0}: `mcp-profiler list` shows the MCP servers that run")]
    NotFound(u32),
    /// It was there, and ended while it was read.
    #[error("process {0} ended meanwhile")]
    Ended(u32),
    /// The ID is that of a thread.
    #[error("{thread} is a thread of process {process}: use `--pid {process}`")]
    Thread {
        /// The ID that was asked for.
        thread: u32,
        /// The process that it belongs to.
        process: u32,
    },
    /// The kernel does not let this user see it.
    #[error("process {pid} may not be read ({what}): it belongs to another user, run mcp-profiler with sudo")]
    Denied {
        /// The process.
        pid: u32,
        /// The file of `/proc/PID` that was refused.
        what: &'static str,
    },
    /// A read failed, or gave what is not understood.
    #[error("/proc/{pid}/{what} cannot be read: {source}")]
    Read {
        /// The process.
        pid: u32,
        /// The file of `/proc/PID`.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Name of the main thread, at most 15 bytes, set by the process itself.
    pub name: String,
    /// The state's letter, `Z` for one that ended and was not waited for.
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// True for threads of the kernel, which have no user code.
    pub kernel_thread: bool,
    /// Threads.
    pub threads: u64,
    /// Start, in clock ticks since boot (`CLK_TCK` a second).
    pub start_ticks: u64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
}

impl Stat {
    /// True when the process is only waiting to be reaped.
    pub fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Time since its start on `CLOCK_BOOTTIME`.
    pub fn uptime(&self) -> Duration {
        let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return Duration::ZERO };
        let started_ms = self.start_ticks.saturating_mul(1000) / ticks_per_second();
        Duration::from(now).saturating_sub(Duration::from_millis(started_ms))
    }

    /// `stat` as proc(5) describes it: the name stands in parentheses and may itself hold parentheses and spaces.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let name = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of proc(5) is `fields[0]`.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            name,
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(4)?).ok()?,
            kernel_thread: number(9)? & KERNEL_THREAD_FLAG != 0,
            threads: number(20)?,
            start_ticks: number(22)?,
            rss_bytes: number(24)?.saturating_mul(page_bytes()),
        })
    }
}

fn ticks_per_second() -> u64 {
    positive(SysconfVar::CLK_TCK, 100)
}

fn page_bytes() -> u64 {
    positive(SysconfVar::PAGE_SIZE, 4096)
}

fn positive(variable: SysconfVar, otherwise: u64) -> u64 {
    sysconf(variable)
        .ok()
        .flatten()
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value > 0)
        .unwrap_or(otherwise)
}

/// One process, held by its directory in `/proc`: reads never reach another process that got the same ID.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    directory: OwnedFd,
}

impl Process {
    /// The process with this ID.
    ///
    /// # Errors
    /// When there is none, or when it is the ID of a thread.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let path = format!("/proc/{pid}");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory =
            nix::fcntl::open(path.as_str(), flags, Mode::empty()).map_err(|error| match error {
                Errno::ENOENT | Errno::ESRCH | Errno::ENOTDIR => ProcessError::NotFound(pid),
                other => ProcessError::Read { pid, what: "", source: other.into() },
            })?;
        let process = Self { pid, directory };
        match process.status_field("Tgid:")?.and_then(|text| text.parse().ok()) {
            Some(leader) if leader != pid => Err(ProcessError::Thread { thread: pid, process: leader }),
            _ => Ok(process),
        }
    }

    /// Its ID on this host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Name, parent, start, memory.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub fn stat(&self) -> Result<Stat, ProcessError> {
        let text = self.read("stat", STATUS_LIMIT)?;
        Stat::parse(&text).ok_or_else(|| self.malformed("stat"))
    }

    /// Its arguments. Empty for kernel threads and for processes that ended. A process can rewrite them: `npx` makes them one text.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub fn arguments(&self) -> Result<Vec<OsString>, ProcessError> {
        Ok(split_arguments(&self.read("cmdline", COMMAND_LINE_LIMIT)?))
    }

    /// Path of its program as it sees it, without the ` (deleted)` of the kernel.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub fn executable_path(&self) -> Result<PathBuf, ProcessError> {
        let bytes = self.link("exe")?.into_vec();
        let end = bytes.strip_suffix(b" (deleted)").map_or(bytes.len(), <[u8]>::len);
        Ok(PathBuf::from(OsString::from_vec(bytes[..end].to_vec())))
    }

    /// Its program, opened: also when the file was deleted or replaced.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub fn executable(&self) -> Result<File, ProcessError> {
        self.open_entry("exe")
    }

    /// Its current folder as it sees it.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub fn working_directory(&self) -> Result<PathBuf, ProcessError> {
        self.link("cwd").map(PathBuf::from)
    }

    /// Paths of the files that it has mapped, each once, in the order of their addresses. Those that were deleted end in
    /// ` (deleted)`, so that no other file of that name is taken for them.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub fn mapped_files(&self) -> Result<Vec<PathBuf>, ProcessError> {
        let text = self.read("maps", MAPS_LIMIT)?;
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            // The path is the sixth column and starts with a slash; the ones before hold none, or a device of `08:01`.
            let Some(start) = line.iter().position(|byte| *byte == b'/') else { continue };
            let path = &line[start..];
            if seen.insert(path) {
                files.push(PathBuf::from(OsString::from_vec(path.to_vec())));
            }
        }
        Ok(files)
    }

    /// A regular file at a path of the process's own file system. Symbolic links, `..` and absolute paths stay in its root:
    /// a hostile process cannot make a file of the host be read.
    ///
    /// # Errors
    /// When there is no such regular file, or it may not be read.
    pub fn open_in_root(&self, path: &Path) -> io::Result<File> {
        self.open_in_root_with(path, OFlag::empty())
    }

    /// The same, for a file that the process may have written itself: its own user's or root's, and no link.
    ///
    /// # Errors
    /// When there is no such regular file, it may not be read, or it is somebody else's.
    pub fn open_own_in_root(&self, path: &Path) -> io::Result<File> {
        let file = self.open_in_root_with(path, OFlag::O_NOFOLLOW)?;
        let owner = file.metadata()?.uid();
        let users = self.status_field("Uid:").map_err(io::Error::other)?.unwrap_or_default();
        let is_own = users.split_ascii_whitespace().any(|user| user.parse() == Ok(owner));
        if owner == 0 || is_own {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file of another user"))
        }
    }

    fn open_in_root_with(&self, path: &Path, further: OFlag) -> io::Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(&self.directory, "root", flags, Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | further)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = File::from(openat2(&root, path, how)?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Its IDs from this PID namespace inwards: the last one is what the process itself sees.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub fn namespaced_pids(&self) -> Result<Vec<u32>, ProcessError> {
        let text = self.status_field("NSpid:")?.unwrap_or_default();
        Ok(text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect())
    }

    /// Inode of the socket at each of its descriptors.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub fn sockets(&self) -> Result<BTreeMap<i32, u64>, ProcessError> {
        Ok(self
            .descriptors()?
            .into_iter()
            .filter_map(|(number, link)| Some((number, inode(&link, "socket:[")?)))
            .collect())
    }

    /// What each of its descriptors leads to: `pipe:[INODE]`, `socket:[INODE]`, a path.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub fn descriptors(&self) -> Result<BTreeMap<i32, OsString>, ProcessError> {
        // Through the held directory, so that it is the folder of this very process.
        let folder = format!("/proc/self/fd/{}/fd", self.directory.as_raw_fd());
        let listing = std::fs::read_dir(folder)
            .map_err(|error| self.failed("fd", Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        let numbers: Vec<i32> =
            listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // A descriptor may be closed between the two calls.
        Ok(numbers
            .into_iter()
            .filter_map(|number| {
                Some((number, readlinkat(&self.directory, format!("fd/{number}").as_str()).ok()?))
            })
            .collect())
    }

    fn status_field(&self, field: &str) -> Result<Option<String>, ProcessError> {
        let text = self.read("status", STATUS_LIMIT)?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned()))
    }

    fn link(&self, what: &'static str) -> Result<OsString, ProcessError> {
        readlinkat(&self.directory, what).map_err(|error| self.failed(what, error))
    }

    fn open_entry(&self, what: &'static str) -> Result<File, ProcessError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        openat(&self.directory, what, flags, Mode::empty())
            .map(File::from)
            .map_err(|error| self.failed(what, error))
    }

    fn read(&self, what: &'static str, limit: u64) -> Result<Vec<u8>, ProcessError> {
        let mut bytes = Vec::new();
        match self.open_entry(what)?.take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(match error.raw_os_error().map(Errno::from_raw) {
                Some(errno) => self.failed(what, errno),
                None => ProcessError::Read { pid: self.pid, what, source: error },
            }),
        }
    }

    fn failed(&self, what: &'static str, error: Errno) -> ProcessError {
        match error {
            Errno::ESRCH | Errno::ENOENT => ProcessError::Ended(self.pid),
            Errno::EACCES | Errno::EPERM => ProcessError::Denied { pid: self.pid, what },
            other => ProcessError::Read { pid: self.pid, what, source: other.into() },
        }
    }

    fn malformed(&self, what: &'static str) -> ProcessError {
        let source = io::Error::new(io::ErrorKind::InvalidData, "not in the form that proc(5) describes");
        ProcessError::Read { pid: self.pid, what, source }
    }
}

/// The inode in a link like `socket:[4711]`.
fn inode(link: &OsString, prefix: &str) -> Option<u64> {
    link.to_str()?.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

/// Arguments end with a zero byte each. A process that rewrote its title leaves zero bytes after it.
pub(crate) fn split_arguments(bytes: &[u8]) -> Vec<OsString> {
    let rewritten = bytes.ends_with(&[0, 0]) && {
        let title = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
        title > 0 && bytes[title..].iter().all(|byte| *byte == 0)
    };
    if rewritten {
        let title = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        return vec![OsString::from_vec(title.to_vec())];
    }
    let body = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if body.is_empty() {
        return Vec::new();
    }
    body.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect()
}

/// A process in a [`ProcessTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Its parent.
    pub parent: u32,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// The processes of the host at one moment: a plain value, so that what is decided from it can be tested without `/proc`.
/// Kernel threads and processes that ended are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessTable {
    /// Processes by ID.
    pub processes: BTreeMap<u32, TableEntry>,
}

impl ProcessTable {
    /// Reads all processes in one pass over `/proc`. Those that end meanwhile are left out.
    ///
    /// # Errors
    /// When `/proc` itself cannot be listed.
    pub fn read() -> io::Result<Self> {
        let mut processes = BTreeMap::new();
        for pid in all_pids()? {
            let Ok(process) = Process::open(pid) else { continue };
            let (Ok(stat), Ok(arguments)) = (process.stat(), process.arguments()) else { continue };
            if !stat.kernel_thread && !stat.ended() {
                processes.insert(pid, TableEntry { parent: stat.parent, arguments });
            }
        }
        Ok(Self { processes })
    }

    /// Direct children of a process, in the order of their IDs.
    pub fn children(&self, pid: u32) -> Vec<u32> {
        self.processes
            .iter()
            .filter(|(child, entry)| entry.parent == pid && **child != pid)
            .map(|(child, _)| *child)
            .collect()
    }

    /// These processes and all that descend from them, each once: the given ones first, then generation by generation.
    pub fn descendants(&self, roots: &[u32]) -> Vec<u32> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (pid, entry) in &self.processes {
            children.entry(entry.parent).or_default().push(*pid);
        }
        let mut seen = BTreeSet::new();
        let mut found: Vec<u32> = roots.iter().copied().filter(|pid| seen.insert(*pid)).collect();
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            found.extend(children.get(&pid).into_iter().flatten().filter(|child| seen.insert(**child)));
            next += 1;
        }
        found
    }

    /// The parent, its parent and so on, nearest first.
    pub fn ancestors(&self, pid: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut current = pid;
        while let Some(entry) = self.processes.get(&current) {
            if entry.parent == 0 || entry.parent == pid || found.contains(&entry.parent) {
                break;
            }
            found.push(entry.parent);
            current = entry.parent;
        }
        found
    }

    /// The arguments of a process; none when it is not in the table.
    pub fn arguments(&self, pid: u32) -> &[OsString] {
        self.processes.get(&pid).map_or(&[], |entry| &entry.arguments)
    }
}

/// IDs of all processes of this PID namespace.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn all_pids() -> io::Result<Vec<u32>> {
    Ok(std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// Arguments as one line of text: for people, and for [`crate::recording::Process::command`].
pub fn command_line(arguments: &[OsString]) -> String {
    let words: Vec<_> =
        arguments.iter().map(|argument| String::from_utf8_lossy(argument.as_bytes())).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with spaces and parentheses does not shift the fields.
    #[test]
    fn stat_survives_a_hostile_name() {
        let text = b"77 (a) R (b 1) S 5 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 11 0 4321 1000 25 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent), ("a) R (b 1", 'S', 5));
        assert_eq!((stat.threads, stat.start_ticks, stat.rss_bytes), (11, 4321, 25 * page_bytes()));
        assert!(!stat.kernel_thread);
    }

    /// A shortened `stat` is refused, never a panic.
    #[test]
    fn stat_refuses_what_is_not_one() {
        for text in [&b""[..], b")(", b"1 (x", b"1 (x) S", b"1 (x) S a b c"] {
            assert_eq!(Stat::parse(text), None);
        }
    }

    /// Plain arguments, an empty last argument, a rewritten title and no arguments at all are told apart.
    #[test]
    fn arguments_are_split_at_zero_bytes() {
        assert_eq!(split_arguments(b"node\0a.js\0"), ["node", "a.js"]);
        assert_eq!(split_arguments(b"node\0a.js\0\0"), ["node", "a.js", ""]);
        assert_eq!(split_arguments(b"npm exec x\0\0\0\0"), ["npm exec x"]);
        assert_eq!(split_arguments(b"node\0a"), ["node", "a"]);
        assert!(split_arguments(b"").is_empty());
    }

    /// This very process is found with its real parent, arguments and memory.
    #[test]
    fn reads_the_running_test() {
        let process = Process::open(std::process::id()).unwrap();
        let stat = process.stat().unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        assert!(stat.rss_bytes > 0 && stat.threads >= 1 && !stat.kernel_thread);
        assert_eq!(process.arguments().unwrap(), std::env::args_os().collect::<Vec<_>>());
        assert_eq!(process.executable_path().unwrap(), std::env::current_exe().unwrap());
        assert_eq!(process.namespaced_pids().unwrap().first(), Some(&std::process::id()));
        assert!(process.mapped_files().unwrap().contains(&std::env::current_exe().unwrap()));
    }

    /// A process that ended while it is held is told apart from one that never was.
    #[test]
    fn ended_and_unknown_are_different_errors() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(process.stat(), Err(ProcessError::Ended(_))));
        assert!(matches!(Process::open(0x3fff_ffff), Err(ProcessError::NotFound(_))));
    }

    /// A thread's ID leads to its process.
    #[test]
    fn a_thread_is_not_a_process() {
        let thread = nix::unistd::gettid().as_raw().unsigned_abs();
        match Process::open(thread) {
            Err(ProcessError::Thread { process, .. }) => assert_eq!(process, std::process::id()),
            Ok(_) => assert_eq!(thread, std::process::id()),
            Err(other) => panic!("{other}"),
        }
    }

    /// Descendants are found through generations, and a table that lies in a circle ends.
    #[test]
    fn descendants_end_in_a_circle() {
        let entry = |parent| TableEntry { parent, arguments: Vec::new() };
        let table = ProcessTable {
            processes: [(1, entry(0)), (2, entry(1)), (3, entry(2)), (5, entry(6)), (6, entry(5))].into(),
        };
        assert_eq!(table.descendants(&[1]), [1, 2, 3]);
        assert_eq!(table.descendants(&[5]), [5, 6]);
        assert_eq!(table.ancestors(3), [2, 1]);
        assert_eq!(table.ancestors(5), [6]);
    }
}
