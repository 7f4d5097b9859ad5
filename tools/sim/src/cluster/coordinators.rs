//! Coordinators of groups and of transactions in a cluster: whoever leads the partition with their state is the
//! coordinator, and they fail over with it.
//!
//! ```text
//! clients ─ calls ─► node that leads: Coordinator ─► records ─► its log ─► followers ─► high watermark ─► finished
//!                      ▲ loads its log up to the high watermark, once it knows that       │
//!                      └── leads under a new epoch      transactions: markers ─► leaders of other partitions
//! ```
//!
//! They are the product's own, as are the logs that judge what is appended to them: `odradek::group`, `odradek::txn` and
//! `odradek::log::partition`. Their batches are the product's too; replicas carry them as what a batch says.
//!
//! | module | what it is |
//! |---|---|
//! | [`topics`] | the topics that there are for them, made before anything goes wrong |
//! | [`logs`] | what leaders have of transactions in their logs; appends, and their ends |
//! | [`serving`] | coordinators that load, decide and resign |
//! | [`calls`] | clients that ask nodes, nodes that ask each other, and what is lost of it |
//! | [`requests`] | requests of all kinds, as a node takes them |
//! | [`marking`] | markers of transactions that are decided, into partitions that other nodes lead |
//! | [`produce`] | what is written in transactions |
//! | [`consumers`], [`members`] | who commits offsets, and looks at them; as a member of a group |
//! | [`producers`], [`readers`] | who writes in transactions, and who reads what was committed |
//! | [`watch`], [`outcomes`] | what is expected of groups and of transactions, and the checks |
//!
//! Absent: that these topics are deleted, compacted, or led uncleanly; the classic protocol and the first version of
//! transactions, which the simulations of single coordinators have.

pub mod calls;
pub mod consumers;
pub mod logs;
pub mod marking;
pub mod members;
pub mod outcomes;
pub mod produce;
pub mod producers;
pub mod readers;
pub mod requests;
pub mod serving;
pub mod topics;
pub mod watch;

use crate::cluster::coordinators::calls::Calls;
use crate::cluster::coordinators::consumers::Consumer;
use crate::cluster::coordinators::logs::Logs;
use crate::cluster::coordinators::marking::Markings;
use crate::cluster::coordinators::outcomes::Outcomes;
use crate::cluster::coordinators::producers::Producer;
use crate::cluster::coordinators::readers::Reader;
use crate::cluster::coordinators::serving::Serving;
use crate::cluster::coordinators::topics::WRITTEN_TOPICS;
use crate::cluster::coordinators::watch::Watch;
use crate::cluster::settings::Mistake;
use crate::replication::scene::Scene;
use odradek::group::GROUPS_TOPIC;
use odradek::types::Timestamp;
use std::collections::BTreeMap;

/// What is to be done with something, once it is there.
pub type Then<T> = Box<dyn FnOnce(&mut Scene, T)>;

/// Lives: one per seed.
#[derive(Default)]
pub struct Coordinators {
    /// Of the topics, by their partitions.
    pub names: BTreeMap<usize, String>,
    pub logs: Logs,
    pub serving: Serving,
    pub calls: Calls,
    pub markings: Markings,
    /// The last producer id that was given out.
    pub next_producer: i64,
    pub consumers: Vec<Consumer>,
    pub producers: Vec<Producer>,
    pub readers: Vec<Reader>,
    pub watch: Watch,
    pub outcomes: Outcomes,
}

impl Coordinators {
    pub fn partition_named(&self, name: &str) -> Option<usize> {
        self.names.iter().find(|(_, known)| *known == name).map(|(partition, _)| *partition)
    }
}

impl Scene {
    pub fn coordinators(&mut self) -> &mut Coordinators {
        self.coordinators.as_mut().expect("the cluster has some")
    }

    /// The same, to look at.
    pub fn coordinated(&self) -> &Coordinators {
        self.coordinators.as_ref().expect("the cluster has some")
    }

    /// It is one of those that there are for coordinators.
    pub fn is_coordinated(&self, partition: usize) -> bool {
        self.coordinators.as_ref().is_some_and(|all| all.names.contains_key(&partition))
    }

    pub fn partition_named(&self, name: &str) -> usize {
        self.coordinated().partition_named(name).expect("it was made before clients came")
    }

    pub fn wall(&self) -> Timestamp {
        Timestamp(self.world.wall_ms())
    }

    pub fn errs(&self, mistake: Mistake) -> bool {
        self.metadata.as_ref().is_some_and(|metadata| metadata.makes(mistake))
    }

    /// Clients come.
    pub fn use_coordinators(&mut self) {
        if self.coordinators.is_some() {
            self.start_consumers();
            self.start_producers();
            let mut read: Vec<usize> = WRITTEN_TOPICS.iter().map(|name| self.partition_named(name)).collect();
            read.push(self.partition_named(GROUPS_TOPIC));
            self.start_readers(&read);
        }
    }

    /// Every client has come to its end, and knows what became of what it has asked for.
    pub fn are_coordinators_quiet(&self) -> bool {
        self.coordinators.as_ref().is_none_or(|all| {
            all.consumers.iter().all(Consumer::is_done)
                && all.producers.iter().all(Producer::is_done)
                && self.have_readers_read()
        })
    }

    pub fn what_coordinators_lack(&self) -> String {
        let Some(all) = &self.coordinators else { return String::new() };
        let lacking: Vec<&Consumer> = all.consumers.iter().filter(|consumer| !consumer.is_done()).collect();
        let writing: Vec<&Producer> = all.producers.iter().filter(|producer| !producer.is_done()).collect();
        format!("; {:?}, {lacking:?}, {writing:?}, {:?}", all.names, all.readers)
    }
}
