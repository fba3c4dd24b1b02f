//! The two objectives of BERT as terms of a loss, and how often they are met.

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use topwork_core::data::{Activation, Sample};
use topwork_core::device::Place;
use topwork_core::net::forward::{Mode, Pass};
use topwork_core::net::{Params, Stage};
use topwork_core::plan::BatchNormMode;
use topwork_core::seed::Seed;
use topwork_core::train::gradient::{Gradient, Objective};
use topwork_core::train::{Seen, Term};
use topwork_core::{Error, Result};
use topwork_kernels::{cross_entropy, linear};

use super::examples::Example;
use crate::models::bert::pretraining::{BIAS, Pretraining, TABLE};

/// Examples behind each other.
pub struct Batch {
    /// Rows `[word, segment]`.
    pub input: Activation,
    /// Rows of hidden tokens, in the batch.
    rows: Vec<u32>,
    /// These tokens.
    words: Vec<u32>,
    /// For each example, 0 where the second text follows the first, else 1.
    breaks: Vec<u32>,
}

impl Batch {
    /// Puts examples together.
    ///
    /// # Errors
    /// When there is none, or the device is out of memory.
    pub fn of(examples: Vec<Example>, device: &Place) -> Result<Self> {
        let (mut rows, mut words, mut breaks, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut samples: Vec<Sample> = Vec::with_capacity(examples.len());
        for example in examples {
            for (row, word) in example.hidden {
                rows.push((start + row) as u32);
                words.push(word);
            }
            breaks.push(u32::from(!example.follows));
            start += example.sample.rows;
            samples.push(example.sample);
        }
        Ok(Self { input: Activation::collate(&samples, device)?, rows, words, breaks })
    }
}

/// `[rows, words]`: what stands behind each of `rows` of the encoder's output, as logits.
fn guesses(heads: &Pretraining, params: &Params, output: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let data = output.index_select(&Tensor::new(rows, output.device())?, 0)?;
    let rows = topwork_core::data::Rows::Each(Arc::new(vec![1; rows.len()]));
    let found = Pass::new(params, Mode::Eval).stage(&heads.predictions, Activation { data, rows }, true)?;
    Ok(linear(&found.data, &params.get(TABLE)?, Some(&params.get(BIAS)?))?)
}

/// `[examples, 2]`: whether the second text follows or does not, as logits.
fn relation(heads: &Pretraining, params: &Params, output: &Activation) -> Result<Tensor> {
    Ok(Pass::new(params, Mode::Eval).stage(&heads.next, output.clone(), true)?.data)
}

fn mean_loss(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    Ok(cross_entropy(logits, &Tensor::new(targets, logits.device())?, None, 0.0)?)
}

/// Masked language modelling: the mean cross-entropy of the hidden tokens.
struct Hidden<'a> {
    heads: &'a Pretraining,
    batch: &'a Batch,
}

impl Term for Hidden<'_> {
    fn observes(&self) -> Vec<usize> {
        vec![self.heads.encoder.len()]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let output = seen.output(self.heads.encoder.len())?;
        mean_loss(&guesses(self.heads, seen.params, output, &self.batch.rows)?, &self.batch.words)
    }
}

/// Next sentence prediction: the mean cross-entropy of the two answers.
struct Next<'a> {
    heads: &'a Pretraining,
}

impl Term for Next<'_> {
    fn observes(&self) -> Vec<usize> {
        vec![self.heads.encoder.len()]
    }

    fn loss(&self, seen: &Seen<'_>) -> Result<Tensor> {
        let missing = || Error::Tensor(candle_core::Error::Msg("no output of the encoder".into()));
        let output = seen.outputs.get(&self.heads.encoder.len()).ok_or_else(missing)?;
        mean_loss(&relation(self.heads, seen.params, output)?, seen.targets)
    }
}

/// Loss and gradient of a batch; dropout is drawn from `seed`.
///
/// # Errors
/// When a parameter is missing, or the device is out of memory.
pub fn gradient(heads: &Pretraining, params: &Params, batch: &Batch, seed: Seed) -> Result<Gradient> {
    let stages: Vec<(&Stage, bool)> = heads.encoder.iter().map(|stage| (stage, true)).collect();
    let terms: Vec<Box<dyn Term + '_>> = vec![Box::new(Hidden { heads, batch }), Box::new(Next { heads })];
    let objective = Objective { stages, terms, reference: None, recompute: false };
    objective.gradient(params, Mode::Train { batch_norm: BatchNormMode::Frozen, seed }, &batch.input, &batch.breaks)
}

/// How well both objectives are met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scores {
    /// Pairs of texts.
    pub pairs: u64,
    /// Hidden tokens.
    pub hidden: u64,
    /// Share of them that were guessed.
    pub masked_accuracy: f64,
    /// Their mean cross-entropy, natural logarithm.
    pub masked_loss: f64,
    /// Share of the pairs of which was said rightly whether one text follows the other.
    pub next_accuracy: f64,
    /// Their mean cross-entropy.
    pub next_loss: f64,
}

/// Rows of logits, and whether the largest is the target.
fn judged(logits: &Tensor, targets: &[u32]) -> Result<(f64, f64)> {
    let loss = f64::from(mean_loss(logits, targets)?.to_scalar::<f32>()?) * targets.len() as f64;
    let best = logits.argmax(candle_core::D::Minus1)?.to_vec1::<u32>()?;
    Ok((best.iter().zip(targets).filter(|(a, b)| a == b).count() as f64, loss))
}

impl Scores {
    /// Scores of batches.
    ///
    /// # Errors
    /// When a batch cannot be made, a parameter is missing, or the device is out of memory.
    pub fn of(heads: &Pretraining, params: &Params, batches: impl Iterator<Item = Result<Batch>>) -> Result<Self> {
        let mut sum = Self::default();
        for batch in batches {
            let batch = batch?;
            let pass = Pass::new(params, Mode::Eval);
            let mut output = batch.input.clone();
            for stage in &heads.encoder {
                output = pass.stage(stage, output, false)?;
            }
            let (right, loss) = judged(&guesses(heads, params, &output.data, &batch.rows)?, &batch.words)?;
            sum.masked_accuracy += right;
            sum.masked_loss += loss;
            sum.hidden += batch.words.len() as u64;
            let (right, loss) = judged(&relation(heads, params, &output)?, &batch.breaks)?;
            sum.next_accuracy += right;
            sum.next_loss += loss;
            sum.pairs += batch.breaks.len() as u64;
        }
        let (hidden, pairs) = (sum.hidden.max(1) as f64, sum.pairs.max(1) as f64);
        Ok(Self {
            masked_accuracy: sum.masked_accuracy / hidden,
            masked_loss: sum.masked_loss / hidden,
            next_accuracy: sum.next_accuracy / pairs,
            next_loss: sum.next_loss / pairs,
            ..sum
        })
    }
}

impl std::fmt::Display for Scores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.4} of {} hidden tokens guessed (loss {:.4}), next sentence {:.4} right of {} pairs (loss {:.4})",
            self.masked_accuracy, self.hidden, self.masked_loss, self.next_accuracy, self.pairs, self.next_loss
        )
    }
}
