//! Scores of labelled words against seqeval, and of answers against transformers' port of the script of SQuAD 2.0, on stored cases
//! (`xtask/parity/scores.py`).

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use topwork_core::data::Targets;
use topwork_core::domain::Domain;
use topwork_core::metrics::{Metrics, OfSpans, Scores};
use topwork_core::seed::Seed;
use topwork_core::task::{BEGINS, Kind, Task, UNLABELLED};
use topwork_nlp::spans::scores::{Judged, best, normalized, threshold};
use topwork_nlp::{DataArgs, Pipeline, Sentences, spans};

#[derive(Deserialize)]
struct Stored {
    labelled: Labelled,
    answers: Vec<Answer>,
    /// Texts, and what of them counts.
    normalized: Vec<(String, String)>,
    squad: Squad,
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

/// Questions of a file, what a model says to them, and how that is judged.
#[derive(Deserialize)]
struct Squad {
    file: Value,
    /// The passage, and the character where it starts.
    said: BTreeMap<String, (String, usize)>,
    /// By how much no answer is more probable.
    margins: BTreeMap<String, f64>,
    /// At some thresholds.
    judged: Vec<Script>,
    /// The questions that have an answer, none of which is left without.
    answerable: Alone,
}

/// What the script says, in percent.
#[derive(Deserialize)]
struct Script {
    threshold: f64,
    exact: f64,
    f1: f64,
    #[serde(rename = "HasAns_exact")]
    has_exact: f64,
    #[serde(rename = "HasAns_f1")]
    has_f1: f64,
    #[serde(rename = "NoAns_exact")]
    no_exact: f64,
    #[serde(rename = "NoAns_f1")]
    no_f1: f64,
    best_exact: f64,
    best_exact_thresh: f64,
    best_f1: f64,
    best_f1_thresh: f64,
}

#[derive(Deserialize)]
struct Alone {
    exact: f64,
    f1: f64,
    total: u64,
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

#[test]
fn what_counts_of_hard_texts_is_what_counts_for_the_script() {
    let normalized_texts = stored().normalized;
    assert!(normalized_texts.len() > 60);
    for (text, expected) in normalized_texts {
        assert_eq!(normalized(&text), expected, "{text:?}");
    }
}

/// Asks the questions of files, and answers as was stored.
struct Asking<'s> {
    squad: &'s Squad,
    pipeline: Pipeline,
    folder: tempfile::TempDir,
}

impl Asking<'_> {
    fn written(&self, name: &str, file: &Value) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, file.to_string()).unwrap();
        path
    }

    /// What is said of these questions, as logits of rows; each has one window.
    fn logits(&self, file: &Value) -> Vec<f32> {
        let tokenizer = self.pipeline.tokenizer.whole().unwrap();
        let frame = tokenizer.frame(true).unwrap();
        let mut logits = Vec::new();
        for paragraph in file["data"][0]["paragraphs"].as_array().unwrap() {
            let context = paragraph["context"].as_str().unwrap();
            let pieces = tokenizer.placed(context).unwrap();
            for asked in paragraph["qas"].as_array().unwrap() {
                let name = asked["id"].as_str().unwrap();
                let (text, start) = &self.squad.said[name];
                let start = context.char_indices().nth(*start).unwrap().0;
                let end = start + text.len();
                assert_eq!(&context[start..end], text);
                let question = tokenizer.placed(asked["question"].as_str().unwrap()).unwrap().len();
                let row = frame.start(Some(question));
                let at = |found: Option<usize>| row + found.unwrap_or_else(|| panic!("{text:?} of {context:?}"));
                let first = at(pieces.iter().position(|piece| piece.start == start));
                let last = at(pieces.iter().position(|piece| piece.end == end));
                let mut rows = vec![0.0; 2 * (frame.len() + question + pieces.len())];
                (rows[2 * first], rows[2 * last + 1]) = (4.0, 4.0);
                rows[0] = 8.0 + self.squad.margins[name] as f32;
                logits.extend(rows);
            }
        }
        logits
    }

    fn judged(&self, args: &DataArgs, known: Option<&Task>, file: &Value) -> (u64, OfSpans) {
        let args = DataArgs { task: Some(Kind::Spans), ..args.clone() };
        let data = Sentences::splits(&args, &self.pipeline, known, Seed(0)).unwrap().validation;
        let all: Vec<usize> = (0..data.len()).collect();
        let metrics = data.judge(&all, &self.logits(file)).unwrap();
        assert_eq!(metrics.samples, data.len() as u64, "one window each");
        let Scores::Spans(scores) = metrics.scores else { panic!() };
        (metrics.samples, scores)
    }
}

fn near(what: &str, found: f64, percent: f64) {
    assert!((100.0 * found - percent).abs() < 1e-9, "{what}: {found}, not {percent} %");
}

fn as_the_script(found: &OfSpans, script: &Script) {
    let what = format!("threshold {}", script.threshold);
    near(&format!("{what}, exact"), found.exact_match, script.exact);
    near(&format!("{what}, F1"), found.f1, script.f1);
    near(&format!("{what}, exact with an answer"), found.answerable_exact_match.unwrap(), script.has_exact);
    near(&format!("{what}, F1 with an answer"), found.answerable_f1.unwrap(), script.has_f1);
    near(&format!("{what}, without one"), found.unanswerable_accuracy.unwrap(), script.no_exact);
    assert_eq!(script.no_exact, script.no_f1);
}

#[test]
fn questions_are_judged_as_squad_judges_them() {
    let squad = stored().squad;
    let pipeline = Sentences::open(Path::new(&support::saved("squad", 1)), None).unwrap().pipeline;
    let asking = Asking { squad: &squad, pipeline, folder: tempfile::tempdir().unwrap() };
    let file = asking.written("all.json", &squad.file);
    for script in &squad.judged {
        let args = DataArgs {
            validation: Some(file.clone()),
            no_answer_threshold: Some(script.threshold),
            ..DataArgs::default()
        };
        let (asked, found) = asking.judged(&args, Some(&spans::task()), &squad.file);
        assert_eq!(asked as usize, squad.said.len());
        as_the_script(&found, script);
    }

    // The threshold that suits F1 best lies between the margin that the script names and the next.
    let script = squad.judged.iter().find(|script| script.threshold == script.best_f1_thresh).unwrap();
    let next = |of: f64| squad.margins.values().copied().filter(|&margin| margin > of).fold(f64::MAX, f64::min);
    let args = DataArgs { train: Some(file.clone()), validation: Some(file), ..DataArgs::default() };
    let (_, found) = asking.judged(&args, None, &squad.file);
    as_the_script(&found, script);
    let chosen = found.no_answer_threshold.unwrap();
    assert!(script.best_f1_thresh <= chosen && chosen < next(script.best_f1_thresh), "{chosen}");

    // And so for exact matches; what each reaches, passages for questions without an answer being wrong whatever they say.
    let mut questions: Vec<(Judged, f64)> = Vec::new();
    for paragraph in squad.file["data"][0]["paragraphs"].as_array().unwrap() {
        for asked in paragraph["qas"].as_array().unwrap() {
            let name = asked["id"].as_str().unwrap();
            let texts =
                asked["answers"].as_array().unwrap().iter().map(|answer| answer["text"].as_str().unwrap().into());
            let answers: Vec<String> = texts.collect();
            let (exact, f1) = best(&answers, &squad.said[name].0);
            questions.push((Judged { answerable: !answers.is_empty(), f1, margin: squad.margins[name] }, exact));
        }
    }
    let by = |exact: bool| -> Vec<Judged> {
        questions.iter().map(|(judged, em)| Judged { f1: if exact { *em } else { judged.f1 }, ..*judged }).collect()
    };
    let bests = [(true, script.best_exact, script.best_exact_thresh), (false, script.best_f1, script.best_f1_thresh)];
    for (exact, percent, margin) in bests {
        let judged = by(exact);
        let chosen = threshold(&judged);
        assert!(margin <= chosen && chosen < next(margin), "{chosen}, not from {margin} on");
        let score = |one: &Judged| match (one.margin > chosen, one.answerable) {
            (true, answerable) => f64::from(u8::from(!answerable)),
            (false, true) => one.f1,
            (false, false) => 0.0,
        };
        near("best", judged.iter().map(score).sum::<f64>() / judged.len() as f64, percent);
    }
}

#[test]
fn questions_that_all_have_an_answer_are_judged_as_by_the_first_script() {
    let squad = stored().squad;
    let pipeline = Sentences::open(Path::new(&support::saved("squad", 1)), None).unwrap().pipeline;
    let asking = Asking { squad: &squad, pipeline, folder: tempfile::tempdir().unwrap() };
    let mut answerable = squad.file.clone();
    for paragraph in answerable["data"][0]["paragraphs"].as_array_mut().unwrap() {
        paragraph["qas"].as_array_mut().unwrap().retain(|asked| asked["is_impossible"] == false);
    }
    let file = asking.written("answerable.json", &answerable);
    let args = DataArgs { train: Some(file.clone()), validation: Some(file), ..DataArgs::default() };
    let (asked, found) = asking.judged(&args, None, &answerable);
    assert_eq!(asked, squad.answerable.total);
    near("exact", found.exact_match, squad.answerable.exact);
    near("F1", found.f1, squad.answerable.f1);
    assert_eq!((found.answerable_f1, found.unanswerable_accuracy, found.no_answer_threshold), (None, None, None));
}
