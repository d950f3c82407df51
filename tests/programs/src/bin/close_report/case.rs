// SPDX-License-Identifier: GPL-2.0

//! A file, and what is said about it at close.

use coda_proto::{C_O_NO_WRITES, FlagWord};
use coda_selftests::sys;
use ktest::{Case, Context, Ctx, Result, bail, ensure, ensure_eq, patience};
use nix::fcntl::OFlag;
use serde_json::json;
use std::cell::RefCell;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Close of a file that was open for reading alone: what C says, always.
pub const RO: u32 = 0x001;
/// Open for writing alone, and modified.
pub const WO_DIRTY: u32 = 0x002;
/// Open for writing alone, and not modified.
pub const WO_CLEAN: u32 = 0x402;
/// Open for both, and modified.
pub const RW_DIRTY: u32 = 0x003;
/// Open for both, and not modified.
pub const RW_CLEAN: u32 = 0x403;

/// What a case is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody modified the file, and every close of a writer says so.
    Clean,
    /// Somebody did, and every close of a writer says so.
    Modified,
    /// Some closes say this, some that.
    Both,
    /// It depends on what the module offers.
    Either,
    /// There was no writer.
    NoWriter,
}

/// A case about closes.
pub struct CloseCase {
    case: Case,
    core: bool,
}

impl CloseCase {
    /// A case for every container file system.
    pub fn new(
        name: &'static str,
        verdict: Verdict,
        what: &'static str,
        body: impl Fn(&T<'_>) -> Result<()> + 'static,
    ) -> Self {
        let mut case = Case::new(name, what, move |ctx| {
            let t = T::new(ctx, verdict)?;
            body(&t)?;
            ensure!(t.expected.borrow().is_some(), "the case expects nothing");
            Ok(())
        });
        // Where the C module, which never sets the bit, has to fail.
        if matches!(verdict, Verdict::Clean | Verdict::Both | Verdict::Either) {
            case = case.tag("no_writes");
        }
        CloseCase { case, core: false }
    }

    /// The only modification is a store through a mapping.
    pub fn mmap_store(mut self) -> Self {
        self.case = self.case.tag("mmap_store");
        self
    }

    /// Something else that lists for controls can refer to.
    pub fn tag(mut self, tag: &'static str) -> Self {
        self.case = self.case.tag(tag);
        self
    }

    /// One of those that are run everywhere.
    pub fn core(mut self) -> Self {
        self.core = true;
        self
    }

    /// Allows for more time.
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.case = self.case.seconds(seconds);
        self
    }

    /// Whether it is one of those that are run everywhere.
    pub fn is_core(&self) -> bool {
        self.core
    }

    /// The case for the runner.
    pub fn build(self) -> Case {
        self.case
    }
}

/// What a case about closes works with.
pub struct T<'a> {
    /// The runner's part.
    pub ctx: &'a Ctx<'a>,
    /// The file's name, and where it is mounted.
    pub file: String,
    /// The file, through the mount.
    pub path: PathBuf,
    /// The file, behind the mount's back.
    pub container: PathBuf,
    verdict: Verdict,
    fid: RefCell<String>,
    expected: RefCell<Option<Vec<u32>>>,
}

impl<'a> T<'a> {
    fn new(ctx: &'a Ctx<'a>, verdict: Verdict) -> Result<Self> {
        // The same in every run, since traces are compared.
        let file = ctx.name.to_owned();
        let fixture = ctx.fixture();
        Ok(T {
            ctx,
            path: fixture.mnt.join(&file),
            container: fixture.root.join(&file),
            file,
            verdict,
            fid: RefCell::default(),
            expected: RefCell::default(),
        })
    }

    /// Makes the file with these contents, without the kernel's knowing.
    pub fn make(&self, contents: &[u8]) -> Result<()> {
        fs::write(&self.container, contents)
            .with_context(|| self.container.display().to_string())?;
        self.learn()
    }

    /// Makes the file with a hundred bytes.
    pub fn make_default(&self) -> Result<()> {
        self.make(&[b'o'; 100])
    }

    /// Makes the file so many pages long.
    pub fn make_pages(&self, pages: usize) -> Result<()> {
        self.make(&vec![b'o'; pages * 4096])
    }

    /// Remembers which fid the file has.
    pub fn learn(&self) -> Result<()> {
        let mut fid = self.fid.borrow_mut();
        if fid.is_empty() {
            *fid = self.ctx.fixture().fid(&self.file)?;
        }
        Ok(())
    }

    /// The file's fid.
    pub fn fid(&self) -> String {
        self.fid.borrow().clone()
    }

    /// Looks at another fid from now on.
    pub fn set_fid(&self, fid: String) {
        *self.fid.borrow_mut() = fid;
    }

    /// Opens the file through the mount.
    pub fn open(&self, flags: OFlag) -> Result<OwnedFd> {
        let fd = sys::open(&self.path, flags).with_context(|| format!("open {flags:?}"))?;
        self.learn()?;
        Ok(fd)
    }

    /// Opens it for reading and writing.
    pub fn rw(&self) -> Result<OwnedFd> {
        self.open(OFlag::O_RDWR)
    }

    /// The flags of all closes so far.
    pub fn closes(&self) -> Result<Vec<u32>> {
        let fid = self.fid.borrow();
        let requests = self.ctx.watch.borrow_mut().requests("CLOSE", &fid)?;
        Ok(requests
            .iter()
            .map(|e| e.number("flags").unwrap_or(-1) as u32)
            .collect())
    }

    /// No close so far.
    pub fn not_closed_yet(&self) -> Result<()> {
        ensure_eq!(self.closes()?, [0u32; 0], "closed too early");
        Ok(())
    }

    /// All closes, in this order, and no others.
    pub fn expect(&self, words: &[u32]) -> Result<()> {
        self.expect_one_of(&[words])
    }

    /// All closes, in one of these orders.
    pub fn expect_one_of(&self, choices: &[&[u32]]) -> Result<()> {
        let first = choices[0];
        let says = |bit: bool| {
            first
                .iter()
                .any(|w| w & 2 != 0 && (w & C_O_NO_WRITES != 0) == bit)
        };
        let consistent = match self.verdict {
            Verdict::Clean => says(true) && !says(false),
            Verdict::Modified => says(false) && !says(true),
            Verdict::Both => says(true) && says(false),
            Verdict::NoWriter => !says(true) && !says(false),
            Verdict::Either => true,
        };
        ensure!(
            consistent,
            "the case is wrong: {:?}, but {first:x?}",
            self.verdict
        );
        *self.expected.borrow_mut() = Some(first.to_vec());

        // An expected close comes by itself; one too many would come with
        // it, or is found out when the runner looks at the balance.
        let seconds = if self.ctx.hopeless { 1 } else { 6 };
        let waited = ktest::wait_for("all closes", patience(seconds), || {
            Ok((self.closes()?.len() >= first.len()).then_some(()))
        });
        let got = self.closes()?;
        let good = choices.iter().any(|c| *c == got);
        self.ctx.row(json!({
            "expected": first,
            "got": got,
            "verdict": format!("{:?}", self.verdict),
            "good": good,
        }));
        if !good {
            let show = |words: &[u32]| {
                let words: Vec<_> = words
                    .iter()
                    .map(|&w| format!("{w:#x} ({})", FlagWord(w)))
                    .collect();
                format!("[{}]", words.join(", "))
            };
            bail!("CODA_CLOSE said {}, not {}", show(&got), show(first));
        }
        waited?;
        // And as many opens, as the cache manager saw it.
        let opens = self.ctx.watch.borrow_mut().opens(&self.fid())?;
        ensure_eq!(got.len(), opens, "closes and successful opens");
        Ok(())
    }

    /// What the container holds.
    pub fn contents(&self) -> Result<Vec<u8>> {
        fs::read(&self.container).context("container")
    }
}
