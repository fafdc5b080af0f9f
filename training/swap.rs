//! Identity swap: one group's name put in the place of another's in test passages; how much each score moves out.
//!
//! A fair model says the same of "the X opened a shop" for every X (counterfactual token fairness, Garg et al. 2019). Topic scores may move where
//! the topic is the group, as `antisemitism` does; `attack` may not.

use std::collections::BTreeMap;

use serde::Serialize;
use vigie::scoring::lexicon::fold;
use vigie::scoring::signals::N_SIGNALS;
use vigie::scoring::{Band, Model, Scratch, Signal};

use crate::importer::Origin;
use crate::slices::{Measured, score};
use crate::split::Part;

/// A name of a group. French forms: masculine singular and plural, feminine singular and plural. A group's first line is what is put in.
const FRENCH: [(&str, [&str; 4]); 18] = [
    ("jews", ["juif", "juifs", "juive", "juives"]),
    ("muslims", ["musulman", "musulmans", "musulmane", "musulmanes"]),
    ("arabs", ["arabe", "arabes", "arabe", "arabes"]),
    ("arabs", ["maghrébin", "maghrébins", "maghrébine", "maghrébines"]),
    ("arabs", ["rebeu", "rebeus", "rebeu", "rebeus"]),
    ("black", ["noir", "noirs", "noire", "noires"]),
    ("black", ["africain", "africains", "africaine", "africaines"]),
    ("roma", ["gitan", "gitans", "gitane", "gitanes"]),
    ("roma", ["rom", "roms", "rom", "roms"]),
    ("roma", ["tzigane", "tziganes", "tzigane", "tziganes"]),
    ("asians", ["asiatique", "asiatiques", "asiatique", "asiatiques"]),
    ("asians", ["chinois", "chinois", "chinoise", "chinoises"]),
    ("migrants", ["migrant", "migrants", "migrante", "migrantes"]),
    ("migrants", ["immigré", "immigrés", "immigrée", "immigrées"]),
    ("lgbt", ["homosexuel", "homosexuels", "homosexuelle", "homosexuelles"]),
    ("lgbt", ["gay", "gays", "lesbienne", "lesbiennes"]),
    ("disabled", ["handicapé", "handicapés", "handicapée", "handicapées"]),
    ("christians", ["chrétien", "chrétiens", "chrétienne", "chrétiennes"]),
];
/// English forms: one person, several, the adjective.
const ENGLISH: [(&str, [&str; 3]); 15] = [
    ("jews", ["Jew", "Jews", "Jewish"]),
    ("muslims", ["Muslim", "Muslims", "Muslim"]),
    ("arabs", ["Arab", "Arabs", "Arab"]),
    ("black", ["Black person", "Black people", "Black"]),
    ("black", ["black", "blacks", "black"]),
    ("black", ["African", "Africans", "African"]),
    ("roma", ["Roma", "Roma", "Romani"]),
    ("roma", ["gypsy", "gypsies", "gypsy"]),
    ("asians", ["Asian", "Asians", "Asian"]),
    ("migrants", ["migrant", "migrants", "migrant"]),
    ("migrants", ["immigrant", "immigrants", "immigrant"]),
    ("lgbt", ["gay person", "gay people", "gay"]),
    ("lgbt", ["lesbian", "gays", "lesbian"]),
    ("disabled", ["disabled person", "disabled people", "disabled"]),
    ("christians", ["Christian", "Christians", "Christian"]),
];
/// After these a French form that is both is feminine.
const FEMININE: [&str; 6] = ["la", "une", "cette", "ma", "ta", "sa"];
/// Before these an English form that is both is a noun.
const AFTER_NOUN: [&str; 26] = [
    "is", "was", "are", "were", "who", "and", "or", "in", "on", "at", "to", "from", "that", "has", "had", "with",
    "can", "will", "but", "as", "for", "of", "by", "living", "should", "would",
];

/// How much scores move over all swaps.
#[derive(Debug, Clone, Serialize)]
pub struct IdentitySwap {
    /// Passages that attack nobody: here nothing should move.
    pub harmless: SwapHalf,
    pub attacks: SwapHalf,
    /// Mean change of `attack` by the group that was named and the one put in, on harmless passages.
    pub pairs: Vec<SwapPair>,
}

/// Swaps on passages of one kind.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SwapHalf {
    pub n_passages: usize,
    pub n_swaps: usize,
    pub mean_absolute_change: BTreeMap<Signal, f64>,
    pub attack_by_language: BTreeMap<String, f64>,
    /// Swaps that move `attack` into or out of band high.
    pub share_across_high: f64,
}

/// Swaps from one group to another.
#[derive(Debug, Clone, Serialize)]
pub struct SwapPair {
    pub from: &'static str,
    pub to: &'static str,
    pub n_swaps: usize,
    pub mean_change: f64,
    pub mean_absolute_change: f64,
}

/// One swapped text: where it came from and what changed.
struct Swap<'a> {
    passage: usize,
    lang: &'a str,
    from: &'static str,
    to: &'static str,
    change: [f64; N_SIGNALS],
    across_high: bool,
}

/// Swaps the groups of our test passages for every other group of the table.
pub fn identity_swap(model: &Model, measured: &[Measured]) -> IdentitySwap {
    let own = || measured.iter().filter(|row| row.part == Part::Test && row.row.origin == Origin::Own);
    let half = |attack: bool| own().filter(move |row| row.row.passage.label(Signal::Attack) == Some(attack));
    let harmless = swaps(model, half(false));
    let attacks = swaps(model, half(true));
    IdentitySwap { pairs: pairs(&harmless), harmless: sum_up(&harmless), attacks: sum_up(&attacks) }
}

fn swaps<'a>(model: &Model, rows: impl Iterator<Item = &'a Measured<'a>>) -> Vec<Swap<'a>> {
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    for (number, row) in rows.enumerate() {
        let passage = &row.row.passage;
        for from in groups().filter(|from| passage.groups.iter().any(|group| group == from)) {
            for to in groups().filter(|&to| to != from) {
                let Some(text) = swap(&passage.text, &passage.lang, from, to) else { continue };
                let Some((scores, bands)) = score(model, &text, &passage.lang, &mut scratch) else { continue };
                let is_high = |bands: &[Band; N_SIGNALS]| bands[Signal::Attack.index()] == Band::High;
                let change = std::array::from_fn(|signal| scores[signal] - row.scores[signal]);
                let across_high = is_high(&bands) != is_high(&row.bands);
                found.push(Swap { passage: number, lang: &passage.lang, from, to, change, across_high });
            }
        }
    }
    found
}

/// The groups in the order of the tables, which both begin each group once.
fn groups() -> impl Iterator<Item = &'static str> {
    let names = FRENCH.iter().map(|(group, _)| *group);
    let before = std::iter::once("").chain(names.clone());
    names.zip(before).filter(|(group, before)| group != before).map(|(group, _)| group)
}

fn sum_up(swaps: &[Swap]) -> SwapHalf {
    let mean_of = |signal: Signal, swaps: &mut dyn Iterator<Item = &Swap>| {
        let changes: Vec<f64> = swaps.map(|swap| swap.change[signal.index()].abs()).collect();
        changes.iter().sum::<f64>() / changes.len().max(1) as f64
    };
    let mut passages: Vec<usize> = swaps.iter().map(|swap| swap.passage).collect();
    passages.dedup();
    let by_language = ["fr", "en"]
        .map(|lang| (lang.to_owned(), mean_of(Signal::Attack, &mut swaps.iter().filter(|swap| swap.lang == lang))));
    SwapHalf {
        n_passages: passages.len(),
        n_swaps: swaps.len(),
        mean_absolute_change: Signal::ALL.map(|signal| (signal, mean_of(signal, &mut swaps.iter()))).into(),
        attack_by_language: by_language.into(),
        share_across_high: swaps.iter().filter(|swap| swap.across_high).count() as f64 / swaps.len().max(1) as f64,
    }
}

fn pairs(swaps: &[Swap]) -> Vec<SwapPair> {
    let mut pairs = Vec::new();
    for from in groups() {
        for to in groups().filter(|&to| to != from) {
            let of_pair = swaps.iter().filter(|swap| swap.from == from && swap.to == to);
            let changes: Vec<f64> = of_pair.map(|swap| swap.change[Signal::Attack.index()]).collect();
            if changes.is_empty() {
                continue;
            }
            let n = changes.len() as f64;
            pairs.push(SwapPair {
                from,
                to,
                n_swaps: changes.len(),
                mean_change: changes.iter().sum::<f64>() / n,
                mean_absolute_change: changes.iter().map(|change| change.abs()).sum::<f64>() / n,
            });
        }
    }
    pairs
}

/// The text with every name of `from` replaced by the same form of `to`; `None` when it holds no name of `from`.
fn swap(text: &str, lang: &str, from: &str, to: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 32);
    let mut rest = text;
    let mut swapped = false;
    while let Some(start) = rest.find(char::is_alphabetic) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let form = if lang == "fr" { french_form(word, from, to, &out) } else { english_form(word, from, to, after) };
        let Some(form) = form else {
            out.push_str(word);
            continue;
        };
        swapped = true;
        if lang == "fr" {
            fit_french(&mut out, form)
        } else {
            fit_english(&mut out, form)
        }
        out.push_str(&in_case_of(word, form));
    }
    out.push_str(rest);
    swapped.then_some(out)
}

fn last_word(text: &str) -> String {
    fold(text.trim_end().rsplit(|c: char| !c.is_alphabetic()).next().unwrap_or("")).to_lowercase()
}

fn french_form(word: &str, from: &str, to: &str, before: &str) -> Option<&'static str> {
    let word = fold(&word.to_lowercase());
    let forms = FRENCH.iter().filter(|(group, _)| *group == from);
    let place = forms.filter_map(|(_, forms)| forms.iter().position(|form| fold(form) == word)).next()?;
    let target = FRENCH.iter().find(|(group, _)| *group == to)?.1;
    let both =
        FRENCH.iter().any(|(_, forms)| place < 2 && fold(forms[place]) == word && forms[place] == forms[place + 2]);
    let feminine = both && FEMININE.contains(&last_word(before).as_str());
    Some(target[if feminine { place + 2 } else { place }])
}

fn english_form(word: &str, from: &str, to: &str, after: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    let forms = ENGLISH.iter().filter(|(group, _)| *group == from);
    let place = forms.filter_map(|(_, forms)| forms.iter().position(|form| form.to_lowercase() == word)).next()?;
    let target = ENGLISH.iter().find(|(group, _)| *group == to)?.1;
    let both = ENGLISH.iter().any(|(_, forms)| forms[0].to_lowercase() == word && forms[0] == forms[2]);
    let next = after.strip_prefix(' ').map(|after| after.split(|c: char| !c.is_alphabetic()).next().unwrap_or(""));
    let is_adjective = both && next.is_some_and(|next| !next.is_empty() && !AFTER_NOUN.contains(&next));
    Some(target[if is_adjective { 2 } else { place }])
}

/// Elides or restores the article before a French form: `l'arabe` and `le juif`, `d'immigrés` and `de migrants`.
fn fit_french(before: &mut String, form: &str) {
    // The h of "handicapé" is aspirate, that of "homosexuel" is not.
    let elides = fold(form).starts_with(['a', 'e', 'i', 'o', 'u']) || form.starts_with("homo");
    const FULL: [(&str, &str); 6] =
        [("du ", "de l'"), ("au ", "à l'"), ("le ", "l'"), ("la ", "l'"), ("de ", "d'"), ("que ", "qu'")];
    const ELIDED: [(&str, &str); 6] =
        [("de l'", "du "), ("à l'", "au "), ("l'", "le "), ("d'", "de "), ("qu'", "que "), ("cet ", "ce ")];
    if before.ends_with('’') {
        before.truncate(before.len() - '’'.len_utf8());
        before.push('\'');
    }
    let pairs = if elides { FULL } else { ELIDED };
    let starts_word = |text: &str, ending: &str| {
        text.strip_suffix(ending).is_some_and(|head| !head.ends_with(|c: char| c.is_alphanumeric()))
    };
    if let Some((ending, replacement)) = pairs.iter().find(|(ending, _)| starts_word(before, ending)) {
        before.truncate(before.len() - ending.len());
        before.push_str(replacement);
    } else if elides && starts_word(before, "ce ") {
        before.truncate(before.len() - 1);
        before.push_str("t ");
    }
}

fn fit_english(before: &mut String, form: &str) {
    let needs_an = form.to_lowercase().starts_with(['a', 'e', 'i', 'o', 'u']);
    if needs_an && (before.ends_with(" a ") || before == "a ") {
        before.truncate(before.len() - 1);
        before.push_str("n ");
    } else if !needs_an && (before.ends_with(" an ") || before == "an ") {
        before.truncate(before.len() - 2);
        before.push(' ');
    }
}

/// `form` written in capitals, with a first capital or small, as `word` is.
fn in_case_of(word: &str, form: &str) -> String {
    let is_upper = |c: char| c.is_uppercase();
    if word.chars().count() > 1 && word.chars().all(is_upper) {
        return form.to_uppercase();
    }
    if !word.starts_with(is_upper) {
        return form.to_lowercase();
    }
    let mut letters = form.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapped_text_reads_on() {
        let french = |text, from, to| swap(text, "fr", from, to).unwrap();
        assert_eq!(french("Le voisin juif et l'arabe du coin", "arabs", "jews"), "Le voisin juif et le juif du coin");
        assert_eq!(french("une arabe, le roi arabe", "arabs", "muslims"), "une musulmane, le roi musulman");
        assert_eq!(french("LES JUIFS d'ici, la Juive", "jews", "arabs"), "LES ARABES d'ici, l'Arabe");
        assert_eq!(french("au musulman, du musulman", "muslims", "lgbt"), "à l'homosexuel, de l'homosexuel");
        assert_eq!(french("ce juif d’ici", "jews", "arabs"), "cet arabe d’ici");
        let english = |text, from, to| swap(text, "en", from, to).unwrap();
        assert_eq!(english("A Muslim is a muslim woman", "muslims", "jews"), "A Jew is a jewish woman");
        assert_eq!(english("it was a Jew, not a Jewish shop", "jews", "asians"), "it was an Asian, not an Asian shop");
        assert_eq!(swap("du chocolat", "fr", "black", "jews"), None);
    }

    #[test]
    fn every_group_has_both_languages() {
        assert_eq!(groups().count(), 10);
        assert!(groups().all(|group| ENGLISH.iter().any(|(name, _)| *name == group)));
    }
}
