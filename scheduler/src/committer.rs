//! The thread that writes: an fsync must not stop the loop.
//!
//! Where others stand by, what is written is in their stream first. So whatever is in a store is in
//! the stream, and what another store does not have yet, it will.
//!
//! Without room on the disk it tries again until there is some, with the same records: one that was
//! written after all is only written twice. The database takes nothing after a failed write, so it
//! is closed and opened again, as a restart would. Where others stand by, one of them has room.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use bistro_core::succession::Position;
use bistro_core::{Identity, Record};

use crate::standby::copy;
use crate::standby::stream::{Deposed, StreamEnd};
use crate::store::{Store, StoreError};

/// The loop has one batch at a time with the committer.
const BATCHES: usize = 1;

/// Between two tries to write what the disk had no room for.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store in {directory} is not the one that this scheduler has written any more")]
    Replaced { directory: PathBuf },
    #[error(transparent)]
    Deposed(#[from] Deposed),
}

/// What became of a batch.
#[derive(Debug)]
pub enum News {
    Committed,
    /// It is being tried again, and again: this is why.
    NoRoom(CommitError),
}

/// What the thread is asked for.
pub enum Work {
    Commit(Vec<Record>),
    /// To say in the stream that this scheduler still reigns.
    Renew,
    /// A page of the store, as it is sent to one that stands by.
    Page {
        after: Option<String>,
        reply: oneshot::Sender<Vec<u8>>,
    },
}

/// The loop's end of the thread.
pub struct Committer {
    work: mpsc::Sender<Work>,
    results: mpsc::Receiver<Result<News, CommitError>>,
    thread: std::thread::JoinHandle<Option<StreamEnd>>,
}

impl Committer {
    /// `store` is the one that the directory has, opened by this reign; `stream`, where others stand
    /// by.
    pub fn start(
        store: Store,
        directory: PathBuf,
        identity: Identity,
        stream: Option<StreamEnd>,
    ) -> Self {
        let (work, incoming) = mpsc::channel(BATCHES);
        let (outgoing, results) = mpsc::channel(BATCHES);
        let runtime = Handle::current();
        let writer = Writer { store: Some(store), directory, identity, stream, runtime };
        let thread = std::thread::spawn(move || writer.run(incoming, &outgoing));
        Self { work, results, thread }
    }

    /// Hands a batch over; its result comes from [`Committer::result`].
    pub async fn commit(&self, records: Vec<Record>) {
        // A thread that is gone has left its error in the results.
        let _ = self.work.send(Work::Commit(records)).await;
    }

    /// For those who ask for something else.
    pub fn work(&self) -> mpsc::Sender<Work> {
        self.work.clone()
    }

    /// `None`: the thread is gone.
    pub async fn result(&mut self) -> Option<Result<News, CommitError>> {
        self.results.recv().await
    }

    /// Waits until it has closed the store. All that was committed is on disk; nobody may have work
    /// for it any more.
    pub async fn end(self) -> Option<StreamEnd> {
        let Self { work, results, thread } = self;
        drop((work, results));
        let ended = tokio::task::spawn_blocking(|| thread.join()).await;
        ended.ok().and_then(Result::ok).flatten()
    }
}

struct Writer {
    /// None: it failed, and is closed.
    store: Option<Store>,
    directory: PathBuf,
    identity: Identity,
    stream: Option<StreamEnd>,
    runtime: Handle,
}

impl Writer {
    /// Until nobody has work any more, or something fails.
    fn run(
        mut self,
        mut incoming: mpsc::Receiver<Work>,
        outgoing: &mpsc::Sender<Result<News, CommitError>>,
    ) -> Option<StreamEnd> {
        while let Some(work) = incoming.blocking_recv() {
            let done = match work {
                Work::Commit(records) => self.commit(&records, &incoming, outgoing),
                Work::Renew => self.renew(),
                Work::Page { after, reply } => self.page(after.as_deref(), reply),
            };
            let done = done.and_then(|()| {
                // What is to be committed does not wait for all of it.
                while self.fold_some()? && incoming.is_empty() {}
                Ok(())
            });
            if let Err(error) = done {
                // Nobody listens at the end.
                let _ = outgoing.blocking_send(Err(error));
                break;
            }
        }
        self.stream
    }

    fn commit(
        &mut self,
        records: &[Record],
        incoming: &mpsc::Receiver<Work>,
        outgoing: &mpsc::Sender<Result<News, CommitError>>,
    ) -> Result<(), CommitError> {
        let position = match &mut self.stream {
            Some(stream) => Some(self.runtime.block_on(stream.records(records))?),
            None => None,
        };
        let mut tries = 0;
        loop {
            match self.append(records, position.clone()) {
                Err(error) if is_full(&error) && self.stream.is_none() => {
                    if tries == 0 {
                        // Nobody listens at the end.
                        let _ = outgoing.blocking_send(Ok(News::NoRoom(error)));
                    }
                    tries += 1;
                    std::thread::sleep(RETRY);
                    if incoming.is_closed() {
                        return Ok(());
                    }
                }
                result => {
                    result?;
                    let _ = outgoing.blocking_send(Ok(News::Committed));
                    return Ok(());
                }
            }
        }
    }

    fn append(
        &mut self,
        records: &[Record],
        position: Option<Position>,
    ) -> Result<(), CommitError> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => self.reopen()?,
        };
        store.append_at(records, position)?;
        self.store = Some(store);
        Ok(())
    }

    fn renew(&mut self) -> Result<(), CommitError> {
        match &mut self.stream {
            Some(stream) => Ok(self.runtime.block_on(stream.renew())?),
            None => Ok(()),
        }
    }

    /// Who gets no answer asks again.
    fn page(
        &mut self,
        after: Option<&str>,
        reply: oneshot::Sender<Vec<u8>>,
    ) -> Result<(), CommitError> {
        if let (Some(store), Some(stream)) = (&mut self.store, &mut self.stream) {
            if after.is_none() {
                // The stream may not have any more what is not folded.
                store.fold(usize::MAX)?;
                stream.forget(store.folded());
            }
            let _ = reply.send(copy::page(store, stream, self.identity.cell, after)?);
        }
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
        let Some(store) = &mut self.store else { return Ok(false) };
        match store.fold_some().map_err(CommitError::from) {
            Ok(more) => {
                let folded = store.folded();
                self.stream.iter_mut().for_each(|stream| stream.forget(folded));
                Ok(more)
            }
            // The next commit opens it anew, and says it if there is no room still.
            Err(error) if is_full(&error) && self.stream.is_none() => {
                self.store = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Is it only that there is no room?
pub fn is_full(error: &CommitError) -> bool {
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
