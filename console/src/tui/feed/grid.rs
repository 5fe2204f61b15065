//! The grid: all of its pages, and then what changes, for as long as it is in sight.

use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};

use bistro_common::protocol::api::{Grid, GridRequest, verb};
use bistro_common::protocol::decode;
use bistro_common::protocol::view::{GridDelta, GridPlace};
use std::time::Duration;

use super::{POLL, ask, pause, until, wanted};
use crate::client::Client;
use crate::tui::update::Message;
use crate::tui::wants::Wants;

/// Well within the time that a watcher counts as watching.
const RENEW: Duration = Duration::from_secs(5);
/// A grid that is out of step is asked for again, but not all the time.
const RESYNC: Duration = Duration::from_millis(300);

pub(super) async fn grid(
    client: Client,
    mut wants: watch::Receiver<Wants>,
    in_sync: watch::Receiver<bool>,
    out: mpsc::Sender<Message>,
) {
    while wanted(&mut wants, |wants| wants.grid.then_some(())).await.is_some() {
        let mut gone = wants.clone();
        tokio::select! {
            result = watch_grid(&client, in_sync.clone(), &out) => {
                if let Err(error) = result {
                    let _ = out.send(Message::GridTrouble(format!("{error:#}"))).await;
                }
                // What failed will not be different at once.
                pause(&client, POLL).await;
            }
            () = until(&mut gone, |wants| !wants.grid) => {}
        }
    }
}

async fn watch_grid(
    client: &Client,
    mut in_sync: watch::Receiver<bool>,
    out: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let mut deltas = client.bus.client().subscribe(client.cell.view_grid()).await?;
    let mut layout = 0;
    loop {
        let known = if *in_sync.borrow() { layout } else { 0 };
        let mut from = Some(GridPlace::default());
        while let Some(place) = from {
            let request = GridRequest { watch: true, in_sync: known, from: place, under: None };
            let page = ask::<Grid>(client, verb::GRID, &request).await?;
            // What came before the answer belongs before it.
            while let Some(Some(delta)) = deltas.next().now_or_never() {
                send_delta(&delta, out).await?;
            }
            let changed = place != GridPlace::default() && page.layout != layout;
            layout = page.layout;
            // Another layout in the middle: all of it anew.
            from = if changed { Some(GridPlace::default()) } else { page.next };
            if !changed {
                out.send(Message::Grid(place, page)).await?;
            }
        }
        let renew = tokio::time::sleep(RENEW);
        tokio::pin!(renew);
        loop {
            tokio::select! {
                () = &mut renew => break,
                () = until(&mut in_sync, |in_sync| !in_sync) => {
                    tokio::time::sleep(RESYNC).await;
                    break;
                }
                delta = deltas.next() => {
                    let Some(delta) = delta else { return Ok(()) };
                    send_delta(&delta, out).await?;
                }
            }
        }
    }
}

async fn send_delta(
    message: &async_nats::Message,
    out: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    // One that cannot be read leaves a gap, which is noticed.
    if let Ok(delta) = decode::<GridDelta>(&message.payload) {
        out.send(Message::GridDelta(delta)).await?;
    }
    Ok(())
}
