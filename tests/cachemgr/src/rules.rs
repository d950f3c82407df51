// SPDX-License-Identifier: GPL-2.0

//! Misbehaviour to order.
//!
//! A rule picks requests and says what to do wrong about them. The first rule
//! that fits a request is the one that counts. Rules come and go through the
//! control channel while requests are under way.

use coda_proto::{Fid, Opcode};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What a rule does to a request. Everything that is set is done.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Effect {
    /// Wait that long.
    pub delay_ms: Option<u64>,
    /// Wait for the command "release".
    pub hold: bool,
    /// Do the above not before the request is carried out, but between that
    /// and the reply.
    pub late: bool,
    /// Do not reply at all.
    pub never: bool,
    /// Do not carry the request out, but reply with this in the place of the
    /// errno.
    pub result: Option<i64>,
    /// Send this descriptor in the reply to OPEN_BY_FD.
    pub fd: Option<i32>,
    /// Send a descriptor of this file in the reply to OPEN_BY_FD.
    pub container: Option<PathBuf>,
    /// Overwrite bytes of the reply: offset and hexadecimal digits.
    pub patch: Vec<(usize, String)>,
    /// Cut the reply to this size.
    pub truncate: Option<usize>,
    /// Make the reply this long with bytes of 0xa5.
    pub pad_to: Option<usize>,
    /// Add this to the reply's unique number.
    pub unique_add: u32,
    /// Send the reply twice.
    pub twice: bool,
    /// Keep our own copy of a container open that long after the reply, and
    /// then put its file flags into the trace: the kernel must not have
    /// touched them.
    pub linger_ms: Option<u64>,
    /// Set CODA_NOCACHE in the type of a reply to LOOKUP.
    pub nocache: bool,
    /// End the process as if killed, instead of a reply.
    pub die: bool,
}

/// Which requests a rule is about, and how many of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pattern {
    /// The opcode's name; any if absent.
    pub op: Option<String>,
    /// The first fid of the request.
    pub fid: Option<String>,
    /// A name in the request.
    pub name: Option<String>,
    /// Who asks.
    pub pid: Option<i32>,
    /// Leave so many fitting requests alone first.
    pub skip: u64,
    /// Then take so many; all if absent.
    pub count: Option<u64>,
}

/// What a rule can tell requests apart by.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The request's opcode.
    pub op: Opcode,
    /// Its first fid.
    pub fid: Option<Fid>,
    /// Its names.
    pub names: Vec<&'a [u8]>,
    /// Who asks.
    pub pid: i32,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    op: Option<Opcode>,
    fid: Option<Fid>,
    pattern: Pattern,
    effect: Effect,
    hits: u64,
    released: bool,
}

impl Rule {
    fn fits(&self, subject: &Subject<'_>) -> bool {
        self.op.is_none_or(|op| op == subject.op)
            && self.fid.is_none_or(|fid| Some(fid) == subject.fid)
            && self.pattern.pid.is_none_or(|pid| pid == subject.pid)
            && match &self.pattern.name {
                Some(name) => subject.names.contains(&name.as_bytes()),
                None => true,
            }
    }
}

/// A request under way, as far as waiting is concerned.
#[derive(Debug, Default)]
pub struct Flight {
    interrupted: AtomicBool,
}

impl Flight {
    /// The kernel has said by CODA_SIGNAL that nobody waits for the reply.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    last: u64,
    /// Rules that are gone, but may still be asked about.
    old: Vec<(u64, u64)>,
}

/// All rules of a cache manager.
#[derive(Default)]
pub struct Rules {
    state: Mutex<State>,
    changed: Condvar,
}

/// A rule that a request has met.
#[derive(Debug)]
pub struct Met {
    id: u64,
    /// What to do.
    pub effect: Effect,
}

impl Rules {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock held")
    }

    /// Adds a rule and gives its number.
    pub fn add(&self, pattern: Pattern, effect: Effect) -> Result<u64, String> {
        let op = pattern.op.as_deref().map(str::parse).transpose();
        let fid = pattern.fid.as_deref().map(str::parse).transpose();
        let rule = Rule {
            id: 0,
            op: op.map_err(|e| format!("{e}"))?,
            fid: fid.map_err(|e| format!("{e}"))?,
            pattern,
            effect,
            hits: 0,
            released: false,
        };
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.rules.push(Rule { id, ..rule });
        Ok(id)
    }

    /// Finds the rule for a request and counts it.
    pub fn meet(&self, subject: &Subject<'_>) -> Option<Met> {
        let mut state = self.state();
        for rule in &mut state.rules {
            if rule.pattern.count == Some(0) || !rule.fits(subject) {
                continue;
            }
            if rule.pattern.skip > 0 {
                rule.pattern.skip -= 1;
                continue;
            }
            if let Some(count) = rule.pattern.count.as_mut() {
                *count -= 1;
            }
            // What is to happen late counts when it has come so far.
            if !rule.effect.late {
                rule.hits += 1;
            }
            let met = Met {
                id: rule.id,
                effect: rule.effect.clone(),
            };
            self.changed.notify_all();
            return Some(met);
        }
        None
    }

    /// Lets go what a rule holds, now and later; all rules if `None`.
    pub fn release(&self, id: Option<u64>) {
        for rule in &mut self.state().rules {
            if id.is_none_or(|id| id == rule.id) {
                rule.released = true;
            }
        }
        self.changed.notify_all();
    }

    /// Drops a rule, or all; what they hold goes on.
    pub fn clear(&self, id: Option<u64>) {
        let mut state = self.state();
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut state.rules)
            .into_iter()
            .partition(|r| id.is_none_or(|id| id == r.id));
        state.rules = kept;
        state.old.extend(gone.iter().map(|r| (r.id, r.hits)));
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until a rule has been met `hits` times; gives the count.
    pub fn wait_hits(&self, id: u64, hits: u64, patience: Duration) -> u64 {
        let end = Instant::now() + patience;
        let mut state = self.state();
        loop {
            let now = state
                .rules
                .iter()
                .map(|r| (r.id, r.hits))
                .chain(state.old.iter().copied())
                .find(|&(rule, _)| rule == id)
                .map_or(0, |(_, hits)| hits);
            let left = end.saturating_duration_since(Instant::now());
            if now >= hits || left.is_zero() {
                return now;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .expect("nobody panics with the lock held")
                .0;
        }
    }

    /// Waits as the rule says; an interrupted request does not wait on.
    pub fn wait(&self, met: &Met, flight: &Flight) {
        let end = met
            .effect
            .delay_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms));
        let mut state = self.state();
        let late = |rule: &&mut Rule| met.effect.late && rule.id == met.id;
        if let Some(rule) = state.rules.iter_mut().find(late) {
            rule.hits += 1;
            self.changed.notify_all();
        }
        loop {
            let held = met.effect.hold && state.rules.iter().any(|r| r.id == met.id && !r.released);
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let wait = match left {
                _ if flight.is_interrupted() => return,
                Some(left) if !left.is_zero() => left,
                _ if held => Duration::from_secs(3600),
                _ => return,
            };
            state = self
                .changed
                .wait_timeout(state, wait)
                .expect("nobody panics with the lock held")
                .0;
        }
    }

    /// Marks a request as interrupted, and ends its waiting.
    pub fn interrupt(&self, flight: &Flight) {
        // Under the lock, lest the waiter looks before and sleeps after.
        let _state = self.state();
        flight.interrupted.store(true, Ordering::Release);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(op: Opcode) -> Subject<'static> {
        Subject {
            op,
            fid: None,
            names: vec![b"f"],
            pid: 7,
        }
    }

    fn pattern(op: &str) -> Pattern {
        Pattern {
            op: Some(op.into()),
            ..Pattern::default()
        }
    }

    #[test]
    fn some_are_skipped_and_some_are_counted() {
        let rules = Rules::default();
        let pattern = Pattern {
            skip: 1,
            count: Some(2),
            ..pattern("LOOKUP")
        };
        let id = rules.add(pattern, Effect::default()).unwrap();
        let met: Vec<bool> = (0..5)
            .map(|_| rules.meet(&subject(Opcode::LOOKUP)).is_some())
            .collect();
        assert_eq!(met, [false, true, true, false, false]);
        assert!(rules.meet(&subject(Opcode::CLOSE)).is_none());
        assert_eq!(rules.wait_hits(id, 2, Duration::ZERO), 2);
        rules.clear(Some(id));
        assert_eq!(rules.wait_hits(id, 2, Duration::ZERO), 2);
    }

    #[test]
    fn names_have_to_fit() {
        let rules = Rules::default();
        let other = Pattern {
            name: Some("g".into()),
            ..pattern("LOOKUP")
        };
        rules.add(other, Effect::default()).unwrap();
        assert!(rules.meet(&subject(Opcode::LOOKUP)).is_none());
        assert!(rules.add(pattern("NONSENSE"), Effect::default()).is_err());
    }

    #[test]
    fn what_is_held_is_let_go() {
        let effect = Effect {
            hold: true,
            ..Effect::default()
        };
        // By a release, by an interruption, and by the rule's end.
        for way in 0..3 {
            let rules = Rules::default();
            let id = rules.add(pattern("LOOKUP"), effect.clone()).unwrap();
            let met = rules.meet(&subject(Opcode::LOOKUP)).unwrap();
            let flight = Flight::default();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| rules.wait(&met, &flight));
                match way {
                    0 => rules.release(Some(id)),
                    1 => rules.interrupt(&flight),
                    _ => rules.clear(None),
                }
                waiter.join().unwrap();
            });
        }
    }

    #[test]
    fn effects_are_read_from_json() {
        let effect: Effect =
            serde_json::from_str(r#"{"result":-5,"patch":[[12,"ff00"]],"hold":true}"#).unwrap();
        assert_eq!(effect.result, Some(-5));
        assert_eq!(effect.patch, [(12, "ff00".to_owned())]);
        assert!(effect.hold && !effect.late);
        assert!(serde_json::from_str::<Effect>(r#"{"holt":true}"#).is_err());
    }
}
