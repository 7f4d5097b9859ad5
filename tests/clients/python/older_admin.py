"""Administration as kafka-python 2 has it, and aiokafka after it: answers are those of the protocol, whose errors are
looked at here. Neither changes single settings, or validates them only."""


class OlderAdmin:
    """For a client that has `use`, which calls what it is given with its admin, what that takes (`NewTopic`,
    `NewPartitions`, `ConfigResource`), and the module of its `errors`."""

    def check(self, code, what):
        if code != 0:
            raise self.errors.for_code(code)(what)

    def admin_cluster(self, request):
        found = self.use(lambda admin: admin.describe_cluster())
        return {
            "id": found["cluster_id"],
            "controller": found["controller_id"],
            "brokers": sorted(broker["node_id"] for broker in found["brokers"]),
        }

    def admin_create(self, request):
        brokers = request["assignments"]
        if brokers is None:
            layout = {"num_partitions": request["partitions"], "replication_factor": 1}
        else:
            assignments = dict(enumerate(brokers))
            layout = {"num_partitions": -1, "replication_factor": -1, "replica_assignments": assignments}
        topic = self.NewTopic(request["topic"], topic_configs=request["set"], **layout)
        # One of them raises the error itself.
        answer = self.use(lambda admin: admin.create_topics([topic], validate_only=request["validate"]))
        [(_, code, message)] = answer.topic_errors
        self.check(code, message)
        return {}

    def admin_grow(self, request):
        grown = {
            request["topic"]: self.NewPartitions(request["partitions"], request["assignments"]),
        }
        self.use(lambda admin: admin.create_partitions(grown, validate_only=request["validate"]))
        return {}

    def admin_configs(self, request):
        resource = self.ConfigResource(request["type"], request["name"])
        [answer] = self.use(lambda admin: admin.describe_configs([resource]))
        [(code, message, _, _, entries)] = answer.resources
        self.check(code, message)
        return {
            "configs": {name: [value, source, fixed] for name, value, fixed, source, _, _ in entries},
        }

    def admin_replace(self, request):
        resource = self.ConfigResource(request["type"], request["name"], request["set"])
        answer = self.use(lambda admin: admin.alter_configs([resource]))
        [answer] = answer if isinstance(answer, list) else [answer]
        [(code, message, _, _)] = answer.resources
        self.check(code, message)
        return {}

    def admin_offset(self, request):
        earliest, latest = self.ends(request["topic"], request["partition"])
        return {"offset": {"earliest": earliest, "latest": latest}[request["of"]]}

    def admin_partitions(self, request):
        [topic] = self.use(lambda admin: admin.describe_topics([request["topic"]]))
        self.check(topic["error_code"], request["topic"])
        return {"partitions": sorted(partition["partition"] for partition in topic["partitions"])}

    def admin_delete(self, request):
        self.use(lambda admin: admin.delete_topics([request["topic"]]))
        return {}
