use super::*;
use kafka_protocol::messages::OffsetDeleteRequest;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

impl Hall {
    /// Commits an offset of the topic "read": the error.
    fn commit(&mut self, version: i16, member: &str, epoch: i32) -> ErrorCode {
        let ticket = self.room.send_commit(version, commit_request(member, epoch, "read", 5, ""));
        error(self.room.committed(ticket).topics[0].partitions[0].error_code)
    }

    fn send_delete_offset(&mut self, topic: &str) -> Ticket {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        let request = OffsetDeleteRequest::default().with_group_id(group_id()).with_topics(vec![topic]);
        let ticket = self.room.ticket();
        self.room.decide(|coordinator, now, effects| {
            coordinator.delete_offsets(request, ticket, now, effects);
        });
        ticket
    }

    fn delete_offset(&mut self, topic: &str) -> ErrorCode {
        let ticket = self.send_delete_offset(topic);
        match self.room.answers.remove(&ticket) {
            Some(Answer::DeleteOffsets(response)) if response.error_code == 0 => {
                error(response.topics[0].partitions[0].error_code)
            }
            Some(Answer::DeleteOffsets(response)) => error(response.error_code),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn commits_are_from_members_of_their_epoch() {
    let (mut hall, mut clients) = settled(2, 4);
    let (id, epoch) = (clients[0].id.clone(), clients[0].epoch);
    assert_eq!(hall.commit(9, &id, epoch), ErrorCode::None);
    assert_eq!(hall.commit(9, &id, epoch - 1), ErrorCode::StaleMemberEpoch);
    assert_eq!(hall.commit(9, &id, epoch + 1), ErrorCode::StaleMemberEpoch);
    assert_eq!(hall.commit(8, &id, epoch), ErrorCode::UnsupportedVersion);
    assert_eq!(hall.commit(9, "other", epoch), ErrorCode::UnknownMemberId);
    assert_eq!(hall.commit(9, "", -1), ErrorCode::UnknownMemberId, "there are members");
    for client in &mut clients {
        hall.leave(client, -1);
    }
    assert_eq!(hall.commit(9, "", -1), ErrorCode::None);
}

#[test]
fn committed_offsets_are_for_members_of_their_epoch() {
    let (hall, clients) = settled(1, 4);
    let check = |member: Option<&str>, epoch| hall.room.coordinator.check_fetch(GROUP, member, epoch);
    assert_eq!(check(Some(&clients[0].id), 1), Ok(()));
    assert_eq!(check(Some(&clients[0].id), 2), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(check(Some("other"), 1), Err(ErrorCode::UnknownMemberId));
    assert_eq!(check(None, -1), Ok(()));
    assert_eq!(hall.room.coordinator.check_fetch("none", Some("a"), 1), Ok(()));
}

#[test]
fn group_is_deleted_once_nobody_is_in_it() {
    let (mut hall, mut clients) = settled(1, 4);
    hall.commit(9, &clients[0].id.clone(), 1);
    let ticket = hall.room.delete_group();
    assert_eq!(hall.room.deleted(ticket), ErrorCode::NonEmptyGroup);
    hall.leave(&mut clients[0], -1);
    let ticket = hall.room.delete_group();
    assert_eq!(hall.room.deleted(ticket), ErrorCode::None);
    assert_eq!(hall.room.state(), "none");
    hall.restart();
    assert_eq!(hall.room.state(), "none", "nothing of it is left in the log");
    hall.beat(&mut clients[0]);
    assert_eq!(clients[0].epoch, 1);
}

#[test]
fn offsets_of_topics_that_are_read_stay() {
    let mut hall = Hall::new(&[("read", 1)]);
    let mut client = Client::matching("a", "rea.");
    hall.beat(&mut client);
    hall.commit(9, "a", 1);
    assert_eq!(hall.delete_offset("read"), ErrorCode::GroupSubscribedToTopic);
    assert_eq!(hall.delete_offset("other"), ErrorCode::None);
    hall.leave(&mut client, -1);
    assert_eq!(hall.delete_offset("read"), ErrorCode::None);
    assert_eq!(hall.room.offset("read"), None);
}

#[test]
fn offsets_expire_with_the_group_once_nobody_reads_them() {
    let (mut hall, mut clients) = settled(1, 4);
    hall.commit(9, &clients[0].id.clone(), 1);
    for _ in 0..200 {
        hall.room.pass(40);
        hall.beat(&mut clients[0]);
    }
    hall.room.expire_offsets();
    assert_eq!(hall.room.offset("read"), Some(5), "somebody reads it");
    hall.leave(&mut clients[0], -1);
    hall.room.expire_offsets();
    assert_eq!(hall.room.state(), "none");
}

#[test]
fn group_is_listed_and_described_by_its_protocol() {
    let mut hall = Hall::new(&[("read", 2)]);
    let mut client = Client::named("a", "i", &["read"]);
    hall.beat(&mut client);
    let listed = hall.room.coordinator.listed(GROUP).unwrap();
    let shown = (&*listed.protocol_type, &*listed.group_state, &*listed.group_type);
    assert_eq!(shown, ("consumer", "Stable", "consumer"));
    let described = hall.room.coordinator.consumer_describe(GROUP, 1);
    assert_eq!((described.group_epoch, described.assignment_epoch), (1, 1));
    assert_eq!((&*described.group_state, &*described.assignor_name), ("Stable", "uniform"));
    let [member] = &described.members[..] else { panic!("{described:?}") };
    assert_eq!((&*member.member_id, member.instance_id.as_deref()), ("a", Some("i")));
    assert_eq!((member.member_epoch, member.member_type, &*member.client_id), (1, 1, "client"));
    let [topic] = &member.assignment.topic_partitions[..] else { panic!("{member:?}") };
    assert_eq!((&**topic.topic_name, &topic.partitions[..]), ("read", &[0, 1][..]));
    assert_eq!(member.assignment, member.target_assignment);
    let classic = hall.room.coordinator.describe(GROUP, 6);
    assert_eq!(error(classic.error_code), ErrorCode::GroupIdNotFound);
    assert_eq!(classic.error_message.as_deref(), Some("Group g is not a classic group."));
    let old = hall.room.coordinator.describe(GROUP, 5);
    assert_eq!((old.error_code, &*old.group_state), (0, "Dead"));
    let missing = hall.room.coordinator.consumer_describe("none", 0);
    assert_eq!(missing.error_message.as_deref(), Some("Group none not found."));
    hall.leave(&mut client, -1);
    assert_eq!(&*hall.room.coordinator.listed(GROUP).unwrap().group_state, "Empty");
    let classic = hall.room.send_commit(
        9,
        OffsetCommitRequest::default()
            .with_group_id(GroupId(text("simple")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(commit_request("", -1, "read", 1, "").topics),
    );
    hall.room.committed(classic);
    let described = hall.room.coordinator.consumer_describe("simple", 0);
    assert_eq!(described.error_message.as_deref(), Some("Group simple is not a consumer group."));
    assert_eq!(&*hall.room.coordinator.listed("simple").unwrap().group_type, "classic");
}

#[test]
fn who_is_silent_is_taken_out_while_others_wait_for_commits() {
    let (mut hall, mut clients) = settled(3, 6);
    hall.room.pass(20);
    hall.beat(&mut clients[0]);
    hall.room.holds_writes = true;
    hall.room.send_commit(9, commit_request("m0", clients[0].epoch, "read", 5, ""));
    let deleting = hall.send_delete_offset("other");
    let beating = hall.send(1, clients[1].request());
    hall.room.pass(26);
    assert!(hall.group().members.keys().map(|id| &**id).eq(["m0", "m1"]), "only one of them was silent");
    assert_eq!(hall.room.writes.len(), 2);
    assert!(hall.room.is_waiting(deleting) && hall.room.is_waiting(beating));
    hall.room.holds_writes = false;
    hall.room.end_write(Ok(()));
    assert!(!hall.room.is_waiting(deleting));
    clients[1].take(&hall.answered(beating));
    hall.room.pass(1);
    assert_eq!(hall.group().members.len(), 2);
}

#[test]
fn commits_of_nobody_wait_until_the_last_member_has_certainly_gone() {
    let (mut hall, _) = settled(1, 4);
    for (result, expected) in
        [(Err(ErrorCode::NotEnoughReplicas), ErrorCode::UnknownMemberId), (Ok(()), ErrorCode::None)]
    {
        hall.room.holds_writes = true;
        hall.room.pass_ms(45_500);
        assert!(hall.group().is_empty() && hall.room.writes.len() == 1);
        let committing = hall.room.send_commit(9, commit_request("", -1, "read", 5, ""));
        assert!(hall.room.is_waiting(committing));
        hall.room.holds_writes = false;
        hall.room.end_write(result);
        assert_eq!(error(hall.room.committed(committing).topics[0].partitions[0].error_code), expected);
    }
}
