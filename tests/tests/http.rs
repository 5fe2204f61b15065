//! The HTTP face of a scheduler.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bistro_common::protocol::api::TaskState;
use bistro_tests::Cell;

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {"levels": ["host"], "node_sources": [{"source": "manual", "prefs": {"h1": [], "h2": []}}]},
    "resources": {"host": {"slots": {"limit": 1, "default": 1}}}
  },
  "bistro_job->greet": {"owner": "o", "command": ["sh", "-c", "echo hello from $1; echo done > $2", "sh"]}
}"#;

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address")
}

/// Status and body of the answer.
fn request(to: SocketAddr, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\r\n{body}"
    )
    .expect("the request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

fn ask(to: SocketAddr, queries: &Value) -> Value {
    let (status, body) = request(to, "/", &format!("Host: {to}"), &queries.to_string());
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_of_the_original_and_the_verbs_are_answered_and_other_sites_are_not() {
    let mut cell = Cell::new().await;
    let address = free_address();
    cell.http = Some(address);
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    let worker = cell.start_worker("w1", "true").await;
    cell.wait_for_count(TaskState::Done, 2).await;

    let answers = tokio::task::spawn_blocking(move || {
        ask(
            address,
            &json!({
                "h": {"handler": "histogram", "num_samples": 1},
                "n": {"handler": "nodes", "nodes": ["h2"], "fields": ["resources"]},
                "j": {"handler": "jobs"},
                "l": {"handler": "task_logs", "log_type": "stdout", "sort": "asc", "jobs": ["greet"]},
                "k": {"handler": "kill_task", "job_id": "greet", "node_id": "h1"},
                "f": {"handler": "forgive_jobs", "jobs": ["nobody"]},
                "s": {"handler": "save_job", "job_id": "later", "job": {"owner": "o", "enabled": false}},
                "u": {"handler": "unheard_of"},
                "prefs": {},
            }),
        )
    })
    .await
    .unwrap();
    let host = &answers["h"]["data"]["histograms"]["greet"]["host"];
    assert_eq!(*host, json!({"E": 2}), "two are done: {answers}");
    let node = &answers["n"]["data"]["results"]["host"]["h2"];
    assert_eq!(*node, json!({"resources": {"slots": {"default": 1, "limit": 1}}}));
    assert_eq!(answers["j"]["data"]["greet"]["owner"], "o");
    let lines: Vec<_> = answers["l"]["data"]["lines"].as_array().unwrap().iter().collect();
    let mut said: Vec<_> = lines.iter().map(|line| line[3].as_str().unwrap()).collect();
    said.sort_unstable();
    assert_eq!(said, ["hello from h1\n", "hello from h2\n"], "{answers}");
    assert_eq!(answers["l"]["data"]["next_line_id"], "-1");
    assert_eq!(answers["k"]["error"], "Unknown running task greet, h1");
    assert!(answers["f"]["error"].as_str().unwrap().contains("nobody"), "{answers}");
    assert_eq!(answers["s"]["data"], "saved");
    assert_eq!(answers["u"]["error"], "Unknown handler: unheard_of");
    assert_eq!(answers.get("prefs"), None);

    let (verb, stranger, rebound, broken) = tokio::task::spawn_blocking(move || {
        let host = format!("Host: {address}");
        let stranger = format!("{host}\r\nOrigin: http://elsewhere.example");
        (
            request(address, "/api/status", &host, ""),
            request(address, "/api/status", &stranger, ""),
            request(address, "/api/status", "Host: elsewhere.example", ""),
            request(address, "/", &host, "{"),
        )
    })
    .await
    .unwrap();
    let status: Value = serde_json::from_str(&verb.1).unwrap();
    assert_eq!(status["ok"]["jobs"], 2, "the saved one is there: {status}");
    assert_eq!((stranger.0, rebound.0), (403, 403));
    assert!(broken.1.starts_with("\"the request is not JSON"), "{}", broken.1);
    worker.stop().await;
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = bistro_scheduler::http::listen(everywhere).await.map(|_| ());
    assert!(refused.unwrap_err().to_string().contains("use a loopback address"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_come_to_an_end_hold_the_room_and_no_more() {
    let mut cell = Cell::new().await;
    let address = free_address();
    cell.http = Some(address);
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    tokio::task::spawn_blocking(move || {
        let host = format!("Host: {address}");
        let lists = || request(address, "/api/jobs", &host, "{}").0;
        wait_until("it listens", || TcpStream::connect(address).is_ok());
        wait_until("there is a plan", || lists() == 200);
        // More than there is room for: a list that comes between them may take some of it.
        let begin = |_| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            let head = format!("POST /api/jobs HTTP/1.1\r\n{host}\r\nContent-Length: 9\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("the head can be sent");
            stream
        };
        let mut slow = Vec::new();
        wait_until("there is no room", || {
            // On a slow machine those before may have been given up by the time of the look.
            slow = (0..48).map(begin).collect();
            lists() == 503
        });
        assert_eq!(request(address, "/livez", &host, "").0, 405, "which needs none: it is a GET");
        drop(slow);
        wait_until("there is room again", || lists() == 200);
    })
    .await
    .unwrap();
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
