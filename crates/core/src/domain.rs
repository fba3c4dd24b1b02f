//! What a domain (photos, text, …) supplies so that everything else can be shared.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adapter::Upstream;
use crate::batched::Named;
use crate::classifier::Classifier;
use crate::cli::Common;
use crate::data::{Sample, Splits};
use crate::metrics::Metrics;
use crate::net::Network;
use crate::onnx;
use crate::seed::Seed;
use crate::source::{Card, RemoteFile};
use crate::strategy::Defaults;
use crate::task::Task;
use crate::{Error, Result};

/// A kind of data with its networks and its pipeline. `topwork-core` knows a domain only through this.
pub trait Domain: Sized + Clone + Debug + Default + Send + Sync + 'static {
    /// The binary's name: `topwork-cv`.
    const BINARY: &'static str;
    /// What one sample is called, singular and plural: `("photo", "photos")`.
    const ITEM: (&'static str, &'static str);

    /// The model to start from when none is named.
    const DEFAULT_MODEL: &'static str;
    /// The model to start from when none is named and that one cannot be had: it is part of the program.
    const EMBEDDED_MODEL: Option<&'static str> = None;
    /// What to fetch of a hub repository that has no card.
    const HUB_FILES: &'static [RemoteFile] = &[];
    /// The libraries whose names [`Domain::state_dict`] can give.
    const LIBRARIES: &'static [&'static str] = &[];

    /// What the inputs of an ONNX graph are called.
    const GRAPH_INPUTS: onnx::Inputs = onnx::Inputs::Channels("input");

    /// How a file becomes a [`Sample`] for one model: sizes, normalization, tokenizer. It is kept in `model/`.
    type Pipeline: Send + Sync + Clone + 'static;
    /// One thing to predict on, as a program holds it: a path, a text.
    type Input: ?Sized;
    /// Flags that say where labelled data is and how to read it; flattened into `train` and `evaluate`.
    type DataArgs: clap::Args + Clone + Debug + Default + Serialize + DeserializeOwned + Send + Sync;
    /// Flags that say what to predict on; flattened into `predict` and `embed`.
    type InputArgs: clap::Args + Clone + Debug;
    /// Flags that say in which views samples are predicted on; flattened into `predict` and `evaluate`. [`NoFlags`] where
    /// there is one view only.
    type ViewArgs: clap::Args + Clone + Debug + Default;
    /// Verbs that this domain alone has; [`NoVerbs`] where it has none.
    type Verbs: Verbs;

    /// The models known by name.
    fn cards() -> &'static [Card] {
        &[]
    }

    /// Settings that suit this domain when the user gives none.
    fn defaults() -> Defaults;

    /// Understands a model folder in the upstream layout (weights, configuration, preprocessing, labels). `card` is
    /// given when the model was asked for by its name: it knows what the files do not say.
    ///
    /// # Errors
    /// When the folder is not a model of this domain.
    fn open(folder: &Path, card: Option<&Card>) -> Result<Opened<Self::Pipeline>>;

    /// What a card says of its model by itself: description and preprocessing, no weights. `None` where that takes files,
    /// a tokenizer for instance.
    fn describe(_card: &Card) -> Option<Opened<Self::Pipeline>> {
        None
    }

    /// The description of an architecture, by its own name: what training from random weights needs. No weights.
    fn outline(_architecture: &str) -> Option<Opened<Self::Pipeline>> {
        None
    }

    /// In a line, how inputs are prepared: what `models show` says of a model.
    fn preparation(_pipeline: &Self::Pipeline) -> Option<String> {
        None
    }

    /// Writes a model folder in the upstream layout: what [`Domain::open`] and the Python library both read.
    ///
    /// # Errors
    /// When it cannot be written.
    fn save(folder: &Path, model: &Opened<Self::Pipeline>) -> Result<()>;

    /// All tensors of a model without adapters, as a library's own state dict; without a `library`, under the description's
    /// names.
    ///
    /// # Errors
    /// When the library does not know the network, or a tensor is missing.
    fn state_dict(model: &Opened<Self::Pipeline>, _library: Option<&str>) -> Result<BTreeMap<String, Tensor>> {
        let missing = |name| Error::Tensor(candle_core::Error::Msg(format!("a model without {name:?}")));
        let specs = model.network.params().into_iter().map(|spec| spec.name);
        specs.map(|name| Ok((name.clone(), model.weights.get(&name).cloned().ok_or_else(|| missing(name))?))).collect()
    }

    /// What the flags of `args` change about the model (a longest sequence, an image size, how rows become one). Called
    /// once after [`Domain::open`], before anything depends on it; what comes back is what is saved. The weights may not
    /// be there yet.
    ///
    /// # Errors
    /// When the model cannot work with it.
    fn configure(model: Opened<Self::Pipeline>, _args: &Self::DataArgs) -> Result<Opened<Self::Pipeline>> {
        Ok(model)
    }

    /// Of `args`, what [`Domain::configure`] reads.
    fn configuration(_args: &Self::DataArgs) -> Self::DataArgs {
        Self::DataArgs::default()
    }

    /// How the library that models come from calls their parameters, for adapter files that peft reads.
    fn upstream(_pipeline: &Self::Pipeline) -> Upstream {
        Upstream { prefix: "", task_type: None, has_head: true }
    }

    /// What the flags of `args` change about a model that is used: a longest sequence, for instance.
    ///
    /// # Errors
    /// When the model cannot work with it.
    fn used(model: Opened<Self::Pipeline>, _args: &Self::InputArgs) -> Result<Opened<Self::Pipeline>> {
        Ok(model)
    }

    /// Reads labelled data. `seed` decides a split that the data do not come with. What is `known` is the task of an
    /// existing model: its labels are the only ones.
    ///
    /// # Errors
    /// When the data cannot be used: the file or row, the reason, the remedy.
    fn splits(args: &Self::DataArgs, pipeline: &Self::Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits>;

    /// Things to predict on, streamed in order.
    ///
    /// # Errors
    /// When the flags do not fit together or a path does not exist.
    fn inputs(args: &Self::InputArgs, pipeline: &Self::Pipeline) -> Result<Inputs>;

    /// Prepares one thing to predict on.
    ///
    /// # Errors
    /// When it cannot be read, naming it.
    fn sample(input: &Self::Input, pipeline: &Self::Pipeline) -> Result<Sample>;

    /// Answers inputs of a task whose answers are more than the head's outputs of a sample: entities and passages of a text,
    /// with their places. At most `top` answers to each. `None` where [`Classifier::predict_samples`] says all.
    ///
    /// # Errors
    /// As [`Domain::inputs`].
    fn answers<'a>(
        _classifier: &'a Classifier<Self>,
        _args: &Self::InputArgs,
        _top: Option<usize>,
    ) -> Result<Option<Answers<'a>>> {
        Ok(None)
    }

    /// What the scores on the validation samples decide about a model that was trained: a threshold.
    fn conclude(_pipeline: &mut Self::Pipeline, _scores: &Metrics) {}

    /// The same preprocessing, its plain samples in the views of `args`: each a row of its own.
    fn viewed(pipeline: Self::Pipeline, _args: &Self::ViewArgs) -> Self::Pipeline {
        pipeline
    }

    /// Whether the library that a model comes from hands out its pooled features scaled to length 1, as
    /// sentence-transformers may. A head sees them unscaled.
    fn normalizes(_pipeline: &Self::Pipeline) -> bool {
        false
    }

    /// Key of everything in `pipeline` that plain samples depend on, for the feature cache.
    fn fingerprint(pipeline: &Self::Pipeline) -> String;
}

/// Verbs of a domain's own, beside those that all share.
pub trait Verbs: clap::Subcommand {
    /// Does what the command line says.
    ///
    /// # Errors
    /// What the user can mend, or a defect.
    fn run(self, common: &Common) -> Result<()>;
}

/// No flags of its own.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct NoFlags {}

/// No verbs of its own.
#[derive(Debug, Clone, Copy)]
pub enum NoVerbs {}

impl clap::FromArgMatches for NoVerbs {
    fn from_arg_matches(_: &clap::ArgMatches) -> Result<Self, clap::Error> {
        Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand))
    }

    fn update_from_arg_matches(&mut self, _: &clap::ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

impl clap::Subcommand for NoVerbs {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        command
    }

    fn has_subcommand(_: &str) -> bool {
        false
    }
}

impl Verbs for NoVerbs {
    fn run(self, _: &Common) -> Result<()> {
        match self {}
    }
}

/// An answer to one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// In words, as lines behind the input's name.
    pub lines: Vec<String>,
    /// The fields of a JSON object.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// The name of each input and its answer, or why there is none; an error for itself ends all.
pub type Answers<'a> = Box<dyn Iterator<Item = Result<(String, Result<Answer>)>> + 'a>;

/// The name of each input and its sample, or why there is none; prepared ahead.
pub type Inputs = Named<Sample>;

/// A model folder, understood.
#[derive(Debug, Clone)]
pub struct Opened<P> {
    /// The description, with the head that the folder holds.
    pub network: Network,
    /// The tensors found, by the description's names; unknown ones are kept for the report.
    pub weights: BTreeMap<String, Tensor>,
    /// Preprocessing.
    pub pipeline: P,
    /// What its head is for, when the folder names its outputs.
    pub task: Option<Task>,
}
