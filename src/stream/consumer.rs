//! Takes records from the input topic: a group membership in, records and rebalances out.
//!
//! A rebalance is not answered inside librdkafka's callback but kept for the pipeline, which first drains what it must and then answers:
//! librdkafka waits until it does. So nothing of the pipeline's state has to be shared with a callback.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use tracing::warn;

use super::StreamError;
use super::client::{Reporter, Side, client_config, client_error, lock};
use super::watermark::Position;
use crate::config::Settings;
use crate::metrics::Metrics;

/// Partitions that come or go; to be answered with [`Consumer::answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    Assign(Vec<i32>),
    Revoke(Vec<i32>),
}

/// How far one partition reaches, from the client's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub partition: i32,
    /// First offset that exists.
    pub low: i64,
    /// Offset that the next record will get.
    pub high: i64,
    /// The group's committed offset; negative when there is none.
    pub committed: i64,
}

/// What the client knows of the cluster, once a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    pub is_connected: bool,
    pub reaches: Vec<Reach>,
}

/// What the coordinator said to a commit.
#[derive(Debug)]
pub struct Committed {
    pub asked: Instant,
    /// Those that it confirmed.
    pub confirmed: Vec<Position>,
    /// The first error, if any was refused.
    pub error: Option<RDKafkaErrorCode>,
}

/// A member of the group.
pub struct Consumer {
    inner: Arc<BaseConsumer<Context>>,
    topic: String,
    commits: Sender<(Instant, Vec<Position>)>,
    committed: Receiver<Committed>,
}

struct Context {
    topic: String,
    reporter: Reporter,
    is_closing: AtomicBool,
    rebalances: Mutex<VecDeque<Rebalance>>,
    statistics: Mutex<Option<Statistics>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.reporter.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        // Whatever a newer librdkafka makes of its statistics, the lag is not worth a failure.
        if let Ok(raw) = serde_json::from_slice::<RawStatistics>(json) {
            *lock(&self.statistics) = Some(raw.read(&self.topic));
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let numbers = partitions.elements_for_topic(&self.topic).iter().map(|element| element.partition()).collect();
        let rebalance = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(numbers),
            _ => Rebalance::Revoke(numbers),
        };
        if self.is_closing.load(Ordering::SeqCst) {
            // Everything is drained and committed; nobody would answer later.
            if let Err(error) = answer(consumer, &self.topic, &rebalance) {
                warn!(%error, "could not give partitions back while closing");
            }
        } else {
            lock(&self.rebalances).push_back(rebalance);
        }
    }
}

fn answer(consumer: &BaseConsumer<Context>, topic: &str, rebalance: &Rebalance) -> KafkaResult<()> {
    let is_cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
    match rebalance {
        Rebalance::Assign(partitions) if is_cooperative => consumer.incremental_assign(&list(topic, partitions)),
        Rebalance::Assign(partitions) => consumer.assign(&list(topic, partitions)),
        Rebalance::Revoke(partitions) if is_cooperative => consumer.incremental_unassign(&list(topic, partitions)),
        Rebalance::Revoke(_) => consumer.unassign(),
    }
}

fn commit(consumer: &BaseConsumer<Context>, topic: &str, asked: Instant, mut positions: Vec<Position>) -> Committed {
    let offsets = offsets_of(topic, &positions);
    let mut error = consumer.commit(&offsets, CommitMode::Sync).err().map(code_of);
    if error.is_some() {
        positions.clear();
    }
    // A coordinator may refuse single partitions.
    for element in offsets.elements_for_topic(topic) {
        if let Err(refused) = element.error() {
            error.get_or_insert(code_of(refused));
            positions.retain(|position| position.partition != element.partition());
        }
    }
    Committed { asked, confirmed: positions, error }
}

fn code_of(error: KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}

fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        list.add_partition(topic, partition);
    }
    list
}

/// Offsets as Kafka wants them: the next ones to read.
pub fn offsets_of(topic: &str, positions: &[Position]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for position in positions {
        list.add_partition_offset(topic, position.partition, Offset::Offset(position.offset))
            .expect("an offset of a record is a valid offset");
    }
    list
}

impl Consumer {
    /// Makes the client and asks for the group's membership. Does not wait for a broker.
    pub fn new(settings: &Settings, metrics: &Metrics) -> Result<Consumer, StreamError> {
        let config = client_config(&settings.kafka, Side::Consumer)?;
        let topic = settings.kafka.input_topic.clone();
        let context = Context {
            topic: topic.clone(),
            reporter: Reporter::new("consumer", Some(metrics.clone())),
            is_closing: AtomicBool::new(false),
            rebalances: Mutex::default(),
            statistics: Mutex::default(),
        };
        let inner: BaseConsumer<Context> = config.create_with_context(context).map_err(client_error)?;
        let inner = Arc::new(inner);
        // A commit that does not block tells rdkafka's users nothing about its end (0.39 has no callback for it), so a thread waits.
        let (commits, to_commit) = mpsc::channel();
        let (done, committed) = mpsc::channel();
        let committer = Arc::clone(&inner);
        let committing = topic.clone();
        std::thread::Builder::new().name("vigie-commit".to_owned()).spawn(move || {
            for (asked, positions) in to_commit {
                if done.send(commit(&committer, &committing, asked, positions)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Consumer { inner, topic, commits, committed })
    }

    /// Joins the group.
    pub fn subscribe(&self) -> Result<(), StreamError> {
        self.inner.subscribe(&[&self.topic]).map_err(|error| StreamError::Client { why: error.to_string() })
    }

    /// The next record, if one comes within `timeout`. Errors that pass are logged and counted here.
    pub fn poll(&self, timeout: Duration) -> Result<Option<BorrowedMessage<'_>>, StreamError> {
        let code = match self.inner.poll(timeout) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Ok(message)) => return Ok(Some(message)),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                let why = self.inner.client().fatal_error().map_or_else(|| code.to_string(), |(_, why)| why);
                return Err(StreamError::consumer_fatal(code, why));
            }
            Some(Err(error)) => code_of(error),
        };
        if code == RDKafkaErrorCode::AutoOffsetReset {
            return Err(StreamError::consumer_fatal(code, "the committed offset does not exist any more".to_owned()));
        }
        self.inner.context().reporter.retriable(code, "");
        Ok(None)
    }

    /// The oldest rebalance that is not answered.
    pub fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.inner.context().rebalances).pop_front()
    }

    /// Lets a rebalance go on.
    pub fn answer(&self, rebalance: &Rebalance) -> Result<(), StreamError> {
        answer(&self.inner, &self.topic, rebalance).map_err(|error| StreamError::Client { why: error.to_string() })
    }

    /// Says whether the partitions now revoked belong to others already, so that committing would be wrong.
    pub fn is_assignment_lost(&self) -> bool {
        self.inner.assignment_lost()
    }

    /// The newest statistics that were not taken yet.
    pub fn take_statistics(&self) -> Option<Statistics> {
        lock(&self.inner.context().statistics).take()
    }

    /// Asks for a commit. Exactly one answer comes through [`Consumer::committed`], late when the coordinator is away.
    pub fn commit(&self, positions: Vec<Position>) {
        // It fails only when the thread is gone, by a panic: no answer comes then, and closing goes on without one.
        let _ = self.commits.send((Instant::now(), positions));
    }

    /// The answer to the commit asked for, if it comes within `timeout`.
    pub fn committed(&self, timeout: Duration) -> Option<Committed> {
        self.committed.recv_timeout(timeout).ok()
    }

    /// Logs and counts an error after which we go on.
    pub fn report_retriable(&self, code: RDKafkaErrorCode, what: &str) {
        self.inner.context().reporter.retriable(code, what);
    }

    /// Stops or restarts fetching; the group's membership goes on as long as [`Consumer::poll`] is called.
    pub fn pause(&self, partitions: &[i32]) -> KafkaResult<()> {
        self.inner.pause(&list(&self.topic, partitions))
    }

    pub fn resume(&self, partitions: &[i32]) -> KafkaResult<()> {
        self.inner.resume(&list(&self.topic, partitions))
    }

    /// The group's committed offset of a partition, `None` before the first. An error while it cannot be known: nobody answers, or a
    /// transaction that holds it is still open.
    pub fn committed_offset(&self, partition: i32, timeout: Duration) -> KafkaResult<Option<i64>> {
        let found = self.inner.committed_offsets(list(&self.topic, &[partition]), timeout)?;
        let found = found.find_partition(&self.topic, partition);
        found.map_or(Ok(None), |found| match found.offset() {
            Offset::Offset(offset) => Ok(Some(offset)),
            _ => found.error().map(|()| None),
        })
    }

    /// Reads on from these offsets.
    pub fn seek(&self, offsets: &BTreeMap<i32, i64>) -> Result<(), StreamError> {
        for (&partition, &offset) in offsets {
            self.inner.seek(&self.topic, partition, Offset::Offset(offset), Duration::from_secs(10)).map_err(
                |error| StreamError::Client { why: format!("could not rewind partition {partition}: {error}") },
            )?;
        }
        Ok(())
    }

    /// The membership that fences offsets of a transaction.
    pub fn group_metadata(&self) -> ConsumerGroupMetadata {
        self.inner.group_metadata().expect("a consumer of a group has its metadata")
    }

    /// Leaves the group. Closing can hang when the broker is gone (rust-rdkafka#611), so it is given `timeout` and then left behind.
    pub fn close(self, timeout: Duration) {
        self.inner.context().is_closing.store(true, Ordering::SeqCst);
        while let Some(rebalance) = self.next_rebalance() {
            if let Err(error) = self.answer(&rebalance) {
                warn!(%error, "could not answer a rebalance while closing");
            }
        }
        let deadline = Instant::now() + timeout;
        // Dropping the channels ends the commit thread, which may be the last to hold the client.
        let Consumer { inner, commits, committed, .. } = self;
        drop((commits, committed));
        let closing = std::thread::Builder::new().name("vigie-close".to_owned()).spawn(move || {
            let mut inner = inner;
            while let Err(shared) = Arc::try_unwrap(inner) {
                inner = shared;
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let Ok(closing) = closing else { return };
        while !closing.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !closing.is_finished() {
            warn!("kafka consumer did not close in time; the group will notice by its session timeout");
        }
    }
}

/// The part of librdkafka's `STATISTICS.md` that we use.
#[derive(Debug, Deserialize)]
struct RawStatistics {
    #[serde(default)]
    brokers: BTreeMap<String, RawBroker>,
    #[serde(default)]
    topics: BTreeMap<String, RawTopic>,
}

#[derive(Debug, Deserialize)]
struct RawBroker {
    state: String,
}

#[derive(Debug, Deserialize)]
struct RawTopic {
    #[serde(default)]
    partitions: BTreeMap<String, RawPartition>,
}

#[derive(Debug, Deserialize)]
struct RawPartition {
    partition: i32,
    lo_offset: i64,
    hi_offset: i64,
    committed_offset: i64,
}

impl RawStatistics {
    fn read(mut self, topic: &str) -> Statistics {
        let partitions = self.topics.remove(topic).map(|topic| topic.partitions).unwrap_or_default();
        Statistics {
            is_connected: self.brokers.values().any(|broker| broker.state == "UP"),
            reaches: partitions
                .into_values()
                .filter(|partition| partition.partition >= 0 && partition.hi_offset >= 0)
                .map(|partition| Reach {
                    partition: partition.partition,
                    low: partition.lo_offset,
                    high: partition.hi_offset,
                    committed: partition.committed_offset,
                })
                .collect(),
        }
    }
}
