use super::ridge::left_out;
use super::*;
use crate::testing::{centred, uniform};

/// What `xtask/parity/transferability.py` wrote.
const EXPECTED: &str = include_str!("../../tests/fixtures/transferability.json");

/// Inputs of a case of the fixture, by the formula of `xtask/parity/README.md`.
struct Case {
    expected: serde_json::Value,
    targets: Vec<u32>,
    features: Vec<f32>,
    source: Source,
}

fn cases() -> Vec<(String, Case)> {
    let all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(EXPECTED).unwrap();
    all.into_iter().map(|(name, expected)| (name.clone(), case(&name, expected))).collect()
}

fn case(name: &str, expected: serde_json::Value) -> Case {
    let size = |key: &str| expected[key].as_u64().unwrap() as usize;
    let (samples, width, classes, sources) = (size("samples"), size("width"), size("classes"), size("sources"));
    let targets: Vec<u32> =
        (0..samples).map(|i| (uniform(&format!("{name}.label"), i) * classes as f64) as u32).collect();
    let mut features = centred(&format!("{name}.feature"), samples * width, 1.0);
    let means = centred(&format!("{name}.mean"), classes * width, 0.5);
    for (i, &target) in targets.iter().enumerate() {
        for j in 0..width {
            features[i * width + j] += means[target as usize * width + j];
            // The last two features are the same for all samples.
            if j + 2 >= width && size("constant") > 0 {
                features[i * width + j] = (j % 2) as f32;
            }
        }
    }
    let logits: Vec<f32> = centred(&format!("{name}.logit"), samples * sources, 3.0);
    Case { source: Source::of_logits(&logits, sources), expected, targets, features }
}

fn near(actual: f64, expected: &serde_json::Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((actual - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{what}: {actual}, not {expected}");
}

#[test]
fn scores_are_those_of_the_reference_implementations() {
    for (name, case) in cases() {
        let width = case.features.len() / case.targets.len();
        let labelled = Labelled::new(&case.features, width, &case.targets).unwrap();
        let (plain, centred) = (Spectrum::of(&labelled).unwrap(), Spectrum::centred(&labelled).unwrap());
        let expect = |score: &str, actual| near(actual, &case.expected[score], &format!("{name}, {score}"));
        expect("logme", logme(&labelled, &plain));
        expect("h_score", h_score(&labelled, &centred));
        expect("transrate", transrate(&labelled, &centred).unwrap());
        expect("leep", leep(&case.source, &case.targets));
        expect("nce", nce(&case.source.labels(), &case.targets));
        for k in [1, 5] {
            expect(&format!("knn_{k}"), knn(&labelled, k));
        }
        let penalty = case.expected["ridge_penalty"].as_f64().unwrap();
        let predictions = left_out(&labelled, &centred, penalty);
        for (i, row) in case.expected["ridge_left_out"].as_array().unwrap().iter().enumerate() {
            for (c, value) in row.as_array().unwrap().iter().enumerate() {
                near(predictions[(i, c)], value, &format!("{name}, ridge without sample {i}, class {c}"));
            }
        }
        let chosen = ridge(&labelled, &centred);
        expect("ridge_chosen_penalty", chosen.penalty);
        expect("ridge_accuracy", chosen.accuracy);
    }
}

/// Four clusters of `width` numbers, each moved by `distance` in a direction of its own.
fn clusters(samples: usize, width: usize, distance: f32) -> Labelled {
    let mut features = centred("cluster", samples * width, 1.0);
    let targets: Vec<u32> = (0..samples).map(|i| (i % 4) as u32).collect();
    for (row, &target) in features.chunks_exact_mut(width).zip(&targets) {
        row[target as usize] += distance;
    }
    Labelled::new(&features, width, &targets).unwrap()
}

#[test]
fn features_that_tell_the_classes_apart_score_higher_in_every_way() {
    let far = scores(&clusters(60, 8, 4.0), None).unwrap();
    let near = scores(&clusters(60, 8, 0.0), None).unwrap();
    for (score, value) in &far.values {
        assert!(*value > near.values[score], "{score:?}: {value} and {}", near.values[score]);
    }
    assert_eq!(far.values[&Score::Ridge], 1.0);
    assert!(!far.values.contains_key(&Score::Leep) && !far.values.contains_key(&Score::Nce));
}

#[test]
fn features_that_say_nothing_score_finite_numbers() {
    for value in [0.0, 3.0] {
        let targets = [0, 1, 0, 1, 1, 0];
        let labelled = Labelled::new(&[value; 6 * 4], 4, &targets).unwrap();
        let all = scores(&labelled, None).unwrap();
        assert!(all.values.values().all(|v| v.is_finite()), "{all:?}");
        assert!(all.values[&Score::HScore].abs() < 1e-9 && all.values[&Score::TransRate].abs() < 1e-6, "{all:?}");
    }
}

#[test]
fn the_evidence_grows_with_what_the_features_explain_even_if_they_are_wider_than_there_are_samples() {
    let of = |distance| {
        let labelled = clusters(20, 50, distance);
        logme(&labelled, &Spectrum::of(&labelled).unwrap())
    };
    assert!(of(8.0) > of(2.0) && of(2.0) > of(0.0), "{} {} {}", of(8.0), of(2.0), of(0.0));
}

#[test]
fn scores_do_not_depend_on_the_number_of_threads() {
    let labelled = clusters(200, 70, 1.0);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| scores(&labelled, None).unwrap().values)
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_sure_source_head_that_agrees_leaves_nothing_open() {
    let targets = [0, 1, 1, 0];
    let source =
        Source { classes: 3, probabilities: [[0., 1., 0.], [0., 0., 1.], [0., 0., 1.], [0., 1., 0.]].concat() };
    assert_eq!((leep(&source, &targets), nce(&source.labels(), &targets)), (0.0, 0.0));
    let blind = Source { classes: 3, probabilities: [[1., 0., 0.]; 4].concat() };
    assert!((leep(&blind, &targets) + 2f64.ln()).abs() < 1e-12);
    assert!((nce(&blind.labels(), &targets) + 2f64.ln()).abs() < 1e-12);
}

#[test]
fn what_is_not_finite_or_of_one_class_is_refused() {
    let refused = |features: &[f32], targets: &[u32]| Labelled::new(features, 2, targets).err().unwrap().to_string();
    assert!(refused(&[0.0, 1.0, f32::NAN, 0.0], &[0, 1]).contains("sample 2"));
    assert!(refused(&[0.0; 4], &[1, 1]).contains("two classes"));
}
