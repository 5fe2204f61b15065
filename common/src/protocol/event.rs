//! `event.<kind>`: what happened, in order, for consoles and pipelines.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

use crate::Millis;
use crate::filter::{Filter, Key};
use crate::ids::{AttemptId, Epoch};

/// One thing that happened. Fields that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub v: u32,
    pub time_ms: Millis,
    pub epoch: Epoch,
    /// A dotted name: `task.started`, `task.done`, `worker.lost`, `config.broken`, `audit.kill`.
    pub kind: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_no: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Arc<str>>,
    /// Who asked, for audit events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

impl Event {
    pub const KEYS: [Key; 5] = [
        Key::text("kind"),
        Key::text("job"),
        Key::text("node"),
        Key::text("worker"),
        Key::text("actor"),
    ];

    /// Words by themselves are about all of it.
    pub fn passes(&self, filter: &Filter) -> bool {
        let shared = [&self.job, &self.node, &self.worker].map(|text| text.as_deref());
        let actor = self.actor.as_deref();
        let all: Vec<&str> = shared
            .into_iter()
            .chain([actor, Some(&*self.kind), Some(&self.text)])
            .flatten()
            .collect();
        let [job, node, worker] = shared;
        filter.named(&all)
            && [("kind", Some(&*self.kind)), ("job", job), ("node", node), ("worker", worker)]
                .into_iter()
                .chain([("actor", actor)])
                .all(|(key, text)| filter.of(key).all(|term| term.holds_for_any(text.as_slice())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_filtered_by_what_they_say() {
        let event = Event {
            kind: "audit.kill".into(),
            job: Some("scrape".into()),
            actor: Some("ann".to_owned()),
            text: "on fire".to_owned(),
            ..Event::default()
        };
        let passes = |text| event.passes(&Filter::parse(text, &Event::KEYS).unwrap());
        for yes in ["", "kind~audit", "actor=ann fire", "!node=db1", "job=scrape,backup"] {
            assert!(passes(yes), "{yes}");
        }
        for no in ["kind=audit", "actor=bob", "node=db1", "!fire", "water"] {
            assert!(!passes(no), "{no}");
        }
    }
}
