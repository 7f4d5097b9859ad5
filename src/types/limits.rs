//! Every bound of the broker, in one place.
//!
//! A constant says its unit and how it was chosen. What an operator may change has its default in
//! `config`; what stands here is the most that any configuration can ask for, or a size that the
//! layout of buffers depends on.

use std::time::Duration;

/// Bytes. Every direct read and write is a multiple of this at a multiple of this; the largest
/// sector size among the file systems and devices we support.
pub const IO_ALIGNMENT: usize = 4096;

/// Bytes of one direct write. Larger ones gain nothing and hold up what waits behind them.
pub const IO_SIZE_MAX: usize = 1 << 20;

/// Bytes of one shard that reads for consumers behind the tail may have in flight while it has no commits: as many as keep a disk busy.
pub const CATCH_UP_IN_FLIGHT_MAX: usize = 8 << 20;

/// The same beside its commits. A disk serves in turn what its queue holds, so a write
/// waits for what is in flight before it, and its flush once more: 8 MiB are 7 ms each at 1.2 GB/s. Writes of
/// 20 KiB with a flush each, 1,000 per second, beside random reads on such a disk (fio; write / flush):
///
/// | in flight | reads, MB/s | p50, ms | p99, ms |
/// |---|---|---|---|
/// | nothing | 0 | 0.1 / 0.1 | 0.15 / 0.2 |
/// | 1 of 128 KiB | 867 | 0.15 / 0.15 | 0.25 / 0.4 |
/// | 2 of 128 KiB | 1,216 | 0.2 / 0.2 | 0.3 / 0.6 |
/// | 4 of 128 KiB | 1,131 | 0.4 / 0.4 | 0.7 / 1.3 |
/// | 1 of 1 MiB | 1,192 | 0.1 / 0.8 | 0.9 / 1.0 |
/// | 2 of 1 MiB | 1,276 | 0.8 / 1.5 | 7.0 / 6.7 |
/// | 8 of 1 MiB | 1,471 | 14 / 15 | 21 / 25 |
///
/// One it is. With two the readers of `catch-up` get 1.1 instead of 0.7 GB/s, and its producers' p99 is 2.0 to
/// 2.4 times what it is alone instead of 1.7 to 1.9.
pub const CATCH_UP_BESIDE_COMMITS_MAX: usize = 128 << 10;

/// How long after a commit the next one is expected.
pub const COMMIT_EXPECTED: Duration = Duration::from_secs(1);

/// Bytes that one fetch reads from disk before the next one has its turn; a single batch may be larger.
pub const CATCH_UP_TURN_SIZE_MAX: usize = 8 << 20;

/// Places where readers of one partition stopped that are remembered: a consumer goes on where it was.
pub const READ_CURSORS_MAX: usize = 16;

/// Bytes of the length in front of every frame.
pub const FRAME_PREFIX_SIZE: usize = 4;

/// Bytes of one receive buffer. Many requests per read; still inside a core's L2 cache.
pub const RECEIVE_BUFFER_SIZE: usize = 256 << 10;

/// Receive buffers that a shard keeps for reuse; each read takes one.
pub const RECEIVE_BUFFERS_KEPT: usize = 8;

/// Bytes. A smaller read from a socket goes through a buffer of the runtime's own, and may still be under
/// way when it is looked at again; no read that may be resumed with more room is that small.
pub const SOCKET_READ_SIZE_MIN: usize = 8 << 10;

/// Larger ones kept for reuse: bytes of one part of so many of its receive memory, beyond that memory, and no
/// more than the next.
pub const RECEIVE_SPARES_SHARE: usize = 16;

/// Bytes. A core finishes a few requests of 1 MB at a time, whatever its memory is.
pub const RECEIVE_SPARES_SIZE_MAX: usize = 16 << 20;

/// One part of so many of a shard's receive memory is left to first buffers by large requests, so that small
/// ones are received whatever they hold, and by first buffers to the large request nearest to its end.
pub const RECEIVE_RESERVE_SHARE: usize = 8;

/// How long a request that is larger than a receive buffer waits for more memory while no other one comes
/// to its end. Longer than [`RECEIVE_STEP_TIME_MAX`], so that slow ones go first.
pub const RECEIVE_GROW_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a request may take to fill the memory that it was given, while others wait for some. A client
/// that sends needs milliseconds between two reads; the longest pauses of a healthy network stay below.
pub const RECEIVE_STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// Between two looks of a waiting connection for some that hold receive memory and do not use it.
pub const RECEIVE_RELIEF_INTERVAL: Duration = Duration::from_millis(500);

/// Between two such looks of a shard: each goes over all of its connections.
pub const RECEIVE_RELIEF_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of one tail buffer: the largest piece of a partition's newest records that is kept
/// together, written together and dropped together.
pub const TAIL_BUFFER_SIZE_MAX: usize = 1 << 20;

/// Bytes of a partition's first tail buffer. Those of the next go by what the last write to its segment had, up to
/// [`TAIL_BUFFER_SIZE_MAX`], and double what is there beyond that, so that ten thousand quiet partitions stay small.
pub const TAIL_BUFFER_SIZE_MIN: usize = 16 << 10;

/// Requests of one connection that were read and not yet answered. Kafka clients have at most 5
/// to 100 in flight; load generators more.
pub const CONNECTION_REQUESTS_MAX: usize = 1024;

/// Bytes of one connection's requests that were read and not yet answered. A connection past it
/// is not read until answers have left.
pub const CONNECTION_INFLIGHT_BYTES_MAX: usize = 64 << 20;

/// Bytes of answers waiting for one connection's socket. A client that does not read is not
/// served further.
pub const CONNECTION_RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Bytes of answers that a connection may have under way however short memory is, those of records in a
/// fetch among them: a thousand readers that take nothing hold a quarter of a gigabyte, those that do
/// still read at full speed.
pub const RESPONSE_SIZE_FLOOR: usize = 256 << 10;

/// Bytes. A piece of the newest records that is smaller, and less than one part of
/// [`TAIL_PIECE_SHARE_MIN`] of its tail buffer, is copied into an answer, so that an answer keeps little of the
/// tail beyond what it counts. Some 2 µs; consumers that keep up with a busy partition get larger pieces.
pub const TAIL_PIECE_SIZE_MIN: usize = 32 << 10;

/// See [`TAIL_PIECE_SIZE_MIN`].
pub const TAIL_PIECE_SHARE_MIN: usize = 8;

/// One part of so many of a shard's memory for answers is the most that one fetch may ask for, beyond the one
/// batch that it always gets: one client does not make the answers of all others small.
pub const RESPONSE_SHARE: usize = 8;

/// How long a client may leave more than [`RESPONSE_SIZE_FLOOR`] untaken while memory for answers is short, and
/// for how long it has to be: a consumer that works on what it has does not read its socket meanwhile.
pub const RESPONSE_TAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Fetch requests of one shard that wait for data or their deadline.
pub const PARKED_FETCHES_MAX: usize = 65_536;

/// How long a fetch waits for data while its connection is not read because of what is in flight: as long as
/// consumers let one wait by default (Kafka `fetch.max.wait.ms`), so that most do not notice.
pub const PARKED_AHEAD_TIME_MAX: Duration = Duration::from_millis(500);

/// Messages in the queue from one shard to another. `try_send` fails past it and the sender parks.
pub const MESH_QUEUE_LENGTH: usize = 1024;

/// Incremental fetch sessions of one shard (Kafka `max.incremental.fetch.session.cache.slots`).
pub const FETCH_SESSIONS_MAX: usize = 1000;

/// Partitions in all fetch sessions of one shard together. One takes some 200 bytes, twice that with the
/// longest names; a thousand consumers of a hundred partitions each find room.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 100_000;

/// Bytes of one write to a socket: what it copies holds the core, some 0.1 ms.
pub const SOCKET_WRITE_SIZE_MAX: usize = 1 << 20;

/// The same of bytes that were read from disk, whose reader is never in a hurry.
pub const SOCKET_WRITE_SIZE_COLD: usize = 256 << 10;

/// How long a stop waits for a client that has its answers to notice the end of its connection.
pub const STOP_LINGER_MAX: Duration = Duration::from_secs(1);

/// Slices of one vectored write to a socket (Linux `UIO_MAXIOV` is 1024).
pub const SOCKET_SLICES_MAX: usize = 512;

/// Cores of one node: broker ids are node id × 1000 + shard.
pub const SHARDS_MAX: usize = 999;

/// Log directories of one node. Each has a journal, buffers and a flush of its own on every core; servers
/// hold some dozens of disks.
pub const LOG_DIRS_MAX: usize = 100;

/// Topics, partitions and other elements of all arrays of one request. Each may take a hundred
/// bytes once decoded, from as little as three on the wire, so this bounds a request's memory to
/// 30 MB beside its own bytes (measured). No single client uses a quarter of a million partitions.
pub const REQUEST_ELEMENTS_MAX: usize = 1 << 18;

/// Bytes that one of them is counted with while its request is served: the largest structure of a request.
pub const REQUEST_ELEMENT_SIZE: usize = 128;

/// The same of a tagged field, with its map.
pub const REQUEST_TAGGED_FIELD_SIZE: usize = 1 << 10;

/// Bytes of a decoded request that is served however much memory others take, if its connection has no
/// other: a client that asks for a little is never held up by those that ask for much.
pub const REQUEST_MEMORY_FLOOR: usize = 64 << 10;

/// Tagged fields of one request. Those we do not know are kept in a map of half a kilobyte per
/// structure; no client in use sends any in the versions we serve.
pub const REQUEST_TAGGED_FIELDS_MAX: usize = 1 << 10;

/// Partitions of one topic in one request; past it the request is refused, as no answer of that
/// size could be sent.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 100_000;

/// Partitions of the cluster. Every shard holds the whole image, some 150 bytes per partition.
pub const PARTITIONS_MAX: usize = 1_000_000;

/// Records of one entry of the metadata log: one change of the cluster, which is applied in one
/// turn of every shard. Two topics of the most partitions fit.
pub const METADATA_RECORDS_PER_ENTRY_MAX: usize = 250_000;

/// Bytes of one entry of the metadata log; a longer length in a header is damage.
pub const METADATA_ENTRY_SIZE_MAX: usize = 64 << 20;

/// Bytes of the records of one proposal to the metadata quorum: a frame of its log holds one, and what a leader
/// sends along with it.
pub const QUORUM_RECORDS_SIZE_MAX: usize = METADATA_ENTRY_SIZE_MAX - (4 << 20);

/// Proposals to the metadata quorum that wait for their outcome; past it more are refused.
pub const QUORUM_PROPOSALS_MAX: usize = 1024;

/// Voters of the metadata quorum: five, and two on their way in or out.
pub const QUORUM_VOTERS_MAX: usize = 7;

/// Voters and observers of the metadata quorum.
pub const QUORUM_MEMBERS_MAX: usize = 1024;

/// Characters of a topic name (Kafka `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_LENGTH_MAX: usize = 249;

/// Segments and directories of one shard that wait for their removal; past it the first of them go
/// before their time. Each holds its disk space and some hundred bytes of memory.
pub const REMOVALS_WAITING_MAX: usize = 10_000;

/// Segment files that one shard keeps open. Each takes a descriptor and some kernel memory; opening one
/// again costs tens of microseconds.
pub const OPEN_FILES_MAX: usize = 16_384;

/// The fewest that a shard may be given: a task may hold a few at a time.
pub const OPEN_FILES_MIN: usize = 16;

/// Batches remembered of each idempotent producer (Kafka `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const PRODUCER_BATCHES_RETAINED: usize = 5;

/// Idempotent producers remembered by one partition; the least recently used is forgotten past it.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 100_000;

/// Transactions that may be open in one partition: a producer with one is never forgotten.
pub const TRANSACTIONS_PER_PARTITION_MAX: usize = 10_000;

/// Transactions of one partition that their coordinator is being asked about; past it the question that is
/// oldest is forgotten, and its batch refused.
pub const VERIFICATIONS_PER_PARTITION_MAX: usize = 1_000;

/// Transactional ids of one partition of `__transaction_state`; past it no new one is taken.
pub const TRANSACTIONAL_IDS_PER_COORDINATOR_MAX: usize = 100_000;

/// Bytes that the transactional ids of one partition of `__transaction_state` may hold, the partitions of their
/// transactions among them; past it nothing is added, and what is there goes on.
pub const TRANSACTIONS_SIZE_MAX: usize = 128 << 20;

/// Bytes that a transactional id takes beside its name and the partitions of its transaction.
pub const TRANSACTION_ENTRY_SIZE: usize = 300;

/// Requests that add partitions to one transaction and wait for what is on its way.
pub const TRANSACTION_ADDITIONS_WAITING_MAX: usize = 1000;

/// How long they wait before the producer is told to come again (Kafka waits as long, asking again and again:
/// `add.partitions.to.txn.retry.backoff.max.ms`).
pub const TRANSACTION_ADDITION_TIME_MAX: Duration = Duration::from_millis(100);

/// How long until markers that could not be written are tried again: from the first to the last.
pub const MARKER_RETRY_TIMES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long another node may take to write markers; they are tried again after it.
pub const MARKER_ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a transaction's coordinator on another node may take to confirm a partition; the producer comes again
/// after it.
pub const VERIFICATION_ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Producers that one core describes in one answer, some 60 bytes each.
pub const PRODUCERS_DESCRIBED_MAX: usize = 200_000;

/// Aborted transactions that one segment lists, 32 bytes each in memory for the active one; it is rolled past
/// it.
pub const ABORTED_PER_SEGMENT_MAX: usize = 32 << 10;

/// Bytes that the records of one batch may expand to where the broker has to look into them: as many
/// as the largest batch that any producer in use makes, many times over.
pub const DECOMPRESSED_SIZE_MAX: usize = 64 << 20;

/// Records of one refused batch that the answer names (KIP-467); all of them could be ten times its size.
pub const RECORD_ERRORS_MAX: usize = 100;

/// Bytes of one shard's map of keys while it compacts a log; what does not fit takes another pass
/// (Kafka `log.cleaner.dedupe.buffer.size`, over all its threads). Some 5 million keys.
pub const OFFSET_MAP_SIZE_MAX: usize = 128 << 20;

/// Bytes of the smallest such map, so that a pass always gets on.
pub const OFFSET_MAP_SIZE_MIN: usize = 64 << 10;

/// Bytes that compaction reads at once; more only where one batch is larger.
pub const COMPACTION_READ_SIZE: usize = 256 << 10;

/// Members of one classic group, those that have only been given an id among them, whatever `group.max.size`
/// says. What a rebalance does for each takes a few microseconds.
pub const GROUP_MEMBERS_MAX: usize = 10_000;

/// Ways to assign partitions that one member may offer; clients offer one to three.
pub const GROUP_PROTOCOLS_MAX: usize = 100;

/// Bytes of a group's id. It is in every record and every deadline of the group; the wire would allow 32 KiB,
/// names in use have some dozen.
pub const GROUP_ID_SIZE_MAX: usize = 1024;

/// Bytes of the client id at the beginning of a member's id, which has to fit a string of the wire together with
/// what makes it unique.
pub const GROUP_MEMBER_NAME_SIZE_MAX: usize = 255;

/// Bytes of a static member's instance id (Kafka `JoinGroupRequest.MAX_GROUP_INSTANCE_ID_LENGTH`; clients allow
/// ASCII only).
pub const GROUP_INSTANCE_ID_SIZE_MAX: usize = 249;

/// Bytes of one batch of a coordinator, whatever its topic allows: encoding it holds the core.
pub const GROUP_BATCH_SIZE_MAX: usize = 64 << 20;

/// Members, topics and partitions that are looked at in one step when a group of the newer protocol aims at
/// something else: some 0.2 ms. What is more takes several, with others in between.
pub const GROUP_AIMING_AT_ONCE_MAX: usize = 2000;

/// The same of each of several steps.
pub const GROUP_WORK_STEP: usize = 1000;

/// Offsets of a transaction that are decided in one step when it ends: some 2 µs each.
pub const GROUP_TRANSACTION_AT_ONCE_MAX: usize = 100;

/// Regular expressions of one shard that are kept compiled: of the usual kind some 10 KB each, of any kind 8 MB
/// together but for what matching adds.
pub const GROUP_PATTERNS_MAX: usize = 64;

/// Bytes of a batch that `__consumer_offsets` is made to take, unless topics take more by default: what is to be
/// kept of a group is kept together or not at all. A hundred thousand partitions that are given to ten thousand
/// members take some 5 MB.
pub const GROUP_TOPIC_BATCH_SIZE: usize = 16 << 20;

/// Bytes that one member may say of itself. All that is kept of a group has to fit one batch.
pub const GROUP_MEMBER_SIZE_MAX: usize = 1 << 20;

/// Groups of one partition of `__consumer_offsets`. One takes some 500 bytes, its members and offsets apart.
pub const GROUPS_PER_COORDINATOR_MAX: usize = 100_000;

/// Committed offsets of one group. One takes some 100 bytes.
pub const GROUP_OFFSETS_MAX: usize = 1_000_000;

/// Bytes that the groups of one partition of `__consumer_offsets` may hold: what members say of themselves and
/// are assigned, ids that were given out, committed offsets with their metadata. A million offsets fit, or ten
/// thousand members of 10 KB; past it what needs more is refused, and what is there goes on.
pub const GROUPS_SIZE_MAX: usize = 128 << 20;

/// Bytes that a member, an id that was given out, an offset or a topic takes beside its strings.
pub const GROUP_ENTRY_SIZE: usize = 100;

/// Deletions of one batch of a coordinator, and their bytes: the topic may allow as little.
pub const GROUP_REMOVAL_RECORDS_MAX: usize = 500;

/// See [`GROUP_REMOVAL_RECORDS_MAX`].
pub const GROUP_REMOVAL_SIZE_MAX: usize = 256 << 10;

/// Groups of one DeleteGroups request that are being deleted at a time, each with a write of its own.
pub const GROUP_DELETIONS_MAX: usize = 100;

/// Requests of one partition of `__consumer_offsets` that wait for a group to be taken away, or for that.
pub const GROUP_DEFERRED_MAX: usize = 1000;

/// Bytes of a regular expression that a group subscribes by; names of topics have 249.
pub const GROUP_REGEX_SIZE_MAX: usize = 4096;

/// Bytes that one takes once compiled. Compiling takes some milliseconds for each 256 KiB in the worst case.
pub const GROUP_REGEX_COMPILED_SIZE_MAX: usize = 128 << 10;

/// Names of topics that regular expressions are held against while a heartbeat waits, those of each expression
/// counted; of more of them the shell looks at a few at a time. One takes some 100 ns.
pub const GROUP_REGEX_TOPICS_AT_ONCE_MAX: usize = 1000;

/// Regular expressions that are compiled while a heartbeat waits: some 100 µs each, of the usual kind.
pub const GROUP_REGEXES_AT_ONCE_MAX: usize = 4;

/// Bytes of names that regular expressions of one group match, after which the group takes what was found before
/// more are held against the topics. The first one may match any of them.
pub const GROUP_REGEX_RESOLVED_SIZE_MAX: usize = 4 << 20;

/// How often the regular expressions of one group are held against topics that change all the time.
pub const GROUP_REGEX_INTERVAL: Duration = Duration::from_secs(1);

/// How soon a coordinator tries again to take out a member, when it could not.
pub const GROUP_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Deadlines of groups that are looked at before others run: some microseconds each.
pub const GROUP_TIMERS_PER_STEP: usize = 100;

/// How long a group at least waits for static members that are all away, whatever they say: they may say zero.
pub const GROUP_REJOIN_TIME_MIN: Duration = Duration::from_secs(1);

/// How long a new member waits for its first answer, after which it is taken for gone (Kafka
/// `GroupCoordinatorConfig.CLASSIC_GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS`).
pub const GROUP_NEW_MEMBER_TIME_MAX: Duration = Duration::from_secs(300);

/// Bytes of a client's id, and of its software's name and version, that are kept with each of its connections.
/// Ids in use have some dozen; the wire would allow 32 KiB.
pub const CLIENT_TEXT_SIZE_MAX: usize = 512;

/// Entities with client quotas; every shard holds them all, some 200 bytes each.
pub const CLIENT_QUOTA_ENTITIES_MAX: usize = 100_000;

/// Bytes of a user's name or a client id that a quota may name.
pub const QUOTA_NAME_SIZE_MAX: usize = 1024;

/// Subscriptions to clients' metrics: each is held against every client that asks.
pub const CLIENT_METRICS_SUBSCRIPTIONS_MAX: usize = 1000;

/// Groups that have settings of their own; every shard holds them all, some 300 bytes each and their names.
pub const GROUP_CONFIGS_MAX: usize = 10_000;

/// Client instances of one shard whose metrics are kept (Kafka has 16,384 of one broker).
pub const TELEMETRY_INSTANCES_MAX: usize = 4096;

/// Series of one instance: a client that reads a thousand partitions has some thousands.
pub const TELEMETRY_SERIES_MAX: usize = 2000;

/// Bytes of one series: its name, its attributes, and what each of these takes beside its text.
pub const TELEMETRY_SERIES_SIZE_MAX: usize = 1024;

/// Bytes of all series of one shard: a hundred of clients with a thousand partitions, or a thousand of others.
/// Past it new series are not kept.
pub const TELEMETRY_SIZE_MAX: usize = 32 << 20;

/// Instances that are shown of one connection.
pub const TELEMETRY_INSTANCES_SHOWN_MAX: usize = 4;

/// Bytes that pushed metrics may expand to, unless more may be pushed as it is: some tens of thousands of series.
pub const TELEMETRY_DECOMPRESSED_SIZE_MAX: usize = 2 << 20;

const _: () = assert!(SOCKET_READ_SIZE_MIN * 4 <= RECEIVE_BUFFER_SIZE);
const _: () = assert!(RECEIVE_GROW_WAIT_MAX.as_millis() > RECEIVE_STEP_TIME_MAX.as_millis());
const _: () = assert!(OFFSET_MAP_SIZE_MIN <= OFFSET_MAP_SIZE_MAX);
const _: () = assert!(COMPACTION_READ_SIZE.is_multiple_of(IO_ALIGNMENT));
const _: () = assert!(COMPACTION_READ_SIZE <= IO_SIZE_MAX);
const _: () = assert!(IO_SIZE_MAX.is_multiple_of(IO_ALIGNMENT));
const _: () = assert!(GROUP_INSTANCE_ID_SIZE_MAX <= GROUP_MEMBER_NAME_SIZE_MAX);
const _: () = assert!(TAIL_BUFFER_SIZE_MIN.is_multiple_of(IO_ALIGNMENT));
const _: () = assert!(TAIL_BUFFER_SIZE_MAX.is_multiple_of(IO_ALIGNMENT));
const _: () = assert!(TRANSACTIONS_PER_PARTITION_MAX < PRODUCERS_PER_PARTITION_MAX);
const _: () = assert!(PRODUCERS_PER_PARTITION_MAX <= PRODUCERS_DESCRIBED_MAX);

/// Leader epochs that a follower states of its log, newest first to go (KIP-101). A log has one per change of its
/// leader that is left in it; where these do not suffice, it states again.
pub const STATED_EPOCHS_MAX: usize = 64;

/// Bytes of a frame between nodes before its payload: as much as an entry of the metadata log.
pub const PEER_TABLE_SIZE_MAX: usize = 1 << 20;

/// Bytes of the record batches in one frame between nodes: one batch of the largest size that a topic may allow
/// has room, and what a flush covers.
pub const PEER_PAYLOAD_SIZE_MAX: usize = 128 << 20;

/// Bytes of record batches on their way to one shard that follows, not flushed there yet.
pub const REPLICATION_WINDOW_SIZE: u64 = 32 << 20;

/// Bytes of record batches from which a frame to a follower takes no more.
pub const REPLICATION_FRAME_SIZE: usize = 1 << 20;

/// Partitions in one frame between nodes.
pub const PEER_PARTITIONS_MAX: usize = 4096;
