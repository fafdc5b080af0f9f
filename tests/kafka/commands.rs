//! The commands around the service: what `check`, `replay` and `bench` do at a real broker, and how they end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broker::{Cluster, shared};
use super::service::{Options, PATIENCE, Road, Vigie, run};
use super::traffic::{Record, lag, read_all, send_raw};

#[test]
fn check_names_what_is_missing_and_makes_it_when_asked() {
    let road = Road::without_topics(shared(), "check");
    let said = run(&road, "check", &["--json"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let missing: Vec<&Value> = lines.iter().filter(|line| line["ok"] == false).collect();
    assert_eq!(missing.len(), 3, "{}", said.out);
    for (line, topic) in missing.iter().zip([&road.input, &road.output, &road.dead]) {
        assert_eq!((&line["what"], &line["found"]), (&format!("topic {topic}").into(), &"does not exist".into()));
        assert!(line["hint"].as_str().unwrap().contains("--create-topics"), "{line}");
    }

    let made = run(&road, "check", &["--json", "--create-topics", "--delivery", "exactly-once"]);
    assert_eq!(made.code, Some(0), "{}{}", made.out, made.err);
    assert!(made.out.contains("transactions"), "exactly-once delivery is tried: {}", made.out);
    assert_eq!(run(&road, "check", &[]).code, Some(0));
}

#[test]
fn check_says_when_the_broker_has_no_transactions() {
    let cluster = Cluster::start_without_transactions();
    let road = Road::new(&cluster, "plain");
    assert_eq!(run(&road, "check", &[]).code, Some(0), "at least once needs none");
    let said = run(&road, "check", &["--json", "--delivery", "exactly-once"]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<&Value> = lines.iter().filter(|line| line["ok"] == false).collect();
    assert_eq!(failed.len(), 1, "{}", said.out);
    assert_eq!(failed[0]["what"], "transactions");
    assert!(failed[0]["hint"].as_str().unwrap().contains("choose --delivery at-least-once"), "{}", said.out);
}

#[test]
fn serve_ends_with_the_next_step_when_a_topic_is_unknown() {
    let road = Road::without_topics(shared(), "unknown");
    let said = run(&road, "serve", &["--http", "off"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains(&format!("error: topic \"{}\" does not exist", road.input)), "{}", said.err);
    assert!(said.err.contains("hint: create it, or let vigie do it with --create-topics"), "{}", said.err);
}

#[test]
fn serve_makes_its_topics_when_asked() {
    let road = Road::without_topics(shared(), "made");
    let service = Vigie::start_ready(&road, &Options::new().env("VIGIE_CREATE_TOPICS", "true"));
    service.stop_well();
    assert_eq!(shared().leaders(&road.input).len(), 6);
}

#[test]
fn dead_letters_are_replayed_once() {
    let (cluster, road) = (shared(), Road::new(shared(), "replay"));
    let record = |number: i32, value: String| Record {
        partition: number % 6,
        key: Some(format!("key-{number}").into_bytes()),
        value: Some(value.into_bytes()),
        headers: vec![("trace".to_owned(), Some(b"t".to_vec()))],
        ..Record::default()
    };
    let elsewhere = (0..20).map(|number| {
        record(number, format!("{{\"id\":\"id-{number}\",\"body\":\"Le marché ouvre samedi à neuf heures.\"}}"))
    });
    let hopeless = (20..23).map(|number| record(number, "{\"text\": ".to_owned()));
    send_raw(cluster, &road.input, &elsewhere.chain(hopeless).collect::<Vec<Record>>());
    work_off(&road, &Options::new());
    assert_eq!(read_all(cluster, &road.dead).len(), 23);

    let replay = |flags: &[&str]| -> Value {
        let said = run(&road, "replay", &[&["--json", "--reason", "text_missing"], flags].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    };
    assert_eq!(replay(&["--dry-run"])["replayed"]["text_missing"], 20);
    assert_eq!(lag(cluster, &road), 0, "a dry run changes nothing");
    assert_eq!(replay(&[])["replayed"]["text_missing"], 20);
    assert_eq!(lag(cluster, &road), 20);

    work_off(&road, &Options::new().env("VIGIE_TEXT_POINTER", "/body"));
    let scores = read_all(cluster, &road.output);
    let ids: BTreeSet<String> = scores.iter().map(|score| score.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((scores.len(), ids.len()), (20, 20));
    assert!(scores.iter().all(|score| score.header("trace") == Some("t") && score.key.is_some()));
    assert!(scores.iter().all(|score| score.header("vigie-reason").is_none()), "a score is no dead letter any more");

    let again = replay(&[]);
    assert_eq!(again["replayed"]["text_missing"], 0, "{again}");
    assert_eq!(again["replayed_before"]["text_missing"], 20, "{again}");
    assert_eq!(lag(cluster, &road), 0);
}

/// Runs a service until nothing is left to do.
fn work_off(road: &Road, options: &Options) {
    let service = Vigie::start_ready(road, options);
    let deadline = Instant::now() + PATIENCE;
    while lag(shared(), road) > 0 {
        assert!(Instant::now() < deadline, "the lag stays:\n{}", service.log_tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    service.stop_well();
}

#[test]
fn bench_counts_every_message_and_ends_by_its_gates() {
    let road = Road::new(shared(), "bench");
    let service = Vigie::start_ready(&road, &Options::new());
    let said = run(&road, "bench", &["--messages", "5000", "--json", "--min-rate", "100"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let tally: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&tally["messages"], &tally["lost"], &tally["twice"]), (&5000.into(), &0.into(), &0.into()), "{tally}");

    let gated = run(&road, "bench", &["--messages", "500", "--min-rate", "100000000"]);
    assert_eq!(gated.code, Some(1));
    assert!(gated.err.contains("gate not met"), "{}", gated.err);
    service.stop_well();

    let silent = run(&road, "bench", &["--messages", "10", "--patience", "3"]);
    assert_eq!(silent.code, Some(1));
    assert!(silent.err.contains("is `vigie serve` running"), "{}", silent.err);
}
