//! Frames of V8: what the kernel half needs to know of a process that runs V8, and what it says of a frame.

use crate::FrameTag;

/// Where V8 keeps what identifies a function, in a process. Offsets are in bytes from an object's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct V8Process {
    /// `InterpreterEntryTrampoline`, in the address space that the file's unwind rows count in.
    pub trampoline_start: u64,
    /// Its size in bytes; zero when it is not known.
    pub trampoline_bytes: u64,
    /// `JSFunction::shared`.
    pub function_shared: u32,
    /// `SharedFunctionInfo::script`. The function's number in its script is 20 bytes behind it.
    pub shared_script: u32,
    /// `Script::id`.
    pub script_id: u32,
    /// `HeapObject::map` is at 0 in all versions; this is `Map::instance_type`.
    pub map_instance_type: u32,
    /// Instance type of a `BytecodeArray`.
    pub bytecode_array_type: u32,
    /// Always zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, two `u64` and six `u32` without padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for V8Process {}

/// Bytes from `SharedFunctionInfo::script` to `function_literal_id`: in V8 10.2 to 14.6 there are a word, four shorts
/// and the flags between them (`src/objects/shared-function-info.tq`).
pub const SCRIPT_TO_FUNCTION_ID: usize = 20;

/// A frame of V8, in three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum V8Frame {
    /// A function of a script.
    Function {
        /// Address of its `SharedFunctionInfo` when the sample was taken. The collector may move it.
        shared: u64,
        /// `Script::id`: never changes, and is not used again in the same isolate.
        script: u32,
        /// Number of the function in its script.
        function: u32,
        /// Where in it.
        place: V8Place,
    },
    /// Code without a function: a stub, a regular expression, WebAssembly.
    Marked {
        /// V8's number of the frame's type (`src/execution/frames.h`).
        frame_type: u32,
        /// Address in machine code.
        address: u64,
    },
}

/// Where in a function a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum V8Place {
    /// In bytecode, at this offset.
    Bytecode(u32),
    /// In machine code that V8 made, at this address.
    Code(u64),
    /// Perhaps behind this address: the function called a builtin that has no frame of its own, and this is what is
    /// on top of the stack. Zero: nothing is known.
    Call(u64),
}

const KIND_BITS: u64 = 7;
const BYTECODE: u64 = 0;
const CODE: u64 = 1;
const MARKED: u64 = 2;
const CALL: u64 = 3;

impl V8Frame {
    /// As it is sent.
    #[inline(always)]
    pub fn words(self) -> [u64; 3] {
        match self {
            Self::Function { shared, script, function, place } => {
                let (kind, place) = match place {
                    V8Place::Bytecode(offset) => (BYTECODE, u64::from(offset)),
                    V8Place::Code(address) => (CODE, address),
                    V8Place::Call(address) => (CALL, address),
                };
                let identity = u64::from(script) << 32 | u64::from(function);
                [FrameTag::JavaScript.word(shared & !KIND_BITS | kind), identity, place]
            }
            Self::Marked { frame_type, address } => {
                [FrameTag::JavaScript.word(u64::from(frame_type) << 3 | MARKED), 0, address]
            }
        }
    }

    /// The address of its machine code, if that is where it is.
    pub fn address(self) -> Option<u64> {
        match self {
            Self::Function { place: V8Place::Code(address), .. } | Self::Marked { address, .. } => {
                Some(address)
            }
            Self::Function { place: V8Place::Bytecode(_) | V8Place::Call(_), .. } => None,
        }
    }

    /// What was sent; `None` when it is none of these.
    pub fn from_words([first, second, third]: [u64; 3]) -> Option<Self> {
        let figure = FrameTag::figure(first);
        let place = match figure & KIND_BITS {
            BYTECODE => V8Place::Bytecode(u32::try_from(third).ok()?),
            CODE => V8Place::Code(third),
            CALL => V8Place::Call(third),
            MARKED => return Some(Self::Marked { frame_type: (figure >> 3) as u32, address: third }),
            _ => return None,
        };
        let (shared, script, function) = (figure & !KIND_BITS, (second >> 32) as u32, second as u32);
        Some(Self::Function { shared, script, function, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent is what comes out.
    #[test]
    fn frames_are_sent_in_words() {
        for place in [V8Place::Bytecode(77), V8Place::Code(0x7fff_1234_5678), V8Place::Call(0)] {
            let frame = V8Frame::Function { shared: 0x3da9_f55d_d330, script: 9, function: u32::MAX, place };
            assert_eq!(V8Frame::from_words(frame.words()), Some(frame));
        }
        let frame = V8Frame::Marked { frame_type: 27, address: 0x1234 };
        assert_eq!(V8Frame::from_words(frame.words()), Some(frame));
        assert_eq!(V8Frame::from_words([FrameTag::JavaScript.word(7), 0, 0]), None);
    }
}
