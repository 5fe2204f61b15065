//! The golden messages in `vectors/`: what is on the wire, for this build and every other peer.
//!
//! Each is read into its type and written again without a change; with a field that we do not know
//! it means the same, and in another version it is refused. A change that fails here changes the
//! protocol.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fmt::Debug;
use std::path::Path;

use bistro_common::protocol::{
    DecodeError, VERSION, Versioned, assign, control, decode, done, encode, event, heartbeat, log,
    run, succession, view,
};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");

fn check<T>(name: &str)
where
    T: Serialize + DeserializeOwned + Versioned + Debug + PartialEq,
{
    let path = Path::new(DIRECTORY).join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).expect("there is a file of this name");
    let examples: Map<String, Value> = serde_json::from_str(&text).expect("an object of examples");
    assert!(!examples.is_empty());
    for (example, golden) in examples {
        let bytes = serde_json::to_vec(&golden).expect("JSON");
        let message: T =
            decode(&bytes).unwrap_or_else(|error| panic!("{name}, {example}: {error}"));
        let written: Value = serde_json::from_slice(&encode(&message)).expect("JSON");
        assert_eq!(written, golden, "{name}, {example}");

        let mut newer = golden.clone();
        newer["a_field_of_a_newer_peer"] = json!([1]);
        let bytes = serde_json::to_vec(&newer).expect("JSON");
        assert_eq!(decode::<T>(&bytes).expect("unknown fields are ignored"), message);

        let mut other = golden;
        let version = match other.get_mut("fence") {
            Some(fence) => &mut fence["v"],
            None => &mut other["v"],
        };
        *version = json!(VERSION + 1);
        let refused = decode::<T>(&serde_json::to_vec(&other).expect("JSON"));
        assert!(matches!(refused, Err(DecodeError::Version { .. })), "{name}, {example}");
    }
}

#[test]
fn every_message_is_as_it_was() {
    type Check = (&'static str, fn(&str));
    let checks: [Check; 17] = [
        ("heartbeat", check::<heartbeat::Heartbeat>),
        ("heartbeat_reply", check::<heartbeat::HeartbeatReply>),
        ("scheduler_beacon", check::<heartbeat::SchedulerBeacon>),
        ("assign", check::<assign::Assign>),
        ("assign_reply", check::<assign::AssignReply>),
        ("control", check::<control::Control>),
        ("control_reply", check::<control::ControlReply>),
        ("done", check::<done::Done>),
        ("event", check::<event::Event>),
        ("events", check::<event::Events>),
        ("records_header", check::<succession::RecordsHeader>),
        ("copy_request", check::<succession::CopyRequest>),
        ("copy_header", check::<succession::CopyHeader>),
        ("log_read", check::<log::LogRead>),
        ("log_read_reply", check::<log::LogReadReply>),
        ("run_request", check::<run::RunRequest>),
        ("grid_delta", check::<view::GridDelta>),
    ];
    checks.iter().for_each(|(name, check)| check(name));
    let files = std::fs::read_dir(DIRECTORY).expect("there are vectors").count();
    assert_eq!(files, checks.len(), "every file is checked");
}

fn golden(name: &str, example: &str) -> Value {
    let path = Path::new(DIRECTORY).join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).expect("there is a file of this name");
    let examples: Map<String, Value> = serde_json::from_str(&text).expect("an object of examples");
    examples.get(example).expect("there is such an example").clone()
}

fn read<T: DeserializeOwned + Versioned>(message: &Value) -> Result<T, DecodeError> {
    decode(&serde_json::to_vec(message).expect("JSON"))
}

/// Peers that are a version apart: what one does not say yet has a meaning, and what the other
/// does not know is refused rather than taken for something else.
#[test]
fn peers_of_neighbouring_versions_understand_each_other_or_say_so() {
    let mut heartbeat = golden("heartbeat", "one that says whom it follows");
    let new: heartbeat::Heartbeat = read(&heartbeat).expect("it is ours");
    heartbeat.as_object_mut().expect("an object").remove("scheduler_seen");
    let old: heartbeat::Heartbeat = read(&heartbeat).expect("that of a worker of before");
    assert_eq!(old, heartbeat::Heartbeat { scheduler_seen: None, ..new });

    let unknown = |name: &str, example: &str, place: &str| {
        let mut message = golden(name, example);
        *message.pointer_mut(place).expect("it is there") = json!("of_a_newer_peer");
        message
    };
    let lease = unknown("heartbeat_reply", "a lease", "/answer/kind");
    assert!(matches!(read::<heartbeat::HeartbeatReply>(&lease), Err(DecodeError::Json(_))));
    let closed = "one that owes results and was asked for its attempts";
    let closed = unknown("heartbeat", closed, "/closed");
    assert!(matches!(read::<heartbeat::Heartbeat>(&closed), Err(DecodeError::Json(_))));
}

#[test]
fn an_assignment_that_is_not_understood_is_refused_for_all_that_can_be_made_out() {
    let text = std::fs::read_to_string(Path::new(DIRECTORY).join("assign.json")).expect("a file");
    let examples: Map<String, Value> = serde_json::from_str(&text).expect("an object of examples");
    let mut message = examples.into_iter().next().expect("there is one").1;
    let known: assign::Assign = read(&message).expect("it is ours");
    message["fence"]["v"] = json!(VERSION + 1);
    assert!(read::<assign::Assign>(&message).is_err());
    let reply = assign::AssignReply::to_unreadable(&serde_json::to_vec(&message).expect("JSON"));
    let ids: Vec<_> = reply.results.iter().map(|result| result.attempt).collect();
    assert!(!ids.is_empty());
    assert_eq!(ids, known.attempts.iter().map(|a| a.open.attempt).collect::<Vec<_>>());
    let reason = assign::RejectedReason::BadRequest;
    let refused = assign::AssignAnswer::Rejected { reason };
    assert!(reply.results.iter().all(|result| result.answer == refused));
    assert_eq!(assign::AssignReply::to_unreadable(b"{").results, []);
}
