//! Everything the console shows. Changed by `update`, drawn by `view`, and nothing else.

use std::collections::{HashMap, VecDeque};

use bistro_common::Millis;
use bistro_common::protocol::api::{
    CellStatus, Explanation, JobRow, JobStats, NodeRow, TaskRow, WorkerRow,
};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::job::JobDocument;
use bistro_common::protocol::log::Stream;
use bistro_common::protocol::task::Kill;

use super::grid::Grid;
use super::keys::Keymap;
use super::list::List;
use super::palette::Palette;
use super::rates::Rates;
use super::route::Route;
use super::theme::Theme;
use crate::client::actions::Action;
use crate::client::attempts::Attempts;
use crate::client::logs::{Line, Query};

/// The scheduler is asked every second or more often; silence for so long is said.
pub const SILENCE_MS: Millis = 2_500;
/// Older lines and events are forgotten.
pub const LINES_MAX: usize = 5_000;
pub const EVENTS_MAX: usize = 5_000;
/// How long a notice stays.
pub const NOTICE_MS: Millis = 6_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Jobs,
    Grid,
    Nodes,
    Workers,
    Tasks,
    Logs,
    Events,
    Health,
    /// One job.
    Job,
    /// One task.
    Task,
}

impl View {
    /// Those with a tab, in their order.
    pub const TABS: &'static [Self] = Self::ALL.split_at(8).0;
    pub const ALL: [Self; 10] = [
        Self::Jobs,
        Self::Grid,
        Self::Nodes,
        Self::Workers,
        Self::Tasks,
        Self::Logs,
        Self::Events,
        Self::Health,
        Self::Job,
        Self::Task,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Jobs => "Jobs",
            Self::Grid => "Grid",
            Self::Nodes => "Nodes",
            Self::Workers => "Workers",
            Self::Tasks => "Tasks",
            Self::Logs => "Logs",
            Self::Events => "Events",
            Self::Health => "Health",
            Self::Job => "Job",
            Self::Task => "Task",
        }
    }
}

pub struct Logs {
    pub query: Query,
    pub lines: VecDeque<Line>,
    /// How many lines up from the end; 0 follows.
    pub up: usize,
    pub problems: Vec<String>,
    pub loaded: bool,
    /// What is looked for in the lines, as it was typed and as it is compared.
    pub search: Option<(String, regex::Regex)>,
    pub wrap: bool,
    pub times: bool,
}

impl Logs {
    /// What is shown unless something else is asked for.
    pub const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// Other lines, from anew.
    pub fn ask(&mut self, query: Query) {
        if self.query != query {
            self.query = query;
            self.reload();
        }
    }

    pub fn reload(&mut self) {
        self.lines.clear();
        self.problems.clear();
        (self.up, self.loaded) = (0, false);
    }
}

impl Default for Logs {
    fn default() -> Self {
        let query = Query { streams: Self::STREAMS.to_vec(), ..Query::default() };
        let (lines, problems) = (VecDeque::new(), Vec::new());
        Self {
            query,
            lines,
            up: 0,
            problems,
            loaded: false,
            search: None,
            wrap: false,
            times: true,
        }
    }
}

#[derive(Default)]
pub struct Events {
    pub events: VecDeque<Event>,
    /// As typed; applied to what is here.
    pub filter: String,
    pub from: EventsFrom,
    pub up: usize,
}

/// Which events are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EventsFrom {
    /// From this time on, rather than the last ones.
    pub since_ms: Option<Millis>,
    /// How often others were wanted before: the same ones may be wanted again.
    asked: u32,
}

impl Events {
    pub fn ask(&mut self, filter: String, since_ms: Option<Millis>) {
        self.filter = filter;
        if self.from.since_ms != since_ms {
            self.events.clear();
            // From the top on, for those of a time: there are never so many.
            self.up = if since_ms.is_some() { 2 * EVENTS_MAX } else { 0 };
            self.from = EventsFrom { since_ms, asked: self.from.asked.wrapping_add(1) };
        }
    }
}

/// What the job view shows beside the job's row.
#[derive(Default)]
pub struct JobView {
    pub job: String,
    pub row: Option<JobRow>,
    pub document: Option<JobDocument>,
    pub failing: Vec<TaskRow>,
    pub slowest: Vec<TaskRow>,
    pub problem: Option<String>,
}

/// What takes more to find out about a job, and is looked for less often.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobMore {
    pub stats: Option<JobStats>,
    /// Who has changed it, what and when; newest first.
    pub history: Vec<Event>,
}

/// A question before something is changed. It names what it is about for good: whatever the lists
/// do meanwhile, the answer is about this.
#[derive(Clone, Debug, PartialEq)]
pub struct Confirm {
    pub title: String,
    pub lines: Vec<String>,
    pub action: Action,
    /// It is about marked rows, whose marks it takes away.
    pub marked: bool,
    /// For kills: ways to ask for the end, and which of them is chosen.
    pub ways: Vec<(&'static str, Option<Kill>)>,
    pub way: usize,
    /// Which button has the focus; Cancel at first.
    pub yes: bool,
}

/// A line that is being typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub kind: PromptKind,
    pub text: String,
    /// What holds if nothing is typed after all.
    pub before: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PromptKind {
    /// Of the list, the logs or the events in sight.
    Filter,
    Search,
    Time,
    Save,
    /// Of the jobs that were chosen when it was asked for.
    Priority {
        jobs: Vec<JobRow>,
    },
    /// A command, as `bistro submit` takes it.
    Submit,
}

/// Another cell to look at.
#[derive(Clone, Debug, PartialEq)]
pub enum Elsewhere {
    /// One that `bistro context` has a name for.
    Context(String),
    /// One on the same NATS.
    Cell(String),
}

/// What goes on with this console itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    pub connected: bool,
    /// When the scheduler last answered, and how long that took.
    pub answered_ms: Option<Millis>,
    pub rtt_ms: Option<f64>,
    /// How often changes of the grid were missed, and all of it was taken again.
    pub gaps: u64,
    /// Why it did not answer, if it did not.
    pub trouble: Option<String>,
}

pub struct State {
    pub cell: String,
    /// The context that was chosen, if one was.
    pub context: Option<String>,
    pub read_only: bool,
    pub theme: Theme,
    pub ascii: bool,
    pub keymap: Keymap,
    pub size: (u16, u16),
    pub now_ms: Millis,
    pub quit: bool,
    /// Where to go when this console ends.
    pub elsewhere: Option<Elsewhere>,
    /// Where one could go.
    pub contexts: Vec<String>,
    /// None: it may not be looked for any.
    pub cells: Option<Vec<String>>,

    pub link: Link,
    pub notice: Option<(Millis, String)>,
    pub view: View,
    /// The way that led here.
    pub back: Vec<Route>,
    /// Lines above the top of a view that is read from there.
    pub scroll: usize,
    /// How far the help is scrolled, while it is shown.
    pub help: Option<usize>,
    pub confirm: Option<Confirm>,
    pub prompt: Option<Prompt>,
    pub palette: Option<Palette>,
    /// What takes the last change back.
    pub undo: Option<Action>,

    pub status: Option<CellStatus>,
    pub jobs: List<JobRow>,
    pub rates: Rates,
    pub nodes: List<NodeRow>,
    pub workers: List<WorkerRow>,
    pub tasks: List<TaskRow>,
    pub job: JobView,
    pub job_more: JobMore,
    pub grid: Grid,
    /// The task that the task view is about.
    pub task: Option<(String, String)>,
    pub explanation: Option<Explanation>,
    pub attempts: Option<Attempts>,
    /// Why what the job or task view asks for is not to be had.
    pub refused: Option<String>,
    pub logs: Logs,
    pub events: Events,
    /// Nodes with more slots taken than they have.
    pub overused: Vec<NodeRow>,
}

impl State {
    pub fn new(cell: String, theme: Theme, keymap: Keymap) -> Self {
        Self {
            cell,
            context: None,
            read_only: false,
            theme,
            ascii: false,
            keymap,
            size: (80, 24),
            now_ms: 0,
            quit: false,
            elsewhere: None,
            contexts: Vec::new(),
            cells: None,
            link: Link::default(),
            notice: None,
            view: View::Jobs,
            back: Vec::new(),
            scroll: 0,
            help: None,
            confirm: None,
            prompt: None,
            palette: None,
            undo: None,
            status: None,
            jobs: List::default(),
            rates: Rates(HashMap::new()),
            nodes: List::default(),
            workers: List::default(),
            tasks: List::default(),
            job: JobView::default(),
            job_more: JobMore::default(),
            grid: Grid::default(),
            task: None,
            explanation: None,
            attempts: None,
            refused: None,
            logs: Logs::default(),
            events: Events::default(),
            overused: Vec::new(),
        }
    }

    /// How long the scheduler has been silent, if that is worth saying.
    pub fn silent_ms(&self) -> Option<Millis> {
        let silent = self.now_ms.saturating_sub(self.link.answered_ms?);
        (silent > SILENCE_MS || !self.link.connected).then_some(silent)
    }

    /// How many rows of the list in sight are marked.
    pub fn marks(&self) -> usize {
        match self.view {
            View::Jobs => self.jobs.marks.len(),
            View::Workers => self.workers.marks.len(),
            View::Tasks => self.tasks.marks.len(),
            _ => 0,
        }
    }

    pub fn hidden_marks(&self) -> usize {
        let rows = self.body_rows().saturating_sub(super::view::LIST_HEAD);
        match self.view {
            View::Jobs => self.jobs.hidden_marks(rows),
            View::Workers => self.workers.hidden_marks(rows),
            View::Tasks => self.tasks.hidden_marks(rows),
            _ => 0,
        }
    }

    pub fn clear_marks(&mut self) {
        match self.view {
            View::Jobs => self.jobs.marks.clear(),
            View::Workers => self.workers.marks.clear(),
            View::Tasks => self.tasks.marks.clear(),
            _ => {}
        }
    }

    /// Rows of the body: all but the header, the tabs and the footer.
    pub fn body_rows(&self) -> usize {
        usize::from(self.size.1).saturating_sub(super::view::FRAME_ROWS)
    }
}
