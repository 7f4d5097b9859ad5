//! `compression.type`: batches stored in another codec than their producer's.

use odradek::codec::record_batch::{BatchView, Compression};
use odradek::log::compaction::payload::records;
use odradek::log::recompression::{StoredCompression, recompress};
use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::ProduceRequest;
use odradek_test_harness::{Batch, BatchProducer, Broker, Client, Options, Routing, records_of};

use crate::administration::set;
use crate::now_ms;

const TOPIC: i8 = 2;
const CODECS: [(&str, Compression); 5] = [
    ("uncompressed", Compression::None),
    ("gzip", Compression::Gzip),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
];

/// A record that is compressed in the turn of its core, or one that is not.
fn value(number: usize) -> Vec<u8> {
    let size = if number.is_multiple_of(3) { 300_000 } else { 100 };
    format!("{number},").into_bytes().repeat(size / 4)
}

fn packed(batch: &Batch, codec: Compression) -> Vec<u8> {
    let bytes = batch.bytes();
    let (view, _) = BatchView::split_first(&bytes).expect("it is whole");
    match codec {
        Compression::None => bytes.to_vec(),
        _ => recompress(&view, StoredCompression { codec, level: None }, 1 << 20).expect("it is valid"),
    }
}

/// Codec, first sequence and values of each batch.
type Stored = Vec<(Compression, i32, Vec<Vec<u8>>)>;

fn stored(client: &mut Client, topic: &str, partition: i32) -> Stored {
    let mut stored = Vec::new();
    let mut offset = 0;
    loop {
        let data = client.fetch(topic, partition, offset);
        let bytes = data.records.unwrap_or_default();
        let mut rest = &bytes[..];
        let before = offset;
        while let Ok((batch, behind)) = BatchView::split_first(rest) {
            rest = behind;
            batch.validate_stored().expect("its CRC is right");
            assert_eq!(batch.base_offset().to_wire(), offset);
            offset = batch.end_offset().to_wire();
            let mut scratch = Vec::new();
            let records = records(&batch, &mut scratch).expect("they can be decompressed");
            let values = records.map(|record| record.expect("it is whole").value.expect("a value").to_vec());
            let sequence = batch.producer().map_or(-1, |producer| producer.base_sequence.0);
            stored.push((batch.compression().expect("a codec"), sequence, values.collect()));
        }
        if offset == before {
            return stored;
        }
    }
}

#[test]
fn batches_are_stored_in_the_codec_of_their_topic_and_in_their_order() {
    const COUNT: usize = 12;
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(Options::new(routing));
        let mut client = Client::connect(&broker);
        let mut expected: Vec<(String, i32, Stored)> = Vec::new();
        for (name, codec) in CODECS {
            let topic = format!("as-{name}");
            client.create_topic(&topic, 2, &[("compression.type", name), ("compression.gzip.level", "9")]);
            // From two connections, maybe of other cores.
            for partition in 0..2 {
                let producer = client.init_producer();
                let batch = |number: usize| {
                    let from = Compression::ALL[(number + partition as usize) % Compression::ALL.len()];
                    let sent = BatchProducer { sequence: number as i32, ..producer };
                    packed(&Batch::of(&[value(number)], now_ms()).by(sent), from)
                };
                let connection = client.to_leader(&topic, partition);
                for number in 0..COUNT {
                    let request = Client::produce_request(&topic, partition, batch(number).into());
                    connection.send(Client::PRODUCE_VERSION, &request).expect("the broker reads");
                }
                for number in 0..COUNT {
                    let response = connection.receive::<ProduceRequest>(Client::PRODUCE_VERSION);
                    let response = response.expect("it is answered");
                    let answer = Client::partition_answer(&response);
                    assert_eq!((answer.error_code, answer.base_offset), (0, number as i64));
                }
                // Once more is no more; what comes too early is refused.
                let again = client.produce_bytes(&topic, partition, batch(COUNT - 1).into());
                assert_eq!(again, Ok(COUNT as i64 - 1));
                let early = client.produce_bytes(&topic, partition, batch(COUNT + 1).into());
                assert_eq!(early, Err(ResponseError::OutOfOrderSequenceNumber));
                let all = (0..COUNT).map(|number| (codec, number as i32, vec![value(number)]));
                expected.push((topic.clone(), partition, all.collect()));
            }
        }
        for (topic, partition, expected) in &expected {
            assert!(stored(&mut client, topic, *partition) == *expected, "{topic}-{partition}");
        }
        broker.kill();
        broker.start_again();
        let mut client = Client::connect(&broker);
        for (topic, partition, expected) in &expected {
            assert!(stored(&mut client, topic, *partition) == *expected, "{topic}-{partition}");
        }
        let plain = client.fetch("as-uncompressed", 0, 1);
        assert_eq!(records_of(&plain)[0].value, value(1));
        broker.stop();
    }
}

#[test]
fn what_is_stored_changes_with_the_topic_and_with_the_broker() {
    let mut broker = Broker::start_with(Options::new(Routing::Node).set("compression.type", "zstd"));
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[]);
    let write = |client: &mut Client, offset: i64| {
        assert_eq!(client.produce("t", 0, &Batch::of(&["value"], now_ms())), offset);
    };
    write(&mut client, 0);
    assert_eq!(set(&mut client, TOPIC, "t", "compression.type", Some("producer")).0, 0);
    write(&mut client, 1);
    assert_eq!(set(&mut client, TOPIC, "t", "compression.type", Some("lz4")).0, 0);
    assert_eq!(set(&mut client, TOPIC, "t", "message.timestamp.type", Some("LogAppendTime")).0, 0);
    write(&mut client, 2);
    let (code, message) = set(&mut client, TOPIC, "t", "compression.type", Some("brotli"));
    assert_eq!(code, ResponseError::InvalidConfig.code(), "{message}");
    let codecs: Vec<_> = stored(&mut client, "t", 0).into_iter().map(|(codec, ..)| codec).collect();
    assert_eq!(codecs, [Compression::Zstd, Compression::None, Compression::Lz4]);
    broker.stop();
}

#[test]
fn batches_that_grow_too_large_or_are_damaged_are_refused() {
    let mut broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("t", 1, &[("compression.type", "uncompressed"), ("max.message.bytes", "100000")]);
    let large = packed(&Batch::of(&[vec![7; 200_000]], now_ms()), Compression::Zstd);
    assert!(large.len() < 1000);
    let refused = client.produce_bytes("t", 0, large.into());
    assert_eq!(refused, Err(ResponseError::MessageTooLarge));
    let damaged = Batch::of(&["not compressed"], now_ms()).claiming_codec(1).bytes();
    assert_eq!(client.produce_bytes("t", 0, damaged), Err(ResponseError::InvalidRecord));
    assert_eq!(client.produce("t", 0, &Batch::of(&["fine"], now_ms())), 0);
    broker.stop();
}
