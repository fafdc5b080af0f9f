//! Messages in, a ledger of what came back out: who is missing, who came twice, in which order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::{Value, json};

use super::broker::Cluster;
use super::service::{PATIENCE, Road};

/// Texts as people write them, taken in turn.
const SAMPLES: &str = include_str!("../../deploy/feeder/samples.jsonl");
/// Authors: each one's messages must keep their order.
const N_KEYS: u64 = 97;
/// How often clients look for brokers that they may have forgotten.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The input record of a number: its number is its id.
pub fn record(number: u64) -> (String, String) {
    static TEXTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let samples = SAMPLES.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // One of the samples is broken on purpose.
        samples.map(|sample| sample["text"].clone()).filter(Value::is_string).collect()
    });
    let text = &TEXTS[number as usize % TEXTS.len()];
    (format!("author-{}", number % N_KEYS), json!({"id": number.to_string(), "text": text}).to_string())
}

fn producer(cluster: &Cluster) -> ThreadedProducer<DefaultProducerContext> {
    let mut config = cluster.client();
    config.set("enable.idempotence", "true").set("linger.ms", "5").set("partitioner", "murmur2_random");
    // An unreachable broker is waited for.
    config.set("delivery.timeout.ms", "0").create().unwrap()
}

/// Sends numbered messages to the input topic, each exactly once.
pub struct Sender {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    next: u64,
    /// Milliseconds by which the sending clock is wrong.
    pub clock_error: i64,
}

impl Sender {
    pub fn new(cluster: &Cluster, road: &Road) -> Sender {
        Sender { producer: producer(cluster), topic: road.input.clone(), next: 0, clock_error: 0 }
    }

    /// Messages sent so far: numbers below this one.
    pub fn n_sent(&self) -> u64 {
        self.next
    }

    /// The same numbers from a new client.
    pub fn reopened(self, cluster: &Cluster) -> Sender {
        Sender { producer: producer(cluster), ..self }
    }

    /// Sends the next messages and waits until the broker has them.
    pub fn send(&mut self, n_messages: u64) {
        for _ in 0..n_messages {
            self.send_one();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    fn send_one(&mut self) {
        let (key, value) = record(self.next);
        let now = Timestamp::now().as_millisecond() + self.clock_error;
        let mut message = BaseRecord::to(&self.topic).key(&key).payload(&value).timestamp(now);
        while let Err((error, back)) = self.producer.send(message) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            message = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        self.next += 1;
    }

    /// Goes on sending in the background, so many messages a second.
    pub fn go_on(mut self, a_second: u64) -> Steady {
        let stop = Arc::new(AtomicBool::new(false));
        let n_sent = Arc::new(AtomicU64::new(self.next));
        let thread = std::thread::spawn({
            let (stop, n_sent) = (Arc::clone(&stop), Arc::clone(&n_sent));
            move || {
                let (began, first) = (Instant::now(), self.next);
                let mut looked = began;
                while !stop.load(Ordering::SeqCst) {
                    if looked.elapsed() > LOOK_EVERY {
                        // Else a client that was told of no broker may forget them all (librdkafka 2.12).
                        let _ = self.producer.client().fetch_metadata(Some(&self.topic), Duration::from_millis(200));
                        looked = Instant::now();
                    }
                    while self.next - first < began.elapsed().as_millis() as u64 * a_second / 1000 {
                        self.send_one();
                    }
                    n_sent.store(self.next, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                }
                self.producer.flush(PATIENCE).unwrap();
                self
            }
        });
        Steady { stop, n_sent, thread }
    }
}

/// Sends records as they are, to the partitions that they name.
pub fn send_raw(cluster: &Cluster, topic: &str, records: &[Record]) {
    let mut config = cluster.client();
    config.set("enable.idempotence", "true").set("message.max.bytes", "20000000").set("batch.size", "100000");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    for record in records {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_ref() }));
        let message = BaseRecord::<[u8], [u8]> {
            topic,
            partition: Some(record.partition),
            payload: record.value.as_deref(),
            key: record.key.as_deref(),
            timestamp: record.timestamp,
            headers: Some(headers),
            delivery_opaque: (),
        };
        producer.send(message).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// What the group has not committed yet, over all partitions of the input topic.
pub fn lag(cluster: &Cluster, road: &Road) -> i64 {
    let consumer: BaseConsumer = cluster.client().set("group.id", &road.name).create().unwrap();
    let metadata = consumer.fetch_metadata(Some(&road.input), PATIENCE).unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions.add_partition(&road.input, partition.id());
    }
    let committed = consumer.committed_offsets(partitions, PATIENCE).unwrap();
    let behind = committed.elements().into_iter().map(|element| {
        let (low, high) = consumer.fetch_watermarks(&road.input, element.partition(), PATIENCE).unwrap();
        high - element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(low)
    });
    behind.sum()
}

/// A steady stream of messages.
pub struct Steady {
    stop: Arc<AtomicBool>,
    n_sent: Arc<AtomicU64>,
    thread: JoinHandle<Sender>,
}

impl Steady {
    /// Messages handed to the client so far.
    pub fn n_sent(&self) -> u64 {
        self.n_sent.load(Ordering::SeqCst)
    }

    /// Stops, and waits until the broker has all.
    pub fn stop(self) -> Sender {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// A record read back.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub timestamp: Option<i64>,
}

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Record {
        let headers = message.headers().map_or(Vec::new(), |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Record {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            timestamp: message.timestamp().to_millis(),
        }
    }

    /// The last header of a name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_ref()?).ok()
    }

    /// The value as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.value.as_ref().expect("a value")).expect("JSON")
    }
}

/// Reads a topic from its beginning.
pub struct Reader {
    consumer: BaseConsumer,
    at_end: BTreeMap<i32, bool>,
}

impl Reader {
    /// `isolation`: `read_committed` or `read_uncommitted`.
    pub fn new(cluster: &Cluster, topic: &str, isolation: &str) -> Reader {
        let mut config = cluster.client();
        config
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.queue.backoff.ms", "5")
            .set("isolation.level", isolation);
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut partitions = TopicPartitionList::new();
        let n_partitions = metadata.topics()[0].partitions().len() as i32;
        for partition in 0..n_partitions {
            partitions.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&partitions).unwrap();
        Reader { consumer, at_end: (0..n_partitions).map(|partition| (partition, false)).collect() }
    }

    /// The next record, if one comes within `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Option<Record> {
        match self.consumer.poll(timeout)? {
            Ok(message) => {
                self.at_end.insert(message.partition(), false);
                Some(Record::of(&message))
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                self.at_end.insert(partition, true);
                None
            }
            // The client goes on by itself.
            Err(_) => None,
        }
    }

    /// See [`Sender::go_on`].
    fn look_for_brokers(&self) {
        let _ = self.consumer.fetch_metadata(None, Duration::from_millis(200));
    }

    /// Everything up to the ends of all partitions, where nothing more comes.
    pub fn rest(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < Duration::from_millis(500) || !self.at_end.values().all(|at_end| *at_end) {
            assert!(Instant::now() < deadline, "the end of a topic was not reached: {:?}", self.at_end);
            if let Some(record) = self.next(Duration::from_millis(50)) {
                records.push(record);
                quiet_since = Instant::now();
            }
        }
        records
    }
}

/// Everything in a topic, read by a client of its own.
pub fn read_all(cluster: &Cluster, topic: &str) -> Vec<Record> {
    Reader::new(cluster, topic, "read_committed").rest()
}

/// Keeps account of numbered messages' scores.
pub struct Ledger {
    reader: Reader,
    n_times: Vec<u16>,
    n_found: u64,
    n_repeats: u64,
    /// By key: the highest number whose score came.
    newest: BTreeMap<Vec<u8>, u64>,
    n_out_of_order: u64,
    checks_order: bool,
    slowest: Duration,
    /// Model versions that scored.
    pub versions: BTreeMap<String, u64>,
    validator: jsonschema::Validator,
}

/// The schema that is published for users.
pub fn score_schema() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(include_str!("../../deploy/schemas/score.json")).unwrap()).unwrap()
}

impl Ledger {
    pub fn new(cluster: &Cluster, road: &Road, isolation: &str) -> Ledger {
        Ledger {
            reader: Reader::new(cluster, &road.output, isolation),
            n_times: Vec::new(),
            n_found: 0,
            n_repeats: 0,
            newest: BTreeMap::new(),
            n_out_of_order: 0,
            checks_order: true,
            slowest: Duration::ZERO,
            versions: BTreeMap::new(),
            validator: score_schema(),
        }
    }

    /// When partitions are added, keys move; around a refusal, what follows may come first.
    pub fn forget_order(&mut self) {
        self.checks_order = false;
    }

    fn note(&mut self, record: &Record) -> u64 {
        let score = record.json();
        let number: u64 = score["id"].as_str().unwrap().parse().unwrap();
        if self.n_times.len() <= number as usize {
            self.n_times.resize(number as usize + 1, 0);
        }
        // Each is parsed above; checking each against the schema would take longer than scoring it.
        if number.is_multiple_of(20) {
            self.validator.validate(&score).unwrap_or_else(|error| panic!("score record {number}: {error}"));
        }
        let n_times = &mut self.n_times[number as usize];
        *n_times += 1;
        if *n_times > 1 {
            self.n_repeats += 1;
            return number;
        }
        self.n_found += 1;
        *self.versions.entry(score["model"]["version"].as_str().unwrap().to_owned()).or_default() += 1;
        let scored_at: Timestamp = score["scored_at"].as_str().unwrap().parse().unwrap();
        let waited = scored_at.as_millisecond() - record.timestamp.expect("the input's timestamp");
        self.slowest = self.slowest.max(Duration::from_millis(waited.max(0) as u64));
        let key = record.key.clone().expect("the input's key");
        let newest = self.newest.entry(key).or_insert(number);
        if number < *newest {
            self.n_out_of_order += u64::from(self.checks_order);
        }
        *newest = number.max(*newest);
        number
    }

    /// Reads until the scores of all numbers below `n_sent` came; says how long it took.
    pub fn wait_for(&mut self, n_sent: u64) -> Duration {
        let began = Instant::now();
        let mut looked = began;
        while self.n_found < n_sent {
            if looked.elapsed() > LOOK_EVERY {
                self.reader.look_for_brokers();
                looked = Instant::now();
            }
            if let Some(record) = self.reader.next(Duration::from_millis(50)) {
                self.note(&record);
            }
            if began.elapsed() > PATIENCE {
                let missing: Vec<usize> =
                    (0..n_sent as usize).filter(|&number| self.n_times.get(number).is_none_or(|n| *n == 0)).collect();
                panic!(
                    "{} of {n_sent} messages have no score: {:?} …",
                    missing.len(),
                    &missing[..missing.len().min(10)]
                );
            }
        }
        began.elapsed()
    }

    /// Reads what there is, for so long.
    pub fn read_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Some(record) = self.reader.next(left.min(Duration::from_millis(50))) {
                self.note(&record);
            }
        }
    }

    /// Reads to the end and checks that all numbers below `n_sent` have a score, in order for each key. Returns how many came twice.
    pub fn settle(&mut self, n_sent: u64) -> u64 {
        self.wait_for(n_sent);
        for record in self.reader.rest() {
            self.note(&record);
        }
        assert_eq!(self.n_found, n_sent, "scores of messages that nobody sent");
        assert_eq!(self.n_out_of_order, 0, "scores of one author came in another order than their messages");
        self.n_repeats
    }

    /// Scores so far whose message had one before.
    pub fn n_twice(&self) -> u64 {
        self.n_repeats
    }

    /// The longest time from sending a message to scoring it.
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Scores read so far, each message counted once.
    pub fn n_found(&self) -> u64 {
        self.n_found
    }
}
