#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Brings a distribution kernel's Rust metadata into being: the headers packages leave
# rust/ out, so the kernel's source is configured as the headers say, and prepared with
# the compilers that built the kernel.  The source and the build directory stay where
# they are, as the build directory remembers both paths.
#
# usage: prepare-tree.sh SOURCE BUILD HEADERS RELEASE JOBS [MAKE ARGUMENTS...]
set -euo pipefail
source=$1 build=$2 headers=$3 release=$4 jobs=$5
shift 5
# "6.12+deb13-amd64": all that follows the version's numbers.
local=${release#"$(echo "$release" | grep -oE '^[0-9.]+')"}
make=(make "$@" "LOCALVERSION=$local" -C "$source" "O=$build")

mkdir -p "$build"
cp "$headers/.config" "$headers/Module.symvers" "$build/"
"${make[@]}" olddefconfig
# The compiler's name may be spelt otherwise; nothing else may differ.
diff <(grep -v '^CONFIG_CC_VERSION_TEXT=' "$headers/.config") \
	<(grep -v '^CONFIG_CC_VERSION_TEXT=' "$build/.config") || {
	echo "the configuration is not the stock kernel's with these compilers"
	exit 1
}
"${make[@]}" -j"$jobs" modules_prepare
cp "$headers/Module.symvers" "$build/"
made=$(cat "$build/include/config/kernel.release")
[ "$made" = "$release" ] || {
	echo "the prepared kernel calls itself $made, not $release"
	exit 1
}
