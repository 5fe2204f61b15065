//! What happened, for consoles and pipelines: each event under `event.<kind>`, for who listens, and
//! all of them in order in the event stream, audit events one by one and the others many to a
//! message.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

use super::VERSION;
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

/// `events`: some of them, in order. Only the stream has them like this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub v: u32,
    pub events: Vec<Event>,
}

impl Events {
    /// Messages of as many encoded events as fit into so many bytes.
    pub fn join(encoded: Vec<Vec<u8>>, bytes_max: usize) -> Vec<Vec<u8>> {
        let head = format!("{{\"v\":{VERSION},\"events\":[").into_bytes();
        let mut messages: Vec<Vec<u8>> = Vec::new();
        for event in encoded {
            let room = |message: &&mut Vec<u8>| message.len() + event.len() + 3 <= bytes_max;
            match messages.last_mut().filter(room) {
                Some(message) => {
                    message.push(b',');
                    message.extend(event);
                }
                None => messages.push([head.as_slice(), &event].concat()),
            }
        }
        messages.iter_mut().for_each(|message| message.extend(b"]}"));
        messages
    }
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
    fn events_are_put_together_as_far_as_they_fit() {
        let event = |text: &str| Event { v: 1, text: text.to_owned(), ..Event::default() };
        let events = [event("a"), event("b"), event(&"c".repeat(300)), event("d")];
        let encoded: Vec<Vec<u8>> = events.iter().map(crate::protocol::encode).collect();
        let both = encoded[0].len() * 2 + 24;
        for (bytes_max, counts) in [(0, vec![1, 1, 1, 1]), (both, vec![2, 1, 1]), (9_999, vec![4])]
        {
            let messages = Events::join(encoded.clone(), bytes_max);
            let read: Vec<Events> =
                messages.iter().map(|m| crate::protocol::decode(m).unwrap()).collect();
            assert_eq!(read.iter().map(|events| events.events.len()).collect::<Vec<_>>(), counts);
            assert_eq!(read.into_iter().flat_map(|e| e.events).collect::<Vec<_>>(), events);
        }
        assert!(Events::join(Vec::new(), 9).is_empty());
    }

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
