//! Asks a running .NET runtime for a perf map, by its diagnostics protocol
//! (`documentation/design-docs/ipc-protocol.md` of dotnet/diagnostics, `src/native/eventpipe/ds-types.h` of dotnet/runtime 8):
//! a message is `DOTNET_IPC_V1`, its length, a command set and a command, and a payload.

use std::io::{Read, Write};

use super::AskError;
use super::peer::{Peer, stream};
use crate::target::Process;

const MAGIC: &[u8; 14] = b"DOTNET_IPC_V1\0";
/// The magic, the length (2 bytes), command set, command, and 2 reserved bytes.
const HEADER: usize = 20;
const PROCESS_COMMANDS: u8 = 0x04;
/// From .NET 8 on.
const ENABLE_PERF_MAP: u8 = 0x05;
const DISABLE_PERF_MAP: u8 = 0x06;
/// `PerfMapType`: a perf map and nothing else.
const PERF_MAP: [u8; 4] = 3_u32.to_le_bytes();
/// Command set of answers, and the command of those that say yes.
const ANSWERS: u8 = 0xff;
const OK: u8 = 0x00;

/// Has the runtime write the names of all code that it compiled into its perf map, and no more after that. Returns whether the map
/// was there before.
///
/// # Errors
/// When there is no socket, it is not to be trusted, or the runtime refuses: before .NET 8 it does not know the command.
pub(crate) fn request_perf_map(process: &Process) -> Result<bool, AskError> {
    let peer = Peer::of(process)?;
    let existed = peer.check_map()?;
    command(&peer, ENABLE_PERF_MAP, &PERF_MAP)?;
    // It has written what there is: were it left enabled, each method that is compiled later would cost a little more.
    command(&peer, DISABLE_PERF_MAP, &[])?;
    Ok(existed)
}

/// Each command has a connection of its own.
fn command(peer: &Peer<'_>, command: u8, payload: &[u8]) -> Result<(), AskError> {
    let start_ticks = peer.process.stat()?.start_ticks;
    let name = format!("dotnet-diagnostic-{}-{start_ticks}-socket", peer.pid);
    let mut connection = peer.connect(&name)?.ok_or(AskError::NoDiagnostics)?;
    let talk = stream("the .NET runtime did not answer");
    connection.write_all(&message(command, payload)).map_err(&talk)?;
    let mut answer = [0; HEADER + 4];
    let mut length = 0;
    while length < answer.len() {
        match connection.read(&mut answer[length..]).map_err(&talk)? {
            0 => break,
            read => length += read,
        }
    }
    judge(&answer[..length])
}

fn message(command: u8, payload: &[u8]) -> Vec<u8> {
    let length = (HEADER + payload.len()) as u16;
    let mut message = MAGIC.to_vec();
    message.extend(length.to_le_bytes());
    message.extend([PROCESS_COMMANDS, command, 0, 0]);
    message.extend(payload);
    message
}

/// A result follows the header: 0 for success.
fn judge(answer: &[u8]) -> Result<(), AskError> {
    let result = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
    match answer.split_at_checked(HEADER) {
        Some((header, rest)) if header.starts_with(MAGIC) && header[16] == ANSWERS => {
            match (header[17], result(rest)) {
                (OK, Some(0)) => Ok(()),
                (_, Some(code)) => Err(AskError::Refused(format!("error {code:#x}"))),
                (_, None) => Err(AskError::Refused("without a result".to_owned())),
            }
        }
        _ => Err(AskError::Refused("nothing that is understood".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages of the specification, byte for byte.
    #[test]
    fn messages() {
        assert_eq!(message(ENABLE_PERF_MAP, &PERF_MAP), *b"DOTNET_IPC_V1\0\x18\0\x04\x05\0\0\x03\0\0\0");
        assert_eq!(message(DISABLE_PERF_MAP, &[]), *b"DOTNET_IPC_V1\0\x14\0\x04\x06\0\0");
        assert!(judge(b"DOTNET_IPC_V1\0\x18\0\xff\0\0\0\0\0\0\0").is_ok());
        let unknown = judge(b"DOTNET_IPC_V1\0\x18\0\xff\xff\0\0\x85\x13\x13\x80").unwrap_err();
        assert_eq!(unknown.to_string(), "it answered: error 0x80131385");
    }

    /// A process without a socket is told apart.
    #[test]
    fn others_have_no_socket() {
        let process = Process::open(std::process::id()).unwrap();
        assert!(matches!(request_perf_map(&process), Err(AskError::NoDiagnostics)));
    }

    proptest! {
        /// No answer makes a panic, and only the right one is a success.
        #[test]
        fn any_answer(answer in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(judge(&answer).is_err());
        }
    }
}
