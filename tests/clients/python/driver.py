"""The loop that every Python client shares: a request per line in, an answer per line out.

What the requests and answers look like is written in ../src/driver.rs. Bytes travel as base64; None
is a null key, value or header value, which is not the same as an empty one.
"""

import base64
import json
import sys
import traceback

# How long a client may wait for one answer or one record before the run is a failure.
TIMEOUT_S = 30


# Of members of groups: the shortest session that the broker allows by default, unless a request says otherwise.
SESSION_MS = 6000
HEARTBEAT_MS = 500


def to_bytes(text):
    return None if text is None else base64.b64decode(text)


def to_text(data):
    return None if data is None else base64.b64encode(data).decode()


def record(offset, timestamp, key, value, headers):
    """A record that was read, as the answer spells it."""
    return {
        "offset": offset,
        "timestamp": timestamp,
        "key": to_text(key),
        "value": to_text(value),
        "headers": [[name, to_text(data)] for name, data in headers or []],
    }


class Outgoing:
    """A record to be written; `partition` None leaves the choice to the client's partitioner."""

    def __init__(self, fields):
        self.partition = fields["partition"]
        self.timestamp = fields["timestamp"]
        self.key = to_bytes(fields["key"])
        self.value = to_bytes(fields["value"])
        self.headers = [(name, to_bytes(data)) for name, data in fields["headers"]]


def answer(client, request):
    global SESSION_MS
    operation = request["op"]
    if operation == "create":
        client.create(request["topic"], request["partitions"])
        return {}
    if operation == "grow":
        client.grow(request["topic"], request["partitions"])
        return {}
    if operation == "metadata":
        return client.metadata(request["topic"])
    if operation == "ends":
        earliest, latest = client.ends(request["topic"], request["partition"])
        return {"earliest": earliest, "latest": latest}
    if operation == "produce":
        records = [Outgoing(fields) for fields in request["records"]]
        placed = client.produce(request["topic"], request["codec"], request["idempotent"], records)
        return {"placed": placed}
    if operation == "read":
        start = request["from"]
        kind, at = ("earliest", None) if start == "earliest" else next(iter(start.items()))
        records = client.read(request["topic"], request["partition"], kind, at, request["until"])
        return {"records": records}
    if operation == "join":
        SESSION_MS = request.get("session", SESSION_MS)
        client.join(request["group"], request["topic"], request["assignor"], request["instance"])
        return {}
    if operation == "poll":
        assigned, records = client.poll(request["ms"])
        return {"assigned": sorted(assigned), "records": records}
    if operation == "commit":
        client.commit()
        return {}
    if operation == "leave":
        client.leave()
        return {}
    if operation == "admin":
        return getattr(client, "admin_" + request["call"])(request)
    if operation == "init":
        client.init(request["id"], request["timeout"])
        return {}
    if operation == "begin":
        client.begin()
        return {}
    if operation == "write":
        client.write(request["topic"], request["records"])
        return {}
    if operation == "offsets":
        client.offsets(request["group"], request["topic"], request["positions"])
        return {}
    if operation == "end":
        client.end(request["commit"])
        return {}
    if operation == "close":
        client.close()
        return {}
    if operation == "committed":
        return {"values": client.committed(request["topic"], request["partition"], request["until"])}
    if operation == "groups":
        return {"groups": sorted(client.groups())}
    if operation == "describe":
        return client.describe(request["group"])
    if operation == "positions":
        return {"offsets": sorted(client.positions(request["group"], request["topic"]))}
    if operation == "reset":
        client.reset(request["group"], request["topic"], request["offsets"])
        return {}
    if operation == "delete":
        client.delete(request["group"])
        return {}
    raise ValueError(f"unknown operation {operation}")


def name_of(error):
    """What the client calls it: confluent-kafka has one exception, with the error in it."""
    cause = error.args[0] if error.args else None
    return cause.name() if callable(getattr(cause, "name", None)) else type(error).__name__


def run(client):
    for line in sys.stdin:
        try:
            response = answer(client, json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it, or prints it and fails.
            response = {"error": traceback.format_exc(), "name": name_of(error)}
        print(json.dumps(response), flush=True)
