// SPDX-License-Identifier: GPL-2.0

//! Several opens of one file, and processes that end in every way.

use crate::case::{CloseCase as C, RO, RW_CLEAN, RW_DIRTY, T, Verdict, WO_CLEAN, WO_DIRTY};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child, sleep_for_ever};
use ktest::{Context, Result, Rule, bail, ensure, ensure_eq, module_is_ours, patience};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::json;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Another name of the file, which the kernel will find not to be there when it asks
/// the first time.
fn unknown_name(t: &T<'_>) -> Result<PathBuf> {
    let name = format!("{}-too", t.file);
    fs::hard_link(&t.container, t.container.with_file_name(&name))?;
    let unknown = Rule::on("LOOKUP").name(&name).once();
    t.ctx.fixture().rule(unknown.with("result", libc::ENOENT))?;
    Ok(t.path.with_file_name(name))
}

/// A process that has the file open, did something, and dies of a signal.
fn killed(
    name: &'static str,
    verdict: Verdict,
    what: &'static str,
    signal: Signal,
    act: fn(&OwnedFd) -> Result<Option<Map>>,
) -> C {
    let word = match verdict {
        Verdict::Modified => RW_DIRTY,
        _ => RW_CLEAN,
    };
    C::new(name, verdict, what, move |t| {
        t.make_pages(1)?;
        let mut kid = child(|teller| {
            let fd = t.rw()?;
            let _map = act(&fd)?;
            teller.ready()?;
            sleep_for_ever()
        })?;
        kid.wait_ready()?;
        t.not_closed_yet()?;
        kid.kill(signal)?;
        kid.die_of(signal)?;
        t.expect(&[word])
    })
    .tag("killed")
}

/// An open that is interrupted while the cache manager thinks.
fn interrupted_open(name: &'static str, what: &'static str, signal: Signal, late: bool) -> C {
    C::new(name, Verdict::NoWriter, what, move |t| {
        t.make_default()?;
        let fixture = t.ctx.fixture();
        let rule = Rule::on("OPEN_BY_FD")
            .fid(&t.fid())
            .with("hold", true)
            .with("late", late);
        let rule = fixture.rule(rule)?;
        let kid = child(|_| {
            t.rw()?;
            bail!("the open went through")
        })?;
        fixture.wait_rule(rule, 1)?;
        kid.kill(signal)?;
        kid.die_of(signal)?;
        fixture.release(rule)?;
        // The answer may have been too late, or it may have been in time:
        // what counts is that both sides agree.
        let fid = t.fid();
        ktest::wait_for("as many closes as opens", patience(6), || {
            let opens = t.ctx.watch.borrow_mut().opens(&fid)?;
            let answered = t.ctx.watch.borrow_mut().update()?.iter().any(|e| {
                e.text("op") == "OPEN_BY_FD" && matches!(e.text("ev"), "dropped" | "undone")
            });
            Ok((answered && t.closes()?.len() == opens).then_some(()))
        })?;
        // The file is as good as before.
        fixture.clear_rules()?;
        t.ctx.watch.borrow_mut().events.clear();
        sys::close(t.open(OFlag::O_RDONLY)?)?;
        t.expect(&[RO])
    })
    .tag("interrupted_open")
}

/// Opens whose openers are killed at all sorts of moments.
fn killed_openers(t: &T<'_>) -> Result<()> {
    t.make_default()?;
    let fixture = t.ctx.fixture();
    let rule = Rule::on("OPEN_BY_FD").fid(&t.fid()).with("delay_ms", 3);
    fixture.rule(rule)?;
    for round in 0..40 {
        let kid = child(|_| {
            loop {
                let _ = t.rw();
            }
        })?;
        std::thread::sleep(std::time::Duration::from_micros(500 + round * 397));
        kid.kill(Signal::SIGKILL)?;
        kid.die_of(Signal::SIGKILL)?;
    }
    fixture.clear_rules()?;
    let fid = t.fid();
    ktest::wait_for("as many closes as opens", patience(6), || {
        let opens = t.ctx.watch.borrow_mut().opens(&fid)?;
        Ok((t.closes()?.len() == opens).then_some(()))
    })?;
    let words = t.closes()?;
    ensure!(
        words.iter().all(|&w| w == RW_CLEAN),
        "not all closes are clean"
    );
    t.ctx.watch.borrow_mut().events.clear();
    sys::close(t.rw()?)?;
    t.expect(&[RW_CLEAN])
}

/// The cases.
pub fn cases() -> Vec<C> {
    use Verdict::{Both, Clean, Modified, NoWriter};
    let store = |fd: &OwnedFd| {
        let map = Map::shared(fd, PAGE)?;
        map.store(0, b'm');
        Ok(Some(map))
    };
    let load = |fd: &OwnedFd| {
        let map = Map::shared(fd, PAGE)?;
        map.load(0);
        Ok(Some(map))
    };
    let write = |fd: &OwnedFd| sys::write(fd, b"w").map(|()| None);
    let nothing = |_: &OwnedFd| Ok(None);
    vec![
        C::new(
            "two_first_wrote",
            Modified,
            "two opens; the first writes and closes first",
            |t| {
                t.make_default()?;
                let (first, second) = (t.rw()?, t.rw()?);
                sys::write(&first, b"x")?;
                sys::close(first)?;
                sys::close(second)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        )
        .core(),
        C::new(
            "two_second_wrote",
            Modified,
            "two opens; the second writes, the first closes first",
            |t| {
                t.make_default()?;
                let (first, second) = (t.rw()?, t.rw()?);
                sys::write(&second, b"x")?;
                sys::close(first)?;
                sys::close(second)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "two_close_then_write",
            Both,
            "two opens; one closes, then the other writes",
            |t| {
                t.make_default()?;
                let (first, second) = (t.rw()?, t.rw()?);
                sys::close(first)?;
                sys::write(&second, b"x")?;
                sys::close(second)?;
                t.expect(&[RW_CLEAN, RW_DIRTY])
            },
        )
        .core(),
        C::new("two_clean", Clean, "two opens, nobody writes", |t| {
            t.make_default()?;
            let (first, second) = (t.rw()?, t.rw()?);
            sys::close(first)?;
            sys::close(second)?;
            t.expect(&[RW_CLEAN, RW_CLEAN])
        }),
        C::new(
            "overlapping_chain",
            Modified,
            "opens that overlap like a chain: dirty to the end",
            |t| {
                t.make_default()?;
                let first = t.rw()?;
                sys::write(&first, b"x")?;
                let second = t.rw()?;
                sys::close(first)?;
                let third = t.rw()?;
                sys::close(second)?;
                sys::close(third)?;
                t.expect(&[RW_DIRTY; 3])
            },
        ),
        C::new(
            "reopen",
            Both,
            "written and closed; opened again: clean",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                sys::close(t.rw()?)?;
                t.expect(&[RW_DIRTY, RW_CLEAN])
            },
        )
        .core(),
        C::new("reopen_thrice", Both, "clean, dirty, clean, dirty", |t| {
            t.make_default()?;
            for write in [false, true, false, true] {
                let fd = t.rw()?;
                if write {
                    sys::write(&fd, b"x")?;
                }
                sys::close(fd)?;
            }
            t.expect(&[RW_CLEAN, RW_DIRTY, RW_CLEAN, RW_DIRTY])
        }),
        C::new(
            "mixed_modes",
            Modified,
            "O_RDWR and O_WRONLY; the latter writes",
            |t| {
                t.make_default()?;
                let (both, write_only) = (t.rw()?, t.open(OFlag::O_WRONLY)?);
                sys::write(&write_only, b"x")?;
                sys::close(write_only)?;
                sys::close(both)?;
                t.expect(&[WO_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "mixed_modes_clean",
            Clean,
            "O_RDWR and O_WRONLY, nobody writes",
            |t| {
                t.make_default()?;
                let (both, write_only) = (t.rw()?, t.open(OFlag::O_WRONLY)?);
                sys::close(both)?;
                sys::close(write_only)?;
                t.expect(&[RW_CLEAN, WO_CLEAN])
            },
        ),
        C::new(
            "reader_closes_last",
            Modified,
            "a writer and a reader; the reader closes last",
            |t| {
                t.make_default()?;
                let (reader, writer) = (t.open(OFlag::O_RDONLY)?, t.rw()?);
                sys::write(&writer, b"x")?;
                sys::close(writer)?;
                sys::close(reader)?;
                t.expect(&[RW_DIRTY, RO])
            },
        )
        .core(),
        C::new(
            "reader_closes_first",
            Modified,
            "a writer and a reader; the reader closes first",
            |t| {
                t.make_default()?;
                let (writer, reader) = (t.rw()?, t.open(OFlag::O_RDONLY)?);
                sys::write(&writer, b"x")?;
                sys::close(reader)?;
                sys::close(writer)?;
                t.expect(&[RO, RW_DIRTY])
            },
        ),
        C::new(
            "reader_keeps_nothing_dirty",
            Both,
            "a reader stays open while writers come and go",
            |t| {
                t.make_default()?;
                let reader = t.open(OFlag::O_RDONLY)?;
                let writer = t.rw()?;
                sys::write(&writer, b"x")?;
                sys::close(writer)?;
                sys::close(t.rw()?)?;
                sys::close(reader)?;
                t.expect(&[RW_DIRTY, RW_CLEAN, RO])
            },
        ),
        C::new("dup", Modified, "dup(2): one open, one close", |t| {
            t.make_default()?;
            let fd = t.rw()?;
            let copy = nix::unistd::dup(&fd)?;
            sys::close(fd)?;
            t.not_closed_yet()?;
            sys::write(&copy, b"x")?;
            sys::close(copy)?;
            t.expect(&[RW_DIRTY])
        }),
        C::new(
            "fork_inherits",
            Modified,
            "fork(2): the child writes and exits, the parent closes",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                child(|_| sys::write(&fd, b"x"))?.succeed()?;
                t.not_closed_yet()?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "fork_closes_last",
            Clean,
            "fork(2): the parent closes, the child exits later",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                let mut kid = child(|teller| {
                    teller.ready()?;
                    sleep_for_ever()
                })?;
                kid.wait_ready()?;
                sys::close(fd)?;
                t.not_closed_yet()?;
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                t.expect(&[RW_CLEAN])
            },
        )
        .tag("killed"),
        C::new("proc_fd", Both, "opened again through /proc/self/fd", |t| {
            t.make_default()?;
            let fd = t.rw()?;
            use std::os::fd::AsRawFd;
            let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let again = sys::open(name.as_ref(), OFlag::O_WRONLY)?;
            sys::close(fd)?;
            sys::write(&again, b"x")?;
            sys::close(again)?;
            t.expect(&[RW_CLEAN, WO_DIRTY])
        }),
        C::new("o_path", Clean, "O_PATH is no open", |t| {
            t.make_default()?;
            let path = t.open(OFlag::O_PATH)?;
            let fd = t.rw()?;
            sys::close(path)?;
            t.not_closed_yet()?;
            sys::close(fd)?;
            t.expect(&[RW_CLEAN])
        }),
        C::new(
            "unlink_written",
            Modified,
            "unlink(2) while open, write(2) after it",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                nix::unistd::unlink(&t.path)?;
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "unlink_clean",
            Clean,
            "unlink(2) while open, nothing written",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                nix::unistd::unlink(&t.path)?;
                sys::close(fd)?;
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "rename_written",
            Modified,
            "rename(2) while open, write(2) after it",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                fs::rename(&t.path, t.path.with_extension("new"))?;
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "rename_over",
            Both,
            "rename(2) of a written file over an open one",
            |t| {
                t.make_default()?;
                let old = t.rw()?;
                let new_path = t.path.with_extension("new");
                let new = sys::open(&new_path, OFlag::O_WRONLY | OFlag::O_CREAT)?;
                sys::write(&new, b"new")?;
                let new_fid = t.ctx.fixture().fid(&format!("{}.new", t.file))?;
                sys::close(new)?;
                fs::rename(&new_path, &t.path)?;
                sys::close(old)?;
                let old_fid = t.fid();
                t.set_fid(new_fid);
                ensure_eq!(t.closes()?, [WO_DIRTY], "the new file's closes");
                t.set_fid(old_fid);
                ensure_eq!(t.closes()?, [RW_CLEAN], "the old file's closes");
                ensure_eq!(t.contents()?, b"new");
                // Both of them, for the table.
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                t.set_fid(t.ctx.fixture().fid(&t.file)?);
                sys::close(t.rw()?)?;
                t.expect(&[WO_DIRTY, RW_DIRTY, RW_CLEAN])
            },
        ),
        C::new(
            "hard_links",
            Modified,
            "opened by two names, written by one",
            |t| {
                t.make_default()?;
                let other = t.path.with_extension("link");
                fs::hard_link(&t.path, &other)?;
                let first = t.rw()?;
                let second = sys::open(&other, OFlag::O_RDWR)?;
                sys::write(&second, b"x")?;
                sys::close(second)?;
                sys::close(first)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "replaced_fid",
            Modified,
            "CODA_REPLACE while open: the close carries the new fid",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                let answer = t
                    .ctx
                    .fixture()
                    .order(&json!({ "cmd": "replace", "fid": t.fid() }))?;
                ensure!(answer["sent"]["written"].is_u64(), "the downcall: {answer}");
                sys::close(fd)?;
                ensure_eq!(t.closes()?, [0u32; 0], "closes of the old fid");
                t.set_fid(answer["fid"].as_str().context("no fid")?.to_owned());
                ensure_eq!(t.closes()?, [RW_DIRTY], "closes of the new fid");
                // As for opens: the one above was of the old fid.
                t.ctx.watch.borrow_mut().events.clear();
                let fd = t.rw()?;
                sys::write(&fd, b"y")?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "replaced_fid_stays_dirty",
            Modified,
            "CODA_REPLACE between two closes: the flag stays",
            |t| {
                t.make_default()?;
                let (first, second) = (t.rw()?, t.rw()?);
                sys::write(&first, b"x")?;
                sys::close(first)?;
                let answer = t
                    .ctx
                    .fixture()
                    .order(&json!({ "cmd": "replace", "fid": t.fid() }))?;
                sys::close(second)?;
                let new = answer["fid"].as_str().context("no fid")?.to_owned();
                let old = t.fid();
                t.set_fid(new);
                ensure_eq!(t.closes()?, [RW_DIRTY], "closes of the new fid");
                t.set_fid(old);
                ensure_eq!(t.closes()?, [RW_DIRTY], "closes of the old fid");
                t.ctx.watch.borrow_mut().events.clear();
                let fd = t.rw()?;
                sys::write(&fd, b"y")?;
                sys::close(fd)?;
                t.set_fid(t.ctx.fixture().fid(&t.file)?);
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "flushed",
            Modified,
            "CODA_FLUSH and CODA_PURGEFID while open: the flag stays",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                let fixture = t.ctx.fixture();
                fixture.downcall("PURGEFID", Some(&t.fid()))?;
                fixture.downcall("FLUSH", None)?;
                fs::metadata(&t.path)?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "exit_written",
            Modified,
            "exit without close, written",
            |t| {
                t.make_default()?;
                child(|_| {
                    let fd = t.rw()?;
                    sys::write(&fd, b"x")?;
                    std::mem::forget(fd);
                    Ok(())
                })?
                .succeed()?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "exit_clean",
            Clean,
            "exit without close, not written",
            |t| {
                t.make_default()?;
                child(|_| {
                    std::mem::forget(t.rw()?);
                    Ok(())
                })?
                .succeed()?;
                t.expect(&[RW_CLEAN])
            },
        )
        .core(),
        C::new(
            "exit_mapped",
            Modified,
            "exit without munmap, stored",
            |t| {
                t.make_pages(1)?;
                child(|_| {
                    let fd = t.rw()?;
                    let map = Map::shared(&fd, PAGE)?;
                    sys::close(fd)?;
                    map.store(0, b'm');
                    map.forget();
                    Ok(())
                })?
                .succeed()?;
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new("exec_closes", Clean, "exec(2) closes a mapped file", |t| {
            t.make_pages(1)?;
            let kid = child(|_| {
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                map.load(0);
                map.forget();
                Err(Command::new("/bin/true").exec().into())
            })?;
            kid.succeed()?;
            t.expect(&[RW_CLEAN])
        }),
        killed(
            "sigkill_written",
            Modified,
            "SIGKILL, written",
            Signal::SIGKILL,
            write,
        )
        .core(),
        killed(
            "sigkill_clean",
            Clean,
            "SIGKILL, not written",
            Signal::SIGKILL,
            nothing,
        )
        .core(),
        killed(
            "sigkill_mapped_store",
            Modified,
            "SIGKILL, mapped, stored",
            Signal::SIGKILL,
            store,
        )
        .mmap_store()
        .core(),
        killed(
            "sigkill_mapped_clean",
            Clean,
            "SIGKILL, mapped, only read",
            Signal::SIGKILL,
            load,
        ),
        killed(
            "sigint_written",
            Modified,
            "SIGINT, written",
            Signal::SIGINT,
            write,
        ),
        killed(
            "sigint_clean",
            Clean,
            "SIGINT, not written",
            Signal::SIGINT,
            nothing,
        ),
        killed(
            "sigint_mapped_store",
            Modified,
            "SIGINT, mapped, stored",
            Signal::SIGINT,
            store,
        )
        .mmap_store(),
        killed(
            "sigterm_written",
            Modified,
            "SIGTERM, written",
            Signal::SIGTERM,
            write,
        ),
        killed(
            "sighup_clean",
            Clean,
            "SIGHUP, not written",
            Signal::SIGHUP,
            nothing,
        ),
        interrupted_open(
            "sigint_in_open",
            "SIGINT while the cache manager thinks about an open",
            Signal::SIGINT,
            false,
        ),
        interrupted_open(
            "sigint_in_open_late",
            "SIGINT when it has opened, but not answered yet",
            Signal::SIGINT,
            true,
        ),
        interrupted_open(
            "sigkill_in_open",
            "SIGKILL while it thinks about an open",
            Signal::SIGKILL,
            false,
        ),
        interrupted_open(
            "sigkill_in_open_late",
            "SIGKILL when it has opened, but not answered yet",
            Signal::SIGKILL,
            true,
        ),
        C::new(
            "killed_openers",
            Clean,
            "openers killed at all sorts of moments",
            killed_openers,
        )
        .tag("race")
        .seconds(20),
        C::new(
            "o_creat_unknown_name",
            Clean,
            "O_CREAT of another name of it, unknown to the kernel, while a writer idles",
            |t| {
                t.make_default()?;
                let writer = t.rw()?;
                let other = unknown_name(t)?;
                sys::close(sys::open(&other, OFlag::O_CREAT | OFlag::O_WRONLY)?)?;
                sys::close(writer)?;
                ensure_eq!(t.contents()?.len(), 100);
                t.expect(&[WO_CLEAN, RW_CLEAN])
            },
        ),
        C::new(
            "o_creat_trunc_unknown_name",
            Modified,
            "the same with O_TRUNC",
            |t| {
                t.make_default()?;
                let writer = t.rw()?;
                let other = unknown_name(t)?;
                let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY;
                sys::close(sys::open(&other, flags)?)?;
                sys::close(writer)?;
                ensure_eq!(t.contents()?.len(), 0);
                t.expect(&[WO_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "ftruncate_in_doubt",
            Modified,
            "ftruncate(2) killed while the cache manager thinks: it may yet be done",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                let fd = t.rw()?;
                let rule = fixture.rule(Rule::on("SETATTR").fid(&t.fid()).with("hold", true))?;
                let kid = child(|_| Ok(nix::unistd::ftruncate(&fd, 10)?))?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                fixture.release(rule)?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "truncate_in_doubt",
            Modified,
            "truncate(2) killed like that, and only then an open and close",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                let rule = fixture.rule(Rule::on("SETATTR").fid(&t.fid()).with("hold", true))?;
                let kid = child(|_| Ok(nix::unistd::truncate(&t.path, 10)?))?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                sys::close(t.rw()?)?;
                // Nor does it end with this one.
                sys::close(t.rw()?)?;
                fixture.release(rule)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "doubt_outlives_inode",
            Modified,
            "the same, and the inode has left memory in between",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                let rule = fixture.rule(Rule::on("SETATTR").fid(&t.fid()).with("hold", true))?;
                let kid = child(|_| Ok(nix::unistd::truncate(&t.path, 10)?))?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                fs::write("/proc/sys/vm/drop_caches", "2")?;
                sys::close(t.rw()?)?;
                fixture.release(rule)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "open_in_doubt",
            Both,
            "an open killed like that: a modification is never over from then on",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                t.learn()?;
                let rule = Rule::on("OPEN_BY_FD").fid(&t.fid()).once();
                let rule = fixture.rule(rule.with("hold", true))?;
                let kid = child(|_| {
                    t.open(OFlag::O_WRONLY)?;
                    bail!("the open went through")
                })?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                fixture.release(rule)?;
                // The cache manager may have a writer that nobody knows of, but
                // nothing has been modified.
                sys::close(t.rw()?)?;
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                sys::close(t.rw()?)?;
                t.expect(&[RW_CLEAN, RW_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "o_trunc_in_doubt",
            Modified,
            "open(2) with O_TRUNC killed like that, while another has the file open",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                let fd = t.rw()?;
                let rule = fixture.rule(Rule::on("OPEN_BY_FD").fid(&t.fid()).with("hold", true))?;
                let kid = child(|_| {
                    t.open(OFlag::O_WRONLY | OFlag::O_TRUNC)?;
                    bail!("the open went through")
                })?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                fixture.release(rule)?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "ftruncate_refused",
            Clean,
            "ftruncate(2) that the cache manager refuses",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                let refuse = Rule::on("SETATTR")
                    .fid(&t.fid())
                    .with("result", libc::EACCES);
                t.ctx.fixture().rule(refuse)?;
                ensure_eq!(nix::unistd::ftruncate(&fd, 10), Err(Errno::EACCES));
                sys::close(fd)?;
                ensure_eq!(t.contents()?.len(), 100);
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "access_mode_3",
            NoWriter,
            "access mode 3, which can neither read nor write",
            |t| {
                t.make_default()?;
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_RDWR)?;
                ensure_eq!(nix::unistd::write(&fd, b"x"), Err(Errno::EBADF));
                sys::close(fd)?;
                t.expect(&[0])
            },
        ),
        C::new(
            "open_refused",
            Clean,
            "an open that the cache manager refuses is none",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                fixture.rule(
                    Rule::on("OPEN_BY_FD")
                        .fid(&t.fid())
                        .once()
                        .with("result", libc::EACCES),
                )?;
                let wanted = if module_is_ours() {
                    Errno::EACCES
                } else {
                    Errno::EIO
                };
                ensure_eq!(sys::open(&t.path, OFlag::O_RDWR).err(), Some(wanted));
                sys::close(t.rw()?)?;
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "close_refused",
            Modified,
            "a close that the cache manager refuses is one all the same",
            |t| {
                t.make_default()?;
                let fixture = t.ctx.fixture();
                // It is told, so that it does not count the file as open for ever.
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                fixture.rule(
                    Rule::on("CLOSE")
                        .fid(&t.fid())
                        .once()
                        .with("patch", json!([[8, "05000000"]])),
                )?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "exec_file",
            NoWriter,
            "exec(2) of a program in the file",
            |t| {
                let program = std::env::current_exe()?;
                fs::copy(&program, &t.container)?;
                fs::set_permissions(&t.container, fs::Permissions::from_mode(0o755))?;
                t.learn()?;
                let status = Command::new(&t.path).arg("--help").output()?.status;
                ensure!(status.success(), "{status}");
                t.expect(&[RO])
            },
        ),
        C::new(
            "text_busy",
            Clean,
            "a running program cannot be opened for writing",
            |t| {
                let program = fs::canonicalize("/bin/sleep")?;
                fs::copy(program, &t.container)?;
                fs::set_permissions(&t.container, fs::Permissions::from_mode(0o755))?;
                t.learn()?;
                let mut running = Command::new(&t.path).arg("60").spawn()?;
                let refused = sys::open(&t.path, OFlag::O_RDWR).err();
                running.kill()?;
                running.wait()?;
                ensure_eq!(refused, Some(Errno::ETXTBSY));
                sys::close(t.rw()?)?;
                let words = t.closes()?;
                ensure!(
                    words.iter().all(|w| matches!(*w, RO | RW_CLEAN)),
                    "{words:x?}"
                );
                t.ctx.watch.borrow_mut().events.clear();
                sys::close(t.open(OFlag::O_WRONLY)?)?;
                t.expect(&[WO_CLEAN])
            },
        )
        .tag("killed"),
        C::new(
            "many_processes",
            Modified,
            "eight processes write and exit",
            |t| {
                t.make_pages(1)?;
                let kids: Result<Vec<_>> = (0..8u8)
                    .map(|n| {
                        child(move |_| {
                            let fd = t.rw()?;
                            nix::sys::uio::pwrite(&fd, &[b'0' + n], n.into())?;
                            sys::close(fd)?;
                            Ok(())
                        })
                    })
                    .collect();
                for kid in kids? {
                    ensure!(
                        matches!(kid.end()?, WaitStatus::Exited(_, 0)),
                        "a child failed"
                    );
                }
                ensure_eq!(&t.contents()?[..9], b"01234567o");
                t.expect(&[RW_DIRTY; 8])
            },
        ),
    ]
}
