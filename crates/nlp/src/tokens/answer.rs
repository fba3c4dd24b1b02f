//! The entities of a text, as a trained model finds them.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, json};
use topwork_core::batched::batched;
use topwork_core::domain::{Answer, Answers};
use topwork_core::metrics::entities::Scheme;
use topwork_core::task::Task;
use topwork_core::{Error, Result};

use super::{Cut, Cutting};
use crate::Classifier;
use crate::input::{self, InputArgs};
use crate::tokenizer::Tokens;

/// Windows that go through the network together.
const BATCH: usize = 16;

/// A stretch of a text with a meaning: a name with its type, or a word with its part of speech.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entity {
    /// The stretch itself.
    pub text: String,
    /// Its type; where labels name no entities, the label.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its first character, counted from 0.
    pub start: usize,
    /// Behind its last character.
    pub end: usize,
    /// Mean probability of the labels of its words.
    pub score: f32,
}

/// The words of a text, as places in it: between spaces, with punctuation at the edges apart. A full stop stays with a word
/// that has another one inside (`U.S.`), an apostrophe and other marks inside a word are of it.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(first)) => {
                split(text, first..at, &mut found);
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// The words of what stands between two spaces.
fn split(text: &str, chunk: Range<usize>, found: &mut Vec<Range<usize>>) {
    let word = &text[chunk.clone()];
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '$' | '€' | '£' | '%' | '#' | '@' | '&');
    let first = word.find(inner).unwrap_or(word.len());
    let mut last = word.rfind(inner).map_or(first, |at| at + word[at..].chars().next().map_or(0, char::len_utf8));
    let middle = &word[first..last];
    if middle.contains('.') && word[last..].starts_with('.') && !middle.contains(char::is_numeric) {
        last += 1;
    }
    // Each mark at the edges is a word.
    let mark = |(at, c): (usize, char)| chunk.start + at..chunk.start + at + c.len_utf8();
    let within = |places: Range<usize>| word.char_indices().filter(move |(at, _)| places.contains(at));
    found.extend(within(0..first).map(mark));
    if first < last {
        found.push(chunk.start + first..chunk.start + last);
    }
    found.extend(within(last..word.len()).map(mark));
}

/// The entities of each text.
///
/// # Errors
/// When `classifier` is no model of words, or the device is out of memory.
pub fn entities(classifier: &Classifier, texts: &[&str]) -> Result<Vec<Vec<Entity>>> {
    let cutting = Cutting::of(classifier.pipeline(), None)?;
    let texts = texts.iter().map(|text| Ready::of(&cutting, text.to_string())).collect::<Result<Vec<_>>>()?;
    of_texts(classifier, &cutting, &texts)
}

/// A text that is ready for the network: the places of its words, and its windows.
struct Ready {
    text: String,
    places: Vec<Range<usize>>,
    cut: Cut,
}

impl Ready {
    fn of(cutting: &Cutting, text: String) -> Result<Self> {
        let places = words(&text);
        let words: Vec<&str> = places.iter().map(|place| &text[place.clone()]).collect();
        let cut = cutting.cut(&words)?;
        Ok(Self { text, places, cut })
    }
}

/// The label of a word and its probability; of one of which the tokenizer leaves nothing, none.
type Said = Option<(usize, f32)>;

fn of_texts(classifier: &Classifier, cutting: &Cutting, texts: &[Ready]) -> Result<Vec<Vec<Entity>>> {
    let mut labels: Vec<Vec<Said>> = texts.iter().map(|text| vec![None; text.places.len()]).collect();
    let all: Vec<(usize, usize)> = texts
        .iter()
        .enumerate()
        .flat_map(|(i, text)| (0..text.cut.windows.len()).map(move |window| (i, window)))
        .collect();
    let task = classifier.task();
    for chunk in all.chunks(BATCH) {
        let tokens: Vec<Tokens> =
            chunk.iter().map(|&(i, window)| cutting.tokens(&texts[i].cut, &texts[i].cut.windows[window])).collect();
        let samples: Vec<_> = tokens.iter().map(|tokens| Tokens::sample(&tokens.ids, tokens.first)).collect();
        let logits = classifier.logits(&samples)?;
        let mut first = 0;
        for (&(text, window), tokens) in chunk.iter().zip(&tokens) {
            let (cut, window) = (&texts[text].cut, &texts[text].cut.windows[window]);
            for word in window.judged.clone() {
                let Some(row) = cutting.row(cut, window, word) else { continue };
                let row = (first + row) * task.len();
                let shares = task.answer(&logits[row..row + task.len()]);
                let best = (1..shares.len()).fold(0, |best, c| if shares[c] > shares[best] { c } else { best });
                labels[text][word] = Some((best, shares[best]));
            }
            first += tokens.ids.len();
        }
    }
    let scheme = Scheme::of(task);
    let of_text = |(text, labels): (&Ready, &Vec<Said>)| told(task, scheme.as_ref(), text, labels);
    Ok(texts.iter().zip(&labels).map(of_text).collect())
}

/// The entities that the labels of words tell.
fn told(task: &Task, scheme: Option<&Scheme>, ready: &Ready, labels: &[Said]) -> Vec<Entity> {
    let Ready { text, places, .. } = ready;
    let entity = |kind: &str, first: usize, last: usize| {
        let place = places[first].start..places[last].end;
        let start = text[..place.start].chars().count();
        let scores: Vec<f32> = labels[first..=last].iter().flatten().map(|(_, score)| *score).collect();
        Entity {
            text: text[place.clone()].to_string(),
            kind: kind.to_string(),
            start,
            end: start + text[place].chars().count(),
            score: scores.iter().sum::<f32>() / scores.len().max(1) as f32,
        }
    };
    let Some(scheme) = scheme else {
        let said = labels.iter().enumerate();
        return said.filter_map(|(word, label)| label.map(|(label, _)| entity(&task[label], word, word))).collect();
    };
    let outside = task.iter().position(|name| name == "O").unwrap_or(usize::MAX);
    let said: Vec<usize> = labels.iter().map(|label| label.map_or(outside, |(label, _)| label)).collect();
    let found = scheme.entities(&said).into_iter();
    found.map(|found| entity(&scheme.types()[found.kind], found.first, found.last)).collect()
}

/// See [`topwork_core::domain::Domain::answers`].
pub(crate) fn answers<'a>(classifier: &'a Classifier, args: &InputArgs, top: Option<usize>) -> Result<Answers<'a>> {
    if let Some(top) = top {
        let reason = "each word has the one label that is most probable";
        return Err(Error::input(format!("--top-k {top}"), reason, "leave it out"));
    }
    args.fit(&["--stride"])?;
    if args.pair_column.is_some() {
        return Err(Error::input("--pair-column", "words of one text are labelled", "leave it out"));
    }
    // A word a line is not a sentence a line.
    let columns = |file: &&PathBuf| {
        let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default();
        ["conll", "conllu", "bio", "iob", "iob2"].contains(&extension)
    };
    if let Some(file) = args.files.iter().find(columns) {
        let remedy = "use evaluate with --validation, or give plain text, a sentence a line";
        return Err(Error::input(file.display(), "is a file of labelled words", remedy));
    }
    let pipeline = classifier.pipeline().clone().limited(args.max_tokens)?;
    let cutting = Arc::new(Cutting::of(&pipeline, args.stride)?);
    let texts = input::prepared(input::texts(args)?, BATCH, {
        let cutting = cutting.clone();
        move |mut texts| Ready::of(&cutting, texts.swap_remove(0))
    });
    let answer = |found: Vec<Entity>| {
        let line = |e: &Entity| format!("{}\t{}\t{}\t{}\t{:.4}", e.text, e.kind, e.start, e.end, e.score);
        let lines = if found.is_empty() { vec![String::new()] } else { found.iter().map(line).collect() };
        let fields = match json!({ "entities": found }) {
            serde_json::Value::Object(fields) => fields,
            _ => Map::new(),
        };
        Answer { lines, fields }
    };
    Ok(Box::new(batched(texts, move |texts: &[Ready]| {
        Ok(of_texts(classifier, &cutting, texts)?.into_iter().map(answer).collect())
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_from_the_punctuation_around_them() {
        let text = "“Dr. Smith's (U.S.) cats,” she said... 3.5% at 5 p.m.! Zoë-Ann";
        let found: Vec<&str> = words(text).into_iter().map(|place| &text[place]).collect();
        let expected = [
            "“", "Dr", ".", "Smith's", "(", "U.S.", ")", "cats", ",", "”", "she", "said", ".", ".", ".", "3.5%", "at",
            "5", "p.m.", "!", "Zoë-Ann",
        ];
        assert_eq!(found, expected);
        assert!(words(" \n ").is_empty());
    }
}
