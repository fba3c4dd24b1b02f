//! Memory: what a step of gradient descent will take, told before the first one, and what there is.

use candle_core::Device;

use crate::data::Dataset;
use crate::net::count::Cost;
use crate::net::{Network, ParamSpec};
use crate::plan::{Optimizer, Plan, Train};
use crate::task::Kind;
use crate::{Error, Result};

/// Bytes of a number.
const NUMBER: u64 = 4;
/// Samples whose lengths are looked at.
const LOOKED_AT: usize = 256;
/// Standard errors that a batch's mean length may be above what was seen.
const MARGIN: f64 = 3.0;
/// Batches that the loader holds beside the one that is learned from.
const AHEAD: usize = 2;
/// Gradients and scratch of the layer that gives most.
const ABOUT_THE_WIDEST: usize = 3;

/// A kernel as its loops want it and partial sums of its gradient.
const ABOUT_A_KERNEL: usize = 3;

/// How a job's steps use memory, as far as its phases do not say.
#[derive(Clone, Copy)]
pub struct Use<'a> {
    /// With what learns in it.
    pub network: &'a Network,
    /// What is learned from.
    pub samples: &'a dyn Dataset,
    /// What is asked of them.
    pub kind: Kind,
    /// See [`crate::train::gradient::Objective::recompute`].
    pub recompute: bool,
}

impl Use<'_> {
    /// Bytes that the steps of `phase` take at most, beside the model and the data: variables, gradients and what the optimizer
    /// keeps, the batches, what the largest part of a batch leaves behind on the way forward, and the weights as the frozen pass
    /// wants them for a validation.
    pub fn of_steps(&self, phase: &Train) -> u64 {
        let network = self.network;
        let learning: usize = phase.learning(network).iter().map(|(spec, ..)| spec.len()).sum();
        let moments = match phase.optimizer {
            Optimizer::AdamW { .. } => 2,
            Optimizer::Sgd { momentum, .. } => usize::from(momentum > 0.0),
        };
        let sums = usize::from(phase.accumulate > 1);
        let copies = 2 + moments + sums + usize::from(phase.average.is_some()) + usize::from(phase.patience.is_some());
        let frozen: usize = network.params().iter().map(ParamSpec::len).sum();
        let scratch = of_scratch(network);

        let part = phase.batch_size.div_ceil(phase.accumulate.max(1)).min(self.samples.len().max(1));
        let rows = self.rows(part);
        let costs = network.costs(rows);
        let names = network.stages.iter().map(|stage| stage.name.as_str()).chain(["head"]);
        let learns = phase.learning_stages(network);
        let stages = costs.iter().zip(names.map(|name| learns.contains(name))).skip(phase.boundary);
        let input = match phase.boundary {
            0 => rows * network.input.iter().product::<usize>(),
            boundary => costs.get(boundary - 1).map_or(0, numbers),
        };
        let batches = input * phase.batch_size * (1 + AHEAD);
        let pass = of_pass(stages, self.recompute);
        NUMBER * (learning * copies + frozen + scratch + batches + part * (input + pass)) as u64
    }

    /// Rows of a sample in a batch of `samples`, at most; 1 where all are one row.
    fn rows(&self, samples: usize) -> usize {
        let every = (self.samples.len() / LOOKED_AT).max(1);
        let lengths: Vec<f64> = (0..self.samples.len()).step_by(every).map(|i| self.samples.rows(i) as f64).collect();
        let count = lengths.len().max(1) as f64;
        let mean = lengths.iter().sum::<f64>() / count;
        let variance = lengths.iter().map(|length| (length - mean).powi(2)).sum::<f64>() / count;
        (mean + MARGIN * (variance / samples.max(1) as f64).sqrt()).ceil().max(1.0) as usize
    }

    /// The steps of `plan` that take most: the phase, and the bytes.
    pub fn most<'p>(&self, plan: &'p Plan) -> Option<(&'p Train, u64)> {
        plan.trains().map(|phase| (phase, self.of_steps(phase))).max_by_key(|(_, bytes)| *bytes)
    }

    /// Looks whether the steps of `plan` have room in `limit` bytes; one that `is_written` stands in a file of its own, which
    /// flags do not change.
    ///
    /// # Errors
    /// When they have not, with settings that would.
    pub fn check(&self, plan: &Plan, is_written: bool, limit: u64) -> Result<()> {
        let Some((phase, bytes)) = self.most(plan).filter(|(_, bytes)| *bytes > limit) else { return Ok(()) };
        let reason = format!("it takes about {}, and there are {}", gigabytes(bytes), gigabytes(limit));
        let fits = |recompute: bool, accumulate: usize| {
            let bytes = Use { recompute, ..*self }.of_steps(&Train { accumulate, ..phase.clone() });
            (bytes <= limit).then_some((recompute, accumulate, bytes))
        };
        // None of a single sample, of which there may be no statistics; and none at all where samples are compared.
        let most = if phase.looks_across(self.kind).is_some() { phase.accumulate } else { phase.batch_size / 2 };
        let doubled = || std::iter::successors(Some(phase.accumulate.max(1)), |parts| Some(2 * parts));
        let parts = || doubled().take_while(|parts| *parts <= most.max(phase.accumulate));
        let ways = || [self.recompute, true].into_iter().flat_map(|recompute| parts().map(move |n| (recompute, n)));
        let others =
            "choose a smaller model or a strategy that learns less (feature-extraction learns no more than a head)";
        let remedy = match ways().find_map(|(recompute, parts)| fits(recompute, parts)) {
            Some((recompute, parts, bytes)) => {
                let (accumulate, batch_size) = match is_written {
                    true => (format!("accumulate = {parts} in the plan"), "its batch_size"),
                    false => (format!("--accumulate {parts}"), "--batch-size"),
                };
                let flags = [
                    (parts > phase.accumulate).then_some(accumulate),
                    (recompute != self.recompute).then(|| "--recompute".to_string()),
                ];
                let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(" ");
                format!(
                    "{flags} takes the same steps with about {}; or lower {batch_size}, or {others}",
                    gigabytes(bytes)
                )
            }
            None => others.into(),
        };
        let subject = format!("a step of {} samples in phase {:?}", phase.batch_size, phase.name);
        Err(Error::input(subject, reason, format!("{remedy}; --memory-limit sets the bound, 0 lifts it")))
    }
}

/// Numbers that are held beside the largest kernel of a convolution while its gradient is computed.
pub fn of_scratch(network: &Network) -> usize {
    let kernels = network.params().into_iter().filter(|spec| spec.shape.len() == 4);
    ABOUT_A_KERNEL * kernels.map(|spec| spec.len()).max().unwrap_or(0)
}

/// Numbers of what comes out of a stage for one sample.
fn numbers(cost: &Cost) -> usize {
    cost.output.iter().product()
}

/// Numbers that a pass forward and back through `stages`, each with whether something learns in it, holds of one sample at most. On
/// the way back a stage is let go before the one in front of it is at its widest.
pub fn of_pass<'a>(stages: impl IntoIterator<Item = (&'a Cost, bool)>, recompute: bool) -> usize {
    let (mut held, mut most, mut tracked) = (0, 0, false);
    for (cost, learns) in stages {
        tracked |= learns;
        let own = if tracked { cost.kept } else { 0 };
        most = most.max(held + own + ABOUT_THE_WIDEST * cost.widest);
        held += match (tracked, recompute) {
            (false, _) => 0,
            (true, true) => numbers(cost),
            (true, false) => own,
        };
    }
    most
}

/// As people read it.
pub fn gigabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        megabytes @ ..10.0 => format!("{megabytes:.1} MB"),
        megabytes @ ..1000.0 => format!("{megabytes:.0} MB"),
        megabytes => format!("{:.1} GB", megabytes / 1e3),
    }
}

/// The largest memory this process has held, in bytes; `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Memory that the machine has, in bytes, where the system tells.
pub fn of_machine() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

/// Memory that can be had now, in bytes, where the system tells: what is free or only keeps files, within what the control group
/// allows.
pub fn free() -> Option<u64> {
    let free = field("/proc/meminfo", "MemAvailable:")?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    let files = || {
        let text = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
        text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.parse::<u64>().ok()
    };
    Some(left.map_or(free, |(most, now)| free.min(most.saturating_sub(now.saturating_sub(files().unwrap_or(0))))))
}

/// The bytes that steps on `device` may take: what `--memory-limit` says, in gigabytes, or what is free; `None` for no bound.
///
/// # Errors
/// When what is asked for is no amount of memory.
pub fn limit(asked: Option<f64>, device: &Device) -> Result<Option<u64>> {
    match asked {
        Some(gb) if !(gb.is_finite() && gb >= 0.0) => {
            let remedy = "give gigabytes, or 0 for no bound";
            Err(Error::input(format!("--memory-limit {gb}"), "it is no amount of memory", remedy))
        }
        Some(gb) => Ok((gb > 0.0).then_some((gb * 1e9) as u64)),
        // What is free on another device is not known here.
        None if device.is_cpu() => Ok(free()),
        None => Ok(None),
    }
}

/// A line of a file of the system's, in bytes.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Penalty, Phase};
    use crate::train::testing::{Clusters, network, plan, train};

    #[test]
    fn parts_take_less_and_what_learns_takes_more() {
        let (network, samples) = (network(), Clusters::new(60, 1));
        let steps = Use { network: &network, samples: &*samples, kind: Kind::Classes, recompute: false };
        let whole = train(0);
        let bytes = steps.of_steps(&whole);
        let parts = steps.of_steps(&Train { accumulate: 4, ..whole.clone() });
        let batch = steps.of_steps(&Train { batch_size: 32, ..whole.clone() });
        assert!(parts < batch && bytes < batch, "{parts} {bytes} {batch}");
        let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        assert!(steps.of_steps(&Train { optimizer: sgd, ..whole.clone() }) < bytes);
        // One copy more.
        let learning: usize = whole.learning(&network).iter().map(|(spec, ..)| spec.len()).sum();
        let average = steps.of_steps(&Train { average: Some(0.9), ..whole.clone() });
        assert_eq!(average - bytes, 4 * learning as u64);
        assert!(steps.of_steps(&Train { penalties: vec![Penalty::StartWeights { weight: 1.0 }], ..train(1) }) < bytes);
    }

    #[test]
    fn a_step_without_room_is_refused_with_flags_that_have_it() {
        let (network, samples) = (network(), Clusters::new(6000, 1));
        let steps = Use { network: &network, samples: &*samples, kind: Kind::Classes, recompute: false };
        let whole = Train { batch_size: 512, ..train(0) };
        let of = |accumulate| steps.of_steps(&Train { accumulate, ..whole.clone() });
        let plan = plan(vec![Phase::Train(whole.clone())]);
        assert!(steps.check(&plan, false, of(1)).is_ok());
        let message = steps.check(&plan, false, of(8)).unwrap_err().to_string();
        assert!(message.contains("--accumulate 8 takes") && message.contains("--memory-limit"), "{message}");
        let message = steps.check(&plan, true, of(8)).unwrap_err().to_string();
        assert!(message.contains("accumulate = 8 in the plan takes") && !message.contains("--batch-size"), "{message}");
        // What was asked for already is where it goes on.
        let asked = crate::train::testing::plan(vec![Phase::Train(Train { accumulate: 4, ..whole.clone() })]);
        let message = steps.check(&asked, false, of(32)).unwrap_err().to_string();
        assert!(message.contains("--accumulate 32 takes"), "{message}");
        // Singular values of a batch have no parts.
        let penalties = vec![Penalty::SingularValues { weight: 1.0, smallest: 1 }];
        let across = crate::train::testing::plan(vec![Phase::Train(Train { penalties, ..whole.clone() })]);
        let message = steps.check(&across, false, of(8)).unwrap_err().to_string();
        assert!(!message.contains("--accumulate") && message.contains("smaller model"), "{message}");
        let message = steps.check(&plan, false, 1000).unwrap_err().to_string();
        assert!(!message.contains("--accumulate") && message.contains("feature-extraction"), "{message}");
    }
}
