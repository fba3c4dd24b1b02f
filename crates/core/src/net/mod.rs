//! A network as a value: stages of layers, with the parameter names of the original checkpoint.
//!
//! From this one description come the trainable pass ([`tape`] on the CPU, [`forward`] anywhere), the fused frozen one ([`frozen`]), the list
//! of parameters ([`params`]) and the counts of operations ([`count`]). Adding a network means adding a value.
//!
//! Images flow as `[samples, height, width, channels]`, sequences as `[total rows, width]` with the rows of each
//! sample behind each other, so that no padding is ever computed.

pub mod adapt;
pub mod count;
mod distance;
pub mod forward;
pub mod frozen;
pub mod grad_cam;
pub mod params;
pub mod tape;
mod update;
mod windows;

pub use params::{ParamSpec, Params, Role};
pub use update::{LowRank, Side, Update};

/// A backbone of consecutive stages, and the head on top.
///
/// ```
/// use topwork_core::net::{Act, Layer, Linear, Network, Stage};
///
/// let linear = |name: &str, inputs, outputs| {
///     Layer::Linear(Linear { name: name.into(), inputs, outputs, bias: true, update: None })
/// };
/// let network = Network {
///     name: "small".into(),
///     stages: vec![Stage { name: "hidden".into(), layers: vec![linear("hidden", 4, 8), Layer::Act(Act::Relu)] }],
///     head: Stage { name: "head".into(), layers: vec![linear("head", 8, 3)] },
///     input: vec![4],
/// };
/// assert_eq!((network.features(), network.classes()), (8, 3));
/// assert_eq!(network.parameters(), 4 * 8 + 8 + 8 * 3 + 3);
/// assert_eq!(network.with_classes(5).classes(), 5);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// The architecture's name: `resnet18`.
    pub name: String,
    /// From input to pooled features; the last one ends in `[samples, width]`.
    pub stages: Vec<Stage>,
    /// The task-specific layers: `[samples, width]` to `[samples, classes]`.
    pub head: Stage,
    /// The shape of one row of input, for counting: `[224, 224, 3]`, or `[2]` for a token and its segment.
    pub input: Vec<usize>,
}

/// The unit of freezing, of learning-rate groups and of caching.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `layer1`, `encoder.layer.0`, …
    pub name: String,
    /// In order.
    pub layers: Vec<Layer>,
}

/// One operation, or a group of them. `name`s are prefixes of parameter names: `layer1.0.conv1`.
#[allow(clippy::large_enum_variant)] // A network has a few hundred of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// 2-D convolution; `[b, h, w, inputs]` to `[b, h', w', outputs]`. Parameters `weight` `[outputs, inputs / groups, kh, kw]`, `bias`.
    Conv(Conv),
    /// `y = x Wᵀ + b` on the last dimension. Parameters `weight` `[outputs, inputs]`, `bias`.
    Linear(Linear),
    /// Batch normalization over all but the last dimension (Ioffe & Szegedy 2015). Parameters `weight`, `bias`;
    /// buffers `running_mean`, `running_var`, `num_batches_tracked`.
    BatchNorm(BatchNorm),
    /// Layer normalization over the last dimension (Ba et al. 2016). Parameters `weight`, `bias`.
    LayerNorm(LayerNorm),
    /// Elementwise non-linearity.
    Act(Act),
    /// Largest value of a window.
    MaxPool(Window),
    /// Means of this many windows, which cover the image: `[b, h, w, c]` to `[b, h', w', c]`.
    AdaptiveAvgPool([usize; 2]),
    /// `[b, h, w, c]` to `[b, c · h · w]`: channel by channel, as checkpoints of networks with the channels first need it.
    Flatten,
    /// Sum of looked-up table rows: `[rows, columns]` of indices to `[rows, width]`.
    Embed(Embed),
    /// Multi-head self-attention within each sample's rows (Vaswani et al. 2017), output projection included.
    Attention(Attention),
    /// One row for each sample out of its rows.
    PoolRows(PoolRows),
    /// `x ⊙ layers(x)`: images `[b, h, w, c]` times one factor for each sample and channel, which `layers` make of the same
    /// images as `[b, 1, 1, c]` (squeeze-and-excitation, Hu et al. 2018).
    Gate(Vec<Layer>),
    /// Random zeroing in training, scaled by 1 / (1 - p).
    Dropout(f32),
    /// `then(body(x) + shortcut(x))`; an empty shortcut is the identity.
    Residual(Residual),
    /// The same, put into a network that was trained without it: its parameters are an adapter's.
    Adapter(Residual),
    /// The same layers several times, with the same parameters (Lan et al. 2020).
    Repeat(Repeat),
}

/// See [`Layer::Conv`].
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Parameter prefix.
    pub name: String,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Kernel, stride, padding, dilation.
    pub window: Window,
    /// Channel groups; `inputs` of them is a depthwise convolution.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// A learned change of the weight, kept apart from it.
    pub update: Option<Update>,
}

/// A sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Step down and across.
    pub stride: [usize; 2],
    /// What is added around the input.
    pub padding: Padding,
    /// Spacing of the kernel's taps.
    pub dilation: [usize; 2],
}

/// What a window does at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// This many zeros above and below, left and right.
    Even([usize; 2]),
    /// TensorFlow's "SAME": ⌈size / stride⌉ outputs, the odd zero at the end.
    Same,
}

impl Window {
    /// A square window with padding `(kernel - 1) / 2` and no dilation, as most networks have it.
    pub fn square(kernel: usize, stride: usize) -> Self {
        let pad = (kernel - 1) / 2;
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: Padding::Even([pad; 2]), dilation: [1; 2] }
    }

    /// The same window with TensorFlow's padding.
    pub fn same(self) -> Self {
        Self { padding: Padding::Same, ..self }
    }

    /// Zeros added to an input of `height` × `width`: `[top, bottom, left, right]`.
    pub fn pads(&self, height: usize, width: usize) -> [usize; 4] {
        match self.padding {
            Padding::Even([y, x]) => [y, y, x, x],
            Padding::Same => {
                let total = |size: usize, axis: usize| {
                    let outputs = size.div_ceil(self.stride[axis]);
                    let reach = (outputs - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1;
                    reach.saturating_sub(size)
                };
                let (y, x) = (total(height, 0), total(width, 1));
                [y / 2, y - y / 2, x / 2, x - x / 2]
            }
        }
    }
}

/// See [`Layer::Linear`].
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Parameter prefix.
    pub name: String,
    /// Input width.
    pub inputs: usize,
    /// Output width.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// A learned change of the weight, kept apart from it.
    pub update: Option<Update>,
}

/// See [`Layer::BatchNorm`].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    /// Parameter prefix.
    pub name: String,
    /// Channels.
    pub width: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the newest batch in the running statistics (PyTorch's convention).
    pub momentum: f64,
}

/// See [`Layer::LayerNorm`].
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// Parameter prefix.
    pub name: String,
    /// Width.
    pub width: usize,
    /// Added to the variance.
    pub eps: f64,
}

pub use topwork_kernels::Act;

/// See [`Layer::Embed`].
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// The tables whose rows are summed.
    pub tables: Vec<Table>,
    /// Width of every table.
    pub width: usize,
    /// See [`Attention::window`].
    pub window: Option<usize>,
}

/// One table of an [`Embed`].
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Parameter prefix; the parameter is `weight` `[rows, width]`.
    pub name: String,
    /// Number of rows.
    pub rows: usize,
    /// Which row to take.
    pub index: Index,
}

/// Where an index into a [`Table`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// A column of the input.
    Column(usize),
    /// The row's position within its sample, or its window, plus this offset.
    Position(usize),
}

/// See [`Layer::Attention`].
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Projection to queries.
    pub query: Linear,
    /// Projection to keys.
    pub key: Linear,
    /// Projection to values.
    pub value: Linear,
    /// Projection of the joined heads.
    pub output: Linear,
    /// Number of heads.
    pub heads: usize,
    /// Dropout on the attention weights, in training.
    pub dropout: f32,
    /// Learned keys and values in front of every sample's own.
    pub prefix: Option<Prefix>,
    /// Learned terms of the scores by the distance of key and query.
    pub distances: Option<Distances>,
    /// Which rows ask: one of each sample comes out where only its first does.
    pub asks: Asks,
    /// Rows of a window: a sample of more is several of them behind each other, all but the last of this many, that do not see
    /// each other. Without it, a sample is one.
    pub window: Option<usize>,
}

/// See [`Attention::asks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Every row.
    Every,
    /// The first row of each sample. Where nothing else is looked at behind an encoder's last layer (`[CLS]`), that layer
    /// need not compute the others.
    First,
}

/// Terms of attention scores, one for each head and bucket of distances. Parameter `weight` `[buckets, heads]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Distances {
    /// Parameter prefix.
    pub name: String,
    /// Number of buckets.
    pub buckets: usize,
    /// From this distance on, all are in the last bucket.
    pub farthest: usize,
    /// Whether the parameter is that of an earlier attention, with which it learns or does not.
    pub shared: bool,
}

/// Keys and values that belong to no row (Li & Liang 2021). Parameters `key` and `value`, `[length, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefix {
    /// Parameter prefix.
    pub name: String,
    /// How many of each.
    pub length: usize,
}

/// See [`Layer::PoolRows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolRows {
    /// Their mean.
    Mean,
    /// The first one.
    First,
    /// The largest value of each column.
    Max,
}

/// See [`Layer::Residual`].
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    /// The main path.
    pub body: Vec<Layer>,
    /// The other path; empty for the identity.
    pub shortcut: Vec<Layer>,
    /// Applied to the sum.
    pub then: Vec<Layer>,
}

/// See [`Layer::Repeat`].
#[derive(Debug, Clone, PartialEq)]
pub struct Repeat {
    /// In order.
    pub layers: Vec<Layer>,
    /// How often they follow each other.
    pub times: usize,
}

impl Window {
    /// Height and width of what it makes of `height` × `width`; 0 where it does not fit.
    pub fn out_size(&self, height: usize, width: usize) -> [usize; 2] {
        let [top, bottom, left, right] = self.pads(height, width);
        let out = |size: usize, axis: usize| {
            let reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            if size < reach { 0 } else { (size - reach) / self.stride[axis] + 1 }
        };
        [out(height + top + bottom, 0), out(width + left + right, 1)]
    }
}

impl Network {
    /// Index of the stage called `name`.
    pub fn stage(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.name == name)
    }

    /// Width of the pooled features: the head's input.
    pub fn features(&self) -> usize {
        self.head.layers.iter().find_map(|l| if let Layer::Linear(l) = l { Some(l.inputs) } else { None }).unwrap_or(0)
    }

    /// Number of classes: the outputs of the head's last linear layer.
    pub fn classes(&self) -> usize {
        let last = self.head.layers.iter().rev();
        last.filter_map(|l| if let Layer::Linear(l) = l { Some(l.outputs) } else { None }).next().unwrap_or(0)
    }

    /// The same backbone with a head of `classes` outputs.
    pub fn with_classes(mut self, classes: usize) -> Self {
        if let Some(Layer::Linear(linear)) = self.head.layers.iter_mut().rev().find(|l| matches!(l, Layer::Linear(_))) {
            linear.outputs = classes;
        }
        self
    }
}
