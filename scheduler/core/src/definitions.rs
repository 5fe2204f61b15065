//! Jobs that are made, changed and deleted from outside, and what is overridden of the file's.
//!
//! What is asked for is checked here and recorded; the next step puts it into force, so that a
//! burst of new jobs costs one change of plan at most. A job of the file wins over one of its name
//! that was made before: who has the file has the last word.

use serde_json::{Map, Value};
use std::sync::Arc;

use bistro_common::Millis;
use bistro_common::config::{Config, Job};
use bistro_common::ids::TaskName;
use bistro_common::protocol::api::{ApiError, ErrorCode};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::job::{
    Audit, JobDeleteRequest, JobDeleted, JobDocument, JobOverrideRequest, JobPatchRequest,
    JobPutRequest, Origin, Overrides, PutMode,
};

use crate::Core;
use crate::attempts::Attempt;
use crate::forest::NodeIx;
use crate::io::Effect;
use crate::parked::OfJob;
use crate::record::{Definition, Record};
use crate::tasks::{Known, TaskIx, TaskRecord};

mod given;

use given::{check_name, merge, overridden, read, refusal, say};

/// The largest definition: every assignment carries a part of it.
const DEFINITION_BYTES_MAX: usize = 64 << 10;

/// So many new jobs are put into force in one step.
const ADDED_PER_STEP: usize = 256;

#[derive(Debug)]
pub struct Defined {
    definition: Definition,
    /// What was given, read under the present settings.
    job: Option<Arc<Job>>,
}

impl Core {
    pub(crate) fn restore_definitions(&mut self, definitions: Vec<(String, Definition)>) {
        for (name, definition) in definitions {
            // It is read when the settings are known.
            self.definitions.insert(name, Defined { definition, job: None });
        }
    }

    /// The config of the next plan. What was given is read anew if the settings, from which jobs
    /// inherit, are others; all that was asked for so far will be in that plan.
    pub(crate) fn adopt(&mut self, config: Arc<Config>) {
        let same = self.config.settings == config.settings;
        for (name, defined) in &mut self.definitions {
            if let Some(given) = &defined.definition.given
                && (!same || defined.job.is_none())
            {
                defined.job = read(name, given, &config).0.map(Arc::new);
            }
        }
        self.config = config;
        self.redefined = false;
        self.newly_defined.clear();
        self.defined_since_draft.clear();
        self.changed_since_draft.clear();
    }

    /// Puts into force what was asked for since the last step.
    pub(crate) fn apply_definitions(&mut self, out: &mut Vec<Effect>) {
        if !self.planned || self.is_entering() {
            return;
        }
        let some = self.newly_defined.len().min(ADDED_PER_STEP);
        let new: Vec<Arc<Job>> = self.newly_defined.drain(..some).collect();
        if self.compiling {
            self.defined_since_draft.extend(new.iter().cloned());
        }
        // Jobs that were read under the settings of the next plan are nothing for this one.
        let fits = Arc::ptr_eq(&self.config, &self.plan.config);
        if !new.is_empty() && !self.redefined && fits {
            self.relay();
            self.redefined = !new.into_iter().all(|job| self.add_job(job));
        }
        if self.redefined && !self.compiling {
            self.draft(out);
        }
    }

    /// All jobs: the file's with what is overridden, then the others, the oldest first.
    pub(crate) fn effective_jobs(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<Arc<Job>> =
            self.config.jobs.iter().map(|job| self.with_overrides(job)).collect();
        let names: rustc_hash::FxHashSet<&str> =
            self.config.jobs.iter().map(|job| &*job.name).collect();
        let mut others: Vec<(Millis, Arc<Job>)> = self
            .definitions
            .values()
            .filter_map(|defined| Some((defined.definition.created_ms, defined.job.clone()?)))
            .filter(|(_, job)| !names.contains(&*job.name))
            .collect();
        others.sort_by(|(a, a_job), (b, b_job)| (a, &a_job.name).cmp(&(b, &b_job.name)));
        jobs.extend(others.into_iter().map(|(_, job)| job));
        jobs
    }

    /// A job of the file as it holds.
    fn with_overrides(&self, job: &Arc<Job>) -> Arc<Job> {
        match self.definitions.get(&*job.name) {
            Some(defined) => overridden(job, &defined.definition.overrides),
            None => job.clone(),
        }
    }

    pub(crate) fn origin(&self, job: &str) -> Origin {
        let defined = self.definitions.get(job);
        match defined.is_some_and(|d| d.job.is_some()) && self.config.job(job).is_none() {
            true => Origin::Store,
            false => Origin::File,
        }
    }

    pub(crate) fn overrides(&self, job: &str) -> Overrides {
        self.definitions.get(job).map(|d| d.definition.overrides.clone()).unwrap_or_default()
    }

    pub fn job_document(&self, job: &str) -> Result<JobDocument, ApiError> {
        self.check_planned()?;
        let defined = self.definitions.get(job);
        let effective = match (self.config.job(job), defined) {
            (Some(of_file), _) => self.with_overrides(of_file),
            (None, Some(Defined { job: Some(job), .. })) => job.clone(),
            _ => return Err(self.no_such_job(job)),
        };
        let definition = defined.map(|defined| &defined.definition);
        Ok(JobDocument {
            job: job.to_owned(),
            origin: self.origin(job),
            version_id: definition.map_or(0, |d| d.version_id),
            given: definition.and_then(|d| d.given.clone()),
            overrides: self.overrides(job),
            effective: effective.export(&self.config.settings),
            modified_by: definition.map(|d| d.modified_by.clone()),
            modified_ms: definition.map(|d| d.modified_ms),
            warnings: Vec::new(),
        })
    }

    pub fn job_put(
        &mut self,
        now: Millis,
        request: &JobPutRequest,
        out: &mut Vec<Effect>,
    ) -> Result<JobDocument, ApiError> {
        self.begin_change(now, out)?;
        let known = self.given(&request.job)?;
        match (request.mode, known) {
            // The answer to the first request was lost: this is the same one.
            (PutMode::Create, Some(given)) if *given == request.definition => {
                // This answer must not be faster than the first one's way to the disk.
                let definition = self.definitions.get(&request.job).map(|d| d.definition.clone());
                let job = request.job.clone();
                out.push(Effect::Persist(Record::Job { job, definition }));
                return self.job_document(&request.job);
            }
            (PutMode::Create, Some(_)) => {
                let message = format!("there is a job {:?} already", request.job);
                return Err(ApiError::new(ErrorCode::Conflict, message)
                    .hint("replace it, or choose another name"));
            }
            (PutMode::Replace, None) => return Err(self.no_such_job(&request.job)),
            (PutMode::Create, None) | (PutMode::Replace, Some(_)) => {}
        }
        self.check_version(&request.job, request.version_id)?;
        let kind = match request.mode {
            PutMode::Create => "audit.job_create",
            PutMode::Replace => "audit.job_replace",
        };
        self.define(&request.job, request.definition.clone(), &request.audit, kind, out)
    }

    pub fn job_patch(
        &mut self,
        now: Millis,
        request: &JobPatchRequest,
        out: &mut Vec<Effect>,
    ) -> Result<JobDocument, ApiError> {
        self.begin_change(now, out)?;
        let Some(given) = self.given(&request.job)? else {
            return Err(self.no_such_job(&request.job));
        };
        let mut given = given.clone();
        merge(&mut given, &request.patch);
        self.check_version(&request.job, request.version_id)?;
        self.define(&request.job, given, &request.audit, "audit.job_patch", out)
    }

    pub fn job_delete(
        &mut self,
        now: Millis,
        request: &JobDeleteRequest,
        out: &mut Vec<Effect>,
    ) -> Result<JobDeleted, ApiError> {
        self.begin_change(now, out)?;
        self.check_not_of_the_file(&request.job)?;
        self.check_version(&request.job, request.version_id)?;
        // Also what was overridden of a job that has left the file.
        let Some(deleted) = self.definitions.remove(&request.job) else {
            return Err(self.no_such_job(&request.job));
        };
        if deleted.definition.version_id > self.deleted_version {
            self.deleted_version = deleted.definition.version_id;
            let version_id = self.deleted_version;
            out.push(Effect::Persist(Record::DeletedVersion { version_id }));
        }
        self.note_change(&request.job);
        self.forget_tasks(&request.job, out);
        let running = self.disown(&request.job, out);
        let text = format!("{running} of its tasks run on; {}", request.audit.reason);
        self.record_definition(&request.job, "audit.job_delete", &request.audit, text, out);
        Ok(JobDeleted { job: request.job.clone(), running })
    }

    pub fn job_override(
        &mut self,
        now: Millis,
        request: &JobOverrideRequest,
        out: &mut Vec<Effect>,
    ) -> Result<JobDocument, ApiError> {
        self.begin_change(now, out)?;
        let Overrides { enabled, priority } = request.overrides;
        if priority.is_some_and(|priority| !priority.is_finite()) {
            return Err(ApiError::new(ErrorCode::BadRequest, "a priority is a finite number"));
        }
        let text = match (request.reset, enabled, priority) {
            (false, None, None) => {
                let message =
                    "the request changes nothing: it has no \"overrides\" and no \"reset\"";
                return Err(ApiError::new(ErrorCode::BadRequest, message));
            }
            (true, None, None) => "as in the file again".to_owned(),
            _ => {
                let enabled = enabled.map(|enabled| format!("enabled {enabled}"));
                let priority = priority.map(|priority| format!("priority {priority}"));
                enabled.into_iter().chain(priority).collect::<Vec<_>>().join(", ")
            }
        };
        let text = format!("{text}; {}", request.audit.reason);
        self.check_version(&request.job, request.version_id)?;
        if self.config.job(&request.job).is_none() {
            return self.set_keys(request, out);
        }
        let mut definition = self.next_version(&request.job, &request.audit);
        let before = std::mem::take(&mut definition.overrides);
        let before = if request.reset { Overrides::default() } else { before };
        definition.overrides = Overrides {
            enabled: enabled.or(before.enabled),
            priority: priority.or(before.priority),
        };
        let defined = Defined { definition, job: None };
        self.definitions.insert(request.job.clone(), defined);
        self.note_change(&request.job);
        self.record_definition(&request.job, "audit.job_override", &request.audit, text, out);
        self.job_document(&request.job)
    }

    /// What still runs of a job that is deleted says nothing of one that is made again; returns how
    /// many that are.
    fn disown(&mut self, job: &str, out: &mut Vec<Effect>) -> u64 {
        let ix = self.plan.job(job);
        let of_job = |attempt: &&Attempt| match attempt.task() {
            Some(task) => Some(task.job) == ix,
            None => *attempt.name(&self.plan).job == *job,
        };
        let ids: Vec<_> = self.attempts.iter().filter(of_job).map(|attempt| attempt.id).collect();
        for &id in &ids {
            if let Some(attempt) = self.attempts.get_mut(id) {
                attempt.disowned = true;
            }
            if let Some(attempt) = self.attempts.get(id) {
                let attempt = self.attempt_record(attempt);
                out.push(Effect::Persist(Record::AttemptOpened { attempt }));
            }
        }
        ids.len() as u64
    }

    /// A job is not any more what the present plan says.
    fn note_change(&mut self, job: &str) {
        self.redefined = true;
        self.withdraw(job);
        if self.compiling {
            self.changed_since_draft.insert(job.to_owned());
        }
    }

    /// A job of the same name that is made later is another one: nothing of it is done yet. Only the
    /// numbers of attempts go on.
    fn forget_tasks(&mut self, job: &str, out: &mut Vec<Effect>) {
        let fresh = |record: &TaskRecord| TaskRecord {
            attempt_no: record.attempt_no,
            ..TaskRecord::default()
        };
        self.unpack(job);
        if let Some(ix) = self.plan.job(job) {
            let nodes: Vec<NodeIx> = self.plan.cells(ix).map(|(node, _)| node).collect();
            for task in nodes.into_iter().map(|node| TaskIx { job: ix, node }) {
                let Some(known) = self.records.find(task) else { continue };
                let Known { record, open: None } = self.records.at(known) else { continue };
                let record = fresh(record);
                let name = self.plan.task_name(task);
                out.push(Effect::Persist(Record::Task { task: name, record: record.clone() }));
                self.settle(known, record);
            }
        }
        for (node, record) in self.parked.get_mut(job).into_iter().flat_map(OfJob::iter_mut) {
            *record = fresh(record);
            let task = TaskName::new(job, node.clone());
            out.push(Effect::Persist(Record::Task { task, record: record.clone() }));
        }
    }

    /// For a job that is not of the file there is nothing to override: it is changed itself.
    fn set_keys(
        &mut self,
        request: &JobOverrideRequest,
        out: &mut Vec<Effect>,
    ) -> Result<JobDocument, ApiError> {
        let Some(given) = self.given(&request.job)? else {
            let error = self.no_such_job(&request.job);
            return Err(match self.definitions.contains_key(&request.job) {
                true => error.hint(
                    "it has left the config file; `bistro job delete` drops what was overridden of it",
                ),
                false => error,
            });
        };
        let mut given = given.clone();
        if let Some(enabled) = request.overrides.enabled {
            given.insert("enabled".to_owned(), enabled.into());
        }
        if let Some(priority) = request.overrides.priority {
            given.insert("priority".to_owned(), priority.into());
        }
        self.define(&request.job, given, &request.audit, "audit.job_override", out)
    }

    /// What was given of a job, if it is one that may be changed from outside.
    fn given(&self, job: &str) -> Result<Option<&Map<String, Value>>, ApiError> {
        self.check_not_of_the_file(job)?;
        Ok(self.definitions.get(job).and_then(|defined| defined.definition.given.as_ref()))
    }

    fn check_not_of_the_file(&self, job: &str) -> Result<(), ApiError> {
        if self.config.job(job).is_none() {
            return Ok(());
        }
        let message = format!("the job {job:?} is defined in the config file");
        Err(ApiError::new(ErrorCode::OfTheFile, message)
            .hint("change it there; from here it can be enabled, disabled and given a priority"))
    }

    fn begin_change(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        self.begin(now, out)?;
        self.check_planned()
    }

    /// Before the first config nobody knows which jobs there are.
    fn check_planned(&self) -> Result<(), ApiError> {
        match self.planned {
            true => Ok(()),
            false => Err(ApiError::new(ErrorCode::Unavailable, "there is no config yet")
                .hint("`bistro status` says what is wrong with it")),
        }
    }

    fn check_version(&self, job: &str, wanted: Option<u64>) -> Result<(), ApiError> {
        let at = self.definitions.get(job).map_or(0, |defined| defined.definition.version_id);
        match wanted {
            Some(wanted) if wanted != at => {
                let message = format!("the job {job:?} is at version {at}, not {wanted}");
                Err(ApiError::new(ErrorCode::Conflict, message)
                    .hint("somebody else has changed it: look at it again"))
            }
            _ => Ok(()),
        }
    }

    /// The definition that a change makes, as far as the change does not say. A job that is made
    /// again begins above the versions of the one that was deleted, so that nobody changes the new
    /// one by what he knew of the old one.
    fn next_version(&self, job: &str, audit: &Audit) -> Definition {
        let before = self.definitions.get(job).map(|defined| &defined.definition);
        Definition {
            given: before.and_then(|before| before.given.clone()),
            overrides: before.map(|before| before.overrides.clone()).unwrap_or_default(),
            version_id: before.map_or(self.deleted_version, |before| before.version_id) + 1,
            created_ms: before.map_or(self.now, |before| before.created_ms),
            modified_ms: self.now,
            modified_by: audit.actor.clone(),
        }
    }

    /// Checks, records and plans a job as it was given.
    fn define(
        &mut self,
        name: &str,
        given: Map<String, Value>,
        audit: &Audit,
        kind: &'static str,
        out: &mut Vec<Effect>,
    ) -> Result<JobDocument, ApiError> {
        check_name(name)?;
        let bytes = Value::Object(given.clone()).to_string().len();
        if bytes > DEFINITION_BYTES_MAX {
            let message = format!("a job has {DEFINITION_BYTES_MAX} bytes at most, this {bytes}");
            return Err(ApiError::new(ErrorCode::BadRequest, message));
        }
        let (job, problems) = read(name, &given, &self.config);
        let Some(job) = job.filter(|job| job.errors.is_empty()) else {
            return Err(refusal(&problems));
        };
        let job = Arc::new(job);
        let is_new = !self.definitions.contains_key(name);
        let mut definition = self.next_version(name, audit);
        definition.given = Some(given);
        self.definitions.insert(name.to_owned(), Defined { definition, job: Some(job.clone()) });
        if is_new {
            // Results of a former job of this name may have come since that was deleted.
            self.forget_tasks(name, out);
            self.withdraw(name);
        }
        match is_new {
            true => self.newly_defined.push(job),
            false => self.note_change(name),
        }
        self.record_definition(name, kind, audit, audit.reason.clone(), out);
        let mut document = self.job_document(name)?;
        document.warnings = problems.iter().map(say).collect();
        Ok(document)
    }

    fn record_definition(
        &mut self,
        job: &str,
        kind: &'static str,
        audit: &Audit,
        text: String,
        out: &mut Vec<Effect>,
    ) {
        let definition = self.definitions.get(job).map(|defined| defined.definition.clone());
        out.push(Effect::Persist(Record::Job { job: job.to_owned(), definition }));
        let event = Event {
            job: Some(job.into()),
            actor: Some(audit.actor.clone()),
            text,
            ..self.event(kind)
        };
        self.audit(event, out);
    }
}
