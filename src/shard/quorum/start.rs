//! The metadata quorum of a start, before there are shards: everything blocks.

use crate::cluster::image::Image;
use crate::cluster::quorum::event::{Effect, Event, Persist, Stop, Written};
use crate::cluster::quorum::frame::{Recovered, Snapshot, Write};
use crate::cluster::quorum::members::{Members, PeerId};
use crate::cluster::quorum::{Quorum, Settings};
use crate::cluster::record::Record;
use crate::metrics::recovery::RecoveryCounts;
use crate::shard::metadata_log::{Found, MetadataLog, MetadataLogError};
use crate::types::{TopicId, Uuid};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

/// Bytes from which a start replaces the log by a snapshot.
const SNAPSHOT_SIZE_MIN: u64 = 16 << 20;

/// Records of one entry where a change may be split: the bytes of this many always fit.
pub const RECORDS_PER_PART_MAX: usize = 10_000;

/// How often time goes by for the quorum.
pub const TICK: Duration = Duration::from_millis(100);

/// Ticks.
const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 2;

/// Entries behind a snapshot that stay in memory.
const ENTRIES_RETAINED: u64 = 1_000;

/// Why a start cannot use the metadata.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error(transparent)]
    Log(#[from] MetadataLogError),
    #[error("{path}: {reason}")]
    Stopped { path: String, reason: Stop },
    #[error(
        "the metadata in {path} is that of {members:?}, and this directory is {me:?}: \
         its meta.properties is another directory's"
    )]
    NotAMember { path: String, members: BTreeSet<PeerId>, me: PeerId },
    #[error(
        "the metadata in {path} is that of several nodes: say with --peer-listen where the others connect"
    )]
    HasOthers { path: String },
}

/// The quorum as a start has it, before there are shards.
pub struct Metadata {
    me: PeerId,
    log: MetadataLog,
    /// `None`: an empty log, which the first records found.
    quorum: Option<Quorum>,
}

/// What a start finds.
pub struct Replayed {
    pub metadata: Metadata,
    pub image: Image,
    /// Topics that the log says were deleted; forgotten once a snapshot has replaced it.
    pub deleted: BTreeSet<TopicId>,
    pub recovery: RecoveryCounts,
}

/// Everything that a start applies.
#[derive(Default)]
struct Applied {
    image: Image,
    deleted: BTreeSet<TopicId>,
}

impl Metadata {
    /// Reads the log and applies what is committed.
    pub fn open(data_dir: &Path, me: PeerId) -> Result<Replayed, MetadataError> {
        let Found { log, recovered, recovery } = MetadataLog::open(data_dir, me)?;
        let mut metadata = Metadata { me, log, quorum: None };
        let mut applied = Applied::default();
        if recovered != Recovered::nothing() {
            metadata.begin(recovered, &mut applied)?;
            metadata.compact(&mut applied)?;
        }
        let Applied { image, deleted, .. } = applied;
        Ok(Replayed { metadata, image, deleted, recovery })
    }

    /// Whether there is a cluster, or somebody else has to say so.
    pub fn is_founded(&self) -> bool {
        self.quorum.is_some()
    }

    /// Of a node that is to be alone: refuses the log of a quorum that has others, or that this directory is no
    /// member of: it could only look on.
    pub fn check_alone(&self) -> Result<(), MetadataError> {
        let Some(quorum) = &self.quorum else { return Ok(()) };
        let Members { voters, observers } = quorum.members().clone();
        if voters.len() + observers.len() > 1 {
            return Err(MetadataError::HasOthers { path: self.path() });
        }
        if voters.contains(&self.me) {
            return Ok(());
        }
        Err(MetadataError::NotAMember { path: self.path(), members: voters, me: self.me })
    }

    /// The first records of a cluster, with this node as its only voter: all or none.
    pub fn found(&mut self, records: &[Record]) -> Result<(), MetadataError> {
        let snapshot = Snapshot::founding(Members::voters([self.me]), records);
        let hard_state = Snapshot::founding_state();
        let write = Write { hard_state, entries: Vec::new() };
        self.log.write(&Written::Replace { snapshot: snapshot.clone(), write })?;
        let recovered = Recovered { base: snapshot, hard_state, ..Recovered::nothing() };
        self.begin(recovered, &mut Applied::default())
    }

    /// A node of a cluster that others have founded: it has no members until it is told of them.
    pub fn wait_for_others(&mut self, cluster: Uuid) -> Result<(), MetadataError> {
        self.begin_in(cluster, Recovered::nothing(), &mut Applied::default())
    }

    fn begin(&mut self, recovered: Recovered, applied: &mut Applied) -> Result<(), MetadataError> {
        let cluster = cluster_of(&recovered);
        self.begin_in(cluster, recovered, applied)
    }

    fn begin_in(
        &mut self,
        cluster: Uuid,
        recovered: Recovered,
        applied: &mut Applied,
    ) -> Result<(), MetadataError> {
        let settings = Settings {
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            seed: Uuid::new_v4().as_u128() as u64,
            entries_retained: ENTRIES_RETAINED,
        };
        let mut effects = Vec::new();
        self.quorum = Some(Quorum::start(cluster, self.me, settings, recovered, &mut effects));
        self.carry_out(effects, applied)
    }

    /// A log that has grown long is replaced by a snapshot.
    fn compact(&mut self, applied: &mut Applied) -> Result<(), MetadataError> {
        let is_leader = self.quorum.as_ref().is_some_and(Quorum::is_leader);
        if !is_leader || self.log.size() <= SNAPSHOT_SIZE_MIN {
            return Ok(());
        }
        let records = applied.image.snapshot();
        self.step(Event::Compact { records }, applied)
    }

    fn step(&mut self, event: Event, applied: &mut Applied) -> Result<(), MetadataError> {
        let mut effects = Vec::new();
        self.quorum.as_mut().expect("it has begun").step(event, &mut effects);
        self.carry_out(effects, applied)
    }

    /// Blocks: writes what is to be written, until nothing more follows.
    fn carry_out(&mut self, effects: Vec<Effect>, applied: &mut Applied) -> Result<(), MetadataError> {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Persist(Persist { number, what, .. }) => {
                    if let Some(written) = &what {
                        self.log.write(written)?;
                    }
                    let mut more = Vec::new();
                    let quorum = self.quorum.as_mut().expect("it has begun");
                    quorum.step(Event::Persisted(number), &mut more);
                    effects.extend(more);
                }
                Effect::Restore { records, .. } | Effect::Apply { records, .. } => {
                    self.apply(&records, applied)?;
                }
                Effect::Stop(reason) => return Err(MetadataError::Stopped { path: self.path(), reason }),
                Effect::Answer { .. }
                | Effect::MembersChanged(_)
                | Effect::Elected { .. }
                | Effect::Leading { .. }
                | Effect::Following { .. }
                | Effect::Send(_)
                | Effect::SnapshotWanted
                | Effect::Refused { .. } => {}
            }
        }
        Ok(())
    }

    fn apply(&self, records: &[Record], applied: &mut Applied) -> Result<(), MetadataError> {
        for record in records {
            let path = || self.log.path().to_owned();
            applied
                .image
                .apply(record)
                .map_err(|source| MetadataLogError::Inapplicable { path: path(), source })?;
            if let Record::TopicDeleted { topic } = record {
                applied.deleted.insert(*topic);
            }
        }
        Ok(())
    }

    /// What shard 0 goes on with.
    pub fn into_parts(self) -> (Quorum, MetadataLog) {
        (self.quorum.expect("whoever started has registered"), self.log)
    }

    fn path(&self) -> String {
        self.log.path().display().to_string()
    }
}

/// Of a log that was begun before there were clusters: nil.
fn cluster_of(recovered: &Recovered) -> Uuid {
    let records = recovered.base.parts.iter().filter_map(|part| crate::cluster::encoding::decode(part).ok());
    let created = |record: Record| match record {
        Record::ClusterCreated { cluster_id } => Some(cluster_id),
        _ => None,
    };
    records.flatten().find_map(created).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node};
    use crate::cluster::log_entry::{EntrySequence, encode_entry};
    use crate::cluster::quorum::event::Ticket;
    use crate::cluster::quorum::frame::FrameWriter;
    use crate::cluster::record::ConfigResource;
    use crate::cluster::registration::tests::{CLUSTER_ID, registration};
    use crate::config::Routing;
    use crate::shard::metadata_log::Purpose;
    use crate::types::NodeId;
    use std::collections::BTreeMap;

    impl Metadata {
        /// As shard 0 does it, but at once. Of a new cluster: all or none.
        pub fn commit(&mut self, records: &[Record]) -> Result<(), MetadataError> {
            if self.quorum.is_none() {
                return self.found(records);
            }
            for part in records.chunks(RECORDS_PER_PART_MAX) {
                let size = part.iter().map(Record::encoded_size_max).sum::<usize>();
                self.log.make_room(FrameWriter::frame_size_max(size), Purpose::Other)?;
                let event = Event::Propose { ticket: Ticket(1), records: part.to_vec() };
                // Whoever commits has applied them already.
                let mut effects = Vec::new();
                self.quorum.as_mut().unwrap().step(event, &mut effects);
                while let Some(effect) = effects.pop() {
                    let Effect::Persist(Persist { number, what, .. }) = effect else { continue };
                    what.iter().try_for_each(|written| self.log.write(written))?;
                    self.quorum.as_mut().unwrap().step(Event::Persisted(number), &mut effects);
                }
            }
            Ok(())
        }
    }

    fn me() -> PeerId {
        PeerId::new(NodeId(1), 7)
    }

    fn open(directory: &Path) -> (Metadata, Image) {
        let Replayed { metadata, image, .. } = Metadata::open(directory, me()).unwrap();
        (metadata, image)
    }

    fn setting(key: &str, value: &str) -> Record {
        let resource = ConfigResource::Brokers;
        Record::ConfigSet { resource, key: key.to_string(), value: Some(value.to_string()) }
    }

    #[test]
    fn what_was_committed_is_there_after_every_start() {
        let directory = tempfile::tempdir().unwrap();
        let (mut metadata, before) = open(directory.path());
        assert_eq!(before, Image::default());
        let records = registration(&before, node(1, 2, Routing::Node), 1).unwrap();
        metadata.commit(&records).unwrap();
        for start in 1..=5u64 {
            let (mut metadata, image) = open(directory.path());
            assert_eq!(image.cluster_id(), Some(CLUSTER_ID));
            let settings = image.settings(&ConfigResource::Brokers).map_or(0, BTreeMap::len);
            assert_eq!(settings as u64, start - 1);
            metadata.commit(&[setting(&format!("key-{start}"), "1")]).unwrap();
            // Each start is a term of its own: the founding's was the first.
            assert_eq!(metadata.quorum.as_ref().unwrap().term(), start + 2);
        }
    }

    /// A log of before there were quorums is gone on with as it lies; older builds refuse it from then on.
    #[test]
    fn an_older_log_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let image = image_of(&[node(1, 2, Routing::Node)]);
        let older = [
            encode_entry(EntrySequence(1), &image.snapshot()).unwrap(),
            encode_entry(EntrySequence(2), &[setting("a", "1")]).unwrap(),
        ];
        let path = directory.path().join("metadata/00000000000000000000.log");
        #[expect(clippy::disallowed_methods, reason = "a test writes a file")]
        let write = |bytes: &[u8]| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        };
        write(&older.concat());
        let (mut metadata, found) = open(directory.path());
        assert_eq!(found.settings(&ConfigResource::Brokers).map(BTreeMap::len), Some(1));
        metadata.commit(&[setting("b", "2")]).unwrap();
        drop(metadata);
        let (_, found) = open(directory.path());
        assert_eq!(found.settings(&ConfigResource::Brokers).map(BTreeMap::len), Some(2));
        assert_eq!(found.node(NodeId(1)), image.node(NodeId(1)));
        #[expect(clippy::disallowed_methods, reason = "a test reads a file")]
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(&older.concat()));
        let verdict = crate::cluster::log_entry::tests::scan(&bytes).verdict;
        assert!(matches!(verdict, crate::cluster::log_entry::Verdict::Unreadable { .. }), "{verdict:?}");
    }

    #[test]
    fn the_log_of_another_node_is_read_and_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let (mut metadata, before) = open(directory.path());
        let records = registration(&before, node(1, 2, Routing::Node), 1).unwrap();
        metadata.commit(&records).unwrap();
        drop(metadata);
        let other = PeerId::new(NodeId(1), 8);
        let Replayed { metadata, image, .. } = Metadata::open(directory.path(), other).unwrap();
        assert_eq!(image.cluster_id(), Some(CLUSTER_ID));
        let refused = metadata.check_alone().unwrap_err();
        assert!(matches!(refused, MetadataError::NotAMember { .. }), "{refused}");
    }

    #[test]
    fn more_partitions_than_an_entry_holds_are_moved_to_other_cores() {
        let directory = tempfile::tempdir().unwrap();
        let mut image = image_of(&[node(1, 4, Routing::Node)]);
        let owners = vec![3; RECORDS_PER_PART_MAX / 2 + 500];
        for topic in 1..=2 {
            add_topic(&mut image, topic, &format!("topic-{topic}"), &owners);
        }
        let (mut metadata, _) = open(directory.path());
        metadata.commit(&image.snapshot()).unwrap();
        let fewer = node(1, 1, Routing::Node);
        let records = registration(&image, fewer.clone(), 1).unwrap();
        assert!(records.len() > 2 * owners.len());
        // The first part alone, as a crash would leave it: the next start moves the rest.
        metadata.commit(&records[..RECORDS_PER_PART_MAX]).unwrap();
        let (mut metadata, image) = open(directory.path());
        let rest = registration(&image, fewer.clone(), 1).unwrap();
        assert!(rest.len() < records.len());
        metadata.commit(&rest).unwrap();
        let (_, image) = open(directory.path());
        assert!(image.partitions().all(|(_, state)| state.replicas[0].owner.0 == 0));
        assert_eq!(registration(&image, fewer, 1), Ok(Vec::new()));
    }

    #[test]
    fn a_start_replaces_a_log_that_has_grown_long() {
        let directory = tempfile::tempdir().unwrap();
        let (mut metadata, before) = open(directory.path());
        let records = registration(&before, node(1, 2, Routing::Node), 1).unwrap();
        metadata.commit(&records).unwrap();
        let large = "x".repeat(1 << 20);
        for number in 0..20 {
            metadata.commit(&[setting("a", &format!("{number}{large}"))]).unwrap();
        }
        assert!(metadata.log.size() > SNAPSHOT_SIZE_MIN);
        drop(metadata);
        let (metadata, image) = open(directory.path());
        assert!(metadata.log.size() < SNAPSHOT_SIZE_MIN / 4, "{}", metadata.log.size());
        drop(metadata);
        let (mut metadata, again) = open(directory.path());
        assert_eq!(again, image);
        metadata.commit(&[setting("b", "1")]).unwrap();
        let (_, again) = open(directory.path());
        assert_eq!(again.settings(&ConfigResource::Brokers).map(BTreeMap::len), Some(2));
    }
}
