//! `api.job_*`: jobs that are made, changed and deleted from outside.
//!
//! A job is its object as in the config file, without the name. Every change raises its version;
//! a change that names a version is refused if the job is at another one by then.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Millis;

/// Who changes something, and why: for the audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub actor: String,
    #[serde(default)]
    pub reason: String,
}

/// `job_get`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobGetRequest {
    pub job: String,
}

/// `job_get`, and the answer to every change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDocument {
    pub job: String,
    pub origin: Origin,
    /// 0: it was never changed from outside.
    pub version_id: u64,
    /// What was given, without what is inherited; jobs of the file are in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub overrides: Overrides,
    /// What holds, with everything that is inherited.
    pub effective: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ms: Option<Millis>,
    /// What is odd about it, though it can run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Where a job is defined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    #[default]
    File,
    Store,
}

/// What is changed of a job of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overrides {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<f64>,
}

impl Overrides {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `job_put`: makes a job, or replaces one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobPutRequest {
    pub job: String,
    pub definition: Map<String, Value>,
    pub mode: PutMode,
    /// Replace only this version.
    #[serde(default)]
    pub version_id: Option<u64>,
    pub audit: Audit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutMode {
    /// There is no such job yet. A second request with the same definition changes nothing.
    Create,
    /// There is one.
    Replace,
}

/// `job_patch`: a JSON merge patch (RFC 7396) on what was given: `null` removes a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobPatchRequest {
    pub job: String,
    pub patch: Map<String, Value>,
    #[serde(default)]
    pub version_id: Option<u64>,
    pub audit: Audit,
}

/// `job_delete`: what runs of it goes on as orphans do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDeleteRequest {
    pub job: String,
    #[serde(default)]
    pub version_id: Option<u64>,
    pub audit: Audit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDeleted {
    pub job: String,
    /// So many of its tasks run on.
    pub running: u64,
}

/// `job_override`: enables, disables or ranks a job, wherever it is defined. For a job of the file
/// it holds beside the file, until `reset`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOverrideRequest {
    pub job: String,
    /// Lets go of what was overridden before.
    #[serde(default)]
    pub reset: bool,
    #[serde(default)]
    pub overrides: Overrides,
    #[serde(default)]
    pub version_id: Option<u64>,
    pub audit: Audit,
}
