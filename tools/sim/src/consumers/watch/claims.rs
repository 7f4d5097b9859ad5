//! What clients read, as they know it themselves.
//!
//! A claim counts while its member is in the group: who was taken out learns of it later, and its epoch keeps it
//! from committing. It does not count either once a request says that the member has less, though it came late, or
//! a second time: the protocol has nothing to tell it from a new one by. Nor does what the member takes over later
//! from an older answer than that request's; there may be none to that, where a crash came between it and what it
//! changed.

use crate::consumers::watch::shadow::Shadow;
use crate::groups::request::Request;
use crate::groups::topics::SimTopics;
use odradek::codec::consumer_protocol;
use odradek::codec::consumer_record::Partitions;
use odradek::group::topics::Topics;
use odradek::types::TopicId;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Claim {
    member: String,
    /// In which it was made, or made again: a generation, while the group is a classic one.
    epoch: i32,
    /// The group has reason to think that it is none.
    is_doubtful: bool,
}

/// Lives: with a group.
#[derive(Debug, Default)]
pub struct Claims {
    by_partition: BTreeMap<(TopicId, i32), BTreeMap<u64, Claim>>,
    /// Of each member what it has said last that it has, and the epoch that it is in by that.
    said: BTreeMap<String, (i32, Partitions)>,
    /// Requests of this run that say so, and are not answered yet.
    asking: Vec<Request>,
}

/// Who says what it has, and what.
fn said(request: &Request, topics: &SimTopics) -> Option<(String, Partitions)> {
    match request {
        Request::ConsumerHeartbeat(_, request) if request.member_epoch > 0 => {
            let owned = request.topic_partitions.as_ref()?.iter();
            let owned =
                owned.map(|topic| (TopicId(topic.topic_id), topic.partitions.iter().copied().collect()));
            Some((request.member_id.to_string(), owned.collect()))
        }
        Request::Join(_, request) if !request.member_id.is_empty() => {
            let metadata = request.protocols.first().map(|protocol| &protocol.metadata[..]);
            let said = consumer_protocol::subscription(metadata.unwrap_or_default()).unwrap_or_default();
            let owned = said.owned.into_iter();
            let owned = owned
                .filter_map(|(name, indexes)| Some((topics.named(&name)?.id, indexes.into_iter().collect())));
            Some((request.member_id.to_string(), owned.collect()))
        }
        _ => None,
    }
}

impl Claims {
    /// What a client reads now; what is wrong about that, if anything is.
    pub fn set(
        &mut self,
        client: u64,
        (member, epoch): (&str, i32),
        owned: &Partitions,
        group: &Shadow,
    ) -> Option<String> {
        for ((topic, index), claims) in &mut self.by_partition {
            if !owned.get(topic).is_some_and(|indexes| indexes.contains(index)) {
                claims.remove(&client);
            }
        }
        self.by_partition.retain(|_, claims| !claims.is_empty());
        let mut wrong = None;
        for (topic, indexes) in owned {
            for index in indexes {
                let claims = self.by_partition.entry((*topic, *index)).or_default();
                let new = Claim { member: member.to_owned(), epoch, is_doubtful: false };
                let own = claims.entry(client).or_insert(new);
                (own.member, own.epoch) = (member.to_owned(), epoch);
                own.is_doubtful |= self.said.get(member).is_some_and(|(answered, said)| {
                    epoch < *answered && !said.get(topic).is_some_and(|indexes| indexes.contains(index))
                });
                let counts = !own.is_doubtful && group.has(member);
                let mut others = claims.iter().filter(|(other, claim)| {
                    **other != client && !claim.is_doubtful && group.has(&claim.member)
                });
                if let Some((other, claim)) = others.next().filter(|_| counts) {
                    let other = format!("client {other} ({})", claim.member);
                    wrong =
                        Some(format!("{topic:?}-{index} is read by client {client} ({member}) and {other}"));
                }
            }
        }
        wrong
    }

    /// Who is no member of the group any more, and comes back, has nothing until it is told.
    pub fn end_but(&mut self, was_in: impl Fn(&str) -> bool) {
        for claim in self.by_partition.values_mut().flat_map(BTreeMap::values_mut) {
            claim.is_doubtful |= !was_in(&claim.member);
        }
    }

    /// A classic group has become one of the newer protocol. A static member that had missed a generation of it may
    /// read what the leader gave to another one then: it learns of that when it comes back.
    pub fn end_before(&mut self, generation: i32, group: &Shadow) {
        for ((topic, index), claims) in &mut self.by_partition {
            for claim in claims.values_mut().filter(|claim| claim.epoch < generation) {
                let assigned = group.current(&claim.member).and_then(|current| current.assigned.get(topic));
                claim.is_doubtful |= assigned.is_none_or(|assigned| !assigned.contains(index));
            }
        }
    }

    fn doubt_all(&mut self, member: &str, but: &Partitions) -> bool {
        let mut has_any = false;
        for ((topic, index), claims) in &mut self.by_partition {
            if but.get(topic).is_some_and(|indexes| indexes.contains(index)) {
                continue;
            }
            for claim in claims.values_mut().filter(|claim| claim.member == member && !claim.is_doubtful) {
                (claim.is_doubtful, has_any) = (true, true);
            }
        }
        has_any
    }

    /// A request comes. Whether it says that its member has less than it claims.
    pub fn arrived(&mut self, request: &Request, topics: &SimTopics) -> bool {
        match request {
            Request::ConsumerHeartbeat(_, request) if request.member_epoch < 0 => {
                self.doubt_all(&request.member_id, &Partitions::new())
            }
            Request::Leave(request) => {
                let mut has = false;
                for identity in &request.members {
                    has |= self.doubt_all(&identity.member_id, &Partitions::new());
                }
                has
            }
            request => {
                let Some((member, owned)) = said(request, topics) else { return false };
                self.asking.push(request.clone());
                self.doubt_all(&member, &owned)
            }
        }
    }

    /// A request is answered; with that epoch, unless it is refused.
    pub fn answered(&mut self, request: &Request, epoch: Option<i32>, topics: &SimTopics) {
        if let Some(at) = self.asking.iter().position(|asking| asking == request) {
            self.asking.remove(at);
        }
        if let Some(epoch) = epoch {
            self.taken(request, epoch, topics);
        }
    }

    /// Requests that may be behind a change: those of members that it takes further.
    pub fn asking(&self, is_further: impl Fn(&str) -> bool) -> Vec<Request> {
        let is_of = |request: &&Request| request.sender().is_some_and(|sender| is_further(sender.member));
        self.asking.iter().filter(is_of).cloned().collect()
    }

    /// A run ends: nobody answers any more.
    pub fn forget_run(&mut self) {
        self.asking.clear();
    }

    /// A change is there after a restart, though nobody was answered. `asking`: who may be behind it.
    pub fn found(&mut self, asking: &[Request], group: &Shadow, topics: &SimTopics) {
        for request in asking {
            let current = request.sender().and_then(|sender| group.current(sender.member));
            if let Some(current) = current {
                self.taken(request, current.epoch, topics);
            }
        }
    }

    /// The group goes by what a request says, and its member is in that epoch.
    fn taken(&mut self, request: &Request, epoch: i32, topics: &SimTopics) {
        let Some((member, owned)) = said(request, topics) else { return };
        for ((topic, index), claims) in &mut self.by_partition {
            if !owned.get(topic).is_some_and(|indexes| indexes.contains(index)) {
                let older = claims.values_mut().filter(|claim| claim.member == member && claim.epoch < epoch);
                older.for_each(|claim| claim.is_doubtful = true);
            }
        }
        self.said.insert(member, (epoch, owned));
    }

    /// A group of that name begins anew.
    pub fn begin(&mut self) {
        self.said.clear();
    }
}
