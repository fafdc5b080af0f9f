//! The built-in model from outside: promises about explanations, hostile input and abstention.

use std::sync::LazyLock;
use std::time::Instant;

use vigie::models::builtin;
use vigie::scoring::lexicon::word_hash;
use vigie::scoring::network::{DIM, Layer, N_MARKS, N_TAPS, NetworkParts, REACHES, WEIGHT_BITS, n_pooled};
use vigie::scoring::stack::{Gate, N_GATE_COUNTS, N_INPUTS, N_SIZES, Stack};
use vigie::scoring::{Abstained, Artifact, ArtifactError, Model, Scratch, Signal};

/// Makes a text of about so many bytes.
type TextOfLength = fn(usize) -> String;

const TEXTS: [&str; 6] = [
    "Les Juifs contrôlent les banques, tout le monde le sait.",
    "« Les Juifs contrôlent les banques » : encore ce vieux mensonge, il a déjà tué. Ne le laissons pas passer.",
    "Le ministre a dénoncé mardi les messages antisémites publiés sur X et demandé leur retrait.",
    "mon compte a été suspendu pour une blague sur le maire, merci les modos",
    "On fait des crêpes dimanche, qui apporte le cidre ? 🥞",
    "They should all be sent back, these people are animals and everybody knows it.",
];

fn model() -> Model {
    builtin().unwrap()
}

#[test]
fn contributions_add_up_to_the_margin_exactly() {
    let (model, mut scratch) = (model(), Scratch::default());
    for text in TEXTS {
        let (_, explanations) = model.explain(text, None, &mut scratch);
        assert_eq!(explanations.len(), Signal::ALL.len());
        for explanation in explanations {
            let spans: f64 = explanation.spans.iter().map(|span| span.contribution).sum();
            let sum = explanation.bias + spans + explanation.other + explanation.rest;
            assert_eq!(sum, explanation.margin, "{:?} of {text:?}", explanation.signal);
            for span in explanation.spans {
                assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end) && span.start < span.end);
            }
        }
    }
}

/// Seconds that this thread has worked, which waiting for a busy machine does not lengthen; off Linux the clock's.
fn seconds_of_work() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = ran.and_then(|ran| ran.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

/// Checks that ten times the text costs about ten times as long; quadratic work would take a hundred times as long.
fn check_linear(model: &Model, name: &str, text: TextOfLength, n_bytes: usize) {
    let mut scratch = Scratch::default();
    let mut seconds = |text: &str| {
        let start = seconds_of_work();
        model.score(text, Some("fr"), &mut scratch);
        seconds_of_work() - start
    };
    let (short, long) = (text(n_bytes), text(10 * n_bytes));
    assert!(short.len() > n_bytes - 8 && long.len() > 10 * n_bytes - 8, "{name}");
    // The best of three, and not below what a clock and a cache do to short times.
    let limit = 30.0 * seconds(&short).min(seconds(&short)).min(seconds(&short)).max(0.01);
    let tries: Vec<f64> = (0..3).map(|_| seconds(&long)).take_while(|&seconds| seconds >= limit).collect();
    assert!(tries.len() < 3, "{name}: {tries:?} s for ten times what takes {} s", limit / 30.0);
}

#[test]
fn ten_megabytes_of_one_letter_or_of_combining_marks_cost_linear_time() {
    let model = model();
    check_linear(&model, "one letter", |n| "a".repeat(n), 1_000_000);
    check_linear(&model, "combining marks", |n| format!("e{}", "\u{301}".repeat(n / 2)), 1_000_000);
}

#[test]
fn hostile_texts_cost_linear_time() {
    let model = model();
    let kinds: [(&str, TextOfLength); 8] = [
        ("stars", |n| "j*i ".repeat(n / 4)),
        ("spaced letters", |n| "a ".repeat(n / 2)),
        ("hashtags", |n| "#stop".repeat(n / 5)),
        ("invisible", |n| format!("mot{}", "\u{200b}".repeat(n / 3))),
        ("lines", |n| "a\n".repeat(n / 2)),
        ("quotes", |n| "« » \" ".repeat(n / 8)),
        ("sentence ends", |n| ".".repeat(n)),
        ("wide ligatures", |n| "ﷺ".repeat(n / 3)),
    ];
    for (name, text) in kinds {
        check_linear(&model, name, text, 100_000);
    }
}

#[test]
fn a_model_whose_numbers_make_no_probabilities_is_refused() {
    let whole = || Artifact::read(include_bytes!("golden/model.vigie")).unwrap();
    assert!(Model::from_bytes(&whole().write()).is_ok());
    let check = |spoil: fn(&mut Artifact)| {
        let mut artifact = whole();
        artifact.header.canaries.clear();
        spoil(&mut artifact);
        let refused = Model::from_bytes(&artifact.write());
        assert!(
            matches!(refused, Err(ArtifactError::Header(_))),
            "{:?}",
            refused.map(|model| model.sha256().to_owned())
        );
    };
    // Infinity times nothing.
    check(|artifact| artifact.header.unit[0] = 2f64.powi(1000));
    check(|artifact| artifact.header.unit[0] = 0.3);
    check(|artifact| artifact.header.bias[1] = i64::MIN);
    check(|artifact| artifact.header.family_scale[2] = f64::NAN);
    // Infinity less infinity.
    check(|artifact| {
        let head = artifact.header.heads.get_mut("fr").unwrap().get_mut("attack").unwrap();
        (head.document.slope, head.document.per_log2_passages) = (1e308, -1e308);
    });
    check(|artifact| drop(artifact.header.heads.remove("en")));
    check(|artifact| {
        let mut stack = identity_stack();
        stack.weights[0][0] = 1e9;
        artifact.header.stacks.insert("fr".to_owned(), stack);
    });
}

/// Leaves every margin as it is.
fn identity_stack() -> Stack {
    let closed = Gate { bias: 0.0, weights: [[0.0; N_SIZES]; N_GATE_COUNTS] };
    let mut stack = Stack { gate: closed, bias: [0.0; 5], weights: [[0.0; N_INPUTS]; 5], network_weights: None };
    (0..5).for_each(|signal| stack.weights[signal][signal] = 1.0);
    stack
}

#[test]
fn a_stack_weighs_signals_against_each_other_in_its_language_only() {
    let scores = |stack: Option<Stack>, lang: &str| {
        let mut artifact = Artifact::read(include_bytes!("golden/model.vigie")).unwrap();
        artifact.header.canaries.clear();
        artifact.header.stacks = stack.map(|stack| ("fr".to_owned(), stack)).into_iter().collect();
        let model = Model::from_bytes(&artifact.write()).unwrap();
        let scored = model.score(TEXTS[1], Some(lang), &mut Scratch::default());
        scored.signals.unwrap().map(|signal| signal.score)
    };
    let alone = scores(None, "fr");
    assert_eq!(scores(Some(identity_stack()), "fr"), alone);
    let mut stack = identity_stack();
    let (attack, counter_speech) = (Signal::Attack.index(), Signal::CounterSpeech.index());
    stack.bias[counter_speech] = -1.0;
    stack.weights[attack][counter_speech] = -1.0;
    let weighed = scores(Some(stack), "fr");
    assert!(weighed[counter_speech] < alone[counter_speech], "{weighed:?} {alone:?}");
    assert_ne!(weighed[attack], alone[attack]);
    assert_eq!(weighed[Signal::Moderation.index()], alone[Signal::Moderation.index()]);
    assert_eq!(scores(Some(stack), "en"), scores(None, "en"));
}

/// The golden model with a network that finds one word an attack, by itself and by its place after another.
fn with_network(spoil: impl FnOnce(&mut NetworkParts)) -> Vec<u8> {
    let still = Layer { weights: vec![[0; N_TAPS * DIM]; DIM], bias: [0; DIM] };
    let mut parts = NetworkParts {
        words: vec![word_hash("parlement"), word_hash("tarte")],
        vectors: vec![[0; DIM]; 3],
        marks: vec![[0; DIM]; N_MARKS],
        layers: vec![still; REACHES.len()],
        attention: vec![[0; DIM]; 2],
        output: std::array::from_fn(|_| vec![0.0; n_pooled(2)]),
        output_bias: [0.0; 5],
    };
    parts.words.sort_unstable();
    let row = 1 + parts.words.iter().position(|word| *word == word_hash("tarte")).unwrap();
    parts.vectors[row][0] = 64;
    parts.layers[0].weights[0][DIM] = 1 << WEIGHT_BITS;
    parts.output[Signal::Attack.index()][0] = 3.0;
    spoil(&mut parts);
    let mut artifact = Artifact::read(include_bytes!("golden/model.vigie")).unwrap();
    artifact.header.canaries.clear();
    artifact.header.n_network_words = Some(parts.words.len());
    artifact.header.n_attention_heads = parts.attention.len();
    artifact.network = Some(parts);
    artifact.write()
}

#[test]
fn a_network_adds_its_margins_and_says_which_word_made_them() {
    let text = "Ma tante a apporté une tarte au parlement, tout le monde en a repris.";
    let bytes = with_network(|_| {});
    assert_eq!(Artifact::read(&bytes).unwrap().write(), bytes, "what was read is written again");
    let model = Model::from_bytes(&bytes).unwrap();
    let (mut scratch, plain) = (Scratch::default(), Model::from_bytes(include_bytes!("golden/model.vigie")).unwrap());
    let (attack, moderation) = (Signal::Attack.index(), Signal::Moderation.index());
    let margins = model.margins_of_passage(text, &mut scratch);
    let linear = plain.margins_of_passage(text, &mut scratch);
    assert!((margins[attack] - (linear[attack] + 6.0) / 2.0).abs() < 1e-6, "{} {}", margins[attack], linear[attack]);
    assert_eq!(margins[moderation], linear[moderation] / 2.0);
    let (_, explanations) = model.explain(text, Some("fr"), &mut scratch);
    let explanation = explanations.iter().find(|explanation| explanation.signal == Signal::Attack).unwrap();
    let strongest = explanation.spans[0];
    assert!(text[strongest.start..strongest.end].contains("tarte"), "{}", &text[strongest.start..strongest.end]);
    assert!(strongest.contribution > 2.5, "{}", strongest.contribution);
    let sum = explanation.bias
        + explanation.spans.iter().map(|span| span.contribution).sum::<f64>()
        + explanation.other
        + explanation.rest;
    assert_eq!(sum, explanation.margin);
}

#[test]
fn a_network_that_is_cut_or_out_of_range_is_refused() {
    let refused = |bytes: &[u8]| Model::from_bytes(bytes).map(|_| ()).unwrap_err().to_string();
    let large = with_network(|parts| parts.layers[2].weights[1][1] = i16::MAX);
    assert!(refused(&large).contains("out of range"), "{}", refused(&large));
    let not_a_number = with_network(|parts| parts.output[0][0] = f32::NAN);
    assert!(refused(&not_a_number).contains("out of range"));
    let mut artifact = Artifact::read(&with_network(|_| {})).unwrap();
    artifact.header.n_network_words = Some(3);
    assert!(refused(&artifact.write()).contains("cut short"), "{}", refused(&artifact.write()));
    artifact.header.n_network_words = Some(2);
    artifact.header.n_attention_heads = 1;
    assert!(refused(&artifact.write()).contains("cut short"), "{}", refused(&artifact.write()));
    artifact.header.n_attention_heads = 0;
    assert!(refused(&artifact.write()).contains("0 attention heads"), "{}", refused(&artifact.write()));
    artifact.header.n_network_words = None;
    assert!(matches!(Model::from_bytes(&artifact.write()), Err(ArtifactError::Length)));
}

#[test]
fn what_cannot_be_scored_is_said() {
    let (model, mut scratch) = (model(), Scratch::default());
    let mut check = |text: &str, hint: Option<&str>, expected: Option<Abstained>| {
        let scored = model.score(text, hint, &mut scratch);
        assert_eq!(scored.abstained, expected, "{text:?}");
        assert_eq!(scored.signals.is_none(), expected.is_some());
    };
    check("", None, Some(Abstained::Empty));
    check(" \n\t ", None, Some(Abstained::Empty));
    check("ok", None, Some(Abstained::TooShort));
    check("🙂🙂", Some("fr"), Some(Abstained::TooShort));
    check(
        "Guten Morgen, wir treffen uns heute Abend am Bahnhof und gehen dann essen.",
        None,
        Some(Abstained::UnsupportedLanguage),
    );
    check("Добрый вечер, сегодня мы идём в театр.", None, Some(Abstained::UnsupportedLanguage));
    check("Hola, ¿qué tal estáis? Mañana vamos a la playa con los niños.", None, Some(Abstained::UnsupportedLanguage));
    check("Bonsoir à tous, on se retrouve devant la gare ?", Some("de"), Some(Abstained::UnsupportedLanguage));
    check("slt tu fais koi ce soir", None, None);
    check("see you at the station tonight", None, None);
}

#[test]
fn the_same_text_always_gets_the_same_scores() {
    let model = model();
    let (mut fresh, mut used) = (Scratch::default(), Scratch::default());
    for text in TEXTS.iter().rev() {
        model.score(text, None, &mut used);
    }
    for text in TEXTS {
        assert_eq!(model.score(text, None, &mut fresh), model.score(text, None, &mut used));
    }
}
