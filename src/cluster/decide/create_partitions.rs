//! CreatePartitions: more partitions for a topic that exists.

use kafka_protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use kafka_protocol::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};

use super::create_topics::{new_partition, place_automatically, place_on_brokers};
use super::{Change, Controller, Refusal, occurrences};
use crate::cluster::image::{Topic, partition_index};
use crate::cluster::placement::Placement;
use crate::cluster::record::{PartitionState, Record, Replica};
use crate::cluster::topic_name;
use crate::types::TopicPartition;
use crate::types::limits::PARTITIONS_PER_TOPIC_MAX;

/// Decides CreatePartitions 0 to 3. Every distinct name is answered once.
pub fn decide_create_partitions(
    controller: Controller<'_>,
    request: &CreatePartitionsRequest,
) -> (Vec<Record>, CreatePartitionsResponse) {
    let mut counts = occurrences(request.topics.iter().map(|topic| &topic.name));
    let mut placement = Placement::new(controller.image, Some(controller.log_dirs));
    let mut change = Change::new(controller.image);
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let decided = match counts.get_mut(&topic.name) {
            Some(1) => extend(controller, topic, &mut placement).and_then(|records| change.add(records)),
            Some(answered @ 2..) => {
                *answered = 0;
                Err(Refusal::DuplicateTopicName)
            }
            Some(0) | None => continue,
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        results.push(match decided {
            Ok(()) => result.with_error_message(None),
            Err(refusal) => {
                result.with_error_code(refusal.code().code()).with_error_message(refusal.message())
            }
        });
    }
    let records = change.into_records(request.validate_only);
    (records, CreatePartitionsResponse::default().with_results(results))
}

/// The new partitions of one topic. `placement` counts them only when none is refused.
fn extend(
    controller: Controller<'_>,
    request: &CreatePartitionsTopic,
    placement: &mut Placement,
) -> Result<Vec<Record>, Refusal> {
    let topic = controller.image.topic_named(request.name.as_str()).ok_or(Refusal::UnknownTopic)?;
    // Groups and transactions would be looked for in other partitions than they are in.
    if topic_name::is_internal(&topic.name) {
        return Err(Refusal::InternalPartitions(topic.name.clone()));
    }
    let additional = additional(topic, request.count)?;
    let mut tentative = placement.clone();
    let partitions = match &request.assignments {
        None => place_automatically(&mut tentative, additional, topic.replication_factor())?,
        Some(assignments) if assignments.len() != additional => {
            return Err(Refusal::AssignmentCount { additional, assigned: assignments.len() });
        }
        Some(assignments) => {
            let expected = Some(usize::from(topic.replication_factor()));
            let place = |assignment: &_| place_assigned(controller, &mut tentative, assignment, expected);
            assignments.iter().map(place).collect::<Result<_, _>>()?
        }
    };
    let first = topic.partitions.len();
    let members = controller.image.members();
    let states = (first..).zip(partitions).map(|(index, replicas)| new_partition(&members, index, replicas));
    let states: Vec<PartitionState> = states.collect::<Result<_, _>>()?;
    controller.take_mutations(additional)?;
    *placement = tentative;
    let created = |(index, state)| {
        let id = TopicPartition { topic: topic.id, partition: partition_index(index) };
        Record::PartitionCreated { id, state }
    };
    Ok((first..).zip(states).map(created).collect())
}

fn place_assigned(
    controller: Controller<'_>,
    placement: &mut Placement,
    assignment: &kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment,
    expected: Option<usize>,
) -> Result<Vec<Replica>, Refusal> {
    place_on_brokers(controller.brokers, placement, assignment.broker_ids.iter(), expected)
}

fn additional(topic: &Topic, wanted: i32) -> Result<usize, Refusal> {
    let current = topic.partitions.len();
    match usize::try_from(wanted) {
        Ok(count) if count == current => Err(Refusal::SamePartitions(current)),
        Ok(count) if count > PARTITIONS_PER_TOPIC_MAX as usize => {
            Err(Refusal::TooManyPartitions(i64::from(wanted)))
        }
        Ok(count) if count > current => Ok(count - current),
        _ => Err(Refusal::FewerPartitions { name: topic.name.clone(), current, wanted }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::add_topic;
    use crate::codec::error_code::ErrorCode;
    use crate::config::Routing;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;

    fn more(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> CreatePartitionsTopic {
        let assignment = |brokers: &&[i32]| {
            let ids = brokers.iter().map(|&id| id.into()).collect();
            CreatePartitionsAssignment::default().with_broker_ids(ids)
        };
        CreatePartitionsTopic::default()
            .with_name(TopicName(name.to_owned().into()))
            .with_count(count)
            .with_assignments(assignments.map(|all| all.iter().map(assignment).collect()))
    }

    fn decide(cluster: &mut Cluster, topics: Vec<CreatePartitionsTopic>) -> Vec<Option<ErrorCode>> {
        let request = CreatePartitionsRequest::default().with_topics(topics);
        let (_, response) = cluster.decide(|controller, _| decide_create_partitions(controller, &request));
        response.results.iter().map(|result| ErrorCode::from_wire(result.error_code)).collect()
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(2, Routing::Core);
        add_topic(&mut cluster.image, 1, "a", &[0, 0]);
        cluster
    }

    #[test]
    fn partitions_are_added_on_the_least_loaded_shards() {
        let mut cluster = cluster();
        assert_eq!(decide(&mut cluster, vec![more("a", 5, None)]), [Some(ErrorCode::None)]);
        let topic = cluster.image.topic_named("a").expect("exists");
        let owners: Vec<u16> = topic.partitions.iter().map(|state| state.replicas[0].owner.0).collect();
        assert_eq!(owners, [0, 0, 1, 1, 0]);
    }

    #[test]
    fn assignments_name_the_new_partitions_brokers() {
        let mut cluster = cluster();
        let granted = decide(&mut cluster, vec![more("a", 3, Some(&[&[1001]]))]);
        assert_eq!(granted, [Some(ErrorCode::None)]);
        let topic = cluster.image.topic_named("a").expect("exists");
        assert_eq!(topic.partitions[2].replicas[0].owner.0, 1);
    }

    #[test]
    fn refusals_change_nothing() {
        let scripts: [(CreatePartitionsTopic, ErrorCode); 8] = [
            (more("nosuch", 5, None), ErrorCode::UnknownTopicOrPartition),
            (more("a", 2, None), ErrorCode::InvalidPartitions),
            (more("a", 1, None), ErrorCode::InvalidPartitions),
            (more("a", -1, None), ErrorCode::InvalidPartitions),
            (more("a", i32::MAX, None), ErrorCode::InvalidPartitions),
            (more("a", 4, Some(&[&[1000]])), ErrorCode::InvalidReplicaAssignment),
            (more("a", 3, Some(&[&[9]])), ErrorCode::InvalidReplicaAssignment),
            (more("a", 3, Some(&[&[]])), ErrorCode::InvalidReplicaAssignment),
        ];
        for (topic, code) in scripts {
            let mut cluster = cluster();
            let before = cluster.image.clone();
            assert_eq!(decide(&mut cluster, vec![topic]), [Some(code)]);
            assert_eq!(cluster.image, before);
        }
        let mut cluster = cluster();
        let twice = decide(&mut cluster, vec![more("a", 3, None), more("a", 4, None)]);
        assert_eq!(twice, [Some(ErrorCode::InvalidRequest)]);
    }

    #[test]
    fn internal_topics_keep_their_partitions() {
        let mut cluster = cluster();
        for (id, name) in (2..).zip(topic_name::INTERNAL) {
            add_topic(&mut cluster.image, id, name, &[0]);
            let before = cluster.image.clone();
            assert_eq!(decide(&mut cluster, vec![more(name, 5, None)]), [Some(ErrorCode::InvalidRequest)]);
            assert_eq!(cluster.image, before);
        }
    }

    #[test]
    fn validate_only_records_nothing() {
        let mut cluster = cluster();
        let request =
            CreatePartitionsRequest::default().with_topics(vec![more("a", 5, None)]).with_validate_only(true);
        let (records, response) =
            cluster.decide(|controller, _| decide_create_partitions(controller, &request));
        assert_eq!((records.len(), response.results[0].error_code), (0, 0));
    }
}
