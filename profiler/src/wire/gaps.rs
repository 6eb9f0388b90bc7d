//! When something was said that nobody saw: a call that waited then may have been answered.
//!
//! A gap is noted once for all calls that wait, however many they are; whether it concerns a call is asked when the call ends.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::call::{Session, Side};

/// Moments that are kept of each session and side; without the oldest, older calls seem to have ended later.
const MAX_MOMENTS: usize = 32;
/// Sessions and sides of which moments are kept, before those are forgotten in which nothing waits.
const MANY: usize = 1 << 14;

/// The number of what happened next, in the order of arrival, and a time in nanoseconds.
pub(super) type Moment = (u64, u64);

#[derive(Clone, Debug, Default, PartialEq)]
struct Moments(VecDeque<Moment>);

/// Moments at which something was missing, by session and caller: who asked waits for what the other side said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gaps {
    /// Something was lost.
    lost: HashMap<(Session, Side), Moments>,
    /// Something was lost, and it is not known where.
    lost_anywhere: HashMap<Side, Moments>,
    /// All of both: it may have been the response to a call that is answered elsewhere.
    lost_elsewhere: HashMap<Side, Moments>,
    /// Bytes were left out.
    hidden: HashMap<(Session, Side), Moments>,
}

impl Moments {
    fn note(&mut self, moment: Moment) {
        // When nothing happened since the last one, that is the first one for all that waits.
        if self.0.back().is_some_and(|(number, _)| *number == moment.0) {
            return;
        }
        if self.0.len() >= MAX_MOMENTS {
            self.0.pop_front();
        }
        self.0.push_back(moment);
    }

    /// The time of the first one behind what has this number.
    fn behind(&self, number: u64) -> Option<u64> {
        let position = self.0.partition_point(|(next, _)| *next <= number);
        self.0.get(position).map(|(_, time_ns)| *time_ns)
    }
}

impl Gaps {
    /// Something that may have been for `caller` was lost.
    pub(super) fn lost(&mut self, session: Option<Session>, caller: Side, now: Moment) {
        match session {
            Some(session) => self.lost.entry((session, caller)).or_default().note(now),
            None => self.lost_anywhere.entry(caller).or_default().note(now),
        }
        self.lost_elsewhere.entry(caller).or_default().note(now);
    }

    /// Bytes for `caller` were left out.
    pub(super) fn hidden(&mut self, session: Session, caller: Side, now: Moment) {
        self.hidden.entry((session, caller)).or_default().note(now);
    }

    /// When the response was first lost, perhaps, to a call with this number, which is answered elsewhere since `detached`.
    pub(super) fn lost_ns(
        &self,
        session: Session,
        caller: Side,
        number: u64,
        detached: Option<u64>,
    ) -> Option<u64> {
        let here = self.lost.get(&(session, caller)).and_then(|moments| moments.behind(number));
        let anywhere = self.lost_anywhere.get(&caller).and_then(|moments| moments.behind(number));
        let elsewhere = detached.and_then(|number| self.lost_elsewhere.get(&caller)?.behind(number));
        [here, anywhere, elsewhere].into_iter().flatten().min()
    }

    /// When the response to a call with this number was first left out, perhaps.
    pub(super) fn hidden_ns(&self, session: Session, caller: Side, number: u64) -> Option<u64> {
        self.hidden.get(&(session, caller))?.behind(number)
    }

    /// Whether anything was lost or left out in a session.
    pub(super) fn has(&self, session: Session) -> bool {
        [Side::Client, Side::Server].into_iter().any(|caller| {
            self.lost.contains_key(&(session, caller)) || self.hidden.contains_key(&(session, caller))
        })
    }

    /// Forgets a session.
    pub(super) fn forget(&mut self, session: Session) {
        for caller in [Side::Client, Side::Server] {
            self.lost.remove(&(session, caller));
            self.hidden.remove(&(session, caller));
        }
    }

    /// Whether some should be forgotten.
    pub(super) fn are_many(&self) -> bool {
        self.lost.len() + self.hidden.len() > MANY
    }

    /// Forgets the sessions of which this is not true.
    pub(super) fn retain(&mut self, is_kept: impl Fn(Session) -> bool) {
        for moments in [&mut self.lost, &mut self.hidden] {
            moments.retain(|(session, _), _| is_kept(*session));
        }
    }

    /// The memory that they take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let all = self.lost.values().chain(self.hidden.values());
        all.map(|moments| size_of::<((Session, Side), Moments)>() + moments.0.len() * size_of::<Moment>())
            .sum()
    }
}
