//! What the console needs for the view in sight: the feed follows it.

use bistro_common::protocol::api::{ListRequest, TasksRequest};

use super::grid::{Names, Subtree};
use super::state::{EventsFrom, State, View};
use crate::client::attempts::Of;
use crate::client::logs::Query;

/// What has to be asked for to show the present view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wants {
    pub jobs: Option<ListRequest>,
    pub nodes: Option<ListRequest>,
    pub workers: Option<ListRequest>,
    pub tasks: Option<TasksRequest>,
    pub job: Option<String>,
    pub task: Option<(String, String)>,
    /// Of which task the attempts are wanted, anew whenever this changes.
    pub attempts: Option<Of>,
    pub grid: bool,
    /// Which cells are below a node.
    pub subtree: Option<Subtree>,
    /// The number of the node whose name is wanted, and its level; names are what comes.
    pub node: Option<Names>,
    pub logs: Option<Query>,
    /// And from which time on.
    pub events: Option<EventsFrom>,
    pub health: bool,
    /// Other cells.
    pub cells: bool,
}

impl State {
    pub fn wants(&self) -> Wants {
        let is = |view| self.view == view;
        let tasks = is(View::Tasks)
            .then(|| TasksRequest { list: self.tasks.request(), ..TasksRequest::default() });
        let node = self.grid.place().filter(|_| is(View::Grid) && self.grid.node().is_none());
        Wants {
            jobs: is(View::Jobs).then(|| self.jobs.request()),
            nodes: is(View::Nodes).then(|| self.nodes.request()),
            workers: is(View::Workers).then(|| self.workers.request()),
            tasks,
            job: is(View::Job).then(|| self.job.job.clone()),
            task: self.task.clone().filter(|_| is(View::Task)),
            attempts: self.explanation.as_ref().filter(|_| is(View::Task)).map(|explanation| {
                let task = &explanation.task;
                let (job, node) = (task.job.clone(), task.node.clone());
                Of { job, node, attempt_no: task.attempt_no, state: task.state }
            }),
            grid: is(View::Grid),
            subtree: self.grid.wanted_subtree().filter(|_| is(View::Grid)),
            node: node.map(|(level, first)| Names {
                layout: self.grid.layout,
                level: level.to_owned(),
                first,
                names: Vec::new(),
            }),
            logs: is(View::Logs).then(|| self.logs.query.clone()),
            events: is(View::Events).then_some(self.events.from),
            health: is(View::Health),
            cells: self.palette.is_some() && self.cells.is_some(),
        }
    }

    /// Everything that the present view needs has come.
    pub fn is_settled(&self) -> bool {
        let shown = match self.view {
            View::Jobs => self.jobs.loaded || self.jobs.problem.is_some(),
            View::Nodes => self.nodes.loaded || self.nodes.problem.is_some(),
            View::Workers => self.workers.loaded || self.workers.problem.is_some(),
            View::Tasks => self.tasks.loaded || self.tasks.problem.is_some(),
            View::Grid => {
                let whole = self.grid.in_sync && self.grid.wanted_subtree().is_none();
                whole || self.grid.trouble.is_some()
            }
            View::Logs => self.logs.loaded,
            View::Job => self.job.document.is_some() || self.job.problem.is_some(),
            View::Task => self.explanation.is_some() || self.refused.is_some(),
            View::Events | View::Health => true,
        };
        shown && self.status.is_some()
    }
}
