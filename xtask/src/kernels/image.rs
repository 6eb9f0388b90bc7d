//! The guest's file system: an archive that the kernel unpacks into memory, so that no driver is needed.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux (cpio, "newc").

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::output_of;

/// File type bits of a mode, as in `stat.h`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Files by their paths, without the leading slash. Folders come before what is in them.
#[derive(Default)]
pub(super) struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

struct Entry {
    mode: u32,
    contents: Vec<u8>,
}

impl Image {
    pub(super) fn add_folder(&mut self, path: &Path) {
        let path = path.strip_prefix("/").unwrap_or(path);
        for folder in path.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
            let entry = || Entry { mode: FOLDER | 0o755, contents: Vec::new() };
            self.entries.entry(folder.to_path_buf()).or_insert_with(entry);
        }
    }

    /// A file that anyone may run.
    pub(super) fn add(&mut self, path: &Path, contents: Vec<u8>) {
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(folder) = path.parent() {
            self.add_folder(folder);
        }
        self.entries.insert(path.to_path_buf(), Entry { mode: FILE | 0o755, contents });
    }

    /// A file of this machine.
    pub(super) fn copy(&mut self, file: &Path, to: &Path) -> Result<()> {
        self.add(to, fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
        Ok(())
    }

    /// A program of this machine, with its shared libraries at the paths that they have here.
    pub(super) fn copy_program(&mut self, program: &Path, to: &Path) -> Result<()> {
        self.copy(program, to)?;
        // It fails for a static program, which has none.
        let libraries = output_of(Command::new("ldd").arg(program)).unwrap_or_default();
        libraries_in(&libraries).try_for_each(|library| self.copy(library, library))
    }

    /// The archive.
    pub(super) fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (index, (path, entry)) in self.entries.iter().enumerate() {
            append(&mut archive, index as u32 + 1, entry.mode, path.as_os_str(), &entry.contents);
        }
        append(&mut archive, 0, 0, OsStr::new(TRAILER), &[]);
        archive
    }
}

/// The files that `ldd` names.
fn libraries_in(text: &str) -> impl Iterator<Item = &Path> {
    text.lines().filter_map(|line| {
        let file = line.rsplit_once(" (")?.0;
        let file = file.rsplit_once("=> ").map_or(file, |(_, file)| file).trim();
        file.starts_with('/').then(|| Path::new(file))
    })
}

fn append(archive: &mut Vec<u8>, inode: u32, mode: u32, name: &OsStr, contents: &[u8]) {
    let (links, name_bytes, file_bytes) = (1, name.len() as u32 + 1, contents.len() as u32);
    // inode, mode, user, group, links, time, size, device (2), special device (2), name, checksum
    let fields = [inode, mode, 0, 0, links, 0, file_bytes, 0, 0, 0, 0, name_bytes, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(contents);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and contents of an archive's entries, read by what their headers say.
    fn entries(mut archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        const HEADER: usize = 110;
        let mut entries = Vec::new();
        while let Some(header) = archive.get(..HEADER) {
            let field = |index: usize| {
                let digits = std::str::from_utf8(&header[6 + 8 * index..][..8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&header[..6], b"070701");
            let (file_bytes, name_bytes) = (field(6), field(11));
            let name = String::from_utf8(archive[HEADER..][..name_bytes - 1].to_vec()).unwrap();
            let start = (HEADER + name_bytes).next_multiple_of(4);
            entries.push((name, archive[start..][..file_bytes].to_vec()));
            archive = &archive[(start + file_bytes).next_multiple_of(4)..];
        }
        entries
    }

    /// Folders come before what is in them, contents of any length are kept, and the end is marked.
    #[test]
    fn archives() {
        let mut image = Image::default();
        image.add(Path::new("/usr/bin/a"), b"first".to_vec());
        image.add(Path::new("/usr/b"), b"second!!".to_vec());
        image.add_folder(Path::new("/proc"));
        let entries = entries(&image.archive());
        let entries: Vec<(&str, &[u8])> = entries.iter().map(|(name, file)| (&**name, &**file)).collect();
        let expected: [(&str, &[u8]); 6] = [
            ("proc", b""),
            ("usr", b""),
            ("usr/b", b"second!!"),
            ("usr/bin", b""),
            ("usr/bin/a", b"first"),
            (TRAILER, b""),
        ];
        assert_eq!(entries, expected);
    }

    /// Each library and the loader; not the vDSO, which is no file.
    #[test]
    fn libraries() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let files: Vec<&Path> = libraries_in(text).collect();
        assert_eq!(
            files,
            [Path::new("/lib/x86_64-linux-gnu/libm.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
    }
}
