//! What can be done to a cell: the same for commands and for the console.

use serde_json::{Map, Value, json};

use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    ApplyReply, ApplyRequest, BulkAction, ForgiveReply, ForgiveRequest, KillReply, KillRequest,
    ListRequest, PlanReply, PlanRequest, TasksRequest, WorkerDrainRequest, WorkerForgetRequest,
    WorkerReply, verb,
};
use bistro_common::protocol::job::{
    Audit, JobDocument, JobOverrideRequest, JobPutRequest, Origin, Overrides, PutMode,
};
use bistro_common::protocol::task::{Kill, KillMethod};

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
    /// The job's file holds again, but for these.
    Reset {
        job: String,
        overrides: Overrides,
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

    /// What does the same in a shell.
    pub fn shell(&self) -> String {
        match self {
            Self::Each(actions) => actions.iter().map(Self::shell).collect::<Vec<_>>().join("; "),
            one => shell(&one.command()),
        }
    }

    /// The command that does the same, of one action.
    fn command(&self) -> Vec<String> {
        let mut words = vec!["bistro"];
        let mut options = Vec::new();
        match self {
            Self::Kill { job, node, kill, .. } => {
                words.extend(["kill", job, node]);
                options = kill_options(*kill);
            }
            Self::Forgive { job, node } => {
                words.extend(["forgive", job]);
                words.extend(node.as_deref());
            }
            Self::Apply { action, filter, kill, .. } => {
                let verb = match action {
                    BulkAction::Kill => "kill",
                    BulkAction::Forgive => "forgive",
                };
                words.extend([verb, "--filter", filter, "--yes"]);
                options = kill_options(*kill);
            }
            Self::Enable { job, on: true } => words.extend(["job", "enable", job]),
            Self::Enable { job, on: false } => words.extend(["job", "disable", job]),
            Self::Prioritize { job, priority } => {
                words.extend(["job", "set-priority", job]);
                options.push(priority.to_string());
            }
            Self::Reset { job, overrides } => {
                words.extend(["job", "reset", job]);
                let enabled = overrides.enabled.map(|on| format!("--enabled={on}"));
                let priority = overrides.priority.map(|number| format!("--priority={number}"));
                options.extend(enabled.into_iter().chain(priority));
            }
            Self::Submit { job, words: given, .. } => {
                words.extend(["submit", "--name", job]);
                options.extend(given.iter().cloned());
            }
            Self::Each(_) => {}
            Self::Drain { worker, on: true } => words.extend(["worker", "drain", worker]),
            Self::Drain { worker, on: false } => words.extend(["worker", "resume", worker]),
            Self::Forget { worker, fenced } => {
                words.extend(["worker", "forget", worker]);
                words.extend(fenced.then_some("--i-have-fenced-it"));
            }
        }
        let words = words.into_iter().map(str::to_owned).chain(options);
        words.collect()
    }
}

fn kill_options(kill: Option<Kill>) -> Vec<String> {
    let Some(Kill { method, wait_ms }) = kill else { return Vec::new() };
    match method {
        KillMethod::Term => vec!["--signal=term".to_owned()],
        KillMethod::Kill => vec!["--signal=kill".to_owned()],
        KillMethod::TermWaitKill => vec![
            "--signal=term-wait-kill".to_owned(),
            format!("--grace={}", wait_ms.div_ceil(1_000)),
        ],
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
    ) -> anyhow::Result<String> {
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
    ) -> anyhow::Result<String> {
        let (all, mut done, mut refused) = (actions.len() as u64, 0, Vec::new());
        for action in actions {
            let what = action.shell();
            match self.act_once(action, reason.clone(), &mut |_, _| true).await {
                Ok(_) => done += 1,
                Err(error) if error.is::<Unreachable>() => {
                    return Err(error.context(format!("{done} were done, then")));
                }
                Err(error) => refused.push(format!("{what}: {error:#}")),
            }
            let tried = done + refused.len() as u64;
            if tried < all && !progress(tried, all - tried) {
                return Ok(format!("{done} done; stopped with {} left", all - tried));
            }
        }
        match refused.first() {
            None => Ok(format!("{done} done")),
            Some(first) if done == 0 => Err(anyhow::anyhow!("{first}")),
            Some(first) => Ok(format!("{done} done, {} refused: {first}", refused.len())),
        }
    }

    async fn act_once(
        &self,
        action: Action,
        reason: String,
        progress: &mut impl FnMut(u64, u64) -> bool,
    ) -> anyhow::Result<String> {
        let audit = Audit { actor: actor(), reason };
        match action {
            Action::Each(_) => anyhow::bail!("a series within a series"),
            Action::Kill { attempt, kill, .. } => {
                let Audit { actor, reason } = audit;
                let request = KillRequest { attempt, kill, actor, reason };
                let KillReply { job, node, attempt_no, worker } =
                    self.ask(verb::KILL, &request).await?;
                Ok(format!("asked {worker} to end {job} on {node} (attempt {attempt_no})"))
            }
            Action::Forgive { job, node } => {
                let Audit { actor, reason } = audit;
                let request = ForgiveRequest { job, node, actor, reason };
                let reply: ForgiveReply = self.ask(verb::FORGIVE, &request).await?;
                Ok(format!("{} tasks forgiven", reply.forgiven))
            }
            Action::Apply { action, plan, kill, .. } => {
                self.apply(action, plan, kill, audit, progress).await
            }
            Action::Enable { job, on } => {
                let overrides = Overrides { enabled: Some(on), priority: None };
                self.set(job, false, overrides, audit).await
            }
            Action::Prioritize { job, priority } => {
                let overrides = Overrides { enabled: None, priority: Some(priority) };
                self.set(job, false, overrides, audit).await
            }
            Action::Reset { job, overrides } => self.set(job, true, overrides, audit).await,
            Action::Submit { job, definition, .. } => {
                let document = self.submit(job, definition, audit).await?;
                Ok(format!("{} waits for its turn", document.job))
            }
            Action::Drain { worker, on } => {
                let request = WorkerDrainRequest { worker, on, audit };
                let WorkerReply { worker, attempts } =
                    self.ask(verb::WORKER_DRAIN, &request).await?;
                Ok(match on {
                    true => format!("{worker} takes no new work; it still runs {attempts} tasks"),
                    false => format!("{worker} takes work again"),
                })
            }
            Action::Forget { worker, fenced } => {
                let request = WorkerForgetRequest { worker, fenced, audit };
                let WorkerReply { worker, attempts } =
                    self.ask(verb::WORKER_FORGET, &request).await?;
                Ok(format!("{worker} is forgotten; {attempts} of its tasks were given up"))
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

    async fn set(
        &self,
        job: String,
        reset: bool,
        overrides: Overrides,
        audit: Audit,
    ) -> anyhow::Result<String> {
        let request = JobOverrideRequest { job, reset, overrides, version_id: None, audit };
        Ok(how_it_is(&self.ask(verb::JOB_OVERRIDE, &request).await?))
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

/// A command as it is typed into a shell.
pub fn shell(words: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,~@%+".contains(c);
    let quoted = words.iter().map(|word| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn all() -> Vec<Action> {
        let name = || "it's -one".to_owned();
        let wait = Kill { method: KillMethod::TermWaitKill, wait_ms: 5_000 };
        let kills = [None, Some(wait), Some(Kill { method: KillMethod::Kill, wait_ms: 0 })];
        let plan = |action, kill| Action::Apply {
            action,
            filter: "job=a state=failed".to_owned(),
            plan: "1-1".to_owned(),
            kill,
        };
        let mut all = vec![
            Action::Forgive { job: name(), node: None },
            Action::Forgive { job: name(), node: Some(name()) },
            plan(BulkAction::Kill, Some(wait)),
            plan(BulkAction::Forgive, None),
            Action::Enable { job: name(), on: true },
            Action::Enable { job: name(), on: false },
            Action::Prioritize { job: name(), priority: -2.5 },
            Action::Reset { job: name(), overrides: Overrides::default() },
            Action::Reset {
                job: name(),
                overrides: Overrides { enabled: Some(false), priority: Some(-1.5) },
            },
            Action::Submit {
                job: name(),
                definition: Map::new(),
                words: ["--retries=3", "--", "ls", "-l"].map(str::to_owned).to_vec(),
            },
            Action::Drain { worker: name(), on: true },
            Action::Drain { worker: name(), on: false },
            Action::Forget { worker: name(), fenced: true },
        ];
        all.extend(kills.map(|kill| Action::Kill {
            job: name(),
            node: name(),
            attempt: AttemptId::generate(),
            kill,
        }));
        all
    }

    #[test]
    fn every_action_of_the_console_is_a_command_too() {
        let check = |text: &str| {
            let command = shell_words::split(text).unwrap();
            let parsed = crate::args::Args::try_parse_from(&command);
            assert!(parsed.is_ok(), "{command:?}: {}", parsed.unwrap_err());
        };
        all().iter().for_each(|action| check(&action.shell()));
        let each = Action::of_all(all()).unwrap().shell();
        assert_eq!(each.split("; ").map(check).count(), all().len());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let words = ["bistro", "kill", "it's", "db1", "", "a b"].map(str::to_owned);
        assert_eq!(shell(&words), "bistro kill 'it'\\''s' db1 '' 'a b'");
    }
}
