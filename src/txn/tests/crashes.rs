//! Whatever the moment of a crash, a transaction ends in one way in all of its partitions.

use super::*;
use proptest::prelude::*;

/// Everything that a partition of the model has seen: epochs only rise, and every transaction that was open
/// ends once. As `log::producers` judges, for one producer.
#[derive(Clone, Debug, Default)]
struct Partition {
    producer: i64,
    epoch: i16,
    is_open: bool,
    ends: Vec<TransactionOutcome>,
}

impl Partition {
    fn begin(&mut self, writer: Writer) {
        (self.producer, self.epoch, self.is_open) = (writer.producer.0, writer.epoch.0, true);
    }

    fn mark(&mut self, marker: &EndMarker) {
        if marker.producer.0 == self.producer {
            assert!(marker.producer_epoch.0 >= self.epoch, "a marker that comes late");
            self.epoch = marker.producer_epoch.0;
            if std::mem::take(&mut self.is_open) {
                self.ends.push(marker.outcome);
            }
        }
    }
}

/// One transaction with three partitions, cut off behind each of its records and between any two markers.
#[test]
fn a_crash_at_any_record_ends_in_one_outcome() {
    for version in [V1, V2] {
        for outcome in [COMMIT, ABORT] {
            for (crash, marked) in (0..8).flat_map(|crash| (0..4).map(move |marked| (crash, marked))) {
                let mut cluster = Cluster::new();
                let producer = cluster.init().unwrap();
                cluster.send_add(version, producer, &[("t", 0), ("t", 1), ("t", 2)]);
                cluster.settle();
                let mut partitions = vec![Partition::default(); 3];
                partitions.iter_mut().for_each(|partition| partition.begin(producer));
                let end = cluster.send_end(version, producer, outcome);
                // Records of what follows: prepared, complete.
                let mut told = None;
                let mut records = 0;
                while records < crash && cluster.write_one() {
                    records += 1;
                    told = told.or_else(|| cluster.answers.contains_key(&end).then(|| cluster.told(end)));
                    if let Some(marking) = cluster.markings.front() {
                        let some = if records + 1 < crash { 3 } else { marked };
                        partitions[..some].iter_mut().for_each(|partition| partition.mark(&marking.marker));
                        if some == 3 {
                            cluster.mark_one();
                        }
                    }
                }
                // The coordinator is gone; another one does the rest.
                cluster.markers.clear();
                cluster.restart();
                cluster.settle();
                for (index, partition) in (0..).zip(&mut partitions) {
                    let name = format!("t-{index}");
                    let written = cluster.markers.iter().filter(|(partition, _)| *partition == name);
                    written.for_each(|(_, marker)| partition.mark(marker));
                }
                let what = format!("{version:?} {outcome:?} after {crash} records, {marked} markers");
                if records == 0 {
                    assert_eq!(cluster.state(), TransactionState::Ongoing, "{what}");
                    assert!(partitions.iter().all(|partition| partition.is_open), "{what}");
                    cluster.pass(Duration::from_secs(3600));
                    cluster.settle();
                    assert_eq!(cluster.state(), TransactionState::CompleteAbort, "{what}");
                    continue;
                }
                assert!(told.is_some_and(|told| told.is_ok()), "{what}: it was decided");
                for partition in &partitions {
                    assert_eq!(partition.ends, [outcome], "{what}");
                    assert!(!partition.is_open, "{what}");
                }
                let next = match version {
                    V1 => producer,
                    V2 => writer(100, 1),
                };
                assert_eq!(cluster.add(version, next, 0), Ok(()), "{what}: the next one begins");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Init(bool),
    Add(TransactionVersion, i16, i32),
    End(TransactionVersion, i16, TransactionOutcome),
    Write,
    FailWrite,
    /// One partition, of one of those that are decided; the answer may be lost.
    Mark(usize, bool),
    Crash,
    /// What was decided before the crash goes on, whatever was asked meanwhile.
    Load,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let version = || prop_oneof![Just(V1), Just(V2)];
    let outcome = prop_oneof![Just(COMMIT), Just(ABORT)];
    prop_oneof![
        1 => any::<bool>().prop_map(Step::Init),
        4 => (version(), 0..2i16, 0..3i32).prop_map(|(version, back, partition)| Step::Add(version, back, partition)),
        3 => (version(), 0..2i16, outcome).prop_map(|(version, back, outcome)| Step::End(version, back, outcome)),
        8 => Just(Step::Write),
        1 => Just(Step::FailWrite),
        8 => (0..3usize, prop::bool::weighted(0.8)).prop_map(|(marking, is_heard)| Step::Mark(marking, is_heard)),
        1 => Just(Step::Crash),
        1 => Just(Step::Load),
        1 => (0..40_000u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Any requests, of the producer and of those before it, with writes that end late or fail, markers that
    /// are written twice, and crashes: each partition's epochs rise, and all partitions of a transaction end
    /// as the record says that decided it. Some begin where the epochs of the producer are about to be used up.
    #[test]
    fn transactions_end_in_one_way_whatever_comes(
        seed in prop_oneof![2 => Just(None), 1 => (i16::MAX - 4..i16::MAX).prop_map(Some)],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut cluster = seed.map_or_else(Cluster::new, Cluster::with_epoch);
        let mut partitions = vec![Partition::default(); 3];
        let mut newest = seed.map_or(writer(-1, -1), |epoch| writer(100, epoch));
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut adding: Vec<(Ticket, Writer, usize)> = Vec::new();
        for step in steps {
            let asking = |back: i16| Writer { epoch: ProducerEpoch(newest.epoch.0 - back), ..newest };
            match step {
                Step::Init(expects) => {
                    let expected = (expects && newest.epoch.0 >= 0).then_some(newest);
                    tickets.push(cluster.send_init(Init { timeout_ms: TIMEOUT_MS, expected }));
                }
                Step::Add(version, back, partition) => {
                    let ticket = cluster.send_add(version, asking(back), &[("t", partition)]);
                    adding.push((ticket, asking(back), partition as usize));
                }
                Step::End(version, back, outcome) => {
                    tickets.push(cluster.send_end(version, asking(back), outcome));
                }
                Step::Write => {
                    cluster.write_one();
                }
                Step::FailWrite => {
                    cluster.write_result = Err(ErrorCode::KafkaStorageError);
                    cluster.write_one();
                    cluster.write_result = Ok(());
                }
                Step::Mark(at, is_heard) => {
                    let value = cluster.coordinator.describe("id").cloned();
                    if let Some((partition, marker)) = cluster.mark_next(at, is_heard) {
                        if partitions[partition].is_open && partitions[partition].producer == marker.producer.0 {
                            let decided = value.map(|value| value.state);
                            prop_assert!(decided.is_some_and(|state| state.is_prepared()), "{:?}", marker);
                        }
                        partitions[partition].mark(&marker);
                    }
                    prop_assert!(cluster.markings.len() < 2, "they are written once at a time");
                }
                Step::Crash => {
                    cluster.read_again();
                    tickets.clear();
                    adding.clear();
                }
                Step::Load => cluster.load(),
                Step::Pass(ms) => cluster.pass(Duration::from_millis(ms)),
            }
            for ticket in &tickets {
                if let Some(Answer::Writer(Ok(told))) = cluster.answers.get(ticket) {
                    let is_newer = (told.producer, told.epoch) > (newest.producer, newest.epoch);
                    newest = if is_newer { *told } else { newest };
                }
            }
            // A batch is appended once its partition is part of the transaction, and while it is.
            adding.retain(|(ticket, writer, partition)| match cluster.answers.get(ticket) {
                None => true,
                Some(Answer::Added(Ok(()))) => {
                    let is_current = cluster.coordinator.verify("id", *writer, "t", *partition as i32);
                    if is_current.is_ok() {
                        partitions[*partition].begin(*writer);
                    }
                    false
                }
                Some(_) => false,
            });
        }
        // Everything comes to its end.
        cluster.load();
        cluster.settle();
        let mark = |cluster: &mut Cluster, partitions: &mut Vec<Partition>| {
            for (name, marker) in std::mem::take(&mut cluster.markers) {
                partitions[name[2..].parse::<usize>().unwrap()].mark(&marker);
            }
        };
        mark(&mut cluster, &mut partitions);
        if cluster.coordinator.count() > 0 {
            cluster.pass(Duration::from_secs(3600));
            cluster.settle();
            mark(&mut cluster, &mut partitions);
            prop_assert!(partitions.iter().all(|partition| !partition.is_open), "{partitions:?}");
            prop_assert!(!cluster.value().state.is_prepared());
        }
        // The log alone says the same.
        let described = cluster.coordinator.describe("id").cloned();
        cluster.restart();
        prop_assert_eq!(cluster.coordinator.describe("id").cloned(), described);
        prop_assert!(cluster.markings.is_empty());
    }
}
