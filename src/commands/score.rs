//! `vigie score`: text files or JSON lines in, a table or score records out, in the order of the input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Failure;
use super::screen::{self, Screen};
use crate::cli::ScoreArgs;
use crate::config::{Environment, InputSettings, Settings};
use crate::models;
use crate::record::ScoreRecord;
use crate::scoring::{Explanation, Model, Scored, Scratch};
use crate::stream::message::{InputHeaders, decode};

/// Inputs that are read, scored by all cores and printed together: bounds memory, keeps order, and shows the first rows soon.
const CHUNK: usize = 256;
/// After so many refused inputs the others are only counted.
const MOST_REFUSALS: usize = 10;
/// Fields of the score record; an input's field of the same name is kept as `input_NAME`.
const RECORD_FIELDS: [&str; 11] = [
    "schema",
    "id",
    "source",
    "model",
    "lang",
    "signals",
    "reading",
    "abstained",
    "passages",
    "explanation",
    "scored_at",
];

/// One text as it was read. `fields` are the other fields of its JSON object.
struct Document {
    id: String,
    /// What the table shows of it.
    name: String,
    text: String,
    lang: Option<String>,
    fields: Map<String, Value>,
}

/// Why an input gets no score: a fact, and the next step.
struct Refused {
    fact: String,
    hint: &'static str,
}

/// A score record with the input's other fields behind it.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    record: ScoreRecord<'a>,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

pub fn run(args: &ScoreArgs, environment: &Environment) -> Result<(), Failure> {
    let mut flags = args.config.flags();
    args.model.add_to(&mut flags);
    let settings = Settings::load(&flags, environment)?;
    let model = models::load(&settings.model)?;
    let screen = Screen::of_stdout(environment);
    let as_table = screen.is_terminal && !args.json;
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files[..] };
    if files.iter().any(|file| is_stdin(file)) && io::stdin().is_terminal() {
        eprintln!("reading standard input; end it with Ctrl-D");
    }
    let mut run = Run {
        model: &model,
        explain: args.explain,
        as_table,
        screen,
        out: BufWriter::new(io::stdout().lock()),
        bar: if as_table { ProgressBar::hidden() } else { bar(files, args.jsonl) },
        n_inputs: 0,
        n_refused: 0,
    };
    if as_table {
        let name = if args.jsonl { "text" } else { "file" };
        writeln!(run.out, "{}", screen.table_head(name))?;
    }
    if args.jsonl {
        for file in files {
            run.score_lines(file, &settings.input)?;
        }
    } else {
        for files in files.chunks(CHUNK) {
            run.score_chunk(files.iter().collect(), |file| read_file(file))?;
        }
    }
    run.finish()
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Bytes of JSON lines, or files; a terminal shows it while records go elsewhere.
fn bar(files: &[PathBuf], jsonl: bool) -> ProgressBar {
    let n_bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum();
    let (length, shape) = if jsonl {
        (n_bytes, "{bar:40} {bytes}/{total_bytes} {msg} {eta} left")
    } else {
        (files.len() as u64, "{bar:40} {pos}/{len} files {eta} left")
    };
    ProgressBar::new(length).with_style(ProgressStyle::with_template(shape).expect("the template is well formed"))
}

struct Run<'a, W: Write> {
    model: &'a Model,
    explain: bool,
    as_table: bool,
    screen: Screen,
    out: W,
    bar: ProgressBar,
    n_inputs: usize,
    n_refused: usize,
}

impl<W: Write> Run<'_, W> {
    fn score_lines(&mut self, file: &Path, settings: &InputSettings) -> Result<(), Failure> {
        let name = file.display().to_string();
        let mut lines: Box<dyn BufRead> = match open(file) {
            Ok(reader) => Box::new(BufReader::new(reader)),
            Err(refused) => {
                self.n_inputs += 1;
                self.refuse(&refused);
                return Ok(());
            }
        };
        let mut n_lines = 0;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let mut n_bytes = 0;
            while chunk.len() < CHUNK {
                let mut line = Vec::new();
                let read = lines.read_until(b'\n', &mut line).map_err(|error| {
                    Failure::work(anyhow!(error).context(format!("could not read \"{name}\" after line {n_lines}")))
                })?;
                if read == 0 {
                    break;
                }
                n_bytes += read;
                n_lines += 1;
                if !line.trim_ascii().is_empty() {
                    chunk.push((n_lines, line));
                }
            }
            if n_bytes == 0 {
                return Ok(());
            }
            self.score_chunk(chunk, |(number, line)| read_line(&name, number, &line, settings))?;
            self.bar.inc(n_bytes as u64);
        }
    }

    /// Reads and scores inputs on all cores, then prints them in order.
    fn score_chunk<I, R>(&mut self, inputs: Vec<I>, read: R) -> Result<(), Failure>
    where
        I: Send,
        R: Fn(I) -> Result<Document, Refused> + Sync,
    {
        let n_threads = thread::available_parallelism().map_or(1, usize::from);
        let share = inputs.len().div_ceil(n_threads).max(1);
        let (model, explain, read) = (self.model, self.explain, &read);
        let mut inputs = inputs.into_iter();
        let results: Vec<Result<_, Refused>> = thread::scope(|scope| {
            let mut threads = Vec::with_capacity(n_threads);
            loop {
                let part: Vec<I> = inputs.by_ref().take(share).collect();
                if part.is_empty() {
                    break;
                }
                threads.push(scope.spawn(move || {
                    let mut scratch = Scratch::default();
                    let scored = part.into_iter().map(|input| {
                        let document = read(input)?;
                        let (scored, explanation) = score(model, &document, explain, &mut scratch);
                        Ok((document, scored, explanation))
                    });
                    scored.collect::<Vec<_>>()
                }));
            }
            let join = |thread: thread::ScopedJoinHandle<'_, Vec<_>>| thread.join().expect("scoring does not panic");
            threads.into_iter().flat_map(join).collect()
        });
        for result in results {
            self.n_inputs += 1;
            match result {
                Ok((document, scored, explanation)) => self.print(&document, &scored, explanation.as_deref())?,
                Err(refused) => self.refuse(&refused),
            }
        }
        self.out.flush()?;
        Ok(())
    }

    fn print(
        &mut self,
        document: &Document,
        scored: &Scored,
        explanation: Option<&[Explanation]>,
    ) -> Result<(), Failure> {
        if self.as_table {
            writeln!(self.out, "{}", self.screen.table_row(&document.name, &scored.into()))?;
            for line in super::explain::lines(&self.screen, &document.text, scored, explanation.unwrap_or_default()) {
                writeln!(self.out, "    {line}")?;
            }
            return Ok(());
        }
        let scored_at = Timestamp::now().to_string();
        let record = ScoreRecord::new(&document.id, None, self.model, scored, explanation, &scored_at);
        serde_json::to_writer(&mut self.out, &Line { record, fields: &document.fields }).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        Ok(())
    }

    fn refuse(&mut self, refused: &Refused) {
        self.n_refused += 1;
        if self.n_refused <= MOST_REFUSALS {
            self.bar.suspend(|| eprintln!("error: {}\nhint: {}", refused.fact, refused.hint));
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        if self.as_table && self.n_inputs > self.n_refused {
            writeln!(self.out, "{}", self.screen.paint(screen::LEGEND, screen::dimmed()))?;
        }
        self.out.flush()?;
        self.bar.finish_and_clear();
        match self.n_refused {
            0 => Ok(()),
            n_refused if n_refused == self.n_inputs => Err(Failure::work(anyhow!("nothing was scored"))),
            n_refused => Err(Failure::work(anyhow!("{n_refused} of {} inputs got no score", self.n_inputs))),
        }
    }
}

fn score(
    model: &Model,
    document: &Document,
    explain: bool,
    scratch: &mut Scratch,
) -> (Scored, Option<Vec<Explanation>>) {
    if explain {
        let (scored, explanation) = model.explain(&document.text, document.lang.as_deref(), scratch);
        (scored, Some(explanation))
    } else {
        (model.score(&document.text, document.lang.as_deref(), scratch), None)
    }
}

fn open(file: &Path) -> Result<Box<dyn Read>, Refused> {
    if is_stdin(file) {
        return Ok(Box::new(io::stdin()));
    }
    let refuse = |error: io::Error| Refused {
        fact: format!("could not read \"{}\": {error}", file.display()),
        hint: "check the path and its permissions",
    };
    let opened = File::open(file).map_err(refuse)?;
    if opened.metadata().is_ok_and(|about| about.is_dir()) {
        return Err(Refused {
            fact: format!("could not read \"{}\": it is a folder", file.display()),
            hint: "name its files, for example with FOLDER/*.txt",
        });
    }
    Ok(Box::new(opened))
}

fn read_file(file: &Path) -> Result<Document, Refused> {
    let name = file.display().to_string();
    let mut bytes = Vec::new();
    open(file)?.read_to_end(&mut bytes).map_err(|error| Refused {
        fact: format!("could not read \"{name}\": {error}"),
        hint: "check the path and its permissions",
    })?;
    let text = String::from_utf8(bytes).map_err(|error| Refused {
        fact: format!("\"{name}\" is not UTF-8 (byte {})", error.utf8_error().valid_up_to()),
        hint: "convert it first, for example with `iconv -f latin1 -t utf-8`",
    })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let shown = file.file_name().map_or_else(|| name.clone(), |name| name.to_string_lossy().into_owned());
    Ok(Document { name: shown, id: name, text, lang: None, fields: Map::new() })
}

fn read_line(file: &str, number: usize, line: &[u8], settings: &InputSettings) -> Result<Document, Refused> {
    let hint = "each line is a JSON object with its text in `text`; the setting `text_pointer` names another place";
    let refuse = |why: &str| Refused { fact: format!("line {number} of \"{file}\" can't be scored: {why}"), hint };
    // The service reads records with the same function, so that both agree on every line.
    let input = decode(Some(line), InputHeaders::default(), settings).map_err(|refusal| refuse(&refusal.detail))?;
    let Ok(Value::Object(mut object)) = serde_json::from_slice(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line))
    else {
        return Err(refuse("it is not a JSON object"));
    };
    if let Some(key) = settings.text_pointer.strip_prefix('/') {
        object.remove(key);
    }
    let rename = |(name, value): (String, Value)| match RECORD_FIELDS.contains(&name.as_str()) {
        true => (format!("input_{name}"), value),
        false => (name, value),
    };
    let id = input.id.map(|id| id.into_owned());
    if id.is_some() {
        object.remove("id");
    }
    let text = input.text.into_owned();
    Ok(Document {
        id: id.unwrap_or_else(|| format!("{file}:{number}")),
        name: text.chars().take(200).collect(),
        lang: input.lang.map(|lang| lang.into_owned()),
        fields: object.into_iter().map(rename).collect(),
        text,
    })
}
