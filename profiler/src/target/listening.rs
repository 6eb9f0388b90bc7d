//! Which processes listen on a TCP port, and where a URL leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;

use super::process::{Process, all_pids};

/// `TCP_LISTEN` of `include/net/tcp_states.h`, as `/proc/net/tcp` shows it.
const LISTEN: &str = "0A";
/// The most of a table of sockets that is read, in bytes: a million sockets.
const TABLE_LIMIT: u64 = 160 * 1024 * 1024;

/// Host and port of a URL. The port is the usual one of the scheme when it is not told.
pub(crate) fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        Some(text) if !text.is_empty() => text.parse().ok()?,
        _ => usual,
    };
    (!host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

/// True when a host is this machine: a loopback address, `localhost`, the host's own name, or "any address".
pub(crate) fn is_local(host: &str) -> bool {
    if host == "localhost" || host.ends_with(".localhost") || host == "host.docker.internal" {
        return true;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.is_loopback() || address.is_unspecified();
    }
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    own.trim().eq_ignore_ascii_case(host)
}

/// Ports of listening TCP sockets by their inode, of the network namespace of this process.
pub(crate) fn listening_ports() -> io::Result<BTreeMap<u64, u16>> {
    let mut ports = BTreeMap::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match File::open(table) {
            Ok(file) => ports.extend(parse_table(BufReader::new(file.take(TABLE_LIMIT)))),
            // Without IPv6 the second one is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

fn parse_table(table: impl BufRead) -> Vec<(u64, u16)> {
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let inode = fields.get(9)?.parse().ok()?;
        (fields.get(3) == Some(&LISTEN)).then_some(())?;
        Some((inode, u16::from_str_radix(port, 16).ok()?))
    };
    table.lines().map_while(Result::ok).skip(1).filter_map(|line| listening(&line)).collect()
}

/// Inodes of listening Unix sockets, of the network namespace of this process. Flag `__SO_ACCEPTCON` of
/// `include/uapi/linux/net.h` marks them in the kernel's table.
pub(crate) fn listening_unix_sockets() -> BTreeSet<u64> {
    let Ok(file) = File::open("/proc/self/net/unix") else { return BTreeSet::new() };
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        if flags & 0x1_0000 != 0 { fields.get(6)?.parse().ok() } else { None }
    };
    BufReader::new(file.take(TABLE_LIMIT))
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| inode(&line))
        .collect()
}

/// Ports that a process listens on, lowest first. Empty when its descriptors may not be read.
pub(crate) fn ports_of(process: &Process, listening: &BTreeMap<u64, u16>) -> BTreeSet<u16> {
    let sockets = process.sockets().unwrap_or_default();
    sockets.values().filter_map(|inode| listening.get(inode).copied()).collect()
}

/// Processes that hold a socket that listens on this port.
pub(crate) fn processes_on_port(port: u16) -> io::Result<Vec<u32>> {
    let mut listening = listening_ports()?;
    listening.retain(|_, listened| *listened == port);
    if listening.is_empty() {
        return Ok(Vec::new());
    }
    let listens =
        |pid: &u32| Process::open(*pid).is_ok_and(|process| !ports_of(&process, &listening).is_empty());
    Ok(all_pids()?.into_iter().filter(listens).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hosts and ports, with and without a port, a user, a path and brackets.
    #[test]
    fn urls() {
        let parsed = |url: &str| host_and_port(url);
        assert_eq!(parsed("http://localhost:8931/mcp"), Some(("localhost".to_owned(), 8931)));
        assert_eq!(parsed("https://u:p@Api.Example.com?x"), Some(("api.example.com".to_owned(), 443)));
        assert_eq!(parsed("http://[::1]:80/sse"), Some(("::1".to_owned(), 80)));
        assert_eq!(parsed("http://[::1]"), Some(("::1".to_owned(), 80)));
        assert_eq!(parsed("http://a:99999/"), None);
        assert_eq!(parsed("ftp://a"), None);
        assert_eq!(parsed("http://"), None);
    }

    /// Addresses of this machine and of others.
    #[test]
    fn local_hosts() {
        for host in ["localhost", "127.0.0.1", "127.8.0.1", "::1", "0.0.0.0"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["example.com", "10.0.0.1", "localhost.example.com"] {
            assert!(!is_local(host), "{host}");
        }
    }

    /// Only sockets that listen are taken from the kernel's table.
    #[test]
    fn tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:22E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n\
            1: 0100007F:22E4 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 x\n\
            garbage\n";
        assert_eq!(parse_table(table.as_bytes()), [(4711, 8931)]);
    }

    /// A socket of this very process is found by its port.
    #[test]
    fn a_real_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(processes_on_port(port).unwrap(), [std::process::id()]);
    }

    proptest! {
        /// Hostile URLs and tables are survived.
        #[test]
        fn any_text_is_survived(text in "(http://|[::1]|@|:|[ -~]){0,20}") {
            host_and_port(&text);
            parse_table(text.as_bytes());
        }
    }
}
