//! Scores batches on worker threads: a batch of input records in, the same batch with a score record or a refusal for each out.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::message::{Headers as _, Message as _, OwnedHeaders};
use tracing::error;

use super::client::lock;
use super::message::{DeadReason, InputHeaders, Refusal, decode};
use super::watermark::Position;
use crate::config::InputSettings;
use crate::metrics::{Metrics, Stage};
use crate::models::ModelHandle;
use crate::record::{ScoreRecord, Source};
use crate::scoring::{Model, Scratch};

/// Input records in the order in which they were taken. Owns their bytes, so that librdkafka's buffers are free at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of the batch; batches are sent on in this order, which keeps the order of every partition.
    pub sequence: u64,
    pub messages: Vec<Message>,
    /// What the batch counts for in the bound on memory, in bytes.
    pub n_bytes: usize,
    bytes: Vec<u8>,
}

/// One input record; its bytes lie in the batch.
#[derive(Debug)]
pub struct Message {
    pub position: Position,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub headers: Option<OwnedHeaders>,
    headers_are_readable: bool,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
}

impl Message {
    /// The timestamp as RFC 3339.
    pub fn timestamp_text(&self) -> Option<String> {
        let timestamp = jiff::Timestamp::from_millisecond(self.timestamp?).ok()?;
        Some(format!("{timestamp:.3}"))
    }
}

/// What a record costs beside its bytes: its entry, its outcome, its share of the tracker, and the score record that comes of it.
const OVERHEAD: usize = 1024;

impl Batch {
    /// Copies a record into the batch. Returns what it counts for, in bytes.
    pub fn push(&mut self, position: Position, record: &rdkafka::message::BorrowedMessage<'_>) -> usize {
        let headers = record.headers().map(rdkafka::message::BorrowedHeaders::detach);
        // rdkafka panics on a header name that is not UTF-8, which any producer can send.
        let headers_bytes = catch_unwind(AssertUnwindSafe(|| {
            let headers = headers.iter().flat_map(|headers| headers.iter());
            headers.map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len)).sum::<usize>()
        }));
        let headers_are_readable = headers_bytes.is_ok();
        let (key, payload) = (self.copy(record.key()), self.copy(record.payload()));
        let timestamp = record.timestamp().to_millis().filter(|&timestamp| timestamp > 0);
        self.messages.push(Message { position, timestamp, headers, headers_are_readable, key, payload });
        let n_bytes = OVERHEAD + record.key_len() + record.payload_len() + headers_bytes.unwrap_or(0);
        self.n_bytes += n_bytes;
        n_bytes
    }

    fn copy(&mut self, bytes: Option<&[u8]>) -> Option<Range<usize>> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes?);
        Some(start..self.bytes.len())
    }

    /// The key of one of the batch's messages.
    pub fn key(&self, message: &Message) -> Option<&[u8]> {
        message.key.clone().map(|range| &self.bytes[range])
    }

    /// The value of one of the batch's messages.
    pub fn payload(&self, message: &Message) -> Option<&[u8]> {
        message.payload.clone().map(|range| &self.bytes[range])
    }

    fn input_headers<'a>(&self, message: &'a Message) -> InputHeaders<'a> {
        let headers = message.headers.iter().filter(|_| message.headers_are_readable);
        InputHeaders::pick(headers.flat_map(|headers| headers.iter()).map(|header| (header.key, header.value)))
    }
}

/// What one record became.
#[derive(Debug)]
pub enum Outcome {
    /// The score record's place in [`ScoredBatch::records`].
    Score(Range<usize>),
    Refused(Refusal),
}

/// A batch and what became of its messages, one outcome a message.
#[derive(Debug)]
pub struct ScoredBatch {
    pub batch: Batch,
    pub outcomes: Vec<Outcome>,
    /// Score records, JSON one after the other.
    pub records: Vec<u8>,
    /// The model that scored all of them.
    pub model: Arc<Model>,
}

/// What every worker needs.
#[derive(Debug, Clone)]
pub struct Scoring {
    pub topic: String,
    pub input: InputSettings,
    pub models: ModelHandle,
    pub metrics: Metrics,
}

/// Threads that score. They end when this is dropped.
pub struct Workers {
    batches: Option<Sender<Batch>>,
    is_stopping: Arc<AtomicBool>,
    scored: Receiver<ScoredBatch>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `n_workers` threads; 0: one a core.
    pub fn start(n_workers: usize, scoring: &Scoring) -> std::io::Result<Workers> {
        let n_workers = match n_workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let (batches, to_score) = mpsc::channel::<Batch>();
        let (done, scored) = mpsc::channel();
        let to_score = Arc::new(Mutex::new(to_score));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let start = |number| {
            let (to_score, done, scoring) = (Arc::clone(&to_score), done.clone(), scoring.clone());
            let is_stopping = Arc::clone(&is_stopping);
            std::thread::Builder::new().name(format!("vigie-score-{number}")).spawn(move || {
                let mut scratch = Scratch::default();
                loop {
                    // Whoever holds the lock waits for the next batch; it is handed over before the work begins.
                    let next = lock(&to_score).recv();
                    let Ok(batch) = next else { return };
                    // Nobody waits for what is left in the queue after a drain that took too long.
                    if is_stopping.load(Ordering::Relaxed)
                        || done.send(score_batch(batch, &scoring, &mut scratch)).is_err()
                    {
                        return;
                    }
                }
            })
        };
        let threads = (0..n_workers).map(start).collect::<std::io::Result<_>>()?;
        Ok(Workers { batches: Some(batches), is_stopping, scored, threads })
    }

    /// Hands a batch to the next free thread. The queue has no bound of its own: the pipeline bounds what it takes.
    pub fn score(&self, batch: Batch) {
        let batches = self.batches.as_ref().expect("the channel stays open until drop");
        // It fails only when all threads are gone, which `receive` reports.
        let _ = batches.send(batch);
    }

    /// The next scored batch, in whatever order they are done; `Ok(None)` when none came within `timeout`.
    pub fn receive(&self, timeout: Duration) -> Result<Option<ScoredBatch>, WorkersGone> {
        match self.scored.recv_timeout(timeout) {
            Ok(scored) => Ok(Some(scored)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(WorkersGone),
        }
    }
}

/// All scoring threads ended.
#[derive(Debug)]
pub struct WorkersGone;

impl Drop for Workers {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.batches = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn score_batch(batch: Batch, scoring: &Scoring, scratch: &mut Scratch) -> ScoredBatch {
    let model = scoring.models.current();
    let scored_at = format!("{:.3}", jiff::Timestamp::now());
    let mut records = Vec::new();
    let (mut decoding, mut scoring_time) = (Duration::ZERO, Duration::ZERO);
    let mut outcomes = Vec::with_capacity(batch.messages.len());
    for message in &batch.messages {
        let start = records.len();
        // A bug that one text wakes must not stop the texts behind it, now and after every restart.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let began = Instant::now();
            let headers = batch.input_headers(message);
            let decoded = decode(batch.payload(message), headers, &scoring.input);
            let after_decoding = Instant::now();
            decoding += after_decoding - began;
            let input = decoded?;
            let source = Source {
                topic: scoring.topic.clone(),
                partition: message.position.partition,
                offset: message.position.offset,
                timestamp: message.timestamp_text(),
            };
            let fallback = || format!("{}/{}/{}", source.topic, source.partition, source.offset).into();
            let id = input.id.unwrap_or_else(fallback);
            let (scored, explanation) = if scoring.input.explain {
                let (scored, explanation) = model.explain(&input.text, input.lang.as_deref(), scratch);
                (scored, Some(explanation))
            } else {
                (model.score(&input.text, input.lang.as_deref(), scratch), None)
            };
            let record = ScoreRecord::new(&id, Some(&source), &model, &scored, explanation.as_deref(), &scored_at);
            serde_json::to_writer(&mut records, &record)
                .expect("a score record has no map with odd keys and memory never fails");
            scoring.metrics.count_scored(&scored);
            scoring_time += after_decoding.elapsed();
            Ok(())
        }));
        let internal =
            || Refusal { reason: DeadReason::Internal, detail: "scoring met a bug; please report it".to_owned() };
        outcomes.push(match outcome {
            Ok(Ok(())) => Outcome::Score(start..records.len()),
            Ok(Err(refusal)) => Outcome::Refused(refusal),
            Err(_) => {
                let (partition, offset) = (message.position.partition, message.position.offset);
                error!(topic = scoring.topic, partition, offset, "scoring panicked on this record");
                records.truncate(start);
                *scratch = Scratch::default();
                Outcome::Refused(internal())
            }
        });
    }
    let stage = |stage: Stage| scoring.metrics.stage_seconds.with_label_values(&[stage.as_str()]);
    stage(Stage::Decode).observe(decoding.as_secs_f64());
    stage(Stage::Score).observe(scoring_time.as_secs_f64());
    ScoredBatch { batch, outcomes, records, model }
}
