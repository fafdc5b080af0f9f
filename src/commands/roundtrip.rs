//! Sends texts and matches each with its score: records in, arrivals and a tally out. `vigie demo` and `vigie bench` are made of it.
//!
//! Every record carries its number in a header. The service keeps headers on score records and on dead letters, so that each can be matched
//! whatever its id is, and records of others on the same topics are passed over.
//!
//! The first record goes alone. Until it is back clients connect, producers ask for their ids and the group forms, which takes seconds and
//! says nothing about the service; the clock starts behind it, and it counts for everything but rate and latency.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::Failure;
use crate::config::{Delivery, KafkaSettings};
use crate::stream::client::{Side, client_config};
use crate::stream::topics::TopicClient;

/// Header with run, number and time of sending.
const HEADER: &str = "vigie-roundtrip";
/// How long the broker may take for one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to send and how fast.
pub struct Plan {
    /// Records to send, in order; ends the sending when it ends.
    pub records: Box<dyn Iterator<Item = Vec<u8>> + Send>,
    /// Most messages and bytes that were sent and have not come back.
    pub max_in_flight: usize,
    pub max_in_flight_bytes: usize,
    /// Time between two messages; none: as fast as they come back.
    pub pace: Option<Duration>,
    /// Give what comes back the beginning of its record.
    pub keep_records: bool,
}

/// What came back for one record.
#[derive(Debug)]
pub struct Arrival {
    pub number: u64,
    /// The score record; `None` for a dead letter.
    pub score: Option<Vec<u8>>,
    /// The record as it was sent, when the plan keeps records and this is the first arrival.
    pub record: Option<Vec<u8>>,
}

/// Counts of a round trip.
#[derive(Debug, Clone)]
pub struct Tally {
    pub n_sent: u64,
    pub n_scores: u64,
    pub n_dead: u64,
    /// Arrivals beyond the first of a record.
    pub n_twice: u64,
    /// Records that the broker did not take.
    pub n_refused: u64,
    /// From sending to reading back, in microseconds.
    pub latencies: Histogram<u64>,
    /// From the first arrival to the last.
    pub took: Duration,
}

impl Tally {
    /// Records that were sent and have not come back.
    pub fn n_missing(&self) -> u64 {
        self.n_sent.saturating_sub(self.n_scores + self.n_dead)
    }

    /// Records a second, there and back.
    pub fn rate(&self) -> f64 {
        (self.n_scores + self.n_dead).saturating_sub(1) as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// A latency in milliseconds, for example of `0.99`.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Shared by the sending thread, delivery reports and the reader.
#[derive(Debug)]
struct Sending {
    run: String,
    created: Instant,
    /// When the first record was back.
    clock: OnceLock<Instant>,
    stop: AtomicBool,
    is_over: AtomicBool,
    /// Records that the broker has taken.
    n_taken: AtomicU64,
    n_refused: AtomicU64,
    n_in_flight: AtomicUsize,
    n_bytes_in_flight: AtomicUsize,
    keeps_records: bool,
    /// Size of each record under way, and the record itself when it is wanted back.
    under_way: Mutex<HashMap<u64, (usize, Vec<u8>)>>,
    last_error: Mutex<Option<RDKafkaErrorCode>>,
}

impl Sending {
    fn depart(&self, number: u64, record: &[u8]) {
        self.n_in_flight.fetch_add(1, Ordering::Relaxed);
        self.n_bytes_in_flight.fetch_add(record.len(), Ordering::Relaxed);
        let kept = if self.keeps_records { record.to_vec() } else { Vec::new() };
        lock(&self.under_way).insert(number, (record.len(), kept));
    }

    fn arrive(&self, number: u64) -> Option<Vec<u8>> {
        let (n_bytes, record) = lock(&self.under_way).remove(&number)?;
        self.n_in_flight.fetch_sub(1, Ordering::Relaxed);
        self.n_bytes_in_flight.fetch_sub(n_bytes, Ordering::Relaxed);
        Some(record)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reports(Arc<Sending>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(_) => drop(self.0.n_taken.fetch_add(1, Ordering::SeqCst)),
            Err((error, _)) => {
                *lock(&self.0.last_error) = error.rdkafka_error_code();
                self.0.arrive(number as u64);
                self.0.n_refused.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// A running round trip. Ask for arrivals with [`RoundTrip::next`] until [`RoundTrip::is_complete`].
pub struct RoundTrip {
    sending: Arc<Sending>,
    sender: Option<JoinHandle<Result<(), Failure>>>,
    reader: BaseConsumer,
    output_topic: String,
    /// One bit a record that came back.
    seen: Vec<u64>,
    tally: Tally,
    last_arrival: Instant,
}

impl RoundTrip {
    /// Begins to read behind what the output and dead-letter topics hold now, then begins to send.
    pub fn start(kafka: &KafkaSettings, plan: Plan) -> Result<RoundTrip, Failure> {
        let reader = reader(kafka)?;
        let now = Instant::now();
        let sending = Arc::new(Sending {
            run: format!("{:x}", Timestamp::now().as_nanosecond()),
            created: now,
            clock: OnceLock::new(),
            stop: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            n_taken: AtomicU64::new(0),
            n_refused: AtomicU64::new(0),
            n_in_flight: AtomicUsize::new(0),
            n_bytes_in_flight: AtomicUsize::new(0),
            keeps_records: plan.keep_records,
            under_way: Mutex::default(),
            last_error: Mutex::default(),
        });
        let producer = producer(kafka, &sending)?;
        let topic = kafka.input_topic.clone();
        let sender = std::thread::Builder::new().name("vigie-sender".to_owned()).spawn({
            let sending = Arc::clone(&sending);
            move || {
                let result = send(&producer, &topic, plan, &sending);
                sending.is_over.store(true, Ordering::SeqCst);
                result
            }
        })?;
        let latencies = Histogram::new_with_bounds(1, 3_600_000_000, 3).context("could not make a histogram")?;
        let tally =
            Tally { n_sent: 0, n_scores: 0, n_dead: 0, n_twice: 0, n_refused: 0, latencies, took: Duration::ZERO };
        let output_topic = kafka.output_topic.clone();
        Ok(RoundTrip {
            sending,
            sender: Some(sender),
            reader,
            output_topic,
            seen: Vec::new(),
            tally,
            last_arrival: now,
        })
    }

    /// The next record that came back, if one does within `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        let Some(message) = self.reader.poll(timeout) else { return Ok(None) };
        let message = match message {
            Ok(message) => message,
            // The client goes on by itself; silence is judged by who asks.
            Err(error) if is_passing(&error) => return Ok(None),
            Err(error) => return Err(Failure::work(anyhow!(error).context("could not read scores back"))),
        };
        let Some((number, sent_at)) = number_of(&message, &self.sending.run) else { return Ok(None) };
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let is_score = message.topic() == self.output_topic;
        self.last_arrival = Instant::now();
        if self.seen[word] & bit != 0 {
            self.tally.n_twice += 1;
            return Ok(None);
        }
        self.seen[word] |= bit;
        if number > 0 {
            let latency = self.sending.created.elapsed().saturating_sub(sent_at);
            self.tally.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
        }
        self.tally.took = self.sending.clock.get_or_init(Instant::now).elapsed();
        *(if is_score { &mut self.tally.n_scores } else { &mut self.tally.n_dead }) += 1;
        let record = self.sending.arrive(number).filter(|_| self.sending.keeps_records);
        let score = is_score.then(|| message.payload().unwrap_or_default().to_vec());
        Ok(Some(Arrival { number, score, record }))
    }

    /// Reads on for a while, so that a second score of a record is seen too.
    pub fn settle(&mut self, time: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.next(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Sends no more.
    pub fn stop_sending(&self) {
        self.sending.stop.store(true, Ordering::SeqCst);
    }

    /// Says whether everything that was sent came back and nothing more will be sent.
    pub fn is_complete(&self) -> bool {
        self.sending.is_over.load(Ordering::SeqCst) && self.tally().n_missing() == 0
    }

    /// Time since something came back, or since the start.
    pub fn silent_for(&self) -> Duration {
        self.last_arrival.elapsed()
    }

    /// Says whether something is under way.
    pub fn is_waiting(&self) -> bool {
        self.sending.n_in_flight.load(Ordering::Relaxed) > 0
    }

    /// The counts of this moment.
    pub fn tally(&self) -> Tally {
        let n_sent = self.sending.n_taken.load(Ordering::SeqCst);
        Tally { n_sent, n_refused: self.sending.n_refused.load(Ordering::SeqCst), ..self.tally.clone() }
    }

    /// Stops sending and closes the clients. An error of the sending thread comes out here.
    pub fn finish(mut self) -> Result<Tally, Failure> {
        self.stop_sending();
        if let Some(sender) = self.sender.take() {
            sender.join().map_err(|_| Failure::work(anyhow!("sending thread panicked")))??;
        }
        let tally = self.tally();
        if let Some(code) = *lock(&self.sending.last_error) {
            let fact = format!("{} records were not taken by the broker: {code}", tally.n_refused);
            return Err(Failure::work(anyhow!(fact)).hint("`vigie check` looks at topics and rights"));
        }
        Ok(tally)
    }
}

fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    !matches!(
        error.rdkafka_error_code(),
        Some(Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::Fatal)
    )
}

/// A consumer without a group at the present ends of the output and the dead-letter topic.
fn reader(kafka: &KafkaSettings) -> Result<BaseConsumer, Failure> {
    let mut config = client_config(kafka, Side::Admin)?;
    config
        // Nothing is committed, but librdkafka assigns nothing without a group.
        .set("group.id", format!("{}-roundtrip", kafka.group))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "5");
    let reader: BaseConsumer = config.create().context("could not make a kafka client")?;
    let topics = TopicClient::new(kafka)?;
    let mut ends = TopicPartitionList::new();
    for topic in [&kafka.output_topic, &kafka.dead_letter_topic] {
        for partition in 0..topics.describe(topic, PATIENCE)?.n_partitions {
            let ends_at = reader
                .fetch_watermarks(topic, partition, PATIENCE)
                .with_context(|| format!("could not find the end of topic \"{topic}\""))?
                .1;
            ends.add_partition_offset(topic, partition, Offset::Offset(ends_at)).context("offset is not valid")?;
        }
    }
    topics.describe(&kafka.input_topic, PATIENCE)?;
    reader.assign(&ends).context("could not read the output topic")?;
    Ok(reader)
}

fn producer(kafka: &KafkaSettings, sending: &Arc<Sending>) -> Result<ThreadedProducer<Reports>, Failure> {
    let kafka = KafkaSettings { delivery: Delivery::AtLeastOnce, ..kafka.clone() };
    let mut config = client_config(&kafka, Side::Producer)?;
    config.set("delivery.timeout.ms", "30000").set("linger.ms", "2");
    Ok(config.create_with_context(Reports(Arc::clone(sending))).context("could not make a kafka client")?)
}

fn send(producer: &ThreadedProducer<Reports>, topic: &str, plan: Plan, sending: &Sending) -> Result<(), Failure> {
    let is_full = || {
        sending.n_in_flight.load(Ordering::Relaxed) >= plan.max_in_flight
            || sending.n_bytes_in_flight.load(Ordering::Relaxed) >= plan.max_in_flight_bytes
    };
    for (number, record) in (0u64..).zip(plan.records) {
        while number > 0 && sending.clock.get().is_none() && !sending.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let (Some(pace), Some(&clock)) = (plan.pace, sending.clock.get()) {
            let due = clock + pace * u32::try_from(number).unwrap_or(u32::MAX);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        while is_full() && !sending.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(200));
        }
        if sending.stop.load(Ordering::SeqCst) {
            break;
        }
        sending.depart(number, &record);
        let key = number.to_string();
        let stamp = format!("{} {number} {}", sending.run, sending.created.elapsed().as_micros());
        let headers = OwnedHeaders::new().insert(Header { key: HEADER, value: Some(&stamp) });
        let mut message = BaseRecord::with_opaque_to(topic, number as usize)
            .key(&key)
            .payload(&record)
            .headers(headers)
            .timestamp(Timestamp::now().as_millisecond());
        loop {
            match producer.send(message) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => {
                    sending.arrive(number);
                    return Err(Failure::work(anyhow!(error).context("could not send to the input topic")));
                }
            }
        }
    }
    producer.flush(Duration::from_secs(40)).context("could not send everything to the input topic")?;
    Ok(())
}

/// Number and time of sending, if the record is one of this run.
fn number_of(message: &BorrowedMessage<'_>, run: &str) -> Option<(u64, Duration)> {
    let headers = message.headers()?;
    let stamp = headers.iter().find(|header| header.key == HEADER)?.value?;
    let mut parts = std::str::from_utf8(stamp).ok()?.split(' ');
    (parts.next()? == run).then_some(())?;
    Some((parts.next()?.parse().ok()?, Duration::from_micros(parts.next()?.parse().ok()?)))
}
