//! Answers, held against what is kept at that moment: what a member is told is so, and an error has its reason.

use crate::consumers::settings::check;
use crate::consumers::watch::shadow::{AWAY, Shadow};
use crate::consumers::watch::{Asked, Watch, count_down, leavers, names_instance};
use crate::groups::request::{Request, error, errors};
use crate::world::Micros;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, OffsetCommitRequest, OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse,
};
use odradek::codec::consumer_protocol;
use odradek::codec::consumer_record::Partitions;
use odradek::codec::error_code::ErrorCode;
use odradek::group::Answer;
use odradek::types::TopicId;

/// The first version of OffsetCommit in which members of the newer protocol can say their epoch.
const MEMBER_EPOCH_FROM: i16 = 9;

/// What clients here say that nobody takes.
pub const BAD_REGEX: &str = "(";
pub const BAD_ASSIGNOR: &str = "favourite";

/// Errors of a log that fails, and of a coordinator that goes.
fn is_of_log(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::UnknownServerError
    )
}

pub fn partitions_of(response: &ConsumerGroupHeartbeatResponse) -> Option<Partitions> {
    let assignment = response.assignment.as_ref()?;
    let topics = assignment.topic_partitions.iter().filter(|topic| !topic.partitions.is_empty());
    Some(topics.map(|topic| (TopicId(topic.topic_id), topic.partitions.iter().copied().collect())).collect())
}

impl Watch {
    pub(super) fn note_answer(&mut self, asked: &Asked, answer: &Answer) {
        self.count(asked, answer);
        self.kept.answered(&asked.request, answer);
        let group = self.groups.entry(asked.request.group().to_owned()).or_default();
        let (members, instances) = leavers(&asked.request);
        members.iter().for_each(|member| count_down(&mut group.leaving, member));
        instances.iter().for_each(|instance| count_down(&mut group.leaving_instances, instance));
        group.naming = group.naming.saturating_sub(u32::from(names_instance(&asked.request)));
        let now = self.world.now();
        // One that joins is named in the answer, which begins a session whatever it says.
        let joins = match answer {
            Answer::Join(response) => Some(&*response.member_id),
            _ => None,
        };
        let asks = asked.request.sender().map(|sender| sender.member);
        for member in asks.into_iter().chain(joins) {
            if let Some(member) = group.members.get_mut(member) {
                member.heard = now;
            }
        }
        // A refused heartbeat that came without an id names nobody: a member that it made, and nobody was told of.
        let is_unnamed = matches!(&asked.request, Request::ConsumerHeartbeat(..)) && asks == Some("");
        if is_unnamed && matches!(answer, Answer::ConsumerHeartbeat(response) if response.error_code != 0) {
            let untold = group.members.iter_mut().filter(|(id, _)| !group.told.contains_key(*id));
            let since = untold.filter(|(_, member)| member.alive >= asked.since);
            since.for_each(|(_, member)| member.heard = now);
        }
        let epoch = match answer {
            Answer::ConsumerHeartbeat(response) if response.error_code == 0 => Some(response.member_epoch),
            Answer::Join(response) if response.error_code == 0 => Some(response.generation_id),
            _ => None,
        };
        group.claims.answered(&asked.request, epoch, &self.topics);
        match (&asked.request, answer) {
            (Request::ConsumerHeartbeat(_, request), Answer::ConsumerHeartbeat(response)) => {
                match error(response.error_code) {
                    ErrorCode::None if request.member_epoch < 0 => self.left(request),
                    ErrorCode::None => self.beaten(request, response, now),
                    error => self.refused(request, error),
                }
            }
            (Request::Join(_, request), Answer::Join(response)) if response.error_code == 0 => {
                self.joined(request, response, now);
            }
            (Request::Sync(request), Answer::Sync(response)) => self.synced(request, response, now),
            (Request::Heartbeat(request), Answer::Heartbeat(answer)) => {
                self.classic_beaten(asked, request, *answer, now);
            }
            (Request::Commit(version, request), Answer::Commit(response)) => {
                self.committed(asked, *version, request, response);
            }
            (Request::Leave(request), Answer::Leave(response)) if response.error_code == 0 => {
                let group = &self.groups[&*request.group_id.0];
                let left =
                    request.members.iter().zip(&response.members).filter(|(_, left)| left.error_code == 0);
                let there = left.map(|(identity, _)| &identity.member_id).find(|id| group.kept.has(id));
                if let Some(there) = there {
                    self.finding(check::LEFT_GONE, format_args!("{there} is there"));
                }
            }
            _ => {}
        }
    }

    fn count(&self, asked: &Asked, answer: &Answer) {
        let name = match &asked.request {
            Request::ConsumerHeartbeat(_, request) => match request.member_epoch {
                0 => "consumer join",
                1.. => "consumer heartbeat",
                AWAY => "consumer leave for a while",
                _ => "consumer leave",
            },
            request => request.name(),
        };
        for error in errors(answer) {
            let name = match error {
                ErrorCode::None => format!("{name}: answered"),
                ErrorCode::MemberIdRequired => format!("{name}: given an id"),
                error => format!("{name}: refused, {}", error.name()),
            };
            self.world.counts.borrow_mut().add(&name, 1);
        }
    }

    // --- ConsumerGroupHeartbeat

    fn left(&self, request: &ConsumerGroupHeartbeatRequest) {
        let group = &self.groups[&*request.group_id.0];
        let epoch = group.kept.member(&request.member_id).map(|member| member.current.epoch);
        let is_gone = match request.member_epoch {
            AWAY => epoch.is_none_or(|epoch| epoch == AWAY),
            _ => epoch.is_none(),
        };
        if !is_gone {
            let member = &request.member_id;
            self.finding(check::LEFT_GONE, format_args!("{member:?} is there, in {epoch:?}"));
        }
    }

    fn beaten(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        response: &ConsumerGroupHeartbeatResponse,
        now: Micros,
    ) {
        let id = response.member_id.as_deref().unwrap_or_default().to_owned();
        let epoch = response.member_epoch;
        let group = self.groups.entry(request.group_id.to_string()).or_default();
        let Some(current) = group.kept.current(&id).cloned() else {
            return self.finding(check::TOLD_KEPT, format_args!("{id} is told of {epoch}, and is no member"));
        };
        let told = group.told.insert(id.clone(), epoch);
        let member = group.member(&id);
        (member.alive, member.heard) = (now, now);
        let was = member.was.clone();
        let assigned = partitions_of(response);
        if epoch != current.epoch || assigned.as_ref().is_some_and(|assigned| *assigned != current.assigned) {
            let what = format!("{id} is told of {epoch}, {assigned:?}; it has {current:?}");
            self.finding(check::TOLD_KEPT, format_args!("{what}"));
        }
        if let Some(told) = told.filter(|told| *told > epoch) {
            self.finding(check::EPOCHS_GROW, format_args!("{id} is told of {epoch} after {told}"));
        }
        let said = request.member_epoch;
        let epochs = [current.epoch, current.previous_epoch, was.epoch, was.previous_epoch];
        if said > 0 && !epochs.contains(&said) {
            self.finding(
                check::OLD_REFUSED,
                format_args!("{id} is let in with {said}, it was in {epochs:?}"),
            );
        }
    }

    fn refused(&self, request: &ConsumerGroupHeartbeatRequest, error: ErrorCode) {
        let group = &self.groups[&*request.group_id.0];
        if !self.has_reason(&group.kept, request, error) {
            let (member, epoch) = (&request.member_id, request.member_epoch);
            let known = group.kept.member(member);
            let instance = &request.instance_id;
            let what = format!("{member:?} {instance:?} in {epoch} is told {}: {known:?}", error.name());
            self.finding(check::ERRORS, format_args!("{what}"));
        }
    }

    /// Whether a heartbeat may be told so; `group` is as the coordinator had it.
    fn has_reason(&self, group: &Shadow, request: &ConsumerGroupHeartbeatRequest, error: ErrorCode) -> bool {
        let settings = &self.settings;
        let (id, epoch) = (&*request.member_id, request.member_epoch);
        // Who has been kept, and waits for targets, is in no epoch: zero.
        let current = group.member(id).map(|member| member.current);
        let holder = request.instance_id.as_deref().map(|instance| group.holder(instance));
        let is_joining = epoch == 0;
        match error {
            ErrorCode::FencedMemberEpoch => {
                current.as_ref().is_some_and(|current| epoch > 0 && epoch != current.epoch)
                    && !self.is_lost_answer(group, request)
            }
            ErrorCode::UnknownMemberId => match holder {
                None => current.is_none() && !is_joining,
                Some(holder) => holder.is_none() && !is_joining,
            },
            ErrorCode::FencedInstanceId => holder.flatten().is_some_and(|holder| holder != id) && !is_joining,
            ErrorCode::UnreleasedInstanceId => holder.flatten().is_some_and(|holder| {
                // Who is in no epoch has been kept, and never been told.
                let is_there = group.current(holder).is_some_and(|current| current.epoch > 0);
                holder != id && is_joining && is_there && !group.uses_classic(holder)
            }),
            ErrorCode::GroupMaxSizeReached => {
                let is_full = match group.is_there() {
                    true => group.count() >= settings.consumers.size_max,
                    // As many members of the classic protocol may be in it.
                    false => settings.consumers.size_max < i32::MAX as usize,
                };
                is_full && current.is_none() && holder.flatten().is_none()
            }
            ErrorCode::UnsupportedAssignor => request.server_assignor.as_deref().is_some_and(|name| {
                settings.consumers.assignors.iter().all(|assignor| assignor.name() != name)
            }),
            ErrorCode::InvalidRegularExpression => {
                request.subscribed_topic_regex.as_deref() == Some(BAD_REGEX)
            }
            ErrorCode::InvalidRequest => {
                let has_said = request.topic_partitions.as_ref().is_some_and(Vec::is_empty)
                    && request.rebalance_timeout_ms >= 0
                    && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some());
                epoch < AWAY || (is_joining && !has_said) || (epoch == AWAY && request.instance_id.is_none())
            }
            ErrorCode::GroupIdNotFound => {
                !group.is_there() && (!is_joining || !settings.consumers.migration.upgrades())
                    // Larger than it may be, or of others than consumers.
                    || (!group.is_there() && settings.consumers.size_max < i32::MAX as usize)
            }
            error => is_of_log(error),
        }
    }

    /// It says the epoch before, and has nothing but what is its own: an answer was lost.
    fn is_lost_answer(&self, group: &Shadow, request: &ConsumerGroupHeartbeatRequest) -> bool {
        let Some(current) = group.current(&request.member_id) else { return false };
        let is_own = request.topic_partitions.as_ref().is_some_and(|owned| {
            owned.iter().all(|topic| {
                let assigned = current.assigned.get(&TopicId(topic.topic_id));
                let has = |index| assigned.is_some_and(|assigned| assigned.contains(index));
                topic.partitions.iter().all(has)
            })
        });
        is_own && request.member_epoch == current.previous_epoch && request.member_epoch < current.epoch
    }

    // --- Members of the classic protocol

    fn joined(&mut self, request: &JoinGroupRequest, response: &JoinGroupResponse, now: Micros) {
        let id = response.member_id.to_string();
        let generation = response.generation_id;
        let group = self.groups.entry(request.group_id.to_string()).or_default();
        if !group.kept.is_there() {
            let newest = group.generation;
            group.generation = newest.max(generation);
            self.world.count("classic group: joined");
            if generation < newest {
                self.finding(check::EPOCHS_GROW, format_args!("{id} joins {generation} after {newest}"));
            }
            return;
        }
        self.world.count("group of both: joined");
        let Some(current) = group.kept.current(&id).cloned() else {
            return self.finding(check::TOLD_KEPT, format_args!("{id} joins {generation}, and is no member"));
        };
        let told = group.told.insert(id.clone(), generation);
        let timeout = request.rebalance_timeout_ms.max(0) as Micros * 1000;
        let member = group.member(&id);
        (member.alive, member.heard) = (now, now);
        (member.join_by, member.sync_by) = (None, Some(now + timeout));
        if generation != current.epoch {
            let what = format!("{id} joins {generation}, it is in {}", current.epoch);
            self.finding(check::TOLD_KEPT, format_args!("{what}"));
        }
        if let Some(told) = told.filter(|told| *told > generation) {
            self.finding(check::EPOCHS_GROW, format_args!("{id} is told of {generation} after {told}"));
        }
    }

    fn synced(&mut self, request: &SyncGroupRequest, response: &SyncGroupResponse, now: Micros) {
        let id = request.member_id.to_string();
        let group = self.groups.entry(request.group_id.to_string()).or_default();
        if !group.kept.is_there() {
            return;
        }
        let timeout = group.kept.member(&id).map_or(0, |known| known.value.rebalance_timeout_ms.max(0));
        match error(response.error_code) {
            ErrorCode::None => {}
            ErrorCode::RebalanceInProgress => {
                let member = group.member(&id);
                member.join_by.get_or_insert(now + timeout as Micros * 1000);
                return;
            }
            ErrorCode::IllegalGeneration => {
                let epoch = group.kept.current(&id).map(|current| current.epoch);
                if epoch == Some(request.generation_id) && group.kept.uses_classic(&id) {
                    self.finding(
                        check::ERRORS,
                        format_args!("{id} syncs in {epoch:?} and is told otherwise"),
                    );
                }
                return;
            }
            _ => return,
        }
        let member = group.member(&id);
        (member.alive, member.heard, member.sync_by) = (now, now, None);
        let Some(current) = group.kept.current(&id).cloned() else {
            return self.finding(check::TOLD_KEPT, format_args!("{id} syncs, and is no member"));
        };
        self.world.count("group of both: synced");
        let assigned = consumer_protocol::assignment(&response.assignment).unwrap_or_default();
        let told =
            assigned.iter().flat_map(|(name, all)| all.iter().map(move |index| (name.clone(), *index)));
        let (told, known) = (told.collect(), self.named(&current.assigned));
        if request.generation_id != current.epoch {
            let what = format!("{id} syncs in {}, it is in {}", request.generation_id, current.epoch);
            self.finding(check::OLD_REFUSED, format_args!("{what}"));
        }
        if known != told {
            self.finding(check::TOLD_KEPT, format_args!("{id} is told of {told:?}, it has {known:?}"));
        }
    }

    fn classic_beaten(&mut self, asked: &Asked, request: &HeartbeatRequest, answer: ErrorCode, now: Micros) {
        let id = request.member_id.to_string();
        let group = self.groups.entry(request.group_id.to_string()).or_default();
        if !matches!(answer, ErrorCode::None | ErrorCode::RebalanceInProgress) {
            return;
        }
        if !group.memory().is_there() {
            if answer == ErrorCode::None && group.naming == 0 {
                group.sure.insert(id, (now, request.generation_id));
            }
            let newest = asked.known.generation;
            if newest > 0 && request.generation_id != newest {
                let told = request.generation_id;
                self.finding(check::OLD_REFUSED, format_args!("heartbeat of {told} in {newest}"));
            }
            return;
        }
        let Some(known) = group.memory().member(&id) else {
            return self.finding(check::TOLD_KEPT, format_args!("heartbeat of {id}, which is no member"));
        };
        let timeout = known.value.rebalance_timeout_ms.max(0) as Micros * 1000;
        let member = group.member(&id);
        (member.alive, member.heard) = (now, now);
        if answer == ErrorCode::RebalanceInProgress {
            member.join_by.get_or_insert(now + timeout);
            self.world.count("group of both: told to join");
        }
        if request.generation_id != known.current.epoch {
            let (told, epoch) = (request.generation_id, known.current.epoch);
            self.finding(check::OLD_REFUSED, format_args!("heartbeat of {told}, {id} is in {epoch}"));
        }
    }

    // --- Commits

    fn committed(
        &mut self,
        asked: &Asked,
        version: i16,
        request: &OffsetCommitRequest,
        response: &OffsetCommitResponse,
    ) {
        let group = &self.groups[&*request.group_id.0];
        let (id, epoch) = (&*request.member_id, request.generation_id_or_member_epoch);
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        let errors: Vec<ErrorCode> = partitions.map(|partition| error(partition.error_code)).collect();
        let is_accepted = errors.contains(&ErrorCode::None);
        let now = group.epochs_of(id);
        let tried = group.tried.get(id).is_some_and(|tried| tried.0 >= asked.since && tried.1 == epoch);
        let is_in_epoch = tried || asked.known.epochs.contains(&Some(epoch)) || now.contains(&Some(epoch));
        let was_in_group = asked.known.epochs.iter().any(Option::is_some);
        let wrong = if epoch < 0 && is_accepted {
            asked.known.has_members && group.kept.count() > 0 && group.memory().count() > 0
        } else if is_accepted && was_in_group {
            // One that has become a classic group meanwhile goes by its generation, before anybody joins again.
            let is_in_generation = !group.memory().is_there() && group.generation == epoch;
            !is_in_epoch && !is_in_generation
        } else if is_accepted && !group.memory().is_there() && !now.contains(&Some(epoch)) {
            let generations = [asked.known.generation, group.generation];
            !generations.contains(&0) && !generations.contains(&epoch)
        } else {
            false
        };
        if wrong {
            let what = format!("a commit of {id:?} in {epoch}, it is in {:?}", asked.known.epochs);
            self.finding(check::COMMIT_ENTITLED, format_args!("{what}"));
        }
        // Whoever is in its epoch, and was when the request came, may commit.
        let all = [asked.known.epochs, now];
        let is_member = !group.is_ending() && all.as_flattened().iter().all(|known| *known == Some(epoch));
        let is_told_otherwise = errors.iter().any(|error| {
            matches!(
                error,
                ErrorCode::StaleMemberEpoch | ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId
            )
        });
        // It may have gone on with the newer protocol while its commit was on its way.
        let is_classic = asked.known.was_classic || group.memory().uses_classic(id);
        let is_new = version >= MEMBER_EPOCH_FROM;
        if is_member && (is_told_otherwise || (errors.contains(&ErrorCode::UnsupportedVersion) && is_new)) {
            self.finding(check::ERRORS, format_args!("a commit of {id:?} in {epoch} is told {errors:?}"));
        }
        if is_member && is_accepted && !is_new && !is_classic {
            self.finding(check::ERRORS, format_args!("a commit of {id:?} by version {version} is taken"));
        }
    }
}
