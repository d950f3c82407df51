#!/bin/bash
# make KDIR=...: builds the module with this machine's own tools against any
# kernel build directory with Rust metadata.  Says in one sentence what is
# missing, since the compiler's own words for it help nobody.
# usage: build-kdir.sh KDIR      (RUSTC, BINDGEN, CC, LLVM may be set)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd -P)

die() {
	printf 'coda_rs: %s\n' "$*" >&2
	exit 1
}

# shellcheck source=dkms/kdir.sh
. "$top/dkms/kdir.sh"

case $top in
*[![:alnum:]/._+,@~-]*) die "the kernel's makefiles cannot build in $top: move this tree to a path without spaces and other special characters." ;;
esac
[ -d "$1" ] || die "KDIR=$1 is not a directory."
kdir=$(cd "$1" && pwd -P)
kdir_check_config "$kdir"
lacking=$(kdir_missing_metadata "$kdir")
[ -z "$lacking" ] ||
	die "$kdir has no complete Rust metadata (which the headers packages of some distributions leave out): it lacks $lacking."
kdir_check_prepared "$kdir"
rel=$(cat "$kdir/include/config/kernel.release")
IFS=. read -r major minor _ <<<"$rel"
minor=${minor%%[!0-9]*}
[ $((major * 1000 + minor)) -ge 6013 ] ||
	die "$rel is too old: building outside of the source tree needs Linux 6.13."
built_by=$(kdir_built_by "$kdir")
find_rustc "$kdir" "$built_by"
find_tools "$kdir" "$rel"

to=$top/out/$rel
[ -z "${CODA_RS_VARIANT:-}" ] || to+=-$CODA_RS_VARIANT
mkdir -p "$to"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
make -C "$kdir" "M=$top" "MO=$to" -j"$(nproc)" "${make_args[@]}" \
	${CODA_RS_VARIANT:+"CODA_RS_VARIANT=$CODA_RS_VARIANT"} modules
[ -s "$to/coda_rs.ko" ] || die "the build left no coda_rs.ko in $to."
echo "$to/coda_rs.ko"
