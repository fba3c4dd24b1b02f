//! The two heads that BERT is pre-trained with, as values; names are those of `BertForPreTraining`.
//!
//! Hidden tokens: [`super::masked`].
//! Whether the second text follows the first: `tanh(W x + b)` of the first row, then a linear layer of two outputs, 0 for
//! yes and 1 for no.

use topwork_core::net::params::Init;
use topwork_core::net::{Act, Layer, ParamSpec, PoolRows, Role, Stage};

use super::{BertConfig, linear};

/// What names of parameters beside the encoder begin with.
pub const PREFIX: &str = "cls.";
/// The table that decodes.
pub const TABLE: &str = "embeddings.word_embeddings.weight";
/// Added to what it gives.
pub const BIAS: &str = "cls.predictions.bias";

/// An encoder that gives every row, and what stands on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pretraining {
    /// From `[word, segment]` to rows of width `hidden_size`.
    pub encoder: Vec<Stage>,
    /// From the rows of hidden tokens to what the table is multiplied with.
    pub predictions: Stage,
    /// From all rows to `[samples, 2]`.
    pub next: Stage,
    /// Rows of the table.
    words: usize,
}

impl BertConfig {
    /// The network that is pre-trained. `None` for members that are not pre-trained like this.
    pub fn pretraining(&self) -> Option<Pretraining> {
        if self.family.model_type != "bert" {
            return None;
        }
        let width = self.hidden_size;
        let next = vec![
            Layer::PoolRows(PoolRows::First),
            linear("pooler.dense", width, width),
            Layer::Act(Act::Tanh),
            linear("cls.seq_relationship", width, 2),
        ];
        let next = Stage { name: "next".into(), layers: next };
        Some(Pretraining { encoder: self.encoder(), predictions: self.guessing(), next, words: self.vocab_size })
    }
}

impl Pretraining {
    /// The parameters of the heads, the table aside.
    pub fn heads(&self) -> Vec<ParamSpec> {
        let bias =
            ParamSpec { name: BIAS.into(), shape: vec![self.words], role: Role::Bias, init: Init::Constant(0.0) };
        [self.predictions.params(), self.next.params(), vec![bias]].concat()
    }

    /// All parameters.
    pub fn params(&self) -> Vec<ParamSpec> {
        self.encoder.iter().flat_map(Stage::params).chain(self.heads()).collect()
    }
}
