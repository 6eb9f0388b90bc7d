//! What goes on now: a recording that still grows, over a sliding window.
//!
//! The recording is looked at in increments. Each is attributed by itself, by the rules of [`crate::analysis::attribution`]: at its
//! end all calls are known that were in flight in it, ended or not. So a look costs what a second brings, however long the
//! window is. Of the increments in the window sums are made; only durations and samples are kept one by one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use crate::analysis::attribution::{Attribution, Charge, Cost};
use crate::analysis::calls::{Latency, duration_ns, is_incomplete};
use crate::analysis::counted::{Counted, Counters};
use crate::analysis::{milliseconds, ratio, seconds};
use crate::recording::{GaugeKind, Recording, Sample};
use crate::wire::calls::{Call, Ended, Side};

/// Index of a server in the list that was given to [`Window::new`].
pub type ServerIndex = usize;

/// Tools of an increment that are told apart: names are the client's, who may make up a new one each time.
const MAX_TOOLS: usize = 512;
/// Version of [`Snapshot`] as JSON.
const SCHEMA_VERSION: u32 = 1;
/// Stands for the names of all others.
const OTHERS: &str = "[others]";
/// Samples whose stacks are kept; of a longer or busier window those of its end.
const MAX_SAMPLES: usize = 1 << 17;

/// What calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ToolKey {
    /// Who answers.
    pub server: ServerIndex,
    /// `tools/call`...
    pub method: Arc<str>,
    /// The tool, prompt or resource.
    pub tool: Option<Arc<str>>,
    /// The server asked its client.
    pub asked_by_server: bool,
}

/// Whose time it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Calls of a tool.
    Tool(ToolKey),
    /// No call of this server.
    Background(ServerIndex),
}

/// The increments of the last seconds.
#[derive(Debug)]
pub struct Window {
    servers: Vec<String>,
    length_ns: u64,
    buckets: VecDeque<Bucket>,
    counters: Counters,
    latest: Latest,
}

/// What is as it is now, or since the recording's start.
#[derive(Debug, Default)]
struct Latest {
    unix_ms: i64,
    elapsed_ns: u64,
    losses: BTreeMap<String, u64>,
    messages: BTreeMap<String, u64>,
    in_flight: HashMap<ToolKey, u64>,
    servers: Vec<LatestServer>,
}

#[derive(Clone, Debug, Default)]
struct LatestServer {
    rss_bytes: Option<u64>,
    has_ended: bool,
}

/// An increment.
#[derive(Debug, Default)]
struct Bucket {
    start_ns: u64,
    end_ns: u64,
    tools: HashMap<ToolKey, ToolSums>,
    background_ns: HashMap<ServerIndex, u64>,
    counted: HashMap<ServerIndex, Counted>,
    samples: u64,
    /// Each sample with its owner's part of its weight.
    charged: Vec<(Owner, Sample)>,
}

#[derive(Clone, Debug, Default)]
struct ToolSums {
    ended: u64,
    errors: u64,
    durations_ns: Vec<u64>,
    cost: Cost,
}

/// What goes on, as values.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Version of this shape: it changes when a field goes away or changes its meaning.
    pub schema_version: u32,
    /// Time at the window's end (RFC 3339, UTC); absent before anything was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The same in milliseconds since 1970.
    #[serde(skip)]
    pub unix_ms: i64,
    /// Since the recording's start.
    pub elapsed_seconds: f64,
    /// How much of it the figures are of.
    pub window_seconds: f64,
    /// Samples in the window.
    pub samples: u64,
    /// What was lost since the recording's start, by cause.
    pub losses: BTreeMap<String, u64>,
    /// Some calls may be missing, or their ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// The servers, in the order in which they were named.
    pub servers: Vec<ServerRow>,
    /// Tools with calls in the window, the most CPU time first.
    pub tools: Vec<ToolRow>,
}

/// A server in the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerRow {
    /// Its name.
    pub server: String,
    /// All of its processes have ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Calls that it answered, a second.
    pub calls_per_second: f64,
    /// CPU time by time: 1 is one CPU. As the kernel counted it, where it was read and there are samples enough to split it by.
    pub cpu_ratio: f64,
    /// The same as it was sampled; absent if nothing was scaled to the kernel's count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_cpu_ratio: Option<f64>,
    /// The part of it while no call was in flight.
    pub background_cpu_ratio: f64,
    /// Resident memory of its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
}

/// A tool in the window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolRow {
    /// What is counted here.
    #[serde(skip)]
    pub key: ToolKey,
    /// Name of the server.
    pub server: String,
    /// `tools/call`...
    pub method: String,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Who asked, when it was the server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asked_by_server: bool,
    /// Calls that ended in the window.
    pub calls: u64,
    /// The same, a second.
    pub calls_per_second: f64,
    /// Calls that go on at the window's end.
    pub in_flight: u64,
    /// Of those that ended, the ones with an error.
    pub errors: u64,
    /// From first byte to last, of those that were answered; absent when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    /// CPU time by time, also of calls that go on: 1 is one CPU.
    pub cpu_ratio: f64,
    /// CPU time by calls that ended. Absent without any, and where calls take longer than the window, which then has but parts
    /// of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms_per_call: Option<f64>,
    /// Share of the CPU time that is certainly theirs; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_ratio: Option<f64>,
}

impl Window {
    /// An empty window of so many nanoseconds on these servers.
    pub fn new(servers: Vec<String>, length_ns: u64) -> Self {
        let (buckets, counters, latest) = (VecDeque::new(), Counters::default(), Latest::default());
        Self { servers, length_ns, buckets, counters, latest }
    }

    /// Another length, in nanoseconds. What is not there any more does not come back.
    pub fn set_length(&mut self, length_ns: u64) {
        self.length_ns = length_ns;
        self.expire();
    }

    /// Takes an increment: a recording of one stretch of time whose last `in_flight` calls have not ended. `server_of` has
    /// the server of each of its processes.
    pub fn push(&mut self, recording: &Recording, in_flight: usize, server_of: &[ServerIndex]) {
        let meta = &recording.meta;
        let ended = recording.calls.len().saturating_sub(in_flight);
        let mut keys = Keys { server_of, known: HashMap::new(), tools: 0 };
        let keys: Vec<ToolKey> =
            recording.calls.iter().map(|recorded| keys.of(recorded.process, &recorded.call)).collect();
        let attribution = Attribution::new(recording);
        let mut bucket = Bucket {
            start_ns: meta.start_ns,
            end_ns: meta.end_ns,
            samples: recording.samples.len() as u64,
            counted: self.counters.increment(recording, server_of, self.servers.len()),
            ..Bucket::default()
        };
        for ((key, recorded), cost) in keys.iter().zip(&recording.calls).zip(&attribution.costs).take(ended) {
            let sums = bucket.sums(key);
            sums.cost.add(*cost);
            sums.ended += 1;
            sums.errors += u64::from(recorded.call.ended.is_error());
            if matches!(recorded.call.ended, Ended::Ok | Ended::Error { .. } | Ended::ToolError { .. }) {
                sums.durations_ns.push(duration_ns(&recorded.call));
            }
        }
        self.latest.in_flight.clear();
        for (key, cost) in keys.iter().zip(&attribution.costs).skip(ended) {
            bucket.sums(key).cost.add(*cost);
            *self.latest.in_flight.entry(key.clone()).or_default() += 1;
        }
        attribution.charges(recording, |sample, charge| {
            let sample = &recording.samples[sample];
            let thread = recording.threads.get(sample.thread);
            let server = thread.and_then(|thread| server_of.get(thread.process)).copied();
            bucket.charge(sample, charge, &keys, server.unwrap_or(self.servers.len()));
        });
        self.latest.unix_ms = meta.started_unix_ms;
        self.latest.note(recording, server_of, self.servers.len());
        self.latest.elapsed_ns =
            self.latest.elapsed_ns.saturating_add(meta.end_ns.saturating_sub(meta.start_ns));
        self.buckets.push_back(bucket);
        self.expire();
    }

    fn expire(&mut self) {
        let Some(end_ns) = self.buckets.back().map(|bucket| bucket.end_ns) else { return };
        // A bucket is a little longer or shorter than a second: one that is in by half stays.
        let start_ns = end_ns.saturating_sub(self.length_ns);
        let is_over = |bucket: &Bucket| bucket.start_ns.midpoint(bucket.end_ns) < start_ns;
        while self.buckets.len() > 1 && self.buckets.front().is_some_and(is_over) {
            self.buckets.pop_front();
        }
        let mut samples = 0;
        for bucket in self.buckets.iter_mut().rev() {
            samples += bucket.charged.len();
            if samples > MAX_SAMPLES {
                bucket.charged = Vec::new();
            }
        }
    }

    /// How long the recording is.
    pub fn elapsed_seconds(&self) -> f64 {
        seconds(self.latest.elapsed_ns)
    }

    /// What goes on.
    pub fn snapshot(&self) -> Snapshot {
        let latest = &self.latest;
        let window_ns: u64 =
            self.buckets.iter().map(|bucket| bucket.end_ns.saturating_sub(bucket.start_ns)).sum();
        let window_seconds = seconds(window_ns);
        let by_time = |nanoseconds: u64| ratio(nanoseconds, window_ns);
        let mut tools: HashMap<&ToolKey, ToolSums> = HashMap::new();
        for (key, sums) in self.buckets.iter().flat_map(|bucket| &bucket.tools) {
            tools.entry(key).or_default().add(sums);
        }
        let mut servers: Vec<ServerRow> = self.servers.iter().map(|server| self.server(server)).collect();
        let mut strangers = self.server("[unknown]");
        for (index, row) in servers.iter_mut().chain([&mut strangers]).enumerate() {
            let background = self.buckets.iter().filter_map(|bucket| bucket.background_ns.get(&index));
            let background_ns: u64 = background.sum();
            let factor = self.factor(index);
            let own = tools.iter().filter(|(key, _)| key.server == index);
            let (calls, cpu_ns) = own.fold((0, background_ns), |(calls, cpu_ns), (key, sums)| {
                let answered = if key.asked_by_server { 0 } else { sums.ended };
                (calls + answered, cpu_ns.saturating_add(sums.cost.total_ns()))
            });
            row.calls_per_second = if window_ns > 0 { calls as f64 / window_seconds } else { 0.0 };
            row.sampled_cpu_ratio = factor.map(|_| by_time(cpu_ns));
            row.cpu_ratio = by_time(scaled(cpu_ns, factor));
            row.background_cpu_ratio = by_time(scaled(background_ns, factor));
            if let Some(latest) = latest.servers.get(index) {
                (row.rss_bytes, row.ended) = (latest.rss_bytes, latest.has_ended);
            }
        }
        if strangers.cpu_ratio > 0.0 || strangers.calls_per_second > 0.0 {
            servers.push(strangers);
        }
        let mut tools: Vec<ToolRow> =
            tools.into_iter().map(|(key, sums)| self.tool(key, sums, window_ns)).collect();
        tools.sort_by(|one, other| {
            other.cpu_ratio.total_cmp(&one.cpu_ratio).then_with(|| one.key.cmp(&other.key))
        });
        let now_ms = latest.unix_ms.saturating_add((latest.elapsed_ns / 1_000_000).cast_signed());
        Snapshot {
            schema_version: SCHEMA_VERSION,
            time: jiff::Timestamp::from_millisecond(now_ms)
                .ok()
                .filter(|_| window_ns > 0)
                .map(|time| time.to_string()),
            unix_ms: now_ms,
            elapsed_seconds: seconds(latest.elapsed_ns),
            window_seconds,
            samples: self.buckets.iter().map(|bucket| bucket.samples).sum(),
            losses: latest.losses.clone(),
            incomplete: is_incomplete(&latest.messages, &latest.losses),
            servers,
            tools,
        }
    }

    fn server(&self, name: &str) -> ServerRow {
        ServerRow { server: name.to_owned(), ..ServerRow::default() }
    }

    fn tool(&self, key: &ToolKey, sums: ToolSums, window_ns: u64) -> ToolRow {
        let latency_ms = Latency::new(sums.durations_ns);
        let cpu_ns = scaled(sums.cost.total_ns(), self.factor(key.server));
        let fits = latency_ms.is_none_or(|latency| latency.mean * 1e6 <= window_ns as f64);
        ToolRow {
            server: self.servers.get(key.server).map_or("[unknown]", String::as_str).to_owned(),
            method: key.method.to_string(),
            tool: key.tool.as_deref().map(str::to_owned),
            asked_by_server: key.asked_by_server,
            calls: sums.ended,
            calls_per_second: if window_ns > 0 { sums.ended as f64 / seconds(window_ns) } else { 0.0 },
            in_flight: self.latest.in_flight.get(key).copied().unwrap_or(0),
            errors: sums.errors,
            latency_ms,
            cpu_ratio: ratio(cpu_ns, window_ns),
            cpu_ms_per_call: (sums.ended > 0 && fits).then(|| milliseconds(cpu_ns) / sums.ended as f64),
            exact_ratio: (sums.cost.total_ns() > 0).then(|| ratio(sums.cost.exact_ns, sums.cost.total_ns())),
            key: key.clone(),
        }
    }

    /// The samples of an owner, each with that owner's part of its weight, and the nanoseconds that they are of.
    pub fn samples_of(&self, owner: &Owner) -> Vec<Sample> {
        let (Owner::Tool(ToolKey { server, .. }) | Owner::Background(server)) = owner;
        let factor = self.factor(*server);
        let charged = self.buckets.iter().flat_map(|bucket| &bucket.charged);
        let own = charged.filter(|(other, _)| other == owner);
        own.map(|(_, sample)| Sample { weight_ns: scaled(sample.weight_ns, factor), ..*sample }).collect()
    }

    /// What the sampled time of a server is multiplied with to be what the kernel counted in the window.
    fn factor(&self, server: ServerIndex) -> Option<f64> {
        let mut all = Counted::default();
        self.buckets.iter().filter_map(|bucket| bucket.counted.get(&server)).for_each(|own| all.add(*own));
        all.factor()
    }
}

/// Sampled nanoseconds as the kernel counted them.
fn scaled(sampled_ns: u64, factor: Option<f64>) -> u64 {
    factor.map_or(sampled_ns, |factor| (sampled_ns as f64 * factor).round() as u64)
}

impl ToolSums {
    fn add(&mut self, other: &Self) {
        self.ended += other.ended;
        self.errors += other.errors;
        self.durations_ns.extend_from_slice(&other.durations_ns);
        self.cost.add(other.cost);
    }
}

impl Bucket {
    fn sums(&mut self, key: &ToolKey) -> &mut ToolSums {
        if !self.tools.contains_key(key) {
            self.tools.insert(key.clone(), ToolSums::default());
        }
        self.tools.get_mut(key).expect("put there just now")
    }

    fn charge(&mut self, sample: &Sample, charge: Charge<'_>, keys: &[ToolKey], server: ServerIndex) {
        let mut push = |owner: Owner, weight_ns| self.charged.push((owner, Sample { weight_ns, ..*sample }));
        match charge {
            Charge::Background => {
                *self.background_ns.entry(server).or_default() += sample.weight_ns;
                push(Owner::Background(server), sample.weight_ns);
            }
            Charge::Exact(call) => push(Owner::Tool(keys[call].clone()), sample.weight_ns),
            Charge::Shared(_) => {
                let mut weights: HashMap<&ToolKey, u64> = HashMap::new();
                for (call, part_ns) in charge.parts(sample.weight_ns) {
                    *weights.entry(&keys[call]).or_default() += part_ns;
                }
                weights.into_iter().for_each(|(key, weight_ns)| push(Owner::Tool(key.clone()), weight_ns));
            }
        }
    }
}

impl Latest {
    fn note(&mut self, recording: &Recording, server_of: &[ServerIndex], servers: usize) {
        self.losses.clone_from(&recording.losses);
        self.messages.clone_from(&recording.messages);
        self.servers.resize(servers, LatestServer::default());
        let gauges = recording.gauges.iter().filter(|gauge| gauge.kind == GaugeKind::RssBytes);
        let rss_bytes: HashMap<usize, u64> = gauges.map(|gauge| (gauge.process, gauge.value)).collect();
        for (index, server) in self.servers.iter_mut().enumerate() {
            let own = |process: &usize| server_of.get(*process) == Some(&index);
            let is_alive = |process: usize| recording.processes[process].exit_ns.is_none();
            server.has_ended =
                !(0..recording.processes.len()).any(|process| own(&process) && is_alive(process));
            let rss = rss_bytes.iter().filter(|(process, _)| own(process) && is_alive(**process));
            let rss: u64 = rss.map(|(_, bytes)| *bytes).sum();
            match (rss, server.has_ended) {
                (_, true) => server.rss_bytes = None,
                // Not read in this increment.
                (0, false) => {}
                (rss, false) => server.rss_bytes = Some(rss),
            }
        }
    }
}

/// Keys of calls, of which one increment has only so many.
struct Keys<'increment> {
    server_of: &'increment [ServerIndex],
    #[allow(clippy::type_complexity, reason = "a key, borrowed")]
    known: HashMap<(ServerIndex, &'increment str, Option<&'increment str>, bool), ToolKey>,
    tools: usize,
}

impl<'increment> Keys<'increment> {
    fn of(&mut self, process: usize, call: &'increment Call) -> ToolKey {
        let server = self.server_of.get(process).copied().unwrap_or(usize::MAX);
        let asked_by_server = call.caller == Side::Server;
        let name = (server, &*call.method, call.name.as_deref(), asked_by_server);
        if let Some(key) = self.known.get(&name) {
            return key.clone();
        }
        let is_room = self.tools < MAX_TOOLS;
        let shown = |text: &str| if is_room { Arc::from(text) } else { Arc::from(OTHERS) };
        let key = ToolKey {
            server,
            method: shown(&call.method),
            tool: call.name.as_deref().filter(|_| is_room).map(Arc::from),
            asked_by_server,
        };
        if is_room {
            self.tools += 1;
            self.known.insert(name, key.clone());
        }
        key
    }
}

#[cfg(test)]
mod tests;
