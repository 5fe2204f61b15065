//! A TCP proxy before NATS: it counts, and can hold back what goes in either direction, or all of it
//! a while, or hang up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// How long it is held back, in either direction.
    pub out_delay: Duration,
    pub in_delay: Duration,
    /// As if there were no server: connections are closed, and new ones, too.
    pub down: bool,
}

impl Fault {
    /// What is sent to the server: is it cut off, and how long does it take?
    fn out(&self) -> (bool, Duration) {
        (self.out_cut, self.out_delay)
    }

    fn into(&self) -> (bool, Duration) {
        (self.in_cut, self.in_delay)
    }
}

pub struct Proxy {
    address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    /// Bytes that came from the server.
    received: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(server: String) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), server).await
    }

    /// The same on an address of this host.
    pub async fn start_on(address: IpAddr, server: String) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let fault = Arc::new(watch::Sender::new(Fault::default()));
        let received = Arc::new(AtomicU64::new(0));
        let (shared, count) = (fault.clone(), received.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(join(client, server.clone(), shared.clone(), count.clone()));
            }
        });
        Self { address, fault, received }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many bytes have come from the server so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Until either end closes.
async fn join(
    client: TcpStream,
    server: String,
    fault: Arc<watch::Sender<Fault>>,
    received: Arc<AtomicU64>,
) {
    let mut hung_up = fault.subscribe();
    if hung_up.borrow().down {
        return;
    }
    // A server that is down refuses, and the client sees its connection closed.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let sent = AtomicU64::new(0);
    tokio::select! {
        () = pass(client_in, server_out, fault.subscribe(), Fault::out, &sent) => {}
        () = pass(server_in, client_out, fault.subscribe(), Fault::into, &received) => {}
        _ = hung_up.wait_for(|fault| fault.down) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    of: fn(&Fault) -> (bool, Duration),
    passed: &AtomicU64,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        passed.fetch_add(count as u64, Ordering::Relaxed);
        let (_, delay) = of(&fault.borrow());
        tokio::time::sleep(delay).await;
        if fault.wait_for(|fault| !of(fault).0).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
