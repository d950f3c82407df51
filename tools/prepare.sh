#!/bin/bash
# Brings the cache up to what is needed: prepare.sh [guest] [debug] [kcsan].  The build
# root and the stock kernel always; without anything to do it is quick and uses
# no network.
. "$(dirname "$0")/lib.sh"
[ "$(uname -m)" = x86_64 ] || die "the machine is $(uname -m); only x86_64 is supported."
lock_cache
# Told before the work, and not by a tool in the middle of it.
if [ ! -e "$CACHE/root.stamp" ]; then
	free=$(df -Pk "$CACHE" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge 14 ] ||
		die "the cache ($CACHE) needs about 14 GB, and there are $free GB left; XDG_CACHE_HOME can name another place."
fi
bash "$TOP/tools/prepare-root.sh" 9>&-
bash "$TOP/tools/prepare-kernel.sh" 9>&-
for what; do
	case $what in
	guest) bash "$TOP/tools/prepare-guest.sh" 9>&- ;;
	*) bash "$TOP/tools/prepare-debug.sh" "$what" 9>&- ;;
	esac
done
