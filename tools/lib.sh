# shellcheck shell=bash
# Common ground of the scripts in tools/: messages, progress, the cache and the
# build root.  Sourced, never run.
#
# What is kept between runs lives outside the tree, in
#   ${XDG_CACHE_HOME:-~/.cache}/coda_rs/<dist>/
#     root/        a Debian of that suite with every tool a build or a boot needs
#     kernel/      linux-source, a prepared build directory, the stock image
#     guest/       the guest's root file system and first stage
#     debug/       the kernel with KUnit, KASAN and lockdep
#     kcsan/       the kernel with KCSAN
#     deb/         a root to build packages in, and what make test-deb boots
#     matrix/      what make matrix builds with and boots
#     cargo/       crates and the target directories of tests/ and cli/
# Everything there is made under another name and renamed when it is complete,
# so that an interrupted run is simply run again.

set -euo pipefail
export LC_ALL=C.UTF-8

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034 # used by those who source this
OUT=$TOP/out
DIST=${DIST:-trixie-backports}
JOBS=${JOBS:-$(nproc)}

die() {
	printf 'coda_rs: %s\n' "$*" >&2
	exit 1
}

note() {
	printf '%s\n' "$*" >&2
}

# What make and the kernel's makefiles take a path for.
case $TOP in
*[![:alnum:]/._+,@~-]*) die "the kernel's makefiles cannot build in $TOP: move this tree to a path without spaces and other special characters." ;;
esac
case $JOBS in
'' | *[!0-9]* | 0*) die "JOBS=$JOBS is not a number of jobs." ;;
esac

case $DIST in
trixie-backports) BASE=trixie ;;
forky) BASE=forky ;;
*) die "DIST=$DIST is not known; it is trixie-backports or forky." ;;
esac

# A relative XDG_CACHE_HOME is to be ignored, says its specification.
case ${XDG_CACHE_HOME:-} in
/*) CACHE_TOP=$XDG_CACHE_HOME/coda_rs ;;
*)
	[ -n "${HOME:-}" ] || die "neither HOME nor XDG_CACHE_HOME is set; one of them has to say where to keep the cache."
	CACHE_TOP=$HOME/.cache/coda_rs
	;;
esac
CACHE=$CACHE_TOP/$DIST
ROOT=$CACHE/root

# The cache, as it is seen from inside the build root.  The path is fixed, since
# a prepared kernel build directory remembers where it is.
IN_CACHE=/k

# mtime-free identity of some files or strings: what a stamp is compared with.
hash_of() {
	sha256sum "$@" | sha256sum | cut -c1-16
}

# fresh STAMP KEY: was the thing behind STAMP made from what KEY says?
fresh() {
	[ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

put_stamp() {
	printf '%s\n' "$2" >"$1.tmp$$"
	mv -f "$1.tmp$$" "$1"
}

mmss() {
	printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}

interrupted() {
	[ ! -t 2 ] || printf '\r\033[K' >&2
	note "coda_rs: interrupted: $1. Run the same command again to go on."
	exit 130
}

# MB that are left where DIR is.
space_in() {
	df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'
}

# need_space DIR MB WHAT
need_space() {
	local free
	free=$(space_in "$1")
	[ "$free" -ge "$2" ] ||
		die "$1 needs up to $(gb "$2") GB more, and $(gb "$free") GB are left there ($3)."
}

gb() {
	echo "$(($1 / 1024)).$(($1 % 1024 * 10 / 1024))"
}

# The two causes that come from outside: what a tool says of a full disk may be long past in
# its output, or nothing.
tell_why() {
	local dir free full='' left=''
	! grep -qis 'no space left on device\|disk quota exceeded' "$1" || full=1
	for dir in "$CACHE" "$OUT" "${TMPDIR:-/var/tmp}"; do
		[ -d "$dir" ] || continue
		free=$(space_in "$dir")
		[ "$free" -ge 100 ] || full=1
		left+="${left:+, }$free MB in $dir"
	done
	if [ "$full" ]; then
		note "coda_rs: a disk is full, or was: $left are left. After making room the same command goes on."
	elif grep -qis "failure resolving\|could not resolve\|couldn't resolve\|could not connect\|couldn't connect\|network is unreachable" "$1"; then
		note "coda_rs: the network, or the mirror, could not be reached. The same command tries again."
	fi
}

# step LOG TITLE COMMAND...: runs a long command with its output in LOG.  Shows
# on a terminal one line that is alive (elapsed time and the last line of the
# output), elsewhere a plain line each 20 seconds.
step() {
	local log=$1 title=$2 pid rc=0 began=$SECONDS last shown=0 cols
	shift 2
	mkdir -p "$(dirname "$log")"
	: >"$log"
	if [ -t 2 ]; then
		cols=$(tput cols 2>/dev/null || echo 80)
	else
		note "==> $title"
	fi
	# In a process group of its own, so that all of it can be ended.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	# shellcheck disable=SC2064 # the pid is meant to be fixed now
	trap "kill -- -$pid 2>/dev/null || true; wait $pid 2>/dev/null || true; interrupted $(printf %q "$title")" INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.3
		if [ -t 2 ]; then
			last=$(tail -c 400 "$log" | tr '\r' '\n' | sed '/^[[:space:]]*$/d' | tail -n 1 | tr -cd '[:print:]')
			printf '\r\033[K%.*s' $((cols - 1)) "[$(mmss $((SECONDS - began)))] $title: $last" >&2
		elif [ $((SECONDS - began - shown)) -ge 20 ]; then
			shown=$((SECONDS - began))
			last=$(tail -c 400 "$log" | tr '\r' '\n' | sed '/^[[:space:]]*$/d' | tail -n 1 | tr -cd '[:print:]')
			note "    [$(mmss $shown)] ${last:0:100}"
		fi
	done
	wait "$pid" || rc=$?
	trap - INT TERM
	[ -t 2 ] && printf '\r\033[K' >&2
	if [ "$rc" -ne 0 ]; then
		tail -n 25 "$log" >&2
		tell_why "$log"
		die "$title: failed (status $rc); all of its output is in $log."
	fi
	if [ -t 2 ]; then
		note "[$(mmss $((SECONDS - began)))] $title: done"
	else
		note "    [$(mmss $((SECONDS - began)))] done"
	fi
}

# need_host_packages: what must be on this machine itself; all else is in the
# build root.  Asks for root at most once, with the reason.
need_host_packages() {
	local missing=() cmd pkg reason by_hand
	for cmd in mmdebstrap:mmdebstrap bwrap:bubblewrap; do
		pkg=${cmd#*:}
		command -v "${cmd%%:*}" >/dev/null || missing+=("$pkg")
	done
	if [ "$(id -u)" -ne 0 ]; then
		command -v newuidmap >/dev/null || missing+=(uidmap)
	fi
	[ -s /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
	[ ${#missing[@]} -eq 0 ] && return
	reason="the package(s) ${missing[*]} are needed, to make a build root of Debian $BASE"
	by_hand="As root: apt-get update; apt-get install ${missing[*]}"
	command -v apt-get >/dev/null ||
		die "$reason, and this machine has no apt-get: install them by hand."
	local -a as_root=()
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null ||
			die "$reason, and there is no sudo. $by_hand"
		as_root=(sudo)
		if [ ! -t 0 ]; then
			sudo -n true 2>/dev/null ||
				die "$reason, and sudo wants a password but there is no terminal. $by_hand"
		else
			note "coda_rs: $reason; installing them."
			sudo -p "[sudo] password for %u, to install ${missing[*]}: " true ||
				die "sudo refused. $by_hand"
		fi
	fi
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
		"${missing[@]}" >&2 </dev/null ||
		die "apt-get could not install ${missing[*]} (is there a network?); the same command tries again."
}

# need_namespaces: what mmdebstrap and bwrap take when it is an ordinary user who runs them.
need_namespaces() {
	local user why
	[ "$(id -u)" -ne 0 ] || return 0
	user=$(id -un)
	{ grep -qsE "^($user|$(id -u)):" /etc/subuid && grep -qsE "^($user|$(id -u)):" /etc/subgid; } ||
		die "$user has no further user IDs in /etc/subuid and /etc/subgid, as making a root file system takes. As root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
	why=$({ mmdebstrap --unshare-helper true && bwrap --unshare-user --ro-bind / / true; } 2>&1) ||
		die "an ordinary user cannot make a user namespace on this machine: $(echo "$why" | grep -v '^[EI: ]*$' | head -n 1).
It may be forbidden by the sysctls kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns or user.max_user_namespaces, or newuidmap is not set-uid; or run it as root."
}

# in_scratch NAME COMMAND...: with a TMPDIR for mmdebstrap.  /tmp may be a small tmpfs, and
# the other user IDs of an ordinary user's namespace may not get into his home.  They own
# what a run that was killed leaves there, which is removed the next time.
in_scratch() {
	local link=$CACHE/scratch-$1
	shift
	need_namespaces
	remove_scratch "$link"
	TMPDIR=$(mktemp -d /var/tmp/coda_rs.XXXXXX)
	ln -s "$TMPDIR" "$link"
	chmod 755 "$TMPDIR"
	[ "$(id -u)" -eq 0 ] || need_space "$TMPDIR" 3072 "a root file system is made there"
	export TMPDIR
	"$@"
	unset TMPDIR
	remove_scratch "$link"
}

remove_scratch() {
	local link dir
	for link; do
		[ -L "$link" ] || continue
		dir=$(readlink "$link")
		if [ -O "$dir" ]; then
			[ "$(id -u)" -eq 0 ] || mmdebstrap --unshare-helper rm -rf "$dir"/* 2>/dev/null || true
			remove "$dir"
		fi
		rm -f "$link"
	done
}

# make_debian ROOT KEY LOG TITLE OPTION...: a root file system of Debian $BASE, unless the one
# that is there was made from the same KEY; the options are mmdebstrap's.  prepare-root.sh has
# the reasons for those that are here.
make_debian() {
	local root=$1 key=$2 log=$3 title=$4
	shift 4
	! fresh "$root.stamp" "$key" || return 0
	need_host_packages
	remove "$root.new"
	rm -f "$root.tar" "$root.stamp"
	mkdir -p "${root%/*}"
	in_scratch "$(basename "${root%/*}")" step "$log" "$title" debian_into "$root" "$@"
	remove "$root"
	mv "$root.new" "$root"
	put_stamp "$root.stamp" "$key"
}

debian_into() {
	local root=$1 mode=unshare out=$1.tar
	shift
	if [ "$(id -u)" -eq 0 ]; then
		mode=root out=$root.new
	fi
	mmdebstrap --mode=$mode --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt=force-unsafe-io "$@" "$BASE" "$out"
	[ "$mode" = unshare ] || return 0
	mkdir -p "$root.new"
	tar -C "$root.new" --checkpoint=20000 --checkpoint-action="echo=%T" --exclude='./dev/*' --no-same-owner -xf "$out"
	rm "$out"
}

# vmlinuz_in TREE RELEASE: where a kernel's image is, as seen from TREE; packages have it in
# one place or in another.
vmlinuz_in() {
	local path
	for path in "boot/vmlinuz-$2" "usr/lib/modules/$2/vmlinuz"; do
		if [ -s "$1/$path" ]; then
			echo "$path"
			return
		fi
	done
	echo "there is no vmlinuz of $2 in $1" >&2
	return 1
}

# Sets accel, and accel_args for QEMU.
# shellcheck disable=SC2034 # for those who call it
choose_accel() {
	accel=$(bash "$TOP/tools/accel.sh")
	accel_args=(-accel "$accel")
	[ "$accel" = kvm ] || accel_args=(-accel "tcg,thread=multi,tb-size=512")
}

# in_root [bwrap options --] COMMAND...: runs a command in the build root, with
# this tree at its own path and the cache of this DIST at $IN_CACHE.  Nothing of
# the environment gets in but what reaching a registry may need.
in_root() {
	local -a opt=() env=()
	local v
	if [[ ${1:-} == --* ]]; then
		while [ "$1" != -- ]; do
			opt+=("$1")
			shift
		done
		shift
	fi
	[ "$(id -u)" -eq 0 ] || env+=(--unshare-user --uid 0 --gid 0)
	for v in $(compgen -e | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|SSL_CERT_FILE|CARGO_(HTTP|NET|SOURCE|REGISTR|TERM)[A-Z_]*|TERM|CI|CODA_RS_[A-Z_]*)$'); do
		env+=(--setenv "$v" "${!v}")
	done
	if [ -n "${SSL_CERT_FILE:-}" ]; then
		env+=(--ro-bind-try "$SSL_CERT_FILE" "$SSL_CERT_FILE")
	fi
	bwrap --bind "$ROOT" / --dev /dev --proc /proc --tmpfs /tmp --tmpfs /run \
		--ro-bind-try /etc/resolv.conf /etc/resolv.conf \
		--ro-bind-try /etc/hosts /etc/hosts \
		--ro-bind-try /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt \
		--bind "$CACHE" "$IN_CACHE" --bind "$TOP" "$TOP" \
		--die-with-parent --unshare-pid --unshare-ipc --unshare-uts --hostname coda-build \
		--clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		--setenv HOME "$IN_CACHE/home" --setenv LC_ALL C.UTF-8 --setenv TMPDIR /tmp \
		--setenv CARGO_HOME "$IN_CACHE/cargo/home" --setenv CARGO_TARGET_DIR "$IN_CACHE/cargo/target" \
		"${env[@]}" --chdir "$TOP" "${opt[@]}" "$@"
}

# remove DIR...: removes what an interrupted run may have left /proc and /sys
# mounted in, and nothing that is mounted there.
remove() {
	local dir m
	for dir; do
		while read -r m; do
			umount -l "$m" 2>/dev/null || true
		done < <(awk -v d="$dir/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r)
		rm -rf --one-file-system "$dir"
	done
}

# The facts of the kernel that the build root was made for: REL (the release),
# KVER (X.Y), GCC (major version), DEBVER (package version).
load_facts() {
	# shellcheck source=/dev/null
	. "$CACHE/facts"
	KSRC=$IN_CACHE/kernel/$REL/linux-source-$KVER
	KBUILD_DIR=$IN_CACHE/kernel/$REL/build
	KMAKE=(make "CC=gcc-$GCC" "HOSTCC=gcc-$GCC" "LOCALVERSION=$LOCALVERSION")
	export KSRC KBUILD_DIR KMAKE
}

# How Kbuild has compiled the module's crate in DIR, but for what was to come out of it.
crate_command() {
	sed -n 's/^savedcmd_coda_rs_crate\.o := //p' "$1/.coda_rs_crate.o.cmd" |
		sed 's/ --out-dir [^ ]*//; s/ --emit=[^ ]*//g'
}

# in_crate DIR COMMAND...: in the build root, for such a command: with what the crate
# includes, as Kbuild has made it in DIR.
in_crate() {
	local dir=$1
	shift
	in_root --setenv RUSTC_BOOTSTRAP 1 \
		--setenv CODA_RS_BINDINGS "$dir/vfs/bindings_generated.rs" \
		--setenv CODA_RS_WIRE "$dir/wire_generated.rs" \
		--setenv CODA_RS_PROBES "$dir/probes_generated.rs" -- "$@"
}

# The crates of tests/, tests/fuzz/ and cli/, when a Cargo.lock names others than the last
# time.
fetch_crates() {
	local dir lock locked key
	for dir in tests tests/fuzz cli; do
		lock=$TOP/$dir/Cargo.lock locked=() key=none
		[ -f "$TOP/$dir/Cargo.toml" ] || continue
		if [ -f "$lock" ]; then
			locked=(--locked)
			key=$(hash_of "$lock")
		fi
		if [ ! -e "$CACHE/cargo/fetched-$key" ]; then
			step "$CACHE/log/fetch.log" "Fetching the crates of $dir/" \
				in_root cargo fetch --manifest-path "$dir/Cargo.toml" "${locked[@]}"
			mkdir -p "$CACHE/cargo"
			: >"$CACHE/cargo/fetched-$(hash_of "$lock")"
		fi
	done
}

# cargo-fuzz, which Debian has no package of.
fetch_fuzzer() {
	local version=0.13.1
	if [ ! -x "$CACHE/cargo/home/bin/cargo-fuzz" ] || ! fresh "$CACHE/cargo/fuzzer.stamp" "$version"; then
		step "$CACHE/log/fuzzer.log" "Building cargo-fuzz" \
			in_root cargo install --locked --version "$version" cargo-fuzz
		put_stamp "$CACHE/cargo/fuzzer.stamp" "$version"
	fi
}

# One preparation of a DIST at a time; a second one waits for the first.
lock_cache() {
	mkdir -p "$CACHE" 2>/dev/null && [ -w "$CACHE" ] ||
		die "the cache cannot be kept in $CACHE, which cannot be made or written; XDG_CACHE_HOME can name another place."
	exec 9>"$CACHE/lock"
	if ! flock -n 9; then
		note "Another run is preparing $DIST; waiting for it."
		flock 9
	fi
}

unlock_cache() {
	exec 9>&-
}
