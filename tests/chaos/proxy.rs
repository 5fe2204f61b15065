//! A TCP proxy before NATS: it can hold back what goes in either direction, or all of it a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Nothing reaches the server, or nothing comes from it. What was sent waits.
    pub out_cut: bool,
    pub in_cut: bool,
    pub delay: Duration,
}

pub struct Proxy {
    address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
}

impl Proxy {
    pub async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let fault = Arc::new(watch::Sender::new(Fault::default()));
        let shared = fault.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(join(client, server.clone(), shared.clone()));
            }
        });
        Self { address, fault }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

/// Until either end closes.
async fn join(client: TcpStream, server: String, fault: Arc<watch::Sender<Fault>>) {
    // A server that is down refuses, and the client sees its connection closed.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pass(client_in, server_out, fault.subscribe(), |fault| fault.out_cut) => {}
        () = pass(server_in, client_out, fault.subscribe(), |fault| fault.in_cut) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    is_cut: fn(&Fault) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let delay = fault.borrow().delay;
        tokio::time::sleep(delay).await;
        if fault.wait_for(|fault| !is_cut(fault)).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
