//! The layers, each on its own: its output, and the step that takes a gradient back through it.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use topwork_kernels::passes as k;
use topwork_kernels::{Beside, ConvSpec, Queries, Values, frozen};

use super::{Asked, Flow, Gradients, Place, Shared, Tape, expect, misfit, owned, put};
use crate::data::Rows;
use crate::net::forward::{Mode, Normalization, lengths, positions};
use crate::net::update::Weighted;
use crate::net::windows;
use crate::net::{Act, Asks, Attention, BatchNorm, Conv, Embed, Index, LayerNorm, Linear, PoolRows};
use crate::{Error, Result};

impl<'a> Tape<'a> {
    /// A convolution's output, and the step back.
    pub(super) fn conv(&mut self, c: &Conv, flow: &Flow) -> Result<(Flow, Asked<'a>)> {
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
    pub(super) fn linear(&mut self, l: &Linear, flow: &Flow) -> Result<(Flow, Asked<'a>)> {
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
    pub(super) fn batch_norm(
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

    pub(super) fn layer_norm(&mut self, n: &'a LayerNorm, flow: Flow) -> Result<Flow> {
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

    pub(super) fn act(&mut self, act: Act, flow: Flow) -> Flow {
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

    pub(super) fn flatten(&mut self, flow: Flow) -> Result<Flow> {
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

    pub(super) fn embed(&mut self, e: &'a Embed, flow: Flow) -> Result<Flow> {
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

    pub(super) fn attention(&mut self, a: &'a Attention, flow: Flow, mode: Mode) -> Result<Flow> {
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

    pub(super) fn pool_rows(&mut self, pool: PoolRows, flow: Flow) -> Flow {
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

    pub(super) fn dropout(&mut self, p: f32, flow: Flow, mode: Mode) -> Result<Flow> {
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
}

/// The numbers of a prefix's keys and values, `[length, width]`.
fn rows_of<'t>(prefix: &'t Option<[(Tensor, Option<String>); 2]>, width: usize) -> Result<Option<[Values<'t>; 2]>> {
    let Some([(key, _), (value, _)]) = prefix else { return Ok(None) };
    expect("prefix", &key.dims()[1..], &[width])?;
    expect("prefix", value.dims(), key.dims())?;
    Ok(Some([Values::of(key)?, Values::of(value)?]))
}
