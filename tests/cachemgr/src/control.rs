// SPDX-License-Identifier: GPL-2.0

//! Orders to a running cache manager: one JSON object a line, one line back.

use crate::rules::{Effect, Pattern};
use crate::server::Server;
use anyhow::{Context, Result, bail};
use coda_proto::{Fid, FidOut, Opcode, OutHdr, PurgeuserOut, ReplaceOut};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

/// What one may order.
#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
enum Order {
    /// Answers.
    Ping,
    /// The fid of a path below the root.
    Fid { path: PathBuf },
    /// Adds a rule; answers with its number.
    Rule {
        #[serde(flatten)]
        pattern: Pattern,
        effect: Effect,
    },
    /// Removes a rule, or all.
    Clear { id: Option<u64> },
    /// Lets go what a rule, or all rules, hold.
    Release { id: Option<u64> },
    /// Waits until a rule has been met so many times.
    Wait { id: u64, hits: u64, ms: u64 },
    /// Sends a downcall about `fid`, or `uid`.
    Downcall {
        op: String,
        fid: Option<String>,
        uid: Option<u32>,
    },
    /// Gives an object another fid, and tells the kernel unless `quiet`.
    Replace {
        fid: String,
        #[serde(default)]
        quiet: bool,
    },
    /// Writes bytes to the device.
    Raw { hex: String },
    /// Which objects are open how often.
    Stat,
    /// Ends the process as if killed.
    Die,
}

/// Bytes from hexadecimal digits.
pub fn unhex(digits: &str) -> Result<Vec<u8>> {
    if digits.len() % 2 != 0 || !digits.is_ascii() {
        bail!("odd digits: {digits}");
    }
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).context("not hexadecimal"))
        .collect()
}

/// Takes connections on a socket, each in a thread of its own.
pub fn listen(path: &Path, server: Arc<Server>) -> Result<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || {
                    // A client that goes away is no error.
                    let _ = converse(&stream, &server);
                });
            }
        })?;
    Ok(())
}

fn converse(stream: &UnixStream, server: &Server) -> Result<()> {
    let mut out = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(anyhow::Error::from)
            .and_then(|order| obey(order, server))
            .unwrap_or_else(|e| json!({ "error": format!("{e:#}") }));
        out.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}

fn written(result: Result<usize, rustix::io::Errno>) -> Value {
    match result {
        Ok(len) => json!({ "written": len }),
        Err(e) => json!({ "errno": e.raw_os_error() }),
    }
}

fn obey(order: Order, server: &Server) -> Result<Value> {
    Ok(match order {
        Order::Ping => json!({ "ok": true }),
        Order::Fid { path } => match server.store.resolve(&path) {
            Ok(fid) => json!({ "fid": fid.to_string() }),
            Err(e) => json!({ "errno": e.raw_os_error() }),
        },
        Order::Rule { pattern, effect } => {
            let id = server.rules.add(pattern, effect);
            json!({ "id": id.map_err(anyhow::Error::msg)? })
        }
        Order::Clear { id } => {
            server.rules.clear(id);
            json!({ "ok": true })
        }
        Order::Release { id } => {
            server.rules.release(id);
            json!({ "ok": true })
        }
        Order::Wait { id, hits, ms } => {
            let patience = Duration::from_millis(ms);
            json!({ "hits": server.rules.wait_hits(id, hits, patience) })
        }
        Order::Downcall { op, fid, uid } => {
            let op: Opcode = op.parse()?;
            let oh = OutHdr {
                opcode: op.0,
                ..OutHdr::default()
            };
            let msg = match (fid, uid) {
                (Some(fid), _) => {
                    let fid = fid.parse()?;
                    FidOut { oh, fid }.as_bytes().to_vec()
                }
                (None, Some(uid)) => PurgeuserOut { oh, uid }.as_bytes().to_vec(),
                (None, None) => oh.as_bytes().to_vec(),
            };
            server
                .trace
                .line("downcall", &op.to_string(), 0, json!({ "size": msg.len() }));
            written(server.device().write(&msg))
        }
        Order::Replace { fid, quiet } => {
            let old: Fid = fid.parse()?;
            let new = server.store.replace(old)?;
            let mut answer = json!({ "fid": new.to_string() });
            if !quiet {
                let oh = OutHdr {
                    opcode: Opcode::REPLACE.0,
                    ..OutHdr::default()
                };
                server.trace.line(
                    "downcall",
                    "REPLACE",
                    0,
                    json!({ "old": fid, "new": new.to_string() }),
                );
                let msg = ReplaceOut { oh, new, old };
                answer["sent"] = written(server.device().write(msg.as_bytes()));
            }
            answer
        }
        Order::Raw { hex } => written(server.device().write(&unhex(&hex)?)),
        Order::Stat => {
            let opens: Vec<_> = server
                .store
                .opens()
                .iter()
                .map(|(fid, o)| {
                    json!({ "fid": fid.to_string(), "readers": o.readers, "writers": o.writers })
                })
                .collect();
            json!({ "open": opens, "stored": server.store.stored() })
        }
        Order::Die => std::process::abort(),
    })
}
