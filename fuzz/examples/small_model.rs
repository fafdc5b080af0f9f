//! Writes the seeds of `artifact_reader`: a model of a dozen words as a file, as a file to be mended, and as a header with a table.
//!
//! Run it after a change of the model file: `cargo run --manifest-path fuzz/Cargo.toml --example small_model`.

use std::fs;
use std::path::Path;

use vigie::scoring::artifact::{Canary, FeatureRow};
use vigie::scoring::lexicon::Lexicon;
use vigie::scoring::model::walk_passage;
use vigie::scoring::{Artifact, Scratch};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/artifact_reader");
    fs::create_dir_all(&folder).expect("the corpus folder");
    let write = |name: &str, how: &[u8], rest: &[&[u8]]| {
        fs::write(folder.join(name), [how, &rest.concat()].concat()).expect("room for a seed");
    };
    for (name, n_features, has_canary) in [("words", 12, false), ("no_words", 0, false), ("canary", 3, true)] {
        let artifact = small(n_features, has_canary);
        let file = artifact.write();
        write(&format!("file_{name}"), b"f", &[&file]);
        write(&format!("mended_{name}"), b"c", &[&file]);
        let header = serde_json::to_vec(&artifact.header).expect("a header is JSON");
        let n_header = u64::from_le_bytes(file[44..52].try_into().expect("eight bytes")) as usize;
        let table = zstd::decode_all(&file[60 + n_header..]).expect("our own table");
        write(&format!("header_{name}"), b"h", &[&(header.len() as u32).to_le_bytes(), &header, &table]);
    }
}

fn small(n_features: usize, has_canary: bool) -> Artifact {
    let mut artifact =
        Artifact::read(include_bytes!("../../tests/it/golden/model.vigie")).expect("the golden model is whole");
    let header = &mut artifact.header;
    let terms = [("group", "juif juifs jews"), ("negation", "pas not"), ("report", "dit says"), ("code", "grand remplacement")];
    header.lexicon.classes = terms
        .map(|(class, terms)| {
            let terms = if class == "code" { vec![terms.to_owned()] } else { terms.split(' ').map(str::to_owned).collect() };
            (class.to_owned(), terms)
        })
        .into();
    header.lexicon.words = ["les", "the", "islam", "stop"].map(|word| (word.to_owned(), [9, 8])).to_vec();
    header.training.truncate(1);
    header.settings = serde_json::Value::Null;
    header.metrics = serde_json::Value::Null;
    header.card = "c".to_owned();
    header.canaries.clear();
    header.unit = [1.0 / 4096.0; 5];
    header.bias = [-65_536; 5];
    let lexicon = Lexicon::new(&header.lexicon).expect("four classes");
    let mut features = Vec::new();
    walk_passage("les juifs banques mensonge", &lexicon, &mut Scratch::default(), |feature| {
        features.push(FeatureRow { hash: feature.hash, idf_squared: 256, weights: [900, -400, 30, 2000, -7] });
    });
    features.sort_by_key(|row| row.hash);
    features.dedup_by_key(|row| row.hash);
    features.truncate(n_features);
    artifact.header.n_features = features.len();
    artifact.features = features;
    if has_canary {
        let model = vigie::scoring::Model::from_bytes(&artifact.write()).expect("a small model");
        let text = "les juifs, un vieux mensonge qui a déjà tué".to_owned();
        let scored = model.score(&text, Some("fr"), &mut Scratch::default());
        let scores = scored.signals.expect("a text of many letters").map(|signal| signal.score);
        artifact.header.canaries.push(Canary { text, lang: "fr".to_owned(), scores });
    }
    artifact
}
