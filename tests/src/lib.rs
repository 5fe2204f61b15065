//! What tests of several crates share: a real `nats-server`, and a cell of real parts on it.

pub mod bare_core;
mod cell;
mod nats_server;
mod packages;
mod process;
pub mod proxy;
pub mod standbys;
pub mod waiting;

pub use cell::{Cell, Worker, bistro};
pub use nats_server::{NatsServer, copy_directory};
pub use packages::packages;
pub use process::{Process, children_of, is_running, set_disk_full, wait_until, without_xfsz};
