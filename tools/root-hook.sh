#!/bin/bash
# Runs on the host side of mmdebstrap (--customize-hook), as root or in its user
# namespace, when the base of the build root is there: finds the newest kernel
# of the suite that can be built for, and installs the tools that built it.
# usage: root-hook.sh ROOT DIST "PACKAGES..."
set -euo pipefail
root=$1 dist=$2 packages=$3

in_chroot() {
	chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"
}

die() {
	echo "coda_rs: $*" >&2
	exit 1
}

# The base has the mirror; the suite of the kernel is on the same one.
if ! grep -rqs "[ /]$dist main" "$root/etc/apt/sources.list"; then
	sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) [a-z]* main.*/deb \1\2 '"$dist"' main/p' \
		"$root/etc/apt/sources.list" | head -n 1 >"$root/etc/apt/sources.list.d/$dist.list"
fi
in_chroot apt-get update

# Version of a package in this suite, nothing if it is not there.
version_in_suite() {
	in_chroot apt-cache madison "$1" |
		awk -F '|' -v s=" $dist/main " '$3 ~ s { gsub(/ /, "", $2); print $2; exit }'
}

rel='' kver='' debver=''
for headers in $(in_chroot apt-cache search --names-only '^linux-headers-[0-9.]+\+deb[0-9.]+-amd64$' |
	cut -d' ' -f1 | sort -rV); do
	candidate=${headers#linux-headers-}
	debver=$(version_in_suite "$headers")
	kver=$(echo "$candidate" | cut -d. -f1,2)
	[ -n "$debver" ] || continue
	[ "$(version_in_suite "linux-source-$kver")" = "$debver" ] || continue
	[ -n "$(version_in_suite "linux-image-$candidate")" ] || continue
	rel=$candidate
	break
done
[ -n "$rel" ] || die "$dist has no kernel with headers and source of the same version."
echo "kernel: $rel ($debver)"

# The headers first: their .config says which compilers built the kernel.  By
# version and not by "-t $dist", which would take newer libraries along.
in_chroot apt-get install -y --no-install-recommends \
	"linux-headers-$rel=$debver" "linux-source-$kver=$debver"
config=$root/usr/src/linux-headers-$rel/.config
[ -f "$config" ] || die "linux-headers-$rel has no .config."
grep -q '^CONFIG_RUST=y' "$config" || die "the kernel $rel was built without CONFIG_RUST."
gcc=$(sed -n 's/^CONFIG_GCC_VERSION=\([0-9]*\)[0-9]\{4\}$/\1/p' "$config")
[ -n "$gcc" ] || die "$rel was not built with gcc."
rust_text=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"/\1/p' "$config")
rust_want=$(echo "$rust_text" | cut -d' ' -f2)

# shellcheck disable=SC2086 # a list
in_chroot apt-get install -y --no-install-recommends "gcc-$gcc" $packages

rust_have=$(in_chroot rustc --version | cut -d' ' -f2)
if [ "$rust_have" != "$rust_want" ]; then
	# Debian names other versions of the compiler rustc-X.Y.
	alt=rustc-$(echo "$rust_want" | cut -d. -f1,2)
	if in_chroot apt-get install -y --no-install-recommends "$alt" &&
		[ "$(in_chroot "$alt" --version | cut -d' ' -f2)" = "$rust_want" ]; then
		in_chroot ln -sf "/usr/bin/$alt" /usr/local/bin/rustc
	else
		die "$rel was built by $rust_text and $dist now has rustc $rust_have; the suite is between two uploads, try again in a day."
	fi
fi

# What the guest boots; unpacked later.  Packages are split since 7.2:
# linux-image is then an empty one over linux-binary and linux-modules.
mkdir -p "$root/var/cache/coda_rs"
(
	debs=("linux-image-$rel=$debver")
	for p in "linux-binary-$rel" "linux-modules-$rel" "linux-base-$rel"; do
		[ -z "$(version_in_suite "$p")" ] || debs+=("$p=$debver")
	done
	# A directory that apt's own user may write to is not wanted for this.
	in_chroot sh -c 'cd /var/cache/coda_rs && apt-get -o APT::Sandbox::User=root download "$@"' sh "${debs[@]}"
)

# What a kernel is built by; if one of them changes it has to be built again.
tools=$(in_chroot dpkg-query -W -f '${Package}=${Version}\n' \
	"gcc-$gcc" rustc bindgen libclang-dev clang lld pahole | sha256sum | cut -c1-16)

cat >"$root/var/cache/coda_rs/facts" <<END
REL=$rel
KVER=$kver
GCC=$gcc
DEBVER=$debver
LOCALVERSION=${rel#"$(echo "$rel" | grep -oE '^[0-9.]+')"}
RUSTC_TEXT='$rust_text'
TOOLS=$tools
END
in_chroot apt-get clean
rm -rf "$root"/var/lib/apt/lists/*
rm -f "$root/etc/resolv.conf"
: >"$root/etc/resolv.conf"
: >"$root/etc/hosts"
