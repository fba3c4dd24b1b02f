//! Reaching the `f32` values of CPU tensors, and splitting work over rayon in pieces that depend on shapes alone,
//! so that results have the same bits for every number of threads.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor, bail};
use rayon::prelude::*;

/// A read lock on the values of a contiguous CPU tensor.
pub struct Values<'a> {
    guard: StorageRef<'a>,
    range: (usize, usize),
}

impl<'a> Values<'a> {
    /// Locks `tensor`. Errors unless it is contiguous, `f32` and on the CPU.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (guard, layout) = tensor.storage_and_layout();
        let Some(range) = layout.contiguous_offsets() else { bail!("a tensor is not contiguous") };
        match &*guard {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { guard, range }),
            _ => bail!("expected f32 values on the CPU, got {:?}", tensor.dtype()),
        }
    }
}

impl std::ops::Deref for Values<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.0..self.range.1],
            _ => &[],
        }
    }
}

/// The values of an operation's argument.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("a tensor is not contiguous"),
        _ => bail!("expected f32 values, got {:?}", storage_dtype(storage)),
    }
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// A tensor from values, of the shape of another.
pub(crate) fn like(values: Vec<f32>, tensor: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, tensor.shape(), tensor.device())
}

/// `len` values of any kind, for an operation that writes them all before anybody reads: zeros would cost a pass.
#[allow(clippy::uninit_vec)]
pub(crate) fn output(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is there, every bit pattern is an `f32`, and the caller writes before it reads.
    unsafe { values.set_len(len) };
    values
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` values of this thread's own, kept from one call to the next; what they hold is anything.
pub(crate) fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    // Taken, not borrowed: while `f` waits for other tasks, this thread may come here again.
    let mut buffer = SCRATCH.take();
    if buffer.len() < len {
        buffer = vec![0f32; len];
    }
    let result = f(&mut buffer[..len]);
    SCRATCH.with_borrow_mut(|kept| {
        if kept.len() < buffer.len() {
            *kept = buffer;
        }
    });
    result
}

/// Elements that one task of an elementwise pass gets: 64 KiB, so that it stays in a core's own cache.
pub(crate) const GRAIN: usize = 16 * 1024;

/// Rows that one task gets when a row has `width` elements.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Calls `f(first row, rows of out)` for fixed groups of rows, in parallel.
pub(crate) fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    for_rows_by(out, width, rows_per_task(width), f);
}

/// [`for_rows`] with a chosen number of rows for each task.
pub(crate) fn for_rows_by(out: &mut [f32], width: usize, rows: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.is_empty() {
        return;
    }
    if out.len() <= width * rows {
        return f(0, out);
    }
    out.par_chunks_mut(width * rows).enumerate().for_each(|(i, out)| f(i * rows, out));
}

/// Sums of `parts` vectors of `len` values that `f(part, sums)` adds up, combined in the order of the parts, in f64.
pub(crate) fn sum_parts(parts: usize, len: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let partial: Vec<Vec<f32>> = (0..parts)
        .into_par_iter()
        .map(|part| {
            let mut sums = vec![0f32; len];
            f(part, &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0f32; len];
    for_rows(&mut total, 1, |first, total| {
        for (i, total) in total.iter_mut().enumerate() {
            *total = partial.iter().map(|sums| f64::from(sums[first + i])).sum::<f64>() as f32;
        }
    });
    total
}

/// Rows of a reduction's chunk.
pub(crate) const CHUNK: usize = 256;

/// Sum over rows: `[rows, width]` to `[width]`.
pub fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    sum_parts(rows.div_ceil(CHUNK), width, |part, sums| {
        let end = ((part + 1) * CHUNK).min(rows);
        for row in x[part * CHUNK * width..end * width].chunks_exact(width) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    })
}

/// A slice that tasks write disjoint parts of which are not consecutive.
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `part` promises that no two tasks hold the same element.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: std::marker::PhantomData }
    }

    /// Pointer to `len` elements from `start` on.
    pub(crate) fn at(&self, start: usize, len: usize) -> *mut f32 {
        assert!(start + len <= self.len);
        self.start.wrapping_add(start)
    }

    /// Part of the slice.
    ///
    /// # Safety
    /// No other task holds one of these elements while the result lives.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: within the borrowed slice; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
