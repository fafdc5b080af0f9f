//! A frozen model and frozen texts give frozen scores: what this program reads today it must read the same way tomorrow.
//!
//! `golden/model.vigie` is a small model of `vigie-train fit` (features in at least 60 passages), in format 1, which must stay readable;
//! `golden/scores.jsonl` holds texts of ours with the margins it gave.
//! A change that moves them changes the meaning of every model file: raise `FEATURE_SPEC_VERSION`, and make both anew with `VIGIE_TEST_UPDATE_GOLDEN=1`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vigie::scoring::{Model, Scratch};

#[derive(Serialize, Deserialize)]
struct Frozen {
    lang: String,
    text: String,
    normalized: String,
    margins: Vec<f64>,
    scores: Vec<f64>,
}

const TEXTS: [(&str, &str); 8] = [
    ("fr", "Les J.U.I.F.S contrôôôôlent les banques, tout le monde le sait !!!!!"),
    ("fr", "« Dehors les Arabes » : voilà ce qu'on m'a crié hier dans le bus. J'ai honte pour eux."),
    ("fr", "#StopIslamophobie le maire de Vernoy condamne les tags, l'enquête est ouverte https://exemple.fr/a1"),
    ("fr", "mon compte tik tok est ban 3 jours pr une blague @marie tu peux signaler stp ?"),
    ("fr", "Un kilo de moules, deux échalotes, un verre de muscadet : dix minutes et c'est prêt."),
    ("en", "They’re all p@r*sites, ѕend them back. Every single one."),
    ("en", "No, refugees are not \"invaders\". That word has a history, and it ends badly."),
    ("en", "The board upheld the removal of the post, which compared Roma people to vermin."),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden")
}

fn scored(model: &Model) -> Vec<Frozen> {
    let mut scratch = Scratch::default();
    let score = |&(lang, text): &(&str, &str)| Frozen {
        lang: lang.to_owned(),
        text: text.to_owned(),
        normalized: model.normalized(text),
        margins: model.margins_of_passage(text, &mut scratch).to_vec(),
        scores: model.score(text, Some(lang), &mut scratch).signals.unwrap().map(|signal| signal.score).to_vec(),
    };
    TEXTS.iter().map(score).collect()
}

#[test]
fn a_frozen_model_gives_frozen_scores() {
    let model = Model::from_bytes(&std::fs::read(folder().join("model.vigie")).unwrap()).unwrap();
    let found = scored(&model);
    let path = folder().join("scores.jsonl");
    if std::env::var_os("VIGIE_TEST_UPDATE_GOLDEN").is_some() {
        let lines: Vec<String> = found.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let frozen = std::fs::read_to_string(&path).unwrap();
    let frozen: Vec<Frozen> = frozen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), frozen.len());
    for (found, frozen) in found.iter().zip(&frozen) {
        assert_eq!((&found.text, &found.normalized), (&frozen.text, &frozen.normalized));
        // Margins are sums of integers, the same on any machine; reading them back from JSON may cost the last bit.
        for (found_margin, frozen_margin) in found.margins.iter().zip(&frozen.margins) {
            assert!((found_margin - frozen_margin).abs() < 1e-12, "{}: {found_margin} {frozen_margin}", found.text);
        }
        for (found_score, frozen_score) in found.scores.iter().zip(&frozen.scores) {
            assert!((found_score - frozen_score).abs() < 1e-9, "{}: {found_score} {frozen_score}", found.text);
        }
    }
}

#[test]
fn the_built_in_model_is_small_and_says_what_it_is() {
    let model = vigie::models::builtin().unwrap();
    assert!(vigie::models::builtin_bytes().len() <= 20 << 20);
    let description: serde_json::Value = serde_json::from_str(model.description()).unwrap();
    for field in
        ["version", "feature_spec", "heads", "training", "training_sha256", "settings", "metrics", "card", "licence"]
    {
        assert!(!description[field].is_null(), "{field}");
    }
    assert!(
        description["card"].as_str().unwrap().len() > 500
            && description["metrics"].as_object().is_some_and(|m| !m.is_empty())
    );
    for source in description["training"].as_array().unwrap() {
        let licence = source["licence"].as_str().unwrap();
        assert!(!licence.contains("GPL") && !licence.is_empty(), "{source}");
    }
}
