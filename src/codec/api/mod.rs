//! Per API key what the library does not give: which versions are offered, and Produce and Fetch
//! without copying records.

pub mod fetch;
pub mod leader_hint;
pub mod produce;
pub mod response;
pub mod versions;
