//! Answers to questions about a text, as a trained model finds them in it.

use serde::Serialize;
use serde_json::{Map, Value, json};
use topwork_core::domain::{Answer, Answers};
use topwork_core::{Error, Result};

use super::read::{self, CONTEXTS};
use super::search::{self, Said};
use super::{Asked, Reading};
use crate::Classifier;
use crate::input::{self, InputArgs};
use crate::table::Table;
use crate::tokenizer::Tokens;

/// Windows that go through the network together.
const BATCH: usize = 16;

/// A passage that answers a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Passage {
    /// The passage itself.
    pub text: String,
    /// Its first character in the text, counted from 0.
    pub start: usize,
    /// Behind its last character.
    pub end: usize,
    /// Its probability against the other best ones and, where questions may have no answer, that.
    pub score: f32,
}

/// What a model says to a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answered {
    /// The best passages, best first; none where it says that the text has no answer.
    pub answers: Vec<Passage>,
    /// Where questions may have no answer, by how much none is more probable than the best passage, in logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_answer_margin: Option<f32>,
}

/// The answer to `question` in `context`; `threshold` as in [`crate::Pipeline::no_answer_threshold`].
///
/// # Errors
/// When `classifier` is no model of passages, or the device is out of memory.
pub fn answer(classifier: &Classifier, question: &str, context: &str, threshold: Option<f64>) -> Result<Answered> {
    said(classifier, &Reading::of(classifier.pipeline(), None)?, question, context, threshold)
}

fn said(
    classifier: &Classifier,
    reading: &Reading,
    question: &str,
    context: &str,
    threshold: Option<f64>,
) -> Result<Answered> {
    let (question, pieces) = (reading.question(question)?, reading.text(context)?);
    let windows = reading.windows(&question, pieces.len());
    let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
    let sequence = |window: &std::ops::Range<usize>| reading.tokens(&question, &ids[window.clone()]);
    let sequences: Vec<Tokens> = windows.iter().map(sequence).collect();
    let mut logits = Vec::new();
    for chunk in sequences.chunks(BATCH) {
        let samples: Vec<_> = chunk.iter().map(|tokens| Tokens::sample(&tokens.ids, tokens.first)).collect();
        logits.extend(classifier.logits(&samples)?);
    }
    let (mut rest, mut of_windows) = (&logits[..], Vec::with_capacity(windows.len()));
    for (tokens, sequence) in windows.into_iter().zip(&sequences) {
        let (logits, behind) = rest.split_at(2 * sequence.ids.len());
        rest = behind;
        of_windows.push(Said { tokens, row: reading.row(&question), logits });
    }
    let (found, none) = search::passages(&of_windows);
    let scores = found.iter().map(|passage| passage.score).chain(threshold.map(|_| none));
    let shares = search::shares(scores);
    let margin = found.first().map_or(f32::MAX, |best| none - best.score);
    let mut answers: Vec<Passage> = Vec::new();
    if threshold.is_none_or(|threshold| f64::from(margin) <= threshold) {
        for (passage, score) in found.iter().zip(shares) {
            let (start, end) = (pieces[passage.first].start, pieces[passage.last].end);
            let first = context[..start].chars().count();
            let text = context[start..end].to_string();
            let end = first + text.chars().count();
            // Windows share some.
            if answers.iter().all(|other| (other.start, other.end) != (first, end)) {
                answers.push(Passage { text, start: first, end, score });
            }
        }
    }
    Ok(Answered { answers, no_answer_margin: threshold.map(|_| margin) })
}

/// The columns of questions and of texts.
fn columns(args: &InputArgs, table: &Table) -> Result<Vec<usize>> {
    let named = |name: &Option<String>, flag: &str, usual: &[&str]| match name {
        Some(name) => table.column(name, flag),
        None => table.find(usual).ok_or_else(|| {
            let reason = format!("has no column {:?}; its columns are {}", usual[0], table.listed());
            Error::input(&table.name, reason, format!("name it with {flag}"))
        }),
    };
    Ok(vec![
        named(&args.pair_column, "--pair-column", &["question"])?,
        named(&args.text_column, "--text-column", &CONTEXTS)?,
    ])
}

/// Questions with texts, as they come: name, question, text.
type Stream = Box<dyn Iterator<Item = (String, Result<Vec<String>>)>>;

fn stream(args: &InputArgs) -> Result<Stream> {
    if args.text.len() != args.question.len() {
        let reason = format!("there are {} texts and {} questions", args.text.len(), args.question.len());
        return Err(Error::input("--question", reason, "give each --text one --question"));
    }
    let pairs: Vec<_> = args.question.iter().cloned().zip(args.text.iter().cloned()).collect();
    let mut all: Stream =
        Box::new(pairs.into_iter().map(|(question, text)| (question.clone(), Ok(vec![question, text]))));
    for file in &args.files {
        let of_file: Stream = if file.as_os_str() != "-" && read::is_nested(file)? {
            let mut found = Vec::new();
            read::questions(file, |Asked { name, question, context, .. }| {
                found.push((name, Ok(vec![question, context.to_string()])));
                Ok(())
            })?;
            Box::new(found.into_iter())
        } else {
            let alone = InputArgs { files: vec![file.clone()], text: Vec::new(), ..args.clone() };
            Box::new(input::rows(&alone, columns)?)
        };
        all = Box::new(all.chain(of_file));
    }
    if args.files.is_empty() && args.text.is_empty() {
        let remedy = "name a file with questions and texts, give --text and --question, or - to read standard input";
        return Err(Error::input("no input", "there is nothing to predict on", remedy));
    }
    Ok(all)
}

/// See [`topwork_core::domain::Domain::answers`].
pub(crate) fn answers<'a>(classifier: &'a Classifier, args: &InputArgs, top: Option<usize>) -> Result<Answers<'a>> {
    let pipeline = classifier.pipeline().clone().limited(args.max_tokens)?;
    let threshold = args.no_answer_threshold.or(pipeline.no_answer_threshold);
    let reading = Reading::of(&pipeline, args.stride)?;
    Ok(Box::new(stream(args)?.map(move |(name, texts)| {
        let answer = texts.and_then(|texts| {
            let mut found = said(classifier, &reading, &texts[0], &texts[1], threshold)?;
            found.answers.truncate(top.unwrap_or(1));
            let line =
                |p: &Passage| format!("{}\t{}\t{}\t{:.4}", p.text.replace(['\t', '\n'], " "), p.start, p.end, p.score);
            let lines = match found.answers.is_empty() {
                true => vec![String::new()],
                false => found.answers.iter().map(line).collect(),
            };
            let fields = match json!(found) {
                Value::Object(fields) => fields,
                _ => Map::new(),
            };
            Ok(Answer { lines, fields })
        });
        (name, answer)
    })))
}
