#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What DKMS runs to build coda_rs.ko for one kernel, in a copy of the module's source.
#
# Where the kernel's build directory carries Rust metadata, it is used as it is.  Debian's
# headers packages leave it out; then it is made, once for a kernel, from the linux-source
# package of that very kernel, and kept in /var/cache/coda-rs/<release>.
#
# usage: build.sh RELEASE KDIR [JOBS]
#
# /etc/default/coda-rs-dkms may set
#   CODA_RS_DOWNLOAD=no    never let apt fetch a linux-source that is not installed
#   CODA_RS_CACHE=DIR      another place than /var/cache/coda-rs; other things may be in it
set -euo pipefail
export LC_ALL=C.UTF-8
release=$1 kdir=$2 jobs=${3:-}
here=$(cd "$(dirname "$0")" && pwd -P)
top=$(dirname "$here")

CODA_RS_DOWNLOAD=${CODA_RS_DOWNLOAD:-yes}
CODA_RS_CACHE=${CODA_RS_CACHE:-/var/cache/coda-rs}
if [ -r /etc/default/coda-rs-dkms ]; then
	# shellcheck source=/dev/null
	. /etc/default/coda-rs-dkms
fi
began=$SECONDS

# DKMS keeps what is written here for its log.  What a person in front of a terminal has to
# know goes where DKMS itself writes, too.
above=/dev/null
find_above() {
	local pid=$PPID
	while [ "$pid" -gt 1 ] && [ -r "/proc/$pid/comm" ]; do
		if [ "$(cat "/proc/$pid/comm")" = dkms ] &&
			[ "$(readlink "/proc/$pid/fd/2")" != "$(readlink /proc/self/fd/2)" ]; then
			[ ! -w "/proc/$pid/fd/2" ] || above=/proc/$pid/fd/2
			return
		fi
		pid=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
	done
}
find_above
tell() {
	echo "$*"
	{ printf '\n    %s' "$*" >>"$above"; } 2>/dev/null || true
}
die() {
	echo "coda-rs: $*"
	{ printf '\n\ncoda-rs: %s\n' "$*" >>"$above"; } 2>/dev/null || true
	exit 1
}

# shellcheck source=dkms/kdir.sh
. "$here/kdir.sh"

# DKMS names the compiler of the kernel in CC; find_tools finds the same one.
# The others would make Kbuild build what is for tests alone.
unset CC LD KERNEL_CC KERNEL_LD LLVM MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CODA_RS_VARIANT CODA_RS_MISUSE
tool_hint=''

[ "$(uname -m)" = x86_64 ] || die "the machine is $(uname -m); coda_rs knows x86_64 alone."
[ -d "$kdir" ] || die "$kdir is not there: install linux-headers-$release."
kdir=$(cd "$kdir" && pwd -P)
kdir_check_config "$kdir"

# A compilation of the kernel crate takes about a gigabyte.
[ -n "$jobs" ] && [ "$jobs" -gt 0 ] 2>/dev/null || jobs=$(nproc)
memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
[ "$jobs" -le "$memory" ] || jobs=$((memory > 1 ? memory : 1))

# run LOG WHAT COMMAND...: the output goes to LOG; its end is shown, and why it failed is
# told in a sentence, if there is one.
run() {
	local log=$1 what=$2 rc=0
	shift 2
	"$@" >>"$log" 2>&1 </dev/null || rc=$?
	[ "$rc" -ne 0 ] || return 0
	tail -n 40 "$log"
	# The log may be on the full disk itself.
	if tail -n 200 "$log" | grep -q 'No space left on device' ||
		df -Pk "$(dirname "$log")" | awk 'NR == 2 { exit $4 >= 20000 }'; then
		die "the disk is full: making the Rust metadata of $release needs about 1 GB in ${work%/*} while it is at work, and building the module some in /var/lib/dkms."
	fi
	if tail -n 200 "$log" | grep -qE 'Killed|signal: 9|Cannot allocate memory|out of memory'; then
		die "$what for $release ran out of memory; about 2 GB are needed."
	fi
	die "$what for $release failed; the end of its output is above and in DKMS's make.log."
}

version_of() {
	{ dpkg-query -W -f '${db:Status-Status} ${source:Version}\n' "$1" 2>/dev/null || true; } |
		sed -n 's/^\(installed\|unpacked\|half-configured\|triggers-[a-z]*\) //p'
}

# What apt can offer of a compiler of some version: a command to type.
rust_advice() {
	local want=$1 p v cmd=''
	command -v apt-cache >/dev/null || return 0
	for p in rustc libstd-rust-dev rust-src; do
		v=$(apt-cache madison "$p" 2>/dev/null | awk -F'|' -v w="$want+" '{ gsub(/ /, "", $2) } index($2, w) == 1 { print $2; exit }')
		[ -n "$v" ] || return 0
		cmd+=" $p=$v"
	done
	echo "apt-get install --allow-downgrades$cmd"
}

hint_for_rustc() {
	local advice
	advice=$(rust_advice "$1")
	if [ -n "$advice" ]; then
		rustc_hint="install it ($advice), and then: dkms autoinstall -k $release"
	else
		rustc_hint="apt offers no rustc $1 now: install a kernel that was built by the rustc that is here, or that rustc from elsewhere, and then: dkms autoinstall -k $release"
	fi
}

# The tarball of linux-source of the same version as the headers, on standard output.
source_tar() {
	local deb tar=./usr/src/linux-source-$kver.tar.xz
	if [ -n "$source_deb" ]; then
		deb=$source_deb
		# shellcheck disable=SC2016
		dpkg-deb --fsys-tarfile "$deb" | tar -xOf - "$tar"
	else
		cat "/usr/src/linux-source-$kver.tar.xz"
	fi
}

# Sets source_deb to a package file, or to nothing if the installed one is right.
find_source() {
	local have have_text archive
	kver=$(echo "$release" | grep -oE '^[0-9]+\.[0-9]+')
	source_deb=
	have=$(version_of "linux-source-$kver")
	have_text=${have:+only version $have is installed}
	have_text=${have_text:-no version is installed}
	if [ "$have" = "$headers_version" ] && [ -s "/usr/src/linux-source-$kver.tar.xz" ]; then
		return
	fi
	for archive in "/var/cache/apt/archives/linux-source-${kver}_${headers_version//:/%3a}_"*.deb; do
		[ -s "$archive" ] || continue
		source_deb=$archive
		return
	done
	if [ "$CODA_RS_DOWNLOAD" != no ] && command -v apt-get >/dev/null; then
		tell "linux-source-$kver of version $headers_version is wanted and $have_text; apt fetches it for this build"
		rm -rf "$work/deb"
		mkdir -p "$work/deb"
		if (cd "$work/deb" && apt-get -q -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 \
			download "linux-source-$kver=$headers_version" </dev/null); then
			source_deb=$(echo "$work"/deb/linux-source-*.deb)
			[ ! -s "$source_deb" ] || return 0
		fi
		df -Pk "$work" | awk 'NR == 2 { exit $4 < 200000 }' || die "the disk is full: there is no room in $work for linux-source-$kver."
	fi
	die "the headers of $release have no Rust metadata, and it can only be made from linux-source-$kver of version $headers_version, and $have_text: apt-get install linux-source-$kver=$headers_version, and then: dkms autoinstall -k $release"
}

unpack_source() {
	local name=linux-source-$kver dir
	local -a leave=("--exclude=$name/arch/[!x]*.[chS]" "--exclude=$name/arch/xtensa/*.[chS]"
		"--exclude=$name/Documentation/*/*" "--exclude=$name/tools/testing"
		"--exclude=$name/tools/perf" "--exclude=$name/arch/*/configs" "--exclude=*.dts" "--exclude=*.dtsi")
	# Of what is built into the kernel, Kconfig needs its own files, and the bindings
	# headers.  The rest would be a gigabyte.
	for dir in drivers sound fs net crypto mm block; do
		leave+=("--exclude=$name/$dir/*.[cS]")
	done
	for dir in gpu net media staging accel; do
		leave+=("--exclude=$name/drivers/$dir/*.h")
	done
	set -o pipefail
	source_tar | tar -xJ -C "$work" --no-same-owner "${leave[@]}" -f - && mv "$work/$name" "$work/source"
}

# What a module is built with stays; what the kernel's own parts are made of goes.
shrink() {
	local d
	for d in "$work/source"/*; do
		case ${d##*/} in
		arch | include | rust | scripts | Makefile | Kbuild | Kconfig) ;;
		*) rm -rf "$d" ;;
		esac
	done
	find "$work/source/arch" "$work/source/rust" -name '*.[cS]' -delete
	find "$work/build" \( -name '*.o' -o -name '*.a' -o -name '.*.cmd' -o -name '*.rlib' \) -delete
	rm -rf "$work/deb"
}

# Metadata of kernels whose headers are gone is of no use any more.  What has no mark of ours
# belongs to somebody else.
mark=.made-by-coda-rs-dkms
drop_old() {
	local dir
	for dir in "$CODA_RS_CACHE"/*/; do
		dir=${dir%/}
		[ ! -L "$dir" ] && [ -e "$dir/$mark" ] && [ ! -e "/lib/modules/${dir##*/}/build/include" ] || continue
		rm -rf "$dir"
	done
}

# What is in the cache is run by root.
check_cache() {
	case $CODA_RS_CACHE in
	/*) ;;
	*) die "CODA_RS_CACHE=$CODA_RS_CACHE in /etc/default/coda-rs-dkms is no absolute path." ;;
	esac
	(umask 022 && mkdir -p "$CODA_RS_CACHE") || die "there can be no directory $CODA_RS_CACHE."
	[ -z "$(find -H "$CODA_RS_CACHE" -maxdepth 0 \( ! -user "$(id -u)" -o -perm /022 \))" ] ||
		die "$CODA_RS_CACHE has to belong to root, and nobody else may write to it, as what is made there is run by root: chown root, chmod go-w, or name another directory in /etc/default/coda-rs-dkms."
}

make_metadata() {
	local headers_version want key have_kb log src
	headers_version=$(version_of "linux-headers-$release")
	[ -n "$headers_version" ] ||
		die "$kdir has no Rust metadata and does not come from a Debian package, so where its source is cannot be known: prepare it with CONFIG_RUST and 'make rustavailable modules_prepare'."
	want=$(kdir_conf "$kdir" RUSTC_VERSION_TEXT)
	[ -n "$want" ] || die "the .config of linux-headers-$release does not say which rustc built it."
	hint_for_rustc "$(echo "$want" | cut -d' ' -f2)"
	find_rustc "$release" "$want"
	src=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs
	[ -e "$src" ] ||
		die "there is no source of Rust's own library for $rustc ($src): install the package rust-src in the same version as rustc."
	find_tools "$kdir" "$release"

	check_cache
	exec 8>"$CODA_RS_CACHE/.lock"
	if ! flock -n 8; then
		tell "another build is making Rust metadata; waiting for it"
		flock 8
	fi
	drop_old
	key="$headers_version $want $(sha256sum <"$here/prepare-tree.sh" | cut -c1-16)"
	if [ -e "$work/stamp" ] && [ "$(cat "$work/stamp")" = "$key" ]; then
		kdir=$work/build
		return
	fi
	rm -rf "$work"
	mkdir -p "$work"
	: >"$work/$mark"
	# What fails on a full disk is not to keep it full.
	trap 'rm -rf "$work/deb" "$work/source" "$work/build"' EXIT
	log=$work/log
	have_kb=$(df -Pk "$work" | awk 'NR == 2 { print $4 }')
	[ "$have_kb" -ge 1000000 ] ||
		die "making the Rust metadata of $release needs about 1 GB in $CODA_RS_CACHE while it is at work, and there are $((have_kb / 1024)) MB."
	find_source
	tell "making the Rust metadata of $release from its source, once for this kernel (some minutes; log: $log)"
	tell "[$((SECONDS - began)) s] 1 of 3: unpacking linux-source-$kver $headers_version"
	run "$log" "unpacking the source" unpack_source
	rm -rf "$work/deb"
	tell "[$((SECONDS - began)) s] 2 of 3: configuring, and compiling Rust's core library and the kernel crate"
	# Both paths are remembered in it, so it is made in place; the stamp comes last.
	run "$log" "making the Rust metadata" bash "$here/prepare-tree.sh" "$work/source" "$work/build" \
		"$kdir" "$release" "$jobs" "${make_args[@]}"
	shrink
	[ -z "$(kdir_missing_metadata "$work/build")" ] ||
		die "the metadata of $release came out incomplete: $(kdir_missing_metadata "$work/build") is missing; see $log."
	xz -f "$log"
	echo "$key" >"$work/stamp.new"
	mv "$work/stamp.new" "$work/stamp"
	trap - EXIT
	kdir=$work/build
}

work=$CODA_RS_CACHE/$release
if [ -z "$(kdir_missing_metadata "$kdir")" ]; then
	kdir_check_prepared "$kdir"
	built_by=$(kdir_built_by "$kdir")
	hint_for_rustc "$(echo "$built_by" | cut -d' ' -f2)"
	find_rustc "$kdir" "$built_by"
else
	make_metadata
fi
# With the metadata made, its own configuration is the one that counts.
find_tools "$kdir" "$release"
tell "[$((SECONDS - began)) s] $([ "$SECONDS" -lt "$((began + 5))" ] || echo "3 of 3: ")building coda_rs.ko for $release"
run "$top/coda_rs.log" "building the module" \
	make -C "$kdir" "M=$top" -j"$jobs" "${make_args[@]}" modules
cat "$top/coda_rs.log"
[ -s "$top/coda_rs.ko" ] || die "the build left no coda_rs.ko in $top."
tell "[$((SECONDS - began)) s] built"
