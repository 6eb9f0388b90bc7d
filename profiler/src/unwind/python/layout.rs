//! Where each version of CPython keeps what is read of it.

use profiler_common::{InstanceValues, PythonEntry, PythonLayout, TaskLayout, TaskSource};

use object::read::{Object as _, ObjectSection as _};

use crate::target::TargetMemory;
use crate::unwind::table::ElfFile;

const NONE: u32 = PythonLayout::NONE;
/// Larger structures there are not.
const MAX_OFFSET: u64 = 1 << 20;
/// Four words.
const IDENTITY_BYTES: u32 = 32;

/// Tasks, as most versions keep them. Sources: `Modules/_asynciomodule.c`, `Include/cpython/genobject.h` and `funcobject.h`, and
/// `Include/internal/pycore_frame.h` of 3.9.18 to 3.13.0. That an offset is right is seen again with each task: it and its
/// coroutine's frame must agree.
const TASKS: TaskLayout = TaskLayout {
    source: TaskSource::Callbacks as u32,
    type_name: 24,
    coroutine_frame: 72,
    is_frame_apart: 0,
    frame_locals: 72,
    stack_pointer: NONE,
    stack_depth: 64,
    stack_base: NONE,
    task_coroutine: 136,
    function_closure: 72,
    function_module: 104,
    function_name: 40,
    string_data: 48,
    instance_values: InstanceValues::None as u32,
    running_task: NONE,
    awaited_by: NONE,
    awaited_by_is_set: NONE,
    is_task: NONE,
    set_table: NONE,
    set_mask: NONE,
};

/// Offsets in bytes within the interpreter's structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What the kernel half reads.
    pub(crate) kernel: PythonLayout,
    /// `_PyRuntimeState.interpreters.head`.
    pub(super) interpreters_head: u64,
    /// `PyInterpreterState.threads.head`, before 3.11 `tstate_head`.
    pub(super) threads_head: u64,
    /// `PyThreadState.next`.
    pub(super) next_thread: u64,
    /// `PyCodeObject.co_firstlineno`.
    pub(crate) first_line: u64,
    /// `PyTypeObject.tp_name`.
    pub(crate) type_name: u64,
    /// `PyBytesObject.ob_size` and `ob_sval`.
    pub(crate) bytes_size: u64,
    pub(crate) bytes_data: u64,
    pub(crate) string: StringLayout,
    pub(crate) lines: LineTableKind,
}

/// `PyASCIIObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StringLayout {
    pub(crate) length: u64,
    pub(crate) state: u64,
    /// How many bits of the state are before `kind`.
    pub(crate) kind_shift: u32,
    /// Where the text of an ASCII string starts.
    pub(crate) ascii_data: u64,
    /// Where the text of another compact string starts.
    pub(crate) compact_data: u64,
}

/// How a code object tells lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LineTableKind {
    /// `co_lnotab` (until 3.9).
    Lnotab,
    /// `co_linetable` of 3.10.
    Lines,
    /// `co_linetable` from 3.11 on: locations.
    Locations,
}

impl Layout {
    /// Versions that do not tell their layout.
    ///
    /// Sources: `Include/internal/pycore_runtime.h`, `pycore_interp.h`, `pycore_frame.h`, `Include/cpython/pystate.h`,
    /// `code.h`, `frameobject.h` and `unicodeobject.h` of 3.9.18, 3.10.13, 3.11.7 and 3.12.1, as a C compiler lays them out
    /// (`offsetof`) for x86-64. They do not change within a version once that is released.
    pub(crate) fn of_version(minor: u8) -> Option<Self> {
        let common = Self {
            kernel: PythonLayout {
                code_type: 0,
                slot: NONE,
                slot_inner: NONE,
                thread_id: 0,
                thread_cframe: NONE,
                current_frame: 0,
                object_type: 8,
                cframe_previous: NONE,
                frame_bytes: 80,
                frame_code: 32,
                code_marks: 0,
                frame_previous: 0,
                frame_instruction: 0,
                frame_entry: 0,
                entry: PythonEntry::Each as u32,
                code_instructions: NONE,
                code_identity: 0,
                code_bytes: 0,
                code_identity_words: 4,
                string_hash: 24,
                code_flags: 48,
                tasks: TASKS,
            },
            interpreters_head: 40,
            threads_head: 0,
            next_thread: 8,
            first_line: 0,
            type_name: 24,
            bytes_size: 16,
            bytes_data: 32,
            string: StringLayout { length: 16, state: 32, kind_shift: 2, ascii_data: 48, compact_data: 72 },
            lines: LineTableKind::Locations,
        };
        Some(match minor {
            9 | 10 => Self {
                kernel: PythonLayout {
                    thread_id: 176,
                    current_frame: 24,
                    frame_bytes: 112,
                    frame_previous: 24,
                    frame_instruction: if minor == 9 { 104 } else { 96 },
                    code_identity: 104,
                    code_bytes: 104 + IDENTITY_BYTES,
                    code_identity_words: 3,
                    code_flags: 36,
                    tasks: TaskLayout {
                        coroutine_frame: 16,
                        is_frame_apart: 1,
                        frame_locals: if minor == 9 { 360 } else { 352 },
                        stack_pointer: if minor == 9 { 72 } else { NONE },
                        stack_depth: 80,
                        stack_base: 64,
                        task_coroutine: if minor == 9 { 152 } else { 160 },
                        function_closure: if minor == 9 { 48 } else { 72 },
                        function_module: if minor == 9 { 88 } else { 104 },
                        function_name: if minor == 9 { 104 } else { 40 },
                        instance_values: InstanceValues::Dictionary as u32,
                        ..TASKS
                    },
                    ..common.kernel
                },
                interpreters_head: 32,
                threads_head: 8,
                first_line: 40,
                lines: if minor == 9 { LineTableKind::Lnotab } else { LineTableKind::Lines },
                ..common
            },
            11 => Self {
                kernel: PythonLayout {
                    thread_id: 152,
                    thread_cframe: 56,
                    current_frame: 8,
                    cframe_previous: 16,
                    frame_previous: 48,
                    frame_instruction: 56,
                    frame_entry: 68,
                    entry: PythonEntry::Flag as u32,
                    code_instructions: 184,
                    code_identity: 112,
                    code_bytes: 112 + IDENTITY_BYTES,
                    tasks: TaskLayout {
                        coroutine_frame: 80,
                        instance_values: InstanceValues::Pointer as u32,
                        ..TASKS
                    },
                    ..common.kernel
                },
                threads_head: 16,
                first_line: 72,
                ..common
            },
            12 => Self {
                kernel: PythonLayout {
                    thread_id: 136,
                    thread_cframe: 56,
                    current_frame: 0,
                    cframe_previous: 8,
                    frame_code: 0,
                    frame_previous: 8,
                    frame_instruction: 56,
                    frame_entry: 70,
                    entry: PythonEntry::Owner as u32,
                    code_instructions: 192,
                    code_identity: 112,
                    code_bytes: 112 + IDENTITY_BYTES,
                    tasks: TaskLayout {
                        string_data: 40,
                        instance_values: InstanceValues::Tagged as u32,
                        ..TASKS
                    },
                    ..common.kernel
                },
                threads_head: 72,
                first_line: 68,
                string: StringLayout { ascii_data: 40, compact_data: 56, ..common.string },
                ..common
            },
            _ => return None,
        })
    }

    /// Versions that tell their layout: `_PyRuntime` starts with a `_Py_DebugOffsets` (`Include/internal/pycore_runtime.h` of
    /// 3.13, `pycore_debug_offsets.h` of 3.14). What is where in it differs between versions, so others are refused.
    pub(crate) fn published(minor: u8, runtime: u64, memory: &TargetMemory) -> Option<Self> {
        let mut bytes = [0; 87 * 8];
        memory.read(runtime, &mut bytes)?;
        let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Self::from_debug_offsets(minor, &words)
    }

    fn from_debug_offsets(minor: u8, words: &[u64]) -> Option<Self> {
        const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");
        // Where the structures that are needed start: `thread_state`, `interpreter_frame`, `code_object`, `pyobject`,
        // `type_object`, `bytes_object`, `unicode_object`. Each starts with its size.
        let [thread, frame, code, object, ty, bytes, unicode] = match minor {
            13 => [19, 28, 34, 44, 46, 64, 67],
            14 => [22, 31, 39, 50, 52, 74, 77],
            _ => return None,
        };
        let at = |index: usize| words.get(index).copied().filter(|offset| *offset < MAX_OFFSET);
        let word = |index: usize| at(index).map(|offset| offset as u32);
        if *words.first()? != COOKIE || super::minor_of_hex(*words.get(1)?) != Some(minor) {
            return None;
        }
        let is_free_threaded = at(2)? != 0;
        let identity = at(code + 1)?;
        let is_in_order = (1..4).all(|step| at(code + 1 + step) == Some(identity + 8 * step as u64));
        let frame_bytes = word(frame)?;
        let fields = [at(frame + 1)? + 8, at(frame + 2)? + 8, at(frame + 3)? + 8, at(frame + 5)? + 1];
        let ascii_data = at(unicode + 3)?;
        if !is_in_order
            || frame_bytes as usize > PythonLayout::MAX_FRAME_BYTES
            || identity as usize + IDENTITY_BYTES as usize > PythonLayout::MAX_IDENTITY_BYTES
            || fields.iter().any(|end| *end > u64::from(frame_bytes))
        {
            return None;
        }
        let ascii = word(unicode + 3)?;
        let tasks = match minor {
            13 if !is_free_threaded => TaskLayout {
                frame_locals: word(frame + 4)?,
                task_coroutine: 120,
                string_data: ascii,
                instance_values: InstanceValues::Inline as u32,
                ..TASKS
            },
            // `set_object`, `gen_object`. The rest is told by another module: `Layout::set_tasks`.
            14 => TaskLayout {
                source: TaskSource::None as u32,
                type_name: word(ty + 1)?,
                coroutine_frame: word(85)?,
                frame_locals: word(frame + 4)?,
                stack_pointer: word(frame + 6)?,
                set_table: word(64)?,
                set_mask: word(65)?,
                ..TASKS
            },
            _ => TaskLayout { source: TaskSource::None as u32, ..TASKS },
        };
        Some(Self {
            kernel: PythonLayout {
                code_type: 0,
                slot: NONE,
                slot_inner: NONE,
                thread_id: word(thread + 5)?,
                thread_cframe: NONE,
                current_frame: word(thread + 4)?,
                object_type: word(object + 1)?,
                cframe_previous: NONE,
                frame_bytes,
                frame_code: word(frame + 2)?,
                // `_PyStackRef` of `Include/internal/pycore_stackref.h`.
                code_marks: if minor >= 14 { 3 } else { 0 },
                frame_previous: word(frame + 1)?,
                frame_instruction: word(frame + 3)?,
                frame_entry: word(frame + 5)?,
                entry: PythonEntry::Owner as u32,
                code_instructions: word(code + 9)?,
                code_identity: identity as u32,
                code_bytes: identity as u32 + IDENTITY_BYTES,
                code_identity_words: 4,
                // Behind `length`.
                string_hash: word(unicode + 2)? + 8,
                // Before `co_argcount`, which is told.
                code_flags: word(code + 6)?.checked_sub(4)?,
                tasks,
            },
            interpreters_head: at(5)?,
            threads_head: at(9)?,
            next_thread: at(thread + 2)?,
            first_line: at(code + 5)?,
            type_name: at(ty + 1)?,
            bytes_size: at(bytes + 1)?,
            bytes_data: at(bytes + 2)?,
            string: StringLayout {
                state: at(unicode + 1)?,
                length: at(unicode + 2)?,
                // `interned` is a byte of its own where it is read without the interpreter's lock.
                kind_shift: if is_free_threaded && minor >= 14 { 8 } else { 2 },
                ascii_data,
                // `utf8_length` and `utf8` follow.
                compact_data: ascii_data + 16,
            },
            lines: LineTableKind::Locations,
        })
    }

    /// The module `_asyncio` tells where it keeps what tasks wait for.
    pub(crate) fn set_tasks(&mut self, asyncio: &AsyncioOffsets) {
        let tasks = &mut self.kernel.tasks;
        if tasks.source == TaskSource::None as u32 && tasks.stack_pointer != NONE {
            *tasks = TaskLayout {
                source: TaskSource::AwaitedBy as u32,
                task_coroutine: asyncio.task_coroutine,
                running_task: asyncio.running_task,
                awaited_by: asyncio.awaited_by,
                awaited_by_is_set: asyncio.awaited_by_is_set,
                is_task: asyncio.is_task,
                ..*tasks
            };
        }
    }
}

/// What `_asyncio` of 3.14 says of itself in its section `.AsyncioDebug`: the offsets in bytes of `struct _Py_AsyncioModuleDebugOffsets`
/// (`Modules/_asynciomodule.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AsyncioOffsets {
    task_coroutine: u32,
    running_task: u32,
    awaited_by: u32,
    awaited_by_is_set: u32,
    is_task: u32,
}

impl AsyncioOffsets {
    /// `None` for a file that says nothing, or something else.
    pub(crate) fn read(object: &ElfFile<'_>) -> Option<Self> {
        let section = object.section_by_name(".AsyncioDebug")?;
        // Not more is read than there is in any version that we know.
        if section.size() == 13 * 8 { Self::from_bytes(section.data().ok()?) } else { None }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let words: [[u8; 8]; 13] = bytes.as_chunks().0.try_into().ok()?;
        let [task_size, _, awaited_by, is_task, is_set, coroutine, _, _, _, thread_size, _, running, _] =
            words.map(u64::from_le_bytes);
        let within = |offset: u64, width: u64, size: u64| {
            (offset.checked_add(width)? <= size && size <= MAX_OFFSET).then_some(offset as u32)
        };
        Some(Self {
            task_coroutine: within(coroutine, 8, task_size)?,
            running_task: within(running, 8, thread_size)?,
            awaited_by: within(awaited_by, 8, task_size)?,
            awaited_by_is_set: within(is_set, 1, task_size)?,
            is_task: within(is_task, 1, task_size)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Versions that do not tell their layout are those before 3.13, and none is guessed.
    #[test]
    fn versions_are_not_guessed() {
        let known: Vec<u8> = (0..=u8::MAX).filter(|minor| Layout::of_version(*minor).is_some()).collect();
        assert_eq!(known, [9, 10, 11, 12]);
        for minor in known {
            let kernel = Layout::of_version(minor).unwrap().kernel;
            let last = kernel.frame_instruction.max(kernel.frame_code).max(kernel.frame_previous) + 4;
            assert!(last <= kernel.frame_bytes, "3.{minor}");
        }
    }

    /// What a program publishes is believed only for the version that it was written down for.
    #[test]
    fn published_offsets_have_a_version() {
        let mut words = vec![0_u64; 81];
        words[0] = u64::from_le_bytes(*b"xdebugpy");
        words[1] = 0x030d_00f0;
        words[40] = 52;
        (words[28], words[29], words[30], words[31], words[33]) = (80, 8, 0, 56, 70);
        (words[35], words[36], words[37], words[38]) = (112, 120, 128, 136);
        let layout = Layout::from_debug_offsets(13, &words).unwrap();
        assert_eq!((layout.kernel.frame_instruction, layout.kernel.code_identity), (56, 112));
        assert_eq!(Layout::from_debug_offsets(14, &words), None);
        assert_eq!(Layout::from_debug_offsets(15, &words), None);
        words[28] = 4096;
        assert_eq!(Layout::from_debug_offsets(13, &words), None, "a frame is not that large");
    }

    /// `_asyncio` of Debian's 3.14; the same with a task too small for its fields; and something shorter.
    #[test]
    fn asyncio_tells_offsets() {
        let words =
            [0xa8_u64, 0x88, 0x60, 0x6c, 0x6d, 0x80, 0x98, 0x37248, 0x2a80, 0x3a8, 0x360, 0x368, 0x370];
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let offsets = AsyncioOffsets::from_bytes(&bytes(&words)).unwrap();
        assert_eq!(
            (offsets.awaited_by, offsets.is_task, offsets.awaited_by_is_set, offsets.task_coroutine),
            (0x60, 0x6c, 0x6d, 0x80)
        );
        assert_eq!(offsets.running_task, 0x368);
        let mut small = words;
        small[0] = 0x80;
        assert_eq!(AsyncioOffsets::from_bytes(&bytes(&small)), None);
        assert_eq!(AsyncioOffsets::from_bytes(&bytes(&words[..12])), None);
    }

    proptest! {
        /// No numbers make it panic, or give a frame that is larger than the room for it.
        #[test]
        fn survives_any_offsets(mut words in prop::collection::vec(any::<u64>(), 0..90), minor in 12..16_u8) {
            if let [cookie, version, ..] = words.as_mut_slice() {
                *cookie = u64::from_le_bytes(*b"xdebugpy");
                *version = u64::from(minor) << 16 | 0x0300_00f0;
            }
            if let Some(layout) = Layout::from_debug_offsets(minor, &words) {
                prop_assert!(layout.kernel.frame_bytes as usize <= PythonLayout::MAX_FRAME_BYTES);
            }
        }
    }
}
