//! `:` finds commands, jobs, workers and other cells by some of their letters, and shows the command line that
//! does the same.

use super::keys::Key;
use super::state::{Elsewhere, State, View};
use super::update::{command_of_view, questions};
use crate::client::command_line::shell;

/// More matches are not of use.
const SHOWN_MAX: usize = 200;

/// The entries stay as they are while somebody chooses among them, whatever comes meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub struct Palette {
    pub text: String,
    pub cursor: usize,
    pub entries: Vec<Entry>,
}

impl Palette {
    pub fn new(state: &State) -> Self {
        Self::find(state, String::new())
    }

    /// What fits to what is typed now.
    pub fn find(state: &State, text: String) -> Self {
        Self { entries: entries(state, &text), text, cursor: 0 }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub title: String,
    /// The same on the command line.
    pub command: String,
    pub pick: Pick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Pick {
    Press(Key),
    Job(String),
    Worker(String),
    Tasks(String),
    Elsewhere(Elsewhere),
}

/// What fits best to what was typed comes first.
fn entries(state: &State, typed: &str) -> Vec<Entry> {
    let mut scored: Vec<(i32, Entry)> =
        all(state).filter_map(|entry| Some((score(&entry.title, typed)?, entry))).collect();
    scored.sort_by_key(|(score, _)| -score);
    let mut entries: Vec<Entry> =
        scored.into_iter().map(|(_, entry)| entry).take(SHOWN_MAX).collect();
    if !typed.is_empty() {
        let command = ["bistro", "tasks", "--filter", typed].map(str::to_owned);
        let title = format!("tasks {typed}");
        let pick = Pick::Tasks(typed.to_owned());
        entries.push(Entry { title, command: shell(&command), pick });
    }
    entries
}

fn all(state: &State) -> impl Iterator<Item = Entry> + '_ {
    let views = View::TABS.iter().copied().map(|view| Entry {
        title: format!("view {}", view.title().to_lowercase()),
        command: command_of_view(state, view).map(|words| shell(&words)).unwrap_or_default(),
        pick: Pick::Press(Key::Go(view)),
    });
    let keys = state.keymap.in_view(state.view).filter(|b| !matches!(b.key, Key::Go(_)));
    let commands = keys.map(|binding| {
        let question = questions::about(state, binding.key);
        Entry {
            title: format!("{}: {}", binding.name, binding.help),
            command: question.map(|q| q.action.shell()).unwrap_or_default(),
            pick: Pick::Press(binding.key),
        }
    });
    let jobs = state.jobs.rows.iter().map(|row| Entry {
        title: format!("job {}", row.job),
        command: shell(&["bistro", "job", "get", &row.job].map(str::to_owned)),
        pick: Pick::Job(row.job.clone()),
    });
    let workers = state.workers.rows.iter().map(|row| Entry {
        title: format!("worker {}", row.worker),
        command: shell(&["bistro", "tasks", "--worker", &row.worker].map(str::to_owned)),
        pick: Pick::Worker(row.worker.clone()),
    });
    let contexts = state.contexts.iter().map(|context| Entry {
        title: format!("context {context}"),
        command: shell(&["bistro", "console", "--context", context].map(str::to_owned)),
        pick: Pick::Elsewhere(Elsewhere::Context(context.clone())),
    });
    let cells = state.cells.iter().flatten().map(|cell| Entry {
        title: format!("cell {cell}"),
        command: shell(&["bistro", "console", "--cell", cell].map(str::to_owned)),
        pick: Pick::Elsewhere(Elsewhere::Cell(cell.clone())),
    });
    views.chain(commands).chain(jobs).chain(workers).chain(contexts).chain(cells)
}

/// How well all letters are found in order; letters in a row and at the start of words count more.
fn score(title: &str, typed: &str) -> Option<i32> {
    let title: Vec<char> = title.to_lowercase().chars().collect();
    let (mut at, mut score, mut last) = (0, 0, None);
    for wanted in typed.to_lowercase().chars().filter(|c| !c.is_whitespace()) {
        let found = at + title[at..].iter().position(|&c| c == wanted)?;
        let starts_word = found == 0 || !title[found - 1].is_alphanumeric();
        score += 1 + 4 * i32::from(last == Some(found)) + 3 * i32::from(starts_word);
        at = found + 1;
        last = Some(at);
    }
    // Of two that fit as well, the shorter one is meant.
    Some(score * 100 - title.len() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_in_a_row_and_at_the_start_of_words_count_more() {
        let best = |typed: &str, titles: &[&'static str]| {
            titles.iter().copied().max_by_key(|title| score(title, typed)).unwrap()
        };
        assert_eq!(
            best("kill", &["keep it all", "kill: kill the attempt"]),
            "kill: kill the attempt"
        );
        assert_eq!(best("vg", &["view jobs", "view grid"]), "view grid");
        assert_eq!(best("job a", &["job abc", "job xya"]), "job abc");
        assert_eq!(score("view grid", "gv"), None);
        assert!(score("anything", "").is_some());
    }
}
