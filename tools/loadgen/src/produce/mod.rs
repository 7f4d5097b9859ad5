//! Producing: a closed loop at full speed or an open loop at a constant rate, over many connections.
//!
//! | file | what it is |
//! |---|---|
//! | `run` | a whole run: leaders, connections, threads, result |
//! | `worker` | one connection's pipeline |
//! | `partition`, `pacing` | its decisions, pure |
//! | `transaction` | its transactions, with `--transactional-id` |
//! | `message` | Produce on the wire |

pub mod message;
pub mod pacing;
pub mod partition;
pub mod run;
pub mod transaction;
pub mod worker;
