// SPDX-License-Identifier: GPL-2.0

//! The file systems that containers are on.

use ktest::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the guest has one directory for each file system.
pub fn base() -> PathBuf {
    std::env::var_os("CODA_CONTAINERS")
        .unwrap_or_else(|| "/containers".into())
        .into()
}

/// The file systems to test on, which `CODA_TEST_FS` may name, and whether all
/// cases shall be run there or only the most telling ones. `everywhere` asks for
/// all cases on each; but not of a kernel that is slow, nor in a control.
pub fn to_test(everywhere: bool) -> Vec<(String, bool)> {
    if let Ok(names) = std::env::var("CODA_TEST_FS") {
        let names = names.split_whitespace();
        return names.map(|n| (n.to_owned(), true)).collect();
    }
    let is_debug = std::env::var("CODA_KERNEL").is_ok_and(|k| k != "stock");
    let is_control = std::env::var_os("CODA_CONTROL").is_some();
    let (two, four) = match everywhere {
        true => (!is_debug && !is_control, !is_debug && !is_control),
        false => (!is_debug, false),
    };
    [
        ("tmpfs", true),
        ("ext4", two),
        ("xfs", four),
        ("btrfs", four),
    ]
    .map(|(n, all)| (n.to_owned(), all))
    .to_vec()
}

/// Why a file system cannot be tested on. Those that every guest has are
/// missed by the tests themselves.
pub fn missing(name: &str) -> Option<String> {
    let dir = base().join(name);
    let needed = matches!(name, "tmpfs" | "ext4");
    (!needed && !dir.is_dir()).then(|| format!("the guest has no {}", dir.display()))
}

/// A small file system of our own, unmounted when it is dropped.
pub struct Small {
    dir: PathBuf,
    image: Option<PathBuf>,
    /// What it is stacked on; dropped, and so unmounted, after it.
    below: Option<Box<Small>>,
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

impl Small {
    /// A tmpfs with options.
    pub fn tmpfs(name: &str, options: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        mount(
            Some("tmpfs"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options),
        )
        .with_context(|| format!("tmpfs with {options}"))?;
        Ok(Small {
            dir,
            image: None,
            below: None,
        })
    }

    /// An ext4 of so many megabytes in a file.
    pub fn ext4(name: &str, megabytes: u64) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let image = dir.with_extension("img");
        std::fs::File::create(&image)?.set_len(megabytes << 20)?;
        let text = |p: &Path| p.to_string_lossy().into_owned();
        // Nothing loads it by itself where there is no udev.
        let _ = run("modprobe", &["-q", "loop"]);
        run("mkfs.ext4", &["-q", "-O", "^has_journal", &text(&image)])?;
        run("mount", &["-o", "loop", &text(&image), &text(&dir)])?;
        Ok(Small {
            dir,
            image: Some(image),
            below: None,
        })
    }

    /// An ext4 with DAX, on memory that the kernel's command line has set aside
    /// (`memmap=SIZE!START`).
    pub fn dax(name: &str) -> Result<Self> {
        for module in ["nd_e820", "nd_pmem"] {
            let _ = run("modprobe", &["-q", module]);
        }
        let device = Path::new("/dev/pmem0");
        // The device is probed in the background.
        if ktest::wait_for("it", ktest::patience(1), || {
            Ok(device.exists().then_some(()))
        })
        .is_err()
        {
            bail!("the guest has no {}", device.display());
        }
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let text = |p: &Path| p.to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", &text(device)])?;
        run("mount", &["-o", "dax=always", &text(device), &text(&dir)])?;
        Ok(Small {
            dir,
            image: None,
            below: None,
        })
    }

    /// An overlay whose layers are on a tmpfs.
    pub fn overlay(name: &str) -> Result<Self> {
        let below = Small::tmpfs(&format!("{name}-below"), "size=16m")?;
        let layer = |name: &str| -> Result<PathBuf> {
            let path = below.dir().join(name);
            std::fs::create_dir(&path)?;
            Ok(path)
        };
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layer("lower")?.display(),
            layer("upper")?.display(),
            layer("work")?.display()
        );
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        mount(
            Some("overlay"),
            &dir,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("overlay with {options}"))?;
        Ok(Small {
            dir,
            image: None,
            below: Some(Box::new(below)),
        })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.dir);
        drop(self.below.take());
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

/// Uses up the space of a file system with a file in `dir`.
pub fn fill(dir: &Path) -> Result<PathBuf> {
    use std::io::Write;
    let path = dir.join("filler");
    let mut file = std::fs::File::create(&path)?;
    for size in [1 << 16, 4096, 1] {
        let block = vec![b'f'; size];
        while file.write_all(&block).is_ok() {}
    }
    let _ = file.sync_all();
    Ok(path)
}
