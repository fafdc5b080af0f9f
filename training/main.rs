//! `vigie-train`: articles and labelled passages in, models and their proof out.
mod build;
mod calibrate;
mod corpus;
mod examples;
mod fit;
mod importer;
mod measure;
mod split;
use vigie::scoring::*;
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let import = importer::import("training/sources.toml".as_ref(), "../shared/datasets".as_ref())?;
    let places = split::split(&import.rows);
    let words = examples::count_words(
        import.rows.iter().filter(|r| r.trainable && r.passage.source != "ud").map(|r| (r.passage.language(), r.passage.text.as_str())),
        4,
    );
    let lexicon = examples::make_lexicon(&std::fs::read_to_string("training/lexicon.toml")?, words)?;
    let mut settings: build::FitSettings = toml::from_str(&std::fs::read_to_string("training/fit.toml")?)?;
    let args: Vec<String> = std::env::args().collect();
    let mut i = 1;
    while i + 1 < args.len() {
        let v: Vec<f64> = args[i + 1].split(',').map(|x| x.parse().unwrap()).collect();
        match args[i].as_str() {
            "l2" => settings.learner.0.l2 = v[0],
            "scale" => settings.features.family_scale = [v[0], v[1], v[2]],
            "df" => settings.features.fewest_passages = [v[0] as usize, v[1] as usize, v[2] as usize],
            _ => panic!(),
        }
        i += 2;
    }
    let t = std::time::Instant::now();
    let built = build::build(&import, &places, lexicon, &settings)?;
    eprintln!("{:?} bytes {} features {}", t.elapsed(), built.bytes.len(), built.artifact.header.n_features);
    std::fs::write("/tmp/w/model.vigie", &built.bytes)?;
    let mut scratch = Scratch::default();
    for (name, origin) in [("own test", importer::Origin::Own), ("real test", importer::Origin::Annotated)] {
        for lang in ["fr", "en"] {
            let rows: Vec<_> = (0..import.rows.len()).filter(|&i| places[i].part == split::Part::Test && import.rows[i].origin == origin && import.rows[i].passage.lang == lang).collect();
            let scored: Vec<_> = rows.iter().map(|&i| built.model.score(&import.rows[i].passage.text, Some(lang), &mut scratch)).collect();
            print!("{name} {lang} {:5} ", rows.len());
            for signal in Signal::ALL {
                let (s, l): (Vec<f64>, Vec<bool>) = rows.iter().zip(&scored).filter_map(|(&i, sc)| Some((sc.signals?[signal.index()].score, import.rows[i].passage.label(signal)?))).unzip();
                let f = measure::figures(&s, &l);
                print!("| {} n+{} auc {:.3} mF1 {:.3} P{:.2} R{:.2} ece {:.3} ", &signal.as_str()[..4], f.n_positive, f.auc.unwrap_or(f64::NAN), f.macro_f1, f.precision, f.recall, f.calibration_error);
            }
            println!();
        }
    }
    for set in ["ntrex", "ud_gsd", "ota_policies"] {
        let mut high = [0; 5]; let mut n = 0;
        for r in import.rows.iter().filter(|r| r.passage.source == set) {
            let sc = built.model.score(&r.passage.text, Some(&r.passage.lang), &mut scratch);
            if let Some(s) = sc.signals { n += 1; for k in 0..5 { high[k] += (s[k].band == Band::High) as usize; } }
        }
        println!("{set} {n} high {high:?}");
    }
    for set in ["ftr", "isca2023", "omdena_hand"] {
        let (s, l): (Vec<f64>, Vec<bool>) = import.rows.iter().filter(|r| r.passage.source == set && r.passage.split == "dev").filter_map(|r| Some((built.model.score(&r.passage.text, Some(&r.passage.lang), &mut scratch).signals?[3].score, *r.source_labels.get("attack")? == 1))).unzip();
        println!("{set} dev attack by source {:?} of {}", measure::figures(&s, &l).auc, s.len());
    }
    println!("{:?}", built.artifact.header.heads["fr"].iter().map(|(k, h)| (k, h.thresholds.low, h.thresholds.high)).collect::<Vec<_>>());
    Ok(())
}
