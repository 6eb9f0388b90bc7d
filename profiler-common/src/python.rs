//! Where CPython keeps what the kernel half reads of it.

/// Offsets in bytes within a process's CPython; [`PythonLayout::NONE`] for what its version has not.
///
/// A thread's state is found through the thread-specific word that `PyGILState_GetThisThreadState()` reads: it stays while
/// the thread does not hold the interpreter's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct PythonLayout {
    /// Address of `PyCode_Type`, the type of code objects; zero when it is not known.
    pub code_type: u64,
    /// From the thread pointer (the `fs` base) to that word, or to a pointer towards it.
    pub slot: u32,
    /// From there to that word, when the one before is a pointer.
    pub slot_inner: u32,
    /// `PyThreadState.thread_id`: the thread pointer again.
    pub thread_id: u32,
    /// `PyThreadState.cframe`: a structure on the C stack of each evaluation (3.11 and 3.12).
    pub thread_cframe: u32,
    /// Where the pointer to the innermost frame is: in the `cframe` where there is one, else in the thread's state.
    pub current_frame: u32,
    /// `PyObject.ob_type`.
    pub object_type: u32,
    /// `_PyCFrame.previous`.
    pub cframe_previous: u32,
    /// How much of a frame is read: at most [`PythonLayout::MAX_FRAME_BYTES`].
    pub frame_bytes: u32,
    /// The code object of a frame.
    pub frame_code: u32,
    /// Low bits of that pointer that are marks, not part of it.
    pub code_marks: u32,
    /// The frame of the caller.
    pub frame_previous: u32,
    /// The instruction of a frame: a pointer, or `f_lasti` where [`Self::code_instructions`] is not there.
    pub frame_instruction: u32,
    /// The byte that [`Self::entry`] is about.
    pub frame_entry: u32,
    /// A [`PythonEntry`].
    pub entry: u32,
    /// First instruction in a code object.
    pub code_instructions: u32,
    /// First of the words of a code object by which it is known again.
    pub code_identity: u32,
    /// How much of a code object is read: to the end of four words from there on, and at most
    /// [`PythonLayout::MAX_IDENTITY_BYTES`].
    pub code_bytes: u32,
    /// How many of the four words matter: 3 or 4.
    pub code_identity_words: u32,
    /// The hash in a string object.
    pub string_hash: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Which of the chained frames the C function that evaluates them started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PythonEntry {
    /// Each: a call of a Python function is a call of the C function (until 3.10).
    Each = 0,
    /// The one whose `is_entry` is set (3.11).
    Flag = 1,
    /// The one above a frame that belongs to the C function itself (from 3.12 on): its owner is
    /// `FRAME_OWNED_BY_CSTACK`, or `FRAME_OWNED_BY_INTERPRETER`, or one of a higher number.
    Owner = 2,
}

impl PythonLayout {
    /// The version has no such field.
    pub const NONE: u32 = u32::MAX;
    /// Most of a frame that is read.
    pub const MAX_FRAME_BYTES: usize = 128;
    /// As much of a code object as is read: to the end of the words that it is known again by. A power of two.
    pub const MAX_IDENTITY_BYTES: usize = 256;
    /// The least `owner` of a frame that is no function's (`FRAME_OWNED_BY_CSTACK`).
    pub const FIRST_OWNER_WITHOUT_FUNCTION: u64 = 3;
    /// The greatest `owner`, of any version.
    pub const LAST_OWNER: u64 = 4;
    /// An instruction that is not within its code, or that can't be told.
    pub const NO_INSTRUCTION: u32 = u32::MAX;
}

/// Most processes whose Python frames are read at one time.
pub const MAX_PYTHON_PROCESSES: u32 = 1024;

/// Knows a code object again when its address is used for another one: a hash of the addresses of its file name, name, and
/// what follows them, and of the hash of its name, since what they point to may have taken the place of others too. Zero
/// stands for "not known".
#[inline(always)]
pub fn code_fingerprint(identity: [u64; 4], name_hash: u64) -> u32 {
    let mut hash = name_hash;
    for word in identity {
        // The multiplier of FxHash; its high bits are the well mixed ones.
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    (hash >> 32) as u32 | 1
}

// SAFETY: `repr(C)`, a `u64` and `u32` of an even number: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for PythonLayout {}
