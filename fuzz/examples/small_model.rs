//! Writes the seeds of `artifact_reader`: a model of a dozen words as a file, as a file to be mended, and as a header with a table.
//!
//! Run it after a change of the model file: `cargo run --manifest-path fuzz/Cargo.toml --example small_model`.

use std::fs;
use std::path::Path;

use vigie::scoring::artifact::{Canary, FeatureRow};
use vigie::scoring::lexicon::Lexicon;
use vigie::scoring::model::walk_passage;
use vigie::scoring::network::{DIM, Layer, N_MARKS, N_TAPS, NetworkParts, REACHES, WEIGHT_BITS, n_pooled};
use vigie::scoring::{Artifact, Scratch};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/artifact_reader");
    fs::create_dir_all(&folder).expect("the corpus folder");
    let write = |name: &str, how: &[u8], rest: &[&[u8]]| {
        fs::write(folder.join(name), [how, &rest.concat()].concat()).expect("room for a seed");
    };
    let kinds = [
        ("words", 12, false, false),
        ("no_words", 0, false, false),
        ("canary", 3, true, false),
        ("network", 3, false, true),
    ];
    for (name, n_features, has_canary, has_network) in kinds {
        let mut artifact = small(n_features, has_canary);
        if has_network {
            let parts = network();
            artifact.header.n_network_words = Some(parts.words.len());
            artifact.header.n_attention_heads = parts.attention.len();
            artifact.network = Some(parts);
        }
        let file = artifact.write();
        write(&format!("file_{name}"), b"f", &[&file]);
        write(&format!("mended_{name}"), b"c", &[&file]);
        let header = serde_json::to_vec(&artifact.header).expect("a header is JSON");
        let length = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes")) as usize;
        let (packed_table, packed_network) = file[60 + length(44)..].split_at(length(52));
        let table = zstd::decode_all(packed_table).expect("our own table");
        let network = if has_network { zstd::decode_all(packed_network).expect("our own network") } else { Vec::new() };
        let lengths = [header.len() as u32, table.len() as u32].map(u32::to_le_bytes).concat();
        write(&format!("header_{name}"), b"h", &[&lengths, &header, &table, &network]);
    }
}

/// Two words, one channel through and two heads.
fn network() -> NetworkParts {
    let mut layer = Layer { weights: vec![[0; N_TAPS * DIM]; DIM], bias: [0; DIM] };
    layer.weights[0][DIM] = 1 << WEIGHT_BITS;
    NetworkParts {
        words: vec![7, 9],
        vectors: vec![[1; DIM], [16; DIM], [-16; DIM]],
        marks: vec![[2; DIM]; N_MARKS],
        layers: vec![layer; REACHES.len()],
        attention: vec![[3; DIM], [-3; DIM]],
        output: std::array::from_fn(|_| vec![0.5; n_pooled(2)]),
        output_bias: [-1.0; 5],
    }
}

fn small(n_features: usize, has_canary: bool) -> Artifact {
    let mut artifact =
        Artifact::read(include_bytes!("../../tests/it/golden/model.vigie")).expect("the golden model is whole");
    let header = &mut artifact.header;
    let terms =
        [("group", "juif juifs jews"), ("negation", "pas not"), ("report", "dit says"), ("code", "grand remplacement")];
    header.lexicon.classes = terms
        .map(|(class, terms)| {
            let terms =
                if class == "code" { vec![terms.to_owned()] } else { terms.split(' ').map(str::to_owned).collect() };
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
