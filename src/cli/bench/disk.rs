//! The measurements. Each takes its share of the time; the file that they work on is written by the
//! first.
//!
//! | share | measurement | why |
//! |---|---|---|
//! | 0.2 | 1 MiB writes one after the other, several in flight | what write-out can reach |
//! | 0.1 | the same as reads | what catch-up can reach |
//! | 0.2 | 4 KiB write and `fdatasync`, over blocks that were written before | what the commit journal's flush costs |
//! | 0.1 | the same into preallocated space of one file | what it costs where the file system has to note what was written: large appends, in their segment |
//! | 0.1 | the same of several files, with one flush for all | large appends to several partitions at once |
//! | 0.3 | write and `fdatasync` of 4 KiB to 1 MiB | what group commit gains |

#![expect(clippy::disallowed_methods, reason = "a command of its own process that measures time")]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use odradek::types::limits::{IO_ALIGNMENT, IO_SIZE_MAX};

use super::figures::{Figures, FlushFigures, FlushOfMany, GroupCommit, Latency};
use super::scratch::{AlignedBuffer, ScratchFile};

/// Bytes of the file that is written, read and overwritten. Past the write caches of small devices'
/// controllers, and little enough to be had everywhere.
const FILE_SIZE: u64 = 256 << 20;

/// Bytes of the preallocated space that flushes go into. 16,384 blocks: a disk that uses them up before
/// its time has told enough.
const FRESH_SIZE: u64 = 64 << 20;

/// Segments that are flushed together. More than the broker flushes one by one, which is what matters.
pub const FILES: usize = 8;

/// Bytes of each of them.
const FILE_OF_MANY_SIZE: u64 = 8 << 20;

/// Bytes that are written whatever the time: the later measurements go round in them.
const WRITTEN_MIN: u64 = 8 << 20;

/// Bytes of the file of the short form.
const SHORT_SIZE: u64 = 4 << 20;

/// As the broker keeps them in flight while it writes a large commit.
const TRANSFERS_IN_FLIGHT: usize = 4;

const TRANSFER_SIZE: u64 = IO_SIZE_MAX as u64;

const GROUP_COMMIT_SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

const _: () = assert!(WRITTEN_MIN.is_multiple_of(TRANSFER_SIZE));
const _: () = assert!(FILE_SIZE.is_multiple_of(TRANSFER_SIZE));
const _: () = assert!(SHORT_SIZE.is_multiple_of(TRANSFER_SIZE));

/// Errors: the directory is not there, has no direct I/O or no space.
pub fn measure(directory: &Path, time: Duration) -> io::Result<Figures> {
    let file = ScratchFile::create(directory, FILE_SIZE)?;
    let fresh = ScratchFile::create(directory, FRESH_SIZE)?;
    let many = (0..FILES).map(|_| ScratchFile::create(directory, FILE_OF_MANY_SIZE));
    let many = many.collect::<io::Result<Vec<_>>>()?;
    let write = transfer(&file, Direction::Write { at_least: WRITTEN_MIN }, time.mul_f64(0.2))?;
    let written = write.bytes.min(FILE_SIZE);
    let read = transfer(&file, Direction::Read { below: written }, time.mul_f64(0.1))?;
    let overwrite = flushes(&file, Blocks::Written { below: written }, time.mul_f64(0.2))?;
    let fresh = flushes(&fresh, Blocks::Fresh, time.mul_f64(0.1))?;
    let flush_of_many = FlushOfMany::on(file.sync_fs());
    let many = flushes_of_many(&many, flush_of_many, time.mul_f64(0.1))?;
    let share = time.mul_f64(0.3) / GROUP_COMMIT_SIZES.len() as u32;
    let group_commits = GROUP_COMMIT_SIZES.into_iter().map(|size| group_commit(&file, size, written, share));
    Ok(Figures {
        directory: directory.display().to_string(),
        write_bytes_per_second: write.bytes_per_second(),
        read_bytes_per_second: read.bytes_per_second(),
        overwrite,
        fresh,
        many,
        flush_of_many,
        group_commits: group_commits.collect::<io::Result<_>>()?,
    })
}

/// The short form: flushes over written blocks only.
pub fn measure_flush(directory: &Path, time: Duration) -> io::Result<FlushFigures> {
    let file = ScratchFile::create(directory, SHORT_SIZE)?;
    transfer(&file, Direction::Write { at_least: SHORT_SIZE }, Duration::ZERO)?;
    flushes(&file, Blocks::Written { below: SHORT_SIZE }, time)
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    /// Round and round in the file, until the time is over and so many bytes are written.
    Write { at_least: u64 },
    /// Round and round in the file's first bytes.
    Read { below: u64 },
}

struct Transferred {
    bytes: u64,
    time: Duration,
}

impl Transferred {
    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(f64::EPSILON)
    }
}

/// Moves bytes with [`TRANSFERS_IN_FLIGHT`] calls at a time. Writes end with a flush, which counts.
fn transfer(file: &ScratchFile, direction: Direction, time: Duration) -> io::Result<Transferred> {
    let (round, at_least) = match direction {
        Direction::Write { at_least } => (file.size(), at_least),
        Direction::Read { below } => (below, TRANSFER_SIZE),
    };
    let next = AtomicU64::new(0);
    // Made before the clock starts: filling them takes longer than a fast disk takes to store them.
    let buffers: Vec<_> =
        (0..TRANSFERS_IN_FLIGHT).map(|_| AlignedBuffer::new(TRANSFER_SIZE as usize)).collect();
    let started = Instant::now();
    let work = |mut buffer: AlignedBuffer| -> io::Result<u64> {
        let mut bytes = 0;
        loop {
            let at = next.fetch_add(TRANSFER_SIZE, Ordering::Relaxed);
            if at >= at_least && started.elapsed() >= time {
                return Ok(bytes);
            }
            match direction {
                Direction::Write { .. } => file.write(buffer.bytes(), at % round)?,
                Direction::Read { .. } => file.read(buffer.bytes_mut(), at % round)?,
            }
            bytes += TRANSFER_SIZE;
        }
    };
    let bytes = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = buffers.into_iter().map(|buffer| scope.spawn(move || work(buffer))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("a transfer does not panic"));
        ended.sum::<io::Result<u64>>()
    })?;
    if let Direction::Write { .. } = direction {
        file.flush()?;
    }
    Ok(Transferred { bytes, time: started.elapsed() })
}

#[derive(Clone, Copy, Debug)]
enum Blocks {
    /// Round and round in what was written before.
    Written { below: u64 },
    /// Each once, until there is no more.
    Fresh,
}

fn flushes(file: &ScratchFile, blocks: Blocks, time: Duration) -> io::Result<FlushFigures> {
    let buffer = AlignedBuffer::new(IO_ALIGNMENT);
    let mut figures = Histograms::new();
    let started = Instant::now();
    let mut at = 0;
    while at == 0 || started.elapsed() < time {
        let position = match blocks {
            Blocks::Written { below } => at % below,
            Blocks::Fresh if at >= file.size() => break,
            Blocks::Fresh => at,
        };
        let begun = Instant::now();
        file.write(buffer.bytes(), position)?;
        let written = Instant::now();
        file.flush()?;
        figures.record(begun, written, Instant::now());
        at += IO_ALIGNMENT as u64;
    }
    Ok(figures.figures())
}

/// A block into each file, one after the other, then the flush; until there is no more.
fn flushes_of_many(files: &[ScratchFile], flush: FlushOfMany, time: Duration) -> io::Result<FlushFigures> {
    let buffer = AlignedBuffer::new(IO_ALIGNMENT);
    let mut figures = Histograms::new();
    let started = Instant::now();
    let mut at = 0;
    while at == 0 || started.elapsed() < time {
        if at >= files[0].size() {
            break;
        }
        let begun = Instant::now();
        files.iter().try_for_each(|file| file.write(buffer.bytes(), at))?;
        let written = Instant::now();
        match flush {
            FlushOfMany::FileSystem => files[0].flush_file_system()?,
            FlushOfMany::EachFile => files.iter().try_for_each(ScratchFile::flush)?,
        }
        figures.record(begun, written, Instant::now());
        at += IO_ALIGNMENT as u64;
    }
    Ok(figures.figures())
}

/// Of a write, of its flush, and of both.
struct Histograms([Histogram<u64>; 3]);

impl Histograms {
    fn new() -> Histograms {
        Histograms([histogram(), histogram(), histogram()])
    }

    fn record(&mut self, begun: Instant, written: Instant, flushed: Instant) {
        let times = [written - begun, flushed - written, flushed - begun];
        for (histogram, time) in self.0.iter_mut().zip(times) {
            record(histogram, time);
        }
    }

    fn figures(&self) -> FlushFigures {
        let [write, flush, total] = self.0.each_ref().map(Latency::of);
        FlushFigures { write, flush, total }
    }
}

fn group_commit(file: &ScratchFile, size: usize, written: u64, time: Duration) -> io::Result<GroupCommit> {
    let buffer = AlignedBuffer::new(size);
    let mut latency = histogram();
    let started = Instant::now();
    let mut count = 0u64;
    while count == 0 || started.elapsed() < time {
        let begun = Instant::now();
        file.write(buffer.bytes(), count * size as u64 % written)?;
        file.flush()?;
        record(&mut latency, begun.elapsed());
        count += 1;
    }
    let seconds = started.elapsed().as_secs_f64().max(f64::EPSILON);
    Ok(GroupCommit { size, commits_per_second: count as f64 / seconds, latency: Latency::of(&latency) })
}

/// Nanoseconds, up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::scratch::tests::directory_on_disk;

    #[test]
    fn a_disk_is_measured_in_its_time() {
        let directory = directory_on_disk();
        let figures = measure_flush(directory.path(), Duration::from_millis(20)).expect("direct I/O");
        assert!(figures.total.count > 0);
        assert!(figures.flush.p50_us <= figures.total.p50_us * 1.01);
        assert!(figures.total.p50_us <= figures.total.p99_us);
        let file = ScratchFile::create(directory.path(), 4 << 20).expect("direct I/O");
        let written = transfer(&file, Direction::Write { at_least: 2 << 20 }, Duration::ZERO);
        let written = written.expect("it can be written");
        assert_eq!(written.bytes, 2 << 20, "no more than asked for when there is no time");
        let read = transfer(&file, Direction::Read { below: written.bytes }, Duration::ZERO);
        assert_eq!(read.expect("it can be read").bytes, TRANSFER_SIZE);
        let fresh = ScratchFile::create(directory.path(), 8192).expect("direct I/O");
        let twice = flushes(&fresh, Blocks::Fresh, Duration::from_secs(5)).expect("it can be flushed");
        assert_eq!(twice.total.count, 2, "fresh space is used once");
        let files = [0, 1].map(|_| ScratchFile::create(directory.path(), 8192).expect("direct I/O"));
        for flush in [FlushOfMany::EachFile, FlushOfMany::FileSystem] {
            let twice = flushes_of_many(&files, flush, Duration::from_secs(5)).expect("they can be flushed");
            assert_eq!(twice.total.count, 2, "once for all of them");
        }
        let commit = group_commit(&file, 64 << 10, 2 << 20, Duration::from_millis(5)).expect("flushed");
        assert!(commit.commits_per_second > 0.0);
    }
}
