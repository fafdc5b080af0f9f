//! The HTTP server from outside: a real one on a free port, asked by a client that is not ours.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use prometheus::Registry;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use vigie::config::{HttpSettings, InputSettings, Settings};
use vigie::http::{self, HttpError, Server};
use vigie::metrics::Metrics;
use vigie::models::ModelHandle;

use crate::taught;

const LIE: &str = "That old lie about Jews and banks again? It has killed before.";
const LONG: &str = "Mardi, la ministre a dénoncé la hausse des messages antisémites 🙄 et demandé aux réseaux de les retirer \
    sous un jour. L'annonce a été faite devant la presse, à la sortie du conseil, et personne n'a encore répondu.\n\n\
    « Les juifs tiennent les banques, tout le monde le sait », disait l'un d'eux, vu plus de mille fois avant d'être \
    retiré par les équipes de modération, qui parlent d'un retard dû au week-end et promettent d'aller plus vite.";

pub struct Running {
    server: Option<Server>,
    runtime: tokio::runtime::Runtime,
    pub address: SocketAddr,
    agent: ureq::Agent,
    ready: Arc<AtomicBool>,
    model: ModelHandle,
}

struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a refusal of that status, and returns what it says.
    fn refused(&self, status: u16) -> String {
        let json = self.json();
        assert_eq!(self.status, status, "{json}");
        assert!(json["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{json}");
        json["error"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
    }
}

pub fn settings() -> HttpSettings {
    HttpSettings {
        http: "127.0.0.1:0".to_owned(),
        max_body_bytes: 100_000,
        timeout_ms: 20_000,
        max_requests: 8,
        ..Settings::defaults().http
    }
}

fn input() -> InputSettings {
    InputSettings {
        text_pointer: "/text".to_owned(),
        max_bytes: 80_000,
        max_depth: 64,
        explain: false,
        dead_letter_text: true,
    }
}

pub fn try_start(settings: &HttpSettings) -> Result<Running, HttpError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let model = ModelHandle::new(Arc::new(taught::model("one")));
    let ready = Arc::new(AtomicBool::new(true));
    let is_ready = Arc::clone(&ready);
    let check = move || if is_ready.load(Ordering::SeqCst) { Ok(()) } else { Err("no partitions yet") };
    let server =
        runtime.block_on(http::start(settings, &input(), model.clone(), registry, metrics, Arc::new(check)))?;
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    Ok(Running { address: server.local_address(), server: Some(server), runtime, agent, ready, model })
}

pub fn start(settings: HttpSettings) -> Running {
    try_start(&settings).unwrap()
}

impl Running {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(self.url(path)).call())
    }

    fn get_as(&self, path: &str, authorization: &str) -> Answer {
        answer(self.agent.get(self.url(path)).header("authorization", authorization).call())
    }

    fn post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Answer {
        answer(self.agent.post(self.url(path)).header("content-type", content_type).send(body.as_ref()))
    }

    fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, "application/json", body.to_string())
    }

    /// Sends the head of a request and `body`, which may be shorter than the head says.
    fn begin(&self, n_body_bytes: usize, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!("POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {n_body_bytes}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = response.unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    Answer { status: response.status().as_u16(), headers: response.headers().clone(), text }
}

fn openapi(server: &Running) -> Value {
    server.get("/openapi.json").json()
}

/// Checks a value against a schema of `openapi.json`.
fn check_schema(openapi: &Value, name: &str, value: &Value) {
    let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": openapi["components"]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{name}: {errors:?} in {value:#}");
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_route_is_described_and_answers_as_described() {
    let server = start(settings());
    let openapi = openapi(&server);
    let described: Vec<_> = openapi["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut routes: Vec<_> = http::routes().collect();
    routes.sort_unstable();
    assert_eq!(routes, described);
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        let (method, operation) = methods.as_object().unwrap().iter().next().unwrap();
        let (answer, wrong) = match method.as_str() {
            "get" => (server.get(path), server.post_json(path, &json!({}))),
            _ => {
                let content = &operation["requestBody"]["content"]["application/json"];
                let example = content.pointer("/examples/one/value").unwrap_or(&content["example"]);
                (server.post_json(path, example), server.get(path))
            }
        };
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
        let content_types = operation["responses"]["200"]["content"].as_object().unwrap();
        let media_type = answer.header("content-type").split(';').next().unwrap();
        assert!(content_types.contains_key(media_type), "{path} {media_type}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(wrong.status, 405, "{path}");
    }
    assert!(server.get("/nowhere").refused(404).contains("/nowhere"));
}

#[test]
fn one_text_and_several_give_records_in_order() {
    let server = start(settings());
    let openapi = openapi(&server);
    let one = server.post_json("/score", &json!({"text": LIE, "id": "post-1", "lang": "en"})).json();
    check_schema(&openapi, "ScoreRecord", &one);
    assert_eq!(one["id"], "post-1");
    assert_eq!(one["lang"], json!({"code": "en", "score": 0.9999}));
    assert_eq!(one["reading"], "counter_speech");
    assert_eq!(one["explanation"], Value::Null);

    let several =
        json!([LIE, {"text": "", "id": 7}, {"text": "Der Zug nach München hat heute leider Verspätung gehabt."}, LONG]);
    let answers = [server.post_json("/score", &several), server.post_json("/score", &json!({"texts": several}))];
    for records in answers.map(|answer| answer.json()) {
        let records = records.as_array().unwrap();
        records.iter().for_each(|record| check_schema(&openapi, "ScoreRecord", record));
        let abstained: Vec<_> = records.iter().map(|record| record["abstained"].as_str()).collect();
        assert_eq!(abstained, [None, Some("empty"), Some("unsupported_language"), None]);
        assert_eq!(records[1]["id"], "7");
        assert_eq!(records[0]["signals"], one["signals"]);
        assert_eq!(records[3]["passages"].as_array().unwrap().len(), 2);
    }

    let bare = server.post("/score?id=post-1&lang=en", "text/plain; charset=utf-8", LIE).json();
    assert_eq!((&bare["id"], &bare["signals"]), (&one["id"], &one["signals"]));
    let unnamed = || server.post("/score", "text/plain", LIE).json()["id"].clone();
    assert_eq!(unnamed(), unnamed());
    assert_ne!(unnamed(), server.post("/score", "text/plain", LONG).json()["id"]);
}

#[test]
fn a_text_too_long_for_an_async_worker_is_scored_all_the_same() {
    let server = start(settings());
    let text = LONG.repeat(60);
    let record = server.post_json("/explain", &json!({"text": text})).json();
    assert_eq!(record["abstained"], Value::Null);
    assert!(record["passages"].as_array().unwrap().len() >= 60);
}

#[test]
fn explanations_add_up_to_the_margin_and_stand_on_characters() {
    let server = start(settings());
    let openapi = openapi(&server);
    for text in [LIE, LONG, "🙄🙄 les 𝗷𝘂𝗶𝗳𝘀 et les banques, tout le monde le sait 🇫🇷"] {
        let record = server.post_json("/explain", &json!({"text": text, "lang": "fr"})).json();
        check_schema(&openapi, "ScoreRecord", &record);
        let explanations = record["explanation"].as_array().unwrap();
        assert_eq!(explanations.len(), 5);
        assert!(explanations.iter().any(|why| !why["spans"].as_array().unwrap().is_empty()), "{record:#}");
        for why in explanations {
            let number = |name: &str| why[name].as_f64().unwrap();
            let spans = why["spans"].as_array().unwrap();
            let from_spans: f64 = spans.iter().map(|span| span["contribution"].as_f64().unwrap()).sum();
            // Exact, not near: every number is a whole count of the same power of two.
            assert_eq!(number("bias") + from_spans + number("other") + number("rest"), number("margin"), "{why:#}");
            for span in spans {
                let (start, end) = (span["start"].as_u64().unwrap() as usize, span["end"].as_u64().unwrap() as usize);
                assert!(text.get(start..end).is_some_and(|words| !words.is_empty()), "{start}..{end}");
            }
        }
    }
}

#[test]
fn broken_requests_are_refused_without_repeating_them() {
    let server = start(settings());
    let check = |content_type: &str, body: &[u8], status: u16| {
        for path in ["/score", "/explain"] {
            let answer = server.post(path, content_type, body);
            answer.refused(status);
            assert!(!answer.text.contains("secret"), "{}", answer.text);
        }
    };
    check("application/json", br#"{"text": secret"#, 400);
    check("application/json", b"{\"text\": \"secret\xff\"}", 400);
    check("text/plain", b"secret\xff", 400);
    check("application/octet-stream", b"secret", 415);
    check("application/json", br#"{"secret": "secret"}"#, 422);
    check("application/json", br#"{"text": ["secret"]}"#, 422);
    check("application/json", br#"[{"text": "fine"}, {"text": {"secret": 1}}]"#, 422);
    check("application/json", &[b'['; 50_000], 400);
    check("application/json", format!("{}\"secret\"{}", "[".repeat(65), "]".repeat(65)).as_bytes(), 400);
    check("application/json", json!(vec!["secret"; 1001]).to_string().as_bytes(), 413);
    check("text/plain", &[b'a'; 80_001], 413);
    check("text/plain", &[b'a'; 100_001], 413);
}

#[test]
fn a_body_without_length_is_limited_too() {
    let server = start(settings());
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 20_000, "a".repeat(20_000));
    for _ in 0..6 {
        // The server may close before it has read all.
        let _ = stream.write_all(chunk.as_bytes());
    }
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

#[test]
fn a_request_that_never_ends_is_given_up() {
    let server = start(HttpSettings { timeout_ms: 100, ..settings() });
    let mut answer = String::new();
    server.begin(10, "{").read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("100 ms") && answer.contains("http.timeout_ms"), "{answer}");
}

#[test]
fn more_requests_than_allowed_are_refused_and_probes_are_not() {
    let server = start(HttpSettings { max_requests: 1, ..settings() });
    let text = json!({"text": LIE});
    let slow = server.begin(10, "{");
    until("the slow request was never counted", || server.post_json("/score", &text).status == 503);
    let refused = server.post_json("/score", &text);
    assert!(refused.refused(503).contains("1 requests are under way"));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!([server.get("/live").status, server.get("/ready").status, server.get("/metrics").status], [200; 3]);
    drop(slow);
    until("the slot was never free again", || server.post_json("/score", &text).status == 200);
}

#[test]
fn the_token_is_asked_for_everywhere_but_at_probes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3same\n").unwrap();
    let server = start(HttpSettings { token_file: file.to_str().unwrap().to_owned(), ..settings() });
    let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    for path in http::routes().filter(|path| !["/live", "/ready", "/metrics"].contains(path)) {
        let bare = server.get(path);
        assert_eq!(bare.status, 401, "{path}");
        assert!(bare.header("www-authenticate").starts_with("Bearer"), "{path}");
        for wrong in ["Bearer s3sam", "Bearer s3same2", "Bearer", "s3same", &basic("s3same"), &basic("a:b"), "Basic ?"]
        {
            assert_eq!(server.get_as(path, wrong).status, 401, "{path} {wrong}");
        }
        for right in ["Bearer s3same", "bearer  s3same", &basic("anyone:s3same")] {
            assert_ne!(server.get_as(path, right).status, 401, "{path} {right}");
        }
    }
    assert_eq!([server.get("/live").status, server.get("/ready").status, server.get("/metrics").status], [200; 3]);
    let comment = json!({"comment": {"text": LIE}, "requestedAttributes": {"VIGIE_ATTACK": {}}});
    assert_eq!(server.post_json("/v1alpha1/comments:analyze?key=s3same", &comment).status, 200);
    assert_eq!(server.post_json("/v1alpha1/comments:analyze?key=other", &comment).status, 401);
    assert_eq!(server.post_json("/score?key=s3same", &json!({"text": LIE})).status, 401);
}

#[test]
fn readiness_follows_the_service() {
    let server = start(settings());
    assert_eq!(server.get("/ready").json(), json!({"ready": true, "model": "one"}));
    server.ready.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/ready").refused(503), "not ready: no partitions yet");
    assert_eq!(server.get("/live").status, 200);
}

#[test]
fn another_model_scores_from_the_next_request_on() {
    let server = start(settings());
    let version = || server.post_json("/score", &json!({"text": LIE})).json()["model"]["version"].clone();
    assert_eq!(version(), "one");
    server.model.replace(Arc::new(taught::model("two")));
    assert_eq!(version(), "two");
    let described = server.get("/model").json();
    assert_eq!(described["version"], "two");
    assert_eq!(described["sha256"], server.model.current().sha256());
    assert_eq!(described["heads"]["fr"]["attack"]["thresholds"], json!({"low": 0.2, "high": 0.6}));
    assert_eq!(described.get("canaries"), None);
}

#[test]
fn metrics_are_prometheus_text_and_count_requests() {
    let server = start(settings());
    server.post_json("/score", &json!({"text": LIE}));
    server.post_json("/score", &json!({"txt": LIE}));
    server.get("/private/path");
    let answer = server.get("/metrics");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
    let mut samples = 0;
    for line in answer.text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(
            name.starts_with("vigie_")
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()),
            "{line}"
        );
        assert!(!series.contains('{') || series.ends_with('}'), "{line}");
        assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
        samples += 1;
    }
    assert!(samples > 50, "{samples}");
    for expected in [
        r#"vigie_http_requests_total{code="200",route="/score"} 1"#,
        r#"vigie_http_requests_total{code="422",route="/score"} 1"#,
        r#"vigie_http_requests_total{code="404",route="other"} 1"#,
        r#"vigie_http_request_seconds_count{route="/score"} 2"#,
    ] {
        assert!(answer.text.lines().any(|line| line == expected), "{expected} in {}", answer.text);
    }
    assert!(!answer.text.contains("private") && !answer.text.contains("banks"));
}

#[test]
fn the_page_runs_its_own_script_and_nothing_else() {
    let server = start(settings());
    let page = server.get("/");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    for (directive, open, close) in [("script-src", "<script>", "</script>"), ("style-src", "<style>", "</style>")] {
        let parts: Vec<_> = page.text.split(open).collect();
        assert_eq!(parts.len(), 2, "one {open}");
        let content = parts[1].split(close).next().unwrap();
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(content));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
    }
    // What the policy would block must not be there: handlers and styles in attributes, other addresses.
    for blocked in [" onclick=", " onload=", " style=", " src=", "innerHTML", "https://"] {
        assert!(!page.text.contains(blocked), "{blocked}");
    }
    assert_eq!(page.text.matches("http://").count(), page.text.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn a_perspective_client_gets_the_same_scores() {
    let server = start(settings());
    let openapi = openapi(&server);
    let analyze = |request: Value| {
        let answer = server.post_json("/v1alpha1/comments:analyze", &request);
        check_schema(&openapi, if answer.status == 200 { "AnalyzeAnswer" } else { "AnalyzeError" }, &answer.json());
        (answer.status, answer.json())
    };
    let record = server.post_json("/score", &json!({"text": LIE})).json();
    let attributes = json!({"IDENTITY_ATTACK": {}, "VIGIE_ATTACK": {"scoreType": "PROBABILITY"},
        "VIGIE_COUNTER_SPEECH": {"scoreThreshold": 0.5}, "VIGIE_MODERATION": {"scoreThreshold": 0.999}});
    let (status, scores) =
        analyze(json!({"comment": {"text": LIE, "type": "PLAIN_TEXT"}, "requestedAttributes": attributes,
        "doNotStore": true, "clientToken": "t-1", "context": {"entries": []}}));
    assert_eq!(status, 200, "{scores}");
    let value = |name: &str| scores["attributeScores"][name]["summaryScore"]["value"].as_f64().unwrap();
    let close = |name: &str, signal: &str| {
        let expected = record["signals"][signal]["score"].as_f64().unwrap();
        assert!((value(name) - expected).abs() < 1e-4, "{name}");
    };
    close("IDENTITY_ATTACK", "attack");
    close("VIGIE_ATTACK", "attack");
    close("VIGIE_COUNTER_SPEECH", "counter_speech");
    assert_eq!(scores["attributeScores"].get("VIGIE_MODERATION"), None);
    assert_eq!((&scores["languages"], &scores["detectedLanguages"]), (&json!(["en"]), &json!(["en"])));
    assert_eq!(scores["clientToken"], "t-1");

    let (_, scores) = analyze(json!({"comment": {"text": LONG}, "requestedAttributes": {"VIGIE_ATTACK": {}},
        "languages": ["fr"], "spanAnnotations": true}));
    let spans = scores["attributeScores"]["VIGIE_ATTACK"]["spanScores"].as_array().unwrap();
    let characters: Vec<char> = LONG.chars().collect();
    let begin_of_second = spans[1]["begin"].as_u64().unwrap() as usize;
    assert_eq!((spans.len(), characters[begin_of_second]), (2, '«'));
    assert_eq!(spans[1]["end"].as_u64().unwrap() as usize, characters.len());

    let refused = |request: Value, error_type: Option<&str>| {
        let (status, answer) = analyze(request);
        assert_eq!((status, answer["error"]["code"].as_u64()), (400, Some(400)), "{answer}");
        assert_eq!(answer["error"]["details"][0]["errorType"].as_str(), error_type, "{answer}");
    };
    let ask = |text: &str, attribute: &str| json!({"comment": {"text": text}, "requestedAttributes": {attribute: {}}});
    for attribute in ["TOXICITY", "SEVERE_TOXICITY", "INSULT", "THREAT"] {
        refused(ask(LIE, attribute), Some("ATTRIBUTE_NOT_SUPPORTED"));
    }
    refused(ask(" ", "VIGIE_ATTACK"), Some("COMMENT_EMPTY"));
    refused(ask("a", "VIGIE_ATTACK"), Some("COMMENT_TOO_SHORT"));
    refused(ask(&"a ".repeat(40_001), "VIGIE_ATTACK"), Some("COMMENT_TOO_LONG"));
    refused(
        ask("Der Zug nach München hat heute leider wieder eine halbe Stunde Verspätung.", "VIGIE_ATTACK"),
        Some("LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"),
    );
    refused(json!({"comment": {"text": LIE}, "requestedAttributes": {}}), Some("NO_ATTRIBUTES"));
    refused(json!({"comment": LIE}), None);
    let deep: Value = serde_json::from_str(&format!("{}{}", "[".repeat(63), "]".repeat(63))).unwrap();
    let mut request = ask(LIE, "VIGIE_ATTACK");
    request["context"] = deep.clone();
    assert_eq!(analyze(request.clone()).0, 200);
    request["context"] = json!([deep]);
    refused(request, None);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let first = start(settings());
    let taken = HttpSettings { http: first.address.to_string(), ..settings() };
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, " \n").unwrap();
    let token = |path: &std::path::Path| HttpSettings { token_file: path.to_str().unwrap().to_owned(), ..settings() };
    let check = |settings: &HttpSettings, is_expected: fn(&HttpError) -> bool, words: &str| {
        let Err(error) = try_start(settings) else { panic!("started: {words}") };
        assert!(is_expected(&error) && error.to_string().contains(words) && !error.hint().is_empty(), "{error:?}");
    };
    check(&taken, |error| matches!(error, HttpError::InUse { .. }), "the port is in use");
    check(
        &HttpSettings { http: "9464".to_owned(), ..settings() },
        |error| matches!(error, HttpError::Address { .. }),
        "could not read http address \"9464\"",
    );
    check(
        &HttpSettings { http: "192.0.2.1:9464".to_owned(), ..settings() },
        |error| matches!(error, HttpError::Listen { .. }),
        "could not listen on 192.0.2.1:9464",
    );
    check(&token(&empty), |error| matches!(error, HttpError::EmptyToken { .. }), "is empty");
    let missing = folder.path().join("missing");
    check(&token(&missing), |error| matches!(error, HttpError::TokenFile { .. }), "could not read token file");
}

#[test]
fn shutdown_finishes_what_is_under_way() {
    let mut server = start(HttpSettings { max_requests: 1, ..settings() });
    let body = json!({"text": LIE}).to_string();
    let mut under_way = server.begin(body.len(), &body[..10]);
    until("the request was never taken", || server.post_json("/score", &json!({"text": LIE})).status == 503);
    let stopping = server.server.take().unwrap();
    let stopped = server.runtime.spawn(stopping.shutdown(Duration::from_secs(20)));
    until("the server still takes connections", || TcpStream::connect(server.address).is_err());
    under_way.write_all(&body.as_bytes()[10..]).unwrap();
    let mut answer = String::new();
    under_way.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("vigie.score/1"), "{answer}");
    server.runtime.block_on(stopped).unwrap();
}

#[test]
fn shutdown_does_not_wait_longer_than_its_grace() {
    let mut server = start(HttpSettings { max_requests: 1, ..settings() });
    let _hanging = server.begin(10, "{");
    until("the request was never taken", || server.post_json("/score", &json!({"text": LIE})).status == 503);
    let stopping = server.server.take().unwrap();
    let begun = Instant::now();
    server.runtime.block_on(stopping.shutdown(Duration::from_millis(50)));
    // The request itself could take twenty seconds.
    assert!(begun.elapsed() < Duration::from_secs(10));
}
