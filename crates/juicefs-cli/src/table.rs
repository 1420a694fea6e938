//! Tables in the form of JuiceFS (cli.md §1.5). They have dividers above the header, below it and at the end, centred
//! headers, and cells that stand to the right.

/// A cell and its colour, which is an ANSI foreground code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    color: Option<u8>,
}

impl Cell {
    /// A coloured cell.
    pub(crate) fn colored(text: String, color: Option<u8>) -> Self {
        Self { text, color }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), color: None }
    }
}

/// Draws the table. `left` is the column whose cells stand to the left.
pub(crate) fn draw(header: &[&str], rows: &[Vec<Cell>], left: Option<usize>) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let divider: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
    let mut out = format!("{divider}+\n");
    for (title, width) in header.iter().zip(&widths) {
        let spare = width - title.chars().count();
        out += &format!("| {}{title}{} ", " ".repeat(spare.div_ceil(2)), " ".repeat(spare / 2));
    }
    out += &format!("|\n{divider}+\n");
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.text.chars().count());
            let text = match cell.color {
                Some(color) => format!("\x1b[1;{color}m{}\x1b[0m", cell.text),
                None => cell.text.clone(),
            };
            out += &if left == Some(column) { format!("| {text}{padding} ") } else { format!("| {padding}{text} ") };
        }
        out += "|\n";
    }
    out + &divider + "+\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let rows = vec![
            vec!["Write big file".into(), "4.00 MiB/s".into()],
            vec!["Stat".into(), Cell::colored("9".into(), Some(32))],
        ];
        assert_eq!(
            draw(&["ITEM", "VALUE"], &rows, None),
            "+----------------+------------+\n\
             |      ITEM      |    VALUE   |\n\
             +----------------+------------+\n\
             | Write big file | 4.00 MiB/s |\n\
             |           Stat |          \x1b[1;32m9\x1b[0m |\n\
             +----------------+------------+\n"
        );
        assert!(draw(&["A"], &[vec!["é".into()], vec!["long".into()]], Some(0)).contains("| é    |\n"));
    }
}
