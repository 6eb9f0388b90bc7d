//! Which package a function belongs to, and how its source is shown: pure functions of names and paths.

use crate::recording::{FrameKind, Recording};

use super::functions::basename;

/// What is known of the place of a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// What sort of code it is.
    pub(crate) kind: FrameKind,
    /// Its name; empty for an address without one.
    pub(crate) name: &'a str,
    /// File that the code comes from, or `[kernel]`, `[vdso]`, `[jit]`, `[unknown]`.
    pub(crate) module: &'a str,
    /// Source file.
    pub(crate) file: Option<&'a str>,
    /// Whether the module holds Rust code, so that names start with a crate's.
    pub(crate) is_rust: bool,
}

/// Folders of the servers' own sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Projects(Vec<String>);

impl Projects {
    pub(crate) fn new(recording: &Recording) -> Self {
        let mut folders: Vec<String> =
            recording.processes.iter().filter_map(|process| process.project.clone()).collect();
        folders.retain(|folder| folder.starts_with('/') && folder.len() > 1);
        // A project within another one is told apart from it.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
        folders.dedup();
        Self(folders)
    }

    /// The path within the project that it lies in.
    fn relative<'a>(&self, path: &'a str) -> Option<&'a str> {
        let within = |folder: &String| path.strip_prefix(folder.as_str())?.strip_prefix('/');
        self.0.iter().find_map(within).filter(|rest| !rest.is_empty())
    }

    /// A path as people read it: from the package's name on where it is installed, within the project, or its last two parts.
    pub(crate) fn short<'a>(&self, path: &'a str) -> &'a str {
        let path = path.strip_prefix("file://").unwrap_or(path);
        installed(path).or_else(|| self.relative(path)).unwrap_or_else(|| last_two_parts(path))
    }

    /// The package of a function: an installed one (`node_modules/@scope/x`, `site-packages/y`), a part of a standard library
    /// (`python3.11 stdlib`, `node:internal`), a crate, a Go module, a file of the project, or the file of the machine code.
    pub(crate) fn package(&self, origin: Origin<'_>) -> String {
        let Origin { kind, name, module, file, is_rust } = origin;
        let of_source = |path: &str| {
            let path = path.strip_prefix("file://").unwrap_or(path);
            installed_package(path)
                .or_else(|| standard_library(path))
                .or_else(|| rust_source(path))
                .or_else(|| go_source(path))
        };
        match kind {
            FrameKind::Kernel => "[kernel]".to_owned(),
            FrameKind::Python | FrameKind::PythonWaiting | FrameKind::JavaScript => {
                let path = file.unwrap_or(module);
                of_source(path).unwrap_or_else(|| self.own(path))
            }
            FrameKind::Jit => match file {
                Some(path) => of_source(path).unwrap_or_else(|| self.own(path)),
                None => compiled_package(name).unwrap_or(module).to_owned(),
            },
            FrameKind::Native => file
                .and_then(of_source)
                .or_else(|| of_source(module))
                .or_else(|| if is_rust { rust_crate(name).map(str::to_owned) } else { None })
                .unwrap_or_else(|| basename(module).to_owned()),
        }
    }

    /// A source file of no package: its path in the project, or where it is.
    fn own(&self, path: &str) -> String {
        let path = path.strip_prefix("file://").unwrap_or(path);
        self.relative(path).unwrap_or(path).to_owned()
    }
}

/// Folders into which package managers install.
const INSTALLED: [&str; 3] = ["/node_modules/", "/site-packages/", "/dist-packages/"];

/// The path from the innermost folder of installed packages on.
fn installed(path: &str) -> Option<&str> {
    INSTALLED.iter().filter_map(|folder| path.rfind(folder)).max().map(|slash| &path[slash + 1..])
}

fn installed_package(path: &str) -> Option<String> {
    let mut parts = installed(path)?.split('/');
    let (folder, name) = (parts.next()?, parts.next().filter(|name| !name.is_empty())?);
    if let (Some(inner), true) = (parts.next(), name.starts_with('@')) {
        return Some(format!("{folder}/{name}/{inner}"));
    }
    // A module that is one file: `six.py`, `_cffi_backend.cpython-311-x86_64-linux-gnu.so`.
    let is_file = folder != "node_modules" && (name.ends_with(".py") || name.ends_with(".so"));
    let name = if is_file { name.split('.').next().unwrap_or(name) } else { name };
    Some(format!("{folder}/{name}"))
}

fn standard_library(path: &str) -> Option<String> {
    // `node:internal/timers`, `ext:core/01_core.js` of Deno, `bun:sqlite`.
    if ["node:", "ext:", "bun:"].iter().any(|scheme| path.starts_with(scheme)) {
        return Some(path.split('/').next().unwrap_or(path).to_owned());
    }
    if path.starts_with("<frozen ") {
        return Some("python stdlib".to_owned());
    }
    // `/usr/lib/python3.11/json/decoder.py`, and `/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so`.
    let mut parts = path.split('/').skip_while(|part| !matches!(*part, "lib" | "lib64" | "local"));
    let version = parts.find(|part| {
        let number = part.strip_prefix("python").and_then(|rest| rest.split_once('.'));
        number.is_some_and(|(major, minor)| is_number(major) && is_number(minor.trim_end_matches('t')))
    })?;
    parts.next().map(|_| format!("{version} stdlib"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `tokio-1.40.0` of `.../registry/src/index.crates.io-6f17d22bba15001f/tokio-1.40.0/src/runtime/mod.rs`; the standard library's crates.
fn rust_source(path: &str) -> Option<String> {
    let part_after = |mark: &str, skipped: usize| {
        let (_, rest) = path.split_once(mark)?;
        rest.split('/').nth(skipped).filter(|part| !part.is_empty())
    };
    if let Some(name) = part_after("/registry/src/", 1) {
        return Some(name.to_owned());
    }
    if let Some(name) = part_after("/git/checkouts/", 0) {
        // The folder's name ends in a hash.
        return Some(name.rsplit_once('-').map_or(name, |(name, _)| name).to_owned());
    }
    if let Some(name) = part_after("/rust/deps/", 0) {
        return Some(name.to_owned());
    }
    let (_, rest) = path.split_once("/library/")?;
    let is_standard = path.starts_with("/rustc/") || path.contains("/lib/rustlib/src/rust/");
    let name = rest.split('/').next().filter(|_| is_standard)?;
    Some(format!("rust {name}"))
}

/// `github.com/x/y@v1.2.3` of a module's file, `go net/http` of one of the standard library.
fn go_source(path: &str) -> Option<String> {
    if !path.ends_with(".go") && !path.ends_with(".s") {
        return None;
    }
    let module = path.split_once("/pkg/mod/").map_or(path, |(_, rest)| rest);
    if let Some(at) = module.find("@v") {
        let end = module[at..].find('/').map_or(module.len(), |slash| at + slash);
        return Some(module[..end].to_owned());
    }
    // `/usr/lib/go-1.19/src/net/http/server.go`; without a root when it was built with `-trimpath`.
    let (root, rest) = path.split_once("/src/").unwrap_or(("", path));
    let is_go = root.is_empty() || basename(root).starts_with("go");
    let (package, _) = rest.rsplit_once('/').filter(|_| is_go && !rest.starts_with('/'))?;
    let is_standard = !package.split('/').next().is_some_and(|first| first.contains('.'));
    Some(if is_standard { format!("go {package}") } else { package.to_owned() })
}

/// The crate that a Rust symbol's name starts with: `tokio` of `<tokio::sync::Mutex<T> as core::fmt::Debug>::fmt`.
fn rust_crate(name: &str) -> Option<&str> {
    let start = name.trim_start_matches(['<', '&', '*', '(', '[']);
    let start = start.strip_prefix("dyn ").or_else(|| start.strip_prefix("mut ")).unwrap_or(start);
    let (name, _) = start.split_once("::")?;
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

/// Whether only a Rust program has such a function.
pub(crate) fn is_rust_name(name: &str) -> bool {
    ["core::ops::function::", "std::rt::", "core::fmt::", "alloc::vec::", "std::sys::"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// `System.Linq` of .NET's `[System.Linq] System.Linq.Enumerable::Sum(...)`, `java.util` of Java's `java.util.HashMap.get(int)`.
fn compiled_package(name: &str) -> Option<&str> {
    if let Some((assembly, _)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        return Some(assembly);
    }
    let (method, _) = name.split_once('(')?;
    let (class, _) = method.rsplit_once('.')?;
    // A class without a package is one of its own.
    Some(class.rsplit_once('.').map_or(class, |(package, _)| package)).filter(|text| !text.contains(' '))
}

/// The last folder and the name of a file.
fn last_two_parts(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(slash, _)| &path[slash + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn projects() -> Projects {
        Projects(vec!["/app".to_owned()])
    }

    fn package(kind: FrameKind, name: &str, module: &str, file: Option<&str>) -> String {
        projects().package(Origin { kind, name, module, file, is_rust: false })
    }

    /// Sources of Node's modules, installed and own, by any way that a path is told.
    #[test]
    fn javascript() {
        let of = |file: &str| package(FrameKind::JavaScript, "f", file, Some(file));
        assert_eq!(of("/app/node_modules/express/lib/router.js"), "node_modules/express");
        assert_eq!(of("file:///app/node_modules/@scope/x/dist/a.js"), "node_modules/@scope/x");
        assert_eq!(of("/app/node_modules/.pnpm/a@1.0.0/node_modules/a/i.js"), "node_modules/a");
        assert_eq!(of("/app/node_modules/a/node_modules/b/i.js"), "node_modules/b");
        assert_eq!(of("node:internal/timers"), "node:internal");
        assert_eq!(of("node:fs"), "node:fs");
        assert_eq!(of("ext:core/01_core.js"), "ext:core");
        assert_eq!(of("file:///app/src/tools/search.js"), "src/tools/search.js");
        assert_eq!(of("/elsewhere/a.js"), "/elsewhere/a.js");
        let named = |file: &str| package(FrameKind::Jit, "f", "[jit]", Some(file));
        assert_eq!(named("/app/node_modules/zod/index.cjs"), "node_modules/zod");
        assert_eq!(package(FrameKind::Jit, "Builtin:ArrayMap", "[jit]", None), "[jit]");
    }

    /// Python's modules, installed and of the standard library, also the native ones.
    #[test]
    fn python() {
        let of = |file: &str| package(FrameKind::Python, "f", file, Some(file));
        assert_eq!(of("/venv/lib/python3.11/site-packages/mcp/server/stdio.py"), "site-packages/mcp");
        assert_eq!(of("/venv/lib/python3.11/site-packages/six.py"), "site-packages/six");
        assert_eq!(of("/usr/lib/python3/dist-packages/yaml/loader.py"), "dist-packages/yaml");
        assert_eq!(of("/usr/lib/python3.11/json/decoder.py"), "python3.11 stdlib");
        assert_eq!(of("/usr/local/lib/python3.13t/asyncio/events.py"), "python3.13t stdlib");
        assert_eq!(of("<frozen importlib._bootstrap>"), "python stdlib");
        assert_eq!(of("/app/server.py"), "server.py");
        assert_eq!(of("<string>"), "<string>");
        let native = |module: &str| package(FrameKind::Native, "f", module, None);
        assert_eq!(native("/venv/lib/python3.11/site-packages/numpy/core/_umath.so"), "site-packages/numpy");
        let cffi = "/venv/lib/python3.11/site-packages/_cffi_backend.cpython-311-x86_64-linux-gnu.so";
        assert_eq!(native(cffi), "site-packages/_cffi_backend");
        assert_eq!(native("/usr/lib/python3.11/lib-dynload/_json.cpython-311.so"), "python3.11 stdlib");
        assert_eq!(native("/usr/bin/python3.11"), "python3.11");
    }

    /// Crates, Go's modules, libraries, and code that runtimes compile.
    #[test]
    fn compiled() {
        let of = |file: &str| package(FrameKind::Native, "f", "/usr/bin/server", Some(file));
        let registry = "/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f";
        assert_eq!(of(&format!("{registry}/tokio-1.40.0/src/runtime/mod.rs")), "tokio-1.40.0");
        assert_eq!(of("/root/.cargo/git/checkouts/rmcp-8c1f/ab12/src/a.rs"), "rmcp");
        assert_eq!(of("/rustc/59807616e1fa/library/core/src/ops/function.rs"), "rust core");
        assert_eq!(of("/rust/deps/hashbrown-0.15.2/src/map.rs"), "hashbrown-0.15.2");
        assert_eq!(of("/root/go/pkg/mod/github.com/x/y@v1.2.3/z/a.go"), "github.com/x/y@v1.2.3");
        assert_eq!(of("github.com/x/y@v1.2.3/z/a.go"), "github.com/x/y@v1.2.3");
        assert_eq!(of("/usr/lib/go-1.19/src/net/http/server.go"), "go net/http");
        assert_eq!(of("runtime/proc.go"), "go runtime");
        assert_eq!(of("example.com/tool/main.go"), "example.com/tool");
        assert_eq!(of("/build/glibc-2.36/malloc/malloc.c"), "server");
        let jit = |name: &str| package(FrameKind::Jit, name, "[jit]", None);
        assert_eq!(jit("java.util.HashMap.put(java.lang.Object, java.lang.Object)"), "java.util");
        assert_eq!(jit("Server.main(java.lang.String[])"), "Server");
        assert_eq!(jit("[System.Linq] System.Linq.Enumerable::Sum(class X)"), "System.Linq");
        assert_eq!(jit("Interpreter"), "[jit]");
        assert_eq!(package(FrameKind::Kernel, "schedule", "[kernel]", None), "[kernel]");
    }

    /// Rust's symbols start with their crate, whatever stands around it.
    #[test]
    fn crates_of_symbols() {
        assert_eq!(rust_crate("tokio::runtime::park"), Some("tokio"));
        assert_eq!(
            rust_crate("<serde_json::de::Deserializer<R> as core::fmt::Debug>::fmt"),
            Some("serde_json")
        );
        assert_eq!(rust_crate("<&mut regex::Regex as core::clone::Clone>::clone"), Some("regex"));
        assert_eq!(rust_crate("main"), None);
        assert_eq!(rust_crate("<T as Into<U>>::into"), None);
    }

    /// Paths are shown from the package's name or the project on.
    #[test]
    fn short_paths() {
        let short = |path| projects().short(path).to_owned();
        assert_eq!(short("/app/src/tools/search.js"), "src/tools/search.js");
        assert_eq!(short("file:///app/node_modules/@scope/x/a.js"), "node_modules/@scope/x/a.js");
        assert_eq!(short("/v/lib/python3.11/site-packages/mcp/a.py"), "site-packages/mcp/a.py");
        assert_eq!(short("/usr/lib/python3.11/json/decoder.py"), "json/decoder.py");
        assert_eq!(short("/apple/a.js"), "apple/a.js");
        assert_eq!(short("[kernel]"), "[kernel]");
    }

    proptest! {
        /// Every function of any name and path has a package, and every path a short form that it ends with.
        #[test]
        fn any_text(name in ".*", module in ".*", file in proptest::option::of(".*"), kind in 1..=5_u8) {
            let kind = FrameKind::from_number(kind).unwrap();
            let origin = Origin { kind, name: &name, module: &module, file: file.as_deref(), is_rust: true };
            projects().package(origin);
            prop_assert!(module.ends_with(projects().short(&module)));
        }
    }
}
