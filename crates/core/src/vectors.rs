//! Files of vectors, written as they are computed: NumPy's `.npy`, `.safetensors`, `.parquet`. What is in memory does not grow
//! with their number.
//!
//! A matrix of NumPy or safetensors has no place for names: they stand beside it, in a file that ends in `.names.jsonl`, a JSON
//! string a line.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::files::{ELSEWHERE, Partial, vacant};
use crate::{Error, Result};

/// Rows of a group of Parquet: 6 MB of 384 numbers each.
const GROUP: usize = 4096;

/// A file of vectors that is being written; without [`Vectors::finish`] it leaves nothing behind.
pub struct Vectors {
    path: PathBuf,
    form: Form,
    rows: usize,
    width: Option<usize>,
}

enum Form {
    Matrix { header: Header, numbers: BufWriter<Partial>, names: BufWriter<Partial> },
    Table { writer: Box<SerializedFileWriter<Partial>>, names: Vec<ByteArray>, numbers: Vec<f32> },
}

/// What stands before the numbers of a matrix, of one length whatever the number of rows: it is written last.
type Header = fn(rows: usize, width: usize) -> Vec<u8>;

/// Format version 1.0: 10 bytes and a Python literal, 128 together.
fn npy(rows: usize, width: usize) -> Vec<u8> {
    let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let mut header = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    header.extend(format!("{shape:<117}\n").bytes());
    header
}

/// A length and JSON that may end in spaces, 256 bytes together.
fn safetensors(rows: usize, width: usize) -> Vec<u8> {
    let end = rows * width * 4;
    let tensor = format!(r#"{{"embeddings":{{"dtype":"F32","shape":[{rows},{width}],"data_offsets":[0,{end}]}}}}"#);
    let mut header = 248u64.to_le_bytes().to_vec();
    header.extend(format!("{tensor:<248}").bytes());
    header
}

impl Vectors {
    /// A file at `path`, whose ending tells the format.
    ///
    /// # Errors
    /// When the ending is another one, the file or that of its names is there already, or the folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let form = match ending.as_str() {
            "npy" => Self::matrix(path, npy)?,
            "safetensors" => Self::matrix(path, safetensors)?,
            "parquet" => {
                let schema = "message vectors {
                    required binary input (STRING);
                    required group embedding (LIST) { repeated group list { required float element; } }
                }";
                vacant(path, ELSEWHERE)?;
                let schema = parse_message_type(schema).map_err(written(path))?;
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
                let properties = properties.set_dictionary_enabled(false).build();
                let writer = SerializedFileWriter::new(Partial::create(path)?, schema.into(), Arc::new(properties));
                Form::Table { writer: writer.map_err(written(path))?.into(), names: Vec::new(), numbers: Vec::new() }
            }
            _ => {
                let reason = "its ending tells no format of vectors";
                return Err(Error::input(
                    format!("--out {}", path.display()),
                    reason,
                    "use .npy, .safetensors or .parquet",
                ));
            }
        };
        Ok(Self { path: path.to_path_buf(), form, rows: 0, width: None })
    }

    fn matrix(path: &Path, header: Header) -> Result<Form> {
        let beside = path.with_extension("names.jsonl");
        vacant(path, ELSEWHERE).and_then(|()| vacant(&beside, ELSEWHERE))?;
        let mut numbers = BufWriter::with_capacity(1 << 20, Partial::create(path)?);
        numbers.write_all(&header(0, 0)).map_err(Error::io(path))?;
        let names = BufWriter::new(Partial::create(&beside)?);
        Ok(Form::Matrix { header, numbers, names })
    }

    /// Adds the vector of the input `name`.
    ///
    /// # Errors
    /// When it is of another length than those before, or the disk is full.
    pub fn push(&mut self, name: &str, vector: &[f32]) -> Result<()> {
        let width = *self.width.get_or_insert(vector.len());
        if vector.len() != width {
            let reason = format!("has {} numbers where those before have {width}", vector.len());
            return Err(Error::input(name, reason, "write vectors of one model to a file"));
        }
        self.rows += 1;
        match &mut self.form {
            Form::Matrix { numbers, names, .. } => {
                let line = serde_json::Value::from(name).to_string();
                let numbers = vector.iter().try_for_each(|number| numbers.write_all(&number.to_le_bytes()));
                numbers.and_then(|()| writeln!(names, "{line}")).map_err(Error::io(&self.path))
            }
            Form::Table { names, numbers, .. } => {
                names.push(name.as_bytes().to_vec().into());
                numbers.extend_from_slice(vector);
                if names.len() == GROUP { self.group() } else { Ok(()) }
            }
        }
    }

    /// Writes what is kept of a table as a group of rows.
    fn group(&mut self) -> Result<()> {
        let Form::Table { writer, names, numbers } = &mut self.form else { return Ok(()) };
        let width = numbers.len() / names.len().max(1);
        let mut write = || -> parquet::errors::Result<()> {
            let mut group = writer.next_row_group()?;
            while let Some(mut column) = group.next_column()? {
                match column.untyped() {
                    ColumnWriter::ByteArrayColumnWriter(column) => {
                        column.write_batch(names, None, None)?;
                    }
                    ColumnWriter::FloatColumnWriter(column) => {
                        // An element that begins a list, and one that goes on with it.
                        let repeated: Vec<i16> = (0..numbers.len()).map(|i| i16::from(i % width != 0)).collect();
                        column.write_batch(numbers, Some(&vec![1; numbers.len()]), Some(&repeated))?;
                    }
                    _ => {}
                }
                column.close()?;
            }
            group.close().map(drop)
        };
        write().map_err(written(&self.path))?;
        names.clear();
        numbers.clear();
        Ok(())
    }

    /// The number of vectors and of the numbers of each, once they are on the disk.
    ///
    /// # Errors
    /// When the disk is full; then there is no file.
    pub fn finish(mut self) -> Result<(usize, usize)> {
        let width = self.width.unwrap_or(0);
        let Self { path, rows, .. } = &self;
        let (path, rows) = (path.clone(), *rows);
        if matches!(&self.form, Form::Table { names, .. } if !names.is_empty()) {
            self.group()?;
        }
        match self.form {
            Form::Matrix { header, mut numbers, names } => {
                let patch = numbers.seek(SeekFrom::Start(0)).and_then(|_| numbers.write_all(&header(rows, width)));
                patch.map_err(Error::io(&path))?;
                for file in [names, numbers] {
                    file.into_inner().map_err(|e| Error::io(&path)(e.into_error()))?.finish()?;
                }
            }
            Form::Table { writer, .. } => writer.into_inner().map_err(written(&path))?.finish()?,
        }
        Ok((rows, width))
    }
}

/// Refuses to write over what is there.
fn written(path: &Path) -> impl Fn(parquet::errors::ParquetError) -> Error + '_ {
    move |error| Error::io(path)(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    /// `rows` vectors of three numbers, written to a file of that name.
    fn write(name: &str, rows: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let mut vectors = Vectors::create(&path).unwrap();
        for row in 0..rows {
            vectors.push(&format!("text \"{row}\""), &[row as f32, -0.5, 2.0]).unwrap();
        }
        assert!(!path.exists(), "it is there before it is whole");
        assert_eq!(vectors.finish().unwrap(), (rows, 3));
        (folder, path)
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn numpy_files_say_their_shape_in_128_bytes() {
        let (_folder, path) = write("v.npy", 2);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = std::str::from_utf8(&bytes[10..128]).unwrap();
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"), "{header}");
        assert!(header.ends_with(" \n"));
        assert_eq!(floats(&bytes[128..]), [0.0, -0.5, 2.0, 1.0, -0.5, 2.0]);
    }

    #[test]
    fn headers_have_one_length_whatever_the_shape() {
        for header in [npy as Header, safetensors] {
            assert_eq!(header(0, 0).len(), header(usize::MAX / (4 * 65_536), 65_536).len());
        }
    }

    #[test]
    fn safetensors_files_are_read_by_that_library() {
        let (_folder, path) = write("v.safetensors", 3);
        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = read.tensor("embeddings").unwrap();
        assert_eq!(tensor.shape(), [3, 3]);
        assert_eq!(floats(tensor.data())[6..], [2.0, -0.5, 2.0]);
        let names = std::fs::read_to_string(path.with_extension("names.jsonl")).unwrap();
        assert_eq!(names.lines().nth(2), Some(r#""text \"2\"""#));
    }

    #[test]
    fn parquet_files_have_a_name_and_a_list_a_row_across_groups() {
        let (_folder, path) = write("v.parquet", GROUP + 2);
        let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), GROUP + 2);
        let last = rows[GROUP + 1].to_string();
        let want = format!(r#"{{input: "text "{0}"", embedding: [{0}.0, -5E-1, 2.0]}}"#, GROUP + 1);
        assert_eq!(last, want);
    }

    #[test]
    fn a_vector_of_another_length_is_refused_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.npy");
        let mut vectors = Vectors::create(&path).unwrap();
        vectors.push("a", &[1.0, 2.0]).unwrap();
        let message = vectors.push("b", &[1.0]).unwrap_err().to_string();
        assert!(message.contains('b') && message.contains("1 numbers"), "{message}");
        drop(vectors);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        for (there, name) in [
            ("v.npy", "v.npy"),
            ("w.names.jsonl", "w.safetensors"),
            ("x.safetensors", "x.safetensors"),
            ("y.parquet", "y.parquet"),
        ] {
            let there = folder.path().join(there);
            std::fs::write(&there, "mine").unwrap();
            let message = Vectors::create(&folder.path().join(name)).err().unwrap().to_string();
            let said = format!("{}: it exists already", there.display());
            assert!(message.contains(&said) && message.contains("--out"), "{message}");
            assert_eq!(std::fs::read(&there).unwrap(), b"mine");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn another_ending_is_told_the_formats() {
        let message = Vectors::create(Path::new("v.csv")).err().unwrap().to_string();
        assert!(message.contains("--out v.csv") && message.contains(".npy"), "{message}");
    }
}
