use super::*;
use crate::cluster::encoding;
use crate::cluster::record::Record;
use crate::codec::peer_frame::PeerKind;
use crate::types::NodeId;
use proptest::prelude::*;

const CLUSTER: Uuid = Uuid::from_u128(0xC1);

fn peer(node: i32) -> PeerId {
    PeerId::new(NodeId(node), 3)
}

fn message(kind: MessageKind) -> Message {
    let kind = KINDS.iter().find(|(named, ..)| *named == kind).expect("all are there");
    let mut raft = RaftMessage {
        from: peer(1).raw(),
        to: peer(2).raw(),
        term: 7,
        log_term: 6,
        index: 40,
        commit: 39,
        commit_term: 5,
        reject: true,
        reject_hint: 38,
        request_snapshot: 4,
        context: Bytes::from_static(b"CampaignTransfer"),
        ..RaftMessage::default()
    };
    raft.set_msg_type(kind.1);
    Message::of(CLUSTER, raft).expect("it is sent")
}

fn with_entries() -> Message {
    let mut message = message(MessageKind::Append);
    let records = Bytes::from(encoding::encode(&[Record::FeatureLevelSet { level: 1 }]));
    let entry = |index, payload| LogEntry { term: 7, index, payload }.to_raft();
    use crate::cluster::quorum::entry::Payload;
    use crate::cluster::quorum::members::MemberChange;
    message.raft.entries = vec![
        entry(41, Payload::Records(Bytes::new())),
        entry(42, Payload::Records(records)),
        entry(43, Payload::Members(MemberChange::AddObserver(peer(4)))),
        entry(44, Payload::Members(MemberChange::AddVoter(peer(4)))),
        entry(45, Payload::Members(MemberChange::Remove(peer(1)))),
    ]
    .into();
    message
}

fn with_snapshot() -> Message {
    let mut message = message(MessageKind::Snapshot);
    let part = |level| Bytes::from(encoding::encode(&[Record::FeatureLevelSet { level }]));
    let parts = [part(1), part(2)];
    let mut members = Members::voters([peer(1), peer(2)]);
    members.observers.insert(peer(9));
    let mut snapshot = RaftSnapshot { data: encode_image(&parts), ..RaftSnapshot::default() };
    (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (40, 6);
    snapshot.mut_metadata().set_conf_state(members.to_raft());
    message.raft.set_snapshot(snapshot);
    message
}

#[test]
fn every_message_comes_as_it_was_sent() {
    let plain = KINDS.iter().filter(|(kind, ..)| *kind != MessageKind::Snapshot);
    let plain = plain.map(|(kind, ..)| message(*kind));
    for message in plain.chain([with_entries(), with_snapshot()]) {
        let decoded = Message::decode(&message.encode());
        assert_eq!(decoded.as_ref(), Ok(&message), "{:?}", message.kind());
        let decoded = decoded.expect("it is one");
        assert_eq!((decoded.cluster, decoded.from, decoded.to), (CLUSTER, peer(1), peer(2)));
    }
}

#[test]
fn what_raft_says_to_itself_is_no_message() {
    for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgTransferLeader] {
        let mut raft = RaftMessage { from: peer(1).raw(), to: peer(2).raw(), ..RaftMessage::default() };
        raft.set_msg_type(kind);
        assert_eq!(Message::of(CLUSTER, raft), None);
    }
}

#[test]
fn what_raft_could_not_take_is_refused() {
    let refused = |change: &dyn Fn(&mut RaftMessage)| {
        let mut message = with_entries();
        change(&mut message.raft);
        Message::decode(&message.encode()).expect_err("it is refused")
    };
    assert_eq!(refused(&|raft| raft.from = 0), InvalidMessage::Peer(0));
    assert_eq!(refused(&|raft| raft.to = 9 << 32), InvalidMessage::Peer(9 << 32));
    assert_eq!(refused(&|raft| raft.term = 0), InvalidMessage::Number(0));
    assert_eq!(refused(&|raft| raft.commit = u64::MAX), InvalidMessage::Number(u64::MAX));
    assert_eq!(refused(&|raft| raft.index = 41), InvalidMessage::Entries { first: 41, index: 41 });
    let order = InvalidEntry::Order { found: 43, expected: 42 };
    assert_eq!(refused(&|raft| drop(raft.mut_entries().remove(1))), InvalidMessage::Entry(order));
    let term = InvalidEntry::Term { index: 42, term: 6, before: 7 };
    assert_eq!(refused(&|raft| raft.mut_entries()[1].term = 6), InvalidMessage::Entry(term));
    let mut nobody = with_snapshot();
    nobody.raft.mut_snapshot().mut_metadata().mut_conf_state().voters.clear();
    assert_eq!(Message::decode(&nobody.encode()), Err(InvalidMessage::Snapshot));
    let mut garbled = with_snapshot();
    garbled.raft.mut_snapshot().data = Bytes::from_static(b"no image");
    assert!(matches!(Message::decode(&garbled.encode()), Err(InvalidMessage::Malformed(_))));
    garbled.raft.mut_snapshot().data = encode_image(&[Bytes::from_static(b"no records")]);
    assert!(matches!(Message::decode(&garbled.encode()), Err(InvalidMessage::Records(_))));
}

proptest! {
    #[test]
    fn any_change_of_a_message_never_panics(at in any::<prop::sample::Index>(), to in any::<u8>(), which in 0..2) {
        let mut bytes = if which == 0 { with_entries() } else { with_snapshot() }.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
    }
}

#[test]
#[ignore = "writes files; run by tools/fuzz/run"]
#[expect(clippy::disallowed_methods, reason = "a tool that runs as a test and writes files")]
fn write_fuzz_seeds() {
    let root = std::env::var("ODRADEK_FUZZ_SEEDS").expect("ODRADEK_FUZZ_SEEDS names the directory");
    let root = std::path::Path::new(&root).join("peer");
    std::fs::create_dir_all(&root).unwrap();
    let kind = PeerKind::ALL.iter().position(|kind| *kind == PeerKind::Quorum).unwrap() as u8;
    let all = KINDS.map(|(kind, ..)| message(kind)).into_iter().chain([with_entries(), with_snapshot()]);
    for (number, message) in all.enumerate() {
        std::fs::write(
            root.join(format!("quorum-{number}")),
            [&[kind, 0, 0], &message.encode()[..]].concat(),
        )
        .unwrap();
    }
}
