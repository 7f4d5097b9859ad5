//! Groups so large that targets are made in steps.

use super::*;

/// Any group is large.
fn large(topics: &[(&str, i32)]) -> Hall {
    Hall::with(ConsumerSettings { aiming_at_once_max: 0, ..consumer_settings() }, topics)
}

/// Twenty join, one leaves: how many partitions the others have.
fn sizes_after_one_has_left(hall: &mut Hall, assignor: &str) -> Vec<usize> {
    let topics = |n: usize| if n.is_multiple_of(3) { &["read"][..] } else { &["read", "other"][..] };
    let mut clients: Vec<Client> = (0..20).map(|n| Client::new(&format!("m{n:02}"), topics(n))).collect();
    clients.iter_mut().for_each(|client| client.assignor = Some(assignor.to_owned()));
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    let mut gone = clients.pop().expect("there are some");
    assert_eq!(hall.leave(&mut gone, -1), ErrorCode::None);
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    clients.iter().map(Client::count).collect()
}

#[test]
fn members_of_large_groups_get_there_as_others_do() {
    for assignor in ["uniform", "range"] {
        let topics = [("read", 50), ("other", 7)];
        let in_steps = sizes_after_one_has_left(&mut large(&topics), assignor);
        assert_eq!(in_steps.iter().sum::<usize>(), 57);
        assert_eq!(in_steps, sizes_after_one_has_left(&mut Hall::new(&topics), assignor));
    }
}

#[test]
fn who_comes_while_targets_are_made_waits_for_them() {
    let mut hall = large(&[("read", 20)]);
    hall.room.holds_work = true;
    let first = hall.send(1, Client::new("a", &["read"]).request());
    assert!(hall.room.is_waiting(first) && hall.room.coordinator.has_work());
    assert_eq!(hall.group().members.len(), 1, "who it is has been kept");
    let second = hall.send(1, Client::new("b", &["read"]).request());
    let deletion = hall.room.delete_group();
    let mut steps = 0;
    while hall.room.is_waiting(first) {
        assert!(hall.room.is_waiting(second) && hall.room.is_waiting(deletion));
        hall.room.work();
        steps += 1;
    }
    assert!(steps > 1, "{steps}");
    let response = hall.answered(first);
    assert_eq!((error(response.error_code), response.member_epoch), (ErrorCode::None, 1));
    while hall.room.coordinator.has_work() {
        hall.room.work();
    }
    assert_eq!(hall.answered(second).member_epoch, 2);
    assert_eq!(hall.room.deleted(deletion), ErrorCode::NonEmptyGroup);
}

#[test]
fn targets_that_are_not_kept_are_made_again() {
    let mut hall = large(&[("read", 20)]);
    let mut a = Client::new("a", &["read"]);
    hall.beat(&mut a);
    hall.room.holds_writes = true;
    let mut b = Client::new("b", &["read"]);
    let ticket = hall.send(1, b.request());
    hall.room.end_write(Ok(())); // Who it is.
    assert!(hall.room.is_waiting(ticket));
    let again = hall.send(1, a.request());
    hall.room.end_write(Err(ErrorCode::KafkaStorageError)); // The targets.
    assert_eq!(error(hall.answered(ticket).error_code), ErrorCode::NotCoordinator);
    assert!(hall.room.is_waiting(again), "they are made for the next one");
    hall.room.holds_writes = false;
    hall.room.end_write(Ok(()));
    let response = hall.answered(again);
    a.take(&response);
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.count(), b.count()), (10, 10));
}

#[test]
fn who_cannot_be_kept_is_told_before_targets_are_made() {
    let mut hall = large(&[("read", 20)]);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, Client::new("a", &["read"]).request());
    hall.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(hall.answered(ticket).error_code), ErrorCode::NotCoordinator);
    assert!(!hall.room.coordinator.has_work());
    assert_eq!(hall.room.state(), "none");
}

#[test]
fn a_log_that_ends_before_the_targets_has_them_made_by_who_asks_next() {
    let mut hall = large(&[("read", 20)]);
    let mut a = Client::new("a", &["read"]);
    hall.beat(&mut a);
    hall.room.holds_work = true;
    let mut b = Client::new("b", &["read"]);
    let ticket = hall.send(1, b.request());
    assert!(hall.room.is_waiting(ticket));
    hall.room.decide(|coordinator, now, effects| coordinator.resign(now, effects));
    assert_eq!(error(hall.answered(ticket).error_code), ErrorCode::NotCoordinator);
    hall.room.holds_work = false;
    hall.restart();
    assert!(hall.group().epoch > hall.group().target_epoch);
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.count(), b.count()), (10, 10));
}

#[test]
fn instance_of_who_was_kept_and_told_otherwise_is_free() {
    let mut hall = large(&[("read", 4)]);
    let mut other = Client::new("other", &["read"]);
    let mut first = Client::named("first", "i", &["read"]);
    hall.settle(&mut [&mut other, &mut first]);
    let had = first.owned.clone();
    hall.leave(&mut first, -2);
    // Who comes back is given an id, which it never learns of.
    let anew = Client::named("", "i", &["read"]).request();
    hall.room.holds_writes = true;
    hall.set_topic("read", 6);
    let refused = hall.send(0, anew.clone());
    hall.room.end_write(Ok(())); // Who it is.
    assert!(hall.room.is_waiting(refused));
    hall.room.end_write(Err(ErrorCode::NotEnoughReplicas)); // The targets.
    assert_eq!(error(hall.answered(refused).error_code), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(hall.group().members.len(), 2, "who it is has been kept");
    hall.room.holds_writes = false;
    let again = hall.send(0, anew);
    let response = hall.answered(again);
    assert_eq!(error(response.error_code), ErrorCode::None);
    let mut second = Client::named(response.member_id.as_deref().unwrap_or_default(), "i", &["read"]);
    second.take(&response);
    assert!(
        had.iter().all(|(topic, all)| second.owned.get(topic).is_some_and(|now| all.is_subset(now))),
        "{second:?}"
    );
    hall.settle(&mut [&mut other, &mut second]);
    assert_eq!((other.count(), second.count()), (3, 3));
    // Now it is told that it is in.
    let third = Client::named("third", "i", &["read"]);
    assert_eq!(hall.error(third.request()), ErrorCode::UnreleasedInstanceId);
}
