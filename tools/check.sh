#!/bin/bash
# make check: what can be said of the tree without booting it.
. "$(dirname "$0")/lib.sh"
tools=$TOP/tools

# --fix formats instead of complaining about it, and does no more.
fix=
[ "${1:-}" != --fix ] || fix=1

bash "$tools/prepare.sh"
load_facts
cd "$TOP"
export TERM=dumb CARGO_TERM_COLOR=never
failures=0
logs=$OUT/logs/$DIST
mkdir -p "$logs"

# What git knows of, or would; outside of a repository all that is there.
files() {
	if git rev-parse --git-dir >/dev/null 2>&1; then
		git ls-files -co --exclude-standard -- "$@" | while read -r f; do [ ! -f "$f" ] || echo "$f"; done
	else
		local p
		for p; do
			find . -path ./out -prune -o -path "./tests/target" -prune -o -path ./cli/target -prune -o -type f -path "./${p#./}" -print | sed 's,^\./,,'
		done
	fi
}

# try TITLE COMMAND...: the output is shown if it fails.
try() {
	local title=$1 log
	shift
	log=$logs/check-$(echo "$title" | tr -c 'a-zA-Z0-9\n' '-').log
	printf '%-58s ' "$title" >&2
	if "$@" >"$log" 2>&1 </dev/null; then
		echo ok >&2
	else
		echo FAILED >&2
		sed 's/^/    /' "$log" >&2
		failures=$((failures + 1))
	fi
}

module_fmt() {
	mapfile -t rs < <(files '*.rs' | grep -vE '^(tests|cli)/')
	[ ${#rs[@]} -gt 0 ] || { echo "no .rs files"; return 1; }
	in_root rustfmt --edition 2021 --config-path "$KSRC/.rustfmt.toml" \
		--config skip_children=true ${1:+"$1"} "${rs[@]}" 2>&1 | grep -v '^Warning: can.t set'
	return "${PIPESTATUS[0]}"
}

tests_fmt() {
	local dir
	for dir in tests tests/fuzz tests/profile cli; do
		in_root cargo fmt --manifest-path "$dir/Cargo.toml" --all ${1:+"$1"} || return 1
	done
}

tests_clippy() {
	in_root cargo clippy --manifest-path tests/Cargo.toml --workspace --all-targets --offline -- -D warnings &&
		in_root --setenv CXX clang++ --setenv CARGO_TARGET_DIR "$IN_CACHE/cargo/target/fuzz" -- \
			cargo clippy --manifest-path tests/fuzz/Cargo.toml --workspace --all-targets --offline --locked -- -D warnings &&
		in_root --setenv RUSTFLAGS "" -- \
			cargo clippy --manifest-path tests/profile/Cargo.toml --all-targets --offline --locked -- -D warnings
}

tests_unit() {
	in_root cargo test --manifest-path tests/Cargo.toml --workspace --release --offline
}

in_cli() {
	in_root --setenv CARGO_TARGET_DIR "$IN_CACHE/cargo/target/cli" -- "$@"
}

cli_clippy() {
	in_cli cargo clippy --manifest-path cli/Cargo.toml --all-targets --offline --locked -- -D warnings
}

cli_unit() {
	in_cli cargo test --manifest-path cli/Cargo.toml --offline --locked
}

# A build of its own, from nothing: a warning is printed once only.
module_build() {
	local to=$OUT/check/$1 rc=0
	rm -rf "$to" "$to.log"
	mkdir -p "$to"
	in_root "${KMAKE[@]}" -C "$KBUILD_DIR" "M=$TOP" "MO=$to" -j"$JOBS" "$2" modules >"$to.log" 2>&1 || rc=$?
	cat "$to.log"
	rm -rf "$to"
	[ "$rc" -eq 0 ] || return 1
	! grep -qi '^warning\|[: ]warning:' "$to.log"
}

# What vfs/ is there to prevent does not compile, each for its own reason, which the
# file says.  Kbuild compiles the one that does; the others take its command.
misuse() {
	local f wanted log to=$OUT/check/misuse command bad=0
	rm -rf "$to" "$to.log"
	mkdir -p "$to"
	in_root "${KMAKE[@]}" -C "$KBUILD_DIR" "M=$TOP" "MO=$to" -j"$JOBS" \
		"CODA_RS_MISUSE=$TOP/tests/misuse/compiles.rs" modules >"$to.log" 2>&1 || {
		cat "$to.log"
		return 1
	}
	command=$(crate_command "$to")
	# shellcheck disable=SC2016 # the shells in there are to expand it
	printf '%s\0' tests/misuse/*.rs | in_crate "$to" xargs -0 -n 1 -P "$JOBS" bash -c '
		cd "$2"
		export CODA_RS_MISUSE=$1/$4
		name=${4##*/}
		eval "$3 --emit=metadata=$name.rmeta" >"$name.log" 2>&1
		echo "status $?" >>"$name.log"
	' bash "$TOP" "$to" "$command" || true
	for f in tests/misuse/*.rs; do
		wanted=$(sed -n 's,^//~ ,,p' "$f")
		log=$to/${f##*/}.log
		case $wanted in
		compiles) grep -qx 'status 0' "$log" && continue ;;
		*?*)
			grep -qx 'status 1' "$log" && grep -qF "$wanted" "$log" &&
				! grep '^error' "$log" | grep -vF -e "$wanted" -e 'error: aborting due to' | grep -q . && continue
			;;
		esac
		echo "$f: not as it says"
		grep -E '^(error|warning|status)' "$log" || true
		bad=1
	done
	rm -rf "$to"
	return "$bad"
}

c_style() {
	mapfile -t c < <(files '*.c' '*.h' | grep -v '^tests/')
	[ ${#c[@]} -gt 0 ] || return 0
	local f ignore rc=0
	for f in "${c[@]}"; do
		ignore=SPDX_LICENSE_TAG,FILE_PATH_CHANGES
		# Tracepoints are lists in macros, as in the kernel.
		# And checkpatch takes a pointer to an array for something without a name.
		case $f in
		trace.*) ignore+=,COMPLEX_MACRO,BRACKET_SPACE ;;
		probes.h) ignore+=,FUNCTION_ARGUMENTS ;;
		esac
		in_root perl "$KSRC/scripts/checkpatch.pl" --no-tree --no-summary --terse \
			--ignore "$ignore" -f "$f" || rc=1
	done
	return "$rc"
}

shell_lint() {
	mapfile -t sh < <(
		files '*.sh' '.ci/run' 'tools/*' 'tools/guest/*' 'tests/guest/*' 'dkms/*' 'debian/*' | sort -u |
			while read -r f; do
				[ -f "$f" ] || continue
				case $(head -c 64 "$f" | head -n 1) in
				'#!'*sh* | '# shellcheck shell='*) echo "$f" ;;
				esac
			done
	)
	in_root shellcheck "${sh[@]}"
}

# Coda's logic is safe Rust; what is unsafe is in vfs/.
unsafe_gate() {
	local f bad=0
	while read -r f; do
		if ! grep -q '^#!\[deny(unsafe_code)\]' "$f"; then
			echo "$f: does not say #![deny(unsafe_code)]"
			bad=1
		fi
		# allow(unsafe_code) would undo it, but for vfs/; comments are not code.
		if sed 's,//.*,,' "$f" | awk '
			/allow\([^)]*unsafe_code/ { held = NR ": " $0; next }
			held != "" && /^(pub(\([a-z]+\))? )?mod vfs;/ { held = ""; next }
			held != "" { print held; held = ""; bad = 1 }
			/(^|[^a-z_])unsafe([^a-z_]|$)/ { print NR ": " $0; bad = 1 }
			END { if (held != "") { print held; bad = 1 } exit !bad }'; then
			echo "$f: unsafe outside of vfs/"
			bad=1
		fi
	done < <(files '*.rs' | grep -vE '^(tests|vfs|cli)/')
	return "$bad"
}

# vfs/ knows nothing of Coda.
vfs_gate() {
	! grep -rnE '^[^/]*\b(crate::(wire|upcall|psdev|inode|file|mmap|dir|cnode)|linux/coda)\b' \
		--include='*.rs' --include='*.c' --include='*.h' vfs
}

# Neither a registry's host nor a path of the machine where this was written.
names_gate() {
	local bad=0 f
	while read -r f; do
		case $f in */Cargo.lock | Cargo.lock) continue ;; esac
		if grep -InHE '(deb|ftp|security|snapshot)\.[d]ebian\.(org|net)|(static|index)\.[c]rates\.io|registry\.[n]pmjs|[p]ythonhosted|/[w]ork/(main|shared)|(^|[[:space:]"'\''=:(])/[r]oot/|/[v]ar/tmp/(x|a)/' "$f"; then
			bad=1
		fi
	done < <(files '*' '.*')
	return "$bad"
}

# A page of Documentation/ that is named somewhere is there.  (What is in a folder of
# it is the kernel's.)
pages_exist() {
	local bad=0 f page
	while read -r f; do
		while read -r page; do
			[ -e "$page" ] && continue
			echo "$f: there is no $page"
			bad=1
		done < <(grep -IohE 'Documentation/[A-Za-z0-9_-]+\.(rst|md)' "$f" | sort -u)
	done < <(files '*' '.*')
	return "$bad"
}

if [ "$fix" ]; then
	module_fmt || true
	tests_fmt ""
	exit
fi

try "rustfmt: module" module_fmt --check
try "clippy: module" module_build clippy CLIPPY=1
try "warnings W-1: module" module_build W-1 W=1
try "misuse of vfs does not compile" misuse
try "checkpatch: C" c_style
try "unsafe only in vfs" unsafe_gate
try "vfs knows nothing of Coda" vfs_gate
try "no registry hosts, no paths of a machine" names_gate
try "shellcheck" shell_lint
try "documentation: pages that are named are there" pages_exist
try "documentation builds without a warning" bash "$tools/docs.sh" "$OUT/check/docs"
try "rustdoc: module" bash "$tools/rustdoc.sh" "$OUT/check/rustdoc"
if [ -f tests/Cargo.toml ]; then
	fetch_crates
	try "rustfmt: tests, cli" tests_fmt --check
	try "clippy: tests" tests_clippy
	try "unit tests: tests" tests_unit
	try "clippy: cli" cli_clippy
	try "tests: cli" cli_unit
fi

if [ "$failures" -ne 0 ]; then
	die "make check: $failures of the checks failed."
fi
note "make check: all is well."
