//! The table of `bench`, its colours, and what the mount counted meanwhile.

use std::{
    collections::HashMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use super::load::Case;
use crate::{
    config::{args::BenchArgs, values::bytes_text},
    table::{self, Cell},
};

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

/// `(values below this are red, above this green, costs below this are green, above this red)`.
fn ranges(kind: &str) -> (f64, f64, f64, f64) {
    match kind {
        "bigwr" | "bigrd" => (100.0, 200.0, 10.0, 50.0),
        "smallwr" => (12.5, 20.0, 50.0, 80.0),
        "smallrd" => (50.0, 100.0, 10.0, 20.0),
        "stat" => (20.0, 1000.0, 1.0, 5.0),
        "fuse" => (0.0, 0.0, 0.5, 2.0),
        "meta" => (0.0, 0.0, 2.0, 5.0),
        "delete" => (0.0, 0.0, 30.0, 100.0),
        "cachewr" => (0.0, 0.0, 10.0, 20.0),
        "cacherd" => (0.0, 0.0, 1.0, 5.0),
        _ => (0.0, 0.0, 100.0, 200.0),
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    title: &'static str,
    kind: &'static str,
    value: (f64, usize, &'static str),
    cost: (f64, &'static str),
}

impl Row {
    /// Bytes in time.
    pub(super) fn throughput(title: &'static str, kind: &'static str, case: &Case, threads: u32, seconds: f64) -> Self {
        let mebibytes = case.file_bytes as f64 / f64::from(1 << 20) * f64::from(case.files * threads);
        let cost = (seconds / f64::from(case.files), "s/file");
        Self { title, kind, value: (mebibytes / seconds, 2, "MiB/s"), cost }
    }

    /// Files in time.
    pub(super) fn files(title: &'static str, kind: &'static str, case: &Case, threads: u32, seconds: f64) -> Self {
        let cost = (seconds * 1000.0 / f64::from(case.files), "ms/file");
        Self { title, kind, value: (f64::from(case.files * threads) / seconds, 1, "files/s"), cost }
    }

    fn operations(title: &'static str, kind: &'static str, count: f64, seconds: f64) -> Self {
        let cost = if count > 0.0 { seconds * 1000.0 / count } else { 0.0 };
        Self { title, kind, value: (count, 0, "operations"), cost: (cost, "ms/op") }
    }

    fn cells(&self, threads: u32, colors: bool) -> Vec<Cell> {
        let (mut low, mut high, cheap, dear) = ranges(self.kind);
        if matches!(self.kind, "smallwr" | "smallrd" | "stat") {
            low *= f64::from(threads);
            high *= f64::from(threads);
        }
        let (value, precision, unit) = self.value;
        let (cost, cost_unit) = self.cost;
        let grade = |good: bool, fair: bool| {
            colors.then_some(if good {
                GREEN
            } else if fair {
                YELLOW
            } else {
                RED
            })
        };
        vec![
            self.title.into(),
            Cell::colored(format!("{value:.precision$} {unit}"), grade(value > high, value > low)),
            Cell::colored(format!("{cost:.2} {cost_unit}"), grade(cost < cheap, cost < dear)),
        ]
    }
}

/// The numbers of a mount's `.stats`.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats(HashMap<String, f64>);

impl Stats {
    /// The file that has them, if `root` is the root of a mount.
    pub(super) fn file(root: &Path) -> Option<PathBuf> {
        [".jfs.stats", ".stats"].iter().map(|name| root.join(name)).find(|path| path.exists())
    }

    /// Reads them; `None` when they cannot be read.
    pub(super) fn read(root: &Path) -> Option<Self> {
        std::fs::read_to_string(Self::file(root)?).ok().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.strip_prefix("juicefs_")?.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }
}

/// Everything that is printed at the end.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) stats: Option<(Stats, Stats)>,
    pub(super) threads: u32,
}

impl Report {
    /// The lines after "Benchmark finished!".
    pub(super) fn text(&self, args: &BenchArgs, colors: bool) -> String {
        let mut out = format!(
            "BlockSize: {}, BigFileSize: {}, SmallFileSize: {}, SmallFileCount: {}, NumThreads: {}\n",
            bytes_text(args.block_size),
            bytes_text(args.big_file_size),
            bytes_text(args.small_file_size),
            args.small_file_count,
            args.threads
        );
        let mut rows = self.rows.clone();
        if let Some((before, after)) = &self.stats {
            rows.extend(counted(before, after));
            let diff = |name: &str| after.get(name) - before.get(name);
            let uptime = diff("uptime");
            let cpu = if uptime > 0.0 { diff("cpu_usage") * 100.0 / uptime } else { 0.0 };
            let memory = after.get("memory") / f64::from(1 << 20);
            let paint = |text: String| if colors { format!("\x1b[1;{GREEN}m{text}\x1b[0m") } else { text };
            let (uptime, cpu, memory) =
                (paint(format!("{uptime:.1}")), paint(format!("{cpu:.1}")), paint(format!("{memory:.1}")));
            // Writing to a String cannot fail.
            let _ = writeln!(out, "Time used: {uptime} s, CPU: {cpu}%, Memory: {memory} MiB");
        }
        let cells: Vec<Vec<Cell>> = rows.iter().map(|row| row.cells(self.threads, colors)).collect();
        out + &table::draw(&["ITEM", "VALUE", "COST"], &cells, None)
    }
}

fn counted(before: &Stats, after: &Stats) -> Vec<Row> {
    let row = |title, kind, histogram: &str| {
        let diff = |suffix: &str| {
            let name = format!("{histogram}_{suffix}");
            after.get(&name) - before.get(&name)
        };
        Row::operations(title, kind, diff("total"), diff("sum"))
    };
    vec![
        row("FUSE operation", "fuse", "fuse_ops_durations_histogram_seconds"),
        row("Update meta", "meta", "transaction_durations_histogram_seconds"),
        row("Put object", "put", "object_request_durations_histogram_seconds_PUT"),
        row("Get object", "get", "object_request_durations_histogram_seconds_GET"),
        row("Delete object", "delete", "object_request_durations_histogram_seconds_DELETE"),
        row("Write into cache", "cachewr", "blockcache_write_hist_seconds"),
        row("Read from cache", "cacherd", "blockcache_read_hist_seconds"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> BenchArgs {
        BenchArgs {
            path: "/tmp".into(),
            block_size: 1 << 20,
            big_file_size: 32 << 20,
            small_file_size: 128 << 10,
            small_file_count: 20,
            threads: 2,
        }
    }

    fn rows() -> Vec<Row> {
        let big = Case::new("bigfile", 32 << 20, 1, 1 << 20);
        let small = Case::new("smallfile", 128 << 10, 20, 1 << 20);
        vec![Row::throughput("Write big file", "bigwr", &big, 2, 0.1), Row::files("Stat file", "stat", &small, 2, 0.01)]
    }

    #[test]
    fn the_known_table() {
        let text = Report { rows: rows(), stats: None, threads: 2 }.text(&args(), false);
        assert_eq!(
            text,
            "BlockSize: 1.0 MiB, BigFileSize: 32 MiB, SmallFileSize: 128 KiB, SmallFileCount: 20, NumThreads: 2\n\
             +----------------+----------------+--------------+\n\
             |      ITEM      |      VALUE     |     COST     |\n\
             +----------------+----------------+--------------+\n\
             | Write big file |   640.00 MiB/s |  0.10 s/file |\n\
             |      Stat file | 4000.0 files/s | 0.50 ms/file |\n\
             +----------------+----------------+--------------+\n"
        );
    }

    #[test]
    fn what_the_mount_counted_is_the_difference() {
        let stats = |n: f64| {
            Stats::parse(&format!(
                "juicefs_uptime {n}\njuicefs_cpu_usage {}\njuicefs_memory 10485760\nother 3\n\
                 juicefs_transaction_durations_histogram_seconds_total {n}\n\
                 juicefs_transaction_durations_histogram_seconds_sum {}\nbroken\n",
                n / 2.0,
                n / 1000.0
            ))
        };
        let report = Report { rows: Vec::new(), stats: Some((stats(4.0), stats(10.0))), threads: 1 };
        let text = report.text(&args(), false);
        assert!(text.contains("Time used: 6.0 s, CPU: 50.0%, Memory: 10.0 MiB\n"), "{text}");
        assert!(text.contains("|      Update meta | 6 operations | 1.00 ms/op |\n"), "{text}");
        assert!(text.contains("|       Put object | 0 operations | 0.00 ms/op |\n"), "{text}");
    }

    #[test]
    fn colours_grade() {
        let cells = rows()[1].cells(2, true);
        assert_eq!(cells[1], Cell::colored("4000.0 files/s".into(), Some(GREEN)));
        let slow = Case::new("smallfile", 1, 10, 1);
        let cells = Row::files("Stat file", "stat", &slow, 2, 10.0).cells(2, true);
        assert_eq!(cells[1], Cell::colored("2.0 files/s".into(), Some(RED)));
        assert_eq!(cells[2], Cell::colored("1000.00 ms/file".into(), Some(RED)));
    }
}
