// SPDX-License-Identifier: GPL-2.0

//! `coda-rs top` as plain text.

mod common;

use common::{machine, running, running_unprivileged};
use expect_test::expect;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn once() {
    expect![[r#"
        coda_rs 0.1.0: 507 upcalls since it was loaded
        cfs0: 1234 (venus), mounted; 1 pending, 1 outstanding; oldest OPEN_BY_FD for 1.23 s by 4321
        12 opens; closes: 4 modified, 3 not modified, 5 only read
        first modified by: 2 write, 1 truncate, 1 store, 0 other; 3 mappings
        OPCODE  PER SEC  ERRORS  GAVE UP     MEAN   P50    P99    MAX  TOTAL
        CLOSE         -       0        1  10.0 us  <8us  >=8us  >=8us      7
        LOOKUP        -     300        0  1.80 us  <4us   <4us   <4us    500
    "#]]
    .assert_eq(&running().says(&["top", "--once", "--sort", "mean"]));
}

#[test]
fn in_a_container() {
    // With the host's debugfs. A process that has this number there is another one.
    let tree = running()
        .without("proc/2")
        .file("proc/1234/comm", "sleep\n");
    let text = tree.says(&["top", "--once"]);
    assert!(
        text.contains("cfs0: 1234 (not shown here), mounted"),
        "{text}"
    );
}

#[test]
fn intervals() {
    let tree = running();
    let began = Instant::now();
    let text = tree.says(&["top", "--batch", "-n", "2", "-d", "0.2"]);
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!(text.matches("OPCODE").count(), 2);
    assert_eq!(text.matches("0.0 upcalls a second").count(), 2, "{text}");
}

#[test]
fn what_happens_between_two_looks() {
    let tree = running();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_coda-rs"))
        .arg("--root")
        .arg(tree.path())
        .args(["top", "--batch", "-n", "2", "-d", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first table ends with an empty line; the next look is three seconds later.
    assert!(lines.by_ref().any(|line| line.unwrap().is_empty()));
    let _tree = tree.file(
        "sys/kernel/debug/coda_rs/upcalls",
        "# opcode calls errors given_up total_ns lt_1us lt_2us lt_4us lt_8us more\n\
         LOOKUP 530 301 2 960000 100 0 430 0 0\nCLOSE 7 0 1 70000 0 0 0 6 1\n",
    );
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    let row = rest.iter().find(|line| line.starts_with("LOOKUP")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    let rate: f64 = words[1].parse().unwrap();
    assert!((8.0..=10.0).contains(&rate), "{row}");
    assert_eq!(
        words[2..],
        ["1", "2", "2.00", "us", "<4us", "<4us", "<4us", "530"]
    );
}

#[test]
fn it_needs_a_terminal_and_root() {
    let output = running().run(&["top"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && err.contains("--batch"), "{err}");
    for args in [&["top", "--once"][..], &["top", "-b", "-n", "1"]] {
        let output = running_unprivileged().run(args).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && err.contains("needs root"),
            "{err}"
        );
        assert_eq!(err.lines().count(), 1);
        let output = machine().run(args).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && err.contains("not loaded"),
            "{err}"
        );
    }
}
