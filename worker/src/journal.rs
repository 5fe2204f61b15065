//! What is written into an attempt's logs.

use serde_json::{Value, json};

use bistro_common::clock::Clock;
use bistro_common::protocol::log::Stream;

use crate::logs::{Lines, Printer, Source};

/// What happens to an attempt, as lines of its `statuses` log (reference, section 7.3).
pub struct Journal {
    pub clock: Clock,
    pub host: String,
    pub started_ms: u64,
    pub source: Source,
    pub printer: Printer,
    /// The last status line so far.
    pub raw_status: Option<String>,
}

impl Journal {
    pub async fn event(&self, event: &str, more: &[(&str, Value)]) {
        let mut object = json!({
            "event": event,
            "attempt": self.source.attempt,
            "invocation_start_time": self.started_ms / 1_000,
            "invocation_rand": (self.source.attempt.0.as_u128() as u64) >> 1,
            "worker_host": self.host,
        });
        for (key, value) in more {
            object[*key] = value.clone();
        }
        if let Some(raw) = &self.raw_status {
            object["raw_status"] = json!(raw);
        }
        let mut lines = Lines::default();
        lines.push(Stream::Statuses, object.to_string().as_bytes(), false, 0);
        self.print(lines).await;
    }

    pub async fn print(&self, lines: Lines) {
        self.printer.print(self.clock.now(), lines).await;
    }
}
