//! One node: its log's file, its image, and the writes on their way between the quorum's decisions and the disk.

use crate::disk::file::{FileState, Loss, Op};
use crate::quorum::settings::{ELECTION_TICKS, HEARTBEAT_TICKS, Mistake, Settings};
use crate::random::Random;
use crate::world::Micros;
use odradek::cluster::image::Image;
use odradek::cluster::quorum::entry::LogEntry;
use odradek::cluster::quorum::frame::{self, FrameWriter, HardState, Recovered, Snapshot, Write};
use odradek::cluster::quorum::members::{Members, PeerId};
use odradek::cluster::quorum::message::Message;
use odradek::cluster::quorum::{self, Persist, Quorum, WriteNumber, Written};
use odradek::cluster::record::Record;
use odradek::types::NodeId;
use odradek::types::limits::IO_ALIGNMENT;
use std::collections::{BTreeMap, VecDeque};

/// What a log says: what a start has to find, as the frames that were flushed add up to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub base: (u64, u64),
    members: Members,
    term: u64,
    vote: Option<PeerId>,
    /// As far as it is on disk that entries are committed.
    pub commit: u64,
    pub entries: BTreeMap<u64, LogEntry>,
}

impl Kept {
    pub fn of(recovered: &Recovered) -> Kept {
        let HardState { term, vote, commit } = recovered.hard_state;
        Kept {
            base: (recovered.base.index, recovered.base.term),
            members: recovered.base.members.clone(),
            term,
            vote,
            commit,
            entries: recovered.entries.iter().map(|entry| (entry.index, entry.clone())).collect(),
        }
    }

    /// Whether entries that were there are replaced.
    pub fn take(&mut self, written: &Written) -> bool {
        let write = match written {
            Written::Append(write) => write,
            Written::Replace { snapshot, write } => {
                self.base = (snapshot.index, snapshot.term);
                self.members = snapshot.members.clone();
                self.entries.clear();
                write
            }
        };
        let HardState { term, vote, commit } = write.hard_state;
        (self.term, self.vote, self.commit) = (term, vote, commit);
        let mut replaced = 0;
        if let Some(first) = write.entries.first() {
            replaced = self.entries.split_off(&first.index).len();
        }
        self.entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
        replaced > 0
    }

    pub fn has(&self, index: u64, term: u64) -> bool {
        index <= self.base.0 || self.entries.get(&index).is_some_and(|entry| entry.term == term)
    }

    pub fn term_before(&self, index: u64) -> Option<u64> {
        if index == self.base.0 + 1 {
            return Some(self.base.1);
        }
        self.entries.get(&(index - 1)).map(|entry| entry.term)
    }
}

/// A write between its begin and its flush.
pub struct Flight {
    number: WriteNumber,
    what: Option<Written>,
    then_send: Vec<Message>,
    /// The disk's operation; none for a file that takes the place of the log.
    op: Option<u64>,
    covered: Vec<u64>,
    replacement: Option<FileState>,
}

/// What a flush has brought.
pub struct Landed {
    pub number: WriteNumber,
    pub what: Option<Written>,
    pub then_send: Vec<Message>,
    pub replaced_entries: bool,
}

/// A process.
pub struct Running {
    pub quorum: Quorum,
    pub image: Image,
    /// The last entry in the image.
    pub applied: u64,
    /// The image of some entries before, for who makes a mistake of it.
    pub stale: Vec<Record>,
    queue: VecDeque<Persist>,
    pub flight: Option<Flight>,
    writer: FrameWriter,
    /// Bytes; where the next frame goes.
    end: u64,
    hard_state_before: HardState,
}

/// Lives: one per slot of a seed, over all its processes and directories.
pub struct Node {
    pub slot: usize,
    pub peer: PeerId,
    pub disk: FileState,
    pub running: Option<Running>,
    pub kept: Kept,
    /// Of a crash: what may be found as well.
    pub in_flight: Option<Kept>,
    /// The disk has changed something behind everybody's back.
    pub is_damaged: bool,
    /// Processes so far.
    pub starts: u64,
    pub paused_until: Micros,
    /// Until then a flush takes so long.
    pub slow: (Micros, Micros),
}

/// The node of a slot; its first directory is of incarnation 0.
pub fn peer_of(slot: usize, incarnation: u32) -> PeerId {
    PeerId::new(NodeId(slot as i32 + 1), incarnation)
}

/// `None`: nobody of this seed.
pub fn slot_of(peer: PeerId) -> Option<usize> {
    usize::try_from(peer.node().0 - 1).ok()
}

impl Node {
    pub fn new(slot: usize) -> Node {
        Node {
            slot,
            peer: peer_of(slot, 0),
            disk: FileState::default(),
            running: None,
            kept: Kept::default(),
            in_flight: None,
            is_damaged: false,
            starts: 0,
            paused_until: 0,
            slow: (0, 0),
        }
    }

    /// A file that was put in place whole.
    pub fn install(&mut self, bytes: Vec<u8>, kept: Kept) {
        self.disk = flushed_file(bytes);
        self.kept = kept;
    }

    /// A bit of what is flushed is another one; not of its end, which could as well be torn.
    pub fn damage(&mut self, dice: &mut Random) -> bool {
        let bytes = self.disk.read(0, self.disk.size() as usize);
        let end = frame::scan(&bytes, self.peer).valid_end;
        let last = frame::scan(&bytes[..end.saturating_sub(IO_ALIGNMENT)], self.peer).valid_end;
        // What fills a frame up means nothing.
        let meant: Vec<usize> = (0..last).filter(|at| bytes[*at] != 0).collect();
        if meant.is_empty() {
            return false;
        }
        let (at, bit) = (*dice.pick(&meant), 1 << dice.below(8));
        self.disk.damage(|bytes| bytes[at] ^= bit);
        self.is_damaged = true;
        true
    }

    /// The directory is another one, and empty.
    pub fn lose_directory(&mut self, keeps_name: bool) {
        assert!(self.running.is_none());
        if !keeps_name {
            self.peer = peer_of(self.slot, self.peer.incarnation() + 1);
        }
        self.disk = FileState::default();
        self.kept = Kept::default();
        self.in_flight = None;
        self.is_damaged = false;
    }

    pub fn quorum(&self) -> Option<&Quorum> {
        self.running.as_ref().map(|running| &running.quorum)
    }

    pub fn quorum_settings(&self, settings: &Settings, seed: u64) -> quorum::Settings {
        quorum::Settings {
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            seed,
            entries_retained: settings.entries_retained,
        }
    }

    pub fn run(&mut self, quorum: Quorum, recovered: &Recovered, end: usize) {
        self.starts += 1;
        self.running = Some(Running {
            quorum,
            image: Image::default(),
            applied: 0,
            stale: Vec::new(),
            queue: VecDeque::new(),
            flight: None,
            writer: FrameWriter::new(recovered.next),
            end: end as u64,
            hard_state_before: recovered.hard_state,
        });
    }

    /// The process is gone. What it had in flight got there, or not, or in part.
    pub fn crash(&mut self, loses_power: bool, dice: &mut Random) -> CrashOf {
        let Some(running) = self.running.take() else { return CrashOf::Nothing };
        let mut of = CrashOf::Nothing;
        if let Some(flight) = running.flight {
            match (flight.replacement, flight.what) {
                (_, None) => {}
                (Some(file), Some(written)) if dice.one_in(2) => {
                    self.disk = file;
                    self.kept.take(&written);
                    of = CrashOf::Replaced;
                }
                (Some(_), Some(_)) => of = CrashOf::NotReplaced,
                (None, Some(written)) => {
                    let mut kept = self.kept.clone();
                    kept.take(&written);
                    self.in_flight = Some(kept);
                    of = CrashOf::Write;
                }
            }
        }
        if loses_power {
            let loss = Loss::draw(dice);
            self.disk.lose_power(loss, dice);
        } else {
            self.disk.kill(dice);
        }
        of
    }

    /// Cuts the log to what is valid, and flushes it: before anything is appended.
    pub fn cut(&mut self, end: usize) {
        if (end as u64) < self.disk.size() {
            let (number, _) = self.disk.begin(Op::Cut(end as u64));
            self.disk.complete(number);
        }
        let covered = self.disk.completed();
        self.disk.flushed(&covered);
    }
}

/// What a crash came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashOf {
    Nothing,
    Write,
    Replaced,
    NotReplaced,
}

impl Running {
    pub fn enqueue(&mut self, persist: Persist) {
        self.queue.push_back(persist);
    }

    pub fn is_idle(&self) -> bool {
        self.flight.is_none() && self.queue.is_empty()
    }

    /// Begins the next write, if there is one and the one before is flushed. Whether several share it.
    pub fn begin(&mut self, disk: &mut FileState, settings: &Settings) -> Option<bool> {
        if self.flight.is_some() {
            return None;
        }
        let Persist { mut number, mut what, mut then_send } = self.queue.pop_front()?;
        let mut is_shared = false;
        while let Some(next) = self.queue.front() {
            if matches!(next.what, Some(Written::Replace { .. })) {
                break;
            }
            let next = self.queue.pop_front().expect("it is there");
            let Some(next_what) = next.what else {
                number = next.number;
                then_send.extend(next.then_send);
                continue;
            };
            is_shared |= what.is_some();
            what = Some(match (what, next_what) {
                (None, next_what) => next_what,
                (Some(_), next_what) if settings.makes(Mistake::MergedWritesLost) => next_what,
                (Some(Written::Append(mut write)), Written::Append(later)) => {
                    assert!(write.absorb(later).is_none(), "these are small");
                    Written::Append(write)
                }
                (Some(Written::Replace { snapshot, mut write }), Written::Append(later)) => {
                    assert!(write.absorb(later).is_none(), "these are small");
                    Written::Replace { snapshot, write }
                }
                (_, Written::Replace { .. }) => unreachable!("it was looked at"),
            });
            number = next.number;
            then_send.extend(next.then_send);
        }
        self.mistake(&mut what, settings);
        let (mut op, mut replacement) = (None, None);
        match &what {
            None => {}
            Some(Written::Append(write)) => {
                let bytes = self.writer.append(write).expect("a small write");
                let size = bytes.len() as u64;
                op = Some(disk.begin(Op::Write { position: self.end, bytes }).0);
                self.end += size;
            }
            Some(Written::Replace { snapshot, write }) => {
                let bytes = self.writer.replace(snapshot, write).expect("a small image");
                self.end = bytes.len() as u64;
                replacement = Some(flushed_file(bytes));
            }
        }
        self.flight = Some(Flight { number, what, then_send, op, covered: Vec::new(), replacement });
        Some(is_shared)
    }

    fn mistake(&mut self, what: &mut Option<Written>, settings: &Settings) {
        let Some(Written::Append(write) | Written::Replace { write, .. }) = what else { return };
        let hard_state = write.hard_state;
        if settings.makes(Mistake::VoteNotWritten) {
            write.hard_state.vote = None;
        }
        if settings.makes(Mistake::HardStateLate) {
            write.hard_state = self.hard_state_before;
        }
        self.hard_state_before = hard_state;
    }

    /// The write has completed; what a flush that is issued now covers.
    pub fn written(&mut self, disk: &mut FileState) {
        let Some(flight) = &mut self.flight else { return };
        if let Some(op) = flight.op {
            disk.complete(op);
        }
        flight.covered = disk.completed();
    }

    /// The flush has returned.
    pub fn flushed(&mut self, disk: &mut FileState, kept: &mut Kept) -> Option<Landed> {
        let flight = self.flight.take()?;
        match flight.replacement {
            Some(file) => *disk = file,
            None => disk.flushed(&flight.covered),
        }
        let replaced_entries = flight.what.as_ref().is_some_and(|written| {
            let are_replaced = kept.take(written);
            are_replaced && matches!(written, Written::Append(_))
        });
        let Flight { number, what, then_send, .. } = flight;
        Some(Landed { number, what, then_send, replaced_entries })
    }

    /// What a mistaken shell would do by now.
    pub fn premature_messages(&mut self) -> Vec<Message> {
        self.queue.iter_mut().flat_map(|persist| std::mem::take(&mut persist.then_send)).collect()
    }

    pub fn premature_number(&self) -> Option<WriteNumber> {
        self.flight.as_ref().map(|flight| flight.number)
    }
}

fn flushed_file(bytes: Vec<u8>) -> FileState {
    let mut file = FileState::default();
    let (number, _) = file.begin(Op::Write { position: 0, bytes });
    file.complete(number);
    let covered = file.completed();
    file.flushed(&covered);
    file
}

/// The file and the log of a node that founds the quorum.
pub fn founding(members: &Members, records: &[Record]) -> (Vec<u8>, Kept) {
    let snapshot = Snapshot::founding(members.clone(), records);
    let write = Write { hard_state: Snapshot::founding_state(), entries: Vec::new() };
    let first = odradek::cluster::log_entry::EntrySequence::FIRST;
    let bytes = FrameWriter::new(first).replace(&snapshot, &write).expect("a small image");
    let mut kept = Kept::default();
    kept.take(&Written::Replace { snapshot, write });
    (bytes, kept)
}
