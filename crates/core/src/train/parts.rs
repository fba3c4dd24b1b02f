//! A batch in parts, computed one after another: what a step takes of memory is what its largest part takes, and the sum of
//! their gradients is the gradient of the whole.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::Run;
use super::feed::Input;
use super::gradient::{Gradient, Objective};
use super::guides::{Guides, Told};
use super::terms::{Portion, Term};
use crate::Result;
use crate::data::{Activation, Rows, Targets};
use crate::net::forward::Mode;
use crate::net::tape::Gradients;
use crate::plan::Train;
use crate::seed::Seed;
use crate::task::Kind;

/// Some samples of a batch, and their summands of its loss.
pub(super) struct Part<'a> {
    activation: Activation,
    classes: Vec<u32>,
    terms: Vec<Box<dyn Term + 'a>>,
}

/// The parts of a batch of `samples`: at most `parts`, none of fewer than `least`, of nearly the same size.
fn sizes(samples: usize, parts: usize, least: usize) -> Vec<usize> {
    let parts = parts.min(samples / least.max(1)).max(1);
    (0..parts).map(|i| samples * (i + 1) / parts - samples * i / parts).collect()
}

/// The parts of `input` that `phase` asks for; none has a single sample where statistics need two.
pub(super) fn of<'a>(
    phase: &Train,
    kind: Kind,
    input: &Input,
    told: Told,
    guides: &'a Guides,
    needs_two: bool,
) -> Result<Vec<Part<'a>>> {
    let sizes = sizes(input.indices.len(), phase.accumulate, if needs_two { 2 } else { 1 });
    let part = |activation, targets: Targets, told| -> Result<Part<'a>> {
        Ok(Part { activation, terms: guides.terms(phase, &targets, told)?, classes: targets.classes })
    };
    if sizes.len() == 1 {
        return Ok(vec![part(input.activation.clone(), input.targets.clone(), told)?]);
    }
    let lengths = match &input.activation.rows {
        Rows::Each(lengths) if kind == Kind::Tokens => Some(lengths.as_slice()),
        _ => None,
    };
    let mut parts = Vec::with_capacity(sizes.len());
    let mut first = 0;
    for size in sizes {
        let range = first..first + size;
        first += size;
        let targets = input.targets.part(range.clone(), lengths);
        parts.push(part(input.activation.part(range.clone())?, targets, told.part(range)?)?);
    }
    share(&mut parts);
    Ok(parts)
}

/// Gives each term of each part its share of the whole.
fn share(parts: &mut [Part<'_>]) {
    let masses = |part: &Part<'_>| part.terms.iter().map(|term| term.mass(&part.classes)).collect::<Vec<_>>();
    let masses: Vec<Vec<f64>> = parts.iter().map(masses).collect();
    for (part, own) in parts.iter_mut().zip(&masses) {
        let terms = std::mem::take(&mut part.terms);
        let portion = |(i, term)| {
            let whole: f64 = masses.iter().map(|masses| masses[i]).sum();
            let share = if whole > 0.0 { own[i] / whole } else { 0.0 };
            Box::new(Portion { term, share }) as Box<dyn Term>
        };
        part.terms = terms.into_iter().enumerate().map(portion).collect();
    }
}

impl Run<'_> {
    /// Loss and gradient of a batch, part by part; running statistics go on from one part to the next, and are given, not set.
    pub(super) fn gradient(
        &mut self,
        phase: &Train,
        parts: Vec<Part<'_>>,
        compares: bool,
        learns: &[bool],
        seed: Seed,
    ) -> Result<Gradient> {
        let job = self.job;
        let (mut loss, mut grads) = (0.0, Some(Gradients::new()));
        let (mut before, mut statistics) = (BTreeMap::new(), BTreeMap::new());
        let last = parts.len() - 1;
        for (i, Part { activation, classes, terms }) in parts.into_iter().enumerate() {
            let mut stages: Vec<_> = self.stages_from(phase.boundary).into_iter().zip(learns.iter().copied()).collect();
            if phase.pairs.is_some() {
                stages.pop();
            }
            let objective =
                Objective { stages, terms, reference: compares.then_some(&self.start), recompute: job.recompute };
            let seed = if i == 0 { seed } else { seed.child(i as u64) };
            let mode = Mode::Train { batch_norm: phase.batch_norm, seed };
            let found = objective.gradient(&self.params, mode, &activation, &classes)?;
            drop(objective);
            loss += found.loss;
            grads = grads.zip(found.grads).map(|(sum, more)| added(sum, more)).transpose()?;
            if grads.is_none() {
                break;
            }
            for (name, value) in found.statistics {
                if i < last {
                    before.entry(name.clone()).or_insert(self.params.get(&name)?);
                    self.params.set(&name, value.detach())?;
                }
                statistics.insert(name, value);
            }
        }
        for (name, value) in before {
            self.params.set(&name, value)?;
        }
        Ok(Gradient { loss, grads, statistics: statistics.into_iter().collect() })
    }
}

/// The sums of gradients.
fn added(mut sum: Gradients, more: Gradients) -> Result<Gradients> {
    for (name, gradient) in more {
        let gradient: Tensor = match sum.remove(&name) {
            Some(other) => topwork_kernels::add(&other, &gradient)?,
            None => gradient,
        };
        sum.insert(name, gradient);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::terms::{CrossEntropy, RowLabels, Seen};
    use super::*;
    use crate::net::Params;

    #[test]
    fn parts_cover_a_batch_in_nearly_equal_sizes() {
        assert_eq!(sizes(10, 4, 1), [2, 3, 2, 3]);
        assert_eq!(sizes(10, 1, 1), [10]);
        assert_eq!(sizes(3, 8, 1), [1, 1, 1]);
        assert_eq!(sizes(5, 4, 2), [2, 3], "none of a single sample");
        assert_eq!(sizes(1, 4, 2), [1]);
    }

    #[test]
    fn losses_of_parts_add_up_to_that_of_the_whole() {
        let logits: Vec<f32> = (0..24).map(|i| (f64::from(i) * 1.7).sin() as f32).collect();
        let data = Tensor::from_vec(logits, (8, 3), &Device::Cpu).unwrap();
        let weights = [0.5f32, 1.0, 4.0];
        // A row without a label; parts of unlike weight.
        let (numbers, classes) = ([0.0f32, -1.0, 1.0, 2.0, 2.0, 2.0, 0.0, 1.0], vec![0u32, 0, 1, 2, 2, 2, 0, 1]);
        let part = |range: std::ops::Range<usize>| {
            let activation = Activation { data: data.narrow(0, range.start, range.len()).unwrap(), rows: Rows::One };
            let of_classes = CrossEntropy {
                output: 0,
                class_weights: Some(&weights),
                label_smoothing: 0.1,
                share: 0.7,
                mixed: None,
            };
            let of_rows = RowLabels::of(0, &numbers[range.clone()], Some(&weights), 0.0);
            let terms: Vec<Box<dyn Term>> = vec![Box::new(of_classes), Box::new(of_rows)];
            Part { activation, classes: classes[range].to_vec(), terms }
        };
        let sum = |parts: &[Part<'_>], i: usize| -> f64 {
            let loss = |part: &Part<'_>| {
                let outputs = BTreeMap::from([(0, part.activation.clone())]);
                let (reference, params) = (BTreeMap::new(), Params::default());
                let seen = Seen { outputs: &outputs, reference: &reference, params: &params, targets: &part.classes };
                f64::from(part.terms[i].loss(&seen).unwrap().to_scalar::<f32>().unwrap())
            };
            parts.iter().map(loss).sum()
        };
        let whole = [part(0..8)];
        let mut parts = [part(0..2), part(2..5), part(5..8)];
        share(&mut parts);
        for i in 0..2 {
            assert!((sum(&whole, i) - sum(&parts, i)).abs() < 1e-6, "{} {}", sum(&whole, i), sum(&parts, i));
        }
    }
}
