//! A small convolutional network beside the linear models: the words of a passage in their order in, five margins out.
//!
//! N-grams know words only as they stand; here a word is a vector that it shares with words of its kind, from a sentence encoder at first and then
//! trained on. Three convolutions of three words each (Kim 2014; the second and third dilated, Yu & Koltun 2016) read 15 words at once; what
//! they find is pooled by its maximum and by attention.
//!
//! Everything up to the pooling is done in integers, so that it is the same on every machine: activations have [`ACTIVATION_BITS`] fractional
//! bits, weights [`WEIGHT_BITS`], and both are bounded so that no sum leaves 32 bits.

use std::collections::HashMap;
use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};

use super::features::Token;
use super::lexicon::{BuildKeyHasher, ClassSet};
use super::signals::N_SIGNALS;

/// Numbers in a word's vector, and channels of every layer.
pub const DIM: usize = 64;
/// How far from a word the neighbours stand that a layer reads.
pub const REACHES: [usize; 3] = [1, 2, 4];
/// How far a word reaches through all layers.
const FARTHEST: usize = REACHES[0] + REACHES[1] + REACHES[2];
/// What a layer reads of a word: its left neighbour, itself, its right neighbour.
pub const N_TAPS: usize = 3;
/// What a word may be beside itself: classes of the lexicon, then its place (in quotes, negated, …).
pub const N_MARKS: usize = ClassSet::BITS as usize + N_PLACES;
const N_PLACES: usize = 5;
/// Fractional bits of a vector's numbers.
pub const VECTOR_BITS: u32 = 5;
/// Fractional bits of an activation.
pub const ACTIVATION_BITS: u32 = 7;
/// Fractional bits of a weight.
pub const WEIGHT_BITS: u32 = 10;
/// Activations and weights lie strictly between minus and plus these: 2^12 · 2^11 · 192 and a bias stay within 32 bits.
const ACTIVATION_BOUND: i32 = 1 << 12;
/// See [`WEIGHT_BITS`]; weights beyond are refused.
pub const WEIGHT_BOUND: i16 = 1 << 11;
/// Biases beyond are refused.
pub const BIAS_BOUND: i32 = 1 << 28;

/// No network has more heads.
pub const MOST_HEADS: usize = 16;
const N_INPUTS: usize = N_TAPS * DIM;

/// How many numbers pooling makes of a passage: of every channel a maximum and a mean a head.
pub const fn n_pooled(n_heads: usize) -> usize {
    (1 + n_heads) * DIM
}

/// A word as the network reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Hash of the folded word.
    pub hash: u64,
    pub classes: ClassSet,
    /// One bit a place, as in [`Token`].
    pub places: u8,
}

impl Word {
    /// Rows of the mark table that are added to the word's vector.
    pub fn marks(&self) -> impl Iterator<Item = usize> {
        let (classes, places) = (self.classes, self.places);
        let of_classes = (0..ClassSet::BITS as usize).filter(move |bit| classes >> bit & 1 == 1);
        of_classes
            .chain((0..N_PLACES).filter(move |bit| places >> bit & 1 == 1).map(|bit| ClassSet::BITS as usize + bit))
    }
}

impl From<&Token> for Word {
    fn from(token: &Token) -> Word {
        Word { hash: token.hash, classes: token.classes(), places: token.places() }
    }
}

/// One convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// By output channel, then tap, then input channel.
    pub weights: Vec<[i16; N_INPUTS]>,
    /// In steps of 2^-([`ACTIVATION_BITS`] + [`WEIGHT_BITS`]).
    pub bias: [i32; DIM],
}

/// The numbers of a network, as the model file holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkParts {
    /// Hashes of the words with a vector, sorted.
    pub words: Vec<u64>,
    /// A vector for words that are not known, then one a word.
    pub vectors: Vec<[i8; DIM]>,
    /// A vector a mark.
    pub marks: Vec<[i8; DIM]>,
    pub layers: Vec<Layer>,
    /// What each head looks for: one to [`MOST_HEADS`] of them.
    pub attention: Vec<[i16; DIM]>,
    /// By signal the weights of the maximum of every channel, then of its mean by each head: [`n_pooled`] numbers.
    pub output: [Vec<f32>; N_SIGNALS],
    pub output_bias: [f32; N_SIGNALS],
}

/// A network ready to read.
#[derive(Debug, Clone)]
pub struct Network {
    arch: Arch,
    rows: HashMap<u64, u32, BuildKeyHasher>,
    parts: NetworkParts,
    /// The weights of each layer once more, as AVX2 takes them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pairs: Vec<Pairs>,
}

/// Activations that reading reuses from passage to passage.
#[derive(Debug, Clone, Default)]
pub struct NetworkScratch {
    words: Vec<Word>,
    activations: Activations,
}

/// Of every word its vector, then what each layer makes of it.
type Activations = [Vec<[i16; DIM]>; REACHES.len() + 1];

impl NetworkScratch {
    /// Takes over the tokens of a passage.
    pub fn fill<'a>(&mut self, tokens: impl Iterator<Item = &'a Token>) {
        self.words.clear();
        self.words.extend(tokens.map(Word::from));
    }
}

impl Network {
    /// Checks the numbers and prepares the look-up. Says what is wrong with them otherwise.
    pub fn new(parts: NetworkParts) -> Result<Network, &'static str> {
        if parts.vectors.len() != parts.words.len() + 1
            || parts.marks.len() != N_MARKS
            || parts.layers.len() != REACHES.len()
            || !(1..=MOST_HEADS).contains(&parts.attention.len())
            || parts.output.iter().any(|weights| weights.len() != n_pooled(parts.attention.len()))
        {
            return Err("network has not the parts of this program's");
        }
        let weights =
            parts.layers.iter().flat_map(|layer| layer.weights.as_flattened()).chain(parts.attention.as_flattened());
        let biases = parts.layers.iter().flat_map(|layer| &layer.bias);
        let outputs = parts.output.iter().flatten().chain(&parts.output_bias);
        let in_bounds = parts.layers.iter().all(|layer| layer.weights.len() == DIM)
            && weights.into_iter().all(|weight| weight.unsigned_abs() < WEIGHT_BOUND.unsigned_abs())
            && biases.into_iter().all(|bias| bias.unsigned_abs() < BIAS_BOUND.unsigned_abs())
            // Written so that what is no number is out of range too.
            && outputs.into_iter().all(|number| number.abs() <= 1e4);
        if !in_bounds {
            return Err("network's weights are out of range");
        }
        let rows = parts.words.iter().zip(1..).map(|(&word, row)| (word, row)).collect();
        Ok(Network { arch: Arch::new(), pairs: parts.layers.iter().map(pairs).collect(), rows, parts })
    }

    /// The numbers that it was made of.
    pub fn parts(&self) -> &NetworkParts {
        &self.parts
    }

    /// The margins of a passage by signal.
    pub fn margins(&self, words: &[Word], scratch: &mut NetworkScratch) -> [f64; N_SIGNALS] {
        scratch.words.clear();
        scratch.words.extend_from_slice(words);
        self.margins_of(scratch)
    }

    /// The margins of the words in `scratch`.
    pub(super) fn margins_of(&self, scratch: &mut NetworkScratch) -> [f64; N_SIGNALS] {
        let NetworkScratch { words, activations } = scratch;
        let [vectors, layers @ ..] = activations;
        vectors.clear();
        vectors.extend(words.iter().map(|word| self.vector(word)));
        layers.iter_mut().for_each(|layer| layer.resize(words.len(), [0; DIM]));
        self.read(activations, 0..words.len());
        self.weigh(activations)
    }

    /// What every word in `scratch` adds to the margins: the margins as they are less those without its vector (occlusion, Zeiler & Fergus 2014).
    pub(super) fn contributions(&self, scratch: &mut NetworkScratch) -> Vec<[f64; N_SIGNALS]> {
        let all = self.margins_of(scratch);
        let mut blanked = scratch.activations.clone();
        let without = (0..scratch.words.len()).map(|word| {
            blanked[0][word] = [0; DIM];
            self.read(&mut blanked, word..word + 1);
            let margins = self.weigh(&blanked);
            // Everything that the word reaches, as it was.
            let touched = word.saturating_sub(FARTHEST)..(word + FARTHEST + 1).min(scratch.words.len());
            for (blanked, whole) in blanked.iter_mut().zip(&scratch.activations) {
                blanked[touched.clone()].copy_from_slice(&whole[touched.clone()]);
            }
            margins
        });
        without.map(|without| std::array::from_fn(|signal| all[signal] - without[signal])).collect()
    }

    /// Brings the layers up to date after the vectors of the words `changed` have changed.
    fn read(&self, activations: &mut Activations, changed: Range<usize>) {
        let layers = &self.parts.layers;
        match self.arch {
            #[cfg(target_arch = "x86_64")]
            Arch::V3(unit) => {
                let sums = avx2::Sums { unit, pairs: &self.pairs };
                unit.vectorize(Reading { layers, sums, activations, changed });
            }
            _ => Reading { layers, sums: PlainSums(layers), activations, changed }.call(),
        }
    }

    fn weigh(&self, activations: &Activations) -> [f64; N_SIGNALS] {
        let pooled = self.pool(&activations[REACHES.len()]);
        std::array::from_fn(|signal| {
            let products =
                self.parts.output[signal].iter().zip(&pooled).map(|(&weight, number)| f64::from(weight) * number);
            f64::from(self.parts.output_bias[signal]) + products.sum::<f64>()
        })
    }

    /// The word's vector with those of its marks, as activations.
    fn vector(&self, word: &Word) -> [i16; DIM] {
        let row = self.rows.get(&word.hash).copied().unwrap_or(0);
        let mut sum = self.parts.vectors[row as usize].map(i16::from);
        for mark in word.marks() {
            sum.iter_mut().zip(&self.parts.marks[mark]).for_each(|(sum, &number)| *sum += i16::from(number));
        }
        // 70 signed bytes with two more bits are still within 16.
        let bound = ACTIVATION_BOUND as i16 - 1;
        sum.map(|number| (number.clamp(-bound, bound) << (ACTIVATION_BITS - VECTOR_BITS)).clamp(-bound, bound))
    }

    /// The maximum of every channel, then its mean as each head weighs the words.
    fn pool(&self, activations: &[[i16; DIM]]) -> Vec<f64> {
        let mut pooled = vec![0.0; n_pooled(self.parts.attention.len())];
        if activations.is_empty() {
            return pooled;
        }
        let one = f64::from(1 << ACTIVATION_BITS);
        let (highest, means) = pooled.split_at_mut(DIM);
        for activation in activations {
            let channels = highest.iter_mut().zip(activation);
            channels.for_each(|(highest, &number)| *highest = f64::max(*highest, f64::from(number) / one));
        }
        for (means, head) in means.chunks_exact_mut(DIM).zip(&self.parts.attention) {
            let shares = attend(activations, head);
            let total = shares.iter().sum::<f64>() * one;
            for (activation, share) in activations.iter().zip(shares) {
                means.iter_mut().zip(activation).for_each(|(mean, &number)| *mean += share / total * f64::from(number));
            }
        }
        pooled
    }
}

/// How much a head looks at each word; 1 at the one it looks at most.
fn attend(activations: &[[i16; DIM]], head: &[i16; DIM]) -> Vec<f64> {
    let urgency = activations.iter().map(|activation| {
        activation.iter().zip(head).map(|(&number, &weight)| i32::from(number) * i32::from(weight)).sum::<i32>()
    });
    let urgency: Vec<i32> = urgency.collect();
    let most = urgency.iter().copied().max().unwrap_or(0);
    let step = f64::from(1 << (ACTIVATION_BITS + WEIGHT_BITS));
    urgency.iter().map(|&urgency| (f64::from(urgency - most) / step).exp()).collect()
}

/// How a processor multiplies the inputs of a layer with its weights. Whole numbers are the same on all of them.
trait Sums {
    /// `weights · inputs` by output channel.
    fn sums(&self, layer: usize, inputs: &[i16; N_INPUTS]) -> [i32; DIM];
}

/// On any processor.
struct PlainSums<'a>(&'a [Layer]);

impl Sums for PlainSums<'_> {
    #[inline(always)]
    fn sums(&self, layer: usize, inputs: &[i16; N_INPUTS]) -> [i32; DIM] {
        let rows = &self.0[layer].weights;
        let dot = |row: &[i16; N_INPUTS]| {
            row.iter().zip(inputs).map(|(&weight, &input)| i32::from(weight) * i32::from(input)).sum()
        };
        std::array::from_fn(|channel| dot(&rows[channel]))
    }
}

/// Weights in the order in which AVX2 multiplies them: by pair of inputs, eight output channels at a time, the pair's two weights side by side.
type Pairs = Vec<[[i16; 16]; DIM / 8]>;

fn pairs(layer: &Layer) -> Pairs {
    let weight = |pair: usize, block: usize, at: usize| layer.weights[8 * block + at / 2][2 * pair + at % 2];
    let block = |pair: usize, block: usize| std::array::from_fn(|at| weight(pair, block, at));
    (0..N_INPUTS / 2).map(|pair| std::array::from_fn(|eight| block(pair, eight))).collect()
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256i;

    use pulp::x86::V3;

    use super::{DIM, N_INPUTS, Pairs};

    /// Two products and their sum a step for eight channels at once: three to four times as fast as what the compiler makes of the plain sums.
    pub(super) struct Sums<'a> {
        pub unit: V3,
        /// By layer.
        pub pairs: &'a [Pairs],
    }

    impl super::Sums for Sums<'_> {
        #[inline(always)]
        fn sums(&self, layer: usize, inputs: &[i16; N_INPUTS]) -> [i32; DIM] {
            let V3 { avx, avx2, .. } = self.unit;
            let mut sums: [__m256i; DIM / 8] = pulp::cast([0i32; DIM]);
            for (weights, &pair) in self.pairs[layer].iter().zip(inputs.as_chunks::<2>().0) {
                let pair = avx._mm256_set1_epi32(pulp::cast(pair));
                for (sum, &weights) in sums.iter_mut().zip(weights) {
                    *sum = avx2._mm256_add_epi32(*sum, avx2._mm256_madd_epi16(pulp::cast(weights), pair));
                }
            }
            pulp::cast(sums)
        }
    }
}

/// Reads the layers one after the other.
struct Reading<'a, S> {
    layers: &'a [Layer],
    sums: S,
    activations: &'a mut Activations,
    /// Words whose vectors have changed.
    changed: Range<usize>,
}

impl<S: Sums> NullaryFnOnce for Reading<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Reading { layers, sums, activations, mut changed } = self;
        let n_words = activations[0].len();
        for (layer, (numbers, reach)) in layers.iter().zip(REACHES).enumerate() {
            let (before, after) = activations.split_at_mut(layer + 1);
            let (before, after) = (&before[layer], &mut after[0]);
            changed = changed.start.saturating_sub(reach)..(changed.end + reach).min(n_words);
            for word in changed.clone() {
                let sums = sums.sums(layer, &neighbours(before, word, reach));
                for ((out, sum), bias) in after[word].iter_mut().zip(sums).zip(numbers.bias) {
                    let rounded = (sum + bias + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
                    *out = rounded.clamp(0, ACTIVATION_BOUND - 1) as i16;
                }
                // All but the first add to what the layer before has found.
                if layer > 0 {
                    add(&mut after[word], &before[word]);
                }
            }
        }
    }
}

/// The activations of a word and its two neighbours at `reach`; zeros for what lies outside the passage.
#[inline(always)]
fn neighbours(words: &[[i16; DIM]], at: usize, reach: usize) -> [i16; N_INPUTS] {
    let mut inputs = [0i16; N_INPUTS];
    let places = [at.checked_sub(reach), Some(at), Some(at + reach)];
    for (tap, place) in inputs.as_chunks_mut::<DIM>().0.iter_mut().zip(places) {
        *tap = place.and_then(|place| words.get(place)).copied().unwrap_or([0; DIM]);
    }
    inputs
}

#[inline(always)]
fn add(out: &mut [i16; DIM], before: &[i16; DIM]) {
    for (out, before) in out.iter_mut().zip(before) {
        *out = (*out + before).min(ACTIVATION_BOUND as i16 - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: Word = Word { hash: 1, classes: 0, places: 0 };

    /// A network that lets the first channel through: margins are the first pooled numbers.
    fn network() -> NetworkParts {
        let mut through = vec![[0i16; N_INPUTS]; DIM];
        through[0][DIM] = 1 << WEIGHT_BITS;
        let still = Layer { weights: vec![[0; N_INPUTS]; DIM], bias: [0; DIM] };
        let mut output = [(); N_SIGNALS].map(|()| vec![0.0; n_pooled(1)]);
        output[0][0] = 1.0;
        output[1][DIM] = 1.0;
        let mut vectors = vec![[0i8; DIM]; 4];
        (vectors[1][0], vectors[2][0], vectors[3][0]) = (32, 96, -64);
        let mut marks = vec![[0; DIM]; N_MARKS];
        marks[3][0] = 16;
        marks[N_MARKS - 1][0] = -16;
        NetworkParts {
            words: vec![1, 2, 3],
            vectors,
            marks,
            layers: vec![Layer { weights: through, bias: [0; DIM] }, still.clone(), still],
            attention: vec![[0; DIM]],
            output,
            output_bias: [0.0, 0.0, 0.5, 0.0, 0.0],
        }
    }

    fn margins(parts: NetworkParts, words: &[Word]) -> [f64; N_SIGNALS] {
        Network::new(parts).unwrap().margins(words, &mut NetworkScratch::default())
    }

    #[test]
    fn what_a_channel_finds_is_pooled_by_maximum_and_mean() {
        let words = [1, 2, 3, 4].map(|hash| Word { hash, ..WORD });
        let found = margins(network(), &words);
        assert_eq!(found[0], 3.0, "the highest word");
        assert_eq!(found[1], 1.0, "(1 + 3 + 0 + 0) / 4");
        assert_eq!(found[2], 0.5);
        assert_eq!(margins(network(), &[])[0], 0.0);
    }

    #[test]
    fn marks_are_added_to_a_word() {
        let marked = |classes, places| margins(network(), &[Word { classes, places, ..WORD }])[0];
        assert_eq!((marked(0, 0), marked(1 << 3, 0), marked(0, 1 << 4)), (1.0, 1.5, 0.5));
        assert_eq!(marked(u64::MAX, u8::MAX), 1.0);
    }

    #[test]
    fn attention_looks_where_it_is_told() {
        let mut parts = network();
        parts.attention[0][0] = WEIGHT_BOUND - 1;
        let words = [1, 2, 3, 4].map(|hash| Word { hash, ..WORD });
        let found = margins(parts.clone(), &words);
        assert!(found[1] > 2.9, "{}", found[1]);
        parts.attention.push([0; DIM]);
        parts.output = [(); N_SIGNALS].map(|()| vec![0.0; n_pooled(2)]);
        (parts.output[1][DIM], parts.output[2][2 * DIM]) = (1.0, 1.0);
        let by_head = margins(parts.clone(), &words);
        assert_eq!((by_head[1], by_head[2]), (found[1], 1.5), "(1 + 3 + 0 + 0) / 4 and a bias");
        parts.output[4].pop();
        assert!(Network::new(parts).is_err());
    }

    #[test]
    fn a_layer_reads_neighbours_at_its_reach() {
        for (layer, reach) in REACHES.into_iter().enumerate() {
            let mut parts = network();
            let right = 2 * DIM;
            parts.layers[layer].weights = vec![[0; N_INPUTS]; DIM];
            parts.layers[layer].weights[0][right] = 1 << WEIGHT_BITS;
            let mut words = vec![Word { hash: 9, ..WORD }; 6];
            words[reach].hash = 1;
            let found = margins(parts, &words)[1] * words.len() as f64;
            assert_eq!(found, if layer == 0 { 1.0 } else { 2.0 }, "reach {reach}");
        }
    }

    #[test]
    fn contributions_are_what_blanking_a_word_takes_away() {
        let network = Network::new(network()).unwrap();
        let mut scratch =
            NetworkScratch { words: [1, 2].map(|hash| Word { hash, ..WORD }).to_vec(), ..Default::default() };
        let found = network.contributions(&mut scratch);
        assert_eq!((found[0][0], found[1][0]), (0.0, 2.0), "of the maximum");
        assert_eq!((found[0][1], found[1][1]), (0.5, 1.5), "of the mean");
    }

    #[test]
    fn what_is_read_anew_after_a_word_is_all_that_changes() {
        let mut parts = network();
        let mut random = 1u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 20) as i16 % 400 - 200
        };
        for layer in &mut parts.layers {
            layer.weights.iter_mut().for_each(|weights| weights.iter_mut().for_each(|weight| *weight = next()));
        }
        parts.vectors.iter_mut().flatten().for_each(|number| *number = (next() / 2) as i8);
        parts.output.iter_mut().flatten().for_each(|weight| *weight = f32::from(next()) / 200.0);
        let network = Network::new(parts.clone()).unwrap();
        let words: Vec<Word> = (0..40).map(|n| Word { hash: n % 5, ..WORD }).collect();
        let mut scratch = NetworkScratch { words: words.clone(), ..Default::default() };
        let found = network.contributions(&mut scratch);
        let all = network.margins(&words, &mut scratch);
        // A word without a vector: one of its own that is zero.
        parts.words.push(99);
        parts.vectors.push([0; DIM]);
        let with_blank = Network::new(parts).unwrap();
        for blank in [0, 1, 7, 20, 38, 39] {
            let mut words = words.clone();
            words[blank].hash = 99;
            let without = with_blank.margins(&words, &mut scratch);
            assert_eq!(found[blank], std::array::from_fn(|signal| all[signal] - without[signal]), "word {blank}");
        }
    }

    #[test]
    fn every_processor_gives_the_same_numbers() {
        let mut parts = network();
        for (n, weight) in parts.layers.iter_mut().flat_map(|layer| layer.weights.as_flattened_mut()).enumerate() {
            *weight = (n * 7919 % 4001) as i16 - 2000;
        }
        parts.vectors.as_flattened_mut().iter_mut().enumerate().for_each(|(n, number)| *number = (n * 31) as i8);
        let words = [1, 2, 3, 1, 9, 2, 2, 3, 1, 1, 9].map(|hash| Word { hash, ..WORD });
        let activations = |arch: Option<Arch>| {
            let mut network = Network::new(parts.clone()).unwrap();
            network.arch = arch.unwrap_or(network.arch);
            let mut scratch = NetworkScratch::default();
            network.margins(&words, &mut scratch);
            scratch.activations
        };
        let here = activations(None);
        assert_eq!(here, activations(Some(Arch::Scalar)));
        assert!(here[REACHES.len()].iter().flatten().any(|number| *number > 0));
    }

    #[test]
    fn the_largest_numbers_stay_within_bounds() {
        let mut parts = network();
        parts.vectors[1] = [i8::MAX; DIM];
        for layer in &mut parts.layers {
            layer.weights = vec![[WEIGHT_BOUND - 1; N_INPUTS]; DIM];
            layer.bias = [BIAS_BOUND - 1; DIM];
        }
        let highest = margins(parts.clone(), &[WORD; 20])[0];
        assert!((31.9..32.0).contains(&highest), "{highest}");
        parts.layers[1].weights[7][5] = WEIGHT_BOUND;
        assert!(Network::new(parts).is_err());
    }
}
