//! The worker's side of the guard: starts it, and starts it again if it dies.

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, LedgerId};

use super::{
    Hold, Order, PACKET_BYTES_MAX, REPORTS_MAX, Report, Start, TaskSignal, receive_packet,
};
use crate::processes::{LEDGER_VARIABLE, end_leftovers};

/// Orders on their way to the guard; whoever has more waits.
const ORDERS_MAX: usize = 256;
/// A report has a text of the kernel's and an id.
const REPORT_BYTES_MAX: usize = REPORTS_MAX * (4 << 10);
const RESTART_DELAY: Duration = Duration::from_millis(200);

/// How to start a guard: a program whose `main` calls [`super::run`].
#[derive(Clone, Debug)]
pub struct GuardCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Variables that tasks get beside those that every program may need; nothing else of the
    /// worker's reaches them.
    pub pass_env: Vec<String>,
}

/// What a program may need to find its way, and no secret.
const TASK_VARIABLES: &[&str] =
    &["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"];

impl GuardCommand {
    fn passes(&self, name: &OsStr) -> bool {
        name.to_str().is_some_and(|name| {
            name.starts_with("LC_")
                || TASK_VARIABLES.contains(&name)
                || self.pass_env.iter().any(|passed| passed == name)
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("the guard process {program} cannot be started")]
    Start {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the command line has more than {PACKET_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the guard is gone")]
    Gone,
}

/// What is reported of one attempt. (One of tokio's channels takes kilobytes, and there is one for
/// each attempt.)
pub type Reports = futures_channel::mpsc::UnboundedReceiver<Report>;
type Reporting = futures_channel::mpsc::UnboundedSender<Report>;

/// One order as it is sent, its descriptors, and who waits for reports about which attempt.
struct Sent {
    order: Vec<u8>,
    pipes: Vec<OwnedFd>,
    reports: Option<(AttemptId, Reporting)>,
}

type Waiting = HashMap<AttemptId, Reporting>;

/// A handle to the guard. When the last one is dropped, the guard kills every task and ends.
#[derive(Clone)]
pub struct Guard {
    orders: mpsc::Sender<Sent>,
    deadline: watch::Sender<Option<Millis>>,
    hold: watch::Receiver<Option<Hold>>,
}

impl Guard {
    /// Starts a guard whose tasks carry the ledger's mark.
    pub fn start(command: GuardCommand, ledger: LedgerId) -> Result<Self, GuardError> {
        let process = GuardProcess::start(&command, ledger)?;
        let (orders, incoming) = mpsc::channel(ORDERS_MAX);
        let (deadline, deadlines) = watch::channel(None);
        let (known, hold) = watch::channel(None);
        tokio::spawn(tend(process, command, ledger, incoming, deadlines, known));
        Ok(Self { orders, deadline, hold })
    }

    /// Starts a task. Its reports end without an exit if the guard has died; everything that the
    /// task has started is dead then.
    pub async fn start_task(
        &self,
        start: Start,
        pipes: Vec<OwnedFd>,
    ) -> Result<Reports, GuardError> {
        let attempt = start.attempt;
        let order = encode(&Order::Start(start));
        if order.len() > PACKET_BYTES_MAX {
            return Err(GuardError::TooLarge);
        }
        // Never more than three reports per attempt.
        let (sender, reports) = futures_channel::mpsc::unbounded();
        let sent = Sent { order, pipes, reports: Some((attempt, sender)) };
        self.orders.send(sent).await.map_err(|_| GuardError::Gone)?;
        Ok(reports)
    }

    pub async fn signal(&self, attempt: AttemptId, signal: TaskSignal) {
        let order = encode(&Order::Signal { attempt, signal });
        // A guard that is gone has taken its tasks with it.
        let _ = self.orders.send(Sent { order, pipes: Vec::new(), reports: None }).await;
    }

    /// What is in force, once the guard has said it.
    pub fn hold(&self) -> Option<Hold> {
        self.hold.borrow().clone()
    }

    /// Sets when everything must be dead.
    pub fn set_deadline(&self, boot_ms: Millis) {
        self.deadline.send_replace(Some(boot_ms));
    }
}

fn encode(order: &Order) -> Vec<u8> {
    serde_json::to_vec(order).expect("orders have string keys and finite numbers")
}

struct GuardProcess {
    child: Child,
    /// It keeps packets apart as a datagram socket does, and also tells when the other end is
    /// gone.
    socket: UnixDatagram,
}

impl GuardProcess {
    fn start(command: &GuardCommand, ledger: LedgerId) -> Result<Self, GuardError> {
        let start = || -> std::io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            let child = Command::new(&command.program)
                .arg0("bistro")
                .args(&command.args)
                .env_clear()
                .envs(std::env::vars_os().filter(|(name, _)| command.passes(name)))
                .env(LEDGER_VARIABLE, ledger.to_string())
                .stdin(Stdio::from(theirs))
                .stdout(Stdio::null())
                // Away from the terminal's ctrl-c.
                .process_group(0)
                .spawn()?;
            let socket = UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(ours))?;
            Ok(Self { child, socket })
        };
        start().map_err(|source| GuardError::Start { program: command.program.clone(), source })
    }

    async fn send(&self, order: &[u8], pipes: &[OwnedFd]) -> std::io::Result<()> {
        let send = || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let pipes: Vec<_> = pipes.iter().map(AsFd::as_fd).collect();
            if !pipes.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&pipes)) {
                return Err(std::io::Error::other("too many pipes"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sendmsg(&self.socket, &[IoSlice::new(order)], &mut ancillary, flags)?;
            Ok(())
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    /// The next reports, or `None` when the guard is gone.
    async fn receive(&self, buffer: &mut [u8]) -> Option<Vec<Report>> {
        let received =
            self.socket.async_io(Interest::READABLE, || receive_packet(&self.socket, buffer)).await;
        match received {
            Ok(Some((count, _))) => serde_json::from_slice(&buffer[..count]).ok(),
            Ok(None) => None,
            Err(error) => {
                if error.kind() != ErrorKind::ConnectionReset {
                    tracing::warn!(%error, "the guard cannot be heard");
                }
                None
            }
        }
    }

    /// Carries orders and reports until the guard is gone (true) or nobody has orders any more.
    async fn serve(
        &self,
        orders: &mut mpsc::Receiver<Sent>,
        deadlines: &mut watch::Receiver<Option<Millis>>,
        waiting: &mut Waiting,
        hold: &watch::Sender<Option<Hold>>,
    ) -> bool {
        let mut buffer = vec![0; REPORT_BYTES_MAX];
        deadlines.mark_changed();
        loop {
            let sent = tokio::select! {
                // In order: a new deadline must be there before what it allows.
                biased;
                Ok(()) = deadlines.changed() => {
                    let deadline = *deadlines.borrow_and_update();
                    match deadline {
                        Some(boot_ms) => self.send(&encode(&Order::Deadline { boot_ms }), &[]).await,
                        None => Ok(()),
                    }
                }
                sent = orders.recv() => {
                    let Some(Sent { order, pipes, reports }) = sent else { return false };
                    waiting.extend(reports);
                    self.send(&order, &pipes).await
                }
                reports = self.receive(&mut buffer) => {
                    let Some(reports) = reports else { return true };
                    for report in reports {
                        match report {
                            Report::Ready(known) => drop(hold.send_replace(Some(known))),
                            report => deliver(report, waiting),
                        }
                    }
                    Ok(())
                }
            };
            if let Err(error) = sent {
                tracing::warn!(%error, "the guard does not take orders");
                return true;
            }
        }
    }
}

fn deliver(report: Report, waiting: &mut Waiting) {
    let Some(attempt) = report.attempt() else { return };
    let more = matches!(report, Report::Started { .. } | Report::Exited { left: true, .. });
    if let Some(sender) = waiting.get(&attempt) {
        // An attempt that waits no more has ended another way.
        let _ = sender.unbounded_send(report);
    }
    if !more {
        waiting.remove(&attempt);
    }
}

/// Keeps a guard running for as long as there are handles.
async fn tend(
    mut process: GuardProcess,
    command: GuardCommand,
    ledger: LedgerId,
    mut orders: mpsc::Receiver<Sent>,
    mut deadlines: watch::Receiver<Option<Millis>>,
    hold: watch::Sender<Option<Hold>>,
) {
    let mut waiting = Waiting::new();
    while process.serve(&mut orders, &mut deadlines, &mut waiting, &hold).await {
        tracing::error!("the guard has ended: its tasks are killed, and it is started again");
        // Killed too: a guard that talks nonsense must not go on either.
        let _ = process.child.kill().await;
        let left = tokio::task::spawn_blocking(move || end_leftovers(ledger)).await;
        if !left.is_ok_and(|left| left.is_empty()) {
            tracing::error!("some processes of its tasks cannot be killed; reboot the host");
        }
        // Whoever waits for a report learns that none comes, now that the tasks are dead.
        waiting.clear();
        process = loop {
            match GuardProcess::start(&command, ledger) {
                Ok(process) => break process,
                Err(error) => tracing::error!(%error, "no guard, so no task can start"),
            }
            tokio::time::sleep(RESTART_DELAY).await;
        };
    }
    // It ends by itself once everything below it is dead.
    drop(process.socket);
    let _ = process.child.wait().await;
}
