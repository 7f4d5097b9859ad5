import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The official Java client: a request per line in, an answer per line out; ../src/driver.rs says what
 * they look like. Compiled once against each version of kafka-clients.
 */
public final class Driver {
    private static final Duration TIMEOUT = Duration.ofSeconds(30);
    private static final ObjectMapper JSON = new ObjectMapper();

    /** Of members of groups: the shortest session that the broker allows by default, unless told otherwise. */
    private static final int SESSION_MS = 6000;
    private static final int HEARTBEAT_MS = 500;
    private static final Map<String, String> ASSIGNORS = Map.of(
        "range", "RangeAssignor",
        "round-robin", "RoundRobinAssignor",
        "sticky", "StickyAssignor",
        "cooperative-sticky", "CooperativeStickyAssignor");

    private final String bootstrap;
    private KafkaConsumer<byte[], byte[]> member;
    /** What the member has read and not been told of, without what was taken from it meanwhile. */
    private final List<ConsumerRecord<byte[], byte[]>> polled = new ArrayList<>();
    private KafkaProducer<byte[], byte[]> producer;
    /** What the member was in its group when the transaction began. */
    private ConsumerGroupMetadata readAs;

    private Driver(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] arguments) throws Exception {
        Driver driver = new Driver(arguments[0]);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                driver.answer(JSON.readTree(line), answer);
            } catch (Exception error) {
                StringWriter trace = new StringWriter();
                error.printStackTrace(new PrintWriter(trace));
                answer.put("error", trace.toString());
                Throwable named = error instanceof ExecutionException ? error.getCause() : error;
                answer.put("name", named.getClass().getSimpleName());
            }
            System.out.println(JSON.writeValueAsString(answer));
            System.out.flush();
        }
    }

    private void answer(JsonNode request, ObjectNode answer) throws Exception {
        String topic = request.path("topic").asText();
        TopicPartition where = new TopicPartition(topic, request.path("partition").asInt());
        switch (request.get("op").asText()) {
            case "create" -> create(topic, request.get("partitions").asInt());
            case "grow" -> grow(topic, request.get("partitions").asInt());
            case "metadata" -> metadata(topic, answer);
            case "ends" -> ends(where, answer);
            case "produce" -> produce(request, answer.putArray("placed"));
            case "read" -> read(where, request.get("from"), request.get("until").asLong(), answer.putArray("records"));
            case "join" -> join(request);
            case "poll" -> poll(request.get("ms").asLong(), answer);
            case "commit" -> member.commitSync();
            case "leave" -> member.close();
            case "admin" -> {
                try (Admin admin = admin()) {
                    Administration.administrate(admin, request, where, answer);
                }
            }
            case "init" -> init(request.get("id").asText(), request.get("timeout").asInt());
            case "begin" -> {
                producer.beginTransaction();
                readAs = member == null ? null : member.groupMetadata();
            }
            case "write" -> write(topic, request.get("records"));
            case "offsets" -> offsets(topic, request.get("positions"));
            case "end" -> end(request.get("commit").asBoolean());
            case "close" -> producer.close();
            case "throttled" -> answer.put("ms", throttled(request));
            case "committed" -> committed(where, request.get("until").asLong(), answer.putArray("values"));
            case "groups" -> groups(answer.putArray("groups"));
            case "describe" -> describe(request.get("group").asText(), answer);
            case "positions" -> positions(request.get("group").asText(), topic, answer.putArray("offsets"));
            case "reset" -> reset(request.get("group").asText(), topic, request.get("offsets"));
            case "delete" -> delete(request.get("group").asText());
            default -> throw new IllegalArgumentException("unknown operation " + request.get("op"));
        }
    }

    private Admin admin() {
        return Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    /** Without a group: partitions are assigned by hand. */
    private KafkaConsumer<byte[], byte[]> consumer() {
        return new KafkaConsumer<>(Map.of(
            "bootstrap.servers", bootstrap,
            "enable.auto.commit", false,
            "auto.offset.reset", "none",
            // A consumer that is closed waits for its last fetch.
            "fetch.max.wait.ms", "20",
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class));
    }

    private void create(String topic, int partitions) throws Exception {
        try (Admin admin = admin()) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        }
    }

    private void grow(String topic, int partitions) throws Exception {
        try (Admin admin = admin()) {
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(partitions))).all().get();
        }
    }

    private void metadata(String topic, ObjectNode answer) throws Exception {
        try (Admin admin = admin()) {
            ArrayNode topics = answer.putArray("topics");
            new TreeSet<>(admin.listTopics().names().get()).forEach(topics::add);
            ArrayNode partitions = answer.putArray("partitions");
            admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions()
                .forEach(partition -> partitions.add(partition.partition()));
            TreeMap<Integer, Node> nodes = new TreeMap<>();
            admin.describeCluster().nodes().get().forEach(node -> nodes.put(node.id(), node));
            ArrayNode brokers = answer.putArray("brokers");
            nodes.values().forEach(node -> brokers.addArray().add(node.id()).add(node.host()).add(node.port()));
        }
    }

    private void ends(TopicPartition where, ObjectNode answer) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            answer.put("earliest", consumer.beginningOffsets(List.of(where)).get(where));
            answer.put("latest", consumer.endOffsets(List.of(where)).get(where));
        }
    }

    private void produce(JsonNode request, ArrayNode placed) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", bootstrap,
            "acks", "all",
            "enable.idempotence", request.get("idempotent").asBoolean(),
            "compression.type", request.get("codec").asText(),
            "linger.ms", 20,
            "key.serializer", ByteArraySerializer.class,
            "value.serializer", ByteArraySerializer.class);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
            for (JsonNode fields : request.get("records")) {
                ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(
                    request.get("topic").asText(),
                    fields.get("partition").isNull() ? null : fields.get("partition").asInt(),
                    fields.get("timestamp").asLong(),
                    bytes(fields.get("key")),
                    bytes(fields.get("value")));
                for (JsonNode header : fields.get("headers")) {
                    record.headers().add(header.get(0).asText(), bytes(header.get(1)));
                }
                sent.add(producer.send(record));
            }
            for (Future<RecordMetadata> future : sent) {
                RecordMetadata place = future.get(TIMEOUT.toMillis(), TimeUnit.MILLISECONDS);
                placed.addArray().add(place.partition()).add(place.offset());
            }
        }
    }

    private void read(TopicPartition where, JsonNode from, long until, ArrayNode records) throws Exception {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            consumer.assign(List.of(where));
            if (from.has("offset")) {
                consumer.seek(where, from.get("offset").asLong());
            } else if (from.has("timestamp")) {
                long timestamp = from.get("timestamp").asLong();
                consumer.seek(where, consumer.offsetsForTimes(Map.of(where, timestamp)).get(where).offset());
            } else {
                consumer.seekToBeginning(List.of(where));
            }
            long deadline = System.nanoTime() + TIMEOUT.toNanos();
            while (consumer.position(where) < until) {
                if (System.nanoTime() > deadline) {
                    throw new TimeoutException(consumer.position(where) + " of " + until + " was reached");
                }
                for (ConsumerRecord<byte[], byte[]> read : consumer.poll(Duration.ofSeconds(1))) {
                    ObjectNode record = records.addObject();
                    record.put("offset", read.offset());
                    record.put("timestamp", read.timestamp());
                    record.put("key", text(read.key()));
                    record.put("value", text(read.value()));
                    ArrayNode headers = record.putArray("headers");
                    for (Header header : read.headers()) {
                        headers.addArray().add(header.key()).add(text(header.value()));
                    }
                }
            }
        }
    }

    private void join(JsonNode request) throws ReflectiveOperationException {
        Map<String, Object> settings = new TreeMap<>(Map.of(
            "bootstrap.servers", bootstrap,
            "group.id", request.get("group").asText(),
            "enable.auto.commit", false,
            "auto.offset.reset", "earliest",
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class));
        String assignor = request.get("assignor").asText();
        if (assignor.equals("uniform")) {
            // Of the broker, which says how long a session is.
            settings.putAll(Map.of("group.protocol", "consumer", "group.remote.assignor", assignor));
        } else {
            settings.putAll(Map.of(
                "partition.assignment.strategy",
                "org.apache.kafka.clients.consumer." + ASSIGNORS.get(assignor),
                "session.timeout.ms", request.path("session").asInt(SESSION_MS),
                "heartbeat.interval.ms", HEARTBEAT_MS));
        }
        if (!request.get("instance").isNull()) {
            settings.put("group.instance.id", request.get("instance").asText());
        }
        member = new KafkaConsumer<>(settings);
        String topic = request.get("topic").asText();
        ConsumerRebalanceListener listener = new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> revoked) {
                polled.removeIf(read -> revoked.contains(new TopicPartition(read.topic(), read.partition())));
            }

            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> assigned) {}
        };
        if (request.path("pattern").asBoolean()) {
            // Version 3.9 does not have it.
            Class<?> pattern = Class.forName("org.apache.kafka.clients.consumer.SubscriptionPattern");
            KafkaConsumer.class.getMethod("subscribe", pattern, ConsumerRebalanceListener.class)
                .invoke(member, pattern.getConstructor(String.class).newInstance(topic), listener);
        } else {
            member.subscribe(List.of(topic), listener);
        }
    }

    private void poll(long ms, ObjectNode answer) {
        polled.clear();
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(ms);
        for (long left = ms; left > 0; left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime())) {
            member.poll(Duration.ofMillis(left)).forEach(polled::add);
        }
        ArrayNode records = answer.putArray("records");
        polled.forEach(read -> records.addArray().add(read.partition()).add(read.offset()));
        ArrayNode assigned = answer.putArray("assigned");
        TreeSet<Integer> partitions = new TreeSet<>();
        member.assignment().forEach(where -> partitions.add(where.partition()));
        partitions.forEach(assigned::add);
    }

    private void init(String id, int timeout) {
        producer = new KafkaProducer<>(Map.of(
            "bootstrap.servers", bootstrap,
            "transactional.id", id,
            "transaction.timeout.ms", timeout,
            "key.serializer", ByteArraySerializer.class,
            "value.serializer", ByteArraySerializer.class));
        producer.initTransactions();
    }

    private void write(String topic, JsonNode records) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode record : records) {
            byte[] value = record.get(1).asText().getBytes(StandardCharsets.UTF_8);
            sent.add(producer.send(new ProducerRecord<>(topic, record.get(0).asInt(), null, value)));
        }
        for (Future<RecordMetadata> future : sent) {
            future.get(TIMEOUT.toMillis(), TimeUnit.MILLISECONDS);
        }
    }

    /** How long the broker has had a producer of this client id wait at most, as its metrics have it. */
    private double throttled(JsonNode request) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", bootstrap,
            "client.id", request.get("client").asText(),
            "key.serializer", ByteArraySerializer.class,
            "value.serializer", ByteArraySerializer.class);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
            for (int count = request.get("count").asInt(); count > 0; count--) {
                byte[] value = new byte[request.get("bytes").asInt()];
                producer.send(new ProducerRecord<>(request.get("topic").asText(), 0, null, value)).get();
            }
            return producer.metrics().entrySet().stream()
                .filter(metric -> metric.getKey().name().equals("produce-throttle-time-max"))
                .mapToDouble(metric -> (Double) metric.getValue().metricValue()).max().getAsDouble();
        }
    }

    private void offsets(String topic, JsonNode positions) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        for (JsonNode at : positions) {
            TopicPartition where = new TopicPartition(topic, at.get(0).asInt());
            offsets.put(where, new OffsetAndMetadata(at.get(1).asLong()));
        }
        producer.sendOffsetsToTransaction(offsets, readAs);
    }

    private void end(boolean commit) {
        if (commit) {
            producer.commitTransaction();
        } else {
            producer.abortTransaction();
        }
    }

    private void committed(TopicPartition where, long until, ArrayNode values) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", bootstrap,
            "enable.auto.commit", false,
            "isolation.level", "read_committed",
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class);
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
            consumer.assign(List.of(where));
            consumer.seekToBeginning(List.of(where));
            long deadline = System.nanoTime() + TIMEOUT.toNanos();
            while (consumer.position(where) < until) {
                if (System.nanoTime() > deadline) {
                    throw new TimeoutException(consumer.position(where) + " of " + until + " was reached");
                }
                for (ConsumerRecord<byte[], byte[]> read : consumer.poll(Duration.ofSeconds(1))) {
                    values.add(new String(read.value(), StandardCharsets.UTF_8));
                }
            }
        }
    }

    /** What version 4 deprecates, version 3.9 has nothing else for. */
    @SuppressWarnings({"deprecation", "removal"})
    private void groups(ArrayNode groups) throws Exception {
        try (Admin admin = admin()) {
            TreeSet<String> names = new TreeSet<>();
            admin.listConsumerGroups().all().get().forEach(group -> names.add(group.groupId()));
            names.forEach(groups::add);
        }
    }

    @SuppressWarnings({"deprecation", "removal"})
    private void describe(String group, ObjectNode answer) throws Exception {
        try (Admin admin = admin()) {
            var described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            answer.put("state", described.state().toString());
            answer.put("members", described.members().size());
            answer.put("type", described.type().toString());
            ArrayNode assigned = answer.putArray("assigned");
            for (var member : described.members()) {
                ArrayNode partitions = assigned.addArray();
                TreeSet<String> names = new TreeSet<>();
                member.assignment().topicPartitions().forEach(partition -> names.add(partition.toString()));
                names.forEach(partitions::add);
            }
        }
    }

    private void positions(String group, String topic, ArrayNode offsets) throws Exception {
        try (Admin admin = admin()) {
            TreeMap<Integer, Long> found = new TreeMap<>();
            admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().forEach((where, at) -> {
                if (where.topic().equals(topic)) {
                    found.put(where.partition(), at.offset());
                }
            });
            found.forEach((partition, offset) -> offsets.addArray().add(partition).add(offset));
        }
    }

    private void reset(String group, String topic, JsonNode offsets) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> wanted = new HashMap<>();
        for (JsonNode fields : offsets) {
            TopicPartition where = new TopicPartition(topic, fields.get(0).asInt());
            wanted.put(where, new OffsetAndMetadata(fields.get(1).asLong()));
        }
        try (Admin admin = admin()) {
            admin.alterConsumerGroupOffsets(group, wanted).all().get();
        }
    }

    private void delete(String group) throws Exception {
        try (Admin admin = admin()) {
            admin.deleteConsumerGroups(List.of(group)).all().get();
        }
    }

    private static byte[] bytes(JsonNode text) {
        return text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}
