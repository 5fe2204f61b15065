//! Numbers by name, without a second copy of the names: five bytes for each.

use hashbrown::HashTable;
use std::hash::BuildHasher;

#[derive(Debug, Default)]
pub struct NameTable(HashTable<u32>);

fn hash(name: &str) -> u64 {
    rustc_hash::FxBuildHasher.hash_one(name)
}

impl NameTable {
    /// `name_of` tells the name of each number that is in the table.
    pub fn find<'n>(&self, name: &str, name_of: impl Fn(u32) -> &'n str) -> Option<u32> {
        self.0.find(hash(name), |&number| name_of(number) == name).copied()
    }

    /// Enters a number whose name is not in the table yet.
    pub fn insert<'n>(&mut self, number: u32, name_of: impl Fn(u32) -> &'n str) {
        self.0.insert_unique(hash(name_of(number)), number, |&number| hash(name_of(number)));
    }

    /// The table of these numbers, whose names differ.
    pub fn of<'n>(numbers: std::ops::Range<u32>, name_of: impl Fn(u32) -> &'n str) -> Self {
        let mut table = Self(HashTable::with_capacity(numbers.len()));
        numbers.for_each(|number| table.insert(number, &name_of));
        table
    }
}
