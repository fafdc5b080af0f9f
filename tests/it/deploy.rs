//! What lies in `deploy/` and `docs/` against the code: schemas against records, dashboards, alert rules and the metrics page against metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vigie::metrics::Metrics;
use vigie::record::{ScoreRecord, Source};
use vigie::scoring::{Model, Scratch};

use crate::taught;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A schema of `deploy/schemas` in which no object may have a field that is not described.
fn closed_schema(name: &str) -> jsonschema::Validator {
    fn close(schema: &mut Value) {
        if let Some(object) = schema.as_object_mut() {
            if object.contains_key("properties") && object.get("type") == Some(&json!("object")) {
                object.entry("additionalProperties").or_insert(json!(false));
            }
            object.values_mut().for_each(close);
        } else if let Some(array) = schema.as_array_mut() {
            array.iter_mut().for_each(close);
        }
    }
    let text = fs::read_to_string(root("deploy/schemas").join(name)).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    close(&mut schema);
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn check(schema: &jsonschema::Validator, value: &Value, is_valid: bool) {
    let errors: Vec<_> = schema.iter_errors(value).map(|error| error.to_string()).collect();
    assert_eq!(errors.is_empty(), is_valid, "{errors:?} in {value:#}");
}

fn record(model: &Model, text: &str, explain: bool, source: Option<&Source>) -> Value {
    let (scored, explanation) = model.explain(text, None, &mut Scratch::default());
    let explanation = explain.then_some(&explanation[..]);
    let record = ScoreRecord::new("id", source, model, &scored, explanation, "2026-11-22T15:00:00.123Z");
    serde_json::to_value(record).unwrap()
}

#[test]
fn score_records_follow_their_schema() {
    let (schema, model) = (closed_schema("score.json"), taught::model("one"));
    let lie = "Encore ce vieux mensonge sur les juifs et les banques ? Il a déjà tué.";
    let long = format!("{}\n\n", lie.repeat(5)).repeat(4);
    let with_time = |timestamp: Option<&str>| Source {
        topic: "vigie.in".to_owned(),
        partition: 3,
        offset: 42,
        timestamp: timestamp.map(str::to_owned),
    };
    let scored = record(&model, lie, false, Some(&with_time(Some("2026-11-22T14:59:59Z"))));
    let explained = record(&model, &long, true, Some(&with_time(None)));
    assert!(explained["passages"].as_array().unwrap().len() > 1);
    assert!(!explained["explanation"][0]["spans"].as_array().unwrap().is_empty());
    check(&schema, &scored, true);
    check(&schema, &explained, true);
    for (text, why) in [
        (" ", "empty"),
        ("a", "too_short"),
        ("Der Zug nach München hat heute leider Verspätung gehabt.", "unsupported_language"),
    ] {
        let abstained = record(&model, text, true, None);
        assert_eq!(abstained["abstained"], why);
        check(&schema, &abstained, true);
    }
    // The schema must also say no.
    for (pointer, wrong) in [
        ("/signals", json!(null)),
        ("/abstained", json!("empty")),
        ("/reading", json!("hate")),
        ("/signals/attack/band", json!("medium")),
        ("/signals/attack/score", json!(1.0)),
        ("/schema", json!("vigie.score/2")),
        ("/lang/code", json!("français")),
        ("/source/offset", json!(-1)),
        ("/scored_at", json!("yesterday")),
        ("/model/sha256", json!("abc")),
    ] {
        let mut broken = scored.clone();
        *broken.pointer_mut(pointer).unwrap() = wrong;
        check(&schema, &broken, false);
    }
}

#[test]
fn the_other_schemas_tell_right_from_wrong() {
    let input = closed_schema("input.json");
    for right in [
        json!({"text": "a", "id": "1", "lang": "fr", "title": "t", "created_at": "2026-11-22", "source": "forum"}),
        json!({"specversion": "1.0", "id": "1", "data": {"text": "a"}}),
        json!({"specversion": "1.0", "id": "1", "data": "a"}),
        json!("a"),
    ] {
        let open: Value =
            serde_json::from_str(&fs::read_to_string(root("deploy/schemas/input.json")).unwrap()).unwrap();
        check(&jsonschema::draft202012::new(&open).unwrap(), &right, true);
    }
    for wrong in [json!({"txt": "a"}), json!({"text": null}), json!({"text": "a", "id": []}), json!(["a"]), json!(3)] {
        check(&input, &wrong, false);
    }

    let dead = closed_schema("dead-letter-headers.json");
    let headers = json!({"vigie-reason": "not_json", "vigie-detail": "line 1 column 3", "vigie-source-topic": "vigie.in",
        "vigie-source-partition": "0", "vigie-source-offset": "17", "vigie-source-timestamp": "2026-11-22T14:59:59.5Z", "vigie-model": "one"});
    check(&dead, &headers, true);
    for (name, wrong) in [("vigie-reason", "bad luck"), ("vigie-source-offset", "first"), ("vigie-other", "x")] {
        let mut broken = headers.clone();
        broken[name] = wrong.into();
        check(&dead, &broken, false);
    }

    let feedback = closed_schema("feedback.json");
    let label = json!({"schema": "vigie.feedback/1", "id": "post-1", "labels": {"attack": true, "counter_speech": null}, "labelled_at": "2026-11-22T14:59:59Z"});
    check(&feedback, &label, true);
    for wrong in [json!({}), json!({"toxicity": true}), json!({"attack": "yes"})] {
        let mut broken = label.clone();
        broken["labels"] = wrong;
        check(&feedback, &broken, false);
    }
}

/// Names and labels of all metrics as `src/metrics.rs` writes them down.
///
/// The source is read, and not a registry: a metric with labels and no series yet is in no registry's output.
fn declared() -> BTreeMap<String, BTreeSet<String>> {
    let source = fs::read_to_string(root("src/metrics.rs")).unwrap();
    let mut declared = BTreeMap::new();
    for part in source.split("\"vigie_").skip(1) {
        let (name, rest) = part.split_once('"').unwrap();
        let arguments = rest.split(")?,").next().unwrap();
        let labels = arguments.split_once("&[\"").map_or("", |(_, labels)| labels.split(']').next().unwrap());
        let labels = labels.split(['"', ',', ' ', '\n']).filter(|label| !label.is_empty()).map(str::to_owned);
        declared.insert(format!("vigie_{name}"), labels.collect());
    }
    declared
}

/// The metrics that a text names, each with the labels in the braces behind it, if there are any.
fn named(text: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices("vigie_") {
        let rest = &text[at..];
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let braces = rest.split_once('{').filter(|(before, _)| before.chars().all(is_name));
        let matchers = braces.map_or("", |(_, inside)| inside.split('}').next().unwrap());
        let labels = matchers.split(", ").filter_map(|matcher| matcher.split(['=', '!']).next());
        found.push((name.to_owned(), labels.filter(|label| !label.is_empty()).map(str::to_owned).collect()));
    }
    found
}

#[test]
fn declared_metrics_are_those_of_the_registry() {
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    metrics.set_model("one", "abc");
    let declared = declared();
    assert!(declared.len() >= 20, "{declared:?}");
    for family in registry.gather() {
        let labels = &declared[family.name()];
        for pair in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
            assert!(labels.contains(pair.name()), "{} {}", family.name(), pair.name());
        }
    }
}

#[test]
fn dashboards_alerts_and_the_metrics_page_name_metrics_that_are_there() {
    let declared = declared();
    let files = ["deploy/grafana/dashboards", "deploy/prometheus"].map(|folder| fs::read_dir(root(folder)).unwrap());
    let files = files.into_iter().flatten().map(|entry| entry.unwrap().path());
    for file in files.chain([root("docs/metrics.md")]) {
        // In JSON the quotes of an expression are escaped.
        let text = fs::read_to_string(&file).unwrap().replace("\\\"", "\"");
        for (name, labels) in named(&text) {
            let known = declared.get(&name).unwrap_or_else(|| panic!("{} names {name}", file.display()));
            for label in labels {
                // Prometheus adds these two.
                let is_known = known.contains(&label) || ["instance", "job"].contains(&label.as_str());
                assert!(is_known, "{} names label {label} of {name}", file.display());
            }
        }
    }
}

#[test]
fn the_metrics_page_and_the_dashboard_miss_no_metric() {
    let page = fs::read_to_string(root("docs/metrics.md")).unwrap();
    let rows: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `vigie_")?.split_once('`'))
        .map(|(name, rest)| (format!("vigie_{name}"), rest.split('|').nth(2).unwrap()))
        .collect();
    let declared = declared();
    assert_eq!(rows.keys().collect::<Vec<_>>(), declared.keys().collect::<Vec<_>>());
    for (name, labels) in &declared {
        for label in labels {
            assert!(rows[name].contains(&format!("`{label}`")), "label {label} of {name}");
        }
    }
    let dashboard = fs::read_to_string(root("deploy/grafana/dashboards/vigie.json")).unwrap();
    let shown: BTreeSet<_> = named(&dashboard).into_iter().map(|(name, _)| name).collect();
    assert_eq!(shown, declared.into_keys().collect());
}

/// The lines under `NAME:` of a YAML text, as deep as they stand under it.
fn block<'a>(yaml: &'a str, name: &str) -> Vec<&'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = yaml.lines().skip_while(|line| line.trim_start() != format!("{name}:"));
    let outer = indent(lines.next().unwrap_or_else(|| panic!("no {name}")));
    lines.take_while(|line| line.is_empty() || indent(line) > outer).map(str::trim).collect()
}

#[test]
fn the_container_is_not_root_and_cannot_write() {
    let compose = fs::read_to_string(root("docker-compose.yml")).unwrap();
    let services = compose.split("\nservices:").nth(1).unwrap();
    let vigie = block(services, "vigie");
    for line in ["read_only: true", "cap_drop: [ALL]", "security_opt: [\"no-new-privileges:true\"]"] {
        assert!(vigie.contains(&line), "{line} is not in {vigie:#?}");
    }
    assert!(!vigie.iter().any(|line| line.starts_with("privileged") || line.starts_with("user:")));
    let volumes = vigie.iter().find(|line| line.starts_with("volumes:")).unwrap();
    assert!(volumes.split(',').all(|volume| volume.contains(":ro")), "{volumes}");

    let dockerfile = fs::read_to_string(root("deploy/Dockerfile")).unwrap();
    let last_stage = dockerfile.rsplit("\nFROM ").next().unwrap();
    let users: Vec<u32> = last_stage
        .lines()
        .filter_map(|line| line.strip_prefix("USER "))
        .map(|user| user.parse().expect("a number, so that Kubernetes sees that it is not root"))
        .collect();
    assert!(users.last().is_some_and(|&user| user != 0), "{users:?}");
}

#[test]
fn the_dashboard_draws_from_one_data_source_and_its_panels_do_not_overlap() {
    let dashboard = fs::read_to_string(root("deploy/grafana/dashboards/vigie.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && taken.insert(cell, title).is_none(), "{title} at {cell:?}");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}
