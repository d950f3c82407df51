#!/bin/bash
# make install, make uninstall: the module that "make" has built, and what makes the kernel
# choose it, for those without packages.  DESTDIR, KDIR and RELEASE may be set.
# usage: install.sh install|uninstall [KDIR]
#
# It builds nothing, as it is root that runs it: neither the cache nor out/ of somebody else
# is touched.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd -P)
what=$1 kdir=${2:-} dest=${DESTDIR:-}

die() {
	printf 'coda_rs: %s\n' "$*" >&2
	exit 1
}

# Which kernel: the one asked for, that of KDIR, the running one if the module was built for
# it, or else the only one that it was built for.
release=${RELEASE:-}
if [ -z "$release" ] && [ -n "$kdir" ]; then
	[ -e "$kdir/include/config/kernel.release" ] ||
		die "KDIR=$kdir is not a kernel build directory: it has no include/config/kernel.release."
	release=$(cat "$kdir/include/config/kernel.release")
fi
if [ -z "$release" ]; then
	release=$(uname -r)
	if [ ! -e "$top/out/$release/coda_rs.ko" ] && [ "$what" = install ]; then
		built=()
		for ko in "$top"/out/*/coda_rs.ko; do
			[ ! -e "$ko" ] || built+=("$(basename "$(dirname "$ko")")")
		done
		case ${#built[@]} in
		0) die "there is no module in out/: run make (for a stock Debian kernel) or make KDIR=<dir> first, as yourself." ;;
		1) release=${built[0]} ;;
		*) die "the running kernel is $release and the module was built for ${built[*]}: say RELEASE=<one of these>." ;;
		esac
	fi
fi
ko=$top/out/$release/coda_rs.ko
modules=$dest/lib/modules/$release
updates=$modules/updates
# Where the package has its own, out of an administrator's way.
modprobe=$dest/etc/modprobe.d/coda-rs.conf
load=$dest/etc/modules-load.d/coda-rs.conf

# A file of ours, or of an earlier version: its first line is ours.  An administrator may have
# one of that name to have the last word over the package's.
is_ours() {
	local kind
	kind=$(basename "$(dirname "$1")" .d)
	[ "$(head -n 1 "$1")" = "$(head -n 1 "$top/dkms/$kind.conf")" ]
}

writable() {
	local dir=$1
	while [ ! -e "$dir" ]; do
		dir=$(dirname "$dir")
	done
	[ -w "$dir" ] || die "$dir cannot be written: $what as root, or with DESTDIR=<dir>."
}

# Below a DESTDIR there may be the module and nothing else of the kernel.
want_depmod() {
	[ -e "$modules/modules.order" ] || [ -e "$modules/modules.builtin" ]
}
# Before anything is changed.
check_depmod() {
	! want_depmod || PATH=$PATH:/usr/sbin:/sbin command -v depmod >/dev/null || die "there is no depmod here; install kmod."
}
run_depmod() {
	if want_depmod; then
		PATH=$PATH:/usr/sbin:/sbin depmod -b "${dest:-/}" "$release"
	else
		echo "note: depmod was not run, as ${modules#"$dest"} has none of the kernel's own modules in it; run it where they are." >&2
	fi
}

case $what in
install)
	[ -s "$ko" ] || die "there is no out/$release/coda_rs.ko: build it first, as yourself."
	[ -n "$dest" ] || [ -d "$modules" ] ||
		die "the kernel $release is not installed here: there is no $modules."
	if [ -z "$dest" ] && [ -e /usr/lib/modprobe.d/coda-rs.conf ]; then
		die "the package coda-rs-dkms is installed, and does this already: remove it first."
	fi
	for f in "$modprobe" "$load"; do
		[ ! -e "$f" ] || is_ours "$f" || die "$f is there and is none of make install's: move it away first."
	done
	writable "$updates"
	writable "$modprobe"
	check_depmod
	install -D -m 644 "$ko" "$updates/coda_rs.ko"
	install -D -m 644 "$top/dkms/modprobe.conf" "$modprobe"
	install -D -m 644 "$top/dkms/modules-load.conf" "$load"
	run_depmod
	printf '%s\n' "$updates/coda_rs.ko" "$modprobe" "$load"
	if [ -z "$dest" ] && [ "$release" = "$(uname -r)" ] && [ -d /sys/module/coda ]; then
		echo "The C module is loaded: stop the cache manager, unmount Coda, and: modprobe -r coda; modprobe coda_rs"
	fi
	;;
uninstall)
	found=
	for f in "$dest"/lib/modules/*/updates/coda_rs.ko; do
		[ -z "${RELEASE:-}$kdir" ] || [ "$f" = "$updates/coda_rs.ko" ] || continue
		[ -e "$f" ] || continue
		release=$(basename "${f%/updates/coda_rs.ko}")
		modules=$dest/lib/modules/$release
		writable "$(dirname "$f")"
		check_depmod
		rm -f "$f"
		echo "removed $f"
		rmdir --ignore-fail-on-non-empty "$modules/updates"
		run_depmod
		found=1
	done
	# They are about all kernels.
	for f in "$dest"/lib/modules/*/updates/coda_rs.ko; do
		[ ! -e "$f" ] || exit 0
	done
	for f in "$modprobe" "$load"; do
		[ -e "$f" ] || continue
		is_ours "$f" || {
			echo "note: $f is left alone, as it is none of make install's." >&2
			continue
		}
		writable "$(dirname "$f")"
		rm -f "$f"
		echo "removed $f"
		found=1
	done
	[ "$found" ] || die "nothing is installed${dest:+ below $dest}."
	;;
*) die "install.sh: install or uninstall." ;;
esac
