//! What the shell of the quorum commits, and what not.

use super::*;
use crate::cluster::image::tests::{add_topic, image_of, node};
use crate::cluster::record::ConfigResource;
use crate::config::Routing;
use crate::shard::conn::tests::{config, shard_of};
use crate::shard::stores::Stores;
use crate::shard::tests::{directory, on_executor, store};
use crate::types::NodeId;

fn setting(value: &str) -> Vec<Record> {
    let (resource, key) = (ConfigResource::Brokers, "a".to_owned());
    vec![Record::ConfigSet { resource, key, value: Some(value.to_owned()) }]
}

fn is_not_leader(committed: &Result<(), CommitError>) -> bool {
    matches!(committed, Err(CommitError::Refused(ProposalRejected::NotLeader { .. })))
}

/// Shards go on from the image that the registration ended with, and catch up: what was decided before they have may
/// contradict what was committed since.
#[test]
fn what_was_decided_before_the_shards_have_caught_up_is_not_committed() {
    on_executor(async {
        let directory = directory();
        let me = PeerId::new(NodeId(1), 7);
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        add_topic(&mut image, 1, "t", &[0]);
        let mut metadata = Metadata::open(directory.path(), me).expect("it is empty").metadata;
        metadata.found(&image.snapshot()).expect("it is written");
        let around = Around { introduction: None, listen: None };
        let config = Rc::new(config());
        let plan = config.memory_plan();
        let quorum = MetadataQuorum::start(metadata, image, around, config).expect("it starts");
        quorum.early.borrow_mut().since = Some(VecDeque::new());
        let decided = quorum.leading_since.get();
        quorum.commit(setting("by the start")).await.expect("it leads");

        let stores = Stores::new(vec![store(None, plan.tail)]);
        let shard = shard_of(stores, directory.path(), &[0]).await;
        quorum.attach(&shard);
        let behind = quorum.commit(setting("on the older image")).await;
        assert!(is_not_leader(&behind), "{behind:?}");
        while !quorum.is_leading() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        let late = quorum.commit_decided(setting("on the older image"), decided).await;
        assert!(is_not_leader(&late), "{late:?}");
        let known = |key: &str| {
            quorum.with_image(|image| image.settings(&ConfigResource::Brokers)?.get(key).cloned())
        };
        assert_eq!(known("a").as_deref(), Some("by the start"), "the shards have it");
        quorum.commit(setting("on the newest")).await.expect("it leads");
        assert_eq!(known("a").as_deref(), Some("on the newest"));
        quorum.end().await;
    });
}
