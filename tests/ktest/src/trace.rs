// SPDX-License-Identifier: GPL-2.0

//! Reading what the cache manager wrote down.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One line of the trace.
#[derive(Debug, Clone)]
pub struct Event(pub Value);

impl Event {
    /// A field that holds text, "" if there is none.
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or("")
    }

    /// A field that holds a number.
    pub fn number(&self, field: &str) -> Option<i64> {
        self.0[field].as_i64()
    }

    /// The request's number.
    pub fn unique(&self) -> i64 {
        self.number("unique").unwrap_or(-1)
    }

    /// Whether this is the arrival of a request of that name.
    pub fn is_request(&self, op: &str) -> bool {
        self.text("ev") == "in" && self.text("op") == op
    }

    /// Whether this is a reply to a request of that name.
    pub fn is_reply(&self, op: &str) -> bool {
        self.text("ev") == "out" && self.text("op") == op
    }
}

/// Follows a trace from a certain point on.
pub struct Watch {
    path: PathBuf,
    file: BufReader<File>,
    /// The beginning of a line whose end was not there yet.
    partial: Vec<u8>,
    /// The line that the present end was in has not been passed over yet.
    inside: bool,
    /// All that has been seen so far.
    pub events: Vec<Event>,
}

impl Watch {
    /// Begins at the trace's present end.
    pub fn new(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        // That may be inside of a line: one is written at once, but a file grows page by page.
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(1)))?;
        Ok(Watch {
            path: path.to_owned(),
            file: BufReader::new(file),
            partial: Vec::new(),
            inside: end > 0,
            events: Vec::new(),
        })
    }

    /// Reads what is new, and keeps it.
    pub fn update(&mut self) -> Result<&[Event]> {
        while let Some(event) = self.read()? {
            self.events.push(event);
        }
        Ok(&self.events)
    }

    /// Reads the next event, if it is there, and does not keep it: there may be millions.
    pub fn read(&mut self) -> Result<Option<Event>> {
        self.file.read_until(b'\n', &mut self.partial)?;
        if !self.partial.ends_with(b"\n") {
            return Ok(None);
        }
        if self.inside {
            self.inside = false;
            self.partial.clear();
            return self.read();
        }
        let value = serde_json::from_slice(&self.partial)
            .with_context(|| format!("{}: bad line", self.path.display()))?;
        self.partial.clear();
        Ok(Some(Event(value)))
    }

    /// Waits until the events fulfil a condition.
    pub fn wait<T>(
        &mut self,
        what: &str,
        patience: Duration,
        done: impl Fn(&[Event]) -> Option<T>,
    ) -> Result<T> {
        crate::wait_for(what, patience, || Ok(done(self.update()?)))
    }

    /// The requests of one name about one fid; of any fid if that is "".
    pub fn requests(&mut self, op: &str, fid: &str) -> Result<Vec<Event>> {
        Ok(self
            .update()?
            .iter()
            .filter(|e| e.is_request(op) && (fid.is_empty() || e.text("fid") == fid))
            .cloned()
            .collect())
    }

    /// How many opens of `fid` the kernel was told to have succeeded, and took
    /// the answer.
    pub fn opens(&mut self, fid: &str) -> Result<usize> {
        let events = self.update()?;
        Ok(events
            .iter()
            .filter(|e| e.is_request("OPEN_BY_FD") && e.text("fid") == fid)
            .filter(|request| {
                let about =
                    |e: &&Event| e.unique() == request.unique() && e.text("op") == "OPEN_BY_FD";
                events
                    .iter()
                    .filter(about)
                    .any(|e| e.text("ev") == "out" && e.number("result") == Some(0))
                    && !events
                        .iter()
                        .filter(about)
                        .any(|e| e.text("ev") == "undone")
            })
            .count())
    }
}
