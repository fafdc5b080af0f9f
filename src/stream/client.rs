//! Turns settings into librdkafka configurations, and what librdkafka says into log lines and counts.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, error, info, warn};

use super::StreamError;
use crate::config::{Delivery, KafkaSettings};
use crate::metrics::Metrics;

/// Properties that belong to a promise or to a setting of their own, and what to do instead of setting them.
const REFUSED: &[(&str, &str)] = &[
    ("enable.auto.commit", "offsets are committed only after delivery; see pipeline.commit_interval_ms"),
    ("enable.auto.offset.store", "offsets are committed only after delivery; see pipeline.commit_interval_ms"),
    ("bootstrap.servers", "use the setting kafka.brokers (--brokers)"),
    ("metadata.broker.list", "use the setting kafka.brokers (--brokers)"),
    ("group.id", "use the setting kafka.group (--group)"),
    ("group.instance.id", "use the setting kafka.instance_id"),
    ("transactional.id", "use the setting kafka.transactional_id with kafka.delivery = \"exactly-once\""),
    ("enable.idempotence", "order and single delivery rest on it; it is always on"),
    ("acks", "a score counts as delivered only when all in-sync replicas have it"),
    ("request.required.acks", "a score counts as delivered only when all in-sync replicas have it"),
    ("delivery.report.only.error", "offsets are committed by delivery reports"),
    ("queuing.strategy", "order within a partition rests on first in, first out"),
];

/// Which of our clients a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Consumer,
    Producer,
    /// Metadata and topic creation: brokers and security only.
    Admin,
}

/// A librdkafka configuration with Vigie's defaults, overridden by the user's properties.
///
/// Fails on a property that would break a promise. Unknown properties and bad values show when a client is made from it.
pub fn client_config(kafka: &KafkaSettings, side: Side) -> Result<ClientConfig, StreamError> {
    let own = match side {
        Side::Consumer => Some(&kafka.consumer_properties),
        Side::Producer => Some(&kafka.producer_properties),
        Side::Admin => None,
    };
    let given: Vec<(&String, &String)> = kafka.properties.iter().chain(own.into_iter().flatten()).collect();
    for (name, _) in &given {
        if let Some((_, instead)) = REFUSED.iter().find(|(refused, _)| refused == name) {
            return Err(StreamError::RefusedProperty { name: (*name).clone(), instead });
        }
    }
    let mut config = ClientConfig::new();
    // rdkafka asks the `log` crate for the level, which nobody sets up here.
    config.set_log_level(RDKafkaLogLevel::Info);
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "vigie");
    // A broker that comes back is found within two seconds; the default waits up to ten.
    config.set("reconnect.backoff.max.ms", "2000");
    match side {
        Side::Consumer => {
            let uses_new_protocol =
                given.iter().any(|(name, value)| *name == "group.protocol" && value.eq_ignore_ascii_case("consumer"));
            set_consumer_defaults(&mut config, kafka, uses_new_protocol);
        }
        Side::Producer => set_producer_defaults(&mut config, kafka),
        Side::Admin => {}
    }
    for (name, value) in given {
        config.set(name, value);
    }
    Ok(config)
}

fn set_consumer_defaults(config: &mut ClientConfig, kafka: &KafkaSettings, uses_new_protocol: bool) {
    config
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // After its queue was full the fetcher sleeps this long: the default of 1000 costs four fifths of the throughput.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "100")
        // What is fetched ahead is memory beside `pipeline.max_in_flight_bytes`.
        .set("queued.max.messages.kbytes", "32768")
        // Partitions that are added to the input topic are found in this time; the default lets their records wait for five minutes.
        .set("topic.metadata.refresh.interval.ms", "30000")
        // For the lag: high watermarks, once a second.
        .set("statistics.interval.ms", "1000");
    if kafka.delivery == Delivery::ExactlyOnce {
        config.set("isolation.level", "read_committed");
    }
    if !kafka.instance_id.is_empty() {
        config.set("group.instance.id", &kafka.instance_id);
    }
    if !uses_new_protocol {
        // The partitions of a member that died without a word are given to others after the session timeout (6 s, the least that brokers
        // accept by default) plus the time in which the others hear of it (a heartbeat) and join again: 8 s at most, where the default of
        // 45 s would let texts wait that long. Heartbeats come from a thread of librdkafka's own, so slow scoring never misses one; twelve
        // may get lost.
        config
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "500")
            .set("partition.assignment.strategy", "cooperative-sticky");
    }
}

fn set_producer_defaults(config: &mut ClientConfig, kafka: &KafkaSettings) {
    config
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        // Java's default: a key comes to the partition number that other producers gave it, if the topics have equally many.
        .set("partitioner", "murmur2_random")
        // A dead letter is as large as its input. What a topic takes is the broker's word; batches stay at `batch.size`.
        .set("message.max.bytes", "100000000");
    match kafka.delivery {
        // An unreachable broker is retried for ever.
        Delivery::AtLeastOnce => config.set("delivery.timeout.ms", "0"),
        // What a killed process leaves open hides later scores from `read_committed` readers until this has passed, if no process with the
        // same transactional id comes first. Below the time that brokers take to replace a dead one (9 s and some), each such change would
        // end in a fenced producer. Left unset the delivery timeout is the transaction's.
        Delivery::ExactlyOnce => {
            config.set("transactional.id", transactional_id(kafka)).set("transaction.timeout.ms", "20000")
        }
    };
}

/// The transactional id: the setting, else made from the group and what tells this instance from others.
///
/// With an instance id it survives restarts, so that a new process fences what is left of the old one. Without, nothing can: the group's
/// generation in each transaction fences then.
pub fn transactional_id(kafka: &KafkaSettings) -> String {
    if !kafka.transactional_id.is_empty() {
        return kafka.transactional_id.clone();
    }
    if !kafka.instance_id.is_empty() {
        return format!("{}-{}", kafka.group, kafka.instance_id);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}-{}", kafka.group, host.trim(), std::process::id())
}

/// A client could not be made: names the property, never its value, which may be a password.
pub(super) fn client_error(error: KafkaError) -> StreamError {
    match error {
        KafkaError::ClientConfig(_, why, name, _) => StreamError::Property { name, why },
        KafkaError::ClientCreation(why) => StreamError::Client { why },
        other => StreamError::Client { why: other.to_string() },
    }
}

/// Logs and counts what a client reports. An unreachable broker says the same every second: each error is logged once in ten.
#[derive(Debug)]
pub(super) struct Reporter {
    client: &'static str,
    metrics: Option<Metrics>,
    last_logged: Mutex<Vec<(RDKafkaErrorCode, Instant)>>,
    /// The last global error in the broker's words, for errors that say only "timed out".
    last_reason: Mutex<Option<String>>,
}

const QUIET: Duration = Duration::from_secs(10);

impl Reporter {
    pub fn new(client: &'static str, metrics: Option<Metrics>) -> Reporter {
        Reporter { client, metrics, last_logged: Mutex::default(), last_reason: Mutex::default() }
    }

    pub fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let client = self.client;
        match level {
            // Connection errors come a second time as error events, which are logged more rarely.
            RDKafkaLogLevel::Error if facility == "FAIL" || facility == "ERROR" => {
                debug!(target: "librdkafka", client, facility, "{line}")
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                error!(target: "librdkafka", client, facility, "{line}")
            }
            RDKafkaLogLevel::Warning => warn!(target: "librdkafka", client, facility, "{line}"),
            RDKafkaLogLevel::Notice => info!(target: "librdkafka", client, facility, "{line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug!(target: "librdkafka", client, facility, "{line}"),
        }
    }

    /// A global error of the client: everything it retries by itself.
    pub fn error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // "All brokers are down" follows each error of a single broker and would hide it.
        let mut last_reason = lock(&self.last_reason);
        if code != RDKafkaErrorCode::AllBrokersDown || last_reason.is_none() {
            *last_reason = Some(reason.to_owned());
        }
        drop(last_reason);
        if code == RDKafkaErrorCode::Fatal {
            // The call that meets it stops the service and counts it.
            return;
        }
        self.retriable(code, reason);
    }

    /// Counts an error after which we go on, and logs it unless the same was logged a moment ago.
    pub fn retriable(&self, code: RDKafkaErrorCode, reason: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.kafka_errors.with_label_values(&["retriable"]).inc();
        }
        let now = Instant::now();
        let mut last_logged = lock(&self.last_logged);
        match last_logged.iter_mut().find(|(logged, _)| *logged == code) {
            Some((_, at)) if now.duration_since(*at) < QUIET => return,
            Some((_, at)) => *at = now,
            None => last_logged.push((code, now)),
        }
        warn!(client = self.client, error = %code, reason, "kafka error, trying again");
    }

    pub fn last_reason(&self) -> Option<String> {
        lock(&self.last_reason).clone()
    }
}

/// Locks what no thread leaves half-changed, so that a panic elsewhere does not spread.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
