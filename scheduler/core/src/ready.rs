//! What the policy knows of the frontier: which jobs can start something, and which lanes are open.
//!
//! The end of one task lets all jobs start something at its node, and the start of the next one
//! closes that again: each job's root opens and closes again and again, and most of it is gone before
//! anybody asks. So roots that have changed are noted, a second change takes the note back, and the
//! policy is told when it is asked.

use bistro_common::protocol::api::TaskState;

use crate::forest::NodeIx;
use crate::matrix::{self, ColumnBits};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::tasks::JobIx;

/// Roots that have changed since the policy was told of them, and what it cannot be asked without.
#[derive(Debug, Default)]
pub struct Untold {
    /// By chunk.
    columns: Vec<ColumnBits>,
    /// Ready jobs without a column, whose roots are always told at once.
    listed: usize,
}

impl Plan {
    /// Columns have opened or closed at the instance node.
    pub(crate) fn roots_changed(&mut self, chunk: usize, bits: ColumnBits) {
        let untold = &mut self.untold.columns;
        if untold.len() <= chunk {
            untold.resize(chunk + 1, 0);
        }
        untold[chunk] ^= bits;
    }

    /// A job is ready if its root is open; it starts something if its lane is open, too.
    pub(crate) fn refresh_ready(&mut self, job: JobIx) {
        let ready = self.is_root_open(job) && self.may_start(job);
        let changed = self.policy.set_ready(job, ready);
        match self.tasks.column_of(job) {
            Some((chunk, bit)) => {
                if let Some(untold) = self.untold.columns.get_mut(chunk) {
                    *untold &= !bit;
                }
            }
            None if !changed => {}
            None if ready => self.untold.listed += 1,
            None => self.untold.listed -= 1,
        }
    }

    fn tell_policy(&mut self) {
        for chunk in 0..self.untold.columns.len() {
            for column in matrix::columns(chunk, self.untold.columns[chunk]) {
                self.refresh_ready(self.tasks.job(column));
            }
        }
    }

    /// Nothing can start, whatever the policy knows.
    fn is_closed(&self) -> bool {
        let is_closed = |chunk| self.tasks.open_row(0, chunk, NodeIx::INSTANCE) == 0;
        self.untold.listed == 0 && (0..self.tasks.chunks()).all(is_closed)
    }

    /// The job whose turn it is, if any can start something.
    pub(crate) fn next_job(&mut self, rng: &mut Rng) -> Option<JobIx> {
        if self.is_closed() {
            return None;
        }
        self.tell_policy();
        self.policy.next(rng)
    }

    pub(crate) fn any_startable(&mut self) -> bool {
        self.tell_policy();
        self.policy.any_startable()
    }

    /// Could the policy choose this job?
    pub(crate) fn is_startable(&self, job: JobIx) -> bool {
        let untold = self.tasks.column_of(job).is_some_and(|(chunk, bit)| {
            self.untold.columns.get(chunk).is_some_and(|untold| untold & bit != 0)
        });
        let ready = match untold {
            true => self.is_root_open(job) && self.may_start(job),
            false => self.policy.is_ready(job),
        };
        ready && self.policy.is_lane_open(job)
    }

    /// The forest apart.
    fn may_start(&self, job: JobIx) -> bool {
        self.config.settings.enabled
            && self.jobs[job.index()].can_run()
            && self.awaited(job).is_none()
    }

    pub(crate) fn is_root_open(&self, job: JobIx) -> bool {
        self.tasks.is_open(job, 0, NodeIx::INSTANCE)
    }

    /// A lane is open if there is room for its demand at the instance node and on some worker.
    pub(crate) fn refresh_lanes(&mut self) {
        for lane in self.policy.lanes() {
            let demand = &self.classes[0].classes[lane.instance.index()].demand;
            let room = self.resources.has_room(0, NodeIx::INSTANCE, demand);
            lane.open = room && self.rooms.any(lane.worker);
        }
    }

    /// Tells the policy how many tasks of a job could start, if it wants to know.
    pub(crate) fn count_left(&mut self, job: JobIx) {
        if self.policy.counts_what_is_left() {
            self.policy.set_left(job, self.count(job, TaskState::CanRun));
        }
    }

    /// The first job that this one waits for as a whole.
    pub(crate) fn awaited(&self, job: JobIx) -> Option<usize> {
        let mut awaited = self.jobs[job.index()].after_all().iter();
        awaited.position(|awaited| awaited.is_none_or(|awaited| !self.is_complete(awaited)))
    }
}
