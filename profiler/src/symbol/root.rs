//! Files of a target, opened as the target sees them: it may live in another mount namespace, and may be hostile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// A file of a target could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The target is gone, or the file is, or we may not read it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a regular file: reading it could block for ever.
    #[error("not a regular file")]
    NotRegular,
}

/// Opens a regular file for reading by its path inside a process's root folder.
///
/// Links are followed within that root only, so that a target can't point us at files of the host.
///
/// # Errors
/// [`RootError::Io`] when it can't be opened, [`RootError::NotRegular`] for pipes and devices.
pub fn open_in_root(pid: u32, path: &Path) -> Result<File, RootError> {
    let root = format!("/proc/{pid}/root");
    let root = open(root.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(io::Error::from)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file: OwnedFd = openat2(&root, path, how).map_err(io::Error::from)?;
    regular(File::from(file))
}

/// The same for a path of this host, or of `/proc`.
pub(super) fn open_on_host(path: &str) -> Result<File, RootError> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    regular(File::from(open(path, flags, Mode::empty()).map_err(io::Error::from)?))
}

fn regular(file: File) -> Result<File, RootError> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(RootError::NotRegular) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link out of the root folder stays inside; a pipe is refused instead of blocking.
    #[test]
    fn opens_regular_files_only() {
        assert!(open_in_root(std::process::id(), Path::new("/proc/self/cmdline")).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(matches!(open_in_root(std::process::id(), &pipe), Err(RootError::NotRegular)));
    }
}
