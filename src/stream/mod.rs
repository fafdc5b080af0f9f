//! Kafka in, Kafka out: texts of the input topic in, score records and dead letters out, nothing lost between.
//!
//! One thread owns both clients and all bookkeeping ([`pipeline`]); scoring threads get whole batches ([`batch`]). Offsets are committed only
//! below the contiguous watermark of what the broker confirmed ([`watermark`]), or inside the transaction that carries the scores.

pub mod batch;
pub mod client;
pub mod consumer;
pub mod dead_letter;
pub mod message;
pub mod pipeline;
pub mod producer;
pub mod topics;
pub mod watermark;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use tracing::warn;

use crate::config::Settings;
use crate::metrics::Metrics;
use crate::models::ModelHandle;
use crate::shutdown::Shutdown;
use pipeline::Pipeline;

/// Why the service stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("property \"{name}\" cannot be set")]
    RefusedProperty { name: String, instead: &'static str },
    #[error("kafka property \"{name}\" is not valid: {why}")]
    Property { name: String, why: String },
    #[error("kafka client failed: {why}")]
    Client { why: String },
    #[error(transparent)]
    Topics(#[from] topics::TopicError),
    #[error("could not write to topic \"{topic}\": {code}")]
    Produce { topic: String, code: RDKafkaErrorCode },
    #[error("kafka producer is lost: {why}")]
    Producer { code: RDKafkaErrorCode, why: String },
    #[error("kafka consumer is lost: {why}")]
    Consumer { code: RDKafkaErrorCode, why: String },
    #[error("scoring threads ended")]
    WorkersGone,
    #[error("stream thread panicked")]
    Panicked,
    #[error("could not start a thread")]
    Thread(#[from] std::io::Error),
}

impl StreamError {
    fn consumer_fatal(code: RDKafkaErrorCode, why: String) -> StreamError {
        StreamError::Consumer { code, why }
    }

    /// Says whether the configuration is to blame, rather than the world.
    pub fn is_configuration(&self) -> bool {
        matches!(self, StreamError::RefusedProperty { .. } | StreamError::Property { .. })
    }

    /// Says whether new clients may do. Also after fencing: brokers that die at a bad moment fence those that have no double.
    fn is_mended_by_new_clients(&self) -> bool {
        use RDKafkaErrorCode as Code;
        match self {
            StreamError::Producer { code, .. } => {
                !matches!(code, Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed)
            }
            StreamError::Consumer { code, .. } => *code == Code::FencedInstanceId,
            _ => false,
        }
    }

    /// The next step for whoever reads the error, where there is one.
    pub fn hint(&self) -> Option<String> {
        use RDKafkaErrorCode as Code;
        let hint = match self {
            StreamError::RefusedProperty { instead, .. } => (*instead).to_owned(),
            StreamError::Property { .. } => {
                "the names are librdkafka's: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md".to_owned()
            }
            StreamError::Topics(error) => error.hint(),
            StreamError::Produce { code: Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed, .. } => {
                "give the service's user the right WRITE on the topic, then start again: nothing is lost".to_owned()
            }
            StreamError::Produce { code: Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition, topic } => {
                format!("create \"{topic}\" again, then start again: nothing is lost")
            }
            StreamError::Produce { code: Code::InvalidRecord, .. } => {
                "a compacted topic refuses records without a key; use cleanup.policy=delete, then start again: nothing is lost".to_owned()
            }
            StreamError::Produce { .. } | StreamError::WorkersGone | StreamError::Panicked => {
                "start again: nothing is lost, the records that were not confirmed are read again".to_owned()
            }
            StreamError::Producer { code: Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced, .. } => {
                "another instance uses the same transactional id; give each its own kafka.instance_id or kafka.transactional_id".to_owned()
            }
            StreamError::Producer { code: Code::TransactionalIdAuthorizationFailed, .. } => {
                "give the service's user the right WRITE on the transactional id".to_owned()
            }
            StreamError::Producer { .. } => "start again: nothing is lost; with exactly-once delivery run `vigie check` first".to_owned(),
            StreamError::Consumer { code: Code::FencedInstanceId, .. } => {
                "another instance has the same kafka.instance_id; give each its own".to_owned()
            }
            StreamError::Consumer { code: Code::AutoOffsetReset, .. } => {
                "records were deleted before they were scored; choose -X consumer.auto.offset.reset=earliest or latest".to_owned()
            }
            StreamError::Consumer { .. } | StreamError::Client { .. } | StreamError::Thread(_) => return None,
        };
        Some(hint)
    }
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    thread: JoinHandle<Result<(), StreamError>>,
}

impl Service {
    /// Waits until the service has stopped, drained and committed: after a shutdown was asked for, or because of an error.
    pub fn join(self) -> Result<(), StreamError> {
        self.thread.join().unwrap_or(Err(StreamError::Panicked))
    }

    /// Says whether the service has stopped, so that [`Service::join`] returns at once.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts the service on threads of its own: reads the input topic, scores, publishes, commits, until `shutdown` is asked for.
///
/// Fails at once on properties that no client can be made of. A broker that cannot be reached is waited for, with log lines. Whatever ends
/// the service asks for `shutdown`, so that the parts around it stop too; [`Service::join`] says why.
pub fn start(
    settings: &Settings,
    models: ModelHandle,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<Service, StreamError> {
    let pipeline = Pipeline::new(settings, models.clone(), metrics.clone(), shutdown.clone())?;
    let settings = settings.clone();
    let thread = std::thread::Builder::new().name("vigie-stream".to_owned()).spawn(move || {
        // Dropped last, also by a panic.
        struct Request(Shutdown);
        impl Drop for Request {
            fn drop(&mut self) {
                self.0.request();
            }
        }
        let _request = Request(shutdown.clone());
        run_and_renew(pipeline, || Pipeline::new(&settings, models.clone(), metrics.clone(), shutdown.clone()))
    })?;
    Ok(Service { thread })
}

/// New clients that lived shorter were made in vain.
const WORTH_RENEWING: Duration = Duration::from_secs(10);
/// After so many in a row whatever ended them would end the next ones too: a double with the same name, say.
const MOST_IN_VAIN: u32 = 3;

/// Runs a pipeline, and another one with new clients when one of its clients is lost for good, as they are when brokers die at a bad moment.
/// Nothing is lost between: what was not committed is read again.
fn run_and_renew(mut pipeline: Pipeline, make: impl Fn() -> Result<Pipeline, StreamError>) -> Result<(), StreamError> {
    let mut n_in_vain = 0;
    loop {
        let began = Instant::now();
        let result = pipeline.run();
        n_in_vain = if began.elapsed() < WORTH_RENEWING { n_in_vain + 1 } else { 0 };
        match result {
            Err(error) if error.is_mended_by_new_clients() && n_in_vain <= MOST_IN_VAIN => {
                warn!(%error, "starting again with new kafka clients");
                pipeline = make()?;
            }
            result => return result,
        }
    }
}
