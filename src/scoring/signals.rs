//! Names the results: calibrated probabilities in, bands and a reading out.

use serde::{Deserialize, Serialize};

/// One of the five published signals: three topics (what a text is about), two stances (what it does in its own voice).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    Antisemitism,
    HateSpeech,
    Moderation,
    Attack,
    CounterSpeech,
}

/// How many signals there are; the width of every weight row.
pub const N_SIGNALS: usize = 5;

impl Signal {
    /// All signals in the order of every five-wide array of this crate and of the model file.
    pub const ALL: [Signal; N_SIGNALS] =
        [Signal::Antisemitism, Signal::HateSpeech, Signal::Moderation, Signal::Attack, Signal::CounterSpeech];

    /// The name in records, metrics and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Antisemitism => "antisemitism",
            Signal::HateSpeech => "hate_speech",
            Signal::Moderation => "moderation",
            Signal::Attack => "attack",
            Signal::CounterSpeech => "counter_speech",
        }
    }

    /// The signal of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.as_str() == name)
    }

    /// The place of this signal in five-wide arrays.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Where a score stands against the two thresholds of its signal and language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    Low,
    Uncertain,
    High,
}

impl Band {
    pub const ALL: [Band; 3] = [Band::Low, Band::Uncertain, Band::High];

    pub fn as_str(self) -> &'static str {
        match self {
            Band::Low => "low",
            Band::Uncertain => "uncertain",
            Band::High => "high",
        }
    }
}

/// What the bands say together, for a person in a hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Attack,
    CounterSpeech,
    Discussion,
    None,
    Uncertain,
}

impl Reading {
    pub const ALL: [Reading; 5] =
        [Reading::Attack, Reading::CounterSpeech, Reading::Discussion, Reading::None, Reading::Uncertain];

    pub fn as_str(self) -> &'static str {
        match self {
            Reading::Attack => "attack",
            Reading::CounterSpeech => "counter_speech",
            Reading::Discussion => "discussion",
            Reading::None => "none",
            Reading::Uncertain => "uncertain",
        }
    }
}

/// Why a text got no scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Abstained {
    Empty,
    TooShort,
    UnsupportedLanguage,
}

impl Abstained {
    pub const ALL: [Abstained; 3] = [Abstained::Empty, Abstained::TooShort, Abstained::UnsupportedLanguage];

    pub fn as_str(self) -> &'static str {
        match self {
            Abstained::Empty => "empty",
            Abstained::TooShort => "too_short",
            Abstained::UnsupportedLanguage => "unsupported_language",
        }
    }
}

/// A detected or given language: ISO 639-1 code (`und` when there was nothing to tell it by) and how sure, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lang {
    pub code: &'static str,
    pub score: f64,
}

/// A calibrated probability and its band.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SignalScore {
    pub score: f64,
    pub band: Band,
}

/// The scores of one passage; `start` and `end` are bytes of the original text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassageScores {
    pub start: usize,
    pub end: usize,
    pub scores: [f64; N_SIGNALS],
}

/// What the core says of one text. `signals` is `None` exactly when `abstained` is `Some`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub lang: Lang,
    pub signals: Option<[SignalScore; N_SIGNALS]>,
    pub reading: Option<Reading>,
    pub abstained: Option<Abstained>,
    /// Filled for a text of more than one passage.
    pub passages: Vec<PassageScores>,
}

/// The two cuts of one signal in one language: below `low` the band is low, from `high` on it is high.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Chosen for recall: nearly all that carries the signal scores at least this.
    pub low: f64,
    /// Chosen for precision: what scores at least this nearly always carries the signal.
    pub high: f64,
}

impl Thresholds {
    /// The band of a score.
    pub fn band(self, score: f64) -> Band {
        if score >= self.high {
            Band::High
        } else if score >= self.low {
            Band::Uncertain
        } else {
            Band::Low
        }
    }
}

/// Reads the five bands together.
///
/// A high stance decides, and two high stances contradict each other; a high topic without a high stance is a discussion.
pub fn reading(bands: &[Band; N_SIGNALS]) -> Reading {
    let band = |signal: Signal| bands[signal.index()];
    let topics = [Signal::Antisemitism, Signal::HateSpeech, Signal::Moderation];
    let topic_is_high = topics.iter().any(|&topic| band(topic) == Band::High);
    match (band(Signal::Attack), band(Signal::CounterSpeech)) {
        (Band::High, Band::High) => Reading::Uncertain,
        (Band::High, _) => Reading::Attack,
        (_, Band::High) => Reading::CounterSpeech,
        _ if topic_is_high => Reading::Discussion,
        (Band::Low, Band::Low) if topics.iter().all(|&topic| band(topic) == Band::Low) => Reading::None,
        _ => Reading::Uncertain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Band::{High, Low, Uncertain};

    fn check(bands: [Band; N_SIGNALS], expected: Reading) {
        assert_eq!(reading(&bands), expected, "{bands:?}");
    }

    #[test]
    fn bands_settle_the_reading() {
        check([Low, Low, Low, Low, Low], Reading::None);
        check([High, High, Low, High, Low], Reading::Attack);
        check([High, High, Low, Uncertain, High], Reading::CounterSpeech);
        check([High, High, High, Low, Low], Reading::Discussion);
        check([High, High, Low, Uncertain, Low], Reading::Discussion);
        check([Low, Low, Low, Uncertain, Low], Reading::Uncertain);
        check([Low, High, Low, High, High], Reading::Uncertain);
        check([Low, Uncertain, Low, Low, Low], Reading::Uncertain);
    }

    #[test]
    fn names_come_back() {
        for signal in Signal::ALL {
            assert_eq!(Signal::from_name(signal.as_str()), Some(signal));
        }
        assert_eq!(Signal::from_name("toxicity"), None);
    }
}
