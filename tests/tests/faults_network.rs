//! NATS is cut off, stopped, put back or emptied, and messages come twice.

use async_nats::jetstream;
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bistro_common::ids::{AttemptId, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::assign::{AssignAnswer, AssignReply, AssignResult, RejectedReason};
use bistro_common::protocol::control::{ControlAnswer, ControlReply};
use bistro_common::protocol::decode;
use bistro_common::protocol::heartbeat::{HeartbeatAnswer, HeartbeatReply, RefusedReason};
use bistro_tests::proxy::{Fault, Proxy};
use bistro_tests::waiting::{Log, all_done_once, waiting_cell};
use bistro_tests::{Cell, Process, is_running, wait_until};

const CUT: Fault = Fault {
    out_cut: true,
    in_cut: true,
    out_delay: Duration::ZERO,
    in_delay: Duration::ZERO,
    down: false,
};

/// A worker behind a proxy.
async fn behind_proxy(cell: &Cell, name: &str, script: &str) -> (Process, Proxy) {
    let proxy = Proxy::start(cell.nats.address()).await;
    let mut worker = cell.worker_command(name, script);
    worker.env("BISTRO_NATS_URL", proxy.url());
    (Process::spawn(worker), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_is_shorter_than_the_lease_ends_nothing() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let (_worker, proxy) = behind_proxy(&cell, "w1", &log.0).await;
    wait_until("three starts", || log.starts().len() == 3).await;
    proxy.set(CUT);
    cell.wait_for("its silence to be noticed", |status| status.workers_healthy == 0).await;
    assert_eq!(log.running(), 3, "they go on");
    log.go();
    wait_until("three ends", || log.ends() == 3).await;
    proxy.set(Fault::default());
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_g4_a_cut_past_the_lease_ends_the_tasks_and_the_worker_comes_back_as_another() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(2_000);
    let _scheduler = cell.spawn_scheduler();
    let (_worker, proxy) = behind_proxy(&cell, "w1", &log.0).await;
    wait_until("three starts", || log.starts().len() == 3).await;
    let (lost, back) =
        (cell.count_events("worker.lost").await, cell.count_events("worker.restarted").await);
    proxy.set(CUT);
    let _other = cell.spawn_worker("w2", &log.0);
    wait_until("its tasks to start elsewhere", || {
        assert!(log.running() <= 3, "never more than the limit: {:?}", log.lines());
        log.starts().len() >= 6
    })
    .await;
    let first = &log.starts()[..3];
    assert!(first.iter().all(|(_, pid)| !is_running(*pid)), "dead before they started elsewhere");
    wait_until("its loss to be told", || lost.load(Ordering::Relaxed) == 1).await;
    proxy.set(Fault::default());
    wait_until("it to come back as another process", || back.load(Ordering::Relaxed) > 0).await;
    all_done_once(&cell, &log).await;
    assert_eq!(back.load(Ordering::Relaxed), 1, "once, however many heartbeats were on their way");
}

/// Its heartbeats are heard, and no answer reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn g2_a_worker_that_hears_nothing_gives_up_though_it_is_heard() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(2_000);
    let _scheduler = cell.spawn_scheduler();
    let (_worker, proxy) = behind_proxy(&cell, "w1", &log.0).await;
    wait_until("three starts", || log.starts().len() == 3).await;
    proxy.set(Fault { in_cut: true, ..Fault::default() });
    wait_until("its lease to end", || log.running() == 0).await;
    let _other = cell.spawn_worker("w2", &log.0);
    proxy.set(Fault::default());
    wait_until("all to run again", || {
        assert!(log.running() <= 3, "never more than the limit: {:?}", log.lines());
        log.starts().len() >= 6
    })
    .await;
    all_done_once(&cell, &log).await;
}

/// A task on each of `nodes` nodes, up to 32 at a time.
fn many(nodes: usize) -> String {
    format!(
        r#"{{"bistro_settings": {{
            "enabled": true,
            "nodes": {{"levels": ["node"], "node_sources": [{{"source": "range_label",
                "prefs": {{"parent_level": "instance", "format": "n{{i}}", "start": 1, "end": {nodes}}}}}]}},
            "resources": {{"instance": {{"concurrency": {{"limit": 32, "default": 1}}}}}}}},
          "bistro_job->job": {{"owner": "me", "backoff": [1, "repeat"]}}}}"#
    )
}

const QUICK: &str = r#"echo "start $1 $$" >> "$0.log"; echo "end $1" >> "$0.log"
echo done > "$2""#;

async fn busy_cell(nodes: usize) -> (Cell, Log) {
    let cell = Cell::new().await;
    cell.write_config(&many(nodes));
    let script = cell.script("task", QUICK);
    (cell, Log(script))
}

fn each_started_once(log: &Log, nodes: usize) {
    let mut starts = BTreeMap::new();
    log.starts().into_iter().for_each(|(node, _)| *starts.entry(node).or_insert(0) += 1);
    assert_eq!(starts.len(), nodes);
    assert!(starts.values().all(|&count| count == 1), "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_a_nats_server_that_starts_again_under_load_leaves_nothing_unsure() {
    let (mut cell, log) = busy_cell(300).await;
    let _scheduler = cell.spawn_scheduler();
    let _workers = ["w1", "w2"].map(|name| cell.spawn_worker(name, &log.0));
    for part in [100, 200] {
        wait_until("a part to have started", || log.starts().len() >= part).await;
        cell.nats.kill();
        cell.nats.restart();
    }
    let status = cell.wait_for_count(TaskState::Done, 300).await;
    assert_eq!(status.counts.get(&TaskState::Unsure).copied().unwrap_or(0), 0);
    each_started_once(&log, 300);
}

/// Whoever doubles what the parts say to each other.
async fn bystander(cell: &Cell) {
    const MARK: &str = "Doubled";
    let client = cell.connect("bystander").await.client().clone();
    let of = |conversation: &str| cell.name().dones().replace("task.done", conversation);
    for conversation in ["worker.hb", "task.assign", "task.control", "task.done"] {
        let mut heard = client.subscribe(of(conversation)).await.expect("NATS is there");
        let client = client.clone();
        tokio::spawn(async move {
            while let Some(message) = heard.next().await {
                if message.headers.as_ref().is_some_and(|headers| headers.get(MARK).is_some()) {
                    continue;
                }
                let mut headers = async_nats::HeaderMap::new();
                headers.insert(MARK, "yes");
                let (subject, payload) = (message.subject, message.payload);
                let again = match message.reply {
                    Some(reply) => {
                        client
                            .publish_with_reply_and_headers(subject, reply, headers, payload)
                            .await
                    }
                    None => client.publish_with_headers(subject, headers, payload).await,
                };
                again.expect("NATS is there");
            }
        });
    }
    client.flush().await.expect("NATS is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_g3_messages_that_come_twice_change_nothing() {
    let (cell, log) = busy_cell(50).await;
    bystander(&cell).await;
    let ends = cell.count_events("task.done").await;
    let _scheduler = cell.spawn_scheduler();
    let _workers = ["w1", "w2"].map(|name| cell.spawn_worker(name, &log.0));
    cell.wait_for_count(TaskState::Done, 50).await;
    each_started_once(&log, 50);
    wait_until("the last end to be told", || ends.load(Ordering::Relaxed) >= 50).await;
    assert_eq!(ends.load(Ordering::Relaxed), 50, "each result was applied once");
}

/// The scheduler may just be about to make it.
async fn delete_stream(context: &jetstream::Context, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = context.delete_stream(name).await {
        assert!(Instant::now() < deadline, "there is no stream {name}: {error}");
    }
}

async fn has_stream(context: &jetstream::Context, name: &str) -> bool {
    context.get_stream(name).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_deleted_are_made_again_and_no_result_is_lost() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let context = jetstream::new(cell.connect("operator").await.client().clone());
    for stream in [cell.name().done_stream(), cell.name().events_stream()] {
        delete_stream(&context, &stream).await;
    }
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
    assert!(has_stream(&context, &cell.name().done_stream()).await);
}

/// Without it the other stream keeps everything going, so that nobody would notice.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_that_is_deleted_is_made_again_by_the_next_events() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let context = jetstream::new(cell.connect("operator").await.client().clone());
    delete_stream(&context, &cell.name().events_stream()).await;
    all_done_once(&cell, &log).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !has_stream(&context, &cell.name().events_stream()).await {
        assert!(Instant::now() < deadline, "it is not made again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As after a power loss on a disk that had not written what it had acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_lost_its_end_costs_no_result() {
    let (mut cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let first = log.starts().remove(0).0;
    std::fs::write(format!("{}.go-{first}", log.0), "").expect("a file can be written");
    cell.wait_for_count(TaskState::Done, 1).await;
    cell.nats.kill();
    let before = cell.nats.save();
    cell.nats.restart();
    log.go();
    wait_until("all to have ended", || log.ends() == 4).await;
    cell.nats.kill();
    cell.nats.put_back(&before);
    cell.nats.restart();
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_stands_still_costs_nothing_but_time() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    cell.nats.signal(Signal::SIGSTOP);
    log.go();
    wait_until("three ends", || log.ends() == 3).await;
    cell.nats.signal(Signal::SIGCONT);
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_and_harms_nobody() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let bus = cell.connect("stranger").await;
    let ask = async |subject: String, text: String| {
        let answer = bus.request(subject, text.into_bytes(), Duration::from_secs(10));
        answer.await.expect("it is answered")
    };
    let (name, worker) = (cell.name(), WorkerName::new("w1").expect("a valid name"));
    let reply: HeartbeatReply =
        decode(&ask(name.heartbeat(&worker), "{\"v\": 99}".to_owned()).await).expect("a reply");
    let HeartbeatAnswer::Refused { reason, by, .. } = reply.answer else { panic!("{reply:?}") };
    assert_eq!(reason, RefusedReason::BadRequest);
    assert!(by.is_some(), "it says who refuses");
    let attempt = AttemptId::generate();
    let unreadable = format!("{{\"attempts\": [{{\"attempt\": \"{attempt}\"}}]}}");
    let reply: AssignReply = decode(&ask(name.assign(&worker), unreadable).await).expect("a reply");
    let reason = RejectedReason::BadRequest;
    let answer = AssignAnswer::Rejected { reason };
    assert_eq!(reply.results, [AssignResult { attempt, answer }]);
    let reply: ControlReply =
        decode(&ask(name.control(&worker), "?".to_owned()).await).expect("a reply");
    assert!(matches!(reply.answer, ControlAnswer::Refused { .. }), "{reply:?}");
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}
