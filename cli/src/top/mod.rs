// SPDX-License-Identifier: GPL-2.0

//! `coda-rs top`: what goes on, as it goes on.

mod sample;
mod view;

use crate::out;
use crate::proc::Hidden;
use crate::root::Root;
use anyhow::{Context, Result, bail};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use sample::{Change, Key, Sample};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use view::View;

/// How it is shown.
#[derive(Args, Debug)]
pub struct Options {
    /// Print once what there was since the module was loaded
    #[arg(long, conflicts_with_all = ["batch", "number"])]
    pub once: bool,
    /// Print plain text, one table for each interval, for a pipe
    #[arg(long, short)]
    pub batch: bool,
    /// End after so many intervals
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub number: Option<u64>,
    /// How long an interval is, in seconds
    #[arg(long, short, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    pub delay: Duration,
    /// What the table is sorted by
    #[arg(long, short, value_enum, default_value = "rate")]
    pub sort: Key,
}

fn interval(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|s| (0.1..=86_400.0).contains(s))
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| "it is a number of seconds, from 0.1 to 86400".to_owned())
}

/// A signal that asks us to end sets this.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

fn look(root: &Root) -> Result<Sample> {
    Sample::take(root).map_err(|why| match why {
        Hidden::NeedsRoot => anyhow::anyhow!("top {why}: try `sudo coda-rs top`"),
        why => why.into(),
    })
}

/// `coda-rs top`.
pub fn run(root: &Root, options: &Options) -> Result<()> {
    if options.once {
        let sample = look(root)?;
        let view = View::new(
            root,
            &sample,
            Change::between(None, &sample),
            options.sort,
            false,
        );
        let mut out = out::stdout();
        out.write_all(view.text().as_bytes())?;
        out.flush()?;
        return Ok(());
    }
    let dumb = std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb");
    if options.batch {
        return batch(root, options);
    }
    if !out::on_terminal() || dumb {
        bail!(
            "standard output is no terminal that can be drawn on; --batch or --once print plain text"
        );
    }
    screen(root, options)
}

fn batch(root: &Root, options: &Options) -> Result<()> {
    let mut out = out::stdout();
    let mut before = look(root)?;
    let mut left = options.number;
    loop {
        // A signal ends it as it ends any other program: nothing is to be put back.
        std::thread::sleep(options.delay);
        let now = look(root)?;
        let change = Change::between(Some(&before), &now);
        let view = View::new(root, &now, change, options.sort, false);
        out.write_all(view.text().as_bytes())?;
        left = left.map(|n| n.saturating_sub(1));
        if left == Some(0) {
            out.flush()?;
            return Ok(());
        }
        out.write_all(b"\n")?;
        out.flush()?;
        before = now;
    }
}

/// Puts the terminal back as it was, whatever happens.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn new() -> Result<Self> {
        // It also sets a panic hook that puts the terminal back.
        Ok(Self(
            ratatui::try_init().context("the terminal cannot be drawn on")?,
        ))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

/// What is on the screen, and how.
struct State {
    before: Option<Sample>,
    now: Sample,
    sort: Key,
    backwards: bool,
    paused: bool,
    /// Since the module was loaded, not since the last look?
    totals: bool,
    /// Why the last look failed.
    trouble: Option<String>,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Look,
    Draw,
    Nothing,
}

impl State {
    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) -> Wish {
        match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char(' ') => return Wish::Look,
            KeyCode::Right | KeyCode::Char('>') => self.sort = self.sort.step(1),
            KeyCode::Left | KeyCode::Char('<') => self.sort = self.sort.step(-1),
            KeyCode::Char('r') => self.backwards = !self.backwards,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('t') => self.totals = !self.totals,
            _ => return Wish::Nothing,
        }
        Wish::Draw
    }

    fn look(&mut self, root: &Root) {
        match Sample::take(root) {
            Ok(now) => {
                self.trouble = None;
                self.before = Some(std::mem::replace(&mut self.now, now));
            }
            // It may be loaded again.
            Err(why) => self.trouble = Some(why.to_string()),
        }
    }

    fn view(&self, root: &Root) -> View {
        let before = self.before.as_ref().filter(|_| !self.totals);
        let change = Change::between(before, &self.now);
        let mut view = View::new(root, &self.now, change, self.sort, self.backwards);
        if let Some(trouble) = &self.trouble {
            view.head = vec![view::Note {
                text: trouble.clone(),
                bad: true,
            }];
            view.change.rows.clear();
        }
        view
    }

    fn footer(&self, delay: Duration) -> String {
        format!(
            "q quits  < > sort  r reverses  t {}  p {}  space now  every {} s",
            if self.totals {
                "last interval"
            } else {
                "since loaded"
            },
            if self.paused {
                "goes on (PAUSED)"
            } else {
                "pauses"
            },
            delay.as_secs_f64()
        )
    }
}

fn screen(root: &Root, options: &Options) -> Result<()> {
    let mut state = State {
        before: None,
        now: look(root)?,
        sort: options.sort,
        backwards: false,
        paused: false,
        totals: false,
        trouble: None,
    };
    let end = interrupted()?;
    let colours = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut screen = Screen::new()?;
    let mut left = options.number;
    let mut next = Instant::now() + options.delay;
    let mut draw = true;
    while !end.load(Ordering::Relaxed) {
        if draw {
            let view = state.view(root);
            let footer = state.footer(options.delay);
            screen.0.draw(|frame| view.draw(frame, colours, &footer))?;
        }
        draw = false;
        // Not for longer than one waits for a signal to be heeded.
        let wait = next
            .saturating_duration_since(Instant::now())
            .min(Duration::from_millis(200));
        if event::poll(wait)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    match state.key(key.code, key.modifiers) {
                        Wish::Quit => break,
                        Wish::Look => next = Instant::now(),
                        Wish::Draw => draw = true,
                        Wish::Nothing => {}
                    }
                }
                Event::Resize(..) => draw = true,
                _ => {}
            }
        }
        if Instant::now() >= next {
            if left == Some(0) {
                break;
            }
            if !state.paused {
                state.look(root);
                draw = true;
                left = left.map(|n| n.saturating_sub(1));
            }
            next = Instant::now() + options.delay;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e9", "2s"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys() {
        let mut state = State {
            before: None,
            now: Sample {
                at: Instant::now(),
                upcalls: Vec::new(),
                files: Default::default(),
                devices: Vec::new(),
                requests: Vec::new(),
            },
            sort: Key::Rate,
            backwards: false,
            paused: false,
            totals: false,
            trouble: None,
        };
        let none = KeyModifiers::NONE;
        assert_eq!(state.key(KeyCode::Char('q'), none), Wish::Quit);
        assert_eq!(
            state.key(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Wish::Quit
        );
        assert_eq!(state.key(KeyCode::Char('c'), none), Wish::Nothing);
        assert_eq!(state.key(KeyCode::Char('>'), none), Wish::Draw);
        assert_eq!(state.sort, Key::Errors);
        state.key(KeyCode::Char('r'), none);
        state.key(KeyCode::Char('p'), none);
        state.key(KeyCode::Char('t'), none);
        assert!(state.backwards && state.paused && state.totals);
        assert_eq!(state.key(KeyCode::Char(' '), none), Wish::Look);
    }
}
