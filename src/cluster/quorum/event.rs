//! What the quorum is told, and what it wants done.

use super::frame::{Snapshot, Write};
use super::members::{ChangeRejected, MemberChange, Members, PeerId};
use super::message::Message;
use crate::cluster::encoding::DecodeError;
use crate::cluster::record::Record;
use crate::types::Uuid;
use crate::types::limits::{METADATA_RECORDS_PER_ENTRY_MAX, QUORUM_RECORDS_SIZE_MAX};

/// Names a proposal until its outcome is known. The caller's; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How far everything that was given out to be written has been; grows with every [`Effect::Persist`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteNumber(pub u64);

#[derive(Clone, Debug)]
pub enum Event {
    /// Time has gone by.
    Tick,
    /// From whoever says to be `from`; the connection knows no better.
    Received(Message),
    Propose {
        ticket: Ticket,
        records: Vec<Record>,
    },
    ChangeMembers {
        ticket: Ticket,
        change: MemberChange,
    },
    /// The leader hands over to this voter, if that one can be brought up to date in time.
    Transfer(PeerId),
    /// Everything up to this write is flushed.
    Persisted(WriteNumber),
    /// A message could not be sent.
    Unreachable(PeerId),
    /// A snapshot was sent, or could not be.
    SnapshotSent {
        to: PeerId,
        delivered: bool,
    },
    /// The image as of the last entry that was applied: the answer to [`Effect::SnapshotWanted`].
    SnapshotTaken {
        records: Vec<Record>,
    },
    /// The same, to replace the log up to there, which has grown long.
    Compact {
        records: Vec<Record>,
    },
}

#[derive(Clone, Debug)]
pub enum Effect {
    /// Leaves at once. May be lost.
    Send(Message),
    Persist(Persist),
    /// A committed entry, in order, each once per start. Without records the image is what it was before.
    Apply {
        index: u64,
        term: u64,
        records: Vec<Record>,
    },
    /// The image is now what these records add up to, as of an entry.
    Restore {
        index: u64,
        records: Vec<Record>,
    },
    /// The members as of the entry applied or restored last.
    MembersChanged(Members),
    /// This node leads the quorum in a term. Its image may still lack entries.
    Elected {
        term: u64,
    },
    /// Its image is complete: it may decide.
    Leading {
        term: u64,
    },
    /// It does not lead, or no longer.
    Following {
        term: u64,
        leader: Option<PeerId>,
    },
    Answer {
        ticket: Ticket,
        outcome: Outcome,
    },
    /// A member is so far behind that it needs the image: [`Event::SnapshotTaken`].
    SnapshotWanted,
    /// A message was passed over.
    Refused {
        from: PeerId,
        reason: Refusal,
    },
    /// This node must not go on; every further event is passed over.
    Stop(Stop),
}

/// What is to be written and flushed, in order; and what may be said only then.
#[derive(Clone, Debug)]
pub struct Persist {
    pub number: WriteNumber,
    /// `None`: nothing, but what was given out before has to be flushed.
    pub what: Option<Written>,
    pub then_send: Vec<Message>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// To the end of the log.
    Append(Write),
    /// Instead of the log.
    Replace { snapshot: Snapshot, write: Write },
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A majority has flushed it, and it has been applied here. It stays.
    Committed { index: u64 },
    /// Nothing was done.
    Refused(ProposalRejected),
    /// Leadership was lost: it is committed later, or never.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalRejected {
    #[error("not the leader of the quorum")]
    NotLeader { leader: Option<PeerId> },
    #[error("the leader's image is not complete yet")]
    NotReady,
    #[error("leadership is being handed over")]
    HandingOver,
    #[error("too much is proposed and not committed")]
    Busy,
    #[error("{size} bytes of records, allowed are {QUORUM_RECORDS_SIZE_MAX}")]
    TooLarge { size: usize },
    #[error("{0} records in one change, allowed are {METADATA_RECORDS_PER_ENTRY_MAX}")]
    TooManyRecords(usize),
    #[error(transparent)]
    Members(ChangeRejected),
}

/// Why a message is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is of cluster {0}")]
    OtherCluster(Uuid),
    /// A member that was replaced, or one whose directory was.
    #[error("it is meant for {0:?}")]
    OtherPeer(PeerId),
    #[error("it comes from this node itself")]
    OwnMessage,
    #[error("its entry {index} is not the one that is committed here")]
    Diverged { index: u64 },
    #[error("its snapshot does not have this node among its members")]
    NotAMember,
    #[error("it asks to campaign, and not everything here is flushed")]
    Unflushed,
}

/// Why a node must not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error(
        "the leader has seen entries up to {acknowledged} here, and there are {last}: the log has lost some"
    )]
    LogLost { acknowledged: u64, last: u64 },
    #[error("entry {index} is committed and cannot be read: {error}")]
    Unreadable { index: u64, error: DecodeError },
    #[error("entry {index} is committed and changes the members in a way that they cannot be")]
    Members { index: u64 },
}
