//! Bodies of blocks are compressed and decompressed here (format: data.md §2.1).
//!
//! The key of a block tells its plain size; the body is not asked for it. A body is decoded into a buffer of exactly that
//! size, and whatever does not fill it exactly is an error: a decoder that goes by what the body says could hand out bytes
//! that are none of the block's.

use parking_lot::Mutex;
use zstd::bulk::{Compressor, Decompressor};

use crate::pool::PoolBuf;

const ZSTD_LEVEL: i32 = 1;
/// How many contexts are kept for reuse. Each takes near 1 MiB and is slow to set up.
const IDLE_CONTEXTS: usize = 2;

static COMPRESSORS: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());
static DECOMPRESSORS: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());

/// How the bodies of a volume are compressed. This is fixed when the volume is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Bodies are the plain bytes, and can be read in part.
    None,
    /// One raw LZ4 block without frame or length.
    Lz4,
    /// One zstd frame of level 1 that carries its content size.
    Zstd,
}

impl Compression {
    /// Finds the algorithm with this name in the volume setting, in upper or lower case. An empty name means none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "" | "none" => Some(Self::None),
            "lz4" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether a part of a body can be read alone.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::None
    }

    /// Returns the most bytes that `plain_bytes` can become.
    #[must_use]
    pub fn bound_bytes(self, plain_bytes: usize) -> usize {
        match self {
            Self::None => plain_bytes,
            Self::Lz4 => plain_bytes + plain_bytes / 255 + 16,
            Self::Zstd => {
                let small = 128 << 10;
                plain_bytes + plain_bytes / 256 + if plain_bytes < small { (small - plain_bytes) / 2048 } else { 0 }
            }
        }
    }

    /// Encodes one block.
    ///
    /// # Errors
    /// Returns the library's sentence. Input that fits in memory does not meet it.
    pub(crate) fn encode(self, plain: &[u8]) -> Result<PoolBuf, String> {
        let mut body = PoolBuf::stale(match self {
            // The library wants more room than the format's bound, and does not use it.
            Self::Lz4 => lz4_flex::block::get_maximum_output_size(plain.len()),
            Self::None | Self::Zstd => self.bound_bytes(plain.len()),
        });
        let len = match self {
            Self::None => {
                body.copy_from_slice(plain);
                plain.len()
            }
            Self::Lz4 => lz4_flex::block::compress_into(plain, &mut body).map_err(|e| e.to_string())?,
            Self::Zstd => with_context(
                &COMPRESSORS,
                || Compressor::new(ZSTD_LEVEL),
                |context| context.compress_to_buffer(plain, &mut body[..]),
            )?,
        };
        if len > self.bound_bytes(plain.len()) {
            // Readers look no further than the bound.
            return Err(format!("{len} bytes from {} are beyond the bound of the format", plain.len()));
        }
        if len <= body.len() / 2 {
            // The room for the worst case goes back at once; the body may wait long for its upload.
            let mut exact = PoolBuf::with_capacity(len);
            exact.append(&body[..len]);
            return Ok(exact);
        }
        body.truncate(len);
        Ok(body)
    }

    /// Decodes `body` to fill `plain` exactly.
    ///
    /// # Errors
    /// Says what does not fit: the body is damaged, or it has another length than `plain`. The content of `plain` is lost then.
    pub(crate) fn decode(self, body: &[u8], plain: &mut [u8]) -> Result<(), String> {
        let expected = plain.len();
        let got = match self {
            Self::None => {
                if body.len() == expected {
                    plain.copy_from_slice(body);
                }
                body.len()
            }
            // An empty body is no LZ4 block, whatever its decoder makes of it.
            Self::Lz4 if body.is_empty() => return Err("empty body".to_owned()),
            Self::Lz4 => lz4_flex::block::decompress_into(body, plain).map_err(|e| format!("lz4: {e}"))?,
            Self::Zstd if body.is_empty() => return Err("empty body".to_owned()),
            Self::Zstd => {
                with_context(&DECOMPRESSORS, Decompressor::new, |context| context.decompress_to_buffer(body, plain))?
            }
        };
        if got == expected { Ok(()) } else { Err(format!("{got} bytes instead of {expected}")) }
    }
}

/// Runs `work` on an idle context or a new one.
fn with_context<C>(
    idle: &Mutex<Vec<C>>,
    make: impl FnOnce() -> std::io::Result<C>,
    work: impl FnOnce(&mut C) -> std::io::Result<usize>,
) -> Result<usize, String> {
    let kept = idle.lock().pop();
    let mut context = kept.map_or_else(make, Ok).map_err(|e| format!("zstd: {e}"))?;
    let len = work(&mut context).map_err(|e| format!("zstd: {e}"))?;
    let mut idle = idle.lock();
    if idle.len() < IDLE_CONTEXTS {
        idle.push(context);
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    fn round_trip(codec: Compression, plain: &[u8]) {
        let body = codec.encode(plain).expect("encodes");
        assert!(body.len() <= codec.bound_bytes(plain.len()));
        let mut back = vec![0xEE; plain.len()];
        codec.decode(&body, &mut back).expect("decodes");
        assert_eq!(back, plain);
    }

    #[test]
    fn names_are_those_of_the_setting() {
        assert_eq!(Compression::parse("LZ4"), Some(Compression::Lz4));
        assert_eq!(Compression::parse(""), Some(Compression::None));
        assert_eq!(Compression::parse("gzip"), None);
    }

    #[test]
    fn only_the_exact_size_is_accepted() {
        let plain = b"a block of data, a block of data, a block of data";
        for codec in ALL {
            let body = codec.encode(plain).expect("encodes");
            for wrong in [plain.len() - 1, plain.len() + 1, 0] {
                assert!(codec.decode(&body, &mut vec![0; wrong]).is_err(), "{codec:?} into {wrong}");
            }
        }
    }

    #[test]
    fn an_empty_body_is_no_compressed_block() {
        for codec in [Compression::Lz4, Compression::Zstd] {
            assert!(codec.decode(&[], &mut []).is_err());
            round_trip(codec, &[]);
        }
    }

    #[test]
    fn zstd_frames_carry_their_content_size() {
        let body = Compression::Zstd.encode(&[5; 100_000]).expect("encodes");
        assert_eq!(body[..4], [0x28, 0xB5, 0x2F, 0xFD]);
        let single_segment = body[4] >> 5 & 1;
        let size_flag = body[4] >> 6;
        assert!(size_flag != 0 || single_segment == 1, "frame header without content size");
        assert_eq!(body[4] >> 2 & 1, 0, "no checksum");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn blocks_come_back(data in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..5000)) {
            for codec in ALL {
                round_trip(codec, &data);
            }
        }

        #[test]
        fn damaged_bodies_never_pass_as_longer_or_shorter(
            data in prop::collection::vec(any::<u8>(), 1..500), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            for codec in [Compression::Lz4, Compression::Zstd] {
                let mut body = codec.encode(&data).expect("encodes").to_vec();
                let at = at.index(body.len());
                body[at] ^= 1 << bit;
                let mut back = vec![0; data.len()];
                // No checksum in the format: damage may decode, but only to a block of the right size.
                let _ = codec.decode(&body, &mut back);
                prop_assert_eq!(back.len(), data.len());
            }
        }
    }
}
