//! Commands as they go over the wire.

use std::fmt;

/// One or more commands, packed, that are sent in one piece and whose replies come back in order.
#[derive(Clone, Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    commands: usize,
}

impl Request {
    /// Without commands yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Without commands yet, with room for this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), commands: 0 }
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

    /// The same commands for a node that a key is moving to: it serves each only right after `ASKING`, which stays valid
    /// throughout a transaction. Also returns which replies belong to commands of this request.
    pub(super) fn asking(&self) -> (Self, Vec<bool>) {
        let mut asking = Self::with_capacity(self.bytes.len() + 32 * self.commands);
        let mut wanted = Vec::new();
        let mut in_transaction = false;
        let mut rest = self.bytes.as_slice();
        while let Some(args) = take_header(&mut rest) {
            let mut words = Vec::with_capacity(args);
            for _ in 0..args {
                let Some(word) = take_header(&mut rest).and_then(|length| rest.split_off(..length)) else { break };
                words.push(word);
                rest = rest.get(2..).unwrap_or_default();
            }
            if !in_transaction {
                asking.command(&["ASKING"]);
                wanted.push(false);
            }
            asking.command(&words);
            wanted.push(true);
            match words.first() {
                Some(name) if name.eq_ignore_ascii_case(b"MULTI") => in_transaction = true,
                Some(name) if name.eq_ignore_ascii_case(b"EXEC") => in_transaction = false,
                _ => {}
            }
        }
        (asking, wanted)
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
    fn asking_precedes_each_command_outside_of_transactions() {
        let mut request = Request::new();
        request.command(&["GET", "a\r\nb"]);
        request.command(&["multi"]);
        request.command(&["SET", "k", ""]);
        request.command(&["EXEC"]);
        request.command(&["GET", "c"]);
        let (asking, wanted) = request.asking();
        let mut expected = Request::new();
        for words in [
            &["ASKING"][..],
            &["GET", "a\r\nb"],
            &["ASKING"],
            &["multi"],
            &["SET", "k", ""],
            &["EXEC"],
            &["ASKING"],
            &["GET", "c"],
        ] {
            expected.command(words);
        }
        assert_eq!(asking.bytes(), expected.bytes());
        assert_eq!(asking.len(), 8);
        assert_eq!(wanted, [false, true, false, true, true, true, false, true]);
    }
}
