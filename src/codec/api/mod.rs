//! Per API key what the library does not give: which versions are offered, and Produce and Fetch
//! without copying records.

pub mod response;
pub mod versions;
