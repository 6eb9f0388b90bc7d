//! Records of the ring buffer, decoded.

use profiler_common::{
    COMM_LEN, ClientWriteEvent, EventHeader, EventKind, ExecEvent, ForkEvent, FrameTag, SampleEvent, V8Frame,
    WireEvent,
};

/// What happened to a watched process.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event<'a> {
    /// Frames are innermost first.
    Sample {
        sample: SampleEvent,
        kernel: Vec<u64>,
        user: Vec<UserFrame>,
    },
    Fork {
        timestamp_ns: u64,
        parent: u32,
        child: u32,
    },
    /// Arguments, each ended by NUL; what is too long is cut.
    Exec {
        timestamp_ns: u64,
        pid: u32,
        arguments: &'a [u8],
    },
    Exit {
        timestamp_ns: u64,
        pid: u32,
    },
    Wire {
        wire: WireEvent,
        bytes: &'a [u8],
    },
    ClientWrite(ClientWriteEvent),
}

/// A frame of user code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserFrame {
    /// The address of an instruction, or a return address.
    Native(u64),
    /// The same, in code that the kernel itself said is mapped there at that moment.
    Found(u64),
    /// A function of CPython.
    Python(PythonFrame),
    /// A coroutine of an asyncio task that waits for the task whose frames come before it.
    Waiting(PythonFrame),
    /// A frame of V8.
    JavaScript(V8Frame),
}

/// A code object, the instruction in it, and what the code object is known again by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PythonFrame {
    pub(super) code: u64,
    pub(super) instruction: u32,
    pub(super) fingerprint: u32,
}

impl PythonFrame {
    fn of(first: u64, second: u64) -> Self {
        let code = FrameTag::figure(first);
        Self { code, instruction: (second >> 32) as u32, fingerprint: second as u32 }
    }
}

impl<'a> Event<'a> {
    /// `None` when the bytes are not a record of this version of the kernel half.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let header: EventHeader = read(bytes)?;
        let EventHeader { pid, timestamp_ns, .. } = header;
        Some(match EventKind::from_number(header.kind)? {
            EventKind::Sample => {
                let sample: SampleEvent = read(bytes)?;
                let (words, _) = bytes.get(size_of::<SampleEvent>()..)?.as_chunks();
                let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
                let kernel: Vec<u64> = words.by_ref().take(sample.kernel_frames.into()).collect();
                let user: Vec<u64> = words.take(sample.user_words.into()).collect();
                if kernel.len() != usize::from(sample.kernel_frames)
                    || user.len() != usize::from(sample.user_words)
                {
                    return None;
                }
                Self::Sample { sample, kernel, user: user_frames(&user)? }
            }
            EventKind::Fork => {
                Self::Fork { timestamp_ns, parent: pid, child: read::<ForkEvent>(bytes)?.child_pid }
            }
            EventKind::Exec => {
                let length = read::<ExecEvent>(bytes)?.length as usize;
                let arguments = bytes.get(size_of::<ExecEvent>()..)?.get(..length)?;
                Self::Exec { timestamp_ns, pid, arguments }
            }
            EventKind::Exit => Self::Exit { timestamp_ns, pid },
            EventKind::Wire => {
                let wire: WireEvent = read(bytes)?;
                let bytes = bytes.get(size_of::<WireEvent>()..)?.get(..wire.length as usize)?;
                Self::Wire { wire, bytes }
            }
            EventKind::ClientWrite => Self::ClientWrite(read(bytes)?),
        })
    }
}

/// When it happened; `None` when it is too short for a record.
pub(super) fn timestamp_ns(record: &[u8]) -> Option<u64> {
    read(record).map(|header: EventHeader| header.timestamp_ns)
}

fn user_frames(mut words: &[u64]) -> Option<Vec<UserFrame>> {
    let mut frames = Vec::with_capacity(words.len());
    // The coroutines of a task that waits come from the outermost one on.
    let mut innermost = 0;
    while let Some(first) = words.first() {
        let tag = FrameTag::of(*first)?;
        let (frame, rest) = words.split_at_checked(tag.words())?;
        let next = match tag {
            FrameTag::Native => UserFrame::Native(frame[0]),
            FrameTag::Found => UserFrame::Found(FrameTag::figure(frame[0])),
            FrameTag::Python => UserFrame::Python(PythonFrame::of(frame[0], frame[1])),
            FrameTag::JavaScript => UserFrame::JavaScript(V8Frame::from_words(frame.try_into().ok()?)?),
            FrameTag::WaitingTask | FrameTag::Waiting => {
                UserFrame::Waiting(PythonFrame::of(frame[0], frame[1]))
            }
        };
        if tag == FrameTag::Waiting {
            frames.insert(innermost, next);
        } else {
            innermost = frames.len();
            frames.push(next);
        }
        words = rest;
    }
    Some(frames)
}

/// A thread name as text.
pub(super) fn thread_name(comm: &[u8; COMM_LEN]) -> String {
    let length = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..length]).into_owned()
}

fn read<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    /// A sample comes back with its addresses; one that is cut short does not.
    #[test]
    fn decodes_samples() {
        let mut sample = SampleEvent::zeroed();
        sample.header.kind = EventKind::Sample as u32;
        sample.kernel_frames = 1;
        sample.user_words = 1;
        let mut bytes = bytemuck::bytes_of(&sample).to_vec();
        bytes.extend(7_u64.to_ne_bytes());
        assert_eq!(Event::decode(&bytes), None);
        bytes.extend(8_u64.to_ne_bytes());
        assert_eq!(
            Event::decode(&bytes),
            Some(Event::Sample { sample, kernel: vec![7], user: vec![UserFrame::Native(8)] })
        );
    }

    /// A program that starts comes back with its arguments; one that is cut short does not.
    #[test]
    fn decodes_programs() {
        let mut exec = ExecEvent::zeroed();
        (exec.header.kind, exec.header.pid, exec.length) = (EventKind::Exec as u32, 7, 5);
        let mut bytes = bytemuck::bytes_of(&exec).to_vec();
        bytes.extend(b"ls\0a");
        assert_eq!(Event::decode(&bytes), None);
        bytes.push(0);
        assert_eq!(
            Event::decode(&bytes),
            Some(Event::Exec { timestamp_ns: 0, pid: 7, arguments: b"ls\0a\0" })
        );
    }

    /// The coroutines of each task that waits come out innermost first, as all frames do.
    #[test]
    fn waiting_tasks_are_turned_round() {
        let words = |tag: FrameTag, code| [tag.word(code), 1 << 32 | code];
        let frame = |code: u64| PythonFrame { code, instruction: 1, fingerprint: code as u32 };
        let sent = [
            words(FrameTag::Python, 1),
            words(FrameTag::WaitingTask, 4),
            words(FrameTag::Waiting, 3),
            words(FrameTag::Waiting, 2),
            words(FrameTag::WaitingTask, 6),
            words(FrameTag::Waiting, 5),
        ];
        let mut expected: Vec<UserFrame> = (2..=6).map(|code| UserFrame::Waiting(frame(code))).collect();
        expected.insert(0, UserFrame::Python(frame(1)));
        assert_eq!(user_frames(&sent.concat()), Some(expected));
        // A record that no kernel half writes.
        assert_eq!(user_frames(&words(FrameTag::Waiting, 7)), Some(vec![UserFrame::Waiting(frame(7))]));
    }

    proptest! {
        /// No bytes make the decoder panic.
        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..128), kind in 0..7_u8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = Event::decode(&bytes);
        }
    }
}
