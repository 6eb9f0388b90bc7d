//! What the kernel tells of one socket: its peer, and how much waits in it (sock_diag(7), `include/uapi/linux/unix_diag.h` and
//! `inet_diag.h`). Of sockets in the network namespace of this process.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `SOCK_DIAG_BY_FAMILY` of `include/uapi/linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_PEER` and `UDIAG_SHOW_RQLEN`, and the attributes that they ask for.
const SHOW: u32 = 0x04 | 0x10;
const PEER: u16 = 2;
const QUEUES: u16 = 4;
/// Length of `struct nlmsghdr`, and with it of `struct unix_diag_msg`.
const HEADER: usize = 16;
const UNIX_MESSAGE: usize = HEADER + 16;
/// Where `idiag_rqueue` is behind the header in `struct inet_diag_msg`; `idiag_wqueue` follows.
const TCP_QUEUES: usize = HEADER + 56;

/// Asks the kernel; what can't be asked is not known.
#[derive(Debug)]
pub(super) struct Sockets {
    socket: Option<OwnedFd>,
}

impl Default for Sockets {
    fn default() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        Self {
            socket: socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).ok(),
        }
    }
}

impl Sockets {
    /// Inode of the other end of a connection between Unix sockets.
    pub(super) fn unix_peer(&self, inode: u64) -> Option<u64> {
        let answer = self.ask(&unix_request(u32::try_from(inode).ok()?))?;
        attribute(&answer, PEER).map(u64::from).filter(|peer| *peer != 0)
    }

    /// Bytes that wait to be read from a Unix socket.
    pub(super) fn unix_waiting(&self, inode: u64) -> Option<u64> {
        attribute(&self.ask(&unix_request(u32::try_from(inode).ok()?))?, QUEUES).map(u64::from)
    }

    /// Bytes that wait to be read from a TCP connection, and those that its other end has not received yet.
    pub(super) fn tcp_waiting(&self, local: SocketAddr, remote: SocketAddr) -> Option<(u64, u64)> {
        let answer = self.ask(&tcp_request(local, remote))?;
        Some((word(&answer, TCP_QUEUES)?.into(), word(&answer, TCP_QUEUES + 4)?.into()))
    }

    fn ask(&self, body: &[u8]) -> Option<Vec<u8>> {
        const NLM_F_REQUEST: u16 = 1;
        let socket = self.socket.as_ref()?;
        // `struct nlmsghdr`.
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend((HEADER as u32 + body.len() as u32).to_ne_bytes());
        request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend([0; 8]);
        request.extend_from_slice(body);
        send(socket.as_raw_fd(), &request, MsgFlags::empty()).ok()?;
        let mut answer = vec![0; 4096];
        // The kernel answers at once, while the request is sent.
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
        answer.truncate(length);
        // Else it is an error: there is no such socket.
        (answer.get(4..6)? == SOCK_DIAG_BY_FAMILY.to_ne_bytes()).then_some(answer)
    }
}

/// `struct unix_diag_req`: any state, and no cookie.
fn unix_request(inode: u32) -> Vec<u8> {
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    [u32::MAX, inode, SHOW, u32::MAX, u32::MAX].iter().for_each(|word| request.extend(word.to_ne_bytes()));
    request
}

/// `struct inet_diag_req_v2`: any state, and no cookie.
fn tcp_request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    [local, remote].iter().for_each(|address| request.extend(address.port().to_be_bytes()));
    for address in [local, remote] {
        let mut bytes = [0; 16];
        match address {
            SocketAddr::V4(four) => bytes[..4].copy_from_slice(&four.ip().octets()),
            SocketAddr::V6(six) => bytes = six.ip().octets(),
        }
        request.extend(bytes);
    }
    [0, u32::MAX, u32::MAX].iter().for_each(|word| request.extend(word.to_ne_bytes()));
    request
}

fn word(answer: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?))
}

/// The first word of an attribute.
fn attribute(answer: &[u8], wanted: u16) -> Option<u32> {
    let mut rest = answer.get(UNIX_MESSAGE..)?;
    loop {
        let half = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        if kind == wanted {
            return word(rest, 4);
        }
        // Attributes start on four bytes.
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    /// Both ends of a connection are found, and what waits there.
    #[test]
    fn asks_the_kernel() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let inode = |stream: &UnixStream| {
            std::fs::metadata(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap().ino()
        };
        other.write_all(b"hello").unwrap();
        let sockets = Sockets::default();
        assert_eq!(sockets.unix_peer(inode(&one)), Some(inode(&other)));
        assert_eq!(
            (sockets.unix_waiting(inode(&one)), sockets.unix_waiting(inode(&other))),
            (Some(5), Some(0))
        );
        assert_eq!(sockets.unix_peer(1), None);
    }

    /// What waits in a TCP connection is told, of both families.
    #[test]
    fn asks_for_tcp() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            client.write_all(b"hello").unwrap();
            let (local, remote) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            let (unread, _) = Sockets::default().tcp_waiting(local, remote).unwrap();
            assert_eq!(unread, 5, "{address}");
        }
    }

    proptest! {
        /// No answer makes it panic or run on.
        #[test]
        fn survives_any_answer(answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            attribute(&answer, PEER);
        }
    }
}
