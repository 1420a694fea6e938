//! Arithmetic on the ranges that one owner holds: in order, apart from each other, neighbours that are alike joined.

use juicefs_core::lock::LockRange;

use crate::record::Plock;

/// What is held once `range` is locked `with` something else, or with nothing: records that reach into it are cut, and
/// what then lies side by side with the same kind and process becomes one.
pub(crate) fn replace(held: &[Plock], range: LockRange, with: Option<Plock>) -> Vec<Plock> {
    let mut pieces = Vec::with_capacity(held.len() + 2);
    for record in held {
        if !record.range.overlaps(range) {
            pieces.push(*record);
            continue;
        }
        if record.range.start < range.start {
            pieces.push(Plock { range: LockRange { end: range.start - 1, ..record.range }, ..*record });
        }
        if record.range.end > range.end {
            pieces.push(Plock { range: LockRange { start: range.end + 1, ..record.range }, ..*record });
        }
    }
    pieces.extend(with);
    pieces.sort_by_key(|record| record.range.start);
    joined(&pieces)
}

fn joined(pieces: &[Plock]) -> Vec<Plock> {
    let mut out: Vec<Plock> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match out.last_mut() {
            Some(last)
                if (last.kind, last.pid) == (piece.kind, piece.pid)
                    && last.range.end.checked_add(1) == Some(piece.range.start) =>
            {
                last.range.end = piece.range.end;
            }
            _ => out.push(*piece),
        }
    }
    out
}

/// The first record in `range` that is `wanted`.
pub(crate) fn first_overlap(held: &[Plock], range: LockRange, wanted: impl Fn(&Plock) -> bool) -> Option<&Plock> {
    held.iter().find(|record| record.range.overlaps(range) && wanted(record))
}

#[cfg(test)]
mod tests;
