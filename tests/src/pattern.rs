//! Data that says where it belongs: each block names its file, its place and its version.
//!
//! A crash test that only compares hashes cannot tell old bytes from foreign ones. Here every 4 KiB block can be judged
//! alone: which write put it there, and whether it may be there at all.

/// The unit that carries its own identity.
pub const BLOCK_SIZE_BYTES: usize = 4096;

/// Whose bytes these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The run (its seed), so that bytes of another run are foreign.
    pub run: u64,
    /// The file within the run.
    pub file: u64,
    /// The version of the file's content, counted from 1.
    pub version: u64,
}

/// The content of one version of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    owner: Owner,
}

impl Pattern {
    /// The content that belongs to `owner`.
    pub fn of(owner: Owner) -> Self {
        Self { owner }
    }

    /// The first `length` bytes of it.
    pub fn bytes(&self, length: usize) -> Vec<u8> {
        let blocks = length.div_ceil(BLOCK_SIZE_BYTES);
        let mut data = Vec::with_capacity(blocks * BLOCK_SIZE_BYTES);
        for index in 0..blocks {
            self.push_block(index as u64, &mut data);
        }
        data.truncate(length);
        data
    }

    /// One block: a header of four numbers, then a sequence that depends on all of them.
    fn push_block(&self, index: u64, data: &mut Vec<u8>) {
        let end = data.len() + BLOCK_SIZE_BYTES;
        let Owner { run, file, version } = self.owner;
        for number in [run, file, version, index] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        let mut state = mix(run ^ mix(file ^ mix(version ^ mix(index))));
        while data.len() < end {
            state = mix(state);
            data.extend_from_slice(&state.to_be_bytes());
        }
    }
}

/// Says which version of `file` in `run` a full block at `index` holds.
///
/// # Errors
/// A sentence about the bytes if they belong to no version of this block: zeroes, another file, or torn.
pub fn judge_block(run: u64, file: u64, index: u64, block: &[u8]) -> Result<u64, String> {
    if block.iter().all(|&byte| byte == 0) {
        return Err(format!("block {index} of file {file} is all zeroes"));
    }
    let number =
        |at: usize| block.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    let version = number(16);
    let mut expected = Vec::with_capacity(BLOCK_SIZE_BYTES);
    Pattern::of(Owner { run, file, version }).push_block(index, &mut expected);
    if expected.starts_with(block) {
        return Ok(version);
    }
    Err(format!(
        "block {index} of file {file} is foreign or torn: its header says run {}, file {}, version {version}, block {}",
        number(0),
        number(8),
        number(24)
    ))
}

/// A step of splitmix64: every bit of the input changes the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_version_and_place() {
        let data = Pattern::of(Owner { run: 7, file: 3, version: 9 }).bytes(3 * BLOCK_SIZE_BYTES);
        let second = &data[BLOCK_SIZE_BYTES..2 * BLOCK_SIZE_BYTES];
        assert_eq!(judge_block(7, 3, 1, second), Ok(9));
        assert!(judge_block(7, 3, 2, second).is_err());
        assert!(judge_block(7, 4, 1, second).is_err());
        assert!(judge_block(8, 3, 1, second).is_err());
    }

    #[test]
    fn torn_and_empty_blocks_are_found() {
        let mut data = Pattern::of(Owner { run: 7, file: 3, version: 9 }).bytes(BLOCK_SIZE_BYTES);
        data[4000] ^= 1;
        assert!(judge_block(7, 3, 0, &data).unwrap_err().contains("torn"));
        assert!(judge_block(7, 3, 0, &[0; BLOCK_SIZE_BYTES]).unwrap_err().contains("zeroes"));
    }

    #[test]
    fn a_shorter_length_is_a_prefix() {
        let pattern = Pattern::of(Owner { run: 1, file: 1, version: 1 });
        assert!(pattern.bytes(10_000).starts_with(&pattern.bytes(5_001)));
    }
}
