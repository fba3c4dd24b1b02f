//! How near the two texts of a pair are: the cosine of their vectors, and how well those of many pairs follow scores that people
//! gave (semantic textual similarity, Cer et al. 2017).

use std::path::{Path, PathBuf};

use serde_json::json;
use topwork_core::cli::{Common, Console, print_line};
use topwork_core::domain::Domain;
use topwork_core::{Error, Result, fit, metrics};

use crate::dataset::text_columns;
use crate::input::InputArgs;
use crate::models::bert::Pooling;
use crate::table::{Table, format_of, open_source, place};
use crate::{Embedder, Sentences};

/// Pairs that are embedded together.
const PAIRS: usize = 64;

/// The flags of `similarity`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimilarityArgs {
    /// Model that makes vectors: a name from `models list`, hf-hub:owner/name, a model folder or a run
    #[arg(value_name = "MODEL")]
    model: String,
    /// Tables of pairs (.tsv, .csv, .jsonl)
    #[arg(value_name = "FILE", required_unless_present = "text")]
    files: Vec<PathBuf>,
    /// A text; given twice, the two are compared
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Vec<String>,
    /// Column of the first text [default: as in training]
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Column of the second text [default: as in training]
    #[arg(long, value_name = "NAME")]
    pair_column: Option<String>,
    /// Column of the scores that people gave; how well the cosines follow them is told at the end [default: score, if there is one]
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// How the rows of a text become one [default: as the model comes]
    #[arg(long, value_name = "NAME")]
    pooling: Option<Pooling>,
    /// Longest sequence, in tokens [default: as the model was trained]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

/// Two texts, and the score that people gave them.
struct Pair {
    texts: [String; 2],
    score: Option<f64>,
}

/// Cosines and scores of all pairs so far.
#[derive(Default)]
struct Compared {
    cosines: Vec<f64>,
    scores: Vec<f64>,
}

/// See [`crate::verbs::Verbs::Similarity`].
pub(crate) fn run(args: &SimilarityArgs, common: &Common) -> Result<()> {
    let named = match args.text.as_slice() {
        [] => None,
        [first, second] => Some(Pair { texts: [first.clone(), second.clone()], score: None }),
        _ => return Err(Error::input("--text", "two texts are compared", "give it twice, or name a table of pairs")),
    };
    // Errors in paths and columns shall be seen before the first cosine.
    let tables = args.files.iter().map(|file| args.open(file)).collect::<Result<Vec<_>>>()?;
    let console = Console::new(common.quiet);
    let opened = fit::open_any::<Sentences>(&args.model, common.offline, &console)?;
    let flags = InputArgs { pooling: args.pooling, max_tokens: args.max_tokens, ..InputArgs::default() };
    let model = Embedder::new(Sentences::used(opened, &flags)?, common.place()?, &args.model)?.normalized();
    let mut compared = Compared::default();
    let mut waiting: Vec<Pair> = named.into_iter().collect();
    for (mut table, wanted) in tables {
        while let Some((line, row)) = table.next_row(&wanted) {
            let mut cells = row?.into_iter();
            let texts = [(); 2].map(|()| cells.next().unwrap_or_default());
            let number = |cell: String| {
                let score = cell.trim().parse().ok().filter(|score: &f64| score.is_finite());
                let unusable =
                    || Error::input(place(&table.name, line), format!("has the score {cell:?}"), "give a number");
                score.ok_or_else(unusable)
            };
            // A score that nobody asked for may be missing.
            let asked = args.label_column.is_some();
            let score = cells.next().map(number).transpose().or_else(|e| if asked { Err(e) } else { Ok(None) })?;
            waiting.push(Pair { texts, score });
            if waiting.len() >= PAIRS {
                compared.add(&model, std::mem::take(&mut waiting), common)?;
            }
        }
    }
    compared.add(&model, waiting, common)?;
    compared.told(common)
}

impl SimilarityArgs {
    /// A table, and where its texts and scores are.
    fn open(&self, file: &Path) -> Result<(Table, Vec<usize>)> {
        let table = Table::new(&file.display().to_string(), open_source(file)?, format_of(file))?;
        let (text, pair) = (self.text_column.as_deref(), self.pair_column.as_deref());
        let (first, second) = text_columns(&table, text, pair, "--text-column")?;
        let second = second.ok_or_else(|| {
            let reason =
                format!("has no column that is known to hold a second text; its columns are {}", table.listed());
            Error::input(&table.name, reason, "name it with --pair-column")
        })?;
        let score = match &self.label_column {
            Some(name) => Some(table.column(name, "--label-column")?),
            None => table.find(&["score", "similarity_score"]),
        };
        Ok((table, [Some(first), Some(second), score].into_iter().flatten().collect()))
    }
}

impl Compared {
    /// Prints the cosines of `pairs` and keeps those that have scores.
    fn add(&mut self, model: &Embedder, pairs: Vec<Pair>, common: &Common) -> Result<()> {
        let texts: Vec<&String> = pairs.iter().flat_map(|pair| &pair.texts).collect();
        let vectors = model.embed(&texts)?;
        for (pair, vectors) in pairs.iter().zip(vectors.chunks_exact(2)) {
            let cosine: f64 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| f64::from(a * b)).sum();
            let [first, second] = &pair.texts;
            print_line(&match common.json {
                true => json!({ "cosine": cosine, "texts": pair.texts, "score": pair.score }).to_string(),
                false => format!("{cosine:.4}\t{first}\t{second}"),
            })?;
            if let Some(score) = pair.score {
                self.cosines.push(cosine);
                self.scores.push(score);
            }
        }
        Ok(())
    }

    /// Prints how well cosines and scores agree, where there are some.
    fn told(&self, common: &Common) -> Result<()> {
        if self.scores.len() < 2 {
            return Ok(());
        }
        let pairs = self.scores.len();
        let (pearson, spearman) = metrics::correlations(&self.scores, &self.cosines);
        print_line(&match common.json {
            true => json!({ "pairs": pairs, "pearson": pearson, "spearman": spearman }).to_string(),
            false => format!("Spearman {spearman:.4}, Pearson {pearson:.4} with the scores of {pairs} pairs"),
        })
    }
}
