//! Five linear models over one walk of features: a text in, margins and then scores out.
//!
//! Weights are integers, and so is every sum: a contribution is `weight · k`, where `k` is the family's norm as a 16-bit fixed-point
//! number, so that contributions add up to the margin exactly, in any order and on any machine. A model with a [`Network`] adds its margins,
//! rounded to the same steps; the margin of a signal is then the mean of both.

use super::calibration::{DocumentCalibration, Platt};
use super::explain::{self, Explanation};
use super::features::{ContextClasses, Family, Feature, N_FAMILIES, Shape, TokenText};
use super::language::{self, Detected};
use super::lexicon::{Lexicon, N_LANGUAGES};
use super::network::{Network, NetworkScratch, Word};
use super::normalize::NormalizedText;
use super::passages::cut_passages;
use super::signals::{Abstained, N_SIGNALS, PassageScores, Scored, Signal, SignalScore, Thresholds, reading};
use super::stack::Stack;

/// Fixed-point ones of a family's norm.
pub const NORM_ONE: f64 = 65_536.0;
/// Fixed-point ones of a squared inverse document frequency.
pub const IDF_SQUARED_ONE: f64 = 256.0;

/// What is known of one feature: five weights (times its inverse document frequency) and the square of that frequency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FeatureWeights {
    /// Low bits of the hash, to tell the feature from others in its slot; 0 marks an empty slot.
    tag: u32,
    pub idf_squared: u16,
    pub weights: [i16; N_SIGNALS],
}

/// Open-addressed table from feature hash to weights: one cache line a look-up (four slots each).
#[derive(Debug, Clone)]
pub struct WeightTable {
    slots: Vec<FeatureWeights>,
    shift: u32,
}

impl WeightTable {
    /// Builds the table. Features whose tag and slot collide keep the first; at 2^-32 a pair this does not happen in practice.
    pub fn new(features: impl ExactSizeIterator<Item = (u64, u16, [i16; N_SIGNALS])>) -> WeightTable {
        let n_slots = (features.len() * 3 / 2).next_power_of_two().max(16);
        let mut table =
            WeightTable { slots: vec![FeatureWeights::default(); n_slots], shift: 64 - n_slots.trailing_zeros() };
        for (hash, idf_squared, weights) in features {
            let mut slot = (hash >> table.shift) as usize;
            while table.slots[slot].tag != 0 {
                slot = (slot + 1) & (n_slots - 1);
            }
            table.slots[slot] = FeatureWeights { tag: tag(hash), idf_squared, weights };
        }
        table
    }

    /// The weights of a feature, or `None` when the model does not know it.
    #[inline]
    pub fn get(&self, hash: u64) -> Option<&FeatureWeights> {
        let tag = tag(hash);
        let mut slot = (hash >> self.shift) as usize;
        loop {
            let found = &self.slots[slot];
            if found.tag == tag {
                return Some(found);
            }
            if found.tag == 0 {
                return None;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

fn tag(hash: u64) -> u32 {
    (hash as u32).max(1)
}

/// Everything about one language: how margins become scores and scores bands.
#[derive(Debug, Clone, Copy)]
pub struct LanguageHead {
    pub stack: Option<Stack>,
    pub platt: [Platt; N_SIGNALS],
    pub thresholds: [Thresholds; N_SIGNALS],
    pub document: [DocumentCalibration; N_SIGNALS],
}

/// A model ready to score. Immutable; share it between threads behind an `Arc`.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) lexicon: Lexicon,
    pub(super) classes: ContextClasses,
    pub(super) table: WeightTable,
    pub(super) network: Option<Network>,
    /// Intercepts in units of `unit / NORM_ONE`.
    pub(super) bias: [i64; N_SIGNALS],
    /// What one step of a weight is worth; a power of two, so that products are exact.
    pub(super) unit: [f64; N_SIGNALS],
    pub(super) family_scale: [f64; N_FAMILIES],
    pub(super) heads: [LanguageHead; N_LANGUAGES],
    pub(super) fewest_letters: usize,
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) header_json: String,
}

/// Memory that scoring reuses from text to text; one a thread.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    pub(super) normalized: NormalizedText,
    pub(super) tokens: TokenText,
    pub(super) network: NetworkScratch,
    feature_sums: FamilySums,
}

#[derive(Debug, Clone, Copy, Default)]
struct FamilySums {
    weights: [[i64; N_SIGNALS]; N_FAMILIES],
    idf_squared: [u64; N_FAMILIES],
}

/// The margins of one passage in integer units and the family norms that made them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Margins {
    /// Of the linear models.
    pub units: [i64; N_SIGNALS],
    pub norms: [i64; N_FAMILIES],
    /// Of the network, in the same units.
    pub network: [i64; N_SIGNALS],
}

impl Model {
    /// The model's version, such as `2026-11-22-a`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// SHA-256 of the model file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The description in the model file as JSON: feature spec, calibration, thresholds, training data, metrics, card.
    pub fn description(&self) -> &str {
        &self.header_json
    }

    /// The words that the model knows.
    pub fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }

    /// The band thresholds of a signal in a language (index into [`super::lexicon::LANGUAGES`]).
    pub fn thresholds(&self, language: usize, signal: Signal) -> Thresholds {
        self.heads[language].thresholds[signal.index()]
    }

    /// Scores a text. `hint` is the language that the record gives itself, if any.
    pub fn score(&self, text: &str, hint: Option<&str>, scratch: &mut Scratch) -> Scored {
        let passages = cut_passages(text);
        let nothing = Detected { lang: super::Lang { code: "und", score: 0.0 }, index: None };
        let mut detected = hint.and_then(language::from_hint);
        if passages.is_empty() {
            return abstain(detected.unwrap_or(nothing), Abstained::Empty);
        }
        let mut n_letters = 0;
        let mut language = 0;
        let mut scored = Vec::with_capacity(passages.len());
        for (index, range) in passages.iter().enumerate() {
            read_passage(&text[range.clone()], &self.lexicon, &self.classes, scratch);
            n_letters += scratch.tokens.n_letters();
            if index == 0 {
                if passages.len() == 1 && n_letters < self.fewest_letters {
                    return abstain(detected.unwrap_or(nothing), Abstained::TooShort);
                }
                let found = *detected.get_or_insert_with(|| language::detect(text, &scratch.tokens, &self.lexicon));
                match found.index {
                    Some(index) => language = index,
                    None => return abstain(found, Abstained::UnsupportedLanguage),
                }
            }
            let margins = self.passage_margins(scratch);
            let scores = self.passage_scores(&margins, scratch, language);
            scored.push(PassageScores { start: range.start, end: range.end, scores });
        }
        let detected = detected.unwrap_or(nothing);
        if n_letters < self.fewest_letters {
            return abstain(detected, Abstained::TooShort);
        }
        let signals = self.document_signals(&scored, language);
        let bands = signals.map(|signal| signal.band);
        if scored.len() == 1 {
            scored.clear();
        }
        Scored {
            lang: detected.lang,
            signals: Some(signals),
            reading: Some(reading(&bands)),
            abstained: None,
            passages: scored,
        }
    }

    /// Scores a text and says which words made each score: of a long text those of the passage that decided.
    pub fn explain(&self, text: &str, hint: Option<&str>, scratch: &mut Scratch) -> (Scored, Vec<Explanation>) {
        let scored = self.score(text, hint, scratch);
        if scored.abstained.is_some() {
            return (scored, Vec::new());
        }
        let decided = |signal: Signal| {
            let score = |passage: usize| scored.passages[passage].scores[signal.index()];
            // The first of equals.
            (0..scored.passages.len()).rev().max_by(|&left, &right| score(left).total_cmp(&score(right))).unwrap_or(0)
        };
        let decided = Signal::ALL.map(decided);
        let mut found: [Option<Explanation>; N_SIGNALS] = Default::default();
        for (passage, range) in
            cut_passages(text).into_iter().enumerate().filter(|(passage, _)| decided.contains(passage))
        {
            read_passage(&text[range.clone()], &self.lexicon, &self.classes, scratch);
            let margins = self.passage_margins(scratch);
            let of_network = self.network.as_ref().map(|network| network.contributions(&mut scratch.network));
            for signal in Signal::ALL.into_iter().filter(|signal| decided[signal.index()] == passage) {
                let explanation = explain::explain(self, scratch, &margins, of_network.as_deref(), signal, range.start);
                found[signal.index()] = Some(explanation);
            }
        }
        (scored, found.into_iter().flatten().collect())
    }

    fn passage_margins(&self, scratch: &mut Scratch) -> Margins {
        let mut sums = FamilySums::default();
        scratch.tokens.walk(&self.classes, |feature| {
            if let Some(known) = self.table.get(feature.hash) {
                let family = feature.family as usize;
                sums.idf_squared[family] += u64::from(known.idf_squared);
                for (sum, &weight) in sums.weights[family].iter_mut().zip(&known.weights) {
                    *sum += i64::from(weight);
                }
            }
        });
        scratch.feature_sums = sums;
        let norms = std::array::from_fn(|family| family_norm(self.family_scale[family], sums.idf_squared[family]));
        let units = std::array::from_fn(|signal| {
            let from_features: i64 = (0..N_FAMILIES).map(|family| norms[family] * sums.weights[family][signal]).sum();
            self.bias[signal] + from_features
        });
        let network = self.network.as_ref().map_or([0; N_SIGNALS], |network| {
            scratch.network.fill(scratch.tokens.tokens.iter());
            let found = network.margins_of(&mut scratch.network);
            Signal::ALL.map(|signal| self.to_units(found[signal.index()], signal))
        });
        Margins { units, norms, network }
    }

    /// A signal's margin as a number: exact, for units are powers of two.
    pub(super) fn margin(&self, margins: &Margins, signal: Signal) -> f64 {
        self.in_units(margins.units[signal.index()] + margins.network[signal.index()], signal)
    }

    /// Units as a share of the margin: with a network, half of what they are to the linear model or the network alone.
    pub(super) fn in_units(&self, units: i64, signal: Signal) -> f64 {
        units as f64 * self.step(signal) * if self.network.is_some() { 0.5 } else { 1.0 }
    }

    /// A network's margin in units.
    pub(super) fn to_units(&self, margin: f64, signal: Signal) -> i64 {
        (margin / self.step(signal)).round() as i64
    }

    fn step(&self, signal: Signal) -> f64 {
        self.unit[signal.index()] / NORM_ONE
    }

    /// The contribution of one known feature to one margin, in units.
    pub(super) fn contribution(&self, feature: &Feature, margins: &Margins, signal: Signal) -> Option<i64> {
        let known = self.table.get(feature.hash)?;
        Some(i64::from(known.weights[signal.index()]) * margins.norms[feature.family as usize])
    }

    fn passage_scores(&self, margins: &Margins, scratch: &Scratch, language: usize) -> [f64; N_SIGNALS] {
        let head = &self.heads[language];
        let alone = Signal::ALL.map(|signal| self.margin(margins, signal));
        let network =
            self.network.as_ref().map(|_| Signal::ALL.map(|s| self.step(s) * margins.network[s.index()] as f64));
        let shape = scratch.tokens.shape();
        let weighed = head.stack.as_ref().map_or(alone, |stack| stack.margins(&alone, network.as_ref(), &shape));
        imply(std::array::from_fn(|signal| head.platt[signal].score(weighed[signal])))
    }

    fn document_signals(&self, passages: &[PassageScores], language: usize) -> [SignalScore; N_SIGNALS] {
        let head = &self.heads[language];
        let scores = imply(std::array::from_fn(|signal| {
            let highest = passages.iter().map(|passage| passage.scores[signal]).fold(0.0, f64::max);
            head.document[signal].score(highest, passages.len())
        }));
        std::array::from_fn(|signal| {
            let score = scores[signal];
            SignalScore { score, band: head.thresholds[signal].band(score) }
        })
    }

    /// The margins of one passage as numbers, before stack and calibration. No passage cutting, no abstention.
    pub fn margins_of_passage(&self, passage: &str, scratch: &mut Scratch) -> [f64; N_SIGNALS] {
        read_passage(passage, &self.lexicon, &self.classes, scratch);
        let margins = self.passage_margins(scratch);
        Signal::ALL.map(|signal| self.margin(&margins, signal))
    }

    /// What normalizing makes of a text, for a person who wonders.
    pub fn normalized(&self, text: &str) -> String {
        let mut normalized = NormalizedText::default();
        normalized.fill(text, &self.lexicon);
        normalized.text()
    }
}

/// What a family's sum of weights is multiplied with: `scale / √Σ idf²`, in fixed point.
pub fn family_norm(scale: f64, idf_squared: u64) -> i64 {
    if idf_squared == 0 {
        return 0;
    }
    (scale / (idf_squared as f64 / IDF_SQUARED_ONE).sqrt() * NORM_ONE).round() as i64
}

/// By the codebook an attack and antisemitism are always about hate: the topic is at least as probable as either.
pub fn imply(mut scores: [f64; N_SIGNALS]) -> [f64; N_SIGNALS] {
    let topic = Signal::HateSpeech.index();
    scores[topic] = scores[topic].max(scores[Signal::Antisemitism.index()]).max(scores[Signal::Attack.index()]);
    scores
}

fn abstain(detected: Detected, why: Abstained) -> Scored {
    Scored { lang: detected.lang, signals: None, reading: None, abstained: Some(why), passages: Vec::new() }
}

/// The shape of one passage as scoring sees it; for training.
pub fn passage_shape(passage: &str, lexicon: &Lexicon, scratch: &mut Scratch) -> Shape {
    read_passage(passage, lexicon, &ContextClasses::new(lexicon), scratch);
    scratch.tokens.shape()
}

/// The words of one passage as the network reads them; for training.
pub fn network_words(passage: &str, lexicon: &Lexicon, scratch: &mut Scratch) -> Vec<Word> {
    read_passage(passage, lexicon, &ContextClasses::new(lexicon), scratch);
    scratch.tokens.tokens.iter().map(Word::from).collect()
}

/// The words of one passage by the hash that scoring knows them by, each with its bytes in the passage; for training.
pub fn passage_words(passage: &str, lexicon: &Lexicon, scratch: &mut Scratch) -> Vec<(u64, std::ops::Range<usize>)> {
    read_passage(passage, lexicon, &ContextClasses::new(lexicon), scratch);
    let bytes = |start: u32, end: u32| {
        let (start, end) = scratch.normalized.original_range(start as usize, end as usize);
        start..end
    };
    scratch.tokens.tokens.iter().map(|token| (token.hash, bytes(token.start, token.end))).collect()
}

/// Walks the features of one passage the way the models do; for training, which counts what scoring will look up.
pub fn walk_passage(passage: &str, lexicon: &Lexicon, scratch: &mut Scratch, emit: impl FnMut(Feature)) {
    let classes = ContextClasses::new(lexicon);
    read_passage(passage, lexicon, &classes, scratch);
    scratch.tokens.walk(&classes, emit);
}

fn read_passage(passage: &str, lexicon: &Lexicon, classes: &ContextClasses, scratch: &mut Scratch) {
    scratch.normalized.fill(passage, lexicon);
    let n_chars = scratch.normalized.chars.len();
    scratch.tokens.fill(&scratch.normalized, 0, n_chars, lexicon, classes);
}

const _: () = assert!(size_of::<FeatureWeights>() == 16 && Family::Context as usize + 1 == N_FAMILIES);
