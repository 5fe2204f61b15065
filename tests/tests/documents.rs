//! Configs and nodes in a NATS KV bucket.

use async_nats::jetstream::{self, kv};
use bistro_common::protocol::api::TaskState;
use bistro_scheduler::config_files::Location;
use bistro_tests::Cell;

const SETTINGS: &str = r#"{"bistro_settings": {
    "enabled": true,
    "nodes": {"levels": ["host"], "node_sources": [
        {"source": "nats_kv", "prefs": {"bucket": "nodes", "key": "hosts", "period_sec": 0.1}}]},
    "resources": {}}}"#;

async fn bucket(cell: &Cell, bucket: &str) -> kv::Store {
    let client = async_nats::connect(cell.nats.url()).await.expect("NATS is there");
    let config = kv::Config { bucket: bucket.to_owned(), ..kv::Config::default() };
    jetstream::new(client).create_key_value(config).await.expect("a bucket can be made")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_and_its_nodes_live_in_buckets() {
    let cell = Cell::new().await;
    let config = bucket(&cell, "config").await;
    let nodes = bucket(&cell, "nodes").await;
    config.put("settings", SETTINGS.into()).await.unwrap();
    config.put("jobs", r#"{"bistro_job->a": {"owner": "me"}}"#.into()).await.unwrap();
    nodes.put("hosts", "h1\nh2\n".into()).await.unwrap();
    cell.start_scheduler_on(Location::Bucket("config".to_owned())).await;
    let _worker = cell.start_worker("w1", &cell.script("task", "echo done > $2")).await;
    cell.wait_for_count(TaskState::Done, 2).await;
    nodes.put("hosts", "h1\nh2\nh3\n".into()).await.unwrap();
    cell.wait_for_count(TaskState::Done, 3).await;
    config.put("jobs", r#"{"bistro_job->a": {"owner"}}"#.into()).await.unwrap();
    let status = cell.wait_for("the problem", |status| !status.problems.is_empty()).await;
    assert_eq!(status.problems[0].file, "kv:config/jobs");
    config.put("jobs", r#"{"bistro_job->b": {"owner": "me"}}"#.into()).await.unwrap();
    cell.wait_for("the other job", |s| s.problems.is_empty() && s.finished).await;
    nodes.delete("hosts").await.unwrap();
    let status = cell.wait_for("the problem", |status| !status.problems.is_empty()).await;
    assert!(status.problems[0].message.contains("no key \"hosts\""), "{:?}", status.problems);
    assert_eq!(status.nodes, 4, "the last good ones stay");
}
