//! `bistro up` as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `bistro` in the root of the workspace, where scripts/setup has put nats-server.
fn bistro(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bistro"))
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env_remove("BISTRO_NATS_URL")
        .output()
        .expect("bistro runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn script(directory: &Path, body: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("task");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a file can be written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).expect("it can be made executable");
    path.display().to_string()
}

fn up(directory: &Path, config: &str, task: &str) -> Output {
    let data_dir = directory.join("data").display().to_string();
    let task = script(directory, task);
    let fixed = ["--until-done", "--no-console", "--data-dir", &data_dir];
    let args = ["up", "--config", config, "--worker-command", &task];
    bistro(&[&args[..], &fixed[..]].concat())
}

#[test]
fn the_smallest_config_ends_with_a_summary_and_leaves_nothing_running() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let output = up(directory.path(), "configs/smallest.json", "echo done > \"$2\"");
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    let last = text.lines().last().expect("a summary");
    assert!(last.starts_with("4 done, 0 failed in "), "{text}");
    let conf = directory.path().join("data/nats/nats.conf").display().to_string();
    let processes = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let commands = processes.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
    let left: Vec<_> = commands.filter(|command| command.contains(&conf)).collect();
    assert_eq!(left, Vec::<String>::new(), "nats-server has ended");
}

#[test]
fn a_config_that_is_not_there_is_said_at_once() {
    let output = bistro(&["up", "--config", "no-such-file.json", "--no-console"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("there is no file no-such-file.json"), "{text}");
}

#[test]
fn failed_tasks_make_it_fail() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let output = up(directory.path(), "configs/smallest.json", "echo failed > \"$2\"");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).lines().last().is_some_and(|l| l.starts_with("0 done, 4 failed")));
}

#[test]
fn validate_places_what_is_wrong() {
    let good = bistro(&["validate", "configs/smallest.json"]);
    assert!(good.status.success(), "{good:?}");
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let bad = directory.path().join("bad.json");
    std::fs::write(&bad, "{\"bistro_settings\": 3}").expect("a file can be written");
    let output = bistro(&["validate", &bad.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("bad.json:1:21: error: bistro_settings: expected an object"));
}

#[test]
fn an_unreachable_cell_is_exit_code_3_and_says_what_to_do() {
    let output = bistro(&["status", "--nats", "nats://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is nats-server running there?"));
    let output = bistro(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--nats URL"));
}
