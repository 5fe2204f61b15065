//! The HTTP face: the verbs of the API, and the queries of the original.
//!
//! Only on loopback, since it knows no identities: whoever may run a program on this host may use
//! it. Web pages may not: a request must name this host, and come from no other site.

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use bistro_common::clock::Clock;
use bistro_common::nats::Bus;
use bistro_common::protocol::api::{ApiReply, ListRequest, Listing, WorkerRow, verb};
use bistro_common::protocol::encode;
use bistro_common::subject::Cell;

use crate::original::{self, TASK_LOGS, logs};

const BODY_BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at once; one more is told to come again.
const CONCURRENT_MAX: usize = 32;

/// What is asked of the loop.
pub enum Question {
    Verb { verb: String, payload: Vec<u8> },
    Queries { queries: Map<String, Value>, actor: String },
}

pub struct Asked {
    pub question: Question,
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// Why there is no HTTP.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(
        "HTTP on {0} could be reached from other hosts, and knows no identities; use a loopback address such as 127.0.0.1:8080, and a proxy that knows who may what"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen for HTTP on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

#[derive(Clone)]
struct Face {
    asked: mpsc::Sender<Asked>,
    bus: Bus,
    cell: Cell,
    clock: Arc<Clock>,
    room: Arc<Semaphore>,
}

/// Binds, so that a mistake is told at once.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    if !address.ip().is_loopback() {
        return Err(HttpError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| HttpError::Listen { address, source })
}

/// Serves for as long as it is not dropped.
pub async fn serve(listener: TcpListener, bus: Bus, cell: Cell, asked: mpsc::Sender<Asked>) {
    let clock = Arc::new(Clock::start());
    let room = Arc::new(Semaphore::new(CONCURRENT_MAX));
    let face = Face { asked, bus, cell, clock, room };
    let router = Router::new()
        .route("/api/{verb}", post(on_verb))
        // The original looks at nothing but the body.
        .fallback(on_queries)
        .layer(middleware::from_fn_with_state(face.clone(), with_room))
        .route("/livez", get(|| async { "ok" }))
        .layer(middleware::from_fn(only_this_host))
        .with_state(face);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "HTTP has ended");
    }
}

/// A page of another site could make a browser here ask in its name.
async fn only_this_host(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text(headers, header::HOST);
    let local = host.is_some_and(|host| {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        });
        let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        name == "localhost" || address.is_ok_and(|address| address.is_loopback())
    });
    // One that cannot be read is of somebody else.
    let origin = headers.get(header::ORIGIN).map(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        origin.split_once("://").map_or(origin, |(_, host)| host)
    });
    let site = text(headers, HeaderName::from_static("sec-fetch-site"));
    let same_site = site.is_none_or(|site| matches!(site, "same-origin" | "none"))
        && origin.is_none_or(|origin| Some(origin) == host);
    if !local || !same_site {
        let why = "requests must name this host, and come from no other site\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    next.run(request).await
}

/// Before anything of a request's body is held: there is room for so many, and none holds it by being
/// slow.
async fn with_room(State(face): State<Face>, request: Request, next: Next) -> Response {
    let Ok(_room) = face.room.try_acquire() else {
        return full();
    };
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(error)) => {
            let why = format!("the body cannot be read, {BODY_BYTES_MAX} bytes at most: {error}\n");
            (StatusCode::PAYLOAD_TOO_LARGE, why).into_response()
        }
        Err(_) => {
            let why = "the rest of the request did not come in time; nothing was done\n";
            (StatusCode::REQUEST_TIMEOUT, why).into_response()
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn full() -> Response {
    let why = "too many requests at once; nothing was done, try again\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

fn late() -> Response {
    let why = "the scheduler did not answer in time; what was asked may yet be done: look first\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

fn in_json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

impl Face {
    /// `None`: the loop did not answer in time.
    async fn ask(&self, question: Question) -> Option<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.asked.send(Asked { question, reply }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(TIMEOUT, asked).await.ok().flatten()
    }

    async fn workers(&self) -> Option<Vec<WorkerRow>> {
        let question = Question::Verb {
            verb: verb::WORKERS.to_owned(),
            payload: encode(&ListRequest::default()),
        };
        let reply = self.ask(question).await?;
        let reply: ApiReply<Listing<WorkerRow>> = serde_json::from_slice(&reply).ok()?;
        reply.ok.map(|rows| rows.items)
    }

    async fn task_logs(&self, query: &Value) -> Value {
        let Some(workers) = self.workers().await else {
            return json!({"error": "the scheduler is busy; try again"});
        };
        match logs::read(&self.bus, &self.cell, workers, self.clock.now(), query).await {
            Ok(data) => json!({"data": data}),
            Err(error) => json!({"error": error}),
        }
    }
}

async fn on_verb(State(face): State<Face>, Path(verb): Path<String>, body: Bytes) -> Response {
    let question = Question::Verb { verb, payload: body.to_vec() };
    face.ask(question).await.map_or_else(late, in_json)
}

async fn on_queries(State(face): State<Face>, body: Bytes) -> Response {
    let queries = match original::parse(&body) {
        Ok(queries) => queries,
        Err(error) => return in_json(json!(error).to_string().into_bytes()),
    };
    let is_logs = |query: &Value| query["handler"] == TASK_LOGS;
    let (of_workers, queries): (Map<_, _>, Map<_, _>) =
        queries.into_iter().partition(|(_, query)| is_logs(query));
    let question = Question::Queries { queries, actor: "http".to_owned() };
    let Some(answers) = face.ask(question).await else {
        return late();
    };
    let mut answers: Map<String, Value> = serde_json::from_slice(&answers).unwrap_or_default();
    for (name, query) in of_workers {
        let logs = tokio::time::timeout(TIMEOUT, face.task_logs(&query)).await;
        let late = || json!({"error": "the workers did not answer in time; ask for less"});
        answers.insert(name, logs.unwrap_or_else(|_| late()));
    }
    in_json(Value::Object(answers).to_string().into_bytes())
}
