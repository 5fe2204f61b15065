//! A job in an editor: what comes back takes the place of what was read, if nobody else has changed
//! it meanwhile. What somebody wrote is never thrown away.

use anyhow::Context;
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bistro_common::protocol::api::verb;
use bistro_common::protocol::job::{
    Audit, JobDocument, JobGetRequest, JobPutRequest, Origin, PutMode,
};
use bistro_common::subject::Token;

use super::actions::how_it_is;
use super::{Client, actor};

impl Client {
    /// Runs `$VISUAL` or `$EDITOR` in this terminal; says what has come of it.
    pub async fn edit(&self, job: &str, reason: String) -> anyhow::Result<String> {
        let request = JobGetRequest { job: job.to_owned() };
        let document: JobDocument = self.ask(verb::JOB_GET, &request).await?;
        let given = match (document.origin, document.given) {
            (Origin::Store, Some(given)) => given,
            _ => anyhow::bail!(
                "{job} is of the config file: change it there; from here it can be enabled, \
                 disabled and ranked"
            ),
        };
        let path = write(job, &given)?;
        let edited = match run_editor(&path).await.and_then(|()| read(&path)) {
            Ok(edited) => edited,
            Err(error) => return Err(kept(error, job, &path)),
        };
        if edited == given {
            remove(&path);
            return Ok(format!("{job} is as it was"));
        }
        let request = JobPutRequest {
            job: job.to_owned(),
            definition: edited,
            mode: PutMode::Replace,
            version_id: Some(document.version_id),
            audit: Audit { actor: actor(), reason },
        };
        match self.ask::<JobDocument>(verb::JOB_PUT, &request).await {
            Ok(document) => {
                remove(&path);
                Ok(how_it_is(&document))
            }
            Err(error) => Err(kept(error, job, &path)),
        }
    }
}

fn write(job: &str, given: &Map<String, Value>) -> anyhow::Result<PathBuf> {
    let name = format!("bistro-{}-{}.json", Token::new(job), uuid::Uuid::new_v4());
    let path = std::env::temp_dir().join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(&serde_json::to_vec_pretty(given)?)?;
    file.write_all(b"\n")?;
    Ok(path)
}

fn read(path: &Path) -> anyhow::Result<Map<String, Value>> {
    serde_json::from_slice(&std::fs::read(path)?).context("a job is a JSON object")
}

async fn run_editor(path: &Path) -> anyhow::Result<()> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // It may have arguments of its own.
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path);
    let status = command.status().await.with_context(|| format!("cannot start {editor}"))?;
    anyhow::ensure!(status.success(), "{editor} has failed: {status}");
    Ok(())
}

fn kept(error: anyhow::Error, job: &str, path: &Path) -> anyhow::Error {
    let path = path.display();
    error.context(format!("{job} is as it was; what you wrote is in {path}"))
}

fn remove(path: &Path) {
    // A file too many in a temporary directory does no harm.
    let _ = std::fs::remove_file(path);
}
