#!/bin/bash
# make test: every boot, every count, one closing line.  Two guests run at a
# time, as the tests keep little more than one emulated core busy.
# usage: tools/test.sh [--long]
. "$(dirname "$0")/lib.sh"
long=${1:-}
tools=$TOP/tools

bash "$tools/prepare.sh" guest debug ${long:+kcsan}
load_facts
step "$OUT/logs/$DIST/module.log" "Building coda_rs.ko for $REL" \
	bash "$tools/build-module.sh"
CODA_RS_VARIANT=disarmed step "$OUT/logs/$DIST/module-disarmed.log" "Building it with the page_mkwrite wrapper disarmed" \
	bash "$tools/build-module.sh"
step "$OUT/logs/$DIST/module-debug.log" "Building it for the debug kernel" \
	bash "$tools/build-module.sh" debug
[ -z "$long" ] || step "$OUT/logs/$DIST/module-kcsan.log" "Building it for the kernel with KCSAN" \
	bash "$tools/build-module.sh" kcsan
bash "$tools/build-tests.sh"
step "$OUT/logs/$DIST/cli.log" "Building cli/" \
	in_root --setenv CARGO_TARGET_DIR "$IN_CACHE/cargo/target/cli" -- \
	cargo build --manifest-path cli/Cargo.toml --offline --locked
fetch_fuzzer

passed=0 failed=0 skipped=0
state=$(mktemp -d -p "$OUT/run" test.XXXXXX 2>/dev/null || { mkdir -p "$OUT/run" && mktemp -d -p "$OUT/run" test.XXXXXX; })
# However this ends, no guest goes on.
trap 'for pid in $(jobs -p); do kill -- "-$pid" 2>/dev/null || true; done; rm -rf "$state"' EXIT
trap 'exit 130' INT TERM

# boot NAME ARGUMENTS-OF-vm.sh...; but the model and the parsers need no guest.
boot() {
	local name=$1 rc=0 began=$SECONDS
	shift
	case $name in
	model) in_root bash "$TOP/tests/model/check.sh" ;;
	# With how many inputs.
	wire)
		in_root --setenv CODA_SEED "${CODA_SEED:-$(date +%s)}" -- \
			bash "$TOP/tests/fuzz/check.sh" "$1" "$OUT/logs/$DIST/wire"
		;;
	*) bash "$tools/vm.sh" --quiet --label "$name" --payload "$OUT/tests/$DIST" "$@" ;;
	esac >"$state/$name.out" 2>"$state/$name.err" </dev/null || rc=$?
	echo "$rc $((SECONDS - began))" >"$state/$name.rc.tmp"
	mv "$state/$name.rc.tmp" "$state/$name.rc"
}

# again: what failed is said where it happened, and once more at the end, since the
# end is all that is left of some logs.
again() {
	tee -a "$state/failures"
}

# count FILE: adds the cases of FILE, and prints those that are not plainly good.
count() {
	local p f s
	awk -f "$tools/ktap.awk" "$1" >"$state/counts"
	read -r p f s < <(tail -n 1 "$state/counts")
	sed '$d' "$state/counts" | while read -r line; do
		case $line in
		"failed: not ok "*)
			# What the case itself says about it.
			read -r _ _ _ _ name _ <<<"$line"
			{
				echo "    $line"
				grep -aE "^[# ]*$name: " "$1" | head -n 4 | tr -d '\r' | sed 's/^[# ]*/        /' || true
			} | again
			;;
		failed:*) echo "    $line" | again ;;
		*) echo "    $line" ;;
		esac
	done
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	counted=$((p + f + s)) bad=$f
	printf '    %d passed, %d failed, %d skipped: %s\n' "$p" "$f" "$s" "$2"
}

# verdict TITLE: one more case, passed or failed.
good() {
	passed=$((passed + 1))
	echo "    ok: $1"
}
wrong() {
	failed=$((failed + 1))
	echo "    FAILED: $1" | again
}

# The C module has to come to grief: the case fails or, if it is one that takes
# the kernel down, the guest dies or complains. A guest that did not get as far as
# that proves nothing.
report_fault() {
	local name=$1 rc=$2 logs=$OUT/logs/$DIST/$1 why
	why=$(grep -aE '^(# *)*not ok ' "$state/$name.out" | head -n 1 | tr -d '\r' || true)
	if [ -z "$why" ] && [ "${harm[$name]}" = kernel ]; then
		why=$(sed '1,/coda-guest: begin/d' "$logs/console.log" |
			grep -aoE 'BUG: .*|Oops: .*|WARNING: .*|general protection.*|[Ll]ist_(add|del) corruption.*|refcount_t: .*|INFO: task .*' |
			head -n 1 | tr -d '\r' || true)
		# Memory that is overwritten may be the end of the console, too, or of a CPU.
		if [ -z "$why" ] && [ "$rc" -eq 71 ] && grep -q 'coda-guest: begin' "$logs/console.log"; then
			why="the kernel hangs, or is gone without a word"
		fi
	fi
	if [ "$rc" -ne 0 ] && [ -n "$why" ]; then
		good "C fails as it must: ${why:0:120}"
	else
		wrong "C did not fail (status $rc)"
	fi
}

report() {
	local name=$1 title=$2 rc took counted=0 bad=0
	read -r rc took <"$state/$name.rc"
	echo "$title:" >>"$state/failures"
	case $name in
	model)
		echo "==> $title ($(mmss "$took"))"
		sed -n 's/^# \([a-z]*\(\.[A-Z]*\)\?: [0-9]* states\)/    \1/p' "$state/$name.out"
		;;
	wire)
		echo "==> $title ($(mmss "$took"); what makes one fail is in out/logs/$DIST/wire)"
		sed -n 's/^# \([a-z]*: [0-9]* inputs\)/    \1/p' "$state/$name.out"
		;;
	*) echo "==> $title ($(mmss "$took"); logs in out/logs/$DIST/$name)" ;;
	esac
	case $name in
	fault-*)
		report_fault "$name" "$rc"
		return
		;;
	esac
	if [ "$name" = debug ]; then
		report_kunit "$state/$name.out"
		sed '/^KUNIT-BEGIN/,/^KUNIT-END/d' "$state/$name.out" >"$state/$name.rest"
		mv "$state/$name.rest" "$state/$name.out"
	fi
	case $name in
	storm-*)
		# How much was judged.
		sed -n 's/^[# ]*# \([a-z0-9]*\.[a-z]*: {\)/    \1/p' "$state/$name.out" | tr -d '\r'
		;;&
	long)
		sed -n 's/^[# ]*# \([a-z0-9]*: [0-9]* messages\)/    \1/p' "$state/$name.out" | tr -d '\r'
		;;&
	# These have only something to be compared.
	diff-*) grep '^# ' "$state/$name.out" | tr -d '\r' | sed 's/^# /    /' || true ;;
	*)
		count "$state/$name.out" "cases"
		;;
	esac
	case $name in
	diff-*) ;;
	*) [ "$counted" -gt 0 ] || wrong "it reported no case at all" ;;
	esac
	grep -a '^# KCSAN: ' "$state/$name.out" | tr -d '\r' | sed 's/^# /    /' || true
	case $rc in
	0)
		# Of the C module neither is asked.
		case $name in
		control-c | diff-c | model | wire) ;;
		*) good "the module unloads and the kernel log is clean" ;;
		esac
		;;
	70)
		wrong "the kernel log, or the unloading, is at fault"
		sed -n '/^kernel log check:/,$p' "$state/$name.out" | head -n 60 | sed 's/^/      /' | again
		;;
	*)
		# The cases that failed have been counted; a run that broke off has none.
		if [ "$rc" -eq 71 ] || [ "$bad" -eq 0 ]; then
			wrong "the run ended with status $rc"
			tail -n 30 "$state/$name.out" "$state/$name.err" | sed 's/^/      /' | again
		fi
		;;
	esac
}

# The kernel's own reader of KUnit's results judges them.
report_kunit() {
	local p=0 f=0 s=0 n
	sed -n '/^KUNIT-BEGIN/,/^KUNIT-END/p' "$1" | sed '1d;$d' | tr -d '\r' >"$state/kunit.results"
	n=$(grep -cE '^(not )?ok [0-9]+' "$state/kunit.results" || true)
	{
		echo "KTAP version 1"
		echo "1..$n"
		# Each suite counted itself as the first one.
		sed -e '/^KTAP version/d' -e '/^1\.\.1$/d' "$state/kunit.results" |
			awk '/^(not )?ok [0-9]+/ { sub(/ok [0-9]+/, "ok " ++n) } { print }'
	} >"$state/kunit.ktap"
	in_root python3 "$KSRC/tools/testing/kunit/kunit.py" parse "$state/kunit.ktap" \
		>"$OUT/logs/$DIST/kunit.txt" 2>&1 || true
	sed 's/\x1b\[[0-9;]*m//g' "$OUT/logs/$DIST/kunit.txt" >"$state/kunit.txt"
	# "Testing complete. Ran N tests: passed: N, failed: N, crashed: N, skipped: N, errors: N"
	read -r p f s < <(awk '/Testing complete/ { p = f = s = 0
		gsub(/[,:]/, "")
		for (i = 1; i < NF; i++) {
			if ($i == "passed") p = $(i + 1)
			if ($i == "skipped") s = $(i + 1)
			if ($i == "failed" || $i == "crashed" || $i == "errors") f += $(i + 1)
		} } END { print p + 0, f + 0, s + 0 }' "$state/kunit.txt")
	if [ "$f" -gt 0 ]; then
		sed 's/^\[[0-9:]*\] /      /' "$state/kunit.txt" | head -n 120 | again
	else
		grep -E '\[SKIPPED\]' "$state/kunit.txt" | sed 's/^\[[0-9:]*\] /    /' || true
	fi
	printf '    %d passed, %d failed, %d skipped: KUnit\n' "$p" "$f" "$s"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	[ $((p + f)) -gt 0 ] || wrong "no KUnit test ran"
}

# What runs is waited for until no more than so many are left, and what has ended
# is reported.
wait_until_left() {
	local name line left
	while :; do
		left=()
		for name in "${running[@]}"; do
			if [ -e "$state/$name.rc" ]; then
				[ ! -t 2 ] || printf '\r\033[K' >&2
				report "$name" "${titles[$name]}"
			else
				left+=("$name")
			fi
		done
		running=("${left[@]}")
		[ ${#running[@]} -gt "$1" ] || return 0
		sleep 1
		line=
		for name in "${running[@]}"; do
			# There may be no case to show yet.
			line+="$name: $(tr -d '\r' <"$state/$name.out" | { grep -aE '(^|[# ])(not )?ok [0-9]' || true; } |
				tail -n 1 | tr -cd '[:print:]' | sed 's/^[# ]*//' | cut -c1-45)   "
		done
		if [ -t 2 ]; then
			printf '\r\033[K%.*s' "$(($(tput cols 2>/dev/null || echo 80) - 1))" "[$(mmss $((SECONDS - boots_began)))] $line" >&2
		elif [ $((SECONDS - boots_began - shown)) -ge 30 ]; then
			shown=$((SECONDS - boots_began))
			note "    [$(mmss $shown)] $line"
		fi
	done
}

# start NAME TITLE ARGUMENTS-OF-vm.sh...
declare -A titles
running=() boots_began=$SECONDS shown=0
start() {
	local name=$1
	titles[$name]=$2
	shift 2
	wait_until_left 1
	: >"$state/$name.out"
	# A process group each, so that all of it can be ended.
	set -m
	boot "$name" "$@" &
	set +m
	running+=("$name")
}

stock=$OUT/$REL/coda_rs.ko
main=/opt/coda/guest/main.sh

# What is run on C's module and on ours, to be compared: real programs, and random
# operations (ops:SEED:COUNT).
programs=(ls git archive build sqlite wal save fio stress)
patience=1500 long_env=()
if [ -n "$long" ]; then
	patience=7200
	long_env=(--env CODA_LONG=1)
	for seed in $(seq 1 20) "$(date +%s)"; do
		programs+=("ops:$seed:5000")
	done
else
	for seed in 1 2 3 4; do
		programs+=("ops:$seed:1000")
	done
fi
results=$OUT/results/$DIST

note "==> Guests, two at a time: the debug kernel, $REL with coda_rs, controls, and two to compare"
# nomem takes long, and has a guest of its own.
most="modinfo observe close_report syscalls psdev churn storm memory fuzz"
# The longest first.
start debug "coda_rs on the debug kernel (KUnit, KASAN, lockdep, kmemleak)" \
	--kernel debug --module "$OUT/$REL-debug/coda_rs.ko" --extra "$tools/guest/kunit.sh" \
	--timeout 2400 --env "CODA_TESTS=$most" -- bash -c "bash /opt/coda/kunit.sh && exec $main debug"
start test "coda_rs on the stock kernel $REL" \
	--module "$stock" --timeout 2000 --results "$results/test" -- "$main" test
start nomem "coda_rs on the debug kernel, where each allocation fails in turn" --kernel debug --fs ext4 \
	--module "$OUT/$REL-debug/coda_rs.ko" --timeout 3000 --env CODA_TESTS=nomem -- "$main" debug
# The C module's own faults leave traces in the log and are no fault of ours.
start control-c "control: the stock kernel's C module under the same tests" \
	--module coda --timeout 1500 --no-check --results "$results/control-c" -- "$main" control-c
# The other programs say nothing of stores through mappings.
start control-disarmed "control: coda_rs with the page_mkwrite wrapper disarmed, on the stock kernel" \
	--module "$OUT/$REL-disarmed/coda_rs.ko" --timeout 1500 --env "CODA_TESTS=close_report churn storm" \
	-- "$main" control-disarmed
start diff-c "programs and random operations on the stock kernel's C module" \
	--module coda --timeout "$patience" "${long_env[@]}" --mem 3072 --no-check --results "$results/diff-c" \
	-- "$main" diff "${programs[@]}"
start diff-ours "the same on coda_rs" \
	--module "$stock" --timeout "$patience" "${long_env[@]}" --mem 3072 --results "$results/diff-ours" \
	-- "$main" diff "${programs[@]}"
start model "the model of the written flag (spin)"
start wire "the parsers of the module, fuzzed on the host" "$([ -n "$long" ] && echo 50000000 || echo 2000000)"
start cli "the tool coda-rs, with coda_rs on the stock kernel" --module "$stock" --fs "" --timeout 600 \
	--extra "$CACHE/cargo/target/cli/debug/coda-rs" -- "$main" cli
# What a reply costs, by a clock that counts instructions.
start count "coda_rs on the stock kernel, instructions counted" \
	--module "$stock" --icount --timeout 600 --fs "" -- "$main" case psdev outstanding.
# Faults of the C module that the controls cannot show have guests of their own:
# fault, what comes to grief (the case, or perhaps the kernel), how to boot, program
# and case.
declare -A harm
while read -r fault grief how program case; do
	name=fault-$fault-${case##*.}
	case $how in
	stock) args=(--module coda --timeout 150 --env CODA_TIME_SCALE=1) ;;
	icount) args=(--module coda --timeout 300 --icount) ;;
	debug) args=(--module "$CACHE/debug/coda.ko" --timeout 300 --kernel debug) ;;
	esac
	harm[$name]=$grief
	start "$name" "control: the C module's fault $fault, $case" \
		"${args[@]}" --oops --no-check --fs "" -- "$main" case "$program" "$case"
done <<-END
	3 kernel stock psdev lifetime.killed_waiters
	6 kernel stock psdev replies.bad_results
	6 kernel stock psdev replies.short
	7 case debug syscalls tmpfs.no_stray_bytes
	12 case icount psdev outstanding.cost_of_a_reply
END
# What they measure is nobody's business here.
start bench "the benchmarks run" --module "$stock" --fs "" --timeout 600 -- "$main" case bench --rounds 1 --outstanding 100
if [ -n "$long" ]; then
	# An hour of storm on each kernel; half of the file systems are not there on two.
	hours=(--env CODA_TEST_TIMEOUT=5400)
	start storm-stock "an hour of storm on the stock kernel" --module "$stock" --timeout 6000 \
		--env CODA_TESTS=storm --env CODA_STORM=450 "${hours[@]}" -- "$main" test
	start storm-debug "an hour of storm on the debug kernel" --kernel debug \
		--module "$OUT/$REL-debug/coda_rs.ko" --timeout 6000 \
		--env CODA_TESTS=storm --env CODA_STORM=900 "${hours[@]}" -- "$main" debug
	start storm-kcsan "an hour of storm on the kernel with KCSAN" --kernel kcsan \
		--module "$OUT/$REL-kcsan/coda_rs.ko" --timeout 6000 \
		--env CODA_TESTS=storm --env CODA_STORM=900 "${hours[@]}" -- "$main" debug
	start kcsan "coda_rs on the kernel with KCSAN" --kernel kcsan \
		--module "$OUT/$REL-kcsan/coda_rs.ko" --timeout 4000 --env "CODA_TESTS=$most" -- "$main" debug
	start long "coda_rs on the stock kernel, what takes long" --module "$stock" --timeout 6000 \
		--env "CODA_TESTS=psdev modinfo fuzz" --env CODA_LONG=1 --env CODA_FUZZ=1000000 "${hours[@]}" -- "$main" test
	inodes=(--mem 3072 --timeout 3000 --env CODA_INODES=200000 --fs "")
	start memory-c "200,000 files in memory with the stock kernel's C module" --module coda \
		--no-check --results "$results/memory-c" "${inodes[@]}" -- "$main" case memory
	start memory-ours "the same with coda_rs" --module "$stock" \
		--results "$results/memory-ours" "${inodes[@]}" -- "$main" case memory
fi
wait_until_left 0
wait

# less_memory C OURS PERCENT: what files in memory take is no more than with C, but for so much. The
# kernel's own slabs come and go meanwhile: with few files that is much.
less_memory() {
	local c ours what="files in memory take no more than with C"
	read -r _ _ c _ <"$results/$1/memory" && read -r _ _ ours _ <"$results/$2/memory" || {
		wrong "$what: not measured"
		return
	}
	what+=": $ours bytes each, C $c"
	if [ "$ours" -le $((c + c * $3 / 100)) ]; then
		good "$what"
	else
		wrong "$what"
	fi
}
echo "==> Memory"
echo "Memory:" >>"$state/failures"
less_memory control-c test 15
[ -z "$long" ] || less_memory memory-c memory-ours 1

# The selftests left their traces, too; those of psdev and churn depend on time
# and chance.
assemble() { # TO DIFF SELFTESTS
	rm -rf "${results:?}/$1"
	mkdir -p "$results/$1"
	cp -al "$results/$2/." "$results/$1/"
	cp -al "$results/$3/selftests-syscalls" "$results/$3/selftests-close_report" "$results/$1/" ||
		wrong "the selftests left no trace in $3"
}
assemble c diff-c control-c
assemble ours diff-ours test
echo "==> C's module and ours, compared (what each did is in out/results/$DIST)"
echo "C's module and ours, compared:" >>"$state/failures"
in_root "$OUT/tests/$DIST/bin/codadiff" compare "$results/c" "$results/ours" \
	--table "$TOP/Documentation/differences.rst" >"$results/compare" 2>&1 || rc=$?
grep -E '^# .*(known, | times: |: [0-9]+ (calls|objects|upcalls|cases)| lines of trace)|not seen' "$results/compare" | sed 's/^# /    /'
count "$results/compare" "comparisons"
case ${rc:-0} in
0 | 1) [ "$counted" -gt 0 ] || wrong "nothing was compared" ;;
*)
	wrong "the comparison ended with status $rc"
	tail -n 5 "$results/compare" | sed 's/^/      /' | again
	;;
esac

echo
if [ "$failed" -gt 0 ]; then
	echo "What failed:"
	# A title that nothing follows is none's.
	awk '/^ / { if (title) print title; title = ""; print; next } { title = $0 }' "$state/failures"
	echo
fi
if [ "$skipped" -gt 0 ]; then
	echo "$passed passed, $failed failed, $skipped skipped"
else
	echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
