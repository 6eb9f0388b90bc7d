//! CPython: the functions that an evaluation of bytecode runs, in place of the evaluation's own frame.
//!
//! Each thread chains the frames of its Python functions. A call from Python to Python adds a frame to the chain and, from
//! 3.11 on, none to the machine's stack. So one machine frame of the evaluation stands for all functions from the innermost one
//! that is left up to the one that it was entered with. User space says where all this is: [`PythonLayout`].

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel, generated};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use profiler_common::{
    FrameTag, MAX_PYTHON_PROCESSES, PythonEntry, PythonLayout, StackEnd, code_fingerprint,
};

use super::{Walker, emit, read, tasks, unreadable};
use crate::cpu::Scratch;
use crate::targets::KERNEL_OFFSETS;

/// By the process whose code mappings they belong to.
#[map]
static PYTHON_LAYOUTS: HashMap<u32, PythonLayout> = HashMap::with_max_entries(MAX_PYTHON_PROCESSES, 0);

const FRAME_WORDS: usize = PythonLayout::MAX_FRAME_BYTES / 8;
const CODE_WORDS: usize = PythonLayout::MAX_IDENTITY_BYTES / 8;
const NONE: u32 = PythonLayout::NONE;

/// Where the walk is in the thread's chain of Python frames.
#[repr(C)]
pub(crate) struct Chain {
    pub(super) layout: PythonLayout,
    /// The thread's `PyThreadState`.
    pub(super) thread: u64,
    /// A [`State`].
    state: u64,
    /// What is [known](Knowledge).
    knowledge: u64,
    /// The next frame to be shown; zero at the end of the chain.
    pub(super) frame: u64,
    /// The last frame that was shown.
    pub(super) shown_frame: u64,
    /// Not zero when that is a coroutine's.
    is_coroutine: u64,
    /// The next `cframe`, in versions that have them.
    cframe: u64,
    /// The frame that is looked at.
    pub(super) words: [u64; FRAME_WORDS],
    /// Its code object.
    code_words: [u64; CODE_WORDS],
    /// As it was at the start of this evaluation.
    first_frame: u64,
    first_cframe: u64,
    first_slot: u64,
    /// The evaluation's own frame, to be shown if it turns out to have no function yet.
    native_word: u64,
    /// 1 until the functions of one evaluation were shown.
    is_innermost: u64,
    /// Evaluations behind the end of the chain.
    without_function: u64,
    /// Something that lies in the stack frame of the evaluation that the functions belong to.
    anchor: u64,
    pub(super) waiting: tasks::Waiting,
}

/// What the walk does in its next turn.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum State {
    /// It goes on in machine code.
    Elsewhere = 0,
    /// It shows a function of the evaluation that it stands in.
    Showing = 1,
    /// It goes to the caller of the evaluation, all of whose functions were shown.
    Leaving = 2,
    /// It is there, and looks whether these were the evaluation's own functions.
    Left = 3,
    /// The evaluation was entered with a coroutine: it looks whether that is a task's.
    Entered = 4,
    /// It looks who waits for a task.
    Awaited = 5,
    /// It looks through what a callback holds.
    Holding = 6,
    /// It shows a coroutine of a task that waits.
    Waiting = 7,
}

/// What is known of the thread's chain.
#[derive(PartialEq, Eq)]
#[repr(u64)]
enum Knowledge {
    /// It was not looked for yet.
    None = 0,
    Found = 1,
    /// It could not be found, or not be followed.
    Lost = 2,
}

impl Chain {
    #[inline(always)]
    pub(super) fn reset(&mut self) {
        self.state = State::Elsewhere as u64;
        self.knowledge = Knowledge::None as u64;
        self.without_function = 0;
        self.waiting.reset();
    }

    #[inline(always)]
    pub(super) fn go_to(&mut self, state: State) {
        self.state = state as u64;
    }

    #[inline(always)]
    pub(super) fn state(&self) -> State {
        match self.state {
            1 => State::Showing,
            2 => State::Leaving,
            3 => State::Left,
            4 => State::Entered,
            5 => State::Awaited,
            6 => State::Holding,
            7 => State::Waiting,
            _ => State::Elsewhere,
        }
    }

    /// Whether functions of the thread were there, and could not be told, or not all.
    #[inline(always)]
    pub(super) fn is_lost(&self) -> bool {
        self.knowledge == Knowledge::Lost as u64
    }

    /// The walk has taken a step in machine code.
    #[inline(always)]
    pub(super) fn leave(&mut self) {
        if self.state == State::Leaving as u64 {
            self.state = State::Left as u64;
        }
    }
}

/// Starts to show the functions of the evaluation that the walker stands in; false when there are none to be known.
#[inline(always)]
pub(super) fn enter(walker: &mut Walker, native_word: u64) -> bool {
    if walker.chain.knowledge == Knowledge::None as u64 {
        walker.chain.knowledge = Knowledge::Found as u64;
        if find(walker).is_err() {
            give_up(&mut walker.chain);
        }
    }
    let chain = &mut walker.chain;
    if chain.knowledge != Knowledge::Found as u64 {
        return false;
    }
    chain.first_cframe = chain.cframe;
    if chain.frame == 0 {
        if chain.is_innermost == 1 {
            let has_cframe = chain.layout.thread_cframe != NONE;
            if has_cframe && go_outside(chain).is_ok() && chain.first_frame != 0 {
                chain.frame = chain.first_frame;
                chain.cframe = chain.first_cframe;
            } else {
                give_up(chain);
            }
            return false;
        }
        // A sample at the start of a call leaves one, until 3.10.
        chain.without_function += 1;
        if chain.without_function > 1 {
            give_up(chain);
        }
        return false;
    }
    chain.state = State::Showing as u64;
    chain.first_frame = chain.frame;
    chain.first_slot = walker.slot;
    chain.native_word = native_word;
    chain.anchor = 0;
    true
}

#[inline(always)]
fn give_up(chain: &mut Chain) {
    chain.knowledge = Knowledge::Lost as u64;
}

/// Finds the innermost frame of the current thread.
#[inline(always)]
fn find(walker: &mut Walker) -> Result<(), StackEnd> {
    let chain = &mut walker.chain;
    // SAFETY: a copy of a value that is replaced as a whole.
    let layout = unsafe { PYTHON_LAYOUTS.get(walker.owner as u32) }.ok_or(StackEnd::NoMapping)?;
    chain.layout = *layout;
    chain.is_innermost = 1;
    let layout = &chain.layout;
    // SAFETY: the helper checks the address; the offset is that of this kernel.
    let thread_pointer: u64 = unsafe {
        let task = bpf_get_current_task_btf() as *const u8;
        let offset = KERNEL_OFFSETS.load().task_thread_pointer;
        bpf_probe_read_kernel(task.add(offset as usize).cast())
    }
    .map_err(|_| StackEnd::Unreadable)?;
    let mut thread: u64 = at(thread_pointer, layout.slot)?;
    if layout.slot_inner != NONE {
        thread = at(thread, layout.slot_inner)?;
    }
    // A state of another thread, or none at all, has no such word.
    if at::<u64>(thread, layout.thread_id)? != thread_pointer {
        return Err(StackEnd::Unreadable);
    }
    chain.thread = thread;
    if layout.thread_cframe == NONE {
        chain.frame = at(thread, layout.current_frame)?;
        return Ok(());
    }
    chain.cframe = at(thread, layout.thread_cframe)?;
    chain.frame = at(chain.cframe, layout.current_frame)?;
    Ok(())
}

/// An evaluation tells of its `cframe` before it has put its function there: what is there is of no use, or leads to functions of
/// its caller or to ones that have ended. Goes on with the `cframe` outside it.
#[inline(always)]
fn go_outside(chain: &mut Chain) -> Result<(), StackEnd> {
    chain.first_cframe = at(chain.first_cframe, chain.layout.cframe_previous)?;
    chain.first_frame = at(chain.first_cframe, chain.layout.current_frame)?;
    Ok(())
}

/// What was taken for a frame is none.
#[inline(always)]
fn refuse(chain: &mut Chain) {
    chain.state = State::Leaving as u64;
    let may_be_early = chain.is_innermost == 1 && chain.layout.thread_cframe != NONE;
    if may_be_early && go_outside(chain).is_ok() {
        chain.anchor = u64::MAX;
    } else {
        give_up(chain);
    }
}

/// Shows one function.
#[inline(always)]
pub(super) fn step(scratch: &mut Scratch) {
    let chain = &mut scratch.walker.chain;
    let layout = &chain.layout;
    let bytes = layout.frame_bytes;
    if bytes as usize > PythonLayout::MAX_FRAME_BYTES {
        chain.state = State::Leaving as u64;
        return; // tells the verifier
    }
    // SAFETY: the helper checks the address, and writes no more than there is room for.
    let outcome = unsafe {
        generated::bpf_probe_read_user(chain.words.as_mut_ptr().cast(), bytes, chain.frame as *const _)
    };
    if outcome != 0 {
        unreadable(chain.frame);
        return refuse(chain);
    }
    let entry_byte = tail(&chain.words, layout.frame_entry) & 0xff;
    let code = word(&chain.words, layout.frame_code);
    let instruction = tail(&chain.words, layout.frame_instruction);
    let previous = word(&chain.words, layout.frame_previous);
    if layout.entry == PythonEntry::Owner as u32 && entry_byte >= PythonLayout::FIRST_OWNER_WITHOUT_FUNCTION {
        if entry_byte > PythonLayout::LAST_OWNER {
            return refuse(chain);
        }
        chain.anchor = chain.frame;
        chain.frame = previous;
        chain.state = State::Leaving as u64;
        return;
    }
    let mut is_last = layout.entry == PythonEntry::Each as u32
        || layout.entry == PythonEntry::Flag as u32 && entry_byte == 1;
    let unmarked = code & !u64::from(layout.code_marks);
    if unmarked == 0 || unmarked & 7 != 0 || previous == 0 && !is_last {
        return refuse(chain);
    }
    let code = unmarked;
    let Ok(fingerprint) = read_code(chain, code) else { return refuse(chain) };
    let layout = &chain.layout;
    if layout.entry == PythonEntry::Flag as u32 && is_last {
        let outside = at(chain.cframe, layout.cframe_previous).unwrap_or(0);
        // The function of the evaluation outside this one is the caller of this one's first.
        if outside == 0 || at(outside, layout.current_frame) == Ok(previous) {
            chain.anchor = chain.cframe;
            chain.cframe = outside;
        } else if owner_behind(&chain.words, layout.frame_entry) == OWNED_BY_GENERATOR {
            // It waits for the coroutine into which an exception is thrown: `_gen_throw` of `Objects/genobject.c` chains it without
            // an evaluation of its own. It stands in the one that throws.
            is_last = false;
        } else {
            return refuse(chain);
        }
    }
    if layout.entry == PythonEntry::Each as u32 && fingerprint != 0 && is_thrown_through(chain) {
        if previous == 0 {
            return refuse(chain); // 3.9 does not chain who throws
        }
        is_last = false;
    }
    chain.shown_frame = chain.frame;
    chain.frame = previous;
    if is_last {
        chain.state = State::Leaving as u64;
    }
    let words = function(FrameTag::Python, code, instruction, fingerprint, &chain.layout);
    emit(scratch, words);
}

/// Until 3.10, the same: `_PyEval_EvalFrameDefault` takes the stack's top out of each frame that it runs (`Python/ceval.c`), and such
/// a coroutine or generator has it still.
#[inline(always)]
fn is_thrown_through(chain: &Chain) -> bool {
    let layout = &chain.layout;
    let has_top = if layout.tasks.stack_pointer == NONE {
        word(&chain.words, layout.tasks.stack_depth) as u32 as i32 >= 0
    } else {
        word(&chain.words, layout.tasks.stack_pointer) != 0
    };
    let flags = tail(&chain.code_words, layout.code_flags);
    has_top && flags & PythonLayout::GENERATOR_FLAGS != 0
}

/// `FRAME_OWNED_BY_GENERATOR` of `Include/internal/pycore_frame.h`.
const OWNED_BY_GENERATOR: u64 = 1;

/// The byte behind the flag of an evaluation's first frame: who owns the frame (`_PyInterpreterFrame` of CPython 3.11).
#[inline(always)]
fn owner_behind(words: &[u64; FRAME_WORDS], flag: u32) -> u64 {
    let offset = flag.wrapping_add(1);
    tail(words, offset) & 0xff
}

/// Reads a code object: what it will be known again by, which is zero when it can't be read. It may be paged out, and user space
/// will try.
#[inline(always)]
pub(super) fn read_code(chain: &mut Chain, code: u64) -> Result<u32, StackEnd> {
    let layout = &chain.layout;
    let bytes = layout.code_bytes;
    chain.is_coroutine = 0;
    if bytes as usize > PythonLayout::MAX_IDENTITY_BYTES {
        return Err(StackEnd::Unreadable); // tells the verifier
    }
    // SAFETY: the helper checks the address, and writes no more than there is room for.
    let outcome = unsafe {
        generated::bpf_probe_read_user(chain.code_words.as_mut_ptr().cast(), bytes, code as *const _)
    };
    if outcome != 0 {
        return Ok(0);
    }
    if word(&chain.code_words, layout.object_type) != layout.code_type && layout.code_type != 0 {
        return Err(StackEnd::Unreadable);
    }
    chain.is_coroutine = tail(&chain.code_words, layout.code_flags) & PythonLayout::COROUTINE_FLAGS;
    let identity = |index: u32| word(&chain.code_words, layout.code_identity.wrapping_add(8 * index));
    Ok(identify([identity(0), identity(1), identity(2), identity(3)], layout))
}

/// The same for the code of what is known to be a coroutine: reads only what it is known again by, which lies apart from the rest, in
/// memory that nobody has looked at for long.
#[inline(always)]
pub(super) fn read_identity(layout: &PythonLayout, code: u64) -> u32 {
    let words = at(code, layout.code_identity);
    words.map_or(0, |words| identify(words, layout))
}

/// A function as it is sent.
#[inline(always)]
pub(super) fn function(
    tag: FrameTag,
    code: u64,
    instruction: u64,
    fingerprint: u32,
    layout: &PythonLayout,
) -> [u64; 2] {
    let offset = if layout.code_instructions == NONE {
        instruction as u32
    } else {
        let offset = instruction.wrapping_sub(code.wrapping_add(u64::from(layout.code_instructions)));
        if offset < u64::from(PythonLayout::NO_INSTRUCTION) {
            offset as u32
        } else {
            PythonLayout::NO_INSTRUCTION
        }
    };
    [tag.word(code), u64::from(offset) << 32 | u64::from(fingerprint)]
}

#[inline(always)]
fn identify(mut identity: [u64; 4], layout: &PythonLayout) -> u32 {
    if layout.code_identity_words < 4 {
        identity[3] = 0;
    }
    at(identity[1], layout.string_hash).map_or(0, |name_hash| code_fingerprint(identity, name_hash))
}

/// The walker has gone to the evaluation's caller. An evaluation that was interrupted before it had put its function into the
/// chain took the functions of the one outside it: it gives them back, and is shown as it is.
#[inline(always)]
pub(super) fn check(scratch: &mut Scratch) {
    let (chain, frame_end) = (&mut scratch.walker.chain, scratch.walker.stack_pointer);
    chain.state = State::Elsewhere as u64;
    let has_cframe = chain.layout.thread_cframe != NONE;
    let is_unfounded = chain.is_innermost == 1 && has_cframe && scratch.walker.slot == chain.first_slot;
    if chain.anchor >= frame_end || is_unfounded {
        let is_early = has_cframe && chain.first_cframe < frame_end;
        if chain.anchor != u64::MAX && is_early && go_outside(chain).is_err() {
            give_up(chain);
        }
        chain.frame = chain.first_frame;
        chain.cframe = chain.first_cframe;
        scratch.walker.slot = chain.first_slot;
    }
    if scratch.walker.slot == scratch.walker.chain.first_slot {
        let word = scratch.walker.chain.native_word;
        emit(scratch, [word]);
    } else {
        let chain = &mut scratch.walker.chain;
        chain.is_innermost = 0;
        if chain.is_coroutine != 0 && chain.waiting.is_due(&chain.layout) {
            chain.state = State::Entered as u64;
        }
    }
}

#[inline(always)]
pub(super) fn word<const WORDS: usize>(words: &[u64; WORDS], offset: u32) -> u64 {
    words[(offset / 8) as usize % WORDS]
}

/// A word from the byte at an offset on.
#[inline(always)]
pub(super) fn tail<const WORDS: usize>(words: &[u64; WORDS], offset: u32) -> u64 {
    word(words, offset) >> (offset % 8 * 8)
}

#[inline(always)]
pub(super) fn at<T>(base: u64, offset: u32) -> Result<T, StackEnd> {
    read(base.wrapping_add(u64::from(offset)))
}
