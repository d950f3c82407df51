#!/bin/bash
# Brings the cache up to what is needed: prepare.sh [guest] [debug] [kcsan].  The build
# root and the stock kernel always; without anything to do it is quick and uses
# no network.
. "$(dirname "$0")/lib.sh"
[ "$(uname -m)" = x86_64 ] || die "the machine is $(uname -m); only x86_64 is supported."
lock_cache
# Told before the work, and not by a tool in the middle of it: what is still to be made takes
# so much at most.
need=0
# lacks GB STAMP DIR...: less what an interrupted run has left.
lacks() {
	local mb=$(($1 * 1024)) has
	compgen -G "$2" >/dev/null && return
	shift 2
	has=$({ du -smc "$@" 2>/dev/null || true; } | tail -n 1 | cut -f1)
	[ "$mb" -le "$has" ] || need=$((need + mb - has))
}
lacks 3 "$CACHE/root.stamp" "$CACHE/root.new"
lacks 3 "$CACHE/kernel/*.stamp" "$CACHE/kernel"
for what; do
	case $what in
	guest) lacks 2 "$CACHE/guest/*.stamp" "$CACHE/guest" ;;
	*) lacks 6 "$CACHE/$what.stamp" "$CACHE/$what" ;;
	esac
done
need_space "$CACHE" "$need" "the cache; XDG_CACHE_HOME can name another place"
bash "$TOP/tools/prepare-root.sh" 9>&-
bash "$TOP/tools/prepare-kernel.sh" 9>&-
for what; do
	case $what in
	guest) bash "$TOP/tools/prepare-guest.sh" 9>&- ;;
	*) bash "$TOP/tools/prepare-debug.sh" "$what" 9>&- ;;
	esac
done
