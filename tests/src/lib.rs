//! What tests of several crates share: a real `nats-server` of their own.

mod nats_server;

pub use nats_server::NatsServer;
