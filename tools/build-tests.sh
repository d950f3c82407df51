#!/bin/bash
# Builds tests/ (the cache manager, the kselftests and what runs them) in the
# build root, and installs it into out/tests/<DIST>, the payload of a boot.
. "$(dirname "$0")/lib.sh"
load_facts
[ -f "$TOP/tests/Makefile" ] || die "there is no tests/Makefile."
to=$OUT/tests/$DIST
fetch_crates
rm -rf "$to"
mkdir -p "$to"
step "$CACHE/log/tests.log" "Building tests/" \
	in_root --setenv CARGO_NET_OFFLINE true -- \
	make -C "$TOP/tests" install "INSTALL_PATH=$to" "KSRC=$KSRC"
