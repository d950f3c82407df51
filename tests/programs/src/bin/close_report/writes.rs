// SPDX-License-Identifier: GPL-2.0

//! Everything that is a system call on a descriptor.

use crate::case::{CloseCase as C, RO, RW_CLEAN, RW_DIRTY, T, Verdict, WO_CLEAN, WO_DIRTY};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys;
use ktest::{Context, Result, bail, ensure, ensure_eq, skip};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::uio;
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

/// Opens, does it, closes: what a flags word is about.
fn rw(
    name: &'static str,
    verdict: Verdict,
    what: &'static str,
    act: fn(&T<'_>, &OwnedFd) -> Result<()>,
) -> C {
    let word = match verdict {
        Verdict::Modified => RW_DIRTY,
        _ => RW_CLEAN,
    };
    C::new(name, verdict, what, move |t| {
        t.make_default()?;
        let fd = t.rw()?;
        act(t, &fd)?;
        sys::close(fd)?;
        t.expect(&[word])
    })
}

fn fallocate(name: &'static str, what: &'static str, mode: i32) -> C {
    C::new(name, Verdict::Either, what, move |t| {
        t.make_pages(4)?;
        let fd = t.rw()?;
        let done = sys::fallocate(&fd, mode, 0, 8192);
        sys::close(fd)?;
        match done {
            Ok(()) => t.expect(&[RW_DIRTY]),
            // Refused, by us or by the container's file system.
            Err(Errno::EOPNOTSUPP) => t.expect(&[RW_CLEAN]),
            Err(e) => bail!("fallocate: {e}"),
        }
    })
}

/// Opens for I/O that goes past the page cache.
fn direct(t: &T<'_>) -> Result<OwnedFd> {
    match sys::open(&t.container, OFlag::O_RDWR | OFlag::O_DIRECT) {
        Err(Errno::EINVAL) => skip!("the container's file system has no O_DIRECT"),
        host => drop(host?),
    }
    t.open(OFlag::O_RDWR | OFlag::O_DIRECT)
}

/// The cases.
pub fn cases() -> Vec<C> {
    use Verdict::{Both, Clean, Modified, NoWriter};
    vec![
        // Routes by which bytes get in.
        rw("write", Modified, "write(2) of one byte", |_, fd| {
            sys::write(fd, b"x")
        })
        .core(),
        C::new("write_only", Modified, "O_WRONLY, write(2)", |t| {
            t.make_default()?;
            let fd = t.open(OFlag::O_WRONLY)?;
            sys::write(&fd, b"x")?;
            sys::close(fd)?;
            t.expect(&[WO_DIRTY])
        })
        .core(),
        rw("pwrite", Modified, "pwrite(2) in the middle", |t, fd| {
            ensure_eq!(uio::pwrite(fd, b"xyz", 50)?, 3);
            ensure_eq!(&t.contents()?[49..54], b"oxyzo");
            Ok(())
        }),
        rw(
            "pwrite_past_end",
            Modified,
            "pwrite(2) beyond the end",
            |t, fd| {
                ensure_eq!(uio::pwrite(fd, b"x", 5000)?, 1);
                ensure_eq!(t.contents()?.len(), 5001);
                Ok(())
            },
        ),
        rw("writev", Modified, "writev(2) of two pieces", |_, fd| {
            let n = uio::writev(fd, &[IoSlice::new(b"ab"), IoSlice::new(b"cd")])?;
            ensure_eq!(n, 4);
            Ok(())
        }),
        rw(
            "pwritev2",
            Modified,
            "pwritev2(2) with RWF_DSYNC",
            |_, fd| {
                ensure_eq!(sys::pwritev2(fd, b"x", 7, libc::RWF_DSYNC)?, 1);
                Ok(())
            },
        ),
        C::new(
            "pwritev2_append",
            Modified,
            "pwritev2(2) with RWF_APPEND",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                ensure_eq!(sys::pwritev2(&fd, b"x", 0, libc::RWF_APPEND)?, 1);
                ensure_eq!(t.contents()?.len(), 101, "appended at the end");
                sys::close(fd)?;
                t.expect(&[RW_DIRTY])
            },
        )
        .tag("append"),
        C::new("append", Modified, "three writes with O_APPEND", |t| {
            t.make_default()?;
            let fd = t.open(OFlag::O_WRONLY | OFlag::O_APPEND)?;
            for piece in [b"one", b"two", b"six"] {
                sys::write(&fd, piece)?;
            }
            sys::close(fd)?;
            let mut want = vec![b'o'; 100];
            want.extend(b"onetwosix");
            ensure!(t.contents()? == want, "the appends went elsewhere");
            t.expect(&[WO_DIRTY])
        })
        .tag("append")
        .core(),
        C::new(
            "append_to_empty",
            Modified,
            "one write with O_APPEND to an empty file",
            |t| {
                t.make(b"")?;
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_APPEND)?;
                sys::write(&fd, b"one")?;
                sys::close(fd)?;
                ensure_eq!(t.contents()?, b"one");
                t.expect(&[WO_DIRTY])
            },
        ),
        C::new("direct_write", Modified, "O_DIRECT, write(2)", |t| {
            t.make_pages(2)?;
            let fd = direct(t)?;
            let page = Map::anonymous(PAGE)?;
            ensure_eq!(sys::write_raw(&fd, page.address(), PAGE)?, PAGE);
            sys::close(fd)?;
            ensure_eq!(t.contents()?[..2], [0, 0]);
            t.expect(&[RW_DIRTY])
        })
        .tag("direct"),
        C::new("direct_aio", Modified, "O_DIRECT, io_submit(2)", |t| {
            t.make_pages(2)?;
            let fd = direct(t)?;
            let page = Map::anonymous(PAGE)?;
            // SAFETY: nobody stores there.
            let bytes = unsafe { std::slice::from_raw_parts(page.address(), PAGE) };
            ensure_eq!(
                coda_selftests::aio::write(&fd, bytes, PAGE as i64)?,
                PAGE as i64
            );
            sys::close(fd)?;
            ensure_eq!(t.contents()?[PAGE..PAGE + 2], [0, 0]);
            t.expect(&[RW_DIRTY])
        })
        .tag("direct"),
        C::new("direct_read", Clean, "O_DIRECT, read(2)", |t| {
            t.make_pages(2)?;
            let fd = direct(t)?;
            let page = Map::anonymous(PAGE)?;
            // SAFETY: the kernel writes one page of ours.
            let n = unsafe { libc::read(fd.as_raw_fd(), page.address().cast(), PAGE) };
            ensure_eq!(sys::check(n as i64)?, PAGE as i64);
            sys::close(fd)?;
            t.expect(&[RW_CLEAN])
        }),
        C::new(
            "pwritev2_nowait",
            Verdict::Either,
            "pwritev2(2) with RWF_NOWAIT",
            |t| {
                t.make_pages(1)?;
                let fd = t.rw()?;
                uio::pread(&fd, &mut [0; 1], 0)?;
                let done = sys::pwritev2(&fd, b"now", 5, libc::RWF_NOWAIT);
                sys::close(fd)?;
                match done {
                    Ok(_) => t.expect(&[RW_DIRTY]),
                    Err(Errno::EOPNOTSUPP) => t.expect(&[RW_CLEAN]),
                    // If that comes from the host, nobody knows whether it began.
                    Err(Errno::EAGAIN) => t.expect_one_of(&[&[RW_CLEAN], &[RW_DIRTY]]),
                    Err(e) => bail!("pwritev2: {e}"),
                }
            },
        ),
        rw("aio", Modified, "io_submit(2)", |t, fd| {
            ensure_eq!(coda_selftests::aio::write(fd, b"async", 10)?, 5);
            ensure_eq!(&t.contents()?[10..15], b"async");
            Ok(())
        }),
        rw("io_uring", Modified, "IORING_OP_WRITE", |t, fd| {
            let Some(done) = coda_selftests::aio::uring_write(fd, b"async", 10)? else {
                skip!("the kernel has no io_uring");
            };
            ensure_eq!(done?, 5);
            ensure_eq!(&t.contents()?[10..15], b"async");
            Ok(())
        })
        .tag("ring"),
        rw("splice_in", Modified, "splice(2) from a pipe", |t, fd| {
            let pipe = sys::pipe_with(b"spliced")?;
            ensure_eq!(sys::splice(&pipe, fd, 7).context("splice")?, 7);
            ensure_eq!(&t.contents()?[..8], b"splicedo");
            Ok(())
        })
        .tag("splice_in"),
        rw("sendfile_in", Modified, "sendfile(2) into it", |t, fd| {
            let from = sys::open(std::env::current_exe()?.as_path(), OFlag::O_RDONLY)?;
            ensure_eq!(sys::sendfile(&from, fd, 4).context("sendfile")?, 4);
            ensure_eq!(&t.contents()?[..4], b"\x7fELF");
            Ok(())
        })
        .tag("splice_in"),
        rw(
            "copy_file_range_in",
            Modified,
            "copy_file_range(2) from another Coda file",
            |t, fd| {
                fs::write(t.container.with_extension("from"), b"copied")?;
                let from = sys::open(&t.path.with_extension("from"), OFlag::O_RDONLY)?;
                let n = sys::copy_file_range(&from, fd, 6).context("copy_file_range")?;
                ensure_eq!(n, 6);
                ensure_eq!(&t.contents()?[..7], b"copiedo");
                Ok(())
            },
        )
        .tag("splice_in"),
        C::new(
            "copy_file_range_itself",
            Modified,
            "copy_file_range(2) within the file",
            |t| {
                t.make_default()?;
                let from = t.open(OFlag::O_RDONLY)?;
                let to = t.rw()?;
                sys::seek(&to, 50, libc::SEEK_SET)?;
                ensure_eq!(
                    sys::copy_file_range(&from, &to, 4).context("copy_file_range")?,
                    4
                );
                sys::close(from)?;
                sys::close(to)?;
                t.expect(&[RO, RW_DIRTY])
            },
        )
        .tag("splice_in"),
        fallocate("fallocate", "fallocate(2)", 0),
        fallocate(
            "fallocate_keep_size",
            "fallocate(2), FALLOC_FL_KEEP_SIZE",
            libc::FALLOC_FL_KEEP_SIZE,
        ),
        fallocate(
            "fallocate_punch",
            "fallocate(2), FALLOC_FL_PUNCH_HOLE",
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        ),
        fallocate(
            "fallocate_zero",
            "fallocate(2), FALLOC_FL_ZERO_RANGE",
            libc::FALLOC_FL_ZERO_RANGE,
        ),
        C::new(
            "io_uring_fallocate",
            Verdict::Either,
            "IORING_OP_FALLOCATE",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                let done = coda_selftests::aio::uring_fallocate(&fd, 8192)?;
                sys::close(fd)?;
                match done {
                    None => skip!("the kernel has no io_uring"),
                    Some(Ok(_)) => t.expect(&[RW_DIRTY]),
                    Some(Err(Errno::EOPNOTSUPP)) => t.expect(&[RW_CLEAN]),
                    Some(Err(e)) => bail!("fallocate: {e}"),
                }
            },
        )
        .tag("ring"),
        rw("big_write", Modified, "write(2) of a megabyte", |t, fd| {
            sys::write(fd, &vec![b'b'; 1 << 20])?;
            ensure_eq!(t.contents()?.len(), 1 << 20);
            Ok(())
        }),
        // Length.
        rw(
            "ftruncate_down",
            Modified,
            "ftruncate(2) to less",
            |t, fd| {
                nix::unistd::ftruncate(fd, 10)?;
                ensure_eq!(t.contents()?.len(), 10);
                Ok(())
            },
        )
        .core(),
        rw("ftruncate_up", Modified, "ftruncate(2) to more", |t, fd| {
            nix::unistd::ftruncate(fd, 1000)?;
            ensure_eq!(t.contents()?.len(), 1000);
            Ok(())
        }),
        rw(
            "ftruncate_same",
            Modified,
            "ftruncate(2) to the size it had",
            |_, fd| Ok(nix::unistd::ftruncate(fd, 100)?),
        ),
        rw(
            "ftruncate_failed",
            Clean,
            "ftruncate(2) to a negative size",
            |_, fd| {
                ensure_eq!(nix::unistd::ftruncate(fd, -1), Err(Errno::EINVAL));
                Ok(())
            },
        ),
        rw(
            "truncate_elsewhere",
            Modified,
            "truncate(2) by path while it is open",
            |t, _| Ok(nix::unistd::truncate(&t.path, 10)?),
        )
        .core(),
        C::new(
            "truncate_before",
            Clean,
            "truncate(2) by path, then open and close",
            |t| {
                t.make_default()?;
                nix::unistd::truncate(&t.path, 10)?;
                let fd = t.rw()?;
                sys::close(fd)?;
                ensure_eq!(t.contents()?.len(), 10);
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "truncate_between",
            Both,
            "truncate(2) between two opens: only the first sees a writer",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                nix::unistd::truncate(&t.path, 10)?;
                let fd = t.rw()?;
                sys::close(fd)?;
                t.expect(&[RW_DIRTY, RW_CLEAN])
            },
        ),
        C::new("o_trunc", Modified, "O_TRUNC of an existing file", |t| {
            t.make_default()?;
            let fd = t.open(OFlag::O_RDWR | OFlag::O_TRUNC)?;
            sys::close(fd)?;
            ensure_eq!(t.contents()?, b"");
            t.expect(&[RW_DIRTY])
        })
        .core(),
        C::new("o_trunc_empty", Modified, "O_TRUNC of an empty file", |t| {
            t.make(b"")?;
            let fd = t.open(OFlag::O_WRONLY | OFlag::O_TRUNC)?;
            sys::close(fd)?;
            t.expect(&[WO_DIRTY])
        }),
        C::new(
            "o_trunc_while_open",
            Modified,
            "O_TRUNC by one, close of the other",
            |t| {
                t.make_default()?;
                let first = t.rw()?;
                let second = t.open(OFlag::O_WRONLY | OFlag::O_TRUNC)?;
                sys::close(first)?;
                sys::close(second)?;
                t.expect(&[RW_DIRTY, WO_DIRTY])
            },
        ),
        C::new(
            "o_creat_new",
            Clean,
            "O_CREAT of a new name, nothing written",
            |t| {
                let fd = t.open(OFlag::O_RDWR | OFlag::O_CREAT)?;
                sys::close(fd)?;
                ensure_eq!(t.contents()?, b"");
                t.expect(&[RW_CLEAN])
            },
        )
        .core(),
        C::new(
            "o_creat_excl_new",
            Clean,
            "O_CREAT|O_EXCL, nothing written",
            |t| {
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?;
                sys::close(fd)?;
                t.expect(&[WO_CLEAN])
            },
        ),
        C::new(
            "o_creat_trunc_new",
            Clean,
            "O_CREAT|O_TRUNC of a new name, nothing written",
            |t| {
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)?;
                sys::close(fd)?;
                t.expect(&[WO_CLEAN])
            },
        )
        .core(),
        C::new(
            "o_creat_written",
            Modified,
            "O_CREAT|O_TRUNC of a new name, then write(2)",
            |t| {
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)?;
                sys::write(&fd, b"new")?;
                sys::close(fd)?;
                ensure_eq!(t.contents()?, b"new");
                t.expect(&[WO_DIRTY])
            },
        ),
        C::new(
            "o_creat_existing",
            Clean,
            "O_CREAT of an existing file",
            |t| {
                t.make_default()?;
                let fd = t.open(OFlag::O_RDWR | OFlag::O_CREAT)?;
                sys::close(fd)?;
                ensure_eq!(t.contents()?.len(), 100);
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "o_creat_trunc_existing",
            Modified,
            "O_CREAT|O_TRUNC of an existing file",
            |t| {
                t.make_default()?;
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)?;
                sys::close(fd)?;
                ensure_eq!(t.contents()?, b"");
                t.expect(&[WO_DIRTY])
            },
        ),
        C::new("o_trunc_readonly", NoWriter, "O_RDONLY|O_TRUNC", |t| {
            t.make_default()?;
            let fd = t.open(OFlag::O_RDONLY | OFlag::O_TRUNC)?;
            sys::close(fd)?;
            ensure_eq!(t.contents()?, b"");
            t.expect(&[RO])
        }),
        // Nothing happens.
        rw("nothing", Clean, "open and close", |_, _| Ok(())).core(),
        C::new(
            "nothing_write_only",
            Clean,
            "open O_WRONLY and close",
            |t| {
                t.make_default()?;
                sys::close(t.open(OFlag::O_WRONLY)?)?;
                t.expect(&[WO_CLEAN])
            },
        ),
        C::new("read_only", NoWriter, "O_RDONLY, read(2)", |t| {
            t.make_default()?;
            let fd = t.open(OFlag::O_RDONLY)?;
            ensure_eq!(nix::unistd::read(&fd, &mut [0; 200])?, 100);
            sys::close(fd)?;
            t.expect(&[RO])
        })
        .core(),
        C::new("directory", NoWriter, "a directory", |t| {
            fs::create_dir(&t.container)?;
            let fd = t.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            sys::close(fd)?;
            t.expect(&[RO])
        }),
        rw("read", Clean, "O_RDWR, read(2)", |_, fd| {
            ensure_eq!(nix::unistd::read(fd, &mut [0; 200])?, 100);
            Ok(())
        })
        .core(),
        rw(
            "read_all_ways",
            Clean,
            "pread, readv, io_uring, splice out, sendfile out",
            |_, fd| {
                let mut buf = [0; 10];
                ensure_eq!(uio::pread(fd, &mut buf, 5)?, 10);
                if let Some(done) = coda_selftests::aio::uring_read(fd, &mut buf, 5)? {
                    ensure_eq!(done?, 10);
                }
                let (read, write) = nix::unistd::pipe()?;
                ensure_eq!(sys::splice(fd, &write, 10)?, 10);
                ensure_eq!(sys::sendfile(fd, &write, 10)?, 10);
                ensure_eq!(nix::unistd::read(&read, &mut [0; 100])?, 20);
                Ok(())
            },
        ),
        rw(
            "copy_file_range_out",
            Clean,
            "copy_file_range(2) to another Coda file",
            |t, fd| {
                let to = t.path.with_extension("to");
                let to = sys::open(&to, OFlag::O_WRONLY | OFlag::O_CREAT)?;
                let n = sys::copy_file_range(fd, &to, 10).context("copy_file_range")?;
                ensure_eq!(n, 10);
                Ok(())
            },
        )
        .tag("splice_in"),
        rw("lseek", Clean, "lseek(2) beyond the end", |_, fd| {
            ensure_eq!(sys::seek(fd, 5000, libc::SEEK_SET)?, 5000);
            ensure_eq!(sys::seek(fd, 0, libc::SEEK_END)?, 100);
            Ok(())
        }),
        rw("fsync", Clean, "fsync(2) and fdatasync(2)", |_, fd| {
            nix::unistd::fsync(fd)?;
            Ok(nix::unistd::fdatasync(fd)?)
        })
        .core(),
        rw(
            "write_fsync",
            Modified,
            "write(2), fsync(2): not stored yet",
            |_, fd| {
                sys::write(fd, b"x")?;
                Ok(nix::unistd::fsync(fd)?)
            },
        ),
        rw("chmod", Clean, "fchmod(2)", |_, fd| {
            Ok(nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(0o600))?)
        }),
        rw("chown", Clean, "fchown(2)", |_, fd| {
            let uid = nix::unistd::Uid::from_raw(1234);
            Ok(nix::unistd::fchown(fd, Some(uid), None)?)
        }),
        rw("utimes", Clean, "futimens(2)", |_, fd| {
            use nix::sys::time::TimeSpec;
            let time = TimeSpec::new(1_000_000_000, 0);
            Ok(nix::sys::stat::futimens(fd, &time, &time)?)
        }),
        rw("locks", Clean, "flock(2) and fcntl(2) locks", |_, fd| {
            // SAFETY: no memory is involved.
            sys::check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) }.into())?;
            let lock = libc::flock {
                l_type: libc::F_WRLCK as i16,
                l_whence: 0,
                l_start: 0,
                l_len: 10,
                l_pid: 0,
            };
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETLK(&lock))?;
            Ok(())
        }),
        // It was tried.
        rw("write_nothing", Clean, "write(2) of no bytes", |_, fd| {
            ensure_eq!(nix::unistd::write(fd, b"")?, 0);
            ensure_eq!(uio::pwrite(fd, b"", 5000)?, 0);
            ensure_eq!(uio::writev(fd, &[])?, 0);
            Ok(())
        })
        .core(),
        C::new(
            "append_nothing",
            Clean,
            "write(2) of no bytes with O_APPEND",
            |t| {
                t.make_default()?;
                let fd = t.open(OFlag::O_WRONLY | OFlag::O_APPEND)?;
                ensure_eq!(nix::unistd::write(&fd, b"")?, 0);
                sys::close(fd)?;
                t.expect(&[WO_CLEAN])
            },
        ),
        rw(
            "write_efault",
            Clean,
            "write(2) from a bad address",
            |_, fd| {
                ensure_eq!(
                    sys::write_raw(fd, std::ptr::without_provenance(8), 10),
                    Err(Errno::EFAULT)
                );
                Ok(())
            },
        )
        .core(),
        rw(
            "write_efbig",
            Clean,
            "write(2) beyond RLIMIT_FSIZE",
            |_, fd| {
                sys::limit_file_size(50)?;
                ensure_eq!(uio::pwrite(fd, b"x", 60), Err(Errno::EFBIG));
                Ok(())
            },
        ),
        rw(
            "write_einval",
            Clean,
            "pwrite(2) at a negative offset",
            |_, fd| {
                ensure_eq!(uio::pwrite(fd, b"x", -1), Err(Errno::EINVAL));
                Ok(())
            },
        ),
        rw(
            "splice_in_nothing",
            Clean,
            "splice(2) from an empty pipe",
            |_, fd| {
                let (read, write) = nix::unistd::pipe()?;
                drop(write);
                // Where it is not offered at all, nothing is written either.
                match sys::splice(&read, fd, 7) {
                    Ok(0) | Err(Errno::EINVAL) => Ok(()),
                    other => bail!("splice: {other:?}"),
                }
            },
        ),
        C::new("write_ebadf", NoWriter, "write(2) to O_RDONLY", |t| {
            t.make_default()?;
            let fd = t.open(OFlag::O_RDONLY)?;
            ensure_eq!(nix::unistd::write(&fd, b"x"), Err(Errno::EBADF));
            sys::close(fd)?;
            t.expect(&[RO])
        }),
        // It half succeeded.
        rw(
            "partial_rlimit",
            Modified,
            "write(2) cut short by RLIMIT_FSIZE",
            |t, fd| {
                sys::limit_file_size(150)?;
                ensure_eq!(uio::pwrite(fd, &[b'x'; 100], 100)?, 50);
                ensure_eq!(t.contents()?.len(), 150);
                Ok(())
            },
        ),
    ]
}
