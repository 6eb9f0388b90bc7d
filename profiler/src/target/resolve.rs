//! From what the user asked for to the processes that are the server.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::command::{self, Match};
use super::config::{ConfigError, Configurations, Entry, Surroundings, Transport};
use super::launch::{Caller, LaunchPlan};
use super::listening;
use super::process::{Process, ProcessError, ProcessTable, command_line};

/// Inode of the host's PID namespace: `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
const HOST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// How many launchers may start each other.
const LAUNCHER_DEPTH: usize = 32;
/// How many names an error lists.
const NAMES_SHOWN: usize = 12;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `--pid`
    Pid(u32),
    /// `--mcp`
    Name {
        /// The server's name.
        name: String,
        /// `--config`
        config: Option<PathBuf>,
        /// `--launch`
        launch: bool,
    },
    /// `-- COMMAND...`
    Command(Vec<OsString>),
}

/// What it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A server that runs.
    Running(Server),
    /// A command that is to be launched.
    Launch(LaunchPlan),
}

/// A server that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// The process that does the work.
    pub pid: u32,
    /// The outermost process that belongs to it: the launcher, or itself.
    pub root: u32,
    /// `root` and all that descends from it.
    pub pids: Vec<u32>,
}

/// One of several processes that a name could mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The process that does the work.
    pub pid: u32,
    /// Since when it runs.
    pub uptime: Duration,
    /// Its arguments.
    pub command: String,
}

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ResolveError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("process {0} is a thread of the kernel: it has no user code to profile")]
    KernelThread(u32),
    #[error("process {0} is mcp-profiler itself")]
    Itself(u32),
    #[error("process {0} has ended and only waits for its parent to notice")]
    Zombie(u32),
    #[error("process {0} runs a program that is not 64-bit x86 code: only x86-64 servers can be profiled")]
    WrongArchitecture(u32),
    #[error(
        "mcp-profiler runs in a container that has process IDs of its own, so it cannot tell the host's processes apart: \
         start the container with `--pid=host`, or run mcp-profiler on the host"
    )]
    PidNamespace,
    #[error("no command after `--`")]
    EmptyCommand,
    #[error("no MCP server is called `{name}`{}", known_names(.known))]
    UnknownName { name: String, known: Vec<String> },
    #[error(
        "{count} instances of `{name}` are running; choose one with --pid:{list}",
        count = .instances.len(), list = instance_list(.instances)
    )]
    Ambiguous { name: String, instances: Vec<Instance> },
    #[error(
        "`{name}` (configured in {}) is not running: let its client start it, or add `--launch` to start it here",
        .file.display()
    )]
    NotRunning { name: String, file: PathBuf },
    #[error(
        "`{name}` (configured in {}) is at {url}, but no process here listens on port {port}: start the server, then try again",
        .file.display()
    )]
    NotListening { name: String, file: PathBuf, url: String, port: u16 },
    #[error(
        "something listens on port {port} ({url}), but its process cannot be seen: \
         run mcp-profiler with sudo, and on the host if the server is in a container"
    )]
    ListenerHidden { url: String, port: u16 },
    #[error("`{name}` (configured in {}) is on another machine ({url}): run mcp-profiler there", .file.display())]
    Remote { name: String, file: PathBuf, url: String },
    #[error("`{name}` (configured in {}): {url} is not an address that can be looked for", .file.display())]
    BadUrl { name: String, file: PathBuf, url: String },
    #[error(
        "`{name}` cannot be launched: {} in {} is not known here; set the variable, or start the command yourself with \
         `mcp-profiler record -- COMMAND`",
        .placeholders.join(", "), .file.display()
    )]
    Placeholder { name: String, file: PathBuf, placeholders: Vec<String> },
    #[error(
        "`{name}` is not launched: {} belongs to another user, whose command would run as you; read it, and if it is right \
         name it with `--config {}`",
        .file.display(), .file.display()
    )]
    UntrustedFile { name: String, file: PathBuf },
    #[error("/proc cannot be read: {0}")]
    Proc(#[from] std::io::Error),
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() {
        return ": no configuration names a server and none is running here; give its process with --pid, or its \
                configuration with --config FILE"
            .to_owned();
    }
    let more = known.len().saturating_sub(NAMES_SHOWN);
    let mut text = format!("; known are: {}", known[..known.len() - more].join(", "));
    if more > 0 {
        text.push_str(&format!(" and {more} more (`mcp-profiler list`)"));
    }
    text
}

fn instance_list(instances: &[Instance]) -> String {
    let line = |instance: &Instance| {
        let uptime = humantime::format_duration(Duration::from_secs(instance.uptime.as_secs()));
        let command: String =
            instance.command.chars().filter(|letter| !letter.is_control()).take(100).collect();
        format!("\n  --pid {:<8} up {uptime}  {command}", instance.pid)
    };
    instances.iter().map(line).collect()
}

/// Finds the target of a request.
///
/// # Errors
/// When there is none, or more than one, with what to do about it.
pub fn resolve(request: &Request) -> Result<Target, ResolveError> {
    refuse_foreign_namespace()?;
    match request {
        Request::Pid(pid) => {
            check(*pid)?;
            let table = ProcessTable::read()?;
            let worker = descend(&table, *pid);
            if worker != *pid {
                check(worker)?;
            }
            let name = command::derived_name(table.arguments(worker));
            let name = if name.is_empty() { format!("process {pid}") } else { name };
            Ok(Target::Running(server(&table, name, *pid)))
        }
        Request::Name { name, config, launch } => {
            let configurations = Configurations::read(config.as_deref(), &Surroundings::of_this_process())?;
            by_name(name, &configurations, *launch)
        }
        Request::Command(words) => {
            let (command, arguments) = words.split_first().ok_or(ResolveError::EmptyCommand)?;
            let name = Some(command::derived_name(words)).filter(|name| !name.is_empty());
            Ok(Target::Launch(LaunchPlan {
                name: name.unwrap_or_else(|| command.to_string_lossy().into_owned()),
                command: command.clone(),
                arguments: arguments.to_vec(),
                ..LaunchPlan::default()
            }))
        }
    }
}

fn by_name(name: &str, configurations: &Configurations, launch: bool) -> Result<Target, ResolveError> {
    let table = ProcessTable::read()?;
    let mut entries = configurations.named(name).peekable();
    let Some(first) = entries.peek().copied() else {
        let running = running_servers(&table, configurations);
        let roots: Vec<u32> =
            running.iter().filter(|(server, _)| server.name == name).map(|(server, _)| server.root).collect();
        if roots.is_empty() {
            let known = configurations.entries.iter().map(|entry| entry.name.clone());
            let known = known.chain(running.into_iter().map(|(server, _)| server.name)).collect();
            return Err(ResolveError::UnknownName {
                name: name.to_owned(),
                known: nearest_first(name, known),
            });
        }
        return one_of(name, &table, &roots);
    };
    // The entry that counts may be shadowed by one of the same name that a client is really running.
    let mut trouble = None;
    for entry in entries {
        match roots_of(entry, &table) {
            Ok(roots) if !roots.pids.is_empty() => return one_of(name, &table, &roots.pids),
            Ok(_) => {}
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    match (&first.transport, trouble) {
        (Transport::Stdio { .. }, _) if launch => launch_plan(first).map(Target::Launch),
        (_, Some(error)) => Err(error),
        _ => Err(ResolveError::NotRunning { name: name.to_owned(), file: first.file.clone() }),
    }
}

fn one_of(name: &str, table: &ProcessTable, roots: &[u32]) -> Result<Target, ResolveError> {
    if let [root] = roots {
        let server = server(table, name.to_owned(), *root);
        check(server.pid)?;
        return Ok(Target::Running(server));
    }
    let instance = |root: &u32| {
        let pid = descend(table, *root);
        let uptime = Process::open(pid).and_then(|process| process.stat()).map(|stat| stat.uptime());
        Instance { pid, uptime: uptime.unwrap_or_default(), command: command_line(table.arguments(pid)) }
    };
    Err(ResolveError::Ambiguous { name: name.to_owned(), instances: roots.iter().map(instance).collect() })
}

/// Servers that run: those that a configuration names, with that entry's index, then those that only look like servers.
/// A launcher and what it launched are one server.
pub fn running_servers(
    table: &ProcessTable,
    configurations: &Configurations,
) -> Vec<(Server, Option<usize>)> {
    let mut found: Vec<(Server, Option<usize>)> = Vec::new();
    let entries = configurations.entries.iter().enumerate();
    let mut claims: Vec<(usize, Roots)> =
        entries.filter_map(|(index, entry)| Some((index, roots_of(entry, table).ok()?))).collect();
    // The surer claim wins; among equals the entry that counts first.
    claims.sort_by_key(|(_, roots)| std::cmp::Reverse(roots.certainty));
    for (index, roots) in claims {
        for root in roots.pids {
            if !found.iter().any(|(server, _)| server.pids.contains(&root)) {
                let name = configurations.entries[index].name.clone();
                found.push((server(table, name, root), Some(index)));
            }
        }
    }
    found.sort_by_key(|(_, index)| *index);
    let own = own_processes(table);
    let looks = |pid: &u32| !own.contains(pid) && command::looks_like_server(table.arguments(*pid));
    let candidates: Vec<u32> = table.processes.keys().copied().filter(looks).collect();
    for pid in outermost(table, &candidates) {
        if !found.iter().any(|(server, _)| server.pids.contains(&pid)) {
            let root = outermost_launcher(table, pid, &own);
            found.push((server(table, command::derived_name(table.arguments(pid)), root), None));
        }
    }
    found
}

/// The outermost processes that an entry started.
#[derive(Debug)]
struct Roots {
    pids: Vec<u32>,
    certainty: Match,
}

/// Only the surest are given: what `npx` runs here hides another process that runs the same package.
fn roots_of(entry: &Entry, table: &ProcessTable) -> Result<Roots, ResolveError> {
    let own = own_processes(table);
    let mut certainty = Match::Command;
    let candidates = match &entry.transport {
        Transport::Stdio { command, arguments, .. } => {
            let processes = table.processes.iter().filter(|(pid, _)| !own.contains(pid));
            let matching: Vec<(u32, Match)> = processes
                .filter_map(|(pid, process)| {
                    Some((*pid, command::matches(command, arguments, &process.arguments)?))
                })
                .collect();
            let of = |wanted: Match| {
                matching.iter().filter(move |(_, found)| *found == wanted).map(|(pid, _)| *pid)
            };
            let mut candidates: Vec<u32> = of(Match::Command).collect();
            if candidates.is_empty() {
                certainty = Match::Package;
                candidates = of(Match::Package).collect();
            }
            candidates
        }
        Transport::Url(url) => {
            let url = url.text();
            let (name, file) = (entry.name.clone(), entry.file.clone());
            let Some((host, port)) = listening::host_and_port(&url) else {
                return Err(ResolveError::BadUrl { name, file, url });
            };
            if !listening::is_local(&host) {
                return Err(ResolveError::Remote { name, file, url });
            }
            let pids = listening::processes_on_port(port)?;
            if pids.is_empty() {
                return Err(if listening::listening_ports()?.values().any(|listened| *listened == port) {
                    ResolveError::ListenerHidden { url, port }
                } else {
                    ResolveError::NotListening { name, file, url, port }
                });
            }
            pids
        }
    };
    Ok(Roots { pids: outermost(table, &candidates), certainty })
}

/// Those that no other one of them is an ancestor of.
fn outermost(table: &ProcessTable, pids: &[u32]) -> Vec<u32> {
    let inner = |pid: &u32| table.ancestors(*pid).iter().any(|ancestor| pids.contains(ancestor));
    pids.iter().copied().filter(|pid| !inner(pid)).collect()
}

/// The profiler, and the shells and `sudo` above it: their arguments may hold the server's command.
fn own_processes(table: &ProcessTable) -> Vec<u32> {
    let own = std::process::id();
    let mut processes = table.ancestors(own);
    processes.push(own);
    processes
}

fn server(table: &ProcessTable, name: String, root: u32) -> Server {
    let mut pids = table.descendants(&[root]);
    // The profiler may run in a terminal of the very client that is watched: it must not watch itself.
    pids.retain(|pid| *pid != std::process::id());
    Server { name, pid: descend(table, root), root, pids }
}

/// From a launcher to the process that does the work: through each process that only starts another one,
/// as long as it has exactly one child.
pub fn descend(table: &ProcessTable, pid: u32) -> u32 {
    let mut current = pid;
    for _ in 0..LAUNCHER_DEPTH {
        let children = table.children(current);
        match children.as_slice() {
            [child] if command::is_launcher(table.arguments(current)) => current = *child,
            _ => break,
        }
    }
    current
}

/// From a server up through npm, `sh -c` and alike that started it, and it alone. Login shells and editors stay out:
/// a launcher counts only when its own arguments name what it runs.
fn outermost_launcher(table: &ProcessTable, pid: u32, own: &[u32]) -> u32 {
    let mut root = pid;
    for ancestor in table.ancestors(pid).into_iter().take(LAUNCHER_DEPTH) {
        let arguments = table.arguments(ancestor);
        // An interactive shell has no argument but options; npm's title is one argument of several words.
        let words = arguments.iter().flat_map(|argument| {
            argument.to_string_lossy().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        });
        let runs_something = words.skip(1).any(|word| !word.starts_with('-'));
        let alone = table.children(ancestor).len() == 1;
        // Another profiler that launched the server is no part of it.
        let profiler = command::derived_name(arguments) == env!("CARGO_PKG_NAME");
        if profiler
            || own.contains(&ancestor)
            || !alone
            || !runs_something
            || !command::is_launcher(arguments)
        {
            break;
        }
        root = ancestor;
    }
    root
}

fn launch_plan(entry: &Entry) -> Result<LaunchPlan, ResolveError> {
    let Transport::Stdio { command, arguments, environment, directory } = &entry.transport else {
        return Err(ResolveError::NotRunning { name: entry.name.clone(), file: entry.file.clone() });
    };
    let texts = std::iter::once(command).chain(arguments).chain(environment.values()).chain(directory);
    let mut placeholders: Vec<String> = texts.flat_map(|text| text.unknown().to_vec()).collect();
    placeholders.dedup();
    if !placeholders.is_empty() {
        return Err(ResolveError::Placeholder {
            name: entry.name.clone(),
            file: entry.file.clone(),
            placeholders,
        });
    }
    if !is_trusted(entry) {
        return Err(ResolveError::UntrustedFile { name: entry.name.clone(), file: entry.file.clone() });
    }
    Ok(LaunchPlan {
        name: entry.name.clone(),
        command: command.text().into(),
        arguments: arguments.iter().map(|argument| argument.text().into()).collect(),
        environment: environment.iter().map(|(name, value)| (name.into(), value.text().into())).collect(),
        directory: directory.as_ref().map(|directory| directory.text().into()),
        ..LaunchPlan::default()
    })
}

/// A file that was found, not named by the user, may lie in a folder that others write to, like `/tmp`.
fn is_trusted(entry: &Entry) -> bool {
    use std::os::unix::fs::MetadataExt;
    let user =
        Caller::from_sudo().map_or_else(|| nix::unistd::Uid::effective().as_raw(), |caller| caller.uid);
    entry.client == super::config::NAMED_FILE
        || std::fs::metadata(&entry.file).is_ok_and(|metadata| metadata.uid() == user || metadata.uid() == 0)
}

/// Known names, those that are most like the wanted one first.
fn nearest_first(name: &str, mut known: Vec<String>) -> Vec<String> {
    known.sort();
    known.dedup();
    let wanted = name.to_lowercase();
    known.sort_by_key(|candidate| {
        let candidate = candidate.to_lowercase();
        let holds = candidate.contains(&wanted) || wanted.contains(&candidate);
        // People remember the word that matters: `everything` of `mcp-server-everything`.
        let words = candidate.split(['-', '_', '.', '/']).chain([candidate.as_str()]);
        (!holds, words.map(|word| strsim::osa_distance(word, &wanted)).min())
    });
    known
}

/// Refuses a process that cannot be profiled.
///
/// # Errors
/// For threads of the kernel, the profiler itself, processes that ended, and 32-bit programs.
pub fn check(pid: u32) -> Result<(), ResolveError> {
    if pid == std::process::id() {
        return Err(ResolveError::Itself(pid));
    }
    let process = Process::open(pid)?;
    let stat = process.stat()?;
    if stat.kernel_thread {
        return Err(ResolveError::KernelThread(pid));
    }
    if stat.ended() {
        return Err(ResolveError::Zombie(pid));
    }
    match process.executable() {
        Ok(file) if !is_x86_64(&file) => Err(ResolveError::WrongArchitecture(pid)),
        // Whoever may not read it may not attach either, and attaching says why.
        Ok(_) | Err(ProcessError::Denied { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// By `e_ident` and `e_machine` of the ELF header (elf(5)).
fn is_x86_64(file: &std::fs::File) -> bool {
    let mut header = [0_u8; 20];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut header, 0).is_ok()
        && header.starts_with(b"\x7fELF")
        && header[4] == object::elf::ELFCLASS64.0
        && u16::from_le_bytes([header[18], header[19]]) == object::elf::EM_X86_64.0
}

/// Refuses to work in a PID namespace other than the host's: the kernel half reports the host's IDs.
///
/// # Errors
/// When this process is in such a namespace.
pub fn refuse_foreign_namespace() -> Result<(), ResolveError> {
    let link = std::fs::read_link("/proc/self/ns/pid")?;
    let inode =
        link.to_str().and_then(|text| text.strip_prefix("pid:[")?.strip_suffix(']')?.parse::<u64>().ok());
    if inode == Some(HOST_PID_NAMESPACE) { Ok(()) } else { Err(ResolveError::PidNamespace) }
}

#[cfg(test)]
mod tests;
