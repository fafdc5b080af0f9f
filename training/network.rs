//! Trains the network: words in their order with labels in, integer numbers for the model file out. By candle, on the processor.
//!
//! Word vectors start as the encoder's and are trained with the rest (AdamW, Loshchilov & Hutter 2019; lazily for the vectors); dropout (Srivastava et al. 2014) on
//! words, activations and what is pooled. The same seed and rows give the same numbers on one kind of machine.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::ops::softmax;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use vigie::scoring::Scratch;
use vigie::scoring::lexicon::{BuildKeyHasher, Lexicon};
use vigie::scoring::model::network_words;
use vigie::scoring::network::{
    ACTIVATION_BITS, BIAS_BOUND, DIM, Layer, MOST_HEADS, N_MARKS, N_TAPS, Network, NetworkParts, NetworkScratch,
    REACHES, WEIGHT_BITS, WEIGHT_BOUND, Word, n_pooled,
};
use vigie::scoring::signals::N_SIGNALS;

use crate::corpus::Passage;
use crate::vectors::{VECTOR_ONE, WordVectors};

/// How the network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSettings {
    /// Without it the linear models stand alone.
    pub enabled: bool,
    /// File of word vectors to start from.
    pub vectors: String,
    /// A word without such a vector must stand in so many passages to get one.
    pub fewest_passages: u32,
    /// Attention heads: ways of weighing the words of a passage.
    pub heads: usize,
    pub epochs: usize,
    /// Passages a step.
    pub batch: usize,
    /// Highest rate; it rises over the first steps and falls to nearly nothing.
    pub learning_rate: f64,
    /// The same for the vectors, of which a step moves few.
    pub vector_learning_rate: f64,
    pub weight_decay: f64,
    /// Shares that are left out of a step: words, activations, what is pooled.
    pub word_dropout: f32,
    pub dropout: f32,
    pub pooled_dropout: f32,
    /// No passage weighs more.
    pub largest_weight: f64,
    /// Weight of a passage's aspects beside its signals; 0 for none.
    pub aspect_weight: f64,
}

const N_WARM_UP: usize = 200;
/// Words beyond are not read in training.
const MOST_WORDS: usize = 180;

/// Passages as the network reads them.
pub struct NetworkRows {
    words: Vec<Vec<Word>>,
    /// By row: 1, 0, NaN for unknown.
    labels: Vec<[f32; N_SIGNALS]>,
    weights: Vec<f32>,
    /// By row: the aspects that it has, `None` where nobody said.
    aspects: Vec<Option<Vec<usize>>>,
    n_aspects: usize,
    /// Words with a vector, sorted, and the vectors; the first vector is of all other words.
    known: Vec<u64>,
    start: Vec<[f32; DIM]>,
}

impl NetworkRows {
    /// Reads the passages and counts their words.
    pub fn new(
        passages: &[&Passage],
        lexicon: &Lexicon,
        vectors: &WordVectors,
        settings: &NetworkSettings,
    ) -> NetworkRows {
        let mut scratch = Scratch::default();
        let words: Vec<Vec<Word>> =
            passages.iter().map(|passage| network_words(&passage.text, lexicon, &mut scratch)).collect();
        let mut n_passages: HashMap<u64, u32, BuildKeyHasher> = HashMap::default();
        for passage in &words {
            let mut hashes: Vec<u64> = passage.iter().map(|word| word.hash).collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes.into_iter().for_each(|hash| *n_passages.entry(hash).or_default() += 1);
        }
        let frequent = n_passages.into_iter().filter(|(_, n)| *n >= settings.fewest_passages).map(|(hash, _)| hash);
        let known: BTreeSet<u64> = frequent.chain(vectors.of_word.keys().copied()).collect();
        let known = Vec::from_iter(known);
        let vector = |hash: &u64| {
            vectors.of_word.get(hash).map_or([0.0; DIM], |v| v.map(|number| f32::from(number) / VECTOR_ONE))
        };
        let start = std::iter::once([0.0; DIM]).chain(known.iter().map(vector)).collect();
        let names: BTreeSet<(u8, &str)> = passages.iter().copied().flat_map(aspects_of).collect();
        let aspects = |passage: &&Passage| {
            let found = aspects_of(passage).filter_map(|aspect| names.iter().position(|name| *name == aspect));
            (!passage.function.is_empty()).then(|| found.collect())
        };
        let label = |label: Option<bool>| label.map_or(f32::NAN, |label| f32::from(u8::from(label)));
        NetworkRows {
            words,
            labels: passages.iter().map(|passage| passage.label_array().map(label)).collect(),
            weights: passages.iter().map(|passage| passage.weight.min(settings.largest_weight) as f32).collect(),
            aspects: passages.iter().map(aspects).collect(),
            // No tensor is without a column.
            n_aspects: names.len().max(1),
            known,
            start,
        }
    }

    /// The margins that `network` gives to `rows`, in their order.
    pub fn margins(&self, network: &Network, rows: &[usize]) -> Array2<f64> {
        let mut scratch = NetworkScratch::default();
        let mut margins = Array2::zeros((rows.len(), N_SIGNALS));
        for (mut out, &row) in margins.rows_mut().into_iter().zip(rows) {
            let found = network.margins(&self.words[row], &mut scratch);
            out.iter_mut().zip(found).for_each(|(out, found)| *out = found);
        }
        margins
    }
}

/// What a passage of ours is known for beside its signals: its function (reports, rebuts, teases, …) and the groups that it names. To tell
/// these too teaches the network what is read in between (multi-task learning, Caruana 1997).
fn aspects_of(passage: &Passage) -> impl Iterator<Item = (u8, &str)> {
    let function = Some(passage.function.as_str()).filter(|function| !function.is_empty());
    function.map(|function| (0, function)).into_iter().chain(passage.groups.iter().map(|group| (1, group.as_str())))
}

/// Trains a network on `rows`. Errors when candle does, and on a number of heads that no network has.
pub fn train(data: &NetworkRows, rows: &[usize], settings: &NetworkSettings, seed: u64) -> Result<Network> {
    ensure!((1..=MOST_HEADS).contains(&settings.heads), "network.heads is {}, not 1 to {MOST_HEADS}", settings.heads);
    let mut random = fastrand::Rng::with_seed(seed);
    let net = Variables::new(settings.heads, data.n_aspects, &mut random)?;
    let mut vectors = VectorTable::new(&data.start);
    let decay = |weight_decay: f64| ParamsAdamW { lr: 0.0, weight_decay, ..ParamsAdamW::default() };
    let mut optimizers =
        [AdamW::new(vec![net.marks.clone()], decay(0.0))?, AdamW::new(net.weights(), decay(settings.weight_decay))?];
    let n_steps = settings.epochs * rows.len().div_ceil(settings.batch);
    let mut step = 0;
    let mut order = rows.to_vec();
    for epoch in 0..settings.epochs {
        random.shuffle(&mut order);
        let mut total = 0.0;
        for batch in order.chunks(settings.batch) {
            let rise = (step as f64 / N_WARM_UP as f64).min(1.0);
            let share = rise * (1.0 - step as f64 / n_steps as f64).max(0.02);
            let texts = Texts::new(data, batch);
            let taken = vectors.take(&texts.rows)?;
            let pooled = net.read(&taken, &texts, settings, &mut random)?;
            let loss = (signal_loss(&net.margins(&pooled)?, data, batch)?
                + (aspect_loss(&net.aspects(&pooled)?, data, batch)? * settings.aspect_weight)?)?;
            let gradients = loss.backward()?;
            for optimizer in &mut optimizers {
                optimizer.set_learning_rate(settings.learning_rate * share);
                optimizer.step(&gradients)?;
            }
            let gradient = gradients.get(&taken).context("no vector has a gradient")?;
            vectors.step(&texts.rows, gradient, settings.vector_learning_rate * share)?;
            total += f64::from(loss.to_scalar::<f32>()?);
            step += 1;
        }
        tracing::info!(epoch, loss = total / order.chunks(settings.batch).len() as f64, "network trained");
    }
    net.finish(&data.known, &vectors.numbers)
}

/// The texts of a batch, end to end.
struct Texts<'a> {
    words: Vec<&'a [Word]>,
    /// Rows of the vectors that stand in them, sorted, each once.
    rows: Vec<u32>,
    /// For every word the place of its row in `rows`.
    places: Vec<u32>,
}

impl<'a> Texts<'a> {
    fn new(data: &'a NetworkRows, batch: &[usize]) -> Texts<'a> {
        let words = batch.iter().map(|&row| data.words[row].get(..MOST_WORDS).unwrap_or(&data.words[row]));
        let words: Vec<&[Word]> = words.collect();
        let row_of = |word: &Word| data.known.binary_search(&word.hash).map_or(0, |row| row as u32 + 1);
        let row_of_word: Vec<u32> = words.concat().iter().map(row_of).collect();
        let rows = Vec::from_iter(BTreeSet::from_iter(row_of_word.iter().copied()));
        let place = |row: &u32| rows.partition_point(|other| other < row) as u32;
        let places = row_of_word.iter().map(place).collect();
        Texts { words, rows, places }
    }
}

/// The vectors of all words and Adam's moments of them (Kingma & Ba 2015), of which a step touches no more than the rows of its batch, as
/// PyTorch's `SparseAdam` does.
struct VectorTable {
    /// The unknown word, then one row a word.
    numbers: Vec<[f32; DIM]>,
    means: Vec<[f32; DIM]>,
    squares: Vec<[f32; DIM]>,
    n_steps: i32,
}

impl VectorTable {
    fn new(start: &[[f32; DIM]]) -> VectorTable {
        let nothing = vec![[0.0; DIM]; start.len()];
        VectorTable { numbers: start.to_vec(), means: nothing.clone(), squares: nothing, n_steps: 0 }
    }

    /// Rows × channels, to be trained.
    fn take(&self, rows: &[u32]) -> Result<Var> {
        let numbers: Vec<f32> = rows.iter().flat_map(|&row| self.numbers[row as usize]).collect();
        Ok(Var::from_tensor(&Tensor::from_vec(numbers, (rows.len(), DIM), &Device::Cpu)?)?)
    }

    /// One step of Adam on `rows`, whose gradient is rows × channels.
    fn step(&mut self, rows: &[u32], gradient: &Tensor, rate: f64) -> Result<()> {
        let ParamsAdamW { beta1, beta2, eps, .. } = ParamsAdamW::default();
        self.n_steps += 1;
        let (mean_share, square_share) = (1.0 - beta1.powi(self.n_steps), 1.0 - beta2.powi(self.n_steps));
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        for (&row, gradient) in rows.iter().zip(gradient.as_chunks::<DIM>().0) {
            let row = row as usize;
            let moments = self.means[row].iter_mut().zip(&mut self.squares[row]);
            for ((number, (mean, square)), &slope) in self.numbers[row].iter_mut().zip(moments).zip(gradient) {
                *mean += (1.0 - beta1) as f32 * (slope - *mean);
                *square += (1.0 - beta2) as f32 * (slope * slope - *square);
                let (mean, square) = (f64::from(*mean) / mean_share, f64::from(*square) / square_share);
                *number -= (rate * mean / (square.sqrt() + eps)) as f32;
            }
        }
        Ok(())
    }
}

/// What is trained beside the vectors, in numbers of any size.
struct Variables {
    marks: Var,
    /// Inputs × outputs and bias, a layer.
    layers: Vec<(Var, Var)>,
    /// Channels × heads.
    attention: Var,
    /// What is pooled × signals.
    output: Var,
    output_bias: Var,
    /// What is pooled × aspects: no part of the model file.
    aspects: Var,
    aspects_bias: Var,
}

impl Variables {
    fn new(n_heads: usize, n_aspects: usize, random: &mut fastrand::Rng) -> Result<Variables> {
        // Uniform within ± 1 / √inputs.
        let mut uniform = |shape: (usize, usize), width: f32| {
            let numbers: Vec<f32> = (0..shape.0 * shape.1).map(|_| (random.f32() * 2.0 - 1.0) * width).collect();
            Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu)?)
        };
        let n_inputs = N_TAPS * DIM;
        let width = 1.0 / (n_inputs as f32).sqrt();
        let zeros = |n: usize| Var::zeros(n, DType::F32, &Device::Cpu);
        let mut layers = Vec::with_capacity(REACHES.len());
        for _ in REACHES {
            layers.push((uniform((n_inputs, DIM), width)?, zeros(DIM)?));
        }
        Ok(Variables {
            marks: Var::zeros((N_MARKS, DIM), DType::F32, &Device::Cpu)?,
            layers,
            attention: uniform((DIM, n_heads), 1.0 / (DIM as f32).sqrt())?,
            output: uniform((n_pooled(n_heads), N_SIGNALS), 1.0 / (n_pooled(n_heads) as f32).sqrt())?,
            output_bias: zeros(N_SIGNALS)?,
            aspects: uniform((n_pooled(n_heads), n_aspects), 1.0 / (n_pooled(n_heads) as f32).sqrt())?,
            aspects_bias: zeros(n_aspects)?,
        })
    }

    fn weights(&self) -> Vec<Var> {
        let of_layers = self.layers.iter().flat_map(|(weights, bias)| [weights.clone(), bias.clone()]);
        let last = [&self.attention, &self.output, &self.output_bias, &self.aspects, &self.aspects_bias];
        of_layers.chain(last.map(Clone::clone)).collect()
    }

    /// Rows × signals.
    fn margins(&self, pooled: &Tensor) -> candle_core::Result<Tensor> {
        pooled.matmul(&self.output)?.broadcast_add(&self.output_bias)
    }

    /// Rows × aspects.
    fn aspects(&self, pooled: &Tensor) -> candle_core::Result<Tensor> {
        pooled.matmul(&self.aspects)?.broadcast_add(&self.aspects_bias)
    }

    /// Rows × what is pooled, a share of it left out. `vectors` are those of the rows of `texts`.
    fn read(
        &self,
        vectors: &Tensor,
        Texts { words: texts, places, .. }: &Texts,
        settings: &NetworkSettings,
        random: &mut fastrand::Rng,
    ) -> candle_core::Result<Tensor> {
        let n_words = places.len();
        let mut marks = vec![0f32; n_words * N_MARKS];
        for (at, word) in texts.iter().flat_map(|text| text.iter()).enumerate() {
            word.marks().for_each(|mark| marks[at * N_MARKS + mark] = 1.0);
        }
        let marks = Tensor::from_vec(marks, (n_words, N_MARKS), &Device::Cpu)?;
        let places = Tensor::from_slice(places, n_words, &Device::Cpu)?;
        let kept = mask(n_words, settings.word_dropout, 1.0, random).reshape((n_words, 1))?;
        let vectors = (vectors.index_select(&places, 0)? + marks.matmul(&self.marks)?)?.broadcast_mul(&kept)?;
        let drop = |activations: Tensor, random: &mut fastrand::Rng| -> candle_core::Result<Tensor> {
            let scale = 1.0 / (1.0 - settings.dropout);
            let mask = mask(activations.elem_count(), settings.dropout, scale, random);
            activations * mask.reshape((n_words, DIM))?
        };
        let mut now = drop(vectors, random)?;
        let nothing = Tensor::zeros((1, DIM), DType::F32, &Device::Cpu)?;
        for (layer, ((weights, bias), reach)) in self.layers.iter().zip(REACHES).enumerate() {
            let read = if layer == 0 { now.clone() } else { drop(now.clone(), random)? };
            // The row behind the last stands for what lies outside a text.
            let padded = Tensor::cat(&[&read, &nothing], 0)?;
            let (left, right) = neighbours(texts, reach);
            let left = padded.index_select(&Tensor::from_vec(left, n_words, &Device::Cpu)?, 0)?;
            let right = padded.index_select(&Tensor::from_vec(right, n_words, &Device::Cpu)?, 0)?;
            let found = Tensor::cat(&[&left, &read, &right], 1)?.matmul(weights)?.broadcast_add(bias)?.relu()?;
            now = if layer == 0 { found } else { (now + found)? };
        }
        let pooled = self.pool(&now, texts)?;
        let scale = 1.0 / (1.0 - settings.pooled_dropout);
        let kept = mask(pooled.elem_count(), settings.pooled_dropout, scale, random).reshape(pooled.shape())?;
        pooled * kept
    }

    /// Texts × (maximum of every channel, then its mean by each head).
    fn pool(&self, activations: &Tensor, texts: &[&[Word]]) -> candle_core::Result<Tensor> {
        let n_words = activations.dim(0)? as u32;
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0).max(1);
        let mut places = vec![n_words; texts.len() * longest];
        let mut outside = vec![-1e4f32; texts.len() * longest];
        let mut first = 0;
        for (row, text) in texts.iter().enumerate() {
            for at in 0..text.len() {
                (places[row * longest + at], outside[row * longest + at]) = (first + at as u32, 0.0);
            }
            first += text.len() as u32;
        }
        let padded = Tensor::cat(&[activations, &Tensor::zeros((1, DIM), DType::F32, &Device::Cpu)?], 0)?;
        let places = Tensor::from_vec(places, texts.len() * longest, &Device::Cpu)?;
        let by_text = padded.index_select(&places, 0)?.reshape((texts.len(), longest, DIM))?;
        // Activations are never negative, so that zeros outside a text change no maximum.
        let highest = by_text.max(1)?;
        let outside = Tensor::from_vec(outside, (texts.len(), longest), &Device::Cpu)?;
        let n_heads = self.attention.dim(1)?;
        let urgency = activations.matmul(&self.attention)?;
        let urgency = Tensor::cat(&[&urgency, &Tensor::zeros((1, n_heads), DType::F32, &Device::Cpu)?], 0)?;
        let urgency = urgency.index_select(&places, 0)?.reshape((texts.len(), longest, n_heads))?;
        let shares = softmax(&urgency.broadcast_add(&outside.unsqueeze(2)?)?, 1)?;
        // Texts × heads × channels.
        let means = shares.transpose(1, 2)?.contiguous()?.matmul(&by_text)?;
        Tensor::cat(&[highest, means.flatten_from(1)?], 1)
    }

    /// The numbers in the steps of the model file.
    fn finish(&self, known: &[u64], vectors: &[[f32; DIM]]) -> Result<Network> {
        let numbers = |variable: &Var| -> Result<Vec<f32>> { Ok(variable.flatten_all()?.to_vec1::<f32>()?) };
        let byte = |number: f32| (number * VECTOR_ONE).round().clamp(-127.0, 127.0) as i8;
        let bytes = |rows: &[[f32; DIM]]| rows.iter().map(|row| row.map(byte)).collect();
        let step = |number: f32| {
            let bound = f32::from(WEIGHT_BOUND - 1);
            (number * f32::from(1u16 << WEIGHT_BITS)).round().clamp(-bound, bound) as i16
        };
        let mut layers = Vec::with_capacity(self.layers.len());
        for (weights, bias) in &self.layers {
            let (weights, bias) = (numbers(weights)?, numbers(bias)?);
            let one = f64::from(1u32 << (ACTIVATION_BITS + WEIGHT_BITS));
            let bound = f64::from(BIAS_BOUND - 1);
            layers.push(Layer {
                weights: (0..DIM).map(|out| std::array::from_fn(|input| step(weights[input * DIM + out]))).collect(),
                bias: std::array::from_fn(|out| (f64::from(bias[out]) * one).round().clamp(-bound, bound) as i32),
            });
        }
        let n_heads = self.attention.dim(1)?;
        let (attention, output, output_bias) =
            (numbers(&self.attention)?, numbers(&self.output)?, numbers(&self.output_bias)?);
        let parts = NetworkParts {
            words: known.to_vec(),
            vectors: bytes(vectors),
            marks: bytes(numbers(&self.marks)?.as_chunks::<DIM>().0),
            layers,
            attention: (0..n_heads)
                .map(|head| std::array::from_fn(|channel| step(attention[channel * n_heads + head])))
                .collect(),
            output: std::array::from_fn(|signal| output.iter().skip(signal).step_by(N_SIGNALS).copied().collect()),
            output_bias: std::array::from_fn(|signal| output_bias[signal]),
        };
        Network::new(parts).map_err(anyhow::Error::msg).context("what was trained is no network")
    }
}

/// Loss of the signals, a passage of a batch with these margins; unknown labels count for nothing.
fn signal_loss(margins: &Tensor, data: &NetworkRows, batch: &[usize]) -> candle_core::Result<Tensor> {
    let known = batch.iter().flat_map(|&row| data.labels[row].map(|label| (label, data.weights[row])));
    let known = known.map(|(label, weight)| if label.is_nan() { (0.0, 0.0) } else { (label, weight) });
    let (labels, weights): (Vec<f32>, Vec<f32>) = known.unzip();
    logistic_loss(margins, labels, weights)
}

/// The same of the aspects; passages of which nobody said any count for nothing.
fn aspect_loss(scores: &Tensor, data: &NetworkRows, batch: &[usize]) -> candle_core::Result<Tensor> {
    let n = data.n_aspects;
    let (mut labels, mut weights) = (vec![0f32; batch.len() * n], vec![0f32; batch.len() * n]);
    for (at, &row) in batch.iter().enumerate() {
        let Some(aspects) = &data.aspects[row] else { continue };
        weights[at * n..(at + 1) * n].fill(1.0);
        aspects.iter().for_each(|aspect| labels[at * n + aspect] = 1.0);
    }
    logistic_loss(scores, labels, weights)
}

/// Weighted logistic loss, summed over columns, a row.
fn logistic_loss(margins: &Tensor, labels: Vec<f32>, weights: Vec<f32>) -> candle_core::Result<Tensor> {
    let tensor = |numbers: Vec<f32>| Tensor::from_vec(numbers, margins.shape(), &Device::Cpu);
    // ln(1 + e^x) without overflow.
    let soft = (margins.relu()? + ((margins.abs()?.neg()?.exp()? + 1.0)?).log()?)?;
    let losses = ((soft - (margins * tensor(labels)?)?)? * tensor(weights)?)?;
    losses.sum_all()? / margins.dim(0)? as f64
}

/// `scale` for what is kept, 0 for a share that is not.
fn mask(n: usize, share: f32, scale: f32, random: &mut fastrand::Rng) -> Tensor {
    let numbers: Vec<f32> = (0..n).map(|_| if random.f32() < share { 0.0 } else { scale }).collect();
    Tensor::from_vec(numbers, n, &Device::Cpu).expect("a vector fits its own length")
}

/// For every word the rows of its neighbours at `reach`; one behind the last row for what lies outside the text.
fn neighbours(texts: &[&[Word]], reach: usize) -> (Vec<u32>, Vec<u32>) {
    let n_words: usize = texts.iter().map(|text| text.len()).sum();
    let (mut left, mut right) = (Vec::with_capacity(n_words), Vec::with_capacity(n_words));
    let mut first = 0;
    for text in texts {
        for at in 0..text.len() {
            left.push(if at >= reach { first + at - reach } else { n_words } as u32);
            right.push(if at + reach < text.len() { first + at + reach } else { n_words } as u32);
        }
        first += text.len();
    }
    (left, right)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: NetworkSettings = NetworkSettings {
        enabled: true,
        vectors: String::new(),
        fewest_passages: 2,
        heads: 2,
        epochs: 30,
        batch: 16,
        learning_rate: 1e-2,
        vector_learning_rate: 1e-2,
        weight_decay: 0.0,
        word_dropout: 0.05,
        dropout: 0.1,
        pooled_dropout: 0.1,
        largest_weight: 1.0,
        aspect_weight: 0.3,
    };

    /// Sentences in which the order alone says who attacks: `one` before `other`, with fillers between.
    fn rows() -> NetworkRows {
        let word = |hash: u64| Word { hash, classes: 0, places: 0 };
        let (mut words, mut labels) = (Vec::new(), Vec::new());
        for n in 0..160u64 {
            let is_attack = n % 2 == 0;
            let (first, last) = if is_attack { (101, 102) } else { (102, 101) };
            let mut text = vec![word(n / 2 % 5), word(first), word(7 + n / 2 % 3), word(last)];
            (0..n / 2 % 4).for_each(|filler| text.push(word(filler)));
            words.push(text);
            let mut label = [0.0, f32::from(u8::from(!is_attack)), f32::NAN, f32::from(u8::from(is_attack)), 0.0];
            label[0] = f32::from(u8::from(n % 3 == 0));
            labels.push(label);
        }
        let known: Vec<u64> = (0..10).chain([101, 102]).collect();
        let mut start = vec![[0.0; DIM]; known.len() + 1];
        (start[11][0], start[12][1]) = (1.0, 1.0);
        // Of every third nobody said any aspect.
        let aspects = (0..words.len()).map(|n| (n % 3 > 0).then(|| vec![n % 2])).collect();
        NetworkRows { weights: vec![1.0; words.len()], aspects, n_aspects: 2, words, labels, known, start }
    }

    #[test]
    fn the_order_of_words_is_learned_and_kept_in_whole_numbers() {
        let data = rows();
        let taught: Vec<usize> = (0..120).collect();
        let network = train(&data, &taught, &SETTINGS, 5).unwrap();
        let unseen: Vec<usize> = (120..160).collect();
        for (row, margins) in unseen.iter().zip(data.margins(&network, &unseen).rows()) {
            assert_eq!(margins[3] > 0.0, row % 2 == 0, "row {row}: {margins}");
            assert_eq!(margins[1] > 0.0, row % 2 == 1, "row {row}: {margins}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let data = rows();
        let settings = NetworkSettings { epochs: 2, ..SETTINGS };
        let all: Vec<usize> = (0..160).collect();
        let parts = |seed: u64| train(&data, &all, &settings, seed).unwrap().parts().clone();
        assert!(parts(5) == parts(5));
        assert!(parts(5) != parts(6));
    }

    #[test]
    fn passages_without_aspects_count_for_nothing() {
        let data = rows();
        let scores = |n: usize| Tensor::full(1f32, (n, 2), &Device::Cpu).unwrap();
        let loss =
            |batch: &[usize]| aspect_loss(&scores(batch.len()), &data, batch).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(loss(&[0, 3]), 0.0);
        // One passage of two has one aspect of two.
        let both = 2.0 * (1.0 + 1f32.exp()).ln() - 1.0;
        assert!((loss(&[0, 1]) - both / 2.0).abs() < 1e-6, "{}", loss(&[0, 1]));
    }

    #[test]
    fn a_step_moves_the_rows_of_its_batch_against_their_slope() {
        let mut table = VectorTable::new(&[[0.5; DIM]; 3]);
        let mut slopes = [0.0f32; DIM];
        (slopes[0], slopes[1]) = (4.0, -0.01);
        let gradient = Tensor::new(&[slopes], &Device::Cpu).unwrap();
        table.step(&[1], &gradient, 0.1).unwrap();
        assert_eq!((table.numbers[0], table.numbers[2]), ([0.5; DIM], [0.5; DIM]));
        // Adam's first step is as long as the rate, whatever the slope.
        let moved = &table.numbers[1][..3];
        assert!(
            moved.iter().zip([0.4, 0.6, 0.5]).all(|(found, expected)| (found - expected).abs() < 1e-5),
            "{moved:?}"
        );
        assert_eq!(table.take(&[2, 1]).unwrap().to_vec2::<f32>().unwrap(), [table.numbers[2], table.numbers[1]]);
    }

    #[test]
    fn neighbours_stay_within_their_text() {
        let word = Word { hash: 1, classes: 0, places: 0 };
        let (one, two) = ([word; 3], [word; 2]);
        let (left, right) = neighbours(&[&one, &two], 1);
        assert_eq!(left, [5, 0, 1, 5, 3]);
        assert_eq!(right, [1, 2, 5, 4, 5]);
        assert_eq!(neighbours(&[&one, &two], 2).0, [5, 5, 0, 5, 5]);
    }
}
