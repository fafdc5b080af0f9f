//! The model card: an evaluation in, Markdown out, in the sections of Mitchell et al. (2019) with ethics and caveats folded in.
//!
//! Every figure of quality stands beside the one that can be bought with it: precision beside recall, harmless beside hateful, always-yes beside macro-F1.

use std::fmt::Write;

use vigie::scoring::Signal;

use crate::curves::BASE_RATES;
use crate::evaluate::{COMPARED, Evaluation};
use crate::slices::Slice;

/// Writes the card.
pub fn card(evaluation: &Evaluation) -> String {
    let mut card = format!(
        "# Model card: Vigie {}\n\n`vigie-train evaluate` writes this file; [report.html](report.html) has the plots and [report.json](report.json) every number.\n",
        evaluation.model.version
    );
    card += &model_details(evaluation);
    card += INTENDED_USE;
    card += FACTORS;
    card += &metrics(evaluation);
    card += &evaluation_data(evaluation);
    card += &training_data(evaluation);
    card += &quantitative_analyses(evaluation);
    card
}

fn model_details(evaluation: &Evaluation) -> String {
    let model = &evaluation.model;
    format!(
        "\n## 1. Model details\n\n\
         - Version {}, SHA-256 `{}`.\n\
         - Five L2-regularized logistic regressions over one walk of {} hashed n-grams (words, characters, and word classes in context), fitted by L-BFGS, weights stored as 16-bit \
           integers; a small convolutional network over the words in their order, whose word vectors begin as those of the sentence encoder multilingual-e5-small (MIT); \
           a second model by signal and language that weighs their margins against each other and reads the shape of the text; Platt scaling and two thresholds by signal and language. All of it from cross-fitted margins.\n\
         - Made by the Vigie project. Licence: {}. The same corpus, sets and settings give the same file byte for byte.\n\
         - Settings of the fit: `{}`\n",
        model.version, model.sha256, model.n_features, model.licence, model.settings
    )
}

const INTENDED_USE: &str = "
## 2. Intended use

- Reading aid for moderators, researchers and people who follow public debate in French and English: three topics (`antisemitism`, `hate_speech`, `moderation`: what a text is about, whoever speaks) and two
  stances (`attack`, `counter_speech`: what it does in its own voice). A score is a probability for one passage; a longer text gets the score of its passages together.
- Vigie publishes signals; whoever moderates decides. Not for removing texts or sanctioning people without a human reader, not for profiling persons, and not for languages other than French and English.
- On Israel the rule is close to the Jerusalem Declaration and narrower than some readings of the IHRA examples: criticism of a state, government or army is no `attack`.
  Who needs another line must label and train with it.
";

const FACTORS: &str = "
## 3. Factors

- Reported apart: language, origin of the text (our own corpus, real rows), voice and register, function (what the passage does with the words of hate), group named, length, and disguise of words.
- Known to matter: irony without a mark in the text; a reply whose meaning lies in what it answers; in-group use of slurs that the text does not show; new codes; French other than that of France; \
dialects of English. None of these can be seen in the model's scores alone.
- Nothing is known of authors: no figure by their age, sex or origin can be given.
";

fn metrics(evaluation: &Evaluation) -> String {
    // Model files of other programs may say nothing of them.
    let percent = |key: &str| {
        let share = evaluation.model.settings["bands"][key].as_f64();
        share.map_or("–".to_owned(), |share| format!("{:.0}", share * 100.0))
    };
    let mut text = format!(
        "\n## 4. Metrics\n\n\
         - Macro-F1 at a score of one half (mean of F1 on present and on absent), beside the macro-F1 of saying yes to everything; AUC where figures must not depend on a threshold; precision beside recall, always.\n\
         - Calibration error: mean distance between score and share of positives over 15 bins of equal width (Naeini, Cooper & Hauskrecht 2015).\n\
         - Bands: `low` ends where {} % of what carries the signal is still above; `high` begins where precision is {} % at a base rate of {} %. What that means in streams of other kinds is worked out below.\n\n\
         | language | signal | uncertain from | high from |\n|---|---|---|---|\n",
        percent("low_recall"),
        percent("high_precision"),
        percent("base_rate"),
    );
    for (lang, signals) in &evaluation.model.thresholds {
        for (signal, [low, high]) in signals {
            let _ = writeln!(text, "| {lang} | {} | {low:.3} | {high:.3} |", signal.as_str());
        }
    }
    text
}

fn evaluation_data(evaluation: &Evaluation) -> String {
    let data = &evaluation.data;
    let mut text = String::from(
        "\n## 5. Evaluation data\n\n\
         Passages that were used neither for weights nor for calibration or thresholds. Contrast sets, articles, neighbours in a file and near-duplicates are never parted between training and test.\n\n\
         | part | passages |\n|---|---|\n",
    );
    for (part, n) in &data.n_test_rows {
        let _ = writeln!(text, "| {part} | {n} |");
    }
    text += "\n`corpus` was written for this project by the codebook, the same hands as the training part: its figures flatter. `real` are rows of public sets that we have read and labelled; \
             many were chosen for being hard (slur words, doubtful for an earlier model), so that their figures are harsher than a stream's.\n";
    if !data.missing_sets.is_empty() {
        let _ = writeln!(text, "\nNot there when this was measured: {}.", data.missing_sets.join(", "));
    }
    let readings = evaluation.agreement.iter().filter(|agreement| !agreement.title.contains("source's"));
    for agreement in readings.filter(|agreement| !agreement.signals.is_empty()) {
        let kappas: Vec<String> = agreement
            .signals
            .iter()
            .map(|s| {
                format!(
                    "{} {} ({} settled)",
                    s.signal.as_str(),
                    s.kappa.map_or("–".to_owned(), |k| format!("{k:.2}")),
                    s.n_settled
                )
            })
            .collect();
        let _ = writeln!(text, "\n{}, Cohen's kappa: {}.", agreement.title, kappas.join(", "));
    }
    text
}

fn training_data(evaluation: &Evaluation) -> String {
    let mut text = format!(
        "\n## 6. Training data\n\n{} rows. Only annotations of public rows are published with the project, never their text.\n\n| source | rows | weight | licence |\n|---|---|---|---|\n",
        evaluation.data.n_training_rows
    );
    for source in &evaluation.model.training {
        let _ = writeln!(text, "| {} | {} | {} | {} |", source.name, source.n_passages, source.weight, source.licence);
    }
    text + "\nWeight is what a row with its source's own label counts beside a passage of our own; rows that we have read take our labels and count more (`training/sources.toml`).\n"
}

fn quantitative_analyses(evaluation: &Evaluation) -> String {
    let mut text = String::from(
        "\n## 7. Quantitative analyses, ethics and caveats\n\n### Goals\n\n| figure | reached | goal | |\n|---|---|---|---|\n",
    );
    for goal in &evaluation.goals {
        let mark = if goal.verdict() == "missed" { "**missed**" } else { goal.verdict() };
        let _ = writeln!(text, "| {} | {} | {} | {mark} |", goal.what, goal.shown(), goal.shown_bound());
    }
    text += &unitary_results(evaluation);
    text += &base_rates(evaluation);
    text += &intersections(evaluation);
    text += &halves(evaluation);
    text += &robustness(evaluation);
    text += CAVEATS;
    text
}

fn unitary_results(evaluation: &Evaluation) -> String {
    let mut text = String::from(
        "\n### By signal and language, beside the baselines\n\n\
         | part | signal | n | present | AUC | precision | recall | macro-F1 | always yes | keyword rule | naive Bayes | calibration error |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for slice in evaluation.slices.iter().filter(|slice| slice.kind == "part" && !slice.name.starts_with("both")) {
        for (signal, f) in &slice.signals {
            let baseline = |name: &str| {
                let figures = evaluation.baselines.get(name).and_then(|parts| parts.get(&slice.name)?.get(signal));
                shown(figures.map(|figures| figures.macro_f1))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {:.3} | {:.3} | {:.3} | {:.3} | {} | {} | {:.3} |",
                slice.name,
                signal.as_str(),
                f.n,
                f.n_positive,
                shown(f.auc),
                f.precision,
                f.recall,
                f.macro_f1,
                f.always_yes_macro_f1,
                baseline("keyword rule"),
                baseline("naive Bayes"),
                f.calibration_error
            );
        }
    }
    text
}

fn base_rates(evaluation: &Evaluation) -> String {
    let [first, second, third] = BASE_RATES.map(|rate| format!("precision at {:.0} %", 100.0 * rate));
    let mut text = format!(
        "\n### Band high at other base rates\n\nIn brackets with one false alarm more than was seen: few passages without an alarm do not prove that there is none.\n\n\
         | part | signal | recall | false positive rate | {first} | {second} | {third} |\n|---|---|---|---|---|---|---|\n"
    );
    for (part, signals) in
        evaluation.bands.iter().filter(|(part, _)| part.ends_with(" all") && !part.starts_with("both"))
    {
        for (signal, [high, _]) in signals {
            let precision: Vec<String> = high
                .precision
                .iter()
                .zip(&high.cautious_precision)
                .map(|(p, cautious)| format!("{p:.2} ({cautious:.2})"))
                .collect();
            let (recall, alarms) = (high.recall, 100.0 * high.false_positive_rate);
            let _ = writeln!(
                text,
                "| {part} | {} | {recall:.3} | {alarms:.2} % | {} |",
                signal.as_str(),
                precision.join(" | ")
            );
        }
    }
    text
}

fn intersections(evaluation: &Evaluation) -> String {
    let mut text = String::from(
        "\n### By group, voice and length\n\n`attack` and `counter_speech` on our corpus: recall beside precision, and the share of harmless passages that score one half or more. Registers and functions stand in the report.\n\n\
         | passages | n | attack: present | recall | precision | false positive rate | counter_speech: present | recall | precision |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for slice in evaluation.slices.iter().filter(|slice| matches!(slice.kind, "voice" | "group" | "length")) {
        let (Some(attack), Some(counter)) =
            (slice.signals.get(&Signal::Attack), slice.signals.get(&Signal::CounterSpeech))
        else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.3} | {} | {} | {} |",
            named(slice),
            slice.n,
            attack.n_positive,
            where_present(attack.n_positive, attack.recall),
            where_present(attack.n_positive, attack.precision),
            attack.false_positive_rate,
            counter.n_positive,
            where_present(counter.n_positive, counter.recall),
            where_present(counter.n_positive, counter.precision),
        );
    }
    text
}

fn named(slice: &Slice) -> String {
    format!("{}: {}", slice.kind, slice.name.replace('_', " "))
}

/// A figure on what is present says nothing where nothing is.
fn where_present(n_present: usize, figure: f64) -> String {
    if n_present == 0 { "–".to_owned() } else { format!("{figure:.3}") }
}

fn halves(evaluation: &Evaluation) -> String {
    let (mut hateful, mut harmless) = ((0, 0), (0, 0));
    for half in &evaluation.functions {
        hateful = (hateful.0 + half.n_hateful_right, hateful.1 + half.n_hateful);
        harmless = (harmless.0 + half.n_harmless_right, harmless.1 + half.n_harmless);
    }
    let share = |(right, n): (usize, usize)| {
        if n == 0 { "–".to_owned() } else { format!("{:.3} ({right} of {n})", right as f64 / n as f64) }
    };
    let mut text = format!(
        "\n### Hateful beside harmless\n\n`attack` on the right side of one half, passages of our corpus with a function: attacks {}, harmless {}.\n",
        share(hateful),
        share(harmless)
    );
    let Some(suite) = &evaluation.suite else { return text };
    let _ = writeln!(
        text,
        "\nFunctional suite, {} cases written apart and never trained on; mean accuracy over functions:\n\n\
         | | hateful, fr | harmless, fr | hateful, en | harmless, en |\n|---|---|---|---|---|",
        suite.n_cases
    );
    for name in COMPARED {
        let of = |lang: &str, half: usize| shown(suite.halves[name][lang][half]);
        let _ = writeln!(text, "| {name} | {} | {} | {} | {} |", of("fr", 0), of("fr", 1), of("en", 0), of("en", 1));
    }
    text += "\n| function | language | half | cases | right |\n|---|---|---|---|---|\n";
    for f in &suite.functions {
        let half = if f.hateful { "hateful" } else { "harmless" };
        let _ =
            writeln!(text, "| {} | {} | {half} | {} | {:.2} |", f.function.replace('_', " "), f.lang, f.n, f.accuracy);
    }
    text
}

fn robustness(evaluation: &Evaluation) -> String {
    let swap = &evaluation.identity_swap;
    let mut text = format!(
        "\n### Robustness\n\nIdentity swap (one group's name in the place of another's): mean absolute change of `attack` {} on {} harmless passages ({} swaps), {} on {} attacks ({} swaps).\n\n\
         Evasion, both languages: `attack` found plain → disguised, beside false alarms in band high on harmless passages with the same trick.\n\n\
         | trick | attacks | recall, low threshold | recall, one half | harmless | band high |\n|---|---|---|---|---|---|\n",
        shown(swap.harmless.mean_absolute_change.get(&Signal::Attack).copied()),
        swap.harmless.n_passages,
        swap.harmless.n_swaps,
        shown(swap.attacks.mean_absolute_change.get(&Signal::Attack).copied()),
        swap.attacks.n_passages,
        swap.attacks.n_swaps,
    );
    let change = |pair: [f64; 2]| format!("{:.3} → {:.3}", pair[0], pair[1]);
    for t in evaluation.evasion.iter().filter(|result| result.lang == "all") {
        let (low, half, high) = (change(t.recall_low), change(t.recall_half), change(t.alarms_high));
        let _ =
            writeln!(text, "| {} | {} | {low} | {half} | {} | {high} |", t.trick.as_str(), t.n_attacks, t.n_harmless);
    }
    text += "\nOrdinary text (news, encyclopedia, terms of service; some hits are true):\n\n| set | passages | attack high | any topic high | known true |\n|---|---|---|---|---|\n";
    for set in &evaluation.quiet_sets {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            set.set,
            set.n,
            set.n_high[&Signal::Attack],
            set.n_topic_high,
            set.n_topic_true
        );
    }
    text
}

const CAVEATS: &str = "
### Ethics and caveats

- The corpus holds hateful passages, written to be recognized; public rows are real people's words, and none of their text is published here.
- An error is not the same for everyone: a missed attack leaves its target alone, a false alarm silences the one who answers it. Both stand above; neither is averaged away.
- A group that is named seldom in the corpus is judged on few passages: read its row by group with its n.
- One team wrote the codebook, the corpus and most labels. Second readings measure how far others agree; they do not make it everybody's view.
- Language changes. Codes are learnt after they appear: watch the share of `uncertain`, label what is doubtful (`vigie-train label`) and train again.
";

fn shown(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.3}"))
}
