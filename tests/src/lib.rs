//! What tests of several crates share: a real `nats-server`, and a cell of real parts on it.

mod cell;
mod nats_server;
mod process;

pub use cell::{Cell, Worker, bistro};
pub use nats_server::NatsServer;
pub use process::{Process, children_of, is_running, wait_until};
