//! Questions about passages from files: SQuAD's JSON, versions 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), a file's articles one
//! after the other; JSON lines; tables.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use topwork_core::bounded::{Allowance, Bounded, MOST_OF_ROW};
use topwork_core::{Error, Result};

use crate::table::{Format, Lines, Table, format_of, open_source, place};

const SHAPE: &str = "write SQuAD's JSON, or one object a line, as {\"question\": \"…\", \"context\": \"…\", \"answers\": {\"text\": \
                     [\"…\"], \"answer_start\": [0]}}";
/// Most bytes of an article with its questions.
const MOST_ARTICLE: u64 = 64 << 20;
/// Names of columns, in the order in which they are tried.
pub(crate) const CONTEXTS: [&str; 4] = ["context", "passage", "paragraph", "text"];
pub(crate) const ANSWERS: [&str; 3] = ["answers", "answer", "answer_text"];

/// A question with its right answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What to call it.
    pub name: String,
    /// The question.
    pub question: String,
    /// The passage.
    pub context: Arc<str>,
    /// The answers, each with its first byte in the passage; none where it has no answer.
    pub answers: Vec<(String, usize)>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    #[serde(default)]
    id: Value,
    question: String,
    #[serde(default)]
    answers: Vec<Answer>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(Deserialize)]
struct Answer {
    text: String,
    answer_start: usize,
}

/// Takes the articles of a file one by one.
struct Articles<'t, F>(&'t mut F);

impl<'de, F: FnMut(Article) -> Result<()>> DeserializeSeed<'de> for Articles<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Article) -> Result<()>> Visitor<'de> for Articles<'_, F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of articles")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(article) = list.next_element::<Article>()? {
            (self.0)(article).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// The whole file.
struct Whole<'t, F>(&'t mut F);

impl<'de, F: FnMut(Article) -> Result<()>> Visitor<'de> for Whole<'_, F> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"data\"")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "data" {
                map.next_value_seed(Articles(&mut *self.0))?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a file is one JSON object rather than one a line.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn is_nested(path: &Path) -> Result<bool> {
    if format_of(path) != Some(Format::JsonLines) {
        return Ok(false);
    }
    let name = path.display().to_string();
    let mut first = Vec::new();
    // A longer line is no row.
    let mut source = open_source(path)?.take(MOST_OF_ROW);
    while first.iter().all(u8::is_ascii_whitespace) {
        if source.read_until(b'\n', &mut first).map_err(Error::io(&name))? == 0 {
            return Ok(false);
        }
    }
    Ok(serde_json::from_slice::<Map<String, Value>>(&first).map_or(true, |object| object.contains_key("data")))
}

/// Hands every question of a file to `take`.
///
/// # Errors
/// At the first one that is not as it should be; when there is none.
pub fn questions(path: &Path, mut take: impl FnMut(Asked) -> Result<()>) -> Result<()> {
    let name = path.display().to_string();
    let mut count = 0;
    let counted = |asked: Asked| {
        count += 1;
        take(asked)
    };
    match format_of(path) {
        Some(Format::JsonLines) if is_nested(path)? => of_squad(path, &name, counted)?,
        Some(Format::JsonLines) => of_lines(&name, Lines::new(&name, open_source(path)?), counted)?,
        _ => of_table(Table::open(path)?, counted)?,
    }
    if count == 0 {
        return Err(Error::input(name, "holds no questions", SHAPE));
    }
    Ok(())
}

fn of_squad(path: &Path, name: &str, mut take: impl FnMut(Asked) -> Result<()>) -> Result<()> {
    let mut refused = None;
    let left = Allowance::of(MOST_ARTICLE);
    let mut article = |article: Article| -> Result<()> {
        for Paragraph { context, qas } in article.paragraphs {
            let context: Arc<str> = context.into();
            for Question { id, question, answers, is_impossible } in qas {
                let id = id.as_str().map_or_else(|| question.clone(), str::to_string);
                let subject = format!("{name}, question {id}");
                let answers = if is_impossible { Vec::new() } else { answers };
                let placed = answers.into_iter().map(|a| found(&subject, &context, a.text, Some(a.answer_start)));
                let answers = placed.collect::<Result<_>>()?;
                take(Asked { name: id, question, context: context.clone(), answers })?;
            }
        }
        Ok(())
    };
    let mut kept = |of_file: Article| {
        left.set(MOST_ARTICLE);
        article(of_file).map_err(|error| {
            let again = Error::input(name, "a question is not as it should be", SHAPE);
            refused = Some(error);
            again
        })
    };
    let mut reader = serde_json::Deserializer::from_reader(BufReader::new(Bounded::new(open_source(path)?, &left)));
    let read = Deserializer::deserialize_map(&mut reader, Whole(&mut kept)).and_then(|data| {
        reader.end()?;
        Ok(data)
    });
    if let Some(error) = refused {
        return Err(error);
    }
    match read {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::input(name, "has no \"data\"", SHAPE)),
        Err(e) if e.io_error_kind() == Some(ErrorKind::FileTooLarge) => {
            let reason = format!("an article goes on for more than {} MB", MOST_ARTICLE >> 20);
            Err(Error::input(place(name, e.line()), reason, SHAPE))
        }
        Err(e) => Err(Error::input(place(name, e.line()), format!("is not SQuAD's JSON: {e}"), SHAPE)),
    }
}

/// An answer with its first byte: at character `start`, else where it is first found.
fn found(subject: &str, context: &str, text: String, start: Option<usize>) -> Result<(String, usize)> {
    let missing = || {
        let remedy =
            "correct the answer: it has to stand in the passage as it is written, answer_start in characters from 0";
        let place = start.map_or(String::new(), |start| format!(" at character {start}"));
        Error::input(subject, format!("its answer {text:?} is not in the passage{place}"), remedy)
    };
    let at = match start {
        Some(start) => {
            let byte = context.char_indices().map(|(at, _)| at).chain([context.len()]).nth(start);
            byte.filter(|&byte| context[byte..].starts_with(&text))
        }
        None => context.find(&text),
    };
    let at = at.ok_or_else(missing)?;
    Ok((text, at))
}

fn of_lines(name: &str, mut lines: Lines, mut take: impl FnMut(Asked) -> Result<()>) -> Result<()> {
    while let Some((line, text)) = lines.next_line() {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        let subject = place(name, line);
        let refuse = |reason: String| Error::input(&subject, reason, SHAPE);
        let object: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| refuse(format!("is not a JSON object: {e}")))?;
        let text_of = |keys: &[&str]| {
            let found = keys.iter().find_map(|key| object.get(*key)?.as_str());
            found.map(str::to_string).ok_or_else(|| {
                let there: Vec<String> = object.keys().map(|key| format!("{key:?}")).collect();
                refuse(format!("has no text under {:?}; its keys are {}", keys[0], there.join(", ")))
            })
        };
        let (question, context) = (text_of(&["question"])?, text_of(&CONTEXTS)?);
        let said = ANSWERS.iter().find_map(|key| object.get(*key)).unwrap_or(&Value::Null);
        let unclear = || refuse(format!("has the answers {said}, which cannot be understood"));
        let start = |value: &Value| value.as_u64().map(|start| start as usize);
        let one = |answer: &Value| match answer {
            Value::String(text) => Some((text.clone(), object.get("answer_start").and_then(start))),
            Value::Object(answer) => {
                Some((answer.get("text")?.as_str()?.to_string(), answer.get("answer_start").and_then(start)))
            }
            _ => None,
        };
        // Columns of texts and of places, as the `datasets` library has them; a list of both; a text.
        let answers: Vec<(String, Option<usize>)> = match said {
            Value::Null => Vec::new(),
            Value::String(text) if text.is_empty() => Vec::new(),
            Value::Object(columns) if columns.get("text").is_some_and(Value::is_array) => {
                let texts = columns["text"].as_array().ok_or_else(unclear)?;
                let starts = columns.get("answer_start").and_then(Value::as_array);
                let pair = |(i, text): (usize, &Value)| {
                    Some((text.as_str()?.to_string(), starts.and_then(|starts| starts.get(i)).and_then(start)))
                };
                texts.iter().enumerate().map(pair).collect::<Option<_>>().ok_or_else(unclear)?
            }
            Value::Array(all) => all.iter().map(one).collect::<Option<_>>().ok_or_else(unclear)?,
            other => vec![one(other).ok_or_else(unclear)?],
        };
        let placed = answers.into_iter().map(|(text, start)| found(&subject, &context, text, start));
        let answers = placed.collect::<Result<_>>()?;
        let id = object.get("id").and_then(Value::as_str).map_or_else(|| subject.clone(), str::to_string);
        take(Asked { name: id, question, context: context.into(), answers })?;
    }
    Ok(())
}

fn of_table(mut table: Table, mut take: impl FnMut(Asked) -> Result<()>) -> Result<()> {
    let column = |names: &[&str]| {
        table.find(names).ok_or_else(|| {
            let reason = format!("has no column {:?}; its columns are {}", names[0], table.listed());
            Error::input(&table.name, reason, "call them question, context and answer; answer_start is optional")
        })
    };
    let mut wanted = vec![column(&["question"])?, column(&CONTEXTS)?, column(&ANSWERS)?];
    wanted.extend(table.find(&["answer_start"]));
    while let Some((line, row)) = table.next_row(&wanted) {
        let row = row?;
        let subject = place(&table.name, line);
        let start = row.get(3).filter(|cell| !cell.trim().is_empty()).map(|cell| {
            let wrong = || Error::input(&subject, format!("has the answer_start {cell:?}"), "count characters from 0");
            cell.trim().parse().map_err(|_| wrong())
        });
        let start = start.transpose()?;
        let answers = match row[2].is_empty() {
            true => Vec::new(),
            false => vec![found(&subject, &row[1], row[2].clone(), start)?],
        };
        take(Asked { name: subject, question: row[0].clone(), context: row[1].as_str().into(), answers })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Asked>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        questions(&path, |asked| {
            found.push(asked);
            Ok(())
        })?;
        Ok(found)
    }

    const SQUAD: &str = r#"{"version": "v2.0",
 "data": [{"title": "t", "paragraphs": [{"context": "Zoë is in Rome.", "qas": [
   {"id": "1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 10}], "is_impossible": false},
   {"id": "2", "question": "Why?", "answers": [], "is_impossible": true, "plausible_answers": [{"text": "Rome", "answer_start": 10}]}]}]}]}"#;

    #[test]
    fn squad_of_both_versions_is_read() {
        let found = read("a.json", SQUAD).unwrap();
        assert_eq!((found.len(), found[0].name.as_str(), found[1].answers.len()), (2, "1", 0));
        // A byte more than characters.
        assert_eq!(found[0].answers, [("Rome".to_string(), 11)]);
        let one = r#"{"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "q", "answers": [{"text": "b", "answer_start": 2}]}]}]}]}"#;
        assert_eq!(read("a.json", one).unwrap()[0].answers, [("b".to_string(), 2)]);
    }

    #[test]
    fn lines_and_tables_are_read() {
        let lines = r#"{"question": "q", "context": "a b", "answers": {"text": ["b", "a"], "answer_start": [2, 0]}}
{"question": "q", "context": "a b", "answers": [{"text": "b"}]}
{"question": "q", "context": "a b", "answer": "b"}
{"question": "q", "context": "a b", "answers": {"text": [], "answer_start": []}}
"#;
        let answers: Vec<_> = read("a.jsonl", lines).unwrap().into_iter().map(|asked| asked.answers).collect();
        let b = || ("b".to_string(), 2);
        assert_eq!(answers, [vec![b(), ("a".into(), 0)], vec![b()], vec![b()], vec![]]);
        let found = read("a.tsv", "question\tcontext\tanswer\nq\ta b\tb\nq\ta b\t\n").unwrap();
        assert_eq!((&found[0].answers, &found[1].answers), (&vec![b()], &vec![]));
        assert!(found[0].name.ends_with("a.tsv, line 2"));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_named() {
        let refused = |name: &str, text: &str| read(name, text).unwrap_err().to_string();
        let message = refused(
            "a.json",
            &SQUAD.replace("\"answer_start\": 10}], \"is_impossible\": false", "\"answer_start\": 9}]"),
        );
        assert!(
            message.contains("a.json, question 1") && message.contains("\"Rome\"") && message.contains("character 9"),
            "{message}"
        );
        assert!(refused("a.json", &SQUAD[..200]).contains("a.json, line "));
        assert!(refused("a.json", "{\n}\n").contains("no \"data\""));
        let message = refused("a.jsonl", "{\"question\": \"q\", \"body\": \"a\"}\n");
        assert!(message.contains("a.jsonl, line 1") && message.contains("\"body\""), "{message}");
        let message = refused("a.jsonl", "{\"question\": \"q\", \"context\": \"a\", \"answer\": \"b\"}\n");
        assert!(message.contains("line 1: its answer \"b\" is not in the passage"), "{message}");
        assert!(refused("a.tsv", "question\tcontext\nq\ta\n").contains("has no column \"answers\""));
        assert!(refused("a.jsonl", "\n").contains("holds no questions"));
    }
}
