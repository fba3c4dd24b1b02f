//! Sentences to predict on: texts on the command line, lines or table columns of files, standard input. Read lazily,
//! one after the other, so that memory does not grow with their number.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Args;
use topwork_core::batched::Named;
use topwork_core::domain::Inputs;
use topwork_core::prefetch::{self, Prefetch};
use topwork_core::{Error, Result};

use crate::dataset::text_columns;
use crate::models::bert::Pooling;
use crate::pipeline::Pipeline;
use crate::table::{Format, Lines, Source, Table, decompressed, format_of, open_source, place};
use crate::tokenizer::Tokens;

/// What to predict on.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct InputArgs {
    /// Files: one sentence a line, or .tsv, .csv and .jsonl tables with named columns; `-` for standard input. For a model that
    /// finds answers: tables of questions and contexts, or SQuAD's .json
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A sentence itself; may be given more than once
    #[arg(long, value_name = "SENTENCE", allow_hyphen_values = true)]
    pub text: Vec<String>,
    /// A question about the --text beside it, for a model that finds answers; as many as there are of --text
    #[arg(long, value_name = "QUESTION", allow_hyphen_values = true)]
    pub question: Vec<String>,
    /// By how much no answer must be more probable than the best one, in logits, to be given, where a model finds answers
    /// [default: as it was trained]
    #[arg(long, value_name = "X")]
    pub no_answer_threshold: Option<f64>,
    /// Column of the text; makes a table of any file [default: as in training]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Column of the second text of a pair; of the question, where a model finds answers [default: question]
    #[arg(long, value_name = "NAME")]
    pub pair_column: Option<String>,
    /// Tokens that the windows of a long text share with the next, where a model reads it in windows [default: as the model was
    /// trained]
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Read a text that is longer than the longest sequence in at most this many windows, which are pooled together [default: as
    /// the model was trained; pre-trained ones cut it]
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    /// How the rows of a text become one, where a model has no head yet [default: as the model comes]
    #[arg(long, value_name = "NAME")]
    pub pooling: Option<Pooling>,
    /// Longest sequence, in tokens [default: as the model was trained]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
}

const STANDARD_INPUT: &str = "standard input";

/// Texts that are prepared before they are asked for.
const AHEAD: usize = 256;

/// Finds the columns of a table that are asked for, where all files are tables.
pub(crate) type Find = fn(&InputArgs, &Table) -> Result<Vec<usize>>;

/// One place that sentences come from.
enum Origin {
    Text(String),
    File(PathBuf),
    Stream(Source),
}

impl InputArgs {
    /// Refuses flags of models of other tasks than those that have the flags `known`.
    pub(crate) fn fit(&self, known: &[&str]) -> Result<()> {
        let given = [
            (!self.question.is_empty(), "--question"),
            (self.no_answer_threshold.is_some(), "--no-answer-threshold"),
            (self.stride.is_some() && self.windows.is_none(), "--stride"),
            (self.windows.is_some(), "--windows"),
        ];
        match given.into_iter().find(|(given, flag)| *given && !known.contains(flag)) {
            None => Ok(()),
            Some((_, flag)) => Err(Error::input(flag, "it says nothing to a model of this task", "leave it out")),
        }
    }

    fn is_table(&self, path: &Path, find: Option<Find>) -> bool {
        find.is_some() || self.text_column.is_some() || self.pair_column.is_some() || format_of(path).is_some()
    }

    fn columns(&self, table: &Table) -> Result<Vec<usize>> {
        let (text, pair) =
            text_columns(table, self.text_column.as_deref(), self.pair_column.as_deref(), "--text-column")?;
        Ok([Some(text), pair].into_iter().flatten().collect())
    }

    fn table(&self, name: &str, source: Source, format: Option<Format>, find: Option<Find>) -> Result<Reader> {
        let table = Table::new(name, source, format)?;
        let wanted = find.unwrap_or(Self::columns)(self, &table)?;
        Ok(Reader::Table(table, wanted))
    }

    fn reader(&self, origin: Origin, find: Option<Find>) -> Result<Reader> {
        match origin {
            Origin::Text(text) => Ok(Reader::Text(Some(text))),
            Origin::File(path) => {
                let name = path.display().to_string();
                let source = open_source(&path)?;
                if self.is_table(&path, find) {
                    return self.table(&name, source, format_of(&path), find);
                }
                Ok(Reader::Lines(name.clone(), Lines::new(&name, source)))
            }
            Origin::Stream(source) => {
                let name = STANDARD_INPUT;
                let source = decompressed(source).map_err(Error::io(name))?;
                if self.is_table(Path::new(name), find) {
                    return self.table(name, source, None, find);
                }
                Ok(Reader::Lines(name.into(), Lines::new(name, source)))
            }
        }
    }
}

/// An opened origin.
enum Reader {
    Text(Option<String>),
    Lines(String, Lines),
    Table(Table, Vec<usize>),
}

impl Reader {
    /// The next sentence or pair, with its name.
    fn next(&mut self) -> Option<(String, Result<Vec<String>>)> {
        match self {
            Self::Text(text) => text.take().map(|text| (text.clone(), Ok(vec![text]))),
            Self::Lines(name, lines) => {
                lines.next_line().map(|(line, text)| (place(name, line), text.map(|text| vec![text])))
            }
            Self::Table(table, wanted) => table.next_row(wanted).map(|(line, row)| (place(&table.name, line), row)),
        }
    }
}

struct Stream {
    args: InputArgs,
    find: Option<Find>,
    waiting: std::vec::IntoIter<Origin>,
    current: Option<Reader>,
}

impl Iterator for Stream {
    type Item = (String, Result<Vec<String>>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(reader) = &mut self.current else {
                let origin = self.waiting.next()?;
                let name = match &origin {
                    Origin::Text(text) => text.clone(),
                    Origin::File(path) => path.display().to_string(),
                    Origin::Stream(_) => STANDARD_INPUT.into(),
                };
                match self.args.reader(origin, self.find) {
                    Ok(reader) => self.current = Some(reader),
                    Err(e) => return Some((name, Err(e))),
                }
                continue;
            };
            let Some((name, texts)) = reader.next() else {
                self.current = None;
                continue;
            };
            return Some((name, texts));
        }
    }
}

/// See [`topwork_core::domain::Domain::inputs`]. Texts come first, then files in their order. A sentence on the command
/// line is called by itself, one of a file by its line; blank lines of plain files are sentences too.
pub(crate) fn inputs(args: &InputArgs, pipeline: &Pipeline) -> Result<Inputs> {
    inputs_with(args, pipeline, || Box::new(BufReader::new(std::io::stdin())))
}

fn inputs_with(args: &InputArgs, pipeline: &Pipeline, stdin: impl Fn() -> Source) -> Result<Inputs> {
    let tokenizer = pipeline.clone().limited(args.max_tokens)?.tokenizer;
    let sample = move |texts: Vec<String>| {
        let tokens = tokenizer.encode(&texts[0], texts.get(1).map(String::as_str))?;
        Ok(Tokens::sample(&tokens.ids, tokens.first))
    };
    let in_windows = pipeline.tokenizer.windows().is_some();
    args.fit(if in_windows { &["--windows", "--stride"] } else { &["--windows"] })?;
    let texts = texts_with(args, None, stdin)?;
    Ok(prepared(texts, AHEAD, sample))
}

/// What is made of texts by several threads, of at most `ahead` before it is asked for: texts may be long.
pub(crate) fn prepared<P: Send + 'static>(
    texts: Texts,
    ahead: usize,
    prepare: impl Fn(Vec<String>) -> Result<P> + Send + Sync + 'static,
) -> Named<P> {
    Prefetch::new(texts, prefetch::threads(), ahead, move |(name, texts)| (name, texts.and_then(&prepare)))
}

/// The texts themselves, or both of a pair, with what to call them.
pub(crate) type Texts = Box<dyn Iterator<Item = (String, Result<Vec<String>>)> + Send>;

/// As [`inputs`], before they are samples.
pub(crate) fn texts(args: &InputArgs) -> Result<Texts> {
    texts_with(args, None, || Box::new(BufReader::new(std::io::stdin())))
}

/// The cells of tables, in the columns that `find` finds.
pub(crate) fn rows(args: &InputArgs, find: Find) -> Result<Texts> {
    texts_with(args, Some(find), || Box::new(BufReader::new(std::io::stdin())))
}

fn texts_with(args: &InputArgs, find: Option<Find>, stdin: impl Fn() -> Source) -> Result<Texts> {
    if args.files.is_empty() && args.text.is_empty() {
        let remedy = "name a file, give a sentence with --text, or - to read standard input";
        return Err(Error::input("no input", "there is nothing to predict on", remedy));
    }
    let paired =
        args.text_column.as_deref().map(|_| "--text-column").or(args.pair_column.as_deref().map(|_| "--pair-column"));
    if let Some(flag) = paired.filter(|_| args.files.is_empty()) {
        return Err(Error::input(flag, "columns are of files, and there is none", "name a table, or leave it out"));
    }
    let mut origins: Vec<Origin> = args.text.iter().cloned().map(Origin::Text).collect();
    for path in &args.files {
        if path == Path::new("-") {
            origins.push(Origin::Stream(stdin()));
            continue;
        }
        // Errors in paths and columns shall be seen before the first prediction.
        let source = open_source(path)?;
        if args.is_table(path, find) {
            args.table(&path.display().to_string(), source, format_of(path), find)?;
        }
        origins.push(Origin::File(path.clone()));
    }
    Ok(Box::new(Stream { args: args.clone(), find, waiting: origins.into_iter(), current: None }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use topwork_core::data::{Sample, Values};

    use super::*;
    use crate::folder::tests::pipeline;

    fn args(files: &[&Path]) -> InputArgs {
        InputArgs { files: files.iter().map(|p| p.to_path_buf()).collect(), ..InputArgs::default() }
    }

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn all(args: &InputArgs, stdin: &'static str) -> Vec<(String, Result<Sample>)> {
        inputs_with(args, &pipeline(), || Box::new(Cursor::new(stdin.as_bytes()))).unwrap().collect()
    }

    fn refused(args: &InputArgs) -> String {
        inputs(args, &pipeline()).err().unwrap().to_string()
    }

    #[test]
    fn texts_and_files_come_in_order_with_their_names() {
        let (_folder, path) = written("a.txt", b"the film\n\nbad");
        let args = InputArgs { text: vec!["hello".into()], ..args(&[&path]) };
        let names: Vec<String> = all(&args, "").into_iter().map(|(name, _)| name).collect();
        let line = |n| format!("{}, line {n}", path.display());
        assert_eq!(names, ["hello".to_string(), line(1), line(2), line(3)]);
    }

    #[test]
    fn a_dash_reads_lines_of_standard_input() {
        let found = all(&args(&[Path::new("-")]), "hello world\r\nthe\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0.as_str(), found[0].1.as_ref().unwrap().rows), ("standard input, line 1", 4));
    }

    #[test]
    fn with_a_column_standard_input_is_a_table() {
        let args = InputArgs { text_column: Some("body".into()), ..args(&[Path::new("-")]) };
        let found = all(&args, "id\tbody\n7\tthe film\n");
        assert_eq!((found.len(), found[0].1.as_ref().unwrap().rows), (1, 4));
    }

    #[test]
    fn two_columns_make_pairs() {
        let (_folder, path) = written("a.jsonl", b"{\"sentence1\": \"the\", \"sentence2\": \"film\"}\n");
        let found = all(&args(&[&path]), "");
        let Values::U32(values) = &found[0].1.as_ref().unwrap().values else { panic!("no indices") };
        assert_eq!(values.iter().skip(1).step_by(2).copied().collect::<Vec<u32>>(), [0, 0, 0, 1, 1]);
    }

    #[test]
    fn a_bad_line_is_an_item_and_the_next_ones_follow() {
        let (_folder, path) = written("a.txt", b"the\ncaf\xe9\nfilm\n");
        let found: Vec<bool> = all(&args(&[&path]), "").iter().map(|(_, sample)| sample.is_ok()).collect();
        assert_eq!(found, [true, false, true]);
    }

    #[test]
    fn nothing_to_predict_on_is_refused_with_the_ways_to_give_it() {
        let message = refused(&InputArgs::default());
        assert!(message.contains("--text"), "{message}");
    }

    #[test]
    fn a_missing_file_or_column_is_refused_before_the_first_prediction() {
        assert!(refused(&args(&[Path::new("no-such-file.txt")])).contains("no-such-file.txt"));
        let (_folder, path) = written("a.tsv", b"id\tbody\n1\ta\n");
        let message = refused(&args(&[&path]));
        assert!(message.contains("\"id\", \"body\"") && message.contains("--text-column"), "{message}");
    }

    #[test]
    fn more_tokens_than_positions_are_refused() {
        let args = InputArgs { text: vec!["a".into()], max_tokens: Some(65), ..InputArgs::default() };
        let message = refused(&args);
        assert!(message.contains("--max-tokens 65") && message.contains("64"), "{message}");
    }
}
