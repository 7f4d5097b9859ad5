//! A partition's directory belongs to a topic id: nothing else is opened for it, nor removed.

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, Broker, Client, Routing};

use crate::now_ms;

#[test]
fn directory_of_nobody_knows_whom_is_left_alone_until_its_file_is_back() {
    let mut broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("owned", 2, &[]);
    assert_eq!(client.produce("owned", 1, &Batch::of(&["mine"], now_ms())), 0);
    let file = broker.data_dir().join("owned-1").join("partition.metadata");
    let text = std::fs::read_to_string(&file).expect("each partition has one");
    let id = text.strip_prefix("version: 0\ntopic_id: ").and_then(|rest| rest.lines().next());
    let id = id.expect("Kafka's form");
    assert_eq!(id.len(), 22, "base64 without padding: {id}");
    assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{id}");
    // Twice, as a directory that was put aside by mistake would be gone after the second start.
    for _ in 0..2 {
        broker.stop();
        std::fs::write(&file, "version: 0\n").expect("it can be damaged");
        broker.start_again();
        let mut client = Client::connect(&broker);
        let refused = client.produce_bytes("owned", 1, Batch::of(&["other"], now_ms()).bytes());
        assert_eq!(refused, Err(ResponseError::KafkaStorageError));
        client.produce("owned", 0, &Batch::of(&["fine"], now_ms()));
    }
    assert!(broker.log().contains("restore the file"), "{}", broker.log());
    broker.stop();
    std::fs::write(&file, &text).expect("it can be restored");
    broker.start_again();
    let read = Client::connect(&broker).read_all("owned", 1);
    assert_eq!(read.iter().map(|record| &record.value[..]).collect::<Vec<_>>(), [b"mine"]);
    broker.stop();
}
