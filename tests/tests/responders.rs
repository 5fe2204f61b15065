//! Tasks that are done by whoever answers on a NATS subject, in any language.

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

use bistro_common::protocol::api::{Listing, TaskRow, TaskState, TasksRequest, verb};
use bistro_common::protocol::log::{Direction, LineId, LogRead, Stream};
use bistro_common::protocol::task::KillMethod;
use bistro_tests::{Cell, Process, wait_until};

fn config(more: &str) -> String {
    format!(
        r#"{{"bistro_settings": {{"enabled": true,
            "nodes": {{"levels": ["n"], "node_sources": [{{"source": "manual", "prefs": {{"n1": []}}}}]}},
            "resources": {{}}}},
          "bistro_job->j": {{"owner": "me", "runner": "nats", "subject": "do.it",
            "config": {{"x": 7}} {more}}}}}"#
    )
}

/// No worker yet: whoever is to be asked has time to subscribe.
async fn cell(more: &str) -> Cell {
    let cell = Cell::new().await;
    cell.write_config(&config(more));
    cell.start_scheduler().await;
    cell
}

async fn subscribe(client: &Client, subject: &str) -> Subscriber {
    let subscriber = client.subscribe(subject.to_owned()).await.expect("it is subscribed");
    client.flush().await.expect("and the server knows");
    subscriber
}

async fn client(cell: &Cell) -> Client {
    async_nats::connect(cell.nats.url()).await.expect("the server listens")
}

async fn task(cell: &Cell) -> TaskRow {
    let rows: Listing<TaskRow> =
        cell.ask(verb::TASKS, &TasksRequest::default()).await.expect("the tasks");
    rows.items.into_iter().next().expect("there is one")
}

async fn why_it_failed(cell: &Cell) -> String {
    cell.wait_for_count(TaskState::Failed, 1).await;
    let last = task(cell).await.last.expect("it has ended");
    last.exception().expect("it says why").to_owned()
}

async fn lines(cell: &Cell) -> Vec<String> {
    let page = LogRead::page(LineId::default(), Direction::Ascending, 100);
    let request = LogRead { streams: vec![Stream::Stdout], ..page };
    let page = cell.logs("w1", &request).await;
    page.lines.into_iter().map(|line| line.text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_responder_is_asked_for_a_task_and_its_progress_is_logged() {
    let cell = cell("").await;
    let client = client(&cell).await;
    let mut asked = subscribe(&client, "do.it").await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    let message = asked.next().await.expect("it is asked");
    let task: Value = serde_json::from_slice(&message.payload).expect("JSON");
    assert_eq!((&task["job"], &task["node"]), (&"j".into(), &"n1".into()));
    assert_eq!(task["argument"]["config"]["x"], 7);
    let progress = task["progress"].as_str().expect("a subject").to_owned();
    client.publish(progress.clone(), "half\nof it".into()).await.expect("published");
    client.publish(progress, "all of it".into()).await.expect("published");
    client.publish(message.reply.expect("a reply"), "done\n".into()).await.expect("published");
    cell.wait_for_count(TaskState::Done, 1).await;
    assert_eq!(lines(&cell).await, ["half", "of it", "all of it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_on_which_nobody_answers_is_an_error_that_says_so() {
    let cell = cell(r#", "backoff": ["fail"]"#).await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    let why = why_it_failed(&cell).await;
    assert!(why.contains("nobody answers on \"do.it\""), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_responder_is_told_to_stop_and_given_up() {
    let more = r#", "responder_timeout_sec": 0.2, "backoff": ["fail"]"#;
    let cell = cell(more).await;
    let client = client(&cell).await;
    let mut asked = subscribe(&client, "do.it").await;
    let mut cancelled = subscribe(&client, "bistro.test.run.cancel.*").await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    let why = why_it_failed(&cell).await;
    assert!(why.contains("no answer and no progress from \"do.it\" for 0.2 s"), "{why}");
    assert!(asked.next().await.is_some() && cancelled.next().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_reaches_the_responder_and_what_it_answers_counts() {
    let cell = cell("").await;
    let client = client(&cell).await;
    let mut asked = subscribe(&client, "do.it").await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    let message = asked.next().await.expect("it is asked");
    let request: Value = serde_json::from_slice(&message.payload).expect("JSON");
    let subject = request["cancel"].as_str().expect("a subject").to_owned();
    let mut cancelled = subscribe(&client, &subject).await;
    cell.wait_for_count(TaskState::Running, 1).await;
    let attempt = task(&cell).await.running.expect("it runs").attempt;
    cell.kill(attempt, KillMethod::TermWaitKill, 20_000).await;
    cancelled.next().await.expect("it is told to stop");
    client.publish(message.reply.expect("a reply"), "failed".into()).await.expect("published");
    cell.wait_for_count(TaskState::Failed, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_orders_to_end_the_earliest_holds() {
    let cell = cell("").await;
    let client = client(&cell).await;
    let mut asked = subscribe(&client, "do.it").await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    asked.next().await.expect("it is asked, and does not answer");
    cell.wait_for_count(TaskState::Running, 1).await;
    let attempt = task(&cell).await.running.expect("it runs").attempt;
    for wait_ms in [300, 300_000] {
        cell.kill(attempt, KillMethod::TermWaitKill, wait_ms).await;
    }
    cell.wait_for("its end", |status| !status.counts.contains_key(&TaskState::Running)).await;
}

/// A status that would not fit into a result's message is cut, as a process's is.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_costs_nothing_but_its_task() {
    let cell = cell(r#", "backoff": ["fail"]"#).await;
    let client = client(&cell).await;
    let mut asked = subscribe(&client, "do.it").await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    let message = asked.next().await.expect("it is asked");
    let long = vec![1; 900_000];
    client.publish(message.reply.expect("a reply"), long.into()).await.expect("published");
    cell.wait_for_count(TaskState::Failed, 1).await;
}

/// configs/examples/responder.py does configs/examples/responder.json.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_python_does_its_job() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = root.join(".bistro/python");
    assert!(library.is_dir(), "there is no nats-py; run scripts/setup to get it");
    let cell = Cell::new().await;
    let example = std::fs::read_to_string(root.join("configs/examples/responder.json"));
    cell.write_config(&example.expect("the example is there"));
    cell.start_scheduler().await;
    let ready = cell.directory.path().join("ready");
    let mut python = Command::new("python3");
    python
        .arg(root.join("configs/examples/responder.py"))
        .args([&cell.nats.url(), "examples.count"]);
    python.env("PYTHONPATH", library);
    python.stdout(Stdio::from(std::fs::File::create(&ready).expect("a file can be made")));
    let _responder = Process::spawn(python);
    wait_until("the responder", || std::fs::read_to_string(&ready).is_ok_and(|t| !t.is_empty()))
        .await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    cell.wait_for_count(TaskState::Done, 4).await;
    let lines = lines(&cell).await;
    assert_eq!(lines.len(), 12, "{lines:?}");
    assert!(lines.contains(&"s3: 2".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn nothing_is_run_for_a_job_that_only_rehearses() {
    let cell = Cell::new().await;
    let config = config("").replace(r#""nats", "subject": "do.it""#, r#""noop""#);
    cell.write_config(&config);
    cell.start_scheduler().await;
    // A program that is not there: whoever tried to run it would fail.
    let _worker = cell.start_worker("w1", "/no/such/program").await;
    cell.wait_for_count(TaskState::Done, 1).await;
}
