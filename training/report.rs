//! The report for people: an evaluation in, one self-contained HTML page out (styles and plots inline, nothing fetched).

use std::collections::BTreeMap;
use std::fmt::Write;

use vigie::scoring::Signal;

use crate::curves::{BASE_RATES, Curves};
use crate::evaluate::{COMPARED, Evaluation, SuiteFigures};
use crate::measure::Figures;
use crate::slices::Slice;
use crate::svg::{Axes, Line, escape, histograms, lines};
use crate::swap::SwapHalf;

/// Parts of the test data that are drawn, each in its colour.
const DRAWN: [&str; 4] = ["corpus fr", "corpus en", "real fr", "real en"];
const PART_NAMES: [&str; 4] = ["our corpus, French", "our corpus, English", "real rows, French", "real rows, English"];
/// Fewer of either label draw no curve that means anything.
const FEWEST_FOR_A_CURVE: usize = 12;
/// Fewer passages in a bin of scores say nothing of its share.
const FEWEST_IN_A_BIN: f64 = 5.0;

/// Writes the page.
pub fn page(evaluation: &Evaluation) -> String {
    let body = [
        head(evaluation),
        goals(evaluation),
        quality(evaluation),
        plots(evaluation),
        base_rates(evaluation),
        slices(evaluation),
        functions(evaluation),
        evaluation.suite.as_ref().map_or_else(String::new, suite),
        identity_swap(evaluation),
        evasion(evaluation),
        quiet_sets(evaluation),
        other_labels(evaluation),
        learning_curve(evaluation).unwrap_or_default(),
        training_data(evaluation),
    ];
    let title = format!("Vigie model {}: report", escape(&evaluation.model.version));
    include_str!("report.html").replace("{{title}}", &title).replace("{{body}}", &body.concat())
}

fn head(evaluation: &Evaluation) -> String {
    let (model, data) = (&evaluation.model, &evaluation.data);
    let n_met = evaluation.goals.iter().filter(|goal| goal.is_met()).count();
    let count = |part: &str| data.n_test_rows.get(part).copied().unwrap_or_default();
    let mut html = format!(
        "<h1>Model {}</h1><p class=\"note\"><code>sha256 {}</code> · {} n-grams · written by <code>vigie-train evaluate</code></p>\
         <p>Five signals, measured on {} passages of our own corpus and {} real rows that we have labelled by the codebook; none of them was used for weights, calibration or thresholds. \
         {n_met} of {} goals are met.</p>",
        escape(&model.version),
        escape(&model.sha256),
        model.n_features,
        count("corpus all"),
        count("real all"),
        evaluation.goals.len()
    );
    if !data.missing_sets.is_empty() {
        let _ = write!(
            html,
            "<p class=\"miss\">Not there when this was measured: {}.</p>",
            escape(&data.missing_sets.join(", "))
        );
    }
    html + "<nav><a href=\"#goals\">Goals</a><a href=\"#quality\">Quality</a><a href=\"#plots\">Plots</a><a href=\"#rates\">Base rates</a>\
            <a href=\"#slices\">Slices</a><a href=\"#functions\">Functions</a><a href=\"#swap\">Identity swap</a><a href=\"#evasion\">Evasion</a>\
            <a href=\"#alarms\">False alarms</a><a href=\"#labels\">Labels</a><a href=\"#training\">Training data</a></nav>"
}

fn goals(evaluation: &Evaluation) -> String {
    let rows = evaluation.goals.iter().map(|goal| {
        let class = match goal.verdict() {
            "met" => "ok",
            "missed" => "miss",
            _ => "soft",
        };
        let mark = format!("<span class=\"{class}\">{}</span>", goal.verdict());
        vec![escape(&goal.what), goal.shown(), goal.shown_bound(), mark]
    });
    section("goals", "Goals", "What the project asks of its models, on development data.")
        + &table(&["figure", "reached", "goal", ""], rows)
}

fn quality(evaluation: &Evaluation) -> String {
    let note = "Precision and recall at a score of one half. AP: average precision. Always-yes, a keyword rule and multinomial naive Bayes on words stand beside the model, as macro-F1. \
                Calibration error over 15 bins; on few passages it cannot be small.";
    let mut html = section("quality", "Quality by signal and language", note);
    let head = [
        "passages",
        "signal",
        "n",
        "present",
        "AUC",
        "AP",
        "precision",
        "recall",
        "false positive rate",
        "macro-F1",
        "always yes",
        "keywords",
        "naive Bayes",
        "calibration error",
    ];
    let titles = [
        ("part", "Parts of the test data"),
        ("documents", "Whole articles"),
        (
            "readers",
            "Our corpus, passages read twice: the writer's labels, and those alone that a blind second reader gives too",
        ),
        ("voice", "Our corpus by voice"),
        ("set", "Real rows by source"),
    ];
    for (kind, title) in titles {
        let of_kind = evaluation.slices.iter().filter(|slice| slice.kind == kind);
        let rows: Vec<Vec<String>> = of_kind.flat_map(|slice| quality_rows(evaluation, slice)).collect();
        if !rows.is_empty() {
            let open = if kind == "set" { "" } else { " open" };
            let _ = write!(html, "<details{open}><summary>{title}</summary>{}</details>", table(&head, rows));
        }
    }
    html
}

fn quality_rows(evaluation: &Evaluation, slice: &Slice) -> Vec<Vec<String>> {
    let row = |(place, (&signal, f)): (usize, (&Signal, &Figures))| {
        // Where nothing carries the signal, only false alarms can be counted.
        let of_present = |figure: f64| number(Some(figure).filter(|_| f.n_positive > 0));
        let of_both = |figure: f64| number(Some(figure).filter(|_| f.n_positive > 0 && f.n_positive < f.n));
        let baseline = |name: &str| {
            let figures = evaluation.baselines.get(name).and_then(|parts| parts.get(&slice.name)?.get(&signal));
            figures.filter(|_| slice.kind == "part").map_or("·".to_owned(), |figures| of_both(figures.macro_f1))
        };
        vec![
            if place == 0 { escape(&slice.name) } else { String::new() },
            signal.as_str().to_owned(),
            f.n.to_string(),
            f.n_positive.to_string(),
            number(f.auc),
            number(f.average_precision),
            of_present(f.precision),
            of_present(f.recall),
            number(Some(f.false_positive_rate)),
            format!("<b>{}</b>", of_both(f.macro_f1)),
            of_both(f.always_yes_macro_f1),
            baseline("keyword rule"),
            baseline("naive Bayes"),
            number(Some(f.calibration_error)),
        ]
    };
    slice.signals.iter().enumerate().map(row).collect()
}

fn plots(evaluation: &Evaluation) -> String {
    let note = "Precision-recall, reliability (a mark is a bin of at least five scores, larger with more; on the dashed line a score is a probability), \
                the error among the surest answers, and scores of what carries the signal (up) and what does not (down).";
    let mut html = section("plots", "Plots", note);
    html += "<p class=\"legend\">";
    for (number, name) in PART_NAMES.iter().enumerate() {
        let _ = write!(html, "<span class=\"c{number}\"><i></i>{name}</span>");
    }
    html += "</p>";
    for signal in Signal::ALL {
        let _ = write!(html, "<h3>{}</h3><div class=\"plots\">{}</div>", signal.as_str(), plots_of(evaluation, signal));
    }
    html
}

fn plots_of(evaluation: &Evaluation, signal: Signal) -> String {
    let name = signal.as_str();
    let drawn: Vec<Option<&Curves>> = DRAWN.map(|part| evaluation.curves.get(part)?.get(&signal)).into();
    let line = |points: &dyn Fn(&Curves) -> Vec<(f64, f64)>, marks: &dyn Fn(&Curves) -> Vec<f64>| {
        let of = |(curves, part): (&Option<&Curves>, &str)| {
            let enough = curves.filter(|curves| is_enough(curves));
            Line {
                name: part.to_owned(),
                points: enough.map(points).unwrap_or_default(),
                marks: enough.map(marks).unwrap_or_default(),
            }
        };
        drawn.iter().zip(PART_NAMES).map(of).collect::<Vec<Line>>()
    };
    let unit = (0.0, 1.0);
    let axes = |title, x, y, y_range, diagonal| Axes { title, x, y, x_range: unit, y_range, diagonal };
    let titles = ["precision and recall", "reliability", "risk and coverage"].map(|what| format!("{name}: {what}"));
    let no_marks = |_: &Curves| Vec::new();
    let precision_recall = line(&|c| c.precision_recall.iter().map(|p| (p[2], p[1])).collect(), &no_marks);
    let full_bins = |c: &Curves| -> Vec<[f64; 3]> {
        c.reliability.iter().copied().filter(|bin| bin[2] >= FEWEST_IN_A_BIN).collect()
    };
    let reliability = line(&|c| full_bins(c).iter().map(|bin| (bin[0], bin[1])).collect(), &|c| {
        full_bins(c).iter().map(|bin| 1.2 + bin[2].ln() / 2.0).collect()
    });
    let risk = line(&|c| c.risk_coverage.iter().map(|p| (p[0], p[1])).collect(), &no_marks);
    let highest = risk.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.04, f64::max);
    let mut html = figure(
        "Precision and recall",
        &lines(&axes(&titles[0], "recall", "precision", unit, false), &precision_recall),
    );
    html +=
        &figure("Reliability", &lines(&axes(&titles[1], "score", "share that carries it", unit, true), &reliability));
    html += &figure(
        "Risk and coverage",
        &lines(&axes(&titles[2], "share answered", "share wrong", (0.0, highest), false), &risk),
    );
    if let Some(curves) = evaluation.curves.get("both all").and_then(|signals| signals.get(&signal)) {
        let title = format!("{name}: scores");
        html += &figure("Scores", &histograms(&title, &curves.scores_of_present, &curves.scores_of_absent));
    }
    for (part, name) in [("corpus all", "our corpus"), ("real all", "real rows")] {
        if let Some(curves) = evaluation.curves.get(part).and_then(|signals| signals.get(&signal)) {
            html += &figure(&format!("Bands and labels, {name}"), &confusion(curves));
        }
    }
    html
}

fn is_enough(curves: &Curves) -> bool {
    let total = |bars: &[usize]| bars.iter().sum::<usize>();
    total(&curves.scores_of_present).min(total(&curves.scores_of_absent)) >= FEWEST_FOR_A_CURVE
}

fn confusion(curves: &Curves) -> String {
    let total = |label: usize| curves.bands.iter().map(|counts| counts[label]).sum::<usize>().max(1) as f64;
    let cell = |n: usize, label: usize| {
        heat(n as f64 / total(label), &format!("{n} ({:.0} %)", 100.0 * n as f64 / total(label)))
    };
    let mut html = "<table><tr><th>band</th><th>absent</th><th>present</th></tr>".to_owned();
    for (band, counts) in ["low", "uncertain", "high"].iter().zip(curves.bands) {
        let _ = write!(html, "<tr><td>{band}</td>{}{}</tr>", cell(counts[0], 0), cell(counts[1], 1));
    }
    html + "</table>"
}

fn base_rates(evaluation: &Evaluation) -> String {
    let note = "Where one message in a hundred carries a signal, even few false alarms outnumber what is found. Precision is worked out from recall and false positive rate, \
                π·TPR / (π·TPR + (1 − π)·FPR). The figure in brackets counts one false alarm more than was seen: with n harmless passages and no alarm, the true rate may still be near 1/n.";
    let mut html = section("rates", "Bands at base rates of 1 %, 5 % and 50 %", note);
    for (place, title) in ["Band high", "Band uncertain or high"].iter().enumerate() {
        let mut rows = Vec::new();
        for (part, signals) in
            evaluation.bands.iter().filter(|(part, _)| part.ends_with("all") || part.starts_with("both"))
        {
            for (row, (signal, bands)) in signals.iter().enumerate() {
                let rates = &bands[place];
                let mut cells = vec![
                    if row == 0 { part.clone() } else { String::new() },
                    signal.as_str().to_owned(),
                    number(Some(rates.recall)),
                    format!("{:.2} %", 100.0 * rates.false_positive_rate),
                ];
                let precision = rates.precision.iter().zip(&rates.cautious_precision);
                cells.extend(
                    precision
                        .map(|(plain, cautious)| format!("{plain:.2} <span class=\"soft\">({cautious:.2})</span>")),
                );
                rows.push(cells);
            }
        }
        let [first, second, third] = BASE_RATES.map(|rate| format!("precision at {:.0} %", 100.0 * rate));
        let head = ["passages", "signal", "recall", "false positive rate", &first, &second, &third];
        let _ = write!(html, "<h3>{title}</h3>{}", table(&head, rows));
    }
    html
}

fn slices(evaluation: &Evaluation) -> String {
    let note = "Our corpus only. Each cell: macro-F1 (passages that carry the signal / all); where only one label occurs, the share on the right side of one half. Small slices are noisy.";
    let mut html = section("slices", "By register, function, group and length", note);
    for (kind, title) in [("register", "Register"), ("function", "Function"), ("group", "Group"), ("length", "Length")]
    {
        let rows = evaluation.slices.iter().filter(|slice| slice.kind == kind).map(|slice| {
            let mut cells = vec![escape(&slice.name.replace('_', " ")), slice.n.to_string()];
            cells.extend(Signal::ALL.map(|signal| slice.signals.get(&signal).map_or("·".to_owned(), slice_cell)));
            cells
        });
        let _ = write!(
            html,
            "<details{}><summary>{title}</summary>{}</details>",
            if kind == "group" { " open" } else { "" },
            table(&slice_head(), rows)
        );
    }
    html
}

fn slice_head() -> Vec<&'static str> {
    ["passages", "n"].into_iter().chain(Signal::ALL.map(Signal::as_str)).collect()
}

fn slice_cell(f: &Figures) -> String {
    let figure = match f.n_positive {
        // Macro-F1 has no meaning with one class: of what is there, how much is right?
        0 => 1.0 - f.false_positive_rate,
        n if n == f.n => f.recall,
        _ => f.macro_f1,
    };
    format!("{figure:.2} <span class=\"soft\">({}/{})</span>", f.n_positive, f.n)
}

fn functions(evaluation: &Evaluation) -> String {
    let note = "Is <code>attack</code> on the right side of one half? Attacks and harmless texts apart, for a model may buy one with the other.";
    let share = |right: usize, n: usize| {
        if n == 0 {
            "·".to_owned()
        } else {
            format!("{:.2} <span class=\"soft\">({right}/{n})</span>", right as f64 / n as f64)
        }
    };
    let rows = evaluation.functions.iter().map(|half| {
        vec![
            escape(&half.function.replace('_', " ")),
            share(half.n_hateful_right, half.n_hateful),
            share(half.n_harmless_right, half.n_harmless),
        ]
    });
    section("functions", "Functions of our corpus: hateful and harmless", note)
        + &table(&["function", "hateful", "harmless"], rows)
}

fn suite(suite: &SuiteFigures) -> String {
    let note = "Cases written apart from the corpus and never trained on. A case is right when every signal that its function asks for lies on its label's side of one half.";
    let mut html = section("suite", "Functional suite", note);
    let halves = COMPARED.iter().map(|name| {
        let of = |lang: &str, half: usize| number(suite.halves[name][lang][half]);
        vec![(*name).to_owned(), of("fr", 0), of("fr", 1), of("en", 0), of("en", 1), of("all", 0), of("all", 1)]
    });
    let head = [
        "mean accuracy over functions",
        "hateful, fr",
        "harmless, fr",
        "hateful, en",
        "harmless, en",
        "hateful",
        "harmless",
    ];
    html += &table(&head, halves);
    let rows = suite.functions.iter().map(|f| {
        let class = if f.accuracy < f.floor { "miss" } else { "" };
        let mut cells = vec![
            escape(&f.function.replace('_', " ")),
            f.lang.clone(),
            if f.hateful { "hateful" } else { "harmless" }.to_owned(),
            f.signals.iter().map(|signal| signal.as_str()).collect::<Vec<_>>().join(", "),
            f.n.to_string(),
            format!("<b class=\"{class}\">{:.2}</b>", f.accuracy),
            format!("{:.2}", f.floor),
        ];
        cells.extend(
            Signal::ALL.map(|signal| f.by_signal.get(&signal).map_or("·".to_owned(), |share| format!("{share:.2}"))),
        );
        cells
    });
    let mut head = vec!["function", "language", "half", "asks for", "cases", "right", "floor"];
    head.extend(Signal::ALL.map(Signal::as_str));
    html + &table(&head, rows)
}

fn identity_swap(evaluation: &Evaluation) -> String {
    let swap = &evaluation.identity_swap;
    let note = "The name of a group in our test passages replaced by another group's: mean absolute change of each score. <code>antisemitism</code> may move, for it is about one group; <code>attack</code> should not.";
    let row = |name: &str, half: &SwapHalf| {
        let mut cells = vec![name.to_owned(), half.n_passages.to_string(), half.n_swaps.to_string()];
        cells.extend(Signal::ALL.map(|signal| number(half.mean_absolute_change.get(&signal).copied())));
        cells.extend(["fr", "en"].map(|lang| number(half.attack_by_language.get(lang).copied())));
        cells.push(format!("{:.1} %", 100.0 * half.share_across_high));
        cells
    };
    let mut head = vec!["passages", "n", "swaps"];
    head.extend(Signal::ALL.map(Signal::as_str));
    head.extend(["attack, fr", "attack, en", "into or out of band high"]);
    let mut html = section("swap", "Identity swap", note);
    html += &table(&head, [row("harmless", &swap.harmless), row("attacks", &swap.attacks)]);
    html +=
        "<h3>Mean change of attack by pair, harmless passages (rows: the group named; columns: the group put in)</h3>";
    html + &swap_matrix(evaluation)
}

fn swap_matrix(evaluation: &Evaluation) -> String {
    let pairs = &evaluation.identity_swap.pairs;
    let mut groups: Vec<&str> = Vec::new();
    for group in pairs.iter().flat_map(|pair| [pair.from, pair.to]) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut html = format!("<div class=\"scroll\"><table><tr><th></th><th>{}</th></tr>", groups.join("</th><th>"));
    for from in groups.iter().filter(|from| pairs.iter().any(|pair| pair.from == **from)) {
        let _ = write!(html, "<tr><td>{from}</td>");
        for to in &groups {
            match pairs.iter().find(|pair| pair.from == *from && pair.to == *to) {
                Some(pair) => html += &heat(pair.mean_absolute_change * 8.0, &format!("{:+.3}", pair.mean_change)),
                None => html += "<td class=\"soft\">·</td>",
            }
        }
        html += "</tr>";
    }
    html + "</table></div>"
}

fn evasion(evaluation: &Evaluation) -> String {
    let note = "Key words (group names, slurs, codes, expulsion, violence …) of all test passages disguised: <code>attack</code> found before and after, and alarms on harmless passages with the same trick.";
    let rows = evaluation.evasion.iter().map(|t| {
        let change = |pair: [f64; 2]| format!("{:.3} → {:.3}", pair[0], pair[1]);
        let lost = |pair: [f64; 2]| {
            let lost = 100.0 * (pair[0] - pair[1]);
            format!("<span class=\"{}\">{lost:+.1}</span>", if lost > 3.0 { "miss" } else { "" })
        };
        vec![
            if t.lang == "all" { t.trick.as_str().to_owned() } else { String::new() },
            t.lang.clone(),
            t.n_attacks.to_string(),
            change(t.recall_low),
            lost(t.recall_low),
            change(t.recall_half),
            lost(t.recall_half),
            t.n_harmless.to_string(),
            change(t.alarms_half),
            change(t.alarms_high),
        ]
    });
    let head = [
        "trick",
        "language",
        "attacks",
        "recall, low threshold",
        "points lost",
        "recall, one half",
        "points lost",
        "harmless",
        "alarms, one half",
        "alarms, band high",
    ];
    section("evasion", "Evasion", note) + &table(&head, rows)
}

fn quiet_sets(evaluation: &Evaluation) -> String {
    let note = "Ordinary text that training has not seen (news, encyclopedia, terms of service). Some hits are true: a news item on a racist attack, a rule on content. Rows to read are named below.";
    let count = |counts: &BTreeMap<Signal, usize>, signal: Signal, n: usize| {
        let count = counts[&signal];
        format!("{count} <span class=\"soft\">({:.2} %)</span>", 100.0 * count as f64 / n as f64)
    };
    let mut rows = Vec::new();
    for set in &evaluation.quiet_sets {
        for (place, (name, counts)) in
            [("band high", &set.n_high), ("score ≥ 0.5", &set.n_half)].into_iter().enumerate()
        {
            let mut cells = vec![
                if place == 0 { format!("{}, {} passages", set.set, set.n) } else { String::new() },
                name.to_owned(),
            ];
            cells.extend(Signal::ALL.map(|signal| count(counts, signal, set.n)));
            cells.push(if place == 0 {
                format!("{}, {} known true", set.n_topic_high, set.n_topic_true)
            } else {
                String::new()
            });
            rows.push(cells);
        }
    }
    let mut head = vec!["set", ""];
    head.extend(Signal::ALL.map(Signal::as_str));
    head.push("any topic high");
    let hits = evaluation.quiet_sets.iter().flat_map(|set| &set.hits);
    let hits = hits.map(|(id, signal, score)| vec![escape(id), signal.as_str().to_owned(), format!("{score:.2}")]);
    section("alarms", "False alarms on ordinary text", note)
        + &table(&head, rows)
        + &format!(
            "<details><summary>Rows in band high</summary>{}</details>",
            table(&["row", "signal", "score"], hits)
        )
}

fn other_labels(evaluation: &Evaluation) -> String {
    let note = "What labels are worth: two readers with the codebook, and the sources' own labels. The sources mean something else by their label than our <code>attack</code>; their figures are for the record.";
    let rows = evaluation.source_labels.iter().map(|(set, f)| {
        vec![
            escape(set),
            f.n.to_string(),
            f.n_positive.to_string(),
            number(f.auc),
            number(Some(f.precision)),
            number(Some(f.recall)),
            number(Some(f.macro_f1)),
        ]
    });
    let mut html = section("labels", "Labels: agreement and the sources' own", note);
    html += "<h3>The sources' own attack labels, development parts</h3>";
    html += &table(&["set", "n", "present", "AUC", "precision", "recall", "macro-F1"], rows);
    let mut rows = Vec::new();
    for agreement in &evaluation.agreement {
        for (place, s) in agreement.signals.iter().enumerate() {
            rows.push(vec![
                if place == 0 { escape(&agreement.title) } else { String::new() },
                s.signal.as_str().to_owned(),
                s.n_settled.to_string(),
                s.n_first.to_string(),
                s.n_second.to_string(),
                s.n_both.to_string(),
                format!("{:.1} %", 100.0 * s.share_equal),
                s.kappa.map_or("–".to_owned(), |kappa| format!("{kappa:.2}")),
            ]);
        }
    }
    html += "<h3>Agreement (Cohen's kappa)</h3>";
    html + &table(&["readings", "signal", "both settled", "first 1", "second 1", "both 1", "equal", "kappa"], rows)
}

/// Draws `learning_curve.json`: `{"figure": name, "points": [{"n_passages": n, "signals": {signal: value}}]}`; other shapes draw nothing.
fn learning_curve(evaluation: &Evaluation) -> Option<String> {
    let curve = evaluation.learning_curve.as_ref()?;
    let figure_name = curve["figure"].as_str().unwrap_or("figure");
    let points = curve["points"].as_array()?;
    let of_signal = |signal: Signal| {
        let point = |point: &serde_json::Value| {
            Some((point["n_passages"].as_f64()?, point["signals"][signal.as_str()].as_f64()?))
        };
        let points: Vec<(f64, f64)> = points.iter().filter_map(point).collect();
        Line { name: signal.as_str().to_owned(), marks: vec![2.5; points.len()], points }
    };
    let drawn = Signal::ALL.map(of_signal);
    let values = || drawn.iter().flat_map(|line| line.points.iter());
    let most = values().map(|point| point.0).fold(0.0, f64::max);
    let lowest = values().map(|point| point.1).fold(1.0, f64::min);
    if most <= 0.0 {
        return None;
    }
    let title = format!("{figure_name} by passages of our own in training");
    let axes = Axes {
        title: &title,
        x: "passages of our own",
        y: figure_name,
        x_range: (0.0, most),
        y_range: ((lowest * 10.0).floor() / 10.0, 1.0),
        diagonal: false,
    };
    let mut html = section("curve", "Learning curve", "What every doubling of our own corpus brings on the test part.");
    html += "<p class=\"legend\">";
    for (number, signal) in Signal::ALL.iter().enumerate() {
        let _ = write!(html, "<span class=\"c{number}\"><i></i>{}</span>", signal.as_str());
    }
    let _ = write!(
        html,
        "</p><div class=\"plots\" style=\"max-width:560px\">{}</div>",
        figure(&escape(&title), &lines(&axes, &drawn))
    );
    Some(html)
}

fn training_data(evaluation: &Evaluation) -> String {
    let rows = evaluation.model.training.iter().map(|source| {
        vec![
            escape(&source.name),
            source.n_passages.to_string(),
            format!("{}", source.weight),
            escape(&source.licence),
            format!("<code>{}</code>", escape(&source.sha256[..12.min(source.sha256.len())])),
        ]
    });
    let note = format!(
        "{} rows were fitted on. The settings of the fit are in <code>report.json</code> and in the model file.",
        evaluation.data.n_training_rows
    );
    section("training", "Training data", &note) + &table(&["source", "rows", "weight", "licence", "sha256"], rows)
}

fn section(id: &str, title: &str, note: &str) -> String {
    format!("<h2 id=\"{id}\">{title}</h2><p class=\"note\">{note}</p>")
}

fn figure(caption: &str, content: &str) -> String {
    format!("<figure><figcaption>{caption}</figcaption>{content}</figure>")
}

fn heat(value: f64, content: &str) -> String {
    format!("<td class=\"heat\" style=\"--v:{:.2}\">{content}</td>", (value * 0.8).clamp(0.0, 0.8))
}

/// Cells are HTML already. A column of words (by its first row) starts at the left, one of numbers ends at the right.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let is_text = |column: usize| {
        let first = rows.first().and_then(|row| row.get(column));
        first.is_some_and(|cell| cell.starts_with(|c: char| c.is_alphabetic()))
    };
    let classes: Vec<&str> =
        (0..head.len()).map(|column| if is_text(column) { " class=\"text\"" } else { "" }).collect();
    let mut html = "<div class=\"scroll\"><table><tr>".to_owned();
    for (title, class) in head.iter().zip(&classes) {
        let _ = write!(html, "<th{class}>{title}</th>");
    }
    html += "</tr>";
    for row in &rows {
        html += "<tr>";
        for (cell, class) in row.iter().zip(&classes) {
            let _ = write!(html, "<td{class}>{cell}</td>");
        }
        html += "</tr>";
    }
    html + "</table></div>"
}

fn number(value: Option<f64>) -> String {
    value.map_or("·".to_owned(), |value| format!("{value:.3}"))
}
