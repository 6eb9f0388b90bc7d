//! Writes a recording while it is made. What was committed survives the death of the writer.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use rusqlite::{Connection, Statement, params};

use crate::wire::Id;
use crate::wire::calls::Call;

use super::model::{FrameKind, GaugeKind, Meta, Runtime, StackEnd, Unwinding};
use super::{APPLICATION_ID, Error, SAMPLE_ON_CPU, SCHEMA, SCHEMA_VERSION, files_of, retention};

/// A row of some table.
pub type RowId = i64;
/// A row of `processes`.
pub type ProcessId = RowId;
/// A row of `threads`.
pub type ThreadId = RowId;
/// A row of `frames`.
pub type FrameId = RowId;
/// A row of `stacks`.
pub type StackId = RowId;

/// Distinct stack nodes, frames and strings that are remembered, of each. Behind that the memory is emptied, and rows
/// may be written twice: readers merge them.
const MAX_REMEMBERED: usize = 1 << 20;

/// What remembered strings may take, in bytes: names that come over the wire may be anything.
const MAX_STRING_BYTES: usize = 16 << 20;

/// Room for each statement here: all stay prepared.
const STATEMENTS: usize = 32;

/// A recording that is being written.
pub struct Writer {
    path: PathBuf,
    connection: Connection,
    strings: Strings,
    frames: HashMap<(RowId, u64), FrameId>,
    stacks: HashMap<(Option<StackId>, FrameId), StackId>,
    losses: HashMap<String, u64>,
    messages: HashMap<&'static str, u64>,
    next: NextIds,
}

/// The rows of texts.
#[derive(Default)]
struct Strings {
    rows: HashMap<Box<str>, RowId>,
    bytes: usize,
    next: RowId,
}

impl Strings {
    /// The row of a text, which is written when it is new.
    fn row(&mut self, connection: &Connection, text: &str) -> rusqlite::Result<RowId> {
        if let Some(id) = self.rows.get(text) {
            return Ok(*id);
        }
        if self.rows.len() >= MAX_REMEMBERED || self.bytes >= MAX_STRING_BYTES {
            self.forget();
        }
        let id = take_id(&mut self.next);
        connection.prepare_cached("INSERT INTO strings VALUES (?, ?)")?.execute(params![id, text])?;
        self.bytes += text.len();
        self.rows.insert(text.into(), id);
        Ok(id)
    }

    fn forget(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }
}

#[derive(Default)]
struct NextIds {
    process: ProcessId,
    thread: ThreadId,
    module: RowId,
    frame: FrameId,
    stack: StackId,
}

fn take_id(next: &mut RowId) -> RowId {
    *next += 1;
    *next
}

impl Writer {
    /// Makes a new recording. An older recording of that name is replaced; any other file is left alone.
    ///
    /// # Errors
    /// [`Error::WouldOverwrite`], [`Error::Open`], [`Error::DiskFull`] or [`Error::Sqlite`].
    pub fn create(path: &Path, meta: &Meta) -> Result<Self, Error> {
        make_room(path)?;
        Self::start(path, meta).inspect_err(|_| {
            // An empty file would be in the way of the next attempt.
            let _ = remove(path);
        })
    }

    fn start(path: &Path, meta: &Meta) -> Result<Self, Error> {
        let connection = open(path).map_err(|error| Error::from_sqlite(path, error))?;
        let writer = Self {
            path: path.to_owned(),
            connection,
            strings: Strings::default(),
            frames: HashMap::new(),
            stacks: HashMap::new(),
            losses: HashMap::new(),
            messages: HashMap::new(),
            next: NextIds::default(),
        };
        writer.run(|connection| {
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            connection.pragma_update(None, "synchronous", "off")?;
            connection.pragma_update(None, "cache_size", -1024)?;
            // Readers check every reference; here it would cost a look-up for each, in each row.
            connection.pragma_update(None, "foreign_keys", "off")?;
            // Into the file itself, so that it is known as ours also without its log.
            connection.execute_batch("BEGIN")?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            connection.execute_batch("COMMIT")?;
            // A write-ahead log lets others read while we write. A crash of this process loses nothing that was
            // committed; only a crash of the whole machine could, and is not worth an fsync a second.
            connection.pragma_update(None, "journal_mode", "wal")?;
            // In pages: the log goes into the file soon, for those who copy the file of a recording that was cut off.
            connection.pragma_update(None, "wal_autocheckpoint", 32)?;
            connection.execute_batch("BEGIN")
        })?;
        writer.write_meta(meta)?;
        writer.commit()?;
        Ok(writer)
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        work(&self.connection).map_err(|error| Error::from_sqlite(&self.path, error))
    }

    fn insert(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), Error> {
        self.run(|connection| connection.prepare_cached(sql)?.execute(values).map(drop))
    }

    fn write_meta(&self, meta: &Meta) -> Result<(), Error> {
        let text = |key: &str, value: &str| {
            self.insert("INSERT OR REPLACE INTO meta VALUES (?, ?)", params![key, value])
        };
        let number = |key: &str, value: i64| {
            self.insert("INSERT OR REPLACE INTO meta VALUES (?, ?)", params![key, value])
        };
        text("profiler_version", &meta.profiler_version)?;
        text("target_name", &meta.target_name)?;
        text("sampling_event", &meta.sampling_event)?;
        text("kernel_release", &meta.kernel_release)?;
        if let Some(reason) = &meta.end_reason {
            text("end_reason", reason)?;
        }
        number("started_unix_ms", meta.started_unix_ms)?;
        number("start_ns", meta.start_ns as i64)?;
        number("end_ns", meta.end_ns as i64)?;
        number("frequency_hz", meta.frequency_hz as i64)?;
        number("cpus", meta.cpus as i64)?;
        number("has_calls", meta.has_calls.into())
    }

    /// Sampling starts now: time on `CLOCK_MONOTONIC` in nanoseconds, and of day in milliseconds since 1970.
    pub fn begin(&self, start_ns: u64, started_unix_ms: i64) -> Result<(), Error> {
        for (key, value) in [("start_ns", start_ns as i64), ("started_unix_ms", started_unix_ms)] {
            self.insert("INSERT OR REPLACE INTO meta VALUES (?, ?)", params![key, value])?;
        }
        Ok(())
    }

    /// A process that is watched from now on.
    pub fn process(
        &mut self,
        pid: u32,
        parent: Option<ProcessId>,
        command: &str,
        runtime: &Runtime,
        first_ns: u64,
    ) -> Result<ProcessId, Error> {
        let id = take_id(&mut self.next.process);
        let values = params![id, pid, parent, command, runtime.name, runtime.version, first_ns as i64];
        self.insert("INSERT INTO processes VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", values)?;
        Ok(id)
    }

    /// The folder of a process's own sources; see [`Process::project`](super::Process::project).
    pub fn process_project(&self, id: ProcessId, project: Option<&str>) -> Result<(), Error> {
        self.insert("UPDATE processes SET project = ?2 WHERE id = ?1", params![id, project])
    }

    /// How the stacks of a process are made, in place of what was said before.
    pub fn process_unwinding(&self, id: ProcessId, unwinding: &Unwinding) -> Result<(), Error> {
        let Unwinding { native, language, advice } = unwinding;
        self.insert(
            "INSERT OR REPLACE INTO unwinding VALUES (?, ?, ?, ?)",
            params![id, native, language, advice],
        )
    }

    /// The process now runs another program.
    pub fn process_program(&self, id: ProcessId, command: &str, runtime: &Runtime) -> Result<(), Error> {
        self.insert(
            "UPDATE processes SET command = ?2, runtime = ?3, runtime_version = ?4 WHERE id = ?1",
            params![id, command, runtime.name, runtime.version],
        )
    }

    /// The process ended.
    pub fn process_exit(&self, id: ProcessId, exit_ns: u64) -> Result<(), Error> {
        self.insert("UPDATE processes SET exit_ns = ?2 WHERE id = ?1", params![id, exit_ns as i64])
    }

    /// A thread that was sampled for the first time.
    pub fn thread(&mut self, process: ProcessId, tid: u32, name: &str) -> Result<ThreadId, Error> {
        let id = take_id(&mut self.next.thread);
        self.insert("INSERT INTO threads VALUES (?, ?, ?, ?)", params![id, process, tid, name])?;
        Ok(id)
    }

    /// Something that code comes from.
    pub fn module(&mut self, path: &str, build_id: Option<&str>) -> Result<RowId, Error> {
        let id = take_id(&mut self.next.module);
        self.insert("INSERT INTO modules VALUES (?, ?, ?)", params![id, path, build_id])?;
        Ok(id)
    }

    /// The frame of an address in a module, and whether it is new: then its names are still to be written.
    pub fn frame(&mut self, kind: FrameKind, module: RowId, offset: u64) -> Result<(FrameId, bool), Error> {
        if let Some(id) = self.frames.get(&(module, offset)) {
            return Ok((*id, false));
        }
        if self.frames.len() >= MAX_REMEMBERED {
            self.frames.clear();
        }
        let id = take_id(&mut self.next.frame);
        self.insert(
            "INSERT INTO frames VALUES (?, ?, ?, ?)",
            params![id, kind as u8, module, offset as i64],
        )?;
        self.frames.insert((module, offset), id);
        Ok((id, true))
    }

    /// A function at a frame's address; position 0 is the outermost one.
    pub fn line(
        &mut self,
        frame: FrameId,
        position: usize,
        function: &str,
        file: Option<&str>,
        line: Option<u32>,
    ) -> Result<(), Error> {
        let Self { path, connection, strings, .. } = self;
        let mut write = || {
            let function = strings.row(connection, function)?;
            let file = file.map(|file| strings.row(connection, file)).transpose()?;
            connection
                .prepare_cached("INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, ?)")?
                .execute(params![frame, position as i64, function, file, line])
        };
        write().map(drop).map_err(|error| Error::from_sqlite(path, error))
    }

    /// The stack that has `frame` below `parent`.
    pub fn stack(&mut self, parent: Option<StackId>, frame: FrameId) -> Result<StackId, Error> {
        if let Some(id) = self.stacks.get(&(parent, frame)) {
            return Ok(*id);
        }
        if self.stacks.len() >= MAX_REMEMBERED {
            self.stacks.clear();
        }
        let id = take_id(&mut self.next.stack);
        self.insert("INSERT INTO stacks VALUES (?, ?, ?)", params![id, parent, frame])?;
        self.stacks.insert((parent, frame), id);
        Ok(id)
    }

    /// A thread was seen on a CPU.
    pub fn sample(
        &self,
        timestamp_ns: u64,
        thread: ThreadId,
        stack: Option<StackId>,
        weight_ns: u64,
        stack_end: StackEnd,
    ) -> Result<(), Error> {
        self.insert(
            "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)",
            params![timestamp_ns as i64, thread, SAMPLE_ON_CPU, stack, weight_ns as i64, stack_end as u32],
        )
    }

    /// Calls that have ended, each with its process.
    pub fn calls<'call>(
        &mut self,
        calls: impl Iterator<Item = (ProcessId, &'call Call)>,
    ) -> Result<(), Error> {
        self.calls_into("calls", calls)
    }

    /// The calls that have not ended yet, in place of those of the last time.
    pub fn in_flight<'call>(
        &mut self,
        calls: impl Iterator<Item = (ProcessId, &'call Call)>,
    ) -> Result<(), Error> {
        self.insert("DELETE FROM in_flight", [])?;
        self.calls_into("in_flight", calls)
    }

    fn calls_into<'call>(
        &mut self,
        table: &str,
        mut calls: impl Iterator<Item = (ProcessId, &'call Call)>,
    ) -> Result<(), Error> {
        let Self { path, connection, strings, .. } = self;
        let mut write = || {
            let mut insert = connection.prepare_cached(&format!(
                "INSERT INTO {table} VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            ))?;
            calls.try_for_each(|(process, call)| {
                insert_call(&mut insert, connection, strings, process, call)?;
                if table != "calls" || (call.arguments.is_none() && call.result.is_none()) {
                    return Ok(());
                }
                connection
                    .prepare_cached("INSERT INTO contents VALUES (last_insert_rowid(), ?, ?)")?
                    .execute(params![call.arguments, call.result])
                    .map(drop)
            })
        };
        write().map_err(|error| Error::from_sqlite(path, error))
    }

    /// A figure that the kernel keeps for a process.
    pub fn gauge(
        &self,
        process: ProcessId,
        kind: GaugeKind,
        timestamp_ns: u64,
        value: u64,
    ) -> Result<(), Error> {
        self.insert(
            "INSERT INTO gauges VALUES (?, ?, ?, ?)",
            params![timestamp_ns as i64, process, kind as u8, value as i64],
        )
    }

    /// Everything lost so far for a cause; zero is not written.
    pub fn loss(&mut self, cause: &str, count: u64) -> Result<(), Error> {
        if count == self.losses.get(cause).copied().unwrap_or(0) {
            return Ok(());
        }
        self.losses.insert(cause.to_owned(), count);
        self.insert("INSERT OR REPLACE INTO losses VALUES (?, ?)", params![cause, count as i64])
    }

    /// How many messages, lines... of a name there were so far; zero is not written.
    pub fn messages(&mut self, name: &'static str, count: u64) -> Result<(), Error> {
        if self.messages.insert(name, count).unwrap_or(0) == count {
            return Ok(());
        }
        self.insert("INSERT OR REPLACE INTO messages VALUES (?, ?)", params![name, count as i64])
    }

    /// Leaves out what is over since before this moment, for a recording that is only followed: its rows have gaps then.
    ///
    /// What samples and calls refer to goes once there is much of it. Distinct code addresses and their names stay.
    pub fn forget_before(&mut self, before_ns: u64) -> Result<(), Error> {
        self.run(|connection| retention::forget_before(connection, before_ns as i64))?;
        if self.stacks.len() > retention::MANY {
            self.run(retention::sweep_stacks)?;
            self.stacks.clear();
        }
        if self.strings.rows.len() > retention::MANY {
            self.run(retention::sweep_strings)?;
            self.strings.forget();
        }
        Ok(())
    }

    /// Makes everything so far durable, with the time until which the recording is complete.
    ///
    /// # Errors
    /// [`Error::DiskFull`] when there is no space: what was committed before stays.
    pub fn commit_until(&self, end_ns: u64) -> Result<(), Error> {
        self.insert("INSERT OR REPLACE INTO meta VALUES ('end_ns', ?)", params![end_ns as i64])?;
        self.commit()
    }

    fn commit(&self) -> Result<(), Error> {
        self.run(|connection| connection.execute_batch("COMMIT; BEGIN"))
    }

    /// Ends the recording: one file, nothing beside it.
    pub fn finish(self, end_ns: u64, end_reason: &str) -> Result<(), Error> {
        self.insert("INSERT OR REPLACE INTO meta VALUES ('end_reason', ?)", params![end_reason])?;
        self.commit_until(end_ns)?;
        self.run(|connection| {
            connection.execute_batch("COMMIT")?;
            connection.pragma_update(None, "journal_mode", "delete")
        })
    }
}

fn insert_call(
    insert: &mut Statement<'_>,
    connection: &Connection,
    strings: &mut Strings,
    process: ProcessId,
    call: &Call,
) -> rusqlite::Result<()> {
    let mut row = |text: Option<&str>| text.map(|text| strings.row(connection, text)).transpose();
    let (code, message) = call.ended.error();
    let values = params![
        process,
        call.session as i64,
        call.caller as u8,
        row(Some(&call.method))?,
        row(call.name.as_deref())?,
        row(call.trace_parent.as_deref())?,
        call.start_ns as i64,
        call.request_end_ns as i64,
        call.response_ns.map(|time| time as i64),
        call.end_ns as i64,
        call.request_thread,
        call.response_thread,
        call.request_bytes as i64,
        call.response_bytes as i64,
        call.requests,
        call.input_wait_ns as i64,
        call.ended.number(),
        code,
        row(message)?,
        call.queue_ns.map(|time| time as i64),
        call.request_id.as_ref().map(Id::json),
        call.session_id,
    ];
    insert.execute(values).map(drop)
}

/// Opens a database by exactly this path: SQLite gives `file:` and `:memory:` a meaning of their own.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// Whether there is a file that says of itself that it is a recording.
pub fn is_recording(path: &Path) -> bool {
    // https://sqlite.org/fileformat2.html#the_database_header
    let mut header = [0; 72];
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        && File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_ok()
        && header.starts_with(b"SQLite format 3\0")
        && header[68..] == (APPLICATION_ID as u32).to_be_bytes()
}

/// Whether another program has a recording open. Nobody may, where the log is to be given up.
fn is_in_use(path: &Path) -> bool {
    let probe = || open(path)?.pragma_update(None, "journal_mode", "delete");
    matches!(
        probe().map_err(|error| error.sqlite_error_code()),
        Err(Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
    )
}

/// Removes a recording with all that SQLite puts beside it.
fn remove(path: &Path) -> std::io::Result<()> {
    for file in files_of(path) {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes an older recording of that name, and refuses to touch anything else.
fn make_room(path: &Path) -> Result<(), Error> {
    let open_error = |source| Error::Open { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(_) => {
            if !is_recording(path) {
                // Also when it may not be read.
                File::open(path).map_err(open_error)?;
                return Err(Error::WouldOverwrite(path.to_owned()));
            }
            if is_in_use(path) {
                return Err(Error::InUse(path.to_owned()));
            }
            remove(path).map_err(open_error)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(open_error(error)),
    }
    // SQLite says "unable to open database file" and no more: ask the system for the reason.
    OpenOptions::new().write(true).create_new(true).open(path).map(drop).map_err(open_error)
}
