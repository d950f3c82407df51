#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs programs on a Coda volume and keeps what tells of each one:
#
#   diff.sh RESULTS PROGRAM...
#
# A PROGRAM is a script in programs/, or ops:SEED:COUNT for random operations.
# Afterwards RESULTS/<name>/ has its exit status, its output, the tree that it
# left, and the cache manager's trace; codadiff compares these with another
# boot's. Lines at the head of a script say how it wants to be run:
#
#   # order: strict     one thing happens after the other; or: loose; changes, if
#                       what is read depends on the clock; none, if even the number
#                       of calls is not the same each time
#   # container: ext4   the file system behind the volume (default: tmpfs)
#   # dirs: venus       what the containers of directories are (default: real)
#   # strace: yes       compare its system calls as well
#   # same: A => B      text A (a regular expression) is random; call it B
set -u
here=$(dirname "$(realpath "$0")")

header() {
	sed -n "s/^# $2: //p" "$1"
}

start() { # CONTAINER DIRS TRACE
	local answer
	coproc codacm serve --root "$1" --dirs "$2" --mount /coda --trace "$3" 2>&1
	manager=$COPROC_PID
	read -r -t 60 answer <&"${COPROC[0]}" && [ "$answer" = ready ] && return
	echo "diff.sh: the cache manager did not start: ${answer:-}" >&2
	exit 1
}

stop() {
	umount /coda || return
	kill "$manager"
	wait "$manager" 2>/dev/null || true
}

run() { # NAME SCRIPT ARGUMENTS...
	local name=$1 script=$2 dir=$results/$1 fs watch=() began=$SECONDS
	shift 2
	mkdir -p "$dir"
	fs=$(header "$script" container)
	fs=${CODA_CONTAINER:-${fs:-tmpfs}}
	local container=/containers/$fs/$name dirs
	dirs=$(header "$script" dirs)
	dirs=${CODA_DIRS:-${dirs:-real}}
	mkdir -p "/containers/$fs" && rm -rf "$container" && mkdir "$container" || exit 1
	header "$script" order >"$dir/order"
	header "$script" same >"$dir/same"
	if [ -n "$(header "$script" strace)" ]; then
		mkdir -p "$dir/strace"
		watch=(strace -ff -y -qq -s 0 --seccomp-bpf -e 'trace=%file,%desc'
			-e 'signal=none' -o "$dir/strace/st")
	fi
	start "$container" "$dirs" "$dir/trace"
	(
		cd /coda && mkdir -p /tmp/scratch && export SCRATCH=/tmp/scratch
		umask 022
		exec timeout "${CODA_PROGRAM_TIMEOUT:-600}" "${watch[@]}" bash -eu "$script" "$dir" "$@"
	) >"$dir/output" 2>&1 </dev/null
	echo $? >"$dir/status"
	codadiff tree /coda >"$dir/tree" 2>>"$dir/output" || echo "no tree" >>"$dir/status"
	rm -rf /tmp/scratch
	stop || echo "cannot be unmounted" >>"$dir/status"
	rm -rf "$container"
	echo "# $name: status $(head -n 1 "$dir/status"), $(wc -l <"$dir/trace") lines of trace, $((SECONDS - began)) s"
}

mkdir -p /coda "$1"
results=$1
shift
n=0
for program; do
	case $program in
	ops:*)
		IFS=: read -r _ seed count <<<"$program"
		# Each on another kind of volume. (In a real directory of xfs inode numbers
		# are not the same each time.)
		kinds=(tmpfs:real ext4:venus xfs:venus btrfs:real)
		IFS=: read -r CODA_CONTAINER CODA_DIRS <<<"${kinds[n++ % ${#kinds[@]}]}"
		run "ops-$seed" "$here/programs/ops.sh" "$seed" "$count"
		unset CODA_CONTAINER CODA_DIRS
		;;
	*)
		run "$program" "$here/programs/$program.sh"
		;;
	esac
done
