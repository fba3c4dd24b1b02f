//! Rows of a table by index.

use crate::cpu::{self, Values};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// Rows of a table `[rows, width]`, behind each other.
pub fn forward(table: &[f32], width: usize, ids: &[u32]) -> Vec<f32> {
    let mut y = cpu::output(ids.len() * width);
    cpu::for_rows(&mut y, width, |first, y| {
        for (y, &id) in y.chunks_exact_mut(width).zip(&ids[first..]) {
            y.copy_from_slice(&table[id as usize * width..][..width]);
        }
    });
    y
}

/// Gradient of a table of `len` values: summed in the order of the rows, the same for every number of threads.
pub fn table_gradient(len: usize, width: usize, ids: &[u32], dy: &[f32]) -> Vec<f32> {
    let mut grad = vec![0f32; len];
    for (&id, dy) in ids.iter().zip(dy.chunks_exact(width.max(1))) {
        grad[id as usize * width..][..width].iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    grad
}

struct Op(Vec<u32>);

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        Ok((CpuStorage::F32(forward(cpu::values(table, layout)?, width, &self.0)), (self.0.len(), width).into()))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (dy, (_, width)) = (Values::of(&dy)?, table.dims2()?);
        cpu::like(table_gradient(table.elem_count(), width, &self.0, &dy), table).map(Some)
    }
}

/// Rows of `table` `[rows, width]` by `ids` (`u32` `[n]`): `[n, width]`.
///
/// The gradient is summed in the order of `ids`. Errors when an index is not below the number of rows.
pub fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    ids.dims1()?;
    if ids.dtype() != DType::U32 {
        bail!("embed: indices must be u32, got {:?}", ids.dtype());
    }
    if !table.device().is_cpu() {
        return composed(table, ids);
    }
    let ids = ids.to_vec1::<u32>()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        bail!("embed: index {id} is outside of a table of {rows} rows");
    }
    table.contiguous()?.apply_op1(Op(ids))
}

fn composed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    table.contiguous()?.index_select(&ids.contiguous()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, close, random};
    use candle_core::Device;

    #[test]
    fn takes_rows() -> Result<()> {
        let y =
            embed(&Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?, &Tensor::new(&[1u32, 0, 1], &Device::Cpu)?)?;
        assert_eq!(y.to_vec2::<f32>()?, [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]);
        Ok(())
    }

    #[test]
    fn composition_gives_the_same_values() -> Result<()> {
        let (table, ids) = (random(&[9, 4], 1, 1.0), Tensor::new(&[1u32, 8, 1, 3], &Device::Cpu)?);
        close(&embed(&table, &ids)?, &composed(&table, &ids)?, 0.0);
        Ok(())
    }

    #[test]
    fn gradient_of_a_repeated_row_is_the_sum() -> Result<()> {
        let ids = Tensor::new(&[1u32, 0, 1, 1], &Device::Cpu)?;
        check_gradients(&[random(&[3, 5], 1, 1.0)], 2e-3, |x| embed(&x[0], &ids));
        Ok(())
    }

    #[test]
    fn an_index_outside_is_an_error() -> Result<()> {
        assert!(embed(&random(&[3, 5], 1, 1.0), &Tensor::new(&[3u32], &Device::Cpu)?).is_err());
        Ok(())
    }
}
