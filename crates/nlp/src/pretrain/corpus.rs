//! Text of any amount as numbered chunks, in files: what is in memory does not grow with it.
//!
//! A line is a sentence or paragraph; blank lines, and ends of files, stand between documents. Each line's tokens are
//! written once; consecutive lines of a document that fit a sequence together are a chunk. The folder holds `tokens`
//! (`u32`, the highest bit set where a word begins), `sentences` (the `u64` offset of each one's first token, and the end),
//! `train` and `held-out` (a chunk's first sentence, number of sentences and document, three `u64`), and `index.json`, last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use topwork_core::observe::Observer;
use topwork_core::seed::Seed;
use topwork_core::{Error, Result, files};

use crate::table::{Lines, open_source};
use crate::tokenizer::TextTokenizer;

/// Set in a token that begins a word.
pub const WORD: u32 = 1 << 31;

/// About how many bytes of text all threads work on at a time.
const BLOCK: usize = 1 << 20;

/// The files of a corpus, read line by line.
pub struct Reader<'a> {
    waiting: std::vec::IntoIter<PathBuf>,
    current: Option<Lines>,
    /// How many lines [`Reader::block`] has given.
    lines: u64,
    /// Asked after each line whether to go on.
    observer: &'a dyn Observer,
}

/// The files at `paths`, those of folders in the order of their names, and their bytes in all. Links inside folders are passed
/// over unless they end at a file of the same folder.
///
/// # Errors
/// When one cannot be found, or there is none.
pub fn files(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, u64)> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    // Each with the folder that was named, which links do not lead out of.
    let named = |path: &PathBuf| Ok((path.clone(), std::fs::canonicalize(path).map_err(Error::io(path))?));
    let mut waiting: Vec<(PathBuf, PathBuf)> = paths.iter().rev().map(named).collect::<Result<_>>()?;
    while let Some((path, home)) = waiting.pop() {
        let about = std::fs::metadata(&path).map_err(Error::io(&path))?;
        if !about.is_dir() {
            bytes += about.len();
            found.push(path);
            continue;
        }
        let mut inner: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(Error::io(&path))? {
            let entry = entry.map_err(Error::io(&path))?;
            let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !hidden && (!linked || files::leads_into(&entry.path(), &home)) {
                inner.push(entry.path());
            }
        }
        inner.sort();
        waiting.extend(inner.into_iter().rev().map(|path| (path, home.clone())));
    }
    match (paths.first(), found.is_empty()) {
        (Some(first), true) => Err(Error::input(first.display(), "holds no files", "name text files or their folder")),
        (None, _) => Err(Error::input("--corpus", "no text is named", "add a file or folder of text")),
        _ => Ok((found, bytes)),
    }
}

impl<'a> Reader<'a> {
    /// Reads `files` one after the other.
    pub fn new(files: Vec<PathBuf>, observer: &'a dyn Observer) -> Self {
        Self { waiting: files.into_iter(), current: None, lines: 0, observer }
    }

    /// The next line; `Some(None)` where a document ends, which may come more than once.
    ///
    /// # Errors
    /// When a file cannot be read or is no text, with the line; [`Error::Stopped`] when the observer asks for a pause.
    #[allow(clippy::option_option)] // The end of all text is not that of a document.
    pub fn next_line(&mut self) -> Result<Option<Option<String>>> {
        if self.observer.pause() {
            return Err(Error::Stopped { remedy: "the text was still being read, and nothing is learned yet".into() });
        }
        let Some(lines) = &mut self.current else {
            let Some(path) = self.waiting.next() else { return Ok(None) };
            let name = path.display().to_string();
            let lines = Lines::new(&name, open_source(&path)?);
            self.current = Some(lines);
            return Ok(Some(None));
        };
        let Some((_, line)) = lines.next_line() else {
            self.current = None;
            return Ok(Some(None));
        };
        let line = line?;
        let line = line.trim();
        Ok(Some((!line.is_empty()).then(|| line.to_string())))
    }

    /// The next lines with their numbers, from 0 on, and ends of documents; none at the end of all text.
    fn block(&mut self) -> Result<Vec<Option<(u64, String)>>> {
        let (mut block, mut bytes) = (Vec::new(), 0);
        while bytes < BLOCK {
            let Some(line) = self.next_line()? else { break };
            bytes += size_of::<Option<(u64, String)>>() + line.as_ref().map_or(0, String::len);
            block.push(line.map(|line| {
                self.lines += 1;
                (self.lines - 1, line)
            }));
        }
        Ok(block)
    }

    /// Hands on, in order, what `work` makes of each line and its number, from 0 on, by all threads; `None` where a document ends.
    ///
    /// # Errors
    /// As [`Reader::next_line`], `work` and `take`.
    pub fn each<T: Send>(
        &mut self,
        work: impl Fn(u64, &str) -> Result<T> + Sync,
        mut take: impl FnMut(Option<T>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let block = self.block()?;
            if block.is_empty() {
                return Ok(());
            }
            let made = |line: &Option<(u64, String)>| line.as_ref().map(|(number, line)| work(*number, line));
            let made: Vec<Option<Result<T>>> = block.par_iter().map(made).collect();
            made.into_iter().try_for_each(|made| take(made.transpose()?))?;
        }
    }
}

/// How text becomes chunks.
pub struct Chunking<'a> {
    /// Text to tokens.
    pub tokenizer: &'a TextTokenizer,
    /// Most tokens of a chunk.
    pub longest: usize,
    /// Share of the documents that are held out.
    pub hold_out: f64,
    /// Decides which.
    pub seed: Seed,
}

/// What is in the folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    documents: u64,
    sentences: u64,
    tokens: u64,
    /// Chunks to learn from, and held out.
    chunks: [u64; 2],
    /// Documents that these are of.
    told: [u64; 2],
    /// BLAKE3 of each file.
    digests: BTreeMap<String, String>,
}

/// The chunks' names, by part.
const PARTS: [&str; 2] = ["train", "held-out"];

/// A corpus of chunks.
pub struct Corpus {
    counts: Counts,
    tokens: Records,
    sentences: Records,
    chunks: [Records; 2],
}

/// A file of numbers.
struct Records {
    file: Mutex<File>,
    path: PathBuf,
}

/// A part of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To learn from.
    Train,
    /// To judge by.
    HeldOut,
}

/// Consecutive sentences of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which document.
    pub document: u64,
    /// Each one's tokens.
    pub sentences: Vec<Vec<u32>>,
}

struct Writer {
    out: BufWriter<File>,
    path: PathBuf,
    hasher: blake3::Hasher,
}

impl Writer {
    fn create(path: PathBuf) -> Result<Self> {
        let out = BufWriter::with_capacity(1 << 16, File::create(&path).map_err(Error::io(&path))?);
        Ok(Self { out, path, hasher: blake3::Hasher::new() })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// The digest of what was written.
    fn end(mut self) -> Result<String> {
        self.out.flush().map_err(Error::io(&self.path))?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}

impl Corpus {
    /// Cuts the text of `reader` and writes it to `folder`; the number of its `bytes` is for the progress.
    ///
    /// # Errors
    /// When text cannot be read, the folder cannot be written, or there is no sentence.
    pub fn build(folder: &Path, reader: &mut Reader<'_>, chunking: &Chunking<'_>) -> Result<Self> {
        files::create_dir_all(folder)?;
        let create = |name: &str| Writer::create(folder.join(name));
        let (mut tokens, mut sentences) = (create("tokens")?, create("sentences")?);
        let mut parts = [create(PARTS[0])?, create(PARTS[1])?];
        let mut counts = Counts::default();
        let mut document: Vec<usize> = Vec::new();
        let mut told = 0;
        let (observer, tokenizer) = (reader.observer, chunking.tokenizer.whole()?);
        let tokenized = |_, line: &str| -> Result<Vec<u32>> {
            let pieces = tokenizer.pieces(line)?;
            Ok(pieces.into_iter().map(|(id, begins)| id | if begins { WORD } else { 0 }).collect())
        };
        reader.each(tokenized, |found| {
            let Some(found) = found else {
                return close(&mut document, &mut counts, chunking, &mut parts);
            };
            for piece in found.chunks(chunking.longest) {
                sentences.put(&counts.tokens.to_le_bytes())?;
                for token in piece {
                    tokens.put(&token.to_le_bytes())?;
                }
                counts.tokens += piece.len() as u64;
                counts.sentences += 1;
                document.push(piece.len());
                // A document without end is cut where memory would grow.
                if document.len() >= 1 << 16 {
                    close(&mut document, &mut counts, chunking, &mut parts)?;
                }
            }
            if counts.sentences / 100_000 > told {
                told = counts.sentences / 100_000;
                observer.message(&format!("read {} sentences, {} tokens", counts.sentences, counts.tokens));
            }
            Ok(())
        })?;
        close(&mut document, &mut counts, chunking, &mut parts)?;
        sentences.put(&counts.tokens.to_le_bytes())?;
        for (name, writer) in
            ["tokens", "sentences", PARTS[0], PARTS[1]].into_iter().zip([tokens, sentences].into_iter().chain(parts))
        {
            counts.digests.insert(name.into(), writer.end()?);
        }
        let path = folder.join("index.json");
        let text = serde_json::to_vec_pretty(&counts).map_err(|e| Error::io(&path)(e.into()))?;
        files::write_atomic_bytes(&path, &text)?;
        Self::open(folder)?.ok_or_else(|| Error::io(&path)(std::io::ErrorKind::NotFound.into()))
    }

    /// What [`Corpus::build`] wrote, if it came to its end and is still as it was.
    ///
    /// # Errors
    /// When a file of it cannot be opened.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let Ok(text) = files::read_small(&folder.join("index.json")) else { return Ok(None) };
        let Ok(counts) = serde_json::from_slice::<Counts>(&text) else { return Ok(None) };
        let whole = |(name, digest): (&String, &String)| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_mmap_rayon(folder.join(name)).is_ok_and(|found| found.finalize().to_hex().as_str() == digest)
        };
        if counts.digests.len() != 2 + PARTS.len() || !counts.digests.iter().all(whole) {
            return Ok(None);
        }
        let open = |name: &str| -> Result<Records> {
            let path = folder.join(name);
            let file = Mutex::new(File::open(&path).map_err(Error::io(&path))?);
            Ok(Records { file, path })
        };
        let chunks = [open(PARTS[0])?, open(PARTS[1])?];
        Ok(Some(Self { counts, tokens: open("tokens")?, sentences: open("sentences")?, chunks }))
    }

    /// A digest of all that is in it.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.counts.digests.iter().for_each(|(name, digest)| _ = hasher.update(format!("{name} {digest} ").as_bytes()));
        hasher.finalize().to_hex().to_string()
    }

    /// Number of chunks in a part.
    pub fn len(&self, part: Part) -> u64 {
        self.counts.chunks[part as usize]
    }

    /// Whether a part has no chunk.
    pub fn is_empty(&self, part: Part) -> bool {
        self.len(part) == 0
    }

    /// Number of documents that have a chunk in a part.
    pub fn documents(&self, part: Part) -> u64 {
        self.counts.told[part as usize]
    }

    /// Number of tokens in all.
    pub fn tokens(&self) -> u64 {
        self.counts.tokens
    }

    /// Chunk `i` of a part.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn chunk(&self, part: Part, i: u64) -> Result<Chunk> {
        let record = self.chunks[part as usize].words(24 * i, 3)?;
        let (first, count, document) = (record[0], record[1], record[2]);
        let offsets = self.sentences.words(8 * first, count as usize + 1)?;
        let (start, end) = (offsets[0], offsets[count as usize]);
        let bytes = self.tokens.bytes(4 * start, 4 * (end - start) as usize)?;
        let tokens: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default())).collect();
        let sentence = |pair: &[u64]| tokens[(pair[0] - start) as usize..(pair[1] - start) as usize].to_vec();
        Ok(Chunk { document, sentences: offsets.windows(2).map(sentence).collect() })
    }
}

/// Writes the chunks of the document that ends here, given its sentences' lengths.
fn close(
    document: &mut Vec<usize>,
    counts: &mut Counts,
    chunking: &Chunking<'_>,
    parts: &mut [Writer; 2],
) -> Result<()> {
    if document.is_empty() {
        return Ok(());
    }
    let number = counts.documents;
    let held = chunking.seed.child(number).stream().uniform() < chunking.hold_out;
    let part = usize::from(held);
    let mut first = counts.sentences - document.len() as u64;
    let (mut count, mut length, mut any) = (0u64, 0, false);
    let mut put = |first: u64, count: u64, length: usize| -> Result<bool> {
        // A pair takes a token on either side.
        if length < 2 {
            return Ok(false);
        }
        for value in [first, count, number] {
            parts[part].put(&value.to_le_bytes())?;
        }
        counts.chunks[part] += 1;
        Ok(true)
    };
    for &next in document.iter() {
        if length + next > chunking.longest {
            any |= put(first, count, length)?;
            (first, count, length) = (first + count, 0, 0);
        }
        (count, length) = (count + 1, length + next);
    }
    any |= put(first, count, length)?;
    counts.told[part] += u64::from(any);
    counts.documents += 1;
    document.clear();
    Ok(())
}

impl Records {
    fn bytes(&self, offset: u64, count: usize) -> Result<Vec<u8>> {
        let mut found = vec![0; count];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let done = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut found));
        done.map_err(Error::io(&self.path))?;
        Ok(found)
    }

    fn words(&self, offset: u64, count: usize) -> Result<Vec<u64>> {
        let bytes = self.bytes(offset, 8 * count)?;
        Ok(bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::bert::family::BERT;

    fn tokenizer() -> TextTokenizer {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        TextTokenizer::open(&fixture, &BERT, false, 128).unwrap()
    }

    fn built(folder: &Path, files: Vec<PathBuf>, longest: usize, hold_out: f64) -> Result<Corpus> {
        let tokenizer = tokenizer();
        let chunking = Chunking { tokenizer: &tokenizer, longest, hold_out, seed: Seed(3) };
        Corpus::build(&folder.join("corpus"), &mut Reader::new(files, &topwork_core::observe::Silent), &chunking)
    }

    #[test]
    fn chunks_are_of_one_document_and_fit() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.txt"), folder.path().join("b.txt"));
        std::fs::write(&a, "a b c\na b\n\n\nb c\r\nc b a a b c a b c a b c").unwrap();
        std::fs::write(&b, "c c\n").unwrap();
        let (files, bytes) = files(&[folder.path().to_path_buf()]).unwrap();
        assert_eq!((files.as_slice(), bytes), ([a, b].as_slice(), 44));
        let corpus = built(folder.path(), files, 5, 0.0).unwrap();
        let lengths: Vec<(u64, Vec<usize>)> = (0..corpus.len(Part::Train))
            .map(|i| corpus.chunk(Part::Train, i).unwrap())
            .map(|chunk| (chunk.document, chunk.sentences.iter().map(Vec::len).collect()))
            .collect();
        let expected = [(0, vec![3, 2]), (1, vec![2]), (1, vec![5]), (1, vec![5]), (1, vec![2]), (2, vec![2])];
        assert_eq!(lengths, expected);
        assert_eq!((corpus.documents(Part::Train), corpus.tokens()), (3, 21));
        let own = tokenizer().encode("a b c", None).unwrap().ids;
        assert_eq!(
            corpus.chunk(Part::Train, 0).unwrap().sentences[0],
            own[1..4].iter().map(|t| t | WORD).collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_is_made_of_lines_comes_in_their_order_over_many_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let count = 3 * BLOCK / size_of::<Option<(u64, String)>>();
        let text: Vec<String> = (0..count).map(|i| format!("{i}\n{}", if i == 7 { "\n" } else { "" })).collect();
        std::fs::write(&path, text.concat()).unwrap();
        let (mut reader, mut found) = (Reader::new(vec![path], &topwork_core::observe::Silent), Vec::new());
        let made = |number: u64, line: &str| Ok((number, line.parse::<u64>().unwrap_or(u64::MAX)));
        reader
            .each(made, |made| {
                found.push(made);
                Ok(())
            })
            .unwrap();
        let ends: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
        assert_eq!(ends, [0, 9, count + 2]);
        assert!(found.iter().flatten().copied().eq((0..count as u64).map(|i| (i, i))));
    }

    #[test]
    fn whole_documents_are_held_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "a b\nb c a\n\n".repeat(400)).unwrap();
        let corpus = built(folder.path(), vec![path], 3, 0.25).unwrap();
        let held = corpus.documents(Part::HeldOut);
        assert!((70..=130).contains(&held), "{held}");
        assert_eq!(corpus.documents(Part::Train) + held, 400);
        assert_eq!(corpus.len(Part::HeldOut), 2 * held);
    }

    #[test]
    fn a_long_text_has_its_tokens_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "a b c ".repeat(1000)).unwrap();
        let corpus = built(folder.path(), vec![path], 125, 0.0).unwrap();
        assert_eq!((corpus.tokens(), corpus.len(Part::Train)), (3000, 24));
    }

    #[test]
    fn a_corpus_of_which_a_byte_has_changed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("a.txt");
        std::fs::write(&text, "the film\nthe film\n\nthe film\n").unwrap();
        let place = folder.path().join("corpus");
        drop(built(folder.path(), vec![text], 8, 0.0).unwrap());
        assert!(Corpus::open(&place).unwrap().is_some());
        let file = place.join("tokens");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(Corpus::open(&place).unwrap().is_none());
    }

    #[test]
    fn what_is_no_text_is_refused_with_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for (bytes, reason) in [(&b"fine\nnot \0 fine\n"[..], "NUL"), (b"fine\n\xff\xfe\n", "UTF-8")] {
            std::fs::write(&path, bytes).unwrap();
            let message = built(folder.path(), vec![path.clone()], 5, 0.0).err().unwrap().to_string();
            assert!(message.contains(reason) && message.contains("line 2"), "{message}");
        }
    }
}
