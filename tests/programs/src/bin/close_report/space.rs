// SPDX-License-Identifier: GPL-2.0

//! Containers on file systems with something special about them: no space
//! left, huge pages, DAX, or another file system below.

use crate::case::{CloseCase as C, RW_CLEAN, RW_DIRTY, T, Verdict};
use coda_selftests::containers::{self, Small};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child};
use ktest::{Group, Result, Spec, bail, ensure, ensure_eq, skip};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::uio;
use std::fs;

/// A sparse file on a full file system.
fn on_full(t: &T<'_>, act: impl FnOnce(&T<'_>) -> Result<()>) -> Result<()> {
    t.make(b"")?;
    fs::OpenOptions::new()
        .write(true)
        .open(&t.container)?
        .set_len(64 * PAGE as u64)?;
    let filler = containers::fill(&t.ctx.fixture().root)?;
    let done = act(t);
    fs::remove_file(filler)?;
    done
}

fn full_cases() -> Vec<C> {
    use Verdict::{Clean, Modified};
    vec![
        C::new(
            "write_enospc",
            Clean,
            "write(2) to a full file system",
            |t| {
                on_full(t, |t| {
                    let fd = t.rw()?;
                    let n = uio::pwrite(&fd, &[b'x'; 8 * PAGE], 8 * PAGE as i64);
                    ensure_eq!(n, Err(Errno::ENOSPC));
                    sys::close(fd)?;
                    t.expect(&[RW_CLEAN])
                })
            },
        ),
        C::new(
            "map_enospc",
            Clean,
            "a store that finds no space: SIGBUS",
            |t| {
                on_full(t, |t| {
                    let fd = t.rw()?;
                    let map = Map::shared(&fd, 64 * PAGE)?;
                    child(|_| {
                        map.store(32 * PAGE, b'm');
                        bail!("the store went through")
                    })?
                    .die_of(Signal::SIGBUS)?;
                    drop(map);
                    sys::close(fd)?;
                    t.expect(&[RW_CLEAN])
                })
            },
        ),
        C::new(
            "write_then_enospc",
            Modified,
            "write(2) until the file system is full",
            |t| {
                t.make(b"")?;
                let fd = t.rw()?;
                let block = [b'x'; 1 << 16];
                while nix::unistd::write(&fd, &block).is_ok() {}
                ensure!(!t.contents()?.is_empty(), "nothing was written");
                nix::unistd::unlink(&t.path)?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        ),
    ]
}

fn huge_cases() -> Vec<C> {
    use Verdict::{Clean, Modified};
    const HUGE: usize = 2 << 20;
    vec![
        C::new(
            "map_huge_store",
            Modified,
            "a store to a huge page of tmpfs",
            |t| {
                t.make(&vec![b'o'; 2 * HUGE])?;
                let fd = t.rw()?;
                let map = Map::shared_huge(&fd, 2 * HUGE)?;
                ensure_eq!(map.load(HUGE), b'o');
                map.store(HUGE + 5, b'h');
                drop(map);
                sys::close(fd)?;
                ensure_eq!(t.contents()?[HUGE + 5], b'h');
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_huge_fresh_store",
            Modified,
            "a first store to a huge page that is not there yet",
            |t| {
                t.make(b"")?;
                fs::OpenOptions::new()
                    .write(true)
                    .open(&t.container)?
                    .set_len(2 * HUGE as u64)?;
                let fd = t.rw()?;
                let map = Map::shared_huge(&fd, 2 * HUGE)?;
                map.store(HUGE, b'h');
                drop(map);
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_huge_read",
            Clean,
            "loads from huge pages of tmpfs",
            |t| {
                t.make(&vec![b'o'; 2 * HUGE])?;
                let fd = t.rw()?;
                let map = Map::shared_huge(&fd, 2 * HUGE)?;
                ensure_eq!(map.load(HUGE), b'o');
                if !map.is_huge()? {
                    skip!("the kernel has mapped small pages");
                }
                drop(map);
                sys::close(fd)?;
                t.expect(&[RW_CLEAN])
            },
        ),
    ]
}

/// Where pages are no pages: writes go to the medium by `pfn_mkwrite` and
/// `huge_fault`, or by a fault that is a write from the first.
fn dax_cases() -> Vec<C> {
    use Verdict::{Both, Clean, Modified};
    const HUGE: usize = 2 << 20;
    let shared = |t: &T<'_>, len, act: fn(&Map) -> Result<()>| -> Result<()> {
        let fd = t.rw()?;
        let map = Map::shared_huge(&fd, len)?;
        act(&map)?;
        drop(map);
        Ok(sys::close(fd)?)
    };
    vec![
        C::new("map_store", Modified, "DAX: a store", move |t| {
            t.make_pages(4)?;
            shared(t, 4 * PAGE, |map| {
                map.store(PAGE, b'd');
                Ok(())
            })?;
            ensure_eq!(t.contents()?[PAGE], b'd');
            t.expect(&[RW_DIRTY])
        })
        .mmap_store(),
        C::new(
            "map_read_store",
            Modified,
            "DAX: a load, then a store",
            move |t| {
                t.make_pages(4)?;
                shared(t, 4 * PAGE, |map| {
                    ensure_eq!(map.load(0), b'o');
                    map.store(0, b'd');
                    Ok(())
                })?;
                ensure_eq!(t.contents()?[0], b'd');
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new("map_read", Clean, "DAX: loads", move |t| {
            t.make_pages(4)?;
            shared(t, 4 * PAGE, |map| {
                ensure_eq!(map.load(0), b'o');
                Ok(())
            })?;
            t.expect(&[RW_CLEAN])
        }),
        C::new(
            "map_sync_store",
            Both,
            "DAX: stored and closed; mapped and read again",
            move |t| {
                t.make_pages(1)?;
                shared(t, PAGE, |map| {
                    map.store(0, b'd');
                    map.sync()?;
                    map.store(1, b'd');
                    Ok(())
                })?;
                shared(t, PAGE, |map| {
                    ensure_eq!(map.load(1), b'd');
                    Ok(())
                })?;
                t.expect(&[RW_DIRTY, RW_CLEAN])
            },
        )
        .mmap_store(),
        C::new(
            "map_huge_store",
            Modified,
            "DAX: a store to a huge page",
            move |t| {
                t.make(&vec![b'o'; 2 * HUGE])?;
                shared(t, 2 * HUGE, |map| {
                    map.store(HUGE + 9, b'd');
                    Ok(())
                })?;
                ensure_eq!(t.contents()?[HUGE + 9], b'd');
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_huge_read_store",
            Modified,
            "DAX: a load, then a store to a huge page",
            move |t| {
                t.make(&vec![b'o'; 2 * HUGE])?;
                shared(t, 2 * HUGE, |map| {
                    ensure_eq!(map.load(HUGE), b'o');
                    map.store(HUGE, b'd');
                    Ok(())
                })?;
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_huge_read",
            Clean,
            "DAX: loads from huge pages",
            move |t| {
                t.make(&vec![b'o'; 2 * HUGE])?;
                shared(t, 2 * HUGE, |map| {
                    ensure_eq!(map.load(HUGE), b'o');
                    Ok(())
                })?;
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new("write", Modified, "DAX: write(2)", |t| {
            t.make_pages(1)?;
            let fd = t.rw()?;
            sys::write(&fd, b"d")?;
            sys::close(fd)?;
            t.expect(&[RW_DIRTY])
        }),
    ]
}

/// Where the host puts a file of its own into the area.
fn overlay_cases() -> Vec<C> {
    use Verdict::{Clean, Modified};
    vec![
        C::new(
            "map_remap_file_pages",
            Modified,
            "overlay: remap_file_pages(2) of it all, close, then a store",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                // SAFETY: the range is a mapping of ours.
                let done = sys::check(unsafe {
                    libc::syscall(libc::SYS_remap_file_pages, map.address(), 4 * PAGE, 0, 0, 0)
                });
                if done == Err(Errno::ENOSYS) {
                    skip!("the kernel has no remap_file_pages");
                }
                done?;
                // Nothing of the open file is left, but what is mapped.
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])?;
                map.store(0, b'r');
                ensure_eq!(t.contents()?[0], b'r');
                sys::close(t.rw()?)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        ),
        C::new("map_private", Clean, "overlay: a private store", |t| {
            t.make_pages(1)?;
            let fd = t.rw()?;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            Map::new(&fd, PAGE, prot, libc::MAP_PRIVATE)?.store(0, b'p');
            sys::close(fd)?;
            t.expect(&[RW_CLEAN])
        }),
        C::new("write", Modified, "overlay: write(2)", |t| {
            t.make_pages(1)?;
            let fd = t.rw()?;
            sys::write(&fd, b"o")?;
            sys::close(fd)?;
            t.expect(&[RW_DIRTY])
        }),
    ]
}

/// A group on a file system that had to be made first, or why there is none.
fn on(name: &str, made: Result<Small>, cases: Vec<C>, mounts: &mut Vec<Small>) -> Group {
    let cases = cases.into_iter().map(C::build).collect();
    match made {
        Ok(small) => {
            let group = Group::new(name, Spec::on(small.dir()), cases);
            mounts.push(small);
            group
        }
        Err(e) => Group::new(name, Spec::on("/nonexistent"), cases).skip(Some(format!("{e:#}"))),
    }
}

/// All groups, and the mounts that they need.
pub fn groups() -> (Vec<Group>, Vec<Small>) {
    let mut mounts = Vec::new();
    let groups = vec![
        on(
            "full-tmpfs",
            Small::tmpfs("coda-full", "size=1m"),
            full_cases(),
            &mut mounts,
        ),
        on(
            "full-ext4",
            Small::ext4("coda-full-ext4", 2),
            full_cases(),
            &mut mounts,
        ),
        on(
            "huge-tmpfs",
            Small::tmpfs("coda-huge", "size=64m,huge=always"),
            huge_cases(),
            &mut mounts,
        ),
        on("dax-ext4", Small::dax("coda-dax"), dax_cases(), &mut mounts),
        on(
            "overlay-tmpfs",
            Small::overlay("coda-overlay"),
            overlay_cases(),
            &mut mounts,
        ),
    ];
    (groups, mounts)
}
