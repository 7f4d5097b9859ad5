//! Groups of the newer protocol (KIP-848), as ConsumerGroupDescribe has them.

use kafka_protocol::messages::consumer_group_describe_response::{Assignment, DescribedGroup, Member};
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, GroupId};
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use std::collections::BTreeSet;

use crate::cli::Failure;
use crate::cli::brokers::{Cluster, KeyType, Place, text};
use crate::cli::table::Table;

/// What kind of protocol a member uses.
const CLASSIC: i8 = 0;

/// Inner: what the broker says against it.
pub fn describe(cluster: &mut Cluster, id: &str) -> Result<Result<DescribedGroup, String>, Failure> {
    let client = cluster.coordinator_of(KeyType::Group, id)?;
    if !client.offers::<ConsumerGroupDescribeRequest>() {
        return Ok(Err("GROUP_ID_NOT_FOUND".to_string()));
    }
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text(id))]);
    let mut response = client.send(|_| request)?;
    let group = response.groups.pop().ok_or_else(|| format!("{id}: nothing was said of it"))?;
    Ok(if group.error_code == 0 { Ok(group) } else { Err(error_name(group.error_code)) })
}

/// Partitions that members have.
pub fn assigned(group: &DescribedGroup) -> BTreeSet<Place> {
    let topics = group.members.iter().flat_map(|member| &member.assignment.topic_partitions);
    topics
        .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic_name.to_string(), *index)))
        .collect()
}

fn protocol(member: &Member) -> &'static str {
    if member.member_type == CLASSIC { "classic" } else { "consumer" }
}

pub fn json(group: &DescribedGroup, offsets: &[Value]) -> Value {
    let assigned = |assignment: &Assignment| {
        let topics = assignment.topic_partitions.iter();
        topics
            .map(|topic| json!({ "topic": &**topic.topic_name, "partitions": &topic.partitions }))
            .collect::<Vec<_>>()
    };
    let members = group.members.iter().map(|member| {
        json!({
            "member": &*member.member_id,
            "instance": member.instance_id.as_deref(),
            "client": &*member.client_id,
            "host": &*member.client_host,
            "rack": member.rack_id.as_deref(),
            "protocol": protocol(member),
            "epoch": member.member_epoch,
            "topics": member.subscribed_topic_names.iter().map(|name| &***name).collect::<Vec<_>>(),
            "regex": member.subscribed_topic_regex.as_deref(),
            "assignment": assigned(&member.assignment),
            "target": assigned(&member.target_assignment),
        })
    });
    json!({
        "group": &*group.group_id.0,
        "type": "consumer",
        "state": &*group.group_state,
        "epoch": group.group_epoch,
        "assignment_epoch": group.assignment_epoch,
        "assignor": &*group.assignor_name,
        "members": members.collect::<Vec<_>>(),
        "offsets": offsets,
    })
}

pub fn shown(group: &DescribedGroup) -> String {
    let mut shown = format!(
        "{}: {}, epoch {}, assignment epoch {}, {}\n",
        &*group.group_id.0,
        &*group.group_state,
        group.group_epoch,
        group.assignment_epoch,
        &*group.assignor_name
    );
    if group.members.is_empty() {
        return shown;
    }
    let mut table =
        Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PROTOCOL", "EPOCH", "ASSIGNMENT", "TARGET"]);
    for member in &group.members {
        let (has, is_to_have) = (partitions(&member.assignment), partitions(&member.target_assignment));
        let target = if has == is_to_have { "-".to_string() } else { is_to_have };
        table.row(&[
            &member.member_id,
            member.instance_id.as_deref().unwrap_or("-"),
            &member.client_id,
            &member.client_host,
            protocol(member),
            &member.member_epoch.to_string(),
            &has,
            &target,
        ]);
    }
    shown += &table.to_string();
    shown
}

/// `orders:0-3,7 payments:1`
fn partitions(assignment: &Assignment) -> String {
    let topics = assignment.topic_partitions.iter().map(|topic| {
        let mut indexes = topic.partitions.clone();
        indexes.sort_unstable();
        format!("{}:{}", &**topic.topic_name, ranges(&indexes))
    });
    let topics: Vec<String> = topics.collect();
    if topics.is_empty() { "none".to_string() } else { topics.join(" ") }
}

pub fn ranges(indexes: &[i32]) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::consumer_group_describe_response::TopicPartitions;

    #[test]
    fn partitions_are_shown_as_ranges() {
        let topic = |name, indexes: &[i32]| {
            TopicPartitions::default()
                .with_topic_name(TopicName(text(name)))
                .with_partitions(indexes.to_vec())
        };
        let assignment = Assignment::default()
            .with_topic_partitions(vec![topic("orders", &[7, 0, 2, 1, 3]), topic("payments", &[1])]);
        assert_eq!(partitions(&assignment), "orders:0-3,7 payments:1");
        assert_eq!(partitions(&Assignment::default()), "none");
    }
}
