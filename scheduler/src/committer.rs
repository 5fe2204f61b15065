//! The thread that writes: an fsync must not stop the loop.
//!
//! Without room on the disk it tries again until there is some, with the same records: one that was
//! written after all is only written twice. The database takes nothing after a failed write, so it
//! is closed and opened again, as a restart would.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

use bistro_core::{Identity, Record};

use crate::store::{Store, StoreError};

/// The loop has one batch at a time with the committer.
const BATCHES: usize = 1;

/// Between two tries to write what the disk had no room for.
const RETRY: Duration = Duration::from_secs(1);

/// With so many rows in the journal, it is worth folding.
const FOLD_AT: usize = 10_000;

/// So many at a time, since commits wait meanwhile: as many as they bring at the most, or the
/// journal would grow under load.
const FOLD_ROWS: usize = 2_000;

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store in {directory} is not the one that this scheduler has written any more")]
    Replaced { directory: PathBuf },
}

/// What became of a batch.
#[derive(Debug)]
pub enum News {
    Committed,
    /// It is being tried again, and again: this is why.
    NoRoom(CommitError),
}

/// The loop's end of the thread.
pub struct Committer {
    batches: mpsc::Sender<Vec<Record>>,
    results: mpsc::Receiver<Result<News, CommitError>>,
}

impl Committer {
    /// `store` is the one that the directory has, opened by this reign.
    pub fn start(store: Store, directory: PathBuf, identity: Identity) -> Self {
        let (batches, mut incoming) = mpsc::channel::<Vec<Record>>(BATCHES);
        let (outgoing, results) = mpsc::channel(BATCHES);
        let mut writer = Writer { store: Some(store), directory, identity };
        std::thread::spawn(move || {
            while let Some(records) = incoming.blocking_recv() {
                let mut tries = 0;
                let result = loop {
                    match writer.append(&records) {
                        Err(error) if is_full(&error) => {
                            if tries == 0
                                && outgoing.blocking_send(Ok(News::NoRoom(error))).is_err()
                            {
                                return;
                            }
                            tries += 1;
                            std::thread::sleep(RETRY);
                            if incoming.is_closed() {
                                return;
                            }
                        }
                        result => break result,
                    }
                };
                let failed = result.is_err();
                let result = result.map(|()| News::Committed);
                if outgoing.blocking_send(result).is_err() || failed {
                    return;
                }
                loop {
                    match writer.fold_some() {
                        // What is to be committed does not wait for all of it.
                        Ok(more) if more && incoming.is_empty() => {}
                        Ok(_) => break,
                        Err(error) => {
                            // It is heard in place of the next commit's result. Nobody listens at
                            // the end.
                            let _ = outgoing.blocking_send(Err(error));
                            return;
                        }
                    }
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
    pub async fn result(&mut self) -> Option<Result<News, CommitError>> {
        self.results.recv().await
    }
}

struct Writer {
    /// None: it failed, and is closed.
    store: Option<Store>,
    directory: PathBuf,
    identity: Identity,
}

impl Writer {
    fn append(&mut self, records: &[Record]) -> Result<(), CommitError> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => self.reopen()?,
        };
        store.append(records)?;
        self.store = Some(store);
        Ok(())
    }

    /// That begins an epoch which nobody reigns in: they must grow, not follow each other.
    fn reopen(&self) -> Result<Store, CommitError> {
        let opened = Store::open(&self.directory)?;
        let ours = opened.cell == self.identity.cell && opened.epoch > self.identity.epoch;
        let replaced = || CommitError::Replaced { directory: self.directory.clone() };
        ours.then_some(opened.store).ok_or_else(replaced)
    }

    /// Returns whether there is more to do.
    fn fold_some(&mut self) -> Result<bool, CommitError> {
        let Some(store) = self.store.as_mut().filter(|store| store.unfolded() >= FOLD_AT) else {
            return Ok(false);
        };
        match store.fold(FOLD_ROWS).map_err(CommitError::from) {
            Ok(()) => Ok(true),
            // The next commit opens it anew, and says it if there is no room still.
            Err(error) if is_full(&error) => {
                self.store = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Is it only that there is no room?
fn is_full(error: &CommitError) -> bool {
    let CommitError::Store(error) = error else { return false };
    let io = match error {
        StoreError::Database(error) => match &**error {
            redb::Error::Io(error) => error,
            _ => return false,
        },
        StoreError::Open { source, .. } => match &**source {
            redb::DatabaseError::Storage(redb::StorageError::Io(error)) => error,
            _ => return false,
        },
        _ => return false,
    };
    // The disk, somebody's share of it, or what a file may have.
    matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
