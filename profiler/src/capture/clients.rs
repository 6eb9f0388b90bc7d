//! Who is at the other end of a watched process's stream, if it is on this host: tells the kernel half whose writes to take
//! the times of. Twin of `profiler-ebpf/src/wire/clients.rs`.
//!
//! The other end of a pipe has the same inode. Of a Unix socket the kernel tells its peer (sock_diag(7)); of a TCP
//! connection it is the one with both addresses the other way round in the tables of the process's own network.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use profiler_common::{ClientStream, MAX_CLIENT_STREAMS};

use super::session::now_ns;
use super::sockets::Sockets;
use crate::target::Process;
use crate::target::process::all_pids;
use crate::wire::queue::Look;

/// Streams whose clients may wait to be looked for.
const MAX_NEW: usize = 256;
/// Ancestors of a server that may be its client.
const MAX_ANCESTORS: usize = 32;
/// The most of a table of sockets that is read, in bytes: a hundred thousand.
const TABLE_LIMIT: u64 = 16 << 20;
/// Searching rests this many times as long as it took, but not for ever; looking at streams too.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(5);
const SHORTEST_REST: Duration = Duration::from_millis(40);
/// How often it is checked what is known of a stream.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A stream that a watched process reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) stream: u64,
    pub(super) pid: u32,
    pub(super) descriptor: u32,
    pub(super) is_socket: bool,
}

/// A client's end, and how to tell what waits in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Pipe,
    Unix,
    Tcp(Connection),
}

#[derive(Clone, Debug)]
struct Client {
    read: Read,
    end: End,
    /// Inode of its end.
    inode: u64,
    pids: Vec<u32>,
    next_look: Instant,
}

/// The clients that are known.
pub(super) struct Clients {
    clients: BpfHashMap<MapData, u32, u32>,
    streams: BpfHashMap<MapData, u64, ClientStream>,
    seen: HashSet<u64>,
    new: Vec<Read>,
    known: HashMap<u64, Client>,
    sockets: Sockets,
    /// Set when the first one is known: only then is the kernel half to see who writes.
    is_wanted: Arc<AtomicBool>,
    next_search: Instant,
    next_looks: Instant,
}

impl Clients {
    pub(super) fn new(clients: Map, streams: Map, is_wanted: Arc<AtomicBool>) -> Result<Self, MapError> {
        Ok(Self {
            clients: BpfHashMap::try_from(clients)?,
            streams: BpfHashMap::try_from(streams)?,
            seen: HashSet::new(),
            new: Vec::new(),
            known: HashMap::new(),
            sockets: Sockets::default(),
            is_wanted,
            next_search: Instant::now(),
            next_looks: Instant::now(),
        })
    }

    /// A watched process reads from a stream that is taken.
    pub(super) fn read(&mut self, read: Read) {
        if self.new.len() < MAX_NEW && self.seen.len() < 16 * MAX_NEW && self.seen.insert(read.stream) {
            self.new.push(read);
        }
    }

    /// A stream has ended.
    pub(super) fn closed(&mut self, stream: u64) {
        self.seen.remove(&stream);
        self.new.retain(|read| read.stream != stream);
        let Some(gone) = self.known.remove(&stream) else { return };
        // The kernel half goes on without them: no harm but cost.
        let _ = self.streams.remove(&gone.inode);
        for pid in gone.pids {
            if !self.known.values().any(|client| client.pids.contains(&pid)) {
                let _ = self.clients.remove(&pid);
            }
        }
    }

    /// Looks for the clients of new streams, and at what waits in the streams of known ones. To be called often.
    pub(super) fn turn(&mut self, is_certain: impl Fn(&Read) -> bool) -> Turn {
        let mut turn = Turn::default();
        let begin = Instant::now();
        if !self.new.is_empty() && begin >= self.next_search {
            turn.followed = self.search();
            self.next_search = rest(begin);
        }
        let begin = Instant::now();
        if self.known.is_empty() || begin < self.next_looks {
            return turn;
        }
        for client in self.known.values_mut() {
            if begin < client.next_look {
                continue;
            }
            let Some(look) = client.look(&self.sockets) else { continue };
            if is_certain(&client.read) {
                client.next_look = begin + CHECK_INTERVAL;
            }
            turn.looks.push((client.read, look));
        }
        self.next_looks = rest(begin);
        turn
    }

    /// Clients of new streams, as far as they are on this host.
    fn search(&mut self) -> Vec<Read> {
        let mut tables = Tables::default();
        let mut ends: HashMap<u64, (Read, End)> = HashMap::new();
        for read in self.new.drain(..) {
            let end = if read.is_socket {
                let unix = self.sockets.unix_peer(read.stream).map(|peer| (peer, End::Unix));
                unix.or_else(|| {
                    let (inode, connection) = tables.of(read.pid).peer(read.stream)?;
                    Some((inode, End::Tcp(connection)))
                })
            } else {
                Some((read.stream, End::Pipe))
            };
            ends.extend(end.map(|(inode, end)| (inode, (read, end))));
        }
        let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
        // A client over stdio is an ancestor of its server, most often.
        let readers: HashSet<u32> = ends.values().map(|(read, _)| read.pid).collect();
        let ancestors: HashSet<u32> = readers.into_iter().flat_map(ancestors).collect();
        let others =
            || all_pids().unwrap_or_default().into_iter().filter(|pid| !ancestors.contains(pid)).collect();
        let groups: [&dyn Fn() -> Vec<u32>; 2] = [&|| ancestors.iter().copied().collect(), &others];
        for group in groups {
            if holders.len() == ends.len() {
                break;
            }
            for pid in group() {
                ends_of(pid, &ends).into_iter().for_each(|inode| holders.entry(inode).or_default().push(pid));
            }
        }
        let mut followed = Vec::new();
        for (inode, pids) in holders {
            let Some((read, end)) = ends.get(&inode).copied() else { continue };
            if self.known.len() >= MAX_CLIENT_STREAMS as usize {
                break;
            }
            let told =
                self.streams.insert(inode, ClientStream { stream: read.stream, written: 0 }, 0).is_ok()
                    && pids.iter().all(|pid| self.clients.insert(*pid, 1, 0).is_ok());
            if told {
                self.is_wanted.store(true, Ordering::Relaxed);
                let client = Client { read, end, inode, pids, next_look: Instant::now() };
                self.known.insert(read.stream, client);
                followed.push(read);
            }
        }
        followed
    }
}

/// When something may be done again that took from `begin` until now.
fn rest(begin: Instant) -> Instant {
    Instant::now() + (begin.elapsed() * REST).clamp(SHORTEST_REST, LONGEST_REST)
}

/// The process that made this one, and so on.
fn ancestors(pid: u32) -> Vec<u32> {
    let parent = |pid: &u32| {
        let parent = Process::open(*pid).and_then(|process| process.stat()).ok()?.parent;
        (parent > 1).then_some(parent)
    };
    std::iter::successors(Some(pid), parent).skip(1).take(MAX_ANCESTORS).collect()
}

/// What a turn found out.
#[derive(Default)]
pub(super) struct Turn {
    /// Streams whose clients are known from now on.
    pub(super) followed: Vec<Read>,
    /// What waits in streams.
    pub(super) looks: Vec<(Read, Look)>,
}

/// Which of these ends a process holds, and can write to.
fn ends_of(pid: u32, ends: &HashMap<u64, (Read, End)>) -> HashSet<u64> {
    let Ok(process) = Process::open(pid) else { return HashSet::new() };
    let held = process.descriptors().unwrap_or_default();
    held.into_iter()
        .filter_map(|(number, link)| {
            let link = link.to_str()?;
            let inode = link.strip_prefix("pipe:[").or_else(|| link.strip_prefix("socket:["))?;
            let inode = inode.strip_suffix(']')?.parse().ok()?;
            let (_, end) = ends.get(&inode)?;
            (*end != End::Pipe || can_write(pid, number)).then_some(inode)
        })
        .collect()
}

/// Whether a descriptor is open for writing (`flags` of proc_pid_fdinfo(5), in octal).
fn can_write(pid: u32, descriptor: i32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

impl Client {
    fn look(&self, sockets: &Sockets) -> Option<Look> {
        let Read { stream, pid, descriptor, .. } = self.read;
        let pipe = if self.end == End::Pipe { Some(open_pipe(pid, descriptor, stream)?) } else { None };
        let from_ns = now_ns();
        let bytes = match (self.end, &pipe) {
            (End::Tcp(Connection { local, remote }), _) => {
                let (unread, _) = sockets.tcp_waiting(local, remote)?;
                // What the client's end has not sent yet waits too. What was received and not yet confirmed is there twice: two
                // looks do not agree then.
                let (_, unsent) = sockets.tcp_waiting(remote, local)?;
                unread + unsent
            }
            (_, Some(pipe)) => waiting(pipe)?,
            (_, None) => sockets.unix_waiting(stream)?,
        };
        Some(Look { from_ns, to_ns: now_ns(), bytes })
    }
}

/// The pipe at a process's descriptor, if it is still that one.
fn open_pipe(pid: u32, descriptor: u32, inode: u64) -> Option<File> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    // Other files may do something when they are opened.
    if std::fs::read_link(&path).ok()?.to_str()? != format!("pipe:[{inode}]") {
        return None;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    (metadata.file_type().is_fifo() && metadata.ino() == inode).then_some(file)
}

/// `FIONREAD` of pipe(7).
fn waiting(pipe: &File) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes an `int` to the address.
    let outcome = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if outcome == 0 { u64::try_from(bytes).ok() } else { None }
}

/// The TCP connections of networks, each read at most once.
#[derive(Default)]
struct Tables {
    of_process: HashMap<u32, TcpTable>,
}

impl Tables {
    fn of(&mut self, pid: u32) -> &TcpTable {
        self.of_process.entry(pid).or_insert_with(|| TcpTable::read(pid))
    }
}

#[derive(Debug, Default)]
struct TcpTable {
    by_inode: HashMap<u64, Connection>,
    by_addresses: HashMap<(SocketAddr, SocketAddr), u64>,
}

/// A TCP connection by its addresses, as its own family has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

impl TcpTable {
    fn read(pid: u32) -> Self {
        let mut table = Self::default();
        for name in ["tcp", "tcp6"] {
            if let Ok(file) = File::open(format!("/proc/{pid}/net/{name}")) {
                table.parse(BufReader::new(file.take(TABLE_LIMIT)));
            }
        }
        table
    }

    /// Lines as proc_pid_net(5) describes them.
    fn parse(&mut self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok).skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let connection = || {
                let (local, remote) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
                Some((fields.get(9)?.parse().ok()?, Connection { local, remote }))
            };
            if let Some((inode, connection)) = connection().filter(|(inode, _)| *inode != 0) {
                self.by_addresses.insert((plain(connection.local), plain(connection.remote)), inode);
                self.by_inode.insert(inode, connection);
            }
        }
    }

    /// The other end of a connection, if it is in the same network, and the connection.
    fn peer(&self, inode: u64) -> Option<(u64, Connection)> {
        let connection = *self.by_inode.get(&inode)?;
        let peer = self.by_addresses.get(&(plain(connection.remote), plain(connection.local)))?;
        Some((*peer, connection))
    }
}

/// An address of the kernel's table: words as this machine has them, in hexadecimal, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for word in words.as_bytes().chunks(8) {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// An address of IPv4 within IPv6 is the same address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connection is found from either end, also between IPv4 and IPv6.
    #[test]
    fn finds_the_other_end() {
        let head =
            "sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n";
        let line = |local: &str, remote: &str, inode: u64| {
            format!("0: {local} {remote} 01 00000000:00000000 00:00000000 00000000 0 0 {inode} 1 x\n")
        };
        let of_four = head.to_owned() + &line("0100007F:1F90", "0100007F:A000", 7);
        let mapped = |port: &str| format!("0000000000000000FFFF00000100007F:{port}");
        let of_six = head.to_owned() + &line(&mapped("A000"), &mapped("1F90"), 8) + "garbage\n";
        let mut table = TcpTable::default();
        table.parse(of_four.as_bytes());
        table.parse(of_six.as_bytes());
        let peer = |inode| table.peer(inode).map(|(peer, connection)| (peer, connection.local.to_string()));
        assert_eq!(peer(7), Some((8, "127.0.0.1:8080".to_owned())));
        assert_eq!(peer(8), Some((7, "[::ffff:127.0.0.1]:40960".to_owned())));
        assert_eq!(peer(9), None);
    }

    /// What waits in a pipe is told, of that very pipe only.
    #[test]
    fn looks_into_pipes() {
        use std::io::Write as _;
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"twelve bytes").unwrap();
        let descriptor = reader.as_raw_fd().cast_unsigned();
        let link = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap();
        let inode =
            link.to_str().unwrap().trim_start_matches("pipe:[").trim_end_matches(']').parse().unwrap();
        let pipe = open_pipe(std::process::id(), descriptor, inode).unwrap();
        assert_eq!(waiting(&pipe), Some(12));
        assert!(open_pipe(std::process::id(), descriptor, inode + 1).is_none());
        assert!(can_write(std::process::id(), writer.as_raw_fd()));
        assert!(!can_write(std::process::id(), reader.as_raw_fd()));
    }

    proptest! {
        /// No table makes it panic.
        #[test]
        fn survives_any_table(text in "(head\n)?([0-9a-zA-Z: ]{0,80}\n){0,5}") {
            TcpTable::default().parse(text.as_bytes());
        }
    }
}
