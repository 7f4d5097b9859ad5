//! Questions to a coordinator of this shard: each is decided in one turn, and the answer waited for where it has to
//! be kept first.

use crate::codec::error_code::ErrorCode;
use crate::group::coordinator::Coordinator;
use crate::group::offsets::GroupOffsets;
use crate::group::{Answer, Caller, Effect, Ticket};
use crate::shard::Shard;
use crate::shard::answers::Wait;
use crate::shard::groups::missing::{add_topics, split_commit, split_deletion};
use crate::shard::groups::{
    Committed, FetchedOffset, GroupCall, GroupReply, GroupRequest, Served, Stability, in_transactions,
};
use crate::types::Uuid;
use kafka_protocol::messages::offset_commit_response::OffsetCommitResponseTopic;
use kafka_protocol::messages::offset_delete_response::OffsetDeleteResponseTopic;
use kafka_protocol::messages::{OffsetCommitResponse, TopicName};
use std::rc::Rc;

/// Answers a question to a coordinator of this shard.
pub async fn call_local(shard: &Rc<Shard>, call: GroupCall) -> GroupReply {
    let GroupCall { partition, caller, request } = call;
    let served = match shard.groups.coordinators.ready(shard, partition) {
        Ok(served) => served,
        Err(error) => return GroupReply::Refused(error),
    };
    if let GroupRequest::CommitInTransaction { writer, claim, .. } = &request
        && let Err(error) = in_transactions::verify(shard, partition, *writer, claim).await
    {
        return GroupReply::Refused(error);
    }
    if served.has_ended() {
        return GroupReply::Refused(ErrorCode::NotCoordinator);
    }
    match ask(shard, &served, &caller, request) {
        Asked::Waits(wait) => GroupReply::Answer(wait.answer().await),
        Asked::Commits(wait, unknown) => {
            let mut answer = wait.answer().await;
            if let Answer::Commit(response) = &mut answer {
                add_topics(&mut response.topics, unknown, |topic| (&topic.name, &mut topic.partitions));
            }
            GroupReply::Answer(answer)
        }
        Asked::Deletes(wait, unknown) => {
            let mut answer = wait.answer().await;
            if let Answer::DeleteOffsets(response) = &mut answer
                && response.error_code == 0
            {
                add_topics(&mut response.topics, unknown, |topic| (&topic.name, &mut topic.partitions));
            }
            GroupReply::Answer(answer)
        }
        Asked::Done(reply) => reply,
    }
}

enum Asked<'a> {
    Done(GroupReply),
    Waits(Wait<'a, Answer>),
    /// With what is answered of topics that there are not.
    Commits(Wait<'a, Answer>, Vec<OffsetCommitResponseTopic>),
    Deletes(Wait<'a, Answer>, Vec<OffsetDeleteResponseTopic>),
}

fn ask<'a>(shard: &'a Rc<Shard>, served: &Rc<Served>, caller: &Caller, request: GroupRequest) -> Asked<'a> {
    let answers = &shard.groups.coordinators.answers;
    let ready = "the caller has looked";
    let done = |answer| Asked::Done(GroupReply::Answer(answer));
    match request {
        GroupRequest::Join(request) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            let fresh = Uuid::new_v4().to_string();
            served.decide(shard, |coordinator, now, effects| {
                coordinator.join(caller, &request, &fresh, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::Sync(request) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served
                .decide(shard, |coordinator, now, effects| coordinator.sync(&request, ticket, now, effects));
            Asked::Waits(wait)
        }
        GroupRequest::Heartbeat(request) => {
            let beat = |coordinator: &mut Coordinator, now, effects: &mut Vec<Effect>| {
                coordinator.heartbeat(&request, now, effects)
            };
            done(Answer::Heartbeat(served.decide(shard, beat).expect(ready)))
        }
        GroupRequest::Leave(request) if has_consumers(served, &request.group_id.0) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.consumer_leave_group(request, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::Leave(request) => {
            let leave = |coordinator: &mut Coordinator, now, effects: &mut Vec<Effect>| {
                coordinator.leave(&request, now, effects)
            };
            done(Answer::Leave(served.decide(shard, leave).expect(ready)))
        }
        GroupRequest::Commit(mut request) => {
            let unknown = split_commit(&shard.image.borrow(), &mut request);
            if request.topics.is_empty() {
                return done(Answer::Commit(OffsetCommitResponse::default().with_topics(unknown)));
            }
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.commit(caller.version, request, ticket, now, effects);
            });
            Asked::Commits(wait, unknown)
        }
        GroupRequest::CommitInTransaction { mut request, writer, .. } => {
            let unknown = split_commit(&shard.image.borrow(), &mut request);
            if request.topics.is_empty() {
                return done(Answer::Commit(OffsetCommitResponse::default().with_topics(unknown)));
            }
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.commit_in_transaction(writer, request, ticket, now, effects);
            });
            Asked::Commits(wait, unknown)
        }
        GroupRequest::Fetch { group, member: (member, epoch), topics, stability } => {
            let fetch = |coordinator: &mut Coordinator, _, _: &mut Vec<Effect>| {
                coordinator.check_fetch(&group, member.as_deref(), epoch)?;
                let mut fetched = fetched(coordinator.offsets(&group), topics);
                if stability == Stability::Stable {
                    in_transactions::mark_unstable(coordinator, &group, &mut fetched);
                }
                Ok(fetched)
            };
            Asked::Done(match served.decide(shard, fetch).expect(ready) {
                Ok(fetched) => GroupReply::Fetched(fetched),
                Err(error) => GroupReply::Refused(error),
            })
        }
        GroupRequest::ConsumerHeartbeat(request) => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            let fresh = Uuid::new_v4().to_string();
            served.decide(shard, |coordinator, now, effects| {
                coordinator.consumer_heartbeat(caller, request, &fresh, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::ConsumerDescribe { group } => {
            let describe = |coordinator: &mut Coordinator, _, _: &mut Vec<Effect>| {
                Box::new(coordinator.consumer_describe(&group, caller.version))
            };
            Asked::Done(GroupReply::ConsumerDescribed(served.decide(shard, describe).expect(ready)))
        }
        GroupRequest::Describe { group } => {
            let describe = |coordinator: &mut Coordinator, _, _: &mut Vec<Effect>| {
                coordinator.describe(&group, caller.version)
            };
            Asked::Done(GroupReply::Described(served.decide(shard, describe).expect(ready)))
        }
        GroupRequest::DeleteGroup { group } => {
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.delete_group(&group, ticket, now, effects);
            });
            Asked::Waits(wait)
        }
        GroupRequest::DeleteOffsets(mut request) => {
            let unknown = split_deletion(&shard.image.borrow(), &mut request);
            let wait = answers.ask();
            let ticket = Ticket(wait.number());
            served.decide(shard, |coordinator, now, effects| {
                coordinator.delete_offsets(request, ticket, now, effects);
            });
            Asked::Deletes(wait, unknown)
        }
    }
}

fn has_consumers(served: &Served, group: &str) -> bool {
    served.look(|coordinator| coordinator.is_consumer_group(group)).unwrap_or(false)
}

fn fetched(
    offsets: Option<&GroupOffsets>,
    topics: Option<Vec<(TopicName, Vec<i32>)>>,
) -> Vec<(TopicName, Vec<FetchedOffset>)> {
    let committed = |topic: &str, partition: i32| {
        let value = offsets?.get(topic, partition)?;
        let metadata = value.metadata.clone();
        Some(Committed { offset: value.offset, leader_epoch: value.leader_epoch, metadata })
    };
    let of_topic = |name: &str, partitions: Vec<i32>| -> Vec<FetchedOffset> {
        let fetched = partitions.into_iter().map(|partition| {
            let committed = committed(name, partition);
            FetchedOffset { partition, committed, is_unstable: false }
        });
        fetched.collect()
    };
    match topics {
        Some(topics) => topics
            .into_iter()
            .map(|(name, partitions)| {
                let fetched = of_topic(&name, partitions);
                (name, fetched)
            })
            .collect(),
        None => {
            let all = offsets.into_iter().flat_map(|offsets| offsets.topics());
            all.map(|(name, partitions)| {
                let fetched = of_topic(name, partitions.keys().copied().collect());
                (TopicName(crate::group::member::text(name)), fetched)
            })
            .collect()
        }
    }
}
