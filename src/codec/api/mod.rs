//! Per API key what the library does not give: which versions are offered, Produce and Fetch
//! without copying records, and the check that makes the library's decoders safe to call.

pub mod fetch;
pub mod guard;
pub mod leader_hint;
pub mod produce;
pub mod request;
pub mod response;
mod schema;
pub mod throttle;
pub mod versions;
