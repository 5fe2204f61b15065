//! The event stream, as its readers see it.

use serde_json::Value;

use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, wait_until};

const NODES: usize = 400;

fn config() -> String {
    format!(
        r#"{{"bistro_settings": {{
            "enabled": true,
            "nodes": {{"levels": ["node"], "node_sources": [{{"source": "range_label",
                "prefs": {{"parent_level": "instance", "format": "n{{i}}", "start": 1, "end": {NODES}}}}}]}},
            "resources": {{"worker": {{"cpu": {{"limit": 64, "default": 1}}}}}}}},
          "bistro_job->quick": {{"owner": "me", "runner": "nats", "subject": "quick"}}}}"#
    )
}

async fn events(cell: &Cell, more: &[&str]) -> Vec<Value> {
    let args = [&["events", "-o", "ndjson"], more].concat();
    let lines = cell.cli(&args).await.expect("events are read");
    lines.iter().map(|line| serde_json::from_str(line).expect("a line is an event")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_and_none_is_missing() {
    let cell = Cell::new().await;
    cell.write_config(&config());
    let bus = cell.connect("quick").await;
    let mut asked = bus.client().subscribe("quick").await.expect("NATS is there");
    let client = bus.client().clone();
    tokio::spawn(async move {
        while let Some(message) = futures_util::StreamExt::next(&mut asked).await {
            let reply = message.reply.expect("a worker waits");
            client.publish(reply, "done".into()).await.expect("NATS is there");
        }
    });
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", "/bin/false").await;
    cell.wait_for_count(TaskState::Done, NODES as u64).await;
    let mut all = Vec::new();
    wait_until("the last event", || {
        let read = async { events(&cell, &["--lines", "10000", "--kind", "task"]).await };
        all = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(read));
        all.iter().filter(|event| event["kind"] == "task.done").count() == NODES
    })
    .await;
    let place = |kind: &str, node: &str| {
        let is_it = |event: &&Value| event["kind"] == kind && event["node"] == node;
        let places: Vec<usize> =
            all.iter().enumerate().filter(|(_, e)| is_it(e)).map(|(at, _)| at).collect();
        assert_eq!(places.len(), 1, "{kind} on {node}");
        places[0]
    };
    for node in (1..=NODES).map(|n| format!("n{n}")) {
        assert!(place("task.started", &node) < place("task.done", &node), "{node}");
    }
    // The last few are the end of all, and those of a time begin where they should.
    let last = events(&cell, &["--lines", "7", "--kind", "task"]).await;
    assert_eq!(last, all[all.len() - 7..]);
    let begin = all[all.len() / 2]["time_ms"].as_u64().expect("a time");
    let time = jiff::Timestamp::from_millisecond(begin as i64).expect("a time");
    let local = time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%.3f");
    let since = format!("--since={local}");
    let later = events(&cell, &["--lines", "10000", "--kind", "task", &since]).await;
    let expected: Vec<&Value> =
        all.iter().filter(|event| event["time_ms"].as_u64() >= Some(begin)).collect();
    assert!((1..all.len()).contains(&expected.len()), "{} of {}", expected.len(), all.len());
    assert_eq!(later.iter().collect::<Vec<_>>(), expected);
}
