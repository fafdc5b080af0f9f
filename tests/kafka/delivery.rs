//! Nothing lost, nothing double-counted: kills, stops, rebalances, broken records and brokers that go away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::broker::{Cluster, shared};
use super::service::{Options, PATIENCE, Road, Vigie};
use super::traffic::{Ledger, Reader, Record, Sender, lag, read_all, record, score_schema, send_raw};

const N_MESSAGES: u64 = 20_000;
/// So little under way that a kill always comes in the middle.
const SMALL: (&str, &str) = ("VIGIE_MAX_IN_FLIGHT", "1000");

#[test]
fn twenty_thousand_messages_of_kcat_come_back_scored_and_valid() {
    let (cluster, road) = (shared(), Road::new(shared(), "kcat"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages");
    let lines = (0..N_MESSAGES).fold(String::new(), |mut lines, number| {
        let (key, value) = record(number);
        writeln!(lines, "{key}\t{value}").unwrap();
        lines
    });
    std::fs::write(&file, lines).unwrap();
    let service = Vigie::start_ready(&road, &Options::new());
    let kcat = Command::new("kcat")
        .args(["-P", "-b", cluster.brokers(), "-t", &road.input, "-K", "\t", "-H", "source=kcat", "-l"])
        .arg(&file)
        .output()
        .expect("kcat is installed by `make test`");
    assert!(kcat.status.success(), "kcat: {}", String::from_utf8_lossy(&kcat.stderr));

    let mut reader = Reader::new(cluster, &road.output, "read_committed");
    let mut scores = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while scores.len() < N_MESSAGES as usize && Instant::now() < deadline {
        scores.extend(reader.next(Duration::from_millis(50)));
    }
    service.stop_well();
    scores.extend(reader.rest());

    let inputs = read_all(cluster, &road.input).into_iter().map(|input| ((input.partition, input.offset), input));
    let inputs: BTreeMap<(i32, i64), Record> = inputs.collect();
    let validator = score_schema();
    let mut ids = BTreeSet::new();
    for score in &scores {
        let value = score.json();
        validator.validate(&value).unwrap_or_else(|error| panic!("{error}: {value}"));
        let source =
            (value["source"]["partition"].as_i64().unwrap() as i32, value["source"]["offset"].as_i64().unwrap());
        let input = &inputs[&source];
        assert_eq!(value["id"], input.json()["id"]);
        assert_eq!((&score.key, score.timestamp), (&input.key, input.timestamp), "key and timestamp of the input");
        assert_eq!(score.header("source"), Some("kcat"), "headers of the input");
        ids.insert(value["id"].as_str().unwrap().to_owned());
    }
    assert_eq!((scores.len() as u64, ids.len() as u64), (N_MESSAGES, N_MESSAGES), "each message has one score");
    assert_eq!(lag(cluster, &road), 0, "everything is committed");
    assert_eq!(read_all(cluster, &road.dead).len(), 0);
}

#[test]
fn a_kill_in_the_middle_loses_nothing() {
    let (cluster, road) = (shared(), Road::new(shared(), "kill"));
    let options = Options::new().named("a").env(SMALL.0, SMALL.1);
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let mut sender = Sender::new(cluster, &road);
    sender.send(N_MESSAGES);
    let mut service = Vigie::start(&road, &options);
    service.wait_published(N_MESSAGES / 5);
    service.kill();
    ledger.read_for(Duration::from_secs(1));
    assert!(ledger.n_found() < N_MESSAGES, "the kill came too late to mean anything");

    let service = Vigie::start_ready(&road, &options);
    ledger.wait_for(N_MESSAGES);
    service.stop_well();
    let n_repeats = ledger.settle(N_MESSAGES);
    assert!(n_repeats < N_MESSAGES / 2, "{n_repeats} repeats: commits do not keep up with deliveries");
    assert_eq!(lag(cluster, &road), 0);
}

#[test]
fn others_take_over_within_ten_seconds_of_a_kill() {
    let (cluster, road) = (shared(), Road::new(shared(), "takeover"));
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let mut survivor = Vigie::start_ready(&road, &Options::new());
    let mut victim = Vigie::start_ready(&road, &Options::new());
    let steady = Sender::new(cluster, &road).go_on(300);
    victim.wait_published(100);
    survivor.wait_published(100);

    victim.kill();
    let killed = Instant::now();
    // Three messages of every author sent after the kill: of every partition of the victim.
    let n_wanted = steady.n_sent() + 300;
    ledger.wait_for(n_wanted);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(10), "taking over took {took:?}");

    let n_sent = steady.stop().n_sent();
    ledger.wait_for(n_sent);
    survivor.stop_well();
    ledger.settle(n_sent);
}

#[test]
fn sigterm_under_load_loses_nothing_and_repeats_nothing() {
    let (cluster, road) = (shared(), Road::new(shared(), "term"));
    let options = Options::new().env(SMALL.0, SMALL.1);
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let mut sender = Sender::new(cluster, &road);
    sender.send(N_MESSAGES);
    let mut service = Vigie::start(&road, &options);
    service.wait_published(N_MESSAGES / 5);
    service.stop_well();
    ledger.read_for(Duration::from_millis(500));
    assert!(ledger.n_found() < N_MESSAGES, "the stop came too late to mean anything");

    let service = Vigie::start_ready(&road, &options);
    ledger.wait_for(N_MESSAGES);
    service.stop_well();
    assert_eq!(ledger.settle(N_MESSAGES), 0, "scores that came twice");
}

#[test]
fn exactly_once_survives_two_kills() {
    let (cluster, road) = (shared(), Road::new(shared(), "exactly"));
    let options = Options::exactly_once("a").env(SMALL.0, SMALL.1).env("VIGIE_TRANSACTION_MESSAGES", "500");
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let mut sender = Sender::new(cluster, &road);
    sender.send(N_MESSAGES);
    for _ in 0..2 {
        let mut service = Vigie::start(&road, &options);
        service.wait_published(N_MESSAGES / 5);
        service.kill();
    }
    ledger.read_for(Duration::from_millis(500));
    assert!(ledger.n_found() < N_MESSAGES, "the kills came too late to mean anything");

    let service = Vigie::start_ready(&road, &options);
    ledger.wait_for(N_MESSAGES);
    service.stop_well();
    assert_eq!(ledger.settle(N_MESSAGES), 0, "scores that came twice");
    assert_eq!(lag(cluster, &road), 0);
}

/// What a member leaves behind that is killed between sending offsets and committing them, and a rebalance while it is still there.
#[test]
fn an_open_transaction_of_a_dead_member_makes_nobody_begin_anew() {
    let (cluster, road) = (shared(), Road::new(shared(), "left-open"));
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let mut sender = Sender::new(cluster, &road);
    let first = Vigie::start_ready(&road, &Options::exactly_once("a"));
    sender.send(600);
    ledger.wait_for(600);
    first.stop_well();

    let dead: ThreadedProducer<DefaultProducerContext> =
        cluster.client().set("transactional.id", "dead").create().unwrap();
    dead.init_transactions(PATIENCE).unwrap();
    dead.begin_transaction().unwrap();
    let group: BaseConsumer = cluster.client().set("group.id", &road.name).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    for partition in 0..cluster.leaders(&road.input).len() as i32 {
        offsets.add_partition_offset(&road.input, partition, Offset::Offset(1)).unwrap();
    }
    dead.send_offsets_to_transaction(&offsets, &group.group_metadata().unwrap(), PATIENCE).unwrap();

    let [second, third] = ["b", "c"].map(|name| {
        let mut service = Vigie::start(&road, &Options::exactly_once(name));
        service.wait_for("that it has partitions", |service| {
            (service.metric("vigie_rebalanced_partitions_total") > 0.0).then_some(())
        });
        service
    });
    std::thread::sleep(Duration::from_secs(3));
    dead.abort_transaction(PATIENCE).unwrap();
    sender.send(600);
    ledger.wait_for(1200);
    second.stop_well();
    third.stop_well();
    assert_eq!(ledger.settle(1200), 0, "scores that came twice");
}

#[test]
fn of_two_instances_with_one_transactional_id_one_ends_and_nothing_comes_twice() {
    assert_eq!(run_doubles("doubles", &Options::exactly_once("same")), 0, "scores that came twice");
}

#[test]
fn of_two_instances_with_one_instance_id_one_ends_and_nothing_is_lost() {
    run_doubles("twins", &Options::new().named("same"));
}

/// Runs two services that take each other's place until one gives up, then the other alone until all is scored. Returns how many came twice.
fn run_doubles(name: &str, options: &Options) -> u64 {
    let (cluster, road) = (shared(), Road::new(shared(), name));
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let steady = Sender::new(cluster, &road).go_on(500);
    let mut doubles = vec![Vigie::start(&road, options), Vigie::start(&road, options)];
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(index) = doubles.iter_mut().position(|double| !double.is_running()) {
            break doubles.swap_remove(index);
        }
        assert!(Instant::now() < deadline, "both live on:\n{}", doubles[0].log_tail());
        ledger.read_for(Duration::from_millis(50));
    };
    assert!(ended.log_text().contains("give each its own"), "{}", ended.log_text());
    let n_sent = steady.stop().n_sent();
    ledger.wait_for(n_sent);
    doubles.remove(0).stop_well();
    ledger.settle(n_sent)
}

#[test]
fn instances_that_join_and_leave_lose_repeat_and_reorder_nothing() {
    let (cluster, road) = (shared(), Road::new(shared(), "members"));
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let first = Vigie::start_ready(&road, &Options::new());
    let steady = Sender::new(cluster, &road).go_on(1000);
    let mut second = Vigie::start_ready(&road, &Options::new());
    second.wait_published(500);
    first.stop_well();
    let mut third = Vigie::start_ready(&road, &Options::new());
    third.wait_published(500);
    second.stop_well();
    let n_so_far = steady.n_sent();
    ledger.wait_for(n_so_far);
    let n_sent = steady.stop().n_sent();
    ledger.wait_for(n_sent);
    third.stop_well();
    assert_eq!(ledger.settle(n_sent), 0, "scores that came twice");
}

/// A value that cannot be scored, and why.
fn broken_values() -> Vec<(Option<Vec<u8>>, &'static str)> {
    let nested = format!("{{\"text\":\"a\",\"more\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"text\":\"{}\"}}", "a".repeat(5_000_000));
    vec![
        (Some(b"caf\xe9 au lait".to_vec()), "not_utf8"),
        (Some(b"{\"text\": \"never ends".to_vec()), "not_json"),
        (Some(b"{\"id\": \"7\", \"body\": \"elsewhere\"}".to_vec()), "text_missing"),
        (Some(b"{\"text\": 42}".to_vec()), "text_not_string"),
        (Some(large.into_bytes()), "too_large"),
        (Some(nested.into_bytes()), "too_deep"),
        (Some(Vec::new()), "empty"),
        (None, "empty"),
    ]
}

#[test]
fn broken_records_become_dead_letters_and_hold_nothing_up() {
    let (cluster, road) = (shared(), Road::new(shared(), "broken"));
    let good = |partition: i32, id: String| Record {
        partition,
        value: Some(
            format!("{{\"id\":\"{id}\",\"text\":\"Bonjour à tous, rendez-vous au marché samedi.\"}}").into_bytes(),
        ),
        ..Record::default()
    };
    // Twice over eight kinds and six partitions: each partition holds good ones before, between and a bad one at its end.
    let mut records = Vec::new();
    let mut reasons = BTreeMap::new();
    for (index, (value, reason)) in broken_values().into_iter().chain(broken_values()).enumerate() {
        let partition = index as i32 % 6;
        records.push(good(partition, format!("good-{index}")));
        let key = format!("bad-{index}");
        records.push(Record {
            partition,
            key: Some(key.clone().into_bytes()),
            value,
            headers: vec![("trace".to_owned(), Some(vec![0, 255])), ("nothing".to_owned(), None)],
            ..Record::default()
        });
        reasons.insert(key, reason);
    }
    send_raw(cluster, &road.input, &records);
    let service = Vigie::start_ready(&road, &Options::new());
    let deadline = Instant::now() + PATIENCE;
    while lag(cluster, &road) > 0 {
        assert!(Instant::now() < deadline, "offsets stand still before a broken record:\n{}", service.log_tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    service.stop_well();

    let inputs = read_all(cluster, &road.input).into_iter().map(|input| ((input.partition, input.offset), input));
    let inputs: BTreeMap<(i32, i64), Record> = inputs.collect();
    let letters = read_all(cluster, &road.dead);
    assert_eq!(letters.len(), reasons.len());
    for letter in letters {
        let number = |name: &str| letter.header(name).unwrap().parse::<i64>().unwrap();
        let input = &inputs[&(number("vigie-source-partition") as i32, number("vigie-source-offset"))];
        let key = String::from_utf8(input.key.clone().unwrap()).unwrap();
        assert_eq!(letter.header("vigie-reason"), Some(reasons.remove(&key).unwrap()));
        assert_eq!((&letter.key, &letter.value), (&input.key, &input.value), "the original, untouched");
        assert_eq!(letter.headers[..2], input.headers[..], "headers of the original come first");
        assert_eq!(letter.header("vigie-source-topic"), Some(road.input.as_str()));
        assert_eq!(letter.timestamp, input.timestamp);
        assert!(!letter.header("vigie-model").unwrap().is_empty());
    }
    let scored: BTreeSet<String> =
        read_all(cluster, &road.output).iter().map(|score| score.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(scored, (0..16).map(|index| format!("good-{index}")).collect());
}

#[test]
fn a_broker_that_dies_and_comes_back_costs_no_message() {
    let mut cluster = Cluster::start(1);
    let road = Road::new(&cluster, "broker");
    let mut ledger = Ledger::new(&cluster, &road, "read_committed");
    let mut service = Vigie::start_ready(&road, &Options::new());
    let steady = Sender::new(&cluster, &road).go_on(1000);
    service.wait_published(2000);
    cluster.kill(0);
    std::thread::sleep(Duration::from_secs(2));
    cluster.restart(0);
    let n_before = ledger.n_found();
    ledger.wait_for(n_before + 2000);
    assert!(service.is_running());
    let n_sent = steady.stop().n_sent();
    ledger.wait_for(n_sent);
    service.stop_well();
    ledger.settle(n_sent);
    assert_eq!(lag(&cluster, &road), 0);
}

#[test]
fn timestamps_that_the_output_topic_refuses_cost_no_message_and_little_time() {
    const YEAR: i64 = 365 * 24 * 3_600_000;
    let cluster = shared();
    for (name, options) in [("clock", Options::new()), ("clock-exact", Options::exactly_once("a"))] {
        let road = Road::new(cluster, name);
        // Brokers refuse times more than an hour ahead. This input takes them, as topics of older brokers do.
        cluster.configure_topic(&road.input, &[("message.timestamp.after.max.ms", "9223372036854775807")]);
        let mut ledger = Ledger::new(cluster, &road, "read_committed");
        if name == "clock" {
            // At least once, what follows a refused record may be published before it.
            ledger.forget_order();
        }
        let mut sender = Sender::new(cluster, &road);
        let service = Vigie::start_ready(&road, &options);
        for clock_error in [0, YEAR, 0] {
            sender.clock_error = clock_error;
            sender.send(500);
        }
        ledger.wait_for(1500);
        // By now it is known that such times are refused.
        sender.clock_error = YEAR;
        let began = Instant::now();
        sender.send(5000);
        ledger.wait_for(6500);
        assert!(began.elapsed() < Duration::from_secs(20), "{name} took {:?}", began.elapsed());
        service.stop_well();
        assert_eq!(ledger.settle(6500), 0);
        assert_eq!(lag(cluster, &road), 0);
    }
}

#[test]
fn a_stop_while_another_instance_joins_repeats_nothing() {
    let (cluster, road) = (shared(), Road::new(shared(), "relay"));
    let mut ledger = Ledger::new(cluster, &road, "read_committed");
    let mut current = Vigie::start_ready(&road, &Options::new());
    let steady = Sender::new(cluster, &road).go_on(1000);
    for round in 0..16 {
        current.wait_published(300);
        let mut next = Vigie::start(&road, &Options::new());
        next.wait_for("that it joins", |next| {
            next.log_lines().any(|line| line["message"] == "stream started").then_some(())
        });
        // Somewhere in the rebalance.
        std::thread::sleep(Duration::from_millis(round * 7));
        current.stop_well();
        next.wait_ready();
        current = next;
    }
    let n_sent = steady.stop().n_sent();
    ledger.wait_for(n_sent);
    current.stop_well();
    assert_eq!(ledger.settle(n_sent), 0, "scores that came twice");
}
