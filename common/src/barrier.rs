//! Durable before visible: holds effects back until the records before them are on disk.
//!
//! One batch is being committed at a time; what comes meanwhile forms the next. So a lone record
//! is committed at once, and under load one fsync serves many. Pure: the shell does the commit.

/// Effects in order, some of which are records for a disk.
#[derive(Debug)]
pub struct Barrier<E> {
    waiting: Vec<E>,
    committing: Option<Vec<E>>,
}

impl<E> Default for Barrier<E> {
    fn default() -> Self {
        Self { waiting: Vec::new(), committing: None }
    }
}

impl<E> Barrier<E> {
    pub fn push(&mut self, effects: &mut Vec<E>) {
        self.waiting.append(effects);
    }

    /// The next batch, if none is being committed. Its records must be committed, and then
    /// [`Barrier::committed`] releases its effects.
    pub fn begin(&mut self) -> Option<&[E]> {
        if self.committing.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.committing = Some(std::mem::take(&mut self.waiting));
        self.committing.as_deref()
    }

    /// The batch is on disk: its effects, in order.
    pub fn committed(&mut self) -> Vec<E> {
        self.committing.take().unwrap_or_default()
    }

    pub fn is_idle(&self) -> bool {
        self.committing.is_none() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_for_the_one_before_it() {
        let mut barrier = Barrier::default();
        barrier.push(&mut vec![1, 2]);
        assert_eq!(barrier.begin(), Some(&[1, 2][..]));
        barrier.push(&mut vec![3]);
        assert_eq!(barrier.begin(), None);
        assert_eq!(barrier.committed(), [1, 2]);
        assert_eq!(barrier.begin(), Some(&[3][..]));
        assert_eq!(barrier.committed(), [3]);
        assert!(barrier.is_idle());
    }
}
