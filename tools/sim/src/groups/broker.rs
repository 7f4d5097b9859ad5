//! The broker around a coordinator: carries out what it decides as `odradek::shard::groups` does, on a log that
//! fails, and starts it again from that log.

use crate::groups::request::{Reply, Request};
use crate::groups::settings::{MS, Mistake, S, Settings, check};
use crate::groups::topics::SimTopics;
use crate::groups::witness::{Asked, Witness};
use crate::world::{Micros, Signal, World};
use crate::writes::{self, State, WriteEnd, Writes, Writing, count_end};
use futures::channel::oneshot;
use futures::future::{Either, select};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use odradek::codec::consumer_record::ConsumerRecord;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::group_record::GroupRecord;
use odradek::group::consumer::ConsumerSettings;
use odradek::group::consumer::rebalance::Resolved;
use odradek::group::consumer::regex::TopicPattern;
use odradek::group::coordinator::{Coordinator, Holdings, ToResolve};
use odradek::group::topics::Topics;
use odradek::group::{Answer, Effect, Moment, Ticket, WriteId};
use odradek::types::{Mono, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;

/// How a request waits at most: rebalances, one after the other, and writes that stall.
const WAIT_MAX: Micros = 120 * S;

struct Waiting<K> {
    sender: oneshot::Sender<Reply>,
    asked: Asked<K>,
}

/// Lives: one per seed; its runs end and begin again.
pub struct Broker<W: Witness> {
    pub world: Rc<World>,
    pub settings: Settings,
    consumers: ConsumerSettings,
    pub watch: RefCell<W>,
    pub topics: Rc<SimTopics>,
    state: RefCell<State<Coordinator>>,
    writes: Writes<GroupRecord, WriteId>,
    waiting: RefCell<BTreeMap<Ticket, Waiting<W::Known>>>,
    next_ticket: Cell<u64>,
    next_member: Cell<u64>,
    sleeps_until: Cell<Option<Mono>>,
    earlier: Signal,
    /// Nothing goes wrong any more.
    pub is_calm: Cell<bool>,
    heartbeats: Cell<u64>,
    /// The coordinator has something to go on with; somebody is at it.
    has_work: Cell<bool>,
    is_working: Cell<bool>,
}

enum Begun {
    Done(Reply),
    Waits(oneshot::Receiver<Reply>),
    /// The connection is refused.
    Nobody,
}

/// What groups of the newer protocol need, and those that watch.
pub struct Parts<W> {
    pub watch: W,
    pub topics: Rc<SimTopics>,
    pub consumers: ConsumerSettings,
}

impl<W: Witness> Broker<W> {
    pub fn new(world: &Rc<World>, settings: Settings, parts: Parts<W>) -> Rc<Broker<W>> {
        Rc::new(Broker {
            world: world.clone(),
            settings,
            consumers: parts.consumers,
            watch: RefCell::new(parts.watch),
            topics: parts.topics,
            state: RefCell::new(State::Down),
            writes: Writes::default(),
            waiting: RefCell::default(),
            next_ticket: Cell::new(0),
            next_member: Cell::new(0),
            sleeps_until: Cell::new(None),
            earlier: Signal::default(),
            is_calm: Cell::new(false),
            heartbeats: Cell::new(0),
            has_work: Cell::default(),
            is_working: Cell::default(),
        })
    }

    fn moment(&self) -> Moment {
        let world = &self.world;
        Moment { mono: Mono(S * 1000 + world.now() * 1000), wall: Timestamp(world.wall_ms()) }
    }

    pub fn is_offline(&self) -> bool {
        self.writes.is_offline()
    }

    // --- Requests

    /// Asks the coordinator. `None`: the connection has ended.
    pub async fn ask(self: &Rc<Self>, request: Request) -> Option<Reply> {
        match self.begin(request) {
            Begun::Done(reply) => Some(reply),
            Begun::Waits(receiver) => receiver.await.ok(),
            Begun::Nobody => None,
        }
    }

    fn begin(self: &Rc<Self>, mut request: Request) -> Begun {
        match self.state.borrow().refusal() {
            Some(Some(error)) => return Begun::Done(Reply::Refused(error)),
            Some(None) => return Begun::Nobody,
            None => {}
        }
        // Of topics that there are not the coordinator is not asked.
        let has_some = match &mut request {
            Request::Commit(_, request) => {
                request.topics.retain(|topic| self.topics.has(&topic.name));
                !request.topics.is_empty()
            }
            Request::DeleteOffsets(request) => {
                request.topics.retain(|topic| self.topics.has(&topic.name));
                !request.topics.is_empty()
            }
            _ => true,
        };
        if !has_some {
            return Begun::Done(Reply::Refused(ErrorCode::UnknownTopicOrPartition));
        }
        self.world.count("requests");
        self.world.note(format_args!("{}", request.summary()));
        let asked = self.watch.borrow_mut().arrived(&request);
        self.dispatch(asked, request)
    }

    fn dispatch(self: &Rc<Self>, asked: Asked<W::Known>, mut request: Request) -> Begun {
        self.watch.borrow_mut().falsify_request(&mut request);
        let (ticket, waits) = self.ticket(&asked);
        let ready = "it was looked at";
        let answer = match request {
            Request::Join(caller, request) => {
                let fresh = self.fresh_id();
                self.decide(|coordinator, now, effects| {
                    coordinator.join(&caller, &request, &fresh, ticket, now, effects);
                });
                return waits;
            }
            Request::Sync(request) => {
                self.decide(|coordinator, now, effects| coordinator.sync(&request, ticket, now, effects));
                return waits;
            }
            Request::Commit(version, request) => {
                self.decide(|coordinator, now, effects| {
                    coordinator.commit(version, request, ticket, now, effects);
                });
                return waits;
            }
            Request::DeleteGroup(group) => {
                self.decide(|coordinator, now, effects| {
                    coordinator.delete_group(&group, ticket, now, effects);
                });
                return waits;
            }
            Request::DeleteOffsets(request) => {
                self.decide(|coordinator, now, effects| {
                    coordinator.delete_offsets(request, ticket, now, effects);
                });
                return waits;
            }
            Request::ConsumerHeartbeat(caller, request) => {
                if let Some(response) = self.unheard(&request) {
                    self.answered(ticket, Answer::ConsumerHeartbeat(response));
                    return waits;
                }
                let fresh = self.fresh_id();
                self.decide(|coordinator, now, effects| {
                    coordinator.consumer_heartbeat(&caller, request, &fresh, ticket, now, effects);
                });
                return waits;
            }
            Request::Leave(request) if self.has_consumers(&request.group_id) => {
                self.decide(|coordinator, now, effects| {
                    coordinator.consumer_leave_group(request, ticket, now, effects);
                });
                return waits;
            }
            Request::Heartbeat(request) => {
                self.heartbeats.set(self.heartbeats.get() + 1);
                let is_unheard = self.settings.makes(Mistake::HeartbeatsUnheard)
                    && !self.heartbeats.get().is_multiple_of(8);
                let beat = self
                    .decide(|coordinator, now, effects| match is_unheard {
                        true => ErrorCode::None,
                        false => coordinator.heartbeat(&request, now, effects),
                    })
                    .expect(ready);
                Answer::Heartbeat(beat)
            }
            Request::Leave(request) => {
                let leave =
                    self.decide(|coordinator, now, effects| coordinator.leave(&request, now, effects));
                Answer::Leave(leave.expect(ready))
            }
            Request::Fetch(group) => {
                self.waiting.borrow_mut().remove(&ticket);
                self.look_at(&group);
                let has_some = self.decide(|coordinator, _, _| {
                    coordinator.offsets(&group).is_some_and(|offsets| offsets.count() > 0)
                });
                self.world.count(match has_some {
                    Some(true) => "fetch: offset there",
                    _ => "fetch: no offset",
                });
                return Begun::Done(Reply::Fetched);
            }
            Request::Describe(group) => {
                self.waiting.borrow_mut().remove(&ticket);
                self.look_at(&group);
                return Begun::Done(Reply::Described);
            }
        };
        self.answered(ticket, answer);
        waits
    }

    fn fresh_id(&self) -> String {
        self.next_member.set(self.next_member.get() + 1);
        self.next_member.get().to_string()
    }

    fn has_consumers(&self, group: &str) -> bool {
        self.state.borrow().ready().is_some_and(|coordinator| coordinator.is_consumer_group(group))
    }

    /// A mistake: what a heartbeat that says nothing new is answered without a word to the coordinator.
    fn unheard(&self, request: &ConsumerGroupHeartbeatRequest) -> Option<ConsumerGroupHeartbeatResponse> {
        let says_nothing = request.member_epoch > 0 && request.topic_partitions.is_none();
        if !self.settings.makes(Mistake::HeartbeatsUnheard) || !says_nothing {
            return None;
        }
        Some(
            ConsumerGroupHeartbeatResponse::default()
                .with_member_id(Some(request.member_id.clone()))
                .with_member_epoch(request.member_epoch)
                .with_heartbeat_interval_ms(1000),
        )
    }

    fn ticket(&self, asked: &Asked<W::Known>) -> (Ticket, Begun) {
        self.next_ticket.set(self.next_ticket.get() + 1);
        let ticket = Ticket(self.next_ticket.get());
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket, Waiting { sender, asked: asked.clone() });
        (ticket, Begun::Waits(receiver))
    }

    /// Decides something, then carries it out. `None` while there is no coordinator.
    fn decide<T>(
        self: &Rc<Self>,
        decide: impl FnOnce(&mut Coordinator, Moment, &mut Vec<Effect>) -> T,
    ) -> Option<T> {
        let now = self.moment();
        let mut effects = Vec::new();
        let mut to_resolve = Vec::new();
        let (decided, next, written) = {
            let mut state = self.state.borrow_mut();
            let coordinator = state.deciding()?;
            let decided = decide(coordinator, now, &mut effects);
            to_resolve.extend(std::iter::from_fn(|| coordinator.next_to_resolve()));
            self.has_work.set(coordinator.has_work());
            let written = effects.iter().filter_map(|effect| match effect {
                Effect::Write(write) => Some((*write, coordinator.records(*write).to_vec())),
                Effect::Answer(..) => None,
            });
            (decided, coordinator.next_deadline(), written.collect::<BTreeMap<_, _>>())
        };
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => self.answered(ticket, answer),
                Effect::Write(write) => self.written(write, &written[&write]),
            }
        }
        if self.has_work.get() && !self.is_working.replace(true) {
            self.world.spawn(self.clone().work(self.writes.run()));
        }
        for asked in to_resolve {
            self.world.spawn(self.clone().resolve(self.writes.run(), asked));
        }
        if let Some(next) = next
            && self.sleeps_until.get().is_none_or(|until| next < until)
        {
            self.earlier.notify();
        }
        Some(decided)
    }

    fn answered(&self, ticket: Ticket, mut answer: Answer) {
        let Some(waiting) = self.waiting.borrow_mut().remove(&ticket) else {
            self.world.finding(check::ANSWERED, format_args!("{ticket:?} is answered twice: {answer:?}"));
            return;
        };
        if self.settings.makes(Mistake::AnswersForgotten)
            && matches!(answer, Answer::Commit(_) | Answer::ConsumerHeartbeat(_))
            && self.world.one_in(20)
        {
            self.waiting.borrow_mut().insert(ticket, waiting);
            return;
        }
        self.watch.borrow_mut().falsify_answer(&mut answer);
        let request = &waiting.asked.request;
        self.world.note(format_args!(
            "  {} of {} is answered {:?}",
            request.name(),
            request.group(),
            crate::groups::request::errors(&answer)
        ));
        if let Answer::Join(response) = &answer {
            self.world.note(format_args!(
                "  {:?} generation {} leader {:?}",
                response.member_id, response.generation_id, response.leader
            ));
        }
        self.watch.borrow_mut().answered(&waiting.asked, &answer);
        // Whoever asked may have died.
        let _ = waiting.sender.send(Reply::Answer(answer));
    }

    fn written(&self, write: WriteId, records: &[GroupRecord]) {
        self.world.note(format_args!("  {write:?}: {} records", records.len()));
        self.watch.borrow_mut().written(write, records);
        self.writes.push(write);
    }

    // --- Time

    async fn watch_deadlines(self: Rc<Self>, run: u64) {
        if self.settings.makes(Mistake::DeadlinesUnwatched) {
            return;
        }
        while self.writes.run() == run {
            let next = self.state.borrow().ready().and_then(Coordinator::next_deadline);
            let now = self.moment().mono;
            self.sleeps_until.set(next);
            match next {
                Some(next) if next <= now => {
                    self.decide(|coordinator, now, effects| coordinator.expire(now, effects));
                    self.world.sleep(0).await;
                }
                Some(next) => {
                    let lateness = self.world.below(self.settings.lateness_max + 1);
                    let wait = (next.since(now).as_nanos() as u64).div_ceil(1000) + lateness;
                    let earlier = pin!(self.earlier.notified());
                    match select(self.world.sleep(wait), earlier).await {
                        Either::Left(_) | Either::Right(_) => {}
                    }
                }
                None => self.earlier.notified().await,
            }
        }
    }

    /// Offsets that nobody came back for; now and then.
    pub fn expire_offsets(self: &Rc<Self>) {
        for id in self.ids() {
            let is_early = self.settings.makes(Mistake::ExpiredEarly);
            self.decide(|coordinator, mut now, effects| {
                if is_early {
                    now.wall.0 += 30 * 86_400_000;
                }
                coordinator.expire_offsets(&id, now, effects);
            });
        }
        // A deletion that was not kept is tried again.
        self.forget_topics();
    }

    /// A topic is deleted, or that is found out at a start.
    pub fn forget_topics(self: &Rc<Self>) {
        let topics = self.topics.clone();
        self.decide(|coordinator, _, _| coordinator.forget_in_flight(|topic| !topics.has(topic)));
        for id in self.ids() {
            self.decide(|coordinator, now, effects| {
                coordinator.forget_topics(&id, |topic| !topics.has(topic), now, effects);
            });
        }
    }

    /// Creates a topic, or gives it more partitions.
    pub fn set_topic(self: &Rc<Self>, topic: &str, partition_count: i32) {
        self.world.note(format_args!("{topic} has {partition_count} partitions"));
        self.topics.set(topic, partition_count);
        self.watch.borrow_mut().kept().topic_made(topic);
        self.topics_changed();
    }

    /// Groups look at their topics again.
    fn topics_changed(self: &Rc<Self>) {
        if !self.topics.is_unseen.get() {
            self.decide(|coordinator, _, _| coordinator.topics_changed());
        }
    }

    /// Goes on with what takes long, a little at a time.
    async fn work(self: Rc<Self>, run: u64) {
        self.world.count("coordinator: goes on in its own time");
        while self.has_work.get() {
            self.world.sleep(self.world.below(20 * MS)).await;
            if self.writes.run() != run {
                return;
            }
            let units = self.world.between(1, 20) as usize;
            self.decide(|coordinator, now, effects| coordinator.work(units, now, effects));
        }
        self.is_working.set(false);
    }

    /// Holds regular expressions against all topics; of many now and then not all.
    async fn resolve(self: Rc<Self>, run: u64, asked: ToResolve) {
        self.world.count("regular expressions: resolved later");
        self.world.sleep(self.world.below(500 * MS)).await;
        let mut resolved = Resolved::new();
        for regex in &asked.regexes {
            if !resolved.is_empty() && self.world.one_in(20) {
                break;
            }
            let Ok(pattern) = TopicPattern::new(regex) else { continue };
            let mut topics = BTreeSet::new();
            self.topics.names_after(None, &mut |name| {
                if pattern.matches(name) {
                    topics.insert(name.to_owned());
                }
                true
            });
            resolved.insert(regex.clone(), topics);
            if self.world.one_in(4) {
                self.world.sleep(self.world.below(200 * MS)).await;
            }
        }
        if self.writes.run() == run {
            self.decide(|coordinator, now, effects| {
                coordinator.resolved(&asked.group, asked.version, resolved, now, effects);
            });
        }
    }

    pub fn delete_topic(self: &Rc<Self>, topic: &str) {
        self.world.note(format_args!("{topic} is deleted"));
        self.topics.remove(topic);
        self.watch.borrow_mut().kept().topic_gone(topic);
        self.topics_changed();
        self.forget_topics();
    }

    fn ids(&self) -> Vec<String> {
        let ids = |coordinator: &Coordinator| coordinator.ids_after(None, usize::MAX);
        self.state.borrow().ready().map(ids).unwrap_or_default()
    }

    // --- Checks from time to time

    fn look_at(&self, group: &str) {
        let state = self.state.borrow();
        let Some(coordinator) = state.ready() else { return };
        let waiting = self.waiting.borrow();
        let of_group: Vec<&Asked<W::Known>> = waiting
            .values()
            .map(|waiting| &waiting.asked)
            .filter(|asked| asked.request.group() == group)
            .collect();
        self.watch.borrow_mut().look(coordinator, group, &of_group);
    }

    pub fn look(&self) {
        self.ids().iter().for_each(|group| self.look_at(group));
        let now = self.world.now();
        for waiting in self.waiting.borrow().values() {
            if now > waiting.asked.since + WAIT_MAX {
                let request = waiting.asked.request.summary();
                let since = (now - waiting.asked.since) / S;
                self.world.finding(check::ANSWERED, format_args!("{request} waits for {since} s"));
                return;
            }
        }
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub fn holdings(&self) -> Option<Holdings> {
        self.state.borrow().ready().map(Coordinator::holdings)
    }

    pub fn groups(&self) -> Vec<String> {
        self.ids()
    }

    /// Topics that a group has offsets of.
    pub fn topics_of(&self, group: &str) -> Vec<String> {
        let state = self.state.borrow();
        let Some(coordinator) = state.ready() else { return Vec::new() };
        let offsets = coordinator.offsets(group);
        offsets.into_iter().flat_map(|offsets| offsets.topics()).map(|(topic, _)| topic.to_owned()).collect()
    }

    // --- Runs

    /// Everything in memory is gone, and with it as much as it likes of what was not flushed.
    pub fn crash(&self) {
        let end = self.writes.crash(&self.world);
        self.world.note(format_args!("a crash leaves the log up to {end}"));
        self.world.count("restart: crash");
        self.end_run();
    }

    /// The coordinator gives up its partition: whoever waits is sent away.
    pub fn resign(self: &Rc<Self>) {
        self.world.note(format_args!("the coordinator resigns"));
        self.world.count("restart: resigned");
        self.decide(|coordinator, now, effects| coordinator.resign(now, effects));
        self.state.borrow_mut().resign();
    }

    /// After it has resigned: what is in the log stays.
    pub fn hand_over(&self) {
        let waiting = self.waiting.borrow();
        let left = waiting.values().find(|waiting| !W::waits_for_writes(&waiting.asked.request));
        if let Some(left) = left {
            let request = left.asked.request.summary();
            self.world.finding(check::ANSWERED, format_args!("{request} waits for one who has resigned"));
        }
        drop(waiting);
        self.writes.hand_over();
        self.end_run();
    }

    fn end_run(&self) {
        let ended = std::mem::replace(&mut *self.state.borrow_mut(), State::Down);
        if let State::Ready(coordinator) = ended
            && coordinator.ids_after(None, usize::MAX).iter().any(|id| coordinator.is_aiming(id))
        {
            self.world.count("restart: while targets are made");
        }
        // Connections end.
        self.waiting.borrow_mut().clear();
        let mut watch = self.watch.borrow_mut();
        watch.forget_run();
        let (is_assigning, is_deleting) = watch.kept().run_ended();
        for (is, name) in
            [(is_assigning, "restart: while a leader assigns"), (is_deleting, "restart: during a deletion")]
        {
            if is {
                self.world.count(name);
            }
        }
        drop(watch);
        self.has_work.set(false);
        self.is_working.set(false);
        self.sleeps_until.set(None);
        self.writes.end_run();
        self.earlier.notify();
    }

    /// The cleaner comes by: everything up to somewhere, or not at all.
    pub fn clean(&self) {
        let drops_early = self.settings.makes(Mistake::TombstonesDroppedEarly);
        let (end, old) = self.writes.clean(&self.world, drops_early);
        self.world.note(format_args!("the cleaner goes up to {end}, deletions go: {old}"));
    }

    /// Reads the log, and takes up the work.
    pub async fn start(self: &Rc<Self>) {
        self.world.count("restarts");
        let run = self.writes.run();
        *self.state.borrow_mut() = State::Loading;
        self.world.sleep(self.world.below(200 * MS)).await;
        let mut coordinator = Coordinator::new(self.settings.coordinator)
            .with_consumers(self.consumers.clone(), self.topics.clone());
        self.replay(&mut coordinator);
        {
            let latest = self.writes.log.borrow().latest();
            let mut watch = self.watch.borrow_mut();
            let restored = watch.kept().restarted(&coordinator, &latest);
            watch.restored(&coordinator, &latest, &restored);
        }
        *self.state.borrow_mut() = State::Ready(Box::new(coordinator));
        writes::start(self);
        self.world.spawn(self.clone().watch_deadlines(run));
        // A few groups at a time, while requests come in already.
        for id in self.ids() {
            self.decide(|coordinator, now, effects| coordinator.loaded(&id, now, effects));
            self.watch.borrow_mut().sessions_began(&id);
            if self.world.one_in(4) {
                self.world.sleep(self.world.below(20 * MS)).await;
            }
        }
        self.forget_topics();
    }

    fn replay(&self, coordinator: &mut Coordinator) {
        let log = self.writes.log.borrow();
        let count = log.records().count();
        let ends_early = self.settings.makes(Mistake::ReplayEndsEarly);
        let taken = count.saturating_sub(usize::from(ends_early));
        for record in log.records().take(taken) {
            let (key, value) = (record.encode_key(), record.encode_value());
            let read = GroupRecord::decode(Some(&key), value.as_deref());
            assert_eq!(read.as_ref().map(Option::as_ref), Ok(Some(record)), "records are read as written");
            let is_passed_over = self.settings.makes(Mistake::GroupsNotReplayed)
                && matches!(
                    record,
                    GroupRecord::Group { .. } | GroupRecord::Consumer(ConsumerRecord::Current { .. })
                );
            if !is_passed_over {
                coordinator.apply(record);
            }
        }
    }
}

impl<W: Witness> Writing for Broker<W> {
    type Record = GroupRecord;
    type Write = WriteId;
    const ERRORS: &'static [ErrorCode] = &[
        ErrorCode::NotEnoughReplicas,
        ErrorCode::KafkaStorageError,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::MessageTooLarge,
    ];

    fn world(&self) -> &Rc<World> {
        &self.world
    }

    fn writes(&self) -> &Writes<GroupRecord, WriteId> {
        &self.writes
    }

    fn write_times(&self) -> (Micros, u64) {
        (self.settings.write_max, self.settings.write_fault)
    }

    fn is_faulty(&self, one_in: u64) -> bool {
        !self.is_calm.get() && one_in != u64::MAX && self.world.one_in(one_in)
    }

    fn records(&self, write: WriteId) -> Vec<GroupRecord> {
        let mut state = self.state.borrow_mut();
        state.deciding().expect("it has decided").records(write).to_vec()
    }

    fn refused(self: &Rc<Self>, write: WriteId, error: ErrorCode) {
        let told = match self.settings.makes(Mistake::RefusedTakenForKept) {
            true => Ok(()),
            false => Err(error),
        };
        self.end_write(write, WriteEnd::Refused, told);
    }

    fn is_taken_for_flushed(self: &Rc<Self>, write: WriteId) -> bool {
        let is_taken = self.settings.makes(Mistake::AnsweredBeforeFlushed);
        if is_taken {
            self.decide(|coordinator, now, effects| coordinator.finished(write, Ok(()), now, effects));
        }
        is_taken
    }

    fn end_write(self: &Rc<Self>, write: WriteId, end: WriteEnd, result: Result<(), ErrorCode>) {
        self.world.note(format_args!("  {write:?} is {end:?}: {result:?}"));
        count_end(&self.world, end);
        let records = {
            let mut watch = self.watch.borrow_mut();
            let records = watch.kept().ended(write, end);
            watch.ended(write, &records, end);
            records
        };
        self.decide(|coordinator, now, effects| coordinator.finished(write, result, now, effects));
        if W::LOOKS_AFTER_WRITES {
            records.first().into_iter().for_each(|record| self.look_at(record.group()));
        }
    }
}
