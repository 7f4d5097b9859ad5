//! Many partitions on one core: no more files open than it may have, whatever is written and read; and
//! all of them are there after a stop and after a kill. The figures for ten thousand: `tools/wide`.

use odradek_test_harness::{Batch, Broker, Client, Options, Routing};

use crate::now_ms;

const PARTITIONS: i32 = 300;
const OPEN_FILES: usize = 64;

/// Descriptors beside segments: rings, sockets, the lock, directories that are being read.
const OTHERS: usize = 60;

#[test]
fn open_files_stay_within_their_limit() {
    for with_journal in [false, true] {
        let options = Options::new(Routing::Node).cores(1).set("open-files", &OPEN_FILES.to_string());
        let options = if with_journal { options.small_journal() } else { options.without_journal() };
        let mut broker = Broker::start_with(options);
        let mut client = Client::connect(&broker);
        client.create_topic("many", PARTITIONS, &[("segment.bytes", "20000")]);
        let mut sent = 0;
        for round in 0..3 {
            // The second and third batch of a round roll the segment.
            for partition in 0..PARTITIONS {
                for number in 0..3 {
                    let value = vec![b'a' + (sent + number) as u8; 7000];
                    let offset = client.produce("many", partition, &Batch::of(&[value], now_ms()));
                    assert_eq!(offset, i64::from(sent + number));
                }
                assert_bounded(&broker);
            }
            sent += 3;
            match round {
                0 => broker.stop(),
                1 => broker.kill(),
                _ => continue,
            }
            broker.start_again();
            client = Client::connect(&broker);
        }
        for partition in 0..PARTITIONS {
            let read = client.read_all("many", partition);
            assert_eq!(read.len(), sent as usize, "partition {partition}");
            for (at, record) in (0..).zip(&read) {
                assert_eq!(record.value, vec![b'a' + at; 7000]);
            }
            assert_bounded(&broker);
        }
    }
}

fn assert_bounded(broker: &Broker) {
    let open = broker.open_files();
    assert!(open <= OPEN_FILES + OTHERS, "{open} files are open");
}
