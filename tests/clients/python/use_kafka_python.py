"""kafka-python, versions 2 and 3 (one file serves both)."""

import contextlib
import sys
import time

import kafka.errors
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, KafkaAdminClient, NewPartitions, NewTopic
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.structs import OffsetAndMetadata

import driver
from older_admin import OlderAdmin


ASSIGNORS = {
    "range": RangePartitionAssignor,
    "round-robin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


# As the protocol has them.
OFFSETS = {"latest": -1, "earliest": -2, "max-timestamp": -3, "earliest-local": -4, "latest-tiered": -5}
SOURCES = {
    "DYNAMIC_TOPIC_CONFIG": 1,
    "DYNAMIC_BROKER_CONFIG": 2,
    "DYNAMIC_DEFAULT_BROKER_CONFIG": 3,
    "STATIC_BROKER_CONFIG": 4,
    "DEFAULT_CONFIG": 5,
    "DYNAMIC_CLIENT_METRICS_CONFIG": 7,
}


class Client:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def consumer(self):
        # No group: partitions are assigned by hand.
        return KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=None,
            enable_auto_commit=False,
            max_partition_fetch_bytes=2 << 20,
        )

    def create(self, topic, partitions):
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)])
        admin.close()

    def grow(self, topic, partitions):
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_partitions({topic: NewPartitions(total_count=partitions)})
        admin.close()

    def metadata(self, topic):
        consumer = self.consumer()
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        found = {
            "topics": sorted(consumer.topics()),
            "partitions": sorted(consumer.partitions_for_topic(topic)),
            "brokers": sorted(
                # Version 3 names it as the protocol does.
                [broker.get("node_id", broker.get("broker_id")), broker["host"], broker["port"]]
                for broker in admin.describe_cluster()["brokers"]
            ),
        }
        admin.close()
        consumer.close()
        return found

    def ends(self, topic, partition):
        consumer = self.consumer()
        where = TopicPartition(topic, partition)
        found = consumer.beginning_offsets([where])[where], consumer.end_offsets([where])[where]
        consumer.close()
        return found

    def produce(self, topic, codec, idempotent, records):
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            enable_idempotence=idempotent,
            compression_type=None if codec == "none" else codec,
            max_request_size=4 << 20,
            linger_ms=20,
        )
        sent = [
            producer.send(
                topic,
                key=record.key,
                value=record.value,
                headers=record.headers,
                partition=record.partition,
                timestamp_ms=record.timestamp,
            )
            for record in records
        ]
        metadata = [future.get(timeout=driver.TIMEOUT_S) for future in sent]
        producer.close()
        return [[placed.partition, placed.offset] for placed in metadata]

    def read(self, topic, partition, kind, at, until):
        consumer = self.consumer()
        where = TopicPartition(topic, partition)
        consumer.assign([where])
        if kind == "earliest":
            consumer.seek_to_beginning(where)
        elif kind == "timestamp":
            consumer.seek(where, consumer.offsets_for_times({where: at})[where].offset)
        else:
            consumer.seek(where, at)
        records = []
        deadline = time.monotonic() + driver.TIMEOUT_S
        while consumer.position(where) < until:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{consumer.position(where)} of {until} was reached")
            for read in consumer.poll(timeout_ms=1000).get(where, []):
                records.append(
                    driver.record(read.offset, read.timestamp, read.key, read.value, read.headers)
                )
        consumer.close()
        return records

    def join(self, group, topic, assignor, instance):
        static = {} if instance is None else {"group_instance_id": instance}
        self.member = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[ASSIGNORS[assignor]],
            session_timeout_ms=driver.SESSION_MS,
            heartbeat_interval_ms=driver.HEARTBEAT_MS,
            **static,
        )
        self.member.subscribe([topic])

    def poll(self, ms):
        records = []
        deadline = time.monotonic() + ms / 1000
        # Not on with what it has read in hand: version 3 goes on behind it where a rebalance leaves it a partition.
        while not records and (left := deadline - time.monotonic()) > 0:
            for batch in self.member.poll(timeout_ms=int(left * 1000)).values():
                records.extend([read.partition, read.offset] for read in batch)
        return [where.partition for where in self.member.assignment()], records

    def commit(self):
        self.member.commit()

    def leave(self):
        self.member.close()

    # Administration: of version 3.

    def administrate(self, use):
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            return use(admin)
        finally:
            admin.close()

    def admin_cluster(self, request):
        found = self.administrate(lambda admin: admin.describe_cluster())
        return {
            "id": found["cluster_id"],
            "controller": found["controller_id"],
            "brokers": sorted(
                broker.get("broker_id", broker.get("node_id")) for broker in found["brokers"]
            ),
        }

    def admin_create(self, request):
        brokers = request["assignments"]
        if brokers is None:
            layout = {"num_partitions": request["partitions"], "replication_factor": 1}
        else:
            layout = {"assignments": dict(enumerate(brokers))}
        topics = {request["topic"]: {"configs": request["set"], **layout}}
        self.administrate(lambda admin: admin.create_topics(topics, validate_only=request["validate"]))
        return {}

    def admin_grow(self, request):
        brokers = request["assignments"]
        count = request["partitions"]
        grown = {request["topic"]: count if brokers is None else {"count": count, "assignments": brokers}}
        self.administrate(lambda admin: admin.create_partitions(grown, validate_only=request["validate"]))
        return {}

    def admin_configs(self, request):
        resource = ConfigResource(request["type"], request["name"])
        found = self.administrate(lambda admin: admin.describe_configs([resource], config_filter="all"))
        [configs] = found[request["type"]].values()
        return {
            "configs": {
                name: [entry["value"], SOURCES[entry["config_source"]], entry["read_only"]]
                for name, entry in configs.items()
            }
        }

    def change(self, request, incremental):
        resource = ConfigResource(request["type"], request["name"], request["set"])
        changed = self.administrate(
            lambda admin: admin.alter_configs(
                [resource],
                validate_only=request["validate"],
                raise_on_unknown=False,
                incremental=incremental,
            )
        )
        [said] = changed[request["type"]].values()
        if said != "OK":
            raise RuntimeError(said)
        return {}

    def admin_alter(self, request):
        return self.change(request, True)

    def admin_replace(self, request):
        return self.change(request, False)

    def admin_offset(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        found = self.administrate(
            lambda admin: admin.list_partition_offsets({where: OFFSETS[request["of"]]})
        )
        return {"offset": found[where].offset}

    def admin_delete_records(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        deleted = self.administrate(lambda admin: admin.delete_records({where: request["before"]}))
        return {"low": deleted[where]["low_watermark"]}

    def admin_elect(self, request):
        partitions = {request["topic"]: [request["partition"]]}
        answer = self.administrate(lambda admin: admin.elect_leaders(0, partitions))
        [topic] = answer.replica_election_results
        [partition] = topic.partition_result
        return {"elected": kafka.errors.for_code(partition.error_code).__name__}

    def admin_partitions(self, request):
        def pages(admin):
            cursor = None
            while True:
                page = admin.describe_topic_partitions([request["topic"]], 1, cursor)
                for topic in page["topics"]:
                    if topic["error_code"] != 0:
                        raise kafka.errors.for_code(topic["error_code"])(topic["name"])
                yield [p["partition_index"] for topic in page["topics"] for p in topic["partitions"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    return

        found = self.administrate(lambda admin: list(pages(admin)))
        if max(map(len, found)) > 1:
            raise RuntimeError(f"more than one partition in a page: {found}")
        return {"partitions": sorted(sum(found, []))}

    def admin_log_dirs(self, request):
        [broker] = self.administrate(lambda admin: admin.describe_log_dirs([request["topic"]]))
        [log_dir] = broker["log_dirs"]
        return {
            "dir": log_dir["log_dir"],
            "total": log_dir["total_bytes"],
            "usable": log_dir["usable_bytes"],
            "sizes": [
                [partition["partition_index"], partition["partition_size"]]
                for topic in log_dir["topics"]
                for partition in topic["partitions"]
            ],
        }

    def admin_client_metrics(self, request):
        found = self.administrate(lambda admin: admin.list_config_resources(["CLIENT_METRICS"]))
        return {"names": found.get("client_metrics", [])}

    def admin_reassignments(self, request):
        found = self.administrate(lambda admin: admin.list_partition_reassignments())
        return {"partitions": [str(where) for where in found]}

    def admin_delete(self, request):
        self.administrate(lambda admin: admin.delete_topics([request["topic"]]))
        return {}


    def admin_transactions(self, request):
        found = self.administrate(
            lambda admin: admin.list_transactions(
                state_filters=[request["state"]] if "state" in request else None,
                producer_id_filters=[request["producer"]] if "producer" in request else None,
                duration_filter_ms=request.get("open_for"),
                transactional_id_pattern=request.get("pattern"),
            )
        )
        return {"ids": sorted(listing.transactional_id for listed in found.values() for listing in listed)}

    def admin_transaction(self, request):
        [found] = self.administrate(lambda admin: admin.describe_transactions([request["id"]])).values()
        return {
            "state": found.state.value,
            "producer": found.producer_id,
            "epoch": found.producer_epoch,
            "timeout": found.transaction_timeout_ms,
            "has_start": found.transaction_start_time_ms >= 0,
            "partitions": sorted(f"{where.topic}-{where.partition}" for where in found.topic_partitions),
        }

    def admin_producers(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        found = self.administrate(lambda admin: admin.describe_producers([where]))[where].active_producers
        return {
            "producers": sorted(
                [
                    state.producer_id,
                    state.producer_epoch,
                    state.last_sequence,
                    None if state.current_transaction_start_offset < 0 else state.current_transaction_start_offset,
                ]
                for state in found
            )
        }

    def admin_abort(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        spec = kafka.admin.AbortTransactionSpec(where, request["producer"], request["epoch"])
        self.administrate(lambda admin: admin.abort_transaction(spec))
        return {}

    def admin_delete_offsets(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        error = self.administrate(lambda admin: admin.delete_group_offsets(request["group"], [where]))[where]
        if error.errno != 0:
            raise error(where)
        return {}

    def init(self, transactional_id, timeout):
        self.producer = KafkaProducer(
            bootstrap_servers=self.bootstrap,
            transactional_id=transactional_id,
            transaction_timeout_ms=timeout,
        )
        self.producer.init_transactions()

    def begin(self):
        self.producer.begin_transaction()
        # Version 3 says which generation it is.
        self.read_as = getattr(getattr(self, "member", None), "group_metadata", lambda: None)()

    def write(self, topic, records):
        sent = [
            self.producer.send(topic, value=text.encode(), partition=partition) for partition, text in records
        ]
        for future in sent:
            future.get(timeout=driver.TIMEOUT_S)

    def offsets(self, group, topic, positions):
        offsets = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in positions
        }
        self.producer.send_offsets_to_transaction(offsets, self.read_as or group)

    def end(self, commit):
        if commit:
            self.producer.commit_transaction()
        else:
            self.producer.abort_transaction()

    def committed(self, topic, partition, until):
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        where = TopicPartition(topic, partition)
        consumer.assign([where])
        consumer.seek_to_beginning(where)
        values = []
        deadline = time.monotonic() + driver.TIMEOUT_S
        while consumer.position(where) < until:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{values}, {consumer.position(where)} of {until} was reached")
            for read in consumer.poll(timeout_ms=1000).get(where, []):
                values.append(read.value.decode())
        consumer.close()
        return values

    def admin(self):
        return contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap))

    def groups(self):
        with self.admin() as admin:
            if hasattr(admin, "list_groups"):
                return [group["group_id"] for group in admin.list_groups()]
            return [name for name, _ in admin.list_consumer_groups()]

    def describe(self, group):
        with self.admin() as admin:
            if hasattr(admin, "describe_groups"):
                described = admin.describe_groups([group])[group]
                return {"state": described["group_state"], "members": len(described["members"])}
            [described] = admin.describe_consumer_groups([group])
            return {"state": described.state, "members": len(described.members)}

    def positions(self, group, topic):
        with self.admin() as admin:
            if hasattr(admin, "list_group_offsets"):
                found = admin.list_group_offsets({group: None})[group]
            else:
                found = admin.list_consumer_group_offsets(group)
        return [[where.partition, at.offset] for where, at in found.items() if where.topic == topic]

    def reset(self, group, topic, offsets):
        wanted = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets
        }
        with self.admin() as admin:
            if hasattr(admin, "alter_group_offsets"):
                altered = admin.alter_group_offsets(group, wanted)
                refused = {where: error for where, error in altered.items() if error.errno != 0}
                for where, error in refused.items():
                    raise error(where)
                return
        # Version 2 has it only so: as a consumer that is no member.
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False)
        consumer.assign(list(wanted))
        consumer.commit(wanted)
        consumer.close()

    def delete(self, group):
        with self.admin() as admin:
            if hasattr(admin, "delete_groups"):
                answer = admin.delete_groups([group])[group]
                error = None if answer == "OK" else getattr(kafka.errors, answer)
            else:
                [(_, error)] = admin.delete_consumer_groups([group])
        if error is not None and error.errno != 0:
            raise error(group)


class Older(OlderAdmin, Client):
    """Version 2."""

    NewTopic, NewPartitions, ConfigResource = NewTopic, NewPartitions, ConfigResource
    errors = kafka.errors

    def use(self, call):
        return self.administrate(call)

    def admin_delete_records(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        deleted = self.use(lambda admin: admin.delete_records({where: request["before"]}))
        return {"low": deleted[where]["low_watermark"]}

    def admin_elect(self, request):
        partitions = {request["topic"]: [request["partition"]]}
        answer = self.use(lambda admin: admin.perform_leader_election(0, partitions))
        [(_, [(_, code, _)])] = answer.replication_election_results
        return {"elected": kafka.errors.for_code(code).__name__}


is_older = not hasattr(KafkaAdminClient, "list_groups")
driver.run((Older if is_older else Client)(sys.argv[1]))
