"""aiokafka: its own protocol code, on asyncio."""

import asyncio
import sys
import threading

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

import driver
from older_admin import OlderAdmin


ASSIGNORS = {
    "range": RangePartitionAssignor,
    "round-robin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


class Client(OlderAdmin):
    """Every call opens its own connection and closes it, on an event loop of its own; but a member of a group
    goes on between the calls, on a loop in a thread."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def create(self, topic, partitions):
        async def create():
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)])
            await admin.close()

        asyncio.run(create())

    def grow(self, topic, partitions):
        async def grow():
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            await admin.create_partitions({topic: NewPartitions(total_count=partitions)})
            await admin.close()

        asyncio.run(grow())

    def metadata(self, topic):
        async def metadata():
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            cluster = await admin.describe_cluster()
            described = await admin.describe_topics([topic])
            topics = await admin.list_topics()
            await admin.close()
            return {
                "topics": sorted(topics),
                "partitions": sorted(p["partition"] for p in described[0]["partitions"]),
                "brokers": sorted([b["node_id"], b["host"], b["port"]] for b in cluster["brokers"]),
            }

        return asyncio.run(metadata())

    def with_consumer(self, topic, partition, use):
        async def run():
            where = TopicPartition(topic, partition)
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=2 << 20,
            )
            await consumer.start()
            try:
                consumer.assign([where])
                return await asyncio.wait_for(use(consumer, where), driver.TIMEOUT_S)
            finally:
                await consumer.stop()

        return asyncio.run(run())

    def ends(self, topic, partition):
        async def ends(consumer, where):
            earliest = await consumer.beginning_offsets([where])
            latest = await consumer.end_offsets([where])
            return earliest[where], latest[where]

        return self.with_consumer(topic, partition, ends)

    def produce(self, topic, codec, idempotent, records):
        async def produce():
            producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap,
                acks="all",
                enable_idempotence=idempotent,
                compression_type=None if codec == "none" else codec,
                max_request_size=4 << 20,
                linger_ms=20,
            )
            await producer.start()
            try:
                sent = [
                    await producer.send(
                        topic,
                        key=record.key,
                        value=record.value,
                        headers=record.headers,
                        partition=record.partition,
                        timestamp_ms=record.timestamp,
                    )
                    for record in records
                ]
                placed = await asyncio.wait_for(asyncio.gather(*sent), driver.TIMEOUT_S)
                return [[place.partition, place.offset] for place in placed]
            finally:
                await producer.stop()

        return asyncio.run(produce())

    def read(self, topic, partition, kind, at, until):
        async def read(consumer, where):
            if kind == "earliest":
                await consumer.seek_to_beginning(where)
            elif kind == "timestamp":
                found = await consumer.offsets_for_times({where: at})
                consumer.seek(where, found[where].offset)
            else:
                consumer.seek(where, at)
            records = []
            while await consumer.position(where) < until:
                batch = await consumer.getmany(where, timeout_ms=1000)
                for read in batch.get(where, []):
                    records.append(
                        driver.record(read.offset, read.timestamp, read.key, read.value, read.headers)
                    )
            return records

        return self.with_consumer(topic, partition, read)

    def start_loop(self):
        """One for the member and the producer."""
        if not hasattr(self, "loop"):
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def on_loop(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(driver.TIMEOUT_S)

    def join(self, group, topic, assignor, instance):
        self.start_loop()

        async def join():
            self.member = AIOKafkaConsumer(
                topic,
                bootstrap_servers=self.bootstrap,
                group_id=group,
                group_instance_id=instance,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[ASSIGNORS[assignor]],
                session_timeout_ms=driver.SESSION_MS,
                heartbeat_interval_ms=driver.HEARTBEAT_MS,
            )
            await self.member.start()

        self.on_loop(join())

    def poll(self, ms):
        async def poll():
            records = []
            deadline = self.loop.time() + ms / 1000
            while (left := deadline - self.loop.time()) > 0:
                for batch in (await self.member.getmany(timeout_ms=int(left * 1000))).values():
                    records.extend([read.partition, read.offset] for read in batch)
            return [where.partition for where in self.member.assignment()], records

        return self.on_loop(poll())

    def commit(self):
        self.on_loop(self.member.commit())

    def leave(self):
        self.on_loop(self.member.stop())

    def init(self, transactional_id, timeout):
        self.start_loop()

        async def init():
            self.producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap,
                transactional_id=transactional_id,
                transaction_timeout_ms=timeout,
            )
            await self.producer.start()

        self.on_loop(init())

    def begin(self):
        self.on_loop(self.producer.begin_transaction())

    def write(self, topic, records):
        async def write():
            sent = [
                await self.producer.send(topic, value=text.encode(), partition=partition)
                for partition, text in records
            ]
            await asyncio.wait_for(asyncio.gather(*sent), driver.TIMEOUT_S)

        self.on_loop(write())

    def offsets(self, group, topic, positions):
        offsets = {TopicPartition(topic, partition): offset for partition, offset in positions}
        self.on_loop(self.producer.send_offsets_to_transaction(offsets, group))

    def end(self, commit):
        self.on_loop(self.producer.commit_transaction() if commit else self.producer.abort_transaction())

    def committed(self, topic, partition, until):
        async def committed():
            where = TopicPartition(topic, partition)
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap,
                group_id=None,
                enable_auto_commit=False,
                isolation_level="read_committed",
            )
            await consumer.start()
            try:
                consumer.assign([where])
                await consumer.seek_to_beginning(where)
                values = []
                while await consumer.position(where) < until:
                    batch = await consumer.getmany(where, timeout_ms=1000)
                    values.extend(read.value.decode() for read in batch.get(where, []))
                return values
            finally:
                await consumer.stop()

        return asyncio.run(asyncio.wait_for(committed(), driver.TIMEOUT_S))

    def with_admin(self, use):
        async def run():
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            try:
                return await use(admin)
            finally:
                await admin.close()

        return asyncio.run(run())

    NewTopic, NewPartitions, ConfigResource = NewTopic, NewPartitions, ConfigResource
    errors = errors

    def use(self, call):
        return self.with_admin(call)

    def admin_delete_records(self, request):
        where = TopicPartition(request["topic"], request["partition"])
        records = {where: RecordsToDelete(request["before"])}
        return {"low": self.use(lambda admin: admin.delete_records(records))[where]}

    def groups(self):
        return [group[0] for group in self.with_admin(lambda admin: admin.list_consumer_groups())]

    def describe(self, group):
        [response] = self.with_admin(lambda admin: admin.describe_consumer_groups([group]))
        described = response.to_object()["groups"][0]
        return {"state": described["state"], "members": len(described["members"])}

    def positions(self, group, topic):
        found = self.with_admin(lambda admin: admin.list_consumer_group_offsets(group))
        return [[where.partition, at.offset] for where, at in found.items() if where.topic == topic]

    def reset(self, group, topic, offsets):
        # It has it only so: as a consumer that is no member.
        async def reset():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False
            )
            await consumer.start()
            try:
                wanted = {TopicPartition(topic, partition): offset for partition, offset in offsets}
                consumer.assign(list(wanted))
                await consumer.commit(wanted)
            finally:
                await consumer.stop()

        asyncio.run(reset())


driver.run(Client(sys.argv[1]))
