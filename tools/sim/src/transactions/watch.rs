//! What is expected of transactions, told by what goes in and comes out of the broker, and the checks.
//!
//! | module | what it knows |
//! |---|---|
//! | [`ids`] | transactional ids: what is in the log of their coordinators, and what producers were told |
//! | [`records`] | what clients have written, in which of their transactions, and what readers get of it |
//!
//! A client's transaction has a [`Tag`]. The broker knows nothing of tags: in version 2 a transaction has an epoch
//! of its own, which no late request of another one has; in version 1 a late request can end the transaction that
//! came after its own, or open one again, and no broker can tell. Of such a transaction less is expected.

pub mod ids;
pub mod records;

use crate::transactions::partition::{Content, Partition, Stored};
use crate::transactions::request::{Reply, Request, Tag};
use crate::transactions::settings::{Settings, check};
use crate::transactions::watch::ids::Ids;
use crate::transactions::watch::records::Records;
use crate::world::World;
use crate::writes::WriteEnd;
use odradek::codec::control_record::{EndMarker, TransactionOutcome};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::transaction_record::TransactionRecord;
use odradek::txn::coordinator::Coordinator;
use odradek::txn::transaction::{Addition, End, Init};
use odradek::txn::{WriteId, Writer};
use odradek::types::TransactionVersion;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What has led to a decision.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    Init(Init),
    End(End),
    Add(Writer),
    WriteEnded,
    Marked,
    Time,
    Loaded,
    Nothing,
}

/// A write of a coordinator, among those of all runs of all coordinators.
pub type WriteKey = ((usize, u64), WriteId);

/// What was known when a request came.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Its sender was fenced.
    is_fenced: bool,
    /// Its sender is the producer of the id, as the log has it.
    is_current: bool,
}

/// Lives: one per seed.
pub struct Watch {
    world: Rc<World>,
    is_strict: bool,
    ids: Ids,
    pub records: Records,
    /// Of the request that is being looked at.
    tag: Option<Tag>,
}

impl Watch {
    pub fn new(world: Rc<World>, settings: Settings) -> Watch {
        Watch {
            ids: Ids::new(world.clone(), settings),
            records: Records::new(world.clone(), settings.verifies),
            world,
            is_strict: settings.verifies,
            tag: None,
        }
    }

    // --- Requests

    pub fn arrived(&mut self, request: &Request) -> Asked {
        let (id, tag, writer) = match request {
            Request::Init { id, init } => (id, None, init.expected),
            Request::AddPartitions { id, tag, writer, .. } | Request::AddOffsets { id, tag, writer } => {
                (id, *tag, Some(*writer))
            }
            Request::End { id, tag, end } => (id, *tag, Some(end.writer)),
            Request::Write { id, write } => (id, write.tag, Some(write.writer)),
            Request::Mark { marker, .. } => {
                self.records.marked(marker);
                return Asked::default();
            }
            Request::FetchOffsets { .. } | Request::Describe { .. } | Request::List { .. } => {
                return Asked::default();
            }
        };
        self.tag = tag;
        let Some(writer) = writer else { return Asked::default() };
        Asked { is_fenced: self.ids.is_fenced(id, writer), is_current: self.ids.is_current(id, writer) }
    }

    pub fn answered(&mut self, request: &Request, asked: &Asked, reply: &Reply) {
        let refused = reply.error();
        let is_fencing =
            matches!(refused, Some(ErrorCode::ProducerFenced | ErrorCode::InvalidProducerIdMapping));
        let is_sudden = matches!(request, Request::Init { .. } | Request::End { .. });
        if is_fencing && is_sudden && asked.is_current {
            let what = format!("{} with {refused:?}", request.summary());
            self.world.finding(check::REASON, format_args!("{what}"));
        }
        if refused.is_some() {
            return;
        }
        let changes = matches!(
            request,
            Request::End { .. } | Request::AddPartitions { .. } | Request::AddOffsets { .. }
        );
        if changes && asked.is_fenced {
            let what = format!("{} is answered {reply:?}", request.summary());
            self.world.finding(check::FENCED, format_args!("{what}"));
        }
        match (request, reply) {
            (Request::Init { id, init }, Reply::Writer(Ok(writer))) => {
                self.ids.told_by_init(id, init.expected, *writer);
            }
            (Request::End { id, tag, end }, Reply::Writer(Ok(writer))) => {
                if end.version == TransactionVersion::V2 {
                    self.ids.told_by_end(id, end.writer, *writer);
                }
                if let Some(tag) = tag {
                    self.records.told(*tag, end.outcome);
                }
            }
            (Request::Write { write, .. }, Reply::Done(Ok(()))) => self.records.acknowledged(write.number),
            _ => {}
        }
    }

    // --- Coordinators

    pub fn seeded(&mut self, record: &TransactionRecord) {
        self.ids.seeded(record);
    }

    pub fn written(&mut self, write: WriteKey, record: &TransactionRecord, cause: Cause) {
        let is_end = record.value.as_ref().is_some_and(|value| value.state.is_prepared());
        if let (Cause::End(end), Some(tag), true) = (cause, self.tag, is_end) {
            self.records.ends(tag, &end);
        }
        if let Cause::Add(writer) = cause {
            self.records.adds(writer);
        }
        self.ids.written(write, record, cause);
    }

    pub fn ended(&mut self, write: WriteKey, end: WriteEnd) {
        self.ids.ended(write, end);
    }

    pub fn added(&mut self, id: &str, addition: &Addition) {
        self.ids.check_added(id, addition);
    }

    /// In one run exactly what is kept is described and listed.
    pub fn look(&self, index: usize, coordinator: &Coordinator) {
        self.ids.look(index, coordinator);
    }

    pub fn restarted(
        &mut self,
        index: usize,
        coordinator: &Coordinator,
        latest: &BTreeMap<Vec<u8>, TransactionRecord>,
    ) {
        self.ids.restarted(index, coordinator, latest);
    }

    pub fn newest_writer(&self, id: &str) -> Option<Writer> {
        self.ids.newest_writer(id)
    }

    /// No id is kept any more.
    pub fn has_ids(&self) -> bool {
        self.ids.has_any()
    }

    // --- Partitions

    /// A batch is about to be appended.
    pub fn appended(&mut self, partition: &Partition, writer: Option<Writer>, content: &Content) {
        let Some(writer) = writer else { return };
        self.records.appended(partition, writer, content);
        let is_in_transaction = match content {
            Content::Record(number) => self.records.is_transactional(*number),
            Content::Groups(_) => true,
            Content::Marker(_) => return,
        };
        if !self.is_strict || !is_in_transaction {
            return;
        }
        if let Some(id) = self.ids.id_of(writer.producer)
            && self.ids.is_fenced(&id, writer)
        {
            let what = format!("{}-{} takes {content:?} of {writer:?}", partition.topic, partition.number);
            self.world.finding(check::FENCED, format_args!("{what}"));
        }
        self.check_known(partition, writer);
    }

    fn check_known(&self, partition: &Partition, writer: Writer) {
        if !self.ids.is_known(writer, &partition.topic, partition.number) {
            let what = format!("{}-{}: {writer:?}", partition.topic, partition.number);
            self.world.finding(check::KNOWN, format_args!("{what}"));
        }
    }

    pub fn look_at_open(&self, partition: &Partition) {
        if self.is_strict {
            for (writer, _) in partition.open_transactions() {
                self.check_known(partition, writer);
            }
        }
    }

    /// A coordinator's marker ends what is open in a partition: so it was decided.
    pub fn marker_ends(&self, partition: &Partition, marker: &EndMarker) {
        if self.is_strict && !self.ids.has_decided(marker) {
            let what = format!("{}-{} gets {marker:?}", partition.topic, partition.number);
            self.world.finding(check::ONE_OUTCOME, format_args!("{what}"));
        }
    }

    /// It says what was decided, and is to be written.
    pub fn has_decided(&self, marker: &EndMarker) -> bool {
        self.is_strict && self.ids.has_decided(marker)
    }

    /// A marker is flushed in a partition.
    pub fn marked(&mut self, partition: &Partition, marker: &EndMarker) {
        self.ids.marked(marker, &partition.topic, partition.number);
        self.world.count(match marker.outcome {
            TransactionOutcome::Commit => "marker: commit",
            TransactionOutcome::Abort => "marker: abort",
        });
    }

    /// A partition has started: what was acknowledged is there.
    pub fn partition_started(&mut self, partition: &Partition) {
        self.records.started(partition);
    }

    /// A reader of committed records has come by a batch.
    pub fn read(&mut self, partition: &Partition, stored: &Stored, is_visible: bool) {
        self.records.read(partition, stored, is_visible);
    }
}
