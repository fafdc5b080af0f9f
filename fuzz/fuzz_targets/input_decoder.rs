//! Bytes of a record and its headers in; the decoder must give a text or a reason, and the text that an ordinary JSON reader finds.
//!
//! Form of an input: `EVENT ID <tab> CONTENT TYPE <tab> TEXT POINTER <line end> PAYLOAD`; without a line end all of it is the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vigie::config::{InputSettings, Settings};
use vigie::stream::message::{DeadReason, InputHeaders, decode};

const MOST_BYTES: usize = 4000;
const DEEPEST: usize = 20;

fuzz_target!(|data: &[u8]| {
    let n_head = data.iter().position(|&byte| byte == b'\n');
    let (head, payload) = n_head.map_or((&[][..], data), |at| (&data[..at], &data[at + 1..]));
    let mut head = head.split(|&byte| byte == b'\t');
    let mut headers = Vec::new();
    for name in ["ce_id", "Content-Type"] {
        headers.extend(head.next().filter(|value| !value.is_empty()).map(|value| (name, Some(value))));
    }
    let pointer = head.next().and_then(|pointer| std::str::from_utf8(pointer).ok());
    let pointer = pointer.filter(|pointer| pointer.is_empty() || pointer.starts_with('/')).unwrap_or("/text");
    let settings = InputSettings {
        text_pointer: pointer.to_owned(),
        max_bytes: MOST_BYTES,
        max_depth: DEEPEST,
        ..Settings::defaults().input
    };
    let found = decode(Some(payload), InputHeaders::pick(headers.iter().copied()), &settings);
    match &found {
        Ok(input) => {
            assert!(payload.len() <= MOST_BYTES && !payload.is_empty());
            assert!(input.text.len() <= payload.len(), "a text cannot be longer than its record");
        }
        Err(refusal) => {
            assert_eq!(refusal.reason == DeadReason::TooLarge, payload.len() > MOST_BYTES);
            assert_eq!(refusal.reason == DeadReason::Empty, payload.is_empty());
            assert!(refusal.detail.len() < 200 + pointer.len(), "places and numbers only");
        }
    }
    // An object that is no CloudEvent: the text is what stands at the pointer.
    let is_plain = headers.iter().any(|(name, _)| *name == "Content-Type");
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(payload) else { return };
    if is_plain || payload.len() > MOST_BYTES || object.contains_key("specversion") {
        return;
    }
    match (found, Value::Object(object).pointer(pointer)) {
        (Ok(input), expected) => assert_eq!(Some(&*input.text), expected.and_then(Value::as_str)),
        (Err(refusal), Some(Value::String(_))) => assert_eq!(refusal.reason, DeadReason::TooDeep),
        _ => {}
    }
});
