//! Finds the text in an input record: payload and headers in, the text to score or the reason for a dead letter out.
//!
//! A record's value is a JSON object with the text at a JSON pointer, a JSON string, a CloudEvent (structured, or binary with `ce_*` headers),
//! or plain UTF-8 text. A value that starts like an object must be valid JSON. One that starts with `[` or `"` is JSON only when all of it is:
//! people begin texts with `[Update]` and with quotations, and a text scored is better than a text refused.
//!
//! Only the text is scored. A `title` is not joined to it: titles and texts are cut apart by the producer on purpose, and spans of an
//! explanation are bytes of one original text.

use std::borrow::Cow;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::InputSettings;
use crate::depth::nests_deeper_than;

/// Why a record became a dead letter. The closed set of the `vigie-reason` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The value is null or has no bytes.
    Empty,
    /// The value has more bytes than `input.max_bytes`.
    TooLarge,
    /// The value is not UTF-8.
    NotUtf8,
    /// The value starts like a JSON object and is not valid JSON.
    NotJson,
    /// JSON nested deeper than `input.max_depth`.
    TooDeep,
    /// Valid JSON with nothing, or `null`, at the text pointer.
    TextMissing,
    /// What stands at the text pointer is not a string.
    TextNotString,
    /// The output topic refused the score record as too large.
    OutputTooLarge,
    /// Scoring met a bug in Vigie. The record is kept so that it can be replayed after the mend.
    Internal,
}

impl DeadReason {
    /// All reasons.
    pub const ALL: [DeadReason; 9] = [
        DeadReason::Empty,
        DeadReason::TooLarge,
        DeadReason::NotUtf8,
        DeadReason::NotJson,
        DeadReason::TooDeep,
        DeadReason::TextMissing,
        DeadReason::TextNotString,
        DeadReason::OutputTooLarge,
        DeadReason::Internal,
    ];

    /// The name in the header and the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::Empty => "empty",
            DeadReason::TooLarge => "too_large",
            DeadReason::NotUtf8 => "not_utf8",
            DeadReason::NotJson => "not_json",
            DeadReason::TooDeep => "too_deep",
            DeadReason::TextMissing => "text_missing",
            DeadReason::TextNotString => "text_not_string",
            DeadReason::OutputTooLarge => "output_too_large",
            DeadReason::Internal => "internal",
        }
    }

    /// The reason of that name, if there is one.
    pub fn from_name(name: &str) -> Option<DeadReason> {
        DeadReason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// A record that cannot be scored. `detail` holds places and numbers, never a part of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: DeadReason,
    pub detail: String,
}

fn refuse<T>(reason: DeadReason, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, detail: detail.into() })
}

/// What of a record is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputText<'a> {
    /// The record's own id, when it has one that is not empty.
    pub id: Option<Cow<'a, str>>,
    pub text: Cow<'a, str>,
    /// The language that the record gives itself.
    pub lang: Option<Cow<'a, str>>,
}

/// The headers that change how a value is read. Kafka allows any header; of one that stands twice the last counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputHeaders<'a> {
    /// `ce_id` of a binary CloudEvent.
    pub event_id: Option<&'a [u8]>,
    /// `content-type`: `text/plain` makes any value a plain text, even one that looks like JSON.
    pub content_type: Option<&'a [u8]>,
}

impl<'a> InputHeaders<'a> {
    /// Picks them out of a record's headers.
    pub fn pick(headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> InputHeaders<'a> {
        let mut picked = InputHeaders::default();
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("ce_id") {
                picked.event_id = value;
            } else if name.eq_ignore_ascii_case("content-type") {
                picked.content_type = value;
            }
        }
        picked
    }

    fn is_plain_text(&self) -> bool {
        self.content_type.is_some_and(|value| value.len() >= 10 && value[..10].eq_ignore_ascii_case(b"text/plain"))
    }
}

/// Finds the text in a record. Linear in the record's size, and without recursion into it.
pub fn decode<'a>(
    payload: Option<&'a [u8]>,
    headers: InputHeaders<'a>,
    settings: &InputSettings,
) -> Result<InputText<'a>, Refusal> {
    let bytes = payload.unwrap_or_default();
    if bytes.is_empty() {
        return refuse(
            DeadReason::Empty,
            if payload.is_none() { "the value is null" } else { "the value has no bytes" },
        );
    }
    if bytes.len() > settings.max_bytes {
        let detail = format!("{} bytes, more than input.max_bytes = {}", bytes.len(), settings.max_bytes);
        return refuse(DeadReason::TooLarge, detail);
    }
    let value = match std::str::from_utf8(bytes) {
        Ok(value) => value.strip_prefix('\u{feff}').unwrap_or(value),
        Err(error) => return refuse(DeadReason::NotUtf8, format!("invalid byte at {}", error.valid_up_to())),
    };
    let event_id = headers.event_id.and_then(|id| std::str::from_utf8(id).ok()).filter(|id| !id.is_empty());
    let mut input = decode_value(value, headers.is_plain_text(), settings)?;
    if let Some(id) = event_id {
        input.id = Some(Cow::Borrowed(id));
    }
    Ok(input)
}

fn decode_value<'a>(value: &'a str, is_plain: bool, settings: &InputSettings) -> Result<InputText<'a>, Refusal> {
    let plain = || InputText { id: None, text: Cow::Borrowed(value), lang: None };
    // Not `trim_start`: JSON knows four white spaces, and a text may start with others.
    let start = value.trim_start_matches([' ', '\t', '\n', '\r']).as_bytes().first();
    let Some(start @ (b'{' | b'[' | b'"')) = start.filter(|_| !is_plain) else { return Ok(plain()) };
    let is_object = *start == b'{';
    let deepest = settings.max_depth;
    if nests_deeper_than(value.as_bytes(), deepest) {
        // A text with a hundred brackets is still a text, unless it claims to be JSON.
        return if is_object || serde_json::from_str::<IgnoredAny>(value).is_ok() {
            refuse(DeadReason::TooDeep, format!("nested deeper than {deepest} levels"))
        } else {
            Ok(plain())
        };
    }
    match serde_json::from_str::<&RawValue>(value) {
        Ok(json) => decode_json(json, settings),
        Err(_) if !is_object => Ok(plain()),
        Err(error) => refuse(DeadReason::NotJson, place(&error)),
    }
}

fn decode_json<'a>(json: &'a RawValue, settings: &InputSettings) -> Result<InputText<'a>, Refusal> {
    if json.get().starts_with('"') {
        return Ok(InputText { id: None, text: string(json)?, lang: None });
    }
    let outer = fields(json, ["specversion", "id", "lang", "data"])?;
    let [specversion, id, lang, data] = outer;
    let mut id = id.and_then(id_text);
    let mut lang = lang;
    let mut holder = json;
    if let (Some(_), Some(data)) = (specversion, data) {
        if data.get().starts_with('"') {
            return Ok(InputText { id, text: string(data)?, lang: None });
        }
        let [inner_id, inner_lang] = fields(data, ["id", "lang"])?;
        id = id.or_else(|| inner_id.and_then(id_text));
        lang = inner_lang;
        holder = data;
    }
    let text = match point(holder, &settings.text_pointer)? {
        Some(found) if found.get().starts_with('"') => string(found)?,
        Some(found) if found.get() != "null" => {
            let detail = format!("{} at \"{}\"", kind(found), settings.text_pointer);
            return refuse(DeadReason::TextNotString, detail);
        }
        _ => return refuse(DeadReason::TextMissing, format!("nothing at \"{}\"", settings.text_pointer)),
    };
    let lang = lang.filter(|lang| lang.get().starts_with('"')).and_then(|lang| string(lang).ok());
    Ok(InputText { id, text, lang })
}

/// A string or a number as written; other kinds of ids are no ids.
fn id_text(id: &RawValue) -> Option<Cow<'_, str>> {
    match id.get().as_bytes().first() {
        Some(b'"') => string(id).ok().filter(|id| !id.is_empty()),
        Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(id.get())),
        _ => None,
    }
}

/// The text of a JSON string. Fails on an escape that is no character, such as half a surrogate pair.
fn string(json: &RawValue) -> Result<Cow<'_, str>, Refusal> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = Cow<'de, str>;
        fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
            formatter.write_str("a string")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
            Ok(Cow::Borrowed(text))
        }
        fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
            Ok(Cow::Owned(text.to_owned()))
        }
    }
    serde_json::Deserializer::from_str(json.get())
        .deserialize_str(Text)
        .or_else(|error| refuse(DeadReason::NotJson, place(&error)))
}

/// The values of some fields of an object, as written; all `None` when it is no object. Of a field that stands twice the last counts.
fn fields<'a, const N: usize>(json: &'a RawValue, names: [&str; N]) -> Result<[Option<&'a RawValue>; N], Refusal> {
    struct Fields<'n, const N: usize>([&'n str; N]);
    impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
        type Value = [Option<&'de RawValue>; N];
        fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
            formatter.write_str("an object")
        }
        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut found = [None; N];
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                match self.0.iter().position(|&wanted| wanted == name) {
                    Some(index) => found[index] = Some(map.next_value::<&'de RawValue>()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(found)
        }
    }
    if !json.get().starts_with('{') {
        return Ok([None; N]);
    }
    serde_json::Deserializer::from_str(json.get())
        .deserialize_map(Fields(names))
        .or_else(|error| refuse(DeadReason::NotJson, place(&error)))
}

/// Follows a JSON pointer (RFC 6901): `""` is the whole value.
fn point<'a>(json: &'a RawValue, pointer: &str) -> Result<Option<&'a RawValue>, Refusal> {
    let mut at = json;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let next = if at.get().starts_with('[') {
            let items: Vec<&RawValue> =
                serde_json::from_str(at.get()).or_else(|error| refuse(DeadReason::NotJson, place(&error)))?;
            token.parse::<usize>().ok().and_then(|index| items.get(index).copied())
        } else {
            let [found] = fields(at, [token.as_str()])?;
            found
        };
        match next {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn kind(json: &RawValue) -> &'static str {
    match json.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        _ => "a number",
    }
}

/// Where the parser stopped. Its own words may quote the record, so they are left out.
fn place(error: &serde_json::Error) -> String {
    let what = if error.is_eof() { "unexpected end" } else { "invalid JSON" };
    format!("{what} at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> InputSettings {
        InputSettings {
            text_pointer: "/text".to_owned(),
            max_bytes: 1000,
            max_depth: 8,
            explain: false,
            dead_letter_text: true,
        }
    }

    fn check(payload: &str, text: &str, id: Option<&str>, lang: Option<&str>) {
        let settings = settings();
        let found = decode(Some(payload.as_bytes()), InputHeaders::default(), &settings).expect(payload);
        assert_eq!((&*found.text, found.id.as_deref(), found.lang.as_deref()), (text, id, lang), "{payload}");
    }

    fn check_refused(payload: &[u8], reason: DeadReason) {
        let refusal = decode(Some(payload), InputHeaders::default(), &settings()).expect_err("a refusal");
        assert_eq!(refusal.reason, reason, "{}", String::from_utf8_lossy(payload));
        assert!(!refusal.detail.contains("secret"), "{}", refusal.detail);
    }

    #[test]
    fn texts_are_found_in_every_shape() {
        check("bonjour à tous", "bonjour à tous", None, None);
        check("\u{feff}{\"text\":\"a\"}", "a", None, None);
        check(r#"{"id":"x1","text":"a\nb","lang":"fr","title":"t","extra":[{}]}"#, "a\nb", Some("x1"), Some("fr"));
        check(r#" {"text":"a","id":12345678901234567890}"#, "a", Some("12345678901234567890"), None);
        check(r#"{"text":"a","id":{"no":"id"},"lang":7}"#, "a", None, None);
        check(r#"{"text":"","id":""}"#, "", None, None);
        check(r#""a JSON string\u00e9""#, "a JSON stringé", None, None);
        check("\"Jamais !\" dit-il", "\"Jamais !\" dit-il", None, None);
        check("[Update] the page is back", "[Update] the page is back", None, None);
        check("123", "123", None, None);
        let brackets = "[".repeat(500);
        check(&brackets, &brackets, None, None);
    }

    #[test]
    fn cloud_events_are_unwrapped() {
        check(
            r#"{"specversion":"1.0","id":"e1","source":"s","type":"t","data":{"text":"a","id":"inner","lang":"en"}}"#,
            "a",
            Some("e1"),
            Some("en"),
        );
        check(r#"{"specversion":"1.0","id":"e2","data":"plain"}"#, "plain", Some("e2"), None);
        let (binary, settings) = (InputHeaders::pick([("ce_id", Some(&b"e3"[..]))]), settings());
        let found = decode(Some(br#"{"text":"a","id":"inner"}"#), binary, &settings).unwrap();
        assert_eq!((&*found.text, found.id.as_deref()), ("a", Some("e3")));
        let found = decode(Some(b"plain"), binary, &settings).unwrap();
        assert_eq!((&*found.text, found.id.as_deref()), ("plain", Some("e3")));
    }

    #[test]
    fn a_pointer_leads_into_the_record() {
        let settings = InputSettings { text_pointer: "/post/bodies/1/a~1b".to_owned(), ..settings() };
        let payload = br#"{"post":{"bodies":[{},{"a/b":"here"}]}}"#;
        assert_eq!(decode(Some(payload), InputHeaders::default(), &settings).unwrap().text, "here");
    }

    #[test]
    fn text_plain_is_believed() {
        let (headers, settings) =
            (InputHeaders::pick([("Content-Type", Some(&b"text/plain; charset=utf-8"[..]))]), settings());
        assert_eq!(decode(Some(b"{ not json"), headers, &settings).unwrap().text, "{ not json");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        check_refused(b"", DeadReason::Empty);
        assert_eq!(decode(None, InputHeaders::default(), &settings()).unwrap_err().reason, DeadReason::Empty);
        check_refused(&[b'a'; 1001], DeadReason::TooLarge);
        check_refused(b"secret \xff\xfe", DeadReason::NotUtf8);
        check_refused(br#"{"text": "secret"#, DeadReason::NotJson);
        check_refused(br#"{"text": secret}"#, DeadReason::NotJson);
        check_refused(br#"{"text":"secret"} trailing"#, DeadReason::NotJson);
        check_refused(br#"{"text":"secret \ud800"}"#, DeadReason::NotJson);
        check_refused(br#"{"body":"secret"}"#, DeadReason::TextMissing);
        check_refused(br#"{"text":null}"#, DeadReason::TextMissing);
        check_refused(br#"["secret"]"#, DeadReason::TextMissing);
        check_refused(br#"{"text":["secret"]}"#, DeadReason::TextNotString);
        check_refused(br#"{"text":42}"#, DeadReason::TextNotString);
        check_refused(format!("{{\"text\":{}", "[".repeat(100)).as_bytes(), DeadReason::TooDeep);
        check_refused(format!("{{\"a\":{}{}}}", "[".repeat(9), "]".repeat(9)).as_bytes(), DeadReason::TooDeep);
    }

    #[test]
    fn brackets_inside_strings_are_not_depth() {
        let payload = format!(r#"{{"text":"{} \"[[[[ "}}"#, "{".repeat(50));
        check(&payload, &format!("{} \"[[[[ ", "{".repeat(50)), None, None);
    }

    #[test]
    fn a_huge_nest_costs_no_stack() {
        let settings = InputSettings { max_bytes: 10_000_000, max_depth: usize::MAX, ..settings() };
        for payload in ["{\"text\":".repeat(600_000), "[".repeat(5_000_000)] {
            // Either a refusal or a plain text: what matters is that we come back.
            let _ = decode(Some(payload.as_bytes()), InputHeaders::default(), &settings);
        }
        let nest = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        for (max_depth, reason) in [(32, DeadReason::TooDeep), (usize::MAX, DeadReason::TextMissing)] {
            let settings = InputSettings { max_depth, ..settings.clone() };
            let refusal = decode(Some(nest.as_bytes()), InputHeaders::default(), &settings).unwrap_err();
            assert_eq!(refusal.reason, reason);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(Some(&payload), InputHeaders::default(), &settings());
        }

        #[test]
        fn any_text_comes_out_as_it_went_in(text in "\\PC*") {
            let payload = serde_json::json!({ "text": text }).to_string();
            let settings = InputSettings { max_bytes: usize::MAX, ..settings() };
            prop_assert_eq!(&*decode(Some(payload.as_bytes()), InputHeaders::default(), &settings).unwrap().text, text);
        }

        #[test]
        fn nearly_json_never_panics(payload in "[\\[\\]{}\":,a\\\\u0-9 ]{0,80}") {
            let _ = decode(Some(payload.as_bytes()), InputHeaders::default(), &settings());
        }
    }
}
