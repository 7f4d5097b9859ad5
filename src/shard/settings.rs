//! The settings in effect: what the node was started with, and what was set at run time.
//!
//! They are made anew whenever the metadata say so; who asks for one looks here each time it needs it.

use crate::cluster::image::Image;
use crate::cluster::record::ConfigResource;
use crate::config::Config;
use crate::config::topic::TopicDefaults;
use crate::preflight;
use crate::shard::Shard;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Lives: one per shard.
pub(super) struct Settings {
    pub config: Rc<Config>,
    /// What topics inherit.
    pub topic_defaults: Rc<TopicDefaults>,
}

impl Settings {
    /// `started`: what the node was started with, which a start has checked.
    pub fn of(started: &Rc<Config>, image: &Image, node: NodeId) -> Settings {
        let none = BTreeMap::new();
        let set = |resource| image.settings(&resource).unwrap_or(&none);
        let (cluster, own) = (set(ConfigResource::Brokers), set(ConfigResource::Node(node)));
        let config = match cluster.is_empty() && own.is_empty() {
            true => started.clone(),
            false => {
                let (mut config, refused) = started.with_dynamic(cluster, own);
                for error in refused {
                    tracing::warn!(%error, "a setting made at run time is left out");
                }
                limit_connections(started.max_connections, &mut config);
                Rc::new(config)
            }
        };
        let topic_defaults = TopicDefaults::from_config(&config).expect("with the settings it was checked");
        Settings { config, topic_defaults: Rc::new(topic_defaults) }
    }
}

/// What topics inherit, before there are shards or beside them.
pub fn topic_defaults_in(started: &Config, image: &Image, node: NodeId) -> TopicDefaults {
    let none = BTreeMap::new();
    let set = |resource| image.settings(&resource).unwrap_or(&none);
    let (cluster, own) = (set(ConfigResource::Brokers), set(ConfigResource::Node(node)));
    let (config, _) = started.with_dynamic(cluster, own);
    TopicDefaults::from_config(&config).expect("with the settings it was checked")
}

/// More connections than the node was started with need more open files, or accepting one fails. All shards come to
/// the same number: the limit is the process's.
fn limit_connections(started: usize, config: &mut Config) {
    let wanted = config.max_connections;
    if wanted <= started {
        return;
    }
    let max = preflight::make_room(wanted).max(started);
    if max < wanted {
        tracing::warn!(wanted, max, "fewer open files than max.connections needs: raise `ulimit -n`");
        config.max_connections = max;
    }
}

impl Shard {
    /// Those in effect. What does not change while the node runs is in [`Shard::config`] as well.
    pub fn settings(&self) -> Rc<Config> {
        self.settings.borrow().config.clone()
    }

    /// What topics inherit from the settings in effect.
    pub fn topic_defaults(&self) -> Rc<TopicDefaults> {
        self.settings.borrow().topic_defaults.clone()
    }

    /// The metadata have other settings than before. What follows for partitions is the caller's to do.
    pub(super) fn settings_changed(&self, image: &Image) {
        let settings = Settings::of(&self.config, image, self.node);
        let before = self.settings.replace(settings);
        let (before, after) = (before.config.max_connections, self.settings().max_connections);
        self.connection_share.borrow_mut().change_limit((before, after), self.config.cores, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node};
    use crate::cluster::record::Record;
    use crate::config::{Machine, Routing};

    #[test]
    fn no_more_connections_than_there_are_open_files_for() {
        let machine = Machine { cpus_allowed: vec![0], memory_bytes: 128 << 20 };
        let started = Rc::new(Config::defaults(&machine).expect("it is enough"));
        let with = |connections: usize| {
            let mut image = image_of(&[node(1, 1, Routing::Node)]);
            let record = Record::ConfigSet {
                resource: ConfigResource::Brokers,
                key: "max.connections".to_owned(),
                value: Some(connections.to_string()),
            };
            image.apply(&record).expect("it fits any");
            Settings::of(&started, &image, NodeId(1)).config.max_connections
        };
        let fewer = started.max_connections - 1;
        assert_eq!(with(fewer), fewer);
        /// More than any kernel lets a process have.
        const MOST: usize = i32::MAX as usize;
        assert!((started.max_connections..MOST).contains(&with(MOST)), "{}", with(MOST));
    }
}
