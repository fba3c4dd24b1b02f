//! From the bytes of a weights file to tensors and back: element types, strides, bounds.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::Bad;

/// Element types that weights files use and topwork reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Element {
    /// Bytes per element in the file.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Bytes per element once read.
    pub fn size_read(self) -> usize {
        match self {
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::U32 | Self::U16 => 4,
            Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::U64 => 8,
            Self::U8 | Self::Bool => 1,
        }
    }
}

/// Where a tensor's elements lie in a storage, counted in elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// More dimensions than any weight has; PyTorch itself stops at 64.
const MAX_RANK: usize = 16;

/// The number of elements, or an error if it cannot be computed with (also when a dimension is zero: strides are
/// products of the others).
pub(super) fn element_count(shape: &[usize]) -> Result<usize, Bad> {
    if shape.len() > MAX_RANK {
        return Err(Bad::new(format!("a tensor of {} dimensions", shape.len())));
    }
    let bound = shape.iter().try_fold(8usize, |n, &dim| n.checked_mul(dim.max(1)));
    match bound {
        Some(bound) if bound <= isize::MAX as usize => Ok(shape.iter().product()),
        _ => Err(Bad::new(format!("a tensor of the impossible shape {shape:?}"))),
    }
}

impl Layout {
    /// Row-major, from the start of the storage.
    pub fn contiguous(shape: Vec<usize>) -> Result<Self, Bad> {
        element_count(&shape)?;
        let mut stride = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            stride[i - 1] = stride[i] * shape[i].max(1);
        }
        Ok(Self { offset: 0, shape, stride })
    }

    /// The number of elements, once it is certain that all of them lie in a storage of `len` elements.
    pub fn checked_count(&self, len: usize) -> Result<usize, Bad> {
        let count = element_count(&self.shape)?;
        if self.stride.len() != self.shape.len() {
            return Err(Bad::new("a tensor whose shape and strides differ in length"));
        }
        let last = self.shape.iter().zip(&self.stride).try_fold(self.offset, |end, (&dim, &stride)| {
            dim.saturating_sub(1).checked_mul(stride).and_then(|n| n.checked_add(end))
        });
        match last {
            Some(last) if count == 0 || last < len => Ok(count),
            _ => Err(Bad::new(format!("a tensor of shape {:?} that does not fit its storage of {len}", self.shape))),
        }
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.stride).rev().all(|(&dim, &stride)| {
            let fits = dim <= 1 || stride == expected;
            expected *= dim.max(1);
            fits
        })
    }

    /// Calls `visit` with the storage index of every run of `count_last` elements `stride_last` apart.
    fn for_each_row(&self, mut visit: impl FnMut(usize)) {
        let outer = &self.shape[..self.shape.len().saturating_sub(1)];
        let mut index = vec![0; outer.len()];
        let mut position = self.offset;
        loop {
            visit(position);
            let mut axis = outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                position += self.stride[axis];
                if index[axis] < outer[axis] {
                    break;
                }
                position -= index[axis] * self.stride[axis];
                index[axis] = 0;
            }
        }
    }
}

/// The tensor that `layout` describes in `storage`, on the CPU, in row-major order and in a type topwork computes with.
pub(super) fn tensor(element: Element, storage: &[u8], layout: &Layout) -> Result<Tensor, Bad> {
    let count = layout.checked_count(storage.len() / element.size())?;
    let shape = layout.shape.as_slice();
    macro_rules! read {
        ($from:ty, $size:literal, $convert:expr) => {{
            let values = gather::<$size, _>(storage, layout, count, |bytes| $convert(<$from>::from_le_bytes(bytes)));
            Tensor::from_vec(values, shape, &Device::Cpu)
        }};
    }
    let tensor = match element {
        Element::F64 => read!(f64, 8, |x| x as f32),
        Element::F32 => read!(f32, 4, |x: f32| x),
        Element::F16 => read!(f16, 2, f16::to_f32),
        Element::BF16 => read!(bf16, 2, bf16::to_f32),
        Element::I64 => read!(i64, 8, |x: i64| x),
        Element::I32 => read!(i32, 4, i64::from),
        Element::I16 => read!(i16, 2, i64::from),
        Element::I8 => read!(i8, 1, i64::from),
        Element::U64 => read!(u64, 8, |x| x as i64),
        Element::U32 => read!(u32, 4, |x: u32| x),
        Element::U16 => read!(u16, 2, u32::from),
        Element::U8 | Element::Bool => read!(u8, 1, |x: u8| x),
    };
    tensor.map_err(|e| Bad::new(format!("a tensor of shape {shape:?}: {e}")))
}

fn gather<const SIZE: usize, T>(
    storage: &[u8],
    layout: &Layout,
    count: usize,
    convert: impl Fn([u8; SIZE]) -> T,
) -> Vec<T> {
    let mut values = Vec::with_capacity(count);
    if count == 0 {
        return values;
    }
    let (elements, _) = storage.as_chunks::<SIZE>();
    if layout.is_contiguous() {
        values.extend(elements[layout.offset..][..count].iter().map(|&bytes| convert(bytes)));
        return values;
    }
    let (width, step) = match (layout.shape.last(), layout.stride.last()) {
        (Some(&width), Some(&step)) => (width, step),
        _ => (1, 1),
    };
    layout.for_each_row(|start| values.extend((0..width).map(|i| convert(elements[start + i * step]))));
    values
}

/// The values of a tensor, row-major, little-endian.
pub(super) fn bytes_of(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.flatten_all()?.to_device(&Device::Cpu)?;
    macro_rules! bytes {
        ($type:ty) => {{
            let values = flat.to_vec1::<$type>()?;
            let mut bytes = vec![0; size_of_val(values.as_slice())];
            let (chunks, _) = bytes.as_chunks_mut();
            chunks.iter_mut().zip(values).for_each(|(chunk, x)| *chunk = x.to_le_bytes());
            bytes
        }};
    }
    Ok(match flat.dtype() {
        DType::U8 => flat.to_vec1::<u8>()?,
        DType::U32 => bytes!(u32),
        DType::I16 => bytes!(i16),
        DType::I32 => bytes!(i32),
        DType::I64 => bytes!(i64),
        DType::BF16 => bytes!(bf16),
        DType::F16 => bytes!(f16),
        DType::F32 => bytes!(f32),
        DType::F64 => bytes!(f64),
        other => candle_core::bail!("tensors of type {} cannot be written", other.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn layout(offset: usize, shape: &[usize], stride: &[usize]) -> Layout {
        Layout { offset, shape: shape.to_vec(), stride: stride.to_vec() }
    }

    #[test]
    fn a_transposed_view_with_an_offset_is_gathered_in_row_major_order() {
        let storage = bytes(&[9., 0., 1., 2., 3., 4., 5.]);
        let read = tensor(Element::F32, &storage, &layout(1, &[3, 2], &[1, 3])).unwrap();
        assert_eq!(read.to_vec2::<f32>().unwrap(), [[0., 3.], [1., 4.], [2., 5.]]);
    }

    #[test]
    fn an_expanded_view_repeats_its_elements() {
        let read = tensor(Element::F32, &bytes(&[1., 2.]), &layout(0, &[2, 3], &[1, 0])).unwrap();
        assert_eq!(read.to_vec2::<f32>().unwrap(), [[1., 1., 1.], [2., 2., 2.]]);
    }

    #[test]
    fn scalars_and_empty_tensors_keep_their_shape() {
        let storage = bytes(&[7.]);
        assert_eq!(tensor(Element::F32, &storage, &layout(0, &[], &[])).unwrap().to_scalar::<f32>().unwrap(), 7.);
        assert_eq!(tensor(Element::F32, &storage, &layout(0, &[0, 3], &[3, 1])).unwrap().dims(), [0, 3]);
    }

    #[test]
    fn a_layout_beyond_its_storage_is_an_error() {
        let storage = bytes(&[0.; 6]);
        for bad in [
            layout(1, &[6], &[1]),
            layout(0, &[2, 3], &[4, 1]),
            layout(usize::MAX, &[2], &[1]),
            layout(0, &[2, 2], &[usize::MAX, 1]),
            layout(0, &[usize::MAX, 2, 0], &[1, 1, 1]),
            layout(0, &[0, usize::MAX, 2], &[1, 1, 1]),
            layout(0, &[2, 3], &[1]),
            layout(0, &[1; 40], &[1; 40]),
        ] {
            assert!(tensor(Element::F32, &storage, &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn half_precision_is_widened_exactly() {
        let storage: Vec<u8> =
            [f16::from_f32(1.5), f16::from_f32(-65504.)].iter().flat_map(|x| x.to_le_bytes()).collect();
        let read = tensor(Element::F16, &storage, &layout(0, &[2], &[1])).unwrap();
        assert_eq!(read.to_vec1::<f32>().unwrap(), [1.5, -65504.]);
        let storage: Vec<u8> = bf16::from_f32(-3.).to_le_bytes().to_vec();
        let read = tensor(Element::BF16, &storage, &layout(0, &[1], &[1])).unwrap();
        assert_eq!(read.to_vec1::<f32>().unwrap(), [-3.]);
    }
}
