//! The trainable pass on the CPU: layers on slices, each leaving behind what takes a gradient back through it.
//!
//! What [`super::forward::Pass`] does on any device with tensors that autograd follows, this does with fewer passes over
//! memory: normalization, residual sum and activation are one operation, gradients are written over what they came from,
//! a gradient that nobody asked for is not computed, and an activation is dropped as soon as its last use is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use topwork_kernels::passes as k;
use topwork_kernels::{Beside, ConvSpec, Queries, Values, frozen};

use super::forward::{Mode, Normalization, lengths, positions};
use super::update::Weighted;
use super::windows;
use super::{
    Act, Asks, Attention, BatchNorm, Conv, Embed, Index, Layer, LayerNorm, Linear, Params, PoolRows, Residual, Stage,
};
use crate::data::{Activation, Rows};
use crate::{Error, Result};

/// Numbers that several may read and the last one may write over.
type Shared = Arc<Vec<f32>>;
/// From the gradient of a layer's output to that of its input; `None` where nobody wants that.
type Back<'a> = Box<dyn FnOnce(Shared, &mut Gradients) -> Result<Option<Shared>> + 'a>;
/// The same, told whether anybody wants that.
type Asked<'a> = Box<dyn FnOnce(Shared, &mut Gradients, bool) -> Result<Option<Shared>> + 'a>;
/// A gradient that comes to a step from elsewhere.
type Place = Arc<OnceLock<Shared>>;
/// Gradients of parameters, by name.
pub type Gradients = BTreeMap<String, Tensor>;

mod gate;
mod update;

/// One forward pass over one batch, and the way back.
pub struct Tape<'a> {
    params: &'a Params,
    mode: Mode,
    recompute: bool,
    draws: u64,
    statistics: Vec<(String, Tensor)>,
    steps: Vec<Back<'a>>,
    /// Whether something before here learns, so that a gradient is wanted.
    tracked: bool,
    /// Where observed outputs wait for gradients.
    places: BTreeMap<usize, Place>,
    /// Number of stages, and of values that came out of the last.
    last: (usize, usize),
}

/// A batch on its way.
#[derive(Clone)]
struct Flow {
    data: Shared,
    /// In place of the numbers, while they are still to be looked up.
    indices: Option<Tensor>,
    /// Shape, the first dimension being all rows.
    dims: Vec<usize>,
    rows: Rows,
}

/// The numbers alone, copied where somebody else still reads them.
fn owned(values: Shared) -> Vec<f32> {
    Arc::try_unwrap(values).unwrap_or_else(|shared| shared.to_vec())
}

/// Takes a gradient back through some steps.
fn back(steps: Vec<Back>, gradient: Shared, grads: &mut Gradients) -> Result<Option<Shared>> {
    let mut gradient = Some(gradient);
    for step in steps.into_iter().rev() {
        let Some(dy) = gradient else { break };
        gradient = step(dy, grads)?;
    }
    Ok(gradient)
}

impl<'a> Tape<'a> {
    /// A pass with these parameters. With `recompute`, only the stages' inputs are kept, and each stage is computed a
    /// second time on the way back (Chen et al. 2016, *Training deep nets with sublinear memory cost*).
    pub fn new(params: &'a Params, mode: Mode, recompute: bool) -> Self {
        Self {
            params,
            mode,
            recompute,
            draws: 0,
            statistics: Vec::new(),
            steps: Vec::new(),
            tracked: false,
            places: BTreeMap::new(),
            last: (0, 0),
        }
    }

    /// Runs stages, each with whether something in it learns, and gives what comes out of the `observed` ones: 0 is the
    /// input, i the output of stage i. All of them may be given a gradient on the way back.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape.
    pub fn forward(
        &mut self,
        stages: &[(&'a Stage, bool)],
        input: &Activation,
        observed: &BTreeSet<usize>,
    ) -> Result<BTreeMap<usize, Activation>> {
        let mut flow = Flow::of(input)?;
        let mut found = BTreeMap::new();
        if observed.contains(&0) {
            found.insert(0, input.clone());
        }
        for (i, &(stage, learns)) in (1..).zip(stages) {
            flow = self.stage(stage, flow, learns)?;
            if observed.contains(&i) {
                let data = Tensor::from_vec(flow.data.to_vec(), flow.dims.as_slice(), &Device::Cpu)?;
                found.insert(i, Activation { data, rows: flow.rows.clone() });
                let place: Place = Arc::default();
                if self.tracked {
                    self.places.insert(i, place.clone());
                }
                self.push(move |dy, _| {
                    let Some(more) = place.get() else { return Ok(Some(dy)) };
                    let mut sum = owned(dy);
                    k::add(&mut sum, more);
                    Ok(Some(Arc::new(sum)))
                });
            }
        }
        self.last = (stages.len(), flow.data.len());
        Ok(found)
    }

    /// Takes the gradients of observed outputs back, by their numbers; gives those of the parameters that learn, and the
    /// running statistics that the pass moved.
    ///
    /// # Errors
    /// When a tensor is not what it was.
    pub fn backward(self, mut gradients: BTreeMap<usize, Tensor>) -> Result<(Gradients, Vec<(String, Tensor)>)> {
        let values = |gradient: Tensor| -> Result<Shared> { Ok(Arc::new(gradient.flatten_all()?.to_vec1()?)) };
        let (last, len) = self.last;
        let first = gradients.remove(&last).map(values).transpose()?;
        for (i, gradient) in gradients {
            if let Some(place) = self.places.get(&i) {
                let _ = place.set(values(gradient)?);
            }
        }
        let mut grads = Gradients::new();
        back(self.steps, first.unwrap_or_else(|| Arc::new(vec![0.0; len])), &mut grads)?;
        Ok((grads, self.statistics))
    }

    fn stage(&mut self, stage: &'a Stage, flow: Flow, learns: bool) -> Result<Flow> {
        let mode = if learns { self.mode } else { Mode::Eval };
        if !self.recompute || !(learns || self.tracked) {
            return self.layers(&stage.layers, flow, mode);
        }
        let (params, draws, tracked, input) = (self.params, self.draws, self.tracked, flow.clone());
        let steps = std::mem::take(&mut self.steps);
        let flow = self.layers(&stage.layers, flow, mode)?;
        let passed = !std::mem::replace(&mut self.steps, steps).is_empty();
        if passed {
            self.steps.push(Box::new(move |dy, grads| {
                let mut again = Tape { draws, tracked, ..Tape::new(params, mode, false) };
                again.layers(&stage.layers, input, mode)?;
                back(again.steps, dy, grads)
            }));
        }
        Ok(flow)
    }

    fn layers(&mut self, layers: &'a [Layer], mut flow: Flow, mode: Mode) -> Result<Flow> {
        let mut rest = layers;
        while let Some((layer, after)) = rest.split_first() {
            rest = after;
            flow = match layer {
                Layer::Conv(c) => self.weighted(Weighted::Conv(c), flow, mode)?,
                Layer::Linear(l) => self.weighted(Weighted::Linear(l), flow, mode)?,
                Layer::BatchNorm(n) => {
                    let act = following(&mut rest);
                    self.batch_norm(n, flow, None, act, mode)?
                }
                Layer::LayerNorm(n) => self.layer_norm(n, flow)?,
                Layer::Act(act) => self.act(*act, flow),
                Layer::MaxPool(window) => {
                    let [b, h, w, c] = flow.image()?;
                    let (pass, y, [oh, ow]) = k::MaxPoolPass::forward(
                        &flow.data,
                        [b, h, w, c],
                        window.kernel,
                        window.stride,
                        window.pads(h, w),
                    );
                    self.push(move |dy, _| Ok(Some(Arc::new(pass.input_gradient(&dy)))));
                    flow.with(y, vec![b, oh, ow, c])
                }
                Layer::AdaptiveAvgPool(size) => {
                    let [b, h, w, c] = flow.image()?;
                    let pass = k::AveragePass::adaptive([h, w, c], *size);
                    let y = pass.forward(&flow.data);
                    self.push(move |dy, _| Ok(Some(Arc::new(pass.input_gradient(&dy)))));
                    flow.with(y, vec![b, size[0], size[1], c])
                }
                Layer::Flatten => self.flatten(flow)?,
                Layer::Gate(layers) => self.gate(layers, flow, mode)?,
                Layer::Embed(e) => self.embed(e, flow)?,
                Layer::Attention(a) => self.attention(a, flow, mode)?,
                Layer::PoolRows(pool) => self.pool_rows(*pool, flow),
                Layer::Dropout(p) => self.dropout(*p, flow, mode)?,
                Layer::Residual(r) | Layer::Adapter(r) => self.residual(r, flow, mode)?,
                Layer::Repeat(r) => (0..r.times).try_fold(flow, |flow, _| self.layers(&r.layers, flow, mode))?,
            };
        }
        Ok(flow)
    }

    /// Remembers a step, if a gradient comes through here.
    fn push(&mut self, step: impl FnOnce(Shared, &mut Gradients) -> Result<Option<Shared>> + 'a) {
        if self.tracked {
            self.steps.push(Box::new(step));
        }
    }

    /// A parameter and its name if it learns.
    fn param(&self, prefix: &str, name: &str) -> Result<(Tensor, Option<String>)> {
        let name = format!("{prefix}.{name}");
        let value = self.params.get(&name)?;
        let learns = self.params.learning().contains_key(&name);
        Ok((value.detach(), learns.then_some(name)))
    }

    /// Whether a gradient of what came before is wanted; from here on one is, if `learns`.
    fn track(&mut self, learns: bool) -> bool {
        let wanted = self.tracked;
        self.tracked |= learns;
        wanted
    }

    /// A layer with a weight and its update.
    fn weighted(&mut self, layer: Weighted<'_>, flow: Flow, mode: Mode) -> Result<Flow> {
        let wanted = self.tracked;
        let (flow, step) = self.updated(layer, &flow, mode)?;
        self.push(move |dy, grads| step(dy, grads, wanted));
        Ok(flow)
    }

    /// A convolution's output, and the step back.
    fn conv(&mut self, c: &Conv, flow: &Flow) -> Result<(Flow, Asked<'a>)> {
        let [b, h, w, _] = flow.image()?;
        let spec = ConvSpec {
            stride: c.window.stride,
            pads: c.window.pads(h, w),
            dilation: c.window.dilation,
            groups: c.groups,
        };
        let (weight, weight_name) = self.param(&c.name, "weight")?;
        expect(&c.name, &flow.dims[3..], &[c.inputs])?;
        let [kh, kw] = c.window.kernel;
        expect(&c.name, weight.dims(), &[c.outputs, c.inputs / c.groups, kh, kw])?;
        let bias = c.bias.then(|| self.param(&c.name, "bias")).transpose()?;
        let pass = k::ConvPass::new([b, h, w], c.inputs, c.outputs, c.window.kernel, spec);
        let (oh, ow) = pass.out_size();
        if oh == 0 || ow == 0 {
            return Err(misfit(&c.name, format!("a window of {kh} x {kw} does not fit an image of {h} x {w}")));
        }
        let y = {
            let bias = bias.as_ref().map(|(bias, _)| Values::of(bias)).transpose()?;
            pass.forward(&flow.data, &Values::of(&weight)?, bias.as_deref())
        };
        let bias_name = bias.and_then(|(_, name)| name);
        self.tracked |= weight_name.is_some() || bias_name.is_some();
        let x = weight_name.is_some().then(|| flow.data.clone());
        let outputs = c.outputs;
        let step = move |dy: Shared, grads: &mut Gradients, wanted: bool| {
            if let (Some(name), Some(x)) = (weight_name, x) {
                put(grads, name, pass.weight_gradient(&x, &dy), weight.dims())?;
            }
            if let Some(name) = bias_name {
                put(grads, name, k::column_sums(&dy, outputs), &[outputs])?;
            }
            if !wanted {
                return Ok(None);
            }
            Ok(Some(Arc::new(pass.input_gradient(&Values::of(&weight)?, &dy))))
        };
        Ok((flow.clone().with(y, vec![b, oh, ow, outputs]), Box::new(step)))
    }

    /// A linear layer's output, and the step back.
    fn linear(&mut self, l: &Linear, flow: &Flow) -> Result<(Flow, Asked<'a>)> {
        let (inputs, outputs) = (l.inputs, l.outputs);
        let (weight, weight_name) = self.param(&l.name, "weight")?;
        let bias = l.bias.then(|| self.param(&l.name, "bias")).transpose()?;
        expect(&l.name, weight.dims(), &[l.outputs, l.inputs])?;
        expect(&l.name, &flow.dims[flow.dims.len() - 1..], &[l.inputs])?;
        let y = {
            let bias = bias.as_ref().map(|(bias, _)| Values::of(bias)).transpose()?;
            k::linear(&flow.data, &Values::of(&weight)?, bias.as_deref(), inputs, outputs)
        };
        let bias_name = bias.and_then(|(_, name)| name);
        self.track(weight_name.is_some() || bias_name.is_some());
        let x = weight_name.is_some().then(|| flow.data.clone());
        let step = move |dy: Shared, grads: &mut Gradients, wanted: bool| {
            if let (Some(name), Some(x)) = (weight_name, x) {
                put(grads, name, k::linear_weight_gradient(&x, &dy, inputs, outputs), weight.dims())?;
            }
            if let Some(name) = bias_name {
                put(grads, name, k::column_sums(&dy, outputs), &[outputs])?;
            }
            if !wanted {
                return Ok(None);
            }
            Ok(Some(Arc::new(k::linear_input_gradient(&Values::of(&weight)?, &dy, inputs, outputs))))
        };
        let mut dims = flow.dims.clone();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        Ok((flow.clone().with(y, dims), Box::new(step)))
    }

    /// act(normalized + residual). The step back leaves the residual's gradient in the given place.
    fn batch_norm(
        &mut self,
        n: &'a BatchNorm,
        flow: Flow,
        residual: Option<(&Shared, Place)>,
        act: Option<Act>,
        mode: Mode,
    ) -> Result<Flow> {
        let ((gamma, gamma_name), (beta, beta_name)) = (self.param(&n.name, "weight")?, self.param(&n.name, "bias")?);
        let [mean, var] = ["running_mean", "running_var"].map(|name| self.param(&n.name, name));
        let ((mean, _), (var, _)) = (mean?, var?);
        expect(&n.name, &flow.dims[flow.dims.len() - 1..], &[n.width])?;
        expect(&n.name, gamma.dims(), &[n.width])?;
        let normalization = mode.normalization(n);
        let pass = if matches!(normalization, Normalization::Running) {
            k::BatchNormPass::of_moments(mean.to_vec1()?, var.to_vec1()?, n.eps, act)
        } else {
            let count = flow.data.len() / n.width.max(1);
            if count < 2 {
                return Err(misfit(
                    &n.name,
                    "one value per channel has no variance; use a larger batch or image".into(),
                ));
            }
            let mut pass = k::BatchNormPass::of_batch(&flow.data, n.width, n.eps, act);
            // The running variance is of the population: unbiased, as PyTorch keeps it.
            let unbiased = count as f64 / (count as f64 - 1.0);
            for (name, old, new, scale) in
                [("running_mean", &mean, pass.mean(), 1.0), ("running_var", &var, pass.var(), unbiased)]
            {
                let new = (Tensor::new(new, &Device::Cpu)? * (scale * n.momentum))?;
                self.statistics.push((format!("{}.{name}", n.name), ((old * (1.0 - n.momentum))? + new)?));
            }
            if let Normalization::Mixed(running) = normalization {
                pass.fix(&running, &mean.to_vec1::<f32>()?, &var.to_vec1::<f32>()?, n.eps);
            }
            pass
        };
        let y = {
            let residual = residual.as_ref().map(|(values, _)| values.as_slice());
            Arc::new(pass.forward(&flow.data, &Values::of(&gamma)?, &Values::of(&beta)?, residual))
        };
        let learns = gamma_name.is_some() || beta_name.is_some();
        let wanted = self.track(learns);
        let x = flow.data.clone();
        // Where something was added, what came out tells where the limits were; elsewhere the input does.
        let added = residual.map(|(_, place)| (place, y.clone()));
        self.push(move |dy, grads| {
            let mut dy = owned(dy);
            let (sums, dx) = match added {
                Some((place, kept)) => {
                    let sums = pass.sums(&x, &kept, &mut dy);
                    drop(kept);
                    let dx =
                        if wanted { Some(pass.input_gradient(&x, &Values::of(&gamma)?, &sums, &dy)) } else { None };
                    let _ = place.set(Arc::new(dy));
                    (sums, dx)
                }
                None => {
                    let sums = pass.backward(&x, &Values::of(&gamma)?, &Values::of(&beta)?, &mut dy, wanted);
                    (sums, wanted.then_some(dy))
                }
            };
            let k::BatchNormSums { gamma: dgamma, beta: dbeta } = sums;
            for (name, grad) in [(gamma_name, dgamma), (beta_name, dbeta)] {
                if let Some(name) = name {
                    put(grads, name, grad, gamma.dims())?;
                }
            }
            Ok(dx.map(Arc::new))
        });
        Ok(Flow { data: y, ..flow })
    }

    fn layer_norm(&mut self, n: &'a LayerNorm, flow: Flow) -> Result<Flow> {
        let ((gamma, gamma_name), (beta, beta_name)) = (self.param(&n.name, "weight")?, self.param(&n.name, "bias")?);
        expect(&n.name, &flow.dims[flow.dims.len() - 1..], &[n.width])?;
        expect(&n.name, gamma.dims(), &[n.width])?;
        let y = k::layer_norm(&flow.data, &Values::of(&gamma)?, &Values::of(&beta)?, n.eps);
        let wanted = self.track(gamma_name.is_some() || beta_name.is_some());
        let x = flow.data.clone();
        self.push(move |dy, grads| {
            let mut dy = owned(dy);
            let (dgamma, dbeta) = k::layer_norm_backward(&x, &Values::of(&gamma)?, n.eps, &mut dy);
            for (name, grad) in [(gamma_name, dgamma), (beta_name, dbeta)] {
                if let Some(name) = name {
                    put(grads, name, grad, gamma.dims())?;
                }
            }
            Ok(wanted.then(|| Arc::new(dy)))
        });
        let dims = flow.dims.clone();
        Ok(flow.with(y, dims))
    }

    fn act(&mut self, act: Act, flow: Flow) -> Flow {
        let dims = flow.dims.clone();
        // What a limit leaves tells the slope as well: the input is not needed any more.
        let limits = matches!(act, Act::Relu | Act::Relu6);
        let (x, y) = if limits {
            let Flow { data, indices, dims, rows } = flow;
            let mut data = owned(data);
            frozen::act_in_place(&mut data, act);
            let y = Arc::new(data);
            let kept = y.clone();
            self.push(move |dy, _| {
                let mut dy = owned(dy);
                k::act_gradient(act, &kept, &mut dy);
                Ok(Some(Arc::new(dy)))
            });
            return Flow { data: y, indices, dims, rows };
        } else {
            (flow.data.clone(), k::act(act, &flow.data))
        };
        self.push(move |dy, _| {
            let mut dy = owned(dy);
            k::act_gradient(act, &x, &mut dy);
            Ok(Some(Arc::new(dy)))
        });
        flow.with(y, dims)
    }

    fn flatten(&mut self, flow: Flow) -> Result<Flow> {
        let [b, h, w, c] = flow.image()?;
        let pixels = h * w;
        let dims = vec![b, pixels * c];
        if pixels == 1 {
            return Ok(Flow { dims, ..flow });
        }
        let mut y = vec![0f32; flow.data.len()];
        frozen::channels_first(&flow.data, pixels, c, &mut y);
        self.push(move |dy, _| {
            let mut dx = vec![0f32; dy.len()];
            // Channels and pixels exchange places once more.
            frozen::channels_first(&dy, c, pixels, &mut dx);
            Ok(Some(Arc::new(dx)))
        });
        Ok(flow.with(y, dims))
    }

    fn embed(&mut self, e: &'a Embed, flow: Flow) -> Result<Flow> {
        let Some(indices) = &flow.indices else {
            return Err(misfit("embed", "numbers where indices are wanted".into()));
        };
        let total = flow.dims[0];
        let mut sum: Option<Vec<f32>> = None;
        let mut learning = Vec::new();
        for table in &e.tables {
            let ids: Vec<u32> = match table.index {
                Index::Column(column) => indices.narrow(1, column, 1)?.flatten_all()?.to_vec1()?,
                Index::Position(offset) => positions(windows::of(lengths(&flow.rows, total), e.window), offset),
            };
            let (weight, name) = self.param(&table.name, "weight")?;
            expect(&table.name, weight.dims(), &[table.rows, e.width])?;
            if let Some(id) = ids.iter().find(|&&id| id as usize >= table.rows) {
                return Err(misfit(&table.name, format!("index {id} into a table of {} rows", table.rows)));
            }
            let found = k::embed(&Values::of(&weight)?, e.width, &ids);
            match &mut sum {
                Some(sum) => k::add(sum, &found),
                None => sum = Some(found),
            }
            learning.extend(name.map(|name| (name, ids, [table.rows, e.width])));
        }
        let y = sum.ok_or_else(|| misfit("embed", "an embedding without tables".into()))?;
        self.track(!learning.is_empty());
        self.push(move |dy, grads| {
            for (name, ids, shape) in learning {
                put(grads, name, k::embed_gradient(shape[0] * shape[1], shape[1], &ids, &dy), &shape)?;
            }
            Ok(None)
        });
        Ok(Flow { data: Arc::new(y), indices: None, dims: vec![total, e.width], rows: flow.rows })
    }

    fn attention(&mut self, a: &'a Attention, flow: Flow, mode: Mode) -> Result<Flow> {
        let wanted = self.tracked;
        let width = a.query.outputs;
        let lengths = windows::of(lengths(&flow.rows, flow.dims[0]), a.window);
        let inputs = flow.dims[1..].iter().product();
        let (asking, queries) = match a.asks {
            Asks::Every => (flow.clone(), Queries::Rows),
            Asks::First => {
                let mut first = vec![0f32; lengths.len() * inputs];
                frozen::pool_rows_first(&flow.data, inputs, &lengths, &mut first);
                let flow = flow.clone().with(first, vec![lengths.len(), inputs]);
                (Flow { rows: Rows::One, ..flow }, Queries::Samples)
            }
        };
        let (q, query) = self.updated(Weighted::Linear(&a.query), &asking, mode)?;
        let (key_values, key) = self.updated(Weighted::Linear(&a.key), &flow, mode)?;
        let (v, value) = self.updated(Weighted::Linear(&a.value), &flow, mode)?;
        let (q, key_values, v) = (q.data, key_values.data, v.data);
        let prefix =
            a.prefix.as_ref().map(|p| Ok::<_, Error>([self.param(&p.name, "key")?, self.param(&p.name, "value")?]));
        let prefix = prefix.transpose()?;
        let distances = match &a.distances {
            Some(distances) => Some((distances, self.param(&distances.name, "weight")?)),
            None => None,
        };
        if let Some((distances, (values, _))) = &distances {
            expect(&distances.name, values.dims(), &[distances.buckets, a.heads])?;
        }
        let of_beside = prefix.iter().flatten().chain(distances.iter().map(|(_, param)| param));
        self.tracked |= of_beside.into_iter().any(|(_, name)| name.is_some());
        let dropout = match mode {
            Mode::Train { seed, .. } if a.dropout > 0.0 => Some((a.dropout, self.draw(seed))),
            _ => None,
        };
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let terms = match &distances {
            Some((distances, (values, _))) => Some(distances.terms(&Values::of(values)?, longest)),
            None => None,
        };
        let (pass, joined) = {
            let prefix = rows_of(&prefix, width)?;
            let prefix = prefix.as_ref().map(|[key, value]| [&**key, &**value]);
            let beside = Beside { prefix, terms: terms.as_deref(), queries };
            k::AttentionPass::forward([&q, &key_values, &v], beside, width, &lengths, a.heads, dropout)?
        };
        self.push(move |dy, grads| {
            let found = {
                let prefix = rows_of(&prefix, width)?;
                let prefix = prefix.as_ref().map(|[key, value]| [&**key, &**value]);
                let beside = Beside { prefix, terms: terms.as_deref(), queries };
                pass.gradients([&q, &key_values, &v], beside, width, &dy)
            };
            for ((value, name), gradient) in prefix.into_iter().flatten().zip(found.prefix.into_iter().flatten()) {
                if let Some(name) = name {
                    put(grads, name, gradient, value.dims())?;
                }
            }
            if let (Some((distances, (values, Some(name)))), Some(terms)) = (distances, found.terms) {
                put(grads, name, distances.gradient(&terms, longest), values.dims())?;
            }
            let [dq, dk, dv] = found.own;
            drop((q, key_values, v, dy));
            let of_query = query(Arc::new(dq), grads, wanted)?;
            let mut sum = of_query.map(|dx| match queries {
                Queries::Rows => owned(dx),
                Queries::Samples => k::first_gradient(&dx, inputs, &lengths),
            });
            for dx in [key(Arc::new(dk), grads, wanted)?, value(Arc::new(dv), grads, wanted)?] {
                if let (Some(sum), Some(dx)) = (&mut sum, dx) {
                    k::add(sum, &dx);
                }
            }
            Ok(sum.map(Arc::new))
        });
        let dims = vec![asking.dims[0], width];
        self.weighted(Weighted::Linear(&a.output), asking.with(joined, dims), mode)
    }

    fn pool_rows(&mut self, pool: PoolRows, flow: Flow) -> Flow {
        let width = flow.dims.last().copied().unwrap_or(1);
        let lengths = lengths(&flow.rows, flow.dims[0]);
        let mut y = vec![0f32; lengths.len() * width];
        match pool {
            PoolRows::Mean => frozen::pool_rows_mean(&flow.data, width, &lengths, &mut y),
            PoolRows::First => frozen::pool_rows_first(&flow.data, width, &lengths, &mut y),
            PoolRows::Max => frozen::pool_rows_max(&flow.data, width, &lengths, &mut y),
        }
        let samples = lengths.len();
        let x = (pool == PoolRows::Max).then(|| flow.data.clone());
        self.push(move |dy, _| {
            let gradient = match (pool, x) {
                (PoolRows::Mean, _) => k::mean_gradient(&dy, width, &lengths),
                (PoolRows::Max, Some(x)) => k::max_gradient(&x, &dy, width, &lengths),
                (PoolRows::First | PoolRows::Max, _) => k::first_gradient(&dy, width, &lengths),
            };
            Ok(Some(Arc::new(gradient)))
        });
        Flow { rows: Rows::One, ..flow.with(y, vec![samples, width]) }
    }

    fn dropout(&mut self, p: f32, flow: Flow, mode: Mode) -> Result<Flow> {
        let Mode::Train { seed, .. } = mode else { return Ok(flow) };
        if p <= 0.0 {
            return Ok(flow);
        }
        let seed = self.draw(seed);
        let Flow { data, indices, dims, rows } = flow;
        let mut data = owned(data);
        k::dropout(&mut data, p, seed)?;
        self.push(move |dy, _| {
            let mut dy = owned(dy);
            k::dropout(&mut dy, p, seed)?;
            Ok(Some(Arc::new(dy)))
        });
        Ok(Flow { data: Arc::new(data), indices, dims, rows })
    }

    fn residual(&mut self, r: &'a Residual, flow: Flow, mode: Mode) -> Result<Flow> {
        let before = self.tracked;
        let outer = std::mem::take(&mut self.steps);
        let shortcut = self.layers(&r.shortcut, flow.clone(), mode)?;
        let shortcut_steps = std::mem::take(&mut self.steps);
        let shortcut_tracked = std::mem::replace(&mut self.tracked, before);
        // Where the body ends in batch normalization, the sum and the activation behind it happen there.
        let mut then = r.then.as_slice();
        let fused = match r.body.split_last() {
            Some((Layer::BatchNorm(n), rest)) => Some((n, rest, following(&mut then))),
            _ => None,
        };
        let place = Place::default();
        let mut body = match fused {
            Some((n, rest, act)) => {
                let body = self.layers(rest, flow, mode)?;
                expect(&n.name, &body.dims, &shortcut.dims)?;
                // The normalization is on the tape where either path is: the shortcut's gradient comes out of it.
                self.tracked |= shortcut_tracked;
                self.batch_norm(n, body, Some((&shortcut.data, place.clone())), act, mode)?
            }
            None => self.layers(&r.body, flow, mode)?,
        };
        let body_steps = std::mem::replace(&mut self.steps, outer);
        self.tracked |= shortcut_tracked;
        if fused.is_none() {
            expect("residual", &body.dims, &shortcut.dims)?;
            let mut sum = owned(body.data);
            k::add(&mut sum, &shortcut.data);
            body.data = Arc::new(sum);
        }
        let is_fused = fused.is_some();
        self.push(move |dy, grads| {
            let mut through_body = back(body_steps, dy.clone(), grads)?;
            let dy = if is_fused { place.get().cloned().unwrap_or(dy) } else { dy };
            drop(place);
            let through_shortcut = back(shortcut_steps, dy, grads)?;
            if !before {
                return Ok(None);
            }
            Ok(match (through_body.take(), through_shortcut) {
                (Some(a), Some(b)) => {
                    let (to, from) = if Arc::strong_count(&a) == 1 { (a, b) } else { (b, a) };
                    let mut sum = owned(to);
                    k::add(&mut sum, &from);
                    Some(Arc::new(sum))
                }
                (one, other) => one.or(other),
            })
        });
        self.layers(then, body, mode)
    }

    /// A number for the next random layer of this step.
    fn draw(&mut self, seed: crate::seed::Seed) -> u64 {
        self.draws += 1;
        seed.child(self.draws).0
    }
}

impl Flow {
    fn of(input: &Activation) -> Result<Self> {
        let (dims, rows) = (input.data.dims().to_vec(), input.rows.clone());
        if input.data.dtype() == DType::U32 {
            return Ok(Self { data: Arc::default(), indices: Some(input.data.clone()), dims, rows });
        }
        Ok(Self { data: Arc::new(input.data.flatten_all()?.to_vec1()?), indices: None, dims, rows })
    }

    fn image(&self) -> Result<[usize; 4]> {
        self.dims.as_slice().try_into().map_err(|_| misfit("image", format!("a batch of shape {:?}", self.dims)))
    }

    fn with(self, data: Vec<f32>, dims: Vec<usize>) -> Self {
        Self { data: Arc::new(data), dims, ..self }
    }
}

/// The numbers of a prefix's keys and values, `[length, width]`.
fn rows_of<'t>(prefix: &'t Option<[(Tensor, Option<String>); 2]>, width: usize) -> Result<Option<[Values<'t>; 2]>> {
    let Some([(key, _), (value, _)]) = prefix else { return Ok(None) };
    expect("prefix", &key.dims()[1..], &[width])?;
    expect("prefix", value.dims(), key.dims())?;
    Ok(Some([Values::of(key)?, Values::of(value)?]))
}

/// Takes the activation that comes next, where normalization can do it.
fn following(rest: &mut &[Layer]) -> Option<Act> {
    match rest.first() {
        Some(Layer::Act(act @ (Act::Relu | Act::Relu6))) => {
            *rest = &rest[1..];
            Some(*act)
        }
        _ => None,
    }
}

fn misfit(name: &str, what: String) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("{name}: {what}")))
}

fn expect(name: &str, found: &[usize], wanted: &[usize]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(misfit(name, format!("a shape of {found:?} where {wanted:?} is wanted")))
}

/// Adds a gradient; a parameter that is used twice has the sum of both.
fn put(grads: &mut Gradients, name: String, values: Vec<f32>, shape: &[usize]) -> Result<()> {
    let gradient = Tensor::from_vec(values, shape, &Device::Cpu)?;
    let sum = match grads.get(&name) {
        Some(other) => topwork_kernels::add(other, &gradient)?,
        None => gradient,
    };
    grads.insert(name, sum);
    Ok(())
}
