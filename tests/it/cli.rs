//! The program as people meet it: calls in, output, errors and exit codes out.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use serde_json::{Value, json};
use vigie::models::{builtin, builtin_bytes};

const PATIENCE: Duration = Duration::from_secs(40);

/// A call in an empty folder, without settings from the environment of whoever runs the tests.
fn vigie(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vigie"));
    command.args(args).stdin(Stdio::null()).env_clear();
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What an error looks like: exit code, standard output, standard error; `hide` is replaced by `…`.
fn shown(output: &Output, hide: &[&str]) -> String {
    let mut shown = format!("exit {}\n{}{}", output.status.code().unwrap(), text(&output.stdout), text(&output.stderr));
    for part in hide {
        shown = shown.replace(part, "…");
    }
    shown
}

#[test]
fn help_reads_well() {
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_demo", &["demo", "--help"]),
        ("help_serve", &["serve", "--help"]),
        ("help_check", &["check", "--help"]),
        ("help_replay", &["replay", "--help"]),
        ("help_bench", &["bench", "--help"]),
        ("help_score", &["score", "--help"]),
        ("help_explain", &["explain", "--help"]),
        ("help_model", &["model", "--help"]),
        ("help_model_diff", &["model", "diff", "--help"]),
    ] {
        let output = run(&mut vigie(args));
        assert!(output.status.success() && output.stderr.is_empty(), "{name}");
        insta::assert_snapshot!(name, text(&output.stdout));
    }
}

#[test]
fn the_manual_is_that_of_the_program() {
    let manual = text(&run(&mut vigie(&["manual"])).stdout);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(manual == written, "docs/configuration.md is stale: cargo run -- manual > docs/configuration.md");
}

#[test]
fn wrong_calls_and_settings_say_what_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().display().to_string();
    let file = |name: &str, content: &str| {
        std::fs::write(folder.path().join(name), content).unwrap();
        format!("{here}/{name}")
    };
    let misspelt = file("misspelt.toml", "[kafka]\nbrokers = \"a:1\"\ninput_topics = \"texts\"\n");
    let wrong_type = file("type.toml", "[pipeline]\nworkers = \"all\"\n");
    let broken = file("broken.toml", "[kafka\n");
    let mut shown_all = String::new();
    let mut show = |what: &str, command: &mut Command| {
        let output = run(command);
        assert_eq!(output.status.code(), Some(2), "{what}: {}", text(&output.stderr));
        shown_all.push_str(&format!("# {what}\n{}\n", shown(&output, &[&here])));
    };
    show("no command", &mut vigie(&["serv"]));
    show("misspelt setting", &mut vigie(&["serve", "--config", &misspelt]));
    show("misspelt variable", vigie(&["serve"]).env("VIGIE_BROKER", "a:1"));
    show("wrong type", &mut vigie(&["check", "--config", &wrong_type]));
    show("not TOML", &mut vigie(&["check", "--config", &broken]));
    show("no such file", &mut vigie(&["serve", "--config", "/nowhere/vigie.toml"]));
    show("wrong choice", &mut vigie(&["serve", "--delivery", "exactly_once"]));
    show("wrong address", &mut vigie(&["serve", "--http", "9464"]));
    show("half of TLS", vigie(&["serve", "--http", "127.0.0.1:0", "--log", "error"]).env("VIGIE_TLS_KEY", "key.pem"));
    show("property without a value", &mut vigie(&["serve", "-X", "security.protocol"]));
    show("secret that can't be read", &mut vigie(&["serve", "-X", "sasl.password=@/nowhere/secret"]));
    show("misspelt property", &mut vigie(&["serve", "--http", "off", "--log", "error", "-X", "securty.protocol=SSL"]));
    show(
        "property that breaks a promise",
        &mut vigie(&["serve", "--http", "off", "--log", "error", "-X", "producer.acks=0"]),
    );
    show("log filter", &mut vigie(&["serve", "--log", "vigie=loud"]));
    show("unknown reason", &mut vigie(&["replay", "--reason", "not_jason"]));
    show("unreadable time", &mut vigie(&["replay", "--since", "soon"]));
    insta::assert_snapshot!("wrong_calls", shown_all);
}

#[test]
fn what_a_newcomer_meets_says_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().display().to_string();
    let mut cut = builtin_bytes().to_vec();
    cut.truncate(cut.len() / 2);
    std::fs::write(folder.path().join("cut.vigie"), &cut).unwrap();
    let mut altered = builtin_bytes().to_vec();
    *altered.last_mut().unwrap() ^= 1;
    std::fs::write(folder.path().join("altered.vigie"), &altered).unwrap();
    std::fs::write(folder.path().join("text.vigie"), "a text").unwrap();
    std::fs::write(folder.path().join("latin1.txt"), b"d\xe9j\xe0 vu").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // Nothing listens there once it is dropped.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let broker = broker(&["vigie.in"]);
    let servers = broker.bootstrap_servers();
    let mut shown_all = String::new();
    let mut show = |what: &str, args: &[&str]| {
        let output = run(vigie(args).current_dir(folder.path()));
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output.stderr));
        let hide = [here.as_str(), address.as_str(), free.as_str(), servers.as_str(), builtin().unwrap().version()]
            .map(str::to_owned);
        let hide: Vec<&str> = hide.iter().map(String::as_str).collect();
        shown_all.push_str(&format!("# {what}\n{}\n", shown(&output, &hide)));
    };
    show("file that is not there", &["score", "nowhere.txt"]);
    show("folder", &["score", "."]);
    show("not UTF-8", &["score", "latin1.txt"]);
    show("broken model file", &["score", "--model", "cut.vigie"]);
    show("altered model file", &["model", "verify", "altered.vigie"]);
    show("not a model file", &["serve", "--model", "text.vigie"]);
    show("no such version", &["score", "--model", "2020-01-01-a"]);
    show("nothing to promote", &["model", "promote", "2020-01-01-a"]);
    show("nothing to roll back", &["model", "rollback"]);
    show("port in use", &["serve", "--http", &address, "--brokers", &servers]);
    show("no broker", &["check", "--brokers", &free]);
    show("unknown topic", &["check", "--brokers", &servers]);
    show("unknown topic of serve", &["serve", "--http", "off", "--log", "error", "--brokers", &servers]);
    insta::with_settings!({filters => vec![(r"127\.0\.0\.1:\d+", "[address]")]}, {
        insta::assert_snapshot!("newcomer_errors", shown_all);
    });
}

#[test]
fn scores_keep_order_and_other_fields() {
    let records: Vec<String> = (0..600)
        .map(|n| {
            json!({"id": n, "text": format!("Voici le message numéro {n} de ce fil."), "label": n, "lang": "fr"})
                .to_string()
        })
        .collect();
    let output = run_with_input(&mut vigie(&["score", "--jsonl"]), records.join("\n").as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let scored = lines(&output);
    assert_eq!(scored.len(), 600);
    for (n, record) in scored.iter().enumerate() {
        assert_eq!((&record["id"], &record["label"]), (&json!(n.to_string()), &json!(n)));
        assert_eq!((&record["schema"], &record["input_lang"]), (&json!("vigie.score/1"), &json!("fr")));
        assert!(record["signals"]["attack"]["score"].is_f64() && record.get("text").is_none());
    }
}

#[test]
fn a_bad_line_is_told_and_the_others_are_scored() {
    let input = b"{\"text\": \"Un premier message tout simple.\"}\nnot json\n{\"body\": 1}\n{\"text\": \"A last plain message.\"}\n";
    let output = run_with_input(&mut vigie(&["score", "--jsonl", "-"]), input);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output).iter().map(|record| record["id"].clone()).collect::<Vec<_>>(), ["-:1", "-:4"]);
    insta::assert_snapshot!("bad_lines", text(&output.stderr));
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let record = "{\"text\": \"Encore un message, et puis un autre, sans fin.\"}\n".repeat(5000);
    let mut child = vigie(&["score", "--jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    // The reader closes its end after one line.
    let stdout = child.stdout.take().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(record.as_bytes())));
    BufReader::new(stdout).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(first.starts_with('{'));
    assert_eq!(shown(&output, &[]), "exit 0\n");
}

#[test]
fn explanations_name_the_words() {
    let said = "Les juifs tiennent les banques, tout le monde le sait.";
    let output = run(&mut vigie(&["explain", said]));
    let record = &lines(&output)[0];
    let explanation = record["explanation"].as_array().unwrap();
    assert_eq!(explanation.len(), 5);
    let sum = |why: &Value| {
        let spans: f64 =
            why["spans"].as_array().unwrap().iter().map(|span| span["contribution"].as_f64().unwrap()).sum();
        ["bias", "other", "rest"].iter().map(|part| why[part].as_f64().unwrap()).sum::<f64>() + spans
    };
    explanation.iter().for_each(|why| assert!((sum(why) - why["margin"].as_f64().unwrap()).abs() < 1e-9));
}

#[test]
fn models_are_promoted_compared_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let registry = vigie::models::registry::Registry::open(&folder.path().join("models"));
    for version in ["a", "b"] {
        let mut artifact = vigie::scoring::Artifact::read(builtin_bytes()).unwrap();
        artifact.header.version = version.to_owned();
        registry.publish(&artifact.write()).unwrap();
    }
    let call = |args: &[&str]| {
        let output = run(vigie(args).current_dir(folder.path()));
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(call(&["model", "promote", "a"]), "active: a\n");
    assert_eq!(call(&["model", "promote", "b"]), "active: b\n");
    assert!(call(&["model", "list"]).lines().any(|line| line.starts_with("*  b ")), "{}", call(&["model", "list"]));
    assert!(call(&["model", "verify"]).starts_with("ok  b  sha256 "));
    let record: Value = serde_json::from_str(&call(&["explain", "Un message de plus."])).unwrap();
    assert_eq!(record["model"]["version"], "b");
    assert_eq!(call(&["model", "rollback"]), "active: a\n");
    assert_eq!(call(&["model", "rollback"]), "active: the built-in model\n");
    let diff: Value = serde_json::from_str(&call(&["model", "diff", "a", "builtin", "--json"])).unwrap();
    assert_eq!(
        (&diff["features"]["added"], &diff["readings_changed"], &diff["same_training"]),
        (&json!(0), &json!(0), &json!(true))
    );
    assert!(call(&["model", "show", "a"]).contains("Thresholds"));
}

#[test]
fn a_demo_scores_everything_and_ends() {
    let output = run(&mut vigie(&["demo", "--messages", "120", "--http", "off"]));
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains("scores     120   dead letters 0   lost 0   twice 0"), "{said}");
    assert!(said.lines().count() < 60, "{said}");
}

#[test]
fn a_demo_of_own_texts_ends_with_them() {
    let input =
        b"Un message tout simple, en une ligne.\n\n{\"text\": 3}\n{\"text\": \"And one in JSON, for a change.\"}\n";
    let output = run_with_input(&mut vigie(&["demo", "--input", "-", "--http", "127.0.0.1:0"]), input);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains("scores     2   dead letters 1   lost 0   twice 0"), "{said}");
    assert!(text(&output.stderr).contains("http://127.0.0.1:"));
}

type Broker = MockCluster<'static, DefaultProducerContext>;

fn broker(topics: &[&str]) -> Broker {
    let broker = MockCluster::new(1).unwrap();
    topics.iter().for_each(|topic| broker.create_topic(topic, 2, 1).unwrap());
    broker
}

/// A service of its own process; killed when the test fails.
struct Service(Child);

impl Service {
    fn start(broker: &Broker) -> Service {
        let servers = broker.bootstrap_servers();
        let args = ["serve", "--http", "off", "--brokers", &servers, "-X", "consumer.group.protocol=consumer"];
        Service(vigie(&args).env("VIGIE_LOG", "warn").stderr(Stdio::piped()).spawn().unwrap())
    }

    fn terminate(mut self) -> i32 {
        let told = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(told.success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "service does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn n_records(broker: &Broker, topic: &str) -> i64 {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    let count = |partition| {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap();
        high - low
    };
    count(0) + count(1)
}

#[test]
fn a_service_is_measured_and_its_dead_letters_replayed_once() {
    let broker = broker(&["vigie.in", "vigie.scores", "vigie.dead"]);
    let servers = broker.bootstrap_servers();
    let service = Service::start(&broker);

    let bench = run(&mut vigie(&["bench", "--messages", "500", "--brokers", &servers]));
    assert!(bench.status.success(), "{}", text(&bench.stderr));
    let report = &lines(&bench)[0];
    let counts = ["messages", "scores", "dead_letters", "lost", "twice"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts, [500, 500, 0, 0, 0]);
    let gate = run(&mut vigie(&["bench", "--messages", "20", "--min-rate", "1e12", "--brokers", &servers]));
    assert_eq!(gate.status.code(), Some(1));
    assert!(text(&gate.stderr).starts_with("error: gate not met: "), "{}", text(&gate.stderr));

    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
    for value in ["{\"text\": 1}", "{\"text\": 2}", "{ broken"] {
        producer.send(BaseRecord::to("vigie.in").key("k").payload(value)).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while n_records(&broker, "vigie.dead") < 3 {
        assert!(Instant::now() < deadline, "dead letters are missing");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(service.terminate(), 0);

    let replay = |args: &[&str]| {
        let output = run(&mut vigie(&[&["replay", "--json", "--brokers", &servers], args].concat()));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let counts = lines(&output).remove(0);
        (counts["replayed"].clone(), counts["replayed_before"].clone())
    };
    let before = n_records(&broker, "vigie.in");
    let chosen = ["--reason", "text_not_string"];
    assert_eq!(replay(&[&chosen[..], &["--dry-run"]].concat()).0["text_not_string"], 2);
    assert_eq!(n_records(&broker, "vigie.in"), before);
    assert_eq!(replay(&chosen).0["text_not_string"], 2);
    assert_eq!(n_records(&broker, "vigie.in"), before + 2);
    let (replayed, replayed_before) = replay(&[]);
    assert_eq!((&replayed["not_json"], &replayed["text_not_string"]), (&json!(1), &json!(0)));
    assert_eq!(replayed_before["text_not_string"], 2);
    assert_eq!(n_records(&broker, "vigie.in"), before + 3);
}

#[test]
fn a_check_of_a_broker_that_has_everything_passes() {
    let broker = broker(&["vigie.in", "vigie.scores", "vigie.dead"]);
    let output = run(&mut vigie(&["check", "--json", "--brokers", &broker.bootstrap_servers()]));
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let checks: Vec<String> = lines(&output).iter().map(|line| line["what"].as_str().unwrap().to_owned()).collect();
    let expected = [
        "configuration",
        "model",
        "broker",
        "topic vigie.in",
        "topic vigie.scores",
        "topic vigie.dead",
        "group vigie",
        "reading vigie.in",
    ];
    assert_eq!(checks, expected);
}
