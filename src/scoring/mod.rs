//! The pure core: a model and a text in, signals out. No IO, no clock, no logging, and no way to fail.
//!
//! In reading order: [`normalize`] undoes disguises, [`lexicon`] knows words, [`language`] says which language, [`passages`] cuts long
//! texts, [`features`] walks n-grams, [`model`] adds weights, [`network`] reads the words in their order, [`stack`] weighs it all against each
//! other, [`calibration`] makes probabilities, [`signals`] names the results, [`explain`] says which words made them, and [`artifact`] is the
//! file that holds it.

pub mod artifact;
pub mod calibration;
pub mod explain;
pub mod features;
pub mod language;
pub mod lexicon;
pub mod model;
pub mod network;
pub mod normalize;
pub mod passages;
pub mod signals;
pub mod stack;

pub use artifact::{Artifact, ArtifactError};
pub use explain::{Explanation, Span};
pub use model::{Model, Scratch};
pub use signals::{Abstained, Band, Lang, PassageScores, Reading, Scored, Signal, SignalScore};
