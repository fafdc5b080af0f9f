//! Holds the built-in model against the functional suite: every function in every language has a floor (`tests/functional/floors.toml`).

// One reader and one judge for this test and for `vigie-train evaluate`.
#[path = "../../training/suite.rs"]
mod suite;

use std::path::Path;

use suite::{judge, model_scores, read_suite};

#[test]
fn no_function_falls_under_its_floor() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/functional");
    let suite = read_suite(&folder).unwrap();
    let model = vigie::models::builtin().unwrap();
    let results = judge(&suite, &model_scores(&suite, &model));
    let mut under = Vec::new();
    for result in &results {
        let mark = if result.accuracy < result.floor { "UNDER" } else { "" };
        println!(
            "{:26} {} {:3}/{:3} {:.2} floor {:.2} {mark}",
            result.function, result.lang, result.n_right, result.n, result.accuracy, result.floor
        );
        if !mark.is_empty() {
            under.push(format!(
                "{} {}: {:.2}, wrong: {}",
                result.function,
                result.lang,
                result.accuracy,
                result.wrong.join(" ")
            ));
        }
    }
    assert!(!results.is_empty(), "no cases in {}", folder.display());
    assert!(under.is_empty(), "under their floor:\n{}", under.join("\n"));
}

#[test]
fn a_case_is_right_when_the_signals_of_its_function_are() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("floors.toml", "[quoted_counter_speech]\nsignals = [\"attack\", \"counter_speech\"]\nfloor = { fr = 0.5 }\n");
    let case = |id: &str| {
        format!(
            r#"{{"id": "{id}", "lang": "fr", "function": "quoted_counter_speech", "text": "…", "labels": {{"attack": 0, "counter_speech": 1, "hate_speech": 1}}}}"#
        )
    };
    write("cases.jsonl", &format!("{}\n{}\n", case("a"), case("b")));
    let suite = read_suite(folder.path()).unwrap();
    // The topic is wrong in the first and does not count; the stance is wrong in the second.
    let results = judge(&suite, &[[0.0, 0.1, 0.0, 0.2, 0.9], [0.0, 0.9, 0.0, 0.6, 0.9]]);
    assert_eq!((results[0].n, results[0].n_right, results[0].wrong.as_slice()), (2, 1, ["b".to_owned()].as_slice()));
    assert!(!results[0].hateful && results[0].accuracy >= results[0].floor);

    write("more.jsonl", &case("c").replace("quoted_counter_speech", "misspelt"));
    let error = format!("{:#}", read_suite(folder.path()).unwrap_err());
    assert!(error.contains("misspelt"), "{error}");
}
