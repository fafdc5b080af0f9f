//! Texts to show things with: the built-in samples or a file of the user's in, texts out.

use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::Failure;

const SAMPLES: &str = include_str!("demo_samples.jsonl");

/// The texts that are built into the program.
pub fn builtin() -> Vec<String> {
    lines(SAMPLES.as_bytes())
}

/// The texts of a file: JSON objects with `text` or plain text, one a line; `-` for standard input. Bytes that are not UTF-8 are shown as such.
pub fn read(file: &Path) -> Result<Vec<String>, Failure> {
    let texts = records(file)?.iter().flat_map(|record| lines(record)).collect();
    Ok(texts)
}

/// The records of a file as they are: one a line, empty lines left out.
pub fn records(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin().read_to_end(&mut bytes).context("could not read standard input")?;
    } else {
        bytes = std::fs::read(file)
            .with_context(|| format!("could not read \"{}\"", file.display()))
            .map_err(|error| Failure::work(error).hint("check the path and its permissions"))?;
    }
    Ok(split(&bytes))
}

/// The built-in samples as records.
pub fn builtin_records() -> Vec<Vec<u8>> {
    split(SAMPLES.as_bytes())
}

fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.trim_ascii().is_empty()).map(<[u8]>::to_vec).collect()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = |line: Vec<u8>| match serde_json::from_slice::<Value>(&line) {
        Ok(Value::Object(object)) => object.get("text").and_then(Value::as_str).map(str::to_owned),
        _ => Some(String::from_utf8_lossy(&line).into_owned()),
    };
    split(bytes).into_iter().filter_map(text).collect()
}
