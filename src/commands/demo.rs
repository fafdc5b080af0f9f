//! `vigie demo`: sample texts or the user's own in, the whole service on a broker inside the process, its scores on the screen out.
//!
//! The broker is librdkafka's mock cluster. It keeps 5 MiB a partition and forgets the rest, so the sender's lead over the reader is bounded;
//! it proves nothing about transactions, so delivery is at least once here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdkafka::mocking::MockCluster;
use serde::Deserialize;

use super::roundtrip::{Arrival, Plan, RoundTrip, Tally};
use super::screen::{LEGEND, Row, Screen, dimmed};
use super::serve::{Parts, runtime};
use super::{Failure, logging, samples};
use crate::cli::DemoArgs;
use crate::config::{Environment, InputSettings, KafkaSettings, Settings};
use crate::scoring::{Abstained, Band, Reading, Signal, SignalScore};
use crate::shutdown::Shutdown;
use crate::stream::message::{InputHeaders, decode};

const PARTITIONS: i32 = 4;
/// The mock cluster keeps 5 MiB a partition: this much under way stays far below, in and out.
const MAX_IN_FLIGHT: usize = 1000;
const MAX_IN_FLIGHT_BYTES: usize = 1 << 20;
/// The endless demo is for looking at.
const PACE: Duration = Duration::from_millis(400);
/// With more messages than this the table shows some of them.
const MOST_ROWS: u64 = 40;
/// Nothing came back for so long: something is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a second score of a message is waited for.
const SETTLE: Duration = Duration::from_millis(100);

pub fn run(args: &DemoArgs, environment: &Environment) -> Result<(), Failure> {
    let settings = settings(args, environment)?;
    logging::start(&settings.log, environment)?;
    let broker = MockCluster::new(1).context("could not start the broker")?;
    let kafka = kafka(&broker.bootstrap_servers());
    for topic in [&kafka.input_topic, &kafka.output_topic, &kafka.dead_letter_topic] {
        broker.create_topic(topic, PARTITIONS, 1).with_context(|| format!("could not create topic \"{topic}\""))?;
    }
    let settings = Settings { kafka, ..settings };
    let source = Source::open(args)?;
    let (runtime, interrupted, shutdown) = (runtime()?, Shutdown::new(), Shutdown::new());
    let _entered = runtime.enter();
    interrupted.on_signals().context("could not wait for signals")?;
    let parts = runtime.block_on(start(&settings, args.http.is_some(), &shutdown))?;
    let mut stage = Stage::new(Screen::of_stdout(environment), &settings.input, &source, &parts)?;
    let n_records = source.n_records;
    let plan = Plan {
        records: source.records,
        max_in_flight: MAX_IN_FLIGHT,
        max_in_flight_bytes: MAX_IN_FLIGHT_BYTES,
        pace: n_records.is_none().then_some(PACE).filter(|_| args.input.is_none()),
        keep_records: true,
    };
    let mut trip = RoundTrip::start(&settings.kafka, plan)?;
    let watched = watch(&mut trip, &mut stage, &parts, &interrupted);
    // Both consumers go before the broker: librdkafka's mock does not survive the other order.
    let finished = trip.finish();
    shutdown.request();
    let drained = runtime.block_on(parts.drain(&settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(broker);
    let tally = finished?;
    stage.summary(&tally)?;
    drained?;
    watched?;
    verdict(&tally)
}

fn settings(args: &DemoArgs, environment: &Environment) -> Result<Settings, Failure> {
    let mut flags = args.config.flags();
    args.model.add_to(&mut flags);
    flags.values.extend(args.http.iter().map(|address| ("http", address.clone())));
    flags.values.extend(args.log.iter().map(|level| ("log", level.clone())));
    let mut settings = Settings::load(&flags, environment)?;
    // A demo shows scores, not log lines, unless it is asked for them.
    if args.log.is_none() && settings.log.log == Settings::defaults().log.log {
        settings.log.log = "warn".to_owned();
    }
    Ok(settings)
}

/// Settings for the broker inside; those of the user's broker have no place here.
fn kafka(brokers: &str) -> KafkaSettings {
    let mut kafka =
        KafkaSettings { brokers: brokers.to_owned(), group: "vigie-demo".to_owned(), ..Settings::defaults().kafka };
    let consumer = [
        // The mock's classic rebalance takes three seconds, its newer one a tenth.
        ("group.protocol", "consumer"),
        ("fetch.wait.max.ms", "10"),
    ];
    kafka.consumer_properties.extend(consumer.map(|(name, value)| (name.to_owned(), value.to_owned())));
    kafka.producer_properties.insert("linger.ms".to_owned(), "2".to_owned());
    kafka
}

/// Starts the service; when nobody asked for an address, on the next free port.
async fn start(settings: &Settings, has_address: bool, shutdown: &Shutdown) -> Result<Parts, Failure> {
    let mut settings = settings.clone();
    if !has_address && settings.http.http == Settings::defaults().http.http {
        let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = (9464..9500).find(is_free).unwrap_or(0);
        settings.http.http = format!("127.0.0.1:{port}");
    }
    Parts::start(&settings, shutdown).await
}

/// The texts of the demo.
struct Source {
    records: Box<dyn Iterator<Item = Vec<u8>> + Send>,
    /// `None`: without end, or as long as standard input lasts.
    n_records: Option<u64>,
}

impl Source {
    fn open(args: &DemoArgs) -> Result<Source, Failure> {
        let Some(input) = &args.input else {
            let endless = samples::builtin_records().into_iter().cycle();
            return Ok(match args.messages {
                Some(n) => Source {
                    records: Box::new(endless.take(usize::try_from(n).unwrap_or(usize::MAX))),
                    n_records: Some(n),
                },
                None => Source { records: Box::new(endless), n_records: None },
            });
        };
        let most = args.messages.unwrap_or(u64::MAX);
        let (reader, n_lines): (Box<dyn BufRead + Send>, _) = if input.as_os_str() == "-" {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            (Box::new(open(input)?), Some(count_lines(input)?))
        };
        if let Some(n_lines) = n_lines.filter(|&n_lines| args.messages.is_some_and(|most| n_lines < most)) {
            eprintln!("\"{}\" holds {n_lines} texts; all of them are sent, once", input.display());
        }
        let lines = reader.split(b'\n').map_while(Result::ok).filter(|line| !line.trim_ascii().is_empty());
        let records = lines.take(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Source { records: Box::new(records), n_records: n_lines.map(|n_lines| n_lines.min(most)) })
    }
}

fn open(file: &Path) -> Result<BufReader<File>, Failure> {
    let opened = File::open(file).with_context(|| format!("could not read \"{}\"", file.display()));
    Ok(BufReader::new(opened.map_err(|error| Failure::work(error).hint("check the path and its permissions"))?))
}

fn count_lines(file: &Path) -> Result<u64, Failure> {
    let mut n_lines = 0;
    for line in open(file)?.split(b'\n') {
        let line = line.with_context(|| format!("could not read \"{}\"", file.display()))?;
        n_lines += u64::from(!line.trim_ascii().is_empty());
    }
    Ok(n_lines)
}

fn watch(trip: &mut RoundTrip, stage: &mut Stage, parts: &Parts, interrupted: &Shutdown) -> Result<(), Failure> {
    while !trip.is_complete() {
        if let Some(arrival) = trip.next(Duration::from_millis(50))? {
            stage.show(&arrival)?;
        }
        if interrupted.is_requested() {
            trip.stop_sending();
        }
        if parts.is_finished() {
            return Err(Failure::work(anyhow!("service ended before everything was scored")));
        }
        if trip.is_waiting() && trip.silent_for() > PATIENCE {
            let fact = anyhow!("nothing came back for {} s", PATIENCE.as_secs());
            return Err(Failure::work(fact).hint("run it again with --log debug, and tell us what it says"));
        }
    }
    trip.settle(SETTLE)
}

fn verdict(tally: &Tally) -> Result<(), Failure> {
    match (tally.n_missing(), tally.n_twice) {
        (0, 0) => Ok(()),
        (n_missing, n_twice) => Err(Failure::work(anyhow!("{n_missing} messages lost, {n_twice} scored twice"))),
    }
}

/// What the audience sees: the table on standard output, the bar on standard error.
struct Stage {
    screen: Screen,
    out: BufWriter<io::Stdout>,
    bar: ProgressBar,
    input: InputSettings,
    n_records: Option<u64>,
    n_shown: u64,
    last_shown: Instant,
}

impl Stage {
    fn new(screen: Screen, input: &InputSettings, source: &Source, parts: &Parts) -> Result<Stage, Failure> {
        let target =
            if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let shape = match source.n_records {
            Some(_) => "{bar:40} {pos}/{len} scored  {eta} left",
            None => "{spinner} {pos} scored  Ctrl-C ends",
        };
        let style = ProgressStyle::with_template(shape).expect("the template is well formed");
        let bar = ProgressBar::with_draw_target(source.n_records, target).with_style(style);
        let mut stage = Stage {
            screen,
            out: BufWriter::new(io::stdout()),
            bar,
            input: input.clone(),
            n_records: source.n_records,
            n_shown: 0,
            last_shown: Instant::now(),
        };
        if let Some(address) = parts.http_address() {
            eprintln!("page and metrics: http://{address}/  http://{address}/metrics");
        }
        writeln!(stage.out, "{}", stage.screen.table_head("text"))?;
        stage.out.flush()?;
        Ok(stage)
    }

    fn show(&mut self, arrival: &Arrival) -> Result<(), Failure> {
        if self.bar.position() == 0 {
            // The wait for the group says nothing about the time left.
            self.bar.reset();
        }
        self.bar.inc(1);
        if !self.is_wanted(arrival.number) {
            return Ok(());
        }
        self.n_shown += 1;
        self.last_shown = Instant::now();
        let record = arrival.record.as_deref().unwrap_or_default();
        let text = decode(Some(record), InputHeaders::default(), &self.input)
            .map_or_else(|_| String::from_utf8_lossy(record).into_owned(), |input| input.text.into_owned());
        let beginning: String = text.chars().take(300).collect();
        let row = match &arrival.score {
            Some(score) => match serde_json::from_slice::<Record>(score) {
                Ok(record) => self.screen.table_row(&beginning, &record.row()),
                Err(error) => return Err(Failure::work(anyhow!(error).context("score record can't be read"))),
            },
            None => self.screen.table_note(&beginning, "dead letter"),
        };
        let out = &mut self.out;
        self.bar.suspend(|| writeln!(out, "{row}").and_then(|()| out.flush()))?;
        Ok(())
    }

    /// All rows of a short demo; of a long one the first and then a few, spread over it.
    fn is_wanted(&self, number: u64) -> bool {
        match self.n_records {
            Some(n) if n <= MOST_ROWS => true,
            Some(n) => number < MOST_ROWS / 2 || number.is_multiple_of(n.div_ceil(MOST_ROWS / 2)),
            None => self.n_shown < MOST_ROWS / 2 || self.last_shown.elapsed() >= PACE / 2,
        }
    }

    fn summary(&mut self, tally: &Tally) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let out = &mut self.out;
        writeln!(out, "{}\n", self.screen.paint(LEGEND, dimmed()))?;
        let n_back = tally.n_scores + tally.n_dead;
        if n_back > self.n_shown {
            writeln!(out, "shown      {} of {n_back}", self.n_shown)?;
        }
        writeln!(out, "messages   {}", tally.n_sent)?;
        writeln!(
            out,
            "scores     {}   dead letters {}   lost {}   twice {}",
            tally.n_scores,
            tally.n_dead,
            tally.n_missing(),
            tally.n_twice
        )?;
        if n_back > 0 {
            writeln!(out, "rate       {:.0} messages/s", tally.rate())?;
            let [median, p99, most] = [0.5, 0.99, 1.0].map(|quantile| tally.latency_ms(quantile));
            writeln!(out, "latency    median {median:.1} ms   99 % {p99:.1} ms   most {most:.1} ms")?;
        }
        out.flush()?;
        Ok(())
    }
}

/// The part of a score record that the table shows, read back the way a user's program would.
#[derive(Deserialize)]
struct Record {
    lang: RecordLang,
    signals: Option<BTreeMap<Signal, RecordSignal>>,
    reading: Option<Reading>,
    abstained: Option<Abstained>,
}

#[derive(Deserialize)]
struct RecordLang {
    code: String,
}

#[derive(Clone, Copy, Deserialize)]
struct RecordSignal {
    score: f64,
    band: Band,
}

impl Record {
    fn row(&self) -> Row<'_> {
        let signals = self.signals.as_ref().and_then(|signals| {
            let found = Signal::ALL.iter().filter_map(|signal| signals.get(signal));
            let found: Vec<_> = found.map(|&RecordSignal { score, band }| SignalScore { score, band }).collect();
            found.try_into().ok()
        });
        Row { lang: &self.lang.code, signals, reading: self.reading, abstained: self.abstained }
    }
}
