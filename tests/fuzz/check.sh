#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Fuzzes the parsers of the module: each target gets its corpus, and RUNS further
# inputs. Prints KTAP; what makes one fail is left in DIR. CODA_SEED repeats a run.
# usage: check.sh RUNS DIR
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$(realpath "$0")")"
runs=$1 dir=$2
seed=${CODA_SEED:-$(date +%s)}
targets=(reply dirent upcall)
# As long as what is looked at gets: a reply to a pioctl may be longer, but no
# longer one means anything else.
declare -A longest=([reply]=512 [dirent]=1024 [upcall]=1024)

mkdir -p "$dir"
dir=$(realpath "$dir")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# With flags of its own it is not to share a target directory.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
bin=$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release

echo "KTAP version 1"
echo "1..${#targets[@]}"
if ! RUSTC_BOOTSTRAP=1 CXX=${CXX:-clang++} CARGO_NET_OFFLINE=true \
	cargo fuzz build --fuzz-dir . --sanitizer none >"$work/build.log" 2>&1; then
	tail -n 40 "$work/build.log" | sed 's/^/# /'
	echo "Bail out! The fuzz targets do not compile."
	exit 1
fi

number=0 failed=0
for target in "${targets[@]}"; do
	number=$((number + 1))
	rc=0
	mkdir "$work/$target"
	# What is new goes to the first folder.
	"$bin/$target" -seed="$seed" -runs="$runs" -max_len="${longest[$target]}" -timeout=20 \
		-artifact_prefix="$dir/$target-" "$work/$target" "corpus/$target" \
		>"$work/$target.log" 2>&1 </dev/null || rc=$?
	done=$(sed -n 's/^Done \([0-9]*\) runs in .*/\1/p' "$work/$target.log")
	cover=$(sed -n 's/.* cov: \([0-9]*\) ft: .*/\1/p' "$work/$target.log" | tail -n 1)
	echo "# $target: ${done:-no end of} inputs, seed $seed, ${cover:-no} places reached"
	if [ "$rc" -eq 0 ] && [ "${done:-0}" -ge "$runs" ]; then
		echo "ok $number $target"
		continue
	fi
	failed=1
	# What the assertion says, and which input did it.
	grep -aA 3 'panicked at' "$work/$target.log" | head -n 4 | cut -c1-300 | sed "s/^/# $target: /" || true
	grep -aE '^==[0-9]+== ERROR|Test unit written to' "$work/$target.log" | cut -c1-300 | sed "s/^/# $target: /" || true
	cp "$work/$target.log" "$dir/$target.log"
	echo "# $target: status $rc; all that it said is in $dir/$target.log"
	echo "not ok $number $target"
done
exit "$failed"
