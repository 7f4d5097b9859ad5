use super::*;

#[test]
fn static_member_comes_back_to_what_it_had() {
    let mut hall = Hall::new(&[("read", 4)]);
    let (mut a, mut b) = (Client::named("a", "i", &["read"]), Client::new("b", &["read"]));
    hall.settle(&mut [&mut a, &mut b]);
    let (had, epoch) = (a.owned.clone(), hall.group().epoch);
    assert_eq!(hall.leave(&mut a, -2), ErrorCode::None);
    hall.beat(&mut b);
    assert_eq!((b.count(), hall.group().epoch), (2, epoch), "nobody is disturbed");
    let mut again = Client::named("again", "i", &["read"]);
    hall.beat(&mut again);
    assert_eq!((&again.owned, again.epoch, hall.group().epoch), (&had, epoch, epoch));
    assert_eq!(hall.error(Client { epoch, is_in: true, ..a }.request()), ErrorCode::FencedInstanceId);
}

#[test]
fn static_member_may_come_back_under_its_own_id() {
    let mut hall = Hall::new(&[("read", 4)]);
    let (mut a, mut b) = (Client::named("a", "i", &["read"]), Client::new("b", &["read"]));
    hall.settle(&mut [&mut a, &mut b]);
    let (had, epoch) = (a.owned.clone(), hall.group().epoch);
    hall.leave(&mut a, -2);
    hall.beat(&mut a);
    assert_eq!((&a.owned, hall.group().epoch), (&had, epoch));
    hall.settle(&mut [&mut a, &mut b]);
}

#[test]
fn instance_is_not_taken_over_while_it_is_there() {
    let mut hall = Hall::new(&[("read", 4)]);
    let mut a = Client::named("a", "i", &["read"]);
    hall.beat(&mut a);
    let response = hall.ask(Client::named("b", "i", &["read"]).request());
    assert_eq!(error(response.error_code), ErrorCode::UnreleasedInstanceId);
    assert!(response.error_message.unwrap().contains("is owned by a member"));
    hall.beat(&mut a);
}

#[test]
fn static_member_that_stays_away_loses_its_place() {
    let mut hall = Hall::new(&[("read", 4)]);
    let (mut a, mut b) = (Client::named("a", "i", &["read"]), Client::new("b", &["read"]));
    hall.settle(&mut [&mut a, &mut b]);
    hall.leave(&mut a, -2);
    hall.room.pass(40);
    hall.beat(&mut b);
    hall.room.pass(6);
    hall.settle(&mut [&mut b]);
    assert_eq!(b.count(), 4);
    // For good.
    hall.beat(&mut a);
    hall.settle(&mut [&mut a, &mut b]);
    assert_eq!(hall.leave(&mut a, -1), ErrorCode::None);
    hall.settle(&mut [&mut b]);
    assert_eq!(b.count(), 4);
}

#[test]
fn static_members_that_are_unknown_are_told_so() {
    let mut hall = Hall::new(&[("read", 4)]);
    hall.beat(&mut Client::named("a", "i", &["read"]));
    let stay = |instance| Client { epoch: 1, is_in: true, ..Client::named("b", instance, &["read"]) };
    assert_eq!(hall.error(stay("other").request()), ErrorCode::UnknownMemberId);
    assert_eq!(hall.error(stay("i").request()), ErrorCode::FencedInstanceId);
    let mut other = stay("other");
    assert_eq!(hall.leave(&mut other, -1), ErrorCode::UnknownMemberId);
    assert_eq!(hall.leave(&mut stay("i"), -2), ErrorCode::FencedInstanceId);
}

#[test]
fn group_that_is_full_takes_back_its_static_members() {
    let settings = ConsumerSettings { size_max: 1, ..consumer_settings() };
    let mut hall = Hall::with(settings, &[("read", 4)]);
    let mut a = Client::named("a", "i", &["read"]);
    hall.beat(&mut a);
    hall.leave(&mut a, -2);
    let mut again = Client::named("again", "i", &["read"]);
    hall.beat(&mut again);
    assert_eq!(again.count(), 4);
}

#[test]
fn who_joins_in_the_place_of_another_says_all_that_there_is_to_say() {
    let mut hall = Hall::new(&[("read", 1), ("matched", 1)]);
    let mut a = Client { instance: Some("i".to_owned()), ..Client::matching("a", "match.*") };
    a.assignor = Some("range".to_owned());
    hall.settle(&mut [&mut a]);
    assert_eq!(hall.leave(&mut a, -2), ErrorCode::None);
    // It names a topic, and no expression.
    let mut again = Client::named("again", "i", &["read"]);
    hall.settle(&mut [&mut again]);
    let value = &hall.group().members["again"].value;
    assert_eq!((value.regex.as_deref(), value.assignor.as_deref()), (None, None));
    assert_eq!(value.instance_id.as_deref(), Some("i"));
    assert_eq!(again.count(), 1);
    let read = hall.topics.named("read").unwrap().id;
    assert!(again.owned.contains_key(&read));
    // Heartbeats that go on say only what is new.
    let mut request = again.request();
    request.subscribed_topic_regex = Some(text("match.*"));
    let response = hall.ask(request);
    again.take(&response);
    hall.settle(&mut [&mut again]);
    assert_eq!(again.count(), 2);
}
