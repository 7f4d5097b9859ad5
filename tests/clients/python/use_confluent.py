"""confluent-kafka: librdkafka as its own wheel builds it."""

import sys
import time

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    ElectionType,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

import driver


RESOURCES = {"topic": ConfigResource.Type.TOPIC, "broker": ConfigResource.Type.BROKER}
OFFSETS = {
    "earliest": OffsetSpec.earliest,
    "latest": OffsetSpec.latest,
    "max-timestamp": OffsetSpec.max_timestamp,
}


def done(futures):
    """What the one future of these has."""
    [future] = futures.values()
    return future.result(driver.TIMEOUT_S)


class Client:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def admin(self):
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def consumer(self):
        # librdkafka wants the name of a group even where partitions are assigned by hand.
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                "auto.offset.reset": "error",
                "check.crcs": True,
                "fetch.wait.max.ms": 20,  # A consumer that is closed waits for its last fetch.
            }
        )

    def create(self, topic, partitions):
        admin = self.admin()  # Has to outlive the answer.
        created = admin.create_topics([NewTopic(topic, partitions, 1)])
        created[topic].result(driver.TIMEOUT_S)

    def grow(self, topic, partitions):
        admin = self.admin()
        grown = admin.create_partitions([NewPartitions(topic, partitions)])
        grown[topic].result(driver.TIMEOUT_S)

    def metadata(self, topic):
        listed = self.admin().list_topics(timeout=driver.TIMEOUT_S)
        return {
            "topics": sorted(listed.topics),
            "partitions": sorted(listed.topics[topic].partitions),
            "brokers": sorted([b.id, b.host, b.port] for b in listed.brokers.values()),
        }

    def ends(self, topic, partition):
        consumer = self.consumer()
        found = consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=driver.TIMEOUT_S, cached=False
        )
        consumer.close()
        return found

    def produce(self, topic, codec, idempotent, records):
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "acks": "all",
                "enable.idempotence": idempotent,
                "compression.type": codec,
                "message.timeout.ms": driver.TIMEOUT_S * 1000,
                "linger.ms": 20,
            }
        )
        placed = [None] * len(records)

        def delivered(index):
            def callback(error, message):
                placed[index] = error or [message.partition(), message.offset()]

            return callback

        for index, record in enumerate(records):
            partition = {} if record.partition is None else {"partition": record.partition}
            producer.produce(
                topic,
                key=record.key,
                value=record.value,
                headers=record.headers,
                timestamp=record.timestamp,
                on_delivery=delivered(index),
                **partition,
            )
        producer.flush(driver.TIMEOUT_S)
        refused = [place for place in placed if not isinstance(place, list)]
        if refused:
            raise RuntimeError(f"not delivered: {refused}")
        return placed

    def read(self, topic, partition, kind, at, until):
        consumer = self.consumer()
        if kind == "timestamp":
            [found] = consumer.offsets_for_times(
                [TopicPartition(topic, partition, at)], timeout=driver.TIMEOUT_S
            )
            at = found.offset
        elif kind == "earliest":
            at = -2  # OFFSET_BEGINNING.
        consumer.assign([TopicPartition(topic, partition, at)])
        records = []
        deadline = time.monotonic() + driver.TIMEOUT_S
        while not records or records[-1]["offset"] + 1 < until:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(records)} records before {until} were read")
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise RuntimeError(str(message.error()))
            records.append(
                driver.record(
                    message.offset(),
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    message.headers(),
                )
            )
        consumer.close()
        return records

    def join(self, group, topic, assignor, instance):
        settings = {
            "bootstrap.servers": self.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            # When the broker comes back, so does it, well within its session. Its own are ten seconds.
            "reconnect.backoff.max.ms": 500,
        }
        if assignor == "uniform":
            # Of the broker, which says how long a session is.
            settings |= {"group.protocol": "consumer", "group.remote.assignor": assignor}
        else:
            settings |= {
                "partition.assignment.strategy": assignor.replace("round-robin", "roundrobin"),
                "session.timeout.ms": driver.SESSION_MS,
                "heartbeat.interval.ms": driver.HEARTBEAT_MS,
            }
        if instance is not None:
            settings["group.instance.id"] = instance
        self.member = Consumer(settings)
        self.member.subscribe([topic], on_revoke=self.revoked, on_lost=self.revoked)
        self.polled = []

    def revoked(self, member, partitions):
        gone = {where.partition for where in partitions}
        self.polled[:] = [record for record in self.polled if record[0] not in gone]

    def poll(self, ms):
        self.polled = records = []
        deadline = time.monotonic() + ms / 1000
        while (left := deadline - time.monotonic()) > 0:
            message = self.member.poll(left)
            if message is None:
                continue
            if message.error():
                raise RuntimeError(str(message.error()))
            records.append([message.partition(), message.offset()])
        return [where.partition for where in self.member.assignment()], records

    def commit(self):
        try:
            self.member.commit(asynchronous=False)
        except KafkaException as error:
            # It takes it for an error that there is nothing to commit.
            if error.args[0].code() != KafkaError._NO_OFFSET:
                raise

    def leave(self):
        self.member.close()

    def admin_cluster(self, request):
        admin = self.admin()
        found = admin.describe_cluster().result(driver.TIMEOUT_S)
        return {
            "id": found.cluster_id,
            "controller": found.controller.id,
            "brokers": sorted(node.id for node in found.nodes),
        }

    def admin_create(self, request):
        admin = self.admin()
        if request["assignments"] is None:
            layout = {"num_partitions": request["partitions"], "replication_factor": 1}
        else:
            brokers = request["assignments"]
            layout = {"num_partitions": len(brokers), "replica_assignment": brokers}
        topic = NewTopic(request["topic"], config=request["set"], **layout)
        done(admin.create_topics([topic], validate_only=request["validate"]))
        return {}

    def admin_grow(self, request):
        admin = self.admin()
        brokers = request["assignments"]
        assignment = {} if brokers is None else {"replica_assignment": brokers}
        grown = NewPartitions(request["topic"], request["partitions"], **assignment)
        done(admin.create_partitions([grown], validate_only=request["validate"]))
        return {}

    def admin_configs(self, request):
        admin = self.admin()
        resource = ConfigResource(RESOURCES[request["type"]], request["name"])
        entries = done(admin.describe_configs([resource])).values()
        return {"configs": {e.name: [e.value, int(e.source), e.is_read_only] for e in entries}}

    def admin_alter(self, request):
        admin = self.admin()
        changes = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in request["set"].items()
        ]
        resource = ConfigResource(RESOURCES[request["type"]], request["name"], incremental_configs=changes)
        done(admin.incremental_alter_configs([resource], validate_only=request["validate"]))
        return {}

    def admin_replace(self, request):
        admin = self.admin()
        resource = ConfigResource(RESOURCES[request["type"]], request["name"], set_config=request["set"])
        done(admin.alter_configs([resource], validate_only=request["validate"]))
        return {}

    def admin_offset(self, request):
        admin = self.admin()
        where = TopicPartition(request["topic"], request["partition"])
        return {"offset": done(admin.list_offsets({where: OFFSETS[request["of"]]()})).offset}

    def admin_delete_records(self, request):
        admin = self.admin()
        where = TopicPartition(request["topic"], request["partition"], request["before"])
        return {"low": done(admin.delete_records([where])).low_watermark}

    def admin_elect(self, request):
        admin = self.admin()
        where = TopicPartition(request["topic"], request["partition"])
        elected = admin.elect_leaders(ElectionType.PREFERRED, [where]).result(driver.TIMEOUT_S)
        return {"elected": str(elected[where])}

    def admin_partitions(self, request):
        admin = self.admin()
        described = done(admin.describe_topics(TopicCollection([request["topic"]])))
        return {"partitions": sorted(partition.id for partition in described.partitions)}

    def admin_delete(self, request):
        admin = self.admin()
        done(admin.delete_topics([request["topic"]]))
        return {}

    def init(self, transactional_id, timeout):
        self.producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout,
                "linger.ms": 5,
            }
        )
        self.producer.init_transactions(driver.TIMEOUT_S)

    def begin(self):
        self.producer.begin_transaction()
        member = getattr(self, "member", None)
        self.read_as = member and member.consumer_group_metadata()

    def write(self, topic, records):
        for partition, text in records:
            self.producer.produce(topic, value=text.encode(), partition=partition)
        self.producer.flush(driver.TIMEOUT_S)

    def offsets(self, group, topic, positions):
        positions = [TopicPartition(topic, partition, offset) for partition, offset in positions]
        self.producer.send_offsets_to_transaction(positions, self.read_as, driver.TIMEOUT_S)

    def end(self, commit):
        if commit:
            self.producer.commit_transaction(driver.TIMEOUT_S)
        else:
            self.producer.abort_transaction(driver.TIMEOUT_S)

    def close(self):
        self.producer.close()

    def committed(self, topic, partition, until):
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            }
        )
        consumer.assign([TopicPartition(topic, partition, 0)])
        values = []
        deadline = time.monotonic() + driver.TIMEOUT_S
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                [position] = consumer.position([TopicPartition(topic, partition)])
                if message.offset() >= until or position.offset >= until:
                    consumer.close()
                    return values
                continue
            values.append(message.value().decode())
        raise TimeoutError(f"{values} before {until}")

    def groups(self):
        admin = self.admin()
        listed = admin.list_consumer_groups().result(driver.TIMEOUT_S)
        if listed.errors:
            raise RuntimeError(str(listed.errors))
        return [group.group_id for group in listed.valid]

    def describe(self, group):
        admin = self.admin()
        described = admin.describe_consumer_groups([group])[group].result(driver.TIMEOUT_S)
        assigned = [
            sorted(f"{where.topic}-{where.partition}" for where in member.assignment.topic_partitions)
            for member in described.members
        ]
        return {
            "state": described.state.name.title().replace("_", ""),
            "members": len(described.members),
            "type": described.type.name.title(),
            "assigned": assigned,
        }

    def positions(self, group, topic):
        admin = self.admin()
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        found = asked[group].result(driver.TIMEOUT_S).topic_partitions
        return [[where.partition, where.offset] for where in found if where.topic == topic]

    def reset(self, group, topic, offsets):
        admin = self.admin()
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets]
        asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
        altered = asked[group].result(driver.TIMEOUT_S).topic_partitions
        refused = [where for where in altered if where.error]
        if refused:
            raise KafkaException(refused[0].error)

    def delete(self, group):
        admin = self.admin()
        admin.delete_consumer_groups([group])[group].result(driver.TIMEOUT_S)


driver.run(Client(sys.argv[1]))
