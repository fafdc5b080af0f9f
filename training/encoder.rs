//! Reads passages with a sentence encoder and keeps, for every word, the mean of what the encoder makes of it where it stands.
//!
//! The encoder is a BERT in the usual layout (`config.json`, `tokenizer.json`, `model.safetensors`), such as multilingual-e5-small. Its 384
//! numbers a word piece are averaged over a word's occurrences, brought to unit variance and cut to [`DIM`] principal components.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use indicatif::{ProgressBar, ProgressStyle};
use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, Predict};
use linfa_reduction::Pca;
use ndarray::{Array2, Axis};
use tokenizers::{Tokenizer, TruncationParams};
use vigie::scoring::Scratch;
use vigie::scoring::lexicon::{BuildKeyHasher, Lexicon};
use vigie::scoring::model::passage_words;
use vigie::scoring::network::DIM;

use crate::corpus::Passage;
use crate::vectors::{Provenance, VECTOR_ONE, WordVectors};

/// What e5 encoders want before a text.
const PREFIX: &str = "query: ";
const MOST_PIECES: usize = 256;
const BATCH: usize = 32;
/// A word must stand in the passages so often to get a vector.
const FEWEST_OCCURRENCES: u32 = 2;
/// Root mean square of a vector's numbers.
const SIZE: f64 = 0.55;

/// Mean encoder outputs by word, sums until they are divided.
type Sums = HashMap<u64, (u32, Vec<f32>), BuildKeyHasher>;

/// The vectors of all words in `passages`. `folder` holds the encoder. Errors when it cannot be read or a step of it fails.
pub fn word_vectors(passages: &[&Passage], lexicon: &Lexicon, folder: &Path, licence: &str) -> Result<WordVectors> {
    let encoder = Encoder::open(folder)?;
    let mut order: Vec<&Passage> = passages.to_vec();
    // Texts of one length waste no padding.
    order.sort_by_key(|passage| (passage.text.len(), passage.id.clone()));
    let bar = ProgressBar::new(order.len() as u64);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} passages, {eta} left")?);
    let mut sums = Sums::default();
    let mut scratch = Scratch::default();
    for batch in order.chunks(BATCH) {
        let texts: Vec<&str> = batch.iter().map(|passage| passage.text.as_str()).collect();
        encoder.add(&texts, lexicon, &mut scratch, &mut sums)?;
        bar.inc(batch.len() as u64);
    }
    bar.finish();
    let mut words: Vec<(u64, (u32, Vec<f32>))> =
        sums.into_iter().filter(|(_, (n, _))| *n >= FEWEST_OCCURRENCES).collect();
    words.sort_unstable_by_key(|word| word.0);
    let width = words.first().context("no word stands in the passages often enough")?.1.1.len();
    let means = Array2::from_shape_fn((words.len(), width), |(word, column)| {
        let (n, sum) = &words[word].1;
        f64::from(sum[column]) / f64::from(*n)
    });
    let (reduced, variance) = reduce(means)?;
    let step = |number: f64| (number * f64::from(VECTOR_ONE)).round().clamp(-127.0, 127.0) as i8;
    let of_word = words.iter().zip(reduced.rows()).map(|((word, _), row)| {
        let vector: [i8; DIM] = std::array::from_fn(|column| step(row[column]));
        (*word, vector)
    });
    let name = folder.file_name().map_or_else(|| "encoder".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(WordVectors {
        provenance: Provenance {
            encoder: name,
            licence: licence.to_owned(),
            n_passages: passages.len(),
            n_words: words.len(),
            variance: (variance * 1e4).round() / 1e4,
        },
        of_word: of_word.collect(),
    })
}

/// Columns of unit variance, then principal components, by linfa; the root mean square of all numbers is [`SIZE`].
fn reduce(mut means: Array2<f64>) -> Result<(Array2<f64>, f64)> {
    let centre = means.mean_axis(Axis(0)).context("no words")?;
    means -= &centre;
    let deviation = means.std_axis(Axis(0), 0.0).mapv(|deviation| deviation.max(1e-9));
    means /= &deviation;
    let total = means.mapv(|number| number * number).sum();
    let dataset = DatasetBase::from(means);
    let pca = Pca::params(DIM).fit(&dataset)?;
    let mut reduced: Array2<f64> = pca.predict(&dataset);
    let kept = reduced.mapv(|number| number * number).sum();
    reduced *= SIZE / (kept / reduced.len() as f64).sqrt();
    Ok((reduced, kept / total))
}

struct Encoder {
    model: BertModel,
    tokenizer: Tokenizer,
}

impl Encoder {
    fn open(folder: &Path) -> Result<Encoder> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))
        };
        let config: Config = serde_json::from_slice(&read("config.json")?).context("in config.json")?;
        let weights = VarBuilder::from_buffered_safetensors(read("model.safetensors")?, DType::F32, &Device::Cpu)?;
        let mut tokenizer =
            Tokenizer::from_bytes(read("tokenizer.json")?).map_err(|e| anyhow!("tokenizer.json: {e}"))?;
        let truncation = TruncationParams { max_length: MOST_PIECES, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| anyhow!("tokenizer: {e}"))?.with_padding(None);
        Ok(Encoder { model: BertModel::load(weights, &config)?, tokenizer })
    }

    /// Adds every word of `texts` to `sums`.
    fn add(&self, texts: &[&str], lexicon: &Lexicon, scratch: &mut Scratch, sums: &mut Sums) -> Result<()> {
        let prefixed: Vec<String> = texts.iter().map(|text| format!("{PREFIX}{text}")).collect();
        let pieces = self.tokenizer.encode_batch(prefixed, true).map_err(|e| anyhow!("tokenizer: {e}"))?;
        let longest = pieces.iter().map(tokenizers::Encoding::len).max().unwrap_or(0);
        let mut ids = vec![0u32; texts.len() * longest];
        let mut mask = vec![0f32; texts.len() * longest];
        for (row, encoding) in pieces.iter().enumerate() {
            let places = row * longest..row * longest + encoding.len();
            ids[places.clone()].copy_from_slice(encoding.get_ids());
            mask[places].fill(1.0);
        }
        let shape = (texts.len(), longest);
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?.to_vec3::<f32>()?;
        for ((text, encoding), hidden) in texts.iter().zip(&pieces).zip(&hidden) {
            let offsets = encoding.get_offsets();
            for (word, bytes) in passage_words(text, lexicon, scratch) {
                let (start, end) = (bytes.start + PREFIX.len(), bytes.end + PREFIX.len());
                let touching =
                    offsets.iter().zip(hidden).filter(|((from, to), _)| *from < end && *to > start && from < to);
                let of_pieces: Vec<&Vec<f32>> = touching.map(|(_, piece)| piece).collect();
                if of_pieces.is_empty() {
                    continue;
                }
                let (n, sum) = sums.entry(word).or_insert_with(|| (0, vec![0.0; of_pieces[0].len()]));
                *n += 1;
                let share = 1.0 / of_pieces.len() as f32;
                for piece in of_pieces {
                    sum.iter_mut().zip(piece).for_each(|(sum, number)| *sum += share * number);
                }
            }
        }
        Ok(())
    }
}
