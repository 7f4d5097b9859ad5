//! Who watches over a broker: it is told of all that goes into a coordinator and comes out of it, and may make
//! mistakes on its behalf. There is one for members of the classic protocol ([`crate::groups::watch`]) and one for
//! groups that use both ([`crate::consumers::watch`]).

use crate::groups::request::Request;
use crate::groups::watch::kept::Kept;
use crate::world::Micros;
use crate::writes::WriteEnd;
use odradek::codec::group_record::{GroupRecord, GroupValue};
use odradek::group::coordinator::Coordinator;
use odradek::group::{Answer, WriteId};
use std::collections::BTreeMap;

/// A request on its way through a coordinator.
#[derive(Clone, Debug)]
pub struct Asked<K> {
    pub request: Request,
    pub since: Micros,
    /// What was known when it came.
    pub known: K,
}

/// Lives: one per seed, in its broker.
pub trait Witness: Sized + 'static {
    /// What is to be known of a request, from when it comes.
    type Known: Clone + std::fmt::Debug;
    /// Groups are looked at after each of their writes.
    const LOOKS_AFTER_WRITES: bool = false;

    /// What is in the log.
    fn kept(&mut self) -> &mut Kept;

    /// A request comes to the coordinator.
    fn arrived(&mut self, request: &Request) -> Asked<Self::Known>;

    /// The coordinator has answered.
    fn answered(&mut self, asked: &Asked<Self::Known>, answer: &Answer);

    /// Records are on their way.
    fn written(&mut self, write: WriteId, records: &[GroupRecord]);

    /// A write has ended; the coordinator is told next.
    fn ended(&mut self, write: WriteId, records: &[GroupRecord], end: WriteEnd);

    /// A coordinator is no more, and with it what only it knew.
    fn forget_run(&mut self);

    /// A replay has ended. `latest`: what the log says, key by key; `restored`: the classic groups of it.
    fn restored(
        &mut self,
        coordinator: &Coordinator,
        latest: &BTreeMap<Vec<u8>, GroupRecord>,
        restored: &[(String, GroupValue)],
    );

    /// Sessions of a group's members begin.
    fn sessions_began(&mut self, group: &str);

    /// A look at a group. `waiting`: requests to it that are not answered yet.
    fn look(&mut self, coordinator: &Coordinator, group: &str, waiting: &[&Asked<Self::Known>]);

    /// Whether a request may wait for a write of a coordinator that has resigned.
    fn waits_for_writes(request: &Request) -> bool;

    /// Mistakes that are made with a request.
    fn falsify_request(&mut self, _request: &mut Request) {}

    /// Mistakes that are made with an answer.
    fn falsify_answer(&mut self, _answer: &mut Answer) {}
}
