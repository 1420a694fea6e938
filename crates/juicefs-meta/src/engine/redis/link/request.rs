//! Commands as they go over the wire.

use std::fmt;

/// One or more commands, packed, that are sent in one piece and whose replies come back in order.
#[derive(Clone, Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    commands: usize,
    steady: bool,
}

impl Request {
    /// Without commands yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Without commands yet, with room for this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// A request of one command.
    pub(crate) fn of<A: AsRef<[u8]>>(args: &[A]) -> Self {
        let mut request = Self::new();
        request.command(args);
        request
    }

    /// Adds a command.
    pub(crate) fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.begin(args.len());
        for arg in args {
            self.arg(arg.as_ref());
        }
    }

    /// Begins a command of `args` words, its name included; as many calls of [`Self::arg`] must follow.
    pub(crate) fn begin(&mut self, args: usize) {
        self.commands += 1;
        self.header(b'*', args);
    }

    /// Adds a word to the command begun last.
    pub(crate) fn arg(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Number of commands, which is that of the replies.
    pub(crate) fn len(&self) -> usize {
        self.commands
    }

    /// Whether there is no command.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Adds the commands of another request.
    pub(crate) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.commands += other.commands;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same request, to be served only by a node that has the slot all to itself: while the slot is moving to another
    /// node, it waits. A command of the request has to name a key that never exists, or the node would not notice.
    #[must_use]
    pub(crate) fn steady(mut self) -> Self {
        self.steady = true;
        self
    }

    /// Whether it waits while the slot is moving.
    pub(super) fn is_steady(&self) -> bool {
        self.steady
    }

    /// The commands that a node left to the one that the slot is moving to, with the rest of their transactions: that node
    /// serves each only right after `ASKING`, which stays valid throughout a transaction. The others were answered from where
    /// their keys are; over there they would find nothing.
    ///
    /// `redirected` says of each command whether its reply was `ASK`. Also returns for each reply to come the command of this
    /// request that it belongs to.
    pub(super) fn asking(&self, redirected: &[bool]) -> (Self, Vec<Option<usize>>) {
        let mut asking = Self::new();
        let mut places = Vec::new();
        let (mut unit, mut in_transaction) = (Vec::new(), false);
        for (place, words) in self.words().into_iter().enumerate() {
            match words.first() {
                Some(name) if name.eq_ignore_ascii_case(b"MULTI") => in_transaction = true,
                Some(name) if name.eq_ignore_ascii_case(b"EXEC") => in_transaction = false,
                _ => {}
            }
            unit.push((place, words));
            if in_transaction {
                continue;
            }
            let unit = std::mem::take(&mut unit);
            if unit.iter().any(|(place, _)| redirected.get(*place) == Some(&true)) {
                asking.command(&["ASKING"]);
                places.push(None);
                for (place, words) in unit {
                    asking.command(&words);
                    places.push(Some(place));
                }
            }
        }
        (asking, places)
    }

    /// The words of each command.
    fn words(&self) -> Vec<Vec<&[u8]>> {
        let mut rest = self.bytes.as_slice();
        let mut commands = Vec::with_capacity(self.commands);
        while let Some(args) = take_header(&mut rest) {
            let mut words = Vec::with_capacity(args);
            for _ in 0..args {
                let Some(word) = take_header(&mut rest).and_then(|length| rest.split_off(..length)) else { break };
                words.push(word);
                rest = rest.get(2..).unwrap_or_default();
            }
            commands.push(words);
        }
        commands
    }

    fn header(&mut self, kind: u8, number: usize) {
        // Enough for the kind, 20 digits and the line end.
        let mut text = [0_u8; 23];
        let mut at = text.len() - 2;
        text[at..].copy_from_slice(b"\r\n");
        let mut left = number;
        loop {
            at -= 1;
            text[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        at -= 1;
        text[at] = kind;
        self.bytes.extend_from_slice(&text[at..]);
    }
}

/// Takes the line `*N` or `$N`.
fn take_header(rest: &mut &[u8]) -> Option<usize> {
    let end = rest.iter().position(|&byte| byte == b'\r')?;
    let number = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
    *rest = rest.get(end + 2..)?;
    Some(number)
}

/// Commands may hold passwords.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} commands, {} bytes)", self.commands, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut request = Request::new();
        request.command(&["GET", "k"]);
        request.begin(3);
        request.arg(b"SET");
        request.arg(b"k\r\n");
        request.arg(&[b'x'; 1234]);
        assert_eq!(request.len(), 2);
        let mut expected = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$1234\r\n".to_vec();
        expected.extend([b'x'; 1234]);
        expected.extend(b"\r\n");
        assert_eq!(request.bytes(), expected);
        assert!(!format!("{request:?}").contains("SET"));
    }

    #[test]
    fn empty_words_and_empty_commands() {
        let request = Request::of(&[""]);
        assert_eq!(request.bytes(), b"*1\r\n$0\r\n\r\n");
    }

    #[test]
    fn what_was_answered_is_not_asked_elsewhere() {
        let mut request = Request::new();
        request.command(&["GET", "a\r\nb"]);
        request.command(&["multi"]);
        request.command(&["SET", "k", ""]);
        request.command(&["EXEC"]);
        request.command(&["GET", "c"]);
        request.command(&["GET", "d"]);
        let (asking, places) = request.asking(&[true, false, true, false, false, true]);
        let mut expected = Request::new();
        for words in [
            &["ASKING"][..],
            &["GET", "a\r\nb"],
            &["ASKING"],
            &["multi"],
            &["SET", "k", ""],
            &["EXEC"],
            &["ASKING"],
            &["GET", "d"],
        ] {
            expected.command(words);
        }
        assert_eq!(asking.bytes(), expected.bytes());
        assert_eq!(places, [None, Some(0), None, Some(1), Some(2), Some(3), None, Some(5)]);
        assert!(request.asking(&[false; 6]).0.is_empty());
    }
}
