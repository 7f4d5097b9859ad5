import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigsOptions;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreatePartitionsOptions;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.DescribeTopicsOptions;
import org.apache.kafka.clients.admin.FenceProducersResult;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.QuorumInfo;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;

/** What an operator asks for, as ../src/admin.rs and ../src/operators.rs have it. */
final class Administration {
    /** The sources of settings, as the protocol numbers them. Version 3.9 does not know all. */
    private static final Map<String, Integer> SOURCES = Map.of(
        "DYNAMIC_TOPIC_CONFIG", 1,
        "DYNAMIC_BROKER_CONFIG", 2,
        "DYNAMIC_DEFAULT_BROKER_CONFIG", 3,
        "STATIC_BROKER_CONFIG", 4,
        "DEFAULT_CONFIG", 5,
        "DYNAMIC_CLIENT_METRICS_CONFIG", 7,
        "DYNAMIC_GROUP_CONFIG", 8);

    private static final Map<String, OffsetSpec> OFFSETS = Map.of(
        "earliest", OffsetSpec.earliest(),
        "latest", OffsetSpec.latest(),
        "max-timestamp", OffsetSpec.maxTimestamp(),
        "earliest-local", OffsetSpec.earliestLocal(),
        "latest-tiered", OffsetSpec.latestTiered());

    private Administration() {}

    // listClientMetricsResources: 4.1 has another call beside it, which 3.9 does not have.
    @SuppressWarnings({"deprecation", "removal"})
    static void administrate(Admin admin, JsonNode request, TopicPartition where, ObjectNode answer)
            throws Exception {
        switch (request.get("call").asText()) {
            case "cluster" -> {
                answer.put("id", admin.describeCluster().clusterId().get());
                answer.put("controller", admin.describeCluster().controller().get().id());
                ArrayNode brokers = answer.putArray("brokers");
                admin.describeCluster().nodes().get().stream().map(Node::id).sorted().forEach(brokers::add);
            }
            case "quorum" -> {
                QuorumInfo quorum = admin.describeMetadataQuorum().quorumInfo().get();
                answer.put("leader", quorum.leaderId());
                answer.put("voters", quorum.voters().size());
                answer.put("observers", quorum.observers().size());
                answer.put("lag", quorum.highWatermark() - quorum.voters().get(0).logEndOffset());
            }
            case "create" -> {
                NewTopic topic = request.get("assignments").isNull()
                    ? new NewTopic(where.topic(), request.get("partitions").asInt(), (short) 1)
                    : new NewTopic(where.topic(), assignments(request));
                Map<String, String> settings = new HashMap<>();
                request.get("set").fields().forEachRemaining(field -> settings.put(field.getKey(), field.getValue().asText()));
                CreateTopicsOptions options = new CreateTopicsOptions().validateOnly(request.get("validate").asBoolean());
                admin.createTopics(List.of(topic.configs(settings)), options).all().get();
            }
            case "grow" -> {
                int partitions = request.get("partitions").asInt();
                NewPartitions grown = request.get("assignments").isNull()
                    ? NewPartitions.increaseTo(partitions)
                    : NewPartitions.increaseTo(partitions, List.copyOf(new TreeMap<>(assignments(request)).values()));
                CreatePartitionsOptions options =
                    new CreatePartitionsOptions().validateOnly(request.get("validate").asBoolean());
                admin.createPartitions(Map.of(where.topic(), grown), options).all().get();
            }
            case "configs" -> {
                ConfigResource resource = resource(request);
                ObjectNode configs = answer.putObject("configs");
                for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
                    configs.putArray(entry.name()).add(entry.value()).add(SOURCES.get(entry.source().name()))
                        .add(entry.isReadOnly());
                }
            }
            case "explained" -> {
                ConfigResource resource = resource(request);
                DescribeConfigsOptions options =
                    new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
                ConfigEntry entry = admin.describeConfigs(List.of(resource), options).all().get().get(resource)
                    .get(request.get("setting").asText());
                ArrayNode synonyms = answer.putArray("synonyms");
                entry.synonyms().forEach(synonym -> synonyms.addArray().add(synonym.name()).add(synonym.value())
                    .add(SOURCES.get(synonym.source().name())));
                answer.put("documentation", entry.documentation());
                answer.put("type", entry.type().name());
            }
            case "alter" -> {
                List<AlterConfigOp> changes = new ArrayList<>();
                request.get("set").fields().forEachRemaining(field -> changes.add(new AlterConfigOp(
                    new ConfigEntry(field.getKey(), field.getValue().asText()), AlterConfigOp.OpType.SET)));
                alter(admin, request, changes);
            }
            case "change" -> {
                AlterConfigOp.OpType operation =
                    AlterConfigOp.OpType.valueOf(request.get("operation").asText().toUpperCase(Locale.ROOT));
                ConfigEntry entry = new ConfigEntry(request.get("setting").asText(), request.get("value").asText());
                alter(admin, request, List.of(new AlterConfigOp(entry, operation)));
            }
            case "offset" -> {
                OffsetSpec of = OFFSETS.get(request.get("of").asText());
                answer.put("offset", admin.listOffsets(Map.of(where, of)).partitionResult(where).get().offset());
            }
            case "delete_records" -> {
                RecordsToDelete records = RecordsToDelete.beforeOffset(request.get("before").asLong());
                answer.put("low", admin.deleteRecords(Map.of(where, records)).lowWatermarks().get(where).get().lowWatermark());
            }
            case "elect" -> {
                Optional<Throwable> elected =
                    admin.electLeaders(ElectionType.PREFERRED, Set.of(where)).partitions().get().get(where);
                answer.put("elected", String.valueOf(elected));
            }
            case "partitions" -> {
                DescribeTopicsOptions options = new DescribeTopicsOptions().partitionSizeLimitPerResponse(1);
                TopicCollection topics = TopicCollection.ofTopicNames(List.of(where.topic()));
                ArrayNode partitions = answer.putArray("partitions");
                admin.describeTopics(topics, options).allTopicNames().get().get(where.topic()).partitions()
                    .forEach(partition -> partitions.add(partition.partition()));
            }
            case "log_dirs" -> {
                int broker = admin.describeCluster().controller().get().id();
                Map<String, LogDirDescription> found =
                    admin.describeLogDirs(List.of(broker)).allDescriptions().get().get(broker);
                Map.Entry<String, LogDirDescription> dir = found.entrySet().iterator().next();
                answer.put("dir", dir.getKey());
                answer.put("total", dir.getValue().totalBytes().getAsLong());
                answer.put("usable", dir.getValue().usableBytes().getAsLong());
                ArrayNode sizes = answer.putArray("sizes");
                dir.getValue().replicaInfos().forEach((partition, info) -> {
                    if (partition.topic().equals(where.topic())) {
                        sizes.addArray().add(partition.partition()).add(info.size());
                    }
                });
            }
            case "client_metrics" -> {
                ArrayNode names = answer.putArray("names");
                admin.listClientMetricsResources().all().get().forEach(listing -> names.add(listing.name()));
            }
            case "reassignments" -> {
                ArrayNode partitions = answer.putArray("partitions");
                admin.listPartitionReassignments().reassignments().get().keySet()
                    .forEach(partition -> partitions.add(partition.toString()));
            }
            case "quota" -> quota(admin, request, answer.putObject("quotas"));
            case "delete" -> admin.deleteTopics(List.of(where.topic())).all().get();
            case "transactions" -> {
                ArrayNode ids = answer.putArray("ids");
                admin.listTransactions(filter(request)).all().get().stream()
                    .map(listing -> listing.transactionalId()).sorted().forEach(ids::add);
            }
            case "transaction" -> {
                String id = request.get("id").asText();
                TransactionDescription found = admin.describeTransactions(List.of(id)).description(id).get();
                answer.put("state", found.state().toString());
                answer.put("producer", found.producerId());
                answer.put("epoch", found.producerEpoch());
                answer.put("timeout", found.transactionTimeoutMs());
                answer.put("has_start", found.transactionStartTimeMs().isPresent());
                ArrayNode partitions = answer.putArray("partitions");
                TreeSet<String> names = new TreeSet<>();
                found.topicPartitions().forEach(partition -> names.add(partition.toString()));
                names.forEach(partitions::add);
            }
            case "producers" -> {
                ArrayNode producers = answer.putArray("producers");
                List<ProducerState> found = new ArrayList<>(
                    admin.describeProducers(List.of(where)).partitionResult(where).get().activeProducers());
                found.sort(Comparator.comparing(ProducerState::producerId));
                for (ProducerState state : found) {
                    OptionalLong start = state.currentTransactionStartOffset();
                    producers.addArray().add(state.producerId()).add(state.producerEpoch()).add(state.lastSequence())
                        .add(start.isPresent() ? (Long) start.getAsLong() : null);
                }
            }
            case "abort" -> admin.abortTransaction(new AbortTransactionSpec(
                where, request.get("producer").asLong(), (short) request.get("epoch").asInt(), 0)).all().get();
            case "fence" -> {
                String id = request.get("id").asText();
                FenceProducersResult fenced = admin.fenceProducers(List.of(id));
                fenced.all().get();
                answer.put("producer", fenced.producerId(id).get());
                answer.put("epoch", fenced.epochId(id).get());
            }
            case "delete_offsets" -> admin.deleteConsumerGroupOffsets(request.get("group").asText(), Set.of(where))
                .partitionResult(where).get();
            case "expel" -> admin.removeMembersFromConsumerGroup(
                request.get("group").asText(), new RemoveMembersFromConsumerGroupOptions()).all().get();
            default -> throw new IllegalArgumentException("unknown call " + request.get("call"));
        }
    }

    /** Brokers of each new partition, in their order. */
    private static Map<Integer, List<Integer>> assignments(JsonNode request) {
        Map<Integer, List<Integer>> assignments = new HashMap<>();
        for (JsonNode fields : request.get("assignments")) {
            List<Integer> brokers = new ArrayList<>();
            fields.forEach(broker -> brokers.add(broker.asInt()));
            assignments.put(assignments.size(), brokers);
        }
        return assignments;
    }

    private static void alter(Admin admin, JsonNode request, List<AlterConfigOp> changes) throws Exception {
        AlterConfigsOptions options = new AlterConfigsOptions().validateOnly(request.path("validate").asBoolean());
        admin.incrementalAlterConfigs(Map.of(resource(request), changes), options).all().get();
    }

    @SuppressWarnings("deprecation") // JsonNode.fields: the other call is not in what 3.9 comes with.
    private static void quota(Admin admin, JsonNode request, ObjectNode quotas) throws Exception {
        Map<String, String> of = new HashMap<>();
        request.get("of").fields().forEachRemaining(
            field -> of.put(field.getKey(), field.getValue().isNull() ? null : field.getValue().asText()));
        ClientQuotaEntity entity = new ClientQuotaEntity(of);
        List<ClientQuotaAlteration.Op> operations = new ArrayList<>();
        request.get("set").fields().forEachRemaining(field -> operations.add(new ClientQuotaAlteration.Op(
            field.getKey(), field.getValue().isNull() ? null : field.getValue().asDouble())));
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(entity, operations))).all().get();
        Map<String, Double> kept = admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get().get(entity);
        if (kept != null) {
            kept.forEach(quotas::put);
        }
    }

    private static ListTransactionsOptions filter(JsonNode request) throws Exception {
        ListTransactionsOptions options = new ListTransactionsOptions();
        if (request.has("state")) {
            options.filterStates(List.of(TransactionState.parse(request.get("state").asText())));
        }
        if (request.has("producer")) {
            options.filterProducerIds(List.of(request.get("producer").asLong()));
        }
        if (request.has("open_for")) {
            options.filterOnDuration(request.get("open_for").asLong());
        }
        if (request.has("pattern")) {
            // Version 3.9 does not have it.
            ListTransactionsOptions.class.getMethod("filterOnTransactionalIdPattern", String.class)
                .invoke(options, request.get("pattern").asText());
        }
        return options;
    }

    private static ConfigResource resource(JsonNode request) {
        String type = request.get("type").asText().toUpperCase(Locale.ROOT);
        return new ConfigResource(ConfigResource.Type.valueOf(type), request.get("name").asText());
    }
}
