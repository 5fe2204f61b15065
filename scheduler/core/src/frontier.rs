//! The frontier: where in the forest each job could start something, kept as things change.
//!
//! For a job `j` and a node `n`, `open(j, n)` holds iff `j`'s demand on `n` fits and, at `j`'s own
//! level, the task can run, or, above it, some child of `n` is open. (The instance node is open
//! without regard to its room, which is its lane's business.) A task of `j` can start iff
//! `open(j, instance)`; to find one, walk down. A change touches one path, and stops where no bit
//! flips; a node with several parents is a step on several paths. Jobs with equal demands on a level
//! share the bits that say whether they fit.

use smallvec::SmallVec;

use bistro_common::config::{LevelIx, NodeOrder};

use crate::forest::NodeIx;
use crate::matrix::{self, ColumnBits};
use crate::plan::Plan;
use crate::resources::{Sign, fits};
use crate::rng::Rng;
use crate::tasks::{JobIx, TaskCell, TaskIx};

impl Plan {
    /// Changes a task's cell, and what follows from it above. Returns whether that is a change.
    pub(crate) fn set_cell(&mut self, task: TaskIx, cell: TaskCell) -> bool {
        let before = self.cell(task);
        if before == cell {
            return false;
        }
        let awaited = !self.jobs[task.job.index()].awaited_by().is_empty();
        let was_complete = awaited && self.is_complete(task.job);
        self.tasks.set_cell(&self.forest, task, cell);
        if before.can_run() != cell.can_run() {
            self.count_left(task.job);
        }
        if awaited && self.is_complete(task.job) != was_complete {
            for at in 0..self.jobs[task.job.index()].awaited_by().len() {
                self.refresh_ready(self.jobs[task.job.index()].awaited_by()[at]);
            }
        }
        let level = self.jobs[task.job.index()].level();
        match cell.can_run() {
            can_run if can_run == before.can_run() => {}
            true => self.refresh_open(task.job, level, task.node),
            false => self.put_open(task.job, level, task.node, false),
        }
        true
    }

    /// Asks at once for what a change along a path will look at. It was last used long ago, and one
    /// after the other each would be waited for.
    pub(crate) fn prefetch(&self, path: &[NodeIx]) {
        // What is above all others is always at hand.
        for (level, &node) in path.iter().enumerate().skip(1) {
            self.resources.prefetch(level, node);
            self.tasks.prefetch(level, node);
            self.forest.prefetch(node);
        }
        path.iter().skip(1).for_each(|&node| self.forest.prefetch_name(node));
    }

    /// Takes or gives back slots at a node, and updates every job for which that matters.
    pub(crate) fn change_slots(
        &mut self,
        level: LevelIx,
        node: NodeIx,
        amounts: &[(usize, i64)],
        sign: Sign,
    ) {
        let before = self.slots_at(level, node);
        self.resources.change(level, node, amounts, sign);
        self.follow_slots(level, node, &before);
    }

    /// The same for all that a task of a job takes on a path to it.
    pub(crate) fn change_path(&mut self, job: JobIx, path: &[NodeIx], sign: Sign) {
        for (level, &node) in path.iter().enumerate() {
            let class = self.jobs[job.index()].classes[level].index();
            if self.classes[level].classes[class].amounts.is_empty() {
                continue;
            }
            let before = self.slots_at(level, node);
            let amounts = &self.classes[level].classes[class].amounts;
            self.resources.change(level, node, amounts, sign);
            self.follow_slots(level, node, &before);
        }
    }

    fn slots_at(&self, level: LevelIx, node: NodeIx) -> SmallVec<[i64; 4]> {
        SmallVec::from_slice(self.resources.used(level, node))
    }

    /// Updates every job for which it matters that other slots were in use at a node.
    fn follow_slots(&mut self, level: LevelIx, node: NodeIx, before: &[i64]) {
        for class in 0..self.classes[level].classes.len() {
            let (limits, used) = (self.resources.limits(level), self.resources.used(level, node));
            let demand = &self.classes[level].classes[class].demand;
            let room = fits(limits, used, demand);
            if room != fits(limits, before, demand) {
                match level {
                    0 => self.refresh_lanes(),
                    _ => self.change_room(level, node, class, room),
                }
            }
        }
    }

    /// The demand of a class fits at a node now, or does not any more.
    fn change_room(&mut self, level: LevelIx, node: NodeIx, class: usize, room: bool) {
        for chunk in 0..self.classes[level].classes[class].columns.len() {
            let bits = self.classes[level].classes[class].columns[chunk];
            let open = self.tasks.open_row(level, chunk, node);
            let bits = match room {
                true => self.could_open(level, chunk, bits & !open, node),
                false => bits & open,
            };
            self.flip(level, chunk, bits, node, room);
        }
        for at in 0..self.tasks.listed_at(node).len() {
            let job = self.tasks.listed_at(node)[at];
            let classes = &self.jobs[job.index()].classes;
            if classes.get(level).is_some_and(|of_job| of_job.index() == class) {
                let open = room && self.could_be_open(job, level, node);
                self.put_open(job, level, node, open);
            }
        }
    }

    /// Room apart, which of these columns should be open at a node?
    fn could_open(
        &self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        node: NodeIx,
    ) -> ColumnBits {
        let own = bits & self.tasks.own(level, chunk);
        let mut open = match own {
            0 => 0,
            own => self.tasks.that_can_run(level, chunk, own, node),
        };
        let below = bits & !own;
        if below != 0 {
            let children = self.forest.children(node);
            open |= self.tasks.that_are_open(level + 1, chunk, below, children);
            for &child in self.forest.more_children(node) {
                open |= below & self.tasks.open_row(level + 1, chunk, child);
            }
        }
        self.that_may_pass(level, chunk, open, node)
    }

    /// Without the columns of jobs that may not pass through a node.
    fn that_may_pass(
        &self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        node: NodeIx,
    ) -> ColumnBits {
        let routed = bits & self.tasks.routed(chunk);
        let barred = matrix::columns(chunk, routed)
            .filter(|&column| !self.may_pass(self.tasks.job(column), level, node))
            .fold(0, |all, column| all | matrix::place(column).1);
        bits & !barred
    }

    pub(crate) fn has_room(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        let class = self.jobs[job.index()].classes[level].index();
        self.resources.has_room(level, node, &self.classes[level].classes[class].demand)
    }

    /// Is there a worker with room where tasks below this node must run?
    pub(crate) fn is_placeable(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        match self.jobs[job.index()].placed() {
            Some(placed) if placed.level == level => {
                placed.room.get(node.index() - self.forest.level(level).start)
            }
            _ => true,
        }
    }

    /// May the job not pass through a node above its level?
    pub(crate) fn is_barred(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        let state = &self.jobs[job.index()];
        let routes = state.routes.as_ref();
        level < state.level()
            && routes.is_some_and(|r| !r.barred.is_empty() && r.barred.get(node.index()))
    }

    fn should_be_open(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        (level == 0 || self.has_room(job, level, node)) && self.could_be_open(job, level, node)
    }

    /// Room apart.
    fn could_be_open(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        let state = &self.jobs[job.index()];
        self.may_pass(job, level, node)
            && if level == state.level() {
                self.cell(TaskIx { job, node }).can_run()
            } else {
                self.is_open_below(job, level, node)
            }
    }

    fn may_pass(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        self.jobs[job.index()].routes.is_none()
            || self.is_placeable(job, level, node) && !self.is_barred(job, level, node)
    }

    fn is_open_below(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        let children = self.forest.children(node);
        self.tasks.any_open_in(job, level + 1, children)
            || self.open_beside(job, level, node).is_some()
    }

    /// With several parents about: an open child that is in another node's range.
    fn open_beside(&self, job: JobIx, level: LevelIx, node: NodeIx) -> Option<NodeIx> {
        let mut beside = self.forest.more_children(node).iter();
        beside.find(|&&child| self.tasks.is_open(job, level + 1, child)).copied()
    }

    /// Brings `open` up to date from a node upwards.
    pub(crate) fn refresh_open(&mut self, job: JobIx, level: LevelIx, node: NodeIx) {
        let open = self.should_be_open(job, level, node);
        self.put_open(job, level, node, open);
    }

    fn put_open(&mut self, job: JobIx, level: LevelIx, node: NodeIx, open: bool) {
        if let Some((chunk, bit)) = self.tasks.column_of(job) {
            if self.tasks.is_open(job, level, node) != open {
                self.flip(level, chunk, bit, node, open);
            }
            return;
        }
        if !self.tasks.set_open(job, level, node, open) {
            return;
        }
        let Some(parent) = self.forest.parent(node) else {
            self.refresh_ready(job);
            return;
        };
        for at in 0..self.forest.more_parents(node).len() {
            self.refresh_open(job, level - 1, self.forest.more_parents(node)[at]);
        }
        self.refresh_open(job, level - 1, parent);
    }

    /// Opens or closes columns at a node, and brings up to date what is above.
    fn flip(&mut self, level: LevelIx, chunk: usize, bits: ColumnBits, node: NodeIx, open: bool) {
        if bits == 0 {
            return;
        }
        self.tasks.flip(level, chunk, bits, node, open);
        let Some(parent) = self.forest.parent(node) else {
            self.roots_changed(chunk, bits);
            return;
        };
        for at in 0..self.forest.more_parents(node).len() {
            let parent = self.forest.more_parents(node)[at];
            self.climb_to(level - 1, chunk, bits, parent, open);
        }
        self.climb_to(level - 1, chunk, bits, parent, open);
    }

    /// These columns have been opened or closed at a child of the node.
    fn climb_to(
        &mut self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        node: NodeIx,
        open: bool,
    ) {
        let now = self.tasks.open_row(level, chunk, node);
        let bits = match open {
            true => {
                let bits = self.that_have_room(level, chunk, bits & !now, node);
                self.that_may_pass(level, chunk, bits, node)
            }
            false => bits & now & !self.could_open(level, chunk, bits & now, node),
        };
        self.flip(level, chunk, bits, node, open);
    }

    /// Without the columns whose demand does not fit at a node.
    fn that_have_room(
        &self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        node: NodeIx,
    ) -> ColumnBits {
        if level == 0 {
            return bits;
        }
        let (mut unknown, mut roomy) = (bits, 0);
        while let Some(column) = matrix::columns(chunk, unknown).next() {
            let class = self.jobs[self.tasks.job(column).index()].classes[level];
            let class = &self.classes[level].classes[class.index()];
            let alike = unknown & class.columns[chunk];
            if self.resources.has_room(level, node, &class.demand) {
                roomy |= alike;
            }
            unknown &= !alike;
        }
        roomy
    }

    /// Sets the bits of all columns from scratch, lowest level first.
    pub(crate) fn fill_columns(&mut self) {
        for level in (0..self.classes.len()).rev() {
            for node in self.forest.level(level).map(|node| NodeIx(node as u32)) {
                for chunk in 0..self.tasks.chunks() {
                    let passing = self.tasks.passing(level, chunk);
                    let bits = self.that_have_room(level, chunk, passing, node);
                    let open = self.could_open(level, chunk, bits, node);
                    if open != 0 {
                        self.tasks.flip(level, chunk, open, node, true);
                    }
                }
            }
        }
    }

    /// The same for one job.
    pub(crate) fn fill_open(&mut self, job: JobIx) {
        for level in (0..=self.jobs[job.index()].level()).rev() {
            for node in self.tasks.nodes(job, level) {
                let open = self.should_be_open(job, level, node);
                self.tasks.set_open(job, level, node, open);
            }
        }
        self.refresh_ready(job);
    }

    /// A way down, from the instance to a node on which the job, whose root is open, can start. In
    /// random order a job begins anywhere and goes from neighbour to neighbour, which spreads its
    /// tasks evenly and finds the next one in memory that was just used.
    pub(crate) fn pick_path(&mut self, job: JobIx, rng: &mut Rng, path: &mut Vec<NodeIx>) {
        let mut node = NodeIx::INSTANCE;
        path.clear();
        path.push(node);
        for level in 0..self.jobs[job.index()].level() {
            let children = self.forest.children(node);
            let from = match self.config.settings.node_order {
                NodeOrder::Random => self
                    .tasks
                    .next(job, level + 1, &children)
                    .unwrap_or_else(|| children.start + rng.below(children.len())),
                NodeOrder::Original | NodeOrder::Lexicographic => children.start,
            };
            let (first, end) = (children.start, children.end);
            let own = self.tasks.open_from(job, level + 1, children, from);
            let child = match self.open_beside(job, level, node) {
                None => own,
                // Either may be the better way: neither is preferred.
                beside if rng.below(2) == 0 => own.or(beside),
                beside => beside.or(own),
            };
            node = child.expect("an open node has an open child");
            let next = node.index() + 1;
            self.tasks.set_next(job, level + 1, if next == end { first } else { next });
            path.push(node);
        }
    }
}
