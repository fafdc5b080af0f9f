//! `POST /score` and `POST /explain`: texts in, score records out.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::App;
use super::error::ApiError;
use super::guard::Slot;
use crate::config::InputSettings;
use crate::depth::nests_deeper_than;
use crate::record::ScoreRecord;
use crate::scoring::{Model, Scratch};

/// What `serde_json` reads by recursion at most, a limit of its own.
const DEEPEST_JSON: usize = 127;

/// A text to score, as a client asked for it.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    text: String,
    id: String,
    lang: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Body {
    One(Asked),
    /// Answered with an array of as many records in the same order.
    Many(Vec<Asked>),
}

/// What a bare text cannot say of itself: `?id=…&lang=…`.
#[derive(Debug, Default, Deserialize)]
pub struct About {
    id: Option<String>,
    lang: Option<String>,
}

type Parts = (Extension<Slot>, HeaderMap, Result<Query<About>, QueryRejection>);

pub async fn score(
    State(app): State<Arc<App>>,
    parts: Parts,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let explain = app.input.explain;
    answer(app, parts, body, explain).await
}

pub async fn explain(
    State(app): State<Arc<App>>,
    parts: Parts,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    answer(app, parts, body, true).await
}

async fn answer(
    app: Arc<App>,
    (Extension(slot), headers, about): Parts,
    body: Result<Bytes, BytesRejection>,
    explain: bool,
) -> Result<Response, ApiError> {
    let body = body.map_err(|rejection| ApiError::body(&rejection, app.max_body_bytes))?;
    let about = about.map(|Query(about)| about).unwrap_or_default();
    let asked = read_body(&headers, about, &body, &app.input, app.max_texts)?;
    let job = move |model: &Model, scratch: &mut Scratch| write_records(&asked, explain, model, scratch);
    let json = app.work(slot, body.len(), job).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

fn read_body(
    headers: &HeaderMap,
    about: About,
    body: &[u8],
    input: &InputSettings,
    max_texts: usize,
) -> Result<Body, ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    if media_type == "text/plain" {
        let text = std::str::from_utf8(body).map_err(|_| ApiError::not_utf8())?;
        return asked(text, about.id, about.lang, input, None).map(Body::One);
    }
    // `curl -d` names a form: what begins like JSON is read as JSON.
    if !is_json && !body.trim_ascii_start().starts_with(b"{") && !body.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "body is neither JSON nor text/plain",
            r#"send {"text": "…"} with `content-type: application/json`, or the bare text with `content-type: text/plain`"#,
        ));
    }
    match read_json(body, input)? {
        Value::Array(items) => many(items, input, max_texts),
        Value::Object(mut object) => match object.remove("texts") {
            Some(Value::Array(items)) => many(items, input, max_texts),
            Some(_) => Err(unprocessable("`texts` is not an array")),
            None => one(&object, input, None).map(Body::One),
        },
        _ => Err(unprocessable("body is neither an object nor an array")),
    }
}

/// Reads a body as JSON that nests no deeper than the settings allow.
pub fn read_json(body: &[u8], input: &InputSettings) -> Result<Value, ApiError> {
    let deepest = input.max_depth.min(DEEPEST_JSON);
    if nests_deeper_than(body, deepest) {
        return Err(ApiError::too_deep(deepest));
    }
    serde_json::from_slice(body).map_err(|error| ApiError::not_json(&error))
}

fn many(items: Vec<Value>, input: &InputSettings, max_texts: usize) -> Result<Body, ApiError> {
    if items.len() > max_texts {
        return Err(ApiError::too_many_texts(items.len(), max_texts));
    }
    let asked = items.iter().enumerate().map(|(index, item)| match item {
        Value::String(text) => asked(text, None, None, input, Some(index)),
        Value::Object(object) => one(object, input, Some(index)),
        _ => Err(unprocessable(format!("item {index} is neither an object nor a string"))),
    });
    asked.collect::<Result<_, _>>().map(Body::Many)
}

/// Reads one object: the text where the setting points to, or in `text`.
fn one(object: &Map<String, Value>, input: &InputSettings, index: Option<usize>) -> Result<Asked, ApiError> {
    let of_item = index.map(|index| format!(" of item {index}")).unwrap_or_default();
    let text = object.get("text").or_else(|| pointed(object, &input.text_pointer));
    let text = match text {
        Some(Value::String(text)) => text,
        Some(_) => return Err(unprocessable(format!("`text`{of_item} is not a string"))),
        None => return Err(unprocessable(format!("`text`{of_item} is missing"))),
    };
    let id = match object.get("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        Some(_) => return Err(unprocessable(format!("`id`{of_item} is neither a string nor a number"))),
    };
    let lang = match object.get("lang") {
        None | Some(Value::Null) => None,
        Some(Value::String(lang)) => Some(lang.clone()),
        Some(_) => return Err(unprocessable(format!("`lang`{of_item} is not a string"))),
    };
    asked(text, id, lang, input, index)
}

fn pointed<'a>(object: &'a Map<String, Value>, pointer: &str) -> Option<&'a Value> {
    let (first, rest) = match pointer.strip_prefix('/')?.split_once('/') {
        Some((first, _)) => (first, &pointer[1 + first.len()..]),
        None => (&pointer[1..], ""),
    };
    object.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
}

fn asked(
    text: &str,
    id: Option<String>,
    lang: Option<String>,
    input: &InputSettings,
    index: Option<usize>,
) -> Result<Asked, ApiError> {
    if text.len() > input.max_bytes {
        let of_item = index.map(|index| format!(" of item {index}")).unwrap_or_default();
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("text{of_item} is larger than {} bytes", input.max_bytes),
            "cut it, or raise input.max_bytes",
        ));
    }
    let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| id_of(text));
    Ok(Asked { text: text.to_owned(), id, lang })
}

/// The id of a text that came without one. From the text alone, so that the same input gives the same id.
fn id_of(text: &str) -> String {
    let hash = Sha256::digest(text);
    let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("http/{hex}")
}

fn unprocessable(error: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        error,
        r#"send {"text": "…"} with optional `id` and `lang`, or an array of such objects or strings"#,
    )
}

fn write_records(asked: &Body, explain: bool, model: &Model, scratch: &mut Scratch) -> Vec<u8> {
    let now = jiff::Timestamp::now();
    let scored_at = now.round(jiff::Unit::Millisecond).unwrap_or(now).to_string();
    let mut json = Vec::new();
    let mut write = |asked: &Asked, json: &mut Vec<u8>| {
        let hint = asked.lang.as_deref();
        let (scored, explanation) = match explain {
            true => {
                let (scored, explanation) = model.explain(&asked.text, hint, scratch);
                (scored, Some(explanation))
            }
            false => (model.score(&asked.text, hint, scratch), None),
        };
        let record = ScoreRecord::new(&asked.id, None, model, &scored, explanation.as_deref(), &scored_at);
        serde_json::to_writer(json, &record).expect("a record has string keys and memory takes all");
    };
    match asked {
        Body::One(one) => write(one, &mut json),
        Body::Many(many) => {
            json.push(b'[');
            for (index, one) in many.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                write(one, &mut json);
            }
            json.push(b']');
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn check(content_type: &'static str, body: &[u8], expected: Result<&[&str], u16>) {
        let input = InputSettings {
            text_pointer: "/data/body~1html".to_owned(),
            max_bytes: 40,
            max_depth: 16,
            explain: false,
            dead_letter_text: true,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let found = match read_body(&headers, About::default(), body, &input, 3) {
            Ok(Body::One(one)) => Ok(vec![one.text]),
            Ok(Body::Many(many)) => Ok(many.into_iter().map(|one| one.text).collect()),
            Err(error) => Err(error.status.as_u16()),
        };
        let expected = expected.map(|texts| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(found, expected, "{content_type} {}", String::from_utf8_lossy(body));
    }

    #[test]
    fn bodies_are_read_in_every_promised_shape() {
        check("application/json", br#"{"text":"a","id":7}"#, Ok(&["a"]));
        check("application/cloudevents+json", br#"{"data":{"body/html":"a"}}"#, Ok(&["a"]));
        check("application/json; charset=utf-8", br#"[{"text":"a"},"b"]"#, Ok(&["a", "b"]));
        check("application/x-www-form-urlencoded", br#" {"texts":["a",{"text":"b"}]}"#, Ok(&["a", "b"]));
        check("text/plain; charset=utf-8", br#"{"text":"a"}"#, Ok(&[r#"{"text":"a"}"#]));
        check("application/json", b"[]", Ok(&[]));
    }

    #[test]
    fn broken_bodies_are_refused() {
        check("application/json", b"{", Err(400));
        check("application/json", b"\xff", Err(400));
        check("text/plain", b"\xff", Err(400));
        check("application/x-www-form-urlencoded", b"text=a", Err(415));
        check("application/json", b"3", Err(422));
        check("application/json", br#"{"text":3}"#, Err(422));
        check("application/json", br#"{"txt":"a"}"#, Err(422));
        check("application/json", br#"["a",3]"#, Err(422));
        check("application/json", br#"{"text":"a","id":[]}"#, Err(422));
        check("text/plain", &[b'a'; 41], Err(413));
        check("application/json", "[".repeat(100_000).as_bytes(), Err(400));
        check("application/json", br#"["a","b","c","d"]"#, Err(413));
    }
}
