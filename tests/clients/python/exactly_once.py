"""Transactions of real clients: transfers between accounts, and a pipeline that reads, processes and writes.

    exactly_once.py CLIENT BOOTSTRAP ROLE NAME

CLIENT is confluent or kafka-python, ROLE transfer or pipeline. A request per line in, an answer per line
out, both JSON:

| request | answer |
|---|---|
| {"op":"work","ms":M} | {"committed":[T..],"aborted":[T..],"unknown":[T..]}: transactions of that time |
| {"op":"finish"} | {}: nothing is left open |

A transfer T writes two records {"transaction":T,"of":2,"amount":A} whose amounts add up to nothing, to
partitions of the topic accounts. The pipeline copies every record of the topic inputs to the topic outputs, as a member of
the group pipeline: {"transaction":T,"input":I,"of":N}, N being how many records T copies.
"""

import json
import random
import sys
import time
import traceback
import uuid

ACCOUNTS = 20
PARTITIONS = 4
# Of a transaction that nobody ends. A client that was killed holds readers up for so long.
TRANSACTION_MS = 10_000
SESSION_MS = 6000
HEARTBEAT_MS = 500
BATCH_MAX = 40
# One call of a client, over a broker that is killed and started meanwhile.
CALL_S = 40


class Abortable(Exception):
    """The transaction has to be aborted; the producer is of use afterwards."""


class Lost(Exception):
    """Nobody knows what became of the transaction before the next producer of that name is there."""


class Confluent:
    def __init__(self, bootstrap, name):
        self.bootstrap = bootstrap
        self.name = name

    def producer(self):
        from confluent_kafka import Producer

        self.made = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "transactional.id": self.name,
                "transaction.timeout.ms": TRANSACTION_MS,
                "message.timeout.ms": TRANSACTION_MS,
                "linger.ms": 0,
            }
        )
        self.call(self.made.init_transactions)

    def call(self, function, *arguments):
        from confluent_kafka import KafkaException

        deadline = time.monotonic() + CALL_S
        while True:
            try:
                return function(*arguments, 5)
            except KafkaException as error:
                reason = error.args[0]
                if reason.txn_requires_abort():
                    raise Abortable(str(reason)) from error
                if not reason.retriable() or time.monotonic() > deadline:
                    raise Lost(str(reason)) from error

    def begin(self):
        self.made.begin_transaction()

    def send(self, topic, partition, value):
        while True:
            try:
                return self.made.produce(topic, value, partition=partition)
            except BufferError:
                self.made.poll(0.1)

    def flush(self):
        self.made.flush(2)

    def offsets(self, member, places):
        from confluent_kafka import TopicPartition

        offsets = [TopicPartition(topic, partition, at) for (topic, partition), at in places.items()]
        self.call(self.made.send_offsets_to_transaction, offsets, member.consumer_group_metadata())

    def commit(self):
        self.call(self.made.commit_transaction)

    def abort(self):
        self.call(self.made.abort_transaction)

    def drop(self):
        self.made = None

    def member(self):
        from confluent_kafka import Consumer

        member = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "pipeline",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": HEARTBEAT_MS,
            }
        )
        member.subscribe(["inputs"])
        return member

    def rewind(self, member, places):
        from confluent_kafka import TopicPartition

        for (topic, partition), at in places.items():
            member.seek(TopicPartition(topic, partition, at))

    def read(self, member):
        read = []
        for message in member.consume(BATCH_MAX, 0.3):
            if message.error():
                raise Abortable(str(message.error()))
            read.append((message.topic(), message.partition(), message.offset(), message.value()))
        return read


class KafkaPython:
    def __init__(self, bootstrap, name):
        self.bootstrap = bootstrap
        self.name = name
        self.made = None

    def producer(self):
        from kafka import KafkaProducer

        from kafka.errors import KafkaError

        try:
            self.made = self.new(KafkaProducer)
        except KafkaError as error:
            raise Lost(repr(error)) from error
        self.call(self.made.init_transactions)

    def new(self, producer):
        return producer(
            bootstrap_servers=self.bootstrap,
            transactional_id=self.name,
            transaction_timeout_ms=TRANSACTION_MS,
            max_block_ms=CALL_S * 1000,
            delivery_timeout_ms=TRANSACTION_MS,
            request_timeout_ms=5000,
            linger_ms=0,
        )

    def call(self, function, *arguments):
        from kafka.errors import KafkaError

        try:
            return function(*arguments)
        except KafkaError as error:
            manager = self.made._transaction_manager
            if manager.has_abortable_error() and not manager.has_fatal_error():
                raise Abortable(repr(error)) from error
            raise Lost(repr(error)) from error

    def begin(self):
        self.call(self.made.begin_transaction)

    def send(self, topic, partition, value):
        self.call(lambda: self.made.send(topic, value=value, partition=partition))

    def flush(self):
        from kafka.errors import KafkaTimeoutError

        try:
            self.call(self.made.flush, 2)
        except Lost as error:
            if not isinstance(error.__cause__, KafkaTimeoutError):
                raise  # Otherwise the broker is away; the end of the transaction waits for it.

    def offsets(self, member, places):
        from kafka import TopicPartition
        from kafka.structs import OffsetAndMetadata

        offsets = {
            TopicPartition(topic, partition): OffsetAndMetadata(at, "", -1)
            for (topic, partition), at in places.items()
        }
        self.call(self.made.send_offsets_to_transaction, offsets, member.group_metadata())

    def commit(self):
        self.call(self.made.commit_transaction)

    def abort(self):
        self.call(self.made.abort_transaction)

    def drop(self):
        made, self.made = self.made, None
        if made is not None:
            try:
                made.close(timeout=0)
            except Exception:  # noqa: BLE001 - the next of its name fences it.
                traceback.print_exc()

    def member(self):
        from kafka import KafkaConsumer
        from kafka.errors import KafkaError

        try:
            return KafkaConsumer(
                "inputs",
                bootstrap_servers=self.bootstrap,
                group_id="pipeline",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=HEARTBEAT_MS,
            )
        except KafkaError as error:
            raise Abortable(repr(error)) from error

    def rewind(self, member, places):
        from kafka import TopicPartition

        for (topic, partition), at in places.items():
            member.seek(TopicPartition(topic, partition), at)

    def read(self, member):
        from kafka.errors import KafkaError

        try:
            found = member.poll(timeout_ms=300, max_records=BATCH_MAX)
        except KafkaError as error:
            raise Abortable(repr(error)) from error
        return [
            (where.topic, where.partition, record.offset, record.value)
            for where, records in found.items()
            for record in records
        ]


class Worker:
    def __init__(self, client, name):
        self.client = client
        self.has_producer = False
        # Of this process: another one of the same name has transactions of its own.
        self.life = f"{name}.{uuid.uuid4().hex[:8]}"
        self.count = 0

    def work(self, ms):
        outcomes = {"committed": [], "aborted": [], "unknown": []}
        deadline = time.monotonic() + ms / 1000
        while time.monotonic() < deadline:
            made = self.step()
            if made is not None:
                transaction, outcome = made
                outcomes[outcome].append(transaction)
        return outcomes

    def producer(self):
        while not self.has_producer:
            try:
                self.client.producer()
                self.has_producer = True
            except (Abortable, Lost) as error:
                self.lose(error)

    def lose(self, error):
        print(f"{self.life}: {error}", file=sys.stderr, flush=True)
        self.client.drop()
        self.has_producer = False

    def transact(self, body, gives_up=False):
        """One transaction: its outcome, as this client knows it."""
        try:
            self.client.begin()
            body()
            if not gives_up:
                self.client.commit()
                return "committed"
        except Abortable as error:
            print(f"{self.life}: {error}", file=sys.stderr, flush=True)
        except Lost as error:
            self.lose(error)
            return "unknown"
        try:
            self.client.abort()
            return "aborted"
        except (Abortable, Lost) as error:
            self.lose(error)
            return "unknown"


class Transfers(Worker):
    def step(self):
        self.producer()
        self.count += 1
        transaction = f"{self.life}.{self.count}"
        one, other = random.sample(range(ACCOUNTS), 2)
        amount = random.randrange(1, 1000)
        gives_up = random.random() < 0.25

        def body():
            self.send(transaction, one, -amount)
            if random.random() < 0.3:
                self.client.flush()
            if not gives_up or random.random() < 0.5:
                self.send(transaction, other, amount)
            if gives_up and random.random() < 0.7:
                self.client.flush()

        return transaction, self.transact(body, gives_up)

    def send(self, transaction, account, amount):
        value = {"transaction": transaction, "of": 2, "account": account, "amount": amount}
        self.client.send("accounts", account % PARTITIONS, json.dumps(value).encode())

    def finish(self):
        self.producer()  # Whatever was open is aborted by it.


class Pipeline(Worker):
    def __init__(self, client, name):
        super().__init__(client, name)
        self.member = None

    def step(self):
        self.producer()
        outcome = "aborted"
        self.count += 1
        transaction = f"{self.life}.{self.count}"
        try:
            if self.member is None:
                self.member = self.client.member()
            read = self.client.read(self.member)
            if not read:
                return None
            begun, places = {}, {}
            for topic, partition, offset, _ in read:
                begun.setdefault((topic, partition), offset)
                places[(topic, partition)] = offset + 1
            gives_up = random.random() < 0.12
            is_whole = False

            def body():
                nonlocal is_whole
                for _, _, _, value in read:
                    self.copy(transaction, int(value), len(read))
                self.client.offsets(self.member, places)
                if gives_up:
                    self.client.flush()
                is_whole = True

            outcome = self.transact(body, gives_up)
            if gives_up and is_whole and outcome == "aborted" and self.rewind(begun):
                return transaction, outcome
        except Abortable as error:
            print(f"{self.life}: {error}", file=sys.stderr, flush=True)
        if outcome != "committed":
            # Another member, or this one anew, begins where the group has got to.
            self.leave()
        return transaction, outcome

    def copy(self, transaction, value, count):
        copied = json.dumps({"transaction": transaction, "input": value, "of": count})
        self.client.send("outputs", value % PARTITIONS, copied.encode())

    def rewind(self, places):
        try:
            self.client.rewind(self.member, places)
            return True
        except Exception:  # noqa: BLE001 - it has lost its partitions meanwhile.
            traceback.print_exc()
            return False

    def leave(self):
        member, self.member = self.member, None
        if member is not None:
            try:
                member.close()
            except Exception:  # noqa: BLE001 - its session ends all the same.
                traceback.print_exc()

    def finish(self):
        self.leave()
        self.producer()


def main():
    name_of_client, bootstrap, role, name = sys.argv[1:]
    client = {"confluent": Confluent, "kafka-python": KafkaPython}[name_of_client](bootstrap, name)
    worker = {"transfer": Transfers, "pipeline": Pipeline}[role](client, name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["op"] == "work":
                answer = worker.work(request["ms"])
            else:
                worker.finish()
                answer = {}
        except Exception:  # noqa: BLE001 - whatever it is, the test prints it and fails.
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


main()
