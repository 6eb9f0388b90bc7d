//! Whether names of functions can be found.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Check, run_as_root};
use crate::target::elf::Elf;
use crate::target::process::{Process, ProcessError};

const NAME: &str = "Debug symbols";
/// Libraries that hold a language runtime.
const RUNTIME_LIBRARIES: [&str; 5] = ["libjvm.so", "libcoreclr.so", "libnode.so", "libpython", "libruby"];
const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// Name, description and type sizes, then `GNU` with its zero byte, before the build ID itself (elf(5), notes).
const NOTE_HEADER_BYTES: usize = 16;
/// The longest build ID that linkers write, in bytes.
const BUILD_ID_LIMIT: usize = 32;

pub(super) fn check(target: Option<&Process>) -> Check {
    match target {
        None => folder(),
        Some(process) => match of_program(process) {
            Ok(check) => check,
            Err(error @ ProcessError::Denied { .. }) => {
                Check::warning(NAME, error.to_string(), "Its functions stay without names.", run_as_root())
            }
            Err(error) => Check::info(NAME, error.to_string(), "Its program could not be looked at."),
        },
    }
}

fn folder() -> Check {
    if Path::new(DEBUG_FOLDER).join(".build-id").is_dir() {
        return Check::ok(NAME, format!("separate debug files in {DEBUG_FOLDER}"));
    }
    Check::info(
        NAME,
        format!("no separate debug files in {DEBUG_FOLDER}"),
        "Programs with symbols of their own need none. They are not fetched over the network (no debuginfod). \
         `doctor --pid PID` looks at one server.",
    )
}

fn of_program(process: &Process) -> Result<Check, ProcessError> {
    let (path, file) = code_file(process)?;
    let Some(elf) = Elf::open(file) else {
        return Ok(Check::info(
            NAME,
            format!("{}: not a 64-bit ELF file", path.display()),
            "It cannot be profiled.",
        ));
    };
    let symbols = elf.section(".symtab").is_some();
    let lines = elf.section(".debug_info").is_some();
    let separate = build_id(&elf)
        .map(|id| separate_file(&id))
        .filter(|file| process.open_in_root(file).is_ok() || file.is_file());
    let has = match (symbols, lines, &separate) {
        (_, _, Some(file)) => format!("functions and lines, from {}", file.display()),
        (_, true, _) => "functions and lines".to_owned(),
        (true, false, _) => "functions, no lines".to_owned(),
        (false, false, None) => {
            // Go's own table of functions survives stripping.
            let meaning = if elf.section(".gopclntab").is_some() {
                "This Go program is stripped: names come only from what Go keeps for its own stack traces."
            } else {
                "The program is stripped: only the functions that it exports have names; others show as module+0xoffset."
            };
            return Ok(Check::warning(NAME, format!("{}: stripped", path.display()), meaning, remedy(&path)));
        }
    };
    Ok(Check::ok(NAME, format!("{}: {has}", path.display())))
}

/// The file that holds most of the code: of a runtime whose program is only a launcher, its library.
fn code_file(process: &Process) -> Result<(PathBuf, File), ProcessError> {
    let is_runtime = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        RUNTIME_LIBRARIES.iter().any(|library| name.starts_with(library))
    };
    if let Some(library) = process.mapped_files()?.into_iter().find(is_runtime)
        && let Ok(file) = process.open_in_root(&library)
    {
        return Ok((library, file));
    }
    Ok((process.executable_path()?, process.executable()?))
}

fn remedy(program: &Path) -> String {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // The name is part of a command that people copy into a shell.
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte));
    if plain && program.starts_with("/usr") && !program.starts_with("/usr/local") {
        // By name only: of a merged /usr, dpkg knows the old path.
        format!(
            "sudo apt-get install $(dpkg -S '*/{name}' | head -1 | cut -d: -f1)-dbgsym (RHEL: sudo dnf debuginfo-install ...)"
        )
    } else {
        "Build the server without stripping it (Rust: strip = false; Go: no -ldflags=-s; C: no strip, gcc -g)"
            .to_owned()
    }
}

/// `.note.gnu.build-id`.
fn build_id(elf: &Elf) -> Option<Vec<u8>> {
    let section = elf.section(".note.gnu.build-id")?;
    let bytes = elf.read(section.offset, section.size.min((NOTE_HEADER_BYTES + BUILD_ID_LIMIT) as u64))?;
    bytes.get(NOTE_HEADER_BYTES..).filter(|id| id.len() >= 2).map(<[u8]>::to_vec)
}

/// Where debuggers look: `/usr/lib/debug/.build-id/ab/cdef.debug`.
fn separate_file(id: &[u8]) -> PathBuf {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (folder, rest) = digits.split_at(2);
    Path::new(DEBUG_FOLDER).join(".build-id").join(folder).join(format!("{rest}.debug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test's own program has symbols.
    #[test]
    fn the_running_test_has_symbols() {
        let check = check(Some(&Process::open(std::process::id()).unwrap()));
        assert_eq!(check.status, super::super::Status::Ok, "{check:?}");
        assert!(check.finding.contains("functions"));
    }

    /// The path of a separate debug file.
    #[test]
    fn separate_files() {
        assert_eq!(separate_file(&[0xab, 0xcd, 0x01]), Path::new("/usr/lib/debug/.build-id/ab/cd01.debug"));
    }
}
