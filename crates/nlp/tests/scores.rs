//! Scores of labelled words against seqeval, and of answers against the definition of SQuAD 2.0, on stored cases
//! (`xtask/parity/scores.py`).

use std::collections::BTreeMap;

use serde::Deserialize;
use topwork_core::data::Targets;
use topwork_core::metrics::{Metrics, Scores};
use topwork_core::task::{BEGINS, Kind, Task, UNLABELLED};
use topwork_nlp::spans::scores::{best, normalized};

#[derive(Deserialize)]
struct Stored {
    labelled: Labelled,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Labelled {
    tags: Vec<String>,
    truth: Vec<Vec<String>>,
    said: Vec<Vec<String>>,
    accuracy: f64,
    /// Precision, recall, F1 and number, by type.
    scores: BTreeMap<String, [f64; 4]>,
}

#[derive(Deserialize)]
struct Answer {
    said: String,
    answers: Vec<String>,
    normalized: String,
    exact: f64,
    f1: f64,
}

fn stored() -> Stored {
    serde_json::from_str(include_str!("parity/scores.json")).unwrap()
}

#[test]
fn entities_are_counted_as_seqeval_counts_them() {
    let Labelled { tags, truth, said, accuracy, scores } = stored().labelled;
    let number = |tag: &String| tags.iter().position(|known| known == tag).unwrap();
    let (mut numbers, mut logits) = (Vec::new(), Vec::new());
    for (truth, said) in truth.iter().zip(&said) {
        numbers.push(BEGINS);
        logits.extend(vec![0.0; tags.len()]);
        for (truth, said) in truth.iter().zip(said) {
            // The second token of a word has no label, and what is said of it does not count.
            numbers.extend([number(truth) as f32, UNLABELLED]);
            let row = |said: usize| (0..tags.len()).map(move |tag| if tag == said { 1.0 } else { 0.0 });
            logits.extend(row(number(said)).chain(row(1)));
        }
    }
    let task = Task { kind: Kind::Tokens, outputs: tags.clone() };
    let metrics = Metrics::of(&task, &Targets { classes: vec![0; truth.len()], numbers }, &logits);
    assert_eq!(metrics.samples, truth.len() as u64);
    let Scores::Tokens(found) = &metrics.scores else { panic!() };
    let close = |what: &str, found: f64, expected: f64| {
        assert!((found - expected).abs() < 1e-9, "{what}: {found}, not {expected}")
    };
    close("accuracy", found.token_accuracy, accuracy);
    let [precision, recall, f1, _] = scores["micro avg"];
    let entities = found.entities.unwrap();
    close("precision", entities.precision, precision);
    close("recall", entities.recall, recall);
    close("F1", entities.f1, f1);
    close("macro-F1", found.macro_f1, scores["macro avg"][2]);
    assert_eq!(found.types.len(), 3);
    for of_type in &found.types {
        let [precision, recall, f1, support] = scores[&of_type.name];
        close(&of_type.name, of_type.precision, precision);
        close(&of_type.name, of_type.recall, recall);
        close(&of_type.name, of_type.f1, f1);
        assert_eq!(of_type.samples as f64, support);
    }
}

#[test]
fn answers_are_scored_as_squad_scores_them() {
    let answers = stored().answers;
    assert!(answers.len() > 15);
    for Answer { said, answers, normalized: expected, exact, f1 } in answers {
        assert_eq!(normalized(&said), expected, "{said:?}");
        let found = best(&answers, &said);
        assert!((found.0 - exact).abs() < 1e-9 && (found.1 - f1).abs() < 1e-9, "{said:?} for {answers:?}: {found:?}");
    }
}
