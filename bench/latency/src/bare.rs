//! What a flushed round trip costs on this machine with no broker in it: the floor under every target.
//!
//! ```text
//! client thread                    serving thread
//! due ─► send 100 bytes ─────────► read ─► write 4 KiB (O_DIRECT) ─► fdatasync ─► answer
//!        answer read  ◄──────────────────────────────────────────────────────────────┘
//!        |<──────────────────────────── round trip ──────────────────────────────────>|
//!                                         |<──── write and flush ────>|
//! ```
//!
//! Blocking calls, two threads, one connection on loopback, one request at a time; blocks that were
//! written before, as a broker's journal has them. A request is due `1 / rate` after the one before,
//! never earlier than its answer: a loop that falls behind does not catch up.

#![expect(clippy::disallowed_methods, reason = "blocking on purpose: the figures are the machine's")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use odradek::types::limits::IO_ALIGNMENT;
use odradek_loadgen::stats::latencies;

/// Bytes of the file, gone round and round.
const FILE_SIZE: usize = 4 << 20;

/// Bytes of a request and of its answer: about a small batch in a produce request, and what is
/// answered to it.
const REQUEST_SIZE: usize = 200;
const ANSWER_SIZE: usize = 50;

/// Where, and on which CPUs.
#[derive(Clone, Debug)]
pub struct Bare {
    pub directory: PathBuf,
    pub client_cpu: Option<usize>,
    pub serving_cpu: Option<usize>,
}

/// Nanoseconds.
#[derive(Clone, Debug)]
pub struct BareRound {
    pub write_and_flush: Histogram<u64>,
    pub round_trip: Histogram<u64>,
    pub seconds: f64,
}

impl Bare {
    /// Rate in requests per second; `None`: one after the other. Errors: the directory has no direct
    /// I/O, no space or is not there; a CPU that is not there.
    pub fn run(&self, rate: Option<f64>, duration: Duration) -> anyhow::Result<BareRound> {
        let scratch = Scratch::create(&self.directory)
            .with_context(|| format!("cannot measure in {}", self.directory.display()))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let serving_cpu = self.serving_cpu;
        let serving = std::thread::Builder::new()
            .name("bare".into())
            .spawn(move || pin(serving_cpu).and_then(|()| serve(&listener, &scratch)))?;
        // On a thread of its own too: the caller's CPU is not to change.
        let client_cpu = self.client_cpu;
        let client = std::thread::Builder::new().name("bare-client".into()).spawn(move || {
            pin(client_cpu)?;
            ask(TcpStream::connect(address)?, rate, duration)
        })?;
        let started = Instant::now();
        let round_trip = client.join().expect("the client does not panic");
        let write_and_flush = serving.join().expect("the server does not panic");
        let seconds = started.elapsed().as_secs_f64();
        Ok(BareRound { write_and_flush: write_and_flush?, round_trip: round_trip?, seconds })
    }
}

/// Until the client hangs up.
fn serve(listener: &TcpListener, scratch: &Scratch) -> anyhow::Result<Histogram<u64>> {
    let (mut connection, _) = listener.accept()?;
    connection.set_nodelay(true)?;
    let mut histogram = latencies();
    let mut request = [0; REQUEST_SIZE];
    let block = AlignedBlock::new();
    let mut position = 0;
    while connection.read_exact(&mut request).is_ok() {
        let started = Instant::now();
        scratch.file.write_all_at(block.bytes(), position as u64)?;
        scratch.file.sync_data()?;
        histogram.saturating_record(started.elapsed().as_nanos() as u64);
        connection.write_all(&[0; ANSWER_SIZE])?;
        position = (position + IO_ALIGNMENT) % FILE_SIZE;
    }
    Ok(histogram)
}

fn ask(mut connection: TcpStream, rate: Option<f64>, duration: Duration) -> anyhow::Result<Histogram<u64>> {
    connection.set_nodelay(true)?;
    let spacing = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
    let mut histogram = latencies();
    let mut answer = [0; ANSWER_SIZE];
    let end = Instant::now() + duration;
    let mut due = Instant::now() + spacing;
    while due < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        connection.write_all(&[0; REQUEST_SIZE])?;
        connection.read_exact(&mut answer)?;
        let answered = Instant::now();
        histogram.saturating_record(answered.duration_since(due).as_nanos() as u64);
        due = (due + spacing).max(answered);
    }
    Ok(histogram)
}

fn pin(cpu: Option<usize>) -> anyhow::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    // SAFETY: an all-zero set is a valid, empty one; CPU_SET refuses numbers beyond it; the call reads
    // the set only while it lasts.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    anyhow::ensure!(result == 0, "CPU {cpu}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A file whose blocks are written, removed at the end.
#[derive(Debug)]
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    fn create(directory: &Path) -> anyhow::Result<Scratch> {
        let path = directory.join(format!(".odradek-latency-bare-{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_DIRECT);
        let scratch = Scratch { file: options.open(&path)?, path };
        let block = AlignedBlock::new();
        for position in (0..FILE_SIZE).step_by(IO_ALIGNMENT) {
            scratch.file.write_all_at(block.bytes(), position as u64)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // It may be gone; a leftover is small.
    }
}

/// One block for direct I/O.
#[derive(Debug)]
struct AlignedBlock {
    memory: Vec<u8>,
    from: usize,
}

impl AlignedBlock {
    fn new() -> AlignedBlock {
        let memory = vec![0x5a; 2 * IO_ALIGNMENT];
        let from = memory.as_ptr().align_offset(IO_ALIGNMENT);
        AlignedBlock { memory, from }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + IO_ALIGNMENT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(directory: &Path) -> Bare {
        Bare { directory: directory.to_owned(), client_cpu: None, serving_cpu: None }
    }

    #[test]
    fn a_round_keeps_its_rate_and_cleans_up() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let round = here(directory.path()).run(Some(50.0), Duration::from_millis(210)).unwrap();
        assert!((1..=10).contains(&round.round_trip.len()), "{} requests", round.round_trip.len());
        assert_eq!(round.round_trip.len(), round.write_and_flush.len());
        assert!(round.round_trip.max() >= round.write_and_flush.min());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = here(Path::new("/nowhere")).run(None, Duration::from_millis(1)).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere"), "{error:#}");
    }
}
