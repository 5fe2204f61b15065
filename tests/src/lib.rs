//! What tests of several crates share: a real `nats-server`, and a cell of real parts on it.

mod cell;
mod nats_server;

pub use cell::{Cell, Worker};
pub use nats_server::NatsServer;
