//! The road itself: takes records, has them scored, sends what they became, and commits what is delivered.
//!
//! One thread does all of this in a loop that never waits long, so that no state is shared and no lock is held: take, score (elsewhere), send,
//! hear reports, commit. Batches are sent in the order in which they were taken, whichever thread was faster. In exactly-once delivery the
//! only differences are that sending happens inside a transaction and that a commit closes it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;
use tracing::{debug, info, warn};

use super::StreamError;
use super::batch::{Batch, Outcome, ScoredBatch, Scoring, Workers};
use super::consumer::{Consumer, Rebalance, offsets_of};
use super::dead_letter;
use super::message::{DeadReason, Refusal};
use super::producer::{Outgoing, Producer, Report, TransactionError, is_transactional};
use super::topics::{self, TopicError, Topics};
use super::watermark::{Position, Watermarks};
use crate::config::Settings;
use crate::metrics::{Metrics, Stage};
use crate::models::ModelHandle;
use crate::shutdown::Shutdown;

/// Most records taken between two looks at everything else.
const TAKE_AT_ONCE: usize = 1024;
/// A batch is handed over when its records count for so many bytes, however few they are.
const BATCH_BYTES: usize = 4 << 20;
/// How long a full service leaves its membership unpolled before it pauses fetching. Pausing throws away what was fetched ahead, so a short
/// stop does without; the group would wait minutes.
const PAUSE_AFTER: Duration = Duration::from_millis(500);
/// How long nothing may be reported of what was sent before the client is made to look for brokers.
const SILENCE: Duration = Duration::from_secs(5);
/// After so long a silence the broker has ended a transaction, and a client that forgot its coordinator never asks for it again.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// How long the last commit before partitions or the service leave may take. The coordinator is away then; repeats follow.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long work stands still to ask where a partition begins. It is asked again when there is no answer.
const PROOF_TIMEOUT: Duration = Duration::from_millis(500);
/// How long leaving the group may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that the road consists of, ready to run.
pub struct Pipeline {
    settings: Settings,
    metrics: Metrics,
    shutdown: Shutdown,
    consumer: Consumer,
    producer: Producer,
    workers: Workers,
    state: State,
}

/// What is under way.
#[derive(Default)]
struct State {
    watermarks: Watermarks,
    filling: Batch,
    filling_since: Option<Instant>,
    next_sequence: u64,
    n_scoring: usize,
    /// Scored batches with something that is not sent or not reported, by sequence.
    under_way: BTreeMap<u64, UnderWay>,
    /// The batch to send from.
    cursor: u64,
    /// Sent and not yet reported.
    n_unreported: usize,
    /// When a report came last, or nothing was waited for.
    last_report: Option<Instant>,
    last_look: Option<Instant>,
    n_messages: usize,
    n_bytes: usize,
    /// Refused in company of others, with what was said: sent again, one by one where they may be at fault themselves. By ticket.
    suspects: BTreeMap<usize, RDKafkaErrorCode>,
    alone: Option<usize>,
    refused_times: RefusedTimes,
    transaction: Option<Transaction>,
    careful: BTreeMap<(i32, i64), Care>,
    /// Partitions whose first record is still to come, in transactions.
    unproven: BTreeSet<i32>,
    lost_transaction: Option<RDKafkaErrorCode>,
    /// The broker refused a batch of the open transaction.
    has_gap: bool,
    is_committing: bool,
    last_commit: Option<Instant>,
    paused: bool,
    last_poll: Option<Instant>,
    has_joined: bool,
    is_connected: bool,
    reports: Vec<Report>,
}

struct UnderWay {
    scored: ScoredBatch,
    letters: Vec<Letter>,
    n_sent: usize,
    n_unreported: usize,
    first_sent: Option<Instant>,
}

/// The form in which a record goes out.
#[derive(Debug, Clone)]
struct Letter {
    form: Form,
    carries_timestamp: bool,
}

#[derive(Debug, Clone)]
enum Form {
    Score,
    Dead { refusal: Refusal, body: Body },
}

/// What of the original a dead letter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Whole,
    WithoutText,
    /// Nothing but our own headers, when even key and headers were too large.
    Bare,
}

struct Transaction {
    began: Instant,
    n_messages: usize,
    is_closing: bool,
}

/// How far from our clock timestamps were that the broker refused, in milliseconds. A sender whose clock is wrong stays wrong: what is known to
/// be refused goes out with our time at once, or every batch would be refused first.
#[derive(Debug, Clone, Copy, Default)]
struct RefusedTimes {
    ahead: Option<i64>,
    behind: Option<i64>,
}

impl RefusedTimes {
    fn note(&mut self, timestamp: i64) {
        let ahead = timestamp - milliseconds_since_1970();
        let (limit, distance) = if ahead > 0 { (&mut self.ahead, ahead) } else { (&mut self.behind, -ahead) };
        *limit = Some(limit.map_or(distance, |known| known.min(distance)));
    }

    fn holds(self, timestamp: i64) -> bool {
        let ahead = timestamp - milliseconds_since_1970();
        // A record that waits comes closer to our clock.
        self.ahead.is_some_and(|limit| ahead >= limit - 60_000) || self.behind.is_some_and(|limit| -ahead >= limit)
    }
}

/// An error report about a record that is still ours.
#[derive(Debug, Clone, Copy)]
struct Setback {
    ticket: usize,
    code: RDKafkaErrorCode,
    /// No other record was under way: the error is about this one.
    was_alone: bool,
    /// It can only be the record's time.
    names_time: bool,
}

/// How to send a record again whose transaction was refused because of it, or maybe because of it.
#[derive(Debug, Clone, Copy, Default)]
struct Care {
    too_large: usize,
    has_bad_timestamp: bool,
}

/// What an error in a delivery report asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// The record, or one that travelled with it, must go out in another form.
    StepDown,
    /// Some record of its batch is not valid; only what is said of it alone tells why.
    TryAlone,
    SendAgain,
    Stop,
}

fn remedy(code: RDKafkaErrorCode) -> Remedy {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge | Code::InvalidTimestamp => Remedy::StepDown,
        Code::InvalidRecord | Code::InvalidDifferentRecord => Remedy::TryAlone,
        // librdkafka retries these without end; they come up only when the user gave it an end.
        Code::MessageTimedOut
        | Code::RequestTimedOut
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::NetworkException
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ThrottlingQuotaExceeded => Remedy::SendAgain,
        _ => Remedy::Stop,
    }
}

/// Sequence and index of a record in one number, which travels through librdkafka and comes back in its report.
const INDEX_BITS: u32 = 20;
const _: () = assert!(usize::BITS == 64, "a ticket needs 64 bits");

fn ticket(sequence: u64, index: usize) -> usize {
    (sequence as usize) << INDEX_BITS | index
}

fn place(ticket: usize) -> (u64, usize) {
    ((ticket >> INDEX_BITS) as u64, ticket & ((1 << INDEX_BITS) - 1))
}

impl Letter {
    fn new(outcome: &Outcome, dead_letter_text: bool) -> Letter {
        let form = match outcome {
            Outcome::Score(_) => Form::Score,
            Outcome::Refused(refusal) => Form::Dead { refusal: refusal.clone(), body: first_body(dead_letter_text) },
        };
        Letter { form, carries_timestamp: true }
    }

    /// The form that a record has reached after refusals in earlier transactions.
    fn again(outcome: &Outcome, care: Care, dead_letter_text: bool) -> Letter {
        let mut letter = Letter::new(outcome, dead_letter_text);
        for _ in 0..care.too_large {
            letter.step_down(RDKafkaErrorCode::MessageSizeTooLarge, dead_letter_text);
        }
        letter.carries_timestamp = !care.has_bad_timestamp;
        letter
    }

    fn is_dead(&self) -> bool {
        matches!(self.form, Form::Dead { .. })
    }

    /// Changes to the next form that may be accepted. Returns `false` when there is none.
    fn step_down(&mut self, code: RDKafkaErrorCode, dead_letter_text: bool) -> bool {
        if code == RDKafkaErrorCode::InvalidTimestamp {
            return std::mem::take(&mut self.carries_timestamp);
        }
        match &mut self.form {
            Form::Score => {
                let detail = "the score record with key and headers is larger than the output topic allows".to_owned();
                let refusal = Refusal { reason: DeadReason::OutputTooLarge, detail };
                self.form = Form::Dead { refusal, body: first_body(dead_letter_text) };
            }
            Form::Dead { body: Body::Bare, .. } => return false,
            Form::Dead { refusal, body } => {
                if *body == Body::Whole {
                    refusal.detail.push_str("; the original is larger than the dead-letter topic allows");
                }
                *body = if *body == Body::Whole { Body::WithoutText } else { Body::Bare };
            }
        }
        true
    }
}

fn first_body(dead_letter_text: bool) -> Body {
    if dead_letter_text { Body::Whole } else { Body::WithoutText }
}

impl Pipeline {
    /// Makes clients and threads. Waits for no broker.
    pub fn new(
        settings: &Settings,
        models: ModelHandle,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Result<Pipeline, StreamError> {
        let consumer = Consumer::new(settings, &metrics)?;
        let producer = Producer::new(settings, &metrics)?;
        for reason in DeadReason::ALL {
            metrics.dead_letters.with_label_values(&[reason.as_str()]);
        }
        let model = models.current();
        metrics.set_model(model.version(), model.sha256());
        let topic = settings.kafka.input_topic.clone();
        let scoring = Scoring { topic, input: settings.input.clone(), models, metrics: metrics.clone() };
        let workers = Workers::start(settings.pipeline.workers, &scoring)?;
        let settings = settings.clone();
        Ok(Pipeline { settings, metrics, shutdown, consumer, producer, workers, state: State::default() })
    }

    /// Runs until a shutdown is asked for, then drains, commits and leaves the group.
    pub fn run(mut self) -> Result<(), StreamError> {
        let result = self.run_and_drain();
        self.metrics.ready.set(0);
        if let Err(error) = &result {
            self.metrics.kafka_errors.with_label_values(&["fatal"]).inc();
            debug!(%error, "stream stops");
            // What is still in the queues must not go out after the error was told; what went out need not go out again.
            self.producer.purge();
            if matches!(error, StreamError::Produce { .. }) && !is_transactional(&self.settings) {
                self.commit_and_wait().unwrap_or_else(|error| debug!(%error, "last commit failed"));
            }
        }
        let Pipeline { consumer, workers, producer, .. } = self;
        consumer.close(CLOSE_TIMEOUT);
        drop((workers, producer));
        result
    }

    fn run_and_drain(&mut self) -> Result<(), StreamError> {
        let Some(topics) = self.connect()? else { return Ok(()) };
        if is_transactional(&self.settings) {
            let shutdown = self.shutdown.clone();
            match self.producer.init_transactions(|| shutdown.is_requested()) {
                Err(TransactionError::GivenUp) => return Ok(()),
                other => other.map_err(lost_producer)?,
            }
        }
        self.metrics.started_at.set(seconds_since_1970());
        self.consumer.subscribe()?;
        let kafka = &self.settings.kafka;
        info!(
            input = kafka.input_topic,
            output = kafka.output_topic,
            partitions = topics.input.n_partitions,
            group = kafka.group,
            "stream started"
        );
        while !self.shutdown.is_requested() {
            self.take(&topics)?;
            self.rebalance(&topics)?;
            self.step(&topics)?;
        }
        self.metrics.ready.set(0);
        let is_drained = self.drain(&topics, |state| state.n_messages == 0)?;
        if !is_drained && is_transactional(&self.settings) {
            self.abort_transaction()?;
        }
        self.commit_before_leaving(&topics)?;
        let n_left = self.state.n_messages;
        if n_left > 0 {
            warn!(n_left, "drain took too long; what is left is read again after the next start");
            self.producer.purge();
        } else {
            info!("stream drained and stopped");
        }
        Ok(())
    }

    /// Waits for the topics. `None` when a shutdown came first.
    fn connect(&self) -> Result<Option<Topics>, StreamError> {
        loop {
            match topics::ensure(&self.settings.kafka, Duration::from_secs(5)) {
                Ok(topics) => return Ok(Some(topics)),
                Err(StreamError::Topics(error @ (TopicError::NoBroker { .. } | TopicError::Broken { .. }))) => {
                    self.metrics.kafka_errors.with_label_values(&["retriable"]).inc();
                    warn!(%error, hint = error.hint(), "not connected, trying again");
                }
                Err(error) => return Err(error),
            }
            if self.shutdown.wait_timeout(Duration::from_secs(1)) {
                return Ok(None);
            }
        }
    }

    // ---- taking ----

    fn take(&mut self, topics: &Topics) -> Result<(), StreamError> {
        let limits = &self.settings.pipeline;
        let state = &mut self.state;
        let is_full = state.n_messages >= limits.max_in_flight.max(1) || state.n_bytes >= limits.max_in_flight_bytes;
        let has_room = state.n_messages <= limits.max_in_flight / 2 && state.n_bytes <= limits.max_in_flight_bytes / 2;
        if state.paused && has_room {
            state.paused = false;
            self.pause_or_resume(false);
        } else if is_full && !self.state.paused {
            if self.state.last_poll.is_some_and(|at| at.elapsed() < PAUSE_AFTER) {
                return self.hear_scored(topics, Duration::from_millis(1));
            }
            self.state.paused = true;
            self.pause_or_resume(true);
        }
        let is_idle = self.state.n_messages == 0;
        let mut timeout = Duration::from_millis(if is_idle { 50 } else { 1 });
        for _ in 0..TAKE_AT_ONCE {
            self.state.last_poll = Some(Instant::now());
            let Some(record) = self.consumer.poll(timeout)? else { break };
            timeout = Duration::ZERO;
            let (partition, offset) = (record.partition(), record.offset());
            if self.state.unproven.contains(&partition) {
                let start = proven_start(&self.consumer, partition, offset);
                if start.is_some() {
                    self.state.unproven.remove(&partition);
                }
                if start != Some(offset) {
                    drop(record);
                    self.consumer.seek(&BTreeMap::from([(partition, start.unwrap_or(offset))]))?;
                    break;
                }
            }
            let state = &mut self.state;
            // Of a partition that is not ours any more, or read twice by a rewind: somebody has it.
            let Some(position) = state.watermarks.take(partition, offset) else { continue };
            let n_bytes = state.filling.push(position, &record);
            drop(record);
            state.n_messages += 1;
            state.n_bytes += n_bytes;
            state.filling_since.get_or_insert_with(Instant::now);
            self.metrics.messages_consumed.inc();
            let limits = &self.settings.pipeline;
            let is_full =
                state.n_messages >= limits.max_in_flight.max(1) || state.n_bytes >= limits.max_in_flight_bytes;
            if state.filling.messages.len() >= batch_limit(&self.settings) || state.filling.n_bytes >= BATCH_BYTES {
                self.hand_over();
            }
            if is_full {
                break;
            }
        }
        let waited = self
            .state
            .filling_since
            .is_some_and(|since| since.elapsed() >= Duration::from_millis(self.settings.pipeline.batch_wait_ms));
        // While nobody scores, waiting for company would only cost time.
        if waited || self.state.n_scoring == 0 {
            self.hand_over();
        }
        Ok(())
    }

    fn pause_or_resume(&self, pause: bool) {
        let partitions: Vec<i32> = self.state.watermarks.partitions().collect();
        let result = if pause { self.consumer.pause(&partitions) } else { self.consumer.resume(&partitions) };
        debug!(pause, in_flight = self.state.n_messages, in_flight_bytes = self.state.n_bytes, "fetching changed");
        if let Err(error) = result {
            warn!(%error, pause, "could not pause or resume partitions");
        }
    }

    fn hand_over(&mut self) {
        let state = &mut self.state;
        state.filling_since = None;
        if state.filling.messages.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut state.filling);
        batch.sequence = state.next_sequence;
        state.next_sequence += 1;
        state.n_scoring += 1;
        self.metrics.batch_messages.observe(batch.messages.len() as f64);
        self.workers.score(batch);
    }

    // ---- everything after taking; never polls the consumer ----

    fn step(&mut self, topics: &Topics) -> Result<(), StreamError> {
        self.hear_scored(topics, Duration::ZERO)?;
        self.hear_reports()?;
        if let Some(code) = self.state.lost_transaction {
            warn!(error = %code, "transaction aborted, its records are read again");
            self.abort_transaction()?;
        }
        self.send(topics)?;
        self.commit()?;
        self.watch()
    }

    fn hear_scored(&mut self, topics: &Topics, timeout: Duration) -> Result<(), StreamError> {
        let mut timeout = timeout;
        while let Some(scored) = self.workers.receive(timeout).map_err(|_| StreamError::WorkersGone)? {
            timeout = Duration::ZERO;
            let state = &mut self.state;
            state.n_scoring -= 1;
            let text = self.settings.input.dead_letter_text;
            let letters = scored.outcomes.iter().map(|outcome| Letter::new(outcome, text)).collect();
            let sequence = scored.batch.sequence;
            let under_way = UnderWay { scored, letters, n_sent: 0, n_unreported: 0, first_sent: None };
            state.under_way.insert(sequence, under_way);
            self.send(topics)?;
        }
        Ok(())
    }

    /// Sends what is scored, in order, as far as the client's queue and the transaction let it.
    fn send(&mut self, topics: &Topics) -> Result<(), StreamError> {
        if !self.state.suspects.is_empty() {
            return self.send_suspect(topics);
        }
        loop {
            let sequence = self.state.cursor;
            let Some(under_way) = self.state.under_way.get(&sequence) else { return Ok(()) };
            let index = under_way.n_sent;
            let Some(message) = under_way.scored.batch.messages.get(index) else {
                self.state.cursor += 1;
                self.finish(sequence);
                continue;
            };
            // A partition that was lost is somebody else's now; one that was rewound comes again.
            if self.state.watermarks.is_current(message.position) {
                let key = (message.position.partition, message.position.offset);
                let is_suspect = self.care(key, message.timestamp).is_some();
                if is_transactional(&self.settings) && !self.enter_transaction(key)? {
                    return Ok(());
                }
                let ticket = ticket(sequence, index);
                if !self.send_one(topics, ticket)? {
                    return Ok(());
                }
                if is_suspect {
                    self.state.alone = Some(ticket);
                }
            }
            if let Some(under_way) = self.state.under_way.get_mut(&sequence) {
                under_way.n_sent += 1;
            }
        }
    }

    /// Sends one record in its present form. Returns `false` when the client's queue is full.
    fn send_one(&mut self, topics: &Topics, ticket: usize) -> Result<bool, StreamError> {
        let (sequence, index) = place(ticket);
        let Some(under_way) = self.state.under_way.get_mut(&sequence) else { return Ok(true) };
        let timestamp = under_way.scored.batch.messages[index].timestamp;
        if timestamp.is_some_and(|timestamp| self.state.refused_times.holds(timestamp)) {
            under_way.letters[index].carries_timestamp = false;
        }
        loop {
            let letter = &under_way.letters[index];
            let result = self.producer.send(outgoing(&self.settings, topics, &under_way.scored, letter, index, ticket));
            match result {
                Ok(()) => break,
                Err(RDKafkaErrorCode::QueueFull) => return Ok(false),
                // The transaction failed a moment ago, for a reason that its reports tell: nothing more goes into it.
                Err(code @ RDKafkaErrorCode::State) if self.producer.fatal_error().is_none() => {
                    self.state.lost_transaction.get_or_insert(code);
                    return Ok(false);
                }
                // Larger than the client's own limit: the record's own fault for sure.
                Err(code) if remedy(code) == Remedy::StepDown => {
                    let is_dead = letter.is_dead();
                    if !under_way.letters[index].step_down(code, self.settings.input.dead_letter_text) {
                        return Err(produce_error(&self.settings, is_dead, code));
                    }
                }
                Err(code) => {
                    let is_dead = letter.is_dead();
                    return Err(stopped_by(&self.settings, &self.producer, is_dead, code));
                }
            }
        }
        under_way.first_sent.get_or_insert_with(Instant::now);
        under_way.n_unreported += 1;
        self.state.n_unreported += 1;
        Ok(true)
    }

    /// A broker refuses a whole batch for one record that is too large or not valid. Each that may be the one is tried alone, with nothing else
    /// under way; those that are known to be innocent, or at fault for a time that goes out corrected, travel together.
    fn send_suspect(&mut self, topics: &Topics) -> Result<(), StreamError> {
        while self.state.alone.is_none()
            && let Some((&ticket, &code)) = self.state.suspects.first_key_value()
        {
            let (sequence, index) = place(ticket);
            let Some(under_way) = self.state.under_way.get(&sequence) else { return Ok(()) };
            let message = &under_way.scored.batch.messages[index];
            if !self.state.watermarks.is_current(message.position) {
                self.state.suspects.remove(&ticket);
                self.finish(sequence);
                continue;
            }
            let is_refused_time = message.timestamp.is_some_and(|time| self.state.refused_times.holds(time));
            let is_cleared = code == RDKafkaErrorCode::InvalidDifferentRecord
                || (is_refused_time && under_way.letters[index].carries_timestamp);
            let must_wait = !is_cleared && self.state.n_unreported > 0;
            if must_wait || !self.send_one(topics, ticket)? {
                return Ok(());
            }
            self.state.suspects.remove(&ticket);
            self.state.alone = (!is_cleared).then_some(ticket);
        }
        Ok(())
    }

    fn hear_reports(&mut self) -> Result<(), StreamError> {
        let mut reports = std::mem::take(&mut self.state.reports);
        self.producer.take_reports(&mut reports);
        if !reports.is_empty() || self.state.n_unreported == 0 {
            self.state.last_report = Some(Instant::now());
        }
        for report in reports.drain(..) {
            self.hear_report(report)?;
        }
        self.state.reports = reports;
        Ok(())
    }

    fn hear_report(&mut self, report: Report) -> Result<(), StreamError> {
        let (sequence, index) = place(report.ticket);
        self.state.n_unreported -= 1;
        let was_alone = self.state.alone.take_if(|ticket| *ticket == report.ticket).is_some();
        let Some(under_way) = self.state.under_way.get_mut(&sequence) else { return Ok(()) };
        under_way.n_unreported -= 1;
        let message = &under_way.scored.batch.messages[index];
        let (position, timestamp) = (message.position, message.timestamp);
        match report.result {
            Ok(()) => {
                self.state.watermarks.deliver(position);
                match &under_way.letters[index].form {
                    Form::Score => self.metrics.scores_published.inc(),
                    Form::Dead { refusal, .. } => {
                        self.metrics.dead_letters.with_label_values(&[refusal.reason.as_str()]).inc();
                    }
                }
                if let Some(timestamp) = timestamp {
                    let now = seconds_since_1970() - report.at.elapsed().as_secs_f64();
                    self.metrics.end_to_end_seconds.observe((now - timestamp as f64 / 1000.0).max(0.0));
                }
            }
            Err(code) if self.state.watermarks.is_current(position) => {
                let names_time = self.note_refused_time(report.ticket, code, was_alone);
                let setback = Setback { ticket: report.ticket, code, was_alone, names_time };
                return match is_transactional(&self.settings) {
                    true => self.give_up_transaction(setback),
                    false => self.mend(setback),
                };
            }
            // Aborted or given up: comes again, here or elsewhere.
            Err(_) => {}
        }
        self.finish(sequence);
        Ok(())
    }

    /// Notes the record's time when an error report blames it. Returns whether the report says so of this very record and of nothing else.
    fn note_refused_time(&mut self, ticket: usize, code: RDKafkaErrorCode, was_alone: bool) -> bool {
        let (sequence, index) = place(ticket);
        let Some(under_way) = self.state.under_way.get(&sequence) else { return false };
        let timestamp = under_way.scored.batch.messages[index].timestamp;
        let Some(timestamp) = timestamp.filter(|_| under_way.letters[index].carries_timestamp) else { return false };
        // Of several records at fault in one batch brokers say only that they are not valid. Of those that can be changed it is the time.
        let is_named = code == RDKafkaErrorCode::InvalidRecord;
        // Said of a whole batch it may be another's time.
        if is_named || (was_alone && code == RDKafkaErrorCode::InvalidTimestamp) {
            self.state.refused_times.note(timestamp);
        }
        is_named
    }

    /// In a transaction nothing can be sent again: it is given up as a whole, and what this record needs is remembered for the next try.
    fn give_up_transaction(&mut self, setback: Setback) -> Result<(), StreamError> {
        let Setback { ticket, code, was_alone, names_time } = setback;
        let remedy = remedy(code);
        let (sequence, index) = place(ticket);
        let Some(under_way) = self.state.under_way.get_mut(&sequence) else { return Ok(()) };
        let letter = &mut under_way.letters[index];
        let is_dead = letter.is_dead();
        self.state.lost_transaction.get_or_insert(code);
        self.state.has_gap |= matches!(remedy, Remedy::StepDown | Remedy::TryAlone);
        let was_purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        let is_suspect = !names_time && (remedy == Remedy::StepDown || code == RDKafkaErrorCode::InvalidRecord);
        let is_hopeless = is_suspect && was_alone && remedy == Remedy::TryAlone;
        if is_hopeless || (remedy == Remedy::Stop && !was_purged) {
            return Err(stopped_by(&self.settings, &self.producer, is_dead, code));
        }
        if is_suspect {
            let position = under_way.scored.batch.messages[index].position;
            let care = self.state.careful.entry((position.partition, position.offset)).or_default();
            if was_alone {
                match code {
                    RDKafkaErrorCode::InvalidTimestamp => care.has_bad_timestamp = true,
                    _ => care.too_large += 1,
                }
                if !letter.step_down(code, self.settings.input.dead_letter_text) {
                    return Err(produce_error(&self.settings, is_dead, code));
                }
            }
        }
        Ok(())
    }

    /// Outside a transaction the record is sent again, in another form when its own was refused.
    fn mend(&mut self, setback: Setback) -> Result<(), StreamError> {
        let Setback { ticket, code, was_alone, names_time } = setback;
        let (sequence, index) = place(ticket);
        let Some(under_way) = self.state.under_way.get_mut(&sequence) else { return Ok(()) };
        let letter = &mut under_way.letters[index];
        let is_dead = letter.is_dead();
        if names_time {
            letter.carries_timestamp = false;
            self.consumer.report_retriable(code, "records with refused times are sent again with ours");
            self.state.suspects.insert(ticket, RDKafkaErrorCode::InvalidDifferentRecord);
            return Ok(());
        }
        match remedy(code) {
            Remedy::Stop => return Err(stopped_by(&self.settings, &self.producer, is_dead, code)),
            Remedy::TryAlone if was_alone => return Err(stopped_by(&self.settings, &self.producer, is_dead, code)),
            Remedy::StepDown if was_alone => {
                if !letter.step_down(code, self.settings.input.dead_letter_text) {
                    return Err(produce_error(&self.settings, is_dead, code));
                }
            }
            Remedy::StepDown => {
                self.consumer.report_retriable(code, "is batch.size larger than the topic's max.message.bytes?");
            }
            Remedy::TryAlone => self.consumer.report_retriable(code, "records are sent again one by one"),
            Remedy::SendAgain => self.consumer.report_retriable(code, "a record was not delivered"),
        }
        self.state.suspects.insert(ticket, code);
        Ok(())
    }

    /// Forgets a batch of which everything is sent and reported.
    fn finish(&mut self, sequence: u64) {
        let state = &mut self.state;
        let Some(under_way) = state.under_way.get(&sequence) else { return };
        let n_messages = under_way.scored.batch.messages.len();
        let is_open = sequence >= state.cursor || under_way.n_sent < n_messages || under_way.n_unreported > 0;
        if is_open || state.suspects.range(ticket(sequence, 0)..ticket(sequence + 1, 0)).next().is_some() {
            return;
        }
        state.n_messages -= n_messages;
        state.n_bytes -= under_way.scored.batch.n_bytes;
        let first_sent = under_way.first_sent;
        state.under_way.remove(&sequence);
        if let Some(first_sent) = first_sent {
            self.observe(Stage::Produce, first_sent);
        }
    }

    // ---- committing ----

    fn commit(&mut self) -> Result<(), StreamError> {
        let interval = Duration::from_millis(self.settings.pipeline.commit_interval_ms);
        if is_transactional(&self.settings) {
            let Some(open) = &mut self.state.transaction else { return Ok(()) };
            open.is_closing |= open.n_messages >= self.settings.pipeline.transaction_messages.max(1)
                || open.began.elapsed() >= interval;
            return if open.is_closing && self.state.n_unreported == 0 { self.commit_transaction() } else { Ok(()) };
        }
        self.hear_commit(Duration::ZERO);
        if self.state.last_commit.is_some_and(|at| at.elapsed() < interval) {
            return Ok(());
        }
        let positions = if self.state.is_committing { Vec::new() } else { self.state.watermarks.committable() };
        if !positions.is_empty() {
            self.state.last_commit = Some(Instant::now());
            self.state.is_committing = true;
            self.consumer.commit(positions);
        }
        Ok(())
    }

    /// Notes the answer to the commit that was asked for, if it comes within `timeout`. One commit at a time: none can overtake another.
    fn hear_commit(&mut self, timeout: Duration) {
        if !self.state.is_committing {
            return;
        }
        let Some(committed) = self.consumer.committed(timeout) else { return };
        self.state.is_committing = false;
        self.observe(Stage::Commit, committed.asked);
        committed.confirmed.into_iter().for_each(|position| self.state.watermarks.confirm(position));
        if let Some(code) = committed.error {
            self.consumer.report_retriable(code, "offsets were not committed");
        }
    }

    /// Commits all that is delivered and waits for the answer. At least once: when none comes, that is only told, and repeats follow.
    fn commit_and_wait(&mut self) -> Result<(), StreamError> {
        if is_transactional(&self.settings) {
            return if self.state.transaction.is_some() { self.commit_transaction() } else { Ok(()) };
        }
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        // First the answer to an earlier commit, then to ours.
        self.hear_commit(COMMIT_TIMEOUT);
        let positions = self.state.watermarks.committable();
        if !positions.is_empty() && !self.state.is_committing {
            self.state.is_committing = true;
            self.consumer.commit(positions);
            self.hear_commit(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// The last commit. While a group rebalances its coordinator takes commits only from members that have joined again, and joining needs
    /// polling: a stop just when another instance starts or stops must not repeat anything.
    fn commit_before_leaving(&mut self, topics: &Topics) -> Result<(), StreamError> {
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        self.commit_and_wait()?;
        while !is_transactional(&self.settings) && !self.state.watermarks.committable().is_empty() {
            if Instant::now() >= deadline {
                warn!("offsets were not committed; some records will be scored again");
                break;
            }
            // A record that comes is not taken, and stays uncommitted for whoever reads next.
            drop(self.consumer.poll(Duration::from_millis(20))?);
            self.rebalance(topics)?;
            self.commit_and_wait()?;
        }
        Ok(())
    }

    fn observe(&self, stage: Stage, since: Instant) {
        self.metrics.stage_seconds.with_label_values(&[stage.as_str()]).observe(since.elapsed().as_secs_f64());
    }

    // ---- transactions ----

    /// How a record has to be sent that was refused in an earlier transaction.
    fn care(&self, key: (i32, i64), timestamp: Option<i64>) -> Option<Care> {
        let care = self.state.careful.get(&key)?;
        // One whose time was refused needs no care once we know such times: it goes out with ours.
        let is_refused_time = timestamp.is_some_and(|time| self.state.refused_times.holds(time));
        (care.too_large > 0 || !is_refused_time).then_some(*care)
    }

    /// Begins a transaction if none is open. Returns `false` when the next record has to wait for this one to be committed, or for a report.
    fn enter_transaction(&mut self, key: (i32, i64)) -> Result<bool, StreamError> {
        let Some(under_way) = self.state.under_way.get(&self.state.cursor) else { return Ok(false) };
        let index = under_way.n_sent;
        let care = self.care(key, under_way.scored.batch.messages[index].timestamp);
        // A suspect travels with nothing else under way, so that the next refusal is about itself.
        if self.state.alone.is_some() || (care.is_some() && self.state.n_unreported > 0) {
            return Ok(false);
        }
        match &self.state.transaction {
            Some(open) if open.is_closing => return Ok(false),
            Some(_) => {}
            None => {
                self.producer.begin_transaction().map_err(lost_producer)?;
                let open = Transaction { began: Instant::now(), n_messages: 0, is_closing: false };
                self.state.transaction = Some(open);
            }
        }
        if let (Some(care), Some(under_way)) = (care, self.state.under_way.get_mut(&self.state.cursor)) {
            let outcome = &under_way.scored.outcomes[index];
            under_way.letters[index] = Letter::again(outcome, care, self.settings.input.dead_letter_text);
        }
        if let Some(open) = &mut self.state.transaction {
            open.n_messages += 1;
        }
        Ok(true)
    }

    fn commit_transaction(&mut self) -> Result<(), StreamError> {
        let positions = self.state.watermarks.committable();
        let began = Instant::now();
        let offsets = offsets_of(&self.settings.kafka.input_topic, &positions);
        let give_up = self.give_up();
        let group = self.consumer.group_metadata();
        match self.producer.commit_transaction(&offsets, &group, give_up) {
            Ok(()) => {
                self.observe(Stage::Commit, began);
                for position in positions {
                    self.state
                        .careful
                        .retain(|&(partition, offset), _| partition != position.partition || offset >= position.offset);
                    self.state.watermarks.confirm(position);
                }
                self.state.transaction = None;
                Ok(())
            }
            Err(TransactionError::Abortable(code)) => {
                warn!(error = %code, "transaction aborted, its records are read again");
                self.abort_transaction()
            }
            Err(error) => Err(lost_producer(error)),
        }
    }

    /// Takes back the open transaction and reads its records again.
    fn abort_transaction(&mut self) -> Result<(), StreamError> {
        if self.state.transaction.is_some() {
            self.producer.abort_transaction(self.give_up()).map_err(lost_producer)?;
            // By now all is reported: what was refused is known before it is read again.
            self.hear_reports()?;
            self.state.transaction = None;
        }
        self.state.lost_transaction = None;
        self.state.alone = None;
        if std::mem::take(&mut self.state.has_gap) {
            // A refused batch leaves a gap in librdkafka's numbering, which fails the next transaction too and makes its abort wait 10 s.
            let renewed = Producer::new(&self.settings, &self.metrics)?;
            renewed.init_transactions(self.give_up()).map_err(lost_producer)?;
            std::mem::replace(&mut self.producer, renewed).close();
        }
        self.state.filling_since = None;
        let forgotten = std::mem::take(&mut self.state.filling);
        self.state.n_messages -= forgotten.messages.len();
        self.state.n_bytes -= forgotten.n_bytes;
        let partitions: Vec<i32> = self.state.watermarks.partitions().collect();
        let mut offsets = BTreeMap::new();
        for partition in partitions {
            if let Some(offset) = self.state.watermarks.rewind(partition) {
                offsets.insert(partition, offset);
            }
        }
        // Nothing more is waited for of what was sent and refused.
        let sequences: Vec<u64> = self.state.under_way.keys().copied().collect();
        sequences.into_iter().for_each(|sequence| self.finish(sequence));
        self.consumer.seek(&offsets)
    }

    /// Transactional calls are repeated while the broker is away, but not for ever once we want to stop.
    fn give_up(&self) -> impl Fn() -> bool + use<> {
        let shutdown = self.shutdown.clone();
        let deadline = Duration::from_millis(self.settings.pipeline.drain_timeout_ms);
        let began = Instant::now();
        move || shutdown.is_requested() && began.elapsed() >= deadline
    }

    // ---- rebalances ----

    fn rebalance(&mut self, topics: &Topics) -> Result<(), StreamError> {
        while let Some(rebalance) = self.consumer.next_rebalance() {
            match &rebalance {
                Rebalance::Assign(partitions) => {
                    partitions.iter().for_each(|&partition| self.state.watermarks.assign(partition));
                    if is_transactional(&self.settings) {
                        self.state.unproven.extend(partitions);
                    }
                    self.consumer.answer(&rebalance)?;
                    if self.state.paused {
                        self.pause_or_resume(true);
                    }
                    self.state.has_joined = true;
                    self.state.is_connected = true;
                    let gained = self.metrics.rebalanced_partitions.with_label_values(&["gained"]);
                    gained.inc_by(partitions.len() as u64);
                    info!(?partitions, "partitions gained");
                }
                Rebalance::Revoke(partitions) => {
                    let is_lost = self.consumer.is_assignment_lost();
                    let given_back = self.give_back(topics, partitions, is_lost);
                    // Answered in any case: closing waits for the answer.
                    self.consumer.answer(&rebalance)?;
                    given_back?;
                    let lost = self.metrics.rebalanced_partitions.with_label_values(&["lost"]);
                    lost.inc_by(partitions.len() as u64);
                    info!(?partitions, is_lost, "partitions given back");
                }
            }
        }
        Ok(())
    }

    /// Finishes what was taken from partitions that leave, so that who gets them repeats nothing; drops it when they are gone already.
    fn give_back(&mut self, topics: &Topics, partitions: &[i32], is_lost: bool) -> Result<(), StreamError> {
        let is_drained = !is_lost && self.drain(topics, |state| is_drained(state, partitions))?;
        if !is_lost && !is_drained {
            warn!(?partitions, "drain took too long; some records will be scored again");
        }
        if is_transactional(&self.settings) {
            // The transaction carries other partitions' offsets too. Aborting needs their rewind, committing needs nothing.
            let is_complete = is_drained && self.drain(topics, |state| state.transaction.is_none())?;
            partitions.iter().for_each(|&partition| self.forget(partition));
            let is_torn = !is_complete && self.state.transaction.is_some();
            return if is_torn { self.abort_transaction() } else { Ok(()) };
        }
        if !is_lost {
            let deadline = Instant::now() + COMMIT_TIMEOUT;
            let is_leaving = |position: &Position| partitions.contains(&position.partition);
            self.commit_and_wait()?;
            while self.state.watermarks.committable().iter().any(is_leaving) {
                if Instant::now() >= deadline || self.consumer.is_assignment_lost() {
                    warn!(?partitions, "offsets were not committed; some records will be scored again");
                    break;
                }
                // A coordinator takes no commits until the other members, too, know what is theirs.
                std::thread::sleep(Duration::from_millis(10));
                self.commit_and_wait()?;
            }
        }
        partitions.iter().for_each(|&partition| self.forget(partition));
        Ok(())
    }

    fn forget(&mut self, partition: i32) {
        self.state.watermarks.revoke(partition);
        self.state.unproven.remove(&partition);
        self.state.careful.retain(|&(careful, _), _| careful != partition);
        let topic = &self.settings.kafka.input_topic;
        // It is an error only when the lag was never known.
        let _ = self.metrics.consumer_lag.remove_label_values(&[topic, &partition.to_string()]);
    }

    /// Works on without taking, until `is_done` or the drain timeout. Returns whether it is done.
    fn drain(&mut self, topics: &Topics, is_done: impl Fn(&State) -> bool) -> Result<bool, StreamError> {
        let deadline = Instant::now() + Duration::from_millis(self.settings.pipeline.drain_timeout_ms);
        self.hand_over();
        while !is_done(&self.state) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            if let Some(open) = &mut self.state.transaction {
                open.is_closing |= self.state.n_scoring == 0 && self.state.cursor == self.state.next_sequence;
            }
            self.hear_scored(topics, Duration::from_millis(1))?;
            self.step(topics)?;
        }
        Ok(true)
    }

    // ---- watching ----

    fn watch(&mut self) -> Result<(), StreamError> {
        self.metrics.in_flight.set(i64::try_from(self.state.n_messages).unwrap_or(i64::MAX));
        let is_ready = self.state.has_joined && self.state.is_connected && !self.shutdown.is_requested();
        self.metrics.ready.set(i64::from(is_ready));
        let silence = self.state.last_report.map_or(Duration::ZERO, |at| at.elapsed());
        if is_transactional(&self.settings) && silence >= LOST_AFTER {
            let why = "nothing was reported for longer than a transaction may last".to_owned();
            return Err(StreamError::Producer { code: RDKafkaErrorCode::OperationTimedOut, why });
        }
        if silence >= SILENCE && self.state.last_look.is_none_or(|at| at.elapsed() >= SILENCE) {
            debug!(unreported = self.state.n_unreported, "no delivery report for a while, looking for brokers");
            self.producer.look_for_brokers();
            self.state.last_look = Some(Instant::now());
        }
        let Some(statistics) = self.consumer.take_statistics() else { return Ok(()) };
        self.state.is_connected = statistics.is_connected;
        let topic = &self.settings.kafka.input_topic;
        let ours: BTreeSet<i32> = self.state.watermarks.partitions().collect();
        for reach in statistics.reaches.iter().filter(|reach| ours.contains(&reach.partition)) {
            let at_start = if reach.committed >= 0 { reach.committed } else { reach.low };
            let committed = self.state.watermarks.committed(reach.partition).unwrap_or(at_start);
            let lag = self.metrics.consumer_lag.with_label_values(&[topic, &reach.partition.to_string()]);
            lag.set((reach.high - committed).max(0));
        }
        match self.producer.fatal_error() {
            Some((code, why)) => Err(StreamError::Producer { code, why }),
            None => Ok(()),
        }
    }
}

fn is_drained(state: &State, partitions: &[i32]) -> bool {
    partitions.iter().all(|&partition| state.watermarks.is_drained(partition))
}

fn batch_limit(settings: &Settings) -> usize {
    settings.pipeline.batch_messages.clamp(1, 1 << INDEX_BITS)
}

/// Puts together what is sent of one record.
fn outgoing<'a>(
    settings: &'a Settings,
    topics: &Topics,
    scored: &'a ScoredBatch,
    letter: &Letter,
    index: usize,
    ticket: usize,
) -> Outgoing<'a> {
    let kafka = &settings.kafka;
    let message = &scored.batch.messages[index];
    let payload = scored.batch.payload(message);
    let (topic, n_partitions, payload, headers) = match (&letter.form, &scored.outcomes[index]) {
        (Form::Score, Outcome::Score(range)) => {
            let record = Some(Cow::Borrowed(&scored.records[range.clone()]));
            (&kafka.output_topic, topics.output.n_partitions, record, message.headers.clone())
        }
        (Form::Dead { refusal, body }, _) => {
            let original = message.headers.as_ref().filter(|_| *body != Body::Bare);
            let version = scored.model.version();
            let headers = dead_letter::headers(original, &kafka.input_topic, message, refusal, version);
            let payload = match body {
                Body::Whole => payload.map(Cow::Borrowed),
                Body::WithoutText | Body::Bare => payload.map(|bytes| Cow::Owned(dead_letter::without_text(bytes))),
            };
            (&kafka.dead_letter_topic, topics.dead_letter.n_partitions, payload, Some(headers))
        }
        (Form::Score, Outcome::Refused(_)) => unreachable!("a refused record starts as a dead letter and stays one"),
    };
    let is_bare = matches!(letter.form, Form::Dead { body: Body::Bare, .. });
    let key = scored.batch.key(message).filter(|_| !is_bare);
    // Without a key the partitioner would scatter them: order within an input partition is kept this way.
    let has_key = key.is_some_and(|key| !key.is_empty());
    let partition = (!has_key).then(|| message.position.partition % n_partitions.max(1));
    let timestamp = message.timestamp.filter(|_| letter.carries_timestamp);
    Outgoing { topic, partition, key, payload, headers, timestamp, ticket }
}

fn produce_error(settings: &Settings, is_dead: bool, code: RDKafkaErrorCode) -> StreamError {
    let kafka = &settings.kafka;
    let topic = if is_dead { kafka.dead_letter_topic.clone() } else { kafka.output_topic.clone() };
    StreamError::Produce { topic, code }
}

/// Where a partition has to be read from whose first record is at `offset`: at the committed offset. `None` while that cannot be known.
///
/// When a rebalance comes while the transaction of a dead member still holds the committed offset, librdkafka 2.12 takes "not known yet" for
/// "none" and begins by `auto.offset.reset`: everything would be scored again, or left out.
fn proven_start(consumer: &Consumer, partition: i32, offset: i64) -> Option<i64> {
    let committed = consumer.committed_offset(partition, PROOF_TIMEOUT);
    if let Err(error) = &committed {
        debug!(%error, partition, "the committed offset is not known yet");
    }
    committed.ok().map(|committed| committed.unwrap_or(offset))
}

/// An error after which sending on would lose or reorder records: the client's own fatal error says more than the record's.
fn stopped_by(settings: &Settings, producer: &Producer, is_dead: bool, code: RDKafkaErrorCode) -> StreamError {
    match producer.fatal_error() {
        Some((code, why)) => StreamError::Producer { code, why },
        None => produce_error(settings, is_dead, code),
    }
}

fn lost_producer(error: TransactionError) -> StreamError {
    match error {
        TransactionError::Fatal(code, why) => StreamError::Producer { code, why },
        TransactionError::Abortable(code) => StreamError::Producer { code, why: code.to_string() },
        TransactionError::GivenUp => {
            let code = RDKafkaErrorCode::OperationTimedOut;
            StreamError::Producer { code, why: "no answer to a transaction before the drain timeout".to_owned() }
        }
    }
}

fn milliseconds_since_1970() -> i64 {
    (seconds_since_1970() * 1000.0) as i64
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
