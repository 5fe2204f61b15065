use super::*;
use crate::nodes::{Scripts, fetch};
use bistro_common::config::parse;

async fn simulate(limit: u32, workers: u32, model: &str) -> (Report, Vec<Trace>) {
    let text = format!(
        r#"{{"bistro_settings": {{"enabled": true,
        "nodes": {{"levels": ["host", "db"], "node_sources": [
            {{"source": "range_label", "prefs": {{"parent_level": "instance", "start": 1, "end": 4}}}},
            {{"source": "range_label", "prefs": {{"parent_level": "host", "start": 1, "end": 5}}}}]}},
        "resources": {{"host": {{"slots": {{"limit": {limit}, "default": 1}}}},
            "worker": {{"cpu": {{"limit": 4, "default": 1}}}}}}}},
        "bistro_job->a": {{"owner": "o", "backoff": [1, "repeat"]}},
        "bistro_job->b": {{"owner": "o", "depends_on": ["a"]}}}}"#
    );
    let config = Arc::new(parse(&text).config.expect("a good config"));
    let forest = fetch(&config.settings, "root", 0, &mut Scripts::default()).await.unwrap();
    let setup = Setup {
        config,
        forest: Arc::new(forest),
        workers: vec![WorkerGroup::alike(workers)],
        model: serde_json::from_str(model).expect("a model"),
        seed: 7,
        until_ms: None,
    };
    let mut traces = Vec::new();
    let report = run(setup, &mut |trace| traces.push(trace)).expect("it can be simulated");
    (report, traces)
}

const TEN_SECONDS: &str = r#"{"default": {"duration_sec": 10}}"#;

#[tokio::test]
async fn the_makespan_is_what_arithmetic_says() {
    // 40 tasks of 10 s, two at a time on each of four hosts: 5 rounds.
    let (report, traces) = simulate(2, 9, TEN_SECONDS).await;
    assert_eq!((report.makespan_ms, report.finished), (50_000, true));
    assert_eq!((report.attempts, report.jobs["a"].done, report.jobs["b"].done), (40, 20, 20));
    assert_eq!(traces.len(), 80);
    assert_eq!(report.bottleneck.as_deref(), Some("slots of level host"));
    assert!((report.resources[0].used - 1.0).abs() < 1e-9, "{report:?}");
    // One worker with four slots: 10 rounds of 4.
    let (report, _) = simulate(2, 1, TEN_SECONDS).await;
    assert_eq!(report.makespan_ms, 100_000);
    assert_eq!(report.bottleneck.as_deref(), Some("cpu of level worker"));
}

#[tokio::test]
async fn a_seed_gives_the_same_run_and_errors_are_tried_again() {
    let model = r#"{"default": {"duration_sec": {"exponential": 3}},
        "jobs": {"a": {"duration_sec": 1, "failure_rate": 0.5}}}"#;
    let (first, traces) = simulate(3, 2, model).await;
    assert!(first.errors > 0 && first.finished, "{first:?}");
    assert_eq!((first.jobs["a"].done, first.jobs["b"].done), (20, 20));
    assert_eq!(first.attempts, 40 + first.errors);
    let (second, again) = simulate(3, 2, model).await;
    assert_eq!((first, traces), (second, again));
}

#[tokio::test]
async fn what_can_never_run_is_told() {
    let (report, _) = simulate(0, 1, TEN_SECONDS).await;
    assert!(report.finished && report.attempts == 0);
    assert!(report.stuck.iter().any(|why| why.contains("slots")), "{:?}", report.stuck);
}
