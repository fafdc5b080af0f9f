//! `vigie replay`: dead letters that were chosen in, the same records on the input topic out, each once.
//!
//! What was replayed is remembered where offsets are: group `GROUP.replay` commits, for each partition of the dead-letter topic, the offset
//! below which all is replayed, and in the commit's metadata the ranges above it. That needs no topic of its own, shows as lag in any Kafka
//! tool, and with exactly-once delivery goes into the same transaction as the records. A header on a record would have to be searched for in
//! the whole input topic. Without transactions a crash between delivery and commit can replay up to [`CHUNK`] records again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

use super::Failure;
use super::screen::columns;
use crate::cli::ReplayArgs;
use crate::config::{Delivery, Environment, KafkaSettings, Settings, nearest};
use crate::stream::client::{Side, client_config};
use crate::stream::dead_letter::{
    DETAIL, MODEL, REASON, SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TIMESTAMP, SOURCE_TOPIC,
};
use crate::stream::message::DeadReason;
use crate::stream::topics::TopicClient;

/// Headers that the service puts on dead letters.
const OURS: [&str; 7] = [REASON, DETAIL, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, SOURCE_TIMESTAMP, MODEL];
/// Header of a replayed record: where its dead letter stands, `TOPIC/PARTITION/OFFSET`.
const REPLAYED: &str = "vigie-replayed";
/// Most records and bytes between two commits.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Brokers take 4096 bytes of metadata with an offset by default.
const MOST_METADATA: usize = 4000;

/// Which dead letters.
#[derive(Debug, Default)]
struct Selection {
    /// Empty: all.
    reasons: Vec<DeadReason>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Partition, first and last offset. Empty: all.
    offsets: Vec<(i32, i64, i64)>,
}

/// What happened to the dead letters, by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    replayed: u64,
    replayed_before: u64,
    /// Their text was kept out, so there is nothing to put back.
    without_text: u64,
}

pub fn run(args: &ReplayArgs, environment: &Environment) -> Result<(), Failure> {
    let settings = Settings::load(&args.flags(), environment)?;
    let selection = Selection::new(args)?;
    let mut replay = Replay::open(&settings.kafka, args.dry_run)?;
    let mut counts: BTreeMap<&'static str, Counts> = BTreeMap::new();
    let bar = bar(replay.n_dead_letters());
    let (mut chunk, mut n_bytes) = (Vec::new(), 0);
    while let Some(letter) = replay.next()? {
        bar.inc(1);
        let Some(reason) = selection.takes(&letter) else { continue };
        let counts = counts.entry(reason.as_str()).or_default();
        if replay.is_replayed(&letter) {
            counts.replayed_before += 1;
            continue;
        }
        if is_without_text(&letter, reason) {
            counts.without_text += 1;
            continue;
        }
        counts.replayed += 1;
        n_bytes += letter.payload().map_or(0, <[u8]>::len);
        chunk.push(letter);
        if chunk.len() == CHUNK || n_bytes >= CHUNK_BYTES {
            replay.put_back(&chunk)?;
            chunk.clear();
            n_bytes = 0;
        }
    }
    replay.put_back(&chunk)?;
    bar.finish_and_clear();
    report(&counts, args)
}

impl Selection {
    fn new(args: &ReplayArgs) -> Result<Selection, Failure> {
        Ok(Selection {
            reasons: args.reason.iter().map(|name| reason_of(name)).collect::<Result<_, _>>()?,
            since: args.since.as_deref().map(|text| time_of("--since", text)).transpose()?,
            until: args.until.as_deref().map(|text| time_of("--until", text)).transpose()?,
            offsets: args.offsets.iter().map(|text| range_of(text)).collect::<Result<_, _>>()?,
        })
    }

    /// The reason of a dead letter, if the letter is chosen.
    fn takes(&self, letter: &impl Message) -> Option<DeadReason> {
        // Where a replayed record failed again the last reason counts.
        let reason = letter.headers()?.iter().filter(|header| header.key == REASON).last()?.value?;
        let reason = DeadReason::from_name(std::str::from_utf8(reason).ok()?)?;
        let at = letter.timestamp().to_millis().and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let in_time = self.since.is_none_or(|since| at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at.is_some_and(|at| at < until));
        let (partition, offset) = (letter.partition(), letter.offset());
        let in_range = self.offsets.is_empty()
            || self.offsets.iter().any(|&(p, first, last)| p == partition && (first..=last).contains(&offset));
        let is_chosen = (self.reasons.is_empty() || self.reasons.contains(&reason)) && in_time && in_range;
        is_chosen.then_some(reason)
    }
}

fn reason_of(name: &str) -> Result<DeadReason, Failure> {
    let names = DeadReason::ALL.map(DeadReason::as_str);
    DeadReason::from_name(name).ok_or_else(|| {
        let hint = match nearest(name, names.map(str::to_owned)) {
            Some(nearest) => format!("did you mean \"{nearest}\"?"),
            None => format!("reasons are {}", names.join(", ")),
        };
        Failure::call(anyhow!("unknown reason \"{name}\"")).hint(hint)
    })
}

/// A moment: RFC 3339, a day in UTC, or how long ago.
fn time_of(flag: &str, text: &str) -> Result<Timestamp, Failure> {
    let day = |text: &str| text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let ago = |text: &str| {
        let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        now.checked_sub(text.parse::<jiff::Span>().ok()?).ok()
    };
    let moment = text.parse().ok().or_else(|| day(text).or_else(|| ago(text)).map(|zoned| zoned.timestamp()));
    moment.ok_or_else(|| {
        Failure::call(anyhow!("{flag} can't be read as a time: \"{text}\""))
            .hint("write 2026-11-22T10:00:00Z, 2026-11-22, or how long ago: 90m, 6h, 2d")
    })
}

fn range_of(text: &str) -> Result<(i32, i64, i64), Failure> {
    let parse = || {
        let (partition, range) = text.split_once(':')?;
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((partition.trim().parse().ok()?, first, last))
    };
    parse().ok_or_else(|| {
        Failure::call(anyhow!("--offsets can't be read: \"{text}\""))
            .hint("write PARTITION:FIRST-LAST, for example 0:100-250")
    })
}

/// Says whether the original is gone: kept out for privacy, or too large for the dead-letter topic.
fn is_without_text(letter: &impl Message, reason: DeadReason) -> bool {
    match letter.payload() {
        None => reason != DeadReason::Empty,
        Some(payload) => payload.starts_with(br#"{"schema":"vigie.dead/1""#),
    }
}

fn bar(n_dead_letters: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} dead letters read  {eta} left");
    ProgressBar::with_draw_target(Some(n_dead_letters), target).with_style(style.expect("the template is well formed"))
}

fn report(counts: &BTreeMap<&'static str, Counts>, args: &ReplayArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if args.json {
        let by_reason = |pick: fn(&Counts) -> u64| {
            counts.iter().map(|(reason, counts)| (*reason, pick(counts))).collect::<BTreeMap<_, _>>()
        };
        let data = json!({
            "dry_run": args.dry_run,
            "replayed": by_reason(|counts| counts.replayed),
            "replayed_before": by_reason(|counts| counts.replayed_before),
            "without_text": by_reason(|counts| counts.without_text),
        });
        writeln!(out, "{data}")?;
        return Ok(());
    }
    if counts.is_empty() {
        writeln!(out, "no dead letters of this kind")?;
        return Ok(());
    }
    let done = if args.dry_run { "to replay" } else { "replayed" };
    let mut rows = vec![["reason", done, "replayed before", "without text"].map(str::to_owned).to_vec()];
    for (reason, counts) in counts {
        let numbers = [counts.replayed, counts.replayed_before, counts.without_text].map(|n| n.to_string());
        rows.push(std::iter::once((*reason).to_owned()).chain(numbers).collect());
    }
    write!(out, "{}", columns(&rows))?;
    Ok(())
}

/// Counts what the broker did not take.
#[derive(Default)]
struct Refusals(AtomicU64);

impl ClientContext for Refusals {}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The dead-letter topic on one side, the input topic on the other.
struct Replay {
    dead_letter_topic: String,
    input_topic: String,
    consumer: BaseConsumer,
    producer: Option<ThreadedProducer<Refusals>>,
    is_transactional: bool,
    /// By partition: where the topic ended at the start, so that what fails again now is not read now, and whether that was reached.
    ends: Vec<(i64, bool)>,
    n_dead_letters: u64,
    memory: Vec<Memory>,
}

impl Replay {
    fn open(kafka: &KafkaSettings, is_dry: bool) -> Result<Replay, Failure> {
        let topics = TopicClient::new(kafka)?;
        let n_partitions = topics.describe(&kafka.dead_letter_topic, PATIENCE)?.n_partitions;
        topics.describe(&kafka.input_topic, PATIENCE)?;
        let is_transactional = kafka.delivery == Delivery::ExactlyOnce;
        let group = format!("{}.replay", kafka.group);
        let mut config = client_config(kafka, Side::Admin)?;
        config
            .set("group.id", &group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create().context("could not make a kafka client")?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(&kafka.dead_letter_topic, 0, n_partitions - 1);
        let committed = consumer
            .committed_offsets(partitions, PATIENCE)
            .with_context(|| format!("could not read the offsets of group \"{group}\""))?;
        let mut assigned = TopicPartitionList::new();
        let (mut ends, mut memory, mut n_dead_letters) = (Vec::new(), Vec::new(), 0);
        for partition in committed.elements() {
            let (topic, number) = (partition.topic(), partition.partition());
            let (low, high) = consumer
                .fetch_watermarks(topic, number, PATIENCE)
                .with_context(|| format!("could not find the ends of topic \"{topic}\""))?;
            let below = partition.offset().to_raw().filter(|&offset| offset >= 0).unwrap_or(low);
            let remembered = Memory::read(below, partition.metadata()).ok_or_else(|| {
                Failure::work(anyhow!("offsets of group \"{group}\" were not written by vigie"))
                    .hint("delete the group, or use another one with --group")
            })?;
            memory.push(remembered.from(low));
            ends.push((high, high <= low));
            n_dead_letters += u64::try_from(high - low).unwrap_or(0);
            assigned.add_partition_offset(topic, number, Offset::Offset(low)).context("offset is not valid")?;
        }
        consumer.assign(&assigned).context("could not read the dead-letter topic")?;
        let producer = if is_dry { None } else { Some(producer(kafka, &group, is_transactional)?) };
        Ok(Replay {
            dead_letter_topic: kafka.dead_letter_topic.clone(),
            input_topic: kafka.input_topic.clone(),
            consumer,
            producer,
            is_transactional,
            ends,
            n_dead_letters,
            memory,
        })
    }

    fn n_dead_letters(&self) -> u64 {
        self.n_dead_letters
    }

    /// The next dead letter; `None` when all that stood there at the start were read.
    fn next(&mut self) -> Result<Option<OwnedMessage>, Failure> {
        let mut asked = Instant::now();
        while self.ends.iter().any(|(_, is_read)| !is_read) {
            // Polled with a bound, so that a broker that went away is noticed.
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(letter)) => {
                    asked = Instant::now();
                    let end = &mut self.ends[letter.partition() as usize];
                    let is_new = letter.offset() >= end.0;
                    end.1 = letter.offset() + 1 >= end.0;
                    if !is_new {
                        return Ok(Some(letter.detach()));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.ends[partition as usize].1 = true,
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    return Err(Failure::work(anyhow!(error).context("could not read the dead-letter topic"))
                        .hint("give this user the right READ on it"));
                }
                Some(Err(_)) | None if asked.elapsed() > PATIENCE => {
                    return Err(Failure::work(anyhow!("broker gave no dead letters for {} s", PATIENCE.as_secs()))
                        .hint("run the same call again: what was replayed is not replayed twice"));
                }
                Some(Err(_)) | None => {}
            }
        }
        Ok(None)
    }

    fn is_replayed(&self, letter: &impl Message) -> bool {
        self.memory[letter.partition() as usize].has(letter.offset())
    }

    /// Puts records on the input topic, waits until the broker has them, and remembers them.
    fn put_back(&mut self, letters: &[OwnedMessage]) -> Result<(), Failure> {
        let Some(producer) = self.producer.as_ref().filter(|_| !letters.is_empty()) else { return Ok(()) };
        let mut memory = self.memory.clone();
        letters.iter().for_each(|letter| memory[letter.partition() as usize].add(letter.offset()));
        let mut offsets = TopicPartitionList::new();
        for (number, remembered) in (0..).zip(&memory) {
            if *remembered == self.memory[number as usize] {
                continue;
            }
            let metadata = remembered.write();
            if metadata.len() > MOST_METADATA {
                return Err(Failure::work(anyhow!("partition {number} would be replayed in more pieces than can be remembered"))
                    .hint("replay the other reasons of a stretch of offsets too: --offsets PARTITION:FIRST-LAST without --reason"));
            }
            let mut offset = offsets.add_partition(&self.dead_letter_topic, number);
            offset.set_offset(Offset::Offset(remembered.below)).context("offset is not valid")?;
            offset.set_metadata(metadata);
        }
        if self.is_transactional {
            producer.begin_transaction().context("could not begin a transaction")?;
        }
        letters.iter().try_for_each(|letter| self.send(producer, letter))?;
        if self.is_transactional {
            let group = self.consumer.group_metadata().context("could not describe the group")?;
            let sent = producer
                .send_offsets_to_transaction(&offsets, &group, PATIENCE)
                .and_then(|()| producer.commit_transaction(PATIENCE));
            sent.context("could not commit the transaction: nothing of it was replayed")?;
        } else {
            producer.flush(PATIENCE).context("could not replay everything in time")?;
            let n_refused = producer.context().0.load(Ordering::SeqCst);
            if n_refused > 0 {
                return Err(Failure::work(anyhow!("the input topic refused {n_refused} records"))
                    .hint("`vigie check` looks at topics and rights"));
            }
            let kept = self.consumer.commit(&offsets, CommitMode::Sync);
            kept.context("records were replayed, but that could not be remembered")?;
        }
        self.memory = memory;
        Ok(())
    }

    fn send(&self, producer: &ThreadedProducer<Refusals>, letter: &OwnedMessage) -> Result<(), Failure> {
        let mut headers = OwnedHeaders::new();
        for header in letter.headers().into_iter().flat_map(Headers::iter) {
            if !OURS.contains(&header.key) && header.key != REPLAYED {
                headers = headers.insert(header);
            }
        }
        let place = format!("{}/{}/{}", self.dead_letter_topic, letter.partition(), letter.offset());
        headers = headers.insert(Header { key: REPLAYED, value: Some(&place) });
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.input_topic).headers(headers);
        record.key = letter.key();
        record.payload = letter.payload();
        record.timestamp = letter.timestamp().to_millis();
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(anyhow!(error).context("could not write to the input topic").into()),
            }
        }
    }
}

fn producer(kafka: &KafkaSettings, group: &str, is_transactional: bool) -> Result<ThreadedProducer<Refusals>, Failure> {
    let kafka = KafkaSettings { transactional_id: group.to_owned(), ..kafka.clone() };
    let mut config = client_config(&kafka, Side::Producer)?;
    if !is_transactional {
        config.set("delivery.timeout.ms", "20000");
    }
    let producer: ThreadedProducer<Refusals> =
        config.create_with_context(Refusals::default()).context("could not make a kafka client")?;
    if is_transactional {
        // The id is the same for every replay of this group: a second one at the same time is fenced off.
        producer.init_transactions(PATIENCE).context("could not get a transactional id")?;
    }
    Ok(producer)
}

/// Which dead letters of one partition were replayed: all below an offset, and ranges above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    below: i64,
    /// First and end (not included), in order, apart from each other and from `below`.
    ranges: Vec<(i64, i64)>,
}

impl Memory {
    /// Takes the metadata of a commit: `1` and, for each range, how far it begins after the one before and how long it is.
    fn read(below: i64, metadata: &str) -> Option<Memory> {
        let mut memory = Memory { below, ranges: Vec::new() };
        let mut parts = metadata.split(' ').filter(|part| !part.is_empty());
        let Some(version) = parts.next() else { return Some(memory) };
        (version == "1").then_some(())?;
        let mut at = below;
        for part in parts {
            let (skip, length) = part.split_once('+')?;
            let first = at.checked_add(skip.parse().ok()?)?;
            at = first.checked_add(length.parse().ok()?)?;
            memory.ranges.push((first, at));
        }
        Some(memory)
    }

    fn write(&self) -> String {
        let mut metadata = String::from("1");
        let mut at = self.below;
        for &(first, end) in &self.ranges {
            metadata.push_str(&format!(" {}+{}", first - at, end - first));
            at = end;
        }
        metadata
    }

    fn has(&self, offset: i64) -> bool {
        offset < self.below || self.ranges.iter().any(|&(first, end)| (first..end).contains(&offset))
    }

    fn add(&mut self, offset: i64) {
        if self.has(offset) {
            return;
        }
        let place = self.ranges.partition_point(|&(first, _)| first < offset);
        self.ranges.insert(place, (offset, offset + 1));
        self.join();
    }

    /// Forgets what the topic no longer holds.
    fn from(mut self, low: i64) -> Memory {
        self.below = self.below.max(low);
        self.join();
        self
    }

    fn join(&mut self) {
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(self.ranges.len());
        for &(first, end) in &self.ranges {
            if first <= self.below {
                self.below = self.below.max(end);
                continue;
            }
            match joined.last_mut() {
                Some((_, last)) if *last >= first => *last = (*last).max(end),
                _ => joined.push((first, end)),
            }
        }
        self.ranges = joined;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn memory_has_what_was_added_and_survives_its_metadata(
            low in 0i64..20, offsets in prop::collection::vec(0i64..60, 0..40), later in 0i64..60,
        ) {
            let mut memory = Memory { below: low, ranges: Vec::new() };
            offsets.iter().for_each(|&offset| memory.add(offset));
            let read = Memory::read(memory.below, &memory.write()).unwrap();
            prop_assert_eq!(&read, &memory);
            let trimmed = read.from(later);
            for offset in 0..60 {
                prop_assert_eq!(memory.has(offset), offset < low || offsets.contains(&offset));
                prop_assert_eq!(trimmed.has(offset), offset < later || memory.has(offset));
            }
        }
    }

    #[test]
    fn foreign_metadata_is_not_taken_for_ours() {
        assert_eq!(Memory::read(5, ""), Some(Memory { below: 5, ranges: Vec::new() }));
        assert_eq!(Memory::read(5, "committed by someone"), None);
    }

    #[test]
    fn times_and_ranges_are_read() {
        let hour_ago = time_of("--since", "60m").ok().unwrap();
        let age = Timestamp::now().as_second() - hour_ago.as_second();
        assert!((3599..3602).contains(&age), "{age}");
        assert_eq!(time_of("--since", "2026-11-22").ok().unwrap().to_string(), "2026-11-22T00:00:00Z");
        assert!(time_of("--since", "soon").is_err());
        assert_eq!(range_of("2:5-9").ok(), Some((2, 5, 9)));
        assert_eq!(range_of("2:5").ok(), Some((2, 5, 5)));
        assert!(range_of("2:9-5").is_err());
    }
}
