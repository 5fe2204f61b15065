//! What can be done to a cell: the same for commands and for the console.

use serde_json::{Map, Value, json};

use bistro_common::filter;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    ApplyReply, ApplyRequest, BulkAction, ForgiveReply, ForgiveRequest, KillReply, KillRequest,
    ListRequest, Listing, PlanReply, PlanRequest, TasksRequest, WorkerDrainRequest,
    WorkerForgetRequest, WorkerReply, WorkerRow, verb,
};
use bistro_common::protocol::heartbeat::ClosedReason;
use bistro_common::protocol::job::{
    Audit, JobDocument, JobGetRequest, JobOverrideRequest, JobPutRequest, Origin, Overrides,
    PutMode,
};
use bistro_common::protocol::task::Kill;

use super::{Client, Unreachable, actor};

/// One thing to do. It names what it is about for good.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `job` and `node` are those of the attempt. No `kill`: as the job's config says.
    Kill {
        job: String,
        node: String,
        attempt: AttemptId,
        kill: Option<Kill>,
    },
    /// All nodes of the job if none is given.
    Forgive {
        job: String,
        node: Option<String>,
    },
    /// What a plan says, which was made for this filter.
    Apply {
        action: BulkAction,
        filter: String,
        plan: String,
        kill: Option<Kill>,
    },
    Enable {
        job: String,
        on: bool,
    },
    Prioritize {
        job: String,
        priority: f64,
    },
    /// The job's file holds again, but for these. Only at this version of the job, if one is named.
    Reset {
        job: String,
        overrides: Overrides,
        version_id: Option<u64>,
    },
    /// `words` are what `bistro submit` was given beside the job's name.
    Submit {
        job: String,
        definition: Map<String, Value>,
        words: Vec<String>,
    },
    Drain {
        worker: String,
        on: bool,
    },
    Forget {
        worker: String,
        fenced: bool,
    },
    /// One after the other, each whatever has become of those before.
    Each(Vec<Self>),
}

/// What was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Acted {
    pub text: String,
    /// What takes it back, where something does, and where it has changed anything.
    pub undo: Option<Action>,
}

impl From<String> for Acted {
    fn from(text: String) -> Self {
        Self { text, undo: None }
    }
}

impl Action {
    /// The same with another way to ask for the end, where it is a kill.
    pub fn by(self, way: Option<Kill>) -> Self {
        match self {
            Self::Kill { job, node, attempt, .. } => Self::Kill { job, node, attempt, kill: way },
            Self::Apply { action, filter, plan, .. } => {
                Self::Apply { action, filter, plan, kill: way }
            }
            Self::Each(actions) => {
                Self::Each(actions.into_iter().map(|action| action.by(way)).collect())
            }
            other => other,
        }
    }

    /// One for one, several as [`Action::Each`], none for none.
    pub fn of_all(mut actions: Vec<Self>) -> Option<Self> {
        match actions.len() {
            0 | 1 => actions.pop(),
            _ => Some(Self::Each(actions)),
        }
    }
}

impl Client {
    /// Does it, and says what was done. `progress` hears of long work as it goes on: how many are
    /// done and how many are left; it says whether to go on.
    pub async fn act(
        &self,
        action: Action,
        reason: String,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> anyhow::Result<Acted> {
        match action {
            Action::Each(actions) => self.each(actions, reason, &mut progress).await,
            action => self.act_once(action, reason, &mut progress).await,
        }
    }

    /// Goes on after a refusal: the others are none the worse for it. Silence is the end.
    async fn each(
        &self,
        actions: Vec<Action>,
        reason: String,
        progress: &mut impl FnMut(u64, u64) -> bool,
    ) -> anyhow::Result<Acted> {
        let (all, mut done, mut refused) = (actions.len() as u64, 0, Vec::new());
        let (mut undo, mut stopped) = (Vec::new(), String::new());
        for action in actions {
            let what = action.shell();
            match self.act_once(action, reason.clone(), &mut |_, _| true).await {
                Ok(acted) => {
                    done += 1;
                    undo.extend(acted.undo);
                }
                Err(error) if error.is::<Unreachable>() && done == 0 => return Err(error),
                Err(error) if error.is::<Unreachable>() => {
                    stopped = format!("; then no answer to {what}, which may have been done");
                    break;
                }
                Err(error) => refused.push(format!("{what}: {error:#}")),
            }
            let tried = done + refused.len() as u64;
            if tried < all && !progress(tried, all - tried) {
                stopped = format!("; stopped with {} left", all - tried);
                break;
            }
        }
        let refusals = match refused.first() {
            Some(first) if done == 0 => anyhow::bail!("{first}"),
            Some(first) => format!(", {} refused: {first}", refused.len()),
            None => String::new(),
        };
        let text = format!("{done} done{refusals}{stopped}");
        Ok(Acted { text, undo: Action::of_all(undo) })
    }

    async fn act_once(
        &self,
        action: Action,
        reason: String,
        progress: &mut impl FnMut(u64, u64) -> bool,
    ) -> anyhow::Result<Acted> {
        let audit = Audit { actor: actor(), reason };
        match action {
            Action::Each(_) => anyhow::bail!("a series within a series"),
            Action::Kill { attempt, kill, .. } => {
                let Audit { actor, reason } = audit;
                let request = KillRequest { attempt, kill, actor, reason };
                let KillReply { job, node, attempt_no, worker } =
                    self.ask(verb::KILL, &request).await?;
                Ok(format!("asked {worker} to end {job} on {node} (attempt {attempt_no})").into())
            }
            Action::Forgive { job, node } => {
                let Audit { actor, reason } = audit;
                let request = ForgiveRequest { job, node, actor, reason };
                let reply: ForgiveReply = self.ask(verb::FORGIVE, &request).await?;
                Ok(format!("{} tasks forgiven", reply.forgiven).into())
            }
            Action::Apply { action, plan, kill, .. } => {
                Ok(self.apply(action, plan, kill, audit, progress).await?.into())
            }
            Action::Enable { job, on } => {
                self.change(job, Overrides { enabled: Some(on), priority: None }, audit).await
            }
            Action::Prioritize { job, priority } => {
                self.change(job, Overrides { enabled: None, priority: Some(priority) }, audit).await
            }
            Action::Reset { job, overrides, version_id } => {
                let request = JobOverrideRequest { job, reset: true, overrides, version_id, audit };
                Ok(how_it_is(&self.ask(verb::JOB_OVERRIDE, &request).await?).into())
            }
            Action::Submit { job, definition, .. } => {
                let document = self.submit(job, definition, audit).await?;
                Ok(format!("{} waits for its turn", document.job).into())
            }
            Action::Drain { worker, on } => self.drain(worker, on, audit).await,
            Action::Forget { worker, fenced } => {
                let request = WorkerForgetRequest { worker, fenced, audit };
                let WorkerReply { worker, attempts } =
                    self.ask(verb::WORKER_FORGET, &request).await?;
                Ok(format!("{worker} is forgotten; {attempts} of its tasks were given up").into())
            }
        }
    }

    /// What an action on all tasks that pass a filter would touch.
    pub async fn plan(&self, action: BulkAction, filter: &str) -> anyhow::Result<PlanReply> {
        let list = ListRequest { filter: filter.to_owned(), ..ListRequest::default() };
        let tasks = TasksRequest { list, ..TasksRequest::default() };
        self.ask(verb::PLAN, &PlanRequest { action, tasks }).await
    }

    async fn apply(
        &self,
        action: BulkAction,
        plan: String,
        kill: Option<Kill>,
        Audit { actor, reason }: Audit,
        progress: &mut impl FnMut(u64, u64) -> bool,
    ) -> anyhow::Result<String> {
        let request = ApplyRequest { plan, kill, actor, reason };
        let (mut applied, mut gone) = (0, 0);
        let left = loop {
            let reply: ApplyReply = match self.ask(verb::APPLY, &request).await {
                Ok(reply) => reply,
                Err(error) if applied + gone == 0 => return Err(error),
                Err(error) => return Err(error.context(format!("{applied} were done, then"))),
            };
            applied += reply.applied;
            gone += reply.gone;
            if reply.left == 0 || !progress(applied + gone, reply.left) {
                break reply.left;
            }
        };
        let mut text = match action {
            BulkAction::Kill => format!("asked for the end of {applied} attempts"),
            BulkAction::Forgive => format!("{applied} tasks forgiven"),
        };
        if gone > 0 {
            text += &format!("; {gone} were not as planned any more");
        }
        if left > 0 {
            text += &format!("; stopped with {left} left");
        }
        Ok(text)
    }

    /// Makes a job that is not there yet.
    pub async fn submit(
        &self,
        job: String,
        definition: Map<String, Value>,
        audit: Audit,
    ) -> anyhow::Result<JobDocument> {
        let (mode, version_id) = (PutMode::Create, None);
        self.ask(verb::JOB_PUT, &JobPutRequest { job, definition, mode, version_id, audit }).await
    }

    async fn change(
        &self,
        job: String,
        overrides: Overrides,
        audit: Audit,
    ) -> anyhow::Result<Acted> {
        let get = JobGetRequest { job: job.clone() };
        let before: JobDocument = self.ask(verb::JOB_GET, &get).await?;
        let (reset, version_id) = (false, None);
        let request = JobOverrideRequest { job, reset, overrides, version_id, audit };
        let after: JobDocument = self.ask(verb::JOB_OVERRIDE, &request).await?;
        Ok(Acted { text: how_it_is(&after), undo: as_before(&before, &after) })
    }

    async fn drain(&self, worker: String, on: bool, audit: Audit) -> anyhow::Result<Acted> {
        let filter = filter::exactly("worker", &worker);
        let list = ListRequest { filter, ..ListRequest::default() };
        let rows: Listing<WorkerRow> = self.ask(verb::WORKERS, &list).await?;
        let before = rows.items.first().map(|row| row.closed == Some(ClosedReason::Draining));
        let request = WorkerDrainRequest { worker, on, audit };
        let WorkerReply { worker, attempts } = self.ask(verb::WORKER_DRAIN, &request).await?;
        let text = match on {
            true => format!("{worker} takes no new work; it still runs {attempts} tasks"),
            false => format!("{worker} takes work again"),
        };
        let undo = (before == Some(!on)).then_some(Action::Drain { worker, on: !on });
        Ok(Acted { text, undo })
    }
}

/// What makes a job as it was before a change, if it was one, and if there was none between that
/// would be taken back, too.
fn as_before(before: &JobDocument, after: &JobDocument) -> Option<Action> {
    let job = before.job.clone();
    if after.version_id != before.version_id + 1 || before.effective == after.effective {
        return None;
    }
    if before.origin == Origin::File {
        let (overrides, version_id) = (before.overrides.clone(), Some(after.version_id));
        return Some(Action::Reset { job, overrides, version_id });
    }
    let of =
        |key: &str| Some(before.effective.get(key)).filter(|old| *old != after.effective.get(key));
    match (of("enabled"), of("priority")) {
        (Some(Some(on)), _) => Some(Action::Enable { job, on: on.as_bool()? }),
        (_, Some(Some(priority))) => Some(Action::Prioritize { job, priority: priority.as_f64()? }),
        _ => None,
    }
}

/// A job after a change, with its warnings.
pub fn how_it_is(document: &JobDocument) -> String {
    let enabled = match document.effective.get("enabled") == Some(&json!(true)) {
        true => "enabled",
        false => "disabled",
    };
    let priority = document.effective.get("priority").and_then(Value::as_f64).unwrap_or(1.0);
    let origin = match document.origin {
        Origin::File if document.overrides.is_empty() => " as its file says",
        Origin::File => " beside what its file says",
        Origin::Store => "",
    };
    let JobDocument { job, version_id, .. } = document;
    let mut text =
        format!("{job} is {enabled} with priority {priority}{origin} (version {version_id})");
    for warning in &document.warnings {
        text += &format!("\nwarning: {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_change_back_takes_nothing_else_back() {
        let document = |origin: &str, version_id: u64, enabled: bool, overrides: Value| {
            let value = json!({"job": "j", "origin": origin, "version_id": version_id,
                "overrides": overrides, "effective": {"enabled": enabled, "priority": 2.0}});
            serde_json::from_value::<JobDocument>(value).unwrap()
        };
        let file =
            |version_id, enabled| document("file", version_id, enabled, json!({"priority": 2.0}));
        let overrides = Overrides { enabled: None, priority: Some(2.0) };
        let reset = Action::Reset { job: "j".to_owned(), overrides, version_id: Some(4) };
        assert_eq!(as_before(&file(3, true), &file(4, false)), Some(reset));
        assert_eq!(as_before(&file(3, true), &file(5, false)), None, "there was another change");
        assert_eq!(as_before(&file(3, true), &file(4, true)), None, "nothing has changed");
        let store = |version_id, enabled| document("store", version_id, enabled, json!({}));
        let enable = Action::Enable { job: "j".to_owned(), on: true };
        assert_eq!(as_before(&store(3, true), &store(4, false)), Some(enable));
    }
}
