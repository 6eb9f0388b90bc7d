//! Asks a running HotSpot machine for a perf map, by the protocol of its attach mechanism
//! (`src/hotspot/os/posix/attachListener_posix.cpp` and `src/jdk.attach/linux/classes/sun/tools/attach/VirtualMachineImpl.java`
//! of OpenJDK 17): a file `.attach_pidN` and SIGQUIT start a listener at the socket `/tmp/.java_pidN`, which takes commands.
//!
//! SIGQUIT ends a process that does not handle it, and makes a machine that does not want to attach print its threads to
//! standard output, which may be the server's connection. So it is sent only when neither can happen.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fchown, unlinkat};

use super::AskError;
use super::hotspot::HotSpot;
use super::peer::{FOLDER, Peer, stream, system};
use crate::target::Process;

/// `Compiler.perfmap` came with this release.
const FIRST_MAJOR: u32 = 17;
/// How long a machine may take to open its socket.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
/// Most bytes of an answer that are read.
const ANSWER_BYTES: u64 = 4096;
const POLL: Duration = Duration::from_millis(10);
/// Version 1 of the protocol, a command and its three arguments, each ended by a zero byte.
const REQUEST: &[u8] = b"1\0jcmd\0Compiler.perfmap\0\0\0";

/// Has the machine write the names of all code that it compiled into its perf map. Returns whether the map was there before.
///
/// # Errors
/// Nothing was sent where the error says why the machine can't be asked.
pub(crate) fn request_perf_map(process: &Process, machine: &HotSpot) -> Result<bool, AskError> {
    if machine.major < FIRST_MAJOR {
        return Err(AskError::OldJava(machine.major));
    }
    if machine.disables_attach {
        return Err(AskError::AttachDisabled);
    }
    let peer = Peer::of(process)?;
    let existed = peer.check_map()?;
    let connection = match listener(&peer)? {
        Some(connection) => connection,
        None if machine.reduces_signals => return Err(AskError::NoSignal),
        None => start_listener(&peer)?,
    };
    ask(connection)?;
    Ok(existed)
}

/// A connection to the listener; `None` when it does not listen yet.
fn listener(peer: &Peer<'_>) -> Result<Option<UnixStream>, AskError> {
    peer.connect(&format!(".java_pid{}", peer.pid))
}

/// Has the machine listen: it does so when it gets SIGQUIT and finds a file of its own user or of root.
fn start_listener(peer: &Peer<'_>) -> Result<UnixStream, AskError> {
    if !peer.process.catches(Signal::SIGQUIT)? || !has_signal_thread(peer)? {
        return Err(AskError::NoSignal);
    }
    let name = format!(".attach_pid{}", peer.pid);
    // It looks into its current folder first, and a file of another there makes it print its threads instead.
    if peer.process.has_entry(format!("cwd/{name}").as_ref()) {
        return Err(AskError::Obstructed(format!("{name} in its current folder")));
    }
    let _trigger = Trigger::create(peer, name)?;
    // Somebody else may have started it meanwhile: then it would print its threads too.
    if let Some(connection) = listener(peer)? {
        return Ok(connection);
    }
    peer.process.signal(Signal::SIGQUIT).map_err(stream("cannot signal the JVM"))?;
    let end = Instant::now() + LISTEN_LIMIT;
    while Instant::now() < end {
        std::thread::sleep(POLL);
        match listener(peer) {
            Ok(None) => {}
            // It was made, and nobody listens yet.
            Err(AskError::System { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(Some(connection)) => return Ok(connection),
            Err(error) => return Err(error),
        }
    }
    Err(AskError::NoListener)
}

/// Whether there is the thread that handles SIGQUIT in a machine that does.
fn has_signal_thread(peer: &Peer<'_>) -> Result<bool, AskError> {
    Ok(peer.process.thread_names()?.iter().any(|name| name == "Signal Dispatch"))
}

/// The file that asks a machine to listen; it is removed when this is dropped.
struct Trigger<'a> {
    folder: &'a OwnedFd,
    name: String,
}

impl<'a> Trigger<'a> {
    fn create(peer: &'a Peer<'_>, name: String) -> Result<Self, AskError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = match openat(&peer.folder, name.as_str(), flags, mode) {
            Ok(file) => file,
            // Left behind by somebody who asked before.
            Err(Errno::EEXIST) if peer.has_own_file(&name)? => {
                return Ok(Self { folder: &peer.folder, name });
            }
            Err(Errno::EEXIST) => return Err(AskError::Obstructed(format!("{FOLDER}/{name}"))),
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

fn ask(mut connection: UnixStream) -> Result<(), AskError> {
    let talk = stream("the JVM did not answer");
    connection.write_all(REQUEST).map_err(&talk)?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES).read_to_end(&mut answer).map_err(&talk)?;
    judge(&answer)
}

/// An answer is a number, 0 for success, and what the command printed.
fn judge(answer: &[u8]) -> Result<(), AskError> {
    let text = String::from_utf8_lossy(answer);
    let (code, message) = text.split_once('\n').unwrap_or((&text, ""));
    if code.trim() == "0" {
        return Ok(());
    }
    let line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing that is understood");
    Err(AskError::Refused(line.trim().chars().take(200).collect()))
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
            "it answered: java.lang.IllegalArgumentException: Unknown diagnostic command"
        );
        assert_eq!(refused(b""), "it answered: nothing that is understood");
        assert!(refused(&[b'x'; 4096]).len() < 300);
    }

    /// A process that does not handle SIGQUIT gets none, and nothing is left in its folder.
    #[test]
    fn others_are_left_alone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let machine = HotSpot { major: 17, ..HotSpot::default() };
        assert!(matches!(request_perf_map(&process, &machine), Err(AskError::NoSignal)));
        assert!(child.try_wait().unwrap().is_none());
        assert!(!std::path::Path::new(&format!("/tmp/.attach_pid{}", child.id())).exists());
        let older = HotSpot { major: 11, ..machine.clone() };
        assert!(matches!(request_perf_map(&process, &older), Err(AskError::OldJava(11))));
        let closed = HotSpot { disables_attach: true, ..machine };
        assert!(matches!(request_perf_map(&process, &closed), Err(AskError::AttachDisabled)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
