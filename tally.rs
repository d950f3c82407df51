#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! What is counted, and what debugfs shows of it.
//!
//! All counts are since the module was loaded. They are for people to look at: nothing depends on them,
//! and numbers that are shown side by side need not be of the same moment.

use crate::{
    trace::{self, How},
    wire::{op, Fid},
};
use kernel::{
    fmt::{self, Write},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    time::{Instant, Monotonic},
};

/// A number that only goes up.
struct Count(Atomic<i64>);

impl Count {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    fn add(&self, more: i64) {
        self.0.fetch_add(more, Relaxed);
    }

    fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How long upcalls took is counted by powers of two: the first of these is for less than a microsecond,
/// each further one for up to twice as much, the last one for all that is longer.
const CLASSES: usize = 24;

/// What came of upcalls with one opcode.
struct Upcalls {
    calls: Count,
    errors: Count,
    given_up: Count,
    nanoseconds: Count,
    took: [Count; CLASSES],
}

static UPCALLS: [Upcalls; op::END] = [const {
    Upcalls {
        calls: Count::new(),
        errors: Count::new(),
        given_up: Count::new(),
        nanoseconds: Count::new(),
        took: [const { Count::new() }; CLASSES],
    }
}; op::END];

/// Which class a time belongs to.
fn class(nanoseconds: i64) -> usize {
    let microseconds = (nanoseconds / 1000).max(0) as u64;
    let class = (u64::BITS - microseconds.leading_zeros()) as usize;
    class.min(CLASSES - 1)
}

/// A request that was queued.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    unique: u32,
    opcode: u32,
    /// The thread that sent it.
    pub(crate) pid: u32,
    at: Instant<Monotonic>,
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// By an answer: a result, or an error of the cache manager's.
    Answered(Result),
    /// Nobody waits for it any more, or nobody will answer it.
    GivenUp(Error),
}

impl Begun {
    /// It is queued now.
    pub(crate) fn now(unique: u32, opcode: u32, pid: u32, fid: Option<Fid>) -> Self {
        trace::upcall_begin(unique, opcode, pid, &fid.unwrap_or_default().0);
        Self {
            unique,
            opcode,
            pid,
            at: Instant::now(),
        }
    }

    /// How long ago that was, in milliseconds.
    pub(crate) fn age(&self) -> i64 {
        self.at.elapsed().as_millis()
    }

    /// It is over now.
    pub(crate) fn ended(self, fid: Option<Fid>, how: Ended) {
        let nanoseconds = self.at.elapsed().as_nanos();
        let result = match how {
            Ended::Answered(result) => result,
            Ended::GivenUp(err) => Err(err),
        };
        trace::upcall_end(
            self.unique,
            self.opcode,
            &fid.unwrap_or_default().0,
            nanoseconds as u64,
            result.map_or_else(|err| err.to_errno(), |()| 0),
        );
        let Some(of) = UPCALLS.get(self.opcode as usize) else {
            return;
        };
        match how {
            Ended::GivenUp(_) => of.given_up.add(1),
            Ended::Answered(Err(_)) => of.errors.add(1),
            Ended::Answered(Ok(())) => {}
        }
        of.calls.add(1);
        of.nanoseconds.add(nanoseconds);
        if let Some(class) = of.took.get(class(nanoseconds)) {
            class.add(1);
        }
    }
}

/// What happened to files.
struct Files {
    opens: Count,
    closes: [Count; 3],
    modified: [Count; 4],
    mappings: Count,
}

static FILES: Files = Files {
    opens: Count::new(),
    closes: [const { Count::new() }; 3],
    modified: [const { Count::new() }; 4],
    mappings: Count::new(),
};

/// What a close says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// The file was not modified.
    Clean = 0,
    /// It was.
    Modified = 1,
    /// Neither: it was not open for writing.
    Nothing = 2,
}

/// The cache manager has answered an open, or refused it.
pub(crate) fn opened(fid: &Fid, flags: u32, result: Result) {
    trace::file_open(
        &fid.0,
        flags,
        result.map_or_else(|err| err.to_errno(), |()| 0),
    );
    if result.is_ok() {
        FILES.opens.add(1);
    }
}

/// A close is on its way.
pub(crate) fn closed(fid: &Fid, flags: u32, said: Said) {
    trace::file_close(&fid.0, flags, said as u32);
    if let Some(count) = FILES.closes.get(said as usize) {
        count.add(1);
    }
}

/// A file was found to be modified that was not known to be. Does not sleep.
pub(crate) fn modified(fid: &Fid, how: How) {
    trace::file_modified(&fid.0, how as u32);
    if let Some(count) = FILES.modified.get(how as usize) {
        count.add(1);
    }
}

/// A mapping was wrapped. Does not sleep.
pub(crate) fn mapped() {
    FILES.mappings.add(1);
}

/// Shows what came of upcalls, a line for each opcode.
pub(crate) fn show_upcalls(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("# opcode calls errors given_up total_ns")?;
    for class in 0..CLASSES - 1 {
        write!(f, " lt_{}us", 1u32 << class)?;
    }
    f.write_str(" more\n")?;
    for (opcode, of) in UPCALLS.iter().enumerate() {
        if of.calls.get() == 0 {
            continue;
        }
        f.write_str(op::name(opcode as u32))?;
        let sums = [&of.calls, &of.errors, &of.given_up, &of.nanoseconds];
        for count in Iterator::chain(sums.into_iter(), &of.took) {
            write!(f, " {}", count.get())?;
        }
        f.write_char('\n')?;
    }
    Ok(())
}

/// Shows what happened to files, a line for each number.
pub(crate) fn show_files(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [clean, modified, read] = &FILES.closes;
    let [write, truncate, store, other] = &FILES.modified;
    for (name, count) in [
        ("opens", &FILES.opens),
        ("closes_read", read),
        ("closes_clean", clean),
        ("closes_modified", modified),
        ("modified_write", write),
        ("modified_truncate", truncate),
        ("modified_store", store),
        ("modified_other", other),
        ("mappings", &FILES.mappings),
    ] {
        writeln!(f, "{name} {}", count.get())?;
    }
    Ok(())
}

#[kunit_tests(coda_rs_tally)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (nanoseconds, wanted) in [
            (-1, 0),
            (0, 0),
            (999, 0),
            (1000, 1),
            (1999, 1),
            (2000, 2),
            (4_194_303_999, 22),
            (4_194_304_000, 23),
            (i64::MAX, 23),
        ] {
            assert_eq!(class(nanoseconds), wanted);
        }
    }
}
