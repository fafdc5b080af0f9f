//! Looks at the corpus: imported rows in; refused near-duplicates, a coverage table and a table of agreement out (Markdown).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use vigie::scoring::Signal;

use crate::corpus::{Passage, near_duplicates};
use crate::importer::{Import, Imported, Origin};
use crate::split::{Part, Place};

/// Refuses near-duplicates among our passages, and any near-duplicate of a test row in training.
pub fn check(import: &Import, places: &[Place], too_close: f64) -> Result<()> {
    let passages: Vec<Passage> = import.rows.iter().map(|row| row.passage.clone()).collect();
    let mut n_refused = 0;
    for pair in near_duplicates(&passages, too_close) {
        let (left, right) = (&import.rows[pair.left], &import.rows[pair.right]);
        let both_own = left.origin == Origin::Own && right.origin == Origin::Own;
        let parts = [places[pair.left].part, places[pair.right].part];
        let leaks = parts.contains(&Part::Test) && parts.contains(&Part::Train);
        if both_own || leaks {
            n_refused += 1;
            let why = if leaks { "across training and test" } else { "near-duplicate" };
            println!("{} {} {:.2} {why}", left.passage.id, right.passage.id, pair.similarity);
        }
    }
    let count = |part: Part| places.iter().filter(|place| place.part == part).count();
    tracing::info!(n_rows = passages.len(), n_train = count(Part::Train), n_test = count(Part::Test), "corpus read");
    if n_refused > 0 {
        bail!("{n_refused} pairs of passages are too close to each other; drop one of each");
    }
    Ok(())
}

/// Prints how many passages of ours there are by function and register in each language, and by function and group; `·` marks empty cells.
pub fn coverage(import: &Import) -> Result<()> {
    let own: Vec<&Passage> =
        import.rows.iter().filter(|row| row.origin == Origin::Own).map(|row| &row.passage).collect();
    println!("# What the corpus covers\n\n`vigie-train corpus coverage` writes this page. {} passages.\n", own.len());
    println!(
        "| language | passages | antisemitism | hate_speech | moderation | attack | counter_speech | contrast sets | articles |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for lang in ["fr", "en"] {
        let part: Vec<&&Passage> = own.iter().filter(|passage| passage.lang == lang).collect();
        let n = |signal: Signal| part.iter().filter(|passage| passage.label(signal) == Some(true)).count().to_string();
        let sets: BTreeSet<&str> = part.iter().filter_map(|passage| passage.set.as_deref()).collect();
        let articles: BTreeSet<&str> = part.iter().filter_map(|passage| passage.article.as_deref()).collect();
        let labels = Signal::ALL.map(n).join(" | ");
        println!("| {lang} | {} | {labels} | {} | {} |", part.len(), sets.len(), articles.len());
    }
    for lang in ["fr", "en"] {
        let part = own.iter().filter(|passage| passage.lang == lang);
        table(&format!("Function × register, {lang}"), part.map(|p| (named(&p.function), vec![named(&p.register)])));
    }
    for lang in ["fr", "en"] {
        let part = own.iter().filter(|passage| passage.lang == lang);
        let groups = |p: &Passage| {
            if p.groups.is_empty() { vec!["no group".to_owned()] } else { p.groups.clone() }
        };
        table(&format!("Function × group, {lang}"), part.map(|p| (named(&p.function), groups(p))));
    }
    Ok(())
}

fn named(name: &str) -> String {
    if name.is_empty() { "not noted".to_owned() } else { name.to_owned() }
}

fn table(title: &str, cells: impl Iterator<Item = (String, Vec<String>)>) {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut rows, mut columns) = (BTreeSet::new(), BTreeSet::new());
    for (row, names) in cells {
        rows.insert(row.clone());
        for name in names {
            columns.insert(name.clone());
            *counts.entry((row.clone(), name)).or_default() += 1;
        }
    }
    println!("\n## {title}\n\n| | {} |", columns.iter().cloned().collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    for row in &rows {
        let cell =
            |column: &String| counts.get(&(row.clone(), column.clone())).map_or("·".to_owned(), usize::to_string);
        println!("| {row} | {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
}

/// What the writer and a second, blind reader say of one passage of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondReading {
    /// The passage's id.
    pub id: String,
    first: Labels,
    /// What the second reader settled.
    pub second: Labels,
}

/// How two readings of the same passages agree.
#[derive(Debug, Clone, Serialize)]
pub struct Agreement {
    pub title: String,
    pub n_passages: usize,
    /// Only signals that both readings speak about.
    pub signals: Vec<SignalAgreement>,
}

/// Agreement on one signal, over the passages that both readers settled.
#[derive(Debug, Clone, Serialize)]
pub struct SignalAgreement {
    pub signal: Signal,
    pub n_settled: usize,
    pub n_first: usize,
    pub n_second: usize,
    pub n_both: usize,
    pub share_equal: f64,
    /// Cohen's kappa (1960); `None` when chance alone explains everything.
    pub kappa: Option<f64>,
}

/// How writer and second reader agree on our passages, two readers on public rows, and the sources' own labels with ours.
pub fn agreements(import: &Import) -> Result<Vec<Agreement>> {
    let second = second_readings()?;
    let of_own = second.iter().map(|reading| (&reading.first, &reading.second));
    let of_public = import.rows.iter().filter_map(|row| Some((&row.passage.labels, row.second_labels.as_ref()?)));
    let mut found = vec![
        agreement_of("Our passages, writer and second reader".to_owned(), of_own),
        agreement_of("Public rows, two readers".to_owned(), of_public),
    ];
    let mut sets: BTreeMap<&str, Vec<&Imported>> = BTreeMap::new();
    for row in import.rows.iter().filter(|row| row.origin == Origin::Annotated && !row.source_labels.is_empty()) {
        sets.entry(&row.passage.source).or_default().push(row);
    }
    for (set, rows) in sets {
        let pairs = rows.iter().map(|row| (&row.passage.labels, &row.source_labels));
        found.push(agreement_of(format!("Public rows of {set}, our reading and the source's label"), pairs));
    }
    Ok(found)
}

/// Prints all agreements as Markdown.
pub fn agreement(import: &Import) -> Result<()> {
    println!(
        "# How readers agree\n\n`vigie-train corpus agreement` writes this page. Kappa is Cohen's (1960); an open label of either reader is left out."
    );
    for agreement in agreements(import)? {
        println!("\n## {} ({} passages)\n", agreement.title, agreement.n_passages);
        println!(
            "| signal | both settled | first 1 | second 1 | both 1 | equal | kappa |\n|---|---|---|---|---|---|---|"
        );
        for s in &agreement.signals {
            println!(
                "| {} | {} | {} | {} | {} | {:.1} % | {} |",
                s.signal.as_str(),
                s.n_settled,
                s.n_first,
                s.n_second,
                s.n_both,
                100.0 * s.share_equal,
                s.kappa.map_or("–".to_owned(), |kappa| format!("{kappa:.2}")),
            );
        }
    }
    Ok(())
}

/// All second readings of our corpus; none where the folder is missing.
pub fn second_readings() -> Result<Vec<SecondReading>> {
    let folder = Path::new("training/corpus/second_reading");
    let mut readings = Vec::new();
    if !folder.exists() {
        return Ok(readings);
    }
    let mut files: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        for line in std::fs::read_to_string(&file)?.lines() {
            readings.push(serde_json::from_str(line).with_context(|| format!("in {}", file.display()))?);
        }
    }
    Ok(readings)
}

type Labels = BTreeMap<String, u8>;

fn agreement_of<'a>(title: String, pairs: impl Iterator<Item = (&'a Labels, &'a Labels)>) -> Agreement {
    let pairs: Vec<_> = pairs.collect();
    let of_signal = |signal: Signal| {
        let name = signal.as_str();
        let settled: Vec<(bool, bool)> =
            pairs.iter().filter_map(|(left, right)| Some((*left.get(name)? == 1, *right.get(name)? == 1))).collect();
        let count = |test: &dyn Fn(&(bool, bool)) -> bool| settled.iter().filter(|pair| test(pair)).count();
        (!settled.is_empty()).then(|| SignalAgreement {
            signal,
            n_settled: settled.len(),
            n_first: count(&|p| p.0),
            n_second: count(&|p| p.1),
            n_both: count(&|p| p.0 && p.1),
            share_equal: count(&|p| p.0 == p.1) as f64 / settled.len() as f64,
            kappa: kappa(&settled),
        })
    };
    Agreement { title, n_passages: pairs.len(), signals: Signal::ALL.into_iter().filter_map(of_signal).collect() }
}

/// Cohen's kappa (1960): agreement beyond chance; `None` when chance alone explains everything.
fn kappa(pairs: &[(bool, bool)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let share = |test: &dyn Fn(&(bool, bool)) -> bool| pairs.iter().filter(|pair| test(pair)).count() as f64 / n;
    let (first, second) = (share(&|p| p.0), share(&|p| p.1));
    let chance = first * second + (1.0 - first) * (1.0 - second);
    (chance < 1.0).then(|| (share(&|p| p.0 == p.1) - chance) / (1.0 - chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_is_one_for_equals_and_zero_for_chance() {
        let pairs = |list: [(u8, u8); 4]| list.map(|(a, b)| (a == 1, b == 1));
        assert_eq!(kappa(&pairs([(1, 1), (0, 0), (1, 1), (0, 0)])), Some(1.0));
        assert_eq!(kappa(&pairs([(1, 1), (1, 0), (0, 1), (0, 0)])), Some(0.0));
        assert_eq!(kappa(&pairs([(1, 1), (1, 1), (1, 1), (1, 1)])), None);
    }
}
