//! A model's tensors in memory, whatever file they came from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use half::{bf16, f16};

use super::config::Planned;
use crate::engine::EngineError;

/// How a tensor's values are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stored {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// The upper half of a 32-bit floating point number.
    BF16,
    /// Blocks of 32 values of 8 bits with one scale.
    Q8_0,
    /// Blocks of 256 values of 4 bits with scales and minima of 6 bits.
    Q4K,
    /// Blocks of 256 values of 6 bits with scales of 8 bits.
    Q6K,
}

impl Stored {
    /// The name that users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Values in one block.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a tensor, or `None` if its rows are no whole blocks or the count does not fit.
    pub fn bytes(self, shape: &[usize]) -> Option<u64> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block()) {
            return None;
        }
        let values = shape
            .iter()
            .try_fold(1_u64, |product, &n| product.checked_mul(n as u64))?;
        (values / self.block() as u64).checked_mul(self.block_bytes() as u64)
    }

    fn quantised(self) -> Option<GgmlDType> {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => None,
            Self::Q8_0 => Some(GgmlDType::Q8_0),
            Self::Q4K => Some(GgmlDType::Q4K),
            Self::Q6K => Some(GgmlDType::Q6K),
        }
    }
}

/// What becomes of 16-bit weights. The results are the same; the choice is memory against time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Widen {
    /// They become F32 as they are read: twice the memory, no work later.
    #[default]
    AtLoad,
    /// They stay as they are and become F32 each time they are used.
    AtUse,
}

/// One tensor in memory.
pub enum Weight {
    /// F32, or 16 bits wide and made F32 when used.
    Plain(Tensor),
    /// Blocks, multiplied as they are.
    Blocks(QTensor),
}

impl Weight {
    /// Makes a tensor of a file's bytes, which must be as many as `stored.bytes(shape)` says and begin at a multiple
    /// of 16.
    ///
    /// # Errors
    /// A value that is not finite, or one that the tensor library refuses.
    pub fn from_bytes(
        file: &Path,
        name: &str,
        stored: Stored,
        shape: &[usize],
        bytes: &[u8],
        widen: Widen,
    ) -> Result<Self, EngineError> {
        let failed = |error: candle_core::Error| EngineError::Compute {
            place: name.to_owned(),
            message: error.to_string(),
        };
        if let Some(kind) = stored.quantised() {
            let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind).map_err(failed)?;
            return Ok(Self::Blocks(QTensor::new(storage, shape).map_err(failed)?));
        }
        let finite = |index: usize, value: f32| {
            if value.is_finite() {
                Ok(())
            } else {
                Err(EngineError::NotFinite {
                    file: file.into(),
                    tensor: name.to_owned(),
                    index,
                    value,
                })
            }
        };
        let pairs = || bytes.as_chunks::<2>().0.iter().copied();
        let tensor = match (stored, widen) {
            (Stored::F32, _) => {
                let values: Vec<f32> = bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .copied()
                    .map(f32::from_le_bytes)
                    .collect();
                values
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, value)| finite(i, *value))?;
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            (Stored::F16, Widen::AtUse) => {
                let values: Vec<f16> = pairs().map(f16::from_le_bytes).collect();
                values
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, value)| finite(i, value.to_f32()))?;
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            (Stored::BF16, Widen::AtUse) => {
                let values: Vec<bf16> = pairs().map(bf16::from_le_bytes).collect();
                values
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, value)| finite(i, value.to_f32()))?;
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            (half_width, _) => {
                let wide = |pair| match half_width {
                    Stored::F16 => f16::from_le_bytes(pair).to_f32(),
                    _ => bf16::from_le_bytes(pair).to_f32(),
                };
                let values: Vec<f32> = pairs().map(wide).collect();
                values
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, value)| finite(i, *value))?;
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
        };
        Ok(Self::Plain(tensor.map_err(failed)?))
    }

    /// The values as F32.
    ///
    /// # Errors
    /// What the tensor library says.
    pub fn to_f32(&self) -> candle_core::Result<Tensor> {
        match self {
            Self::Plain(tensor) => tensor.to_dtype(DType::F32),
            Self::Blocks(tensor) => tensor.dequantize(&Device::Cpu),
        }
    }

    /// `x` times the transposed weight: `[n, inputs]` to `[n, outputs]`. Blocks are multiplied with activations that
    /// are rounded to blocks of 8 bits, as everywhere for these formats.
    ///
    /// # Errors
    /// What the tensor library says.
    pub fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Plain(tensor) => x.matmul(&tensor.to_dtype(DType::F32)?.t()?),
            Self::Blocks(tensor) => x.apply_op1_no_bwd(tensor),
        }
    }

    /// The rows of these numbers, as F32: `[n, inputs]`.
    ///
    /// # Errors
    /// What the tensor library says, such as a number that is not below the rows.
    pub fn rows(&self, numbers: &[u32]) -> candle_core::Result<Tensor> {
        let numbers = Tensor::new(numbers, &Device::Cpu)?;
        match self {
            Self::Plain(tensor) => tensor.index_select(&numbers, 0)?.to_dtype(DType::F32),
            Self::Blocks(tensor) => tensor.embedding(&numbers),
        }
    }
}

/// A weight, and a bias where the model has one.
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Weight,
    /// `[outputs]`, F32.
    pub bias: Option<Tensor>,
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.weight.apply(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// What a loader hands over: every planned tensor under its Hugging Face name, and what was read.
pub struct Loaded {
    /// The tensors.
    pub tensors: HashMap<String, Weight>,
    /// Name and SHA-256 of each file.
    pub files: Vec<(String, [u8; 32])>,
    /// The types that the files store, ascending.
    pub stored: Vec<Stored>,
    /// Where a missing tensor should have been.
    pub place: PathBuf,
}

impl Loaded {
    /// Takes a tensor out.
    ///
    /// # Errors
    /// When there is none of that name (the loaders see to it that there is).
    pub fn take(&mut self, name: &str) -> Result<Weight, EngineError> {
        self.tensors
            .remove(name)
            .ok_or_else(|| EngineError::MissingTensor {
                file: self.place.clone(),
                tensor: name.to_owned(),
                expected: Vec::new(),
            })
    }

    /// Takes a tensor out as F32.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_f32(&mut self, name: &str) -> Result<Tensor, EngineError> {
        self.take(name)?
            .to_f32()
            .map_err(|error| EngineError::Compute {
                place: name.to_owned(),
                message: error.to_string(),
            })
    }
}

/// Checks a tensor's shape against the plan.
///
/// # Errors
/// [`EngineError::TensorShape`].
pub fn check_shape(
    file: &Path,
    name: &str,
    expected: &[usize],
    found: &[usize],
) -> Result<(), EngineError> {
    if expected == found {
        return Ok(());
    }
    Err(EngineError::TensorShape {
        file: file.into(),
        tensor: name.to_owned(),
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}

/// The error for the first planned tensor that was not found, in the plan's order.
///
/// # Errors
/// [`EngineError::MissingTensor`].
pub fn check_complete(
    file: &Path,
    plan: &[Planned],
    found: impl Fn(&str) -> bool,
) -> Result<(), EngineError> {
    match plan.iter().find(|tensor| !found(&tensor.name)) {
        None => Ok(()),
        Some(tensor) => Err(EngineError::MissingTensor {
            file: file.into(),
            tensor: tensor.name.clone(),
            expected: tensor.shape.clone(),
        }),
    }
}
