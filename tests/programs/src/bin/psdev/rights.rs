// SPDX-License-Identifier: GPL-2.0

//! What a user may, and what the options of a mount forbid.

use coda_proto::{Opcode, OutHdr, ReplaceOut};
use coda_selftests::containers;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child};
use ktest::{
    Case, Context, Fixture, Result, Rule, Spec, ensure, ensure_eq, patience, run_to_end, wait_for,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use zerocopy::IntoBytes;

/// A case with a cache manager of its own.
fn case(
    name: &'static str,
    what: &'static str,
    body: impl Fn(&Fixture) -> Result<()> + 'static,
) -> Case {
    Case::new(name, what, move |_| {
        let fixture = Fixture::start(&Spec::on(containers::base().join("tmpfs")))?;
        body(&fixture)?;
        fixture.stop()
    })
}

/// Becomes an ordinary user, for good.
fn become_user(uid: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// What id(1), set-uid root, says when an ordinary user calls it.
fn effective_user(id: &Path) -> Result<String> {
    let out = std::env::temp_dir().join(format!("id-{}", std::process::id()));
    let file = fs::File::create(&out)?;
    child(|_| {
        become_user(1000)?;
        let status = Command::new(id).arg("-u").stdout(file).status()?;
        ensure!(status.success(), "{}: {status}", id.display());
        Ok(())
    })?
    .succeed()?;
    let said = fs::read_to_string(&out)?;
    fs::remove_file(out)?;
    Ok(said.trim().to_owned())
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case("nosuid", "set-uid programs, and nosuid", |fixture| {
            let id = fixture.root.join("id");
            fs::copy("/usr/bin/id", &id)?;
            fs::set_permissions(&id, Permissions::from_mode(0o4755))?;
            let here = fixture.mnt.join("id");
            ensure_eq!(effective_user(&here)?, "0", "as mounted");
            run_to_end(
                Command::new("mount")
                    .args(["-o", "remount,nosuid"])
                    .arg(&fixture.mnt),
            )?;
            ensure_eq!(effective_user(&here)?, "1000", "with nosuid");
            Ok(())
        }),
        case("noexec", "programs, and noexec", |fixture| {
            let id = fixture.root.join("id");
            fs::copy("/usr/bin/id", &id)?;
            fs::set_permissions(&id, Permissions::from_mode(0o755))?;
            run_to_end(
                Command::new("mount")
                    .args(["-o", "remount,noexec"])
                    .arg(&fixture.mnt),
            )?;
            let refused = Command::new(fixture.mnt.join("id")).status();
            ensure_eq!(
                refused.err().and_then(|e| e.raw_os_error()),
                Some(libc::EACCES)
            );
            Ok(())
        }),
        case(
            "no_devices",
            "a cache manager cannot make a device of a file",
            |fixture| {
                // The types of a device, a FIFO and a socket, and their bits in the mode.
                for (n, (kind, mode)) in [
                    ("04000000", "ff21"),
                    ("03000000", "ff61"),
                    ("06000000", "ffc1"),
                    ("07000000", "ff11"),
                    ("01000000", "ff21"),
                ]
                .into_iter()
                .enumerate()
                {
                    let name = format!("f{n}");
                    fs::write(fixture.root.join(&name), b"contents")?;
                    let patch = json!([[16, kind], [24, mode]]);
                    fixture.rule(Rule::on("GETATTR").with("patch", patch))?;
                    let seen = fs::symlink_metadata(fixture.mnt.join(&name));
                    fixture.clear_rules()?;
                    if let Ok(seen) = seen {
                        let kind = seen.file_type();
                        ensure!(
                            !kind.is_char_device()
                                && !kind.is_block_device()
                                && !kind.is_fifo()
                                && !kind.is_socket(),
                            "{name}: {kind:?}"
                        );
                    }
                }
                Ok(())
            },
        ),
        case(
            "stale_mapping",
            "a mapping shows the object that was opened, whatever its name or fid becomes",
            |fixture| {
                for name in ["mine", "yours"] {
                    fs::write(fixture.root.join(name), vec![name.as_bytes()[0]; PAGE])?;
                }
                fs::set_permissions(fixture.root.join("yours"), Permissions::from_mode(0o600))?;
                fs::set_permissions(fixture.root.join("mine"), Permissions::from_mode(0o666))?;
                let (mine, yours) = (fixture.fid("mine")?, fixture.fid("yours")?);
                let (here, yours_here) = (fixture.mnt.join("mine"), fixture.mnt.join("yours"));
                fs::metadata(&yours_here)?;
                let mut kid = child(|teller| {
                    become_user(1000)?;
                    let fd = sys::open(&here, OFlag::O_RDONLY)?;
                    let map = Map::new(&fd, PAGE, libc::PROT_READ, libc::MAP_SHARED)?;
                    teller.ready()?;
                    // The fid of one becomes that of the other meanwhile.
                    wait_for("the change", patience(10), || {
                        ensure_eq!(map.load(0), b'm', "through the mapping");
                        let mut byte = [0];
                        nix::sys::uio::pread(&fd, &mut byte, 0)?;
                        ensure_eq!(byte, *b"m", "read");
                        let refused = sys::open(&yours_here, OFlag::O_RDONLY);
                        ensure!(refused.is_err(), "it was opened");
                        Ok(Path::new("/tmp/replaced").exists().then_some(()))
                    })
                })?;
                kid.wait_ready()?;
                let replace = ReplaceOut {
                    oh: OutHdr {
                        opcode: Opcode::REPLACE.0,
                        ..OutHdr::default()
                    },
                    new: yours.parse()?,
                    old: mine.parse()?,
                };
                let digits: Vec<_> = replace
                    .as_bytes()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                let sent = fixture.order(&json!({ "cmd": "raw", "hex": digits.concat() }))?;
                ensure!(sent["errno"].is_null(), "REPLACE: {sent}");
                std::thread::sleep(std::time::Duration::from_millis(50));
                fs::write("/tmp/replaced", b"")?;
                let ended = kid.succeed();
                fs::remove_file("/tmp/replaced")?;
                ended
            },
        ),
        case(
            "replaced_permissions",
            "what a user may do to a file is not what he may do to another of its name",
            |fixture| {
                fs::write(fixture.root.join("f"), b"open to all")?;
                fs::set_permissions(fixture.root.join("f"), Permissions::from_mode(0o644))?;
                let here = fixture.mnt.join("f");
                let read = |expected: Result<&'static [u8], Errno>| {
                    child(|_| {
                        become_user(1000)?;
                        let read = fs::read(&here);
                        match expected {
                            Ok(bytes) => ensure_eq!(read?, bytes),
                            Err(error) => ensure_eq!(
                                read.err().and_then(|e| e.raw_os_error()),
                                Some(error as i32)
                            ),
                        }
                        Ok(())
                    })?
                    .succeed()
                };
                read(Ok(b"open to all"))?;
                // Behind the kernel's back, as on a server; then it is told.
                let old = fixture.fid("f")?;
                fs::write(fixture.root.join("g"), b"secret")?;
                fs::set_permissions(fixture.root.join("g"), Permissions::from_mode(0o600))?;
                fs::rename(fixture.root.join("g"), fixture.root.join("f"))?;
                fixture.downcall("PURGEFID", Some(&old))?;
                read(Err(Errno::EACCES)).context("another of its name")
            },
        ),
    ]
}
