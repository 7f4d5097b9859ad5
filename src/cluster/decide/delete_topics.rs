//! DeleteTopics: by name, and from version 6 also by id.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::delete_topics_request::DeleteTopicsRequest;
use kafka_protocol::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};

use super::{Change, Controller, Refusal, occurrences};
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::Record;
use crate::types::TopicId;

/// From here on a request names topics in `topics`, not in `topic_names`.
const TOPICS_BY_ID: i16 = 6;
/// From here on there is a code for "deletion is disabled".
const DELETION_DISABLED_CODE: i16 = 3;

/// One topic as a request refers to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reference {
    Name(TopicName),
    Id(TopicId),
    /// Name and id at once.
    Both(TopicName, TopicId),
    Neither,
}

/// Decides DeleteTopics 1 to 6. Every distinct reference is answered once.
pub fn decide_delete_topics(
    controller: Controller<'_>,
    request: &DeleteTopicsRequest,
    version: i16,
) -> (Vec<Record>, DeleteTopicsResponse) {
    let references = references(request, version);
    let counts = occurrences(&references);
    let ids: BTreeSet<TopicId> = references.iter().filter_map(id_of).collect();
    let named: BTreeSet<TopicId> =
        references.iter().filter_map(name_of).filter_map(|name| controller.image.topic_id(name)).collect();

    let mut answered = BTreeSet::new();
    let mut deleted: BTreeMap<TopicId, &Topic> = BTreeMap::new();
    let mut change = Change::new(controller.image);
    let mut results = Vec::with_capacity(references.len());
    for reference in references.iter().filter(|reference| answered.insert(*reference)) {
        let found = check(controller, reference, version).and_then(|()| match counts[reference] {
            1 => find(controller.image, reference),
            _ => Err(duplicate(reference)),
        });
        let found = found.and_then(|topic| match ids.contains(&topic.id) && named.contains(&topic.id) {
            true => Err(Refusal::NameOfSuppliedId),
            false => {
                controller.take_mutations(topic.partitions.len())?;
                change.add(vec![Record::TopicDeleted { topic: topic.id }]).map(|()| topic)
            }
        });
        if let Ok(topic) = found {
            assert!(deleted.insert(topic.id, topic).is_none(), "a topic is deleted once");
        }
        results.push(result(reference, found));
    }
    (change.into_records(false), DeleteTopicsResponse::default().with_responses(results))
}

fn references(request: &DeleteTopicsRequest, version: i16) -> Vec<Reference> {
    if version < TOPICS_BY_ID {
        return request.topic_names.iter().cloned().map(Reference::Name).collect();
    }
    let reference = |(name, id): (Option<TopicName>, TopicId)| match (name, id) {
        (Some(name), TopicId::ZERO) => Reference::Name(name),
        (Some(name), id) => Reference::Both(name, id),
        (None, TopicId::ZERO) => Reference::Neither,
        (None, id) => Reference::Id(id),
    };
    request.topics.iter().map(|topic| reference((topic.name.clone(), TopicId(topic.topic_id)))).collect()
}

fn check(controller: Controller<'_>, reference: &Reference, version: i16) -> Result<(), Refusal> {
    match reference {
        _ if !controller.defaults.deletion && version >= DELETION_DISABLED_CODE => {
            Err(Refusal::DeletionDisabled)
        }
        _ if !controller.defaults.deletion => Err(Refusal::DeletionDisabledOld),
        Reference::Both(..) => Err(Refusal::BothNameAndId),
        Reference::Neither => Err(Refusal::NeitherNameNorId),
        Reference::Name(_) | Reference::Id(_) => Ok(()),
    }
}

fn find<'a>(image: &'a Image, reference: &Reference) -> Result<&'a Topic, Refusal> {
    match reference {
        Reference::Name(name) => image.topic_named(name.as_str()).ok_or(Refusal::UnknownTopic),
        Reference::Id(id) => image.topic(*id).ok_or(Refusal::UnknownTopicId),
        Reference::Both(..) => Err(Refusal::BothNameAndId),
        Reference::Neither => Err(Refusal::NeitherNameNorId),
    }
}

fn duplicate(reference: &Reference) -> Refusal {
    match reference {
        Reference::Name(_) => Refusal::DuplicateTopicName,
        Reference::Id(_) => Refusal::DuplicateTopicId,
        Reference::Both(..) => Refusal::BothNameAndId,
        Reference::Neither => Refusal::NeitherNameNorId,
    }
}

fn id_of(reference: &Reference) -> Option<TopicId> {
    match reference {
        Reference::Id(id) => Some(*id),
        Reference::Name(_) | Reference::Both(..) | Reference::Neither => None,
    }
}

fn name_of(reference: &Reference) -> Option<&str> {
    match reference {
        Reference::Name(name) => Some(name.as_str()),
        Reference::Id(_) | Reference::Both(..) | Reference::Neither => None,
    }
}

fn result(reference: &Reference, found: Result<&Topic, Refusal>) -> DeletableTopicResult {
    let (name, id) = match reference {
        Reference::Name(name) => (Some(name.clone()), TopicId::ZERO),
        Reference::Id(id) => (None, *id),
        Reference::Both(name, id) => (Some(name.clone()), *id),
        Reference::Neither => (None, TopicId::ZERO),
    };
    let result = DeletableTopicResult::default();
    match found {
        Ok(topic) => result.with_name(Some(TopicName(topic.name.clone().into()))).with_topic_id(topic.id.0),
        Err(refusal) => result
            .with_name(name)
            .with_topic_id(id.0)
            .with_error_code(refusal.code().code())
            .with_error_message(refusal.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::{add_topic, topic_id};
    use crate::codec::error_code::ErrorCode;
    use crate::config::Routing;
    use bytes::BytesMut;
    use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(2, Routing::Node);
        add_topic(&mut cluster.image, 11, "a", &[0, 1]);
        add_topic(&mut cluster.image, 12, "b", &[0]);
        cluster
    }

    fn name(name: &str) -> TopicName {
        TopicName(name.to_owned().into())
    }

    fn state(topic: Option<&str>, id: u128) -> DeleteTopicState {
        DeleteTopicState::default().with_name(topic.map(name)).with_topic_id(topic_id(id).0)
    }

    fn delete(cluster: &mut Cluster, request: &DeleteTopicsRequest, version: i16) -> Vec<Option<ErrorCode>> {
        let (_, response) =
            cluster.decide(|controller, _| decide_delete_topics(controller, request, version));
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).expect("encodes");
        let decoded = DeleteTopicsResponse::decode(&mut bytes.freeze(), version).expect("decodes");
        decoded.responses.iter().map(|result| ErrorCode::from_wire(result.error_code)).collect()
    }

    #[test]
    fn topics_are_deleted_by_name() {
        for version in 1..=5 {
            let mut cluster = cluster();
            let request =
                DeleteTopicsRequest::default().with_topic_names(vec![name("a"), name("nosuch"), name("b")]);
            let unknown = Some(ErrorCode::UnknownTopicOrPartition);
            let none = Some(ErrorCode::None);
            assert_eq!(delete(&mut cluster, &request, version), [none, unknown, none]);
            assert_eq!(cluster.image.topics().len(), 0);
        }
    }

    #[test]
    fn topics_are_deleted_by_id_or_name_in_version_6() {
        let mut cluster = cluster();
        let topics = vec![state(None, 11), state(Some("b"), 0), state(None, 99)];
        let request = DeleteTopicsRequest::default().with_topics(topics);
        let (_, response) = cluster.decide(|controller, _| decide_delete_topics(controller, &request, 6));
        let first = &response.responses[0];
        assert_eq!((first.name.clone(), first.topic_id), (Some(name("a")), topic_id(11).0));
        assert_eq!(response.responses[1].topic_id, topic_id(12).0);
        assert_eq!(response.responses[2].error_code, ErrorCode::UnknownTopicId.code());
        assert_eq!(response.responses[2].name, None);
        assert_eq!(cluster.image.topics().len(), 0);
    }

    #[test]
    fn contradictory_references_delete_nothing() {
        let invalid = Some(ErrorCode::InvalidRequest);
        let scripts: [(Vec<DeleteTopicState>, usize); 5] = [
            (vec![state(Some("a"), 11)], 1),
            (vec![state(None, 0)], 1),
            (vec![state(None, 11), state(None, 11)], 1),
            (vec![state(Some("a"), 0), state(Some("a"), 0), state(Some("a"), 0)], 1),
            (vec![state(Some("a"), 0), state(None, 11)], 2),
        ];
        for (topics, answers) in scripts {
            let mut cluster = cluster();
            let request = DeleteTopicsRequest::default().with_topics(topics);
            assert_eq!(delete(&mut cluster, &request, 6), vec![invalid; answers]);
            assert_eq!(cluster.image.topics().len(), 2);
        }
    }

    #[test]
    fn deletion_can_be_disabled() {
        let mut cluster = cluster();
        cluster.defaults.deletion = false;
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name("a")]);
        assert_eq!(delete(&mut cluster, &request, 2), [Some(ErrorCode::InvalidRequest)]);
        assert_eq!(delete(&mut cluster, &request, 3), [Some(ErrorCode::TopicDeletionDisabled)]);
        assert_eq!(cluster.image.topics().len(), 2);
    }
}
