//! Texts that are kept elsewhere: behind a URL, or in a NATS KV bucket. What has not changed is not
//! fetched again.

use async_nats::jetstream;
use futures_util::TryStreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use bistro_common::nats::Bus;

/// A text may be so long: a few million names.
pub const BYTES_MAX: u64 = 256 << 20;

/// How long a bucket may take to answer.
const KV_TIMEOUT: Duration = Duration::from_secs(5);

/// A bucket that is a config, or that nodes are read from, has so many keys at most.
const KEYS_MAX: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("{url} cannot be fetched: {source}")]
    Http {
        url: String,
        #[source]
        source: Box<ureq::Error>,
    },
    #[error("the NATS KV bucket {bucket:?} cannot be read: {cause}")]
    Kv { bucket: String, cause: String },
    #[error("there is no key {key:?} in the NATS KV bucket {bucket:?}")]
    NoKey { bucket: String, key: String },
    #[error("the value of {key:?} in the NATS KV bucket {bucket:?} is not UTF-8")]
    NotUtf8 { bucket: String, key: String },
    #[error("there is no NATS here to read the KV bucket {bucket:?} from")]
    NoNats { bucket: String },
    #[error("the fetch was interrupted")]
    Interrupted,
}

/// What was fetched last.
#[derive(Default)]
pub struct Documents {
    bus: Option<Bus>,
    agent: Option<ureq::Agent>,
    urls: HashMap<String, Fetched>,
    buckets: HashMap<String, Bucket>,
}

struct Fetched {
    etag: Option<String>,
    text: String,
}

struct Bucket {
    /// The sequence of its last change.
    sequence: u64,
    values: Vec<(String, String)>,
}

impl Documents {
    pub fn new(bus: Bus) -> Self {
        Self { bus: Some(bus), ..Self::default() }
    }

    /// The text behind an `http` or `https` URL.
    pub async fn url(&mut self, url: &str, timeout: Duration) -> Result<String, DocumentError> {
        let agent = self.agent.get_or_insert_with(agent).clone();
        let etag = self.urls.get(url).and_then(|fetched| fetched.etag.clone());
        let (target, known) = (url.to_owned(), etag.clone());
        let fetch = move || fetch(&agent, &target, known.as_deref(), timeout);
        let fetched = tokio::task::spawn_blocking(fetch).await;
        let fetched = fetched.map_err(|_| DocumentError::Interrupted)?;
        let failed = |source| DocumentError::Http { url: url.to_owned(), source: Box::new(source) };
        match (fetched.map_err(failed)?, self.urls.get(url)) {
            (None, Some(last)) => Ok(last.text.clone()),
            // Nobody answers "not modified" who was not asked.
            (None, None) => Err(DocumentError::Interrupted),
            (Some(fetched), _) => {
                let text = fetched.text.clone();
                self.urls.insert(url.to_owned(), fetched);
                Ok(text)
            }
        }
    }

    /// All keys of a bucket and their values, in the order of the keys.
    pub async fn bucket(&mut self, bucket: &str) -> Result<Vec<(String, String)>, DocumentError> {
        let Some(bus) = self.bus.clone() else {
            return Err(DocumentError::NoNats { bucket: bucket.to_owned() });
        };
        let known = self.buckets.get(bucket).map(|known| known.sequence);
        let read = tokio::time::timeout(KV_TIMEOUT, read_bucket(&bus, bucket, known)).await;
        let late = || DocumentError::Kv {
            bucket: bucket.to_owned(),
            cause: format!("no answer within {} s", KV_TIMEOUT.as_secs()),
        };
        // After an error nothing is taken to be as it was.
        let read = read.map_err(|_| late()).and_then(|read| read);
        let read = read.inspect_err(|_| drop(self.buckets.remove(bucket)))?;
        if let Some(read) = read {
            self.buckets.insert(bucket.to_owned(), read);
        }
        Ok(self.buckets.get(bucket).map(|known| known.values.clone()).unwrap_or_default())
    }

    /// The value of one key.
    pub async fn key(&mut self, bucket: &str, key: &str) -> Result<String, DocumentError> {
        let values = self.bucket(bucket).await?;
        let found = values.into_iter().find(|(name, _)| name == key);
        found
            .map(|(_, value)| value)
            .ok_or_else(|| DocumentError::NoKey { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

/// The host's own certificates count, so that internal ones do.
fn agent() -> ureq::Agent {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> =
        certificates.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(provider)
        .build();
    ureq::Agent::config_builder().tls_config(tls).build().into()
}

/// `None`: it has not changed since it had this etag. Blocks.
fn fetch(
    agent: &ureq::Agent,
    url: &str,
    etag: Option<&str>,
    timeout: Duration,
) -> Result<Option<Fetched>, ureq::Error> {
    let mut request = agent.get(url).config().timeout_global(Some(timeout)).build();
    if let Some(etag) = etag {
        request = request.header("If-None-Match", etag);
    }
    let mut response = request.call()?;
    if response.status() == ureq::http::StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok());
    let etag = etag.map(str::to_owned);
    let text = response.body_mut().with_config().limit(BYTES_MAX).read_to_string()?;
    Ok(Some(Fetched { etag, text }))
}

/// `None`: it is as it was at that sequence.
async fn read_bucket(
    bus: &Bus,
    bucket: &str,
    known: Option<u64>,
) -> Result<Option<Bucket>, DocumentError> {
    let failed = |cause: String| DocumentError::Kv { bucket: bucket.to_owned(), cause };
    let context = jetstream::new(bus.client().clone());
    let store = context.get_key_value(bucket).await.map_err(|error| failed(error.to_string()))?;
    let sequence = store.stream.cached_info().state.last_sequence;
    if known == Some(sequence) {
        return Ok(None);
    }
    let keys = store.keys().await.map_err(|error| failed(error.to_string()))?;
    let mut keys: Vec<String> =
        keys.try_collect().await.map_err(|error| failed(error.to_string()))?;
    if keys.len() > KEYS_MAX {
        return Err(failed(format!("it has more than {KEYS_MAX} keys")));
    }
    keys.sort_unstable();
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        let value = store.get(key.as_str()).await.map_err(|error| failed(error.to_string()))?;
        // One that was deleted meanwhile is not there.
        let Some(value) = value else { continue };
        let text = String::from_utf8(value.into())
            .map_err(|_| DocumentError::NotUtf8 { bucket: bucket.to_owned(), key: key.clone() })?;
        values.push((key, text));
    }
    Ok(Some(Bucket { sequence, values }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Serves one text under the etag "1"; returns its URL and what each request said.
    fn serve(text: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}/nodes", listener.local_addr().expect("it is bound"));
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let (mut request, mut buffer) = (Vec::new(), [0; 1_024]);
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                        _ => break,
                    }
                }
                let request = String::from_utf8_lossy(&request).to_lowercase();
                let answer = match request.contains("if-none-match: \"1\"") {
                    true => "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned(),
                    false => format!(
                        "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                        text.len()
                    ),
                };
                let _ = stream.write_all(answer.as_bytes());
                let _ = said.send(request);
            }
        });
        (url, heard)
    }

    #[tokio::test]
    async fn a_url_is_fetched_again_only_if_it_has_changed() {
        let (url, heard) = serve("a\nb\n");
        let mut documents = Documents::default();
        for conditional in [false, true, true] {
            let text = documents.url(&url, Duration::from_secs(10)).await;
            assert_eq!(text.expect("it is served"), "a\nb\n");
            let request = heard.recv().expect("a request has come");
            assert_eq!(request.contains("if-none-match"), conditional, "{request}");
        }
        let nobody = documents.url("http://127.0.0.1:1/", Duration::from_secs(10)).await;
        assert!(nobody.unwrap_err().to_string().contains("cannot be fetched"));
    }

    #[tokio::test]
    async fn a_url_that_does_not_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let late = Documents::default().url(&url, Duration::from_millis(100)).await;
        assert!(late.is_err());
    }
}
