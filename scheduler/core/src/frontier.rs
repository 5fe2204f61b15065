//! The frontier: where in the forest each job could start something, kept as things change.
//!
//! For a job `j` and a node `n`, `open(j, n)` holds iff `j`'s demand on `n` fits and, at `j`'s own
//! level, the task can run, or, above it, some child of `n` is open. A task of `j` can start iff
//! `open(j, instance)`; to find one, walk down. A change touches one path, and stops where no bit
//! flips; a node with several parents is a step on several paths. Jobs with equal demands on a level share the bits that say whether they fit.

use bistro_common::config::NodeOrder;

use crate::Core;
use crate::forest::NodeIx;
use crate::resources::{Sign, fits};
use crate::tasks::{JobIx, TaskCell, TaskIx};

impl Core {
    pub(crate) fn cell(&self, task: TaskIx) -> TaskCell {
        self.jobs[task.job.index()].cell(task.node)
    }

    /// Changes a task's cell, and what follows from it above.
    pub(crate) fn set_cell(&mut self, task: TaskIx, cell: TaskCell) {
        let job = &mut self.jobs[task.job.index()];
        let before = job.cell(task.node);
        if before == cell {
            return;
        }
        let was_complete = job.is_complete();
        job.set_cell(task.node, cell);
        if job.is_complete() != was_complete {
            for at in 0..self.jobs[task.job.index()].awaited_by.len() {
                self.refresh_ready(self.jobs[task.job.index()].awaited_by[at]);
            }
        }
        if self.watched {
            self.changed.push(task);
        }
        if before.can_run() != cell.can_run() {
            self.refresh_open(task.job, task.node);
        }
    }

    /// Takes or gives back slots at a node, and updates every job for which that matters.
    pub(crate) fn change_slots(
        &mut self,
        level: usize,
        node: NodeIx,
        amounts: &[(usize, i64)],
        sign: Sign,
    ) {
        self.resources.change(level, node, amounts, sign);
        let position = node.index() - self.forest.level(level).start;
        for class in 0..self.classes[level].classes.len() {
            let limits = self.resources.limits(level);
            let of_class = &mut self.classes[level].classes[class];
            let room = fits(limits, self.resources.used(node), &of_class.demand);
            if !of_class.room.set(position, room) {
                continue;
            }
            if level == 0 {
                self.refresh_lanes();
                continue;
            }
            for at in 0..self.classes[level].classes[class].jobs.len() {
                let job = self.classes[level].classes[class].jobs[at];
                if self.jobs[job.index()].level() >= level {
                    self.refresh_open(job, node);
                }
            }
        }
    }

    pub(crate) fn has_room(&self, job: JobIx, level: usize, node: NodeIx) -> bool {
        let class = self.jobs[job.index()].classes[level].index();
        let position = node.index() - self.forest.level(level).start;
        self.classes[level].classes[class].room.get(position)
    }

    /// Is there a worker with room where tasks below this node must run?
    pub(crate) fn is_placeable(&self, job: JobIx, level: usize, node: NodeIx) -> bool {
        match &self.jobs[job.index()].placed {
            Some(placed) if placed.level == level => {
                placed.room.get(node.index() - self.forest.level(level).start)
            }
            _ => true,
        }
    }

    fn should_be_open(&self, job: JobIx, level: usize, node: NodeIx) -> bool {
        let state = &self.jobs[job.index()];
        (level == 0 || self.has_room(job, level, node))
            && self.is_placeable(job, level, node)
            && !self.is_barred(job, level, node)
            && if level == state.level() {
                state.cell(node).can_run()
            } else {
                state.open.any_in(self.forest.children(node)) || self.is_open_beside(job, node)
            }
    }

    /// Can the job pass through a node above its level?
    pub(crate) fn is_barred(&self, job: JobIx, level: usize, node: NodeIx) -> bool {
        let state = &self.jobs[job.index()];
        self.forest.has_more_parents() && level < state.level() && state.barred.get(node.index())
    }

    /// With several parents about: is there an open child that is in another node's range?
    fn is_open_beside(&self, job: JobIx, node: NodeIx) -> bool {
        let open = &self.jobs[job.index()].open;
        self.forest.has_more_parents()
            && self.forest.more_children(node).iter().any(|child| open.get(child.index()))
    }

    /// Brings `open` up to date from a node upwards.
    pub(crate) fn refresh_open(&mut self, job: JobIx, node: NodeIx) {
        let mut node = node;
        let mut level = self.forest.level_of(node);
        loop {
            let open = self.should_be_open(job, level, node);
            if !self.jobs[job.index()].open.set(node.index(), open) {
                return;
            }
            if self.forest.has_more_parents() {
                for at in 0..self.forest.more_parents(node).len() {
                    self.refresh_open(job, self.forest.more_parents(node)[at]);
                }
            }
            match self.forest.parent(node) {
                Some(parent) => (node, level) = (parent, level - 1),
                None => break,
            }
        }
        self.refresh_ready(job);
    }

    /// Sets all of a job's bits from scratch, lowest level first.
    pub(crate) fn fill_open(&mut self, job: JobIx) {
        for level in (0..=self.jobs[job.index()].level()).rev() {
            for node in self.forest.level(level) {
                let open = self.should_be_open(job, level, NodeIx(node as u32));
                self.jobs[job.index()].open.set(node, open);
            }
        }
        self.refresh_ready(job);
    }

    /// A job is ready if its root is open; it starts something if its lane is open, too.
    pub(crate) fn refresh_ready(&mut self, job: JobIx) {
        let state = &self.jobs[job.index()];
        let ready = self.config.settings.enabled
            && state.config.can_run()
            && state.open.get(NodeIx::INSTANCE.index())
            && self.awaited(job).is_none();
        self.policy.set_ready(job, ready);
    }

    /// A lane is open if there is room for its demand at the instance node and on some worker.
    pub(crate) fn refresh_lanes(&mut self) {
        for lane in self.policy.lanes() {
            let class = &self.classes[0].classes[lane.instance.index()];
            lane.open = class.room.get(0) && self.rooms.any(lane.worker);
        }
    }

    /// The first job that this one waits for as a whole.
    pub(crate) fn awaited(&self, job: JobIx) -> Option<usize> {
        self.jobs[job.index()].after_all.iter().position(|awaited| {
            awaited.is_none_or(|awaited| !self.jobs[awaited.index()].is_complete())
        })
    }

    /// A way down, from the instance to a node on which the job, whose root is open, can start.
    pub(crate) fn pick_path(&mut self, job: JobIx, path: &mut Vec<NodeIx>) {
        let open = &self.jobs[job.index()].open;
        let mut node = NodeIx::INSTANCE;
        path.clear();
        path.push(node);
        for _ in 0..self.jobs[job.index()].level() {
            let children = self.forest.children(node);
            let from = match self.config.settings.node_order {
                NodeOrder::Random => children.start + self.rng.below(children.len()),
                NodeOrder::Original | NodeOrder::Lexicographic => children.start,
            };
            let own = open.first_from(children, from).map(|child| NodeIx(child as u32));
            let child = if self.forest.has_more_parents() {
                let mut beside = self.forest.more_children(node).iter().copied();
                let beside = beside.find(|child| open.get(child.index()));
                // Either may be the better way: neither is preferred.
                if self.rng.below(2) == 0 { own.or(beside) } else { beside.or(own) }
            } else {
                own
            };
            node = child.expect("an open node has an open child");
            path.push(node);
        }
    }
}
