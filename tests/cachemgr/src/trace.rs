// SPDX-License-Identifier: GPL-2.0

//! What was said, one JSON object a line.
//!
//! `"ev":"in"` is a request as it came, written before anything is done about
//! it. `"ev":"out"` is the reply, written before it is sent; so whoever sees
//! the effect of a reply finds it in the trace. `"ev":"sent"` follows only if
//! the kernel did not take the reply, `"ev":"dropped"` if none was sent.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// Where the lines go.
pub struct Trace {
    out: Mutex<Option<File>>,
    start: Instant,
}

impl Trace {
    /// Begins a new file; `None` writes nothing.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let out = path
            .map(|path| {
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("cannot write {}", path.display()))
            })
            .transpose()?;
        Ok(Trace {
            out: Mutex::new(out),
            start: Instant::now(),
        })
    }

    /// Writes a line about the request `unique`.
    pub fn line(&self, event: &str, op: &str, unique: u32, fields: Value) {
        let mut out = self.out.lock().expect("nobody panics with the lock held");
        let Some(file) = out.as_mut() else { return };
        let mut line = Map::new();
        line.insert("ev".into(), event.into());
        line.insert("op".into(), op.into());
        line.insert("unique".into(), unique.into());
        let micros = self.start.elapsed().as_micros();
        line.insert("us".into(), json!(micros as u64));
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        // One write a line: a reader never sees half of one from us alone,
        // and nothing is lost when we are killed.
        if let Err(e) = file.write_all(text.as_bytes()) {
            eprintln!("codacm: the trace ends here: {e}");
            *out = None;
        }
    }
}
