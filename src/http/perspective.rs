//! `POST /v1alpha1/comments:analyze`: a Perspective API client's question in, an answer in that API's shape out (`docs/perspective.md`).
//!
//! An attribute is answered only when a signal of ours means the same. Nothing is stored, whatever `doNotStore` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::App;
use super::error::{self, ApiError};
use super::guard::Slot;
use super::score::read_json;
use crate::config::InputSettings;
use crate::scoring::{Abstained, Scored, Signal};

/// Attributes by name. `IDENTITY_ATTACK` ("negative or hateful comments targeting someone because of their identity") is our `attack`;
/// the API's other attributes (toxicity, insult, profanity, threat …) mean what no signal of ours means.
const ATTRIBUTES: [(&str, Signal); 6] = [
    ("IDENTITY_ATTACK", Signal::Attack),
    ("VIGIE_ANTISEMITISM", Signal::Antisemitism),
    ("VIGIE_HATE_SPEECH", Signal::HateSpeech),
    ("VIGIE_MODERATION", Signal::Moderation),
    ("VIGIE_ATTACK", Signal::Attack),
    ("VIGIE_COUNTER_SPEECH", Signal::CounterSpeech),
];

/// The fields that change the answer; the API's others (`doNotStore`, `context`, `sessionId`, `communityId`) are accepted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    comment: Comment,
    requested_attributes: BTreeMap<String, Option<Requested>>,
    #[serde(default)]
    languages: Vec<String>,
    #[serde(default)]
    span_annotations: bool,
    client_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Comment {
    #[serde(default)]
    text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requested {
    score_type: Option<String>,
    score_threshold: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    attribute_scores: BTreeMap<&'a str, AttributeScores>,
    languages: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detected_languages: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_token: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttributeScores {
    span_scores: Vec<SpanScore>,
    summary_score: Score,
}

/// `begin` and `end` count characters (Unicode code points).
#[derive(Debug, Serialize)]
struct SpanScore {
    begin: usize,
    end: usize,
    score: Score,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Score {
    value: f64,
    r#type: &'static str,
}

fn probability(value: f64) -> Score {
    Score { value, r#type: "PROBABILITY" }
}

/// A refusal in the API's own shape, with our hint beside it.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    hint: String,
    /// What stands in `details[0]`, beside its `@type`.
    details: Option<Value>,
}

pub async fn analyze(
    State(app): State<Arc<App>>,
    Extension(slot): Extension<Slot>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = body.map_err(|rejection| ApiError::body(&rejection, app.max_body_bytes))?;
    let request = read_request(&body, &app.input)?;
    let lang = match &request.languages[..] {
        [lang] => Some(lang.clone()),
        _ => None,
    };
    let text = request.comment.text.clone();
    let scored = app.work(slot, text.len(), move |model, scratch| model.score(&text, lang.as_deref(), scratch)).await?;
    answer(&request, &scored)
}

fn read_request(body: &[u8], input: &InputSettings) -> Result<Request, Refusal> {
    let value = read_json(body, input)?;
    // The error's own words would repeat values of the request.
    let request: Request = serde_json::from_value(value).map_err(|_| {
        let hint = r#"send {"comment": {"text": "…"}, "requestedAttributes": {"IDENTITY_ATTACK": {}}}"#;
        Refusal::new("request is not an AnalyzeComment request", hint, None)
    })?;
    if request.requested_attributes.is_empty() {
        return Err(Refusal::new("no requestedAttributes", supported(), Some(json!({"errorType": "NO_ATTRIBUTES"}))));
    }
    for (name, requested) in &request.requested_attributes {
        if signal_of(name).is_none() {
            let name: String = name.chars().take(60).collect();
            let details =
                json!({"errorType": "ATTRIBUTE_NOT_SUPPORTED", "attributeNotSupportedError": {"attribute": name}});
            return Err(Refusal::new(format!("Attribute {name} is not supported"), supported(), Some(details)));
        }
        let score_type = requested.as_ref().and_then(|requested| requested.score_type.as_deref());
        if !matches!(score_type, None | Some("PROBABILITY" | "SCORE_TYPE_UNSPECIFIED")) {
            let message = format!("Attribute {name} has no such scoreType");
            return Err(Refusal::new(message, "leave scoreType out, or send PROBABILITY", None));
        }
    }
    if request.comment.text.len() > input.max_bytes {
        let details = json!({"errorType": "COMMENT_TOO_LONG", "commentTooLongError": {"maxLength": input.max_bytes}});
        let hint = format!("send at most {} bytes, or raise input.max_bytes", input.max_bytes);
        return Err(Refusal::new("Comment is too long", hint, Some(details)));
    }
    Ok(request)
}

fn signal_of(attribute: &str) -> Option<Signal> {
    ATTRIBUTES.iter().find(|(name, _)| *name == attribute).map(|&(_, signal)| signal)
}

fn supported() -> String {
    format!("supported are {}; see docs/perspective.md", ATTRIBUTES.map(|(name, _)| name).join(", "))
}

fn answer(request: &Request, scored: &Scored) -> Result<Response, Refusal> {
    let Some(signals) = scored.signals else { return Err(abstained(request, scored)) };
    let spans: Vec<(usize, usize, Option<usize>)> = match request.span_annotations && !scored.passages.is_empty() {
        true => passages_in_characters(&request.comment.text, scored),
        false => vec![(0, request.comment.text.chars().count(), None)],
    };
    let mut attribute_scores = BTreeMap::new();
    for (name, requested) in &request.requested_attributes {
        let Some(signal) = signal_of(name) else { continue };
        let value = signals[signal.index()].score;
        let threshold = requested.as_ref().and_then(|requested| requested.score_threshold);
        if threshold.is_some_and(|threshold| value < threshold) {
            continue;
        }
        let span_scores = spans.iter().map(|&(begin, end, passage)| SpanScore {
            begin,
            end,
            score: probability(passage.map_or(value, |passage| scored.passages[passage].scores[signal.index()])),
        });
        let scores = AttributeScores { span_scores: span_scores.collect(), summary_score: probability(value) };
        attribute_scores.insert(name.as_str(), scores);
    }
    let detected = vec![scored.lang.code];
    let answer = Answer {
        attribute_scores,
        languages: match request.languages.is_empty() {
            true => detected.clone(),
            false => request.languages.iter().map(String::as_str).collect(),
        },
        // With one language given, nothing is detected.
        detected_languages: if request.languages.len() == 1 { Vec::new() } else { detected },
        client_token: request.client_token.as_deref(),
    };
    Ok(axum::Json(answer).into_response())
}

/// Start and end of each passage in characters, and its place.
fn passages_in_characters(text: &str, scored: &Scored) -> Vec<(usize, usize, Option<usize>)> {
    let (mut n_bytes, mut n_characters) = (0, 0);
    let mut characters_before = |byte: usize| {
        n_characters += text[n_bytes..byte].chars().count();
        n_bytes = byte;
        n_characters
    };
    let passages = scored.passages.iter().enumerate();
    passages
        .map(|(index, passage)| (characters_before(passage.start), characters_before(passage.end), Some(index)))
        .collect()
}

fn abstained(request: &Request, scored: &Scored) -> Refusal {
    let lang = scored.lang.code;
    match scored.abstained {
        Some(Abstained::UnsupportedLanguage) => {
            let attribute = request.requested_attributes.keys().next().map_or("", String::as_str);
            let details = json!({
                "errorType": "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
                "languageNotSupportedByAttributeError": {"detectedLanguages": [lang], "attribute": attribute},
            });
            let message = format!("Attribute {attribute} does not support request languages: {lang}");
            Refusal::new(message, "French and English are supported", Some(details))
        }
        Some(Abstained::TooShort) => {
            let hint = "a score of so few letters would mean nothing; send more text";
            Refusal::new("Comment is too short", hint, Some(json!({"errorType": "COMMENT_TOO_SHORT"})))
        }
        Some(Abstained::Empty) | None => Refusal::new(
            "Comment must be non-empty.",
            "put a text into comment.text",
            Some(json!({"errorType": "COMMENT_EMPTY"})),
        ),
    }
}

impl Refusal {
    fn new(message: impl Into<String>, hint: impl Into<String>, details: Option<Value>) -> Refusal {
        Refusal { status: StatusCode::BAD_REQUEST, message: message.into(), hint: hint.into(), details }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal { status: error.status, message: error.error, hint: error.hint, details: None }
    }
}

/// Says an error of the server's in the API's shape.
pub fn refuse(error: ApiError) -> Response {
    Refusal::from(error).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.status {
            StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
            StatusCode::SERVICE_UNAVAILABLE => "UNAVAILABLE",
            StatusCode::REQUEST_TIMEOUT => "DEADLINE_EXCEEDED",
            StatusCode::INTERNAL_SERVER_ERROR => "INTERNAL",
            _ => "INVALID_ARGUMENT",
        };
        let mut error = json!({"code": self.status.as_u16(), "message": self.message, "status": status});
        if let Some(mut details) = self.details {
            details["@type"] = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error".into();
            error["details"] = json!([details]);
        }
        let mut response = (self.status, axum::Json(json!({"error": error, "hint": self.hint}))).into_response();
        error::add_headers(&mut response);
        response
    }
}
