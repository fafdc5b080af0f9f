//! Sends records and collects what became of them: records in, delivery reports out.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tracing::warn;

use super::StreamError;
use super::client::{Reporter, Side, client_config, client_error, lock};
use crate::config::{Delivery, Settings};
use crate::metrics::Metrics;

/// One record on its way out, borrowed from the batch that owns it.
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    /// `None`: the partitioner decides by the key.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<Cow<'a, [u8]>>,
    pub headers: Option<OwnedHeaders>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
    /// Comes back in the report.
    pub ticket: usize,
}

/// What became of a sent record.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub ticket: usize,
    pub result: Result<(), RDKafkaErrorCode>,
    pub at: Instant,
}

/// The producer and the reports that are not yet fetched.
pub struct Producer {
    inner: ThreadedProducer<Context>,
    reports: Arc<Mutex<Vec<Report>>>,
    output_topic: String,
}

struct Context {
    reporter: Reporter,
    reports: Arc<Mutex<Vec<Report>>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.reporter.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(&error, reason);
    }
}

impl ProducerContext for Context {
    // A number, not a box: half a microsecond a record.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        lock(&self.reports).push(Report { ticket, result, at: Instant::now() });
    }
}

impl Producer {
    /// Makes the client. Does not wait for a broker.
    pub fn new(settings: &Settings, metrics: &Metrics) -> Result<Producer, StreamError> {
        let mut config = client_config(&settings.kafka, Side::Producer)?;
        // A full queue only makes us wait, but what we let in anyway should find room.
        if config.get("queue.buffering.max.messages").is_none() {
            let room = settings.pipeline.max_in_flight.clamp(1000, 10_000_000);
            config.set("queue.buffering.max.messages", room.to_string());
        }
        let reports = Arc::new(Mutex::new(Vec::new()));
        let reporter = Reporter::new("producer", Some(metrics.clone()));
        let context = Context { reporter, reports: Arc::clone(&reports) };
        let inner = config.create_with_context(context).map_err(client_error)?;
        Ok(Producer { inner, reports, output_topic: settings.kafka.output_topic.clone() })
    }

    /// Puts a record into the client's queue. `QueueFull` means: later. Any other error is about this record.
    pub fn send(&self, outgoing: Outgoing<'_>) -> Result<(), RDKafkaErrorCode> {
        let record = BaseRecord::<[u8], [u8], usize> {
            topic: outgoing.topic,
            partition: outgoing.partition,
            payload: outgoing.payload.as_deref(),
            key: outgoing.key,
            timestamp: outgoing.timestamp,
            headers: outgoing.headers,
            delivery_opaque: outgoing.ticket,
        };
        self.inner.send(record).map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))
    }

    /// Moves the reports that came since into `into`, which must be empty.
    pub fn take_reports(&self, into: &mut Vec<Report>) {
        std::mem::swap(&mut *lock(&self.reports), into);
    }

    /// Gives up all that is not delivered; the reports of it say so.
    pub fn purge(&self) {
        use rdkafka::producer::PurgeConfig;
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }

    /// Makes the client look for brokers. One that was told of none, as the only broker says when it was frozen for a while, may forget it and
    /// never ask again (librdkafka 2.12).
    pub fn look_for_brokers(&self) {
        // The answer is of no interest: to ask, the client has to connect, and what it hears it keeps.
        let _ = self.inner.client().fetch_metadata(Some(&self.output_topic), Duration::from_millis(200));
    }

    /// Lets go of the client without waiting for it.
    pub fn close(self) {
        // Without a thread it is closed here, which takes a moment longer.
        let _ = std::thread::Builder::new().name("vigie-close".to_owned()).spawn(move || drop(self));
    }

    /// The error that ended the client, if one did.
    pub fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.inner.client().fatal_error()
    }

    /// Fences every other producer with our transactional id. Blocks until a broker answers or `give_up` says so.
    pub fn init_transactions(&self, give_up: impl Fn() -> bool) -> Result<(), TransactionError> {
        self.retry(give_up, None, || self.inner.init_transactions(CALL_TIMEOUT))
    }

    pub fn begin_transaction(&self) -> Result<(), TransactionError> {
        self.inner.begin_transaction().map_err(TransactionError::from)
    }

    /// Commits offsets and records together. All records must have been reported before: a flush takes 100 ms when they have not.
    pub fn commit_transaction(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        give_up: impl Fn() -> bool,
    ) -> Result<(), TransactionError> {
        if offsets.count() > 0 {
            self.retry(&give_up, Some(MOST_TRYING), || {
                self.inner.send_offsets_to_transaction(offsets, group, CALL_TIMEOUT)
            })?;
        }
        self.retry(give_up, Some(MOST_TRYING), || self.inner.commit_transaction(CALL_TIMEOUT))
    }

    /// Takes back all that was sent since the transaction began.
    pub fn abort_transaction(&self, give_up: impl Fn() -> bool) -> Result<(), TransactionError> {
        // Abort waits for reports of records that are still under way and fails without a poller; the threaded producer is one.
        self.retry(give_up, Some(MOST_TRYING), || self.inner.abort_transaction(ABORT_TIMEOUT))
    }

    /// Repeats a call as long as librdkafka says that the same call may be repeated, at most for `limit`: a coordinator or a broker that
    /// librdkafka has forgotten is never found again, and new clients begin where the last commit ended.
    fn retry(
        &self,
        give_up: impl Fn() -> bool,
        limit: Option<Duration>,
        call: impl Fn() -> KafkaResult<()>,
    ) -> Result<(), TransactionError> {
        let began = Instant::now();
        loop {
            match call() {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                    warn!(error = %error.code(), "transaction call did not succeed yet, trying again");
                }
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {}
                Err(error) => return Err(error.into()),
            }
            if give_up() {
                return Err(TransactionError::GivenUp);
            }
            if limit.is_some_and(|limit| began.elapsed() > limit) {
                let said = "the transaction did not end in time".to_owned();
                return Err(TransactionError::Fatal(RDKafkaErrorCode::OperationTimedOut, said));
            }
            self.look_for_brokers();
        }
    }
}

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter: librdkafka 2.12 may miss that it got its new epoch, and finds it when it is asked again.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);
/// The broker has ended a transaction that is so old by itself (`transaction.timeout.ms` and its ten-second look): the producer is lost.
const MOST_TRYING: Duration = Duration::from_secs(30);

/// How a transactional call ended when not well.
#[derive(Debug)]
pub enum TransactionError {
    /// The transaction is lost; abort it and begin again.
    Abortable(RDKafkaErrorCode),
    /// The producer is lost.
    Fatal(RDKafkaErrorCode, String),
    /// We gave up while the broker did not answer.
    GivenUp,
}

impl From<KafkaError> for TransactionError {
    fn from(error: KafkaError) -> TransactionError {
        match error {
            KafkaError::Transaction(error) if error.txn_requires_abort() => TransactionError::Abortable(error.code()),
            KafkaError::Transaction(error) => TransactionError::Fatal(error.code(), error.string()),
            other => {
                let code = other.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                TransactionError::Fatal(code, other.to_string())
            }
        }
    }
}

/// Says whether the settings ask for transactions.
pub fn is_transactional(settings: &Settings) -> bool {
    settings.kafka.delivery == Delivery::ExactlyOnce
}
