//! Talks with whoever sits at the terminal, by questions and bars of progress.

use std::io::{BufRead, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Asks `question [y/N]` until the answer is clear. The end of input means no.
///
/// # Errors
/// When the terminal cannot be read or written.
pub(crate) fn confirm(question: &str) -> std::io::Result<bool> {
    ask(question, &mut std::io::stdin().lock(), &mut std::io::stdout())
}

fn ask(question: &str, input: &mut dyn BufRead, output: &mut dyn Write) -> std::io::Result<bool> {
    loop {
        write!(output, "{question} [y/N]: ")?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        match line.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "" | "n" | "no" => return Ok(false),
            _ => {}
        }
    }
}

/// Prints a result with a newline. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Whether progress bars are wanted: standard output is a terminal and DISPLAY_PROGRESSBAR is not `false`.
pub(crate) fn shows_progress() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("DISPLAY_PROGRESSBAR").is_none_or(|value| value != "false")
}

/// Whether standard output shows colours.
pub(crate) fn shows_colors() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A counter for work without a known end. It is hidden where progress is not wanted.
pub(crate) fn counter(name: &str) -> ProgressBar {
    let target = if shows_progress() { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg:>18}: {pos} {spinner} {per_sec} used: {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::with_draw_target(None, target).with_style(style).with_message(name.to_owned())
}

/// A bar of `total` steps. It is hidden where progress is not wanted.
pub(crate) fn progress(name: &str, total: u64) -> ProgressBar {
    let target = if shows_progress() { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg:>18}: {pos}/{len} [{bar:40}] {per_sec} used: {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let said = |text: &str| ask("Proceed anyway?", &mut text.as_bytes(), &mut Vec::new()).expect("no I/O fails");
        assert!(said("y\n") && said("YES\n") && said("maybe\nyes\n"));
        assert!(!said("\n") && !said("n\n") && !said("no\n") && !said("") && !said("what\n"));
        let mut shown = Vec::new();
        ask("Proceed anyway?", &mut "x\nn\n".as_bytes(), &mut shown).expect("no I/O fails");
        assert_eq!(shown, b"Proceed anyway? [y/N]: Proceed anyway? [y/N]: ");
    }
}
