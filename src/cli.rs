//! The command line: arguments in, a [`Cli`] out. Only names, help and shapes; what they do lies in `commands`.

use std::path::PathBuf;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::config::Flags;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Begin with `vigie demo`: it needs nothing installed.
Every setting can be given in a file (--config), as a variable (VIGIE_INPUT_TOPIC) or, the common ones, as a flag (--input-topic); docs/configuration.md lists them.
Exit codes: 0 done, 1 the work failed, 2 the call was wrong.";

/// Reads texts from Kafka and publishes moderation signals: antisemitism, hate speech, moderation, attack, counter-speech.
///
/// Each text gets five calibrated scores, and says on demand which words made them. Signals, not verdicts: whoever moderates decides.
#[derive(Debug, Parser)]
#[command(name = "vigie", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(DemoArgs),
    Serve(ServeArgs),
    Check(CheckArgs),
    Replay(ReplayArgs),
    Bench(BenchArgs),
    Score(ScoreArgs),
    Explain(ExplainArgs),
    Model(ModelArgs),
    /// Print the manual of all settings in Markdown
    #[command(hide = true)]
    Manual,
}

/// See it all run on a broker inside the program: sample texts in, their scores on the screen
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after so many messages; without, new ones come until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Your own texts, one a line, plain or JSON objects with `text`; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Address of page and metrics, or `off` [default: 127.0.0.1:9464, or the next free port]
    #[arg(long, value_name = "ADDRESS", help_heading = "Settings")]
    pub http: Option<String>,
    /// Log level or filter [default: warn]
    #[arg(long, value_name = "LEVEL", help_heading = "Settings")]
    pub log: Option<String>,
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Run the service: texts from the input topic in, score records out, until SIGTERM
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub kafka: KafkaFlags,
    #[command(flatten)]
    pub service: ServiceFlags,
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Check everything that `vigie serve` needs: configuration, model, broker, topics, rights
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub kafka: KafkaFlags,
    #[command(flatten)]
    pub service: ServiceFlags,
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Put dead letters back on the input topic, each once
#[derive(Debug, Args)]
#[command(
    after_help = "What was replayed is remembered in the offsets of the group GROUP.replay, as long as the broker keeps those of an idle group (offsets.retention.minutes, 7 days by default)."
)]
pub struct ReplayArgs {
    /// Only these reasons: empty, too_large, not_utf8, not_json, too_deep, text_missing, text_not_string, output_too_large, internal; repeatable
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Only texts with a timestamp from this time on: 2026-11-22T10:00:00Z, or how long ago: 90m, 6h, 2d
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only texts with a timestamp before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only offsets A to B, both included, of partition P of the dead-letter topic; repeatable
    #[arg(long, value_name = "P:A-B")]
    pub offsets: Vec<String>,
    /// Say what would be replayed and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub kafka: KafkaFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Measure a running service: send texts, match every score, report loss, duplicates, throughput and latency
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Texts to send
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..))]
    pub messages: u64,
    /// Texts a second; without, as fast as scores come back
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: Option<u64>,
    /// Most texts under way
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub in_flight: u64,
    /// Texts to send in turn, one a line, plain or JSON objects with `text` [default: the texts of `vigie demo`]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Seconds without any score after which the others are counted as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u64,
    /// Fail when more than this share of the texts is lost
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub max_loss: f64,
    /// Fail when the 99th percentile of the latency is higher
    #[arg(long, value_name = "MILLISECONDS")]
    pub p99_ms: Option<f64>,
    /// Fail when fewer texts a second come through
    #[arg(long, value_name = "N")]
    pub min_rate: Option<f64>,
    /// Print JSON on a terminal too
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub kafka: KafkaFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Score texts: a table on a terminal, score records as JSON lines otherwise
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Text files, one document each; `-` or none for standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Files hold one JSON object a line with the text in `text`; other fields are kept in the output (as `input_NAME` where the score
    /// record has a NAME of its own)
    #[arg(long)]
    pub jsonl: bool,
    /// Print JSON lines on a terminal too
    #[arg(long)]
    pub json: bool,
    /// Say which words made each score
    #[arg(long)]
    pub explain: bool,
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Show the words that made each score: coloured on a terminal, JSON otherwise
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The text; `-` reads it from standard input
    #[arg(value_name = "TEXT")]
    pub text: String,
    /// Language of the text (`fr`, `en`), when it is known
    #[arg(long, value_name = "CODE")]
    pub lang: Option<String>,
    /// Show signals whose band is low too
    #[arg(long)]
    pub all: bool,
    /// Print JSON on a terminal too
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Look after model versions: list, check, make active, roll back, compare
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    pub action: ModelAction,
    /// Folder of the model registry [default: models]
    #[arg(long, value_name = "DIR", global = true)]
    pub registry: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ModelAction {
    /// List the versions in the registry; `*` marks the active one
    List,
    /// Describe a model: training data, thresholds, figures, card
    Show {
        /// A version, a model file, or `builtin`; none: the active model
        #[arg(value_name = "VERSION|FILE")]
        model: Option<String>,
    },
    /// Prove that a model can be used: format, checksum, and the scores of its canary texts
    Verify {
        /// A version, a model file, or `builtin`; none: the active model
        #[arg(value_name = "VERSION|FILE")]
        model: Option<String>,
    },
    /// Make a version the active one; running services follow within seconds
    Promote {
        #[arg(value_name = "VERSION")]
        version: String,
    },
    /// Return to the version that was active before
    Rollback,
    /// Compare two models: training, weights, thresholds, and their scores on texts
    Diff {
        /// A version, a model file, or `builtin`
        #[arg(value_name = "A")]
        a: String,
        /// A version, a model file, or `builtin`
        #[arg(value_name = "B")]
        b: String,
        /// Texts to compare on, one JSON object with `text` a line [default: the texts of `vigie demo`]
        #[arg(long, value_name = "FILE")]
        texts: Option<PathBuf>,
    },
}

/// Where settings come from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigFlags {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,
}

/// Which model scores.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelFlags {
    /// Model file, version in the registry, or `builtin` [default: the active version, else the built-in model]
    #[arg(long, value_name = "FILE|VERSION", help_heading = "Settings")]
    pub model: Option<String>,
    /// Folder of the model registry [default: models]
    #[arg(long, value_name = "DIR", help_heading = "Settings")]
    pub registry: Option<PathBuf>,
}

/// The broker, the topics, the group.
#[derive(Debug, Clone, Default, Args)]
pub struct KafkaFlags {
    /// Bootstrap servers, separated by commas [default: localhost:9092]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Settings")]
    pub brokers: Option<String>,
    /// Consumer group [default: vigie]
    #[arg(long, value_name = "NAME", help_heading = "Settings")]
    pub group: Option<String>,
    /// Topic to read texts from [default: vigie.in]
    #[arg(long, value_name = "TOPIC", help_heading = "Settings")]
    pub input_topic: Option<String>,
    /// Topic to publish score records to [default: vigie.scores]
    #[arg(long, value_name = "TOPIC", help_heading = "Settings")]
    pub output_topic: Option<String>,
    /// Topic for records that can't be scored [default: vigie.dead]
    #[arg(long, value_name = "TOPIC", help_heading = "Settings")]
    pub dead_letter_topic: Option<String>,
    /// librdkafka property, for one side with `consumer.` or `producer.` in front; VALUE `@/path` is read from that file; repeatable
    #[arg(short = 'X', value_name = "KEY=VALUE", action = ArgAction::Append, help_heading = "Settings")]
    pub properties: Vec<String>,
}

/// How the service runs.
#[derive(Debug, Clone, Default, Args)]
pub struct ServiceFlags {
    /// `at-least-once` or `exactly-once` [default: at-least-once]
    #[arg(long, value_name = "WHICH", help_heading = "Settings")]
    pub delivery: Option<String>,
    /// Address of page, scoring, metrics and health, or `off` [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS", help_heading = "Settings")]
    pub http: Option<String>,
    /// Create missing topics
    #[arg(long, help_heading = "Settings")]
    pub create_topics: bool,
    /// Log level or filter [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Settings")]
    pub log: Option<String>,
    /// `text` or `json` [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Settings")]
    pub log_format: Option<String>,
}

impl ServiceFlags {
    /// Adds them to the settings of a call.
    pub fn add_to(&self, flags: &mut Flags) {
        let create_topics = self.create_topics.then(|| "true".to_owned());
        add(
            flags,
            [
                ("delivery", &self.delivery),
                ("http", &self.http),
                ("create_topics", &create_topics),
                ("log", &self.log),
                ("log_format", &self.log_format),
            ],
        );
    }
}

impl ServeArgs {
    /// The settings that the call gives.
    pub fn flags(&self) -> Flags {
        let mut flags = self.config.flags();
        self.kafka.add_to(&mut flags);
        self.service.add_to(&mut flags);
        self.model.add_to(&mut flags);
        flags
    }
}

impl ReplayArgs {
    /// The settings that the call gives.
    pub fn flags(&self) -> Flags {
        let mut flags = self.config.flags();
        self.kafka.add_to(&mut flags);
        flags
    }
}

impl BenchArgs {
    /// The settings that the call gives.
    pub fn flags(&self) -> Flags {
        let mut flags = self.config.flags();
        self.kafka.add_to(&mut flags);
        flags
    }
}

impl CheckArgs {
    /// The settings that the call gives.
    pub fn flags(&self) -> Flags {
        let mut flags = self.config.flags();
        self.kafka.add_to(&mut flags);
        self.service.add_to(&mut flags);
        self.model.add_to(&mut flags);
        flags
    }
}

impl ConfigFlags {
    /// The settings that a call gives.
    pub fn flags(&self) -> Flags {
        Flags { file: self.config.clone(), ..Flags::default() }
    }
}

impl ModelFlags {
    /// Adds them to the settings of a call.
    pub fn add_to(&self, flags: &mut Flags) {
        let registry = self.registry.as_ref().map(|folder| folder.display().to_string());
        add(flags, [("model", &self.model), ("registry", &registry)]);
    }
}

impl KafkaFlags {
    /// Adds them to the settings of a call.
    pub fn add_to(&self, flags: &mut Flags) {
        add(
            flags,
            [
                ("brokers", &self.brokers),
                ("group", &self.group),
                ("input_topic", &self.input_topic),
                ("output_topic", &self.output_topic),
                ("dead_letter_topic", &self.dead_letter_topic),
            ],
        );
        flags.properties.extend(self.properties.iter().cloned());
    }
}

fn add<const N: usize>(flags: &mut Flags, values: [(&'static str, &Option<String>); N]) {
    flags.values.extend(values.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
}
