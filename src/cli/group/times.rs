//! When the records were written that groups are to read next.
//!
//! The brokers tell it with the records themselves: a Fetch for many partitions at once, of which one batch of each
//! is wanted. Those whose batch does not fit are asked again for more bytes, at last each alone, which gets one
//! batch however large it is (KIP-74).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use odradek::codec::record_batch::BatchView;
use odradek::log::compaction::payload::records;

use crate::cli::Failure;
use crate::cli::brokers::{Cluster, EARLIEST, Place, text};
use crate::cli::client::Client;

/// The last version that has names of topics.
const FETCH_VERSION_MAX: i16 = 12;
/// Bytes of each partition that are asked for, in turn: a batch as most clients send it, and as the largest do.
const SIZES: [i32; 2] = [16 << 10, 256 << 10];
/// Of one that is asked for alone.
const SIZE_ALONE: i32 = 1 << 20;
/// Bytes of one answer, and partitions in one request.
const ANSWER_SIZE: i32 = 64 << 20;
const PARTITIONS_MAX: usize = 256;

/// An offset of a partition.
pub type Position = (Place, i64);

/// What is found at an offset, or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Milliseconds since 1970.
    At(i64),
    /// No record is there to be read.
    Nothing,
}

/// What one answer says of an offset.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Found(Written),
    /// What the answer has ends there.
    GoOn(i64),
    /// Not one whole batch.
    TooSmall,
    /// It cannot be known: the record has no time, or the broker refuses.
    Unknown,
}

struct Question {
    position: Position,
    /// Everything from the position to here was looked at.
    from: i64,
}

/// Positions before the start of a log stand for its start. Those that nothing can be said of are left out.
pub fn written(
    cluster: &mut Cluster,
    wanted: &BTreeSet<Position>,
) -> Result<BTreeMap<Position, Written>, Failure> {
    let places: BTreeSet<Place> = wanted.iter().map(|(place, _)| place.clone()).collect();
    let starts = cluster.look_up(&places, EARLIEST)?;
    let mut found = BTreeMap::new();
    for ((host, port), places) in cluster.by_leader(&places)? {
        let places: BTreeSet<Place> = places.into_iter().collect();
        let here = wanted.iter().filter(|(place, _)| places.contains(place));
        let questions = here.filter_map(|position| {
            let from = *starts.get(&position.0)?;
            Some(Question { position: position.clone(), from: from.max(position.1) })
        });
        let questions = questions.collect();
        answer(cluster.broker(&host, port)?, questions, &mut found)?;
    }
    Ok(found)
}

fn answer(
    client: &mut Client,
    mut questions: Vec<Question>,
    found: &mut BTreeMap<Position, Written>,
) -> Result<(), Failure> {
    for size in SIZES {
        let mut too_small = Vec::new();
        while !questions.is_empty() {
            let (now, mut later) = of_one_request(questions);
            let mut looks = ask(client, &now, size)?;
            for mut question in now {
                match looks.remove(&question.position.0).unwrap_or(Look::Unknown) {
                    Look::Found(written) => _ = found.insert(question.position, written),
                    Look::GoOn(next) => {
                        question.from = next;
                        later.push(question);
                    }
                    Look::TooSmall => too_small.push(question),
                    Look::Unknown => {}
                }
            }
            questions = later;
        }
        questions = too_small;
    }
    for mut question in questions {
        while let Some(look) = ask(client, std::slice::from_ref(&question), SIZE_ALONE)?.into_values().next()
        {
            match look {
                Look::Found(written) => _ = found.insert(question.position.clone(), written),
                Look::GoOn(next) => {
                    question.from = next;
                    continue;
                }
                Look::TooSmall | Look::Unknown => {}
            }
            break;
        }
    }
    Ok(())
}

/// Those that one request can ask, of a partition one, and the others.
fn of_one_request(questions: Vec<Question>) -> (Vec<Question>, Vec<Question>) {
    let mut taken = BTreeSet::new();
    questions
        .into_iter()
        .partition(|question| taken.len() < PARTITIONS_MAX && taken.insert(question.position.0.clone()))
}

fn ask(client: &mut Client, questions: &[Question], size: i32) -> Result<BTreeMap<Place, Look>, Failure> {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for Question { position: ((topic, index), _), from } in questions {
        let partition = FetchPartition::default().with_partition(*index).with_fetch_offset(*from);
        topics.entry(topic).or_default().push(partition.with_partition_max_bytes(size));
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
    });
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(ANSWER_SIZE)
        .with_topics(topics.collect());
    let response = client.send_up_to(FETCH_VERSION_MAX, |_| request)?;
    let mut looks = BTreeMap::new();
    for topic in &response.responses {
        for data in &topic.partitions {
            let place = (topic.topic.to_string(), data.partition_index);
            if let Some(question) = questions.iter().find(|question| question.position.0 == place) {
                looks.insert(place, look(data, question.from));
            }
        }
    }
    Ok(looks)
}

fn look(data: &PartitionData, from: i64) -> Look {
    if data.error_code != 0 {
        return Look::Unknown;
    }
    let mut rest = data.records.as_deref().unwrap_or_default();
    let mut next = from;
    let mut scratch = Vec::new();
    // The last one may be cut.
    while let Ok((batch, behind)) = BatchView::split_first(rest) {
        rest = behind;
        if let Some(timestamp) = (!batch.is_control()).then(|| time_in(&batch, from, &mut scratch)).flatten()
        {
            return if timestamp < 0 { Look::Unknown } else { Look::Found(Written::At(timestamp)) };
        }
        next = next.max(batch.end_offset().to_wire());
    }
    if next >= data.high_watermark {
        Look::Found(Written::Nothing)
    } else if next > from {
        Look::GoOn(next)
    } else {
        Look::TooSmall
    }
}

/// The time of the batch's first record from an offset on; negative where it has none, or cannot be read.
fn time_in(batch: &BatchView<'_>, from: i64, scratch: &mut Vec<u8>) -> Option<i64> {
    const UNKNOWN: i64 = -1;
    if batch.last_offset().to_wire() < from {
        return None;
    }
    let Ok(mut records) = records(batch, scratch) else { return Some(UNKNOWN) };
    let base = batch.base_offset().to_wire();
    let record = records.find(|record| {
        record.as_ref().map_or(true, |record| base + i64::from(record.offset_delta) >= from)
    })?;
    Some(match record {
        Ok(_) if batch.is_log_append_time() => batch.max_timestamp().0,
        Ok(_) if batch.base_timestamp().0 < 0 => UNKNOWN,
        Ok(record) => batch.base_timestamp().0.saturating_add(record.timestamp_delta),
        Err(_) => UNKNOWN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek::codec::compression::compress;
    use odradek::codec::record_batch::{
        BatchHeader, BatchRewrite, Compression, assign_offset, rewrite_batch, stamp_append_time, write_batch,
    };
    use odradek::codec::records::{NewRecord, write_record};
    use odradek::types::{LeaderEpoch, Offset, Timestamp};

    #[test]
    fn the_record_that_is_read_next_tells_the_time() {
        for codec in Compression::ALL {
            let bytes = [batch(10, 1000, codec, &[0, 1, 2]), batch(20, 2000, codec, &[0, 3])].concat();
            let answer = data(&bytes, 30);
            for (from, expected) in [(10, 1000), (11, 1001), (12, 1002), (13, 2000), (20, 2000), (21, 2003)] {
                assert_eq!(look(&answer, from), Look::Found(Written::At(expected)), "{codec:?} {from}");
            }
            assert_eq!(look(&answer, 24), Look::GoOn(25), "compaction has left no record there");
            assert_eq!(look(&data(&bytes, 25), 24), Look::Found(Written::Nothing));
            assert_eq!(look(&data(&bytes[..bytes.len() - 1], 30), 13), Look::GoOn(15), "the last one is cut");
            assert_eq!(look(&data(&bytes[..50], 30), 10), Look::TooSmall);
            assert_eq!(look(&data(&bytes[..bytes.len() - 1], 30), 12), Look::Found(Written::At(1002)));
        }
    }

    #[test]
    fn what_has_no_time_or_is_refused_is_not_known() {
        let bytes = batch(0, -1, Compression::None, &[0]);
        assert_eq!(look(&data(&bytes, 5), 0), Look::Unknown);
        assert_eq!(look(&data(&bytes, 5).with_error_code(1), 0), Look::Unknown);
        let mut bytes = batch(0, 7, Compression::None, &[0, 9]);
        stamp_append_time(&mut bytes, Timestamp(4000));
        assert_eq!(look(&data(&bytes, 5), 0), Look::Found(Written::At(4000)));
    }

    #[test]
    fn a_request_asks_a_partition_once() {
        let question = |index, from| Question { position: (("t".to_string(), index), from), from };
        let (now, later) = of_one_request(vec![question(0, 1), question(1, 1), question(0, 2)]);
        assert_eq!((now.len(), later.len(), later[0].from), (2, 1, 2));
    }

    fn data(records: &[u8], high_watermark: i64) -> PartitionData {
        let records = Some(records.to_vec().into());
        PartitionData::default().with_high_watermark(high_watermark).with_records(records)
    }

    /// Each record as many offsets and milliseconds behind the base; those in between are compacted away.
    fn batch(base: u64, timestamp: i64, compression: Compression, deltas: &[i32]) -> Vec<u8> {
        let (mut payload, mut packed) = (Vec::new(), Vec::new());
        for delta in deltas {
            let (offset_delta, timestamp_delta) = (*delta, i64::from(*delta));
            write_record(&NewRecord { offset_delta, timestamp_delta, ..NewRecord::default() }, &mut payload);
        }
        compress(compression, &payload, &mut packed);
        let (base_timestamp, max_timestamp) = (Timestamp(timestamp), Timestamp(timestamp));
        let header = BatchHeader {
            compression,
            transactional: false,
            record_count: 5,
            base_timestamp,
            max_timestamp,
            producer: None,
        };
        let mut whole = Vec::new();
        write_batch(&header, &packed, &mut whole);
        assign_offset(&mut whole, Offset::new(base).unwrap(), LeaderEpoch::default());
        let (view, _) = BatchView::split_first(&whole).unwrap();
        let rewrite = BatchRewrite {
            compression,
            record_count: deltas.len() as u32,
            base_timestamp,
            max_timestamp,
            has_delete_horizon: false,
        };
        let mut out = Vec::new();
        rewrite_batch(&view, &rewrite, &packed, &mut out);
        out
    }
}
