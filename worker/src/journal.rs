//! What is written into an attempt's logs.

use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

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
    /// Not printed yet. Of a task that is watched they are, before anything is waited for.
    pub lines: Lines,
}

impl Journal {
    pub fn event(&mut self, event: &str, more: &[(&str, Value)]) {
        let mut text = Vec::with_capacity(256);
        self.write_event(event, more, &mut serde_json::Serializer::new(&mut text))
            .expect("all keys are strings, and a vector takes every write");
        self.lines.push(Stream::Statuses, &text, false);
    }

    fn write_event<S: Serializer>(
        &self,
        event: &str,
        more: &[(&str, Value)],
        out: S,
    ) -> Result<S::Ok, S::Error> {
        let mut object = out.serialize_map(None)?;
        object.serialize_entry("event", event)?;
        object.serialize_entry("attempt", &self.source.attempt)?;
        object.serialize_entry("invocation_start_time", &(self.started_ms / 1_000))?;
        let rand = (self.source.attempt.0.as_u128() as u64) >> 1;
        object.serialize_entry("invocation_rand", &rand)?;
        object.serialize_entry("worker_host", &self.host)?;
        for (key, value) in more {
            object.serialize_entry(key, value)?;
        }
        if let Some(raw) = &self.raw_status {
            object.serialize_entry("raw_status", raw)?;
        }
        object.end()
    }

    pub async fn print(&mut self) {
        if !self.lines.is_empty() {
            self.printer.print(self.clock.now(), std::mem::take(&mut self.lines)).await;
        }
    }

    /// Returns when everything can be read.
    pub async fn end(self) {
        self.printer.end(self.clock.now(), self.lines).await;
    }
}
