//! All metrics of the service: a registry in, handles that the parts count with out.
//!
//! Label values come from closed sets (enums of this crate, topic and partition numbers), never from message text. Dashboards, alert rules
//! and `docs/metrics.md` are compared with this file by a test.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::scoring::{Abstained, Band, Reading, Scored, Signal};

/// A step of the road from a message to its score, timed by `vigie_stage_seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Decode,
    Score,
    Produce,
    Commit,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Decode, Stage::Score, Stage::Produce, Stage::Commit];

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Score => "score",
            Stage::Produce => "produce",
            Stage::Commit => "commit",
        }
    }
}

/// Handles to every metric. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub messages_consumed: IntCounter,
    pub scores_published: IntCounter,
    /// By `reason` (`DeadReason`).
    pub dead_letters: IntCounterVec,
    /// By `reason` ([`Abstained`]).
    pub abstained: IntCounterVec,
    /// By `reading` ([`Reading`]).
    pub readings: IntCounterVec,
    /// By `signal`, `band`.
    pub bands: IntCounterVec,
    /// By `result` (`ok`, `failed`).
    pub model_reloads: IntCounterVec,
    /// By `signal`, `outcome`.
    pub feedback: IntCounterVec,
    /// By `stage` ([`Stage`]); seconds a batch.
    pub stage_seconds: HistogramVec,
    /// From the input record's timestamp to the delivery report of its score.
    pub end_to_end_seconds: Histogram,
    /// By `signal`.
    pub score: HistogramVec,
    pub batch_messages: Histogram,
    /// By `topic`, `partition`: high watermark less committed offset.
    pub consumer_lag: IntGaugeVec,
    /// By `version`, `sha256`: 1 for the active model.
    pub model_info: IntGaugeVec,
    /// By `signal`.
    pub drift: GaugeVec,
    /// 1 when the service is ready.
    pub ready: IntGauge,
    /// Messages taken and not yet delivered.
    pub in_flight: IntGauge,
    /// By `direction` (`gained`, `lost`): partitions in rebalances.
    pub rebalanced_partitions: IntCounterVec,
    /// By `kind` (`retriable`, `fatal`): errors that the Kafka client reported.
    pub kafka_errors: IntCounterVec,
    /// Seconds since 1970 when the process started scoring.
    pub started_at: Gauge,
    /// By `route` (of `http::routes`, or `other`), `code`.
    pub http_requests: IntCounterVec,
    /// By `route`.
    pub http_request_seconds: HistogramVec,
}

impl Metrics {
    /// Makes all metrics and registers them. Fails when the registry has one of them already.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            messages_consumed: IntCounter::new(
                "vigie_messages_consumed_total",
                "Input records taken from the input topic.",
            )?,
            scores_published: IntCounter::new(
                "vigie_scores_published_total",
                "Score records whose delivery the broker confirmed.",
            )?,
            dead_letters: counters(
                "vigie_dead_letters_total",
                "Dead letters whose delivery the broker confirmed.",
                &["reason"],
            )?,
            abstained: counters("vigie_abstained_total", "Texts that got no scores.", &["reason"])?,
            readings: counters("vigie_readings_total", "Scored texts by what their bands say together.", &["reading"])?,
            bands: counters("vigie_bands_total", "Scored texts by signal and band.", &["signal", "band"])?,
            model_reloads: counters("vigie_model_reloads_total", "Attempts to load another model.", &["result"])?,
            feedback: counters(
                "vigie_feedback_total",
                "Labels from moderators by how they compare with the score.",
                &["signal", "outcome"],
            )?,
            stage_seconds: histograms(
                "vigie_stage_seconds",
                "Seconds a batch spends in a stage.",
                &["stage"],
                seconds(),
            )?,
            end_to_end_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "vigie_end_to_end_seconds",
                    "Seconds from the input record's timestamp to the confirmed delivery of its score.",
                )
                .buckets(seconds()),
            )?,
            score: histograms(
                "vigie_score",
                "Scores by signal.",
                &["signal"],
                (1..=20).map(|step| f64::from(step) / 20.0).collect(),
            )?,
            batch_messages: Histogram::with_opts(
                HistogramOpts::new("vigie_batch_messages", "Messages in a batch.")
                    .buckets(prometheus::exponential_buckets(1.0, 2.0, 13)?),
            )?,
            consumer_lag: gauges(
                "vigie_consumer_lag",
                "Records in the input partition that are not yet committed.",
                &["topic", "partition"],
            )?,
            model_info: gauges("vigie_model_info", "The active model.", &["version", "sha256"])?,
            drift: GaugeVec::new(
                Opts::new("vigie_drift", "Population stability index of recent scores against the training data's."),
                &["signal"],
            )?,
            ready: IntGauge::new("vigie_ready", "1 when the service takes messages.")?,
            in_flight: IntGauge::new(
                "vigie_in_flight_messages",
                "Messages taken whose delivery is not yet confirmed.",
            )?,
            rebalanced_partitions: counters(
                "vigie_rebalanced_partitions_total",
                "Partitions gained and lost in rebalances.",
                &["direction"],
            )?,
            kafka_errors: counters("vigie_kafka_errors_total", "Errors that the Kafka client reported.", &["kind"])?,
            started_at: Gauge::new(
                "vigie_started_at_seconds",
                "Time at which the service started, in seconds since 1970.",
            )?,
            http_requests: counters(
                "vigie_http_requests_total",
                "HTTP requests by route and status code.",
                &["route", "code"],
            )?,
            http_request_seconds: histograms(
                "vigie_http_request_seconds",
                "Seconds from an HTTP request's head to its answer.",
                &["route"],
                seconds(),
            )?,
        };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        metrics.show_zeros();
        Ok(metrics)
    }

    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        vec![
            Box::new(self.messages_consumed.clone()),
            Box::new(self.scores_published.clone()),
            Box::new(self.dead_letters.clone()),
            Box::new(self.abstained.clone()),
            Box::new(self.readings.clone()),
            Box::new(self.bands.clone()),
            Box::new(self.model_reloads.clone()),
            Box::new(self.feedback.clone()),
            Box::new(self.stage_seconds.clone()),
            Box::new(self.end_to_end_seconds.clone()),
            Box::new(self.score.clone()),
            Box::new(self.batch_messages.clone()),
            Box::new(self.consumer_lag.clone()),
            Box::new(self.model_info.clone()),
            Box::new(self.drift.clone()),
            Box::new(self.ready.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.rebalanced_partitions.clone()),
            Box::new(self.kafka_errors.clone()),
            Box::new(self.started_at.clone()),
            Box::new(self.http_requests.clone()),
            Box::new(self.http_request_seconds.clone()),
        ]
    }

    /// Makes every series of a closed set exist at zero, so that a rate over it never has a hole.
    fn show_zeros(&self) {
        Abstained::ALL.iter().for_each(|why| drop(self.abstained.with_label_values(&[why.as_str()])));
        Reading::ALL.iter().for_each(|reading| drop(self.readings.with_label_values(&[reading.as_str()])));
        Stage::ALL.iter().for_each(|stage| drop(self.stage_seconds.with_label_values(&[stage.as_str()])));
        for signal in Signal::ALL {
            self.score.with_label_values(&[signal.as_str()]);
            self.drift.with_label_values(&[signal.as_str()]);
            Band::ALL.iter().for_each(|band| drop(self.bands.with_label_values(&[signal.as_str(), band.as_str()])));
        }
        ["ok", "failed"].iter().for_each(|result| drop(self.model_reloads.with_label_values(&[result])));
    }

    /// Counts what the core said of one text.
    pub fn count_scored(&self, scored: &Scored) {
        if let Some(why) = scored.abstained {
            self.abstained.with_label_values(&[why.as_str()]).inc();
        }
        if let Some(reading) = scored.reading {
            self.readings.with_label_values(&[reading.as_str()]).inc();
        }
        for (signal, found) in Signal::ALL.iter().zip(scored.signals.iter().flatten()) {
            self.score.with_label_values(&[signal.as_str()]).observe(found.score);
            self.bands.with_label_values(&[signal.as_str(), found.band.as_str()]).inc();
        }
    }

    /// Names the active model; the one before is forgotten.
    pub fn set_model(&self, version: &str, sha256: &str) {
        self.model_info.reset();
        self.model_info.with_label_values(&[version, sha256]).set(1);
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn histograms(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)
}

/// From 100 µs to 100 s.
fn seconds() -> Vec<f64> {
    vec![
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        100.0,
    ]
}
