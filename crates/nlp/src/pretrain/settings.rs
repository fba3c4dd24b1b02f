//! The flags of `pretrain`, and the `run.toml` that they become.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use topwork_core::run::REPORT;
use topwork_core::train::OnNan;
use topwork_core::{Error, Result};

use crate::models::bert::BertConfig;

/// Flags that an evaluation has no use for.
const OF_TRAINING: [&str; 22] = [
    "model",
    "out",
    "force",
    "resume",
    "dry_run",
    "memory_limit",
    "epochs",
    "steps",
    "batch_size",
    "learning_rate",
    "warmup",
    "weight_decay",
    "clip_norm",
    "dropout",
    "checkpoint_every",
    "on_nan",
    "vocabulary",
    "cased",
    "layers",
    "width",
    "heads",
    "inner",
];

/// What to do.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PretrainArgs {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// Folder to make for the run: model, metrics and checkpoints
    #[arg(long, short, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Replace an earlier run at --out
    #[arg(long)]
    pub(super) force: bool,
    /// Go on with the interrupted run at --out, with its own settings and text
    #[arg(long, conflicts_with = "force")]
    pub(super) resume: bool,
    /// Train nothing: print how well this model guesses hidden tokens and next sentences of the text; of all of it, or,
    /// with the --hold-out and --seed of a run, of the part that the run was judged by
    #[arg(long, value_name = "MODEL", conflicts_with_all = OF_TRAINING)]
    pub(super) evaluate: Option<String>,
    /// Read the text and print what would be done, without training
    #[arg(long, conflicts_with_all = ["force", "resume"])]
    pub(super) dry_run: bool,
    /// Refuse steps that would take more memory than this, in GB; 0 for no bound [default: what is free]
    #[arg(long, value_name = "GB")]
    pub(super) memory_limit: Option<f64>,
}

/// Everything that decides a run; what is `None` has the value that the flag's help tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Settings {
    /// Files of UTF-8 text, plain or gzipped, and folders of them: a sentence or paragraph a line; a blank line, and the
    /// end of a file, ends a document
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub corpus: Vec<PathBuf>,
    /// Go on from this model of type bert, with its tokenizer, in place of random weights: a name from `models list`,
    /// hf-hub:owner/name, or a run or model folder
    #[arg(long, short, value_name = "MODEL", conflicts_with_all = ["vocabulary", "cased", "layers", "width", "heads", "inner"])]
    pub model: Option<String>,
    /// Decides everything random: same seed, same result [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Passes over the text [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    pub epochs: Option<usize>,
    /// Steps, in place of passes
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Pairs of texts a step [default: 64]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Longest sequence, in tokens [default: 128, or the model's longest if that is less]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Peak learning rate [default: 1e-3 from random weights, 5e-5 from a model's]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Share of the steps in which it rises; then it falls to zero in a straight line [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub warmup: Option<f64>,
    /// Decoupled weight decay of AdamW [default: 0.01]
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// Largest norm of the gradient [default: 1]
    #[arg(long, value_name = "X")]
    pub clip_norm: Option<f64>,
    /// Dropout while pre-training [default: the model's own]
    #[arg(long, value_name = "P")]
    pub dropout: Option<f64>,
    /// Share of the tokens that are to be guessed [default: 0.15]
    #[arg(long, value_name = "SHARE")]
    pub mask: Option<f64>,
    /// Hide words with all their pieces
    #[arg(long)]
    pub whole_words: bool,
    /// Share of the documents that are held out to judge by [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub hold_out: Option<f64>,
    /// Write a checkpoint every N steps [default: every five minutes]
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<usize>,
    /// What to do when the loss or its gradient is no number [default: stop]
    #[arg(long, value_name = "NAME")]
    pub on_nan: Option<OnNan>,
    /// Tokens of the vocabulary that is learned from the text [default: 8000]
    #[arg(long, value_name = "N", help_heading = "From random weights")]
    pub vocabulary: Option<usize>,
    /// Tell capital letters and accents from others
    #[arg(long, help_heading = "From random weights")]
    pub cased: bool,
    /// Layers of the encoder [default: 4]
    #[arg(long, value_name = "N", help_heading = "From random weights")]
    pub layers: Option<usize>,
    /// Width of its rows [default: 256]
    #[arg(long, value_name = "N", help_heading = "From random weights")]
    pub width: Option<usize>,
    /// Attention heads, which share the width [default: 4]
    #[arg(long, value_name = "N", help_heading = "From random weights")]
    pub heads: Option<usize>,
    /// Width inside the feed-forward part [default: four times the width]
    #[arg(long, value_name = "N", help_heading = "From random weights")]
    pub inner: Option<usize>,
}

/// Values where none was given.
macro_rules! defaults {
    ($($name:ident: $kind:ty = $value:expr;)*) => {
        impl Settings {
            $(pub fn $name(&self) -> $kind {
                #[allow(clippy::redundant_closure_call)]
                self.$name.unwrap_or_else(|| ($value)(self))
            })*

            /// The same with every value filled in that the run depends on.
            pub fn resolved(mut self) -> Self {
                let longest = self.max_tokens;
                $(self.$name = Some(self.$name());)*
                if self.steps.is_none() {
                    self.epochs.get_or_insert(3);
                }
                if self.model.is_some() {
                    (self.vocabulary, self.layers, self.width) = (None, None, None);
                    (self.heads, self.inner) = (None, None);
                    // As many as the model has positions for.
                    self.max_tokens = longest;
                }
                self
            }
        }
    };
}

defaults! {
    seed: u64 = |_: &Self| 0;
    batch_size: usize = |_: &Self| 64;
    max_tokens: usize = |_: &Self| 128;
    learning_rate: f64 = |own: &Self| if own.model.is_some() { 5e-5 } else { 1e-3 };
    warmup: f64 = |_: &Self| 0.1;
    weight_decay: f64 = |_: &Self| 0.01;
    clip_norm: f64 = |_: &Self| 1.0;
    mask: f64 = |_: &Self| 0.15;
    hold_out: f64 = |_: &Self| 0.01;
    vocabulary: usize = |_: &Self| 8000;
    layers: usize = |_: &Self| 4;
    width: usize = |_: &Self| 256;
    heads: usize = |_: &Self| 4;
    inner: usize = |own: &Self| 4 * own.width();
}

impl Settings {
    /// How many steps a run of so many pairs an epoch takes.
    pub fn steps(&self, pairs: u64) -> usize {
        let epochs = self.epochs.unwrap_or(3);
        self.steps.unwrap_or_else(|| (epochs as u64 * pairs).div_ceil(self.batch_size() as u64) as usize)
    }

    /// The `config.json` of a new encoder of so many words.
    pub fn shape(&self, words: usize) -> Map<String, Value> {
        let config = json!({
            "model_type": "bert",
            "vocab_size": words,
            "hidden_size": self.width(),
            "num_hidden_layers": self.layers(),
            "num_attention_heads": self.heads(),
            "intermediate_size": self.inner(),
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": self.max_tokens(),
            "type_vocab_size": 2,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        });
        if let Value::Object(config) = config { config } else { Map::new() }
    }

    /// Looks for numbers that make no sense.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("steps", self.steps),
            ("epochs", self.epochs),
            ("batch-size", self.batch_size),
            ("checkpoint-every", self.checkpoint_every),
            ("layers", self.layers),
            ("width", self.width),
            ("heads", self.heads),
            ("inner", self.inner),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, value)| *value == Some(0)) {
            return Err(Error::input(format!("--{name} 0"), "it must be at least 1", "choose a larger number"));
        }
        super::room(self.max_tokens())?;
        let shares = [
            ("warmup", Some(self.warmup()), 0.0..=1.0),
            ("mask", Some(self.mask()), 0.001..=0.9),
            ("hold-out", Some(self.hold_out()), 0.0..=0.9),
            ("dropout", self.dropout, 0.0..=0.9),
            ("learning-rate", Some(self.learning_rate()), f64::MIN_POSITIVE..=10.0),
            ("weight-decay", Some(self.weight_decay()), 0.0..=10.0),
            ("clip-norm", Some(self.clip_norm()), f64::MIN_POSITIVE..=f64::MAX),
        ];
        for (name, value, range) in shares {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let reason = format!("is not between {:e} and {:e}", range.start(), range.end());
                return Err(Error::input(format!("--{name} {value}"), reason, "see `pretrain --help`"));
            }
        }
        if self.on_nan == Some(OnNan::Rollback) && self.checkpoint_every.is_none() {
            let reason = "the checkpoints to go back to are written by the clock";
            return Err(Error::input("--on-nan rollback", reason, "say how often with --checkpoint-every N"));
        }
        if self.model.is_some() {
            return Ok(());
        }
        let (width, heads) = (self.width(), self.heads());
        if !width.is_multiple_of(heads) {
            let reason = format!("the width, {width}, cannot be shared evenly");
            return Err(Error::input(format!("--heads {heads}"), reason, "choose a divisor of --width"));
        }
        match BertConfig::parse(&Value::Object(self.shape(self.vocabulary())).to_string(), "the network") {
            Err(Error::Input { reason, .. }) => Err(Error::input("the network", reason, "choose smaller numbers")),
            other => other.map(drop),
        }
    }

    pub fn text(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::input("run.toml", e, "report this as a defect"))
    }

    /// The settings of the interrupted run at `out`; flags may repeat them.
    pub fn of_run(&self, out: &Path) -> Result<Self> {
        let path = out.join("run.toml");
        if !path.is_file() {
            let reason = "there is no run to resume: it has no run.toml";
            let remedy = "leave out --resume, or name the run's folder with --out";
            return Err(Error::input(out.display(), reason, remedy));
        }
        if out.join(REPORT).is_file() {
            let remedy = "use its model, or start another run with another --out";
            return Err(Error::input(out.display(), "this run is finished: there is nothing to resume", remedy));
        }
        let text = topwork_core::files::read_small_text(&path).map_err(Error::io(&path))?;
        let remedy = "restore the file as `pretrain` wrote it, or start anew with another --out";
        let run: Self =
            toml::from_str(&text).map_err(|e| Error::input(path.display(), e.to_string().trim_end(), remedy))?;
        let unusable = |e: serde_json::Error| Error::input("the settings", e, "report this as a defect");
        let theirs = serde_json::to_value(&run).map_err(unusable)?;
        let own = serde_json::to_value(self).map_err(unusable)?;
        for (flag, value) in own.as_object().into_iter().flatten() {
            let unset =
                matches!(value, Value::Null | Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty);
            if !unset && flag != "checkpoint-every" && theirs.get(flag) != Some(value) {
                return Err(Error::input(
                    format!("--{flag}"),
                    format!("the run to resume was started with {}", theirs.get(flag).unwrap_or(&Value::Null)),
                    "leave it out, or start another run with another --out",
                ));
            }
        }
        Ok(Self { checkpoint_every: self.checkpoint_every.or(run.checkpoint_every), ..run })
    }
}
