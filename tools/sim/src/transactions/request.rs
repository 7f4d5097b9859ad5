//! Requests of all kinds, as a broker takes them from its connections, and what comes back.

use odradek::codec::control_record::{EndMarker, TransactionOutcome};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::transaction_record::TransactionValue;
use odradek::txn::Writer;
use odradek::txn::coordinator::Listed;
use odradek::txn::transaction::{End, Init};
use odradek::types::TransactionVersion;

/// Which transaction of which client a request is part of, whatever the broker makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub usize);

/// What a batch's version of Produce makes of its partition (`odradek::shard`'s `ClaimKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was added before; the client does not know TRANSACTION_ABORTABLE.
    Added,
    /// The same, and it knows.
    AddedOrAborts,
    /// The batch adds it.
    Adds,
}

impl Claim {
    pub fn version(self) -> TransactionVersion {
        match self {
            Claim::Added | Claim::AddedOrAborts => TransactionVersion::V1,
            Claim::Adds => TransactionVersion::V2,
        }
    }
}

/// Something that is written in a transaction: a record, or a committed offset.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Told apart by it from all others of the seed.
    pub number: u64,
    pub tag: Option<Tag>,
    pub writer: Writer,
    pub claim: Claim,
    /// Of a record: the partition and the sequence; of an offset the partition that it is of.
    pub place: Place,
    pub is_transactional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Record { partition: usize, sequence: i32 },
    Offset { group: usize, of: i32 },
}

#[derive(Clone, Debug)]
pub enum Request {
    Init {
        id: String,
        init: Init,
    },
    /// Partitions by their numbers.
    AddPartitions {
        id: String,
        tag: Option<Tag>,
        writer: Writer,
        partitions: Vec<usize>,
    },
    AddOffsets {
        id: String,
        tag: Option<Tag>,
        writer: Writer,
    },
    End {
        id: String,
        tag: Option<Tag>,
        end: End,
    },
    Write {
        id: String,
        write: Write,
    },
    FetchOffsets {
        group: usize,
    },
    Describe {
        id: String,
    },
    List {
        coordinator: usize,
    },
    /// WriteTxnMarkers.
    Mark {
        partition: usize,
        marker: EndMarker,
    },
}

#[derive(Clone, Debug)]
pub enum Reply {
    Writer(Result<Writer, ErrorCode>),
    /// Of additions, writes and markers.
    Done(Result<(), ErrorCode>),
    Described(Result<Option<TransactionValue>, ErrorCode>),
    Listed(Result<Vec<Listed>, ErrorCode>),
    Fetched(Result<(), ErrorCode>),
}

impl Reply {
    pub fn error(&self) -> Option<ErrorCode> {
        match self {
            Reply::Writer(result) => result.err(),
            Reply::Done(result) | Reply::Fetched(result) => result.err(),
            Reply::Described(result) => result.as_ref().err().copied(),
            Reply::Listed(result) => result.as_ref().err().copied(),
        }
    }
}

impl Request {
    pub fn name(&self) -> &'static str {
        match self {
            Request::Init { .. } => "init",
            Request::AddPartitions { .. } => "add partitions",
            Request::AddOffsets { .. } => "add offsets",
            Request::End { end, .. } => match end.outcome {
                TransactionOutcome::Commit => "commit",
                TransactionOutcome::Abort => "abort",
            },
            Request::Write { write, .. } => match write.place {
                Place::Record { .. } => "produce",
                Place::Offset { .. } => "commit offsets",
            },
            Request::FetchOffsets { .. } => "fetch offsets",
            Request::Describe { .. } => "describe",
            Request::List { .. } => "list",
            Request::Mark { .. } => "write marker",
        }
    }

    /// What it is refused with, if at all.
    pub fn allows(&self, error: ErrorCode) -> bool {
        let is_elsewhere = matches!(
            error,
            ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
        );
        let is_unkept = matches!(error, ErrorCode::UnknownServerError);
        match self {
            Request::Init { .. } => {
                is_elsewhere
                    || is_unkept
                    || matches!(
                        error,
                        ErrorCode::ConcurrentTransactions
                            | ErrorCode::ProducerFenced
                            | ErrorCode::InvalidTransactionTimeout
                            | ErrorCode::InvalidRequest
                    )
            }
            Request::AddPartitions { .. } | Request::AddOffsets { .. } => {
                is_elsewhere
                    || is_unkept
                    || matches!(
                        error,
                        ErrorCode::ConcurrentTransactions
                            | ErrorCode::ProducerFenced
                            | ErrorCode::InvalidProducerIdMapping
                            | ErrorCode::InvalidRequest
                    )
            }
            Request::End { .. } => {
                is_elsewhere
                    || is_unkept
                    || matches!(
                        error,
                        ErrorCode::ConcurrentTransactions
                            | ErrorCode::ProducerFenced
                            | ErrorCode::InvalidProducerIdMapping
                            | ErrorCode::InvalidTxnState
                            | ErrorCode::InvalidRequest
                    )
            }
            Request::Write { write, .. } => {
                let is_offset = matches!(write.place, Place::Offset { .. });
                matches!(
                    error,
                    ErrorCode::NotEnoughReplicas
                        | ErrorCode::KafkaStorageError
                        | ErrorCode::InvalidProducerEpoch
                        | ErrorCode::InvalidTxnState
                        | ErrorCode::UnknownServerError
                        | ErrorCode::InvalidRequest
                ) || (is_offset && is_elsewhere)
                    || (!is_offset && error == ErrorCode::OutOfOrderSequenceNumber)
                    || (write.claim == Claim::AddedOrAborts && error == ErrorCode::TransactionAbortable)
                    || (write.claim == Claim::Adds && error == ErrorCode::ConcurrentTransactions)
            }
            Request::FetchOffsets { .. } => is_elsewhere || error == ErrorCode::UnstableOffsetCommit,
            Request::Describe { .. } | Request::List { .. } => is_elsewhere,
            Request::Mark { .. } => matches!(
                error,
                ErrorCode::InvalidProducerEpoch
                    | ErrorCode::TransactionCoordinatorFenced
                    | ErrorCode::KafkaStorageError
                    | ErrorCode::InvalidRequest
            ),
        }
    }

    /// One line of the trace.
    pub fn summary(&self) -> String {
        match self {
            Request::Init { id, init } => format!("init {id} {init:?}"),
            Request::AddPartitions { id, tag, writer, partitions } => {
                format!("add {partitions:?} to {id} {tag:?} {writer:?}")
            }
            Request::AddOffsets { id, tag, writer } => format!("add offsets to {id} {tag:?} {writer:?}"),
            Request::End { id, tag, end } => format!("end {id} {tag:?} {end:?}"),
            Request::Write { id, write } => format!("write to {id} {write:?}"),
            Request::FetchOffsets { group } => format!("fetch offsets of g{group}"),
            Request::Describe { id } => format!("describe {id}"),
            Request::List { coordinator } => format!("list of {coordinator}"),
            Request::Mark { partition, marker } => format!("mark {partition} {marker:?}"),
        }
    }
}
