//! What is on disk after whatever has happened to the process and its files.

use super::format::key_of;
use super::*;
use bistro_common::ids::{Incarnation, TaskName};
use bistro_core::{AttemptRecord, Kept, Phase, Rows, TaskRecord, task_row};
use proptest::prelude::*;
use redb::ReadableTable;
use std::sync::Arc;

/// All tasks of a snapshot that are finished, by job and node.
fn finished(snapshot: &Snapshot) -> Vec<Record> {
    let of_job = |(job, rows): (&Arc<str>, &Rows)| {
        let record = |(node, row): (&str, &[u8])| Record::Task {
            task: TaskName::new(job.clone(), node),
            record: task_row::decode(row).unwrap(),
        };
        rows.iter().map(record).collect::<Vec<_>>()
    };
    snapshot.finished.iter().flat_map(of_job).collect()
}

fn task(node: &str, attempt_no: u32) -> Record {
    Record::Task {
        task: TaskName::new("j", node),
        record: TaskRecord { attempt_no, phase: Phase::Done, ..TaskRecord::default() },
    }
}

#[test]
fn what_was_committed_is_there_after_a_restart_in_its_last_version() {
    let directory = tempfile::tempdir().unwrap();
    let first = Store::open(directory.path()).unwrap();
    let mut store = first.store;
    assert_eq!((first.epoch, store.snapshot().unwrap()), (Epoch(1), Snapshot::default()));
    let incarnation = Incarnation::generate();
    store.append(&[task("a", 1), task("b", 1)]).unwrap();
    store.append(&[task("a", 2), Record::Fenced { incarnation }]).unwrap();
    drop(store);
    let second = Store::open(directory.path()).unwrap();
    assert_eq!(second.epoch, Epoch(2), "every process reigns in an epoch of its own");
    assert_eq!(second.cell, first.cell);
    let snapshot = second.store.snapshot().unwrap();
    assert_eq!(finished(&snapshot), [task("a", 2), task("b", 1)]);
    assert_eq!(snapshot.fenced, [incarnation]);
}

#[test]
fn rows_of_an_earlier_build_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap().store;
    let records = [task("a", 1), task("é:b", 7)];
    let transaction = store.state.begin_write().unwrap();
    {
        let mut state = transaction.open_table(STATE).unwrap();
        for record in &records {
            state.insert(key_of(record).as_str(), encode(record).as_slice()).unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(store);
    let opened = Store::open(directory.path()).unwrap();
    assert_eq!(finished(&opened.store.snapshot().unwrap()), records);
}

#[test]
fn all_is_read_whatever_jobs_are_called() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap().store;
    let jobs = ["", "a", "ab", "b", "0123456789", "é", "\u{d7ff}", "a\u{10ffff}", "\u{10ffff}"];
    let nodes = ["", "1", "n", "\u{10ffff}"];
    let names = jobs.iter().flat_map(|&job| nodes.map(|node| TaskName::new(job, node)));
    let phase = Phase::Done;
    let record = TaskRecord { phase, ..TaskRecord::default() };
    let mut all: Vec<Record> =
        names.map(|task| Record::Task { task, record: record.clone() }).collect();
    store.append(&all).unwrap();
    let fenced = [Incarnation::generate()];
    store.append(&[Record::Fenced { incarnation: fenced[0] }]).unwrap();
    store.append(&[Record::DeletedVersion { version_id: 7 }]).unwrap();
    drop(store);
    let snapshot = Store::open(directory.path()).unwrap().store.snapshot().unwrap();
    let mut found = finished(&snapshot);
    [&mut all, &mut found].into_iter().for_each(|all| all.sort_by_key(key_of));
    assert_eq!(found, all);
    assert_eq!((snapshot.fenced, snapshot.deleted_version), (fenced.to_vec(), 7));
}

#[test]
fn a_second_scheduler_on_the_same_data_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path()).unwrap();
    let second = Store::open(directory.path()).map(|_| ());
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
}

/// As builds wrote it that had one file.
fn write_old(directory: &Path, records: &[Record]) -> Reign {
    let reign = Reign { cell: CellId::generate(), epoch: Epoch(7) };
    let database = open_file(&directory.join(STATE_FILE), CACHE_BYTES).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(REIGN, encode(&reign).as_slice()).unwrap();
        let mut journal = transaction.open_table(JOURNAL).unwrap();
        for (at, record) in (100..).zip(records) {
            journal.insert(at, encode(record).as_slice()).unwrap();
        }
        transaction.open_table(STATE).unwrap();
    }
    transaction.commit().unwrap();
    reign
}

#[test]
fn a_store_of_one_file_becomes_one_of_two_and_is_then_refused_by_who_knows_one() {
    let directory = tempfile::tempdir().unwrap();
    let old = write_old(directory.path(), &[task("a", 1), task("b", 1), task("a", 2)]);
    let opened = Store::open(directory.path()).unwrap();
    assert_eq!((opened.cell, opened.epoch), (old.cell, Epoch(8)));
    let found = finished(&opened.store.snapshot().unwrap());
    assert_eq!(found, [task("a", 2), task("b", 1)]);
    let transaction = opened.store.state.begin_read().unwrap();
    let meta = transaction.open_table(META).unwrap();
    let reign = meta.get(REIGN).unwrap().unwrap();
    let read = decode::<Reign>(reign.value());
    assert!(matches!(read, Err(StoreError::Format { found: TWO_FILES })), "{read:?}");
    drop((meta, transaction, reign));
    drop(opened);
    // A journal that is left where an old file was put back says nothing of that.
    let mut store = Store::open(directory.path()).unwrap().store;
    store.append(&[task("c", 1)]).unwrap();
    drop(store);
    std::fs::remove_file(directory.path().join(STATE_FILE)).unwrap();
    write_old(directory.path(), &[task("a", 9)]);
    let store = Store::open(directory.path()).unwrap().store;
    assert_eq!(finished(&store.snapshot().unwrap()), [task("a", 9)]);
}

#[test]
fn the_two_files_belong_together() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for directory in [&one, &other] {
        let mut store = Store::open(directory.path()).unwrap().store;
        store.append(&[task("a", 1)]).unwrap();
    }
    let journal = |directory: &tempfile::TempDir| directory.path().join(JOURNAL_FILE);
    let open = |directory: &tempfile::TempDir| Store::open(directory.path()).map(|_| ());
    let kept = other.path().join("kept");
    std::fs::copy(journal(&one), &kept).unwrap();
    std::fs::copy(journal(&other), journal(&one)).unwrap();
    assert!(matches!(open(&one), Err(StoreError::OtherJournal { .. })));
    std::fs::remove_file(journal(&one)).unwrap();
    assert!(matches!(open(&one), Err(StoreError::NoJournal { .. })));
    // Rows without the store that they change.
    std::fs::remove_file(other.path().join(STATE_FILE)).unwrap();
    assert!(matches!(open(&other), Err(StoreError::OtherJournal { .. })));
    std::fs::copy(&kept, journal(&one)).unwrap();
    open(&one).unwrap();
    // What it has told is not in the journal of before.
    let mut store = Store::open(one.path()).unwrap().store;
    store.append(&[task("a", 2)]).unwrap();
    drop(store);
    open(&one).unwrap();
    std::fs::copy(&kept, journal(&one)).unwrap();
    assert!(matches!(open(&one), Err(StoreError::OtherJournal { .. })));
}

/// Where a process may be killed while it folds: before the rows are in the table, after that,
/// and after they are forgotten.
#[test]
fn rows_are_folded_once_wherever_that_ends() {
    let directory = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap().store;
    store.append(&[task("a", 1), task("b", 1)]).unwrap();
    store.append(&[task("a", 2)]).unwrap();
    let save = |what: &str| {
        let from = directory.path().join(what);
        std::fs::copy(from, copy.path().join(what)).unwrap();
    };
    let found = || {
        let store = Store::open(copy.path()).unwrap().store;
        finished(&store.snapshot().unwrap())
    };
    let expected = [task("a", 2), task("b", 1)];
    [STATE_FILE, JOURNAL_FILE].into_iter().for_each(save);
    assert_eq!(found(), expected);
    [STATE_FILE, JOURNAL_FILE].into_iter().for_each(save);
    store.fold(3).unwrap();
    save(STATE_FILE);
    assert_eq!(found(), expected);
    store.append(&[task("c", 1)]).unwrap();
    [STATE_FILE, JOURNAL_FILE].into_iter().for_each(save);
    assert_eq!(found()[..2], expected);
    assert_eq!(found().len(), 3);
}

fn opened(number: u128) -> Record {
    let text = format!(
        r#"{{"open": {{"attempt": "{id}", "task": {{"job": "j", "node": "n"}}, "attempt_no": 1,
            "path": [], "worker_slots": {{}}}},
            "worker": "w", "incarnation": "{id}", "seq": 1}}"#,
        id = attempt_id(number)
    );
    let attempt: AttemptRecord = serde_json::from_str(&text).unwrap();
    Record::AttemptOpened { attempt }
}

fn attempt_id(number: u128) -> String {
    format!("00000000-0000-7000-8000-{number:012}")
}

fn closed(number: u128) -> Record {
    Record::AttemptClosed { attempt: attempt_id(number).parse().unwrap() }
}

#[test]
fn an_attempt_that_is_over_soon_is_never_in_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap().store;
    store.append(&[opened(1), opened(2), closed(1)]).unwrap();
    store.fold(2).unwrap();
    let rows = |store: &Store| {
        let state = store.state.begin_read().unwrap().open_table(STATE).unwrap();
        state.iter().unwrap().map(|row| row.unwrap().0.value().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&store), [format!("a{}", attempt_id(2))]);
    store.append(&[closed(2)]).unwrap();
    store.fold(2).unwrap();
    assert_eq!((rows(&store), store.unfolded.len()), (vec![], 0));
}

/// What may happen to a store.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Fold(usize),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    let record = prop_oneof![
        (0..4u8, 1..9u32).prop_map(|(node, attempt_no)| task(&node.to_string(), attempt_no)),
        (0..4u128).prop_map(opened),
        (0..4u128).prop_map(closed),
    ];
    prop_oneof![
        6 => proptest::collection::vec(record, 0..6).prop_map(Step::Append),
        3 => (0..9usize).prop_map(Step::Fold),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_last_record_of_each_kind_is_kept_wherever_it_lies(
        steps in proptest::collection::vec(any_step(), 1..20)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap().store;
        let mut kept = Kept::default();
        for step in steps {
            match step {
                Step::Append(records) => {
                    store.append(&records).unwrap();
                    records.into_iter().for_each(|record| kept.keep(record));
                }
                Step::Fold(rows) => store.fold(rows).unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = Store::open(directory.path()).unwrap().store;
                }
            }
        }
        drop(store);
        let store = Store::open(directory.path()).unwrap().store;
        prop_assert_eq!(store.snapshot().unwrap(), kept.snapshot());
    }
}
