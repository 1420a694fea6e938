//! A consistent-hash ring over the ids of the cache directories decides which of them a block lies in (format: data.md §4.2).

use crate::hash::{fnv1_32, murmur3_32};

/// Each directory has so many points before balancing.
const POINTS: usize = 100;
/// The points are balanced in at most so many rounds.
const ROUNDS: usize = 5;

/// Hash points in order, each with the number of its directory.
#[derive(Debug)]
pub(super) struct Ring {
    points: Vec<(u32, u16)>,
    dirs: usize,
}

impl Ring {
    /// Makes a ring over directories with these ids.
    pub(super) fn new(ids: &[String]) -> Self {
        let mut counts = vec![POINTS; ids.len()];
        let mut points = points_of(ids, &counts);
        if ids.len() > 1 {
            for _ in 0..ROUNDS {
                let moved = rebalance(&points, &mut counts);
                if !moved {
                    break;
                }
                points = points_of(ids, &counts);
            }
        }
        Self { points, dirs: ids.len() }
    }

    /// Returns the number of the directory that a key lies in.
    pub(super) fn of(&self, key: &str) -> usize {
        if self.dirs == 1 {
            return 0;
        }
        let hash = murmur3_32(key.as_bytes());
        let at = self.points.partition_point(|(point, _)| *point < hash);
        let (_, dir) = self.points.get(at).or(self.points.first()).copied().unwrap_or_default();
        usize::from(dir)
    }

    /// Returns the number of the directory, of `dirs`, that old layouts put a key in.
    pub(super) fn legacy(key: &str, dirs: usize) -> usize {
        fnv1_32(key.as_bytes()) as usize % dirs.max(1)
    }
}

fn points_of(ids: &[String], counts: &[usize]) -> Vec<(u32, u16)> {
    let mut points = Vec::new();
    for ((dir, id), count) in (0..).zip(ids).zip(counts) {
        points.extend((0..*count).map(|n| (murmur3_32(format!("{n}{id}").as_bytes()), dir)));
    }
    points.sort_unstable();
    points
}

/// Adjusts the number of points of each directory by what its share lacks. Returns whether another round is worth while.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the format computes in doubles")]
fn rebalance(points: &[(u32, u16)], counts: &mut [usize]) -> bool {
    let mut shares = vec![0_u64; counts.len()];
    let mut before = points.last().map_or(0, |(hash, _)| *hash);
    for (hash, dir) in points {
        // The first point's arc wraps round.
        shares[usize::from(*dir)] += u64::from(hash.wrapping_sub(before));
        before = *hash;
    }
    let expect = 1.0 / counts.len() as f64;
    let mut moved = false;
    for (count, share) in counts.iter_mut().zip(shares) {
        let share = share as f64 / 4_294_967_296.0;
        let adjust = (*count as f64 * (expect - share) / expect * 0.75).trunc() as i64;
        // One point more is left for the next round, as the format has it.
        if adjust != 1 {
            *count = count.saturating_add_signed(adjust as isize);
            moved = true;
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_format() {
        let ids = [
            "0b8a8ef3-5b0e-4d8e-9a44-0d0bd2b9d3c1",
            "5d2c7c55-7b3a-4c7e-8f0e-2f6f8f1c9a22",
            "e3f1a1c0-1f57-4b0a-b1f4-9c9f7a1d4e33",
        ]
        .map(str::to_owned);
        let ring = Ring::new(&ids);
        let points = |dir| ring.points.iter().filter(|p| p.1 == dir).count();
        assert_eq!([points(0), points(1), points(2)], [100, 104, 91]);
        assert_eq!(ring.of("chunks/0/0/1_0_4"), 2);
        assert_eq!(ring.of("chunks/0/0/1_1_4194304"), 1);
        assert_eq!(ring.of("chunks/0/1/1000_0_4194304"), 0);
        assert_eq!(ring.of("chunks/0/5/5000_2_10"), 0);
        assert_eq!(Ring::legacy("chunks/0/0/1_0_4", 3), 0xaa1a_0d9b % 3);
    }

    #[test]
    fn one_directory_takes_all() {
        let ring = Ring::new(&["a".to_owned()]);
        assert_eq!((ring.of("x"), Ring::legacy("x", 1)), (0, 0));
    }
}
