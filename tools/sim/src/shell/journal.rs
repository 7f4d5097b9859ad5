//! The journal of a shard: ticks, changes of logs and records of flushes become blocks, its files are made and
//! flushed.

use crate::disk::{DiskError, DiskResult, OpenFile};
use crate::settings::Mistake;
use crate::shell::replica::{Replica, TickItem};
use crate::shell::{NO_SPACE_RETRY, Shell};
use odradek::log::commit::changes::ChangesSeen;
use odradek::log::commit::{Advance, GroupCommit};
use odradek::log::journal::block::{BlockSequence, BlockWriter, Change, Entry, FileEpoch, block_size};
use odradek::log::journal::pack::{PackedBlock, pack_into};
use odradek::log::journal::ring::{BlockPlace, FileIndex, JournalFlush, JournalHead, JournalRing};
use odradek::log::plan::TickPlan;
use odradek::types::ShardId;
use odradek::types::limits::IO_ALIGNMENT;
use std::rc::Rc;

/// A journal file that does not have its size yet.
pub const MAKING: &str = "next.journal.making";

pub fn journal_directory(shard: ShardId) -> String {
    format!("journal.{}", shard.0)
}

pub fn damaged_journal_directory(shard: ShardId, number: u32) -> String {
    format!("{}.damaged.{number}", journal_directory(shard))
}

/// Where a journal goes that has been replayed, until it is removed.
pub fn replayed_journal_directory(shard: ShardId) -> String {
    format!("{}.replayed", journal_directory(shard))
}

/// The shard of a journal that is gone on with.
pub fn parse_journal_directory(name: &str) -> Option<ShardId> {
    name.strip_prefix("journal.")?.parse().ok().map(ShardId)
}

/// The shard of a journal that was kept for what it has lost.
pub fn parse_damaged_directory(name: &str) -> Option<ShardId> {
    let (shard, _) = name.strip_prefix("journal.")?.split_once(".damaged.")?;
    shard.parse().ok().map(ShardId)
}

pub fn journal_file(file: FileIndex) -> String {
    format!("{:08}.journal", file.0)
}

pub fn parse_journal_file(name: &str) -> Option<FileIndex> {
    name.strip_suffix(".journal")?.parse().ok().map(FileIndex)
}

/// What became of changes that were to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    Flushed,
    /// There is no journal that could contradict them, and none that keeps them.
    NoJournal,
    Failed,
}

impl Shell {
    /// Goes on with the files of the last run, or begins without any.
    pub async fn begin_journal(&self, head: Option<JournalHead>) -> DiskResult<()> {
        let Some(limits) = self.settings.journal else { return Ok(()) };
        let ring = match head {
            Some(head) => {
                for file in (0..head.file_count).map(FileIndex) {
                    let path = format!("{}/{}", journal_directory(self.shard), journal_file(file));
                    let opened = self.disk.open(&path, false).await?;
                    self.journal_files.borrow_mut().push(opened);
                }
                JournalRing::resume(limits, &head)
            }
            None => JournalRing::new(self.shard, limits, BlockSequence(1), FileEpoch(0)),
        };
        let commit = GroupCommit::with_sizes(Some(ring), self.settings.unstored_max, self.settings.sizes);
        *self.commit.borrow_mut() = commit;
        Ok(())
    }

    /// Logs changes of partitions and waits until they are settled. Whoever is told that they are flushed
    /// carries them out.
    pub async fn log_changes(self: &Rc<Self>, changes: Vec<Entry>) -> Logged {
        let ticket = self.commit.borrow_mut().log_changes(changes);
        let Some(ticket) = ticket else { return Logged::NoJournal };
        self.world.count("journal: change logged");
        self.pump();
        loop {
            if self.is_offline() {
                return Logged::Failed;
            }
            if self.commit.borrow().are_settled(ticket) {
                return Logged::Flushed;
            }
            self.drained.notified().await;
        }
    }

    /// Whatever was flushed is stated in the journal, soon.
    pub fn state_flushed(self: &Rc<Self>) {
        self.commit.borrow_mut().state_flushed();
        self.pump();
    }

    /// Before the log starts of a checkpoint are looked at.
    pub fn changes_seen(&self) -> Option<ChangesSeen> {
        self.commit.borrow().changes_seen()
    }

    /// That checkpoint is flushed, and has the log starts of all.
    pub fn checkpointed(self: &Rc<Self>, seen: ChangesSeen) {
        self.commit.borrow_mut().checkpointed(seen);
        self.pump();
    }

    fn issue_changes(self: &Rc<Self>) {
        loop {
            let block = self.commit.borrow_mut().next_change_block();
            let Some((place, changes)) = block else { return };
            self.write_changes(place, &changes);
        }
    }

    fn issue_records(self: &Rc<Self>) {
        let block = self.commit.borrow_mut().next_record_block();
        let Some((place, slots)) = block else { return };
        self.world.count("journal: flush of segments recorded");
        let records = slots.iter().map(|slot| {
            let replica = self.slot(*slot);
            let change = Change::flushed(&replica.log.borrow());
            self.world.note(format_args!("record {} {change:?}", replica.name));
            Entry { partition: replica.id, change }
        });
        self.write_changes(place, &records.collect::<Vec<_>>());
    }

    fn write_changes(self: &Rc<Self>, place: BlockPlace, changes: &[Entry]) {
        let mut bytes = vec![0; block_size(changes.len(), 0)];
        let mut writer = BlockWriter::new(&mut bytes, changes.len());
        changes.iter().for_each(|change| writer.change(change));
        writer.finish(&place.header);
        self.issue_block(place, bytes);
    }

    pub(super) fn pump_journal(self: &Rc<Self>) {
        self.issue_changes();
        self.issue_records();
        loop {
            let plan = self.commit.borrow_mut().next_tick();
            let Some(plan) = plan else { break };
            if !self.tick(&plan) {
                break;
            }
        }
        let mark = self.commit.borrow_mut().next_mark();
        if let Some(place) = mark {
            self.world.count("journal: mark without entries");
            self.write_block(place, &PackedBlock::default(), &[]);
        }
        let statement = self.commit.borrow_mut().next_statement();
        if let Some(place) = statement {
            self.world.count("journal: flush stated without entries");
            self.write_block(place, &PackedBlock::default(), &[]);
        }
        let flush = self.commit.borrow_mut().next_journal_flush();
        if let Some(flush) = flush {
            self.world.spawn(self.clone().flush_journal(flush));
        }
        let file = self.commit.borrow_mut().next_journal_file();
        if let Some(file) = file {
            self.world.spawn(self.clone().make_journal_file(file));
        }
    }

    /// Issues what small appends have gathered. `false` when the journal has no room.
    fn tick(self: &Rc<Self>, plan: &TickPlan) -> bool {
        let mut items: Vec<(Rc<Replica>, TickItem)> = Vec::new();
        let mut entries: Vec<usize> = Vec::new();
        let replicas: Vec<Rc<Replica>> = plan.entries.iter().map(|entry| self.slot(entry.slot)).collect();
        for (at, (entry, replica)) in plan.entries.iter().zip(&replicas).enumerate() {
            for item in replica.tick_items(entry.end) {
                items.push((replica.clone(), item));
                entries.push(at);
            }
        }
        let sizes = items.iter().map(|(_, item)| item.size());
        let blocks = pack_into(sizes, self.settings.sizes.block_max as usize);
        let places = self.commit.borrow_mut().begin_tick(plan, &entries, &blocks);
        let Some(places) = places else {
            self.world.count("journal: no room");
            return false;
        };
        self.world.count("journal: tick");
        for (block, place) in blocks.iter().zip(places) {
            self.write_block(place, block, &items);
        }
        for (entry, replica) in plan.entries.iter().zip(&replicas) {
            replica.seal_for_tick(entry.end);
        }
        true
    }

    fn write_block(
        self: &Rc<Self>,
        place: BlockPlace,
        block: &PackedBlock,
        items: &[(Rc<Replica>, TickItem)],
    ) {
        let mut bytes = vec![0; block.size().max(IO_ALIGNMENT)];
        let mut writer = BlockWriter::new(&mut bytes, block.parts.len());
        for part in &block.parts {
            let (replica, item) = &items[part.item];
            item.write(replica, part, &mut writer);
        }
        writer.finish(&place.header);
        self.issue_block(place, bytes);
    }

    fn issue_block(self: &Rc<Self>, place: BlockPlace, bytes: Vec<u8>) {
        let sequence = place.header.sequence;
        self.world.note(format_args!(
            "block {} at {} of file {}, needed {}",
            sequence.0, place.header.position, place.file.0, place.header.needed.0
        ));
        let file = self.journal_files.borrow()[place.file.0 as usize].clone();
        if place.header.position == 0 && self.ledger.borrow().has_blocks_in(file.node) {
            self.world.count("journal: file used again");
        }
        self.ledger.borrow_mut().issued(file.node, place, bytes.len());
        let across_gap = self.settings.makes(Mistake::AcknowledgedAcrossGap);
        if across_gap {
            self.commit.borrow_mut().block_written(sequence);
        }
        let shell = self.clone();
        self.world.spawn(async move {
            match file.write(place.header.position, &bytes).await {
                Ok(()) => {
                    if !across_gap {
                        shell.commit.borrow_mut().block_written(sequence);
                    }
                    shell.advance_written();
                    shell.pump();
                }
                Err(error) => shell.failed(format_args!("writing the journal"), error),
            }
        });
    }

    async fn flush_journal(self: Rc<Self>, flush: JournalFlush) {
        for file in &flush.files {
            let file = self.journal_files.borrow()[file.0 as usize].clone();
            if let Err(error) = self.flush_file(&file).await {
                return self.failed(format_args!("flushing the journal"), error);
            }
        }
        let mut advances: Vec<Advance> = Vec::new();
        self.commit.borrow_mut().journal_flushed(&flush, &mut advances);
        self.advance(&advances, &[]);
    }

    async fn make_journal_file(self: Rc<Self>, file: FileIndex) {
        match self.try_make_journal_file(file).await {
            Ok(made) => {
                self.journal_files.borrow_mut().push(made);
                self.commit.borrow_mut().journal_file_made(file, true);
            }
            Err(DiskError::Full) => {
                self.world.count("journal: no space for a file");
                self.world.sleep(NO_SPACE_RETRY).await;
                self.commit.borrow_mut().journal_file_made(file, false);
            }
            Err(error) => return self.failed(format_args!("making a journal file"), error),
        }
        self.pump();
    }

    async fn try_make_journal_file(&self, file: FileIndex) -> DiskResult<OpenFile> {
        let limits = self.settings.journal.expect("there is a journal");
        let directory = journal_directory(self.shard);
        self.disk.make_directory(&directory).await?;
        let making = format!("{directory}/{MAKING}");
        let made = self.disk.open(&making, true).await?;
        made.allocate(limits.file_size).await?;
        made.write(0, &vec![0; limits.file_size as usize]).await?;
        made.flush().await?;
        self.disk.rename(&making, &format!("{directory}/{}", journal_file(file))).await?;
        self.disk.sync_directory(&directory).await?;
        Ok(made)
    }
}
