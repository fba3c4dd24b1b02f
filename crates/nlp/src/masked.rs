//! Words behind `[MASK]`: a model with the head of its pre-training, in use.

use std::path::PathBuf;

use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::json;
use topwork_core::cli::{Common, Console, print_line};
use topwork_core::data::Activation;
use topwork_core::device::Place;
use topwork_core::domain::Opened;
use topwork_core::model::{self, Head};
use topwork_core::net::frozen::Frozen;
use topwork_core::net::{Network, Params, Stage};
use topwork_core::{Error, Result, fit};
use topwork_kernels::linear;

use crate::Sentences;
use crate::input::{self, InputArgs};
use crate::models::bert::pretraining::TABLE;
use crate::pipeline::Pipeline;
use crate::tokenizer::Tokens;

/// How a hidden word is written, whatever the model calls it.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];

/// The flags of `fill-mask`.
#[derive(Debug, Clone, clap::Args)]
pub struct FillArgs {
    /// Model with the head that guesses: a name from `models list`, hf-hub:owner/name, a model folder or a run of `pretrain`
    #[arg(value_name = "MODEL")]
    model: String,
    /// Files with a text a line, or .tsv, .csv and .jsonl tables; `-` for standard input. `[MASK]` or `<mask>` stands where a word is
    /// to be guessed
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A text itself; may be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Vec<String>,
    /// How many words to show, most probable first
    #[arg(long, value_name = "K", default_value_t = 5)]
    top_k: usize,
}

/// A word that may stand in a place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guessed {
    /// The token, as text; `##` in front of one that goes on a word.
    pub word: String,
    /// Its row of the word table.
    pub token: u32,
    /// Between 0 and 1, against all words.
    pub probability: f32,
}

/// A model that guesses hidden words.
pub struct Masked {
    pipeline: Pipeline,
    encoder: Frozen,
    predictions: Frozen,
    table: Tensor,
    bias: Tensor,
    /// The tokenizer's own mask, and its id.
    mask: (String, u32),
    place: Place,
}

impl Masked {
    /// A model that is open already; `name` is what to call it in errors.
    ///
    /// # Errors
    /// When it has no such head or no such token, or the device is out of memory.
    pub fn of(model: Opened<Pipeline>, place: Place, name: &str) -> Result<Self> {
        let Opened { weights, pipeline, .. } = model;
        let family = pipeline.config.family;
        let (encoder, predictions) = (pipeline.config.encoder(), pipeline.config.guessing());
        let missing = |what: &str| {
            let reason = format!("it has no {what}: it cannot guess hidden words");
            let remedy = format!("name a checkpoint of {}ForMaskedLM, or a run of `pretrain`", family.class);
            Error::input(name, reason, remedy)
        };
        let single =
            |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(DType::F32)?.to_device(&place)?.contiguous()?) };
        let absent = predictions.params().into_iter().find(|spec| !weights.contains_key(&spec.name));
        if let Some(spec) = absent {
            return Err(missing(&spec.name));
        }
        let guess = family.guess;
        let of_decoder = |part: &str| weights.get(&format!("{}.{part}", guess.decoder));
        let bias = weights.get(guess.bias).or_else(|| of_decoder("bias")).ok_or_else(|| missing(guess.bias))?;
        // Tied, unless the checkpoint has a table of its own for the way out.
        let table = of_decoder("weight").or_else(|| weights.get(TABLE)).ok_or_else(|| missing(TABLE))?;
        let (table, bias) = (single(table)?, single(bias)?);
        if table.dims() != [pipeline.config.vocab_size, pipeline.config.table_width()]
            || bias.dims() != [table.dims()[0]]
        {
            return Err(missing("table that fits its words"));
        }
        let mask = [family.marks.mask].into_iter().chain(MASKS);
        let mask = mask.into_iter().find_map(|mask| Some((mask.to_string(), pipeline.tokenizer.id(mask)?)));
        let mask = mask.ok_or_else(|| missing("token for hidden words"))?;
        let head = Stage { name: "head".into(), layers: predictions.layers.clone() };
        let network = Network { name: family.class.into(), stages: encoder, head, input: vec![2] };
        let (params, _): (Params, _) = model::fit(&network, &weights, Head::Keep, &place, name)?;
        let stages: Vec<&Stage> = network.stages.iter().collect();
        let encoder = Frozen::compile(&stages, &params, &place)?;
        let predictions = Frozen::compile(&[&network.head], &params, &place)?;
        Ok(Self { pipeline, encoder, predictions, table, bias, mask, place })
    }

    /// Of each hidden word of `text`, in order, the `top` most probable ones.
    ///
    /// # Errors
    /// When none is hidden, within the longest sequence, or the device is out of memory.
    pub fn guess(&self, text: &str, top: usize) -> Result<Vec<Vec<Guessed>>> {
        let (mask, id) = &self.mask;
        let written = MASKS.iter().fold(text.to_string(), |text, other| text.replace(other, mask));
        let tokens = self.pipeline.tokenizer.encode(&written, None)?;
        let hidden: Vec<u32> = (0..).zip(&tokens.ids).filter(|(_, token)| *token == id).map(|(row, _)| row).collect();
        if hidden.is_empty() {
            let longest = self.pipeline.max_tokens();
            let reason = match written.contains(mask.as_str()) {
                true => format!("its {mask} stands behind the {longest} tokens that the model reads"),
                false => "no word is hidden in it".to_string(),
            };
            return Err(Error::input(
                format!("{text:?}"),
                reason,
                format!("write {mask} where a word is to be guessed"),
            ));
        }
        let sample = Tokens::sample(&tokens.ids, tokens.first);
        let output = self.encoder.run(&Activation::collate(&[sample], &self.place)?)?;
        let data = output.data.index_select(&Tensor::new(hidden.as_slice(), output.data.device())?, 0)?;
        let rows = topwork_core::data::Rows::One;
        let found = self.predictions.run(&Activation { data, rows })?;
        let logits = linear(&found.data, &self.table, Some(&self.bias))?.to_vec2::<f32>()?;
        logits.iter().map(|row| self.best(row, top)).collect()
    }

    fn best(&self, logits: &[f32], top: usize) -> Result<Vec<Guessed>> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let guessed = |&token: &usize| {
            let probability = (f64::from(logits[token] - largest).exp() / sum) as f32;
            Ok(Guessed { word: self.pipeline.tokenizer.word(token as u32)?, token: token as u32, probability })
        };
        order.iter().take(top).map(guessed).collect()
    }

    /// `text` with a word in the place of the first hidden one.
    fn filled(text: &str, word: &str) -> String {
        let at = MASKS.iter().filter_map(|mask| Some((text.find(mask)?, mask.len()))).min();
        let Some((at, length)) = at else { return text.to_string() };
        let before = match word.strip_prefix("##") {
            Some(_) => text[..at].trim_end(),
            None => &text[..at],
        };
        format!("{before}{}{}", word.trim_start_matches("##"), &text[at + length..])
    }
}

/// See [`crate::verbs::Verbs::FillMask`].
pub(crate) fn run(args: &FillArgs, common: &Common) -> Result<()> {
    if args.top_k == 0 {
        return Err(Error::input("--top-k 0", "there is nothing to show", "use 1 or more"));
    }
    let inputs = InputArgs { files: args.files.clone(), text: args.text.clone(), ..InputArgs::default() };
    // What cannot be read is told before a model is fetched.
    input::texts(&inputs).map(drop)?;
    let console = Console::new(common.quiet);
    let opened = fit::open_any::<Sentences>(&args.model, common.offline, &console)?;
    let masked = Masked::of(opened, common.place()?, &args.model)?;
    let (mut read, mut unanswered) = (0, 0);
    for (_, texts) in input::texts(&inputs)? {
        read += 1;
        let text = &texts.map(|mut texts| texts.swap_remove(0));
        let found = text
            .as_ref()
            .map_err(|error| error.to_string())
            .and_then(|text| masked.guess(text, args.top_k).map_err(|error| error.to_string()));
        let (Ok(text), Ok(found)) = (text, &found) else {
            unanswered += 1;
            eprintln!("{}", found.err().unwrap_or_default());
            continue;
        };
        if common.json {
            print_line(&json!({ "input": text, "masks": found }).to_string())?;
            continue;
        }
        let several = found.len() > 1;
        for (number, guesses) in (1..).zip(found) {
            for Guessed { word, probability, .. } in guesses {
                print_line(&match several {
                    true => format!("{text}\t{number}\t{word}\t{probability:.4}"),
                    false => format!("{}\t{word}\t{probability:.4}", Masked::filled(text, word)),
                })?;
            }
        }
    }
    if unanswered > 0 {
        let reason = format!("{unanswered} of {read} could not be answered; the others are");
        return Err(Error::input("fill-mask", reason, "see the messages above"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_goes_on_a_word_is_joined_to_it() {
        assert_eq!(Masked::filled("a [MASK] of", "photo"), "a photo of");
        assert_eq!(Masked::filled("a <mask> of", "##s"), "as of");
    }
}
