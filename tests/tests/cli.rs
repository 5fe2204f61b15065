//! The command line on a real cell: what it prints, what it does, and how it ends.

use async_nats::jetstream::{self, consumer::push};
use std::process::Output;
use std::time::{Duration, Instant};

use bistro_common::protocol::api::{TaskState, verb};
use bistro_common::subject::Cell as CellName;
use bistro_tests::{Cell, NatsServer};

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["host"],
      "node_sources": [{"source": "manual", "prefs": {"n1": [], "n2": [], "n3": [], "m4": []}}]
    },
    "resources": {"instance": {"concurrency": {"limit": 10, "default": 1}}}
  },
  "bistro_job->crawl": {"owner": "me", "backoff": ["fail"]}
}"#;

async fn cell() -> Cell {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    cell.wait_for_count(TaskState::CanRun, 4).await;
    cell
}

async fn output(cell: &Cell, args: &[&str]) -> Output {
    let ran = tokio::time::timeout(Duration::from_secs(30), cell.cli_command(args).output());
    ran.await.expect("it ends").expect("it can be started")
}

async fn code(cell: &Cell, args: &[&str]) -> Option<i32> {
    output(cell, args).await.status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_sorted_by_one_grammar() {
    let cell = cell().await;
    let script = cell.script("task", "case $1 in n*) echo done;; *) echo failed;; esac > $2");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Done, 3).await;
    cell.wait_for_count(TaskState::Failed, 1).await;
    let names = |args: &'static [&'static str]| cell.cli(args);
    assert_eq!(names(&["jobs", "--filter", "failed>0", "-o", "name"]).await.unwrap(), ["crawl"]);
    let nodes = names(&["nodes", "--filter", "level=host n", "--sort=-node", "-o", "name"]).await;
    assert_eq!(nodes.unwrap(), ["n3", "n2", "n1"]);
    let tasks = names(&["tasks", "--filter", "state=failed", "-o", "csv"]).await.unwrap();
    assert_eq!(tasks.len(), 2);
    assert!(tasks[1].starts_with("crawl,m4,failed,1"), "{tasks:?}");
    assert_eq!(
        names(&["workers", "--filter", "!health=healthy", "-o", "name"]).await.unwrap().len(),
        0
    );
    let wrong = names(&["tasks", "--filter", "colour=red"]).await.unwrap_err();
    assert!(wrong[0].contains("there are job, node, under, state, worker, age"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_many_is_said_first() {
    let cell = cell().await;
    let script = cell.script("task", "exec sleep 600");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 4).await;
    let plan = cell.cli(&["kill", "--filter", "node~n"]).await.unwrap();
    assert_eq!(plan[0], "3 tasks: running 3");
    assert_eq!(plan.last().unwrap(), "nothing was done; --yes does it");
    assert_eq!(cell.status().await.counts[&TaskState::Running], 4);
    let done = cell.cli(&["kill", "--filter", "node~n", "--signal=kill", "--yes"]).await.unwrap();
    assert_eq!(done, ["asked for the end of 3 attempts"]);
    cell.wait_for_count(TaskState::Backoff, 3).await;
    cell.wait_for_count(TaskState::Running, 1).await;
    let done = cell.cli(&["forgive", "--filter", "state=backoff", "--yes"]).await.unwrap();
    assert_eq!(done, ["3 tasks forgiven"]);
    cell.wait_for_count(TaskState::Running, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_went_wrong() {
    let cell = cell().await;
    assert_eq!(code(&cell, &["status"]).await, Some(0));
    assert_eq!(code(&cell, &["tasks", "--filter", "x=1"]).await, Some(1));
    assert_eq!(code(&cell, &["kill"]).await, Some(2));
    assert_eq!(code(&cell, &["status", "--nats", "nats://127.0.0.1:1"]).await, Some(3));
    assert_eq!(code(&cell, &["status", "--cell", "other"]).await, Some(3));
    assert_eq!(code(&cell, &["job", "get", "nobody"]).await, Some(4));
    assert_eq!(code(&cell, &["job", "delete", "crawl"]).await, Some(5));
    assert_eq!(code(&cell, &["wait", "crawl", "--timeout", "0"]).await, Some(124));
    assert_eq!(code(&cell, &["console"]).await, Some(1), "there is no terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_what_is_waited_for() {
    let cell = cell().await;
    let script = cell.script("task", "echo done > $2");
    assert_eq!(code(&cell, &["wait", "--until", "idle"]).await, Some(0));
    let waiting = tokio::spawn(cell.cli_command(&["wait", "crawl", "--timeout", "30"]).output());
    let _worker = cell.start_worker("w1", &script).await;
    let ended = waiting.await.expect("it runs").expect("it can be started");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(cell.status().await.counts[&TaskState::Done], 4);
    assert_eq!(code(&cell, &["wait", "nobody"]).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_edited_and_what_was_written_is_never_lost() {
    let cell = cell().await;
    let file = cell.directory.path().join("job.json");
    std::fs::write(&file, r#"{"owner": "me"}"#).expect("a file can be written");
    let create = ["job", "create", "made", file.to_str().expect("UTF-8")];
    cell.cli(&create).await.expect("it is made");
    let edit = async |job: &str, editor: &str| {
        let mut command = cell.cli_command(&["job", "edit", job]);
        command.env("EDITOR", editor).env_remove("VISUAL");
        command.env("TMPDIR", cell.directory.path());
        let output = command.output().await.expect("it can be started");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let (code, said) = edit("made", "sed -i s/me/you/").await;
    assert_eq!(code, Some(0), "{said}");
    let job = cell.cli(&["job", "get", "made"]).await.unwrap().join("\n");
    assert!(job.contains("\"owner\": \"you\""), "{job}");
    assert!(edit("made", "true").await.1.contains("is as it was"));
    let (code, said) = edit("made", "sed -i s/owner/honour/").await;
    assert_eq!(code, Some(1));
    let path = said.split("what you wrote is in ").nth(1).expect("the file is named");
    let path = path.split(".json").next().expect("it ends").to_owned() + ".json";
    assert!(std::fs::read_to_string(path).expect("it is there").contains("honour"), "{said}");
    assert!(edit("crawl", "true").await.1.contains("of the config file"));
    assert_eq!(cell.cli(&["cells"]).await.unwrap(), ["test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_name_cells() {
    let cell = cell().await;
    let home = cell.directory.path().join("home");
    let run = async |args: &[&str]| {
        let mut command = cell.cli_command(args);
        command.env_remove("BISTRO_NATS_URL").env_remove("BISTRO_CELL");
        command.env("XDG_CONFIG_HOME", &home).current_dir(cell.directory.path());
        let output = command.output().await.expect("it can be started");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    assert_ne!(run(&["status"]).await.0, Some(0), "there is no address");
    let url = cell.nats.url().replace("nats://", "nats://me:secret@");
    let set = ["context", "set", "here", "--nats", &url, "--cell", "test"];
    assert_eq!(run(&set).await.0, Some(0));
    assert_eq!(run(&["status"]).await.0, Some(0), "the first one is the current one");
    let (_, list) = run(&["context", "list"]).await;
    assert!(list.contains("* here") && !list.contains("secret"), "{list}");
    assert_eq!(run(&["context", "set", "else", "--nats", "nats://127.0.0.1:1"]).await.0, Some(0));
    assert_eq!(run(&["status", "--context", "else"]).await.0, Some(3));
    assert_eq!(run(&["context", "use", "else"]).await.0, Some(0));
    assert_eq!(run(&["status"]).await.0, Some(3));
    let (code, said) = run(&["status", "--context", "nowhere"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("there are else, here"), "{said}");
    use std::os::unix::fs::PermissionsExt;
    let file = std::fs::metadata(home.join("bistro/contexts.json")).expect("it is there");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_completes_names_of_the_cell() {
    let cell = cell().await;
    let mut command = cell.cli_command(&["--", "bistro", "explain", "cr"]);
    command.env("COMPLETE", "fish");
    let output = command.output().await.expect("it can be started");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().any(|line| line.starts_with("crawl")), "{text}");
    let script = cell.cli(&["completions", "bash"]).await.unwrap();
    assert!(script.iter().any(|line| line.contains("complete")), "{script:?}");
    let pages = cell.directory.path().join("man");
    cell.cli(&["man", pages.to_str().expect("UTF-8")]).await.unwrap();
    assert!(pages.join("bistro-kill.1").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_without_a_terminal_prints_a_view() {
    let cell = cell().await;
    let screen = cell.cli(&["console", "tasks", "--filter", "n2", "--once"]).await.unwrap();
    assert!(screen.iter().any(|line| line.contains("n2  1 of 1")), "{screen:#?}");
    let grid = cell.cli(&["console", "grid", "--once"]).await.unwrap();
    assert!(grid.iter().any(|line| line.contains("1 x 4 = 4")), "{grid:#?}");
    let keys = cell.cli(&["console", "--keys"]).await.unwrap();
    assert!(keys.iter().any(|line| line.starts_with("kill ")), "{keys:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_is_held_to_it_by_the_server() {
    // Who gives no name may do all.
    let name = CellName::new("test").expect("a valid name");
    let viewer = name.viewer_permissions("eve", &verb::READS);
    let users = format!(
        "no_auth_user: all\nauthorization {{ users: [ {{user: all}}, {{user: eve, password: look, \
         {viewer}}} ] }}\n"
    );
    let cell = Cell::on(NatsServer::start_with(&users)).await;
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    let script = cell.script("task", "echo hello; exec sleep 600");
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 4).await;
    let url = cell.nats.url().replace("nats://", "nats://eve:look@");
    let look = async |args: &[&str]| {
        let output = output(&cell, &[args, &["--nats", &url]].concat()).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    for (args, shows) in [
        (&["status"][..], "running 4"),
        (&["tasks"], "crawl"),
        (&["explain", "crawl", "n1"], "running"),
        (&["job", "get", "crawl"], "owner"),
        (&["events"], "task.started"),
        (&["events", "--since=-10m", "-n", "3"], "task.started"),
        (&["logs"], "hello"),
        (&["console", "grid", "--once"], "1 x 4 = 4"),
    ] {
        // What has happened is told a moment later.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (code, text) = look(args).await;
            assert_eq!(code, Some(0), "{args:?}: {text}");
            if text.contains(shows) {
                break;
            }
            assert!(Instant::now() < deadline, "{args:?}: {text}");
        }
    }
    for misspelled in [&["logs", "crawl", "n9"][..], &["logs", "crowl"]] {
        let (code, text) = look(misspelled).await;
        let name = misspelled[misspelled.len() - 1];
        assert!(code == Some(4) && text.contains(name), "{misspelled:?}: {code:?} {text}");
    }
    for change in [&["job", "disable", "crawl"][..], &["kill", "crawl", "n1"]] {
        let (code, text) = look(change).await;
        assert!(code == Some(5) && text.contains("does not let this user"), "{code:?} {text}");
    }
    assert_eq!(cell.status().await.counts[&TaskState::Running], 4, "nothing has happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_is_told_to_deliver_is_no_request() {
    let cell = cell().await;
    let nats = async_nats::connect(cell.nats.url()).await.expect("NATS is there");
    let context = jetstream::new(nats);
    // The scheduler answers a moment before it has made its streams.
    let deadline = Instant::now() + Duration::from_secs(20);
    let stream = loop {
        match context.get_stream(cell.name().events_stream()).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "there is no stream: {error}"),
        }
    };
    // Whoever may read events may have them delivered anywhere, also where they read as a request.
    let config = push::Config {
        deliver_subject: cell.name().api(verb::FORGIVE),
        filter_subject: cell.name().event("audit.forgive"),
        ..push::Config::default()
    };
    stream.create_consumer(config).await.expect("it is allowed");
    cell.cli(&["forgive", "crawl"]).await.expect("it is done");
    cell.cli(&["job", "disable", "crawl"]).await.expect("it is done");
    let audits = async || cell.cli(&["events", "--kind", "audit", "-o", "name"]).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !audits().await.contains(&"audit.job_override".to_owned()) {
        assert!(Instant::now() < deadline, "the change is told");
    }
    assert_eq!(audits().await, ["audit.forgive", "audit.job_override"]);
}
