//! These hashes decide where things lie: in which shard of a store, in which directory of a cache.

const FNV_OFFSET: u32 = 0x811C_9DC5;
const FNV_PRIME: u32 = 0x0100_0193;

/// Computes FNV-1a with 32 bits, which decides the shard of an object (format: data.md §1.7).
pub(crate) fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// Computes FNV-1 with 32 bits, which decides the cache directory of a block in old layouts (format: data.md §4.2).
pub(crate) fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| hash.wrapping_mul(FNV_PRIME) ^ u32::from(*byte))
}

/// Computes MurmurHash3 (x86, 32 bits, seed 0), which the ring of cache directories is made with (format: data.md §4.2).
pub(crate) fn murmur3_32(bytes: &[u8]) -> u32 {
    let mix = |word: u32| word.wrapping_mul(0xCC9E_2D51).rotate_left(15).wrapping_mul(0x1B87_3593);
    let (words, tail) = bytes.as_chunks::<4>();
    let mut hash = words.iter().fold(0u32, |hash, word| {
        (hash ^ mix(u32::from_le_bytes(*word))).rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64)
    });
    if !tail.is_empty() {
        let mut word = [0; 4];
        word[..tail.len()].copy_from_slice(tail);
        hash ^= mix(u32::from_le_bytes(word));
    }
    // The format hashes keys, which are far below 4 GiB.
    hash ^= u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    hash = (hash ^ hash >> 16).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ hash >> 13).wrapping_mul(0xC2B2_AE35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_format() {
        assert_eq!(fnv1a_32(b"vol/chunks/0/0/1_0_4"), 0x7e29_dc71);
        assert_eq!(fnv1_32(b"chunks/0/0/1_0_4"), 0xaa1a_0d9b);
        assert_eq!(murmur3_32(b"hello"), 0x248b_fa47);
        assert_eq!(murmur3_32(b"chunks/0/0/1_0_4"), 0x9fb0_0473);
        assert_eq!(murmur3_32(b"chunks/0/0/1_1_4194304"), 0x763d_89f2);
        assert_eq!(murmur3_32(b"chunks/0/5/5000_2_10"), 0x5045_642b);
    }
}
