//! Passages to numbers: labelled passages and a lexicon in, sparse rows with targets out, by the very feature walk that scoring uses.

use std::collections::{BTreeMap, HashMap};

use linfa::dataset::{DatasetBase, Records};
use ndarray::{Array1, Array2};
use vigie::scoring::Scratch;
use vigie::scoring::features::{Family, N_FAMILIES};
use vigie::scoring::lexicon::{BuildKeyHasher, LANGUAGES, Lexicon, LexiconFile, N_LANGUAGES, fold};
use vigie::scoring::model::{IDF_SQUARED_ONE, walk_passage};
use vigie::scoring::signals::N_SIGNALS;

use crate::corpus::Passage;

/// Rows of a sparse matrix (compressed sparse rows); columns are features of a [`Vocabulary`].
#[derive(Debug, Clone, Default)]
pub struct SparseRows {
    pub row_starts: Vec<usize>,
    pub columns: Vec<u32>,
    pub values: Vec<f32>,
    pub n_columns: usize,
}

impl SparseRows {
    /// The columns and values of a row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.row_starts[row]..self.row_starts[row + 1];
        (&self.columns[range.clone()], &self.values[range])
    }

    /// The rows at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> SparseRows {
        let mut selected = SparseRows { row_starts: vec![0], n_columns: self.n_columns, ..SparseRows::default() };
        for &index in indices {
            let (columns, values) = self.row(index);
            selected.columns.extend_from_slice(columns);
            selected.values.extend_from_slice(values);
            selected.row_starts.push(selected.columns.len());
        }
        selected
    }
}

impl Records for SparseRows {
    type Elem = f32;

    fn nsamples(&self) -> usize {
        self.row_starts.len().saturating_sub(1)
    }

    fn nfeatures(&self) -> usize {
        self.n_columns
    }
}

/// Sparse rows with five targets (1, 0, NaN for unknown) and a weight a row.
pub type Examples = DatasetBase<SparseRows, Array2<f32>>;

/// The features that a model knows: their columns and how telling each is.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    pub column_of: HashMap<u64, u32, BuildKeyHasher>,
    pub hashes: Vec<u64>,
    pub families: Vec<Family>,
    /// Squared inverse document frequency as the model file stores it.
    pub idf_squared: Vec<u16>,
}

/// How features become a vocabulary and values.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSettings {
    /// A feature must stand in at least this many training passages, by family.
    pub fewest_passages: [usize; N_FAMILIES],
    /// What a family's normalized vector is multiplied with.
    pub family_scale: [f64; N_FAMILIES],
}

/// Counts features in `passages` and keeps the frequent ones, sorted by hash.
///
/// Inverse document frequency is `ln((1 + n) / (1 + df)) + 1` (smoothed, as in Manning, Raghavan & Schütze 2008, §6.2).
pub fn make_vocabulary(passages: &[&Passage], lexicon: &Lexicon, settings: &FeatureSettings) -> Vocabulary {
    let mut document_frequency: HashMap<u64, (u32, u32, Family), BuildKeyHasher> = HashMap::default();
    let mut scratch = Scratch::default();
    for (index, passage) in passages.iter().enumerate() {
        let stamp = index as u32 + 1;
        walk_passage(&passage.text, lexicon, &mut scratch, |feature| {
            let entry = document_frequency.entry(feature.hash).or_insert((0, 0, feature.family));
            if entry.1 != stamp {
                *entry = (entry.0 + 1, stamp, entry.2);
            }
        });
    }
    let mut kept: Vec<(u64, u32, Family)> = document_frequency
        .into_iter()
        .filter(|(_, (n, _, family))| *n as usize >= settings.fewest_passages[*family as usize])
        .map(|(hash, (n, _, family))| (hash, n, family))
        .collect();
    kept.sort_unstable_by_key(|&(hash, ..)| hash);
    let n_passages = passages.len() as f64;
    let idf_squared = |n: u32| {
        let idf = ((1.0 + n_passages) / (1.0 + f64::from(n))).ln() + 1.0;
        (idf * idf * IDF_SQUARED_ONE).round().min(f64::from(u16::MAX)) as u16
    };
    Vocabulary {
        column_of: kept.iter().enumerate().map(|(column, &(hash, ..))| (hash, column as u32)).collect(),
        hashes: kept.iter().map(|&(hash, ..)| hash).collect(),
        families: kept.iter().map(|&(.., family)| family).collect(),
        idf_squared: kept.iter().map(|&(_, n, _)| idf_squared(n)).collect(),
    }
}

impl Vocabulary {
    /// Inverse document frequency of a column.
    pub fn idf(&self, column: usize) -> f64 {
        (f64::from(self.idf_squared[column]) / IDF_SQUARED_ONE).sqrt()
    }

    /// Passages as rows: value = occurrences · idf / √(Σ idf² over the family's occurrences) · family scale, as scoring computes it.
    pub fn rows(&self, passages: &[&Passage], lexicon: &Lexicon, settings: &FeatureSettings) -> SparseRows {
        let mut rows = SparseRows { row_starts: vec![0], n_columns: self.hashes.len(), ..SparseRows::default() };
        let mut scratch = Scratch::default();
        let mut found: Vec<u32> = Vec::new();
        for passage in passages {
            found.clear();
            let mut norms = [0u64; N_FAMILIES];
            walk_passage(&passage.text, lexicon, &mut scratch, |feature| {
                if let Some(&column) = self.column_of.get(&feature.hash) {
                    norms[feature.family as usize] += u64::from(self.idf_squared[column as usize]);
                    found.push(column);
                }
            });
            found.sort_unstable();
            let scales: [f64; N_FAMILIES] = std::array::from_fn(|family| {
                settings.family_scale[family] / (norms[family].max(1) as f64 / IDF_SQUARED_ONE).sqrt()
            });
            for run in found.chunk_by(|left, right| left == right) {
                let column = run[0] as usize;
                let value = run.len() as f64 * self.idf(column) * scales[self.families[column] as usize];
                rows.columns.push(run[0]);
                rows.values.push(value as f32);
            }
            rows.row_starts.push(rows.columns.len());
        }
        rows
    }
}

/// Targets and weights of passages, in their order.
pub fn targets(passages: &[&Passage]) -> (Array2<f32>, Array1<f32>) {
    let mut targets = Array2::from_elem((passages.len(), N_SIGNALS), f32::NAN);
    for (row, passage) in passages.iter().enumerate() {
        for (signal, label) in passage.label_array().into_iter().enumerate() {
            if let Some(label) = label {
                targets[(row, signal)] = f32::from(u8::from(label));
            }
        }
    }
    let weights = passages.iter().map(|passage| passage.weight as f32).collect();
    (targets, weights)
}

/// Word counts of texts that the model may learn from, as the lexicon's list of common words.
pub fn count_words<'a>(texts: impl Iterator<Item = (usize, &'a str)>, fewest: u32) -> Vec<(String, [u8; N_LANGUAGES])> {
    let mut counts: BTreeMap<String, [u32; N_LANGUAGES]> = BTreeMap::new();
    let mut totals = [0u64; N_LANGUAGES];
    for (language, text) in texts {
        let folded = fold(&text.to_lowercase());
        let words = folded.split(|c: char| !c.is_alphanumeric());
        for word in words.filter(|word| !word.is_empty() && !word.contains(|c: char| c.is_numeric())) {
            counts.entry(word.to_owned()).or_default()[language] += 1;
            totals[language] += 1;
        }
    }
    counts
        .into_iter()
        .filter(|(word, counts)| counts.iter().sum::<u32>() >= fewest && word.chars().count() <= 20)
        .map(|(word, counts)| {
            let frequency = std::array::from_fn(|language| match counts[language] {
                0 => 0,
                n => {
                    (f64::from(n) / totals[language].max(1) as f64 * f64::from(1 << 20)).log2().round().clamp(1.0, 20.0)
                        as u8
                }
            });
            (word, frequency)
        })
        .collect()
}

/// Puts the lexicon together from the class file and counted words.
pub fn make_lexicon(classes_toml: &str, words: Vec<(String, [u8; N_LANGUAGES])>) -> anyhow::Result<LexiconFile> {
    let classes: BTreeMap<String, String> = toml::from_str(classes_toml)?;
    let terms = |list: String| {
        let phrases = list.contains(';');
        list.split(move |c: char| if phrases { c == ';' } else { c.is_whitespace() })
            .map(|term| term.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|term| !term.is_empty())
            .collect()
    };
    Ok(LexiconFile { classes: classes.into_iter().map(|(name, list)| (name, terms(list))).collect(), words })
}

const _: () = assert!(LANGUAGES.len() == N_LANGUAGES);
