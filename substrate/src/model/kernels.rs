//! Which kernels the tensor library takes for each form of weights on this processor.
//!
//! candle chooses at run time and does not tell. What stands here are its rules: `quantized/repack_x86.rs` of candle-core 0.11.1 for
//! blocks of 8 and 4 bits, `gemm` 0.19 for the rest, which candle builds without its kernels for AVX-512.

use super::weights::Stored;
use crate::engine::Kernel;

/// What a processor offers, as far as the kernels care.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processor {
    /// AVX2 and FMA.
    pub avx2: bool,
    /// AVX-VNNI.
    pub avx_vnni: bool,
    /// AVX-512F and AVX-512 VNNI.
    pub avx512_vnni: bool,
    /// AMX tiles of 8-bit integers.
    pub amx: bool,
}

impl Processor {
    /// This one.
    #[cfg(target_arch = "x86_64")]
    pub fn here() -> Self {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
        Self {
            avx2: is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            avx_vnni: is_x86_feature_detected!("avxvnni"),
            avx512_vnni: is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vnni"),
            // The standard library does not tell of it yet.
            amx: has("amx_tile") && has("amx_int8"),
        }
    }

    /// This one.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn here() -> Self {
        Self::default()
    }

    /// What multiplies weights of a form. For blocks of 4 bits with AMX, prompts take the tiles and single tokens AVX-512.
    pub fn kernel(self, stored: Stored) -> Kernel {
        let path = match stored {
            Stored::F32 | Stored::F16 | Stored::BF16 if self.avx2 => "avx2",
            Stored::F32 | Stored::F16 | Stored::BF16 => "portable",
            Stored::Q4K if self.avx512_vnni && self.amx => "amx",
            Stored::Q4K | Stored::Q6K | Stored::Q8_0 if self.avx512_vnni => "avx512_vnni",
            Stored::Q4K | Stored::Q6K | Stored::Q8_0 if self.avx_vnni && self.avx2 => "avx_vnni",
            Stored::Q4K | Stored::Q6K if self.avx2 => "avx2",
            // What is compiled in, whatever the processor could do besides.
            Stored::Q4K | Stored::Q6K | Stored::Q8_0 => match cfg!(target_feature = "avx2") {
                true => "avx2",
                false => "portable",
            },
        };
        Kernel {
            stored: stored.name(),
            path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_the_processor_has_and_the_format_can_use() {
        let none = Processor::default();
        let avx2 = Processor { avx2: true, ..none };
        let vnni = Processor {
            avx_vnni: true,
            ..avx2
        };
        let wide = Processor {
            avx512_vnni: true,
            ..avx2
        };
        let tiles = Processor { amx: true, ..wide };
        let table = [
            (none, Stored::F32, "portable"),
            (tiles, Stored::BF16, "avx2"),
            (avx2, Stored::Q4K, "avx2"),
            (vnni, Stored::Q8_0, "avx_vnni"),
            (vnni, Stored::Q6K, "avx_vnni"),
            (wide, Stored::Q4K, "avx512_vnni"),
            (tiles, Stored::Q4K, "amx"),
            (tiles, Stored::Q8_0, "avx512_vnni"),
        ];
        for (processor, stored, path) in table {
            let kernel = processor.kernel(stored);
            assert_eq!((kernel.path, kernel.stored), (path, stored.name()));
        }
    }
}
