//! `vigie bench`: texts through a running service in, loss, duplicates, throughput and latency out.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::roundtrip::{Plan, RoundTrip, Tally};
use super::{Failure, samples};
use crate::cli::BenchArgs;
use crate::config::{Environment, Settings};

/// Bytes under way are bounded too: a closed loop must not fill the broker.
const MAX_IN_FLIGHT_BYTES: usize = 64 << 20;
/// How long a second score of a text is waited for.
const SETTLE: Duration = Duration::from_secs(2);
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

pub fn run(args: &BenchArgs, environment: &Environment) -> Result<(), Failure> {
    let settings = Settings::load(&args.flags(), environment)?;
    let texts = match &args.input {
        Some(file) => samples::records(file)?,
        None => samples::builtin_records(),
    };
    if texts.is_empty() {
        return Err(Failure::call(anyhow!("there is no text to send")).hint("give a file with one text a line"));
    }
    let n_messages = usize::try_from(args.messages).unwrap_or(usize::MAX);
    let plan = Plan {
        records: Box::new(texts.into_iter().cycle().take(n_messages)),
        max_in_flight: usize::try_from(args.in_flight).unwrap_or(usize::MAX),
        max_in_flight_bytes: MAX_IN_FLIGHT_BYTES,
        pace: args.rate.map(|rate| Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX)),
        keep_records: false,
    };
    let mut trip = RoundTrip::start(&settings.kafka, plan)?;
    let bar = bar(args.messages);
    let patience = Duration::from_secs(args.patience);
    while !trip.is_complete() && trip.silent_for() < patience {
        if trip.next(Duration::from_millis(50))?.is_some() {
            bar.inc(1);
        }
    }
    if trip.is_complete() {
        trip.settle(SETTLE)?;
    }
    bar.finish_and_clear();
    let tally = trip.finish()?;
    let is_silent = tally.n_scores + tally.n_dead == 0;
    report(&tally, args.json || !io::stdout().is_terminal())?;
    if is_silent {
        return Err(Failure::work(anyhow!("no score came back within {} s", args.patience))
            .hint("is `vigie serve` running on this broker, with these topics? `vigie check` looks"));
    }
    judge(args, &tally)
}

fn bar(n_messages: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} scored  {eta} left");
    ProgressBar::with_draw_target(Some(n_messages), target).with_style(style.expect("the template is well formed"))
}

fn report(tally: &Tally, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let latency: serde_json::Map<String, serde_json::Value> =
            QUANTILES.iter().map(|(name, quantile)| ((*name).to_owned(), json!(tally.latency_ms(*quantile)))).collect();
        let data = json!({
            "messages": tally.n_sent, "scores": tally.n_scores, "dead_letters": tally.n_dead,
            "lost": tally.n_missing(), "twice": tally.n_twice,
            "seconds": tally.took.as_secs_f64(), "messages_per_second": tally.rate(), "latency_ms": latency,
        });
        return writeln!(out, "{data}");
    }
    writeln!(out, "messages   {}", tally.n_sent)?;
    let (n_scores, n_dead) = (tally.n_scores, tally.n_dead);
    writeln!(
        out,
        "scores     {n_scores}   dead letters {n_dead}   lost {}   twice {}",
        tally.n_missing(),
        tally.n_twice
    )?;
    writeln!(out, "rate       {:.0} messages/s over {:.1} s", tally.rate(), tally.took.as_secs_f64())?;
    let latencies = QUANTILES.map(|(name, quantile)| format!("{name} {:.1} ms", tally.latency_ms(quantile)));
    writeln!(out, "latency    {}", latencies.join("   "))
}

/// Compares with the gates of the call.
fn judge(args: &BenchArgs, tally: &Tally) -> Result<(), Failure> {
    let mut missed = Vec::new();
    let loss = tally.n_missing() as f64 / tally.n_sent.max(1) as f64;
    if loss > args.max_loss {
        missed.push(format!("{} of {} texts lost (--max-loss {})", tally.n_missing(), tally.n_sent, args.max_loss));
    }
    let p99 = tally.latency_ms(0.99);
    if let Some(most) = args.p99_ms.filter(|&most| p99 > most) {
        missed.push(format!("99 % within {p99:.1} ms (--p99-ms {most})"));
    }
    if let Some(least) = args.min_rate.filter(|&least| tally.rate() < least) {
        missed.push(format!("{:.0} messages/s (--min-rate {least})", tally.rate()));
    }
    match missed.as_slice() {
        [] => Ok(()),
        missed => Err(Failure::work(anyhow!("gate not met: {}", missed.join("; ")))),
    }
}
