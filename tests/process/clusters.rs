//! Several nodes of one cluster: they agree on the metadata, whichever of them is asked, and whichever is gone.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use odradek::codec::control::{Greeting, Question, QuestionKind};
use odradek::codec::peer_frame::{PeerFrame, next_peer_frame};
use odradek::codec::peer_message::{PEER_VERSION_MAX, PEER_VERSION_MIN, PeerMessage};
use odradek::types::{NodeId, Uuid};
use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::CreateTopicsRequest;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::{
    Batch, Broker, Client, Options, Routing, binary, create_topics, delete_topic, topic_name, wait_for,
};
use serde_json::Value;

pub const PARTITIONS: i32 = 6;

/// Nobody is fenced because the machine stands still: who comes and goes is `lifecycle.rs`'s to test.
pub fn options() -> Options {
    let options = Options::new(Routing::Node).cores(1).memory("256MiB");
    options.set("offsets.topic.num.partitions", "6").set("broker.session.timeout.ms", "10000")
}

fn three() -> Vec<Broker> {
    three_with(&options())
}

/// Three nodes whose votes all count.
pub fn three_with(options: &Options) -> Vec<Broker> {
    three_of([options.clone(), options.clone(), options.clone()])
}

/// The same, each with options of its own.
pub fn three_of([first, second, third]: [Options; 3]) -> Vec<Broker> {
    let mut nodes = vec![Broker::start_with(first.in_cluster(1, &[]))];
    for (id, options) in [(2, second), (3, third)] {
        let next = Broker::not_started(options.in_cluster(id, &[&nodes[0]]));
        nodes.push(next);
        nodes.last_mut().expect("pushed").begin_start();
    }
    nodes.iter().skip(1).for_each(|node| drop(node.wait_until_ready()));
    for node in &nodes {
        wait_for("three votes", || (voters(node) == [1, 2, 3].into()).then_some(()));
    }
    wait_until_all_alive(&nodes);
    nodes
}

/// Runs a command, again where the quorum has lost its leader meanwhile: what it printed, or what it said is wrong.
pub fn run(node: &Broker, arguments: &[&str]) -> Result<String, String> {
    wait_for("an answer of the controller", || match run_once(node, arguments) {
        Err(said) if said.contains("NOT_CONTROLLER") || said.contains("REQUEST_TIMED_OUT") => None,
        done => Some(done),
    })
}

fn run_once(node: &Broker, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(binary());
    command.args(arguments).args(["--brokers", &node.bootstrap()]);
    let output = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Waits until each node says that all of them are there.
pub fn wait_until_all_alive(nodes: &[Broker]) {
    for node in nodes {
        wait_for("nodes that are there", || (alive(node)? == nodes.len()).then_some(()));
    }
}

/// How many nodes are there, as one of them says.
fn alive(node: &Broker) -> Option<usize> {
    let status = status(node)?;
    let brokers = status["brokers"].as_array()?;
    Some(brokers.iter().filter(|broker| broker["state"] == "alive").count())
}

/// What a node says of the cluster; `None` while nobody leads the quorum.
pub fn status(node: &Broker) -> Option<Value> {
    let text = run_once(node, &["cluster", "status", "--json"]).ok()?;
    serde_json::from_str(&text).ok()
}

pub fn voters(node: &Broker) -> BTreeSet<i64> {
    let Some(status) = status(node) else { return BTreeSet::new() };
    let members = status["quorum"]["members"].as_array().cloned().unwrap_or_default();
    let votes = members.iter().filter(|member| member["role"] != "observer");
    votes.filter_map(|member| member["node"].as_i64()).collect()
}

pub fn leader(node: &Broker) -> i64 {
    wait_for("a leader of the quorum", || status(node)?["quorum"]["leader"].as_i64())
}

/// The first error of a topic's creation.
pub fn create(node: &Broker, topic: &str, replication_factor: i16) -> Option<ResponseError> {
    let topic = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(PARTITIONS)
        .with_replication_factor(replication_factor);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    create_topics(node, &request)
}

/// Makes a topic while somebody may just have gone: the outcome of a try may be unknown.
pub fn create_at_last(node: &Broker, topic: &str) {
    assert!(matches!(create(node, topic, 1), None | Some(ResponseError::TopicAlreadyExists)));
}

fn topics(node: &Broker) -> BTreeSet<String> {
    let listed = run(node, &["topic", "list", "--json"]).expect("it lists topics");
    let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
    let listed = listed.as_array().expect("a list");
    listed.iter().filter_map(|topic| topic["topic"].as_str().map(str::to_owned)).collect()
}

#[test]
fn any_of_three_nodes_answers_for_the_cluster() {
    let nodes = three();
    // Whichever leads, the others ask it.
    for (number, node) in nodes.iter().enumerate() {
        let topic = format!("topic-{number}");
        assert_eq!(create(node, &topic, 1), None);
        // Whoever asked sees it at once, the others soon.
        assert!(topics(node).contains(&topic));
        for other in &nodes {
            wait_for("the topic elsewhere", || topics(other).contains(&topic).then_some(()));
        }
        let mut client = Client::connect(node);
        let leaders: BTreeSet<i32> =
            (0..PARTITIONS).map(|partition| client.leader(&topic, partition).0).collect();
        assert_eq!(leaders, [1, 2, 3].into(), "partitions are spread");
        for partition in 0..PARTITIONS {
            client.produce(&topic, partition, &Batch::of(&[format!("{topic} {partition}")], 1));
        }
        assert_eq!(create(node, "replicated", 4), Some(ResponseError::InvalidReplicationFactor));
        let set = run(node, &["topic", "alter", &topic, "--config", "retention.ms=60000"]);
        set.expect("a setting is changed");
    }
    let mut reader = Client::connect(&nodes[2]);
    for (number, node) in nodes.iter().enumerate() {
        let topic = format!("topic-{number}");
        for partition in 0..PARTITIONS {
            let read = reader.read_all(&topic, partition);
            assert_eq!(read.len(), 1, "{topic}-{partition}");
        }
        let described = run(node, &["topic", "describe", &topic]).expect("it is there");
        assert!(described.contains("retention.ms=60000"), "{described}");
    }
    // No two nodes give out the same producer ids.
    let ids: BTreeSet<i64> = nodes.iter().map(|node| Client::connect(node).init_producer().id).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(delete_topic(&nodes[1], "topic-0"), None);
    for node in &nodes {
        wait_for("the topic to go", || (!topics(node).contains("topic-0")).then_some(()));
    }
    nodes.into_iter().for_each(|mut node| node.stop());
}

#[test]
fn the_cluster_goes_on_whichever_node_is_killed() {
    let mut nodes = three();
    let mut made = BTreeSet::new();
    for gone in 0..nodes.len() {
        nodes[gone].kill();
        let others: Vec<&Broker> = (0..3).filter(|at| *at != gone).map(|at| &nodes[at]).collect();
        for (number, node) in others.iter().enumerate() {
            let topic = format!("without-{gone}-{number}");
            create_at_last(node, &topic);
            made.insert(topic);
        }
        nodes[gone].start_again();
        // What it has missed it has by the time that it serves.
        assert!(topics(&nodes[gone]).is_superset(&made), "{:?}", topics(&nodes[gone]));
    }
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// What was applied was committed: a start must not take partitions for unknown that it has logs of.
#[test]
fn all_nodes_are_killed_at_once_and_nothing_is_lost() {
    let mut nodes = three();
    for round in 0..3 {
        let topic = format!("round-{round}");
        assert_eq!(create(&nodes[round], &topic, 1), None);
        let mut client = Client::connect(&nodes[round]);
        for partition in 0..PARTITIONS {
            client.produce(&topic, partition, &Batch::of(&[format!("{topic} {partition}")], 1));
        }
        nodes.iter_mut().for_each(Broker::kill);
        nodes.iter_mut().for_each(Broker::begin_start);
        nodes.iter().for_each(|node| drop(node.wait_until_ready()));
        let mut client = Client::connect(&nodes[round]);
        for topic in (0..=round).map(|round| format!("round-{round}")) {
            for partition in 0..PARTITIONS {
                assert_eq!(client.read_all(&topic, partition).len(), 1, "{topic}-{partition}");
            }
        }
        for node in &nodes {
            assert!(!node.log().contains("\"level\":\"ERROR\""), "{}", node.log());
        }
    }
    nodes.into_iter().for_each(|mut node| node.stop());
}

#[test]
fn who_leads_hands_over_before_it_stops() {
    let mut nodes = three();
    let first = leader(&nodes[0]);
    let at = usize::try_from(first - 1).expect("nodes are counted from one");
    nodes[at].stop();
    assert!(!nodes[at].log().contains("\"level\":\"ERROR\""), "{}", nodes[at].log());
    let other = &nodes[(at + 1) % 3];
    let topic = CreatableTopic::default().with_name(topic_name("after"));
    let topic = topic.with_num_partitions(1).with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    // Who asks may not have heard yet who leads now.
    assert_eq!(create_topics(other, &request), None);
    assert_ne!(leader(other), first);
    nodes[at].start_again();
    assert!(topics(&nodes[at]).contains("after"));
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// Each node by itself, and the next start goes on from there.
#[test]
fn a_log_of_the_metadata_that_has_grown_long_is_replaced_while_nodes_run() {
    const SIZE: u64 = 64 << 10;
    let mut nodes = three_with(&options().set("metadata.log.max.record.bytes.between.snapshots", "64KiB"));
    let size = |node: &Broker| {
        let log = node.data_dir().join("metadata").join("00000000000000000000.log");
        std::fs::metadata(log).map_or(0, |found| found.len())
    };
    let replaced = |node: &Broker| node.log().matches("is replaced by a snapshot").count();
    let mut expected = BTreeSet::new();
    for number in 0..60 {
        let topic = format!("topic-{number}");
        create_at_last(&nodes[number % 3], &topic);
        expected.insert(topic);
    }
    for node in &nodes {
        wait_for("a snapshot", || (replaced(node) > 0).then_some(()));
        wait_for("a log that is short", || (size(node) < 3 * SIZE).then_some(()));
    }
    nodes[1].kill();
    create_at_last(&nodes[0], "without-it");
    expected.insert("without-it".to_owned());
    nodes[1].start_again();
    assert_eq!(topics(&nodes[1]), expected);
    nodes.iter_mut().for_each(Broker::kill);
    nodes.iter_mut().for_each(Broker::begin_start);
    for node in &nodes {
        node.wait_until_ready();
        assert_eq!(topics(node), expected);
    }
    nodes.into_iter().for_each(|mut node| node.stop());
}

#[test]
fn who_does_not_belong_there_is_refused() {
    let mut first = Broker::start_with(options().in_cluster(1, &[]));
    let said = Broker::not_started(options().in_cluster(1, &[&first])).start_refused();
    assert!(said.contains("is node 1 too: choose another --node-id"), "{said}");
    let mut second = Broker::start_with(options().in_cluster(2, &[&first]));
    // Another directory is another member, which may lack what this one has acknowledged.
    second.kill();
    std::fs::remove_dir_all(second.data_dir()).expect("it is there");
    let said = second.start_refused();
    assert!(said.contains("is a member of the quorum with another data directory"), "{said}");
    first.stop();
    // Nor does one of them begin anew where its metadata are gone.
    let aside = first.scratch().join("metadata");
    std::fs::rename(first.data_dir().join("metadata"), &aside).expect("it is there");
    let said = first.start_refused();
    assert!(said.contains("are gone"), "{said}");
    let empty = first.data_dir().join("metadata");
    std::fs::remove_dir_all(&empty).expect("a start has made it");
    std::fs::rename(&aside, &empty).expect("it is there");
    // A node of several is not started without the others.
    let mut alone = Command::new(binary());
    alone.arg("start").arg("--data-dir").arg(first.data_dir());
    alone.args(["--node-id", "1", "--listen", &first.bootstrap(), "--admin-listen", "none", "--cores", "1"]);
    let output = alone.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is that of several nodes"), "{said}");
    // Nor on a directory that is empty because it is not mounted.
    let mut lost = Command::new(binary());
    lost.arg("start").arg("--data-dir").arg(first.scratch().join("not-mounted"));
    lost.args(["--node-id", "1", "--listen", &first.bootstrap(), "--admin-listen", "none", "--cores", "1"]);
    lost.args(["--peer-listen", &first.peer_address()]);
    let output = lost.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("odradek cluster create"), "{said}");
}

/// Whatever comes to the port for other nodes costs its connection and nothing else.
#[test]
fn garbage_from_other_nodes_closes_its_connection() {
    let mut node = Broker::start_with(options().in_cluster(1, &[]));
    let frames: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n and more than the header of a frame has room for",
        &[0; 64],
        b"ODRK\x01\x01\x01\x00 a header whose checksum is wrong, and then some",
        b"",
    ];
    for frame in frames {
        let mut stream = TcpStream::connect(node.peer_address()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is not zero");
        stream.write_all(frame).expect("it is taken");
        if frame.is_empty() {
            stream.shutdown(Shutdown::Write).expect("it is open");
        }
        let mut answer = Vec::new();
        // A connection that is closed with something unread is reset.
        let read = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        assert!(matches!(read, Ok(0) | Err(ErrorKind::ConnectionReset)), "{read:?}, {answer:?}");
    }
    assert!(node.log().contains("no frame of ours"), "{}", node.log());
    assert!(node.log().contains("the checksum of the header is wrong"), "{}", node.log());
    assert_eq!(create(&node, "still-there", 1), None);
    node.stop();
}

/// Says what it understands, and asks something if it is to. The version of the last answer, and what the node has said
/// of itself; `None`: the connection was closed.
fn speak(node: &Broker, greeting: &Greeting, question: Option<&Question>) -> Option<(u16, Greeting)> {
    let mut stream = TcpStream::connect(node.peer_address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is not zero");
    let mut say = |message: &PeerMessage| {
        let mut frame = Vec::new();
        message.encode(PEER_VERSION_MIN, [], &mut frame);
        stream.write_all(&frame).expect("it is taken");
        let mut received = Vec::new();
        loop {
            if let Ok(PeerFrame::Complete { kind, version, table, payload }) = next_peer_frame(&received) {
                let message = PeerMessage::decode(kind, &received[table], payload.len());
                return Some((version, message.expect("it is one of ours")));
            }
            let mut part = [0; 512];
            match stream.read(&mut part) {
                Ok(0) => return None,
                Ok(read) => received.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (version, said) = say(&PeerMessage::Greeting(greeting.clone()))?;
    let PeerMessage::Greeting(said) = said else { panic!("{said:?}") };
    let Some(question) = question else { return Some((version, said)) };
    let (version, answer) = say(&PeerMessage::Question(question.clone()))?;
    assert!(matches!(answer, PeerMessage::Answer(_)), "{answer:?}");
    Some((version, said))
}

/// A newer one and this one speak what both understand. One that has left that behind is told why not.
#[test]
fn nodes_of_other_builds_speak_what_both_understand() {
    let mut node = Broker::start_with(options().in_cluster(1, &[]));
    let greeting = |cluster, version_min, version_max| Greeting {
        cluster,
        node: NodeId(2),
        version_min,
        version_max,
        peer: 0,
        address: None,
        shards: None,
    };
    let newest = PEER_VERSION_MAX + 8;
    // Whoever does not know the cluster may ask which it is.
    let (version, said) = speak(&node, &greeting(Uuid::nil(), newest, newest), None).expect("it answers");
    assert_eq!(version, PEER_VERSION_MIN, "greetings are what every build understands");
    assert_eq!((said.version_min, said.version_max), (PEER_VERSION_MIN, PEER_VERSION_MAX));
    let question = Question {
        number: 1,
        kind: QuestionKind::AppliedIndex,
        node: NodeId(2),
        peer: 0,
        version: 0,
        found: Vec::new(),
        limit: None,
        registration: None,
    };
    for (version_min, version_max) in [(PEER_VERSION_MIN, newest), (PEER_VERSION_MIN, PEER_VERSION_MIN)] {
        let greeting = greeting(said.cluster, version_min, version_max);
        let (version, _) = speak(&node, &greeting, Some(&question)).expect("it answers");
        assert_eq!(version, PEER_VERSION_MAX.min(version_max));
    }
    let newer = greeting(said.cluster, newest, newest);
    assert_eq!(speak(&node, &newer, Some(&question)), None);
    let why = format!("it speaks versions {newest} to {newest}, this build");
    wait_for("the reason", || node.log().contains(&why).then_some(()));
    node.stop();
}

/// A node whose data directory is lost is replaced by an empty one once its member was taken out.
#[test]
fn a_node_is_replaced_by_an_empty_one() {
    let mut nodes = three();
    assert_eq!(create(&nodes[0], "kept", 1), None);
    let voter = |node: &Broker, change: &str, id: &str| run(node, &["cluster", "voter", change, id]);
    let refused = voter(&nodes[0], "remove", "3").expect_err("it runs");
    assert!(refused.contains("node 3 is running"), "{refused}");
    let refused = voter(&nodes[0], "remove", "4").expect_err("there is none");
    assert!(refused.contains("VOTER_NOT_FOUND"), "{refused}");
    let refused = voter(&nodes[1], "add", "3").expect_err("it has one");
    assert!(refused.contains("DUPLICATE_VOTER"), "{refused}");
    nodes[2].kill();
    std::fs::remove_dir_all(nodes[2].data_dir()).expect("it is there");
    // An answer may be lost with a leader of the quorum.
    let is_done = |tried: Result<String, String>, done: &str| {
        tried.map_or_else(|error| error.contains(done).then_some(()), |_| Some(()))
    };
    wait_for("the node to be missed", || is_done(voter(&nodes[0], "remove", "3"), "VOTER_NOT_FOUND"));
    wait_for("two votes", || (voters(&nodes[1]) == [1, 2].into()).then_some(()));
    nodes[2].start_again();
    wait_for("three votes", || (voters(&nodes[2]) == [1, 2, 3].into()).then_some(()));
    assert!(topics(&nodes[2]).contains("kept"));
    // The two that are left of three decide, the new one among them.
    nodes[0].kill();
    create_at_last(&nodes[2], "after");
    nodes[0].start_again();
    assert!(topics(&nodes[0]).contains("after"));
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// Who joins first gets no vote for that.
#[test]
fn those_vote_that_are_to() {
    let mut nodes: Vec<Broker> = Vec::new();
    for id in 1..=4 {
        let others: Vec<&Broker> = nodes.first().into_iter().collect();
        let node = Broker::not_started(options().in_cluster(id, &others));
        nodes.push(node);
    }
    let voters_set = [1, 3, 4].map(|id: usize| format!("{id}@{}", nodes[id - 1].peer_address())).join(",");
    for node in &mut nodes {
        node.reconfigure(|options| options.set("voters", &voters_set));
        node.start_again();
    }
    for node in &nodes {
        wait_for("three votes", || (voters(node) == [1, 3, 4].into()).then_some(()));
    }
    assert_eq!(create(&nodes[1], "by-an-observer", 3), None);
    let said = Broker::not_started(options().in_cluster(9, &[]).set("voters", &voters_set)).start_refused();
    assert!(said.contains("node 9 is none of --voters"), "{said}");
    let said = Broker::not_started(options().in_cluster(9, &[]).set("voters", "9@a:1,8@b:2")).start_refused();
    assert!(said.contains("1, 3 or 5 different nodes"), "{said}");
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// Five votes: any two of their nodes may be gone, also the one that leads the quorum.
#[test]
fn five_voters_go_on_without_two_of_them() {
    let mut nodes: Vec<Broker> = Vec::new();
    for id in 1..=5 {
        let others: Vec<&Broker> = nodes.first().into_iter().collect();
        nodes.push(Broker::not_started(options().in_cluster(id, &others)));
    }
    let peers = nodes.iter().zip(1..).map(|(node, id)| format!("{id}@{}", node.peer_address()));
    let voters_set = peers.collect::<Vec<_>>().join(",");
    for node in &mut nodes {
        node.reconfigure(|options| options.set("voters", &voters_set));
        node.start_again();
    }
    for node in &nodes {
        wait_for("five votes", || (voters(node) == [1, 2, 3, 4, 5].into()).then_some(()));
    }
    let leads = leader(&nodes[0]) as usize - 1;
    let gone = [leads, (leads + 2) % nodes.len()];
    gone.iter().for_each(|place| nodes[*place].kill());
    let there: Vec<usize> = (0..nodes.len()).filter(|place| !gone.contains(place)).collect();
    for place in &there {
        create_at_last(&nodes[*place], &format!("without-two-{place}"));
    }
    gone.iter().for_each(|place| drop(nodes[*place].start_again()));
    let made: BTreeSet<String> = there.iter().map(|place| format!("without-two-{place}")).collect();
    for place in gone {
        wait_for("what was made meanwhile", || topics(&nodes[place]).is_superset(&made).then_some(()));
    }
    nodes.into_iter().for_each(|mut node| node.stop());
}

/// With three votes a fourth node follows; an operator may give it one.
#[test]
fn more_nodes_than_votes_follow_until_they_are_given_one() {
    let mut nodes = three();
    let fourth = Broker::start_with(options().in_cluster(4, &[&nodes[1]]));
    nodes.push(fourth);
    wait_for("three votes", || (voters(&nodes[3]) == [1, 2, 3].into()).then_some(()));
    assert_eq!(create(&nodes[3], "by-an-observer", 1), None);
    assert!(topics(&nodes[3]).contains("by-an-observer"));
    wait_for("a vote", || match run(&nodes[3], &["cluster", "voter", "add", "4"]) {
        // The answer to the one before may be lost with a leader of the quorum.
        Err(said) => said.contains("DUPLICATE_VOTER").then_some(()),
        Ok(_) => Some(()),
    });
    wait_for("four votes", || (voters(&nodes[0]) == [1, 2, 3, 4].into()).then_some(()));
    nodes.into_iter().for_each(|mut node| node.stop());
}
