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
use profiler_common::ClientStream;

use super::read_streams::{Read, ReadStreams};
use super::session::now_ns;
use super::sockets::Sockets;
use crate::target::Process;
use crate::target::process::all_pids;
use crate::wire::queue::Look;

/// Ancestors of a server that may be its client.
const MAX_ANCESTORS: usize = 32;
/// The most of a table of sockets that is read, in bytes: a hundred thousand.
const TABLE_LIMIT: u64 = 16 << 20;
/// Searching rests this many times as long as it took, but not for ever; looking at streams too.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(5);
const SHORTEST_REST: Duration = Duration::from_millis(40);
/// How often it is checked what is known of a stream, and which streams are over.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks in a row during which a stream was not read; from then on it is looked at no more often than that.
const MAX_IDLE_LOOKS: u32 = 50;
/// Looks in a row that may fail before a client is taken to be gone.
const MAX_FAILED_LOOKS: u32 = 3;

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
    failed_looks: u32,
    /// Looks since the stream was read, and when that was.
    idle_looks: u32,
    last_ns: u64,
}

/// Whether the kernel half sees who writes.
#[derive(Debug, Default)]
pub(super) struct ClientProbe {
    /// Set when the first client is known: only then is it to.
    pub(super) is_wanted: AtomicBool,
    /// It can't.
    pub(super) is_refused: AtomicBool,
}

/// The clients that are known.
pub(super) struct Clients {
    kernel: Told,
    read: ReadStreams,
    known: HashMap<u64, Client>,
    sockets: Sockets,
    probe: Arc<ClientProbe>,
    next_check: Instant,
    next_search: Instant,
    next_looks: Instant,
}

impl Clients {
    pub(super) fn new(clients: Map, streams: Map, probe: Arc<ClientProbe>) -> Result<Self, MapError> {
        Ok(Self {
            kernel: Told {
                clients: BpfHashMap::try_from(clients)?,
                streams: BpfHashMap::try_from(streams)?,
                stream_counts: HashMap::new(),
            },
            read: ReadStreams::default(),
            known: HashMap::new(),
            sockets: Sockets::default(),
            probe,
            next_check: Instant::now() + CHECK_INTERVAL,
            next_search: Instant::now(),
            next_looks: Instant::now(),
        })
    }

    /// Whether it can't be seen when clients write, though some are known.
    pub(super) fn are_unseen(&self) -> bool {
        self.probe.is_refused.load(Ordering::Relaxed)
    }

    /// A watched process has read from a stream that is taken.
    pub(super) fn read(&mut self, read: Read, timestamp_ns: u64) {
        self.read.read(read, timestamp_ns);
    }

    /// A stream has ended.
    pub(super) fn closed(&mut self, stream: u64) {
        self.read.forget(stream);
        self.leave(stream);
    }

    /// A process has ended, and with it what it alone read.
    pub(super) fn process_ended(&mut self, pid: u32) {
        self.read.of_process(pid).into_iter().for_each(|stream| self.closed(stream));
    }

    /// Follows a client no longer. It is looked for again by and by, while its stream is read.
    pub(super) fn leave(&mut self, stream: u64) {
        if let Some(gone) = self.known.remove(&stream) {
            self.kernel.take_back(gone.inode, &gone.pids);
        }
    }

    /// Looks for the clients of new streams, and at what waits in the streams of known ones. To be called often.
    /// `is_certain`: whether it is known which write is which read; `None` when nobody asks for that any more.
    pub(super) fn turn(&mut self, is_certain: impl Fn(&Read) -> Option<bool>) -> Turn {
        let mut turn = Turn::default();
        let begin = Instant::now();
        if begin >= self.next_check {
            turn.left = self.forget_old(now_ns(), &is_certain);
            self.next_check = rest(begin).max(begin + CHECK_INTERVAL);
        }
        let begin = Instant::now();
        if self.read.has_new() && begin >= self.next_search {
            turn.followed = self.search();
            self.next_search = rest(begin);
        }
        let begin = Instant::now();
        if self.known.is_empty() || begin < self.next_looks {
            return turn;
        }
        let mut dead = Vec::new();
        for client in self.known.values_mut() {
            if begin < client.next_look {
                continue;
            }
            let Some(look) = client.look(&self.sockets) else {
                client.failed_looks += 1;
                dead.extend((client.failed_looks >= MAX_FAILED_LOOKS).then_some(client.read));
                continue;
            };
            client.failed_looks = 0;
            let last_ns = self.read.last_ns(client.read.stream);
            client.idle_looks = if last_ns == client.last_ns { client.idle_looks + 1 } else { 0 };
            client.last_ns = last_ns;
            if client.idle_looks > MAX_IDLE_LOOKS || is_certain(&client.read) == Some(true) {
                client.next_look = begin + CHECK_INTERVAL;
            }
            turn.looks.push((client.read, look));
        }
        dead.iter().for_each(|read| self.leave(read.stream));
        turn.left.extend(dead);
        self.next_looks = rest(begin);
        turn
    }

    /// Forgets streams that are over, and leaves clients that nobody asks for. Returns those that were left.
    fn forget_old(&mut self, now_ns: u64, is_certain: impl Fn(&Read) -> Option<bool>) -> Vec<Read> {
        let known = &self.known;
        let mut old = self.read.forget_old(now_ns, |stream| known.contains_key(&stream), Read::is_open);
        for client in known.values().filter(|client| is_certain(&client.read).is_none()) {
            self.read.forget(client.read.stream);
            old.push(client.read);
        }
        old.retain(|read| self.known.contains_key(&read.stream));
        old.iter().for_each(|read| self.leave(read.stream));
        old
    }

    /// Clients of new streams, as far as they are on this host.
    fn search(&mut self) -> Vec<Read> {
        let mut tables = Tables::default();
        let mut ends: HashMap<u64, (Read, End)> = HashMap::new();
        // Short connections are over by now.
        for read in self.read.take_new(now_ns()).into_iter().filter(Read::is_open) {
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
            // One that is found anew has another count.
            self.leave(read.stream);
            if self.kernel.tell(inode, read.stream, &pids) {
                self.probe.is_wanted.store(true, Ordering::Relaxed);
                let client = Client::new(read, end, inode, pids);
                self.known.insert(read.stream, client);
                followed.push(read);
            }
        }
        followed
    }
}

/// What the kernel half is told.
struct Told {
    clients: BpfHashMap<MapData, u32, u32>,
    streams: BpfHashMap<MapData, u64, ClientStream>,
    /// How many streams each client has.
    stream_counts: HashMap<u32, usize>,
}

impl Told {
    /// Whose writes to the end with this inode are to be told. All or nothing: false when there is no room.
    fn tell(&mut self, inode: u64, stream: u64, pids: &[u32]) -> bool {
        let mut is_told = self.streams.insert(inode, ClientStream { stream, written: 0 }, 0).is_ok();
        for pid in pids {
            *self.stream_counts.entry(*pid).or_default() += 1;
            is_told = is_told && self.clients.insert(*pid, 1, 0).is_ok();
        }
        if !is_told {
            self.take_back(inode, pids);
        }
        is_told
    }

    /// What could not be taken back goes on to be told: no harm but cost.
    fn take_back(&mut self, inode: u64, pids: &[u32]) {
        let _ = self.streams.remove(&inode);
        for pid in pids {
            let Some(count) = self.stream_counts.get_mut(pid) else { continue };
            *count -= 1;
            if *count == 0 {
                self.stream_counts.remove(pid);
                let _ = self.clients.remove(pid);
            }
        }
    }
}

/// When something may be done again that took from `begin` until now. Not by its CPU time: where this thread gets little of
/// that, messages come first.
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
    /// Streams whose clients are known no longer.
    pub(super) left: Vec<Read>,
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
    fn new(read: Read, end: End, inode: u64, pids: Vec<u32>) -> Self {
        let next_look = Instant::now();
        Self { read, end, inode, pids, next_look, failed_looks: 0, idle_looks: 0, last_ns: 0 }
    }

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
    use crate::capture::kernel::OBJECT;

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

    /// Clients whose maps have so much room for processes.
    fn clients(processes: u32) -> Clients {
        let mut object = aya::EbpfLoader::new().map_max_entries("CLIENTS", processes).load(OBJECT).unwrap();
        let [clients, streams] = ["CLIENTS", "CLIENT_STREAMS"].map(|name| object.take_map(name).unwrap());
        Clients::new(clients, streams, Arc::default()).unwrap()
    }

    fn pipe() -> (Read, std::io::PipeReader, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        let descriptor = reader.as_raw_fd().cast_unsigned();
        let stream = std::fs::metadata(format!("/proc/self/fd/{descriptor}")).unwrap().ino();
        (Read { stream, pid: std::process::id(), descriptor, is_socket: false }, reader, writer)
    }

    /// After thousands of streams that their reader closed by itself, the next one's client is still found, and the kernel
    /// half keeps none of the others (needs root).
    #[test]
    fn streams_that_end_in_silence_make_room() {
        let mut clients = clients(64);
        let begin_ns = now_ns();
        for second in 0..50 {
            let now_ns = begin_ns + second * 1_000_000_000;
            clients.forget_old(now_ns, |_| Some(false));
            let pipes: Vec<_> = (0..100).map(|_| pipe()).collect();
            pipes.iter().for_each(|(read, ..)| clients.read(*read, now_ns));
            assert_eq!(clients.search().len(), pipes.len(), "after {} streams", 100 * second);
        }
        assert!(clients.known.len() <= 200, "{}", clients.known.len());
        assert_eq!(clients.kernel.streams.keys().count(), clients.known.len());
        let me = std::process::id();
        assert!(clients.kernel.clients.keys().any(|pid| pid.unwrap() == me));
        clients.process_ended(me);
        assert_eq!(
            (clients.kernel.streams.keys().count(), clients.kernel.clients.keys().count()),
            (0, 0),
            "nothing is left behind"
        );
    }

    /// A client whose queue is not kept any more is left, and is found again when its stream is read (needs root).
    #[test]
    fn clients_that_nobody_asks_for_are_left() {
        let mut clients = clients(64);
        let (read, _reader, _writer) = pipe();
        clients.read(read, now_ns());
        assert_eq!(clients.search(), [read]);
        assert_eq!(clients.forget_old(now_ns(), |_| None), [read]);
        assert_eq!(clients.kernel.clients.keys().count(), 0);
        clients.read(read, now_ns());
        assert_eq!(clients.search(), [read]);
    }

    /// Where there is no room for all clients of a stream, none of them stays (needs root).
    #[test]
    fn clients_are_told_whole_or_not_at_all() {
        let mut clients = clients(2);
        let kernel = &mut clients.kernel;
        assert!(kernel.tell(1, 10, &[100]));
        assert!(!kernel.tell(2, 20, &[100, 200, 300]));
        let of = |kernel: &Told| {
            let streams: Vec<u64> = kernel.streams.keys().map(Result::unwrap).collect();
            let clients: Vec<u32> = kernel.clients.keys().map(Result::unwrap).collect();
            (streams, clients)
        };
        assert_eq!(of(kernel), (vec![1], vec![100]));
        assert!(kernel.tell(2, 20, &[100, 200]));
        kernel.take_back(1, &[100]);
        assert_eq!(kernel.clients.keys().count(), 2, "the first one still has a stream");
    }

    proptest! {
        /// No table makes it panic.
        #[test]
        fn survives_any_table(text in "(head\n)?([0-9a-zA-Z: ]{0,80}\n){0,5}") {
            TcpTable::default().parse(text.as_bytes());
        }
    }
}
