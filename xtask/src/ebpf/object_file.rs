//! What is done to a linked kernel object: strip it, search it for paths, load it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use object::build::elf::{Builder, SectionData};

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
