//! Against transformers and sentence-transformers: outputs in use and twenty steps of training with weights by a
//! formula, and sentence embeddings of the real all-MiniLM-L6-v2.
//!
//! The rule, the files and how to write them anew are in `xtask/parity/README.md`.

#[path = "parity/modules.rs"]
mod modules;
#[path = "parity/numbers.rs"]
mod numbers;
#[path = "parity/old_names.rs"]
mod old_names;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use topwork_core::data::{Activation, Sample};
use topwork_core::device::Place;
use topwork_core::domain::Domain;
use topwork_core::fit;
use topwork_core::net::forward::{Mode, Pass};
use topwork_core::net::frozen::Frozen;
use topwork_core::net::tape::Tape;
use topwork_core::net::{Network, Params, Stage};
use topwork_core::observe::Silent;
use topwork_core::plan::{BatchNormMode, Optimizer as Rule};
use topwork_core::seed::Seed;
use topwork_core::testing::{parameter, relative_error};
use topwork_core::train::Optimizer;
use topwork_core::train::gradient::Objective;
use topwork_nlp::models::bert::{BertConfig, Pooling};
use topwork_nlp::pretrain::examples::Example;
use topwork_nlp::pretrain::objective::{self, Batch, Scores};
use topwork_nlp::tokenizer::Tokens;
use topwork_nlp::{Embedder, Sentences};

/// A small encoder without dropout.
#[derive(Deserialize)]
struct Encoder {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    vocabulary: usize,
    positions: usize,
    layer_norm_eps: f64,
    gain: f64,
    #[serde(default)]
    classes: usize,
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
}

/// Outputs in evaluation mode.
#[derive(Deserialize)]
struct Outputs {
    #[serde(flatten)]
    encoder: Encoder,
    hidden_states: Vec<Vec<f32>>,
    pooler_output: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
}

/// Members of the family with what they compute.
#[derive(Deserialize)]
struct Members {
    gain: f64,
    classes: usize,
    /// Of the rows of all sequences, those that are stored.
    rows: Vec<usize>,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    config: serde_json::Value,
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
    hidden_states: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
}

/// A member before training.
#[derive(Deserialize)]
struct Described {
    config: serde_json::Value,
    gain: f64,
    classes: usize,
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
}

/// Twenty steps of training.
#[derive(Deserialize)]
struct Training<E> {
    #[serde(flatten)]
    encoder: E,
    batch: usize,
    targets: Vec<u32>,
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

impl Encoder {
    fn config(&self) -> BertConfig {
        BertConfig {
            vocab_size: self.vocabulary,
            hidden_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            intermediate_size: self.intermediate,
            max_position_embeddings: self.positions,
            layer_norm_eps: self.layer_norm_eps,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            ..BertConfig::default()
        }
    }

    fn network(&self, pooling: Pooling) -> Network {
        self.config().network(pooling, self.classes)
    }

    fn start(&self) -> Start {
        Start::new(|pooling| self.network(pooling), self.gain, &self.ids, &self.segments)
    }
}

impl Described {
    fn start(&self) -> Start {
        Start::new(|pooling| member(&self.config, pooling, self.classes), self.gain, &self.ids, &self.segments)
    }
}

/// The classifier that a member's configuration describes.
fn member(config: &serde_json::Value, pooling: Pooling, classes: usize) -> Network {
    BertConfig::parse(&config.to_string(), "config.json").unwrap().network(pooling, classes)
}

/// A network with the formula's values, and sequences.
struct Start {
    network: Network,
    /// The encoder alone: behind it, where only first rows are looked at, the last layer computes those alone.
    encoder: Vec<Stage>,
    params: Params,
    samples: Vec<Sample>,
}

impl Start {
    fn new(network: impl Fn(Pooling) -> Network, gain: f64, ids: &[Vec<u32>], segments: &[Vec<u32>]) -> Self {
        let mut encoder = network(Pooling::Mean).stages;
        encoder.pop();
        let network = network(Pooling::Pooler);
        let value =
            |name: &str, shape: &[usize]| Tensor::from_vec(parameter(name, shape, gain), shape, &Device::Cpu).unwrap();
        let params = network.params().into_iter().map(|p| (p.name.clone(), value(&p.name, &p.shape))).collect();
        // Segment 1, where there is any, is the end of a sequence.
        let sample = |(ids, segments): (&Vec<u32>, &Vec<u32>)| {
            Tokens::sample(ids, segments.iter().filter(|&&segment| segment == 0).count())
        };
        Self { network, encoder, params: Params::new(params), samples: ids.iter().zip(segments).map(sample).collect() }
    }

    /// The sequences at `indices` as a batch.
    fn batch(&self, indices: impl Iterator<Item = usize>) -> Activation {
        Activation::collate(&indices.map(|i| self.samples[i].clone()).collect::<Vec<_>>(), &Device::Cpu).unwrap()
    }

    /// What comes out of the encoder, the pooler and the head, by each way of computing it.
    fn outputs(&self) -> Vec<(&'static str, [Activation; 3])> {
        let (encoder, backbone): (Vec<&Stage>, Vec<&Stage>) =
            (self.encoder.iter().collect(), self.network.stages.iter().collect());
        let pass = Pass::new(&self.params, Mode::Eval);
        let by_pass = |stages: &[&Stage], x: &Activation| {
            stages.iter().fold(x.clone(), |x, stage| pass.stage(stage, x, true).unwrap())
        };
        let by_tape = |stages: &[&Stage], x: &Activation| {
            let stages: Vec<_> = stages.iter().map(|&stage| (stage, true)).collect();
            let mut tape = Tape::new(&self.params, Mode::Eval, false);
            tape.forward(&stages, x, &BTreeSet::from([stages.len()])).unwrap().remove(&stages.len()).unwrap()
        };
        let by_frozen = |stages: &[&Stage], x: &Activation| {
            Frozen::compile(stages, &self.params, &Place::default()).unwrap().run(x).unwrap()
        };
        type Way<'a> = &'a dyn Fn(&[&Stage], &Activation) -> Activation;
        let ways: [(&str, Way); 3] = [("pass", &by_pass), ("tape", &by_tape), ("frozen", &by_frozen)];
        let input = self.batch(0..self.samples.len());
        let run = |(name, way): (&'static str, Way)| {
            let hidden = way(&encoder, &input);
            let pooled = way(&backbone, &input);
            let logits = way(&[&self.network.head], &pooled);
            (name, [hidden, pooled, logits])
        };
        ways.into_iter().map(run).collect()
    }
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_error(actual, expected);
    println!("{what}: {error:.1e}");
    assert!(error <= tolerance, "{what} is {error:e} off");
}

fn assert_rows_close(what: &str, actual: &Activation, expected: &[Vec<f32>]) {
    let actual = actual.data.to_vec2::<f32>().unwrap();
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_close(&format!("{what} {i}"), actual, expected, 1e-4);
    }
}

/// All ways of computing give the stored hidden states, pooler outputs and logits.
fn agrees(stored: &str) {
    let stored: Outputs = serde_json::from_str(stored).unwrap();
    for (way, [hidden, pooled, logits]) in stored.encoder.start().outputs() {
        assert_rows_close(&format!("{way} hidden state"), &hidden, &stored.hidden_states);
        assert_rows_close(&format!("{way} pooler output"), &pooled, &stored.pooler_output);
        assert_rows_close(&format!("{way} logits"), &logits, &stored.logits);
    }
}

#[test]
fn a_small_bert_computes_what_transformers_does() {
    agrees(include_str!("parity/bert_small.json"));
}

#[test]
fn a_medium_bert_computes_what_transformers_does() {
    agrees(include_str!("parity/bert_mid.json"));
}

#[test]
fn every_member_of_the_family_computes_what_transformers_does() {
    let stored: Members = serde_json::from_str(include_str!("parity/members.json")).unwrap();
    for Member { name, config, ids, segments, hidden_states, logits } in &stored.members {
        let start = Start::new(|pooling| member(config, pooling, stored.classes), stored.gain, ids, segments);
        for (way, [hidden, _, found]) in start.outputs() {
            let rows: Vec<u32> = stored.rows.iter().map(|&row| row as u32).collect();
            let data = hidden.data.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
            let hidden = Activation { data, rows: hidden.rows };
            assert_rows_close(&format!("{name}, {way}: hidden state"), &hidden, hidden_states);
            assert_rows_close(&format!("{name}, {way}: logits"), &found, logits);
        }
    }
}

#[test]
fn twenty_steps_of_training_follow_transformers() {
    let stored: Training<Encoder> = serde_json::from_str(include_str!("parity/training_bert.json")).unwrap();
    follows(stored.encoder.start(), &stored);
}

#[test]
fn parameters_that_all_layers_share_train_as_in_transformers() {
    let stored: Training<Described> = serde_json::from_str(include_str!("parity/training_albert.json")).unwrap();
    follows(stored.encoder.start(), &stored);
}

#[test]
fn terms_by_distance_train_as_in_transformers() {
    let stored: Training<Described> = serde_json::from_str(include_str!("parity/training_mpnet.json")).unwrap();
    follows(stored.encoder.start(), &stored);
}

/// Every loss and the stored parts of the final state are those of transformers.
fn follows<E>(start: Start, stored: &Training<E>) {
    let learned = start.network.params();
    let mut params = start.params.clone();
    params.set_learning(&learned.iter().map(|p| p.name.clone()).collect::<BTreeSet<_>>()).unwrap();
    let AdamW { betas: [beta1, beta2], eps, learning_rate, weight_decay } = stored.optimizer;
    let rule = Rule::AdamW { beta1, beta2, eps, weight_decay };
    let mut optimizer = Optimizer::new(rule, learned.into_iter().map(|p| (p.name, p.role, 1.0)));

    let mut losses = Vec::new();
    for step in 0..stored.losses.len() {
        let chosen = (0..stored.batch).map(|k| (stored.batch * step + k) % stored.targets.len());
        let targets: Vec<u32> = chosen.clone().map(|i| stored.targets[i]).collect();
        let mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(0) };
        let stages = start.network.stages.iter().chain([&start.network.head]).map(|stage| (stage, true)).collect();
        let objective = Objective { recompute: step % 2 == 1, ..Objective::of_classes(stages) };
        let gradient = objective.gradient(&params, mode, &start.batch(chosen), &targets).unwrap();
        losses.push(gradient.loss as f32);
        optimizer.step(&params, &gradient.grads.unwrap(), learning_rate, 1.0).unwrap();
    }

    for (step, (&actual, &expected)) in losses.iter().zip(&stored.losses).enumerate() {
        assert_close(&format!("loss of step {step}"), &[actual], &[expected], 1e-3);
    }
    for (name, expected) in stored.whole.iter().chain(&stored.final_start) {
        let actual: Vec<f32> = params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(actual.len() == expected.len(), stored.whole.contains_key(name), "{name}");
        assert_close(name, &actual[..expected.len()], expected, 1e-3);
    }
}

/// Pairs with hidden tokens; a label below 0 is none.
#[derive(Deserialize)]
struct Pretrained {
    #[serde(flatten)]
    encoder: Encoder,
    batch: usize,
    labels: Vec<Vec<i64>>,
    breaks: Vec<u32>,
    optimizer: AdamW,
    losses: Vec<f32>,
    #[serde(rename = "final")]
    whole: BTreeMap<String, Vec<f32>>,
    final_start: BTreeMap<String, Vec<f32>>,
}

impl Pretrained {
    fn batch(&self, chosen: impl Iterator<Item = usize>) -> Batch {
        let example = |i: usize| {
            let first = self.encoder.segments[i].iter().filter(|&&segment| segment == 0).count();
            let hidden = self.labels[i].iter().enumerate().filter(|(_, label)| **label >= 0);
            Example {
                sample: Tokens::sample(&self.encoder.ids[i], first),
                hidden: hidden.map(|(row, label)| (row, *label as u32)).collect(),
                follows: self.breaks[i] == 0,
            }
        };
        Batch::of(chosen.map(example).collect(), &Place::default()).unwrap()
    }
}

#[test]
fn twenty_steps_of_pretraining_follow_transformers() {
    let stored: Pretrained = serde_json::from_str(include_str!("parity/pretraining.json")).unwrap();
    let heads = stored.encoder.config().pretraining().unwrap();
    let specs = heads.params();
    let value = |name: &str, shape: &[usize]| {
        Tensor::from_vec(parameter(name, shape, stored.encoder.gain), shape, &Device::Cpu).unwrap()
    };
    let mut params = Params::new(specs.iter().map(|p| (p.name.clone(), value(&p.name, &p.shape))).collect());
    let scores = Scores::of(&heads, &params, [Ok(stored.batch(0..stored.batch))].into_iter()).unwrap();
    assert_close("loss in use", &[(scores.masked_loss + scores.next_loss) as f32], &stored.losses[..1], 1e-4);
    params.set_learning(&specs.iter().map(|p| p.name.clone()).collect::<BTreeSet<_>>()).unwrap();
    let AdamW { betas: [beta1, beta2], eps, learning_rate, weight_decay } = stored.optimizer;
    let rule = Rule::AdamW { beta1, beta2, eps, weight_decay };
    let mut optimizer = Optimizer::new(rule, specs.into_iter().map(|p| (p.name, p.role, 1.0)));
    for (step, &expected) in stored.losses.iter().enumerate() {
        let batch = stored.batch((0..stored.batch).map(|k| (stored.batch * step + k) % stored.breaks.len()));
        let found = objective::gradient(&heads, &params, &batch, Seed(0)).unwrap();
        let tolerance = if step == 0 { 1e-4 } else { 1e-3 };
        assert_close(&format!("loss of step {step}"), &[found.loss as f32], &[expected], tolerance);
        optimizer.step(&params, &found.grads.unwrap(), learning_rate, 1.0).unwrap();
    }
    for (name, expected) in stored.whole.iter().chain(&stored.final_start) {
        let actual: Vec<f32> = params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(actual.len() == expected.len(), stored.whole.contains_key(name), "{name}");
        assert_close(name, &actual[..expected.len()], expected, 1e-3);
    }
}

/// What sentence-transformers makes of one sentence.
#[derive(Deserialize)]
struct Embedded {
    sentence: String,
    tokens: usize,
    first_ids: Vec<u32>,
    norm: f32,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct MiniLm {
    max_tokens: usize,
    sentences: Vec<Embedded>,
}

#[test]
fn minilm_embeds_as_sentence_transformers_does() {
    let (name, offline) = ("all-minilm-l6-v2", std::env::var_os("TOPWORK_TEST_DOWNLOAD").is_none());
    let folder = match fit::fetch::<Sentences>(name, offline, &Silent) {
        Ok(folder) => folder,
        Err(error) if offline => {
            println!("skipped: {name} is not in the cache, and TOPWORK_TEST_DOWNLOAD is not set: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let stored: MiniLm = serde_json::from_str(include_str!("parity/minilm.json")).unwrap();
    let model = Sentences::open(&folder, None).unwrap();
    assert_eq!(model.pipeline.max_tokens(), stored.max_tokens);
    for Embedded { sentence, tokens, first_ids, .. } in &stored.sentences {
        let ids = model.pipeline.tokenizer.encode(sentence, None).unwrap().ids;
        assert_eq!((ids.len(), &ids[..first_ids.len()]), (*tokens, first_ids.as_slice()), "{sentence:?}");
    }

    // One batch of sentences of very different lengths, before scaling.
    let samples: Vec<_> =
        stored.sentences.iter().map(|s| Sentences::sample(&s.sentence, &model.pipeline).unwrap()).collect();
    let input = Activation::collate(&samples, &Device::Cpu).unwrap();
    let params = Params::new(model.weights.clone());
    let pass = Pass::new(&params, Mode::Eval);
    let pooled = model.network.stages.iter().fold(input, |x, stage| pass.stage(stage, x, true).unwrap());
    let sentences: Vec<&str> = stored.sentences.iter().map(|s| s.sentence.as_str()).collect();
    let embedded = Embedder::new(model, Place::default(), name).unwrap().embed(&sentences).unwrap();

    let pooled = pooled.data.to_vec2::<f32>().unwrap();
    assert_eq!((pooled.len(), embedded.len()), (sentences.len(), sentences.len()));
    for ((pooled, embedded), expected) in pooled.iter().zip(&embedded).zip(&stored.sentences) {
        let what: String = expected.sentence.chars().take(20).collect();
        let (norm, some) = (pooled.iter().map(|v| v * v).sum::<f32>().sqrt(), expected.embedding.len());
        let unit: Vec<f32> = pooled[..some].iter().map(|v| v / norm).collect();
        assert_close(&format!("norm of {what:?}"), &[norm], &[expected.norm], 1e-5);
        assert_close(&format!("pass {what:?}"), &unit, &expected.embedding, 1e-5);
        assert_close(&format!("embedder {what:?}"), &embedded[..some], &expected.embedding, 1e-5);
    }
}
