//! What the project asks of its models: an evaluation in, every demand with the figure that was reached out.

use serde::Serialize;
use vigie::scoring::Signal;

use crate::evaluate::Evaluation;
use crate::evasion::TrickResult;
use crate::measure::Figures;

/// One demand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goal {
    pub what: String,
    /// `None` when the data for it are not there.
    pub reached: Option<f64>,
    pub bound: f64,
    /// The figure may be at most the bound, not at least.
    pub at_most: bool,
}

impl Goal {
    /// Whether the figure is there and within its bound.
    pub fn is_met(&self) -> bool {
        self.reached.is_some_and(|reached| if self.at_most { reached <= self.bound } else { reached >= self.bound })
    }

    /// "met", "missed" or "no data".
    pub fn verdict(&self) -> &'static str {
        match (self.reached, self.is_met()) {
            (None, _) => "no data",
            (_, true) => "met",
            (_, false) => "missed",
        }
    }

    /// The figure, to three places.
    pub fn shown(&self) -> String {
        self.reached.map_or_else(|| "not measured".to_owned(), |reached| format!("{reached:.3}"))
    }

    /// The bound with its direction.
    pub fn shown_bound(&self) -> String {
        format!("{} {}", if self.at_most { "≤" } else { "≥" }, self.bound)
    }
}

/// All demands on figures, in the order of the report.
pub fn goals(evaluation: &Evaluation) -> Vec<Goal> {
    let mut goals = Vec::new();
    quality(evaluation, &mut goals);
    calibration(evaluation, &mut goals);
    suite(evaluation, &mut goals);
    false_alarms(evaluation, &mut goals);
    robustness(evaluation, &mut goals);
    goals
}

fn at_least(what: String, reached: Option<f64>, bound: f64) -> Goal {
    Goal { what, reached, bound, at_most: false }
}

fn at_most(what: String, reached: Option<f64>, bound: f64) -> Goal {
    Goal { what, reached, bound, at_most: true }
}

/// The figures of a signal on a part of the test data.
fn part<'a>(evaluation: &'a Evaluation, name: &str, signal: Signal) -> Option<&'a Figures> {
    evaluation.slices.iter().find(|slice| slice.kind == "part" && slice.name == name)?.signals.get(&signal)
}

fn quality(evaluation: &Evaluation, goals: &mut Vec<Goal>) {
    for lang in ["fr", "en"] {
        for (signal, bound) in Signal::ALL.into_iter().zip([0.93, 0.90, 0.92, 0.85, 0.82]) {
            let figures = part(evaluation, &format!("corpus {lang}"), signal);
            let what = format!("macro-F1 of {} on our corpus, {lang}", signal.as_str());
            goals.push(at_least(what, figures.map(|f| f.macro_f1), bound));
        }
    }
    let real = [
        (Signal::Antisemitism, 0.96),
        (Signal::HateSpeech, 0.92),
        (Signal::Attack, 0.88),
        (Signal::CounterSpeech, 0.87),
    ];
    for (signal, bound) in real {
        let figures = part(evaluation, "real all", signal);
        let counts = figures.map_or(String::new(), |f| format!(" ({} of {} carry it)", f.n_positive, f.n));
        let what = format!("AUC of {} on real rows{counts}", signal.as_str());
        goals.push(at_least(what, figures.and_then(|f| f.auc), bound));
    }
}

fn calibration(evaluation: &Evaluation, goals: &mut Vec<Goal>) {
    for lang in ["fr", "en"] {
        for signal in Signal::ALL {
            let figures = part(evaluation, &format!("both {lang}"), signal);
            let what = format!("calibration error of {}, {lang}", signal.as_str());
            goals.push(at_most(what, figures.map(|f| f.calibration_error), 0.04));
        }
    }
}

fn suite(evaluation: &Evaluation, goals: &mut Vec<Goal>) {
    let suite = evaluation.suite.as_ref();
    let half = |place: usize| suite?.halves["this model"]["all"][place];
    goals.push(at_least("functional suite, hateful functions".to_owned(), half(0), 0.80));
    goals.push(at_least("functional suite, harmless functions".to_owned(), half(1), 0.85));
    for function in ["quoted_counter_speech", "referring_counter_speech"] {
        let cases = suite.into_iter().flat_map(|suite| &suite.functions).filter(|result| result.function == function);
        let (n, n_right) = cases.fold((0, 0), |(n, right), result| (n + result.n, right + result.n_right));
        let accuracy = (n > 0).then(|| n_right as f64 / n as f64);
        goals.push(at_least(format!("functional suite, {}", function.replace('_', " ")), accuracy, 0.70));
    }
}

fn false_alarms(evaluation: &Evaluation, goals: &mut Vec<Goal>) {
    let sets = &evaluation.quiet_sets;
    let n: usize = sets.iter().map(|set| set.n).sum();
    let n_attack: usize = sets.iter().map(|set| set.n_high[&Signal::Attack]).sum();
    let n_topic: usize = sets.iter().map(|set| set.n_topic_high - set.n_topic_true).sum();
    let share = |count: usize| (n > 0).then(|| count as f64 / n as f64);
    goals.push(at_most("attack in band high on ordinary text".to_owned(), share(n_attack), 0.003));
    goals.push(at_most(
        "a topic in band high on ordinary text, known true ones left out".to_owned(),
        share(n_topic),
        0.02,
    ));
}

fn robustness(evaluation: &Evaluation, goals: &mut Vec<Goal>) {
    let swap = &evaluation.identity_swap.harmless;
    let change = (swap.n_swaps > 0).then(|| swap.mean_absolute_change[&Signal::Attack]);
    goals.push(at_most(
        "mean change of attack when one group replaces another, harmless passages".to_owned(),
        change,
        0.03,
    ));
    for (cut, recall) in
        [("the low threshold", (|t| t.recall_low) as fn(&TrickResult) -> [f64; 2]), ("one half", |t| t.recall_half)]
    {
        let (trick, lost) = worst(evaluation, |result| recall(result)[0] - recall(result)[1]);
        goals.push(at_most(format!("recall of attack at {cut} lost to the worst trick ({trick})"), lost, 0.03));
    }
    let (trick, won) = worst(evaluation, |result| result.alarms_high[1] - result.alarms_high[0]);
    goals.push(at_most(
        format!("false alarms (band high) won by the worst trick on harmless text ({trick})"),
        won,
        0.0,
    ));
}

fn worst(evaluation: &Evaluation, loss: impl Fn(&TrickResult) -> f64) -> (&'static str, Option<f64>) {
    let over_all = evaluation.evasion.iter().filter(|result| result.lang == "all" && result.n_attacks > 0);
    let worst = over_all.max_by(|left, right| loss(left).total_cmp(&loss(right)));
    (worst.map_or("none", |result| result.trick.as_str()), worst.map(loss))
}
