//! The time that cores are told: the wall clock at start, plus what has passed since.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::Millis;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall_ms: Millis,
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_ms: wall.as_millis() as Millis, started: Instant::now() }
    }

    pub fn now(&self) -> Millis {
        self.wall_ms + self.started.elapsed().as_millis() as Millis
    }

    /// The moment of a time, for timers.
    pub fn instant(&self, at: Millis) -> Instant {
        self.started + std::time::Duration::from_millis(at.saturating_sub(self.wall_ms))
    }
}
