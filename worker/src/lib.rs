//! The worker's shell: it runs what the core admits, and decides nothing itself.

mod bus;
pub mod capacity;
mod driver;
pub mod exec;
pub mod guard;
mod journal;
mod ledger;
pub mod logs;
mod processes;
mod responder;
mod usage;

pub use driver::{Options, WorkerError, run};
pub use guard::GuardCommand;
