#!/bin/bash
# make docs: Documentation/ as web pages.  A warning is an error: what Sphinx warns
# of is a reference that leads nowhere, or markup that is not what it looks like.
# usage: docs.sh [DIR]      (out/docs)
. "$(dirname "$0")/lib.sh"
to=${1:-$OUT/docs}

rm -rf "$to"
mkdir -p "$to"
in_root sphinx-build -q -n -W --keep-going -b html -d "$to/.doctrees" "$TOP/Documentation" "$to"
rm -rf "$to/.doctrees"
[ -s "$to/index.html" ] || die "Sphinx left no index.html in $to."
