//! The scheduler's shell: it carries out what the core decides, and decides nothing itself.
//!
//! Here so far: the [`store`] that keeps the core's records, and the node sources ([`nodes`]).

pub mod nodes;
pub mod store;
