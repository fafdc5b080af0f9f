//! Labelled passages: JSON lines in, checked [`Passage`]s out; near-duplicates found and coverage counted on the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use vigie::scoring::Signal;
use vigie::scoring::lexicon::{LANGUAGES, combine, fold, word_hash};
use vigie::scoring::signals::N_SIGNALS;

/// A labelled passage as it stands in a file. Fields that training does not know are an error: a misspelt label must not be lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passage {
    pub id: String,
    pub lang: String,
    /// `train`, `dev` or `stream` where the source has its own parts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub split: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub register: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub function: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The contrast set that it belongs to; a set is never parted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The article that it is a paragraph of; an article is never parted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub article: Option<String>,
    pub text: String,
    /// By signal name, 1 or 0; a missing one is unknown.
    #[serde(default)]
    pub labels: BTreeMap<String, u8>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// How much the passage counts in the loss; 1 unless its source says otherwise.
    #[serde(skip, default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl Passage {
    /// The label of a signal, `None` when it is unknown.
    pub fn label(&self, signal: Signal) -> Option<bool> {
        self.labels.get(signal.as_str()).map(|&label| label == 1)
    }

    /// All labels in the order of [`Signal::ALL`].
    pub fn label_array(&self) -> [Option<bool>; N_SIGNALS] {
        Signal::ALL.map(|signal| self.label(signal))
    }

    /// The place of its language in [`LANGUAGES`].
    pub fn language(&self) -> usize {
        LANGUAGES.iter().position(|&code| code == self.lang).expect("checked when it was read")
    }

    /// What must stay on one side of a split: its contrast set, its article, else itself.
    pub fn unit(&self) -> &str {
        self.set.as_deref().or(self.article.as_deref()).unwrap_or(&self.id)
    }
}

/// Reads labelled passages and checks each: known language, labels 0 or 1 that the codebook allows together, a text, an id of its own.
pub fn read_passages(path: &Path) -> Result<Vec<Passage>> {
    let content = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut passages = Vec::new();
    let mut ids = BTreeSet::new();
    for (index, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{} line {}", path.display(), index + 1);
        let mut passage: Passage = serde_json::from_str(line).with_context(place)?;
        passage.weight = 1.0;
        check(&passage).with_context(place)?;
        if !ids.insert(passage.id.clone()) {
            bail!("{}: id {:?} stands twice", place(), passage.id);
        }
        passages.push(passage);
    }
    Ok(passages)
}

/// Refuses what the codebook does not allow and what training cannot use.
pub fn check(passage: &Passage) -> Result<()> {
    if !LANGUAGES.contains(&passage.lang.as_str()) {
        bail!("language {:?} is not one of {}", passage.lang, LANGUAGES.join(", "));
    }
    if passage.text.trim().is_empty() {
        bail!("the text is empty");
    }
    for (name, &label) in &passage.labels {
        if Signal::from_name(name).is_none() {
            bail!("there is no signal {name:?}");
        }
        if label > 1 {
            bail!("label {name} is {label}, not 0 or 1");
        }
    }
    let implies_hate = [Signal::Antisemitism, Signal::Attack].into_iter().any(|s| passage.label(s) == Some(true));
    if implies_hate && passage.label(Signal::HateSpeech) == Some(false) {
        bail!("antisemitism or attack is 1 and hate_speech 0: the codebook does not allow it");
    }
    Ok(())
}

/// Two passages that say nearly the same: indices and the share of 3-word runs in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearDuplicate {
    pub left: usize,
    pub right: usize,
    pub similarity: f64,
}

/// Finds pairs whose sets of 3-word runs overlap (Jaccard) by at least `threshold` (Broder 1997), by an inverted index over the rare runs.
pub fn near_duplicates(passages: &[Passage], threshold: f64) -> Vec<NearDuplicate> {
    /// A run that stands in more passages is a phrase of the language.
    const MOST_PASSAGES_A_RUN: usize = 60;
    let runs: Vec<BTreeSet<u64>> = passages.iter().map(|passage| word_runs(&passage.text)).collect();
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, set) in runs.iter().enumerate() {
        set.iter().for_each(|&run| places.entry(run).or_default().push(index));
    }
    let mut found = Vec::new();
    for (right, set) in runs.iter().enumerate() {
        let mut shared: BTreeMap<usize, usize> = BTreeMap::new();
        for run in set {
            let holders = &places[run];
            if holders.len() <= MOST_PASSAGES_A_RUN {
                holders.iter().filter(|&&left| left < right).for_each(|&left| *shared.entry(left).or_default() += 1);
            }
        }
        for (left, n_shared) in shared {
            let similarity = n_shared as f64 / (set.len() + runs[left].len() - n_shared) as f64;
            if similarity >= threshold {
                found.push(NearDuplicate { left, right, similarity });
            }
        }
    }
    found
}

fn word_runs(text: &str) -> BTreeSet<u64> {
    let folded = fold(&text.to_lowercase());
    let words: Vec<u64> =
        folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(word_hash).collect();
    match words.len() {
        0..3 => [words.iter().fold(0, |hash, &word| combine(hash, word))].into(),
        _ => words.windows(3).map(|run| combine(combine(run[0], run[1]), run[2])).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn passage(id: &str, text: &str, labels: &[(&str, u8)]) -> Passage {
        Passage {
            id: id.to_owned(),
            lang: "fr".to_owned(),
            split: String::new(),
            register: "post".to_owned(),
            function: String::new(),
            groups: Vec::new(),
            set: None,
            article: None,
            text: text.to_owned(),
            labels: labels.iter().map(|&(name, label)| (name.to_owned(), label)).collect(),
            source: "test".to_owned(),
            weight: 1.0,
        }
    }

    #[test]
    fn labels_that_the_codebook_forbids_are_refused() {
        assert!(check(&passage("a", "un texte", &[("attack", 1), ("hate_speech", 0)])).is_err());
        assert!(check(&passage("a", "un texte", &[("attack", 1), ("hate_speech", 1)])).is_ok());
        assert!(check(&passage("a", "un texte", &[("toxicity", 1)])).is_err());
    }

    #[test]
    fn nearly_equal_passages_are_found() {
        let passages = [
            passage("a", "Le marché du samedi a lieu sur la place de la mairie dès huit heures", &[]),
            passage("b", "Il pleut sur la côte depuis trois jours et personne ne sort", &[]),
            passage("c", "le MARCHÉ du samedi a lieu sur la place de la mairie, dès neuf heures", &[]),
        ];
        let found = near_duplicates(&passages, 0.6);
        assert_eq!(found.iter().map(|pair| (pair.left, pair.right)).collect::<Vec<_>>(), [(0, 2)]);
    }
}
