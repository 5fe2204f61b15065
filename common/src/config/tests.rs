use super::*;
use crate::protocol::api::Severity;

const SMALLEST: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["level1", "level2"],
      "node_sources": [
        {
          "source": "manual",
          "prefs": {
            "node1": ["node11", "node12"],
            "node2": ["node21", "node22"]
          }
        }
      ]
    },
    "resources": {
      "instance": {"concurrency": {"limit": 3, "default": 1}}
    }
  },
  "bistro_job->test": {"owner": "me"}
}"#;

fn reports(text: &str) -> Vec<String> {
    let source = Source { file: "f.json", text };
    parse(text).problems.iter().map(|p| source.report(p).to_string()).collect()
}

#[test]
fn the_originals_smallest_config_has_no_problems() {
    let parsed = parse(SMALLEST);
    assert_eq!(parsed.problems, []);
    let config = parsed.config.expect("usable");
    assert_eq!(config.settings.levels, ["instance", "level1", "level2", "worker"]);
    assert_eq!(config.jobs[0].level, 2);
    assert!(config.jobs[0].can_run());
}

#[test]
fn comments_and_trailing_commas_are_allowed_and_looser_json_is_not() {
    let text = SMALLEST.replace("\"owner\": \"me\"", "/* who */ \"owner\": \"me\", // end\n");
    assert_eq!(parse(&text).problems, []);
    for bad in ["{'a': 1}", "{a: 1}", "{\"a\": 1 \"b\": 2}", "{\"a\": 0x10}", "", "[1, 2]"] {
        let parsed = parse(bad);
        assert!(parsed.config.is_none(), "{bad}");
        assert_eq!(parsed.problems[0].severity, Severity::Error, "{bad}");
    }
}

#[test]
fn a_syntax_error_has_a_place() {
    let text = SMALLEST.replace("\"enabled\": true,", "\"enabled\": true");
    let reports = reports(&text);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports, ["f.json:3:20: error: Expected comma"]);
}

#[test]
fn an_error_in_the_settings_refuses_the_file_and_names_the_key() {
    let text = SMALLEST.replace("\"limit\": 3", "\"limit\": \"three\"");
    assert!(parse(&text).config.is_none());
    assert_eq!(
        reports(&text),
        ["f.json:17:45: error: bistro_settings.resources.instance.concurrency.limit: \
          expected a whole number, found the string \"three\""]
    );
}

#[test]
fn unknown_keys_are_warnings_with_a_suggestion() {
    let text = SMALLEST.replace("\"owner\": \"me\"", "\"owner\": \"me\", \"pririty\": 2");
    assert!(parse(&text).config.is_some());
    assert_eq!(
        reports(&text),
        ["f.json:20:39: warning: bistro_job->test.pririty: unknown key \"pririty\" is ignored \
          (did you mean \"priority\"?)"]
    );
}

#[test]
fn a_broken_job_is_kept_and_cannot_run() {
    let text = SMALLEST.replace(
        "\"owner\": \"me\"",
        r#""priority": 7, "resources": {"concurency": 2}, "config": 3, "backoff": [2, 1]"#,
    );
    let config = parse(&text).config.expect("the settings are fine");
    let job = &config.jobs[0];
    assert_eq!(job.priority, 7.0);
    assert_eq!(job.backoff, crate::status::Backoff::default());
    assert!(!job.can_run());
    let messages: Vec<_> = job.errors.iter().map(|e| e.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the key \"owner\" is missing",
            "Unknown identifier",
            "Must be an object",
            "backoff times must be in increasing order: 1 comes after 2",
        ]
    );
    assert_eq!(
        job.errors[1].hint.as_deref(),
        Some("\"concurency\" is not known; did you mean \"concurrency\"?")
    );
}

#[test]
fn scalars_convert_where_nothing_is_lost() {
    let text = SMALLEST
        .replace("\"enabled\": true", "\"enabled\": \"yes\"")
        .replace("\"limit\": 3", "\"limit\": \"3\"")
        .replace("\"owner\": \"me\"", "\"owner\": 7, \"enabled\": \"Off\", \"priority\": \"2.5\"");
    let parsed = parse(&text);
    assert_eq!(parsed.problems, []);
    let config = parsed.config.expect("usable");
    assert_eq!(config.jobs[0].owner, "7");
    assert_eq!(config.jobs[0].priority, 2.5);
    assert!(!config.jobs[0].enabled);
    assert!(parse(&SMALLEST.replace("\"limit\": 3", "\"limit\": 3.5")).config.is_none());
}

#[test]
fn dependencies_that_never_resolve_are_warnings() {
    let jobs = r#""bistro_job->a": {"owner": "o", "depends_on": ["b"]},
        "bistro_job->b": {"owner": "o", "depends_on": ["a", "nobody"]},
        "bistro_job->test""#;
    let reports = reports(&SMALLEST.replace("\"bistro_job->test\"", jobs));
    assert_eq!(reports.len(), 3, "{reports:#?}");
    assert!(reports[0].contains("in a circle"), "{reports:#?}");
    assert!(
        reports
            .iter()
            .any(|r| r.contains("waits for \"nobody\", which is not a job of the config")),
        "{reports:#?}"
    );
}

#[test]
fn a_manual_node_is_disabled_only_by_true() {
    let text = SMALLEST.replace(
        "\"node1\": [\"node11\", \"node12\"]",
        r#""node1": {"children": "node11", "disabled": false}, "node11": {"disabled": true}"#,
    );
    let config = parse(&text).config.expect("usable");
    let NodeSource::Manual { nodes } = &config.settings.node_sources[0] else {
        panic!("manual source");
    };
    assert_eq!(nodes[0].children, ["node11"]);
    assert_eq!((nodes[0].enabled, nodes[1].enabled), (true, false));
}

#[test]
fn formats_expand() {
    let values = std::collections::BTreeMap::from([("parent", "h"), ("i", "3")]);
    assert_eq!(expand_format("{parent}.{i}{{}}", &values).as_deref(), Ok("h.3{}"));
    assert!(expand_format("{who}", &values).is_err());
    assert!(expand_format("{parent", &values).is_err());
    assert!(expand_format("a}b", &values).is_err());
}

#[test]
fn an_excerpt_points_at_the_value() {
    let text = "{\n  \"bistro_settings\": 3\n}";
    let parsed = parse(text);
    let source = Source { file: "f.json", text };
    let excerpt = source.excerpt(&parsed.problems[0]).expect("has a place");
    assert_eq!(excerpt, "  |\n2 |   \"bistro_settings\": 3\n  |                      ^");
}

#[test]
fn no_text_makes_the_parser_panic() {
    // Cut the file at every byte, and overwrite every byte with a bracket.
    for cut in 0..SMALLEST.len() {
        let text = String::from_utf8_lossy(&SMALLEST.as_bytes()[..cut]).into_owned();
        let source = Source { file: "f", text: &text };
        for problem in parse(&text).problems {
            source.report(&problem);
            source.excerpt(&problem);
        }
        let mut bytes = SMALLEST.as_bytes().to_vec();
        bytes[cut] = b'[';
        parse(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn several_files_are_one_config() {
    let jobs = r#"{"bistro_job->more": {"owner": "o", "depends_on": ["test"]}}"#;
    let parsed = parse_files(&[SMALLEST, jobs]);
    assert_eq!(parsed.problems, [vec![], vec![]]);
    let config = parsed.config.expect("usable");
    let names: Vec<_> = config.jobs.iter().map(|job| &*job.name).collect();
    assert_eq!(names, ["test", "more"]);
    let messages = |texts: &[&str]| {
        let parsed = parse_files(texts);
        let problems = parsed.problems.into_iter();
        let of_file = |of: Vec<Problem>| of.into_iter().map(|p| p.message).collect::<Vec<_>>();
        (parsed.config.is_some(), problems.map(of_file).collect::<Vec<_>>())
    };
    let twice = r#"{"bistro_job->test": {"owner": "o"}}"#;
    let (usable, problems) = messages(&[SMALLEST, twice]);
    assert!(usable && problems[0].is_empty());
    assert_eq!(problems[1], ["the job \"test\" is in another file already"]);
    let (usable, problems) = messages(&[SMALLEST, SMALLEST]);
    assert!(!usable && problems[1] == ["the settings are in another file already"]);
    let (usable, problems) = messages(&[SMALLEST, "{"]);
    assert!(!usable && problems[0].is_empty() && problems[1].len() == 1);
    assert!(!messages(&[jobs]).0 && !messages(&[]).0);
}

#[test]
fn what_a_task_is_put_under_is_exported_as_it_is_given() {
    let under = r#"{"user": "backup", "umask": "027", "rlimits": {"nofile": 77}}"#;
    let job = format!(r#""owner": "me", "task_subprocess": {under}"#);
    let parsed = parse(&SMALLEST.replace(r#""owner": "me""#, &job));
    assert_eq!(parsed.problems, []);
    let config = parsed.config.expect("usable");
    let exported = &config.jobs[0].export(&config.settings)["task_subprocess"];
    let given: serde_json::Value = serde_json::from_str(under).expect("JSON");
    for key in ["user", "umask", "rlimits"] {
        assert_eq!(exported[key], given[key]);
    }
}
