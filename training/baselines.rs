//! What simpler means reach: passages in, scores of a keyword rule and of multinomial naive Bayes out. Always-yes stands in every figure already.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use vigie::scoring::Signal;
use vigie::scoring::lexicon::{LANGUAGES, N_LANGUAGES, fold, word_hash};
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

/// Multinomial naive Bayes on the counts of frequent words, one model a language and signal (McCallum & Nigam 1998; add-one smoothing). With
/// both languages in one, every English word would speak for what English rows happen to hold.
///
/// Our own twenty lines: `linfa-bayes` 0.8 prints its whole state to standard error on every fit and takes dense counts only.
pub struct WordBayes {
    by_language: [LanguageBayes; N_LANGUAGES],
}

struct LanguageBayes {
    column_of: HashMap<u64, usize>,
    models: [SignalBayes; N_SIGNALS],
}

/// Logarithms of how much likelier a passage that carries the signal is: before reading, and a word.
#[derive(Default)]
struct SignalBayes {
    prior: f64,
    words: Vec<f64>,
}

const N_WORDS: usize = 3000;

impl WordBayes {
    /// Fits on passages that we have written or read; it knows no weights, so that rows with other labels would drown them.
    pub fn fit(passages: &[&Passage]) -> WordBayes {
        let of = |language: usize| passages.iter().copied().filter(|p| p.language() == language).collect::<Vec<_>>();
        WordBayes { by_language: std::array::from_fn(|language| LanguageBayes::fit(&of(language))) }
    }

    /// Probabilities of all signals of a text; 0 in a language that it does not know.
    pub fn scores(&self, text: &str, lang: &str) -> [f64; N_SIGNALS] {
        let language = LANGUAGES.iter().position(|&code| code == lang);
        language.map_or([0.0; N_SIGNALS], |language| self.by_language[language].scores(text))
    }
}

impl LanguageBayes {
    fn fit(passages: &[&Passage]) -> LanguageBayes {
        let read: Vec<Vec<u64>> = passages.iter().map(|passage| words_of(&passage.text)).collect();
        let mut n_with: BTreeMap<u64, u32> = BTreeMap::new();
        for words in &read {
            let once: BTreeSet<u64> = words.iter().copied().collect();
            once.into_iter().for_each(|word| *n_with.entry(word).or_default() += 1);
        }
        let mut ranked: Vec<(u64, u32)> = n_with.into_iter().collect();
        ranked.sort_by_key(|&(word, n)| (Reverse(n), word));
        let column_of: HashMap<u64, usize> =
            ranked.iter().take(N_WORDS).enumerate().map(|(column, &(word, _))| (word, column)).collect();
        let known = |signal| passages.iter().zip(&read).filter_map(move |(p, words)| Some((words, p.label(signal)?)));
        LanguageBayes { models: Signal::ALL.map(|signal| fit_signal(&column_of, known(signal))), column_of }
    }

    fn scores(&self, text: &str) -> [f64; N_SIGNALS] {
        let words = words_of(text);
        let columns: Vec<usize> = words.iter().filter_map(|word| self.column_of.get(word).copied()).collect();
        Signal::ALL.map(|signal| {
            let model = &self.models[signal.index()];
            let margin = model.prior + columns.iter().map(|&column| model.words[column]).sum::<f64>();
            1.0 / (1.0 + (-margin).exp())
        })
    }
}

fn fit_signal<'a>(column_of: &HashMap<u64, usize>, known: impl Iterator<Item = (&'a Vec<u64>, bool)>) -> SignalBayes {
    // Everything starts at one: a word or a class that was never seen is rare, not impossible.
    let mut counts = [vec![1.0; column_of.len()], vec![1.0; column_of.len()]];
    let mut n_passages = [1.0; 2];
    for (words, label) in known {
        let class = usize::from(label);
        n_passages[class] += 1.0;
        words.iter().filter_map(|word| column_of.get(word)).for_each(|&column| counts[class][column] += 1.0);
    }
    let [absent, present] = counts;
    let likelier = absent.iter().sum::<f64>() / present.iter().sum::<f64>();
    SignalBayes {
        prior: f64::ln(n_passages[1] / n_passages[0]),
        words: present.iter().zip(&absent).map(|(present, absent)| f64::ln(present / absent * likelier)).collect(),
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
        let bayes = WordBayes::fit(&passages.iter().collect::<Vec<_>>());
        assert!(
            bayes.scores("orage", "fr").iter().all(|&p| p > 0.5)
                && bayes.scores("plage", "fr").iter().all(|&p| p < 0.5)
        );
        // Two of six (seen once, add-one smoothing) against one of six, even priors.
        assert!((bayes.scores("orage", "fr")[0] - 2.0 / 3.0).abs() < 1e-9);
    }
}
