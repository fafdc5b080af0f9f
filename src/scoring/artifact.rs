//! The model file: bytes in, a checked [`Model`] out, and back. No code in it; everything the model is lies here.
//!
//! Layout: magic `VIGIEMDL`, format version (u32), SHA-256 of all that follows, length of the header and of the table (u64 each), the header
//! (zstd of JSON), the table (zstd of columns: hashes, squared inverse document frequencies, five times weights), and to the end the network
//! (zstd of its numbers in the order of [`NetworkParts`]), if there is one. Numbers are little-endian.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::calibration::{DocumentCalibration, Platt};
use super::features::{ContextClasses, FEATURE_SPEC_VERSION, N_FAMILIES};
use super::lexicon::{LANGUAGES, Lexicon, LexiconFile, N_LANGUAGES};
use super::model::{LanguageHead, Model, NORM_ONE, Scratch, WeightTable};
use super::network::{DIM, Layer, MOST_HEADS, N_MARKS, N_TAPS, Network, NetworkParts, REACHES, n_pooled};
use super::signals::{N_SIGNALS, Signal, Thresholds};
use super::stack::Stack;

const MAGIC: &[u8; 8] = b"VIGIEMDL";
/// Changes when this layout changes. Since 2 a file may hold [`Stack`]s, since 3 a network, since 4 with several
/// attention heads; older ones are read as files without, or with one head.
pub const FORMAT_VERSION: u32 = 4;
const FIRST_FORMAT_VERSION: u32 = 1;
const N_FIXED_BYTES: usize = 8 + 4 + 32 + 8 + 8;
/// No header or table is larger than this once it is unpacked.
const MOST_UNPACKED_BYTES: u64 = 512 << 20;
/// Units between 2^-60 and 2^20 keep every margin finite.
const UNITS: RangeInclusive<f64> = 1.0 / (1u64 << 60) as f64..=(1u64 << 20) as f64;
/// No honest calibration has a number beyond this; far beyond, infinities meet and a score is no number.
const LARGEST_CALIBRATION: f64 = 1e6;
const N_FEATURE_BYTES: usize = 8 + 2 + 2 * N_SIGNALS;

/// Why a model file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("not a model file")]
    NotAModel,
    #[error("format version {0} is not known to this program (it reads {FIRST_FORMAT_VERSION} to {FORMAT_VERSION})")]
    FormatVersion(u32),
    #[error("feature spec {0} is not known to this program (it has {FEATURE_SPEC_VERSION})")]
    FeatureSpec(u32),
    #[error("file is cut short or too long")]
    Length,
    #[error("checksum does not match")]
    Checksum,
    #[error("header cannot be read: {0}")]
    Header(String),
    #[error("weights cannot be read: {0}")]
    Weights(String),
    #[error("network cannot be read: {0}")]
    Network(String),
    #[error("canary text {index} scores {found:.6} on {signal}, not {expected:.6}")]
    Canary { index: usize, signal: &'static str, expected: f64, found: f64 },
}

/// How one signal's margin becomes a score and a band in one language.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalHead {
    pub calibration: Platt,
    pub thresholds: Thresholds,
    pub document: DocumentCalibration,
}

/// A set of training data that went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingSource {
    pub name: String,
    pub licence: String,
    pub n_passages: usize,
    pub weight: f64,
    pub sha256: String,
}

/// A text with the scores that it must get: proof that this program reads the file as its maker did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    pub text: String,
    pub lang: String,
    pub scores: [f64; N_SIGNALS],
}

/// The JSON header: everything but the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: String,
    pub feature_spec: u32,
    pub signals: Vec<Signal>,
    pub languages: Vec<String>,
    /// Texts with fewer letters are too short to score.
    pub fewest_letters: usize,
    pub n_features: usize,
    /// How many words the network has vectors of; none without a network.
    #[serde(default)]
    pub n_network_words: Option<usize>,
    /// How many attention heads the network has.
    #[serde(default = "one_head")]
    pub n_attention_heads: usize,
    pub family_scale: [f64; N_FAMILIES],
    /// Intercepts in steps of `unit / 65536`.
    pub bias: [i64; N_SIGNALS],
    /// What one step of a weight is worth: powers of two.
    pub unit: [f64; N_SIGNALS],
    /// What weighs the signals against each other, by language; empty for none.
    #[serde(default)]
    pub stacks: BTreeMap<String, Stack>,
    /// By language, then signal.
    pub heads: BTreeMap<String, BTreeMap<String, SignalHead>>,
    pub training: Vec<TrainingSource>,
    /// SHA-256 over the sources' hashes, seed and settings.
    pub training_sha256: String,
    pub seed: u64,
    /// The settings of the fit, as they were.
    pub settings: serde_json::Value,
    /// Figures on development data.
    pub metrics: serde_json::Value,
    /// What the model is for, what it was made of, where it fails.
    pub card: String,
    pub licence: String,
    pub canaries: Vec<Canary>,
    pub lexicon: LexiconFile,
}

/// Networks of format 3 have one.
fn one_head() -> usize {
    1
}

/// One row of the weight table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureRow {
    pub hash: u64,
    pub idf_squared: u16,
    pub weights: [i16; N_SIGNALS],
}

/// A model file taken apart: what training writes and [`Artifact::read`] brings back.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    pub header: Header,
    /// Sorted by hash.
    pub features: Vec<FeatureRow>,
    pub network: Option<NetworkParts>,
}

impl Artifact {
    /// The file's bytes. The same artifact gives the same bytes.
    pub fn write(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).expect("a header has string keys only");
        let mut table = Vec::with_capacity(self.features.len() * N_FEATURE_BYTES);
        // Sorted hashes are stored as differences: small numbers pack well.
        let mut last = 0u64;
        for row in &self.features {
            table.extend_from_slice(&row.hash.wrapping_sub(last).to_le_bytes());
            last = row.hash;
        }
        self.features.iter().for_each(|row| table.extend_from_slice(&row.idf_squared.to_le_bytes()));
        for signal in 0..N_SIGNALS {
            self.features.iter().for_each(|row| table.extend_from_slice(&row.weights[signal].to_le_bytes()));
        }
        let pack = |bytes: &[u8]| zstd::encode_all(bytes, 19).expect("packing into memory does not fail");
        let (header, table) = (pack(&header), pack(&table));
        let network = self.network.as_ref().map(|parts| pack(&write_network(parts))).unwrap_or_default();
        let mut body = Vec::with_capacity(16 + header.len() + table.len() + network.len());
        body.extend_from_slice(&(header.len() as u64).to_le_bytes());
        body.extend_from_slice(&(table.len() as u64).to_le_bytes());
        body.extend_from_slice(&header);
        body.extend_from_slice(&table);
        body.extend_from_slice(&network);
        let mut file = Vec::with_capacity(N_FIXED_BYTES + body.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        file.extend_from_slice(&Sha256::digest(&body));
        file.extend_from_slice(&body);
        file
    }

    /// Takes a file apart and checks its form: magic, versions, checksum, lengths.
    pub fn read(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
        if bytes.len() < MAGIC.len() || &bytes[..MAGIC.len()] != MAGIC {
            return Err(ArtifactError::NotAModel);
        }
        if bytes.len() < N_FIXED_BYTES {
            return Err(ArtifactError::Length);
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let format = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        if !(FIRST_FORMAT_VERSION..=FORMAT_VERSION).contains(&format) {
            return Err(ArtifactError::FormatVersion(format));
        }
        let (checksum, body) = (&bytes[12..44], &bytes[44..]);
        let (n_header, n_table) = (number(44), number(52));
        let packed = &bytes[N_FIXED_BYTES..];
        let n_network = n_header.checked_add(n_table).and_then(|n| (packed.len() as u64).checked_sub(n));
        let Some(n_network) = n_network else {
            return Err(ArtifactError::Length);
        };
        if Sha256::digest(body).as_slice() != checksum {
            return Err(ArtifactError::Checksum);
        }
        let (header, rest) = packed.split_at(n_header as usize);
        let (table, network) = rest.split_at(n_table as usize);
        let header = unpack(header).map_err(|e| ArtifactError::Header(e.to_string()))?;
        let header: Header = serde_json::from_slice(&header).map_err(|e| ArtifactError::Header(e.to_string()))?;
        if header.feature_spec != FEATURE_SPEC_VERSION {
            return Err(ArtifactError::FeatureSpec(header.feature_spec));
        }
        let table = unpack(table).map_err(|e| ArtifactError::Weights(e.to_string()))?;
        if header.n_features.checked_mul(N_FEATURE_BYTES) != Some(table.len()) {
            return Err(ArtifactError::Weights(format!("{} bytes for {} features", table.len(), header.n_features)));
        }
        if header.n_network_words.is_some() != (n_network > 0) {
            return Err(ArtifactError::Length);
        }
        let network = match header.n_network_words {
            None => None,
            Some(n_words) => {
                let bytes = unpack(network).map_err(|e| ArtifactError::Network(e.to_string()))?;
                Some(read_network(&bytes, n_words, header.n_attention_heads)?)
            }
        };
        Ok(Artifact { features: read_rows(&table, header.n_features)?, network, header })
    }

    /// Makes a model of it. `file` is the file's bytes, for its SHA-256.
    fn into_model(self, file: &[u8]) -> Result<Model, ArtifactError> {
        let header = self.header;
        let bad = |what: &str| Err(ArtifactError::Header(what.to_owned()));
        if header.signals != Signal::ALL {
            return bad("signals are not the five of this program");
        }
        if header.languages != LANGUAGES {
            return bad("languages are not those of this program");
        }
        if !header.unit.iter().all(|unit| unit.is_normal() && *unit > 0.0 && unit.to_bits() << 12 == 0) {
            return bad("units are not powers of two");
        }
        if !header.unit.iter().all(|unit| UNITS.contains(unit)) {
            return bad("units are out of range");
        }
        if !header.family_scale.iter().all(|scale| (0.0..=16.0).contains(scale)) {
            return bad("family scales are out of range");
        }
        if !header.bias.iter().all(|bias| bias.unsigned_abs() < 1 << 50) {
            return bad("biases are out of range");
        }
        let lexicon = Lexicon::new(&header.lexicon).map_err(ArtifactError::Header)?;
        let mut heads = Vec::with_capacity(N_LANGUAGES);
        for language in LANGUAGES {
            heads.push(read_head(&header, language)?);
        }
        let heads: [LanguageHead; N_LANGUAGES] = heads.try_into().expect("one head a language");
        let table = WeightTable::new(self.features.iter().map(|row| (row.hash, row.idf_squared, row.weights)));
        let network =
            self.network.map(Network::new).transpose().map_err(|what| ArtifactError::Network(what.to_owned()))?;
        let mut described = serde_json::to_value(&header).expect("a header has string keys only");
        if let Some(fields) = described.as_object_mut() {
            // Thousands of words that say nothing to a reader.
            fields.remove("lexicon");
            fields.remove("canaries");
        }
        Ok(Model {
            classes: ContextClasses::new(&lexicon),
            lexicon,
            table,
            network,
            bias: header.bias,
            unit: header.unit,
            family_scale: header.family_scale,
            heads,
            fewest_letters: header.fewest_letters,
            version: header.version,
            sha256: format!("{:x}", Sha256::digest(file)),
            header_json: described.to_string(),
        })
    }
}

impl Model {
    /// Reads a model file and proves it: form, versions, checksum, and the scores of its canary texts.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model, ArtifactError> {
        let artifact = Artifact::read(bytes)?;
        let canaries = artifact.header.canaries.clone();
        let model = artifact.into_model(bytes)?;
        let mut scratch = Scratch::default();
        for (index, canary) in canaries.iter().enumerate() {
            let scored = model.score(&canary.text, Some(&canary.lang), &mut scratch);
            for signal in Signal::ALL {
                let expected = canary.scores[signal.index()];
                let found = scored.signals.map_or(f64::NAN, |signals| signals[signal.index()].score);
                // Exponentials differ in the last bits from machine to machine.
                if (found - expected).is_nan() || (found - expected).abs() > 1e-6 {
                    return Err(ArtifactError::Canary { index, signal: signal.as_str(), expected, found });
                }
            }
        }
        Ok(model)
    }
}

fn unpack(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(packed)?.take(MOST_UNPACKED_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_UNPACKED_BYTES {
        return Err(std::io::Error::other("larger than any model"));
    }
    Ok(bytes)
}

fn write_network(parts: &NetworkParts) -> Vec<u8> {
    let mut bytes = Vec::new();
    parts.words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    for number in parts.vectors.as_flattened().iter().chain(parts.marks.as_flattened()) {
        bytes.push(number.cast_unsigned());
    }
    for layer in &parts.layers {
        layer.weights.as_flattened().iter().for_each(|weight| bytes.extend_from_slice(&weight.to_le_bytes()));
        layer.bias.iter().for_each(|bias| bytes.extend_from_slice(&bias.to_le_bytes()));
    }
    parts.attention.as_flattened().iter().for_each(|weight| bytes.extend_from_slice(&weight.to_le_bytes()));
    let outputs = parts.output.iter().flatten().chain(&parts.output_bias);
    outputs.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes
}

fn read_network(bytes: &[u8], n_words: usize, n_heads: usize) -> Result<NetworkParts, ArtifactError> {
    const N_INPUTS: usize = N_TAPS * DIM;
    let cut = || ArtifactError::Network("it is cut short or too long".to_owned());
    if !(1..=MOST_HEADS).contains(&n_heads) {
        return Err(ArtifactError::Network(format!("it has {n_heads} attention heads, not 1 to {MOST_HEADS}")));
    }
    let n_pooled = n_pooled(n_heads);
    let mut rest = bytes;
    let mut take = |n: Option<usize>| -> Result<&[u8], ArtifactError> {
        let (taken, after) = n.and_then(|n| rest.split_at_checked(n)).ok_or_else(cut)?;
        rest = after;
        Ok(taken)
    };
    let vectors = |bytes: &[u8]| -> Vec<[i8; DIM]> {
        bytes.as_chunks::<DIM>().0.iter().map(|vector| vector.map(u8::cast_signed)).collect()
    };
    let shorts = |bytes: &[u8]| bytes.as_chunks::<2>().0.iter().map(|n| i16::from_le_bytes(*n)).collect::<Vec<i16>>();
    let words = take(n_words.checked_mul(8))?.as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n)).collect();
    let word_vectors = vectors(take(n_words.checked_add(1).and_then(|n| n.checked_mul(DIM)))?);
    let marks = vectors(take(Some(N_MARKS * DIM))?);
    let mut layers = Vec::with_capacity(REACHES.len());
    for _ in REACHES {
        let weights = shorts(take(Some(2 * DIM * N_INPUTS))?).as_chunks::<N_INPUTS>().0.to_vec();
        let bias = take(Some(4 * DIM))?.as_chunks::<4>().0;
        layers.push(Layer { weights, bias: std::array::from_fn(|channel| i32::from_le_bytes(bias[channel])) });
    }
    let attention = shorts(take(Some(2 * DIM * n_heads))?).as_chunks::<DIM>().0.to_vec();
    let outputs = take(Some(4 * (n_pooled + 1) * N_SIGNALS))?.as_chunks::<4>().0;
    let outputs: Vec<f32> = outputs.iter().map(|number| f32::from_le_bytes(*number)).collect();
    let (output, output_bias) = outputs.split_at(n_pooled * N_SIGNALS);
    if !rest.is_empty() {
        return Err(cut());
    }
    Ok(NetworkParts {
        words,
        vectors: word_vectors,
        marks,
        layers,
        attention,
        output: std::array::from_fn(|signal| output[signal * n_pooled..][..n_pooled].to_vec()),
        output_bias: std::array::from_fn(|signal| output_bias[signal]),
    })
}

fn read_rows(table: &[u8], n_features: usize) -> Result<Vec<FeatureRow>, ArtifactError> {
    let (hashes, rest) = table.split_at(8 * n_features);
    let (idf_squared, weights) = rest.split_at(2 * n_features);
    let short = |column: &[u8], row: usize| [column[2 * row], column[2 * row + 1]];
    let mut last = 0u64;
    let mut rows = Vec::with_capacity(n_features);
    for row in 0..n_features {
        let step = u64::from_le_bytes(hashes[8 * row..8 * row + 8].try_into().expect("eight bytes"));
        let hash = last.checked_add(step).filter(|_| row == 0 || step > 0);
        let Some(hash) = hash else {
            return Err(ArtifactError::Weights("hashes are not sorted".to_owned()));
        };
        last = hash;
        rows.push(FeatureRow {
            hash,
            idf_squared: u16::from_le_bytes(short(idf_squared, row)),
            weights: std::array::from_fn(|signal| i16::from_le_bytes(short(&weights[2 * n_features * signal..], row))),
        });
    }
    Ok(rows)
}

fn read_head(header: &Header, language: &str) -> Result<LanguageHead, ArtifactError> {
    let missing = |what: &str| ArtifactError::Header(format!("no calibration for {what}"));
    let by_signal = header.heads.get(language).ok_or_else(|| missing(language))?;
    let mut heads = Vec::with_capacity(N_SIGNALS);
    for signal in Signal::ALL {
        let head = by_signal.get(signal.as_str()).ok_or_else(|| missing(&format!("{language} {}", signal.as_str())))?;
        let numbers = [
            head.calibration.a,
            head.calibration.b,
            head.document.slope,
            head.document.bias,
            head.document.per_log2_passages,
        ];
        if !numbers.iter().all(|number| number.abs() <= LARGEST_CALIBRATION)
            || head.thresholds.low.is_nan()
            || head.thresholds.high.is_nan()
        {
            return Err(ArtifactError::Header(format!(
                "calibration of {language} {} is out of range",
                signal.as_str()
            )));
        }
        heads.push(*head);
    }
    let stack = header.stacks.get(language).copied();
    // Written so that what is no number is out of range too.
    if !stack.iter().flat_map(Stack::numbers).all(|number| number.abs() <= LARGEST_CALIBRATION) {
        return Err(ArtifactError::Header(format!("stack of {language} is out of range")));
    }
    Ok(LanguageHead {
        stack,
        platt: std::array::from_fn(|signal| heads[signal].calibration),
        thresholds: std::array::from_fn(|signal| heads[signal].thresholds),
        document: std::array::from_fn(|signal| heads[signal].document),
    })
}

/// What the file says of its bias: [`NORM_ONE`] steps make one unit.
pub fn bias_steps(bias: f64, unit: f64) -> i64 {
    (bias / unit * NORM_ONE).round() as i64
}
