//! What is expected of coordinators, told by what clients were told and by what is below the high watermark.

use crate::cluster::coordinators::requests::READ_TOPIC;
use crate::cluster::settings::check;
use crate::replication::scene::Scene;
use odradek::codec::group_record::GroupRecord;
use odradek::codec::record_batch::BatchView;
use odradek::codec::records::Records;
use odradek::group::GROUPS_TOPIC;
use std::collections::{BTreeMap, BTreeSet};

/// A partition that a group commits offsets of.
pub type OffsetKey = (String, i32);

/// Lives: one per seed.
#[derive(Default)]
pub struct Watch {
    /// What clients have ever asked to commit.
    sent: BTreeMap<OffsetKey, BTreeSet<i64>>,
    /// The last that one was told is committed.
    acknowledged: BTreeMap<OffsetKey, i64>,
    /// What is committed below the high watermark of the groups' partition, and how many of its batches that is of.
    canonical: BTreeMap<OffsetKey, i64>,
    canonical_count: usize,
}

impl Watch {
    pub fn sends(&mut self, key: &OffsetKey, offset: i64) {
        self.sent.entry(key.clone()).or_default().insert(offset);
    }

    pub fn is_acknowledged(&mut self, key: &OffsetKey, offset: i64) {
        let known = self.acknowledged.entry(key.clone()).or_insert(offset);
        *known = offset.max(*known);
    }

    pub fn acknowledged(&self, key: &OffsetKey) -> Option<i64> {
        self.acknowledged.get(key).copied()
    }

    pub fn was_sent(&self, key: &OffsetKey, offset: i64) -> bool {
        self.sent.get(key).is_some_and(|sent| sent.contains(&offset))
    }
}

impl Scene {
    /// What has come below the high watermark of the groups' partition since the last look.
    fn learn_canonical(&mut self) {
        let partition = self.partition_named(GROUPS_TOPIC);
        let all = self.coordinators.as_deref_mut().expect("the cluster has some");
        let batches = self.watch.canonical(partition);
        for batch in &batches[all.watch.canonical_count.min(batches.len())..] {
            let bytes = all.logs.bytes(batch);
            let (view, _) = BatchView::split_first(&bytes).expect("it was written");
            if view.is_control() || view.is_transactional() {
                continue;
            }
            for record in Records::new(view.payload(), view.record_count()) {
                let record = record.expect("it was written");
                let record = GroupRecord::decode(record.key, record.value).expect("as it was written");
                if let Some(GroupRecord::Offset { group, topic, partition, value: Some(value) }) = record
                    && topic == READ_TOPIC
                {
                    all.watch.canonical.insert((group, partition), value.offset);
                }
            }
        }
        all.watch.canonical_count = batches.len();
    }

    /// A coordinator says that offsets are committed: they are, as it says so.
    pub fn check_commits(&mut self, id: usize, commits: &[(String, i32, i64)]) {
        self.learn_canonical();
        for (group, of, offset) in commits {
            let key = (group.clone(), *of);
            let committed = self.coordinated().watch.canonical.get(&key).copied();
            // One that is sent again may come behind the next one.
            if committed.is_none_or(|committed| committed < *offset) {
                let what = format!("node {id} says that {key:?} is at {offset}, it is at {committed:?}");
                self.world.finding(check::COMMITTED, format_args!("{what}"));
            }
        }
    }

    /// One of the newest leader has everything that was acknowledged, by whomever.
    pub fn check_loaded(&mut self, key: u64) {
        let Some(served) = self.coordinated().serving.served(key) else { return };
        let (id, partition) = (served.node, served.partition);
        if partition == self.partition_named(GROUPS_TOPIC) {
            let keys: Vec<OffsetKey> = self.coordinated().watch.acknowledged.keys().cloned().collect();
            keys.iter().for_each(|offset_key| self.check_has(id, key, offset_key));
        }
    }

    fn check_has(&self, id: usize, key: u64, offset_key: &OffsetKey) {
        let all = self.coordinated();
        let groups = all.serving.groups(key);
        let found = groups.offsets(&offset_key.0).and_then(|offsets| offsets.get(READ_TOPIC, offset_key.1));
        self.check_fetched(id, offset_key, found.map(|value| value.offset));
    }

    /// What a coordinator has is what was acknowledged or is newer, as long as nobody else was elected.
    pub fn check_fetched(&self, id: usize, key: &OffsetKey, found: Option<i64>) {
        let partition = self.partition_named(GROUPS_TOPIC);
        let epoch = self.nodes[id].replicas.get(&partition).map(|replica| replica.epoch);
        let is_newest = epoch == Some(self.controller.partitions[&partition].leader_epoch.0);
        let acknowledged = self.coordinated().watch.acknowledged(key);
        if is_newest && found < acknowledged {
            let what = format!("{key:?} is at {found:?} for node {id}, {acknowledged:?} was acknowledged");
            self.world.finding(check::COMMIT_KEPT, format_args!("{what}"));
        }
    }
}
