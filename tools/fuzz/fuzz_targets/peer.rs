//! What comes from another node: frames, the messages in them, and what the metadata quorum is told.
//!
//! Input: a byte that says which kind of frame it is (one past the last: frames as they come, with their
//! checksums), then table and payload, between them the size of the table in two bytes. A message of the quorum is also
//! given to a node that follows, and to one that leads: they may refuse it or stop, and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use odradek::cluster::quorum::event::{Effect, Event};
use odradek::cluster::quorum::frame::{Recovered, Snapshot, scan};
use odradek::cluster::quorum::members::{Members, PeerId};
use odradek::cluster::quorum::message::Message;
use odradek::cluster::quorum::{Quorum, Settings};
use odradek::cluster::record::Record;
use odradek::codec::peer_frame::{PeerFrame, PeerKind, next_peer_frame};
use odradek::codec::peer_message::{PEER_VERSION_MAX, PeerMessage};
use odradek::codec::transactions::{
    decode_markers, decode_markers_written, decode_verification, encode_markers, encode_verification,
};
use odradek::types::{NodeId, Uuid};

/// Of the seeds, which are messages from node 1 to node 2.
const CLUSTER: Uuid = Uuid::from_u128(0xC1);
const ME: i32 = 2;

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, low, high], rest)) = input.split_first_chunk::<3>() else { return };
    let kind = usize::from(kind) % (PeerKind::ALL.len() + 2);
    let Some(kind) = PeerKind::ALL.get(kind) else {
        return if kind == PeerKind::ALL.len() { frames(rest) } else { log(rest) };
    };
    let (table, payload) = rest.split_at(rest.len().min(u16::from_le_bytes([low, high]).into()));
    transactions(payload);
    match PeerMessage::decode(*kind, table, payload.len()) {
        Ok(PeerMessage::Quorum) => quorum(payload),
        Ok(message) => again(&message, payload),
        Err(_) => {}
    }
});

/// Payloads of questions and answers about transactions.
fn transactions(payload: &[u8]) {
    if let Ok(question) = decode_verification(payload) {
        assert_eq!(decode_verification(&encode_verification(&question)), Ok(question));
    }
    if let Ok(markers) = decode_markers(payload) {
        assert_eq!(decode_markers(&encode_markers(&markers)), Ok(markers));
    }
    let _ = decode_markers_written(payload);
}

fn frames(mut bytes: &[u8]) {
    while let Ok(PeerFrame::Complete { kind, table, payload, .. }) = next_peer_frame(bytes) {
        let _ = PeerMessage::decode(kind, &bytes[table], payload.len());
        bytes = &bytes[payload.end..];
    }
}

/// What is said again is heard as the same.
fn again(message: &PeerMessage, payload: &[u8]) {
    let mut frame = Vec::new();
    message.encode(PEER_VERSION_MAX, [payload], &mut frame);
    frame.extend_from_slice(payload);
    let Ok(PeerFrame::Complete { kind, table, payload, .. }) = next_peer_frame(&frame) else {
        panic!("a frame of ours is none");
    };
    // Of numbers only; what is not a number is no limit of anybody's.
    if !matches!(message, PeerMessage::Question(question) if question.limit.is_some()) {
        assert_eq!(PeerMessage::decode(kind, &frame[table], payload.len()).as_ref(), Ok(message));
    }
}

fn peer(node: i32) -> PeerId {
    PeerId::new(NodeId(node), 3)
}

fn log(bytes: &[u8]) {
    let _ = scan(bytes, peer(ME));
}

fn quorum(payload: &[u8]) {
    let Ok(message) = Message::decode(payload) else { return };
    for voters in [&[ME][..], &[1, ME, 3]] {
        let (mut quorum, mut effects) = start(voters);
        persist(&mut quorum, &mut effects);
        quorum.step(Event::Received(message.clone()), &mut effects);
        persist(&mut quorum, &mut effects);
    }
}

/// One of three voters, which follows nobody, or the only one, which leads.
fn start(voters: &[i32]) -> (Quorum, Vec<Effect>) {
    let records = [Record::ClusterCreated { cluster_id: CLUSTER }];
    let members = Members::voters(voters.iter().copied().map(peer));
    let base = Snapshot::founding(members, &records);
    let hard_state = Snapshot::founding_state();
    let recovered = Recovered { base, hard_state, ..Recovered::nothing() };
    let settings = Settings { election_ticks: 10, heartbeat_ticks: 2, seed: 1, entries_retained: 10 };
    let mut effects = Vec::new();
    let quorum = Quorum::start(CLUSTER, peer(ME), settings, recovered, &mut effects);
    (quorum, effects)
}

/// Everything that is to be written is.
fn persist(quorum: &mut Quorum, effects: &mut Vec<Effect>) {
    while let Some(effect) = effects.pop() {
        if let Effect::Persist(persist) = effect {
            quorum.step(Event::Persisted(persist.number), effects);
        }
    }
}
