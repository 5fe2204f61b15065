//! Where somebody is in the console, as a value and as a text: `/tasks?filter=state%3Dfailed`,
//! `/task/scrape/db17`, `/logs?job=scrape&node=db17`. The way back is made of them, and so is what
//! is remembered and what people send to each other.

use form_urlencoded::{Serializer, byte_serialize, parse};
use std::str::FromStr;

use bistro_common::Millis;
use bistro_common::ids::WorkerName;
use bistro_common::protocol::log::Stream;

use super::list::{List, Query, Row};
use super::state::{JobMore, JobView, Logs, State, View};
use crate::client::logs;

#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    Jobs(Query),
    Nodes(Query),
    Workers(Query),
    Tasks(Query),
    /// Only what is below a node, if one is named.
    Grid(Option<String>),
    Job(String),
    Task {
        job: String,
        node: String,
    },
    Logs(logs::Query),
    Events {
        filter: String,
        since_ms: Option<Millis>,
    },
    Health,
}

/// Why a text leads nowhere.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum RouteError {
    #[error("there is no view {0:?}; there are {views}, job/NAME and task/JOB/NODE", views = views())]
    NoView(String),
    #[error("{0:?} is nothing that the view {1} has; it has {2}")]
    NoParameter(String, &'static str, &'static str),
    #[error("{value:?} is no {what}")]
    BadValue { what: &'static str, value: String },
}

fn views() -> String {
    View::TABS.iter().map(|view| view.title()).collect::<Vec<_>>().join(", ").to_lowercase()
}

impl Route {
    /// Where a console begins that nobody has used before.
    pub fn start() -> Self {
        Self::Jobs(Query::default())
    }

    pub fn view(&self) -> View {
        match self {
            Self::Jobs(_) => View::Jobs,
            Self::Nodes(_) => View::Nodes,
            Self::Workers(_) => View::Workers,
            Self::Tasks(_) => View::Tasks,
            Self::Grid(_) => View::Grid,
            Self::Job(_) => View::Job,
            Self::Task { .. } => View::Task,
            Self::Logs(_) => View::Logs,
            Self::Events { .. } => View::Events,
            Self::Health => View::Health,
        }
    }

    /// The same with another filter and order, where those are not empty.
    pub fn filtered(mut self, filter: &str, sort: &str) -> Self {
        let set = |text: &mut String, to: &str| {
            if !to.is_empty() {
                to.clone_into(text);
            }
        };
        match &mut self {
            Self::Jobs(query) | Self::Nodes(query) | Self::Workers(query) | Self::Tasks(query) => {
                set(&mut query.filter, filter);
                set(&mut query.sort, sort);
            }
            Self::Logs(query) if !filter.is_empty() => query.regex = Some(filter.to_owned()),
            Self::Events { filter: of_events, .. } => set(of_events, filter),
            Self::Logs(_) | Self::Grid(_) | Self::Job(_) | Self::Task { .. } | Self::Health => {}
        }
        self
    }

    /// In a few words, for the way that led here.
    pub fn crumb(&self) -> String {
        let about = match self {
            Self::Jobs(query) | Self::Nodes(query) | Self::Workers(query) | Self::Tasks(query) => {
                query.filter.clone()
            }
            Self::Grid(under) => under.clone().unwrap_or_default(),
            Self::Job(job) => job.clone(),
            Self::Task { job, node } => format!("{job} on {node}"),
            Self::Logs(query) => {
                let worker = query.worker.as_ref().map(ToString::to_string);
                let parts = [&query.job, &query.node, &worker].into_iter().flatten();
                parts.map(String::as_str).collect::<Vec<_>>().join(" ")
            }
            Self::Events { filter, .. } => filter.clone(),
            Self::Health => String::new(),
        };
        format!("{} {about}", self.view().title()).trim_end().to_owned()
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let some = |key, value: &Option<String>| value.clone().map(|value| (key, value));
        match self {
            Self::Jobs(query) | Self::Nodes(query) | Self::Workers(query) | Self::Tasks(query) => {
                let all = [("filter", query.filter.clone()), ("sort", query.sort.clone())];
                all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
            }
            Self::Grid(under) => some("under", under).into_iter().collect(),
            Self::Logs(query) => {
                let all = [
                    some("job", &query.job),
                    some("node", &query.node),
                    query.worker.as_ref().map(|worker| ("worker", worker.to_string())),
                    some("grep", &query.regex),
                    query.since_ms.map(|since| ("since", since.to_string())),
                    (query.streams != Logs::STREAMS).then(|| ("streams", streams(query))),
                ];
                all.into_iter().flatten().collect()
            }
            Self::Events { filter, since_ms } => {
                let since = since_ms.map(|since| ("since", since.to_string()));
                let filter = (!filter.is_empty()).then(|| ("filter", filter.clone()));
                filter.into_iter().chain(since).collect()
            }
            Self::Job(_) | Self::Task { .. } | Self::Health => Vec::new(),
        }
    }
}

fn streams(query: &logs::Query) -> String {
    query.streams.iter().map(|stream| stream.as_str()).collect::<Vec<_>>().join(",")
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.view().title().to_lowercase())?;
        let names: &[&String] = match self {
            Self::Job(job) => &[job],
            Self::Task { job, node } => &[job, node],
            _ => &[],
        };
        for name in names {
            f.write_str("/")?;
            // A form's spaces are `+`, and a path's are not.
            let encoded: String = byte_serialize(name.as_bytes()).collect();
            f.write_str(&encoded.replace('+', "%20"))?;
        }
        let parameters = self.parameters();
        if parameters.is_empty() {
            return Ok(());
        }
        write!(f, "?{}", Serializer::new(String::new()).extend_pairs(parameters).finish())
    }
}

impl FromStr for Route {
    type Err = RouteError;

    /// Also of an address whose part after `#` is a route.
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let address = text.split_once('#').filter(|(before, _)| before.contains("://"));
        let text = address.map_or(text, |(_, route)| route);
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let mut names = path.trim_matches('/').split('/').map(decoded);
        let view = names.next().unwrap_or_default();
        let names: Vec<String> = names.collect();
        let mut route = match (view.as_str(), names.as_slice()) {
            ("jobs", []) => Self::Jobs(Query::default()),
            ("nodes", []) => Self::Nodes(Query::default()),
            ("workers", []) => Self::Workers(Query::default()),
            ("tasks", []) => Self::Tasks(Query::default()),
            ("grid", []) => Self::Grid(None),
            ("logs", []) => Self::Logs(Logs::default().query),
            ("events", []) => Self::Events { filter: String::new(), since_ms: None },
            ("health", []) => Self::Health,
            ("job", [job]) => Self::Job(job.clone()),
            ("task", [job, node]) => Self::Task { job: job.clone(), node: node.clone() },
            _ => return Err(RouteError::NoView(path.to_owned())),
        };
        let mut texts = names;
        for (key, value) in parse(query.as_bytes()) {
            route.set(&key, &value)?;
            texts.push(value.into_owned());
        }
        // Names and filters have none, and a terminal would obey some of them.
        match texts.into_iter().find(|text| text.contains(char::is_control)) {
            Some(value) => {
                Err(RouteError::BadValue { what: "text without control characters", value })
            }
            None => Ok(route),
        }
    }
}

/// A part of a path, which is like a form's value but for `+` and `&`.
fn decoded(part: &str) -> String {
    let pair = format!("={}", part.replace('&', "%26").replace('+', "%2B"));
    parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

impl Route {
    fn set(&mut self, key: &str, value: &str) -> Result<(), RouteError> {
        let bad = |what| RouteError::BadValue { what, value: value.to_owned() };
        let title = self.view().title();
        let unknown = |has| Err(RouteError::NoParameter(key.to_owned(), title, has));
        let time = || value.parse().map(Some).map_err(|_| bad("time in milliseconds"));
        match self {
            Self::Jobs(query) | Self::Nodes(query) | Self::Workers(query) | Self::Tasks(query) => {
                match key {
                    "filter" => value.clone_into(&mut query.filter),
                    "sort" => value.clone_into(&mut query.sort),
                    _ => return unknown("filter and sort"),
                }
            }
            Self::Grid(under) if key == "under" => *under = Some(value.to_owned()),
            Self::Grid(_) => return unknown("under"),
            Self::Logs(query) => match key {
                "job" => query.job = Some(value.to_owned()),
                "node" => query.node = Some(value.to_owned()),
                "grep" => query.regex = Some(value.to_owned()),
                "worker" => {
                    let worker = WorkerName::new(value).map_err(|_| bad("name of a worker"))?;
                    query.worker = Some(worker);
                }
                "since" => query.since_ms = time()?,
                "streams" => {
                    let stream = |name: &str| {
                        let found = Stream::ALL.into_iter().find(|stream| stream.as_str() == name);
                        found.ok_or_else(|| bad("stream"))
                    };
                    query.streams = value.split(',').map(stream).collect::<Result<_, _>>()?;
                }
                _ => return unknown("job, node, worker, grep, since and streams"),
            },
            Self::Events { filter, since_ms } => match key {
                "filter" => value.clone_into(filter),
                "since" => *since_ms = time()?,
                _ => return unknown("filter and since"),
            },
            Self::Job(_) | Self::Task { .. } | Self::Health => return unknown("nothing to add"),
        }
        Ok(())
    }
}

impl State {
    /// Where the console is now.
    pub fn route(&self) -> Route {
        self.route_of(self.view)
    }

    /// A view as it was left.
    pub fn route_of(&self, view: View) -> Route {
        match view {
            View::Jobs => Route::Jobs(self.jobs.query.clone()),
            View::Nodes => Route::Nodes(self.nodes.query.clone()),
            View::Workers => Route::Workers(self.workers.query.clone()),
            View::Tasks => Route::Tasks(self.tasks.query.clone()),
            View::Grid => Route::Grid(self.grid.under().map(str::to_owned)),
            View::Job => Route::Job(self.job.job.clone()),
            View::Task => {
                let (job, node) = self.task.clone().unwrap_or_default();
                Route::Task { job, node }
            }
            View::Logs => Route::Logs(self.logs.query.clone()),
            View::Events => {
                let (filter, since_ms) = (self.events.filter.clone(), self.events.from.since_ms);
                Route::Events { filter, since_ms }
            }
            View::Health => Route::Health,
        }
    }

    /// Shows that place. What is there already stays as it is, cursors included.
    pub fn show(&mut self, route: Route) {
        fn ask<T: Row>(list: &mut List<T>, query: Query) {
            list.ask(query);
        }
        (self.view, self.scroll) = (route.view(), 0);
        match route {
            Route::Jobs(query) => ask(&mut self.jobs, query),
            Route::Nodes(query) => ask(&mut self.nodes, query),
            Route::Workers(query) => ask(&mut self.workers, query),
            Route::Tasks(query) => ask(&mut self.tasks, query),
            Route::Grid(under) => self.grid.show_under(under),
            Route::Job(job) if self.job.job == job => {}
            Route::Job(job) => {
                self.job = JobView { job, ..JobView::default() };
                self.job_more = JobMore::default();
            }
            Route::Task { job, node } => {
                let task = Some((job, node));
                if self.task != task {
                    (self.task, self.explanation, self.refused) = (task, None, None);
                    self.attempts = None;
                }
            }
            Route::Logs(query) => self.logs.ask(query),
            Route::Events { filter, since_ms } => self.events.ask(filter, since_ms),
            Route::Health => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn routes() -> impl Strategy<Value = Route> {
        let text = || "[ -~é]{0,12}";
        let name = || "[ -~é]{1,12}";
        let query = || (text(), text()).prop_map(|(filter, sort)| Query { filter, sort });
        let logs = (prop::option::of(name()), prop::option::of(name()), any::<Option<u64>>());
        prop_oneof![
            query().prop_map(Route::Jobs),
            query().prop_map(Route::Tasks),
            prop::option::of(name()).prop_map(Route::Grid),
            name().prop_map(Route::Job),
            (name(), name()).prop_map(|(job, node)| Route::Task { job, node }),
            logs.prop_map(|(job, regex, since_ms)| {
                let streams = vec![Stream::Statuses];
                let worker = Some(WorkerName::new("w1").unwrap());
                let query =
                    logs::Query { job, regex, since_ms, streams, worker, ..Default::default() };
                Route::Logs(query)
            }),
            (text(), any::<Option<u64>>())
                .prop_map(|(filter, since_ms)| Route::Events { filter, since_ms }),
        ]
    }

    proptest! {
        #[test]
        fn a_route_is_read_as_it_is_written(route in routes()) {
            let text = route.to_string();
            prop_assert_eq!(text.parse::<Route>().unwrap(), route.clone());
            prop_assert!(!text.contains(' '), "{}", text);
            prop_assert_eq!(format!("https://h/ui#{text}").parse::<Route>().unwrap(), route);
        }
    }

    #[test]
    fn what_people_type_is_understood() {
        let tasks =
            |filter: &str| Route::Tasks(Query { filter: filter.to_owned(), sort: String::new() });
        assert_eq!("tasks".parse(), Ok(tasks("")));
        assert_eq!("tasks?filter=state=failed".parse(), Ok(tasks("state=failed")));
        assert_eq!(tasks("state=failed").to_string(), "/tasks?filter=state%3Dfailed");
        assert_eq!("/job/a%2Fb".parse(), Ok(Route::Job("a/b".to_owned())));
        let both = "/task/a/b".parse::<Route>().unwrap();
        assert_eq!(both, Route::Task { job: "a".to_owned(), node: "b".to_owned() });
        assert_eq!("job/a+b".parse(), Ok(Route::Job("a+b".to_owned())));
        assert_eq!("tasks?filter=node~#3".parse(), Ok(tasks("node~#3")));
        for wrong in [
            "tasks?filter=%1b[201~",
            "job/%0a",
            "",
            "job",
            "task/a",
            "nowhere",
            "jobs/x",
            "health?filter=x",
            "logs?since=now",
        ] {
            assert!(wrong.parse::<Route>().is_err(), "{wrong}");
        }
        let error = "tsks".parse::<Route>().unwrap_err().to_string();
        assert!(error.contains("jobs, grid, nodes, workers, tasks"), "{error}");
    }
}
