//! Every NATS subject, built and parsed in one place.
//!
//! Under `bistro.<cell>.`; names that users choose become single tokens through [`Token`], so no
//! name can widen a subject or add a wildcard.

use std::fmt;

use crate::ids::{AttemptId, NameError, WorkerName};

/// A text as one subject token (also safe as a file name and as a stream name).
///
/// Letters, digits, `-` and `_` stand for themselves, any other byte is `=` and two hex digits.
/// The mapping is reversible and never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

impl Token {
    pub fn new(text: &str) -> Self {
        let mut token = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => token.push(byte as char),
                _ => token.push_str(&format!("={byte:02X}")),
            }
        }
        if token.is_empty() {
            token.push('=');
        }
        Self(token)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text that a token stands for, or `None` if it is not a token of ours.
    pub fn decode(token: &str) -> Option<String> {
        if token == "=" {
            return Some(String::new());
        }
        let mut bytes = Vec::with_capacity(token.len());
        let mut rest = token.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'=' => {
                    let digits = [rest.next()?, rest.next()?];
                    let digits = std::str::from_utf8(&digits).ok()?;
                    bytes.push(u8::from_str_radix(digits, 16).ok()?);
                }
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => bytes.push(byte),
                _ => return None,
            }
        }
        String::from_utf8(bytes).ok()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a cell, as users type it (`--cell`), and the subjects under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    name: String,
    token: Token,
}

impl Cell {
    /// Same rules as a worker name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        WorkerName::new(name)?;
        Ok(Self { name: name.to_owned(), token: Token::new(name) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn under(&self, rest: &str) -> String {
        format!("bistro.{}.{rest}", self.token)
    }

    fn of_worker(&self, conversation: &str, worker: &WorkerName) -> String {
        self.under(&format!("{conversation}.{}", Token::new(worker.as_str())))
    }

    pub fn heartbeat(&self, worker: &WorkerName) -> String {
        self.of_worker("worker.hb", worker)
    }

    pub fn heartbeats(&self) -> String {
        self.under("worker.hb.*")
    }

    pub fn assign(&self, worker: &WorkerName) -> String {
        self.of_worker("task.assign", worker)
    }

    pub fn control(&self, worker: &WorkerName) -> String {
        self.of_worker("task.control", worker)
    }

    pub fn done(&self, worker: &WorkerName) -> String {
        self.of_worker("task.done", worker)
    }

    pub fn dones(&self) -> String {
        self.under("task.done.*")
    }

    pub fn log_read(&self, worker: &WorkerName) -> String {
        self.of_worker("log.read", worker)
    }

    /// Where a scheduler announces that it has started, so that workers need not wait for their
    /// next heartbeat.
    pub fn scheduler_beacon(&self) -> String {
        self.under("sched.epoch")
    }

    /// Where the scheduler that reigns says what it records, for those that stand by.
    pub fn records(&self) -> String {
        self.under("sched.records")
    }

    /// Where a scheduler that stands by asks for what was recorded before.
    pub fn copies(&self) -> String {
        self.under("sched.copy")
    }

    /// `kind` is a fixed dotted name such as `task.done`.
    pub fn event(&self, kind: &str) -> String {
        self.under(&format!("event.{kind}"))
    }

    /// Those that are kept one by one.
    pub fn audit_events(&self) -> String {
        self.under("event.audit.>")
    }

    /// Many to a message, for the stream.
    pub fn events(&self) -> String {
        self.under("events")
    }

    /// Where a responder says how far it is.
    pub fn run_progress(&self, attempt: AttemptId) -> String {
        self.under(&format!("run.progress.{attempt}"))
    }

    /// Where a responder is told to stop.
    pub fn run_cancel(&self, attempt: AttemptId) -> String {
        self.under(&format!("run.cancel.{attempt}"))
    }

    pub fn view_grid(&self) -> String {
        self.under("view.grid")
    }

    pub fn api(&self, verb: &str) -> String {
        self.under(&format!("api.{verb}"))
    }

    pub fn apis(&self) -> String {
        self.under("api.*")
    }

    /// The verb of a subject below [`Cell::apis`].
    pub fn parse_api<'a>(&self, subject: &'a str) -> Option<&'a str> {
        let verb = subject.strip_prefix(self.under("api.").as_str())?;
        (!verb.is_empty() && !verb.contains('.')).then_some(verb)
    }

    pub fn done_stream(&self) -> String {
        format!("BISTRO_{}_DONE", self.token)
    }

    pub fn events_stream(&self) -> String {
        format!("BISTRO_{}_EVENTS", self.token)
    }

    pub fn records_stream(&self) -> String {
        format!("BISTRO_{}_RECORDS", self.token)
    }

    /// The private inbox prefix of one role, so that no other can read its replies.
    pub fn inbox(&self, role: &str) -> String {
        format!("_INBOX.{}.{role}", self.token)
    }

    /// What NATS must allow a user who looks at the cell and must not touch it. `reads`: the verbs
    /// that change nothing.
    pub fn viewer_permissions(&self, user: &str, reads: &[&str]) -> Permissions {
        let mut publish: Vec<String> = reads.iter().map(|verb| self.api(verb)).collect();
        publish.extend([self.under("log.read.*"), "$SRV.>".to_owned()]);
        let (events, done) = (self.events_stream(), self.done_stream());
        // Following events takes a consumer of one's own, which changes nothing of the stream.
        publish.extend([
            format!("$JS.API.STREAM.INFO.{events}"),
            format!("$JS.API.STREAM.INFO.{done}"),
            format!("$JS.API.CONSUMER.CREATE.{events}"),
            format!("$JS.API.CONSUMER.CREATE.{events}.>"),
            format!("$JS.API.CONSUMER.INFO.{events}.>"),
            // Or else those of its own pile up; whoever loses one by it makes another and goes on.
            format!("$JS.API.CONSUMER.DELETE.{events}.>"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{events}.>"),
        ]);
        let inbox = self.inbox(&client_role(user));
        let subscribe = vec![format!("{inbox}.>"), self.view_grid()];
        Permissions { publish, subscribe }
    }
}

/// The role of clients that connect as this user; each adds its own number.
pub fn client_role(user: &str) -> String {
    format!("client.{}", Token::new(user))
}

/// Is this where somebody waits for an answer? JetStream can be told to deliver what is in a stream
/// to any subject, by those who may not publish there; what it delivers is nobody's request.
pub fn is_asked_by_somebody(reply: &str) -> bool {
    !reply.starts_with('$')
}

/// Subjects that an identity may publish to and subscribe to; nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
}

/// As a user's `permissions` in the config of a nats-server.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |subjects: &[String]| {
            let lines = subjects.iter().map(|subject| format!("    {subject:?}"));
            lines.collect::<Vec<_>>().join(",\n")
        };
        writeln!(f, "permissions: {{")?;
        writeln!(f, "  publish: {{ allow: [\n{}\n  ] }}", list(&self.publish))?;
        writeln!(f, "  subscribe: {{ allow: [\n{}\n  ] }}", list(&self.subscribe))?;
        write!(f, "}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_single_reversible_and_safe() {
        for text in ["", "host1", "db1.example.com", "a b>*", "ünï", "..", "/etc", "="] {
            let token = Token::new(text);
            assert!(!token.as_str().is_empty());
            assert!(!token.as_str().contains(['.', '*', '>', ' ', '/']), "{token}");
            assert_eq!(Token::decode(token.as_str()).as_deref(), Some(text));
        }
        assert_eq!(Token::new("db1.x").as_str(), "db1=2Ex");
        assert_eq!(Token::decode("a.b"), None);
        assert_eq!(Token::decode("=G1"), None);
    }

    #[test]
    fn subjects_are_those_of_the_protocol() {
        let cell = Cell::new("main").expect("valid cell");
        let worker = WorkerName::new("w.1").expect("valid worker");
        assert_eq!(cell.heartbeat(&worker), "bistro.main.worker.hb.w=2E1");
        assert_eq!(cell.assign(&worker), "bistro.main.task.assign.w=2E1");
        assert_eq!(cell.done_stream(), "BISTRO_main_DONE");
        assert_eq!(cell.parse_api("bistro.main.api.jobs"), Some("jobs"));
        assert_eq!(cell.parse_api("bistro.main.api.a.b"), None);
        assert_eq!(cell.parse_api("bistro.other.api.jobs"), None);
    }
}
