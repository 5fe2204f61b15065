//! Watches the config file (or a directory of them) and runs the node sources, off the loop.
//!
//! The last good config and the last good nodes stay in force; what is wrong with newer ones is
//! reported. The content of the files decides, not its time: a rewrite within a second, an older file put
//! back and a replaced symlink are all seen.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use bistro_common::config::{Config, NodeSource, Settings};
use bistro_common::cron;
use bistro_common::nats::Bus;
use bistro_common::protocol::api::{ProblemKind, ProblemReport, Severity};
use bistro_core::Forest;
use jiff::Timestamp;

use crate::config_files::{self, ConfigFile, Location};
use crate::documents::Documents;
use crate::nodes::{self, Scripts};

/// How soon an edit is seen.
const POLL: Duration = Duration::from_millis(500);

/// How often a config behind a URL is fetched.
const URL_PERIOD: Duration = Duration::from_secs(10);

/// After a node source failed.
const RETRY: Duration = Duration::from_secs(5);

/// The longest wait between two runs of the node sources.
const PERIOD_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What reading the config and the nodes came to.
#[derive(Debug)]
pub struct Loaded {
    /// A new plan, if there is one.
    pub plan: Option<(Arc<Config>, Arc<Forest>)>,
    /// Everything that is wrong now.
    pub problems: Vec<ProblemReport>,
}

struct Watch {
    location: Location,
    documents: Documents,
    /// Not before; for what costs others something.
    read_at: Option<Instant>,
    instance: String,
    files: Option<Vec<ConfigFile>>,
    config: Option<Arc<Config>>,
    config_problems: Vec<ProblemReport>,
    fetch_at: Option<Instant>,
    scripts: Scripts,
    /// What was sent last.
    last: Option<(Arc<Config>, Arc<Forest>)>,
}

/// Sends what has changed for as long as somebody listens.
pub async fn watch(location: Location, instance: String, bus: Bus, out: mpsc::Sender<Loaded>) {
    let mut watch = Watch::new(location, instance);
    watch.documents = Documents::new(bus.clone());
    watch.scripts = Scripts::with(bus);
    loop {
        if let Some(loaded) = watch.look().await
            && out.send(loaded).await.is_err()
        {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Watch {
    fn new(location: Location, instance: String) -> Self {
        Self {
            location,
            documents: Documents::default(),
            read_at: None,
            instance,
            files: None,
            config: None,
            config_problems: Vec::new(),
            fetch_at: None,
            scripts: Scripts::default(),
            last: None,
        }
    }

    /// `None`: nothing has changed.
    async fn look(&mut self) -> Option<Loaded> {
        let changed = self.read().await;
        let due = self.fetch_at.is_some_and(|at| Instant::now() >= at);
        if !changed && !due {
            return None;
        }
        if changed {
            self.scripts.expire();
        }
        let mut problems = self.config_problems.clone();
        let mut plan = None;
        if let Some(config) = self.config.clone() {
            let now = Timestamp::now().as_second();
            match nodes::fetch(&config.settings, &self.instance, now, &mut self.scripts).await {
                Ok(forest) => {
                    plan = self.news(config.clone(), forest);
                    self.fetch_at = period(&config.settings, now).map(|p| Instant::now() + p);
                    for problem in self.scripts.take_problems() {
                        problems.push(self.problem("bistro_settings.nodes", problem));
                        self.fetch_at = Some(Instant::now() + RETRY);
                    }
                }
                Err(error) => {
                    problems.push(self.problem("bistro_settings.nodes", error.to_string()));
                    self.fetch_at = Some(Instant::now() + RETRY);
                }
            }
        }
        Some(Loaded { plan, problems })
    }

    /// A plan, unless it is the one that was sent last.
    fn news(&mut self, config: Arc<Config>, forest: Forest) -> Option<(Arc<Config>, Arc<Forest>)> {
        if let Some((last_config, last_forest)) = &self.last
            && Arc::ptr_eq(last_config, &config)
            && **last_forest == forest
        {
            return None;
        }
        let plan = (config, Arc::new(forest));
        self.last = Some(plan.clone());
        Some(plan)
    }

    /// Reads the file or the files; true if they say something else than before.
    async fn read(&mut self) -> bool {
        if self.read_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        if matches!(self.location, Location::Url(_)) {
            self.read_at = Some(Instant::now() + URL_PERIOD);
        }
        let files = match config_files::fetch(&self.location, &mut self.documents).await {
            Ok(files) => files,
            Err(error) => {
                let problem = self.problem("", error);
                self.files = None;
                let changed = self.config_problems != [problem.clone()];
                self.config_problems = vec![problem];
                return changed;
            }
        };
        if self.files.as_ref() == Some(&files) {
            return false;
        }
        let parsed = config_files::parse(&files);
        self.config_problems = parsed.reports;
        if let Some(config) = parsed.config {
            self.config = Some(Arc::new(config));
        }
        self.files = Some(files);
        true
    }

    fn problem(&self, key_path: &str, message: String) -> ProblemReport {
        ProblemReport {
            kind: ProblemKind::Config,
            severity: Severity::Error,
            file: self.location.to_string(),
            line: 0,
            column: 0,
            key_path: key_path.to_owned(),
            message,
            hint: None,
        }
    }
}

/// When the sources run next: as soon as the most frequent script wants, or as events come and go.
fn period(settings: &Settings, now: i64) -> Option<Duration> {
    let periods = settings.node_sources.iter().filter_map(|source| match source {
        NodeSource::Script { period_ms, .. } | NodeSource::Document { period_ms, .. } => {
            Some(Duration::from_millis(*period_ms))
        }
        NodeSource::AddTime { time_zone, schedule, .. } => {
            // What is wrong with it has failed the fetch before.
            let zone = nodes::time_zone(time_zone.as_deref()).ok()?;
            let change = cron::next_change(schedule, now, &zone).ok()??;
            Some(Duration::from_secs(u64::try_from(change - now).ok()?))
        }
        _ => None,
    });
    periods.min().map(|period| period.min(PERIOD_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broken_edit_keeps_the_last_good_config_and_says_where_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bistro.json");
        let good = r#"{"bistro_settings": {"enabled": true, "resources": {},
            "nodes": {"levels": ["l"], "node_sources": [{"source": "manual", "prefs": {"n": []}}]}}}"#;
        let mut watch = Watch::new(Location::Path(path.clone()), "root".to_owned());
        let missing = watch.look().await.expect("the absence is news");
        assert!(missing.problems[0].message.contains("cannot be read"));
        assert!(watch.look().await.is_none(), "and only once");
        std::fs::write(&path, good).unwrap();
        let loaded = watch.look().await.expect("the file is new");
        assert_eq!((loaded.plan.is_some(), loaded.problems.len()), (true, 0));
        assert!(watch.look().await.is_none());
        std::fs::write(&path, good.replace("true,", "true")).unwrap();
        let broken = watch.look().await.expect("the file has changed");
        assert_eq!((broken.problems[0].line, broken.problems[0].severity), (1, Severity::Error));
        assert!(broken.plan.is_none(), "the last good one stays in force");
        std::fs::write(&path, good).unwrap();
        let mended = watch.look().await.expect("the file has changed back");
        assert!(mended.problems.is_empty());
    }
}
