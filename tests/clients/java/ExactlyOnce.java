import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Transactions of the official Java client: transfers between accounts, and a pipeline that reads, processes and
 * writes, whose members use the newer group protocol. ../python/exactly_once.py says what is asked and answered;
 * ../src/exactly_once.rs asks.
 */
class ExactlyOnce {
    private static final int ACCOUNTS = 20;
    private static final int PARTITIONS = 4;
    private static final int TRANSACTION_MS = 10_000;
    private static final int REQUEST_MS = 5000;
    private static final int BATCH_MAX = 40;
    /** One call of the client, over a broker that is killed and started meanwhile. */
    private static final int CALL_MS = 40_000;

    private final ObjectMapper json = new ObjectMapper();
    private final Random random = new Random();
    private final String bootstrap;
    private final boolean transfers;
    private final String name;
    /** Of this process: another one of the same name has transactions of its own. */
    private final String life;
    private int count;
    private KafkaProducer<byte[], byte[]> producer;
    private KafkaConsumer<byte[], byte[]> member;

    private interface Body {
        void run() throws Exception;
    }

    private ExactlyOnce(String bootstrap, String role, String name) {
        this.bootstrap = bootstrap;
        this.transfers = role.equals("transfer");
        this.name = name;
        this.life = name + "." + UUID.randomUUID().toString().substring(0, 8);
    }

    public static void main(String[] arguments) throws Exception {
        ExactlyOnce worker = new ExactlyOnce(arguments[0], arguments[1], arguments[2]);
        PrintWriter out = new PrintWriter(System.out, true, StandardCharsets.UTF_8);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ObjectNode answer = worker.json.createObjectNode();
            try {
                worker.answer(worker.json.readTree(line), answer);
            } catch (Exception error) {
                StringWriter trace = new StringWriter();
                error.printStackTrace(new PrintWriter(trace));
                answer.removeAll().put("error", trace.toString());
            }
            out.println(answer);
        }
        System.exit(0); // The client has threads of its own.
    }

    private void answer(JsonNode request, ObjectNode answer) throws Exception {
        if (!request.get("op").asText().equals("work")) {
            leave();
            begin(); // Whatever was open is aborted by it.
            return;
        }
        List.of("committed", "aborted", "unknown").forEach(answer::putArray);
        long end = System.nanoTime() + request.get("ms").asLong() * 1_000_000;
        while (System.nanoTime() < end) {
            begin();
            count++;
            String transaction = life + "." + count;
            String outcome = transfers ? transfer(transaction) : copy(transaction);
            if (outcome != null) {
                answer.withArray(outcome).add(transaction);
            }
        }
    }

    /** Until there is a producer. */
    private void begin() {
        while (producer == null) {
            producer = new KafkaProducer<>(Map.of(
                "bootstrap.servers", bootstrap,
                "transactional.id", name,
                "transaction.timeout.ms", TRANSACTION_MS,
                "delivery.timeout.ms", TRANSACTION_MS,
                "request.timeout.ms", REQUEST_MS,
                "max.block.ms", CALL_MS,
                "linger.ms", 0,
                "key.serializer", ByteArraySerializer.class,
                "value.serializer", ByteArraySerializer.class));
            try {
                producer.initTransactions();
            } catch (KafkaException error) {
                lose(error);
            }
        }
    }

    private void say(Exception error) {
        System.err.println(life + ": " + error);
    }

    private void lose(Exception error) {
        say(error);
        producer.close(Duration.ZERO);
        producer = null;
    }

    /** One transaction: its outcome, as this client knows it. */
    private String transact(Body body, boolean givesUp) throws Exception {
        try {
            producer.beginTransaction();
            body.run();
            if (!givesUp) {
                commit();
                return "committed";
            }
        } catch (KafkaException error) {
            say(error);
        }
        try {
            // Refused where it is not known what became of a commit, and after whatever is fatal.
            producer.abortTransaction();
            return "aborted";
        } catch (KafkaException | IllegalStateException error) {
            lose(error);
            return "unknown";
        }
    }

    private void commit() {
        try {
            producer.commitTransaction();
        } catch (TimeoutException error) {
            say(error);
            producer.commitTransaction(); // Goes on with the same one.
        }
    }

    private void send(String topic, int partition, ObjectNode value) {
        byte[] bytes = value.toString().getBytes(StandardCharsets.UTF_8);
        producer.send(new ProducerRecord<>(topic, partition, null, bytes));
    }

    private String transfer(String transaction) throws Exception {
        int one = random.nextInt(ACCOUNTS);
        int other = (one + 1 + random.nextInt(ACCOUNTS - 1)) % ACCOUNTS;
        int amount = 1 + random.nextInt(999);
        boolean givesUp = random.nextInt(4) == 0;
        return transact(() -> {
            move(transaction, one, -amount);
            if (random.nextInt(3) == 0) {
                producer.flush();
            }
            if (!givesUp || random.nextBoolean()) {
                move(transaction, other, amount);
            }
            if (givesUp && random.nextInt(3) > 0) {
                producer.flush();
            }
        }, givesUp);
    }

    private void move(String transaction, int account, int amount) {
        ObjectNode value = json.createObjectNode();
        value.put("transaction", transaction).put("of", 2).put("account", account).put("amount", amount);
        send("accounts", account % PARTITIONS, value);
    }

    private String copy(String transaction) throws Exception {
        try {
            if (member == null) {
                member = join();
            }
            List<ConsumerRecord<byte[], byte[]>> read = new ArrayList<>();
            member.poll(Duration.ofMillis(300)).forEach(read::add);
            if (read.isEmpty()) {
                return null;
            }
            // Partitions are taken from it in polls only: these are of who read just now.
            ConsumerGroupMetadata reader = member.groupMetadata();
            boolean givesUp = random.nextInt(8) == 0;
            String outcome = transact(() -> {
                Map<TopicPartition, OffsetAndMetadata> places = new HashMap<>();
                for (ConsumerRecord<byte[], byte[]> record : read) {
                    int input = Integer.parseInt(new String(record.value(), StandardCharsets.UTF_8));
                    ObjectNode value = json.createObjectNode();
                    value.put("transaction", transaction).put("input", input).put("of", read.size());
                    send("outputs", input % PARTITIONS, value);
                    TopicPartition where = new TopicPartition(record.topic(), record.partition());
                    places.put(where, new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(places, reader);
                if (givesUp) {
                    producer.flush();
                }
            }, givesUp);
            if (!outcome.equals("committed")) {
                begin(); // What is committed is not known before the last of its transactions has ended.
                rewind();
            }
            return outcome;
        } catch (KafkaException error) {
            say(error);
            leave();
            return null;
        }
    }

    private KafkaConsumer<byte[], byte[]> join() {
        KafkaConsumer<byte[], byte[]> joined = new KafkaConsumer<>(Map.of(
            "bootstrap.servers", bootstrap,
            "group.id", "pipeline",
            "group.protocol", "consumer",
            "enable.auto.commit", false,
            "auto.offset.reset", "earliest",
            "isolation.level", "read_committed",
            "max.poll.records", BATCH_MAX,
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class));
        // With a listener partitions are let go in polls; without one behind them.
        joined.subscribe(List.of("inputs"), new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> revoked) {}

            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> assigned) {}
        });
        return joined;
    }

    /** What was read is read again, but for what was committed all the same. */
    private void rewind() {
        Set<TopicPartition> assigned = member.assignment();
        member.committed(assigned, Duration.ofMillis(CALL_MS)).forEach((where, at) -> {
            if (at == null) {
                member.seekToBeginning(List.of(where));
            } else {
                member.seek(where, at.offset());
            }
        });
    }

    // close: 4.1 has another call beside it, which 3.9 does not have.
    @SuppressWarnings({"deprecation", "removal"})
    private void leave() {
        KafkaConsumer<byte[], byte[]> left = member;
        member = null;
        if (left != null) {
            try {
                left.close(Duration.ofSeconds(2));
            } catch (KafkaException error) {
                say(error); // Its session ends all the same.
            }
        }
    }
}
