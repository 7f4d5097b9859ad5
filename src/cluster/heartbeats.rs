//! Who says that it is there: what the leader of the quorum remembers of nodes, and what follows from it.
//!
//! ```text
//! heartbeat ─► heard ─► answer                  (epoch, how much of the metadata it has, whether it wants to stop,
//!                                                which log directories have failed)
//! time      ─► due   ─► fence, unfence, begin to shut down, ─► lifecycle::change_node ─► committed ─► changed
//!                       lose log directories
//! ```
//!
//! None of this is stored. A new leader gives every node a whole session, but for the one that led before: its
//! silence is why there is a new one. Time in which the leader itself did not run counts for nobody.
//!
//! Source: KIP-631; Kafka `BrokerHeartbeatManager`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::image::Image;
use super::lifecycle::NodeChange;
use super::record::Node;
use crate::codec::control::{Heartbeat, HeartbeatAnswer};
use crate::types::{BrokerEpoch, DirectoryId, Mono, NodeId};

/// Lives: with the quorum of a node that leads it, or may.
#[derive(Debug)]
pub struct Heartbeats {
    /// Without a heartbeat for so long a node is fenced.
    session: Duration,
    nodes: BTreeMap<NodeId, Contact>,
    /// When it was last looked what is due.
    looked: Mono,
}

/// What is known of one registration.
#[derive(Clone, Debug)]
struct Contact {
    broker_epoch: BrokerEpoch,
    /// The last heartbeat, or the beginning of a session that was given.
    last: Mono,
    /// The last heartbeat, if there was one since the node was fenced.
    heartbeat: Option<Heartbeat>,
    /// How much of the metadata it needs to know what became of it.
    needed: u64,
}

impl Heartbeats {
    pub fn new(session: Duration, now: Mono) -> Heartbeats {
        Heartbeats { session, nodes: BTreeMap::new(), looked: now }
    }

    /// This node leads from now on, and has applied so much of the metadata. `before`: who led, and when it was last
    /// heard.
    pub fn begin(&mut self, image: &Image, now: Mono, applied: u64, before: Option<(NodeId, Mono)>) {
        self.looked = now;
        self.nodes.clear();
        for node in image.nodes() {
            let silent = before.filter(|(led, _)| *led == node.id);
            let last = silent.map_or(now, |(_, last)| last);
            self.nodes.insert(node.id, Contact::new(node, last, applied));
        }
    }

    /// The answer to a heartbeat, which counts if it comes from the current registration.
    pub fn heard(&mut self, image: &Image, heartbeat: &Heartbeat, now: Mono) -> HeartbeatAnswer {
        let known = image.node(heartbeat.node).filter(|node| node.broker_epoch == heartbeat.broker_epoch);
        let Some(node) = known else {
            let broker_epoch = heartbeat.broker_epoch;
            let (is_known, is_fenced, may_shut_down) = (false, true, heartbeat.wants_shut_down);
            return HeartbeatAnswer { broker_epoch, is_known, is_fenced, may_shut_down };
        };
        let contact = self.contact(node, now);
        contact.last = now;
        contact.heartbeat = Some(heartbeat.clone());
        HeartbeatAnswer {
            broker_epoch: node.broker_epoch,
            is_known: true,
            is_fenced: node.is_fenced,
            may_shut_down: heartbeat.wants_shut_down && node.is_fenced,
        }
    }

    /// A change of a node is applied here: so much of the metadata says so.
    pub fn changed(&mut self, image: &Image, node: NodeId, now: Mono, applied: u64) {
        let Some(node) = image.node(node) else { return };
        let contact = self.contact(node, now);
        contact.needed = applied;
        contact.heartbeat = None;
    }

    /// What is to be changed now.
    pub fn due(&mut self, image: &Image, now: Mono) -> Vec<(NodeId, BrokerEpoch, NodeChange)> {
        let paused = now.since(self.looked);
        self.looked = now;
        if paused > self.session / 2 {
            let shift = |contact: &mut Contact| contact.last = contact.last.after(paused).min(now);
            self.nodes.values_mut().for_each(shift);
        }
        let session = self.session;
        let each = |node: &Node| {
            let change = self.contact(node, now).due(node, session, now)?;
            Some((node.id, node.broker_epoch, change))
        };
        image.nodes().filter_map(each).collect()
    }

    /// Whether a fenced node may be unfenced soon: it was heard, or has registered, less than a session ago, and does
    /// not stop.
    pub fn is_coming(&self, node: &Node, now: Mono) -> bool {
        // Of a registration that nobody has looked at yet no time has gone by.
        let contact = self.nodes.get(&node.id).filter(|contact| contact.broker_epoch == node.broker_epoch);
        let is_heard = contact.is_none_or(|contact| now.since(contact.last) < self.session);
        node.is_fenced && !node.is_shutting_down && is_heard
    }

    /// Of the current registration; a new one has a session before it.
    fn contact(&mut self, node: &Node, now: Mono) -> &mut Contact {
        let contact = self.nodes.entry(node.id).or_insert_with(|| Contact::new(node, now, 0));
        if contact.broker_epoch != node.broker_epoch {
            *contact = Contact::new(node, now, 0);
        }
        contact
    }
}

impl Contact {
    fn new(node: &Node, last: Mono, needed: u64) -> Contact {
        Contact { broker_epoch: node.broker_epoch, last, heartbeat: None, needed }
    }

    fn due(&self, node: &Node, session: Duration, now: Mono) -> Option<NodeChange> {
        if now.since(self.last) >= session {
            return (!node.is_fenced).then_some(NodeChange::Fence);
        }
        let heartbeat = self.heartbeat.as_ref()?;
        let is_news =
            |id: &DirectoryId| node.log_directories.iter().any(|known| known.id == *id && !known.is_offline);
        let failed: Vec<_> = heartbeat.offline_directories.iter().copied().filter(is_news).collect();
        if !failed.is_empty() {
            return Some(NodeChange::LoseDirectories(failed));
        }
        let has_caught_up = heartbeat.metadata_offset >= self.needed;
        match (node.is_fenced, heartbeat.wants_shut_down) {
            (true, false) if has_caught_up && !node.is_shutting_down => Some(NodeChange::Unfence),
            (false, true) if !node.is_shutting_down => Some(NodeChange::BeginShutDown),
            // Clients that still ask it are told by itself who leads.
            (false, true) if has_caught_up => Some(NodeChange::Fence),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node};
    use crate::cluster::lifecycle::change_node;
    use crate::cluster::record::{LogDirectory, Record};
    use crate::config::Routing;
    use crate::config::topic::TopicDefaults;
    use crate::types::Uuid;

    const SESSION: Duration = Duration::from_millis(1000);

    /// A leader and its image, which takes what is due.
    struct Leader {
        image: Image,
        heartbeats: Heartbeats,
        /// Milliseconds.
        now: u64,
        applied: u64,
        /// Log directories that whoever says something has lost.
        failed: Vec<DirectoryId>,
    }

    impl Leader {
        fn new(nodes: &[i32]) -> Leader {
            let registered = |id: &i32| Node {
                broker_epoch: BrokerEpoch(i64::from(*id)),
                is_fenced: true,
                ..node(*id, 1, Routing::Node)
            };
            let image = image_of(&nodes.iter().map(registered).collect::<Vec<_>>());
            let mut heartbeats = Heartbeats::new(SESSION, Mono(0));
            heartbeats.begin(&image, Mono(0), 10, None);
            Leader { image, heartbeats, now: 0, applied: 10, failed: Vec::new() }
        }

        fn mono(&self) -> Mono {
            Mono(self.now * 1_000_000)
        }

        fn says(&mut self, node: i32, metadata_offset: u64, wants_shut_down: bool) -> HeartbeatAnswer {
            let broker_epoch = BrokerEpoch(i64::from(node));
            let heartbeat = Heartbeat {
                node: NodeId(node),
                broker_epoch,
                metadata_offset,
                wants_shut_down,
                offline_directories: self.failed.clone(),
            };
            let now = self.mono();
            self.heartbeats.heard(&self.image, &heartbeat, now)
        }

        fn all_say(&mut self, nodes: &[i32], metadata_offset: u64) {
            nodes.iter().for_each(|node| {
                self.says(*node, metadata_offset, false);
            });
        }

        /// Lets time go by in small steps, and carries out what is due.
        fn wait(&mut self, ms: u64) -> Vec<(i32, NodeChange)> {
            let mut done = Vec::new();
            for _ in 0..ms / 50 {
                self.now += 50;
                done.extend(self.look());
            }
            done
        }

        fn look(&mut self) -> Vec<(i32, NodeChange)> {
            let now = self.mono();
            let due = self.heartbeats.due(&self.image, now);
            for (node, epoch, change) in &due {
                let defaults = TopicDefaults::default();
                let records = change_node(&self.image, &defaults, (*node, *epoch), change);
                assert!(!records.is_empty(), "nothing is due that is so already");
                records.iter().for_each(|record| self.image.apply(record).expect("decided on this image"));
                self.applied += 1;
                self.heartbeats.changed(&self.image, *node, now, self.applied);
            }
            due.into_iter().map(|(node, _, change)| (node.0, change)).collect()
        }
    }

    #[test]
    fn a_node_is_unfenced_once_it_knows_that_it_is_registered() {
        let mut leader = Leader::new(&[1]);
        assert!(leader.says(1, 9, false).is_fenced);
        assert_eq!(leader.look(), []);
        leader.says(1, 10, false);
        assert_eq!(leader.look(), [(1, NodeChange::Unfence)]);
        assert!(!leader.says(1, 11, false).is_fenced);
        assert_eq!(leader.look(), []);
    }

    #[test]
    fn a_silent_node_is_fenced_and_comes_back_once_it_knows_of_it() {
        let mut leader = Leader::new(&[1, 2]);
        leader.all_say(&[1, 2], 10);
        assert_eq!(leader.look().len(), 2);
        for _ in 0..3 {
            assert_eq!(leader.wait(400), []);
            leader.all_say(&[1, 2], 12);
        }
        assert_eq!(leader.wait(900), []);
        leader.says(1, 12, false);
        assert_eq!(leader.wait(100), [(2, NodeChange::Fence)]);
        let fenced_at = leader.applied;
        leader.says(2, fenced_at - 1, false);
        assert_eq!(leader.look(), [], "it may think that it leads");
        leader.says(2, fenced_at, false);
        assert_eq!(leader.look(), [(2, NodeChange::Unfence)]);
    }

    #[test]
    fn who_was_heard_lately_and_does_not_stop_is_coming() {
        let mut leader = Leader::new(&[1]);
        let is_coming = |leader: &Leader| {
            let node = leader.image.node(NodeId(1)).expect("it is there");
            leader.heartbeats.is_coming(node, leader.mono())
        };
        leader.wait(900);
        assert!(is_coming(&leader), "it has a session from the start");
        leader.wait(100);
        assert!(!is_coming(&leader));
        leader.says(1, 9, false);
        assert!(is_coming(&leader), "once it has caught up");
        leader.says(1, 10, false);
        leader.look();
        assert!(!is_coming(&leader), "it is there");
        leader.says(1, leader.applied, true);
        leader.look();
        leader.says(1, leader.applied, true);
        assert_eq!(leader.look(), [(1, NodeChange::Fence)]);
        assert!(!is_coming(&leader), "it stops");
    }

    #[test]
    fn a_log_directory_that_fails_is_news_once_and_of_those_that_the_node_has() {
        let mut leader = Leader::new(&[1]);
        let id = |number| DirectoryId(Uuid::from_u128(number));
        let named = |number| LogDirectory { id: id(number), path: String::new(), is_offline: false };
        let with = Node {
            log_directories: [1, 2].map(named).to_vec(),
            ..leader.image.node(NodeId(1)).expect("it is there").clone()
        };
        leader.image.apply(&Record::NodeRegistered(with)).expect("fits");
        leader.failed = vec![id(2), id(3)];
        leader.says(1, 10, false);
        assert_eq!(leader.look(), [(1, NodeChange::LoseDirectories(vec![id(2)]))], "before it may lead");
        leader.says(1, leader.applied, false);
        assert_eq!(leader.look(), [(1, NodeChange::Unfence)]);
        leader.says(1, leader.applied, false);
        assert_eq!(leader.look(), []);
    }

    #[test]
    fn heartbeats_of_an_earlier_registration_count_for_nothing() {
        let mut leader = Leader::new(&[1]);
        leader.says(1, 10, false);
        leader.look();
        let again = Node { broker_epoch: BrokerEpoch(7), ..node(1, 1, Routing::Node) };
        leader.image.apply(&Record::NodeRegistered(Node { is_fenced: true, ..again })).expect("it is new");
        let answer = leader.says(1, 99, false);
        assert!(!answer.is_known);
        assert_eq!(leader.wait(5000), [], "it is fenced, and stays so");
    }

    #[test]
    fn who_stops_leads_nothing_first_and_is_fenced_then() {
        let mut leader = Leader::new(&[1, 2]);
        leader.all_say(&[1, 2], 10);
        leader.look();
        assert!(!leader.says(1, 12, true).may_shut_down);
        assert_eq!(leader.look(), [(1, NodeChange::BeginShutDown)]);
        let moved_at = leader.applied;
        assert!(!leader.says(1, moved_at - 1, true).may_shut_down);
        assert_eq!(leader.look(), [], "its clients are to be told by itself");
        leader.says(1, moved_at, true);
        assert_eq!(leader.look(), [(1, NodeChange::Fence)]);
        assert!(leader.says(1, moved_at, true).may_shut_down);
        assert_eq!(leader.wait(400), []);
    }

    #[test]
    fn a_new_leader_gives_a_session_to_all_but_the_one_before_it() {
        let mut leader = Leader::new(&[1, 2, 3]);
        leader.all_say(&[1, 2, 3], 10);
        leader.look();
        leader.now = 5000;
        let (now, heard) = (leader.mono(), Mono(4_200_000_000));
        leader.heartbeats.begin(&leader.image, now, 13, Some((NodeId(1), heard)));
        leader.says(3, 13, false);
        assert_eq!(leader.wait(200), [(1, NodeChange::Fence)]);
        assert_eq!(leader.wait(700), []);
        leader.says(3, 13, false);
        assert_eq!(leader.wait(100), [(2, NodeChange::Fence)]);
    }

    #[test]
    fn nobody_is_fenced_for_what_the_leader_has_not_heard_while_it_stood_still() {
        let mut leader = Leader::new(&[1]);
        leader.says(1, 10, false);
        leader.look();
        leader.says(1, 11, false);
        leader.now += 60_000;
        assert_eq!(leader.look(), []);
        assert_eq!(leader.wait(900), []);
        assert_eq!(leader.wait(100), [(1, NodeChange::Fence)]);
    }
}
