#!/bin/bash
# Builds the module against a prepared kernel into out/<release>.
# usage: build-module.sh [stock|debug|kcsan] [make arguments...]
# CODA_RS_VARIANT=disarmed in the environment builds the negative control of the
# tests into out/<release>-disarmed.
. "$(dirname "$0")/lib.sh"
load_facts

kind=${1:-stock}
[ $# -eq 0 ] || shift
variant=${CODA_RS_VARIANT:-}
case $kind in
stock)
	build=$KBUILD_DIR
	to=$OUT/$REL
	make=("${KMAKE[@]}")
	;;
debug | kcsan)
	build=$IN_CACHE/$kind/build
	to=$OUT/$REL-$kind
	make=(make LLVM=1)
	;;
*) die "build-module.sh: stock, debug or kcsan." ;;
esac
[ -z "$variant" ] || to+=-$variant
mkdir -p "$to"
in_root "${make[@]}" -C "$build" "M=$TOP" "MO=$to" -j"$JOBS" \
	${variant:+"CODA_RS_VARIANT=$variant"} modules "$@"
# The kernel's flags have to have got through to the compiler of Rust.
[ "$kind" != kcsan ] || in_root nm "$to/coda_rs_crate.o" | grep -c ' __tsan_write' >/dev/null ||
	die "the module for the kernel with KCSAN has no instrumentation."
[ -s "$to/coda_rs.ko" ] || die "the build left no coda_rs.ko in $to."
