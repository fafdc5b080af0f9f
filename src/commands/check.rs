//! `vigie check`: settings in, a line for everything that the service needs out, each with what to do when it fails.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Style};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use super::Failure;
use super::screen::Screen;
use crate::cli::CheckArgs;
use crate::config::{Delivery, Environment, KafkaSettings, Settings};
use crate::models::{self, registry::Registry};
use crate::stream::StreamError;
use crate::stream::client::{Side, client_config, transactional_id};
use crate::stream::topics::{self, TopicClient, TopicError, TopicInfo};

/// How long the broker may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(8);

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    ok: bool,
    what: String,
    /// What was found, or what is wrong.
    found: String,
    /// The next step.
    hint: Option<String>,
}

pub fn run(args: &CheckArgs, environment: &Environment) -> Result<(), Failure> {
    let settings = Settings::load(&args.flags(), environment)?;
    let mut report =
        Report { screen: Screen::of_stdout(environment), as_json: args.json, n_failed: 0, out: io::stdout() };
    let source = args.config.config.as_ref().map_or("defaults, no file".to_owned(), |file| file.display().to_string());
    report.ok("configuration", source)?;
    check_model(&settings, &mut report)?;
    check_broker(&settings.kafka, &mut report)?;
    match report.n_failed {
        0 => Ok(()),
        1 => Err(Failure::work(anyhow::anyhow!("1 check failed"))),
        n_failed => Err(Failure::work(anyhow::anyhow!("{n_failed} checks failed"))),
    }
}

struct Report<W: Write> {
    screen: Screen,
    as_json: bool,
    n_failed: usize,
    out: W,
}

impl<W: Write> Report<W> {
    fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) -> io::Result<()> {
        self.print(&Line { ok: true, what: what.into(), found: found.into(), hint: None })
    }

    fn failed(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) -> io::Result<()> {
        self.n_failed += 1;
        self.print(&Line { ok: false, what: what.into(), found: found.into(), hint: hint.into() })
    }

    fn print(&mut self, line: &Line) -> io::Result<()> {
        if self.as_json {
            serde_json::to_writer(&mut self.out, line)?;
            return writeln!(self.out);
        }
        let (word, style) = match line.ok {
            true => ("ok    ", Style::new().fg_color(Some(AnsiColor::Green.into()))),
            false => ("failed", Style::new().fg_color(Some(AnsiColor::Red.into())).bold()),
        };
        writeln!(self.out, "{}  {:<24}  {}", self.screen.paint(word, style), line.what, line.found)?;
        match &line.hint {
            Some(hint) => writeln!(self.out, "        hint: {hint}"),
            None => Ok(()),
        }
    }
}

fn check_model<W: Write>(settings: &Settings, report: &mut Report<W>) -> io::Result<()> {
    match models::load(&settings.model) {
        Ok(model) => {
            let registry = Registry::open(&settings.model.registry);
            let place = match settings.model.model.as_str() {
                "" if registry.active().is_ok_and(|active| active.is_some()) => "active in the registry",
                "" => "built in, none is active in the registry",
                named => named,
            };
            report.ok("model", format!("{} ({place})", model.version()))
        }
        Err(error) => {
            let failure = Failure::from(error);
            report.failed("model", failure.fact(), failure.next_step())
        }
    }
}

fn check_broker<W: Write>(kafka: &KafkaSettings, report: &mut Report<W>) -> io::Result<()> {
    let created = if kafka.create_topics { topics::ensure(kafka, PATIENCE).map(drop) } else { Ok(()) };
    let client = match created.and_then(|()| TopicClient::new(kafka)) {
        Ok(client) => client,
        Err(error) => {
            let what = if error.is_configuration() { "kafka properties" } else { "broker" };
            let failure = Failure::from(error);
            return report.failed(what, failure.fact(), failure.next_step());
        }
    };
    let names = [&kafka.input_topic, &kafka.output_topic, &kafka.dead_letter_topic];
    let mut described = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        match client.describe(name, PATIENCE) {
            Err(error @ TopicError::NoBroker { .. }) => {
                let hint = error.hint();
                return report.failed("broker", error.to_string(), hint);
            }
            topic => {
                if index == 0 {
                    report.ok("broker", kafka.brokers.clone())?;
                }
                described.extend(check_topic(name, topic, report)?);
            }
        }
    }
    if let [input, ..] = described.as_slice()
        && input.name == kafka.input_topic
    {
        check_reading(kafka, input, report)?;
    }
    if kafka.delivery == Delivery::ExactlyOnce {
        check_transactions(kafka, report)?;
    }
    Ok(())
}

fn check_topic<W: Write>(
    name: &str,
    topic: Result<TopicInfo, TopicError>,
    report: &mut Report<W>,
) -> io::Result<Option<TopicInfo>> {
    let what = format!("topic {name}");
    match topic {
        Ok(topic) if topic.n_leaderless > 0 => {
            let found = format!("{} of {} partitions have no leader", topic.n_leaderless, topic.n_partitions);
            report.failed(what, found, "wait until all brokers are up; then look at their logs".to_owned())?;
            Ok(None)
        }
        Ok(topic) => {
            let replicas = if topic.n_replicas == 1 { "1 replica" } else { "replicated" };
            report.ok(what, format!("{} partitions, {replicas}", topic.n_partitions))?;
            Ok(Some(topic))
        }
        Err(error) => {
            let found = match &error {
                TopicError::Unknown { .. } => "does not exist".to_owned(),
                TopicError::NotAuthorized { .. } => "access is not allowed".to_owned(),
                other => other.to_string(),
            };
            report.failed(what, found, error.hint())?;
            Ok(None)
        }
    }
}

/// Reads the group's offsets and looks at the end of the input topic: both need rights that metadata does not.
fn check_reading<W: Write>(kafka: &KafkaSettings, input: &TopicInfo, report: &mut Report<W>) -> io::Result<()> {
    let what = format!("group {}", kafka.group);
    let consumer = client_config(kafka, Side::Consumer).and_then(|mut config| {
        config.set("enable.partition.eof", "true");
        config.create::<BaseConsumer>().map_err(|error| StreamError::Client { why: error.to_string() })
    });
    let consumer = match consumer {
        Ok(consumer) => consumer,
        Err(error) => {
            let hint = error.hint();
            return report.failed("kafka properties", error.to_string(), hint);
        }
    };
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_range(&input.name, 0, input.n_partitions - 1);
    let committed = committed_offsets(&consumer, &partitions);
    let refused = |error: &KafkaError| error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed);
    match committed.and_then(|committed| waiting(&consumer, &committed)) {
        Ok(n_waiting) => report.ok(&what, format!("{n_waiting} messages waiting"))?,
        Err(error) if refused(&error) => {
            report.failed(
                &what,
                "access is not allowed",
                "give the service's user the right READ on the group".to_owned(),
            )?;
        }
        Err(error) => {
            report.failed(&what, error.to_string(), "look at the broker's log: group coordinator".to_owned())?;
        }
    }
    let what = format!("reading {}", input.name);
    match read_end(&consumer, input) {
        Ok(()) => report.ok(what, "allowed"),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            report.failed(what, "not allowed", "give the service's user the right READ on the topic".to_owned())
        }
        Err(error) => report.failed(what, error.to_string(), "look at the broker's log".to_owned()),
    }
}

/// Asks again for a while when the coordinator has just moved: a broker that has come up a moment ago says so.
fn committed_offsets(
    consumer: &BaseConsumer,
    partitions: &TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let answer = consumer.committed_offsets(partitions.clone(), PATIENCE);
        let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        let has_moved = matches!(code, Some(NotCoordinator | CoordinatorNotAvailable | CoordinatorLoadInProgress));
        if !has_moved || std::time::Instant::now() >= deadline {
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn waiting(consumer: &BaseConsumer, committed: &TopicPartitionList) -> Result<i64, KafkaError> {
    let mut n_waiting = 0;
    for partition in committed.elements() {
        partition.error()?;
        let (low, high) = consumer.fetch_watermarks(partition.topic(), partition.partition(), PATIENCE)?;
        n_waiting += match partition.offset() {
            Offset::Offset(next) => high - next.clamp(low, high),
            _ => high - low,
        };
    }
    Ok(n_waiting)
}

/// Fetches at the end of one partition until the broker says that there is nothing more.
fn read_end(consumer: &BaseConsumer, input: &TopicInfo) -> Result<(), KafkaError> {
    let mut partition = TopicPartitionList::new();
    partition.add_partition_offset(&input.name, 0, Offset::End)?;
    consumer.assign(&partition)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(error);
            }
            // Others are retried by the client.
            Some(Err(_)) | None => {}
        }
    }
    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
}

fn check_transactions<W: Write>(kafka: &KafkaSettings, report: &mut Report<W>) -> io::Result<()> {
    // An id of its own: the service's would fence an instance that is running.
    let id = format!("{}-check", transactional_id(kafka));
    let result = client_config(kafka, Side::Producer).map_err(|error| error.to_string()).and_then(|mut config| {
        config.set("transactional.id", &id);
        let producer: BaseProducer = config.create().map_err(|error| error.to_string())?;
        producer.init_transactions(PATIENCE).map_err(|error| error.to_string())
    });
    match result {
        Ok(()) => report.ok("transactions", "possible"),
        Err(why) => report.failed(
            "transactions",
            why,
            format!(
                "exactly-once delivery needs a broker with transactions and the right WRITE on transactional id \"{id}\"; or choose --delivery at-least-once"
            ),
        ),
    }
}
