//! `odradek-loadgen groups`: what consumer groups cost a broker.
//!
//! | module | what it does |
//! |---|---|
//! | [`member`] | joins, syncs and heartbeats of one member |
//! | [`formation`] | members that become one generation |
//! | [`load`] | heartbeats and commits of many groups, and a flushed produce beside them |
//! | [`run`] | the command: groups form, go on, a large one joins, many lie idle |

pub mod formation;
pub mod load;
pub mod member;
pub mod run;
