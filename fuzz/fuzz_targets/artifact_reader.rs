//! A model file in; it must be refused with an error, or be a model that scores without a panic and gives probabilities.
//!
//! The first byte says how the rest is read: `f` the file as it is; `c` a file whose lengths and checksum are made right first, so that
//! what lies behind the checksum is reached; `h` twice four bytes of length, a header in JSON, a table and a network, all packed here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use vigie::scoring::artifact::FORMAT_VERSION;
use vigie::scoring::{Model, Scratch};

const TEXTS: [(&str, &str); 4] = [
    ("fr", "« Les juifs tiennent les banques » : encore ce vieux mensonge, il a déjà tué. #stopislam j.u.i.f.s ju*fs"),
    ("en", "They should all be sent back, everybody knows it. Who says no?"),
    ("fr", "mot"),
    (
        "en",
        "a b c d e f\n\nThat old lie about Jews and banks again? It has killed before.\n\nTheir account was suspended.",
    ),
];

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let file = match how {
        b'c' => mended(rest),
        b'h' => packed(rest),
        _ => Some(rest.to_vec()),
    };
    let Some(Ok(model)) = file.map(|file| Model::from_bytes(&file)) else { return };
    let mut scratch = Scratch::default();
    for (lang, text) in TEXTS {
        let (scored, explanations) = model.explain(text, Some(lang), &mut scratch);
        for signal in scored.signals.into_iter().flatten() {
            assert!((0.0..=1.0).contains(&signal.score), "{}", signal.score);
        }
        for passage in &scored.passages {
            assert!(passage.scores.iter().all(|score| (0.0..=1.0).contains(score)), "{:?}", passage.scores);
        }
        for explanation in explanations {
            assert!(explanation.margin.is_finite() && explanation.other.is_finite() && explanation.rest.is_finite());
            for span in explanation.spans {
                assert!(text.get(span.start..span.end).is_some() && span.contribution.is_finite());
            }
        }
    }
});

/// The file with lengths that fit and the right checksum.
fn mended(file: &[u8]) -> Option<Vec<u8>> {
    let mut file = file.to_vec();
    let n_packed = file.len().checked_sub(60)? as u64;
    let n_header = u64::from_le_bytes(file[44..52].try_into().ok()?).min(n_packed);
    file[44..52].copy_from_slice(&n_header.to_le_bytes());
    let n_table = u64::from_le_bytes(file[52..60].try_into().ok()?).min(n_packed - n_header);
    file[52..60].copy_from_slice(&n_table.to_le_bytes());
    let checksum = Sha256::digest(&file[44..]);
    file[12..44].copy_from_slice(&checksum);
    Some(file)
}

fn packed(parts: &[u8]) -> Option<Vec<u8>> {
    let (lengths, rest) = parts.split_first_chunk::<8>()?;
    let [n_header, n_table] =
        [0, 4].map(|at| u32::from_le_bytes(std::array::from_fn(|byte| lengths[at + byte])) as usize);
    let (header, rest) = rest.split_at(n_header.min(rest.len()));
    let (table, network) = rest.split_at(n_table.min(rest.len()));
    let pack = |bytes: &[u8]| zstd::encode_all(bytes, 1).ok();
    let (header, table) = (pack(header)?, pack(table)?);
    let network = if network.is_empty() { Vec::new() } else { pack(network)? };
    let mut file = [b"VIGIEMDL".as_slice(), &FORMAT_VERSION.to_le_bytes(), &[0; 32]].concat();
    file.extend_from_slice(&(header.len() as u64).to_le_bytes());
    file.extend_from_slice(&(table.len() as u64).to_le_bytes());
    [header, table, network].iter().for_each(|part| file.extend_from_slice(part));
    mended(&file)
}
