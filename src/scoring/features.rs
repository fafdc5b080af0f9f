//! Walks the n-grams of a normalized text: characters in, one hashed feature after another out, nothing allocated per n-gram.
//!
//! The hashes and the order of features are part of the model file. Changing either needs a new [`FEATURE_SPEC_VERSION`].
//!
//! Three families, each normalized on its own ([`super::model`]):
//! - **word**: 1- to 3-grams and skip-grams of folded words; words with accents where they have some;
//! - **char**: 3- to 5-grams inside words, with word bounds (Joachims 1998; Joulin et al. 2017 hash n-grams the same way);
//! - **context**: what n-grams alone lack to tell use from mention: words near a group, n-grams with group names replaced by their class,
//!   chains and pairs of word classes (quotation, reporting, rejection, person, expulsion …), words by their place in quotes, negation
//!   and questions, and a few counts.

use super::lexicon::{ClassSet, Lexicon, combine, fold_into, word_hash};
use super::normalize::NormalizedText;

/// Changes with every change to this file that changes a feature.
pub const FEATURE_SPEC_VERSION: u32 = 2;

/// A family of features; each has its own norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    Word,
    Char,
    Context,
}

/// How many families there are.
pub const N_FAMILIES: usize = 3;

/// One n-gram: its hash, its family and the tokens at its two ends; a feature of the whole text has [`WHOLE_TEXT`] for ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub hash: u64,
    pub family: Family,
    pub first: u32,
    pub last: u32,
}

/// How many things are counted over a whole text.
pub const N_COUNTS: usize = 10;

/// The counts of a text, each as its number of binary digits: words, links, handles, hashtags, quotes, exclamation marks, question marks, quarters
/// of capitals, sentences, disguised letters.
pub type Shape = [u32; N_COUNTS];

/// The ends of a feature that belongs to no place in the text, such as its length.
pub const WHOLE_TEXT: (u32, u32) = (u32::MAX, u32::MAX);

/// A word of the normalized text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Token {
    /// Normalized characters `start..end`.
    pub start: u32,
    pub end: u32,
    /// Hash of the folded word.
    pub hash: u64,
    /// Its letters in [`TokenText::letters`].
    letters: (u32, u32),
    classes: ClassSet,
    flags: u8,
}

impl Token {
    /// True for a word in no class of the lexicon.
    pub fn is_unclassed(&self) -> bool {
        self.classes == 0
    }

    /// The classes of the lexicon that the word is in.
    pub fn classes(&self) -> ClassSet {
        self.classes
    }

    /// Where it stands, one bit each: in quotes, negated, in a question, after a reporting verb; and whether it is a lone sign.
    pub fn places(&self) -> u8 {
        self.flags
    }
}

const IN_QUOTES: u8 = 1;
const NEGATED: u8 = 2;
const IN_QUESTION: u8 = 4;
const AFTER_REPORT: u8 = 8;
/// Shares the hash space of flags: the token is a lone sign such as an emoji.
const IS_SIGN: u8 = 16;

/// The tokens of a text with what the context features need to know; reused from text to text.
#[derive(Debug, Clone, Default)]
pub struct TokenText {
    pub tokens: Vec<Token>,
    letters: Vec<char>,
    folded: String,
    /// Token index at which each sentence ends.
    sentence_ends: Vec<u32>,
    n_quotes: u32,
    n_exclamations: u32,
    n_questions: u32,
    marks: super::normalize::Marks,
}

/// The class bits that the walk itself asks for; looked up once a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContextClasses {
    group: ClassSet,
    negation: ClassSet,
    report: ClassSet,
}

impl ContextClasses {
    /// Finds the classes `group`, `negation` and `report` in the lexicon; a lexicon without them gives fewer features.
    pub fn new(lexicon: &Lexicon) -> ContextClasses {
        ContextClasses {
            group: lexicon.class("group") | lexicon.class("slur"),
            negation: lexicon.class("negation"),
            report: lexicon.class("report"),
        }
    }
}

impl TokenText {
    /// Cuts the normalized characters `from..to` into words and signs and marks quotes, negation, questions and reported speech.
    pub fn fill(&mut self, text: &NormalizedText, from: usize, to: usize, lexicon: &Lexicon, classes: &ContextClasses) {
        self.tokens.clear();
        self.letters.clear();
        self.sentence_ends.clear();
        (self.n_quotes, self.n_exclamations, self.n_questions) = (0, 0, 0);
        self.marks = text.marks;
        let chars = &text.chars[from..to];
        let mut in_quotes = false;
        let mut sentence_start = 0;
        let mut line_starts = true;
        let mut at = 0;
        while at < chars.len() {
            let c = chars[at].c;
            // `> ` before a line quotes it, in mail, forums and Markdown.
            if std::mem::replace(&mut line_starts, c == '\n') && c == '>' {
                in_quotes = true;
                self.n_quotes += 1;
            }
            if c.is_alphanumeric() {
                let end = at + chars[at..].iter().position(|u| !u.c.is_alphanumeric()).unwrap_or(chars.len() - at);
                self.push_token(chars, at, end, from, lexicon, if in_quotes { IN_QUOTES } else { 0 });
                at = end;
                continue;
            }
            match c {
                '"' => {
                    in_quotes = !in_quotes;
                    self.n_quotes += 1;
                }
                '«' => {
                    in_quotes = true;
                    self.n_quotes += 1;
                }
                '»' => in_quotes = false,
                '!' => self.n_exclamations += 1,
                '?' => self.n_questions += 1,
                '\n' => in_quotes = false,
                _ => {}
            }
            let sentence_ends = matches!(c, '.' | '!' | '?' | '\n' | ';');
            if is_sign(c) {
                self.push_token(chars, at, at + 1, from, lexicon, IS_SIGN | if in_quotes { IN_QUOTES } else { 0 });
            } else if sentence_ends && self.tokens.len() > sentence_start {
                if c == '?' {
                    self.tokens[sentence_start..].iter_mut().for_each(|token| token.flags |= IN_QUESTION);
                }
                sentence_start = self.tokens.len();
                self.sentence_ends.push(sentence_start as u32);
            }
            at += 1;
        }
        if self.tokens.len() > sentence_start {
            self.sentence_ends.push(self.tokens.len() as u32);
        }
        self.mark_phrases(lexicon);
        self.mark_scopes(classes);
    }

    fn push_token(
        &mut self,
        chars: &[super::normalize::NormalizedChar],
        start: usize,
        end: usize,
        offset: usize,
        lexicon: &Lexicon,
        flags: u8,
    ) {
        self.folded.clear();
        chars[start..end].iter().for_each(|unit| fold_into(unit.c, &mut self.folded));
        let hash = word_hash(&self.folded);
        let first_letter = self.letters.len() as u32;
        self.letters.extend(self.folded.chars());
        self.tokens.push(Token {
            start: (offset + start) as u32,
            end: (offset + end) as u32,
            hash,
            letters: (first_letter, self.letters.len() as u32),
            classes: lexicon.classes(hash),
            flags,
        });
    }

    fn mark_phrases(&mut self, lexicon: &Lexicon) {
        for first in 0..self.tokens.len() {
            let longest = lexicon.longest_phrase(self.tokens[first].hash);
            let mut key = self.tokens[first].hash;
            for last in first + 1..self.tokens.len().min(first + longest) {
                key = combine(key, self.tokens[last].hash);
                let classes = lexicon.phrase_classes(key);
                if classes != 0 {
                    self.tokens[first..=last].iter_mut().for_each(|token| token.classes |= classes);
                }
            }
        }
    }

    /// Negation reaches four words on, reported speech to the end of the sentence (window as in Pang, Lee & Vaithyanathan 2002).
    fn mark_scopes(&mut self, classes: &ContextClasses) {
        let mut start = 0;
        for &end in &self.sentence_ends {
            let mut negated_until = 0;
            let mut reported = false;
            for index in start..end as usize {
                let token = &mut self.tokens[index];
                if index < negated_until {
                    token.flags |= NEGATED;
                }
                if reported {
                    token.flags |= AFTER_REPORT;
                }
                if token.classes & classes.negation != 0 {
                    negated_until = index + 5;
                }
                reported |= token.classes & classes.report != 0;
            }
            start = end as usize;
        }
    }

    /// Letters and digits in the text; too few say nothing.
    pub fn n_letters(&self) -> usize {
        self.letters.iter().filter(|c| c.is_alphabetic()).count()
    }

    /// Calls `emit` for every feature, in a fixed order.
    pub fn walk(&self, classes: &ContextClasses, mut emit: impl FnMut(Feature)) {
        self.walk_words(&mut emit);
        self.walk_chars(&mut emit);
        self.walk_context(classes, &mut emit);
    }

    fn walk_words(&self, emit: &mut impl FnMut(Feature)) {
        let at = |index: usize| self.tokens[index].hash;
        for first in 0..self.tokens.len() {
            let mut send = |kind: u64, hash: u64, last: usize| {
                emit(Feature {
                    hash: finish(kind, hash),
                    family: Family::Word,
                    first: first as u32,
                    last: last as u32,
                });
            };
            send(1, at(first), first);
            if first + 1 < self.tokens.len() {
                send(2, combine(at(first), at(first + 1)), first + 1);
            }
            if first + 2 < self.tokens.len() {
                send(3, combine(combine(at(first), at(first + 1)), at(first + 2)), first + 2);
                send(4, combine(at(first), at(first + 2)), first + 2);
            }
            if first + 3 < self.tokens.len() {
                send(5, combine(at(first), at(first + 3)), first + 3);
            }
        }
    }

    fn walk_chars(&self, emit: &mut impl FnMut(Feature)) {
        const SHORTEST: usize = 3;
        const LONGEST: usize = 5;
        for (index, token) in self.tokens.iter().enumerate() {
            let letters = &self.letters[token.letters.0 as usize..token.letters.1 as usize];
            let n_padded = letters.len() + 2;
            let padded = |position: usize| {
                if position == 0 || position == n_padded - 1 { ' ' } else { letters[position - 1] }
            };
            for start in 0..n_padded.saturating_sub(SHORTEST - 1) {
                let mut hash = 0;
                for length in 1..=LONGEST.min(n_padded - start) {
                    hash = combine(hash, padded(start + length - 1) as u64 + 1);
                    if length >= SHORTEST {
                        let hash = finish(16 + length as u64, hash);
                        emit(Feature { hash, family: Family::Char, first: index as u32, last: index as u32 });
                    }
                }
            }
        }
    }

    fn walk_context(&self, classes: &ContextClasses, emit: &mut impl FnMut(Feature)) {
        const NEAR: usize = 5;
        let tokens = &self.tokens;
        let mut send = |kind: u64, hash: u64, (first, last): (u32, u32)| {
            emit(Feature { hash: finish(kind, hash), family: Family::Context, first, last });
        };
        let span = |first: usize, last: usize| (first as u32, last as u32);
        let group_hash = |token: &Token| if token.classes & classes.group != 0 { GROUP_HASH } else { token.hash };
        let mut present: ClassSet = 0;
        let mut first_with = [0u32; ClassSet::BITS as usize + 1];
        let mut flags_present = 0;
        let mut chain: [(ClassSet, u32); 2] = [(0, 0); 2];
        for (index, token) in tokens.iter().enumerate() {
            let is_group = token.classes & classes.group != 0;
            each_bit(token.classes & !present, |class| first_with[class as usize] = index as u32);
            present |= token.classes;
            flags_present |= token.flags;
            // Words by their place.
            for flag in [IN_QUOTES, NEGATED, IN_QUESTION, AFTER_REPORT] {
                if token.flags & flag != 0 {
                    send(32 + u64::from(flag), group_hash(token), span(index, index));
                    if token.classes != 0 {
                        send(64 + u64::from(flag), token.classes, span(index, index));
                    }
                }
            }
            // Words near a group, before and after apart.
            if is_group {
                let from = index.saturating_sub(NEAR);
                for (near, other) in tokens[from..index].iter().enumerate() {
                    send(96, group_hash(other), span(from + near, from + near));
                }
                for (near, other) in tokens.iter().enumerate().skip(index + 1).take(NEAR) {
                    send(97, group_hash(other), span(near, near));
                }
            }
            // N-grams in which a group has no name.
            for length in 2..=4 {
                let end = index + length;
                if end <= tokens.len() && tokens[index..end].iter().any(|t| t.classes & classes.group != 0) {
                    let hash = tokens[index..end].iter().fold(0, |hash, t| combine(hash, group_hash(t)));
                    send(100 + length as u64, hash, span(index, end - 1));
                }
            }
            // Chains of classes, words without a class left out.
            if token.classes != 0 {
                let (before, (last, last_at)) = (chain[0], chain[1]);
                if last != 0 {
                    each_bit(last, |left| {
                        each_bit(token.classes, |right| {
                            send(110, combine(left, right), (last_at, index as u32));
                        })
                    });
                    if before.0 != 0 {
                        let hash = combine(combine(before.0, last), token.classes);
                        send(111, hash, (before.1, index as u32));
                    }
                }
                chain = [chain[1], (token.classes, index as u32)];
            }
        }
        // What is said around a quotation, and in which sentence.
        if self.n_quotes > 0 {
            for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.flags & IN_QUOTES == 0) {
                send(124, group_hash(token), span(index, index));
            }
        }
        if let [inner @ .., _] = &self.sentence_ends[..]
            && let (Some(&first_end), Some(&before_last)) = (inner.first(), inner.last())
        {
            for (index, token) in tokens.iter().enumerate().take(first_end as usize) {
                send(125, group_hash(token), span(index, index));
            }
            for (index, token) in tokens.iter().enumerate().skip(before_last as usize) {
                send(126, group_hash(token), span(index, index));
            }
        }
        // What stands anywhere in the text together with what else.
        each_bit(present, |left| {
            let left_at = first_with[left as usize];
            send(120, left, (left_at, left_at));
            each_bit(present, |right| {
                if left < right {
                    let right_at = first_with[right as usize];
                    send(121, combine(left, right), (left_at.min(right_at), left_at.max(right_at)));
                }
            });
            for flag in [IN_QUOTES, NEGATED, IN_QUESTION, AFTER_REPORT] {
                if flags_present & flag != 0 {
                    send(122, combine(left, u64::from(flag)), (left_at, left_at));
                }
            }
        });
        // Every word once more where a group is spoken of: an insult with a group at hand is another insult.
        if present & classes.group != 0 {
            for (index, token) in tokens.iter().enumerate() {
                send(123, token.hash, span(index, index));
            }
        }
        for (kind, size) in (0..).zip(self.shape()) {
            send(130, combine(kind, u64::from(size)), WHOLE_TEXT);
        }
    }

    /// What is counted over the whole text, whatever its words.
    pub fn shape(&self) -> Shape {
        let marks = self.marks;
        let counts = [
            self.tokens.len() as u32,
            marks.n_links,
            marks.n_handles,
            marks.n_hashtags,
            self.n_quotes,
            self.n_exclamations,
            self.n_questions,
            // Quarters of capital letters.
            (marks.n_upper * 4).checked_div(marks.n_letters).unwrap_or(0),
            self.sentence_ends.len() as u32,
            marks.n_disguised,
        ];
        counts.map(|count| u32::BITS - count.leading_zeros())
    }
}

/// Emoji and other signs that say something; punctuation does not.
fn is_sign(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace() && !matches!(c, '«' | '»' | '…' | '°' | '·' | '•' | '§' | '¿' | '¡')
}

/// Stands for every name of a group.
const GROUP_HASH: u64 = 0x9D3F_1C6B_52A8_E07D;

fn each_bit(set: ClassSet, mut call: impl FnMut(u64)) {
    let mut left = set;
    while left != 0 {
        call(u64::from(left.trailing_zeros()) + 1);
        left &= left - 1;
    }
}

/// Mixes the kind in and spreads the bits (finalizer of MurmurHash3, Appleby 2011), for the high bits choose the slot.
fn finish(kind: u64, hash: u64) -> u64 {
    let mut mixed = hash ^ kind.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::super::lexicon::tests::small;
    use super::*;

    fn walked(text: &str) -> Vec<Feature> {
        let lexicon = small();
        let classes = ContextClasses::new(&lexicon);
        let mut normalized = NormalizedText::default();
        normalized.fill(text, &lexicon);
        let mut tokens = TokenText::default();
        tokens.fill(&normalized, 0, normalized.chars.len(), &lexicon, &classes);
        let mut features = Vec::new();
        tokens.walk(&classes, |feature| features.push(feature));
        features
    }

    fn hashes(text: &str, family: Family) -> Vec<u64> {
        walked(text).into_iter().filter(|f| f.family == family).map(|f| f.hash).collect()
    }

    #[test]
    fn disguises_and_accents_give_the_same_words() {
        assert_eq!(hashes("LES J.U.I.F.S", Family::Word), hashes("les juifs", Family::Word));
        assert_eq!(hashes("année", Family::Char), hashes("ANNEE", Family::Char));
    }

    #[test]
    fn quotes_and_groups_change_the_context() {
        let plain = hashes("les juifs dehors", Family::Context);
        assert_ne!(hashes("« les juifs dehors »", Family::Context), plain);
        let in_quotes = |text| {
            let lexicon = small();
            let mut normalized = NormalizedText::default();
            normalized.fill(text, &lexicon);
            let mut tokens = TokenText::default();
            tokens.fill(&normalized, 0, normalized.chars.len(), &lexicon, &ContextClasses::new(&lexicon));
            tokens.tokens.iter().map(|token| token.flags & IN_QUOTES != 0).collect::<Vec<_>>()
        };
        assert_eq!(in_quotes("&gt; les juifs\nnon 2 > 1"), [true, true, false, false, false]);
        let near = |text| hashes(text, Family::Context).into_iter().collect::<std::collections::HashSet<_>>();
        let shared = near("les juifs dehors").intersection(&near("les arabes dehors")).count();
        assert!(shared > 10, "one group's contexts hold for another: {shared}");
    }

    #[test]
    fn spans_lie_in_the_text() {
        for feature in walked("Stop : « les juifs dehors » non ? 😀") {
            assert!(feature.first <= feature.last);
            assert!((feature.first, feature.last) == WHOLE_TEXT || feature.last < 7);
        }
    }
}
