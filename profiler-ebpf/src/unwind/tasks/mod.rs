//! asyncio: who waits for the task that runs, in place between the task's coroutines and the event loop.
//!
//! A task is run by the event loop, and so are those that wait for it: nothing on the machine's stack leads there. From 3.14 on a
//! task says who awaits it. Before, it has a list of what to call when it is done, and some of what asyncio itself puts there
//! leads to another task; so does what anyio's task groups put there. A name is taken for what it says only with the module that it is
//! in, and a coroutine for a task's only if the task says so too. A task that waits shows its coroutines from the outermost one inwards.

mod known;
mod names;
mod objects;

use aya_ebpf::helpers::generated;
use known::Known;
use names::{
    ANYIO_MODULE, COMPLETING, EVENTS_MODULE, Kind, RELEASE_WAITER, RUN_UNTIL_COMPLETE, SPAWNED_DONE,
    START_OF_SPAWNED_DONE, TASK_GROUP_DONE, TASK_GROUPS_MODULE, TASKS_MODULE, WAKEUP_DEFINITION,
};
use objects::{
    BUILTIN_DEFINITION, BUILTIN_SELF, CALLBACK_BYTES, CELL_CONTENT, FUNCTION_BYTES, FUTURE_CALLBACK,
    FUTURE_CALLBACKS, HANDLE_CALLBACK, LARGEST_WITHOUT_SLOTS, LIST_ITEMS, LIST_SIZE, METHOD_FUNCTION,
    METHOD_SELF, OBJECT_BYTES, OBJECT_TYPE, Objects, PARTIAL_ARGUMENTS, PARTIAL_FUNCTION, TUPLE_ITEMS,
    TUPLE_SIZE, TYPE_SIZE, WRAPPER_TASK, Words, attributes, fill, parent_of,
};
use profiler_common::{Failure, FrameTag, PythonLayout, StackEnd, TaskSource};

use super::python::{Chain, State, at, function, read_identity, tail, word};
use super::{emit, read, unreadable};
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
    waiting.callback[OBJECT_TYPE as usize / 8] = 0;
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
        // What is behind a type that can be read is no accident.
        Err(_) if is_type(layout, word(&waiting.callback, OBJECT_TYPE)) => {
            waiting.attempts = SETTLED;
            count(Failure::PythonTasksUnreadable);
            State::Elsewhere
        }
        _ => State::Elsewhere,
    }
}

/// Whether an object is a type: that of code objects is one.
#[inline(always)]
fn is_type(layout: &PythonLayout, object: u64) -> bool {
    let kind = |object| at::<u64>(object, layout.object_type);
    object != 0 && layout.code_type != 0 && kind(object).is_ok_and(|ty| kind(layout.code_type) == Ok(ty))
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
    if name_object == waiting.known.run_until_complete {
        return Ok(State::Elsewhere);
    }
    if name_object == waiting.known.other {
        return Ok(State::Awaited);
    }
    if name_object != waiting.known.completing {
        let name: [u64; 3] = at(name_object, tasks.string_data)?;
        if START_OF_SPAWNED_DONE.is(&name) {
            return look_at_spawned(layout, waiting);
        }
        let module = word(callback, tasks.function_module);
        if RUN_UNTIL_COMPLETE.is(&name) && EVENTS_MODULE.is(&at(module, tasks.string_data)?) {
            waiting.known.run_until_complete = name_object;
            return Ok(State::Elsewhere);
        }
        let [ref first, ref second, ref third, ref fourth] = COMPLETING;
        let is_known = first.is(&name) || second.is(&name) || third.is(&name) || fourth.is(&name);
        if !is_known || !TASKS_MODULE.is(&at(module, tasks.string_data)?) {
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
        return Err(unreadable(frame));
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
