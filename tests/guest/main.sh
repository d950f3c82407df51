#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the guest does once it is up:
#
#   main.sh run | test | debug | shell | control-c | control-disarmed |
#           cli | diff PROGRAM... | case PROGRAM NAME...
#
# CODA_MODULE says which module: the path of a .ko, or "coda" for the stock C
# module. The exit status is the result. The caller looks at the kernel's log
# and at what is left behind.

here=$(dirname "$(realpath "$0")")
top=$(dirname "$here")
export PATH=$top/bin:$PATH CODACM=$top/bin/codacm

die() {
	echo "main.sh: $*" >&2
	exit 1
}

load() {
	if [ "$CODA_MODULE" = coda ]; then
		modprobe coda
	else
		insmod "$CODA_MODULE"
	fi || die "cannot load ${CODA_MODULE:-the module (CODA_MODULE is not set)}"
	# The device nodes are made by devtmpfs.
	[ -c /dev/cfs0 ] || die "the module made no /dev/cfs0"
}

# All selftests, as kselftest's runner runs them. Its exit status tells.
kselftests() {
	local args=() t
	for t in $CODA_TESTS; do
		args+=(-t "coda_rs:$t")
	done
	# Each program has half an hour (tests/settings), if nobody knows better.
	[ -z "${CODA_TEST_TIMEOUT:-}" ] || args+=(-o "$CODA_TEST_TIMEOUT")
	cd "$top/kselftest" && ./run_kselftest.sh "${args[@]}"
}

mount_coda() {
	local dir=${1:-/containers/tmpfs/coda}
	mkdir -p "$dir" /coda
	coproc codacm serve --root "$dir" --mount /coda --trace /tmp/coda.trace --control /tmp/coda.control
	read -r -t 30 answer <&"${COPROC[0]}" && [ "$answer" = ready ] ||
		die "the cache manager did not start"
}

mode=${1:-test}
# An emulated machine, and not alone on its host: time limits are for what hangs,
# not for what is slow. The C module's control waits for many things in vain.
[ "$mode" = control-c ] || export CODA_TIME_SCALE=${CODA_TIME_SCALE:-3}
case $mode in
run)
	load
	echo
	lsmod | sed -n '1p;/^coda/p'
	echo
	echo "The cache manager codacm serves /dev/cfs0; the volume is mounted on /coda. Its"
	echo "files' containers are on the file system in the first column."
	echo
	CODA_MNT=/coda "$top/kselftest/coda_rs/close_report" --table
	;;
test)
	load
	kselftests
	;;
debug)
	# KASAN and lockdep on top of an emulated machine.
	export CODA_TIME_SCALE=6
	load
	kselftests
	;;
control-c | control-disarmed)
	export CODA_CONTROL=${mode#control-}
	load
	kselftests
	;;
case)
	load
	"$top/kselftest/coda_rs/$2" "${@:3}"
	;;
cli)
	load
	bash "$here/coda-rs.sh" "$top/coda-rs"
	;;
diff)
	load
	shift
	bash "$here/diff.sh" "$CODA_RESULTS" "$@"
	;;
shell)
	load
	mount_coda
	echo "A Coda volume is mounted on /coda; its containers are in /containers/tmpfs/coda,"
	echo "what the cache manager hears in /tmp/coda.trace. Try: codacm ctl --help; exit ends it."
	cd /coda && bash -l
	cd / && umount /coda
	;;
*)
	die "what is $mode?"
	;;
esac
