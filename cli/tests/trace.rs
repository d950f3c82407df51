// SPDX-License-Identifier: GPL-2.0

//! `coda-rs trace` of recorded traces, and of a pipe that is written to meanwhile.

mod common;

use common::{Tree, loaded, machine};
use expect_test::expect;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TRACE: &str = "\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
            make-4321    [001] .....   123.456789: coda_upcall_begin: unique=7 opcode=OPEN_BY_FD pid=4321 fid=00000001.7f000001.00000004.00000005
           venus-1234    [000] .....   123.456900: coda_downcall: opcode=ZAPFILE fid=00000001.7f000001.00000004.00000006
            make-4321    [001] .....   123.458000: coda_upcall_end: unique=7 opcode=OPEN_BY_FD fid=00000001.7f000001.00000004.00000005 latency_ns=1211000 result=0
            make-4321    [001] .....   123.458001: coda_file_open: fid=00000001.7f000001.00000004.00000005 flags=0x3 result=0
 Web Content [001]-77    [001] .....   123.458002: coda_upcall_end: unique=9 opcode=LOOKUP fid=00000001.7f000001.00000002.00000003 latency_ns=850 result=-2
CPU:1 [LOST 3 EVENTS]
            make-4321    [001] .....   123.459000: coda_file_modified: fid=00000001.7f000001.00000004.00000005 how=store
            make-4321    [001] .....   123.460000: coda_file_close: fid=00000001.7f000001.00000004.00000005 flags=0x3 modified=yes
             vim-99      [001] .....   123.460001: coda_file_close: fid=00000001.7f000001.00000004.00000005 flags=0x403 modified=no
             cat-98      [001] .....   123.460002: coda_file_close: fid=00000001.7f000001.00000004.00000005 flags=0x1 modified=-
            make-4321    [001] .....   123.460003: coda_upcall_begin: unique=10 opcode=FSYNC pid=4321 fid=00000001.7f000001.00000004.00000005
            make-4321    [001] .....   123.46";

fn recorded() -> Tree {
    Tree::new().file("trace", TRACE)
}

fn trace(args: &[&str]) -> (String, String) {
    let tree = recorded();
    let path = tree.path().join("trace");
    let all = [&["trace", "--input", path.to_str().unwrap()], args].concat();
    let output = tree.run(&all).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn for_people() {
    let (out, err) = trace(&[]);
    expect![[r#"
        123.456900  venus[1234]            ZAPFILE        00000001.7f000001.00000004.00000006  said by the cache manager
        123.458000  make[4321]             OPEN_BY_FD     00000001.7f000001.00000004.00000005  ok            1.21 ms
        123.458001  make[4321]             open           00000001.7f000001.00000004.00000005  ok           C_O_READ|C_O_WRITE
        123.458002  Web Content [001][77]  LOOKUP         00000001.7f000001.00000002.00000003  ENOENT         850 ns
        -- 3 events lost here: the buffer of CPU 1 was full
        123.459000  make[4321]             modified       00000001.7f000001.00000004.00000005  by a store through a mapping
        123.460000  make[4321]             close          00000001.7f000001.00000004.00000005  modified     C_O_READ|C_O_WRITE
        123.460001  vim[99]                close          00000001.7f000001.00000004.00000005  not modified C_O_READ|C_O_WRITE|C_O_NO_WRITES
        123.460002  cat[98]                close          00000001.7f000001.00000004.00000005  only read    C_O_READ
        123.460003  make[4321]             FSYNC          00000001.7f000001.00000004.00000005  no answer yet
    "#]].assert_eq(&out);
    expect![[r#"
        coda-rs: 3 events lost, as they came faster than they were read; a larger --buffer-kb, or writing to a file, helps
    "#]].assert_eq(&err);
}

#[test]
fn for_programs() {
    let (out, _) = trace(&["--json"]);
    let all: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    expect![[r#"
        {"time_us":123456900,"event":"downcall","command":"venus","pid":1234,"opcode":"ZAPFILE","fid":"00000001.7f000001.00000004.00000006"}
        {"time_us":123458000,"event":"upcall","command":"make","pid":4321,"opcode":"OPEN_BY_FD","fid":"00000001.7f000001.00000004.00000005","unique":7,"result":0,"latency_ns":1211000}
        {"time_us":123458001,"event":"open","command":"make","pid":4321,"fid":"00000001.7f000001.00000004.00000005","flags":3,"result":0}
        {"time_us":123458002,"event":"upcall","command":"Web Content [001]","pid":77,"opcode":"LOOKUP","fid":"00000001.7f000001.00000002.00000003","unique":9,"result":-2,"latency_ns":850}
        {"count":3,"cpu":1,"event":"lost"}
        {"time_us":123459000,"event":"modified","command":"make","pid":4321,"fid":"00000001.7f000001.00000004.00000005","how":"store"}
        {"time_us":123460000,"event":"close","command":"make","pid":4321,"fid":"00000001.7f000001.00000004.00000005","flags":3,"modified":true}
        {"time_us":123460001,"event":"close","command":"vim","pid":99,"fid":"00000001.7f000001.00000004.00000005","flags":1027,"modified":false}
        {"time_us":123460002,"event":"close","command":"cat","pid":98,"fid":"00000001.7f000001.00000004.00000005","flags":1,"modified":null}
        {"time_us":123460003,"event":"waiting","command":"make","pid":4321,"opcode":"FSYNC","fid":"00000001.7f000001.00000004.00000005","unique":10}
    "#]].assert_eq(&out);
    let close: Vec<_> = all
        .iter()
        .filter(|r| r["event"] == "close")
        .map(|r| &r["modified"])
        .collect();
    assert_eq!(
        close,
        [&Value::Bool(true), &Value::Bool(false), &Value::Null]
    );
}

#[test]
fn filters() {
    for (args, lines) in [
        (&["-o", "lookup"][..], 1),
        (&["-o", "CODA_LOOKUP,zapfile"], 2),
        (&["-e", "close"], 3),
        (&["-e", "close,upcall", "-o", "LOOKUP"], 4),
        (&["-p", "99"], 1),
        (&["-p", "4321"], 5),
        (&["-f", "7f000001.2.3"], 1),
        (&["-f", "2.7f000001.2.3"], 0),
        (&["-f", "7f000001.2.3", "-f", "7f000001.4.6"], 2),
        (&["-e", "modified"], 1),
    ] {
        let (out, _) = trace(args);
        // What was lost is told whatever was asked for.
        let n = out
            .lines()
            .filter(|l| !l.starts_with("-- 3 events lost"))
            .count();
        assert_eq!(n, lines, "{args:?}\n{out}");
    }
}

#[test]
fn what_cannot_be() {
    let tree = recorded().file(
        "other",
        "# tracer: nop\n  ls-1 [000] 1.0: sched_switch: x=1\n",
    );
    for (args, why) in [
        (
            vec!["trace", "-i", "/no/such/file"],
            "/no/such/file cannot be read",
        ),
        (
            vec!["trace", "-f", "1.2"],
            "three or four hexadecimal numbers",
        ),
        (
            vec!["trace", "-i", "x", "--seconds", "1"],
            "cannot be used with",
        ),
    ] {
        let output = tree.run(&args).output().unwrap();
        assert!(!output.status.success());
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains(why), "{err}");
    }
    let other = tree.path().join("other");
    let output = tree
        .run(&["trace", "-i", other.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("has no events of coda_rs"), "{err}");
}

#[test]
fn where_nothing_can_be_traced() {
    for (tree, why) in [
        (machine(), "tracefs is not mounted"),
        (
            machine().file("sys/kernel/tracing/instances/x/y", ""),
            "not loaded; `coda-rs doctor` tells why",
        ),
        (
            loaded(machine()).file("sys/kernel/tracing/instances/x/y", ""),
            "no tracepoints",
        ),
        (
            loaded(machine())
                .file("sys/kernel/tracing/instances/x/y", "")
                .denied("sys/kernel/tracing"),
            "trace needs root",
        ),
    ] {
        let output = tree.run(&["trace"]).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && err.contains(why), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

/// The tool, reading a pipe that the test writes to.
struct Live {
    child: Child,
    out: Option<BufReader<std::process::ChildStdout>>,
    pipe: Option<File>,
    _tree: Tree,
}

fn live(args: &[&str]) -> Live {
    let tree = Tree::new();
    let path = tree.path().join("pipe");
    mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_coda-rs"))
        .args(["trace", "--input"])
        .arg(&path)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Waits until the other one has it open.
    let pipe = OpenOptions::new().write(true).open(&path).unwrap();
    let out = child.stdout.take().map(BufReader::new);
    Live {
        child,
        out,
        pipe: Some(pipe),
        _tree: tree,
    }
}

impl Live {
    fn write(&mut self, text: &str) {
        self.pipe
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// It ends by itself, soon.
    fn end(mut self) -> (i32, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut err = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        (status.code().unwrap_or(-1), err)
    }
}

const CLOSE: &str =
    " vim-99 [001] ..... 123.460001: coda_file_close: fid=1.2.3.4 flags=0x403 modified=no\n";

#[test]
fn lines_that_come_in_pieces() {
    let mut live = live(&[]);
    let (first, second) = CLOSE.split_at(40);
    live.write(first);
    std::thread::sleep(Duration::from_millis(100));
    live.write(second);
    assert!(live.line().contains("vim[99]"));
    live.write(&CLOSE.replace("vim", "sed").replace('\n', ""));
    // Without its end it is no line, though the writer be gone.
    live.pipe = None;
    assert_eq!(live.line(), "");
    assert_eq!(live.end(), (0, String::new()));
}

#[test]
fn signals_end_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut live = live(&[]);
        live.write(CLOSE);
        assert!(live.line().contains("not modified"));
        kill(Pid::from_raw(live.child.id() as i32), signal).unwrap();
        assert_eq!(live.end(), (0, String::new()), "{signal}");
    }
}

#[test]
fn a_signal_ends_it_before_anybody_writes() {
    let tree = Tree::new();
    let path = tree.path().join("pipe");
    mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_coda-rs"))
        .args(["trace", "--input"])
        .arg(&path)
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    // Before it minds signals, one ends it as well, in the ordinary way.
    std::thread::sleep(Duration::from_millis(500));
    kill(pid, Signal::SIGINT).unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn threads_of_a_process() {
    let tree = Tree::new().file(
        "trace",
        " a-11  (     10) [000] ..... 1.0: coda_file_close: fid=1.2.3.4 flags=0x1 modified=-\n\
         \x20b-12  (     10) [000] ..... 1.0: coda_upcall_begin: unique=1 opcode=OPEN pid=12 fid=1.2.3.4\n\
         \x20m-99  (     99) [000] ..... 1.1: coda_upcall_end: unique=1 opcode=OPEN fid=1.2.3.4 latency_ns=5 result=0\n\
         \x20c-13  (     13) [000] ..... 1.2: coda_file_close: fid=1.2.3.4 flags=0x1 modified=-\n",
    );
    let path = tree.path().join("trace");
    let path = path.to_str().unwrap();
    for (pid, lines) in [("10", 2), ("12", 1), ("11", 1), ("13", 1), ("14", 0)] {
        let out = tree.says(&["trace", "-i", path, "-p", pid]);
        assert_eq!(out.lines().count(), lines, "{pid}\n{out}");
    }
}

#[test]
fn a_file_that_is_replaced_meanwhile() {
    let begin = |who: &str, fid| {
        format!(
            " {who} [000] ..... 1.0: coda_upcall_begin: unique=7 opcode=GETATTR pid=11 fid={fid}\n"
        )
    };
    let end = |fid| {
        format!(
            " venus-99 [000] ..... 1.1: coda_upcall_end: unique=7 opcode=GETATTR fid={fid} \
             latency_ns=100000000 result=0\n"
        )
    };
    let told = |text: String| {
        let tree = Tree::new().file("trace", text);
        let path = tree.path().join("trace");
        tree.says(&["trace", "-i", path.to_str().unwrap()])
    };
    // It is the one that waits for this number, and nobody waits on.
    let text = told(begin("make-11", "1.2.3.4") + &end("1.2.3.5"));
    assert!(text.contains("make[11] ") && text.contains("ok "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    // Of two devices with the same number, the fid tells.
    let two = begin("make-11", "1.2.3.4") + &begin("vim-12", "1.2.3.6");
    let text = told(two.clone() + &end("1.2.3.6") + &end("1.2.3.5"));
    let who: Vec<&str> = text
        .lines()
        .map(|l| l.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(who, ["vim[11]", "make[11]"], "{text}");
    // If it does not, nobody can tell.
    let text = told(two + &end("1.2.3.5"));
    assert!(text.starts_with("1.100000  venus[99] "), "{text}");
    assert_eq!(text.matches("no answer yet").count(), 2, "{text}");
}

#[test]
fn odd_commands_do_no_harm() {
    let tree = Tree::new().file(
        "trace",
        " a\u{9b}31m-11 [000] ..... 1.0: coda_file_close: fid=1.2.3.4 flags=0x1 modified=-\n",
    );
    let path = tree.path().join("trace");
    let path = path.to_str().unwrap();
    assert!(tree.says(&["trace", "-i", path]).contains("a?31m[11]"));
    let text = tree.says(&["trace", "--json", "-i", path]);
    assert!(text.contains(r#""command":"a\u009b31m""#), "{text}");
}

#[test]
fn nobody_reads() {
    // It is seen at once, though nothing is to be written.
    let mut live = live(&[]);
    live.write(CLOSE);
    live.line();
    live.out = None;
    assert_eq!(live.end(), (0, String::new()));
}
