//! The heads that pool no rows against transformers: outputs of every member of the family, and twenty steps of training of two
//! of them and of an encoder without a head, with weights by a formula. How to write the stored outputs anew is in `xtask/parity/README.md`.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;
use topwork_core::data::{Activation, Sample};
use topwork_core::device::Place;
use topwork_core::net::forward::{Mode, Pass};
use topwork_core::net::frozen::Frozen;
use topwork_core::net::tape::Tape;
use topwork_core::net::{ParamSpec, Params, Stage};
use topwork_core::plan::{BatchNormMode, Optimizer as Rule};
use topwork_core::seed::Seed;
use topwork_core::testing::{parameter, relative_error};
use topwork_core::train::gradient::Objective;
use topwork_core::train::{InBatchNegatives, Optimizer, RowLabels, SpanEnds, Term};
use topwork_nlp::models::bert::pretraining::TABLE;
use topwork_nlp::models::bert::{BertConfig, Pooling};
use topwork_nlp::tokenizer::Tokens;

#[derive(Deserialize)]
struct Stored {
    gain: f64,
    labels: usize,
    /// Of the rows of all sequences, those that are stored.
    rows: Vec<usize>,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    config: Value,
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
    tokens: Vec<Vec<f32>>,
    spans: Vec<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
}

/// Without DistilBERT's dropout in front of the head, which its configuration does not speak of.
fn config(stored: &Value) -> BertConfig {
    BertConfig { qa_dropout: 0.0, ..BertConfig::parse(&stored.to_string(), "config.json").unwrap() }
}

fn params(specs: &[ParamSpec], gain: f64) -> Params {
    let value = |p: &ParamSpec| Tensor::from_vec(parameter(&p.name, &p.shape, gain), p.shape.clone(), &Device::Cpu);
    Params::new(specs.iter().map(|p| (p.name.clone(), value(p).unwrap())).collect())
}

fn samples(ids: &[Vec<u32>], segments: &[Vec<u32>]) -> Vec<Sample> {
    let first = |segments: &Vec<u32>| segments.iter().filter(|&&segment| segment == 0).count();
    ids.iter().zip(segments).map(|(ids, segments)| Tokens::sample(ids, first(segments))).collect()
}

/// What comes out of `stages`, by each way of computing it.
fn outputs(stages: &[&Stage], params: &Params, input: &Activation) -> [(&'static str, Tensor); 3] {
    let pass = Pass::new(params, Mode::Eval);
    let by_pass = stages.iter().fold(input.clone(), |x, stage| pass.stage(stage, x, true).unwrap());
    let learning: Vec<_> = stages.iter().map(|&stage| (stage, true)).collect();
    let mut tape = Tape::new(params, Mode::Eval, false);
    let by_tape =
        tape.forward(&learning, input, &BTreeSet::from([stages.len()])).unwrap().remove(&stages.len()).unwrap();
    let by_frozen = Frozen::compile(stages, params, &Place::default()).unwrap().run(input).unwrap();
    [("pass", by_pass.data), ("tape", by_tape.data), ("frozen", by_frozen.data)]
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_error(actual, expected);
    println!("{what}: {error:.1e}");
    assert!(error <= tolerance, "{what} is {error:e} off");
}

fn assert_rows(what: &str, actual: &Tensor, rows: &[usize], expected: &[Vec<f32>]) {
    let actual = actual.to_vec2::<f32>().unwrap();
    for (&row, expected) in rows.iter().zip(expected) {
        let step = actual[row].len().div_ceil(expected.len());
        let some: Vec<f32> = actual[row].iter().copied().step_by(step).collect();
        assert_close(&format!("{what}, row {row}"), &some, expected, 1e-4);
    }
}

#[test]
fn every_member_labels_words_finds_passages_and_guesses_as_in_transformers() {
    let stored: Stored = serde_json::from_str(include_str!("parity/heads.json")).unwrap();
    assert_eq!(stored.members.len(), 9);
    for Member { name, config: text, ids, segments, tokens, spans, hidden } in &stored.members {
        let config = config(text);
        let input = Activation::collate(&samples(ids, segments), &Device::Cpu).unwrap();
        for (pooling, outputs_of, expected) in [(Pooling::Tokens, stored.labels, tokens), (Pooling::Spans, 2, spans)] {
            let network = config.network(pooling, outputs_of);
            let stages: Vec<&Stage> = network.stages.iter().chain([&network.head]).collect();
            let params = params(&network.params(), stored.gain);
            for (way, found) in outputs(&stages, &params, &input) {
                assert_rows(&format!("{name}, {pooling:?}, {way}"), &found, &stored.rows, expected);
            }
        }
        let (encoder, predictions) = (config.encoder(), config.guessing());
        let stages: Vec<&Stage> = encoder.iter().chain([&predictions]).collect();
        let specs: Vec<ParamSpec> = stages.iter().flat_map(|stage| stage.params()).collect();
        let params = params(&specs, stored.gain);
        let words = config.vocab_size;
        let bias =
            Tensor::from_vec(parameter(config.family.guess.bias, &[words], stored.gain), words, &Device::Cpu).unwrap();
        for (way, found) in outputs(&stages, &params, &input) {
            let logits = topwork_kernels::linear(&found, &params.get(TABLE).unwrap(), Some(&bias)).unwrap();
            assert_rows(&format!("{name}, hidden, {way}"), &logits, &stored.rows, hidden);
        }
    }
}

/// Twenty steps of training; a label below 0 is none.
#[derive(Deserialize)]
struct Training {
    config: Value,
    gain: f64,
    classes: usize,
    batch: usize,
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
    targets: Vec<Vec<f32>>,
    optimizer: AdamW,
    losses: Vec<f32>,
    #[serde(rename = "final")]
    whole: BTreeMap<String, Vec<f32>>,
    final_start: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct AdamW {
    betas: [f64; 2],
    eps: f64,
    learning_rate: f64,
    weight_decay: f64,
}

fn follows(stored: &str, pooling: Pooling, term: impl Fn(usize, &[f32]) -> Box<dyn Term>) {
    let stored: Training = serde_json::from_str(stored).unwrap();
    let network = config(&stored.config).network(pooling, stored.classes);
    let mut learned = network.params();
    if stored.classes == 0 {
        learned.retain(|p| !network.head.params().contains(p));
    }
    let samples = samples(&stored.ids, &stored.segments);
    let mut params = params(&learned, stored.gain);
    params.set_learning(&learned.iter().map(|p| p.name.clone()).collect::<BTreeSet<_>>()).unwrap();
    let AdamW { betas: [beta1, beta2], eps, learning_rate, weight_decay } = stored.optimizer;
    let rule = Rule::AdamW { beta1, beta2, eps, weight_decay };
    let mut optimizer = Optimizer::new(rule, learned.into_iter().map(|p| (p.name, p.role, 1.0)));
    for (step, &expected) in stored.losses.iter().enumerate() {
        let chosen: Vec<usize> = (0..stored.batch).map(|k| (stored.batch * step + k) % samples.len()).collect();
        let batch: Vec<Sample> = chosen.iter().map(|&i| samples[i].clone()).collect();
        let numbers: Vec<f32> = chosen.iter().flat_map(|&i| stored.targets[i].clone()).collect();
        let head = Some(&network.head).filter(|_| stored.classes > 0);
        let stages: Vec<_> = network.stages.iter().chain(head).map(|stage| (stage, true)).collect();
        let terms = vec![term(stages.len(), &numbers)];
        let objective = Objective { stages, terms, reference: None, recompute: step % 2 == 1 };
        let mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(0) };
        let input = Activation::collate(&batch, &Device::Cpu).unwrap();
        let found = objective.gradient(&params, mode, &input, &(0..batch.len() as u32).collect::<Vec<_>>()).unwrap();
        assert_close(&format!("loss of step {step}"), &[found.loss as f32], &[expected], 1e-3);
        optimizer.step(&params, &found.grads.unwrap(), learning_rate, 1.0).unwrap();
    }
    for (name, expected) in stored.whole.iter().chain(&stored.final_start) {
        let actual: Vec<f32> = params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_close(name, &actual[..expected.len()], expected, 1e-3);
    }
}

#[test]
fn twenty_steps_of_labelling_words_follow_transformers() {
    let term = |output, numbers: &[f32]| Box::new(RowLabels::of(output, numbers, None, 0.0)) as Box<dyn Term>;
    follows(include_str!("parity/training_tokens.json"), Pooling::Tokens, term);
}

#[test]
fn twenty_steps_of_finding_passages_follow_transformers() {
    let term = |output, numbers: &[f32]| Box::new(SpanEnds::of(output, numbers)) as Box<dyn Term>;
    follows(include_str!("parity/training_spans.json"), Pooling::Spans, term);
}

#[test]
fn twenty_steps_on_couples_follow_transformers() {
    let term = |output, numbers: &[f32]| Box::new(InBatchNegatives::of(output, numbers)) as Box<dyn Term>;
    follows(include_str!("parity/training_matches.json"), Pooling::Mean, term);
}
