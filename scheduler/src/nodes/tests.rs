use super::*;
use bistro_core::NodeIx;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

fn settings(sources: &str) -> Settings {
    let text = format!(
        r#"{{"bistro_settings": {{"enabled": true, "resources": {{}}, "nodes": {{
        "levels": ["l1", "l2"], "node_sources": {sources}}}}}}}"#
    );
    let parsed = bistro_common::config::parse(&text);
    parsed.config.unwrap_or_else(|| panic!("{:?}", parsed.problems)).settings
}

async fn fetch_names(sources: &str) -> Result<Vec<String>, NodesError> {
    let forest = fetch(&settings(sources), "root", 0, &mut Scripts::default()).await?;
    Ok((1..forest.node_count() as u32).map(|n| forest.name(NodeIx(n)).to_owned()).collect())
}

/// An executable script in `directory`.
fn script(directory: &Path, body: &str) -> String {
    let path = directory.join("nodes.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn script_source(path: &str, more: &str) -> String {
    format!(
        r#"[{{"source": "script", "prefs": {{"parent_level": "instance", "script": "{path}"{more}}}}}]"#
    )
}

#[tokio::test]
async fn a_manual_tree_keeps_its_order() {
    let sources =
        r#"[{"source": "manual", "prefs": {"n2": ["n21", "n22"], "n1": "n11", "n3": []}}]"#;
    assert_eq!(fetch_names(sources).await.unwrap(), ["n2", "n1", "n3", "n21", "n22", "n11"]);
}

#[tokio::test]
async fn manual_circles_and_depth_are_errors_that_say_so() {
    let circle = fetch_names(r#"[{"source": "manual", "prefs": {"a": ["b"], "b": ["a"]}}]"#).await;
    assert!(circle.unwrap_err().to_string().contains("no top level nodes"));
    let deep = r#"[{"source": "manual", "prefs": {"a": ["b"], "b": ["c"], "c": ["d"]}}]"#;
    let error = fetch_names(deep).await.unwrap_err().to_string();
    assert!(error.contains("would be at level 3 but the maximum is 2"), "{error}");
}

#[tokio::test]
async fn sources_see_what_earlier_ones_made() {
    let sources = r#"[
        {"source": "manual", "prefs": {"h1": [], "h2": []}},
        {"source": "range_label", "prefs": {"parent_level": "l1", "start": 1, "end": 2,
            "format": "{parent}.{i}/{end}"}}]"#;
    assert_eq!(
        fetch_names(sources).await.unwrap(),
        ["h1", "h2", "h1.1/2", "h1.2/2", "h2.1/2", "h2.2/2"]
    );
}

#[tokio::test]
async fn a_script_names_children_and_blank_lines_name_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "echo \"$1-a\"; echo; echo b");
    assert_eq!(fetch_names(&script_source(&path, "")).await.unwrap(), ["root-a", "b"]);
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "sleep 600 & sleep 600");
    let started = Instant::now();
    let more = r#", "timeout_sec": 0.2"#;
    let error = fetch_names(&script_source(&path, more)).await.unwrap_err().to_string();
    assert!(error.contains("did not end within 200 ms"), "{error}");
    assert!(started.elapsed().as_secs() < 60, "it did not wait for the script");
}

#[tokio::test]
async fn a_failing_script_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "echo a; echo 'no database' >&2; exit 3");
    let error = fetch_names(&script_source(&path, "")).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("no database"), "{error}");
    let error = fetch_names(&script_source("/no/such/file", "")).await.unwrap_err().to_string();
    assert!(error.contains("cannot be run"), "{error}");
}

#[tokio::test]
async fn add_time_makes_a_node_per_event_that_is_alive() {
    let sources = r#"[
        {"source": "manual", "prefs": {"a": [], "b": []}},
        {"source": "add_time", "prefs": {"parent_level": "l1", "time_zone": "Europe/Berlin",
            "schedule": [{"lifetime": 7200, "enabled_lifetime": 3600, "tags": ["hourly"],
                "cron": {"minute": 0, "dst_fixes": ["skip", "repeat_use_both"]}}]}}
    ]"#;
    let forest = fetch(&settings(sources), "root", 10_000, &mut Scripts::default()).await.unwrap();
    let nodes = forest.level(2).map(|node| NodeIx(node as u32));
    let nodes: Vec<_> =
        nodes.map(|n| (forest.name(n), forest.is_enabled(n), forest.tags(n).len())).collect();
    let want =
        [("a:3600", false, 1), ("a:7200", true, 1), ("b:3600", false, 1), ("b:7200", true, 1)];
    assert_eq!(nodes, want);
    let nowhere = sources.replace("Europe/Berlin", "Nowhere/At_All");
    let error = fetch(&settings(&nowhere), "root", 0, &mut Scripts::default()).await.unwrap_err();
    assert!(error.to_string().contains("no time zone \"Nowhere/At_All\""), "{error}");
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_event_a_second_time() {
    let sources = r#"[
        {"source": "manual", "prefs": {"a": []}},
        {"source": "add_time", "prefs": {"parent_level": "l1", "time_zone": "Europe/Berlin",
            "schedule": [{"lifetime": 7200,
                "cron": {"minute": 0, "dst_fixes": ["skip", "repeat_use_both"]}}]}}
    ]"#;
    let names_at = async |now| {
        let forest = fetch(&settings(sources), "root", now, &mut Scripts::default()).await.unwrap();
        forest.level(2).map(|n| forest.name(NodeIx(n as u32)).to_owned()).collect::<Vec<_>>()
    };
    // A node is named after its event, not after the moment when it was made.
    let (before, back) = (names_at(10_900).await, names_at(10_900 - 3_600).await);
    assert_eq!(names_at(10_900).await, before);
    assert_eq!(names_at(10_700).await.last(), back.last(), "{before:?} {back:?}");
    assert!(before.contains(back.last().unwrap()), "{before:?} {back:?}");
}

#[tokio::test]
async fn a_script_is_asked_again_after_its_period_and_what_it_said_last_holds_while_it_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "echo a");
    let settings = settings(&script_source(&path, ""));
    let mut scripts = Scripts::default();
    let mut nodes = async || {
        let forest = fetch(&settings, "root", 0, &mut scripts).await.unwrap();
        let names = (1..forest.node_count() as u32).map(|n| forest.name(NodeIx(n)).to_owned());
        let (names, problems) = (names.collect::<Vec<_>>(), scripts.take_problems());
        scripts.expire();
        (names, problems.len())
    };
    assert_eq!(nodes().await, (vec!["a".to_owned()], 0));
    script(directory.path(), "exit 3");
    assert_eq!(nodes().await, (vec!["a".to_owned()], 1));
    script(directory.path(), "echo b");
    assert_eq!(nodes().await, (vec!["b".to_owned()], 0));
    let mut scripts = Scripts::default();
    for _ in 0..2 {
        fetch(&settings, "root", 0, &mut scripts).await.unwrap();
        script(directory.path(), "exit 3");
    }
    assert_eq!(scripts.take_problems(), Vec::<String>::new(), "not asked within its period");
}

#[tokio::test]
async fn a_file_lists_names_or_a_tree_and_holds_while_it_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nodes");
    let text = format!(r#"[{{"source": "file", "prefs": {{"path": "{}"}}}}]"#, path.display());
    let settings = settings(&text);
    let mut scripts = Scripts::default();
    let mut nodes = async || {
        let forest = fetch(&settings, "root", 0, &mut scripts).await?;
        let names = (1..forest.node_count() as u32).map(|n| forest.name(NodeIx(n)).to_owned());
        Ok::<_, NodesError>((names.collect::<Vec<_>>(), scripts.take_problems().len()))
    };
    assert!(nodes().await.unwrap_err().to_string().contains("cannot be read"));
    for (content, names, problems) in [
        ("a\n\n b \n", &["a", "b"][..], 0),
        (r#"["c"]"#, &["c"], 0),
        (r#"{"d": ["d1"], /* and */ "e": {"disabled": true},}"#, &["d", "e", "d1"], 0),
        (r#"{"d": ["d1"}"#, &["d", "e", "d1"], 1),
        ("[1]", &["d", "e", "d1"], 1),
    ] {
        std::fs::write(&path, content).unwrap();
        let (got, failed) = nodes().await.unwrap();
        assert_eq!((got, failed), (names.iter().map(|&n| n.to_owned()).collect(), problems));
    }
}
