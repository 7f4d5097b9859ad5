//! Segments of a few batches, one thing changed, and what is said.

use super::*;
use crate::codec::record_batch::{BatchView, assign_offset, seal};
use crate::log::checksums::check::{ChecksumCompare, ExtentCheck};
use crate::log::checksums::rebuild::{ChecksumRebuild, Rebuilt};
use crate::log::checksums::walk::DamageAt;
use crate::log::epochs::LeaderEpochs;
use crate::log::index::SegmentExtent;
use crate::log::recovery::Damage;
use crate::log::samples::{SampleBatch, sample_segment};
use crate::types::{LeaderEpoch, PartitionIndex};
use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;

const BASE: u64 = 100;
const EPOCH: LeaderEpoch = LeaderEpoch(3);

#[test]
fn layout_of_the_file() {
    let (_, checksums) = segment(&[10, 20, 40_000, 5]);
    let hex: String = checksums.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    expect!["4f44524b53554d530002000000000000000000000000000000070000000300000000000000640000000000009d5700000003000000001973d038000000982530bf7a00009d1575452be0710e2a6b"]
        .assert_eq(&hex);
    assert_eq!(SegmentChecksums::decode(id(), checksums.end(), &checksums.encode()), Ok(checksums));
}

#[test]
fn batches_of_transactions_are_remembered() {
    let (bytes, mut checksums) = segment(&[10, 20]);
    assert_eq!(checksums.has_transactions(), HasTransactions::No);
    let (batch, _) = BatchView::split_first(&bytes).unwrap();
    let mut header = *batch.header();
    header[22] |= 1 << 4;
    checksums.observe(&header, batch.size() as u32);
    checksums.observe(batch.header(), batch.size() as u32);
    assert_eq!(checksums.has_transactions(), HasTransactions::Yes);
    let decode = |bytes: &[u8]| SegmentChecksums::decode(id(), checksums.end(), bytes);
    assert_eq!(decode(&checksums.encode()).as_ref(), Ok(&checksums));
    // An earlier build's file.
    let mut earlier = segment(&[10, 20]).1.encode();
    earlier[9] = 1;
    let crc_at = earlier.len() - 4;
    let crc = crc32fast::hash(&earlier[..crc_at]);
    earlier[crc_at..].copy_from_slice(&crc.to_be_bytes());
    let found = SegmentChecksums::decode(id(), segment(&[10, 20]).1.end(), &earlier).unwrap();
    assert_eq!(found, segment(&[10, 20]).1);
}

#[test]
fn a_companion_of_something_else_is_refused() {
    let (_, checksums) = segment(&[10, 20, 40_000, 5]);
    let bytes = checksums.encode();
    let decode = |segment, size| SegmentChecksums::decode(segment, size, &bytes).err();
    let partition = TopicPartition { partition: PartitionIndex::from_wire(4).unwrap(), ..id().partition };
    assert_eq!(decode(id(), checksums.end()), None);
    assert_eq!(decode(id(), checksums.end() + 1), Some(ChecksumsError::Foreign));
    let other = SegmentId { partition, ..id() };
    assert_eq!(decode(other, checksums.end()), Some(ChecksumsError::Foreign));
    let other = SegmentId { base_offset: offset(101), ..id() };
    assert_eq!(decode(other, checksums.end()), Some(ChecksumsError::Foreign));
}

/// Every field, and every part of a batch that could be somebody else's.
#[test]
fn no_changed_byte_passes_and_each_is_told_where_it_is() {
    let (bytes, checksums) = segment(&[10, 2_000, 30_000, 500, 40_000, 7]);
    assert_eq!(check(&bytes, &checksums), None);
    // Of the second extent, which begins with the fourth batch.
    let extent = checksums.extent_at(1).unwrap();
    let at = extent.start as usize;
    for (what, byte) in [
        ("base offset", at + 7),
        ("length", at + 11),
        ("leader epoch", at + 15),
        ("magic", at + 16),
        ("crc", at + 20),
        ("attributes", at + 22),
        ("last offset delta", at + 26),
        ("max timestamp", at + 42),
        ("payload", at + 70),
    ] {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            let damage = check(&changed, &checksums).expect(what);
            assert!((extent.start..extent.end).contains(&damage.file_position), "{what}: {damage}");
        }
    }
}

#[test]
fn a_whole_batch_of_elsewhere_is_told() {
    let sizes = [1_000, 1_000, 1_000, 40_000, 1_000];
    let (bytes, checksums) = segment(&sizes);
    let second = 1_000 + 61;
    // Of another offset, of another epoch, of another partition: its records are others, and whole.
    let mut stale = bytes[..second].to_vec();
    assign_offset(&mut stale, offset(BASE + 1), LeaderEpoch(EPOCH.0 - 1));
    let mut older = bytes[second..2 * second].to_vec();
    assign_offset(&mut older, offset(BASE + 1), LeaderEpoch(EPOCH.0 - 1));
    let mut foreign = bytes[second..2 * second].to_vec();
    foreign[100] ^= 0xff;
    seal(&mut foreign);
    for (what, batch) in [
        ("the first one again", bytes[..second].to_vec()),
        ("stale", stale),
        ("older", older),
        ("foreign", foreign),
    ] {
        let (view, _) = BatchView::split_first(&batch).unwrap();
        view.validate_stored().unwrap();
        let mut changed = bytes.clone();
        changed[second..2 * second].copy_from_slice(&batch);
        let damage = check(&changed, &checksums).expect(what);
        assert!(damage.file_position <= second as u64, "{what}: {damage}");
    }
    // The same bytes under another name.
    let elsewhere = SegmentChecksums::decode(id(), checksums.end(), &checksums.encode()).unwrap();
    let other = SegmentId { base_offset: offset(BASE - 1), ..id() };
    let extent = elsewhere.extent_at(0).unwrap();
    let mut check = ExtentCheck::new(&other, extent);
    check.feed(&bytes[..extent.end as usize]).unwrap();
    assert!(matches!(check.finish(), Err(DamageAt { damage: Damage::Checksum { .. }, .. })));
}

#[test]
fn a_rebuild_believes_nothing_that_neighbours_contradict() {
    let sizes = [1_000, 1_000, 40_000, 1_000, 1_000];
    let (bytes, checksums) = segment(&sizes);
    let at = |batch: usize| sizes[..batch].iter().map(|size| size + 61).sum::<usize>();
    assert_eq!(rebuilt(&bytes), Rebuilt { checksums: checksums.clone(), damage: None });
    // Where the damage is, what is believed of it, and the position that is told.
    for (what, byte, covered, told) in [
        ("base offset up", at(1) + 6, at(1), at(2)),
        ("base offset of the last one", at(4) + 6, at(4), at(4)),
        ("leader epoch", at(3) + 14, at(2), at(3)),
        ("magic", at(3) + 16, at(2), at(3)),
        ("length", at(3) + 9, at(2), at(3)),
    ] {
        let mut changed = bytes.clone();
        changed[byte] ^= 1;
        let found = rebuilt(&changed);
        assert_eq!(found.checksums.end(), covered as u64, "{what}");
        assert_eq!(found.damage.unwrap().file_position, told as u64, "{what}");
    }
    // Its own CRC gives that batch away whenever it is read: the others stay.
    let mut changed = bytes.clone();
    changed[at(1) + 200] ^= 1;
    let found = rebuilt(&changed);
    assert_eq!(found.damage.unwrap().file_position, at(1) as u64);
    assert_eq!(found.checksums.end(), bytes.len() as u64);
    assert_eq!(check(&changed, &found.checksums).unwrap().file_position, at(1) as u64);
    let zeros = [&bytes[..], &[0; 5_000]].concat();
    assert_eq!(rebuilt(&zeros), Rebuilt { checksums: checksums.clone(), damage: None }, "nobody misses them");
    let early = [&bytes[..at(4)], &[0; 5_000]].concat();
    assert_eq!(rebuilt(&early).damage.unwrap().file_position, at(3) as u64, "the last one is gone");
    let cut = rebuilt(&bytes[..bytes.len() - 1]);
    assert_eq!(cut.damage.unwrap().damage, Damage::CutOff);
    assert_eq!(cut.checksums.end(), at(3) as u64);
}

proptest! {
    /// However the batches are cut into pieces, and wherever a segment was taken up again.
    #[test]
    fn extents_are_the_same_however_they_come(
        sizes in vec(prop_oneof![0..300usize, 0..20_000usize, 30_000..70_000usize], 0..12),
        pieces in vec(1..5_000usize, 1..20),
        reopened in 0..12usize,
    ) {
        let (bytes, checksums) = segment(&sizes);
        let mut again = SegmentChecksums::new(id());
        let mut rest = &bytes[..];
        for at in 0..sizes.len() {
            if at == reopened {
                again = SegmentChecksums::decode(id(), again.end(), &again.encode()).unwrap();
            }
            let (batch, after) = BatchView::split_first(rest).unwrap();
            again.observe(batch.header(), batch.size() as u32);
            rest = after;
        }
        prop_assert_eq!(&again, &checksums);
        let mut rebuild = new_rebuild(bytes.len() as u64, BASE + sizes.len() as u64);
        let mut position = 0;
        let mut cuts = pieces.iter().cycle();
        for extent in checksums.all() {
            prop_assert_eq!(extent.start, position);
            let is_last = extent.end == checksums.end();
            prop_assert!(extent.end - extent.start < 2 * EXTENT_SIZE || sizes.iter().any(|size| *size as u64 + 61 == extent.end - extent.start));
            prop_assert!(is_last || extent.end - extent.start >= EXTENT_SIZE || checksums.extents(extent.end, 0)[0].end - extent.end >= EXTENT_SIZE);
            let mut check = ExtentCheck::new(&id(), extent);
            while position < extent.end {
                let size = (*cuts.next().unwrap() as u64).min(extent.end - position);
                let piece = &bytes[position as usize..(position + size) as usize];
                prop_assert_eq!(check.feed(piece), Ok(()));
                prop_assert!(rebuild.feed(piece));
                position += size;
            }
            prop_assert_eq!(check.finish(), Ok(()));
        }
        prop_assert_eq!(rebuild.finish(), Rebuilt { checksums, damage: None });
    }

    #[test]
    fn a_read_begins_and_ends_with_an_extent(
        sizes in vec(0..50_000usize, 1..12), at in any::<proptest::sample::Index>(), size_max in 0..200_000u64,
    ) {
        let (bytes, checksums) = segment(&sizes);
        let at = at.index(bytes.len()) as u64;
        let extents = checksums.extents(at, size_max);
        let (first, last) = (extents[0], extents[extents.len() - 1]);
        prop_assert!((first.start..first.end).contains(&at));
        prop_assert!(extents.len() == 1 || last.end - first.start <= size_max);
        prop_assert!(extents.windows(2).all(|pair| pair[0].end == pair[1].start));
        let next = checksums.extents(last.end, 0);
        prop_assert!(next.first().is_none_or(|next| next.end - first.start > size_max));
        prop_assert_eq!(checksums.extents(bytes.len() as u64, size_max), []);
    }

    #[test]
    fn no_flipped_bit_is_read_or_passed_over(
        sizes in vec(0..300usize, 1..6), flip in any::<proptest::sample::Index>(), bit in 0..8u32,
    ) {
        let (bytes, checksums) = segment(&sizes);
        let mut file = checksums.encode();
        let at = flip.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(SegmentChecksums::decode(id(), checksums.end(), &file).is_err());
        prop_assert!(SegmentChecksums::decode(id(), checksums.end(), &file[..at]).is_err());
        let mut changed = bytes.clone();
        changed[flip.index(bytes.len())] ^= 1 << bit;
        prop_assert!(check(&changed, &checksums).is_some());
        // Also where the batches were walked over by somebody else.
        let mut compare = ChecksumCompare::new(id(), Some(checksums));
        let mut rest = &changed[..];
        let mut is_whole = true;
        while let Ok((batch, after)) = BatchView::split_first(rest) && is_whole && !rest.is_empty() {
            is_whole = batch.validate_stored().is_ok();
            compare.observe(batch.header(), batch.size() as u32);
            rest = after;
        }
        prop_assert!(!is_whole || !rest.is_empty() || compare.damage().is_some());
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in vec(any::<u8>(), 0..300), size in 0..300u64) {
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&VERSION.to_be_bytes());
        file.extend_from_slice(&bytes);
        let crc = crc32fast::hash(&file);
        file.extend_from_slice(&crc.to_be_bytes());
        let _ = DecodedChecksums::decode(&file).map(|decoded| decoded.segment());
        let _ = SegmentChecksums::decode(id(), size, &file);
        let mut rebuild = new_rebuild(bytes.len() as u64, BASE + 10);
        rebuild.feed(&bytes);
        let _ = rebuild.finish();
    }
}

fn id() -> SegmentId {
    sample_segment(offset(BASE))
}

/// Batches of one record, with payloads of these sizes.
fn segment(payloads: &[usize]) -> (Vec<u8>, SegmentChecksums) {
    let mut bytes = Vec::new();
    let mut checksums = SegmentChecksums::new(id());
    for (at, size) in payloads.iter().enumerate() {
        let mut batch = SampleBatch { payload: &vec![at as u8; *size], ..Default::default() }.encode();
        assign_offset(&mut batch, offset(BASE + at as u64), EPOCH);
        let (view, _) = BatchView::split_first(&batch).unwrap();
        checksums.observe(view.header(), view.size() as u32);
        bytes.extend_from_slice(&batch);
    }
    (bytes, checksums)
}

/// The first damage.
fn check(bytes: &[u8], checksums: &SegmentChecksums) -> Option<DamageAt> {
    checksums.all().find_map(|extent| {
        let mut check = ExtentCheck::new(&checksums.segment(), extent);
        let fed = check.feed(&bytes[extent.start as usize..extent.end as usize]);
        fed.and_then(|()| check.finish()).err()
    })
}

fn new_rebuild(size: u64, end: u64) -> ChecksumRebuild {
    let extent = SegmentExtent { base_offset: offset(BASE), end_offset: offset(end), size };
    let mut epochs = LeaderEpochs::new();
    epochs.assign(EPOCH, offset(BASE - 10));
    ChecksumRebuild::new(id(), extent, epochs, EPOCH)
}

fn rebuilt(bytes: &[u8]) -> Rebuilt {
    let mut rebuild = new_rebuild(bytes.len() as u64, BASE + 5);
    rebuild.feed(bytes);
    rebuild.finish()
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
