//! How far a job is, level by level, and how long its tasks take.

use bistro_common::Millis;
use bistro_common::protocol::api::{ApiError, Counts, JobStats, LevelCounts, Runtimes, TaskState};

use crate::Core;
use crate::forest::NodeIx;
use crate::tasks::{JobIx, TaskIx};

/// So many tasks are asked how long they ran: what a million did, a thousand of them tell.
const SAMPLED: usize = 1_000;
/// Of a node with no task of the job below it.
const NOTHING: u8 = 0;

impl Core {
    /// A pass over the job's tasks and the nodes above them.
    pub fn job_stats(&self, job: &str) -> Result<JobStats, ApiError> {
        let Some(ix) = self.plan.job(job) else { return Err(self.no_such_job(job)) };
        let levels = self.levels_of(ix);
        Ok(JobStats { job: job.to_owned(), levels, ran: self.runtimes_of(ix) })
    }

    /// From the top: nodes by the state among the job's tasks at and below them that needs most
    /// attention. The instance counts only if it is the tasks' own level.
    fn levels_of(&self, job: JobIx) -> Vec<LevelCounts> {
        let (forest, state) = (&self.plan.forest, &self.plan.jobs[job.index()]);
        let first = forest.level(state.level()).start;
        let mut worst = vec![NOTHING; forest.level(state.level()).len()];
        for (node, cell) in self.plan.cells(job) {
            worst[node.index() - first] = state.state_of(cell).attention() + 1;
        }
        let mut levels = vec![self.level_counts(state.level(), &worst)];
        for level in (1..state.level()).rev() {
            let (above, below) = (forest.level(level), forest.level(level + 1));
            let mut of_level = vec![NOTHING; above.len()];
            for (node, &state) in below.zip(&worst).filter(|(_, state)| **state != NOTHING) {
                for parent in forest.parents(NodeIx(node as u32)) {
                    let known = &mut of_level[parent.index() - above.start];
                    *known = state.max(*known);
                }
            }
            levels.push(self.level_counts(level, &of_level));
            worst = of_level;
        }
        levels.reverse();
        levels
    }

    fn level_counts(&self, level: usize, worst: &[u8]) -> LevelCounts {
        let mut by_attention = [0u64; TaskState::ALL.len() + 1];
        worst.iter().for_each(|&state| by_attention[usize::from(state)] += 1);
        let counts = TaskState::BY_ATTENTION.into_iter().zip(&by_attention[1..]);
        let counts: Counts =
            counts.filter(|(_, count)| **count > 0).map(|(state, count)| (state, *count)).collect();
        LevelCounts { level: self.plan.config.settings.levels[level].clone(), counts }
    }

    fn runtimes_of(&self, job: JobIx) -> Option<Runtimes> {
        let nodes = self.plan.forest.level(self.plan.jobs[job.index()].level());
        let step = nodes.len().div_ceil(SAMPLED).max(1);
        let ran = |node: usize| {
            let record = self.record(TaskIx { job, node: NodeIx(node as u32) })?;
            record.status.is_some().then_some(record.ran_ms)
        };
        let mut sample: Vec<Millis> = nodes.step_by(step).filter_map(ran).collect();
        sample.sort_unstable();
        let at = |share: f64| sample[((sample.len() - 1) as f64 * share).round() as usize];
        let max_ms = *sample.last()?;
        let (p50_ms, p90_ms, p99_ms) = (at(0.5), at(0.9), at(0.99));
        Some(Runtimes { sampled: sample.len() as u64, p50_ms, p90_ms, p99_ms, max_ms })
    }
}
