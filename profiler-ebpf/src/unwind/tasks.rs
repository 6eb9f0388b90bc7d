//! asyncio: who waits for the task that runs, in place between the task's coroutines and the event loop.
//!
//! A task is run by the event loop, and so are those that wait for it: nothing on the machine's stack leads there. From 3.14 on a
//! task says who awaits it. Before, it has a list of what to call when it is done, and some of what asyncio itself puts there
//! leads to another task; so does what anyio's task groups put there. A name is taken for what it says only with the module that it is in, and a coroutine for a task's only
//! if the task says so too. A task that waits shows its coroutines from the outermost one inwards.

use aya_ebpf::helpers::generated;
use profiler_common::{Failure, FrameTag, InstanceValues, PythonLayout, StackEnd, TaskSource};

use super::python::{Chain, State, at, function, read_identity, tail, word};
use super::{emit, place_of, read};
use crate::cpu::Scratch;
use crate::output::count;

/// Most turns of the walk that one sample's tasks may take: what a turn reads is bounded.
pub(super) const MAX_TURNS: u64 = 256;
/// Coroutines that evaluations were entered with and that turned out to be no task's, in one sample. Until 3.10 each coroutine has
/// an evaluation.
const MAX_ATTEMPTS: u64 = 32;
/// Instead of a number of attempts: there are to be no more.
const SETTLED: u64 = u64::MAX;
/// What is looked at of the callbacks of a future, and of what an object or a closure holds.
const MAX_CALLBACKS: u64 = 8;
const MAX_HELD: u64 = 32;

/// As much as is read of a callback at once. Never more than the object has: it may be the last of its mapping.
type Words = [u64; 16];
/// Of any callback, and of a function, which has its name at 104 in 3.9.
const CALLBACK_BYTES: u32 = 32;
const FUNCTION_BYTES: u32 = 112;

// Where CPython 3.9 to 3.13 keep things in an object, in bytes: `Modules/_asynciomodule.c` (`FutureObj`, `TaskObj`,
// `TaskStepMethWrapper`, `TaskWakeupMethWrapper`), `Modules/_functoolsmodule.c` (`partialobject`), `Include/cpython/methodobject.h`,
// `classobject.h`, `cellobject.h`, `tupleobject.h`, `listobject.h`, and the slots of `Handle` in `Lib/asyncio/events.py`, which are sorted.
const FUTURE_CALLBACK: u32 = 24;
const FUTURE_CALLBACKS: u32 = 40;
const HANDLE_CALLBACK: u32 = 24;
const OBJECT_TYPE: u32 = 8;
const WRAPPER_TASK: u32 = 16;
const BUILTIN_DEFINITION: u32 = 16;
const BUILTIN_SELF: u32 = 24;
const METHOD_FUNCTION: u32 = 16;
const METHOD_SELF: u32 = 24;
const PARTIAL_FUNCTION: u32 = 16;
const PARTIAL_ARGUMENTS: u32 = 24;
const CELL_CONTENT: u32 = 16;
const LIST_SIZE: u32 = 16;
const LIST_ITEMS: u32 = 24;
const TUPLE_SIZE: u32 = 16;
const TUPLE_ITEMS: u32 = 24;
const TYPE_SIZE: u32 = 32;
/// An object without slots has less than this, one with slots these and then its slots.
const OBJECT_BYTES: u64 = 16;
const LARGEST_WITHOUT_SLOTS: u64 = 32;
/// Until 3.10: the dictionary of an object without slots; how many attributes it has, and its values if it shares the keys with
/// others of its class; else where its entries are (`Include/cpython/dictobject.h`, `Objects/dict-common.h`).
const OBJECT_DICTIONARY: u32 = 16;
const DICTIONARY_USED: u32 = 16;
const DICTIONARY_KEYS: u32 = 32;
const DICTIONARY_VALUES: u32 = 40;
const KEYS_SIZE: u32 = 8;
const KEYS_ENTRIES: u32 = 32;
const KEYS_INDICES: u64 = 40;
const ENTRY_VALUE: u64 = 16;
const ENTRY_BYTES: u64 = 24;
/// As long as each index is a byte.
const MAX_KEYS: u64 = 128;
/// `_parent_task` is the fifth attribute that `TaskGroup.__init__` sets (`Lib/asyncio/taskgroups.py` of 3.11 to 3.13).
const PARENT_TASK: u64 = 4 * 8;

/// A text, as far as so many words go, with its end if that is within them.
struct Text<const WORDS: usize> {
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
    fn is(&self, words: &[u64; WORDS]) -> bool {
        let mut difference = 0;
        for (index, word) in words.iter().enumerate() {
            difference |= (word ^ self.words[index]) & self.mask[index];
        }
        difference == 0
    }
}

/// The start of a type's name.
type TypeName = [u64; 2];
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
struct Kind(u64);

impl Kind {
    const OTHER: Self = Self(0);
    const TASK: Self = Self(1);
    const FUTURE: Self = Self(2);
    /// It makes a task go on.
    const STEP: Self = Self(3);
    const BUILTIN: Self = Self(4);
    const FUNCTION: Self = Self(5);
    const METHOD: Self = Self(6);
    const PARTIAL: Self = Self(7);
    /// Also an asynchronous generator.
    const COROUTINE: Self = Self(8);
    const GENERATOR: Self = Self(9);
    /// It stands for the coroutine that it holds.
    const WRAPPER: Self = Self(10);
    const TASK_GROUP: Self = Self(11);
    const CANCEL_SCOPE: Self = Self(12);

    /// Called, not copied to each place that asks: it is long.
    #[inline(never)]
    fn of(name: &TypeName) -> Self {
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

const WAKEUP_DEFINITION: Text<2> = Text::new(b"task_wakeup");
const TASKS_MODULE: Text<2> = Text::new(b"asyncio.tasks");
const TASK_GROUPS_MODULE: Text<2> = Text::new(b"asyncio.taskgroups");
/// Functions of `asyncio.tasks` that hold the future that they complete. Of `gather` until 3.9, and from 3.10 on.
const COMPLETING: [Text<3>; 4] = [
    Text::new(b"_gather.<locals>._done_callback"),
    Text::new(b"gather.<locals>._done_callback"),
    Text::new(b"_wait.<locals>._on_completion"),
    Text::new(b"shield.<locals>._inner_done_callback"),
];
/// Of `wait_for` until 3.11: its argument is that future.
const RELEASE_WAITER: Text<3> = Text::new(b"_release_waiter");
const TASK_GROUP_DONE: Text<3> = Text::new(b"TaskGroup._on_task_done");

/// Of anyio 4 (`TaskGroup._spawn` in `anyio/_backends/_asyncio.py`): holds the task group, that its `cancel_scope`, and that its
/// `_host_task`, which is the only task that it holds by itself.
const SPAWNED_DONE: Text<5> = Text::new(b"TaskGroup._spawn.<locals>.task_done");
const START_OF_SPAWNED_DONE: Text<3> = Text::new(b"TaskGroup._spawn.<locals>.task_done");
const ANYIO_MODULE: Text<4> = Text::new(b"anyio._backends._asyncio");

/// Where the search for tasks that wait is.
#[repr(C)]
pub(crate) struct Waiting {
    turns: u64,
    attempts: u64,
    /// The task, or the future, of which it is looked who waits for it.
    future: u64,
    /// The next of its callbacks, or of the entries of its set.
    index: u64,
    callback: Words,
    /// What holds a future, or leads to it.
    held: Objects,
    /// How many of these are still to be looked at, and the number of the one that is looked at last.
    held_left: u64,
    held_last: u64,
    /// A [`Held`].
    held_by: u64,
    /// What is to be shown next.
    coroutine: u64,
    /// 1 for the first of a task.
    is_outermost: u64,
    known: Known,
}

/// What searches met on this CPU: it takes long to read, and is the same in the next sample.
#[repr(C)]
struct Known {
    /// The process, and how often the mappings of any had changed.
    of: u64,
    /// When it was, in [`STRETCH_BITS`]: all is forgotten behind that, as a type's memory may become another's.
    stretch: u64,
    /// The definition of `task_wakeup`.
    wakeup: u64,
    /// The name of a function that completes a future, and of anyio's for tasks of a group.
    completing: u64,
    spawned_done: u64,
    /// The name of a function that does neither.
    other: u64,
    /// For each [`Held`], the number of the object behind the one that was looked for.
    behind: [u64; HELD_KINDS],
    types: [KnownType; KNOWN_TYPES],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct KnownType {
    address: u64,
    kind: Kind,
}

const KNOWN_TYPES_BITS: u32 = 5;
const KNOWN_TYPES: usize = 1 << KNOWN_TYPES_BITS;
/// About a second, as a power of two in nanoseconds.
const STRETCH_BITS: u32 = 30;

impl Known {
    /// Starts a search: forgets what may be out of date.
    #[inline(always)]
    fn begin(&mut self, of: u64, now_ns: u64) {
        let stretch = now_ns >> STRETCH_BITS;
        if self.of == of && self.stretch == stretch {
            return;
        }
        self.of = of;
        self.stretch = stretch;
        self.wakeup = u64::MAX;
        self.completing = u64::MAX;
        self.spawned_done = u64::MAX;
        self.other = u64::MAX;
        for known in &mut self.types {
            *known = KnownType { address: 0, kind: Kind::OTHER };
        }
    }

    /// What objects of a type are.
    #[inline(always)]
    fn kind_of(&mut self, layout: &PythonLayout, ty: u64) -> Result<Kind, StackEnd> {
        let known = &mut self.types[place_of(ty, KNOWN_TYPES_BITS) & (KNOWN_TYPES - 1)];
        if ty != known.address {
            // What has no type is nothing that we look for.
            *known = KnownType { address: 0, kind: Kind::OTHER };
            known.kind = Kind::of(&read(at(ty, layout.tasks.type_name)?)?);
            known.address = ty;
        }
        // SAFETY: a reference. Read again, so that the verifier forgets which of them it is.
        Ok(unsafe { core::ptr::read_volatile(&known.kind) })
    }
}

/// Pointers to objects: so many bytes from one to the next.
#[derive(Clone, Copy)]
#[repr(C)]
struct Objects {
    first: u64,
    stride: u64,
    count: u64,
}

/// Who holds the objects that are looked through.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Held {
    /// A closure of `asyncio`: its cells hold a future.
    Closure = 0,
    /// One of anyio: a cell holds the task group.
    AnyioClosure = 1,
    /// A task group of anyio.
    Group = 2,
    /// A cancel scope of anyio.
    Scope = 3,
}

const HELD_KINDS: usize = 4;

impl Waiting {
    #[inline(always)]
    pub(super) fn reset(&mut self) {
        self.turns = 0;
        self.attempts = 0;
    }

    /// Whether the task that runs is still to be found. Counts the search that is given up.
    #[inline(always)]
    pub(super) fn is_due(&mut self, layout: &PythonLayout) -> bool {
        if layout.tasks.source == TaskSource::None as u32 || self.attempts == SETTLED {
            return false;
        }
        if self.attempts >= MAX_ATTEMPTS {
            self.attempts = SETTLED;
            count(Failure::PythonTasksUnreadable);
            return false;
        }
        true
    }

    /// These objects are to be looked through.
    #[inline(always)]
    fn hold(&mut self, by: Held, objects: Objects) -> Result<State, StackEnd> {
        if objects.count > MAX_HELD {
            return Err(StackEnd::TooDeep);
        }
        self.held = objects;
        self.held_by = by as u64;
        self.held_left = objects.count;
        let behind = self.known.behind[by as usize];
        self.held_last = if behind > objects.count { 0 } else { behind };
        Ok(State::Holding)
    }

    /// What was looked for is where it will be looked for first the next time. Only where there is one: of several futures in a closure
    /// it is always the last.
    #[inline(always)]
    fn found(&mut self, by: Held, number: u64) {
        self.known.behind[by as usize] = number + 1;
    }

    /// A task waits.
    #[inline(always)]
    fn show(&mut self, layout: &PythonLayout, task: u64) -> Result<State, StackEnd> {
        self.coroutine = at(task, layout.tasks.task_coroutine)?;
        self.is_outermost = 1;
        self.look_at(task);
        Ok(State::Waiting)
    }

    #[inline(always)]
    fn look_at(&mut self, future: u64) {
        self.future = future;
        self.index = 0;
    }

    /// What an object is.
    #[inline(always)]
    fn kind(&mut self, layout: &PythonLayout, object: u64) -> Result<Kind, StackEnd> {
        self.known.kind_of(layout, at(object, layout.object_type)?)
    }

    /// Reads a callback, and tells what it is.
    #[inline(always)]
    fn read_callback(&mut self, layout: &PythonLayout, callback: u64) -> Result<Kind, StackEnd> {
        fill(&mut self.callback, CALLBACK_BYTES, callback)?;
        self.known.kind_of(layout, word(&self.callback, OBJECT_TYPE))
    }
}

#[inline(always)]
fn fill(words: &mut Words, bytes: u32, address: u64) -> Result<(), StackEnd> {
    if bytes as usize > size_of::<Words>() {
        return Err(StackEnd::TooDeep); // tells the verifier
    }
    // SAFETY: the helper checks the address, and writes no more than there is room for.
    let outcome =
        unsafe { generated::bpf_probe_read_user(words.as_mut_ptr().cast(), bytes, address as *const _) };
    if outcome == 0 { Ok(()) } else { Err(StackEnd::Unreadable) }
}

/// One turn.
#[inline(always)]
pub(super) fn step(scratch: &mut Scratch) {
    let chain = &mut scratch.walker.chain;
    chain.waiting.turns += 1;
    if chain.waiting.turns > MAX_TURNS {
        return give_up(chain);
    }
    let state = chain.state();
    if state == State::Entered && chain.waiting.attempts == 0 {
        chain.waiting.known.begin(scratch.walker.recent.of(), scratch.event.header.timestamp_ns);
    }
    let chain = &mut scratch.walker.chain;
    let Chain { layout, waiting, .. } = chain;
    let outcome = match state {
        State::Entered => Ok(find_task(chain)),
        State::Awaited if layout.tasks.source == TaskSource::AwaitedBy as u32 => {
            look_at_waiters(layout, waiting)
        }
        State::Awaited => look_at_callbacks(layout, waiting),
        State::Holding => look_at_held(layout, waiting),
        _ => show_coroutine(scratch),
    };
    let chain = &mut scratch.walker.chain;
    match outcome {
        Ok(state) => chain.go_to(state),
        Err(_) => give_up(chain),
    }
}

#[inline(always)]
fn give_up(chain: &mut Chain) {
    chain.go_to(State::Elsewhere);
    count(Failure::PythonTasksUnreadable);
}

/// Whether the coroutine that the evaluation was entered with is that of the task that runs.
#[inline(always)]
fn find_task(chain: &mut Chain) -> State {
    let Chain { layout, waiting, .. } = chain;
    waiting.attempts += 1;
    let task = if layout.tasks.source == TaskSource::AwaitedBy as u32 {
        at(chain.thread, layout.tasks.running_task)
    } else {
        // The `self` of `Handle._run`, if that is who called.
        at(chain.frame, layout.tasks.frame_locals)
            .and_then(|handle: u64| at(handle, HANDLE_CALLBACK))
            .and_then(|callback: u64| {
                let kind = waiting.read_callback(layout, callback)?;
                task_of(waiting, kind)
            })
    };
    let is_its = |task: u64| {
        let coroutine = at(task, layout.tasks.task_coroutine);
        coroutine.and_then(|coroutine| frame_of(layout, coroutine)) == Ok(chain.shown_frame)
    };
    match task {
        Ok(task) if task != 0 && is_its(task) => {
            waiting.attempts = SETTLED;
            waiting.look_at(task);
            State::Awaited
        }
        _ => State::Elsewhere,
    }
}

/// The task that a callback makes go on; zero when it does something else.
#[inline(always)]
fn task_of(waiting: &mut Waiting, kind: Kind) -> Result<u64, StackEnd> {
    let callback = &waiting.callback;
    if kind == Kind::STEP {
        return Ok(word(callback, WRAPPER_TASK));
    }
    if kind != Kind::BUILTIN {
        return Ok(0);
    }
    let definition = word(callback, BUILTIN_DEFINITION);
    if definition != waiting.known.wakeup {
        if !WAKEUP_DEFINITION.is(&read(read(definition)?)?) {
            return Ok(0);
        }
        waiting.known.wakeup = definition;
    }
    Ok(word(&waiting.callback, BUILTIN_SELF))
}

/// The frame of a coroutine or generator.
#[inline(always)]
fn frame_of(layout: &PythonLayout, coroutine: u64) -> Result<u64, StackEnd> {
    let frame = coroutine.wrapping_add(u64::from(layout.tasks.coroutine_frame));
    if layout.tasks.is_frame_apart == 1 { read(frame) } else { Ok(frame) }
}

/// From 3.14 on: who awaits a future, or one of those who do.
#[inline(always)]
fn look_at_waiters(layout: &PythonLayout, waiting: &mut Waiting) -> Result<State, StackEnd> {
    let tasks = &layout.tasks;
    let mut waiter: u64 = at(waiting.future, tasks.awaited_by)?;
    if waiter == 0 {
        return Ok(State::Elsewhere);
    }
    if at::<u8>(waiting.future, tasks.awaited_by_is_set)? != 0 {
        let last: u64 = at(waiter, tasks.set_mask)?;
        if waiting.index > last {
            return Ok(State::Elsewhere);
        }
        let table: u64 = at(waiter, tasks.set_table)?;
        let [key, hash]: [u64; 2] = read(table.wrapping_add(16 * waiting.index))?;
        waiting.index += 1;
        // What was taken out of a set leaves an entry with this hash.
        if key == 0 || hash == u64::MAX {
            return Ok(State::Awaited);
        }
        waiter = key;
    }
    if at::<u8>(waiter, tasks.is_task)? != 0 {
        return waiting.show(layout, waiter);
    }
    waiting.look_at(waiter);
    Ok(State::Awaited)
}

/// Until 3.13: one of those that a future calls when it is done.
#[inline(always)]
fn look_at_callbacks(layout: &PythonLayout, waiting: &mut Waiting) -> Result<State, StackEnd> {
    let callback: u64 = if waiting.index == 0 {
        at(waiting.future, FUTURE_CALLBACK)?
    } else {
        let list: u64 = at(waiting.future, FUTURE_CALLBACKS)?;
        let index = waiting.index - 1;
        if list == 0 || index >= at(list, LIST_SIZE)? {
            return Ok(State::Elsewhere);
        }
        if index >= MAX_CALLBACKS {
            return Err(StackEnd::TooDeep);
        }
        let items: u64 = at(list, LIST_ITEMS)?;
        at(read(items.wrapping_add(8 * index))?, TUPLE_ITEMS)?
    };
    waiting.index += 1;
    if callback == 0 {
        return Ok(State::Awaited);
    }
    let kind = waiting.read_callback(layout, callback)?;
    let task = task_of(waiting, kind)?;
    if task != 0 {
        return waiting.show(layout, task);
    }
    let tasks = &layout.tasks;
    if kind == Kind::FUNCTION {
        fill(&mut waiting.callback, FUNCTION_BYTES, callback)?;
        return look_at_function(layout, waiting);
    }
    if kind == Kind::METHOD {
        let function = word(&waiting.callback, METHOD_FUNCTION);
        let name: [u64; 3] = at(at(function, tasks.function_name)?, tasks.string_data)?;
        let module: [u64; 2] = at(at(function, tasks.function_module)?, tasks.string_data)?;
        if TASK_GROUP_DONE.is(&name) && TASK_GROUPS_MODULE.is(&module) {
            let parent = parent_of(layout, word(&waiting.callback, METHOD_SELF))?;
            return look_at_object(layout, waiting, parent, State::Awaited);
        }
    } else if kind == Kind::PARTIAL {
        let function = word(&waiting.callback, PARTIAL_FUNCTION);
        // What a partial calls need not be a function.
        if waiting.kind(layout, function)? != Kind::FUNCTION {
            return Ok(State::Awaited);
        }
        let name: [u64; 3] = at(at(function, tasks.function_name)?, tasks.string_data)?;
        let module: [u64; 2] = at(at(function, tasks.function_module)?, tasks.string_data)?;
        if RELEASE_WAITER.is(&name) && TASKS_MODULE.is(&module) {
            let waiter = at(word(&waiting.callback, PARTIAL_ARGUMENTS), TUPLE_ITEMS)?;
            return look_at_object(layout, waiting, waiter, State::Awaited);
        }
    }
    Ok(State::Awaited)
}

/// A callback that is a function: whether it is one that completes a future.
#[inline(always)]
fn look_at_function(layout: &PythonLayout, waiting: &mut Waiting) -> Result<State, StackEnd> {
    let tasks = &layout.tasks;
    let callback = &waiting.callback;
    let name_object = word(callback, tasks.function_name);
    if name_object == waiting.known.spawned_done {
        return hold_closure(layout, waiting, Held::AnyioClosure);
    }
    if name_object == waiting.known.other {
        return Ok(State::Awaited);
    }
    if name_object != waiting.known.completing {
        let name: [u64; 3] = at(name_object, tasks.string_data)?;
        if START_OF_SPAWNED_DONE.is(&name) {
            return look_at_spawned(layout, waiting);
        }
        let [ref first, ref second, ref third, ref fourth] = COMPLETING;
        let is_known = first.is(&name) || second.is(&name) || third.is(&name) || fourth.is(&name);
        if !is_known || !TASKS_MODULE.is(&at(word(callback, tasks.function_module), tasks.string_data)?) {
            waiting.known.other = name_object;
            return Ok(State::Awaited);
        }
        waiting.known.completing = name_object;
    }
    hold_closure(layout, waiting, Held::Closure)
}

/// A callback that may be the one of anyio's task groups.
#[inline(always)]
fn look_at_spawned(layout: &PythonLayout, waiting: &mut Waiting) -> Result<State, StackEnd> {
    let tasks = &layout.tasks;
    let name_object = word(&waiting.callback, tasks.function_name);
    let name: [u64; 5] = at(name_object, tasks.string_data)?;
    let module: [u64; 4] = at(word(&waiting.callback, tasks.function_module), tasks.string_data)?;
    if !SPAWNED_DONE.is(&name) || !ANYIO_MODULE.is(&module) {
        return Ok(State::Awaited);
    }
    waiting.known.spawned_done = name_object;
    hold_closure(layout, waiting, Held::AnyioClosure)
}

#[inline(always)]
fn hold_closure(layout: &PythonLayout, waiting: &mut Waiting, by: Held) -> Result<State, StackEnd> {
    let closure = word(&waiting.callback, layout.tasks.function_closure);
    let cells = closure.wrapping_add(u64::from(TUPLE_ITEMS));
    waiting.hold(by, Objects { first: cells, stride: 8, count: at(closure, TUPLE_SIZE)? })
}

/// The attributes of an object without slots.
#[inline(always)]
fn attributes(layout: &PythonLayout, object: u64) -> Result<Objects, StackEnd> {
    let kind = layout.tasks.instance_values;
    if kind == InstanceValues::Inline as u32 {
        let count = u64::from(read::<u8>(object.wrapping_add(17))?);
        return Ok(Objects { first: object.wrapping_add(24), stride: 8, count });
    }
    if kind == InstanceValues::Dictionary as u32 {
        return attributes_in_dictionary(at(object, OBJECT_DICTIONARY)?);
    }
    let values = if kind == InstanceValues::Pointer as u32 {
        read(object.wrapping_sub(32))?
    } else {
        let tagged: u64 = read(object.wrapping_sub(24))?;
        if tagged & 1 == 0 {
            return Err(StackEnd::Unreadable); // a dictionary
        }
        tagged.wrapping_add(1)
    };
    // Their number is before them (`_PyDictValues_AddToInsertionOrder` of `Include/internal/pycore_dict.h`).
    Ok(Objects { first: values, stride: 8, count: u64::from(read::<u8>(values.wrapping_sub(2))?) })
}

#[inline(always)]
fn attributes_in_dictionary(dictionary: u64) -> Result<Objects, StackEnd> {
    let values = at(dictionary, DICTIONARY_VALUES)?;
    if values != 0 {
        return Ok(Objects { first: values, stride: 8, count: at(dictionary, DICTIONARY_USED)? });
    }
    let keys: u64 = at(dictionary, DICTIONARY_KEYS)?;
    let size: u64 = at(keys, KEYS_SIZE)?;
    if size > MAX_KEYS {
        return Err(StackEnd::TooDeep);
    }
    let first = keys.wrapping_add(KEYS_INDICES + size + ENTRY_VALUE);
    Ok(Objects { first, stride: ENTRY_BYTES, count: at(keys, KEYS_ENTRIES)? })
}

/// The task that a task group of `asyncio` belongs to.
#[inline(always)]
fn parent_of(layout: &PythonLayout, group: u64) -> Result<u64, StackEnd> {
    read(attributes(layout, group)?.first.wrapping_add(PARENT_TASK))
}

/// One of what a closure, or an object, holds.
#[inline(always)]
fn look_at_held(layout: &PythonLayout, waiting: &mut Waiting) -> Result<State, StackEnd> {
    if waiting.held_left == 0 {
        return Ok(State::Awaited);
    }
    waiting.held_left -= 1;
    let held = waiting.held;
    let number = waiting.held_last + waiting.held_left;
    let number = if number < held.count { number } else { number - held.count };
    let mut object = read(held.first.wrapping_add(held.stride.wrapping_mul(number)))?;
    let by = waiting.held_by;
    if by <= Held::AnyioClosure as u64 {
        object = at(object, CELL_CONTENT)?;
    }
    // A name or an attribute that was deleted.
    if object == 0 {
        return Ok(State::Holding);
    }
    if by == Held::Closure as u64 {
        return look_at_object(layout, waiting, object, State::Holding);
    }
    let kind = waiting.kind(layout, object)?;
    if by == Held::Scope as u64 {
        if kind == Kind::TASK {
            waiting.found(Held::Scope, number);
            return waiting.show(layout, object);
        }
    } else if by == Held::AnyioClosure as u64 {
        if kind == Kind::TASK_GROUP {
            waiting.found(Held::AnyioClosure, number);
            return waiting.hold(Held::Group, attributes(layout, object)?);
        }
    } else if kind == Kind::CANCEL_SCOPE {
        waiting.found(Held::Group, number);
        // Versions of anyio differ in that.
        let size: u64 = at(at(object, layout.object_type)?, TYPE_SIZE)?;
        let objects = if size > LARGEST_WITHOUT_SLOTS {
            let count = (size - OBJECT_BYTES) / 8;
            Objects { first: object.wrapping_add(OBJECT_BYTES), stride: 8, count }
        } else {
            attributes(layout, object)?
        };
        return waiting.hold(Held::Scope, objects);
    }
    Ok(State::Holding)
}

/// What a callback holds: goes on with it if it is a task or a future.
#[inline(always)]
fn look_at_object(
    layout: &PythonLayout,
    waiting: &mut Waiting,
    object: u64,
    otherwise: State,
) -> Result<State, StackEnd> {
    let kind = waiting.kind(layout, object)?;
    if kind == Kind::TASK {
        return waiting.show(layout, object);
    }
    if kind == Kind::FUTURE {
        waiting.look_at(object);
        return Ok(State::Awaited);
    }
    Ok(otherwise)
}

/// Shows a coroutine that is suspended, and finds what it awaits.
#[inline(always)]
fn show_coroutine(scratch: &mut Scratch) -> Result<State, StackEnd> {
    let chain = &mut scratch.walker.chain;
    let Chain { layout, waiting, words, .. } = chain;
    let object = waiting.coroutine;
    if object == 0 {
        return Ok(State::Awaited);
    }
    let kind = waiting.kind(layout, object)?;
    if kind == Kind::WRAPPER {
        // The first word of these objects is what they stand for (`Objects/genobject.c`).
        waiting.coroutine = at(object, layout.object_type.wrapping_add(8))?;
        return Ok(State::Waiting);
    }
    // A generator need not wait for what is on top of its stack.
    let is_generator = kind == Kind::GENERATOR;
    if !is_generator && kind != Kind::COROUTINE {
        return Ok(State::Awaited);
    }
    let frame = frame_of(layout, object)?;
    let bytes = layout.frame_bytes;
    if bytes as usize > PythonLayout::MAX_FRAME_BYTES {
        return Err(StackEnd::TooDeep); // tells the verifier
    }
    // SAFETY: the helper checks the address, and writes no more than there is room for.
    let outcome =
        unsafe { generated::bpf_probe_read_user(words.as_mut_ptr().cast(), bytes, frame as *const _) };
    if outcome != 0 {
        return Err(StackEnd::Unreadable);
    }
    let tasks = &layout.tasks;
    let marks = u64::from(layout.code_marks);
    let stack_pointer = if tasks.stack_pointer != PythonLayout::NONE {
        word(words, tasks.stack_pointer)
    } else {
        let base = if tasks.stack_base == PythonLayout::NONE {
            frame.wrapping_add(u64::from(tasks.frame_locals))
        } else {
            word(words, tasks.stack_base)
        };
        base.wrapping_add(8 * u64::from(word(words, tasks.stack_depth) as u32))
    };
    waiting.coroutine =
        if is_generator { 0 } else { read::<u64>(stack_pointer.wrapping_sub(8)).unwrap_or(0) & !marks };
    let tag = if waiting.is_outermost == 1 { FrameTag::WaitingTask } else { FrameTag::Waiting };
    waiting.is_outermost = 0;
    let code = word(words, layout.frame_code) & !marks;
    let instruction = tail(words, layout.frame_instruction);
    if code == 0 || code & 7 != 0 {
        return Err(StackEnd::Unreadable);
    }
    let fingerprint = read_identity(layout, code);
    let words = function(tag, code, instruction, fingerprint, &chain.layout);
    emit(scratch, words);
    Ok(State::Waiting)
}
