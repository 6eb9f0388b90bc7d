//! Tables that were parsed before, on disk: one file for each build ID.
//!
//! A build ID proves nothing: whoever wants wrong stacks of a known program can give its ID to a file of their own. So
//! an entry also holds a keyed hash of everything that its rows were made from, and is used for the same sources only.
//! The key never leaves the folder, which belongs to the user who profiles and is closed to all others.

#![expect(deprecated, reason = "the standard library's only hash whose key can be chosen")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{Hasher as _, SipHasher};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytemuck::{Pod, Zeroable};
use profiler_common::UnwindRow;

use super::table::{MAX_ROWS, Table};

/// Raise it with each change to how rows are made or written.
const VERSION: u32 = 5;
const MAGIC: [u8; 8] = *b"mcpprofU";
/// All entries together. The ones that were not used for longest go first.
const MAX_BYTES: u64 = 64 << 20;
/// Longest build ID that is taken for one, in hexadecimal digits: linkers write 40, and hostile files what they like.
const BUILD_ID_DIGITS: std::ops::RangeInclusive<usize> = 16..=128;
/// What was being written when a profiler was killed goes after this time.
const ABANDONED: Duration = Duration::from_secs(3600);
const KEY_FILE: &str = "key";
const TEMPORARY: &str = "new-";

/// A folder of tables.
#[derive(Debug)]
pub struct Cache {
    folder: File,
    key: [u64; 2],
}

/// The start of a file; its rows follow, and then the keyed hash of both.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    damaged: u32,
    /// Keyed hash of what the rows were made from.
    sources: u64,
    base: u64,
    rows: u64,
    unmerged: u64,
    not_understood: u64,
}

impl Cache {
    /// The cache of the user who runs this; `None` when there is no folder that can be trusted.
    pub fn of_user() -> Option<Self> {
        let folder = if nix::unistd::geteuid().is_root() {
            // `sudo` may have left another user's home in the environment.
            PathBuf::from("/var/cache/mcp-profiler")
        } else {
            let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
            let caches =
                absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
            caches?.join("mcp-profiler")
        };
        Self::open(&folder.join("unwind")).ok()
    }

    /// The cache in a folder, which is made when it is missing.
    ///
    /// # Errors
    /// When the folder can't be made, belongs to somebody else, or is open to others.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let options = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let folder = OpenOptions::new().read(true).custom_flags(options).open(folder)?;
        if !is_own(&folder)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut cache = Self { folder, key: [0; 2] };
        cache.key = cache.read_key().or_else(|_| cache.make_key())?;
        Ok(cache)
    }

    /// The keyed hash of what a table is made from.
    pub(super) fn hash<'data>(&self, sources: impl Iterator<Item = &'data [u8]>) -> u64 {
        let mut hash = self.hasher();
        for source in sources {
            hash.write_usize(source.len());
            hash.write(source);
        }
        hash.finish()
    }

    /// The table of a file with this build ID, if it was made from the same sources.
    pub(super) fn load(&self, build_id: &str, sources: u64) -> Option<Table> {
        if !is_build_id(build_id) {
            return None;
        }
        let mut file = self.open_file(build_id).ok()?;
        let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let most = size_of::<Header>() + MAX_ROWS * size_of::<UnwindRow>() + size_of::<u64>();
        if length > most {
            return None;
        }
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).ok()?;
        let (content, hash) = bytes.split_last_chunk()?;
        let (header, rows) = content.split_at_checked(size_of::<Header>())?;
        let header: Header = bytemuck::pod_read_unaligned(header);
        let is_right = header.magic == MAGIC
            && header.version == VERSION
            && header.sources == sources
            && header.rows.checked_mul(size_of::<UnwindRow>() as u64) == Some(rows.len() as u64)
            && self.hash([content].into_iter()) == u64::from_le_bytes(*hash);
        if !is_right {
            return None;
        }
        // It is in use: others go before it.
        let _ = file.set_modified(SystemTime::now());
        Some(Table {
            base: header.base,
            rows: rows.chunks_exact(size_of::<UnwindRow>()).map(bytemuck::pod_read_unaligned).collect(),
            unmerged: header.unmerged as usize,
            not_understood: header.not_understood as usize,
            damaged: header.damaged != 0,
        })
    }

    /// Keeps a table. Without it nothing is lost but time.
    pub(super) fn store(&self, build_id: &str, sources: u64, table: &Table) {
        if !is_build_id(build_id) {
            return;
        }
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            damaged: u32::from(table.damaged),
            sources,
            base: table.base,
            rows: table.rows.len() as u64,
            unmerged: table.unmerged as u64,
            not_understood: table.not_understood as u64,
        };
        let mut content = bytemuck::bytes_of(&header).to_vec();
        content.extend_from_slice(bytemuck::cast_slice(&table.rows));
        let hash = self.hash([&*content].into_iter());
        content.extend(hash.to_le_bytes());
        if content.len() as u64 <= MAX_BYTES && self.make_room(content.len() as u64).is_ok() {
            // A full disk or a folder that is read-only.
            let _ = self.write_file(build_id, &content);
        }
    }

    /// Removes what was not used for longest until so much has room.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.path(""))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            if name == KEY_FILE || (name.starts_with(TEMPORARY) && age < ABANDONED) {
                continue;
            }
            files.push((age, metadata.len(), name));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
        while total + bytes > MAX_BYTES
            && let Some((_, length, name)) = files.pop()
        {
            std::fs::remove_file(self.path(&name))?;
            total -= length;
        }
        Ok(())
    }

    fn read_key(&self) -> io::Result<[u64; 2]> {
        let mut bytes = [0; 16];
        self.open_file(KEY_FILE)?.read_exact(&mut bytes)?;
        Ok(bytemuck::cast(bytes))
    }

    fn make_key(&self) -> io::Result<[u64; 2]> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        self.write_file(KEY_FILE, &bytes)?;
        // Another profiler may have been quicker, or slower: what is there now is what both use.
        self.read_key()
    }

    /// A file of ours. What others own or could have written is none.
    fn open_file(&self, name: &str) -> io::Result<File> {
        let options = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(options).open(self.path(name))?;
        if is_own(&file)? && file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    /// Writes a file as a whole: others see the old one or the new one.
    fn write_file(&self, name: &str, content: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.path(&format!("{TEMPORARY}{}-{number}", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            std::fs::rename(&temporary, self.path(name))
        };
        let outcome = write();
        if outcome.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        outcome
    }

    /// A path in the folder that was opened, wherever it is by now.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()))
    }

    fn hasher(&self) -> SipHasher {
        let mut hash = SipHasher::new_with_keys(self.key[0], self.key[1]);
        hash.write(env!("CARGO_PKG_VERSION").as_bytes());
        hash.write_u32(VERSION);
        hash
    }
}

/// Whether only we can write it.
fn is_own(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0)
}

fn is_build_id(text: &str) -> bool {
    BUILD_ID_DIGITS.contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn table(rows: u32) -> Table {
        let row = |number| UnwindRow { start: number * 16, rule: number + 1 };
        Table {
            base: 0x1000,
            rows: (0..rows).map(row).collect(),
            unmerged: 7,
            not_understood: 1,
            damaged: true,
        }
    }

    fn opened(folder: &tempfile::TempDir) -> Cache {
        Cache::open(&folder.path().join("unwind")).unwrap()
    }

    /// What was stored comes back, also to the next profiler, and only for the same sources.
    #[test]
    fn keeps_tables() {
        let folder = tempfile::tempdir().unwrap();
        let cache = opened(&folder);
        let sources = cache.hash([&b"frames"[..]].into_iter());
        assert_eq!(cache.load(ID, sources), None);
        cache.store(ID, sources, &table(1000));
        let again = opened(&folder);
        assert_eq!(again.hash([&b"frames"[..]].into_iter()), sources);
        assert_eq!(again.load(ID, sources), Some(table(1000)));
        assert_eq!(again.load(ID, again.hash([&b"others"[..]].into_iter())), None);
    }

    /// Any changed byte, and any length but the right one, is no table; the next one that is stored is one again.
    #[test]
    fn broken_files_are_no_tables() {
        let folder = tempfile::tempdir().unwrap();
        let cache = opened(&folder);
        cache.store(ID, 5, &table(3));
        let whole = std::fs::read(cache.path(ID)).unwrap();
        let load = |bytes: &[u8]| {
            cache.write_file(ID, bytes).unwrap();
            cache.load(ID, 5)
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(load(&bytes), None, "byte {at}");
            assert_eq!(load(&whole[..at]), None, "{at} bytes");
        }
        assert_eq!(load(&[&*whole, &[0]].concat()), None);
        cache.store(ID, 5, &table(3));
        assert_eq!(cache.load(ID, 5), Some(table(3)));
    }

    /// What others can write, or have written, is not trusted: neither files nor the folder.
    #[test]
    fn what_others_can_write_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let cache = opened(&folder);
        cache.store(ID, 5, &table(3));
        let file = folder.path().join("unwind").join(ID);
        std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(cache.load(ID, 5), None);
        std::fs::remove_file(&file).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        cache.store(ID, 5, &table(3));
        std::fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert_eq!(cache.load(ID, 5), None);

        std::fs::set_permissions(folder.path().join("unwind"), Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(&folder.path().join("unwind")).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(Cache::open(&link).is_err());
    }

    /// Only build IDs are names of files.
    #[test]
    fn other_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = opened(&folder);
        for name in ["", "key", "../../../../tmp/x", "0123456789abcdeg", &"a".repeat(200)] {
            cache.store(name, 5, &table(3));
            assert_eq!(cache.load(name, 5), None, "{name}");
        }
        assert_eq!(std::fs::read_dir(cache.path("")).unwrap().count(), 1);
    }

    /// The folder does not grow without end: what was not used for longest goes.
    #[test]
    fn the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = opened(&folder);
        let id = |number: u32| format!("{number:040x}");
        for number in 0..8 {
            let file = File::create(cache.path(&id(number))).unwrap();
            file.set_len(MAX_BYTES / 8).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(u64::from(100 - number))).unwrap();
        }
        cache.store(ID, 5, &table(3));
        assert!(!cache.path(&id(0)).exists() && cache.path(&id(1)).exists());
        assert_eq!(cache.load(ID, 5), Some(table(3)));
    }
}
