//! Settings: `default.toml`, a file, the environment and flags in, one checked [`Settings`] out.
//!
//! Every setting has a name of its own whatever its section, so that `input_topic` in `[kafka]`, `VIGIE_INPUT_TOPIC` and `--input-topic` are
//! the same thing. Nothing else in the program reads the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Every setting with its default and its meaning.
pub const DEFAULT_TOML: &str = include_str!("default.toml");
/// What the names of our environment variables begin with.
const PREFIX: &str = "VIGIE_";

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
#[derive(Clone, PartialEq, Serialize, Deserialize)]
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
    /// Most texts in one request.
    pub max_texts: usize,
    /// Most connections open at once; further ones wait.
    pub max_connections: usize,
    /// How long the head of a request, the TLS handshake and the wait for the next request may take, in milliseconds.
    pub header_timeout_ms: u64,
    /// File that holds the bearer token for everything but `/live`, `/ready` and `/metrics`; empty: no token is asked for.
    pub token_file: String,
    /// PEM file with the server's certificate and its chain; empty: plain HTTP.
    pub tls_certificate: String,
    /// PEM file with the key of that certificate.
    pub tls_key: String,
    /// PEM file with the authorities whose client certificates are let in; empty: no certificate is asked for.
    pub tls_client_ca: String,
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

/// The environment of the process as far as it concerns us.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Takes variables, in the program from [`std::env::vars_os`].
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
        Environment(variables.into_iter().collect())
    }

    /// Says whether colours are welcome: `NO_COLOR` is not set (no-color.org) and the terminal is not a dumb one.
    pub fn allows_colour(&self) -> bool {
        self.0.get("NO_COLOR").is_none_or(String::is_empty) && self.0.get("TERM").is_none_or(|term| term != "dumb")
    }

    fn of_vigie(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())));
        ours.filter(|(name, _)| !is_service_link(name) && !name.starts_with("TEST_"))
    }
}

/// Kubernetes puts the address of a service called `vigie` into its pods as `VIGIE_PORT`, `VIGIE_SERVICE_HOST` and so on.
fn is_service_link(name: &str) -> bool {
    name == "PORT" || name.contains("PORT_") || name.ends_with("_PORT") || name.ends_with("SERVICE_HOST")
}

/// What the call says about settings.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Settings by name, as text.
    pub values: Vec<(&'static str, String)>,
    /// `-X`: `key=value`, `consumer.key=value`, `producer.key=value`.
    pub properties: Vec<String>,
}

/// Why settings are refused, and what to do next. Holds no value of a librdkafka property: it could be a secret.
#[derive(Debug, thiserror::Error)]
#[error("{fact}")]
pub struct ConfigError {
    fact: String,
    pub hint: String,
    source: Option<std::io::Error>,
}

/// Where a value came from, for errors.
#[derive(Debug, Clone)]
enum Origin {
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

impl Settings {
    /// The settings of `default.toml`.
    pub fn defaults() -> Settings {
        toml::from_str(DEFAULT_TOML).expect("default.toml holds every setting; a test reads it")
    }

    /// Lays file, environment and flags over the defaults, in this order.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Settings, ConfigError> {
        let mut layers = Layers { table: default_table(), origins: BTreeMap::new() };
        let named_by_variable = environment.of_vigie().find(|(name, _)| *name == "CONFIG");
        let file = flags.file.clone().or_else(|| named_by_variable.map(|(_, path)| PathBuf::from(path)));
        if let Some(path) = file {
            layers.add_file(&path)?;
        }
        for (name, value) in environment.of_vigie().filter(|(name, _)| *name != "CONFIG") {
            layers.add_variable(name, value)?;
        }
        for (name, value) in &flags.values {
            let origin = Origin::Flag(format!("--{}", name.replace('_', "-")));
            layers.add_text(name, value, origin)?;
        }
        for property in &flags.properties {
            layers.add_property(property)?;
        }
        layers.finish()
    }
}

fn default_table() -> Table {
    DEFAULT_TOML.parse().expect("default.toml is TOML; a test reads it")
}

/// Settings on their way: the merged table and where each value came from.
struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError {
            fact: format!("could not read configuration file \"{}\"", path.display()),
            hint: "check the path given with --config or VIGIE_CONFIG".to_owned(),
            source: Some(source),
        })?;
        let broken = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            ConfigError::new(
                format!("{} is not TOML: {} (line {line})", path.display(), error.message()),
                "texts stand in quotes, sections in brackets; docs/configuration.md shows every setting",
            )
        };
        let places = DeTable::parse(&text).map_err(broken)?;
        let values: Table = text.parse().map_err(broken)?;
        for (section, content) in places.get_ref() {
            let origin = |start| Origin::File { path: path.to_owned(), line: line_of(&text, start) };
            let DeValue::Table(keys) = content.get_ref() else {
                return Err(self.unknown(section.get_ref(), &origin(section.span().start)));
            };
            if !self.table.contains_key(section.get_ref().as_ref()) {
                return Err(self.unknown_section(section.get_ref(), &origin(section.span().start)));
            }
            for key in keys.keys() {
                let value = values[section.get_ref().as_ref()][key.get_ref().as_ref()].clone();
                self.add_value(section.get_ref(), key.get_ref(), value, origin(key.span().start))?;
            }
        }
        Ok(())
    }

    fn add_variable(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let origin = Origin::Variable(format!("{PREFIX}{name}"));
        let key = name.to_lowercase();
        let Some(section) = self.section_of(&key).filter(|_| name == name.to_uppercase()) else {
            let known = self.names().into_iter().map(|(_, key)| variable(&key)).chain([format!("{PREFIX}CONFIG")]);
            return Err(ConfigError::new(
                format!("unknown environment variable {PREFIX}{name}"),
                nearest_hint(&format!("{PREFIX}{}", name.to_uppercase()), known),
            ));
        };
        if !self.table[&section][&key].is_table() {
            return self.add_text(&key, value, origin);
        }
        let mut properties = Table::new();
        for pair in value.split([';', '\n']).map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((property, value)) = pair.split_once('=') else {
                return Err(not_a_pair(&origin, "key=value;key=value"));
            };
            properties.insert(property.trim().to_owned(), Value::String(value.trim().to_owned()));
        }
        self.add_value(&section, &key, Value::Table(properties), origin)
    }

    fn add_property(&mut self, property: &str) -> Result<(), ConfigError> {
        let origin = Origin::Flag("-X".to_owned());
        let Some((name, value)) = property.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            return Err(not_a_pair(&origin, "-X key=value"));
        };
        let (key, name) = match name.trim().split_once('.') {
            Some(("consumer", name)) => ("consumer_properties", name),
            Some(("producer", name)) => ("producer_properties", name),
            _ => ("properties", name.trim()),
        };
        let properties = Table::from_iter([(name.to_owned(), Value::String(value.to_owned()))]);
        self.add_value("kafka", key, Value::Table(properties), origin)
    }

    /// Adds a value that came as text, reading it as what the setting wants.
    fn add_text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let section = self.section_of(key).expect("flags and checked variables are settings");
        let value = match &self.table[&section][key] {
            Value::Integer(_) => text.trim().parse().map(Value::Integer).ok(),
            Value::Boolean(_) => text.trim().parse().map(Value::Boolean).ok(),
            _ => None,
        };
        self.add_value(&section, key, value.unwrap_or_else(|| Value::String(text.to_owned())), origin)
    }

    fn add_value(&mut self, section: &str, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(known) = self.table[section].get(key) else {
            return Err(self.unknown(&format!("{section}.{key}"), &origin));
        };
        let value = match (known, value) {
            (Value::Table(_), Value::Table(given)) => {
                let mut merged = known.as_table().cloned().unwrap_or_default();
                for (property, value) in given {
                    merged.insert(property.clone(), Value::String(property_value(&property, value, &origin)?));
                }
                Value::Table(merged)
            }
            (Value::Table(_), _) => return Err(wrong(section, key, "a table of librdkafka properties", None, &origin)),
            (_, value) => {
                let wants = wants(key, known);
                if !known.same_type(&value) || !fits(key, &value) {
                    return Err(wrong(section, key, &wants, Some(&value), &origin));
                }
                value
            }
        };
        self.table[section][key] = value;
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    fn finish(self) -> Result<Settings, ConfigError> {
        let settings: Settings = self.table.try_into().map_err(|error: toml::de::Error| {
            ConfigError::new(format!("settings can't be read: {}", error.message()), SEE_MANUAL)
        })?;
        let kafka = &settings.kafka;
        let topics = [
            ("input_topic", &kafka.input_topic),
            ("output_topic", &kafka.output_topic),
            ("dead_letter_topic", &kafka.dead_letter_topic),
        ];
        for (index, (key, topic)) in topics.iter().enumerate() {
            if let Some((other, _)) = topics[..index].iter().find(|(_, other)| other == topic) {
                let origin = self.origins.get(*key).or(self.origins.get(*other));
                let origin = origin.map_or(String::new(), |origin| format!(" ({origin})"));
                return Err(ConfigError::new(
                    format!("settings kafka.{other} and kafka.{key} are both \"{topic}\"{origin}"),
                    "give each its own topic: scores must not come back as texts",
                ));
            }
        }
        Ok(settings)
    }

    fn names(&self) -> Vec<(String, String)> {
        let keys = |(section, keys): (&String, &Value)| {
            let keys = keys.as_table().into_iter().flat_map(Table::keys);
            keys.map(|key| (section.clone(), key.clone())).collect::<Vec<_>>()
        };
        self.table.iter().flat_map(keys).collect()
    }

    fn section_of(&self, key: &str) -> Option<String> {
        self.names().into_iter().find(|(_, name)| name == key).map(|(section, _)| section)
    }

    fn unknown(&self, name: &str, origin: &Origin) -> ConfigError {
        let key = name.rsplit('.').next().unwrap_or(name);
        // A key in the wrong section is the commonest slip: the name alone decides what is near.
        let nearest = nearest(key, self.names().into_iter().map(|(_, key)| key));
        let hint = match nearest.and_then(|key| Some((self.section_of(&key)?, key))) {
            Some((section, key)) => format!("did you mean `{key}` in section [{section}]?"),
            None => SEE_MANUAL.to_owned(),
        };
        ConfigError::new(format!("unknown setting \"{name}\" ({origin})"), hint)
    }

    fn unknown_section(&self, section: &str, origin: &Origin) -> ConfigError {
        let hint = match nearest(section, self.table.keys().cloned()) {
            Some(known) => format!("did you mean [{known}]?"),
            None => {
                format!("sections are {}", self.table.keys().map(|s| format!("[{s}]")).collect::<Vec<_>>().join(", "))
            }
        };
        ConfigError::new(format!("unknown section [{section}] ({origin})"), hint)
    }
}

const SEE_MANUAL: &str = "docs/configuration.md lists every setting";

impl ConfigError {
    fn new(fact: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError { fact: fact.into(), hint: hint.into(), source: None }
    }
}

/// Settings that take one of a few words.
const CHOICES: [(&str, &[&str]); 2] =
    [("delivery", &["at-least-once", "exactly-once"]), ("log_format", &["text", "json"])];
/// Settings where nothing or zero makes no sense.
const AT_LEAST_ONE: [&str; 19] = [
    "partitions",
    "replication",
    "max_bytes",
    "max_depth",
    "batch_messages",
    "max_in_flight",
    "max_in_flight_bytes",
    "commit_interval_ms",
    "transaction_messages",
    "drain_timeout_ms",
    "max_body_bytes",
    "timeout_ms",
    "max_requests",
    "max_texts",
    "max_connections",
    "header_timeout_ms",
    "brokers",
    "group",
    "registry",
];

fn choices(key: &str) -> Option<&'static [&'static str]> {
    CHOICES.iter().find(|(name, _)| *name == key).map(|(_, words)| *words)
}

fn wants(key: &str, known: &Value) -> String {
    if let Some(words) = choices(key) {
        return words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
    }
    match (key, known) {
        ("http", _) => "an address such as \"127.0.0.1:9464\", or \"off\"".to_owned(),
        ("text_pointer", _) => "a JSON pointer such as \"/text\"".to_owned(),
        (_, Value::Boolean(_)) => "true or false".to_owned(),
        (_, Value::Integer(_)) if AT_LEAST_ONE.contains(&key) => "a whole number, 1 or more".to_owned(),
        (_, Value::Integer(_)) => "a whole number, 0 or more".to_owned(),
        _ if key.ends_with("_topic") => "a topic name of letters, digits, `.`, `_` and `-`".to_owned(),
        _ if AT_LEAST_ONE.contains(&key) => "a text that is not empty".to_owned(),
        _ => "a text".to_owned(),
    }
}

fn fits(key: &str, value: &Value) -> bool {
    let at_least_one = AT_LEAST_ONE.contains(&key);
    match value {
        Value::Integer(number) => {
            let most = if ["partitions", "replication"].contains(&key) { i64::from(i32::MAX) } else { i64::MAX };
            (i64::from(at_least_one)..=most).contains(number)
        }
        Value::String(text) => match key {
            _ if choices(key).is_some_and(|words| !words.contains(&text.as_str())) => false,
            "http" => text == "off" || text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()),
            "text_pointer" => text.is_empty() || text.starts_with('/'),
            _ if key.ends_with("_topic") => is_topic(text),
            _ => !at_least_one || !text.trim().is_empty(),
        },
        _ => true,
    }
}

/// Kafka's own rule for topic names.
fn is_topic(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && ![".", ".."].contains(&name)
}

fn wrong(section: &str, key: &str, wants: &str, value: Option<&Value>, origin: &Origin) -> ConfigError {
    let found = value.map_or(String::new(), |value| format!(", not {value}"));
    ConfigError::new(
        format!("setting {section}.{key} wants {wants}{found} ({origin})"),
        "docs/configuration.md says what each setting means",
    )
}

fn not_a_pair(origin: &Origin, form: &str) -> ConfigError {
    ConfigError::new(
        format!("librdkafka property without a value ({origin})"),
        format!("write {form}, for example security.protocol=SASL_SSL"),
    )
}

/// The text of a librdkafka property. `@/path` stands for what that file holds, so that secrets need not be in the call or in the settings;
/// `@@` begins a value that has an `@` of its own.
fn property_value(property: &str, value: Value, origin: &Origin) -> Result<String, ConfigError> {
    let text = match value {
        Value::String(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Float(number) => number.to_string(),
        _ => {
            return Err(ConfigError::new(
                format!("librdkafka property \"{property}\" wants a text or a number ({origin})"),
                "write dotted names in quotes: \"security.protocol\" = \"SASL_SSL\"",
            ));
        }
    };
    match text.strip_prefix('@') {
        None => Ok(text),
        Some(escaped) if escaped.starts_with('@') => Ok(escaped.to_owned()),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(secret) => Ok(secret.trim_end_matches(['\r', '\n']).to_owned()),
            Err(source) => Err(ConfigError {
                fact: format!("could not read \"{path}\" for librdkafka property \"{property}\" ({origin})"),
                hint: "a value that starts with @ names a file; write @@ for an @ of its own".to_owned(),
                source: Some(source),
            }),
        },
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

fn nearest_hint(name: &str, known: impl IntoIterator<Item = String>) -> String {
    nearest(name, known).map_or_else(|| SEE_MANUAL.to_owned(), |known| format!("did you mean {known}?"))
}

/// The known name that `name` was probably meant to be, if one is near.
pub fn nearest(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let rated = known.into_iter().map(|known| (strsim::jaro_winkler(name, &known), known));
    rated.filter(|(rate, _)| *rate > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

impl fmt::Debug for KafkaSettings {
    /// Names of librdkafka properties without their values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |properties: &BTreeMap<String, String>| properties.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("group", &self.group)
            .field("instance_id", &self.instance_id)
            .field("input_topic", &self.input_topic)
            .field("output_topic", &self.output_topic)
            .field("dead_letter_topic", &self.dead_letter_topic)
            .field("delivery", &self.delivery)
            .field("transactional_id", &self.transactional_id)
            .field("create_topics", &self.create_topics)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("properties", &names(&self.properties))
            .field("consumer_properties", &names(&self.consumer_properties))
            .field("producer_properties", &names(&self.producer_properties))
            .finish()
    }
}

/// The manual of all settings in Markdown, made from `default.toml`; `docs/configuration.md` holds it. `flags` are the names that have a flag.
pub fn manual(flags: &[String]) -> String {
    let mut manual = String::from(MANUAL_HEAD);
    let mut comment = Vec::new();
    let preface_ends = DEFAULT_TOML.find("\n\n").unwrap_or(0);
    for line in DEFAULT_TOML[preface_ends..].lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
        } else if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            manual.push_str(&format!(
                "\n## [{section}]\n\n{}\n\n| setting | default | variable | flag | meaning |\n|---|---|---|---|---|\n",
                comment.join(" ")
            ));
            comment.clear();
        } else if let Some((key, default)) = line.split_once(" = ") {
            let flag = flags.iter().find(|flag| flag.replace('-', "_") == key);
            let flag = flag.map_or(String::new(), |flag| format!("`--{flag}`"));
            let meaning = comment.join(" ").replace('|', "\\|");
            manual.push_str(&format!("| `{key}` | `{default}` | `{}` | {flag} | {meaning} |\n", variable(key)));
            comment.clear();
        }
    }
    manual
}

const MANUAL_HEAD: &str = "\
# Settings

Made from `src/default.toml` by `vigie manual`; a test compares the two.

Four layers, the later wins: the defaults below, a TOML file (`--config FILE` or `VIGIE_CONFIG`), environment variables, flags.
Unknown names are refused with the nearest known one. Every setting has a name of its own, so the section is only needed in the file.

```toml
# vigie.toml
[kafka]
brokers = \"kafka-1:9093,kafka-2:9093\"
group = \"vigie-comments\"

[kafka.properties]
\"security.protocol\" = \"SASL_SSL\"
\"sasl.mechanisms\" = \"SCRAM-SHA-512\"
\"sasl.username\" = \"vigie\"
\"sasl.password\" = \"@/run/secrets/kafka-password\"
```

librdkafka properties can be given for all clients or for one side: `-X key=value`, `-X consumer.key=value`, `-X producer.key=value`.
In the environment they are separated by `;` or line ends: `VIGIE_PROPERTIES=\"security.protocol=SSL;ssl.ca.location=/etc/ca.pem\"`.
A value `@/path` is read from that file (last line end dropped; `@@` begins a value with an `@` of its own). Values of properties are never printed.
Variables that Kubernetes sets for a service called `vigie` (`VIGIE_PORT`, `VIGIE_SERVICE_HOST` …) and `VIGIE_TEST_…` are passed over.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vigie.toml");
        std::fs::write(&path, file).unwrap();
        let environment = Environment::new(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let values = flags.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let flags = Flags { file: Some(path.clone()), values, properties: Vec::new() };
        Settings::load(&flags, &environment)
            .map_err(|error| format!("{error}; {}", error.hint).replace(&path.display().to_string(), "vigie.toml"))
    }

    #[test]
    fn every_setting_has_a_default_a_comment_and_a_name_of_its_own() {
        assert_eq!(Settings::load(&Flags::default(), &Environment::default()).unwrap(), Settings::defaults());
        let names = Layers { table: default_table(), origins: BTreeMap::new() }.names();
        let mut keys: Vec<_> = names.iter().map(|(_, key)| key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), names.len());
        assert!(!manual(&[]).contains("|  |\n"), "a setting has no comment");
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let file = "[kafka]\ngroup = \"file\"\ninput_topic = \"file\"\noutput_topic = \"file.scores\"\n";
        let variables = [("VIGIE_GROUP", "variable"), ("VIGIE_INPUT_TOPIC", "variable"), ("VIGIE_WORKERS", "3")];
        let settings = load(file, &variables, &[("group", "flag")]).unwrap();
        assert_eq!(settings.kafka.group, "flag");
        assert_eq!(settings.kafka.input_topic, "variable");
        assert_eq!(settings.kafka.output_topic, "file.scores");
        assert_eq!(settings.pipeline.workers, 3);
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        let check = |file, variables: &[(&str, &str)], expected: &str| {
            assert_eq!(load(file, variables, &[]).unwrap_err(), expected);
        };
        check(
            "[kafka]\n\nbroker = \"a:1\"\n",
            &[],
            "unknown setting \"kafka.broker\" (vigie.toml, line 3); did you mean `brokers` in section [kafka]?",
        );
        check(
            "workers = 2\n",
            &[],
            "unknown setting \"workers\" (vigie.toml, line 1); did you mean `workers` in section [pipeline]?",
        );
        check(
            "[kafak]\nbrokers = \"a:1\"\n",
            &[],
            "unknown section [kafak] (vigie.toml, line 1); did you mean [kafka]?",
        );
        check(
            "",
            &[("VIGIE_IMPUT_TOPIC", "a")],
            "unknown environment variable VIGIE_IMPUT_TOPIC; did you mean VIGIE_INPUT_TOPIC?",
        );
    }

    #[test]
    fn wrong_values_name_the_setting_the_value_and_what_is_wanted() {
        let check = |file, variables: &[(&str, &str)], expected: &str| {
            let error = load(file, variables, &[]).unwrap_err();
            assert_eq!(error.split("; ").next().unwrap(), expected);
        };
        check(
            "[pipeline]\nworkers = \"many\"\n",
            &[],
            "setting pipeline.workers wants a whole number, 0 or more, not \"many\" (vigie.toml, line 2)",
        );
        check(
            "",
            &[("VIGIE_DELIVERY", "twice")],
            "setting kafka.delivery wants \"at-least-once\" or \"exactly-once\", not \"twice\" (variable VIGIE_DELIVERY)",
        );
        check(
            "",
            &[("VIGIE_BATCH_MESSAGES", "0")],
            "setting pipeline.batch_messages wants a whole number, 1 or more, not 0 (variable VIGIE_BATCH_MESSAGES)",
        );
        check(
            "[kafka]\noutput_topic = \"vigie.in\"\n",
            &[],
            "settings kafka.input_topic and kafka.output_topic are both \"vigie.in\" (vigie.toml, line 2)",
        );
    }

    #[test]
    fn properties_come_from_every_layer_and_secrets_from_files_and_never_show() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("password");
        std::fs::write(&secret, "hunter2\n").unwrap();
        let file = "[kafka.properties]\n\"sasl.username\" = \"v\"\n\"socket.timeout.ms\" = 1000\n";
        let environment = Environment::new([("VIGIE_PROPERTIES".to_owned(), "client.id=a; acks=all".to_owned())]);
        let path = folder.path().join("vigie.toml");
        std::fs::write(&path, file).unwrap();
        let properties = vec![
            format!("sasl.password=@{}", secret.display()),
            "consumer.fetch.min.bytes=1".to_owned(),
            "client.id=@@b".to_owned(),
        ];
        let settings =
            Settings::load(&Flags { file: Some(path), values: Vec::new(), properties }, &environment).unwrap();
        let expected = [
            ("acks", "all"),
            ("client.id", "@b"),
            ("sasl.password", "hunter2"),
            ("sasl.username", "v"),
            ("socket.timeout.ms", "1000"),
        ];
        let found: Vec<_> = settings.kafka.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(settings.kafka.consumer_properties["fetch.min.bytes"], "1");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_passed_over() {
        let variables = [
            ("VIGIE_PORT", "tcp://10.0.0.1:9464"),
            ("VIGIE_SERVICE_HOST", "10.0.0.1"),
            ("VIGIE_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ];
        assert_eq!(load("", &variables, &[]).unwrap(), Settings::defaults());
    }
}
