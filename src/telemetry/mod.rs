//! What clients measure of themselves and send to the broker (KIP-714).
//!
//! ```text
//! GetTelemetrySubscriptions ─► instance: which metrics, how often, under which subscription id
//! PushTelemetry ─► is it its turn? ─► decompressed, within a bound ─► OTLP walked ─► newest values kept
//!                                    └────── beside the core ────────────────┘      of what is asked for
//! ```
//!
//! | file | what |
//! |---|---|
//! | `instances.rs` | client instances, when each may ask and push (Kafka `ClientMetricsManager`) |
//! | `otlp.rs` | metrics in OpenTelemetry's protocol, read without building its messages |
//!
//! A client names its instance by an id that the broker gives it; the shard that the id belongs to keeps it,
//! whichever connection it comes by. Pure: time and random ids are arguments. Absent: plugins that pass metrics
//! on, and a history: of each series the newest value is kept.

pub mod instances;
pub mod otlp;
