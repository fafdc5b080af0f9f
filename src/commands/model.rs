//! `vigie model`: the registry and its models in, lists, descriptions, promotions and comparisons out.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::screen::columns;
use super::{Failure, samples};
use crate::cli::{ModelAction, ModelArgs};
use crate::config::{Environment, Flags, ModelSettings, Settings};
use crate::models::registry::{Promoted, Registry};
use crate::models::{self, BUILTIN_NAME};
use crate::scoring::artifact::{FeatureRow, Header};
use crate::scoring::{Artifact, ArtifactError, Band, Model, Scratch, Signal};

pub fn run(args: &ModelArgs, environment: &Environment) -> Result<(), Failure> {
    let mut flags = Flags { file: args.config.clone(), ..Flags::default() };
    flags.values.extend(args.registry.iter().map(|folder| ("registry", folder.display().to_string())));
    let settings = Settings::load(&flags, environment)?.model;
    let registry = Registry::open(&settings.registry);
    let chosen = |model: &Option<String>| ModelSettings {
        model: model.clone().unwrap_or_else(|| settings.model.clone()),
        registry: settings.registry.clone(),
    };
    match &args.action {
        ModelAction::List => list(&registry, args.json),
        ModelAction::Show { model } => show(&models::load(&chosen(model))?, args.json),
        ModelAction::Verify { model } => verify(&chosen(model), &registry, args.json),
        ModelAction::Promote { version } => {
            let promoted = registry.promote(version)?;
            tell(args.json, &json!({"active": promoted}), &format!("active: {}", promoted.version))
        }
        ModelAction::Rollback => {
            let active = registry.rollback()?;
            tell(args.json, &json!({"active": active}), &format!("active: {}", name_of(active.as_ref())))
        }
        ModelAction::Diff { a, b, texts } => {
            let side = |name: &String| Side::load(&chosen(&Some(name.clone())));
            diff(&side(a)?, &side(b)?, texts.as_deref(), args.json)
        }
    }
}

fn tell(as_json: bool, data: &Value, line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{data}")?
    } else {
        writeln!(out, "{line}")?
    }
    Ok(())
}

fn name_of(promoted: Option<&Promoted>) -> &str {
    promoted.map_or("the built-in model", |promoted| promoted.version.as_str())
}

fn list(registry: &Registry, as_json: bool) -> Result<(), Failure> {
    let (versions, active) = (registry.versions()?, registry.active()?);
    let broken = |source| models::LoadError::Broken { name: BUILTIN_NAME.to_owned(), source };
    let builtin = models::builtin().map_err(broken)?;
    if as_json {
        let previous = registry.history()?;
        let data = json!({"active": active, "previous": previous, "versions": versions, "builtin": builtin.version()});
        return tell(true, &data, "");
    }
    let mark = |is_active: bool| if is_active { "*" } else { "" }.to_owned();
    let mut rows = vec![["", "version", "size", "stored"].map(str::to_owned).to_vec()];
    let size = format!("{:.1} MB", models::builtin_bytes().len() as f64 / 1e6);
    rows.push(vec![mark(active.is_none()), format!("{BUILTIN_NAME} ({})", builtin.version()), size]);
    for stored in &versions {
        let is_active = active.as_ref().is_some_and(|active| active.version == stored.version);
        let stored_at = stored.stored_at.map_or(String::new(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string());
        let size = format!("{:.1} MB", stored.n_bytes as f64 / 1e6);
        rows.push(vec![mark(is_active), stored.version.clone(), size, stored_at]);
    }
    io::stdout().write_all(columns(&rows).as_bytes())?;
    if let Some(missing) = active.filter(|active| versions.iter().all(|stored| stored.version != active.version)) {
        return Err(Failure::work(anyhow!("active version \"{}\" has no file in the registry", missing.version))
            .hint("put the file back, or return to the version before with `vigie model rollback`"));
    }
    Ok(())
}

fn show(model: &Model, as_json: bool) -> Result<(), Failure> {
    let description: Value = serde_json::from_str(model.description()).context("model has a broken description")?;
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", json!({"sha256": model.sha256(), "description": description}))?;
        return Ok(());
    }
    let header = |key: &str| description.get(key).cloned().unwrap_or_default();
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let facts = [
        ("version", model.version().to_owned()),
        ("sha256", model.sha256().to_owned()),
        ("features", text(header("n_features"))),
        ("feature spec", text(header("feature_spec"))),
        ("training", text(header("training_sha256"))),
        ("seed", text(header("seed"))),
        ("licence", text(header("licence"))),
    ];
    let rows: Vec<Vec<String>> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    write!(out, "{}", columns(&rows))?;
    writeln!(out, "\nThresholds (uncertain from, high from)\n")?;
    write!(out, "{}", columns(&threshold_rows(&description)))?;
    if let Some(sources) = description["training"].as_array().filter(|sources| !sources.is_empty()) {
        writeln!(out, "\nTraining data\n")?;
        let mut rows = vec![["source", "passages", "weight", "licence"].map(str::to_owned).to_vec()];
        let cells = |source: &Value| ["name", "n_passages", "weight", "licence"].map(|key| text(source[key].clone()));
        rows.extend(sources.iter().map(|source| cells(source).to_vec()));
        write!(out, "{}", columns(&rows))?;
    }
    let figures = serde_json::to_string_pretty(&header("metrics")).context("could not print the figures")?;
    writeln!(out, "\nFigures on development data\n\n{figures}")?;
    writeln!(out, "\nCard\n\n{}", text(header("card")).trim_end())?;
    Ok(())
}

fn threshold_rows(description: &Value) -> Vec<Vec<String>> {
    let Some(heads) = description["heads"].as_object() else { return Vec::new() };
    let mut rows = vec![std::iter::once("signal".to_owned()).chain(heads.keys().cloned()).collect::<Vec<_>>()];
    for signal in Signal::ALL {
        let cut = |head: &Value, which: &str| head[signal.as_str()]["thresholds"][which].as_f64().unwrap_or(f64::NAN);
        let cells = heads.values().map(|head| format!("{:.2}  {:.2}", cut(head, "low"), cut(head, "high")));
        rows.push(std::iter::once(signal.as_str().to_owned()).chain(cells).collect());
    }
    rows
}

fn verify(settings: &ModelSettings, registry: &Registry, as_json: bool) -> Result<(), Failure> {
    let is_stored = registry.versions()?.iter().any(|stored| stored.version == settings.model);
    let model = if is_stored { registry.verify(&settings.model)? } else { models::load(settings)? };
    let data = json!({"ok": true, "version": model.version(), "sha256": model.sha256()});
    tell(as_json, &data, &format!("ok  {}  sha256 {}", model.version(), model.sha256()))
}

/// One of two models under comparison.
struct Side {
    model: Model,
    header: Header,
    features: HashMap<u64, FeatureRow>,
}

impl Side {
    fn load(settings: &ModelSettings) -> Result<Side, Failure> {
        let bytes = models::read(settings)?;
        let broken = |source: ArtifactError| models::LoadError::Broken { name: settings.model.clone(), source };
        let model = Model::from_bytes(&bytes).map_err(broken)?;
        let artifact = Artifact::read(&bytes).map_err(broken)?;
        let features = artifact.features.into_iter().map(|row| (row.hash, row)).collect();
        Ok(Side { model, header: artifact.header, features })
    }

    fn weight(&self, row: &FeatureRow, signal: Signal) -> f64 {
        f64::from(row.weights[signal.index()]) * self.header.unit[signal.index()]
    }
}

/// How far two models are apart on one signal.
#[derive(Debug, Default, serde::Serialize)]
struct SignalDiff {
    /// Largest difference of a weight.
    largest_weight_change: f64,
    /// Over the texts.
    mean_score_change: f64,
    largest_score_change: f64,
    /// Texts whose band is another one.
    bands_changed: usize,
    /// Of those: high now and not before, high before and not now.
    new_high: usize,
    no_longer_high: usize,
}

fn diff(a: &Side, b: &Side, texts: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let texts = match texts {
        Some(file) => samples::read(&PathBuf::from(file))?,
        None => samples::builtin(),
    };
    let mut diffs: [SignalDiff; 5] = std::array::from_fn(|_| SignalDiff::default());
    for row in a.features.values() {
        let other = b.features.get(&row.hash);
        for signal in Signal::ALL {
            let change = (a.weight(row, signal) - other.map_or(0.0, |other| b.weight(other, signal))).abs();
            let largest = &mut diffs[signal.index()].largest_weight_change;
            *largest = largest.max(change);
        }
    }
    let n_removed = a.features.keys().filter(|hash| !b.features.contains_key(hash)).count();
    let n_added = b.features.keys().filter(|hash| !a.features.contains_key(hash)).count();
    let mut n_scored = 0;
    let mut n_readings_changed = 0;
    let mut scratch = Scratch::default();
    for text in &texts {
        let [before, after] = [a, b].map(|side| side.model.score(text, None, &mut scratch));
        let (Some(old), Some(new)) = (before.signals, after.signals) else { continue };
        n_scored += 1;
        n_readings_changed += usize::from(before.reading != after.reading);
        for ((old, new), diff) in old.iter().zip(&new).zip(&mut diffs) {
            let change = (new.score - old.score).abs();
            diff.mean_score_change += change;
            diff.largest_score_change = diff.largest_score_change.max(change);
            diff.bands_changed += usize::from(old.band != new.band);
            diff.new_high += usize::from(new.band == Band::High && old.band != Band::High);
            diff.no_longer_high += usize::from(new.band != Band::High && old.band == Band::High);
        }
    }
    diffs.iter_mut().for_each(|diff| diff.mean_score_change /= f64::from(n_scored.max(1)));
    let same_training = a.header.training_sha256 == b.header.training_sha256;
    let mut out = io::stdout().lock();
    if as_json {
        let signals: HashMap<_, _> = Signal::ALL.iter().map(|signal| signal.as_str()).zip(&diffs).collect();
        let data = json!({
            "a": a.model.version(), "b": b.model.version(), "same_training": same_training,
            "features": {"a": a.features.len(), "b": b.features.len(), "added": n_added, "removed": n_removed},
            "texts": n_scored, "readings_changed": n_readings_changed, "signals": signals,
        });
        writeln!(out, "{data}")?;
        return Ok(());
    }
    writeln!(out, "{} → {}\n", a.model.version(), b.model.version())?;
    let (n_a, n_b) = (a.features.len(), b.features.len());
    writeln!(out, "features         {n_a} → {n_b} ({n_added} added, {n_removed} removed)")?;
    writeln!(out, "training data    {}", if same_training { "the same" } else { "different" })?;
    writeln!(out, "readings         {n_readings_changed} of {n_scored} texts changed\n")?;
    let head = ["signal", "weights ±", "score ± mean", "most", "bands changed", "new high", "no longer high"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (signal, diff) in Signal::ALL.iter().zip(&diffs) {
        rows.push(vec![
            signal.as_str().to_owned(),
            format!("{:.3}", diff.largest_weight_change),
            format!("{:.4}", diff.mean_score_change),
            format!("{:.4}", diff.largest_score_change),
            diff.bands_changed.to_string(),
            diff.new_high.to_string(),
            diff.no_longer_high.to_string(),
        ]);
    }
    write!(out, "{}", columns(&rows))?;
    writeln!(out, "\nThresholds (uncertain from, high from)")?;
    for side in [a, b] {
        let description: Value = serde_json::from_str(side.model.description()).context("broken description")?;
        write!(out, "\n{}\n{}", side.model.version(), columns(&threshold_rows(&description)))?;
    }
    Ok(())
}
