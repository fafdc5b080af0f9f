//! What simpler means reach: passages in, scores of a keyword rule and of multinomial naive Bayes out. Always-yes stands in every figure already.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_bayes::{MultinomialNb, NaiveBayes};
use ndarray::{Array1, Array2};
use vigie::scoring::Signal;
use vigie::scoring::lexicon::{fold, word_hash};
use vigie::scoring::signals::N_SIGNALS;

use crate::corpus::Passage;

/// What a moderator would type into a filter: starts of folded words in French and English; a blank or an end of the text must come before.
/// In the order of [`Signal::ALL`]. `hate_speech` also takes the words of `antisemitism` and `attack`, as the codebook does.
const KEYWORDS: [&str; N_SIGNALS] = [
    "antisemit judeophob shoah holocaust negationnis auschwitz pogrom youpin youtre kike feuj zionazi goyim rothschild rafle",
    "racis raciste haine haineu hate hatred xenophob islamophob homophob transphob discriminat prejuge prejudice bigot slur misogyn sexis",
    "moderat moderer modo ban banni bannir banned suspendu suspended shadowban signalement takedown censur demonet deplatform cgu dsa arcom avia",
    "bougnoul negre nigger nigga bicot chinetoque niakoue romanichel youpin youtre kike raghead pede tapette faggot tranny sous-race vermine invasion islamisation remigration",
    "condamn denonc solidar soutien soutenir condemn denounce solidarity support stop combattre inacceptable unacceptable honte shame",
];

/// 1 for every signal of which a keyword stands in the text, else 0.
pub fn keyword_scores(text: &str) -> [f64; N_SIGNALS] {
    let text = fold(&text.to_lowercase());
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    let hit = |signal: Signal| {
        KEYWORDS[signal.index()].split(' ').any(|keyword| words.iter().any(|word| word.starts_with(keyword)))
    };
    let topics = [Signal::Antisemitism, Signal::Attack];
    Signal::ALL.map(|signal| {
        let implied = signal == Signal::HateSpeech && topics.into_iter().any(hit);
        f64::from(u8::from(hit(signal) || implied))
    })
}

/// Multinomial naive Bayes on the counts of frequent words (McCallum & Nigam 1998), one model a signal.
pub struct WordBayes {
    column_of: HashMap<u64, usize>,
    models: Vec<MultinomialNb<f32, usize>>,
}

/// Columns of the dense counts: 100 MB for 9,000 passages.
const N_WORDS: usize = 3000;

impl WordBayes {
    /// Fits five models with `linfa-bayes` on passages that we have written or read; it knows no weights, so that rows with other labels would drown them.
    pub fn fit(passages: &[&Passage]) -> Result<WordBayes> {
        let mut n_with: BTreeMap<u64, u32> = BTreeMap::new();
        for passage in passages {
            let mut words = words_of(&passage.text);
            words.sort_unstable();
            words.dedup();
            words.into_iter().for_each(|word| *n_with.entry(word).or_default() += 1);
        }
        let mut ranked: Vec<(u64, u32)> = n_with.into_iter().collect();
        ranked.sort_by_key(|&(word, n)| (std::cmp::Reverse(n), word));
        let column_of = ranked.iter().take(N_WORDS).enumerate().map(|(column, &(word, _))| (word, column)).collect();
        let mut bayes = WordBayes { column_of, models: Vec::new() };
        for signal in Signal::ALL {
            let known = passages.iter().filter_map(|passage| Some((passage.text.as_str(), passage.label(signal)?)));
            let (texts, labels): (Vec<&str>, Vec<bool>) = known.unzip();
            let labels: Array1<usize> = labels.into_iter().map(usize::from).collect();
            let model = MultinomialNb::params()
                .fit(&Dataset::new(bayes.counts(&texts), labels))
                .with_context(|| format!("naive Bayes for {}", signal.as_str()))?;
            bayes.models.push(model);
        }
        Ok(bayes)
    }

    /// Probabilities of all signals for each text; 0 of a signal that training has never seen.
    pub fn scores(&self, texts: &[&str]) -> Vec<[f64; N_SIGNALS]> {
        let counts = self.counts(texts);
        let mut scores = vec![[0.0; N_SIGNALS]; texts.len()];
        for (signal, model) in self.models.iter().enumerate() {
            let by_class = model.joint_log_likelihood(counts.view());
            let (Some(absent), Some(present)) = (by_class.get(&0), by_class.get(&1)) else { continue };
            for ((row, &absent), &present) in scores.iter_mut().zip(absent).zip(present) {
                row[signal] = 1.0 / (1.0 + f64::from(absent - present).exp());
            }
        }
        scores
    }

    fn counts(&self, texts: &[&str]) -> Array2<f32> {
        let mut counts = Array2::zeros((texts.len(), self.column_of.len()));
        for (row, text) in texts.iter().enumerate() {
            for word in words_of(text) {
                if let Some(&column) = self.column_of.get(&word) {
                    counts[(row, column)] += 1.0;
                }
            }
        }
        counts
    }
}

fn words_of(text: &str) -> Vec<u64> {
    let folded = fold(&text.to_lowercase());
    folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(word_hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::tests::passage;

    #[test]
    fn the_keyword_rule_reads_starts_of_words() {
        let scores = keyword_scores("Un tag ANTISÉMITE, mon compte banni");
        assert_eq!(scores, [1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(keyword_scores("le marché du samedi"), [0.0; N_SIGNALS]);
    }

    #[test]
    fn naive_bayes_learns_a_word() {
        let all = |label| Signal::ALL.map(|signal| (signal.as_str(), label));
        let passages = [passage("a", "pluie orage", &all(1)), passage("b", "soleil plage", &all(0))];
        let bayes = WordBayes::fit(&passages.iter().collect::<Vec<_>>()).unwrap();
        let scores = bayes.scores(&["orage", "plage"]);
        assert!(scores[0].iter().all(|&p| p > 0.5) && scores[1].iter().all(|&p| p < 0.5), "{scores:?}");
    }
}
