//! Settings: `default.toml`, a file, the environment and flags in, one checked [`Settings`] out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Every setting of the service. `default.toml` holds all of them with their meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub kafka: KafkaSettings,
    pub input: InputSettings,
    pub pipeline: PipelineSettings,
    pub model: ModelSettings,
    pub http: HttpSettings,
    pub log: LogSettings,
}

/// How often a score may appear when something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

/// The broker, the topics and the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    pub brokers: String,
    pub group: String,
    /// Static membership (`group.instance.id`); empty for none.
    pub instance_id: String,
    pub input_topic: String,
    pub output_topic: String,
    pub dead_letter_topic: String,
    pub delivery: Delivery,
    /// Transactional id in exactly-once delivery; empty: made from group and instance id or host name and process id.
    pub transactional_id: String,
    pub create_topics: bool,
    /// Partitions and replicas of topics that we create.
    pub partitions: i32,
    pub replication: i32,
    /// librdkafka properties for both clients.
    pub properties: BTreeMap<String, String>,
    pub consumer_properties: BTreeMap<String, String>,
    pub producer_properties: BTreeMap<String, String>,
}

/// What an input record may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSettings {
    /// JSON pointer (RFC 6901) to the text.
    pub text_pointer: String,
    /// Largest record in bytes; a larger one becomes a dead letter.
    pub max_bytes: usize,
    /// Deepest nesting of JSON.
    pub max_depth: usize,
    /// Put an explanation into every score record.
    pub explain: bool,
    /// Keep the original bytes in dead letters; `false` leaves hash and length only.
    pub dead_letter_text: bool,
}

/// Batches and bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSettings {
    /// Most messages in a batch.
    pub batch_messages: usize,
    /// Longest wait for a batch to fill, in milliseconds.
    pub batch_wait_ms: u64,
    /// Scoring threads; 0: one a core.
    pub workers: usize,
    /// Most messages taken and not yet delivered; then taking pauses.
    pub max_in_flight: usize,
    /// Most bytes of such messages.
    pub max_in_flight_bytes: usize,
    pub commit_interval_ms: u64,
    /// Messages in a transaction, at most (exactly-once delivery).
    pub transaction_messages: usize,
    /// How long a drain may take on shutdown or when partitions leave, in milliseconds.
    pub drain_timeout_ms: u64,
}

/// Which model scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// A model file, a version in the registry, or empty: the registry's active version, else the model built into the program.
    pub model: String,
    /// Folder of the model registry.
    pub registry: PathBuf,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address, or `off`.
    pub http: String,
    pub max_body_bytes: usize,
    pub timeout_ms: u64,
    /// Most requests worked on at once; more are refused with 503.
    pub max_requests: usize,
    /// File that holds the bearer token for everything but `/live`, `/ready` and `/metrics`; empty: no token is asked for.
    pub token_file: String,
}

/// What goes to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `vigie=debug`.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}
