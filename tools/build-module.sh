#!/bin/bash
# Builds the module against a prepared kernel into out/<release>.
# usage: build-module.sh [stock|debug] [make arguments...]
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
debug)
	build=$IN_CACHE/debug/build
	to=$OUT/$REL-debug
	make=(make LLVM=1)
	;;
*) die "build-module.sh: stock or debug." ;;
esac
[ -z "$variant" ] || to+=-$variant
mkdir -p "$to"
in_root "${make[@]}" -C "$build" "M=$TOP" "MO=$to" -j"$JOBS" \
	${variant:+"CODA_RS_VARIANT=$variant"} modules "$@"
[ -s "$to/coda_rs.ko" ] || die "the build left no coda_rs.ko in $to."
