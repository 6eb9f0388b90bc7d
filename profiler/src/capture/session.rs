//! What is attached, from its start to its end.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Error;
use super::capabilities;
use super::code::Code;
use super::cpu::Sampling;
use super::event::timestamp_ns;
use super::gauges::Reading;
use super::kernel::Kernel;
use super::mappings::{MappingEvent, MappingRecords};
use super::python::Pythons;
use super::records::Records;
use super::timeline::Timeline;
use super::tls::Tls;
use super::wakeups::Wakeups;
use super::wire::Wire;
use super::yielding::{Backlog, Yielding};
use crate::recording::{Meta, Writer};
use crate::target::{Process, ProcessTable};
use crate::wire::contents::Capture;

/// Batches that may wait for a slow disk or a large symbol table. Behind that, events wait in the ring.
const WAITING_BATCHES: usize = 64;
/// Bytes that may wait in batches. Behind that messages stay in their ring, where what does not fit is counted.
const WAITING_BYTES: u64 = 16 << 20;
/// An event may be in a ring this long after its timestamp was taken. Later ones wait for the next batch, so that
/// no mapping overtakes a sample.
const SETTLE_NS: u64 = 25_000_000;
/// How long a start waits until TLS libraries are attached to.
const TLS_LIMIT: Duration = Duration::from_secs(2);
/// How often names are looked up and the recording is committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often what is older than is to be kept is left out.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

/// What is to be recorded, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server, as the user calls it.
    pub target_name: String,
    /// The process that does the work.
    pub pid: u32,
    /// All processes to watch; their descendants are watched too.
    pub pids: Vec<u32>,
    /// Samples a second of CPU time, within [`FREQUENCY_RANGE_HZ`](super::FREQUENCY_RANGE_HZ).
    pub frequency_hz: u64,
    /// Whether runtimes may be asked for the names of their code, where they give them only when asked.
    pub is_asking: bool,
    /// Whether calls are looked for in what the processes read and write.
    pub is_reading_calls: bool,
    /// What of their arguments and results is kept.
    pub capture: Capture,
    /// Tools or methods whose calls [`Progress`] counts; all, when it is empty.
    pub counted: Vec<String>,
    /// Whether it is a command that waits for its start, without code of its own yet.
    pub is_launched: bool,
    /// Files of code that such a command runs first: what is needed to unwind them is made ready before.
    pub programs: Vec<PathBuf>,
    /// The file to write.
    pub output: PathBuf,
    /// Only what is younger than this is kept, for whoever [follows](crate::recording::Follower) the recording; such a file
    /// can't be read as a whole. `None`: everything is kept.
    pub keep: Option<Duration>,
    /// Whether somebody looks at the recording while it grows: new code then gets its names within seconds, at a higher cost.
    pub is_followed: bool,
}

/// How far a recording is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Samples written.
    pub samples: u64,
    /// Calls that ended, of those that are [counted](Options::counted).
    pub calls: u64,
    /// Everything lost, by cause; without causes that did not happen.
    pub losses: Vec<(&'static str, u64)>,
}

impl Progress {
    /// Everything lost.
    pub fn lost(&self) -> u64 {
        self.losses.iter().map(|(_, count)| count).sum()
    }
}

/// How a recording ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was recorded.
    pub progress: Progress,
    /// From the first to the last moment of sampling.
    pub duration: Duration,
}

/// The thread that writes, with what stopped it.
type RecorderThread = JoinHandle<Result<(), Error>>;

/// A running recording. Dropping it detaches everything, and leaves what was committed.
pub struct Session {
    kernel: Kernel,
    mapping_records: MappingRecords,
    recorder: Option<(SyncSender<Box<Batch>>, RecorderThread)>,
    progress: Arc<Mutex<Progress>>,
    waiting: Option<Box<Batch>>,
    held_records: Records,
    backlog: Backlog,
    /// The recorder's thread, once it has started.
    yielding: Option<Yielding>,
    held_mappings: Vec<MappingEvent>,
    start_ns: u64,
    last_losses: Instant,
    output: PathBuf,
    is_tls_late: bool,
}

/// Why the rings are drained.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    Tick,
    Woken,
    Last,
}

impl Drain {
    /// Until when everything is known, if everything that was put into the rings until `told_ns` was taken out of them.
    fn settled_ns(self, told_ns: u64) -> u64 {
        match self {
            Self::Last => u64::MAX,
            Self::Tick => told_ns.saturating_sub(SETTLE_NS),
            Self::Woken => 0,
        }
    }
}

/// What was drained at one time.
#[derive(Default)]
struct Batch {
    records: Records,
    mappings: Vec<MappingEvent>,
    /// Mappings that came in just now, and will be among `mappings` of a later batch.
    announced: Vec<MappingEvent>,
    now_ns: u64,
    /// Nothing from before this moment comes any more.
    settled_ns: u64,
    /// Losses of the kernel half until now; empty when they were not read this time.
    losses: Vec<(&'static str, u64)>,
    /// What the kernel counted for the processes; empty when it was not read this time.
    readings: Vec<Reading>,
    undecodable: u64,
    /// Sampling starts now.
    is_first: bool,
    /// Why it is the last batch, if it is.
    end: Option<String>,
}

impl Batch {
    /// Whether it tells nothing but what time it is.
    fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.mappings.is_empty()
            && self.announced.is_empty()
            && self.losses.is_empty()
            && self.undecodable == 0
            && !self.is_first
            && self.end.is_none()
    }
}

impl Session {
    /// Attaches to running processes and starts recording.
    ///
    /// # Errors
    /// [`Error::TargetEnded`], [`Error::Recording`], or whatever keeps the kernel half from being loaded.
    pub fn start(options: &Options) -> Result<Self, Error> {
        raise_file_limit();
        crate::memory::keep_little();
        let sampling = Sampling::best(options.frequency_hz)?;
        let mut kernel = Kernel::load(sampling.ring_bytes(), options.is_reading_calls)?;
        crate::memory::give_back();
        let mapping_records = MappingRecords::open(&sampling.cpus).map_err(Error::Mappings)?;
        let pids = watch(&mut kernel, options)?;

        let meta = meta(options, &sampling, now_ns());
        let writer = Writer::create(&options.output, &meta)?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let (sender, receiver) = sync_channel(WAITING_BATCHES);
        let (ready_sender, ready) = sync_channel(1);
        let backlog = Backlog::default();
        let (tls, tls_starter) = Tls::new();
        let recorder = Recorder {
            backlog: backlog.clone(),
            writer,
            code: kernel.take_code()?,
            pythons: kernel.take_pythons()?,
            wire: kernel.take_wire()?.keeping(options.capture),
            tls,
            counted: options.counted.clone(),
            pids,
            is_asking: options.is_asking,
            is_launched: options.is_launched,
            programs: options.programs.clone(),
            keep: options.keep,
            is_followed: options.is_followed,
            watched_ns: meta.start_ns,
            period_ns: sampling.period_ns(),
            receiver,
            ready: ready_sender,
        };
        let shared = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || recorder.run(&shared))
            .map_err(|_| Error::RecorderFailed(options.output.clone()))?;
        let mut session = Self {
            kernel,
            mapping_records,
            recorder: Some((sender, thread)),
            progress,
            waiting: None,
            held_records: Records::default(),
            backlog,
            yielding: None,
            held_mappings: Vec::new(),
            start_ns: now_ns(),
            last_losses: Instant::now(),
            output: options.output.clone(),
            is_tls_late: false,
        };
        // While the recorder loads the unwind tables of what is mapped by now, for the first sample to find.
        session.kernel.load_probes(options.is_reading_calls)?;
        // Without it, what is encrypted stays so, and is counted.
        let attaching =
            options.is_reading_calls.then(|| session.kernel.start_tls(tls_starter)).and_then(Result::ok);
        match ready.recv() {
            Ok(yielding) => session.yielding = yielding,
            Err(_) => return Err(session.recorder_error()),
        }
        // By now the recorder has said which libraries there are.
        session.is_tls_late = attaching.is_some_and(|attaching| !attaching.wait(TLS_LIMIT));
        // The kernel's types were read once more.
        crate::memory::give_back();
        session.begin(&sampling, options.is_reading_calls)?;
        Ok(session)
    }

    fn begin(&mut self, sampling: &Sampling, is_reading_calls: bool) -> Result<(), Error> {
        self.start_ns = now_ns();
        let (now_ns, readings) = (self.start_ns, self.readings());
        let first = Box::new(Batch { now_ns, readings, is_first: true, ..Batch::default() });
        self.kernel.attach_probes(sampling, is_reading_calls)?;
        capabilities::drop_unneeded();
        self.backlog.sent(first.records.size());
        match &self.recorder {
            Some((sender, _)) if sender.send(first).is_ok() => Ok(()),
            _ => Err(self.recorder_error()),
        }
    }

    /// What the kernel half wakes us for between two ticks. To be called inside of a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Mappings`] when there are no file descriptors left.
    pub fn wakeups(&self) -> Result<Wakeups, Error> {
        Wakeups::new(&self.kernel.events).map_err(Error::Mappings)
    }

    /// Drains what has come in. To be called about twenty times a second by the clock, and after each wakeup, which alone
    /// settles nothing: the moments up to which events are settled stay few.
    ///
    /// # Errors
    /// When the recording can't be written any more: [`Self::finish`] says why.
    pub fn tick(&mut self, is_woken: bool) -> Result<(), Error> {
        self.kernel.see_clients();
        let mut has_new_code = false;
        if self.waiting.is_none() {
            let batch = self.drain(if is_woken { Drain::Woken } else { Drain::Tick })?;
            has_new_code = !batch.announced.is_empty();
            // The recorder need not hear of nothing.
            self.waiting = if is_woken && batch.is_empty() { None } else { Some(batch) };
        }
        self.yielding
            .iter_mut()
            .for_each(|yielding| yielding.adapt(&self.backlog, has_new_code, Instant::now()));
        let Some((sender, _)) = &self.recorder else { return Ok(()) };
        if let Some(batch) = self.waiting.take() {
            self.backlog.sent(batch.records.size());
            match sender.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(batch)) => {
                    self.backlog.written(batch.records.size());
                    self.waiting = Some(batch);
                }
                Err(TrySendError::Disconnected(_)) => return Err(self.recorder_error()),
            }
        }
        Ok(())
    }

    /// Whether any watched process is left.
    pub fn targets_alive(&self) -> bool {
        !self.kernel.watched().is_empty()
    }

    /// How far the recording is.
    pub fn progress(&self) -> Progress {
        self.progress.lock().map(|progress| progress.clone()).unwrap_or_default()
    }

    /// Whether TLS libraries of processes that run were still being attached to when it began: first calls over TLS may be
    /// missing.
    pub fn is_tls_late(&self) -> bool {
        self.is_tls_late
    }

    /// Since when it samples.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.start_ns))
    }

    /// Detaches, writes what is left and ends the recording.
    ///
    /// # Errors
    /// When the recording can't be written to its end: what was committed stays readable.
    pub fn finish(mut self, reason: &str) -> Result<Summary, Error> {
        let duration = self.elapsed();
        self.yielding.iter_mut().for_each(Yielding::hurry);
        // Just before sampling ends, so that the two can be compared.
        let (end_ns, readings) = (now_ns(), self.readings());
        // The counters go with the programs' maps, which we still hold.
        self.kernel.detach();
        let mut last = self.drain(Drain::Last)?;
        last.readings = readings;
        last.now_ns = end_ns;
        last.end = Some(reason.to_owned());
        if let Some((sender, thread)) = self.recorder.take() {
            // The thread ends with these: its backlog counts no more.
            let sent = self.waiting.take().into_iter().chain([last]).try_for_each(|batch| sender.send(batch));
            drop(sender);
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(_) => return Err(Error::RecorderFailed(self.output.clone())),
            }
            if sent.is_err() {
                return Err(Error::RecorderFailed(self.output.clone()));
            }
        }
        Ok(Summary { progress: self.progress(), duration })
    }

    fn readings(&self) -> Vec<Reading> {
        self.kernel.watched().into_iter().map(Reading::of).collect()
    }

    /// Those that are of watched processes.
    fn of_targets(&self, mappings: &[MappingEvent]) -> Vec<MappingEvent> {
        // Most are of strangers, each of whom maps many files: a look-up is a system call.
        let mut known: HashMap<u32, bool> = HashMap::new();
        let mut is_target = |event: &&MappingEvent| {
            event.pid().is_some_and(|pid| *known.entry(pid).or_insert_with(|| self.kernel.is_watched(pid)))
        };
        mappings.iter().filter(|event| is_target(event)).cloned().collect()
    }

    fn recorder_error(&mut self) -> Error {
        match self.recorder.take().map(|(_, thread)| thread.join()) {
            Some(Ok(Err(error))) => error,
            _ => Error::RecorderFailed(self.output.clone()),
        }
    }

    fn drain(&mut self, drain: Drain) -> Result<Box<Batch>, Error> {
        let is_last = drain == Drain::Last;
        let now_ns = now_ns();
        let mut records = std::mem::take(&mut self.held_records);
        let mut undecodable = 0;
        let mut take = |record: &[u8]| undecodable += u64::from(!records.push(record));
        while let Some(record) = self.kernel.events.next() {
            take(&record);
        }
        let waiting = self.backlog.bytes();
        let mut room = if is_last { u64::MAX } else { WAITING_BYTES.saturating_sub(waiting) };
        let mut last_ns = 0;
        while room > 0
            && let Some(record) = self.kernel.messages.next()
        {
            room = room.saturating_sub(record.len() as u64);
            last_ns = timestamp_ns(&record).unwrap_or(last_ns);
            take(&record);
        }
        // Others are still in the ring.
        let told_ns = if room == 0 { last_ns } else { now_ns };
        // They are small, and their ring is: it would be full long before the other one.
        if is_last || waiting < 2 * WAITING_BYTES {
            while let Some(record) = self.kernel.client_events.next() {
                take(&record);
            }
        }
        let settled_ns = drain.settled_ns(told_ns);
        let mut mappings = Vec::new();
        undecodable += self.mapping_records.drain(&mut mappings);
        let announced = if is_last { Vec::new() } else { self.of_targets(&mappings) };
        mappings.append(&mut self.held_mappings);
        self.held_records = records.split_after(settled_ns);
        self.held_mappings = mappings.extract_if(.., |mapping| mapping.timestamp_ns() > settled_ns).collect();

        let (mut losses, mut readings) = (Vec::new(), Vec::new());
        if is_last || self.last_losses.elapsed() >= COMMIT_INTERVAL {
            self.last_losses = Instant::now();
            losses =
                self.kernel.losses()?.into_iter().map(|(failure, count)| (failure.name(), count)).collect();
            if !is_last {
                readings = self.readings();
            }
        }
        Ok(Box::new(Batch {
            records,
            mappings,
            announced,
            now_ns,
            settled_ns,
            losses,
            readings,
            undecodable,
            is_first: false,
            end: None,
        }))
    }
}

/// Puts the processes and all their descendants into the target set, the server itself first, each with its parent.
fn watch(kernel: &mut Kernel, options: &Options) -> Result<Vec<(u32, Option<u32>)>, Error> {
    let mut roots = vec![options.pid];
    roots.extend(options.pids.iter().filter(|pid| **pid != options.pid));
    let mut watched = Vec::new();
    // Until a pass finds nobody new. Whoever a watched process forks is put in by the kernel half: those are not new,
    // or a server that forks all the time would keep this going.
    loop {
        let table = ProcessTable::read().unwrap_or_default();
        let known: HashSet<u32> =
            kernel.watched().into_iter().chain(watched.iter().map(|(pid, _)| *pid)).collect();
        let new: Vec<u32> =
            table.descendants(&roots).into_iter().filter(|pid| !known.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            kernel.watch(pid)?;
            let parent = table.processes.get(&pid).map(|entry| entry.parent);
            watched.push((pid, parent));
        }
    }
    // One that ended before it was watched is never taken out by its exit: its ID could become a stranger's.
    watched.retain(|(pid, _)| {
        let lives = Process::open(*pid).is_ok_and(|process| process.stat().is_ok_and(|stat| !stat.ended()));
        if !lives {
            kernel.forget(*pid);
        }
        lives
    });
    if !watched.iter().any(|(pid, _)| *pid == options.pid) {
        return Err(Error::TargetEnded(options.pid));
    }
    Ok(watched)
}

fn meta(options: &Options, sampling: &Sampling, start_ns: u64) -> Meta {
    let kernel_release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Meta {
        profiler_version: env!("CARGO_PKG_VERSION").to_owned(),
        target_name: options.target_name.clone(),
        started_unix_ms: jiff::Timestamp::now().as_millisecond(),
        start_ns,
        end_ns: start_ns,
        end_reason: None,
        sampling_event: sampling.event_name().to_owned(),
        frequency_hz: options.frequency_hz,
        kernel_release,
        cpus: sampling.cpus.len() as u64,
        has_calls: options.is_reading_calls,
    }
}

/// What the recorder thread starts from.
struct Recorder {
    /// Shared with whoever sends batches.
    backlog: Backlog,
    writer: Writer,
    code: Code,
    pythons: Pythons,
    wire: Wire,
    tls: Tls,
    /// Tools or methods whose calls are counted.
    counted: Vec<String>,
    /// Processes that were running at the start, each with its parent.
    pids: Vec<(u32, Option<u32>)>,
    is_asking: bool,
    is_launched: bool,
    programs: Vec<PathBuf>,
    keep: Option<Duration>,
    is_followed: bool,
    /// Since when they are watched.
    watched_ns: u64,
    period_ns: u64,
    receiver: Receiver<Box<Batch>>,
    /// Told once when sampling can start.
    ready: SyncSender<Option<Yielding>>,
}

impl Recorder {
    /// Writes until the last batch, or until the recording can't be written.
    fn run(self, shared: &Mutex<Progress>) -> Result<(), Error> {
        capabilities::drop_unneeded();
        let mut timeline = Timeline::new(
            self.writer,
            self.code,
            self.pythons,
            (self.wire, self.tls),
            self.period_ns,
            self.is_asking,
            self.counted,
        )?;
        if self.is_followed {
            timeline.name_soon();
        }
        if let (Some((pid, _)), true) = (self.pids.first(), self.is_launched) {
            self.programs.iter().for_each(|program| timeline.expect(*pid, program));
        }
        for (pid, parent) in self.pids {
            timeline.adopt(pid, parent, self.watched_ns)?;
            // A command that waits for its start still has our own code, and will have none of it.
            if !self.is_launched {
                timeline.read_mappings(pid);
            }
        }
        timeline.commit(self.watched_ns, &[])?;
        timeline.settle();
        crate::memory::give_back();
        // If nobody waits any more, there is nothing to receive either.
        let _ = self.ready.send(Yielding::current());
        let (mut last_commit, mut last_forgotten) = (Instant::now(), Instant::now());
        let mut losses = Vec::new();
        while let Ok(batch) = self.receiver.recv() {
            if batch.is_first {
                timeline.begin(batch.now_ns)?;
            }
            timeline.apply(&batch.records, batch.mappings, batch.settled_ns)?;
            timeline.write_calls()?;
            self.backlog.written(batch.records.size());
            drop(batch.records);
            timeline.announce(&batch.announced, batch.settled_ns);
            timeline.gauges(&batch.readings)?;
            timeline.count_undecodable(batch.undecodable);
            if !batch.losses.is_empty() {
                losses = batch.losses;
            }
            if batch.end.is_some() || last_commit.elapsed() >= COMMIT_INTERVAL {
                timeline.commit(batch.now_ns, &losses)?;
                // Large symbol tables take seconds: samples must not wait for their names.
                timeline.name(batch.end.is_some())?;
                timeline.commit(batch.now_ns, &losses)?;
                last_commit = Instant::now();
            }
            if let Some(keep) = self.keep
                && last_forgotten.elapsed() >= FORGET_INTERVAL
            {
                let keep_ns = u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX);
                timeline.forget_before(batch.now_ns.saturating_sub(keep_ns))?;
                last_forgotten = Instant::now();
            }
            if let Ok(mut progress) = shared.lock() {
                progress.samples = timeline.samples;
                progress.calls = timeline.calls;
                progress.losses = timeline.losses(&losses).filter(|(_, count)| *count > 0).collect();
            }
            if let Some(reason) = batch.end {
                timeline.finish(batch.now_ns, &reason)?;
                break;
            }
        }
        Ok(())
    }
}

/// Each module is kept open, and so is a perf event for each CPU.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it, modules that can't be opened are counted.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Now, on the clock of all timestamps.
pub(crate) fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned())
        .unwrap_or(0)
}
