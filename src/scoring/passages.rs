//! Cuts a text into passages: a text in, byte ranges of about a paragraph out, boilerplate left out.
//!
//! A passage is what the codebook labels: a post, a comment, or a paragraph of up to about 150 words. Cuts fall at paragraph ends, in
//! longer paragraphs at sentence ends, in endless ones at a word.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Most words in a passage.
const MOST_WORDS: usize = 150;
/// A paragraph with fewer words joins the next one: headlines, dialogue, lists.
const FEWEST_WORDS: usize = 12;
/// Most bytes in a passage: text without spaces.
const MOST_BYTES: usize = 4000;

/// The passages of `text` as byte ranges, in order and without overlap; empty only for a blank text.
pub fn cut_passages(text: &str) -> Vec<Range<usize>> {
    let whole = trimmed(text, 0..text.len());
    if whole.is_empty() {
        return Vec::new();
    }
    let n_words = count_words(&text[whole.clone()]);
    let has_paragraphs = text[whole.clone()].contains('\n');
    if n_words <= MOST_WORDS && whole.len() <= MOST_BYTES && !(has_paragraphs && n_words > 3 * FEWEST_WORDS) {
        return vec![whole];
    }
    let mut passages: Vec<Range<usize>> = Vec::new();
    let mut open: Option<Range<usize>> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let range = trimmed(text, start..start + line.len());
        start += line.len();
        if range.is_empty() || is_boilerplate(&text[range.clone()]) {
            // Boilerplate parts what stands around it.
            if !range.is_empty() {
                passages.extend(open.take());
            }
            continue;
        }
        let joined = match open.take() {
            Some(before) if count_words(&text[before.clone()]) < FEWEST_WORDS => before.start..range.end,
            Some(before) => {
                passages.push(before);
                range
            }
            None => range,
        };
        open = Some(joined);
    }
    passages.extend(open);
    // A short last line belongs to what it follows.
    if let [.., before, last] = passages.as_slice()
        && count_words(&text[last.clone()]) < FEWEST_WORDS
        && text[before.end..last.start].trim().is_empty()
        && count_words(&text[before.clone()]) + FEWEST_WORDS <= MOST_WORDS
    {
        let merged = before.start..last.end;
        passages.truncate(passages.len() - 2);
        passages.push(merged);
    }
    if passages.is_empty() {
        passages.push(whole);
    }
    passages.into_iter().flat_map(|range| cut_long(text, range)).collect()
}

/// Cuts a paragraph at sentence ends into parts of at most [`MOST_WORDS`] words and [`MOST_BYTES`] bytes, as even as they come.
fn cut_long(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let n_words = count_words(&text[range.clone()]);
    if n_words <= MOST_WORDS && range.len() <= MOST_BYTES {
        return vec![range];
    }
    let n_parts = n_words.div_ceil(MOST_WORDS).max(range.len().div_ceil(MOST_BYTES));
    let words_per_part = n_words.div_ceil(n_parts);
    let mut parts = Vec::new();
    let mut part = range.start..range.start;
    let mut words_in_part = 0;
    let mut close = |part: &mut Range<usize>, words: &mut usize| {
        let done = trimmed(text, part.clone());
        if !done.is_empty() {
            parts.push(done);
        }
        *part = part.end..part.end;
        *words = 0;
    };
    for sentence in text[range].split_sentence_bounds() {
        let n_sentence_words = count_words(sentence);
        if n_sentence_words > MOST_WORDS || sentence.len() > MOST_BYTES {
            close(&mut part, &mut words_in_part);
            for word in sentence.split_word_bounds() {
                let mut rest = word;
                while !rest.is_empty() {
                    let end = rest.len().min(MOST_BYTES);
                    let end = (0..=end)
                        .rev()
                        .find(|&at| rest.is_char_boundary(at))
                        .filter(|&at| at > 0)
                        .unwrap_or(rest.len());
                    if part.len() + end > MOST_BYTES || words_in_part >= MOST_WORDS {
                        close(&mut part, &mut words_in_part);
                    }
                    part.end += end;
                    rest = &rest[end..];
                }
                words_in_part += usize::from(word.starts_with(char::is_alphanumeric));
            }
            close(&mut part, &mut words_in_part);
            continue;
        }
        let is_full = words_in_part + n_sentence_words > MOST_WORDS || words_in_part >= words_per_part;
        if (words_in_part > 0 && is_full) || part.len() + sentence.len() > MOST_BYTES {
            close(&mut part, &mut words_in_part);
        }
        part.end += sentence.len();
        words_in_part += n_sentence_words;
    }
    close(&mut part, &mut words_in_part);
    parts
}

fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// Whether a line is furniture of a web page and no part of the text: share buttons, credits, comment boxes, cookie notices.
pub fn is_boilerplate(line: &str) -> bool {
    const WHOLE_LINES: [&str; 38] = [
        "partager",
        "partager sur",
        "partager l'article",
        "partager cet article",
        "share",
        "share this",
        "share this article",
        "tweet",
        "tweeter",
        "facebook",
        "twitter",
        "linkedin",
        "whatsapp",
        "imprimer",
        "print",
        "envoyer par email",
        "publicité",
        "advertisement",
        "lire aussi",
        "à lire aussi",
        "read more",
        "lire la suite",
        "voir plus",
        "en savoir plus",
        "commentaires",
        "comments",
        "leave a reply",
        "laisser un commentaire",
        "laissez un commentaire",
        "répondre",
        "reply",
        "s'abonner",
        "subscribe",
        "newsletter",
        "accueil",
        "menu",
        "retour",
        "suivez-nous",
    ];
    const STARTS: [&str; 25] = [
        "your email address will not be published",
        "votre adresse e-mail ne sera pas publiée",
        "votre adresse email ne sera pas publiée",
        "les champs obligatoires",
        "required fields are marked",
        "tous droits réservés",
        "all rights reserved",
        "©",
        "copyright",
        "crédit photo",
        "crédits photo",
        "photo credit",
        "credit:",
        "crédit :",
        "lire aussi :",
        "à lire aussi :",
        "nous utilisons des cookies",
        "ce site utilise des cookies",
        "this site uses cookies",
        "we use cookies",
        "accepter les cookies",
        "abonnez-vous",
        "inscrivez-vous à",
        "sign up for",
        "cliquez ici pour",
    ];
    let plain = line.to_lowercase().replace('’', "'");
    let bare = plain.trim_matches(|c: char| !c.is_alphanumeric() && c != '©').trim();
    if bare.is_empty() || WHOLE_LINES.contains(&bare) {
        return true;
    }
    let is_short = count_words(&plain) <= 30;
    is_short && STARTS.iter().any(|start| bare.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<&str> {
        cut_passages(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn a_post_is_one_passage() {
        assert_eq!(texts("  Bonjour à tous\nça va ?  "), ["Bonjour à tous\nça va ?"]);
        assert!(texts(" \n ").is_empty());
    }

    #[test]
    fn an_article_is_cut_at_paragraphs_and_loses_its_furniture() {
        let paragraph = "Le conseil municipal a voté le budget de la commune hier soir après un long débat. ".repeat(3);
        let article = format!(
            "Un titre court\n{paragraph}\nPartager :\n\n{paragraph}\nLeave a Reply\nYour email address will not be published."
        );
        let found = texts(&article);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("Un titre court"));
        assert!(found.iter().all(|passage| !passage.contains("Partager") && !passage.contains("Reply")));
    }

    #[test]
    fn long_paragraphs_are_cut_at_sentences() {
        let text = "Voici une phrase de sept mots. ".repeat(60);
        let found = texts(&text);
        assert!(found.len() >= 2 && found.iter().all(|p| count_words(p) <= MOST_WORDS && p.ends_with('.')));
    }

    #[test]
    fn sentences_of_endless_words_make_no_endless_passage() {
        // Found by fuzzing: few words, each sentence short enough, both together not.
        let text = format!("{}. {}. {}", "X".repeat(3900), "Y".repeat(3900), "Voici une phrase. ".repeat(40));
        let found = texts(&text);
        assert!(found.iter().all(|passage| passage.len() <= MOST_BYTES), "{:?}", found.iter().map(|p| p.len()));
        assert_eq!(found.iter().map(|passage| count_words(passage)).sum::<usize>(), count_words(&text));
    }

    proptest! {
        #[test]
        fn passages_are_in_order_and_bounded(text in "(\\PC{0,50}[ \n.]){0,40}") {
            let mut last = 0;
            for range in cut_passages(&text) {
                prop_assert!(range.start >= last && range.start < range.end && range.end <= text.len());
                prop_assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end));
                prop_assert!(range.len() <= MOST_BYTES);
                last = range.end;
            }
        }
    }
}
