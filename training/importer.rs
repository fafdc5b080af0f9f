//! The one way in for training data: the mapping file, our corpus, public sets and our annotations in, labelled passages out.
//!
//! Annotations hold set, row id, the text's hash and labels, never the text; they are joined where the sets are present. A set that is missing
//! is left out and said, so that the models can be built from our own corpus alone.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vigie::scoring::Signal;
use vigie::scoring::artifact::TrainingSource;
use vigie::scoring::lexicon::word_hash;

use crate::corpus::{Passage, read_passages};

/// The mapping file, `sources.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    own: OwnSource,
    annotations: FileList,
    set: BTreeMap<String, SetSource>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnSource {
    files: Vec<String>,
    licence: String,
    weight: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileList {
    files: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetSource {
    path: String,
    licence: String,
    from: String,
    #[serde(default = "yes")]
    train: bool,
    signals: Vec<Signal>,
    weight: f64,
    #[serde(default)]
    annotated_weight: f64,
    /// The part of the report that rows which we have read are measured in.
    #[serde(default = "real")]
    measured_in: String,
}

fn real() -> String {
    "real".to_owned()
}

fn yes() -> bool {
    true
}

/// One reader's labels for one row of a public set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotation {
    pub set: String,
    pub id: String,
    /// SHA-256 of the row's text, so that a changed row is noticed.
    pub text_sha256: String,
    /// A missing signal: a careful reader could defend both.
    pub labels: BTreeMap<String, u8>,
    pub reader: String,
    pub read_on: String,
}

/// Who labelled a passage: decides where it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Written for this project.
    Own,
    /// A public row that we have read by the codebook.
    Annotated,
    /// A public row with its source's labels.
    Public,
    /// A row without labels: its text may be counted, nothing more.
    Unlabelled,
}

/// A passage with where it came from.
#[derive(Debug, Clone)]
pub struct Imported {
    pub passage: Passage,
    pub origin: Origin,
    /// May its text go into a model?
    pub trainable: bool,
    /// The part of the report that it is measured in.
    pub measured_in: String,
    /// Its source's own labels, where we have read the row too.
    pub source_labels: BTreeMap<String, u8>,
    /// A second reader's labels, where there was one.
    pub second_labels: Option<BTreeMap<String, u8>>,
}

impl Imported {
    /// A passage of our own.
    pub fn own(passage: Passage) -> Imported {
        Imported {
            passage,
            origin: Origin::Own,
            trainable: true,
            measured_in: "corpus".to_owned(),
            source_labels: BTreeMap::new(),
            second_labels: None,
        }
    }
}

/// All that was imported and the sources to be named in the model file.
#[derive(Debug)]
pub struct Import {
    pub rows: Vec<Imported>,
    pub sources: Vec<TrainingSource>,
    /// Sets of the mapping file that are not there.
    pub missing: Vec<String>,
}

/// Reads everything that `mapping` names. `data` is the folder of the public sets.
pub fn import(mapping: &Path, data: &Path) -> Result<Import> {
    let content = std::fs::read_to_string(mapping).with_context(|| format!("could not read {}", mapping.display()))?;
    let sources: Mapping = toml::from_str(&content).with_context(|| format!("in {}", mapping.display()))?;
    let folder = mapping.parent().unwrap_or(Path::new("."));
    let mut import = Import { rows: Vec::new(), sources: Vec::new(), missing: Vec::new() };
    import.read_own(&sources.own, folder)?;
    let mut annotations: HashMap<String, Vec<Annotation>> = HashMap::new();
    for file in expand(folder, &sources.annotations.files)? {
        for annotation in read_annotations(&file)? {
            annotations.entry(annotation.id.clone()).or_default().push(annotation);
        }
    }
    for (name, set) in &sources.set {
        let path = data.join(&set.path);
        if path.exists() {
            import.read_set(name, set, &path, &annotations)?;
        } else {
            import.missing.push(name.clone());
        }
    }
    Ok(import)
}

impl Import {
    /// Adds the checked lines of a corrected label file as passages of our own.
    pub fn add_labelled(&mut self, path: &Path) -> Result<()> {
        let passages = crate::label::read_checked(path)?;
        self.sources.push(TrainingSource {
            name: "labelled".to_owned(),
            licence: "the user's own".to_owned(),
            n_passages: passages.len(),
            weight: 1.0,
            sha256: format!("{:x}", Sha256::digest(std::fs::read(path)?)),
        });
        self.rows.extend(passages.into_iter().map(Imported::own));
        Ok(())
    }

    /// Takes sources and a share of our own passages out of training, by setting their weight to 0; what is measured stays the same.
    ///
    /// A source is named as in the mapping file, with `annotations` for all rows that we have read and `own` for our corpus.
    pub fn leave_out(&mut self, sources: &[String], own_share: f64) {
        for row in &mut self.rows {
            let group = match row.origin {
                Origin::Own => "own",
                Origin::Annotated => "annotations",
                Origin::Public | Origin::Unlabelled => "",
            };
            let kept = (word_hash(row.passage.unit()) % 10_000) as f64 / 10_000.0 < own_share;
            if sources.iter().any(|source| *source == row.passage.source || source == group)
                || (group == "own" && !kept)
            {
                row.passage.weight = 0.0;
            }
        }
    }

    fn read_own(&mut self, own: &OwnSource, folder: &Path) -> Result<()> {
        let mut hash = Sha256::new();
        let mut n_passages = 0;
        for file in expand(folder, &own.files)? {
            let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            hash.update(std::fs::read(&file)?);
            for mut passage in read_passages(&file)? {
                passage.weight = own.weight;
                passage.source = name.clone();
                n_passages += 1;
                self.rows.push(Imported::own(passage));
            }
        }
        self.sources.push(TrainingSource {
            name: "corpus".to_owned(),
            licence: own.licence.clone(),
            n_passages,
            weight: own.weight,
            sha256: format!("{:x}", hash.finalize()),
        });
        Ok(())
    }

    fn read_set(
        &mut self,
        name: &str,
        set: &SetSource,
        path: &Path,
        annotations: &HashMap<String, Vec<Annotation>>,
    ) -> Result<()> {
        let passages = read_passages(path)?;
        let mut hash = Sha256::new();
        hash.update(std::fs::read(path)?);
        let n_passages = passages.len();
        for mut passage in passages {
            let mut source_labels = std::mem::take(&mut passage.labels);
            source_labels.retain(|signal, _| set.signals.iter().any(|believed| believed.as_str() == signal));
            passage.source = name.to_owned();
            let mut second_labels = None;
            let origin = match annotations.get(&passage.id).map(Vec::as_slice) {
                Some([first, rest @ ..]) => {
                    if first.text_sha256 != format!("{:x}", Sha256::digest(passage.text.as_bytes())) {
                        bail!("the text of {} is not the one that was read: its hash differs", passage.id);
                    }
                    hash.update(serde_json::to_vec(&first.labels)?);
                    passage.labels = first.labels.clone();
                    passage.weight = set.annotated_weight;
                    second_labels = rest.first().map(|second| second.labels.clone());
                    Origin::Annotated
                }
                _ if source_labels.is_empty() && !set.train => continue,
                _ if source_labels.is_empty() => {
                    passage.weight = 0.0;
                    Origin::Unlabelled
                }
                _ => {
                    passage.labels = source_labels.clone();
                    passage.weight = set.weight;
                    Origin::Public
                }
            };
            self.rows.push(Imported {
                passage,
                origin,
                trainable: set.train,
                measured_in: set.measured_in.clone(),
                source_labels,
                second_labels,
            });
        }
        if set.train {
            self.sources.push(TrainingSource {
                name: format!("{name} ({})", set.from),
                licence: set.licence.clone(),
                n_passages,
                weight: set.weight,
                sha256: format!("{:x}", hash.finalize()),
            });
        }
        Ok(())
    }
}

/// Reads one file of annotations.
pub fn read_annotations(path: &Path) -> Result<Vec<Annotation>> {
    let content = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    content
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))
        })
        .collect()
}

/// Files that match `folder/*.ending` patterns, sorted by name.
fn expand(folder: &Path, patterns: &[String]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for pattern in patterns {
        let pattern = folder.join(pattern);
        let (parent, name) = (pattern.parent().unwrap_or(folder), pattern.file_name().unwrap_or_default());
        let name = name.to_string_lossy();
        let Some((start, end)) = name.split_once('*') else {
            files.push(pattern);
            continue;
        };
        let entries = std::fs::read_dir(parent).with_context(|| format!("could not list {}", parent.display()))?;
        for entry in entries {
            let path = entry?.path();
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() && file_name.starts_with(start) && file_name.ends_with(end) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
