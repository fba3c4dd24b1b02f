//! The model that is pre-trained: an encoder with the two heads of BERT, from random weights or another model's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use serde_json::{Value, json};
use topwork_core::device::Place;
use topwork_core::domain::Opened;
use topwork_core::model::{self, Head};
use topwork_core::net::{Network, Params, Stage};
use topwork_core::observe::Observer;
use topwork_core::seed::Seed;
use topwork_core::{Error, Result, files, memory};

use super::corpus::{self, Reader};
use super::examples::Making;
use super::settings::Settings;
use super::{longest, vocabulary};
use crate::models::bert::pretraining::{BIAS, Pretraining};
use crate::models::bert::{BertConfig, Pooling, family::BERT};
use crate::pipeline::Pipeline;
use crate::tokenizer::TextTokenizer;

/// A model to pre-train.
pub(super) struct Subject {
    pub pipeline: Pipeline,
    pub heads: Pretraining,
    pub params: Params,
    /// Of the heads, those that a checkpoint did not have.
    pub fresh: Vec<String>,
}

impl Subject {
    /// Takes over what a model has; heads that it lacks start fresh.
    pub fn of(model: Opened<Pipeline>, name: &str, seed: Seed, place: &Place) -> Result<Self> {
        let Opened { weights, pipeline, .. } = model;
        let heads = pipeline.config.pretraining().ok_or_else(|| {
            let kind = pipeline.config.family.model_type;
            let reason = format!("it is a model of type {kind}, which is pre-trained in another way");
            Error::input(name, reason, "choose one of type bert")
        })?;
        let encoder = network(&heads);
        let mut params = match weights.is_empty() {
            true => Params::initial(&encoder.params(), seed.named("init"), place)?,
            false => model::fit(&encoder, &weights, Head::Keep, place, name)?.0,
        };
        let mut fresh = Vec::new();
        // Some checkpoints have the bias of the table under the decoder's name alone.
        let beside = format!("{}.bias", pipeline.config.family.guess.decoder);
        let named = |name: &str| weights.get(name).or_else(|| weights.get(&beside).filter(|_| name == BIAS));
        for spec in heads.heads() {
            let value = match named(&spec.name).filter(|found| found.dims() == spec.shape) {
                Some(found) => found.to_dtype(DType::F32)?.to_device(place)?.contiguous()?,
                None => {
                    fresh.push(spec.name.clone());
                    spec.initial(seed.named("init"), place)?
                }
            };
            params.set(&spec.name, value)?;
        }
        Ok(Self { pipeline, heads, params, fresh })
    }

    /// A new encoder with a vocabulary of its own, which is kept in `folder`.
    pub fn fresh(folder: &Path, settings: &Settings, place: &Place, observer: &dyn Observer) -> Result<Self> {
        let lower = !settings.cased;
        let [path, beside, sealed] =
            ["vocab.txt", "tokenizer_config.json", "vocab.digest"].map(|name| folder.join(name));
        let digest = || -> Option<String> {
            let both = [std::fs::read(&path).ok()?, std::fs::read(&beside).ok()?].concat();
            Some(blake3::hash(&both).to_hex().to_string())
        };
        let known = std::fs::read_to_string(&sealed).ok();
        if known.is_none() || known != digest() {
            let (files, bytes) = corpus::files(&settings.corpus)?;
            observer.message("learning a vocabulary");
            let text = vocabulary::learn(&mut Reader::new(files, observer), bytes, settings.vocabulary(), lower)?;
            files::create_dir_all(folder)?;
            let of_tokenizer = json!({
                "tokenizer_class": "BertTokenizer", "do_lower_case": lower, "model_max_length": settings.max_tokens(),
            });
            files::write_atomic_bytes(&beside, format!("{of_tokenizer:#}\n").as_bytes())?;
            files::write_atomic_bytes(&path, text.as_bytes())?;
            files::write_atomic_bytes(&sealed, digest().unwrap_or_default().as_bytes())?;
        }
        let tokenizer = TextTokenizer::open(folder, &BERT, false, settings.max_tokens())?;
        let raw = settings.shape(tokenizer.vocabulary()?);
        let config = BertConfig::parse(&Value::Object(raw.clone()).to_string(), "the network")?;
        let mut kept = BTreeMap::new();
        for name in ["vocab.txt", "tokenizer_config.json"] {
            let path = folder.join(name);
            kept.insert(name.to_string(), std::fs::read(&path).map_err(Error::io(&path))?);
        }
        let pipeline = Pipeline {
            tokenizer,
            config,
            pooling: Pooling::Mean,
            dense: Arc::default(),
            normalize: false,
            stride: None,
            no_answer_threshold: None,
            chosen: false,
            raw: raw.into(),
            files: kept.into(),
        };
        let opened = Opened { network: pipeline.network(2), weights: BTreeMap::new(), pipeline, task: None };
        Self::of(dropping(opened, settings.dropout), "the network", Seed(settings.seed()), place)
    }

    /// Bytes that a step on so many pairs takes beside the model: gradients, what the optimizer keeps, what the encoder leaves
    /// behind on the way forward, and the logits of the hidden tokens.
    pub fn of_step(&self, making: &Making, pairs: usize) -> u64 {
        let parameters: usize = self.heads.params().iter().map(|spec| spec.len()).sum();
        let costs = network(&self.heads).costs(making.longest);
        let pass = memory::of_pass(costs.iter().map(|cost| (cost, true)), false);
        // Logits, what the loss makes of them, and their gradient.
        let guesses = 3 * making.words * ((making.longest as f64 * making.share).ceil() as usize);
        (16 * parameters as u64).saturating_add((pairs as u64).saturating_mul(4 * (pass + guesses) as u64))
    }

    pub fn making(&self, settings: &Settings) -> Result<Making> {
        let marks = self.pipeline.config.family.marks;
        let id = |token: &str| {
            let missing = || Error::input(token, "the model's tokenizer has no such token", "choose another model");
            self.pipeline.tokenizer.id(token).ok_or_else(missing)
        };
        Ok(Making {
            marks: [id(marks.cls)?, id(marks.sep)?, id(marks.mask)?],
            words: self.pipeline.tokenizer.vocabulary()?,
            longest: longest(settings, &self.pipeline.config)?,
            share: settings.mask(),
            whole_words: settings.whole_words,
        })
    }
}

/// The encoder as a network: its stages, and no head.
fn network(heads: &Pretraining) -> Network {
    let empty = Stage { name: "head".into(), layers: vec![] };
    Network { name: "BERT".into(), stages: heads.encoder.clone(), head: empty, input: vec![2] }
}

/// The same with another dropout while it is pre-trained; what is saved says what the model's own is.
pub(super) fn dropping(mut model: Opened<Pipeline>, dropout: Option<f64>) -> Opened<Pipeline> {
    if let Some(p) = dropout {
        let config = &mut model.pipeline.config;
        (config.hidden_dropout_prob, config.attention_probs_dropout_prob) = (p as f32, p as f32);
    }
    model
}
