//! Checks the topics, and makes those that are missing: settings in, how many partitions each has out.
//!
//! Everything here blocks for at most the timeouts given; none of it needs an async runtime, and inside one it belongs on a blocking thread.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::info;

use super::StreamError;
use super::client::{Reporter, Side, client_config, client_error};
use crate::config::KafkaSettings;

/// What the cluster says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    pub n_partitions: i32,
    /// Of the partition that has fewest.
    pub n_replicas: usize,
    /// Partitions that nobody leads now: reading and writing them waits.
    pub n_leaderless: usize,
}

/// The three topics of the road.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    pub input: TopicInfo,
    pub output: TopicInfo,
    pub dead_letter: TopicInfo,
}

/// Why topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("could not reach a kafka broker at {brokers}{}", reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoBroker { brokers: String, reason: Option<String> },
    #[error("topic \"{topic}\" does not exist")]
    Unknown { topic: String },
    #[error("access to topic \"{topic}\" is not allowed")]
    NotAuthorized { topic: String },
    #[error("could not create topic \"{topic}\": {code}")]
    NotCreated { topic: String, code: RDKafkaErrorCode },
    #[error("could not describe topic \"{topic}\": {code}")]
    Broken { topic: String, code: RDKafkaErrorCode },
}

impl TopicError {
    /// The next step for whoever reads the error.
    pub fn hint(&self) -> String {
        match self {
            TopicError::NoBroker { .. } => {
                "check kafka.brokers (--brokers) and that the broker runs; a broker that speaks TLS or SASL needs -X security.protocol=…".to_owned()
            }
            TopicError::Unknown { topic } => {
                format!("create it, or let vigie do it with --create-topics; a misspelt name? it is \"{topic}\" in the settings")
            }
            TopicError::NotAuthorized { .. } => {
                "ask for DESCRIBE and READ on the input topic, DESCRIBE and WRITE on the others, READ on the group".to_owned()
            }
            TopicError::NotCreated { .. } => {
                "check kafka.partitions, kafka.replication (at most the number of brokers) and the right CREATE on the cluster".to_owned()
            }
            TopicError::Broken { .. } => "wait a moment and try again; then look at the broker's log".to_owned(),
        }
    }
}

/// Events looked at for the reason of a failed connection: more than come in the time that a call waits.
const MOST_EVENTS: usize = 1000;

struct Context(Reporter);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// Asks the cluster about topics.
pub struct TopicClient {
    // A consumer without a group: the kind of client that never makes a topic by asking about it.
    inner: BaseConsumer<Context>,
    brokers: String,
}

impl TopicClient {
    /// Makes the client. Does not wait for a broker.
    pub fn new(kafka: &KafkaSettings) -> Result<TopicClient, StreamError> {
        let config = client_config(kafka, Side::Admin)?;
        let context = Context(Reporter::new("metadata", None));
        let inner = config.create_with_context(context).map_err(client_error)?;
        Ok(TopicClient { inner, brokers: kafka.brokers.clone() })
    }

    /// Describes one topic. Waits up to `timeout` for a broker.
    pub fn describe(&self, topic: &str, timeout: Duration) -> Result<TopicInfo, TopicError> {
        let metadata = self.inner.fetch_metadata(Some(topic), timeout).map_err(|error| {
            // Errors of the connection come as events, one a poll and between log lines; the call itself only says that it timed out.
            (0..MOST_EVENTS).for_each(|_| drop(self.inner.poll(Duration::ZERO)));
            // librdkafka adds how long it waited and how often it said so: nothing for a reader.
            let reason = self.inner.context().0.last_reason();
            let reason = reason.map(|why| why.split(" (after ").next().unwrap_or_default().to_owned());
            let reason = reason.or_else(|| error.rdkafka_error_code().map(|code| code.to_string()));
            TopicError::NoBroker { brokers: self.brokers.clone(), reason }
        })?;
        let name = || topic.to_owned();
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let found = found.ok_or_else(|| TopicError::Unknown { topic: name() })?;
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Err(TopicError::Unknown { topic: name() });
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(TopicError::NotAuthorized { topic: name() });
            }
            Some(code) => return Err(TopicError::Broken { topic: name(), code }),
        }
        let partitions = found.partitions();
        Ok(TopicInfo {
            name: name(),
            n_partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            n_replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            n_leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
        })
    }
}

/// Describes the three topics; makes those that are missing when `kafka.create_topics` says so. Waits up to `timeout` for a broker.
pub fn ensure(kafka: &KafkaSettings, timeout: Duration) -> Result<Topics, StreamError> {
    let client = TopicClient::new(kafka)?;
    let names = [&kafka.input_topic, &kafka.output_topic, &kafka.dead_letter_topic];
    if kafka.create_topics {
        let mut missing = Vec::new();
        for name in names {
            match client.describe(name, timeout) {
                Err(TopicError::Unknown { .. }) => missing.push(name.as_str()),
                other => drop(other?),
            }
        }
        if !missing.is_empty() {
            create(kafka, &missing, timeout)?;
        }
    }
    let [input, output, dead_letter] = names.map(|name| {
        // A topic that was just made may take a moment to be known everywhere.
        let deadline = Instant::now() + if kafka.create_topics { timeout } else { Duration::ZERO };
        loop {
            match client.describe(name, timeout) {
                Err(TopicError::Unknown { .. } | TopicError::Broken { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    });
    Ok(Topics { input: input?, output: output?, dead_letter: dead_letter? })
}

fn create(kafka: &KafkaSettings, names: &[&str], timeout: Duration) -> Result<(), StreamError> {
    let context = Context(Reporter::new("admin", None));
    let admin: AdminClient<Context> =
        client_config(kafka, Side::Admin)?.create_with_context(context).map_err(client_error)?;
    let topics: Vec<NewTopic> = names
        .iter()
        .map(|&name| {
            let topic = NewTopic::new(name, kafka.partitions, TopicReplication::Fixed(kafka.replication));
            // A dead letter holds what the input topic took, and headers on top.
            if name == kafka.dead_letter_topic { topic.set("max.message.bytes", "20971520") } else { topic }
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    let results = wait_for(admin.create_topics(&topics, &options));
    let results = results.map_err(|error| TopicError::NotCreated {
        topic: names.join("\", \""),
        code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::OperationTimedOut),
    })?;
    for result in results {
        match result {
            Ok(topic) => info!(topic, partitions = kafka.partitions, replication = kafka.replication, "topic created"),
            // Another instance was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                return Err(TopicError::NotAuthorized { topic }.into());
            }
            Err((topic, code)) => return Err(TopicError::NotCreated { topic, code }.into()),
        }
    }
    Ok(())
}

/// Waits for a future on this thread: the admin client polls itself, so no runtime is needed.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
