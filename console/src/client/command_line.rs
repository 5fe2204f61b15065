//! The command line that does what the console does: every action has one, and every view.

use bistro_common::protocol::api::BulkAction;
use bistro_common::protocol::task::{Kill, KillMethod};

use super::actions::Action;

impl Action {
    /// What does the same in a shell.
    pub fn shell(&self) -> String {
        match self {
            Self::Each(actions) => actions.iter().map(Self::shell).collect::<Vec<_>>().join("; "),
            one => shell(&one.command()),
        }
    }

    /// The command that does the same, of one action.
    fn command(&self) -> Vec<String> {
        let (verb, names, options): (&[&str], Vec<&str>, Vec<String>) = match self {
            Self::Kill { job, node, kill, .. } => (&["kill"], vec![job, node], kill_options(*kill)),
            Self::Forgive { job, node } => {
                (&["forgive"], [job].into_iter().chain(node).map(String::as_str).collect(), vec![])
            }
            Self::Apply { action, filter, kill, .. } => {
                let verb: &[&str] = match action {
                    BulkAction::Kill => &["kill"],
                    BulkAction::Forgive => &["forgive"],
                };
                let all = vec![format!("--filter={filter}"), "--yes".to_owned()];
                (verb, vec![], [all, kill_options(*kill)].concat())
            }
            Self::Enable { job, on: true } => (&["job", "enable"], vec![job], vec![]),
            Self::Enable { job, on: false } => (&["job", "disable"], vec![job], vec![]),
            Self::Prioritize { job, priority } => {
                let mut command = words(&["job", "set-priority"], &[job], vec![]);
                command.push(priority.to_string());
                return command;
            }
            Self::Reset { job, overrides, version_id } => {
                let enabled = overrides.enabled.map(|on| format!("--enabled={on}"));
                let priority = overrides.priority.map(|number| format!("--priority={number}"));
                let version = version_id.map(|version| format!("--version={version}"));
                let options = [enabled, priority, version].into_iter().flatten().collect();
                (&["job", "reset"], vec![job], options)
            }
            Self::Submit { job, words: given, .. } => {
                let name = vec![format!("--name={job}")];
                (&["submit"], vec![], [name, given.clone()].concat())
            }
            Self::Drain { worker, on: true } => (&["worker", "drain"], vec![worker], vec![]),
            Self::Drain { worker, on: false } => (&["worker", "resume"], vec![worker], vec![]),
            Self::Forget { worker, fenced } => {
                let fenced = fenced.then(|| "--i-have-fenced-it".to_owned());
                (&["worker", "forget"], vec![worker], fenced.into_iter().collect())
            }
            Self::Each(_) => return Vec::new(),
        };
        words(verb, &names, options)
    }
}

/// A command line of ours. No name is taken for an option, however it begins.
pub fn words(verb: &[&str], names: &[&str], options: Vec<String>) -> Vec<String> {
    let mut words: Vec<String> = ["bistro"].iter().chain(verb).map(|w| (*w).to_owned()).collect();
    words.extend(options);
    if names.iter().any(|name| name.starts_with('-')) {
        words.push("--".to_owned());
    }
    words.extend(names.iter().map(|name| (*name).to_owned()));
    words
}

fn kill_options(kill: Option<Kill>) -> Vec<String> {
    let Some(Kill { method, wait_ms }) = kill else { return Vec::new() };
    match method {
        KillMethod::Term => vec!["--signal=term".to_owned()],
        KillMethod::Kill => vec!["--signal=kill".to_owned()],
        KillMethod::TermWaitKill => vec![
            "--signal=term-wait-kill".to_owned(),
            format!("--grace={}", wait_ms.div_ceil(1_000)),
        ],
    }
}

/// A command as it is typed into a shell.
pub fn shell(words: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,~@%+".contains(c);
    // At the start of a word a shell means something by these.
    let bare = |word: &String| !word.starts_with(['~', '=']) && word.chars().all(plain);
    let quoted = words.iter().map(|word| match !word.is_empty() && bare(word) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::ids::AttemptId;
    use bistro_common::protocol::job::Overrides;
    use clap::Parser;
    use serde_json::Map;

    fn all() -> Vec<Action> {
        // As bad as a name can be.
        let name = || "--yes it's".to_owned();
        let wait = Kill { method: KillMethod::TermWaitKill, wait_ms: 5_000 };
        let kills = [None, Some(wait), Some(Kill { method: KillMethod::Kill, wait_ms: 0 })];
        let plan = |action, kill| Action::Apply {
            action,
            filter: "job=a state=failed".to_owned(),
            plan: "1-1".to_owned(),
            kill,
        };
        let mut all = vec![
            Action::Forgive { job: name(), node: None },
            Action::Forgive { job: name(), node: Some(name()) },
            plan(BulkAction::Kill, Some(wait)),
            plan(BulkAction::Forgive, None),
            Action::Enable { job: name(), on: true },
            Action::Enable { job: name(), on: false },
            Action::Prioritize { job: name(), priority: -2.5 },
            Action::Reset { job: name(), overrides: Overrides::default(), version_id: None },
            Action::Reset {
                job: name(),
                overrides: Overrides { enabled: Some(false), priority: Some(-1.5) },
                version_id: Some(7),
            },
            Action::Submit {
                job: name(),
                definition: Map::new(),
                words: ["--retries=3", "--", "ls", "-l"].map(str::to_owned).to_vec(),
            },
            Action::Drain { worker: name(), on: true },
            Action::Drain { worker: name(), on: false },
            Action::Forget { worker: name(), fenced: true },
        ];
        all.extend(kills.map(|kill| Action::Kill {
            job: name(),
            node: name(),
            attempt: AttemptId::generate(),
            kill,
        }));
        all
    }

    #[test]
    fn every_action_of_the_console_is_a_command_too() {
        let check = |text: &str| {
            let command = shell_words::split(text).unwrap();
            let parsed = crate::args::Args::try_parse_from(&command);
            assert!(parsed.is_ok(), "{command:?}: {}", parsed.unwrap_err());
        };
        all().iter().for_each(|action| check(&action.shell()));
        let each = Action::of_all(all()).unwrap().shell();
        assert_eq!(each.split("; ").map(check).count(), all().len());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let words = ["bistro", "kill", "it's", "db1", "", "a b", "~x", "a~x"].map(str::to_owned);
        assert_eq!(shell(&words), "bistro kill 'it'\\''s' db1 '' 'a b' '~x' a~x");
    }
}
