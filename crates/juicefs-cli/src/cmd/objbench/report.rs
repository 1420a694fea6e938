//! The tables of `objbench`.

use super::{
    functional::{Case, Verdict},
    load::{Done, Load, Step},
};
use crate::{
    config::{args::ObjbenchArgs, values::bytes_text},
    table::{self, Cell},
};

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
/// How many characters of an error the table shows.
const SHOWN: usize = 45;

/// The table of the tests.
pub(super) fn of_cases(cases: &[Case], colors: bool) -> String {
    let rows: Vec<Vec<Cell>> = cases.iter().map(|case| row(case, colors)).collect();
    table::draw(&["CATEGORY", "TEST", "RESULT"], &rows, None)
}

fn row(case: &Case, colors: bool) -> Vec<Cell> {
    let (text, color) = match &case.verdict {
        Verdict::Pass => ("pass".to_owned(), GREEN),
        Verdict::NotSupported => ("not support".to_owned(), YELLOW),
        Verdict::Failed(why) => (short(why), RED),
        Verdict::Warning(why) => (short(why), YELLOW),
    };
    vec![case.category.into(), case.title.into(), Cell::colored(text, colors.then_some(color))]
}

/// The beginning of an error, on one line.
fn short(why: &str) -> String {
    let line = why.replace(['\n', '\r', '\t'], " ");
    if line.chars().count() <= SHOWN {
        return line;
    }
    line.chars().take(SHOWN).chain("...".chars()).collect()
}

/// What the benchmark was run with.
pub(super) fn parameters(args: &ObjbenchArgs, threads: u32) -> String {
    format!(
        "block-size: {}, big-object-size: {}, small-object-size: {}, small-objects: {}, NumThreads: {threads}",
        bytes_text(args.block_size),
        bytes_text(args.big_object_size),
        bytes_text(args.small_object_size),
        args.small_objects,
    )
}

/// `(values below this are red, above this green, costs below this are green, above this red)`.
fn ranges(step: Step) -> (f64, f64, f64, f64) {
    match step {
        Step::Upload | Step::Download => (100.0, 150.0, 50.0, 150.0),
        Step::List => (1000.0, 10_000.0, 100.0, 200.0),
        _ => (10.0, 30.0, 30.0, 100.0),
    }
}

/// The table of the benchmark, filled step by step.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<(Step, Numbers)>,
}

enum Numbers {
    Measured { value: f64, unit: &'static str, cost_ms: f64, per: &'static str },
    Word(&'static str, u8),
}

impl Report {
    /// Takes note of how a step ended.
    pub(super) fn add(&mut self, step: Step, load: &Load, done: Done) {
        let numbers = match done {
            Done::Seconds(seconds) => measured(step, load, seconds.max(1e-9)),
            Done::NotSupported => Numbers::Word("not support", YELLOW),
            Done::Skipped => Numbers::Word("skipped", YELLOW),
            Done::Failed => Numbers::Word("failed", RED),
        };
        self.rows.push((step, numbers));
    }

    /// The table, in the order that users know.
    pub(super) fn text(&self, colors: bool) -> String {
        const ORDER: [Step; 10] = [
            Step::Upload,
            Step::Download,
            Step::PutSmall,
            Step::GetSmall,
            Step::List,
            Step::Head,
            Step::Delete,
            Step::SetMode,
            Step::SetOwner,
            Step::SetTime,
        ];
        let rows = ORDER.iter().filter_map(|wanted| self.rows.iter().find(|(step, _)| step == wanted));
        let cells: Vec<Vec<Cell>> = rows.map(|(step, numbers)| cells(*step, numbers, colors)).collect();
        table::draw(&["ITEM", "VALUE", "COST"], &cells, None)
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn measured(step: Step, load: &Load, seconds: f64) -> Numbers {
    let count = load.count(step) as f64;
    let (value, unit) = match step {
        Step::Upload | Step::Download => {
            (load.block_bytes() as f64 / f64::from(1 << 20) * f64::from(load.blocks) / seconds, "MiB/s")
        }
        Step::List => (load.listed() as f64 * count / seconds, "objects/s"),
        _ => (count / seconds, "objects/s"),
    };
    let cost_ms = f64::from(load.threads) * seconds * 1000.0 / count;
    Numbers::Measured { value, unit, cost_ms, per: if step == Step::List { "op" } else { "object" } }
}

fn cells(step: Step, numbers: &Numbers, colors: bool) -> Vec<Cell> {
    let grade = |good: bool, fair: bool| match (good, fair) {
        (true, _) => GREEN,
        (false, true) => YELLOW,
        (false, false) => RED,
    };
    match numbers {
        Numbers::Word(word, color) => {
            let cell = Cell::colored((*word).to_owned(), colors.then_some(*color));
            vec![step.title().into(), cell.clone(), cell]
        }
        Numbers::Measured { value, unit, cost_ms, per } => {
            let (low, high, cheap, dear) = ranges(step);
            let value_color = colors.then_some(grade(*value > high, *value > low));
            let cost_color = colors.then_some(grade(*cost_ms < cheap, *cost_ms < dear));
            vec![
                step.title().into(),
                Cell::colored(format!("{value:.2} {unit}"), value_color),
                Cell::colored(format!("{cost_ms:.2} ms/{per}"), cost_color),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_tables() {
        let case = |category, title, verdict| Case { category, title, verdict };
        let long = "an error that is much longer than what a table should show of it";
        let text = of_cases(
            &[
                case("basic", "put an object", Verdict::Pass),
                case("basic", "get an object", Verdict::Failed(long.into())),
                case("sync", "change mtime", Verdict::NotSupported),
            ],
            false,
        );
        assert_eq!(
            text,
            "+----------+---------------+--------------------------------------------------+\n\
             | CATEGORY |      TEST     |                      RESULT                      |\n\
             +----------+---------------+--------------------------------------------------+\n\
             |    basic | put an object |                                             pass |\n\
             |    basic | get an object | an error that is much longer than what a tabl... |\n\
             |     sync |  change mtime |                                      not support |\n\
             +----------+---------------+--------------------------------------------------+\n"
        );
    }

    #[test]
    fn what_was_not_measured_has_a_word() {
        let mut report = Report::default();
        report.rows.push((Step::SetTime, Numbers::Word("not support", YELLOW)));
        let fast = Numbers::Measured { value: 200.0, unit: "MiB/s", cost_ms: 20.0, per: "object" };
        report.rows.push((Step::Upload, fast));
        assert_eq!(
            report.text(false),
            "+----------------+--------------+-----------------+\n\
             |      ITEM      |     VALUE    |       COST      |\n\
             +----------------+--------------+-----------------+\n\
             | upload objects | 200.00 MiB/s | 20.00 ms/object |\n\
             |   update mtime |  not support |     not support |\n\
             +----------------+--------------+-----------------+\n"
        );
        assert!(report.text(true).contains("\x1b[1;32m200.00 MiB/s\x1b[0m"));
    }
}
