//! Files that commands write: they belong to the user who called sudo, and never replace something else by accident.

use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Usage;
use crate::target::Caller;

/// Gives a file or folder that was made to the user who called sudo.
pub(super) fn give_to_caller(path: &Path) {
    let is_ours = |metadata: &Metadata| (metadata.is_file() || metadata.is_dir()) && metadata.uid() == 0;
    if let Some(caller) = Caller::from_sudo()
        && std::fs::symlink_metadata(path).is_ok_and(|metadata| is_ours(&metadata))
    {
        // It stays readable for root in any case.
        let _ = std::os::unix::fs::lchown(path, Some(caller.uid), Some(caller.gid));
    }
}

/// Makes a folder, with those that it is to be in. One that is there stays as it is.
pub(super) fn create_folder(path: &Path) -> anyhow::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        std::fs::create_dir(folder)
            .map_err(|error| anyhow::anyhow!("cannot create {}: {error}", folder.display()))?;
        give_to_caller(folder);
    }
    if !path.is_dir() {
        anyhow::bail!("{} is no folder: name another one", path.display());
    }
    Ok(())
}

/// Writes a file through `write`.
pub(super) fn write<E: std::fmt::Display>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> anyhow::Result<()> {
    let cannot = |error: &dyn std::fmt::Display| anyhow::anyhow!("cannot write {}: {error}", path.display());
    check_no_recording(path)?;
    // First in memory: what can't be rendered must not cost an older file.
    let mut bytes = Vec::new();
    write(&mut bytes).map_err(|error| cannot(&error))?;
    let mut file = File::create(path).map_err(|error| cannot(&error))?;
    if let Err(error) = file.write_all(&bytes) {
        // Half a file would be taken for a whole one. A device or a pipe is not ours to remove.
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let _ = std::fs::remove_file(path);
        }
        return Err(cannot(&error));
    }
    give_to_caller(path);
    Ok(())
}

/// A recording can't be made again: nothing else is written over one.
fn check_no_recording(path: &Path) -> anyhow::Result<()> {
    if crate::recording::is_recording(path) {
        return Err(Usage(format!("{} is a recording: name another file", path.display())).into());
    }
    Ok(())
}

/// Fails early if a file can't be written later.
pub(super) fn check_writable(path: &Path) -> anyhow::Result<()> {
    check_no_recording(path)?;
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return Ok(()); // opening a pipe or a device can block
    }
    let existed = path.symlink_metadata().is_ok();
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
    if !existed {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// A file name in the current folder with the server, its process and the time: `everything-4711-20260131-235959`.
pub(super) fn default_name(target: &str, pid: u32, extension: &str) -> PathBuf {
    let safe: String = target
        .rsplit('/')
        .next()
        .unwrap_or(target)
        .chars()
        .map(
            |character| {
                if character.is_ascii_alphanumeric() || "-_.".contains(character) { character } else { '-' }
            },
        )
        .take(60)
        .collect();
    let safe = safe.trim_start_matches(['-', '.']);
    let name = if safe.is_empty() { "server" } else { safe };
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    PathBuf::from(format!("{name}-{pid}-{time}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fails leaves an older file as it is, and a recording is never written over.
    #[test]
    fn older_files_survive() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("a.svg");
        std::fs::write(&picture, "old").unwrap();
        assert!(write(&picture, |_| Err("nothing to draw")).is_err());
        assert_eq!(std::fs::read(&picture).unwrap(), b"old");
        let recording = folder.path().join("a.mcpprof");
        let meta = crate::recording::Meta::default();
        crate::recording::Writer::create(&recording, &meta).unwrap().finish(1, "").unwrap();
        assert!(write(&recording, |out| out.write_all(b"x")).unwrap_err().is::<Usage>());
        assert!(check_writable(&recording).is_err());
        assert!(crate::recording::read(&recording).is_ok());
    }

    /// Folders are made with those around them; one that is there is no error, and a file is.
    #[test]
    fn folders_within_folders() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b/c");
        create_folder(&inner).unwrap();
        create_folder(&inner).unwrap();
        std::fs::write(inner.join("file"), "").unwrap();
        assert!(create_folder(&inner.join("file")).unwrap_err().to_string().contains("is no folder"));
        assert!(create_folder(&inner.join("file/d")).is_err());
    }

    /// Whatever a server is called, its recordings have a plain name in the current folder.
    #[test]
    fn default_names_are_plain() {
        let name = |target| default_name(target, 7, "mcpprof").display().to_string();
        assert!(name("@scope/server everything").starts_with("server-everything-7-"));
        assert!(name("../../..").starts_with("server-7-"));
        assert!(name("").starts_with("server-7-"));
    }
}
