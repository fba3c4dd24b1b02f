//! What can be said about a job before anything is computed.

use std::collections::BTreeSet;

use super::Job;
use crate::net::{Layer, Network, Window};
use crate::plan::{BatchNormMode, Combine, Mix, Mixture, Penalty, Phase, Train};
use crate::task::Kind;
use crate::{Error, Result};

/// Looks whether a job's parts fit together.
pub(super) fn job(job: &Job<'_>) -> Result<()> {
    if job.train.is_empty() {
        return Err(Error::input("the training samples", "there are none", "give at least one per class"));
    }
    for dataset in [&job.train, &job.validation] {
        let fits = |i: usize| match job.task.kind {
            Kind::Classes => (dataset.target(i) as usize) < job.task.len(),
            Kind::Labels | Kind::Values => dataset.numbers(i).len() == job.task.len(),
            Kind::Tokens => dataset.numbers(i).iter().all(|&label| label < job.task.len() as f32),
            Kind::Spans => dataset.numbers(i).len() == 2,
            Kind::Matches => dataset.numbers(i).len() == 1,
        };
        if let Some(i) = (0..dataset.len()).find(|&i| !fits(i)) {
            let reason = format!("its target is none of the {} outputs", job.task.len());
            return Err(Error::input(dataset.name(i), reason, "use the task of the training samples"));
        }
    }
    let seen: BTreeSet<u32> = (0..job.train.len()).map(|i| job.train.target(i)).collect();
    if job.task.is_classes() && seen.len() < 2 {
        let reason = "all are of one class, so there is nothing to tell apart";
        return Err(Error::input("the training samples", reason, "add samples of another class"));
    }
    if job.network.classes() != job.task.len() {
        let reason = format!("has {} outputs for {} {}", job.network.classes(), job.task.len(), job.task.kind);
        return Err(Error::input("the head", reason, "give the network a head of as many outputs as the task has"));
    }
    job.task.check(job.plan)?;
    for (i, phase) in job.plan.phases.iter().enumerate() {
        match phase {
            Phase::Train(train) => batch_norm(job, train)?,
            Phase::Combine(Combine { mixture: Mixture::Earlier { phases, .. }, .. }) if *phases > i => {
                let reason = format!("goes back to phase {phases}, which is not complete before it");
                return Err(Error::input(format!("phase {:?}", phase.name()), reason, "correct the plan"));
            }
            _ => {}
        }
    }
    for train in job.plan.trains() {
        mixes(train)?;
        accumulates(train, job.task.kind)?;
        let scaled = train.scales.iter().find(|scale| **scale != 1.0);
        if scaled.is_some_and(|&scale| train.boundary > 0 || job.train.scaled(scale).is_none()) {
            return Err(unscalable());
        }
    }
    if job.plan.trains().any(|train| train.pairs.is_some() && train.batch_size < 2) {
        return Err(Error::input("--batch-size 1", "a pair takes two samples", "use at least 2"));
    }
    if job.task.kind == Kind::Matches {
        let least = job.plan.trains().map(|train| train.batch_size).chain([job.train.len()]).min().unwrap_or(0);
        if least < 4 {
            let subject =
                if job.train.len() < 4 { "the training samples".into() } else { format!("--batch-size {least}") };
            let reason = "a single couple has no other one that it could be told from";
            return Err(Error::input(subject, reason, "use two couples, which are four texts, or more"));
        }
    }
    if let Some(Phase::Train(Train { name, pairs: Some(_), .. })) = job.plan.phases.last() {
        let reason = "pairs train no head, and no phase after it does";
        return Err(Error::input(format!("phase {name:?}"), reason, "add a phase that solves the head"));
    }
    Ok(())
}

/// The error of views of another size where there is one size only.
pub(super) fn unscalable() -> Error {
    let reason =
        "what is learned from has one size only: the activations of frozen stages, or samples that are no pictures";
    Error::input("--view-scales", reason, "leave it out, or use it where all stages learn on pictures")
}

/// Refuses to mix samples where something else speaks of single ones.
fn mixes(train: &Train) -> Result<()> {
    let Some(Mix { mixup, cutmix, .. }) = train.mix else { return Ok(()) };
    let flag = if mixup > 0.0 { format!("--mixup {mixup}") } else { format!("--cutmix {cutmix}") };
    let labels = train.penalties.iter().any(|penalty| matches!(penalty, Penalty::SourceLabels { .. }));
    let other = match (train.pairs.is_some(), train.teacher.is_some(), labels) {
        (true, ..) => "pairs of samples",
        (_, true, _) => "a teacher",
        (.., true) => "source labels",
        _ => return Ok(()),
    };
    let reason = format!("the phase {:?} learns from {other}, which a mixture of samples does not have", train.name);
    Err(Error::input(flag, reason, "leave it out, or choose another strategy"))
}

/// Refuses to take a batch apart where its samples are compared with each other.
fn accumulates(train: &Train, kind: Kind) -> Result<()> {
    let Some(looks_across) = train.looks_across(kind).filter(|_| train.accumulate > 1) else { return Ok(()) };
    let reason = format!("the phase {:?} learns from {looks_across}, which its parts do not have", train.name);
    Err(Error::input(format!("--accumulate {}", train.accumulate), reason, "leave it out, and lower --batch-size"))
}

/// Batch statistics of one number do not exist: refuses steps that would need them.
fn batch_norm(job: &Job<'_>, train: &Train) -> Result<()> {
    let smallest = if train.batch_size == 1 || job.train.len() == 1 { 1 } else { 2 };
    if smallest > 1 || !needs_two(job.network, train) {
        return Ok(());
    }
    Err(Error::input(
        format!("--batch-size {}", train.batch_size),
        "batch normalization cannot take statistics over a single number",
        "use at least 2 samples a step, or --batch-norm frozen",
    ))
}

/// Whether some batch normalization that learns sees a single position of a sample.
pub(super) fn needs_two(network: &Network, train: &Train) -> bool {
    if train.batch_norm == BatchNormMode::Frozen {
        return false;
    }
    let learning = train.learning_stages(network);
    let mut size = match network.input[..] {
        [height, width, _] => [height, width],
        _ => [1, 1],
    };
    let stages = network.stages.iter().map(|s| (s.name.as_str(), s)).chain([("head", &network.head)]);
    let mut found = false;
    for (name, stage) in stages {
        found |= single(&stage.layers, &mut size) && learning.contains(name);
    }
    found
}

/// Follows height and width through `layers`; whether a batch normalization among them sees 1 × 1.
fn single(layers: &[Layer], size: &mut [usize; 2]) -> bool {
    let mut found = false;
    for layer in layers {
        match layer {
            Layer::Conv(conv) => *size = after(&conv.window, *size),
            Layer::MaxPool(window) => *size = after(window, *size),
            Layer::AdaptiveAvgPool(outputs) => *size = *outputs,
            Layer::Flatten | Layer::PoolRows(_) => *size = [1, 1],
            Layer::BatchNorm(_) => found |= *size == [1, 1],
            Layer::Gate(layers) => {
                let mut inner = *size;
                found |= single(layers, &mut inner);
            }
            Layer::Residual(residual) => {
                let mut other = *size;
                found |= single(&residual.shortcut, &mut other);
                found |= single(&residual.body, size);
                found |= single(&residual.then, size);
            }
            Layer::Repeat(repeat) => (0..repeat.times).for_each(|_| found |= single(&repeat.layers, size)),
            _ => {}
        }
    }
    found
}

fn after(window: &Window, [height, width]: [usize; 2]) -> [usize; 2] {
    let [top, bottom, left, right] = window.pads(height, width);
    let outputs = |size: usize, axis: usize| {
        let reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        size.saturating_sub(reach) / window.stride[axis] + 1
    };
    [outputs(height + top + bottom, 0), outputs(width + left + right, 1)]
}
