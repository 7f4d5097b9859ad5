//! Verifying: stamped records go in, and what comes out is checked for loss, duplication, reordering,
//! alteration and invention.
//!
//! | file | what it is |
//! |---|---|
//! | `stamp` | what a stamped record looks like |
//! | `checker` | one record at a time against what must come next, pure, in bounded memory |
//! | `ledger` | what was sent and acknowledged, and the file that keeps it |
//! | `run` | producing and reading together, or one after the other |

pub mod checker;
pub mod ledger;
pub mod run;
pub mod stamp;
