//! The time that cores are told: the wall clock at start, plus what has passed since, the time that
//! the host has slept included.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Millis;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall_ms: Millis,
    started_boot_ms: Millis,
}

impl Clock {
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_ms: wall.as_millis() as Millis, started_boot_ms: boot_ms() }
    }

    pub fn now(&self) -> Millis {
        self.wall_ms + boot_ms().saturating_sub(self.started_boot_ms)
    }

    /// The moment of a time, for timers. (They stand still while the host sleeps: whoever wakes up
    /// asks for the time again.)
    pub fn instant(&self, at: Millis) -> Instant {
        Instant::now() + Duration::from_millis(at.saturating_sub(self.now()))
    }
}

/// Milliseconds since the host was booted, sleep included. The same for all its processes.
pub fn boot_ms() -> Millis {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as Millis * 1_000 + now.tv_nsec as Millis / 1_000_000
}

/// Waits until a moment; for ever if there is none.
pub async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
