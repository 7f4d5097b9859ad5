//! A client that misbehaves costs only its own connection; many that do nothing cost little.

use std::time::Duration;

use odradek_test_harness::kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest};
use odradek_test_harness::{Batch, Broker, Client, Connection, Options, Routing, frame, wait_for};

use crate::now_ms;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn what_is_no_request_closes_its_connection_with_a_logged_reason() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start_with(Options::new(routing).set("socket.request.max.bytes", "2000000"));
        let mut bystander = Client::connect(&broker);
        bystander.create_topic("bystander", 2, &[]);
        let mut cut_inside = frame(9, 1, &MetadataRequest::default());
        cut_inside[4..].iter_mut().skip(8).for_each(|byte| *byte = 0xff);
        let cases: [(&str, Vec<u8>); 7] = [
            ("another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
            ("TLS", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]),
            ("a negative length", (-1i32).to_be_bytes().to_vec()),
            ("the most negative length", i32::MIN.to_be_bytes().to_vec()),
            ("a length past the limit", 2_000_001i32.to_be_bytes().to_vec()),
            ("no room for a header", [0, 0, 0, 1, 0].to_vec()),
            ("a body of garbage", cut_inside),
        ];
        let ports: Vec<u16> = match routing {
            Routing::Node => vec![broker.port()],
            Routing::Core => (0..3).map(|offset| broker.port() + offset).collect(),
        };
        for (what, bytes) in &cases {
            for &port in &ports {
                let logged = broker.log().matches("connection closed").count();
                let mut connection = Connection::open(port);
                connection.send_bytes(bytes).expect("the broker reads");
                assert!(connection.is_closed_within(SOON), "{what}");
                wait_for("the logged reason", || {
                    (broker.log().matches("connection closed").count() > logged).then_some(())
                });
                bystander.produce("bystander", i32::from(port % 2), &Batch::of(&["fine"], now_ms()));
            }
        }
        broker.stop();
    }
}

#[test]
fn half_a_request_and_silence_hold_up_nobody() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("others", 2, &[]);
        let request = frame(9, 1, &MetadataRequest::default());
        let mut half: Vec<Connection> = (0..50).map(|_| Connection::open(broker.port())).collect();
        for (size, connection) in half.iter_mut().enumerate() {
            connection.send_bytes(&request[..size % request.len()]).expect("the broker reads");
        }
        for number in 0..20 {
            client.produce("others", number % 2, &Batch::of(&["fine"], now_ms()));
        }
        // The rest may come later.
        for (size, connection) in half.iter_mut().enumerate() {
            connection.send_bytes(&request[size % request.len()..]).expect("the broker reads");
            connection.receive_frame().expect("it is answered");
        }
        broker.stop();
    }
}

/// What first buffers may take of the receive memory of one core with the least budget: seven eighths of an
/// eighth of 64 MiB.
const RECEIVE_MEMORY: u64 = 7 << 20;
const RECEIVE_BUFFERS: usize = 28;

fn with_little_receive_memory() -> Broker {
    Broker::start_with(Options::new(Routing::Node).cores(1).memory("64MiB"))
}

/// A value of the first core.
fn metric(broker: &Broker, name: &str) -> u64 {
    let text = broker.admin_get("/metrics").1;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    value.unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
}

fn receive_memory_held(broker: &Broker) -> u64 {
    metric(broker, "odradek_memory_bytes{shard=\"0\",kind=\"receive\"}")
}

fn memory_waits(broker: &Broker) -> u64 {
    metric(broker, "odradek_memory_waits_total{shard=\"0\"}")
}

/// A produce request of some 200 KB: a receive buffer holds it, and most of the buffer is needed.
fn filling_request() -> Vec<u8> {
    let batch = Batch::of(&[vec![1; 200_000]], now_ms());
    frame(Client::PRODUCE_VERSION, 1, &Client::produce_request("large", 0, batch.bytes()))
}

/// What they announce and do not send is no memory, however many they are and however slowly they go on.
#[test]
fn requests_that_hardly_come_leave_receive_memory_to_others() {
    let mut broker = with_little_receive_memory();
    let mut client = Client::connect(&broker);
    client.create_topic("large", 1, &[]);
    let started = std::time::Instant::now();
    let mut large: Vec<Connection> = [5_000_000i32, 3_000_000].map(|size| announce(&broker, size)).into();
    let request = frame(9, 1, &MetadataRequest::default());
    let (first_half, second_half) = request.split_at(request.len() / 2);
    let mut half: Vec<Connection> =
        (0..4 * RECEIVE_BUFFERS).map(|_| Connection::open(broker.port())).collect();
    for connection in &mut half {
        connection.send_bytes(first_half).expect("the broker reads");
    }
    for number in 0..20 {
        large.iter_mut().for_each(|connection| connection.send_bytes(&[0]).expect("the broker reads"));
        client.produce("large", 0, &Batch::of(&[vec![1; 900_000]], now_ms()));
        let mut late = Connection::open(broker.port());
        late.call(0, &ApiVersionsRequest::default());
        assert!(receive_memory_held(&broker) < RECEIVE_MEMORY, "round {number}");
    }
    assert!(started.elapsed() < 3 * SOON, "nobody waited for them");
    for connection in &mut half {
        connection.send_bytes(second_half).expect("the broker reads");
        connection.receive_frame().expect("it is answered");
    }
    assert_eq!(metric(&broker, "odradek_receive_evictions_total{shard=\"0\"}"), 0);
    broker.stop();
}

/// The prefix of a frame and no more.
fn announce(broker: &Broker, size: i32) -> Connection {
    let mut connection = Connection::open(broker.port());
    connection.send_bytes(&size.to_be_bytes()).expect("the broker reads");
    connection
}

/// All memory for receiving is held by requests of which most has come. Who comes then is not refused but
/// waits, be it for a first buffer or for a larger one, and goes on with what others give back.
#[test]
fn whoever_waits_for_receive_memory_is_served_once_there_is_some() {
    let mut broker = with_little_receive_memory();
    let mut client = Client::connect(&broker);
    client.create_topic("large", 1, &[("max.message.bytes", "3000000")]);
    let request = filling_request();
    let (first_part, last_part) = request.split_at(150_000);
    let mut half: Vec<Connection> = (0..RECEIVE_BUFFERS).map(|_| Connection::open(broker.port())).collect();
    for connection in &mut half {
        connection.send_bytes(first_part).expect("the broker reads");
    }
    wait_for("all receive memory to be held", || {
        (receive_memory_held(&broker) == RECEIVE_MEMORY).then_some(())
    });
    assert_eq!(memory_waits(&broker), 0);
    let mut late = Connection::open(broker.port());
    late.send(0, &ApiVersionsRequest::default()).expect("the system takes it");
    wait_for("a connection that waits", || (memory_waits(&broker) == 1).then_some(()));

    // All at once: who makes no step for long has to go.
    let finish = |connections: &mut [Connection]| {
        for connection in &mut *connections {
            connection.send_bytes(last_part).expect("the broker reads");
        }
        for connection in connections {
            connection.receive_frame().expect("it is answered");
        }
    };
    finish(&mut half[..1]);
    late.receive::<ApiVersionsRequest>(0).expect("it is answered");
    // Its first buffer finds room, the rest of it does not.
    let batch = Batch::of(&[vec![1; 2_500_000]], now_ms());
    let mut large = Connection::open(broker.port());
    let produce = Client::produce_request("large", 0, batch.bytes());
    large.send(Client::PRODUCE_VERSION, &produce).expect("the system takes it");
    wait_for("a request that waits to grow", || (memory_waits(&broker) >= 2).then_some(()));
    finish(&mut half[1..]);
    let produced = large.receive::<ProduceRequest>(Client::PRODUCE_VERSION).expect("it is answered");
    assert_eq!(Client::partition_answer(&produced).error_code, 0);
    wait_for("all of it to be given back", || (receive_memory_held(&broker) == 0).then_some(()));
    broker.stop();
}

/// A byte now and then is no progress.
#[test]
fn who_holds_receive_memory_and_hardly_goes_on_has_to_go() {
    const BYTE_INTERVAL: Duration = Duration::from_millis(500);
    let mut broker = with_little_receive_memory();
    let mut client = Client::connect(&broker);
    client.create_topic("large", 1, &[]);
    let request = filling_request();
    let mut slow: Vec<Connection> = (0..RECEIVE_BUFFERS).map(|_| Connection::open(broker.port())).collect();
    for connection in &mut slow {
        connection.send_bytes(&request[..150_000]).expect("the broker reads");
    }
    wait_for("all receive memory to be held", || {
        (receive_memory_held(&broker) == RECEIVE_MEMORY).then_some(())
    });
    let (served, is_served) = std::sync::mpsc::channel();
    let port = broker.port();
    let late = std::thread::spawn(move || {
        let mut late = Connection::open(port);
        late.call(0, &ApiVersionsRequest::default());
        let _ = served.send(());
    });
    let mut sent = 0;
    while is_served.recv_timeout(BYTE_INTERVAL).is_err() {
        sent += 1;
        assert!(sent < 100, "it is not served");
        for connection in &mut slow {
            let _ = connection.send_bytes(&request[150_000 + sent..][..1]);
        }
    }
    late.join().expect("it was served");
    assert!(metric(&broker, "odradek_receive_evictions_total{shard=\"0\"}") > 0);
    assert!(broker.log().contains("bytes of receive memory, which is short"), "the reason is logged");
    broker.stop();
}

#[test]
fn answers_come_in_the_order_of_requests() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("ordered", 4, &[]);
        let connection = client.to_leader("ordered", 0);
        // Quick ones behind one that waits for the disk; `receive` checks the correlation ids' range,
        // the types their order.
        const ROUNDS: usize = 50;
        for _ in 0..ROUNDS {
            let produce = Client::produce_request("ordered", 0, Batch::of(&["x"], now_ms()).bytes());
            connection.send(Client::PRODUCE_VERSION, &produce).expect("the broker reads");
            connection.send(0, &ApiVersionsRequest::default()).expect("the broker reads");
        }
        for round in 0..ROUNDS {
            let produced =
                connection.receive::<ProduceRequest>(Client::PRODUCE_VERSION).expect("it is answered");
            assert_eq!(Client::partition_answer(&produced).base_offset, round as i64);
            let versions = connection.receive::<ApiVersionsRequest>(0).expect("it is answered");
            assert!(!versions.api_keys.is_empty());
        }
    }
}

/// It asks for far more than it takes: the broker stops reading it and does not grow.
#[test]
fn a_reader_that_never_reads_is_not_buffered_without_bound() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("big", 1, &[]);
        for _ in 0..20 {
            client.produce("big", 0, &Batch::of(&[vec![1; 500_000]], now_ms()));
        }
        let before = broker.resident_bytes();
        let (_, port) = client.leader("big", 0);
        let mut greedy = Connection::open(port);
        greedy.stop_waiting_to_send();
        let fetch = Client::fetch_request("big", 0, 0);
        // 10 MB of answer each.
        let sent = (0..2_000).take_while(|_| greedy.send(Client::FETCH_VERSION, &fetch).is_ok()).count();
        for _ in 0..20 {
            assert_eq!(client.read_all("big", 0).len(), 20, "others are served");
        }
        let grown = broker.resident_bytes().saturating_sub(before);
        const GROWTH_MAX: u64 = 256 << 20; // One connection's bounds, twice.
        assert!(grown < GROWTH_MAX, "{sent} fetches made it grow by {} MiB", grown >> 20);
    }
}

/// A request of thirty bytes is answered with hundreds of thousands: who does not take them is not served
/// further, and others are.
#[test]
fn answers_that_are_larger_than_their_requests_are_bounded_as_well() {
    const TOPICS: usize = 4;
    const PARTITIONS: i32 = 800;
    const ANSWER_SIZE_MIN: usize = 80_000;
    /// What one connection may hold, the last answer included, and as much again for what they were made of.
    const GROWTH_MAX: u64 = 2 * (64 << 20) + (32 << 20);
    let options = Options::new(Routing::Node).cores(1).memory("1GiB");
    let broker = Broker::start_with(options);
    let mut client = Client::connect(&broker);
    for number in 0..TOPICS {
        client.create_topic(&format!("wide-{number}"), PARTITIONS, &[]);
    }
    let request = frame(9, 1, &MetadataRequest::default().with_topics(None));
    let before = broker.resident_bytes();
    let mut greedy = Connection::open(broker.port());
    greedy.send_bytes(&request.repeat(3_000)).expect("the broker reads");
    let held = || metric(&broker, "odradek_memory_bytes{shard=\"0\",kind=\"response\"}");
    wait_for("as many answers as it may have", || (held() >= 60 << 20).then_some(()));
    for _ in 0..20 {
        let mut other = Connection::open(broker.port());
        other.call(0, &ApiVersionsRequest::default());
        let held = held();
        assert!(held <= (64 << 20) + (2 << 20), "{held} bytes are held");
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "it grew by {} MiB", grown >> 20);
    // Taken, the next ones come.
    for _ in 0..1_100 {
        let answer = greedy.receive_frame().expect("it is answered");
        assert!(answer.len() > ANSWER_SIZE_MIN, "{}", answer.len());
    }
}

/// They need not spread evenly: all of them may reach one core.
#[test]
fn connections_are_bounded_over_the_whole_node() {
    const LIMIT: usize = 12;
    for routing in Routing::BOTH {
        let options = Options::new(routing).set("max.connections", &LIMIT.to_string());
        let broker = Broker::start_with(options);
        // Under `core` routing, where it can be chosen, the second core gets them all.
        let port = if routing == Routing::Core { broker.port() + 2 } else { broker.port() };
        let mut open: Vec<Connection> = (0..LIMIT).map(|_| Connection::open(port)).collect();
        for connection in &mut open {
            connection.call(0, &ApiVersionsRequest::default());
        }
        assert!(Connection::open(port).is_closed_within(SOON), "one too many");
        open.pop();
        wait_for("room for another", || {
            let mut another = Connection::open(port);
            another.try_call(0, &ApiVersionsRequest::default()).is_ok().then_some(())
        });
        for connection in &mut open {
            connection.call(0, &ApiVersionsRequest::default());
        }
    }
}

#[test]
fn a_thousand_idle_connections_cost_little_memory() {
    let broker = Broker::start(Routing::Node);
    let before = broker.resident_bytes();
    let mut idle: Vec<Connection> = (0..1000).map(|_| Connection::open(broker.port())).collect();
    for connection in &mut idle {
        connection.call(0, &ApiVersionsRequest::default());
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    const GROWTH_MAX: u64 = 128 << 20;
    assert!(grown < GROWTH_MAX, "a thousand connections made it grow by {} MiB", grown >> 20);
    for connection in &mut idle {
        connection.call(0, &ApiVersionsRequest::default());
    }
}
