//! Launching a target so that it is watched from its first instruction: the child waits, forked but not yet executed,
//! until the profiler has attached and releases it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, getgrouplist, pipe2};

/// Variables by which sudo tells who called it: a launched program is not under sudo any more.
const SUDO_VARIABLES: [&str; 4] = ["SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND"];

/// The user who called `sudo mcp-profiler`: launched targets run as this user, and files that are written belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// All group IDs.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: PathBuf,
    /// Login name.
    pub name: String,
}

impl Caller {
    /// The caller, when this process runs as root by sudo and the caller is another user.
    pub fn from_sudo() -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
        // The user database knows better than the environment, but need not know the user.
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let gid = number("SUDO_GID").or_else(|| Some(user.as_ref()?.gid.as_raw()))?;
        let name = match &user {
            Some(user) => user.name.clone(),
            None => std::env::var("SUDO_USER").ok()?,
        };
        let groups = CString::new(name.as_str())
            .ok()
            .and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok())
            .map_or_else(|| vec![gid], |groups| groups.into_iter().map(Gid::as_raw).collect());
        Some(Self { uid, gid, groups, home: user.map_or_else(|| PathBuf::from("/"), |user| user.dir), name })
    }
}

/// A command to launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchPlan {
    /// What the target is called.
    pub name: String,
    /// Program: a path, or a name that is looked for in `PATH`.
    pub command: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that are added to the environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The folder that it runs in, when it is not the current one.
    pub directory: Option<PathBuf>,
    /// Whether it has no input and its output is dropped. Else its standard streams are those of the profiler.
    pub is_silent: bool,
}

impl LaunchPlan {
    /// Fails early when it is plain that the program can't be run, so that nothing is begun for it. The kernel has the
    /// last word: [`Launched::release`] may fail nevertheless.
    ///
    /// # Errors
    /// [`LaunchError::NotFound`], [`LaunchError::Denied`] or [`LaunchError::Directory`].
    pub fn check_program(&self, caller: Option<&Caller>) -> Result<(), LaunchError> {
        let folder = self.directory.clone().unwrap_or_default();
        let candidates: Vec<PathBuf> = if self.command.as_encoded_bytes().contains(&b'/') {
            vec![folder.join(&self.command)]
        } else {
            let own = std::env::var_os("PATH");
            // Without PATH the C library looks where it likes.
            let Some(path) = self.environment.get(OsStr::new("PATH")).or(own.as_ref()) else { return Ok(()) };
            std::env::split_paths(path).map(|entry| folder.join(entry).join(&self.command)).collect()
        };
        let mut reason = io::ErrorKind::NotFound;
        for candidate in candidates {
            match std::fs::metadata(candidate) {
                Ok(metadata) if metadata.is_file() && metadata.mode() & 0o111 != 0 => return Ok(()),
                Ok(_) => reason = io::ErrorKind::PermissionDenied,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                // We may not look, but the caller may be able to run it.
                Err(_) => return Ok(()),
            }
        }
        Err(explain(self, caller, reason.into()))
    }

    /// The files of code that it runs first, as far as they can be told: the program, or the interpreter that its first line names.
    pub fn programs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut command = self.command.clone();
        // The kernel follows as many (BINPRM_MAX_RECURSION in fs/exec.c).
        for _ in 0..5 {
            let Some(path) = self.find(&command).and_then(|path| path.canonicalize().ok()) else { break };
            let Some(interpreter) = interpreter(&path) else {
                found.push(path);
                break;
            };
            command = interpreter;
        }
        found
    }

    /// Where the kernel finds a program.
    fn find(&self, command: &OsStr) -> Option<PathBuf> {
        let folder = self.directory.clone().unwrap_or_default();
        if command.as_encoded_bytes().contains(&b'/') {
            return Some(folder.join(command));
        }
        let own = std::env::var_os("PATH");
        let path = self.environment.get(OsStr::new("PATH")).or(own.as_ref())?;
        let is_program = |file: &PathBuf| {
            std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        };
        std::env::split_paths(path).map(|entry| folder.join(entry).join(command)).find(is_program)
    }
}

/// The program that a script's first line names; with `env` the one that this looks for.
fn interpreter(script: &Path) -> Option<OsString> {
    // The kernel reads no more (BINPRM_BUF_SIZE).
    let mut start = [0; 256];
    // Without blocking: it could be a pipe.
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(script).ok()?;
    let length = file.take(start.len() as u64).read(&mut start).ok()?;
    let line = start[..length].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let program = words.next()?;
    let is_env = program.rsplit('/').next() == Some("env");
    let program =
        if is_env { words.find(|word| !word.starts_with('-') && !word.contains('='))? } else { program };
    Some(program.into())
}

/// Why a command was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program is not there.
    #[error("cannot launch `{command}`: no such program{hint}")]
    NotFound {
        /// The program.
        command: String,
        /// What to do.
        hint: String,
    },
    /// The folder that it should run in is not there.
    #[error("cannot launch `{command}`: its folder {} cannot be entered", .directory.display())]
    Directory {
        /// The program.
        command: String,
        /// The folder.
        directory: PathBuf,
    },
    /// The program may not be run.
    #[error(
        "cannot launch `{command}`: permission denied{user}; it must be a file that this user may execute"
    )]
    Denied {
        /// The program.
        command: String,
        /// ` as user NAME`, when it is launched as another user.
        user: String,
    },
    /// Anything else.
    #[error("cannot launch `{command}`: {source}")]
    Failed {
        /// The program.
        command: String,
        /// Why.
        source: io::Error,
    },
}

/// A launched command. Until [`Self::release`] it waits in a copy of this program, and ends when the profiler does.
/// When this value is dropped before that, it ends too; after that it goes on.
#[derive(Debug)]
pub struct Launched {
    pid: u32,
    plan: LaunchPlan,
    caller: Option<Caller>,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting {
        release: File,
        spawner: JoinHandle<io::Result<Child>>,
    },
    Running(Child),
    /// It was released, and could not run its program.
    Failed,
}

impl Launched {
    /// Forks, as the given user if there is one. The child has its process ID and waits. Unless it is silent, standard input,
    /// output and error are those of the profiler: whoever started it talks to the child.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn spawn(plan: &LaunchPlan, caller: Option<&Caller>) -> Result<Self, LaunchError> {
        Self::spawn_as(plan, caller, false)
    }

    /// The same with pipes for standard input and output, for [`Self::take_pipes`].
    ///
    /// # Errors
    /// When no process can be made.
    pub fn spawn_with_pipes(plan: &LaunchPlan, caller: Option<&Caller>) -> Result<Self, LaunchError> {
        Self::spawn_as(plan, caller, true)
    }

    fn spawn_as(plan: &LaunchPlan, caller: Option<&Caller>, has_pipes: bool) -> Result<Self, LaunchError> {
        let failed = |source: io::Error| explain(plan, caller, source);
        let (report_read, report_write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        let (release_read, release_write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut command = command_of(plan, caller);
        if has_pipes {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let identity = caller.map(|caller| (caller.uid, caller.gid, caller.groups.clone()));
        let child_ends = ChildEnds { report: report_write, release: release_read };
        let parent_release = release_write.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and only makes system calls: it takes no lock and no memory.
        // What it reads was made before.
        unsafe {
            command.pre_exec(move || {
                if let Some((uid, gid, groups)) = &identity {
                    become_user(*uid, *gid, groups)?;
                }
                child_ends.wait_for_release(parent_release)
            });
        }
        // `Command::spawn` returns only when the child has executed its program, so it has a thread of its own.
        let spawner = std::thread::Builder::new()
            .name("launch".to_owned())
            .spawn(move || command.spawn())
            .map_err(failed)?;
        let mut pid = [0_u8; 4];
        match File::from(report_read).read_exact(&mut pid) {
            Ok(()) => Ok(Self {
                pid: u32::from_ne_bytes(pid),
                plan: plan.clone(),
                caller: caller.cloned(),
                state: State::Waiting { release: File::from(release_write), spawner },
            }),
            // The child, or the fork itself, failed before it could report.
            Err(no_report) => {
                drop(release_write);
                match join(spawner) {
                    Ok(mut child) => {
                        // It cannot have been released; whatever runs there is not wanted.
                        let _ = child.kill();
                        let _ = child.wait();
                        Err(failed(no_report))
                    }
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }

    /// Its process ID, also after its end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it run its program. Returns when it does. Once is enough.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn release(&mut self) -> Result<(), LaunchError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Waiting { mut release, spawner } => {
                // When it was killed meanwhile, the spawner says so.
                let _ = release.write_all(&[1]);
                drop(release);
                match join(spawner) {
                    Ok(child) => {
                        self.state = State::Running(child);
                        Ok(())
                    }
                    Err(error) => Err(explain(&self.plan, self.caller.as_ref(), error)),
                }
            }
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// Our ends of its standard input and output: once, behind its release, where it has pipes.
    pub fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        match &mut self.state {
            State::Running(child) => child.stdin.take().zip(child.stdout.take()),
            State::Waiting { .. } | State::Failed => None,
        }
    }

    /// How it ended, if it did. `None` while it waits for its release.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.state {
            State::Running(child) => child.try_wait(),
            State::Waiting { .. } | State::Failed => Ok(None),
        }
    }

    /// Waits for its end. Its standard input stays open.
    ///
    /// # Errors
    /// When it was not released.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.state {
            State::Running(child) => child.wait(),
            State::Waiting { .. } | State::Failed => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "the command does not run"))
            }
        }
    }

    /// Sends it a signal. Nothing happens when it has ended.
    ///
    /// # Errors
    /// When the signal may not be sent.
    pub fn terminate(&mut self, signal: Signal) -> io::Result<()> {
        // Until it was waited for, no other process has its ID.
        if matches!(self.state, State::Failed) || self.try_wait()?.is_some() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid.cast_signed()), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn join(spawner: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    spawner.join().unwrap_or_else(|_| Err(io::Error::other("the launching thread panicked")))
}

fn command_of(plan: &LaunchPlan, caller: Option<&Caller>) -> Command {
    let mut command = Command::new(&plan.command);
    command.args(&plan.arguments);
    if let Some(caller) = caller {
        for name in SUDO_VARIABLES {
            command.env_remove(name);
        }
        command.env("HOME", &caller.home).env("USER", &caller.name).env("LOGNAME", &caller.name);
    }
    command.envs(&plan.environment);
    if let Some(directory) = &plan.directory {
        command.current_dir(directory);
    }
    if plan.is_silent {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    command
}

/// The child's ends of the two pipes.
struct ChildEnds {
    report: OwnedFd,
    release: OwnedFd,
}

impl ChildEnds {
    /// Tells the process ID and waits. Runs between fork and exec.
    fn wait_for_release(&self, parent_release: RawFd) -> io::Result<()> {
        // SAFETY: closes this process's copy of the parent's end, which nothing here uses: else the end of the parent
        // would not be seen.
        unsafe { libc::close(parent_release) };
        // SAFETY: has no arguments.
        let pid = unsafe { libc::getpid() }.to_ne_bytes();
        // SAFETY: the buffer has four bytes; a pipe takes so few at once.
        if unsafe { libc::write(self.report.as_raw_fd(), pid.as_ptr().cast(), pid.len()) } != 4 {
            return Err(io::Error::last_os_error());
        }
        let mut byte = 0_u8;
        loop {
            // SAFETY: the buffer has one byte.
            match unsafe { libc::read(self.release.as_raw_fd(), (&raw mut byte).cast(), 1) } {
                1 => return Ok(()),
                0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.raw_os_error() != Some(libc::EINTR) {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Gives up root for good. Runs between fork and exec.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the list has as many entries as told; the other two take numbers. The order matters: user last.
    let done = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setresgid(gid, gid, gid) == 0
            && libc::setresuid(uid, uid, uid) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn explain(plan: &LaunchPlan, caller: Option<&Caller>, source: io::Error) -> LaunchError {
    let command = plan.command.to_string_lossy().into_owned();
    if let Some(directory) = plan.directory.clone().filter(|directory| !directory.is_dir()) {
        return LaunchError::Directory { command, directory };
    }
    match source.kind() {
        io::ErrorKind::NotFound => {
            let hint = if command.contains('/') {
                " at this path (or the interpreter that its first line names is missing)".to_owned()
            } else if caller.is_some() {
                " in PATH; sudo sets a PATH of its own: give the full path, or use `sudo env PATH=\"$PATH\" mcp-profiler ...`".to_owned()
            } else {
                " in PATH; give the full path".to_owned()
            };
            LaunchError::NotFound { command, hint }
        }
        io::ErrorKind::PermissionDenied => {
            let user = caller.map(|caller| format!(" as user {}", caller.name)).unwrap_or_default();
            LaunchError::Denied { command, user }
        }
        _ => LaunchError::Failed { command, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::process::Process;

    fn plan(command: &str, arguments: &[&str]) -> LaunchPlan {
        LaunchPlan {
            name: "test".to_owned(),
            command: command.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            ..LaunchPlan::default()
        }
    }

    /// What plainly can't be run is refused before anything is begun for it; what can be run is not.
    #[test]
    fn checks_the_program() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "not a program").unwrap();
        let mut plan = plan("./text", &[]);
        plan.directory = Some(folder.path().to_owned());
        assert!(matches!(plan.check_program(None), Err(LaunchError::Denied { .. })));
        for missing in ["./missing", "no-such-program-anywhere", "./text/below"] {
            plan.command = missing.into();
            assert!(matches!(plan.check_program(None), Err(LaunchError::NotFound { .. })), "{missing}");
        }
        for program in ["sh", "/bin/sh"] {
            plan.command = program.into();
            assert!(plan.check_program(None).is_ok(), "{program}");
        }
        plan.environment = [("PATH".into(), folder.path().into())].into();
        plan.command = "sh".into();
        assert!(matches!(plan.check_program(None), Err(LaunchError::NotFound { .. })));
    }

    /// A script is run by what its first line names, also by way of `env`; an ELF file by itself.
    #[test]
    fn finds_the_program_of_a_script() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let script = file("script", "#!/usr/bin/env -S NAME=value other -x\ntext");
        file("other", &format!("#! {}\n", folder.path().join("program").display()));
        let program = file("program", "\x7fELF").canonicalize().unwrap();
        let mut plan = plan(script.to_str().unwrap(), &[]);
        plan.environment = [("PATH".into(), folder.path().into())].into();
        assert_eq!(plan.programs(), [program]);
        plan.command = "no-such-program".into();
        assert!(plan.programs().is_empty());
        let itself = file("itself", &format!("#!{}\n", folder.path().join("itself").display()));
        plan.command = itself.into();
        assert!(plan.programs().is_empty());
    }

    /// The child exists before its release, but its program has not run; then it runs with what the plan says.
    #[test]
    fn waits_for_its_release() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan("sh", &["-c", "printf %s \"$GREETING\" > greeting; exit 3"]);
        plan.environment = [("GREETING".into(), "hello".into())].into();
        plan.directory = Some(folder.path().to_owned());
        let file = folder.path().join("greeting");
        let mut launched = Launched::spawn(&plan, None).unwrap();
        let waiting = Process::open(launched.pid()).unwrap();
        assert_eq!(waiting.arguments().unwrap(), std::env::args_os().collect::<Vec<_>>());
        assert!(launched.try_wait().unwrap().is_none() && !file.exists());
        assert!(launched.wait().is_err());
        launched.release().unwrap();
        assert_eq!(launched.wait().unwrap().code(), Some(3));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "hello");
        launched.terminate(Signal::SIGTERM).unwrap();
    }

    /// A value that is dropped before its release leaves no process behind.
    #[test]
    fn dropped_before_release() {
        let launched = Launched::spawn(&plan("sleep", &["600"]), None).unwrap();
        let process = Process::open(launched.pid()).unwrap();
        drop(launched);
        for _ in 0..500 {
            if process.stat().is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the child still waits");
    }

    /// A signal ends it.
    #[test]
    fn is_terminated() {
        use std::os::unix::process::ExitStatusExt;
        let mut launched = Launched::spawn(&plan("sleep", &["600"]), None).unwrap();
        launched.release().unwrap();
        launched.terminate(Signal::SIGTERM).unwrap();
        assert_eq!(launched.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    /// What cannot be run is told plainly.
    #[test]
    fn errors_are_told() {
        let message = |plan: &LaunchPlan| {
            let result = Launched::spawn(plan, None).and_then(|mut launched| launched.release());
            result.unwrap_err().to_string()
        };
        assert!(message(&plan("no-such-program-here", &[])).contains("no such program in PATH"));
        assert!(message(&plan("/etc/passwd", &[])).contains("permission denied"));
        let mut elsewhere = plan("true", &[]);
        elsewhere.directory = Some("/no/such/folder".into());
        assert!(message(&elsewhere).contains("/no/such/folder"));
    }

    /// As root: the child has the caller's user, groups and home, and none of sudo's variables.
    #[test]
    fn runs_as_the_caller() {
        if !Uid::effective().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let file = folder.path().join("who");
        let script = "{ id -u; id -g; id -G; echo $HOME $USER $LOGNAME; } > who";
        let mut plan = plan("sh", &["-c", script]);
        plan.directory = Some(folder.path().to_owned());
        let caller = Caller {
            uid: 4711,
            gid: 4712,
            groups: vec![4712, 4713],
            home: "/h".into(),
            name: "ann".to_owned(),
        };
        let mut launched = Launched::spawn(&plan, Some(&caller)).unwrap();
        launched.release().unwrap();
        assert!(launched.wait().unwrap().success());
        assert_eq!(std::fs::read_to_string(file).unwrap(), "4711\n4712\n4712 4713\n/h ann ann\n");
    }
}
