//! A settings file, variables and `-X` properties in; they must be refused with a fact and a hint, or give settings.
//!
//! Form of an input: the file, then after a NUL each a variable `NAME=value`, or a property when it starts with `-X`.
#![no_main]

use std::io::Write;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vigie::config::{Environment, Flags, Settings};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|&byte| byte == 0);
    let file = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.filter_map(|part| std::str::from_utf8(part).ok()).take(8).collect();
    // `@FILE` reads that file: fuzzing shall not read the machine's.
    if data.contains(&b'@') && data.iter().any(|byte| b"/.".contains(byte)) {
        return;
    }
    let mut flags = Flags::default();
    let mut variables = Vec::new();
    for part in rest {
        if let Some(property) = part.strip_prefix("-X") {
            flags.properties.push(property.to_owned());
        } else if let Some((name, value)) = part.split_once('=')
            && name != "CONFIG"
        {
            variables.push((format!("VIGIE_{name}"), value.to_owned()));
        }
    }
    // In memory where the machine has such a folder.
    let folder = Path::new("/dev/shm");
    let folder = if folder.is_dir() { folder.to_owned() } else { std::env::temp_dir() };
    let mut on_disk = tempfile::NamedTempFile::new_in(folder).expect("a temporary file");
    on_disk.write_all(file).expect("room for a small file");
    flags.file = Some(on_disk.path().to_owned());
    match Settings::load(&flags, &Environment::new(variables)) {
        Ok(settings) => {
            assert!(settings.input.max_depth > 0 && settings.pipeline.batch_messages > 0);
            assert!(settings.kafka.input_topic != settings.kafka.output_topic);
            assert!(!settings.kafka.brokers.trim().is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.hint.is_empty()),
    }
});
