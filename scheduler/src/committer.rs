//! The thread that writes: an fsync must not stop the loop.

use tokio::sync::mpsc;

use bistro_core::Record;

use crate::store::{Store, StoreError};

/// The loop has one batch at a time with the committer.
const BATCHES: usize = 1;

/// The loop's end of the thread.
pub struct Committer {
    batches: mpsc::Sender<Vec<Record>>,
    results: mpsc::Receiver<Result<(), StoreError>>,
}

impl Committer {
    pub fn start(mut store: Store) -> Self {
        let (batches, mut incoming) = mpsc::channel::<Vec<Record>>(BATCHES);
        let (outgoing, results) = mpsc::channel(BATCHES);
        std::thread::spawn(move || {
            while let Some(records) = incoming.blocking_recv() {
                let result = store.append(records.iter());
                let failed = result.is_err();
                if outgoing.blocking_send(result).is_err() || failed {
                    return;
                }
                if store.wants_fold()
                    && let Err(error) = store.fold()
                {
                    // It is heard in place of the next commit's result. Nobody listens at the end.
                    let _ = outgoing.blocking_send(Err(error));
                    return;
                }
            }
        });
        Self { batches, results }
    }

    /// Hands a batch over; its result comes from [`Committer::result`].
    pub async fn commit(&self, records: Vec<Record>) {
        // A thread that is gone has left its error in the results.
        let _ = self.batches.send(records).await;
    }

    /// `None`: the thread is gone.
    pub async fn result(&mut self) -> Option<Result<(), StoreError>> {
        self.results.recv().await
    }
}
