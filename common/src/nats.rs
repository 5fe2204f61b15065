//! How every role connects to NATS, and the guard that keeps it honest.
//!
//! async-nats queues what is published while disconnected and sends it minutes later. For our
//! messages that is worse than not sending them, so [`Bus`] refuses instead while there is no
//! connection. It never waits without a limit.

use async_nats::connection::State;
use async_nats::{
    Client, ConnectOptions, Event, RequestErrorKind, ServerAddr, ServerError, StatusCode,
};
use futures_util::StreamExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

use crate::subject::Cell;

/// A dead link is noticed at the third unanswered ping, after about 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The limit for everything that has no limit of its own.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long a new connection may take to be in force.
const STATE_TIMEOUT: Duration = Duration::from_millis(100);

/// The first attempts to reconnect follow quickly, later ones every second, with jitter.
const RECONNECT_DELAY_MS_MAX: u64 = 1_000;

/// Why NATS could not be reached or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    #[error("{url:?} is not a NATS address; expected nats://[USER:PASSWORD@]HOST:PORT[,...]")]
    Address { url: String },
    #[error("cannot reach NATS at {servers}")]
    Connect {
        servers: String,
        #[source]
        source: async_nats::ConnectError,
    },
    #[error("not connected to NATS")]
    Disconnected,
    /// Certainly not delivered.
    #[error("nobody answers on {subject}")]
    NoResponders { subject: String },
    /// Delivered or not: nobody knows.
    #[error("no answer on {subject} in time")]
    TimedOut { subject: String },
    /// Certainly not delivered: the server does not let this identity publish there.
    #[error("NATS does not let this user publish to {subject}")]
    Denied { subject: String },
    #[error("the message for {subject} has {bytes} bytes, more than the server takes")]
    TooLarge { subject: String, bytes: usize },
    #[error("NATS failed on {subject}: {detail}")]
    Other { subject: String, detail: String },
}

/// A parsed address list. Its credentials are kept apart, so that they reach no log.
#[derive(Clone)]
pub struct Address {
    servers: Vec<ServerAddr>,
    credentials: Option<(String, String)>,
}

impl Address {
    /// `nats://user:password@host:port`, several separated by commas.
    pub fn parse(url: &str) -> Result<Self, NatsError> {
        let bad = || NatsError::Address { url: without_credentials(url) };
        let mut servers = Vec::new();
        let mut credentials = None;
        for part in url.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let server: ServerAddr = part.parse().map_err(|_| bad())?;
            if let Some(user) = server.username() {
                credentials =
                    Some((user.to_owned(), server.password().unwrap_or_default().to_owned()));
            }
            let host = match server.host() {
                host if host.contains(':') => format!("[{host}]"),
                host => host.to_owned(),
            };
            let bare = format!("{}://{host}:{}", server.scheme(), server.port());
            servers.push(bare.parse().map_err(|_| bad())?);
        }
        if servers.is_empty() {
            return Err(bad());
        }
        Ok(Self { servers, credentials })
    }
}

impl Address {
    /// Who connects; nobody in particular if there is no name.
    pub fn user(&self) -> &str {
        self.credentials.as_ref().map_or("", |(user, _)| user)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let servers: Vec<_> =
            self.servers.iter().map(|s| format!("{}:{}", s.host(), s.port())).collect();
        f.write_str(&servers.join(","))
    }
}

fn without_credentials(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("nats://...@{host}"),
        None => url.to_owned(),
    }
}

/// Whether to wait for a NATS that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Fail at once: for commands that a person waits for.
    FailFast,
    /// Keep trying: for daemons, and for the console.
    KeepTrying,
}

/// A connection that refuses to publish while it is down.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    connections: watch::Receiver<u64>,
    /// What the server has said last of something that is not allowed.
    denials: watch::Receiver<String>,
}

impl Bus {
    /// Connects as `role`, which names the connection and its private inbox.
    pub async fn connect(
        address: &Address,
        cell: &Cell,
        role: &str,
        patience: Patience,
    ) -> Result<Self, NatsError> {
        let (sender, connections) = watch::channel(0u64);
        let (denied, denials) = watch::channel(String::new());
        let client_known = Arc::new(OnceLock::new());
        let known = client_known.clone();
        let mut options = ConnectOptions::new()
            .name(format!("bistro {role}"))
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(TIMEOUT))
            .connection_timeout(TIMEOUT)
            .custom_inbox_prefix(cell.inbox(role))
            .client_capacity(1_024)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                on_event(event, known.clone(), sender.clone(), denied.clone())
            });
        if let Some((user, password)) = &address.credentials {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if patience == Patience::KeepTrying {
            options = options.retry_on_initial_connect();
        }
        let client = options
            .connect(&address.servers[..])
            .await
            .map_err(|source| NatsError::Connect { servers: address.to_string(), source })?;
        // It is set once.
        let _ = client_known.set(client.clone());
        Ok(Self { client, connections, denials })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Counts connections; changes whenever one is made or lost.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Hands a message to the connection, or refuses.
    pub async fn publish(&self, subject: String, payload: Vec<u8>) -> Result<(), NatsError> {
        self.check(&subject, payload.len())?;
        let publish = self.client.publish(subject.clone(), payload.into());
        match tokio::time::timeout(TIMEOUT, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(NatsError::Other { subject, detail: error.to_string() }),
            Err(_) => Err(NatsError::Disconnected),
        }
    }

    /// Asks and waits for the answer.
    pub async fn request(
        &self,
        subject: String,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, NatsError> {
        self.check(&subject, payload.len())?;
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(timeout));
        let sent = self.client.send_request(subject.clone(), request);
        // The client's own limit starts only once the request is queued.
        let sent = tokio::time::timeout(timeout + TIMEOUT, sent);
        let answer = tokio::select! {
            answer = sent => answer,
            () = self.denied(&subject) => return Err(NatsError::Denied { subject }),
        };
        match answer {
            Ok(Ok(message)) => Ok(message.payload.to_vec()),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => NatsError::NoResponders { subject },
                RequestErrorKind::TimedOut => NatsError::TimedOut { subject },
                _ => NatsError::Other { subject, detail: error.to_string() },
            }),
            Err(_) => Err(NatsError::TimedOut { subject }),
        }
    }

    /// Asks, and hands over one answer after the other until one is `taken`: who has the subject
    /// may be more than one.
    pub async fn request_until(
        &self,
        subject: String,
        payload: Vec<u8>,
        timeout: Duration,
        mut taken: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), NatsError> {
        self.check(&subject, payload.len())?;
        let inbox = self.client.new_inbox();
        let failed = |detail: String| NatsError::Other { subject: subject.clone(), detail };
        let answered = async {
            let subscribed = self.client.subscribe(inbox.clone()).await;
            let mut answers = subscribed.map_err(|error| failed(error.to_string()))?;
            let asked = self.client.publish_with_reply(subject.clone(), inbox, payload.into());
            asked.await.map_err(|error| failed(error.to_string()))?;
            while let Some(answer) = answers.next().await {
                if answer.status == Some(StatusCode::NO_RESPONDERS) {
                    return Err(NatsError::NoResponders { subject: subject.clone() });
                }
                if taken(&answer.payload) {
                    return Ok(());
                }
            }
            Err(NatsError::Disconnected)
        };
        let answered = tokio::time::timeout(timeout, answered).await;
        answered.unwrap_or_else(|_| Err(NatsError::TimedOut { subject: subject.clone() }))
    }

    /// Until the server says that this is not allowed.
    async fn denied(&self, subject: &str) {
        let mut denials = self.denials.clone();
        denials.mark_unchanged();
        let quoted = format!("{subject:?}");
        while denials.changed().await.is_ok() {
            if denials.borrow_and_update().contains(&quoted) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Gives what was published a last chance to leave.
    pub async fn flush(&self) {
        if self.is_connected() {
            // Nothing depends on it: whoever needs certainty waits for an answer.
            let _ = tokio::time::timeout(TIMEOUT, self.client.flush()).await;
        }
    }

    fn check(&self, subject: &str, bytes: usize) -> Result<(), NatsError> {
        if !self.is_connected() {
            return Err(NatsError::Disconnected);
        }
        if bytes > self.client.max_payload() {
            return Err(NatsError::TooLarge { subject: subject.to_owned(), bytes });
        }
        Ok(())
    }
}

/// Tells the watchers of connections. An event comes a moment before the state that it announces;
/// whoever is told of a connection must be able to use it.
async fn on_event(
    event: Event,
    client: Arc<OnceLock<Client>>,
    counter: watch::Sender<u64>,
    denied: watch::Sender<String>,
) {
    match event {
        Event::ServerError(ServerError::Other(text)) if is_denial(&text) => {
            tracing::debug!(text, "not allowed");
            denied.send_replace(text);
        }
        Event::Connected => {
            let connected = async {
                while client.get().is_some_and(|c| c.connection_state() != State::Connected) {
                    tokio::task::yield_now().await;
                }
            };
            // It may be lost again meanwhile.
            let _ = tokio::time::timeout(STATE_TIMEOUT, connected).await;
            tracing::info!("connected to NATS");
            counter.send_modify(|count| *count += 1);
        }
        Event::Disconnected => {
            tracing::warn!("the connection to NATS is lost; it is tried again until it is back");
            counter.send_modify(|_| ());
        }
        // One per attempt to reconnect says nothing new.
        Event::Closed | Event::Draining | Event::ClientError(_) => tracing::debug!(%event, "nats"),
        event => tracing::warn!(%event, "nats"),
    }
}

/// As the server writes it, with the subject in quotes.
fn is_denial(text: &str) -> bool {
    text.to_ascii_lowercase().contains("permissions violation for publish")
}

/// Called before every attempt to connect, the very first included.
fn reconnect_delay(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let full = (50u64 << attempt.min(6)).min(RECONNECT_DELAY_MS_MAX);
    // A fresh UUID's random bits are jitter enough, and need no generator of their own.
    let jitter = uuid::Uuid::new_v4().as_u128() as u64 % (full / 2 + 1);
    Duration::from_millis(full - jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_lost_the_server_does_not_come_back_at_the_moment_that_all_others_do() {
        for attempt in 2..20 {
            let mut delays: Vec<_> = (0..200).map(|_| reconnect_delay(attempt)).collect();
            delays.sort();
            delays.dedup();
            let (first, last) = (delays[0], delays[delays.len() - 1]);
            assert!(last <= Duration::from_millis(RECONNECT_DELAY_MS_MAX));
            assert!(first >= last / 3, "nobody knocks without a pause: {first:?}, {last:?}");
            assert!(delays.len() > 30, "{attempt}: {delays:?}");
        }
    }

    #[test]
    fn credentials_are_split_off_and_never_shown() {
        let address = Address::parse("nats://u:secret@127.0.0.1:4222, other:1").expect("valid");
        assert_eq!(address.to_string(), "127.0.0.1:4222,other:1");
        assert_eq!(address.credentials, Some(("u".to_owned(), "secret".to_owned())));
        for bad in ["", ",", "http://x", "nats://u:secret@"] {
            let Err(error) = Address::parse(bad) else { panic!("{bad:?} was accepted") };
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
