//! Follows a recording while it grows: what came since the last look, and the stacks of some of it. What was seen once is
//! not read again, so a look costs what a second brings, not what is there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};

use super::model::{
    Frame, FrameKind, Gauge, GaugeKind, Line, Meta, Process, RecordedCall, Recording, Runtime, Sample,
    StackEnd, StackNode, Thread,
};
use super::reader::{self, CALL_COLUMNS, call_of, unsigned};
use super::writer::RowId;
use super::{Error, SAMPLE_ON_CPU};

/// Texts that are remembered: names of methods and tools.
const MAX_TEXTS: usize = 4096;
/// A process that ended is told of for so long, in nanoseconds: its last samples and calls may come a little later.
const ENDED_FOR_NS: u64 = 5_000_000_000;

/// Whose samples are asked for ended at most so long ago, in nanoseconds.
const SAMPLED_FOR_NS: u64 = 60_000_000_000;

/// What a recording gained between two looks.
#[derive(Clone, Debug, Default)]
pub struct Increment {
    /// Its samples, calls and gauges, with the processes and threads that they are of. Ended calls come first, then
    /// those in flight, which end where the increment does. Its window is from the last look to this one, its losses
    /// and messages are those since the recording's start. It has no stacks and no frames: [`Sample::stack`] is a row
    /// that [`Follower::with_stacks`] knows.
    pub recording: Recording,
    /// The row of each process, which stays the same from one look to the next.
    pub process_rows: Vec<RowId>,
    /// How many calls, at the end of the list, are in flight.
    pub in_flight: usize,
}

/// Reads what a recording gains.
pub struct Follower {
    path: PathBuf,
    connection: Connection,
    last_sample: i64,
    last_call: i64,
    last_gauge: i64,
    end_ns: Option<u64>,
    texts: HashMap<i64, Option<Box<str>>>,
}

impl Follower {
    /// Starts before the beginning of a recording that is being written.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let connection = reader::open(path)?;
        connection.set_prepared_statement_cache_capacity(32);
        let texts = HashMap::new();
        let path = path.to_owned();
        Ok(Self { path, connection, last_sample: 0, last_call: 0, last_gauge: 0, end_ns: None, texts })
    }

    /// What was committed since the last look; `None` when nothing was.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn poll(&mut self) -> Result<Option<Increment>, Error> {
        let increment = self.connection.execute_batch("BEGIN").and_then(|()| self.increment());
        // Else the writer's log would grow.
        let ended = self.connection.execute_batch("ROLLBACK");
        increment
            .and_then(|increment| ended.map(|()| increment))
            .map_err(|error| Error::from_sqlite(&self.path, error))
    }

    fn increment(&mut self) -> rusqlite::Result<Option<Increment>> {
        let mut meta = self.meta()?;
        let start_ns = self.end_ns.unwrap_or(meta.start_ns);
        if meta.end_ns <= start_ns {
            return Ok(None);
        }
        // What is shown starts with sampling, and there may have been a commit before.
        meta.start_ns = start_ns.max(meta.start_ns);
        self.end_ns = Some(meta.end_ns);
        let (process_rows, processes) = self.processes(start_ns.saturating_sub(ENDED_FOR_NS))?;
        let process_at: HashMap<RowId, usize> =
            process_rows.iter().enumerate().map(|(index, row)| (*row, index)).collect();
        let processes = processes.into_iter().map(|(parent, process)| Process {
            parent: parent.and_then(|parent| process_at.get(&parent).copied()),
            ..process
        });
        let processes = processes.collect();
        let (threads, samples) = self.samples(&process_at)?;
        let mut calls = self.calls("calls", self.last_call, &process_at)?;
        self.last_call = calls.last().map_or(self.last_call, |(id, _)| *id);
        let mut in_flight = self.calls("in_flight", 0, &process_at)?;
        in_flight.iter_mut().for_each(|(_, recorded)| recorded.call.end_ns = meta.end_ns);
        let in_flight_count = in_flight.len();
        calls.append(&mut in_flight);
        let gauges = self.gauges(&process_at)?;
        let recording = Recording {
            meta,
            processes,
            threads,
            samples,
            calls: calls.into_iter().map(|(_, call)| call).collect(),
            losses: self.counts("SELECT cause, count FROM losses")?,
            messages: self.counts("SELECT name, count FROM messages")?,
            gauges,
            ..Recording::default()
        };
        Ok(Some(Increment { recording, process_rows, in_flight: in_flight_count }))
    }

    fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.connection.prepare_cached(sql)?.query_map(values, map)?.collect()
    }

    fn meta(&self) -> rusqlite::Result<Meta> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
        let mut number = |key: &str| -> rusqlite::Result<i64> {
            let value = statement.query_row([key], |row| row.get(0)).optional()?;
            Ok(value.unwrap_or(0))
        };
        let started_unix_ms = number("started_unix_ms")?;
        let mut unsigned =
            |key: &str| -> rusqlite::Result<u64> { Ok(u64::try_from(number(key)?).unwrap_or(0)) };
        Ok(Meta {
            started_unix_ms,
            start_ns: unsigned("start_ns")?,
            end_ns: unsigned("end_ns")?,
            frequency_hz: unsigned("frequency_hz")?,
            cpus: unsigned("cpus")?,
            ..Meta::default()
        })
    }

    /// Those that live or ended a moment ago, with the rows of their parents.
    #[allow(clippy::type_complexity, reason = "told apart at once by the only caller")]
    fn processes(&self, since_ns: u64) -> rusqlite::Result<(Vec<RowId>, Vec<(Option<RowId>, Process)>)> {
        let sql = "SELECT id, pid, parent, command, runtime, runtime_version, first_ns, exit_ns, project \
                   FROM processes WHERE exit_ns IS NULL OR exit_ns >= ? ORDER BY id";
        let rows = self.rows(sql, [since_ns as i64], |row| {
            let process = Process {
                pid: row.get(1)?,
                command: row.get(3)?,
                runtime: Runtime { name: row.get(4)?, version: row.get(5)? },
                first_ns: unsigned(row, 6)?,
                exit_ns: row.get::<_, Option<i64>>(7)?.and_then(|time| u64::try_from(time).ok()),
                project: row.get(8)?,
                ..Process::default()
            };
            Ok((row.get::<_, RowId>(0)?, (row.get(2)?, process)))
        })?;
        Ok(rows.into_iter().unzip())
    }

    /// New samples, and the threads that they are of.
    fn samples(
        &mut self,
        process_at: &HashMap<RowId, usize>,
    ) -> rusqlite::Result<(Vec<Thread>, Vec<Sample>)> {
        let sql = "SELECT id, process, tid, name FROM threads \
                   WHERE id IN (SELECT thread FROM samples WHERE rowid > ?)";
        let rows = self.rows(sql, [self.last_sample], |row| {
            let process = process_at.get(&row.get(1)?).copied();
            let thread =
                Thread { process: process.unwrap_or(usize::MAX), tid: row.get(2)?, name: row.get(3)? };
            Ok((row.get::<_, RowId>(0)?, thread))
        })?;
        let (thread_rows, threads): (Vec<RowId>, Vec<Thread>) = rows.into_iter().unzip();
        let thread_at: HashMap<RowId, usize> =
            thread_rows.into_iter().enumerate().map(|(index, row)| (row, index)).collect();
        let sql = "SELECT rowid, ts, thread, stack, weight_ns, stack_end FROM samples \
                   WHERE rowid > ?1 AND kind = ?2 ORDER BY rowid";
        let rows = self.rows(sql, params![self.last_sample, SAMPLE_ON_CPU], |row| {
            let sample = Sample {
                timestamp_ns: unsigned(row, 1)?,
                thread: thread_at.get(&row.get(2)?).copied().unwrap_or(usize::MAX),
                stack: row.get::<_, Option<i64>>(3)?.and_then(|row| usize::try_from(row).ok()),
                weight_ns: unsigned(row, 4)?,
                stack_end: StackEnd::from_number(row.get(5)?).unwrap_or(StackEnd::NoUserStack),
            };
            Ok((row.get::<_, i64>(0)?, sample))
        })?;
        self.last_sample = rows.last().map_or(self.last_sample, |(row, _)| *row);
        let mut samples: Vec<Sample> = rows.into_iter().map(|(_, sample)| sample).collect();
        samples.sort_by_key(|sample| sample.timestamp_ns);
        Ok((threads, samples))
    }

    fn calls(
        &mut self,
        table: &str,
        last: i64,
        process_at: &HashMap<RowId, usize>,
    ) -> rusqlite::Result<Vec<(i64, RecordedCall)>> {
        let sql = format!("SELECT {CALL_COLUMNS} FROM {table} WHERE id > ? ORDER BY id");
        let texts = &mut self.texts;
        if texts.len() > MAX_TEXTS {
            texts.clear();
        }
        let mut text_of = self.connection.prepare_cached("SELECT text FROM strings WHERE id = ?")?;
        let mut text = |id: i64| {
            let text = texts.entry(id);
            text.or_insert_with(|| text_of.query_row([id], |row| row.get::<_, Box<str>>(0)).ok()).clone()
        };
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([last])?;
        let mut calls = Vec::new();
        while let Some(row) = rows.next()? {
            let Some((process, call)) = call_of(row, &mut text)? else { continue };
            let process = process_at.get(&process).copied().unwrap_or(usize::MAX);
            calls.push((row.get(19)?, RecordedCall { process, call }));
        }
        Ok(calls)
    }

    fn gauges(&mut self, process_at: &HashMap<RowId, usize>) -> rusqlite::Result<Vec<Gauge>> {
        let sql = "SELECT rowid, ts, process, kind, value FROM gauges WHERE rowid > ? ORDER BY rowid";
        let rows = self.rows(sql, [self.last_gauge], |row| {
            let kind = GaugeKind::from_number(row.get(3)?);
            let process = process_at.get(&row.get(2)?).copied();
            let (timestamp_ns, value) = (unsigned(row, 1)?, unsigned(row, 4)?);
            let gauge = kind.zip(process);
            let gauge = gauge.map(|(kind, process)| Gauge { timestamp_ns, process, kind, value });
            Ok((row.get::<_, i64>(0)?, gauge))
        })?;
        self.last_gauge = rows.last().map_or(self.last_gauge, |(row, _)| *row);
        Ok(rows.into_iter().filter_map(|(_, gauge)| gauge).collect())
    }

    fn counts(&self, sql: &str) -> rusqlite::Result<std::collections::BTreeMap<String, u64>> {
        let rows = self.rows(sql, [], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?;
        Ok(rows.into_iter().collect())
    }

    /// A recording of these samples alone, with their stacks and the names that are known by now. Stacks that are gone
    /// show as none.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn with_stacks(&self, samples: Vec<Sample>) -> Result<Recording, Error> {
        self.resolve(samples).map_err(|error| Error::from_sqlite(&self.path, error))
    }

    fn resolve(&self, mut samples: Vec<Sample>) -> rusqlite::Result<Recording> {
        // Sources of each are shown without the folder of its project.
        let since_ns = self.end_ns.unwrap_or(0).saturating_sub(SAMPLED_FOR_NS);
        let processes = self.processes(since_ns)?.1.into_iter().map(|(_, process)| process).collect();
        let mut recording = Recording { processes, ..Recording::default() };
        let mut node_at: HashMap<usize, usize> = HashMap::new();
        let mut frame_at: HashMap<i64, usize> = HashMap::new();
        let mut node_of = self.connection.prepare_cached("SELECT parent, frame FROM stacks WHERE id = ?")?;
        for sample in &mut samples {
            sample.thread = usize::MAX;
            // From the innermost frame out to one that is known.
            let mut missing = Vec::new();
            let mut next = sample.stack;
            let mut parent = None;
            while let Some(row) = next {
                if let Some(known) = node_at.get(&row) {
                    parent = Some(*known);
                    break;
                }
                let found = node_of.query_row([row as i64], |found| {
                    let parent: Option<i64> = found.get(0)?;
                    Ok((parent.and_then(|parent| usize::try_from(parent).ok()), found.get::<_, i64>(1)?))
                });
                let Some((outer, frame)) = found.optional()? else { break };
                missing.push((row, frame));
                // A parent is written before its children.
                next = outer.filter(|outer| *outer < row);
            }
            for (row, frame) in missing.into_iter().rev() {
                let frame = match frame_at.get(&frame) {
                    Some(index) => *index,
                    None => {
                        recording.frames.push(self.frame(frame)?);
                        let index = recording.frames.len() - 1;
                        frame_at.insert(frame, index);
                        index
                    }
                };
                recording.stacks.push(StackNode { parent, frame });
                parent = Some(recording.stacks.len() - 1);
                node_at.insert(row, recording.stacks.len() - 1);
            }
            sample.stack = parent;
        }
        recording.samples = samples;
        Ok(recording)
    }

    fn frame(&self, id: i64) -> rusqlite::Result<Frame> {
        let sql =
            "SELECT kind, offset, path FROM frames JOIN modules ON modules.id = module WHERE frames.id = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (kind, offset, module) = statement.query_row([id], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, String>(2)?))
        })?;
        let sql = "SELECT name.text, file.text, line FROM lines JOIN strings AS name ON name.id = function \
                   LEFT JOIN strings AS file ON file.id = lines.file WHERE frame = ? ORDER BY position";
        let lines = self.rows(sql, [id], |row| {
            let (function, file): (String, Option<String>) = (row.get(0)?, row.get(1)?);
            Ok(Line { function: function.into(), file: file.map(Arc::from), line: row.get(2)? })
        })?;
        let kind = FrameKind::from_number(kind).unwrap_or(FrameKind::Native);
        Ok(Frame { kind, module: module.into(), offset, lines })
    }
}
