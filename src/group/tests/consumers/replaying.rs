use super::*;
use crate::codec::consumer_record::ConsumerRecord;
use crate::codec::control_record::TransactionOutcome;
use crate::types::ProducerId;
use proptest::prelude::*;

/// A group as its records have it.
fn kept(coordinator: &Coordinator) -> Option<Vec<ConsumerRecord>> {
    let group = coordinator.groups().get(GROUP)?;
    group.consumer.as_ref().map(|consumer| consumer.records())
}

#[test]
fn members_keep_their_epochs_over_a_restart() {
    let (mut hall, mut clients) = settled(3, 6);
    let before = clients.clone();
    let epoch = hall.group().epoch;
    hall.restart();
    hall.room.pass(40);
    for client in &mut clients {
        hall.beat(client);
    }
    assert_eq!(hall.group().epoch, epoch, "nobody had to join again");
    for (client, before) in clients.iter().zip(&before) {
        assert_eq!((client.epoch, &client.owned), (before.epoch, &before.owned));
    }
    hall.room.pass(44);
    assert_eq!(hall.group().members.len(), 3, "their sessions began anew");
    hall.room.pass(2);
    assert_eq!(hall.group().members.len(), 0);
}

#[test]
fn reconciliation_goes_on_after_a_restart() {
    let (mut hall, mut clients) = settled(1, 6);
    let mut second = Client::new("second", &["read"]);
    hall.beat(&mut second);
    hall.beat(&mut clients[0]); // It is to let three go.
    hall.restart();
    hall.beat(&mut second);
    assert_eq!(second.count(), 0);
    hall.settle(&mut [&mut clients[0], &mut second]);
    assert_eq!((clients[0].count(), second.count()), (3, 3));
    let mut third = Client::new("third", &["read"]);
    hall.beat(&mut third);
    hall.beat(&mut clients[0]);
    hall.restart();
    for _ in 0..13 {
        hall.room.pass(5);
        hall.beat(&mut second);
        hall.beat(&mut third);
    }
    assert_eq!(
        hall.group().members.len(),
        2,
        "who does not let go in time is taken out, counted from the start"
    );
}

#[test]
fn record_that_was_left_behind_makes_no_group() {
    let mut hall = Hall::new(&[("read", 4)]);
    hall.beat(&mut Client::matching("a", "re.*"));
    let is_lone = |record: &&GroupRecord| match record {
        GroupRecord::Consumer(record) => {
            record.member().is_none() && !matches!(record, ConsumerRecord::Group { .. })
        }
        GroupRecord::Offset { .. } | GroupRecord::Group { .. } => false,
    };
    let lone: Vec<GroupRecord> = hall.room.log.iter().filter(is_lone).cloned().collect();
    assert!(lone.len() >= 3, "an expression, topics, an epoch: {lone:?}");
    hall.room.log = lone;
    hall.restart();
    assert!(hall.room.coordinator.groups().is_empty());
}

#[test]
fn offsets_of_an_open_transaction_outlive_an_empty_group() {
    let mut hall = Hall::new(&[("read", 4)]);
    assert_eq!(hall.room.commit("", -1, "read", 5), ErrorCode::None);
    let offset = hall.room.log.pop().unwrap();
    let epoch = |epoch| GroupRecord::Consumer(ConsumerRecord::Group { group: GROUP.to_owned(), epoch });
    for is_gone in [true, false] {
        let mut coordinator = hall.coordinator();
        // By the record that takes the group away, or because the log has no more of it.
        coordinator.apply(&epoch(Some(if is_gone { 3 } else { 0 })));
        coordinator.apply_in_transaction(ProducerId(1), &offset);
        if is_gone {
            coordinator.apply(&epoch(None));
        }
        coordinator.loaded(GROUP, hall.room.now, &mut Vec::new());
        assert!(!coordinator.is_consumer_group(GROUP));
        coordinator.transaction_ended(ProducerId(1), TransactionOutcome::Commit);
        let kept = coordinator.offsets(GROUP).and_then(|offsets| offsets.get("read", 0));
        assert_eq!(kept.map(|value| value.offset), Some(5));
    }
}

#[test]
fn log_may_end_behind_any_record() {
    let (mut hall, mut clients) = settled(2, 4);
    let mut matching = Client::matching("x", "re.*");
    hall.beat(&mut matching);
    let mut named = Client::named("named", "i", &["read"]);
    hall.beat(&mut named);
    hall.leave(&mut named, -2);
    hall.beat(&mut Client::named("again", "i", &["read"]));
    hall.leave(&mut clients[0], -1);
    for end in 0..=hall.room.log.len() {
        let mut coordinator = hall.replay(&hall.room.log[..end]);
        let mut effects = Vec::new();
        coordinator.ids_after(None, usize::MAX).iter().for_each(|id| {
            coordinator.loaded(id, hall.room.now, &mut effects);
        });
        // Whoever comes is served.
        let mut rest = Hall { topics: hall.topics.clone(), ..Hall::new(&[]) };
        rest.room.coordinator = coordinator;
        rest.room.carry_out(effects);
        rest.beat(&mut Client::new("new", &["read"]));
    }
}

#[test]
fn compaction_takes_nothing_that_matters() {
    let (mut hall, mut clients) = settled(3, 7);
    hall.leave(&mut clients[1], -1);
    hall.beat(&mut clients[0]);
    let mut last: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (at, record) in hall.room.log.iter().enumerate() {
        last.insert(record.encode_key(), at);
    }
    let is_last = |(at, record): &(usize, &GroupRecord)| last[&record.encode_key()] == *at;
    let compacted: Vec<GroupRecord> =
        hall.room.log.iter().enumerate().filter(is_last).map(|(_, record)| record.clone()).collect();
    assert!(compacted.len() < hall.room.log.len());
    let expected = kept(&hall.room.coordinator);
    assert_eq!(kept(&hall.replay(&compacted)), expected);
    // And once tombstones are gone too.
    let living: Vec<GroupRecord> =
        compacted.into_iter().filter(|record| record.encode_value().is_some()).collect();
    assert_eq!(kept(&hall.replay(&living)), expected);
}

/// What members, administrators, topics and the disk may do.
#[derive(Clone, Debug)]
enum Step {
    Beat(usize),
    Rejoin(usize),
    Leave(usize, bool),
    Grow(bool),
    DeleteTopic(bool),
    Pass(u64),
    EndWrite {
        fails: bool,
    },
    /// A little of what takes long.
    Work,
    Restart,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let member = || 0..5usize;
    prop_oneof![
        20 => member().prop_map(Step::Beat),
        2 => member().prop_map(Step::Rejoin),
        3 => (member(), any::<bool>()).prop_map(|(member, is_short)| Step::Leave(member, is_short)),
        2 => any::<bool>().prop_map(Step::Grow),
        1 => any::<bool>().prop_map(Step::DeleteTopic),
        3 => prop_oneof![1..5000u64, 1..60_000u64].prop_map(Step::Pass),
        8 => prop::bool::weighted(0.15).prop_map(|fails| Step::EndWrite { fails }),
        8 => Just(Step::Work),
        1 => Just(Step::Restart),
        1 => Just(Step::Delete),
    ]
}

struct Play {
    hall: Hall,
    clients: Vec<Client>,
    waiting: BTreeMap<Ticket, usize>,
    /// Records of the log when it was last read again.
    read: usize,
}

impl Play {
    /// `aiming_at_once_max`: of larger groups targets are made in steps.
    fn new(aiming_at_once_max: usize) -> Play {
        let settings = ConsumerSettings { aiming_at_once_max, ..consumer_settings() };
        let hall = Hall::with(settings, &[("a", 3), ("b", 2)]);
        let clients = vec![
            Client::new("0", &["a"]),
            Client::new("1", &["a", "b"]),
            Client::matching("2", "[ab]"),
            Client::named("3", "i", &["a", "b"]),
            Client { assignor: Some("range".to_owned()), ..Client::new("4", &["b"]) },
        ];
        Play { hall, clients, waiting: BTreeMap::new(), read: 0 }
    }

    /// Answers that have come: a client that is fenced gives up all that it has.
    fn take_answers(&mut self) {
        for (ticket, at) in std::mem::take(&mut self.waiting) {
            if self.hall.room.is_waiting(ticket) {
                self.waiting.insert(ticket, at);
                continue;
            }
            let Some(answer) = self.hall.room.answers.remove(&ticket) else { continue };
            let Answer::ConsumerHeartbeat(response) = answer else { panic!("{answer:?}") };
            let client = &mut self.clients[at];
            if response.error_code == 0 && response.member_epoch >= 0 {
                client.take(&response);
            } else if response.error_code != 0 && !is_retriable(error(response.error_code)) {
                (client.epoch, client.is_in, client.owned) = (0, false, Partitions::new());
            }
        }
    }

    fn is_waiting(&self, at: usize) -> bool {
        self.waiting.values().any(|waiting| *waiting == at)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Beat(at) if !self.is_waiting(at) => {
                let ticket = self.hall.send(1, self.clients[at].request());
                self.waiting.insert(ticket, at);
            }
            Step::Rejoin(at) if !self.is_waiting(at) => {
                let client = &mut self.clients[at];
                (client.epoch, client.is_in, client.owned) = (0, false, Partitions::new());
            }
            Step::Leave(at, is_short) if !self.is_waiting(at) => {
                let client = &mut self.clients[at];
                let epoch = if is_short && client.instance.is_some() { -2 } else { -1 };
                let request = Client { epoch, is_in: true, ..client.clone() }.request();
                (client.epoch, client.is_in, client.owned) = (0, false, Partitions::new());
                let ticket = self.hall.send(1, request);
                self.waiting.insert(ticket, at);
            }
            Step::Beat(_) | Step::Rejoin(_) | Step::Leave(..) => {}
            Step::Grow(is_a) => {
                let name = if is_a { "a" } else { "b" };
                let count = self.hall.topics.named(name).map_or(0, |topic| topic.partition_count);
                self.hall.set_topic(name, count + 1);
            }
            Step::DeleteTopic(is_a) => self.hall.delete_topic(if is_a { "a" } else { "b" }),
            Step::Pass(ms) => self.hall.room.pass_ms(ms),
            Step::EndWrite { fails } if !self.hall.room.writes.is_empty() => {
                let result = if fails { Err(ErrorCode::KafkaStorageError) } else { Ok(()) };
                self.hall.room.end_write(result);
            }
            Step::EndWrite { .. } => {}
            Step::Work => self.hall.room.work(),
            Step::Restart => {
                self.hall.restart();
                self.waiting.clear();
            }
            Step::Delete => {
                self.hall.room.delete_group();
            }
        }
        self.take_answers();
        self.hall.room.answers.retain(|ticket, _| self.waiting.contains_key(ticket));
    }

    /// What is in memory is what the log has, but for what is on its way.
    fn check(&mut self) {
        let is_quiet = self.hall.room.writes.is_empty() && !self.hall.room.coordinator.has_work();
        if is_quiet && self.hall.room.log.len() != self.read {
            self.read = self.hall.room.log.len();
            let memory = kept(&self.hall.room.coordinator);
            assert_eq!(memory, kept(&self.hall.replay(&self.hall.room.log)));
        }
    }

    /// A member that its coordinator knows has nothing that the coordinator does not know of.
    fn check_owned(&self) {
        let group = self.hall.room.coordinator.groups().get(GROUP);
        let Some(group) =
            group.and_then(|group| group.consumer.as_ref()).filter(|group| group.writing.is_none())
        else {
            return;
        };
        let mut seen = BTreeSet::new();
        for client in self.clients.iter().filter(|client| client.epoch > 0) {
            // Also one that has not heard of its epoch yet.
            let Some(member) = group.members.get(&*client.id) else { continue };
            for (topic, index) in
                client.owned.iter().flat_map(|(topic, all)| all.iter().map(move |i| (topic, i)))
            {
                let has = |all: &Partitions| all.get(topic).is_some_and(|all| all.contains(index));
                let known = has(&member.current.assigned) || has(&member.current.revoking);
                assert!(known, "{} has {topic:?}-{index} beside {:?}", client.id, member.current);
                assert!(seen.insert((*topic, *index)), "{topic:?}-{index} is with two");
            }
        }
    }
}

/// Errors after which a client goes on as it was.
fn is_retriable(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress | ErrorCode::CoordinatorNotAvailable
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_nobody_has_what_another_one_has_and_in_the_end_all_is_shared(
        at_once_max in prop_oneof![Just(usize::MAX), 0..20usize],
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let mut play = Play::new(at_once_max);
        play.hall.room.holds_writes = true;
        play.hall.room.holds_work = true;
        for step in steps {
            play.run(step);
            play.check();
            play.check_owned();
        }
        // The disk is well again, and everybody is there.
        play.hall.room.holds_work = false;
        play.run(Step::Work);
        while !play.hall.room.writes.is_empty() {
            play.run(Step::EndWrite { fails: false });
        }
        play.hall.room.holds_writes = false;
        play.take_answers();
        prop_assert!(play.waiting.is_empty());
        play.hall.set_topic("a", 9);
        play.hall.set_topic("b", 9);
        for _ in 0..40 {
            play.hall.room.pass_ms(1500);
            for at in 0..5 {
                play.run(Step::Beat(at));
                play.check();
                play.check_owned();
            }
        }
        prop_assert_eq!(play.hall.state(), "Stable");
        let shared: usize = play.clients.iter().map(Client::count).sum();
        prop_assert_eq!(shared, 18);
    }
}

#[test]
fn who_is_to_let_partitions_go_has_the_time_from_when_it_is_told() {
    let (mut hall, clients) = settled(1, 4);
    hall.beat(&mut Client::new("new", &["read"]));
    // Heartbeats come in before all groups have been seen to.
    hall.room.coordinator = hall.replay(&hall.room.log);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, clients[0].request().with_rebalance_timeout_ms(10_000));
    hall.room.decide(|coordinator, now, effects| coordinator.loaded(GROUP, now, effects));
    hall.room.pass_ms(1000);
    hall.room.holds_writes = false;
    hall.room.end_write(Ok(()));
    assert_eq!(hall.answered(ticket).error_code, 0);
    hall.room.pass_ms(9999);
    let is_in = |hall: &Hall| hall.group().members.contains_key(&*clients[0].id);
    assert!(is_in(&hall));
    hall.room.pass_ms(1);
    assert!(!is_in(&hall));
}
