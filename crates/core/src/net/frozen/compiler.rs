//! Layers to fused steps: batch normalization folded into the convolution before it, activations drawn into the
//! operation before them, linear layers with one input joined.

use topwork_kernels::frozen::{self as k, Precision};
use topwork_kernels::{Act, ConvSpec};

use super::step::Step;
use crate::net::update::Weighted;
use crate::net::{Asks, BatchNorm, Conv, Layer, Linear, Params, Window};
use crate::{Error, Result};

pub(super) struct Compiler<'a> {
    pub(super) params: &'a Params,
    pub(super) precision: Precision,
}

impl Compiler<'_> {
    fn values(&self, prefix: &str, name: &str) -> Result<Vec<f32>> {
        Ok(self.params.get(&format!("{prefix}.{name}"))?.flatten_all()?.to_vec1::<f32>()?)
    }

    pub(super) fn sequence(&self, layers: &[Layer]) -> Result<Vec<Step>> {
        let layers: Vec<&Layer> = layers.iter().filter(|layer| !matches!(layer, Layer::Dropout(_))).collect();
        let mut steps = Vec::new();
        let mut rest = layers.as_slice();
        while let Some((&layer, after)) = rest.split_first() {
            rest = after;
            steps.push(match layer {
                Layer::Conv(conv) => {
                    let norm = match rest.first() {
                        Some(Layer::BatchNorm(norm)) => {
                            rest = &rest[1..];
                            Some(self.scale_shift(norm)?)
                        }
                        _ => None,
                    };
                    let act = following_act(&mut rest);
                    self.conv(conv, norm, act)?
                }
                Layer::Linear(linear) => {
                    Step::Linear { linear: self.linear(&[linear])?, act: following_act(&mut rest) }
                }
                // By itself it is a depthwise convolution of one tap.
                Layer::BatchNorm(norm) => {
                    let (scale, shift) = self.scale_shift(norm)?;
                    let window = Window::square(1, 1);
                    let spec = ConvSpec { stride: [1; 2], pads: [0; 4], dilation: [1; 2], groups: norm.width };
                    let conv =
                        k::PackedConv::new(&scale, Some(&shift), norm.width, norm.width, [1; 2], &spec, self.precision);
                    Step::Conv { conv, window, act: following_act(&mut rest) }
                }
                Layer::LayerNorm(norm) => Step::LayerNorm {
                    scale: self.values(&norm.name, "weight")?,
                    shift: self.values(&norm.name, "bias")?,
                    eps: norm.eps,
                },
                Layer::Act(act) => Step::Act(*act),
                Layer::MaxPool(window) => Step::MaxPool(*window),
                Layer::AdaptiveAvgPool(size) => Step::AdaptiveAvgPool(*size),
                Layer::Flatten => Step::Flatten,
                Layer::Gate(layers) => Step::Gate(self.sequence(layers)?),
                Layer::Embed(embed) => {
                    let tables = embed.tables.iter().map(|t| Ok((self.values(&t.name, "weight")?, t.index)));
                    Step::Embed { tables: tables.collect::<Result<_>>()?, width: embed.width, window: embed.window }
                }
                Layer::Attention(a) => Step::Attention {
                    first: if a.asks == Asks::First { Some(self.linear(&[&a.query])?) } else { None },
                    joined: match a.asks {
                        Asks::Every => self.linear(&[&a.query, &a.key, &a.value])?,
                        Asks::First => self.linear(&[&a.key, &a.value])?,
                    },
                    output: self.linear(&[&a.output])?,
                    heads: a.heads,
                    window: a.window,
                    prefix: match &a.prefix {
                        Some(prefix) => Some([self.values(&prefix.name, "key")?, self.values(&prefix.name, "value")?]),
                        None => None,
                    },
                    distances: match &a.distances {
                        Some(distances) => Some((distances.clone(), self.values(&distances.name, "weight")?)),
                        None => None,
                    },
                },
                Layer::PoolRows(pool) => Step::PoolRows(*pool),
                Layer::Residual(residual) | Layer::Adapter(residual) => {
                    let then: Vec<&Layer> = residual.then.iter().collect();
                    let mut then = then.as_slice();
                    let act = following_act(&mut then);
                    let body = self.sequence(&residual.body)?;
                    steps.push(Step::Residual { body, shortcut: self.sequence(&residual.shortcut)?, act });
                    let others: Vec<Layer> = then.iter().map(|&layer| layer.clone()).collect();
                    steps.extend(self.sequence(&others)?);
                    continue;
                }
                Layer::Repeat(r) => Step::Repeat { steps: self.sequence(&r.layers)?, times: r.times },
                Layer::Dropout(_) => continue,
            });
        }
        Ok(steps)
    }

    /// Batch normalization with running statistics, as a factor and a term.
    fn scale_shift(&self, norm: &BatchNorm) -> Result<(Vec<f32>, Vec<f32>)> {
        let (scale, shift) = (self.values(&norm.name, "weight")?, self.values(&norm.name, "bias")?);
        let (mean, variance) = (self.values(&norm.name, "running_mean")?, self.values(&norm.name, "running_var")?);
        let factors: Vec<f32> = scale
            .iter()
            .zip(&variance)
            .map(|(&s, &v)| (f64::from(s) / (f64::from(v) + norm.eps).sqrt()) as f32)
            .collect();
        let terms = shift.iter().zip(&mean).zip(&factors).map(|((b, m), f)| b - m * f).collect();
        Ok((factors, terms))
    }

    fn conv(&self, conv: &Conv, norm: Option<(Vec<f32>, Vec<f32>)>, act: Option<Act>) -> Result<Step> {
        let (mut weight, mut bias) = Weighted::Conv(conv).merged(self.params)?;
        if let Some((scale, shift)) = norm {
            let taps = weight.len() / conv.outputs;
            weight.chunks_exact_mut(taps).zip(&scale).for_each(|(w, s)| w.iter_mut().for_each(|w| *w *= s));
            let old = bias.unwrap_or_else(|| vec![0.0; conv.outputs]);
            bias = Some(old.iter().zip(&scale).zip(&shift).map(|((b, s), t)| b * s + t).collect());
        }
        let spec =
            ConvSpec { stride: conv.window.stride, pads: [0; 4], dilation: conv.window.dilation, groups: conv.groups };
        let (kernel, bias) = (conv.window.kernel, bias.as_deref());
        let packed = k::PackedConv::new(&weight, bias, conv.inputs, conv.outputs, kernel, &spec, self.precision);
        Ok(Step::Conv { conv: packed, window: conv.window, act })
    }

    /// Linear layers with the same input as one, their outputs side by side.
    fn linear(&self, parts: &[&Linear]) -> Result<k::PackedLinear> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in parts {
            let (of_part, terms) = Weighted::Linear(part).merged(self.params)?;
            weight.extend(of_part);
            bias.extend(terms.unwrap_or_else(|| vec![0.0; part.outputs]));
        }
        let inputs = parts[0].inputs;
        if weight.len() != bias.len() * inputs {
            return Err(Error::Tensor(candle_core::Error::Msg(format!("{} has another shape", parts[0].name))));
        }
        Ok(k::PackedLinear::new(&weight, Some(&bias), inputs, bias.len(), self.precision))
    }
}

fn following_act(rest: &mut &[&Layer]) -> Option<Act> {
    match rest.first() {
        Some(Layer::Act(act)) => {
            *rest = &rest[1..];
            Some(*act)
        }
        _ => None,
    }
}
