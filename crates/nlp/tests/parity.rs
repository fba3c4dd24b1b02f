//! Against transformers and sentence-transformers: outputs in use and twenty steps of training with weights by a
//! formula, and sentence embeddings of the real all-MiniLM-L6-v2.
//!
//! The rule, the files and how to write them anew are in `xtask/parity/README.md`.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use topwork_core::data::Activation;
use topwork_core::device::Place;
use topwork_core::domain::Domain;
use topwork_core::fit;
use topwork_core::net::forward::{Mode, Pass};
use topwork_core::net::frozen::Frozen;
use topwork_core::net::{Network, Params, Stage};
use topwork_core::observe::Silent;
use topwork_core::plan::{BatchNormMode, Optimizer as Rule};
use topwork_core::seed::Seed;
use topwork_core::testing::{parameter, relative_error};
use topwork_core::train::Optimizer;
use topwork_core::train::gradient::Objective;
use topwork_nlp::models::bert::{BertConfig, Pooling};
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

/// Twenty steps of training.
#[derive(Deserialize)]
struct Training {
    #[serde(flatten)]
    encoder: Encoder,
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
    fn network(&self, pooling: Pooling) -> Network {
        let config = BertConfig {
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
        };
        config.network(pooling, self.classes)
    }

    /// The formula's values for `network`.
    fn params(&self, network: &Network) -> Params {
        let value = |name: &str, shape: &[usize]| {
            Tensor::from_vec(parameter(name, shape, self.gain), shape, &Device::Cpu).unwrap()
        };
        Params::new(network.params().into_iter().map(|p| (p.name.clone(), value(&p.name, &p.shape))).collect())
    }

    /// The sequences at `indices` as a batch. Segment 1, where there is any, is the end of a sequence.
    fn batch(&self, indices: impl Iterator<Item = usize>) -> Activation {
        let sample = |i: usize| Tokens::sample(&self.ids[i], self.segments[i].iter().filter(|&&s| s == 0).count());
        Activation::collate(&indices.map(sample).collect::<Vec<_>>(), &Device::Cpu).unwrap()
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

/// Both forward passes give the stored hidden states, pooler outputs and logits.
fn agrees(stored: &str) {
    let stored: Outputs = serde_json::from_str(stored).unwrap();
    let network = stored.encoder.network(Pooling::Pooler);
    let params = stored.encoder.params(&network);
    let backbone: Vec<&Stage> = network.stages.iter().collect();
    // With the pooler, the last layer computes first rows alone; hidden states of all rows come out without.
    let whole = stored.encoder.network(Pooling::Mean);
    let encoder: Vec<&Stage> = whole.stages[..whole.stages.len() - 1].iter().collect();

    let pass = Pass::new(&params, Mode::Eval);
    let trainable = |stages: &[&Stage], x: &Activation| {
        stages.iter().fold(x.clone(), |x, stage| pass.stage(stage, x, true).unwrap())
    };
    let frozen = |stages: &[&Stage], x: &Activation| {
        Frozen::compile(stages, &params, &Place::default()).unwrap().run(x).unwrap()
    };
    type Run<'a> = &'a dyn Fn(&[&Stage], &Activation) -> Activation;
    for (path, run) in [("pass", &trainable as Run), ("frozen", &frozen as Run)] {
        let batch = stored.encoder.batch(0..stored.encoder.ids.len());
        let (hidden, pooled) = (run(&encoder, &batch), run(&backbone, &batch));
        assert_rows_close(&format!("{path} hidden state"), &hidden, &stored.hidden_states);
        assert_rows_close(&format!("{path} pooler output"), &pooled, &stored.pooler_output);
        assert_rows_close(&format!("{path} logits"), &run(&[&network.head], &pooled), &stored.logits);
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
fn twenty_steps_of_training_follow_transformers() {
    let stored: Training = serde_json::from_str(include_str!("parity/training_bert.json")).unwrap();
    let network = stored.encoder.network(Pooling::Pooler);
    let mut params = stored.encoder.params(&network);
    let learned = network.params();
    params.set_learning(&learned.iter().map(|p| p.name.clone()).collect::<BTreeSet<_>>()).unwrap();
    let AdamW { betas: [beta1, beta2], eps, learning_rate, weight_decay } = stored.optimizer;
    let rule = Rule::AdamW { beta1, beta2, eps, weight_decay };
    let mut optimizer = Optimizer::new(rule, learned.into_iter().map(|p| (p.name, p.role, 1.0)));

    let mut losses = Vec::new();
    for step in 0..stored.losses.len() {
        let chosen = (0..stored.batch).map(|k| (stored.batch * step + k) % stored.targets.len());
        let targets: Vec<u32> = chosen.clone().map(|i| stored.targets[i]).collect();
        let mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(0) };
        let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
        let objective = Objective { recompute: step % 2 == 1, ..Objective::of_classes(stages) };
        let gradient = objective.gradient(&params, mode, &stored.encoder.batch(chosen), &targets).unwrap();
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
