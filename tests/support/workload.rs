//! Programs with known answers, compiled from tests/workloads.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::process::Process;
use crate::tools::{go, require};

/// A compiled program in a folder of its own.
#[derive(Debug)]
pub struct Workload {
    folder: Arc<TempDir>,
    program: PathBuf,
}

impl Workload {
    /// Compiles `tests/workloads/NAME.c` to a program of that name.
    pub fn compile(name: &str) -> Result<Self> {
        Self::compile_with(name, &["-pthread", "-ldl"])
    }

    /// The same as most programs are compiled: optimized, and without frame pointers.
    pub fn compile_optimized(name: &str) -> Result<Self> {
        Self::compile_with(name, &["-O2", "-fomit-frame-pointer"])
    }

    /// The same, with further options for the compiler.
    pub fn compile_optimized_with(name: &str, options: &[&str]) -> Result<Self> {
        Self::compile_with(name, &[&["-O2", "-fomit-frame-pointer"], options].concat())
    }

    /// The same with musl, whose library comes without unwind information.
    pub fn compile_with_musl(name: &str, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join(name);
        let options = [&["-O2", "-fomit-frame-pointer", "-pthread"], options].concat();
        compile_by(&require("musl-gcc", "musl-tools")?, &source(name, "c"), &program, &options)?;
        Ok(Self { folder: Arc::new(folder), program })
    }

    /// C++, optimized and without frame pointers.
    pub fn compile_cpp_optimized(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join(name);
        compile(&source(name, "cpp"), &program, &["-O2", "-fomit-frame-pointer"])?;
        Ok(Self { folder: Arc::new(folder), program })
    }

    /// With frame pointers, and without a word about how to unwind.
    pub fn compile_without_unwind_data(name: &str) -> Result<Self> {
        // Optimized, functions that call nobody have no frame.
        let workload = Self::compile_with(name, &["-O0"])?;
        let mut command = Command::new(require("objcopy", "binutils")?);
        command.args(["--remove-section=.eh_frame", "--remove-section=.eh_frame_hdr"]);
        succeed(command.arg("--remove-section=.debug_frame").arg(&workload.program))?;
        Ok(workload)
    }

    /// Compiles `tests/workloads/NAME.rs` as a release is.
    pub fn compile_rust(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join(name);
        let mut command = Command::new(require("rustc", "rustc")?);
        command.args(["--edition", "2024", "-O", "-o"]).arg(&program).arg(source(name, "rs"));
        succeed(&mut command)?;
        Ok(Self { folder: Arc::new(folder), program })
    }

    fn compile_with(name: &str, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join(name);
        compile(&source(name, "c"), &program, options)?;
        Ok(Self { folder: Arc::new(folder), program })
    }

    /// Compiles `tests/workloads/NAME.cpp`.
    pub fn compile_cpp(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join(name);
        compile(&source(name, "cpp"), &program, &[])?;
        Ok(Self { folder: Arc::new(folder), program })
    }

    /// Compiles `tests/workloads/NAME.go`.
    pub fn compile_go(name: &str) -> Result<Self> {
        Self::compile_go_with(name, &[])
    }

    /// The same, with further options of `go build`.
    pub fn compile_go_with(name: &str, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join(name);
        let mut command = go(&folder.path().join("cache"))?;
        succeed(command.arg("build").args(options).arg("-o").arg(&program).arg(source(name, "go")))?;
        Ok(Self { folder: Arc::new(folder), program })
    }

    /// Compiles `tests/workloads/NAME.java`. It is run by [`Self::java`].
    pub fn compile_java(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let compiler = require("javac", "openjdk-17-jdk-headless")?;
        succeed(Command::new(compiler).arg("-d").arg(folder.path()).arg(source(name, "java")))?;
        // Another user may run it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let program = folder.path().join(format!("{name}.class"));
        Ok(Self { folder: Arc::new(folder), program })
    }

    /// The words of a command that runs a class from [`Self::compile_java`] in which no method is inlined.
    pub fn java(&self, options: &[&str]) -> Result<Vec<String>> {
        let machine = require("java", "openjdk-17-jdk-headless")?.display().to_string();
        let class = self.program.file_stem().context("a class has a name")?.to_string_lossy().into_owned();
        let own = ["-XX:CompileCommand=quiet", &format!("-XX:CompileCommand=dontinline,{class}::*")]
            .map(str::to_owned);
        let options = options.iter().map(|option| (*option).to_owned());
        let path = ["-cp".to_owned(), self.folder.path().display().to_string(), class];
        Ok(std::iter::once(machine).chain(own).chain(options).chain(path).collect())
    }

    /// Adds a program from another source to the folder.
    pub fn add_program(&self, name: &str) -> Result<()> {
        compile(&source(name, "c"), &self.path(name), &[])
    }

    /// Adds an optimized shared library without frame pointers.
    pub fn add_optimized_library(&self, source_name: &str, library: &str, definition: &str) -> Result<()> {
        let options = ["-shared", "-fPIC", "-O2", "-fomit-frame-pointer", &format!("-D{definition}")];
        compile(&source(source_name, "c"), &self.path(library), &options)
    }

    /// Adds a shared library; `definitions` are `NAME=VALUE` for the preprocessor.
    pub fn add_library(&self, source_name: &str, library: &str, definitions: &[&str]) -> Result<()> {
        compile(
            &source(source_name, "c"),
            &self.path(library),
            &[&["-shared", "-fPIC"], definitions].concat(),
        )
    }

    /// The program's file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that runs it in its folder, with a pipe for standard output.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Starts it. Its folder stays until it ends.
    pub fn start(&self) -> Result<Process> {
        Ok(Process::start(&mut self.command())?.keeping(&self.folder))
    }
}

/// A program of `tests/workloads` that is run as it is.
pub fn script(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(file)
}

fn source(name: &str, language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(format!("{name}.{language}"))
}

/// Compiles C, or C++ by the name of the source.
fn compile(source: &Path, output: &Path, options: &[&str]) -> Result<()> {
    let compiler = match source.extension() {
        Some(extension) if extension == "cpp" => require("c++", "g++")?,
        _ => require("cc", "gcc")?,
    };
    compile_by(&compiler, source, output, options)
}

fn compile_by(compiler: &Path, source: &Path, output: &Path, options: &[&str]) -> Result<()> {
    succeed(
        Command::new(compiler)
            .args([
                "-O1",
                "-g",
                "-fno-omit-frame-pointer",
                "-fno-optimize-sibling-calls",
                "-D_GNU_SOURCE",
                "-Wall",
                "-Werror",
                "-o",
            ])
            .arg(output)
            .arg(source)
            .args(options),
    )
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
