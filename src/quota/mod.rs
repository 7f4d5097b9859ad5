//! What clients have used of their quotas, and how long they have to wait (KIP-13, KIP-124).
//!
//! ```text
//! request, answer ─► Meters::record(kind, scope, limit) ─► how long the connection is not read
//!                         ▲                     │
//!   what others have used │                     ▼ what was used here since the last time
//!                      other shards ◄───────────┘ every tenth of a second
//! ```
//!
//! A quota holds for the node: each shard counts what its own connections use at once, and what those of other
//! shards use a tenth of a second later. By so much a quota may be exceeded, once: what comes late counts in
//! full, and is waited for then. Nothing is shared between cores but these messages, and while no quota is set
//! there are none.
//!
//! | file | what |
//! |---|---|
//! | `rate.rs` | a rate over the last windows, as Kafka counts it |
//! | `bucket.rs` | tokens for changes of the metadata, where these are decided |
//! | `meters.rs` | the rates of a shard, by who shares the limit |
//!
//! Pure: time is an argument. Which limit counts for whom is in `config::quota`. Source: Kafka
//! `ClientQuotaManager`, `Rate`, `SampledStat`, `QuotaUtils`.

pub mod bucket;
pub mod meters;
pub mod rate;
