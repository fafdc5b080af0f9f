//! Parts the passages: imported rows in, the part of each out. What belongs together stays together, and the parting never changes.

use std::collections::BTreeMap;

use vigie::scoring::lexicon::word_hash;

use crate::corpus::near_duplicates;
use crate::importer::{Imported, Origin};

/// What a passage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Fits weights, and by cross-fitting calibration and thresholds.
    Train,
    /// Measures; never seen by anything that is fitted or chosen.
    Test,
    /// Neither: not permitted in a model, or its source keeps it for its own measuring and nobody has read it.
    Aside,
}

/// One passage in so many of our own units is for testing.
const TEST_SHARE_OWN: u64 = 7;
/// One in so many of the public rows that we have read.
const TEST_SHARE_ANNOTATED: u64 = 5;
/// Writers wrote scene after scene; neighbours in a file may answer each other.
const NEIGHBOURS: usize = 12;
/// Share of common 3-word runs from which two passages may not be parted.
const TOO_CLOSE: f64 = 0.2;

/// A row's part and the number of the unit that it belongs to (for cross-fitting folds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub part: Part,
    pub unit: u64,
}

/// Parts all rows. Contrast sets, articles, neighbours in a file that are in neither, and near-duplicates are never parted.
pub fn split(rows: &[Imported]) -> Vec<Place> {
    let mut parent: Vec<usize> = (0..rows.len()).collect();
    let mut first_of: BTreeMap<String, usize> = BTreeMap::new();
    let mut in_file: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let mut keys = vec![row.passage.unit().to_owned()];
        // What is in no set or article has only its neighbours; blocks over sets would chain whole files together.
        if row.origin == Origin::Own && row.passage.unit() == row.passage.id {
            let position = in_file.entry(&row.passage.source).or_default();
            keys.push(format!("{} block {}", row.passage.source, *position / NEIGHBOURS));
            *position += 1;
        }
        for key in keys {
            let first = *first_of.entry(key).or_insert(index);
            join(&mut parent, first, index);
        }
    }
    let passages: Vec<_> = rows.iter().map(|row| row.passage.clone()).collect();
    for pair in near_duplicates(&passages, TOO_CLOSE) {
        join(&mut parent, pair.left, pair.right);
    }
    // A unit with a public test row in it is a test unit: the source's own parting is kept.
    let mut is_test: BTreeMap<usize, bool> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let root = find(&mut parent, index);
        let held_out = !row.trainable || (row.origin != Origin::Own && row.passage.split == "dev");
        *is_test.entry(root).or_default() |= held_out;
    }
    (0..rows.len())
        .map(|index| {
            let row = &rows[index];
            let root = find(&mut parent, index);
            let unit = word_hash(&rows[root].passage.id);
            let share = if rows[root].origin == Origin::Own { TEST_SHARE_OWN } else { TEST_SHARE_ANNOTATED };
            let measured = matches!(row.origin, Origin::Own | Origin::Annotated);
            let part = match (is_test[&root] || unit.is_multiple_of(share), measured) {
                (true, true) => Part::Test,
                (true, false) if is_test[&root] => Part::Aside,
                (true, false) if row.origin == Origin::Public => Part::Train,
                (true, false) | (false, false) if row.origin == Origin::Unlabelled => Part::Aside,
                _ => Part::Train,
            };
            Place { part, unit }
        })
        .collect()
}

fn find(parent: &mut [usize], index: usize) -> usize {
    let mut root = index;
    while parent[root] != root {
        root = parent[root];
    }
    let mut at = index;
    while parent[at] != root {
        at = std::mem::replace(&mut parent[at], root);
    }
    root
}

/// The smaller index becomes the root, so that roots do not depend on the order of joining.
fn join(parent: &mut [usize], left: usize, right: usize) {
    let (left, right) = (find(parent, left), find(parent, right));
    parent[left.max(right)] = left.min(right);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::tests::passage;

    fn own(id: &str, text: &str, set: Option<&str>) -> Imported {
        let mut passage = passage(id, text, &[("attack", 0)]);
        passage.set = set.map(str::to_owned);
        passage.source = id.to_owned();
        Imported::own(passage)
    }

    #[test]
    fn sets_and_near_duplicates_are_not_parted() {
        let texts = ["il fait beau ce matin sur le port de la ville haute", "une chaise bleue posée contre un mur"];
        for number in 0..40 {
            let rows = [
                own(&format!("a{number}"), texts[0], Some("s")),
                own(&format!("b{number}"), texts[1], Some("s")),
                own(&format!("c{number}"), "il fait beau ce matin sur le port de la ville basse", None),
            ];
            let places = split(&rows);
            assert!(places.iter().all(|place| *place == places[0]), "{number}");
        }
    }

    #[test]
    fn both_parts_get_some() {
        let rows: Vec<_> =
            (0..200).map(|n| own(&format!("id{n}"), &format!("mot{n} autre{n} encore{n}"), None)).collect();
        let n_test = split(&rows).iter().filter(|place| place.part == Part::Test).count();
        assert!((10..60).contains(&n_test), "{n_test}");
    }
}
