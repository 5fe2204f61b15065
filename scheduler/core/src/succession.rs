//! Several schedulers of one cell: one reigns, the others follow its records and stand by.
//!
//! What the one that reigns commits, it first appends to a stream, at exactly the place that it
//! thinks is the next: so who appends when another has done so learns that it reigns no more. The
//! others append nothing until the stream has been silent for as long as the one that reigns may go
//! on without it; then a message that begins a reign. This is what each of them may conclude from
//! what it sees of the stream; the stream and the store are the shell's.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

use bistro_common::Millis;
use bistro_common::ids::Epoch;

/// How far a store has followed the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which stream: one that is made again counts from the beginning.
    pub stream: String,
    /// Its last message that is in the store.
    pub seq: u64,
    /// The reign of that message.
    pub epoch: Epoch,
}

/// What there is of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    pub stream: String,
    /// The oldest message that it still has.
    pub first: u64,
    /// The newest; 0: there has never been any.
    pub last: u64,
    /// The reign of the newest, if it still has that.
    pub last_epoch: Option<Epoch>,
}

/// How a store gets to where the stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the messages after this one.
    Follow { after: u64 },
    /// It lacks what the stream does not have any more, or has what was never agreed on: it must be
    /// copied from whoever reigns.
    Copy,
    /// It was written without the stream, which has other records: which of them count, somebody
    /// must say.
    Alone,
}

/// The way for a store with this position; `is_new`: there is nothing in it.
pub fn way(position: Option<&Position>, is_new: bool, state: &StreamState) -> Way {
    let Some(position) = position else {
        return match (state.last, is_new) {
            (0, _) => Way::Follow { after: 0 },
            (_, true) => Way::Copy,
            (_, false) => Way::Alone,
        };
    };
    if state.last == 0 {
        // It was lost: what is in the stores is all that there is.
        return Way::Follow { after: 0 };
    }
    if position.stream != state.stream {
        return Way::Copy;
    }
    let fits = match position.seq.cmp(&state.last) {
        // What is next says whether it fits.
        Ordering::Less => position.seq + 1 >= state.first,
        // It may have lost its end, and have another since.
        Ordering::Equal => state.last_epoch.is_none_or(|epoch| epoch == position.epoch),
        // It has lost its end, which is in this store.
        Ordering::Greater => state.last_epoch.is_none_or(|epoch| epoch <= position.epoch),
    };
    match fits {
        true => Way::Follow { after: position.seq.min(state.last) },
        false => Way::Copy,
    }
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub epoch: Epoch,
    /// It begins the reign, after this one.
    pub begins_after: Option<Epoch>,
    /// The number of its first row, counted from the first that the cell ever had.
    pub from: u64,
    pub rows: u64,
}

/// What a store does with the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its rows are taken, but for so many of the first, which are there.
    Take { skip: u64 },
    /// It does not go on where the store ends.
    Gap,
}

/// `epoch`: whose rows the store has; `end`: the number of the next.
pub fn next(epoch: Epoch, end: u64, message: Appended) -> Next {
    let fits = match message.begins_after {
        // Whoever begins a reign with less than this store has never heard of the rest.
        Some(before) if message.epoch > epoch => before == epoch && message.from == end,
        _ => message.epoch == epoch && message.from <= end,
    };
    match fits {
        true => Next::Take { skip: message.rows.min(end - message.from) },
        false => Next::Gap,
    }
}

/// For how long the stream must be silent before another may reign: for as long as `ttl_ms`, and
/// what a clock may be wrong.
pub fn silence_ms(ttl_ms: Millis) -> Millis {
    ttl_ms + ttl_ms / 1_000 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64, epoch: u64) -> Position {
        Position { stream: "a".to_owned(), seq, epoch: Epoch(epoch) }
    }

    fn state(first: u64, last: u64, epoch: u64) -> StreamState {
        let last_epoch = (last >= first).then_some(Epoch(epoch));
        StreamState { stream: "a".to_owned(), first, last, last_epoch }
    }

    #[test]
    fn a_store_goes_on_after_what_it_has_and_is_copied_where_that_is_gone() {
        let follow = |after| Way::Follow { after };
        assert_eq!(way(Some(&at(5, 2)), false, &state(1, 9, 3)), follow(5));
        assert_eq!(way(Some(&at(9, 3)), false, &state(1, 9, 3)), follow(9));
        assert_eq!(way(Some(&at(5, 2)), false, &state(6, 9, 3)), follow(5));
        assert_eq!(way(Some(&at(5, 2)), false, &state(7, 9, 3)), Way::Copy);
        assert_eq!(way(Some(&at(9, 2)), false, &state(10, 9, 3)), follow(9), "all was thrown away");
        assert_eq!(way(Some(&at(9, 2)), false, &state(1, 9, 3)), Way::Copy, "it was another end");
        let other = StreamState { stream: "b".to_owned(), ..state(1, 9, 3) };
        assert_eq!(way(Some(&at(5, 2)), false, &other), Way::Copy);
    }

    #[test]
    fn a_store_that_has_seen_no_stream_founds_one_or_is_copied_and_never_overwritten() {
        for is_new in [true, false] {
            assert_eq!(way(None, is_new, &state(1, 0, 0)), Way::Follow { after: 0 });
        }
        assert_eq!(way(None, true, &state(1, 9, 3)), Way::Copy);
        assert_eq!(way(None, false, &state(1, 9, 3)), Way::Alone);
    }

    #[test]
    fn a_stream_that_went_back_is_gone_on_with_unless_it_has_another_end() {
        assert_eq!(way(Some(&at(9, 3)), false, &state(1, 7, 3)), Way::Follow { after: 7 });
        assert_eq!(way(Some(&at(9, 3)), false, &state(1, 7, 2)), Way::Follow { after: 7 });
        assert_eq!(way(Some(&at(9, 3)), false, &state(1, 7, 4)), Way::Copy);
        assert_eq!(way(Some(&at(9, 3)), false, &state(1, 0, 0)), Way::Follow { after: 0 });
    }

    #[test]
    fn messages_are_taken_in_order_and_none_is_taken_that_does_not_fit() {
        let rows =
            |epoch, from, rows| Appended { epoch: Epoch(epoch), begins_after: None, from, rows };
        let reign = |epoch, from| {
            let begins_after = Some(Epoch(epoch - 1));
            Appended { begins_after, ..rows(epoch, from, 0) }
        };
        assert_eq!(next(Epoch(2), 10, rows(2, 10, 3)), Next::Take { skip: 0 });
        assert_eq!(next(Epoch(2), 10, rows(2, 8, 3)), Next::Take { skip: 2 });
        assert_eq!(next(Epoch(2), 10, rows(2, 8, 1)), Next::Take { skip: 1 });
        assert_eq!(next(Epoch(2), 10, rows(2, 11, 3)), Next::Gap, "some are missing");
        assert_eq!(next(Epoch(2), 10, rows(3, 10, 3)), Next::Gap, "the reign's beginning is");
        assert_eq!(next(Epoch(2), 10, rows(1, 10, 3)), Next::Gap);
        assert_eq!(next(Epoch(2), 10, reign(3, 10)), Next::Take { skip: 0 });
        assert_eq!(next(Epoch(2), 10, reign(3, 9)), Next::Gap, "it has never heard of the tenth");
        assert_eq!(next(Epoch(2), 10, reign(3, 11)), Next::Gap);
        assert_eq!(next(Epoch(1), 10, reign(3, 10)), Next::Gap, "a reign was missed");
        assert_eq!(next(Epoch(2), 10, rows(2, u64::MAX, 0)), Next::Gap, "it went on elsewhere");
        // After a copy, what is older comes again.
        assert_eq!(next(Epoch(3), 10, reign(3, 4)), Next::Take { skip: 0 });
    }
}
