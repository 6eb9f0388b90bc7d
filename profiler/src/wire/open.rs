//! Calls that have not ended, by session: one that closes touches its own calls only, however many others wait.

use hashbrown::HashMap;

use super::call::{Call, Session, Side};
use super::calls::Peer;
use super::message::Id;

/// Sessions without calls that are kept for their next ones: stdio servers have one.
const FEW_SESSIONS: usize = 16;

/// What a response is found by.
pub(super) type Key = (Session, Side, Id);

/// A call that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Open {
    pub(super) call: Call,
    /// The order of arrival.
    pub(super) number: u64,
    pub(super) is_cancelled: bool,
    /// When something was lost that may have been its response, for one whose session has ended.
    pub(super) lost_ns: Option<u64>,
    /// For `tasks/result`: the task that it asks for.
    pub(super) task: Option<Box<str>>,
    /// The response comes by another connection: the order in which that was known.
    pub(super) detached: Option<u64>,
    /// Whose it is.
    pub(super) peer: Option<Peer>,
}

/// Some that were taken out, in the order of arrival, in the boxes that they were in.
type Taken = Vec<Box<Open>>;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OpenCalls {
    /// In boxes: a table has up to twice the room that it needs, and both the old and the new one while it grows.
    sessions: HashMap<Session, HashMap<Key, Box<Open>>>,
    count: usize,
}

impl OpenCalls {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Open> {
        self.sessions.get(&key.0)?.get(key).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Open> {
        self.sessions.get_mut(&key.0)?.get_mut(key).map(Box::as_mut)
    }

    /// Returns what had this key.
    pub(super) fn insert(&mut self, key: Key, open: Open) -> Option<Open> {
        let earlier = self.sessions.entry(key.0).or_default().insert(key, Box::new(open));
        self.count += usize::from(earlier.is_none());
        earlier.map(|open| *open)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Open> {
        let calls = self.sessions.get_mut(&key.0)?;
        let open = calls.remove(key)?;
        self.count -= 1;
        if calls.is_empty() && self.sessions.len() > FEW_SESSIONS {
            self.sessions.remove(&key.0);
        }
        Some(*open)
    }

    /// All, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Open)> {
        self.sessions.values().flatten().map(|(key, open)| (key, open.as_ref()))
    }

    /// Whether something waits in a session.
    pub(super) fn has(&self, session: Session) -> bool {
        self.sessions.get(&session).is_some_and(|calls| !calls.is_empty())
    }

    /// Those of a session.
    pub(super) fn of_mut(&mut self, session: Session) -> impl Iterator<Item = &mut Open> {
        self.sessions.get_mut(&session).into_iter().flat_map(HashMap::values_mut).map(Box::as_mut)
    }

    /// The memory that the tables take, in bytes, without what is in their boxes.
    pub(super) fn table_bytes(&self) -> usize {
        self.sessions.allocation_size() + self.sessions.values().map(HashMap::allocation_size).sum::<usize>()
    }

    /// Takes those of a session for which this is true, in the order of arrival.
    pub(super) fn take_of(&mut self, session: Session, is_taken: impl Fn(&Open) -> bool) -> Taken {
        let Some(calls) = self.sessions.get_mut(&session) else { return Vec::new() };
        let taken = calls.extract_if(|_, open| is_taken(open)).map(|(_, open)| open).collect();
        if calls.is_empty() {
            self.sessions.remove(&session);
        }
        self.count_taken(taken)
    }

    /// Takes those of all sessions for which this is true, in the order of arrival.
    pub(super) fn take(&mut self, is_taken: impl Fn(&Open) -> bool) -> Taken {
        let is_taken = &is_taken;
        let sessions = self.sessions.values_mut();
        let taken = sessions
            .flat_map(|calls| calls.extract_if(move |_, open| is_taken(open)).map(|(_, open)| open))
            .collect();
        self.sessions.retain(|_, calls| !calls.is_empty());
        self.count_taken(taken)
    }

    fn count_taken(&mut self, mut taken: Taken) -> Taken {
        self.count -= taken.len();
        taken.sort_unstable_by_key(|open| open.number);
        taken
    }
}
