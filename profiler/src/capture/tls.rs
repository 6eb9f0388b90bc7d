//! TLS libraries in watched processes: attaches the kernel half to their functions, in these processes alone. Twin of
//! `profiler-ebpf/src/wire/tls.rs`.
//!
//! On a thread of its own: the kernel keeps whoever detaches waiting until no program runs any more.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProbeKind, ProgramError, UProbe};
use caps::Capability;
use profiler_common::TlsFunction;

use crate::symbol::{Module, ModuleId};
use crate::target::Process;

/// A child that lives this long without running another program may serve clients itself.
const CHILD_REST: Duration = Duration::from_secs(1);
/// Children that may wait for that.
const MAX_WAITING: usize = 1024;
/// Processes and files that are attached to at once: each takes up to nine file descriptors.
const MAX_ATTACHED: usize = 512;

enum Change {
    Attach {
        pid: u32,
        file: File,
        functions: Vec<(TlsFunction, u64)>,
    },
    Detach {
        pid: u32,
    },
    /// Tells somebody that everything before it is done.
    Tell(Sender<()>),
}

/// What attaching needs: Linux 6.18 wants the first one for uprobes and nothing else; the others are narrower, and may be what
/// we have where a kernel is content with them.
const KEPT: [Capability; 3] = [Capability::CAP_SYS_ADMIN, Capability::CAP_PERFMON, Capability::CAP_BPF];

/// Gives up all capabilities of this thread but those.
fn keep_capabilities() {
    super::capabilities::keep(|capability| KEPT.contains(capability));
}

/// The way to the thread.
pub(super) struct Tls {
    changes: Sender<Change>,
    attached: HashMap<u32, HashSet<ModuleId>>,
    waiting: Vec<(Instant, u32, ModuleId)>,
    /// Libraries in processes that the thread could not attach to, and those that it was not there for.
    refused: Arc<AtomicU64>,
    unsent: u64,
}

/// What the thread is started with, once its programs are loaded. Without it, nothing is attached to.
pub(super) struct Starter {
    changes: Sender<Change>,
    receiver: Receiver<Change>,
    refused: Arc<AtomicU64>,
}

/// The thread, started.
pub(super) struct Attaching(Sender<Change>);

impl Attaching {
    /// Waits until everything is attached to that was known before. False when that takes longer than `limit`.
    pub(super) fn wait(self, limit: Duration) -> bool {
        let (sender, done) = channel();
        self.0.send(Change::Tell(sender)).is_ok() && done.recv_timeout(limit).is_ok()
    }
}

impl Starter {
    /// Starts the thread, with handles of its own to these loaded programs: what is attached to a function's entry, to
    /// its return, and to the end of a connection.
    pub(super) fn start(self, programs: [&UProbe; 3]) -> Result<Attaching, ProgramError> {
        let Self { changes, receiver, refused } = self;
        let mut probes = Probes::new(programs)?;
        let run = move || {
            keep_capabilities();
            for change in receiver {
                match change {
                    Change::Attach { pid, file, functions } => {
                        let is_attached = probes.attach(pid, &file, &functions);
                        refused.fetch_add(u64::from(!is_attached), Ordering::Relaxed);
                    }
                    Change::Detach { pid } => drop(probes.links.remove(&pid)),
                    // Whoever asked may wait no longer.
                    Change::Tell(sender) => drop(sender.send(())),
                }
            }
        };
        std::thread::Builder::new().name("tls".to_owned()).spawn(run).map_err(ProgramError::IOError)?;
        Ok(Attaching(changes))
    }
}

impl Tls {
    /// The way to a thread that is still to be started.
    pub(super) fn new() -> (Self, Starter) {
        let (changes, receiver) = channel();
        let refused = Arc::<AtomicU64>::default();
        let tls = Self {
            changes: changes.clone(),
            attached: HashMap::new(),
            waiting: Vec::new(),
            refused: Arc::clone(&refused),
            unsent: 0,
        };
        (tls, Starter { changes, receiver, refused })
    }

    /// Libraries in processes that could not be attached to, so far.
    pub(super) fn unattached(&self) -> u64 {
        self.unsent + self.refused.load(Ordering::Relaxed)
    }

    /// A process has mapped a module. `is_child`: it got it from its parent, and may run another program at once.
    pub(super) fn map(&mut self, pid: u32, id: ModuleId, module: &Module, is_child: bool) {
        let Some((file, functions)) = module.tls_functions() else { return };
        if is_child {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push((Instant::now(), pid, id));
            }
            return;
        }
        if self.attached.get(&pid).is_some_and(|modules| modules.contains(&id)) {
            return;
        }
        let all: usize = self.attached.values().map(HashSet::len).sum();
        if all >= MAX_ATTACHED {
            self.unsent += 1;
            return;
        }
        self.attached.entry(pid).or_default().insert(id);
        let change = file.try_clone().map(|file| Change::Attach { pid, file, functions: functions.to_vec() });
        let is_sent = change.is_ok_and(|change| self.changes.send(change).is_ok());
        self.unsent += u64::from(!is_sent);
    }

    /// The children whose modules are to be mapped after all.
    pub(super) fn ripe(&mut self) -> Vec<(u32, ModuleId)> {
        self.waiting
            .extract_if(.., |(since, ..)| since.elapsed() >= CHILD_REST)
            .map(|(_, pid, id)| (pid, id))
            .collect()
    }

    /// A process has ended, or runs another program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.waiting.retain(|(_, waiting, _)| *waiting != pid);
        if self.attached.remove(&pid).is_some() {
            let _ = self.changes.send(Change::Detach { pid });
        }
    }
}

/// A handle to a loaded program that attaches and detaches by itself.
fn handle(program: &UProbe, kind: ProbeKind) -> Result<UProbe, ProgramError> {
    // SAFETY: it is a program of this very kind.
    unsafe { UProbe::from_program_info(program.info()?, Cow::Borrowed("tls"), kind) }
}

struct Probes {
    enter: UProbe,
    leave: UProbe,
    free: UProbe,
    links: HashMap<u32, Vec<UProbeLink>>,
}

impl Probes {
    /// With handles of its own to these loaded programs.
    fn new([enter, leave, free]: [&UProbe; 3]) -> Result<Self, ProgramError> {
        Ok(Self {
            enter: handle(enter, ProbeKind::Entry)?,
            leave: handle(leave, ProbeKind::Return)?,
            free: handle(free, ProbeKind::Entry)?,
            links: HashMap::new(),
        })
    }

    /// False when the process lives and one of the functions could not be attached to.
    fn attach(&mut self, pid: u32, file: &File, functions: &[(TlsFunction, u64)]) -> bool {
        let Some(process) = NonZeroU32::new(pid) else { return true };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let links = self.links.entry(pid).or_default();
        let mut is_attached = true;
        for (function, offset) in functions {
            let programs = match function {
                TlsFunction::Free => vec![&mut self.free],
                // Who has entered can return: in this order nothing is taken twice or half.
                _ => vec![&mut self.leave, &mut self.enter],
            };
            for program in programs {
                let location = UProbeAttachLocation::AbsoluteOffset(*offset);
                let point = UProbeAttachPoint { location, cookie: Some(*function as u64) };
                let link = program.attach(point, &path, UProbeScope::OneProcess(process));
                match link.and_then(|link| program.take_link(link)) {
                    Ok(link) => links.push(link),
                    // A process that has ended meanwhile has nothing to be read.
                    Err(_) => is_attached = is_attached && Process::open(pid).is_err(),
                }
            }
        }
        is_attached
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use aya::{Ebpf, EbpfLoader};
    use caps::CapSet;

    use super::*;
    use crate::capture::kernel::OBJECT;

    fn probes(object: &mut Ebpf) -> Probes {
        let names = ["tls_enter", "tls_return", "tls_free"];
        for name in names {
            let program: &mut UProbe = object.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        Probes::new(names.map(|name| object.program(name).unwrap().try_into().unwrap())).unwrap()
    }

    /// What the thread keeps is enough for a process of another user, and is no more than it needs (needs root).
    #[test]
    fn attaches_with_few_capabilities() {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let mut probes = probes(&mut object);
        let mut command = Command::new("sleep");
        let mut other = command.arg("1000").uid(65534).gid(65534).spawn().unwrap();
        let pid = other.id();
        let run = move || {
            let file = File::open("/proc/self/exe").unwrap();
            keep_capabilities();
            let kept = caps::read(None, CapSet::Permitted).unwrap();
            assert!(kept.is_subset(&KEPT.into_iter().collect()), "{kept:?}");
            probes.attach(pid, &file, &[(TlsFunction::Read, 0)])
        };
        let is_attached = std::thread::spawn(run).join();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(is_attached.unwrap());
    }

    /// What can't be attached to is told, but not of a process that is gone; whoever waits is told when all is done (needs root).
    #[test]
    fn refusals_are_counted() {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let mut probes = probes(&mut object);
        let (file, me) = (File::open("/proc/self/exe").unwrap(), std::process::id());
        let behind_its_end = [(TlsFunction::Read, 1 << 50)];
        assert!(probes.attach(me, &file, &[(TlsFunction::Read, 0), (TlsFunction::Free, 0)]));
        assert_eq!(probes.links[&me].len(), 3);
        assert!(!probes.attach(me, &file, &behind_its_end));
        assert!(probes.attach(u32::MAX >> 1, &file, &behind_its_end));

        let (tls, starter) = Tls::new();
        let nobody = Attaching(starter.changes.clone());
        assert!(!nobody.wait(Duration::from_millis(1)), "it has not started");
        tls.changes.send(Change::Attach { pid: me, file, functions: behind_its_end.into() }).unwrap();
        let attaching = starter.start([&probes.enter, &probes.leave, &probes.free]).unwrap();
        assert!(attaching.wait(Duration::from_secs(60)));
        assert_eq!(tls.unattached(), 1);
    }
}
