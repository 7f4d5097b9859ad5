//! Request bodies as clients send them, encoded by the library: an empty one and one with every
//! field set that the version has. For the tests, and for the fuzz targets to start from.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::add_raft_voter_request::Listener as VoterListener;
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::alter_configs_request;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as OwnedPartitions;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_quorum_request::{
    PartitionData as QuorumPartition, TopicData as QuorumTopic,
};
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest as PagedTopic};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddRaftVoterRequest, AlterClientQuotasRequest,
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiKey, ApiVersionsRequest, BrokerId,
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClientQuotasRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    DescribeLogDirsRequest, DescribeProducersRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
    DescribeTransactionsRequest, ElectLeadersRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest,
    GetTelemetrySubscriptionsRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListConfigResourcesRequest,
    ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, ListTransactionsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, PushTelemetryRequest, RemoveRaftVoterRequest,
    SyncGroupRequest, TxnOffsetCommitRequest, UnregisterBrokerRequest, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::{Encodable, StrBytes};

/// A default and a populated body. `records` is what the populated Produce request carries.
pub fn samples(api_key: ApiKey, version: i16, records: &Bytes) -> [Bytes; 2] {
    match api_key {
        ApiKey::Produce => both(version, produce(records)),
        ApiKey::Fetch => both(version, fetch(version)),
        ApiKey::ListOffsets => both(version, list_offsets(version)),
        ApiKey::Metadata => both(version, metadata(version)),
        ApiKey::OffsetCommit => both(version, offset_commit(version)),
        ApiKey::OffsetFetch => both(version, offset_fetch(version)),
        ApiKey::FindCoordinator => both(version, find_coordinator(version)),
        ApiKey::JoinGroup => both(version, join_group(version)),
        ApiKey::Heartbeat => both(version, heartbeat(version)),
        ApiKey::LeaveGroup => both(version, leave_group(version)),
        ApiKey::SyncGroup => both(version, sync_group(version)),
        ApiKey::DescribeGroups => both(version, describe_groups(version)),
        ApiKey::ListGroups => both(version, list_groups(version)),
        ApiKey::ApiVersions => both(version, api_versions(version)),
        ApiKey::CreateTopics => both(version, create_topics()),
        ApiKey::DeleteTopics => both(version, delete_topics(version)),
        ApiKey::DeleteRecords => both(version, delete_records()),
        ApiKey::InitProducerId => both(version, init_producer_id(version)),
        ApiKey::OffsetForLeaderEpoch => both(version, offset_for_leader_epoch()),
        ApiKey::AddPartitionsToTxn => both(version, add_partitions_to_txn(version)),
        ApiKey::AddOffsetsToTxn => both(version, add_offsets_to_txn()),
        ApiKey::EndTxn => both(version, end_txn()),
        ApiKey::WriteTxnMarkers => both(version, write_txn_markers()),
        ApiKey::TxnOffsetCommit => both(version, txn_offset_commit(version)),
        ApiKey::DescribeConfigs => both(version, describe_configs(version)),
        ApiKey::AlterConfigs => both(version, alter_configs()),
        ApiKey::DescribeLogDirs => both(version, describe_log_dirs()),
        ApiKey::CreatePartitions => both(version, create_partitions()),
        ApiKey::DeleteGroups => both(version, delete_groups()),
        ApiKey::ElectLeaders => both(version, elect_leaders(version)),
        ApiKey::IncrementalAlterConfigs => both(version, incremental_alter_configs()),
        ApiKey::AlterPartitionReassignments => both(version, alter_partition_reassignments(version)),
        ApiKey::ListPartitionReassignments => both(version, list_partition_reassignments()),
        ApiKey::OffsetDelete => both(version, offset_delete()),
        ApiKey::DescribeClientQuotas => both(version, describe_client_quotas()),
        ApiKey::AlterClientQuotas => both(version, alter_client_quotas()),
        ApiKey::DescribeQuorum => both(version, describe_quorum()),
        ApiKey::AddRaftVoter => both(version, add_raft_voter()),
        ApiKey::RemoveRaftVoter => both(version, remove_raft_voter()),
        ApiKey::UnregisterBroker => {
            both(version, UnregisterBrokerRequest::default().with_broker_id(3.into()))
        }
        ApiKey::DescribeCluster => both(version, describe_cluster(version)),
        ApiKey::DescribeProducers => both(version, describe_producers()),
        ApiKey::DescribeTransactions => both(version, describe_transactions()),
        ApiKey::ListTransactions => both(version, list_transactions(version)),
        ApiKey::ConsumerGroupHeartbeat => both(version, consumer_group_heartbeat(version)),
        ApiKey::ConsumerGroupDescribe => both(version, consumer_group_describe()),
        ApiKey::GetTelemetrySubscriptions => both(version, get_telemetry_subscriptions()),
        ApiKey::PushTelemetry => both(version, push_telemetry()),
        ApiKey::ListConfigResources => both(version, list_config_resources(version)),
        ApiKey::DescribeTopicPartitions => both(version, describe_topic_partitions()),
        other => panic!("no sample of {other:?}"),
    }
}

fn both<M: Encodable + Default>(version: i16, populated: M) -> [Bytes; 2] {
    [M::default(), populated].map(|message| {
        let mut body = BytesMut::new();
        message.encode(&mut body, version).expect("samples fit their version");
        body.freeze()
    })
}

fn text<T: From<StrBytes>>(value: &'static str) -> T {
    StrBytes::from_static_str(value).into()
}

fn produce(records: &Bytes) -> ProduceRequest {
    let partition =
        |index| PartitionProduceData::default().with_index(index).with_records(Some(records.clone()));
    let topic = |name| {
        TopicProduceData::default()
            .with_name(text(name))
            .with_partition_data(vec![partition(0), partition(7)])
    };
    ProduceRequest::default()
        .with_transactional_id(Some(text("transaction")))
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic("orders"), topic("payments")])
}

fn fetch(version: i16) -> FetchRequest {
    let mut partition = FetchPartition::default().with_partition(3).with_fetch_offset(42);
    partition.partition_max_bytes = 1 << 20;
    let mut request = FetchRequest::default().with_replica_id(BrokerId(-1)).with_max_wait_ms(500);
    request = request.with_min_bytes(1).with_max_bytes(50 << 20).with_isolation_level(1);
    if version >= 5 {
        partition.log_start_offset = 5;
    }
    if version >= 7 {
        request.session_id = 77;
        request.session_epoch = 2;
        let forgotten = ForgottenTopic::default().with_topic(text("old")).with_partitions(vec![1, 2]);
        request.forgotten_topics_data = vec![forgotten];
    }
    if version >= 9 {
        partition.current_leader_epoch = 9;
    }
    if version >= 11 {
        request.rack_id = text("rack");
    }
    if version >= 12 {
        partition.last_fetched_epoch = 8;
        request.cluster_id = Some(text("cluster"));
        request.unknown_tagged_fields.insert(9, Bytes::from_static(b"later"));
    }
    let topic = FetchTopic::default().with_topic(text("orders"));
    request.with_topics(vec![topic.with_partitions(vec![partition.clone(), partition])])
}

fn list_offsets(version: i16) -> ListOffsetsRequest {
    let mut partition = ListOffsetsPartition::default().with_partition_index(3).with_timestamp(-2);
    let mut request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1));
    if version >= 2 {
        request.isolation_level = 1;
    }
    if version >= 4 {
        partition.current_leader_epoch = 9;
    }
    if version >= 10 {
        request.timeout_ms = 30_000;
    }
    let topic = ListOffsetsTopic::default().with_name(text("orders"));
    request.with_topics(vec![topic.with_partitions(vec![partition.clone(), partition])])
}

fn metadata(version: i16) -> MetadataRequest {
    let mut topic = MetadataRequestTopic::default().with_name(Some(text("orders")));
    let mut request = MetadataRequest::default();
    if version >= 4 {
        request.allow_auto_topic_creation = false;
    }
    if version >= 8 {
        request.include_topic_authorized_operations = true;
    }
    if (8..=10).contains(&version) {
        request.include_cluster_authorized_operations = true;
    }
    let mut topics = vec![topic.clone(), topic.clone()];
    if version >= 10 {
        topic.topic_id = uuid::Uuid::from_u128(7);
        topic.name = None;
        topics.push(topic);
    }
    request.with_topics(Some(topics))
}

fn api_versions(version: i16) -> ApiVersionsRequest {
    let request = ApiVersionsRequest::default();
    if version < 3 {
        return request;
    }
    request.with_client_software_name(text("librdkafka")).with_client_software_version(text("2.11.1"))
}

fn create_topics() -> CreateTopicsRequest {
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(vec![BrokerId(1), BrokerId(2)]);
    let config = CreatableTopicConfig::default().with_name(text("retention.ms"));
    let topic = CreatableTopic::default()
        .with_name(text("orders"))
        .with_num_partitions(8)
        .with_replication_factor(1)
        .with_assignments(vec![assignment])
        .with_configs(vec![config.clone().with_value(Some(text("1000"))), config.with_value(None)]);
    CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000).with_validate_only(true)
}

fn delete_topics(version: i16) -> DeleteTopicsRequest {
    let request = DeleteTopicsRequest::default().with_timeout_ms(1000);
    if version < 6 {
        return request.with_topic_names(vec![text("orders"), text("payments")]);
    }
    let by_name = DeleteTopicState::default().with_name(Some(text("orders")));
    let by_id = DeleteTopicState::default().with_topic_id(uuid::Uuid::from_u128(7));
    request.with_topics(vec![by_name, by_id])
}

fn find_coordinator(version: i16) -> FindCoordinatorRequest {
    let mut request = FindCoordinatorRequest::default();
    if version >= 1 {
        request.key_type = 1;
    }
    if version >= 4 {
        request.coordinator_keys = vec![text("billing"), text("shipping")];
    } else {
        request.key = text("billing");
    }
    request
}

fn offset_commit(version: i16) -> OffsetCommitRequest {
    let mut partition = OffsetCommitRequestPartition::default()
        .with_partition_index(3)
        .with_committed_offset(42)
        .with_committed_metadata(Some(text("note")));
    let mut request = OffsetCommitRequest::default()
        .with_group_id(text("billing"))
        .with_generation_id_or_member_epoch(7)
        .with_member_id(text("member"));
    if version <= 4 {
        request.retention_time_ms = 1000;
    }
    if version >= 6 {
        partition.committed_leader_epoch = 9;
    }
    if version >= 7 {
        request.group_instance_id = Some(text("instance"));
    }
    let topic = OffsetCommitRequestTopic::default().with_name(text("orders"));
    let other = partition.clone().with_committed_metadata(None);
    request.with_topics(vec![topic.with_partitions(vec![partition, other])])
}

fn offset_fetch(version: i16) -> OffsetFetchRequest {
    let mut request = OffsetFetchRequest::default();
    if version >= 7 {
        request.require_stable = true;
    }
    if version < 8 {
        let topic = OffsetFetchRequestTopic::default().with_name(text("orders"));
        let topics = vec![topic.with_partition_indexes(vec![0, 3])];
        return request.with_group_id(text("billing")).with_topics(Some(topics));
    }
    let topic = OffsetFetchRequestTopics::default().with_name(text("orders"));
    let mut group = OffsetFetchRequestGroup::default()
        .with_group_id(text("billing"))
        .with_topics(Some(vec![topic.with_partition_indexes(vec![0, 3])]));
    if version >= 9 {
        group.member_id = Some(text("member"));
        group.member_epoch = 4;
    }
    let all = OffsetFetchRequestGroup::default().with_group_id(text("shipping")).with_topics(None);
    request.with_groups(vec![group, all])
}

fn join_group(version: i16) -> JoinGroupRequest {
    let protocol = |name| {
        let metadata = Bytes::from_static(b"\0\x03\0\0\0\x01\0\x06orders\xff\xff\xff\xff");
        JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(metadata)
    };
    let mut request = JoinGroupRequest::default()
        .with_group_id(text("billing"))
        .with_session_timeout_ms(45_000)
        .with_member_id(text("member"))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol("range"), protocol("cooperative-sticky")]);
    if version >= 1 {
        request.rebalance_timeout_ms = 300_000;
    }
    if version >= 5 {
        request.group_instance_id = Some(text("instance"));
    }
    if version >= 8 {
        request.reason = Some(text("because"));
    }
    request
}

fn consumer_group_heartbeat(version: i16) -> ConsumerGroupHeartbeatRequest {
    let owned = OwnedPartitions::default()
        .with_topic_id(uuid::Uuid::from_u128(0x3331_3c77_2f3b_4c24_8c07_0d0f_2f3d_1e5a))
        .with_partitions(vec![0, 3]);
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(text("billing"))
        .with_member_id(text("member"))
        .with_member_epoch(4)
        .with_instance_id(Some(text("instance")))
        .with_rack_id(Some(text("rack")))
        .with_rebalance_timeout_ms(300_000)
        .with_subscribed_topic_names(Some(vec![text("orders"), text("payments")]))
        .with_server_assignor(Some(text("uniform")))
        .with_topic_partitions(Some(vec![owned]));
    if version >= 1 { request.with_subscribed_topic_regex(Some(text("orders-.*"))) } else { request }
}

fn consumer_group_describe() -> ConsumerGroupDescribeRequest {
    ConsumerGroupDescribeRequest::default()
        .with_group_ids(vec![text("billing"), text("shipping")])
        .with_include_authorized_operations(true)
}

fn heartbeat(version: i16) -> HeartbeatRequest {
    let mut request = HeartbeatRequest::default()
        .with_group_id(text("billing"))
        .with_generation_id(7)
        .with_member_id(text("member"));
    if version >= 3 {
        request.group_instance_id = Some(text("instance"));
    }
    request
}

fn leave_group(version: i16) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(text("billing"));
    if version < 3 {
        return request.with_member_id(text("member"));
    }
    let mut member = MemberIdentity::default().with_group_instance_id(Some(text("instance")));
    if version >= 5 {
        member.reason = Some(text("because"));
    }
    let other = MemberIdentity::default().with_member_id(text("member"));
    request.with_members(vec![member, other])
}

fn sync_group(version: i16) -> SyncGroupRequest {
    let assignment = |member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from_static(b"\0\x03\0\0\0\0"))
    };
    let mut request = SyncGroupRequest::default()
        .with_group_id(text("billing"))
        .with_generation_id(7)
        .with_member_id(text("member"))
        .with_assignments(vec![assignment("member"), assignment("other")]);
    if version >= 3 {
        request.group_instance_id = Some(text("instance"));
    }
    if version >= 5 {
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("range"));
    }
    request
}

fn describe_groups(version: i16) -> DescribeGroupsRequest {
    let mut request = DescribeGroupsRequest::default().with_groups(vec![text("billing"), text("shipping")]);
    if version >= 3 {
        request.include_authorized_operations = true;
    }
    request
}

fn list_groups(version: i16) -> ListGroupsRequest {
    let mut request = ListGroupsRequest::default();
    if version >= 4 {
        request.states_filter = vec![text("Stable")];
    }
    if version >= 5 {
        request.types_filter = vec![text("classic")];
    }
    request
}

fn delete_groups() -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(vec![text("billing"), text("shipping")])
}

fn offset_delete() -> OffsetDeleteRequest {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(3);
    let topic = OffsetDeleteRequestTopic::default().with_name(text("orders"));
    let topics = vec![topic.with_partitions(vec![partition])];
    OffsetDeleteRequest::default().with_group_id(text("billing")).with_topics(topics)
}

fn delete_records() -> DeleteRecordsRequest {
    let partition = DeleteRecordsPartition::default().with_partition_index(3).with_offset(42);
    let topic = DeleteRecordsTopic::default().with_name(text("orders")).with_partitions(vec![partition]);
    DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000)
}

fn init_producer_id(version: i16) -> InitProducerIdRequest {
    let mut request = InitProducerIdRequest::default();
    request.transactional_id = Some(text("transaction"));
    request.transaction_timeout_ms = 60_000;
    if version >= 3 {
        request.producer_id = 7.into();
        request.producer_epoch = 2;
    }
    request
}

fn offset_for_leader_epoch() -> OffsetForLeaderEpochRequest {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(3)
        .with_current_leader_epoch(9)
        .with_leader_epoch(8);
    let topic = OffsetForLeaderTopic::default().with_topic(text("orders")).with_partitions(vec![partition]);
    OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

fn describe_configs(version: i16) -> DescribeConfigsRequest {
    let resource =
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("orders"));
    let some = resource.clone().with_configuration_keys(Some(vec![text("retention.ms"), text("segment.ms")]));
    let all = resource.with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![some, all]);
    request.with_include_synonyms(true).with_include_documentation(version >= 3)
}

fn create_partitions() -> CreatePartitionsRequest {
    let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
    let topic = CreatePartitionsTopic::default().with_name(text("orders")).with_count(9);
    let topics = vec![topic.clone().with_assignments(Some(vec![assignment])), topic.with_assignments(None)];
    CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(1000).with_validate_only(true)
}

fn incremental_alter_configs() -> IncrementalAlterConfigsRequest {
    let config = AlterableConfig::default().with_name(text("retention.ms")).with_config_operation(1);
    let configs = vec![config.clone().with_value(Some(text("1000"))), config.with_value(None)];
    let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("orders"));
    IncrementalAlterConfigsRequest::default()
        .with_resources(vec![resource.with_configs(configs)])
        .with_validate_only(true)
}

fn describe_quorum() -> DescribeQuorumRequest {
    let partition = |index| QuorumPartition::default().with_partition_index(index);
    let topic = QuorumTopic::default()
        .with_topic_name(text("__cluster_metadata"))
        .with_partitions(vec![partition(0), partition(7)]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

fn add_raft_voter() -> AddRaftVoterRequest {
    let listener = VoterListener::default().with_name(text("PEERS")).with_host(text("node")).with_port(9192);
    AddRaftVoterRequest::default()
        .with_cluster_id(Some(text("cluster")))
        .with_timeout_ms(1000)
        .with_voter_id(2)
        .with_voter_directory_id(uuid::Uuid::from_u128(7))
        .with_listeners(vec![listener])
}

fn remove_raft_voter() -> RemoveRaftVoterRequest {
    RemoveRaftVoterRequest::default()
        .with_cluster_id(Some(text("cluster")))
        .with_voter_id(2)
        .with_voter_directory_id(uuid::Uuid::from_u128(7))
}

fn describe_cluster(version: i16) -> DescribeClusterRequest {
    let mut request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    if version >= 1 {
        request.endpoint_type = 2;
    }
    if version >= 2 {
        request.include_fenced_brokers = true;
    }
    request
}

fn describe_producers() -> DescribeProducersRequest {
    let topic = |name| TopicRequest::default().with_name(text(name)).with_partition_indexes(vec![0, 7]);
    DescribeProducersRequest::default().with_topics(vec![topic("topic"), topic("another")])
}

fn write_txn_markers() -> WriteTxnMarkersRequest {
    let topic =
        |name| WritableTxnMarkerTopic::default().with_name(text(name)).with_partition_indexes(vec![0, 7]);
    let marker = |producer: i64| {
        WritableTxnMarker::default()
            .with_producer_id(producer.into())
            .with_producer_epoch(3)
            .with_transaction_result(true)
            .with_topics(vec![topic("topic"), topic("another")])
            .with_coordinator_epoch(5)
    };
    WriteTxnMarkersRequest::default().with_markers(vec![marker(1), marker(2)])
}

fn alter_configs() -> AlterConfigsRequest {
    let config = alter_configs_request::AlterableConfig::default().with_name(text("retention.ms"));
    let configs = vec![config.clone().with_value(Some(text("1000"))), config.with_value(None)];
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("orders"))
        .with_configs(configs);
    AlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(true)
}

fn describe_log_dirs() -> DescribeLogDirsRequest {
    let topic = DescribableLogDirTopic::default().with_topic(text("orders")).with_partitions(vec![0, 7]);
    DescribeLogDirsRequest::default().with_topics(Some(vec![topic]))
}

fn elect_leaders(version: i16) -> ElectLeadersRequest {
    let topic = TopicPartitions::default().with_topic(text("orders")).with_partitions(vec![0, 7]);
    let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic]));
    request.with_timeout_ms(1000).with_election_type(i8::from(version >= 1))
}

fn alter_partition_reassignments(version: i16) -> AlterPartitionReassignmentsRequest {
    let moved = ReassignablePartition::default()
        .with_partition_index(7)
        .with_replicas(Some(vec![2.into(), 3.into()]));
    let cancelled = ReassignablePartition::default().with_partition_index(0).with_replicas(None);
    let topic =
        ReassignableTopic::default().with_name(text("orders")).with_partitions(vec![cancelled, moved]);
    AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(1000)
        .with_allow_replication_factor_change(version == 0)
        .with_topics(vec![topic])
}

fn list_partition_reassignments() -> ListPartitionReassignmentsRequest {
    let topic = ListPartitionReassignmentsTopics::default()
        .with_name(text("orders"))
        .with_partition_indexes(vec![0, 7]);
    ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic]))
}

fn list_config_resources(version: i16) -> ListConfigResourcesRequest {
    let types = if version >= 1 { vec![2, 16] } else { Vec::new() };
    ListConfigResourcesRequest::default().with_resource_types(types)
}

fn describe_topic_partitions() -> DescribeTopicPartitionsRequest {
    let topic = |name| PagedTopic::default().with_name(text(name));
    let cursor = Cursor::default().with_topic_name(text("orders")).with_partition_index(7);
    DescribeTopicPartitionsRequest::default()
        .with_topics(vec![topic("orders"), topic("payments")])
        .with_response_partition_limit(100)
        .with_cursor(Some(cursor))
}

fn describe_client_quotas() -> DescribeClientQuotasRequest {
    let exactly = ComponentData::default().with_entity_type(text("user")).with_match(Some(text("ann")));
    let any =
        ComponentData::default().with_entity_type(text("client-id")).with_match_type(2).with_match(None);
    DescribeClientQuotasRequest::default().with_components(vec![exactly, any]).with_strict(true)
}

fn alter_client_quotas() -> AlterClientQuotasRequest {
    let user = EntityData::default().with_entity_type(text("user")).with_entity_name(Some(text("ann")));
    let client = EntityData::default().with_entity_type(text("client-id")).with_entity_name(None);
    let set = OpData::default().with_key(text("producer_byte_rate")).with_value(1024.5);
    let remove = OpData::default().with_key(text("request_percentage")).with_remove(true);
    let entry = EntryData::default().with_entity(vec![user, client]).with_ops(vec![set, remove]);
    AlterClientQuotasRequest::default().with_entries(vec![entry]).with_validate_only(true)
}

fn get_telemetry_subscriptions() -> GetTelemetrySubscriptionsRequest {
    GetTelemetrySubscriptionsRequest::default().with_client_instance_id(uuid::Uuid::from_u128(7))
}

fn push_telemetry() -> PushTelemetryRequest {
    PushTelemetryRequest::default()
        .with_client_instance_id(uuid::Uuid::from_u128(7))
        .with_subscription_id(4711)
        .with_terminating(true)
        .with_compression_type(4)
        .with_metrics(Bytes::from_static(b"metrics"))
}

fn add_partitions_to_txn(version: i16) -> AddPartitionsToTxnRequest {
    let topic = |name| AddPartitionsToTxnTopic::default().with_name(text(name)).with_partitions(vec![0, 7]);
    let topics = vec![topic("orders"), topic("payments")];
    let request = AddPartitionsToTxnRequest::default();
    if version < 4 {
        return request
            .with_v3_and_below_transactional_id(text("transaction"))
            .with_v3_and_below_producer_id(7.into())
            .with_v3_and_below_producer_epoch(2)
            .with_v3_and_below_topics(topics);
    }
    let transaction = |id| {
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(text(id))
            .with_producer_id(7.into())
            .with_producer_epoch(2)
            .with_verify_only(true)
            .with_topics(topics.clone())
    };
    request.with_transactions(vec![transaction("transaction"), transaction("other")])
}

fn add_offsets_to_txn() -> AddOffsetsToTxnRequest {
    AddOffsetsToTxnRequest::default()
        .with_transactional_id(text("transaction"))
        .with_producer_id(7.into())
        .with_producer_epoch(2)
        .with_group_id(text("billing"))
}

fn end_txn() -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(text("transaction"))
        .with_producer_id(7.into())
        .with_producer_epoch(2)
        .with_committed(true)
}

fn describe_transactions() -> DescribeTransactionsRequest {
    let ids = vec![text("transaction"), text("other")];
    DescribeTransactionsRequest::default().with_transactional_ids(ids)
}

fn list_transactions(version: i16) -> ListTransactionsRequest {
    let mut request = ListTransactionsRequest::default()
        .with_state_filters(vec![text("Ongoing"), text("Empty")])
        .with_producer_id_filters(vec![7.into(), 8.into()]);
    if version >= 1 {
        request.duration_filter = 1000;
    }
    if version >= 2 {
        request.transactional_id_pattern = Some(text("bill.*"));
    }
    request
}

fn txn_offset_commit(version: i16) -> TxnOffsetCommitRequest {
    let mut partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(3)
        .with_committed_offset(42)
        .with_committed_metadata(Some(text("note")));
    let mut request = TxnOffsetCommitRequest::default()
        .with_transactional_id(text("transaction"))
        .with_group_id(text("billing"))
        .with_producer_id(7.into())
        .with_producer_epoch(2);
    if version >= 2 {
        partition.committed_leader_epoch = 9;
    }
    if version >= 3 {
        request.generation_id = 7;
        request.member_id = text("member");
        request.group_instance_id = Some(text("instance"));
    }
    let other = partition.clone().with_committed_metadata(None);
    let topic = TxnOffsetCommitRequestTopic::default().with_name(text("orders"));
    request.with_topics(vec![topic.with_partitions(vec![partition, other])])
}
