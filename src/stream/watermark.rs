//! Knows what may be committed: offsets taken and delivered in, the next offset to read after a restart out.
//!
//! Pure bookkeeping for one topic. An offset is committable only when it and every taken offset before it is delivered. Each assignment of a
//! partition has a generation, so that a late delivery report can never move a partition that was lost and came back.

use std::collections::{BTreeMap, VecDeque};

/// Number of one assignment of one partition; never used twice in a process.
pub type Generation = u64;

/// One offset in one assignment of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub partition: i32,
    pub generation: Generation,
    pub offset: i64,
}

/// The watermarks of all assigned partitions.
#[derive(Debug, Default)]
pub struct Watermarks {
    tracks: BTreeMap<i32, Track>,
    last_generation: Generation,
}

#[derive(Debug, Default)]
struct Track {
    generation: Generation,
    /// Taken and not yet below the watermark, by rising offset; `true` once delivered.
    pending: VecDeque<(i64, bool)>,
    /// The first offset that was taken.
    start: Option<i64>,
    last_taken: Option<i64>,
    /// Everything below is delivered; `None` until something is.
    watermark: Option<i64>,
    /// What the group's coordinator confirmed.
    committed: Option<i64>,
}

impl Watermarks {
    /// Begins an assignment of a partition; an earlier one of it is over.
    pub fn assign(&mut self, partition: i32) {
        self.begin(partition, None, None);
    }

    fn begin(&mut self, partition: i32, start: Option<i64>, committed: Option<i64>) {
        self.last_generation += 1;
        let track = Track { generation: self.last_generation, start, committed, ..Track::default() };
        self.tracks.insert(partition, track);
    }

    /// Ends an assignment. Reports that come later change nothing.
    pub fn revoke(&mut self, partition: i32) {
        self.tracks.remove(&partition);
    }

    /// The assigned partitions.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.tracks.keys().copied()
    }

    /// Forgets what was taken and not committed, to take it again. Returns the offset to read from; `None` when nothing was taken yet.
    pub fn rewind(&mut self, partition: i32) -> Option<i64> {
        let track = self.tracks.get(&partition)?;
        let committed = track.committed;
        let from = committed.or(track.start);
        self.begin(partition, from, committed);
        from
    }

    /// Notes a taken record. Returns `None` when its partition is not assigned, or when this or a later one was taken before.
    pub fn take(&mut self, partition: i32, offset: i64) -> Option<Position> {
        let track = self.tracks.get_mut(&partition)?;
        if track.last_taken.is_some_and(|last| offset <= last) {
            return None;
        }
        track.start.get_or_insert(offset);
        track.last_taken = Some(offset);
        track.pending.push_back((offset, false));
        Some(Position { partition, generation: track.generation, offset })
    }

    /// Says whether the assignment in which a record was taken still stands.
    pub fn is_current(&self, position: Position) -> bool {
        self.tracks.get(&position.partition).is_some_and(|track| track.generation == position.generation)
    }

    /// Notes that a record's score or dead letter is delivered. A report from an assignment that is over changes nothing.
    pub fn deliver(&mut self, position: Position) {
        if !self.is_current(position) {
            return;
        }
        let Some(track) = self.tracks.get_mut(&position.partition) else { return };
        let Ok(index) = track.pending.binary_search_by_key(&position.offset, |&(offset, _)| offset) else { return };
        track.pending[index].1 = true;
        while let Some(&(offset, true)) = track.pending.front() {
            track.pending.pop_front();
            track.watermark = Some(offset + 1);
        }
    }

    /// Says whether everything that was taken from a partition is delivered.
    pub fn is_drained(&self, partition: i32) -> bool {
        self.tracks.get(&partition).is_none_or(|track| track.pending.is_empty())
    }

    /// What may be committed and is not yet. `offset` is the next one to read, as Kafka wants it.
    pub fn committable(&self) -> Vec<Position> {
        self.tracks
            .iter()
            .filter_map(|(&partition, track)| {
                let offset = track.watermark?;
                let is_news = track.committed.is_none_or(|committed| committed < offset);
                is_news.then_some(Position { partition, generation: track.generation, offset })
            })
            .collect()
    }

    /// Notes that the coordinator confirmed a commit.
    pub fn confirm(&mut self, position: Position) {
        if !self.is_current(position) {
            return;
        }
        let Some(track) = self.tracks.get_mut(&position.partition) else { return };
        track.committed = track.committed.max(Some(position.offset));
    }

    /// What is committed in this assignment; `None` when nothing is yet.
    pub fn committed(&self, partition: i32) -> Option<i64> {
        self.tracks.get(&partition)?.committed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_offset_waits_for_those_before_it() {
        let mut watermarks = Watermarks::default();
        watermarks.assign(0);
        let [a, b, c] = [5, 6, 9].map(|offset| watermarks.take(0, offset).unwrap());
        watermarks.deliver(b);
        assert_eq!(watermarks.committable(), []);
        watermarks.deliver(a);
        assert_eq!(watermarks.committable(), [Position { offset: 7, ..a }]);
        watermarks.confirm(Position { offset: 7, ..a });
        assert_eq!(watermarks.committable(), []);
        // Offsets 7 and 8 do not exist (compaction, transaction markers).
        watermarks.deliver(c);
        assert_eq!(watermarks.committable(), [Position { offset: 10, ..a }]);
    }

    #[test]
    fn a_late_report_never_moves_a_partition_that_came_back() {
        let mut watermarks = Watermarks::default();
        watermarks.assign(0);
        let before = watermarks.take(0, 5).unwrap();
        watermarks.revoke(0);
        watermarks.assign(0);
        let after = watermarks.take(0, 5).unwrap();
        watermarks.deliver(before);
        assert_eq!(watermarks.committable(), []);
        watermarks.deliver(after);
        assert_eq!(watermarks.committable(), [Position { offset: 6, ..after }]);
    }

    #[test]
    fn a_rewind_goes_back_to_what_is_committed_or_to_the_start() {
        let mut watermarks = Watermarks::default();
        watermarks.assign(0);
        assert_eq!(watermarks.rewind(0), None);
        let first = watermarks.take(0, 5).unwrap();
        watermarks.deliver(first);
        assert_eq!(watermarks.rewind(0), Some(5));
        assert_eq!(watermarks.rewind(0), Some(5));
        let again = watermarks.take(0, 5).unwrap();
        watermarks.deliver(again);
        watermarks.confirm(Position { offset: 6, ..again });
        watermarks.take(0, 6).unwrap();
        assert_eq!(watermarks.rewind(0), Some(6));
    }

    /// What may happen to the tracker, in any order. Numbers choose among what is possible at that moment.
    #[derive(Debug, Clone)]
    enum Step {
        Assign(i32),
        Revoke(i32),
        Rewind(i32),
        Take(i32, i64),
        Deliver(prop::sample::Index),
        /// The broker refused or lost a record: no report ever says that it is delivered.
        Lose(prop::sample::Index),
        Commit,
        LoseCommit,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (0..3).prop_map(Step::Assign),
            1 => (0..3).prop_map(Step::Revoke),
            1 => (0..3).prop_map(Step::Rewind),
            12 => (0..3, 1..4i64).prop_map(|(partition, gap)| Step::Take(partition, gap)),
            12 => any::<prop::sample::Index>().prop_map(Step::Deliver),
            1 => any::<prop::sample::Index>().prop_map(Step::Lose),
            3 => Just(Step::Commit),
            1 => Just(Step::LoseCommit),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// The group's committed offset never passes a record that was not delivered, whatever is lost, revoked or late.
        #[test]
        fn nothing_undelivered_is_ever_committed(steps in steps()) {
            let mut watermarks = Watermarks::default();
            // The world outside: where the group stands, where each assignment reads, all records that exist, those that were delivered.
            let mut group: BTreeMap<i32, i64> = BTreeMap::new();
            let mut reading: BTreeMap<i32, i64> = BTreeMap::new();
            let mut exist: HashSet<(i32, i64)> = HashSet::new();
            let mut delivered: HashSet<(i32, i64)> = HashSet::new();
            let mut under_way: Vec<Position> = Vec::new();
            for step in steps {
                match step {
                    Step::Assign(partition) => {
                        watermarks.assign(partition);
                        reading.insert(partition, group.get(&partition).copied().unwrap_or(0));
                    }
                    Step::Revoke(partition) => {
                        watermarks.revoke(partition);
                        reading.remove(&partition);
                    }
                    Step::Rewind(partition) => {
                        if let Some(from) = watermarks.rewind(partition) {
                            prop_assert!(from >= group.get(&partition).copied().unwrap_or(0));
                            reading.insert(partition, from);
                        }
                    }
                    Step::Take(partition, gap) => {
                        let Some(next) = reading.get_mut(&partition) else {
                            prop_assert_eq!(watermarks.take(partition, gap), None);
                            continue;
                        };
                        // A partition read again shows the same records, so offsets are a function of the place.
                        let offset = *next / 4 * 4 + (*next % 4 + gap).min(4);
                        let offset = exist.iter().filter(|&&(p, o)| p == partition && o >= *next).map(|&(_, o)| o).min()
                            .unwrap_or(offset);
                        *next = offset + 1;
                        exist.insert((partition, offset));
                        under_way.extend(watermarks.take(partition, offset));
                    }
                    Step::Deliver(which) => {
                        if !under_way.is_empty() {
                            let position = under_way.swap_remove(which.index(under_way.len()));
                            delivered.insert((position.partition, position.offset));
                            watermarks.deliver(position);
                        }
                    }
                    Step::Lose(which) => {
                        if !under_way.is_empty() {
                            under_way.swap_remove(which.index(under_way.len()));
                        }
                    }
                    Step::LoseCommit => drop(watermarks.committable()),
                    Step::Commit => {
                        for position in watermarks.committable() {
                            let before = group.insert(position.partition, position.offset).unwrap_or(0);
                            prop_assert!(before < position.offset, "a commit went backwards");
                            for &(partition, offset) in &exist {
                                if partition == position.partition && offset < position.offset {
                                    prop_assert!(delivered.contains(&(partition, offset)), "{partition}/{offset} was passed");
                                }
                            }
                            watermarks.confirm(position);
                        }
                        prop_assert_eq!(watermarks.committable(), []);
                    }
                }
            }
        }

        /// When everything taken is delivered, in whatever order, all of it is committable.
        #[test]
        fn nothing_delivered_is_left_behind(order in Just((0..50i64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut watermarks = Watermarks::default();
            watermarks.assign(1);
            let taken: Vec<Position> = (0..50).map(|offset| watermarks.take(1, offset).unwrap()).collect();
            for &index in &order {
                watermarks.deliver(taken[index as usize]);
            }
            prop_assert_eq!(watermarks.committable(), [Position { offset: 50, ..taken[0] }]);
        }
    }
}
