//! The reading ends of a task's pipes.

use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;

const READ_BYTES: usize = 16 << 10;

/// The reading end of one of the task's pipes.
pub enum Pipe {
    /// Nobody is told when there is something in it, which is dear for what is soon over.
    Unwatched(OwnedFd),
    Watched(pipe::Receiver),
    /// Every holder has closed it.
    Closed,
}

impl Pipe {
    pub fn new() -> std::io::Result<(Self, OwnedFd)> {
        let (reader, writer) = std::io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        Ok((Self::Unwatched(reader.into()), writer.into()))
    }

    /// Of one that is watched, or closed, nothing changes.
    pub fn watch(&mut self) -> std::io::Result<()> {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Unwatched(reader) => Self::Watched(pipe::Receiver::from_owned_fd(reader)?),
            as_it_was => as_it_was,
        };
        Ok(())
    }

    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Closed)
    }

    pub async fn readable(&self) {
        match self {
            // An error comes again when it is read.
            Self::Watched(pipe) => drop(pipe.readable().await),
            Self::Unwatched(_) | Self::Closed => std::future::pending().await,
        }
    }

    /// Takes what there is, if there is anything right now; returns whether there may be more. (A
    /// buffer of its own would be most of what an attempt takes of the worker's memory.)
    pub fn read(&mut self, take: impl FnOnce(&[u8])) -> bool {
        let mut buffer = [0; READ_BYTES];
        let read = match self {
            Self::Unwatched(reader) => {
                rustix::io::read(reader, &mut buffer).map_err(std::io::Error::from)
            }
            Self::Watched(pipe) => pipe.try_read(&mut buffer),
            Self::Closed => return false,
        };
        match read {
            Ok(count) if count > 0 => {
                take(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Ok(_) | Err(_) => {
                *self = Self::Closed;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn a_pipe_that_is_watched_twice_keeps_what_is_in_it() {
        let (mut pipe, writer) = Pipe::new().unwrap();
        assert!(!pipe.read(|_| panic!("there is nothing in it")) && pipe.is_open());
        std::io::PipeWriter::from(writer).write_all(b"done").unwrap();
        pipe.watch().unwrap();
        pipe.watch().unwrap();
        let mut all = Vec::new();
        while pipe.is_open() {
            pipe.readable().await;
            pipe.read(|bytes| all.extend_from_slice(bytes));
        }
        assert_eq!(all, b"done");
        pipe.watch().unwrap();
        assert!(!pipe.is_open());
    }
}
