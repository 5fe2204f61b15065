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
    run, view,
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
    let checks: [Check; 14] = [
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
        ("log_read", check::<log::LogRead>),
        ("log_read_reply", check::<log::LogReadReply>),
        ("run_request", check::<run::RunRequest>),
        ("grid_delta", check::<view::GridDelta>),
    ];
    checks.iter().for_each(|(name, check)| check(name));
    let files = std::fs::read_dir(DIRECTORY).expect("there are vectors").count();
    assert_eq!(files, checks.len(), "every file is checked");
}
