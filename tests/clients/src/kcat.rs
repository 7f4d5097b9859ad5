//! kcat: a process per call. It has no way to make a topic but to ask for its metadata.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value;

use crate::client::{Answer, Client, Codec, Ends, From, Idempotence, Listing};
use crate::driver::installed;
use crate::records::{Field, Outgoing, Read};

pub struct Kcat {
    bootstrap: String,
}

impl Kcat {
    pub fn new(bootstrap: &str) -> Kcat {
        installed();
        Kcat { bootstrap: bootstrap.to_string() }
    }

    fn run(&self, arguments: &[&str], input: Option<&[u8]>) -> Answer<Vec<u8>> {
        let mut command = Command::new("kcat");
        command.args(["-b", &self.bootstrap, "-m", "30"]).args(arguments);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("kcat cannot be run: {error}"))?;
        if let Some(input) = input {
            use std::io::Write;
            let written = child.stdin.take().expect("it is piped").write_all(input);
            written.map_err(|error| format!("kcat does not read: {error}"))?;
        }
        let Output { status, stdout, stderr } =
            child.wait_with_output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&stderr);
        if status.success() { Ok(stdout) } else { Err(format!("kcat {arguments:?}: {status}: {said}")) }
    }

    /// Records of one partition and with the same headers.
    fn write(&self, topic: &str, codec: Codec, idempotence: &str, records: &[&Outgoing]) -> Answer<()> {
        let first = records[0];
        let partition = first.partition.unwrap_or(-1).to_string();
        let mut arguments = vec!["-P", "-t", topic, "-p", &partition, "-z", codec.name()];
        arguments.extend(["-X", idempotence, "-X", "acks=all"]);
        let headers: Vec<String> = first.headers.iter().map(header_argument).collect();
        for header in &headers {
            arguments.extend(["-H", header]);
        }
        // On standard input, up to delimiters that no field holds; -Z: a field of no bytes is null.
        arguments.extend(["-Z", "-K", KEY_END, "-D", RECORD_END]);
        let mut input = Vec::new();
        for record in records {
            input.extend_from_slice(record.key.as_deref().unwrap_or_default());
            input.extend_from_slice(KEY_END.as_bytes());
            input.extend_from_slice(record.value.as_deref().unwrap_or_default());
            input.extend_from_slice(RECORD_END.as_bytes());
        }
        self.run(&arguments, Some(&input)).map(|_| ())
    }

    /// As the only member of a group: partition and offset of so many records.
    pub fn read_as_member(&self, group: &str, topic: &str, count: usize) -> Answer<Vec<(i32, i64)>> {
        let count = count.to_string();
        let first = ["-X", "auto.offset.reset=earliest"];
        let read =
            self.run(&[&["-G", group, "-q", "-J", "-c", &count], &first[..], &[topic]].concat(), None)?;
        let lines = read.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let places = lines.map(|line| {
            let record: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            let place = record["partition"].as_i64().zip(record["offset"].as_i64());
            let (partition, offset) = place.ok_or_else(|| format!("no place in {record}"))?;
            Ok((partition as i32, offset))
        });
        places.collect()
    }

    fn json(&self, arguments: &[&str]) -> Answer<Value> {
        serde_json::from_slice(&self.run(arguments, None)?).map_err(|error| error.to_string())
    }
}

impl Client for Kcat {
    fn create(&mut self, topic: &str, _partitions: u32) -> Answer<()> {
        self.run(&["-L", "-t", topic, "-X", "allow.auto.create.topics=true"], None).map(|_| ())
    }

    fn grow(&mut self, _topic: &str, _partitions: u32) -> Answer<()> {
        Err("kcat has no admin requests".to_owned())
    }

    fn expect_not_grown(&mut self, topic: &str, partitions: u32, _name: &str) -> Answer<()> {
        self.grow(topic, partitions)
    }

    fn metadata(&mut self, topic: &str) -> Answer<Listing> {
        let all = self.json(&["-L", "-J"])?;
        let missing = || format!("kcat -L lacks something: {all}");
        let topics = all["topics"].as_array().ok_or_else(missing)?;
        let mut listing = Listing { topics: Vec::new(), partitions: Vec::new(), brokers: Vec::new() };
        for found in topics {
            let name = found["topic"].as_str().ok_or_else(missing)?;
            listing.topics.push(name.to_string());
            if name == topic {
                let partitions = found["partitions"].as_array().ok_or_else(missing)?;
                let ids = partitions.iter().filter_map(|partition| partition["partition"].as_i64());
                listing.partitions = ids.map(|id| id as i32).collect();
            }
        }
        for broker in all["brokers"].as_array().ok_or_else(missing)? {
            let id = broker["id"].as_i64().ok_or_else(missing)?;
            let (host, port) =
                broker["name"].as_str().and_then(|name| name.split_once(':')).ok_or_else(missing)?;
            listing.brokers.push((id as i32, host.to_string(), port.parse().map_err(|_| missing())?));
        }
        listing.topics.sort();
        listing.partitions.sort_unstable();
        listing.brokers.sort();
        Ok(listing)
    }

    fn ends(&mut self, topic: &str, partition: i32) -> Answer<Ends> {
        let offset = |at: i64| -> Answer<i64> {
            let query = format!("{topic}:{partition}:{at}");
            let said = String::from_utf8_lossy(&self.run(&["-Q", "-t", &query], None)?).into_owned();
            let number = said.trim().rsplit(' ').next().and_then(|number| number.parse().ok());
            number.ok_or_else(|| format!("kcat -Q says {said}"))
        };
        Ok(Ends { earliest: offset(-2)?, latest: offset(-1)? })
    }

    /// A process per run of records that share partition and headers, which are arguments; those of different
    /// partitions side by side, since each of them mostly waits.
    fn produce(
        &mut self,
        topic: &str,
        codec: Codec,
        idempotence: Idempotence,
        records: &[Outgoing],
    ) -> Answer<Option<Vec<(i32, i64)>>> {
        let idempotence = format!("enable.idempotence={}", idempotence == Idempotence::On);
        let mut of_partitions: BTreeMap<Option<i32>, Vec<&Outgoing>> = BTreeMap::new();
        for record in records {
            of_partitions.entry(record.partition).or_default().push(record);
        }
        let write = |records: &[&Outgoing]| {
            records
                .chunk_by(|one, next| one.headers == next.headers)
                .try_for_each(|records| self.write(topic, codec, &idempotence, records))
        };
        // Where the client chooses the partition, what went there before comes first.
        let chosen = of_partitions.remove(&None);
        let written: Answer<()> = thread::scope(|scope| {
            let all: Vec<_> = of_partitions.values().map(|records| scope.spawn(|| write(records))).collect();
            all.into_iter().try_for_each(|one| one.join().expect("it does not panic"))
        });
        written?;
        chosen.map_or(Ok(()), |records| write(&records))?;
        Ok(None)
    }

    fn read(&mut self, topic: &str, partition: i32, from: From, until: i64) -> Answer<Vec<Read>> {
        let start = match from {
            From::Earliest => "beginning".to_string(),
            From::Offset(offset) => offset.to_string(),
            From::Timestamp(timestamp) => format!("s@{timestamp}"),
        };
        let partition = partition.to_string();
        // Lengths first: fields may hold anything. Headers hold no line end. -1 is the length of null.
        let format = "%o %T %K %S %h\n%k%s";
        let read = self.run(
            &["-C", "-q", "-e", "-t", topic, "-p", &partition, "-o", &start, "-f", format, "-X", END_SOON],
            None,
        )?;
        let records = parse_records(&read)?;
        match records.last() {
            Some(last) if last.offset + 1 == until => Ok(records),
            last => Err(format!("kcat stopped at {:?}, not {until}", last.map(|last| last.offset))),
        }
    }
}

/// That there is no more is known once a fetch has found nothing.
const END_SOON: &str = "fetch.wait.max.ms=20";
const KEY_END: &str = "<key ends>";
const RECORD_END: &str = "<record ends>";

fn header_argument((name, value): &(String, Field)) -> String {
    match value {
        Some(value) => format!("{name}={}", String::from_utf8_lossy(value)),
        None => name.clone(),
    }
}

fn parse_records(mut bytes: &[u8]) -> Answer<Vec<Read>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("no line end after the lengths")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 1..];
        let mut words = head.splitn(5, ' ');
        let mut number = || -> Answer<i64> {
            let word = words.next().unwrap_or_default();
            word.parse().map_err(|_| format!("{word:?} is no number in {head:?}"))
        };
        let (offset, timestamp, key_size, value_size) = (number()?, number()?, number()?, number()?);
        let headers = words.next().unwrap_or_default().split(',').filter(|header| !header.is_empty());
        records.push(Read {
            offset,
            timestamp,
            headers: headers.map(parse_header).collect(),
            key: take(&mut bytes, key_size)?,
            value: take(&mut bytes, value_size)?,
        });
    }
    Ok(records)
}

/// kcat writes NULL for a value that is not there; no header of ours has that text.
fn parse_header(header: &str) -> (String, Field) {
    let (name, value) = header.split_once('=').unwrap_or((header, "NULL"));
    (name.to_string(), (value != "NULL").then(|| value.as_bytes().to_vec()))
}

fn take(bytes: &mut &[u8], size: i64) -> Answer<Field> {
    let Ok(size) = usize::try_from(size) else { return Ok(None) };
    let (field, rest) = bytes.split_at_checked(size).ok_or("kcat's output ends inside a record")?;
    *bytes = rest;
    Ok(Some(field.to_vec()))
}
