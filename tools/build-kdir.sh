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

[ -d "$1" ] || die "KDIR=$1 is not a directory."
kdir=$(cd "$1" && pwd -P)

[ -e "$kdir/Makefile" ] || die "$kdir is not a kernel build directory: it has no Makefile."
[ -e "$kdir/.config" ] || die "$kdir is not configured: it has no .config."
conf() {
	sed -n "s/^CONFIG_$1=//p" "$kdir/.config" | tr -d '"'
}
[ "$(conf MODULES)" = y ] || die "$kdir is configured without CONFIG_MODULES."
[ "$(conf RUST)" = y ] || die "$kdir is configured without CONFIG_RUST, so no module in Rust can be built against it."

missing=()
for f in libcore libcompiler_builtins libffi libbindings libuapi libbuild_error libpin_init libkernel; do
	[ -e "$kdir/rust/$f.rmeta" ] || missing+=("rust/$f.rmeta")
done
[ -e "$kdir/rust/libmacros.so" ] || missing+=(rust/libmacros.so)
[ ${#missing[@]} -lt 9 ] || missing=("rust/*.rmeta and rust/libmacros.so")
[ ${#missing[@]} -eq 0 ] ||
	die "$kdir has no complete Rust metadata (which the headers packages of some distributions leave out): it lacks ${missing[*]}."

for f in include/config/auto.conf include/generated/autoconf.h include/generated/rustc_cfg \
	include/config/kernel.release Module.symvers scripts/mod/modpost scripts/module.lds; do
	[ -e "$kdir/$f" ] || missing+=("$f")
done
[ "$(conf OBJTOOL)" != y ] || [ -x "$kdir/tools/objtool/objtool" ] || missing+=(tools/objtool/objtool)
[ ${#missing[@]} -eq 0 ] ||
	die "$kdir is not prepared for building modules (make modules_prepare): it lacks ${missing[*]}."
rel=$(cat "$kdir/include/config/kernel.release")
IFS=. read -r major minor _ <<<"$rel"
minor=${minor%%[!0-9]*}
[ $((major * 1000 + minor)) -ge 6013 ] ||
	die "$rel is too old: building outside of the source tree needs Linux 6.13."

# The compiler that made the metadata is the one that can read it.  The config
# may have been made by another one since.
built_by=$(head -c 4096 "$kdir/rust/libkernel.rmeta" | grep -aoE -m 1 'rustc [0-9]+\.[0-9]+\.[0-9]+[^ ]* \([0-9a-f]+ [0-9-]+\)' | head -n 1 || true)
[ -n "$built_by" ] || built_by=$(head -c 4096 "$kdir/rust/libkernel.rmeta" | grep -aoE -m 1 'rustc [0-9]+\.[0-9]+\.[0-9]+[-a-z.0-9]*' | head -n 1 || true)
[ -n "$built_by" ] || die "$kdir/rust/libkernel.rmeta does not say which rustc made it."
in_config=$(conf RUSTC_VERSION_TEXT)
case $in_config in
"$built_by"*) ;;
*) echo "note: the Rust metadata was made by $built_by, though .config says ${in_config:-nothing}; going by the metadata." >&2 ;;
esac
version=$(echo "$built_by" | cut -d' ' -f2)

matches() {
	case "$("$1" --version 2>/dev/null)" in
	"$built_by"*) return 0 ;;
	esac
	return 1
}
rustc=
tried=()
candidates=(rustc "rustc-${version%.*}" "rustc-$version" "/usr/lib/rust-${version%.*}/bin/rustc"
	"$HOME/.rustup/toolchains/$version-x86_64-unknown-linux-gnu/bin/rustc")
[ -z "${RUSTC:-}" ] || candidates=("$RUSTC")
for c in "${candidates[@]}"; do
	command -v "$c" >/dev/null 2>&1 || continue
	if matches "$c"; then
		rustc=$c
		break
	fi
	tried+=("$c is $("$c" --version 2>/dev/null | head -n 1 | cut -d' ' -f2 | grep . || echo none that works)")
done
if [ -z "$rustc" ]; then
	if [ ${#tried[@]} -eq 0 ]; then
		die "$kdir was made by $built_by and there is no rustc here; install that one, or name it with RUSTC=."
	fi
	die "$kdir was made by $built_by, and only that one can build for it, but $(printf '%s; ' "${tried[@]}" | sed 's/; $//'); install it, or name it with RUSTC=."
fi

bindgen=${BINDGEN:-bindgen}
command -v "$bindgen" >/dev/null || die "there is no bindgen here; install it, or name it with BINDGEN=."
args=("RUSTC=$rustc" "BINDGEN=$bindgen")
if [ -n "${LLVM:-}" ]; then
	args+=("LLVM=$LLVM")
elif [ "$(conf CC_IS_CLANG)" = y ]; then
	command -v clang >/dev/null || die "$rel was built with clang and there is none here; install it, or name it with LLVM=."
	args+=(LLVM=1)
elif [ -n "${CC:-}" ] && [ "$CC" != cc ]; then
	args+=("CC=$CC")
else
	gcc=gcc-$(($(conf GCC_VERSION) / 10000))
	if command -v "$gcc" >/dev/null; then
		args+=("CC=$gcc")
	else
		command -v gcc >/dev/null || die "$rel was built with $gcc and there is no gcc here; install it, or name it with CC=."
	fi
fi

to=$top/out/$rel
[ -z "${CODA_RS_VARIANT:-}" ] || to+=-$CODA_RS_VARIANT
mkdir -p "$to"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
make -C "$kdir" "M=$top" "MO=$to" -j"$(nproc)" "${args[@]}" \
	${CODA_RS_VARIANT:+"CODA_RS_VARIANT=$CODA_RS_VARIANT"} modules
[ -s "$to/coda_rs.ko" ] || die "the build left no coda_rs.ko in $to."
echo "$to/coda_rs.ko"
