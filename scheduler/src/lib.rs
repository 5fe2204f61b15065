//! The scheduler's shell: it carries out what the core decides, and decides nothing itself.
//!
//! [`run`] owns one loop (`driver.rs`): heartbeats, requests, results, plans and time go into the
//! core one at a time; effects come out and are carried out in order, behind the store's commits.

mod api;
mod audit_trail;
mod bus;
mod committer;
pub mod config_files;
pub mod documents;
mod driver;
mod event_log;
pub mod grid_watch;
pub mod http;
pub mod large_pages;
mod no_room;
pub mod nodes;
pub mod original;
mod plan_watch;
pub mod simulate;
mod standby;
pub mod store;

pub use driver::{Options, SchedulerError, run};
pub use standby::Standbys;
