//! What a producer is told when its batch cannot be taken, and that nothing of it is stored.

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, BatchProducer, Broker, Client, Routing, legacy_message_set};

use crate::now_ms;

const CRC: usize = 17; // Position of the batch's checksum.
const RECORD_COUNT: usize = 57;

#[test]
fn batches_that_cannot_be_taken_are_refused_with_their_code() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("strict", 2, &[("max.message.bytes", "2000")]);
        let whole = Batch::of(&["a", "b"], now_ms()).bytes();

        let mut wrong_crc = whole.to_vec();
        wrong_crc[CRC] ^= 1;
        let mut flipped = whole.to_vec();
        *flipped.last_mut().expect("it has bytes") ^= 0x80;
        let mut wrong_count = whole.to_vec();
        wrong_count[RECORD_COUNT + 3] += 1;
        let cut = whole[..whole.len() - 1].to_vec();
        let two = [&whole[..], &whole[..]].concat();
        let too_large = Batch::of(&[vec![7; 3000]], now_ms()).bytes().to_vec();
        let cases = [
            ("format 0", legacy_message_set(0, b"old").to_vec(), ResponseError::UnsupportedForMessageFormat),
            ("format 1", legacy_message_set(1, b"old").to_vec(), ResponseError::UnsupportedForMessageFormat),
            ("wrong CRC", wrong_crc, ResponseError::CorruptMessage),
            ("flipped bit", flipped, ResponseError::CorruptMessage),
            ("cut short", cut, ResponseError::CorruptMessage),
            ("record count without its CRC", wrong_count, ResponseError::CorruptMessage),
            ("two batches", two, ResponseError::InvalidRecord),
            ("too large", too_large, ResponseError::MessageTooLarge),
        ];
        for (what, bytes, error) in cases {
            for partition in 0..2 {
                let produced = client.produce_bytes("strict", partition, bytes.clone().into());
                assert_eq!(produced, Err(error), "{what}");
                assert_eq!(client.list_offset("strict", partition, -1), 0, "{what}: nothing is stored");
            }
        }
        for partition in 0..2 {
            assert_eq!(client.produce_bytes("strict", partition, whole.clone()), Ok(0));
        }
        broker.stop();
    }
}

#[test]
fn produce_names_what_is_wrong_with_the_request() {
    let broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("known", 1, &[]);
    let batch = || Batch::of(&["a"], now_ms()).bytes();
    let cases = [
        (Client::produce_request("unknown", 0, batch()), ResponseError::UnknownTopicOrPartition),
        (Client::produce_request("known", 7, batch()), ResponseError::UnknownTopicOrPartition),
        (Client::produce_request("known", 0, batch()).with_acks(2), ResponseError::InvalidRequiredAcks),
    ];
    for (request, error) in cases {
        let response = client.bootstrap().call(Client::PRODUCE_VERSION, &request);
        assert_eq!(ResponseError::try_from_code(Client::partition_answer(&response).error_code), Some(error));
    }
}

#[test]
fn sequences_are_checked_as_kafka_does() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("sequenced", 2, &[]);
        for partition in 0..2 {
            let producer = client.init_producer();
            let batch = |sequence, epoch| {
                Batch::of(&["a", "b"], now_ms()).by(BatchProducer { sequence, epoch, ..producer }).bytes()
            };
            for (sequence, offset) in [(0, 0), (2, 2), (4, 4), (2, 2), (0, 0)] {
                assert_eq!(client.produce_bytes("sequenced", partition, batch(sequence, 0)), Ok(offset));
            }
            let refused = client.produce_bytes("sequenced", partition, batch(8, 0));
            assert_eq!(refused, Err(ResponseError::OutOfOrderSequenceNumber));
            assert_eq!(
                client.produce_bytes("sequenced", partition, batch(0, 1)),
                Ok(6),
                "a new epoch starts over"
            );
            let fenced = client.produce_bytes("sequenced", partition, batch(6, 0));
            assert_eq!(fenced, Err(ResponseError::InvalidProducerEpoch));
            assert_eq!(client.list_offset("sequenced", partition, -1), 8);
        }
    }
}
