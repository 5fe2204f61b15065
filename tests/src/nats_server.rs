//! A real `nats-server` on a free loopback port, gone with the value.
//!
//! A missing binary fails the test and says how to get one; it never skips quietly.

use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

pub struct NatsServer {
    process: Child,
    port: u16,
    /// JetStream's files; removed with the value.
    data: tempfile::TempDir,
}

impl NatsServer {
    /// Starts a server and waits until it listens.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with more in its config.
    pub fn start_with(config: &str) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory can be made");
        let text = format!(
            "jetstream {{ store_dir: {:?}, sync_interval: always }}\n{config}",
            data.path()
        );
        std::fs::write(config_in(data.path()), text).expect("a file can be written");
        let process = spawn(data.path(), "-1");
        let mut server = Self { process, port: 0, data };
        server.port = server.wait_for_port();
        server
    }

    /// Starts it again after a kill: the same address, the same files.
    pub fn restart(&mut self) {
        self.process = spawn(self.data.path(), &self.port.to_string());
        self.wait_for_port();
    }

    /// Copies what JetStream has on the disk. Only while the server is down.
    pub fn save(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory can be made");
        copy_directory(&self.data.path().join(STORE), copy.path());
        copy
    }

    /// Puts such a copy in its place.
    pub fn put_back(&self, copy: &tempfile::TempDir) {
        let store = self.data.path().join(STORE);
        std::fs::remove_dir_all(&store).expect("there is a store");
        copy_directory(copy.path(), &store);
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.process.wait();
    }

    /// Stops or continues it, like any process.
    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.process.id() as i32);
        // It may have died by itself: then there is nothing left to do.
        let _ = nix::sys::signal::kill(pid, signal);
    }

    /// The server writes its real port to a file once it listens.
    fn wait_for_port(&self) -> u16 {
        let file = self.data.path().join(format!("nats-server_{}.ports", self.process.id()));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(port) = read_port(&file) {
                return port;
            }
            assert!(Instant::now() < deadline, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Where JetStream keeps its streams.
const STORE: &str = "jetstream";

pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("there is a directory") {
        let (entry, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).expect("an entry");
        match entry.is_dir() {
            true => copy_directory(&entry, &to),
            false => drop(std::fs::copy(&entry, &to).expect("a file can be copied")),
        }
    }
}

fn config_in(data: &Path) -> PathBuf {
    data.join("nats.conf")
}

/// As durable as in production: what it has acknowledged is on the disk.
fn spawn(data: &Path, port: &str) -> Child {
    let binary = binary();
    Command::new(&binary)
        .args(["-a", "127.0.0.1", "-p", port, "-c"])
        .arg(config_in(data))
        .arg("--ports_file_dir")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()))
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first client address in a ports file; `None` until it is written.
fn read_port(file: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(file).ok()?;
    let after = text.split("nats://").nth(1)?;
    after.split('"').next()?.rsplit(':').next()?.parse().ok()
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN") {
        return path.into();
    }
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.bistro/bin/nats-server");
    assert!(local.exists(), "there is no nats-server; run scripts/setup to get one");
    local
}
