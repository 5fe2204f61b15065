//! What goes wrong in a run, and when: drawn from the seed before the run begins.

use fastrand::Rng;

use crate::queue::{MS, SEC, Us};
use crate::scheduler::Operation;
use crate::worker;
use crate::world::{Doom, Event, WORKERS, World, called};

/// Faults begin within this time; then the world is whole again, and everything must settle.
pub const FAULTS_UNTIL: Us = 40 * SEC;

/// Who is concerned: the scheduler is 0, workers come after it.
pub type Node = usize;

pub const SCHEDULER: Node = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// kill -9, and a start after it.
    Crash,
    /// The same at the next commit: before it, after it, or after so many effects.
    CrashAtCommit { effects: Option<u8> },
    /// The machine goes off: its processes die, and nobody hears a farewell.
    PowerLoss,
    /// SIGSTOP, and SIGCONT after it.
    Pause,
    /// SIGTERM, and a start after it.
    Stop,
    /// Nothing goes out to NATS, or nothing comes in, or both.
    Cut { out: bool, into: bool },
    /// Messages take up to half a minute.
    Slow,
    /// The disk takes up to a second for a commit.
    SlowDisk,
    /// The stream loses what it has.
    StreamLoss,
    /// The stream delivers again what it has delivered.
    Redelivery,
    /// The scheduler's machine is isolated, and replaced by one whose disk is as it was before. What
    /// the old one has sent meanwhile comes when the new one reigns.
    Replaced,
    /// An operator kills something that runs there.
    Kill,
    /// An operator drains the worker for a while.
    Drain,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub at: Us,
    pub of: Node,
    pub kind: FaultKind,
    /// How long it lasts, or how long the process is away.
    pub lasts: Us,
}

/// None to about ten faults.
pub fn draw(seed: u64) -> Vec<Fault> {
    let mut rng = Rng::with_seed(seed ^ 0xfa17);
    let mut faults: Vec<Fault> = (0..rng.usize(0..10)).map(|_| draw_one(&mut rng)).collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}

fn draw_one(rng: &mut Rng) -> Fault {
    let kind = match rng.u8(0..15) {
        0 => FaultKind::Crash,
        1 | 2 => {
            let effects = rng.bool().then(|| rng.u8(0..4));
            FaultKind::CrashAtCommit { effects }
        }
        3 => FaultKind::PowerLoss,
        4 | 5 => FaultKind::Pause,
        6 => FaultKind::Stop,
        7 | 8 => match rng.u8(0..3) {
            0 => FaultKind::Cut { out: true, into: false },
            1 => FaultKind::Cut { out: false, into: true },
            _ => FaultKind::Cut { out: true, into: true },
        },
        9 => FaultKind::Slow,
        10 => FaultKind::SlowDisk,
        11 if rng.bool() => FaultKind::StreamLoss,
        11 => FaultKind::Redelivery,
        12 => FaultKind::Kill,
        13 => FaultKind::Drain,
        _ => FaultKind::Replaced,
    };
    let of = if kind == FaultKind::Replaced { SCHEDULER } else { rng.usize(0..=WORKERS) };
    // Short ones are blinks, long ones outlast every lease.
    let lasts = match rng.u8(0..3) {
        0 => rng.u64(0..500 * MS),
        1 => rng.u64(0..5 * SEC),
        _ => rng.u64(0..40 * SEC),
    };
    Fault { at: rng.u64(0..FAULTS_UNTIL), of, kind, lasts }
}

impl World {
    pub fn fault_begins(&mut self, number: usize) {
        let Fault { of: node, kind, lasts, .. } = self.faults[number];
        let (now, trace) = (self.now, &mut self.trace);
        trace.say(now, || format!("FAULT of {}: {kind:?} for {} ms", called(node), lasts / MS));
        let until = now + lasts;
        self.queue.plan(until, Event::Ends(number));
        let host = &mut self.hosts[node];
        match kind {
            FaultKind::Crash => self.kill(node, false),
            FaultKind::PowerLoss => self.kill(node, true),
            FaultKind::CrashAtCommit { effects } => {
                let doom = Some(Doom { effects });
                match node {
                    SCHEDULER => self.scheduler.doom = doom,
                    worker => self.worker(worker).doom = doom,
                }
            }
            FaultKind::Pause => host.paused_until = until.max(host.paused_until),
            FaultKind::Stop if node != SCHEDULER && host.alive => self.stop_worker(node),
            FaultKind::Stop => self.kill(node, false),
            FaultKind::Cut { out, into } => self.cut(node, out, into),
            FaultKind::Slow => host.slow_until = until,
            FaultKind::SlowDisk => host.slow_disk_until = until,
            FaultKind::StreamLoss => self.lose_stream(),
            FaultKind::Redelivery => self.deliver_again(),
            FaultKind::Replaced => self.isolate(),
            FaultKind::Kill => {
                if let Some(attempt) = self.checks.running_on(node) {
                    self.operate(Operation::Kill(attempt));
                }
            }
            FaultKind::Drain => self.drain(node, true),
        }
    }

    pub fn fault_ends(&mut self, number: usize) {
        let Fault { of: node, kind, .. } = self.faults[number];
        match kind {
            FaultKind::Cut { .. } => self.heal(node),
            FaultKind::Replaced => self.replace_scheduler(),
            FaultKind::Drain => self.drain(node, false),
            _ => {}
        }
        // Whatever has died meanwhile is started again.
        self.queue.plan(self.now + self.rng.u64(MS..SEC), Event::Boots(node));
    }

    fn drain(&mut self, node: Node, on: bool) {
        if node != SCHEDULER && self.hosts[SCHEDULER].alive {
            self.operate(Operation::Drain { worker: worker::name(node), on });
        }
    }
}
