//! `cargo xtask ebpf`: builds the kernel half and keeps the committed object true to its source.

mod object_file;
mod toolchain;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use mcp_profiler::capture::{Error, try_load};

use crate::command::{run, workspace};
use toolchain::{TARGET, Toolchain};

pub(crate) use toolchain::setup;

/// Options of `cargo xtask ebpf`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail when the committed object is not what the source gives.
    #[arg(long, conflicts_with = "debug")]
    check: bool,
    /// Build with log statements to target/ebpf only.
    #[arg(long)]
    debug: bool,
}

/// Builds the kernel object and writes, compares or keeps it aside.
pub(crate) fn ebpf(options: &Options) -> Result<()> {
    let object = workspace().join("profiler/ebpf/mcp-profiler.bpf.o");
    let record = object.with_file_name("toolchain.txt");
    let recorded = std::fs::read_to_string(&record).ok();
    let toolchain = Toolchain::find(recorded.as_deref())?;
    eprintln!("Building with {}:\n{}", toolchain.name(), toolchain.versions.trim_end());

    if options.debug {
        let linked = build(&toolchain, &["--features", "log"], &[])?;
        println!("{}", linked.display());
        return Ok(());
    }

    let linked = build(&toolchain, &[], &remapped_paths(&toolchain)?)?;
    let bytes = std::fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let bytes = object_file::strip(&bytes)?;
    object_file::check_paths(&bytes, &private_folders())?;

    if !options.check {
        match try_load(&bytes) {
            Ok(programs) => eprintln!("This kernel accepts all {programs} programs."),
            Err(Error::NotPermitted { .. }) => eprintln!("Not tried on this kernel: that needs root."),
            Err(error) => return Err(error.into()),
        }
        std::fs::create_dir_all(object.parent().expect("the object lies in a folder"))?;
        std::fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
        std::fs::write(&record, &toolchain.versions)?;
        println!("{}: {} bytes", object.display(), bytes.len());
        return Ok(());
    }

    let committed = std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    if recorded.as_deref() == Some(toolchain.versions.as_str()) {
        if committed != bytes {
            bail!(
                "the committed kernel object is not what profiler-ebpf gives ({} bytes committed, {} built): run \
                 `cargo xtask ebpf` and commit profiler/ebpf",
                committed.len(),
                bytes.len()
            );
        }
        println!("The committed kernel object is what the source gives.");
        return Ok(());
    }
    let programs = try_load(&bytes)?;
    println!(
        "This kernel accepts all {programs} programs of the rebuilt object. Its bytes can't be compared with the \
         committed ones, which were built with\n{}",
        recorded.as_deref().unwrap_or("an unknown toolchain").trim_end()
    );
    Ok(())
}

/// Builds the linked object, DWARF included, and returns where it is.
fn build(toolchain: &Toolchain, arguments: &[&str], remapped: &[(PathBuf, &str)]) -> Result<PathBuf> {
    // BTF has the functions that `bpf_loop` calls; it is made from debug information, of which a release profile for
    // the host has too little.
    let mut flags: Vec<OsString> = vec!["-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()];
    for (folder, name) in remapped {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(folder);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    // A folder of its own: the normal build keeps what it has.
    let folder = workspace().join("target/ebpf");
    run(toolchain
        .cargo_build(&flags)?
        .args(["--release", "--quiet", "--package", "profiler-ebpf", "--bin", "mcp-profiler"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&folder)
        .args(arguments))?;
    Ok(folder.join(TARGET).join("release/mcp-profiler"))
}

/// Folders whose names must not decide the bytes, and what the object says instead.
/// None of the names exists: the linker copies the source lines of files that it finds.
fn remapped_paths(toolchain: &Toolchain) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut folders = vec![(workspace().to_path_buf(), "/mcp-profiler-source")];
    if let Some(home) = cargo_home() {
        let sources = home.join("registry/src");
        // One folder a registry; its name has a hash of the registry's address.
        for registry in std::fs::read_dir(&sources).into_iter().flatten().flatten() {
            folders.push((registry.path(), "/crates-source"));
        }
    }
    if let Some(folder) = toolchain.source_folder()? {
        folders.push((folder, "/rust-source"));
    }
    let resolved: Vec<_> = folders
        .iter()
        .filter_map(|(folder, name)| Some((folder.canonicalize().ok()?, *name)))
        .filter(|entry| !folders.contains(entry))
        .collect();
    folders.extend(resolved);
    Ok(folders)
}

fn private_folders() -> Vec<PathBuf> {
    let home = std::env::home_dir();
    [Some(workspace().to_path_buf()), cargo_home(), home].into_iter().flatten().collect()
}

/// Where cargo keeps what it downloads.
fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(Path::new(".cargo"))))
}
