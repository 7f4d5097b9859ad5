//! The coordinators of the partitions of `__consumer_offsets` that this shard owns: what
//! [`group`](crate::group) decides is carried out as for every [coordinator](crate::shard::coordinators).
//!
//! One task of the shard waits for the next deadline of all its coordinators.
//!
//! | file | what it does |
//! |---|---|
//! | `coordinating.rs` | what a coordinator of groups is to its shard: writes, effects, the replay |
//! | `requests.rs` | answers what a coordinator is asked |
//! | `missing.rs` | what requests name and there is not |
//! | `topics.rs` | topics as coordinators see them, and regular expressions |
//! | `in_transactions.rs` | offsets that are committed in transactions |

mod coordinating;
mod in_transactions;
mod missing;
mod requests;
mod topics;

pub use in_transactions::transaction_ended;
pub use requests::call_local;

use crate::codec::error_code::ErrorCode;
use crate::group::consumer::regex::Patterns;
use crate::group::coordinator::{Coordinator, TransactionWriter};
use crate::group::{Answer, Caller, Effect};
use crate::shard::Shard;
use crate::shard::coordinators::{self, Coordinators};
use crate::shard::event::Signal;
use crate::shard::message::TransactionClaim;
use crate::shard::step::Pace;
use crate::types::{Mono, TopicId, TopicPartition};
use futures::future::select;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetDeleteRequest, SyncGroupRequest, TopicName,
};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

/// The coordinator of one partition, and what is kept beside it.
type Served = coordinators::Served<Coordinator>;

/// A question to the coordinator of one group.
pub struct GroupCall {
    /// Of `__consumer_offsets`.
    pub partition: TopicPartition,
    pub caller: Caller,
    pub request: GroupRequest,
}

pub enum GroupRequest {
    Join(JoinGroupRequest),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    /// As versions from 3 on have it.
    Leave(LeaveGroupRequest),
    Commit(OffsetCommitRequest),
    /// A TxnOffsetCommit.
    CommitInTransaction {
        request: OffsetCommitRequest,
        writer: TransactionWriter,
        claim: TransactionClaim,
    },
    Fetch {
        group: String,
        /// Who asks, and in which epoch, if that is said.
        member: (Option<String>, i32),
        /// `None`: of all topics.
        topics: Option<Vec<(TopicName, Vec<i32>)>>,
        /// Whether offsets that open transactions may change are told.
        stability: Stability,
    },
    Describe {
        group: String,
    },
    DeleteGroup {
        group: String,
    },
    DeleteOffsets(OffsetDeleteRequest),
    ConsumerHeartbeat(ConsumerGroupHeartbeatRequest),
    ConsumerDescribe {
        group: String,
    },
}

pub enum GroupReply {
    Answer(Answer),
    Fetched(Vec<(TopicName, Vec<FetchedOffset>)>),
    Described(DescribedGroup),
    ConsumerDescribed(Box<DescribedConsumerGroup>),
    /// Nothing was looked at.
    Refused(ErrorCode),
}

/// A committed offset of one partition, if there is one.
pub struct FetchedOffset {
    pub partition: i32,
    pub committed: Option<Committed>,
    /// An open transaction may change it, and that matters to who asks.
    pub is_unstable: bool,
}

/// Which offsets a consumer wants (KIP-447).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    Any,
    /// Those that no open transaction may change.
    Stable,
}

pub struct Committed {
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: String,
}

/// Lives: one per shard.
#[derive(Default)]
pub struct Groups {
    coordinators: Coordinators<Coordinator>,
    patterns: Rc<Patterns>,
    /// Until when the task that waits for deadlines sleeps; `None`: until it is told.
    sleeps_until: Cell<Option<Mono>>,
    /// There is an earlier deadline.
    earlier: Signal,
}

impl Groups {
    /// Sees to it that a deadline is not slept through.
    fn look_by(&self, deadline: Option<Mono>) {
        let Some(deadline) = deadline else { return };
        if self.sleeps_until.get().is_none_or(|until| deadline < until) {
            self.earlier.notify();
        }
    }

    pub fn group_count(&self) -> usize {
        self.coordinators.count()
    }
}

/// Starts the work that goes on beside requests, and reads what this shard's partitions hold.
pub fn start(shard: &Rc<Shard>) {
    shard.spawn(watch_deadlines(shard.clone()));
    shard.groups.coordinators.load_all(shard);
    let expiring = shard.clone();
    shard.spawn(async move {
        loop {
            glommio::timer::sleep(expiring.config.offsets_retention_check_interval).await;
            if expiring.is_stopping() {
                return;
            }
            expiring.groups.coordinators.load_all(&expiring); // Those that were opened late.
            expire_offsets(&expiring).await;
            // Those of deleted topics that could not be taken away are tried again.
            for served in expiring.groups.coordinators.served() {
                forget_gone_topics(&expiring, &served).await;
            }
        }
    });
}

/// Ends sessions and waits when they are over.
async fn watch_deadlines(shard: Rc<Shard>) {
    // Once this node stops, whoever waits has been sent elsewhere.
    while !shard.is_stopping() {
        let next = shard.groups.coordinators.earliest(Coordinator::next_deadline);
        let now = shard.clock.mono();
        match next {
            Some(next) if next <= now => {
                for served in shard.groups.coordinators.served() {
                    served.decide(&shard, Coordinator::expire);
                }
                glommio::executor().yield_now().await;
            }
            _ => {
                shard.groups.sleeps_until.set(next);
                let told = pin!(shard.groups.earlier.notified());
                match next {
                    Some(next) => {
                        select(told, pin!(glommio::timer::sleep(next.since(now)))).await;
                    }
                    None => told.await,
                }
            }
        }
    }
}

async fn expire_offsets(shard: &Rc<Shard>) {
    let mut pace = Pace::new(&shard.clock);
    for served in shard.groups.coordinators.served() {
        served.for_each_id(shard, &mut pace, Coordinator::expire_offsets).await;
    }
}

/// Takes away the offsets of topics that the image does not have any more.
async fn forget_gone_topics(shard: &Rc<Shard>, served: &Rc<Served>) {
    served.decide(shard, |coordinator, _, _| {
        let image = shard.image.borrow();
        coordinator.forget_in_flight(|topic| image.topic_named(topic).is_none());
    });
    let mut pace = Pace::new(&shard.clock);
    let forget = |coordinator: &mut Coordinator, id: &str, now, effects: &mut Vec<Effect>| {
        let image = shard.image.borrow();
        coordinator.forget_topics(id, |topic| image.topic_named(topic).is_none(), now, effects);
    };
    served.for_each_id(shard, &mut pace, forget).await;
}

/// Topics are gone from the image: the offsets that groups have in them go too.
pub fn topics_deleted(shard: &Rc<Shard>, topics: &[TopicId]) {
    shard.groups.coordinators.topics_deleted(shard, topics);
    for served in shard.groups.coordinators.served() {
        let shard = shard.clone();
        shard.clone().spawn(async move { forget_gone_topics(&shard, &served).await });
    }
}

/// Topics have come, gone or grown: groups that read them look at them with the next heartbeat.
pub fn topics_changed(shard: &Shard) {
    for served in shard.groups.coordinators.served() {
        served.tell(Coordinator::topics_changed);
    }
}

/// A partition of this shard is led by another replica, or anew by this one.
pub fn role_changed(shard: &Rc<Shard>, id: TopicPartition) {
    shard.groups.coordinators.role_changed(shard, id);
}

/// This node stops: all that wait are sent to look elsewhere.
pub fn resign(shard: &Rc<Shard>) {
    shard.groups.coordinators.resign(shard);
    shard.groups.earlier.notify();
}

/// All groups of this shard's coordinators.
pub async fn list_local(shard: &Rc<Shard>) -> Result<Vec<ListedGroup>, ErrorCode> {
    shard.groups.coordinators.list(shard, Coordinator::listed).await
}
