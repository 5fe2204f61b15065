//! Random walks: any keys, any news, any size. Nothing breaks, and what actions are about is always
//! what a plain model says is under the cursor.

use super::*;
use bistro_common::ids::AttemptId;

/// A list of running tasks as the server has it, and the row that the cursor is on.
struct Model {
    rows: Vec<(String, u8)>,
    at: usize,
    /// The user has put the cursor there; false once that row is gone.
    chosen: bool,
}

impl Model {
    fn moved(&mut self, by: isize) {
        self.at = self.at.saturating_add_signed(by).min(self.rows.len().saturating_sub(1));
        self.chosen = true;
    }

    fn news(&mut self, rows: Vec<(String, u8)>) {
        let on = self.rows.get(self.at).map(|row| row.0.clone());
        self.rows = rows;
        match self.rows.iter().position(|row| Some(&row.0) == on.as_ref()) {
            Some(at) => self.at = at,
            None => {
                self.at = self.at.min(self.rows.len().saturating_sub(1));
                // Of an empty list nothing was chosen.
                self.chosen &= on.is_none();
            }
        }
    }

    fn target(&self) -> Option<u8> {
        self.rows.get(self.at).filter(|_| self.chosen).map(|row| row.1)
    }
}

fn rows(tasks: &[(String, u8)]) -> Value {
    tasks.iter().map(|(node, attempt)| running_task(node, *attempt)).collect()
}

fn attempt_of(command: Option<Command>) -> Option<AttemptId> {
    match command {
        Some(Command::Act(Action::Kill { attempt, .. })) => Some(attempt),
        _ => None,
    }
}

/// Tasks by number, each with one of two attempts.
fn tasks() -> impl Strategy<Value = Vec<(String, u8)>> {
    let numbers = prop::sample::subsequence((0u8..8).collect::<Vec<_>>(), 0..=8).prop_shuffle();
    let again = prop::collection::vec(any::<bool>(), 8);
    (numbers, again).prop_map(|(numbers, again)| {
        let of = |n: &u8| (format!("db{n}"), n * 2 + u8::from(again[usize::from(*n)]));
        numbers.iter().map(of).collect()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Move(bool),
    News(Vec<(String, u8)>),
    /// Asked, then other news, then confirmed.
    Kill(Vec<(String, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<bool>().prop_map(Step::Move),
        3 => tasks().prop_map(Step::News),
        2 => tasks().prop_map(Step::Kill),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// About ten thousand kills, while rows come, go, start again and change places.
    #[test]
    fn a_kill_never_hits_what_the_user_has_not_chosen(steps in steps()) {
        let mut state = show(View::Tasks);
        let first: Vec<_> = (0..5).map(|n| (format!("db{n}"), n * 2)).collect();
        let mut model = Model { rows: first.clone(), at: 0, chosen: true };
        state.tasks = Default::default();
        take_tasks(&mut state, rows(&first));
        for step in steps {
            match step {
                Step::Move(down) => {
                    press(&mut state, if down { KeyCode::Down } else { KeyCode::Up });
                    model.moved(if down { 1 } else { -1 });
                }
                Step::News(tasks) => {
                    take_tasks(&mut state, rows(&tasks));
                    model.news(tasks);
                }
                Step::Kill(meanwhile) => {
                    press(&mut state, KeyCode::Char('K'));
                    let target = model.target();
                    prop_assert_eq!(state.confirm.is_some(), target.is_some());
                    let shown = screen(&state);
                    take_tasks(&mut state, rows(&meanwhile));
                    model.news(meanwhile);
                    if let Some(target) = target {
                        press(&mut state, KeyCode::Tab);
                        let killed = attempt_of(press(&mut state, KeyCode::Enter)).unwrap();
                        let end = format!("{target:02}");
                        prop_assert!(killed.to_string().ends_with(&end));
                        prop_assert!(shown.contains(&killed.to_string()), "{}", shown);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_keys_no_news_and_no_size_break_it(
        steps in prop::collection::vec((0usize..200, 1u16..500, 1u16..200, any::<bool>()), 1..60)
    ) {
        let mut state = filled();
        let bound = state.keymap.bindings.iter().flat_map(|binding| binding.codes.clone());
        let mut codes: Vec<KeyCode> = bound.collect();
        codes.extend("ab1=~/\"!<é ".chars().map(KeyCode::Char));
        codes.push(KeyCode::Backspace);
        for (key, width, height, news) in steps {
            update(&mut state, Message::Resize(width, height));
            press(&mut state, codes[key % codes.len()]);
            if news {
                fill_lists(&mut state);
                show_logs(&mut state);
                let more = Message::LogLines(state.logs.query.clone(), vec![log_line(9, "stdout", "more", 0)]);
                update(&mut state, more);
            }
            screen(&state);
            state.quit = false;
        }
        for view in View::ALL {
            state.view = view;
            screen(&state);
        }
    }
}
