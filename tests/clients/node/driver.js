// kafkajs, a request per line in and an answer per line out; ../src/driver.rs says what they look like.
//
// kafkajs assigns partitions only through consumer groups. Reading of one partition therefore goes one
// level lower, through the cluster and broker objects that its consumer is made of: their metadata,
// listOffsets and fetch, with its own decoding of batches.
'use strict'

const readline = require('readline')
const { Kafka, CompressionTypes, CompressionCodecs, Partitioners, logLevel } = require('kafkajs')
const Cluster = require('kafkajs/src/cluster')
const Batch = require('kafkajs/src/consumer/batch')
const defaultSocketFactory = require('kafkajs/src/network/socketFactory')
const { createLogger } = require('kafkajs/src/loggers')
const consoleLogger = require('kafkajs/src/loggers/console')

// kafkajs brings gzip and leaves the other codecs to its user.
const zstd = require('@mongodb-js/zstd')
const lz4 = require('lz4-napi')
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: encoder => lz4.compressFrame(encoder.buffer),
  decompress: buffer => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: encoder => zstd.compress(encoder.buffer),
  decompress: buffer => zstd.decompress(buffer),
})

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}
const TIMEOUT_MS = 30000
// A call of `send` becomes one batch per partition; a batch has to stay below max.message.bytes.
const SEND_BYTES = 100000

const brokers = [process.argv[2]]
const kafka = new Kafka({ brokers, logLevel: logLevel.WARN })

const toBytes = text => (text === null ? null : Buffer.from(text, 'base64'))
const toText = bytes => (bytes === null ? null : Buffer.from(bytes).toString('base64'))

// kafkajs keeps headers in an object, repeated names as an array.
const toHeaders = pairs => {
  const headers = {}
  for (const [name, value] of pairs) {
    headers[name] = [...(headers[name] || []), toBytes(value)]
  }
  return headers
}
const fromHeaders = headers =>
  Object.entries(headers).flatMap(([name, values]) =>
    (Array.isArray(values) ? values : [values]).map(value => [name, toText(value)])
  )

const withAdmin = async use => {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await use(admin)
  } finally {
    await admin.disconnect()
  }
}

const withLeader = async (topic, partition, use) => {
  const cluster = new Cluster({
    brokers,
    clientId: 'kafkajs',
    connectionTimeout: 5000,
    enforceRequestTimeout: true,
    socketFactory: defaultSocketFactory(),
    logger: createLogger({ level: logLevel.WARN, logCreator: consoleLogger }),
    allowAutoTopicCreation: false,
  })
  await cluster.connect()
  try {
    await cluster.addTargetTopic(topic)
    const nodeId = Object.keys(cluster.findLeaderForPartitions(topic, [partition]))[0]
    return await use(await cluster.findBroker({ nodeId }))
  } finally {
    await cluster.disconnect()
  }
}

const listOffset = async (broker, topic, partition, timestamp) => {
  const { responses } = await broker.listOffsets({
    topics: [{ topic, partitions: [{ partition, timestamp }] }],
  })
  return Number(responses[0].partitions[0].offset)
}

const EARLIEST = -2
const LATEST = -1

const operations = {
  create: ({ topic, partitions }) =>
    withAdmin(async admin => {
      await admin.createTopics({ topics: [{ topic, numPartitions: partitions, replicationFactor: 1 }] })
      return {}
    }),

  grow: ({ topic, partitions }) =>
    withAdmin(async admin => {
      await admin.createPartitions({ topicPartitions: [{ topic, count: partitions }] })
      return {}
    }),

  metadata: ({ topic }) =>
    withAdmin(async admin => {
      const topics = await admin.listTopics()
      const described = await admin.fetchTopicMetadata({ topics: [topic] })
      const cluster = await admin.describeCluster()
      return {
        topics: topics.sort(),
        partitions: described.topics[0].partitions.map(p => p.partitionId).sort((a, b) => a - b),
        brokers: cluster.brokers.map(b => [b.nodeId, b.host, b.port]).sort((a, b) => a[0] - b[0]),
      }
    }),

  ends: ({ topic, partition }) =>
    withLeader(topic, partition, async broker => ({
      earliest: await listOffset(broker, topic, partition, EARLIEST),
      latest: await listOffset(broker, topic, partition, LATEST),
    })),

  produce: async ({ topic, codec, idempotent, records }) => {
    const chosen = []
    const choose = Partitioners.DefaultPartitioner()
    const createPartitioner = () => request => {
      const partition = choose(request)
      chosen.push(partition)
      return partition
    }
    const producer = kafka.producer({ idempotent, createPartitioner })
    await producer.connect()
    const placed = []
    const send = async messages => {
      chosen.length = 0
      const answers = await producer.send({ topic, acks: -1, compression: CODECS[codec], messages })
      // The answer has one base offset per partition; records keep their order within it.
      const next = Object.fromEntries(answers.map(a => [a.partition, Number(a.baseOffset)]))
      placed.push(...chosen.map(partition => [partition, next[partition]++]))
    }
    let messages = []
    let bytes = 0
    for (const record of records) {
      const value = toBytes(record.value)
      const message = {
        key: toBytes(record.key),
        value,
        headers: toHeaders(record.headers),
        timestamp: String(record.timestamp),
      }
      if (record.partition !== null) message.partition = record.partition
      if (messages.length > 0 && bytes + (value || []).length > SEND_BYTES) {
        await send(messages)
        messages = []
        bytes = 0
      }
      messages.push(message)
      bytes += (value || []).length
    }
    await send(messages)
    await producer.disconnect()
    return { placed }
  },

  read: ({ topic, partition, from, until }) =>
    withLeader(topic, partition, async broker => {
      let offset = from.offset
      if (from === 'earliest') offset = await listOffset(broker, topic, partition, EARLIEST)
      if (from.timestamp !== undefined) {
        offset = await listOffset(broker, topic, partition, from.timestamp)
      }
      const records = []
      const deadline = Date.now() + TIMEOUT_MS
      while (offset < until) {
        if (Date.now() > deadline) throw new Error(`${offset} of ${until} was reached`)
        const { responses } = await broker.fetch({
          maxWaitTime: 1000,
          maxBytes: 4 << 20,
          topics: [{ topic, partitions: [{ partition, fetchOffset: offset, maxBytes: 2 << 20 }] }],
        })
        for (const message of responses[0].partitions[0].messages) {
          if (Number(message.offset) < offset) continue // The batch begins below what was asked for.
          offset = Number(message.offset) + 1
          records.push({
            offset: Number(message.offset),
            timestamp: Number(message.timestamp),
            key: toText(message.key),
            value: toText(message.value),
            headers: fromHeaders(message.headers),
          })
        }
      }
      return { records }
    }),
}

// A member of a group runs between the requests; what it reads and is assigned is kept here.
const SESSION_MS = 6000
const HEARTBEAT_MS = 500
const member = { consumer: null, topic: null, assigned: [], records: [], next: new Map() }

Object.assign(operations, {
  join: async ({ group, topic, session = SESSION_MS }) => {
    // It has round robin and no other assignor, and no static membership.
    const consumer = kafka.consumer({
      groupId: group,
      sessionTimeout: session,
      heartbeatInterval: HEARTBEAT_MS,
      rebalanceTimeout: TIMEOUT_MS,
    })
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      member.next.clear() // Others may have read on meanwhile.
      member.assigned = [...(payload.memberAssignment[topic] || [])].sort((a, b) => a - b)
    })
    consumer.on(consumer.events.REBALANCING, () => (member.assigned = []))
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        member.records.push([partition, Number(message.offset)])
        member.next.set(partition, String(Number(message.offset) + 1))
      },
    })
    Object.assign(member, { consumer, topic })
    return {}
  },

  poll: async ({ ms }) => {
    await new Promise(resolve => setTimeout(resolve, ms))
    return { assigned: member.assigned, records: member.records.splice(0) }
  },

  commit: async () => {
    const offsets = [...member.next].filter(([partition]) => member.assigned.includes(partition))
    await member.consumer.commitOffsets(
      offsets.map(([partition, offset]) => ({ topic: member.topic, partition, offset }))
    )
    return {}
  },

  leave: async () => {
    await member.consumer.disconnect()
    return {}
  },

  groups: () =>
    withAdmin(async admin => ({ groups: (await admin.listGroups()).groups.map(group => group.groupId).sort() })),

  describe: ({ group }) =>
    withAdmin(async admin => {
      const [described] = (await admin.describeGroups([group])).groups
      return { state: described.state, members: described.members.length }
    }),

  positions: ({ group, topic }) =>
    withAdmin(async admin => {
      const found = await admin.fetchOffsets({ groupId: group, topics: [topic] })
      const partitions = found.flatMap(({ partitions }) => partitions)
      const offsets = partitions.map(({ partition, offset }) => [partition, Number(offset)])
      return { offsets: offsets.filter(([, offset]) => offset >= 0).sort((a, b) => a[0] - b[0]) }
    }),

  reset: ({ group, topic, offsets }) =>
    withAdmin(async admin => {
      const partitions = offsets.map(([partition, offset]) => ({ partition, offset: String(offset) }))
      await admin.setOffsets({ groupId: group, topic, partitions })
      return {}
    }),

  delete: ({ group }) =>
    withAdmin(async admin => {
      await admin.deleteGroups([group]).catch(error => {
        throw error.groups ? error.groups[0].error : error
      })
      return {}
    }),
})

// Administration. kafkajs knows the replacing AlterConfigs only.
const RESOURCES = { topic: 2, broker: 4 }
const admin = {
  cluster: () =>
    withAdmin(async admin => {
      const { brokers, controller, clusterId } = await admin.describeCluster()
      return { id: clusterId, controller, brokers: brokers.map(b => b.nodeId).sort((a, b) => a - b) }
    }),

  create: ({ topic, partitions, assignments, set, validate }) =>
    withAdmin(async admin => {
      const layout =
        assignments === null
          ? { numPartitions: partitions, replicationFactor: 1 }
          : { replicaAssignment: assignments.map((replicas, partition) => ({ partition, replicas })) }
      const configEntries = Object.entries(set).map(([name, value]) => ({ name, value }))
      const request = {
        validateOnly: validate,
        waitForLeaders: !validate,
        topics: [{ topic, configEntries, ...layout }],
      }
      const isMade = await admin.createTopics(request).catch(error => {
        throw error.errors ? error.errors[0] : error
      })
      if (!isMade) throw new Error(`${topic} exists`)
      return {}
    }),

  grow: ({ topic, partitions, assignments, validate }) =>
    withAdmin(async admin => {
      const grown = { topic, count: partitions, ...(assignments && { assignments }) }
      await admin.createPartitions({ validateOnly: validate, topicPartitions: [grown] })
      return {}
    }),

  configs: ({ type, name }) =>
    withAdmin(async admin => {
      const { resources } = await admin.describeConfigs({
        includeSynonyms: true,
        resources: [{ type: RESOURCES[type], name }],
      })
      const described = resources[0].configEntries
      return {
        configs: Object.fromEntries(
          described.map(e => [e.configName, [e.configValue, e.configSource, e.readOnly]])
        ),
      }
    }),

  replace: request =>
    withAdmin(async admin => {
      const configEntries = Object.entries(request.set).map(([name, value]) => ({ name, value }))
      const resource = { type: RESOURCES[request.type], name: request.name, configEntries }
      await admin.alterConfigs({ validateOnly: request.validate, resources: [resource] })
      return {}
    }),

  offset: ({ topic, partition, of }) =>
    withAdmin(async admin => {
      const found = (await admin.fetchTopicOffsets(topic)).find(p => p.partition === partition)
      return { offset: Number(of === 'earliest' ? found.low : found.high) }
    }),

  delete_records: ({ topic, partition, before }) =>
    withAdmin(async admin => {
      // It looks for the leader before it has asked where that is.
      await admin.fetchTopicOffsets(topic)
      await admin.deleteTopicRecords({ topic, partitions: [{ partition, offset: String(before) }] })
      const found = (await admin.fetchTopicOffsets(topic)).find(p => p.partition === partition)
      return { low: Number(found.low) }
    }),

  partitions: ({ topic }) =>
    withAdmin(async admin => {
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
      return { partitions: topics[0].partitions.map(p => p.partitionId).sort((a, b) => a - b) }
    }),

  delete: ({ topic }) =>
    withAdmin(async admin => {
      await admin.deleteTopics({ topics: [topic] })
      return {}
    }),
}
operations.admin = request => admin[request.call](request)

// A transaction of a producer, from begin to end.
const transactional = { producer: null, transaction: null }

Object.assign(operations, {
  init: async ({ id, timeout }) => {
    const producer = kafka.producer({
      transactionalId: id,
      transactionTimeout: timeout,
      maxInFlightRequests: 1,
      idempotent: true,
    })
    await producer.connect()
    // It asks for its producer id with the first transaction.
    const transaction = await producer.transaction()
    await transaction.abort()
    Object.assign(transactional, { producer })
    return {}
  },

  begin: async () => {
    transactional.transaction = await transactional.producer.transaction()
    return {}
  },

  write: async ({ topic, records }) => {
    const messages = records.map(([partition, value]) => ({ partition, value }))
    await transactional.transaction.send({ topic, messages })
    return {}
  },

  offsets: async ({ group, topic, positions }) => {
    const partitions = positions.map(([partition, offset]) => ({ partition, offset: String(offset) }))
    await transactional.transaction.sendOffsets({ consumerGroupId: group, topics: [{ topic, partitions }] })
    return {}
  },

  end: async ({ commit }) => {
    const { transaction } = transactional
    await (commit ? transaction.commit() : transaction.abort())
    return {}
  },

  committed: ({ topic, partition, until }) =>
    withLeader(topic, partition, async broker => {
      const values = []
      let offset = 0
      const deadline = Date.now() + TIMEOUT_MS
      while (offset < until) {
        if (Date.now() > deadline) throw new Error(`${offset} of ${until} was reached`)
        const { responses } = await broker.fetch({
          isolationLevel: 1,
          maxWaitTime: 1000,
          maxBytes: 4 << 20,
          topics: [{ topic, partitions: [{ partition, fetchOffset: offset, maxBytes: 2 << 20 }] }],
        })
        // What its consumer does with an answer: aborted and control records are left out.
        const batch = new Batch(topic, String(offset), responses[0].partitions[0])
        values.push(...batch.messages.map(message => message.value.toString()))
        offset = Number(batch.lastOffset()) + 1
      }
      return { values }
    }),
})

const main = async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    let response
    try {
      response = await operations[request.op](request)
    } catch (error) {
      response = { error: error.stack, name: error.type || error.name }
    }
    process.stdout.write(JSON.stringify(response) + '\n')
  }
}

main()
