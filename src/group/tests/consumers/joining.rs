use super::*;
use crate::types::limits::GROUP_MEMBER_SIZE_MAX;

#[test]
fn first_member_gets_everything_at_once() {
    let mut hall = Hall::new(&[("read", 3)]);
    let mut client = Client::new("a", &["read"]);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (1, 3));
    assert_eq!((hall.group().epoch, hall.state()), (1, "Stable"));
    let writes = hall.room.log.len();
    let response = hall.ask(client.request());
    assert_eq!((response.member_epoch, response.assignment), (1, None), "it has heard of it");
    assert_eq!(hall.room.log.len(), writes, "nothing is written for a heartbeat");
}

#[test]
fn answer_waits_until_what_it_says_is_kept() {
    let mut hall = Hall::new(&[("read", 3)]);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, Client::new("a", &["read"]).request());
    let again = hall.send(1, Client::new("b", &["read"]).request());
    assert!(hall.room.is_waiting(ticket) && hall.room.is_waiting(again));
    assert_eq!(hall.room.writes.len(), 1, "one decides, the other one waits for it");
    hall.room.end_write(Ok(()));
    assert_eq!(hall.answered(ticket).member_epoch, 1);
    hall.room.end_write(Ok(()));
    assert_eq!(hall.answered(again).member_epoch, 2);
}

#[test]
fn what_cannot_be_kept_has_not_happened() {
    let (mut hall, mut clients) = settled(1, 3);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, Client::new("new", &["read"]).request());
    let waiting = hall.send(1, clients[0].request());
    hall.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(hall.answered(ticket).error_code), ErrorCode::NotCoordinator);
    let response = hall.answered(waiting);
    clients[0].take(&response);
    assert_eq!((clients[0].epoch, clients[0].count(), hall.group().members.len()), (1, 3, 1));
    hall.room.holds_writes = false;
    let mut first = Hall::new(&[("read", 3)]);
    first.room.holds_writes = true;
    first.send(1, Client::new("a", &["read"]).request());
    first.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(first.room.state(), "none", "there was nothing before");
}

#[test]
fn what_is_larger_than_the_log_takes_is_said_to_be() {
    let mut hall = Hall::new(&[("read", 3)]);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, Client::new("a", &["read"]).request());
    hall.room.end_write(Err(ErrorCode::MessageTooLarge));
    let response = hall.answered(ticket);
    assert_eq!(error(response.error_code), ErrorCode::UnknownServerError);
    assert!(response.error_message.is_some_and(|message| message.contains("max.message.bytes")));
}

#[test]
fn partition_is_given_once_its_owner_has_let_it_go() {
    let mut hall = Hall::new(&[("read", 4)]);
    let mut a = Client::new("a", &["read"]);
    hall.beat(&mut a);
    let mut b = Client::new("b", &["read"]);
    hall.beat(&mut b);
    assert_eq!((b.epoch, b.count()), (2, 0), "it is in, and waits");
    assert_eq!(hall.state(), "Reconciling");
    let all = a.owned.clone();
    let response = hall.ask(a.request());
    assert_eq!(response.member_epoch, 1, "it has to let go first");
    a.take(&response);
    assert_eq!(a.count(), 2);
    // It still has them all: nothing goes on.
    let kept = std::mem::replace(&mut a.owned, all);
    assert_eq!(hall.ask(a.request()).member_epoch, 1);
    hall.beat(&mut b);
    assert_eq!(b.count(), 0);
    a.owned = kept;
    hall.beat(&mut a);
    assert_eq!(a.epoch, 2);
    hall.beat(&mut b);
    assert_eq!((b.count(), hall.state()), (2, "Stable"));
    check_apart(&[&mut a, &mut b]);
}

#[test]
fn many_members_share_alike() {
    let (hall, clients) = settled(20, 50);
    assert!(clients.iter().all(|client| (2..=3).contains(&client.count())));
    assert_eq!(clients.iter().map(Client::count).sum::<usize>(), 50);
    assert!(clients.iter().all(|client| client.epoch == hall.group().epoch));
}

#[test]
fn who_leaves_is_followed_by_the_others() {
    let (mut hall, mut clients) = settled(3, 6);
    let mut gone = clients.remove(1);
    assert_eq!(hall.leave(&mut gone, -1), ErrorCode::None);
    assert_eq!(hall.state(), "Assigning", "the next heartbeat says who gets what");
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    assert!(clients.iter().all(|client| client.count() == 3));
    assert_eq!(hall.leave(&mut gone, -1), ErrorCode::UnknownMemberId);
    for client in &mut clients {
        hall.leave(client, -1);
    }
    assert_eq!(hall.state(), "Empty");
    hall.beat(&mut gone);
    assert_eq!(gone.count(), 6);
}

#[test]
fn who_is_silent_for_a_session_is_taken_out() {
    let (mut hall, mut clients) = settled(2, 4);
    hall.room.pass(44);
    hall.beat(&mut clients[0]);
    hall.room.pass(2);
    assert_eq!(hall.group().members.len(), 1);
    assert_eq!(hall.error(clients[1].request()), ErrorCode::UnknownMemberId);
    hall.settle(&mut [&mut clients[0]]);
    assert_eq!(clients[0].count(), 4);
}

#[test]
fn what_is_set_of_a_group_counts_from_the_next_heartbeat_on() {
    let (mut hall, mut clients) = settled(1, 4);
    let times =
        GroupTimes { session_timeout: Duration::from_secs(50), heartbeat_interval: Duration::from_secs(7) };
    hall.topics.times.set(Some(times));
    hall.room.pass(44);
    let response = hall.ask(clients[0].request());
    assert_eq!((response.error_code, response.heartbeat_interval_ms), (0, 7000));
    hall.room.pass(49);
    assert_eq!(hall.group().members.len(), 1);
    hall.topics.times.set(None);
    hall.beat(&mut clients[0]);
    hall.room.pass(44);
    assert_eq!(hall.group().members.len(), 1);
    hall.room.pass(2);
    assert_eq!(hall.group().members.len(), 0, "it is that of all groups again");
}

#[test]
fn sessions_after_a_restart_are_those_of_the_group() {
    let (mut hall, _) = settled(1, 4);
    let times =
        GroupTimes { session_timeout: Duration::from_secs(60), heartbeat_interval: Duration::from_secs(5) };
    hall.topics.times.set(Some(times));
    hall.restart();
    hall.room.pass(59);
    assert_eq!(hall.group().members.len(), 1);
    hall.room.pass(2);
    assert_eq!(hall.group().members.len(), 0);
}

#[test]
fn what_others_do_does_not_keep_who_is_silent() {
    let (mut hall, mut clients) = settled(2, 6);
    let mut other = Client::new("other", &["read"]);
    hall.room.pass(20);
    for _ in 0..2 {
        hall.beat(&mut other);
        hall.beat(&mut clients[0]);
    }
    assert!(hall.group().members.contains_key("m1"), "what is aimed at for it has changed meanwhile");
    hall.room.pass(20);
    hall.beat(&mut clients[0]);
    hall.leave(&mut other, -1);
    hall.beat(&mut clients[0]);
    hall.room.pass(6);
    assert!(hall.group().members.keys().map(|id| &**id).eq(["m0"]));
    hall.settle(&mut [&mut clients[0]]);
    assert_eq!(clients[0].count(), 6);
}

#[test]
fn who_could_not_be_taken_out_is_taken_out_later() {
    let (mut hall, mut clients) = settled(2, 4);
    hall.room.pass(20);
    hall.beat(&mut clients[0]);
    hall.room.holds_writes = true;
    hall.room.pass_ms(25_500);
    assert_eq!(hall.room.writes.len(), 1);
    hall.room.end_write(Err(ErrorCode::NotEnoughReplicas));
    assert_eq!((hall.group().members.len(), hall.room.writes.len()), (2, 0), "not again at once");
    hall.room.pass(2);
    assert_eq!(hall.room.writes.len(), 1);
    hall.room.end_write(Ok(()));
    assert!(hall.group().members.keys().map(|id| &**id).eq(["m0"]));
    // Nor does it stay if the group cannot even decide that it goes.
    hall.room.holds_writes = false;
    hall.room.pass(1);
    let group = hall.room.coordinator.groups_mut().get_mut(GROUP).unwrap().consumer.as_mut().unwrap();
    let epoch = std::mem::replace(&mut group.epoch, i32::MAX);
    hall.room.pass(30);
    assert_eq!(hall.group().members.len(), 1);
    hall.room.coordinator.groups_mut().get_mut(GROUP).unwrap().consumer.as_mut().unwrap().epoch = epoch;
    hall.room.pass(2);
    assert!(hall.group().is_empty());
}

#[test]
fn who_does_not_let_go_in_time_is_taken_out() {
    let (mut hall, mut clients) = settled(1, 4);
    let mut second = Client::new("second", &["read"]);
    hall.beat(&mut second);
    let stubborn = clients[0].request();
    for _ in 0..5 {
        assert_eq!(hall.ask(stubborn.clone()).member_epoch, 1);
        hall.beat(&mut second);
        hall.room.pass(11);
    }
    assert_eq!(hall.group().members.len(), 2, "it has 60 seconds");
    hall.ask(stubborn.clone());
    hall.beat(&mut second);
    hall.room.pass(6);
    assert_eq!(hall.group().members.len(), 1);
    assert_eq!(hall.error(stubborn), ErrorCode::UnknownMemberId);
    hall.settle(&mut [&mut second]);
    assert_eq!(second.count(), 4);
    let _ = clients.pop();
}

#[test]
fn who_has_let_go_is_not_taken_out_later() {
    let (mut hall, mut clients) = settled(1, 4);
    let mut second = Client::new("second", &["read"]);
    for _ in 0..10 {
        hall.beat(&mut second);
        hall.beat(&mut clients[0]);
        hall.room.pass(20);
    }
    assert_eq!((hall.group().members.len(), clients[0].epoch), (2, 2));
}

#[test]
fn who_has_let_go_in_vain_has_no_more_time() {
    let (mut hall, mut clients) = settled(1, 4);
    let mut second = Client::new("second", &["read"]);
    hall.beat(&mut second);
    let stubborn = clients[0].request();
    hall.beat(&mut clients[0]);
    hall.room.pass(30);
    assert_eq!(hall.ask(stubborn).member_epoch, 1);
    hall.beat(&mut second);
    // When its time is up it is in the next epoch, which cannot be kept.
    hall.room.pass(20);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, clients[0].request());
    hall.room.pass(11);
    assert_eq!(hall.group().members["m0"].current.epoch, 2);
    hall.room.end_write(Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(error(hall.answered(ticket).error_code), ErrorCode::CoordinatorNotAvailable);
    hall.room.holds_writes = false;
    hall.room.pass(1);
    assert!(hall.group().members.keys().map(|id| &**id).eq(["second"]), "it has had its 60 seconds");
}

#[test]
fn epochs_fence_members_that_are_elsewhere() {
    let (mut hall, mut clients) = settled(2, 4);
    let epoch = clients[0].epoch;
    let at = |client: &Client, epoch: i32| Client { epoch, ..client.clone() }.request();
    assert_eq!(hall.error(at(&clients[0], epoch + 1)), ErrorCode::FencedMemberEpoch);
    // The answer with its last epoch was lost: it may say the one before, with what it had then.
    let lost = Client { owned: Partitions::new(), ..clients[0].clone() };
    assert_eq!(hall.error(at(&lost, epoch - 1)), ErrorCode::None);
    assert_eq!(hall.error(at(&clients[0], epoch - 1)), ErrorCode::None);
    let mut wide = clients[0].clone();
    wide.owned = wide.owned.keys().map(|topic| (*topic, SortedSet::from([0, 1, 2, 3]))).collect();
    assert_eq!(hall.error(at(&wide, epoch - 1)), ErrorCode::FencedMemberEpoch);
    assert_eq!(hall.error(at(&Client::new("x", &["read"]), 7)), ErrorCode::UnknownMemberId);
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    assert_eq!(clients[0].epoch, epoch);
}

#[test]
fn who_was_fenced_joins_again_under_its_id() {
    let (mut hall, mut clients) = settled(2, 4);
    let mut again = Client { epoch: 0, is_in: false, owned: Partitions::new(), ..clients[0].clone() };
    hall.beat(&mut again);
    assert_eq!((again.epoch, &again.owned), (clients[0].epoch, &clients[0].owned), "what it had is its own");
    clients[0] = again;
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
}

#[test]
fn who_joins_twice_keeps_what_it_has_until_it_says_that_it_let_go() {
    let (mut hall, mut clients) = settled(1, 4);
    let join = Client { epoch: 0, is_in: false, owned: Partitions::new(), ..clients[0].clone() }.request();
    let mut second = Client::new("second", &["read"]);
    hall.beat(&mut second);
    // Its first request comes once more, before and after it has heard what to let go.
    for _ in 0..2 {
        let response = hall.ask(join.clone());
        assert_eq!(response.member_epoch, 1);
        hall.beat(&mut second);
        assert_eq!(second.count(), 0, "the first one still reads them all");
        hall.beat(&mut clients[0]);
    }
    hall.settle(&mut [&mut clients[0], &mut second]);
    assert_eq!((clients[0].count(), second.count()), (2, 2));
}

#[test]
fn topics_that_grow_and_come_raise_the_epoch() {
    let mut hall = Hall::new(&[("read", 1)]);
    let mut client = Client::new("a", &["read", "later"]);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (1, 1));
    hall.set_topic("other", 9);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (1, 1), "it does not read that");
    hall.set_topic("read", 3);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (2, 3));
    hall.set_topic("later", 2);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (3, 5));
    hall.delete_topic("read");
    hall.settle(&mut [&mut client]);
    assert_eq!((client.epoch, client.count()), (4, 2));
    // Another topic of the name.
    hall.set_topic("read", 1);
    hall.settle(&mut [&mut client]);
    assert_eq!((client.epoch, client.count()), (5, 3));
}

#[test]
fn subscriptions_may_change() {
    let mut hall = Hall::new(&[("a", 2), ("b", 2)]);
    let (mut first, mut second) = (Client::new("1", &["a"]), Client::new("2", &["a"]));
    hall.settle(&mut [&mut first, &mut second]);
    second.topics = vec!["b".to_owned()];
    second.is_in = false;
    hall.settle(&mut [&mut second, &mut first]);
    assert_eq!((first.count(), second.count()), (2, 2));
    let b = hall.topics.named("b").unwrap().id;
    assert_eq!(second.owned.keys().collect::<Vec<_>>(), [&b]);
}

#[test]
fn members_vote_for_the_assignor() {
    let mut hall = Hall::new(&[("a", 3), ("b", 3)]);
    let mut clients: Vec<Client> = (0..2).map(|n| Client::new(&n.to_string(), &["a", "b"])).collect();
    clients[0].assignor = Some("range".to_owned());
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    assert_eq!(
        clients[0].owned.values().map(SortedSet::len).collect::<Vec<_>>(),
        [2, 2],
        "range: two of each"
    );
    let unknown = Client { assignor: Some("best".to_owned()), ..Client::new("x", &["a"]) };
    let response = hall.ask(unknown.request());
    assert_eq!(error(response.error_code), ErrorCode::UnsupportedAssignor);
    let message = "ServerAssignor best is not supported. Supported assignors: uniform, range.";
    assert_eq!(response.error_message.as_deref(), Some(message));
}

#[test]
fn group_takes_no_more_members_than_it_may() {
    let settings = ConsumerSettings { size_max: 2, ..consumer_settings() };
    let mut hall = Hall::with(settings, &[("read", 4)]);
    let (mut a, mut b) = (Client::new("a", &["read"]), Client::new("b", &["read"]));
    hall.settle(&mut [&mut a, &mut b]);
    let response = hall.ask(Client::new("c", &["read"]).request());
    assert_eq!(error(response.error_code), ErrorCode::GroupMaxSizeReached);
    hall.leave(&mut a, -1);
    assert_eq!(hall.error(Client::new("c", &["read"]).request()), ErrorCode::None);
}

#[test]
fn ids_are_made_for_members_of_the_first_version() {
    let mut hall = Hall::new(&[("read", 4)]);
    let mut request = Client::new("", &["read"]).request();
    let refused = hall.ask(request.clone());
    assert_eq!(refused.error_message.as_deref(), Some("MemberId can't be empty."));
    request.subscribed_topic_regex = None;
    let ticket = hall.send(0, request);
    let response = hall.answered(ticket);
    assert_eq!(error(response.error_code), ErrorCode::None);
    assert!(response.member_id.is_some_and(|id| id.starts_with("fresh-")));
}

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let mut hall = Hall::new(&[("read", 4)]);
    let good = || Client::new("a", &["read"]).request();
    let owned =
        Client { owned: [(TopicId(Uuid::nil()), SortedSet::from([1]))].into(), ..Client::new("a", &[]) };
    let cases = [
        (good().with_group_id(GroupId(text(" "))), "GroupId can't be empty."),
        (good().with_instance_id(Some(text(""))), "InstanceId can't be empty."),
        (good().with_rack_id(Some(text(""))), "RackId can't be empty."),
        (good().with_rebalance_timeout_ms(-1), "RebalanceTimeoutMs must be provided in first request."),
        (owned.request(), "TopicPartitions must be empty when (re-)joining."),
        (good().with_topic_partitions(None), "TopicPartitions must be empty when (re-)joining."),
        (
            good().with_subscribed_topic_names(None),
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        ),
        (good().with_member_epoch(-2), "InstanceId can't be null."),
        (good().with_member_epoch(-3), "MemberEpoch is invalid."),
    ];
    for (request, message) in cases {
        let response = hall.ask(request);
        assert_eq!(error(response.error_code), ErrorCode::InvalidRequest, "{message}");
        assert_eq!(response.error_message.as_deref(), Some(message));
    }
    assert_eq!(hall.room.state(), "none");
}

#[test]
fn groups_that_there_are_not_are_said_to_be_so() {
    let mut hall = Hall::new(&[("read", 4)]);
    let stay = Client { epoch: 3, ..Client::new("a", &["read"]) };
    let response = hall.ask(stay.request());
    assert_eq!(error(response.error_code), ErrorCode::GroupIdNotFound);
    assert_eq!(response.error_message.as_deref(), Some("Consumer group g not found."));
    assert_eq!(hall.error(Client { epoch: -1, ..stay }.request()), ErrorCode::GroupIdNotFound);
}

#[test]
fn refused_requests_make_no_work_for_others() {
    let settings = ConsumerSettings { size_max: 2, ..consumer_settings() };
    let mut hall = Hall::with(settings, &[("read", 4)]);
    let (mut a, mut b) = (Client::new("a", &["read"]), Client::matching("b", "re.*"));
    hall.settle(&mut [&mut a, &mut b]);
    hall.error(Client::new("c", &["read"]).request());
    hall.error(Client { epoch: 9, ..a.clone() }.request());
    hall.error(Client { is_in: false, ..Client::matching("b", "(") }.request());
    let looked = hall.topics.looked.get();
    hall.beat(&mut a);
    assert_eq!(hall.topics.looked.get(), looked, "nothing has changed");
    // What a refused request would have seen is seen by the next one.
    hall.set_topic("read", 6);
    hall.error(Client { epoch: 9, ..a.clone() }.request());
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!(a.count() + b.count(), 6);
}

#[test]
fn partitions_may_be_said_in_parts_and_not_without_end() {
    let (mut hall, mut clients) = settled(1, 4);
    let mut second = Client::new("second", &["read"]);
    hall.beat(&mut second);
    hall.beat(&mut clients[0]); // It is to let two go.
    let topic = clients[0].owned.keys().next().unwrap().0;
    let part = |indexes: Vec<i32>| TopicPartitions::default().with_topic_id(topic).with_partitions(indexes);
    let said = |topics| clients[0].request().with_topic_partitions(Some(topics));
    // It has them all still.
    let response = hall.ask(said(vec![part(vec![2, 3]), part(vec![0]), part(vec![1]), part(Vec::new())]));
    assert_eq!((response.error_code, response.member_epoch), (0, 1));
    let many = (0..GROUP_MEMBER_SIZE_MAX as i32 / 4).collect();
    let response = hall.ask(said(vec![part(many)]));
    assert_eq!(error(response.error_code), ErrorCode::InvalidRequest);
    hall.settle(&mut [&mut clients[0], &mut second]);
    // Who is no member is not listened to that long.
    let stranger = Client { id: "x".to_owned(), ..clients[0].clone() };
    assert_eq!(hall.error(stranger.request()), ErrorCode::UnknownMemberId);
}
