// SPDX-License-Identifier: GPL-2.0

//! `codacm`: a small Coda cache manager that serves a local directory.
//!
//! A real cache manager fetches files from servers, keeps them as container
//! files and sends them back when they have changed. This one has no server:
//! the directory *is* the volume, and the files in it are the containers. What
//! is left is the conversation with the kernel, whole:
//!
//! * [`device`] opens `/dev/cfsN` and mounts;
//! * [`server`] reads requests, lets workers answer them, keeps count of opens;
//! * [`store`] does what a request asks for;
//! * [`backend`] plays the servers that files are stored on;
//! * [`trace`] writes down every message before it is answered;
//! * [`rules`] and [`control`] let a test misbehave on purpose.

mod backend;
mod control;
mod device;
mod rules;
mod server;
mod store;
mod trace;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use coda_proto::FlagWord;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A small Coda cache manager.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a directory until the device is closed or a signal comes.
    ///
    /// Prints "ready" once the file system is mounted.
    Serve(ServeArgs),
    /// Send commands to a running cache manager and print its answers.
    ///
    /// Each command is one JSON object; README.md lists them.
    Ctl {
        /// The socket that "serve --control" made.
        #[arg(long)]
        control: PathBuf,
        /// Such as '{"cmd":"stat"}'. Without any, they are read line by line.
        commands: Vec<String>,
    },
    /// Spell out a flags word such as 0x403.
    Flags {
        /// In C's notation.
        word: String,
    },
}

/// What hands the device to the file system.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MountApi {
    /// mount(2) with `struct coda_mount_data`.
    Data,
    /// fsopen(2) and the option `fd`.
    Fd,
}

/// What the container of a directory is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DirKind {
    /// The directory itself.
    Real,
    /// A file of `struct venus_dirent`, as Venus makes it.
    Venus,
}

/// How access intents are answered.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Intents {
    /// EOPNOTSUPP, as Venus does for files that it caches whole.
    Unsupported,
    /// Success.
    Supported,
}

#[derive(clap::Args)]
struct ServeArgs {
    /// The directory to serve.
    #[arg(long)]
    root: PathBuf,
    /// The kernel's device.
    #[arg(long, default_value = "/dev/cfs0")]
    dev: PathBuf,
    /// Where to mount; without it, nothing is mounted.
    #[arg(long)]
    mount: Option<PathBuf>,
    /// How to mount.
    #[arg(long, value_enum, default_value = "data")]
    mount_api: MountApi,
    /// The containers of directories.
    #[arg(long, value_enum, default_value = "real")]
    dirs: DirKind,
    /// Tell the types of entries in the containers of directories; Venus does not.
    #[arg(long)]
    dirent_types: bool,
    /// The answer to access intents.
    #[arg(long, value_enum, default_value = "unsupported")]
    intents: Intents,
    /// Write every message to this file, one JSON object a line.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Take commands on this Unix socket.
    #[arg(long)]
    control: Option<PathBuf>,
    /// Store files here when their last writer closes them, but for those that
    /// the kernel says nobody modified; "ctl stat" tells how that went.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Linger over each request, twice for up to so many microseconds.
    #[arg(long, default_value_t = 0)]
    jitter: u64,
    /// How many requests are worked on at a time.
    #[arg(long, default_value_t = 4)]
    workers: usize,
}

fn serve(args: ServeArgs) -> Result<()> {
    // Every object that the kernel may ask about is kept open.
    device::raise_file_limit()?;
    let device = device::Device::open(&args.dev)?;
    let trace = trace::Trace::create(args.trace.as_deref())?;
    let store = store::Store::new(
        &args.root,
        store::Options {
            venus_dirs: args.dirs == DirKind::Venus,
            dirent_types: args.dirent_types,
            backend: args
                .server
                .as_deref()
                .map(backend::Backend::new)
                .transpose()
                .context("--server")?,
        },
    )
    .with_context(|| format!("cannot serve {}", args.root.display()))?;
    let intents = args.intents == Intents::Supported;
    let server = server::Server::new(device, store, trace, intents, args.jitter);
    if let Some(path) = &args.control {
        control::listen(path, server.clone())
            .with_context(|| format!("cannot listen on {}", path.display()))?;
    }
    let reader = server.start(args.workers.max(1))?;
    if let Some(target) = &args.mount {
        // The kernel asks for the root before mount(2) returns, so the
        // reader has to be running by now.
        match args.mount_api {
            MountApi::Data => server.device().mount_by_data(target),
            MountApi::Fd => server.device().mount_by_fd(target),
        }
        .with_context(|| format!("cannot mount on {}", target.display()))?;
    }
    println!("ready");
    std::io::stdout().flush()?;
    reader.join().expect("the reader does not panic")
}

fn ctl(control: PathBuf, commands: Vec<String>) -> Result<()> {
    let stream = UnixStream::connect(&control)
        .with_context(|| format!("cannot connect to {}", control.display()))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut ask = |command: &str| -> Result<()> {
        writeln!(&stream, "{}", command.trim())?;
        let answer = answers.next().context("the cache manager is gone")??;
        println!("{answer}");
        Ok(())
    };
    if commands.is_empty() {
        for line in std::io::stdin().lines() {
            ask(&line?)?;
        }
    }
    commands.iter().try_for_each(|c| ask(c))
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Ctl { control, commands } => ctl(control, commands),
        Command::Flags { word } => {
            let digits = word.strip_prefix("0x").unwrap_or(&word);
            println!("{}", FlagWord(u32::from_str_radix(digits, 16)?));
            Ok(())
        }
    }
}
