//! How much memory running tasks take, looked at now and then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

use crate::processes::Tree;

/// Between two looks at all of them (the original's period).
const LOOK: Duration = Duration::from_secs(2);

/// The most memory so far, in KiB, by the tasks' first processes; zero before the first look.
type Peaks = Mutex<HashMap<i32, u64>>;

/// Looks until the last handle is dropped.
#[derive(Clone)]
pub struct Usages {
    peaks: Arc<Peaks>,
}

impl Usages {
    pub fn start() -> Self {
        let peaks = Arc::new(Peaks::default());
        tokio::spawn(look_again_and_again(Arc::downgrade(&peaks)));
        Self { peaks }
    }

    /// Looks at a process and what descends from it from now on.
    pub fn watch(&self, pid: i32) -> Watched {
        lock(&self.peaks).insert(pid, 0);
        Watched { peaks: self.peaks.clone(), pid }
    }
}

pub struct Watched {
    peaks: Arc<Peaks>,
    pid: i32,
}

impl Watched {
    /// None: it was never looked at.
    pub fn memory_peak_kb(&self) -> Option<u64> {
        lock(&self.peaks).get(&self.pid).copied().filter(|&peak| peak > 0)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&self.peaks).remove(&self.pid);
    }
}

fn lock(peaks: &Peaks) -> MutexGuard<'_, HashMap<i32, u64>> {
    peaks.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look_again_and_again(peaks: Weak<Peaks>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(peaks) = peaks.upgrade() else { return };
        if !lock(&peaks).is_empty() {
            // A look that fails is made again.
            let _ = tokio::task::spawn_blocking(move || look(&peaks)).await;
        }
    }
}

fn look(peaks: &Peaks) {
    let tree = Tree::read();
    for (&pid, peak) in lock(peaks).iter_mut() {
        let of_all = tree.with_descendants(pid).into_iter().map(|pid| tree.memory_kb(pid));
        *peak = of_all.sum::<u64>().max(*peak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_process_and_its_children_take_is_seen() {
        let usages = Usages::start();
        let mut shell = std::process::Command::new("sh");
        let mut child = shell.args(["-c", "sleep 600 & sleep 600"]).spawn().unwrap();
        let watched = usages.watch(i32::try_from(child.id()).unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while watched.memory_peak_kb().is_none() {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(watched.memory_peak_kb().is_some_and(|kb| (100..1_000_000).contains(&kb)));
        let tree = Tree::read();
        for pid in tree.with_descendants(watched.pid).into_iter().rev() {
            crate::processes::signal(pid, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
        drop(watched);
        assert!(lock(&usages.peaks).is_empty());
    }
}
