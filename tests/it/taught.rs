//! A model that knows a few words, made of the built-in one: so that scores, bands and spans do not depend on the real model's training.

use std::collections::BTreeMap;

use vigie::scoring::artifact::FeatureRow;
use vigie::scoring::lexicon::Lexicon;
use vigie::scoring::model::walk_passage;
use vigie::scoring::{Artifact, Model, Scratch, Signal};

/// Words and what each of their n-grams adds to the five signals. 4096 is 1, before norms.
const LESSONS: [(&str, [i16; 5]); 6] = [
    ("jews juifs juif banques banks", [3000, 2000, 0, 1500, 200]),
    ("tout le monde le sait everybody knows it", [600, 600, -200, 3000, -1500]),
    ("vieux mensonge il a déjà tué that old lie it has killed before", [900, 900, 0, -3500, 6000]),
    ("compte a été suspendu une semaine account was suspended", [-1200, -900, 7000, -800, -300]),
    ("ministre dénoncé demandé minister denounced asked", [1000, 1000, 1500, -3000, 600]),
    ("beignets lundis arbitre doughnuts mondays referee", [-2500, -2500, -900, -1800, -1500]),
];

/// The model, under the given version.
pub fn model(version: &str) -> Model {
    let mut artifact = Artifact::read(vigie_model_file()).unwrap();
    let lexicon = Lexicon::new(&artifact.header.lexicon).unwrap();
    let mut features = BTreeMap::new();
    let mut scratch = Scratch::default();
    for (text, weights) in LESSONS {
        walk_passage(text, &lexicon, &mut scratch, |feature| {
            features.entry(feature.hash).or_insert(weights);
        });
    }
    artifact.features =
        features.into_iter().map(|(hash, weights)| FeatureRow { hash, idf_squared: 256, weights }).collect();
    let header = &mut artifact.header;
    header.n_features = artifact.features.len();
    header.canaries.clear();
    header.version = version.to_owned();
    header.unit = [1.0 / 4096.0; 5];
    header.bias = [-2 * 4096 * 65_536; 5];
    header.family_scale = [1.0; 3];
    header.stacks.clear();
    for head in header.heads.values_mut().flat_map(|by_signal| by_signal.values_mut()) {
        head.calibration = serde_json::from_value(serde_json::json!({"a": -1.0, "b": 0.0})).unwrap();
        head.thresholds = serde_json::from_value(serde_json::json!({"low": 0.2, "high": 0.6})).unwrap();
        head.document =
            serde_json::from_value(serde_json::json!({"slope": 1.0, "bias": 0.0, "per_log2_passages": 0.0})).unwrap();
    }
    assert_eq!(header.signals, Signal::ALL);
    Model::from_bytes(&artifact.write()).unwrap()
}

fn vigie_model_file() -> &'static [u8] {
    include_bytes!("../../src/models/default.vigie")
}
