use super::*;
use crate::codec::group_record::OffsetValue;
use crate::group::offsets::GroupOffsets;
use crate::types::limits::GROUP_REMOVAL_SIZE_MAX;
use kafka_protocol::messages::OffsetDeleteRequest;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

const HOUR: u64 = 3600;

fn delete_offset(room: &mut Room, topic: &str) -> ErrorCode {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(group_id()).with_topics(vec![topic]);
    let ticket = room.ticket();
    room.decide(|coordinator, now, effects| coordinator.delete_offsets(request, ticket, now, effects));
    match room.answers.remove(&ticket) {
        Some(Answer::DeleteOffsets(response)) => match error(response.error_code) {
            ErrorCode::None => error(response.topics[0].partitions[0].error_code),
            error => error,
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_commit_in_their_generation() {
    let (mut room, members) = Room::stable(1);
    assert_eq!(room.commit(&members[0], 1, "read", 5), ErrorCode::None);
    assert_eq!(room.offset("read"), Some(5));
    assert_eq!(room.commit(&members[0], 0, "read", 6), ErrorCode::IllegalGeneration);
    assert_eq!(room.commit(&members[0], 2, "read", 6), ErrorCode::IllegalGeneration);
    assert_eq!(room.commit("nobody", 1, "read", 6), ErrorCode::UnknownMemberId);
    assert_eq!(room.commit("", -1, "read", 6), ErrorCode::UnknownMemberId, "the group has members");
    assert_eq!(room.offset("read"), Some(5));
}

#[test]
fn commits_go_on_while_members_join_but_not_while_they_are_assigned() {
    let (mut room, members) = Room::stable(1);
    room.start_join(&["range"]);
    assert_eq!(room.commit(&members[0], 1, "read", 5), ErrorCode::None);
    let joining = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    room.joined(joining);
    assert_eq!(room.commit(&members[0], 2, "read", 6), ErrorCode::RebalanceInProgress);
}

#[test]
fn commits_keep_a_member() {
    let (mut room, members) = Room::stable(1);
    for offset in 0..10 {
        room.pass(9);
        assert_eq!(room.commit(&members[0], 1, "read", offset), ErrorCode::None);
    }
    assert_eq!(room.state(), "Stable");
}

#[test]
fn who_assigns_partitions_itself_only_commits() {
    let mut room = Room::new();
    assert_eq!(room.commit("", -1, "read", 5), ErrorCode::None);
    assert_eq!((room.state(), room.offset("read")), ("Empty", Some(5)));
    assert_eq!(room.commit("", -1, "read", 6), ErrorCode::None);
    assert_eq!(room.offset("read"), Some(6));
    let described = room.coordinator.describe(GROUP, 5);
    assert_eq!((&*described.group_state, &*described.protocol_type), ("Empty", ""));
}

#[test]
fn generation_of_an_unknown_group_is_wrong() {
    let mut room = Room::new();
    assert_eq!(room.commit("m", 3, "read", 5), ErrorCode::IllegalGeneration);
    let committing = room.send_commit(9, commit_request("m", 3, "read", 5, ""));
    let refused = room.committed(committing).topics[0].partitions[0].error_code;
    assert_eq!(error(refused), ErrorCode::GroupIdNotFound);
    assert_eq!(room.state(), "none");
}

#[test]
fn long_notes_are_refused_by_themselves() {
    let mut room = Room::new();
    let mut request = commit_request("", -1, "read", 5, "0123456789a");
    request.topics.extend(commit_request("", -1, "other", 6, "0123456789").topics);
    let committing = room.send_commit(8, request);
    let response = room.committed(committing);
    let errors: Vec<_> = response.topics.iter().map(|topic| error(topic.partitions[0].error_code)).collect();
    assert_eq!(errors, [ErrorCode::OffsetMetadataTooLarge, ErrorCode::None]);
    assert_eq!((room.offset("read"), room.offset("other")), (None, Some(6)));
}

#[test]
fn commit_is_answered_and_seen_once_it_is_kept() {
    let mut room = Room::new();
    room.holds_writes = true;
    let first = room.send_commit(8, commit_request("", -1, "read", 5, ""));
    let second = room.send_commit(8, commit_request("", -1, "read", 6, ""));
    assert!(room.is_waiting(first));
    assert_eq!(room.offset("read"), None);
    room.end_write(Ok(()));
    assert_eq!((room.offset("read"), room.is_waiting(second)), (Some(5), true));
    room.end_write(Err(ErrorCode::KafkaStorageError));
    let refused = room.committed(second).topics[0].partitions[0].error_code;
    assert_eq!(error(refused), ErrorCode::NotCoordinator);
    assert_eq!(room.offset("read"), Some(5), "the state is as before");
}

#[test]
fn errors_of_the_log_become_those_of_coordinators() {
    let cases = [
        (ErrorCode::UnknownTopicOrPartition, ErrorCode::CoordinatorNotAvailable),
        (ErrorCode::NotEnoughReplicasAfterAppend, ErrorCode::CoordinatorNotAvailable),
        (ErrorCode::KafkaStorageError, ErrorCode::NotCoordinator),
        (ErrorCode::MessageTooLarge, ErrorCode::UnknownServerError),
        (ErrorCode::InvalidTimestamp, ErrorCode::InvalidTimestamp),
    ];
    for (from, to) in cases {
        let mut room = Room::new();
        room.holds_writes = true;
        let committing = room.send_commit(8, commit_request("", -1, "read", 5, ""));
        room.end_write(Err(from));
        assert_eq!(error(room.committed(committing).topics[0].partitions[0].error_code), to);
    }
}

#[test]
fn offsets_expire_when_their_group_has_been_empty_for_long() {
    let (mut room, members) = Room::stable(1);
    room.commit(&members[0], 1, "read", 5);
    for _ in 0..2 * HOUR / 5 {
        room.pass(5);
        room.heartbeat(&members[0], 1);
    }
    room.expire_offsets();
    assert_eq!(room.offset("read"), Some(5), "it is being read");
    room.leave(&[(&members[0], None)]);
    room.pass(HOUR - 1);
    room.expire_offsets();
    assert_eq!(room.offset("read"), Some(5), "the time counts from when the last one left");
    room.pass(1);
    room.expire_offsets();
    assert_eq!(room.state(), "none");
    assert!(matches!(room.log.last(), Some(GroupRecord::Group { value: None, .. })));
    assert!(room.replayed().groups().is_empty());
}

#[test]
fn offsets_of_topics_that_nobody_reads_any_more_expire() {
    let (mut room, members) = Room::stable(1);
    room.commit(&members[0], 1, "read", 5);
    room.commit(&members[0], 1, "old", 6);
    for _ in 0..HOUR / 5 {
        room.pass(5);
        room.heartbeat(&members[0], 1);
    }
    room.expire_offsets();
    assert_eq!((room.offset("read"), room.offset("old")), (Some(5), None));
    assert_eq!(room.state(), "Stable");
}

#[test]
fn offsets_without_members_expire_by_their_own_time() {
    let mut room = Room::new();
    room.commit("", -1, "first", 5);
    room.pass(HOUR / 2);
    room.commit("", -1, "second", 6);
    room.pass(HOUR / 2);
    room.expire_offsets();
    assert_eq!((room.offset("first"), room.offset("second")), (None, Some(6)));
    room.pass(HOUR / 2);
    room.expire_offsets();
    assert_eq!(room.state(), "none");
}

#[test]
fn old_clients_say_how_long_an_offset_is_kept() {
    let mut room = Room::new();
    let request = commit_request("", -1, "read", 5, "").with_retention_time_ms(5000);
    let committing = room.send_commit(4, request);
    assert_eq!(room.committed(committing).topics[0].partitions[0].error_code, 0);
    room.pass_ms(4_999);
    room.expire_offsets();
    assert_eq!(room.offset("read"), Some(5));
    room.pass_ms(1);
    room.expire_offsets();
    assert_eq!(room.state(), "none");
}

#[test]
fn empty_group_without_offsets_goes() {
    let (mut room, members) = Room::stable(1);
    room.leave(&[(&members[0], None)]);
    room.expire_offsets();
    assert_eq!(room.state(), "none");
}

#[test]
fn group_in_use_is_not_looked_at() {
    let mut room = Room::new();
    room.commit("", -1, "read", 5);
    room.pass(2 * HOUR);
    room.holds_writes = true;
    let committing = room.send_commit(8, commit_request("", -1, "read", 6, ""));
    room.expire_offsets();
    assert_eq!(room.writes.len(), 1);
    room.end_write(Ok(()));
    room.committed(committing);
    assert_eq!(room.offset("read"), Some(6));
}

#[test]
fn offsets_are_deleted_unless_they_are_in_use() {
    let (mut room, members) = Room::stable(1);
    room.commit(&members[0], 1, "read", 5);
    room.commit(&members[0], 1, "old", 6);
    assert_eq!(delete_offset(&mut room, "read"), ErrorCode::GroupSubscribedToTopic);
    assert_eq!(delete_offset(&mut room, "old"), ErrorCode::None);
    assert_eq!(delete_offset(&mut room, "never"), ErrorCode::None);
    assert_eq!((room.offset("read"), room.offset("old")), (Some(5), None));
    room.leave(&[(&members[0], None)]);
    assert_eq!(delete_offset(&mut room, "read"), ErrorCode::None);
    assert_eq!(room.offset("read"), None);
    assert_eq!(delete_offset(&mut Room::new(), "read"), ErrorCode::GroupIdNotFound);
}

#[test]
fn offsets_of_others_than_consumers_stay_while_there_are_members() {
    let mut room = Room::new();
    let request = join_request("", &["range"]).with_protocol_type(text("connect"));
    let joining = room.send_join(OLD, request);
    room.pass(3);
    room.joined(joining);
    assert_eq!(delete_offset(&mut room, "read"), ErrorCode::NonEmptyGroup);
}

#[test]
fn group_is_deleted_with_its_offsets_once_it_is_empty() {
    let (mut room, members) = Room::stable(1);
    room.commit(&members[0], 1, "read", 5);
    let deleting = room.delete_group();
    assert_eq!(room.deleted(deleting), ErrorCode::NonEmptyGroup);
    room.leave(&[(&members[0], None)]);
    let deleting = room.delete_group();
    assert_eq!(room.deleted(deleting), ErrorCode::None);
    assert_eq!((room.state(), room.replayed().groups().len()), ("none", 0));
    let deleting = room.delete_group();
    assert_eq!(room.deleted(deleting), ErrorCode::GroupIdNotFound);
}

#[test]
fn deletion_waits_for_commits_and_all_else_waits_for_it() {
    let mut room = Room::new();
    room.holds_writes = true;
    let first = room.send_commit(8, commit_request("", -1, "read", 5, ""));
    let deleting = room.delete_group();
    let second = room.send_commit(8, commit_request("", -1, "other", 6, ""));
    let joining = room.send_join(OLD, join_request("", &["range"]));
    assert_eq!(room.writes.len(), 1);
    room.end_write(Ok(()));
    room.committed(first);
    assert_eq!(room.writes.len(), 1, "the deletion");
    assert!(room.is_waiting(deleting) && room.is_waiting(second) && room.is_waiting(joining));
    room.end_write(Ok(()));
    assert_eq!(room.deleted(deleting), ErrorCode::None);
    assert_eq!(room.offset("read"), None);
    room.end_write(Ok(()));
    room.committed(second);
    assert_eq!(room.offset("other"), Some(6));
    room.pass(3);
    assert_eq!(room.joined(joining).generation_id, 1);
}

#[test]
fn group_that_is_being_deleted_is_not_begun_anew_before_it_is_gone() {
    let mut room = Room::new();
    let asked = room.send_join(NEWEST, join_request("", &["range"]));
    room.joined(asked);
    room.holds_writes = true;
    let deleting = room.delete_group();
    room.pass(10); // The id that was given out is forgotten.
    let joining = room.send_join(OLD, join_request("", &["range"]));
    room.end_write(Ok(()));
    assert_eq!(room.deleted(deleting), ErrorCode::None);
    room.pass(3);
    assert_eq!(room.joined(joining).generation_id, 1);
}

#[test]
fn deletion_that_cannot_be_kept_changes_nothing() {
    let mut room = Room::new();
    room.commit("", -1, "read", 5);
    room.holds_writes = true;
    let deleting = room.delete_group();
    room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(room.deleted(deleting), ErrorCode::NotCoordinator);
    assert_eq!(room.offset("read"), Some(5));
    room.holds_writes = false;
    assert_eq!(room.commit("", -1, "read", 6), ErrorCode::None);
}

#[test]
fn offsets_go_with_their_topic() {
    let mut room = Room::new();
    room.commit("", -1, "read", 5);
    room.commit("", -1, "gone", 6);
    room.holds_writes = true;
    let committing = room.send_commit(8, commit_request("", -1, "gone", 7, ""));
    room.decide(|coordinator, now, effects| {
        coordinator.forget_topics(GROUP, |topic| topic == "gone", now, effects);
    });
    room.end_write(Ok(()));
    room.committed(committing);
    room.end_write(Ok(()));
    assert_eq!((room.offset("read"), room.offset("gone")), (Some(5), None));
}

#[test]
fn first_commit_to_a_topic_that_goes_meanwhile_is_taken_away_again() {
    let mut room = Room::new();
    room.holds_writes = true;
    let mut request = commit_request("", -1, "gone", 6, "");
    request.topics.extend(commit_request("", -1, "read", 5, "").topics);
    let committing = room.send_commit(8, request);
    room.decide(|coordinator, _, _| coordinator.forget_in_flight(|topic| topic == "gone"));
    room.end_write(Ok(()));
    room.committed(committing);
    room.end_write(Ok(()));
    assert_eq!((room.offset("read"), room.offset("gone")), (Some(5), None));
}

#[test]
fn commit_that_waits_to_a_topic_that_goes_meanwhile_is_taken_away_again() {
    let mut room = Room::new();
    assert_eq!(room.commit("", -1, "read", 5), ErrorCode::None);
    room.holds_writes = true;
    let deleting = room.delete_group();
    let committing = room.send_commit(8, commit_request("", -1, "gone", 6, ""));
    room.decide(|coordinator, _, _| coordinator.forget_in_flight(|topic| topic == "gone"));
    while !room.writes.is_empty() {
        room.end_write(Ok(()));
    }
    assert_eq!(room.deleted(deleting), ErrorCode::None);
    room.committed(committing);
    assert_eq!((room.offset("read"), room.offset("gone")), (None, None));
}

#[test]
fn large_groups_are_taken_away_in_several_batches() {
    let mut room = Room::new();
    for partition in 0..1200 {
        let value = OffsetValue { offset: 1, commit_timestamp: room.now.wall.0, ..OffsetValue::default() };
        let topic = "read".to_owned();
        let record = GroupRecord::Offset { group: GROUP.to_owned(), topic, partition, value: Some(value) };
        room.coordinator.apply(&record);
        room.log.push(record);
    }
    room.holds_writes = true;
    let deleting = room.delete_group();
    assert_eq!(room.writes.len(), 1, "one waits for the other");
    room.end_write(Ok(()));
    let joining = room.send_join(OLD, join_request("", &["range"]));
    room.end_write(Ok(()));
    assert!(room.is_waiting(deleting));
    room.end_write(Ok(()));
    assert_eq!(room.deleted(deleting), ErrorCode::None);
    assert!(room.replayed().groups().is_empty());
    room.pass(3);
    assert_eq!(room.joined(joining).generation_id, 1);
}

/// One commit of as many partitions as take more than two batches to take away, in a topic of that name.
fn commit_many(room: &mut Room, topic: &str, count: i32) {
    let mut request = commit_request("", -1, topic, 5, "");
    let partition = request.topics[0].partitions[0].clone();
    let partitions = (0..count).map(|index| partition.clone().with_partition_index(index));
    request.topics[0].partitions = partitions.collect();
    let committing = room.send_commit(8, request);
    assert_eq!(room.committed(committing).topics[0].partitions[0].error_code, 0);
}

fn on_their_way(room: &Room) -> Vec<&GroupRecord> {
    room.writes.iter().flat_map(|write| room.coordinator.records(*write)).collect()
}

#[test]
fn group_is_gone_only_once_all_of_it_is() {
    for failing in 0..3 {
        let mut room = Room::new();
        commit_many(&mut room, "read", 1200);
        room.holds_writes = true;
        let deleting = room.delete_group();
        for number in 0..3 {
            assert!(room.is_waiting(deleting));
            let is_last = matches!(on_their_way(&room)[..], [.., GroupRecord::Group { value: None, .. }]);
            assert_eq!(is_last, number == 2);
            let result = if number == failing { Err(ErrorCode::KafkaStorageError) } else { Ok(()) };
            room.end_write(result);
            if number == failing {
                break;
            }
        }
        assert_eq!(room.deleted(deleting), ErrorCode::NotCoordinator, "the write {failing} was not kept");
        assert!(room.writes.is_empty());
        let held = room.coordinator.offsets(GROUP).map(GroupOffsets::count);
        assert_eq!(held, Some(1200 - failing * 500));
        // It goes on as it is.
        room.holds_writes = false;
        assert_eq!(room.commit("", -1, "read", 7), ErrorCode::None);
        let deleting = room.delete_group();
        assert_eq!((room.deleted(deleting), room.state()), (ErrorCode::None, "none"));
    }
}

#[test]
fn commits_wait_while_offsets_are_taken_away_in_parts() {
    let mut room = Room::new();
    commit_many(&mut room, "read", 1200);
    room.holds_writes = true;
    room.decide(|coordinator, now, effects| coordinator.forget_topics(GROUP, |_| true, now, effects));
    let committing = room.send_commit(8, commit_request("", -1, "read", 9, ""));
    (0..3).for_each(|_| room.end_write(Ok(())));
    assert!(room.is_waiting(committing), "it is in the log after what is taken away");
    room.end_write(Ok(()));
    assert_eq!(room.committed(committing).topics[0].partitions[0].error_code, 0);
    assert_eq!(room.offset("read"), Some(9));
}

#[test]
fn deletions_are_small_batches() {
    let mut room = Room::new();
    let topic = "t".repeat(30_000);
    commit_many(&mut room, &topic, 20);
    room.holds_writes = true;
    let deleting = room.delete_group();
    while let Some(write) = room.writes.front() {
        let size: usize = room.coordinator.records(*write).iter().map(GroupRecord::size).sum();
        assert!(size <= GROUP_REMOVAL_SIZE_MAX, "{size}");
        room.end_write(Ok(()));
    }
    assert_eq!(room.deleted(deleting), ErrorCode::None);
}
