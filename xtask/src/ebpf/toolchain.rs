//! The two toolchains that can build the kernel half, and which of them is here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, find_in_path, output_of, run, workspace};

/// What the kernel half is compiled for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 7] = [
    "build-essential",
    "libclang-22-dev",
    "libpolly-22-dev",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "rustc-web",
    "zlib1g-dev",
];

/// A compiler and a linker for BPF.
pub(crate) struct Toolchain {
    kind: Kind,
    linker: PathBuf,
    /// What decides the bytes of the object: the lines of `toolchain.txt`.
    pub(crate) versions: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Debian's rustc with its precompiled `core`.
    Debian,
    /// rustup's nightly, which compiles `core` from `rust-src`.
    Nightly,
}

impl Toolchain {
    /// The toolchain that made the recorded object if it is here, else whichever is.
    pub(crate) fn find(recorded: Option<&str>) -> Result<Self> {
        let Some(linker) = find_linker() else {
            bail!("bpf-linker is not installed.\n{}", how_to_install());
        };
        let mut found = Vec::new();
        for kind in [Kind::Debian, Kind::Nightly] {
            if kind.is_here() {
                let versions = kind.versions(&linker)?;
                found.push(Self { kind, linker: linker.clone(), versions });
            }
        }
        let matching = found.iter().position(|toolchain| Some(toolchain.versions.as_str()) == recorded);
        if found.is_empty() {
            bail!("no Rust toolchain for BPF is installed.\n{}", how_to_install());
        }
        Ok(found.swap_remove(matching.unwrap_or(0)))
    }

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Debian => "Debian's rustc and precompiled BPF core",
            Kind::Nightly => "rustup's nightly and rust-src",
        }
    }

    /// `cargo build` with this compiler and linker. The caller adds what to build.
    pub(crate) fn cargo_build(&self, rustflags: &[OsString]) -> Result<Command> {
        let mut command = match self.kind {
            Kind::Debian => {
                let mut command = cargo();
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("build");
                command
            }
            Kind::Nightly => {
                let mut command = nightly("cargo");
                command.args(["build", "-Z", "build-std=core"]).current_dir(workspace());
                command
            }
        };
        // `bpf-linker` is found by name; what else is in PATH does not matter.
        let folder = self.linker.parent().context("bpf-linker has no folder")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&path));
        let encoded = rustflags.join(std::ffi::OsStr::new("\u{1f}"));
        command
            .env("PATH", std::env::join_paths(folders)?)
            .env("CARGO_ENCODED_RUSTFLAGS", encoded)
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        Ok(command)
    }

    /// Where this toolchain's own sources lie, if they may appear in an object.
    pub(crate) fn source_folder(&self) -> Result<Option<PathBuf>> {
        match self.kind {
            // Its `core` was compiled elsewhere, and says so with the same path everywhere.
            Kind::Debian => Ok(None),
            Kind::Nightly => Ok(Some(nightly_source()?)),
        }
    }
}

impl Kind {
    fn is_here(self) -> bool {
        match self {
            Self::Debian => {
                let mut rustc = Command::new(DEBIAN_RUSTC);
                output_of(rustc.args(["--target", TARGET, "--print", "target-libdir"]))
                    .is_ok_and(|folder| has_core(Path::new(folder.trim())))
            }
            Self::Nightly => nightly_source().is_ok_and(|folder| folder.join("library/core").is_dir()),
        }
    }

    fn versions(self, linker: &Path) -> Result<String> {
        let rustc = match self {
            Self::Debian => output_of(Command::new(DEBIAN_RUSTC).arg("-vV"))?,
            Self::Nightly => output_of(nightly("rustc").arg("-vV"))?,
        };
        let name = rustc.lines().next().context("rustc says no version")?;
        let llvm =
            rustc.lines().find(|line| line.starts_with("LLVM version")).context("rustc names no LLVM")?;
        let linker_name = output_of(Command::new(linker).arg("--version"))?;
        // bpf-linker has no option for this; LLVM answers it for every program that passes options on.
        let linker_llvm = output_of(Command::new(linker).args(["--llvm-args=--version", "-o", "-", "-"]))?;
        let linker_llvm = linker_llvm
            .lines()
            .find_map(|line| line.split_once("LLVM version ").map(|(_, version)| version.trim().to_owned()))
            .context("bpf-linker names no LLVM")?;
        let mut versions = format!("{name}\n{llvm}\n{} (LLVM {linker_llvm})\n", linker_name.trim());
        // The linker copies source lines of `core` into the object's BTF if Debian's package of sources is here.
        let release = rustc.lines().find_map(|line| line.strip_prefix("release: ")).unwrap_or_default();
        if self == Self::Debian && Path::new("/usr/src").join(format!("rustc-{release}")).exists() {
            versions.push_str("rust-web-src\n");
        }
        Ok(versions)
    }
}

/// `cargo xtask setup-ebpf`: Debian's toolchain and bpf-linker, if they are not here.
pub(crate) fn setup() -> Result<()> {
    if !Kind::Debian.is_here() && !Kind::Nightly.is_here() {
        crate::packages::install(&DEBIAN_PACKAGES)?;
    }
    if find_linker().is_none() {
        if !Path::new(LLVM_PREFIX).join("bin/llvm-config").exists() {
            crate::packages::install(&DEBIAN_PACKAGES)?;
        }
        run(cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"])
            .args(["--no-default-features", "--features", "llvm-22"])
            // Its build script reads the first, the bindings it uses the second.
            .env("LLVM_PREFIX", LLVM_PREFIX)
            .env("LLVM_SYS_221_PREFIX", LLVM_PREFIX)
            // Flags of this workspace do not concern a tool.
            .current_dir("/"))?;
    }
    let toolchain = Toolchain::find(None)?;
    println!("The kernel object can be built with {}:\n{}", toolchain.name(), toolchain.versions.trim_end());
    Ok(())
}

fn how_to_install() -> String {
    format!(
        "Install one of:\n  on Debian 12 or later, as root: cargo xtask setup-ebpf\n  elsewhere: rustup toolchain \
         install nightly --component rust-src && cargo install bpf-linker --version {LINKER_VERSION}"
    )
}

fn find_linker() -> Option<PathBuf> {
    find_in_path("bpf-linker")
        .or_else(|| Some(super::cargo_home()?.join("bin/bpf-linker")).filter(|file| file.is_file()))
}

fn has_core(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// A program of rustup's nightly, free of what the cargo that runs this task has set.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTC_BOOTSTRAP"] {
        command.env_remove(variable);
    }
    command
}

fn nightly_source() -> Result<PathBuf> {
    let sysroot = output_of(nightly("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust"))
}
