//! A text in; normalizing, cutting, walking, scoring and explaining must not panic, must stay on character bounds, and must give an
//! output that is bounded by the length of the text.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vigie::scoring::model::walk_passage;
use vigie::scoring::normalize::NormalizedText;
use vigie::scoring::passages::cut_passages;
use vigie::scoring::{Model, Scratch};

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    Model::from_bytes(include_bytes!("../../tests/it/golden/model.vigie")).expect("the golden model is whole")
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut normalized = NormalizedText::default();
    normalized.fill(&text, MODEL.lexicon());
    // U+FDFA is three bytes and becomes eighteen characters; nothing becomes more a byte.
    assert!(normalized.chars.len() <= 6 * text.len() + 6, "{} from {}", normalized.chars.len(), text.len());
    let mut last = 0;
    for unit in &normalized.chars {
        let (start, end) = (unit.start as usize, unit.end as usize);
        assert!(text.is_char_boundary(start) && text.is_char_boundary(end), "{start}..{end}");
        assert!(last <= start && start <= end && end <= text.len(), "{last} {start}..{end}");
        last = start;
    }

    let mut scratch = Scratch::default();
    let mut last = 0;
    for range in cut_passages(&text) {
        assert!(last <= range.start && range.start < range.end && range.end <= text.len());
        assert!(range.len() <= 4000, "{range:?}");
        last = range.end;
        let passage = &text[range];
        let mut n_features = 0;
        walk_passage(passage, MODEL.lexicon(), &mut scratch, |_| n_features += 1);
        assert!(n_features <= 200 * passage.len() + 5000, "{n_features} features of {} bytes", passage.len());
    }

    for hint in [None, Some("fr")] {
        let (scored, explanations) = MODEL.explain(&text, hint, &mut scratch);
        assert_eq!(scored, MODEL.score(&text, hint, &mut scratch));
        assert_eq!(scored.signals.is_none(), explanations.is_empty());
        for signal in scored.signals.into_iter().flatten() {
            assert!((0.0..=1.0).contains(&signal.score));
        }
        for explanation in explanations {
            let spans: f64 = explanation.spans.iter().map(|span| span.contribution).sum();
            assert_eq!(explanation.bias + spans + explanation.other + explanation.rest, explanation.margin);
            for span in explanation.spans {
                assert!(text.get(span.start..span.end).is_some_and(|words| !words.is_empty()), "{span:?}");
            }
        }
    }
});
