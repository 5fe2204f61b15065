//! Everything the console shows. Changed by `update`, drawn by `view`, and nothing else.

use std::collections::VecDeque;

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    CellStatus, Explanation, JobRow, TaskRow, TaskState, TasksRequest, WorkerRow,
};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::log::Stream;

use super::grid::Grid;
use super::table::Table;
use crate::client::logs::{Line, Query};

/// The scheduler is asked every second; silence for so long is said.
pub const SILENCE_MS: Millis = 2_500;
/// Older lines and events are forgotten.
pub const LINES_MAX: usize = 5_000;
pub const EVENTS_MAX: usize = 1_000;
/// How long a notice stays.
pub const NOTICE_MS: Millis = 6_000;
/// Tasks come in windows of so many around the cursor.
pub const TASKS_WINDOW: u32 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Jobs,
    Grid,
    Workers,
    Tasks,
    Task,
    Logs,
    Events,
}

impl View {
    /// Those with a tab, in their order.
    pub const TABS: [Self; 6] =
        [Self::Jobs, Self::Grid, Self::Workers, Self::Tasks, Self::Logs, Self::Events];

    pub fn title(self) -> &'static str {
        match self {
            Self::Jobs => "Jobs",
            Self::Grid => "Grid",
            Self::Workers => "Workers",
            Self::Tasks => "Tasks",
            Self::Task => "Task",
            Self::Logs => "Logs",
            Self::Events => "Events",
        }
    }
}

/// What the tasks view lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFilter {
    pub job: Option<String>,
    pub worker: Option<String>,
    pub contains: String,
    pub state: Option<TaskState>,
}

/// A window of the tasks that pass the filter.
#[derive(Default)]
pub struct Tasks {
    pub filter: TaskFilter,
    pub table: Table<TaskRow>,
    /// Of the first row that is here, among all that pass.
    pub offset: u32,
    pub total: u64,
}

#[derive(Default)]
pub struct Logs {
    pub query: Query,
    pub lines: VecDeque<Line>,
    /// How many lines up from the end; 0 follows.
    pub up: usize,
    pub problems: Vec<String>,
    pub loaded: bool,
}

#[derive(Default)]
pub struct Events {
    pub events: VecDeque<Event>,
    pub up: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Kill { attempt: AttemptId },
    Forgive { job: String, node: Option<String> },
}

/// A question before something is changed. It names what it is about for good: whatever the lists
/// do meanwhile, the answer is about this.
#[derive(Clone, Debug, PartialEq)]
pub struct Confirm {
    pub title: String,
    pub lines: Vec<String>,
    pub action: Action,
    /// Which button has the focus; Cancel at first.
    pub yes: bool,
}

pub struct State {
    pub cell: String,
    pub read_only: bool,
    pub colour: bool,
    pub size: (u16, u16),
    pub now_ms: Millis,
    pub quit: bool,

    pub connected: bool,
    /// When the scheduler last answered.
    pub answered_ms: Option<Millis>,
    /// Why it did not, if it did not.
    pub trouble: Option<String>,
    /// Why what the view asks for is not to be had.
    pub refused: Option<String>,
    pub notice: Option<(Millis, String)>,

    pub view: View,
    pub back: Vec<View>,
    pub help: bool,
    pub confirm: Option<Confirm>,
    /// The filter that is being typed.
    pub typing: Option<String>,

    pub status: Option<CellStatus>,
    pub jobs: Table<JobRow>,
    pub workers: Table<WorkerRow>,
    pub tasks: Tasks,
    pub grid: Grid,
    /// The task that the task view is about.
    pub task: Option<(String, String)>,
    pub explanation: Option<Explanation>,
    pub logs: Logs,
    pub events: Events,
}

/// What has to be asked for to show the present view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wants {
    pub workers: bool,
    pub tasks: Option<TasksRequest>,
    pub task: Option<(String, String)>,
    pub grid: bool,
    pub logs: Option<Query>,
    pub events: bool,
}

impl State {
    pub fn new(cell: String, read_only: bool, colour: bool) -> Self {
        Self {
            cell,
            read_only,
            colour,
            size: (80, 24),
            now_ms: 0,
            quit: false,
            connected: false,
            answered_ms: None,
            trouble: None,
            refused: None,
            notice: None,
            view: View::Jobs,
            back: Vec::new(),
            help: false,
            confirm: None,
            typing: None,
            status: None,
            jobs: Table::default(),
            workers: Table::default(),
            tasks: Tasks::default(),
            grid: Grid::default(),
            task: None,
            explanation: None,
            logs: Logs {
                query: Query { streams: vec![Stream::Stdout, Stream::Stderr], ..Query::default() },
                ..Logs::default()
            },
            events: Events::default(),
        }
    }

    /// How long the scheduler has been silent, if that is worth saying.
    pub fn silent_ms(&self) -> Option<Millis> {
        let silent = self.now_ms.saturating_sub(self.answered_ms?);
        (silent > SILENCE_MS || !self.connected).then_some(silent)
    }

    pub fn wants(&self) -> Wants {
        let tasks = self.view == View::Tasks;
        Wants {
            workers: self.view == View::Workers,
            tasks: tasks.then(|| self.tasks.request()),
            task: self.task.clone().filter(|_| self.view == View::Task),
            grid: self.view == View::Grid,
            logs: (self.view == View::Logs).then(|| self.logs.query.clone()),
            events: self.view == View::Events,
        }
    }

    /// Rows of the body: all but the header, the tabs and the footer.
    pub fn body_rows(&self) -> usize {
        usize::from(self.size.1).saturating_sub(super::view::FRAME_ROWS)
    }
}

impl Tasks {
    pub fn request(&self) -> TasksRequest {
        use bistro_common::protocol::api::Page;
        let filter = &self.filter;
        TasksRequest {
            job: filter.job.clone(),
            node: None,
            contains: (!filter.contains.is_empty()).then(|| filter.contains.clone()),
            states: filter.state.into_iter().collect(),
            worker: filter.worker.clone(),
            page: Page { offset: self.offset, limit: TASKS_WINDOW },
        }
    }
}
