use super::*;
use crate::cluster::log_entry::{Damage, encode_entry};
use crate::cluster::quorum::entry::Payload;
use crate::cluster::quorum::members::MemberChange;
use crate::types::limits::IO_ALIGNMENT;
use crate::types::{NodeId, TopicId, Uuid};
use proptest::prelude::*;

fn peer(node: i32) -> PeerId {
    PeerId::new(NodeId(node), 0)
}

fn topic(number: u128) -> Record {
    Record::TopicCreated { topic: TopicId(Uuid::from_u128(number)), name: format!("topic-{number}") }
}

fn entry(index: u64, term: u64) -> LogEntry {
    let records = encoding::encode(&[topic(u128::from(index))]);
    LogEntry { term, index, payload: Payload::Records(records.into()) }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: Some(peer(2)), commit }
}

fn write(hard_state: HardState, entries: &[(u64, u64)]) -> Write {
    Write { hard_state, entries: entries.iter().map(|&(index, term)| entry(index, term)).collect() }
}

/// A founded log with these writes behind it.
fn file(writes: &[Write]) -> Vec<u8> {
    let members = Members::voters([peer(1), peer(2), peer(3)]);
    let founding = Snapshot::founding(members, &[topic(1000)]);
    let mut writer = FrameWriter::new(EntrySequence::FIRST);
    let first = Write { hard_state: Snapshot::founding_state(), entries: Vec::new() };
    let mut bytes = writer.replace(&founding, &first).expect("small");
    writes.iter().for_each(|write| bytes.extend(writer.append(write).expect("small")));
    bytes
}

fn indexes(recovered: &Recovered) -> Vec<(u64, u64)> {
    recovered.entries.iter().map(|entry| (entry.index, entry.term)).collect()
}

#[test]
fn what_was_written_is_found() {
    let mut change = write(state(2, 2), &[(2, 2)]);
    let payload = Payload::Members(MemberChange::AddObserver(peer(9)));
    change.entries.push(LogEntry { term: 2, index: 3, payload });
    let bytes = file(&[change.clone(), write(state(3, 2), &[])]);
    let scanned = scan(&bytes, peer(1));
    assert_eq!((scanned.verdict, scanned.valid_end), (Verdict::Clean, bytes.len()));
    let Recovered { base, hard_state, entries, next, upgraded } = scanned.recovered;
    assert_eq!((base.index, base.term), (FOUNDING_INDEX, FOUNDING_TERM));
    assert_eq!(decode_parts(&base.parts), Ok(vec![topic(1000)]));
    assert_eq!(base.members, Members::voters([peer(1), peer(2), peer(3)]));
    assert_eq!((hard_state, entries), (state(3, 2), change.entries));
    assert_eq!((next, upgraded), (EntrySequence(6), false), "head, part, and three writes");
}

#[test]
fn later_entries_take_the_place_of_earlier_ones() {
    let bytes = file(&[write(state(2, 1), &[(2, 2), (3, 2), (4, 2)]), write(state(3, 1), &[(3, 3)])]);
    assert_eq!(indexes(&scan(&bytes, peer(1)).recovered), [(2, 2), (3, 3)]);
}

#[test]
fn more_may_be_committed_than_is_here() {
    let bytes = file(&[write(state(2, 3), &[(2, 2), (3, 2)]), write(state(2, 9), &[(4, 2)])]);
    assert_eq!(scan(&bytes, peer(1)).recovered.hard_state.commit, 4);
    let cut = bytes.len() - IO_ALIGNMENT;
    assert_eq!(scan(&bytes[..cut], peer(1)).recovered.hard_state.commit, 3);
}

#[test]
fn writes_that_contradict_each_other_are_refused() {
    let refused = |writes: &[Write]| match scan(&file(writes), peer(1)).verdict {
        Verdict::Unreadable { error: DecodeError::Quorum(error), .. } => error,
        other => panic!("{other:?}"),
    };
    use InvalidWrite::*;
    assert_eq!(refused(&[write(state(2, 1), &[(3, 2)])]), Gap { first: 3, base: 1, last: 1 });
    assert_eq!(refused(&[write(state(2, 1), &[(1, 2)])]), Gap { first: 1, base: 1, last: 1 });
    let committed = [write(state(2, 2), &[(2, 2)]), write(state(3, 2), &[(2, 3)])];
    assert_eq!(refused(&committed), Committed { index: 2 });
    let back = [write(state(3, 1), &[]), write(state(2, 1), &[])];
    assert_eq!(refused(&back), TermGoesBack { found: 2, before: 3 });
    let older = [write(state(3, 1), &[(2, 3)]), write(state(3, 1), &[(3, 2)])];
    assert_eq!(refused(&older), Entry(InvalidEntry::Term { index: 3, term: 2, before: 3 }));
}

#[test]
fn a_snapshot_without_all_its_parts_is_no_torn_tail() {
    let bytes = file(&[]);
    let scanned = scan(&bytes[..IO_ALIGNMENT], peer(1));
    let error = DecodeError::Quorum(InvalidWrite::Parts { missing: 1 });
    assert_eq!(scanned.verdict, Verdict::Unreadable { sequence: EntrySequence(2), error });
}

#[test]
fn a_torn_write_is_not_there_at_all() {
    let whole = file(&[write(state(2, 1), &[(2, 2)])]);
    let mut bytes = file(&[write(state(2, 1), &[(2, 2)]), write(state(4, 2), &[(3, 4)])]);
    bytes[whole.len() + 60] ^= 1;
    let scanned = scan(&bytes, peer(1));
    assert!(matches!(scanned.verdict, Verdict::TornTail { damage: Damage::Checksum { .. } }));
    assert_eq!(scanned.recovered, scan(&whole, peer(1)).recovered, "neither its state nor its entries");
    assert_eq!(scanned.valid_end, whole.len());
}

#[test]
fn writes_that_share_a_flush_are_one() {
    let mut one = write(state(2, 1), &[(2, 2), (3, 2)]);
    assert_eq!(one.absorb(write(state(3, 1), &[(3, 3)])), None);
    assert_eq!(one, write(state(3, 1), &[(2, 2), (3, 3)]));
    assert_eq!(one.absorb(write(state(4, 2), &[])), None);
    assert_eq!(one, write(state(4, 2), &[(2, 2), (3, 3)]));
    let large = Payload::Records(vec![0; METADATA_ENTRY_SIZE_MAX / 2].into());
    let later =
        Write { hard_state: state(4, 2), entries: vec![LogEntry { term: 4, index: 4, payload: large }] };
    assert_eq!(one.absorb(later.clone()), Some(later), "no frame holds both");
}

/// The first two entries of a log as the builds before the quorum wrote them: a cluster and its level; a topic.
const ENTRIES_BEFORE_THE_QUORUM: [&str; 2] = [
    "4f444d4470000000010000000000000000000000e3ab2aca0c00000008000c0006000800080000000000040004000000\
     020000002c00000004000000e4ffffff000000020c0000000000060008000600060000000000040008000e0007000800\
     08000000000000010c000000000006001400040006000000000000000000000000000000000000c1",
    "4f444d4460000000020000000000000000000000908502dc0c00000008000c0006000800080000000000010004000000\
     010000000c00000008000c000700080008000000000000040c0000000800180004001400080000000000000000000000\
     00000000000000070400000007000000746f7069632d3700",
];

/// Their padding is left out here.
fn log_before_the_quorum() -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in ENTRIES_BEFORE_THE_QUORUM {
        let byte = |at| u8::from_str_radix(&entry[at..at + 2], 16).expect("hexadecimal");
        bytes.extend((0..entry.len()).step_by(2).map(byte));
        bytes.resize(bytes.len().next_multiple_of(IO_ALIGNMENT), 0);
    }
    bytes
}

fn records_before_the_quorum() -> Vec<Record> {
    let cluster_id = Uuid::from_u128(0xC1);
    vec![Record::ClusterCreated { cluster_id }, Record::FeatureLevelSet { level: 4 }, topic(7)]
}

#[test]
fn a_log_before_the_quorum_is_still_written_so() {
    let records = records_before_the_quorum();
    let mut bytes = encode_entry(EntrySequence(1), &records[..2]).expect("small");
    bytes.extend(encode_entry(EntrySequence(2), &records[2..]).expect("small"));
    assert_eq!(bytes, log_before_the_quorum());
}

#[test]
fn a_log_before_the_quorum_is_the_image_of_a_quorum_of_one() {
    let scanned = scan(&log_before_the_quorum(), peer(5));
    assert_eq!(scanned.verdict, Verdict::Clean);
    let recovered = scanned.recovered;
    assert!(recovered.upgraded && recovered.entries.is_empty());
    assert_eq!((recovered.base.index, recovered.base.term), (2, FOUNDING_TERM));
    assert_eq!(recovered.base.members, Members::voters([peer(5)]));
    assert_eq!(decode_parts(&recovered.base.parts), Ok(records_before_the_quorum()));
    assert_eq!(recovered.hard_state, HardState { term: FOUNDING_TERM, vote: Some(peer(5)), commit: 2 });
    assert_eq!(recovered.next, EntrySequence(3));
}

#[test]
fn a_log_before_the_quorum_that_begins_with_a_snapshot_keeps_its_numbers() {
    let bytes: Vec<u8> = [(70, topic(1)), (71, topic(2))]
        .into_iter()
        .flat_map(|(sequence, record)| encode_entry(EntrySequence(sequence), &[record]).expect("small"))
        .collect();
    let recovered = scan(&bytes, peer(5)).recovered;
    assert_eq!((recovered.base.index, recovered.next), (71, EntrySequence(72)));
}

#[test]
fn a_log_before_the_quorum_is_gone_on_with_in_place() {
    let mut bytes = log_before_the_quorum();
    let mut writer = FrameWriter::new(scan(&bytes, peer(5)).recovered.next);
    let hard_state = HardState { term: 2, vote: Some(peer(5)), commit: 2 };
    bytes.extend(writer.append(&write(hard_state, &[(3, 2)])).expect("small"));
    let scanned = scan(&bytes, peer(5));
    assert_eq!(scanned.verdict, Verdict::Clean);
    assert!(scanned.recovered.upgraded);
    assert_eq!((scanned.recovered.base.index, indexes(&scanned.recovered)), (2, vec![(3, 2)]));
    assert_eq!(scanned.recovered.hard_state, hard_state);
    // And a build before the quorum refuses to start from it, rather than to take it for a torn tail.
    let error = DecodeError::FeatureLevel { written: FEATURE_LEVEL_QUORUM };
    let verdict = crate::cluster::log_entry::tests::scan(&bytes).verdict;
    assert_eq!(verdict, Verdict::Unreadable { sequence: EntrySequence(3), error });
    // One of its entries behind ours was written by nobody.
    bytes.extend(encode_entry(EntrySequence(4), &[topic(8)]).expect("small"));
    let error = DecodeError::Quorum(InvalidWrite::Untermed);
    let verdict = scan(&bytes, peer(5)).verdict;
    assert_eq!(verdict, Verdict::Unreadable { sequence: EntrySequence(4), error });
}

#[test]
fn a_damaged_log_before_the_quorum_is_judged_as_ever() {
    let mut bytes = log_before_the_quorum();
    bytes[IO_ALIGNMENT + 30] ^= 1;
    let scanned = scan(&bytes, peer(5));
    assert!(matches!(scanned.verdict, Verdict::TornTail { .. }));
    assert_eq!(scanned.recovered.base.index, 1);
    let mut bytes = log_before_the_quorum();
    bytes[30] ^= 1;
    assert!(matches!(scan(&bytes, peer(5)).verdict, Verdict::Corrupt { .. }));
}

#[test]
fn an_empty_file_knows_of_no_quorum() {
    for bytes in [Vec::new(), vec![0; 2 * IO_ALIGNMENT]] {
        let scanned = scan(&bytes, peer(1));
        assert_eq!((scanned.recovered, scanned.verdict), (Recovered::nothing(), Verdict::Clean));
    }
    // It may have promised something already.
    let hard_state = HardState { term: 4, vote: Some(peer(2)), commit: 0 };
    let bytes = FrameWriter::new(EntrySequence::FIRST).append(&write(hard_state, &[])).expect("small");
    let recovered = scan(&bytes, peer(1)).recovered;
    assert_eq!((recovered.hard_state, recovered.base), (hard_state, Snapshot::default()));
}

proptest! {
    #[test]
    fn any_cut_leaves_the_writes_before_it(
        sizes in proptest::collection::vec(0..9u64, 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut writes = Vec::new();
        let mut last = FOUNDING_INDEX;
        for (term, size) in (2..).zip(sizes) {
            let entries: Vec<(u64, u64)> = (last + 1..=last + size).map(|index| (index, term)).collect();
            last += size;
            writes.push(write(state(term, last), &entries));
        }
        let whole = file(&writes);
        let founding = file(&[]).len();
        let cut = founding + cut.index(whole.len() - founding);
        let scanned = scan(&whole[..cut], peer(1));
        let harmless = matches!(scanned.verdict, Verdict::Clean | Verdict::TornTail { .. });
        prop_assert!(harmless, "{:?}", scanned.verdict);
        let all = scan(&whole, peer(1)).recovered.entries;
        prop_assert_eq!(&all[..scanned.recovered.entries.len()], &scanned.recovered.entries[..]);
        prop_assert!(scanned.valid_end <= cut.next_multiple_of(IO_ALIGNMENT));
    }

    #[test]
    fn any_bytes_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = encode_frame(EntrySequence::FIRST, &payload).expect("small");
        let _ = scan(&bytes, peer(1));
    }

    #[test]
    fn any_change_of_a_frame_with_its_checksum_right_never_panics(
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut payload = encode_write(&write(state(2, 1), &[(2, 2), (3, 2)]));
        let at = at.index(payload.len());
        payload[at] = to;
        let mut bytes = file(&[]);
        let next = scan(&bytes, peer(1)).recovered.next;
        bytes.extend(encode_frame(next, &payload).expect("small"));
        let _ = scan(&bytes, peer(1));
    }
}
