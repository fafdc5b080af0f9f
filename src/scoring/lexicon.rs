//! What the model knows of single words: a folded word in, its classes and how common it is in each language out.
//!
//! The lists are part of the model file. Classes let a rule learnt on one group hold for another ("all GROUP are …"), and the counts
//! undo joined hashtags, stretched letters and masked letters, and tell French from English in short messages.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use unicode_normalization::char::{decompose_canonical, is_combining_mark};
use xxhash_rust::xxh3::xxh3_64;

/// Languages that the models are made for, in the order of all per-language arrays.
pub const LANGUAGES: [&str; 2] = ["fr", "en"];

/// How many languages there are.
pub const N_LANGUAGES: usize = LANGUAGES.len();

/// A set of word classes, one bit a class, in the order of [`LexiconFile::classes`]; at most 64.
pub type ClassSet = u64;

/// The lexicon as it lies in the model file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LexiconFile {
    /// Class names with their terms (folded; a term of several words is a phrase).
    pub classes: BTreeMap<String, Vec<String>>,
    /// Common words (folded) with their frequency in each language: rounded log2 of occurrences in 2^20 words, 0 for none.
    pub words: Vec<(String, [u8; N_LANGUAGES])>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    classes: ClassSet,
    log_frequency: [u8; N_LANGUAGES],
}

/// The lexicon ready for look-ups.
#[derive(Debug, Clone, Default)]
pub struct Lexicon {
    entries: HashMap<u64, Entry, BuildKeyHasher>,
    /// Phrases by the combined hash of their words; the value is the class set and the number of words.
    phrases: HashMap<u64, ClassSet, BuildKeyHasher>,
    /// Hash of the first word of every phrase, so that most tokens cost one look-up.
    phrase_starts: HashMap<u64, u8, BuildKeyHasher>,
    /// Class terms by length and first letter, for words with masked letters.
    by_shape: HashMap<(usize, char), Vec<Vec<char>>>,
    class_names: Vec<String>,
}

/// Keys are hashes already: use them as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// Builds [`KeyHasher`]s for maps whose keys are hashes.
pub type BuildKeyHasher = std::hash::BuildHasherDefault<KeyHasher>;

/// The hash of a folded word.
pub fn word_hash(folded: &str) -> u64 {
    xxh3_64(folded.as_bytes())
}

/// Combines the hashes of two neighbours; order matters.
pub fn combine(left: u64, right: u64) -> u64 {
    (left.rotate_left(23) ^ right).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Appends a character without its accents, ligatures resolved: `é` → `e`, `œ` → `oe`. Expects lower case.
pub fn fold_into(c: char, out: &mut String) {
    if c.is_ascii() {
        out.push(c);
        return;
    }
    match c {
        'œ' => out.push_str("oe"),
        'æ' => out.push_str("ae"),
        'ß' => out.push_str("ss"),
        'ø' => out.push('o'),
        'ł' => out.push('l'),
        'đ' | 'ð' => out.push('d'),
        'ı' => out.push('i'),
        _ => decompose_canonical(c, |part| {
            if !is_combining_mark(part) {
                out.push(part);
            }
        }),
    }
}

/// A whole word or phrase without accents. Expects lower case.
pub fn fold(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for c in word.chars() {
        fold_into(c, &mut folded);
    }
    folded
}

impl Lexicon {
    /// Prepares the look-ups. Fails when there are more classes than bits.
    pub fn new(file: &LexiconFile) -> Result<Lexicon, String> {
        if file.classes.len() > ClassSet::BITS as usize {
            return Err(format!("{} word classes, at most {} are possible", file.classes.len(), ClassSet::BITS));
        }
        let mut lexicon = Lexicon { class_names: file.classes.keys().cloned().collect(), ..Lexicon::default() };
        for (bit, terms) in file.classes.values().enumerate() {
            for term in terms {
                lexicon.add_term(&fold(term), 1 << bit);
            }
        }
        for (word, log_frequency) in &file.words {
            lexicon.entries.entry(word_hash(word)).or_default().log_frequency = *log_frequency;
        }
        Ok(lexicon)
    }

    fn add_term(&mut self, term: &str, class: ClassSet) {
        let words: Vec<&str> = term.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => {}
            [word] => {
                self.entries.entry(word_hash(word)).or_default().classes |= class;
                let letters: Vec<char> = word.chars().collect();
                let shape = self.by_shape.entry((letters.len(), letters[0])).or_default();
                if !shape.contains(&letters) {
                    shape.push(letters);
                }
            }
            [first, rest @ ..] => {
                let start = word_hash(first);
                let key = rest.iter().fold(start, |key, word| combine(key, word_hash(word)));
                *self.phrases.entry(key).or_default() |= class;
                let longest = self.phrase_starts.entry(start).or_default();
                *longest = (*longest).max(words.len().min(255) as u8);
            }
        }
    }

    /// The bit of a class name, or an empty set when there is no such class.
    pub fn class(&self, name: &str) -> ClassSet {
        self.class_names.iter().position(|known| known == name).map_or(0, |bit| 1 << bit)
    }

    /// How many classes there are.
    pub fn n_classes(&self) -> usize {
        self.class_names.len()
    }

    /// The classes of a folded word, by its hash.
    pub fn classes(&self, hash: u64) -> ClassSet {
        self.entries.get(&hash).map_or(0, |entry| entry.classes)
    }

    /// True for the commonest words of a language, such as articles and prepositions: one word in 512 or more.
    pub fn is_function_word(&self, hash: u64) -> bool {
        const COMMON: u8 = 11;
        self.log_frequency(hash).iter().any(|&frequency| frequency >= COMMON)
    }

    /// How common a folded word is in each language; zeros for an unknown word.
    pub fn log_frequency(&self, hash: u64) -> [u8; N_LANGUAGES] {
        self.entries.get(&hash).map_or([0; N_LANGUAGES], |entry| entry.log_frequency)
    }

    /// Whether a folded word is known at all, as a term or as a common word.
    pub fn knows(&self, folded: &str) -> bool {
        self.entries.contains_key(&word_hash(folded))
    }

    /// Whether a folded word is a term of some class.
    pub fn has_term(&self, folded: &str) -> bool {
        self.classes(word_hash(folded)) != 0
    }

    /// How many words the longest phrase has that starts with this word; 0 for none.
    pub fn longest_phrase(&self, first: u64) -> usize {
        self.phrase_starts.get(&first).map_or(0, |&n_words| n_words as usize)
    }

    /// The classes of the phrase with this combined hash.
    pub fn phrase_classes(&self, key: u64) -> ClassSet {
        self.phrases.get(&key).copied().unwrap_or(0)
    }

    /// The one term that fits a folded word with masked letters (`*` stands for any letter); none when several fit.
    pub fn unmask(&self, masked: &[char]) -> Option<&[char]> {
        let mut fits = self
            .by_shape
            .get(&(masked.len(), *masked.first()?))?
            .iter()
            .filter(|term| term.iter().zip(masked).all(|(letter, &mask)| mask == '*' || mask == *letter));
        match (fits.next(), fits.next()) {
            (Some(term), None) => Some(term),
            _ => None,
        }
    }

    /// Cuts a joined folded word (`stopislam`) into known words, most probable first (unigram Viterbi; Norvig, "Natural Language
    /// Corpus Data", 2009). `None` when it cannot be cut into known words. Lengths in characters. At most 60 characters are looked at.
    pub fn cut_joined(&self, word: &[char]) -> Option<Vec<usize>> {
        const LONGEST_HASHTAG: usize = 60;
        const LONGEST_WORD: usize = 20;
        if word.len() > LONGEST_HASHTAG {
            return None;
        }
        // best[i]: cost of the best cut of the first i characters and the length of its last word.
        let mut best: Vec<Option<(f32, usize)>> = vec![None; word.len() + 1];
        best[0] = Some((0.0, 0));
        let mut piece = String::new();
        for start in 0..word.len() {
            let Some((cost, _)) = best[start] else { continue };
            piece.clear();
            for (n_letters, &letter) in word[start..].iter().take(LONGEST_WORD).enumerate() {
                piece.push(letter);
                let Some(entry) = self.entries.get(&word_hash(&piece)) else { continue };
                let common = entry.log_frequency.iter().copied().max().unwrap_or(0);
                // One-letter words join into anything: only "a" and "y" and only when nothing else fits.
                let penalty = match n_letters {
                    0 => 12.0,
                    1 => 4.0,
                    _ => 0.0,
                };
                let common = if entry.classes != 0 { common.max(8) } else { common };
                let total = cost + 21.0 - f32::from(common) + penalty;
                let slot = &mut best[start + n_letters + 1];
                if slot.is_none_or(|(cheapest, _)| total < cheapest) {
                    *slot = Some((total, n_letters + 1));
                }
            }
        }
        let mut lengths = Vec::new();
        let mut end = word.len();
        while end > 0 {
            let (_, n_letters) = best[end]?;
            lengths.push(n_letters);
            end -= n_letters;
        }
        lengths.reverse();
        Some(lengths)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small lexicon for the tests of the core.
    pub(crate) fn small() -> Lexicon {
        let classes = BTreeMap::from([
            ("group".to_owned(), vec!["juif".to_owned(), "juifs".to_owned(), "arabe".to_owned(), "arabes".to_owned()]),
            ("code".to_owned(), vec!["grand remplacement".to_owned()]),
        ]);
        let words = ["stop", "islam", "les", "dehors", "non", "bonne", "annee", "a", "bon"]
            .map(|word| (word.to_owned(), [10, if word == "stop" { 9 } else { 0 }]));
        Lexicon::new(&LexiconFile { classes, words: words.to_vec() }).expect("few classes")
    }

    #[test]
    fn words_fold_to_plain_letters() {
        assert_eq!(fold("élève cœur straße"), "eleve coeur strasse");
    }

    #[test]
    fn joined_words_are_cut() {
        let lexicon = small();
        let cut = |word: &str| lexicon.cut_joined(&word.chars().collect::<Vec<_>>());
        assert_eq!(cut("stopislam"), Some(vec![4, 5]));
        assert_eq!(cut("lesjuifsdehors"), Some(vec![3, 5, 6]));
        assert_eq!(cut("xyzzy"), None);
    }

    #[test]
    fn a_masked_word_needs_one_fit() {
        let lexicon = small();
        let unmask =
            |word: &str| lexicon.unmask(&word.chars().collect::<Vec<_>>()).map(|t| t.iter().collect::<String>());
        assert_eq!(unmask("ju*fs"), Some("juifs".to_owned()));
        assert_eq!(unmask("j**f"), Some("juif".to_owned()));
        assert_eq!(unmask("b*nne"), None);
    }

    #[test]
    fn phrases_have_classes() {
        let lexicon = small();
        let first = word_hash("grand");
        assert_eq!(lexicon.longest_phrase(first), 2);
        assert_eq!(lexicon.phrase_classes(combine(first, word_hash("remplacement"))), lexicon.class("code"));
    }
}
