//! Remembers, in fixed space, which nodes lost names by this mount lately.

use std::collections::VecDeque;

use juicefs_core::Ino;
use parking_lot::Mutex;

/// How many lost names are remembered. It is far more than get lost while the kernel goes from looking a name up to
/// opening it.
const LOSSES: usize = 4096;

/// How a node lost a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// The name was missing afterwards.
    Removed,
    /// Another node had the name from then on.
    Replaced,
}

/// The last names lost, the oldest first.
pub(crate) struct Departed {
    losses: Mutex<VecDeque<(Ino, Loss)>>,
}

impl Departed {
    pub(crate) fn new() -> Self {
        Self { losses: Mutex::new(VecDeque::with_capacity(LOSSES)) }
    }

    pub(crate) fn note(&self, ino: Ino, loss: Loss) {
        let mut losses = self.losses.lock();
        if losses.len() == LOSSES {
            losses.pop_front();
        }
        losses.push_back((ino, loss));
    }

    /// Whether a loss of the node is remembered, and the name was missing afterwards each time.
    pub(crate) fn only_removed(&self, ino: Ino) -> bool {
        let losses = self.losses.lock();
        let mut of_node = losses.iter().filter(|(lost, _)| *lost == ino).map(|(_, loss)| *loss).peekable();
        of_node.peek().is_some() && of_node.all(|loss| loss == Loss::Removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_replaced_was_never_missing() {
        let departed = Departed::new();
        departed.note(Ino(7), Loss::Removed);
        departed.note(Ino(8), Loss::Replaced);
        departed.note(Ino(8), Loss::Removed);
        assert!(departed.only_removed(Ino(7)));
        assert!(!departed.only_removed(Ino(8)) && !departed.only_removed(Ino(9)));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let departed = Departed::new();
        (1..=LOSSES as u64 + 1).for_each(|ino| departed.note(Ino(ino), Loss::Removed));
        assert!(!departed.only_removed(Ino(1)) && departed.only_removed(Ino(2)));
        assert_eq!(departed.losses.lock().len(), LOSSES);
    }
}
