//! Says which language a text is in, or that it is none that the model knows: tokens and text in, a code with a score out.
//!
//! Two witnesses: `whichlang` (a linear model over character n-grams, 16 languages; right on 97 % of French and English posts where
//! `whatlang` reaches 80 %) and the model's own list of common words, which knows slang and text-message spelling.

use super::features::TokenText;
use super::lexicon::{LANGUAGES, Lexicon, N_LANGUAGES};
use super::signals::Lang;

/// What the detector says of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detected {
    pub lang: Lang,
    /// The place in [`LANGUAGES`]; `None` when the language is not one of them.
    pub index: Option<usize>,
}

/// Rounded log2 of occurrences in 2^20 words from which a word is common: 32 in a million.
const COMMON: u8 = 5;
/// Bytes of the text that are looked at: a language shows soon.
const N_BYTES_READ: usize = 600;

/// Detects the language of a text from its start and its first words.
pub fn detect(text: &str, tokens: &TokenText, lexicon: &Lexicon) -> Detected {
    let guess = whichlang::detect_language(head(text));
    let code = iso_639_1(guess);
    let mut n_words = 0.0;
    let mut known = [0.0; N_LANGUAGES];
    let mut n_common = [0.0; N_LANGUAGES];
    for token in tokens.tokens.iter().take(60) {
        let log_frequency = lexicon.log_frequency(token.hash);
        n_words += 1.0;
        for language in 0..N_LANGUAGES {
            // A word that the other language has too counts by how much more common it is here.
            known[language] += f64::from(log_frequency[language]);
            n_common[language] += f64::from(u8::from(log_frequency[language] >= COMMON));
        }
    }
    let share = |index: usize| known[index] / (12.0 * f64::max(n_words, 1.0));
    let best = if known[1] > known[0] { 1 } else { 0 };
    let margin = share(best) - share(1 - best);
    // Written in letters that neither language has: the word list has nothing to say.
    let vote = LANGUAGES.iter().position(|&known_code| known_code == code);
    let index = match vote {
        Some(index) if index == best || margin < 0.25 => Some(index),
        Some(_) => Some(best),
        // Another language, unless nearly every word is a common one of ours: short posts mislead the n-grams, but a sentence of a
        // neighbouring language has many of our short words too.
        None if n_common[best] >= 0.7 * n_words && margin > 0.06 => Some(best),
        None => None,
    };
    match index {
        Some(index) if share(index) >= 0.12 || n_words < 4.0 => {
            let evidence =
                4.0 * share(index) + 6.0 * (share(index) - share(1 - index)) + f64::from(u8::from(vote == Some(index)));
            let score = 1.0 / (1.0 + (-evidence).exp());
            Detected { lang: Lang { code: LANGUAGES[index], score }, index: Some(index) }
        }
        // The n-grams guess among 16 languages; with hardly a known word the text is probably in a seventeenth.
        Some(_) => Detected { lang: Lang { code: "und", score: 0.0 }, index: None },
        None => Detected { lang: Lang { code, score: 1.0 - share(best).min(1.0) }, index: None },
    }
}

/// What a record says of its own language: `fr`, `fr-CA`, `FR_fr`; `None` when the hint is empty or `und`.
pub fn from_hint(hint: &str) -> Option<Detected> {
    let primary = hint.split(['-', '_']).next().unwrap_or("").to_ascii_lowercase();
    if primary.is_empty() || primary == "und" || !primary.bytes().all(|b| b.is_ascii_lowercase()) || primary.len() > 3 {
        return None;
    }
    let primary = match primary.as_str() {
        "fra" | "fre" => "fr",
        "eng" => "en",
        other => other,
    };
    let index = LANGUAGES.iter().position(|&code| code == primary);
    let code = index.map_or("und", |index| LANGUAGES[index]);
    let known = ["ar", "de", "es", "hi", "it", "ja", "ko", "nl", "pt", "ru", "sv", "tr", "vi", "zh"];
    let code = known.into_iter().find(|&other| other == primary).unwrap_or(code);
    Some(Detected { lang: Lang { code, score: 1.0 }, index })
}

fn head(text: &str) -> &str {
    let mut end = text.len().min(N_BYTES_READ);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn iso_639_1(lang: whichlang::Lang) -> &'static str {
    use whichlang::Lang::*;
    match lang {
        Ara => "ar",
        Cmn => "zh",
        Deu => "de",
        Eng => "en",
        Fra => "fr",
        Hin => "hi",
        Ita => "it",
        Jpn => "ja",
        Kor => "ko",
        Nld => "nl",
        Por => "pt",
        Rus => "ru",
        Spa => "es",
        Swe => "sv",
        Tur => "tr",
        Vie => "vi",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_leniently() {
        assert_eq!(from_hint("fr-CA").and_then(|d| d.index), Some(0));
        assert_eq!(from_hint("ENG").and_then(|d| d.index), Some(1));
        assert_eq!(from_hint("de").map(|d| (d.lang.code, d.index)), Some(("de", None)));
        assert_eq!(from_hint(""), None);
        assert_eq!(from_hint("und"), None);
    }
}
