//! A nats-server of our own: on a free loopback port, with a password that only this cell knows.

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

use super::{Part, START_TIMEOUT, write_private};
use crate::make_private_directory;

/// What the server is told; it chooses its port itself if there is none.
struct Config {
    directory: PathBuf,
    password: String,
    sync: bool,
}

impl Config {
    fn write(&self, port: Option<u16>) -> anyhow::Result<PathBuf> {
        let quoted = |path: &Path| serde_json::to_string(&path.display().to_string());
        let port = port.map_or("-1".to_owned(), |port| port.to_string());
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: {}\n\
             authorization {{ user: bistro, password: \"{}\" }}\n\
             jetstream {{ store_dir: {}\n{} }}\n",
            quoted(&self.directory)?,
            self.password,
            quoted(&self.directory.join("store"))?,
            if self.sync { "sync_interval: always" } else { "" },
        );
        let path = self.directory.join("nats.conf");
        write_private(&path, &text)?;
        Ok(path)
    }
}

/// Starts it and returns its address, password included.
pub async fn start(data_dir: &Path) -> anyhow::Result<(Part, String)> {
    let directory = data_dir.join("nats");
    make_private_directory(&directory)?;
    let binary = find_binary()?;
    let sync = knows_sync_interval(&binary)?;
    if !sync {
        tracing::warn!(
            "{} is older than 2.10: if this host crashes, results that it has acknowledged may \
             have to be sent again; run scripts/setup to get a newer one",
            binary.display()
        );
    }
    let password = uuid::Uuid::new_v4().simple().to_string();
    let config = Config { directory, password, sync };
    let path = config.write(None)?;
    let log = config.directory.join("nats.log");
    let args = ["-c", &path.display().to_string(), "-l", &log.display().to_string()];
    let args = args.map(str::to_owned).to_vec();
    let mut part = Part::start("nats-server", binary, args, "", Signal::SIGTERM)?;
    let port = wait_for_port(&config.directory, &mut part, &log).await?;
    // If it has to be started again, its clients look for it there.
    config.write(Some(port))?;
    Ok((part, format!("nats://bistro:{}@127.0.0.1:{port}", config.password)))
}

/// The server writes its port to a file once it listens.
async fn wait_for_port(directory: &Path, part: &mut Part, log: &Path) -> anyhow::Result<u16> {
    let pid = part.child.id().unwrap_or_default();
    // It is named after the program, whatever that is called here.
    let program = part.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = directory.join(format!("{program}_{pid}.ports"));
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(port) = read_port(&file) {
            return Ok(port);
        }
        if let Some(status) = part.child.try_wait()? {
            bail!("nats-server has ended ({status}); see {}", log.display());
        }
        if Instant::now() >= deadline {
            bail!("nats-server does not listen; see {}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The first client address; `None` until it is written.
fn read_port(file: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(file).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// Asks `nats-server --version`, which prints `nats-server: v2.10.1`.
fn knows_sync_interval(binary: &Path) -> anyhow::Result<bool> {
    let output = std::process::Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().rsplit('v').next().unwrap_or_default();
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let Some(major) = numbers.next() else {
        bail!("{} is not a nats-server: it says {:?}", binary.display(), text.trim());
    };
    Ok((major, numbers.next().unwrap_or(0)) >= (2, 10))
}

/// `$NATS_SERVER_BIN`, `.bistro/bin`, then the PATH.
fn find_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN") {
        return Ok(path.into());
    }
    let local = Path::new(".bistro/bin/nats-server");
    if local.exists() {
        return Ok(local.canonicalize()?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|p| p.exists());
    found.context(
        "there is no nats-server; run scripts/setup, set NATS_SERVER_BIN, or give --nats URL",
    )
}
