//! The worker's shell: it runs what the core admits, and decides nothing itself.
//!
//! Not here yet: the guard process that outlives a killed worker, cgroups, and the log store. Until
//! then a task's stdout and stderr are discarded, and what a killed worker leaves behind is ended
//! by its next start.

mod bus;
mod driver;
mod exec;
mod ledger;
mod leftovers;

pub use driver::{Options, WorkerError, run};
