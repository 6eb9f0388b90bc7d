//! The recording: its model, and the SQLite file that holds it.

mod follow;
mod model;
mod reader;
mod retention;
mod writer;

use std::path::{Path, PathBuf};

pub use follow::{Follower, Increment};
pub use model::{
    Frame, FrameIndex, FrameKind, Gauge, GaugeKind, Line, Meta, Process, ProcessIndex, RecordedCall,
    Recording, Runtime, Sample, StackEnd, StackIndex, StackNode, Thread, Unwinding,
};
pub use reader::read;
pub use writer::{FrameId, ProcessId, RowId, StackId, ThreadId, Writer, is_recording};

const SCHEMA: &str = include_str!("schema.sql");
/// Version of the schema that this program writes. It reads the earlier ones too.
const SCHEMA_VERSION: i64 = 6;
/// `PRAGMA application_id` of our files: "mcpp".
const APPLICATION_ID: i64 = 0x6d63_7070;
/// The only kind of sample so far.
const SAMPLE_ON_CPU: u8 = 1;

/// All that a recording consists of while it is written: its file, and what SQLite keeps beside it.
pub fn files_of(path: &Path) -> impl Iterator<Item = PathBuf> {
    ["", LOG_SUFFIX, "-shm", "-journal"].into_iter().map(|suffix| beside(path, suffix))
}

/// SQLite's write-ahead log.
const LOG_SUFFIX: &str = "-wal";

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A recording could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file, or it can't be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{0} is not a recording of mcp-profiler")]
    NotARecording(PathBuf),
    /// The file was written by a later version.
    #[error(
        "{path} has format version {found}, this program reads up to version {SCHEMA_VERSION}: \
         read it with the mcp-profiler that wrote it, or a newer one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The file is damaged.
    #[error(
        "{path} is damaged ({what}): copy it again, with the -wal file beside it if there is one, or record again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is already a file of another kind.
    #[error("{0} exists and is not a recording of mcp-profiler: it is left as it is; choose another name")]
    WouldOverwrite(PathBuf),
    /// Another recording is being written there.
    #[error(
        "{0} is being recorded or read by another program: choose another name, or wait until it is done"
    )]
    InUse(PathBuf),
    /// No space left.
    #[error(
        "the disk is full: {0} holds what was recorded until then; free some space, or write elsewhere with --output"
    )]
    DiskFull(PathBuf),
    /// Anything else that SQLite reports.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl Error {
    fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull(path),
            Some(ErrorCode::NotADatabase) => Self::NotARecording(path),
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, what: source.to_string() },
            _ => Self::Sqlite { path, source },
        }
    }
}

#[cfg(test)]
mod tests;
