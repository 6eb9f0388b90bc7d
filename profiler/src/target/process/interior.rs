//! What only those need who talk to a process itself: its user, how it takes signals, folders of its own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstatat};

use super::{Process, ProcessError};

/// Threads whose names are read.
const MAX_THREADS: usize = 4096;

impl Process {
    /// Its user namespace, as a text to compare.
    ///
    /// # Errors
    /// When it ended meanwhile, or belongs to another user.
    pub(crate) fn user_namespace(&self) -> Result<std::ffi::OsString, ProcessError> {
        self.link("ns/user")
    }

    /// The user and the group that it acts as.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub(crate) fn effective_user(&self) -> Result<(u32, u32), ProcessError> {
        // Real, effective, saved, file system: proc_pid_status(5).
        let effective = |field: &str| {
            let ids = self.status_field(field)?;
            let id = ids.as_deref().and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok());
            id.ok_or_else(|| self.malformed("status"))
        };
        Ok((effective("Uid:")?, effective("Gid:")?))
    }

    /// Whether it has a handler for a signal.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub(crate) fn catches(&self, signal: Signal) -> Result<bool, ProcessError> {
        let mask = self.status_field("SigCgt:")?;
        let mask = mask.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        Ok(mask.ok_or_else(|| self.malformed("status"))? & 1 << (signal as i32 - 1) != 0)
    }

    /// Sends it a signal: to it and to no other process that has its ID later.
    ///
    /// # Errors
    /// When it ended meanwhile, or may not be signalled.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(&self.directory, ".", flags, Mode::empty())?;
        // SAFETY: the call takes no memory of ours; a folder of /proc stands for its process (pidfd_send_signal(2)).
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                directory.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Names of its threads: of the first few thousand.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub(crate) fn thread_names(&self) -> Result<Vec<String>, ProcessError> {
        let folder = format!("/proc/self/fd/{}/task", self.directory.as_raw_fd());
        let threads = std::fs::read_dir(folder).map_err(|_| ProcessError::Ended(self.pid))?;
        // A thread may end between the two calls.
        let names = threads
            .flatten()
            .take(MAX_THREADS)
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        Ok(names.map(|name| name.trim_end().to_owned()).collect())
    }

    /// Whether its folder in `/proc` has something under this path; a link at the end is not followed.
    pub(crate) fn has_entry(&self, path: &Path) -> bool {
        fstatat(&self.directory, path, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// A folder of the process's own file system, to make and remove files in; links stay in its root.
    ///
    /// # Errors
    /// When there is no such folder, or it may not be opened.
    pub(crate) fn open_folder_in_root(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(&self.directory, "root", flags, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        Ok(openat2(&root, path, OpenHow::new().flags(flags).resolve(resolve))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This very process: its user, its threads, and a signal that it does not handle.
    #[test]
    fn reads_the_running_test() {
        let process = Process::open(std::process::id()).unwrap();
        let user = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        assert_eq!(process.effective_user().unwrap(), user);
        assert!(!process.catches(Signal::SIGQUIT).unwrap() && process.catches(Signal::SIGSEGV).unwrap());
        assert!(!process.thread_names().unwrap().is_empty());
        assert!(process.has_entry("cwd/Cargo.toml".as_ref()) && !process.has_entry("cwd/none".as_ref()));
    }

    /// A signal reaches the process that is held, and nobody once that has ended.
    #[test]
    fn signals_only_that_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        process.signal(Signal::SIGTERM).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(process.signal(Signal::SIGTERM).is_err());
    }
}
