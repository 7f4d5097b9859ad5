//! Code generated from `schemas/*.fbs` by `schemas/generate`. Never edited by hand.
//!
//! It reads and writes bytes; what they mean is decided by the modules that own the records
//! (`cluster::encoding`, `cluster::quorum`). Bytes from disk or a peer pass the verifier there before any accessor.

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    deprecated,
    mismatched_lifetime_syntaxes,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
#[rustfmt::skip]
mod metadata_generated;

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    deprecated,
    mismatched_lifetime_syntaxes,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
#[rustfmt::skip]
mod quorum_generated;

pub use metadata_generated::metadata;
pub use quorum_generated::quorum;
