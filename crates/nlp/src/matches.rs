//! Texts that belong to each other (questions and their answers, titles and their articles, paraphrases): an encoder learns to
//! place them together, among all others. The model has no head; its embeddings are what it gives.

use topwork_core::Result;
use topwork_core::data::{Dataset, Excerpt, Sample, Splits, View, hold_out};
use topwork_core::domain::Opened;
use topwork_core::draw::{EXCERPT, shortened};
use topwork_core::seed::Seed;
use topwork_core::task::{Kind, Task};

use crate::dataset::{DataArgs, TextData, digest, held_share};
use crate::pipeline::Pipeline;
use crate::tokenizer::Tokens;

/// The task, which has no outputs.
pub(crate) fn task() -> Task {
    Task { kind: Kind::Matches, outputs: Vec::new() }
}

/// The same model without its head.
pub(crate) fn headless(mut model: Opened<Pipeline>) -> Opened<Pipeline> {
    model.network.head.layers.clear();
    model.task = Some(task());
    model
}

/// The same with a head, fresh where it had none.
pub(crate) fn headed(mut model: Opened<Pipeline>) -> Opened<Pipeline> {
    if model.network.head.layers.is_empty() {
        model.network = model.pipeline.network(2);
        model.task = None;
    }
    model
}

/// The texts of a table of pairs: sample 2i is the first of row i, 2i + 1 the second.
struct Couples {
    rows: TextData,
    /// Of each sample the first one with the same text.
    texts: Vec<u32>,
    /// The couple of each sample.
    couples: Vec<f32>,
}

impl Couples {
    fn new(rows: TextData) -> Self {
        let count = rows.count();
        let text = |sample: u32| of_sample(&rows, sample as usize).trim();
        // Sorted by their hashes, equal texts stand together: less memory than a map of millions.
        let hashes: Vec<u64> = (0..2 * count as u32).map(|sample| hash(text(sample))).collect();
        let mut order: Vec<u32> = (0..2 * count as u32).collect();
        order.sort_unstable_by_key(|&sample| (hashes[sample as usize], sample));
        let mut texts: Vec<u32> = (0..2 * count as u32).collect();
        for alike in order.chunk_by(|&a, &b| hashes[a as usize] == hashes[b as usize]) {
            for (i, &sample) in alike.iter().enumerate() {
                let first = alike[..i].iter().find(|&&earlier| text(earlier) == text(sample));
                texts[sample as usize] = *first.unwrap_or(&sample);
            }
        }
        let couples = (0..2 * count).map(|sample| (sample / 2) as f32).collect();
        Self { rows, texts, couples }
    }

    fn text(&self, i: usize) -> &str {
        of_sample(&self.rows, i)
    }
}

fn of_sample(rows: &TextData, i: usize) -> &str {
    let (first, second) = rows.text(i / 2);
    if i.is_multiple_of(2) { first } else { second.unwrap_or_default() }
}

fn hash(text: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest(text, None);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Dataset for Couples {
    fn len(&self) -> usize {
        self.texts.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.texts[i]
    }
    fn numbers(&self, i: usize) -> &[f32] {
        &self.couples[i..=i]
    }
    fn name(&self, i: usize) -> String {
        self.rows.place(i / 2)
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        Ok(digest(self.text(i), None))
    }
    fn rows(&self, i: usize) -> usize {
        self.rows.encode(self.text(i)).map_or(0, |tokens| tokens.ids.len())
    }
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        Ok(Excerpt::Text(shortened(self.text(i).trim(), EXCERPT)))
    }
    fn load(&self, i: usize, _view: View) -> Result<Sample> {
        let tokens = self.rows.encode(self.text(i))?;
        Ok(Tokens::sample(&tokens.ids, tokens.first))
    }
}

/// See [`topwork_core::domain::Domain::splits`].
pub(crate) fn splits(args: &DataArgs, pipeline: &Pipeline, seed: Seed) -> Result<Splits> {
    let share = held_share(args)?;
    pipeline.reads(args)?;
    let pipeline = pipeline.clone().for_training(args.max_tokens)?;
    let read = |path: &std::path::PathBuf| TextData::pairs(path, args, &pipeline).map(Couples::new);
    let train = args.train.as_ref().map(read).transpose()?;
    let validation = args.validation.as_ref().map(read).transpose()?;
    Splits::of(task(), train, validation, |all| {
        let (kept, held) = hold_out(&vec![0; all.rows.count()], share, seed);
        let samples = |rows: Vec<usize>| rows.into_iter().flat_map(|row| [2 * row, 2 * row + 1]).collect();
        Ok((samples(kept), samples(held)))
    })
}
