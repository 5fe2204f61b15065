//! Many seeds, one seed in words, and the fewest faults that still do harm.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::faults::{self, Fault};
use crate::rules::Rule;
use crate::world;

/// The first of these seeds that breaks a promise, and how.
pub fn first_violation(seeds: std::ops::Range<u64>, off: Option<Rule>) -> Option<(u64, String)> {
    let mut broken = violations(seeds, off, true).0;
    broken.sort();
    broken.into_iter().next()
}

/// The seeds that break a promise, or (`first`) some of them with the first; and how many steps
/// that took. On all cores.
fn violations(
    seeds: std::ops::Range<u64>,
    off: Option<Rule>,
    first: bool,
) -> (Vec<(u64, String)>, u64) {
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let search = || {
        let (mut broken, mut steps) = (Vec::new(), 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return (broken, steps);
            }
            let outcome = world::run(seed, faults::draw(seed), off, false);
            steps += outcome.steps;
            if let Some(violation) = outcome.violation {
                broken.push((seed, violation));
                if first {
                    end.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores()).map(|_| scope.spawn(search)).collect();
        let mut all = (Vec::new(), 0);
        for thread in threads {
            let (broken, steps) = thread.join().expect("a run that panics has broken a promise");
            all.0.extend(broken);
            all.1 += steps;
        }
        all
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub fn run(from: u64, seeds: u64) -> ExitCode {
    let started = Instant::now();
    let (mut broken, steps) = violations(from..from + seeds, None, false);
    broken.sort();
    for (seed, violation) in &broken {
        println!("seed {seed}: {violation}");
    }
    if let Some((seed, _)) = broken.first() {
        println!("next: `bistro-sim shrink {seed}`");
    }
    let per_s = steps as f64 / started.elapsed().as_secs_f64() / cores() as f64;
    println!(
        "{seeds} seeds, {} violations, {steps} steps, {per_s:.0} steps/s on each of {} cores",
        broken.len(),
        cores()
    );
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub fn replay(seed: u64, faults: Vec<Fault>, off: Option<Rule>) -> ExitCode {
    let outcome = world::run(seed, faults, off, true);
    for line in outcome.trace.lines.iter().flatten() {
        println!("{line}");
    }
    let hash = outcome.trace.hash;
    match outcome.violation {
        Some(violation) => {
            println!("{violation}\ntrace {hash:016x}");
            ExitCode::FAILURE
        }
        None => {
            println!("all promises were kept\ntrace {hash:016x}");
            ExitCode::SUCCESS
        }
    }
}

/// Takes away one fault at a time for as long as a promise is still broken.
pub fn shrink(seed: u64, off: Option<Rule>) -> ExitCode {
    let breaks =
        |faults: &[Fault]| world::run(seed, faults.to_vec(), off, false).violation.is_some();
    let mut faults = faults::draw(seed);
    if !breaks(&faults) {
        println!("seed {seed} keeps all promises");
        return ExitCode::SUCCESS;
    }
    let mut at = 0;
    while at < faults.len() {
        let mut fewer = faults.clone();
        fewer.remove(at);
        match breaks(&fewer) {
            true => (faults, at) = (fewer, 0),
            false => at += 1,
        }
    }
    replay(seed, faults, off)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultKind, Node, SCHEDULER};
    use crate::queue::{MS, SEC};

    #[test]
    fn a_seed_is_always_the_same_run() {
        let trace = |seed| {
            let outcome = world::run(seed, faults::draw(seed), None, true);
            (outcome.trace.hash, outcome.trace.lines, outcome.steps)
        };
        assert_eq!(trace(7), trace(7));
        assert_ne!(trace(7).0, trace(8).0);
    }

    #[test]
    fn promises_hold_in_the_first_seeds() {
        assert_eq!(first_violation(0..200, None), None);
    }

    /// What the scheduler says in worlds with one fault of this kind each.
    fn said_under(kind: FaultKind, of: Node) -> Vec<String> {
        let mut said = Vec::new();
        for seed in 0..60 {
            let at = SEC + seed * 100 * MS;
            let fault = Fault { at, of, kind, lasts: 30 * SEC };
            let outcome = world::run(seed, vec![fault], None, true);
            assert_eq!(outcome.violation, None, "{kind:?}, seed {seed}");
            said.extend(outcome.trace.lines.into_iter().flatten());
        }
        said
    }

    #[test]
    fn each_kind_of_fault_by_itself_is_survived_and_seen() {
        let before_sending = FaultKind::CrashAtCommit { effects: Some(0) };
        let in_the_ledger = FaultKind::CrashAtCommit { effects: Some(1) };
        let cut = FaultKind::Cut { out: true, into: true };
        for (kind, of, expected) in [
            (before_sending, SCHEDULER, "task.never_started"),
            (in_the_ledger, 1, "task.lost"),
            (FaultKind::Crash, 1, "task.lost"),
            (FaultKind::PowerLoss, 1, "task.lost"),
            (FaultKind::Pause, 1, "worker.lost"),
            (cut, 1, "worker.lost"),
            (FaultKind::Cut { out: false, into: true }, 1, "worker.lost"),
            (FaultKind::Replaced, SCHEDULER, "task.done"),
            (FaultKind::StreamLoss, SCHEDULER, "task.done"),
            (FaultKind::Redelivery, SCHEDULER, "task.done"),
        ] {
            let said = said_under(kind, of);
            let expected_too = said.iter().any(|line| line.contains(expected));
            assert!(expected_too, "{kind:?} of {of}: {expected} is never said");
        }
    }

    #[test]
    fn a_rule_that_is_off_is_seen() {
        assert!(first_violation(0..200, Some(Rule::LedgerBeforeSpawn)).is_some());
    }
}
