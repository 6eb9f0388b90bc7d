//! What searches remember from sample to sample: it takes long to read, and is the same in the next one.

use profiler_common::{PythonLayout, StackEnd};

use super::HELD_KINDS;
use super::names::Kind;
use crate::unwind::python::at;
use crate::unwind::{place_of, read};

/// What searches met on this CPU: it takes long to read, and is the same in the next sample.
#[repr(C)]
pub(super) struct Known {
    /// The process, and how often the mappings of any had changed.
    of: u64,
    /// When it was, in [`STRETCH_BITS`]: all is forgotten behind that, as a type's memory may become another's.
    stretch: u64,
    /// The definition of `task_wakeup`.
    pub(super) wakeup: u64,
    /// The name of a function that completes a future, and of anyio's for tasks of a group.
    pub(super) completing: u64,
    pub(super) spawned_done: u64,
    /// Of what ends a loop.
    pub(super) run_until_complete: u64,
    /// The name of a function that does nothing of that.
    pub(super) other: u64,
    /// For each [`Held`], the number of the object behind the one that was looked for.
    pub(super) behind: [u64; HELD_KINDS],
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
    pub(super) fn begin(&mut self, of: u64, now_ns: u64) {
        let stretch = now_ns >> STRETCH_BITS;
        if self.of == of && self.stretch == stretch {
            return;
        }
        self.of = of;
        self.stretch = stretch;
        self.wakeup = u64::MAX;
        self.completing = u64::MAX;
        self.spawned_done = u64::MAX;
        self.run_until_complete = u64::MAX;
        self.other = u64::MAX;
        for known in &mut self.types {
            *known = KnownType { address: 0, kind: Kind::OTHER };
        }
    }

    /// What objects of a type are.
    #[inline(always)]
    pub(super) fn kind_of(&mut self, layout: &PythonLayout, ty: u64) -> Result<Kind, StackEnd> {
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
