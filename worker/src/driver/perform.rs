//! Effects, carried out in order, and what the worker says of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

use bistro_common::clock::boot_ms;
use bistro_common::ids::Incarnation;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Capacity, Heartbeat};
use bistro_common::protocol::{MESSAGE_BYTES_MAX, VERSION, encode, encoded_len};
use bistro_worker_core::{Effect, Facts, Input};

use super::{Driver, News, WorkerError};
use crate::{bus, exec};

impl Driver {
    pub(super) async fn perform(&mut self, effect: Effect) -> Result<(), WorkerError> {
        match effect {
            Effect::Persist(_) => {}
            Effect::Deadline(at) => {
                let left_ms = at.saturating_sub(self.clock.now());
                self.here.guard.set_deadline(boot_ms() + left_ms);
            }
            Effect::AssignReply { token, reply } => self.reply(token, encode(&reply)).await,
            Effect::ControlReply { token, reply } => self.reply(token, encode(&reply)).await,
            Effect::Spawn(assignment) => {
                let (kills, orders) = exec::killing();
                self.running.insert(assignment.open.attempt, kills);
                let (here, news) = (self.here.clone(), self.news.clone());
                let stopping = self.stopping.clone();
                tokio::spawn(async move {
                    let interrupted = move || stopping.load(Ordering::Relaxed);
                    let result = exec::run(here, assignment, orders, interrupted).await;
                    drop(news.send(News::Input(Input::Ended { result })).await);
                });
            }
            Effect::Kill { attempt, kill } => {
                if let Some(kills) = self.running.get_mut(&attempt) {
                    // A full queue has enough orders to end it already.
                    let _ = kills.try_send(kill);
                }
            }
            Effect::Publish(results) => {
                if let Some(cell) = self.core.cell() {
                    let (worker, incarnation) = (self.options.name.clone(), self.core.incarnation);
                    let done = Done { v: VERSION, cell, worker, incarnation, results };
                    let (bus, context) = (self.bus.clone(), self.context.clone());
                    let (cell, news) = (self.options.cell.clone(), self.news.clone());
                    let attempts = done.results.iter().map(|result| result.attempt).collect();
                    tokio::spawn(async move {
                        let stored = bus::publish(bus, context, cell, done).await;
                        drop(news.send(News::Input(Input::Published { attempts, stored })).await);
                    });
                }
            }
            Effect::HeartbeatNow => self.heartbeat_at = Instant::now(),
            Effect::Reborn => {
                self.core.reborn(Incarnation::generate());
                self.heartbeat_at = Instant::now();
            }
            Effect::Ignored { detail } => {
                tracing::warn!("an answer to this worker's heartbeats is not followed: {detail}");
            }
            Effect::Unwanted { detail } => return Err(WorkerError::Unwanted(detail)),
        }
        Ok(())
    }

    async fn reply(&mut self, token: u64, payload: Vec<u8>) {
        if let Some(subject) = self.replies.remove(&token) {
            self.say(subject, payload).await;
        }
    }

    /// Publishes an answer, which may be lost.
    pub(super) async fn say(&mut self, subject: String, payload: Vec<u8>) {
        if let Err(error) = self.bus.publish(subject, payload).await {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    /// `last`: it is the worker's goodbye.
    fn heartbeat(&mut self, last: bool) -> Heartbeat {
        let facts = Facts {
            host: self.options.host.clone(),
            boot: self.boot.trim().to_owned(),
            pid: std::process::id(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started,
            capacity: self.capacity(),
        };
        self.core.heartbeat(facts, last)
    }

    fn capacity(&self) -> Capacity {
        let hold = self.here.guard.hold();
        let (isolation, limits) = hold.map(|hold| (hold.isolation, hold.limits)).unzip();
        Capacity { isolation, limits: limits.unwrap_or_default(), ..self.machine.capacity() }
    }

    pub(super) fn send_heartbeat(&mut self) {
        self.heartbeat_at = Instant::now() + Duration::from_millis(self.core.heartbeat_ms());
        let mut heartbeat = self.heartbeat(false);
        if heartbeat.open_attempts.is_some() && encoded_len(&heartbeat) > MESSAGE_BYTES_MAX {
            // The lease matters more; what became of attempts can be asked one by one.
            tracing::warn!("the list of open attempts is too long for a heartbeat");
            heartbeat.open_attempts = None;
        }
        let (bus, cell) = (self.bus.clone(), self.options.cell.clone());
        let (sent, news) = (self.clock.now(), self.news.clone());
        let loyalty = self.core.loyalty();
        self.asking += 1;
        tokio::spawn(async move {
            let answers = bus::heartbeat(&bus, &cell, &heartbeat, loyalty).await;
            // A driver that is gone needs no answer.
            drop(news.send(News::Heard { sent, answers }).await);
        });
    }

    pub(super) async fn say_goodbye(&mut self) {
        let heartbeat = self.heartbeat(true);
        let loyalty = self.core.loyalty();
        bus::heartbeat(&self.bus, &self.options.cell, &heartbeat, loyalty).await;
    }
}
