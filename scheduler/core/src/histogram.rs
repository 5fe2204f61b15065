//! What the original's API asks for: jobs, what runs, and how many nodes of each level are in each
//! condition (reference, section 6.11).

use bistro_common::config::Settings;
use bistro_common::ids::TaskName;
use bistro_common::status::bits;

use crate::Core;
use crate::forest::{Forest, NodeIx};
use crate::tasks::{Gate, Phase, TaskIx};

use std::collections::BTreeMap;

/// Per level that has nodes of it: how many nodes have which status bits, those of all tasks below
/// a node together, and some of their names.
pub type Histogram<'a> = BTreeMap<&'a str, BTreeMap<u32, (u64, Vec<&'a str>)>>;

impl Core {
    pub fn forest(&self) -> &Forest {
        &self.plan.forest
    }

    /// The names of all jobs, in their order.
    pub fn job_names(&self) -> impl Iterator<Item = &str> {
        self.plan.jobs.iter().map(|job| &*job.config.name)
    }

    /// A job as it holds, in the form of the config file.
    pub fn export(&self, job: &str) -> Option<serde_json::Value> {
        let job = self.plan.job(job)?;
        let settings = &self.plan.config.settings;
        Some(self.plan.jobs[job.index()].config.export(settings).into())
    }

    /// How many tasks a job has. A histogram looks at all of them.
    pub fn task_count(&self, job: &str) -> Option<u64> {
        self.plan.job(job).map(|job| self.plan.tasks.tasks(job))
    }

    /// With at most `samples` names for each number.
    pub fn histogram(&self, job: &str, samples: usize) -> Option<Histogram<'_>> {
        let job = self.plan.job(job)?;
        let forest = &self.plan.forest;
        // No task has no bits at all: nodes that stay so have no task below.
        let mut of_node = vec![0u32; forest.node_count()];
        for (node, _) in self.plan.cells(job) {
            let bits = self.status_bits(TaskIx { job, node });
            for above in forest.upwards(node) {
                of_node[above.index()] |= bits;
            }
        }
        let mut histogram = Histogram::new();
        let seen = of_node.into_iter().enumerate().filter(|&(_, bits)| bits != 0);
        for (node, bits) in seen.map(|(node, bits)| (NodeIx(node as u32), bits)) {
            let level = &forest.level_names()[forest.level_of(node)];
            let (count, names) = histogram.entry(level).or_default().entry(bits).or_default();
            *count += 1;
            if names.len() < samples {
                names.push(forest.name(node));
            }
        }
        Some(histogram)
    }

    /// A task's status as the original's histograms show it.
    fn status_bits(&self, task: TaskIx) -> u32 {
        let cell = self.plan.cell(task);
        let reason = match (cell.has(Gate::Disabled), cell.has(Gate::Avoided)) {
            (true, _) => bits::DISABLED,
            (false, true) => bits::AVOIDED,
            (false, false) => 0,
        };
        let record = self.record(task);
        let status = record.as_ref().and_then(|record| record.status.as_ref());
        let status = match (cell.phase(), status) {
            (Phase::Running | Phase::Unsure, _) => bits::RUNNING,
            (Phase::Backoff, Some(status)) => status.result_bits,
            (_, Some(status)) => status.result_bits & !bits::USES_BACKOFF,
            (_, None) if reason == 0 => bits::UNSTARTED,
            (_, None) => 0,
        };
        reason | status
    }

    /// Every open attempt: job, node, when it was started, and by which worker it runs.
    pub fn running(&self) -> impl Iterator<Item = (TaskName, u64, &str)> {
        self.attempts.iter().map(|attempt| {
            let worker = self.worker(attempt.worker).name.as_str();
            (attempt.name(&self.plan), attempt.started_ms, worker)
        })
    }

    pub fn running_count(&self) -> u64 {
        self.attempts.len() as u64
    }

    pub fn settings(&self) -> &Settings {
        &self.plan.config.settings
    }
}
