//! `odradek start` as a process: started on ports and a directory of its own, stopped, killed,
//! started again.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use tempfile::TempDir;

use crate::ports::PortBlock;
use crate::wait::{PATIENCE, wait_for};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    Node,
    Core,
}

impl Routing {
    pub const BOTH: [Routing; 2] = [Routing::Node, Routing::Core];

    pub fn name(self) -> &'static str {
        match self {
            Routing::Node => "node",
            Routing::Core => "core",
        }
    }
}

/// How to start a broker.
#[derive(Clone, Debug)]
pub struct Options {
    routing: Routing,
    cores: usize,
    memory: String,
    settings: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    other_dirs: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    /// Of the broker; `None`: the one that this program was built with.
    build: Option<PathBuf>,
    /// Where other nodes of its cluster listen to nodes; `None`: it is alone.
    peers: Option<Vec<String>>,
}

impl Options {
    /// Two cores, so that requests for the other core happen.
    pub fn new(routing: Routing) -> Options {
        let memory = "512MiB".to_string();
        let options = Options {
            routing,
            cores: 2,
            memory,
            settings: Vec::new(),
            data_dir: None,
            other_dirs: Vec::new(),
            environment: Vec::new(),
            build: None,
            peers: None,
        };
        // Brokers come and go by the dozen: as many files of 256 MiB would be filled with zeros.
        options.set("journal-file-size", "16MiB")
    }

    pub fn cores(mut self, cores: usize) -> Options {
        self.cores = cores;
        self
    }

    pub fn memory(mut self, memory: &str) -> Options {
        self.memory = memory.to_string();
        self
    }

    /// A data directory that outlives the broker.
    pub fn data_dir(mut self, path: PathBuf) -> Options {
        self.data_dir = Some(path);
        self
    }

    /// More log directories behind the first: names in the broker's own directory, or paths.
    pub fn other_dirs(mut self, paths: &[&Path]) -> Options {
        self.other_dirs = paths.iter().map(|path| path.to_path_buf()).collect();
        self
    }

    /// A node of a cluster: the first one where there are no `others` yet.
    pub fn in_cluster(self, node_id: i32, others: &[&Broker]) -> Options {
        let peers = others.iter().map(|other| other.peer_address()).collect();
        Options { peers: Some(peers), ..self }.set("node-id", &node_id.to_string())
    }

    /// The same with an empty directory in a cluster that there is: `addresses` of other nodes, for nodes.
    pub fn joining(self, addresses: Vec<String>) -> Options {
        Options { peers: Some(addresses), ..self }
    }

    /// Another build of the broker, an executable.
    pub fn build(mut self, executable: Option<PathBuf>) -> Options {
        self.build = executable;
        self
    }

    /// A variable of the broker's environment.
    pub fn env(mut self, name: &str, value: &str) -> Options {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The journal is of small files, which are used again soon.
    pub fn small_journal(self) -> Options {
        self.set("journal-file-size", "4MiB").set("journal-files", "3")
    }

    /// Every batch goes to its segment.
    pub fn without_journal(self) -> Options {
        self.set("journal", "false")
    }

    /// A setting with a Kafka name.
    pub fn set(mut self, name: &str, value: &str) -> Options {
        self.settings.retain(|(set, _)| set != name);
        self.settings.push((name.to_string(), value.to_string()));
        self
    }
}

/// Said by a variable of the environment of this name: directories of brokers stay, to be looked into.
const KEEP: &str = "ODRADEK_TEST_KEEP";

/// A broker of one test. Dropping it kills it and removes its directory, unless `ODRADEK_TEST_KEEP` is set; a
/// test that fails shows the end of its log.
pub struct Broker {
    options: Options,
    ports: PortBlock,
    directory: TempDir,
    process: Option<Running>,
}

struct Running {
    child: Child,
    stdout: Receiver<String>,
}

impl Broker {
    pub fn start(routing: Routing) -> Broker {
        Broker::start_with(Options::new(routing))
    }

    pub fn start_with(options: Options) -> Broker {
        let mut broker = Broker::not_started(options);
        broker.start_again();
        broker
    }

    /// With ports and a directory, for starts that must fail.
    pub fn not_started(options: Options) -> Broker {
        let ports = PortBlock::take(&tests_directory().join("ports"));
        let directory = temporary_directory("broker-");
        Broker { options, ports, directory, process: None }
    }

    /// Starts it on the same directory and ports, and waits until it serves. Returns the ready line.
    pub fn start_again(&mut self) -> String {
        self.begin_start();
        self.wait_until_ready()
    }

    /// The same without waiting: a node may need others of its cluster for that.
    pub fn begin_start(&mut self) {
        assert!(self.process.is_none(), "the broker runs");
        self.process = Some(self.spawn());
    }

    pub fn wait_until_ready(&self) -> String {
        let running = self.process.as_ref().expect("it was started");
        match running.stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("the broker is not ready after {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the broker ended at its start"),
        }
    }

    /// Changes the settings of later starts.
    pub fn reconfigure(&mut self, change: impl FnOnce(Options) -> Options) {
        self.options = change(self.options.clone());
    }

    /// Another broker on that directory and port, without admin port, for starts that must fail: its exit status and
    /// what it said on standard error.
    pub fn start_other(&self, data_dir: &Path, port: u16) -> (ExitStatus, String) {
        let mut child =
            self.command(data_dir, port, None).stderr(Stdio::piped()).spawn().expect("it can be run");
        let status = wait_to_end(&mut child, "the second broker's end");
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        (status, said)
    }

    /// A start on its own directories that must fail: what it says.
    pub fn start_refused(&mut self) -> String {
        assert!(self.process.is_none(), "the broker runs");
        let mut child = self.command(&self.data_dir(), self.port(), None);
        let mut child = child.stderr(Stdio::piped()).spawn().expect("it can be run");
        let status = wait_to_end(&mut child, "the end of a start that must fail");
        assert!(!status.success(), "it was not refused");
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        said
    }

    /// SIGTERM; waits until it has ended, which has to be with exit code 0.
    pub fn stop(&mut self) {
        let mut running = self.process.take().expect("the broker runs");
        signal(&running.child, libc::SIGTERM);
        let status = wait_to_end(&mut running.child, "a clean stop");
        assert!(status.success(), "SIGTERM ended in {status}");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut running = self.process.take().expect("the broker runs");
        running.child.kill().expect("it is our child");
        running.child.wait().expect("it is our child");
    }

    /// SIGSTOP or SIGCONT, for what is to happen while it cannot answer.
    pub fn pause(&self) {
        signal(&self.process.as_ref().expect("the broker runs").child, libc::SIGSTOP);
    }

    pub fn resume(&self) {
        signal(&self.process.as_ref().expect("the broker runs").child, libc::SIGCONT);
    }

    pub fn port(&self) -> u16 {
        self.ports.base()
    }

    /// A port that the broker does not use and nobody else takes.
    pub fn spare_port(&self) -> u16 {
        self.ports.admin() - 1
    }

    /// Where it listens to other nodes of its cluster.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.admin() - 2)
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    pub fn routing(&self) -> Routing {
        self.options.routing
    }

    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// A directory of that name beside the first one, or a path.
    pub fn other_dir(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(path)
    }

    /// All log directories, the one with the metadata first.
    pub fn data_dirs(&self) -> Vec<PathBuf> {
        let others = self.options.other_dirs.iter().map(|path| self.other_dir(path));
        std::iter::once(self.data_dir()).chain(others).collect()
    }

    /// A directory of the test's own beside the broker's.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Where metrics and health are.
    pub fn admin_port(&self) -> u16 {
        self.ports.admin()
    }

    /// Everything that it has logged, over all starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Descriptors that the process has open now.
    pub fn open_files(&self) -> usize {
        let id = self.process.as_ref().expect("the broker runs").child.id();
        std::fs::read_dir(format!("/proc/{id}/fd")).expect("it runs").count()
    }

    /// Bytes of memory that the process holds now.
    pub fn resident_bytes(&self) -> u64 {
        let child = &self.process.as_ref().expect("the broker runs").child;
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says VmRSS");
        let kib: u64 = line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024
    }

    /// GET on the admin port: status code and body.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let mut stream =
            TcpStream::connect(("127.0.0.1", self.ports.admin())).expect("the admin port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status line"), body.to_string())
    }

    /// Brokers side by side, of this test and of others, do not all run on the first CPUs. `None`: there are fewer than
    /// it has cores.
    fn cpus(&self) -> Option<String> {
        let allowed = cpus_allowed();
        let first = self.ports.number();
        let cpus = (0..self.options.cores).map(|core| allowed[(first + core) % allowed.len()].to_string());
        (self.options.cores <= allowed.len()).then(|| cpus.collect::<Vec<_>>().join(","))
    }

    fn command(&self, data_dir: &Path, port: u16, admin_port: Option<u16>) -> Command {
        let mut command = Command::new(self.options.build.clone().unwrap_or_else(binary));
        let is_new = !data_dir.join("meta.properties").exists();
        match &self.options.peers {
            Some(others) if is_new && others.is_empty() => command.args(["cluster", "create"]),
            Some(others) if is_new => command.args(["cluster", "join"]).args(others),
            _ => command.arg("start"),
        };
        if self.options.peers.is_some() {
            command.arg("--peer-listen").arg(self.peer_address());
        }
        command.arg("--data-dir").arg(data_dir);
        for path in self.options.other_dirs.iter().filter(|_| data_dir == self.data_dir()) {
            command.arg("--data-dir").arg(self.other_dir(path));
        }
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        let admin = admin_port.map_or("none".to_string(), |port| format!("127.0.0.1:{port}"));
        command.arg("--admin-listen").arg(admin);
        command.arg("--routing").arg(self.options.routing.name());
        command.arg("--cores").arg(self.options.cores.to_string());
        if let Some(cpus) = self.cpus() {
            command.arg("--cpus").arg(cpus);
        }
        command.arg("--memory").arg(&self.options.memory);
        for (name, value) in &self.options.settings {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        // Nothing of the surroundings decides how the broker under test runs.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ODRADEK_"))
        {
            command.env_remove(name);
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn spawn(&self) -> Running {
        let log = OpenOptions::new().create(true).append(true).open(self.directory.path().join("log"));
        let log: File = log.expect("the log can be opened");
        let mut child = self
            .command(&self.data_dir(), self.port(), Some(self.ports.admin()))
            .stderr(log)
            .spawn()
            .expect("the broker can be run");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, stdout) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line); // The test may have lost interest.
            }
        });
        Running { child, stdout }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut running) = self.process.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if std::thread::panicking() {
            const SHOWN: usize = 60;
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the broker's log ends with");
            lines[lines.len().saturating_sub(SHOWN)..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("---");
        }
        if std::env::var_os(KEEP).is_some() {
            self.directory.disable_cleanup(true);
            eprintln!("what the broker wrote stays in {}", self.directory.path().display());
        }
    }
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: kill takes no pointers; the process is our child and was not waited for.
    let result = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    assert_eq!(result, 0, "the broker has ended by itself");
}

fn wait_to_end(child: &mut Child, what: &str) -> ExitStatus {
    let id = child.id();
    wait_for(&format!("{what} (process {id})"), || child.try_wait().expect("it is our child"))
}

/// The broker that was built together with the running test.
pub fn binary() -> PathBuf {
    let binary = build_directory().join("odradek");
    assert!(binary.exists(), "{} is not there: build the whole workspace", binary.display());
    binary
}

/// A directory of a test's own beside the build: on a real file system. The system's directory for
/// temporary files may be in memory, where direct I/O is not to be had.
pub fn temporary_directory(prefix: &str) -> TempDir {
    let tests = tests_directory();
    std::fs::create_dir_all(&tests).expect("a directory below target can be made");
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(tests);
    directory.expect("a directory below target can be made")
}

fn tests_directory() -> PathBuf {
    build_directory().join("tmp")
}

/// The directory of the running program's build, `target/PROFILE`: tests lie in its `deps`. Found by its place and
/// not by cargo's `CACHEDIR.TAG`: cargo marks only a directory that it made itself.
fn build_directory() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows its executable");
    let directory = program.parent().expect("it lies in a directory");
    let directory = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    directory.expect("deps lies in target/PROFILE").to_path_buf()
}

fn cpus_allowed() -> Vec<usize> {
    // SAFETY: an all-zero mask is a valid, empty one.
    let mut mask: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `mask` is writable for the size that is passed.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: `cpu` is below the number of bits of the mask.
    (0..8 * size_of::<libc::cpu_set_t>()).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &mask) }).collect()
}
