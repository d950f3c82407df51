// SPDX-License-Identifier: GPL-2.0

//! `coda-rs status` of recorded trees.

mod common;

use common::{
    installed, loaded, machine, running, running_hidden, running_in_a_container,
    running_unprivileged, running_untraceable,
};
use expect_test::expect;
use serde_json::Value;

fn json(tree: &common::Tree) -> Value {
    serde_json::from_str(&tree.says(&["status", "--json"])).unwrap()
}

#[test]
fn a_client_at_work() {
    expect![[r#"
        module    coda_rs 0.1.0, loaded, 2 users
        mount     /srv/co da (rw,relatime)
        device    cfs0: open by 1234 (venus), mounted, 1 pending, 1 outstanding
        device    cfs1 cfs2 cfs3 cfs4: not open
        requests  2 requests on their way, the oldest for 1.23 s
                  cfs0  77  OPEN_BY_FD  outstanding   1.23 s  4321 (make)  00000001.7f000001.00000004.00000005
                  cfs0  78  LOOKUP      pending      12.0 ms  4322 (gone)  00000001.7f000001.00000002.00000003
        so far    507 upcalls, 300 errors, 1 given up
                  12 opens; closes: 4 modified, 3 not modified, 5 only read
    "#]].assert_eq(&running().says(&["status"]));
}

#[test]
fn for_programs() {
    let all = json(&running());
    assert_eq!(all["module"]["version"], "0.1.0");
    assert_eq!(all["module"]["users"], 2);
    assert_eq!(all["c_module"], Value::Null);
    assert_eq!(all["mounts"][0]["point"], "/srv/co da");
    assert_eq!(all["devices"][0]["openers"][0]["pid"], 1234);
    assert_eq!(all["devices"][0]["openers"][0]["command"], "venus");
    assert_eq!(all["devices"][0]["openers"].as_array().unwrap().len(), 1);
    assert_eq!(all["devices"][0]["outstanding"], 1);
    assert_eq!(all["devices"][4]["openers"], Value::Array(Vec::new()));
    // The oldest comes first; who waits for the other one is gone.
    assert_eq!(all["requests"][0]["unique"], 77);
    assert_eq!(all["requests"][0]["command"], "make");
    assert_eq!(all["requests"][1]["command"], Value::Null);
    assert_eq!(all["upcalls"][0]["latency"][2]["below_us"], 4);
    assert_eq!(all["upcalls"][0]["latency"][2]["calls"], 400);
    assert_eq!(all["upcalls"][0]["latency"][4]["below_us"], Value::Null);
    assert_eq!(all["files"]["closes_modified"], 4);
    assert_eq!(all["unknown"].as_object().unwrap().len(), 0);
}

#[test]
fn without_root() {
    let tree = running_unprivileged();
    expect![[r#"
        module    coda_rs 0.1.0, loaded, 2 users
        mount     /srv/co da (rw,relatime)
        device    who has one open is not known: needs root
        requests  not known: needs root, as /sys/kernel/debug is for root alone
    "#]]
    .assert_eq(&tree.says(&["status"]));
    let all = json(&tree);
    assert_eq!(all["requests"], Value::Null);
    assert_eq!(all["devices"][0]["openers"], Value::Null);
    assert_eq!(all["devices"][0]["node"], true);
    assert!(
        all["unknown"]["requests"]
            .as_str()
            .unwrap()
            .starts_with("needs root")
    );
}

#[test]
fn where_not_all_processes_are_seen() {
    for (tree, why) in [
        (
            running_in_a_container(),
            "/proc does not show all processes here, as in a container; root outside of it is told",
        ),
        (running_hidden(), "needs root"),
        (running_untraceable(), "needs root"),
    ] {
        let text = tree.says(&["status"]);
        assert!(!text.contains("is dead"), "{text}");
        let line = format!("device    who has one open is not known: {why}\n");
        assert!(text.contains(&line), "{text}");
        let all = json(&tree);
        assert_eq!(all["devices"][0]["openers"], Value::Null);
        assert_eq!(all["unknown"]["openers"], why);
    }
    // Whom it does show there, it shows.
    let tree = running_in_a_container()
        .file("proc/7/comm", "venus\n")
        .link("proc/7/fd/3", "/dev/cfs0");
    let text = tree.says(&["status"]);
    assert!(text.contains("cfs0: open by 7 (venus)\n"), "{text}");
}

#[test]
fn the_modules_numbers_in_a_container() {
    // With the host's debugfs; these numbers are other processes' there, or nobody's.
    let tree = running()
        .file("proc/2/status", "Name:\tsh\nKthread:\t0\n")
        .without("proc/1234/fd")
        .file("proc/1234/comm", "sleep\n");
    let text = tree.says(&["status"]);
    assert!(
        text.contains("cfs0: open by 1234 (not shown here), mounted"),
        "{text}"
    );
    assert!(text.contains("4321 (not shown here)"), "{text}");
    assert!(!text.contains("is dead"), "{text}");
    assert_eq!(json(&tree)["requests"][0]["command"], Value::Null);
}

#[test]
fn the_cache_managers_own_user() {
    // Without debugfs, but with leave to look at the cache manager's descriptors.
    let tree = running().denied("sys/kernel/debug").denied("proc/1/fd");
    let text = tree.says(&["status"]);
    assert!(text.contains("cfs0: open by 1234 (venus)\n"), "{text}");
}

#[test]
fn nothing_is_loaded() {
    expect![[r#"
        module    coda_rs is not loaded; `coda-rs doctor` tells why
        mount     none
        device    cfs0 cfs1 cfs2 cfs3 cfs4: no node in /dev
    "#]]
    .assert_eq(&machine().says(&["status"]));
}

#[test]
fn loaded_alone() {
    expect![[r#"
        module    coda_rs 0.1.0, loaded, 0 users
        mount     none
        device    cfs0 cfs1 cfs2 cfs3 cfs4: not open
        requests  none on its way
        so far    0 upcalls, 0 errors, 0 given up
                  0 opens; closes: 0 modified, 0 not modified, 0 only read
    "#]]
    .assert_eq(&loaded(installed(machine())).says(&["status"]));
}

#[test]
fn the_c_module() {
    let tree = machine()
        .file("proc/modules", "coda 61440 1 - Live 0x0000000000000000\n")
        .file("proc/filesystems", "nodev\tcoda\n");
    let text = tree.says(&["status"]);
    assert!(
        text.starts_with("module    it is the kernel's own C module coda, which is loaded\n"),
        "{text}"
    );
    let tree = machine().file("proc/filesystems", "nodev\tcoda\n");
    let text = tree.says(&["status"]);
    assert!(text.contains("part of this kernel"), "{text}");
}

#[test]
fn a_cache_manager_whose_opener_is_gone() {
    // Whoever opened the device has left it to a child.
    let tree = running()
        .without("proc/1234")
        .file("proc/1300/comm", "venus\n")
        .link("proc/1300/fd/3", "/dev/cfs0");
    let text = tree.says(&["status"]);
    assert!(
        text.contains("cfs0: open by 1300 (venus), mounted"),
        "{text}"
    );
    let tree = running().without("proc/1234");
    let text = tree.says(&["status"]);
    assert!(
        text.contains("cfs0: open by 1234 (gone), mounted"),
        "{text}"
    );
}

#[test]
fn a_mount_whose_cache_manager_is_gone() {
    let devices = "# device pid mounted pending outstanding\n";
    let tree = running()
        .without("proc/1234")
        .file("sys/kernel/debug/coda_rs/devices", devices);
    let text = tree.says(&["status"]);
    assert!(text.contains("/srv/co da (rw,relatime) is dead"), "{text}");
    // Whoever opened the device next does not bring it back.
    let tree = running().file(
        "sys/kernel/debug/coda_rs/devices",
        format!("{devices}cfs0 1234 0 0 0\n"),
    );
    let text = tree.says(&["status"]);
    assert!(text.contains("is dead"), "{text}");
    assert!(!running_unprivileged().says(&["status"]).contains("is dead"));
}

#[test]
fn a_later_module_with_other_columns() {
    let tree = running()
        .file(
            "sys/kernel/debug/coda_rs/devices",
            "# device uid pid mounted stalled pending outstanding\ncfs0 0 1234 1 0 3 4\n",
        )
        .file(
            "sys/kernel/debug/coda_rs/requests",
            "# opcode device unique state age_ms\nOPEN cfs0 9 pending 5\n",
        );
    let text = tree.says(&["status"]);
    assert!(text.contains("3 pending, 4 outstanding"), "{text}");
    assert!(text.contains("9  OPEN  pending  5.00 ms"), "{text}");
}

#[test]
fn an_earlier_module_without_statistics() {
    let tree = running().without("sys/kernel/debug/coda_rs");
    let text = tree.says(&["status"]);
    assert!(
        text.contains("this version of the module has no statistics"),
        "{text}"
    );
    let tree = tree
        .without("sys/kernel/debug")
        .file("proc/self/mountinfo", "");
    assert!(tree.says(&["status"]).contains("debugfs is not mounted"));
}

#[test]
fn what_processes_call_themselves_does_no_harm() {
    let tree = running().file("proc/1234/comm", "ve\x1b[31mnus\n");
    assert!(tree.says(&["status"]).contains("1234 (ve?[31mnus)"));
    // One character that some terminals take for the two.
    let tree = running().file("proc/1234/comm", "ve\u{9b}31mnus\n");
    assert!(tree.says(&["status"]).contains("1234 (ve?31mnus)"));
    for args in [&["status", "--json"][..], &["doctor", "--json"]] {
        let text = tree.says(args);
        assert!(!text.contains('\u{9b}'), "{text}");
        assert!(text.contains("ve\\u009b31mnus"), "{text}");
    }
    assert_eq!(
        json(&tree)["devices"][0]["openers"][0]["command"],
        "ve\u{9b}31mnus"
    );
}

#[test]
fn an_empty_tree() {
    let tree = common::Tree::new();
    let text = tree.says(&["status"]);
    assert!(text.contains("mount     not known"), "{text}");
    json(&tree);
}
