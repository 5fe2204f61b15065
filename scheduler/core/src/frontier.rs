//! The frontier: where in the forest each job could start something, kept as things change.
//!
//! For a job `j` and a node `n`, `open(j, n)` holds iff `j`'s demand on `n` fits and, at `j`'s own
//! level, the task can run, or, above it, some child of `n` is open. (The instance node is open
//! without regard to its room, which is its lane's business.) A task of `j` can start iff
//! `open(j, instance)`; to find one, walk down. A change touches one path, and stops where no bit
//! flips; a node with several parents is a step on several paths. Jobs with equal demands on a level
//! share the bits that say whether they fit.

use smallvec::{SmallVec, smallvec};

use bistro_common::config::{LevelIx, NodeOrder};
use bistro_common::protocol::api::TaskState;

use crate::forest::NodeIx;
use crate::matrix::Columns;
use crate::plan::Plan;
use crate::resources::Sign;
use crate::rng::Rng;
use crate::table::{ColumnAt, Flags};
use crate::tasks::{JobIx, TaskCell, TaskIx};

/// Jobs with lists: few of them share a node.
type Jobs = SmallVec<[JobIx; 4]>;

/// Jobs whose bits at a node have flipped.
#[derive(Clone, Default)]
struct Flipped {
    /// Of the node's level.
    columns: Columns,
    listed: Jobs,
}

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
        if before.can_run() != cell.can_run() {
            self.refresh_open(task.job, self.jobs[task.job.index()].level(), task.node);
        }
        true
    }

    /// Reads at once what a change along a path will look at. It was last used long ago, and one
    /// after the other each would be waited for.
    pub(crate) fn fetch(&self, path: &[NodeIx]) -> u64 {
        let at = |(level, &node): (LevelIx, &NodeIx)| {
            let used = self.resources.used(level, node).first().copied().unwrap_or(0);
            let name = self.forest.name(node).as_bytes().first().copied().unwrap_or(0);
            let children = self.forest.children(node).start;
            used as u64 ^ self.tasks.fetch(level, node) ^ u64::from(name) ^ children as u64
        };
        path.iter().enumerate().map(at).fold(0, |a, b| a ^ b)
    }

    /// Tells the policy how many tasks of a job could start, if it wants to know.
    pub(crate) fn count_left(&mut self, job: JobIx) {
        if self.policy.counts_what_is_left() {
            self.policy.set_left(job, self.count(job, TaskState::CanRun));
        }
    }

    /// Takes or gives back slots at a node, and updates every job for which that matters.
    pub(crate) fn change_slots(
        &mut self,
        level: LevelIx,
        node: NodeIx,
        amounts: &[(usize, i64)],
        sign: Sign,
    ) {
        let before: SmallVec<[bool; 8]> = self.rooms_at(level, node).collect();
        self.resources.change(level, node, amounts, sign);
        let after: SmallVec<[bool; 8]> = self.rooms_at(level, node).collect();
        for (class, &room) in after.iter().enumerate().filter(|&(at, room)| before[at] != *room) {
            match level {
                0 => self.refresh_lanes(),
                _ => self.change_room(level, node, class, room),
            }
        }
    }

    /// For each class of a level, whether its demand fits at a node.
    fn rooms_at(&self, level: LevelIx, node: NodeIx) -> impl Iterator<Item = bool> + '_ {
        let classes = self.classes[level].classes.iter();
        classes.map(move |class| self.resources.has_room(level, node, &class.demand))
    }

    /// The demand of a class fits at a node now, or does not any more.
    fn change_room(&mut self, level: LevelIx, node: NodeIx, class: usize, room: bool) {
        let of_class = &self.classes[level].classes[class].columns;
        let mut columns = Columns::from_slice(of_class);
        self.tasks.retain_others(&mut columns, level, node, room);
        let open = match room {
            true => self.could_open(level, &columns, node),
            false => smallvec![false; columns.len()],
        };
        let columns = self.tasks.set_columns(level, node, &columns, &open);
        let mut listed = Jobs::new();
        for at in 0..self.tasks.listed_at(node).len() {
            let job = self.tasks.listed_at(node)[at];
            let classes = &self.jobs[job.index()].classes;
            if classes.get(level).is_some_and(|of_job| of_job.index() == class) {
                let open = room && self.could_be_open(job, level, node);
                if self.tasks.set_open(job, level, node, open) {
                    listed.push(job);
                }
            }
        }
        self.climb(level, node, Flipped { columns, listed }, room);
    }

    /// Room apart, should columns' bits be set at a node?
    fn could_open(&self, level: LevelIx, columns: &[u32], node: NodeIx) -> Flags {
        let children = self.forest.children(node);
        let mut open = self.tasks.can_run_below(level, columns, node, children);
        if !self.has_routes() {
            return open;
        }
        for (open, &column) in open.iter_mut().zip(columns) {
            let ColumnAt { job, routed, .. } = *self.tasks.column(level, column);
            let beside = || {
                level < self.jobs[job.index()].level()
                    && self.open_beside(job, level, node).is_some()
            };
            *open = (!routed || self.may_pass(job, level, node)) && (*open || beside());
        }
        open
    }

    /// Is there more to passing a node than room and children?
    fn has_routes(&self) -> bool {
        self.forest.has_more_parents() || !self.placed_jobs.is_empty()
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
        if !self.tasks.set_open(job, level, node, open) {
            return;
        }
        let mut flipped = Flipped::default();
        match self.tasks.column_of(job, level) {
            Some(column) => flipped.columns.push(column),
            None => flipped.listed.push(job),
        }
        self.climb(level, node, flipped, open);
    }

    /// These bits at a node have flipped, all the same way: brings up to date what is above.
    fn climb(&mut self, level: LevelIx, node: NodeIx, flipped: Flipped, opened: bool) {
        if flipped.columns.is_empty() && flipped.listed.is_empty() {
            return;
        }
        for at in 0..self.forest.more_parents(node).len() {
            let parent = self.forest.more_parents(node)[at];
            self.climb_to(level - 1, parent, flipped.clone(), opened);
        }
        if let Some(parent) = self.forest.parent(node) {
            self.climb_to(level - 1, parent, flipped, opened);
            return;
        }
        let of_columns = flipped.columns.into_iter().map(|c| self.tasks.column(level, c).job);
        let jobs: SmallVec<[JobIx; 16]> = of_columns.chain(flipped.listed).collect();
        for job in jobs {
            match opened {
                true => self.refresh_ready(job),
                false => self.policy.set_ready(job, false),
            }
        }
    }

    /// `flipped`: at a child of the node.
    fn climb_to(&mut self, level: LevelIx, node: NodeIx, flipped: Flipped, opened: bool) {
        let Flipped { mut columns, mut listed } = flipped;
        columns.iter_mut().for_each(|column| *column = self.tasks.column(level + 1, *column).above);
        self.tasks.retain_others(&mut columns, level, node, opened);
        if opened && level > 0 {
            self.retain_with_room(&mut columns, level, node);
        }
        // One that was opened below leaves nothing to look for there.
        let open = match opened && !self.has_routes() {
            true => smallvec![true; columns.len()],
            false => self.could_open(level, &columns, node),
        };
        let columns = self.tasks.set_columns(level, node, &columns, &open);
        listed.retain(|job| {
            let open = self.should_be_open(*job, level, node);
            self.tasks.set_open(*job, level, node, open)
        });
        self.climb(level, node, Flipped { columns, listed }, opened);
    }

    /// Keeps the columns whose demand fits at a node. Most of them demand the same.
    fn retain_with_room(&self, columns: &mut Columns, level: LevelIx, node: NodeIx) {
        let mut last = None;
        columns.retain(|column| {
            let class = self.tasks.column(level, *column).class;
            match last {
                Some((of, room)) if of == class => room,
                _ => {
                    let demand = &self.classes[level].classes[class.index()].demand;
                    let room = self.resources.has_room(level, node, demand);
                    last = Some((class, room));
                    room
                }
            }
        });
    }

    /// Sets all of a job's bits from scratch, lowest level first.
    pub(crate) fn fill_open(&mut self, job: JobIx) {
        for level in (0..=self.jobs[job.index()].level()).rev() {
            for node in self.tasks.nodes(job, level) {
                let open = self.should_be_open(job, level, node);
                self.tasks.set_open(job, level, node, open);
            }
        }
        self.refresh_ready(job);
    }

    /// A job is ready if its root is open; it starts something if its lane is open, too.
    pub(crate) fn refresh_ready(&mut self, job: JobIx) {
        let ready = self.config.settings.enabled
            && self.jobs[job.index()].can_run()
            && self.is_root_open(job)
            && self.awaited(job).is_none();
        self.policy.set_ready(job, ready);
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

    /// The first job that this one waits for as a whole.
    pub(crate) fn awaited(&self, job: JobIx) -> Option<usize> {
        let mut awaited = self.jobs[job.index()].after_all().iter();
        awaited.position(|awaited| awaited.is_none_or(|awaited| !self.is_complete(awaited)))
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
