//! The phase that has a best answer: the last linear layer of the head on the features of the whole backbone. Layers of
//! the head before it, where there are any, stay as they are.

use std::time::Instant;

use candle_core::Tensor;

use super::feed::Split;
use super::{Run, logistic, prototypes, ridge};
use crate::cache::{ViewSeed, host_values};
use crate::data::Targets;
use crate::net::frozen::Frozen;
use crate::net::{Layer, Linear, Stage};
use crate::plan::{Method, Solve};
use crate::task::Kind;
use crate::{Error, Result};

/// Samples copied at once.
const BATCH: usize = 256;

/// Puts the rows of `found` that have a label behind `rows`, and their labels behind `classes`.
fn labelled(found: &[f32], width: usize, numbers: &[f32], rows: &mut Vec<f32>, classes: &mut Vec<u32>) {
    for (row, &label) in found.chunks_exact(width).zip(numbers).filter(|(_, label)| **label >= 0.0) {
        rows.extend_from_slice(row);
        classes.push(label as u32);
    }
}

impl Run<'_> {
    /// Executes a phase of kind `solve`.
    pub(super) fn solve(&mut self, phase: &Solve) -> Result<()> {
        let job = self.job;
        let boundary = job.network.stages.len();
        let (before, head) = self.last_linear()?;
        let before = Frozen::compile(&[&before], &self.params, job.device)?;
        let seed = job.seed.named("view");
        let random = (0..phase.views).map(|view| ViewSeed::Random(seed.child(view as u64)));
        let views: Vec<ViewSeed> = [ViewSeed::Plain].into_iter().chain(random).collect();
        let count = views.len();
        let train = Split::open(self, "training", boundary, views, true)?;

        let start = Instant::now();
        let readable = train.readable();
        let (mut rows, mut targets) = (Vec::new(), Targets::default());
        for view in 0..count {
            for chunk in readable.chunks(BATCH) {
                let of_chunk = Targets::of(&*train.dataset, chunk.iter().copied());
                if let Some(features) = train.kept() {
                    let found = host_values(&before.run(&features.batch(view, chunk, job.device)?)?.data)?;
                    match job.task.kind {
                        Kind::Tokens => {
                            labelled(&found, head.inputs, &of_chunk.numbers, &mut rows, &mut targets.classes)
                        }
                        _ => rows.extend(found),
                    }
                }
                if job.task.kind != Kind::Tokens {
                    targets.extend(of_chunk);
                }
            }
        }
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            let name = match job.task.kind.of_rows() {
                true => "the training samples".into(),
                false => train.dataset.name(readable[at / head.inputs % readable.len()]),
            };
            return Err(Error::input(name, "its features are not finite numbers", "check the model's weights"));
        }
        let by_class = self.class_weights(phase.objective.class_weights);
        // All views of a sample together weigh as much as the sample would, so that the penalty keeps its meaning.
        let of_class = |class: usize| by_class.as_ref().map_or(1.0, |w| f64::from(w[class])) / count as f64;
        let weights = || match job.task.kind {
            Kind::Classes | Kind::Tokens => targets.classes.iter().map(|&class| of_class(class as usize)).collect(),
            _ => vec![1.0 / count as f64; targets.classes.len()],
        };
        let (weight, bias) = match phase.method {
            Method::Logistic { l2 } if job.task.kind == Kind::Labels => {
                // One regression for each label. Both of its rows are penalized, and each is half of their difference.
                let (mut weight, mut bias) = (Vec::new(), Vec::new());
                for label in 0..head.outputs {
                    let column = targets.numbers.iter().skip(label).step_by(head.outputs);
                    let has: Vec<u32> = column.map(|&number| u32::from(number > 0.5)).collect();
                    let (rows, width, smoothing) = (&rows[..], head.inputs, phase.objective.label_smoothing);
                    let share = |&has: &u32| if has == 1 { of_class(label) } else { 1.0 / count as f64 };
                    let weights: Vec<f64> = has.iter().map(share).collect();
                    let problem = logistic::Problem {
                        rows,
                        width,
                        targets: &has,
                        classes: 2,
                        weights: &weights,
                        l2: 2.0 * l2,
                        smoothing,
                    };
                    let fit = problem.fit(|_| job.observer.progress("solve", label, head.outputs));
                    weight.extend((0..width).map(|i| fit.weight[width + i] - fit.weight[i]));
                    bias.push(fit.bias[1] - fit.bias[0]);
                }
                (weight, bias)
            }
            Method::Logistic { l2 } => {
                let problem = logistic::Problem {
                    rows: &rows,
                    width: head.inputs,
                    targets: &targets.classes,
                    classes: head.outputs,
                    weights: &weights(),
                    l2,
                    smoothing: phase.objective.label_smoothing,
                };
                let fit = problem.fit(|iteration| job.observer.progress("solve", iteration, 0));
                if !fit.converged {
                    job.observer.message("warning: the logistic regression did not converge; a larger --l2 helps");
                }
                (fit.weight, fit.bias)
            }
            Method::Ridge { l2 } => {
                let (width, outputs) = (head.inputs, head.outputs);
                let truth = match job.task.kind {
                    Kind::Values => targets.numbers,
                    Kind::Classes | Kind::Labels | Kind::Tokens | Kind::Spans | Kind::Matches => {
                        ridge::signs(&targets.classes, outputs)
                    }
                };
                let weights = &weights();
                let fit = ridge::Problem { rows: &rows, width, truth: &truth, outputs, weights }.fit(l2)?;
                job.observer.message(&format!("ridge regression with L2 {:.3e}", fit.penalty));
                (fit.weight, fit.bias)
            }
            Method::Prototypes => {
                let solved = prototypes::head(&rows, head.inputs, &targets.classes, head.outputs);
                solved.map_err(|class| {
                    let subject = format!("class {:?}", job.task[class]);
                    Error::input(
                        subject,
                        "has no readable sample, so it has no mean",
                        "add one, or leave out the class",
                    )
                })?
            }
        };
        self.set_head(&head, &weight, &bias)?;
        self.timings.add("solve", start, readable.len() * count);
        self.conclude()
    }

    /// The layers of the head before its last linear one, and that.
    fn last_linear(&self) -> Result<(Stage, Linear)> {
        let head = &self.job.network.head;
        let used = head.layers.iter().rposition(|layer| !matches!(layer, Layer::Dropout(_)));
        if let Some(at) = used
            && let Layer::Linear(linear) = &head.layers[at]
        {
            return Ok((Stage { name: head.name.clone(), layers: head.layers[..at].to_vec() }, linear.clone()));
        }
        let reason = "only a head that ends in a linear layer can be solved";
        Err(Error::input(format!("the head of {}", self.job.network.name), reason, "use --probe gradient"))
    }

    fn set_head(&mut self, head: &Linear, weight: &[f64], bias: &[f64]) -> Result<()> {
        let single = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let device = self.job.device;
        let name = format!("{}.weight", head.name);
        self.params.set(&name, Tensor::from_vec(single(weight), (head.outputs, head.inputs), device)?)?;
        self.touched.insert(name);
        if head.bias {
            let name = format!("{}.bias", head.name);
            self.params.set(&name, Tensor::from_vec(single(bias), head.outputs, device)?)?;
            self.touched.insert(name);
        }
        Ok(())
    }
}
