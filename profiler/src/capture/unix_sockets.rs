//! What the kernel tells of one Unix socket: its peer, and how much waits in it (sock_diag(7), `include/uapi/linux/unix_diag.h`).

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
const MESSAGE: usize = HEADER + 16;

/// Asks the kernel; what can't be asked is not known.
#[derive(Debug)]
pub(super) struct UnixSockets {
    socket: Option<OwnedFd>,
}

impl Default for UnixSockets {
    fn default() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        Self {
            socket: socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).ok(),
        }
    }
}

impl UnixSockets {
    /// Inode of the other end of a connection in this network namespace.
    pub(super) fn peer(&self, inode: u64) -> Option<u64> {
        attribute(&self.ask(inode)?, PEER).map(u64::from).filter(|peer| *peer != 0)
    }

    /// Bytes that wait to be read there.
    pub(super) fn waiting(&self, inode: u64) -> Option<u64> {
        attribute(&self.ask(inode)?, QUEUES).map(u64::from)
    }

    fn ask(&self, inode: u64) -> Option<Vec<u8>> {
        let socket = self.socket.as_ref()?;
        let inode = u32::try_from(inode).ok()?;
        let request = request(inode);
        send(socket.as_raw_fd(), &request, MsgFlags::empty()).ok()?;
        let mut answer = vec![0; 4096];
        // The kernel answers at once, while the request is sent.
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
        answer.truncate(length);
        let is_of = |kind: u16, of: u32| {
            answer.get(4..6) == Some(&kind.to_ne_bytes())
                && answer.get(HEADER + 4..HEADER + 8) == Some(&of.to_ne_bytes())
        };
        is_of(SOCK_DIAG_BY_FAMILY, inode).then_some(answer)
    }
}

/// `struct nlmsghdr`, then `struct unix_diag_req`.
fn request(inode: u32) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    let mut request = Vec::with_capacity(HEADER + 24);
    request.extend((HEADER as u32 + 24).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    // Any state, and no cookie.
    [u32::MAX, inode, SHOW, u32::MAX, u32::MAX].iter().for_each(|word| request.extend(word.to_ne_bytes()));
    request
}

/// The first word of an attribute.
fn attribute(answer: &[u8], wanted: u16) -> Option<u32> {
    let mut rest = answer.get(MESSAGE..)?;
    loop {
        let half = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        if kind == wanted {
            return Some(u32::from_ne_bytes(rest.get(4..8)?.try_into().ok()?));
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
        let sockets = UnixSockets::default();
        assert_eq!(sockets.peer(inode(&one)), Some(inode(&other)));
        assert_eq!((sockets.waiting(inode(&one)), sockets.waiting(inode(&other))), (Some(5), Some(0)));
        assert_eq!(sockets.peer(1), None);
    }

    proptest! {
        /// No answer makes it panic or run on.
        #[test]
        fn survives_any_answer(answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            attribute(&answer, PEER);
        }
    }
}
