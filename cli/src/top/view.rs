// SPDX-License-Identifier: GPL-2.0

//! How `top` looks: the same words on a screen and in plain text.

use super::sample::{Bound, Change, Key, Row, Sample};
use crate::out;
use crate::proc;
use crate::root::Root;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row as TableRow, Table};

/// The headings, in the order of [`Key::ALL`].
const HEADINGS: [&str; 9] = [
    "OPCODE", "PER SEC", "ERRORS", "GAVE UP", "MEAN", "P50", "P99", "MAX", "TOTAL",
];

/// All that is shown at a time.
pub struct View {
    /// Lines above the table.
    pub head: Vec<Note>,
    /// What happened.
    pub change: Change,
    /// What it is sorted by.
    pub sort: Key,
    /// The other way round?
    pub backwards: bool,
}

/// A line above the table, and whether it should worry.
pub struct Note {
    /// The line.
    pub text: String,
    /// Should it?
    pub bad: bool,
}

fn fine(text: String) -> Note {
    Note { text, bad: false }
}

/// A request that is on its way for so long is worth a colour.
const LONG_MS: u64 = 5_000;

fn bound(bound: Option<Bound>) -> String {
    match bound {
        None => "-".to_owned(),
        Some(Bound::Below(us)) => format!("<{}", round(us, true)),
        Some(Bound::AtLeast(us)) => format!(">={}", round(us, false)),
    }
}

/// A time in few characters, rounded so that what is said of it stays true.
fn round(us: u64, up: bool) -> String {
    let whole = |n: u64, unit: u64| if up { n.div_ceil(unit) } else { n / unit };
    let (unit, name) = match us {
        0..1000 => return format!("{us}us"),
        1000..1_000_000 => (1000, "ms"),
        _ => (1_000_000, "s"),
    };
    let tenths = whole(us, unit / 10);
    if tenths < 100 {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}{name}", whole(us, unit))
    }
}

/// A count in few characters.
fn few(n: u64) -> String {
    match n {
        0..10_000_000 => n.to_string(),
        10_000_000..10_000_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}G", n as f64 / 1e9),
    }
}

/// The words of a row.
fn words(row: &Row) -> Vec<String> {
    vec![
        out::safe(&row.opcode),
        match row.rate {
            Some(rate) if rate < 100.0 => format!("{rate:.1}"),
            Some(rate) => format!("{rate:.0}"),
            None => "-".to_owned(),
        },
        few(row.errors),
        few(row.given_up),
        row.mean_ns.map_or("-".to_owned(), out::short_time),
        bound(row.p50),
        bound(row.p99),
        bound(row.max),
        few(row.total),
    ]
}

impl View {
    /// Puts it together.
    pub fn new(root: &Root, sample: &Sample, change: Change, sort: Key, backwards: bool) -> Self {
        let mut change = change;
        change.sort(sort, backwards);
        let mut head = vec![fine(title(root, &change))];
        if sample.devices.is_empty() {
            head.push(Note {
                text: "no cache manager has a device open".to_owned(),
                bad: true,
            });
        }
        let whole = proc::is_whole(root);
        for device in &sample.devices {
            let command = proc::command_of(root, whole, device.pid);
            // The oldest comes first.
            let first = sample.requests.iter().find(|r| r.device == device.device);
            let mut text = format!(
                "{}: {} ({}), {}; {} pending, {} outstanding",
                out::safe(&device.device),
                device.pid,
                out::safe(proc::called(command.as_deref(), whole)),
                if device.mounted {
                    "mounted"
                } else {
                    "not mounted"
                },
                device.pending,
                device.outstanding,
            );
            if let Some(first) = first {
                text += &format!(
                    "; oldest {} for {} by {}",
                    out::safe(&first.opcode),
                    out::short_time(first.age_ms.saturating_mul(1_000_000)),
                    first.pid
                );
            }
            head.push(Note {
                text,
                bad: first.is_some_and(|r| r.age_ms >= LONG_MS),
            });
        }
        head.extend(files(&change).map(fine));
        View {
            head,
            change,
            sort,
            backwards,
        }
    }

    /// Plain text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for note in &self.head {
            text += &note.text;
            text.push('\n');
        }
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows.extend(self.change.rows.iter().map(words));
        for line in out::align("<>>>>>>>>", &rows) {
            text += &line;
            text.push('\n');
        }
        text
    }

    /// On a screen.
    pub fn draw(&self, frame: &mut Frame<'_>, colours: bool, footer: &str) {
        let style = |colour: Color| {
            if colours {
                Style::new().fg(colour)
            } else {
                Style::new()
            }
        };
        let [top, middle, bottom] = Layout::vertical([
            Constraint::Length(self.head.len() as u16 + 1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let head: Vec<Line<'_>> = self
            .head
            .iter()
            .enumerate()
            .map(|(n, note)| {
                let span = Span::raw(&note.text);
                Line::from(match (n, note.bad) {
                    (0, _) => span.style(Style::new().add_modifier(Modifier::BOLD)),
                    (_, true) => span.style(style(Color::Red).add_modifier(Modifier::BOLD)),
                    _ => span,
                })
            })
            .collect();
        frame.render_widget(Paragraph::new(head), top);

        // That makes eighty.
        let widths = [13, 8, 7, 8, 8, 7, 7, 7, 7].map(Constraint::Length);
        let right = |n: usize, word: String| {
            let line = Line::from(word);
            if n == 0 { line } else { line.right_aligned() }
        };
        let headings = Key::ALL
            .iter()
            .zip(HEADINGS)
            .enumerate()
            .map(|(n, (key, name))| {
                let mark = match (*key == self.sort, self.backwards) {
                    (true, false) => "v",
                    (true, true) => "^",
                    _ => "",
                };
                right(n, format!("{mark}{name}"))
            });
        let headings = TableRow::new(headings).style(Style::new().add_modifier(Modifier::REVERSED));
        let rows = self.change.rows.iter().map(|row| {
            let line = TableRow::new(words(row).into_iter().enumerate().map(|(n, w)| right(n, w)));
            if row.given_up > 0 {
                line.style(style(Color::Red))
            } else if row.calls == 0 {
                line.style(Style::new().add_modifier(Modifier::DIM))
            } else {
                line
            }
        });
        frame.render_widget(Table::new(rows, widths).header(headings), middle);
        frame.render_widget(
            Paragraph::new(Span::styled(
                footer,
                Style::new().add_modifier(Modifier::DIM),
            )),
            bottom,
        );
    }
}

fn title(root: &Root, change: &Change) -> String {
    let version = proc::module(root, "coda_rs").and_then(|m| m.version);
    let calls: u64 = change.rows.iter().fold(0, |n, r| n.saturating_add(r.calls));
    let span = match change.during {
        Some(during) if !during.is_zero() => format!(
            "{:.1} upcalls a second in the last {}",
            calls as f64 / during.as_secs_f64(),
            out::short_time(u64::try_from(during.as_nanos()).unwrap_or(u64::MAX))
        ),
        _ => format!("{} since it was loaded", out::count(calls, "upcall")),
    };
    let version = version.map_or(String::new(), |v| format!(" {}", out::safe(&v)));
    format!("coda_rs{version}: {span}")
}

fn files(change: &Change) -> [String; 2] {
    let file = |name: &str| change.files.get(name).copied().unwrap_or(0);
    let how: Vec<String> = ["write", "truncate", "store", "other"]
        .iter()
        .map(|how| format!("{} {how}", file(&format!("modified_{how}"))))
        .collect();
    [
        format!(
            "{}; closes: {} modified, {} not modified, {} only read",
            out::count(file("opens"), "open"),
            file("closes_modified"),
            file("closes_clean"),
            file("closes_read"),
        ),
        format!(
            "first modified by: {}; {}",
            how.join(", "),
            out::count(file("mappings"), "mapping")
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;
    use expect_test::expect;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};

    fn view() -> View {
        // The initial namespace, where 1234 is not.
        let dir = tempfile::tempdir().unwrap();
        let kthreadd = dir.path().join("proc/2");
        std::fs::create_dir_all(&kthreadd).unwrap();
        std::fs::write(kthreadd.join("status"), "Kthread:\t1\n").unwrap();
        let root = Root::new(dir.path());
        let at = Instant::now();
        let head = "# opcode calls errors given_up total_ns lt_1us lt_2us lt_4us lt_8us more\n";
        let sample = |secs, upcalls: &str, files: &str| Sample {
            at: at + Duration::from_secs(secs),
            upcalls: table::upcalls(&format!("{head}{upcalls}")),
            files: table::files(files),
            devices: table::devices("# device pid mounted pending outstanding\ncfs0 1234 1 0 2\n"),
            requests: table::requests(
                "# device unique opcode state age_ms pid fid\n\
                 cfs0 78 STORE outstanding 6100 11 0.0.0.0\n\
                 cfs0 77 OPEN_BY_FD outstanding 12 4321 0.0.0.0\n",
            ),
        };
        let old = sample(0, "LOOKUP 100 0 0 100000 100 0 0 0 0\n", "opens 1\n");
        let new = sample(
            2,
            "CLOSE 7 0 1 70000 0 0 0 6 1\nLOOKUP 500 300 0 900000 100 0 400 0 0\nVGET 0 0 0 0 0 0 0 0 0\n",
            "opens 12\ncloses_read 5\ncloses_clean 3\ncloses_modified 4\nmodified_store 1\n",
        );
        let change = Change::between(Some(&old), &new);
        View::new(&root, &new, change, Key::Rate, false)
    }

    #[test]
    fn as_text() {
        expect![[r#"
            coda_rs: 203.5 upcalls a second in the last 2.00 s
            cfs0: 1234 (gone), mounted; 0 pending, 2 outstanding; oldest STORE for 6.10 s by 11
            11 opens; closes: 4 modified, 3 not modified, 5 only read
            first modified by: 0 write, 0 truncate, 1 store, 0 other; 0 mappings
            OPCODE  PER SEC  ERRORS  GAVE UP     MEAN   P50    P99    MAX  TOTAL
            LOOKUP      200     300        0  2.00 us  <4us   <4us   <4us    500
            CLOSE       3.5       0        1  10.0 us  <8us  >=8us  >=8us      7
            VGET        0.0       0        0        -     -      -      -      0
        "#]]
        .assert_eq(&view().text());
    }

    #[test]
    fn on_a_screen() {
        let mut terminal = Terminal::new(TestBackend::new(80, 10)).unwrap();
        terminal
            .draw(|frame| view().draw(frame, false, "q quits"))
            .unwrap();
        let buffer = terminal.backend().to_string();
        expect![[r#"
            "coda_rs: 203.5 upcalls a second in the last 2.00 s                              "
            "cfs0: 1234 (gone), mounted; 0 pending, 2 outstanding; oldest STORE for 6.10 s by"
            "11 opens; closes: 4 modified, 3 not modified, 5 only read                       "
            "first modified by: 0 write, 0 truncate, 1 store, 0 other; 0 mappings            "
            "                                                                                "
            "OPCODE        vPER SEC  ERRORS  GAVE UP     MEAN     P50     P99     MAX   TOTAL"
            "LOOKUP             200     300        0  2.00 us    <4us    <4us    <4us     500"
            "CLOSE              3.5       0        1  10.0 us    <8us   >=8us   >=8us       7"
            "VGET               0.0       0        0        -       -       -       -       0"
            "q quits                                                                         "
        "#]]
        .assert_eq(&buffer);
    }

    #[test]
    fn bounds_stay_true() {
        for (us, below, at_least) in [
            (512, "512us", "512us"),
            (1024, "1.1ms", "1.0ms"),
            (8192, "8.2ms", "8.1ms"),
            (16384, "17ms", "16ms"),
            (524_288, "525ms", "524ms"),
            (4_194_304, "4.2s", "4.1s"),
        ] {
            assert_eq!(round(us, true), below);
            assert_eq!(round(us, false), at_least);
        }
        assert_eq!(
            (few(9_999_999), few(12_345_678)),
            ("9999999".into(), "12.3M".into())
        );
    }

    #[test]
    fn on_any_screen() {
        for (width, height) in [(1, 1), (3, 2), (20, 4), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal
                .draw(|frame| view().draw(frame, true, "q quits"))
                .unwrap();
        }
    }
}
