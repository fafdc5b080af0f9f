//! Says which words made a score: the walk of a passage and its margins in, spans of the original text out.
//!
//! Every contribution of a linear model belongs to the words at the ends of its n-gram, of a function word and another to the other. A network
//! gives each word what its margin loses without it; what words only do together is in the rest.
//! Neighbouring words that pull the same way make one span; a handful of spans is shown and the others are added up, so that bias + spans +
//! other + rest is the margin to the last bit.

use serde::Serialize;

use super::features::WHOLE_TEXT;
use super::model::{Margins, Model, Scratch};
use super::signals::{N_SIGNALS, Signal};

/// Most spans shown for a signal: more than a handful nobody reads.
const MOST_SPANS: usize = 5;
/// A word joins its neighbour's span when it pulls the same way with at least this share of the strongest word.
const JOINING_SHARE: i64 = 6;

/// So many function words may stand between two words of a span.
const MOST_FILLERS: usize = 2;

/// Words of the original text (bytes `start..end`) and what they add to the margin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    pub contribution: f64,
}

/// Why one signal has its score: `bias + Σ spans + other + rest == margin`, exactly.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub signal: Signal,
    /// The signal's own margin in the passage that decided, the mean of linear model and network: before it is weighed against the other signals
    /// and calibrated.
    pub margin: f64,
    /// What the model says before it reads a word.
    pub bias: f64,
    /// Strongest first.
    pub spans: Vec<Span>,
    /// All words that are not shown.
    pub other: f64,
    /// What belongs to no word: length, case, number of links, words that the network reads together.
    pub rest: f64,
}

pub(super) fn explain(
    model: &Model,
    scratch: &Scratch,
    margins: &Margins,
    of_network: Option<&[[f64; N_SIGNALS]]>,
    signal: Signal,
    offset: usize,
) -> Explanation {
    let tokens = &scratch.tokens.tokens;
    // Function words explain nothing alone: what they add goes to the word at the other end, and they only stand inside a span.
    let is_plain = |index: usize| tokens[index].is_unclassed() && model.lexicon.is_function_word(tokens[index].hash);
    let mut is_filler: Vec<bool> = (0..tokens.len()).map(is_plain).collect();
    if !is_filler.contains(&false) {
        is_filler.fill(false);
    }
    let mut by_token = vec![0i64; tokens.len()];
    let mut rest = 0;
    scratch.tokens.walk(&model.classes, |feature| {
        let Some(contribution) = model.contribution(&feature, margins, signal) else { return };
        if (feature.first, feature.last) == WHOLE_TEXT {
            rest += contribution;
            return;
        }
        let (first, last) = (feature.first as usize, feature.last as usize);
        let to_first = match (is_filler[first], is_filler[last]) {
            (true, false) => 0,
            (false, true) => contribution,
            _ => contribution - contribution / 2,
        };
        by_token[first] += to_first;
        by_token[last] += contribution - to_first;
    });
    rest += margins.network[signal.index()];
    for (of_token, contribution) in by_token.iter_mut().zip(of_network.unwrap_or_default()) {
        let units = model.to_units(contribution[signal.index()], signal);
        *of_token += units;
        rest -= units;
    }
    let strongest = by_token.iter().map(|c| c.abs()).max().unwrap_or(0);
    let mut groups: Vec<(usize, usize, i64)> = Vec::new();
    for (index, &contribution) in by_token.iter().enumerate() {
        if is_filler[index] || contribution == 0 || contribution.abs() * JOINING_SHARE < strongest {
            continue;
        }
        match groups.last_mut() {
            Some((_, last, sum))
                if sum.signum() == contribution.signum()
                    && index - *last <= 1 + MOST_FILLERS
                    && is_filler[*last + 1..index].iter().all(|filler| *filler) =>
            {
                *sum += by_token[*last + 1..=index].iter().sum::<i64>();
                *last = index;
            }
            _ => groups.push((index, index, contribution)),
        }
    }
    groups.sort_by_key(|&(first, _, sum)| (std::cmp::Reverse(sum.abs()), first));
    groups.truncate(MOST_SPANS);
    let shown: i64 = groups.iter().map(|group| group.2).sum();
    let all: i64 = by_token.iter().sum();
    let spans = groups
        .into_iter()
        .map(|(first, last, sum)| {
            let (start, end) =
                scratch.normalized.original_range(tokens[first].start as usize, tokens[last].end as usize);
            Span { start: offset + start, end: offset + end, contribution: model.in_units(sum, signal) }
        })
        .collect();
    Explanation {
        signal,
        margin: model.margin(margins, signal),
        bias: model.in_units(model.bias[signal.index()], signal),
        spans,
        other: model.in_units(all - shown, signal),
        rest: model.in_units(rest, signal),
    }
}
