//! `vigie-train`: articles and labelled passages in, models and their proof out. One step a file, in the order of the commands.

mod article;
mod baselines;
mod build;
mod calibrate;
mod card;
mod corpus;
mod coverage;
mod curves;
mod document;
#[cfg(feature = "encoder")]
mod encoder;
mod evaluate;
mod evasion;
mod examples;
mod fit;
mod goals;
mod importer;
mod label;
mod measure;
mod network;
mod parallel;
mod publish;
mod report;
mod slices;
mod split;
mod stack;
mod suite;
mod svg;
mod swap;
mod vectors;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use tracing::info;
use vigie::scoring::lexicon::LexiconFile;

use build::{Built, FitSettings};
use importer::Import;
use split::Place;

/// Makes Vigie's models: articles to corpus, corpus to labelled passages, to a model, to a report, to a candidate in the registry.
#[derive(Debug, Parser)]
#[command(name = "vigie-train", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cuts articles (text files, or JSON lines with `text`) into passages, furniture of the web page left out.
    Ingest(IngestArgs),
    /// Writes the active model's labels beside passages, most doubtful first, for a person to correct.
    Label(LabelArgs),
    /// Fits a model on the corpus, the public sets that are there and corrected label files; writes a candidate file.
    Fit(FitArgs),
    /// Measures a model file on the parts kept from training; writes page, JSON and model card.
    Evaluate(EvaluateArgs),
    /// Puts a candidate into the model registry, not yet active.
    Publish(PublishArgs),
    /// All of it: checks the corpus, fits, evaluates, writes model and report.
    Run(RunArgs),
    /// Reads the training passages with a sentence encoder and writes the word vectors that the network starts from.
    #[cfg(feature = "encoder")]
    Vectors(VectorsArgs),
    /// Looks after the corpus: `check` refuses near-duplicates, `coverage` and `agreement` write tables.
    Corpus(CorpusArgs),
}

/// Where training data lies and how it is fitted.
#[derive(Debug, Args)]
struct DataArgs {
    /// Mapping file: which sources, which of their labels, what weight.
    #[arg(long, default_value = "training/sources.toml")]
    sources: PathBuf,
    /// Folder of the public sets; what is missing there is left out and said.
    #[arg(long, default_value = "../shared/datasets")]
    data: PathBuf,
    /// Corrected label files from `vigie-train label`.
    #[arg(long)]
    labelled: Vec<PathBuf>,
}

/// What decides a fit beside the data.
#[derive(Debug, Args)]
struct FitFiles {
    /// Settings of the fit.
    #[arg(long, default_value = "training/fit.toml")]
    settings: PathBuf,
    /// Word classes.
    #[arg(long, default_value = "training/lexicon.toml")]
    lexicon: PathBuf,
}

#[derive(Debug, Args)]
struct IngestArgs {
    /// Article files or folders of them.
    #[arg(required = true)]
    articles: Vec<PathBuf>,
    /// Where the passages go (JSON lines).
    #[arg(long, short)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct LabelArgs {
    /// Passages from `vigie-train ingest`.
    passages: PathBuf,
    /// The file that a person corrects (JSON lines).
    #[arg(long, short)]
    out: PathBuf,
    /// Model file; the built-in model without it.
    #[arg(long)]
    model: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct FitArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    files: FitFiles,
    /// Version that the candidate gets; the one in the settings without it.
    #[arg(long)]
    version: Option<String>,
    /// Sets one setting for a trial, such as `learner.l2=2`; may be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Leaves a source out, to see what it brings; may be given again.
    #[arg(long)]
    without: Vec<String>,
    /// Takes only this share of our own passages, for learning curves.
    #[arg(long, default_value_t = 1.0)]
    own_share: f64,
    /// The candidate file.
    #[arg(long, short, default_value = "candidate.vigie")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// Model file; the built-in model without it.
    model: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// Folder for page, JSON and card; only a table on standard output without it.
    #[arg(long, short)]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PublishArgs {
    candidate: PathBuf,
    /// Folder of the model registry.
    #[arg(long, default_value = "models")]
    registry: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    fit: FitArgs,
    /// Folder for page, JSON and card.
    #[arg(long, default_value = "docs/model")]
    report: PathBuf,
}

#[cfg(feature = "encoder")]
#[derive(Debug, Args)]
struct VectorsArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    files: FitFiles,
    /// Folder of the encoder: a BERT with `config.json`, `tokenizer.json`, `model.safetensors`.
    #[arg(long)]
    encoder: PathBuf,
    /// Licence of the encoder, to be named in the file.
    #[arg(long, default_value = "MIT")]
    licence: String,
    /// The file of vectors.
    #[arg(long, short, default_value = "training/vectors.zst")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct CorpusArgs {
    /// What to do.
    #[arg(value_enum)]
    what: CorpusTask,
    #[command(flatten)]
    data: DataArgs,
    /// Similarity (share of common 3-word runs) from which `check` refuses a pair.
    #[arg(long, default_value_t = 0.6)]
    too_close: f64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum CorpusTask {
    /// Reads everything, refuses near-duplicates and near-duplicates across the training and test parts.
    Check,
    /// Function × register × language × group, with empty cells, as Markdown.
    Coverage,
    /// How two readers agree (Cohen's kappa), and our labels with the sources' own, as Markdown.
    Agreement,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_target(false)
        .init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Ingest(args) => article::ingest(&args.articles, &args.out),
        Command::Label(args) => label::label(&args.passages, &args.out, &load_model(args.model.as_deref())?),
        Command::Fit(args) => {
            let (import, places) = read_data(&args.data, &args)?;
            let built = fit_model(&args, &import, &places)?;
            write_model(&built, &args.out)
        }
        Command::Evaluate(args) => {
            let (import, places) = read_all(&args.data)?;
            let model = load_model(args.model.as_deref())?;
            let evaluation = evaluate::evaluate(&model, &import, &places)?;
            evaluate::write(&evaluation, args.out.as_deref())
        }
        Command::Publish(args) => publish::publish(&args.candidate, &args.registry),
        Command::Run(args) => {
            let (import, places) = read_data(&args.fit.data, &args.fit)?;
            coverage::check(&import, &places, 0.6)?;
            let built = fit_model(&args.fit, &import, &places)?;
            let mut evaluation = evaluate::evaluate(&built.model, &import, &places)?;
            let built = build::describe(built, &mut evaluation)?;
            write_model(&built, &args.fit.out)?;
            evaluate::write(&evaluation, Some(&args.report))
        }
        #[cfg(feature = "encoder")]
        Command::Vectors(args) => {
            let (import, places) = read_all(&args.data)?;
            let settings = read_settings(&args.files.settings, &[])?;
            let lexicon = read_lexicon(&args.files.lexicon, &import, &settings)?;
            let lexicon = vigie::scoring::lexicon::Lexicon::new(&lexicon).map_err(anyhow::Error::msg)?;
            let passages: Vec<_> = std::iter::zip(&import.rows, &places)
                .filter(|(row, place)| row.trainable && place.part == split::Part::Train)
                .map(|(row, _)| &row.passage)
                .collect();
            let vectors = encoder::word_vectors(&passages, &lexicon, &args.encoder, &args.licence)?;
            vectors.write(&args.out)?;
            info!(file = %args.out.display(), n_words = vectors.provenance.n_words, "vectors written");
            Ok(())
        }
        Command::Corpus(args) => {
            let (import, places) = read_all(&args.data)?;
            match args.what {
                CorpusTask::Check => coverage::check(&import, &places, args.too_close),
                CorpusTask::Coverage => coverage::coverage(&import),
                CorpusTask::Agreement => coverage::agreement(&import),
            }
        }
    }
}

fn read_all(args: &DataArgs) -> Result<(Import, Vec<Place>)> {
    let mut import = importer::import(&args.sources, &args.data)?;
    for file in &args.labelled {
        import.add_labelled(file)?;
    }
    for set in &import.missing {
        tracing::warn!(set, "not in the data folder, left out");
    }
    let places = split::split(&import.rows);
    Ok((import, places))
}

fn read_data(data: &DataArgs, fit: &FitArgs) -> Result<(Import, Vec<Place>)> {
    let (mut import, places) = read_all(data)?;
    import.leave_out(&fit.without, fit.own_share);
    Ok((import, places))
}

fn fit_model(args: &FitArgs, import: &Import, places: &[Place]) -> Result<Built> {
    let mut settings = read_settings(&args.files.settings, &args.overrides)?;
    if let Some(version) = &args.version {
        settings.version.clone_from(version);
    }
    let lexicon = read_lexicon(&args.files.lexicon, import, &settings)?;
    build::build(import, places, lexicon, &settings)
}

fn read_lexicon(path: &Path, import: &Import, settings: &FitSettings) -> Result<LexiconFile> {
    let classes = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let countable = import.rows.iter().filter(|row| row.trainable);
    let words = examples::count_words(
        countable.map(|row| (row.passage.language(), row.passage.text.as_str())),
        settings.fewest_word_occurrences,
    );
    examples::make_lexicon(&classes, words).with_context(|| format!("in {}", path.display()))
}

fn read_settings(path: &Path, overrides: &[String]) -> Result<FitSettings> {
    let content = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut table: toml::Table = toml::from_str(&content).with_context(|| format!("in {}", path.display()))?;
    for setting in overrides {
        let Some((key, value)) = setting.split_once('=') else {
            bail!("--set {setting:?} is not KEY=VALUE");
        };
        let value: toml::Table =
            toml::from_str(&format!("value = {value}")).with_context(|| format!("--set {setting}"))?;
        let mut place = &mut table;
        let (path, leaf) = key.rsplit_once('.').unwrap_or(("", key));
        for part in path.split('.').filter(|part| !part.is_empty()) {
            place = place
                .get_mut(part)
                .and_then(toml::Value::as_table_mut)
                .with_context(|| format!("--set {setting}: there is no table {part:?}"))?;
        }
        if !place.contains_key(leaf) {
            bail!("--set {setting}: there is no setting {key:?}");
        }
        place.insert(leaf.to_owned(), value["value"].clone());
    }
    FitSettings::deserialize_from(table)
}

fn load_model(path: Option<&Path>) -> Result<vigie::scoring::Model> {
    match path {
        None => vigie::models::builtin().context("the built-in model does not load"),
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
            vigie::scoring::Model::from_bytes(&bytes)
                .with_context(|| format!("could not load model {}", path.display()))
        }
    }
}

fn write_model(built: &Built, path: &Path) -> Result<()> {
    std::fs::write(path, &built.bytes).with_context(|| format!("could not write {}", path.display()))?;
    info!(
        file = %path.display(),
        version = built.model.version(),
        sha256 = built.model.sha256(),
        n_bytes = built.bytes.len(),
        n_features = built.artifact.header.n_features,
        "model written"
    );
    Ok(())
}
