//! The source `script`: a program that prints the children of a node, one a line.

use std::collections::HashMap;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// More output than this is a mistake: about a million names.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// So much of what a failing script says is kept for people.
const STDERR_BYTES_MAX: usize = 4 << 10;

use super::document::{self, Content, ContentError};
use crate::documents::Documents;
use bistro_common::config::DocumentPlace;
use bistro_common::nats::Bus;

#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error("{script} cannot be run for {parent:?}: {source}")]
    Start {
        script: String,
        parent: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{script} did not end within {timeout_ms} ms for {parent:?} and was killed")]
    TimedOut { script: String, parent: String, timeout_ms: u64 },
    #[error("{script} failed for {parent:?} ({status}){stderr}")]
    Failed { script: String, parent: String, status: ExitStatus, stderr: String },
    #[error("{script} printed more than {OUTPUT_BYTES_MAX} bytes for {parent:?}")]
    TooMuch { script: String, parent: String },
    #[error("{script} printed something for {parent:?} that is not UTF-8")]
    NotUtf8 { script: String, parent: String },
}

/// What scripts have said. Each is asked again after its own period, and what it said last holds
/// while it fails.
#[derive(Default)]
pub struct Scripts {
    /// By script and parent.
    said: HashMap<(String, String), Said>,
    /// What texts have said, by name.
    documents: HashMap<String, Content>,
    elsewhere: Documents,
    problems: Vec<String>,
}

struct Said {
    /// `None`: ask again, however recent it is.
    at: Option<Instant>,
    children: Vec<String>,
    /// The present forest needs it.
    used: bool,
}

impl Scripts {
    /// Everything is to be asked again.
    pub fn expire(&mut self) {
        self.said.values_mut().for_each(|said| said.at = None);
    }

    /// What failed since the last call while something older held.
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// For sources that need NATS.
    pub fn with(bus: Bus) -> Self {
        Self { elsewhere: Documents::new(bus), ..Self::default() }
    }

    /// What a text says, or what it said last.
    pub(super) async fn document(
        &mut self,
        place: &DocumentPlace,
        timeout: Duration,
    ) -> Result<Content, ContentError> {
        let (name, text) = match place {
            DocumentPlace::File { path } => (path.clone(), document::read_file(path)),
            DocumentPlace::Http { url } => {
                let text = self.elsewhere.url(url, timeout).await;
                (url.clone(), text.map_err(ContentError::from))
            }
            DocumentPlace::NatsKv { bucket, key } => {
                let text = self.elsewhere.key(bucket, key).await;
                (format!("kv:{bucket}/{key}"), text.map_err(ContentError::from))
            }
        };
        let content = text.and_then(|text| document::parse(&name, &text));
        match (content, self.documents.get(&name)) {
            (Ok(content), _) => {
                self.documents.insert(name, content.clone());
                Ok(content)
            }
            (Err(error), Some(last)) => {
                self.problems.push(format!("{error}; the nodes that it listed last stay"));
                Ok(last.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Forgets what the forest that was just made did not need.
    pub(super) fn forget_unused(&mut self) {
        self.said.retain(|_, said| std::mem::take(&mut said.used));
    }

    pub(super) async fn children(
        &mut self,
        script: &str,
        parent: &str,
        timeout_ms: u64,
        period: Duration,
    ) -> Result<Vec<String>, ScriptError> {
        let key = (script.to_owned(), parent.to_owned());
        if let Some(said) = self.said.get_mut(&key)
            && said.at.is_some_and(|at| at.elapsed() < period)
        {
            said.used = true;
            return Ok(said.children.clone());
        }
        match (children(script, parent, timeout_ms).await, self.said.get_mut(&key)) {
            (Ok(children), _) => {
                let at = Some(Instant::now());
                let said = Said { at, children: children.clone(), used: true };
                self.said.insert(key, said);
                Ok(children)
            }
            (Err(error), Some(said)) => {
                said.used = true;
                self.problems.push(format!("{error}; the nodes that it listed last stay"));
                Ok(said.children.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// Runs the script for one parent. Whatever happens, it is gone when this returns.
async fn children(script: &str, parent: &str, timeout_ms: u64) -> Result<Vec<String>, ScriptError> {
    let names = || (script.to_owned(), parent.to_owned());
    let started = Command::new(script)
        .arg(parent)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|source| {
        let (script, parent) = names();
        ScriptError::Start { script, parent, source }
    })?;
    let group = Group(child.id());
    let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
    let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
    let run = async {
        let (stdout, stderr) =
            tokio::join!(read(stdout, OUTPUT_BYTES_MAX), read(stderr, STDERR_BYTES_MAX));
        let status = child.wait().await;
        (stdout, stderr, status)
    };
    let timeout = Duration::from_millis(timeout_ms);
    let Ok((stdout, stderr, status)) = tokio::time::timeout(timeout, run).await else {
        let (script, parent) = names();
        return Err(ScriptError::TimedOut { script, parent, timeout_ms });
    };
    drop(group);
    let (script, parent) = names();
    let status = status.map_err(|source| ScriptError::Start {
        script: script.clone(),
        parent: parent.clone(),
        source,
    })?;
    let Some(stdout) = stdout else {
        return Err(ScriptError::TooMuch { script, parent });
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr.unwrap_or_default()).trim().to_owned();
        let stderr = if said.is_empty() { String::new() } else { format!(": {said}") };
        return Err(ScriptError::Failed { script, parent, status, stderr });
    }
    let text = String::from_utf8(stdout).map_err(|_| ScriptError::NotUtf8 { script, parent })?;
    // A blank line names nothing; the original made a node without a name of it.
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// Kills the script's process group when dropped: the script may have started others.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // No such group any more: that is what is wanted.
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(id),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// Everything up to the end, or `None` if it is more than `max`. Reads on to the end all the same,
/// so that the writer is not stopped by a full pipe before its time-out.
async fn read(mut pipe: impl AsyncRead + Unpin, max: usize) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    let mut too_much = false;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) if kept.len() + count <= max => kept.extend_from_slice(&buffer[..count]),
            Ok(_) => too_much = true,
        }
    }
    (!too_much).then_some(kept)
}
