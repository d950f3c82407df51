// SPDX-License-Identifier: GPL-2.0

//! A directory, a cache manager that serves it, and a mount.

use crate::{Watch, patience, wait_for};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a fixture shall be like.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The directory below which the served one is made.
    pub container: PathBuf,
    /// Which device.
    pub device: u32,
    /// `real` or `venus`.
    pub dirs: &'static str,
    /// Whether entries in directory files have types.
    pub dirent_types: bool,
    /// `data` or `fd`; `""` leaves the file system unmounted.
    pub api: &'static str,
    /// Whether access intents are answered with success.
    pub intents: bool,
    /// Whether files are stored at the last close, unless that is needless.
    pub stores: bool,
    /// How long each request may take at least, in microseconds, twice.
    pub jitter: u64,
}

impl Spec {
    /// The usual fixture on that container file system.
    pub fn on(container: impl Into<PathBuf>) -> Self {
        Spec {
            container: container.into(),
            device: 0,
            dirs: "real",
            dirent_types: false,
            api: "data",
            intents: false,
            stores: false,
            jitter: 0,
        }
    }
}

/// A running cache manager and its mount.
pub struct Fixture {
    /// Where the file system is mounted.
    pub mnt: PathBuf,
    /// The directory that is served: the containers.
    pub root: PathBuf,
    /// The trace.
    pub trace: PathBuf,
    spec: Spec,
    base: PathBuf,
    socket: PathBuf,
    manager: Option<Child>,
    log: PathBuf,
    /// How much of the trace has been kept.
    kept: u64,
}

/// A rule for the cache manager; see codacm's `rules`.
#[derive(Debug, Clone)]
pub struct Rule(Value);

impl Rule {
    /// A rule about requests of that name.
    pub fn on(op: &str) -> Self {
        Rule(json!({ "cmd": "rule", "op": op, "effect": {} }))
    }

    /// Only about that name.
    pub fn name(mut self, name: &str) -> Self {
        self.0["name"] = json!(name);
        self
    }

    /// Only about that fid.
    pub fn fid(mut self, fid: &str) -> Self {
        self.0["fid"] = json!(fid);
        self
    }

    /// Only the first one.
    pub fn once(mut self) -> Self {
        self.0["count"] = json!(1);
        self
    }

    /// Sets one of the effects.
    pub fn with(mut self, effect: &str, value: impl Into<Value>) -> Self {
        self.0["effect"][effect] = value.into();
        self
    }
}

/// A path for a system call.
pub fn path_c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("our paths have no NUL")
}

/// Whether the module under test is coda_rs, and not C's coda.
pub fn module_is_ours() -> bool {
    Path::new("/sys/module/coda_rs").exists()
}

/// The cache manager: `$CODACM`, or where `make install` puts it.
fn codacm() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CODACM") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .flat_map(|dir| [dir.join("codacm"), dir.join("bin/codacm")])
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("no codacm near {}", exe.display()))
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Fixture {
    /// Sets all up and waits until it is ready.
    pub fn start(spec: &Spec) -> Result<Self> {
        let unique = format!(
            "coda-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let base = std::env::temp_dir().join(&unique);
        let root = spec.container.join(&unique);
        // Where a person would expect it, if somebody says so.
        let mnt = match std::env::var_os("CODA_MNT") {
            Some(mnt) if spec.device == 0 => mnt.into(),
            _ => base.join("mnt"),
        };
        fs::create_dir_all(&base)?;
        fs::create_dir_all(&mnt)?;
        fs::create_dir(&root).with_context(|| root.display().to_string())?;
        let mut fixture = Fixture {
            trace: base.join("trace"),
            socket: base.join("control"),
            log: base.join("log"),
            mnt,
            root,
            base,
            spec: spec.clone(),
            manager: None,
            kept: 0,
        };
        File::create(&fixture.trace)?;
        fixture.start_manager()?;
        Ok(fixture)
    }

    /// Starts a cache manager and mounts, as at the beginning.
    pub fn start_manager(&mut self) -> Result<()> {
        let mut command = Command::new(codacm()?);
        command
            .arg("serve")
            .arg("--root")
            .arg(&self.root)
            .arg("--dev")
            .arg(format!("/dev/cfs{}", self.spec.device))
            .args(["--dirs", self.spec.dirs])
            .arg("--trace")
            .arg(&self.trace)
            .arg("--control")
            .arg(&self.socket);
        if !self.spec.api.is_empty() {
            command
                .arg("--mount")
                .arg(&self.mnt)
                .args(["--mount-api", self.spec.api]);
        }
        if self.spec.dirent_types {
            command.arg("--dirent-types");
        }
        if self.spec.intents {
            command.args(["--intents", "supported"]);
        }
        if self.spec.stores {
            command.arg("--server").arg(self.base.join("server"));
        }
        if self.spec.jitter > 0 {
            command
                .args(["--workers", "8", "--jitter"])
                .arg(self.spec.jitter.to_string());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&self.log)?)
            .spawn()
            .context("cannot start codacm")?;
        let stdout = child.stdout.take().expect("it is piped");
        self.manager = Some(child);
        // A cache manager that fails closes its end.
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            let mut why = String::new();
            File::open(&self.log)?.read_to_string(&mut why)?;
            self.kill_manager()?;
            bail!("codacm did not start: {}", why.trim());
        }
        Ok(())
    }

    /// Sends an order and gives the answer.
    pub fn order(&self, order: &Value) -> Result<Value> {
        let stream = UnixStream::connect(&self.socket).context("the cache manager is gone")?;
        stream.set_read_timeout(Some(patience(60)))?;
        (&stream).write_all(format!("{order}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("{order}: no answer"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{order}: {error}");
        }
        Ok(answer)
    }

    /// Adds a rule and gives its number.
    pub fn rule(&self, rule: Rule) -> Result<u64> {
        self.order(&rule.0)?["id"].as_u64().context("no number")
    }

    /// Waits until so many requests have met a rule.
    pub fn wait_rule(&self, id: u64, hits: u64) -> Result<()> {
        let ms = patience(10).as_millis() as u64;
        let answer = self.order(&json!({ "cmd": "wait", "id": id, "hits": hits, "ms": ms }))?;
        let got = answer["hits"].as_u64().unwrap_or(0);
        ensure!(got >= hits, "rule {id} was met {got} times, not {hits}");
        Ok(())
    }

    /// Lets go what a rule holds.
    pub fn release(&self, id: u64) -> Result<()> {
        self.order(&json!({ "cmd": "release", "id": id }))?;
        Ok(())
    }

    /// Drops all rules.
    pub fn clear_rules(&self) -> Result<()> {
        self.order(&json!({ "cmd": "clear", "id": null }))?;
        Ok(())
    }

    /// Sends a downcall about a fid; none for FLUSH.
    pub fn downcall(&self, op: &str, fid: Option<&str>) -> Result<Value> {
        self.order(&json!({ "cmd": "downcall", "op": op, "fid": fid }))
    }

    /// The fid of a path below the root.
    pub fn fid(&self, path: &str) -> Result<String> {
        let answer = self.order(&json!({ "cmd": "fid", "path": path }))?;
        answer["fid"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{path}: {answer}"))
    }

    /// The files that the cache manager counts as open, and closes too many.
    pub fn stat(&self) -> Result<Value> {
        self.order(&json!({ "cmd": "stat" }))
    }

    /// A watch from now on.
    pub fn watch(&self) -> Result<Watch> {
        Watch::new(&self.trace)
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: &Value) -> Result<()> {
        let mut trace = File::options().append(true).open(&self.trace)?;
        Ok(trace.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Leaves the trace where `CODA_RESULTS` says, for a comparison with another
    /// boot's. What was there of the same name is continued.
    pub fn keep_trace(&mut self, program: &str, group: &str) -> Result<()> {
        let Some(dir) = std::env::var_os("CODA_RESULTS") else {
            return Ok(());
        };
        let dir = PathBuf::from(dir).join(format!("selftests-{program}"));
        fs::create_dir_all(&dir)?;
        let mut from = File::open(&self.trace)?;
        from.seek(SeekFrom::Start(self.kept))?;
        let mut to = File::options()
            .append(true)
            .create(true)
            .open(dir.join(group))?;
        self.kept += std::io::copy(&mut from, &mut to)?;
        Ok(())
    }

    /// Ends the cache manager as if by a crash, and waits for its end.
    pub fn kill_manager(&mut self) -> Result<()> {
        if let Some(mut child) = self.manager.take() {
            child.kill()?;
            wait_for("codacm's end", patience(10), || Ok(child.try_wait()?))?;
        }
        Ok(())
    }

    /// The process of the cache manager.
    pub fn manager_pid(&self) -> Option<u32> {
        self.manager.as_ref().map(Child::id)
    }

    /// Unmounts in another process, since that may take for ever.
    pub fn unmount(&self) -> Result<()> {
        if self.spec.api.is_empty() {
            return Ok(());
        }
        run_to_end(
            Command::new("umount")
                .arg("--no-canonicalize")
                .arg(&self.mnt),
        )
    }

    /// Removes the files of a fixture whose cache manager is dead and whose mount is gone.
    pub fn forget(mut self) -> Result<()> {
        ensure!(self.manager.take().is_none(), "its cache manager lives");
        fs::remove_dir_all(&self.root)?;
        Ok(fs::remove_dir_all(&self.base)?)
    }

    /// Takes all down. What fails on the way is reported, the rest done.
    pub fn stop(mut self) -> Result<()> {
        let unmounted = self.unmount();
        if unmounted.is_err() && !self.spec.api.is_empty() {
            self.kill_manager()?;
            let _ = run_to_end(Command::new("umount").arg("-l").arg(&self.mnt));
        }
        let ended = self.manager.as_mut().map(|m| m.try_wait()).transpose();
        let killed = self.kill_manager();
        fs::remove_dir_all(&self.root)?;
        if std::env::var_os("CODA_KEEP_TRACES").is_none() && unmounted.is_ok() {
            fs::remove_dir_all(&self.base)?;
        }
        unmounted?;
        if let Some(Some(status)) = ended? {
            bail!(
                "codacm had ended by itself: {status} (signal {:?})",
                status.signal()
            );
        }
        killed
    }
}

impl Drop for Fixture {
    /// What a case left behind when it went wrong.
    fn drop(&mut self) {
        if self.manager.is_some() {
            let _ = self.kill_manager();
            let _ = run_to_end(Command::new("umount").arg("-l").arg(&self.mnt));
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Runs a helper program, but not for ever.
pub fn run_to_end(command: &mut Command) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let status = wait_for(&format!("{command:?}"), patience(20), || {
        Ok(child.try_wait()?)
    });
    if status.is_err() {
        let _ = child.kill();
    }
    if !status?.success() {
        let mut why = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut why)?;
        }
        bail!("{command:?}: {}", why.trim());
    }
    Ok(())
}
