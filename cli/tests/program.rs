// SPDX-License-Identifier: GPL-2.0

//! What holds for all of it: pipes, colours, completions, manual pages.

mod common;

use common::{Tree, running};
use std::fs;
use std::process::{Command, Stdio};

/// Runs it with standard output closed at the other end.
fn unread(tree: &Tree, args: &[&str]) -> (bool, String) {
    let (read, write) = nix::unistd::pipe().unwrap();
    drop(read);
    let output = Command::new(env!("CARGO_BIN_EXE_coda-rs"))
        .arg("--root")
        .arg(tree.path())
        .args(args)
        .stdout(write)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_broken_pipe_is_no_error() {
    let tree = running().file(
        "trace",
        " vim-99 [001] ..... 1.0: coda_file_close: fid=1.2.3.4 flags=0x403 modified=no\n",
    );
    let trace = tree.path().join("trace");
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["top", "--once"],
        &["top", "-b", "-d", "0.1"],
        &["trace", "-i", trace.to_str().unwrap()],
        &["completions", "bash"],
        &["--help"],
    ] {
        assert_eq!(unread(&tree, args), (true, String::new()), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_one() {
    let tree = running();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["doctor"],
        &["top", "--once"],
        &["completions", "zsh"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_coda-rs"))
            .arg("--root")
            .arg(tree.path())
            .args(args)
            .stdout(
                fs::OpenOptions::new()
                    .write(true)
                    .open("/dev/full")
                    .unwrap(),
            )
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && err.contains("No space left"),
            "{args:?}: {err}"
        );
    }
}

#[test]
fn no_colour_in_a_pipe() {
    let tree = running();
    for args in [
        &["status"][..],
        &["doctor"],
        &["top", "--once"],
        &["--help"],
    ] {
        let output = tree
            .run(args)
            .env("TERM", "xterm-256color")
            .output()
            .unwrap();
        assert!(!output.stdout.contains(&0x1b), "{args:?}");
    }
}

#[test]
fn usage() {
    let output = Tree::new().run(&["nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let help = Tree::new().says(&["--help"]);
    for hidden in ["--root", "man "] {
        assert!(!help.contains(hidden), "{help}");
    }
}

#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish"] {
        let text = Tree::new().says(&["completions", shell]);
        assert!(
            text.contains("doctor") && text.contains("coda-rs"),
            "{shell}"
        );
    }
}

#[test]
fn manual_pages() {
    let tree = Tree::new();
    let dir = tree.path().join("pages");
    fs::create_dir(&dir).unwrap();
    let mut command = tree.run(&["man", dir.to_str().unwrap()]);
    command.env("SOURCE_DATE_EPOCH", "86400").assert().success();
    let mut names: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "coda-rs-completions.8",
            "coda-rs-doctor.8",
            "coda-rs-status.8",
            "coda-rs-top.8",
            "coda-rs-trace.8",
            "coda-rs.8"
        ]
    );
    for name in names {
        let page = fs::read_to_string(dir.join(&name)).unwrap();
        for part in [
            " 8 \"1970-01-02\" \"coda_rs ",
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH \"SEE ALSO\"",
        ] {
            assert!(page.contains(part), "{name} has no {part}:\n{page}");
        }
        assert!(
            !page.contains("root <DIR>") && !page.contains("\\-\\-root"),
            "{name}"
        );
    }
    let output = tree.run(&["man", "/no/such/place"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && err.contains("cannot be written"),
        "{err}"
    );
}
