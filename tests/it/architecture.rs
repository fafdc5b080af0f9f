//! Imports point inward: the table of ARCHITECTURE.md, held against the `use` lines and paths of the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Module and what it may import of this crate.
const TABLE: [(&str, &[&str]); 10] = [
    ("scoring", &["scoring"]),
    ("record", &["record", "scoring"]),
    ("config", &["config"]),
    ("depth", &["depth"]),
    ("metrics", &["metrics", "scoring"]),
    ("shutdown", &["shutdown"]),
    ("models", &["models", "scoring", "metrics", "config", "shutdown"]),
    ("stream", &["stream", "scoring", "models", "metrics", "config", "depth", "record", "shutdown"]),
    ("http", &["http", "scoring", "models", "metrics", "config", "depth", "record", "shutdown"]),
    ("training", &["scoring", "models"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// Names of top-level modules that follow `prefix` in code lines, also in braces.
fn imported(code: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let flat = code.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join(" ");
    for (at, _) in flat.match_indices(prefix) {
        let before = flat[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &flat[at + prefix.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let end = list.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth < 0
                });
                let mut depth = 0;
                list[..end.unwrap_or(list.len())]
                    .split(|c| {
                        depth += i32::from(c == '{') - i32::from(c == '}');
                        c == ',' && depth == 0
                    })
                    .collect()
            }
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() && name.chars().next().is_some_and(char::is_lowercase) {
                found.push(name);
            }
        }
    }
    found
}

fn module_of(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let relative = path.strip_prefix(root).unwrap();
    let mut parts = relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let first = parts.next().unwrap();
    if first == "training" {
        return first;
    }
    parts.next().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_inward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    let mut seen = 0;
    for path in sources(&root.join("src")).into_iter().chain(sources(&root.join("training"))) {
        let module = module_of(&path);
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) else { continue };
        seen += 1;
        let code = fs::read_to_string(&path).unwrap();
        let prefix = if module == "training" { "vigie::" } else { "crate::" };
        for name in imported(&code, prefix) {
            if !allowed.contains(&name.as_str()) {
                broken.push(format!("{} imports {name}", path.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(seen > 25, "only {seen} files were looked at");
    assert!(broken.is_empty(), "imports that the table of ARCHITECTURE.md does not allow:\n{}", broken.join("\n"));
}

#[test]
fn the_import_reader_sees_what_it_should() {
    assert_eq!(imported("use crate::http::Server;", "crate::"), ["http"]);
    assert_eq!(imported("use crate::{config::Settings, stream::{batch, message}};", "crate::"), ["config", "stream"]);
    assert_eq!(imported("// use crate::http::x\nlet a = crate::record::now();", "crate::"), ["record"]);
    assert!(imported("use other_crate::http;", "crate::").is_empty());
}

#[test]
fn the_core_does_no_io_and_keeps_no_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in sources(&root.join("src/scoring")) {
        let code = fs::read_to_string(&path).unwrap();
        for banned in
            ["std::fs", "std::net", "std::time", "std::thread", "std::env", "tracing::", "println!", "eprintln!"]
        {
            assert!(!code.contains(banned), "{} uses {banned}", path.display());
        }
    }
}
