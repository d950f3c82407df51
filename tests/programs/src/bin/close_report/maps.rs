// SPDX-License-Identifier: GPL-2.0

//! Stores through mappings, where the kernel is not asked.

use crate::case::{CloseCase as C, RO, RW_CLEAN, RW_DIRTY, T, Verdict, WO_CLEAN};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child};
use coda_selftests::uffd::Faults;
use ktest::{Context, Result, bail, ensure, ensure_eq, skip};
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::sys::wait::{WaitStatus, waitpid};
use std::fs;
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier};

/// Four pages, open for both, something done with the descriptor.
pub fn on_fd(
    name: &'static str,
    verdict: Verdict,
    what: &'static str,
    act: impl Fn(&T<'_>, &OwnedFd) -> Result<()> + 'static,
) -> C {
    let word = match verdict {
        Verdict::Modified => RW_DIRTY,
        _ => RW_CLEAN,
    };
    C::new(name, verdict, what, move |t| {
        t.make_pages(4)?;
        let fd = t.rw()?;
        act(t, &fd)?;
        sys::close(fd)?;
        t.expect(&[word])
    })
}

/// A store is all that happens to a shared mapping of four pages.
fn store(
    name: &'static str,
    what: &'static str,
    act: impl Fn(&T<'_>, &Map) -> Result<()> + 'static,
) -> C {
    on_fd(name, Verdict::Modified, what, move |t, fd| {
        let map = Map::shared(fd, 4 * PAGE).context("mmap")?;
        act(t, &map)
    })
    .mmap_store()
}

/// Something else happens to a shared mapping of four pages.
fn touch(
    name: &'static str,
    what: &'static str,
    act: impl Fn(&T<'_>, &Map) -> Result<()> + 'static,
) -> C {
    on_fd(name, Verdict::Clean, what, move |t, fd| {
        let map = Map::shared(fd, 4 * PAGE).context("mmap")?;
        act(t, &map)
    })
}

/// What the container holds at an offset must be this.
fn holds(t: &T<'_>, at: usize, byte: u8) -> Result<()> {
    ensure_eq!(t.contents()?[at], byte, "the byte at {at} of the container");
    Ok(())
}

/// Fills a page of shared memory through userfaultfd(2), which goes past all
/// of a mapping's operations; whether that is to be had.
fn uffd_copy(map: &Map) -> Result<bool> {
    let Some(faults) = Faults::of(map)? else {
        return Ok(false);
    };
    faults.copy(map, &[b'u'; PAGE])?;
    Ok(true)
}

/// The cases.
pub fn cases() -> Vec<C> {
    use Verdict::{Both, Clean, Either, Modified, NoWriter};
    vec![
        store("map_store", "mmap, one store", |t, map| {
            map.store(PAGE, b'm');
            holds(t, PAGE, b'm')
        })
        .core(),
        touch("map_nothing", "mmap MAP_SHARED, untouched", |_, _| Ok(())),
        touch(
            "map_read",
            "mmap MAP_SHARED, loads from every page",
            |_, map| {
                ensure!((0..4).all(|p| map.load(p * PAGE) == b'o'), "wrong contents");
                Ok(())
            },
        )
        .core(),
        store(
            "map_read_store",
            "mmap, a load, then a store to the same page",
            |t, map| {
                ensure_eq!(map.load(5), b'o');
                map.store(5, b'm');
                holds(t, 5, b'm')
            },
        )
        .core(),
        touch("map_sync", "mmap, loads, msync(2)", |_, map| {
            map.load(0);
            Ok(map.sync()?)
        }),
        on_fd(
            "map_private_store",
            Clean,
            "mmap MAP_PRIVATE, stores",
            |t, fd| {
                let map = Map::new(fd, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE)?;
                map.store(0, b'p');
                holds(t, 0, b'o')
            },
        )
        .core(),
        on_fd(
            "map_prot_read",
            Clean,
            "mmap PROT_READ of O_RDWR, loads",
            |_, fd| {
                let map = Map::new(fd, 4 * PAGE, PROT_READ, MAP_SHARED)?;
                ensure_eq!(map.load(0), b'o');
                Ok(())
            },
        ),
        on_fd(
            "map_mprotect_store",
            Modified,
            "mmap PROT_READ, mprotect(2), store",
            |t, fd| {
                let map = Map::new(fd, 4 * PAGE, PROT_READ, MAP_SHARED)?;
                ensure_eq!(map.load(0), b'o');
                map.protect(PROT_READ | PROT_WRITE)?;
                map.store(0, b'm');
                holds(t, 0, b'm')
            },
        )
        .mmap_store()
        .core(),
        on_fd(
            "map_mprotect_only",
            Clean,
            "mmap PROT_READ, mprotect(2), loads",
            |_, fd| {
                let map = Map::new(fd, 4 * PAGE, PROT_READ, MAP_SHARED)?;
                map.protect(PROT_READ | PROT_WRITE)?;
                ensure_eq!(map.load(0), b'o');
                Ok(())
            },
        ),
        store(
            "map_protect_none_and_back",
            "mprotect(2) to nothing and back, store",
            |t, map| {
                map.protect(libc::PROT_NONE)?;
                map.protect(PROT_READ | PROT_WRITE)?;
                map.store(9, b'm');
                holds(t, 9, b'm')
            },
        ),
        C::new(
            "map_close_store",
            Modified,
            "mmap, close(2), store, munmap(2): one close, at the end",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                sys::close(fd)?;
                t.not_closed_yet()?;
                map.store(0, b'm');
                t.not_closed_yet()?;
                drop(map);
                holds(t, 0, b'm')?;
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store()
        .core(),
        C::new(
            "map_close_read",
            Clean,
            "mmap, close(2), load, munmap(2)",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                sys::close(fd)?;
                ensure_eq!(map.load(0), b'o');
                t.not_closed_yet()?;
                drop(map);
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "map_outlives_all",
            Modified,
            "two maps of one open, the later munmap(2) closes",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let (first, second) = (Map::shared(&fd, 4 * PAGE)?, Map::shared(&fd, PAGE)?);
                sys::close(fd)?;
                drop(first);
                t.not_closed_yet()?;
                second.store(0, b'm');
                drop(second);
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_beyond_eof",
            Clean,
            "store to a page beyond the end: SIGBUS",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 2 * PAGE)?;
                child(|_| {
                    map.store(PAGE, b'm');
                    bail!("the store went through")
                })?
                .die_of(Signal::SIGBUS)?;
                drop(map);
                sys::close(fd)?;
                ensure_eq!(t.contents()?.len(), 100);
                t.expect(&[RW_CLEAN])
            },
        )
        .core(),
        C::new(
            "map_tail_store",
            Modified,
            "store to the last page, past the last byte",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                map.store(2000, b'm');
                drop(map);
                sys::close(fd)?;
                ensure_eq!(t.contents()?.len(), 100);
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new("map_hole_store", Modified, "store to a hole", |t| {
            t.make(b"")?;
            let file = fs::OpenOptions::new().write(true).open(&t.container)?;
            file.set_len(64 * PAGE as u64)?;
            let fd = t.rw()?;
            let map = Map::shared(&fd, 64 * PAGE)?;
            map.store(40 * PAGE, b'm');
            holds(t, 40 * PAGE, b'm')?;
            drop(map);
            sys::close(fd)?;
            t.expect(&[RW_DIRTY])
        })
        .mmap_store(),
        store("map_fork_store", "fork(2), the child stores", |t, map| {
            child(|_| {
                map.store(0, b'c');
                Ok(())
            })?
            .succeed()?;
            holds(t, 0, b'c')
        }),
        on_fd(
            "map_mremap_store",
            Modified,
            "mremap(2) to more, store to what is new",
            |t, fd| {
                let mut map = Map::shared(fd, PAGE)?;
                ensure_eq!(map.load(0), b'o');
                map.remap(4 * PAGE)?;
                map.store(3 * PAGE, b'm');
                holds(t, 3 * PAGE, b'm')
            },
        )
        .mmap_store(),
        C::new(
            "map_fork_outlives",
            Modified,
            "the child stores after the parent has unmapped",
            |t| {
                t.make_pages(1)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                let (wait, go) = nix::unistd::pipe()?;
                let go_number = go.as_raw_fd();
                let kid = child(|_| {
                    // SAFETY: the child's copy of a descriptor that it never uses.
                    unsafe { libc::close(go_number) };
                    nix::unistd::read(&wait, &mut [0])?;
                    map.store(0, b'c');
                    Ok(())
                })?;
                drop(map);
                sys::close(fd)?;
                t.not_closed_yet()?;
                drop(go);
                kid.succeed()?;
                holds(t, 0, b'c')?;
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store(),
        store(
            "map_partial_unmap_store",
            "munmap(2) of the middle, store behind it",
            |t, map| {
                map.punch(1, 1)?;
                map.store(3 * PAGE, b'm');
                holds(t, 3 * PAGE, b'm')
            },
        ),
        store("map_sync_store", "store, msync(2), store", |t, map| {
            map.store(0, b'1');
            map.sync()?;
            map.store(1, b'2');
            holds(t, 1, b'2')
        }),
        C::new(
            "map_store_reopen",
            Both,
            "store and close; mapped and read again: clean",
            |t| {
                t.make_pages(1)?;
                let fd = t.rw()?;
                Map::shared(&fd, PAGE)?.store(0, b'm');
                sys::close(fd)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                ensure_eq!(map.load(0), b'm');
                drop(map);
                sys::close(fd)?;
                t.expect(&[RW_DIRTY, RW_CLEAN])
            },
        )
        .mmap_store()
        .core(),
        store(
            "map_vm_writev",
            "process_vm_writev(2) into the mapping",
            |t, map| {
                let kid_target = nix::unistd::getpid();
                let remote = RemoteIoVec {
                    base: map.address() as usize,
                    len: 3,
                };
                let n = process_vm_writev(kid_target, &[IoSlice::new(b"vmw")], &[remote])?;
                ensure_eq!(n, 3);
                holds(t, 0, b'v')
            },
        ),
        store(
            "map_ptrace",
            "PTRACE_POKEDATA into the mapping",
            |t, map| {
                let kid = child(|_| {
                    ptrace::traceme()?;
                    raise(Signal::SIGSTOP)?;
                    Ok(())
                })?;
                match waitpid(kid.pid, None)? {
                    WaitStatus::Stopped(..) => (),
                    other => bail!("the child did not stop: {other:?}"),
                }
                ptrace::write(
                    kid.pid,
                    map.address().cast(),
                    i64::from_ne_bytes(*b"ptracing"),
                )?;
                ptrace::detach(kid.pid, None)?;
                kid.succeed()?;
                holds(t, 1, b't')
            },
        ),
        store("map_proc_mem", "write(2) to /proc/self/mem", |t, map| {
            let mem = fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
            mem.write_all_at(b"mem", map.address() as u64)?;
            holds(t, 2, b'm')
        }),
        on_fd(
            "map_proc_mem_readonly",
            Clean,
            "write(2) to /proc/self/mem at a PROT_READ mapping",
            |t, fd| {
                let map = Map::new(fd, PAGE, PROT_READ, MAP_SHARED)?;
                let mem = fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
                ensure!(
                    mem.write_all_at(b"mem", map.address() as u64).is_err(),
                    "the write went through"
                );
                holds(t, 0, b'o')
            },
        ),
        store(
            "map_read_into",
            "read(2) from a pipe into the mapping",
            |t, map| {
                let pipe = sys::pipe_with(b"input")?;
                // SAFETY: the kernel writes five bytes of the mapping.
                let n = unsafe { libc::read(pipe.as_raw_fd(), map.address().cast(), 5) };
                ensure_eq!(sys::check(n as i64)?, 5);
                holds(t, 4, b't')
            },
        ),
        store(
            "map_direct_read_into",
            "O_DIRECT read(2) into the mapping",
            |t, map| {
                let path = t.container.with_extension("direct");
                fs::File::create(&path)?.write_all(&[b'd'; PAGE])?;
                let opened = sys::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECT);
                fs::remove_file(&path)?;
                let from = match opened {
                    Ok(fd) => fd,
                    Err(Errno::EINVAL) => skip!("no O_DIRECT here"),
                    Err(e) => bail!("open O_DIRECT: {e}"),
                };
                // SAFETY: the kernel writes one page of the mapping.
                let n = unsafe { libc::read(from.as_raw_fd(), map.address().cast(), PAGE) };
                ensure_eq!(sys::check(n as i64)?, PAGE as i64);
                holds(t, 17, b'd')
            },
        ),
        // The hole is made through the mapping's file, by none of its operations.
        on_fd(
            "map_madv_remove",
            Modified,
            "madvise(2), MADV_REMOVE",
            |t, fd| {
                let map = Map::shared(fd, 4 * PAGE)?;
                map.advise_pages(1, 2, libc::MADV_REMOVE)
                    .context("MADV_REMOVE")?;
                holds(t, PAGE, 0)?;
                holds(t, 3 * PAGE, b'o')
            },
        )
        .tag("madv_remove")
        .core(),
        store(
            "map_madv_dontneed_store",
            "store after MADV_DONTNEED",
            |t, map| {
                map.load(0);
                map.advise(libc::MADV_DONTNEED)?;
                map.store(0, b'm');
                holds(t, 0, b'm')
            },
        ),
        touch(
            "map_madv_dontneed",
            "MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT after loads",
            |_, map| {
                for advice in [libc::MADV_DONTNEED, libc::MADV_COLD, libc::MADV_PAGEOUT] {
                    map.load(0);
                    map.advise(advice)?;
                }
                Ok(())
            },
        ),
        store(
            "map_populate_write",
            "madvise(2), MADV_POPULATE_WRITE",
            |_, map| Ok(map.advise(libc::MADV_POPULATE_WRITE)?),
        ),
        on_fd(
            "map_populate",
            Clean,
            "MAP_POPULATE, which only reads",
            |_, fd| {
                Map::new(
                    fd,
                    4 * PAGE,
                    PROT_READ | PROT_WRITE,
                    MAP_SHARED | libc::MAP_POPULATE,
                )?;
                Ok(())
            },
        ),
        touch("map_mlock", "mlock(2), which only reads", |_, map| {
            // SAFETY: the range is a mapping of ours.
            sys::check(unsafe { libc::mlock(map.address().cast(), map.len()) }.into())?;
            Ok(())
        }),
        store(
            "map_parallel",
            "four threads store to 16 pages at once",
            |_, map| {
                let barrier = Arc::new(Barrier::new(4));
                std::thread::scope(|scope| {
                    for thread in 0..4 {
                        let barrier = barrier.clone();
                        scope.spawn(move || {
                            barrier.wait();
                            for page in 0..4 {
                                map.store(
                                    ((page + thread) % 4) * PAGE + thread,
                                    b'a' + thread as u8,
                                );
                            }
                        });
                    }
                });
                Ok(())
            },
        ),
        C::new(
            "map_parallel_many",
            Modified,
            "four threads, 256 pages, first stores collide",
            |t| {
                t.make_pages(256)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 256 * PAGE)?;
                let barrier = Barrier::new(4);
                std::thread::scope(|scope| {
                    for thread in 0..4 {
                        let (map, barrier) = (&map, &barrier);
                        scope.spawn(move || {
                            barrier.wait();
                            (0..256).for_each(|page| {
                                map.store(page * PAGE + thread, b'a' + thread as u8)
                            });
                        });
                    }
                });
                drop(map);
                sys::close(fd)?;
                let got = t.contents()?;
                ensure!(
                    (0..256).all(|p| &got[p * PAGE..p * PAGE + 5] == b"abcdo"),
                    "a store got lost"
                );
                t.expect(&[RW_DIRTY])
            },
        )
        .mmap_store()
        .core(),
        on_fd(
            "map_twice",
            Modified,
            "two mappings of one open, a store through the second",
            |t, fd| {
                let (first, second) = (Map::shared(fd, PAGE)?, Map::shared(fd, PAGE)?);
                ensure_eq!(first.load(0), b'o');
                second.store(0, b'2');
                ensure_eq!(first.load(0), b'2');
                holds(t, 0, b'2')
            },
        )
        .mmap_store(),
        on_fd(
            "map_at_offset",
            Modified,
            "a mapping of the second page alone, store",
            |t, fd| {
                Map::at(fd, PAGE as i64, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED)?.store(1, b'm');
                holds(t, PAGE + 1, b'm')
            },
        )
        .mmap_store(),
        on_fd(
            "map_remap_file_pages",
            Modified,
            "remap_file_pages(2), store",
            |t, fd| {
                let map = Map::shared(fd, 4 * PAGE)?;
                // SAFETY: the range is a mapping of ours.
                let done = sys::check(unsafe {
                    libc::syscall(libc::SYS_remap_file_pages, map.address(), PAGE, 0, 3, 0)
                });
                if done == Err(Errno::ENOSYS) {
                    skip!("the kernel has no remap_file_pages");
                }
                done?;
                map.store(0, b'r');
                holds(t, 3 * PAGE, b'r')
            },
        )
        .mmap_store(),
        on_fd(
            "map_validate",
            Modified,
            "MAP_SHARED_VALIDATE, store",
            |t, fd| {
                let flags = libc::MAP_SHARED_VALIDATE;
                Map::new(fd, PAGE, PROT_READ | PROT_WRITE, flags)?.store(1, b'm');
                holds(t, 1, b'm')
            },
        )
        .mmap_store(),
        C::new("map_write_only", Clean, "mmap of O_WRONLY fails", |t| {
            t.make_pages(1)?;
            let fd = t.open(OFlag::O_WRONLY)?;
            ensure_eq!(Map::shared(&fd, PAGE).err(), Some(Errno::EACCES));
            sys::close(fd)?;
            t.expect(&[WO_CLEAN])
        }),
        C::new(
            "map_readonly_file",
            NoWriter,
            "O_RDONLY, mmap PROT_READ, load",
            |t| {
                t.make_pages(1)?;
                let fd = t.open(OFlag::O_RDONLY)?;
                let map = Map::new(&fd, PAGE, PROT_READ, MAP_SHARED)?;
                ensure_eq!(map.load(0), b'o');
                ensure_eq!(map.protect(PROT_READ | PROT_WRITE), Err(Errno::EACCES));
                ensure_eq!(Map::shared(&fd, PAGE).err(), Some(Errno::EACCES));
                drop(map);
                sys::close(fd)?;
                t.expect(&[RO])
            },
        ),
        on_fd(
            "map_refused",
            Clean,
            "mmap that fails: no length, odd offset",
            |_, fd| {
                ensure_eq!(Map::shared(fd, 0).err(), Some(Errno::EINVAL));
                let odd = Map::at(fd, 100, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
                ensure_eq!(odd.err(), Some(Errno::EINVAL));
                Ok(())
            },
        ),
        C::new(
            "map_and_write",
            Modified,
            "one process maps, another writes",
            |t| {
                t.make_pages(1)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                sys::close(fd)?;
                child(|_| {
                    let fd = t.rw()?;
                    sys::write(&fd, b"written")?;
                    sys::close(fd)?;
                    Ok(())
                })?
                .succeed()?;
                ensure_eq!(map.load(0), b'w');
                map.store(0, b'W');
                drop(map);
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        ),
        C::new(
            "map_sticky",
            Modified,
            "one maps and stores; another, who did nothing, closes first",
            |t| {
                t.make_pages(1)?;
                let (idle, fd) = (t.rw()?, t.rw()?);
                let map = Map::shared(&fd, PAGE)?;
                map.store(0, b'm');
                sys::close(idle)?;
                drop(map);
                sys::close(fd)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_of_closed_open_counts",
            Modified,
            "a mapping keeps its open; later opens stay dirty",
            |t| {
                t.make_pages(1)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                map.store(0, b'm');
                sys::close(fd)?;
                // The mapping's open is still there, so the flag is too.
                sys::close(t.rw()?)?;
                drop(map);
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "map_readonly_open_beside",
            Modified,
            "a read-only mapping lives on when the writer closes",
            |t| {
                t.make_pages(1)?;
                let (reader, writer) = (t.open(OFlag::O_RDONLY)?, t.rw()?);
                let seen = Map::new(&reader, PAGE, PROT_READ, MAP_SHARED)?;
                sys::close(reader)?;
                Map::shared(&writer, PAGE)?.store(0, b'm');
                sys::close(writer)?;
                ensure_eq!(seen.load(0), b'm');
                drop(seen);
                t.expect(&[RW_DIRTY, RO])
            },
        )
        .mmap_store(),
        on_fd(
            "map_many_times",
            Clean,
            "a hundred mappings, one after the other",
            |_, fd| {
                for _ in 0..100 {
                    ensure_eq!(Map::shared(fd, PAGE).context("mmap")?.load(0), b'o');
                }
                Ok(())
            },
        ),
        C::new(
            "map_uffd_copy",
            Either,
            "UFFDIO_COPY into the mapping, if it can be had",
            |t| {
                t.make(b"")?;
                let fd = t.rw()?;
                // Its own length change must not hide what is tested.
                sys::close(fd)?;
                fs::OpenOptions::new()
                    .write(true)
                    .open(&t.container)?
                    .set_len(PAGE as u64)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, PAGE)?;
                let copied = uffd_copy(&map)?;
                drop(map);
                sys::close(fd)?;
                ensure_eq!(t.contents()?[0], if copied { b'u' } else { 0 });
                t.expect(&[RW_CLEAN, if copied { RW_DIRTY } else { RW_CLEAN }])
            },
        ),
    ]
}
