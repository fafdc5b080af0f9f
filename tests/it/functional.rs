//! Holds the built-in model against the functional suite: every function in every language has a floor (`tests/functional/floors.toml`).

// One reader and one judge for this test and for `vigie-train evaluate`.
#[path = "../../training/suite.rs"]
mod suite;

use std::path::Path;

use suite::{judge, model_scores, read_suite};
use vigie::scoring::Scratch;

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
fn taking_out_the_top_span_lowers_the_score_more_than_taking_out_another() {
    let suite = read_suite(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/functional")).unwrap();
    let (model, mut scratch) = (vigie::models::builtin().unwrap(), Scratch::default());
    let (mut decisive, mut tried) = (0, 0);
    for case in &suite.cases {
        let (scored, explanations) = model.explain(&case.text, Some(&case.lang), &mut scratch);
        let Some(signals) = scored.signals else { continue };
        for explanation in explanations {
            let signal = explanation.signal;
            if case.labels.get(&signal) != Some(&1) || signals[signal.index()].score < 0.5 {
                continue;
            }
            let mut without = |start: usize, end: usize| {
                let rest = format!("{}{}", &case.text[..start], &case.text[end..]);
                let scored = model.score(&rest, Some(&case.lang), &mut scratch);
                scored.signals.map_or(0.0, |signals| signals[signal.index()].score)
            };
            let mut spans = explanation.spans.iter().filter(|span| span.contribution > 0.0);
            let Some(top) = spans.next() else { continue };
            let without_top = without(top.start, top.end);
            for other in spans {
                tried += 1;
                decisive += usize::from(without_top <= without(other.start, other.end));
            }
        }
    }
    println!("{decisive} of {tried}");
    assert!(tried >= 500 && decisive * 10 >= tried * 9, "{decisive} of {tried}");
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
