//! What is expected of the quorum: every check but those that need its nodes' own state.

use crate::quorum::settings::check;
use crate::world::World;
use odradek::cluster::image::Image;
use odradek::cluster::quorum::entry::LogEntry;
use odradek::cluster::quorum::members::{Members, PeerId};
use odradek::cluster::quorum::message::{Message, MessageKind};
use odradek::cluster::quorum::{Quorum, Ticket};
use odradek::cluster::record::Record;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Entries between two images that are kept to compare with.
pub const IMAGE_EVERY: usize = 16;

/// An entry that somebody has applied.
struct Committed {
    term: u64,
    records: Vec<Record>,
}

/// A proposal without an outcome.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub slot: usize,
    pub records: Vec<Record>,
    /// Which links and processes there were when it was made.
    pub topology: u64,
}

/// Lives: one per seed.
pub struct Watch {
    world: Rc<World>,
    /// Index of the entry before the first committed one.
    base: u64,
    committed: Vec<Committed>,
    /// The image as of the last committed entry, and as it was every some entries.
    image: Image,
    images: Vec<Image>,
    /// From which entry on these are the members.
    members: BTreeMap<u64, Members>,
    leaders: BTreeMap<u64, PeerId>,
    votes: BTreeMap<(PeerId, u64), PeerId>,
    /// Index and term of every entry ever flushed: its content, and the term of the one before.
    flushed: BTreeMap<(u64, u64), (LogEntry, Option<u64>)>,
    /// The last committed entry, its term, and the highest term of who had it committed.
    last: (u64, u64, u64),
    pub proposals: BTreeMap<Ticket, Proposal>,
}

impl Watch {
    pub fn new(world: &Rc<World>, base: u64, records: &[Record], members: &Members) -> Watch {
        let image = Image::rebuild(records).expect("a founding image");
        Watch {
            world: world.clone(),
            base,
            committed: Vec::new(),
            images: vec![image.clone()],
            image,
            members: BTreeMap::from([(base, members.clone())]),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            flushed: BTreeMap::new(),
            last: (base, 0, 0),
            proposals: BTreeMap::new(),
        }
    }

    fn finding(&self, check: &'static str, what: String) {
        self.world.finding(check, format_args!("{what}"));
    }

    /// The members as far as anybody has applied.
    pub fn members(&self) -> &Members {
        self.members.values().next_back().expect("those of the founding")
    }

    /// From which entry on they are.
    pub fn members_since(&self) -> u64 {
        self.members.keys().next_back().copied().unwrap_or(self.base)
    }

    pub fn last_committed(&self) -> u64 {
        self.last.0
    }

    /// Those that may decide on an entry: the members as of the one before it, or before these were changed.
    pub fn deciding(&self, index: u64) -> impl Iterator<Item = &Members> {
        self.members.range(..index).rev().take(2).map(|(_, members)| members)
    }

    /// A node applies an entry. `has`: whether a peer has flushed an entry of that index and term.
    pub fn applied(
        &mut self,
        peer: PeerId,
        (index, term): (u64, u64),
        records: &[Record],
        current_term: u64,
        has: impl Fn(PeerId, u64, u64) -> bool,
    ) {
        if index <= self.base {
            return self
                .finding(check::IN_ORDER, format!("{peer:?} applies entry {index} of before the founding"));
        }
        let at = (index - self.base - 1) as usize;
        if let Some(committed) = self.committed.get(at) {
            if committed.term != term || committed.records != records {
                let what =
                    format!("entry {index} of {peer:?} is of term {term}, that of others {}", committed.term);
                self.finding(check::COMMITTED, what);
            }
            return;
        }
        if at > self.committed.len() {
            return self
                .finding(check::IN_ORDER, format!("{peer:?} applies entry {index} before another one"));
        }
        let is_decided =
            self.deciding(index).any(|members| members.is_majority(|peer| has(peer, index, term)));
        if !is_decided {
            let holders: Vec<PeerId> =
                self.members().voters.iter().copied().filter(|peer| has(*peer, index, term)).collect();
            let voters = &self.members().voters;
            let what =
                format!("{peer:?} applies entry {index} of term {term}; {holders:?} of {voters:?} have it");
            self.finding(check::MAJORITY, what);
        }
        for record in records {
            if let Err(error) = self.image.apply(record) {
                self.finding(check::IMAGES, format!("entry {index} does not apply: {error}"));
            }
        }
        self.world.count("committed");
        self.committed.push(Committed { term, records: records.to_vec() });
        if self.committed.len().is_multiple_of(IMAGE_EVERY) {
            self.images.push(self.image.clone());
        }
        self.last = (index, term, self.last.2.max(current_term));
    }

    /// Whether images can be compared without further ado.
    pub fn is_kept(&self, index: u64) -> bool {
        index >= self.base && (index - self.base).is_multiple_of(IMAGE_EVERY as u64)
    }

    /// An image is as of an entry.
    pub fn image(&self, peer: PeerId, index: u64, image: &Image) {
        let count = index.saturating_sub(self.base) as usize;
        let is_known = index >= self.base && count <= self.committed.len();
        if !is_known || *self.image_after(count) != *image {
            self.finding(check::IMAGES, format!("the image of {peer:?} as of entry {index} is another one"));
        }
    }

    /// After so many entries.
    fn image_after(&self, count: usize) -> Cow<'_, Image> {
        let kept = &self.images[count / IMAGE_EVERY];
        let behind = &self.committed[count - count % IMAGE_EVERY..count];
        if behind.is_empty() {
            return Cow::Borrowed(kept);
        }
        let mut image = kept.clone();
        for record in behind.iter().flat_map(|committed| &committed.records) {
            image.apply(record).expect("it has been applied before");
        }
        Cow::Owned(image)
    }

    /// The members are these from an entry on, as a node has it.
    pub fn members_are(&mut self, peer: PeerId, index: u64, members: &Members) {
        match self.members.range(..=index).next_back() {
            Some((_, known)) if known == members => {}
            Some((at, _)) if *at < index && self.members.range(index..).next().is_none() => {
                self.members.insert(index, members.clone());
            }
            known => {
                let what = format!("as of entry {index} {peer:?} has {members:?}, others {known:?}");
                self.finding(check::MEMBERS, what);
            }
        }
    }

    pub fn elected(&mut self, peer: PeerId, term: u64, quorum: &Quorum) {
        self.world.count("elections");
        let first = *self.leaders.entry(term).or_insert(peer);
        if first != peer {
            self.finding(check::ONE_LEADER, format!("{first:?} and {peer:?} in term {term}"));
        }
        if !quorum.members().voters.contains(&peer) {
            self.finding(check::VOTERS_LEAD, format!("{peer:?} leads term {term}"));
        }
        let (index, entry_term, committed_in) = self.last;
        if index > self.base && term > committed_in {
            let found = quorum.term_at(index);
            if found != Some(entry_term) && quorum.applied().0 < index {
                let what = format!(
                    "{peer:?} leads term {term} with {found:?} as entry {index} of term {entry_term}"
                );
                self.finding(check::COMPLETE, what);
            }
        }
    }

    /// A message leaves its node.
    pub fn sent(&mut self, message: &Message) {
        let vote = match message.kind() {
            MessageKind::Vote => Some(message.from),
            MessageKind::VoteResponse if !message.is_refusal() => Some(message.to),
            _ => None,
        };
        let Some(vote) = vote else { return };
        let first = *self.votes.entry((message.from, message.term())).or_insert(vote);
        if first != vote {
            let (from, term) = (message.from, message.term());
            self.finding(
                check::ONE_VOTE,
                format!("{from:?} votes for {first:?} and {vote:?} in term {term}"),
            );
        }
    }

    /// An entry is flushed somewhere.
    pub fn flushed(&mut self, peer: PeerId, entry: &LogEntry, before: Option<u64>) {
        let key = (entry.index, entry.term);
        match self.flushed.get(&key) {
            None => {
                self.flushed.insert(key, (entry.clone(), before));
            }
            Some((known, known_before)) if known == entry && *known_before == before => {}
            Some(_) => {
                let what = format!("{peer:?} has another entry {} of term {}", entry.index, entry.term);
                self.finding(check::MATCHING, what);
            }
        }
    }

    /// A proposal is said to be committed.
    pub fn acknowledged(&self, proposal: &Proposal, index: u64) {
        let at = index.checked_sub(self.base + 1);
        let committed = at.and_then(|at| self.committed.get(at as usize));
        if committed.is_none_or(|committed| committed.records != proposal.records) {
            self.finding(check::ANSWERED_COMMITTED, format!("entry {index} is not what was proposed"));
        }
    }
}
