//! Which language runtime a process runs, and its version: read from its program and its libraries, which are never run.

use std::path::{Path, PathBuf};

use crate::recording::Runtime;

use super::elf::{Elf, Section};
use super::go_build;
use super::process::{Process, ProcessError};

/// The longest version that is believed, in bytes.
const VERSION_LIMIT: usize = 48;
/// The most of a JDK's `release` file that is read, in bytes.
const RELEASE_LIMIT: u64 = 64 * 1024;

/// The runtime of a process: `node`, `python`, `go`, `rust`, `java`, `dotnet`, `deno`, `bun`, `ruby`, `php`, or `native` for any other
/// machine code. The version is absent when no file tells it.
///
/// # Errors
/// When the process ended meanwhile or belongs to another user.
pub fn detect(process: &Process) -> Result<Runtime, ProcessError> {
    let files = Files {
        process,
        executable: process.executable_path()?,
        program: Elf::open(process.executable()?),
        mapped: process.mapped_files()?,
    };
    let (name, version) = files.runtime();
    Ok(Runtime { name: name.to_owned(), version })
}

struct Files<'process> {
    process: &'process Process,
    executable: PathBuf,
    program: Option<Elf>,
    mapped: Vec<PathBuf>,
}

impl Files<'_> {
    fn runtime(&self) -> (&'static str, Option<String>) {
        if let Some(name) = self.named_runtime() {
            return (name, self.version(name));
        }
        let Some(program) = &self.program else { return ("native", None) };
        if let Some(version) = go_build::version(program) {
            return ("go", Some(version).filter(|text| !text.is_empty()));
        }
        // Compiled into one file with its scripts, under any name.
        if program.exported("napi_create_function").is_some() {
            for name in ["bun", "deno", "node"] {
                if let Some(version) = self.version(name) {
                    return (name, Some(version));
                }
            }
        }
        if program.exported("Py_Version").is_some() {
            return ("python", self.version("python"));
        }
        // A .NET program in a single file.
        if program.exported("DotNetRuntimeInfo").is_some() {
            return ("dotnet", search(program, b"@(#)Version "));
        }
        rust(program).map_or(("native", None), |version| ("rust", version))
    }

    /// A runtime that the program's own name or a library of its tells.
    fn named_runtime(&self) -> Option<&'static str> {
        let file_name = self.executable.file_name()?.to_str()?;
        let family = file_name
            .trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.' || letter == '-');
        let by_name = match family {
            "python" | "pypy" => Some("python"),
            "node" | "nodejs" => Some("node"),
            "deno" => Some("deno"),
            "bun" | "bun-profile" => Some("bun"),
            "ruby" => Some("ruby"),
            "php" | "php-fpm" | "php-cgi" => Some("php"),
            "java" => Some("java"),
            _ => None,
        };
        by_name.or_else(|| {
            [
                ("libjvm.so", "java"),
                ("libcoreclr.so", "dotnet"),
                ("libnode.so", "node"),
                ("libpython", "python"),
                ("libruby", "ruby"),
                ("libphp", "php"),
            ]
            .into_iter()
            .find(|(library, _)| self.library(library).is_some())
            .map(|(_, name)| name)
        })
    }

    fn version(&self, name: &str) -> Option<String> {
        match name {
            "node" => self.searched("libnode.so", b"node.js/v"),
            "deno" => search_with(self.program.as_ref()?, b"Deno/", deno_version),
            "bun" => search(self.program.as_ref()?, b"Bun/"),
            "php" => self.searched("libphp", b"X-Powered-By: PHP/"),
            "python" => self.in_library_or_program("libpython", python).or_else(|| self.python_by_path()),
            "ruby" => self.in_library_or_program("libruby", |elf| {
                version_text(elf.read_address(elf.exported("ruby_version")?, VERSION_LIMIT as u64)?)
            }),
            "java" => self.java(),
            "dotnet" => self.dotnet(),
            _ => None,
        }
    }

    /// The first mapped file whose name starts like this.
    fn library(&self, start: &str) -> Option<&Path> {
        self.mapped.iter().map(PathBuf::as_path).find(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes()))
        })
    }

    fn in_library_or_program<T>(&self, library: &str, read: impl Fn(&Elf) -> Option<T>) -> Option<T> {
        let file = self.library(library).and_then(|path| self.process.open_in_root(path).ok());
        file.and_then(Elf::open).and_then(|elf| read(&elf)).or_else(|| read(self.program.as_ref()?))
    }

    fn searched(&self, library: &str, mark: &[u8]) -> Option<String> {
        self.in_library_or_program(library, |elf| search(elf, mark))
    }

    /// `python3.10` in the path of the program or of a module.
    fn python_by_path(&self) -> Option<String> {
        std::iter::once(&self.executable).chain(&self.mapped).find_map(|path| python_in_path(path))
    }

    /// The file `release` of the JDK whose `lib/server/libjvm.so` is mapped.
    fn java(&self) -> Option<String> {
        let home = self.library("libjvm.so")?.parent()?.parent()?.parent()?;
        // Java 8 keeps it in `jre/lib/amd64/server`.
        home.ancestors().take(3).find_map(|folder| {
            use std::io::Read;
            let file = self.process.open_in_root(&folder.join("release")).ok()?;
            let mut text = String::new();
            file.take(RELEASE_LIMIT).read_to_string(&mut text).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
            version_text(line.trim_matches('"').as_bytes())
        })
    }

    /// `Microsoft.NETCore.App/8.0.1/libcoreclr.so`, or what the library says of itself.
    fn dotnet(&self) -> Option<String> {
        let library = self.library("libcoreclr.so")?;
        let folder = library.parent()?;
        if folder.parent()?.file_name()?.to_str() == Some("Microsoft.NETCore.App") {
            return version_text(folder.file_name()?.as_encoded_bytes());
        }
        search(&Elf::open(self.process.open_in_root(library).ok()?)?, b"@(#)Version ")
    }
}

/// A version that stands behind a mark among the constants of a program.
fn search(elf: &Elf, mark: &[u8]) -> Option<String> {
    search_with(elf, mark, version_text)
}

fn search_with(elf: &Elf, mark: &[u8], accept: impl Fn(&[u8]) -> Option<String>) -> Option<String> {
    [".rodata", ".data", ".data.rel.ro"]
        .into_iter()
        .filter_map(|name| elf.section(name))
        .find_map(|section: Section| elf.search(section, mark, VERSION_LIMIT, &accept))
}

/// Deno's constants hold `Deno/2.9.6Deno/2.9.6+e518fbd`: texts in Rust have no end of their own. What follows tells it
/// from the versions of other things that stand behind `Deno/` by chance.
fn deno_version(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))?;
    let ours = bytes[end..].starts_with(b"+") || bytes[end..].starts_with(b"Deno/");
    if ours { version_text(&bytes[..end]) } else { None }
}

/// The version at the start of these bytes: it begins with a digit, has a dot, and ends at the first character that a version has not.
/// A byte that ends a text is no part of it, and neither is a dot at the end.
fn version_text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .take(VERSION_LIMIT)
        .position(|byte| !(byte.is_ascii_alphanumeric() || b".-_+".contains(byte)))
        .unwrap_or(bytes.len().min(VERSION_LIMIT));
    let text = str::from_utf8(&bytes[..end]).ok()?.trim_end_matches('.');
    (text.starts_with(|letter: char| letter.is_ascii_digit()) && text.contains('.') || is_single_number(text))
        .then(|| text.to_owned())
}

/// Java's first release of a line is `21`.
fn is_single_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `Py_Version` of Python 3.11 and later: `PY_VERSION_HEX`, an `unsigned long`
/// (<https://docs.python.org/3/c-api/apiabiversion.html>).
fn python(elf: &Elf) -> Option<String> {
    let bytes: [u8; 8] = elf.read_address(elf.exported("Py_Version")?, 8)?.try_into().ok()?;
    python_version(u64::from_le_bytes(bytes))
}

fn python_version(hex: u64) -> Option<String> {
    let [level_serial, micro, minor, major, 0, 0, 0, 0] = hex.to_le_bytes() else { return None };
    let stage = match level_serial >> 4 {
        0xA => format!("a{}", level_serial & 0xf),
        0xB => format!("b{}", level_serial & 0xf),
        0xC => format!("rc{}", level_serial & 0xf),
        0xF => String::new(),
        _ => return None,
    };
    Some(format!("{major}.{minor}.{micro}{stage}"))
}

/// The `3.10` of a path with `python3.10` or `libpython3.10.so` in it.
pub(crate) fn python_in_path(path: &Path) -> Option<String> {
    path.components().rev().find_map(|component| {
        let text = component.as_os_str().to_str()?;
        let rest = text.strip_prefix("lib").unwrap_or(text).strip_prefix("python")?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let version = rest[..end].trim_matches('.');
        version.contains('.').then(|| version.to_owned())
    })
}

/// `Some` for a Rust program, with the compiler's version when the section that compilers sign has it.
fn rust(elf: &Elf) -> Option<Option<String>> {
    if let Some(section) = elf.section(".comment")
        && let Some(found) = elf.search(section, b"rustc version ", VERSION_LIMIT, version_text)
    {
        return Some(Some(found));
    }
    // Places in the standard library, which panics name, start with the commit of the compiler: 40 hexadecimal digits.
    let constants = elf.section(".rodata")?;
    let is_commit = |rest: &[u8]| {
        (rest.len() == 41 && rest[..40].iter().all(u8::is_ascii_hexdigit) && rest[40] == b'/').then_some(())
    };
    elf.search(constants, b"/rustc/", 41, is_commit).map(|()| None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Releases and stages of `PY_VERSION_HEX`, and numbers that are none.
    #[test]
    fn python_versions() {
        assert_eq!(python_version(0x030b_07f0).as_deref(), Some("3.11.7"));
        assert_eq!(python_version(0x030e_00c2).as_deref(), Some("3.14.0rc2"));
        assert_eq!(python_version(0x0304_0506_0708_090a), None);
        assert_eq!(python_version(0), None);
    }

    /// Versions in paths of interpreters, libraries and modules.
    #[test]
    fn python_paths() {
        let version = |path: &str| python_in_path(Path::new(path));
        assert_eq!(version("/usr/bin/python3.10").as_deref(), Some("3.10"));
        assert_eq!(version("/usr/lib/libpython3.9.so.1.0").as_deref(), Some("3.9"));
        assert_eq!(version("/usr/lib/python3.8/lib-dynload/_json.so").as_deref(), Some("3.8"));
        assert_eq!(version("/usr/bin/python3"), None);
    }

    /// Only what looks like a version is one.
    #[test]
    fn version_texts() {
        let version = |text: &[u8]| version_text(text);
        assert_eq!(version(b"20.20.2\0garbage").as_deref(), Some("20.20.2"));
        assert_eq!(version(b"1.95.0 (f2d3ce0bd)").as_deref(), Some("1.95.0"));
        assert_eq!(version(b"17.0.9").as_deref(), Some("17.0.9"));
        assert_eq!(version(b"21").as_deref(), Some("21"));
        assert_eq!(version(b"%s"), None);
        assert_eq!(version(b""), None);
    }

    /// Deno's own version, and what only looks like it.
    #[test]
    fn deno_versions() {
        assert_eq!(deno_version(b"2.9.6Deno/2.9.6+e518fbd").as_deref(), Some("2.9.6"));
        assert_eq!(deno_version(b"2.9.6+e518fbd").as_deref(), Some("2.9.6"));
        assert_eq!(deno_version(b"0.80.0grpc-timeout"), None);
        assert_eq!(deno_version(b""), None);
    }

    /// The test program itself is written in Rust, and tells the version of its compiler.
    #[test]
    fn the_running_test_is_rust() {
        let runtime = detect(&Process::open(std::process::id()).unwrap()).unwrap();
        assert_eq!(runtime.name, "rust");
        assert!(runtime.version.unwrap().starts_with("1."));
    }

    proptest! {
        /// Hostile constants never panic.
        #[test]
        fn hostile_texts_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            version_text(&bytes);
        }
    }
}
