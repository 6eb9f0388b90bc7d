//! What is done to a linked kernel object: strip it, search it for paths, load it.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::programs::Program;
use aya::{Btf, EbpfLoader};
use object::build::elf::{Builder, SectionData};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Removes DWARF. The types and functions that the kernel checks are in `.BTF` and `.BTF.ext`.
pub(crate) fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes).context("cannot read the linked object")?;
    let dwarf: Vec<_> = builder
        .sections
        .iter()
        .filter(|section| {
            let name = section.name.as_slice();
            name.starts_with(b".debug_") || name.starts_with(b".rel.debug_")
        })
        .map(object::build::elf::Section::id)
        .collect();
    for id in dwarf {
        builder.sections.get_mut(id).delete = true;
    }
    builder.delete_orphan_symbols();
    // LLVM names sections and symbols from one table; this writer wants two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("cannot write the stripped object")?;
    Ok(stripped)
}

/// Fails if one of these folders is named in the object: it would tell about the machine, and differ on others.
pub(crate) fn check_paths(bytes: &[u8], folders: &[PathBuf]) -> Result<()> {
    for folder in folders {
        if names(bytes, folder.as_os_str().as_encoded_bytes()) {
            bail!(
                "the object names {}, a folder of this machine: remap it in xtask/src/ebpf.rs",
                folder.display()
            );
        }
    }
    Ok(())
}

/// Whether a path that starts with this folder is among the bytes: `/src` is in `/src/main.rs` but not in `/usr/src`.
fn names(bytes: &[u8], folder: &[u8]) -> bool {
    folder.len() > 1
        && bytes.windows(folder.len()).enumerate().any(|(start, window)| {
            let before = start.checked_sub(1).map_or(0, |index| bytes[index]);
            let after = bytes.get(start + folder.len()).copied().unwrap_or(0);
            window == folder && !before.is_ascii_graphic() && matches!(after, 0 | b'/')
        })
}

/// Has the running kernel verify every program, attaches none, and returns how many there are.
pub(crate) fn load(bytes: &[u8]) -> Result<usize> {
    let tracepoints = btf_tracepoints(bytes)?;
    let kernel = Btf::from_sys_fs().context("this kernel has no BTF (/sys/kernel/btf/vmlinux)")?;
    let mut ebpf =
        EbpfLoader::new().btf(Some(&kernel)).load(bytes).context("cannot load the maps: this needs root")?;
    let mut programs = 0;
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::PerfEvent(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            Program::UProbe(program) => program.load(),
            Program::KProbe(program) => program.load(),
            Program::BtfTracePoint(program) => {
                let tracepoint =
                    tracepoints.get(name).with_context(|| format!("{name} names no tracepoint"))?;
                program.load(tracepoint, &kernel)
            }
            other => {
                bail!("{name} is a {:?}: teach xtask/src/ebpf/object_file.rs to load it", other.prog_type())
            }
        };
        loaded.with_context(|| format!("the kernel refuses the program {name}"))?;
        programs += 1;
    }
    Ok(programs)
}

/// Program -> the tracepoint that its section names: `tp_btf/TRACEPOINT`.
fn btf_tracepoints(bytes: &[u8]) -> Result<HashMap<String, String>> {
    let file = object::File::parse(bytes).context("cannot read the object")?;
    let mut tracepoints = HashMap::new();
    for symbol in file.symbols().filter(object::ObjectSymbol::is_global) {
        let Some(index) = symbol.section_index() else { continue };
        if let Some(tracepoint) = file.section_by_index(index)?.name()?.strip_prefix("tp_btf/") {
            tracepoints.insert(symbol.name()?.to_owned(), tracepoint.to_owned());
        }
    }
    Ok(tracepoints)
}

#[cfg(test)]
mod tests {
    use super::names;

    /// A folder is found at the start of a path only, and only as a whole name.
    #[test]
    fn folders_are_found_in_paths() {
        for text in ["/src/main.rs", "x\0/src/main.rs\0", "\0/src\0", "/src"] {
            assert!(names(text.as_bytes(), b"/src"), "{text:?}");
        }
        for text in ["/usr/src/rustc", "crate-0.1/src/lib.rs", "\0/srcs/a", "", "/sr"] {
            assert!(!names(text.as_bytes(), b"/src"), "{text:?}");
        }
        assert!(!names(b"/usr/src", b"/"));
    }
}
