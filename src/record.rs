//! The score record: what the core said of a text in, the JSON that users rely on out (`deploy/schemas/score.json`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::scoring::{Abstained, Explanation, Lang, Model, Reading, Scored, Signal, SignalScore};

/// Version of the record's shape.
pub const SCORE_SCHEMA: &str = "vigie.score/1";

/// Where an input record stood. `None` in the record when the text did not come from a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// RFC 3339, of the input record; `null` when it had none.
    pub timestamp: Option<String>,
}

/// The model that scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ModelName<'a> {
    pub version: &'a str,
    pub sha256: &'a str,
}

/// A published score record. Borrowed from its parts, made to be serialized at once.
#[derive(Debug, Serialize)]
pub struct ScoreRecord<'a> {
    pub schema: &'static str,
    pub id: &'a str,
    pub source: Option<&'a Source>,
    pub model: ModelName<'a>,
    pub lang: Lang,
    /// By signal name; `null` when the core abstained.
    pub signals: Option<Signals>,
    pub reading: Option<Reading>,
    pub abstained: Option<Abstained>,
    pub passages: Vec<Passage>,
    pub explanation: Option<&'a [Explanation]>,
    /// RFC 3339, UTC.
    pub scored_at: &'a str,
}

/// Five scores under their names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Signals {
    pub antisemitism: SignalScore,
    pub hate_speech: SignalScore,
    pub moderation: SignalScore,
    pub attack: SignalScore,
    pub counter_speech: SignalScore,
}

/// One passage of a longer text; `start` and `end` are bytes of the original text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Passage {
    pub start: usize,
    pub end: usize,
    pub scores: BTreeMap<&'static str, f64>,
}

impl<'a> ScoreRecord<'a> {
    /// Puts a record together. `scored_at` is RFC 3339; `explanation` is given when it was asked for.
    pub fn new(
        id: &'a str,
        source: Option<&'a Source>,
        model: &'a Model,
        scored: &Scored,
        explanation: Option<&'a [Explanation]>,
        scored_at: &'a str,
    ) -> ScoreRecord<'a> {
        let signals = scored.signals.map(|signals| {
            let signals = signals.map(|signal| SignalScore { score: rounded(signal.score), band: signal.band });
            let [antisemitism, hate_speech, moderation, attack, counter_speech] = signals;
            Signals { antisemitism, hate_speech, moderation, attack, counter_speech }
        });
        let passages = scored.passages.iter().map(|passage| Passage {
            start: passage.start,
            end: passage.end,
            scores: Signal::ALL.map(|signal| (signal.as_str(), rounded(passage.scores[signal.index()]))).into(),
        });
        ScoreRecord {
            schema: SCORE_SCHEMA,
            id,
            source,
            model: ModelName { version: model.version(), sha256: model.sha256() },
            lang: Lang { code: scored.lang.code, score: rounded(scored.lang.score) },
            signals,
            reading: scored.reading,
            abstained: scored.abstained,
            passages: passages.collect(),
            explanation,
            scored_at,
        }
    }
}

/// Four decimals: more say nothing and cost bytes. Never rounded up to certainty.
fn rounded(score: f64) -> f64 {
    ((score * 10_000.0).round() / 10_000.0).clamp(0.0, 0.9999)
}
