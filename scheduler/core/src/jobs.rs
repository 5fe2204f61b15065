//! A job of the present plan.

use std::sync::Arc;

use bistro_common::config::{Job, LevelIx};
use bistro_common::protocol::api::TaskState;

use crate::bits::Bits;
use crate::resources::ClassIx;
use crate::tasks::{JobIx, TaskCell};

/// A queue has a hundred thousand of these: what few jobs have lies elsewhere.
#[derive(Debug)]
pub struct JobState {
    pub config: Arc<Job>,
    pub links: Option<Box<Links>>,
    pub routes: Option<Box<Routes>>,
    /// Its class at each level down to its own; jobs that demand the same share the list.
    pub classes: Arc<[ClassIx]>,
    pub worker_class: ClassIx,
    /// It was changed or deleted since the plan was made: it starts nothing more under this one.
    pub withdrawn: bool,
}

/// Jobs that it waits for, and that wait for it.
#[derive(Debug, Default)]
pub struct Links {
    /// Jobs that this one depends on; `None` for a name that is not a job.
    pub depends_on: Vec<Option<JobIx>>,
    /// Jobs that depend on this one.
    pub dependents: Vec<JobIx>,
    /// Jobs all of whose tasks must be done first; `None` for a name that is not a job.
    pub after_all: Vec<Option<JobIx>>,
    /// Jobs that wait for all of this one's tasks.
    pub awaited_by: Vec<JobIx>,
}

/// Nodes that it must not pass, apart from its own.
#[derive(Debug, Default)]
pub struct Routes {
    pub placed: Option<Placed>,
    /// Nodes above its level that it must not pass through; empty where every node has one parent,
    /// since the tasks' own gates say it all then.
    pub barred: Bits,
}

/// Tasks that run on the host that a node on their path is named after.
#[derive(Debug)]
pub struct Placed {
    pub level: LevelIx,
    /// For which nodes of the level (numbered from its first) a worker there has room.
    pub room: Bits,
}

impl JobState {
    pub fn new(config: Arc<Job>) -> Self {
        Self {
            config,
            links: None,
            routes: None,
            classes: Arc::default(),
            worker_class: ClassIx(0),
            withdrawn: false,
        }
    }

    /// Its class at the instance node, which every path begins with.
    pub fn instance_class(&self) -> ClassIx {
        self.classes[0]
    }

    pub fn level(&self) -> LevelIx {
        self.config.level
    }

    pub fn can_run(&self) -> bool {
        self.config.can_run() && !self.withdrawn
    }

    pub fn depends_on(&self) -> &[Option<JobIx>] {
        self.links.as_ref().map_or(&[], |links| &links.depends_on)
    }

    pub fn dependents(&self) -> &[JobIx] {
        self.links.as_ref().map_or(&[], |links| &links.dependents)
    }

    pub fn after_all(&self) -> &[Option<JobIx>] {
        self.links.as_ref().map_or(&[], |links| &links.after_all)
    }

    pub fn awaited_by(&self) -> &[JobIx] {
        self.links.as_ref().map_or(&[], |links| &links.awaited_by)
    }

    pub fn placed(&self) -> Option<&Placed> {
        self.routes.as_ref()?.placed.as_ref()
    }

    pub fn links_mut(&mut self) -> &mut Links {
        self.links.get_or_insert_default()
    }

    /// The state of a task as people see it: tasks of a job that cannot run are disabled, unless
    /// they run still or are over.
    pub fn state_of(&self, cell: TaskCell) -> TaskState {
        self.shown(cell.state())
    }

    pub fn shown(&self, state: TaskState) -> TaskState {
        match state {
            TaskState::CanRun | TaskState::Blocked | TaskState::Backoff
                if !self.config.can_run() =>
            {
                TaskState::Disabled
            }
            state => state,
        }
    }
}
