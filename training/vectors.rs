//! Word vectors from a sentence encoder, as a file: what a word means where our passages use it, in [`DIM`] numbers.
//!
//! Layout: one JSON line that says where they come from, then the hashes of the folded words (u64, sorted), then [`DIM`] signed bytes a word, in
//! steps of 1 / [`VECTOR_ONE`]; all of it zstd. Hashes, not words: nobody's text stands in it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vigie::scoring::artifact::TrainingSource;
use vigie::scoring::network::{DIM, VECTOR_BITS};

const MOST_UNPACKED_BYTES: usize = 64 << 20;

/// Where the vectors come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub encoder: String,
    pub licence: String,
    pub n_passages: usize,
    pub n_words: usize,
    /// Share of the variance that the kept components hold.
    pub variance: f64,
}

/// Steps of one in a vector.
pub const VECTOR_ONE: f32 = (1u32 << VECTOR_BITS) as f32;

/// Vectors by the hash of the folded word.
#[derive(Debug, Clone, PartialEq)]
pub struct WordVectors {
    pub provenance: Provenance,
    pub of_word: BTreeMap<u64, [i8; DIM]>,
}

impl WordVectors {
    /// Writes the file. The same vectors give the same bytes. Errors when the file cannot be written.
    #[cfg(any(feature = "encoder", test))]
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = serde_json::to_vec(&self.provenance)?;
        bytes.push(b'\n');
        self.of_word.keys().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        self.of_word.values().flatten().for_each(|number| bytes.push(number.cast_unsigned()));
        let packed = zstd::encode_all(bytes.as_slice(), 19)?;
        std::fs::write(path, packed).with_context(|| format!("could not write {}", path.display()))
    }

    /// Reads the file, with what the model file is to say of it. Errors when it is missing or cut short.
    pub fn read(path: &Path) -> Result<(WordVectors, TrainingSource)> {
        let packed = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        let vectors = parse(&packed).with_context(|| format!("{} holds no word vectors", path.display()))?;
        let source = TrainingSource {
            name: format!("word vectors of {}", vectors.provenance.encoder),
            licence: vectors.provenance.licence.clone(),
            n_passages: vectors.provenance.n_passages,
            weight: 1.0,
            sha256: format!("{:x}", Sha256::digest(&packed)),
        };
        Ok((vectors, source))
    }
}

fn parse(packed: &[u8]) -> Result<WordVectors> {
    let bytes = zstd::bulk::decompress(packed, MOST_UNPACKED_BYTES)?;
    let header = bytes.iter().position(|byte| *byte == b'\n').context("it has no first line")?;
    let provenance: Provenance = serde_json::from_slice(&bytes[..header])?;
    let body = &bytes[header + 1..];
    if provenance.n_words.checked_mul(8 + DIM) != Some(body.len()) {
        bail!("{} bytes for {} words", body.len(), provenance.n_words);
    }
    let (hashes, numbers) = body.split_at(8 * provenance.n_words);
    let hashes = hashes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash));
    let vectors = numbers.as_chunks::<DIM>().0.iter().map(|vector| vector.map(u8::cast_signed));
    let of_word: BTreeMap<u64, [i8; DIM]> = hashes.zip(vectors).collect();
    if of_word.len() != provenance.n_words {
        bail!("a word stands in it twice");
    }
    Ok(WordVectors { provenance, of_word })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_cut_file_is_refused() {
        let provenance = Provenance {
            encoder: "none".to_owned(),
            licence: "ours".to_owned(),
            n_passages: 3,
            n_words: 2,
            variance: 0.5,
        };
        let of_word = BTreeMap::from([(7, [-128; DIM]), (u64::MAX, std::array::from_fn(|i| i as i8))]);
        let vectors = WordVectors { provenance, of_word };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        vectors.write(&path).unwrap();
        let (read, source) = WordVectors::read(&path).unwrap();
        assert_eq!((read, source.licence.as_str()), (vectors, "ours"));
        let mut bytes = zstd::decode_all(std::fs::read(&path).unwrap().as_slice()).unwrap();
        bytes.pop();
        let cut = zstd::encode_all(bytes.as_slice(), 1).unwrap();
        assert!(parse(&cut).unwrap_err().to_string().contains("bytes for 2 words"));
    }
}
