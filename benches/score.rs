//! How fast the core is: `cargo bench`. Texts are our own; one thread, warm scratch.

use vigie::scoring::Scratch;

const POST: &str = "franchement le maire a raison, on peut pas laisser des gens dormir dehors par ce froid, et ceux qui disent que c'est la \
faute des migrants feraient mieux d'aller distribuer des soupes avec nous le mardi soir derrière la gare";

fn main() {
    divan::main();
}

fn article() -> String {
    [POST; 12].join("\n\n")
}

#[divan::bench]
fn score_a_post_of_200_bytes(bencher: divan::Bencher) {
    let model = vigie::models::builtin().expect("the built-in model is checked by tests");
    let mut scratch = Scratch::default();
    bencher.counter(divan::counter::BytesCount::of_str(POST)).bench_local(|| model.score(POST, None, &mut scratch));
}

#[divan::bench]
fn score_an_article_of_2400_bytes(bencher: divan::Bencher) {
    let model = vigie::models::builtin().expect("the built-in model is checked by tests");
    let (text, mut scratch) = (article(), Scratch::default());
    bencher.counter(divan::counter::BytesCount::of_str(&text)).bench_local(|| model.score(&text, None, &mut scratch));
}

#[divan::bench]
fn explain_a_post(bencher: divan::Bencher) {
    let model = vigie::models::builtin().expect("the built-in model is checked by tests");
    let mut scratch = Scratch::default();
    bencher.bench_local(|| model.explain(POST, None, &mut scratch));
}

#[divan::bench]
fn load_the_model(bencher: divan::Bencher) {
    bencher.bench_local(|| vigie::models::builtin().expect("the built-in model is checked by tests"));
}
