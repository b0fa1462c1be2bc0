//! How many bindings lost what was made for them in the last ten minutes,
//! counted in buckets of ten seconds, as it is handed from leader to leader.

use std::collections::{BTreeMap, HashMap};

/// The time that the share is counted over, in seconds.
pub const SPAN: u64 = 600;

/// Width of a bucket, in seconds.
const BUCKET: u64 = 10;

/// What is counted where a note cannot be read: more than any share.
const UNREADABLE: u64 = 1 << 32;

/// Removals of the last ten minutes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Window {
    /// First second of a bucket → removals in it.
    buckets: BTreeMap<u64, u64>,
    /// Uid of a binding → the bucket in which it was counted. Other leaders
    /// know nothing of it: there the same binding counts again.
    counted: HashMap<String, u64>,
}

impl Window {
    /// How many there were.
    pub fn lately(&self, now: u64) -> u64 {
        let recent = self.buckets.iter().filter(|(start, _)| lasts(**start, now));
        recent.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Whether this binding is among them.
    pub fn counts(&self, uid: &str, now: u64) -> bool {
        self.counted
            .get(uid)
            .is_some_and(|start| lasts(*start, now))
    }

    /// Counts the binding, once.
    pub fn count(&mut self, uid: &str, now: u64) {
        self.forget(now);
        if self.counts(uid, now) {
            return;
        }
        let start = now - now % BUCKET;
        let bucket = self.buckets.entry(start).or_default();
        *bucket = bucket.saturating_add(1);
        self.counted.insert(uid.to_owned(), start);
    }

    /// The binding's record was seen: what happens to it from now on counts
    /// anew.
    pub fn shown(&mut self, uid: &str) {
        self.counted.remove(uid);
    }

    /// As `<second>:<count>,…`, for the next leader.
    pub fn note(&self) -> String {
        let buckets = self.buckets.iter();
        let words: Vec<_> = buckets
            .map(|(start, count)| format!("{start}:{count}"))
            .collect();
        words.join(",")
    }

    /// Takes over what another leader noted. A note that cannot be read stands
    /// for as many as there can be.
    pub fn take_over(&mut self, note: &str, now: u64) {
        let noted =
            read(note).unwrap_or_else(|| BTreeMap::from([(now - now % BUCKET, UNREADABLE)]));
        for (start, count) in noted {
            let bucket = self.buckets.entry(start).or_default();
            *bucket = count.max(*bucket);
        }
        self.forget(now);
    }

    /// Drops what is over. A bucket of the future, as a clock that was set back
    /// leaves it, counts from now.
    fn forget(&mut self, now: u64) {
        let present = now - now % BUCKET;
        for (start, count) in self.buckets.split_off(&(present + 1)) {
            let bucket = self.buckets.entry(start.min(present)).or_default();
            *bucket = bucket.saturating_add(count);
        }
        self.buckets.retain(|start, _| lasts(*start, now));
        self.counted.retain(|_, start| {
            *start = present.min(*start);
            lasts(*start, now)
        });
    }
}

/// Whether something in the bucket may have happened within the span.
fn lasts(start: u64, now: u64) -> bool {
    start.saturating_add(BUCKET + SPAN) > now
}

fn read(note: &str) -> Option<BTreeMap<u64, u64>> {
    let pairs = note.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (start, count) = pair.split_once(':')?;
            Some((start.parse().ok()?, count.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(now: u64, uids: &[&str]) -> Window {
        let mut window = Window::default();
        for uid in uids {
            window.count(uid, now);
        }
        window
    }

    #[test]
    fn the_same_binding_counts_once_until_its_time_is_over() {
        let mut window = of(1000, &["a", "a", "b"]);
        assert_eq!(window.lately(1000), 2);
        window.count("a", 1599);
        assert_eq!(window.lately(1599), 2);
        // By its bucket's end, so never a second too early.
        assert!(window.counts("a", 1609) && !window.counts("a", 1610));
        window.count("a", 1610);
        assert_eq!(window.lately(1610), 1);
    }

    #[test]
    fn a_binding_whose_record_came_back_counts_anew() {
        let mut window = of(1000, &["a", "b"]);
        window.shown("a");
        window.count("a", 1000);
        assert_eq!(window.lately(1000), 3);
    }

    #[test]
    fn what_one_leader_notes_the_next_one_counts_on() {
        let mut first = of(1000, &["a", "b"]);
        first.count("c", 1025);
        assert_eq!(first.note(), "1000:2,1020:1");
        let mut second = Window::default();
        second.take_over(&first.note(), 1030);
        assert_eq!(second.lately(1030), 3);
        assert_eq!(second.lately(1610), 1);
        // It does not know who was counted.
        second.count("a", 1030);
        assert_eq!(second.lately(1030), 4);
        // Its own note, read again, adds nothing.
        let same = second.clone();
        second.take_over(&same.note(), 1030);
        assert_eq!(second, same);
    }

    #[test]
    fn a_note_that_cannot_be_read_stands_for_as_many_as_there_can_be_for_ten_minutes() {
        for note in ["x", "1000", "1000:x", ":1", "1000:-1", "1000:1;1010:2"] {
            let mut window = Window::default();
            window.take_over(note, 1000);
            assert_eq!(window.lately(1000), UNREADABLE, "{note:?}");
            assert_eq!(window.lately(1610), 0, "{note:?}");
        }
        let mut window = Window::default();
        window.take_over("", 1000);
        assert_eq!(window.lately(1000), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing_and_blocks_nothing_for_long() {
        let mut window = of(100_000, &["a", "b"]);
        assert_eq!(window.lately(50_000), 2);
        window.count("c", 50_000);
        assert_eq!(window.note(), "50000:3");
        assert!(window.counts("a", 50_000));
        assert_eq!(window.lately(50_610), 0);
    }

    #[test]
    fn a_note_stays_short() {
        let mut window = Window::default();
        for second in 0..5_000 {
            window.count(&second.to_string(), 1_900_000_000 + second);
        }
        assert!(window.note().len() < 1_000, "{}", window.note());
    }
}
