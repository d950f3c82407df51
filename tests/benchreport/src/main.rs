// SPDX-License-Identifier: GPL-2.0

//! What `make bench` has measured: a table to read, a file for programs, and a chart.

mod profile;

use anyhow::{Context, Result, bail};
use clap::Parser;
use plotters::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What `make bench` has measured.
#[derive(Parser)]
struct Args {
    /// Where the output of the guests is: bench-c, bench-ours, scale-c and scale-ours.
    results: PathBuf,
    /// Which kernel it was.
    #[arg(long)]
    kernel: String,
    /// It is the output of make profile: profile-c and profile-ours, and what the plugin left.
    #[arg(long)]
    profile: bool,
}

/// What is wanted of an operation: at most so many times the cost.
struct Goal {
    operation: &'static str,
    to_c: Option<f64>,
    to_bare: Option<f64>,
}

const fn goal(operation: &'static str, to_c: Option<f64>, to_bare: Option<f64>) -> Goal {
    Goal {
        operation,
        to_c,
        to_bare,
    }
}

const GOALS: &[Goal] = &[
    goal("stat_deep", Some(0.60), Some(1.15)),
    goal("read_4096", Some(0.45), Some(1.15)),
    goal("write_4096", Some(0.45), Some(1.15)),
    goal("read_1", Some(0.35), Some(1.5)),
    goal("write_1", Some(0.35), Some(1.5)),
    goal("read_1048576", Some(0.95), Some(1.01)),
    goal("open_close_read", Some(0.80), None),
    goal("open_close_write", Some(0.80), None),
    goal("getattr_upcall", Some(0.80), None),
    goal("getdents_1000", Some(0.70), None),
    goal("fault_write_next", Some(1.00), Some(1.02)),
    goal("mmap_munmap", Some(1.05), None),
    goal("fault_write_first", Some(1.05), None),
];

/// An upcall while many others wait, and the same by itself: so many times the cost at most.
const OUTSTANDING: (&str, &str, f64) = ("getattr_outstanding", "getattr_upcall", 1.05);

/// How many times as much two processors are to do as one.
const SCALES: f64 = 1.8;

/// What an operation costs, in instructions of the kernel.
#[derive(Serialize, Default)]
struct Row {
    operation: String,
    c: Option<u64>,
    coda_rs: Option<u64>,
    bare: Option<u64>,
    /// With the daemon's own: it has no part in what is shown of it.
    fuse: Option<u64>,
    to_c: Option<f64>,
    to_bare: Option<f64>,
    goal_to_c: Option<f64>,
    goal_to_bare: Option<f64>,
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        let pairs = [
            (self.to_c, self.goal_to_c),
            (self.to_bare, self.goal_to_bare),
        ];
        let known = pairs.into_iter().filter_map(|(is, goal)| {
            // To two places, as the goals are given.
            Some((is? * 100.0).round() <= goal? * 100.0)
        });
        known.reduce(|one, other| one && other)
    }
}

/// How many times as much two processors do as one.
#[derive(Serialize)]
struct Scale {
    operation: String,
    c: Option<f64>,
    coda_rs: Option<f64>,
    bare: Option<f64>,
    goal: f64,
}

#[derive(Serialize)]
struct Outstanding {
    c: Option<f64>,
    coda_rs: Option<f64>,
    goal: f64,
}

#[derive(Serialize)]
struct Report {
    kernel: String,
    unit: &'static str,
    operations: Vec<Row>,
    /// What an upcall costs while many others wait, to what it costs by itself.
    outstanding: Outstanding,
    two_processors: Vec<Scale>,
}

/// Lines of one kind: what was measured where, in their order.
struct Lines(Vec<(String, String, Vec<u64>)>);

impl Lines {
    fn read(path: &Path, kind: &str) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut lines = Vec::new();
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [first, operation, place, numbers @ ..] = words.as_slice() else {
                continue;
            };
            if *first != kind {
                continue;
            }
            let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>();
            let numbers = numbers.with_context(|| format!("{}: {line}", path.display()))?;
            lines.push(((*operation).to_owned(), (*place).to_owned(), numbers));
        }
        if lines.is_empty() {
            bail!("{}: nothing was measured", path.display());
        }
        Ok(Lines(lines))
    }

    fn operations(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (operation, ..) in &self.0 {
            if !names.contains(operation) {
                names.push(operation.clone());
            }
        }
        names
    }

    fn at(&self, operation: &str, place: &str) -> Option<&[u64]> {
        let found = self.0.iter().find(|l| l.0 == operation && l.1 == place);
        found.map(|(_, _, numbers)| numbers.as_slice())
    }
}

fn ratio(one: Option<u64>, other: Option<u64>) -> Option<f64> {
    Some(one? as f64 / other.filter(|n| *n > 0)? as f64)
}

fn rows(c: &Lines, ours: &Lines) -> Vec<Row> {
    // The second number is the kernel's part.
    let kernel = |lines: &Lines, operation: &str, place: &str| {
        lines
            .at(operation, place)
            .and_then(|numbers| numbers.get(1).copied())
    };
    ours.operations()
        .into_iter()
        .map(|operation| {
            let goal = GOALS.iter().find(|goal| goal.operation == operation);
            let theirs = kernel(c, &operation, "coda");
            let coda_rs = kernel(ours, &operation, "coda");
            let bare = kernel(ours, &operation, "bare");
            Row {
                c: theirs,
                coda_rs,
                bare,
                fuse: kernel(ours, &operation, "fuse"),
                to_c: ratio(coda_rs, theirs),
                to_bare: ratio(coda_rs, bare),
                goal_to_c: goal.and_then(|goal| goal.to_c),
                goal_to_bare: goal.and_then(|goal| goal.to_bare),
                operation,
            }
        })
        .collect()
}

fn outstanding(rows: &[Row]) -> Outstanding {
    let (many, one, goal) = OUTSTANDING;
    let [many, one] = [many, one].map(|name| rows.iter().find(|row| row.operation == name));
    let of = |cost: fn(&Row) -> Option<u64>| ratio(cost(many?), cost(one?));
    Outstanding {
        c: of(|row| row.c),
        coda_rs: of(|row| row.coda_rs),
        goal,
    }
}

fn scales(c: &Lines, ours: &Lines) -> Vec<Scale> {
    // Twice the work, in how much of the time.
    let gain = |lines: &Lines, operation: &str, place: &str| {
        let [one, two] = lines.at(operation, place)? else {
            return None;
        };
        ratio(Some(2 * one), Some(*two))
    };
    ours.operations()
        .into_iter()
        .map(|operation| Scale {
            c: gain(c, &operation, "coda"),
            coda_rs: gain(ours, &operation, "coda"),
            bare: gain(ours, &operation, "bare"),
            goal: SCALES,
            operation,
        })
        .collect()
}

fn table(report: &Report) -> Result<String> {
    let mut text = String::new();
    let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let times = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.2}"));
    let goal = |is: Option<f64>, goal: Option<f64>| match goal {
        Some(goal) => format!("{} ({goal:.2})", times(is)),
        None => times(is),
    };
    writeln!(
        text,
        "{:<19} {:>10} {:>10} {:>10} {:>10}  {:<12} {:<12}",
        "instructions", "C", "coda_rs", "bare", "FUSE", "to C (goal)", "to bare (goal)"
    )?;
    for row in &report.operations {
        writeln!(
            text,
            "{:<19} {:>10} {:>10} {:>10} {:>10}  {:<12} {:<12} {}",
            row.operation,
            number(row.c),
            number(row.coda_rs),
            number(row.bare),
            number(row.fuse),
            goal(row.to_c, row.goal_to_c),
            goal(row.to_bare, row.goal_to_bare),
            match row.is_met() {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            }
        )?;
    }
    writeln!(text)?;
    let Outstanding { c, coda_rs, goal } = &report.outstanding;
    writeln!(
        text,
        "an upcall among many to one alone: C {}, coda_rs {} (goal: {goal})",
        times(*c),
        times(*coda_rs)
    )?;
    writeln!(text)?;
    writeln!(
        text,
        "{:<19} {:>10} {:>10} {:>10}  (goal: {SCALES})",
        "two CPUs to one", "C", "coda_rs", "bare"
    )?;
    for scale in &report.two_processors {
        writeln!(
            text,
            "{:<19} {:>10} {:>10} {:>10}",
            scale.operation,
            times(scale.c),
            times(scale.coda_rs),
            times(scale.bare)
        )?;
    }
    Ok(text)
}

/// Bars: each operation's cost on everything else, with that on the C module for one.
fn chart(report: &Report, path: &Path) -> Result<()> {
    let rows: Vec<_> = report
        .operations
        .iter()
        .filter(|row| row.c.is_some_and(|c| c > 0))
        .collect();
    let (bars, gap) = (3, 1);
    let height = (rows.len() * (bars + gap)) as i32;
    let picture = SVGBackend::new(path, (900, 60 + 14 * height as u32)).into_drawing_area();
    picture.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&picture)
        .caption(
            format!(
                "Instructions, with the C module's for 1 ({})",
                report.kernel
            ),
            ("sans-serif", 16),
        )
        .margin(10)
        .x_label_area_size(24)
        .y_label_area_size(150)
        .build_cartesian_2d(0f64..1.6, 0..height)?;
    let names: BTreeMap<i32, &str> = rows
        .iter()
        .enumerate()
        .map(|(n, row)| {
            (
                height - (n * (bars + gap)) as i32 - 2,
                row.operation.as_str(),
            )
        })
        .collect();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(height as usize)
        .y_label_formatter(&|y| {
            names
                .get(y)
                .map_or(String::new(), |name| (*name).to_owned())
        })
        .x_desc("")
        .draw()?;
    type Of = fn(&Row) -> Option<u64>;
    let kinds: [(&str, RGBColor, Of); 3] = [
        ("coda_rs", RGBColor(0, 90, 160), |row| row.coda_rs),
        ("bare file", RGBColor(150, 150, 150), |row| row.bare),
        ("FUSE passthrough", RGBColor(220, 140, 0), |row| row.fuse),
    ];
    for (at, (name, colour, of)) in kinds.into_iter().enumerate() {
        let bars = rows.iter().enumerate().filter_map(|(n, row)| {
            let top = height - (n * (bars + gap) + at) as i32;
            let long = ratio(of(row), row.c)?;
            Some(Rectangle::new(
                [(0.0, top), (long.min(1.6), top - 1)],
                colour.filled(),
            ))
        });
        chart
            .draw_series(bars)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
    }
    chart.draw_series(LineSeries::new([(1.0, 0), (1.0, height)], &BLACK))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    picture.present()?;
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let file = |name: &str| args.results.join(name);
    if args.profile {
        let text = profile::report(&args.results, &args.kernel)?;
        fs::write(file("profile.txt"), &text)?;
        return Ok(());
    }
    let (c, ours) = (
        Lines::read(&file("bench-c"), "bench")?,
        Lines::read(&file("bench-ours"), "bench")?,
    );
    let (c_scales, our_scales) = (
        Lines::read(&file("scale-c"), "scale")?,
        Lines::read(&file("scale-ours"), "scale")?,
    );
    let operations = rows(&c, &ours);
    let report = Report {
        kernel: args.kernel,
        unit: "instructions of the kernel for one operation",
        outstanding: outstanding(&operations),
        operations,
        two_processors: scales(&c_scales, &our_scales),
    };
    fs::write(
        file("bench.json"),
        serde_json::to_string_pretty(&report)? + "\n",
    )?;
    let table = table(&report)?;
    fs::write(file("bench.txt"), &table)?;
    chart(&report, &file("bench.svg"))?;
    print!("{table}");
    Ok(())
}
