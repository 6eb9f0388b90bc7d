//! The other side: a process, its user, and the files in its `/tmp` by which it is talked to. They may be a hostile user's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, unlinkat};

use super::AskError;
use crate::target::Process;

/// Where runtimes put their sockets and perf maps.
pub(super) const FOLDER: &str = "/tmp";
/// How long a runtime may be silent while it writes the map.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn system(what: &'static str) -> impl Fn(Errno) -> AskError {
    move |error| AskError::System { what, source: error.into() }
}

pub(super) fn stream(what: &'static str) -> impl Fn(io::Error) -> AskError {
    move |source| AskError::System { what, source }
}

pub(super) struct Peer<'a> {
    pub(super) process: &'a Process,
    /// Its ID in its own PID namespace.
    pub(super) pid: u32,
    pub(super) user: Uid,
    pub(super) group: Gid,
    /// `/tmp` as it sees it.
    pub(super) folder: OwnedFd,
    /// In its user namespace the host's root may be nobody.
    is_elsewhere: bool,
}

/// Removes a perf map that a request made.
pub(crate) fn remove_perf_map(process: &Process) {
    // Otherwise it is only litter: the next process with this ID does not believe it, since it is older.
    if let Ok(peer) = Peer::of(process)
        && matches!(peer.check_map(), Ok(true))
    {
        let _ = unlinkat(&peer.folder, peer.map_name().as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

impl<'a> Peer<'a> {
    /// # Errors
    /// When the process ended, or has no `/tmp`.
    pub(super) fn of(process: &'a Process) -> Result<Self, AskError> {
        let (user, group) = process.effective_user()?;
        let folder = process.open_folder_in_root(FOLDER.as_ref()).map_err(stream("cannot open its /tmp"))?;
        Ok(Self {
            process,
            pid: process.namespaced_pids()?.last().copied().unwrap_or(process.pid()),
            user: Uid::from_raw(user),
            group: Gid::from_raw(group),
            folder,
            is_elsewhere: process.user_namespace()? != Process::open(std::process::id())?.user_namespace()?,
        })
    }

    fn map_name(&self) -> String {
        format!("perf-{}.map", self.pid)
    }

    fn stat(&self, name: &str) -> Result<Option<FileStat>, AskError> {
        match fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(system("cannot look into its /tmp")(error)),
        }
    }

    fn is_own(&self, stat: &FileStat, kind: SFlag) -> bool {
        let is_kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind;
        is_kind && (stat.st_uid == self.user.as_raw() || stat.st_uid == 0)
    }

    /// Whether there is a regular file of its user or of root.
    pub(super) fn has_own_file(&self, name: &str) -> Result<bool, AskError> {
        Ok(self.stat(name)?.is_some_and(|stat| self.is_own(&stat, SFlag::S_IFREG)))
    }

    /// Whether the perf map is there. The runtime follows a link and empties a file that is there: neither may be another's.
    pub(super) fn check_map(&self) -> Result<bool, AskError> {
        let name = self.map_name();
        let Some(stat) = self.stat(&name)? else { return Ok(false) };
        let path = format!("{FOLDER}/{name}");
        if !self.is_own(&stat, SFlag::S_IFREG) {
            return Err(AskError::Obstructed(path));
        }
        if self.process.descriptors()?.values().any(|open| *open == *path) {
            return Err(AskError::WritesItself(path));
        }
        Ok(true)
    }

    /// A connection to a socket of its in `/tmp`; `None` when there is none.
    pub(super) fn connect(&self, name: &str) -> Result<Option<UnixStream>, AskError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = match openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(system("cannot open its socket")(error)),
        };
        let stat = nix::sys::stat::fstat(&file).map_err(system("cannot open its socket"))?;
        if !self.is_own(&stat, SFlag::S_IFSOCK) {
            return Err(AskError::Obstructed(format!("{FOLDER}/{name}")));
        }
        // Not blocking: a full queue of a runtime that hangs is an error at once.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(system("cannot make a socket"))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let address = UnixAddr::new(path.as_str()).map_err(system("cannot connect to it"))?;
        let connected = if self.is_elsewhere {
            self.connect_as_its_user(&socket, &address)
        } else {
            connect(socket.as_raw_fd(), &address)
        };
        connected.map_err(system("cannot connect to it"))?;
        let connection = UnixStream::from(socket);
        let talk = stream("cannot talk to it");
        connection.set_nonblocking(false).map_err(&talk)?;
        connection.set_read_timeout(Some(ANSWER_LIMIT)).map_err(&talk)?;
        connection.set_write_timeout(Some(ANSWER_LIMIT)).map_err(&talk)?;
        Ok(Some(connection))
    }

    /// Connects as its own user, whom it trusts: the other side sees who connected. In a thread that does nothing else and
    /// ends, since a thread's user is its own for the kernel.
    fn connect_as_its_user(&self, socket: &OwnedFd, address: &UnixAddr) -> Result<(), Errno> {
        let (user, group) = (self.user.as_raw(), self.group.as_raw());
        let attempt = || {
            // SAFETY: the calls take no memory. Made directly, they change this thread and no other (nptl(7)).
            let changed = unsafe {
                libc::syscall(libc::SYS_setresgid, group, group, group) == 0
                    && libc::syscall(libc::SYS_setresuid, user, user, user) == 0
            };
            if changed { connect(socket.as_raw_fd(), address) } else { Err(Errno::last()) }
        };
        std::thread::scope(|scope| scope.spawn(attempt).join()).unwrap_or(Err(Errno::EINVAL))
    }
}
