//! Reads a recording into memory. Every reference is checked: a file may be damaged or made by someone else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Row};

use crate::wire::Id;
use crate::wire::calls::{Call, Ended, Side};

use super::model::{
    Frame, FrameKind, Gauge, GaugeKind, Line, Meta, Process, RecordedCall, Recording, Runtime, Sample,
    StackEnd, StackNode, Thread, Unwinding,
};
use super::{APPLICATION_ID, Error, LOG_SUFFIX, SAMPLE_ON_CPU, SCHEMA_VERSION, beside};

/// Version of the schema in which calls came.
const CALLS_SINCE: i64 = 3;
/// Version in which IDs of requests, contents, and the time that calls waited before they were read, came.
const CONTENTS_SINCE: i64 = 4;
/// Version in which IDs of MCP sessions came.
const SESSION_IDS_SINCE: i64 = 5;

/// Reads a recording, also one that is still being written.
///
/// # Errors
/// [`Error::Open`], [`Error::NotARecording`], [`Error::Newer`] or [`Error::Damaged`].
pub fn read(path: &Path) -> Result<Recording, Error> {
    let file = std::fs::File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Error::NotARecording(path.to_owned()));
    }
    let reader = Reader { path, connection: open(path)? };
    // One moment for all tables: it may be growing.
    reader.connection.execute_batch("BEGIN").map_err(|error| Error::from_sqlite(path, error))?;
    let version = reader.version()?;
    let recording = reader.recording(version)?;
    // SQLite makes an empty log where there is none.
    let has_log = || std::fs::metadata(beside(path, LOG_SUFFIX)).is_ok_and(|log| log.len() > 0);
    if recording.samples.is_empty() && recording.meta.end_reason.is_none() && !has_log() {
        let what = format!("its log {} is missing: copy that too", beside(path, LOG_SUFFIX).display());
        return Err(Error::Damaged { path: path.to_owned(), what });
    }
    Ok(recording)
}

pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let sqlite = |error| Error::from_sqlite(path, error);
    // SQLite gives `file:` and `:memory:` a meaning of their own.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let connection =
        Connection::open_with_flags(absolute, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite)?;
    // Triggers and views of a hostile file must not call functions.
    connection.pragma_update(None, "trusted_schema", false).map_err(sqlite)?;
    if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).is_ok() {
        return Ok(connection);
    }
    // A recording that was cut off needs its log read back, which needs write access to its folder. Without
    // that, what the file itself holds is still good.
    let immutable = format!("file:{}?immutable=1", escape(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(immutable, flags).map_err(sqlite)
}

fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

struct Reader<'path> {
    path: &'path Path,
    connection: Connection,
}

/// A table refers to a row that is not there, or holds a value without meaning.
fn damaged<T>(path: &Path, what: &str) -> Result<T, Error> {
    Err(Error::Damaged { path: path.to_owned(), what: what.to_owned() })
}

impl Reader<'_> {
    fn version(&self) -> Result<i64, Error> {
        let pragma = |name| {
            self.connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .map_err(|error| Error::from_sqlite(self.path, error))
        };
        if pragma("application_id")? != APPLICATION_ID {
            return Err(Error::NotARecording(self.path.to_owned()));
        }
        let found = pragma("user_version")?;
        if found > SCHEMA_VERSION {
            return Err(Error::Newer { path: self.path.to_owned(), found });
        }
        Ok(found)
    }

    fn rows<T>(&self, sql: &str, map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, Error> {
        let read =
            || -> rusqlite::Result<Vec<T>> { self.connection.prepare(sql)?.query_map([], map)?.collect() };
        read().map_err(|error| match error.sqlite_error_code() {
            // A type or a range that does not fit, a missing table: not written by us.
            None | Some(rusqlite::ErrorCode::Unknown) => {
                Error::Damaged { path: self.path.to_owned(), what: error.to_string() }
            }
            Some(_) => Error::from_sqlite(self.path, error),
        })
    }

    fn recording(&self, version: i64) -> Result<Recording, Error> {
        let processes = self.processes(version)?;
        let threads = self.threads(processes.len())?;
        let frames = self.frames()?;
        let stacks = self.stacks(frames.len())?;
        let samples = self.samples(threads.len(), stacks.len())?;
        let meta = self.meta(version)?;
        Ok(Recording {
            calls: if version < CALLS_SINCE {
                Vec::new()
            } else {
                self.calls(version, processes.len(), &meta)?
            },
            meta,
            messages: if version < CALLS_SINCE { BTreeMap::new() } else { self.counts("messages", "name")? },
            gauges: self.gauges(processes.len())?,
            sampled_ns: Vec::new(),
            losses: self.counts("losses", "cause")?,
            processes,
            threads,
            frames,
            stacks,
            samples,
        })
    }

    fn meta(&self, version: i64) -> Result<Meta, Error> {
        use rusqlite::types::Value;
        let mut values: BTreeMap<String, Value> = self
            .rows("SELECT key, value FROM meta", |row| Ok((row.get(0)?, row.get(1)?)))?
            .into_iter()
            .collect();
        let mut text = |key: &str| match values.remove(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        };
        let (profiler_version, target_name) = (text("profiler_version"), text("target_name"));
        let (sampling_event, kernel_release) = (text("sampling_event"), text("kernel_release"));
        let end_reason = text("end_reason");
        let number = |key: &str| match values.get(key) {
            Some(Value::Integer(number)) => *number,
            _ => 0,
        };
        let unsigned = |key: &str| u64::try_from(number(key)).unwrap_or(0);
        Ok(Meta {
            profiler_version: profiler_version.unwrap_or_default(),
            target_name: target_name.unwrap_or_default(),
            started_unix_ms: number("started_unix_ms"),
            start_ns: unsigned("start_ns"),
            end_ns: unsigned("end_ns"),
            end_reason,
            sampling_event: sampling_event.unwrap_or_default(),
            frequency_hz: unsigned("frequency_hz"),
            kernel_release: kernel_release.unwrap_or_default(),
            cpus: unsigned("cpus"),
            has_calls: if version < CONTENTS_SINCE {
                version >= CALLS_SINCE
            } else {
                number("has_calls") != 0
            },
        })
    }

    fn processes(&self, version: i64) -> Result<Vec<Process>, Error> {
        let project = if version < 2 { "NULL" } else { "project" };
        let sql = format!(
            "SELECT id, pid, parent, command, runtime, runtime_version, first_ns, exit_ns, {project} \
             FROM processes ORDER BY id"
        );
        let rows = self.rows(&sql, |row| {
            let process = Process {
                pid: row.get(1)?,
                parent: row.get::<_, Option<i64>>(2)?.map(index),
                command: row.get(3)?,
                runtime: Runtime { name: row.get(4)?, version: row.get(5)? },
                first_ns: unsigned(row, 6)?,
                exit_ns: row.get::<_, Option<i64>>(7)?.and_then(|time| u64::try_from(time).ok()),
                project: row.get(8)?,
                unwinding: None,
            };
            Ok((row.get(0)?, process))
        })?;
        let mut processes = self.dense(rows, "processes")?;
        for (process, unwinding) in self.unwinding(version)? {
            match processes.get_mut(process) {
                Some(process) => process.unwinding = Some(unwinding),
                None => return damaged(self.path, "unwinding of no process"),
            }
        }
        let later_parent =
            |(own, process): (usize, &Process)| process.parent.is_some_and(|parent| parent >= own);
        if processes.iter().enumerate().any(later_parent) {
            return damaged(self.path, "a process is its own ancestor");
        }
        Ok(processes)
    }

    fn unwinding(&self, version: i64) -> Result<Vec<(usize, Unwinding)>, Error> {
        if version < 2 {
            return Ok(Vec::new());
        }
        self.rows("SELECT process, native, language, advice FROM unwinding", |row| {
            let unwinding = Unwinding { native: row.get(1)?, language: row.get(2)?, advice: row.get(3)? };
            Ok((index(row.get(0)?), unwinding))
        })
    }

    fn threads(&self, processes: usize) -> Result<Vec<Thread>, Error> {
        let rows = self.rows("SELECT id, process, tid, name FROM threads ORDER BY id", |row| {
            let thread = Thread { process: index(row.get(1)?), tid: row.get(2)?, name: row.get(3)? };
            Ok((row.get(0)?, thread))
        })?;
        let threads = self.dense(rows, "threads")?;
        self.check(threads.iter().all(|thread| thread.process < processes), "a thread of no process")?;
        Ok(threads)
    }

    fn frames(&self) -> Result<Vec<Frame>, Error> {
        let strings = self.strings()?;
        let modules = self.texts("SELECT id, path FROM modules ORDER BY id")?;
        let rows = self.rows("SELECT id, kind, module, offset FROM frames ORDER BY id", |row| {
            let kind = FrameKind::from_number(row.get(1)?);
            let module = modules.get(index(row.get(2)?)).cloned();
            let frame = kind.zip(module).map(|(kind, module)| (kind, module, row.get::<_, i64>(3)));
            Ok((row.get(0)?, frame))
        })?;
        let mut frames = Vec::with_capacity(rows.len());
        for row in self.dense(rows, "frames")? {
            let Some((kind, module, Ok(offset))) = row else {
                return damaged(self.path, "a frame of no module");
            };
            frames.push(Frame { kind, module, offset: offset as u64, lines: Vec::new() });
        }
        let lines =
            self.rows("SELECT frame, function, file, line FROM lines ORDER BY frame, position", |row| {
                let function = strings.get(index(row.get(1)?)).cloned();
                let file = row.get::<_, Option<i64>>(2)?.map(index);
                let file = file.and_then(|file| strings.get(file).cloned());
                Ok((index(row.get(0)?), function, file, row.get(3)?))
            })?;
        for (frame, function, file, line) in lines {
            let (Some(frame), Some(function)) = (frames.get_mut(frame), function) else {
                return damaged(self.path, "a line of no frame");
            };
            frame.lines.push(Line { function, file, line });
        }
        Ok(frames)
    }

    fn stacks(&self, frames: usize) -> Result<Vec<StackNode>, Error> {
        let rows = self.rows("SELECT id, parent, frame FROM stacks ORDER BY id", |row| {
            let parent = row.get::<_, Option<i64>>(1)?.map(index);
            Ok((row.get(0)?, StackNode { parent, frame: index(row.get(2)?) }))
        })?;
        let stacks = self.dense(rows, "stacks")?;
        let sound = stacks
            .iter()
            .enumerate()
            .all(|(own, node)| node.frame < frames && node.parent.is_none_or(|parent| parent < own));
        self.check(sound, "a stack of no frame, or in a circle")?;
        Ok(stacks)
    }

    fn samples(&self, threads: usize, stacks: usize) -> Result<Vec<Sample>, Error> {
        let sql = format!(
            "SELECT ts, thread, stack, weight_ns, stack_end FROM samples WHERE kind = {SAMPLE_ON_CPU} ORDER BY ts"
        );
        let rows = self.rows(&sql, |row| {
            let Some(stack_end) = StackEnd::from_number(row.get(4)?) else { return Ok(None) };
            Ok(Some(Sample {
                timestamp_ns: unsigned(row, 0)?,
                thread: index(row.get(1)?),
                stack: row.get::<_, Option<i64>>(2)?.map(index),
                weight_ns: unsigned(row, 3)?,
                stack_end,
            }))
        })?;
        let samples: Option<Vec<Sample>> = rows.into_iter().collect();
        let sound =
            |sample: &Sample| sample.thread < threads && sample.stack.is_none_or(|stack| stack < stacks);
        match samples {
            Some(samples) if samples.iter().all(sound) => Ok(samples),
            _ => damaged(self.path, "a sample of no thread or no stack"),
        }
    }

    fn counts(&self, table: &str, key: &str) -> Result<BTreeMap<String, u64>, Error> {
        let rows = self
            .rows(&format!("SELECT {key}, count FROM {table}"), |row| Ok((row.get(0)?, unsigned(row, 1)?)))?;
        Ok(rows.into_iter().collect())
    }

    /// Ended calls; of a recording without an end also those that were in flight at its last commit.
    fn calls(&self, version: i64, processes: usize, meta: &Meta) -> Result<Vec<RecordedCall>, Error> {
        let strings: Vec<Arc<str>> = self.strings()?;
        let of = |rest: &str| {
            let columns = if version < CONTENTS_SINCE {
                CALL_COLUMNS.replace("queue_ns", "NULL")
            } else {
                CALL_COLUMNS.to_owned()
            };
            let sql = format!("SELECT {columns}, {rest} ORDER BY start_ns, id");
            let text = |id: i64| strings.get(index(id)).map(|text| Box::from(&**text));
            let rows = self.rows(&sql, |row| {
                let Some((process, call)) = call_of(row, text)? else { return Ok(None) };
                let request_id = row.get::<_, Option<String>>(21)?.as_deref().and_then(Id::from_json);
                let (arguments, result) =
                    (row.get::<_, Option<Box<str>>>(22)?, row.get::<_, Option<Box<str>>>(23)?);
                let session_id = row.get(24)?;
                Ok(Some((process, Call { request_id, arguments, result, session_id, ..call })))
            })?;
            let calls: Option<Vec<(i64, Call)>> = rows.into_iter().collect();
            match calls {
                Some(calls) if calls.iter().all(|(process, _)| index(*process) < processes) => Ok(calls),
                _ => damaged(self.path, "a call of no process, or of an unknown kind"),
            }
        };
        let session_id = if version < SESSION_IDS_SINCE { "NULL" } else { "session_id" };
        let mut calls = of(&if version < CONTENTS_SINCE {
            "NULL, NULL, NULL, NULL FROM calls".to_owned()
        } else {
            format!("request_id, arguments, result, {session_id} FROM calls LEFT JOIN contents ON call = id")
        })?;
        if meta.end_reason.is_none() && has_in_flight(&self.connection) {
            let cut = |(process, call): (i64, Call)| {
                let end_ns = meta.end_ns.max(call.request_end_ns);
                (process, Call { end_ns, ended: Ended::InFlight, ..call })
            };
            let in_flight = of(&format!("request_id, NULL, NULL, {session_id} FROM in_flight"))?;
            calls.extend(in_flight.into_iter().map(cut));
            calls.sort_by_key(|(_, call)| call.start_ns);
        }
        let recorded = |(process, call)| RecordedCall { process: index(process), call };
        Ok(calls.into_iter().map(recorded).collect())
    }

    fn strings(&self) -> Result<Vec<Arc<str>>, Error> {
        self.texts("SELECT id, text FROM strings ORDER BY id")
    }

    fn texts(&self, sql: &str) -> Result<Vec<Arc<str>>, Error> {
        let rows = self.rows(sql, |row| Ok((row.get(0)?, Arc::from(row.get::<_, String>(1)?))))?;
        self.dense(rows, "strings or modules")
    }

    fn gauges(&self, processes: usize) -> Result<Vec<Gauge>, Error> {
        let rows = self.rows("SELECT ts, process, kind, value FROM gauges ORDER BY ts", |row| {
            let kind = GaugeKind::from_number(row.get(2)?);
            let (timestamp_ns, process) = (unsigned(row, 0)?, index(row.get(1)?));
            let value = unsigned(row, 3)?;
            Ok(kind.map(|kind| Gauge { timestamp_ns, process, kind, value }))
        })?;
        let gauges: Option<Vec<Gauge>> = rows.into_iter().collect();
        match gauges {
            Some(gauges) if gauges.iter().all(|gauge| gauge.process < processes) => Ok(gauges),
            _ => damaged(self.path, "a gauge of no process"),
        }
    }

    /// Rows whose IDs count from 1 without a gap, so that an ID less one is an index.
    fn dense<T>(&self, rows: Vec<(i64, T)>, what: &str) -> Result<Vec<T>, Error> {
        let sound = rows.iter().zip(1..).all(|((id, _), expected)| *id == expected);
        self.check(sound, what)?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn check(&self, sound: bool, what: &str) -> Result<(), Error> {
        if sound { Ok(()) } else { damaged(self.path, what) }
    }
}

/// What [`call_of`] reads, with the row's ID at 19.
pub(super) const CALL_COLUMNS: &str = "process, session, caller, method, name, trace_parent, start_ns, request_end_ns, \
     response_ns, end_ns, request_thread, response_thread, request_bytes, response_bytes, requests, \
     input_wait_ns, outcome, error_code, error_message, id, queue_ns";

/// A call without its ID and its contents, and the row of its process. `None` where a number or a text has no meaning; `text` gives the text of a row.
pub(super) fn call_of(
    row: &Row<'_>,
    mut text: impl FnMut(i64) -> Option<Box<str>>,
) -> rusqlite::Result<Option<(i64, Call)>> {
    let mut text_at = |column: usize| -> rusqlite::Result<Option<Box<str>>> {
        Ok(row.get::<_, Option<i64>>(column)?.and_then(&mut text))
    };
    let caller = Side::from_number(row.get(2)?);
    let ended = Ended::from_number(row.get(16)?, row.get(17)?, text_at(18)?);
    let (Some(caller), Some(ended), Some(method)) = (caller, ended, text_at(3)?) else {
        return Ok(None);
    };
    // A file may say anything: whoever takes differences relies on the order of a call's times.
    let start_ns = unsigned(row, 6)?;
    let end_ns = unsigned(row, 9)?.max(start_ns);
    let call = Call {
        session: row.get::<_, i64>(1)? as u64,
        caller,
        method,
        name: text_at(4)?,
        request_id: None,
        trace_parent: text_at(5)?,
        session_id: None,
        arguments: None,
        result: None,
        start_ns,
        request_end_ns: unsigned(row, 7)?.clamp(start_ns, end_ns),
        response_ns: row
            .get::<_, Option<i64>>(8)?
            .and_then(|time| u64::try_from(time).ok())
            .map(|time| time.clamp(start_ns, end_ns)),
        end_ns,
        request_thread: row.get(10)?,
        response_thread: row.get(11)?,
        request_bytes: unsigned(row, 12)?,
        response_bytes: unsigned(row, 13)?,
        requests: row.get(14)?,
        input_wait_ns: unsigned(row, 15)?,
        queue_ns: row.get::<_, Option<i64>>(20)?.and_then(|time| u64::try_from(time).ok()),
        ended,
    };
    Ok(Some((row.get(0)?, call)))
}

/// Whether a recording says which calls were in flight: older ones do not.
pub(super) fn has_in_flight(connection: &Connection) -> bool {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'in_flight'";
    connection.query_row(sql, [], |_| Ok(())).is_ok()
}

/// The index of the row with this ID; an ID that can't be gives an index that no table has.
pub(super) fn index(id: i64) -> usize {
    usize::try_from(id - 1).unwrap_or(usize::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
