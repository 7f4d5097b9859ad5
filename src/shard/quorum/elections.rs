//! Elections that the leader of the quorum holds by itself: [`cluster::elections`](crate::cluster::elections) decides
//! them.

use crate::cluster::core_balance::balance_cores;
use crate::cluster::elections::{
    Leaderless, PREFERRED_ELECTIONS_MAX, UncleanElection, elect_leaderless, elect_preferred, may_elect_after,
};
use crate::cluster::record::{Node, Record};
use crate::shard::event::Signal;
use crate::shard::quorum::{CommitError, MetadataQuorum};
use crate::types::Mono;
use futures::future::select;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks of the leader at what is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Before what could not be committed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Lives: with the quorum of a node that leads it, or may.
#[derive(Default)]
pub(super) struct Elections {
    /// Something may be due.
    looking: Signal,
    /// Partitions that nobody leads may be led since, or soon.
    leaderless_due: Cell<bool>,
    /// When it was last looked for leaders to return to their preferred replicas and for cores that differ, or the
    /// first interval began.
    balanced: Cell<Mono>,
}

impl MetadataQuorum {
    /// This node leads from now on: the one before it may not have come to it.
    pub(super) fn begin_to_elect(&self) {
        self.elections.balanced.set(self.clock.mono());
        self.elect_leaderless_soon();
    }

    /// Records were applied here.
    pub(super) fn may_elect_after(&self, records: &[Record]) {
        if records.iter().any(may_elect_after) {
            self.elect_leaderless_soon();
        }
    }

    fn elect_leaderless_soon(&self) {
        self.elections.leaderless_due.set(true);
        self.elections.looking.notify();
    }

    fn is_election_due(&self) -> bool {
        self.is_leading() && (self.elections.leaderless_due.get() || self.is_balance_due())
    }

    fn is_balance_due(&self) -> bool {
        let since = self.clock.mono().since(self.elections.balanced.get());
        self.config.auto_leader_rebalance_enable && since >= self.config.leader_imbalance_check_interval
    }

    /// The caller has the turn.
    async fn hold_elections(&self) -> Result<(), CommitError> {
        if self.elections.leaderless_due.replace(false) {
            self.lead_leaderless().await?;
        }
        if self.is_balance_due() { self.balance().await } else { Ok(()) }
    }

    async fn lead_leaderless(&self) -> Result<(), CommitError> {
        let Leaderless { records, is_waiting } = self.elect_leaderless();
        let committed = self.commit_all(records).await;
        if is_waiting || committed.is_err() {
            self.elections.leaderless_due.set(true);
        }
        committed
    }

    async fn balance(&self) -> Result<(), CommitError> {
        let defaults = self.topic_defaults();
        let records = self.with_image(|image| elect_preferred(image, &defaults));
        let count = records.len();
        self.commit_all(records).await?;
        if count > 0 {
            tracing::info!(count, "leaders have returned to their preferred replicas");
        }
        // Cores are looked at once leaders are where they are to be. Where there may be more, the next look goes on.
        let moves = if count == 0 { self.balance_cores().await? } else { 0 };
        if count < PREFERRED_ELECTIONS_MAX && moves == 0 {
            self.elections.balanced.set(self.clock.mono());
        }
        Ok(())
    }

    /// How many partitions move to other cores of their nodes.
    async fn balance_cores(&self) -> Result<usize, CommitError> {
        // Before this node serves, and once it stops, nothing moves.
        if self.attached().is_none_or(|shard| shard.is_stopping()) {
            return Ok(0);
        }
        let records = self.with_image(balance_cores);
        let count = records.len();
        self.commit_all(records).await?;
        if count > 0 {
            tracing::info!(count, "partitions have moved to other cores of their nodes");
        }
        Ok(count)
    }

    fn elect_leaderless(&self) -> Leaderless {
        let (defaults, now) = (self.topic_defaults(), self.clock.mono());
        let heartbeats = self.heartbeats.borrow();
        let is_coming = |node: &Node| heartbeats.is_coming(node, now);
        self.with_image(|image| elect_leaderless(image, &defaults, is_coming))
    }

    /// Elections that may have lost something are committed.
    pub(super) fn tell_of_unclean(&self, elections: &[UncleanElection]) {
        for UncleanElection { topic, id, leader } in elections {
            let (partition, leader) = (id.partition.to_wire(), leader.0);
            tracing::warn!(topic, partition, leader, "an unclean election: what only others have is lost");
        }
        if let Some(shard) = self.attached() {
            shard.metrics.borrow_mut().unclean_leader_elections += elections.len() as u64;
        }
    }
}

/// Carries out what is due, while this node leads.
pub async fn hold(quorum: Rc<MetadataQuorum>) {
    while !quorum.has_failed() {
        select(pin!(quorum.elections.looking.notified()), pin!(glommio::timer::sleep(LOOK_INTERVAL))).await;
        if !quorum.is_election_due() {
            continue;
        }
        let Ok(turn) = quorum.turn().acquire_permit(1).await else { return };
        if quorum.is_election_due()
            && let Err(error) = quorum.hold_elections().await
        {
            drop(turn);
            tracing::warn!(%error, "elections were not committed: they are held again");
            glommio::timer::sleep(RETRY_PAUSE).await;
        }
    }
}
