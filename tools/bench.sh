#!/bin/bash
# make bench: what calls cost with C's module, with ours, on FUSE with its passthrough
# and on the containers themselves, in executed instructions; and what two CPUs do for
# each.  Nothing is judged.
# make profile (bench.sh --profile): in which functions of the kernel those instructions
# are.
. "$(dirname "$0")/lib.sh"
tools=$TOP/tools

bash "$tools/prepare.sh" guest
load_facts
step "$OUT/logs/$DIST/module.log" "Building coda_rs.ko for $REL" bash "$tools/build-module.sh"
bash "$tools/build-tests.sh"
results=$OUT/results/$DIST/bench
[ "${1:-}" != --profile ] || results=$OUT/results/$DIST/profile
rm -rf "$results"
mkdir -p "$results"

# measure NAME MODULE OPTIONS-OF-vm.sh... -- OPTIONS-OF-bench...
measure() {
	local name=$1 module=$2 options=()
	shift 2
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	bash "$tools/vm.sh" --quiet --label "$name" --payload "$OUT/tests/$DIST" --module "$module" \
		--plain --fs "" --timeout 1800 --no-check "${options[@]}" \
		-- /opt/coda/guest/main.sh case bench "$@" | tr -d '\r' >"$results/$name"
}

if [ "${1:-}" = --profile ]; then
	step "$OUT/logs/$DIST/profile.log" "Building the plugin for QEMU" \
		in_root --setenv RUSTFLAGS "" --setenv CARGO_NET_OFFLINE true -- \
		cargo build --release --locked --manifest-path "$TOP/tests/profile/Cargo.toml"
	plugin=$IN_CACHE/cargo/target/release/libcodaprofile.so
	note "==> Counting the instructions of each function"
	pids=()
	for name in c ours; do
		module=coda
		[ "$name" = c ] || module=$OUT/$REL/coda_rs.ko
		measure "profile-$name" "$module" --icount --plugin "$plugin,out=$results/profile-$name" \
			-- --profile --rounds 2 &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || die "The profile: see the logs in ${OUT#"$TOP/"}/logs/$DIST."
	done
	in_root "$OUT/tests/$DIST/bin/codabench" --kernel "$REL" --profile "$results"
	echo "All of it is in ${results#"$TOP/"}/profile.txt."
	exit
fi

# C's module and ours; ONE after the other, or both at once.
both() {
	local ours="$OUT/$REL/coda_rs.ko" how=$1 name=$2 pid=
	shift 2
	measure "$name-c" coda "$@" &
	pid=$!
	[ "$how" = together ] || wait "$pid" || die "C's module: see ${results#"$TOP/"}/$name-c."
	measure "$name-ours" "$ours" "$@" || die "coda_rs: see ${results#"$TOP/"}/$name-ours."
	[ "$how" != together ] || wait "$pid" || die "C's module: see ${results#"$TOP/"}/$name-c."
}

# A clock that counts instructions needs one CPU, and does not mind what else the
# machine does.
note "==> Counting instructions: each operation on C's module and on ours, at the same time"
both together bench --icount --
# The other clock does.
note "==> One CPU and two, by the clock on the wall: this wants the machine for itself"
both apart scale --cpus 2 -- --scale --rounds 5

in_root "$OUT/tests/$DIST/bin/codabench" --kernel "$REL" "$results"
echo "The figures are in ${results#"$TOP/"}: bench.txt, bench.json and bench.svg."
