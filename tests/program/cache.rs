//! Unwind tables that are kept on disk.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tests::{Process, Profiler, python_program, script};

/// A program that was recorded before is not parsed again, and what is damaged on disk is made anew.
#[test]
fn tables_are_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (program, build_id) = (folder.path().join("python"), unique_id()?);
    std::fs::write(&program, with_build_id(std::fs::read(python_program()?)?, build_id)?)?;
    std::fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let mut command = Command::new(&program);
    // The copy does not find its library by itself.
    command.arg(script("python_shares.py")).env("PYTHONHOME", "/usr").stdout(Stdio::piped());
    let process = Process::start(&mut command)?.ready()?;
    let kept = Path::new("/var/cache/mcp-profiler/unwind").join(hexadecimal(&build_id));
    let record = || {
        let report = Profiler::new()?.record_enough(2, 199, &["--pid", &process.pid().to_string()], 100)?;
        report.assert_complete(0.99);
        report.function("recurse")?;
        kept.metadata().with_context(|| kept.display().to_string())
    };

    let made = record()?;
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    File::open(&kept)?.set_modified(long_ago)?;
    let used = record()?;
    assert_eq!(used.ino(), made.ino(), "it was made again");
    assert!(used.modified()? > long_ago + Duration::from_secs(60), "it was not used");

    OpenOptions::new().write(true).open(&kept)?.set_len(made.len() / 2)?;
    let repaired = record()?;
    assert_eq!(repaired.len(), made.len());
    std::fs::remove_file(&kept)?;
    Ok(())
}

/// Nobody else has it.
fn unique_id() -> Result<[u8; 20]> {
    let mut id = [0; 20];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A program with another build ID: the note of type 3 that the owner `GNU` has in it.
fn with_build_id(mut program: Vec<u8>, build_id: [u8; 20]) -> Result<Vec<u8>> {
    let note = [&4_u32.to_le_bytes()[..], &20_u32.to_le_bytes(), &3_u32.to_le_bytes(), b"GNU\0"].concat();
    let at = program.windows(note.len()).position(|window| window == note).context("no build ID")?;
    program[at + note.len()..][..20].copy_from_slice(&build_id);
    Ok(program)
}
