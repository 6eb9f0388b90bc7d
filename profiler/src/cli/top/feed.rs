//! From a recording that grows to what the view shows, on a thread of its own: the rings are drained meanwhile.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::analysis::hot_paths::DEFAULT_THRESHOLD;
use crate::analysis::live::{Owner, ServerIndex, Snapshot, Window};
use crate::analysis::report::Report;
use crate::recording::{Error, Follower, Increment, RowId};
use crate::target::Server;

/// How often it is looked whether the recording has grown. It does about once a second.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be shown.
pub(super) struct View {
    /// The figures.
    pub(super) snapshot: Snapshot,
    /// The stacks that were asked for.
    pub(super) detail: Option<(Owner, Report)>,
}

/// What the view asks for.
pub(super) enum Ask {
    /// Another window.
    Window(Duration),
    /// The stacks of this owner from now on.
    Detail(Option<Owner>),
}

/// Views as they come.
pub(super) struct Feed {
    views: Receiver<Result<View, Error>>,
    asks: Sender<Ask>,
}

impl Feed {
    /// Starts to follow a recording of these servers: a view each `interval`, of the last `window`.
    pub(super) fn start(
        path: &Path,
        servers: Vec<Server>,
        window: Duration,
        interval: Duration,
    ) -> Result<Self> {
        // One that is not taken makes the feed wait.
        let (view_sender, views) = sync_channel(1);
        let (asks, ask_receiver) = channel();
        let (path, names) = (path.to_owned(), servers.iter().map(|server| server.name.clone()).collect());
        let source = Source {
            servers: Servers::new(servers),
            window: Window::new(names, nanoseconds(window)),
            interval_seconds: interval.as_secs_f64(),
            detail: None,
        };
        std::thread::Builder::new()
            .name("feed".to_owned())
            .spawn(move || source.run(&path, &ask_receiver, &view_sender))?;
        Ok(Self { views, asks })
    }

    /// The next view, if it comes within this time.
    pub(super) fn next(&self, timeout: Duration) -> Result<Option<View>> {
        let received = if timeout.is_zero() {
            self.views.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        } else {
            self.views.recv_timeout(timeout)
        };
        match received {
            Ok(view) => Ok(Some(view?)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the recording is not followed any more: please report this")
            }
        }
    }

    /// Asks for something else: the next view has it.
    pub(super) fn ask(&self, ask: Ask) {
        // If nobody listens, the next view is an error that says why.
        let _ = self.asks.send(ask);
    }
}

struct Source {
    servers: Servers,
    window: Window,
    interval_seconds: f64,
    detail: Option<Owner>,
}

impl Source {
    fn run(mut self, path: &Path, asks: &Receiver<Ask>, views: &SyncSender<Result<View, Error>>) {
        let mut follower = match Follower::new(path) {
            Ok(follower) => follower,
            Err(error) => return drop(views.send(Err(error))),
        };
        let mut due_seconds = self.interval_seconds;
        loop {
            let view = match asks.recv_timeout(LOOK) {
                Ok(Ask::Window(window)) => {
                    self.window.set_length(nanoseconds(window));
                    Some(self.view(&follower))
                }
                Ok(Ask::Detail(owner)) => {
                    let is_asked = owner.is_some();
                    self.detail = owner;
                    is_asked.then(|| self.view(&follower))
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => match follower.poll() {
                    Ok(None) => None,
                    Ok(Some(increment)) => {
                        let server_of = self.servers.of(&increment);
                        self.window.push(&increment.recording, increment.in_flight, &server_of);
                        // A commit comes a moment earlier or later than each second.
                        let elapsed_seconds = self.window.elapsed_seconds() + 0.5;
                        (elapsed_seconds >= due_seconds).then(|| {
                            due_seconds = elapsed_seconds - 0.5 + self.interval_seconds;
                            self.view(&follower)
                        })
                    }
                    Err(error) => Some(Err(error)),
                },
            };
            let Some(view) = view else { continue };
            let is_over = view.is_err();
            if views.send(view).is_err() || is_over {
                return;
            }
        }
    }

    fn view(&self, follower: &Follower) -> Result<View, Error> {
        let detail = match &self.detail {
            None => None,
            Some(owner) => {
                let recording = follower.with_stacks(self.window.samples_of(owner))?;
                Some((owner.clone(), Report::new(&recording, DEFAULT_THRESHOLD)))
            }
        };
        Ok(View { snapshot: self.window.snapshot(), detail })
    }
}

/// Which process belongs to which server.
struct Servers {
    /// Those that ran at the start.
    pids: Vec<HashSet<u32>>,
    of_row: HashMap<RowId, ServerIndex>,
    start_ns: Option<u64>,
}

impl Servers {
    fn new(servers: Vec<Server>) -> Self {
        let pids = servers.into_iter().map(|server| server.pids.into_iter().chain([server.pid]).collect());
        Self { pids: pids.collect(), of_row: HashMap::new(), start_ns: None }
    }

    /// The server of each process of an increment; their number where none is known.
    fn of(&mut self, increment: &Increment) -> Vec<ServerIndex> {
        let recording = &increment.recording;
        let start_ns = *self.start_ns.get_or_insert(recording.meta.start_ns);
        let mut found: Vec<ServerIndex> = Vec::with_capacity(recording.processes.len());
        for (row, process) in increment.process_rows.iter().zip(&recording.processes) {
            // An ID can be given again later, to a child of someone else.
            let by_pid = || {
                let is_own = |pids: &HashSet<u32>| process.first_ns < start_ns && pids.contains(&process.pid);
                self.pids.iter().position(is_own)
            };
            let by_parent = || found.get(process.parent?).copied();
            let known = self.of_row.get(row).copied();
            let server = known.or_else(by_pid).or_else(by_parent);
            found.push(server.unwrap_or(if self.pids.len() == 1 { 0 } else { self.pids.len() }));
        }
        self.of_row = increment.process_rows.iter().copied().zip(found.iter().copied()).collect();
        found
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Process;

    /// Processes belong to the server that they were found with, else to their parent's, also when that is gone; an ID that is
    /// used again says nothing.
    #[test]
    fn servers_of_processes() {
        let server = |pid, pids: &[u32]| Server { name: String::new(), pid, root: pid, pids: pids.to_vec() };
        let mut servers = Servers::new(vec![server(1, &[1, 2]), server(3, &[3])]);
        let increment = |processes: &[(RowId, u32, Option<usize>, u64)]| {
            let mut increment = Increment::default();
            increment.recording.meta.start_ns = 100;
            for (row, pid, parent, first_ns) in processes {
                increment.process_rows.push(*row);
                let process =
                    Process { pid: *pid, parent: *parent, first_ns: *first_ns, ..Process::default() };
                increment.recording.processes.push(process);
            }
            increment
        };
        let first = increment(&[(1, 1, None, 50), (2, 3, None, 50), (3, 9, Some(1), 120), (4, 8, None, 120)]);
        assert_eq!(servers.of(&first), [0, 1, 1, 2]);
        let second = increment(&[(3, 9, None, 120), (5, 2, Some(0), 300), (6, 1, None, 300)]);
        assert_eq!(servers.of(&second), [1, 1, 2]);
    }
}
