//! The soak: a steady sender and one service for an hour, measured every ten seconds; a table, a plot and a judgement. `make test-soak`.
//!
//! `VIGIE_SOAK_MINUTES` and `VIGIE_SOAK_RATE` (messages a second) choose another length and rate, `VIGIE_SOAK_OUT` the folder of `soak.csv`
//! and `soak.svg`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::broker::Cluster;
use super::plot::{Panel, panels};
use super::service::{Options, Road, Vigie};
use super::traffic::{Ledger, Sender, lag};

const EVERY: Duration = Duration::from_secs(10);

/// What one look at the service found.
#[derive(Debug, Clone)]
struct Sample {
    minute: f64,
    lag: f64,
    memory: f64,
    n_threads: usize,
    n_handles: usize,
    n_scored: u64,
    /// Of the messages since the sample before, in milliseconds, to the bound of the histogram's bucket.
    p99: f64,
}

/// Cumulative counts by upper bound in seconds.
type Buckets = Vec<(f64, u64)>;

fn buckets(page: &str) -> Buckets {
    let lines = page.lines().filter_map(|line| line.strip_prefix("vigie_end_to_end_seconds_bucket{le=\""));
    lines
        .map(|line| {
            let (bound, n) = line.split_once("\"} ").unwrap();
            (bound.replace("+Inf", "inf").parse().unwrap(), n.parse().unwrap())
        })
        .collect()
}

fn p99_ms(before: &Buckets, now: &Buckets) -> f64 {
    let since: Buckets = now
        .iter()
        .enumerate()
        .map(|(index, &(bound, n))| (bound, n - before.get(index).map_or(0, |&(_, n)| n)))
        .collect();
    let n = since.last().map_or(0, |&(_, n)| n);
    since.iter().find(|&&(_, below)| below as f64 >= n as f64 * 0.99).map_or(0.0, |&(bound, _)| bound * 1000.0)
}

#[test]
#[ignore = "takes an hour: make test-soak"]
fn an_hour_at_a_steady_rate_leaves_everything_flat() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (minutes, rate) = (number("VIGIE_SOAK_MINUTES", 60), number("VIGIE_SOAK_RATE", 200));
    let folder = PathBuf::from(std::env::var("VIGIE_SOAK_OUT").unwrap_or_else(|_| "target/soak".to_owned()));
    std::fs::create_dir_all(&folder).unwrap();

    let cluster = Cluster::start(1);
    let road = Road::new(&cluster, "soak");
    let mut ledger = Ledger::new(&cluster, &road, "read_committed");
    let service = Vigie::start_ready(&road, &Options::new());
    let steady = Sender::new(&cluster, &road).go_on(rate);
    let began = Instant::now();
    let (mut samples, mut known) = (Vec::new(), Buckets::new());
    while began.elapsed() < Duration::from_secs(minutes * 60) {
        ledger.read_for(EVERY.saturating_sub(began.elapsed() - EVERY * samples.len() as u32));
        let page = service.metrics_page();
        let now = buckets(&page);
        samples.push(Sample {
            minute: began.elapsed().as_secs_f64() / 60.0,
            lag: service.metric("vigie_consumer_lag"),
            memory: service.memory_mib(),
            n_threads: service.n_threads(),
            n_handles: service.n_handles(),
            n_scored: service.metric("vigie_scores_published_total") as u64,
            p99: p99_ms(&known, &now),
        });
        known = now;
        write(&folder, &samples);
    }
    let n_sent = steady.stop().n_sent();
    ledger.wait_for(n_sent);
    service.stop_well();
    let n_twice = ledger.settle(n_sent);
    println!("{n_sent} messages in {minutes} minutes, none lost, {n_twice} scored twice\n{}", summary(&samples));
    // Repeats are told, not judged: they follow when a busy machine keeps the broker from answering for longer than the session lasts.
    assert_eq!(lag(&cluster, &road), 0);
    judge(&samples, rate);
}

fn write(folder: &std::path::Path, samples: &[Sample]) {
    let mut csv = "minute,lag,memory_mib,threads,handles,scored,p99_ms\n".to_owned();
    for sample in samples {
        let Sample { minute, lag, memory, n_threads, n_handles, n_scored, p99 } = sample;
        writeln!(csv, "{minute:.2},{lag},{memory:.1},{n_threads},{n_handles},{n_scored},{p99}").unwrap();
    }
    std::fs::write(folder.join("soak.csv"), csv).unwrap();
    let minutes: Vec<f64> = samples.iter().map(|sample| sample.minute).collect();
    let panel = |title: &str, of: fn(&Sample) -> f64| Panel {
        title: title.to_owned(),
        values: samples.iter().map(of).collect(),
    };
    let plot = panels(
        &minutes,
        &[
            panel("consumer lag, messages (uncommitted; commits come twice a second)", |sample| sample.lag),
            panel("99th percentile of the time from sent to scored, ms", |sample| sample.p99),
            panel("resident memory, MiB", |sample| sample.memory),
            panel("threads", |sample| sample.n_threads as f64),
            panel("file handles", |sample| sample.n_handles as f64),
        ],
    );
    std::fs::write(folder.join("soak.svg"), plot).unwrap();
}

/// The first tenth is for warming up; the second quarter is compared with the last.
fn halves(samples: &[Sample], of: fn(&Sample) -> f64) -> (f64, f64) {
    let n = samples.len();
    let middle = |part: &[Sample]| {
        let mut values: Vec<f64> = part.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (middle(&samples[n / 10..=n / 4 + n / 10]), middle(&samples[n - n / 4 - 1..]))
}

/// Name, value, and how much more at the end than early is growth.
type Measure = (&'static str, fn(&Sample) -> f64, Option<f64>);

const MEASURES: [Measure; 5] = [
    ("lag", |sample| sample.lag, Some(200.0)),
    // Of a machine that others use too it says more than of us.
    ("p99 in ms", |sample| sample.p99, None),
    ("memory in MiB", |sample| sample.memory, Some(8.0)),
    ("threads", |sample| sample.n_threads as f64, Some(0.0)),
    ("file handles", |sample| sample.n_handles as f64, Some(4.0)),
];

fn summary(samples: &[Sample]) -> String {
    let mut table = "| | median early | median at the end | highest |\n|---|--:|--:|--:|\n".to_owned();
    for (name, of, _) in MEASURES {
        let (early, late) = halves(samples, of);
        let highest = samples.iter().map(of).fold(0.0, f64::max);
        writeln!(table, "| {name} | {early:.0} | {late:.0} | {highest:.0} |").unwrap();
    }
    table
}

fn judge(samples: &[Sample], rate: u64) {
    for (name, of, slack) in MEASURES {
        let (early, late) = halves(samples, of);
        assert!(slack.is_none_or(|slack| late <= early + slack), "{name} grew from {early:.0} to {late:.0}");
    }
    // A minute of messages that nobody scored would be more than a hiccup of the machine.
    let highest = samples.iter().map(|sample| sample.lag).fold(0.0, f64::max);
    assert!(highest < 60.0 * rate as f64, "the lag rose to {highest}");
}
