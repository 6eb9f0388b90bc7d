//! TLS libraries in watched processes: attaches the kernel half to their functions, in these processes alone. Twin of
//! `profiler-ebpf/src/wire/tls.rs`.
//!
//! On a thread of its own: the kernel keeps whoever detaches waiting until no program runs any more.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProbeKind, ProgramError, UProbe};
use profiler_common::TlsFunction;

use crate::symbol::{Module, ModuleId};

/// A child that lives this long without running another program may serve clients itself.
const CHILD_REST: Duration = Duration::from_secs(1);
/// Children that may wait for that.
const MAX_WAITING: usize = 1024;
/// Processes and files that are attached to at once: each takes up to nine file descriptors.
const MAX_ATTACHED: usize = 512;

enum Change {
    Attach { pid: u32, file: File, functions: Vec<(TlsFunction, u64)> },
    Detach { pid: u32 },
}

/// The way to the thread.
pub(super) struct Tls {
    changes: Sender<Change>,
    attached: HashMap<u32, HashSet<ModuleId>>,
    waiting: Vec<(Instant, u32, ModuleId)>,
}

/// What the thread is started with, once its programs are loaded. Without it, nothing is attached to.
pub(super) struct Starter(Receiver<Change>);

impl Starter {
    /// Starts the thread, with handles of its own to these loaded programs: what is attached to a function's entry, to
    /// its return, and to the end of a connection.
    pub(super) fn start(self, programs: [&UProbe; 3]) -> Result<(), ProgramError> {
        let [enter, leave, free] = programs;
        let mut probes = Probes {
            enter: handle(enter, ProbeKind::Entry)?,
            leave: handle(leave, ProbeKind::Return)?,
            free: handle(free, ProbeKind::Entry)?,
            links: HashMap::new(),
        };
        let run = move || {
            for change in self.0 {
                match change {
                    Change::Attach { pid, file, functions } => probes.attach(pid, &file, &functions),
                    Change::Detach { pid } => drop(probes.links.remove(&pid)),
                }
            }
        };
        std::thread::Builder::new().name("tls".to_owned()).spawn(run).map_err(ProgramError::IOError)?;
        Ok(())
    }
}

impl Tls {
    /// The way to a thread that is still to be started.
    pub(super) fn new() -> (Self, Starter) {
        let (changes, receiver) = channel();
        (Self { changes, attached: HashMap::new(), waiting: Vec::new() }, Starter(receiver))
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
        let all: usize = self.attached.values().map(HashSet::len).sum();
        if all >= MAX_ATTACHED || !self.attached.entry(pid).or_default().insert(id) {
            return;
        }
        if let Ok(file) = file.try_clone() {
            let _ = self.changes.send(Change::Attach { pid, file, functions: functions.to_vec() });
        }
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
    fn attach(&mut self, pid: u32, file: &File, functions: &[(TlsFunction, u64)]) {
        let Some(process) = NonZeroU32::new(pid) else { return };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let links = self.links.entry(pid).or_default();
        for (function, offset) in functions {
            let programs = match function {
                TlsFunction::Free => vec![&mut self.free],
                // Who has entered can return: in this order nothing is taken twice or half.
                _ => vec![&mut self.leave, &mut self.enter],
            };
            for program in programs {
                let location = UProbeAttachLocation::AbsoluteOffset(*offset);
                let point = UProbeAttachPoint { location, cookie: Some(*function as u64) };
                // A process that has ended meanwhile has nothing to be read.
                let link = program.attach(point, &path, UProbeScope::OneProcess(process));
                links.extend(link.and_then(|link| program.take_link(link)));
            }
        }
    }
}
