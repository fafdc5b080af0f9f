//! What exactly-once delivery costs: the same load through both kinds of delivery in turn, throughput and latency out. `make bench-delivery`.
//!
//! `VIGIE_PRICE_OUT` names the Markdown file for the table.

use std::fmt::Write as _;

use serde_json::Value;

use super::broker::{Cluster, shared};
use super::service::{Options, Road, Vigie, run};

const N_RUNS: usize = 3;
/// Delivery and milliseconds between commits.
const CASES: [(&str, u32); 6] = [
    ("at-least-once", 500),
    ("at-least-once", 100),
    ("exactly-once", 2000),
    ("exactly-once", 500),
    ("exactly-once", 100),
    ("exactly-once", 20),
];

/// What `vigie bench` found in one run.
struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

#[test]
#[ignore = "measures for minutes: make bench-delivery"]
fn what_exactly_once_costs() {
    let cluster = shared();
    let mut runs: Vec<Vec<Run>> = CASES.iter().map(|_| Vec::new()).collect();
    for round in 0..N_RUNS {
        for (index, (delivery, interval)) in CASES.into_iter().enumerate() {
            runs[index].push(measure(cluster, &format!("price-{round}-{index}"), delivery, interval));
        }
    }
    let mut table =
        "| delivery | commit interval | messages/s, median (least to most) | p50 at 500/s | p99 at 500/s |\n\
                     |---|--:|--:|--:|--:|\n"
            .to_owned();
    for ((delivery, interval), runs) in CASES.into_iter().zip(&runs) {
        let [least, rate, most] = in_order(runs, |run| run.rate);
        let ([_, p50, _], [_, p99, _]) = (in_order(runs, |run| run.p50), in_order(runs, |run| run.p99));
        writeln!(
            table,
            "| {delivery} | {interval} ms | {rate:.0} ({least:.0} to {most:.0}) | {p50:.0} ms | {p99:.0} ms |"
        )
        .unwrap();
    }
    println!("{table}");
    if let Ok(file) = std::env::var("VIGIE_PRICE_OUT") {
        std::fs::write(file, table).unwrap();
    }
}

fn in_order(runs: &[Run], of: fn(&Run) -> f64) -> [f64; N_RUNS] {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.try_into().expect("a value for each run")
}

fn measure(cluster: &Cluster, name: &str, delivery: &str, interval: u32) -> Run {
    let road = Road::new(cluster, name);
    let options = match delivery {
        "exactly-once" => Options::exactly_once("a"),
        _ => Options::new(),
    };
    let service = Vigie::start_ready(&road, &options.env("VIGIE_COMMIT_INTERVAL_MS", interval.to_string()));
    let bench = |flags: &[&str]| -> Value {
        // It reads only what is committed: librdkafka's default.
        let said = run(&road, "bench", &[&["--json"], flags].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        let tally: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((&tally["lost"], &tally["twice"]), (&0.into(), &0.into()), "{tally}");
        tally
    };
    bench(&["--messages", "5000"]);
    let fast = bench(&["--messages", "100000", "--in-flight", "40000"]);
    let steady = bench(&["--messages", "5000", "--rate", "500"]);
    service.stop_well();
    let milliseconds = |name: &str| steady["latency_ms"][name].as_f64().unwrap();
    Run { rate: fast["messages_per_second"].as_f64().unwrap(), p50: milliseconds("p50"), p99: milliseconds("p99") }
}
