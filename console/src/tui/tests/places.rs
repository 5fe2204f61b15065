//! Places and the ways between them, marks, and what the mouse does.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::*;
use crate::tui::grid::Subtree;
use crate::tui::memory::Memory;
use crate::tui::route::Route;
use crate::tui::state::Elsewhere;

fn route(text: &str) -> Route {
    text.parse().unwrap()
}

fn press_char(state: &mut State, c: char) -> Option<Command> {
    press(state, KeyCode::Char(c))
}

#[test]
fn the_way_back_leads_through_the_places_as_they_were() {
    let mut state = show(View::Nodes);
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.route(), route("/tasks?filter=under%3Dhost1"));
    take_tasks(&mut state, json!([running_task("db1", 1)]));
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.route(), route("/task/scrape/db1"));
    press_char(&mut state, 'l');
    assert_eq!(state.route(), route("/logs?job=scrape&node=db1"));
    state.size.0 = 160;
    let shown = screen(&state);
    assert!(shown.contains("Tasks under=host1 > Task scrape on db1 >"), "{shown}");
    // Round to where the way began: it begins there again.
    press_char(&mut state, '3');
    assert_eq!(state.back, [route("/jobs")]);
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Enter);
    for back in ["/tasks?filter=under%3Dhost1", "/nodes", "/jobs"] {
        press(&mut state, KeyCode::Esc);
        assert_eq!(state.route().to_string(), back);
    }
}

#[test]
fn every_place_has_a_link_that_leads_to_it() {
    for view in View::ALL {
        let mut state = show(view);
        let Some(Command::Copy(command)) = press_char(&mut state, 'Y') else {
            panic!("{view:?} has a link");
        };
        let words = shell_words::split(&command).unwrap();
        assert_eq!(words[..2], ["bistro", "console"]);
        let mut other = filled();
        other.show(route(&words[2]));
        assert_eq!((other.view, other.route()), (view, state.route()));
    }
}

#[test]
fn what_is_below_a_node_is_a_grid_of_its_own() {
    let mut state = show(View::Nodes);
    press_char(&mut state, 'c');
    assert_eq!(state.route(), route("/grid?under=host1"));
    let wanted = state.wants().subtree.unwrap();
    let spans = from(json!({"db": {"first": 2, "count": 2}}));
    update(&mut state, Message::Subtree(Subtree { spans, ..wanted }));
    let shown = screen(&state);
    assert!(
        shown.contains("2 x 2 below host1") && shown.contains("scrape on db3: failed"),
        "{shown}"
    );
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.view, View::Nodes);
}

#[test]
fn marked_rows_are_what_actions_are_about_in_sight_or_not() {
    let mut state = show(View::Tasks);
    press_char(&mut state, 'm');
    press_char(&mut state, 'm');
    press(&mut state, KeyCode::Up);
    assert!(screen(&state).contains("2 marked"), "{}", screen(&state));
    // Other rows, and one of the marked ones runs again.
    take_tasks(&mut state, json!([running_task("db2", 7), running_task("db5", 5)]));
    assert!(screen(&state).contains("2 marked, 1 out of sight"), "{}", screen(&state));
    press_char(&mut state, 'K');
    let shown = screen(&state);
    assert!(shown.contains("scrape on db1 #2") && shown.contains("hidden   1"), "{shown}");
    press(&mut state, KeyCode::Tab);
    let confirmed = press(&mut state, KeyCode::Enter);
    let Some(Command::Act(Action::Each(each))) = confirmed else {
        panic!("both are killed");
    };
    let attempts = each.iter().map(|action| match action {
        Action::Kill { attempt, .. } => attempt.to_string(),
        other => panic!("{other:?}"),
    });
    let ends: Vec<String> = attempts.map(|attempt| attempt[34..].to_owned()).collect();
    assert_eq!(ends, ["01", "02"], "the attempts that were marked, and no later ones");
    assert_eq!(state.marks(), 0);
}

#[test]
fn a_single_mark_that_is_not_under_the_cursor_says_so() {
    let mut state = show(View::Jobs);
    press_char(&mut state, 'm');
    press_char(&mut state, 'D');
    let shown = screen(&state);
    assert!(shown.contains("marked   1 jobs") && shown.contains("scrape: 12 tasks"), "{shown}");
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.marks(), 1, "nothing was done");
    press(&mut state, KeyCode::Esc);
    assert_eq!((state.marks(), state.view), (0, View::Jobs));
}

#[test]
fn a_marked_job_is_as_it_is_now_and_the_editor_is_about_the_cursor() {
    let mut state = show(View::Jobs);
    press_char(&mut state, 'm');
    assert_eq!(press_char(&mut state, 'E'), Some(Command::Edit("backup".to_owned())));
    // Somebody else disables the marked one meanwhile.
    let mut disabled = job("scrape");
    disabled["enabled"] = json!(false);
    let request = state.jobs.request();
    let rows = json!([disabled, job("backup")]);
    update(&mut state, Message::Jobs(request, Ok(listing(rows))));
    press_char(&mut state, 'D');
    let shown = screen(&state);
    assert!(shown.contains("Let tasks be started by these?"), "{shown}");
}

#[test]
fn a_command_is_submitted_as_it_is_typed_or_it_is_said_what_is_wrong() {
    let mut state = show(View::Jobs);
    press_char(&mut state, 'S');
    type_text(&mut state, "--retries x -- true");
    assert_eq!(press(&mut state, KeyCode::Enter), None);
    assert!(screen(&state).contains("no command to submit: invalid value"), "{}", screen(&state));
    press_char(&mut state, 'S');
    type_text(&mut state, "--name nightly -- backup.sh 'db 17'");
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Tab);
    let confirmed = press(&mut state, KeyCode::Enter);
    let Some(Command::Act(Action::Submit { job, definition, .. })) = confirmed else {
        panic!("it is submitted");
    };
    assert_eq!((job.as_str(), &definition["command"]), ("nightly", &json!(["backup.sh", "db 17"])));
}

#[test]
fn another_cell_is_a_choice_of_the_palette() {
    let mut state = show(View::Jobs);
    state.contexts = vec!["prod".to_owned()];
    state.cells = Some(Vec::new());
    press_char(&mut state, ':');
    assert!(state.wants().cells);
    update(&mut state, Message::Cells(vec!["eu".to_owned(), "main".to_owned()]));
    assert_eq!(state.cells, Some(vec!["eu".to_owned()]), "this one is no choice");
    type_text(&mut state, "cell eu");
    press(&mut state, KeyCode::Enter);
    assert_eq!((state.quit, &state.elsewhere), (true, &Some(Elsewhere::Cell("eu".to_owned()))));
}

#[test]
fn a_console_is_found_as_it_was_left() {
    let mut state = show(View::Tasks);
    press_char(&mut state, 'f');
    press_char(&mut state, 's');
    state.logs.wrap = true;
    let left = serde_json::to_string(&Memory::of(&state)).unwrap();
    let mut again = empty();
    from::<Memory>(serde_json::from_str(&left).unwrap()).recall(&mut again);
    assert_eq!(again.route(), state.route());
    assert!(again.logs.wrap && again.logs.times);
    // What was left by another version, or by nobody, is no trouble.
    let odd: Memory = from(json!({"place": "/nowhere", "sorts": {"x": "y"}}));
    let mut fresh = empty();
    odd.recall(&mut fresh);
    assert_eq!(fresh.view, View::Jobs);
}

fn click(state: &mut State, column: u16, row: u16) {
    let (kind, modifiers) = (MouseEventKind::Down(MouseButton::Left), KeyModifiers::NONE);
    assert_eq!(update(state, Message::Mouse(MouseEvent { kind, column, row, modifiers })), None);
}

#[test]
fn the_mouse_chooses_and_never_confirms() {
    let mut state = show(View::Tasks);
    click(&mut state, 5, 6);
    assert_eq!(state.tasks.cursor, 1);
    click(&mut state, 5, 6);
    assert_eq!(state.route(), route("/task/scrape/db2"));
    let tabs = screen(&state).lines().nth(2).unwrap().to_owned();
    click(&mut state, tabs.find('2').unwrap() as u16, 2);
    assert_eq!(state.view, View::Grid);
    click(&mut state, 21, 4);
    assert_eq!((state.grid.row, state.grid.column), (0, 2));
    click(&mut state, 21, 23);
    assert_eq!((state.grid.row, state.grid.column), (0, 2), "there is no job below the grid");
    press(&mut state, KeyCode::Esc);
    press_char(&mut state, '5');
    press_char(&mut state, 'K');
    let asked = state.confirm.clone();
    assert!(asked.is_some());
    for (x, y) in [(5, 2), (20, 10), (79, 23)] {
        click(&mut state, x, y);
    }
    assert_eq!(state.confirm, asked);
}
