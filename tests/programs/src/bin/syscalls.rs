// SPDX-License-Identifier: GPL-2.0

//! The ordinary system calls on a mounted Coda volume: what they do to the
//! volume, what they give, and which errors.

use clap::Parser;
use coda_proto::SUPER_MAGIC;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::pioctl::pioctl;
use coda_selftests::sys::{self, child};
use coda_selftests::{aio, containers};
use ktest::{
    Case, Context, Ctx, Group, Result, Rule, Spec, Suite, bail, ensure, ensure_eq, path_c, skip,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::signal::Signal;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, lstat, mknod, stat};
use nix::sys::statfs::statfs;
use nix::sys::uio;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{AccessFlags, Gid, Uid, access, linkat, mkdir, setresgid, setresuid, symlinkat};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The ordinary system calls.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

/// A case that has a directory of its own, here and behind the mount.
fn case(
    name: &'static str,
    what: &'static str,
    body: impl Fn(&Ctx<'_>, &Path, &Path) -> Result<()> + 'static,
) -> Case {
    Case::new(name, what, move |ctx| {
        let fixture = ctx.fixture();
        let (here, behind) = (fixture.mnt.join(ctx.name), fixture.root.join(ctx.name));
        fs::create_dir(&behind)?;
        body(ctx, &here, &behind)
    })
}

/// The errno of something that has to fail.
fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result
        .err()
        .and_then(|e| e.raw_os_error())
        .map(Errno::from_raw)
}

/// Opens a path with O_PATH if that takes nothing but the kernel's caches,
/// and no reference to anything on the way.
fn open_cached(path: &Path) -> Result<OwnedFd, Errno> {
    const RESOLVE_CACHED: u64 = 0x20;
    // struct open_how: flags, mode, resolve.
    let how = [libc::O_PATH as u64, 0, RESOLVE_CACHED];
    let path = path_c(path);
    // SAFETY: a string that ends, and a structure of the size that is told.
    sys::fd_from(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        )
    })
}

/// Becomes an ordinary user, for good.
fn become_user(uid: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    nix::unistd::setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Something done by an ordinary user.
fn as_user(uid: u32, body: impl FnOnce() -> Result<()>) -> Result<()> {
    child(|_| {
        become_user(uid)?;
        body()
    })?
    .succeed()
}

fn names(dir: &Path) -> Result<BTreeSet<OsString>> {
    Ok(fs::read_dir(dir)?
        .map(|e| e.map(|e| e.file_name()))
        .collect::<Result<_, _>>()?)
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<OsString> {
    names.iter().map(OsString::from).collect()
}

fn attributes() -> Vec<Case> {
    vec![
        case(
            "stat",
            "stat(2) tells what the container's file system does",
            |_, here, behind| {
                fs::write(behind.join("f"), b"twelve bytes")?;
                fs::set_permissions(behind.join("f"), fs::Permissions::from_mode(0o640))?;
                let (a, b) = (stat(&here.join("f"))?, stat(&behind.join("f"))?);
                ensure_eq!(a.st_size, 12);
                ensure_eq!(a.st_mode, b.st_mode);
                ensure_eq!(a.st_mtime, b.st_mtime);
                ensure_eq!(a.st_mtime_nsec, b.st_mtime_nsec);
                ensure_eq!(
                    (a.st_uid, a.st_gid, a.st_nlink),
                    (b.st_uid, b.st_gid, b.st_nlink)
                );
                ensure!(a.st_dev != b.st_dev, "it is another file system");
                Ok(())
            },
        ),
        case(
            "inode_numbers",
            "st_ino is the fid's, and stays",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let fid: coda_proto::Fid = ctx
                    .fixture()
                    .fid(&format!("{}/f", ctx.name))?
                    .parse()
                    .map_err(|e| ktest::anyhow!("{e}"))?;
                let ino = stat(&here.join("f"))?.st_ino;
                ensure_eq!(ino, u64::from(fid.inode_number()));
                fs::rename(here.join("f"), here.join("g"))?;
                ensure_eq!(stat(&here.join("g"))?.st_ino, ino);
                Ok(())
            },
        ),
        case("chmod", "chmod(2)", |_, here, behind| {
            fs::write(behind.join("f"), b"")?;
            fs::set_permissions(here.join("f"), fs::Permissions::from_mode(0o601))?;
            ensure_eq!(fs::metadata(behind.join("f"))?.mode() & 0o7777, 0o601);
            ensure_eq!(fs::metadata(here.join("f"))?.mode() & 0o7777, 0o601);
            Ok(())
        }),
        case(
            "chmod_dir",
            "chmod(2) of a directory, with the sticky bit",
            |_, here, behind| {
                fs::set_permissions(here, fs::Permissions::from_mode(0o1711))?;
                ensure_eq!(fs::metadata(behind)?.mode() & 0o7777, 0o1711);
                ensure_eq!(fs::metadata(here)?.mode() & 0o7777, 0o1711);
                Ok(())
            },
        ),
        case("chown", "chown(2)", |_, here, behind| {
            fs::write(behind.join("f"), b"")?;
            let path = here.join("f");
            nix::unistd::chown(&path, Some(Uid::from_raw(11)), Some(Gid::from_raw(22)))?;
            nix::unistd::chown(&path, Some(Uid::from_raw(12)), None)?;
            let (a, b) = (fs::metadata(&path)?, fs::metadata(behind.join("f"))?);
            ensure_eq!((a.uid(), a.gid()), (12, 22));
            ensure_eq!((b.uid(), b.gid()), (12, 22));
            Ok(())
        }),
        case(
            "utimes",
            "utimensat(2), one time left alone",
            |_, here, behind| {
                use nix::sys::stat::{UtimensatFlags, utimensat};
                use nix::sys::time::TimeSpec;
                fs::write(behind.join("f"), b"")?;
                let path = here.join("f");
                let set = |atime, mtime| {
                    utimensat(
                        nix::fcntl::AT_FDCWD,
                        &path,
                        &atime,
                        &mtime,
                        UtimensatFlags::FollowSymlink,
                    )
                };
                set(TimeSpec::new(1000, 5), TimeSpec::new(2000, 6))?;
                set(TimeSpec::UTIME_OMIT, TimeSpec::new(3000, 7))?;
                let (a, b) = (stat(&path)?, stat(&behind.join("f"))?);
                ensure_eq!((a.st_mtime, a.st_mtime_nsec), (3000, 7));
                ensure_eq!((b.st_mtime, b.st_mtime_nsec), (3000, 7));
                ensure_eq!((b.st_atime, b.st_atime_nsec), (1000, 5));
                Ok(())
            },
        ),
        case("truncate", "truncate(2) down and up", |_, here, behind| {
            fs::write(behind.join("f"), b"0123456789")?;
            let path = here.join("f");
            nix::unistd::truncate(&path, 4)?;
            ensure_eq!(fs::read(behind.join("f"))?, b"0123");
            ensure_eq!(fs::metadata(&path)?.len(), 4);
            nix::unistd::truncate(&path, 6)?;
            ensure_eq!(fs::read(&path)?, b"0123\0\0");
            Ok(())
        }),
        case(
            "truncate_errors",
            "truncate(2) of what is no file",
            |_, here, behind| {
                fs::create_dir(behind.join("d"))?;
                ensure_eq!(
                    nix::unistd::truncate(&here.join("d"), 0),
                    Err(Errno::EISDIR)
                );
                ensure_eq!(
                    nix::unistd::truncate(&here.join("x"), 0),
                    Err(Errno::ENOENT)
                );
                Ok(())
            },
        ),
        case(
            "size_after_write",
            "fstat(2) sees what has been written",
            |_, here, _| {
                let mut file = fs::File::create(here.join("f"))?;
                file.write_all(&[1; 1000])?;
                ensure_eq!(file.metadata()?.len(), 1000);
                file.set_len(10)?;
                ensure_eq!(file.metadata()?.len(), 10);
                ensure_eq!(fs::metadata(here.join("f"))?.len(), 10);
                Ok(())
            },
        ),
        case(
            "mtime_after_write",
            "writing moves mtime forward",
            |_, here, behind| {
                fs::write(behind.join("f"), b"x")?;
                let old = fs::File::options().write(true).open(behind.join("f"))?;
                old.set_modified(std::time::UNIX_EPOCH)?;
                let path = here.join("f");
                ensure_eq!(fs::metadata(&path)?.mtime(), 0);
                let mut file = fs::OpenOptions::new().write(true).open(&path)?;
                file.write_all(b"y")?;
                ensure!(
                    file.metadata()?.mtime() > 1_000_000_000,
                    "fstat: still the old time"
                );
                drop(file);
                ensure!(
                    fs::metadata(&path)?.mtime() > 1_000_000_000,
                    "stat: still the old time"
                );
                Ok(())
            },
        ),
        case(
            "nlink",
            "link counts of directories and files",
            |_, here, _| {
                let links = |p: &Path| -> Result<u64> { Ok(fs::metadata(p)?.nlink()) };
                let before = links(here)?;
                fs::create_dir(here.join("d"))?;
                fs::write(here.join("f"), b"")?;
                // btrfs counts no subdirectories.
                let counted = before >= 2;
                ensure_eq!(links(here)?, if counted { before + 1 } else { before });
                fs::hard_link(here.join("f"), here.join("g"))?;
                ensure_eq!((links(&here.join("f"))?, links(&here.join("g"))?), (2, 2));
                fs::remove_file(here.join("f"))?;
                ensure_eq!(links(&here.join("g"))?, 1);
                fs::remove_dir(here.join("d"))?;
                ensure_eq!(links(here)?, before);
                Ok(())
            },
        ),
        case("statx", "statx(2) of a file", |_, here, behind| {
            fs::write(behind.join("f"), b"four")?;
            let path = path_c(&here.join("f"));
            // SAFETY: all zeroes is a statx; the kernel fills it in.
            let mut out: libc::statx = unsafe { std::mem::zeroed() };
            // SAFETY: pointers to live objects.
            sys::check(
                unsafe {
                    libc::statx(
                        libc::AT_FDCWD,
                        path.as_ptr(),
                        0,
                        libc::STATX_BASIC_STATS,
                        &mut out,
                    )
                }
                .into(),
            )?;
            ensure_eq!(out.stx_size, 4);
            // Nobody keeps access times up to date, so they may be left out.
            let wanted = libc::STATX_BASIC_STATS & !libc::STATX_ATIME;
            ensure_eq!(out.stx_mask & wanted, wanted);
            Ok(())
        }),
        case(
            "statfs",
            "statfs(2) tells the cache manager's numbers",
            |ctx, here, _| {
                let fs = statfs(here)?;
                ensure_eq!(fs.filesystem_type().0, SUPER_MAGIC);
                ensure_eq!(fs.block_size(), 4096);
                ensure_eq!(fs.maximum_name_length(), 255);
                let behind = nix::sys::statvfs::statvfs(&ctx.fixture().root)?;
                ensure_eq!(fs.blocks(), behind.blocks() * behind.fragment_size() / 4096);
                Ok(())
            },
        ),
        case(
            "statfs_refused",
            "statfs(2) without an answer makes numbers up",
            |ctx, here, _| {
                ctx.fixture()
                    .rule(Rule::on("STATFS").with("result", libc::EIO))?;
                ensure_eq!(statfs(here)?.blocks(), 9_000_000);
                Ok(())
            },
        ),
        case(
            "zapfile",
            "after CODA_ZAPFILE, stat(2) asks again",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                fs::write(behind.join("f"), b"old")?;
                ensure_eq!(fs::metadata(here.join("f"))?.len(), 3);
                fs::write(behind.join("f"), b"newer")?;
                ensure_eq!(
                    fs::metadata(here.join("f"))?.len(),
                    3,
                    "attributes are cached"
                );
                let fid = fixture.fid(&format!("{}/f", ctx.name))?;
                fixture.downcall("ZAPFILE", Some(&fid))?;
                ensure_eq!(
                    fs::metadata(here.join("f"))?.len(),
                    5,
                    "and asked for again"
                );
                Ok(())
            },
        ),
        case(
            "purgefid",
            "after CODA_PURGEFID of a directory, names are looked up again",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                ensure_eq!(errno(fs::metadata(here.join("f"))), Some(Errno::ENOENT));
                fs::write(behind.join("f"), b"")?;
                fs::create_dir(behind.join("d"))?;
                fs::write(behind.join("d/g"), b"one")?;
                ensure_eq!(fs::metadata(here.join("d/g"))?.len(), 3);
                fs::rename(behind.join("d/g"), behind.join("d/old"))?;
                fs::write(behind.join("d/g"), b"other")?;
                let fid = fixture.fid(&format!("{}/d", ctx.name))?;
                fixture.downcall("PURGEFID", Some(&fid))?;
                ensure_eq!(fs::metadata(here.join("d/g"))?.len(), 5);
                Ok(())
            },
        ),
        case(
            "zapdir",
            "after CODA_ZAPDIR, names are looked up again",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                fs::create_dir(behind.join("d"))?;
                fs::write(behind.join("d/g"), b"one")?;
                ensure_eq!(fs::metadata(here.join("d/g"))?.len(), 3);
                fs::rename(behind.join("d/g"), behind.join("d/old"))?;
                fs::write(behind.join("d/g"), b"other")?;
                let fid = fixture.fid(&format!("{}/d", ctx.name))?;
                fixture.downcall("ZAPDIR", Some(&fid))?;
                ensure_eq!(fs::metadata(here.join("d/g"))?.len(), 5);
                Ok(())
            },
        ),
        case(
            "flush",
            "after CODA_FLUSH, names are looked up again",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                fs::write(behind.join("f"), b"one")?;
                ensure_eq!(fs::metadata(here.join("f"))?.len(), 3);
                fs::rename(behind.join("f"), behind.join("old"))?;
                fs::write(behind.join("f"), b"other")?;
                ensure_eq!(fs::metadata(here.join("f"))?.len(), 3, "names are cached");
                fixture.downcall("FLUSH", None)?;
                ensure_eq!(
                    fs::metadata(here.join("f"))?.len(),
                    5,
                    "and looked up again"
                );
                Ok(())
            },
        ),
        case(
            "nocache",
            "CODA_NOCACHE: looked up each time",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let rule = Rule::on("LOOKUP").name("f").with("nocache", true);
                ctx.fixture().rule(rule)?;
                // Not stat(2), which would make the object an ordinary one.
                for _ in 0..3 {
                    access(&here.join("f"), AccessFlags::F_OK)?;
                }
                let lookups = ctx.watch.borrow_mut().requests("LOOKUP", "")?;
                let of_f = lookups.iter().filter(|e| e.text("name") == "f");
                ensure_eq!(of_f.count(), 3);
                Ok(())
            },
        ),
    ]
}

fn permissions() -> Vec<Case> {
    vec![
        case(
            "access",
            "access(2) as root and as a user",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::set_permissions(behind.join("f"), fs::Permissions::from_mode(0o640))?;
                let path = here.join("f");
                access(&path, AccessFlags::R_OK | AccessFlags::W_OK)?;
                ensure_eq!(access(&path, AccessFlags::X_OK), Err(Errno::EACCES));
                as_user(1000, || {
                    access(&path, AccessFlags::F_OK)?;
                    ensure_eq!(access(&path, AccessFlags::R_OK), Err(Errno::EACCES));
                    ensure_eq!(access(&path, AccessFlags::W_OK), Err(Errno::EACCES));
                    Ok(())
                })
            },
        ),
        case(
            "open_refused",
            "open(2) by somebody who may not",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::set_permissions(behind.join("f"), fs::Permissions::from_mode(0o644))?;
                let path = here.join("f");
                as_user(1000, || {
                    fs::File::open(&path)?;
                    let write = fs::OpenOptions::new().write(true).open(&path);
                    ensure_eq!(errno(write), Some(Errno::EACCES));
                    Ok(())
                })
            },
        ),
        case(
            "users_are_kept_apart",
            "what one user may is not remembered for another",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::set_permissions(behind.join("f"), fs::Permissions::from_mode(0o600))?;
                nix::unistd::chown(&behind.join("f"), Some(Uid::from_raw(1000)), None)?;
                let path = here.join("f");
                for _ in 0..2 {
                    as_user(1000, || Ok(access(&path, AccessFlags::R_OK)?))?;
                    as_user(1001, || {
                        ensure_eq!(access(&path, AccessFlags::R_OK), Err(Errno::EACCES));
                        Ok(())
                    })?;
                }
                Ok(())
            },
        ),
        case(
            "purgeuser",
            "after CODA_PURGEUSER, permissions are asked again",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                fs::write(behind.join("f"), b"")?;
                let path = here.join("f");
                fs::File::open(&path)?;
                ctx.watch.borrow_mut().update()?;
                let fid = fixture.fid(&format!("{}/f", ctx.name))?;
                let count = || -> Result<usize> {
                    Ok(ctx.watch.borrow_mut().requests("ACCESS", &fid)?.len())
                };
                let before = count()?;
                fs::File::open(&path)?;
                ensure_eq!(count()?, before, "remembered");
                fixture.order(
                    &serde_json::json!({ "cmd": "downcall", "op": "PURGEUSER", "uid": 0 }),
                )?;
                fs::File::open(&path)?;
                ensure_eq!(count()?, before + 1, "asked again");
                Ok(())
            },
        ),
        case(
            "chmod_forgets",
            "chmod(2) takes back what was remembered",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::set_permissions(behind.join("f"), fs::Permissions::from_mode(0o666))?;
                let path = here.join("f");
                as_user(1000, || Ok(access(&path, AccessFlags::W_OK)?))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                as_user(1000, || {
                    ensure_eq!(access(&path, AccessFlags::W_OK), Err(Errno::EACCES));
                    Ok(())
                })
            },
        ),
        case(
            "chmod_beats_an_answer",
            "what the cache manager said before a chmod(2) does not count after it",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                fs::write(behind.join("f"), b"")?;
                fs::set_permissions(behind.join("f"), fs::Permissions::from_mode(0o666))?;
                let path = here.join("f");
                let fid = fixture.fid(&format!("{}/f", ctx.name))?;
                let asks = || {
                    child(|_| {
                        become_user(1000)?;
                        Ok(access(&path, AccessFlags::W_OK)?)
                    })
                };
                let answer = Rule::on("ACCESS").fid(&fid).once().with("late", true);
                let held = fixture.rule(answer.with("hold", true))?;
                let first = asks()?;
                fixture.wait_rule(held, 1)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                fixture.release(held)?;
                first.succeed()?;
                as_user(1000, || {
                    ensure_eq!(access(&path, AccessFlags::W_OK), Err(Errno::EACCES));
                    Ok(())
                })
            },
        )
        .tag("late_answer"),
        case(
            "set_id_bits_go",
            "a write and a fallocate(2) by somebody take set-id bits away",
            |_, here, behind| {
                fs::set_permissions(here, fs::Permissions::from_mode(0o777))?;
                for name in ["write", "fallocate"] {
                    let there = behind.join(name);
                    fs::write(&there, b"")?;
                    nix::unistd::chown(&there, Some(Uid::from_raw(1000)), None)?;
                    fs::set_permissions(&there, fs::Permissions::from_mode(0o6755))?;
                    let path = here.join(name);
                    as_user(1000, || {
                        let fd = sys::open(&path, OFlag::O_WRONLY)?;
                        if name == "write" {
                            return sys::write(&fd, b"x");
                        }
                        match sys::fallocate(&fd, 0, 0, 100) {
                            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
                            Err(e) => bail!("fallocate: {e}"),
                        }
                    })?;
                    if fs::metadata(&there)?.len() > 0 {
                        let mode = |path| fs::metadata(path).map(|m| m.mode() & 0o7777);
                        ensure_eq!(mode(&there)?, 0o755, "{name}, in the container");
                        ensure_eq!(mode(&path)?, 0o755, "{name}, in the mount");
                    }
                }
                Ok(())
            },
        )
        .tag("set_id"),
        case(
            "set_id_madv_remove",
            "MADV_REMOVE by somebody: what stat(2) shows of set-id bits is so",
            |_, here, behind| {
                let there = behind.join("f");
                fs::write(&there, vec![b'x'; 2 * PAGE])?;
                nix::unistd::chown(&there, Some(Uid::from_raw(1000)), None)?;
                fs::set_permissions(&there, fs::Permissions::from_mode(0o6755))?;
                let path = here.join("f");
                as_user(1000, || {
                    let fd = sys::open(&path, OFlag::O_RDWR)?;
                    let map = Map::shared(&fd, 2 * PAGE)?;
                    Ok(map.advise_pages(0, 1, libc::MADV_REMOVE)?)
                })?;
                ensure_eq!(fs::read(&there)?[0], 0);
                let mode = |path| fs::metadata(path).map(|m| m.mode() & 0o7777);
                ensure_eq!(mode(&path)?, mode(&there)?);
                Ok(())
            },
        ),
        case(
            "directory_search",
            "a directory that may not be searched",
            |_, here, behind| {
                fs::create_dir(behind.join("d"))?;
                fs::write(behind.join("d/f"), b"")?;
                fs::set_permissions(behind.join("d"), fs::Permissions::from_mode(0o700))?;
                as_user(1000, || {
                    ensure_eq!(errno(fs::metadata(here.join("d/f"))), Some(Errno::EACCES));
                    ensure_eq!(errno(fs::read_dir(here.join("d"))), Some(Errno::EACCES));
                    Ok(())
                })
            },
        ),
        case("creator_owns", "who creates, owns", |_, here, behind| {
            fs::set_permissions(here, fs::Permissions::from_mode(0o777))?;
            as_user(1000, || {
                fs::write(here.join("f"), b"mine")?;
                fs::create_dir(here.join("d"))?;
                Ok(())
            })?;
            for name in ["f", "d"] {
                ensure_eq!(fs::metadata(behind.join(name))?.uid(), 1000);
                ensure_eq!(fs::metadata(here.join(name))?.uid(), 1000);
            }
            Ok(())
        }),
        case(
            "user_may_not_create",
            "creating where one may not",
            |_, here, behind| {
                fs::set_permissions(behind, fs::Permissions::from_mode(0o755))?;
                as_user(1000, || {
                    ensure_eq!(errno(fs::write(here.join("f"), b"")), Some(Errno::EACCES));
                    ensure_eq!(errno(fs::create_dir(here.join("d"))), Some(Errno::EACCES));
                    Ok(())
                })
            },
        ),
        case(
            "chmod_by_stranger",
            "chmod(2) by somebody else",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                as_user(1000, || {
                    let mode = fs::Permissions::from_mode(0o777);
                    let got = errno(fs::set_permissions(here.join("f"), mode));
                    ensure_eq!(got, Some(Errno::EPERM));
                    Ok(())
                })
            },
        ),
        case(
            "create_mode",
            "the umask counts, and a file that may not be written is open for writing",
            |_, here, behind| {
                nix::sys::stat::umask(Mode::from_bits_truncate(0o027));
                let path = here.join("f");
                let fd = nix::fcntl::open(
                    &path,
                    OFlag::O_CREAT | OFlag::O_WRONLY,
                    Mode::from_bits_truncate(0o444),
                )?;
                sys::write(&fd, b"still")?;
                ensure_eq!(fs::metadata(behind.join("f"))?.mode() & 0o777, 0o440);
                ensure_eq!(fs::read(behind.join("f"))?, b"still");
                Ok(())
            },
        ),
        case("create_mode_user", "as a user, too", |_, here, behind| {
            fs::set_permissions(here, fs::Permissions::from_mode(0o777))?;
            as_user(1000, || {
                let path = here.join("f");
                let fd = nix::fcntl::open(
                    &path,
                    OFlag::O_CREAT | OFlag::O_WRONLY,
                    Mode::from_bits_truncate(0o444),
                )?;
                sys::write(&fd, b"still")
            })?;
            ensure_eq!(fs::read(behind.join("f"))?, b"still");
            Ok(())
        }),
    ]
}

fn names_and_errors() -> Vec<Case> {
    vec![
        case(
            "lookup",
            "names are found, and not found",
            |_, here, behind| {
                fs::create_dir_all(behind.join("a/b/c"))?;
                fs::write(behind.join("a/b/c/f"), b"deep")?;
                ensure_eq!(fs::read(here.join("a/b/c/f"))?, b"deep");
                ensure_eq!(errno(fs::metadata(here.join("a/b/x"))), Some(Errno::ENOENT));
                ensure_eq!(errno(fs::metadata(here.join("a/x/c"))), Some(Errno::ENOENT));
                ensure_eq!(
                    errno(fs::metadata(here.join("a/b/c/f/g"))),
                    Some(Errno::ENOTDIR)
                );
                ensure_eq!(fs::read(here.join("a/../a/./b/c/f"))?, b"deep");
                Ok(())
            },
        ),
        case(
            "cached_walk",
            "fault 11: a path that is known is walked without a lock",
            |_, here, behind| {
                fs::create_dir_all(behind.join("a/b/c"))?;
                fs::write(behind.join("a/b/c/f"), b"")?;
                let path = here.join("a/b/c/f");
                fs::metadata(&path)?;
                open_cached(&path)?;
                // And where it is not known, it is not waited for.
                ensure_eq!(
                    open_cached(&here.join("a/b/c/g")).err(),
                    Some(Errno::EAGAIN)
                );
                Ok(())
            },
        )
        .tag("cached_walk"),
        case(
            "cached_walk_user",
            "fault 11: and for a user whose permissions are known",
            |_, here, behind| {
                fs::create_dir_all(behind.join("a/b"))?;
                fs::write(behind.join("a/b/f"), b"")?;
                let path = here.join("a/b/f");
                as_user(1000, || {
                    fs::metadata(&path)?;
                    open_cached(&path)?;
                    Ok(())
                })?;
                // Of somebody else's, nothing is known yet.
                as_user(1001, || {
                    ensure_eq!(open_cached(&path).err(), Some(Errno::EAGAIN));
                    fs::metadata(&path)?;
                    open_cached(&path)?;
                    Ok(())
                })
            },
        )
        .tag("cached_walk"),
        case(
            "odd_names",
            "names with odd bytes in them",
            |_, here, behind| {
                for name in [
                    &b"with space"[..],
                    b"\xff\xfe\x01",
                    b"new\nline",
                    "ümläut".as_bytes(),
                    b"-",
                    b"...",
                ] {
                    let name = std::ffi::OsStr::from_bytes(name);
                    fs::write(here.join(name), name.as_bytes())?;
                    ensure_eq!(fs::read(behind.join(name))?, name.as_bytes());
                    ensure!(names(here)?.contains(name), "{name:?} is not listed");
                    fs::remove_file(here.join(name))?;
                }
                Ok(())
            },
        ),
        case(
            "name_max",
            "255 bytes are a name, 256 are not",
            |_, here, _| {
                fs::write(here.join("n".repeat(255)), b"long")?;
                ensure_eq!(fs::read(here.join("n".repeat(255)))?, b"long");
                let long = here.join("n".repeat(256));
                ensure_eq!(errno(fs::write(&long, b"")), Some(Errno::ENAMETOOLONG));
                ensure_eq!(errno(fs::create_dir(&long)), Some(Errno::ENAMETOOLONG));
                ensure_eq!(errno(fs::metadata(&long)), Some(Errno::ENAMETOOLONG));
                Ok(())
            },
        ),
        case(
            "create_keeps_contents",
            "O_CREAT of a file that the kernel did not know to be there",
            |ctx, here, behind| {
                fs::write(behind.join("there"), b"contents")?;
                let unknown = Rule::on("LOOKUP").name("there").once();
                ctx.fixture().rule(unknown.with("result", libc::ENOENT))?;
                let fd = sys::open(&here.join("there"), OFlag::O_CREAT | OFlag::O_RDWR)?;
                ensure_eq!(sys::seek(&fd, 0, libc::SEEK_END)?, 8);
                ensure_eq!(fs::read(behind.join("there"))?, b"contents");
                Ok(())
            },
        )
        .tag("create_existing"),
        case(
            "create_truncates",
            "O_CREAT|O_TRUNC of a file that the kernel did not know to be there",
            |ctx, here, behind| {
                fs::write(behind.join("there"), b"contents")?;
                let unknown = Rule::on("LOOKUP").name("there").once();
                ctx.fixture().rule(unknown.with("result", libc::ENOENT))?;
                let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY;
                let fd = sys::open(&here.join("there"), flags)?;
                ensure_eq!(fs::metadata(behind.join("there"))?.len(), 0);
                // The VFS takes the file for new, and sends no setattr.
                ensure_eq!(nix::sys::stat::fstat(&fd)?.st_size, 0);
                Ok(())
            },
        ),
        case(
            "truncating_open_fails",
            "O_TRUNC that fails when the cache manager has truncated: the length is asked for",
            |ctx, here, behind| {
                let path = here.join("f");
                fs::write(behind.join("f"), b"twelve bytes")?;
                ensure_eq!(fs::metadata(&path)?.len(), 12);
                ctx.fixture()
                    .rule(Rule::on("SETATTR").once().with("result", libc::EACCES))?;
                let flags = OFlag::O_WRONLY | OFlag::O_TRUNC;
                ensure_eq!(sys::open(&path, flags).err(), Some(Errno::EACCES));
                ensure_eq!(fs::metadata(behind.join("f"))?.len(), 0, "behind");
                ensure_eq!(fs::metadata(&path)?.len(), 0, "through Coda");
                Ok(())
            },
        )
        .tag("truncating_open_fails"),
        case(
            "create_excl",
            "O_EXCL of an existing file",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
                ensure_eq!(sys::open(&here.join("f"), flags).err(), Some(Errno::EEXIST));
                Ok(())
            },
        ),
        case(
            "create_race",
            "a name that appeared behind our back",
            |_, here, behind| {
                // The kernel knows by now that there is no such name.
                ensure_eq!(errno(fs::metadata(here.join("f"))), Some(Errno::ENOENT));
                fs::write(behind.join("f"), b"")?;
                fs::write(here.join("f"), b"written")?;
                ensure_eq!(fs::read(behind.join("f"))?, b"written");
                Ok(())
            },
        ),
        case(
            "mkdir_errors",
            "mkdir(2) over what is there, and below what is not",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::create_dir(behind.join("d"))?;
                ensure_eq!(errno(fs::create_dir(here.join("f"))), Some(Errno::EEXIST));
                ensure_eq!(errno(fs::create_dir(here.join("d"))), Some(Errno::EEXIST));
                ensure_eq!(errno(fs::create_dir(here.join("x/y"))), Some(Errno::ENOENT));
                ensure_eq!(
                    errno(fs::create_dir(here.join("f/y"))),
                    Some(Errno::ENOTDIR)
                );
                Ok(())
            },
        ),
        case("mkdir", "mkdir(2) and its mode", |_, here, behind| {
            nix::sys::stat::umask(Mode::empty());
            mkdir(&here.join("d"), Mode::from_bits_truncate(0o751))?;
            ensure_eq!(fs::metadata(behind.join("d"))?.mode() & 0o7777, 0o751);
            fs::write(here.join("d/f"), b"x")?;
            ensure_eq!(names(&here.join("d"))?, set(["f"]));
            Ok(())
        }),
        case(
            "rmdir",
            "rmdir(2), and when it may not",
            |_, here, behind| {
                fs::create_dir(behind.join("d"))?;
                fs::write(behind.join("d/f"), b"")?;
                ensure_eq!(
                    errno(fs::remove_dir(here.join("d"))),
                    Some(Errno::ENOTEMPTY)
                );
                ensure_eq!(
                    errno(fs::remove_dir(here.join("d/f"))),
                    Some(Errno::ENOTDIR)
                );
                ensure_eq!(errno(fs::remove_dir(here.join("x"))), Some(Errno::ENOENT));
                fs::remove_file(here.join("d/f"))?;
                fs::remove_dir(here.join("d"))?;
                ensure_eq!(errno(fs::metadata(here.join("d"))), Some(Errno::ENOENT));
                ensure!(!behind.join("d").exists(), "it is still there");
                Ok(())
            },
        ),
        case(
            "unlink",
            "unlink(2), and when it may not",
            |_, here, behind| {
                fs::create_dir(behind.join("d"))?;
                fs::write(behind.join("f"), b"")?;
                ensure_eq!(errno(fs::remove_file(here.join("d"))), Some(Errno::EISDIR));
                ensure_eq!(errno(fs::remove_file(here.join("x"))), Some(Errno::ENOENT));
                fs::remove_file(here.join("f"))?;
                ensure_eq!(errno(fs::metadata(here.join("f"))), Some(Errno::ENOENT));
                ensure!(!behind.join("f").exists(), "it is still there");
                Ok(())
            },
        ),
        case(
            "unlink_open",
            "an unlinked file lives while it is open",
            |_, here, behind| {
                fs::write(behind.join("f"), b"alive")?;
                let mut file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(here.join("f"))?;
                fs::remove_file(here.join("f"))?;
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                ensure_eq!(text, "alive");
                file.write_all(b"!")?;
                ensure_eq!(file.metadata()?.len(), 6);
                ensure_eq!(file.metadata()?.nlink(), 0);
                Ok(())
            },
        ),
        case("mknod", "mknod(2) is refused", |_, here, _| {
            for kind in [SFlag::S_IFIFO, SFlag::S_IFCHR, SFlag::S_IFSOCK] {
                let refused = mknod(&here.join("n"), kind, Mode::S_IRUSR, 0);
                ensure!(
                    matches!(refused, Err(Errno::EPERM | Errno::EIO)),
                    "{kind:?}: {refused:?}"
                );
            }
            Ok(())
        }),
        case("tmpfile", "O_TMPFILE is refused", |_, here, _| {
            let refused = sys::open(here, OFlag::O_TMPFILE | OFlag::O_RDWR).err();
            ensure_eq!(refused, Some(Errno::EOPNOTSUPP));
            Ok(())
        }),
        case(
            "open_directory",
            "a directory cannot be opened for writing, a file not as a directory",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                ensure_eq!(sys::open(here, OFlag::O_RDWR).err(), Some(Errno::EISDIR));
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                ensure_eq!(
                    sys::open(&here.join("f"), flags).err(),
                    Some(Errno::ENOTDIR)
                );
                let dir = sys::open(here, OFlag::O_RDONLY)?;
                ensure_eq!(nix::unistd::read(&dir, &mut [0; 10]), Err(Errno::EISDIR));
                Ok(())
            },
        ),
        case(
            "errors_pass",
            "the cache manager's errors come through",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let fixture = ctx.fixture();
                for error in [
                    Errno::EACCES,
                    Errno::ETIMEDOUT,
                    Errno::ENODEV,
                    Errno::EDQUOT,
                    Errno::EROFS,
                ] {
                    for (op, name) in [
                        ("LOOKUP", "l"),
                        ("MKDIR", "d"),
                        ("CREATE", "c"),
                        ("REMOVE", "f"),
                    ] {
                        let name_here = format!("{name}-{error}");
                        let target = if op == "REMOVE" {
                            "f".to_owned()
                        } else {
                            name_here
                        };
                        let rule = fixture.rule(
                            Rule::on(op)
                                .name(&target)
                                .once()
                                .with("result", error as i32),
                        )?;
                        let path = here.join(&target);
                        let got = match op {
                            "LOOKUP" => errno(fs::metadata(&path)),
                            "MKDIR" => errno(fs::create_dir(&path)),
                            "CREATE" => errno(fs::File::create(&path)),
                            _ => errno(fs::remove_file(&path)),
                        };
                        ensure_eq!(got, Some(error), "{op}");
                        fixture.order(&serde_json::json!({ "cmd": "clear", "id": rule }))?;
                    }
                }
                Ok(())
            },
        ),
        case(
            "open_errors_pass",
            "fault 4: so do those of open",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                for error in [Errno::EACCES, Errno::ETIMEDOUT, Errno::ENOSPC, Errno::EBUSY] {
                    ctx.fixture()
                        .rule(Rule::on("OPEN_BY_FD").once().with("result", error as i32))?;
                    ensure_eq!(errno(fs::File::open(here.join("f"))), Some(error));
                }
                fs::File::open(here.join("f"))?;
                Ok(())
            },
        )
        .tag("open_errors"),
        case(
            "control_file",
            ".CONTROL is there, and cannot be made or removed",
            |ctx, _, _| {
                let path = ctx.fixture().mnt.join(".CONTROL");
                fs::metadata(&path)?;
                ensure_eq!(errno(fs::create_dir(&path)), Some(Errno::EEXIST));
                ensure!(
                    !names(&ctx.fixture().mnt)?.contains(&OsString::from(".CONTROL")),
                    "it is listed"
                );
                Ok(())
            },
        ),
        case(
            "control_link",
            ".CONTROL can have no other name, and nobody is asked for one",
            |ctx, _, _| {
                let mnt = &ctx.fixture().mnt;
                let linked = fs::hard_link(mnt.join(".CONTROL"), mnt.join("another"));
                ensure_eq!(errno(linked), Some(Errno::EPERM));
                ensure!(
                    !names(mnt)?.contains(&OsString::from("another")),
                    "there it is"
                );
                Ok(())
            },
        ),
        case(
            "pioctl",
            "the ioctl of .CONTROL carries data both ways",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let path = here.join("f");
                let control = ctx.fixture().mnt.join(".CONTROL");
                let control = sys::open(&control, OFlag::O_RDONLY)?;
                let mut answer = [0; 16];
                pioctl(&control, &path, b'V', 22, b"ping", &mut answer)?;
                ensure_eq!(&answer[..4], b"ping");
                let requests = ctx.watch.borrow_mut().requests("IOCTL", "")?;
                ensure_eq!(requests.len(), 1);
                ensure_eq!(requests[0].number("len"), Some(4));
                // Another type is refused by the cache manager.
                let refused = pioctl(&control, &path, b'X', 22, b"ping", &mut answer);
                ensure_eq!(refused, Err(Errno::EOPNOTSUPP));
                // And a path elsewhere by the kernel.
                let refused = pioctl(&control, Path::new("/"), b'V', 22, b"", &mut answer);
                ensure_eq!(refused, Err(Errno::EINVAL));
                Ok(())
            },
        ),
        case(
            "pioctl_file",
            "a pioctl by a file in the root, as cfs does it",
            |ctx, _, _| {
                let path = ctx.fixture().mnt.join("...PIOCTL.0000c0da");
                let mut file = fs::OpenOptions::new()
                    .create(true)
                    .write(true)
                    .truncate(true)
                    .open(&path)?;
                file.write_all(b"request")?;
                drop(file);
                ensure_eq!(fs::read(&path)?, b"request");
                fs::remove_file(&path)?;
                Ok(())
            },
        ),
    ]
}

fn links() -> Vec<Case> {
    vec![
        case(
            "rename",
            "rename(2) within a directory",
            |_, here, behind| {
                fs::write(behind.join("f"), b"moved")?;
                fs::rename(here.join("f"), here.join("g"))?;
                ensure_eq!(names(behind)?, set(["g"]));
                ensure_eq!(fs::read(here.join("g"))?, b"moved");
                ensure_eq!(errno(fs::metadata(here.join("f"))), Some(Errno::ENOENT));
                Ok(())
            },
        ),
        case("rename_over", "rename(2) over a file", |_, here, behind| {
            fs::write(behind.join("f"), b"new")?;
            fs::write(behind.join("g"), b"old")?;
            fs::metadata(here.join("g"))?;
            fs::rename(here.join("f"), here.join("g"))?;
            ensure_eq!(fs::read(here.join("g"))?, b"new");
            ensure_eq!(names(here)?, set(["g"]));
            Ok(())
        }),
        case(
            "rename_across",
            "rename(2) of a directory to another one",
            |_, here, behind| {
                for dir in ["a", "b", "a/d"] {
                    fs::create_dir(behind.join(dir))?;
                }
                fs::write(behind.join("a/d/f"), b"x")?;
                fs::read(here.join("a/d/f"))?;
                fs::rename(here.join("a/d"), here.join("b/e"))?;
                ensure_eq!(fs::read(here.join("b/e/f"))?, b"x");
                ensure_eq!(names(&here.join("a"))?, set([]));
                ensure!(behind.join("b/e/f").exists(), "not moved");
                Ok(())
            },
        ),
        case(
            "rename_dir_nlink",
            "link counts after moving directories about",
            |_, here, behind| {
                for dir in ["a", "b", "a/d", "a/e", "b/e"] {
                    fs::create_dir(behind.join(dir))?;
                }
                let links = |p: &str| -> Result<u64> { Ok(fs::metadata(here.join(p))?.nlink()) };
                if links("a")? < 2 {
                    skip!("this file system does not count subdirectories");
                }
                ensure_eq!((links("a")?, links("b")?), (4, 3));
                fs::rename(here.join("a/d"), here.join("b/d"))?;
                ensure_eq!((links("a")?, links("b")?), (3, 4), "moved");
                fs::rename(here.join("a/e"), here.join("b/e"))?;
                ensure_eq!(
                    (links("a")?, links("b")?),
                    (2, 4),
                    "moved over an empty one"
                );
                Ok(())
            },
        )
        .tag("rename_nlink"),
        case(
            "rename_errors",
            "rename(2) that may not be",
            |_, here, behind| {
                fs::create_dir_all(behind.join("a/b"))?;
                fs::create_dir_all(behind.join("full/x"))?;
                fs::write(behind.join("f"), b"")?;
                let rename =
                    |from: &str, to: &str| errno(fs::rename(here.join(from), here.join(to)));
                ensure_eq!(rename("x", "y"), Some(Errno::ENOENT));
                ensure_eq!(rename("a", "a/b/c"), Some(Errno::EINVAL));
                ensure_eq!(rename("f", "a"), Some(Errno::EISDIR));
                ensure_eq!(rename("a", "f"), Some(Errno::ENOTDIR));
                ensure_eq!(rename("a", "full"), Some(Errno::ENOTEMPTY));
                Ok(())
            },
        ),
        case(
            "rename_flags",
            "renameat2(2) takes no flags",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::write(behind.join("g"), b"")?;
                let (f, g) = (here.join("f"), here.join("g"));
                for flags in [RenameFlags::RENAME_EXCHANGE, RenameFlags::RENAME_WHITEOUT] {
                    let cwd = nix::fcntl::AT_FDCWD;
                    ensure_eq!(
                        renameat2(cwd, &f, cwd, &g, flags),
                        Err(Errno::EINVAL),
                        "{flags:?}"
                    );
                }
                Ok(())
            },
        ),
        case("link", "link(2)", |_, here, behind| {
            fs::write(here.join("f"), b"one")?;
            fs::hard_link(here.join("f"), here.join("g"))?;
            fs::write(here.join("g"), b"other")?;
            ensure_eq!(fs::read(here.join("f"))?, b"other");
            ensure_eq!(stat(&here.join("f"))?.st_ino, stat(&here.join("g"))?.st_ino);
            ensure_eq!(fs::metadata(behind.join("f"))?.nlink(), 2);
            Ok(())
        }),
        case(
            "link_errors",
            "link(2) that may not be",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::write(behind.join("g"), b"")?;
                fs::create_dir(behind.join("d"))?;
                let link =
                    |from: &str, to: &str| errno(fs::hard_link(here.join(from), here.join(to)));
                ensure_eq!(link("f", "g"), Some(Errno::EEXIST));
                ensure_eq!(link("x", "y"), Some(Errno::ENOENT));
                ensure_eq!(link("d", "e"), Some(Errno::EPERM));
                Ok(())
            },
        ),
        case(
            "symlink",
            "symlink(2), readlink(2), and going through it",
            |_, here, behind| {
                fs::write(behind.join("f"), b"target")?;
                symlinkat("f", nix::fcntl::AT_FDCWD, &here.join("l"))?;
                ensure_eq!(fs::read_link(here.join("l"))?, Path::new("f"));
                ensure_eq!(fs::read_link(behind.join("l"))?, Path::new("f"));
                ensure_eq!(fs::read(here.join("l"))?, b"target");
                ensure!(
                    lstat(&here.join("l"))?.st_mode & libc::S_IFMT == libc::S_IFLNK,
                    "no link"
                );
                ensure_eq!(lstat(&here.join("l"))?.st_size, 1);
                fs::remove_file(here.join("l"))?;
                ensure_eq!(fs::read(here.join("f"))?, b"target");
                Ok(())
            },
        ),
        case(
            "symlink_long",
            "a symbolic link of a thousand bytes",
            |_, here, behind| {
                let target = "t/".repeat(500);
                symlinkat(target.as_str(), nix::fcntl::AT_FDCWD, &here.join("l"))?;
                ensure_eq!(fs::read_link(here.join("l"))?, PathBuf::from(&target));
                ensure_eq!(fs::read_link(behind.join("l"))?, PathBuf::from(&target));
                let too_long = "t".repeat(1025);
                let refused = symlinkat(too_long.as_str(), nix::fcntl::AT_FDCWD, &here.join("m"));
                ensure_eq!(refused, Err(Errno::ENAMETOOLONG));
                Ok(())
            },
        ),
        case(
            "symlink_loop",
            "symbolic links in a circle, and to nowhere",
            |_, here, behind| {
                std::os::unix::fs::symlink("b", behind.join("a"))?;
                std::os::unix::fs::symlink("a", behind.join("b"))?;
                std::os::unix::fs::symlink("gone", behind.join("c"))?;
                ensure_eq!(errno(fs::metadata(here.join("a"))), Some(Errno::ELOOP));
                ensure_eq!(errno(fs::metadata(here.join("c"))), Some(Errno::ENOENT));
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
                ensure_eq!(sys::open(&here.join("c"), flags).err(), Some(Errno::ELOOP));
                Ok(())
            },
        ),
        case(
            "symlink_dir",
            "a symbolic link to a directory",
            |_, here, behind| {
                fs::create_dir(behind.join("d"))?;
                fs::write(behind.join("d/f"), b"through")?;
                std::os::unix::fs::symlink("d", behind.join("l"))?;
                ensure_eq!(fs::read(here.join("l/f"))?, b"through");
                fs::write(here.join("l/g"), b"new")?;
                ensure_eq!(fs::read(behind.join("d/g"))?, b"new");
                Ok(())
            },
        ),
        case(
            "symlink_over",
            "symlink(2) over what is there",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let refused = symlinkat("x", nix::fcntl::AT_FDCWD, &here.join("f"));
                ensure_eq!(refused, Err(Errno::EEXIST));
                linkat(
                    nix::fcntl::AT_FDCWD,
                    &here.join("f"),
                    nix::fcntl::AT_FDCWD,
                    &here.join("g"),
                    nix::fcntl::AtFlags::empty(),
                )?;
                fchmodat(
                    nix::fcntl::AT_FDCWD,
                    &here.join("g"),
                    Mode::S_IRUSR,
                    FchmodatFlags::FollowSymlink,
                )?;
                ensure_eq!(fs::metadata(behind.join("f"))?.mode() & 0o777, 0o400);
                Ok(())
            },
        ),
    ]
}

/// One entry as getdents64(2) gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: OsString,
    kind: u8,
    offset: i64,
    ino: u64,
}

/// Reads a directory with a buffer of that size until its end.
fn getdents(fd: &OwnedFd, size: usize) -> Result<Vec<Entry>, Errno> {
    let mut all = Vec::new();
    loop {
        let some = getdents_once(fd, size)?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

fn getdents_once(fd: &OwnedFd, size: usize) -> Result<Vec<Entry>, Errno> {
    let mut buf = vec![0u8; size];
    let n = sys::getdents(fd, &mut buf)?;
    let mut entries = Vec::new();
    let mut rest = &buf[..n];
    while !rest.is_empty() {
        let number = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().expect("eight"));
        let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let name = &rest[19..len];
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        entries.push(Entry {
            ino: number(0),
            offset: number(8) as i64,
            kind: rest[18],
            name: std::ffi::OsStr::from_bytes(&name[..end]).to_owned(),
        });
        rest = &rest[len..];
    }
    Ok(entries)
}

fn fill_dir(dir: &Path, count: usize) -> Result<()> {
    for n in 0..count {
        fs::write(dir.join(format!("entry-number-{n:05}")), b"")?;
    }
    Ok(())
}

fn directories(venus: bool, types: bool) -> Vec<Case> {
    let mut cases = vec![
        case(
            "readdir",
            "all names, and the two dots",
            |_, here, behind| {
                fill_dir(behind, 10)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                let all = getdents(&fd, 4096)?;
                ensure_eq!(all.len(), 12);
                for dot in [".", ".."] {
                    ensure_eq!(all.iter().filter(|e| e.name == dot).count(), 1, "{dot}");
                }
                Ok(())
            },
        ),
        case("readdir_empty", "an empty directory", |_, here, _| {
            ensure_eq!(names(here)?, set([]));
            let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            ensure_eq!(getdents(&fd, 4096)?.len(), 2);
            ensure_eq!(getdents(&fd, 4096)?.len(), 0);
            Ok(())
        }),
        case(
            "readdir_many",
            "five hundred names, in small pieces",
            |_, here, behind| {
                fill_dir(behind, 500)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                let all: Vec<_> = getdents(&fd, 200)?.into_iter().map(|e| e.name).collect();
                let unique: BTreeSet<_> = all.iter().collect();
                ensure_eq!(all.len(), 502);
                ensure_eq!(unique.len(), 502);
                Ok(())
            },
        )
        .seconds(20),
        case(
            "readdir_small_buffer",
            "a buffer in which no entry fits",
            |_, here, behind| {
                fill_dir(behind, 1)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                ensure_eq!(getdents(&fd, 10).err(), Some(Errno::EINVAL));
                ensure_eq!(getdents(&fd, 4096)?.len(), 3);
                Ok(())
            },
        ),
        case(
            "rewinddir",
            "lseek(2) to the beginning",
            |_, here, behind| {
                fill_dir(behind, 20)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                let first = getdents(&fd, 300)?;
                sys::seek(&fd, 0, libc::SEEK_SET)?;
                ensure_eq!(getdents(&fd, 300)?, first);
                Ok(())
            },
        ),
        case(
            "seekdir",
            "lseek(2) to every place that was told",
            |_, here, behind| {
                fill_dir(behind, 30)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                let all = getdents(&fd, 4096)?;
                for (n, entry) in all.iter().enumerate() {
                    sys::seek(&fd, entry.offset, libc::SEEK_SET)?;
                    let rest = getdents(&fd, 4096)?;
                    ensure_eq!(rest, all[n + 1..].to_vec(), "after {:?}", entry.name);
                }
                Ok(())
            },
        )
        .seconds(20),
        case(
            "readdir_while_changing",
            "names that stay are listed once while others come and go",
            |_, here, behind| {
                fill_dir(behind, 50)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                let mut seen = getdents_once(&fd, 500)?;
                fs::write(here.join("new"), b"")?;
                fs::remove_file(here.join("entry-number-00049"))?;
                seen.extend(getdents(&fd, 500)?);
                for n in 0..49 {
                    let name = format!("entry-number-{n:05}");
                    ensure_eq!(
                        seen.iter().filter(|e| *e.name == *name).count(),
                        1,
                        "{name}"
                    );
                }
                Ok(())
            },
        ),
        case("dir_fsync", "fsync(2) of a directory", |_, here, _| {
            let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            nix::unistd::fsync(&fd)?;
            Ok(nix::unistd::fdatasync(&fd)?)
        }),
        case(
            "readdir_removed",
            "a directory that was removed while open",
            |_, here, behind| {
                fs::create_dir(behind.join("d"))?;
                let fd = sys::open(&here.join("d"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                fs::remove_dir(here.join("d"))?;
                match getdents(&fd, 4096) {
                    Err(Errno::ENOENT) => Ok(()),
                    Ok(entries) if entries.iter().all(|e| e.name == "." || e.name == "..") => {
                        Ok(())
                    }
                    other => bail!("{other:?}"),
                }
            },
        ),
        case(
            "long_names",
            "names as long as can be",
            |_, here, behind| {
                let long: Vec<String> = (0..20u8)
                    .map(|n| char::from(b'a' + n).to_string().repeat(255))
                    .collect();
                for name in &long {
                    fs::write(behind.join(name), b"")?;
                }
                ensure_eq!(names(here)?, long.iter().map(OsString::from).collect());
                Ok(())
            },
        ),
    ];
    if venus {
        cases.push(case(
            "inodes_agree",
            "d_ino is st_ino",
            |_, here, behind| {
                fill_dir(behind, 5)?;
                let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                for entry in getdents(&fd, 4096)? {
                    if entry.name != "." && entry.name != ".." {
                        ensure_eq!(
                            entry.ino,
                            stat(&here.join(&entry.name))?.st_ino,
                            "{:?}",
                            entry.name
                        );
                    }
                }
                Ok(())
            },
        ));
    }
    cases.push(case(
        "types",
        "d_type is right, or unknown",
        move |_, here, behind| {
            fs::write(behind.join("f"), b"")?;
            fs::create_dir(behind.join("d"))?;
            std::os::unix::fs::symlink("f", behind.join("l"))?;
            let fd = sys::open(here, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            for entry in getdents(&fd, 4096)? {
                let right = match entry.name.to_str() {
                    Some("f") => libc::DT_REG,
                    Some("l") => libc::DT_LNK,
                    Some("d" | "." | "..") => libc::DT_DIR,
                    other => bail!("{other:?}?"),
                };
                let dots = entry.name == "." || entry.name == "..";
                let wanted = if types || dots {
                    right
                } else {
                    libc::DT_UNKNOWN
                };
                ensure_eq!(entry.kind, wanted, "{:?}", entry.name);
            }
            for entry in fs::read_dir(here)? {
                let entry = entry?;
                ensure_eq!(entry.file_type()?.is_dir(), entry.file_name() == "d");
            }
            Ok(())
        },
    ));
    cases
}

fn files() -> Vec<Case> {
    vec![
        case(
            "read_write",
            "read(2), pread(2), readv(2), and the position",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123456789")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                let mut buf = [0; 4];
                ensure_eq!(nix::unistd::read(&fd, &mut buf)?, 4);
                ensure_eq!(&buf, b"0123");
                ensure_eq!(uio::pread(&fd, &mut buf, 8)?, 2);
                ensure_eq!(&buf[..2], b"89");
                let (mut a, mut b) = ([0; 2], [0; 3]);
                uio::readv(&fd, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)])?;
                ensure_eq!((&a, &b), (b"45", b"678"));
                sys::write(&fd, b"abc")?;
                ensure_eq!(fs::read(behind.join("f"))?, b"012345678abc");
                ensure_eq!(nix::unistd::read(&fd, &mut buf)?, 0);
                Ok(())
            },
        ),
        case(
            "big_file",
            "eight megabytes, written and read",
            |_, here, behind| {
                let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 + n / 251) as u8).collect();
                let mut file = fs::File::create(here.join("f"))?;
                for _ in 0..8 {
                    file.write_all(&block)?;
                }
                drop(file);
                ensure_eq!(fs::metadata(behind.join("f"))?.len(), 8 << 20);
                let mut file = fs::File::open(here.join("f"))?;
                let mut got = vec![0; 1 << 20];
                for _ in 0..8 {
                    file.read_exact(&mut got)?;
                    ensure!(got == block, "the contents differ");
                }
                Ok(())
            },
        )
        .seconds(30),
        case("append", "fault 1: O_APPEND appends", |_, here, behind| {
            fs::write(behind.join("f"), b"head")?;
            let mut one = fs::OpenOptions::new().append(true).open(here.join("f"))?;
            let mut two = fs::OpenOptions::new().append(true).open(here.join("f"))?;
            for n in 0..3 {
                write!(one, "a{n}")?;
                write!(two, "b{n}")?;
            }
            ensure_eq!(fs::read(behind.join("f"))?, b"heada0b0a1b1a2b2");
            Ok(())
        })
        .tag("append"),
        case(
            "append_by_fcntl",
            "fault 1: O_APPEND set and cleared by fcntl(2)",
            |_, here, behind| {
                use nix::fcntl::{FcntlArg, fcntl};
                fs::write(behind.join("f"), b"0123")?;
                let fd = sys::open(&here.join("f"), OFlag::O_WRONLY)?;
                fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
                sys::write(&fd, b"x")?;
                fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
                sys::seek(&fd, 0, libc::SEEK_SET)?;
                sys::write(&fd, b"y")?;
                ensure_eq!(fs::read(behind.join("f"))?, b"y123x");
                Ok(())
            },
        )
        .tag("append"),
        case(
            "container_untouched",
            "fault 1: the cache manager's file keeps its flags",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let fixture = ctx.fixture();
                let fid = fixture.fid(&format!("{}/f", ctx.name))?;
                fixture.rule(Rule::on("OPEN_BY_FD").fid(&fid).with("linger_ms", 100))?;
                let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_SYNC;
                let fd = sys::open(&here.join("f"), flags)?;
                let seen =
                    ctx.watch
                        .borrow_mut()
                        .wait("the flags", ktest::patience(6), |events| {
                            events.iter().find(|e| e.text("ev") == "lingered").cloned()
                        })?;
                ensure_eq!(seen.number("after"), seen.number("before"), "file flags");
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                ensure_eq!(fs::read(behind.join("f"))?, b"x");
                Ok(())
            },
        )
        .tag("container_flags"),
        case(
            "llseek",
            "lseek(2) from both ends, and where it may not",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123456789")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                ensure_eq!(sys::seek(&fd, -3, libc::SEEK_END)?, 7);
                ensure_eq!(sys::seek(&fd, 1, libc::SEEK_CUR)?, 8);
                ensure_eq!(sys::seek(&fd, -1, libc::SEEK_SET), Err(Errno::EINVAL));
                ensure_eq!(sys::seek(&fd, 0, 77), Err(Errno::EINVAL));
                ensure_eq!(sys::seek(&fd, 100, libc::SEEK_SET)?, 100);
                Ok(())
            },
        ),
        case(
            "seek_data_hole",
            "SEEK_DATA and SEEK_HOLE agree with the file's end",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![1; 10_000])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                ensure_eq!(sys::seek(&fd, 0, libc::SEEK_DATA)?, 0);
                ensure_eq!(sys::seek(&fd, 0, libc::SEEK_HOLE)?, 10_000);
                ensure_eq!(sys::seek(&fd, 20_000, libc::SEEK_DATA), Err(Errno::ENXIO));
                Ok(())
            },
        ),
        case(
            "seek_end_after_growth",
            "SEEK_END sees a write by another open",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                let mut other = fs::OpenOptions::new().write(true).open(here.join("f"))?;
                other.seek(SeekFrom::End(0))?;
                other.write_all(b"4567")?;
                ensure_eq!(sys::seek(&fd, 0, libc::SEEK_END)?, 8);
                Ok(())
            },
        ),
        case(
            "splice_out",
            "splice(2) and sendfile(2) out of a file",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123456789")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                let (read, write) = nix::unistd::pipe()?;
                ensure_eq!(sys::splice(&fd, &write, 4)?, 4);
                ensure_eq!(sys::sendfile(&fd, &write, 4)?, 4);
                let mut got = [0; 8];
                ensure_eq!(nix::unistd::read(&read, &mut got)?, 8);
                ensure_eq!(&got, b"01234567");
                Ok(())
            },
        ),
        case(
            "splice_in",
            "fault 10: splice(2) into a file",
            |_, here, behind| {
                let fd = sys::open(&here.join("f"), OFlag::O_WRONLY | OFlag::O_CREAT)?;
                let pipe = sys::pipe_with(b"spliced")?;
                ensure_eq!(sys::splice(&pipe, &fd, 100)?, 7);
                ensure_eq!(fs::read(behind.join("f"))?, b"spliced");
                Ok(())
            },
        )
        .tag("splice_in"),
        case(
            "sendfile_in",
            "fault 10: sendfile(2) of a megabyte into a file",
            |ctx, here, behind| {
                let path = ctx.fixture().root.join("source");
                fs::write(&path, vec![b's'; 1 << 20])?;
                let from = sys::open(&path, OFlag::O_RDONLY)?;
                let fd = sys::open(&here.join("f"), OFlag::O_WRONLY | OFlag::O_CREAT)?;
                let mut left = 1 << 20;
                while left > 0 {
                    let n = sys::sendfile(&from, &fd, left)?;
                    ensure!(n > 0, "it stopped");
                    left -= n;
                }
                ensure_eq!(fs::read(behind.join("f"))?.len(), 1 << 20);
                Ok(())
            },
        )
        .tag("splice_in"),
        case(
            "copy_file_range",
            "fault 10: copy_file_range(2) between two files",
            |_, here, behind| {
                fs::write(behind.join("f"), b"copy me")?;
                let from = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                let to = sys::open(&here.join("g"), OFlag::O_WRONLY | OFlag::O_CREAT)?;
                ensure_eq!(sys::copy_file_range(&from, &to, 100)?, 7);
                ensure_eq!(fs::read(behind.join("g"))?, b"copy me");
                Ok(())
            },
        )
        .tag("splice_in"),
        case("std_copy", "cp's way of copying", |_, here, behind| {
            fs::write(behind.join("f"), vec![b'c'; 100_000])?;
            ensure_eq!(fs::copy(here.join("f"), here.join("g"))?, 100_000);
            ensure_eq!(fs::read(behind.join("g"))?, vec![b'c'; 100_000]);
            Ok(())
        })
        .tag("std_copy"),
        case(
            "fsync",
            "fsync(2) tells the cache manager, fdatasync(2) does not",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let fd = sys::open(&here.join("f"), OFlag::O_WRONLY)?;
                sys::write(&fd, b"x")?;
                nix::unistd::fdatasync(&fd)?;
                ensure_eq!(ctx.watch.borrow_mut().requests("FSYNC", "")?.len(), 0);
                nix::unistd::fsync(&fd)?;
                ensure_eq!(ctx.watch.borrow_mut().requests("FSYNC", "")?.len(), 1);
                Ok(())
            },
        ),
        case(
            "mmap",
            "what is stored through a mapping is in the container, and the other way",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                map.store(7, b'm');
                ensure_eq!(fs::read(behind.join("f"))?[7], b'm');
                uio::pwrite(&fd, b"w", 8)?;
                ensure_eq!(map.load(8), b'w');
                fs::File::options()
                    .write(true)
                    .open(behind.join("f"))?
                    .write_at(b"b", 9)?;
                ensure_eq!(map.load(9), b'b');
                let mut got = [0; 3];
                uio::pread(&fd, &mut got, 7)?;
                ensure_eq!(&got, b"mwb");
                Ok(())
            },
        ),
        case(
            "mmap_again",
            "fault 5: shared mappings come and go, and can be made again",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                for round in 0..5 {
                    let map = Map::shared(&fd, PAGE).with_context(|| format!("round {round}"))?;
                    map.store(round, b'm');
                }
                sys::close(fd)?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                Map::shared(&fd, PAGE).context("after another open")?;
                sys::close(fd)?;
                // The container has been left as it was.
                let container = sys::open(&behind.join("f"), OFlag::O_RDWR)?;
                for round in 0..3 {
                    Map::shared(&container, PAGE)
                        .with_context(|| format!("the container, round {round}"))?;
                }
                Ok(())
            },
        )
        .tag("mmap_again"),
        case(
            "mmap_then_execute",
            "a program can be run after its file was mapped",
            |_, here, behind| {
                // A count of writable mappings that never goes back would keep
                // it busy for ever.
                fs::copy("/bin/true", behind.join("p"))?;
                fs::set_permissions(behind.join("p"), fs::Permissions::from_mode(0o755))?;
                let fd = sys::open(&here.join("p"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                map.store(PAGE - 1, map.load(PAGE - 1));
                drop(map);
                sys::close(fd)?;
                let status = std::process::Command::new(here.join("p")).status()?;
                ensure!(status.success(), "{status}");
                Ok(())
            },
        ),
        case(
            "mmap_private",
            "private mappings see the file, and change it not",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                let map = Map::new(
                    &fd,
                    PAGE,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE,
                )?;
                map.store(0, b'p');
                ensure_eq!((map.load(0), map.load(1)), (b'p', b'o'));
                ensure_eq!(fs::read(behind.join("f"))?[0], b'o');
                Ok(())
            },
        ),
        case(
            "mmap_maps",
            "/proc/PID/maps shows the Coda path",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                let maps = fs::read_to_string("/proc/self/maps")?;
                let start = format!("{:x}-", map.address() as usize);
                let line = maps
                    .lines()
                    .find(|l| l.starts_with(&start))
                    .context("not mapped")?;
                let shown = line.split_whitespace().nth(5).unwrap_or("");
                ensure_eq!(Path::new(shown), here.join("f"));
                Ok(())
            },
        )
        .tag("maps_path"),
        case(
            "lsof",
            "lsof(8) shows the path in Coda, of a descriptor and of a mapping",
            |_, here, behind| {
                let path = here.join("f");
                fs::write(behind.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&path, OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                let pid = std::process::id().to_string();
                let output = match Command::new("lsof")
                    .args(["-n", "-w", "-F", "fn", "-p", &pid])
                    .output()
                {
                    Err(e) if e.kind() == ErrorKind::NotFound => skip!("the guest has no lsof"),
                    other => other?,
                };
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                // A line for a descriptor, and one for its name.
                let lines: Vec<_> = text.lines().collect();
                let name_of = |wanted: &str| {
                    let path = path.display().to_string();
                    lines
                        .windows(2)
                        .any(|w| w[0] == wanted && w[1].starts_with(&format!("n{path}")))
                };
                ensure!(name_of(&format!("f{}", fd.as_raw_fd())), "fd: {text}");
                ensure!(name_of("fmem"), "mapping: {text}");
                drop(map);
                Ok(())
            },
        )
        .tag("maps_path"),
        case(
            "io_uring_gone",
            "an io_uring that comes to its end interrupts no upcall",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123456789")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                // Linux 7.2 now and then loses a request if a process has no ring
                // left when it makes the next one: io-wq has sent its threads away.
                let Some(_keeper) = aio::ring()? else {
                    skip!("the kernel has no io_uring");
                };
                for n in 0..50 {
                    aio::uring_read(&fd, &mut [0; 10], 0)?.context("no io_uring")??;
                    // Its ring is gone by now, and the kernel still at work on that.
                    let made = here.join(format!("f{n}"));
                    sys::close(sys::open(&made, OFlag::O_CREAT | OFlag::O_RDWR)?)?;
                }
                Ok(())
            },
        )
        .tag("ring"),
        case("mlock", "mlock(2) of a mapping", |_, here, behind| {
            fs::write(behind.join("f"), vec![b'o'; 4 * PAGE])?;
            let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
            let map = Map::shared(&fd, 4 * PAGE)?;
            // SAFETY: the range is a mapping of ours.
            sys::check(unsafe { libc::mlock(map.address().cast(), map.len()) }.into())?;
            map.store(2 * PAGE, b'l');
            // SAFETY: as above.
            sys::check(unsafe { libc::munlock(map.address().cast(), map.len()) }.into())?;
            ensure_eq!(fs::read(behind.join("f"))?[2 * PAGE], b'l');
            Ok(())
        }),
        case(
            "mincore",
            "mincore(2) and madvise(2) of a mapping",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'o'; 4 * PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                let map = Map::new(&fd, 4 * PAGE, libc::PROT_READ, libc::MAP_SHARED)?;
                let mut there = [0u8; 4];
                map.load(0);
                // SAFETY: one byte for each page.
                sys::check(
                    unsafe { libc::mincore(map.address().cast(), map.len(), there.as_mut_ptr()) }
                        .into(),
                )?;
                ensure_eq!(there[0] & 1, 1);
                for advice in [
                    libc::MADV_WILLNEED,
                    libc::MADV_RANDOM,
                    libc::MADV_SEQUENTIAL,
                    libc::MADV_COLD,
                ] {
                    map.advise(advice)?;
                }
                Ok(())
            },
        ),
        case(
            "truncate_mapped",
            "a file that is cut while mapped: SIGBUS beyond its end",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'o'; 2 * PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, 2 * PAGE)?;
                ensure_eq!(map.load(PAGE), b'o');
                nix::unistd::ftruncate(&fd, PAGE as i64)?;
                child(|_| {
                    map.load(PAGE);
                    bail!("the page is still there")
                })?
                .die_of(Signal::SIGBUS)?;
                nix::unistd::ftruncate(&fd, 2 * PAGE as i64)?;
                ensure_eq!(map.load(PAGE), 0);
                Ok(())
            },
        ),
        case(
            "exec",
            "a program and a script are run",
            |_, here, behind| {
                fs::copy("/bin/true", behind.join("p"))?;
                fs::write(behind.join("s"), b"#!/bin/sh\nexit 7\n")?;
                for name in ["p", "s"] {
                    fs::set_permissions(behind.join(name), fs::Permissions::from_mode(0o755))?;
                }
                ensure!(
                    std::process::Command::new(here.join("p"))
                        .status()?
                        .success(),
                    "true failed"
                );
                let status = std::process::Command::new(here.join("s")).status()?;
                ensure_eq!(status.code(), Some(7));
                fs::set_permissions(here.join("s"), fs::Permissions::from_mode(0o644))?;
                let refused = std::process::Command::new(here.join("s")).status();
                ensure_eq!(errno(refused), Some(Errno::EACCES));
                Ok(())
            },
        ),
        case(
            "flock",
            "flock(2) and fcntl(2) locks exclude others",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123")?;
                let lock = |fd: &OwnedFd| {
                    // SAFETY: no memory is involved.
                    sys::check(
                        unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }
                            .into(),
                    )
                };
                let (one, two) = (
                    sys::open(&here.join("f"), OFlag::O_RDWR)?,
                    sys::open(&here.join("f"), OFlag::O_RDWR)?,
                );
                lock(&one)?;
                ensure_eq!(lock(&two), Err(Errno::EWOULDBLOCK));
                sys::close(one)?;
                lock(&two)?;
                Ok(())
            },
        ),
        case(
            "fallocate",
            "fallocate(2) works, or says that it does not",
            |_, here, behind| {
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR | OFlag::O_CREAT)?;
                match sys::fallocate(&fd, 0, 0, 5000) {
                    Ok(()) => {
                        ensure_eq!(fs::metadata(behind.join("f"))?.len(), 5000);
                        ensure_eq!(fs::metadata(here.join("f"))?.len(), 5000);
                    }
                    Err(Errno::EOPNOTSUPP) => ensure_eq!(fs::metadata(here.join("f"))?.len(), 0),
                    Err(e) => bail!("fallocate: {e}"),
                }
                Ok(())
            },
        ),
        case(
            "aio_and_uring",
            "asynchronous reads and writes",
            |_, here, behind| {
                fs::write(behind.join("f"), b"0123456789")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                ensure_eq!(aio::write(&fd, b"ab", 2)?, 2);
                if let Some(done) = aio::uring_write(&fd, b"cd", 4)? {
                    ensure_eq!(done?, 2);
                    let mut got = [0; 6];
                    let Some(done) = aio::uring_read(&fd, &mut got, 1)? else {
                        bail!("io_uring is there and is not");
                    };
                    ensure_eq!(done?, 6);
                    ensure_eq!(&got, b"1abcd6");
                }
                Ok(())
            },
        )
        .tag("ring"),
        case(
            "o_direct",
            "O_DIRECT where the container's file system can",
            |_, here, behind| {
                let from = vec![b'd'; 2 * PAGE];
                fs::write(behind.join("f"), &from)?;
                let flags = OFlag::O_RDWR | OFlag::O_DIRECT;
                let host = sys::open(&behind.join("f"), flags);
                let fd = match (sys::open(&here.join("f"), flags), host) {
                    (Ok(fd), Ok(_)) => fd,
                    (Err(e), Err(host)) if e == host => return Ok(()),
                    (ours, host) => bail!("open: {ours:?}, and the container {host:?}"),
                };
                let page = Map::anonymous(PAGE)?;
                // SAFETY: the kernel writes one page of ours.
                let n = unsafe { libc::pread(fd.as_raw_fd(), page.address().cast(), PAGE, 0) };
                ensure_eq!(sys::check(n as i64)?, PAGE as i64);
                ensure_eq!(page.load(99), b'd');
                page.store(99, b'D');
                // SAFETY: the kernel reads one page of ours.
                let n = unsafe {
                    libc::pwrite(fd.as_raw_fd(), page.address().cast(), PAGE, PAGE as i64)
                };
                ensure_eq!(sys::check(n as i64)?, PAGE as i64);
                ensure_eq!(fs::read(behind.join("f"))?[PAGE + 99], b'D');
                ensure_eq!(fs::metadata(here.join("f"))?.len(), 2 * PAGE as u64);
                Ok(())
            },
        )
        .tag("direct"),
        case(
            "o_direct_by_fcntl",
            "O_DIRECT set and unset by fcntl(2)",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'd'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                let set = |flags: OFlag| nix::fcntl::fcntl(&fd, nix::fcntl::F_SETFL(flags));
                set(OFlag::O_DIRECT)?;
                let page = Map::anonymous(PAGE)?;
                page.store(0, b'1');
                // SAFETY: the kernel reads one page of ours.
                let n = unsafe { libc::pwrite(fd.as_raw_fd(), page.address().cast(), PAGE, 0) };
                ensure_eq!(sys::check(n as i64)?, PAGE as i64);
                set(OFlag::empty())?;
                // Which direct I/O would not do.
                ensure_eq!(uio::pwrite(&fd, b"23", 1)?, 2);
                let mut got = [0; 3];
                ensure_eq!(uio::pread(&fd, &mut got, 0)?, 3);
                ensure_eq!(&got, b"123");
                ensure_eq!(&fs::read(behind.join("f"))?[..3], b"123");
                Ok(())
            },
        )
        .tag("direct"),
        case(
            "o_direct_async",
            "O_DIRECT by io_submit(2) and io_uring",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'd'; 3 * PAGE])?;
                let fd = match sys::open(&here.join("f"), OFlag::O_RDWR | OFlag::O_DIRECT) {
                    Err(Errno::EINVAL) => skip!("the container's file system has no O_DIRECT"),
                    other => other?,
                };
                let page = Map::anonymous(PAGE)?;
                page.store(0, b'1');
                // SAFETY: nobody stores there until the writes are over.
                let bytes = unsafe { std::slice::from_raw_parts(page.address(), PAGE) };
                ensure_eq!(aio::write(&fd, bytes, 0)?, PAGE as i64);
                if let Some(done) = aio::uring_write(&fd, bytes, 2 * PAGE as u64)? {
                    ensure_eq!(done?, PAGE);
                    ensure_eq!(fs::read(behind.join("f"))?[2 * PAGE], b'1');
                }
                ensure_eq!(fs::read(behind.join("f"))?[0], b'1');
                Ok(())
            },
        )
        .tag("direct"),
        case(
            "nowait",
            "RWF_NOWAIT where the container's file system can",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'n'; PAGE])?;
                let host = sys::open(&behind.join("f"), OFlag::O_RDWR)?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                // The first one asks the cache manager whether it wants to hear of them.
                ensure_eq!(uio::pread(&fd, &mut [0; 7], 0)?, 7);
                let here = sys::preadv2(&fd, &mut [0; 7], 1, libc::RWF_NOWAIT);
                let there = sys::preadv2(&host, &mut [0; 7], 1, libc::RWF_NOWAIT);
                ensure_eq!(here, there);
                let here = sys::pwritev2(&fd, b"now", 1, libc::RWF_NOWAIT);
                let there = sys::pwritev2(&host, b"now", 1, libc::RWF_NOWAIT);
                ensure_eq!(here, there);
                Ok(())
            },
        ),
        case(
            "nowait_locked",
            "RWF_NOWAIT of a file that somebody else has locked, who keeps the lock",
            |ctx, here, behind| {
                let fixture = ctx.fixture();
                fs::write(behind.join("f"), vec![b'n'; PAGE])?;
                let host = sys::open(&behind.join("f"), OFlag::O_RDWR)?;
                if sys::pwritev2(&host, b"n", 1, libc::RWF_NOWAIT) == Err(Errno::EOPNOTSUPP) {
                    skip!("the container's file system has no RWF_NOWAIT");
                }
                let path = here.join("f");
                let fd = sys::open(&path, OFlag::O_RDWR)?;
                ensure_eq!(uio::pwrite(&fd, b"n", 0)?, 1);
                let held = fixture.rule(Rule::on("SETATTR").once().with("hold", true))?;
                let locker = child(|_| {
                    Ok(fs::set_permissions(
                        &path,
                        fs::Permissions::from_mode(0o600),
                    )?)
                })?;
                fixture.wait_rule(held, 1)?;
                for _ in 0..3 {
                    let refused = sys::pwritev2(&fd, b"now", 1, libc::RWF_NOWAIT);
                    ensure_eq!(refused, Err(Errno::EAGAIN));
                }
                let writer = child(|_| sys::write(&fd, b"later"))?;
                std::thread::sleep(std::time::Duration::from_millis(300));
                let waits = waitpid(writer.pid, Some(WaitPidFlag::WNOHANG))?;
                ensure_eq!(waits, WaitStatus::StillAlive);
                fixture.release(held)?;
                locker.succeed()?;
                writer.succeed()?;
                ensure_eq!(&fs::read(behind.join("f"))?[..5], b"later");
                Ok(())
            },
        )
        .tag("nowait_locked"),
        case(
            "uring_inline",
            "io_uring reads what is cached without a thread of its own",
            |_, here, behind| {
                fs::write(behind.join("f"), vec![b'n'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDONLY)?;
                ensure_eq!(uio::pread(&fd, &mut [0; 7], 0)?, 7);
                let host = sys::open(&behind.join("f"), OFlag::O_RDONLY)?;
                ensure_eq!(uio::pread(&host, &mut [0; 7], 0)?, 7);
                let Some(there) = aio::uring_needs_thread(&host)? else {
                    skip!("the kernel has no io_uring");
                };
                if there {
                    skip!("nor does the container's file system");
                }
                ensure_eq!(aio::uring_needs_thread(&fd)?, Some(false));
                Ok(())
            },
        )
        .tag("nowait"),
        case(
            "file_types",
            "what a file is, it is on both sides",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let kind = fs::symlink_metadata(here.join("f"))?.file_type();
                ensure!(kind.is_file() && !kind.is_fifo(), "no regular file");
                Ok(())
            },
        ),
        case(
            "xattr",
            "there are no extended attributes",
            |_, here, behind| {
                fs::write(behind.join("f"), b"")?;
                let path = path_c(&here.join("f"));
                // SAFETY: strings that end, and an empty buffer.
                let ret = unsafe {
                    libc::getxattr(path.as_ptr(), c"user.x".as_ptr(), std::ptr::null_mut(), 0)
                };
                let refused = sys::check(ret as i64);
                ensure!(
                    matches!(refused, Err(Errno::EOPNOTSUPP | Errno::ENODATA)),
                    "{refused:?}"
                );
                Ok(())
            },
        ),
        case(
            "parallel",
            "eight processes, each with a directory of its own",
            |_, here, behind| {
                let kids: Result<Vec<_>> = (0..8)
                    .map(|n| {
                        let dir = here.join(format!("p{n}"));
                        child(move |_| {
                            fs::create_dir(&dir)?;
                            for f in 0..10 {
                                let path = dir.join(format!("f{f}"));
                                fs::write(&path, format!("{n}-{f}"))?;
                                ensure_eq!(fs::read_to_string(&path)?, format!("{n}-{f}"));
                            }
                            ensure_eq!(names(&dir)?.len(), 10);
                            Ok(())
                        })
                    })
                    .collect();
                kids?.into_iter().try_for_each(|kid| kid.succeed())?;
                ensure_eq!(names(behind)?.len(), 8);
                Ok(())
            },
        )
        .seconds(30),
    ]
}

/// What the module says to the cache manager while it does all that.
fn messages() -> Vec<Case> {
    vec![
        case(
            "no_finish",
            "fault 8: no FINISH after EOPNOTSUPP",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"0123456789")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                for _ in 0..3 {
                    nix::unistd::read(&fd, &mut [0; 2])?;
                }
                sys::write(&fd, b"x")?;
                sys::close(fd)?;
                let intents = ctx.watch.borrow_mut().requests("ACCESS_INTENT", "")?;
                let kinds: Vec<_> = intents.iter().map(|e| e.text("type").to_owned()).collect();
                ensure_eq!(kinds, ["READ"]);
                Ok(())
            },
        )
        .tag("no_finish"),
        case(
            "no_stray_bytes",
            "fault 7: MKDIR says nothing but what it should",
            |ctx, here, _| {
                for n in 0..20 {
                    fs::create_dir(here.join(format!("d{n}")))?;
                }
                for request in ctx.watch.borrow_mut().requests("MKDIR", "")? {
                    let attr = &request.0["attr"];
                    for field in ["uid", "gid", "size", "atime", "mtime", "nlink"] {
                        let value = attr[field].as_i64();
                        ensure!(
                            matches!(value, Some(0 | -1)),
                            "MKDIR says {field} {value:?}: kernel memory"
                        );
                    }
                }
                Ok(())
            },
        )
        .tag("stray_bytes"),
        case("header", "a request says who asks", |ctx, here, _| {
            fs::set_permissions(here, fs::Permissions::from_mode(0o777))?;
            let kid = child(|_| {
                become_user(1000)?;
                fs::write(here.join("f"), b"")?;
                Ok(())
            })?;
            let pid = kid.pid;
            kid.succeed()?;
            for op in ["CREATE", "OPEN_BY_FD", "CLOSE"] {
                let requests = ctx.watch.borrow_mut().requests(op, "")?;
                let request = requests.first().with_context(|| format!("no {op}"))?;
                ensure_eq!(request.number("uid"), Some(1000), "{op}");
                ensure_eq!(request.number("pid"), Some(pid.as_raw().into()), "{op}");
            }
            Ok(())
        }),
        case(
            "open_flags",
            "the flags of OPEN_BY_FD",
            |ctx, here, behind| {
                use coda_proto::{C_O_CREAT, C_O_READ, C_O_TRUNC, C_O_WRITE};
                fs::write(behind.join("f"), b"")?;
                for (flags, word) in [
                    (OFlag::O_RDONLY, C_O_READ),
                    (OFlag::O_WRONLY, C_O_WRITE),
                    (OFlag::O_RDWR, C_O_READ | C_O_WRITE),
                    (
                        OFlag::O_RDWR | OFlag::O_TRUNC,
                        C_O_READ | C_O_WRITE | C_O_TRUNC,
                    ),
                    (
                        OFlag::O_RDWR | OFlag::O_CREAT,
                        C_O_READ | C_O_WRITE | C_O_CREAT,
                    ),
                ] {
                    ctx.watch.borrow_mut().events.clear();
                    sys::close(sys::open(&here.join("f"), flags)?)?;
                    let requests = ctx.watch.borrow_mut().requests("OPEN_BY_FD", "")?;
                    ensure_eq!(requests.len(), 1);
                    ensure_eq!(requests[0].number("flags"), Some(word.into()), "{flags:?}");
                }
                Ok(())
            },
        ),
        case(
            "attributes_are_cached",
            "stat(2) twice asks once",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                for _ in 0..3 {
                    fs::metadata(here.join("f"))?;
                }
                let fid = ctx.fixture().fid(&format!("{}/f", ctx.name))?;
                let mut watch = ctx.watch.borrow_mut();
                ensure_eq!(watch.requests("GETATTR", &fid)?.len(), 1);
                let lookups = watch.requests("LOOKUP", "")?;
                ensure_eq!(lookups.iter().filter(|e| e.text("name") == "f").count(), 1);
                Ok(())
            },
        ),
        case(
            "setattr_says_only_what_changes",
            "SETATTR leaves the rest at -1",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"")?;
                fs::set_permissions(here.join("f"), fs::Permissions::from_mode(0o600))?;
                nix::unistd::truncate(&here.join("f"), 5)?;
                let requests = ctx.watch.borrow_mut().requests("SETATTR", "")?;
                ensure_eq!(requests.len(), 2);
                let (chmod, truncate) = (&requests[0].0["attr"], &requests[1].0["attr"]);
                ensure_eq!(chmod["size"].as_i64(), Some(-1));
                ensure_eq!(
                    (chmod["uid"].as_i64(), chmod["gid"].as_i64()),
                    (Some(-1), Some(-1))
                );
                ensure_eq!(truncate["size"].as_i64(), Some(5));
                ensure_eq!(truncate["uid"].as_i64(), Some(-1));
                Ok(())
            },
        ),
    ]
}

/// Access intents that are answered with success.
fn with_intents() -> Vec<Case> {
    vec![
        case(
            "intents",
            "each read and write is announced and finished",
            |ctx, here, behind| {
                fs::write(behind.join("f"), vec![b'i'; PAGE])?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                uio::pread(&fd, &mut [0; 10], 5)?;
                uio::pwrite(&fd, b"xyz", 7)?;
                drop(Map::shared(&fd, PAGE)?);
                sys::close(fd)?;
                let mut watch = ctx.watch.borrow_mut();
                watch.wait("CLOSE", ktest::patience(6), |events| {
                    events.iter().any(|e| e.is_request("CLOSE")).then_some(())
                })?;
                let all: Vec<_> = watch
                    .requests("ACCESS_INTENT", "")?
                    .iter()
                    .map(|e| {
                        (
                            e.text("type").to_owned(),
                            e.number("pos"),
                            e.number("count"),
                        )
                    })
                    .collect();
                let wanted = [
                    ("READ", 5, 10),
                    ("READ_FINISH", 5, 10),
                    ("WRITE", 7, 3),
                    ("WRITE_FINISH", 7, 3),
                    ("MMAP", 0, PAGE as i64),
                ]
                .map(|(kind, pos, count)| (kind.to_owned(), Some(pos), Some(count)));
                ensure_eq!(all, wanted);
                Ok(())
            },
        ),
        case(
            "intent_refused",
            "a read that the cache manager refuses fails",
            |ctx, here, behind| {
                fs::write(behind.join("f"), b"0123")?;
                let fd = sys::open(&here.join("f"), OFlag::O_RDWR)?;
                ctx.fixture()
                    .rule(Rule::on("ACCESS_INTENT").with("result", libc::EIO))?;
                ensure_eq!(nix::unistd::read(&fd, &mut [0; 2]), Err(Errno::EIO));
                ensure_eq!(nix::unistd::write(&fd, b"x"), Err(Errno::EIO));
                ensure_eq!(Map::shared(&fd, PAGE).err(), Some(Errno::EIO));
                ctx.fixture().clear_rules()?;
                ensure_eq!(nix::unistd::read(&fd, &mut [0; 2])?, 2);
                Ok(())
            },
        ),
    ]
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut groups = Vec::new();
    for (fs, all) in containers::to_test(false) {
        let container = containers::base().join(&fs);
        let skip = containers::missing(&fs);
        let mut cases = attributes();
        cases.extend(names_and_errors());
        cases.extend(files());
        if all {
            cases.extend(permissions());
            cases.extend(links());
            cases.extend(messages());
            cases.extend(directories(false, true));
        }
        groups.push(Group::new(fs.clone(), Spec::on(&container), cases).skip(skip.clone()));
        if !all {
            continue;
        }
        let venus = Spec {
            dirs: "venus",
            api: "fd",
            ..Spec::on(&container)
        };
        let venus_cases = directories(true, false);
        groups.push(Group::new(format!("{fs}-venus-dirs"), venus.clone(), venus_cases).skip(skip));
        if fs == "tmpfs" {
            let typed = Spec {
                dirent_types: true,
                ..venus
            };
            groups.push(Group::new(
                "tmpfs-typed-dirs",
                typed,
                directories(true, true),
            ));
            let intents = Spec {
                intents: true,
                ..Spec::on(&container)
            };
            groups.push(Group::new("tmpfs-intents", intents, with_intents()));
        }
    }
    Suite::new("syscalls", groups).only(args.only).run()
}
