//! Clients in other languages: a process of their own that takes a request per line and gives an
//! answer per line, both JSON.
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"create","topic":T,"partitions":N}` | `{}` |
//! | `{"op":"grow","topic":T,"partitions":N}` | `{}` |
//! | `{"op":"metadata","topic":T}` | `{"topics":[T..],"partitions":[0..],"brokers":[[id,host,port]..]}` |
//! | `{"op":"ends","topic":T,"partition":P}` | `{"earliest":O,"latest":O}` |
//! | `{"op":"produce","topic":T,"codec":C,"idempotent":B,"records":[R..]}` | `{"placed":[[partition,offset]..]}` |
//! | `{"op":"read","topic":T,"partition":P,"from":F,"until":O}` | `{"records":[R..]}` |
//! | `{"op":"join","group":G,"topic":T,"assignor":A,"instance":I,"session":MS,"pattern":B}` | `{}`: a member that subscribes, to T or to whatever matches it |
//! | `{"op":"poll","ms":M}` | `{"assigned":[P..],"records":[[partition,offset]..]}`: of the member, without what was taken from it meanwhile |
//! | `{"op":"commit"}`, `{"op":"leave"}` | `{}`: the same |
//! | `{"op":"admin","call":C,..}` | what `admin.rs`, `operators.rs` and `groups.rs` say of each call |
//! | `{"op":"init","id":I,"timeout":MS}` | `{}`: a producer with this transactional id |
//! | `{"op":"begin"}` | `{}`: of the producer; what is read until then is the member's, as it is then |
//! | `{"op":"write","topic":T,"records":[[partition,text]..]}` | `{}`: of the producer |
//! | `{"op":"offsets","group":G,"topic":T,"positions":[[partition,offset]..]}` | `{}`: where the member goes on is committed in the transaction |
//! | `{"op":"end","commit":B}` | `{}` |
//! | `{"op":"close"}` | `{}`: of the producer |
//! | `{"op":"throttled","client":I,"topic":T,"bytes":N,"count":C}` | `{"ms":MS}`: how long a producer of this client id had to wait after one of C records of N bytes, at most |
//! | `{"op":"committed","topic":T,"partition":P,"until":O}` | `{"values":[text..]}`, as `read_committed` has it |
//! | `{"op":"groups"}` | `{"groups":[G..]}`: as an operator, like the following |
//! | `{"op":"describe","group":G}` | `{"state":S,"members":N,"type":T,"assigned":[[TEXT..]..]}`: the last two where the client tells |
//! | `{"op":"positions","group":G,"topic":T}` | `{"offsets":[[partition,offset]..]}`: those that are committed |
//! | `{"op":"reset","group":G,"topic":T,"offsets":[[partition,offset]..]}` | `{}` |
//! | `{"op":"delete","group":G}` | `{}` |
//!
//! F is `"earliest"`, `{"offset":O}` or `{"timestamp":MS}`. A record R has `key`, `value` (base64 or
//! null), `headers` (`[[name, base64 or null]..]`), `timestamp`; `partition` (or null) when it is
//! written, `offset` when it was read. Any answer may be `{"error":TEXT,"name":N}` instead, N being what the
//! client itself calls the error.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Answer, Client, Codec, Ends, From, Idempotence, Listing};
use crate::records::{Field, Outgoing, Read};

/// Longer than any client's own limits, whose messages say more.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);

pub struct Driver {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Driver {
    pub fn python(environment: &str, script: &str, bootstrap: &str) -> Driver {
        Driver::python_with(environment, script, &[bootstrap])
    }

    pub fn python_with(environment: &str, script: &str, arguments: &[&str]) -> Driver {
        let python = installed().join(environment).join("bin/python");
        Driver::start(Command::new(python).arg(here().join("python").join(script)).args(arguments))
    }

    /// The directory of its packages is called as that of its driver.
    pub fn node(environment: &str, bootstrap: &str) -> Driver {
        let modules = installed().join(environment).join("node_modules");
        let script = here().join(environment).join("driver.js");
        Driver::start(Command::new("node").env("NODE_PATH", modules).arg(script).arg(bootstrap))
    }

    pub fn java(version: &str, bootstrap: &str) -> Driver {
        Driver::java_with(version, "Driver", &[bootstrap])
    }

    pub fn java_with(version: &str, class: &str, arguments: &[&str]) -> Driver {
        let classes = installed().join("java").join(version);
        let class_path = format!("{0}:{0}/*", classes.display());
        // Short runs on few cores: no second compiler, no collector threads.
        let flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"];
        Driver::start(Command::new("java").args(flags).args(["-cp", &class_path, class]).args(arguments))
    }

    /// Built with the test, which is two levels below it.
    pub fn rdkafka(bootstrap: &str) -> Driver {
        let test = std::env::current_exe().expect("a test knows its executable");
        let build = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
        Driver::start(Command::new(build.join("odradek-rdkafka-driver")).arg(bootstrap))
    }

    fn start(command: &mut Command) -> Driver {
        // What a client logs is captured by nobody: the test runner shows it with a failed test's.
        // Cargo's is for tests, and has a librdkafka of its own, which a client's would give way to.
        command.env_remove("LD_LIBRARY_PATH");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
        let requests = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line); // The test may have ended.
            }
        });
        Driver { child, requests, answers }
    }

    pub fn ask(&mut self, request: &Value) -> Answer<Value> {
        self.send(request)?;
        self.receive()
    }

    /// Asks for what has to be refused, as the client calls it.
    pub fn expect_refused(&mut self, request: &Value, name: &str) -> Answer<()> {
        self.send(request)?;
        let answer = self.line()?;
        match answer["name"].as_str() {
            Some(found) if found == name => Ok(()),
            Some(found) => Err(format!("refused as {found} and not as {name}: {}", answer["error"])),
            None => Err(format!("not refused as {name}: {answer}")),
        }
    }

    /// Asks without waiting for the answer.
    pub fn send(&mut self, request: &Value) -> Answer<()> {
        writeln!(self.requests, "{request}").map_err(|error| format!("the client has ended: {error}"))
    }

    /// The answer to what was sent.
    pub fn receive(&mut self) -> Answer<Value> {
        self.line().and_then(Driver::read)
    }

    /// The same; `None` when it does not come in time.
    pub fn receive_within(&mut self, time: Duration) -> Answer<Option<Value>> {
        self.line_within(time)?.map(Driver::read).transpose()
    }

    fn line(&mut self) -> Answer<Value> {
        self.line_within(ANSWER_TIME_MAX)?.ok_or_else(|| "no answer from the client".to_owned())
    }

    fn line_within(&mut self, time: Duration) -> Answer<Option<Value>> {
        match self.answers.recv_timeout(time) {
            Ok(answer) => Driver::json(&answer).map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the client has ended".to_owned()),
        }
    }

    /// The same if it is there.
    pub fn try_receive(&mut self) -> Answer<Option<Value>> {
        match self.answers.try_recv() {
            Ok(answer) => Driver::json(&answer).and_then(Driver::read).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err("the client has ended".to_owned()),
        }
    }

    fn json(answer: &str) -> Answer<Value> {
        serde_json::from_str(answer).map_err(|error| format!("{error} in {answer}"))
    }

    fn read(answer: Value) -> Answer<Value> {
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap_or("an error without text").to_string()),
            None => Ok(answer),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client for Driver {
    fn create(&mut self, topic: &str, partitions: u32) -> Answer<()> {
        self.ask(&json!({ "op": "create", "topic": topic, "partitions": partitions })).map(|_| ())
    }

    fn grow(&mut self, topic: &str, partitions: u32) -> Answer<()> {
        self.ask(&json!({ "op": "grow", "topic": topic, "partitions": partitions })).map(|_| ())
    }

    fn expect_not_grown(&mut self, topic: &str, partitions: u32, name: &str) -> Answer<()> {
        self.expect_refused(&json!({ "op": "grow", "topic": topic, "partitions": partitions }), name)
    }

    fn metadata(&mut self, topic: &str) -> Answer<Listing> {
        parse(self.ask(&json!({ "op": "metadata", "topic": topic }))?)
    }

    fn ends(&mut self, topic: &str, partition: i32) -> Answer<Ends> {
        parse(self.ask(&json!({ "op": "ends", "topic": topic, "partition": partition }))?)
    }

    fn produce(
        &mut self,
        topic: &str,
        codec: Codec,
        idempotence: Idempotence,
        records: &[Outgoing],
    ) -> Answer<Option<Vec<(i32, i64)>>> {
        let answer = self.ask(&json!({
            "op": "produce",
            "topic": topic,
            "codec": codec.name(),
            "idempotent": idempotence == Idempotence::On,
            "records": records.iter().map(outgoing).collect::<Vec<_>>(),
        }))?;
        parse(answer["placed"].clone()).map(Some)
    }

    fn read(&mut self, topic: &str, partition: i32, from: From, until: i64) -> Answer<Vec<Read>> {
        let answer = self.ask(&json!({
            "op": "read", "topic": topic, "partition": partition, "from": from, "until": until,
        }))?;
        let records: Vec<ReadJson> = parse(answer["records"].clone())?;
        records.into_iter().map(ReadJson::into_read).collect()
    }
}

fn outgoing(record: &Outgoing) -> Value {
    json!({
        "partition": record.partition,
        "timestamp": record.timestamp,
        "key": text(&record.key),
        "value": text(&record.value),
        "headers": record.headers.iter().map(|(name, value)| json!([name, text(value)])).collect::<Vec<_>>(),
    })
}

fn text(field: &Field) -> Option<String> {
    field.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes))
}

#[derive(Deserialize)]
struct ReadJson {
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

impl ReadJson {
    fn into_read(self) -> Answer<Read> {
        let bytes = |text: Option<String>| -> Answer<Field> {
            text.map(|text| BASE64_STANDARD.decode(text).map_err(|error| error.to_string())).transpose()
        };
        let headers = self.headers.into_iter().map(|(name, value)| Ok((name, bytes(value)?)));
        Ok(Read {
            offset: self.offset,
            timestamp: self.timestamp,
            headers: headers.collect::<Answer<_>>()?,
            key: bytes(self.key)?,
            value: bytes(self.value)?,
        })
    }
}

pub fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Answer<T> {
    let shown = value.to_string();
    serde_json::from_value(value).map_err(|error| format!("{error} in {shown:.200}"))
}

/// The directory that `setup` has installed the clients to. A client that cannot be installed fails
/// every test that needs one.
pub fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let setup = here().join("setup");
        let output = Command::new(&setup).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", setup.display()));
        assert!(output.status.success(), "{} failed: a client cannot be installed", setup.display());
        let said = String::from_utf8(output.stdout).expect("it prints a path");
        PathBuf::from(said.trim_end())
    })
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
