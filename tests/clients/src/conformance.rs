//! What must hold for every client: it lists what exists, writes, and reads back the very bytes, from
//! the start, from an offset and from a time; and what one wrote, another reads.

use std::time::{SystemTime, UNIX_EPOCH};

use odradek_test_harness::kafka_protocol::records::{BatchDecodeInfo, Compression, RecordBatchDecoder};
use odradek_test_harness::{Broker, Client as PlainClient, Options, Routing};

use crate::client::{Answer, Client, Codec, Ends, From, Idempotence, Kind, Listing};
use crate::records::{Outgoing, PARTITIONS, Read, TIMESTAMP_STEP_MS, records};
use crate::refusals::Refusal;

/// One client alone, every codec.
pub fn conformance(kind: Kind, routing: Routing) {
    let mut broker = start(routing);
    let mut client = kind.connect(&broker.bootstrap());
    let idempotent = Codec::ALL.map(|codec| (codec, Idempotence::On));
    let plain = [(Codec::None, Idempotence::Off), (Codec::Lz4, Idempotence::Off)];
    let mut failures = Vec::new();
    for (codec, idempotence) in idempotent.into_iter().chain(plain) {
        let topic = format!("{}-{}-{idempotence:?}", kind.name(), codec.name());
        let result = write_and_read(&broker, kind, client.as_mut(), &topic, codec, idempotence);
        if let Err(failure) = result {
            failures.push(format!("{topic}: {failure}"));
        }
    }
    // Written with one codec, and stored with the next.
    for (codec, stored) in Codec::ALL.into_iter().zip(Codec::ALL.into_iter().cycle().skip(1)) {
        let topic = format!("{}-{}-stored-{}", kind.name(), codec.name(), stored.name());
        if let Err(failure) = recompressed(&broker, kind, client.as_mut(), &topic, codec, stored) {
            failures.push(format!("{topic}: {failure}"));
        }
    }
    let topic = format!("{}-broker-time", kind.name());
    if let Err(failure) = stamped_by_the_broker(&broker, kind, client.as_mut(), &topic) {
        failures.push(format!("{topic}: {failure}"));
    }
    if kind.abilities().creates_topics {
        let topic = format!("{}-grown", kind.name());
        if let Err(failure) = grown(kind, client.as_mut(), &topic) {
            failures.push(format!("{topic}: {failure}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} under {} routing:\n{}",
        kind.name(),
        routing.name(),
        failures.join("\n")
    );
    drop(client);
    broker.stop();
}

/// Every client writes every codec, and another one reads it: over the codecs, five others.
pub fn cross_reading(routing: Routing) {
    let mut broker = start(routing);
    let mut clients: Vec<_> = Kind::ALL.iter().map(|kind| kind.connect(&broker.bootstrap())).collect();
    let mut failures = Vec::new();
    for (index, writer) in Kind::ALL.into_iter().enumerate() {
        for (distance, codec) in (1..).zip(Codec::ALL) {
            let mut reader = (index + distance) % Kind::ALL.len();
            // The next client reads instead of one that cannot tell what others write in headers; what it
            // writes itself, it reads too.
            while !Kind::ALL[reader].abilities().reads_headers {
                reader = (reader + 1) % Kind::ALL.len();
            }
            let topic = format!("{}-{}", writer.name(), codec.name());
            let seed = (index * Codec::ALL.len() + distance) as u64;
            let written = write(clients[index].as_mut(), writer, &topic, codec, Idempotence::On, seed);
            let result = written.and_then(|(sent, placed)| {
                (0..PARTITIONS as i32).try_for_each(|partition| {
                    read_from_start(clients[reader].as_mut(), &topic, partition, &sent, &placed).map(|_| ())
                })
            });
            if let Err(failure) = result {
                failures.push(format!("{topic} read by {}: {failure}", Kind::ALL[reader].name()));
            }
        }
    }
    assert!(failures.is_empty(), "under {} routing:\n{}", routing.name(), failures.join("\n"));
    drop(clients);
    broker.stop();
}

fn start(routing: Routing) -> Broker {
    // A client that makes topics by asking for their metadata cannot say how many partitions.
    Broker::start_with(Options::new(routing).set("num.partitions", &PARTITIONS.to_string()))
}

fn write_and_read(
    broker: &Broker,
    kind: Kind,
    client: &mut dyn Client,
    topic: &str,
    codec: Codec,
    idempotence: Idempotence,
) -> Answer<()> {
    let (sent, placed) = write(client, kind, topic, codec, idempotence, codec as u64)?;
    check_listing(&client.metadata(topic)?, topic, broker)?;
    check_stored(broker, topic, codec, idempotence)?;
    for partition in 0..PARTITIONS as i32 {
        let read = read_from_start(client, topic, partition, &sent, &placed)?;
        // One partition, another one for every codec: each of these is a connection of its own.
        if partition == codec as i32 {
            let end = read.len() as i64;
            same("ends", &Ends { earliest: 0, latest: end }, &client.ends(topic, partition)?)?;
            read_from_middle(client, topic, partition, &read)?;
        }
    }
    Ok(())
}

/// A topic with a `compression.type` of its own: every batch is stored with that codec, and the client reads what
/// it has written.
fn recompressed(
    broker: &Broker,
    kind: Kind,
    client: &mut dyn Client,
    topic: &str,
    codec: Codec,
    stored: Codec,
) -> Answer<()> {
    let compression = match stored {
        Codec::None => "uncompressed",
        Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => stored.name(),
    };
    let settings = [("compression.type", compression)];
    PlainClient::connect(broker).create_topic(topic, PARTITIONS as i32, &settings);
    let (sent, placed) = produce(client, kind, topic, codec, Idempotence::On, stored as u64)?;
    let batches = stored_batches(broker, topic)?;
    if let Some(other) = batches.iter().find(|batch| batch.compression != compression_of(stored)) {
        return Err(format!("a batch is stored with {:?}", other.compression));
    }
    for partition in 0..PARTITIONS as i32 {
        read_from_start(client, topic, partition, &sent, &placed)?;
    }
    Ok(())
}

/// A topic with `message.timestamp.type=LogAppendTime`: a client reads the broker's time, whatever its
/// own records said, and finds records by it.
fn stamped_by_the_broker(broker: &Broker, kind: Kind, client: &mut dyn Client, topic: &str) -> Answer<()> {
    const COUNT: i64 = 6;
    let settings = [("message.timestamp.type", "LogAppendTime")];
    PlainClient::connect(broker).create_topic(topic, PARTITIONS as i32, &settings);
    let long_ago = 1_000_000_000_000;
    let sent: Vec<Outgoing> = (0..COUNT).map(|number| small_record(3, long_ago + number)).collect();
    let before = now_ms();
    // Each on its own, so that they lie in batches of their own times.
    for record in &sent {
        client.produce(topic, Codec::Lz4, Idempotence::On, std::slice::from_ref(record))?;
    }
    let after = now_ms();
    let read = client.read(topic, 3, From::Earliest, COUNT)?;
    same("offsets", &(0..COUNT).collect(), &offsets(&read))?;
    let values: Vec<_> = sent.iter().map(|record| &record.value).collect();
    same("values", &values, &read.iter().map(|record| &record.value).collect())?;
    if !read.is_sorted_by_key(|record| record.timestamp)
        || !read.iter().all(|record| (before..=after).contains(&record.timestamp))
    {
        let times: Vec<i64> = read.iter().map(|record| record.timestamp).collect();
        return Err(format!("{} between {before} and {after} were expected, {times:?} found", kind.name()));
    }
    let time = read[3].timestamp;
    let first = read.iter().position(|record| record.timestamp >= time).expect("the fourth is");
    let from_time = client.read(topic, 3, From::Timestamp(time), COUNT)?;
    same_records("from a time", &read[first..], &from_time)
}

/// Partitions are added by the client, which then writes to the last and reads it back; what was there
/// before is unchanged.
fn grown(kind: Kind, client: &mut dyn Client, topic: &str) -> Answer<()> {
    let more = PARTITIONS + 3;
    let old = [small_record(0, now_ms())];
    let new = [small_record(more as i32 - 1, now_ms())];
    client.create(topic, PARTITIONS)?;
    client.produce(topic, Codec::None, Idempotence::On, &old)?;
    client.grow(topic, more).map_err(|error| format!("adding partitions: {error}"))?;
    same("partitions", &(0..more as i32).collect(), &client.metadata(topic)?.partitions)?;
    let placed = client.produce(topic, Codec::None, Idempotence::On, &new)?;
    same("place", &Some(vec![(more as i32 - 1, 0)]), &placed)?;
    for sent in old.into_iter().chain(new) {
        let partition = sent.partition.expect("it was chosen");
        let read = client.read(topic, partition, From::Earliest, 1)?;
        same("value", &vec![sent.value], &read.into_iter().map(|record| record.value).collect())?;
    }
    // Fewer than there are is refused, in the client's words.
    let refused = client.expect_not_grown(topic, PARTITIONS, kind.says(Refusal::FewerPartitions));
    refused.map_err(|error| format!("taking partitions away: {error}"))
}

/// A record that every client can write.
fn small_record(partition: i32, timestamp: i64) -> Outgoing {
    Outgoing {
        partition: Some(partition),
        timestamp,
        key: Some(b"key".to_vec()),
        value: Some(format!("value {timestamp}").into_bytes()),
        headers: Vec::new(),
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    i64::try_from(now.as_millis()).expect("it is before the year 292 million")
}

/// Partition and offset of every record.
type Placed = Vec<(i32, i64)>;

fn write(
    client: &mut dyn Client,
    kind: Kind,
    topic: &str,
    codec: Codec,
    idempotence: Idempotence,
    seed: u64,
) -> Answer<(Vec<Outgoing>, Placed)> {
    client.create(topic, PARTITIONS).map_err(|error| format!("creating the topic: {error}"))?;
    produce(client, kind, topic, codec, idempotence, seed)
}

/// To a topic that is there.
fn produce(
    client: &mut dyn Client,
    kind: Kind,
    topic: &str,
    codec: Codec,
    idempotence: Idempotence,
    seed: u64,
) -> Answer<(Vec<Outgoing>, Placed)> {
    let abilities = kind.abilities();
    let sent = records(abilities, seed);
    let told =
        client.produce(topic, codec, idempotence, &sent).map_err(|error| format!("producing: {error}"))?;
    let placed = match told {
        Some(placed) => placed,
        None => find(client, topic, &sent)?,
    };
    same("count of acknowledgements", &sent.len(), &placed.len())?;
    for (record, (partition, _)) in sent.iter().zip(&placed) {
        same("partition asked for", &record.partition.unwrap_or(*partition), partition)?;
    }
    let sent = if abilities.timestamps { sent } else { with_timestamps_read(client, topic, sent, &placed)? };
    Ok((sent, placed))
}

/// Where the records of a client went that does not tell, by what it reads itself. A record that is
/// not found is placed nowhere, which the checks then find.
fn find(client: &mut dyn Client, topic: &str, sent: &[Outgoing]) -> Answer<Placed> {
    let mut placed = vec![(-1, -1); sent.len()];
    for partition in 0..PARTITIONS as i32 {
        let end = client.ends(topic, partition)?.latest;
        for read in client.read(topic, partition, From::Earliest, end)? {
            let same = |(index, record): &(usize, &Outgoing)| {
                placed[*index] == (-1, -1) && record.key == read.key && record.value == read.value
            };
            if let Some((index, _)) = sent.iter().enumerate().find(same) {
                placed[index] = (partition, read.offset);
            }
        }
    }
    Ok(placed)
}

/// For a client whose timestamps are those of sending.
fn with_timestamps_read(
    client: &mut dyn Client,
    topic: &str,
    mut sent: Vec<Outgoing>,
    placed: &Placed,
) -> Answer<Vec<Outgoing>> {
    for partition in 0..PARTITIONS as i32 {
        let end = client.ends(topic, partition)?.latest;
        for read in client.read(topic, partition, From::Earliest, end)? {
            if let Some(index) = placed.iter().position(|place| *place == (partition, read.offset)) {
                sent[index].timestamp = read.timestamp;
            }
        }
    }
    Ok(sent)
}

fn check_listing(listing: &Listing, topic: &str, broker: &Broker) -> Answer<()> {
    if !listing.topics.iter().any(|found| found == topic) {
        return Err(format!("{topic} is not among the topics {:?}", listing.topics));
    }
    same("partitions", &(0..PARTITIONS as i32).collect(), &listing.partitions)?;
    let here = "127.0.0.1".to_string();
    let brokers = match broker.routing() {
        Routing::Node => vec![(1, here, broker.port())],
        Routing::Core => vec![(1000, here.clone(), broker.port() + 1), (1001, here, broker.port() + 2)],
    };
    same("brokers", &brokers, &listing.brokers)
}

/// The batches themselves: compressed as asked for (a client may leave out what does not shrink, but
/// not all of it), and sequenced or not.
fn check_stored(broker: &Broker, topic: &str, codec: Codec, idempotence: Idempotence) -> Answer<()> {
    let batches = stored_batches(broker, topic)?;
    if !batches.iter().any(|batch| batch.compression == compression_of(codec)) {
        return Err(format!("none of {} batches is stored with {}", batches.len(), codec.name()));
    }
    let sequenced = batches.iter().filter(|batch| batch.producer_id >= 0).count();
    let expected = if idempotence == Idempotence::On { batches.len() } else { 0 };
    same("count of idempotent batches", &expected, &sequenced)
}

fn stored_batches(broker: &Broker, topic: &str) -> Answer<Vec<BatchDecodeInfo>> {
    let mut plain = PlainClient::connect(broker);
    let mut batches = Vec::new();
    for partition in 0..PARTITIONS as i32 {
        let data = plain.fetch(topic, partition, 0);
        let mut bytes = data.records.unwrap_or_default();
        let infos = RecordBatchDecoder::decode_batch_info(&mut bytes).map_err(|error| error.to_string())?;
        batches.extend(infos);
    }
    Ok(batches)
}

fn compression_of(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

/// Reads a partition from its start and compares with what was sent there.
fn read_from_start(
    client: &mut dyn Client,
    topic: &str,
    partition: i32,
    sent: &[Outgoing],
    placed: &Placed,
) -> Answer<Vec<Read>> {
    let mut expected: Vec<Read> = sent
        .iter()
        .zip(placed)
        .filter(|(_, (placed_in, _))| *placed_in == partition)
        .map(|(record, (_, offset))| Read {
            offset: *offset,
            timestamp: record.timestamp,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.clone(),
        })
        .collect();
    expected.sort_by_key(|record| record.offset);
    same("offsets", &(0..expected.len() as i64).collect(), &offsets(&expected))?;
    let read = client.read(topic, partition, From::Earliest, expected.len() as i64);
    let read = read.map_err(|error| format!("reading partition {partition}: {error}"))?;
    same_records(&format!("partition {partition} from its start"), &expected, &read)?;
    Ok(read)
}

/// From an offset, from a record's very time, and from between two.
fn read_from_middle(client: &mut dyn Client, topic: &str, partition: i32, all: &[Read]) -> Answer<()> {
    let end = all.len() as i64;
    let middle = all.len() / 2;
    let from_offset = client.read(topic, partition, From::Offset(middle as i64), end)?;
    same_records("from an offset", &all[middle..], &from_offset)?;
    let time = all[middle].timestamp;
    // Half a step before: still after the record before it, for clients that set timestamps.
    for time in [time, time - TIMESTAMP_STEP_MS / 2] {
        let first = all.iter().position(|record| record.timestamp >= time).expect("the middle one is");
        let from_time = client.read(topic, partition, From::Timestamp(time), end)?;
        same_records("from a time", &all[first..], &from_time)?;
    }
    Ok(())
}

fn offsets(records: &[Read]) -> Vec<i64> {
    records.iter().map(|record| record.offset).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, found: &T) -> Answer<()> {
    if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}

/// Names the first record that differs and what of it; a value may be too long to be shown.
fn same_records(what: &str, expected: &[Read], found: &[Read]) -> Answer<()> {
    same(&format!("{what}: offsets"), &offsets(expected), &offsets(found))?;
    for (expected, found) in expected.iter().zip(found) {
        let at = |field: &str| format!("{what}: {field} at offset {}", expected.offset);
        same(&at("timestamp"), &expected.timestamp, &found.timestamp)?;
        same(&at("headers"), &expected.headers, &found.headers)?;
        for (field, expected, found) in
            [("key", &expected.key, &found.key), ("value", &expected.value, &found.value)]
        {
            if expected != found {
                let size = |field: &Option<Vec<u8>>| field.as_ref().map(Vec::len);
                let (expected, found) = (size(expected), size(found));
                return Err(format!("{}: {expected:?} bytes expected, other {found:?} found", at(field)));
            }
        }
    }
    Ok(())
}
