//! Many workers at once.

use async_nats::jetstream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bistro_common::ids::{Incarnation, LedgerId, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::nats::Bus;
use bistro_common::protocol::encode;
use bistro_common::protocol::heartbeat::{Heartbeat, OpenDigest};
use bistro_common::subject::Cell as CellName;
use bistro_tests::waiting::CONFIG;
use bistro_tests::{Cell, bare_core, wait_until};

const WORKERS: usize = 1_000;

/// This process has a connection for each of them, and its nats-server the other end.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("within its maximum");
}

/// What the scheduler sees of a worker that has nothing to do.
async fn idle_worker(bus: Bus, cell: CellName, number: usize, answers: Arc<Vec<AtomicUsize>>) {
    let random = [&(number as u64).to_be_bytes()[..], &[0, 0]].concat();
    let random: [u8; 10] = random.try_into().expect("ten bytes");
    let heartbeat = Heartbeat {
        worker: WorkerName::new(format!("w{number}")).expect("a valid name"),
        incarnation: Incarnation::from_parts(1, random),
        ledger: LedgerId::from_parts(1, random),
        ..bare_core::heartbeat(OpenDigest::default())
    };
    let mut connections = bus.connections();
    let mut due = tokio::time::interval(Duration::from_secs(4));
    loop {
        tokio::select! {
            _ = due.tick() => {}
            changed = connections.changed() => changed.expect("the bus lives"),
        }
        let subject = cell.heartbeat(&heartbeat.worker);
        let answer = bus.request(subject, encode(&heartbeat), Duration::from_secs(3)).await;
        answers[number].fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_workers_come_back_when_nats_does() {
    raise_descriptor_limit();
    let mut cell = Cell::new().await;
    cell.write_config(&CONFIG.replace(r#""enabled": true"#, r#""enabled": false"#));
    cell.terms = LeaseTerms::for_lease(60_000);
    cell.start_scheduler().await;
    let answers: Arc<Vec<_>> = Arc::new((0..WORKERS).map(|_| AtomicUsize::new(0)).collect());
    for number in 0..WORKERS {
        let bus = cell.connect(&format!("w{number}")).await;
        tokio::spawn(idle_worker(bus, cell.name().clone(), number, answers.clone()));
    }
    let healthy = |status: &bistro_common::protocol::api::CellStatus| status.workers_healthy;
    cell.wait_for("all of them", |status| healthy(status) as usize == WORKERS).await;
    cell.nats.kill();
    cell.nats.restart();
    answers.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    wait_until("all to be answered again", || {
        answers.iter().all(|count| count.load(Ordering::Relaxed) > 0)
    })
    .await;
    assert_eq!(healthy(&cell.status().await) as usize, WORKERS);
    let context = jetstream::new(cell.connect("operator").await.client().clone());
    let stream = context.get_stream(cell.name().done_stream()).await.expect("there is one");
    assert_eq!(stream.cached_info().state.consumer_count, 1, "none is left over");
}
