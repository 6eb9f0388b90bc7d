//! Names of what tasks are made of, as the memory of CPython has them.

/// A text, as far as so many words go, with its end if that is within them.
pub(super) struct Text<const WORDS: usize> {
    words: [u64; WORDS],
    mask: [u64; WORDS],
}

impl<const WORDS: usize> Text<WORDS> {
    const fn new(text: &[u8]) -> Self {
        let (mut words, mut mask) = ([0; WORDS], [0; WORDS]);
        let mut index = 0;
        while index < 8 * WORDS && index <= text.len() {
            let byte = if index < text.len() { text[index] } else { 0 };
            words[index / 8] |= (byte as u64) << (index % 8 * 8);
            mask[index / 8] |= 0xff << (index % 8 * 8);
            index += 1;
        }
        Self { words, mask }
    }

    #[inline(always)]
    pub(super) fn is(&self, words: &[u64; WORDS]) -> bool {
        let mut difference = 0;
        for (index, word) in words.iter().enumerate() {
            difference |= (word ^ self.words[index]) & self.mask[index];
        }
        difference == 0
    }
}

/// The start of a type's name.
pub(super) type TypeName = [u64; 2];
const TASK: Text<2> = Text::new(b"_asyncio.Task");
const FUTURE: Text<2> = Text::new(b"_asyncio.Future");
const GATHERING_FUTURE: Text<2> = Text::new(b"_GatheringFuture");
const STEP: Text<2> = Text::new(b"TaskStepMethWrapper");
const STEP_OF_MODULE: Text<2> = Text::new(b"_asyncio.TaskStepMethWrapper");
const WAKEUP: Text<2> = Text::new(b"TaskWakeupMethWrapper");
const BUILTIN: Text<2> = Text::new(b"builtin_function_or_method");
const FUNCTION: Text<2> = Text::new(b"function");
const METHOD: Text<2> = Text::new(b"method");
const PARTIAL: Text<2> = Text::new(b"functools.partial");
const COROUTINE: Text<2> = Text::new(b"coroutine");
const GENERATOR: Text<2> = Text::new(b"generator");
const ASYNC_GENERATOR: Text<2> = Text::new(b"async_generator");
/// `async_generator_asend` and `async_generator_athrow`.
const ASYNC_GENERATOR_STEP: Text<2> = Text::new(b"async_generator_asend");
const COROUTINE_WRAPPER: Text<2> = Text::new(b"coroutine_wrapper");
/// Of anyio, as the next.
const TASK_GROUP: Text<2> = Text::new(b"TaskGroup");
const CANCEL_SCOPE: Text<2> = Text::new(b"CancelScope");

/// What an object is, by the name of its type.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Kind(u64);

impl Kind {
    pub(super) const OTHER: Self = Self(0);
    pub(super) const TASK: Self = Self(1);
    pub(super) const FUTURE: Self = Self(2);
    /// It makes a task go on.
    pub(super) const STEP: Self = Self(3);
    pub(super) const BUILTIN: Self = Self(4);
    pub(super) const FUNCTION: Self = Self(5);
    pub(super) const METHOD: Self = Self(6);
    pub(super) const PARTIAL: Self = Self(7);
    /// Also an asynchronous generator.
    pub(super) const COROUTINE: Self = Self(8);
    pub(super) const GENERATOR: Self = Self(9);
    /// It stands for the coroutine that it holds.
    pub(super) const WRAPPER: Self = Self(10);
    pub(super) const TASK_GROUP: Self = Self(11);
    pub(super) const CANCEL_SCOPE: Self = Self(12);

    /// Called, not copied to each place that asks: it is long.
    #[inline(never)]
    pub(super) fn of(name: &TypeName) -> Self {
        if TASK.is(name) {
            Self::TASK
        } else if FUTURE.is(name) || GATHERING_FUTURE.is(name) {
            Self::FUTURE
        } else if STEP.is(name) || STEP_OF_MODULE.is(name) || WAKEUP.is(name) {
            Self::STEP
        } else if BUILTIN.is(name) {
            Self::BUILTIN
        } else if FUNCTION.is(name) {
            Self::FUNCTION
        } else if METHOD.is(name) {
            Self::METHOD
        } else if PARTIAL.is(name) {
            Self::PARTIAL
        } else if COROUTINE.is(name) || ASYNC_GENERATOR.is(name) {
            Self::COROUTINE
        } else if GENERATOR.is(name) {
            Self::GENERATOR
        } else if ASYNC_GENERATOR_STEP.is(name) || COROUTINE_WRAPPER.is(name) {
            Self::WRAPPER
        } else if TASK_GROUP.is(name) {
            Self::TASK_GROUP
        } else if CANCEL_SCOPE.is(name) {
            Self::CANCEL_SCOPE
        } else {
            Self::OTHER
        }
    }
}

pub(super) const WAKEUP_DEFINITION: Text<2> = Text::new(b"task_wakeup");
pub(super) const TASKS_MODULE: Text<2> = Text::new(b"asyncio.tasks");
pub(super) const TASK_GROUPS_MODULE: Text<2> = Text::new(b"asyncio.taskgroups");
/// Functions of `asyncio.tasks` that hold the future that they complete. Of `gather` until 3.9, and from 3.10 on.
pub(super) const COMPLETING: [Text<3>; 4] = [
    Text::new(b"_gather.<locals>._done_callback"),
    Text::new(b"gather.<locals>._done_callback"),
    Text::new(b"_wait.<locals>._on_completion"),
    Text::new(b"shield.<locals>._inner_done_callback"),
];
/// Of `wait_for` until 3.11: its argument is that future.
pub(super) const RELEASE_WAITER: Text<3> = Text::new(b"_release_waiter");
/// Of the task that a loop runs until it is done, in `asyncio.base_events`. Nobody else waits for it, but it may have callbacks for each
/// worker thread.
pub(super) const RUN_UNTIL_COMPLETE: Text<3> = Text::new(b"_run_until_complete_cb");
pub(super) const EVENTS_MODULE: Text<3> = Text::new(b"asyncio.base_events");
pub(super) const TASK_GROUP_DONE: Text<3> = Text::new(b"TaskGroup._on_task_done");

/// Of anyio 4 (`TaskGroup._spawn` in `anyio/_backends/_asyncio.py`): holds the task group, that its `cancel_scope`, and that its
/// `_host_task`, which is the only task that it holds by itself.
pub(super) const SPAWNED_DONE: Text<5> = Text::new(b"TaskGroup._spawn.<locals>.task_done");
pub(super) const START_OF_SPAWNED_DONE: Text<3> = Text::new(b"TaskGroup._spawn.<locals>.task_done");
pub(super) const ANYIO_MODULE: Text<4> = Text::new(b"anyio._backends._asyncio");
