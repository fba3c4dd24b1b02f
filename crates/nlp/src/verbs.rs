//! The verbs that only text has.

use topwork_core::Result;
use topwork_core::cli::Common;

use crate::masked::{self, FillArgs};
use crate::pretrain::{self, PretrainArgs};
use crate::similarity::{self, SimilarityArgs};

/// Beside those that all domains share.
#[derive(Debug, clap::Subcommand)]
pub enum Verbs {
    /// Train a BERT on plain text, from random weights or a model's, to make a model that `train` starts from
    Pretrain(Box<PretrainArgs>),
    /// Guess the words that stand behind `[MASK]` in a text
    FillMask(FillArgs),
    /// Tell how near the two texts of a pair are, and how well that follows the scores of a table
    Similarity(SimilarityArgs),
}

impl topwork_core::domain::Verbs for Verbs {
    fn run(self, common: &Common) -> Result<()> {
        match self {
            Self::Pretrain(args) => pretrain::run(*args, common),
            Self::FillMask(args) => masked::run(&args, common),
            Self::Similarity(args) => similarity::run(&args, common),
        }
    }
}
