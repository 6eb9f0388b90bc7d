//! One function, followed from its start along all of its branches.

use std::collections::HashMap;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use profiler_common::{CfaKind, Rule};

use super::Text;
use crate::unwind::table::Builder;

/// Instructions of one function that are followed, each as often as what is known of it becomes less.
const MAX_STEPS: usize = 1 << 18;
/// Stretches of one function that only jumps by a table lead to.
const MAX_CASES: usize = 1 << 12;

/// What is known before an instruction. Distances in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// From the stack pointer up to the CFA.
    depth: Option<i32>,
    /// From the frame pointer up to the CFA.
    frame: Option<i32>,
    /// From where the caller's frame pointer was put up to the CFA; zero while it is where it was, and nothing when that is lost.
    saved: Option<i32>,
    /// There is no caller.
    is_outermost: bool,
    /// The kernel was called: a new thread may come back from there.
    is_behind_call: bool,
}

impl State {
    const START: Self =
        Self { depth: Some(8), frame: None, saved: Some(0), is_outermost: false, is_behind_call: false };

    /// What is certain of both.
    fn meet(self, other: Self) -> Self {
        let both = |one: Option<i32>, other| one.filter(|one| Some(*one) == other);
        Self {
            depth: both(self.depth, other.depth),
            frame: both(self.frame, other.frame),
            saved: both(self.saved, other.saved),
            is_outermost: self.is_outermost && other.is_outermost,
            is_behind_call: self.is_behind_call && other.is_behind_call,
        }
    }

    fn rule(self) -> Option<Rule> {
        if self.is_outermost {
            return Some(Rule::plain(CfaKind::EndOfStack));
        }
        let frame_pointer_below_cfa = u32::try_from(self.saved?).ok()?;
        let (cfa, cfa_offset) = match (self.depth, self.frame) {
            (Some(depth), _) => (CfaKind::StackPointer, depth),
            (None, Some(frame)) => (CfaKind::FramePointer, frame),
            (None, None) => return None,
        };
        (cfa_offset >= 8).then_some(Rule { cfa, cfa_offset, frame_pointer_below_cfa, register: 0 })
    }
}

/// What follows an instruction.
enum Next {
    Only(u64),
    /// The next one, or that.
    Either(u64),
    /// Anywhere in the function.
    Table,
    Nothing,
}

/// One function while it is followed.
pub(super) struct Function<'code, 'data> {
    text: &'code Text<'data>,
    pub(super) start: u64,
    pub(super) end: u64,
    factory: InstructionInfoFactory,
    /// By address: what is known before the instruction, and its length.
    known: HashMap<u64, (State, u64)>,
    steps: usize,
    /// Calls before padding are taken for ones that do not return: a loop may start there, or another function.
    is_cautious: bool,
    /// Where it goes on as if it were called from where it was called: functions start there.
    pub(super) next: Vec<u64>,
    /// It returns, or goes on elsewhere.
    pub(super) is_left: bool,
    /// It returns, or goes on in another function, with something on its stack: what was taken for it is more than one function.
    is_wrong: bool,
}

impl<'code, 'data> Function<'code, 'data> {
    pub(super) fn follow(text: &'code Text<'data>, (start, end): (u64, u64)) -> Self {
        let (known, factory) = (HashMap::new(), InstructionInfoFactory::new());
        let (steps, next, is_cautious, is_left, is_wrong) = (0, Vec::new(), false, false, false);
        let mut function =
            Self { text, start, end, factory, known, steps, next, is_cautious, is_left, is_wrong };
        function.follow_all();
        if function.is_wrong {
            function.known.clear();
            function.next.clear();
            function.steps = 0;
            (function.is_cautious, function.is_left, function.is_wrong) = (true, false, false);
            function.follow_all();
        }
        function
    }

    /// Whether a way leads to an instruction at an address.
    pub(super) fn has(&self, address: u64) -> bool {
        self.known.contains_key(&address)
    }

    /// Whether it sets up a frame pointer.
    pub(super) fn has_frame_pointer(&self) -> bool {
        self.known.values().any(|(state, _)| state.frame.is_some())
    }

    fn follow_all(&mut self) {
        let state = State { is_outermost: self.start == self.text.entry, ..State::START };
        let (mut jumps, mut behind) = (Vec::new(), self.start);
        self.follow_from(self.start, state, &mut jumps);
        // What is at the targets of a table is what was there at the jump.
        for _ in 0..MAX_CASES {
            let Some((first, rest)) = jumps.split_first() else { break };
            if rest.iter().any(|other| other != first) {
                break;
            }
            let state = *first;
            let Some(address) = self.next_unknown(behind).filter(|_| !self.is_wrong) else { break };
            behind = address;
            self.follow_from(address, state, &mut jumps);
        }
    }

    /// The first instruction from an address on that no way has led to, and that does something.
    fn next_unknown(&self, mut address: u64) -> Option<u64> {
        while address < self.end {
            if let Some((_, length)) = self.known.get(&address) {
                address += length;
                continue;
            }
            let instruction = self.text.decoder(address).decode();
            if instruction.is_invalid() {
                return None;
            }
            if !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
                return Some(address);
            }
            address = instruction.next_ip();
        }
        None
    }

    fn follow_from(&mut self, address: u64, state: State, jumps: &mut Vec<State>) {
        let mut ways = vec![(address, state)];
        while let Some((mut address, mut state)) = ways.pop() {
            let mut decoder = self.text.decoder(address);
            let mut instruction = Instruction::default();
            loop {
                let is_within = (self.start..self.end).contains(&address) && self.steps < MAX_STEPS;
                if !is_within {
                    self.is_left = true;
                    // What was not followed to the end may say otherwise.
                    self.is_wrong |= self.steps >= MAX_STEPS;
                    let is_jump = !self.known.is_empty() && instruction.next_ip() != address;
                    self.is_wrong |= is_jump
                        && state.depth.is_some_and(|depth| depth != 8)
                        && self.text.called.contains(&address);
                    if self.steps < MAX_STEPS
                        && state == (State { is_behind_call: state.is_behind_call, ..State::START })
                    {
                        self.next.push(address);
                    }
                    break;
                }
                self.steps += 1;
                if decoder.ip() != address {
                    decoder = self.text.decoder(address);
                }
                decoder.decode_out(&mut instruction);
                if instruction.is_invalid() {
                    self.is_left = true;
                    break;
                }
                match self.known.get_mut(&address) {
                    Some((before, _)) => {
                        let both = before.meet(state);
                        if both == *before {
                            break;
                        }
                        (*before, state) = (both, both);
                    }
                    None => drop(self.known.insert(address, (state, instruction.len() as u64))),
                }
                let next = self.step(&instruction, &mut state);
                address = match next {
                    Next::Only(target) => target,
                    Next::Either(target) => {
                        ways.push((target, state));
                        instruction.next_ip()
                    }
                    Next::Table => {
                        jumps.push(state);
                        break;
                    }
                    Next::Nothing => break,
                };
            }
        }
    }

    /// What an instruction does to what is known, and where it leads.
    fn step(&mut self, instruction: &Instruction, state: &mut State) -> Next {
        match instruction.flow_control() {
            FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt => return Next::Nothing,
            FlowControl::Return => {
                self.is_left = true;
                let is_right =
                    state.depth.is_none_or(|depth| depth == 8) && state.saved.is_none_or(|saved| saved == 0);
                self.is_wrong |= !is_right && !state.is_outermost;
                return Next::Nothing;
            }
            FlowControl::Exception | FlowControl::Interrupt => return Next::Nothing,
            FlowControl::UnconditionalBranch => return Next::Only(instruction.near_branch_target()),
            FlowControl::ConditionalBranch => return Next::Either(instruction.near_branch_target()),
            FlowControl::IndirectBranch => {
                // At the end of a function it is a call whose callee returns for it.
                let is_call = instruction.op0_kind() == OpKind::Memory
                    && instruction.memory_index() == Register::None
                    && state.depth == Some(8);
                self.is_left = true;
                return if is_call { Next::Nothing } else { Next::Table };
            }
            // Where a program starts, nothing is returned to, most often: dynamic linkers go on.
            FlowControl::Call if instruction.mnemonic() == Mnemonic::Call => {
                let is_cautious = self.is_cautious || state.is_outermost;
                let is_last = self.text.endless.contains(&instruction.near_branch_target())
                    || is_cautious && self.text.is_padding(instruction.next_ip());
                return if is_last { Next::Nothing } else { Next::Only(instruction.next_ip()) };
            }
            _ => {}
        }
        state.is_behind_call |= instruction.mnemonic() == Mnemonic::Syscall;
        self.apply(instruction, state);
        Next::Only(instruction.next_ip())
    }

    fn apply(&mut self, instruction: &Instruction, state: &mut State) {
        let first = || {
            (instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register)
                .then(|| instruction.op0_register())
        };
        let second = || {
            (instruction.op_count() > 1 && instruction.op1_kind() == OpKind::Register)
                .then(|| instruction.op1_register())
        };
        match (instruction.mnemonic(), first(), second()) {
            (Mnemonic::Push, register, _) => {
                state.depth = state.depth.map(|depth| depth.saturating_add(8));
                if register == Some(Register::RBP) && state.saved == Some(0) {
                    state.saved = state.depth;
                }
            }
            (Mnemonic::Pop, Some(Register::RBP), _) => {
                restore(state, state.depth);
                state.depth = state.depth.map(|depth| depth.saturating_sub(8));
            }
            (Mnemonic::Leave, ..) => {
                state.depth = state.frame;
                restore(state, state.depth);
                state.depth = state.depth.map(|depth| depth.saturating_sub(8));
            }
            (Mnemonic::Mov, Some(Register::RBP), Some(Register::RSP)) => {
                state.frame = state.depth;
                lose_unless_saved(state);
            }
            (Mnemonic::Mov, Some(Register::RSP), Some(Register::RBP)) => state.depth = state.frame,
            (Mnemonic::Mov, Some(Register::RBP), None) if is_slot(instruction) => {
                let place = slot(instruction, *state);
                restore(state, place);
            }
            (Mnemonic::Mov, None, Some(Register::RBP)) if is_slot(instruction) && state.saved == Some(0) => {
                if let Some(place) = slot(instruction, *state).filter(|place| *place > 8) {
                    state.saved = Some(place);
                }
            }
            (Mnemonic::Add | Mnemonic::Sub, Some(Register::RSP), _) => {
                let moved = state.depth.zip(immediate(instruction));
                let is_add = instruction.mnemonic() == Mnemonic::Add;
                state.depth =
                    moved.and_then(
                        |(depth, bytes)| {
                            if is_add { depth.checked_sub(bytes) } else { depth.checked_add(bytes) }
                        },
                    );
            }
            (Mnemonic::Lea, Some(Register::RSP), _) => state.depth = slot(instruction, *state),
            (Mnemonic::Lea, Some(Register::RBP), _) if is_slot(instruction) => {
                state.frame = slot(instruction, *state);
                lose_unless_saved(state);
            }
            (Mnemonic::Xor, Some(Register::EBP | Register::RBP), Some(Register::EBP | Register::RBP))
                if state.saved == Some(0) && state.is_behind_call =>
            {
                // A caller's frame pointer is not thrown away: this is a new thread, which has none (`clone.s` of musl).
                state.is_outermost = true;
            }
            _ => self.apply_any(instruction, state),
        }
    }

    /// Instructions that have nothing to do with frames most of the time.
    fn apply_any(&mut self, instruction: &Instruction, state: &mut State) {
        let increment = instruction.stack_pointer_increment();
        let is_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        if increment != 0 && !is_call {
            state.depth = state.depth.and_then(|depth| depth.checked_sub(increment));
        }
        for used in self.factory.info(instruction).used_registers() {
            let is_written = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            match used.register().full_register() {
                Register::RBP if is_written => {
                    state.frame = None;
                    lose_unless_saved(state);
                }
                Register::RSP if is_written && increment == 0 && !is_call => state.depth = None,
                _ => {}
            }
        }
    }

    pub(super) fn push_rows(&self, builder: &mut Builder) {
        if self.is_wrong {
            return;
        }
        for (address, (state, length)) in &self.known {
            if let Some(rule) = state.rule().and_then(Rule::pack) {
                builder.push(*address, address + length, rule);
            }
        }
    }
}

/// The frame pointer becomes what was put at a place.
fn restore(state: &mut State, place: Option<i32>) {
    state.frame = None;
    match (state.saved, place) {
        (Some(saved), Some(place)) if saved == place => state.saved = Some(0),
        (Some(0), _) => state.saved = None,
        _ => {}
    }
}

/// The frame pointer is used for something else.
fn lose_unless_saved(state: &mut State) {
    if state.saved == Some(0) {
        state.saved = None;
    }
}

/// Whether its memory operand is a fixed distance from the stack pointer or the frame pointer.
fn is_slot(instruction: &Instruction) -> bool {
    matches!(instruction.memory_base(), Register::RSP | Register::RBP)
        && instruction.memory_index() == Register::None
}

/// How far below the CFA that is.
fn slot(instruction: &Instruction, state: State) -> Option<i32> {
    let base = match instruction.memory_base() {
        _ if instruction.memory_index() != Register::None => None,
        Register::RSP => state.depth,
        Register::RBP => state.frame,
        _ => None,
    };
    base?.checked_sub(i32::try_from(instruction.memory_displacement64() as i64).ok()?)
}

pub(super) fn immediate(instruction: &Instruction) -> Option<i32> {
    let is_immediate = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8to64 | OpKind::Immediate32to64 | OpKind::Immediate32
    );
    is_immediate.then(|| i32::try_from(instruction.immediate(1) as i64).ok()).flatten()
}
