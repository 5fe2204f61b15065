//! The connection to NATS keeps its word against a real server.

use nix::sys::signal::Signal;
use std::time::Duration;

use bistro_common::nats::{Address, Bus, NatsError, Patience};
use bistro_common::subject::Cell;
use bistro_tests::NatsServer;

async fn connect(server: &NatsServer, patience: Patience) -> Result<Bus, NatsError> {
    let address = Address::parse(&server.url())?;
    let cell = Cell::new("test").expect("a valid name");
    Bus::connect(&address, &cell, "tester", patience).await
}

#[tokio::test]
async fn a_message_that_nobody_takes_is_certainly_not_delivered() {
    let server = NatsServer::start();
    let bus = connect(&server, Patience::FailFast).await.unwrap();
    let answer = bus.request("nobody.here".to_owned(), vec![1], Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(NatsError::NoResponders { .. })), "{answer:?}");
}

#[tokio::test]
async fn nothing_is_parked_while_there_is_no_connection() {
    let mut server = NatsServer::start();
    let bus = connect(&server, Patience::FailFast).await.unwrap();
    let mut connections = bus.connections();
    server.kill();
    let lost = async {
        while bus.is_connected() {
            connections.changed().await.expect("the bus lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), lost).await.expect("the loss is noticed");
    let refused = bus.publish("any.where".to_owned(), vec![1]).await;
    assert!(matches!(refused, Err(NatsError::Disconnected)), "{refused:?}");
    let refused = bus.request("any.where".to_owned(), vec![1], Duration::from_secs(5)).await;
    assert!(matches!(refused, Err(NatsError::Disconnected)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_noticed_and_nothing_is_parked() {
    let server = NatsServer::start();
    let bus = connect(&server, Patience::FailFast).await.unwrap();
    let mut connections = bus.connections();
    server.signal(Signal::SIGSTOP);
    let lost = async {
        while bus.is_connected() {
            connections.changed().await.expect("the bus lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), lost).await.expect("the pings are missed");
    let refused = bus.publish("any.where".to_owned(), vec![1]).await;
    assert!(matches!(refused, Err(NatsError::Disconnected)), "{refused:?}");
    server.signal(Signal::SIGCONT);
    let back = async {
        while !bus.is_connected() {
            connections.changed().await.expect("the bus lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("it is found again");
}

#[tokio::test]
async fn a_message_larger_than_the_server_takes_is_refused_here() {
    let server = NatsServer::start();
    let bus = connect(&server, Patience::FailFast).await.unwrap();
    let refused = bus.publish("any.where".to_owned(), vec![0; 2 << 20]).await;
    assert!(matches!(refused, Err(NatsError::TooLarge { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_for_commands_and_a_wait_for_daemons() {
    let mut server = NatsServer::start();
    server.kill();
    let refused = connect(&server, Patience::FailFast).await.map(|_| ());
    assert!(matches!(refused, Err(NatsError::Connect { .. })), "{refused:?}");
    let bus = connect(&server, Patience::KeepTrying).await.unwrap();
    assert!(!bus.is_connected());
}
