//! Answers to questions about a text, as a trained model finds them in it.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use topwork_core::batched::batched;
use topwork_core::domain::{Answer, Answers};
use topwork_core::{Error, Result};

use super::read::{self, CONTEXTS};
use super::search::{self, Said};
use super::{Asked, Reading};
use crate::Classifier;
use crate::input::{self, InputArgs, Texts};
use crate::table::Table;
use crate::tokenizer::{Piece, Tokens};

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
    let reading = Reading::of(classifier.pipeline(), None)?;
    let ready = Ready::of(&reading, question, context.to_string())?;
    Ok(said(classifier, &reading, std::slice::from_ref(&ready), threshold)?.remove(0))
}

/// A question with its text, ready for the network.
struct Ready {
    context: String,
    question: Vec<u32>,
    pieces: Vec<Piece>,
    windows: Vec<Range<usize>>,
}

impl Ready {
    fn of(reading: &Reading, question: &str, context: String) -> Result<Self> {
        let (question, pieces) = (reading.question(question)?, reading.text(&context)?);
        let windows = reading.windows(&question, pieces.len());
        Ok(Self { context, question, pieces, windows })
    }
}

fn said(classifier: &Classifier, reading: &Reading, asked: &[Ready], threshold: Option<f64>) -> Result<Vec<Answered>> {
    let mut sequences: Vec<Tokens> = Vec::new();
    for Ready { question, pieces, windows, .. } in asked {
        let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
        sequences.extend(windows.iter().map(|window| reading.tokens(question, &ids[window.clone()])));
    }
    let mut logits = Vec::new();
    for chunk in sequences.chunks(BATCH) {
        let samples: Vec<_> = chunk.iter().map(|tokens| Tokens::sample(&tokens.ids, tokens.first)).collect();
        logits.extend(classifier.logits(&samples)?);
    }
    let (mut rest, mut sequences) = (&logits[..], sequences.iter());
    let answered = |ready: &Ready| {
        let of_window = |(tokens, sequence): (&Range<usize>, &Tokens)| {
            let (logits, behind) = rest.split_at(2 * sequence.ids.len());
            rest = behind;
            Said { tokens: tokens.clone(), row: reading.row(&ready.question), logits }
        };
        let of_windows: Vec<Said> = ready.windows.iter().zip(sequences.by_ref()).map(of_window).collect();
        best(&of_windows, ready, threshold)
    };
    Ok(asked.iter().map(answered).collect())
}

/// The best passages of what a model says of the windows of a text.
fn best(of_windows: &[Said<'_>], ready: &Ready, threshold: Option<f64>) -> Answered {
    let (context, pieces) = (&ready.context, &ready.pieces);
    let (found, none) = search::passages(of_windows);
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
    Answered { answers, no_answer_margin: threshold.map(|_| margin) }
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
fn stream(args: &InputArgs) -> Result<Texts> {
    if args.text.len() != args.question.len() {
        let reason = format!("there are {} texts and {} questions", args.text.len(), args.question.len());
        return Err(Error::input("--question", reason, "give each --text one --question"));
    }
    let pairs: Vec<_> = args.question.iter().cloned().zip(args.text.iter().cloned()).collect();
    let mut all: Texts =
        Box::new(pairs.into_iter().map(|(question, text)| (question.clone(), Ok(vec![question, text]))));
    for file in &args.files {
        let of_file: Texts = if file.as_os_str() != "-" && read::is_nested(file)? {
            let mut found = Vec::new();
            read::questions(file, |Asked { name, question, context, .. }| {
                found.push((name, Ok(vec![question, context.to_string()])));
                Ok(())
            })?;
            Box::new(found.into_iter())
        } else {
            let alone = InputArgs { files: vec![file.clone()], text: Vec::new(), ..args.clone() };
            input::rows(&alone, columns)?
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
    let reading = Arc::new(Reading::of(&pipeline, args.stride)?);
    let asked = input::prepared(stream(args)?, BATCH, {
        let reading = reading.clone();
        move |mut texts| {
            let context = texts.swap_remove(1);
            Ready::of(&reading, &texts[0], context)
        }
    });
    let answer = move |mut found: Answered| {
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
        Answer { lines, fields }
    };
    Ok(Box::new(batched(asked, move |asked: &[Ready]| {
        Ok(said(classifier, &reading, asked, threshold)?.into_iter().map(answer).collect())
    })))
}
