use super::*;
use bistro_common::ids::{Incarnation, TaskName};
use bistro_core::{Phase, Record, Snapshot, TaskRecord};
use std::path::Path;

fn done(node: &str, attempt_no: u32) -> Record {
    let record = TaskRecord { attempt_no, phase: Phase::Done, ..TaskRecord::default() };
    Record::Task { task: TaskName::new("j", node), record }
}

fn at(seq: u64) -> Position {
    Position { stream: "s".to_owned(), seq, epoch: Epoch(1) }
}

fn snapshot_in(directory: &Path) -> Snapshot {
    Store::open_to_follow(directory).unwrap().snapshot().unwrap()
}

/// The next page, as small as it can be.
fn next_page(store: &Store, after: &Page) -> Page {
    store.page(after.rows.last().map(|(key, _)| key.as_str()), 1).unwrap()
}

#[test]
fn a_copy_is_what_the_other_is_although_that_goes_on_meanwhile() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let opened = Store::open(one.path()).unwrap();
    let (mut store, cell, epoch) = (opened.store, opened.cell, opened.epoch);
    store.append(&[done("a", 1), done("b", 1), done("c", 1), done("d", 1)]).unwrap();
    store.fold(3).unwrap();
    let mut copy = Store::open_to_follow(other.path()).unwrap();
    copy.begin_copy().unwrap();
    let mut page = next_page(&store, &Page::default());
    let folded = page.folded;
    assert_eq!((folded, page.rows.len()), (3, 1));
    let later = [done("a", 2), Record::Fenced { incarnation: Incarnation::generate() }];
    while !page.rows.is_empty() {
        copy.put_page(&page).unwrap();
        if store.end() == 4 {
            store.append(&later).unwrap();
            store.fold(usize::MAX).unwrap();
        }
        page = next_page(&store, &page);
    }
    copy.end_copy(cell, epoch, folded, at(7)).unwrap();
    assert_eq!((copy.cell(), copy.end(), copy.position()), (Some(cell), 3, Some(&at(7))));
    let rest = [&[done("d", 1)], &later[..]].concat();
    copy.append_at(&rest, Some(at(8))).unwrap();
    drop((store, copy));
    assert_eq!(snapshot_in(other.path()), snapshot_in(one.path()));
    let copy = Store::open_to_follow(other.path()).unwrap();
    assert_eq!((copy.end(), copy.position()), (6, Some(&at(8))));
}

#[test]
fn half_a_copy_is_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap().store;
    store.append(&[done("a", 1)]).unwrap();
    store.begin_copy().unwrap();
    let rows = vec![("t1:jb".to_owned(), vec![2])];
    store.put_page(&Page { folded: 9, rows }).unwrap();
    drop(store);
    let store = Store::open_to_follow(directory.path()).unwrap();
    assert!(store.is_new() && store.position().is_none());
    assert_eq!((store.end(), store.page(None, 1).unwrap()), (0, Page::default()));
    // It may found a cell, and be opened again.
    store.begin_reign(Epoch(4), Some(at(1))).unwrap();
    let store = Store::open_to_follow(directory.path()).unwrap();
    assert_eq!((store.epoch(), store.position()), (Epoch(5), Some(&at(1))));
}

#[test]
fn who_reigns_alone_follows_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_to_follow(directory.path()).unwrap();
    store.begin_reign(Epoch(0), Some(at(1))).unwrap();
    drop(Store::open(directory.path()).unwrap());
    let store = Store::open_to_follow(directory.path()).unwrap();
    assert!(store.position().is_none() && !store.is_new());
}
