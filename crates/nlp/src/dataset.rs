//! Labelled sentences from tables: which columns mean what, the classes, and the data set that training reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Serialize};
use topwork_core::data::{Dataset, Excerpt, Omissions, Sample, Splits, View, hold_out};
use topwork_core::draw::{EXCERPT, shortened};
use topwork_core::seed::Seed;
use topwork_core::task::{Cells, Kind, Task, TaskArgs};
use topwork_core::{Error, Result};

use crate::models::bert::Pooling;
use crate::omissions::{self, PARTNERS};
use crate::pipeline::Pipeline;
use crate::table::{Table, place};
use crate::tokenizer::{TextTokenizer, Tokens};

/// Where labelled sentences are, and how to read them.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataArgs {
    /// Labelled sentences: a .tsv, .csv or .jsonl file with named columns, or its .gz; tokens: CoNLL's columns or .jsonl; spans:
    /// SQuAD's .json, .jsonl, .tsv or .csv
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// More of them, to validate on [default: a share of the training file]
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
    /// Column of the text [default: sentence, text, review, content, question1, sentence1 or premise]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Column of the second text of a pair [default: sentence2, question2, hypothesis, answer, positive or
    /// passage, beside its partner]
    #[arg(long, value_name = "NAME")]
    pub pair_column: Option<String>,
    /// What is asked of a sample: one of several classes, any number of labels, values, which are numbers, a label for each
    /// word (tokens), passages that answer questions (spans), or to find the other text of its pair (matches) [default: classes]
    #[arg(long, value_name = "KIND")]
    pub task: Option<Kind>,
    /// tokens: the labels that stand as numbers in the files, in their order, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub label_names: Option<Vec<String>>,
    /// Column of the class; of labels the column that lists them, or one of 0 and 1 for each, of values one for each, separated by
    /// commas [default: label, labels, class, category or target]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub label_column: Option<Vec<String>>,
    /// What stands between the labels in a column that lists them [default: ;]
    #[arg(long, value_name = "TEXT")]
    pub label_separator: Option<String>,
    /// Read a text that is longer than --max-tokens in at most this many windows, which are pooled together [default: cut it]
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    /// Longest sequence, in tokens; what is longer is cut, or read in windows [default: 128; spans: 384]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Tokens that the windows of a text longer than --max-tokens share with the next, of tokens, spans and with --windows
    /// [default: a quarter of it; spans: 128]
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// spans: by how much no answer must be more probable than the best one, in logits, to be given [default: what suits the
    /// validation part best, where questions without an answer are learned from]
    #[arg(long, value_name = "X")]
    pub no_answer_threshold: Option<f64>,
    /// How the rows of a sentence become one [default: as the model comes]
    #[arg(long, value_name = "NAME")]
    pub pooling: Option<Pooling>,
    /// Share of the training file to validate on when there is no validation file [default: 0.2]
    #[arg(long, value_name = "SHARE")]
    pub validation_share: Option<f64>,
}

impl DataArgs {
    /// Refuses flags that say nothing of data of this kind.
    pub(crate) fn fit(&self, kind: Kind) -> Result<()> {
        let whole = Kind::OF_SAMPLES;
        let named = |set: bool, flag: &'static str, kinds: &[Kind]| (set && !kinds.contains(&kind)).then_some(flag);
        let foreign = [
            named(self.text_column.is_some(), "--text-column", &[&whole[..], &[Kind::Tokens, Kind::Matches]].concat()),
            named(self.pair_column.is_some(), "--pair-column", &[&whole[..], &[Kind::Matches]].concat()),
            named(self.label_column.is_some(), "--label-column", &[&whole[..], &[Kind::Tokens]].concat()),
            named(self.label_separator.is_some(), "--label-separator", &whole),
            named(self.label_names.is_some(), "--label-names", &[Kind::Tokens]),
            named(self.windows.is_some(), "--windows", &[&whole[..], &[Kind::Matches]].concat()),
            named(self.stride.is_some() && self.windows.is_none(), "--stride", &[Kind::Tokens, Kind::Spans]),
            named(self.no_answer_threshold.is_some(), "--no-answer-threshold", &[Kind::Spans]),
        ];
        let Some(flag) = foreign.into_iter().flatten().next() else { return Ok(()) };
        let reason = match (kind, flag.ends_with("column")) {
            (Kind::Spans, true) => "questions, texts and answers are called question, context and answers".to_string(),
            _ => format!("it says nothing of data of {kind}"),
        };
        Err(Error::input(flag, reason, "leave it out, or name another --task"))
    }

    /// How targets are to be understood.
    fn asked(&self, known: Option<&Task>) -> TaskArgs {
        let Self { task, label_column, label_separator, .. } = self.clone();
        TaskArgs { task, label_column, label_separator }.of_model(known)
    }
}

/// Columns that hold a text, in the order in which they are tried, with the partner that makes it a pair.
const TEXTS: [(&str, Option<&str>); 12] = [
    ("question1", Some("question2")),
    ("sentence1", Some("sentence2")),
    ("premise", Some("hypothesis")),
    ("question", Some("sentence")),
    ("question", Some("answer")),
    ("anchor", Some("positive")),
    ("query", Some("passage")),
    ("sentence", None),
    ("text", None),
    ("review", None),
    ("content", None),
    ("question", None),
];
const LABELS: [&str; 6] = ["label", "labels", "class", "category", "target", "gold_label"];

/// Indices of the text's column and its partner's, from flags or by the usual names.
///
/// # Errors
/// When a named column does not exist, or none has a usual name.
pub(crate) fn text_columns(
    table: &Table,
    text: Option<&str>,
    pair: Option<&str>,
    flag: &str,
) -> Result<(usize, Option<usize>)> {
    let named_pair = pair.map(|name| table.column(name, "--pair-column")).transpose()?;
    if let Some(name) = text {
        return Ok((table.column(name, flag)?, named_pair));
    }
    for (name, partner) in TEXTS {
        let Some(column) = table.find(&[name]).filter(|&c| Some(c) != named_pair) else { continue };
        match partner.map(|p| table.find(&[p])) {
            Some(None) => {}
            Some(found) => return Ok((column, named_pair.or(found))),
            None => return Ok((column, named_pair)),
        }
    }
    // A first text whose partner is missing is a text all the same.
    if let Some(column) = table.find(&["question1", "sentence1", "premise"]).filter(|&c| Some(c) != named_pair) {
        return Ok((column, named_pair));
    }
    Err(Error::input(
        &table.name,
        format!("has no column that is known to hold text; its columns are {}", table.listed()),
        format!("name it with {flag} (the first line must be a header)"),
    ))
}

fn label_column(table: &Table, named: Option<&str>) -> Result<usize> {
    if let Some(name) = named {
        return table.column(name, "--label-column");
    }
    table.find(&LABELS).ok_or_else(|| {
        Error::input(
            &table.name,
            format!("has no column that is known to hold labels; its columns are {}", table.listed()),
            "name it with --label-column (the first line must be a header)",
        )
    })
}

/// Labelled sentences: compact, in memory, thread-safe. They become tokens when they are asked for, so that a large table of
/// which little is used costs little.
pub struct TextData {
    file: Arc<str>,
    /// All samples' texts behind each other; of a pair, the second behind the first.
    texts: String,
    /// Where each sample's first text ends, and where the sample does.
    ends: Vec<(usize, usize)>,
    lines: Vec<u32>,
    targets: Vec<u32>,
    /// Of labels and values, those of each sample, behind each other.
    numbers: Vec<f32>,
    pairs: bool,
    tokenizer: TextTokenizer,
}

/// Targets as they are written.
struct Written {
    /// Of classes each name once: the samples' targets are places in this list.
    names: Vec<String>,
    /// Of labels and values the cells.
    cells: Cells,
}

impl TextData {
    /// Without a row.
    fn new(table: &Table, pairs: bool, tokenizer: &TextTokenizer) -> Self {
        Self {
            file: table.name.as_str().into(),
            texts: String::new(),
            ends: Vec::new(),
            lines: Vec::new(),
            targets: Vec::new(),
            numbers: Vec::new(),
            pairs,
            tokenizer: tokenizer.clone(),
        }
    }

    /// A row more, without a target.
    fn push(&mut self, line: usize, text: &str, pair: &str) {
        self.texts += text;
        let first = self.texts.len();
        self.texts += pair;
        self.ends.push((first, self.texts.len()));
        self.lines.push(line as u32);
    }

    /// Reads pairs of texts, neither of them empty, without targets.
    pub(crate) fn pairs(path: &Path, args: &DataArgs, pipeline: &Pipeline) -> Result<Self> {
        let mut table = Table::open(path)?;
        let named = (args.text_column.as_deref(), args.pair_column.as_deref());
        let (text, Some(pair)) = text_columns(&table, named.0, named.1, "--text-column")? else {
            let reason = format!("has no column of second texts; its columns are {}", table.listed());
            return Err(Error::input(&table.name, reason, "name it with --pair-column"));
        };
        let mut data = Self::new(&table, true, &pipeline.tokenizer);
        while let Some((line, row)) = table.next_row(&[text, pair]) {
            let row = row?;
            if let Some(empty) = (0..2).find(|&i| row[i].trim().is_empty()) {
                let column = &table.columns[[text, pair][empty]];
                let reason = format!("has no text in column {column:?}");
                return Err(Error::input(place(&table.name, line), reason, "complete the row or remove it"));
            }
            data.push(line, &row[0], &row[1]);
        }
        if data.lines.is_empty() {
            return Err(Error::input(&table.name, "has a header but no rows", "add pairs of texts below it"));
        }
        Ok(data)
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// Tokenizes one text.
    pub(crate) fn encode(&self, text: &str) -> Result<Tokens> {
        self.tokenizer.encode(text, None)
    }

    /// What row `i` is called.
    pub(crate) fn place(&self, i: usize) -> String {
        place(&self.file, self.lines[i] as usize)
    }

    /// Reads a whole table; targets come back as they are written, to be given numbers.
    fn read(path: &Path, args: &DataArgs, asked: &TaskArgs, pipeline: &Pipeline) -> Result<(Self, Written)> {
        let mut table = Table::open(path)?;
        let (text, pair) =
            text_columns(&table, args.text_column.as_deref(), args.pair_column.as_deref(), "--text-column")?;
        let labels: Vec<usize> = match asked.label_column.as_deref().unwrap_or_default() {
            [] => vec![label_column(&table, None)?],
            names => names.iter().map(|name| label_column(&table, Some(name))).collect::<Result<_>>()?,
        };
        let label = labels.iter().copied().find(|&l| l == text || Some(l) == pair).unwrap_or(labels[0]);
        if label == text || Some(label) == pair || Some(text) == pair {
            return Err(Error::input(
                &table.name,
                format!(
                    "column {:?} is asked to be two things",
                    table.columns[if label == text { label } else { pair.unwrap_or(text) }]
                ),
                "give --text-column, --pair-column and --label-column different columns",
            ));
        }
        let mut wanted = vec![text];
        wanted.extend(pair);
        let first_label = wanted.len();
        wanted.extend(&labels);
        let mut data = Self::new(&table, pair.is_some(), &pipeline.tokenizer);
        let columns = labels.iter().map(|&label| table.columns[label].clone()).collect();
        let mut cells = Cells::new(columns);
        let mut places: BTreeMap<String, u32> = BTreeMap::new();
        while let Some((line, row)) = table.next_row(&wanted) {
            let row = row?;
            if asked.kind() == Kind::Classes {
                let label = row[first_label].trim();
                if label.is_empty() {
                    let column = &cells.columns[0];
                    let reason = format!("has no label in column {column:?}");
                    return Err(Error::input(place(&table.name, line), reason, "label the row or remove it"));
                }
                let next = places.len() as u32;
                let known = places.get(label).copied();
                data.targets.push(known.unwrap_or_else(|| *places.entry(label.to_string()).or_insert(next)));
            } else {
                cells.push(row[first_label..].iter().map(|cell| cell.trim()));
            }
            data.push(line, &row[0], if data.pairs { &row[1] } else { "" });
        }
        if data.ends.is_empty() {
            return Err(Error::input(&table.name, "has a header but no rows", "add labelled rows below it"));
        }
        let mut names = vec![String::new(); places.len()];
        places.into_iter().for_each(|(name, place)| names[place as usize] = name);
        Ok((data, Written { names, cells }))
    }

    /// The text of a sample, or both of a pair.
    pub(crate) fn text(&self, i: usize) -> (&str, Option<&str>) {
        let start = if i == 0 { 0 } else { self.ends[i - 1].1 };
        let (first, end) = self.ends[i];
        (&self.texts[start..first], self.pairs.then(|| &self.texts[first..end]))
    }

    fn tokens(&self, i: usize) -> Result<Tokens> {
        let (text, pair) = self.text(i);
        self.tokenizer.encode(text, pair)
    }

    /// Gives targets their numbers in `task`.
    fn label(&mut self, written: &Written, asked: &TaskArgs, task: &Task) -> Result<()> {
        if !task.is_classes() {
            let place = |row: usize| place(&self.file, self.lines.get(row).map_or(1, |&line| line as usize));
            let understood = asked.understand(&written.cells, task, place)?;
            (self.targets, self.numbers) = (understood.classes, understood.numbers);
            return Ok(());
        }
        let classes: &[String] = task;
        let numbers: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        for (target, &line) in self.targets.iter_mut().zip(&self.lines) {
            let label = &written.names[*target as usize];
            *target = numbers.get(label.as_str()).copied().ok_or_else(|| {
                let shown: Vec<String> = classes.iter().take(20).map(|c| format!("{c:?}")).collect();
                let more = if classes.len() > 20 { ", …" } else { "" };
                Error::input(
                    place(&self.file, line as usize),
                    format!("has the label {label:?}, which is none of the classes {}{more}", shown.join(", ")),
                    "correct the label, or add rows with it to the training file",
                )
            })?;
        }
        Ok(())
    }
}

/// Of the bytes of both texts, each with its length in front.
pub(crate) fn digest(text: &str, pair: Option<&str>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [Some(text), pair].into_iter().flatten() {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl Dataset for TextData {
    fn len(&self) -> usize {
        self.targets.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.targets[i]
    }
    fn numbers(&self, i: usize) -> &[f32] {
        let each = self.numbers.len() / self.len().max(1);
        &self.numbers[i * each..(i + 1) * each]
    }
    fn name(&self, i: usize) -> String {
        self.place(i)
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        let (text, pair) = self.text(i);
        Ok(digest(text, pair))
    }
    fn rows(&self, i: usize) -> usize {
        self.tokens(i).map_or(0, |tokens| tokens.ids.len())
    }
    fn excerpt(&self, i: usize) -> Result<Excerpt> {
        let (text, pair) = self.text(i);
        let texts = [Some(text), pair].into_iter().flatten().map(|text| shortened(text.trim(), EXCERPT));
        Ok(Excerpt::Text(texts.collect::<Vec<_>>().join(PARTNERS)))
    }
    fn load(&self, i: usize, _view: View) -> Result<Sample> {
        let tokens = self.tokens(i)?;
        Ok(Tokens::sample(&tokens.ids, tokens.first))
    }
    fn omissions(&self, i: usize, most: usize) -> Result<Option<Omissions>> {
        let (text, pair) = self.text(i);
        omissions::of(text, pair, &self.tokenizer, most)
    }
}

/// The different labels: by value when all are numbers, else by name.
fn class_names(labels: &[String]) -> Vec<String> {
    let mut names: Vec<String> = labels.to_vec();
    names.sort_unstable();
    names.dedup();
    let numbers: Option<Vec<f64>> = names.iter().map(|n| n.parse().ok().filter(|v: &f64| v.is_finite())).collect();
    if let Some(numbers) = numbers {
        let mut order: Vec<(f64, String)> = numbers.into_iter().zip(names).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        return order.into_iter().map(|(_, name)| name).collect();
    }
    names
}

/// The share to hold out.
pub(crate) fn held_share(args: &DataArgs) -> Result<f64> {
    let share = args.validation_share.unwrap_or(0.2);
    if !(share > 0.0 && share < 1.0) {
        let subject = format!("--validation-share {share}");
        return Err(Error::input(subject, "is not between 0 and 1", "use a share such as 0.2"));
    }
    Ok(share)
}

/// See [`topwork_core::domain::Domain::splits`]. With a `known` task the training file may be absent: an empty part then.
pub(crate) fn splits(args: &DataArgs, pipeline: &Pipeline, known: Option<&Task>, seed: Seed) -> Result<Splits> {
    let share = held_share(args)?;
    pipeline.reads(args)?;
    let pipeline = pipeline.clone().for_training(args.max_tokens)?;
    let asked = args.asked(known);
    asked.check()?;
    let read = |path: &PathBuf| TextData::read(path, args, &asked, &pipeline);
    let train = args.train.as_ref().map(read).transpose()?;
    let validation = args.validation.as_ref().map(read).transpose()?;
    if let (Some((a, _)), Some((b, _))) = (&train, &validation)
        && a.pairs != b.pairs
    {
        let (pairs, single) = if a.pairs { (&a.file, &b.file) } else { (&b.file, &a.file) };
        let reason = format!("holds single texts, {pairs} holds pairs");
        return Err(Error::input(single, reason, "give both files the same columns, or name --text-column"));
    }
    if let Some(windows) = pipeline.tokenizer.windows()
        && train.iter().chain(&validation).any(|(data, _)| data.pairs)
    {
        let reason = "pairs of texts are read in one sequence, and cut where they are longer";
        return Err(Error::input(format!("--windows {}", windows.most), reason, "leave it out"));
    }
    let task = match (known, &train) {
        (Some(task), _) => task.clone(),
        (None, Some((data, written))) if asked.kind() != Kind::Classes => asked.task(&written.cells, &data.file)?,
        (None, Some((data, written))) => {
            let names = class_names(&written.names);
            if let [only] = names.as_slice() {
                let reason = format!("all {} rows have the label {only:?}", data.targets.len());
                return Err(Error::input(&data.file, reason, "training needs rows of two classes or more"));
            }
            Task::classes(names)
        }
        (None, None) => return Err(no_train()),
    };
    let labelled = |part: Option<(TextData, Written)>| -> Result<Option<TextData>> {
        let Some((mut data, written)) = part else { return Ok(None) };
        data.label(&written, &asked, &task)?;
        Ok(Some(data))
    };
    Splits::of(task.clone(), labelled(train)?, labelled(validation)?, |all| {
        let (kept, held) = hold_out(&all.targets, share, seed);
        if held.is_empty() {
            let file = args.train.as_deref().unwrap_or(Path::new("--train"));
            let remedy = "add rows, or give a validation file with --validation";
            return Err(Error::input(file.display(), "has too few rows of each class to hold some out", remedy));
        }
        Ok((kept, held))
    })
}

pub(crate) fn no_train() -> Error {
    Error::input("--train", "there is nothing to learn from", "name a file of labelled sentences with --train")
}

#[cfg(test)]
mod tests {
    use topwork_core::data::Values;

    use super::*;
    use crate::folder::tests::pipeline;

    const TRAIN: &str = "sentence\tlabel\nthe film\t10\nbad\t9\ngood movie\t10\nterrible\t9\n";

    struct Files(tempfile::TempDir);

    impl Files {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
            Self(folder)
        }
        fn args(&self, train: Option<&str>, validation: Option<&str>) -> DataArgs {
            let path = |name: &str| self.0.path().join(name);
            DataArgs { train: train.map(path), validation: validation.map(path), ..DataArgs::default() }
        }
    }

    fn read(args: &DataArgs) -> Result<Splits> {
        splits(args, &pipeline(), None, Seed(1))
    }

    fn refused(train: &str) -> String {
        let files = Files::new(&[("train.tsv", train)]);
        read(&files.args(Some("train.tsv"), None)).err().unwrap().to_string()
    }

    #[test]
    fn rows_keep_their_order_labels_tokens_and_names() {
        let files = Files::new(&[("a.tsv", TRAIN), ("b.csv", "label,text\n9,\"a, b\"\n10,the\n")]);
        let found = read(&files.args(Some("a.tsv"), Some("b.csv"))).unwrap();
        assert_eq!(found.task.outputs, ["9", "10"]);
        assert_eq!((0..4).map(|i| found.train.target(i)).collect::<Vec<_>>(), [1, 0, 1, 0]);
        assert_eq!((found.validation.len(), found.validation.target(0)), (2, 0));
        assert!(found.validation.name(1).ends_with("b.csv, line 3"));
        let sample = found.train.load(2, View::Plain).unwrap();
        let tokens = pipeline().tokenizer.encode("good movie", None).unwrap();
        assert_eq!((sample.rows, found.train.rows(2)), (tokens.ids.len(), 4));
        assert_eq!(sample, Tokens::sample(&tokens.ids, tokens.first));
    }

    #[test]
    fn classes_sort_by_number_only_if_all_are_numbers() {
        let names = |labels: &[&str]| class_names(&labels.iter().map(|l| l.to_string()).collect::<Vec<_>>());
        assert_eq!(names(&["10", "9", "-1", "9"]), ["-1", "9", "10"]);
        assert_eq!(names(&["10", "9", "b"]), ["10", "9", "b"]);
    }

    #[test]
    fn without_a_validation_file_a_stratified_share_is_held_out() {
        let rows: String = (0..50).map(|i| format!("film {i}\t{}\n", i % 2)).collect();
        let files = Files::new(&[("a.tsv", &format!("text\tlabel\n{rows}"))]);
        let found = read(&files.args(Some("a.tsv"), None)).unwrap();
        assert_eq!((found.train.len(), found.validation.len()), (40, 10));
        assert_eq!((0..10).filter(|&i| found.validation.target(i) == 0).count(), 5);
    }

    #[test]
    fn pairs_are_found_by_their_header_and_make_two_segments() {
        for header in ["sentence1\tsentence2", "premise\thypothesis", "question1\tquestion2", "question\tsentence"] {
            let text = format!("{header}\tlabel\nthe\tfilm\ta\nbad\tgood\tb\n");
            let files = Files::new(&[("a.tsv", &text)]);
            let found = read(&files.args(Some("a.tsv"), Some("a.tsv"))).unwrap();
            let Values::U32(values) = found.train.load(0, View::Plain).unwrap().values else { panic!("no indices") };
            let segments: Vec<u32> = values.into_iter().skip(1).step_by(2).collect();
            assert_eq!(segments, [0, 0, 0, 1, 1], "{header}");
        }
    }

    #[test]
    fn the_digest_is_of_both_texts_and_where_they_part() {
        let all = [digest("ab", None), digest("ab", Some("")), digest("a", Some("b")), digest("", Some("ab"))];
        assert!((0..4).all(|i| (i + 1..4).all(|j| all[i] != all[j])));
        assert_eq!(digest("a", Some("b")), digest("a", Some("b")));
    }

    #[test]
    fn long_texts_are_cut_to_what_the_flag_says() {
        let long = format!("text\tlabel\n{}\t0\nb\t1\n", "the film ".repeat(50));
        let files = Files::new(&[("a.tsv", &long)]);
        let args = DataArgs { max_tokens: Some(9), ..files.args(Some("a.tsv"), Some("a.tsv")) };
        assert_eq!(read(&args).unwrap().train.rows(0), 9);
        let args = DataArgs { max_tokens: Some(65), ..args };
        assert!(read(&args).err().unwrap().to_string().contains("--max-tokens 65"));
    }

    #[test]
    fn one_class_only_is_refused() {
        let message = refused("text\tlabel\na\tx\nb\tx\n");
        assert!(message.contains("train.tsv") && message.contains("\"x\""), "{message}");
    }

    #[test]
    fn a_missing_label_is_named_by_line() {
        let message = refused("text\tlabel\na\tx\nb\t \n");
        assert!(message.contains("line 3") && message.contains("no label"), "{message}");
    }

    #[test]
    fn a_header_without_known_columns_is_answered_with_those_there_are() {
        let text = refused("body\tlabel\na\tx\nb\ty\n");
        assert!(text.contains("\"body\", \"label\"") && text.contains("--text-column"), "{text}");
        let label = refused("text\tkind\na\tx\nb\ty\n");
        assert!(label.contains("\"text\", \"kind\"") && label.contains("--label-column"), "{label}");
    }

    #[test]
    fn named_columns_are_obeyed() {
        let files = Files::new(&[("a.tsv", "text\tbody\tkind\n.\tthe film\tx\n.\tbad\ty\n")]);
        let args = DataArgs {
            text_column: Some("body".into()),
            label_column: Some(vec!["kind".into()]),
            ..files.args(Some("a.tsv"), Some("a.tsv"))
        };
        let found = read(&args).unwrap();
        assert_eq!((found.task.len(), found.train.rows(0)), (2, 4));
        let args = DataArgs { label_column: Some(vec!["body".into()]), ..args };
        assert!(read(&args).err().unwrap().to_string().contains("two things"));
    }

    #[test]
    fn a_header_without_rows_is_refused() {
        assert!(refused("text\tlabel\n").contains("no rows"));
    }

    #[test]
    fn a_label_that_training_does_not_have_is_named_by_line() {
        let files = Files::new(&[("a.tsv", TRAIN), ("b.tsv", "text\tlabel\na\t9\nb\t11\n")]);
        let message = read(&files.args(Some("a.tsv"), Some("b.tsv"))).err().unwrap().to_string();
        assert!(message.contains("b.tsv, line 3") && message.contains("\"11\""), "{message}");
    }

    #[test]
    fn with_given_classes_a_validation_file_is_enough() {
        let files = Files::new(&[("b.tsv", "text\tlabel\na\ty\n")]);
        let classes = Task::classes(vec!["x".into(), "y".into()]);
        let found = splits(&files.args(None, Some("b.tsv")), &pipeline(), Some(&classes), Seed(0)).unwrap();
        assert_eq!((found.train.len(), found.validation.target(0), found.task.len()), (0, 1, 2));
    }

    #[test]
    fn without_any_file_the_flag_is_named() {
        let message = read(&DataArgs::default()).err().unwrap().to_string();
        assert!(message.starts_with("--train"), "{message}");
    }

    #[test]
    fn a_share_outside_0_to_1_is_refused() {
        let args = DataArgs { validation_share: Some(1.0), ..DataArgs::default() };
        assert!(read(&args).err().unwrap().to_string().contains("--validation-share 1"));
    }

    #[test]
    fn pairs_and_single_texts_do_not_mix() {
        let files = Files::new(&[("a.tsv", TRAIN), ("b.tsv", "premise\thypothesis\tlabel\na\tb\t9\n")]);
        let message = read(&files.args(Some("a.tsv"), Some("b.tsv"))).err().unwrap().to_string();
        assert!(message.contains("single texts"), "{message}");
    }
}
