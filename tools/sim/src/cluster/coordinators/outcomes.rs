//! What clients have written in transactions, how these were to end, and what readers of committed records got of it.
//!
//! Every transaction has an epoch of its own (KIP-890), so that nothing of one can get into another.

use crate::cluster::settings::check;
use crate::replication::scene::Scene;
use odradek::codec::control_record::TransactionOutcome;
use odradek::txn::Writer;
use std::collections::{BTreeMap, BTreeSet};

/// A transaction as its client has it.
#[derive(Debug)]
struct Transaction {
    writer: Writer,
    /// How it was asked to end, once it was; how its client was told that it ends.
    asked: Option<TransactionOutcome>,
    told: Option<TransactionOutcome>,
    is_seen: bool,
    is_left_out: bool,
    writes: Vec<u64>,
}

struct Written {
    transaction: usize,
    is_acknowledged: bool,
    /// Where it was read, and whether it was shown.
    read: Option<(usize, bool)>,
}

/// Lives: one per seed.
#[derive(Default)]
pub struct Outcomes {
    transactions: Vec<Transaction>,
    writes: BTreeMap<u64, Written>,
    /// Who was ever told to be a producer, and the newest epoch of each.
    writers: BTreeSet<(i64, i16)>,
    newest: BTreeMap<i64, i16>,
}

impl Outcomes {
    pub fn begins(&mut self, writer: Writer) -> usize {
        let (is_seen, is_left_out, writes) = (false, false, Vec::new());
        let transaction = Transaction { writer, asked: None, told: None, is_seen, is_left_out, writes };
        self.transactions.push(transaction);
        self.transactions.len() - 1
    }

    /// Nobody else was ever told to be that one.
    pub fn is_new(&mut self, writer: Writer) -> bool {
        let newest = self.newest.entry(writer.producer.0).or_insert(writer.epoch.0);
        *newest = writer.epoch.0.max(*newest);
        self.writers.insert((writer.producer.0, writer.epoch.0))
    }

    /// Somebody else was told to be the producer since.
    pub fn is_fenced(&self, writer: Writer) -> bool {
        self.newest.get(&writer.producer.0).is_some_and(|newest| *newest > writer.epoch.0)
    }

    pub fn writes(&mut self, transaction: usize, number: u64) {
        self.transactions[transaction].writes.push(number);
        self.writes.insert(number, Written { transaction, is_acknowledged: false, read: None });
    }

    pub fn is_acknowledged(&mut self, number: u64) {
        self.writes.get_mut(&number).expect("it was written").is_acknowledged = true;
    }

    pub fn asks(&mut self, transaction: usize, outcome: TransactionOutcome) {
        self.transactions[transaction].asked = Some(outcome);
    }

    /// Of whoever commits it: whether it may be seen.
    pub fn may_be_committed(&self, number: u64) -> bool {
        self.writes.get(&number).is_some_and(|written| {
            let transaction = &self.transactions[written.transaction];
            transaction.asked == Some(TransactionOutcome::Commit)
        })
    }
}

impl Scene {
    /// A client is told how its transaction ends.
    pub fn is_told_outcome(&mut self, transaction: usize, outcome: TransactionOutcome) {
        self.world.count(match outcome {
            TransactionOutcome::Commit => "transaction: committed",
            TransactionOutcome::Abort => "transaction: aborted",
        });
        let found =
            &mut self.coordinators.as_deref_mut().expect("it has some").outcomes.transactions[transaction];
        found.told = Some(outcome);
        self.world.note(format_args!("{:?} is told {outcome:?}", found.writer));
        let is_wrong = match outcome {
            TransactionOutcome::Commit => found.is_left_out,
            TransactionOutcome::Abort => found.is_seen,
        };
        if is_wrong {
            self.world.finding(check::ONE_OUTCOME, format_args!("{found:?}"));
        }
    }

    /// A reader has come by something that was written, and was shown it or not.
    pub fn is_seen(&mut self, partition: usize, number: u64, is_visible: bool) {
        let outcomes = &mut self.coordinators.as_deref_mut().expect("it has some").outcomes;
        let Some(written) = outcomes.writes.get_mut(&number) else {
            return self.world.finding(check::COMMITTED_ONLY, format_args!("{number} in {partition}"));
        };
        let before = written.read.replace((partition, is_visible));
        let transaction = &mut outcomes.transactions[written.transaction];
        let what = format!("{number} in {partition} is shown: {is_visible}, {transaction:?}");
        match is_visible {
            true => transaction.is_seen = true,
            false => transaction.is_left_out = true,
        }
        self.world.count(match is_visible {
            true => "read: a committed record",
            false => "read: an aborted record is left out",
        });
        // A group's offset is appended once more where nobody was told that it is there.
        if before.is_some() && self.coordinated().names[&partition] != odradek::group::GROUPS_TOPIC {
            self.world.finding(check::STORED_ONCE, format_args!("{what}"));
        }
        let outcomes = &self.coordinated().outcomes;
        let transaction = &outcomes.transactions[outcomes.writes[&number].transaction];
        if transaction.is_seen && transaction.is_left_out {
            self.world.finding(check::ONE_OUTCOME, format_args!("{what}"));
        } else if is_visible && transaction.asked != Some(TransactionOutcome::Commit) {
            self.world.finding(check::COMMITTED_ONLY, format_args!("{what}"));
        } else if !is_visible && transaction.told == Some(TransactionOutcome::Commit) {
            self.world.finding(check::WHOLE, format_args!("{what}"));
        } else if is_visible && transaction.told == Some(TransactionOutcome::Abort) {
            self.world.finding(check::ONE_OUTCOME, format_args!("{what}"));
        }
    }

    /// Everything was read: of what was committed all that was acknowledged, of what was not nothing.
    pub fn check_outcomes(&self) {
        let Some(all) = &self.coordinators else { return };
        for transaction in &all.outcomes.transactions {
            let is_committed = transaction.told == Some(TransactionOutcome::Commit) || transaction.is_seen;
            let missing = transaction.writes.iter().find(|number| {
                let written = &all.outcomes.writes[number];
                let is_shown = written.read.is_some_and(|(_, is_visible)| is_visible);
                written.is_acknowledged && is_shown != is_committed
            });
            if let Some(number) = missing {
                let what = format!("{number} of {transaction:?}");
                self.world.finding(check::WHOLE, format_args!("{what}"));
            }
            self.world.count(match (transaction.asked, transaction.told) {
                (None, _) => "transaction: left behind",
                (Some(_), None) => "transaction: asked to end, nobody was told",
                (Some(_), Some(_)) => "transaction: ended",
            });
        }
    }
}
