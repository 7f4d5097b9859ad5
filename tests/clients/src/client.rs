//! What a client has to do, and what each can.

use serde::{Deserialize, Serialize};

use crate::driver::Driver;
use crate::kcat::Kcat;
use crate::librdkafka::Librdkafka;
use crate::records::{Outgoing, Read};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Every client calls them the same.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }
}

/// Where reading starts.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    Earliest,
    Offset(i64),
    /// Milliseconds: the first record that is not older, as the client looks it up.
    Timestamp(i64),
}

/// What a client shows of a topic and its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listing {
    /// Those that exist; sorted.
    pub topics: Vec<String>,
    /// Of the topic that was asked for; sorted.
    pub partitions: Vec<i32>,
    /// Id, host, port; sorted.
    pub brokers: Vec<(i32, String, u16)>,
}

/// First offset and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Ends {
    pub earliest: i64,
    pub latest: i64,
}

/// An error as its client words it.
pub type Answer<T> = Result<T, String>;

pub trait Client {
    fn create(&mut self, topic: &str, partitions: u32) -> Answer<()>;

    /// CreatePartitions, up to that many. Only for a client that
    /// [`creates_topics`](Abilities::creates_topics) by an admin request.
    fn grow(&mut self, topic: &str, partitions: u32) -> Answer<()>;

    /// The same where it has to be refused, as the client calls that.
    fn expect_not_grown(&mut self, topic: &str, partitions: u32, name: &str) -> Answer<()>;

    fn metadata(&mut self, topic: &str) -> Answer<Listing>;

    fn ends(&mut self, topic: &str, partition: i32) -> Answer<Ends>;

    /// With `acks=all`. Partition and offset of every record, in the order given; `None` from a
    /// client that does not tell.
    fn produce(
        &mut self,
        topic: &str,
        codec: Codec,
        idempotence: Idempotence,
        records: &[Outgoing],
    ) -> Answer<Option<Vec<(i32, i64)>>>;

    /// Reads from there to `until`, exclusive.
    fn read(&mut self, topic: &str, partition: i32, from: From, until: i64) -> Answer<Vec<Read>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotence {
    Off,
    On,
}

/// What a client cannot do, so that the records given to it leave it out. What every client can do
/// is not listed.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Can set a record's timestamp.
    pub timestamps: bool,
    /// Can write a header without value.
    pub null_headers: bool,
    /// Tells a header without value from one of no bytes, and text from other bytes, when it reads them.
    pub reads_headers: bool,
    /// Can write bytes other than text in a header.
    pub binary_headers: bool,
    /// Can write a record that has neither key nor value.
    pub empty_records: bool,
    /// Can write a record's key and value of no bytes, as opposed to none.
    pub empty_fields: bool,
    /// Makes topics by an admin request; the others by asking for their metadata.
    pub creates_topics: bool,
    /// Has an admin request that deletes groups.
    pub deletes_groups: bool,
}

const EVERYTHING: Abilities = Abilities {
    timestamps: true,
    null_headers: true,
    reads_headers: true,
    binary_headers: true,
    empty_records: true,
    empty_fields: true,
    creates_topics: true,
    deletes_groups: true,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kcat,
    KafkaPython2,
    KafkaPython3,
    Confluent,
    Aiokafka,
    Kafkajs,
    ConfluentJs,
    Java3,
    Java4,
    Rdkafka,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Kcat,
        Kind::KafkaPython2,
        Kind::KafkaPython3,
        Kind::Confluent,
        Kind::Aiokafka,
        Kind::Kafkajs,
        Kind::ConfluentJs,
        Kind::Java3,
        Kind::Java4,
        Kind::Rdkafka,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Kcat => "kcat",
            Kind::KafkaPython2 => "kafka-python-2",
            Kind::KafkaPython3 => "kafka-python-3",
            Kind::Confluent => "confluent-kafka",
            Kind::Aiokafka => "aiokafka",
            Kind::Kafkajs => "kafkajs",
            Kind::ConfluentJs => "kafka-javascript",
            Kind::Java3 => "java-3.9",
            Kind::Java4 => "java-4.3",
            Kind::Rdkafka => "rdkafka",
        }
    }

    pub fn abilities(self) -> Abilities {
        match self {
            // Its timestamps are the time of sending. A key or value of no bytes is null to it, or
            // with -Z the other way round. It prints headers as text between commas.
            Kind::Kcat => Abilities {
                timestamps: false,
                reads_headers: false,
                binary_headers: false,
                empty_records: false,
                empty_fields: false,
                creates_topics: false,
                ..EVERYTHING
            },
            Kind::KafkaPython2 | Kind::KafkaPython3 => {
                Abilities { empty_records: false, null_headers: false, ..EVERYTHING }
            }
            Kind::Aiokafka => Abilities { empty_records: false, deletes_groups: false, ..EVERYTHING },
            // It takes the length of a header's value before it looks whether there is one.
            Kind::Kafkajs => Abilities { null_headers: false, ..EVERYTHING },
            // "Header value must be a string or buffer", and what it reads is always the latter.
            Kind::ConfluentJs => Abilities { null_headers: false, reads_headers: false, ..EVERYTHING },
            Kind::Confluent | Kind::Java3 | Kind::Java4 | Kind::Rdkafka => EVERYTHING,
        }
    }

    /// A client process that is to become a member of a group.
    pub fn member(self, bootstrap: &str) -> Driver {
        match self {
            Kind::KafkaPython2 => Driver::python("python-2", "use_kafka_python.py", bootstrap),
            Kind::KafkaPython3 => Driver::python("python", "use_kafka_python.py", bootstrap),
            Kind::Confluent => Driver::python("python", "use_confluent.py", bootstrap),
            Kind::Aiokafka => Driver::python("python", "use_aiokafka.py", bootstrap),
            Kind::Kafkajs => Driver::node("node", bootstrap),
            Kind::ConfluentJs => Driver::node("node-confluent", bootstrap),
            Kind::Java3 => Driver::java("3.9.0", bootstrap),
            Kind::Java4 => Driver::java("4.3.0", bootstrap),
            Kind::Rdkafka => Driver::rdkafka(bootstrap),
            Kind::Kcat => unreachable!("it is a process per call"),
        }
    }

    /// Installs the clients if need be, and starts this one.
    pub fn connect(self, bootstrap: &str) -> Box<dyn Client> {
        match self {
            Kind::Kcat => Box::new(Kcat::new(bootstrap)),
            Kind::Rdkafka => Box::new(Librdkafka::new(bootstrap)),
            _ => Box::new(self.member(bootstrap)),
        }
    }
}
