//! A process's clock: it has its own idea of the time, and its own rate.

use bistro_common::Millis;

use crate::queue::Us;

/// Rates differ by one part in a thousand at most, as the leases allow for.
pub const PPM_MAX: u64 = 1_000;

const MILLION: u128 = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it says at the beginning of the run.
    offset_ms: Millis,
    /// How much faster than real time it is.
    ppm: u64,
}

impl Clock {
    pub fn new(offset_ms: Millis, ppm: u64) -> Self {
        Self { offset_ms, ppm }
    }

    pub fn read(&self, now: Us) -> Millis {
        let elapsed = u128::from(now) * (MILLION + u128::from(self.ppm)) / (MILLION * 1_000);
        self.offset_ms + elapsed as u64
    }

    /// The first moment at which the clock says so.
    pub fn when(&self, at: Millis) -> Us {
        let elapsed = u128::from(at.saturating_sub(self.offset_ms)) * MILLION * 1_000;
        elapsed.div_ceil(MILLION + u128::from(self.ppm)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_again() {
        for ppm in [0, 1, 999, PPM_MAX] {
            let clock = Clock::new(1_700_000_000_000, ppm);
            for at in [0, 1, 999, 1_000_000] {
                let at = 1_700_000_000_000 + at;
                assert_eq!(clock.read(clock.when(at)), at);
                assert!(clock.when(at) == 0 || clock.read(clock.when(at) - 1) < at);
            }
        }
    }
}
