//! Task logs of all workers as one: the last lines, and those that come.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, WorkerName};
use bistro_common::protocol::api::{ListRequest, Listing, WorkerHealth, WorkerRow, verb};
use bistro_common::protocol::log::{
    Direction, LineId, LogLine, LogRead, LogReadReply, PAGE_LINES_MAX, Stream,
};
use bistro_common::protocol::{decode, encode};

use super::Client;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request of a follower waits at the worker.
const WAIT_MS: u64 = 10_000;
const RETRY: Duration = Duration::from_millis(500);
/// How often a follower looks for new workers.
const WORKERS: Duration = Duration::from_secs(3);

/// Which lines are wanted; what is absent or empty is not filtered by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub streams: Vec<Stream>,
    pub job: Option<String>,
    pub node: Option<String>,
    pub attempt: Option<AttemptId>,
    pub regex: Option<String>,
    /// Absent: all workers.
    pub worker: Option<WorkerName>,
    /// From this time on, rather than the last ones.
    pub since_ms: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Line {
    pub worker: String,
    #[serde(flatten)]
    pub line: LogLine,
}

/// The last lines, and where following goes on.
#[derive(Debug, Default)]
pub struct Tail {
    pub lines: Vec<Line>,
    pub next: HashMap<WorkerName, LineId>,
    /// Why lines may be missing.
    pub problems: Vec<String>,
}

impl Query {
    fn request(&self, from: LineId, direction: Direction, limit: u32, wait_ms: u64) -> LogRead {
        LogRead {
            streams: self.streams.clone(),
            job: self.job.clone(),
            node: self.node.clone(),
            attempt: self.attempt,
            regex: self.regex.clone(),
            wait_ms,
            ..LogRead::page(from, direction, limit)
        }
    }
}

impl Client {
    /// The workers whose logs can be asked for.
    async fn log_workers(&self, query: &Query) -> anyhow::Result<Vec<WorkerName>> {
        if let Some(worker) = &query.worker {
            return Ok(vec![worker.clone()]);
        }
        let rows: Listing<WorkerRow> = self.ask(verb::WORKERS, &ListRequest::default()).await?;
        let alive = rows.items.into_iter().filter(|row| row.health != WorkerHealth::Gone);
        Ok(alive.filter_map(|row| WorkerName::new(row.worker).ok()).collect())
    }

    async fn read_log(
        &self,
        worker: &WorkerName,
        request: &LogRead,
    ) -> Result<LogReadReply, String> {
        let timeout = TIMEOUT + Duration::from_millis(request.wait_ms);
        let subject = self.cell.log_read(worker);
        let bytes = self.bus.request(subject, encode(request), timeout).await;
        let bytes = bytes.map_err(|error| format!("worker {worker}: {error}"))?;
        decode(&bytes).map_err(|error| format!("worker {worker}: {error}"))
    }

    /// The last `count` lines of each worker, merged by time.
    pub async fn tail_logs(&self, query: &Query, count: u32) -> anyhow::Result<Tail> {
        let mut reads = JoinSet::new();
        for worker in self.log_workers(query).await? {
            let (client, query) = (self.clone(), query.clone());
            reads.spawn(async move { client.tail_one(worker, &query, count).await });
        }
        let mut tail = Tail::default();
        for read in reads.join_all().await {
            tail.lines.extend(read.lines);
            tail.next.extend(read.next);
            tail.problems.extend(read.problems);
        }
        tail.lines.sort_by(|a, b| {
            let key = |line: &Line| (line.line.time_ms, line.line.id);
            key(a).cmp(&key(b)).then_with(|| a.worker.cmp(&b.worker))
        });
        // What was asked for is at the end, unless it is from a time on.
        let extra = tail.lines.len().saturating_sub(count as usize);
        if query.since_ms.is_none() {
            tail.lines.drain(..extra);
        }
        tail.problems.sort();
        Ok(tail)
    }

    async fn tail_one(&self, worker: WorkerName, query: &Query, count: u32) -> Tail {
        if let Some(since_ms) = query.since_ms {
            return self.first_of_one(worker, query, LineId::at(since_ms), count).await;
        }
        let mut tail = Tail::default();
        let mut from = LineId::MAX;
        while tail.lines.len() < count as usize {
            let left = (count - tail.lines.len() as u32).min(PAGE_LINES_MAX);
            let request = query.request(from, Direction::Descending, left, 0);
            match self.read_log(&worker, &request).await {
                Ok(page) => {
                    tail.problems
                        .extend(page.error.map(|error| format!("worker {worker}: {error}")));
                    let name = worker.to_string();
                    let lines = page.lines.into_iter();
                    tail.lines.extend(lines.map(|line| Line { worker: name.clone(), line }));
                    match page.next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
                Err(problem) => {
                    // Following begins with what comes from now on.
                    tail.problems.push(problem);
                    return tail;
                }
            }
        }
        if count == 0 {
            return tail;
        }
        let last = tail.lines.first().map_or(LineId::MIN, |newest| newest.line.id.next());
        tail.next.insert(worker, last);
        tail
    }

    /// Lines from a place on; those that follow are for who follows.
    async fn first_of_one(
        &self,
        worker: WorkerName,
        query: &Query,
        from: LineId,
        count: u32,
    ) -> Tail {
        let mut tail = Tail::default();
        let request = query.request(from, Direction::Ascending, count.min(PAGE_LINES_MAX), 0);
        match self.read_log(&worker, &request).await {
            Ok(page) => {
                let name = worker.to_string();
                tail.problems.extend(page.error.map(|error| format!("worker {worker}: {error}")));
                let lines = page.lines.into_iter();
                tail.lines.extend(lines.map(|line| Line { worker: name.clone(), line }));
                tail.next.insert(worker, page.next.unwrap_or(from));
            }
            Err(problem) => tail.problems.push(problem),
        }
        tail
    }

    /// Sends the lines that come after `next`, of workers that come too, until nobody listens.
    pub async fn follow_logs(
        self,
        query: Query,
        mut next: HashMap<WorkerName, LineId>,
        out: mpsc::Sender<Vec<Line>>,
    ) {
        // Of a worker without a place to go on from, what it printed before is not news.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begin = LineId::at(now.as_millis() as Millis);
        let mut followers = JoinSet::new();
        let mut followed = std::collections::HashSet::new();
        while !out.is_closed() {
            // Nobody to ask now is a reason to ask again.
            for worker in self.log_workers(&query).await.unwrap_or_default() {
                if followed.insert(worker.clone()) {
                    let from = next.remove(&worker).unwrap_or(begin);
                    let (client, query, out) = (self.clone(), query.clone(), out.clone());
                    followers.spawn(client.follow_one(worker, query, from, out));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(WORKERS) => {}
                () = out.closed() => {}
            }
        }
    }

    async fn follow_one(
        self,
        worker: WorkerName,
        query: Query,
        mut from: LineId,
        out: mpsc::Sender<Vec<Line>>,
    ) {
        loop {
            let request = query.request(from, Direction::Ascending, PAGE_LINES_MAX, WAIT_MS);
            let page = tokio::select! {
                page = self.read_log(&worker, &request) => page,
                () = out.closed() => return,
            };
            let Ok(page) = page else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            from = page.next.unwrap_or(from);
            let name = worker.to_string();
            let lines = page.lines.into_iter().map(|line| Line { worker: name.clone(), line });
            let lines: Vec<Line> = lines.collect();
            if page.error.is_some() {
                tokio::time::sleep(RETRY).await;
            }
            if !lines.is_empty() && out.send(lines).await.is_err() {
                return;
            }
        }
    }
}
