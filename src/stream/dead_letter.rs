//! Makes dead letters: a refused record in, its original bytes and the headers that say why and where from out.

use rdkafka::message::{Header, OwnedHeaders};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::batch::Message;
use super::message::Refusal;

/// Header with the [`super::message::DeadReason`].
pub const REASON: &str = "vigie-reason";
/// Header with places and numbers, never text.
pub const DETAIL: &str = "vigie-detail";
pub const SOURCE_TOPIC: &str = "vigie-source-topic";
pub const SOURCE_PARTITION: &str = "vigie-source-partition";
pub const SOURCE_OFFSET: &str = "vigie-source-offset";
/// RFC 3339; absent when the record had no timestamp.
pub const SOURCE_TIMESTAMP: &str = "vigie-source-timestamp";
/// Version of the model that was active.
pub const MODEL: &str = "vigie-model";

/// The original headers, untouched, and ours behind them. Where a replayed record fails again ours stand twice: the last ones count.
pub fn headers(
    original: Option<&OwnedHeaders>,
    topic: &str,
    message: &Message,
    refusal: &Refusal,
    model: &str,
) -> OwnedHeaders {
    let (partition, offset) = (message.position.partition.to_string(), message.position.offset.to_string());
    let timestamp = message.timestamp_text();
    let ours = [
        (REASON, Some(refusal.reason.as_str())),
        (DETAIL, Some(refusal.detail.as_str())),
        (SOURCE_TOPIC, Some(topic)),
        (SOURCE_PARTITION, Some(&partition)),
        (SOURCE_OFFSET, Some(&offset)),
        (SOURCE_TIMESTAMP, timestamp.as_deref()),
        (MODEL, Some(model)),
    ];
    ours.into_iter()
        .filter(|(_, value)| value.is_some())
        .fold(original.cloned().unwrap_or_default(), |headers, (key, value)| headers.insert(Header { key, value }))
}

/// A dead letter's value when the text must not leave the input topic: enough to find the record again and to prove that it is the one.
#[derive(Debug, Serialize)]
struct WithoutText {
    schema: &'static str,
    sha256: String,
    length: usize,
}

/// JSON with SHA-256 and length of the original bytes.
pub fn without_text(payload: &[u8]) -> Vec<u8> {
    let sha256 = Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect();
    let value = WithoutText { schema: "vigie.dead/1", sha256, length: payload.len() };
    serde_json::to_vec(&value).expect("strings and numbers are JSON")
}
