//! The head that guesses hidden tokens, as a value: `LN(act(W x + b))` of a row, times the word table (Press & Wolf 2017), plus
//! a bias for each word. Its names are those of the member's `…ForMaskedLM` in `transformers`.

use topwork_core::net::{Act, Layer, Stage};

use super::{BertConfig, Pooling, linear};

/// The names of a member's head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess {
    /// Prefix of the linear layer, to the width of the tables.
    pub dense: &'static str,
    /// The activation, where it is not that of the encoder.
    pub act: Option<Act>,
    /// Prefix of the normalization.
    pub norm: &'static str,
    /// The bias of each word.
    pub bias: &'static str,
    /// Prefix of the table where a checkpoint has one beside the word table.
    pub decoder: &'static str,
}

impl BertConfig {
    /// From every row of the encoder to what the table is multiplied with.
    pub fn guessing(&self) -> Stage {
        let Guess { dense, act, norm, .. } = self.family.guess;
        let width = self.table_width();
        let layers = vec![
            linear(dense, self.hidden_size, width),
            Layer::Act(act.or(self.act()).unwrap_or(Act::Gelu)),
            self.norm(norm, width),
        ];
        Stage { name: "predictions".into(), layers }
    }

    /// The encoder alone, which gives every row.
    pub fn encoder(&self) -> Vec<Stage> {
        self.network(Pooling::Tokens, 2).stages
    }
}
