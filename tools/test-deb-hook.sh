#!/bin/bash
# Runs on the host side of mmdebstrap for tools/test-deb.sh: chooses two kernels of the suite
# and installs the first one, with what somebody has who builds modules for it.
# usage: test-deb-hook.sh ROOT DIST
set -euo pipefail
root=$1 dist=$2
in_chroot() {
	chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"
}
if ! grep -rqs "[ /]$dist main" "$root/etc/apt/sources.list"; then
	sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) [a-z]* main.*/deb \1\2 '"$dist"' main/p' \
		"$root/etc/apt/sources.list" | head -n 1 >"$root/etc/apt/sources.list.d/$dist.list"
fi
in_chroot apt-get update
in_chroot bash /opt/coda-test/apt-kernels.sh "$dist" >"$root/opt/coda-test/all-kernels"
read -r second second_flavour second_version < <(grep ' amd64 ' "$root/opt/coda-test/all-kernels" | head -n 1) || {
	echo "coda_rs: $dist has no kernel with headers, image and source of the same version." >&2
	exit 1
}
read -r first _ first_version < <(
	grep " $second_flavour " "$root/opt/coda-test/all-kernels" | grep -v "^$second " | head -n 1 | grep . ||
		grep -v "^$second " "$root/opt/coda-test/all-kernels" | head -n 1
) || {
	echo "coda_rs: $dist has one kernel alone, so none can be upgraded to." >&2
	exit 1
}
source=$(echo "$first" | cut -d. -f1,2)
in_chroot apt-get install -y --no-install-recommends "linux-base/$dist" "linux-image-$first=$first_version" \
	"linux-headers-$first=$first_version" "linux-source=$first_version" "linux-source-$source=$first_version"
# What a machine with Secure Boot has, and one to play it.
in_chroot apt-get install -y --no-install-recommends shim-signed grub-efi-amd64-signed mokutil ovmf dosfstools mtools
echo "$first $first_version $second $second_version" >"$root/opt/coda-test/kernels"
