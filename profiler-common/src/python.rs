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
    /// `PyCodeObject.co_flags`.
    pub code_flags: u32,
    /// How to find who waits for a task.
    pub tasks: TaskLayout,
}

/// Where `asyncio` and coroutines keep who waits for whom. Offsets in bytes, as in [`PythonLayout`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct TaskLayout {
    /// A [`TaskSource`].
    pub source: u32,
    /// `PyTypeObject.tp_name`.
    pub type_name: u32,
    /// The frame in a coroutine, generator or asynchronous generator.
    pub coroutine_frame: u32,
    /// 1 when that is a pointer to the frame (until 3.10), 0 when it is the frame itself.
    pub is_frame_apart: u32,
    /// A frame's first local variable.
    pub frame_locals: u32,
    /// In a frame: the pointer behind the top of its evaluation stack. [`PythonLayout::NONE`] where the next two tell it.
    pub stack_pointer: u32,
    /// How many values there are on that stack: 32 bits.
    pub stack_depth: u32,
    /// The pointer to its first value; [`PythonLayout::NONE`]: it starts with the local variables.
    pub stack_base: u32,
    /// `TaskObj.task_coro`.
    pub task_coroutine: u32,
    /// Of [`TaskSource::Callbacks`]: `PyFunctionObject.func_closure`, `func_module` and `func_qualname`.
    pub function_closure: u32,
    /// See there.
    pub function_module: u32,
    /// See there.
    pub function_name: u32,
    /// Where the text of an ASCII string starts.
    pub string_data: u32,
    /// An [`InstanceValues`].
    pub instance_values: u32,
    /// Of [`TaskSource::AwaitedBy`]: `asyncio_running_task` in the thread's state.
    pub running_task: u32,
    /// `task_awaited_by`: the future or task that waits, or a set of such.
    pub awaited_by: u32,
    /// The byte `task_awaited_by_is_set`.
    pub awaited_by_is_set: u32,
    /// The byte `task_is_task`: not zero in a task, zero in another future.
    pub is_task: u32,
    /// `PySetObject.table`.
    pub set_table: u32,
    /// `PySetObject.mask`.
    pub set_mask: u32,
}

/// What tells who waits for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TaskSource {
    /// Nothing that we know.
    None = 0,
    /// What it will call when it is done (until 3.13).
    Callbacks = 1,
    /// The task itself (from 3.14 on).
    AwaitedBy = 2,
}

/// Where an object of a class written in Python has its attributes, in the order in which they were first set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InstanceValues {
    /// Not read.
    None = 0,
    /// Where a pointer 32 bytes before the object leads (3.11).
    Pointer = 1,
    /// Where a pointer 24 bytes before the object leads, which is one less than it should be (3.12).
    Tagged = 2,
    /// 8 bytes behind the end of an object without slots (3.13).
    Inline = 3,
    /// In a dictionary (until 3.10).
    Dictionary = 4,
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
    /// `co_flags` of a coroutine: `CO_COROUTINE` or `CO_ITERABLE_COROUTINE`.
    pub const COROUTINE_FLAGS: u64 = 0x180;
    /// `co_flags` of whatever can be suspended: `CO_GENERATOR`, `CO_ASYNC_GENERATOR` and the two above.
    pub const GENERATOR_FLAGS: u64 = 0x3a0;
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
