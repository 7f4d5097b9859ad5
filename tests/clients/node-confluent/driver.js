// @confluentinc/kafka-javascript, a request per line in and an answer per line out; ../src/driver.rs says
// what they look like.
//
// Its newer interface, that of kafkajs on librdkafka, is driven wherever it can do what is asked. It reads
// through groups only, and makes no partitions: for these, its older one, with callbacks.
'use strict'

const readline = require('readline')
const { KafkaJS, RdKafka } = require('@confluentinc/kafka-javascript')
const { Kafka, ErrorCodes, ConsumerGroupStates, ConsumerGroupTypes } = KafkaJS

// What it logs goes to standard output otherwise, where the answers are.
for (const method of ['log', 'info', 'debug']) console[method] = console.error

const timeout = 30000 // Milliseconds; its own is five seconds.
const WARNING = 4
const common = { 'bootstrap.servers': process.argv[2], log_level: WARNING }
const kafka = new Kafka(common)

// Bytes that lie in no memory of their own are null to it.
const toBytes = text =>
  text === null ? null : text === '' ? Buffer.alloc(1).subarray(0, 0) : Buffer.from(text, 'base64')
const toText = bytes => (bytes === null ? null : bytes.toString('base64'))

// Headers are an object, repeated names an array.
const toHeaders = pairs => {
  const headers = {}
  for (const [name, value] of pairs) {
    headers[name] = [...(headers[name] || []), toBytes(value)]
  }
  return headers
}
const fromHeaders = headers =>
  (headers || []).flatMap(header => Object.entries(header).map(([name, value]) => [name, toText(value)]))

// A function that takes a callback, as a promise.
const called = use =>
  new Promise((resolve, reject) => use((error, value) => (error ? reject(error) : resolve(value))))

const withClient = async (client, use) => {
  await client.connect()
  try {
    return await use(client)
  } finally {
    await client.disconnect()
  }
}
const withAdmin = use => withClient(kafka.admin(), use)

// Of the older interface, reading one partition. librdkafka wants the name of a group even so.
const withReader = async (settings, use) => {
  const reader = new RdKafka.KafkaConsumer({
    ...common,
    'group.id': 'unused',
    'enable.auto.commit': false,
    'auto.offset.reset': 'error',
    'check.crcs': true,
    'fetch.wait.max.ms': 20, // A consumer that is closed waits for its last fetch.
    ...settings,
  })
  reader.setDefaultConsumeTimeout(100)
  await called(done => reader.connect({}, done))
  try {
    return await use(reader)
  } finally {
    await called(done => reader.disconnect(done))
  }
}

const operations = {
  create: ({ topic, partitions }) =>
    withAdmin(async admin => {
      const topics = [{ topic, numPartitions: partitions, replicationFactor: 1 }]
      if (!(await admin.createTopics({ topics, timeout }))) throw new Error(`${topic} exists`)
      return {}
    }),

  grow: async ({ topic, partitions }) => {
    const admin = RdKafka.AdminClient.create(common)
    try {
      await called(done => admin.createPartitions(topic, partitions, timeout, done))
      return {}
    } finally {
      admin.disconnect()
    }
  },

  metadata: ({ topic }) =>
    withReader({}, async reader => {
      const { brokers } = await called(done => reader.getMetadata({ timeout }, done))
      return withAdmin(async admin => {
        const [described] = await admin.fetchTopicMetadata({ topics: [topic], timeout })
        return {
          topics: (await admin.listTopics({ timeout })).sort(),
          partitions: described.partitions.map(p => p.partitionId).sort((a, b) => a - b),
          brokers: brokers.map(b => [b.id, b.host, b.port]).sort((a, b) => a[0] - b[0]),
        }
      })
    }),

  ends: ({ topic, partition }) =>
    withAdmin(async admin => {
      const found = (await admin.fetchTopicOffsets(topic, { timeout })).find(p => p.partition === partition)
      return { earliest: Number(found.low), latest: Number(found.high) }
    }),

  produce: ({ topic, codec, idempotent, records }) => {
    const settings = {
      acks: -1,
      'enable.idempotence': idempotent,
      'compression.type': codec,
      'linger.ms': 20,
      'message.timeout.ms': timeout,
    }
    return withClient(kafka.producer(settings), async producer => {
      // Of several records in one call the first one's place is told.
      const sent = records.map(record =>
        producer.send({
          topic,
          messages: [
            {
              partition: record.partition,
              timestamp: String(record.timestamp),
              key: toBytes(record.key),
              value: toBytes(record.value),
              headers: toHeaders(record.headers),
            },
          ],
        })
      )
      const placed = await Promise.all(sent)
      return { placed: placed.map(([place]) => [place.partition, Number(place.baseOffset)]) }
    })
  },

  read: ({ topic, partition, from, until }) =>
    withReader({}, async reader => {
      let offset = from === 'earliest' ? -2 : from.offset
      if (from.timestamp !== undefined) {
        const wanted = [{ topic, partition, offset: from.timestamp }]
        offset = (await called(done => reader.offsetsForTimes(wanted, timeout, done)))[0].offset
      }
      reader.assign([{ topic, partition, offset }])
      const records = []
      const deadline = Date.now() + timeout
      while (records.length === 0 || records[records.length - 1].offset + 1 < until) {
        if (Date.now() > deadline) throw new Error(`${records.length} records before ${until} were read`)
        for (const message of await called(done => reader.consume(100, done))) {
          records.push({
            offset: message.offset,
            timestamp: message.timestamp,
            key: toText(message.key),
            value: toText(message.value),
            headers: fromHeaders(message.headers),
          })
        }
      }
      return { records }
    }),
}

// A member of a group hands its batches to a function, and takes part in a rebalance only once that has
// returned. The function keeps a batch until it is asked to poll again, so that what was read and is being
// processed is still the member's, as for an application that processes in it.
const SESSION_MS = 6000
const HEARTBEAT_MS = 500

class Member {
  constructor(consumer, topic) {
    Object.assign(this, { consumer, topic, batch: null, isGiven: false, isLeaving: false })
    this.release = () => {}
    this.arrived = () => {}
  }

  async eachBatch({ batch, resolveOffset }) {
    if (this.isLeaving) return
    this.batch = batch
    const released = new Promise(resolve => (this.release = resolve))
    this.resolve = () => resolveOffset(batch.lastOffset())
    this.arrived()
    await released
  }

  // What it has at once, or what comes in that time.
  async poll(ms) {
    if (this.isGiven) {
      Object.assign(this, { batch: null, isGiven: false })
      this.release()
    }
    if (this.batch === null) {
      let timer
      await new Promise(resolve => {
        this.arrived = resolve
        timer = setTimeout(resolve, ms)
      })
      clearTimeout(timer)
    }
    if (this.batch === null) return []
    this.isGiven = true
    this.resolve()
    return this.batch.messages.map(message => [this.batch.partition, Number(message.offset)])
  }

  async leave() {
    this.isLeaving = true
    this.release()
    await this.consumer.disconnect()
  }
}

let member

Object.assign(operations, {
  join: async ({ group, topic, assignor, instance, session = SESSION_MS }) => {
    const settings = {
      'group.id': group,
      'enable.auto.commit': false,
      'auto.offset.reset': 'earliest',
      // When the broker comes back, so does it, well within its session. Its own are ten seconds.
      'reconnect.backoff.max.ms': 500,
      'js.consumer.max.batch.size': -1,
    }
    if (assignor === 'uniform') {
      // Of the broker, which says how long a session is.
      Object.assign(settings, { 'group.protocol': 'consumer', 'group.remote.assignor': assignor })
    } else {
      Object.assign(settings, {
        'partition.assignment.strategy': assignor.replace('round-robin', 'roundrobin'),
        'session.timeout.ms': session,
        'heartbeat.interval.ms': HEARTBEAT_MS,
      })
    }
    if (instance !== null) settings['group.instance.id'] = instance
    const consumer = kafka.consumer(settings)
    await consumer.connect()
    await consumer.subscribe({ topic })
    const joined = new Member(consumer, topic)
    await consumer.run({ eachBatch: payload => joined.eachBatch(payload) })
    member = joined
    return {}
  },

  poll: async ({ ms }) => {
    const records = await member.poll(ms)
    const assigned = member.consumer.assignment().map(where => where.partition)
    return { assigned: assigned.sort((a, b) => a - b), records }
  },

  commit: async () => {
    try {
      // Its own commitOffsets returns before the broker has answered.
      member.consumer._getInternalClient().commitSync()
    } catch (error) {
      // It takes it for an error that there is nothing to commit.
      if (error.code !== ErrorCodes.ERR__NO_OFFSET) throw error
    }
    return {}
  },

  leave: async () => {
    await member.leave()
    return {}
  },

  groups: () =>
    withAdmin(async admin => {
      const { groups, errors } = await admin.listGroups({ timeout })
      if (errors.length > 0) throw errors[0]
      return { groups: groups.map(group => group.groupId).sort() }
    }),

  describe: ({ group }) =>
    withAdmin(async admin => {
      const [described] = (await admin.describeGroups([group], { timeout })).groups
      if (described.error) throw described.error
      const [state] = Object.entries(ConsumerGroupStates).find(([, value]) => value === described.state)
      const [type] = Object.entries(ConsumerGroupTypes).find(([, value]) => value === described.type)
      const named = text => text.split('_').map(word => word[0] + word.slice(1).toLowerCase()).join('')
      return {
        state: named(state),
        members: described.members.length,
        type: named(type),
        assigned: described.members.map(member =>
          member.assignment.topicPartitions.map(where => `${where.topic}-${where.partition}`).sort()
        ),
      }
    }),

  positions: ({ group, topic }) =>
    withAdmin(async admin => {
      const found = await admin.fetchOffsets({ groupId: group, topics: [topic], timeout })
      const partitions = found.flatMap(({ partitions }) => partitions)
      const offsets = partitions.map(({ partition, offset }) => [partition, Number(offset)])
      return { offsets: offsets.sort((a, b) => a[0] - b[0]) }
    }),

  // It has it only so: as a consumer that is no member.
  reset: ({ group, topic, offsets }) =>
    withReader({ 'group.id': group }, async reader => {
      reader.commitSync(offsets.map(([partition, offset]) => ({ topic, partition, offset })))
      return {}
    }),

  delete: ({ group }) =>
    withAdmin(async admin => {
      await admin.deleteGroups([group], { timeout }).catch(error => {
        throw error.groups ? error.groups[0].error : error
      })
      return {}
    }),
})

// Administration: it has no call for assignments, trials, settings, elections, log directories and quotas.
const admin = {
  create: ({ topic, partitions, set }) =>
    withAdmin(async admin => {
      const configEntries = Object.entries(set).map(([name, value]) => ({ name, value }))
      const topics = [{ topic, numPartitions: partitions, replicationFactor: 1, configEntries }]
      const isMade = await admin.createTopics({ topics, timeout }).catch(error => {
        throw error.errors ? error.errors[0] : error
      })
      if (!isMade) throw new Error(`${topic} exists`)
      return {}
    }),

  offset: ({ topic, partition, of }) =>
    withAdmin(async admin => {
      const MAX_TIMESTAMP = -3
      const found =
        of === 'max-timestamp'
          ? await admin.fetchTopicOffsetsByTimestamp(topic, MAX_TIMESTAMP, { timeout })
          : await admin.fetchTopicOffsets(topic, { timeout })
      const { low, high, offset } = found.find(p => p.partition === partition)
      return { offset: Number({ earliest: low, latest: high, 'max-timestamp': offset }[of]) }
    }),

  delete_records: ({ topic, partition, before }) =>
    withAdmin(async admin => {
      const partitions = [{ partition, offset: String(before) }]
      const [deleted] = await admin.deleteTopicRecords({ topic, partitions, timeout })
      return { low: deleted.lowWatermark }
    }),

  partitions: ({ topic }) =>
    withAdmin(async admin => {
      const [described] = await admin.fetchTopicMetadata({ topics: [topic], timeout })
      return { partitions: described.partitions.map(p => p.partitionId).sort((a, b) => a - b) }
    }),

  delete: ({ topic }) =>
    withAdmin(async admin => {
      await admin.deleteTopics({ topics: [topic], timeout })
      return {}
    }),
}
operations.admin = request => admin[request.call](request)

let producer

// It waits for five seconds, after which the same call goes on where it was.
const untilInTime = async use => {
  const deadline = Date.now() + timeout
  for (;;) {
    try {
      return await use()
    } catch (error) {
      if (error.code !== ErrorCodes.ERR__TIMED_OUT || Date.now() > deadline) throw error
    }
  }
}

Object.assign(operations, {
  init: ({ id, timeout }) =>
    untilInTime(async () => {
      producer = kafka.producer({ 'transactional.id': id, 'transaction.timeout.ms': timeout, 'linger.ms': 5 })
      await producer.connect()
      return {}
    }),

  begin: async () => {
    await producer.transaction()
    return {}
  },

  write: async ({ topic, records }) => {
    await producer.send({ topic, messages: records.map(([partition, value]) => ({ partition, value })) })
    return {}
  },

  offsets: async ({ topic, positions }) => {
    const partitions = positions.map(([partition, offset]) => ({ partition, offset: String(offset) }))
    await untilInTime(() => producer.sendOffsets({ consumer: member.consumer, topics: [{ topic, partitions }] }))
    return {}
  },

  end: async ({ commit }) => {
    await untilInTime(() => (commit ? producer.commit() : producer.abort()))
    return {}
  },

  close: async () => {
    await producer.disconnect()
    return {}
  },

  committed: ({ topic, partition, until }) =>
    withReader({ 'isolation.level': 'read_committed', 'enable.partition.eof': true }, async reader => {
      const values = []
      let reached = 0
      reader.on('partition.eof', ({ offset }) => (reached = offset))
      reader.assign([{ topic, partition, offset: 0 }])
      const deadline = Date.now() + timeout
      while (reached < until) {
        if (Date.now() > deadline) throw new Error(`${values} and ${reached} of ${until} were reached`)
        const messages = await called(done => reader.consume(100, done))
        values.push(...messages.map(message => message.value.toString()))
      }
      return { values }
    }),
})

// As it calls them.
const nameOf = error => {
  const known = Object.entries(ErrorCodes).find(([, code]) => code === error.code)
  return known ? known[0] : error.name
}

const main = async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    let response
    try {
      response = await operations[request.op](request)
    } catch (error) {
      response = { error: error.stack || String(error), name: nameOf(error) }
    }
    process.stdout.write(JSON.stringify(response) + '\n')
  }
  process.exit()
}

main()
