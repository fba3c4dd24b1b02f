//! Tables of text: TSV, CSV and JSON lines, plain or gzipped, read one row at a time.
//!
//! In `.tsv` files a quote is a character like any other (GLUE's convention); in `.csv` files quoting is RFC 4180's.
//! Which column means what is decided elsewhere.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};
use topwork_core::bounded::{Allowance, Bounded, END, MOST_OF_ROW};
use topwork_core::{Error, Result};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Fields between tabs, quotes literal.
    Tsv,
    /// Fields between this separator, quoted as in RFC 4180.
    Csv(u8),
    /// One JSON object a line.
    JsonLines,
}

/// The format that a file's name tells, `.gz` aside.
pub fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "tsv" | "tab" => Some(Format::Tsv),
        "csv" => Some(Format::Csv(b',')),
        "jsonl" | "ndjson" | "json" => Some(Format::JsonLines),
        _ => None,
    }
}

/// What to call a line of a file in messages.
pub fn place(file: &str, line: usize) -> String {
    format!("{file}, line {line}")
}

/// A file as text lines or table, decompressed if need be.
pub type Source = Box<dyn BufRead + Send>;

/// Opens a file, through gzip if it starts like that.
///
/// # Errors
/// When it cannot be read, or is a folder.
pub fn open_source(path: &Path) -> Result<Source> {
    if path.is_dir() {
        return Err(Error::input(path.display(), "is a folder", "name a file: .tsv, .csv or .jsonl"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    decompressed(Box::new(BufReader::with_capacity(1 << 16, file))).map_err(Error::io(path))
}

/// The same for any stream.
pub fn decompressed(mut source: Source) -> io::Result<Source> {
    let head = source.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(1 << 16, Unpacked::new(source, FREE_GROWTH))));
    }
    Ok(source)
}

/// What is small may be packed as well as gzip can.
const FREE_GROWTH: u64 = 1 << 30;
/// A file that grows by more than this was not made of text.
const MOST_GROWTH: u64 = 100;

/// What comes out of gzip, as long as it is plausible: a small file must not fill the memory.
struct Unpacked {
    decoder: MultiGzDecoder<Counted>,
    length: u64,
    free: u64,
}

/// A source, and how much of it was read.
struct Counted {
    source: Source,
    read: u64,
}

impl Unpacked {
    fn new(source: Source, free: u64) -> Self {
        Self { decoder: MultiGzDecoder::new(Counted { source, read: 0 }), length: 0, free }
    }
}

impl Read for Unpacked {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(bytes)?;
        self.length += count as u64;
        if self.length > self.free + MOST_GROWTH * self.decoder.get_ref().read {
            let reason = format!("it grows to more than {MOST_GROWTH} times its size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(count)
    }
}

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.source.read(bytes).inspect(|&count| self.read += count as u64)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.read += count as u64;
        self.source.consume(count);
    }
}

/// Lines of text: UTF-8, without a byte order mark and line ends.
pub struct Lines {
    name: String,
    source: Source,
    line: usize,
    /// After a failed read every other one would fail too.
    broken: bool,
}

impl Lines {
    /// The lines of `source`, called `name` in messages.
    pub fn new(name: &str, source: Source) -> Self {
        Self { name: name.into(), source, line: 0, broken: false }
    }

    /// The next line with its number, counted from 1. Nothing follows a failed read; lines follow one that is no text.
    pub fn next_line(&mut self) -> Option<(usize, Result<String>)> {
        if self.broken {
            return None;
        }
        let mut bytes = Vec::new();
        self.line += 1;
        match self.source.by_ref().take(MOST_OF_ROW).read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(count) if count as u64 == MOST_OF_ROW && !bytes.ends_with(b"\n") => {
                self.broken = true;
                return Some((self.line, Err(endless(&self.name, self.line))));
            }
            Ok(_) => {}
            Err(e) => {
                self.broken = true;
                return Some((self.line, Err(unreadable(&self.name, e))));
            }
        }
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Some((self.line, text_of(bytes, &self.name, self.line)))
    }
}

/// Bytes as text. A NUL is no part of one: UTF-16 that is taken for UTF-8 is full of them.
fn text_of(bytes: Vec<u8>, file: &str, line: usize) -> Result<String> {
    let refuse = |reason| Error::input(place(file, line), reason, "save the file as UTF-8 and try again");
    let text = String::from_utf8(bytes).map_err(|_| refuse("is not valid UTF-8"))?;
    if text.contains('\0') { Err(refuse("holds a NUL byte: this is no text of UTF-8")) } else { Ok(text) }
}

fn endless(file: &str, line: usize) -> Error {
    let reason = format!("goes on for more than {} MB", MOST_OF_ROW >> 20);
    Error::input(place(file, line), reason, "break the text into lines, and close every quote of CSV")
}

fn unreadable(file: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::input(file, format!("cannot be decompressed: {source}"), "fetch or compress the file again")
        }
        _ => Error::io(file)(source),
    }
}

enum Rows {
    Tsv(Lines),
    /// `left` is how many bytes more the row may take.
    Csv {
        reader: Box<csv::Reader<Bounded<Source>>>,
        left: Allowance,
        broken: bool,
    },
    JsonLines {
        lines: Lines,
        first: Option<(usize, String)>,
    },
}

/// A table with named columns.
pub struct Table {
    /// What to call it in messages.
    pub name: String,
    /// Their names: the header, or the keys of the first object.
    pub columns: Vec<String>,
    rows: Rows,
}

impl Table {
    /// Opens a file and reads its header. Without a telling extension the first line decides about the format.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or its first line is no header.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(&path.display().to_string(), open_source(path)?, format_of(path))
    }

    /// The same for any stream.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn new(name: &str, source: Source, format: Option<Format>) -> Result<Self> {
        let mut lines = Lines::new(name, source);
        let empty = || Error::input(name, "is empty", "it needs a header line and rows below it");
        let (line, first) = loop {
            let (line, text) = lines.next_line().ok_or_else(empty)?;
            let text = text?;
            if !text.trim().is_empty() {
                break (line, text);
            }
        };
        let format = match format.unwrap_or_else(|| sniff(&first)) {
            Format::Csv(_) => Format::Csv(separator(&first)),
            format => format,
        };
        let (columns, rows): (Vec<String>, Rows) = match format {
            Format::Tsv => (first.split('\t').map(column_name).collect(), Rows::Tsv(lines)),
            Format::JsonLines => {
                let columns = object(name, line, &first)?.keys().cloned().collect();
                (columns, Rows::JsonLines { lines, first: Some((line, first)) })
            }
            Format::Csv(separator) => {
                // The header goes back in front, so that line numbers are the file's; it may itself be quoted.
                let head = "\n".repeat(line - 1) + &first + "\n";
                let joined: Source = Box::new(Cursor::new(head).chain(lines.source).chain(END));
                let left = Allowance::of(2 * MOST_OF_ROW);
                let mut reader = csv::ReaderBuilder::new()
                    .delimiter(separator)
                    .flexible(true)
                    .from_reader(Bounded::new(joined, &left));
                let header = reader.byte_headers().map_err(|e| bad_csv(name, line, e))?;
                let columns = header.iter().map(|f| column_name(&String::from_utf8_lossy(f))).collect();
                (columns, Rows::Csv { reader: Box::new(reader), left, broken: false })
            }
        };
        Ok(Self { name: name.into(), columns, rows })
    }

    /// Index of the column that a flag names.
    ///
    /// # Errors
    /// When there is none, listing those there are; or more than one.
    pub fn column(&self, wanted: &str, flag: &str) -> Result<usize> {
        let found: Vec<usize> = (0..self.columns.len()).filter(|&i| self.columns[i] == wanted).collect();
        match found[..] {
            [one] => Ok(one),
            [] => Err(Error::input(
                &self.name,
                format!("has no column {wanted:?}; its columns are {}", self.listed()),
                format!("name one of them with {flag}"),
            )),
            _ => Err(Error::input(
                &self.name,
                format!("has {} columns called {wanted:?}", found.len()),
                "rename all but one",
            )),
        }
    }

    /// Index of the first of `names` that is a column, without regard to case.
    pub fn find(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.columns.iter().position(|c| c.eq_ignore_ascii_case(name)))
    }

    /// The columns' names, for messages.
    pub fn listed(&self) -> String {
        let more = if self.columns.len() > 20 { ", …" } else { "" };
        self.columns.iter().take(20).map(|c| format!("{c:?}")).collect::<Vec<_>>().join(", ") + more
    }

    /// The next row that is not blank: its line, and its fields at `wanted`. Nothing follows a failed read.
    pub fn next_row(&mut self, wanted: &[usize]) -> Option<(usize, Result<Vec<String>>)> {
        let (name, columns) = (&self.name, &self.columns);
        let count = |line: usize, fields: usize, remedy: &str| {
            (fields != columns.len()).then(|| {
                let reason = format!("has {}, but the header has {}", plural(fields), columns.len());
                Error::input(place(name, line), reason, remedy)
            })
        };
        match &mut self.rows {
            Rows::Tsv(lines) => loop {
                let (line, text) = lines.next_line()?;
                let text = match text {
                    Ok(text) if text.is_empty() => continue,
                    Ok(text) => text,
                    Err(e) => return Some((line, Err(e))),
                };
                let fields: Vec<&str> = text.split('\t').collect();
                let remedy = "separate fields by exactly one tab, and have no tabs inside a text";
                let row = match count(line, fields.len(), remedy) {
                    Some(error) => Err(error),
                    None => Ok(wanted.iter().map(|&i| fields[i].to_string()).collect()),
                };
                return Some((line, row));
            },
            Rows::Csv { broken: true, .. } => None,
            Rows::Csv { reader, left, broken } => {
                left.set(MOST_OF_ROW);
                let mut record = csv::ByteRecord::new();
                let line = reader.position().line() as usize;
                match reader.read_byte_record(&mut record) {
                    Ok(false) => return None,
                    Ok(true) => {}
                    Err(e) => {
                        *broken = true;
                        return Some((line, Err(bad_csv(name, line, e))));
                    }
                }
                if record.len() == 1 && record[0] == END[1..] {
                    return None;
                }
                let line = record.position().map_or(0, |p| p.line() as usize);
                if record.iter().next_back().is_some_and(|last| last.ends_with(END)) {
                    *broken = true;
                    let remedy = "close it, and write a quote that is part of a text twice";
                    return Some((
                        line,
                        Err(Error::input(place(name, line), "opens a quote that is not closed", remedy)),
                    ));
                }
                let remedy = "put fields that hold the separator, quotes or line breaks between double quotes";
                if let Some(error) = count(line, record.len(), remedy) {
                    return Some((line, Err(error)));
                }
                let field = |i: &usize| text_of(record[*i].to_vec(), name, line);
                Some((line, wanted.iter().map(field).collect()))
            }
            Rows::JsonLines { lines, first } => loop {
                let (line, text) = match first.take() {
                    Some((line, text)) => (line, Ok(text)),
                    None => lines.next_line()?,
                };
                let text = match text {
                    Ok(text) if text.trim().is_empty() => continue,
                    Ok(text) => text,
                    Err(e) => return Some((line, Err(e))),
                };
                let row = object(name, line, &text)
                    .and_then(|o| wanted.iter().map(|&i| scalar(name, line, &o, &columns[i])).collect());
                return Some((line, row));
            },
        }
    }
}

fn plural(fields: usize) -> String {
    if fields == 1 { "1 field".into() } else { format!("{fields} fields") }
}

fn column_name(field: &str) -> String {
    field.trim().to_string()
}

fn bad_csv(file: &str, line: usize, error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::FileTooLarge => endless(file, line),
        csv::ErrorKind::Io(e) => unreadable(file, e),
        kind => Error::input(file, format!("is not CSV: {kind:?}"), "check its quotes and separators"),
    }
}

fn sniff(first: &str) -> Format {
    if first.trim_start().starts_with('{') {
        Format::JsonLines
    } else if !first.contains('\t') && first.contains([',', ';']) {
        Format::Csv(b',')
    } else {
        Format::Tsv
    }
}

/// What separates the fields of a CSV header: a comma, else what spreadsheets of some countries write.
fn separator(header: &str) -> u8 {
    [b',', b';', b'\t'].into_iter().find(|&s| header.as_bytes().contains(&s)).unwrap_or(b',')
}

fn object(file: &str, line: usize, text: &str) -> Result<Map<String, Value>> {
    let remedy = "write one JSON object a line, as {\"text\": \"…\", \"label\": \"…\"}";
    serde_json::from_str(text)
        .map_err(|e| Error::input(place(file, line), format!("is not a JSON object: {e}"), remedy))
}

/// The value of a key as text: strings as they are, numbers and booleans as written.
fn scalar(file: &str, line: usize, object: &Map<String, Value>, key: &str) -> Result<String> {
    let refuse = |reason: String| {
        Err(Error::input(place(file, line), reason, "every line needs a string, number or boolean there"))
    };
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(Value::Null) => refuse(format!("has null for {key:?}")),
        Some(_) => refuse(format!("has a list or an object for {key:?}")),
        None => refuse(format!("has no key {key:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn table(text: &[u8], format: Option<Format>) -> Result<Table> {
        Table::new("data", decompressed(Box::new(Cursor::new(text.to_vec()))).unwrap(), format)
    }

    fn rows(text: &[u8], format: Option<Format>) -> Result<Vec<(usize, Vec<String>)>> {
        let mut table = table(text, format)?;
        let wanted: Vec<usize> = (0..table.columns.len()).collect();
        let next = || table.next_row(&wanted).map(|(line, row)| row.map(|row| (line, row)));
        std::iter::from_fn(next).collect()
    }

    fn message(text: &[u8], format: Option<Format>) -> String {
        rows(text, format).unwrap_err().to_string()
    }

    #[test]
    fn quotes_in_tsv_are_characters() {
        let found = rows(b"sentence\tlabel\n\"half a quote\t1\n\"\"x\"\t0\n", Some(Format::Tsv)).unwrap();
        assert_eq!(found[0], (2, vec!["\"half a quote".into(), "1".into()]));
        assert_eq!(found[1].1[0], "\"\"x\"");
    }

    #[test]
    fn quotes_in_csv_enclose_separators_quotes_and_line_breaks() {
        let found = rows(b"text,label\n\"a, \"\"b\"\"\nc\",1\nd,0\n", Some(Format::Csv(b','))).unwrap();
        assert_eq!(found, [(2, vec!["a, \"b\"\nc".into(), "1".into()]), (4, vec!["d".into(), "0".into()])]);
    }

    #[test]
    fn json_lines_have_the_keys_of_the_first_as_columns_in_any_order() {
        let text = b"{\"text\": \"a\\tb\", \"label\": 1}\n\n{\"label\": true, \"more\": [], \"text\": \"\"}\n";
        let found = rows(text, Some(Format::JsonLines)).unwrap();
        assert_eq!(found, [(1, vec!["a\tb".into(), "1".into()]), (3, vec!["".into(), "true".into()])]);
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_are_no_content() {
        for (format, text) in [
            (Format::Tsv, &b"\xef\xbb\xbftext\tlabel\r\na\tb\r\n"[..]),
            (Format::Csv(b','), b"\xef\xbb\xbftext,label\r\na,b\r\n"),
        ] {
            let opened = table(text, Some(format)).unwrap();
            assert_eq!(opened.columns, ["text", "label"]);
            assert_eq!(rows(text, Some(format)).unwrap(), [(2, vec!["a".into(), "b".into()])]);
        }
    }

    #[test]
    fn the_first_line_tells_the_format() {
        for text in [&b"t\tl\na\tb\n"[..], b"t,l\na,b\n", b"t;l\na;b\n", b"{\"t\":\"a\",\"l\":\"b\"}\n"] {
            assert_eq!(rows(text, None).unwrap()[0].1, ["a", "b"]);
        }
    }

    #[test]
    fn gzip_is_seen_by_its_first_bytes() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"text\tlabel\na\tb\n").unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(rows(&bytes, None).unwrap(), [(2, vec!["a".into(), "b".into()])]);
    }

    #[test]
    fn a_cut_gzip_file_is_one_error_and_then_the_end() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let body: String = (0..2000_u64).map(|i| format!("{}\t{i}\n", i * i * 7919 % 104_729)).collect();
        encoder.write_all(format!("text\tlabel\n{body}").as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        for format in [Format::Tsv, Format::Csv(b',')] {
            let mut cut = table(&bytes[..bytes.len() / 2], Some(format)).unwrap();
            let rows: Vec<_> = std::iter::from_fn(|| cut.next_row(&[0])).collect();
            let failed: Vec<String> = rows.iter().filter_map(|(_, r)| Some(r.as_ref().err()?.to_string())).collect();
            assert_eq!(failed.len(), 1);
            assert!(failed[0].contains("cannot be decompressed"), "{failed:?}");
        }
    }

    #[test]
    fn what_grows_beyond_reason_is_not_unpacked() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&[b'a'; 1 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        let unpack = |free| {
            let mut all = Vec::new();
            let source = Box::new(Cursor::new(packed.clone()));
            (Unpacked::new(source, free).read_to_end(&mut all), all.len() as u64)
        };
        assert_eq!(unpack(1 << 20).0.unwrap(), 1 << 20);
        let (refused, length) = unpack(1 << 16);
        assert!(refused.unwrap_err().to_string().contains("100 times"));
        assert!(length <= (1 << 16) + MOST_GROWTH * packed.len() as u64 + (1 << 16), "{length}");
    }

    #[test]
    fn the_name_of_a_file_tells_its_format_through_gz() {
        assert_eq!(format_of(Path::new("a/b.TSV.gz")), Some(Format::Tsv));
        assert_eq!(format_of(Path::new("b.csv")), Some(Format::Csv(b',')));
        assert_eq!(format_of(Path::new("b.ndjson")), Some(Format::JsonLines));
        assert_eq!(format_of(Path::new("b.txt")), None);
    }

    #[test]
    fn a_row_with_another_number_of_fields_is_named_with_both_counts() {
        let tsv = message(b"text\tlabel\na\tb\nc\n", Some(Format::Tsv));
        assert!(tsv.contains("data, line 3") && tsv.contains("1 field") && tsv.contains("has 2"), "{tsv}");
        let csv = message(b"text,label\na,b,c\n", Some(Format::Csv(b',')));
        assert!(csv.contains("data, line 2") && csv.contains("3 fields"), "{csv}");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_named_by_line() {
        for (format, text) in [
            (Format::Tsv, &b"text\tlabel\na\tb\ncaf\xe9\tb\n"[..]),
            (Format::Csv(b','), b"text,label\na,b\ncaf\xe9,b\n"),
            (Format::JsonLines, b"{\"text\":1}\n\n{\"text\":\"\xe9\"}\n"),
        ] {
            let message = message(text, Some(format));
            assert!(message.contains("line 3") && message.contains("UTF-8"), "{message}");
        }
    }

    #[test]
    fn an_empty_file_is_an_error() {
        for text in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
            assert!(message(text, Some(Format::Tsv)).contains("is empty"));
        }
    }

    #[test]
    fn json_without_the_key_or_with_a_list_there_is_an_error() {
        for (bad, word) in
            [("{}", "no key"), ("{\"text\": []}", "list"), ("{\"text\": null}", "null"), ("[1]", "object")]
        {
            let message = message(format!("{{\"text\": \"a\"}}\n{bad}\n").as_bytes(), Some(Format::JsonLines));
            assert!(message.contains("line 2") && message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_missing_column_is_answered_with_those_there_are() {
        let table = table(b"id\tbody\n1\ta\n", Some(Format::Tsv)).unwrap();
        let message = table.column("text", "--text-column").unwrap_err().to_string();
        assert!(message.contains("\"id\", \"body\"") && message.contains("--text-column"), "{message}");
    }

    #[test]
    fn a_name_that_two_columns_have_is_refused() {
        let table = table(b"a\ta\n1\t2\n", Some(Format::Tsv)).unwrap();
        assert!(table.column("a", "--text-column").unwrap_err().to_string().contains("2 columns"));
    }
}
