//! Logs under every kind of change, a crash after each of its steps, and a replay that is interrupted
//! itself: the files hold what was committed, and nothing that was cut, replaced or deleted.
//!
//! A record is one byte and its offset the count of those before it, so that in a segment that was
//! never compacted the record of offset `o` stands at `o - base`. A compacted segment is a few bytes
//! that nothing else is made of.

use super::*;
use crate::log::journal::block::{
    BlockHeader, BlockSequence, BlockWriter, FileEpoch, HEADER_SIZE, block_size,
};
use crate::types::{LeaderEpoch, PartitionIndex, ShardId, TopicId, Uuid};
use proptest::prelude::*;

const COMPACTED: u8 = 0xff;

#[derive(Clone, Debug)]
enum Step {
    /// Through the journal.
    Append(u8),
    /// Through the segment, with everything before it.
    Direct(u8),
    /// What the journal holds is written out and flushed.
    WriteOut,
    Roll,
    /// The log start moves this far into the log, of 256 parts.
    LogStart(u8),
    /// Two neighbours of the closed segments become one.
    Compact(u8),
    /// The log is cut here, of 256 parts.
    Cut(u8),
    Delete,
    /// The replica is removed, and comes again with nothing.
    ComeAgain,
}

type Files = BTreeMap<u64, Vec<u8>>;

/// One log as its owner sees it, and the disk below it.
#[derive(Clone, Default)]
struct Log {
    /// Base offset and bytes; the last one is the active one.
    segments: Files,
    start: u64,
    end: u64,
    deleted: bool,
    /// Closed segments that no `Closed` entry and no write-out has finished.
    unfinished: Vec<u64>,
    files: Files,
    journal: Vec<Vec<u8>>,
    written: u64,
}

/// The log and the disk at a moment at which the power may go.
#[derive(Clone)]
struct Moment {
    log: Log,
    /// What the change that is under way has done to it already, as far as it was flushed.
    what: &'static str,
    /// Segments whose replacement is committed, and not carried out.
    replacing: std::ops::Range<u64>,
}

#[test]
fn log_start_is_not_moved_back() {
    use Step::*;
    check(&[Append(5), Roll, Append(5), LogStart(200), Append(2), Roll, Append(1), WriteOut, LogStart(255)]);
}

#[test]
fn compacted_segment_is_not_written_into() {
    use Step::*;
    check(&[Append(9), Roll, Append(9), Roll, Append(3), WriteOut, Compact(0), Append(4), Roll, Append(1)]);
}

#[test]
fn what_was_cut_is_not_brought_back() {
    use Step::*;
    check(&[Append(9), Roll, Append(9), Cut(60), Append(3), Cut(250), Append(2)]);
    // Behind the cut, bytes that no entry knows.
    check(&[Append(9), Roll, Append(9), Cut(60), Direct(30), Append(1)]);
}

#[test]
fn deleted_partition_is_not_brought_back() {
    use Step::*;
    check(&[Append(9), WriteOut, Append(4), Roll, Append(2), Delete]);
}

#[test]
fn replica_that_has_come_again_has_nothing_of_before() {
    use Step::*;
    check(&[Append(9), Roll, Append(4), LogStart(200), ComeAgain, Append(3), WriteOut, Append(2)]);
    check(&[Append(9), Roll, Append(9), Cut(60), ComeAgain, Append(30), Roll, Append(1), ComeAgain]);
    // Not cut where the other one was.
    check(&[Append(9), Cut(60), ComeAgain, Direct(9)]);
}

/// Names of segments from before a cut say nothing about those behind it.
#[test]
fn segment_that_grew_past_the_names_of_cut_ones_is_kept() {
    use Step::*;
    check(&[Append(10), Roll, Append(2), Cut(100), Append(100), LogStart(128), Append(1)]);
}

proptest! {
    #[test]
    fn every_crash_leaves_what_was_committed(steps in proptest::collection::vec(step(), 1..25)) {
        check(&steps);
    }
}

/// Its leader's log may begin before what was the start of this one.
#[test]
fn log_start_of_before_is_none_of_a_log_that_begins_anew() {
    let epoch = LeaderEpoch(1);
    let place = Place { segment: offset(20), file_position: 0 };
    let changes =
        [Change::LogStart { start: offset(30), epoch }, Change::Cutting { place, end: offset(20), epoch }];
    let mut bytes = vec![0; block_size(changes.len(), 0)];
    let mut writer = BlockWriter::new(&mut bytes, changes.len());
    changes.iter().for_each(|change| writer.change(&Entry { partition: id(1), change: *change }));
    writer.finish(&header(BlockSequence(1)));
    let view = BlockView::decode(&bytes, 0).unwrap();
    let (mut redoing, mut redo) = (Redoing::default(), Vec::new());
    redoing.look_ahead(&view, true);
    redoing.block(&view, true, &mut redo);
    assert_eq!(redo, [Redo::Truncate { partition: id(1), place }]);
    assert_eq!(redoing.log_starts().get(&id(1)), Some(&offset(20)));
}

#[test]
fn damaged_bytes_stop_their_partition_when_flushed_and_everything_when_not() {
    for is_flushed in [true, false] {
        let blocks: Vec<Vec<u8>> = (1..4).map(two_partitions).collect();
        let mut damaged = blocks[1].clone();
        let body = damaged.iter().position(|byte| *byte == 0xb1).unwrap();
        damaged[body] ^= 4;
        let mut redoing = Redoing::default();
        let mut redo = Vec::new();
        let views: Vec<BlockView<'_>> =
            [&blocks[0], &damaged, &blocks[2]].map(|bytes| BlockView::decode(bytes, 0).unwrap()).into();
        views.iter().for_each(|view| redoing.look_ahead(view, is_flushed));
        views.iter().for_each(|view| redoing.block(view, is_flushed, &mut redo));
        let of = |number| {
            let is_its =
                |redo: &&Redo<'_>| matches!(redo, Redo::Write { partition, .. } if *partition == id(number));
            redo.iter().filter(is_its).count()
        };
        assert_eq!((of(1), of(2)), (1, if is_flushed { 3 } else { 1 }));
        assert_eq!(redoing.corrupt().len(), usize::from(is_flushed));
    }
}

#[test]
fn damage_in_bytes_that_are_not_wanted_is_none() {
    let bytes = |log: &mut Log| log.append(6);
    for (change, is_wanted) in [
        (Change::Deleted { epoch: LeaderEpoch(0) }, false),
        (Change::Removed { epoch: LeaderEpoch(0) }, false),
        (Change::Replaced { from: offset(0), to: offset(6), epoch: LeaderEpoch(0) }, false),
        (Change::Replaced { from: offset(6), to: offset(9), epoch: LeaderEpoch(0) }, true),
        (Change::LogStart { start: offset(6), epoch: LeaderEpoch(0) }, true), // No later segment is named.
    ] {
        let mut log = Log::default();
        bytes(&mut log);
        log.entry(change);
        *log.journal[0].iter_mut().rfind(|byte| **byte != 0).unwrap() ^= 1;
        let mut redoing = Redoing::default();
        let _ = replay(&log.journal, &mut redoing);
        assert_eq!(redoing.corrupt().len(), usize::from(is_wanted), "{change:?}");
    }
}

/// Its file may still be there, and only its last batches say what producers sent last: the next segment
/// has them once it has its name.
#[test]
fn segment_below_the_log_start_is_written_while_it_is_there() {
    let log = deleted_up_to_its_end();
    let mut redoing = Redoing::default();
    let redo = replay(&log.journal, &mut redoing);
    let mut files = Files::from([(0, log.segments[&0][..2].to_vec())]);
    redo.iter().for_each(|redo| carry_out(redo, &mut files, log.start));
    assert_eq!(files, log.segments);
    let is_missed = |redo: &Redo<'_>| matches!(redo, Redo::Cut { is_missed: true, .. });
    assert!(!redo.iter().any(is_missed), "a file that is shorter is nobody's loss");
    assert_eq!((redoing.ends()[&id(0)], redoing.log_starts()[&id(0)]), (offset(8), offset(8)));
    // Gone, with a later one there.
    let mut files = Files::from([(6, Vec::new())]);
    redo.iter().for_each(|redo| carry_out(redo, &mut files, log.start));
    assert_eq!(files, Files::from([(6, log.segments[&6].clone())]));
}

#[test]
fn damage_below_the_log_start_costs_its_segment_only() {
    let mut log = deleted_up_to_its_end();
    *log.journal[0].iter_mut().rfind(|byte| **byte != 0).unwrap() ^= 1;
    let mut redoing = Redoing::default();
    let redo = replay(&log.journal, &mut redoing);
    let is_second = |redo: &Redo<'_>| matches!(*redo, Redo::Write { segment, .. } if segment == offset(6));
    assert!(redo.iter().all(is_second), "{redo:?}");
    assert_eq!((redo.len(), redoing.corrupt().len()), (1, 0));
}

/// Two segments, and the log start behind both.
fn deleted_up_to_its_end() -> Log {
    let mut log = Log::default();
    for step in [Step::Append(6), Step::Roll, Step::Append(2), Step::LogStart(255)] {
        log.step(&step, &mut Vec::new());
    }
    log
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..20).prop_map(Step::Append),
        1 => (1u8..20).prop_map(Step::Direct),
        2 => Just(Step::WriteOut),
        3 => Just(Step::Roll),
        2 => any::<u8>().prop_map(Step::LogStart),
        2 => any::<u8>().prop_map(Step::Compact),
        2 => any::<u8>().prop_map(Step::Cut),
        1 => Just(Step::Delete),
        1 => Just(Step::ComeAgain),
    ]
}

/// Goes through the steps; at every moment the power goes, and it goes again within the replay.
fn check(steps: &[Step]) {
    let mut log = Log::default();
    log.segments.insert(0, Vec::new());
    for step in steps {
        if log.deleted {
            return;
        }
        let mut moments = Vec::new();
        log.step(step, &mut moments);
        for moment in &moments {
            let count = replay(&moment.log.journal, &mut Redoing::default()).len();
            for interrupted in [0, count / 3, count.saturating_sub(1), count] {
                let what = format!("{step:?}, {}, after {interrupted} of {count}", moment.what);
                moment.check(interrupted, &what);
            }
        }
    }
}

impl Log {
    fn step(&mut self, step: &Step, moments: &mut Vec<Moment>) {
        let mut moment = |log: &Log, what| moments.push(Moment { log: log.clone(), what, replacing: 0..0 });
        let share = |part: u8, of: u64| of * u64::from(part) / 255;
        match *step {
            Step::Append(count) => self.append(count),
            Step::Direct(count) => {
                self.grow(count);
                self.write_out();
            }
            Step::WriteOut => self.write_out(),
            Step::Roll => {
                if self.active().1.is_empty() {
                    return;
                }
                self.unfinished.push(self.active().0);
                self.segments.insert(self.end, Vec::new());
            }
            Step::LogStart(part) => {
                let start = self.start + share(part, self.end - self.start);
                self.start = start;
                self.entry(Change::LogStart { start: offset(start), epoch: LeaderEpoch(0) });
                moment(self, "the log start is committed");
                // Files go once they are final and another one is there.
                let names: Vec<u64> = self.segments.keys().copied().collect();
                for pair in names.windows(2) {
                    if pair[1] <= start && self.files.contains_key(&pair[1]) {
                        self.segments.remove(&pair[0]);
                        self.files.remove(&pair[0]);
                        moment(self, "a segment is removed");
                    }
                }
            }
            Step::Compact(part) => {
                let names: Vec<u64> = self.segments.keys().copied().collect();
                let Some(last) = names.len().checked_sub(3) else { return };
                let at = share(part, last as u64) as usize;
                let (from, other, to) = (names[at], names[at + 1], names[at + 2]);
                if !self.files.contains_key(&to) {
                    return; // They are not final.
                }
                self.entry(Change::Replaced { from: offset(from), to: offset(to), epoch: LeaderEpoch(0) });
                let what = "the replacement is committed";
                moments.push(Moment { log: self.clone(), what, replacing: from..to });
                let compacted = vec![COMPACTED; 3];
                for files in [&mut self.segments, &mut self.files] {
                    files.remove(&other);
                    files.insert(from, compacted.clone());
                }
            }
            Step::Cut(part) => {
                // Not into what was compacted, whose offsets are not its bytes.
                let compacted = self.segments.iter().filter(|(_, bytes)| bytes.contains(&COMPACTED));
                let first = compacted.map(|(base, _)| self.next_base(*base)).max().unwrap_or(0);
                let first = first.max(self.start);
                let end = first + share(part, self.end - first);
                let (segment, _) = self.segments.range(..=end).next_back().expect("the log has this");
                let place = Place { segment: offset(*segment), file_position: end - segment };
                let (segment, epoch) = (*segment, LeaderEpoch(1));
                self.entry(Change::Cutting { place, end: offset(end), epoch });
                let behind = self.segments.split_off(&(segment + 1));
                self.segments.get_mut(&segment).expect("it is there").truncate((end - segment) as usize);
                self.unfinished.retain(|base| *base < segment);
                self.end = end;
                self.written = self.written.min(end);
                moment(self, "the cut is committed");
                behind.keys().for_each(|base| drop(self.files.remove(base)));
                moment(self, "the segments behind it are removed");
                if let Some(file) = self.files.get_mut(&segment) {
                    file.truncate((end - segment) as usize);
                }
                moment(self, "the files are cut");
                self.entry(Change::Cut { place, end: offset(end), epoch });
            }
            Step::Delete => {
                self.deleted = true;
                self.entry(Change::Deleted { epoch: LeaderEpoch(0) });
                moment(self, "the deletion is committed");
                self.files.clear();
            }
            Step::ComeAgain => {
                // While its directory is gone nothing is written there: that is the shell's to see to.
                self.entry(Change::Removed { epoch: LeaderEpoch(0) });
                let journal = std::mem::take(&mut self.journal);
                *self = Log { journal, segments: Files::from([(0, Vec::new())]), ..Log::default() };
            }
        }
        moments.push(Moment { log: self.clone(), what: "done", replacing: 0..0 });
    }

    fn active(&self) -> (u64, &Vec<u8>) {
        let (base, bytes) = self.segments.last_key_value().expect("a log has a segment");
        (*base, bytes)
    }

    fn next_base(&self, base: u64) -> u64 {
        self.segments.range(base + 1..).next().map_or(self.end, |(next, _)| *next)
    }

    fn grow(&mut self, count: u8) {
        let (end, from) = (self.end, self.active().0);
        let active = self.segments.get_mut(&from).expect("it is there");
        // Never a byte that an earlier record at this offset had.
        let salt = self.journal.len() as u64;
        active.extend((0..u64::from(count)).map(|at| ((end + at) * 7 + salt * 13) as u8 % 250 + 1));
        self.end += u64::from(count);
    }

    /// Appends, and commits everything that only memory holds.
    fn append(&mut self, count: u8) {
        if self.segments.is_empty() {
            self.segments.insert(0, Vec::new());
        }
        let from = self.end;
        self.grow(count);
        for base in std::mem::take(&mut self.unfinished) {
            let (size, next) = (self.segments[&base].len() as u64, offset(self.next_base(base)));
            self.entry(Change::Closed { segment: offset(base), size, next });
        }
        let base = self.active().0;
        let bytes = self.segments[&base][(from - base) as usize..].to_vec();
        let place = Place { segment: offset(base), file_position: from - base };
        let end = offset(self.end);
        self.block(bytes.len(), |writer| writer.bytes(id(0), place, end, [&bytes[..]].into_iter()));
    }

    /// Segments in their order, from where the last write-out ended; closed ones are final then.
    fn write_out(&mut self) {
        for (base, bytes) in &self.segments {
            if !bytes.contains(&COMPACTED) {
                self.files.insert(*base, bytes.clone());
            }
        }
        self.unfinished.clear();
        self.written = self.end;
    }

    fn entry(&mut self, change: Change) {
        self.block(0, |writer| match change {
            Change::Closed { segment, size, next } => writer.closed(id(0), segment, size, next),
            change => writer.change(&Entry { partition: id(0), change }),
        });
    }

    fn block(&mut self, size: usize, fill: impl FnOnce(&mut BlockWriter<'_>)) {
        let sequence = BlockSequence(self.journal.len() as u64 + 1);
        let mut out = vec![0; block_size(1, size)];
        let mut writer = BlockWriter::new(&mut out, 1);
        fill(&mut writer);
        writer.finish(&header(sequence));
        self.journal.push(out);
    }
}

impl Moment {
    /// Replays once up to `interrupted`, then from the beginning to the end.
    fn check(&self, interrupted: usize, what: &str) {
        let log = &self.log;
        let mut files = log.files.clone();
        let mut redoing = Redoing::default();
        let redo = replay(&log.journal, &mut redoing);
        for redo in redo[..interrupted].iter().chain(&redo) {
            carry_out(redo, &mut files, log.start);
        }
        assert_eq!(redoing.corrupt().len(), 0, "{what}");
        if log.deleted {
            assert!(files.is_empty(), "{what}: a deleted log is there");
            return;
        }
        let start = redoing.log_starts().get(&id(0)).map_or(0, |start| start.get());
        assert_eq!(start, log.start, "{what}");
        for (base, bytes) in &log.segments {
            let next = log.next_base(*base);
            if bytes.is_empty() || next <= log.start {
                continue; // Below the log start it may be there or not.
            }
            let expected = if self.replacing.contains(base) { &log.files[base] } else { bytes };
            assert_eq!(files.get(base), Some(expected), "{what}: segment {base}");
        }
        let names: BTreeSet<u64> = log.segments.keys().chain(log.files.keys()).copied().collect();
        for base in files.keys() {
            assert!(names.contains(base), "{what}: segment {base} is back");
        }
        let last = files.keys().next_back().copied().unwrap_or(0);
        let length = files.get(&last).map_or(0, |bytes| bytes.len() as u64);
        if log.start < log.end && files.get(&last).is_some_and(|bytes| !bytes.contains(&COMPACTED)) {
            assert_eq!(last + length, log.end, "{what}: where the log ends");
        }
        if let Some(end) = redoing.ends().get(&id(0)) {
            assert!(end.get() <= log.end, "{what}: the journal says more than there is");
        }
    }
}

/// What the shell does, but that a segment whose file went is known by the later ones.
fn carry_out(redo: &Redo<'_>, files: &mut Files, log_start: u64) {
    match *redo {
        Redo::Write { segment, file_position, bytes, .. } => {
            let is_gone =
                !files.contains_key(&segment.get()) && files.keys().any(|base| *base > segment.get());
            assert!(!is_gone || segment.get() < log_start, "a write into a segment that is gone");
            if !is_gone {
                let file = files.entry(segment.get()).or_default();
                assert!(!file.contains(&COMPACTED), "a write into a compacted segment");
                let end = file_position as usize + bytes.len();
                assert!(file_position as usize <= file.len(), "a write behind a hole");
                file.resize(file.len().max(end), 0);
                file[file_position as usize..end].copy_from_slice(bytes);
            }
        }
        Redo::Cut { segment, size, .. } => {
            if let Some(file) = files.get_mut(&segment.get()) {
                assert!(!file.contains(&COMPACTED), "a compacted segment is cut");
                file.truncate(size as usize);
            }
        }
        Redo::Truncate { place, .. } => {
            files.retain(|base, _| *base <= place.segment.get());
            if let Some(file) = files.get_mut(&place.segment.get()) {
                file.truncate(place.file_position as usize);
            }
        }
        Redo::Delete { .. } => files.clear(),
    }
}

fn replay<'a>(journal: &'a [Vec<u8>], redoing: &mut Redoing) -> Vec<Redo<'a>> {
    let views = || journal.iter().map(|block| BlockView::decode(block, 0).unwrap());
    views().for_each(|view| redoing.look_ahead(&view, true));
    let mut redo = Vec::new();
    views().for_each(|view| redoing.block(&view, true, &mut redo));
    redo
}

fn two_partitions(sequence: u64) -> Vec<u8> {
    let mut out = vec![0; block_size(2, 16)];
    let mut writer = BlockWriter::new(&mut out, 2);
    for number in [1, 2] {
        let place = Place { segment: Offset::ZERO, file_position: sequence * 8 };
        let bytes = [0xb0 + number as u8; 8];
        writer.bytes(id(number), place, offset(sequence), [bytes.as_slice()].into_iter());
    }
    writer.finish(&header(BlockSequence(sequence)));
    assert!(out.len() > HEADER_SIZE);
    out
}

fn header(sequence: BlockSequence) -> BlockHeader {
    BlockHeader {
        shard: ShardId(0),
        epoch: FileEpoch(1),
        position: 0,
        sequence,
        flushed: sequence,
        needed: BlockSequence(1),
        file_size: 1 << 20,
    }
}

fn id(number: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(Uuid::from_u128(1)),
        partition: PartitionIndex::from_wire(number).unwrap(),
    }
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
