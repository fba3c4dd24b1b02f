//! The trainable forward pass: the description, run layer by layer on tensors that autograd can follow.

use std::cell::{Cell, RefCell};

use candle_core::Tensor;
use topwork_kernels as k;

use super::{
    Asks, Attention, BatchNorm, Conv, Index, Layer, Linear, LowRank, Params, PoolRows, Side, Stage, Update, windows,
};
use crate::Result;
use crate::data::{Activation, Rows};
use crate::plan::BatchNormMode;
use crate::seed::Seed;

/// What the layers of a pass do where training and use differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Running statistics, no dropout.
    Eval,
    /// Dropout drawn from `seed`, batch normalization as told.
    Train {
        /// In the stages that learn.
        batch_norm: BatchNormMode,
        /// Of this step.
        seed: Seed,
    },
}

/// Which statistics a batch normalization takes.
pub(super) enum Normalization {
    /// The running ones.
    Running,
    /// The batch's.
    Batch,
    /// The running ones in these channels, the batch's in the others.
    Mixed(Vec<bool>),
}

impl Mode {
    /// What `norm` does in this pass; a draw depends on its name and the step alone.
    pub(super) fn normalization(self, norm: &BatchNorm) -> Normalization {
        match self {
            Self::Eval | Self::Train { batch_norm: BatchNormMode::Frozen, .. } => Normalization::Running,
            Self::Train { batch_norm: BatchNormMode::Update, .. } => Normalization::Batch,
            Self::Train { batch_norm: BatchNormMode::Stochastic { running }, seed } => {
                let mut stream = seed.named(&norm.name).stream();
                Normalization::Mixed((0..norm.width).map(|_| stream.uniform() < running).collect())
            }
        }
    }
}

/// One pass over one batch.
pub struct Pass<'a> {
    params: &'a Params,
    mode: Mode,
    draws: Cell<u64>,
    statistics: RefCell<Vec<(String, Tensor)>>,
}

impl<'a> Pass<'a> {
    /// A pass with these parameters.
    pub fn new(params: &'a Params, mode: Mode) -> Self {
        Self { params, mode, draws: Cell::new(0), statistics: RefCell::default() }
    }

    /// Runs one stage. Where nothing `learns` it behaves as in use: running statistics, no dropout.
    ///
    /// # Errors
    /// When a parameter is missing or of another shape, or the device is out of memory.
    pub fn stage(&self, stage: &Stage, input: Activation, learns: bool) -> Result<Activation> {
        let mode = if learns { self.mode } else { Mode::Eval };
        self.layers(&stage.layers, input, mode)
    }

    /// The running statistics that the pass moved, to be stored under their names once the step is taken.
    pub fn finish(self) -> Vec<(String, Tensor)> {
        self.statistics.into_inner()
    }

    fn layers(&self, layers: &[Layer], input: Activation, mode: Mode) -> Result<Activation> {
        layers.iter().try_fold(input, |x, layer| self.layer(layer, x, mode))
    }

    fn layer(&self, layer: &Layer, x: Activation, mode: Mode) -> Result<Activation> {
        let Activation { data, rows } = x;
        let data = match layer {
            Layer::Conv(c) => {
                let beside = |low: LowRank, x: &Tensor| {
                    let [a, b] = low.beside_conv(c);
                    self.plain_conv(&b, &self.plain_conv(&a, x)?)
                };
                self.updated(&c.name, c.update, &data, mode, |x| self.plain_conv(c, x), beside)?
            }
            Layer::Linear(l) => self.linear(l, &data, mode)?,
            Layer::BatchNorm(n) => self.batch_norm(n, &data, mode)?,
            Layer::LayerNorm(n) => {
                k::layer_norm(&data, &self.param(&n.name, "weight")?, &self.param(&n.name, "bias")?, n.eps)?
            }
            Layer::Act(act) => k::act(&data, *act)?,
            Layer::MaxPool(w) => {
                let (_, height, width, _) = data.dims4()?;
                k::max_pool2d(&data, w.kernel, w.stride, w.pads(height, width))?
            }
            Layer::AdaptiveAvgPool(size) => k::adaptive_avg_pool2d(&data, *size)?,
            Layer::Flatten => data.permute((0, 3, 1, 2))?.flatten_from(1)?,
            Layer::Gate(layers) => {
                let input = Activation { data: data.clone(), rows: rows.clone() };
                k::gate(&data, &self.layers(layers, input, mode)?.data)?
            }
            Layer::Embed(e) => {
                let mut sum: Option<Tensor> = None;
                for table in &e.tables {
                    let index = match table.index {
                        Index::Column(column) => data.narrow(1, column, 1)?.squeeze(1)?.contiguous()?,
                        Index::Position(offset) => {
                            let lengths = windows::of(lengths(&rows, data.dims()[0]), e.window);
                            Tensor::from_vec(positions(lengths, offset), data.dims()[0], data.device())?
                        }
                    };
                    let found = k::embed(&self.param(&table.name, "weight")?, &index)?;
                    sum = Some(match sum {
                        Some(sum) => k::add(&sum, &found)?,
                        None => found,
                    });
                }
                sum.ok_or_else(|| candle_core::Error::Msg("an embedding without tables".into()))?
            }
            Layer::Attention(a) => {
                let data = self.attention(a, &data, &rows, mode)?;
                let rows = if a.asks == Asks::First { Rows::One } else { rows };
                return Ok(Activation { data, rows });
            }
            Layer::PoolRows(pool) => {
                let lengths = lengths(&rows, data.dims()[0]);
                let data = match pool {
                    PoolRows::Mean => k::pool_rows_mean(&data, &lengths)?,
                    PoolRows::First => k::pool_rows_first(&data, &lengths)?,
                    PoolRows::Max => k::pool_rows_max(&data, &lengths)?,
                };
                return Ok(Activation { data, rows: Rows::One });
            }
            Layer::Dropout(p) => match mode {
                Mode::Train { seed, .. } if *p > 0.0 => k::dropout(&data, *p, self.draw(seed))?,
                _ => data,
            },
            Layer::Residual(r) | Layer::Adapter(r) => {
                let input = Activation { data, rows };
                let shortcut = self.layers(&r.shortcut, input.clone(), mode)?;
                let body = self.layers(&r.body, input, mode)?;
                let sum = Activation { data: k::add(&body.data, &shortcut.data)?, rows: body.rows };
                return self.layers(&r.then, sum, mode);
            }
            Layer::Repeat(r) => {
                let input = Activation { data, rows };
                return (0..r.times).try_fold(input, |x, _| self.layers(&r.layers, x, mode));
            }
        };
        Ok(Activation { data, rows })
    }

    fn param(&self, prefix: &str, name: &str) -> Result<Tensor> {
        self.params.get(&format!("{prefix}.{name}"))
    }

    fn optional(&self, prefix: &str, name: &str, present: bool) -> Result<Option<Tensor>> {
        present.then(|| self.param(prefix, name)).transpose()
    }

    /// A number for the next random layer of this step.
    fn draw(&self, seed: Seed) -> u64 {
        self.draws.set(self.draws.get() + 1);
        seed.child(self.draws.get()).0
    }

    fn linear(&self, l: &Linear, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let beside = |low: LowRank, x: &Tensor| {
            let [a, b] = low.beside_linear(l);
            self.plain_linear(&b, &self.plain_linear(&a, x)?)
        };
        self.updated(&l.name, l.update, x, mode, |x| self.plain_linear(l, x), beside)
    }

    fn plain_linear(&self, l: &Linear, x: &Tensor) -> Result<Tensor> {
        let bias = self.optional(&l.name, "bias", l.bias)?;
        Ok(k::linear(x, &self.param(&l.name, "weight")?, bias.as_ref())?)
    }

    fn plain_conv(&self, c: &Conv, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        let spec = k::ConvSpec {
            stride: c.window.stride,
            pads: c.window.pads(height, width),
            dilation: c.window.dilation,
            groups: c.groups,
        };
        let bias = self.optional(&c.name, "bias", c.bias)?;
        Ok(k::conv2d(x, &self.param(&c.name, "weight")?, bias.as_ref(), &spec)?)
    }

    /// A layer and its update; `beside` is the low-rank term before it is scaled.
    fn updated(
        &self,
        name: &str,
        update: Option<Update>,
        x: &Tensor,
        mode: Mode,
        plain: impl Fn(&Tensor) -> Result<Tensor>,
        beside: impl Fn(LowRank, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let factors = || Ok::<_, crate::Error>(self.param(name, "ia3_l")?.flatten_all()?);
        Ok(match update {
            None => plain(x)?,
            Some(Update::LowRank(low)) => {
                let y = plain(x)?;
                let dropped = match mode {
                    Mode::Train { seed, .. } if low.dropout > 0.0 => k::dropout(x, low.dropout, self.draw(seed))?,
                    _ => x.clone(),
                };
                (y + (beside(low, &dropped)? * low.scale())?)?
            }
            Some(Update::Rescale(Side::Inputs)) => plain(&x.broadcast_mul(&factors()?)?)?,
            Some(Update::Rescale(Side::Outputs)) => plain(x)?.broadcast_mul(&factors()?)?,
        })
    }

    fn batch_norm(&self, n: &BatchNorm, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (scale, shift) = (self.param(&n.name, "weight")?, self.param(&n.name, "bias")?);
        let (mean, variance) = (self.param(&n.name, "running_mean")?, self.param(&n.name, "running_var")?);
        let (y, batch) = match mode.normalization(n) {
            Normalization::Running => return Ok(k::batch_norm_eval(x, &scale, &shift, &mean, &variance, n.eps)?),
            Normalization::Batch => k::batch_norm_train(x, &scale, &shift, n.eps)?,
            Normalization::Mixed(running) => k::batch_norm_mixed(x, &scale, &shift, &running, &mean, &variance, n.eps)?,
        };
        // The running variance is of the population: unbiased, as PyTorch keeps it.
        let unbiased = batch.count as f64 / (batch.count as f64 - 1.0);
        let mut statistics = self.statistics.borrow_mut();
        for (name, old, new) in [("running_mean", mean, batch.mean), ("running_var", variance, (batch.var * unbiased)?)]
        {
            let moved = ((old * (1.0 - n.momentum))? + (new * n.momentum)?)?;
            statistics.push((format!("{}.{name}", n.name), moved));
        }
        Ok(y)
    }

    fn attention(&self, a: &Attention, x: &Tensor, rows: &Rows, mode: Mode) -> Result<Tensor> {
        let lengths = windows::of(lengths(rows, x.dims()[0]), a.window);
        let (asking, queries) = match a.asks {
            Asks::Every => (x.clone(), k::Queries::Rows),
            Asks::First => (k::pool_rows_first(x, &lengths)?, k::Queries::Samples),
        };
        let query = self.linear(&a.query, &asking, mode)?;
        let (key, value) = (self.linear(&a.key, x, mode)?, self.linear(&a.value, x, mode)?);
        let prefix = match &a.prefix {
            Some(prefix) => Some([self.param(&prefix.name, "key")?, self.param(&prefix.name, "value")?]),
            None => None,
        };
        let terms = match &a.distances {
            Some(distances) => {
                let buckets = distances.buckets(lengths.iter().copied().max().unwrap_or(0));
                let buckets = Tensor::new(buckets, x.device())?;
                Some(k::embed(&self.param(&distances.name, "weight")?, &buckets)?.t()?.contiguous()?)
            }
            None => None,
        };
        let prefix = prefix.as_ref().map(|[key, value]| [key, value]);
        let beside = k::Beside { prefix, terms: terms.as_ref(), queries };
        let dropout = match mode {
            Mode::Train { seed, .. } if a.dropout > 0.0 => Some((a.dropout, self.draw(seed))),
            _ => None,
        };
        let joined = k::attention_beside(&query, &key, &value, beside, &lengths, a.heads, dropout)?;
        self.linear(&a.output, &joined, mode)
    }
}

/// How many rows each sample owns.
pub(super) fn lengths(rows: &Rows, total: usize) -> Vec<usize> {
    match rows {
        Rows::One => vec![1; total],
        Rows::Each(lengths) => lengths.to_vec(),
    }
}

/// Each row's position within its sample or window, plus `offset`.
pub(super) fn positions(lengths: Vec<usize>, offset: usize) -> Vec<u32> {
    lengths.into_iter().flat_map(|n| (0..n).map(move |i| (i + offset) as u32)).collect()
}
