//! Fitting a checkpoint's tensors to a description: what was loaded, what is missing, unexpected or of another shape
//! is reported, never silently skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use candle_core::{DType, Device, Tensor};

use crate::net::{Network, Params};
use crate::seed::Seed;
use crate::{Error, Result};

/// What became of a checkpoint's tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LoadReport {
    /// Parameters taken over.
    pub loaded: usize,
    /// Parameters of the head that start fresh, because the checkpoint has none or others.
    pub fresh: Vec<String>,
    /// Tensors that the description has no use for.
    pub unexpected: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        if !self.fresh.is_empty() {
            write!(f, "; new head: {}", self.fresh.join(", "))?;
        }
        if !self.unexpected.is_empty() {
            write!(f, "; not used: {}", some_of(&self.unexpected))?;
        }
        Ok(())
    }
}

fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 4 { format!("{shown} and {} more", names.len() - 4) } else { shown }
}

/// Whether the head of the checkpoint is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// As it is: the model is going to be used, or to learn more of the same task.
    Keep,
    /// Not at all: a new task.
    Fresh(Seed),
}

/// The parameters of `network` out of a checkpoint's `weights`, in f32 on `device`.
///
/// # Errors
/// When a parameter of the backbone (with [`Head::Keep`]: of the head too) is missing, has another shape or holds NaN
/// or infinity, or parts of the backbone have more parameters than it knows: the checkpoint is of another architecture, or damaged. `subject` names it in the message.
pub fn fit(
    network: &Network,
    weights: &BTreeMap<String, Tensor>,
    head: Head,
    device: &Device,
    subject: &str,
) -> Result<(Params, LoadReport)> {
    let mut report = LoadReport::default();
    let mut values = BTreeMap::new();
    let (mut missing, mut differing, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    let of_head: BTreeSet<String> = network.head.params().into_iter().map(|spec| spec.name).collect();
    for spec in network.params() {
        let made = match head {
            Head::Fresh(seed) if of_head.contains(&spec.name) => Some(seed),
            _ => None,
        };
        match (weights.get(&spec.name), made) {
            (_, Some(seed)) => fresh.push((spec, seed)),
            (Some(found), None) if !found.dtype().is_float() => {
                return Err(Error::input(
                    subject,
                    format!("{} holds whole numbers, as quantized weights do", spec.name),
                    "use a checkpoint of floating-point numbers",
                ));
            }
            (Some(found), None) if found.dims() == spec.shape => {
                let value = found.to_dtype(DType::F32)?.to_device(device)?.contiguous()?;
                // A sum is finite only if all its terms are; one pass, no copy. Running counts may be large but finite.
                let sum = value.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
                if !sum.is_finite() {
                    return Err(Error::input(
                        subject,
                        format!("{} holds NaN or infinity", spec.name),
                        "the file is damaged or its training diverged: use another checkpoint",
                    ));
                }
                report.loaded += 1;
                values.insert(spec.name, value);
            }
            (Some(found), None) => {
                differing.push(format!("{} is {:?}, not {:?}", spec.name, found.dims(), spec.shape));
            }
            (None, None) => missing.push(spec.name),
        }
    }
    if !missing.is_empty() || !differing.is_empty() {
        let mut reasons = Vec::new();
        if !missing.is_empty() {
            reasons.push(format!("{} parameters are missing ({})", missing.len(), some_of(&missing)));
        }
        if !differing.is_empty() {
            reasons.push(format!("{} have another shape ({})", differing.len(), some_of(&differing)));
        }
        return Err(Error::input(
            subject,
            format!("not a checkpoint of {}: {}", network.name, reasons.join("; ")),
            "name the model that the checkpoint belongs to",
        ));
    }
    // Not before the backbone is found to have the sizes that the description tells: one that lies would take all memory.
    for (spec, seed) in fresh {
        report.fresh.push(format!("{} {:?}", spec.name, spec.shape));
        values.insert(spec.name.clone(), spec.initial(seed.named("init"), device)?);
    }
    let known: BTreeSet<String> = network.params().into_iter().map(|spec| spec.name).collect();
    let counter = |name: &str| name.ends_with("num_batches_tracked");
    report.unexpected = weights.keys().filter(|name| !known.contains(*name) && !counter(name)).cloned().collect();
    refuse_surplus(network, weights, &report.unexpected, subject)?;
    Ok((Params::new(values), report))
}

/// Tensors left over inside a part of the backbone (a third block of `layer1`) are those of a larger architecture that
/// only contains this one. Heads of other tasks, and tables of whole numbers, are left over in sound checkpoints too.
fn refuse_surplus(
    network: &Network,
    weights: &BTreeMap<String, Tensor>,
    unexpected: &[String],
    subject: &str,
) -> Result<()> {
    let part = |name: &str| name.split('.').next().unwrap_or_default().to_string();
    let parts: BTreeSet<String> = network.stages.iter().flat_map(|s| s.params()).map(|spec| part(&spec.name)).collect();
    let learned = |name: &&String| weights.get(*name).is_some_and(|tensor| tensor.dtype().is_float());
    let surplus: Vec<String> =
        unexpected.iter().filter(|name| parts.contains(&part(name))).filter(learned).cloned().collect();
    if surplus.is_empty() {
        return Ok(());
    }
    Err(Error::input(
        subject,
        format!(
            "not a checkpoint of {}: it has {} more parameters ({})",
            network.name,
            surplus.len(),
            some_of(&surplus)
        ),
        "name the model that the checkpoint belongs to",
    ))
}

/// All parameters from random numbers.
///
/// # Errors
/// When the device is out of memory.
pub fn random(network: &Network, seed: Seed, device: &Device) -> Result<Params> {
    Params::initial(&network.params(), seed.named("init"), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Layer, Linear, Stage};

    #[test]
    fn a_width_that_no_weights_have_is_refused_before_a_head_of_it_is_made() {
        let layer = |name: &str, inputs, outputs| {
            let linear = Linear { name: name.into(), inputs, outputs, bias: false, update: None };
            Stage { name: name.into(), layers: vec![Layer::Linear(linear)] }
        };
        let wide = 1 << 50;
        let (stages, head) = (vec![layer("body", 4, wide)], layer("head", wide, 2));
        let network = Network { name: "wide".into(), stages, head, input: vec![4] };
        let weights =
            BTreeMap::from([("body.weight".to_string(), Tensor::zeros((8, 4), DType::F32, &Device::Cpu).unwrap())]);
        let error = fit(&network, &weights, Head::Fresh(Seed(0)), &Device::Cpu, "model").unwrap_err().to_string();
        assert!(error.contains("body.weight is [8, 4]"), "{error}");
    }
}
