"""kafka-python, versions 2 and 3 (one file serves both)."""

import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewPartitions, NewTopic
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

import driver


ASSIGNORS = {
    "range": RangePartitionAssignor,
    "round-robin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
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
            topic,
            bootstrap_servers=self.bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[ASSIGNORS[assignor]],
            session_timeout_ms=driver.SESSION_MS,
            heartbeat_interval_ms=driver.HEARTBEAT_MS,
            **static,
        )

    def poll(self, ms):
        records = []
        deadline = time.monotonic() + ms / 1000
        while (left := deadline - time.monotonic()) > 0:
            for batch in self.member.poll(timeout_ms=int(left * 1000)).values():
                records.extend([read.partition, read.offset] for read in batch)
        return [where.partition for where in self.member.assignment()], records

    def commit(self):
        self.member.commit()

    def leave(self):
        self.member.close()


driver.run(Client(sys.argv[1]))
