//! Several schedulers of one cell.

use async_nats::jetstream;
use futures_util::StreamExt;
use std::time::{Duration, Instant};

use crate::Cell;

/// However much is to be copied.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of several schedulers, each with a disk of its own, before it is started. One takes over a
/// second after another was heard last.
pub fn command(cell: &Cell, disk: &str) -> std::process::Command {
    let mut command = cell.scheduler_command(&cell.directory.path().join(disk));
    command.args(["--with-standbys", "--takeover-sec", "1"]);
    command
}

/// Until so many follow the stream of records, and have all of it.
pub async fn wait_for_followers(cell: &Cell, count: usize) {
    let context = jetstream::new(cell.connect("test").await.client().clone());
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = context.get_stream(cell.name().records_stream()).await {
            let consumers = stream.consumers().collect::<Vec<_>>().await;
            let up_to_date = consumers.iter().flatten().filter(|c| c.num_pending == 0).count();
            if up_to_date >= count {
                return;
            }
        }
        assert!(Instant::now() < deadline, "nobody follows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
