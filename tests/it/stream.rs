//! The road from input topic to output topics, against librdkafka's in-process broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use prometheus::core::Collector as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};
use vigie::config::*;
use vigie::metrics::Metrics;
use vigie::models::{self, ModelHandle};
use vigie::shutdown::Shutdown;
use vigie::stream::{self, Service, StreamError};

const PATIENCE: Duration = Duration::from_secs(30);
const N_PARTITIONS: i32 = 4;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A broker with the three topics.
fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["vigie.in", "vigie.scores", "vigie.dead"] {
        cluster.create_topic(topic, N_PARTITIONS, 1).unwrap();
    }
    cluster
}

fn settings(cluster: &Cluster) -> Settings {
    let consumer_properties = [("fetch.wait.max.ms", "10")];
    Settings {
        kafka: KafkaSettings {
            brokers: cluster.bootstrap_servers(),
            group: "vigie".to_owned(),
            instance_id: String::new(),
            input_topic: "vigie.in".to_owned(),
            output_topic: "vigie.scores".to_owned(),
            dead_letter_topic: "vigie.dead".to_owned(),
            delivery: Delivery::AtLeastOnce,
            transactional_id: String::new(),
            create_topics: false,
            partitions: N_PARTITIONS,
            replication: 1,
            properties: BTreeMap::new(),
            consumer_properties: consumer_properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            producer_properties: [("linger.ms".to_owned(), "0".to_owned())].into(),
        },
        input: InputSettings {
            text_pointer: "/text".to_owned(),
            max_bytes: 1 << 20,
            max_depth: 32,
            explain: false,
            dead_letter_text: true,
        },
        pipeline: PipelineSettings {
            batch_messages: 64,
            batch_wait_ms: 5,
            workers: 2,
            max_in_flight: 1000,
            max_in_flight_bytes: 16 << 20,
            commit_interval_ms: 50,
            transaction_messages: 100,
            drain_timeout_ms: 10_000,
        },
        model: ModelSettings { model: String::new(), registry: "models".into() },
        http: HttpSettings { http: "off".to_owned(), ..Settings::defaults().http },
        log: LogSettings { log: "info".to_owned(), log_format: LogFormat::Text },
    }
}

/// A service that runs until it is stopped.
struct Running {
    service: Service,
    shutdown: Shutdown,
    metrics: Metrics,
}

fn run(settings: &Settings) -> Running {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let shutdown = Shutdown::new();
    let models = ModelHandle::new(Arc::new(models::builtin().unwrap()));
    let service = stream::start(settings, models, metrics.clone(), shutdown.clone()).unwrap();
    Running { service, shutdown, metrics }
}

impl Running {
    fn stop(self) -> Result<(), StreamError> {
        self.shutdown.request();
        self.service.join()
    }
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Debug, Clone, Default)]
struct Input {
    partition: i32,
    key: Option<&'static str>,
    payload: Option<Vec<u8>>,
    headers: Vec<(&'static str, &'static str)>,
    timestamp: Option<i64>,
}

fn input(partition: i32, payload: impl Into<Vec<u8>>) -> Input {
    Input { partition, payload: Some(payload.into()), ..Input::default() }
}

fn produce(cluster: &Cluster, inputs: &[Input]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("linger.ms", "0")
        .set("message.max.bytes", "20000000")
        .create()
        .unwrap();
    for input in inputs {
        let headers = input
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, &(key, value)| headers.insert(Header { key, value: Some(value) }));
        let record = BaseRecord::<str, [u8]> {
            topic: "vigie.in",
            partition: Some(input.partition),
            payload: input.payload.as_deref(),
            key: input.key,
            timestamp: input.timestamp,
            headers: Some(headers),
            delivery_opaque: (),
        };
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// Reads a topic from its start until `n` records came.
fn read(cluster: &Cluster, topic: &str, n: usize) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..N_PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while records.len() < n {
        assert!(Instant::now() < deadline, "{} of {n} records came from {topic}", records.len());
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            records.push(message.detach());
        }
    }
    records
}

fn values(records: &[OwnedMessage]) -> Vec<Value> {
    records.iter().map(|record| serde_json::from_slice(record.payload().unwrap()).unwrap()).collect()
}

fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a str> {
    let header = record.headers()?.iter().filter(|header| header.key == name).last()?;
    header.value.map(|value| std::str::from_utf8(value).unwrap())
}

/// The group's committed offset of a partition; `None` before the first.
fn committed(cluster: &Cluster, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "vigie")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition("vigie.in", partition);
    let list = consumer.committed_offsets(list, PATIENCE).unwrap();
    let offset = list.elements()[0].offset();
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

const TEXT: &str = "Les modérateurs ont supprimé ce commentaire hier soir parce qu'il insultait toute une communauté.";

fn check_score_shape(record: &Value) {
    let keys: BTreeSet<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "schema",
        "id",
        "source",
        "model",
        "lang",
        "signals",
        "reading",
        "abstained",
        "passages",
        "explanation",
        "scored_at",
    ];
    assert_eq!(keys, expected.into(), "{record}");
    assert_eq!(record["schema"], "vigie.score/1");
    assert_eq!(record["model"]["sha256"].as_str().unwrap().len(), 64);
    record["scored_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    if record["abstained"].is_null() {
        for signal in ["antisemitism", "hate_speech", "moderation", "attack", "counter_speech"] {
            let score = record["signals"][signal]["score"].as_f64().unwrap();
            assert!((0.0..1.0).contains(&score), "{record}");
            assert!(["low", "uncertain", "high"].contains(&record["signals"][signal]["band"].as_str().unwrap()));
        }
    } else {
        assert!(record["signals"].is_null() && record["reading"].is_null(), "{record}");
    }
}

#[test]
fn every_kind_of_input_gets_its_score() {
    let cluster = cluster();
    let event = json!({"specversion": "1.0", "type": "post", "source": "s", "id": "event-1", "data": {"text": TEXT}});
    let inputs = [
        input(0, json!({"id": "json-1", "text": TEXT, "title": "t", "lang": "fr"}).to_string()),
        input(1, TEXT),
        Input { headers: vec![("ce_id", "event-2"), ("trace", "abc")], ..input(2, json!({"text": TEXT}).to_string()) },
        Input { key: Some("k"), timestamp: Some(1_700_000_000_123), ..input(3, event.to_string()) },
        input(0, json!({"id": "blank", "text": " "}).to_string()),
    ];
    produce(&cluster, &inputs);
    let running = run(&settings(&cluster));
    let records = read(&cluster, "vigie.scores", inputs.len());
    let scores = values(&records);
    scores.iter().for_each(check_score_shape);
    let ids: BTreeSet<&str> = scores.iter().map(|score| score["id"].as_str().unwrap()).collect();
    assert_eq!(ids, BTreeSet::from(["json-1", "vigie.in/1/0", "event-2", "event-1", "blank"]));
    let of = |id: &str| scores.iter().position(|score| score["id"] == id).unwrap();
    assert_eq!(scores[of("blank")]["abstained"], "empty");
    assert_eq!(scores[of("json-1")]["source"]["partition"], 0);
    assert_eq!(header(&records[of("event-2")], "trace"), Some("abc"));
    let event = &records[of("event-1")];
    assert_eq!((event.key(), event.timestamp().to_millis()), (Some(&b"k"[..]), Some(1_700_000_000_123)));
    assert_eq!(scores[of("event-1")]["source"]["timestamp"], "2023-11-14T22:13:20.123Z");
    // Without a key the score goes where its input was.
    assert_eq!(records[of("vigie.in/1/0")].partition(), 1);

    wait_until("everything is committed", || committed(&cluster, 0) == Some(2));
    wait_until("the lag is known and gone", || {
        let lags = running.metrics.consumer_lag.collect();
        let lags = lags.iter().flat_map(|family| family.get_metric());
        lags.clone().count() == 4 && lags.map(|lag| lag.get_gauge().get_value()).sum::<f64>() == 0.0
    });
    let metrics = &running.metrics;
    assert_eq!((metrics.messages_consumed.get(), metrics.scores_published.get()), (5, 5));
    assert_eq!((metrics.ready.get(), metrics.in_flight.get()), (1, 0));
    assert_eq!(metrics.end_to_end_seconds.get_sample_count(), 5);
    assert_eq!(metrics.rebalanced_partitions.with_label_values(&["gained"]).get(), 4);
    for stage in vigie::metrics::Stage::ALL {
        assert!(metrics.stage_seconds.with_label_values(&[stage.as_str()]).get_sample_count() > 0, "{stage:?}");
    }
    running.stop().unwrap();
}

#[test]
fn a_bad_record_becomes_a_dead_letter_and_holds_nothing_up() {
    let cluster = cluster();
    let deep = format!(r#"{{"text":{}"#, "[".repeat(100));
    let bad: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("not_utf8", Some(b"caf\xe9".to_vec())),
        ("not_json", Some(br#"{"text": "#.to_vec())),
        ("text_missing", Some(br#"{"body":"x"}"#.to_vec())),
        ("text_not_string", Some(br#"{"text":{"a":1}}"#.to_vec())),
        ("too_deep", Some(deep.into_bytes())),
        ("too_large", Some(vec![b'a'; 5_000_000])),
        ("empty", Some(Vec::new())),
        ("empty", None),
    ];
    // The bad record is the last of its partition, so that no later one hides an offset that is stuck.
    let mut inputs = Vec::new();
    for (index, (_, payload)) in bad.iter().enumerate() {
        let partition = index as i32 % N_PARTITIONS;
        inputs.push(input(partition, TEXT));
        let headers = vec![("origin", "test")];
        inputs.push(Input {
            partition,
            key: Some("k"),
            payload: payload.clone(),
            headers,
            timestamp: Some(1_700_000_000_000),
        });
    }
    produce(&cluster, &inputs);
    let running = run(&settings(&cluster));
    let letters = read(&cluster, "vigie.dead", bad.len());
    for letter in &letters {
        let partition: usize = header(letter, "vigie-source-partition").unwrap().parse().unwrap();
        let offset: usize = header(letter, "vigie-source-offset").unwrap().parse().unwrap();
        let (reason, payload) = &bad[offset / 2 * N_PARTITIONS as usize + partition];
        assert_eq!(header(letter, "vigie-reason"), Some(*reason));
        assert_eq!(letter.payload(), payload.as_deref(), "{reason}");
        assert_eq!((letter.key(), header(letter, "origin")), (Some(&b"k"[..]), Some("test")));
        assert_eq!(letter.timestamp().to_millis(), Some(1_700_000_000_000));
        assert_eq!(header(letter, "vigie-source-topic"), Some("vigie.in"));
        assert_eq!(header(letter, "vigie-source-timestamp"), Some("2023-11-14T22:13:20.000Z"));
        assert!(header(letter, "vigie-model").is_some() && header(letter, "vigie-detail").is_some());
    }
    read(&cluster, "vigie.scores", bad.len());
    wait_until("everything is committed", || (0..N_PARTITIONS).all(|p| committed(&cluster, p) == Some(4)));
    assert_eq!(running.metrics.dead_letters.with_label_values(&["empty"]).get(), 2);
    running.stop().unwrap();
}

#[test]
fn text_stays_out_of_dead_letters_when_asked() {
    let cluster = cluster();
    produce(&cluster, &[input(0, br#"{"text": "secret words"#.to_vec())]);
    let mut settings = settings(&cluster);
    settings.input.dead_letter_text = false;
    let running = run(&settings);
    let letters = read(&cluster, "vigie.dead", 1);
    running.stop().unwrap();
    let value = &values(&letters)[0];
    // printf '{"text": "secret words' | sha256sum
    let sha256 = "73a9297e8b84bafb778f9612acb71bc0652d1aad73e035206dfa210490259d54";
    assert_eq!(value, &json!({"schema": "vigie.dead/1", "sha256": sha256, "length": 22}));
    assert!(!header(&letters[0], "vigie-detail").unwrap().contains("secret"));
}

#[test]
fn order_is_kept_by_key_and_partition() {
    let cluster = cluster();
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    let inputs: Vec<Input> = (0..2000)
        .map(|number: usize| {
            // Long and short texts in turn, so that batches are done out of order.
            let text = if number % 100 < 50 { TEXT.repeat(20) } else { TEXT.to_owned() };
            let payload = json!({"id": number, "text": text}).to_string();
            let key = number.is_multiple_of(2).then(|| keys[number % 7]);
            Input { key, ..input(number as i32 % 7 % N_PARTITIONS, payload) }
        })
        .collect();
    produce(&cluster, &inputs);
    let mut settings = settings(&cluster);
    settings.pipeline.batch_messages = 16;
    settings.pipeline.workers = 4;
    let running = run(&settings);
    let records = read(&cluster, "vigie.scores", inputs.len());
    running.stop().unwrap();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (record, value) in records.iter().zip(values(&records)) {
        let number: u64 = value["id"].as_str().unwrap().parse().unwrap();
        let of = match record.key() {
            Some(key) => format!("key {}", String::from_utf8_lossy(key)),
            None => format!("partition {}", value["source"]["partition"]),
        };
        if let Some(before) = last.insert(of.clone(), number) {
            assert!(before < number, "{of}: {number} came after {before}");
        }
    }
    assert_eq!(last.len(), 11);
}

#[test]
fn a_restart_goes_on_where_the_drain_ended() {
    let cluster = cluster();
    let numbered = |numbers: std::ops::Range<i32>| -> Vec<Input> {
        numbers.map(|n| input(n % N_PARTITIONS, json!({"id": n, "text": TEXT}).to_string())).collect()
    };
    let settings = settings(&cluster);
    produce(&cluster, &numbered(0..3000));
    let running = run(&settings);
    // Stopped in the middle, not at the end.
    wait_until("some are scored", || running.metrics.scores_published.get() > 100);
    let taken = running.metrics.messages_consumed.clone();
    let published = running.metrics.scores_published.clone();
    running.stop().unwrap();
    assert_eq!(taken.get(), published.get(), "what was taken is delivered");
    produce(&cluster, &numbered(3000..3500));
    let running = run(&settings);
    wait_until("the rest is scored", || published.get() + running.metrics.scores_published.get() >= 3500);
    running.stop().unwrap();
    let records = read(&cluster, "vigie.scores", 3500);
    let ids: BTreeSet<String> = values(&records).iter().map(|value| value["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3500, "nothing lost, and after a clean drain nothing twice");
}

/// Lets the broker answer the service's next produce requests with these errors. Inputs must be there already.
fn refuse_writes(cluster: &Cluster, errors: &[RDKafkaRespErr]) {
    cluster.request_errors(RDKafkaApiKey::Produce, errors);
}

#[test]
fn produce_errors_that_pass_are_retried() {
    let cluster = cluster();
    produce(&cluster, &[input(0, TEXT)]);
    let passing = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ];
    refuse_writes(&cluster, &passing);
    let running = run(&settings(&cluster));
    read(&cluster, "vigie.scores", 1);
    wait_until("it is committed", || committed(&cluster, 0) == Some(1));
    running.stop().unwrap();
}

#[test]
fn a_refused_write_stops_the_service_and_commits_nothing() {
    let cluster = cluster();
    produce(&cluster, &[input(0, TEXT)]);
    refuse_writes(&cluster, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let running = run(&settings(&cluster));
    wait_until("it stops by itself", || running.service.is_finished());
    assert!(running.shutdown.is_requested(), "the parts around it stop too");
    let error = running.service.join().unwrap_err();
    assert!(error.to_string().starts_with("could not write to topic \"vigie.scores\": "), "{error}");
    assert!(error.hint().unwrap().contains("WRITE"));
    assert_eq!(committed(&cluster, 0), None);
    let again = run(&settings(&cluster));
    read(&cluster, "vigie.scores", 1);
    again.stop().unwrap();
}

#[test]
fn one_score_too_large_does_not_take_its_neighbours_along() {
    let cluster = cluster();
    let inputs: Vec<Input> = (0..20).map(|n| input(0, json!({"id": n, "text": TEXT}).to_string())).collect();
    produce(&cluster, &inputs);
    // The batch, then the first record of it alone.
    refuse_writes(&cluster, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    let running = run(&settings(&cluster));
    let scores = read(&cluster, "vigie.scores", 19);
    let letters = read(&cluster, "vigie.dead", 1);
    wait_until("everything is committed", || committed(&cluster, 0) == Some(20));
    running.stop().unwrap();
    assert_eq!(header(&letters[0], "vigie-reason"), Some("output_too_large"));
    assert_eq!(values(&letters)[0], json!({"id": 0, "text": TEXT}));
    let ids: Vec<u64> = values(&scores).iter().map(|score| score["id"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(ids, (1..20).collect::<Vec<u64>>());
}

#[test]
fn a_dead_letter_too_large_keeps_hash_and_length() {
    // In company, alone with the original, and alone with key and headers.
    for (n_refused, key) in [(2, Some(&b"k"[..])), (3, None)] {
        let cluster = cluster();
        let bad = br#"{"text": "secret words"#;
        produce(&cluster, &[Input { key: Some("k"), headers: vec![("origin", "test")], ..input(0, bad.to_vec()) }]);
        refuse_writes(&cluster, &vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; n_refused]);
        let running = run(&settings(&cluster));
        let letters = read(&cluster, "vigie.dead", 1);
        wait_until("it is committed", || committed(&cluster, 0) == Some(1));
        running.stop().unwrap();
        assert_eq!(header(&letters[0], "vigie-reason"), Some("not_json"));
        assert_eq!(values(&letters)[0]["length"], 22);
        assert_eq!((letters[0].key(), header(&letters[0], "origin").is_some()), (key, key.is_some()));
    }
}

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    let cluster = cluster();
    let running = run(&settings(&cluster));
    wait_until("the service is ready", || running.metrics.ready.get() == 1);
    cluster.broker_down(1).unwrap();
    wait_until("it is not ready any more", || running.metrics.ready.get() == 0);
    cluster.broker_up(1).unwrap();
    produce(&cluster, &[input(0, TEXT)]);
    read(&cluster, "vigie.scores", 1);
    wait_until("it is ready again", || running.metrics.ready.get() == 1);
    assert!(running.metrics.kafka_errors.with_label_values(&["retriable"]).get() > 0);
    running.stop().unwrap();
}

#[test]
fn a_stop_while_the_broker_is_away_ends_in_time_and_loses_nothing() {
    let cluster = cluster();
    let mut settings = settings(&cluster);
    settings.pipeline.drain_timeout_ms = 500;
    let running = run(&settings);
    wait_until("the service is ready", || running.metrics.ready.get() == 1);
    cluster.broker_round_trip_time(1, Duration::from_secs(3)).unwrap();
    produce(&cluster, &(0..50).map(|_| input(0, TEXT)).collect::<Vec<_>>());
    wait_until("records are under way", || running.metrics.in_flight.get() > 0);
    cluster.broker_down(1).unwrap();
    let began = Instant::now();
    running.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    cluster.broker_up(1).unwrap();
    let running = run(&settings);
    let records = read(&cluster, "vigie.scores", 50);
    let offsets: BTreeSet<i64> =
        values(&records).iter().map(|value| value["source"]["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets.len(), 50);
    running.stop().unwrap();
}

/// The in-process broker, unlike Kafka, refuses commits at some moments of a rebalance, about once in twenty times; what could not be committed
/// is scored again. So one of three takeovers has to be clean, and none may lose anything.
#[test]
fn a_second_member_takes_partitions_over_without_loss_or_repeats() {
    let is_clean = (0..3).any(|_| repeats_of_a_takeover() == 0);
    assert!(is_clean, "nothing twice");
}

/// Lets a second member join under load, asserts that nothing is lost and returns how many records were scored twice.
fn repeats_of_a_takeover() -> u64 {
    let cluster = cluster();
    let settings = settings(&cluster);
    let numbered = |numbers: std::ops::Range<i32>| -> Vec<Input> {
        numbers.map(|n| input(n % N_PARTITIONS, json!({"id": n, "text": TEXT}).to_string())).collect()
    };
    let first = run(&settings);
    wait_until("the first member is ready", || first.metrics.ready.get() == 1);
    let second = run(&settings);
    let n_published = || first.metrics.scores_published.get() + second.metrics.scores_published.get();
    let mut n = 0;
    wait_until("the second member has partitions, under load", || {
        produce(&cluster, &numbered(n..n + 20));
        n += 20;
        second.metrics.rebalanced_partitions.with_label_values(&["gained"]).get() > 0
    });
    produce(&cluster, &numbered(n..n + 100));
    n += 100;
    assert!(first.metrics.rebalanced_partitions.with_label_values(&["lost"]).get() > 0);
    let ids = || -> BTreeSet<String> {
        let records = read(&cluster, "vigie.scores", n_published() as usize);
        values(&records).iter().map(|value| value["id"].to_string()).collect()
    };
    wait_until("nothing is lost", || n_published() >= n as u64 && ids().len() == n as usize);
    let (first_metrics, second_metrics) = (first.metrics.clone(), second.metrics.clone());
    second.stop().unwrap();
    first.stop().unwrap();
    first_metrics.scores_published.get() + second_metrics.scores_published.get() - n as u64
}

#[test]
fn a_slow_output_bounds_what_is_taken() {
    let cluster = cluster();
    produce(&cluster, &(0..2000).map(|n| input(n % N_PARTITIONS, TEXT)).collect::<Vec<_>>());
    let mut settings = settings(&cluster);
    settings.pipeline.max_in_flight = 50;
    settings.pipeline.batch_messages = 10;
    let running = run(&settings);
    wait_until("it is full", || running.metrics.in_flight.get() >= 40);
    cluster.broker_round_trip_time(1, Duration::from_millis(600)).unwrap();
    let mut most = 0;
    // Slow enough for fetching to be paused and resumed.
    wait_until("some came through", || {
        most = most.max(running.metrics.in_flight.get());
        running.metrics.scores_published.get() > 200
    });
    cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    wait_until("all came through", || running.metrics.scores_published.get() == 2000);
    assert!(most <= 50, "{most} in flight");
    running.stop().unwrap();
}

/// The in-process broker's transactions are only acted (offsets are not stored, aborted records are visible); what is tested here is that
/// we open, close, abort and rewind at the right moments. The real thing is tested in `tests/kafka`.
#[test]
fn transactions_are_committed_and_aborted_ones_repeated() {
    let cluster = cluster();
    let inputs: Vec<Input> =
        (0..500).map(|n| input(n % N_PARTITIONS, json!({"id": n, "text": TEXT}).to_string())).collect();
    produce(&cluster, &inputs);
    refuse_writes(&cluster, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let mut settings = settings(&cluster);
    settings.kafka.delivery = Delivery::ExactlyOnce;
    let running = run(&settings);
    let seen = || -> BTreeSet<String> {
        let n = running.metrics.scores_published.get() as usize;
        values(&read(&cluster, "vigie.scores", n)).iter().map(|value| value["id"].to_string()).collect()
    };
    wait_until("all are scored", || running.metrics.scores_published.get() >= 500 && seen().len() == 500);
    wait_until("nothing is under way", || running.metrics.in_flight.get() == 0);
    assert!(running.metrics.messages_consumed.get() > 500, "the aborted transaction was read again");
    let n_commits = running.metrics.stage_seconds.with_label_values(&["commit"]).get_sample_count();
    assert!(n_commits > 0, "what is scored is committed");
    running.stop().unwrap();
}

#[test]
fn a_producer_that_is_lost_for_good_is_replaced_but_not_for_ever() {
    let cluster = cluster();
    let lost = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE];
    let mut settings = settings(&cluster);
    settings.kafka.delivery = Delivery::ExactlyOnce;
    let running = run(&settings);
    cluster.request_errors(RDKafkaApiKey::EndTxn, &lost);
    produce(&cluster, &[input(0, TEXT)]);
    // The in-process broker keeps no offsets of transactions, so the second comes after a first that is read again.
    wait_until("it is scored by new clients", || running.metrics.scores_published.get() >= 2);
    wait_until("nothing is under way", || running.metrics.in_flight.get() == 0);
    assert!(!running.service.is_finished());
    assert_eq!(running.metrics.kafka_errors.with_label_values(&["fatal"]).get(), 1);

    cluster.request_errors(RDKafkaApiKey::EndTxn, &[lost[0]; 5]);
    produce(&cluster, &[input(0, TEXT)]);
    wait_until("it gives up", || running.service.is_finished());
    let error = running.service.join().unwrap_err();
    assert!(matches!(error, StreamError::Producer { .. }), "{error}");
}

#[test]
fn a_setting_that_breaks_a_promise_is_refused() {
    let cluster = cluster();
    let start = |settings: &Settings| {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        stream::start(settings, ModelHandle::new(Arc::new(models::builtin().unwrap())), metrics, Shutdown::new())
            .unwrap_err()
    };
    let mut refused = settings(&cluster);
    refused.kafka.consumer_properties.insert("enable.auto.commit".to_owned(), "true".to_owned());
    let error = start(&refused);
    assert_eq!(error.to_string(), "property \"enable.auto.commit\" cannot be set");
    assert!(error.is_configuration() && error.hint().unwrap().contains("after delivery"));
    let mut misspelt = settings(&cluster);
    misspelt.kafka.properties.insert("sasl.pasword".to_owned(), "hunter2".to_owned());
    let error = start(&misspelt);
    assert!(error.to_string().contains("sasl.pasword") && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn topics_are_checked_with_errors_that_say_what_to_do() {
    let cluster = cluster();
    let mut kafka = settings(&cluster).kafka;
    let patience = Duration::from_secs(5);
    let topics = stream::topics::ensure(&kafka, patience).unwrap();
    assert_eq!((topics.input.n_partitions, topics.output.n_replicas, topics.input.n_leaderless), (N_PARTITIONS, 1, 0));
    kafka.dead_letter_topic = "vigie.daed".to_owned();
    let error = stream::topics::ensure(&kafka, patience).unwrap_err();
    assert_eq!(error.to_string(), "topic \"vigie.daed\" does not exist");
    assert!(error.hint().unwrap().contains("--create-topics"));
    cluster.topic_error("vigie.in", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let error = stream::topics::ensure(&kafka, patience).unwrap_err();
    assert_eq!(error.to_string(), "access to topic \"vigie.in\" is not allowed");
    kafka.brokers = "127.0.0.1:1".to_owned();
    let error = stream::topics::ensure(&kafka, Duration::from_secs(2)).unwrap_err();
    assert!(error.to_string().starts_with("could not reach a kafka broker at 127.0.0.1:1: "), "{error}");
}
