use super::*;
use crate::group::consumer::rebalance::Resolved;
use crate::group::coordinator::ToResolve;
use crate::types::limits::{GROUP_REGEX_TOPICS_AT_ONCE_MAX, GROUP_REGEXES_AT_ONCE_MAX};

#[test]
fn topics_that_match_are_read() {
    let mut hall = Hall::new(&[("orders-eu", 2), ("orders-us", 1), ("reorders-x", 5)]);
    let mut client = Client::matching("a", "orders-.*");
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (1, 3));
}

#[test]
fn topics_that_come_and_go_are_noticed() {
    let mut hall = Hall::new(&[("orders-eu", 2)]);
    let (mut a, mut b) = (Client::matching("a", "orders-.*"), Client::matching("b", "orders-.*"));
    hall.settle(&mut [&mut a, &mut b]);
    let epoch = hall.group().epoch;
    hall.set_topic("orders-us", 4);
    hall.beat(&mut a);
    assert_eq!(hall.group().epoch, epoch, "not more often than once in a second");
    hall.room.pass(1);
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.count() + b.count(), hall.group().epoch), (6, epoch + 1));
    hall.room.pass(1);
    hall.delete_topic("orders-eu");
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.count(), b.count()), (2, 2));
    hall.set_topic("other", 1);
    hall.room.pass(1);
    let epoch = hall.group().epoch;
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!(hall.group().epoch, epoch);
}

#[test]
fn names_and_expressions_go_together() {
    let mut hall = Hall::new(&[("orders-eu", 2), ("orders-us", 1), ("other", 1)]);
    let mut both = Client { topics: vec!["other".to_owned()], ..Client::matching("a", "orders-us") };
    let mut names = Client::new("b", &["orders-eu", "orders-us"]);
    hall.settle(&mut [&mut both, &mut names]);
    assert_eq!(both.count() + names.count(), 4);
    both.regex = Some(String::new()); // None any more.
    both.is_in = false;
    hall.settle(&mut [&mut both, &mut names]);
    assert_eq!((both.count(), names.count(), hall.group().regexes.len()), (1, 3, 0));
}

#[test]
fn what_is_no_expression_is_refused() {
    let mut hall = Hall::new(&[("orders-eu", 2)]);
    let response = hall.ask(Client::matching("a", "orders-(").request());
    assert_eq!(error(response.error_code), ErrorCode::InvalidRegularExpression);
    let message = "SubscribedTopicRegex `orders-(` is not a valid regular expression: unclosed group.";
    assert_eq!(response.error_message.as_deref(), Some(message));
    assert_eq!(hall.room.state(), "none");
    let mut client = Client::matching("a", "orders-.*");
    hall.beat(&mut client);
    client.regex = Some("*".to_owned());
    client.is_in = false;
    assert_eq!(hall.error(client.request()), ErrorCode::InvalidRegularExpression);
    assert_eq!(hall.group().members["a"].value.regex.as_deref(), Some("orders-.*"));
}

/// So many that the shell looks at them in its own time.
fn crowded() -> Hall {
    let mut hall = Hall::new(&[("orders-eu", 2), ("orders-us", 1)]);
    for number in 0..GROUP_REGEX_TOPICS_AT_ONCE_MAX {
        hall.set_topic(&format!("t{number}"), 1);
    }
    hall
}

fn asked(hall: &mut Hall) -> Option<ToResolve> {
    hall.room.coordinator.next_to_resolve()
}

fn resolve(hall: &mut Hall, asked: &ToResolve, topics: &[&str]) {
    let topics: BTreeSet<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let resolved: Resolved = asked.regexes.iter().map(|regex| (regex.clone(), topics.clone())).collect();
    hall.room.decide(|coordinator, now, effects| {
        coordinator.resolved(&asked.group, asked.version, resolved, now, effects);
    });
}

#[test]
fn many_topics_are_looked_at_by_the_shell() {
    let mut hall = crowded();
    let mut client = Client::matching("a", "orders-.*");
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (1, 0), "it is in, and what matches is not known yet");
    let first = asked(&mut hall).unwrap();
    assert_eq!(first.regexes, ["orders-.*"]);
    hall.beat(&mut client);
    assert_eq!(asked(&mut hall), None, "it is asked for once");
    resolve(&mut hall, &first, &["orders-eu", "orders-us"]);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (2, 3));
    hall.room.pass(1);
    hall.set_topic("orders-asia", 1);
    hall.beat(&mut client);
    let second = asked(&mut hall).unwrap();
    resolve(&mut hall, &second, &["orders-eu", "orders-us", "orders-asia"]);
    hall.beat(&mut client);
    assert_eq!((client.epoch, client.count()), (3, 4));
    assert_eq!(asked(&mut hall), None);
}

#[test]
fn many_expressions_are_looked_at_by_the_shell() {
    let mut hall = Hall::new(&[("orders-eu", 2), ("orders-us", 1)]);
    let count = GROUP_REGEXES_AT_ONCE_MAX + 1;
    let mut clients: Vec<Client> =
        (0..count).map(|n| Client::matching(&format!("m{n}"), &format!("orders-.{{{n},}}"))).collect();
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    assert_eq!(asked(&mut hall), None, "one at a time they are few");
    // After a restart none of them has been held against anything.
    hall.restart();
    hall.beat(&mut clients[0]);
    assert_eq!(asked(&mut hall).unwrap().regexes.len(), count);
    // Few of them against many topics are many names too.
    let mut hall = Hall::new(&[("orders-eu", 2)]);
    for number in 0..GROUP_REGEX_TOPICS_AT_ONCE_MAX / 2 {
        hall.set_topic(&format!("t{number}"), 1);
    }
    let (mut a, mut b) = (Client::matching("a", "o.*"), Client::matching("b", "or.*"));
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!(asked(&mut hall), None);
    hall.restart();
    hall.beat(&mut a);
    assert_eq!(asked(&mut hall).unwrap().regexes, ["o.*", "or.*"]);
}

#[test]
fn what_the_shell_finds_waits_for_its_turn_and_may_come_too_late() {
    let mut hall = crowded();
    let mut client = Client::matching("a", "orders-.*");
    hall.beat(&mut client);
    let first = asked(&mut hall).unwrap();
    hall.room.holds_writes = true;
    let joining = hall.send(1, Client::matching("b", "orders-.*").request());
    resolve(&mut hall, &first, &["orders-eu"]);
    hall.room.end_write(Ok(()));
    assert_eq!(hall.answered(joining).error_code, 0);
    hall.room.end_write(Ok(()));
    hall.room.holds_writes = false;
    assert_eq!(hall.group().regexes["orders-.*"].topics.len(), 1);
    hall.leave(&mut client, -1);
    hall.leave(&mut Client::new("b", &[]), -1);
    assert!(hall.group().regexes.is_empty());
    resolve(&mut hall, &first, &["orders-eu"]);
    assert!(hall.group().regexes.is_empty(), "nobody subscribes by it any more");
}

#[test]
fn what_the_shell_leaves_is_asked_for_again() {
    let mut hall = crowded();
    let (mut a, mut b) = (Client::matching("a", "orders-e.*"), Client::matching("b", "orders-u.*"));
    hall.beat(&mut a);
    hall.beat(&mut b);
    let first = asked(&mut hall).unwrap();
    assert_eq!(first.regexes, ["orders-e.*"]);
    resolve(&mut hall, &first, &["orders-eu"]);
    hall.beat(&mut a);
    let second = asked(&mut hall).unwrap();
    assert_eq!(second.regexes, ["orders-u.*"]);
    resolve(&mut hall, &second, &["orders-us"]);
    hall.settle(&mut [&mut a, &mut b]);
    // Of both one is left, also if nothing of the other one has changed.
    hall.set_topic("orders-uk", 1);
    hall.room.pass(1);
    hall.beat(&mut a);
    let mut both = asked(&mut hall).unwrap();
    assert_eq!(both.regexes.len(), 2);
    both.regexes.pop();
    resolve(&mut hall, &both, &["orders-eu"]);
    hall.room.pass(1);
    hall.beat(&mut a);
    let left = asked(&mut hall).unwrap();
    assert_eq!(left.regexes, ["orders-u.*"]);
    resolve(&mut hall, &left, &["orders-us", "orders-uk"]);
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.count(), b.count()), (2, 2));
    assert_eq!(asked(&mut hall), None);
}

#[test]
fn what_cannot_be_kept_is_not_looked_for_all_the_time() {
    let mut hall = crowded();
    let mut client = Client::matching("a", "orders-.*");
    hall.beat(&mut client);
    let first = asked(&mut hall).unwrap();
    hall.room.holds_writes = true;
    resolve(&mut hall, &first, &["orders-eu"]);
    hall.room.end_write(Err(ErrorCode::MessageTooLarge));
    hall.room.holds_writes = false;
    hall.beat(&mut client);
    assert_eq!(asked(&mut hall), None);
    hall.room.pass(1);
    hall.beat(&mut client);
    let second = asked(&mut hall).unwrap();
    resolve(&mut hall, &second, &["orders-eu"]);
    hall.beat(&mut client);
    assert_eq!((client.count(), asked(&mut hall)), (2, None));
}
