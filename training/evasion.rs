//! Evasion: key words of test passages disguised as people disguise them; recall lost on attacks and false alarms won on harmless texts out.

use std::ops::Range;

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use vigie::scoring::lexicon::{ClassSet, Lexicon, combine, fold, word_hash};
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::{Band, Model, Scratch, Signal};

use crate::slices::{Measured, score};
use crate::split::Part;

/// Word classes whose words people hide: who is spoken of, and what gives the attack away.
const KEY_CLASSES: [&str; 10] =
    ["group", "jew", "slur", "code", "animal", "bad", "expel", "violence", "insult", "persecution"];

/// A way to hide a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trick {
    ZeroWidth,
    LookAlike,
    Leet,
    SpacedOut,
    Stretched,
    AccentFree,
    HashtagJoined,
    EmojiCoded,
}

impl Trick {
    pub const ALL: [Trick; 8] = [
        Trick::ZeroWidth,
        Trick::LookAlike,
        Trick::Leet,
        Trick::SpacedOut,
        Trick::Stretched,
        Trick::AccentFree,
        Trick::HashtagJoined,
        Trick::EmojiCoded,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Trick::ZeroWidth => "zero-width characters",
            Trick::LookAlike => "look-alike letters",
            Trick::Leet => "digits for letters",
            Trick::SpacedOut => "spaced-out letters",
            Trick::Stretched => "stretched letters",
            Trick::AccentFree => "no accents",
            Trick::HashtagJoined => "joined into a hashtag",
            Trick::EmojiCoded => "boxed letters",
        }
    }
}

/// What one trick does to `attack` in one language (`all` for both).
#[derive(Debug, Clone, Serialize)]
pub struct TrickResult {
    pub trick: Trick,
    pub lang: String,
    /// Attacks that the trick changes, and the share of them found, plain and disguised.
    pub n_attacks: usize,
    pub recall_low: [f64; 2],
    pub recall_half: [f64; 2],
    /// Harmless passages that it changes, and the share of them that raise an alarm, plain and disguised.
    pub n_harmless: usize,
    pub alarms_half: [f64; 2],
    pub alarms_high: [f64; 2],
}

/// One passage, plain and disguised.
struct Pair<'a> {
    lang: &'a str,
    is_attack: bool,
    score: [f64; 2],
    band: [Band; 2],
}

/// Disguises all test passages whose `attack` label is settled.
pub fn evasion(model: &Model, measured: &[Measured]) -> Vec<TrickResult> {
    let mut results = Vec::new();
    for trick in Trick::ALL {
        let pairs = pairs(model, measured, trick);
        for lang in ["all", "fr", "en"] {
            let within: Vec<&Pair> = pairs.iter().filter(|pair| lang == "all" || pair.lang == lang).collect();
            results.push(result(trick, lang, &within));
        }
    }
    results
}

fn pairs<'a>(model: &Model, measured: &'a [Measured], trick: Trick) -> Vec<Pair<'a>> {
    let attack = Signal::Attack.index();
    let mut scratch = Scratch::default();
    let mut pairs = Vec::new();
    for row in measured.iter().filter(|row| row.part == Part::Test) {
        let passage = &row.row.passage;
        let Some(is_attack) = passage.label(Signal::Attack) else { continue };
        let text = disguise(&passage.text, &key_words(&passage.text, model.lexicon()), trick);
        if text == passage.text {
            continue;
        }
        let hidden = score(model, &text, &passage.lang, &mut scratch);
        let (scores, bands) = hidden.unwrap_or(([0.0; N_SIGNALS], [Band::Low; N_SIGNALS]));
        let (score, band) = ([row.scores[attack], scores[attack]], [row.bands[attack], bands[attack]]);
        pairs.push(Pair { lang: &passage.lang, is_attack, score, band });
    }
    pairs
}

fn result(trick: Trick, lang: &str, pairs: &[&Pair]) -> TrickResult {
    let share = |is_attack: bool, test: &dyn Fn(f64, Band) -> bool| {
        let of_kind: Vec<_> = pairs.iter().filter(|pair| pair.is_attack == is_attack).collect();
        [0, 1].map(|form| {
            let caught = of_kind.iter().filter(|pair| test(pair.score[form], pair.band[form])).count();
            caught as f64 / of_kind.len().max(1) as f64
        })
    };
    let n_attacks = pairs.iter().filter(|pair| pair.is_attack).count();
    TrickResult {
        trick,
        lang: lang.to_owned(),
        n_attacks,
        recall_low: share(true, &|_, band| band != Band::Low),
        recall_half: share(true, &|score, _| score >= 0.5),
        n_harmless: pairs.len() - n_attacks,
        alarms_half: share(false, &|score, _| score >= 0.5),
        alarms_high: share(false, &|_, band| band == Band::High),
    }
}

/// Byte ranges of the words that stand in a key class, alone or in a phrase.
fn key_words(text: &str, lexicon: &Lexicon) -> Vec<Range<usize>> {
    let wanted: ClassSet = KEY_CLASSES.iter().map(|class| lexicon.class(class)).fold(0, |all, class| all | class);
    let words = word_ranges(text);
    let hashes: Vec<u64> = words.iter().map(|word| word_hash(&fold(&text[word.clone()].to_lowercase()))).collect();
    let mut is_key: Vec<bool> = hashes.iter().map(|&hash| lexicon.classes(hash) & wanted != 0).collect();
    for first in 0..hashes.len() {
        let mut key = hashes[first];
        for last in first + 1..hashes.len().min(first + lexicon.longest_phrase(hashes[first])) {
            key = combine(key, hashes[last]);
            if lexicon.phrase_classes(key) & wanted != 0 {
                is_key[first..=last].fill(true);
            }
        }
    }
    words.into_iter().zip(is_key).filter(|(_, is_key)| *is_key).map(|(word, _)| word).collect()
}

fn word_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, c) in text.char_indices().filter(|(_, c)| c.is_alphanumeric()) {
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end += c.len_utf8(),
            _ => ranges.push(at..at + c.len_utf8()),
        }
    }
    ranges
}

fn disguise(text: &str, words: &[Range<usize>], trick: Trick) -> String {
    match trick {
        Trick::AccentFree => text.nfd().filter(|&c| !is_combining_mark(c)).nfc().collect(),
        Trick::HashtagJoined => join_hashtags(text, words),
        _ => {
            let mut out = String::with_capacity(2 * text.len());
            let mut at = 0;
            for word in words {
                out.push_str(&text[at..word.start]);
                out.push_str(&disguise_word(&text[word.clone()], trick));
                at = word.end;
            }
            out + &text[at..]
        }
    }
}

fn disguise_word(word: &str, trick: Trick) -> String {
    let between = |separator: &str| word.chars().map(String::from).collect::<Vec<_>>().join(separator);
    let each = |letter: fn(char) -> char| word.chars().map(letter).collect();
    match trick {
        Trick::ZeroWidth => between("\u{200B}"),
        // Nobody spaces out a word of two letters.
        Trick::SpacedOut if word.chars().count() > 2 => between(" "),
        Trick::LookAlike => each(look_alike),
        Trick::Leet => each(leet),
        Trick::Stretched => stretch(word),
        Trick::EmojiCoded => fold(&word.to_lowercase()).chars().map(boxed).collect(),
        Trick::SpacedOut | Trick::AccentFree | Trick::HashtagJoined => word.to_owned(),
    }
}

/// The Cyrillic letter that looks like a Latin one.
fn look_alike(c: char) -> char {
    match c {
        'a' => 'а',
        'c' => 'с',
        'e' => 'е',
        'i' => 'і',
        'j' => 'ј',
        'o' => 'о',
        'p' => 'р',
        's' => 'ѕ',
        'x' => 'х',
        'A' => 'А',
        'E' => 'Е',
        'O' => 'О',
        _ => c,
    }
}

fn leet(c: char) -> char {
    match c {
        'a' | 'A' => '4',
        'e' | 'E' | 'é' | 'è' => '3',
        'i' | 'I' => '1',
        'o' | 'O' => '0',
        's' | 'S' => '5',
        't' | 'T' => '7',
        _ => c,
    }
}

/// The first vowel after the first letter, five times over.
fn stretch(word: &str) -> String {
    let is_vowel = |c: char| "aeiouyéèêAEIOUYÉÈÊ".contains(c);
    let vowel = word.char_indices().skip(1).find(|(_, c)| is_vowel(*c));
    vowel.map_or_else(|| word.to_owned(), |(at, c)| format!("{}{}", &word[..at], c.to_string().repeat(4)) + &word[at..])
}

fn boxed(c: char) -> char {
    if c.is_ascii_lowercase() { char::from_u32(0x1F170 + u32::from(c) - u32::from('a')).unwrap_or(c) } else { c }
}

/// Every key word joined with the words beside it: "les juifs dehors" → "#lesjuifsdehors".
fn join_hashtags(text: &str, words: &[Range<usize>]) -> String {
    let all = word_ranges(text);
    let beside = |left: usize, right: usize| &text[left..right] == " ";
    let mut out = String::with_capacity(text.len() + 16);
    let mut at = 0;
    for word in words.iter().filter(|word| word.len() > 2) {
        let Some(place) = all.iter().position(|range| range == word) else { continue };
        let mut joined = vec![word.clone()];
        if let Some(before) = place.checked_sub(1).map(|place| &all[place])
            && beside(before.end, word.start)
        {
            joined.insert(0, before.clone());
        }
        if let Some(after) = all.get(place + 1)
            && beside(word.end, after.start)
        {
            joined.push(after.clone());
        }
        let is_free = joined[0].start >= at && !text[..joined[0].start].ends_with(['#', '@', '\'', '’', '-']);
        if joined.len() == 1 || !is_free {
            continue;
        }
        out.push_str(&text[at..joined[0].start]);
        out.push('#');
        joined.iter().for_each(|part| out.push_str(&text[part.clone()]));
        at = joined[joined.len() - 1].end;
    }
    out + &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tricks_do_what_they_are_called() {
        let text = "Jetez les juifs dehors, été";
        let check = |trick, expected: &str| assert_eq!(disguise(text, &[10..15, 16..22], trick), expected);
        check(
            Trick::ZeroWidth,
            "Jetez les j\u{200b}u\u{200b}i\u{200b}f\u{200b}s d\u{200b}e\u{200b}h\u{200b}o\u{200b}r\u{200b}s, été",
        );
        check(Trick::Leet, "Jetez les ju1f5 d3h0r5, été");
        check(Trick::SpacedOut, "Jetez les j u i f s d e h o r s, été");
        check(Trick::Stretched, "Jetez les juuuuuifs deeeeehors, été");
        check(Trick::AccentFree, "Jetez les juifs dehors, ete");
        check(Trick::HashtagJoined, "Jetez #lesjuifsdehors, été");
        check(Trick::EmojiCoded, "Jetez les 🅹🆄🅸🅵🆂 🅳🅴🅷🅾🆁🆂, été");
        assert_ne!(disguise(text, &[10..15, 16..22], Trick::LookAlike), text);
    }
}
