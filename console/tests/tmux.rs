//! The console within tmux, which is where many look at it: what a multiplexer does with what it
//! writes. Where there is no tmux, there is nothing to see.

use std::process::{Command, Output};

use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, wait_until};

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["host"],
      "node_sources": [{"source": "manual", "prefs": {"n1": [], "n2": []}}]
    },
    "resources": {"instance": {"concurrency": {"limit": 2, "default": 1}}}
  },
  "bistro_job->crawl": {"owner": "me"}
}"#;

/// A tmux of its own, with one window of 80x24.
struct Tmux {
    home: tempfile::TempDir,
}

impl Tmux {
    fn open(url: &str) -> Option<Self> {
        Command::new("tmux").arg("-V").output().ok()?;
        let tmux = Self { home: tempfile::tempdir().expect("a directory can be made") };
        let bistro = env!("CARGO_BIN_EXE_bistro");
        // What comes after it shows that the terminal is as it was.
        let shell =
            format!("echo before; '{bistro}' console --cell test; echo after; exec sleep 600");
        let url = format!("BISTRO_NATS_URL={url}");
        let started = tmux.run(&["new-session", "-d", "-x", "80", "-y", "24", "-e", &url, &shell]);
        assert!(started.status.success(), "{started:?}");
        tmux.run(&["set", "-g", "set-clipboard", "on"]);
        Some(tmux)
    }

    fn run(&self, args: &[&str]) -> Output {
        let socket = self.home.path().join("tmux");
        let mut command = Command::new("tmux");
        command.arg("-S").arg(socket).args(["-f", "/dev/null"]).args(args);
        command.env("HOME", self.home.path()).env("LANG", "C.UTF-8").env_remove("TMUX");
        command.env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME");
        command.output().expect("tmux is there")
    }

    fn say(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.run(args).stdout).into_owned()
    }

    fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.say(&["capture-pane", "-p"])
    }

    async fn wait_for(&self, what: &str) {
        wait_until(what, || self.screen().contains(what)).await;
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_at_home_in_a_multiplexer() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    let script = cell.script("task", "exec sleep 600");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 2).await;
    let Some(tmux) = Tmux::open(&cell.nats.url()) else {
        eprintln!("skipped: there is no tmux here");
        return;
    };
    tmux.wait_for("crawl").await;
    assert_eq!(tmux.say(&["display", "-p", "#{alternate_on}"]).trim(), "1");
    tmux.press(&["5"]);
    tmux.wait_for("> running").await;
    // The clipboard of the multiplexer.
    tmux.press(&["y"]);
    wait_until("the command to be copied", || tmux.say(&["show-buffer"]) == "bistro tasks").await;
    // Down to the smallest size and back.
    tmux.run(&["resize-window", "-x", "40", "-y", "10"]);
    wait_until("a small screen", || tmux.screen().lines().all(|line| line.len() <= 40)).await;
    tmux.wait_for("5 Tasks").await;
    tmux.run(&["resize-window", "-x", "120", "-y", "40"]);
    tmux.wait_for("8 Health").await;
    tmux.press(&["Down", "K"]);
    tmux.wait_for("Kill this attempt?").await;
    tmux.press(&["Escape"]);
    wait_until("the question to be gone", || !tmux.screen().contains("Kill this")).await;
    tmux.press(&["q"]);
    tmux.wait_for("after").await;
    let screen = tmux.screen();
    assert_eq!(screen.split_whitespace().collect::<Vec<_>>(), ["before", "after"]);
    assert_eq!(tmux.say(&["display", "-p", "#{alternate_on}#{cursor_flag}"]).trim(), "01");
}
