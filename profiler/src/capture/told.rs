//! What the kernel half was told of a process's code, and since when it has known.
//!
//! It is told as soon as the kernel's record of a mapping comes in, and what the record means is settled a little later, in order with
//! samples. So it is ahead of the settled mappings, by which addresses get their names; and it is behind the process, which runs new
//! code at once. A walk that came through code before the kernel half knew of it may have taken it for what was there before, and its
//! callers for others: [`Mapped::since_ns`] tells these walks.

use std::collections::BTreeMap;

use super::mappings::{AddressSpace, Change, Mapped, NewMapping};
use super::session::now_ns;

/// The kernel half never had it: it was over before.
const NEVER: u64 = u64::MAX;

/// What the kernel half was told of one process.
#[derive(Default)]
pub(super) struct Told {
    code: AddressSpace,
    /// What was told and is not settled, by the time of the record and the start of the mapping.
    ahead: BTreeMap<(u64, u64), Ahead>,
}

struct Ahead {
    end: u64,
    parts: Vec<Mapped>,
}

impl Told {
    /// What a child starts with: the code of its parent, under which it was walked until now.
    pub(super) fn of_child(parent: &AddressSpace) -> Self {
        Self { code: parent.clone(), ahead: BTreeMap::new() }
    }

    /// News that will be settled later: tells the kernel half by `tell`.
    pub(super) fn announce(&mut self, timestamp_ns: u64, new: Mapped, tell: impl FnMut(&Change)) {
        let parts = self.take(timestamp_ns, new, tell);
        self.ahead.insert((timestamp_ns, new.start), Ahead { end: new.end, parts });
    }

    /// A mapping was found by a reading that began then: whatever the kernel tells of since is newer.
    pub(super) fn find(&mut self, begun_ns: u64, found: Mapped, tell: impl FnMut(&Change)) {
        self.take(begun_ns, found, tell);
    }

    /// A mapping is settled. Tells the kernel half by `tell`, if it was not told; returns its parts, each with since when it knows.
    pub(super) fn settle(
        &mut self,
        timestamp_ns: u64,
        new: Mapped,
        tell: impl FnMut(&Change),
    ) -> Vec<Mapped> {
        match self.ahead.remove(&(timestamp_ns, new.start)) {
            Some(ahead) => ahead.parts,
            None => self.take(timestamp_ns, new, tell),
        }
    }

    /// The process runs another program, which will be settled later. Returns what the kernel half is to forget.
    pub(super) fn announce_exec(&mut self, timestamp_ns: u64) -> Vec<Mapped> {
        let gone = self.forget_before(timestamp_ns);
        self.ahead.insert((timestamp_ns, 0), Ahead { end: u64::MAX, parts: Vec::new() });
        gone
    }

    /// That is settled. Returns what the kernel half is to forget, if it was not told.
    pub(super) fn settle_exec(&mut self, timestamp_ns: u64) -> Vec<Mapped> {
        match self.ahead.remove(&(timestamp_ns, 0)) {
            Some(_) => Vec::new(),
            None => self.forget_before(timestamp_ns),
        }
    }

    /// Removes what is not among the mappings of the process now.
    pub(super) fn drop_unmapped(&mut self, now: &[NewMapping]) -> Vec<Mapped> {
        self.code.drop_unmapped(now)
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) -> Vec<Mapped> {
        self.ahead.clear();
        self.code.clear()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mapped> {
        self.code.iter()
    }

    fn take(&mut self, timestamp_ns: u64, new: Mapped, mut tell: impl FnMut(&Change)) -> Vec<Mapped> {
        let mut parts = Vec::new();
        for (mut part, since_ns) in self.code.parts(&new) {
            part.since_ns = match since_ns {
                Some(since_ns) => since_ns,
                None if self.is_overtaken(timestamp_ns, part.start, part.end) => NEVER,
                None => {
                    let change = self.code.insert(part);
                    tell(&change);
                    part.since_ns = now_ns();
                    self.code.insert(part);
                    part.since_ns
                }
            };
            parts.push(part);
        }
        parts
    }

    fn forget_before(&mut self, timestamp_ns: u64) -> Vec<Mapped> {
        let (kept, gone): (Vec<_>, Vec<_>) = self
            .code
            .clear()
            .into_iter()
            .partition(|mapped| self.is_overtaken(timestamp_ns, mapped.start, mapped.end));
        kept.into_iter().for_each(|mapped| drop(self.code.insert(mapped)));
        gone
    }

    /// Whether the kernel half was told of something newer there.
    fn is_overtaken(&self, timestamp_ns: u64, start: u64, end: u64) -> bool {
        let mut newer = self.ahead.range((timestamp_ns + 1, 0)..);
        newer.any(|((_, newer_start), newer)| *newer_start < end && start < newer.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbol::ModuleId;

    fn mapped(module: usize, start: u64, end: u64) -> Mapped {
        Mapped { start, end, file_offset: 0, module: ModuleId::from_index(module), since_ns: 0 }
    }

    fn tell(_: &Change) {}

    fn untold(_: &Change) {
        panic!("there is no news in that");
    }

    /// Since when the kernel half knows of a mapping that is in one part.
    fn since_ns(parts: &[Mapped]) -> u64 {
        assert_eq!(parts.len(), 1, "{parts:?}");
        parts[0].since_ns
    }

    /// What is told ahead is settled as of then, and what is mapped once more is known all along.
    #[test]
    fn news_are_told_once() {
        let mut told = Told::default();
        let mut news = Change::default();
        let before_ns = now_ns();
        told.announce(10, mapped(1, 0x1000, 0x3000), |change| {
            news = Change { gone: vec![], new: change.new.clone() }
        });
        assert_eq!(news.new, [mapped(1, 0x1000, 0x3000)]);
        let known_ns = since_ns(&told.settle(10, mapped(1, 0x1000, 0x3000), untold));
        assert!((before_ns..=now_ns()).contains(&known_ns));
        assert_eq!(since_ns(&told.settle(20, mapped(1, 0x1000, 0x3000), untold)), known_ns);
        assert!(since_ns(&told.settle(30, mapped(2, 0x1000, 0x3000), tell)) > known_ns);
    }

    /// Of code that grows on both sides, the kernel half is told what is new; what was there has been known all along.
    #[test]
    fn growing_code_stays_known() {
        let part = |start, end| Mapped { file_offset: start, ..mapped(1, start, end) };
        let mut told = Told::default();
        let known_ns = since_ns(&told.settle(10, part(0x2000, 0x3000), tell));
        let mut news = Vec::new();
        told.announce(20, part(0x1000, 0x4000), |change| {
            assert_eq!(change.gone, []);
            news.extend(change.new.clone());
        });
        assert_eq!(news, [part(0x1000, 0x2000), part(0x3000, 0x4000)]);
        let parts = told.settle(20, part(0x1000, 0x4000), untold);
        let starts: Vec<_> = parts.iter().map(|part| (part.start, part.since_ns > known_ns)).collect();
        assert_eq!(starts, [(0x1000, true), (0x2000, false), (0x3000, true)]);
        assert_eq!(parts[1].since_ns, known_ns);
        // Other code in its place is new all over.
        assert!(since_ns(&told.settle(30, mapped(2, 0x1000, 0x4000), tell)) > known_ns);
    }

    /// What was told of a place stays, although what was there before is settled only then.
    #[test]
    fn older_news_do_not_overtake() {
        let mut told = Told::default();
        told.announce(20, mapped(2, 0x1000, 0x2000), tell);
        assert_eq!(since_ns(&told.settle(10, mapped(1, 0x1000, 0x2000), untold)), NEVER);
        // Reading a process told of this one before the kernel's record came.
        let known_ns = since_ns(&told.settle(15, mapped(2, 0x1000, 0x2000), untold));
        assert_ne!(known_ns, NEVER);
        assert_eq!(since_ns(&told.settle(20, mapped(2, 0x1000, 0x2000), untold)), known_ns);
        // Nothing is ahead any more.
        assert_ne!(since_ns(&told.settle(15, mapped(1, 0x1000, 0x2000), tell)), NEVER);
    }

    /// What the kernel tells of while a process is read counts, also if it comes in first.
    #[test]
    fn readings_are_older_than_what_happens_meanwhile() {
        let mut told = Told::default();
        told.find(10, mapped(1, 0x1000, 0x2000), tell);
        told.announce(15, mapped(2, 0x1000, 0x2000), tell);
        assert_ne!(since_ns(&told.settle(15, mapped(2, 0x1000, 0x2000), untold)), NEVER);
        told.announce(25, mapped(3, 0x1000, 0x2000), tell);
        told.find(20, mapped(2, 0x1000, 0x2000), untold);
    }

    /// A program that was started takes nothing from its own code, of which the kernel half was told already.
    #[test]
    fn programs_start_once() {
        let mut told = Told::default();
        told.settle(5, mapped(1, 0x1000, 0x2000), tell);
        assert_eq!(told.announce_exec(10).len(), 1);
        told.announce(11, mapped(2, 0x1000, 0x2000), tell);
        assert_eq!(told.settle_exec(10), []);
        assert_eq!(
            told.settle(9, mapped(1, 0x8000, 0x9000), tell),
            told.settle(9, mapped(1, 0x8000, 0x9000), untold)
        );
        // It was not told of this one.
        let gone = told.settle_exec(10);
        assert_eq!(gone.iter().map(|gone| gone.start).collect::<Vec<_>>(), [0x8000]);
    }
}
