//! Asks a running HotSpot machine for a perf map, by the protocol of its attach mechanism
//! (`src/hotspot/os/posix/attachListener_posix.cpp` and `src/jdk.attach/linux/classes/sun/tools/attach/VirtualMachineImpl.java`
//! of OpenJDK 17): a file `.attach_pidN` and SIGQUIT start a listener at the socket `/tmp/.java_pidN`, which takes commands.
//!
//! SIGQUIT ends a process that does not handle it, and makes a machine that does not want to attach print its threads to
//! standard output, which may be the server's connection. So it is sent only when neither can happen.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::vm::HotSpot;
use crate::target::{Process, ProcessError};

/// `Compiler.perfmap` came with this release.
const FIRST_MAJOR: u32 = 17;
/// How long a machine may take to open its socket.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
/// How long it may be silent while it writes the map.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Most bytes of an answer that are read.
const ANSWER_BYTES: u64 = 4096;
const POLL: Duration = Duration::from_millis(10);
/// Version 1 of the protocol, a command and its three arguments, each ended by a zero byte.
const REQUEST: &[u8] = b"1\0jcmd\0Compiler.perfmap\0\0\0";
/// Where the machine looks, whatever `java.io.tmpdir` says.
const FOLDER: &str = "/tmp";

/// Why a machine was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("Java {0} has no Compiler.perfmap: it came with Java 17")]
    TooOld(u32),
    #[error("the JVM was started with -XX:+DisableAttachMechanism")]
    Disabled,
    #[error("the JVM does not handle SIGQUIT: it was started with -Xrs, or is still starting")]
    NoSignal,
    #[error("the JVM runs in another user namespace, where it would refuse the host's root")]
    OtherUserNamespace,
    #[error("a file of another user is in the way: {0}")]
    Obstructed(String),
    #[error("an agent keeps {0} open and writes names itself")]
    HasAgent(String),
    #[error("the JVM did not open its socket within {} s", LISTEN_LIMIT.as_secs())]
    NoListener,
    #[error("the JVM answered: {0}")]
    Refused(String),
    #[error("the process ended or could not be read: {0}")]
    Process(#[from] ProcessError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl Fn(Errno) -> AttachError {
    move |error| AttachError::System { what, source: error.into() }
}

fn stream(what: &'static str) -> impl Fn(io::Error) -> AttachError {
    move |source| AttachError::System { what, source }
}

/// The target, as files of the attach mechanism know it.
struct Peer<'a> {
    process: &'a Process,
    /// Its ID in its own PID namespace.
    pid: u32,
    user: Uid,
    group: Gid,
    /// `/tmp` as it sees it.
    folder: OwnedFd,
}

/// Has the machine write the names of all code that it compiled into its perf map. Returns whether the map was there before.
///
/// # Errors
/// Nothing was sent where the error says why the machine can't be asked.
pub(crate) fn request_perf_map(process: &Process, machine: &HotSpot) -> Result<bool, AttachError> {
    if machine.major < FIRST_MAJOR {
        return Err(AttachError::TooOld(machine.major));
    }
    if machine.disables_attach {
        return Err(AttachError::Disabled);
    }
    let peer = Peer::of(process)?;
    let existed = peer.check_map()?;
    let connection = match peer.connect()? {
        Some(connection) => connection,
        None if machine.reduces_signals => return Err(AttachError::NoSignal),
        None => peer.start_listener()?,
    };
    ask(connection)?;
    Ok(existed)
}

fn map_name(pid: u32) -> String {
    format!("perf-{pid}.map")
}

/// Removes a map that a request made.
pub(crate) fn remove_perf_map(process: &Process) {
    // It is only litter: the next process with this ID does not believe it, since it is older.
    if let Ok(peer) = Peer::of(process)
        && matches!(peer.check_map(), Ok(true))
    {
        let _ = unlinkat(&peer.folder, map_name(peer.pid).as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn namespaced_pid(process: &Process) -> Result<u32, ProcessError> {
    Ok(process.namespaced_pids()?.last().copied().unwrap_or(process.pid()))
}

impl<'a> Peer<'a> {
    fn of(process: &'a Process) -> Result<Self, AttachError> {
        if process.user_namespace()? != Process::open(std::process::id())?.user_namespace()? {
            return Err(AttachError::OtherUserNamespace);
        }
        let (user, group) = process.effective_user()?;
        let folder = process.open_folder_in_root(FOLDER.as_ref()).map_err(stream("cannot open its /tmp"))?;
        Ok(Self {
            process,
            pid: namespaced_pid(process)?,
            user: Uid::from_raw(user),
            group: Gid::from_raw(group),
            folder,
        })
    }

    fn stat(&self, name: &str) -> Result<Option<FileStat>, AttachError> {
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

    /// Whether the map is there. The machine follows a link and empties a file that is there: neither may be another's.
    fn check_map(&self) -> Result<bool, AttachError> {
        let name = map_name(self.pid);
        let Some(stat) = self.stat(&name)? else { return Ok(false) };
        let path = format!("{FOLDER}/{name}");
        if !self.is_own(&stat, SFlag::S_IFREG) {
            return Err(AttachError::Obstructed(path));
        }
        if self.process.descriptors()?.values().any(|open| *open == *path) {
            return Err(AttachError::HasAgent(path));
        }
        Ok(true)
    }

    /// A connection to the listener; `None` when it does not listen yet.
    fn connect(&self) -> Result<Option<UnixStream>, AttachError> {
        let name = format!(".java_pid{}", self.pid);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = match openat(&self.folder, name.as_str(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(system("cannot open the JVM's socket")(error)),
        };
        let stat = nix::sys::stat::fstat(&file).map_err(system("cannot open the JVM's socket"))?;
        if !self.is_own(&stat, SFlag::S_IFSOCK) {
            return Err(AttachError::Obstructed(format!("{FOLDER}/{name}")));
        }
        // Not blocking: a full queue of a machine that hangs is an error at once.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(system("cannot make a socket"))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let address = UnixAddr::new(path.as_str()).map_err(system("cannot connect to the JVM"))?;
        connect(socket.as_raw_fd(), &address).map_err(system("cannot connect to the JVM"))?;
        Ok(Some(UnixStream::from(socket)))
    }

    /// Has the machine listen: it does so when it gets SIGQUIT and finds a file of its own user or of root.
    fn start_listener(&self) -> Result<UnixStream, AttachError> {
        if !self.process.catches(Signal::SIGQUIT)? || !self.has_signal_thread()? {
            return Err(AttachError::NoSignal);
        }
        let name = format!(".attach_pid{}", self.pid);
        // It looks into its current folder first, and a file of another there makes it print its threads instead.
        if self.process.has_entry(format!("cwd/{name}").as_ref()) {
            return Err(AttachError::Obstructed(format!("{name} in its current folder")));
        }
        let trigger = Trigger::create(self, name)?;
        // Somebody else may have started it meanwhile: then it would print its threads too.
        if let Some(connection) = self.connect()? {
            return Ok(connection);
        }
        self.process.signal(Signal::SIGQUIT).map_err(stream("cannot signal the JVM"))?;
        let end = Instant::now() + LISTEN_LIMIT;
        while Instant::now() < end {
            std::thread::sleep(POLL);
            match self.connect() {
                Ok(None) => {}
                // It was made, and nobody listens yet.
                Err(AttachError::System { source, .. })
                    if source.kind() == io::ErrorKind::ConnectionRefused => {}
                Ok(Some(connection)) => return Ok(connection),
                Err(error) => return Err(error),
            }
        }
        drop(trigger);
        Err(AttachError::NoListener)
    }

    /// The thread that handles SIGQUIT in a machine that does.
    fn has_signal_thread(&self) -> Result<bool, AttachError> {
        Ok(self.process.thread_names()?.iter().any(|name| name == "Signal Dispatch"))
    }
}

/// The file that asks a machine to listen; it is removed when this is dropped.
struct Trigger<'a> {
    folder: &'a OwnedFd,
    name: String,
}

impl<'a> Trigger<'a> {
    fn create(peer: &'a Peer<'_>, name: String) -> Result<Self, AttachError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = match openat(&peer.folder, name.as_str(), flags, mode) {
            Ok(file) => file,
            Err(Errno::EEXIST) => return Err(AttachError::Obstructed(format!("{FOLDER}/{name}"))),
            Err(error) => return Err(system("cannot write into its /tmp")(error)),
        };
        let trigger = Self { folder: &peer.folder, name };
        fchown(file.as_fd(), Some(peer.user), Some(peer.group))
            .map_err(system("cannot give a file to the JVM's user"))?;
        Ok(trigger)
    }
}

impl Drop for Trigger<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(self.folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn ask(mut connection: UnixStream) -> Result<(), AttachError> {
    connection.set_nonblocking(false).map_err(stream("cannot talk to the JVM"))?;
    connection.set_read_timeout(Some(ANSWER_LIMIT)).map_err(stream("cannot talk to the JVM"))?;
    connection.set_write_timeout(Some(ANSWER_LIMIT)).map_err(stream("cannot talk to the JVM"))?;
    connection.write_all(REQUEST).map_err(stream("cannot talk to the JVM"))?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES).read_to_end(&mut answer).map_err(stream("the JVM did not answer"))?;
    judge(&answer)
}

/// An answer is a number, 0 for success, and what the command printed.
fn judge(answer: &[u8]) -> Result<(), AttachError> {
    let text = String::from_utf8_lossy(answer);
    let (code, message) = text.split_once('\n').unwrap_or((&text, ""));
    if code.trim() == "0" {
        return Ok(());
    }
    let line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing that is understood");
    Err(AttachError::Refused(line.trim().chars().take(200).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a zero is a success; anything else is told in the machine's words, within limits.
    #[test]
    fn answers() {
        assert!(judge(b"0\n").is_ok());
        assert!(judge(b"0\nCommand executed successfully\n").is_ok());
        let refused = |answer: &[u8]| judge(answer).unwrap_err().to_string();
        let unknown = b"1\njava.lang.IllegalArgumentException: Unknown diagnostic command\nat x";
        assert_eq!(
            refused(unknown),
            "the JVM answered: java.lang.IllegalArgumentException: Unknown diagnostic command"
        );
        assert_eq!(refused(b""), "the JVM answered: nothing that is understood");
        assert!(refused(&[b'x'; 4096]).len() < 300);
    }

    /// A process that does not handle SIGQUIT gets none, and nothing is left in its folder.
    #[test]
    fn others_are_left_alone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let machine = HotSpot { major: 17, ..HotSpot::default() };
        assert!(matches!(request_perf_map(&process, &machine), Err(AttachError::NoSignal)));
        assert!(child.try_wait().unwrap().is_none());
        assert!(!std::path::Path::new(&format!("/tmp/.attach_pid{}", child.id())).exists());
        let older = HotSpot { major: 11, ..machine.clone() };
        assert!(matches!(request_perf_map(&process, &older), Err(AttachError::TooOld(11))));
        let closed = HotSpot { disables_attach: true, ..machine };
        assert!(matches!(request_perf_map(&process, &closed), Err(AttachError::Disabled)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
