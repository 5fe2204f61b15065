//! The table of faults in docs/PROTOCOL.md: all of the matrix is in it, and every test that it names
//! is there. `scripts/chaos --matrix` runs them.

use std::collections::BTreeSet;
use std::path::Path;

/// The matrix of faults has so many rows; the table has more.
const ROWS: usize = 32;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cells of each row.
fn table() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("docs/PROTOCOL.md")).expect("it is there");
    let from = text.find("\n## Faults").expect("it has this section");
    let section = text[from..].split("\n## Rules").next().expect("it ends");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = |row: &str| row.split(" | ").map(str::to_owned).collect();
    rows.skip(1).map(cells).collect()
}

fn tests_of(row: &[String]) -> Vec<&str> {
    let named = row.last().expect("a row has cells").split('`').skip(1).step_by(2);
    let is_test = |name: &&str| name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    named.filter(is_test).filter(|name| name.contains('_')).collect()
}

/// Names of all test functions of the workspace.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source is text");
            let named = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(named.map(str::to_owned));
        }
    }
}

#[test]
fn every_row_of_the_fault_matrix_is_in_the_table() {
    let numbers: Vec<usize> = table().iter().filter_map(|row| row[0].parse().ok()).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
}

#[test]
fn every_test_that_the_table_names_exists_and_every_row_names_one() {
    let mut found = BTreeSet::new();
    functions(root(), &mut found);
    for row in table() {
        let names = tests_of(&row);
        let said = row.last().expect("a row has cells");
        let elsewhere = ["not there yet", "`bistro-bench", "the simulation"];
        let excused = elsewhere.iter().any(|reason| said.contains(reason));
        assert!(!names.is_empty() || excused, "{row:?} names no test");
        for name in names {
            assert!(found.contains(name), "there is no test {name}");
        }
    }
}
