//! Labelled words from files: CoNLL's columns, a word a line, or JSON lines with lists of words and of labels.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use topwork_core::{Error, Result};

use crate::dataset::DataArgs;
use crate::table::{Format, Lines, format_of, open_source, place};

/// A line of CoNLL that separates documents.
const DOCUMENT: &str = "-DOCSTART-";
/// Keys of JSON objects, in the order in which they are tried.
const WORDS: [&str; 3] = ["tokens", "words", "text"];
const LABELS: [&str; 5] = ["ner_tags", "tags", "labels", "pos_tags", "label"];

/// A sentence as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// Where it begins in its file.
    pub line: usize,
    /// Its words.
    pub words: Vec<String>,
    /// A label for each.
    pub labels: Vec<String>,
}

/// Hands every sentence of a file to `take`.
///
/// # Errors
/// At the first line that is not as it should be; when there is no sentence.
pub fn sentences(path: &Path, args: &DataArgs, take: impl FnMut(Sentence) -> Result<()>) -> Result<()> {
    let name = path.display().to_string();
    let lines = Lines::new(&name, open_source(path)?);
    let mut count = 0;
    let mut take = take;
    let counted = |sentence: Sentence| {
        count += 1;
        take(sentence)
    };
    match format_of(path) {
        Some(Format::JsonLines) => of_json(&name, lines, args, counted)?,
        _ => of_columns(&name, lines, args, counted)?,
    }
    if count == 0 {
        return Err(Error::input(
            name,
            "holds no words",
            "write a word and its label a line, sentences apart by blank lines",
        ));
    }
    Ok(())
}

/// Which column a flag names, counted from 1.
fn column(named: Option<&str>, flag: &str) -> Result<Option<usize>> {
    let Some(named) = named else { return Ok(None) };
    let number = named.parse().ok().filter(|&number: &usize| number > 0);
    number.map(|number| Some(number - 1)).ok_or_else(|| {
        let reason = "columns of CoNLL files have no names";
        Error::input(format!("{flag} {named}"), reason, "count it from 1, for example --label-column 4")
    })
}

/// The one label column that flags name.
fn label_flag(args: &DataArgs) -> Result<Option<&str>> {
    match args.label_column.as_deref().unwrap_or_default() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(Error::input("--label-column", "labels of words stand in one column", "name one")),
    }
}

fn of_columns(
    name: &str,
    mut lines: Lines,
    args: &DataArgs,
    mut take: impl FnMut(Sentence) -> Result<()>,
) -> Result<()> {
    // CoNLL-U has comments, ranges of words, and the part of speech in the fourth of ten columns.
    let universal = name.trim_end_matches(".gz").ends_with(".conllu");
    let word = column(args.text_column.as_deref(), "--text-column")?.unwrap_or(usize::from(universal));
    let label = column(label_flag(args)?, "--label-column")?.or(universal.then_some(3));
    if Some(word) == label {
        return Err(Error::input("--label-column", "it is the column of the words, too", "name another"));
    }
    let mut sentence = Sentence { line: 0, words: Vec::new(), labels: Vec::new() };
    let mut ended = |sentence: &mut Sentence| match sentence.words.is_empty() {
        true => Ok(()),
        false => take(std::mem::replace(sentence, Sentence { line: 0, words: Vec::new(), labels: Vec::new() })),
    };
    while let Some((line, text)) = lines.next_line() {
        let text = text?;
        if text.trim().is_empty() || text.starts_with(DOCUMENT) {
            ended(&mut sentence)?;
            continue;
        }
        if universal && text.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = match text.contains('\t') {
            true => text.split('\t').map(str::trim).collect(),
            false => text.split_whitespace().collect(),
        };
        if universal && fields[0].contains(['-', '.']) {
            continue;
        }
        let at = label.unwrap_or(fields.len() - 1);
        let field = |at: usize| fields.get(at).copied().filter(|field| !field.is_empty());
        let refuse = |reason: String| {
            let remedy =
                "write a word and its label a line, between tabs or spaces, and a blank line behind each sentence";
            Error::input(place(name, line), reason, remedy)
        };
        let columns = match fields.len() {
            1 => "1 column".to_string(),
            n => format!("{n} columns"),
        };
        let found = field(word).ok_or_else(|| refuse(format!("has {columns}, and no word in column {}", word + 1)))?;
        let said = field(at).filter(|_| at != word);
        let said = said.ok_or_else(|| refuse(format!("has {columns}, and no label for {found:?}")))?;
        if sentence.words.is_empty() {
            sentence.line = line;
        }
        sentence.words.push(found.into());
        sentence.labels.push(said.into());
    }
    ended(&mut sentence)
}

fn of_json(name: &str, mut lines: Lines, args: &DataArgs, mut take: impl FnMut(Sentence) -> Result<()>) -> Result<()> {
    let names = args.label_names.as_deref();
    while let Some((line, text)) = lines.next_line() {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        let refuse = |reason: String, remedy: &str| Error::input(place(name, line), reason, remedy);
        let shape =
            "write one JSON object a line, as {\"tokens\": [\"in\", \"Rome\"], \"ner_tags\": [\"O\", \"B-LOC\"]}";
        let object: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| refuse(format!("is not a JSON object: {e}"), shape))?;
        let list = |flag: Option<&str>, usual: &[&str], what: &str| -> Result<Vec<Value>> {
            let key = match flag {
                Some(key) => Some(key),
                None => usual.iter().copied().find(|key| object.get(*key).is_some_and(Value::is_array)),
            };
            let found = key.and_then(|key| object.get(key)).and_then(Value::as_array).cloned();
            let keys: Vec<String> = object.keys().map(|key| format!("{key:?}")).collect();
            found.ok_or_else(|| refuse(format!("has no list of {what}; its keys are {}", keys.join(", ")), shape))
        };
        let words = list(args.text_column.as_deref(), &WORDS, "words")?;
        let labels = list(label_flag(args)?, &LABELS, "labels")?;
        if words.len() != labels.len() {
            let reason = format!("has {} words and {} labels", words.len(), labels.len());
            return Err(refuse(reason, "give each word one label"));
        }
        if words.is_empty() {
            continue;
        }
        let word = |word: Value| match word {
            Value::String(word) => Ok(word),
            other => Err(refuse(format!("has the word {other}, which is no string"), shape)),
        };
        let label = |label: Value| match (label, names) {
            (Value::String(label), _) => Ok(label),
            (Value::Number(number), Some(names)) => {
                let found = number.as_u64().and_then(|number| names.get(number as usize));
                let reason = format!("has the label {number}, and --label-names has {} names", names.len());
                found.cloned().ok_or_else(|| refuse(reason, "name every label, the one of 0 first"))
            }
            (Value::Number(number), None) => {
                let reason = format!("has the label {number}, a number without a name");
                Err(refuse(reason, "name the labels in their order, as --label-names O,B-PER,I-PER"))
            }
            (other, _) => Err(refuse(format!("has the label {other}, which is neither a string nor a number"), shape)),
        };
        let words = words.into_iter().map(word).collect::<Result<_>>()?;
        take(Sentence { line, words, labels: labels.into_iter().map(label).collect::<Result<_>>()? })?;
    }
    Ok(())
}

/// The labels of a task: as `named`, where flags say so, else those of `found` in alphabetical order.
pub fn label_names(named: Option<&[String]>, found: &BTreeMap<String, u32>) -> Vec<String> {
    named.map_or_else(|| found.keys().cloned().collect(), <[String]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, args: &DataArgs) -> Result<Vec<Sentence>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        sentences(&path, args, |sentence| {
            found.push(sentence);
            Ok(())
        })?;
        Ok(found)
    }

    fn refused(name: &str, text: &str) -> String {
        read(name, text, &DataArgs::default()).unwrap_err().to_string()
    }

    fn sentence(line: usize, pairs: &[(&str, &str)]) -> Sentence {
        let of = |i: usize| pairs.iter().map(|pair| if i == 0 { pair.0 } else { pair.1 }.to_string()).collect();
        Sentence { line, words: of(0), labels: of(1) }
    }

    #[test]
    fn columns_end_sentences_by_blank_lines_and_documents_are_skipped() {
        let text = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n-DOCSTART- -X- O O\nBonn NNP I-NP B-LOC\r\n";
        let expected = [sentence(3, &[("EU", "B-ORG"), ("rejects", "O")]), sentence(8, &[("Bonn", "B-LOC")])];
        assert_eq!(read("a.conll", text, &DataArgs::default()).unwrap(), expected);
        let args = DataArgs { label_column: Some(vec!["2".into()]), ..DataArgs::default() };
        assert_eq!(read("a.txt", text, &args).unwrap()[0].labels, ["NNP", "VBZ"]);
        // Tabs allow words with spaces inside.
        assert_eq!(
            read("a.tsv", "New York\tB-LOC\n", &DataArgs::default()).unwrap(),
            [sentence(1, &[("New York", "B-LOC")])]
        );
    }

    #[test]
    fn universal_dependencies_have_their_words_and_parts_of_speech_found() {
        let text = "# text = It's\n1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_\n1\tIt\tit\tPRON\tPRP\t_\t2\t_\t_\t_\n2\t's\tbe\tAUX\tVBZ\t_\t0\t_\t_\t_\n";
        assert_eq!(
            read("a.conllu", text, &DataArgs::default()).unwrap(),
            [sentence(2 + 1, &[("It", "PRON"), ("'s", "AUX")])]
        );
    }

    #[test]
    fn json_lists_hold_labels_by_name_or_by_number() {
        let text = "{\"id\": 1, \"tokens\": [\"in\", \"Rome\"], \"ner_tags\": [0, 2]}\n";
        let args =
            DataArgs { label_names: Some(["O", "B-PER", "B-LOC"].map(String::from).to_vec()), ..DataArgs::default() };
        let expected = [sentence(1, &[("in", "O"), ("Rome", "B-LOC")])];
        assert_eq!(read("a.jsonl", text, &args).unwrap(), expected);
        let named = "{\"words\": [\"in\", \"Rome\"], \"tags\": [\"O\", \"B-LOC\"]}\n";
        assert_eq!(read("a.jsonl", named, &DataArgs::default()).unwrap(), expected);
        assert!(refused("a.jsonl", text).contains("--label-names"));
        let few = DataArgs { label_names: Some(vec!["O".into()]), ..DataArgs::default() };
        assert!(read("a.jsonl", text, &few).unwrap_err().to_string().contains("has 1 names"));
    }

    #[test]
    fn lines_that_are_not_as_they_should_be_are_named() {
        let message = refused("a.conll", "EU B-ORG\nrejects\n");
        assert!(message.contains("a.conll, line 2: has 1 column, and no label for \"rejects\""), "{message}");
        assert!(refused("a.conll", "EU\tB-ORG\n\tO\n").contains("line 2: has 2 columns, and no word in column 1"));
        assert!(refused("a.conll", "\n\n").contains("holds no words"));
        let message = refused("a.jsonl", "{\"tokens\": [\"a\"], \"tags\": []}\n");
        assert!(message.contains("a.jsonl, line 1: has 1 words and 0 labels"), "{message}");
        assert!(refused("a.jsonl", "{\"body\": \"a\"}\n").contains("no list of words; its keys are \"body\""));
        let args = DataArgs { label_column: Some(vec!["ner".into()]), ..DataArgs::default() };
        let message = read("a.conll", "a O\n", &args).unwrap_err().to_string();
        assert!(message.contains("--label-column ner") && message.contains("count it from 1"), "{message}");
    }
}
