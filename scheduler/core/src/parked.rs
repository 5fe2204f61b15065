//! Records of tasks that are in no plan, or not yet: by the names of their nodes. What a store has
//! comes in the order of names and stays so, which takes no index; what comes later is few.

use std::collections::hash_map;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::tasks::TaskRecord;

/// Those of one job.
#[derive(Debug, Default)]
pub struct OfJob {
    sorted: Vec<(Arc<str>, TaskRecord)>,
    /// No name is in both.
    others: FxHashMap<Arc<str>, TaskRecord>,
}

pub type IntoIter = std::iter::Chain<
    std::vec::IntoIter<(Arc<str>, TaskRecord)>,
    hash_map::IntoIter<Arc<str>, TaskRecord>,
>;

impl OfJob {
    pub fn len(&self) -> usize {
        self.sorted.len() + self.others.len()
    }

    fn place(&self, node: &str) -> Option<usize> {
        self.sorted.binary_search_by(|(name, _)| (**name).cmp(node)).ok()
    }

    pub fn get(&self, node: &str) -> Option<&TaskRecord> {
        match self.place(node) {
            Some(at) => Some(&self.sorted[at].1),
            None => self.others.get(node),
        }
    }

    /// In place of what was known of the node.
    pub fn insert(&mut self, node: Arc<str>, record: TaskRecord) {
        let is_next = self.sorted.last().is_none_or(|(last, _)| *last < node);
        if is_next && self.others.is_empty() {
            self.sorted.push((node, record));
            return;
        }
        match self.place(&node) {
            Some(at) => self.sorted[at].1 = record,
            None => drop(self.others.insert(node, record)),
        }
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut TaskRecord)> {
        self.sorted.iter_mut().map(|(node, record)| (&*node, record)).chain(self.others.iter_mut())
    }
}

impl IntoIterator for OfJob {
    type Item = (Arc<str>, TaskRecord);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        self.sorted.into_iter().chain(self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_behaves_like_a_map(
            steps in prop::collection::vec(("[a-d]{1,2}", any::<u32>()), 0..40),
            sorted_first in 0usize..20,
        ) {
            let mut steps = steps;
            let count = sorted_first.min(steps.len());
            steps[..count].sort();
            let (mut of_job, mut map) = (OfJob::default(), BTreeMap::new());
            for (node, attempt_no) in steps {
                let record = TaskRecord { attempt_no, ..TaskRecord::default() };
                of_job.insert(node.as_str().into(), record.clone());
                map.insert(node, record);
                prop_assert_eq!(of_job.len(), map.len());
            }
            for node in ["a", "b", "ab", "cc", "dd", "x"] {
                prop_assert_eq!(of_job.get(node), map.get(node));
            }
            of_job.iter_mut().for_each(|(_, record)| record.attempt_no /= 2);
            map.values_mut().for_each(|record| record.attempt_no /= 2);
            let all: BTreeMap<String, TaskRecord> =
                of_job.into_iter().map(|(node, record)| (node.to_string(), record)).collect();
            prop_assert_eq!(all, map);
        }
    }
}
