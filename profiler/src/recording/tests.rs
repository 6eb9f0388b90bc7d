//! Tests of the store: what goes in comes out, and no file makes the reader panic.

use std::path::PathBuf;

use rusqlite::Connection;

use super::*;
use crate::analysis::testing;
use crate::wire::calls::{Call, Ended};

fn write(path: &Path) -> Writer {
    let meta = Meta { target_name: "server".into(), frequency_hz: 99, start_ns: 5, ..Meta::default() };
    let mut writer = Writer::create(path, &meta).unwrap();
    let runtime = Runtime { name: "node".into(), version: Some("20".into()) };
    let process = writer.process(42, None, "node server.js", &runtime, 6).unwrap();
    writer.process_project(process, Some("/srv/app")).unwrap();
    let unwinding = |language: &str| Unwinding { language: Some(language.into()), ..Unwinding::default() };
    writer.process_unwinding(process, &unwinding("not yet known")).unwrap();
    writer.process_unwinding(process, &unwinding("V8 frames")).unwrap();
    let thread = writer.thread(process, 43, "main").unwrap();
    let module = writer.module("/usr/bin/node", Some("abcd")).unwrap();
    let (outer, _) = writer.frame(FrameKind::Native, module, u64::MAX).unwrap();
    let (inner, is_new) = writer.frame(FrameKind::Native, module, 2).unwrap();
    assert!(is_new && !writer.frame(FrameKind::Native, module, 2).unwrap().1);
    writer.line(inner, 0, "f", Some("a.c"), Some(3)).unwrap();
    writer.line(inner, 1, "g", None, None).unwrap();
    let root = writer.stack(None, outer).unwrap();
    let leaf = writer.stack(Some(root), inner).unwrap();
    assert_eq!(writer.stack(Some(root), inner).unwrap(), leaf);
    writer.sample(7, thread, Some(leaf), 10, StackEnd::ChainEnd).unwrap();
    writer.gauge(process, GaugeKind::RssBytes, 7, 4096).unwrap();
    writer.loss("ring_full", 2).unwrap();
    writer.commit_until(8).unwrap();
    writer
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.mcpprof");
    (folder, path)
}

/// A finished recording is one file, and reads back as it was written.
#[test]
fn reads_back_what_was_written() {
    let (folder, path) = scratch();
    write(&path).finish(9, "time is up").unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let recording = read(&path).unwrap();
    assert_eq!((recording.meta.end_ns, recording.meta.end_reason.as_deref()), (9, Some("time is up")));
    assert_eq!(recording.processes[0].runtime.version.as_deref(), Some("20"));
    assert_eq!(recording.processes[0].project.as_deref(), Some("/srv/app"));
    let unwinding = recording.processes[0].unwinding.as_ref().unwrap();
    assert_eq!(unwinding.language.as_deref(), Some("V8 frames"));
    assert_eq!(recording.threads[0].tid, 43);
    assert_eq!(recording.frames[0].offset, u64::MAX);
    let functions: Vec<&str> = recording.frames[1].lines.iter().map(|line| &*line.function).collect();
    assert_eq!(functions, ["f", "g"]);
    assert_eq!(recording.stacks[1], StackNode { parent: Some(0), frame: 1 });
    assert_eq!(recording.samples[0].stack, Some(1));
    assert_eq!(recording.losses["ring_full"], 2);
    assert_eq!(recording.gauges[0].value, 4096);
}

/// A recording can be read while it is written, and after its writer was cut off.
#[test]
fn reads_unfinished_recordings() {
    let (_folder, path) = scratch();
    let writer = write(&path);
    assert_eq!(read(&path).unwrap().samples.len(), 1);
    writer.sample(8, 1, None, 10, StackEnd::NoUserStack).unwrap();
    std::mem::forget(writer); // as a kill would: no clean-up
    let recording = read(&path).unwrap();
    assert_eq!((recording.samples.len(), recording.meta.end_reason), (1, None));
}

/// What a kill leaves is known as a recording: it can be replaced, and is not taken for whole without its log.
/// One that is being written is left to its writer, whatever its name looks like to SQLite.
#[test]
fn knows_unfinished_recordings() {
    let (folder, path) = scratch();
    let writer = write(&path);
    assert!(is_recording(&path));
    assert!(matches!(Writer::create(&path, &Meta::default()), Err(Error::InUse(_))));
    let alone = folder.path().join("alone.mcpprof");
    std::fs::copy(&path, &alone).unwrap();
    assert!(matches!(read(&alone), Err(Error::Damaged { what, .. }) if what.contains("alone.mcpprof-wal")));
    let killed = folder.path().join("killed.mcpprof");
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(&path), name(&killed)).unwrap();
    }
    assert_eq!(read(&killed).unwrap().samples.len(), 1);
    write(&killed).finish(9, "again").unwrap();
    assert_eq!(read(&path).unwrap().samples.len(), 1);
    writer.finish(9, "").unwrap();
}

/// A recording of the first version of the schema is read; what it did not know is absent.
#[test]
fn reads_the_first_version() {
    let (_folder, path) = scratch();
    write(&path).finish(9, "").unwrap();
    let older = "DROP TABLE unwinding; DROP TABLE contents; DROP TABLE calls; DROP TABLE messages; ALTER TABLE processes DROP COLUMN project; PRAGMA user_version = 1";
    Connection::open(&path).unwrap().execute_batch(older).unwrap();
    let recording = read(&path).unwrap();
    assert_eq!((&recording.processes[0].project, &recording.processes[0].unwinding), (&None, &None));
    assert_eq!(recording.samples.len(), 1);
    assert!(!recording.meta.has_calls && recording.calls.is_empty());
}

/// Contents of calls, and IDs of any kind, come back; the versions before did not know them, and had calls.
#[test]
fn reads_calls() {
    use crate::wire::Id;
    let (_folder, path) = scratch();
    let mut writer = write(&path);
    let mut calls = testing::Builder::new();
    calls.call(0, "a", 1, 2);
    let mut call = calls.recording.calls.remove(0).call;
    call.request_id = Some(Id::Text("7\"".into()));
    call.queue_ns = Some(3);
    writer.calls([(1, &call)].into_iter()).unwrap();
    call.request_id = Some(Id::Number("7".into()));
    call.arguments = Some(r#"{"a":1}"#.into());
    call.session_id = Some("s".into());
    writer.calls([(1, &call)].into_iter()).unwrap();
    writer.finish(9, "").unwrap();
    let recording = read(&path).unwrap();
    let ids: Vec<_> =
        recording.calls.iter().map(|recorded| recorded.call.request_id.clone().unwrap()).collect();
    assert_eq!(ids, [Id::Text("7\"".into()), Id::Number("7".into())]);
    assert_eq!((&recording.calls[0].call.arguments, recording.calls[0].call.queue_ns), (&None, Some(3)));
    assert_eq!(recording.calls[1].call.arguments.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(
        recording.calls.iter().filter_map(|own| own.call.session_id.as_deref()).collect::<Vec<_>>(),
        ["s"]
    );
    let older = "ALTER TABLE calls DROP COLUMN session_id; ALTER TABLE in_flight DROP COLUMN session_id; PRAGMA user_version = 4";
    Connection::open(&path).unwrap().execute_batch(older).unwrap();
    let recording = read(&path).unwrap();
    assert_eq!(recording.calls[1].call.arguments.as_deref(), Some(r#"{"a":1}"#));
    assert!(recording.calls.iter().all(|recorded| recorded.call.session_id.is_none()));
    let older = "DROP TABLE contents; ALTER TABLE calls DROP COLUMN request_id; ALTER TABLE calls DROP COLUMN queue_ns; DELETE FROM meta WHERE key = 'has_calls'; \
                 PRAGMA user_version = 3";
    Connection::open(&path).unwrap().execute_batch(older).unwrap();
    let recording = read(&path).unwrap();
    let is_bare = |call: &Call| call.request_id.is_none() && call.queue_ns.is_none();
    assert!(recording.meta.has_calls && recording.calls.iter().all(|recorded| is_bare(&recorded.call)));
}

/// Another program's file is neither read nor overwritten; an older recording is replaced.
#[test]
fn leaves_other_files_alone() {
    let (_folder, path) = scratch();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(read(&path), Err(Error::NotARecording(_))));
    assert!(matches!(Writer::create(&path, &Meta::default()), Err(Error::WouldOverwrite(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(matches!(read(&path), Err(Error::NotARecording(_))));
    assert!(matches!(Writer::create(&path, &Meta::default()), Err(Error::WouldOverwrite(_))));
    std::fs::remove_file(&path).unwrap();
    write(&path).finish(9, "first").unwrap();
    write(&path).finish(9, "second").unwrap();
    assert_eq!(read(&path).unwrap().meta.end_reason.as_deref(), Some("second"));
}

/// A newer format and every kind of broken reference is an error that says so.
#[test]
fn refuses_what_it_cannot_trust() {
    let broken = [
        "PRAGMA user_version = 7",
        "UPDATE samples SET stack = 99",
        "UPDATE samples SET thread = 0",
        "UPDATE samples SET weight_ns = -1",
        "UPDATE samples SET stack_end = 77",
        "UPDATE stacks SET parent = 2 WHERE id = 1",
        "UPDATE stacks SET frame = -5",
        "UPDATE frames SET module = 9",
        "UPDATE frames SET kind = 200",
        "UPDATE frames SET offset = 'text'",
        "UPDATE lines SET function = 9",
        "UPDATE threads SET process = 9223372036854775807",
        "UPDATE processes SET parent = 1",
        "UPDATE processes SET pid = -9223372036854775808",
        "UPDATE gauges SET process = 3",
        "UPDATE unwinding SET process = 3",
        "DELETE FROM strings WHERE id = 1",
        "DROP TABLE samples",
    ];
    let (_folder, path) = scratch();
    for sql in broken {
        write(&path).finish(9, "").unwrap();
        Connection::open(&path).unwrap().execute_batch(&format!("PRAGMA foreign_keys = off; {sql}")).unwrap();
        match read(&path) {
            Err(Error::Newer { found: 7, .. } | Error::Damaged { .. }) => {}
            other => panic!("{sql}: {other:?}"),
        }
        // A newer recording is still one of ours: it can be replaced.
    }
}

/// Whatever byte of a recording is flipped, and wherever it is cut, the reader answers without a panic.
#[test]
fn survives_damage() {
    let (_folder, path) = scratch();
    write(&path).finish(9, "").unwrap();
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, &damaged).unwrap();
        let _ = read(&path);
        std::fs::write(&path, &whole[..at]).unwrap();
        let _ = read(&path);
    }
}

fn call(tool: &str, start_ns: u64, end_ns: u64) -> Call {
    Call {
        response_ns: None,
        request_thread: 43,
        request_bytes: 1,
        response_bytes: 2,
        queue_ns: Some(3),
        ended: Ended::Unanswered,
        ..testing::call(tool, start_ns, end_ns)
    }
}

/// The tools of an increment, in its order, and how many of them are in flight.
fn tools(increment: &Increment) -> (Vec<&str>, usize) {
    let calls = increment.recording.calls.iter();
    (calls.filter_map(|recorded| recorded.call.name.as_deref()).collect(), increment.in_flight)
}

/// A follower sees each thing once, calls in flight until they end, and stacks with the names that came later.
#[test]
fn follows() {
    let (_folder, path) = scratch();
    let mut writer = write(&path);
    let mut follower = Follower::new(&path).unwrap();
    let first = follower.poll().unwrap().unwrap();
    assert_eq!((first.recording.meta.start_ns, first.recording.meta.end_ns), (5, 8));
    assert_eq!((first.recording.samples.len(), first.recording.threads[0].tid), (1, 43));
    assert_eq!((first.recording.losses["ring_full"], &first.process_rows[..]), (2, &[1][..]));
    assert_eq!(first.recording.gauges[0].value, 4096);
    assert!(follower.poll().unwrap().is_none(), "nothing came");

    writer.calls([(1, &call("echo", 6, 9))].into_iter()).unwrap();
    writer.in_flight([(1, &call("burn", 7, 7))].into_iter()).unwrap();
    writer.sample(9, 1, Some(2), 10, StackEnd::ChainEnd).unwrap();
    writer.line(1, 0, "main", None, None).unwrap();
    writer.commit_until(10).unwrap();
    let second = follower.poll().unwrap().unwrap();
    assert_eq!((second.recording.meta.start_ns, second.recording.meta.end_ns), (8, 10));
    assert_eq!(tools(&second), (vec!["echo", "burn"], 1));
    assert_eq!(second.recording.calls[1].call.end_ns, 10);
    assert!(second.recording.calls.iter().all(|recorded| recorded.call.queue_ns == Some(3)));
    assert_eq!(second.recording.samples.len(), 1);
    let with_stacks = follower.with_stacks(second.recording.samples.clone()).unwrap();
    let names = |frame: usize| with_stacks.frames[frame].lines.iter().map(|line| &*line.function);
    let functions: Vec<&str> = with_stacks.stacks.iter().flat_map(|node| names(node.frame)).collect();
    assert_eq!(functions, ["main", "f", "g"]);
    assert_eq!(with_stacks.samples[0].stack, Some(1));

    writer.calls([(1, &call("burn", 7, 11))].into_iter()).unwrap();
    writer.in_flight(std::iter::empty()).unwrap();
    writer.commit_until(12).unwrap();
    assert_eq!(tools(&follower.poll().unwrap().unwrap()), (vec!["burn"], 0));
}

/// What is over goes, what is followed is not told twice nor left out, and a thread whose row went is told anew.
#[test]
fn forgets() {
    let (_folder, path) = scratch();
    let mut writer = write(&path);
    let mut follower = Follower::new(&path).unwrap();
    for time in 10..20 {
        writer.calls([(1, &call("echo", time, time))].into_iter()).unwrap();
        writer.sample(time, 1, Some(2), 10, StackEnd::ChainEnd).unwrap();
    }
    writer.process(44, Some(1), "git", &Runtime::default(), 10).unwrap();
    writer.process_exit(2, 15).unwrap();
    writer.commit_until(20).unwrap();
    assert_eq!(follower.poll().unwrap().unwrap().recording.calls.len(), 10);
    writer.forget_before(1000).unwrap();
    let rows = |table: &str| -> i64 {
        let connection = Connection::open(&path).unwrap();
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    writer.calls([(1, &call("late", 21, 22))].into_iter()).unwrap();
    let thread = writer.thread(1, 43, "main").unwrap();
    writer.sample(21, thread, Some(2), 10, StackEnd::ChainEnd).unwrap();
    writer.commit_until(30).unwrap();
    assert_eq!((rows("calls"), rows("samples"), rows("processes")), (2, 2, 1));
    let increment = follower.poll().unwrap().unwrap();
    assert_eq!((tools(&increment), increment.recording.samples.len()), ((vec!["late"], 0), 1));
    assert_eq!(increment.recording.threads[0].tid, 43);
}

/// A process that is over goes although a child of it lives and its own last call is the newest.
#[test]
fn forgets_processes_that_others_refer_to() {
    let (_folder, path) = scratch();
    let mut writer = write(&path);
    let launcher = writer.process(44, Some(1), "sh", &Runtime::default(), 10).unwrap();
    writer.process(45, Some(launcher), "node", &Runtime::default(), 11).unwrap();
    writer.calls([(launcher, &call("last", 12, 13))].into_iter()).unwrap();
    writer.process_exit(launcher, 15).unwrap();
    writer.commit_until(20).unwrap();
    writer.forget_before(1000).unwrap();
    writer.commit_until(30).unwrap();
    let increment = Follower::new(&path).unwrap().poll().unwrap().unwrap();
    let processes: Vec<u32> = increment.recording.processes.iter().map(|process| process.pid).collect();
    assert_eq!((processes, tools(&increment)), (vec![42, 45], (vec!["last"], 0)));
}

/// Of stacks and texts, those that nothing refers to any more go, and no other ones.
#[test]
fn sweeps() {
    let (_folder, path) = scratch();
    let mut writer = write(&path);
    let (unused, _) = writer.frame(FrameKind::Native, 1, 99).unwrap();
    writer.stack(Some(2), unused).unwrap();
    writer.calls([(1, &call("kept", 6, 9))].into_iter()).unwrap();
    writer.commit_until(9).unwrap();
    let connection = Connection::open(&path).unwrap();
    drop(writer); // so that another one may write
    connection.execute_batch("INSERT INTO strings VALUES (1000, 'unused')").unwrap();
    retention::sweep_stacks(&connection).unwrap();
    retention::sweep_strings(&connection).unwrap();
    let recording = read(&path).unwrap();
    assert_eq!(recording.stacks.len(), 2);
    assert_eq!(recording.calls[0].call.name.as_deref(), Some("kept"));
    let texts: i64 = connection.query_row("SELECT count(*) FROM strings", [], |row| row.get(0)).unwrap();
    assert_eq!(texts, 5, "f, a.c, g, tools/call and kept");
}

/// A recording that was cut off has the calls that were in flight, without an answer; one that ended has only those that ended.
#[test]
fn calls_in_flight_of_a_killed_recording() {
    let (_folder, path) = scratch();
    let mut writer = write(&path);
    writer.in_flight([(1, &call("burn", 6, 6))].into_iter()).unwrap();
    writer.commit_until(20).unwrap();
    let calls = read(&path).unwrap().calls;
    assert_eq!((calls.len(), calls[0].call.end_ns, &calls[0].call.ended), (1, 20, &Ended::InFlight));
    writer.finish(21, "time is up").unwrap();
    assert!(read(&path).unwrap().calls.is_empty());
    let older = "DROP TABLE in_flight; DELETE FROM meta WHERE key = 'end_reason'";
    Connection::open(&path).unwrap().execute_batch(older).unwrap();
    assert_eq!(read(&path).unwrap().samples.len(), 1);
}
