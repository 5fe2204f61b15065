//! What happened: as a hash, which tells whether two runs were the same, and in words if wanted.

use crate::queue::{SEC, Us};

#[derive(Default)]
pub struct Trace {
    pub hash: u64,
    pub lines: Option<Vec<String>>,
}

impl Trace {
    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    pub fn say(&mut self, now: Us, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let (seconds, micros) = (now / SEC, now % SEC);
            lines.push(format!("{seconds:>3}.{micros:06} {}", what()));
        }
    }
}
