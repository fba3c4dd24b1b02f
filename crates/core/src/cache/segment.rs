//! One file of the boundary cache: the activations of some samples, raw, behind an index of their keys.
//!
//! Layout, little-endian: magic (16 bytes), BLAKE3 of everything after it (32), ragged flag, number of dimensions, the
//! dimensions, number of entries (u64 each), the entries (key 32 bytes, first row and rows as u64), then the values as
//! f32. A file whose digest does not match is not read.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::host_values;
use crate::Result;
use crate::data::{Activation, Rows};

/// Digest of a sample in a view.
pub type Key = [u8; 32];

const MAGIC: &[u8; 16] = b"topwork features";
const DIGEST: usize = 16;
const BODY: usize = 48;

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Key,
    first: usize,
    rows: usize,
}

/// A segment that is being filled.
#[derive(Default)]
pub struct Draft {
    index: Vec<Entry>,
    shape: Vec<usize>,
    ragged: bool,
    rows: usize,
    values: Vec<f32>,
}

impl Draft {
    /// Adds the samples of a batch under their keys; those without one are left out.
    pub fn push(&mut self, keys: &[Option<Key>], output: &Activation) -> Result<()> {
        self.shape = output.data.dims()[1..].to_vec();
        self.ragged = matches!(output.rows, Rows::Each(_));
        let values = host_values(&output.data)?;
        let row: usize = self.shape.iter().product();
        let mut at = 0;
        for (i, &key) in keys.iter().enumerate() {
            let rows = match &output.rows {
                Rows::One => 1,
                Rows::Each(lengths) => lengths[i],
            };
            if let Some(key) = key {
                self.index.push(Entry { key, first: self.rows, rows });
                self.rows += rows;
                self.values.extend_from_slice(&values[at * row..(at + rows) * row]);
            }
            at += rows;
        }
        Ok(())
    }

    /// Size of the values.
    pub fn bytes(&self) -> usize {
        4 * self.values.len()
    }

    /// The file's contents.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BODY + 64 + 48 * self.index.len() + self.bytes());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 32]);
        let mut number = |n: usize| bytes.extend_from_slice(&(n as u64).to_le_bytes());
        number(usize::from(self.ragged));
        number(self.shape.len());
        self.shape.iter().for_each(|&n| number(n));
        number(self.index.len());
        for entry in &self.index {
            bytes.extend_from_slice(&entry.key);
            bytes.extend_from_slice(&(entry.first as u64).to_le_bytes());
            bytes.extend_from_slice(&(entry.rows as u64).to_le_bytes());
        }
        self.values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        let digest = blake3::hash(&bytes[BODY..]);
        bytes[DIGEST..BODY].copy_from_slice(digest.as_bytes());
        bytes
    }
}

/// A segment on disk, mapped.
pub struct Mapped {
    map: Mmap,
    index: Vec<Entry>,
    shape: Vec<usize>,
    ragged: bool,
    values: usize,
}

impl Mapped {
    /// Maps a file and reads its index; says why it is not a whole segment. The values are not looked at before
    /// [`Mapped::intact`].
    pub fn open(path: &Path) -> std::result::Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        // SAFETY: segments are renamed into place when complete and never written again; a file that someone else
        // truncates while it is mapped ends the process with SIGBUS, as it would any reader of a mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| e.to_string())?;
        Self::parse(map).ok_or_else(|| "it is truncated or not a segment".to_string())
    }

    fn parse(map: Mmap) -> Option<Self> {
        if map.get(..DIGEST)? != MAGIC {
            return None;
        }
        let mut at = BODY;
        let number = |at: &mut usize| -> Option<usize> {
            let value = u64::from_le_bytes(map.get(*at..at.checked_add(8)?)?.try_into().ok()?);
            *at += 8;
            usize::try_from(value).ok()
        };
        let ragged = number(&mut at)? != 0;
        let dims = number(&mut at)?;
        if dims > 8 {
            return None;
        }
        let shape = (0..dims).map(|_| number(&mut at)).collect::<Option<Vec<_>>>()?;
        let count = number(&mut at)?;
        if count > map.len() / 48 {
            return None;
        }
        let mut index = Vec::with_capacity(count);
        let mut total = 0usize;
        for _ in 0..count {
            let key = map.get(at..at.checked_add(32)?)?.try_into().ok()?;
            at += 32;
            let (first, rows) = (number(&mut at)?, number(&mut at)?);
            if first != total {
                return None;
            }
            total = total.checked_add(rows)?;
            index.push(Entry { key, first, rows });
        }
        let row = shape.iter().try_fold(4usize, |n, &dim| n.checked_mul(dim))?;
        (total.checked_mul(row)? == map.len() - at).then_some(())?;
        Some(Self { map, index, shape, ragged, values: at })
    }

    /// Whether the contents are those that were written.
    pub fn intact(&self) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(&self.map[BODY..]);
        hasher.finalize().as_bytes()[..] == self.map[DIGEST..BODY]
    }
}

/// Readable activations, wherever they are.
pub enum Segment {
    /// In a file.
    Mapped(Mapped),
    /// Only in memory.
    Memory(Draft),
}

impl Segment {
    fn index(&self) -> &[Entry] {
        match self {
            Self::Mapped(mapped) => &mapped.index,
            Self::Memory(draft) => &draft.index,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.index().len()
    }

    /// The key of an entry.
    pub fn key(&self, entry: usize) -> &Key {
        &self.index()[entry].key
    }

    /// Shape of a row.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Mapped(mapped) => &mapped.shape,
            Self::Memory(draft) => &draft.shape,
        }
    }

    /// Whether samples have their own numbers of rows.
    pub fn ragged(&self) -> bool {
        match self {
            Self::Mapped(mapped) => mapped.ragged,
            Self::Memory(draft) => draft.ragged,
        }
    }

    /// Appends the values of an entry and returns its rows.
    pub fn read(&self, entry: usize, out: &mut Vec<f32>) -> usize {
        let Entry { first, rows, .. } = self.index()[entry];
        let row: usize = self.shape().iter().product();
        let (from, to) = (first * row, (first + rows) * row);
        match self {
            Self::Mapped(mapped) => {
                let bytes = &mapped.map[mapped.values + 4 * from..mapped.values + 4 * to];
                out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            Self::Memory(draft) => out.extend_from_slice(&draft.values[from..to]),
        }
        rows
    }
}
