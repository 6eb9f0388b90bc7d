//! Which long system calls are taken whole: those that are of several messages, of which some would be in what is left out else.

use profiler_common::{MAX_WIRE_BYTES, MAX_WIRE_PARTS, WHOLE_BYTES};

/// System calls up to this length are taken whole on streams where ones longer than [`WHOLE_BYTES`] were of several messages.
pub(super) const MANY_WHOLE_BYTES: u32 = MAX_WIRE_PARTS * MAX_WIRE_BYTES as u32;
/// Long system calls that are taken whole to see whether they are of several messages.
pub(super) const LONG_LOOKS: u32 = 16;
/// Calls in a row that were taken whole and of whose parts none had a line end: they are of the body of one long message.
pub(super) const BODIES: u32 = 8;

/// What is known of the long system calls of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Long {
    /// Some were of several messages.
    are_several: bool,
    /// Calls that were looked at as they might be, and were of one message, or of a part of one.
    looks: u32,
    /// Calls since the last with a line end that were taken whole.
    bodies: u32,
    /// The last write ended within a message.
    pub(super) is_within: bool,
    /// Responses to requests that nobody saw, at the last read that was cut.
    unmatched: Option<u64>,
}

/// A part of a long call.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongPart {
    /// A line ends within what might have hidden others, had it been cut.
    pub(super) is_several: bool,
    pub(super) is_last: bool,
    /// The call that ends here was a write.
    pub(super) is_written: bool,
    /// It ended a message, and calls wait for their answers.
    pub(super) is_answer: bool,
    /// Something of the call was left out.
    pub(super) is_cut: bool,
    /// Responses to requests that nobody saw, so far.
    pub(super) unmatched: u64,
    /// A line ended in the call, here or before.
    pub(super) has_line_end: bool,
}

impl Long {
    /// Takes a part of a call. Returns up to which length calls of the stream are taken whole from now on, if that changes. A write that was
    /// cut between the start of a message and the end of one may have hidden answers, as long as calls are open. Most often it is of one
    /// message all the same, and bodies of messages would fill the ring: they are not taken for long.
    pub(super) fn next(&mut self, part: LongPart) -> Option<u32> {
        // Where responses have no request, it was in what was left out.
        let is_cut_read = !part.is_written && part.is_last && part.is_cut;
        let before = if is_cut_read { self.unmatched.replace(part.unmatched) } else { None };
        if part.is_several || before.is_some_and(|before| before < part.unmatched) {
            self.are_several = true;
            self.bodies = 0;
            return part.is_cut.then_some(MANY_WHOLE_BYTES);
        }
        // A read has one buffer, and requests that follow each other end anywhere in it: they are taken whole from then on.
        if !part.is_last || !part.is_written {
            return None;
        }
        if self.are_several {
            if part.is_cut || part.has_line_end {
                self.bodies = 0;
                return None;
            }
            self.bodies += 1;
            if self.bodies < BODIES {
                return None;
            }
            *self = Self { is_within: self.is_within, unmatched: self.unmatched, ..Self::default() };
            return Some(WHOLE_BYTES);
        }
        if part.is_cut {
            let is_first = part.is_answer && !self.is_within && self.looks == 0;
            self.looks += u32::from(is_first);
            return is_first.then_some(MANY_WHOLE_BYTES);
        }
        self.looks = self.looks.saturating_add(1);
        (self.looks > LONG_LOOKS).then_some(WHOLE_BYTES)
    }
}
