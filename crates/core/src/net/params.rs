//! The parameters of a network: what it needs, and the values it has.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor, Var};

use super::update::Weighted;
use super::{Layer, Network, Stage};
use crate::cache::host_values;
use crate::seed::Seed;
use crate::{Error, Result};

/// What a parameter is for; strategies select by it, optimizers exempt by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A matrix or kernel: subject to weight decay.
    Weight,
    /// A table of embeddings.
    Table,
    /// An additive term.
    Bias,
    /// A normalization's factor.
    Scale,
    /// A normalization's additive term.
    Shift,
    /// Not learned: running statistics.
    Buffer,
    /// What an adapter has put into the network; starts where it changes (almost) nothing, so it does not decay.
    Adapter,
}

/// One parameter that a network needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The checkpoint's name: `layer1.0.conv1.weight`.
    pub name: String,
    /// Its shape, as the checkpoint has it.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// How it starts when nothing is loaded.
    pub init: Init,
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Normal with this deviation. Convolutions: He et al. 2015, √(2 / fan-out). Encoders: 0.02.
    Normal(f64),
    /// Uniform within ± this bound.
    Uniform(f64),
}

impl ParamSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a shape with a zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A fresh value: a function of the name and the seed alone.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn initial(&self, seed: Seed, device: &Device) -> Result<Tensor> {
        let mut stream = seed.named(&self.name).stream();
        let values: Vec<f32> = match self.init {
            Init::Constant(c) => vec![c as f32; self.len()],
            Init::Normal(deviation) => (0..self.len()).map(|_| (deviation * stream.normal()) as f32).collect(),
            Init::Uniform(bound) => (0..self.len()).map(|_| stream.range(-bound, bound) as f32).collect(),
        };
        Ok(Tensor::from_vec(values, self.shape.as_slice(), device)?)
    }
}

impl Stage {
    /// The parameters of this stage, in the order of its layers.
    pub fn params(&self) -> Vec<ParamSpec> {
        let mut specs = Vec::new();
        self.layers.iter().for_each(|layer| layer.params(&mut specs));
        specs
    }
}

impl Network {
    /// The parameters of all stages and the head, in order.
    pub fn params(&self) -> Vec<ParamSpec> {
        self.stages.iter().chain([&self.head]).flat_map(Stage::params).collect()
    }
}

impl Layer {
    fn params(&self, out: &mut Vec<ParamSpec>) {
        let mut add = |prefix: &str, name: &str, shape: &[usize], role, init| {
            out.push(ParamSpec { name: format!("{prefix}.{name}"), shape: shape.to_vec(), role, init });
        };
        match self {
            Layer::Conv(c) => {
                let [height, width] = c.window.kernel;
                let fan_out = (c.outputs / c.groups * height * width) as f64;
                let shape = [c.outputs, c.inputs / c.groups, height, width];
                add(&c.name, "weight", &shape, Role::Weight, Init::Normal((2.0 / fan_out).sqrt()));
                if c.bias {
                    add(&c.name, "bias", &[c.outputs], Role::Bias, Init::Constant(0.0));
                }
                Weighted::Conv(c).update_params(out);
            }
            Layer::Linear(l) => linear(l, out),
            Layer::BatchNorm(n) => {
                add(&n.name, "weight", &[n.width], Role::Scale, Init::Constant(1.0));
                add(&n.name, "bias", &[n.width], Role::Shift, Init::Constant(0.0));
                add(&n.name, "running_mean", &[n.width], Role::Buffer, Init::Constant(0.0));
                add(&n.name, "running_var", &[n.width], Role::Buffer, Init::Constant(1.0));
            }
            Layer::LayerNorm(n) => {
                add(&n.name, "weight", &[n.width], Role::Scale, Init::Constant(1.0));
                add(&n.name, "bias", &[n.width], Role::Shift, Init::Constant(0.0));
            }
            Layer::Embed(e) => {
                for table in &e.tables {
                    add(&table.name, "weight", &[table.rows, e.width], Role::Table, Init::Normal(0.02));
                }
            }
            Layer::Attention(a) => {
                [&a.query, &a.key, &a.value, &a.output].into_iter().for_each(|l| linear(l, out));
                out.extend(a.distances.as_ref().and_then(|distances| distances.param(a.heads)));
                if let Some(prefix) = &a.prefix {
                    for name in ["key", "value"] {
                        let (name, shape) = (format!("{}.{name}", prefix.name), vec![prefix.length, a.key.outputs]);
                        out.push(ParamSpec { name, shape, role: Role::Adapter, init: Init::Normal(0.02) });
                    }
                }
            }
            Layer::Gate(layers) => layers.iter().for_each(|layer| layer.params(out)),
            Layer::Residual(r) => {
                r.body.iter().chain(&r.shortcut).chain(&r.then).for_each(|layer| layer.params(out));
            }
            Layer::Adapter(r) => {
                let first = out.len();
                r.body.iter().chain(&r.shortcut).chain(&r.then).for_each(|layer| layer.params(out));
                for spec in &mut out[first..] {
                    spec.role = Role::Adapter;
                    // Houlsby et al. 2019, §3.6: close to the identity.
                    if let Init::Normal(deviation) = &mut spec.init {
                        *deviation = 0.01;
                    }
                }
            }
            Layer::Repeat(r) => r.layers.iter().for_each(|layer| layer.params(out)),
            Layer::Act(_)
            | Layer::MaxPool(_)
            | Layer::AdaptiveAvgPool(_)
            | Layer::Flatten
            | Layer::PoolRows(_)
            | Layer::Dropout(_) => {}
        }
    }
}

fn linear(l: &super::Linear, out: &mut Vec<ParamSpec>) {
    let mut add = |name: &str, shape, role, init| {
        out.push(ParamSpec { name: format!("{}.{name}", l.name), shape, role, init });
    };
    add("weight", vec![l.outputs, l.inputs], Role::Weight, Init::Normal(0.02));
    if l.bias {
        add("bias", vec![l.outputs], Role::Bias, Init::Constant(0.0));
    }
    Weighted::Linear(l).update_params(out);
}

/// The values of a network's parameters, by name. Those that learn are variables, all others plain tensors: a frozen
/// parameter costs no gradient and no optimizer state.
#[derive(Debug, Clone, Default)]
pub struct Params {
    values: BTreeMap<String, Tensor>,
    learning: BTreeMap<String, Var>,
}

impl Params {
    /// Plain values.
    pub fn new(values: BTreeMap<String, Tensor>) -> Self {
        Self { values, learning: BTreeMap::new() }
    }

    /// Fresh values for all of `specs`.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn initial(specs: &[ParamSpec], seed: Seed, device: &Device) -> Result<Self> {
        let values = specs.iter().map(|spec| Ok((spec.name.clone(), spec.initial(seed, device)?)));
        Ok(Self::new(values.collect::<Result<_>>()?))
    }

    /// The current value of `name`; tracked for gradients if it learns.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        if let Some(var) = self.learning.get(name) {
            return Ok(var.as_tensor().clone());
        }
        let missing = || Error::Tensor(candle_core::Error::Msg(format!("no parameter {name:?}")));
        self.values.get(name).cloned().ok_or_else(missing)
    }

    /// The first of `specs` that holds an infinite number, or one that is none.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn unbounded(&self, specs: impl IntoIterator<Item = ParamSpec>) -> Result<Option<String>> {
        for spec in specs {
            let values = host_values(&self.get(&spec.name)?.detach())?;
            if values.iter().any(|value| !value.is_finite()) {
                return Ok(Some(spec.name));
            }
        }
        Ok(None)
    }

    /// The learning variables, by name.
    pub fn learning(&self) -> &BTreeMap<String, Var> {
        &self.learning
    }

    /// Makes exactly the parameters called `names` learn; all others become plain again.
    ///
    /// # Errors
    /// When one of them does not exist.
    pub fn set_learning(&mut self, names: &BTreeSet<String>) -> Result<()> {
        for (name, var) in std::mem::take(&mut self.learning) {
            self.values.insert(name, var.as_detached_tensor());
        }
        for name in names {
            let var = Var::from_tensor(&self.get(name)?)?;
            self.values.remove(name);
            self.learning.insert(name.clone(), var);
        }
        Ok(())
    }

    /// Replaces or adds a value; a learning one keeps learning.
    ///
    /// # Errors
    /// When the shape of a learning one differs.
    pub fn set(&mut self, name: &str, value: Tensor) -> Result<()> {
        match self.learning.get(name) {
            Some(var) => var.set(&value)?,
            None => drop(self.values.insert(name.to_string(), value)),
        }
        Ok(())
    }

    /// Removes a parameter that the network does not know.
    pub fn remove(&mut self, name: &str) {
        self.learning.remove(name);
        self.values.remove(name);
    }

    /// All values, detached, in the order of their names.
    pub fn snapshot(&self) -> BTreeMap<String, Tensor> {
        let mut all = self.values.clone();
        all.extend(self.learning.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())));
        all
    }
}
