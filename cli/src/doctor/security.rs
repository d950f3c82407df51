// SPDX-License-Identifier: GPL-2.0

//! Does something that is there for security's sake stand in the way?

use super::{Check, Patient, Verdict};
use crate::root::{is_absent, is_denied};

/// All of it.
pub fn checks(p: &Patient<'_>) -> Vec<Check> {
    let mut checks = vec![secure_boot(p), signature(p)];
    checks.extend(selinux(p));
    checks.extend(apparmor(p));
    checks
}

/// The value of `SecureBoot`, which comes after four bytes of attributes.
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

fn secure_boot(p: &Patient<'_>) -> Check {
    const NAME: &str = "Secure Boot";
    match p.root.read_bytes(SECURE_BOOT).as_deref() {
        Ok([_, _, _, _, 0]) => Check::ok(NAME, "it is off"),
        Ok([_, _, _, _, 1]) => Check::ok(NAME, "it is on, so modules have to be signed"),
        Ok(_) => Check::unknown(NAME, format!("{SECURE_BOOT} is not as it should be")),
        Err(err) if is_absent(err) && !p.root.has("/sys/firmware/efi") => {
            Check::ok(NAME, "there is none, as the machine was not started by EFI")
        }
        // There is a directory to mount it on in any case.
        Err(err) if is_absent(err) => match p.root.list("/sys/firmware/efi/efivars") {
            Ok(names) if !names.is_empty() => Check::ok(NAME, "this firmware has none"),
            Err(err) if !is_absent(&err) => Check::hidden(NAME, "/sys/firmware/efi/efivars", &err),
            _ => Check::unknown(
                NAME,
                "the firmware's variables are not to be seen: efivarfs is not mounted, or this kernel \
                 leaves them alone, as one for real time does unless it was started with efi=runtime",
            ),
        },
        Err(err) => Check::hidden(NAME, SECURE_BOOT, err),
    }
}

/// The word in brackets, of `none [integrity] confidentiality`.
fn lockdown(text: &str) -> Option<&str> {
    text.split_once('[')?
        .1
        .split_once(']')
        .map(|(word, _)| word)
}

/// Why this kernel takes signed modules alone.
fn demand(p: &Patient<'_>) -> Result<Option<String>, std::io::Error> {
    const ENFORCE: &str = "/sys/module/module/parameters/sig_enforce";
    const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
    match p.root.line(ENFORCE) {
        Ok(value) if value == "Y" || value == "1" => {
            return Ok(Some("module.sig_enforce is set".to_owned()));
        }
        Ok(_) => {}
        Err(err) if is_absent(&err) => {}
        Err(err) => return Err(err),
    }
    match p.root.line(LOCKDOWN) {
        Ok(text) => Ok(lockdown(&text)
            .filter(|mode| *mode != "none")
            .map(|mode| format!("the kernel is locked down ({mode})"))),
        Err(err) if is_absent(&err) => Ok(None),
        Err(err) => Err(err),
    }
}

/// Does a certificate (X.509, DER) have this as a common name? Of its structure no more is looked at
/// than what every name has: the identifier 2.5.4.3, then a string of less than 128 bytes.
fn has_common_name(der: &[u8], name: &str) -> bool {
    const ID: [u8; 5] = [6, 3, 0x55, 4, 3];
    (0..der.len()).any(|at| {
        let Some([_, len, rest @ ..]) = der[at..].strip_prefix(&ID) else {
            return false;
        };
        *len < 128 && rest.get(..usize::from(*len)) == Some(name.as_bytes())
    })
}

fn signature(p: &Patient<'_>) -> Check {
    const NAME: &str = "module signature";
    const KEY: &str = "/var/lib/dkms/mok.pub";
    let why = match demand(p) {
        Ok(Some(why)) => why,
        Ok(None) => return Check::ok(NAME, "this kernel does not ask for one"),
        Err(err) => return Check::hidden(NAME, "/sys/kernel/security/lockdown", &err),
    };
    if p.is_loaded() {
        return Check::ok(NAME, format!("{why}, and coda_rs is loaded"));
    }
    let Some(file) = &p.file else {
        return Check::warning(
            NAME,
            format!("{why}, so a module has to be signed"),
            "DKMS signs what it builds; enrol its key with `mokutil --import /var/lib/dkms/mok.pub`, \
             as root, and restart.",
        );
    };
    let Some(signer) = p.modinfo(file, "signer") else {
        return Check::unknown(NAME, format!("{why}; modinfo cannot say who signed {file}"));
    };
    if signer.is_empty() {
        return Check::problem(
            NAME,
            format!("{why}, and {file} is not signed"),
            "Have DKMS build it, which signs it, or sign it with the kernel's scripts/sign-file and \
             a key that is enrolled (`mokutil --import`).",
        );
    }
    // Of a module that was signed by somebody else that key says nothing.
    if p.root
        .read_bytes(KEY)
        .is_ok_and(|der| has_common_name(&der, &signer))
    {
        let key = p.root.path(KEY);
        let said = key
            .to_str()
            .and_then(|key| p.ask_in_any_case("mokutil", &["--test-key", key]))
            .unwrap_or_default();
        if said.contains("not supported") {
            let found = format!(
                "{why}; signed by {signer}, and this kernel cannot say whether {KEY} is enrolled"
            );
            let todo = format!(
                "If it is not loaded: start the kernel with efi=runtime, or another one, and \
                 `mokutil --import {KEY}`, as root."
            );
            return Check::new(NAME, Verdict::CannotTell, found, Some(todo));
        }
        if said.contains("already enrolled") {
            return Check::ok(
                NAME,
                format!("{why}; signed by {signer}, and {KEY} is enrolled"),
            );
        }
        if said.contains("not enrolled") {
            return Check::problem(
                NAME,
                format!("{why}; {file} is signed by {signer}, but {KEY} is not enrolled"),
                format!(
                    "`mokutil --import {KEY}`, as root, restart, and confirm it on the screen."
                ),
            );
        }
    }
    Check::unknown(
        NAME,
        format!("{why}; signed by {signer}, and nothing says whether the kernel knows that key"),
    )
}

/// Does a cache manager serve a mount? Then nothing can be in its way.
fn works(p: &Patient<'_>) -> bool {
    p.is_loaded()
        && p.status.mounts.as_deref().is_some_and(|m| !m.is_empty())
        && p.status.is_served()
}

fn selinux(p: &Patient<'_>) -> Option<Check> {
    const NAME: &str = "SELinux";
    const ENFORCE: &str = "/sys/fs/selinux/enforce";
    match p.root.line(ENFORCE).as_deref() {
        Ok("1") if works(p) => Some(Check::ok(NAME, "it enforces, and Coda is mounted")),
        Ok("1") => Some(Check::warning(
            NAME,
            "it enforces, and may keep the cache manager from /dev/cfs0 or from mounting",
            "`ausearch -m avc -ts recent` tells, as root; `setenforce 0` takes it out of the way to try.",
        )),
        Ok(_) => Some(Check::ok(NAME, "it does not enforce")),
        Err(err) if is_absent(err) => None,
        Err(err) => Some(Check::hidden(NAME, ENFORCE, err)),
    }
}

/// Profiles that may be the cache manager's, of `NAME (MODE)` a line.
fn profiles(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|l| l.contains("venus") || l.contains("coda"))
        .collect()
}

fn apparmor(p: &Patient<'_>) -> Option<Check> {
    const NAME: &str = "AppArmor";
    const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
    if p.root
        .line("/sys/module/apparmor/parameters/enabled")
        .ok()?
        != "Y"
    {
        return None;
    }
    // What the process itself is confined by is the best of witnesses.
    let confined = p.status.devices.iter().find_map(|d| {
        // What has no name here may be another process by this number.
        let opener = d.openers.as_deref()?.first()?;
        opener.command.as_ref()?;
        ["attr/apparmor/current", "attr/current"]
            .iter()
            .find_map(|file| p.root.line(&format!("/proc/{}/{file}", opener.pid)).ok())
    });
    if confined.as_deref() == Some("unconfined") {
        return Some(Check::ok(NAME, "the cache manager is not confined"));
    }
    let warn = |what: &str| {
        Check::warning(
            NAME,
            format!("the cache manager is confined by {what}"),
            "If it cannot open /dev/cfs0 or mount, `journalctl -k -g apparmor` tells; `aa-complain` takes \
             the profile out of the way.",
        )
    };
    let harmless = |what: &str| what.ends_with("(complain)") || works(p);
    if let Some(confined) = confined.as_deref().filter(|c| !c.is_empty()) {
        return Some(match harmless(confined) {
            true => Check::ok(
                NAME,
                format!("confines the cache manager by {confined}, which works"),
            ),
            false => warn(confined),
        });
    }
    match p.root.read(PROFILES) {
        Ok(text) => Some(match profiles(&text).first() {
            None => Check::ok(NAME, "it has no profile for a cache manager"),
            Some(profile) if harmless(profile) => Check::ok(NAME, *profile),
            Some(profile) => warn(profile),
        }),
        Err(err) if is_denied(&err) => {
            let names = p.root.list("/etc/apparmor.d").unwrap_or_default();
            match profiles(&names.join("\n")).first() {
                None => Some(Check::ok(
                    NAME,
                    "/etc/apparmor.d has no profile for a cache manager",
                )),
                Some(name) => Some(Check::needs_root(
                    NAME,
                    format!(
                        "/etc/apparmor.d/{name} is there; whether it is in force is for root to know"
                    ),
                )),
            }
        }
        Err(err) if is_absent(&err) => None,
        Err(err) => Some(Check::hidden(NAME, PROFILES, &err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names() {
        // The subject of `openssl req -new -x509 -subj "/O=Coda/CN=DKMS module signing key"`.
        let mut der = b"011\x0d0\x0b\x06\x03\x55\x04\x0a\x0c\x04Coda".to_vec();
        der.extend(b"1 0\x1e\x06\x03\x55\x04\x03\x0c\x17DKMS module signing key0\x82\x01");
        assert!(has_common_name(&der, "DKMS module signing key"));
        for other in [
            "DKMS module signing",
            "Coda",
            "",
            "Build time autogenerated kernel key",
        ] {
            assert!(!has_common_name(&der, other), "{other}");
        }
        for len in 0..der.len() - 3 {
            assert!(!has_common_name(&der[..len], "DKMS module signing key"));
        }
    }

    #[test]
    fn lockdown_modes() {
        assert_eq!(
            lockdown("none [integrity] confidentiality"),
            Some("integrity")
        );
        assert_eq!(lockdown("[none] integrity confidentiality"), Some("none"));
        assert_eq!(lockdown("none"), None);
        assert_eq!(lockdown("]none["), None);
    }
}
