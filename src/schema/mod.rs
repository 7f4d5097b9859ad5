//! Code generated from `schemas/*.fbs` by `schemas/generate`. Never edited by hand.
//!
//! It reads and writes bytes; what they mean is decided by the modules that own the records
//! (`cluster::encoding`, `cluster::quorum`, `codec::replication`, `codec::control`, `codec::transactions`). Bytes from
//! disk or a peer pass the verifier there before any accessor.

#[rustfmt::skip]
macro_rules! generated {
    ($name:ident) => {
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
        mod $name;
    };
}

generated!(control_generated);
generated!(metadata_generated);
generated!(quorum_generated);
generated!(replication_generated);
generated!(transactions_generated);

pub use control_generated::control;
pub use metadata_generated::metadata;
pub use quorum_generated::quorum;
pub use replication_generated::replication;
pub use transactions_generated::transactions;
