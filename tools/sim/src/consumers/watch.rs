//! What is expected of a coordinator whose groups use the newer protocol, or both, and the checks.
//!
//! A group is known by its records: [`shadow`] reads them by other code than the coordinator's, and looks at each
//! step from what is kept to what is to be. So it is certain at every moment what a group is, and an answer can be
//! held against it. What clients read, which they say themselves, is in [`claims`]; what is committed, and groups
//! of the classic protocol, in [`Kept`].

pub mod answers;
pub mod claims;
pub mod shadow;
pub mod targets;

use crate::consumers::settings::{Mistake, Settings, check};
use crate::consumers::watch::claims::Claims;
use crate::consumers::watch::shadow::{Shadow, ShadowMember};
use crate::groups::request::Request;
use crate::groups::settings::{MS, S};
use crate::groups::topics::SimTopics;
use crate::groups::watch::kept::Kept;
use crate::groups::witness::{self, Witness};
use crate::world::{Micros, World};
use crate::writes::WriteEnd;
use odradek::codec::consumer_protocol;
use odradek::codec::consumer_record::{ConsumerRecord, CurrentValue, Partitions};
use odradek::codec::group_record::{GroupRecord, GroupValue};
use odradek::group::coordinator::Coordinator;
use odradek::group::topics::Topics;
use odradek::group::{Answer, WriteId};
use odradek::types::TopicId;
use odradek::types::sorted::SortedSet;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A member that could not be taken out is, so much later at most.
const RETRY_MAX: Micros = 2 * S;

/// Lives: one per seed.
pub struct Watch {
    world: Rc<World>,
    settings: Settings,
    topics: Rc<SimTopics>,
    pub kept: Kept,
    groups: BTreeMap<String, GroupWatch>,
}

/// A change of a group on its way into the log.
struct Open {
    write: WriteId,
    next: Shadow,
    upgraded: Option<Upgraded>,
    /// Requests that may be behind it.
    asking: Vec<Request>,
    /// Nobody knows whether it is there.
    is_unsure: bool,
}

/// A classic group that becomes one of the newer protocol.
#[derive(Clone, Copy)]
struct Upgraded {
    /// When its members began a session.
    at: Micros,
    /// Its last one.
    generation: i32,
}

/// Lives: one per group.
#[derive(Default)]
pub struct GroupWatch {
    pub kept: Shadow,
    open: Vec<Open>,
    /// Commits, and what else is on its way and changes no member.
    others: BTreeSet<WriteId>,
    /// Those that were when a change ended: what waited for the change waits for them too.
    awaited: BTreeSet<WriteId>,
    /// Those of this run.
    members: BTreeMap<String, MemberWatch>,
    /// Epochs that members were told of.
    told: BTreeMap<String, i32>,
    /// Those that they were in, ahead of the log, when it refused that, and until when: who guesses one may commit
    /// meanwhile.
    tried: BTreeMap<String, (Micros, i32)>,
    claims: Claims,
    /// The newest generation, while it is a classic one; zero: not known.
    generation: i32,
    /// Members of the classic protocol that certainly were in, since when and in which generation: only while no
    /// request names an instance, or takes members out.
    sure: BTreeMap<String, (Micros, i32)>,
    /// How many such requests are on their way.
    naming: u32,
    /// Members, and instances, that a request on its way takes out.
    leaving: BTreeMap<String, u32>,
    leaving_instances: BTreeMap<String, u32>,
    /// When a write had failed last.
    disturbed: Micros,
}

/// Since when a member has to let partitions go, in which epoch, and how long it may take: what it says of that
/// later, coming back in the same epoch, counts from the next time on (Kafka has it so).
#[derive(Clone, Copy, Debug)]
struct Revoking {
    since: Micros,
    epoch: i32,
    timeout: Micros,
}

/// A member in one run of the broker.
#[derive(Clone, Debug, Default)]
struct MemberWatch {
    /// When its session certainly began last.
    alive: Micros,
    /// When it may have begun last.
    heard: Micros,
    /// It has to let partitions go.
    revoking: Option<Revoking>,
    /// One of the classic protocol has to join by then, or to ask for its assignment.
    join_by: Option<Micros>,
    sync_by: Option<Micros>,
    /// What it had before.
    was: CurrentValue,
}

/// What was known when a request came: of its sender.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The epochs that it may be in: what is kept, and what is on its way.
    epochs: [Option<i32>; 2],
    /// It used the classic protocol, by one of the two.
    was_classic: bool,
    generation: i32,
    /// The group certainly had members.
    has_members: bool,
}

pub type Asked = witness::Asked<Known>;

impl GroupWatch {
    fn live(&self) -> Option<&Open> {
        self.open.iter().find(|open| !open.is_unsure)
    }

    /// It is about to be no more: what of it is in memory is not known.
    pub fn is_ending(&self) -> bool {
        self.live().is_some_and(|open| !open.next.is_there())
    }

    /// What a coordinator has in memory: ahead of the log while a change is on its way.
    pub fn memory(&self) -> &Shadow {
        self.live().map(|open| &open.next).filter(|next| next.is_there()).unwrap_or(&self.kept)
    }

    fn epochs_of(&self, member: &str) -> [Option<i32>; 2] {
        [&self.kept, self.memory()].map(|shadow| shadow.current(member).map(|current| current.epoch))
    }

    fn member(&mut self, id: &str) -> &mut MemberWatch {
        self.members.entry(id.to_owned()).or_default()
    }

    /// A run has begun, or sessions of all members begin anew. The time to let partitions go, to join or to ask for
    /// an assignment may have begun before, with what was answered before the group was seen to.
    fn begin_sessions(&mut self, now: Micros) {
        for id in self.kept.ids().cloned().collect::<Vec<_>>() {
            let member = self.kept.member(&id).expect("listed above");
            let epoch = member.current.epoch;
            let MemberWatch { revoking, join_by, sync_by, .. } =
                self.members.get(&id).cloned().unwrap_or_default();
            let begun = revoking.filter(|begun| begun.epoch == epoch);
            let timeout = member.rebalance_timeout();
            let since = begun.map_or(now, |begun| begun.since);
            let timeout = begun.map_or(timeout, |begun| begun.timeout.min(timeout));
            let revoking = member.is_revoking().then_some(Revoking { since, epoch, timeout });
            let was = member.current;
            self.members.insert(id, MemberWatch { alive: now, heard: now, revoking, join_by, sync_by, was });
        }
    }

    /// A change is kept.
    fn take(&mut self, next: Shadow, upgraded: Option<Upgraded>, now: Micros) {
        let before = std::mem::replace(&mut self.kept, next);
        if !before.is_there() && upgraded.is_none() {
            self.told.clear(); // It begins anew.
            self.claims.begin();
        }
        self.members.retain(|id, _| self.kept.has(id));
        self.end_claims(&before);
        if let Some(upgraded) = upgraded {
            self.claims.end_before(upgraded.generation, &self.kept);
        }
        for id in self.kept.ids().cloned().collect::<Vec<_>>() {
            let known = self.kept.member(&id).expect("listed above");
            let is_new = !before.has(&id);
            let had = before.current(&id).cloned();
            let member = self.members.entry(id).or_default();
            if is_new {
                (member.alive, member.heard) = (upgraded.map_or(now, |upgraded| upgraded.at), now);
            }
            if let Some(had) = had.filter(|had| *had != known.current) {
                member.was = had;
            }
            if !known.uses_classic() {
                (member.join_by, member.sync_by) = (None, None);
            }
            let epoch = known.current.epoch;
            let begun = member.revoking.filter(|begun| begun.epoch == epoch);
            let begins = Revoking { since: now, epoch, timeout: known.rebalance_timeout() };
            member.revoking = known.is_revoking().then(|| begun.unwrap_or(begins));
        }
    }

    /// Who is not in the group any more, or comes into it anew, has nothing until it is told.
    fn end_claims(&mut self, before: &Shadow) {
        if self.kept.is_there() {
            // Of who was in the classic group nobody used the newer protocol.
            let was_in = |id: &str| self.kept.has(id) && (before.is_there() || self.kept.uses_classic(id));
            self.claims.end_but(was_in);
        }
    }

    fn is_asked_to_leave(&self, id: &str, member: &ShadowMember) -> bool {
        let instance = member.value.instance_id.as_ref();
        self.leaving.contains_key(id)
            || instance.is_some_and(|instance| self.leaving_instances.contains_key(instance))
    }
}

/// Who a request is to take out: by member id, and by instance id alone.
fn leavers(request: &Request) -> (Vec<String>, Vec<String>) {
    match request {
        Request::ConsumerHeartbeat(_, request) if request.member_epoch < 0 => {
            (vec![request.member_id.to_string()], Vec::new())
        }
        Request::Leave(request) => {
            let of = |identity: &kafka_protocol::messages::leave_group_request::MemberIdentity| {
                (identity.member_id.to_string(), identity.group_instance_id.as_ref().map(|id| id.to_string()))
            };
            let (members, instances): (Vec<String>, Vec<Option<String>>) =
                request.members.iter().map(of).unzip();
            (members, instances.into_iter().flatten().collect())
        }
        _ => (Vec::new(), Vec::new()),
    }
}

/// Whether it may take out members, or put one in the place of another.
fn names_instance(request: &Request) -> bool {
    match request {
        Request::Leave(_) => true,
        Request::Join(_, request) => request.group_instance_id.is_some(),
        Request::ConsumerHeartbeat(_, request) => request.instance_id.is_some(),
        _ => false,
    }
}

fn count_down(counts: &mut BTreeMap<String, u32>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Watch {
    pub fn new(world: Rc<World>, settings: Settings, topics: Rc<SimTopics>) -> Watch {
        let retention = settings.broker.coordinator.offsets_retention.as_micros() as Micros;
        let kept = Kept::new(world.clone(), retention);
        Watch { world, settings, topics, kept, groups: BTreeMap::new() }
    }

    fn finding(&self, check: &'static str, what: std::fmt::Arguments<'_>) {
        self.world.finding(check, what);
    }

    fn group(&mut self, id: &str) -> &mut GroupWatch {
        self.groups.entry(id.to_owned()).or_default()
    }

    pub fn known(&self, id: &str) -> Option<&GroupWatch> {
        self.groups.get(id)
    }

    /// What a client reads, from now on. `epoch`: the one, or the generation, that has told it so.
    pub fn reads(&mut self, group: &str, client: u64, (member, epoch): (&str, i32), owned: &Partitions) {
        let watch = self.groups.entry(group.to_owned()).or_default();
        if let Some(what) = watch.claims.set(client, (member, epoch), owned, &watch.kept) {
            self.finding(check::ONE_READER, format_args!("{what}"));
        }
    }

    /// A session, as the coordinator has it.
    fn session_of(&self, member: &ShadowMember) -> Micros {
        match &member.value.classic {
            Some(classic) => classic.session_timeout_ms as Micros * 1000,
            None => self.settings.session(),
        }
    }

    // --- Writes

    fn change_written(&mut self, id: &str, write: WriteId, records: &[GroupRecord]) {
        let now = self.world.now();
        let group = self.groups.entry(id.to_owned()).or_default();
        if group.live().is_some() {
            let what = format!("{id} changes while another change of it is on its way");
            self.finding(check::MEMORY_IS_LOG, format_args!("{what}"));
            return;
        }
        let before = group.kept.clone();
        let mut next = before.clone();
        let mut classic = None;
        for record in records {
            match record {
                GroupRecord::Consumer(record) => next.put(record),
                GroupRecord::Group { value: Some(value), .. } => classic = Some(value.clone()),
                GroupRecord::Group { .. } | GroupRecord::Offset { .. } => {}
            }
        }
        let is_upgrade = !before.is_there() && next.ids().any(|member| next.uses_classic(member));
        // The first of its epochs is the generation.
        let generation = records.iter().find_map(|record| match record {
            GroupRecord::Consumer(ConsumerRecord::Group { epoch, .. }) => *epoch,
            _ => None,
        });
        let upgraded = generation.filter(|_| is_upgrade).map(|generation| Upgraded { at: now, generation });
        if let Err((check, why)) = before.step(&next, &self.settings.consumers.assignors, is_upgrade) {
            self.finding(check, format_args!("{id}: {why}"));
        }
        self.count_change(&before, &next, is_upgrade, classic.as_ref());
        if let Some(upgraded) = upgraded {
            self.check_upgrade(id, &next, upgraded);
        }
        if let Some(value) = &classic {
            self.check_downgrade(id, &before, value);
        }
        let stays = |member: &str| {
            let in_classic = classic.iter().flat_map(|value| &value.members);
            next.has(member) || in_classic.into_iter().any(|other| other.member_id == *member)
        };
        for member in before.ids().filter(|member| !stays(member)) {
            self.check_removal(id, member, &before, &next, classic.as_ref(), now);
        }
        let is_further = |member: &str| before.has(member) && next.current(member) != before.current(member);
        let group = self.group(id);
        let asking = group.claims.asking(is_further);
        group.open.push(Open { write, next, upgraded, asking, is_unsure: false });
    }

    fn count_change(&self, before: &Shadow, next: &Shadow, is_upgrade: bool, classic: Option<&GroupValue>) {
        let is_new_target = next.is_there() && next.target_epoch != before.target_epoch;
        let has_uneven = || {
            let mut read = next.ids().map(|id| next.read_by(id));
            let first = read.next();
            read.any(|read| Some(&read) != first.as_ref())
        };
        let happened = [
            ("group epochs", next.is_there() && next.epoch != before.epoch),
            ("targets", is_new_target),
            ("targets: of members that read different topics", is_new_target && has_uneven()),
            (
                "targets: range",
                is_new_target
                    && next.assignor(&self.settings.consumers.assignors)
                        == odradek::group::assignor::Assignor::Range,
            ),
            ("group: upgraded", is_upgrade),
            (
                "group: downgraded",
                before.is_there() && classic.is_some_and(|value| !value.members.is_empty()),
            ),
            (
                "regular expressions: match something else",
                before.is_there() && next.regexes != before.regexes,
            ),
        ];
        happened.into_iter().filter(|(_, has)| *has).for_each(|(name, _)| self.world.count(name));
    }

    /// Nobody who was in the classic group just now is missing.
    fn check_upgrade(&self, id: &str, next: &Shadow, upgraded: Upgraded) {
        let Upgraded { at, generation } = upgraded;
        let session = self.settings.session();
        let is_sure = |since: Micros, of: i32| at < since + session && generation == of;
        let mut sure = self.groups[id].sure.iter().filter(|(_, (since, of))| is_sure(*since, *of));
        if let Some((member, known)) = sure.find(|(member, _)| !next.has(member)) {
            self.finding(check::CONVERTED, format_args!("{id} is without {member}, of {known:?}"));
        }
    }

    /// A classic group has all members of the one that it was, but one, in its epoch, with what they have.
    fn check_downgrade(&self, id: &str, before: &Shadow, value: &GroupValue) {
        if !before.is_there() {
            return; // It was one before.
        }
        let missing = before.ids().filter(|id| value.members.iter().all(|member| member.member_id != **id));
        let missing: Vec<&String> = missing.collect();
        if missing.len() > 1 || before.epoch > Some(value.generation) {
            let what = format!("without {missing:?}, in {} after {:?}", value.generation, before.epoch);
            self.finding(check::CONVERTED, format_args!("{id}: {what}"));
        }
        for member in &value.members {
            let assigned = consumer_protocol::assignment(&member.assignment).unwrap_or_default();
            // One in the place of another has what that one had.
            let holder = member.instance_id.as_deref().and_then(|instance| before.holder(instance));
            let current = before.current(&member.member_id).or_else(|| before.current(holder?));
            let had = current.map(|current| self.named(&current.assigned)).unwrap_or_default();
            let is_joining = before.current(&member.member_id).is_none();
            let mut given =
                assigned.iter().flat_map(|(name, all)| all.iter().map(move |index| (name.clone(), *index)));
            let is_hers = given.all(|partition| had.contains(&partition));
            if !is_hers && !is_joining {
                let what = format!("{} is assigned {assigned:?}, and had {had:?}", member.member_id);
                self.finding(check::CONVERTED, format_args!("{id}: {what}"));
            }
        }
    }

    /// Partitions of topics that there are.
    fn named(&self, partitions: &Partitions) -> BTreeSet<(String, i32)> {
        let of = |(topic, indexes): (&TopicId, &SortedSet<i32>)| {
            let named = |index: i32| Some((self.topics.name(*topic)?, index));
            indexes.iter().filter_map(|index| named(*index)).collect::<Vec<_>>()
        };
        partitions.iter().flat_map(of).collect()
    }

    /// A member is to be taken out: by its own wish, because another one takes its place, or since it is late.
    fn check_removal(
        &self,
        id: &str,
        member_id: &str,
        before: &Shadow,
        next: &Shadow,
        classic: Option<&GroupValue>,
        now: Micros,
    ) {
        let group = &self.groups[id];
        let Some(member) = before.member(member_id) else { return };
        let instance = member.value.instance_id.as_deref();
        let new_holder = instance.and_then(|instance| next.holder(instance));
        let is_in_classic = |value: &GroupValue| {
            let mut instances = value.members.iter().map(|member| member.instance_id.as_deref());
            instance.is_some() && instances.any(|other| other == instance)
        };
        if new_holder.is_some() || classic.is_some_and(is_in_classic) {
            let was_told = member.current.epoch != 0 || member.uses_classic();
            return self.world.count(match was_told {
                true => "member: replaced",
                false => "member: replaced before it was told that it is in",
            });
        }
        if group.is_asked_to_leave(member_id, &member) {
            return;
        }
        let watch = group.members.get(member_id).cloned().unwrap_or_default();
        let session = self.session_of(&member);
        let is_over = |end: Option<Micros>| end.is_some_and(|end| now >= end);
        if now >= watch.alive + session {
            self.world.count("member: session over");
        } else if is_over(watch.revoking.map(|begun| begun.since + begun.timeout)) {
            self.world.count("member: did not let go in time");
        } else if member.uses_classic() && (is_over(watch.join_by) || is_over(watch.sync_by)) {
            self.world.count("member: did not join in time");
        } else {
            let what = format!("{member_id} of {id}, {watch:?}, session {session}, {:?}", member.current);
            self.finding(check::HEARTBEATS_KEEP, format_args!("{what}"));
        }
    }

    fn change_ended(&mut self, id: &str, write: WriteId, end: WriteEnd, records: &[GroupRecord]) {
        let now = self.world.now();
        let group = self.group(id);
        let is_gone = |record: &GroupRecord| matches!(record, GroupRecord::Group { value: None, .. });
        if end == WriteEnd::Kept && records.iter().any(is_gone) {
            group.generation = 0; // Another one of its name begins anew.
            if records.iter().all(|record| !matches!(record, GroupRecord::Consumer(_))) {
                group.told.clear();
            }
        }
        group.others.remove(&write);
        group.awaited.remove(&write);
        let Some(at) = group.open.iter().position(|open| open.write == write) else { return };
        group.awaited.clone_from(&group.others);
        match end {
            WriteEnd::Kept => {
                let open = group.open.remove(at);
                let was_there = group.kept.is_there();
                group.take(open.next, open.upgraded, now);
                let classic = records.iter().find_map(|record| match record {
                    GroupRecord::Group { value: Some(value), .. } => Some(value.generation),
                    _ => None,
                });
                group.generation = classic.unwrap_or(0);
                if was_there && !group.kept.is_there() && classic.is_none() {
                    group.told.clear();
                }
            }
            WriteEnd::Refused => {
                let refused = group.open.remove(at).next;
                for id in refused.ids() {
                    let epoch = refused.current(id).map(|current| current.epoch);
                    if let Some(epoch) = epoch.filter(|_| refused.current(id) != group.kept.current(id)) {
                        group.tried.insert(id.clone(), (now, epoch));
                    }
                }
                group.disturbed = now;
            }
            WriteEnd::Unsure => {
                group.open[at].is_unsure = true;
                group.disturbed = now;
            }
        }
    }

    // --- Looks from time to time

    fn look_at(&mut self, coordinator: &Coordinator, id: &str, waiting: &[&Asked]) {
        self.kept.look(coordinator, id);
        let now = self.world.now();
        let topics = self.topics.clone();
        let group = self.groups.entry(id.to_owned()).or_default();
        if group.live().is_some() {
            group.disturbed = now;
            return;
        }
        if coordinator.is_aiming(id) || !group.awaited.is_empty() {
            group.disturbed = now; // Whoever is to be taken out has to wait.
        }
        if let Some(difference) = group.kept.difference(coordinator, id, |topic| topics.name(topic)) {
            return self.finding(check::MEMORY_IS_LOG, format_args!("{id}: {difference}"));
        }
        let group = &self.groups[id];
        let lateness = self.settings.broker.lateness_max + RETRY_MAX;
        for member_id in group.kept.ids() {
            let member = group.kept.member(member_id).expect("listed above");
            let watch = group.members.get(member_id).cloned().unwrap_or_default();
            let is_of =
                |asked: &&&Asked| asked.request.sender().is_some_and(|sender| sender.member == member_id);
            if waiting.iter().any(|asked| is_of(&asked)) {
                continue;
            }
            let end = watch.heard + self.session_of(&member);
            if now > end.max(group.disturbed) + lateness {
                let late = (now - end) / MS;
                self.finding(check::STOPPED_EXPELLED, format_args!("{member_id} of {id}: {late} ms late"));
            }
            let since = watch.revoking.map(|begun| begun.since + self.settings.broker.rebalance_max.max(S));
            if let Some(end) = since.filter(|end| now > (*end).max(group.disturbed) + lateness) {
                let late = (now - end) / MS;
                self.finding(check::LET_GO_IN_TIME, format_args!("{member_id} of {id}: {late} ms late"));
            }
        }
    }

    /// A run begins: what the log says has to be what was kept, or on its way.
    fn restart(&mut self, coordinator: &Coordinator, latest: &BTreeMap<Vec<u8>, GroupRecord>) {
        let now = self.world.now();
        let mut said: BTreeMap<String, Shadow> = BTreeMap::new();
        for record in latest.values() {
            if let GroupRecord::Consumer(record) = record {
                said.entry(record.group().to_owned()).or_default().put(record);
            }
        }
        let ids: BTreeSet<String> = self.groups.keys().chain(said.keys()).cloned().collect();
        for id in ids {
            let said = said.remove(&id).unwrap_or_default();
            let topics = self.topics.clone();
            if let Some(difference) = said.difference(coordinator, &id, |topic| topics.name(topic)) {
                self.finding(check::REPLAYED, format_args!("{id}: {difference}"));
            }
            let group = self.groups.entry(id.clone()).or_default();
            let is_expected = said == group.kept || group.open.iter().any(|open| open.next == said);
            let had_open = !group.open.is_empty();
            let found = group.open.iter().find(|open| open.next == said && said != group.kept);
            let upgraded = found.and_then(|open| open.upgraded);
            let asking = found.map_or_else(Vec::new, |open| open.asking.clone());
            let kept = std::mem::replace(&mut group.kept, said);
            // A change that was on its way, and is there, may have taken members out.
            group.end_claims(&kept);
            group.claims.found(&asking, &group.kept, &topics);
            if let Some(upgraded) = upgraded {
                group.claims.end_before(upgraded.generation, &group.kept);
            }
            group.open.clear();
            if had_open && group.kept != kept && !(kept.is_there() && group.kept.is_there()) {
                group.told.clear(); // It may have begun anew.
            }
            group.begin_sessions(now);
            let group = &self.groups[&id];
            if !is_expected {
                let what = format!("{id} after a restart: {:?}, {kept:?} was kept", group.kept);
                self.finding(check::KEPT, format_args!("{what}"));
            }
            let met = [
                ("restart: members keep their epoch", group.kept.count() > 0),
                (
                    "restart: while a member lets go",
                    group.members.values().any(|member| member.revoking.is_some()),
                ),
                ("restart: a change of a group was lost", had_open && group.kept == kept),
                ("restart: a change of a group was there", had_open && group.kept != kept),
            ];
            met.into_iter().filter(|(_, has)| *has).for_each(|(name, _)| self.world.count(name));
        }
    }

    // --- For whoever speaks in the name of others

    pub fn members_of(&self, group: &str) -> Vec<String> {
        self.groups.get(group).map_or_else(Vec::new, |group| group.told.keys().cloned().collect())
    }

    pub fn instances_of(&self, group: &str) -> Vec<String> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let instance = |id: &String| group.kept.member(id)?.value.instance_id;
        group.kept.ids().filter_map(instance).collect()
    }

    pub fn epoch_of(&self, group: &str, member: &str) -> i32 {
        let group = self.groups.get(group);
        group.and_then(|group| group.kept.current(member)).map_or(1, |current| current.epoch)
    }
}

impl Witness for Watch {
    type Known = Known;
    const LOOKS_AFTER_WRITES: bool = true;

    fn kept(&mut self) -> &mut Kept {
        &mut self.kept
    }

    fn arrived(&mut self, request: &Request) -> Asked {
        let now = self.world.now();
        self.kept.asked(request);
        let group = self.groups.entry(request.group().to_owned()).or_default();
        let (members, instances) = leavers(request);
        for member in &members {
            *group.leaving.entry(member.clone()).or_insert(0) += 1;
        }
        for instance in &instances {
            *group.leaving_instances.entry(instance.clone()).or_insert(0) += 1;
        }
        if names_instance(request) {
            group.sure.clear();
            group.naming += 1;
        }
        if group.claims.arrived(request, &self.topics) {
            self.world.count("claims: doubted after a request that was late");
        }
        let member = request.sender().map_or("", |sender| sender.member);
        let known = Known {
            epochs: group.epochs_of(member),
            was_classic: [&group.kept, group.memory()].iter().any(|shadow| shadow.uses_classic(member)),
            generation: group.generation,
            has_members: group.kept.count() > 0 && group.memory().count() > 0,
        };
        if let Some(member) = group.members.get_mut(member) {
            member.heard = now;
        }
        Asked { request: request.clone(), since: now, known }
    }

    fn answered(&mut self, asked: &Asked, answer: &Answer) {
        self.note_answer(asked, answer);
    }

    fn written(&mut self, write: WriteId, records: &[GroupRecord]) {
        let Some(first) = records.first() else { return };
        let id = first.group().to_owned();
        if records.iter().any(|record| matches!(record, GroupRecord::Consumer(_))) {
            self.change_written(&id, write, records);
        } else {
            let group = self.group(&id);
            group.others.insert(write);
            if let GroupRecord::Group { value: Some(value), .. } = first {
                group.generation = group.generation.max(value.generation);
            }
        }
        let group = &self.groups.entry(id).or_default();
        self.kept.written(write, records, |_, topic| group.memory().is_read(topic));
    }

    fn ended(&mut self, write: WriteId, records: &[GroupRecord], end: WriteEnd) {
        let Some(first) = records.first() else { return };
        self.change_ended(first.group(), write, end, records);
    }

    fn forget_run(&mut self) {
        for group in self.groups.values_mut() {
            group.members.clear();
            group.leaving.clear();
            group.leaving_instances.clear();
            group.sure.clear();
            group.others.clear();
            group.awaited.clear();
            group.claims.forget_run();
            (group.generation, group.naming, group.disturbed) = (0, 0, self.world.now());
        }
    }

    fn restored(
        &mut self,
        coordinator: &Coordinator,
        latest: &BTreeMap<Vec<u8>, GroupRecord>,
        restored: &[(String, GroupValue)],
    ) {
        self.restart(coordinator, latest);
        for (id, value) in restored {
            self.group(id).generation = value.generation;
        }
    }

    fn sessions_began(&mut self, group: &str) {
        let now = self.world.now();
        self.group(group).begin_sessions(now);
    }

    fn look(&mut self, coordinator: &Coordinator, group: &str, waiting: &[&Asked]) {
        self.look_at(coordinator, group, waiting);
    }

    fn waits_for_writes(request: &Request) -> bool {
        !matches!(request, Request::Sync(_) | Request::Heartbeat(_))
    }

    fn falsify_request(&mut self, request: &mut Request) {
        let Some(mistake) = self.settings.mistake else { return };
        let epoch = {
            let group = self.groups.get(request.group());
            let member = request.sender().map_or("", |sender| sender.member);
            group.and_then(|group| group.memory().current(member)).map(|current| current.epoch)
        };
        match request {
            Request::ConsumerHeartbeat(_, request) => {
                if mistake == Mistake::EpochUnchecked && request.member_epoch > 0 {
                    request.member_epoch = epoch.filter(|epoch| *epoch > 0).unwrap_or(request.member_epoch);
                }
                if mistake == Mistake::InstanceUnchecked && request.member_epoch > 0 {
                    request.instance_id = None;
                }
                if mistake == Mistake::OwnedForgotten && request.topic_partitions.is_some() {
                    request.topic_partitions = Some(Vec::new());
                }
                if mistake == Mistake::RebalanceUnlimited && request.rebalance_timeout_ms >= 0 {
                    request.rebalance_timeout_ms = i32::MAX;
                }
            }
            Request::Commit(_, request) if mistake == Mistake::CommitEpochUnchecked => {
                if let Some(epoch) = epoch.filter(|_| request.generation_id_or_member_epoch >= 0) {
                    request.generation_id_or_member_epoch = epoch;
                }
            }
            _ => {}
        }
    }

    fn falsify_answer(&mut self, answer: &mut Answer) {
        if self.settings.makes(Mistake::MoreTold)
            && let Answer::ConsumerHeartbeat(response) = answer
            && let Some(assignment) = &mut response.assignment
            && let Some(topic) = assignment.topic_partitions.first_mut()
        {
            topic.partitions.push(99);
        }
    }
}
