#!/bin/bash
# Runs where there is an apt with lists: prints each kernel of a suite that a module can be
# built for and that can be booted, newest first, as "RELEASE FLAVOUR VERSION": its headers,
# its image and linux-source are there in the same version.
# usage: apt-kernels.sh SUITE
set -euo pipefail
suite=$1
mapfile -t packages < <(apt-cache search --names-only '^linux-(headers|image)-[0-9.]+\+deb[0-9.]+-([a-z]+-)?amd64$|^linux-source-[0-9.]+$' | cut -d' ' -f1)
[ ${#packages[@]} -gt 0 ] || exit 0
apt-cache madison "${packages[@]}" | awk -F'|' -v suite=" $suite/main amd64 " '
	index($3, suite) {
		gsub(/ /, "", $1); gsub(/ /, "", $2)
		have[$1 " " $2] = 1
		if ($1 ~ /^linux-headers-/) headers[$1 " " $2] = 1
	}
	END {
		for (h in headers) {
			split(h, f, " ")
			release = substr(f[1], length("linux-headers-") + 1)
			split(release, v, ".")
			if (!(("linux-image-" release " " f[2]) in have)) continue
			if (!(("linux-source-" v[1] "." v[2] " " f[2]) in have)) continue
			flavour = release
			sub(/^[0-9.]+\+deb[0-9.]+-/, "", flavour)
			print release, flavour, f[2]
		}
	}' | sort -rV -k3,3 -k1,1
