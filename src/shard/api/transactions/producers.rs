//! InitProducerId, EndTxn.

use crate::codec::control_record::TransactionOutcome;
use crate::codec::error_code::ErrorCode;
use crate::shard::api::groups::Asking;
use crate::shard::api::transactions::known_error;
use crate::shard::producer_ids;
use crate::shard::transactions::{TransactionReply, TransactionRequest};
use crate::txn::transaction::{End, Init};
use crate::txn::{Answer, Writer};
use crate::types::{ProducerEpoch, ProducerId, TransactionVersion};
use kafka_protocol::messages::{
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse,
};

/// The first version of InitProducerId that says that a producer is fenced (KIP-588).
const INIT_FENCED_FROM: i16 = 4;
const INIT_ABORTABLE_FROM: i16 = 5;
/// The same of EndTxn.
const END_FENCED_FROM: i16 = 2;
const END_ABORTABLE_FROM: i16 = 4;
/// The first version of EndTxn whose answer has the next epoch (KIP-890).
const END_EPOCH_FROM: i16 = 5;
/// "None", of producer ids and epochs.
const NONE: i16 = -1;

/// Without a transactional id: a new producer id.
pub async fn init(asking: &Asking<'_>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let told = match &request.transactional_id {
        None => {
            let id = producer_ids::next(asking.shard).await;
            id.map(|producer| Writer { producer, epoch: ProducerEpoch(0) })
        }
        Some(id) => match expected(&request) {
            Ok(expected) => {
                let init = Init { timeout_ms: request.transaction_timeout_ms, expected };
                told(asking.ask_transaction(id, TransactionRequest::Init(init)).await)
            }
            Err(error) => Err(error),
        },
    };
    let response = InitProducerIdResponse::default();
    match told {
        Ok(Writer { producer, epoch }) => {
            response.with_producer_id(producer.0.into()).with_producer_epoch(epoch.0)
        }
        Err(error) => {
            let error = known_error(error, asking.version, INIT_FENCED_FROM, INIT_ABORTABLE_FROM);
            let response = response.with_producer_id(i64::from(NONE).into()).with_producer_epoch(NONE);
            response.with_error_code(error.code())
        }
    }
}

/// Who the producer says it is: both parts of that, or neither.
fn expected(request: &InitProducerIdRequest) -> Result<Option<Writer>, ErrorCode> {
    let (producer, epoch) = (request.producer_id.0, request.producer_epoch);
    match (producer == i64::from(NONE), epoch == NONE) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(Writer { producer: ProducerId(producer), epoch: ProducerEpoch(epoch) })),
        _ => Err(ErrorCode::InvalidRequest),
    }
}

pub async fn end(asking: &Asking<'_>, request: EndTxnRequest) -> EndTxnResponse {
    let end = End {
        writer: Writer {
            producer: ProducerId(request.producer_id.0),
            epoch: ProducerEpoch(request.producer_epoch),
        },
        version: match asking.version {
            ..END_EPOCH_FROM => TransactionVersion::V1,
            END_EPOCH_FROM.. => TransactionVersion::V2,
        },
        outcome: match request.committed {
            true => TransactionOutcome::Commit,
            false => TransactionOutcome::Abort,
        },
    };
    let told = told(asking.ask_transaction(&request.transactional_id, TransactionRequest::End(end)).await);
    let response = EndTxnResponse::default();
    match told {
        Ok(Writer { producer, epoch }) if asking.version >= END_EPOCH_FROM => {
            response.with_producer_id(producer.0.into()).with_producer_epoch(epoch.0)
        }
        Ok(_) => response,
        Err(error) => {
            let error = known_error(error, asking.version, END_FENCED_FROM, END_ABORTABLE_FROM);
            response.with_error_code(error.code())
        }
    }
}

fn told(reply: TransactionReply) -> Result<Writer, ErrorCode> {
    match reply {
        TransactionReply::Answer(Answer::Writer(told)) => told,
        TransactionReply::Refused(error) => Err(error),
        TransactionReply::Answer(Answer::Added(_))
        | TransactionReply::Verified(_)
        | TransactionReply::Described(_) => unreachable!("a producer is told who it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_says_who_it_is_or_does_not() {
        let request = |producer: i64, epoch| {
            let request = InitProducerIdRequest::default().with_producer_id(producer.into());
            expected(&request.with_producer_epoch(epoch))
        };
        assert_eq!(expected(&InitProducerIdRequest::default()), Ok(None));
        assert_eq!(request(5, -1), Err(ErrorCode::InvalidRequest));
        assert_eq!(request(-1, 0), Err(ErrorCode::InvalidRequest));
        let writer = Writer { producer: ProducerId(5), epoch: ProducerEpoch(0) };
        assert_eq!(request(5, 0), Ok(Some(writer)));
    }

    #[test]
    fn older_versions_are_told_what_they_know() {
        let known = |error, version| known_error(error, version, INIT_FENCED_FROM, INIT_ABORTABLE_FROM);
        assert_eq!(known(ErrorCode::ProducerFenced, 3), ErrorCode::InvalidProducerEpoch);
        assert_eq!(known(ErrorCode::ProducerFenced, 4), ErrorCode::ProducerFenced);
        assert_eq!(known(ErrorCode::TransactionAbortable, 4), ErrorCode::InvalidTxnState);
        assert_eq!(known(ErrorCode::TransactionAbortable, 5), ErrorCode::TransactionAbortable);
    }
}
