//! The console in a real terminal: what only a terminal shows.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, wait_until};

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["host"],
      "node_sources": [{"source": "manual", "prefs": {"n1": [], "n2": [], "n3": []}}]
    },
    "resources": {"instance": {"concurrency": {"limit": 2, "default": 1}}}
  },
  "bistro_job->crawl": {"owner": "me", "backoff": [3600, "repeat"]}
}"#;

/// A console in an 80x24 terminal.
struct Console {
    screen: Arc<Mutex<vt100::Parser>>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    /// Hangs up when it is dropped.
    terminal: Box<dyn MasterPty + Send>,
    /// What it remembers is here.
    home: Arc<tempfile::TempDir>,
}

impl Console {
    fn open(url: &str) -> Self {
        Self::open_in(Arc::new(tempfile::tempdir().expect("a directory can be made")), url, &[])
    }

    fn open_in(home: Arc<tempfile::TempDir>, url: &str, args: &[&str]) -> Self {
        let size = PtySize { rows: 24, cols: 80, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).expect("a terminal can be made");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_bistro"));
        command.args(["console", "--cell", "test"]);
        command.args(args);
        command.env("BISTRO_NATS_URL", url);
        command.env("EDITOR", "sed -i s/alice/robert/");
        command.env("HOME", home.path());
        command.env_remove("XDG_STATE_HOME");
        command.env_remove("XDG_CONFIG_HOME");
        let child = pair.slave.spawn_command(command).expect("bistro starts");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let mut output = pair.master.try_clone_reader().expect("a terminal can be read");
        let parser = screen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                parser.lock().expect("nobody panics with it").process(&buffer[..count]);
            }
        });
        let keys = pair.master.take_writer().expect("a terminal can be written");
        Self { screen, keys, child, terminal: pair.master, home }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("nobody panics with it").screen().contents()
    }

    async fn wait_for(&self, what: &str) {
        wait_until(what, || self.text().contains(what)).await;
    }

    fn is_in_alternate_screen(&self) -> bool {
        self.screen.lock().expect("nobody panics with it").screen().alternate_screen()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.process_id().expect("it runs") as i32;
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    async fn wait_for_end(&mut self) {
        wait_until("the console to end", || {
            self.child.try_wait().expect("it is our child").is_some()
        })
        .await;
        wait_until("the screen to be given back", || !self.is_in_alternate_screen()).await;
        let hidden = self.screen.lock().expect("nobody panics with it").screen().hide_cursor();
        assert!(!hidden, "the cursor is there again");
    }
}

async fn cell() -> Cell {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    cell.wait_for_count(TaskState::CanRun, 3).await;
    cell
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_found_read_and_killed() {
    let cell = cell().await;
    let script = cell.script("task", "echo hello from $1; exec sleep 600");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 2).await;
    let mut console = Console::open(&cell.nats.url());
    console.wait_for("crawl").await;
    console.wait_for("> running 2").await;
    console.press("2");
    console.wait_for("crawl on n1").await;
    console.press("5t");
    console.wait_for("state=running  1 of 2").await;
    console.press("l");
    console.wait_for("hello from").await;
    console.press("\u{1b}");
    console.wait_for("state=running  1 of 2").await;
    console.press("K");
    console.wait_for("Kill this attempt?").await;
    console.press("\t\r");
    console.wait_for("asked w1 to end crawl").await;
    cell.wait_for_count(TaskState::Backoff, 1).await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marked_tasks_are_killed_and_their_attempts_are_remembered() {
    let cell = cell().await;
    let script = cell.script("task", "exec sleep 600");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 2).await;
    let mut console = Console::open(&cell.nats.url());
    console.press("5t");
    console.wait_for("state=running  1 of 2").await;
    console.press("mm");
    console.wait_for("2 marked").await;
    console.press("K");
    console.wait_for("2 attempts that were running").await;
    console.press("\t\r");
    console.wait_for("2 done").await;
    cell.wait_for_count(TaskState::Backoff, 2).await;
    console.press("/");
    console.press(&"\u{7f}".repeat(20));
    console.press("state=backoff\r");
    console.wait_for("state=backoff  1 of 2").await;
    console.press("\r");
    console.wait_for("attempts").await;
    // Its worker has written down how it ended.
    console.wait_for("w1           killed").await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_submitted_and_a_console_is_found_as_it_was_left() {
    let cell = cell().await;
    let script = cell.script("task", "exec sleep 600");
    let _worker = cell.start_worker("w1", &script).await;
    let mut console = Console::open(&cell.nats.url());
    console.wait_for("crawl").await;
    console.press("S");
    console.press("--name nightly -- true\r");
    console.wait_for("Run this once?").await;
    console.press("\t\r");
    console.wait_for("nightly waits for its turn").await;
    console.wait_for("nightly").await;
    console.press("3");
    console.wait_for("3 Nodes").await;
    console.press("/n2\r");
    console.wait_for("n2  1 of 1").await;
    console.press("c");
    console.wait_for("below n2").await;
    console.press("q");
    console.wait_for_end().await;
    let mut again = Console::open_in(console.home.clone(), &cell.nats.url(), &[]);
    again.wait_for("below n2").await;
    again.wait_for("crawl on n2").await;
    again.press("q");
    again.wait_for_end().await;
    let mut elsewhere = Console::open_in(console.home.clone(), &cell.nats.url(), &["job/nightly"]);
    elsewhere.wait_for("priority 1, on level instance").await;
    elsewhere.press("q");
    elsewhere.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grid_follows_what_happens() {
    let cell = cell().await;
    let script =
        cell.script("task", "while [ ! -e \"$0.go\" ]; do sleep 0.05; done; echo done > \"$2\"");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 2).await;
    let mut console = Console::open(&cell.nats.url());
    console.press("2");
    console.wait_for(">").await;
    std::fs::write(format!("{script}.go"), "").expect("a file can be written");
    console.wait_for("crawl              +++").await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_shown_and_survived() {
    let mut cell = cell().await;
    let mut console = Console::open(&cell.nats.url());
    console.wait_for("crawl").await;
    cell.nats.kill();
    console.wait_for("no connection for").await;
    assert!(console.text().contains("crawl"), "what was known stays");
    cell.nats.restart();
    wait_until("the connection to be back", || !console.text().contains("no connection")).await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_given_back_after_a_signal() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        // Nothing listens there: the first screen does not need it.
        let mut console = Console::open("nats://127.0.0.1:1");
        console.wait_for("Jobs").await;
        assert!(console.is_in_alternate_screen());
        console.signal(signal);
        console.wait_for_end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_given_back_while_it_is_stopped_and_taken_again() {
    let mut console = Console::open("nats://127.0.0.1:1");
    console.wait_for("Jobs").await;
    console.signal(Signal::SIGTSTP);
    wait_until("the screen to be given back", || !console.is_in_alternate_screen()).await;
    console.signal(Signal::SIGCONT);
    wait_until("the screen to be taken again", || console.is_in_alternate_screen()).await;
    console.wait_for("Jobs").await;
    console.press("8");
    console.wait_for("8 Health").await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_and_done_at_night() {
    let cell = cell().await;
    let script = cell.script("task", "echo failed > \"$2\"");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Failed, 3).await;
    let mut console = Console::open(&cell.nats.url());
    // What fails, what it printed last, and why; then all of it again, and that it was said who did.
    console.wait_for("x failed 3").await;
    console.press("5f");
    console.wait_for("state=failed,backoff  1 of 3").await;
    console.press("\r");
    console.wait_for("crawl on n").await;
    console.press("5A");
    console.wait_for("3: 3 failed").await;
    console.wait_for("bistro forgive --filter=state=failed,backoff --yes").await;
    console.press("\t\r");
    console.wait_for("3 tasks forgiven").await;
    console.press("1D\t\r");
    console.wait_for("crawl is disabled").await;
    console.press("7/kind~audit\r");
    console.wait_for("audit.forgive").await;
    console.wait_for("audit.job_override").await;
    console.press("u\t\r");
    console.wait_for("crawl is enabled").await;
    console.press(":view nodes\r");
    console.wait_for("all nodes").await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_gets_the_terminal_and_gives_it_back() {
    let cell = cell().await;
    let file = cell.directory.path().join("job.json");
    std::fs::write(&file, r#"{"owner": "alice"}"#).expect("a file can be written");
    let create = ["job", "create", "made", file.to_str().expect("UTF-8")];
    cell.cli(&create).await.expect("it is made");
    let mut console = Console::open(&cell.nats.url());
    console.wait_for("made").await;
    console.press("/made");
    console.wait_for("1 of 1").await;
    console.press("\r\r");
    console.wait_for("owner    alice").await;
    console.press("E");
    console.wait_for("owner    robert").await;
    assert!(console.is_in_alternate_screen());
    // Keys are the console's again.
    console.press("8");
    console.wait_for("8 Health").await;
    console.press("q");
    console.wait_for_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_any_size() {
    let mut console = Console::open("nats://127.0.0.1:1");
    console.wait_for("Jobs").await;
    for (rows, cols) in [(1, 1), (200, 500), (10, 40), (24, 80)] {
        let size = PtySize { rows, cols, ..PtySize::default() };
        console.terminal.resize(size).expect("a terminal has a size");
        console.press("?");
        console.press("?");
    }
    console.press("q");
    console.wait_for_end().await;
}
