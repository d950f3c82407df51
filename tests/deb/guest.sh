#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Inside the Debian that tools/test-deb.sh boots, as a service once the system is up.  What
# is to be looked at is in the kernel's command line: coda.stage=installed (the packages are
# there, the kernel is the one they were installed for), secure (the same with Secure Boot, and
# nobody knows the key yet), enrolled (somebody does) or upgraded (another kernel has come; the
# package is purged at the end).  Prints a line for each check, and the result.
top=/opt/coda-test
export PATH=$top:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive
stage=$(sed -n 's/.*coda\.stage=\([a-z]*\).*/\1/p' /proc/cmdline)
expected=$(sed -n 's/.*coda\.kernel=\([^ ]*\).*/\1/p' /proc/cmdline)
failures=0

# check TITLE COMMAND...: in this shell, as the cache manager is to live on.
check() {
	local title=$1
	shift
	if "$@" >/run/check 2>&1; then
		echo "ok      $title"
	else
		echo "FAILED  $title"
		tail -n 20 /run/check | sed 's/^/        /'
		failures=$((failures + 1))
	fi
}
is() {
	[ "$1" = "$2" ] || {
		echo "it is '$1', not '$2'"
		return 1
	}
}
loaded() {
	[ -d "/sys/module/$1" ]
}
not() {
	! "$@"
}
said() {
	grep -q "$1" "$2" || {
		tail -n 20 "$2"
		return 1
	}
}

# A volume on /coda, served by the tests' own cache manager.
serve() {
	rm -f /run/coda.trace
	mkdir -p /var/tmp/volume /coda
	coproc codacm serve --root /var/tmp/volume --mount /coda --trace /run/coda.trace
	manager=$COPROC_PID
	answer=
	read -r -t 120 answer <&"${COPROC[0]}"
	is "$answer" ready && is "$(stat -f -c %t /coda)" 73757245
}
stop() {
	umount /coda || return 1
	kill "$manager" 2>/dev/null
	wait "$manager" 2>/dev/null
	true
}

# What CODA_CLOSE said last.
flags() {
	sed -n 's/.*"ev":"in","op":"CLOSE".*"flags":\([0-9]*\).*/\1/p' /run/coda.trace | tail -n 1
}
# work UNWRITTEN: the flags of a close after which nothing was written.
work() {
	echo text >/coda/file && is "$(cat /coda/file)" text || return 1
	is "$(cat /var/tmp/volume/file)" text || return 1
	exec 5<>/coda/file
	exec 5>&-
	is "$(flags)" "$1" || return 1
	exec 5<>/coda/file
	echo other >&5
	exec 5>&-
	is "$(flags)" 3
}
ours=1027 theirs=3

# Loading by need: an open of a node, and a mount.
by_node() {
	# Not a name that the module makes by itself.
	rm -f /dev/coda-node
	mknod /dev/coda-node c 67 0
	exec 6<>/dev/coda-node && exec 6>&-
	loaded "$1"
}
by_mount() {
	mkdir -p /coda
	# There is nothing to mount; what counts is what the kernel asks modprobe for.
	mount -t coda none /coda 2>/dev/null
	loaded "$1"
}

common() {
	check "the kernel is $expected" is "$(uname -r)" "$expected"
	check "coda_rs was loaded at boot" loaded coda_rs
	check "C's module was not" not loaded coda
	case $(modinfo -n coda_rs) in
	"/lib/modules/$expected/updates/dkms/coda_rs.ko"*) check "it is the one that DKMS built" true ;;
	*) check "it is the one that DKMS built: $(modinfo -n coda_rs)" false ;;
	esac
	check "it is signed with this machine's key" is "$(modinfo -F signer coda_rs)" "DKMS module signing key"
	check "Coda can be mounted" serve
	check "files can be read and written, and a close tells them apart" work "$ours"
}

# The numbers come from debugfs, of which a kernel that is locked down shows little.
status() {
	coda-rs status >/tmp/status && said 'mount  */coda' /tmp/status &&
		said "cfs0: open by $manager (codacm), mounted, 0 pending, 0 outstanding" /tmp/status
}
doctor() {
	coda-rs doctor
}
securely() {
	check "Secure Boot is on" is "$(mokutil --sb-state | head -n 1)" "SecureBoot enabled"
	check "the kernel is locked down" grep -q '\[integrity\]' /sys/kernel/security/lockdown
}
refused() {
	! modprobe coda_rs 2>/tmp/refused && said 'Key was rejected' /tmp/refused
}
advised() {
	! coda-rs doctor >/tmp/doctor && said 'mokutil --import /var/lib/dkms/mok.pub' /tmp/doctor
}

case $stage in
secure)
	securely
	check "the kernel is $expected" is "$(uname -r)" "$expected"
	check "coda_rs was not loaded at boot, as nobody knows its key" not loaded coda_rs
	check "modprobe coda_rs says so" refused
	check "C's module was not loaded instead" not loaded coda
	check "coda-rs doctor says what to do" advised
	check "mokutil takes the key" mokutil --import /var/lib/dkms/mok.pub < <(printf 'coda\ncoda\n')
	;;
enrolled)
	securely
	check "the key is enrolled" grep -q 'already enrolled' <(mokutil --test-key /var/lib/dkms/mok.pub)
	common
	check "coda-rs status sees it" status
	check "coda-rs doctor finds nothing amiss" doctor
	check "Coda can be unmounted" stop
	;;
installed)
	common
	check "coda-rs status sees it" status
	check "coda-rs doctor finds nothing amiss" doctor
	check "modprobe coda does not load C's module" modprobe coda
	check "... and it is not there" not loaded coda
	# A node in the way of an update: DKMS builds anew below a file system in use.
	check "the package is installed again while Coda is mounted" dpkg -i "$top"/coda-rs-dkms.deb
	check "files can be read and written still" work "$ours"
	check "DKMS has built it here, too" is "$(dkms status coda-rs -k "$expected" | sed 's/.*: //')" installed
	check "Coda can be unmounted" stop
	check "coda_rs can be unloaded" modprobe -r coda_rs
	check "an open of the device loads coda_rs" by_node coda_rs
	check "coda_rs can be unloaded again" modprobe -r coda_rs
	check "mount -t coda loads coda_rs" by_mount coda_rs
	check "C's module was never loaded" not loaded coda
	;;
upgraded)
	common
	apt-get purge -y -q coda-rs-dkms >/tmp/purge 2>&1
	check "the package can be purged while Coda is mounted" is $? 0
	check "it says that the module stays loaded" said 'stays loaded until.*rmmod coda_rs' /tmp/purge
	check "files can be read and written still" work "$ours"
	check "Coda can be unmounted" stop
	# modprobe knows nothing of a module whose file is gone.
	check "coda_rs can be unloaded, as it says" rmmod coda_rs
	check "no module of DKMS is left" is "$(echo /lib/modules/*/updates/dkms/coda_rs*)" '/lib/modules/*/updates/dkms/coda_rs*'
	check "no configuration of modprobe is left" not grep -rq coda /etc/modprobe.d /usr/lib/modprobe.d /usr/lib/modules-load.d
	check "no Rust metadata is left" not test -e /var/cache/coda-rs
	check "nothing of the package is left" not grep -q . <(dpkg-query -W -f '${Status}' coda-rs-dkms 2>/dev/null | grep -v 'not-installed')
	check "mount -t coda loads C's module" by_mount coda
	check "C's module can be unloaded" modprobe -r coda
	check "an open of the device loads C's module" by_node coda
	check "coda_rs was not loaded" not loaded coda_rs
	check "Coda can be mounted with C's module" serve
	check "files can be read and written; closes all look alike" work "$theirs"
	check "Coda can be unmounted" stop
	;;
*) check "coda.stage=$stage is a stage" false ;;
esac
# What is no fault: a module from outside of the tree taints the kernel.
dmesg >/tmp/dmesg
check "the kernel did not complain" not grep -E 'WARNING:|BUG:|Oops|general protection|Call Trace|unable to handle' /tmp/dmesg
if [ "$failures" -eq 0 ]; then
	echo "coda-test: $stage: all is well"
else
	echo "coda-test: $stage: $failures failed"
fi
