//! Golden bytes, round trips, and any bytes.

use super::*;
use crate::codec::control::{
    AlterOutcome, AlterRefusal, Doubtful, Found, LogsFound, MutationLimit, PartitionProposal, QuestionKind,
};
use crate::codec::peer_frame::{PEER_HEADER_SIZE, PeerFrame, next_peer_frame};
use crate::codec::replication::{Acknowledgement, AlignmentOutcome, Refusal, StatedEpoch, Statement};
use crate::schema::replication as fb;
use crate::types::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset, PartitionEpoch, ShardId};
use expect_test::expect;
use flatbuffers::FlatBufferBuilder;
use proptest::collection::vec;
use proptest::prelude::*;

fn partition() -> impl Strategy<Value = TopicPartition> {
    (any::<u128>(), 0..i32::MAX).prop_map(|(topic, index)| TopicPartition {
        topic: TopicId(Uuid::from_u128(topic)),
        partition: PartitionIndex::from_wire(index).unwrap(),
    })
}

fn offset() -> impl Strategy<Value = Offset> {
    (0..=Offset::MAX.get()).prop_map(|value| Offset::new(value).unwrap())
}

fn leader_epoch() -> impl Strategy<Value = LeaderEpoch> {
    (0..=i32::MAX).prop_map(LeaderEpoch)
}

fn partition_epoch() -> impl Strategy<Value = PartitionEpoch> {
    (0..=i32::MAX).prop_map(PartitionEpoch)
}

fn broker_epoch() -> impl Strategy<Value = BrokerEpoch> {
    (0..=i64::MAX).prop_map(BrokerEpoch)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<i32>().prop_map(NodeId)
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn statement() -> impl Strategy<Value = Statement> {
    let epochs = (0..5usize, 0..1000i32, 0..1000u64).prop_map(|(count, epoch, start)| {
        let each = (0..count).map(|at| StatedEpoch {
            epoch: LeaderEpoch(epoch + at as i32 * 2),
            start_offset: Offset::new(start + at as u64 * 7).unwrap(),
        });
        each.collect::<Vec<_>>()
    });
    (partition(), leader_epoch(), any::<u32>(), [offset(), offset(), offset()], epochs).prop_map(
        |(partition, leader_epoch, session, mut ends, epochs)| {
            ends.sort();
            let [log_start, flushed_end, log_end] = ends;
            Statement { partition, leader_epoch, session, log_start, log_end, flushed_end, epochs }
        },
    )
}

fn alignment() -> impl Strategy<Value = Alignment> {
    let outcome = prop_oneof![
        Just(AlignmentOutcome::Follow),
        offset().prop_map(AlignmentOutcome::CutTo),
        offset().prop_map(AlignmentOutcome::StartOver),
        prop_oneof![
            Just(Refusal::NotLeader),
            Just(Refusal::FencedLeaderEpoch),
            Just(Refusal::UnknownLeaderEpoch),
            Just(Refusal::NoReplica),
        ]
        .prop_map(AlignmentOutcome::Refused),
    ];
    (partition(), leader_epoch(), any::<u32>(), outcome).prop_map(
        |(partition, leader_epoch, session, outcome)| Alignment { partition, leader_epoch, session, outcome },
    )
}

fn append() -> impl Strategy<Value = Append> {
    (partition(), leader_epoch(), any::<u32>(), [offset(), offset(), offset()], 0..50u32, any::<bool>())
        .prop_map(
            |(
                partition,
                leader_epoch,
                session,
                [base_offset, high_watermark, log_start],
                size,
                is_throttled,
            )| Append {
                partition,
                leader_epoch,
                session,
                base_offset,
                high_watermark,
                log_start,
                size,
                is_throttled,
            },
        )
}

fn acknowledgement() -> impl Strategy<Value = Acknowledgement> {
    (partition(), leader_epoch(), any::<u32>(), offset(), offset()).prop_map(
        |(partition, leader_epoch, session, flushed_end, log_start)| Acknowledgement {
            partition,
            leader_epoch,
            session,
            flushed_end,
            log_start,
        },
    )
}

fn altered() -> impl Strategy<Value = AlteredPartition> {
    let reason = prop_oneof![
        Just(AlterRefusal::UnknownPartition),
        Just(AlterRefusal::StaleBrokerEpoch),
        Just(AlterRefusal::NotController),
        Just(AlterRefusal::FencedLeaderEpoch),
        Just(AlterRefusal::InvalidUpdateVersion),
        Just(AlterRefusal::InvalidRequest),
        Just(AlterRefusal::IneligibleReplica),
    ];
    let outcome = prop_oneof![
        (partition_epoch(), vec(node(), 0..6))
            .prop_map(|(partition_epoch, in_sync)| { AlterOutcome::Committed { partition_epoch, in_sync } }),
        (partition_epoch(), reason)
            .prop_map(|(partition_epoch, reason)| AlterOutcome::Refused { partition_epoch, reason }),
    ];
    (partition(), leader_epoch(), outcome).prop_map(|(partition, leader_epoch, outcome)| AlteredPartition {
        partition,
        leader_epoch,
        outcome,
    })
}

fn proposal() -> impl Strategy<Value = PartitionProposal> {
    let in_sync = vec((node(), proptest::option::of(broker_epoch())), 0..6);
    (partition(), leader_epoch(), partition_epoch(), in_sync).prop_map(
        |(partition, leader_epoch, partition_epoch, in_sync)| PartitionProposal {
            partition,
            leader_epoch,
            partition_epoch,
            in_sync,
        },
    )
}

fn question() -> impl Strategy<Value = Question> {
    let kind = prop_oneof![
        Just(QuestionKind::Register),
        Just(QuestionKind::CreateTopics),
        Just(QuestionKind::DeleteTopics),
        Just(QuestionKind::CreatePartitions),
        Just(QuestionKind::IncrementalAlterConfigs),
        Just(QuestionKind::AlterConfigs),
        Just(QuestionKind::ElectLeaders),
        Just(QuestionKind::AlterClientQuotas),
        Just(QuestionKind::AutoCreate),
        Just(QuestionKind::CreateGroupsTopic),
        Just(QuestionKind::CreateTransactionsTopic),
        Just(QuestionKind::AllocateProducerIds),
        Just(QuestionKind::DescribeQuorum),
        Just(QuestionKind::AppliedIndex),
        Just(QuestionKind::AddVoter),
        Just(QuestionKind::RemoveVoter),
        Just(QuestionKind::Heartbeat),
        Just(QuestionKind::AlterPartitions),
        Just(QuestionKind::UnregisterBroker),
        Just(QuestionKind::AlterPartitionReassignments),
    ];
    let found = (partition(), uuid())
        .prop_map(|(partition, directory)| Found { partition, directory: DirectoryId(directory) });
    let name = || proptest::option::of(".{0,9}");
    let limit = (name(), name(), 0..1000u32, any::<bool>()).prop_map(|(user, client_id, rate, is_strict)| {
        MutationLimit { user, client_id, rate: f64::from(rate) / 8.0, is_strict }
    });
    let limit = proptest::option::of(limit);
    let registration = proptest::option::of(registration());
    (any::<[u64; 2]>(), kind, node(), any::<i16>(), vec(found, 0..4), limit, registration).prop_map(
        |([number, peer], kind, node, version, found, limit, registration)| Question {
            number,
            kind,
            node,
            peer,
            version,
            found,
            limit,
            registration,
        },
    )
}

fn registration() -> impl Strategy<Value = Registration> {
    let logs = prop_oneof![Just(LogsFound::Empty), vec(partition(), 0..5).prop_map(LogsFound::Damaged)];
    let doubtful = prop_oneof![Just(Doubtful::All), vec(partition(), 0..5).prop_map(Doubtful::Partitions)];
    (node(), uuid(), logs, doubtful, proptest::option::of(broker_epoch())).prop_map(
        |(node, incarnation, logs, doubtful, replaces)| Registration {
            node,
            incarnation,
            logs,
            doubtful,
            replaces,
        },
    )
}

fn message() -> impl Strategy<Value = PeerMessage> {
    prop_oneof![
        (
            uuid(),
            node(),
            any::<[u16; 2]>(),
            any::<u64>(),
            proptest::option::of((".{0,9}", any::<u16>())),
            proptest::option::of(any::<[u16; 2]>())
        )
            .prop_map(|(cluster, node, [version_min, version_max], peer, address, shards)| {
                let shards = shards.map(|[from, to]| (ShardId(from), ShardId(to)));
                PeerMessage::Greeting(Greeting {
                    cluster,
                    node,
                    version_min,
                    version_max,
                    peer,
                    address,
                    shards,
                })
            }),
        Just(PeerMessage::Quorum),
        question().prop_map(PeerMessage::Question),
        (any::<[u64; 4]>(), any::<i16>(), ".{0,9}", proptest::option::of((".{0,9}", any::<u16>()))).prop_map(
            |([number, leader, index, term], error, message, leader_address)| {
                PeerMessage::Answer(Answer { number, error, leader, leader_address, term, index, message })
            }
        ),
        (node(), broker_epoch(), vec(statement(), 0..5)).prop_map(|(node, broker_epoch, partitions)| {
            PeerMessage::Statements(Statements { node, broker_epoch, partitions })
        }),
        vec(alignment(), 0..5).prop_map(PeerMessage::Alignments),
        vec(append(), 0..5).prop_map(PeerMessage::Appends),
        (node(), broker_epoch(), any::<u64>(), vec(acknowledgement(), 0..5), any::<Option<u64>>()).prop_map(
            |(node, broker_epoch, released_bytes, partitions, throttled_bytes_max)| {
                PeerMessage::Acknowledgements(Acknowledgements {
                    node,
                    broker_epoch,
                    released_bytes,
                    partitions,
                    throttled_bytes_max,
                })
            }
        ),
        registration().prop_map(PeerMessage::Registration),
        (uuid(), broker_epoch(), any::<bool>()).prop_map(|(incarnation, broker_epoch, is_accepted)| {
            PeerMessage::Registered(Registered { incarnation, broker_epoch, is_accepted })
        }),
        (node(), broker_epoch(), any::<u64>(), any::<bool>(), vec(uuid(), 0..3)).prop_map(
            |(node, broker_epoch, metadata_offset, wants_shut_down, offline)| {
                PeerMessage::Heartbeat(Heartbeat {
                    node,
                    broker_epoch,
                    metadata_offset,
                    wants_shut_down,
                    offline_directories: offline.into_iter().map(DirectoryId).collect(),
                })
            }
        ),
        (broker_epoch(), any::<[bool; 3]>()).prop_map(
            |(broker_epoch, [is_known, is_fenced, may_shut_down])| {
                let answer = HeartbeatAnswer { broker_epoch, is_known, is_fenced, may_shut_down };
                PeerMessage::HeartbeatAnswer(answer)
            }
        ),
        (node(), broker_epoch(), vec(proposal(), 0..5)).prop_map(|(node, broker_epoch, partitions)| {
            PeerMessage::AlterPartitions(AlterPartitions { node, broker_epoch, partitions })
        }),
        vec(altered(), 0..5).prop_map(PeerMessage::AlteredPartitions),
    ]
}

fn payload_of(message: &PeerMessage) -> Vec<u8> {
    match message {
        PeerMessage::Appends(appends) => {
            (0..appends.iter().map(|append| append.size).sum()).map(|at| at as u8).collect()
        }
        _ => Vec::new(),
    }
}

fn encode(message: &PeerMessage) -> Vec<u8> {
    let payload = payload_of(message);
    let mut out = Vec::new();
    message.encode(PEER_VERSION_MAX, [payload.as_slice()], &mut out);
    out.extend(payload);
    out
}

proptest! {
    #[test]
    fn what_was_said_is_heard(message in message()) {
        let bytes = encode(&message);
        let Ok(PeerFrame::Complete { kind, version, table, payload }) = next_peer_frame(&bytes) else {
            return Err(TestCaseError::fail("no frame"));
        };
        prop_assert_eq!(version, PEER_VERSION_MAX);
        prop_assert_eq!(payload.end, bytes.len());
        prop_assert_eq!(PeerMessage::decode(kind, &bytes[table], payload.len()), Ok(message));
    }

    /// Where the checksum happens to be right, the verifier and the types have to do.
    #[test]
    fn any_table_is_refused_or_makes_sense(
        kind in 0..PeerKind::ALL.len(),
        table in vec(any::<u8>(), 0..200),
        payload in 0..100usize,
    ) {
        let _ = PeerMessage::decode(PeerKind::ALL[kind], &table, payload);
    }

    #[test]
    fn a_damaged_table_is_refused_or_makes_sense(
        message in message(),
        kind in 0..PeerKind::ALL.len(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut table = encode(&message)[PEER_HEADER_SIZE..].to_vec();
        for (at, byte) in changes {
            if !table.is_empty() {
                let at = at.index(table.len());
                table[at] = byte;
            }
        }
        let _ = PeerMessage::decode(PeerKind::ALL[kind], &table, 0);
    }
}

#[test]
fn golden_bytes_of_an_acknowledgement() {
    let partition = TopicPartition {
        topic: TopicId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
        partition: PartitionIndex::from_wire(3).unwrap(),
    };
    let acknowledgement = Acknowledgement {
        partition,
        leader_epoch: LeaderEpoch(5),
        session: 2,
        flushed_end: Offset::new(1000).unwrap(),
        log_start: Offset::new(10).unwrap(),
    };
    let bytes = encode(&PeerMessage::Acknowledgements(Acknowledgements {
        node: NodeId(1),
        broker_epoch: BrokerEpoch(77),
        released_bytes: 4096,
        partitions: vec![acknowledgement],
        throttled_bytes_max: None,
    }));
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = hex.chunks(16).map(|line| line.join(" ")).collect();
    expect![[r#"
        4f 44 52 4b 01 05 01 00 78 00 00 00 00 00 00 00
        85 e4 0c ea 48 c9 c5 23 14 00 00 00 00 00 00 00
        0c 00 1c 00 04 00 0c 00 14 00 08 00 0c 00 00 00
        01 00 00 00 14 00 00 00 4d 00 00 00 00 00 00 00
        00 10 00 00 00 00 00 00 01 00 00 00 14 00 00 00
        10 00 30 00 04 00 14 00 18 00 1c 00 20 00 28 00
        10 00 00 00 01 02 03 04 05 06 07 08 09 0a 0b 0c
        0d 0e 0f 10 03 00 00 00 05 00 00 00 02 00 00 00
        e8 03 00 00 00 00 00 00 0a 00 00 00 00 00 00 00"#]]
    .assert_eq(&lines.join("\n"));
}

/// A newer build has appended a field: an older one reads the rest.
#[test]
fn unknown_fields_mean_nothing() {
    let mut builder = FlatBufferBuilder::new();
    let topic = fb::Id::new(&[7; 16]);
    let start = builder.start_table();
    builder.push_slot_always(fb::Acknowledgement::VT_TOPIC, topic);
    builder.push_slot::<i32>(fb::Acknowledgement::VT_LEADER_EPOCH, 4, 0);
    builder.push_slot::<u64>(fb::Acknowledgement::VT_FLUSHED_END, 9, 0);
    // Two slots behind the last one that this build knows.
    builder.push_slot::<u64>(fb::Acknowledgement::VT_LOG_START + 4, 12345, 0);
    let table = builder.end_table(start);
    let partitions = builder.create_vector(&[table]);
    let start = builder.start_table();
    builder.push_slot_always(fb::Acknowledgements::VT_PARTITIONS, partitions);
    let root = builder.end_table(start);
    builder.finish(root, None);
    let decoded = PeerMessage::decode(PeerKind::Acknowledgements, builder.finished_data(), 0);
    let Ok(PeerMessage::Acknowledgements(acknowledgements)) = decoded else {
        panic!("{decoded:?}");
    };
    let found = acknowledgements.partitions[0];
    assert_eq!((found.leader_epoch.0, found.flushed_end.get(), found.log_start.get()), (4, 9, 0));
}

#[test]
fn batches_that_are_promised_have_to_be_there() {
    let mut appends = Vec::new();
    let append = Append {
        partition: TopicPartition { topic: TopicId::ZERO, partition: PartitionIndex::from_wire(0).unwrap() },
        leader_epoch: LeaderEpoch(0),
        session: 1,
        base_offset: Offset::ZERO,
        high_watermark: Offset::ZERO,
        log_start: Offset::ZERO,
        size: 10,
        is_throttled: false,
    };
    PeerMessage::Appends(vec![append, append]).encode(1, [[0; 20].as_slice()], &mut appends);
    let table = &appends[PEER_HEADER_SIZE..];
    let short = MessageError::Payload { promised: 20, found: 19 };
    assert_eq!(PeerMessage::decode(PeerKind::Appends, table, 19), Err(short));
    assert!(PeerMessage::decode(PeerKind::Appends, table, 20).is_ok());
    assert_eq!(PeerMessage::decode(PeerKind::Heartbeat, table, 1), Err(MessageError::UnexpectedPayload));
}

#[test]
#[ignore = "writes files; run by tools/fuzz/run"]
#[expect(clippy::disallowed_methods, reason = "a tool that runs as a test and writes files")]
fn write_fuzz_seeds() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let root = std::env::var("ODRADEK_FUZZ_SEEDS").expect("ODRADEK_FUZZ_SEEDS names the directory");
    let root = std::path::Path::new(&root).join("peer");
    std::fs::create_dir_all(&root).unwrap();
    let mut runner = TestRunner::deterministic();
    for number in 0..100 {
        let bytes = encode(&message().new_tree(&mut runner).unwrap().current());
        let Ok(PeerFrame::Complete { kind, table, payload, .. }) = next_peer_frame(&bytes) else {
            panic!("no frame");
        };
        let kind = PeerKind::ALL.iter().position(|known| *known == kind).unwrap() as u8;
        let size = (table.len() as u16).to_le_bytes();
        let input = [&[kind, size[0], size[1]], &bytes[table], &bytes[payload]].concat();
        std::fs::write(root.join(format!("message-{number}")), input).unwrap();
        let frames = [&[PeerKind::ALL.len() as u8, 0, 0], &bytes[..]].concat();
        std::fs::write(root.join(format!("frame-{number}")), frames).unwrap();
    }
}
