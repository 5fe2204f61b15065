//! The guard: one small single-threaded process per worker, parent of all its tasks.
//!
//! It exists so that tasks end on time whatever becomes of the worker: it kills everything below
//! it at the end of the lease, also when the worker is stopped or wedged, and when the worker is
//! gone. It is a subreaper, so what a task leaves behind becomes its child and cannot get away.
//! It starts and signals what it is told to, and decides nothing else.
//!
//! The two talk over a socket of packets (the guard's standard input), one JSON message each. An
//! order to start comes with the task's pipes.

mod birth;
mod cgroup;
mod client;
mod confine;
mod process;
mod spawn;

use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::assign::{Confinement, Limits};
use bistro_common::protocol::heartbeat::{Isolation, Limited};

pub use cgroup::end_leftovers as end_cgroups;
pub use client::{Guard, GuardCommand, GuardError, Reports};
pub use confine::run as run_confined;
pub use process::run;

/// So many reports go into a packet: a kernel's error and an id are all that one holds.
const REPORTS_MAX: usize = 16;

/// The largest order; a kernel's default send buffer takes it in one packet.
const PACKET_BYTES_MAX: usize = 192 << 10;

/// From the worker to the guard.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Start(Start),
    Signal {
        attempt: AttemptId,
        signal: TaskSignal,
    },
    /// When everything must be dead, on [`bistro_common::clock::boot_ms`]'s clock. Replaces the last one.
    Deadline {
        boot_ms: Millis,
    },
}

/// What is reported of a process that has ended as it should.
pub const EXITED_WELL: &str = "exited with status 0";

/// The number of the pipe for its status in a task.
const STATUS_NUMBER: i32 = 130;
/// The path of that, as the task sees it.
pub const STATUS_PATH: &str = "/dev/fd/130";

/// Comes with descriptors: stdout, stderr, status and, where the task has no cgroup that says when it
/// is over, a canary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    pub attempt: AttemptId,
    pub argv: Vec<String>,
    pub directory: PathBuf,
    pub env: Vec<(String, String)>,
    pub confinement: Confinement,
    pub limits: Limits,
}

/// How a guard holds tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// How it can take a task's tree down.
    pub isolation: Isolation,
    /// What it can limit a task in.
    pub limits: Vec<Limited>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskSignal {
    /// To the task's process group.
    Term,
    /// To everything that the task has started, until nothing is left.
    Kill,
}

/// From the guard to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The first one.
    Ready(Hold),
    Started {
        attempt: AttemptId,
        pid: i32,
    },
    NotStarted {
        attempt: AttemptId,
        error: String,
    },
    Exited {
        attempt: AttemptId,
        exit: String,
        cpu_ms: u64,
        /// Something that it has started has not ended: [`Report::Empty`] follows.
        left: bool,
    },
    /// Nothing of the attempt is left.
    Empty {
        attempt: AttemptId,
    },
}

impl Report {
    pub fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Ready(_) => None,
            Self::Started { attempt, .. }
            | Self::NotStarted { attempt, .. }
            | Self::Exited { attempt, .. }
            | Self::Empty { attempt } => Some(*attempt),
        }
    }
}

fn send_packet(socket: impl AsFd, message: &impl Serialize) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    rustix::net::send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet and what came with it; `Ok(None)` when the other side is gone.
fn receive_packet(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> std::io::Result<Option<(usize, Vec<OwnedFd>)>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, ReturnFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut parts, &mut ancillary, flags)?;
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(std::io::Error::other("a packet is too large"));
    }
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    Ok((received.bytes > 0).then_some((received.bytes, descriptors)))
}
