//! Articles as they come from the web in, passages out: furniture left out, paragraphs kept together with the article they stand in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use vigie::scoring::lexicon::LANGUAGES;
use vigie::scoring::passages::cut_passages;
use vigie::scoring::{Model, Scratch};

use crate::corpus::Passage;

/// An article with a name that stays the same when the same text comes again.
#[derive(Debug, Clone, PartialEq)]
struct Article {
    id: String,
    text: String,
    lang: Option<String>,
}

/// Reads articles from files and folders (`.txt`: one each; `.jsonl`: objects with `text`, optional `id` and `lang`, one a line), cuts them into
/// passages and writes those. An article that was read before in this call, unreadable or in another language is left out and said.
pub fn ingest(paths: &[PathBuf], out: &Path) -> Result<()> {
    let model = vigie::models::builtin().context("the built-in model does not load")?;
    let mut scratch = Scratch::default();
    let mut seen = BTreeSet::new();
    let mut passages = Vec::new();
    let mut n_articles = 0;
    for file in files(paths)? {
        for article in read_articles(&file)? {
            if !seen.insert(text_hash(&article.text)) {
                warn!(article = article.id, "left out: the same text came before");
                continue;
            }
            match cut(&article, &model, &mut scratch) {
                Some(found) => {
                    n_articles += 1;
                    passages.extend(found);
                }
                None => warn!(article = article.id, "left out: neither French nor English"),
            }
        }
    }
    if passages.is_empty() {
        bail!("no article was found");
    }
    let mut file = std::fs::File::create(out).with_context(|| format!("could not write {}", out.display()))?;
    for passage in &passages {
        serde_json::to_writer(&mut file, passage)?;
        file.write_all(b"\n")?;
    }
    info!(n_articles, n_passages = passages.len(), file = %out.display(), "articles cut into passages");
    Ok(())
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| format!("could not list {}", path.display()))?;
            for entry in entries {
                let file = entry?.path();
                if file.extension().is_some_and(|ending| ending == "txt" || ending == "jsonl") {
                    found.push(file);
                }
            }
        } else {
            found.push(path.clone());
        }
    }
    found.sort();
    Ok(found)
}

#[derive(Deserialize)]
struct ArticleLine {
    text: String,
    id: Option<String>,
    lang: Option<String>,
}

fn read_articles(file: &Path) -> Result<Vec<Article>> {
    let bytes = std::fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
    let content = String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", file.display()))?;
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if file.extension().is_none_or(|ending| ending != "jsonl") {
        return Ok(vec![Article { id: name, text: content, lang: None }]);
    }
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let line: ArticleLine =
                serde_json::from_str(line).with_context(|| format!("{} line {}", file.display(), index + 1))?;
            let id = line.id.unwrap_or_else(|| format!("{name}-{}", index + 1));
            Ok(Article { id, text: line.text, lang: line.lang })
        })
        .collect()
}

fn cut(article: &Article, model: &Model, scratch: &mut Scratch) -> Option<Vec<Passage>> {
    let lang = model.score(&article.text, article.lang.as_deref(), scratch).lang.code;
    LANGUAGES.contains(&lang).then(|| {
        cut_passages(&article.text)
            .into_iter()
            .map(|range| {
                let text = article.text[range].to_owned();
                Passage {
                    id: format!("{}-{}", article.id, &text_hash(&text)[..12]),
                    lang: lang.to_owned(),
                    split: String::new(),
                    register: "press".to_owned(),
                    function: String::new(),
                    groups: Vec::new(),
                    set: None,
                    article: Some(article.id.clone()),
                    text,
                    labels: BTreeMap::new(),
                    source: "articles".to_owned(),
                    weight: 1.0,
                }
            })
            .collect()
    })
}

fn text_hash(text: &str) -> String {
    format!("{:x}", Sha256::digest(text.trim().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_become_passages_with_stable_names() {
        let folder = tempfile::tempdir().unwrap();
        let paragraph = "La commune a voté hier soir le budget des écoles et de la bibliothèque. ".repeat(4);
        let article =
            format!("Le budget est voté\n\n{paragraph}\n\nPartager\n\n{paragraph} Fin de la séance à minuit.");
        std::fs::write(folder.path().join("a.txt"), &article).unwrap();
        std::fs::write(folder.path().join("b.txt"), &article).unwrap();
        let out = folder.path().join("out.jsonl");
        ingest(&[folder.path().to_owned()], &out).unwrap();
        let passages = crate::corpus::read_passages(&out).unwrap();
        assert_eq!(passages.len(), 2, "the second file is the same article");
        assert!(
            passages
                .iter()
                .all(|p| p.article.as_deref() == Some("a") && p.lang == "fr" && !p.text.contains("Partager"))
        );
    }
}
