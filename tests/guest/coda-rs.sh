#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool coda-rs in a guest, with the real module, tracefs and debugfs: what its own
# tests, which read recorded trees, cannot show.  KTAP on standard output.
#
# usage: coda-rs.sh TOOL      (codacm has to be in PATH, the module loaded)
set -u
tool=$1
instances=/sys/kernel/tracing/instances
tmp=$(mktemp -d)
n=0 failed=0

# check NAME COMMAND...: a case; what the command prints is told if it fails.
check() {
	local name=$1
	shift
	n=$((n + 1))
	if "$@" >"$tmp/log" 2>&1; then
		echo "ok $n cli.$name"
	else
		sed "s/^/# cli.$name: /" "$tmp/log"
		echo "not ok $n cli.$name"
		failed=1
	fi
}

# says TEXT COMMAND...: the command succeeds, and prints a line that has TEXT in it.
says() {
	local text=$1
	shift
	"$@" >"$tmp/said" || { echo "status $?: $*"; return 1; }
	grep -qF -- "$text" "$tmp/said" || { echo "no \"$text\" in:"; cat "$tmp/said"; return 1; }
}

# refuses TEXT COMMAND...: the command fails, and says TEXT.
refuses() {
	local text=$1
	shift
	! "$@" >"$tmp/said" 2>&1 || { echo "succeeded: $*"; return 1; }
	grep -qF -- "$text" "$tmp/said" || { echo "no \"$text\" in:"; cat "$tmp/said"; return 1; }
}

# until COMMAND...: within half a minute.
until_so() {
	for _ in $(seq 300); do
		! "$@" || return 0
		sleep 0.1
	done
	echo "never so: $*"
	return 1
}

start_manager() {
	codacm serve --root "$tmp/volume" --mount /coda >"$tmp/ready" &
	manager=$!
	until_so grep -q ready "$tmp/ready"
}

has_instance() {
	[ -n "$(ls "$instances")" ]
}
no_instance() {
	! has_instance || { echo "left over: $(ls "$instances")"; return 1; }
}

# A trace that reads already: its instance has the events switched on.
reads() {
	[ "$(cat "$instances"/coda-rs-*/events/coda_rs/enable 2>/dev/null)" = 1 ]
}
start_trace() {
	# A shell does not let its background jobs be interrupted.
	setsid --fork bash -c 'trap - INT; echo $$ >"$1"; shift; exec "$@"' bash "$tmp/tracer" \
		"$tool" trace "$@" >"$tmp/trace" 2>"$tmp/trace.err"
	until_so reads
}
tracer_is_gone() {
	! kill -0 "$(cat "$tmp/tracer")" 2>/dev/null
}
stop_trace() {
	kill "-${1:-TERM}" "$(cat "$tmp/tracer")" && until_so tracer_is_gone
}

traced() { # OPTIONS... -- COMMAND: what is traced while the command runs
	local options=()
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	start_trace "${options[@]}" && "$@" && stop_trace && cat "$tmp/trace.err" && [ ! -s "$tmp/trace.err" ]
}

works() {
	cat /coda/a >/dev/null
	echo more >>/coda/b
	exec 3<>/coda/c
	exec 3>&-
	truncate -s 3 /coda/d
}
closes() {
	traced --json -e close -- works || return 1
	sed 's/.*"flags":\([0-9]*\),"modified":\([a-z]*\)}/\1 \2/' "$tmp/trace" >"$tmp/closes"
	printf '%s\n' '1 null' '2 true' '1027 false' '2 true' | diff - "$tmp/closes"
}
modifications() {
	traced --json -e modified -- works || return 1
	sed 's/.*"how":"\([a-z]*\)"}/\1/' "$tmp/trace" >"$tmp/how"
	printf '%s\n' write truncate | diff - "$tmp/how"
}
opcodes() {
	traced --json -o CODA_CLOSE -p $$ -- works || return 1
	# cat and truncate are processes of their own.
	[ "$(grep -c '"opcode":"CLOSE"' "$tmp/trace")" = 2 ] && [ "$(wc -l <"$tmp/trace")" = 2 ] || {
		cat "$tmp/trace"
		return 1
	}
}

ends_by() {
	start_trace && has_instance && stop_trace "$1" && no_instance
}
ends_unread() {
	(sleep 2 && works) &
	"$tool" trace 2>/dev/null | head -n 1 >"$tmp/said"
	wait "$!"
	no_instance && [ -s "$tmp/said" ]
}
killed() {
	start_trace && stop_trace KILL && has_instance || return 1
	"$tool" trace --seconds 1 >/dev/null && no_instance
}

counts() {
	local calls
	calls=$(awk '!/^#/ { n += $2 } END { print n }' /sys/kernel/debug/coda_rs/upcalls)
	says "coda_rs $(cat /sys/module/coda_rs/version): $calls upcalls since it was loaded" "$tool" top --once
}
batch() {
	"$tool" top --batch -n 1 -d 3 >"$tmp/top" &
	local top=$!
	sleep 1
	works
	wait "$top" && awk '$1 == "CLOSE" && $2 > 0 { n++ } END { exit n != 1 }' "$tmp/top" || {
		cat "$tmp/top"
		return 1
	}
}

# The cache manager does not read: somebody waits.
waiting() {
	local reader rc=0
	kill -STOP "$manager"
	start_trace -e upcall
	cat /coda/e >/dev/null &
	reader=$!
	until_so says "  pending  " "$tool" status >/dev/null || rc=1
	says "$reader (cat)" "$tool" status || rc=1
	until_so grep -q "cat\[$reader\].*no answer yet" "$tmp/trace" || rc=1
	kill -CONT "$manager"
	wait "$reader" || rc=1
	stop_trace
	says "none on its way" "$tool" status && return "$rc"
}

somebody() {
	setpriv --reuid 65534 --regid 65534 --clear-groups "$tool" "$@"
}

unloaded() {
	umount /coda && start_trace && rmmod coda_rs && until_so tracer_is_gone || return 1
	grep -q 'the module was unloaded' "$tmp/trace.err" && no_instance
}

mkdir -p "$tmp/volume" /coda
chmod 755 "$tmp"
for f in a b c d e; do
	echo content >"$tmp/volume/$f"
done

echo "KTAP version 1"
echo "1..21"
start_manager
check status.mount says "mount     /coda" "$tool" status
check status.device says "device    cfs0: open by $manager (codacm), mounted, 0 pending, 0 outstanding" "$tool" status
check status.waiting waiting
check trace.closes closes
check trace.modifications modifications
check trace.opcodes opcodes
check trace.sigint ends_by INT
check trace.sigterm ends_by TERM
check trace.unread ends_unread
check trace.killed killed
check top.once counts
check top.batch batch
check doctor.well says "0 problems, " "$tool" doctor
check user.status says "needs root" somebody status
check user.doctor says "need root" somebody doctor
check user.top refuses "needs root" somebody top --once
check user.trace refuses "needs root" somebody trace
kill "$manager"
wait "$manager" 2>/dev/null
check status.dead says "/coda (rw,noatime) is dead" "$tool" status
check doctor.dead refuses "umount /coda" "$tool" doctor
check trace.unloaded unloaded
check status.unloaded says "coda_rs is not loaded" "$tool" status
insmod "$CODA_MODULE" || failed=1
exit "$failed"
