//! Grad-CAM (Selvaraju et al. 2017, *Grad-CAM: Visual Explanations from Deep Networks*): where in its input a network finds
//! what speaks for a class.
//!
//! A are the maps that come out of one stage, `[height, width, channels]`, and y the output of the head for a class. The
//! heat is ReLU(Σₖ αₖ Aₖ), αₖ being the mean of ∂y/∂Aₖ over the places (equations 1 and 2).

use candle_core::{Device, Tensor, Var};

use super::forward::{Mode, Pass};
use super::frozen::Frozen;
use super::{Layer, Network, Params, Stage};
use crate::cache::host_values;
use crate::data::Activation;
use crate::device::Place;
use crate::{Error, Result};

/// A network cut in two at the maps that are looked at.
pub struct GradCam {
    stage: String,
    below: Frozen,
    above: Vec<Stage>,
    params: Params,
    device: Device,
}

/// Where a class was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    /// Height and width of the maps.
    pub size: [usize; 2],
    /// Row by row, none negative, in units of the class's output; all zero where nothing speaks for the class.
    pub values: Vec<f32>,
}

/// What was found out about one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The head's outputs.
    pub logits: Vec<f32>,
    /// The one that is explained.
    pub class: usize,
    /// What speaks for it.
    pub heat: Heat,
}

impl GradCam {
    /// Looks at what comes out of the stage called `stage`; without one, of the last before the maps are pooled and made one
    /// row.
    ///
    /// # Errors
    /// When there is no such stage, or the network has no maps.
    pub fn new(network: &Network, params: Params, place: &Place, stage: Option<&str>) -> Result<Self> {
        let flat = |stage: &Stage| stage.layers.iter().any(|layer| matches!(layer, Layer::Flatten));
        let end = network.stages.iter().position(flat).unwrap_or(0);
        let known: Vec<&str> = network.stages[..end].iter().map(|stage| stage.name.as_str()).collect();
        let at = match stage {
            None => end.checked_sub(1),
            Some(name) => known.iter().position(|known| *known == name),
        };
        let at = at.ok_or_else(|| match (stage, known.is_empty()) {
            (Some(name), false) => {
                let remedy = format!("use one of {}", known.join(", "));
                Error::input(format!("--stage {name}"), "no stage of this name makes maps", remedy)
            }
            _ => Error::input(&network.name, "none of its stages makes maps", "use a model that pools maps at its end"),
        })?;
        let below: Vec<&Stage> = network.stages[..=at].iter().collect();
        Ok(Self {
            stage: network.stages[at].name.clone(),
            below: Frozen::compile(&below, &params, place)?,
            above: network.stages[at + 1..].iter().chain([&network.head]).cloned().collect(),
            params,
            device: place.device.clone(),
        })
    }

    /// The stage whose maps are looked at.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// Explains, for each sample of a batch, the class that `choose` picks from the head's outputs.
    ///
    /// # Errors
    /// When the batch is not what the network takes, or the device is out of memory.
    pub fn explain(&self, input: &Activation, choose: impl Fn(&[f32]) -> usize) -> Result<Vec<Explained>> {
        let maps = self.below.run(input)?;
        let &[samples, height, width, channels] = maps.data.dims() else {
            let reason = format!("what comes out of it has the shape {:?}", maps.data.dims());
            return Err(Error::input(format!("--stage {}", self.stage), reason, "choose a stage before it"));
        };
        let leaf = Var::from_tensor(&maps.data)?;
        let start = Activation { data: leaf.as_tensor().clone(), rows: maps.rows.clone() };
        let pass = Pass::new(&self.params, Mode::Eval);
        let output = self.above.iter().try_fold(start, |x, stage| pass.stage(stage, x, false))?.data;
        let logits = host_values(&output)?;
        let outputs = logits.len() / samples.max(1);
        let chosen: Vec<usize> = logits.chunks_exact(outputs.max(1)).map(choose).collect();
        let mut picks = vec![0f32; logits.len()];
        for (sample, &class) in chosen.iter().enumerate() {
            picks[sample * outputs + class] = 1.0;
        }
        // Samples do not see each other: the gradient of the sum holds that of each.
        let sum = (&output * Tensor::from_vec(picks, (samples, outputs), &self.device)?)?.sum_all()?;
        let gradient = match sum.backward()?.get(leaf.as_tensor()) {
            Some(gradient) => host_values(gradient)?,
            None => vec![0.0; samples * height * width * channels],
        };
        let maps = host_values(&maps.data)?;
        let each = height * width * channels;
        let explained = |(sample, class): (usize, usize)| {
            let part = sample * each..(sample + 1) * each;
            let values = heat(&maps[part.clone()], &gradient[part], channels);
            let logits = logits[sample * outputs..(sample + 1) * outputs].to_vec();
            Explained { logits, class, heat: Heat { size: [height, width], values } }
        };
        Ok(chosen.into_iter().enumerate().map(explained).collect())
    }
}

/// ReLU(Σₖ αₖ Aₖ) at each place.
fn heat(maps: &[f32], gradient: &[f32], channels: usize) -> Vec<f32> {
    let mut weights = vec![0f64; channels];
    for row in gradient.chunks_exact(channels) {
        weights.iter_mut().zip(row).for_each(|(weight, &g)| *weight += f64::from(g));
    }
    let places = (maps.len() / channels.max(1)) as f64;
    let at = |row: &[f32]| {
        let sum: f64 = row.iter().zip(&weights).map(|(&a, weight)| f64::from(a) * weight).sum();
        (sum / places).max(0.0) as f32
    };
    maps.chunks_exact(channels).map(at).collect()
}

impl Heat {
    /// The heat at a place, `[down, across]` as shares of the input from its upper left, between the middles of the cells by
    /// bilinear interpolation, as a share of the largest; 0 everywhere where nothing speaks for the class.
    pub fn at(&self, [down, across]: [f64; 2], largest: f32) -> f64 {
        let [height, width] = self.size;
        let cells = |share: f64, count: usize| {
            let place = (share * count as f64 - 0.5).clamp(0.0, count as f64 - 1.0);
            let first = (place as usize).min(count - 1);
            (first, (first + 1).min(count - 1), place - first as f64)
        };
        if largest <= 0.0 {
            return 0.0;
        }
        let ((top, bottom, y), (left, right, x)) = (cells(down, height), cells(across, width));
        let value = |row: usize, column: usize| f64::from(self.values[row * width + column] / largest);
        let between = |row: usize| value(row, left) * (1.0 - x) + value(row, right) * x;
        between(top) * (1.0 - y) + between(bottom) * y
    }

    /// The largest heat.
    pub fn largest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::Rows;
    use crate::net::{Act, Conv, Linear, Window};

    /// A convolution of one pixel to two channels, the mean, and a head of two classes.
    fn network() -> (Network, Params) {
        let stage = |name: &str, layers| Stage { name: name.into(), layers };
        let conv = Conv {
            name: "conv".into(),
            inputs: 1,
            outputs: 2,
            window: Window::square(1, 1),
            groups: 1,
            bias: false,
            update: None,
        };
        let head = Linear { name: "fc".into(), inputs: 2, outputs: 2, bias: false, update: None };
        let network = Network {
            name: "tiny".into(),
            stages: vec![
                stage("maps", vec![Layer::Conv(conv), Layer::Act(Act::Relu)]),
                stage("pool", vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten]),
            ],
            head: stage("head", vec![Layer::Linear(head)]),
            input: vec![2, 2, 1],
        };
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        // The first channel is the input where positive, the second its negative where that is.
        let values = BTreeMap::from([
            ("conv.weight".to_string(), tensor(&[1.0, -1.0], &[2, 1, 1, 1])),
            ("fc.weight".to_string(), tensor(&[2.0, -1.0, -3.0, 4.0], &[2, 2])),
        ]);
        (network, Params::new(values))
    }

    fn explained(input: &[f32], stage: Option<&str>, class: usize) -> Result<Vec<Explained>> {
        let (network, params) = network();
        let cam = GradCam::new(&network, params, &Place::default(), stage)?;
        let data = Tensor::from_slice(input, (input.len() / 4, 2, 2, 1), &Device::Cpu)?;
        cam.explain(&Activation { data, rows: Rows::One }, |_| class)
    }

    #[test]
    fn the_heat_is_that_of_a_computation_by_hand() {
        let of = |class| explained(&[3.0, -1.0, 0.0, -2.0], None, class).unwrap().remove(0);
        // Means 3/4 and 3/4 of the channels; y₀ = 2 · 3/4 - 3/4.
        assert_eq!(of(0).logits, [0.75, 0.75]);
        // α = (2/4, -1/4) for class 0, (-3/4, 4/4) for class 1.
        assert_eq!(of(0).heat, Heat { size: [2, 2], values: vec![1.5, 0.0, 0.0, 0.0] });
        assert_eq!(of(1).heat.values, [0.0, 1.0, 0.0, 2.0]);
    }

    #[test]
    fn samples_of_a_batch_do_not_see_each_other() {
        let (a, b) = ([3.0, -1.0, 0.0, -2.0], [-1.0, 5.0, 2.0, 0.5]);
        let both = explained(&[a, b].concat(), None, 1).unwrap();
        assert_eq!(both, [explained(&a, None, 1).unwrap(), explained(&b, None, 1).unwrap()].concat());
    }

    #[test]
    fn between_cells_the_heat_is_interpolated_and_beyond_their_middles_it_stays() {
        let heat = Heat { size: [1, 2], values: vec![0.0, 4.0] };
        let at = |across| heat.at([0.5, across], heat.largest());
        assert_eq!([at(0.0), at(0.25), at(0.5), at(0.75), at(1.0)], [0.0, 0.0, 0.5, 1.0, 1.0]);
        let nothing = Heat { size: [1, 2], values: vec![0.0; 2] };
        assert_eq!(nothing.at([0.5, 0.5], nothing.largest()), 0.0);
    }

    #[test]
    fn a_stage_without_maps_is_refused_naming_those_that_have_some() {
        let message = explained(&[0.0; 4], Some("pool"), 0).unwrap_err().to_string();
        assert!(message.contains("--stage pool") && message.contains("use one of maps"), "{message}");
    }
}
